//! Keeps channels running that need a thread of their own: the threads around [`manager`](crate::channel::manager).
//!
//! Neither stopping nor removing a channel touches turns that run for it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::channel::manager::{Backoff, ChannelStatus, Effect, Event, Supervised};
use crate::engine::cancel::{CancelReason, CancelToken};
use crate::engine::now_ms;
use crate::engine::ports::{Exit, Lifecycle};
use crate::net::dice::Dice;
use crate::thread;

/// How long a channel may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// All supervised channels. Clones are the same ones.
#[derive(Clone)]
pub struct Channels {
    inner: Arc<Inner>,
}

struct Inner {
    entries: Mutex<BTreeMap<String, Arc<Entry>>>,
    backoff: Backoff,
    changed: Box<dyn Fn() + Send + Sync>,
    /// Channels count as running and connected, and do nothing: tests have no far side.
    #[cfg(test)]
    idle: bool,
}

struct Entry {
    lifecycle: Arc<dyn Lifecycle>,
    state: Mutex<State>,
    /// Signalled when its thread has ended.
    ended: Condvar,
}

struct State {
    machine: Supervised,
    /// Of the thread that supervises it, while there is one.
    stop: Option<CancelToken>,
}

impl Channels {
    /// No channels yet. `changed` is called on many threads when a status changes, and must not wait.
    pub fn new(backoff: Backoff, changed: impl Fn() + Send + Sync + 'static) -> Self {
        let inner = Inner {
            entries: Mutex::default(),
            backoff,
            changed: Box::new(changed),
            #[cfg(test)]
            idle: false,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Channels that are only there.
    #[cfg(test)]
    pub(super) fn idle() -> Self {
        let inner =
            Inner { entries: Mutex::default(), backoff: Backoff::default(), changed: Box::new(|| {}), idle: true };
        Self { inner: Arc::new(inner) }
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.inner.lock().values().cloned().collect()
    }

    /// Adds a channel, which does not run yet. Returns whether its id was free.
    pub fn add(&self, lifecycle: Arc<dyn Lifecycle>) -> bool {
        let (id, backoff) = (lifecycle.id().to_owned(), self.inner.backoff);
        let machine = Supervised::new(&id, lifecycle.account(), lifecycle.provider(), backoff);
        let mut entries = self.inner.lock();
        if entries.contains_key(&id) {
            log::warn!("channel.exists channel={id}");
            return false;
        }
        let state = Mutex::new(State { machine, stop: None });
        entries.insert(id, Arc::new(Entry { lifecycle, state, ended: Condvar::new() }));
        true
    }

    /// Starts every channel that does not run; does not wait for connections.
    pub fn start_all(&self) {
        self.entries().into_iter().for_each(|entry| self.start(entry));
    }

    fn start(&self, entry: Arc<Entry>) {
        let mut state = entry.lock();
        // A thread that is about to end has to be waited for by whoever stopped it.
        if state.stop.is_some() || state.machine.step(Event::Start, now_ms(), 0.0) != Effect::Launch {
            return;
        }
        #[cfg(test)]
        if self.inner.idle {
            state.machine.status.connected = true;
            return;
        }
        let id = entry.lifecycle.id().to_owned();
        let started = CancelToken::new().and_then(|stop| {
            let (inner, supervised, token) = (Arc::clone(&self.inner), Arc::clone(&entry), stop.clone());
            let name: String = format!("channel:{id}").chars().take(64).collect();
            thread::spawn(name, move || supervise(&inner, &supervised, &token)).map(|_| stop)
        });
        match started {
            Ok(stop) => state.stop = Some(stop),
            Err(e) => {
                log::error!("channel.thread_failed channel={id} error={e}");
                state.machine.step(Event::Stop, now_ms(), 0.0);
                state.machine.step(Event::Exited(Exit::Failed(e.to_string())), now_ms(), 0.0);
            }
        }
        drop(state);
        (self.inner.changed)();
    }

    /// Stops every channel, each within ten seconds; pending restarts are forgotten.
    pub fn stop_all(&self) {
        let entries = self.entries();
        for entry in &entries {
            entry.stop();
        }
        let end = Instant::now() + STOP_LIMIT;
        for entry in &entries {
            entry.wait(end);
        }
    }

    /// Stops and forgets a channel; an unknown id is none of its business.
    pub fn remove(&self, id: &str) {
        let Some(entry) = self.inner.lock().remove(id) else { return };
        entry.stop();
        entry.wait(Instant::now() + STOP_LIMIT);
        (self.inner.changed)();
    }

    /// How the channels are, by id.
    pub fn statuses(&self) -> BTreeMap<String, ChannelStatus> {
        let entries = self.entries();
        crate::sort::map(entries.iter().map(|e| (e.lifecycle.id().to_owned(), e.lock().machine.status.clone())))
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        let mut state = self.lock();
        state.machine.step(Event::Stop, now_ms(), 0.0);
        if let Some(stop) = &state.stop {
            stop.cancel(CancelReason::Shutdown);
        }
    }

    fn wait(&self, end: Instant) {
        let mut state = self.lock();
        while state.stop.is_some() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                log::warn!("channel.stop_timeout channel={}", self.lifecycle.id());
                return;
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Runs a channel until it is stopped for good. Its thread.
fn supervise(inner: &Inner, entry: &Entry, stop: &CancelToken) {
    let id = entry.lifecycle.id();
    loop {
        log::info!("channel.started channel={id}");
        let tell = |news| {
            entry.lock().machine.status.tell(news);
            (inner.changed)();
        };
        let exit = catch_unwind(AssertUnwindSafe(|| entry.lifecycle.run(stop, &tell)))
            .unwrap_or_else(|_| Exit::Failed("the channel panicked".into()));
        match &exit {
            Exit::Ended => log::info!("channel.ended channel={id}"),
            Exit::Failed(why) => log::warn!("channel.failed channel={id} error={why:?}"),
            Exit::Permanent(why) => log::info!("channel.given_up channel={id} error={why:?}"),
        }
        let effect = entry.lock().machine.step(Event::Exited(exit), now_ms(), jitter());
        (inner.changed)();
        let Effect::Wait(ms) = effect else { break };
        if stop.sleep(Duration::from_millis(ms.max(0).unsigned_abs())) {
            break;
        }
        if entry.lock().machine.step(Event::Due, now_ms(), 0.0) != Effect::Launch {
            break;
        }
        (inner.changed)();
    }
    entry.lock().stop = None;
    entry.ended.notify_all();
}

/// Between -0.2 and 0.2, so that channels which failed together do not come back together.
fn jitter() -> f64 {
    Dice::default().roll() * 0.4 - 0.2
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::engine::ports::ChannelNews;

    /// Crashes so many times, then runs until it is stopped.
    struct Fragile {
        crashes: usize,
        runs: AtomicUsize,
    }

    impl Lifecycle for Fragile {
        fn id(&self) -> &'static str {
            "c"
        }
        fn account(&self) -> &'static str {
            "a"
        }
        fn provider(&self) -> &'static str {
            "test"
        }
        fn run(&self, stop: &CancelToken, tell: &dyn Fn(ChannelNews)) -> Exit {
            let run = self.runs.fetch_add(1, Ordering::SeqCst);
            if run < self.crashes {
                assert_eq!(run, 0, "contained");
                return Exit::Failed("gone".into());
            }
            tell(ChannelNews { connected: Some(true), ..ChannelNews::default() });
            while !stop.sleep(Duration::from_hours(1)) {}
            Exit::Ended
        }
    }

    fn wait_for(channels: &Channels, what: impl Fn(&ChannelStatus) -> bool) -> ChannelStatus {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let status = channels.statuses().remove("c").unwrap();
            if what(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{status:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_channel_that_fails_comes_back_and_one_that_is_stopped_does_not() {
        let backoff = Backoff { first_ms: 1, max_ms: 2, reset_after_ms: 30_000 };
        let pokes = Arc::new(AtomicUsize::new(0));
        let poked = Arc::clone(&pokes);
        let channels = Channels::new(backoff, move || {
            poked.fetch_add(1, Ordering::SeqCst);
        });
        let fragile = Arc::new(Fragile { crashes: 2, runs: AtomicUsize::new(0) });
        assert!(channels.add(Arc::clone(&fragile) as Arc<dyn Lifecycle>));
        assert!(!channels.add(Arc::clone(&fragile) as Arc<dyn Lifecycle>), "its id is taken");
        channels.start_all();
        channels.start_all();
        assert_eq!(wait_for(&channels, |s| s.connected).reconnect_attempts, 2);
        channels.stop_all();
        assert!(!channels.statuses()["c"].running);
        assert_eq!(fragile.runs.load(Ordering::SeqCst), 3);
        assert!(pokes.load(Ordering::SeqCst) > 3);
        channels.start_all();
        wait_for(&channels, |s| s.connected);
        channels.remove("c");
        channels.remove("c");
        assert!(channels.statuses().is_empty());
    }
}
