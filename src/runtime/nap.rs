//! Sleeping until a turn's token is woken: for turns that wait for a thread instead of a child.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::engine::cancel::CancelToken;

/// Sleeps until the token is set or woken, or for at most `limit`. Takes the wake-up, so that the next call
/// sleeps again; the caller has to look for all news afterwards.
pub fn nap(token: &CancelToken, limit: Duration) {
    if token.is_cancelled() {
        return;
    }
    sleep_on(token, limit);
}

/// The same for a turn that is being cancelled already and waits for the last words.
pub fn nap_cancelled(token: &CancelToken, limit: Duration) {
    // The token stays readable only until it is drained, so that this sleeps, too.
    sleep_on(token, limit);
}

fn sleep_on(token: &CancelToken, limit: Duration) {
    let timeout = Timespec::try_from(limit).ok();
    let mut fds = [PollFd::new(token, PollFlags::IN)];
    // An interrupted or failed poll is a short nap.
    if poll(&mut fds, timeout.as_ref()).is_ok_and(|n| n > 0) {
        token.drain();
    }
}
