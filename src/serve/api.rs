//! The routes of the control API, and the trait behind which the daemon does what they ask.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::http::{Answer, Request, shown};
use super::room::{self, RoomControl};
use super::wire::{
    Accepted, AnswerApproval, Cancel, Cancelled, DaemonStatus, ErrorKind, FILES_LIMIT, Failure, Health, ID_LIMIT,
    MessageState, Queue, QueueAction, QueueChanged, QueueItem, ResetSessions, Sessions, SessionsReset, Shutdown,
    ShuttingDown, Submit, Wellness,
};
use crate::json;

/// Longest reason of an answer, in bytes.
const REASON_LIMIT: usize = 1_024;

/// What the daemon does for a person. Called on connection threads, several at a time; a panic is answered
/// with 500. Requests were checked for form: ids are not empty, paths are absolute, exactly one way of
/// resetting is chosen. Whether what they name exists is the daemon's to say, with
/// [`ErrorKind::NotFound`], [`ErrorKind::BadRequest`], [`ErrorKind::Conflict`], [`ErrorKind::TooBusy`] or
/// [`ErrorKind::Unavailable`].
pub trait Control: Send + Sync {
    /// Takes a message. Returns only when the journal has it durably.
    fn submit(&self, message: Submit) -> Result<Accepted, Failure>;

    /// Where a message is, by its id or, of another channel's, by `<channel>:<id>`.
    fn message_state(&self, id: &str) -> MessageState;

    /// Cancels one message. [`ErrorKind::NotFound`] when it is unknown; 0 when it is done already.
    fn cancel_message(&self, id: &str) -> Result<Cancelled, Failure>;

    /// Cancels what runs and waits in a conversation.
    fn cancel_conversation(&self, which: Cancel) -> Result<Cancelled, Failure>;

    /// The daemon's account of itself.
    fn status(&self) -> DaemonStatus;

    /// Its figures, in the text format of Prometheus.
    fn metrics(&self) -> String {
        String::new()
    }

    /// How it feels; quick, for monitors.
    fn health(&self) -> Health;

    /// The sessions it would resume.
    fn sessions(&self) -> Result<Sessions, Failure>;

    /// Forgets sessions. [`ErrorKind::Conflict`] while a turn runs on one of them.
    fn reset_sessions(&self, which: ResetSessions) -> Result<SessionsReset, Failure>;

    /// The queue: everything that is not finished.
    fn queue(&self) -> Result<Queue, Failure>;

    /// Messages that were given up.
    fn dead_letters(&self) -> Result<Queue, Failure>;

    /// One message of the queue, by its id or one of the channel's, with its whole text.
    fn queue_item(&self, id: &str) -> Result<QueueItem, Failure>;

    /// Changes the queue; durable when it returns. [`ErrorKind::Conflict`] when the message is in no state for it.
    fn change_queue(&self, id: &str, action: QueueAction) -> Result<QueueChanged, Failure>;

    /// Answers a question about a tool call. [`ErrorKind::NotFound`] when it does not wait (any more).
    fn answer_approval(&self, id: &str, answer: AnswerApproval) -> Result<AnswerApproval, Failure> {
        let _ = answer;
        Err(Failure::new(ErrorKind::NotFound, format!("no question {id:?} waits for an answer")))
    }

    /// What the agents of running turns may ask for; `None`: nothing.
    fn rooms(&self) -> Option<&dyn RoomControl> {
        None
    }

    /// Begins to end. Must return before the server is stopped, so that this can be answered.
    fn shutdown(&self, how: Shutdown) -> Result<ShuttingDown, Failure>;
}

/// What comes of a request.
#[derive(Debug)]
pub enum Reply {
    /// An answer.
    Answer(Answer),
    /// The events of this message after this number.
    Events {
        /// The message, as [`super::follow::watch_key`] names it.
        id: String,
        /// What was seen already; 0 for nothing.
        after: u64,
    },
}

/// Does what a request asks. Never fails: errors are answers.
pub fn respond(request: &Request, control: &dyn Control) -> Reply {
    match dispatch(request, control) {
        Ok(reply) => reply,
        Err(Refusal { failure, allow }) => Reply::Answer(Answer { allow, ..Answer::failure(&failure) }),
    }
}

struct Refusal {
    failure: Failure,
    allow: Option<&'static str>,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { failure, allow: None }
    }
}

fn dispatch(request: &Request, control: &dyn Control) -> Result<Reply, Refusal> {
    let segments = request.segments()?;
    let path: Vec<&str> = segments.iter().map(String::as_str).collect();
    let allow = methods(&path);
    if let Some(query) = request.query()
        && allow.is_some()
    {
        return Err(bad(format!("the query is {}; no path takes one", shown(query))).into());
    }
    Ok(match (request.method.as_str(), path.as_slice()) {
        ("GET", ["health"]) => {
            let health = control.health();
            json(if health.status == Wellness::Down { 503 } else { 200 }, &health)
        }
        ("GET", ["metrics"]) => Reply::Answer(metrics(control)),
        ("GET", ["v1", "status"]) => json(200, &control.status()),
        ("GET", ["v1", "sessions"]) => json(200, &control.sessions()?),
        ("POST", ["v1", "sessions", "reset"]) => json(200, &control.reset_sessions(checked_reset(body(request)?)?)?),
        ("POST", ["v1", "messages"]) => json(202, &control.submit(checked_submit(body(request)?)?)?),
        ("GET", ["v1", "messages", id]) => json(200, &control.message_state(checked_id("message id", id)?)),
        ("GET", ["v1", "messages", id, "events"]) => {
            let after = last_event(request)?;
            Reply::Events { id: checked_id("message id", id)?.to_owned(), after }
        }
        ("POST", ["v1", "messages", id, "cancel"]) => {
            let Empty {} = body(request)?;
            json(200, &control.cancel_message(checked_id("message id", id)?)?)
        }
        ("POST", ["v1", "cancel"]) => json(200, &control.cancel_conversation(checked_cancel(body(request)?)?)?),
        ("GET", ["v1", "queue"]) => json(200, &control.queue()?),
        ("GET", ["v1", "queue", "dead"]) => json(200, &control.dead_letters()?),
        ("GET", ["v1", "queue", id]) => json(200, &control.queue_item(checked_id("message id", id)?)?),
        ("POST", ["v1", "queue", id, action]) if QueueAction::parse(action).is_some() => {
            let Empty {} = body(request)?;
            let Some(action) = QueueAction::parse(action) else { return Err(refused(request.path(), "POST", None)) };
            json(200, &control.change_queue(checked_id("message id", id)?, action)?)
        }
        ("POST", ["v1", "approvals", id]) => {
            let answer = body(request)?;
            json(200, &control.answer_approval(checked_id("approval id", id)?, checked_answer(answer)?)?)
        }
        ("POST", ["v1", "room", verb]) if room::has(verb) => match control.rooms() {
            Some(rooms) => room::respond(request, verb, rooms)?,
            None => return Err(refused(request.path(), "POST", None)),
        },
        ("POST", ["v1", "shutdown"]) => json(202, &control.shutdown(body(request)?)?),
        (method, _) => return Err(refused(request.path(), method, allow)),
    })
}

/// The answer to `GET /metrics`.
pub(super) fn metrics(control: &dyn Control) -> Answer {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    Answer { status: 200, content_type, allow: None, body: control.metrics().into_bytes() }
}

fn refused(path: &str, method: &str, allow: Option<&'static str>) -> Refusal {
    let (kind, message) = match allow {
        Some(allow) => (ErrorKind::MethodNotAllowed, format!("{} takes {allow}, not {}", shown(path), shown(method))),
        None => (ErrorKind::NotFound, format!("there is no path {}", shown(path))),
    };
    Refusal { failure: Failure::new(kind, message), allow }
}

/// The methods of a path that exists.
fn methods(path: &[&str]) -> Option<&'static str> {
    match path {
        ["health" | "metrics"]
        | ["v1", "status" | "sessions" | "queue"]
        | ["v1", "messages" | "queue", _]
        | ["v1", "messages", _, "events"] => Some("GET"),
        ["v1", "room", verb] if room::has(verb) => Some("POST"),
        ["v1", "queue", _, action] if QueueAction::parse(action).is_some() => Some("POST"),
        ["v1", "messages" | "cancel" | "shutdown"]
        | ["v1", "sessions", "reset"]
        | ["v1", "messages", _, "cancel"]
        | ["v1", "approvals", _] => Some("POST"),
        _ => None,
    }
}

pub(super) fn json(status: u16, document: &impl serde::Serialize) -> Reply {
    Reply::Answer(Answer::json(status, document))
}

/// The body of a request that has nothing to say.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

pub(super) fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Failure> {
    if request.body.is_empty() {
        // No body says as much as an empty object.
        return json::from_str("{}").map_err(|e| bad(format!("there is no body; a JSON object is expected: {e}")));
    }
    let given = request.header("content-type").unwrap_or_default();
    let mut parts = given.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    let utf8 = |parameter: &str| {
        parameter.is_empty()
            || parameter.split_once('=').is_some_and(|(name, value)| {
                name.eq_ignore_ascii_case("charset") && value.trim_matches('"').eq_ignore_ascii_case("utf-8")
            })
    };
    if !media.eq_ignore_ascii_case("application/json") || !parts.all(utf8) {
        let message = format!("Content-Type is {}; application/json is expected", shown(given));
        return Err(Failure::new(ErrorKind::UnsupportedMediaType, message));
    }
    json::from_slice(&request.body).map_err(|e| {
        let what = if e.is_data() { "the body does not fit" } else { "the body is not JSON" };
        bad(format!("{what}: {}", crate::text::clip(&e.to_string(), 300)))
    })
}

fn last_event(request: &Request) -> Result<u64, Failure> {
    match request.header("last-event-id") {
        None | Some("") => Ok(0),
        Some(id) => {
            id.parse().map_err(|_| bad(format!("Last-Event-ID is {}; the number of an event is expected", shown(id))))
        }
    }
}

pub(super) fn checked_id<'a>(what: &str, id: &'a str) -> Result<&'a str, Failure> {
    if id.is_empty() || id.len() > ID_LIMIT || id.chars().any(char::is_control) {
        let message = format!("{what} is {}; 1 to {ID_LIMIT} bytes without control characters are expected", shown(id));
        return Err(bad(message));
    }
    Ok(id)
}

pub(super) fn checked_path(what: &str, path: &Path) -> Result<(), Failure> {
    if path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0) {
        return Ok(());
    }
    Err(bad(format!("{what} is {}; an absolute path is expected", shown(&path.to_string_lossy()))))
}

fn checked_submit(message: Submit) -> Result<Submit, Failure> {
    if message.text.trim().is_empty() && message.files.is_empty() {
        return Err(bad("there is neither text nor a file in it".into()));
    }
    for (what, value) in
        [("agent", &message.agent), ("conversation", &message.conversation), ("runtime", &message.runtime)]
    {
        value.as_deref().map_or(Ok(""), |id| checked_id(what, id))?;
    }
    if let Some(id) = &message.id {
        checked_id("id", id)?;
        // Narrower than other ids, so that it never looks like `<channel>:<id>`.
        if !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return Err(bad(format!("id is {}; only letters, digits and . _ - are taken", shown(id))));
        }
    }
    for (what, path) in [("cwd", &message.cwd), ("typed_in", &message.typed_in)] {
        path.as_deref().map_or(Ok(()), |path| checked_path(what, path))?;
    }
    if let Some(from) = &message.from {
        checked_id("from.agent", &from.agent)?;
        checked_id("from.turn", &from.turn)?;
    }
    if message.files.len() > FILES_LIMIT {
        return Err(bad(format!("there are {} files; at most {FILES_LIMIT} are taken", message.files.len())));
    }
    message.files.iter().try_for_each(|file| checked_path("a file", file))?;
    if message.timeout_ms == Some(0) {
        return Err(bad("timeout_ms is 0; at least 1 is expected".into()));
    }
    Ok(message)
}

fn checked_cancel(which: Cancel) -> Result<Cancel, Failure> {
    for (what, value) in [("agent", &which.agent), ("conversation", &which.conversation)] {
        value.as_deref().map_or(Ok(""), |id| checked_id(what, id))?;
    }
    Ok(which)
}

fn checked_answer(answer: AnswerApproval) -> Result<AnswerApproval, Failure> {
    if answer.reason.as_ref().is_some_and(|r| r.len() > REASON_LIMIT) {
        return Err(bad(format!("reason is longer than {REASON_LIMIT} bytes")));
    }
    Ok(answer)
}

fn checked_reset(which: ResetSessions) -> Result<ResetSessions, Failure> {
    let given = usize::from(which.key.is_some()) + usize::from(which.conversation.is_some()) + usize::from(which.all);
    if given == 1 {
        return Ok(which);
    }
    Err(bad(format!("{given} of key, conversation and all are given; exactly one is expected")))
}

fn bad(message: String) -> Failure {
    Failure::new(ErrorKind::BadRequest, message)
}
