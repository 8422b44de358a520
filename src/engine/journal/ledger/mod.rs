//! What the journal's records amount to: a pure fold, without files, threads or clocks.
//!
//! [`Ledger::apply`] takes one record at a time, at run time and when the journal is loaded;
//! [`Ledger::to_records`] gives records that rebuild exactly this state, which is how the journal is
//! compacted. A record that refers to something unknown is ignored: what it was about is finished.

mod compact;
mod dead;
mod fold;
mod said;
mod seen;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::record::Past;
use crate::engine::ports::ProcessId;
use crate::message::{Inbound, Outbound};

pub use dead::{Dead, KEEP_DEAD, KEEP_DEAD_BYTES};
pub use seen::{KEEP_IDS, KEEP_IDS_MS, SeenId};

/// How many lines of unknown kinds are kept; beyond that the oldest are dropped.
pub const KEEP_UNKNOWN: usize = 10_000;

/// A message that was accepted and not yet acknowledged.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its id in the journal.
    pub id: String,
    /// The channel's ids of everything in it.
    pub ids: Vec<String>,
    /// Channel.
    pub channel: String,
    /// Queue key.
    pub queue: String,
    /// The message as received; shared with whoever works on it.
    pub message: Arc<Inbound>,
    /// When it was accepted.
    pub accepted_at: i64,
    /// How far it is.
    pub state: EntryState,
    /// What attempts so far (the running one included) left behind.
    pub past: Past,
    /// The far side knows already, although it is not done.
    pub acked: bool,
    /// It is set aside. Only while it waits.
    pub held: bool,
    /// Why it is set aside, where that is known; see [`super::Record::Hold`].
    pub held_why: Option<String>,
    /// It is to run again later. Only while it waits.
    pub parked: Option<Parked>,
    /// What keeps it from running, as far as the journal knows. Only while it waits.
    pub deferred: Option<Deferral>,
    bytes: u64,
}

/// How far an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// It is to run.
    Waiting,
    /// It runs in this turn; after a restart: it did when the daemon died.
    Running {
        /// Turn id.
        turn: String,
    },
    /// Its turn has ended; replies may still have to be sent.
    Answered {
        /// Turn id.
        turn: String,
    },
    /// It is terminal; the far side has to be told.
    Done {
        /// When.
        at: i64,
        /// Why.
        why: String,
    },
}

/// When and why a parked entry runs again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Not before (Unix milliseconds).
    pub until: i64,
    /// The agent's reason.
    pub why: String,
}

/// What an entry waits for, whose run could not do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deferral {
    /// Key of the wait.
    pub on: String,
    /// `usage_limit`, `login`, `missing` or `disk`.
    pub why: String,
    /// Not before (Unix milliseconds).
    pub until: i64,
}

/// A turn that is not finished: it has entries that are not done, or replies that are not sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// Its id.
    pub id: String,
    /// Entries that are not done, oldest first.
    pub entries: Vec<String>,
    /// From 1; 0 for a turn whose start is unknown.
    pub attempt: u32,
    /// Runtime id.
    pub runtime: String,
    /// When it started.
    pub started_at: i64,
    /// The process that ran it last.
    pub process: Option<ProcessId>,
    /// The session it announced last.
    pub session: Option<String>,
    /// It may have changed the world.
    pub effects: bool,
    /// How it ended; `None` while it runs.
    pub result: Option<TurnResult>,
    /// [`Outbound::id`]s that are still to be sent, in order.
    pub replies: Vec<String>,
    bytes: u64,
}

/// How a turn ended, without its replies: those are in the outbox.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnResult {
    /// The session to be stored.
    pub session: Option<Value>,
    /// The reason that `done` will give.
    pub why: String,
}

/// A reply that is still to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxItem {
    /// The reply.
    pub message: Arc<Outbound>,
    /// Turn id.
    pub turn: String,
    /// When the turn ended or, of something said by tool, when it was said.
    pub since: i64,
    /// Of the record that holds nothing else.
    bytes: u64,
}

/// A small value that somebody wanted kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// When it was written.
    pub at: i64,
    /// What.
    pub value: Value,
    bytes: u64,
}

/// The daemon that opened the journal last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// When.
    pub at: i64,
    /// Process id.
    pub pid: u32,
    /// Version.
    pub version: String,
}

/// What is known about a message id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    No,
    /// It belongs to an entry that is not done.
    Pending {
        /// Entry id.
        entry_id: String,
    },
    /// It is finished.
    Terminal,
}

/// The state of the journal. See the module.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Entries, turns and outbox items are keyed by a number that grows, so that iteration is in the
    /// order of their records; the indices find them by id.
    entries: BTreeMap<u64, Entry>,
    entry_index: HashMap<String, u64>,
    queues: HashMap<String, BTreeSet<u64>>,
    turns: BTreeMap<u64, Turn>,
    turn_index: HashMap<String, u64>,
    outbox: BTreeMap<u64, OutboxItem>,
    outbox_index: HashMap<String, u64>,
    channels: BTreeMap<String, seen::Channel>,
    notes: BTreeMap<String, Note>,
    dead: dead::Letters,
    unknown: VecDeque<String>,
    boot: Option<Boot>,
    next: u64,
    bytes: u64,
}

impl Ledger {
    /// An entry by its id.
    pub fn entry(&self, id: &str) -> Option<&Entry> {
        self.entries.get(self.entry_index.get(id)?)
    }

    /// All entries, in the order in which they were accepted.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Number of entries.
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// Keys of queues that have entries, in no order.
    pub fn queue_keys(&self) -> impl Iterator<Item = &str> {
        self.queues.keys().map(String::as_str)
    }

    /// Entries of a queue, in the order in which they were accepted.
    pub fn queue(&self, key: &str) -> impl Iterator<Item = &Entry> {
        self.queues.get(key).into_iter().flatten().filter_map(|n| self.entries.get(n))
    }

    /// A turn by its id.
    pub fn turn(&self, id: &str) -> Option<&Turn> {
        self.turns.get(self.turn_index.get(id)?)
    }

    /// All unfinished turns, in the order in which they began.
    pub fn turns(&self) -> impl Iterator<Item = &Turn> {
        self.turns.values()
    }

    /// Replies that are still to be sent, in the order in which turns made them; so those of one
    /// conversation are in order as well.
    pub fn outbox(&self) -> impl Iterator<Item = &OutboxItem> {
        self.outbox.values()
    }

    /// A reply that is still to be sent, by its [`Outbound::id`].
    pub fn outbox_item(&self, id: &str) -> Option<&OutboxItem> {
        self.outbox.get(self.outbox_index.get(id)?)
    }

    /// Number of replies that are still to be sent.
    pub fn outbox_count(&self) -> usize {
        self.outbox.len()
    }

    /// What is known about a channel's message id.
    pub fn known(&self, channel: &str, id: &str) -> Known {
        let Some(known) = self.channels.get(channel) else { return Known::No };
        match known.open(id).and_then(|entry_id| self.entry(entry_id)) {
            Some(Entry { state: EntryState::Done { .. }, .. }) => Known::Terminal,
            Some(entry) => Known::Pending { entry_id: entry.id.clone() },
            None if known.seen(id) => Known::Terminal,
            None => Known::No,
        }
    }

    /// A note by its key.
    pub fn note(&self, key: &str) -> Option<&Note> {
        self.notes.get(key)
    }

    /// Notes whose key begins with `prefix`, in the order of their keys.
    pub fn notes<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Note)> {
        self.notes
            .range(prefix.to_owned()..)
            .take_while(move |(k, _)| k.starts_with(prefix))
            .map(|(k, n)| (k.as_str(), n))
    }

    /// Messages that were given up, oldest first; at most [`KEEP_DEAD`].
    pub fn dead(&self) -> impl Iterator<Item = &Dead> {
        self.dead.iter()
    }

    /// A dead letter by its id.
    pub fn dead_letter(&self, id: &str) -> Option<&Dead> {
        self.dead.iter().find(|d| d.id == id)
    }

    /// The daemon that opened the journal last.
    pub fn boot(&self) -> Option<&Boot> {
        self.boot.as_ref()
    }

    /// Sound lines that this version cannot read, oldest first.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.unknown.iter().map(String::as_str)
    }

    /// About how many bytes the records of this state take.
    pub fn live_bytes(&self) -> u64 {
        self.bytes
    }
}
