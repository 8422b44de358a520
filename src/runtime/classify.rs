//! What kind of failure a text tells of, where the CLI gives nothing better than text.
//!
//! An adapter looks at structured evidence first (a field, an exit code) and comes here only without any.

use crate::engine::ports::ErrorClass;
use crate::failure;

/// The classes in the order in which they are tried, with the phrases that tell them (lower case).
const PHRASES: [(ErrorClass, &[&str]); 3] = [
    (ErrorClass::Busy, &["already has an active writer"]),
    (
        ErrorClass::StaleSession,
        &[
            "no conversation found",
            "no rollout found",
            "error resuming session",
            "session not found",
            "created under a different directory",
            "does not match any session",
            "resource not found",
            "unknown sessionid",
            "invalid session identifier",
            "cannot change this thread's model provider",
        ],
    ),
    (
        ErrorClass::ContextOverflow,
        &[
            "prompt is too long",
            "ran out of room in the model",
            "context window",
            "context_length_exceeded",
            "maximum context",
            "exceeds the maximum number of tokens",
            "contextoverflow",
            "input token count",
        ],
    ),
];

const USAGE_LIMIT: &[&str] = &["exhausted your", "exceeded your current quota", "resource_exhausted"];

const AUTH: &[&str] = &[
    "unexpected status 401 unauthorized",
    "error code: 401",
    "api key not valid",
    "unauthenticated",
    "provider.auth_error",
];

const AUTH_BEGINNING: &[&str] =
    &["not logged in", "missing environment variable", "authentication required", "http 401"];

const TRANSIENT: &[&str] = &[
    "overloaded",
    "high demand",
    "internal server error",
    "connection error",
    "connectionrefused",
    "unable to connect",
    "[api error: terminated]",
];

const CONFIG: &[&str] = &["unknown option", "unexpected argument", "cannot combine", "root/sudo privileges"];

/// The class that a text tells, if any.
pub fn by_text(text: &str) -> Option<ErrorClass> {
    // Typographic apostrophes: newer CLIs write “You’ve hit your usage limit”.
    let text = crate::text::trim(text).replace('\u{2019}', "'");
    if text.is_empty() {
        return None;
    }
    let lower = text.to_lowercase();
    let has = |phrases: &[&str]| phrases.iter().any(|p| lower.contains(p));
    for (class, phrases) in PHRASES {
        if has(phrases) || (class == ErrorClass::StaleSession && names_missing_session(&lower)) {
            return Some(class);
        }
    }
    if failure::is_usage_limit(&text) || has(USAGE_LIMIT) || has_token(&lower, "429") {
        return Some(ErrorClass::UsageLimit);
    }
    if failure::is_auth_failure(&text) || has(AUTH) || AUTH_BEGINNING.iter().any(|p| lower.starts_with(p)) {
        return Some(ErrorClass::Auth);
    }
    if failure::is_transient(&text) || has(TRANSIENT) || has_token(&lower, "529") {
        return Some(ErrorClass::Transient);
    }
    has(CONFIG).then_some(ErrorClass::Config)
}

/// `session <one word> not found`.
fn names_missing_session(lower: &str) -> bool {
    lower.match_indices("session ").any(|(at, word)| {
        let rest = lower.get(at + word.len()..).unwrap_or_default();
        rest.split_once(' ').is_some_and(|(id, rest)| !id.is_empty() && rest.starts_with("not found"))
    })
}

/// Whether the token occurs by itself: not as a part of a longer number, word or id.
fn has_token(text: &str, token: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(token).any(|(at, found)| {
        let before = text.get(..at).and_then(|t| t.chars().next_back());
        let after = text.get(at + found.len()..).and_then(|t| t.chars().next());
        !before.is_some_and(inside) && !after.is_some_and(inside)
    })
}

/// Whether standard error of a CLI that exited with 0 reads like the end of a failed run.
pub fn is_terminal_stderr(text: &str) -> bool {
    const WORDS: [&str; 9] = [
        "error",
        "failed",
        "failure",
        "exception",
        "traceback",
        "unauthorized",
        "forbidden",
        "authentication",
        "permission denied",
    ];
    const ANYWHERE: [&str; 4] = ["rate limit", "quota exceeded", "invalid api key", "api call failed"];
    let lower = text.to_lowercase();
    ANYWHERE.iter().any(|p| lower.contains(p)) || WORDS.iter().any(|word| has_token(&lower, word))
}

/// Whether standard error holds a program's stack trace (of Node.js or Python), which no reader of a room needs.
pub fn is_stack_trace(stderr: &str) -> bool {
    let is_line_number = |pair: &[u8]| pair[0] == b':' && pair[1].is_ascii_digit();
    let is_frame = |line: &str| {
        let line = line.trim_start();
        let is_place = |place: &str| place.contains(['(', '/']) && place.as_bytes().windows(2).any(is_line_number);
        line.strip_prefix("at ").is_some_and(is_place) || line.starts_with("File \"") && line.contains(", line ")
    };
    stderr.lines().any(is_frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stack_traces_are_recognised() {
        for trace in [
            "Error: no\n    at async Turn.run (file:///opt/x/chunk.js:333001:24) {\n  status: 401\n}",
            "/opt/chunk.js:3320:29)\n    at f (/opt/chunk.js:1:2)",
            "Traceback (most recent call last):\n  File \"/opt/x.py\", line 3, in f\nValueError: no",
        ] {
            assert!(is_stack_trace(trace), "{trace}");
        }
        for words in ["no key at 10:30 today", "meet me\nat ten", "File \"a\" is missing"] {
            assert!(!is_stack_trace(words), "{words}");
        }
    }

    #[test]
    fn the_first_class_in_order_wins() {
        use ErrorClass::{Auth, Busy, Config, ContextOverflow, StaleSession, Transient, UsageLimit};
        let table = [
            ("thread/resume failed: thread x already has an active writer", Some(Busy)),
            ("Session \"abc\" not found.", Some(StaleSession)),
            ("Error resuming session: Invalid session identifier", Some(StaleSession)),
            ("thread/resume failed: Cannot change this thread's model provider from `a` to `b`", Some(StaleSession)),
            ("Prompt is too long · 429", Some(ContextOverflow)),
            ("You\u{2019}ve hit your usage limit. Upgrade", Some(UsageLimit)),
            ("last status: 429 Too Many Requests", Some(UsageLimit)),
            ("unexpected status 401 Unauthorized: no", Some(Auth)),
            ("Missing environment variable: `KEY`.", Some(Auth)),
            ("he was not logged in", None),
            ("status 529", Some(Transient)),
            ("The model is overloaded", Some(Transient)),
            ("error: unknown option '-x'", Some(Config)),
            ("request req_4290 of 1429 bytes", None),
            ("it broke", None),
            ("  ", None),
        ];
        for (text, class) in table {
            assert_eq!(by_text(text), class, "{text}");
        }
    }
}
