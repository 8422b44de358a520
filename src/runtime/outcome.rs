//! From what a CLI printed and how it ended to the result of the run.
//!
//! A turn is a success only with its runtime's own event of success: CLIs exit with 0 when they are killed,
//! and after printing their help.

use crate::engine::ports::{ErrorClass, FailureSummary, RunError, RunRequest, RunResult, Usage};
use crate::redact;
use crate::runtime::classify;
use crate::runtime::process::{Ended, StopCause, signal_name};
use crate::text;

/// Longest text of a reply, in bytes of UTF-8.
pub const MAX_TEXT: usize = 1_048_576;
/// How much of standard error goes into a message, in UTF-16 units.
const STDERR_IN_MESSAGE: usize = 500;
/// How much of a line of standard output does, likewise.
const STDOUT_IN_MESSAGE: usize = 200;
/// Longest message in a failure summary, in UTF-16 units.
const MAX_MESSAGE: usize = 2_048;
/// How much of unfinished words is kept for the log, in UTF-16 units.
const MAX_PARTIAL: usize = 2_048;

/// What the events of a run said about its end.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Verdict {
    /// The terminal event of success came, with this text (which may be empty).
    Success(String),
    /// The CLI said that it failed.
    Failure {
        /// Its words.
        message: String,
        /// The class, where a field or an exit code tells it.
        class: Option<ErrorClass>,
    },
    /// Neither came.
    #[default]
    Missing,
    /// Neither came, but something else tells what went wrong.
    MissingBecause {
        /// For people; `None` = standard error says it.
        message: Option<String>,
        /// The class, where something tells it.
        class: Option<ErrorClass>,
    },
}

/// Everything that the events of a run said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// The end.
    pub verdict: Verdict,
    /// The session that the CLI announced.
    pub session: Option<String>,
    /// A session made in a turn that failed is unknown to the CLI afterwards.
    pub fresh_session_dies_with_error: bool,
    /// Words that were said before the end; for the log when there is no success.
    pub partial: String,
    /// Standard error without lines that mean nothing; `None` = as it came.
    pub stderr: Option<String>,
    /// Advice that is put after the message of a failure.
    pub advice: Option<&'static str>,
    /// See [`RunResult::cost_usd`].
    pub cost_usd: Option<f64>,
    /// See [`RunResult::usage`].
    pub usage: Option<Usage>,
    /// See [`RunResult::usage_totals`].
    pub usage_totals: Option<Usage>,
    /// See [`RunResult::context_tokens`].
    pub context_tokens: Option<u64>,
}

/// What the driver knows about the run besides its events.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Runtime id.
    pub runtime: &'a str,
    /// What was asked.
    pub request: &'a RunRequest,
    /// The command line with prompts replaced by their size.
    pub command: &'a [String],
    /// Whether any event was read.
    pub events: bool,
    /// Whether the terminal event of success came before any request to stop.
    pub succeeded: bool,
    /// Whether the turn's token is set.
    pub cancelled: bool,
    /// The idle limit that was in force, in milliseconds.
    pub idle_ms: u128,
    /// See [`RunResult::note`].
    pub note: Option<&'a str>,
}

/// The result of a run whose process has ended.
pub fn conclude(facts: Facts<'_>, parsed: Parsed, ended: &Ended) -> RunResult {
    let resumed = facts.request.session.as_ref().map(|s| s.id.as_str()).unwrap_or_default();
    let announced = parsed.session.as_deref().unwrap_or(resumed);
    let mut result = RunResult {
        new_session_id: announced.to_owned(),
        session_replaced: !resumed.is_empty() && announced != resumed,
        cost_usd: parsed.cost_usd,
        usage: parsed.usage,
        usage_totals: parsed.usage_totals,
        context_tokens: parsed.context_tokens,
        note: facts.note.map(str::to_owned),
        ..RunResult::default()
    };
    let success = matches!(parsed.verdict, Verdict::Success(_));
    if !facts.succeeded && (ended.stopped == Some(StopCause::Cancelled) || (facts.cancelled && !success)) {
        let error = RunError { message: format!("{} aborted", facts.runtime), class: None };
        result.failure = Some(failure(facts, &parsed, ended, &error));
        result.error = Some(error);
        return result;
    }
    let error = match &parsed.verdict {
        // Some CLIs tell of success only by the way they end.
        Verdict::Success(text) if facts.succeeded || ended.stopped.is_none() => {
            cap(text, MAX_TEXT).clone_into(&mut result.text);
            return result;
        }
        _ => error(facts, &parsed, ended),
    };
    let fresh_survives = !parsed.fresh_session_dies_with_error;
    match error.class {
        Some(ErrorClass::StaleSession | ErrorClass::ContextOverflow) => {
            result.session_lost = true;
            result.session_replaced = false;
            result.new_session_id.clear();
        }
        Some(ErrorClass::Auth) => keep_resumed(&mut result, resumed),
        _ if !fresh_survives => keep_resumed(&mut result, resumed),
        _ => {}
    }
    result.failure = Some(failure(facts, &parsed, ended, &error));
    result.error = Some(error);
    result
}

fn keep_resumed(result: &mut RunResult, resumed: &str) {
    resumed.clone_into(&mut result.new_session_id);
    result.session_replaced = false;
}

fn error(facts: Facts<'_>, parsed: &Parsed, ended: &Ended) -> RunError {
    let id = facts.runtime;
    if ended.stopped == Some(StopCause::Idle) {
        let message = format!("{id} idle timeout: no output for {}ms", facts.idle_ms);
        return RunError { message, class: Some(ErrorClass::Other) };
    }
    let (message, class) = match &parsed.verdict {
        Verdict::Failure { message, class } => {
            let class = class.or_else(|| classify::by_text(message)).unwrap_or(ErrorClass::Other);
            (message.clone(), class)
        }
        Verdict::MissingBecause { message: Some(message), class } => {
            let class = class.or_else(|| classify::by_text(message)).unwrap_or(ErrorClass::Protocol);
            (message.clone(), class)
        }
        Verdict::MissingBecause { message: None, class } => without_end(facts, parsed, ended, *class),
        Verdict::Success(_) | Verdict::Missing => without_end(facts, parsed, ended, None),
    };
    let message = match parsed.advice {
        Some(advice) => format!("{message}\n{advice}"),
        None => message,
    };
    RunError { message, class: Some(class) }
}

/// Message and class of a process that ended without a word about its end.
fn without_end(facts: Facts<'_>, parsed: &Parsed, ended: &Ended, evidence: Option<ErrorClass>) -> (String, ErrorClass) {
    let id = facts.runtime;
    let stderr = text::trim(parsed.stderr.as_deref().unwrap_or(&ended.stderr_tail));
    let words = text::trim(text::tail(stderr, STDERR_IN_MESSAGE));
    let failed = ended.exit_code != Some(0);
    let told = match (ended.exit_code, ended.signal) {
        (Some(0), _) if !words.is_empty() && classify::is_terminal_stderr(words) => {
            format!("{id} reported an error on stderr")
        }
        (Some(0), _) => {
            let mut told = format!("{id} ended without a result event");
            if ended.skipped_lines > 0 {
                told.push_str(&format!(" ({} lines of more than 16 MiB were skipped)", ended.skipped_lines));
            }
            // One that never spoke the protocol may have told people why.
            let said = text::trim(&ended.stdout_tail).lines().next().filter(|_| !facts.events);
            let said = said.map(|line| format!(": {}", text::clip(line, STDOUT_IN_MESSAGE))).unwrap_or_default();
            return (told + &said, or_protocol(evidence, words));
        }
        (Some(code), _) => format!("{id} exited with code {code}"),
        (None, Some(signal)) => format!("{id} was killed by {}", signal_name(signal)),
        (None, None) => format!("{id} did not end"),
    };
    let message = if words.is_empty() { told } else { format!("{told}: {words}") };
    let class = evidence.or_else(|| classify::by_text(words)).unwrap_or({
        // A CLI that never began was started wrongly.
        if failed && !facts.events && ended.signal.is_none() { ErrorClass::Config } else { ErrorClass::Protocol }
    });
    (message, class)
}

fn or_protocol(evidence: Option<ErrorClass>, words: &str) -> ErrorClass {
    evidence.or_else(|| classify::by_text(words)).unwrap_or(ErrorClass::Protocol)
}

fn failure(facts: Facts<'_>, parsed: &Parsed, ended: &Ended, error: &RunError) -> FailureSummary {
    let tail = |tail: &str| (!tail.is_empty()).then(|| redact::text(tail));
    FailureSummary {
        cwd: Some(facts.request.cwd.display().to_string()),
        command: redact::argv(facts.command),
        exit_code: ended.exit_code,
        signal: ended.signal.map(signal_name),
        duration_ms: u64::try_from(ended.duration.as_millis()).ok(),
        stderr_tail: tail(&ended.stderr_tail),
        stdout_tail: tail(&ended.stdout_tail),
        error_message: Some(text::tail(&redact::text(&error.message), MAX_MESSAGE).to_owned()),
        partial_text: tail(text::tail(&parsed.partial, MAX_PARTIAL)),
    }
}

/// The beginning of a text, at most `max` bytes of UTF-8, cut between characters.
pub fn cap(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Text that is collected piece by piece, up to [`MAX_TEXT`] bytes; the rest is dropped, with one warning.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    text: String,
    full: bool,
}

impl Collected {
    /// Adds a piece.
    pub fn push(&mut self, piece: &str) {
        if self.full {
            return;
        }
        let kept = cap(piece, MAX_TEXT - self.text.len());
        self.text.push_str(kept);
        if kept.len() < piece.len() {
            self.full = true;
            log::warn!("runtime.text_cut bytes={}", self.text.len());
        }
    }

    /// What was collected.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether nothing but white space was collected.
    pub fn is_blank(&self) -> bool {
        self.text.trim().is_empty()
    }

    /// Takes what was collected and begins anew.
    pub fn take(&mut self) -> String {
        self.full = false;
        std::mem::take(&mut self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ports::ResumedSession;
    use crate::runtime::testing::{ended, request};

    fn conclude_with(verdict: Verdict, session: Option<&str>, end: Ended, resumed: Option<&str>) -> RunResult {
        let mut request = request("hi");
        request.session = resumed.map(|id| ResumedSession { id: id.into(), ..ResumedSession::default() });
        let facts = Facts {
            runtime: "demo",
            request: &request,
            command: &["demo".to_owned()],
            events: session.is_some(),
            succeeded: matches!(verdict, Verdict::Success(_)) && end.stopped.is_none(),
            cancelled: false,
            idle_ms: 5,
            note: None,
        };
        conclude(facts, Parsed { verdict, session: session.map(str::to_owned), ..Parsed::default() }, &end)
    }

    fn failed(message: &str, class: Option<ErrorClass>) -> Verdict {
        Verdict::Failure { message: message.into(), class }
    }

    #[test]
    fn what_happens_to_the_session_depends_on_the_class() {
        let table = [
            (failed("x", None), ErrorClass::Other, "new", false),
            (failed("Invalid API key", None), ErrorClass::Auth, "old", false),
            (failed("session not found", None), ErrorClass::StaleSession, "", true),
            (failed("x", Some(ErrorClass::ContextOverflow)), ErrorClass::ContextOverflow, "", true),
            (Verdict::Missing, ErrorClass::Protocol, "new", false),
        ];
        for (verdict, class, session, lost) in table {
            let result = conclude_with(verdict, Some("new"), ended(Some(0), None, ""), Some("old"));
            assert_eq!(result.error.as_ref().and_then(|e| e.class), Some(class));
            assert_eq!((result.new_session_id.as_str(), result.session_lost), (session, lost));
            assert!(result.text.is_empty() && result.failure.is_some());
        }
    }

    #[test]
    fn an_end_without_words_is_told_by_its_exit_and_stderr() {
        let table = [
            (ended(Some(0), None, ""), "demo ended without a result event", ErrorClass::Protocol),
            (
                ended(Some(0), None, "Error: no key"),
                "demo reported an error on stderr: Error: no key",
                ErrorClass::Protocol,
            ),
            (ended(Some(3), None, " bad \n"), "demo exited with code 3: bad", ErrorClass::Config),
            (ended(None, Some(9), ""), "demo was killed by SIGKILL", ErrorClass::Protocol),
            (ended(Some(1), None, "Not logged in"), "demo exited with code 1: Not logged in", ErrorClass::Auth),
        ];
        for (end, message, class) in table {
            let error = conclude_with(Verdict::Missing, None, end, None).error.unwrap();
            assert_eq!((error.message.as_str(), error.class), (message, Some(class)));
        }
    }

    #[test]
    fn a_program_that_only_says_goodbye_is_quoted() {
        let mut end = ended(Some(0), None, "");
        end.stdout_tail = "demo is no longer maintained.\nUsage: …\n".into();
        let message = |session| conclude_with(Verdict::Missing, session, end.clone(), None).error.unwrap().message;
        assert_eq!(message(None), "demo ended without a result event: demo is no longer maintained.");
        assert_eq!(message(Some("s")), "demo ended without a result event");
    }

    #[test]
    fn lines_that_were_too_long_are_told() {
        let end = Ended { skipped_lines: 2, ..ended(Some(0), None, "") };
        let error = conclude_with(Verdict::Missing, Some("s"), end, None).error.unwrap();
        assert_eq!(error.message, "demo ended without a result event (2 lines of more than 16 MiB were skipped)");
    }

    #[test]
    fn a_stop_of_the_daemon_is_an_abort_whatever_the_cli_says() {
        let mut end = ended(Some(0), None, "");
        end.stopped = Some(StopCause::Cancelled);
        let result = conclude_with(Verdict::Success("done".into()), Some("s"), end, None);
        assert_eq!(result.error.unwrap().message, "demo aborted");
        assert_eq!((result.text.as_str(), result.new_session_id.as_str()), ("", "s"));
    }

    #[test]
    fn silence_is_an_error() {
        let mut end = ended(Some(0), None, "");
        end.stopped = Some(StopCause::Idle);
        let result = conclude_with(Verdict::Missing, Some("s"), end, None);
        assert_eq!(result.error.unwrap().message, "demo idle timeout: no output for 5ms");
    }

    #[test]
    fn collected_text_is_bounded_and_never_cuts_a_character() {
        let mut text = Collected::default();
        text.push(&"x".repeat(MAX_TEXT - 1));
        text.push("é");
        text.push("y");
        assert_eq!(text.as_str().len(), MAX_TEXT - 1);
    }
}
