//! A fuse against agents that answer each other without end.
//!
//! It counts the turns that agents cause in a conversation and refuses further ones beyond its limits, until a person
//! speaks or some rest has passed. Deterministic and plain state: times are given by the caller, in Unix milliseconds.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::json;
use crate::message::{Inbound, SenderKind};

/// Conversations kept; beyond it the ones longest unused are forgotten.
const CONVERSATIONS: usize = 4_096;

/// Who caused a turn, as far as the fuse cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A person took part: counting starts again.
    Human,
    /// Only agents.
    Agent,
    /// A schedule or the hub: neither counted nor a reason to start again.
    Other,
}

impl Cause {
    /// Who caused the turn of this message.
    pub fn of(message: &Inbound) -> Self {
        let mut kinds = message.entries.iter().map(|e| e.sender_kind).chain([message.sender.kind]);
        if message.is_owner_chat() || kinds.clone().any(|k| k == SenderKind::User) {
            Self::Human
        } else if kinds.any(|k| k == SenderKind::Agent) {
            Self::Agent
        } else {
            Self::Other
        }
    }
}

/// Limits of a [`Fuse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FuseLimits {
    /// Turns that agents may cause in a row, without a person between them; 0 = as many as they like.
    pub max_bot_turns_in_a_row: u32,
    /// Turns that agents may cause within `window_ms`; 0 = as many as they like.
    pub max_bot_turns_in_window: u32,
    /// See above, in milliseconds.
    pub window_ms: i64,
    /// How long a conversation rests after too many turns within the window, in milliseconds.
    pub pause_ms: i64,
}

impl Default for FuseLimits {
    /// No limit in a row; 20 turns in ten minutes, then five minutes of rest.
    fn default() -> Self {
        Self { max_bot_turns_in_a_row: 0, max_bot_turns_in_window: 20, window_ms: 600_000, pause_ms: 300_000 }
    }
}

/// Whether a turn may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Run,
    /// It may not. `first` is true once per interruption: time to tell the owner.
    Skip {
        /// The first refusal since turns ran.
        first: bool,
    },
}

/// Counts the turns that agents cause in a conversation. Serialise it to keep the counts over a restart, as a whole or
/// by conversation ([`Fuse::state`], [`Fuse::restore`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fuse {
    conversations: HashMap<String, FuseState>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FuseState {
    in_a_row: u32,
    recent: VecDeque<i64>,
    paused_until: Option<i64>,
    told: bool,
    used: i64,
}

impl Fuse {
    /// The counts of one conversation, for writing down; `None` when there are none.
    pub fn state(&self, key: &str) -> Option<serde_json::Value> {
        json::to_value(self.conversations.get(key)?).ok()
    }

    /// Goes on from what was written down; returns whether it could be read.
    pub fn restore(&mut self, key: &str, state: serde_json::Value) -> bool {
        let state = json::from_value(&state).map(|state| self.conversations.insert(key.to_owned(), state));
        state.is_ok()
    }

    /// The conversation that would be forgotten for a new one.
    pub fn next_to_go(&self, key: &str) -> Option<&str> {
        if self.conversations.contains_key(key) || self.conversations.len() < CONVERSATIONS {
            return None;
        }
        self.conversations.iter().min_by_key(|(_, s)| s.used).map(|(k, _)| k.as_str())
    }

    /// A turn is about to start in a conversation ([`Inbound::queue_key`]); counts it unless it is refused.
    pub fn admit(&mut self, key: &str, cause: Cause, limits: &FuseLimits, now: i64) -> Verdict {
        match cause {
            Cause::Human => {
                self.conversations.remove(key);
                return Verdict::Run;
            }
            Cause::Other => return Verdict::Run,
            Cause::Agent => {}
        }
        if let Some(oldest) = self.next_to_go(key).map(str::to_owned) {
            self.conversations.remove(&oldest);
        }
        let state = self.conversations.entry(key.to_owned()).or_default();
        state.used = now;
        let row_is_full = limits.max_bot_turns_in_a_row > 0 && state.in_a_row >= limits.max_bot_turns_in_a_row;
        if row_is_full || state.is_paused(limits, now) {
            let first = !state.told;
            state.told = true;
            return Verdict::Skip { first };
        }
        state.told = false;
        state.in_a_row = state.in_a_row.saturating_add(1);
        if limits.max_bot_turns_in_window > 0 {
            state.recent.push_back(now);
        }
        Verdict::Run
    }
}

impl FuseState {
    fn is_paused(&mut self, limits: &FuseLimits, now: i64) -> bool {
        if let Some(until) = self.paused_until {
            // A clock that was set back must not make the pause longer than it is.
            if now < until && until - now <= limits.pause_ms {
                return true;
            }
            self.paused_until = None;
            self.recent.clear();
        }
        self.recent.retain(|at| (0..limits.window_ms).contains(&(now - at)));
        let is_full =
            limits.max_bot_turns_in_window > 0 && self.recent.len() >= limits.max_bot_turns_in_window as usize;
        if is_full {
            self.paused_until = Some(now.saturating_add(limits.pause_ms));
        }
        is_full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_may_take_so_many_turns_in_a_row_and_a_person_resets_them() {
        let limits = FuseLimits { max_bot_turns_in_a_row: 2, ..FuseLimits::default() };
        let mut fuse = Fuse::default();
        let mut admit = |cause| fuse.admit("q", cause, &limits, 0);
        assert_eq!(admit(Cause::Agent), Verdict::Run);
        assert_eq!(admit(Cause::Agent), Verdict::Run);
        assert_eq!(admit(Cause::Agent), Verdict::Skip { first: true });
        assert_eq!(admit(Cause::Agent), Verdict::Skip { first: false });
        assert_eq!(admit(Cause::Other), Verdict::Run);
        assert_eq!(admit(Cause::Agent), Verdict::Skip { first: false });
        assert_eq!(admit(Cause::Human), Verdict::Run);
        assert_eq!(admit(Cause::Agent), Verdict::Run);
    }

    #[test]
    fn too_many_turns_in_the_window_are_followed_by_a_rest() {
        let limits = FuseLimits::default();
        let mut fuse = Fuse::default();
        for n in 0..20 {
            assert_eq!(fuse.admit("q", Cause::Agent, &limits, n * 1_000), Verdict::Run);
        }
        assert_eq!(fuse.admit("q", Cause::Agent, &limits, 20_000), Verdict::Skip { first: true });
        assert_eq!(fuse.admit("other", Cause::Agent, &limits, 20_000), Verdict::Run);
        // The state survives being written down.
        let mut fuse: Fuse = serde_json::from_str(&serde_json::to_string(&fuse).unwrap()).unwrap();
        assert_eq!(fuse.admit("q", Cause::Agent, &limits, 319_999), Verdict::Skip { first: false });
        assert_eq!(fuse.admit("q", Cause::Agent, &limits, 320_000), Verdict::Run);
    }

    #[test]
    fn turns_below_the_rate_never_rest() {
        let mut fuse = Fuse::default();
        for n in 0..100 {
            assert_eq!(fuse.admit("q", Cause::Agent, &FuseLimits::default(), n * 31_000), Verdict::Run);
        }
    }
}
