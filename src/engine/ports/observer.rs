//! Who watches turns.

use serde::{Deserialize, Serialize};

use super::{ErrorClass, Usage};
use crate::engine::approvals::PendingApproval;
use crate::message::{Block, Inbound, Status};

/// How a turn ended for the person who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnStatus {
    /// A reply was made.
    Ok,
    /// It failed.
    Error,
    /// It was cancelled or superseded.
    Cancelled,
    /// It ran out of time or budget.
    Timeout,
    /// It ended well and said nothing.
    NoReply,
}

/// A failure as a person sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnFailure {
    /// Class, or `timeout`, `budget`, `interrupted`.
    pub kind: String,
    /// Short, redacted.
    pub message: String,
    /// Reference in the transcript.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_ref: Option<String>,
}

/// The account of a finished turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TurnReport {
    /// Turn id.
    pub turn_id: String,
    /// Ids of the messages it answered, in the channel's terms.
    pub message_ids: Vec<String>,
    /// Channel id.
    pub channel: String,
    /// Agent.
    pub agent: String,
    /// Conversation id.
    pub conversation: String,
    /// Runtime id.
    pub runtime: String,
    /// Session to be resumed next time.
    pub session_id: Option<String>,
    /// How it ended.
    pub status: TurnStatus,
    /// The reply.
    pub reply: Option<String>,
    /// The failure.
    pub error: Option<TurnFailure>,
    /// Number of blocks.
    pub blocks: u64,
    /// Wall time in milliseconds.
    pub ms: u64,
    /// Tokens.
    pub usage: Option<Usage>,
    /// Cost in US dollars.
    pub cost_usd: Option<f64>,
    /// Class of the failure.
    #[serde(skip)]
    pub class: Option<ErrorClass>,
}

/// Something that happened to a message or its turn.
#[derive(Clone, Debug)]
pub enum TurnEvent<'a> {
    /// It is in the journal and waits.
    Queued {
        /// The message.
        message: &'a Inbound,
        /// How many turns or messages of its conversation are before it.
        ahead: usize,
    },
    /// Its turn begins.
    Started {
        /// The (merged) message.
        message: &'a Inbound,
        /// Turn id.
        turn_id: &'a str,
        /// Runtime id.
        runtime: &'a str,
        /// 1, or more after interruptions.
        attempt: u32,
    },
    /// The agent's own words were seen in its room: it posted them by tool, or in another session.
    OwnWords {
        /// A message of the room.
        message: &'a Inbound,
        /// When (Unix milliseconds) and what.
        said: &'a [(i64, String)],
    },
    /// A block of progress.
    Block {
        /// The message.
        message: &'a Inbound,
        /// Turn id.
        turn_id: &'a str,
        /// The block.
        block: &'a Block,
    },
    /// A status event.
    Status {
        /// The message.
        message: &'a Inbound,
        /// Turn id.
        turn_id: &'a str,
        /// The status.
        status: &'a Status,
    },
    /// A tool call waits for permission.
    Approval {
        /// The message.
        message: &'a Inbound,
        /// The question.
        question: &'a PendingApproval,
    },
    /// The turn is over.
    Finished {
        /// The message.
        message: &'a Inbound,
        /// The account of it.
        report: &'a TurnReport,
    },
}

/// Watches turns. Called on the turn's thread, must not block; a panic in it is caught and logged.
pub trait TurnObserver: Send + Sync {
    /// Something happened.
    fn event(&self, event: &TurnEvent<'_>);
}
