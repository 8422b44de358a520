//! One thread for everything that happens later: turn limits, retries, refreshes.
//!
//! It sleeps until the next deadline and without one it sleeps for ever: an idle daemon makes no wake-ups.
//! Actions run on this thread, one after the other, and must be quick; a panic in one is caught and logged.

use crate::thread;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

type Action = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    due: BTreeMap<(Instant, u64), Action>,
    next_id: u64,
    closed: bool,
}

/// The timer thread. Clones are the same one.
#[derive(Clone)]
pub struct Timers {
    shared: Arc<(Mutex<State>, Condvar)>,
}

/// A pending action; dropping it changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerId(Instant, u64);

impl Timers {
    /// Starts the thread.
    pub fn start() -> std::io::Result<Self> {
        let timers = Self { shared: Arc::default() };
        let shared = Arc::clone(&timers.shared);
        thread::spawn("timers", move || run(&shared))?;
        Ok(timers)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `action` after `delay`. After [`Timers::close`] it never runs.
    pub fn after(&self, delay: Duration, action: impl FnOnce() + Send + 'static) -> TimerId {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let at = Instant::now() + delay;
        if !state.closed {
            state.due.insert((at, id), Box::new(action));
            if state.due.first_key_value().is_some_and(|(first, _)| *first == (at, id)) {
                self.shared.1.notify_one();
            }
        }
        TimerId(at, id)
    }

    /// Forgets a pending action; returns whether it was still pending.
    pub fn cancel(&self, id: TimerId) -> bool {
        self.lock().due.remove(&(id.0, id.1)).is_some()
    }

    /// Forgets everything pending and ends the thread.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.due.clear();
        self.shared.1.notify_one();
    }
}

fn run(shared: &(Mutex<State>, Condvar)) {
    let mut state = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
    while !state.closed {
        let now = Instant::now();
        let next = state.due.first_key_value().map(|((at, _), _)| *at);
        state = match next {
            None => shared.1.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(at) if at > now => shared.1.wait_timeout(state, at - now).unwrap_or_else(PoisonError::into_inner).0,
            Some(_) => {
                let action = state.due.pop_first().map(|(_, action)| action);
                drop(state);
                if let Some(action) = action
                    && catch_unwind(AssertUnwindSafe(action)).is_err()
                {
                    log::error!("timer.panic");
                }
                shared.0.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn actions_run_in_order_of_their_times_and_panics_stay_inside() {
        let timers = Timers::start().unwrap();
        let (tx, rx) = channel();
        for (ms, word) in [(30, "third"), (10, "first"), (20, "second")] {
            let tx = tx.clone();
            timers.after(Duration::from_millis(ms), move || tx.send(word).unwrap());
        }
        timers.after(Duration::from_millis(15), || panic!("contained"));
        let got: Vec<_> = (0..3).map(|_| rx.recv().unwrap()).collect();
        assert_eq!(got, ["first", "second", "third"]);
        timers.close();
    }

    #[test]
    fn a_cancelled_action_never_runs() {
        let timers = Timers::start().unwrap();
        let (tx, rx) = channel();
        let other = tx.clone();
        let id = timers.after(Duration::from_millis(5), move || tx.send("cancelled").unwrap());
        assert!(timers.cancel(id));
        assert!(!timers.cancel(id));
        timers.after(Duration::from_millis(10), move || other.send("kept").unwrap());
        assert_eq!(rx.recv().unwrap(), "kept");
        timers.close();
    }
}
