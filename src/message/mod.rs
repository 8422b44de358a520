//! The words every room shares: messages in and out, blocks of progress, and the keys made from them.
//!
//! Nothing here knows a wire, a CLI or the engine. A channel turns whatever its wire says into one
//! [`Inbound`]; the engine reads only these typed fields, never a provider's document. All times are
//! Unix milliseconds. All types serialise to the JSON that the journal stores.

pub mod document;
mod outbound;
mod progress;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use outbound::{Outbound, OutboundKind};
pub use progress::{Block, BlockKind, Digest, Phase, Status};

/// Whether a conversation has two parties or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConversationKind {
    /// Two parties.
    Direct,
    /// Any number of parties.
    Group,
}

impl ConversationKind {
    /// The word used in keys and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Group => "group",
        }
    }
}

/// A room or a provider's chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conversation {
    /// The channel's own id of it.
    pub id: String,
    /// Two parties or many.
    pub kind: ConversationKind,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// A topic inside it. Never the empty string: use [`Conversation::thread`] when building.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "non_empty")]
    pub thread_id: Option<String>,
}

impl Conversation {
    /// The thread id, or the empty string where there is none.
    pub fn thread(&self) -> &str {
        self.thread_id.as_deref().unwrap_or("")
    }
}

fn non_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.filter(|s| !s.is_empty()))
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SenderKind {
    /// A person.
    User,
    /// Another agent.
    Agent,
    /// The hub or the daemon itself.
    System,
}

/// The sender of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// The channel's id of the sender.
    pub id: String,
    /// Display name; chosen by the sender, not proof of anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Person, agent or system.
    pub kind: SenderKind,
}

/// The far side's handle on the progress of one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Id to which stream blocks are attached.
    pub id: String,
    /// Whether the far side wants stream blocks.
    #[serde(default)]
    pub streamable: bool,
}

/// A message that the quoting one answers to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// The quoted message is gone.
    #[serde(default)]
    pub deleted: bool,
    /// Display name of its sender, else the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Beginning of its text; untrusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<String>,
}

/// One element of a message: what one sender wrote at once.
///
/// A message that was merged from several has one entry for each, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Id under which the channel delivered it.
    pub id: String,
    /// Id to which replies and reactions refer, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msg_id: Option<String>,
    /// The channel's id of the sender.
    pub sender_id: String,
    /// How the sender is shown to the agent (not yet sanitised).
    pub sender_label: String,
    /// Person, agent or system.
    pub sender_kind: SenderKind,
    /// What was written.
    pub text: String,
    /// Whether it addresses the agent.
    #[serde(default)]
    pub mentioned: bool,
    /// The wire's type of it, such as `contact_request`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope_type: Option<String>,
    /// What it quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<Quote>,
}

/// What kind of place a message comes from, as far as trust and prompts depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Any room or chat.
    #[default]
    Room,
    /// The private chat of the agent's owner: full authority.
    OwnerChat,
    /// A scheduled wake-up.
    Schedule,
}

/// What a channel knows about the room of a message; all of it untrusted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoomFacts {
    /// Room id where it differs from the conversation's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Room name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Number of members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_count: Option<u64>,
    /// Some of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub member_names: Vec<String>,
    /// The agent's role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub my_role: Option<String>,
    /// Whether the agent may post.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub can_send: Option<bool>,
    /// The room's rule for agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Title of the topic that the message belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// What the far side says about how the message was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_note: Option<String>,
}

/// The schedule that woke the agent; only fields that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleFacts {
    /// Schedule id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<String>,
    /// When it was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<String>,
    /// When it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatched_at: Option<String>,
    /// Run id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
}

/// Limits of one run; `None` means the engine's own limit holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// Wall time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_wall_time_ms: Option<u64>,
    /// Number of tool calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tool_calls: Option<u64>,
}

/// A run that the hub ordered and accounts for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloudRun {
    /// Run id; without it nothing can be settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Its limits.
    #[serde(default)]
    pub budget: Budget,
    /// Whether usage is to be reported at the end (default true).
    #[serde(default = "yes")]
    pub settle_usage: bool,
}

fn yes() -> bool {
    true
}

/// How far the sender of a message is trusted by the route that carries it, most trust first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrustLevel {
    /// The agent's owner.
    Owner,
    /// A known party.
    #[default]
    Trusted,
    /// Anybody.
    Public,
}

/// What a local message may choose for itself, in place of the route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overrides {
    /// Runtime id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,
    /// Start a fresh session: forget the stored one before the turn.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
    /// Give up the turn after so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// No more trust than this, whatever the route says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<TrustLevel>,
    /// The turn of another agent in which it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<String>,
}

/// What an attachment is shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachmentKind {
    /// A picture.
    Image,
    /// A film.
    Video,
    /// Anything else.
    File,
}

/// A file that belongs to a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Where it lies on this machine.
    pub file_path: PathBuf,
    /// The name it is shown under.
    pub filename: String,
    /// Media type, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// What it is shown as.
    pub kind: AttachmentKind,
    /// The token in the reply's text that named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_path: Option<String>,
}

/// A message on its way to an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inbound {
    /// The channel's id of the message; with `channel`, its identity for recognising repeats.
    pub id: String,
    /// Id of the channel it came through.
    pub channel: String,
    /// The agent it is for.
    pub account_id: String,
    /// Where it was said.
    pub conversation: Conversation,
    /// Who said it (of a merged message: the last).
    pub sender: Sender,
    /// What was said.
    #[serde(default)]
    pub text: String,
    /// The message that a reply has to name, where the channel says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Id to which replies refer when `reply_to` is not given and it differs from `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msg_id: Option<String>,
    /// Whether it addresses the agent.
    #[serde(default)]
    pub mentioned: bool,
    /// When it was received.
    pub received_at: i64,
    /// The far side's handle on progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// What it consists of, oldest first. Two or more make it a batch; a single message may leave it empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<Entry>,
    /// How many older entries were left out of the batch for its size.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: usize,
    /// Kind of place.
    #[serde(default)]
    pub origin: Origin,
    /// What it quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<Quote>,
    /// The wire's type of it, such as `contact_request`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope_type: Option<String>,
    /// What is known about the room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<RoomFacts>,
    /// The schedule behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleFacts>,
    /// The cloud run behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_run: Option<CloudRun>,
    /// It has media and no words of its author: it waits for the next text.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub media_only: bool,
    /// Files that came with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// What it chooses in place of the route (local messages only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Overrides>,
    /// How many agents of this machine have written to each other until this message was written; 0: a person or a
    /// far side wrote it.
    #[serde(default, skip_serializing_if = "is_none")]
    pub hops: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_none(n: &u32) -> bool {
    *n == 0
}

impl Inbound {
    /// `<channel>:<account>:<conversation>:<thread or empty>`, nothing escaped: the ordering domain of turns.
    pub fn queue_key(&self) -> String {
        format!("{}:{}:{}:{}", self.channel, self.account_id, self.conversation.id, self.conversation.thread())
    }

    /// `<account>:<conversation>:<thread or empty>`: the key under which loops are watched.
    pub fn loop_key(&self) -> String {
        format!("{}:{}:{}", self.account_id, self.conversation.id, self.conversation.thread())
    }

    /// Key of the runtime session of this conversation: `<runtime>:<channel>:<account>:<kind>:<conversation>`
    /// and `:<thread>` where there is one.
    pub fn session_key(&self, runtime: &str) -> String {
        let mut key = format!(
            "{runtime}:{}:{}:{}:{}",
            self.channel,
            self.account_id,
            self.conversation.kind.as_str(),
            self.conversation.id
        );
        if let Some(thread) = &self.conversation.thread_id {
            key.push(':');
            key.push_str(thread);
        }
        key
    }

    /// The message that a reply names: `reply_to`, else the envelope's id, else the id.
    pub fn reply_target(&self) -> &str {
        let given = |s: &&String| !s.is_empty();
        self.reply_to.as_ref().filter(given).or(self.msg_id.as_ref().filter(given)).unwrap_or(&self.id)
    }

    /// Title of the topic that it belongs to, where that is known.
    pub fn topic(&self) -> Option<&str> {
        self.room.as_ref()?.topic.as_deref()
    }

    /// Whether this is the owner's private chat.
    pub fn is_owner_chat(&self) -> bool {
        self.origin == Origin::OwnerChat || self.conversation.id.starts_with("rm_oc_")
    }

    /// Whether the far side wants stream blocks of this message's turn.
    pub fn streamable(&self) -> bool {
        self.trace.as_ref().is_some_and(|t| t.streamable)
    }

    /// Ids of everything in it, oldest first, for acknowledging.
    pub fn ids(&self) -> Vec<String> {
        if self.entries.is_empty() {
            vec![self.id.clone()]
        } else {
            self.entries.iter().map(|e| e.id.clone()).collect()
        }
    }
}
