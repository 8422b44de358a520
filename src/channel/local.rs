//! The local channel: a person at this machine's terminal, or a script, through the control socket.
//!
//! Its replies need no delivery of their own: whoever asked follows the turn and reads the reply from its
//! end, and the transcript keeps it. So sending succeeds at once, and nothing is ever repeated.

use std::path::PathBuf;

use crate::engine::ports::{Capabilities, Channel, Delivery};
use crate::message::{
    Attachment, AttachmentKind, Conversation, ConversationKind, Inbound, Origin, Outbound, Overrides, Sender,
    SenderKind,
};

/// Id and type of the channel.
pub const ID: &str = "local";
/// The agent that answers when none is named.
pub const DEFAULT_AGENT: &str = "local";

/// The channel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Local;

impl Channel for Local {
    fn id(&self) -> &str {
        ID
    }

    fn kind(&self) -> &str {
        ID
    }

    /// Every message gets a reply of its own, so waiting ones are not merged.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn is_waited_at(&self) -> bool {
        true
    }

    fn send(&self, message: &Outbound) -> Delivery {
        Delivery::Delivered { id: Some(message.id.clone()) }
    }
}

/// What a person at the terminal says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Message id.
    pub id: String,
    /// Agent.
    pub agent: String,
    /// Conversation id.
    pub conversation: String,
    /// The words.
    pub text: String,
    /// Files, absolute.
    pub files: Vec<PathBuf>,
    /// What it chooses in place of the route.
    pub overrides: Overrides,
    /// The agent that says it, where it is not the owner.
    pub asking: Option<String>,
    /// How many agents have written to each other until this was said.
    pub hops: u32,
}

/// The message that the engine gets. A person is the owner: it is their machine and their account. An agent is any
/// agent, whoever owns it.
pub fn inbound(said: Said, now: i64) -> Inbound {
    let (sender, origin) = match said.asking {
        None => (Sender { id: "owner".into(), name: None, kind: SenderKind::User }, Origin::OwnerChat),
        Some(agent) => (Sender { id: agent, name: None, kind: SenderKind::Agent }, Origin::Room),
    };
    Inbound {
        id: said.id,
        channel: ID.into(),
        account_id: said.agent,
        conversation: Conversation {
            id: said.conversation,
            kind: ConversationKind::Direct,
            title: None,
            thread_id: None,
        },
        sender,
        text: said.text,
        reply_to: None,
        msg_id: None,
        mentioned: true,
        received_at: now,
        trace: None,
        entries: Vec::new(),
        omitted: 0,
        hops: said.hops,
        origin,
        quote: None,
        envelope_type: None,
        room: None,
        schedule: None,
        cloud_run: None,
        media_only: false,
        attachments: said.files.into_iter().map(attachment).collect(),
        overrides: (said.overrides != Overrides::default()).then_some(said.overrides),
    }
}

fn attachment(path: PathBuf) -> Attachment {
    let filename = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let image = ["avif", "bmp", "gif", "jpeg", "jpg", "png", "svg", "webp"].contains(&extension.as_str());
    Attachment {
        file_path: path,
        filename,
        content_type: None,
        kind: if image { AttachmentKind::Image } else { AttachmentKind::File },
        source_path: None,
    }
}
