//! What speaking asks of a hub, so that it can be tried without one. [`Api`] does it.
//!
//! Every call waits for the network, within its own time limits.

use std::io::Write;

use serde_json::Value;

use super::api::{Api, RoomQuery, Source};
use super::envelope::Draft;
use super::error::{ApiError, Refusal};
use super::wire::{AttentionPolicy, Download, Room, RoomMessages, SendAnswer, SentState, Upload};

/// A hub, for one agent that speaks. See [`Api`] for what each call does.
#[allow(missing_docs, reason = "each is the method of `Api` of the same name")]
pub trait Far: Send + Sync {
    fn agent(&self) -> &str;
    fn send(&self, draft: &Draft<'_>) -> Result<SendAnswer, ApiError>;
    fn message_status(&self, msg_id: &str) -> Result<Option<SentState>, ApiError>;
    fn adopt_clock(&self, refusal: &Refusal) -> bool;
    fn upload(&self, from: &mut dyn Source, size: u64, name: &str, kind: &str) -> Result<Upload, ApiError>;
    fn may_download(&self, address: &str) -> bool;
    fn download(&self, address: &str, limit: u64, into: &mut dyn Write) -> Result<Download, ApiError>;
    fn stream_block(&self, trace_id: &str, seq: u64, block: Value) -> Result<(), ApiError>;
    fn stream_end(&self, trace_id: &str) -> Result<(), ApiError>;
    fn typing(&self, room_id: &str) -> Result<(), ApiError>;
    fn set_replying(&self, msg_id: &str, room_id: &str, turn_id: &str, emoji: &str) -> Result<(), ApiError>;
    fn clear_replying(&self, msg_id: &str, room_id: &str, turn_id: &str) -> Result<(), ApiError>;
    fn room(&self, room_id: &str) -> Result<Room, ApiError>;
    fn room_messages(&self, room_id: &str, query: RoomQuery<'_>) -> Result<RoomMessages, ApiError>;
    fn attention_policy(&self, room_id: Option<&str>) -> Result<AttentionPolicy, ApiError>;
    fn notify_owner(&self, text: &str) -> Result<(), ApiError>;
    fn public_key(&self, agent_id: &str, key_id: &str) -> Result<String, ApiError>;
}

impl Far for Api {
    fn agent(&self) -> &str {
        Self::agent(self)
    }

    fn send(&self, draft: &Draft<'_>) -> Result<SendAnswer, ApiError> {
        Self::send(self, draft)
    }

    fn message_status(&self, msg_id: &str) -> Result<Option<SentState>, ApiError> {
        Self::message_status(self, msg_id)
    }

    fn adopt_clock(&self, refusal: &Refusal) -> bool {
        Self::adopt_clock(self, refusal)
    }

    fn upload(&self, from: &mut dyn Source, size: u64, name: &str, kind: &str) -> Result<Upload, ApiError> {
        Self::upload(self, from, size, name, kind)
    }

    fn may_download(&self, address: &str) -> bool {
        Self::may_download(self, address)
    }

    fn download(&self, address: &str, limit: u64, into: &mut dyn Write) -> Result<Download, ApiError> {
        Self::download(self, address, limit, into)
    }

    fn stream_block(&self, trace_id: &str, seq: u64, block: Value) -> Result<(), ApiError> {
        Self::stream_block(self, trace_id, seq, block)
    }

    fn stream_end(&self, trace_id: &str) -> Result<(), ApiError> {
        Self::stream_end(self, trace_id)
    }

    fn typing(&self, room_id: &str) -> Result<(), ApiError> {
        Self::typing(self, room_id)
    }

    fn set_replying(&self, msg_id: &str, room_id: &str, turn_id: &str, emoji: &str) -> Result<(), ApiError> {
        Self::set_replying(self, msg_id, room_id, turn_id, emoji)
    }

    fn clear_replying(&self, msg_id: &str, room_id: &str, turn_id: &str) -> Result<(), ApiError> {
        Self::clear_replying(self, msg_id, room_id, turn_id)
    }

    fn room(&self, room_id: &str) -> Result<Room, ApiError> {
        Self::room(self, room_id)
    }

    fn room_messages(&self, room_id: &str, query: RoomQuery<'_>) -> Result<RoomMessages, ApiError> {
        Self::room_messages(self, room_id, query)
    }

    fn attention_policy(&self, room_id: Option<&str>) -> Result<AttentionPolicy, ApiError> {
        Self::attention_policy(self, room_id)
    }

    fn notify_owner(&self, text: &str) -> Result<(), ApiError> {
        Self::notify_owner(self, text)
    }

    fn public_key(&self, agent_id: &str, key_id: &str) -> Result<String, ApiError> {
        Self::public_key(self, agent_id, key_id)
    }
}
