//! What callers and the journal's thread share: the ledger, and what waits to be written.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ledger::{Known, Ledger};
use super::record::{self, MAX_LINE, Record, Stamped};
use super::ticket::{Ticket, Waiter};
use super::{Accept, JournalError, JournalHealth, JournalOptions, JournalState};
use crate::engine::keys::entry_id;
use crate::message::Inbound;

/// Of the room for messages one part in so many is kept for the owner's chats.
const OWNERS_PART: u64 = 8;

pub(super) struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

/// Everything under the one lock, so that the order of the ledger is the order of the file.
pub(super) struct State {
    pub(super) ledger: Ledger,
    pub(super) options: JournalOptions,
    pub(super) stats: Stats,
    batch: Batch,
    /// Entries of which the record is not durable yet.
    undurable: HashMap<String, Ticket>,
    broken: Option<Broken>,
    closing: bool,
    closed: bool,
}

/// Figures for [`JournalHealth`].
#[derive(Default)]
pub(super) struct Stats {
    pub(super) segment: u64,
    pub(super) segment_bytes: u64,
    pub(super) records: u64,
    pub(super) fsyncs: u64,
    pub(super) last_error: Option<String>,
}

struct Broken {
    error: JournalError,
    since_try: Instant,
}

/// Lines that are to be written together, and who waits for them.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) waiters: Vec<Waiter>,
    /// Those who can wait a moment for company, see [`super::Journal::append_soon`].
    pub(super) patient: Vec<Waiter>,
    /// Entries that come to be with it.
    accepted: Vec<String>,
    /// Somebody asked for another try.
    pub(super) forced: bool,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.waiters.is_empty() && self.patient.is_empty() && !self.forced
    }

    /// Adds what came later.
    pub(super) fn extend(&mut self, later: Self) {
        self.bytes.extend(later.bytes);
        self.waiters.extend(later.waiters);
        self.patient.extend(later.patient);
        self.accepted.extend(later.accepted);
        self.forced |= later.forced;
    }
}

/// When a record is written, and synced where somebody waits for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// At once.
    AtOnce,
    /// Written at once, synced with what comes in the next moment.
    Soon,
    /// With the next record. Nobody may wait for it.
    WithTheNext,
}

/// What the journal's thread does next.
pub(super) enum Next {
    Write(Batch),
    /// Nothing came, and what was written without a sync has waited long enough.
    Sync,
    /// The journal is closed, and all is written and synced.
    End,
}

/// What a new segment has to hold.
pub(super) struct Snapshot {
    pub(super) records: Vec<Stamped>,
    pub(super) unknown: Vec<String>,
}

impl Shared {
    pub(super) fn new(ledger: Ledger, options: JournalOptions) -> Self {
        let state = State {
            ledger,
            options,
            stats: Stats::default(),
            batch: Batch::default(),
            undurable: HashMap::new(),
            broken: None,
            closing: false,
            closed: false,
        };
        Self { state: Mutex::new(state), work: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Without a waiter nobody needs to know when the record is durable, and it shares a later sync.
    pub(super) fn append(&self, t: i64, record: Record, waiter: Option<Waiter>, when: When) {
        let refuse = |waiter: Option<Waiter>, error| match waiter {
            Some(waiter) => waiter.settle(Err(error)),
            None => log::warn!("journal.not_taken error={error}"),
        };
        // Encoded before the lock is taken: it is the expensive part.
        let line = match encode(t, &record) {
            Ok(line) => line,
            Err(error) => return refuse(waiter, error),
        };
        let mut state = self.lock();
        if state.closing {
            drop(state);
            return refuse(waiter, JournalError::Closed);
        }
        state.ledger.apply(t, record, line.len() as u64);
        state.push(line);
        match when {
            When::WithTheNext => return,
            When::Soon => state.batch.patient.extend(waiter),
            When::AtOnce => state.batch.waiters.extend(waiter),
        }
        // Whoever wakes must not find it locked.
        drop(state);
        self.work.notify_one();
    }

    /// Asks a broken journal for another try.
    pub(super) fn nudge(&self, waiter: Waiter) {
        let mut state = self.lock();
        if state.closing {
            drop(state);
            return waiter.settle(Err(JournalError::Closed));
        }
        state.batch.forced = true;
        state.batch.waiters.push(waiter);
        self.work.notify_one();
    }

    pub(super) fn accept(&self, messages: Vec<Inbound>, now: i64, may_wait: bool) -> Vec<Accept> {
        let ticket = Ticket::new();
        let mut repeats = Vec::new();
        let mut state = self.lock();
        let mut answers: Vec<_> = messages.into_iter().map(|m| state.accept(m, now, &ticket)).collect();
        for (i, answer) in answers.iter().enumerate() {
            if let Accept::Pending { entry_id } = answer
                && let Some(other) = state.undurable.get(entry_id)
            {
                repeats.push((i, other.clone()));
            }
        }
        let has_new = answers.iter().any(|answer| matches!(answer, Accept::New { .. }));
        if has_new {
            state.batch.waiters.push(Waiter::ticket(ticket));
        }
        drop(state);
        if has_new {
            self.work.notify_one();
        }
        // "Pending" promises that the message is safe.
        for (i, other) in repeats {
            if may_wait && let Err(error) = other.wait() {
                answers[i] = Accept::Refused { why: error.to_string() };
            }
        }
        answers
    }

    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_all();
    }

    /// Sleeps until there is something to write, or until `sync_at`.
    pub(super) fn next(&self, sync_at: Option<Instant>) -> Next {
        let idle = |s: &mut State| s.batch.is_empty() && !s.closing;
        let state = self.lock();
        let mut state = match sync_at.map(|at| at.saturating_duration_since(Instant::now())) {
            None => self.work.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner),
            Some(left) => self.work.wait_timeout_while(state, left, idle).unwrap_or_else(PoisonError::into_inner).0,
        };
        if !state.batch.is_empty() {
            return Next::Write(std::mem::take(&mut state.batch));
        }
        if sync_at.is_some() {
            return Next::Sync;
        }
        state.closed = true;
        Next::End
    }

    /// How long a record that nobody waits for, or somebody patient, may be without a sync.
    pub(super) fn sync_within(&self, patient: bool) -> Duration {
        let state = self.lock();
        if patient { state.options.group_within } else { state.options.sync_within }
    }

    /// The whole state, with everything that waits: what is in the snapshot need not be written otherwise.
    pub(super) fn snapshot(&self, now: i64) -> (Snapshot, Batch) {
        let mut state = self.lock();
        state.ledger.expire(now);
        let records = state.ledger.to_records();
        let unknown = state.ledger.unknown().map(str::to_owned).collect();
        (Snapshot { records, unknown }, std::mem::take(&mut state.batch))
    }

    /// The batch is durable.
    pub(super) fn succeed(&self, batch: Batch, repaired: bool) {
        let mut state = self.lock();
        for id in &batch.accepted {
            state.undurable.remove(id);
        }
        if repaired && state.broken.take().is_some() {
            log::info!("journal.recovered segment={}", state.stats.segment);
        }
        drop(state);
        batch.waiters.into_iter().chain(batch.patient).for_each(|waiter| waiter.settle(Ok(())));
    }

    /// The batch is not durable, and the journal broken. `tried`: just now, with this error.
    pub(super) fn fail(&self, batch: Batch, error: JournalError, tried: bool) {
        let mut state = self.lock();
        for id in &batch.accepted {
            state.undurable.remove(id);
            state.ledger.retract(id);
        }
        if tried {
            state.stats.last_error = Some(error.to_string());
            state.broken = Some(Broken { error: error.clone(), since_try: Instant::now() });
        }
        drop(state);
        batch.waiters.into_iter().chain(batch.patient).for_each(|waiter| waiter.settle(Err(error.clone())));
    }

    /// What a broken journal answers, unless it is time to try again.
    pub(super) fn still_broken(&self) -> Option<JournalError> {
        let state = self.lock();
        let why = state.refusal()?;
        Some(JournalError::Broken { why: why.to_string() })
    }

    /// The thread is gone: nothing will be written any more.
    pub(super) fn abandon(&self, why: &str) {
        let mut state = self.lock();
        state.closing = true;
        state.closed = true;
        state.stats.last_error = Some(why.to_owned());
        let batch = std::mem::take(&mut state.batch);
        drop(state);
        drop(batch);
    }
}

impl State {
    fn push(&mut self, line: Vec<u8>) {
        self.stats.records += 1;
        self.batch.bytes.extend_from_slice(&line);
    }

    /// Why nothing can be written just now.
    fn refusal(&self) -> Option<&JournalError> {
        let broken = self.broken.as_ref()?;
        (broken.since_try.elapsed() < self.options.retry_after).then_some(&broken.error)
    }

    fn accept(&mut self, mut message: Inbound, now: i64, ticket: &Ticket) -> Accept {
        let mut ids = message.ids();
        let known: Vec<_> = ids.iter().map(|id| self.ledger.known(&message.channel, id)).collect();
        if !known.contains(&Known::No) {
            let pending = known.into_iter().find_map(|known| match known {
                Known::Pending { entry_id } => Some(entry_id),
                _ => None,
            });
            return pending.map_or(Accept::Terminal, |entry_id| Accept::Pending { entry_id });
        }
        if known.iter().any(|k| *k != Known::No) {
            let is_new: HashMap<_, _> = ids.iter().cloned().zip(known.iter().map(|k| *k == Known::No)).collect();
            keep_new(&mut message, &is_new);
            // Finished ones are acknowledged once more, with the rest; pending ones have their own entry.
            let mut known = known.into_iter();
            ids.retain(|_| !matches!(known.next(), Some(Known::Pending { .. })));
        }
        let refused = |why: String| Accept::Refused { why };
        if self.closing {
            return refused(JournalError::Closed.to_string());
        }
        if let Some(error) = self.refusal() {
            return refused(format!("the journal cannot be written: {error}"));
        }
        // Strangers must not be able to fill it: the owner is the one who can do something about it.
        let share = |whole: u64| if message.is_owner_chat() { whole } else { whole - whole / OWNERS_PART };
        if self.ledger.entry_count() as u64 >= share(self.options.max_entries as u64) {
            return refused(format!("{} messages are waiting already", self.ledger.entry_count()));
        }
        let max_live_bytes = share(self.options.max_live_bytes);
        let id = entry_id(now);
        let message = Arc::new(message);
        let record = Record::Accepted {
            e: id.clone(),
            ids,
            ch: message.channel.clone(),
            q: message.queue_key(),
            msg: message.clone(),
            past: None,
        };
        let line = match encode(now, &record) {
            Ok(line) => line,
            Err(error) => return refused(error.to_string()),
        };
        let bytes = line.len() as u64;
        if self.ledger.live_bytes() + bytes > max_live_bytes {
            return refused(format!("{} bytes of messages are waiting already", self.ledger.live_bytes()));
        }
        if self.batch.bytes.len() + line.len() > self.options.max_pending_bytes && !self.batch.is_empty() {
            return refused("the disk does not keep up".to_owned());
        }
        self.ledger.apply(now, record, bytes);
        self.stats.records += 1;
        self.batch.bytes.extend_from_slice(&line);
        self.batch.accepted.push(id.clone());
        self.undurable.insert(id.clone(), ticket.clone());
        Accept::New { entry_id: id, message, ticket: ticket.clone() }
    }

    pub(super) fn health(&self) -> JournalHealth {
        let state = match &self.broken {
            _ if self.closed => JournalState::Closed,
            None => JournalState::Open,
            Some(broken) => {
                JournalState::Broken { why: broken.error.to_string(), disk_full: broken.error.is_disk_full() }
            }
        };
        JournalHealth {
            state,
            segment: self.stats.segment,
            segment_bytes: self.stats.segment_bytes,
            live_bytes: self.ledger.live_bytes(),
            entries: self.ledger.entry_count(),
            outbox: self.ledger.outbox_count(),
            pending_bytes: self.batch.bytes.len(),
            records: self.stats.records,
            fsyncs: self.stats.fsyncs,
            last_error: self.stats.last_error.clone(),
        }
    }
}

fn encode(t: i64, record: &Record) -> Result<Vec<u8>, JournalError> {
    let line = record::encode(t, record).map_err(|e| JournalError::Encode(e.to_string()))?;
    if line.len() > MAX_LINE {
        return Err(JournalError::TooLarge { bytes: line.len() });
    }
    Ok(line)
}

/// Leaves in a batch what is new. If its last element goes, the one before it speaks for the batch.
fn keep_new(message: &mut Inbound, is_new: &HashMap<String, bool>) {
    let last_is_new = message.entries.last().is_some_and(|e| is_new.get(&e.id) == Some(&true));
    message.entries.retain(|e| is_new.get(&e.id) == Some(&true));
    if last_is_new {
        return;
    }
    let Some(last) = message.entries.last() else { return };
    message.id.clone_from(&last.id);
    message.msg_id.clone_from(&last.msg_id);
    message.text.clone_from(&last.text);
    message.sender.id.clone_from(&last.sender_id);
    message.sender.name = Some(last.sender_label.clone());
    message.sender.kind = last.sender_kind;
    message.quote.clone_from(&last.quote);
    message.mentioned = message.entries.iter().any(|e| e.mentioned);
}
