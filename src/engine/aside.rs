//! Messages that are kept out of their lane for a while, in the journal and in memory.
//!
//! Files that came without a word wait for the next text of their conversation; messages that met a refused login wait
//! until it is accepted again. Both go in front of the message that takes them along, in the order in which they came.
//! What waits too long, or too much of it, is given up with a record in the transcript.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::core::{Core, Job};
use super::intake::{self, Arriving};
use super::journal::{Entry, Record};
use super::ports::TurnStatus;
use super::transcript::DropReason;
use super::waits::Cause;
use super::{records, turn, unrun};
use crate::thread;

/// Files without a word that are kept for one conversation; beyond it the oldest are dropped and counted, and the
/// message that takes the others along says how many there were.
pub const MAX_MEDIA: usize = 40;

/// Prefix of the notes that keep the number of dropped files over a restart.
const NOTE: &str = "omitted:";

/// Why a message is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetAside {
    /// It has no text to answer.
    Media,
    /// The login of its runtime is refused.
    Login,
}

impl SetAside {
    /// The word in the journal; see [`Record::Hold`].
    fn as_str(self) -> &'static str {
        match self {
            Self::Media => "media",
            Self::Login => "login",
        }
    }

    /// For people: what is waited for.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Media => "files that wait for a text",
            Self::Login => Cause::Login.text(),
        }
    }

    /// Why an entry is kept here; `None` when it is not, or is set aside by a person or a route.
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        let why = entry.held_why.as_deref().filter(|_| entry.held)?;
        [Self::Media, Self::Login].into_iter().find(|known| known.as_str() == why)
    }
}

/// A kept message with the turn id drawn for it.
struct Kept {
    turn_id: String,
    job: Job,
    since: Instant,
}

impl Kept {
    fn is_media(&self) -> bool {
        self.job.set_aside == Some(SetAside::Media)
    }
}

#[derive(Default)]
struct Shelf {
    /// In the order in which they were accepted.
    kept: VecDeque<Kept>,
    /// Files that were dropped since somebody took the shelf's content.
    dropped: usize,
    /// Dropped files that a turn is to tell of, which has not ended yet.
    untold: usize,
}

/// Everything that is kept, by queue key. Messages that wait for a login are bounded with those that wait in the lane.
#[derive(Default)]
pub(super) struct Asides {
    shelves: Mutex<HashMap<String, Shelf>>,
    /// A timer is set that looks for what has waited too long.
    sweeps: AtomicBool,
}

impl Asides {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages that are kept for a conversation.
    pub(super) fn len(&self, key: &str) -> usize {
        self.lock().get(key).map_or(0, |s| s.kept.len())
    }

    /// Number of kept messages by conversation.
    pub(super) fn counts(&self) -> Vec<(String, usize)> {
        let shelves = self.lock();
        let kept = shelves.iter().map(|(key, shelf)| (key.clone(), shelf.kept.len()));
        kept.filter(|(_, count)| *count > 0).collect()
    }

    /// Takes everything that is kept for a conversation, and how much was dropped before.
    pub(super) fn take(&self, key: &str) -> (Vec<(String, Job)>, usize) {
        let mut shelves = self.lock();
        let Some(mut shelf) = shelves.remove(key) else { return Default::default() };
        let dropped = std::mem::take(&mut shelf.dropped);
        let untold = shelf.untold + dropped;
        if untold > 0 {
            shelves.insert(key.to_owned(), Shelf { untold, ..Shelf::default() });
        }
        (shelf.kept.into_iter().map(|k| (k.turn_id, k.job)).collect(), dropped)
    }

    /// Takes out every message for which `wanted` answers true.
    pub(super) fn remove(&self, wanted: impl Fn(&Job) -> bool) -> Vec<(String, Job)> {
        self.remove_kept(|kept| wanted(&kept.job))
    }

    fn remove_kept(&self, wanted: impl Fn(&Kept) -> bool) -> Vec<(String, Job)> {
        let mut removed = Vec::new();
        self.lock().retain(|_, shelf| {
            let (out, kept): (VecDeque<_>, _) = std::mem::take(&mut shelf.kept).into_iter().partition(&wanted);
            shelf.kept = kept;
            removed.extend(out.into_iter().map(|k| (k.turn_id, k.job)));
            !shelf.kept.is_empty() || shelf.dropped + shelf.untold > 0
        });
        removed
    }
}

/// Keeps a message that was accepted `age` ago. What is too much for its conversation is dropped.
pub(super) fn keep(core: &Arc<Core>, turn_id: String, mut job: Job, why: SetAside, age: Duration) {
    let held_why = Some(why.as_str().to_owned());
    drop(core.journal.append(Record::Hold { e: job.entry.clone(), why: held_why }));
    job.set_aside = Some(why);
    let key = job.message.queue_key();
    let dropped = {
        let mut shelves = core.asides.lock();
        let shelf = shelves.entry(key.clone()).or_default();
        // What is given back goes in front again.
        let at = shelf.kept.partition_point(|kept| kept.job.number <= job.number);
        let now = Instant::now();
        shelf.kept.insert(at, Kept { turn_id, job: job.clone(), since: now.checked_sub(age).unwrap_or(now) });
        let too_many = shelf.kept.iter().filter(|k| k.is_media()).count() > MAX_MEDIA;
        let oldest = shelf.kept.iter().position(Kept::is_media).filter(|_| too_many);
        if oldest.is_some() {
            shelf.dropped += 1;
            write_count(core, &key, shelf.dropped + shelf.untold);
        }
        oldest.and_then(|at| shelf.kept.remove(at))
    };
    if let Some(Kept { turn_id, job, .. }) = dropped {
        log::warn!("aside.overflow queue={key} turn={turn_id} limit={MAX_MEDIA}");
        records::dropped(core, &job.message, &turn_id, DropReason::QueueOverflow, None);
        unrun::end(core, &job, &turn_id, TurnStatus::NoReply, "skipped:overflow");
    }
    if why == SetAside::Media {
        log::info!("aside.media queue={key} id={:?}", job.message.id);
        sweep_in(core, core.settings.aside_for.saturating_sub(age));
    } else {
        log::info!("aside.login queue={key} id={:?}", job.message.id);
    }
    core.changed();
}

fn write_count(core: &Core, key: &str, dropped: usize) {
    let key = format!("{NOTE}{key}");
    core.journal.append_behind(match dropped {
        0 => Record::Forget { key },
        _ => Record::Note { key, value: dropped.into() },
    });
}

/// The agent was told of so many dropped files of a conversation.
pub(super) fn told(core: &Core, key: &str, count: usize) {
    if count == 0 {
        return;
    }
    let mut shelves = core.asides.lock();
    let Some(shelf) = shelves.get_mut(key) else { return };
    shelf.untold = shelf.untold.saturating_sub(count);
    let left = shelf.dropped + shelf.untold;
    write_count(core, key, left);
    if left == 0 && shelf.kept.is_empty() {
        shelves.remove(key);
    }
}

/// Takes up how many files were dropped of which no agent was told before the restart.
pub(super) fn restore_counts(core: &Core) {
    let counts: Vec<(String, usize)> = core.journal.view(|ledger| {
        let count = |value: &serde_json::Value| value.as_u64().unwrap_or(0) as usize;
        ledger.notes(NOTE).map(|(key, note)| (key[NOTE.len()..].to_owned(), count(&note.value))).collect()
    });
    let mut shelves = core.asides.lock();
    for (key, dropped) in counts {
        shelves.entry(key).or_default().dropped = dropped;
    }
}

/// Sets the timer that looks for messages that have waited too long, unless it is set.
fn sweep_in(core: &Arc<Core>, after: Duration) {
    if core.asides.sweeps.swap(true, Ordering::AcqRel) {
        return;
    }
    let again = Arc::clone(core);
    core.timers.after(after, move || {
        // The timer thread must not wait for a disk.
        let core = Arc::clone(&again);
        if let Err(e) = thread::spawn("aside", move || sweep(&core)) {
            log::warn!("aside.thread_failed error={e}");
            again.asides.sweeps.store(false, Ordering::Release);
        }
    });
}

fn sweep(core: &Arc<Core>) {
    let limit = core.settings.aside_for;
    for (turn_id, job) in core.asides.remove_kept(|k| k.is_media() && k.since.elapsed() >= limit) {
        expire(core, &turn_id, &job);
    }
    core.asides.sweeps.store(false, Ordering::Release);
    let oldest = {
        let shelves = core.asides.lock();
        shelves.values().flat_map(|s| &s.kept).filter(|k| k.is_media()).map(|k| k.since).min()
    };
    if let Some(oldest) = oldest {
        sweep_in(core, limit.saturating_sub(oldest.elapsed()));
    }
}

/// Gives a message up that no text came for.
pub(super) fn expire(core: &Arc<Core>, turn_id: &str, job: &Job) {
    log::info!("aside.expired queue={} id={:?}", job.message.queue_key(), job.message.id);
    records::dropped(core, &job.message, turn_id, DropReason::DeferredExpired, None);
    unrun::end(core, job, turn_id, TurnStatus::NoReply, "skipped:deferred_expired");
    core.changed();
}

/// The login of a runtime is accepted again: what waited for it runs, one turn for each conversation.
pub(super) fn release(core: &Arc<Core>, runtime: &str, account: &str) {
    let waits = |job: &Job| {
        job.set_aside == Some(SetAside::Login) && job.message.account_id == account && turn::runtime_id(job) == runtime
    };
    let mut by_queue: HashMap<String, Vec<(String, Job)>> = HashMap::new();
    for (turn_id, mut job) in core.asides.remove(waits) {
        job.set_aside = None;
        by_queue.entry(job.message.queue_key()).or_default().push((turn_id, job));
    }
    for (key, mut messages) in by_queue {
        log::info!("aside.released queue={key} messages={}", messages.len());
        let Some((turn_id, mut last)) = messages.pop() else { continue };
        last.before.extend(messages);
        intake::submit(core, Arriving::admitted(turn_id, last));
    }
}
