//! Stops turns of a runtime whose login is refused again and again.
//!
//! Credentials belong to a runtime and an agent, so one breaker covers all rooms of the two
//! ([`keys::breaker_scope`]). It opens after some failures in a row and lets nothing through for a while; then one
//! message at a time may try. Plain state: times are given by the caller, in Unix milliseconds.

use std::collections::HashMap;

use serde::Serialize;

use super::keys;
use crate::message::Inbound;
use crate::redact;

/// How long a trying message keeps others out when nothing is heard of it. A refused login shows within seconds; a
/// turn that takes longer has one, so the next message may go.
const PROBE_LEASE_MS: i64 = 60_000;
/// Longest remembered error, in UTF-16 units from the end.
const ERROR_TAIL: usize = 2_048;

/// When a breaker opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerLimits {
    /// Failures in a row that open it (default 3).
    pub threshold: u32,
    /// How long it lets nothing through, in milliseconds (default ten minutes).
    pub cool_down_ms: i64,
}

impl Default for BreakerLimits {
    fn default() -> Self {
        Self { threshold: 3, cool_down_ms: 600_000 }
    }
}

/// A breaker with failures, as snapshots show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerState {
    /// `<runtime>:<queue key>` of the conversation that failed last.
    pub key: String,
    /// Runtime id.
    pub runtime: String,
    /// Channel of the last failure.
    pub channel: String,
    /// The agent.
    pub account_id: String,
    /// Conversation of the last failure.
    pub conversation_id: String,
    /// Its topic.
    pub thread_id: Option<String>,
    /// Failures in a row.
    pub failures: u32,
    /// When the first of them was.
    pub opened_at: i64,
    /// Until when nothing is let through; 0: it has not opened yet.
    pub blocked_until: i64,
    /// When the last of them was.
    pub last_failure_at: i64,
    /// What it said, redacted.
    pub last_error: String,
    /// Until when a trying message keeps others out.
    #[serde(skip)]
    probe_until: i64,
}

/// Whether a message may become a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Nothing is known against it.
    Closed,
    /// It is the one that tries.
    Probe,
    /// It may not.
    Open {
        /// Until when, as far as is known.
        until: i64,
    },
}

/// All breakers that are not at rest. At most one for each pair of runtime and agent.
#[derive(Debug, Default)]
pub struct Breakers {
    by_scope: HashMap<String, BreakerState>,
}

impl Breakers {
    /// Asks for a message; a [`Check::Probe`] keeps the others out until it ends or a minute has passed.
    pub fn check(&mut self, runtime: &str, account: &str, now: i64) -> Check {
        let Some(state) = self.by_scope.get_mut(&keys::breaker_scope(runtime, account)) else { return Check::Closed };
        if state.blocked_until == 0 {
            return Check::Closed;
        }
        // A clock that was set back must not keep it open for longer than it is.
        if now < state.last_failure_at {
            state.blocked_until = state.blocked_until.min(now);
        }
        if state.probe_until.saturating_sub(now) > PROBE_LEASE_MS {
            state.probe_until = 0;
        }
        let until = state.blocked_until.max(state.probe_until);
        if until > now {
            return Check::Open { until };
        }
        state.probe_until = now.saturating_add(PROBE_LEASE_MS);
        Check::Probe
    }

    /// A turn's login was refused; returns the state after it.
    pub fn failure(
        &mut self,
        runtime: &str,
        message: &Inbound,
        error: &str,
        limits: &BreakerLimits,
        now: i64,
    ) -> &BreakerState {
        let scope = keys::breaker_scope(runtime, &message.account_id);
        let (failures, opened_at) = self.by_scope.get(&scope).map_or((0, now), |s| (s.failures, s.opened_at));
        let failures = failures.saturating_add(1);
        let is_open = failures >= limits.threshold.max(1);
        let state = BreakerState {
            key: keys::breaker_key(runtime, message),
            runtime: runtime.to_owned(),
            channel: message.channel.clone(),
            account_id: message.account_id.clone(),
            conversation_id: message.conversation.id.clone(),
            thread_id: message.conversation.thread_id.clone(),
            failures,
            opened_at,
            blocked_until: if is_open { now.saturating_add(limits.cool_down_ms) } else { 0 },
            last_failure_at: now,
            last_error: redact::text_tail(error, ERROR_TAIL),
            probe_until: 0,
        };
        self.by_scope.entry(scope).insert_entry(state).into_mut()
    }

    /// A person wants the next try now.
    pub fn hurry(&mut self, runtime: &str, account: &str) {
        if let Some(state) = self.by_scope.get_mut(&keys::breaker_scope(runtime, account)) {
            state.blocked_until = state.blocked_until.min(1);
            state.probe_until = 0;
        }
    }

    /// A turn ended without any error; returns whether there was something to forget.
    pub fn clear(&mut self, runtime: &str, account: &str) -> bool {
        self.by_scope.remove(&keys::breaker_scope(runtime, account)).is_some()
    }

    /// The breakers that let nothing through at `now`, or only one that tries; by key.
    pub fn open(&self, now: i64) -> Vec<BreakerState> {
        let is_open = |s: &&BreakerState| s.blocked_until > now || s.probe_until > now;
        let mut open: Vec<BreakerState> = self.by_scope.values().filter(is_open).cloned().collect();
        crate::sort::sort_by(&mut open, |a, b| a.key.cmp(&b.key));
        open
    }
}

/// The error that a message gets in place of an answer.
pub fn blocked_error(until: i64) -> String {
    let until = super::transcript::timestamp(until);
    format!("runtime authentication failed repeatedly; dispatch paused until {until}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::message::document;

    const LIMITS: BreakerLimits = BreakerLimits { threshold: 2, cool_down_ms: 1_000 };

    fn message(room: &str) -> Inbound {
        document::parse(&json!({
            "id": "1", "channel": "c", "accountId": "a", "conversation": {"id": room, "kind": "group"},
            "sender": {"id": "s", "kind": "agent"}, "text": "hello", "receivedAt": 0
        }))
        .unwrap()
    }

    #[test]
    fn failures_of_different_rooms_open_one_breaker() {
        let mut breakers = Breakers::default();
        assert_eq!(breakers.failure("codex", &message("r1"), "refused token=abc", &LIMITS, 5).blocked_until, 0);
        assert_eq!(breakers.check("codex", "a", 6), Check::Closed);
        let state = breakers.failure("codex", &message("r2"), "refused token=abc", &LIMITS, 10);
        assert_eq!((state.failures, state.opened_at, state.blocked_until), (2, 5, 1_010));
        assert_eq!(state.key, "codex:c:a:r2:");
        assert!(!state.last_error.contains("abc"), "{}", state.last_error);
        assert_eq!(breakers.check("codex", "a", 11), Check::Open { until: 1_010 });
        assert_eq!(breakers.check("gemini", "a", 11), Check::Closed);
        assert_eq!(breakers.check("codex", "b", 11), Check::Closed);
        assert_eq!(breakers.open(11).len(), 1);
    }

    #[test]
    fn one_message_tries_and_decides() {
        let mut breakers = Breakers::default();
        for now in [0, 1] {
            breakers.failure("codex", &message("r"), "refused", &LIMITS, now);
        }
        assert_eq!(breakers.check("codex", "a", 1_001), Check::Probe);
        let lease = 1_001 + PROBE_LEASE_MS;
        assert_eq!(breakers.check("codex", "a", 1_002), Check::Open { until: lease });
        assert_eq!(breakers.check("codex", "a", lease), Check::Probe, "the first one was never heard of again");
        breakers.failure("codex", &message("r"), "refused", &LIMITS, lease + 1);
        assert_eq!(breakers.check("codex", "a", lease + 2), Check::Open { until: lease + 1_001 });
        assert_eq!(breakers.check("codex", "a", lease + 1_001), Check::Probe);
        breakers.failure("codex", &message("r"), "refused", &LIMITS, lease + 1_002);
        breakers.hurry("codex", "a");
        assert_eq!(breakers.check("codex", "a", lease + 1_003), Check::Probe, "a person said so");
        assert!(breakers.clear("codex", "a"));
        assert!(!breakers.clear("codex", "a"));
        assert_eq!(breakers.check("codex", "a", lease + 1_002), Check::Closed);
        assert!(breakers.open(0).is_empty());
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_nothing_open() {
        let limits = BreakerLimits { threshold: 1, cool_down_ms: 600_000 };
        let mut breakers = Breakers::default();
        breakers.failure("codex", &message("r"), "refused", &limits, 1_000_000_000);
        assert_eq!(breakers.check("codex", "a", 1_000_000_001), Check::Open { until: 1_000_600_000 });
        assert_eq!(breakers.check("codex", "a", 5_000), Check::Probe);
        assert_eq!(breakers.check("codex", "a", 5_001), Check::Open { until: 5_000 + PROBE_LEASE_MS });
    }

    #[test]
    fn success_in_between_starts_the_count_again() {
        let mut breakers = Breakers::default();
        breakers.failure("codex", &message("r"), "refused", &LIMITS, 0);
        breakers.clear("codex", "a");
        breakers.failure("codex", &message("r"), "refused", &LIMITS, 1);
        assert_eq!(breakers.check("codex", "a", 2), Check::Closed);
    }
}
