//! The link as the rest of the daemon holds it: how it is, and what is to be sent.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;

use super::frame::{Frame, Handled};
use super::ring::KeyRing;
use super::session::TokenError;
use crate::time::now_ms;

/// What the link says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Whether the socket is open.
    pub connected: bool,
    /// A person has to log in again.
    pub expired: bool,
    /// Since when it is as it is (Unix milliseconds).
    pub since: Option<i64>,
    /// What went wrong last; none since it is connected.
    pub last_error: Option<String>,
    /// The hub's clock less ours in milliseconds, where that is more than a minute.
    pub skew_ms: Option<i64>,
    /// Frames are taken although nobody's signature counts.
    pub unsigned: bool,
}

/// What the rest of the daemon uses of the link. Clones are the same.
#[derive(Clone)]
pub struct Link {
    pub(super) shared: Arc<Shared>,
}

/// What the handle and the thread have in common.
pub(super) struct Shared {
    pub(super) wake: OwnedFd,
    pub(super) state: Mutex<State>,
    /// Called when [`Link::state`] has changed.
    pub(super) changed: Box<dyn Fn() + Send + Sync>,
}

/// Everything that one of the two has for the other.
#[derive(Default)]
pub(super) struct State {
    pub(super) link: LinkState,
    /// Answers, and when they were made.
    pub(super) answers: VecDeque<(Instant, Value)>,
    /// The newest event of each kind, and of each agent where it is about one.
    pub(super) events: Vec<(String, Value)>,
    /// Frames that have been carried out, and how.
    pub(super) done: VecDeque<(Frame, Handled)>,
    /// Keys that count from now on, and whether unsigned frames are refused without any.
    pub(super) keys: Option<(KeyRing, bool)>,
    /// Somebody has logged in.
    pub(super) look: bool,
    /// What a renewal in the background came to.
    pub(super) renewed: Option<Result<(), TokenError>>,
}

impl Link {
    /// How it is.
    pub fn state(&self) -> LinkState {
        self.shared.lock().link.clone()
    }

    /// Has an event sent that is worth nothing later.
    pub fn tell_now(&self, key: &str, event: Value) {
        if self.state().connected {
            self.tell(key, event);
        }
    }

    /// Has an event sent, now or after the next connect. Of each `key` only the newest is kept.
    pub fn tell(&self, key: &str, event: Value) {
        let mut state = self.shared.lock();
        state.events.retain(|(known, _)| known != key);
        state.events.push((key.to_owned(), event));
        drop(state);
        self.shared.wake();
    }

    /// Other keys count from now on.
    pub fn set_keys(&self, ring: KeyRing, require_signed: bool) {
        self.shared.lock().keys = Some((ring, require_signed));
        self.shared.wake();
    }

    /// Has it look whether somebody has logged in anew.
    pub fn look_for_login(&self) {
        self.shared.lock().look = true;
        self.shared.wake();
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake(&self) {
        // An eventfd takes a 1 unless it was written to 2^64 times.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut LinkState)) {
        let changed = {
            let mut state = self.lock();
            let before = state.link.clone();
            change(&mut state.link);
            if (state.link.connected, state.link.expired) != (before.connected, before.expired) {
                state.link.since = Some(now_ms());
            }
            state.link != before
        };
        if changed {
            (self.changed)();
        }
    }
}
