//! The events of a message's turn: what somebody who follows it is told.

use serde::{Deserialize, Serialize};

use super::{Question, is_false};
use crate::engine::ports::TurnReport;
use crate::json;
use crate::message::{Block, BlockKind, Status};

/// Data of the event `queued`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// How many turns or messages of its conversation come before it.
    pub ahead: usize,
}

/// Data of the event `started`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Turn id.
    pub turn_id: String,
    /// Runtime id.
    pub runtime: String,
    /// 1, or more after interruptions.
    pub attempt: u32,
}

/// Data of the event `block`: one piece of progress, as a person sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockView {
    /// The runtime's number of it; of merged pieces, the last one's.
    pub seq: u64,
    /// What it is.
    pub kind: BlockKind,
    /// Words of the agent: to be shown one after the other as they come, without anything in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Name of the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// One line about the call or its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Whether the tool failed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub failed: bool,
}

impl From<&Block> for BlockView {
    fn from(block: &Block) -> Self {
        Self {
            seq: block.seq,
            kind: block.kind,
            text: block.digest.text.clone(),
            tool: block.digest.tool.clone(),
            summary: block.digest.summary.clone(),
            failed: block.digest.failed,
        }
    }
}

/// One event of `GET /v1/messages/<id>/events`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The message is durable and waits.
    Queued(Queued),
    /// Its turn begins (again, when `attempt` is more than 1).
    Started(Started),
    /// Progress.
    Block(BlockView),
    /// What the runtime says about its state: `{kind: typing|thinking, phase, label?}`.
    Status(Status),
    /// A tool call waits for permission.
    Approval(Question),
    /// The turn is over; the last event.
    Finished(Box<TurnReport>),
}

impl Event {
    /// The word in the stream's `event:` line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued(_) => "queued",
            Self::Started(_) => "started",
            Self::Block(_) => "block",
            Self::Status(_) => "status",
            Self::Approval(_) => "approval",
            Self::Finished(_) => "finished",
        }
    }

    /// The JSON in the stream's `data:` line; never contains a line break.
    pub fn data(&self) -> serde_json::Result<String> {
        match self {
            Self::Queued(data) => json::to_string(data),
            Self::Started(data) => json::to_string(data),
            Self::Block(data) => json::to_string(data),
            Self::Status(data) => json::to_string(data),
            Self::Approval(data) => json::to_string(data),
            Self::Finished(data) => json::to_string(data),
        }
    }

    /// The event of a name and its data; `None` for a name that this version does not know.
    pub fn parse(name: &str, data: &str) -> serde_json::Result<Option<Self>> {
        Ok(Some(match name {
            "queued" => Self::Queued(json::from_str(data)?),
            "started" => Self::Started(json::from_str(data)?),
            "block" => Self::Block(json::from_str(data)?),
            "status" => Self::Status(json::from_str(data)?),
            "approval" => Self::Approval(json::from_str(data)?),
            "finished" => Self::Finished(json::from_str(data)?),
            _ => return Ok(None),
        }))
    }
}
