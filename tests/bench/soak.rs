//! Many short turns through one daemon that is never restarted: whether memory, threads, descriptors and journal stay
//! where they are once everything has been seen. Only when it is asked for by name.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Place, message};
use crate::proc_fs::{Usage, descriptors};
use crate::report::Report;
use crate::{Failure, Scale};

/// How many turns, in place of [`TURNS`].
const TURNS_VARIABLE: &str = "BELLHOP_SOAK_TURNS";
/// How many seconds, in place of [`SECONDS`]; what has not begun by then is left out.
const SECONDS_VARIABLE: &str = "BELLHOP_SOAK_SECONDS";
const TURNS: usize = 100_000;
const SECONDS: usize = 3600;
/// Turns between two samples.
const SAMPLE_EVERY: usize = 5_000;
/// Conversations that the turns go round in.
const CONVERSATIONS: usize = 200;
/// Clients at once, each with one connection at a time and one turn at a time.
const CLIENTS: usize = 4;

/// What is looked at.
#[derive(Clone, Copy)]
struct Sample {
    turns: usize,
    seconds: f64,
    usage: Usage,
    descriptors: u64,
    /// Bytes on disk.
    journal: u64,
    /// The same of everything else below the home.
    rest: u64,
}

impl Sample {
    fn take(turns: usize, began: Instant, daemon: &Daemon, place: &Place) -> Result<Self, Failure> {
        let home = bellhop::config::Home::at(place.join("home"))?;
        let journal = bytes_below(&home.journal());
        Ok(Self {
            turns,
            seconds: began.elapsed().as_secs_f64(),
            usage: Usage::of(daemon.pid())?,
            descriptors: descriptors(daemon.pid())?,
            journal,
            rest: bytes_below(home.root()).saturating_sub(journal),
        })
    }

    fn add(&self, report: &mut Report) {
        report.add(
            "soak",
            &format!("after {} turns", self.turns),
            &[
                ("since the beginning", self.seconds, "s"),
                ("rss", self.usage.rss_kb as f64, "kB"),
                ("rss without files' pages", self.usage.anon_kb as f64, "kB"),
                ("threads", self.usage.threads as f64, ""),
                ("descriptors", self.descriptors as f64, ""),
                ("journal", self.journal as f64 / 1024.0, "kB"),
                ("rest of the home", self.rest as f64 / 1024.0, "kB"),
            ],
        );
    }
}

pub fn measure(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let turns = number(TURNS_VARIABLE, scale.of(TURNS, 500))?;
    let limit = Duration::from_secs(number(SECONDS_VARIABLE, SECONDS)? as u64);
    let every = SAMPLE_EVERY.min(turns.div_ceil(5)).max(1);
    let place = Place::new()?;
    let daemon = Daemon::start(&place)?;
    let began = Instant::now();
    Sample::take(0, began, &daemon, &place)?.add(report);
    let mut done = 0;
    while done < turns && began.elapsed() < limit {
        // The clients meet before each sample, so that none of it is a turn that happens to run.
        let until = (done + every).min(turns);
        done = run_to(&daemon, done, until, began + limit)?;
        Sample::take(done, began, &daemon, &place)?.add(report);
    }
    daemon.stop()
}

/// Runs the turns `first..until`, or as many as begin before `deadline`; returns how many have run in all.
fn run_to(daemon: &Daemon, first: usize, until: usize, deadline: Instant) -> Result<usize, Failure> {
    let next = AtomicUsize::new(first);
    let finished = AtomicUsize::new(first);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| -> Result<(), Failure> {
                    while Instant::now() < deadline {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= until {
                            break;
                        }
                        daemon.turn(&message("echo", &format!("soak-{}", number % CONVERSATIONS), "hello"))?;
                        finished.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        clients.into_iter().try_for_each(|c| c.join().unwrap_or_else(|_| Err("a client panicked".into())))
    })?;
    Ok(finished.into_inner())
}

fn number(variable: &str, otherwise: usize) -> Result<usize, Failure> {
    match std::env::var(variable) {
        Ok(text) => text.parse().map_err(|e| format!("{variable} is {text:?}: {e}").into()),
        Err(_) => Ok(otherwise),
    }
}

/// Sizes of all files below a directory. One that goes away meanwhile counts as nothing.
fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
            Ok(meta) if meta.is_file() => meta.len(),
            _ => 0,
        })
        .sum()
}
