//! What records of a transcript are made of.

use serde::Serialize;
use serde_json::Value;

use crate::message::{self, SenderKind};
use crate::{redact, text};

/// Longest name of a tool in a summary, in UTF-16 units.
const NAME_LIMIT: usize = 200;

/// The sender, in a record's order of fields.
#[derive(Clone, Debug, Serialize)]
pub struct Sender {
    pub(super) id: String,
    pub(super) kind: SenderKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
}

/// The far side's handle; `streamable` only when it is.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    pub(super) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) streamable: Option<bool>,
}

/// Which text was cut: `{"text":true}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Truncated {
    /// That of the message.
    Text(bool),
    /// That of the user turn.
    ComposedText(bool),
    /// That of the reply.
    FinalText(bool),
}

/// Why a message or turn was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// Its message went into a later turn.
    BatchMerged,
    /// A newer message took its place.
    QueueCancelPrevious,
    /// Its queue was full.
    QueueOverflow,
    /// It waited a day for a text to go with, and none came.
    DeferredExpired,
}

/// What became of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// It was sent.
    Delivered,
    /// The agent speaks in this room by its own tool.
    GatedNonOwnerChat,
    /// There was none.
    EmptyText,
    /// The agent said that it has nothing to say.
    NoReply,
    /// It could not be sent.
    SendFailed,
}

/// Where a turn failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnErrorPhase {
    /// The runtime failed.
    Runtime,
    /// It ran out of time.
    Timeout,
    /// It ran out of its budget.
    Budget,
}

/// What a block was about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockSummary {
    /// Kind of block.
    pub r#type: message::BlockKind,
    /// Length of its text in UTF-16 units.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chars: Option<usize>,
    /// Name of the tool, or of the update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl BlockSummary {
    /// Reads the runtime's event: `text`, `name`, and what an ACP update says in their place.
    pub fn of(block: &message::Block) -> Self {
        let raw = &block.raw;
        let string = |v: &Value| v.as_str().map(|s| redact::text_head(s, NAME_LIMIT).0);
        let update = raw.pointer("/params/update").or_else(|| raw.get("update"));
        let tool = update.and_then(|u| u.pointer("/toolCall/name")).and_then(string);
        Self {
            r#type: block.kind,
            chars: raw.get("text").and_then(Value::as_str).map(text::len_utf16),
            name: tool
                .or_else(|| raw.get("name").and_then(string))
                .or_else(|| update.and_then(|u| u.get("sessionUpdate")).and_then(string)),
        }
    }
}
