//! What to do after an attempt to send (the hub's protocol, §13.8). Pure.

use std::time::Duration;

use super::error::ApiError;

/// How long to stay away from a hub that says so without saying how long.
const UNSAID: Duration = Duration::from_secs(10);
/// For so long a hub takes the same words in the same room for a mistake, with a little for the way there.
pub const SAME_WORDS: Duration = Duration::from_secs(301);

/// What an attempt was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// An earlier one of the same message may have reached the hub.
    pub repeated: bool,
    /// It names no other message.
    pub unquoted: bool,
    /// The clock was set by the hub's because of it already.
    pub clock_set: bool,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The hub does not have it; try again after so long, or when it is due.
    Later(Option<Duration>),
    /// Ask the hub whether it has it.
    Ask,
    /// The hub has said these words lately: ask, and do not repeat them too soon.
    AskSameWords,
    /// Send it once more without the message that it quotes.
    Unquote,
    /// Set the clock by the hub's and send it once more.
    SetClock,
    /// It never goes out.
    GiveUp,
}

/// What follows from a failed attempt.
pub fn step(error: &ApiError, attempt: Attempt) -> Step {
    let Some(refusal) = error.refusal() else {
        return match error {
            ApiError::Revoked(_) | ApiError::Request(_) => Step::GiveUp,
            _ if error.is_uncertain() => Step::Ask,
            _ => Step::Later(None),
        };
    };
    if refusal.of_refresh {
        // The message has not been out. Whether there will be a token again shows later.
        return Step::Later(refusal.retry_after);
    }
    let code = refusal.code.as_deref().unwrap_or_default();
    match refusal.status {
        429 if code == "duplicate_content" && attempt.repeated => Step::AskSameWords,
        429 if code == "duplicate_content" => Step::GiveUp,
        429 => Step::Later(Some(refusal.retry_after.unwrap_or(UNSAID))),
        400 if matches!(code, "reply_target_not_found" | "reply_target_cross_room") && !attempt.unquoted => {
            Step::Unquote
        }
        400 if code == "timestamp_out_of_range" && !attempt.clock_set => Step::SetClock,
        // Checked before anything else: nothing was stored, and a new token may come.
        401 => Step::Later(None),
        // It takes two of these to be the end of the agent, and the second one says so.
        403 if code.starts_with("agent_not_claimed") => Step::Later(None),
        // Two that are no verdict: too late, too early.
        408 | 425 => Step::Ask,
        400..=499 => Step::GiveUp,
        // Something in front of the hub, or the hub itself is ill: nobody knows how far it came.
        _ => Step::Ask,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::botcord::error::{Refusal, Terminal};

    fn refused(status: u16, code: &str) -> ApiError {
        ApiError::Refused(Box::new(Refusal { status, code: Some(code.to_owned()), ..Refusal::default() }))
    }

    #[test]
    fn every_outcome_has_its_consequence() {
        let first = Attempt::default();
        let again = Attempt { repeated: true, ..first };
        let seconds = |n| Step::Later(Some(Duration::from_secs(n)));
        let network = |sent| ApiError::Network { sent, why: "x".into() };
        for (error, attempt, expected) in [
            (refused(429, "rate_limit_exceeded"), first, seconds(10)),
            (refused(429, "slow_mode_wait"), again, seconds(10)),
            (refused(429, "duplicate_content"), first, Step::GiveUp),
            (refused(429, "duplicate_content"), again, Step::AskSameWords),
            (refused(400, "reply_target_not_found"), first, Step::Unquote),
            (refused(400, "reply_target_cross_room"), again, Step::Unquote),
            (refused(400, "reply_target_not_found"), Attempt { unquoted: true, ..first }, Step::GiveUp),
            (refused(400, "timestamp_out_of_range"), first, Step::SetClock),
            (refused(400, "timestamp_out_of_range"), Attempt { clock_set: true, ..first }, Step::GiveUp),
            (refused(400, "signature_verification_failed"), first, Step::GiveUp),
            (refused(403, "not_a_member"), again, Step::GiveUp),
            (refused(404, "room_not_found"), first, Step::GiveUp),
            (refused(413, ""), first, Step::GiveUp),
            (refused(422, ""), first, Step::GiveUp),
            (refused(408, ""), first, Step::Ask),
            (refused(410, ""), first, Step::GiveUp),
            (refused(401, "invalid_token"), first, Step::Later(None)),
            (refused(403, "agent_not_claimed_generic"), first, Step::Later(None)),
            (refused(404, "").of_refresh(), first, Step::Later(None)),
            (refused(403, "key_not_active").of_refresh(), again, Step::Later(None)),
            (refused(502, "").of_refresh(), first, Step::Later(None)),
            (refused(500, ""), first, Step::Ask),
            (refused(502, ""), again, Step::Ask),
            (refused(302, ""), first, Step::Ask),
            (network(true), first, Step::Ask),
            (network(false), first, Step::Later(None)),
            (ApiError::Answer("x"), first, Step::Ask),
            (ApiError::NoToken("x".into()), first, Step::Later(None)),
            (ApiError::Stopped { sent: true }, first, Step::Ask),
            (ApiError::Stopped { sent: false }, first, Step::Later(None)),
            (ApiError::Revoked(Terminal::Credentials), first, Step::GiveUp),
            (ApiError::Request("x"), first, Step::GiveUp),
        ] {
            assert_eq!(step(&error, attempt), expected, "{error} {attempt:?}");
        }
        let mut slow = Refusal { status: 429, ..Refusal::default() };
        slow.retry_after = Some(Duration::from_secs(90));
        assert_eq!(step(&ApiError::Refused(Box::new(slow)), first), seconds(90));
    }
}
