//! One turn in one process: the client's side of the protocol as a state machine.
//!
//! ```text
//! Start ─▶ Initialize ─▶ Load ─▶ (New) ─▶ (Mode) ─▶ (Model) ─▶ Prompt ─▶ Done
//!               └──────▶ New ──────┘                              └─▶ Late ─▶ Done
//! ```
//!
//! Every state but `Prompt` has a deadline. Updates count only between the writing of `session/prompt` and
//! its answer (and 750 ms more when that is an error), and only for this session: before that, agents
//! replay the old conversation.

mod handler;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::messages::{
    InitializeParams, Initialized, McpCapabilities, OpenParams, PROTOCOL_VERSION, PromptParams, Prompted,
    SessionOpened, SetModeParams, SetModelParams, TextPart, mcp_entries,
};
use super::permission::{Choice, PermissionAnswer, PermissionRequest};
use super::rpc::{self, Id, RpcError};
use super::trace::Trace;
use super::update::{AnswerText, Update};
use crate::engine::ports::{Approval, ErrorClass, ProcessId, RunSink, Usage};
use crate::json;
use crate::message::{Block, Status};
use crate::redact;
use crate::runtime::classify;
use crate::runtime::context_file::{Held, MAX_HOLD};
use crate::runtime::outcome::{Parsed, Verdict};
use crate::runtime::process::{Ended, Io};
use crate::runtime::settings::McpServer;
use crate::text;

/// For the answer to `initialize`.
const INITIALIZE_LIMIT: Duration = Duration::from_secs(30);
/// For the answer to each request that opens or sets up a session.
const SESSION_LIMIT: Duration = Duration::from_mins(1);
/// How long updates are still taken after a failed prompt.
const LATE: Duration = Duration::from_millis(750);
/// How long an agent may take to end once its stdin is closed.
const END_LIMIT: Duration = Duration::from_secs(3);
/// How much of standard error goes into a message, in UTF-16 units.
const STDERR_IN_MESSAGE: usize = 500;
/// Most requests for permission that wait for a decision at once; further ones are denied.
const PENDING_LIMIT: usize = 64;

/// What the turn is to do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Runtime id, for messages and logs.
    pub runtime: String,
    /// The session to resume.
    pub resume: Option<String>,
    /// Working directory of the session.
    pub cwd: PathBuf,
    /// The user turn, with which both prompts end.
    pub user_turn: String,
    /// The prompt in a session that is new.
    pub fresh_prompt: String,
    /// The prompt in the session that was resumed.
    pub resumed_prompt: String,
    /// MCP servers for the session.
    pub mcp_servers: Vec<McpServer>,
    /// Mode to put the session into, where it is offered.
    pub mode: Option<String>,
    /// Model to use, where it is offered.
    pub model: Option<String>,
    /// Refuse every request for permission without asking.
    pub deny: bool,
    /// The agent reports failed model calls as ordinary text, recognisable by their wording and by missing
    /// usage.
    pub failures_as_text: bool,
    /// How long a successful turn waits for the end of the agent.
    pub linger: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    Initialize,
    Load,
    New,
    Mode,
    Model,
    Prompt,
    Late,
    Done,
}

/// A question that waits for a decision.
struct Pending {
    /// Our id of the question.
    question: String,
    /// The agent's id of the request.
    id: Id,
    request: PermissionRequest,
}

/// One turn. Drive it with [`crate::runtime::process::Process::drive`] after waking the turn's token once:
/// the first wake-up makes it begin.
pub struct Turn<'a> {
    plan: Plan,
    sink: &'a mut dyn RunSink,
    trace: Trace,
    held: Option<Held>,
    held_until: Instant,
    state: State,
    deadline: Option<Instant>,
    /// Id of the request whose answer is awaited, which is also the last one used.
    awaited: u64,
    mcp: McpCapabilities,
    session: Option<String>,
    fresh: bool,
    /// The agent has replayed the conversation of the session that is being loaded.
    replayed: bool,
    opened: SessionOpened,
    stopping: bool,
    questions: u64,
    pending: Vec<Pending>,
    seq: u64,
    text: AnswerText,
    usage: Option<Usage>,
    context_tokens: Option<u64>,
    verdict: Verdict,
}

impl<'a> Turn<'a> {
    /// A turn that has not begun. `held` is the context file that the agent reads when it opens the session.
    pub fn new(plan: Plan, sink: &'a mut dyn RunSink, trace: Trace, held: Option<Held>) -> Self {
        Self {
            plan,
            sink,
            trace,
            held,
            held_until: Instant::now() + MAX_HOLD,
            state: State::Start,
            deadline: None,
            awaited: 0,
            mcp: McpCapabilities::default(),
            session: None,
            fresh: false,
            replayed: false,
            opened: SessionOpened::default(),
            stopping: false,
            questions: 0,
            pending: Vec::new(),
            seq: 0,
            text: AnswerText::default(),
            usage: None,
            context_tokens: None,
            verdict: Verdict::Missing,
        }
    }

    /// Whether the turn ran in a session that it made itself.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// The session, once open.
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// Whether the agent said anything that belongs to the protocol.
    pub fn has_events(&self) -> bool {
        self.state != State::Start && self.state != State::Initialize
    }

    /// The reply is complete and the agent still runs: whoever looks after crashes is told.
    pub fn lingers(&mut self, process: ProcessId) {
        self.sink.lingers(process);
    }

    /// The trace, for what happens after the turn.
    pub fn trace(&mut self) -> &mut Trace {
        &mut self.trace
    }

    /// What it all meant.
    pub fn finish(&mut self, ended: &Ended) -> Parsed {
        let verdict = match std::mem::take(&mut self.verdict) {
            Verdict::Failure { message, class } => {
                let class = class.or_else(|| classify::by_text(&message)).or(Some(ErrorClass::Other));
                let stderr = text::trim(text::tail(text::trim(&ended.stderr_tail), STDERR_IN_MESSAGE));
                // The answer says what went wrong; where in the agent's code is for its developers.
                let says_more = !stderr.is_empty() && !classify::is_stack_trace(&ended.stderr_tail);
                let message = if says_more { format!("{message}; stderr: {stderr}") } else { message };
                Verdict::Failure { message, class }
            }
            other => other,
        };
        Parsed {
            verdict,
            session: self.session.take(),
            partial: self.text.answer().to_owned(),
            usage: self.usage,
            context_tokens: self.context_tokens,
            ..Parsed::default()
        }
    }

    fn request(&mut self, state: State, limit: Option<Duration>, method: &str, params: impl Serialize, io: &mut Io) {
        self.awaited += 1;
        self.state = state;
        let line = rpc::request(self.awaited, method, params);
        self.trace.sent(&line);
        io.write(line);
        self.arm(limit, io);
    }

    /// Sets the deadline of the state, and wakes up for whatever is due first.
    fn arm(&mut self, limit: Option<Duration>, io: &mut Io) {
        self.deadline = limit.map(|limit| Instant::now() + limit);
        self.set_alarm(io);
    }

    fn set_alarm(&self, io: &mut Io) {
        let file = self.held.as_ref().map(|_| self.held_until);
        io.wake_at(self.deadline.into_iter().chain(file).min());
    }

    fn reply(&mut self, line: Vec<u8>, io: &mut Io) {
        self.trace.sent(&line);
        io.write(line);
    }

    fn begin(&mut self, io: &mut Io) {
        self.request(State::Initialize, Some(INITIALIZE_LIMIT), "initialize", InitializeParams::new(), io);
    }

    /// Nothing more to ask: the agent is to end.
    fn close(&mut self, io: &mut Io) {
        self.state = State::Done;
        self.held = None;
        // Once the reply is complete nobody waits for the agent's farewell.
        let linger = matches!(self.verdict, Verdict::Success(_)).then_some(self.plan.linger);
        self.arm(linger, io);
        io.close_stdin();
        io.end_within(END_LIMIT);
    }

    fn fail(&mut self, message: impl Into<String>, class: Option<ErrorClass>, io: &mut Io) {
        self.verdict = Verdict::Failure { message: message.into(), class };
        self.close(io);
    }

    fn fail_with(&mut self, error: &RpcError, io: &mut Io) {
        log::warn!(
            "acp.error runtime={} state={:?} {}",
            self.plan.runtime,
            self.state,
            redact::text(&error.coded_text())
        );
        self.fail(error.text(), error.class(), io);
    }

    fn answered(&mut self, outcome: Result<Value, RpcError>, io: &mut Io) {
        match (self.state, outcome) {
            (State::Initialize, Ok(result)) => self.initialized(result, io),
            (State::Load, Ok(result)) if is_empty(&result) && !self.replayed => self.open_new(io),
            (State::Load, Ok(result)) => {
                let opened = SessionOpened::from_result(result);
                let asked = self.plan.resume.clone().unwrap_or_default();
                let id = opened.session_id.clone().filter(|id| !id.is_empty()).unwrap_or(asked);
                self.set_up(id, opened, io);
            }
            (State::Load, Err(error)) if error.allows_fresh_session() => {
                log::info!("acp.load_failed runtime={} {}", self.plan.runtime, redact::text(&error.coded_text()));
                self.open_new(io);
            }
            (State::New, Ok(result)) => {
                let opened = SessionOpened::from_result(result);
                match opened.session_id.clone().filter(|id| !id.is_empty()) {
                    Some(id) => self.set_up(id, opened, io),
                    None => self.fail("session/new returned no session id", Some(ErrorClass::Protocol), io),
                }
            }
            (State::Mode, outcome) => {
                self.log_setting("session/set_mode", outcome);
                self.set_model(io);
            }
            (State::Model, outcome) => {
                self.log_setting("session/set_model", outcome);
                self.prompt(io);
            }
            (State::Prompt, Ok(result)) => self.prompted(&Prompted::from_result(result), io),
            (State::Prompt, Err(error)) => {
                let message = error.text();
                let class = error.class();
                self.verdict = Verdict::Failure { message, class };
                self.state = State::Late;
                self.arm(Some(LATE), io);
            }
            (State::Initialize | State::Load | State::New, Err(error)) => self.fail_with(&error, io),
            // Nothing is awaited in the other states.
            (State::Start | State::Late | State::Done, _) => {}
        }
    }

    fn log_setting(&self, method: &str, outcome: Result<Value, RpcError>) {
        if let Err(error) = outcome {
            log::warn!(
                "acp.setting runtime={} method={method} {}",
                self.plan.runtime,
                redact::text(&error.coded_text())
            );
        }
    }

    fn initialized(&mut self, result: Value, io: &mut Io) {
        let answer: Initialized = json::from_value(&result).unwrap_or_default();
        let version = &answer.protocol_version;
        let said = version.as_str().map_or_else(|| version.to_string(), str::to_owned);
        if !version.is_null() && said != PROTOCOL_VERSION.to_string() {
            let version = text::clip(&version.to_string(), 40);
            let message = format!(
                "{} speaks version {version} of the Agent Client Protocol, this client speaks version {PROTOCOL_VERSION}",
                self.plan.runtime
            );
            self.fail(message, Some(ErrorClass::Protocol), io);
            return;
        }
        self.mcp = answer.agent_capabilities.mcp_capabilities;
        match self.plan.resume.clone() {
            Some(id) if answer.agent_capabilities.load_session => {
                let cwd = self.plan.cwd.clone();
                let servers = self.plan.mcp_servers.clone();
                let mcp_servers = mcp_entries(&servers, self.mcp);
                let params = OpenParams { session_id: Some(&id), cwd: &cwd, mcp_servers, meta: None };
                self.request(State::Load, Some(SESSION_LIMIT), "session/load", params, io);
            }
            _ => self.open_new(io),
        }
    }

    fn open_new(&mut self, io: &mut Io) {
        self.fresh = true;
        let cwd = self.plan.cwd.clone();
        let servers = self.plan.mcp_servers.clone();
        let mcp_servers = mcp_entries(&servers, self.mcp);
        let params = OpenParams { session_id: None, cwd: &cwd, mcp_servers, meta: None };
        self.request(State::New, Some(SESSION_LIMIT), "session/new", params, io);
    }

    /// The session is open: the agent has read its context file, and mode and model can be chosen.
    fn set_up(&mut self, id: String, opened: SessionOpened, io: &mut Io) {
        self.held = None;
        self.sink.session(&id);
        self.trace.session(&id);
        self.session = Some(id.clone());
        self.opened = opened;
        match self.plan.mode.clone() {
            Some(mode) if self.opened.offers_mode(&mode) => {
                let params = SetModeParams { session_id: &id, mode_id: &mode };
                self.request(State::Mode, Some(SESSION_LIMIT), "session/set_mode", params, io);
            }
            Some(mode) => {
                log::warn!("acp.mode_not_offered runtime={} mode={mode}", self.plan.runtime);
                self.set_model(io);
            }
            None => self.set_model(io),
        }
    }

    fn set_model(&mut self, io: &mut Io) {
        let id = self.session.clone().unwrap_or_default();
        match self.plan.model.clone() {
            Some(model) if self.opened.offers_model(&model) => {
                let params = SetModelParams { session_id: &id, model_id: &model };
                self.request(State::Model, Some(SESSION_LIMIT), "session/set_model", params, io);
            }
            _ => self.prompt(io),
        }
    }

    fn prompt(&mut self, io: &mut Io) {
        let id = self.session.clone().unwrap_or_default();
        let plan = &mut self.plan;
        let mut text = std::mem::take(if self.fresh { &mut plan.fresh_prompt } else { &mut plan.resumed_prompt });
        // The session that was to be resumed is gone: the new one is told what it cannot know.
        if self.fresh
            && plan.resume.is_some()
            && let Some(recovery) = self.sink.recovery_text()
            && let Some(context) = text.strip_suffix(plan.user_turn.as_str())
        {
            text = format!("{context}{recovery}");
        }
        let params = PromptParams { session_id: &id, prompt: [TextPart::new(&text)] };
        // A turn takes as long as it takes; the idle watchdog looks after it.
        self.request(State::Prompt, None, "session/prompt", params, io);
    }

    fn prompted(&mut self, answer: &Prompted, io: &mut Io) {
        self.usage = answer.usage();
        let text = self.text.answer();
        self.verdict = match answer.stop_reason() {
            "end_turn" if self.plan.failures_as_text && self.usage.is_none() && reads_like_failure(text) => {
                Verdict::Failure { message: text.to_owned(), class: None }
            }
            "end_turn" | "max_tokens" | "max_turn_requests" => Verdict::Success(text.to_owned()),
            reason => {
                let class = if reason == "refusal" { ErrorClass::Refused } else { ErrorClass::Other };
                let message = format!("prompt stopped: {}", text::clip(reason, 80));
                Verdict::Failure { message, class: Some(class) }
            }
        };
        self.sink.status(Status::stopped());
        self.close(io);
    }

    fn updated(&mut self, params: Value) {
        let update = Update::from_params(&params);
        if self.state == State::Load && update.session_id == self.plan.resume {
            self.replayed = true;
        }
        let counts = matches!(self.state, State::Prompt | State::Late) && update.session_id == self.session;
        if !counts {
            return;
        }
        // An agent that knows nothing yet says 0.
        if let Some(used) = update.context_used.filter(|used| *used > 0) {
            self.context_tokens = Some(used);
        }
        if self.stopping {
            return;
        }
        if let Some(text) = &update.text {
            self.text.push(text);
        }
        if update.tool_finished {
            self.text.tool_finished();
        }
        if let Some(status) = update.status {
            self.sink.status(status);
        }
        if let Some(kind) = update.kind {
            self.seq += 1;
            self.sink.block(Block { kind, seq: self.seq, raw: params, digest: update.digest });
        }
    }

    fn asked(&mut self, id: Id, method: &str, params: &Value, io: &mut Io) {
        if method != "session/request_permission" {
            self.reply(rpc::refuse_unknown(&id, method), io);
            return;
        }
        if self.stopping {
            self.answer_cancelled(&id, io);
            return;
        }
        let request = PermissionRequest::from_params(params);
        let of_this_turn = self.state == State::Prompt && request.session_id == self.session;
        if self.plan.deny || !of_this_turn || self.pending.len() >= PENDING_LIMIT {
            self.decide(&id, &request, false, io);
            return;
        }
        self.questions += 1;
        let question = format!("permission-{}", self.questions);
        match self.sink.approval(request.question(question.clone(), redact::text)) {
            Some(approval) => self.decide(&id, &request, approval == Approval::Allow, io),
            None => self.pending.push(Pending { question, id, request }),
        }
    }

    /// What the protocol wants of a client that has cancelled the turn.
    fn answer_cancelled(&mut self, id: &Id, io: &mut Io) {
        self.reply(rpc::answer(id, PermissionAnswer { outcome: Choice::Cancelled }), io);
    }

    fn decide(&mut self, id: &Id, request: &PermissionRequest, allow: bool, io: &mut Io) {
        let outcome = request.choose(allow);
        log::info!("acp.permission runtime={} allow={allow} outcome={outcome:?}", self.plan.runtime);
        self.reply(rpc::answer(id, PermissionAnswer { outcome }), io);
    }
}

/// Whether the answer to `session/load` says nothing. Some agents answer so when they do not know the
/// session, others when they have loaded it; only the latter replay the conversation before.
fn is_empty(result: &Value) -> bool {
    result.is_null() || result.as_object().is_some_and(serde_json::Map::is_empty)
}

/// Whether a text is what Hermes prints in place of an answer when a model call has failed.
fn reads_like_failure(text: &str) -> bool {
    let status = text.strip_prefix("HTTP ").and_then(|rest| rest.split_once(':')).map(|(status, _)| status);
    status.is_some_and(|s| s.len() == 3 && s.bytes().all(|b| b.is_ascii_digit())) || text.starts_with("API call failed")
}
