//! The hub's clocks: real time with hands that a test can move.
//!
//! Three of them, because moving one must not upset what a test does not look at: `now` measures leases, TTL, token life
//! and rate windows; `sockets` measures what a WebSocket is closed or reminded for; `wall` is what the hub tells and
//! compares time stamps with.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// All times are Unix milliseconds.
#[derive(Default)]
pub struct Clock {
    advanced: AtomicI64,
    sockets: AtomicI64,
    skew: AtomicI64,
}

/// The machine's own time.
pub fn real() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

fn ms(by: Duration) -> i64 {
    i64::try_from(by.as_millis()).unwrap()
}

impl Clock {
    /// For leases, TTL, tokens, rate windows.
    pub fn now(&self) -> i64 {
        real() + self.advanced.load(Ordering::SeqCst)
    }

    /// For heartbeats, silence and pings of sockets.
    pub fn sockets(&self) -> i64 {
        real() + self.sockets.load(Ordering::SeqCst)
    }

    /// What the hub believes the time to be.
    pub fn wall(&self) -> i64 {
        real() + self.skew.load(Ordering::SeqCst)
    }

    /// Moves [`Self::now`] forward.
    pub fn advance(&self, by: Duration) {
        self.advanced.fetch_add(ms(by), Ordering::SeqCst);
    }

    /// Moves [`Self::sockets`] forward.
    pub fn advance_sockets(&self, by: Duration) {
        self.sockets.fetch_add(ms(by), Ordering::SeqCst);
    }

    /// Makes the hub's wall clock wrong by so many seconds; 0 makes it right again.
    pub fn skew(&self, seconds: i64) {
        self.skew.store(seconds * 1000, Ordering::SeqCst);
    }
}

/// `2026-11-20T22:29:01`, with `zone` after it.
pub fn iso(ms: i64, zone: &str) -> String {
    stamp(ms).strftime("%Y-%m-%dT%H:%M:%S").to_string() + zone
}

/// The form of a `Date` header.
pub fn http_date(ms: i64) -> String {
    stamp(ms).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn stamp(ms: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(ms).unwrap()
}
