//! What follows from the end of a run: the reply, the fate of the session, the words in the journal.
//!
//! Pure: the turn gathers the facts, this module decides, the turn carries it out.

use super::cancel::CancelReason;
use super::capture::Capture;
use super::ports::{ErrorClass, RunResult, Thrown, TurnFailure, TurnStatus};
use super::sessions::SessionEntry;
use super::transcript::{Delivery, TurnErrorPhase};
use crate::failure;
use crate::json;
use crate::message::OutboundKind;
use crate::text::{clip, trim};

/// How the last run of a turn ended. Lives once per turn, so the size of its variants does not matter.
#[expect(clippy::large_enum_variant, reason = "one per turn, never stored")]
#[derive(Clone, Debug, PartialEq)]
pub enum Run {
    /// The adapter returned.
    Returned(RunResult),
    /// The run could not begin.
    Threw(Thrown),
}

impl Run {
    /// The error's text, if it failed.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Returned(result) => result.error.as_ref().map(|e| e.message.as_str()),
            Self::Threw(thrown) => Some(&thrown.message),
        }
    }

    /// The error's class, where the adapter knows it.
    pub fn class(&self) -> Option<ErrorClass> {
        match self {
            Self::Returned(result) => result.error.as_ref().and_then(|e| e.class),
            Self::Threw(thrown) => thrown.class,
        }
    }

    /// The reply, trimmed; empty when there is none.
    pub fn reply(&self) -> &str {
        match self {
            Self::Returned(result) => trim(&result.text),
            Self::Threw(_) => "",
        }
    }

    /// Whether the error is an authentication failure, by class or by its text.
    pub fn is_auth(&self) -> bool {
        match (self.class(), self.error()) {
            (Some(class), _) => class == ErrorClass::Auth,
            (None, Some(text)) => failure::is_auth_failure(text),
            (None, None) => false,
        }
    }

    /// Whether the error is a used-up quota.
    pub fn is_usage_limit(&self) -> bool {
        match (self.class(), self.error()) {
            (Some(class), _) => class == ErrorClass::UsageLimit,
            (None, Some(text)) => failure::is_usage_limit(text),
            (None, None) => false,
        }
    }

    /// Whether the error is worth another try.
    pub fn is_transient(&self) -> bool {
        match (self.class(), self.error()) {
            (Some(class), _) => class == ErrorClass::Transient,
            (None, Some(text)) => failure::is_transient(text),
            (None, None) => false,
        }
    }

    /// Whether the resumed session is what failed, so that a fresh one may succeed.
    pub fn is_session_failure(&self, runtime: &str) -> bool {
        /// Runtimes whose error texts may be read that way.
        const BY_TEXT: [&str; 4] = ["codex", "hermes-agent", "openclaw-acp", "kimi-cli"];
        match (self.class(), self.error()) {
            (Some(class), _) => matches!(class, ErrorClass::StaleSession | ErrorClass::ContextOverflow),
            (None, Some(text)) => BY_TEXT.contains(&runtime) && failure::is_recoverable_session_failure(text),
            (None, None) => false,
        }
    }
}

/// What the decision depends on besides the run.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Why the turn was cancelled, if it was.
    pub cancelled: Option<CancelReason>,
    /// Runtime id.
    pub runtime: &'a str,
    /// Time limit in milliseconds.
    pub limit_ms: u64,
    /// It is a run in the cloud, whose diagnostics have a fixed form.
    pub is_cloud_run: bool,
    /// Number of tool calls, the one over the budget included.
    pub tool_calls: u64,
    /// Whether text of a turn reaches this room.
    pub deliverable: bool,
    /// The session that the last run resumed.
    pub active: Option<&'a SessionEntry>,
    /// The session that the last run announced, when it did more than announce it.
    pub worked_in: Option<&'a str>,
}

/// What happens to the stored session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionAction {
    /// Nothing.
    Keep,
    /// Store this id.
    Upsert(String),
    /// Keep it this once; forget it when the same happens again.
    Suspect,
    /// Forget it.
    Delete,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Ordinary or diagnostic.
    pub kind: OutboundKind,
    /// The text.
    pub text: String,
    /// Reference of the failure.
    pub error_ref: Option<String>,
}

/// What the breaker learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerNews {
    /// Another authentication failure.
    Failure,
    /// A turn without any error.
    Clear,
    /// Nothing.
    None,
}

/// The decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// For the person who asked.
    pub status: TurnStatus,
    /// The journal's reason once the reply is delivered (or at once, without one).
    pub why: &'static str,
    /// What is sent.
    pub reply: Option<Reply>,
    /// The text of the turn, for the transcript.
    pub final_text: String,
    /// Why nothing is sent; `None` when something is sent or nothing is recorded.
    pub unsent: Option<Delivery>,
    /// Whether an `outbound` record is written (not after a run that threw, nor for a cancelled turn).
    pub record_outbound: bool,
    /// Fate of the session.
    pub session: SessionAction,
    /// For the breaker.
    pub breaker: BreakerNews,
    /// The failure to record and how it shows.
    pub failed: Option<(TurnErrorPhase, TurnFailure)>,
    /// An error that came along with a reply: logged, not shown.
    pub side_error: Option<String>,
}

impl Outcome {
    /// That of a turn that a person has cancelled.
    pub fn cancelled() -> Self {
        Self::silent(TurnStatus::Cancelled, "cancelled")
    }

    fn silent(status: TurnStatus, why: &'static str) -> Self {
        Self {
            status,
            why,
            reply: None,
            final_text: String::new(),
            unsent: None,
            record_outbound: false,
            session: SessionAction::Keep,
            breaker: BreakerNews::None,
            failed: None,
            side_error: None,
        }
    }
}

/// Decides. `capture` is called at most once, for a failure that gets a reference.
pub fn decide(run: &Run, facts: &Facts<'_>, capture: impl FnOnce(&str) -> Capture) -> Outcome {
    match facts.cancelled {
        Some(CancelReason::Superseded | CancelReason::Shutdown) => {
            return Outcome::silent(TurnStatus::Cancelled, "superseded");
        }
        Some(CancelReason::User) => {
            let session = facts.worked_in.map_or(SessionAction::Keep, |id| SessionAction::Upsert(id.to_owned()));
            return Outcome { session, ..Outcome::cancelled() };
        }
        Some(CancelReason::Timeout) => return timed_out(facts),
        Some(CancelReason::Budget) => return over_budget(facts),
        None => {}
    }
    let result = match run {
        Run::Threw(thrown) => {
            let mut outcome = failed(run, facts, capture(&thrown.message), String::new());
            outcome.record_outbound = false;
            outcome.session = thrown_session(thrown, facts);
            return outcome;
        }
        Run::Returned(result) => result,
    };
    let text = run.reply();
    let auth_text = result.error.is_none() && failure::is_auth_failure(text);
    let reply = if failure::is_auth_failure(text) { "" } else { text };
    let error = run.error().or(auth_text.then_some(text));
    let auth = auth_text || run.is_auth();
    let breaker = match error {
        _ if auth => BreakerNews::Failure,
        None => BreakerNews::Clear,
        Some(_) => BreakerNews::None,
    };
    let session = session_action(run, result, facts, reply, error.is_some(), auth);
    let base = Outcome { session, breaker, ..Outcome::silent(TurnStatus::Ok, "delivered") };
    if reply.is_empty() {
        return match error {
            Some(error) => {
                let captured = capture(error);
                let shown = if auth_text { String::new() } else { text.to_owned() };
                let failed = failed(run, facts, captured, shown);
                Outcome { session: base.session, breaker, ..failed }
            }
            None => Outcome {
                status: TurnStatus::NoReply,
                why: "empty",
                unsent: Some(Delivery::EmptyText),
                record_outbound: true,
                ..base
            },
        };
    }
    let base =
        Outcome { final_text: reply.to_owned(), record_outbound: true, side_error: error.map(str::to_owned), ..base };
    if is_no_reply(reply) {
        return Outcome { status: TurnStatus::NoReply, why: "no_reply", unsent: Some(Delivery::NoReply), ..base };
    }
    if !facts.deliverable {
        return Outcome { why: "gated", unsent: Some(Delivery::GatedNonOwnerChat), ..base };
    }
    let reply = Reply { kind: OutboundKind::Message, text: reply.to_owned(), error_ref: None };
    Outcome { reply: Some(reply), ..base }
}

/// Exactly `NO_REPLY`, also in one pair of backticks, quotes or asterisks.
pub fn is_no_reply(text: &str) -> bool {
    const WORD: &str = "NO_REPLY";
    let text = trim(text);
    text == WORD
        || ['`', '"', '\'', '*']
            .iter()
            .any(|&c| text.strip_prefix(c).and_then(|t| t.strip_suffix(c)).is_some_and(|t| t == WORD))
}

fn timed_out(facts: &Facts<'_>) -> Outcome {
    let after = match facts.limit_ms {
        // Nobody understands a limit of no minutes.
        ms @ ..60_000 if !facts.is_cloud_run => format!("{} second(s)", ms.div_ceil(1_000)),
        ms => format!("{} minute(s)", (ms + 30_000) / 60_000),
    };
    let text = format!("Runtime timeout after {after}; aborted");
    limit(TurnErrorPhase::Timeout, "timeout", text, format!("runtime timeout after {}ms", facts.limit_ms))
}

fn over_budget(facts: &Facts<'_>) -> Outcome {
    let detail = format!("tool call budget exceeded after {} tool call(s)", facts.tool_calls);
    limit(TurnErrorPhase::Budget, "budget", format!("Cloud run budget exceeded: {detail}"), detail)
}

fn limit(phase: TurnErrorPhase, why: &'static str, text: String, message: String) -> Outcome {
    let failure = TurnFailure { kind: why.into(), message, error_ref: None };
    Outcome {
        reply: Some(Reply { kind: OutboundKind::Error, text, error_ref: None }),
        failed: Some((phase, failure)),
        ..Outcome::silent(TurnStatus::Timeout, why)
    }
}

/// The diagnostic of a runtime failure.
fn failed(run: &Run, facts: &Facts<'_>, captured: Capture, final_text: String) -> Outcome {
    let text = if run.is_usage_limit() || failure::is_usage_limit(&captured.message) {
        failure::usage_message(&captured.message, facts.runtime)
    } else {
        error_text(&captured.safe, &captured.error_ref)
    };
    let kind = run.class().map_or_else(|| "other".to_owned(), class_name);
    let failure = TurnFailure { kind, message: captured.safe, error_ref: Some(captured.error_ref.clone()) };
    Outcome {
        reply: Some(Reply { kind: OutboundKind::Error, text, error_ref: Some(captured.error_ref) }),
        final_text,
        record_outbound: true,
        failed: Some((TurnErrorPhase::Runtime, failure)),
        ..Outcome::silent(TurnStatus::Error, "error")
    }
}

/// `⚠️ Runtime error: <at most 500>… [error_ref: <ref>]`
pub fn error_text(message: &str, error_ref: &str) -> String {
    format!("⚠️ Runtime error: {} [error_ref: {error_ref}]", clip(message, 500))
}

/// The class as the wire spells it.
pub fn class_name(class: ErrorClass) -> String {
    match json::to_value(&class) {
        Ok(serde_json::Value::String(name)) => name,
        _ => "other".into(),
    }
}

/// A session in which a run throws twice in a row is given up, unless something else is to blame for certain.
fn thrown_session(thrown: &Thrown, facts: &Facts<'_>) -> SessionAction {
    use ErrorClass::{Auth, Busy, Config, Missing, UsageLimit};
    if matches!(thrown.class, Some(Auth | Busy | Config | Missing | UsageLimit)) {
        return SessionAction::Keep;
    }
    match facts.active {
        Some(entry) if entry.suspect => SessionAction::Delete,
        Some(_) => SessionAction::Suspect,
        None => SessionAction::Keep,
    }
}

fn session_action(
    run: &Run,
    result: &RunResult,
    facts: &Facts<'_>,
    reply: &str,
    failed: bool,
    auth: bool,
) -> SessionAction {
    let new = &result.new_session_id;
    if result.session_lost {
        return if facts.active.is_some() { SessionAction::Delete } else { SessionAction::Keep };
    }
    let store = || if new.is_empty() { SessionAction::Keep } else { SessionAction::Upsert(new.clone()) };
    if !failed {
        return store();
    }
    let transient = || match facts.active {
        Some(entry) if entry.suspect => SessionAction::Delete,
        Some(_) => SessionAction::Suspect,
        None => store(),
    };
    // The adapter knows: it says what to store, and only a lost session is forgotten.
    if let Some(class) = run.class() {
        return match class {
            ErrorClass::Auth => SessionAction::Keep,
            ErrorClass::Transient => transient(),
            _ => store(),
        };
    }
    if facts.active.is_some() && reply.is_empty() {
        return match () {
            () if auth => SessionAction::Delete,
            () if run.is_usage_limit() => SessionAction::Keep,
            () if run.is_transient() => transient(),
            () => SessionAction::Delete,
        };
    }
    if !new.is_empty() && !auth {
        return store();
    }
    if run.is_usage_limit() {
        return SessionAction::Keep;
    }
    if facts.active.is_some() { SessionAction::Delete } else { SessionAction::Keep }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ports::RunError;

    fn facts() -> Facts<'static> {
        Facts {
            cancelled: None,
            runtime: "codex",
            limit_ms: 1_800_000,
            is_cloud_run: false,
            tool_calls: 0,
            deliverable: true,
            active: None,
            worked_in: None,
        }
    }

    fn said(text: &str) -> Run {
        Run::Returned(RunResult { text: text.into(), new_session_id: "s1".into(), ..RunResult::default() })
    }

    fn broke(message: &str, class: Option<ErrorClass>) -> Run {
        let error = Some(RunError { message: message.into(), class });
        Run::Returned(RunResult { error, new_session_id: "s1".into(), ..RunResult::default() })
    }

    fn captured(text: &str) -> Capture {
        Capture { message: text.into(), safe: text.into(), error_ref: "err_0123456789ab".into() }
    }

    fn decided(run: &Run, facts: &Facts<'_>) -> Outcome {
        decide(run, facts, captured)
    }

    #[test]
    fn no_reply_is_recognised_in_one_pair_of_marks_only() {
        for text in ["NO_REPLY", " NO_REPLY\n", "`NO_REPLY`", "\"NO_REPLY\"", "*NO_REPLY*"] {
            assert!(is_no_reply(text), "{text}");
        }
        for text in ["NO_REPLY.", "``NO_REPLY``", "no_reply", "`NO_REPLY", "I say NO_REPLY", "**NO_REPLY**"] {
            assert!(!is_no_reply(text), "{text}");
        }
    }

    #[test]
    fn minutes_are_rounded_half_up() {
        for (ms, minutes) in [(500, 0), (29_999, 0), (30_000, 1), (89_999, 1), (1_800_000, 30)] {
            let facts = Facts { cancelled: Some(CancelReason::Timeout), limit_ms: ms, is_cloud_run: true, ..facts() };
            let reply = decided(&said("late"), &facts).reply.unwrap();
            assert_eq!(reply.text, format!("Runtime timeout after {minutes} minute(s); aborted"));
            assert_eq!(reply.kind, OutboundKind::Error);
        }
    }

    #[test]
    fn a_short_limit_is_told_in_seconds() {
        for (ms, after) in [(500, "1 second(s)"), (15_000, "15 second(s)"), (60_000, "1 minute(s)")] {
            let facts = Facts { cancelled: Some(CancelReason::Timeout), limit_ms: ms, ..facts() };
            let reply = decided(&said("late"), &facts).reply.unwrap();
            assert_eq!(reply.text, format!("Runtime timeout after {after}; aborted"));
        }
    }

    #[test]
    fn a_superseded_turn_is_silent_whatever_it_returns() {
        for reason in [CancelReason::Superseded, CancelReason::Shutdown] {
            let outcome = decided(&said("ok"), &Facts { cancelled: Some(reason), ..facts() });
            assert_eq!((outcome.reply, outcome.session), (None, SessionAction::Keep));
        }
    }

    #[test]
    fn the_adapters_word_on_the_session_wins_over_the_text() {
        let entry = SessionEntry::default();
        let active = Facts { active: Some(&entry), ..facts() };
        let quota = decided(&broke("resume later", Some(ErrorClass::UsageLimit)), &active);
        assert_eq!(quota.session, SessionAction::Upsert("s1".into()));
        let text = decided(&broke("something else", None), &active);
        assert_eq!(text.session, SessionAction::Delete);
        let quota = decided(&broke("usage limit reached", None), &active);
        assert_eq!(quota.session, SessionAction::Keep);
    }

    #[test]
    fn a_quota_that_is_used_up_in_the_middle_of_an_answer_costs_no_session() {
        let entry = SessionEntry::default();
        let error = |text: &str| Some(RunError { message: text.into(), class: None });
        for (text, kept) in [("usage limit reached", SessionAction::Keep), ("warn", SessionAction::Delete)] {
            let run = Run::Returned(RunResult { text: "half".into(), error: error(text), ..RunResult::default() });
            assert_eq!(decided(&run, &Facts { active: Some(&entry), ..facts() }).session, kept, "{text}");
        }
    }

    #[test]
    fn a_session_is_forgotten_after_the_second_transient_failure_in_a_row() {
        let mut entry = SessionEntry::default();
        let run = broke("ECONNRESET", None);
        assert_eq!(decided(&run, &Facts { active: Some(&entry), ..facts() }).session, SessionAction::Suspect);
        entry.suspect = true;
        assert_eq!(decided(&run, &Facts { active: Some(&entry), ..facts() }).session, SessionAction::Delete);
    }

    #[test]
    fn a_throw_costs_a_session_only_what_may_be_its_fault() {
        use ErrorClass::{Auth, Busy, Config, Missing, UsageLimit};
        let once = SessionEntry::default();
        let twice = SessionEntry { suspect: true, ..SessionEntry::default() };
        let thrown = |class, entry| {
            let run = Run::Threw(Thrown { class, ..Thrown::new("no") });
            decided(&run, &Facts { active: Some(entry), ..facts() }).session
        };
        for class in [None, Some(ErrorClass::Other), Some(ErrorClass::Protocol)] {
            assert_eq!((thrown(class, &once), thrown(class, &twice)), (SessionAction::Suspect, SessionAction::Delete));
        }
        for class in [Auth, Busy, Config, Missing, UsageLimit] {
            assert_eq!(thrown(Some(class), &twice), SessionAction::Keep, "{class:?}");
        }
    }

    #[test]
    fn a_gated_room_gets_errors_but_no_text() {
        let facts = Facts { deliverable: false, ..facts() };
        let gated = decided(&said("x"), &facts);
        assert_eq!((gated.reply, gated.unsent, gated.why), (None, Some(Delivery::GatedNonOwnerChat), "gated"));
        assert!(decided(&broke("x", None), &facts).reply.is_some());
    }
}
