//! Messages that were given up, kept for people within bounds.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::engine::journal::record::{Past, Record};
use crate::message::{Inbound, Outbound};

/// How many are kept; beyond that the oldest are dropped.
pub const KEEP_DEAD: usize = 1_000;
/// How many bytes of them are kept, the latest one in any case.
pub const KEEP_DEAD_BYTES: u64 = 16 * 1024 * 1024;

/// A message that was given up.
#[derive(Clone, Debug, PartialEq)]
pub struct Dead {
    /// Id of the entry it was.
    pub id: String,
    /// The channel's ids of everything in it.
    pub ids: Vec<String>,
    /// Channel.
    pub channel: String,
    /// Queue key.
    pub queue: String,
    /// The message as received.
    pub message: Arc<Inbound>,
    /// When it was given up.
    pub at: i64,
    /// For people.
    pub why: String,
    /// The reply that could not be delivered: the message was answered, running it again is not needed.
    pub reply: Option<Arc<Outbound>>,
    /// What its attempts left behind.
    pub past: Past,
    pub(super) bytes: u64,
}

impl Dead {
    /// The record that makes it.
    pub fn record(&self) -> Record {
        Record::Dead {
            e: self.id.clone(),
            ids: self.ids.clone(),
            ch: self.channel.clone(),
            q: self.queue.clone(),
            msg: Arc::clone(&self.message),
            why: self.why.clone(),
            out: self.reply.clone(),
            past: Some(self.past.clone()).filter(|p| *p != Past::default()),
        }
    }
}

/// All dead letters, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Letters {
    letters: VecDeque<Dead>,
    bytes: u64,
}

impl Letters {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Dead> {
        self.letters.iter()
    }

    /// Takes one in, in place of an earlier one with its id; returns by how many bytes the whole has grown.
    pub(super) fn add(&mut self, dead: Dead) -> i64 {
        let before = self.bytes;
        self.remove(&dead.id.clone());
        self.bytes += dead.bytes;
        self.letters.push_back(dead);
        while self.letters.len() > KEEP_DEAD || (self.bytes > KEEP_DEAD_BYTES && self.letters.len() > 1) {
            let Some(oldest) = self.letters.pop_front() else { break };
            self.bytes -= oldest.bytes;
        }
        self.bytes as i64 - before as i64
    }

    /// Drops one; returns by how many bytes the whole has grown (never more than 0).
    pub(super) fn remove(&mut self, id: &str) -> i64 {
        let Some(at) = self.letters.iter().position(|d| d.id == id) else { return 0 };
        let freed = self.letters.remove(at).map_or(0, |d| d.bytes);
        self.bytes -= freed;
        -(freed as i64)
    }
}
