//! Who speaks and in what kind of place, as far as trust and the wording of a prompt depend on it.

use crate::message::{ConversationKind, Inbound, Origin, SenderKind};

/// What a sender is to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// Its owner: full authority, text passed on as it is.
    Owner,
    /// Another person.
    Human,
    /// Another agent, or the hub.
    Agent,
}

impl Party {
    /// The word used in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Human => "human",
            Self::Agent => "agent",
        }
    }

    /// The party behind a sender kind, where it is not the owner.
    pub fn of(kind: SenderKind) -> Self {
        if kind == SenderKind::User { Self::Human } else { Self::Agent }
    }
}

/// The sender of a message and the label under which it is shown (not yet sanitised).
///
/// People are shown by name; agents by id, since an agent chooses its name itself.
pub fn classify(message: &Inbound) -> (Party, &str) {
    let sender = &message.sender;
    let name = sender.name.as_deref().filter(|n| !n.is_empty());
    let id = Some(sender.id.as_str()).filter(|i| !i.is_empty());
    if message.is_owner_chat() {
        return (Party::Owner, name.or(id).unwrap_or("owner"));
    }
    match Party::of(sender.kind) {
        Party::Human => (Party::Human, name.or(id).unwrap_or("user")),
        party => (party, id.unwrap_or("unknown")),
    }
}

/// The kind of room, as the agent is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomType {
    /// The owner's chat.
    OwnerDm,
    /// Wake-ups by schedule.
    Scheduler,
    /// A group.
    TeamRoom,
    /// A two-party room of the hub.
    UserDm,
    /// Anything else with two parties.
    Other,
}

impl RoomType {
    /// The word that the agent is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OwnerDm => "owner_dm",
            Self::Scheduler => "scheduler",
            Self::TeamRoom => "team_room",
            Self::UserDm => "user_dm",
            Self::Other => "cross_room_or_external",
        }
    }
}

/// The kind of room that a message comes from.
pub fn room_type(message: &Inbound) -> RoomType {
    if message.is_owner_chat() {
        RoomType::OwnerDm
    } else if message.origin == Origin::Schedule {
        RoomType::Scheduler
    } else if is_group(message) {
        RoomType::TeamRoom
    } else if message.conversation.id.starts_with("rm_dm_") {
        RoomType::UserDm
    } else {
        RoomType::Other
    }
}

/// Whether the agent is told that it works on a machine which the others in the room cannot see.
pub fn has_environment_block(message: &Inbound) -> bool {
    is_group(message) && !message.is_owner_chat()
}

/// Whether the hub knows members and purpose of the room: its own groups only.
pub fn has_room_context(message: &Inbound) -> bool {
    let id = &message.conversation.id;
    is_group(message) && id.starts_with("rm_") && !id.starts_with("rm_dm_") && !id.starts_with("rm_oc_")
}

/// Whether the conversation belongs to a chat provider rather than to the hub.
pub fn is_third_party(message: &Inbound) -> bool {
    ["telegram:", "wechat:", "feishu:"].iter().any(|prefix| message.conversation.id.starts_with(prefix))
}

fn is_group(message: &Inbound) -> bool {
    message.conversation.kind == ConversationKind::Group
}
