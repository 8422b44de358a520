//! One turn over a bridge: open the session, prompt, gather the answer.

use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use serde_json::{Value, json};

use super::bridge::{Bridge, Mailbox, News};
use super::text::{Filter, content_text, final_text, make_safe, normalize};
use crate::engine::cancel::CancelToken;
use crate::engine::ports::{Approval, ErrorClass, RunSink, Usage};
use crate::message::{Block, BlockKind, Digest, Phase, Status};
use crate::redact;
use crate::runtime::acp::messages::{
    OpenParams, PromptParams, Prompted, SessionKeyMeta, SessionOpened, SessionParams, TextPart,
};
use crate::runtime::acp::permission::{Choice, PermissionRequest};
use crate::runtime::acp::rpc::{Id, RpcError};
use crate::runtime::acp::update::{TEXT_LIMIT, Update};
use crate::runtime::nap::{nap, nap_cancelled};

/// For the answer to a request that opens a session.
const SESSION_LIMIT: Duration = Duration::from_mins(1);
/// For the answer to the prompt after `session/cancel`.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);
/// Longest nap; news wake the turn earlier.
const NAP: Duration = Duration::from_secs(5);
/// Non-JSON lines that are shown with a turn that ended oddly.
const GARBAGE_SHOWN: usize = 8;

/// Why a turn failed.
#[derive(Debug, PartialEq)]
pub enum Failure {
    /// The session is unknown to the gateway.
    NotFound(String),
    /// Anything else, with the class where structure tells it.
    Other(String, Option<ErrorClass>),
    /// No news for the idle limit.
    Idle,
    /// It was cancelled.
    Cancelled,
}

/// A turn under way.
pub struct Turn<'a> {
    bridge: &'a Bridge,
    mailbox: Mailbox,
    news: Receiver<News>,
    cancel: &'a CancelToken,
    sink: &'a mut dyn RunSink,
    /// Refuse requests for permission without asking.
    pub deny: bool,
    /// Longest silence of this session while it is prompted.
    pub idle_limit: Option<Duration>,
    /// The session, once open.
    pub session: Option<String>,
    /// Tokens of the turn.
    pub usage: Option<Usage>,
    /// Size of the context.
    pub context_tokens: Option<u64>,
    /// The session was made in this turn.
    fresh: bool,
    prompting: bool,
    quiet_since: Instant,
    filter: Filter,
    streamed: String,
    seq: u64,
    questions: u64,
    pending: Vec<(String, Id, PermissionRequest)>,
}

impl<'a> Turn<'a> {
    /// A turn that has not begun.
    pub fn new(bridge: &'a Bridge, cancel: &'a CancelToken, sink: &'a mut dyn RunSink) -> Self {
        let (mailbox, news) = Mailbox::new(cancel);
        Self {
            bridge,
            mailbox,
            news,
            cancel,
            sink,
            deny: false,
            idle_limit: None,
            session: None,
            usage: None,
            context_tokens: None,
            fresh: false,
            prompting: false,
            quiet_since: Instant::now(),
            filter: Filter::default(),
            streamed: String::new(),
            seq: 0,
            questions: 0,
            pending: Vec::new(),
        }
    }

    /// Loads the stored session, else makes one.
    pub fn open(&mut self, stored: Option<&str>, cwd: &Path, key: &str) -> Result<(), Failure> {
        let meta = Some(SessionKeyMeta { session_key: key });
        if let Some(id) = stored {
            // Listening begins before the answer, so that nothing of the prompt can be missed.
            self.bridge.listen(id, &self.mailbox);
            let params = OpenParams { session_id: Some(id), cwd, mcp_servers: Vec::new(), meta };
            match self.ask("session/load", params) {
                Ok(result) => {
                    let opened = SessionOpened::from_result(result).session_id.filter(|id| !id.is_empty());
                    self.opened(opened.unwrap_or_else(|| id.to_owned()));
                    return Ok(());
                }
                Err(Failure::NotFound(why)) => {
                    log::info!("openclaw.session_gone {}", redact::text(&why));
                    self.bridge.leave(id);
                }
                Err(failure) => return Err(failure),
            }
        }
        self.open_new(cwd, key)
    }

    /// Makes a session in place of the present one.
    pub fn open_new(&mut self, cwd: &Path, key: &str) -> Result<(), Failure> {
        self.fresh = true;
        if let Some(old) = self.session.take() {
            self.bridge.leave(&old);
        }
        let meta = Some(SessionKeyMeta { session_key: key });
        let params = OpenParams { session_id: None, cwd, mcp_servers: Vec::new(), meta };
        let result = self.ask("session/new", params)?;
        match SessionOpened::from_result(result).session_id.filter(|id| !id.is_empty()) {
            Some(id) => {
                self.opened(id);
                Ok(())
            }
            None => Err(Failure::Other("session/new returned no session id".into(), Some(ErrorClass::Protocol))),
        }
    }

    fn opened(&mut self, id: String) {
        self.bridge.listen(&id, &self.mailbox);
        self.sink.session(&id);
        self.session = Some(id);
    }

    /// A request of the opening: updates that come meanwhile are the replayed past.
    fn ask(&mut self, method: &str, params: impl serde::Serialize) -> Result<Value, Failure> {
        let id = self.bridge.request(method, params, &self.mailbox);
        let end = Instant::now() + SESSION_LIMIT;
        loop {
            if self.cancel.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            match self.news.try_recv() {
                Ok(News::Answer(answered, outcome)) if answered == id => return outcome.map_err(|e| failure(&e)),
                Ok(News::Permission(id, request)) => self.bridge.answer(&id, request.choose(false)),
                Ok(News::Closed(why)) => return Err(Failure::Other(why, None)),
                Ok(_) => {}
                Err(TryRecvError::Disconnected) => return Err(closed()),
                Err(TryRecvError::Empty) if Instant::now() >= end => {
                    let why = format!("{method} was not answered within {} s", SESSION_LIMIT.as_secs());
                    return Err(Failure::Other(why, Some(ErrorClass::Protocol)));
                }
                Err(TryRecvError::Empty) => nap(self.cancel, end.saturating_duration_since(Instant::now()).min(NAP)),
            }
        }
    }

    /// What to say instead of the user turn in a session that had to be made in place of the stored one: it is told
    /// what it cannot know.
    pub fn recovery(&mut self) -> Option<String> {
        if self.fresh { self.sink.recovery_text() } else { None }
    }

    /// Prompts and gathers the answer.
    pub fn prompt(&mut self, text: &str) -> Result<String, Failure> {
        let session = self.session.clone().unwrap_or_default();
        // What has come so far is the past of the session.
        while let Ok(news) = self.news.try_recv() {
            if let News::Closed(why) = news {
                return Err(Failure::Other(why, None));
            }
        }
        self.prompting = true;
        self.quiet_since = Instant::now();
        let params = PromptParams { session_id: &session, prompt: [TextPart::new(text)] };
        let id = self.bridge.request("session/prompt", params, &self.mailbox);
        let outcome = self.gather(id);
        self.prompting = false;
        if matches!(outcome, Err(Failure::Cancelled | Failure::Idle)) || outcome == Err(lost()) {
            self.cancel_prompt(&session, id);
        }
        let result = outcome?;
        // The answer is known only in part.
        if self.mailbox.has_lost() {
            return Err(lost());
        }
        self.conclude(&result)
    }

    fn gather(&mut self, prompt: u64) -> Result<Value, Failure> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            self.take_decisions();
            match self.news.try_recv() {
                Ok(News::Answer(id, outcome)) if id == prompt => return outcome.map_err(|e| failure(&e)),
                Ok(News::Answer(..)) => {}
                Ok(News::Update(params)) => self.updated(params),
                Ok(News::Permission(id, request)) => self.asked(id, request),
                Ok(News::Closed(why)) => return Err(Failure::Other(why, None)),
                Err(TryRecvError::Disconnected) => return Err(closed()),
                Err(TryRecvError::Empty) if self.mailbox.has_lost() => return Err(lost()),
                Err(TryRecvError::Empty) => {
                    let left = match self.idle_limit.filter(|_| self.pending.is_empty()) {
                        Some(limit) => limit.saturating_sub(self.quiet_since.elapsed()),
                        None => NAP,
                    };
                    if left.is_zero() {
                        return Err(Failure::Idle);
                    }
                    nap(self.cancel, left.min(NAP));
                }
            }
        }
    }

    /// Tells the agent to stop and waits a little for it to say so; the bridge goes on for other turns.
    fn cancel_prompt(&mut self, session: &str, prompt: u64) {
        for (_, id, _) in std::mem::take(&mut self.pending) {
            self.bridge.answer(&id, Choice::Cancelled);
        }
        self.bridge.notify("session/cancel", SessionParams { session_id: session });
        let end = Instant::now() + CANCEL_LIMIT;
        while Instant::now() < end {
            match self.news.try_recv() {
                Ok(News::Answer(id, _)) if id == prompt => return,
                Ok(News::Closed(_)) | Err(TryRecvError::Disconnected) => return,
                Ok(News::Permission(id, _)) => self.bridge.answer(&id, Choice::Cancelled),
                Ok(_) => {}
                Err(TryRecvError::Empty) => nap_cancelled(self.cancel, end.saturating_duration_since(Instant::now())),
            }
        }
    }

    fn take_decisions(&mut self) {
        while let Some((question, approval)) = self.sink.decision() {
            let Some(at) = self.pending.iter().position(|(known, ..)| *known == question) else { continue };
            let (_, id, request) = self.pending.swap_remove(at);
            self.bridge.answer(&id, request.choose(approval == Approval::Allow));
            self.quiet_since = Instant::now();
        }
    }

    fn asked(&mut self, id: Id, request: PermissionRequest) {
        self.quiet_since = Instant::now();
        if self.deny {
            self.bridge.answer(&id, request.choose(false));
            return;
        }
        self.questions += 1;
        let question = format!("permission-{}", self.questions);
        match self.sink.approval(request.question(question.clone(), redact::text)) {
            Some(approval) => self.bridge.answer(&id, request.choose(approval == Approval::Allow)),
            None => self.pending.push((question, id, request)),
        }
    }

    fn updated(&mut self, params: Value) {
        self.quiet_since = Instant::now();
        let update = Update::from_params(&params);
        if update.context_used.is_some_and(|used| used > 0) {
            self.context_tokens = update.context_used;
        }
        match update.kind {
            Some(BlockKind::AssistantText) => {
                let content = params.pointer("/update/content").unwrap_or(&Value::Null);
                let shown = self.filter.push(&content_text(content));
                self.show_words(params, &shown);
            }
            Some(kind) => {
                self.tell(update.status);
                self.block(kind, params, update.digest);
            }
            None => self.tell(update.status),
        }
    }

    fn show_words(&mut self, mut params: Value, shown: &str) {
        if shown.is_empty() {
            return;
        }
        if self.streamed.len() + shown.len() <= TEXT_LIMIT {
            self.streamed.push_str(shown);
        }
        if let Some(content) = params.pointer_mut("/update/content") {
            *content = json!([{"type": "text", "text": shown}]);
        }
        self.tell(Some(Status::stopped()));
        self.block(BlockKind::AssistantText, params, Digest { text: Some(shown.to_owned()), ..Digest::default() });
    }

    fn tell(&mut self, status: Option<Status>) {
        if let Some(status) = status {
            self.sink.status(status);
        }
    }

    fn block(&mut self, kind: BlockKind, raw: Value, digest: Digest) {
        self.seq += 1;
        self.sink.block(Block { kind, seq: self.seq, raw, digest });
    }

    fn conclude(&mut self, result: &Value) -> Result<String, Failure> {
        let held = self.filter.finish();
        if !held.is_empty() {
            let params =
                json!({"sessionId": self.session, "update": {"sessionUpdate": "agent_message_chunk", "content": []}});
            self.show_words(params, &held);
        }
        self.sink.status(Status::Thinking { phase: Phase::Stopped, label: None });
        let prompted = Prompted::from_result(result.clone());
        self.usage = prompted.usage();
        let reason = prompted.stop_reason();
        if matches!(reason, "refusal" | "error" | "cancelled") {
            let class = if reason == "refusal" { ErrorClass::Refused } else { ErrorClass::Other };
            return Err(self.stopped(reason, class));
        }
        let streamed = || Some(make_safe(&normalize(&self.streamed))).filter(|text| !text.is_empty());
        match final_text(result).or_else(streamed) {
            Some(text) => Ok(text),
            None if reason == "end_turn" => Ok(String::new()),
            None => Err(self.stopped(reason, ErrorClass::Other)),
        }
    }

    fn stopped(&self, reason: &str, class: ErrorClass) -> Failure {
        let mut message = format!("prompt stopped: {}", crate::text::clip(reason, 80));
        let garbage = self.bridge.garbage(GARBAGE_SHOWN);
        if !garbage.is_empty() {
            message.push_str("; ");
            message.push_str(&garbage.join("\n"));
        }
        Failure::Other(message, Some(class))
    }

    /// What was said before a failure; for the log.
    pub fn said(&self) -> &str {
        &self.streamed
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            self.bridge.leave(session);
        }
    }
}

/// What came was not taken in time.
fn lost() -> Failure {
    Failure::Other(
        "events of the turn came faster than they were taken, and some are lost".into(),
        Some(ErrorClass::Protocol),
    )
}

fn closed() -> Failure {
    Failure::Other("openclaw acp child closed".into(), None)
}

/// `message` (or `rpc error`) and the details.
fn failure(error: &RpcError) -> Failure {
    let message = error.message.as_deref().filter(|m| !m.is_empty()).unwrap_or("rpc error");
    let details = error.data.get("details").and_then(Value::as_str).filter(|d| !d.is_empty());
    let text = details.map_or_else(|| message.to_owned(), |details| format!("{message}: {details}"));
    let text = crate::text::clip(&text, 4_096);
    if is_not_found(&text) { Failure::NotFound(text) } else { Failure::Other(text, error.class()) }
}

/// `session … not found` on one line, or `unknown session`.
fn is_not_found(text: &str) -> bool {
    let lower = text.to_lowercase();
    let lost = |line: &str| line.find("session ").is_some_and(|at| line[at..].contains("not found"));
    lower.contains("unknown session") || lower.lines().any(lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::openclaw::bridge::tests::answering;
    use crate::runtime::testing::Recorder;

    #[test]
    fn a_cut_answer_does_not_pass_for_a_whole_one() {
        for (loses, expected) in [(false, Ok("half".to_owned())), (true, Err(lost()))] {
            let (bridge, thread) = answering(loses);
            let (cancel, mut sink) = (CancelToken::new().unwrap(), Recorder::default());
            let mut turn = Turn::new(&bridge, &cancel, &mut sink);
            assert_eq!(turn.prompt("hi"), expected);
            drop(turn);
            drop(bridge);
            thread.join().unwrap();
        }
    }

    #[test]
    fn an_unknown_session_is_recognised_by_its_words() {
        let of = |v| failure(&RpcError::from_value(&v));
        let gone = json!({"code":-32603,"message":"Internal error","data":{"details":"Session abc was not found"}});
        assert_eq!(of(gone), Failure::NotFound("Internal error: Session abc was not found".into()));
        assert_eq!(of(json!({"message":"session is busy"})), Failure::Other("session is busy".into(), None));
        assert_eq!(of(json!({})), Failure::Other("rpc error".into(), None));
    }
}
