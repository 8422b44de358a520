//! Which message ids of a channel are known.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Ids of finished messages are kept for a day …
pub const KEEP_IDS_MS: i64 = 24 * 60 * 60 * 1000;
/// … but no more than this many per channel: beyond it the oldest go early.
pub const KEEP_IDS: usize = 50_000;

/// What an id costs in a `seen` record beside its own length.
const OVERHEAD: u64 = 20;

/// Ids of one channel.
#[derive(Clone, Debug, Default)]
pub(super) struct Channel {
    /// Id to entry id, while the entry is in the ledger.
    open: HashMap<String, String>,
    /// Id to when it was finished, and the number of its place in `order`.
    finished: HashMap<Arc<str>, (i64, u64)>,
    /// Oldest first. A place whose number is not that in `finished` has been given up.
    order: VecDeque<(Arc<str>, u64)>,
    next: u64,
}

impl Channel {
    pub(super) fn open(&self, id: &str) -> Option<&str> {
        self.open.get(id).map(String::as_str)
    }

    pub(super) fn seen(&self, id: &str) -> bool {
        self.finished.contains_key(id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.finished.is_empty()
    }

    pub(super) fn begin(&mut self, id: &str, entry: &str) {
        self.open.insert(id.to_owned(), entry.to_owned());
    }

    /// The entry is not in the ledger any more.
    pub(super) fn end(&mut self, id: &str, entry: &str) {
        if self.open(id) == Some(entry) {
            self.open.remove(id);
        }
    }

    /// Remembers an id; returns by how much the bytes grew (less than zero: shrank).
    pub(super) fn finish(&mut self, id: &str, at: i64) -> i64 {
        let id: Arc<str> = id.into();
        let place = self.next;
        self.next += 1;
        let mut grown = 0;
        if self.finished.insert(id.clone(), (at, place)).is_none() {
            grown += cost(&id);
        }
        self.order.push_back((id, place));
        while self.finished.len() > KEEP_IDS {
            grown -= self.drop_oldest();
        }
        if self.order.len() > 2 * self.finished.len() + 16 {
            self.order.retain(|(id, place)| self.finished.get(id).is_some_and(|(_, p)| p == place));
        }
        grown
    }

    /// Drops what was finished before `cutoff`; returns the bytes that this frees.
    pub(super) fn expire(&mut self, cutoff: i64) -> i64 {
        let mut freed = 0;
        while let Some((id, place)) = self.order.front() {
            if self.finished.get(id).is_some_and(|(at, p)| p == place && *at >= cutoff) {
                break;
            }
            freed += self.drop_oldest();
        }
        freed
    }

    /// Ids and when they were finished, oldest first.
    pub(super) fn finished(&self) -> impl Iterator<Item = (&str, i64)> {
        self.order.iter().filter_map(|(id, place)| match self.finished.get(id) {
            Some((at, p)) if p == place => Some((&**id, *at)),
            _ => None,
        })
    }

    fn drop_oldest(&mut self) -> i64 {
        let Some((id, place)) = self.order.pop_front() else { return 0 };
        if self.finished.get(&id).is_none_or(|(_, p)| *p != place) {
            return 0;
        }
        self.finished.remove(&id);
        cost(&id)
    }
}

fn cost(id: &str) -> i64 {
    (id.len() as u64 + OVERHEAD) as i64
}
