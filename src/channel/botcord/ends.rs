//! Tells a hub that turns are over (the hub's protocol, §14.3): it shows them as running, and holds on to what they
//! need, for half an hour otherwise.
//!
//! A thread does it while there is something to tell. What the hub cannot be told now it is told a little later, some
//! times; telling it twice does no harm. Whoever wants to know is called back once a turn's messages are all told, or
//! given up: what a crash leaves untold is told by the next start.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::far::Far;
use crate::engine::ports::Told;
use crate::thread;

/// Turns that wait to be told; the oldest make room, and are given up.
const WAITING: usize = 1_000;
/// How long to wait after each failure; after the last one it is given up.
const AGAIN: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(10), Duration::from_mins(1), Duration::from_mins(5)];

/// A turn that is over.
struct End {
    number: u64,
    /// The messages of it that the hub does not know of yet.
    traces: VecDeque<String>,
    told: Option<Told>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<End>,
    number: u64,
    busy: bool,
    stopped: bool,
}

/// The ends of one agent's streams.
pub struct StreamEnds {
    far: Arc<dyn Far>,
    state: Mutex<State>,
    changed: Condvar,
}

impl StreamEnds {
    /// Nothing to tell yet.
    pub fn new(far: Arc<dyn Far>) -> Arc<Self> {
        Arc::new(Self { far, state: Mutex::default(), changed: Condvar::new() })
    }

    /// The turn of these messages is over. Returns at once.
    pub fn push(self: &Arc<Self>, traces: &[String], told: Told) {
        if traces.is_empty() {
            return told();
        }
        let mut state = self.lock();
        state.number += 1;
        let end = End { number: state.number, traces: traces.iter().cloned().collect(), told: Some(told) };
        state.waiting.push_back(end);
        let excess = state.waiting.len().saturating_sub(WAITING);
        let dropped: Vec<End> = state.waiting.drain(..excess).collect();
        let is_busy = std::mem::replace(&mut state.busy, true);
        drop(state);
        if excess > 0 {
            log::warn!("botcord.stream_ends_dropped agent={} count={excess}", self.far.agent());
            dropped.into_iter().filter_map(|end| end.told).for_each(|told| told());
        }
        if is_busy {
            return;
        }
        let ends = Arc::clone(self);
        let name = format!("ends:{}", self.far.agent());
        if let Err(e) = thread::errand(name, move || ends.run()) {
            log::error!("botcord.thread_failed agent={} errand=ends error={e}", self.far.agent());
            self.lock().busy = false;
        }
    }

    /// Waits until all is told, at most for `limit`; gives up the rest.
    pub fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        while state.busy {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.stopped = true;
        self.changed.notify_all();
    }

    fn run(&self) {
        let mut failures = 0;
        loop {
            let mut state = self.lock();
            let next = state.waiting.front().filter(|_| !state.stopped);
            let Some((number, trace)) = next.and_then(|end| Some((end.number, end.traces.front()?.clone()))) else {
                state.busy = false;
                self.changed.notify_all();
                return;
            };
            drop(state);
            let Err(e) = self.far.stream_end(&trace) else {
                failures = 0;
                self.told(number);
                continue;
            };
            // The hub's verdict stays the same.
            let is_final =
                e.refusal().is_some_and(|r| r.status < 500 && !r.of_refresh && !matches!(r.status, 401 | 408 | 429));
            let wait = AGAIN.get(failures).filter(|_| !is_final);
            let agent = self.far.agent();
            log::warn!(
                "botcord.stream_end_failed agent={agent} trace={trace:?} final={} error={:?}",
                wait.is_none(),
                e.to_string()
            );
            match wait {
                Some(wait) => {
                    failures += 1;
                    self.rest(*wait);
                }
                None => {
                    failures = 0;
                    self.told(number);
                }
            }
        }
    }

    /// The first message of this turn need not be told any more; the turn is the first unless others have pushed it out.
    fn told(&self, number: u64) {
        let mut state = self.lock();
        let Some(end) = state.waiting.front_mut().filter(|end| end.number == number) else { return };
        end.traces.pop_front();
        let is_over = end.traces.is_empty();
        let told = end.told.take_if(|_| is_over);
        if is_over {
            state.waiting.pop_front();
        }
        drop(state);
        if let Some(told) = told {
            told();
        }
    }

    /// Waits so long, less when it is to stop.
    fn rest(&self, wait: Duration) {
        let state = self.lock();
        drop(self.changed.wait_timeout_while(state, wait, |s| !s.stopped));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::ApiError;
    use super::super::fake::{FakeHub, refused};
    use super::*;

    #[test]
    fn every_stream_is_ended_and_a_verdict_is_not_argued_with() {
        let hub = Arc::new(FakeHub::answering([None, Some(refused(422, "")), None]));
        let ends = StreamEnds::new(Arc::clone(&hub) as Arc<dyn Far>);
        let (told, heard) = crossbeam_channel::unbounded();
        let tell = |name: &'static str| {
            let (told, hub) = (told.clone(), Arc::clone(&hub));
            Box::new(move || told.send((name, hub.calls().len())).unwrap()) as Told
        };
        ends.push(&[], tell("none"));
        ends.push(&["h_1".into(), "h_2".into()], tell("two"));
        ends.push(&["h_3".into()], tell("one"));
        ends.flush(Duration::from_secs(30));
        assert_eq!(hub.calls(), ["end h_1", "end h_2", "end h_3"]);
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [("none", 0), ("two", 2), ("one", 3)]);
    }

    #[test]
    fn what_cannot_be_told_now_waits_and_does_not_hold_up_the_end() {
        let down = || Some(ApiError::Network { sent: false, why: "down".into() });
        let hub = Arc::new(FakeHub::answering([down(), down(), down(), down()]));
        let ends = StreamEnds::new(Arc::clone(&hub) as Arc<dyn Far>);
        ends.push(&["h_1".into()], Box::new(|| panic!("the hub does not know")));
        while hub.calls().is_empty() {
            std::thread::yield_now();
        }
        ends.flush(Duration::ZERO);
        let state = ends.lock();
        let state = ends.changed.wait_timeout_while(state, Duration::from_secs(30), |s| s.busy).unwrap().0;
        assert!(!state.busy && state.waiting.len() == 1);
    }
}
