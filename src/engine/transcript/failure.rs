//! The evidence of a failed run, as a `turn_error` record carries it.

use serde::{Deserialize, Serialize};

use crate::engine::ports::FailureSummary;
use crate::message::Inbound;
use crate::redact;

/// How much of a failed run's output and of its error is recorded, in UTF-16 units from the end.
const OUTPUT_TAIL: usize = 8_192;
const MESSAGE_TAIL: usize = 2_048;

/// The evidence of a failed run, as recorded: every field is there, `null` where nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimeFailure {
    /// The agent.
    pub agent_id: String,
    /// The room.
    pub room_id: String,
    /// The topic.
    pub topic_id: Option<String>,
    /// The turn.
    pub turn_id: String,
    /// Runtime id.
    pub runtime: String,
    /// Working directory.
    pub cwd: Option<String>,
    /// Arguments, redacted.
    pub command: Option<Vec<String>>,
    /// Exit code.
    pub exit_code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<String>,
    /// Run time.
    pub duration_ms: u64,
    /// End of standard error, redacted.
    pub stderr_tail: Option<String>,
    /// End of standard output, redacted.
    pub stdout_tail: Option<String>,
    /// Name of the error, where it has one.
    pub error_name: Option<String>,
    /// What it says, redacted.
    pub error_message: String,
}

impl RuntimeFailure {
    /// The evidence of a failed run. The summary is redacted here again, which changes nothing where its adapter has
    /// done so.
    pub fn new(facts: FailureFacts<'_>, summary: &FailureSummary) -> Self {
        let tail =
            |t: &Option<String>| t.as_deref().filter(|t| !t.is_empty()).map(|t| redact::text_tail(t, OUTPUT_TAIL));
        let conversation = &facts.message.conversation;
        Self {
            agent_id: facts.message.account_id.clone(),
            room_id: conversation.id.clone(),
            topic_id: conversation.thread_id.clone(),
            turn_id: facts.turn_id.to_owned(),
            runtime: facts.runtime.to_owned(),
            cwd: Some(summary.cwd.clone().unwrap_or_else(|| facts.cwd.to_owned())),
            command: summary.command.as_deref().and_then(redact::argv),
            exit_code: summary.exit_code,
            signal: summary.signal.clone(),
            duration_ms: summary.duration_ms.unwrap_or(facts.duration_ms),
            stderr_tail: tail(&summary.stderr_tail),
            stdout_tail: tail(&summary.stdout_tail),
            error_name: None,
            error_message: redact::text_tail(summary.error_message.as_deref().unwrap_or(facts.error), MESSAGE_TAIL),
        }
    }
}

/// What a turn knows of its failed run; the summary of the run comes first where it has the same.
#[derive(Clone, Copy, Debug)]
pub struct FailureFacts<'a> {
    /// The message.
    pub message: &'a Inbound,
    /// The turn.
    pub turn_id: &'a str,
    /// Runtime id.
    pub runtime: &'a str,
    /// Working directory of the route.
    pub cwd: &'a str,
    /// Time since the turn began.
    pub duration_ms: u64,
    /// The error as people are told.
    pub error: &'a str,
}
