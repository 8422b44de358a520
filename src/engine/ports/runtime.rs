//! What a runtime adapter gets and what it returns.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SystemContext;
use crate::engine::cancel::CancelToken;
use crate::message::{Attachment, Block, Budget, ConversationKind, Status, TrustLevel};

/// An agent CLI (or something that behaves like one).
///
/// `run` executes on the turn's own thread and may take as long as the turn. It must return soon after
/// `cancel` is set (the engine waits 15 s, see `runtime::process`), and it must never panic on what the
/// CLI prints.
pub trait Runtime: Send + Sync {
    /// Registered id, such as `claude-code`.
    fn id(&self) -> &str;

    /// Runs one turn. `Err` means that it could not even begin (the reference's "throws"): no binary, no
    /// working directory, an id that the runtime refuses.
    fn run(&self, request: &RunRequest, cancel: &CancelToken, sink: &mut dyn RunSink) -> Result<RunResult, Thrown>;

    /// Whether [`Runtime::run`] calls [`RunSink::begin`] itself, before the CLI can get its prompt. A runtime that
    /// does so starts its process while the journal still syncs; for the others it has been called.
    fn begins_itself(&self) -> bool {
        false
    }

    /// Whether a session is better left behind than resumed, for a reason that only the adapter knows.
    fn wants_fresh(&self, session: &ResumedSession) -> bool {
        let _ = session;
        false
    }

    /// Whether the CLI tells of a tool only when that has ended. Then every turn that has begun may have had effects,
    /// whatever was seen of it.
    fn acts_unseen(&self) -> bool {
        false
    }

    /// Called while no turn of it runs, at shutdown: ends pooled processes.
    fn close(&self) {}
}

/// Finds runtimes by id.
pub trait Runtimes: Send + Sync {
    /// The adapter, or a message that lists the registered ids.
    fn get(&self, id: &str) -> Result<std::sync::Arc<dyn Runtime>, String>;

    /// Ends everything that runtimes keep alive between turns.
    fn close(&self) {}
}

/// A runtime session as the store knows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResumedSession {
    /// The CLI's id of it.
    pub id: String,
    /// Working directory it was made in.
    pub cwd: PathBuf,
    /// Totals that the CLI had reported by the end of the last turn, where it counts from the beginning.
    pub usage_totals: Option<Usage>,
    /// What the adapter asked to be remembered with the session ([`RunResult::note`]).
    pub note: Option<String>,
}

/// A rule that the room imposes on the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SystemRule {
    /// `room_rule`.
    pub kind: String,
    /// `room`.
    pub scope: String,
    /// `room:<room id>`.
    pub id: String,
    /// `sha256:<hex of the text>`.
    pub version: String,
    /// Room id.
    pub room_id: String,
    /// Room name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_name: Option<String>,
    /// The rule, trimmed.
    pub text: String,
}

/// A gateway that an `openclaw-acp` route names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Name in the configuration.
    pub name: String,
    /// WebSocket URL.
    pub url: String,
    /// Secret; never logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The agent behind the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openclaw_agent: Option<String>,
}

/// Everything that one run of a runtime depends on.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// The turn; children carry it as `BELLHOP_TURN`.
    pub turn_id: String,
    /// The message that is answered.
    pub message_id: String,
    /// Conversation id.
    pub room_id: String,
    /// Thread id.
    pub topic_id: Option<String>,
    /// Channel id.
    pub channel: String,
    /// Direct or group.
    pub conversation_kind: ConversationKind,
    /// The agent (account id).
    pub agent: String,
    /// What the agent is told.
    pub text: String,
    /// The session to resume.
    pub session: Option<ResumedSession>,
    /// Working directory of the route.
    pub cwd: PathBuf,
    /// The agent's hub.
    pub hub_url: Option<String>,
    /// Where the agent may ask to be parked.
    pub wait_file: Option<PathBuf>,
    /// Extra arguments of the route; each adapter filters them.
    pub extra_args: Vec<String>,
    /// Trust of the route.
    pub trust: TrustLevel,
    /// Whether the message came from the agent's owner.
    pub from_owner: bool,
    /// Context for the system prompt; fresh for every run.
    pub system_context: Option<SystemContext>,
    /// Rules of the room.
    pub system_rules: Vec<SystemRule>,
    /// Limits.
    pub budget: Budget,
    /// Gateway of `openclaw-acp`.
    pub gateway: Option<Gateway>,
    /// Profile of `hermes-agent`.
    pub hermes_profile: Option<String>,
    /// Variables for the child, on top of what the adapter sets. Never logged.
    pub env: Vec<(String, String)>,
    /// Files that came with the message.
    pub attachments: Vec<Attachment>,
}

impl RunRequest {
    /// The whole context.
    pub fn context(&self) -> Option<&str> {
        self.system_context.as_ref().map(|context| context.text.as_str())
    }

    /// What of it lasts, and what is about this moment only; see [`SystemContext::split`].
    pub fn split_context(&self) -> (String, String) {
        self.system_context.as_ref().map(SystemContext::split).unwrap_or_default()
    }
}

/// Tokens of one turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Input tokens read from the provider's cache.
    pub hit: u64,
    /// Input tokens that were not cached.
    pub miss: u64,
    /// Output tokens.
    pub output: u64,
}

/// What went wrong, as far as the engine acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The CLI is not logged in or its key is refused.
    Auth,
    /// A quota is used up.
    UsageLimit,
    /// Worth another try.
    Transient,
    /// The session is too long for the model.
    ContextOverflow,
    /// The session is unknown or unusable.
    StaleSession,
    /// Another process holds the session.
    Busy,
    /// The runtime's program is not there.
    Missing,
    /// Arguments, installation or permissions are wrong.
    Config,
    /// A limit of the run was reached (turns, cost).
    Limit,
    /// The model or the agent refused.
    Refused,
    /// The CLI ended without a result.
    Protocol,
    /// Anything else.
    Other,
}

/// A failed run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunError {
    /// Text for people; may still hold secrets, the engine redacts it.
    pub message: String,
    /// Class, where the adapter knows it. Without one the engine's text matchers decide.
    pub class: Option<ErrorClass>,
}

/// What is recorded about a failed run. All texts are redacted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FailureSummary {
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Arguments, redacted, prompts replaced by their size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Signal that ended it, such as `SIGKILL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Run time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Last 8 192 units of standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_tail: Option<String>,
    /// Last 8 192 units of standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_tail: Option<String>,
    /// At most 2 048 units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// Words that the agent had said before it failed; for the log, never the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial_text: Option<String>,
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunResult {
    /// The reply; empty when there is none.
    pub text: String,
    /// The id to resume next time; empty = nothing to store.
    pub new_session_id: String,
    /// The resumed session is gone or unusable: forget it.
    pub session_lost: bool,
    /// The CLI went on under another id than the one that was resumed.
    pub session_replaced: bool,
    /// Cost in US dollars, where the CLI reports it.
    pub cost_usd: Option<f64>,
    /// Set on failure.
    pub error: Option<RunError>,
    /// Evidence of a failure.
    pub failure: Option<FailureSummary>,
    /// Tokens of this turn.
    pub usage: Option<Usage>,
    /// Totals since the beginning of the session, for runtimes that count so.
    pub usage_totals: Option<Usage>,
    /// Prompt size of the last model request.
    pub context_tokens: Option<u64>,
    /// Something to remember with the session and to get back as [`ResumedSession::note`].
    pub note: Option<String>,
}

/// A run that could not begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Thrown {
    /// Text for people.
    pub message: String,
    /// Class, where known.
    pub class: Option<ErrorClass>,
    /// Evidence.
    pub failure: Option<Box<FailureSummary>>,
}

impl Thrown {
    /// A refusal with a message only.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), class: None, failure: None }
    }
}

/// A process that a run has started, told apart from a later one with the same pid by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id, also that of its process group.
    pub pid: i32,
    /// Start time in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start: u64,
}

/// A tool call that waits for permission.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// The adapter's id of the question.
    pub id: String,
    /// Tool or title.
    pub tool: String,
    /// One line about what it would do, redacted.
    pub summary: String,
}

/// The answer to an [`ApprovalRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "decision")]
pub enum Approval {
    /// Once.
    Allow,
    /// With the reason that the agent is told.
    Deny {
        /// Shown to the agent.
        reason: String,
    },
}

/// Where a run reports to. Calls are quick: nothing behind them waits for a network.
pub trait RunSink {
    /// Waits until the start of the turn is durable. Before that the CLI must not be able to do anything: what the
    /// journal does not know of would be done twice after a crash. `Err`: the run must not go on.
    fn begin(&mut self) -> Result<(), Thrown>;

    /// A child was started; called before anything is read from it.
    fn spawned(&mut self, process: ProcessId);

    /// The CLI has announced its session.
    fn session(&mut self, id: &str);

    /// The child has given its reply and goes on running; somebody ends it later. Called before the run returns.
    fn lingers(&mut self, process: ProcessId) {
        let _ = process;
    }

    /// One block of progress, in order.
    fn block(&mut self, block: Block);

    /// A status event, in order with the blocks.
    fn status(&mut self, status: Status);

    /// Asks for permission. `Some` is the decision; `None` means that it comes later: the run's
    /// [`CancelToken`] is woken and [`RunSink::decision`] then yields it.
    fn approval(&mut self, request: ApprovalRequest) -> Option<Approval>;

    /// The text to give to a session that had to start anew inside the run although one was to be resumed:
    /// the user turn in a recovery frame. `None`: use the text of the request.
    fn recovery_text(&mut self) -> Option<String> {
        None
    }

    /// The run is the work of a process that serves other turns as well. What shows the pass of that process acts in this
    /// turn, too, as long as it runs. The name is the turn that the process was started in, or one that the adapter makes
    /// up and keeps. Returns the pass, for a process that is yet to be started.
    fn served_by(&mut self, name: &str) -> Option<String> {
        let _ = name;
        None
    }

    /// The next decision that has come, with the id of its request.
    fn decision(&mut self) -> Option<(String, Approval)>;
}

/// How long a runtime may be silent before it is taken for hung, unless configured otherwise.
pub const NDJSON_IDLE_LIMIT: Duration = Duration::from_mins(30);
/// The same for ACP runtimes.
pub const ACP_IDLE_LIMIT: Duration = Duration::from_mins(10);
