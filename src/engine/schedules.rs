//! Every schedule of a turn's end: what cancels it (a newer message, a person, the time limit), the adapter that
//! returns, early or late or never, and the timer that goes on without it.
//!
//! All that these share is a lane ([`Queues`]) and a token ([`Life`]), and both are changed only under a lock, one
//! call at a time. So a schedule is an order of such calls, and all orders can be walked through without threads: no
//! tool that takes over the scheduler is needed, and nothing is left to its choice.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::cancel::{CancelReason, Life};
use super::queue::{Arrival, Ending, Mode, Queues};

/// What comes, in this order; the room's mode is that of each.
const ARRIVALS: [(&str, Mode); 4] =
    [("1", Mode::CancelPrevious), ("2", Mode::CancelPrevious), ("3", Mode::Coalesce), ("4", Mode::CancelPrevious)];

/// Somebody who wants to conclude a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Worker,
    Abandoner,
}

/// How far somebody is with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The adapter runs, or the timer.
    Before,
    /// He has the end.
    Has(Option<CancelReason>),
    /// What follows from the end is done; the lane is still taken.
    Written(Ending),
    Gone,
}

#[derive(Clone, Debug)]
struct Turn {
    life: Life,
    messages: Vec<String>,
    who: BTreeMap<Who, At>,
    time_limit: bool,
}

/// The engine, as far as it matters here. What one function does here is done under one lock there.
#[derive(Clone, Debug, Default)]
struct World {
    queues: Queues<()>,
    turns: BTreeMap<String, Turn>,
    arrived: usize,
    person_came: bool,
    /// Turn ids whose transcript says that another one took their place, of messages that have not ended.
    superseded: BTreeSet<String>,
    /// Turn ids with their last record of a transcript.
    records: Vec<String>,
    /// Messages with how they ended.
    ends: BTreeMap<String, &'static str>,
    /// Messages of which a person was told that they are cancelled.
    promised: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Arrive,
    Start,
    Person,
    TimeLimit,
    // The adapter returns, or the abandoner's timer is due; then what follows from that.
    Worker,
    Abandoner,
}

impl World {
    /// Everything that may happen next.
    fn next(&self) -> Vec<(Step, Self)> {
        let mut all = Vec::new();
        let ids: Vec<&String> = self.turns.keys().collect();
        let mut offer = |step, changed: Option<Self>| all.extend(changed.map(|world| (step, world)));
        offer(Step::Arrive, self.arrive());
        offer(Step::Start, self.start());
        offer(Step::Person, self.person());
        for id in ids {
            offer(Step::TimeLimit, self.time_limit(id));
            offer(Step::Worker, self.advance(id, Who::Worker));
            offer(Step::Abandoner, self.advance(id, Who::Abandoner));
        }
        all
    }

    fn arrive(&self) -> Option<Self> {
        let (id, mode) = *ARRIVALS.get(self.arrived)?;
        let mut world = self.clone();
        world.arrived += 1;
        let arrival = Arrival { turn_id: id.to_owned(), mode, owner: false, payload: () };
        if let Some(order) = world.queues.arrive("k", arrival)
            && world.cancel(&order.turn_id, CancelReason::Superseded)
        {
            world.superseded.insert(order.turn_id.clone());
            world.records.push(order.turn_id);
        }
        Some(world)
    }

    fn start(&self) -> Option<Self> {
        let mut world = self.clone();
        let start = world.queues.next(9)?;
        let messages: Vec<_> = start.arrivals.into_iter().map(|a| a.turn_id).collect();
        for id in messages.iter().filter(|id| **id != start.turn_id) {
            if world.superseded.insert(id.clone()) {
                world.records.push(id.clone());
            }
        }
        let who = BTreeMap::from([(Who::Worker, At::Before)]);
        let turn = Turn { life: Life::Running, messages, who, time_limit: true };
        // A turn that had to wait for the journal would come back under its own name; none does here.
        assert!(world.turns.insert(start.turn_id, turn).is_none(), "a turn id is given once");
        Some(world)
    }

    /// A person cancels the conversation.
    fn person(&self) -> Option<Self> {
        if self.person_came {
            return None;
        }
        let mut world = self.clone();
        world.person_came = true;
        for (_, arrival) in world.queues.remove_waiting(|_, _| true) {
            world.promised.insert(arrival.turn_id.clone());
            world.superseded.remove(&arrival.turn_id);
            world.account(&arrival.turn_id, "cancelled");
        }
        if let Some(id) = world.queues.current("k").map(str::to_owned)
            && world.cancel(&id, CancelReason::User)
        {
            let messages = world.turns.get(&id).expect("it runs").messages.clone();
            world.promised.extend(messages);
        }
        Some(world)
    }

    fn time_limit(&self, id: &str) -> Option<Self> {
        let mut world = self.clone();
        let turn = world.turns.get_mut(id)?;
        if !std::mem::take(&mut turn.time_limit) {
            return None;
        }
        world.cancel(id, CancelReason::Timeout);
        Some(world)
    }

    fn cancel(&mut self, id: &str, reason: CancelReason) -> bool {
        let turn = self.turns.get_mut(id).expect("a turn that is named has run");
        let done = turn.life.cancel(reason);
        if done {
            turn.who.entry(Who::Abandoner).or_insert(At::Before);
        }
        done
    }

    fn advance(&self, id: &str, who: Who) -> Option<Self> {
        let mut world = self.clone();
        let turn = world.turns.get_mut(id)?;
        let turn_messages = turn.messages.clone();
        let next = match *turn.who.get(&who)? {
            At::Before => turn.life.end().map_or(At::Gone, At::Has),
            At::Has(Some(CancelReason::Superseded)) => At::Written(Ending::Carried),
            At::Has(reason) => {
                let end = match reason {
                    None => "answered",
                    Some(CancelReason::User) => "cancelled",
                    Some(_) => "timeout",
                };
                for message in &turn_messages {
                    world.account(message, end);
                }
                if reason != Some(CancelReason::User) {
                    world.records.push(id.to_owned());
                }
                At::Written(Ending::Settled)
            }
            At::Written(Ending::Carried) if turn.life.reason() == Some(CancelReason::User) => {
                At::Has(Some(CancelReason::User))
            }
            At::Written(ending) => {
                assert_eq!(world.queues.current("k"), Some(id), "the lane is freed by whom it belongs to");
                world.queues.finished("k", id, ending);
                if ending == Ending::Settled {
                    let over: Vec<_> = turn_messages.into_iter().chain([id.to_owned()]).collect();
                    world.superseded.retain(|id| !over.contains(id));
                }
                At::Gone
            }
            At::Gone => return None,
        };
        let turn = world.turns.get_mut(id)?;
        turn.who.insert(who, next);
        // The worker takes its timer along.
        turn.time_limit &= who != Who::Worker;
        Some(world)
    }

    fn account(&mut self, message: &str, how: &'static str) {
        let before = self.ends.insert(message.to_owned(), how);
        assert_eq!(before, None, "message {message} ends twice");
    }

    fn check(&self) {
        let at_work = |turn: &Turn| turn.who.values().filter(|at| matches!(at, At::Has(_) | At::Written(_))).count();
        assert!(self.turns.values().all(|turn| at_work(turn) <= 1), "an end has one owner");
        assert!(self.queues.running() <= 1, "a lane has one turn");
        let records: HashSet<_> = self.records.iter().collect();
        assert_eq!(records.len(), self.records.len(), "a turn has one last record");
    }

    /// Nothing is left that could happen.
    fn check_end(&self) {
        assert!(self.queues.is_idle() && self.queues.running() == 0);
        assert_eq!(self.ends.len(), ARRIVALS.len(), "every message ends");
        assert!(self.superseded.is_empty(), "nothing is remembered of what is over");
        for message in &self.promised {
            assert_eq!(self.ends.get(message), Some(&"cancelled"), "message {message}: a person was told so");
        }
    }
}

/// Walks through all states that some schedule leads to; equal states are walked on from once. Returns how many there
/// are, and how many steps lead from one to another.
fn walk() -> (usize, usize) {
    let mut seen = HashSet::new();
    let mut open = vec![(World::default(), Vec::new())];
    let mut steps = 0;
    while let Some((world, path)) = open.pop() {
        if !seen.insert(format!("{world:?}")) {
            continue;
        }
        let checked = std::panic::catch_unwind(|| {
            world.check();
            let next = world.next();
            if next.is_empty() {
                world.check_end();
            }
            next
        });
        let next = checked.unwrap_or_else(|_| panic!("after {path:?}: {world:#?}"));
        steps += next.len();
        for (step, world) in next {
            let mut path = path.clone();
            path.push(step);
            open.push((world, path));
        }
    }
    (seen.len(), steps)
}

#[test]
fn every_end_of_a_turn_has_one_owner_and_every_message_one_end() {
    let (states, steps) = walk();
    println!("{states} states, {steps} steps");
    assert!(states > 10_000, "{states} states: something that may happen is left out");
}
