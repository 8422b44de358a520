//! One request to a hub until it is done: attempts, waits, a new token in between (the hub's protocol, §6.4).

use std::time::Duration;

use super::error::{ApiError, Refusal};

/// Attempts at most.
const ATTEMPTS: u32 = 3;
/// The longest wait that a hub may ask for.
const WAIT_MAX: Duration = Duration::from_hours(1);

/// How a request is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// When the hub says that it is too much.
    pub when_busy: WhenBusy,
    /// Whether it may be done twice: then a fault of the server or of the network is no reason to give up.
    pub idempotent: bool,
    /// What a wait that the hub asks for may take; a longer one is left to the caller.
    pub patience: Duration,
}

/// What happens after a 429.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenBusy {
    /// It waits as long as the hub says, else a moment.
    Wait,
    /// It waits as long as the hub says; else it fails.
    WaitIfTold,
    /// It fails.
    Fail,
}

impl Rules {
    /// Look-ups, and what says the same however often it is said.
    pub const IDEMPOTENT: Self =
        Self { when_busy: WhenBusy::Wait, idempotent: true, patience: Duration::from_secs(20) };
    /// The inbox: nobody waits for it.
    pub const INBOX: Self = Self { patience: WAIT_MAX, ..Self::IDEMPOTENT };
    /// What must not be done twice.
    pub const ONCE: Self = Self { idempotent: false, ..Self::IDEMPOTENT };
    /// Messages.
    pub const SEND: Self = Self { when_busy: WhenBusy::WaitIfTold, ..Self::ONCE };
    /// Signs of life, which nobody misses.
    pub const LIVE: Self = Self { when_busy: WhenBusy::Fail, idempotent: false, patience: Duration::ZERO };
    /// Signs of life that must not stay behind.
    pub const LIVE_IDEMPOTENT: Self = Self { idempotent: true, ..Self::LIVE };
}

/// What comes after an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another one, with another token.
    Refresh,
    /// Another one, after so long.
    Wait(Duration),
    /// Nothing.
    Fail,
}

/// What comes after attempt number `attempt` (from 0) has failed like this.
pub fn next(rules: Rules, attempt: u32, error: &ApiError) -> Next {
    let moment = Duration::from_secs(u64::from(attempt) + 1);
    match error {
        ApiError::Refused(refusal) if refusal.status == 401 && attempt == 0 => Next::Refresh,
        _ if attempt + 1 >= ATTEMPTS => Next::Fail,
        ApiError::Refused(refusal) if refusal.status == 429 => after_busy(rules, moment, refusal),
        ApiError::Refused(refusal) if refusal.status >= 500 && rules.idempotent => Next::Wait(moment),
        ApiError::Network { .. } if rules.idempotent => Next::Wait(moment),
        _ => Next::Fail,
    }
}

fn after_busy(rules: Rules, moment: Duration, refusal: &Refusal) -> Next {
    if refusal.is("duplicate_content") {
        return Next::Fail;
    }
    match (rules.when_busy, refusal.retry_after) {
        (WhenBusy::Wait | WhenBusy::WaitIfTold, Some(wait)) if wait <= rules.patience.min(WAIT_MAX) => Next::Wait(wait),
        (WhenBusy::Wait, None) => Next::Wait(moment),
        _ => Next::Fail,
    }
}

/// What `Retry-After` says: a number of seconds. Dates, signs and zero say nothing.
pub fn retry_after(header: &str) -> Option<Duration> {
    if header.is_empty() || !header.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Too many digits are too long in any case.
    let seconds = header.parse().unwrap_or(u64::from(u32::MAX)).min(u64::from(u32::MAX));
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// What a request needs of the world.
pub trait Line {
    /// A token; another one than `failed`, where that is given.
    fn token(&self, failed: Option<&str>) -> Result<String, ApiError>;

    /// Makes one attempt. What is not a success is an error.
    fn attempt(&mut self, token: &str, attempt: u32) -> Result<(), ApiError>;

    /// Sleeps; returns whether nothing is to be waited for any more.
    fn sleep(&self, limit: Duration) -> bool;
}

/// Makes attempts until one succeeds or there is no reason for another.
pub fn run(rules: Rules, line: &mut dyn Line) -> Result<(), ApiError> {
    let mut token = line.token(None)?;
    let mut attempt = 0;
    loop {
        let Err(error) = line.attempt(&token, attempt) else { return Ok(()) };
        match next(rules, attempt, &error) {
            Next::Refresh => token = line.token(Some(&token))?,
            Next::Wait(limit) if !line.sleep(limit) => {}
            Next::Wait(_) => return Err(ApiError::Stopped { sent: error.is_uncertain() }),
            Next::Fail => return Err(error),
        }
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_seconds_are_believed() {
        let seconds = |header| retry_after(header).map(|d| d.as_secs());
        assert_eq!(seconds("7"), Some(7));
        assert_eq!(seconds("03601"), Some(3_601));
        assert_eq!(seconds("99999999999999999999999"), Some(u64::from(u32::MAX)));
        for nothing in ["", "0", "000", "-1", "+1", "1.5", " 7", "Wed, 21 Oct 2015 07:28:00 GMT", "٣"] {
            assert_eq!(seconds(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn what_may_be_done_twice_is_tried_again() {
        let refused = |status| ApiError::Refused(Box::new(Refusal { status, ..Refusal::default() }));
        let network = ApiError::Network { sent: true, why: String::new() };
        let wait = |s| Next::Wait(Duration::from_secs(s));
        for (rules, error, expected) in [
            (Rules::INBOX, refused(503), [wait(1), wait(2), Next::Fail]),
            (Rules::IDEMPOTENT, network.clone(), [wait(1), wait(2), Next::Fail]),
            (Rules::SEND, refused(503), [Next::Fail; 3]),
            (Rules::SEND, network.clone(), [Next::Fail; 3]),
            (Rules::LIVE, refused(429), [Next::Fail; 3]),
            (Rules::LIVE, network.clone(), [Next::Fail; 3]),
            (Rules::LIVE, refused(401), [Next::Refresh, Next::Fail, Next::Fail]),
            (Rules::LIVE_IDEMPOTENT, refused(500), [wait(1), wait(2), Next::Fail]),
            (Rules::ONCE, refused(404), [Next::Fail; 3]),
        ] {
            assert_eq!([0, 1, 2].map(|attempt| next(rules, attempt, &error)), expected, "{rules:?} {error:?}");
        }
    }

    #[test]
    fn a_wait_that_is_too_long_is_left_to_the_caller() {
        let busy = |wait| {
            let retry_after = Some(Duration::from_secs(wait));
            ApiError::Refused(Box::new(Refusal { status: 429, retry_after, ..Refusal::default() }))
        };
        assert_eq!(next(Rules::SEND, 0, &busy(21)), Next::Fail);
        assert_eq!(next(Rules::INBOX, 0, &busy(3_600)), Next::Wait(Duration::from_hours(1)));
        assert_eq!(next(Rules::INBOX, 0, &busy(3_601)), Next::Fail);
    }
}
