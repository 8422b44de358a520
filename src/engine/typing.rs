//! How often "is typing" is shown.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Conversations whose last ping is remembered; the one pinged longest ago goes first.
const CONVERSATIONS: usize = 1_024;

/// The pace of pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypingPace {
    /// While a turn goes on, typing is shown this often (default 4 s).
    pub refresh: Duration,
    /// A ping is left out when the last one of the conversation, by any turn, is younger than this (default 2 s).
    pub debounce: Duration,
}

impl Default for TypingPace {
    fn default() -> Self {
        Self { refresh: Duration::from_secs(4), debounce: Duration::from_secs(2) }
    }
}

/// When conversations were pinged last, in the order of their pings. Shared by all turns.
#[derive(Debug, Default)]
pub(super) struct Pings {
    last: Mutex<Vec<(String, Instant)>>,
}

impl Pings {
    /// Whether a conversation may be pinged; if so, it counts as pinged now.
    pub(super) fn may_ping(&self, key: &str, debounce: Duration) -> bool {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|(_, at)| now.duration_since(*at) < debounce);
        if last.iter().any(|(k, _)| k == key) {
            return false;
        }
        if last.len() >= CONVERSATIONS {
            last.remove(0);
        }
        last.push((key.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_conversation_is_pinged_once_in_a_while() {
        let pings = Pings::default();
        let hour = Duration::from_hours(1);
        assert!(pings.may_ping("a", hour));
        assert!(!pings.may_ping("a", hour));
        assert!(pings.may_ping("b", hour));
        assert!(pings.may_ping("a", Duration::ZERO));
        for n in 0..CONVERSATIONS {
            assert!(pings.may_ping(&n.to_string(), hour));
        }
        assert!(pings.may_ping("b", hour), "the longest ago is forgotten first");
    }
}
