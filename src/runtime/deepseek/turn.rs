//! One turn on a DeepSeek server: the frames of its event stream, until the turn is over.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::http::{Client, Events, HttpError};
use super::sse::{Frame, meaning};
use crate::engine::cancel::CancelToken;
use crate::engine::ports::{Approval, ApprovalRequest, RunSink};
use crate::message::{Block, BlockKind};
use crate::runtime::acp::update::AnswerText;
use crate::runtime::nap::{nap, nap_cancelled};
use crate::runtime::selection::Selection;

/// For the terminal event after an interruption.
const INTERRUPT_LIMIT: Duration = Duration::from_secs(2);
/// Blocks about reasoning are shown at most so often.
const REASONING_PAUSE: Duration = Duration::from_secs(4);
/// Longest nap; news wake the turn earlier.
const NAP: Duration = Duration::from_secs(5);

/// `POST /v1/threads`.
#[derive(Serialize)]
pub struct NewThread<'a> {
    /// Working directory.
    pub workspace: &'a str,
    /// How the agent works.
    #[serde(flatten)]
    pub manner: Manner<'a>,
    /// Always false.
    pub archived: bool,
    /// Context and rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<&'a str>,
}

/// `PATCH /v1/threads/<id>`.
#[derive(Serialize)]
pub struct ChangeThread<'a> {
    /// Context and rules.
    pub system_prompt: &'a str,
}

/// `POST /v1/threads/<id>/turns`.
#[derive(Serialize)]
pub struct NewTurn<'a> {
    /// What the agent is told.
    pub prompt: &'a str,
    /// How it works.
    #[serde(flatten)]
    pub manner: Manner<'a>,
}

/// How the agent works, for a thread and again for each turn.
#[derive(Clone, Copy, Serialize)]
pub struct Manner<'a> {
    mode: &'static str,
    allow_shell: bool,
    trust_mode: bool,
    auto_approve: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'a str>,
}

impl<'a> Manner<'a> {
    /// With all permissions, or with none.
    pub fn new(trusted: bool, selection: &'a Selection) -> Self {
        Self {
            mode: "agent",
            allow_shell: trusted,
            trust_mode: trusted,
            auto_approve: trusted,
            model: selection.model.as_deref(),
            reasoning_effort: selection.reasoning_effort.as_deref(),
        }
    }
}

/// The answer to [`NewThread`].
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct ThreadMade {
    id: Option<String>,
    thread_id: Option<String>,
}

impl ThreadMade {
    /// The thread's id.
    pub fn id(self) -> Option<String> {
        self.id.or(self.thread_id).filter(|id| !id.is_empty())
    }
}

/// The answer to [`NewTurn`].
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct TurnMade {
    turn: Option<TurnId>,
    turn_id: Option<String>,
}

#[derive(Deserialize)]
struct TurnId {
    id: String,
}

impl TurnMade {
    /// The turn's id.
    pub fn id(self) -> Option<String> {
        self.turn.map(|turn| turn.id).or(self.turn_id).filter(|id| !id.is_empty())
    }
}

#[derive(Serialize)]
struct Decision {
    decision: &'static str,
    remember: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ignored {}

/// How a turn ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Its terminal event came, with this failure if any.
    Terminal(Option<String>),
    /// It was cancelled.
    Cancelled,
    /// No frame of it came for the idle limit.
    Idle,
    /// The stream ended before it.
    StreamEnded,
}

/// A turn under way.
pub struct Watch<'a> {
    /// The server.
    pub client: &'a Client,
    /// The thread.
    pub thread: &'a str,
    /// The turn, where the server said its id.
    pub turn: Option<String>,
    /// Refuse approvals without asking.
    pub deny: bool,
    /// Longest time without a frame of this turn.
    pub idle_limit: Option<Duration>,
    /// The stream may repeat events of earlier turns: what names no turn counts only after something did.
    pub replays: bool,
    /// Words of the agent.
    pub text: AnswerText,
    /// A tool was called.
    pub used_tools: bool,
    /// Last number seen in the thread.
    pub seq: u64,
    blocks: u64,
    failure: Option<String>,
    reasoned: Option<Instant>,
    pending: Vec<String>,
}

impl<'a> Watch<'a> {
    /// A turn that was just made.
    pub fn new(client: &'a Client, thread: &'a str, turn: Option<String>) -> Self {
        Self {
            client,
            thread,
            turn,
            deny: false,
            idle_limit: None,
            replays: false,
            text: AnswerText::default(),
            used_tools: false,
            seq: 0,
            blocks: 0,
            failure: None,
            reasoned: None,
            pending: Vec::new(),
        }
    }

    /// Follows the turn to its end.
    pub fn follow(&mut self, events: &Events, cancel: &CancelToken, sink: &mut dyn RunSink) -> End {
        let mut quiet_since = Instant::now();
        loop {
            if cancel.is_cancelled() {
                self.interrupt(events, cancel);
                return End::Cancelled;
            }
            while let Some((approval, decision)) = sink.decision() {
                if let Some(at) = self.pending.iter().position(|id| *id == approval) {
                    self.pending.swap_remove(at);
                    self.answer(&approval, decision == Approval::Allow);
                    quiet_since = Instant::now();
                }
            }
            match events.frames.try_recv() {
                Ok(frame) => {
                    if !self.is_ours(&frame) {
                        continue;
                    }
                    quiet_since = Instant::now();
                    if self.take(&frame, sink) {
                        return End::Terminal(self.failure.take());
                    }
                    continue;
                }
                Err(crossbeam_channel::TryRecvError::Disconnected) => return End::StreamEnded,
                Err(crossbeam_channel::TryRecvError::Empty) => {}
            }
            let left = match self.idle_limit.filter(|_| self.pending.is_empty()) {
                Some(limit) => limit.saturating_sub(quiet_since.elapsed()),
                None => NAP,
            };
            if left.is_zero() {
                return End::Idle;
            }
            nap(cancel, left.min(NAP));
        }
    }

    /// Notes the frame's number, and whether it belongs to this turn.
    fn is_ours(&mut self, frame: &Frame) -> bool {
        self.seq = self.seq.max(frame.seq().unwrap_or(0));
        match (frame.turn_id(), &self.turn) {
            (Some(turn), Some(ours)) => {
                let is_ours = turn == ours;
                self.replays &= !is_ours;
                is_ours
            }
            _ => !self.replays,
        }
    }

    /// Shows a frame; returns whether the turn is over with it.
    fn take(&mut self, frame: &Frame, sink: &mut dyn RunSink) -> bool {
        if let Some(id) = frame.approval_id() {
            self.asked(id, frame, sink);
        }
        if let Some(failure) = frame.turn_error() {
            self.failure = Some(failure);
        }
        let read = meaning(frame);
        if let Some(text) = &read.text {
            self.text.push(text);
        }
        self.used_tools |= matches!(read.kind, Some(BlockKind::ToolUse | BlockKind::ToolResult));
        if read.tool_finished {
            self.text.tool_finished();
        }
        let throttled = read.reasoning_delta && self.reasoned.is_some_and(|at| at.elapsed() < REASONING_PAUSE);
        if let Some(status) = read.status {
            sink.status(status);
        }
        if let Some(kind) = read.kind.filter(|_| !throttled) {
            let raw = if kind == BlockKind::Thinking {
                self.reasoned = Some(Instant::now());
                // What the agent thinks stays with it.
                json!({"event": frame.event, "phase": "updated", "label": "Reasoning", "source": "runtime"})
            } else {
                json!({"event": frame.event, "payload": frame.data})
            };
            self.blocks += 1;
            sink.block(Block { kind, seq: self.blocks, raw, digest: read.digest });
        }
        frame.is_terminal()
    }

    fn asked(&mut self, id: &str, frame: &Frame, sink: &mut dyn RunSink) {
        if self.deny || !is_plain_id(id) {
            self.answer(id, false);
            return;
        }
        let payload = frame.data.get("payload").unwrap_or(&frame.data);
        let field = |name: &str| payload.get(name).and_then(serde_json::Value::as_str);
        let tool = field("tool_name").or_else(|| field("tool")).or_else(|| field("name")).unwrap_or("tool");
        let summary = field("description").or_else(|| field("summary")).or_else(|| field("command")).unwrap_or(tool);
        let question = ApprovalRequest {
            id: id.to_owned(),
            tool: crate::redact::text(crate::text::head(tool, 80)),
            summary: crate::runtime::digest::line(&crate::redact::text(summary)).unwrap_or_default(),
        };
        match sink.approval(question) {
            Some(decision) => self.answer(id, decision == Approval::Allow),
            None => self.pending.push(id.to_owned()),
        }
    }

    /// Answers once; a failure is logged, the server gives up the question by itself.
    fn answer(&self, id: &str, allow: bool) {
        if !is_plain_id(id) {
            return;
        }
        let decision = Decision { decision: if allow { "allow" } else { "deny" }, remember: false };
        let answered: Result<Ignored, HttpError> = self.client.post(&format!("/v1/approvals/{id}"), &decision);
        if let Err(HttpError(error)) = answered {
            log::warn!("deepseek.approval error={}", crate::redact::text(&error));
        }
    }

    /// Asks the server to stop the turn, and waits a little for it to say so.
    fn interrupt(&mut self, events: &Events, cancel: &CancelToken) {
        let end = Instant::now() + INTERRUPT_LIMIT;
        let Some(turn) = self.turn.clone().filter(|turn| is_plain_id(turn)) else { return };
        let path = format!("/v1/threads/{}/turns/{turn}/interrupt", self.thread);
        let asked: Result<Ignored, HttpError> = self.client.post(&path, &json!({}));
        if let Err(HttpError(error)) = asked {
            log::warn!("deepseek.interrupt error={}", crate::redact::text(&error));
            return;
        }
        while Instant::now() < end {
            match events.frames.try_recv() {
                Ok(frame) if self.is_ours(&frame) && frame.is_terminal() => return,
                Ok(_) => {}
                Err(crossbeam_channel::TryRecvError::Disconnected) => return,
                Err(crossbeam_channel::TryRecvError::Empty) => {
                    nap_cancelled(cancel, end.saturating_duration_since(Instant::now()));
                }
            }
        }
    }
}

/// Whether an id can be a part of a path as it is.
pub fn is_plain_id(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':' | b'~');
    !id.is_empty() && id.len() <= 256 && id != "." && id != ".." && id.bytes().all(plain)
}
