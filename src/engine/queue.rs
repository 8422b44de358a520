//! Which conversation runs next: lanes, the ready list and the two modes, as a pure state machine.
//!
//! A *lane* is the ordering domain of one queue key. It never runs two turns at once, whatever modes its
//! messages ask for. Lanes that have work and no turn wait in the ready list, owners first, in the order
//! in which they became ready; at most `limit` turns run in the whole daemon. A lane without work is
//! forgotten, so that ten thousand idle conversations cost nothing.
//!
//! Threads, journal and runtimes live elsewhere: every method returns what is to be done.

use std::collections::{HashMap, VecDeque};

/// What an arrival does to the turn that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It cancels it and takes everything unanswered along.
    CancelPrevious,
    /// It waits for its end and then runs together with the others that wait.
    Coalesce,
    /// It waits for its end and then runs alone.
    Single,
}

/// One accepted message on its way into a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival<T> {
    /// Drawn for the message when it was accepted; the last message of a turn gives the turn its id.
    pub turn_id: String,
    /// What it does to a running turn.
    pub mode: Mode,
    /// Whether its lane goes before others.
    pub owner: bool,
    /// Whatever the engine needs to run it.
    pub payload: T,
}

/// A turn that is to be cancelled for a newer message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supersede {
    /// The running turn.
    pub turn_id: String,
    /// The turn that takes its place.
    pub by: String,
}

/// A turn that is to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start<T> {
    /// Queue key.
    pub key: String,
    /// Turn id: that of the last arrival.
    pub turn_id: String,
    /// What it answers, oldest first; never empty.
    pub arrivals: Vec<Arrival<T>>,
}

/// How a turn left its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its messages are answered, or accounted for otherwise.
    Settled,
    /// It was superseded: its messages go on in the next turn.
    Carried,
}

#[derive(Clone, Debug)]
struct Lane<T> {
    waiting: VecDeque<Arrival<T>>,
    current: Option<Current<T>>,
    in_ready: bool,
    blocked: bool,
}

#[derive(Clone, Debug)]
struct Current<T> {
    turn_id: String,
    arrivals: Vec<Arrival<T>>,
    superseded: bool,
}

/// All lanes of the daemon.
#[derive(Clone, Debug)]
pub struct Queues<T> {
    lanes: HashMap<String, Lane<T>>,
    ready_owner: VecDeque<String>,
    ready: VecDeque<String>,
    running: usize,
}

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), ready_owner: VecDeque::new(), ready: VecDeque::new(), running: 0 }
    }
}

impl<T: Clone> Queues<T> {
    /// Number of turns and messages of this lane that are before a new arrival.
    pub fn ahead(&self, key: &str) -> usize {
        self.lanes.get(key).map_or(0, |l| l.waiting.len() + usize::from(l.current.is_some()))
    }

    /// Number of messages that wait in this lane.
    pub fn waiting(&self, key: &str) -> usize {
        self.lanes.get(key).map_or(0, |l| l.waiting.len())
    }

    /// Number of messages that wait in all lanes.
    pub fn waiting_total(&self) -> usize {
        self.lanes.values().map(|l| l.waiting.len()).sum()
    }

    /// Numbers of messages that wait, by lane; lanes without any are left out.
    pub fn waiting_by_key(&self) -> Vec<(String, usize)> {
        let lanes = self.lanes.iter().filter(|(_, l)| !l.waiting.is_empty());
        lanes.map(|(key, l)| (key.clone(), l.waiting.len())).collect()
    }

    /// Number of running turns.
    pub fn running(&self) -> usize {
        self.running
    }

    /// The turn that runs in this lane.
    pub fn current(&self, key: &str) -> Option<&str> {
        Some(self.lanes.get(key)?.current.as_ref()?.turn_id.as_str())
    }

    /// Whether nothing runs and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Puts a message at the end of its lane. The answer names the running turn, if it is to be cancelled;
    /// a turn is named at most once.
    #[must_use]
    pub fn arrive(&mut self, key: &str, arrival: Arrival<T>) -> Option<Supersede> {
        let lane = self.lanes.entry(key.to_owned()).or_insert_with(|| Lane {
            waiting: VecDeque::new(),
            current: None,
            in_ready: false,
            blocked: false,
        });
        let supersede = match &mut lane.current {
            Some(current) if arrival.mode == Mode::CancelPrevious && !current.superseded => {
                current.superseded = true;
                Some(Supersede { turn_id: current.turn_id.clone(), by: arrival.turn_id.clone() })
            }
            _ => None,
        };
        lane.waiting.push_back(arrival);
        self.offer(key);
        supersede
    }

    /// Keeps a lane from starting turns, or lets it go again. Messages are still taken.
    pub fn set_blocked(&mut self, key: &str, blocked: bool) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.blocked = blocked;
            // Everything may have been taken out of it meanwhile.
            if !blocked && lane.current.is_none() && lane.waiting.is_empty() {
                self.lanes.remove(key);
            }
            self.offer(key);
        }
    }

    /// The next turn to start, if fewer than `limit` run. The caller starts it and reports its end with
    /// [`Queues::finished`].
    pub fn next(&mut self, limit: usize) -> Option<Start<T>> {
        self.next_admitted(limit, |_| true)
    }

    /// The same, of those lanes whose next turn is admitted, by the arrival that gives it its name. The others
    /// keep their places.
    pub fn next_admitted(&mut self, limit: usize, mut admit: impl FnMut(&Arrival<T>) -> bool) -> Option<Start<T>> {
        if self.running >= limit {
            return None;
        }
        let mut passed_over = (Vec::new(), Vec::new());
        let start = loop {
            let (key, owner) = match self.ready_owner.pop_front() {
                Some(key) => (key, true),
                None => match self.ready.pop_front() {
                    Some(key) => (key, false),
                    None => break None,
                },
            };
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            let count = batch(&lane.waiting);
            let admitted = count.checked_sub(1).and_then(|at| lane.waiting.get(at)).is_none_or(&mut admit);
            if !admitted && !lane.blocked && lane.current.is_none() {
                let list = if owner { &mut passed_over.0 } else { &mut passed_over.1 };
                list.push(key);
                continue;
            }
            lane.in_ready = false;
            if lane.blocked || lane.current.is_some() {
                continue;
            }
            let arrivals: Vec<_> = lane.waiting.drain(..count).collect();
            let Some(last) = arrivals.last() else { continue };
            let turn_id = last.turn_id.clone();
            lane.current = Some(Current { turn_id: turn_id.clone(), arrivals: arrivals.clone(), superseded: false });
            self.running += 1;
            break Some(Start { key, turn_id, arrivals });
        };
        passed_over.0.into_iter().rev().for_each(|key| self.ready_owner.push_front(key));
        passed_over.1.into_iter().rev().for_each(|key| self.ready.push_front(key));
        start
    }

    /// Whether a lane may have a turn to start.
    pub fn has_ready(&self) -> bool {
        !self.ready_owner.is_empty() || !self.ready.is_empty()
    }

    /// Changes what a lane's running turn will be carried on with, see [`Ending::Carried`].
    pub fn amend_current(&mut self, key: &str, turn_id: &str, change: impl FnMut(&mut T)) {
        let current = self.lanes.get_mut(key).and_then(|l| l.current.as_mut()).filter(|c| c.turn_id == turn_id);
        if let Some(current) = current {
            current.arrivals.iter_mut().map(|a| &mut a.payload).for_each(change);
        }
    }

    /// Everything that waits, with its lane.
    pub fn arrivals(&self) -> impl Iterator<Item = (&str, &Arrival<T>)> {
        self.lanes.iter().flat_map(|(key, lane)| lane.waiting.iter().map(|a| (key.as_str(), a)))
    }

    /// The lane's turn has ended. With [`Ending::Carried`] its messages go to the front of the lane.
    /// A turn that is not the lane's current one is ignored.
    pub fn finished(&mut self, key: &str, turn_id: &str, ending: Ending) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if lane.current.as_ref().is_none_or(|c| c.turn_id != turn_id) {
            return;
        }
        if let Some(current) = lane.current.take() {
            self.running -= 1;
            if ending == Ending::Carried {
                for arrival in current.arrivals.into_iter().rev() {
                    lane.waiting.push_front(arrival);
                }
            }
        }
        if lane.waiting.is_empty() && !lane.blocked {
            self.lanes.remove(key);
        } else {
            self.offer(key);
        }
    }

    /// Takes every waiting message for which `remove` answers true out of its lane. What stays may be changed.
    pub fn remove_waiting(
        &mut self,
        mut remove: impl FnMut(&str, &mut Arrival<T>) -> bool,
    ) -> Vec<(String, Arrival<T>)> {
        let mut removed = Vec::new();
        for (key, lane) in &mut self.lanes {
            let mut kept = VecDeque::with_capacity(lane.waiting.len());
            for mut arrival in lane.waiting.drain(..) {
                if remove(key, &mut arrival) {
                    removed.push((key.clone(), arrival));
                } else {
                    kept.push_back(arrival);
                }
            }
            lane.waiting = kept;
        }
        self.lanes.retain(|_, l| l.current.is_some() || !l.waiting.is_empty() || l.blocked);
        removed
    }

    /// Puts a lane into the ready list, if it has work, nothing runs in it and it is not there yet.
    fn offer(&mut self, key: &str) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if lane.in_ready || lane.blocked || lane.current.is_some() {
            return;
        }
        let Some(first) = lane.waiting.front() else { return };
        lane.in_ready = true;
        let list = if first.owner { &mut self.ready_owner } else { &mut self.ready };
        list.push_back(key.to_owned());
    }
}

/// How many messages at the front of a lane become one turn: everything up to the last message that cancels;
/// else the run of messages that coalesce; else one.
fn batch<T>(waiting: &VecDeque<Arrival<T>>) -> usize {
    let cancelling = waiting.iter().rposition(|a| a.mode == Mode::CancelPrevious).map(|at| at + 1);
    let coalescing = waiting.iter().take_while(|a| a.mode == Mode::Coalesce).count();
    cancelling.unwrap_or(coalescing.max(1)).min(waiting.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(id: &str, mode: Mode) -> Arrival<()> {
        Arrival { turn_id: id.into(), mode, owner: false, payload: () }
    }

    fn ids(start: &Start<()>) -> Vec<&str> {
        start.arrivals.iter().map(|a| a.turn_id.as_str()).collect()
    }

    #[test]
    fn a_lane_that_was_emptied_while_it_was_blocked_is_forgotten() {
        let mut q = Queues::default();
        assert_eq!(q.arrive("k", arrival("1", Mode::Single)), None);
        q.set_blocked("k", true);
        assert_eq!(q.remove_waiting(|_, _| true).len(), 1);
        assert!(!q.is_idle());
        q.set_blocked("k", false);
        assert!(q.is_idle());
    }

    #[test]
    fn messages_that_coalesce_become_one_turn_after_the_first() {
        let mut q = Queues::default();
        assert_eq!(q.arrive("k", arrival("1", Mode::Coalesce)), None);
        let first = q.next(9).unwrap();
        assert_eq!(ids(&first), ["1"]);
        for id in ["2", "3"] {
            assert_eq!(q.arrive("k", arrival(id, Mode::Coalesce)), None);
        }
        assert_eq!(q.next(9), None);
        assert_eq!(q.ahead("k"), 3);
        q.finished("k", "1", Ending::Settled);
        let second = q.next(9).unwrap();
        assert_eq!((ids(&second), second.turn_id.as_str()), (vec!["2", "3"], "3"));
        q.finished("k", "3", Ending::Settled);
        assert!(q.is_idle());
    }

    #[test]
    fn single_messages_run_one_by_one() {
        let mut q = Queues::default();
        for id in ["1", "2", "3"] {
            assert_eq!(q.arrive("k", arrival(id, Mode::Single)), None);
        }
        for id in ["1", "2", "3"] {
            assert_eq!(ids(&q.next(1).unwrap()), [id]);
            q.finished("k", id, Ending::Settled);
        }
        assert!(q.is_idle());
    }

    #[test]
    fn a_newer_message_cancels_once_and_carries_what_was_not_answered() {
        let mut q = Queues::default();
        assert_eq!(q.arrive("k", arrival("1", Mode::CancelPrevious)), None);
        q.next(9).unwrap();
        let order = Supersede { turn_id: "1".into(), by: "2".into() };
        assert_eq!(q.arrive("k", arrival("2", Mode::CancelPrevious)), Some(order));
        assert_eq!(q.arrive("k", arrival("3", Mode::CancelPrevious)), None, "cancelled already");
        assert_eq!(q.next(9), None, "never two turns in one lane");
        q.finished("k", "1", Ending::Carried);
        let next = q.next(9).unwrap();
        assert_eq!((ids(&next), next.turn_id.as_str()), (vec!["1", "2", "3"], "3"));
    }

    #[test]
    fn a_turn_that_answered_before_it_was_cancelled_is_not_carried() {
        let mut q = Queues::default();
        let _ = q.arrive("k", arrival("1", Mode::CancelPrevious));
        q.next(9).unwrap();
        let _ = q.arrive("k", arrival("2", Mode::CancelPrevious));
        q.finished("k", "1", Ending::Settled);
        assert_eq!(ids(&q.next(9).unwrap()), ["2"]);
    }

    #[test]
    fn modes_may_mix_in_one_lane() {
        let mut q = Queues::default();
        for (id, mode) in [("1", Mode::Coalesce), ("2", Mode::CancelPrevious), ("3", Mode::Coalesce)] {
            let _ = q.arrive("k", arrival(id, mode));
        }
        assert_eq!(ids(&q.next(9).unwrap()), ["1", "2"]);
        q.finished("k", "2", Ending::Settled);
        assert_eq!(ids(&q.next(9).unwrap()), ["3"]);
    }

    #[test]
    fn owners_go_first_and_others_keep_their_order() {
        let mut q = Queues::default();
        for (key, owner) in [("a", false), ("b", false), ("o", true)] {
            let _ = q.arrive(key, Arrival { owner, ..arrival(key, Mode::Single) });
        }
        let order: Vec<_> = std::iter::from_fn(|| q.next(9)).map(|s| s.key).collect();
        assert_eq!(order, ["o", "a", "b"]);
    }

    #[test]
    fn the_limit_holds_and_lanes_are_served_in_turn() {
        let mut q = Queues::default();
        for (key, id) in [("a", "a1"), ("a", "a2"), ("b", "b1")] {
            let _ = q.arrive(key, arrival(id, Mode::Single));
        }
        assert_eq!(q.next(1).unwrap().turn_id, "a1");
        assert_eq!(q.next(1), None);
        q.finished("a", "a1", Ending::Settled);
        assert_eq!(q.next(1).unwrap().turn_id, "b1", "the busy lane goes to the end of the list");
    }

    #[test]
    fn a_blocked_lane_takes_messages_and_starts_nothing() {
        let mut q = Queues::default();
        let _ = q.arrive("k", arrival("1", Mode::Single));
        q.set_blocked("k", true);
        assert_eq!(q.next(9), None);
        q.set_blocked("k", false);
        assert_eq!(q.next(9).unwrap().turn_id, "1");
    }

    #[test]
    fn a_lane_that_is_not_admitted_keeps_its_place_and_holds_nobody_up() {
        let mut q = Queues::default();
        for (key, owner) in [("o", true), ("a", false), ("b", false), ("c", false)] {
            let _ = q.arrive(key, Arrival { owner, ..arrival(key, Mode::Single) });
        }
        assert_eq!(q.next_admitted(9, |a| a.turn_id == "b").unwrap().key, "b");
        assert_eq!(q.next_admitted(9, |_| false), None);
        assert!(q.has_ready());
        let order: Vec<_> = std::iter::from_fn(|| q.next(9)).map(|s| s.key).collect();
        assert_eq!(order, ["o", "a", "c"]);
        assert!(!q.has_ready());
    }

    #[test]
    fn removed_messages_leave_no_lane_behind() {
        let mut q = Queues::default();
        let _ = q.arrive("k", arrival("1", Mode::Single));
        let removed = q.remove_waiting(|key, a| key == "k" && a.turn_id == "1");
        assert_eq!(removed.len(), 1);
        assert!(q.is_idle());
        assert_eq!(q.next(9), None);
    }

    /// Every interleaving of up to five arrivals (all modes) with the ends of turns: one turn per lane at a
    /// time, nothing lost, nothing twice, order kept.
    #[test]
    fn every_schedule_keeps_the_promises() {
        fn walk(q: &mut Vec<(usize, u8)>, depth: usize, count: &mut usize) {
            replay(q);
            *count += 1;
            if depth == 0 {
                return;
            }
            for step in 0..6u8 {
                q.push((depth, step));
                walk(q, depth - 1, count);
                q.pop();
            }
        }
        fn replay(steps: &[(usize, u8)]) {
            let mut q = Queues::default();
            let (mut sent, mut answered, mut running) = (Vec::new(), Vec::new(), None::<Start<()>>);
            for (n, (_, step)) in steps.iter().enumerate() {
                let id = format!("{n}");
                match step {
                    0..=2 => {
                        let mode = [Mode::CancelPrevious, Mode::Coalesce, Mode::Single][usize::from(*step)];
                        let before = running.as_ref().map(|s| s.turn_id.clone());
                        if let Some(order) = q.arrive("k", arrival(&id, mode)) {
                            assert_eq!(Some(order.turn_id), before);
                        }
                        sent.push(id);
                    }
                    3 => {
                        let next = q.next(1);
                        assert!(running.is_none() || next.is_none(), "two turns at once");
                        running = running.or(next);
                    }
                    ending => {
                        let Some(start) = running.take() else { continue };
                        let carried = *ending == 5;
                        q.finished("k", &start.turn_id, if carried { Ending::Carried } else { Ending::Settled });
                        if !carried {
                            answered.extend(start.arrivals.into_iter().map(|a| a.turn_id));
                        }
                    }
                }
            }
            if let Some(start) = running.take() {
                q.finished("k", &start.turn_id, Ending::Settled);
                answered.extend(start.arrivals.into_iter().map(|a| a.turn_id));
            }
            while let Some(start) = q.next(1) {
                q.finished("k", &start.turn_id, Ending::Settled);
                answered.extend(start.arrivals.into_iter().map(|a| a.turn_id));
            }
            assert_eq!(sent, answered, "steps {steps:?}");
            assert!(q.is_idle() && q.running() == 0);
        }
        let mut count = 0;
        walk(&mut Vec::new(), 6, &mut count);
        assert_eq!(count, 55987, "6^0 + … + 6^6 schedules");
    }
}
