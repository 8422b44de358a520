//! Telling a hub what a cloud run has used: the request, what its answer means, and when to ask again. Pure.

use serde_json::Value;

use crate::engine::settle::Settlement;

/// Waits before the second attempt and those after it, in seconds; the last one is for all further ones.
const DELAYS: [u64; 5] = [1, 5, 30, 120, 3_600];
/// For how long a settlement is tried, in milliseconds.
pub const PATIENCE_MS: i64 = 24 * 3_600_000;
/// The longest time in seconds that a hub may ask for.
const LONGEST: u64 = 3_600;

/// A request that accounts for one run. The same each time.
#[derive(Clone, PartialEq)]
pub struct Post {
    /// Where to.
    pub url: String,
    /// With it; secret.
    pub headers: [(&'static str, String); 2],
    /// What.
    pub body: Value,
}

/// The request for a settlement.
pub fn post(hub: &str, token: &str, path: &str, body: Value) -> Post {
    Post {
        url: format!("{}{path}", hub.trim().trim_end_matches('/')),
        headers: [("Content-Type", "application/json".to_owned()), ("Authorization", format!("Bearer {token}"))],
        body,
    }
}

/// The request for a settlement that was just made.
pub fn first(hub: &str, token: &str, settlement: &Settlement) -> Post {
    post(hub, token, &settlement.path, settlement.body.document())
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The hub has it, now or since before.
    Settled,
    /// It never will.
    Refused,
    /// It may later.
    Again,
}

/// The meaning of a status.
pub fn fate(status: u16) -> Fate {
    match status {
        200..=299 => Fate::Settled,
        400 | 403 | 404 | 409 | 422 => Fate::Refused,
        _ => Fate::Again,
    }
}

/// How long to wait after so many attempts, in milliseconds; `asked` is what the hub wants, in seconds.
pub fn delay_ms(attempts: usize, asked: Option<u64>) -> u64 {
    let own = DELAYS[attempts.saturating_sub(1).min(DELAYS.len() - 1)];
    own.max(asked.unwrap_or(0).min(LONGEST)) * 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_that_may_be_well_again_is_asked_again() {
        for status in [200, 201, 204] {
            assert_eq!(fate(status), Fate::Settled, "{status}");
        }
        for status in [400, 403, 404, 409, 422] {
            assert_eq!(fate(status), Fate::Refused, "{status}");
        }
        for status in [301, 401, 408, 429, 500, 502, 503, 599] {
            assert_eq!(fate(status), Fate::Again, "{status}");
        }
    }

    #[test]
    fn waits_grow_to_an_hour() {
        let delays: Vec<u64> = (1..=7).map(|n| delay_ms(n, None) / 1_000).collect();
        assert_eq!(delays, [1, 5, 30, 120, 3_600, 3_600, 3_600]);
        assert_eq!((delay_ms(1, Some(7)), delay_ms(3, Some(7)), delay_ms(1, Some(90_000))), (7_000, 30_000, 3_600_000));
    }
}
