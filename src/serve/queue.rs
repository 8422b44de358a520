//! The queue's part of the wire: what waits, runs, is held, parked, undelivered or dead.

use serde::{Deserialize, Serialize};

/// Most messages in one answer; the rest is counted.
pub const QUEUE_LIMIT: usize = 2_000;

/// Upper ends of the age buckets in minutes; the last bucket has none.
pub const AGE_MINUTES: [u64; 6] = crate::engine::backlog::BUCKETS;

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueState {
    /// Its turn comes.
    Waiting,
    /// Its turn runs. Without a daemon: it did when the daemon ended, and goes on at the next start.
    Running,
    /// It is set aside until somebody releases it.
    Held,
    /// It waits for a time or for its runtime.
    Parked,
    /// It is answered, and the reply is not delivered yet.
    Undelivered,
    /// It was given up.
    Dead,
    /// A state that this version does not know.
    #[serde(other)]
    Other,
}

impl QueueState {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Held => "held",
            Self::Parked => "parked",
            Self::Undelivered => "undelivered",
            Self::Dead => "dead",
            Self::Other => "?",
        }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueItem {
    /// Its id in the queue.
    pub id: String,
    /// The channel's ids of everything in it.
    pub message_ids: Vec<String>,
    /// Channel id.
    pub channel: String,
    /// Agent.
    pub agent: String,
    /// Conversation id.
    pub conversation: String,
    /// Topic inside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// Queue key.
    pub queue: String,
    /// How far it is.
    pub state: QueueState,
    /// When it was accepted or, of a dead one, given up (Unix milliseconds).
    pub since: i64,
    /// Attempts that count.
    pub attempts: u32,
    /// The turn that runs or has answered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<String>,
    /// Why it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Not before (Unix milliseconds).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// Who wrote it.
    pub sender: String,
    /// The beginning of its text on one line, redacted; in the answer about one message, the whole text.
    pub text: String,
}

/// One conversation with the ages of its messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueShape {
    /// Queue key.
    pub queue: String,
    /// Its messages.
    pub total: u64,
    /// How many are younger than each of `age_minutes` and not younger than the one before; then the rest.
    pub ages: Vec<u64>,
}

/// Answer to `GET /v1/queue` and `GET /v1/queue/dead`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Whether a daemon said this; else it was read from its journal.
    pub live: bool,
    /// Messages, oldest first; at most [`QUEUE_LIMIT`].
    pub messages: Vec<QueueItem>,
    /// Messages that are left out.
    #[serde(default)]
    pub more: u64,
    /// Upper ends of the age buckets in minutes.
    pub age_minutes: Vec<u64>,
    /// Conversations, those with the most messages first; at most [`QUEUE_LIMIT`].
    pub conversations: Vec<QueueShape>,
    /// Messages that were given up and are kept.
    pub dead: u64,
}

/// What is done to a message of the queue: `POST /v1/queue/<id>/<action>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueAction {
    /// It is set aside.
    Hold,
    /// It goes on.
    Release,
    /// It runs again, or its reply is sent again.
    Requeue,
    /// It ends without an answer.
    Drop,
}

impl QueueAction {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hold, Self::Release, Self::Requeue, Self::Drop];

    /// The word in the path and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Requeue => "requeue",
            Self::Drop => "drop",
        }
    }

    /// The action of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.word() == word)
    }
}

/// Answer to a change of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueChanged {
    /// The id that was given.
    pub id: String,
    /// What was done.
    pub done: String,
}
