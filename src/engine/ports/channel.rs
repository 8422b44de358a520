//! What the engine asks of a channel.

use std::time::Duration;

use super::RoomTools;
use crate::engine::policy::PolicySource;
pub use crate::engine::stream::StreamPace;
use crate::message::{BlockKind, Digest, Inbound, Outbound};

/// What a channel can do beyond sending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// It shows that the agent is typing.
    pub typing: bool,
    /// It shows stream blocks.
    pub blocks: bool,
    /// It shows a reaction on the message being answered.
    pub message_status: bool,
    /// Messages of one conversation that wait may become one turn.
    pub coalesce: bool,
    /// The text of a turn is only sent in owner chats; elsewhere the agent speaks by tool (BotCord rooms).
    pub gated: bool,
}

/// What became of one attempt to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The far side has it, under this id where it says so.
    Delivered {
        /// The far side's id of the message.
        id: Option<String>,
    },
    /// The far side does not have it; worth another try.
    Transient {
        /// After this time, where the far side says so: an attempt that was merely put off does not count.
        after: Option<Duration>,
        /// For the log.
        why: String,
    },
    /// It is unknown whether the far side has it; [`Channel::resolve`] may tell.
    Uncertain {
        /// For the log.
        why: String,
    },
    /// Never going to work.
    Permanent {
        /// For the log.
        why: String,
    },
}

/// One block for the far side, numbered per turn.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamBlock {
    /// Handle on the message whose progress this is.
    pub trace_id: String,
    /// The turn.
    pub turn_id: String,
    /// Agent.
    pub account_id: String,
    /// Where.
    pub conversation_id: String,
    /// From 1 per turn over everything forwarded, synthetic markers included.
    pub seq: u64,
    /// What it is.
    pub kind: BlockKind,
    /// The runtime's event, or the marker's `{phase, source, label?}`; of words that were put together the first one.
    pub raw: serde_json::Value,
    /// What the adapter makes of it, with the words of all that was put together.
    pub digest: Digest,
}

/// A reaction on a message, put on before the run and taken off after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageStatus {
    /// Handle on progress.
    pub trace_id: Option<String>,
    /// Agent.
    pub account_id: String,
    /// Where.
    pub conversation_id: String,
    /// The message that is answered.
    pub message_id: String,
    /// The turn.
    pub turn_id: String,
    /// Put on (`started`) or taken off (`cleared`).
    pub started: bool,
}

/// How a message ended for its channel: time to acknowledge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The channel's ids.
    pub ids: Vec<String>,
    /// The journal's reason: `delivered`, `gated`, `no_reply`, `empty`, `error`, `timeout`, `budget`,
    /// `cancelled`, `skipped:<why>`.
    pub why: String,
    /// Those whose progress the far side follows, for [`Channel::stream_end`].
    pub streams: Vec<String>,
}

impl Settled {
    /// The end of these messages. Each of what a message consists of has a stream of its own.
    pub fn new<'m>(ids: Vec<String>, why: &str, messages: impl IntoIterator<Item = &'m Inbound>) -> Self {
        let streams = messages.into_iter().filter(|m| m.streamable()).flat_map(Inbound::ids).collect();
        Self { ids, why: why.to_owned(), streams }
    }
}

/// Called once the far side knows, or never will.
pub type Told = Box<dyn FnOnce() + Send>;

/// A room as a channel knows it, for the prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomContext {
    /// Room id.
    pub id: String,
    /// Name.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Who can see it.
    pub visibility: Option<String>,
    /// Who can join it.
    pub join: Option<String>,
    /// Members: name and role.
    pub members: Vec<(String, Option<String>)>,
}

/// One earlier message of a room, for recovery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecentMessage {
    /// When, as the far side prints it.
    pub at: Option<String>,
    /// Who.
    pub from: Option<String>,
    /// The sender's id, by which an agent's own words are known.
    pub from_id: Option<String>,
    /// Topic title or id.
    pub topic: Option<String>,
    /// What.
    pub text: String,
}

/// A place that messages come from and replies go to.
///
/// Methods are called from turn threads and from the outbox; each has its own time limits and never
/// blocks for more than about 30 s.
pub trait Channel: Send + Sync {
    /// Id under which messages name it.
    fn id(&self) -> &str;

    /// Its type: `local`, `botcord`, `telegram`, …
    fn kind(&self) -> &str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Whether a person waits at it for each answer: an error at once then helps more than an answer in hours.
    fn is_waited_at(&self) -> bool {
        false
    }

    /// For how long replies that could not be sent are tried again before they are given up. `None`: as often as the
    /// engine's settings say.
    fn patience(&self) -> Option<Duration> {
        None
    }

    /// One attempt to send. The engine repeats it with the same [`Outbound::id`] as the answer says.
    fn send(&self, message: &Outbound) -> Delivery;

    /// Asks the far side about an [`Delivery::Uncertain`] attempt. [`Delivery::Transient`] means that it does not have
    /// the message: it is sent, at once or after the time given. The default cannot tell, and has it sent again.
    fn resolve(&self, message: &Outbound) -> Delivery {
        let _ = message;
        Delivery::Transient { after: None, why: "the far side cannot tell".into() }
    }

    /// Shows that the agent is typing.
    fn typing(&self, message: &Inbound) -> Result<(), String> {
        let _ = message;
        Ok(())
    }

    /// How blocks are wanted. Asked once per turn.
    fn stream_pace(&self) -> StreamPace {
        StreamPace::default()
    }

    /// Shows a block. Called in order of `seq`, from one thread per turn, and not after the turn's reply.
    fn block(&self, block: &StreamBlock) -> Result<(), String> {
        let _ = block;
        Ok(())
    }

    /// Puts a reaction on or takes it off.
    fn message_status(&self, status: &MessageStatus) -> Result<(), String> {
        let _ = status;
        Ok(())
    }

    /// No more blocks of these messages follow: their turn is over, and its reply out or given up. To be told twice does
    /// no harm; it is told again after a crash that comes before `told` is called. Returns at once.
    fn stream_end(&self, ids: &[String], told: Told) {
        let _ = ids;
        told();
    }

    /// The messages are terminal and the journal says so durably: acknowledge them upstream. Returns at once.
    fn settled(&self, settled: &Settled) {
        let _ = settled;
    }

    /// Where the policies of attention come from. A channel without them wakes the agent on every message.
    fn policies(&self) -> Option<&dyn PolicySource> {
        None
    }

    /// What the agents of this channel may ask about rooms while their turns run. Sending is not among it.
    fn room_tools(&self) -> Option<&dyn RoomTools> {
        None
    }

    /// What people call an agent of this channel, for finding out whether a text addresses it.
    fn display_name(&self, agent: &str) -> Option<String> {
        let _ = agent;
        None
    }

    /// Address of the hub through which an agent of this channel speaks, for its own tools.
    fn hub_url(&self, agent: &str) -> Option<String> {
        let _ = agent;
        None
    }

    /// What is known about the room, for the prompt.
    fn room_context(&self, message: &Inbound) -> Option<RoomContext> {
        let _ = message;
        None
    }

    /// The latest messages of the room, oldest first, for a session that starts anew. `None`: unavailable.
    fn recent_messages(&self, message: &Inbound) -> Option<Vec<RecentMessage>> {
        let _ = message;
        None
    }
}
