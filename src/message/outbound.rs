//! A message on its way to a room.

use serde::{Deserialize, Serialize};

use super::Attachment;

/// What an outgoing message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutboundKind {
    /// An ordinary message.
    #[default]
    Message,
    /// A diagnostic: error, timeout, budget.
    Error,
}

/// A message on its way to a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outbound {
    /// Stable id: the same at every attempt and after a restart, so that the far side can recognise a repeat.
    pub id: String,
    /// Id of the channel that sends it.
    pub channel: String,
    /// The agent that speaks.
    pub account_id: String,
    /// Where to.
    pub conversation_id: String,
    /// Topic inside it.
    #[serde(default)]
    pub thread_id: Option<String>,
    /// Title of that topic, for channels that name topics by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Ordinary or diagnostic.
    #[serde(default)]
    pub kind: OutboundKind,
    /// What is said.
    pub text: String,
    /// Reference under which a runtime failure was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_ref: Option<String>,
    /// Files to go with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// The message it answers.
    #[serde(default)]
    pub reply_to: Option<String>,
    /// Handle on the progress of that message.
    #[serde(default)]
    pub trace_id: Option<String>,
    /// The turn it comes from.
    pub turn_id: String,
    /// The agent sent it by a command of its own while the turn ran; else it is what the turn came to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_tool: bool,
    /// Participants it is meant for, by the channel's ids, or `@all`; only what is sent by tool has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<String>,
}
