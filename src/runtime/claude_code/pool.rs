//! Processes that wait for the next turn of their session.
//!
//! Each is looked after by a thread of its own: it reads what the process prints, ends it when its time is up,
//! when memory runs short or when it does something unasked, and hands it over to the turn that wants it. A
//! process that is being ended stays in the list until it is gone, because no second one may use its session
//! before.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::events::Totals;
use crate::engine::cancel::CancelToken;
use crate::json;
use crate::runtime::context_file::Scratch;
use crate::runtime::fields;
use crate::runtime::process::{Driven, Handler, Io, Process};
use crate::runtime::resolve::FileId;
use crate::runtime::settings::Warm;

/// How long a process may take to end when its standard input is closed; then it is stopped.
const END_LIMIT: Duration = Duration::from_secs(3);
/// How often a waiting process looks at the machine's free memory.
const LOOK: Duration = Duration::from_secs(10);

/// Everything that a process is started with and cannot change later.
#[derive(Clone, PartialEq)]
pub(super) struct Identity {
    pub(super) program: PathBuf,
    pub(super) file: Option<FileId>,
    /// Without session and system prompt.
    pub(super) args: Vec<String>,
    pub(super) system: Option<String>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) cwd: PathBuf,
}

impl Identity {
    /// What differs, for the log.
    pub(super) fn differs(&self, other: &Self) -> Option<&'static str> {
        let parts = [
            (self.program == other.program && self.file == other.file, "program"),
            (self.cwd == other.cwd, "directory"),
            (self.args == other.args, "arguments"),
            (self.system == other.system, "system_prompt"),
            (self.env == other.env, "environment"),
        ];
        parts.iter().find(|(same, _)| !same).map(|(_, what)| *what)
    }
}

/// A process between two turns.
pub(super) struct Kept {
    pub(super) process: Process,
    pub(super) identity: Identity,
    /// What it has counted so far.
    pub(super) totals: Totals,
    /// The file with its system prompt.
    pub(super) scratch: Option<Scratch>,
}

impl Kept {
    /// Ends it and waits until it is gone.
    pub(super) fn end(mut self) {
        let Ok(token) = CancelToken::new() else { return };
        let order = Arc::new(Mutex::new(Order::End));
        token.wake();
        let mut idle = Idle::new(order, Instant::now(), 0);
        while self.process.drive(&token, &mut idle) == Driven::Paused {}
    }
}

/// Whose process it is: agent and session.
pub(super) type Key = (String, String);

/// What the thread of a process is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Wait,
    HandOver,
    End,
}

struct Entry {
    key: Key,
    order: Arc<Mutex<Order>>,
    wake: CancelToken,
    thread: JoinHandle<Option<Kept>>,
}

impl Entry {
    fn tell(&self, order: Order) {
        *lock(&self.order) = order;
        self.wake.wake();
    }

    fn waits(&self) -> bool {
        *lock(&self.order) == Order::Wait && !self.thread.is_finished()
    }

    /// The process, or `None` once it is gone. A panic of the thread has ended it, too.
    fn join(self) -> Option<Kept> {
        self.thread.join().ok().flatten()
    }
}

/// The processes that wait, the one that was used longest ago first.
pub(super) struct Pool {
    settings: Warm,
    entries: Mutex<Vec<Entry>>,
}

impl Pool {
    pub(super) fn new(settings: Warm) -> Self {
        Self { settings, entries: Mutex::default() }
    }

    /// Takes the process of a session out. When this returns, no other one of that session is left.
    pub(super) fn take(&self, key: &Key) -> Option<Kept> {
        let mine: Vec<Entry> = lock(&self.entries).extract_if(.., |entry| entry.key == *key).collect();
        if let Some(entry) = mine.iter().find(|entry| entry.waits()) {
            entry.tell(Order::HandOver);
        }
        // One waits at most; the others are being ended.
        mine.into_iter().filter_map(Entry::join).last()
    }

    /// Keeps a process for the next turn of a session, as far as there is room; otherwise it is ended, without
    /// waiting for that.
    pub(super) fn put(&self, key: Key, kept: Kept) {
        let short = self.is_memory_short();
        let room = if short { 0 } else { self.settings.max };
        let order = if room == 0 || self.settings.keep.is_zero() { Order::End } else { Order::Wait };
        let Some(entry) = self.look_after(key, kept, order) else { return };
        let mut entries = lock(&self.entries);
        entries.retain(|entry| !entry.thread.is_finished());
        for other in entries.iter().filter(|other| other.key == entry.key && other.waits()) {
            other.tell(Order::End);
        }
        entries.push(entry);
        end_all_but(&entries, room, if short { "memory" } else { "number" });
    }

    /// Ends all that wait when the machine is short of memory. Meant to be called before one is started.
    pub(super) fn make_room(&self) {
        if self.is_memory_short() {
            end_all_but(&lock(&self.entries), 0, "memory");
        }
    }

    /// Ends all and waits until they are gone.
    pub(super) fn close(&self) {
        let entries = std::mem::take(&mut *lock(&self.entries));
        for entry in &entries {
            entry.tell(Order::End);
        }
        for entry in entries {
            // One that was about to be handed over comes back here.
            if let Some(kept) = entry.join() {
                kept.end();
            }
        }
    }

    fn is_memory_short(&self) -> bool {
        is_memory_short(self.settings.reserve)
    }

    /// Starts the thread of a process. Without a thread to spare it is killed.
    fn look_after(&self, key: Key, mut kept: Kept, order: Order) -> Option<Entry> {
        let wake = CancelToken::new().ok()?;
        let order = Arc::new(Mutex::new(order));
        let until = Instant::now().checked_add(self.settings.keep).unwrap_or_else(Instant::now);
        let mut idle = Idle::new(Arc::clone(&order), until, self.settings.reserve);
        let token = wake.clone();
        // The first wake-up makes the handler set its alarm.
        wake.wake();
        let thread = std::thread::Builder::new().name(format!("claude:{}", key.0)).stack_size(crate::thread::STACK);
        let spawned = thread.spawn(move || {
            let pid = kept.process.id().pid;
            if let Driven::Ended(ended) = kept.process.drive(&token, &mut idle) {
                log::info!("claude.warm_ended pid={pid} why={} code={:?}", idle.why, ended.exit_code);
                return None;
            }
            Some(kept)
        });
        match spawned {
            Ok(thread) => Some(Entry { key, order, wake, thread }),
            Err(e) => {
                log::warn!("claude.warm_not_kept error={e}");
                None
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Orders the end of all that wait but the last `room` ones.
fn end_all_but(entries: &[Entry], room: usize, why: &str) {
    let waiting: Vec<&Entry> = entries.iter().filter(|entry| entry.waits()).collect();
    for entry in waiting.iter().take(waiting.len().saturating_sub(room)) {
        log::debug!("claude.warm_evicted agent={} session={} why={why}", entry.key.0, entry.key.1);
        entry.tell(Order::End);
    }
}

/// Whether the machine has less memory to give than this, in bytes.
fn is_memory_short(reserve: u64) -> bool {
    reserve > 0 && available_memory().is_some_and(|bytes| bytes < reserve)
}

/// Memory that could be used without swapping, in bytes; `None` where the system does not tell.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Looks after a process between two turns.
struct Idle {
    order: Arc<Mutex<Order>>,
    until: Instant,
    reserve: u64,
    ending: bool,
    why: &'static str,
}

impl Idle {
    fn new(order: Arc<Mutex<Order>>, until: Instant, reserve: u64) -> Self {
        Self { order, until, reserve, ending: false, why: "itself" }
    }

    /// The CLI ends by itself when it has nothing more to read.
    fn end(&mut self, io: &mut Io, why: &'static str) {
        if !self.ending {
            self.ending = true;
            self.why = why;
            io.wake_at(None);
            io.close_stdin();
            io.end_within(END_LIMIT);
        }
    }

    fn look_again(&self, io: &mut Io) {
        let look = if self.reserve > 0 { Instant::now().checked_add(LOOK) } else { None };
        io.wake_at(Some(look.map_or(self.until, |look| look.min(self.until))));
    }
}

impl Handler for Idle {
    /// Nothing was asked: a process that works nevertheless (a background task has ended, an alarm rang) would
    /// mix that into the next turn.
    fn line(&mut self, line: &str, io: &mut Io) {
        let event = json::parse_lossy(line.as_bytes()).unwrap_or_default();
        let kind = (fields::text(&event, &["type"]), fields::text(&event, &["subtype"]));
        if matches!(
            kind,
            (Some("assistant" | "user" | "result" | "control_request"), _) | (Some("system"), Some("init"))
        ) {
            self.end(io, "unasked");
        }
    }

    fn woken(&mut self, io: &mut Io) {
        let order = *lock(&self.order);
        match order {
            Order::End => self.end(io, "order"),
            Order::HandOver if !self.ending => {
                io.wake_at(None);
                io.pause();
            }
            Order::Wait if !self.ending => self.look_again(io),
            Order::HandOver | Order::Wait => {}
        }
    }

    fn tick(&mut self, io: &mut Io) {
        if Instant::now() >= self.until {
            self.end(io, "time");
        } else if is_memory_short(self.reserve) {
            self.end(io, "memory");
        } else {
            self.look_again(io);
        }
    }

    /// Its silence is what is expected.
    fn busy(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            program: "/bin/claude".into(),
            file: None,
            args: vec!["-p".into()],
            system: Some("be kind".into()),
            env: Vec::new(),
            cwd: "/".into(),
        }
    }

    #[test]
    fn everything_that_is_fixed_at_the_start_counts() {
        let known = identity();
        assert_eq!(known.differs(&identity()), None);
        let table = [
            (Identity { program: "/x".into(), ..identity() }, "program"),
            (Identity { cwd: "/x".into(), ..identity() }, "directory"),
            (Identity { args: Vec::new(), ..identity() }, "arguments"),
            (Identity { system: None, ..identity() }, "system_prompt"),
            (Identity { env: vec![("A".into(), "1".into())], ..identity() }, "environment"),
        ];
        for (other, what) in table {
            assert_eq!(known.differs(&other), Some(what));
        }
    }

    #[test]
    fn memory_is_looked_at_only_when_some_is_reserved() {
        assert!(!is_memory_short(0));
        assert!(!is_memory_short(1));
        assert!(is_memory_short(u64::MAX));
    }
}
