//! Which message ids of a channel are known.
//!
//! A busy daemon remembers tens of thousands of finished messages, each only to be recognised: a digest is enough
//! for that, has the same size whatever the far side calls its messages, and lives in two flat tables instead of a
//! hundred thousand small pieces of memory.

use std::collections::{HashMap, VecDeque};

use ring::digest::{SHA256, digest};
use serde::{Serialize, Serializer};

use crate::crypto::base64;

/// Ids of finished messages are kept for a day …
pub const KEEP_IDS_MS: i64 = 24 * 60 * 60 * 1000;
/// … but no more than this many per channel: beyond it the oldest go early.
pub const KEEP_IDS: usize = 50_000;

/// What a finished id costs in a `seen` record: `["<22 letters>",<13 digits>],`.
const COST: i64 = 41;

/// Bytes of a digest: enough that nobody finds two ids with the same one.
const LEN: usize = 16;

/// What is remembered of a message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeenId([u8; LEN]);

impl SeenId {
    /// That of an id.
    pub fn of(id: &str) -> Self {
        let mut key = [0; LEN];
        key.copy_from_slice(&digest(&SHA256, id.as_bytes()).as_ref()[..LEN]);
        Self(key)
    }

    /// From its form in a record; `None` for anything else.
    pub(in crate::engine::journal) fn parse(text: &str) -> Option<Self> {
        Some(Self(base64::decode(text)?.try_into().ok()?))
    }
}

impl Serialize for SeenId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(base64::encode(&self.0).trim_end_matches('='))
    }
}

/// Ids of one channel.
#[derive(Clone, Debug, Default)]
pub(super) struct Channel {
    /// Id to entry id, while the entry is in the ledger.
    open: HashMap<String, String>,
    /// Finished ids and the number of their place in `order`, counted from the first that there ever was. It wraps.
    finished: HashMap<SeenId, u32>,
    /// When they were finished; oldest first. A place whose number is not that in `finished` has been given up.
    order: VecDeque<(SeenId, i64)>,
    /// Number of the first place in `order`.
    first: u32,
}

impl Channel {
    pub(super) fn open(&self, id: &str) -> Option<&str> {
        self.open.get(id).map(String::as_str)
    }

    pub(super) fn seen(&self, id: &str) -> bool {
        self.finished.contains_key(&SeenId::of(id))
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
    pub(super) fn finish(&mut self, id: SeenId, at: i64) -> i64 {
        let mut grown = 0;
        if self.finished.insert(id, self.place(self.order.len())).is_none() {
            grown += COST;
        }
        self.order.push_back((id, at));
        while self.finished.len() > KEEP_IDS {
            grown -= self.drop_oldest();
        }
        if self.order.len() > 2 * self.finished.len() + 16 {
            self.close_gaps();
        }
        grown
    }

    /// Drops what was finished before `cutoff`; returns the bytes that this frees.
    pub(super) fn expire(&mut self, cutoff: i64) -> i64 {
        let mut freed = 0;
        while let Some((id, at)) = self.order.front() {
            if *at >= cutoff && self.finished.get(id) == Some(&self.first) {
                break;
            }
            freed += self.drop_oldest();
        }
        // After a burst the tables are as large as it was; a quiet channel does not need that.
        if self.order.capacity() > 4 * self.order.len() + 64 {
            self.order.shrink_to_fit();
            self.finished.shrink_to_fit();
        }
        freed
    }

    /// Ids and when they were finished, oldest first.
    pub(super) fn finished(&self) -> impl Iterator<Item = (SeenId, i64)> {
        let is_there = |(i, (id, _)): &(usize, &(SeenId, i64))| self.finished.get(id) == Some(&self.place(*i));
        self.order.iter().enumerate().filter(is_there).map(|(_, known)| *known)
    }

    /// The number of the place at an index.
    fn place(&self, index: usize) -> u32 {
        self.first.wrapping_add(index as u32)
    }

    fn drop_oldest(&mut self) -> i64 {
        let Some((id, _)) = self.order.pop_front() else { return 0 };
        let place = self.first;
        self.first = self.first.wrapping_add(1);
        if self.finished.get(&id) != Some(&place) {
            return 0;
        }
        self.finished.remove(&id);
        COST
    }

    /// Takes the places out that were given up.
    fn close_gaps(&mut self) {
        self.order = self.finished().collect();
        self.finished = self.order.iter().zip(0..).map(|((id, _), place)| (*id, place)).collect();
        self.first = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(channel: &Channel) -> Vec<(SeenId, i64)> {
        channel.finished().collect()
    }

    #[test]
    fn a_repeat_counts_as_the_latest_also_where_numbers_wrap() {
        let ids: Vec<_> = (0..40).map(|i| SeenId::of(&format!("m{i}"))).collect();
        for first in [0, u32::MAX - 20] {
            let mut channel = Channel { first, ..Channel::default() };
            let grown: i64 = ids.iter().map(|id| channel.finish(*id, 1)).sum();
            assert_eq!(grown, 40 * COST);
            assert_eq!(channel.finish(ids[0], 5), 0);
            assert_eq!(channel.expire(1), 0);
            assert_eq!(known(&channel).last(), Some(&(ids[0], 5)));
            assert_eq!(known(&channel).len(), 40);
            assert_eq!(channel.expire(2), 39 * COST);
            assert_eq!(known(&channel), [(ids[0], 5)]);
            assert!(channel.seen("m0") && !channel.seen("m1"));
        }
    }

    #[test]
    fn repeats_alone_do_not_grow_it() {
        let mut channel = Channel::default();
        let ids = ["a", "b", "c"].map(SeenId::of);
        (0..1_000).for_each(|at| {
            channel.finish(ids[at as usize % 3], at);
        });
        assert!(channel.order.len() <= 22, "{}", channel.order.len());
        assert_eq!(known(&channel), [(ids[1], 997), (ids[2], 998), (ids[0], 999)]);
    }
}
