//! Live signs of a turn: that the agent types, what it does, and which message it is working on (the hub's protocol,
//! §14). All of it is best effort; the engine asks in order, from one thread per turn.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::block_size;
use super::far::Far;
use super::stream_block;
use super::typing_budget::TypingBudget;
use crate::engine::ports::{MessageStatus, StreamBlock, StreamPace};
use crate::message::Inbound;

/// How a hub wants blocks: it takes 200 of a message, and a person reads no faster than this.
pub const PACE: StreamPace =
    StreamPace { gather: Duration::from_millis(250), gather_bytes: 2 << 10, queue: 64, most: 200, reserve: 11 };
/// The longest id of a message that a hub takes blocks for, in bytes.
const TRACE: usize = 48;
/// What a message that is being answered is marked with.
const EMOJI: &str = "⏳";

/// Shows the live signs of one agent.
pub struct Live {
    far: Arc<dyn Far>,
    began: Instant,
    typing: Mutex<TypingBudget>,
}

impl Live {
    /// Nothing is shown yet.
    pub fn new(far: Arc<dyn Far>) -> Self {
        Self { far, began: Instant::now(), typing: Mutex::default() }
    }

    /// Shows that the agent types, if the budget of all its rooms allows it.
    pub fn typing(&self, message: &Inbound) -> Result<(), String> {
        let room = &message.conversation.id;
        let now = self.began.elapsed().as_millis() as i64;
        let mut budget = self.typing.lock().unwrap_or_else(PoisonError::into_inner);
        let may = budget.take(room, message.received_at, now);
        drop(budget);
        if may { self.far.typing(room).map_err(|e| e.to_string()) } else { Ok(()) }
    }

    /// Shows a block.
    pub fn block(&self, block: &StreamBlock) -> Result<(), String> {
        if block.trace_id.is_empty() || block.trace_id.len() > TRACE {
            return Err("a message without an id that blocks can be shown for".into());
        }
        let shown = stream_block::shown(block.kind, &block.raw, &block.digest);
        let sent = block_size::fit(shown.kind, block.seq, shown.payload);
        self.far.stream_block(&block.trace_id, block.seq, sent).map_err(|e| e.to_string())
    }

    /// Marks the message that is being answered, or takes the mark off. A mark that stays goes by itself after half an
    /// hour.
    pub fn message_status(&self, status: &MessageStatus) -> Result<(), String> {
        let MessageStatus { message_id, conversation_id: room, turn_id, .. } = status;
        let done = if status.started {
            self.far.set_replying(message_id, room, turn_id, EMOJI)
        } else {
            self.far.clear_replying(message_id, room, turn_id)
        };
        done.map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fake::FakeHub;
    use super::*;
    use crate::message::{BlockKind, Digest};

    fn block(kind: BlockKind, raw: serde_json::Value, digest: Digest) -> StreamBlock {
        StreamBlock {
            trace_id: "h_1".into(),
            turn_id: "t".into(),
            account_id: "ag_1".into(),
            conversation_id: "rm_oc_1".into(),
            seq: 3,
            kind,
            raw,
            digest,
        }
    }

    #[test]
    fn a_block_is_shown_without_its_event_and_without_secrets() {
        let hub = Arc::new(FakeHub::default());
        let live = Live::new(Arc::clone(&hub) as Arc<dyn Far>);
        let raw = json!({"message": {"content": [{"type": "tool_use", "name": "Bash", "id": "t",
            "input": {"command": "curl -H 'Authorization: Bearer abcdef123456'"}}]}, "cwd": "/home/x"});
        live.block(&block(BlockKind::ToolUse, raw, Digest::default())).unwrap();
        let words = Digest { text: Some("one two".into()), ..Digest::default() };
        live.block(&block(BlockKind::AssistantText, json!({"text": "one"}), words)).unwrap();
        let calls = hub.calls();
        assert!(
            calls[0].starts_with(r#"block h_1 3 {"kind":"tool_call","seq":3,"payload":{"name":"Bash""#),
            "{calls:?}"
        );
        assert!(!calls[0].contains("abcdef") && !calls[0].contains("/home/x"), "{calls:?}");
        assert_eq!(calls[1], r#"block h_1 3 {"kind":"assistant","seq":3,"payload":{"text":"one two"}}"#);
    }

    #[test]
    fn an_event_of_an_unknown_form_is_shown_as_its_adapter_sees_it() {
        let hub = Arc::new(FakeHub::default());
        let live = Live::new(Arc::clone(&hub) as Arc<dyn Far>);
        let digest = Digest { tool: Some("edit".into()), summary: Some("a.rs".into()), ..Digest::default() };
        live.block(&block(BlockKind::ToolUse, json!({"x": 1}), digest.clone())).unwrap();
        live.block(&block(BlockKind::ToolResult, json!({"x": 1}), digest)).unwrap();
        let payload = |call: &str| call.split_once("payload\":").unwrap().1.to_owned();
        let calls = hub.calls();
        assert_eq!(payload(&calls[0]), r#"{"name":"edit","params":{"summary":"a.rs"}}}"#);
        assert_eq!(payload(&calls[1]), r#"{"name":"edit","result":"a.rs"}}"#);
        let mut nameless = block(BlockKind::Other, json!({}), Digest::default());
        nameless.trace_id = "x".repeat(TRACE + 1);
        assert!(live.block(&nameless).is_err() && hub.calls().len() == 2);
    }

    #[test]
    fn a_mark_is_put_on_and_taken_off_by_its_turn() {
        let hub = Arc::new(FakeHub::default());
        let live = Live::new(Arc::clone(&hub) as Arc<dyn Far>);
        let status = |started| MessageStatus {
            trace_id: None,
            account_id: "ag_1".into(),
            conversation_id: "rm_1".into(),
            message_id: "m_1".into(),
            turn_id: "t".into(),
            started,
        };
        live.message_status(&status(true)).unwrap();
        live.message_status(&status(false)).unwrap();
        assert_eq!(hub.calls(), ["set m_1 rm_1 t ⏳", "clear m_1 rm_1 t"]);
    }
}
