//! What an agent may ask of a channel from inside its turn, besides sending.
//!
//! Sending goes through the engine, which keeps what is said until it is delivered. The rest is a question to the far
//! side, asked on behalf of the agent and answered or not within the time of the command.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::message::Attachment;

/// A question about rooms. Ids are the channel's; they were checked for form, not for existence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// The latest messages of a room.
    History {
        /// Room.
        room: String,
        /// Only those of this topic.
        topic: Option<String>,
        /// Only those before this message.
        before: Option<String>,
        /// At most so many.
        limit: u32,
    },
    /// A room with its members.
    Room {
        /// Room.
        room: String,
    },
    /// The rooms that the agent is a member of.
    Rooms {
        /// At most so many.
        limit: u32,
    },
    /// The topics of a room.
    Topics {
        /// Room.
        room: String,
    },
    /// Messages that hold all these words.
    Search {
        /// Only in this room.
        room: Option<String>,
        /// What is looked for; never empty.
        words: Vec<String>,
        /// At most so many.
        limit: u32,
    },
}

/// What a look has found. Names and texts are those of other people; whoever shows them makes them harmless.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Messages: the oldest first, or the best hit first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<RoomMessage>,
    /// Rooms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<RoomInfo>,
    /// Topics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<RoomTopic>,
    /// There is more than this.
    #[serde(default)]
    pub more: bool,
}

/// A message in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomMessage {
    /// By what it can be quoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// When, as the far side prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Id of its sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Name of its sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it was said, when more than one room was searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
    /// Topic, as people read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// What was said.
    pub text: String,
}

/// A room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomInfo {
    /// Its id.
    pub id: String,
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Who can see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<String>,
    /// Who can join it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<String>,
    /// Members, where they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<RoomMember>,
}

/// A member of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomMember {
    /// Id.
    pub id: String,
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Role in the room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// A topic of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomTopic {
    /// Its id.
    pub id: String,
    /// What people call it; a message names it so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// What it is to come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
}

/// A file that the far side has taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploaded {
    /// Where others find it.
    pub url: String,
    /// Its name there.
    pub filename: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// How long it is kept, as the far side prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// Why a channel did not do what an agent's tool asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolError {
    /// This channel has no such thing.
    NotOffered,
    /// The far side refuses, and will again; its code or words.
    Refused(String),
    /// Another try may help.
    Failed(String),
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOffered => f.write_str("this channel does not offer that"),
            Self::Refused(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ToolError {}

/// What a channel offers to its agents' tools. Called on threads of the control socket; each call has its own time limit
/// and takes no longer than about 25 s. Errors are for the agent: they hold no secrets.
pub trait RoomTools: Send + Sync {
    /// Answers a question about rooms.
    fn look(&self, agent: &str, look: &Look) -> Result<Found, ToolError>;

    /// Uploads a file. It was inside the turn's directory a moment ago; it is opened without following links.
    fn upload(&self, agent: &str, file: &Attachment) -> Result<Uploaded, ToolError> {
        let _ = (agent, file);
        Err(ToolError::NotOffered)
    }

    /// Shows the owner of an agent a notice.
    fn notify_owner(&self, agent: &str, text: &str) -> Result<(), ToolError> {
        let _ = (agent, text);
        Err(ToolError::NotOffered)
    }
}
