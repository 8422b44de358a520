//! Why a request to a hub did not do what it should: what the answer says, in the words that decide what happens next.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use crate::json;
use crate::text;

/// How much of an error body is logged, in UTF-16 units.
const SHOWN: usize = 200;

/// An answer that is not a success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The stable word for what is wrong: `code` of the body, else its `detail` where that is a text. From the far
    /// side; compare it, do not show it unquoted.
    pub code: Option<String>,
    /// It was a token that was asked for: of what the token was for the hub has seen nothing.
    pub of_refresh: bool,
    /// How long the hub wants to be left alone, where it says so in whole seconds.
    pub retry_after: Option<Duration>,
    /// The hub's clock (Unix seconds), where it says.
    pub date: Option<i64>,
    /// The beginning of the body, for the log.
    pub excerpt: String,
    /// The hub's id of the request, for the log.
    pub request_id: Option<String>,
}

impl Refusal {
    /// What an answer says. `body`: its first bytes.
    pub fn new(status: u16, body: &[u8]) -> Self {
        let document: Option<Value> = json::parse(body).ok();
        let word = |key: &str| document.as_ref()?.get(key)?.as_str().map(|w| text::clip(w, SHOWN));
        let shown = match &document {
            Some(document) => explained(document),
            None => String::from_utf8_lossy(body.get(..4 * SHOWN).unwrap_or(body)).into_owned(),
        };
        let excerpt = text::head(&shown.replace(char::is_control, " "), SHOWN).to_owned();
        Self { status, code: word("code").or_else(|| word("detail")), excerpt, ..Self::default() }
    }

    /// Whether the code is this one.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

/// What a body says is wrong. Never all of it: it may repeat what was sent, or hold a link that is not for everybody.
fn explained(body: &Value) -> String {
    let word = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut said = vec![word(body, "code"), word(body, "detail")];
    for problem in body.get("detail").and_then(Value::as_array).into_iter().flatten().take(5) {
        let place = problem.get("loc").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let place: Vec<&str> = place.iter().filter_map(Value::as_str).collect();
        said.push(format!("{}: {}", place.join("."), word(problem, "msg")));
    }
    said.retain(|s| !s.is_empty());
    said.dedup();
    said.join(", ")
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the hub answers {}", self.status)?;
        if !self.excerpt.is_empty() {
            write!(f, " {:?}", self.excerpt)?;
        }
        match &self.request_id {
            Some(id) => write!(f, " (request {id:?})"),
            None => Ok(()),
        }
    }
}

/// Why the hub will do nothing for an agent any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// The agent or its key is gone.
    Credentials,
    /// Nobody has claimed the agent.
    Unclaimed,
}

impl fmt::Display for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credentials => "agent credentials rejected by Hub",
            Self::Unclaimed => "agent not claimed",
        })
    }
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiError {
    /// The hub has answered, and not with a success.
    Refused(Box<Refusal>),
    /// There was no (whole) answer. `sent`: the hub may have got the request, and done what it says.
    Network {
        /// Whether anything of the request has gone out.
        sent: bool,
        /// For the log.
        why: String,
    },
    /// There was no token to ask with, and it is not time yet to ask for one again; nothing was sent.
    NoToken(String),
    /// The hub has said twice that it will have nothing to do with this agent any more.
    Revoked(Terminal),
    /// Somebody wanted it to end.
    Stopped {
        /// Whether anything of the request has gone out.
        sent: bool,
    },
    /// The hub says that all is well in words that make no sense.
    Answer(&'static str),
    /// The request cannot be made.
    Request(&'static str),
}

impl ApiError {
    /// The answer, where there is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether the hub refused with this code.
    pub fn is(&self, code: &str) -> bool {
        self.refusal().is_some_and(|r| r.is(code))
    }

    /// The status of the answer, where there is one.
    pub fn status(&self) -> Option<u16> {
        self.refusal().map(|r| r.status)
    }

    /// The same, of asking for a token.
    #[must_use]
    pub fn of_refresh(mut self) -> Self {
        if let Self::Refused(refusal) = &mut self {
            refusal.of_refresh = true;
        }
        self
    }

    /// Whether it is unknown if the hub has done what it was asked.
    pub fn is_uncertain(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.status >= 500 && !refusal.of_refresh,
            Self::Network { sent, .. } | Self::Stopped { sent } => *sent,
            Self::Answer(_) => true,
            Self::NoToken(_) | Self::Revoked(_) | Self::Request(_) => false,
        }
    }
}

impl fmt::Display for ApiError {
    /// For the log: no secrets, what the hub says quoted and cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Network { sent: true, why } => write!(f, "no answer: {why}"),
            Self::Network { sent: false, why } => write!(f, "not reached: {why}"),
            Self::NoToken(why) => write!(f, "no token: {why}"),
            Self::Revoked(why) => write!(f, "{why}"),
            Self::Stopped { .. } => f.write_str("given up"),
            Self::Answer(what) => write!(f, "the hub's answer makes no sense: {what}"),
            Self::Request(what) => write!(f, "cannot be asked: {what}"),
        }
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_found_in_every_kind_of_body() {
        let code = |body: &str| Refusal::new(400, body.as_bytes()).code;
        assert_eq!(code(r#"{"detail":"Not a member","code":"not_a_member"}"#).as_deref(), Some("not_a_member"));
        assert_eq!(code(r#"{"detail":"gateway_not_found","error":"x"}"#).as_deref(), Some("gateway_not_found"));
        assert_eq!(code(r#"{"detail":[{"type":"missing"}]}"#), None);
        assert_eq!(code(r#"{"detail":{"code":"x"},"code":5}"#), None);
        assert_eq!(code("<html>"), None);
        assert_eq!(code(""), None);
    }

    #[test]
    fn what_was_sent_is_not_logged() {
        let shown = |body: &str| Refusal::new(422, body.as_bytes()).excerpt;
        let body =
            r#"{"detail":[{"type":"missing","loc":["body","nonce"],"msg":"Field required","input":{"sig":"s3"}}]}"#;
        assert_eq!(shown(body), "body.nonce: Field required");
        let body = r#"{"detail":"Claim it","code":"agent_not_claimed","claim_url":"https://h/clm_s3"}"#;
        assert_eq!(shown(body), "agent_not_claimed, Claim it");
        assert_eq!(shown(r#"{"detail":"gateway_not_found","error":"gateway_not_found"}"#), "gateway_not_found");
        assert_eq!(shown(r#"{"detail":{"input":"s3"}}"#), "");
    }

    #[test]
    fn what_is_logged_is_short_and_on_one_line() {
        let shown = Refusal::new(502, format!("a\nb{}", "é".repeat(5_000)).as_bytes()).to_string();
        assert!(shown.starts_with("the hub answers 502 \"a béé") && shown.chars().count() < 260, "{shown}");
    }
}
