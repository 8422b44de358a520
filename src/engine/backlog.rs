//! The queue as people look at it: every unfinished message with its state, and ages in buckets. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::aside::SetAside;
use super::journal::{Dead, Entry, EntryState, Ledger};
use crate::message::Inbound;

/// Upper ends of the age buckets in minutes; the last bucket has none.
pub const BUCKETS: [u64; 6] = [1, 5, 15, 60, 240, 1_440];

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its turn comes.
    Waiting,
    /// Its turn runs.
    Running,
    /// It is set aside until somebody releases it.
    Held,
    /// It waits for a time, for its runtime, or for a text to go along with.
    Parked,
    /// It is answered, and the reply is not delivered yet.
    Undelivered,
    /// It was given up.
    Dead,
}

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Id of the entry.
    pub id: String,
    /// The channel's ids of everything in it.
    pub ids: Vec<String>,
    /// Queue key.
    pub queue: String,
    /// How far it is.
    pub state: State,
    /// When it was accepted or, of a dead one, given up (Unix milliseconds).
    pub since: i64,
    /// Attempts that count.
    pub attempts: u32,
    /// The turn that runs or has answered it.
    pub turn: Option<String>,
    /// Why it does not run.
    pub why: Option<String>,
    /// Not before (Unix milliseconds).
    pub until: Option<i64>,
    /// The message.
    pub message: Arc<Inbound>,
}

impl Item {
    fn of(entry: &Entry) -> Option<Self> {
        let (mut state, turn) = match &entry.state {
            EntryState::Waiting => (State::Waiting, None),
            EntryState::Running { turn } => (State::Running, Some(turn.clone())),
            EntryState::Answered { turn } => (State::Undelivered, Some(turn.clone())),
            EntryState::Done { .. } => return None,
        };
        let (mut why, mut until) = (None, None);
        if let Some(aside) = SetAside::of(entry) {
            state = State::Parked;
            why = Some(aside.text().to_owned());
        } else if entry.held {
            state = State::Held;
            why.clone_from(&entry.held_why);
        } else if let Some(deferred) = &entry.deferred {
            state = State::Parked;
            why = Some(format!("{}: {}", deferred.on, deferred.why));
            until = Some(deferred.until);
        } else if let Some(parked) = &entry.parked {
            state = State::Parked;
            why = Some(parked.why.clone());
            until = Some(parked.until);
        }
        Some(Self {
            id: entry.id.clone(),
            ids: entry.ids.clone(),
            queue: entry.queue.clone(),
            state,
            since: entry.accepted_at,
            attempts: entry.past.attempts,
            turn,
            why,
            until,
            message: Arc::clone(&entry.message),
        })
    }

    fn of_dead(dead: &Dead) -> Self {
        Self {
            id: dead.id.clone(),
            ids: dead.ids.clone(),
            queue: dead.queue.clone(),
            state: State::Dead,
            since: dead.at,
            attempts: dead.past.attempts,
            turn: None,
            why: Some(dead.why.clone()),
            until: None,
            message: Arc::clone(&dead.message),
        }
    }

    /// It waits for somebody to come, as the engine knows and the journal does not.
    pub fn leave(&mut self, why: &str) {
        if self.state == State::Waiting {
            self.state = State::Parked;
            self.why = Some(why.to_owned());
        }
    }

    /// It waits for its runtime, as the engine knows and the journal may not.
    pub fn park(&mut self, why: &str, until: i64) {
        if matches!(self.state, State::Waiting | State::Parked) {
            self.state = State::Parked;
            self.why = Some(why.to_owned());
            self.until = Some(until);
        }
    }
}

/// Everything unfinished, oldest first.
pub fn of(ledger: &Ledger) -> Vec<Item> {
    ledger.entries().filter_map(Item::of).collect()
}

/// Everything that was given up, oldest first.
pub fn dead(ledger: &Ledger) -> Vec<Item> {
    ledger.dead().map(Item::of_dead).collect()
}

/// A turn that the journal has running and that does not run was superseded, or died with its daemon: its
/// messages wait.
pub fn refine(item: &mut Item, runs: impl Fn(&str) -> bool) {
    if item.state == State::Running && !item.turn.as_deref().is_some_and(runs) {
        item.state = State::Waiting;
        item.turn = None;
    }
}

/// How old the messages of one conversation are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// All of them.
    pub total: u64,
    /// By age: as [`BUCKETS`], then the rest.
    pub ages: [u64; BUCKETS.len() + 1],
}

/// The bucket of an age in milliseconds.
pub fn bucket(age_ms: i64) -> usize {
    let minutes = age_ms.max(0) as u64 / 60_000;
    BUCKETS.iter().position(|end| minutes < *end).unwrap_or(BUCKETS.len())
}

/// Ages by queue key.
pub fn shape<'a>(items: impl IntoIterator<Item = &'a Item>, now: i64) -> BTreeMap<&'a str, Shape> {
    let mut shapes: BTreeMap<&str, Shape> = BTreeMap::new();
    for item in items {
        let shape = shapes.entry(&item.queue).or_default();
        shape.total += 1;
        if let Some(count) = shape.ages.get_mut(bucket(now.saturating_sub(item.since))) {
            *count += 1;
        }
    }
    shapes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_fall_into_buckets_whose_ends_belong_to_the_next() {
        let minute = 60_000;
        let table =
            [(-5, 0), (0, 0), (minute - 1, 0), (minute, 1), (5 * minute, 2), (239 * minute, 4), (1_440 * minute, 6)];
        for (age, at) in table {
            assert_eq!(bucket(age), at, "{age}");
        }
        assert_eq!(bucket(i64::MAX), BUCKETS.len());
    }
}
