//! A hub for unit tests: answers come from a script, calls are written down.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Mutex;

use serde_json::Value;

use super::api::{RoomQuery, Source};
use super::envelope::Draft;
use super::error::{ApiError, Refusal};
use super::far::Far;
use super::wire::{AttentionPolicy, Download, Room, RoomMessages, SendAnswer, SentState, Upload};
use crate::message::{Outbound, OutboundKind};

/// What the next call answers: `None` that all is well, for a status that the message is there.
pub type Scripted = Option<ApiError>;

#[derive(Default)]
pub struct FakeHub {
    /// For sends, statuses, uploads, stream ends, rooms; well once it is empty.
    pub script: Mutex<VecDeque<Scripted>>,
    pub calls: Mutex<Vec<String>>,
    pub sent: Mutex<Vec<Value>>,
    /// Of every agent.
    pub public_key: Mutex<String>,
}

impl FakeHub {
    pub fn answering(script: impl IntoIterator<Item = Scripted>) -> Self {
        Self { script: Mutex::new(script.into_iter().collect()), ..Self::default() }
    }

    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn next(&self, call: String) -> Result<(), ApiError> {
        self.calls.lock().unwrap().push(call);
        self.script.lock().unwrap().pop_front().flatten().map_or(Ok(()), Err)
    }
}

pub fn refused(status: u16, code: &str) -> ApiError {
    ApiError::Refused(Box::new(Refusal { status, code: Some(code.to_owned()), ..Refusal::default() }))
}

/// A message in a group room.
pub fn out(text: &str) -> Outbound {
    Outbound {
        id: "out_1".into(),
        channel: "ag_1".into(),
        account_id: "ag_1".into(),
        conversation_id: "rm_1".into(),
        thread_id: None,
        topic: None,
        kind: OutboundKind::Message,
        text: text.into(),
        error_ref: None,
        attachments: Vec::new(),
        reply_to: Some("m_0".into()),
        trace_id: Some("h_0".into()),
        turn_id: "1".into(),
        by_tool: false,
        mentions: Vec::new(),
    }
}

impl Far for FakeHub {
    #[expect(clippy::unnecessary_literal_bound, reason = "the signature of the trait")]
    fn agent(&self) -> &str {
        "ag_1"
    }

    fn send(&self, draft: &Draft<'_>) -> Result<SendAnswer, ApiError> {
        self.sent.lock().unwrap().push(draft.payload.clone());
        let quote = draft.reply_to.map(|r| format!(" re {r}")).unwrap_or_default();
        self.next(format!("send {}{quote}", draft.kind))?;
        Ok(SendAnswer { hub_msg_id: Some("h_9".into()), topic_id: None })
    }

    fn message_status(&self, _: &str) -> Result<Option<SentState>, ApiError> {
        match self.next("status".into()) {
            Ok(()) => Ok(Some(SentState::default())),
            Err(e) if e.is("message_not_found") => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn adopt_clock(&self, refusal: &Refusal) -> bool {
        self.calls.lock().unwrap().push("clock".into());
        refusal.date.is_some()
    }

    fn upload(&self, from: &mut dyn Source, size: u64, name: &str, kind: &str) -> Result<Upload, ApiError> {
        let mut content = String::new();
        from.read_to_string(&mut content).unwrap();
        assert_eq!(content.len() as u64, size);
        self.next(format!("upload {name} {kind} {}", content.len()))?;
        Ok(Upload { url: format!("https://h/{name}"), original_filename: name.into(), ..Upload::default() })
    }

    fn may_download(&self, address: &str) -> bool {
        address.starts_with("https://h/hub/files/f_")
    }

    fn download(&self, address: &str, _: u64, into: &mut dyn Write) -> Result<Download, ApiError> {
        self.next(format!("download {address}"))?;
        into.write_all(b"file").unwrap();
        Ok(Download { size: 4, content_type: Some("image/png".into()) })
    }

    fn stream_block(&self, trace_id: &str, seq: u64, block: Value) -> Result<(), ApiError> {
        self.next(format!("block {trace_id} {seq} {block}"))
    }

    fn stream_end(&self, trace_id: &str) -> Result<(), ApiError> {
        self.next(format!("end {trace_id}"))
    }

    fn typing(&self, room_id: &str) -> Result<(), ApiError> {
        self.next(format!("typing {room_id}"))
    }

    fn set_replying(&self, msg_id: &str, room_id: &str, turn_id: &str, emoji: &str) -> Result<(), ApiError> {
        self.next(format!("set {msg_id} {room_id} {turn_id} {emoji}"))
    }

    fn clear_replying(&self, msg_id: &str, room_id: &str, turn_id: &str) -> Result<(), ApiError> {
        self.next(format!("clear {msg_id} {room_id} {turn_id}"))
    }

    fn room(&self, room_id: &str) -> Result<Room, ApiError> {
        self.next(format!("room {room_id}"))?;
        Ok(Room { room_id: room_id.into(), name: Some("Lab".into()), ..Room::default() })
    }

    fn room_messages(&self, room_id: &str, query: RoomQuery<'_>) -> Result<RoomMessages, ApiError> {
        self.next(format!("messages {room_id} {:?}", query.topic_id))?;
        Ok(RoomMessages::default())
    }

    fn attention_policy(&self, room_id: Option<&str>) -> Result<AttentionPolicy, ApiError> {
        self.next(format!("policy {room_id:?}"))?;
        Ok(AttentionPolicy { mode: "muted".into(), ..AttentionPolicy::default() })
    }

    fn notify_owner(&self, text: &str) -> Result<(), ApiError> {
        self.next(format!("notify {text}"))
    }

    fn public_key(&self, agent_id: &str, key_id: &str) -> Result<String, ApiError> {
        self.next(format!("key {agent_id} {key_id}"))?;
        Ok(self.public_key.lock().unwrap().clone())
    }
}
