//! Cancellation: a token that is set once, with a reason, and that wakes whoever sleeps in `poll(2)`.
//!
//! A cancellation races with the end of what it cancels. The token decides, in one step ([`Life`]): either it was
//! cancelled and its end knows the reason, or it had ended and whoever wanted to cancel it is told that he came too
//! late. Of several who see an end, one has it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Why a turn was cancelled. The first reason wins; later ones are ignored, but see [`Life::cancel`].
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

/// How far something is that can be cancelled. Pure; every change is one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// It goes on.
    #[default]
    Running,
    /// It was told to end, and has not yet.
    Cancelled(CancelReason),
    /// It has ended, by itself or because it was told to.
    Over(Option<CancelReason>),
}

/// It had ended already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlreadyOver;

impl Life {
    /// Tells it to end. False: it was told before or has ended, and this call changes nothing.
    ///
    /// Only [`CancelReason::User`] comes after [`CancelReason::Superseded`], and even after such an end: what is
    /// superseded would come back with what took its place, and a person wants none of it.
    pub fn cancel(&mut self, reason: CancelReason) -> bool {
        let changed = match (*self, reason) {
            (Self::Running, _) | (Self::Cancelled(CancelReason::Superseded), CancelReason::User) => {
                Self::Cancelled(reason)
            }
            (Self::Over(Some(CancelReason::Superseded)), CancelReason::User) => Self::Over(Some(reason)),
            _ => return false,
        };
        *self = changed;
        true
    }

    /// It ends, for the reason that is returned. The first call has the end; to the others it is over.
    pub fn end(&mut self) -> Result<Option<CancelReason>, AlreadyOver> {
        let reason = match self {
            Self::Running => None,
            Self::Cancelled(reason) => Some(*reason),
            Self::Over(_) => return Err(AlreadyOver),
        };
        *self = Self::Over(reason);
        Ok(reason)
    }

    /// Why it was told to end, if it was.
    pub fn reason(self) -> Option<CancelReason> {
        match self {
            Self::Running => None,
            Self::Cancelled(reason) => Some(reason),
            Self::Over(reason) => reason,
        }
    }
}

/// A shared [`Life`] with a descriptor to sleep on. Clones are the same token.
#[derive(Clone)]
pub struct CancelToken {
    inner: Arc<Inner>,
}

struct Inner {
    life: Mutex<Life>,
    wake: OwnedFd,
}

impl CancelToken {
    /// A fresh token. Fails only when the process is out of descriptors.
    pub fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { inner: Arc::new(Inner { life: Mutex::default(), wake }) })
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.inner.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the token; returns whether this call did it, see [`Life::cancel`].
    pub fn cancel(&self, reason: CancelReason) -> bool {
        let first = self.life().cancel(reason);
        self.wake();
        first
    }

    /// What the token is for has ended; see [`Life::end`].
    pub fn end(&self) -> Result<Option<CancelReason>, AlreadyOver> {
        self.life().end()
    }

    /// Whether somebody has called [`CancelToken::end`].
    pub fn is_over(&self) -> bool {
        matches!(*self.life(), Life::Over(_))
    }

    /// The reason, once set.
    pub fn reason(&self) -> Option<CancelReason> {
        self.life().reason()
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
    fn an_end_is_had_once_and_no_cancellation_comes_after_it() {
        let token = CancelToken::new().unwrap();
        assert_eq!(token.end(), Ok(None));
        assert!(!token.cancel(CancelReason::User));
        assert!(!token.is_cancelled());
        assert_eq!(token.end(), Err(AlreadyOver));

        let token = CancelToken::new().unwrap();
        token.cancel(CancelReason::Timeout);
        assert_eq!(token.clone().end(), Ok(Some(CancelReason::Timeout)));
        assert_eq!(token.reason(), Some(CancelReason::Timeout));
    }

    #[test]
    fn a_person_ends_what_would_come_back() {
        let mut life = Life::default();
        assert!(life.cancel(CancelReason::Superseded));
        assert!(!life.cancel(CancelReason::Timeout));
        assert!(life.cancel(CancelReason::User));
        assert!(!life.cancel(CancelReason::User));
        assert_eq!(life.end(), Ok(Some(CancelReason::User)));

        let mut life = Life::Over(Some(CancelReason::Superseded));
        assert!(life.cancel(CancelReason::User));
        assert_eq!((life.reason(), life.end()), (Some(CancelReason::User), Err(AlreadyOver)));
        assert!(!Life::Over(None).cancel(CancelReason::User));
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
