//! Turns that their agent wants to be woken for again: what of [`park`](super::park) needs timers and the journal.
//!
//! A message whose turn was parked stays open, in the journal as well, until the chain of its turns ends: with a turn
//! that asks for no further wait, or with a newer message, which takes the place of the wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::core::{Core, Job};
use super::intake::{self, Arriving};
use super::journal::{Entry, Record};
use super::outbox;
use super::park::{Marker, Parked, WAIT_LIMIT_MS};
use super::ports::Settled;
use super::timer::TimerId;
use super::turn::Turn;
use super::{keys, now_ms};
use crate::json;

/// Conversations whose waits are counted; beyond it the counts that are oldest go.
const COUNTED: usize = 4_096;
/// After this time (in milliseconds) a count says nothing any more.
const COUNT_AGE_MS: i64 = 3_600_000;

/// Prefix of the notes that keep the counts over a restart.
const NOTE: &str = "parks:";

/// A conversation that waits to be woken.
struct Waiting {
    /// Distinguishes it from an earlier wait of the conversation; the last message's next turn gets this id.
    turn_id: String,
    /// What the turn answered, oldest first.
    jobs: Vec<Job>,
    /// What the channel is told once the chain is over.
    settled: Settled,
    until: i64,
    timer: TimerId,
}

/// All waits and what is counted of them, by queue key.
#[derive(Default)]
pub(super) struct Parks {
    waiting: HashMap<String, Waiting>,
    counts: HashMap<String, Parked>,
}

/// A wait that is over because something came in between: to be settled without the engine's lock.
#[must_use]
pub(super) struct Overtaken {
    waiting: Option<Waiting>,
    counts: Vec<Counted>,
}

/// What is counted of a conversation from now on; `None` when that is nothing.
type Counted = (String, Option<Parked>);

impl Parks {
    /// A message enters its lane: a wait of the conversation is over.
    pub(super) fn overtaken(&mut self, core: &Core, key: &str) -> Overtaken {
        let mut counts = Vec::new();
        if let Some(counted) = self.counts.get_mut(key).filter(|counted| **counted != counted.ended()) {
            *counted = counted.ended();
            counts.push((key.to_owned(), Some(*counted)));
        }
        let waiting = self.waiting.remove(key);
        if let Some(waiting) = &waiting {
            core.timers.cancel(waiting.timer);
        }
        Overtaken { waiting, counts }
    }

    /// Until when conversations wait.
    pub(super) fn until(&self) -> Vec<(String, i64)> {
        self.waiting.iter().map(|(key, w)| (key.clone(), w.until)).collect()
    }

    /// Conversations whose wait is about a message for which `wanted` answers true.
    pub(super) fn keys_where(&self, wanted: impl Fn(&Job) -> bool) -> Vec<String> {
        let keys = self.waiting.iter().filter(|(_, w)| w.jobs.iter().any(&wanted)).map(|(key, _)| key.clone());
        keys.collect()
    }

    /// Counts the end of a turn; returns how long to wait, and which counts have become different.
    fn count(&mut self, key: &str, marker: Option<&Marker>, now: i64) -> (Option<i64>, Vec<Counted>) {
        let before = self.counts.get(key).copied().unwrap_or_default();
        let (next, wait) = before.step(marker, now);
        if next == before {
            return (wait, Vec::new());
        }
        if next == Parked::default() {
            self.counts.remove(key);
            return (wait, vec![(key.to_owned(), None)]);
        }
        let mut changes = Vec::new();
        if self.counts.len() >= COUNTED && !self.counts.contains_key(key) {
            let old: Vec<String> =
                self.counts.iter().filter(|(_, c)| is_outdated(**c, now)).map(|(k, _)| k.clone()).collect();
            let oldest = self.counts.iter().min_by_key(|(_, c)| c.hour_start).map(|(k, _)| k.clone());
            for key in if old.is_empty() { Vec::from_iter(oldest) } else { old } {
                self.counts.remove(&key);
                changes.push((key, None));
            }
        }
        self.counts.insert(key.to_owned(), next);
        changes.push((key.to_owned(), Some(next)));
        (wait, changes)
    }
}

impl Overtaken {
    /// Tells the journal and the channel that the message is over; returns how many messages that were.
    pub(super) fn settle(self, core: &Arc<Core>, why: Option<&str>) -> u64 {
        write_counts(core, self.counts);
        let Some(Waiting { jobs, mut settled, turn_id, .. }) = self.waiting else { return 0 };
        let Some(last) = jobs.last() else { return 0 };
        log::info!("park.overtaken queue={} turn={turn_id}", last.message.queue_key());
        if let Some(why) = why {
            why.clone_into(&mut settled.why);
        }
        let entries = jobs.iter().map(|j| j.entry.clone()).collect();
        outbox::settle(core, &last.message.channel, entries, settled);
        jobs.len() as u64
    }
}

/// The end of a turn: takes the agent's wish and keeps its messages, when it has one and may wait. `settled` is what
/// the channel is to be told at the end of the chain. Returns whether the messages are kept.
pub(super) fn at_end(core: &Arc<Core>, turn: &Turn, was_cancelled: bool, settled: &Settled) -> bool {
    let Some(file) = &turn.wait_file else { return false };
    let now = now_ms();
    let marker = Marker::take(file, now).filter(|_| !was_cancelled);
    let key = &turn.key;
    let jobs: Vec<Job> = turn.jobs.iter().map(again).collect();
    let mut state = core.lock();
    // Whoever waits already is a reason to think again by itself.
    let alone = state.queues.waiting(key) == 0;
    let (wait, counts) = state.parks.count(key, marker.as_ref().filter(|_| alone), now);
    let Some(wait) = wait else {
        drop(state);
        write_counts(core, counts);
        if marker.is_some() {
            log::info!("park.refused queue={key} turn={} alone={alone}", turn.id);
        }
        return false;
    };
    let until = now.saturating_add(wait);
    let entries: Vec<String> = jobs.iter().map(|j| j.entry.clone()).collect();
    let waiting = begin(core, key, jobs, settled.clone(), until);
    state.parks.waiting.insert(key.clone(), waiting);
    drop(state);
    write_counts(core, counts);
    log::info!("park.start queue={key} turn={} ms={wait}", turn.id);
    let why = marker.and_then(|m| m.reason).unwrap_or_default();
    for e in entries {
        // Should the wait be over already: a record about what is done is passed over.
        drop(core.journal.append(Record::Parked { e, until, why: why.clone() }));
    }
    core.changed();
    true
}

/// Whether a count says nothing any more.
fn is_outdated(counted: Parked, now: i64) -> bool {
    counted.count == 0 && now.saturating_sub(counted.hour_start) >= COUNT_AGE_MS
}

/// A restart must not give an agent its waits anew.
fn write_counts(core: &Core, counts: Vec<Counted>) {
    for (key, counted) in counts {
        let key = format!("{NOTE}{key}");
        core.journal.append_behind(match counted.as_ref().map(json::to_value) {
            Some(Ok(value)) => Record::Note { key, value },
            _ => Record::Forget { key },
        });
    }
}

/// Takes up the counts that the journal knows.
pub(super) fn restore_counts(core: &Core) {
    let now = now_ms();
    let notes: Vec<(String, Option<Parked>)> = core.journal.view(|ledger| {
        let read = |value: &serde_json::Value| json::from_value::<Parked>(value).ok();
        ledger.notes(NOTE).map(|(key, note)| (key[NOTE.len()..].to_owned(), read(&note.value))).collect()
    });
    let (good, outdated): (Vec<_>, Vec<_>) =
        notes.into_iter().map(|(key, c)| (key, c.filter(|c| !is_outdated(*c, now)))).partition(|(_, c)| c.is_some());
    core.lock().parks.counts = good.into_iter().filter_map(|(key, counted)| Some((key, counted?))).collect();
    write_counts(core, outdated);
}

/// The job of a message that runs once more.
fn again(job: &Job) -> Job {
    let fresh = Job::new(job.entry.clone(), Arc::clone(&job.route), Arc::clone(&job.message));
    Job { woken: true, number: job.number, ..fresh }
}

fn begin(core: &Arc<Core>, key: &str, jobs: Vec<Job>, settled: Settled, until: i64) -> Waiting {
    let turn_id = keys::uuid_v4();
    let left = Duration::from_millis(until.saturating_sub(now_ms()).max(0).unsigned_abs());
    let timer = {
        let (core, key, turn_id) = (Arc::clone(core), key.to_owned(), turn_id.clone());
        core.timers.clone().after(left, move || wake(&core, &key, &turn_id))
    };
    Waiting { turn_id, jobs, settled, until, timer }
}

/// The wait is over: the same messages go into their lane again, past observers and gate.
fn wake(core: &Arc<Core>, key: &str, turn_id: &str) {
    let waiting = {
        let mut state = core.lock();
        match state.parks.waiting.get(key) {
            Some(waiting) if waiting.turn_id == turn_id => state.parks.waiting.remove(key),
            _ => None,
        }
    };
    let Some(Waiting { turn_id, mut jobs, .. }) = waiting else { return };
    let Some(mut last) = jobs.pop() else { return };
    log::info!("park.elapsed queue={key} turn={turn_id}");
    last.before = jobs.into_iter().map(|job| (keys::uuid_v4(), job)).collect();
    intake::submit(core, Arriving::woken(turn_id, last));
}

/// A person ends the wait about an entry: its messages run again now. Returns whether there is one.
pub(super) fn wake_now(core: &Arc<Core>, entry: &str) -> bool {
    let found = {
        let state = core.lock();
        let mut waiting = state.parks.waiting.iter();
        let found = waiting.find(|(_, w)| w.jobs.iter().any(|job| job.entry == entry));
        found.map(|(key, w)| (key.clone(), w.turn_id.clone(), w.timer))
    };
    let Some((key, turn_id, timer)) = found else { return false };
    core.timers.cancel(timer);
    wake(core, &key, &turn_id);
    true
}

/// A person does not want the messages of a wait, which one of them names, to run again. Returns whether there is one.
pub(super) fn give_up(core: &Arc<Core>, entry: &str) -> bool {
    let overtaken = {
        let mut state = core.lock();
        let keys = state.parks.keys_where(|job| job.entry == entry);
        keys.first().map(|key| state.parks.overtaken(core, key))
    };
    overtaken.map(|overtaken| overtaken.settle(core, Some("skipped:dropped"))).is_some()
}

/// A parked turn of an earlier process.
pub(super) fn restore(core: &Arc<Core>, key: &str, entries: Vec<Entry>) {
    let until = entries.iter().filter_map(|e| e.parked.as_ref()).map(|p| p.until).max().unwrap_or_default();
    // A clock that was set back must not make the wait longer than it is.
    let until = until.min(now_ms().saturating_add(WAIT_LIMIT_MS));
    let ids = entries.iter().flat_map(|e| e.ids.clone()).collect();
    let settled = Settled::new(ids, "gated", entries.iter().map(|e| e.message.as_ref()));
    let job = |e: Entry| Job { woken: true, ..Job::new(e.id, core.route(&e.message), e.message) };
    let jobs = entries.into_iter().map(job).collect();
    // Held, so that the wait is there before its end can come.
    let mut state = core.lock();
    let waiting = begin(core, key, jobs, settled, until);
    state.parks.waiting.insert(key.to_owned(), waiting);
}
