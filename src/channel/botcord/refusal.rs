//! When a hub will have nothing to do with an agent any more (the hub's protocol, §7.5). Pure.
//!
//! One answer must not be the end of an agent: it takes two of the same kind, some time apart, and no success between
//! them.

use std::time::Duration;

use super::error::{Refusal, Terminal};

/// How far apart the two answers are at least.
pub const APART: Duration = Duration::from_secs(30);

/// What an answer says about the agent. `refresh`: it was a token that was asked for.
pub fn classify(refusal: &Refusal, refresh: bool) -> Option<Terminal> {
    let code = refusal.code.as_deref().unwrap_or_default();
    if refresh {
        // The code has to be there: some other server, or something in front of the hub, says 404 just as well.
        let words: &[&str] = match refusal.status {
            404 => &["agent_not_found", "key_not_found"],
            403 => &["agent_not_found", "key_not_found", "key_not_active"],
            _ => &[],
        };
        if words.contains(&code) {
            return Some(Terminal::Credentials);
        }
    }
    let unclaimed = refusal.status == 403 && code.starts_with("agent_not_claimed");
    unclaimed.then_some(Terminal::Unclaimed)
}

/// What was said so far. Times are milliseconds of a clock that only goes forward.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The first answer of each kind since the last success.
    credentials_at: Option<i64>,
    unclaimed_at: Option<i64>,
    ended: Option<Terminal>,
}

impl Verdict {
    /// A terminal answer has come; returns whether it is the end.
    pub fn refused(&mut self, why: Terminal, now: i64) -> bool {
        let first = match why {
            Terminal::Credentials => &mut self.credentials_at,
            Terminal::Unclaimed => &mut self.unclaimed_at,
        };
        let first = *first.get_or_insert(now);
        if now - first >= APART.as_millis() as i64 {
            self.ended.get_or_insert(why);
        }
        self.ended.is_some()
    }

    /// A new token was given: the key is good.
    pub fn refreshed(&mut self) {
        self.credentials_at = None;
    }

    /// The hub did what only an agent that somebody has claimed may ask for.
    pub fn served(&mut self) {
        self.unclaimed_at = None;
    }

    /// The end, once it has come.
    pub fn ended(&self) -> Option<Terminal> {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, body: &str, refresh: bool) -> Option<Terminal> {
        classify(&Refusal::new(status, body.as_bytes()), refresh)
    }

    #[test]
    fn only_the_hubs_own_words_count() {
        let terminal = Some(Terminal::Credentials);
        assert_eq!(said(404, r#"{"code":"agent_not_found"}"#, true), terminal);
        assert_eq!(said(403, r#"{"detail":"key_not_active"}"#, true), terminal);
        assert_eq!(said(404, r#"{"detail":"Not Found"}"#, true), None);
        assert_eq!(said(404, "<h1>agent_not_found</h1>", true), None);
        assert_eq!(said(404, "", true), None);
        assert_eq!(said(404, r#"{"code":"agent_not_found"}"#, false), None);
        assert_eq!(said(500, r#"{"code":"agent_not_found"}"#, true), None);
        assert_eq!(said(403, r#"{"code":"agent_not_claimed","claim_url":"x"}"#, true), Some(Terminal::Unclaimed));
        assert_eq!(said(401, r#"{"code":"agent_not_claimed"}"#, false), None);
    }

    #[test]
    fn it_takes_two_answers_and_some_time() {
        let mut verdict = Verdict::default();
        assert!(!verdict.refused(Terminal::Credentials, 1_000));
        assert!(!verdict.refused(Terminal::Credentials, 1_001));
        assert!(!verdict.refused(Terminal::Credentials, 30_999));
        assert!(verdict.refused(Terminal::Credentials, 31_000));
        assert_eq!(verdict.ended(), Some(Terminal::Credentials));
        // What has ended stays so.
        verdict.refreshed();
        assert_eq!(verdict.ended(), Some(Terminal::Credentials));
    }

    #[test]
    fn the_two_kinds_do_not_add_up() {
        let mut verdict = Verdict::default();
        assert!(!verdict.refused(Terminal::Credentials, 0));
        assert!(!verdict.refused(Terminal::Unclaimed, 40_000));
        assert_eq!(verdict.ended(), None);
        assert!(verdict.refused(Terminal::Unclaimed, 70_000));
        assert_eq!(verdict.ended(), Some(Terminal::Unclaimed));
    }

    #[test]
    fn a_success_between_them_starts_anew() {
        let mut verdict = Verdict::default();
        verdict.refused(Terminal::Credentials, 0);
        verdict.refused(Terminal::Unclaimed, 0);
        verdict.served();
        assert!(!verdict.refused(Terminal::Unclaimed, 40_000));
        verdict.refreshed();
        assert!(!verdict.refused(Terminal::Credentials, 40_000));
        assert!(verdict.refused(Terminal::Unclaimed, 70_000));
    }
}
