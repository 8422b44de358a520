//! `cargo bench`: what bellhop costs, measured at a real daemon through its control socket.
//!
//! ```text
//! cargo bench                          everything, in less than four minutes
//! cargo bench -- --quick               the same with small numbers
//! cargo bench -- turn idle             only the measurements with such a word in their name
//! cargo bench -- hub                   agents of a hub; only when it is named (or one of them: hub-turn, …)
//! cargo bench -- control              being at a hub's command; only when it is named
//! cargo bench -- soak                  a hundred thousand turns; only when it is named
//! cargo bench -- --json FILE           also as JSON (or BELLHOP_BENCH_JSON=FILE)
//! BELLHOP_BENCH_DAEMON=PATH            measure this binary in place of the one just built
//! ```
//!
//! The agent CLI of the turns is this very program, started with Claude Code's arguments: see [`fake`].

mod accept;
mod control;
mod conversations;
mod daemon;
mod fake;
mod hub;
mod idle;
mod loopback;
mod one_lane;
mod proc_fs;
mod report;
mod soak;
mod start;
mod stats;
mod turn;

use std::path::PathBuf;
use std::process::ExitCode;

use report::Report;

/// What a measurement may fail with; it is printed and ends the run.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How much is measured.
#[derive(Clone, Copy)]
struct Scale {
    quick: bool,
}

impl Scale {
    /// `full`, or less with `--quick`.
    fn of(self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

type Measure = fn(Scale, &mut Report) -> Result<(), Failure>;

const MEASURES: [(&str, Measure); 6] = [
    ("turn", turn::measure),
    ("accept", accept::measure),
    ("one-conversation", one_lane::measure),
    ("start", start::measure),
    ("idle", idle::measure),
    ("conversations", conversations::measure),
];

/// Agents of a hub: only when they are named.
const HUB: [(&str, Measure); 7] = [
    ("hub-turn", hub::turn),
    ("hub-throughput", hub::throughput),
    ("hub-start", hub::start),
    ("hub-idle", hub::idle),
    ("hub-drop", hub::dropped),
    ("hub-half-open", hub::half_open),
    ("hub-kill", hub::kill),
];

/// The hub's frames: only when they are named.
const CONTROL: [(&str, Measure); 3] =
    [("control-start", control::start), ("control-frames", control::frames), ("control-provision", control::provision)];

/// Takes too long to belong to everything: only its own name selects it.
const SOAK: (&str, Measure) = ("soak", soak::measure);

struct Options {
    scale: Scale,
    json: Option<PathBuf>,
    words: Vec<String>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if fake::is_meant(&args) {
        return fake::run(&args);
    }
    let done = options(args).and_then(run);
    if let Err(error) = done {
        eprintln!("bench: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn options(args: Vec<String>) -> Result<Options, Failure> {
    // `cargo test --benches` starts this without `--bench`: then it only has to work.
    let quick = !args.iter().any(|a| a == "--bench") || args.iter().any(|a| a == "--quick");
    let json = std::env::var_os("BELLHOP_BENCH_JSON").map(PathBuf::from);
    let mut options = Options { scale: Scale { quick }, json, words: Vec::new() };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" | "--quick" => {}
            "--json" => options.json = Some(args.next().ok_or("--json needs a file")?.into()),
            word if word.starts_with('-') => return Err(format!("there is no option {word}").into()),
            _ => options.words.push(arg),
        }
    }
    Ok(options)
}

fn run(options: Options) -> Result<(), Failure> {
    let soak = options.words.iter().any(|w| w == SOAK.0);
    let wanted = |name: &str| options.words.is_empty() || options.words.iter().any(|w| name.contains(w.as_str()));
    let begins = |w: &str| w.starts_with("hub") || w.starts_with("control");
    let named = |name: &str| options.words.iter().any(|w| begins(w) && name.starts_with(w.as_str()));
    let names: Vec<&str> = MEASURES.iter().chain(&HUB).chain(&CONTROL).chain([&SOAK]).map(|(name, _)| *name).collect();
    let special = || HUB.iter().chain(&CONTROL).filter(|(name, _)| named(name));
    if !soak && !MEASURES.iter().any(|(name, _)| wanted(name)) && special().next().is_none() {
        return Err(format!("nothing is called so; there are: {}", names.join(", ")).into());
    }
    let mut report = Report::begin(options.scale.quick);
    for (_, measure) in MEASURES.iter().filter(|(name, _)| wanted(name)) {
        measure(options.scale, &mut report)?;
    }
    for (_, measure) in special() {
        measure(options.scale, &mut report)?;
    }
    if soak {
        SOAK.1(options.scale, &mut report)?;
    }
    match options.json {
        Some(file) => report.write(&file),
        None => Ok(()),
    }
}
