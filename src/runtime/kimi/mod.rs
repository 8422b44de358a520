//! `kimi-cli`: two programs of one name, told apart by what they say about themselves.
//!
//! The older one (Python, 1.x) makes a session under any id it is given. The newer one (2.x) chooses the id
//! and prints it with its last event, and rejects most of the older one's flags.

mod events;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{SHA256, digest};

pub use events::{Event, Parser};

use crate::crypto::hex;
use crate::engine::cancel::CancelToken;
use crate::engine::ports::{ErrorClass, RunRequest, Thrown};
use crate::message::TrustLevel;
use crate::runtime::context_file::{self, Held, private_dir};
use crate::runtime::environ::Changes;
use crate::runtime::ndjson::{Arg, Cli, Launch, StreamParser};
use crate::runtime::process::Stdin;
use crate::runtime::prompt_text::{self, MAX_ARGUMENT};
use crate::runtime::resolve::Resolved;
use crate::runtime::settings::RuntimeSettings;
use crate::runtime::version::Answers;
use crate::runtime::{descriptor, extra_args, reminder, resolve};

/// Registered id.
pub const ID: &str = "kimi-cli";

/// Which of the two programs is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// 1.x.
    Legacy {
        /// It takes `--work-dir`.
        work_dir: bool,
    },
    /// 2.x.
    Modern,
}

impl Flavour {
    /// From the text of `--help`, and where there is none from the version.
    pub fn of(help: Option<&str>, version: Option<&str>) -> Self {
        if let Some(help) = help.filter(|help| !help.is_empty()) {
            let legacy = Self::Legacy { work_dir: has_flag(help, "--work-dir") };
            return if has_flag(help, "--print") { legacy } else { Self::Modern };
        }
        let digits =
            |text: &str| text.split(|c: char| !c.is_ascii_digit()).find(|n| !n.is_empty())?.parse::<u32>().ok();
        match version.and_then(digits) {
            Some(major) if major >= 2 => Self::Modern,
            _ => Self::Legacy { work_dir: false },
        }
    }
}

/// Whether a program is a script for Node.js, which only the newer one is.
fn is_for_node(program: &Path) -> bool {
    let mut head = String::new();
    let read = std::fs::File::open(program).and_then(|file| file.take(128).read_to_string(&mut head));
    let first = head.lines().next().unwrap_or_default();
    read.is_ok() && first.strip_prefix("#!").is_some_and(|words| words.contains("node"))
}

/// Whether a help text has this flag, and not only one that begins with it.
fn has_flag(help: &str, flag: &str) -> bool {
    help.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))).any(|word| word == flag)
}

/// Kimi.
pub struct Kimi {
    settings: Arc<RuntimeSettings>,
    answers: Arc<Answers>,
}

impl Kimi {
    /// The runtime; `answers` remembers what the binary has said.
    pub fn new(settings: Arc<RuntimeSettings>, answers: Arc<Answers>) -> Self {
        Self { settings, answers }
    }

    fn flavour(&self) -> Flavour {
        let resolved = descriptor(ID).map(|d| resolve::resolve(d, &self.settings));
        let Some(Resolved { program, file: Some(file), .. }) = resolved else {
            return Flavour::Legacy { work_dir: false };
        };
        let help = self.answers.ask(&program, file, "--help", &self.settings);
        let version = || self.answers.version(&program, file, &self.settings);
        let version = if help.is_none() { version() } else { None };
        // A busy machine may take longer for the help than anybody waits.
        if help.is_none() && version.is_none() && is_for_node(&program) {
            return Flavour::Modern;
        }
        Flavour::of(help.as_deref(), version.as_deref())
    }
}

impl Cli for Kimi {
    fn id(&self) -> &'static str {
        ID
    }

    fn prepare(&self, request: &RunRequest, _: &RuntimeSettings, cancel: &CancelToken) -> Result<Launch, Thrown> {
        let flavour = self.flavour();
        let rules = context_file::render_rules(&request.system_rules);
        let held = write_rules(&rules_file(flavour, &request.cwd), rules.as_deref(), cancel);
        // The file is frozen into the session at its first turn: later rules have to be said.
        let mark = reminder::mark(rules.as_deref());
        let first = request.session.as_ref().map(|s| s.note.clone().unwrap_or_else(|| mark.clone()));
        let news = rules.filter(|_| flavour == Flavour::Modern && first.as_ref().is_some_and(|first| *first != mark));
        let context = request.context().filter(|c| !c.trim().is_empty()).map(str::to_owned);
        let context: Vec<String> = news.into_iter().chain(context).collect();
        let context = (!context.is_empty()).then(|| context.join("\n\n"));

        let owner = request.from_owner || request.trust == TrustLevel::Owner;
        let text = prompt_text::prepare(ID, &request.text, owner);
        let prompt = prompt(context.as_deref(), &text).replace('\0', "\u{fffd}");
        if prompt.len() > MAX_ARGUMENT {
            let message = format!("{ID}: the prompt has {} bytes, the limit is {MAX_ARGUMENT}", prompt.len());
            return Err(Thrown { class: Some(ErrorClass::Config), ..Thrown::new(message) });
        }
        let session = request.session.as_ref().map(|s| s.id.as_str());
        let args = match flavour {
            Flavour::Legacy { work_dir } => {
                let fresh = new_session_id(&request.turn_id);
                let extra = extra_args::kimi_legacy(&request.extra_args);
                let cwd = work_dir.then_some(request.cwd.as_path());
                legacy_args(cwd, session.unwrap_or(&fresh), extra, &prompt)
            }
            Flavour::Modern => {
                let extra = extra_args::kimi_modern(&request.extra_args, session.is_some());
                modern_args(session, extra, &prompt)
            }
        };
        let mut env = Changes::default();
        env.set("FORCE_COLOR", "0");
        env.set("NO_COLOR", "1");
        let note = Some(first.unwrap_or(mark));
        Ok(Launch { args: shown_as_prompt(args), env, stdin: Stdin::Null, held, scratch: None, note })
    }

    /// A message with calls of tools is printed when the tools are done.
    fn acts_unseen(&self) -> bool {
        true
    }

    fn parser(&self, request: &RunRequest) -> Box<dyn StreamParser> {
        let given = match self.flavour() {
            Flavour::Modern => None,
            Flavour::Legacy { .. } => {
                let resumed = request.session.as_ref().map(|s| s.id.clone());
                Some(resumed.unwrap_or_else(|| new_session_id(&request.turn_id)))
            }
        };
        Box::new(Parser::new(given))
    }
}

/// The prompt with the context in front.
pub fn prompt(context: Option<&str>, text: &str) -> String {
    reminder::prefix(context, text)
}

/// The arguments of the older program after `kimi`; `extra` is filtered already.
pub fn legacy_args(work_dir: Option<&Path>, session: &str, extra: Vec<String>, prompt: &str) -> Vec<String> {
    let mut args = Vec::new();
    if let Some(dir) = work_dir {
        args.extend(["--work-dir".to_owned(), dir.display().to_string()]);
    }
    args.extend(["--print", "--output-format", "stream-json", "--session", session, "--afk"].map(str::to_owned));
    args.extend(extra);
    args.extend(["--prompt".to_owned(), prompt.to_owned()]);
    args
}

/// The arguments of the newer program after `kimi`; `extra` is filtered already.
pub fn modern_args(session: Option<&str>, extra: Vec<String>, prompt: &str) -> Vec<String> {
    let mut args = ["--output-format", "stream-json"].map(str::to_owned).to_vec();
    if let Some(session) = session {
        args.extend(["--session".to_owned(), session.to_owned()]);
    }
    args.extend(extra);
    args.extend(["--prompt".to_owned(), prompt.to_owned()]);
    args
}

/// The last argument is the prompt, of which logs show the size only.
fn shown_as_prompt(args: Vec<String>) -> Vec<Arg> {
    let mut args: Vec<Arg> = args.into_iter().map(Arg::from).collect();
    if let Some(Arg::Plain(prompt)) = args.pop() {
        args.push(Arg::Prompt(prompt));
    }
    args
}

/// Id of the session that a turn of the older program makes: a UUID made from the turn's own unique id, so
/// that a repeated attempt goes on in the same session.
fn new_session_id(turn: &str) -> String {
    let hash = digest(&SHA256, format!("kimi session of {turn}").as_bytes());
    let mut bytes = [0_u8; 16];
    for (byte, from) in bytes.iter_mut().zip(hash.as_ref()) {
        *byte = *from;
    }
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn rules_file(flavour: Flavour, cwd: &Path) -> PathBuf {
    match flavour {
        Flavour::Legacy { .. } => cwd.join(".kimi/AGENTS.md"),
        Flavour::Modern => cwd.join(".kimi-code/AGENTS.md"),
    }
}

/// Puts the rules into their file; a turn without them is better than none.
fn write_rules(path: &Path, rules: Option<&str>, cancel: &CancelToken) -> Option<Held> {
    if rules.is_none() && !path.exists() {
        return None;
    }
    if let Some(Err(error)) = path.parent().map(private_dir) {
        log::warn!("kimi.rules file={} error={error}", path.display());
        return None;
    }
    let held = context_file::lock(path, cancel)?;
    if let Err(error) = held.write_section(rules) {
        log::warn!("kimi.rules file={} error={error}", path.display());
    }
    Some(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_programs_are_told_apart() {
        let legacy = Flavour::Legacy { work_dir: false };
        assert_eq!(Flavour::of(Some("  --print  x\n  -w,--work-dir DIR"), None), Flavour::Legacy { work_dir: true });
        assert_eq!(Flavour::of(Some("--print-config  --output-format"), Some("1.0")), Flavour::Modern);
        assert_eq!(Flavour::of(None, Some("kimi, version 2.1.0")), Flavour::Modern);
        assert_eq!(Flavour::of(None, Some("1.12")), legacy);
        assert_eq!(Flavour::of(None, None), legacy);
    }

    #[test]
    fn a_program_that_does_not_answer_is_known_by_its_first_line() {
        let file = std::env::temp_dir().join(format!("bellhop-kimi-{}", std::process::id()));
        for (text, modern) in [
            ("#!/usr/bin/env node\nimport x;\n", true),
            ("#!/usr/bin/python3\nnode = 1\n", false),
            ("\u{7f}ELF node", false),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(is_for_node(&file), modern, "{text}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(!is_for_node(&file));
    }

    #[test]
    fn a_turn_has_one_session_id_and_it_is_a_uuid() {
        let id = new_session_id("turn_1");
        assert_eq!(id, new_session_id("turn_1"));
        assert_ne!(id, new_session_id("turn_2"));
        let groups: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
    }

    #[test]
    fn the_newer_program_is_spared_what_it_rejects() {
        let args = modern_args(Some("s"), vec!["--model".into(), "k".into()], "-hi");
        assert_eq!(args, ["--output-format", "stream-json", "--session", "s", "--model", "k", "--prompt", "-hi"]);
        assert!(matches!(shown_as_prompt(args).last(), Some(Arg::Prompt(p)) if p == "-hi"));
    }
}
