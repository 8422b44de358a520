//! Replies on their way to a chat: cut into pieces that Telegram takes, files behind them, one message each.
//!
//! The Bot API knows no repetition of a message, so what was sent is counted: an attempt that stops in the middle goes on
//! with the next part, also after a restart. Only a part whose answer got lost is sent twice.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value};

use super::access::{Access, is_private};
use super::api::{Api, ApiError, Part};
use super::state::Kept;
use super::update;
use crate::channel::attached;
use crate::engine::cancel::CancelToken;
use crate::engine::now_ms;
use crate::engine::ports::Delivery;
use crate::message::{Attachment, Inbound, Outbound};
use crate::text;

/// Longest text of a message, in UTF-16 units.
pub const TEXT_LIMIT: usize = 4_096;
/// Largest file, in bytes.
const FILE_BYTES: u64 = 50 << 20;
/// Largest picture that is shown as one, in bytes.
const PHOTO_BYTES: u64 = 10 << 20;
/// For a text to be taken.
const LIMIT: Duration = Duration::from_secs(25);
/// For a sign of life.
const LIVE_LIMIT: Duration = Duration::from_secs(10);

/// Speaks for one bot.
pub struct Sender {
    channel: String,
    api: Arc<Api>,
    kept: Arc<Kept>,
    access: Access,
    split_at: usize,
    stop: CancelToken,
    /// When something was sent last; 0: never.
    last: AtomicI64,
    /// No signs of life before this time, for Telegram wants none.
    quiet_until: AtomicI64,
}

impl Sender {
    /// `split_at`: longest piece, in UTF-16 units. Fails only when the process is out of descriptors.
    pub fn new(
        channel: &str,
        api: Arc<Api>,
        kept: Arc<Kept>,
        access: Access,
        split_at: usize,
    ) -> std::io::Result<Self> {
        let split_at = if split_at == 0 { TEXT_LIMIT } else { split_at.min(TEXT_LIMIT) };
        Ok(Self {
            channel: channel.to_owned(),
            api,
            kept,
            access,
            split_at,
            stop: CancelToken::new()?,
            last: AtomicI64::new(0),
            quiet_until: AtomicI64::new(0),
        })
    }

    /// Ends whatever is under way.
    pub fn stop(&self) {
        self.stop.cancel(crate::engine::cancel::CancelReason::Shutdown);
    }

    /// When something was sent last.
    pub fn last_at(&self) -> Option<i64> {
        Some(self.last.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// One attempt; it goes on where the one before stopped.
    pub fn send(&self, out: &Outbound) -> Delivery {
        let permanent = |why: &str| Delivery::Permanent { why: why.to_owned() };
        let Some(chat) = update::chat_of(&out.conversation_id) else { return permanent("it is no chat of Telegram") };
        if !self.access.speaks(chat) {
            return permanent("the chat is not among those that are allowed");
        }
        let pieces: Vec<String> = text::split(&out.text, self.split_at);
        // Telegram takes nothing that nobody can see.
        let pieces: Vec<&String> = pieces.iter().filter(|p| !text::trim(p).is_empty()).collect();
        let parts = pieces.len() + out.attachments.len();
        if parts == 0 {
            return permanent("there is nothing to send");
        }
        let mut first = None;
        let before = self.kept.look().sent(&out.id);
        for n in before..parts {
            let place = Place { chat, out, quotes: n == 0 };
            let sent = match pieces.get(n) {
                Some(piece) => self.send_text(&place, piece),
                None => self.send_file(&place, &out.attachments[n - pieces.len()]),
            };
            match sent {
                Ok(id) => first = first.or(id),
                Err(e) => return self.failure(out, n, parts, e),
            }
            self.last.store(now_ms(), Ordering::Relaxed);
            if parts > 1 {
                self.kept.change(|state| state.set_sent(&out.id, n + 1));
            }
        }
        self.kept.change(|state| state.set_sent(&out.id, 0));
        log::info!("telegram.delivered channel={} to={} parts={parts}", self.channel, out.conversation_id);
        Delivery::Delivered { id: first.map(|id| update::message_id(chat, id)) }
    }

    fn failure(&self, out: &Outbound, n: usize, parts: usize, error: ApiError) -> Delivery {
        let why = error.to_string();
        log::warn!(
            "telegram.send_failed channel={} to={} part={} of={parts} error={why:?}",
            self.channel,
            out.conversation_id,
            n + 1
        );
        match error {
            ApiError::Limited(after) => Delivery::Transient { after: Some(after), why },
            ApiError::Lost { sent: true, .. } => Delivery::Uncertain { why },
            // A token that is refused may be renewed; a person sees to that.
            ApiError::Lost { .. } | ApiError::Down(_) | ApiError::Token | ApiError::Conflict(_) | ApiError::Aborted => {
                Delivery::Transient { after: None, why }
            }
            ApiError::Refused { .. } => {
                self.kept.change(|state| state.set_sent(&out.id, 0));
                Delivery::Permanent { why }
            }
        }
    }

    fn send_text(&self, place: &Place<'_>, piece: &str) -> Result<Option<i64>, ApiError> {
        let mut params = place.params();
        params.insert("text".into(), piece.into());
        let sent = self.api.call("sendMessage", &params.into(), LIMIT, self.stop.as_fd())?;
        Ok(sent["message_id"].as_i64())
    }

    /// A file that cannot be read is left out: the words are more important. A picture that Telegram does not want as one
    /// goes as any other file.
    fn send_file(&self, place: &Place<'_>, attachment: &Attachment) -> Result<Option<i64>, ApiError> {
        let name = attached::local_name(&attachment.filename);
        let extension = name.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase()).unwrap_or_default();
        let mut kinds = match extension.as_str() {
            "jpg" | "jpeg" | "png" | "gif" | "webp" => vec![("sendPhoto", "photo")],
            "ogg" | "oga" | "opus" => vec![("sendVoice", "voice")],
            _ => Vec::new(),
        };
        kinds.push(("sendDocument", "document"));
        let mut last = ApiError::Aborted;
        for (method, field) in kinds {
            let (file, size) = match attached::open(&attachment.file_path, FILE_BYTES) {
                Ok(opened) => opened,
                Err(why) => {
                    log::warn!("telegram.file_left_out channel={} name={name:?} error={why:?}", self.channel);
                    return Ok(None);
                }
            };
            if field == "photo" && size > PHOTO_BYTES {
                continue;
            }
            let part = Part { field, filename: &name, file, size };
            match self.api.upload(method, &place.params(), part, self.stop.as_fd()) {
                Ok(sent) => return Ok(sent["message_id"].as_i64()),
                Err(e @ ApiError::Refused { code: 400 | 413, .. }) => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }

    /// Shows that the agent is typing.
    pub fn typing(&self, message: &Inbound) -> Result<(), String> {
        let Some(chat) = update::chat_of(&message.conversation.id) else { return Ok(()) };
        if now_ms() < self.quiet_until.load(Ordering::Relaxed) || self.stop.is_cancelled() {
            return Ok(());
        }
        let mut params = Map::new();
        params.insert("chat_id".into(), chat.into());
        params.insert("action".into(), "typing".into());
        if let Some(thread) = thread(message.conversation.thread_id.as_deref()) {
            params.insert("message_thread_id".into(), thread.into());
        }
        match self.api.call("sendChatAction", &params.into(), LIVE_LIMIT, self.stop.as_fd()) {
            Ok(_) | Err(ApiError::Aborted) => Ok(()),
            Err(ApiError::Limited(after)) => {
                self.quiet_until.store(now_ms() + after.as_millis() as i64, Ordering::Relaxed);
                Ok(())
            }
            Err(e) => Err(e.to_string()),
        }
    }
}

/// Where a part goes.
struct Place<'a> {
    chat: i64,
    out: &'a Outbound,
    quotes: bool,
}

impl Place<'_> {
    fn params(&self) -> Map<String, Value> {
        let mut params = Map::new();
        params.insert("chat_id".into(), self.chat.into());
        if let Some(thread) = thread(self.out.thread_id.as_deref()) {
            params.insert("message_thread_id".into(), thread.into());
        }
        // Between two everybody sees what is answered.
        let answered = self.out.reply_to.as_deref().filter(|_| self.quotes && !is_private(self.chat));
        if let Some(message) = answered.and_then(|id| self.message_of(id)) {
            let reply = serde_json::json!({"message_id": message, "allow_sending_without_reply": true});
            params.insert("reply_parameters".into(), reply);
        }
        params
    }

    /// The number of a message of this chat.
    fn message_of(&self, id: &str) -> Option<i64> {
        let (chat, message) = id.strip_prefix("telegram:")?.split_once(':')?;
        (chat.parse() == Ok(self.chat)).then(|| message.parse().ok())?
    }
}

fn thread(id: Option<&str>) -> Option<i64> {
    id?.parse().ok()
}
