//! Cancellation: a token that is set once, with a reason, and that wakes whoever sleeps in `poll(2)`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::event::{EventfdFlags, eventfd};

/// Why a turn was cancelled. The first reason wins; later ones are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// A newer message of the same conversation takes its place.
    Superseded,
    /// Its time limit ran out.
    Timeout,
    /// Its tool-call budget ran out.
    Budget,
    /// The daemon shuts down.
    Shutdown,
    /// A person asked for it.
    User,
}

/// A shared flag with a reason. Clones are the same token.
#[derive(Clone)]
pub struct CancelToken {
    inner: Arc<Inner>,
}

struct Inner {
    reason: OnceLock<CancelReason>,
    wake: OwnedFd,
}

impl CancelToken {
    /// A fresh token. Fails only when the process is out of descriptors.
    pub fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { inner: Arc::new(Inner { reason: OnceLock::new(), wake }) })
    }

    /// Sets the token; returns whether this call was the first.
    pub fn cancel(&self, reason: CancelReason) -> bool {
        let first = self.inner.reason.set(reason).is_ok();
        self.wake();
        first
    }

    /// The reason, once set.
    pub fn reason(&self) -> Option<CancelReason> {
        self.inner.reason.get().copied()
    }

    /// Whether it is set.
    pub fn is_cancelled(&self) -> bool {
        self.reason().is_some()
    }

    /// Wakes the sleeper without cancelling, so that it looks for other news (an approval, say).
    pub fn wake(&self) {
        // The counter can only be full when it was never drained; the sleeper is awake then.
        let _ = rustix::io::write(&self.inner.wake, &1u64.to_ne_bytes());
    }

    /// Takes the pending wake-ups, so that the next `poll` sleeps again.
    pub fn drain(&self) {
        let mut buf = [0; 8];
        let _ = rustix::io::read(&self.inner.wake, &mut buf);
    }

    /// Sleeps until woken or for at most `limit`; returns whether the token is set.
    pub fn sleep(&self, limit: std::time::Duration) -> bool {
        let end = std::time::Instant::now() + limit;
        while !self.is_cancelled() {
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return false;
            }
            let timeout = rustix::event::Timespec::try_from(left).ok();
            let mut fds = [rustix::event::PollFd::new(self, rustix::event::PollFlags::IN)];
            if let Ok(n) = rustix::event::poll(&mut fds, timeout.as_ref())
                && n > 0
            {
                self.drain();
            }
        }
        true
    }
}

impl AsFd for CancelToken {
    /// Readable after [`CancelToken::cancel`] or [`CancelToken::wake`], until [`CancelToken::drain`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_first_reason_wins() {
        let token = CancelToken::new().unwrap();
        assert!(!token.is_cancelled());
        assert!(token.cancel(CancelReason::Superseded));
        assert!(!token.cancel(CancelReason::Timeout));
        assert_eq!(token.reason(), Some(CancelReason::Superseded));
    }

    #[test]
    fn a_wake_up_is_not_a_cancellation() {
        let token = CancelToken::new().unwrap();
        token.wake();
        assert!(!token.sleep(Duration::from_millis(5)));
        token.cancel(CancelReason::User);
        assert!(token.sleep(Duration::from_hours(1)));
    }
}
