//! What a room is told outside of any turn: that a message waits, was given up, or cannot be taken.

use std::sync::{Arc, PoisonError};

use super::core::Core;
use super::outbox::{self, Item};
use super::ports::Settled;
use super::{Acceptance, Phase};
use crate::message::{Inbound, Outbound, OutboundKind};
use crate::thread;

/// Conversations that are remembered as told that they are full; further ones are not told.
const FULL: usize = 1_000;

/// What a room is told when the journal takes nothing: its reasons are not for everybody.
pub(super) const UNSTORED: &str = "this machine cannot store them";

/// Where a notice goes: what is needed of the message that it is about.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: String,
    channel: String,
    account: String,
    conversation: String,
    thread: Option<String>,
    topic: Option<String>,
    reply_to: String,
    trace: Option<String>,
}

impl From<&Inbound> for Place {
    fn from(message: &Inbound) -> Self {
        Self {
            key: message.queue_key(),
            channel: message.channel.clone(),
            account: message.account_id.clone(),
            conversation: message.conversation.id.clone(),
            thread: message.conversation.thread_id.clone(),
            topic: message.topic().map(str::to_owned),
            reply_to: message.reply_target().to_owned(),
            trace: message.trace.as_ref().map(|t| t.id.clone()),
        }
    }
}

impl Place {
    /// A diagnostic for the room. The id keeps a repeated attempt to send it recognisable.
    pub(super) fn diagnostic(&self, id: String, text: String) -> Outbound {
        Outbound {
            turn_id: id.clone(),
            id,
            channel: self.channel.clone(),
            account_id: self.account.clone(),
            conversation_id: self.conversation.clone(),
            thread_id: self.thread.clone(),
            topic: self.topic.clone(),
            kind: OutboundKind::Error,
            text,
            error_ref: None,
            attachments: Vec::new(),
            reply_to: Some(self.reply_to.clone()),
            trace_id: self.trace.clone(),
            by_tool: false,
            mentions: Vec::new(),
        }
    }
}

/// Tells a room something that no message hangs on. Returns at once.
pub(super) fn tell(core: &Arc<Core>, place: &Place, id: String, text: String) {
    let item = Item {
        out: place.diagnostic(id, text),
        entries: Vec::new(),
        settled: Settled::new(Vec::new(), "notice", []),
        record: None,
        attempts: 0,
        uncertain: false,
    };
    post_later(core, item);
}

/// Posts on a thread of its own: a slow channel must not hold up whoever noticed.
pub(super) fn post_later(core: &Arc<Core>, item: Item) {
    let again = Arc::clone(core);
    let spawned = thread::spawn("notice", move || outbox::post(&again, item));
    if let Err(e) = spawned {
        log::error!("notice.thread_failed error={e}");
    }
}

/// A message was not taken. Its room is told so once, in the words of `public`, until one is taken again; where
/// a person waits at the channel, the answer to the request says it, every time. `why` may name files.
pub(super) fn refused(core: &Arc<Core>, place: &Place, why: String, public: &str) -> Acceptance {
    let waited_at = core.channel(&place.channel).is_none_or(|c| c.is_waited_at());
    let news = || {
        let mut full = core.full.lock().unwrap_or_else(PoisonError::into_inner);
        full.len() < FULL && full.insert(place.key.clone())
    };
    if !waited_at && core.lock().phase == Phase::Running && news() {
        log::warn!("inbound.refused queue={} why={why:?}", place.key);
        let text =
            format!("⚠️ No more messages are taken here for now: {public}. They are taken up once there is room.");
        tell(core, place, format!("full_{}", super::keys::uuid_v4()), text);
    }
    Acceptance::Refused(why)
}

/// A message was taken: the next refusal is news again.
pub(super) fn accepted(core: &Core, message: &Inbound) {
    core.saw(&message.channel, |a| a.inbound = Some(super::now_ms()));
    let mut full = core.full.lock().unwrap_or_else(PoisonError::into_inner);
    if !full.is_empty() {
        full.remove(&message.queue_key());
    }
}
