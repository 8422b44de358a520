//! The control API's wire: every request, answer and event as a type.
//!
//! Requests refuse fields they do not know, so that an option which this daemon is too old for is an error
//! and not silently ignored. Answers and events may gain fields and kinds: readers skip what they do not
//! know. Names are `snake_case`; times are Unix milliseconds, durations say their unit.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::engine::ports::TurnReport;

mod error;
mod event;

pub use self::error::{ErrorAnswer, ErrorKind, Failure};
pub use self::event::{BlockView, Event, Queued, Started};
pub use super::queue::{AGE_MINUTES, QUEUE_LIMIT, Queue, QueueAction, QueueChanged, QueueItem, QueueShape, QueueState};

/// Version prefix of every path but `/health`.
pub const PREFIX: &str = "/v1";

/// Longest agent, conversation or message id in a request, in bytes.
pub const ID_LIMIT: usize = 256;

/// Most files that one message may bring.
pub const FILES_LIMIT: usize = 32;

/// `POST /v1/messages`: a message for an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// The agent; the configured default one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The conversation; the agent's default one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// Runtime id in place of the route's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Working directory in place of the route's; absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,
    /// Where the command was typed; absolute. The working directory unless `cwd` or the agent has another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typed_in: Option<PathBuf>,
    /// The turn that the message is written in, where an agent writes and not a person. It then has no authority of
    /// the owner, and chains of such messages have an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<FromTurn>,
    /// Forget the conversation's session first.
    #[serde(default, skip_serializing_if = "is_false")]
    pub new: bool,
    /// What is said. May be empty only when there are files.
    #[serde(default)]
    pub text: String,
    /// Absolute paths of files that come with it, readable by the daemon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
    /// Give up the turn after so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The client's own id of the message: letters, digits, `.`, `_`, `-`, at most [`ID_LIMIT`] bytes. A
    /// second message with the same id is recognised as a repeat and not run again. The daemon makes one
    /// up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// The turn of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FromTurn {
    /// The agent: `BELLHOP_AGENT` of its processes.
    pub agent: String,
    /// The turn: `BELLHOP_TURN` of its processes.
    pub turn: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(b: &bool) -> bool {
    !*b
}

/// Answer (202) to [`Submit`], given once the message is durable: it will be answered even if the machine
/// loses power now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Id of the message: the client's, where it chose one.
    pub id: String,
    /// The agent it went to.
    pub agent: String,
    /// The conversation it went to.
    pub conversation: String,
    /// It was here before: this request changed nothing, and the id names the first one.
    pub duplicate: bool,
    /// How many turns or messages of its conversation come before it.
    pub ahead: usize,
}

/// Where a message is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In the journal; its turn comes.
    Waiting,
    /// Its turn runs.
    Running,
    /// Its turn is over.
    Done,
    /// Never heard of, or forgotten.
    Unknown,
}

/// Answer to `GET /v1/messages/<id>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessageState {
    /// The id that was asked for.
    pub id: String,
    /// Where it is.
    pub state: State,
    /// The account of its turn, while it is remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<TurnReport>,
}

impl MessageState {
    /// A state without a report.
    pub fn new(id: impl Into<String>, state: State) -> Self {
        Self { id: id.into(), state, report: None }
    }
}

/// `POST /v1/cancel`: ends what runs and what waits in one conversation. Absent fields mean the same
/// defaults as in [`Submit`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// The agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
}

/// Answer to both kinds of cancelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// How many messages were cancelled, waiting ones and those of a running turn; 0 when there was none.
    pub cancelled: u64,
}

/// How the daemon feels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wellness {
    /// All is well.
    #[default]
    Well,
    /// It works, but something needs a look (a channel is down, say).
    Degraded,
    /// It takes no messages.
    Down,
}

/// Answer to `GET /health`: 200, or 503 when `status` is `down`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// In a word.
    pub status: Wellness,
    /// What is not well, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Age in milliseconds of the oldest message that waits and is neither held nor parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_waiting_ms: Option<u64>,
    /// What runs, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<TurnPulse>,
    /// What each channel was last seen doing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<ChannelPulse>,
}

/// Signs of life of a running turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnPulse {
    /// Turn id.
    pub turn_id: String,
    /// Milliseconds since its runtime's last sign of life.
    pub quiet_ms: u64,
    /// That is too long, and none of its tools runs.
    pub silent: bool,
}

/// Signs of life of a channel, since the daemon began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelPulse {
    /// Channel id.
    pub id: String,
    /// The last message that came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_inbound_at: Option<i64>,
    /// The last reply that was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_delivered_at: Option<i64>,
    /// Age in milliseconds of its oldest message that waits and is neither held nor parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_waiting_ms: Option<u64>,
    /// Replies that wait to be delivered.
    #[serde(default)]
    pub replies: u64,
}

/// A turn that runs now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningTurn {
    /// Turn id.
    pub turn_id: String,
    /// Queue key of its conversation: `<channel>:<agent>:<conversation>:<thread>`.
    pub queue: String,
    /// Agent.
    pub agent: String,
    /// Conversation id.
    pub conversation: String,
    /// Runtime id.
    pub runtime: String,
    /// When it began.
    pub started_at: i64,
}

/// What waits for a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Messages that wait.
    pub messages: u64,
    /// Conversations in which something waits.
    pub conversations: u64,
    /// Age of the oldest of them in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<u64>,
    /// Replies that wait to be delivered.
    #[serde(default)]
    pub replies: u64,
    /// Messages among them that somebody has set aside.
    #[serde(default)]
    pub held: u64,
    /// Messages that were given up and are kept.
    #[serde(default)]
    pub dead: u64,
}

/// How one channel is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelState {
    /// Channel id.
    pub id: String,
    /// `local`, `botcord`, …
    pub kind: String,
    /// Whether messages can come and go.
    pub up: bool,
    /// One line for people: since when, or what is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How the journal is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalState {
    /// Whether it takes messages. When not, the daemon is down.
    pub writable: bool,
    /// Its size in bytes.
    pub bytes: u64,
    /// Records in it that are not done with.
    pub open: u64,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Answer to `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Process id.
    pub pid: u32,
    /// Program version.
    pub version: String,
    /// The home it serves.
    pub home: PathBuf,
    /// When it began.
    pub started_at: i64,
    /// How long ago that is, in milliseconds of a clock that never jumps.
    pub uptime_ms: u64,
    /// It takes no more messages and ends when the running turns have.
    #[serde(default)]
    pub draining: bool,
    /// The same as `GET /health`.
    pub health: Health,
    /// What runs.
    pub turns: Vec<RunningTurn>,
    /// What waits.
    pub waiting: Waiting,
    /// Where messages come from.
    pub channels: Vec<ChannelState>,
    /// What survives a crash.
    pub journal: JournalState,
    /// The control socket of the hub that a person has logged this daemon in to: `state` (`connected`, `connecting`,
    /// `logged_out`), `since`, `lastError`, `skewMs`, `hub`, `keys`, `unsigned`; null without a login.
    #[serde(default)]
    pub control: serde_json::Value,
    /// Tool calls that wait for permission, oldest first.
    #[serde(default)]
    pub approvals: Vec<WaitingApproval>,
}

/// A tool call that waits for permission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingApproval {
    /// Under which it is answered.
    pub id: String,
    /// Turn that waits.
    pub turn_id: String,
    /// Channel id.
    pub channel: String,
    /// Agent.
    pub agent: String,
    /// Conversation id.
    pub conversation: String,
    /// Tool or title.
    pub tool: String,
    /// One line about what it would do.
    pub summary: String,
    /// When it was asked.
    pub asked_at: i64,
    /// When it is denied.
    pub expires_at: i64,
}

/// `POST /v1/approvals/<id>`: the answer to a question. The same is given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerApproval {
    /// What is decided.
    pub decision: Decision,
    /// Why it is denied; the agent may be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What may be decided about a tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It may run, once.
    Allow,
    /// It may not.
    Deny,
}

/// Data of the event `approval`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Under which it is answered.
    pub id: String,
    /// Tool or title.
    pub tool: String,
    /// One line about what it would do.
    pub summary: String,
    /// When it is denied.
    pub expires_at: i64,
}

/// A runtime session that the daemon would resume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Key in the session store.
    pub key: String,
    /// Runtime id.
    pub runtime: String,
    /// Channel id.
    pub channel: String,
    /// Agent.
    pub agent: String,
    /// Conversation id.
    pub conversation: String,
    /// Topic inside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// The CLI's id of the session.
    pub session_id: String,
    /// Directory it was made in.
    pub cwd: PathBuf,
    /// When it was used last.
    pub updated_at: i64,
}

/// Answer to `GET /v1/sessions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Latest first.
    pub sessions: Vec<SessionInfo>,
}

/// `POST /v1/sessions/reset`: which sessions to forget. Exactly one of `key`, `conversation` and `all` is
/// given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetSessions {
    /// The one with this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Those of this conversation, of every runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// Of those, only this agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Every one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub all: bool,
}

/// Answer to [`ResetSessions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsReset {
    /// How many were forgotten.
    pub reset: u64,
}

/// `POST /v1/shutdown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// How long running turns may go on before they are interrupted (they resume at the next start). The
    /// daemon's configured time when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u64>,
}

/// Answer (202) to [`Shutdown`], given before the daemon is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShuttingDown {
    /// Process id, so that its end can be waited for.
    pub pid: u32,
    /// How many turns it waits for.
    pub turns: u64,
    /// For how long at most.
    pub drain_seconds: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{BlockKind, Phase, Status};

    #[test]
    fn events_survive_the_wire() {
        let block = BlockView {
            seq: 3,
            kind: BlockKind::ToolUse,
            text: None,
            tool: Some("Bash".into()),
            summary: Some("ls\n-l".into()),
            failed: false,
        };
        for event in [
            Event::Queued(Queued { ahead: 2 }),
            Event::Started(Started { turn_id: "t".into(), runtime: "echo".into(), attempt: 1 }),
            Event::Block(block),
            Event::Status(Status::thinking(Phase::Started, "reads")),
        ] {
            let data = event.data().unwrap();
            assert!(!data.contains('\n'), "{data}");
            assert_eq!(Event::parse(event.name(), &data).unwrap(), Some(event));
        }
        assert_eq!(Event::parse("of-a-later-version", "{}").unwrap(), None);
        assert!(Event::parse("queued", "{").is_err());
    }

    #[test]
    fn requests_refuse_what_they_do_not_know_and_answers_do_not() {
        assert!(serde_json::from_str::<Submit>(r#"{"text":"x","priority":1}"#).is_err());
        let body = r#"{"error":{"kind":"of_a_later_version","message":"m","hint":"h"}}"#;
        let answer: ErrorAnswer = serde_json::from_str(body).unwrap();
        assert_eq!(answer.error.kind, ErrorKind::Other);
    }
}
