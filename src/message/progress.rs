//! What a runtime shows of its work while a turn runs.

use serde::{Deserialize, Serialize};

/// What a block of progress is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// Words of the agent.
    AssistantText,
    /// A tool was called.
    ToolUse,
    /// A tool answered.
    ToolResult,
    /// The runtime speaks about itself.
    System,
    /// Marker that the agent thinks; carries no thoughts.
    Thinking,
    /// Anything else; passed on unread.
    Other,
}

impl BlockKind {
    /// The word used on wires and in transcripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AssistantText => "assistant_text",
            Self::ToolUse => "tool_use",
            Self::ToolResult => "tool_result",
            Self::System => "system",
            Self::Thinking => "thinking",
            Self::Other => "other",
        }
    }
}

/// One piece of a runtime's progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// What it is.
    pub kind: BlockKind,
    /// The adapter's own number, from 1 per run.
    pub seq: u64,
    /// The runtime's event as it came.
    pub raw: serde_json::Value,
    /// Provider-neutral digest of `raw` for people: text of an `assistant_text`, name and input summary of a tool.
    pub digest: Digest,
}

/// What a person is shown of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Words of the agent (a delta or a whole message, as the runtime streams).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Name of the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// One line about the call or its result, at most 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Whether the tool failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
}

/// Where a status event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It begins.
    Started,
    /// It goes on.
    Updated,
    /// It ends.
    Stopped,
}

/// What a runtime says about its own state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StatusForm", into = "StatusForm")]
pub enum Status {
    /// It is about to write.
    Typing {
        /// Beginning or end.
        phase: Phase,
    },
    /// It works.
    Thinking {
        /// Beginning, change or end.
        phase: Phase,
        /// What it does, for people.
        label: Option<String>,
    },
}

impl Status {
    /// A thinking status with a label.
    pub fn thinking(phase: Phase, label: impl Into<String>) -> Self {
        Self::Thinking { phase, label: Some(label.into()) }
    }

    /// The end of thinking.
    pub fn stopped() -> Self {
        Self::Thinking { phase: Phase::Stopped, label: None }
    }
}

/// `{kind: typing|thinking, phase, label?}`
#[derive(Serialize, Deserialize)]
struct StatusForm {
    kind: StatusKind,
    phase: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StatusKind {
    Typing,
    Thinking,
}

impl From<StatusForm> for Status {
    fn from(form: StatusForm) -> Self {
        match form.kind {
            StatusKind::Typing => Self::Typing { phase: form.phase },
            StatusKind::Thinking => Self::Thinking { phase: form.phase, label: form.label },
        }
    }
}

impl From<Status> for StatusForm {
    fn from(status: Status) -> Self {
        match status {
            Status::Typing { phase } => Self { kind: StatusKind::Typing, phase, label: None },
            Status::Thinking { phase, label } => Self { kind: StatusKind::Thinking, phase, label },
        }
    }
}
