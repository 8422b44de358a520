//! The records of a transcript: their fields, in their order, with texts cut and without secrets.

use serde::Serialize;
use serde_json::Value;

use super::failure::RuntimeFailure;
pub use super::parts::{BlockSummary, Delivery, DropReason, Sender, Trace, Truncated, TurnErrorPhase};
use crate::json;
use crate::message::{self, Inbound};
use crate::redact;

/// Longest text of a record, in UTF-16 units.
pub const TEXT_LIMIT: usize = 32_768;

/// Largest runtime event that is recorded raw, in bytes of its redacted JSON; a larger one is left out.
const RAW_LIMIT: usize = 262_144;

/// One line.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    ts: String,
    kind: &'static str,
    turn_id: String,
    agent_id: String,
    room_id: String,
    topic_id: Option<String>,
    #[serde(flatten)]
    body: Body,
}

impl Record {
    /// A record of a turn about a message, at Unix milliseconds.
    pub fn new(at_ms: i64, turn_id: &str, message: &Inbound, body: Body) -> Self {
        Self {
            ts: timestamp(at_ms),
            kind: body.kind(),
            turn_id: turn_id.to_owned(),
            agent_id: message.account_id.clone(),
            room_id: message.conversation.id.clone(),
            topic_id: message.conversation.thread_id.clone(),
            body,
        }
    }

    /// The agent has said something by tool; `failure` is why it could not be delivered.
    pub fn said(at_ms: i64, out: &message::Outbound, failure: Option<&str>) -> Self {
        let (text, cut) = redact::text_head(&out.text, TEXT_LIMIT);
        let body = Body::Said {
            message_id: out.id.clone(),
            text,
            files: out.attachments.iter().map(|a| a.filename.clone()).collect(),
            delivery_status: if failure.is_some() { Delivery::SendFailed } else { Delivery::Delivered },
            delivery_reason: failure.map(redact::text),
            truncated: cut.then_some(Truncated::Text(true)),
        };
        Self {
            ts: timestamp(at_ms),
            kind: body.kind(),
            turn_id: out.turn_id.clone(),
            agent_id: out.account_id.clone(),
            room_id: out.conversation_id.clone(),
            topic_id: out.thread_id.clone(),
            body,
        }
    }

    /// The agent, room and topic whose file it goes to.
    pub fn place(&self) -> (&str, &str, Option<&str>) {
        (&self.agent_id, &self.room_id, self.topic_id.as_deref())
    }

    /// The turn.
    pub fn turn_id(&self) -> &str {
        &self.turn_id
    }

    /// What it says.
    pub fn body(&self) -> &Body {
        &self.body
    }
}

/// What a record says, by kind.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum Body {
    /// A message came. See [`Body::inbound`].
    Inbound {
        /// The channel's id of it.
        message_id: String,
        /// Who wrote it.
        sender: Sender,
        /// What was written.
        text: String,
        /// How many messages it was merged from, when more than one.
        #[serde(skip_serializing_if = "Option::is_none")]
        raw_batch_entries: Option<usize>,
        /// The far side's handle.
        #[serde(skip_serializing_if = "Option::is_none")]
        trace: Option<Trace>,
        /// Set when the text was cut.
        #[serde(skip_serializing_if = "Option::is_none")]
        truncated: Option<Truncated>,
    },
    /// The gate let the agent sleep. See [`Body::attention_skipped`].
    AttentionSkipped {
        /// `attention_gate_false`.
        reason: &'static str,
    },
    /// Agents answered each other without end: the message is not answered. See [`Body::loop_paused`].
    LoopPaused {
        /// `too_many_agent_turns`.
        reason: &'static str,
    },
    /// The user turn could not be composed. See [`Body::compose_failed`].
    ComposeFailed {
        /// Why.
        error: String,
        /// `raw_text`.
        fallback: &'static str,
    },
    /// The message or its turn gave way to another.
    Dropped {
        /// Why.
        reason: DropReason,
        /// The turn that carries on, where there is one.
        superseded_by: Option<String>,
    },
    /// The runtime was given the turn. See [`Body::dispatched`].
    Dispatched {
        /// What it was told.
        composed_text: String,
        /// Runtime id.
        runtime: String,
        /// The turns whose messages it answers as well.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        merged_from_turn_ids: Vec<String>,
        /// Set when the text was cut.
        #[serde(skip_serializing_if = "Option::is_none")]
        truncated: Option<Truncated>,
    },
    /// A block of progress. See [`Body::block`].
    Block {
        /// Runtime id.
        runtime: String,
        /// The adapter's number.
        seq: u64,
        /// Kind of block.
        block_type: message::BlockKind,
        /// What it was about.
        summary: BlockSummary,
        /// The redacted event, where asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        raw: Option<Value>,
    },
    /// The agent has said something in this room by a command of its own, in whatever room its turn ran.
    Said {
        /// Its id on the way out.
        message_id: String,
        /// What was said.
        text: String,
        /// Names of the files that went along.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        files: Vec<String>,
        /// What became of it.
        delivery_status: Delivery,
        /// Why it was not delivered.
        delivery_reason: Option<String>,
        /// Set when the text was cut.
        #[serde(skip_serializing_if = "Option::is_none")]
        truncated: Option<Truncated>,
    },
    /// The turn ended with a reply, an empty one included. See [`Body::outbound`].
    Outbound {
        /// Runtime id.
        runtime: String,
        /// Session to be resumed.
        runtime_session_id: Option<String>,
        /// Wall time.
        duration_ms: u64,
        /// Cost in US dollars.
        #[serde(skip_serializing_if = "Option::is_none")]
        cost_usd: Option<f64>,
        /// The reply.
        final_text: String,
        /// What became of it.
        delivery_status: Delivery,
        /// Why it was not delivered.
        delivery_reason: Option<String>,
        /// What the runtime did on the way.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        blocks: Vec<BlockSummary>,
        /// Set when the text was cut.
        #[serde(skip_serializing_if = "Option::is_none")]
        truncated: Option<Truncated>,
    },
    /// The turn failed. See [`Body::turn_error`].
    TurnError {
        /// Where.
        phase: TurnErrorPhase,
        /// What people are told, before it is shortened.
        error: String,
        /// Wall time.
        duration_ms: u64,
        /// Reference that the room was given.
        #[serde(skip_serializing_if = "Option::is_none")]
        error_ref: Option<String>,
        /// Runtime id.
        #[serde(skip_serializing_if = "Option::is_none")]
        runtime: Option<String>,
        /// Evidence.
        #[serde(skip_serializing_if = "Option::is_none")]
        runtime_failure: Option<Box<RuntimeFailure>>,
    },
}

/// What an `outbound` record is made from.
#[derive(Clone, Copy, Debug)]
pub struct OutboundFacts<'a> {
    /// Runtime id.
    pub runtime: &'a str,
    /// Session to be resumed.
    pub session_id: Option<&'a str>,
    /// Wall time.
    pub duration_ms: u64,
    /// Cost in US dollars.
    pub cost_usd: Option<f64>,
    /// The reply.
    pub text: &'a str,
    /// What became of it.
    pub delivery: Delivery,
    /// Why it was not delivered.
    pub reason: Option<&'a str>,
    /// What the runtime did on the way.
    pub blocks: &'a [BlockSummary],
}

impl Body {
    /// A message came.
    pub fn inbound(message: &Inbound) -> Self {
        let (text, cut) = redact::text_head(&message.text, TEXT_LIMIT);
        let sender = &message.sender;
        Self::Inbound {
            message_id: message.id.clone(),
            sender: Sender { id: sender.id.clone(), kind: sender.kind, name: sender.name.clone() },
            text,
            raw_batch_entries: Some(message.entries.len()).filter(|n| *n > 1),
            trace: message.trace.as_ref().map(|t| Trace { id: t.id.clone(), streamable: t.streamable.then_some(true) }),
            truncated: cut.then_some(Truncated::Text(true)),
        }
    }

    /// The gate let the agent sleep.
    pub fn attention_skipped() -> Self {
        Self::AttentionSkipped { reason: "attention_gate_false" }
    }

    /// Agents answered each other without end.
    pub fn loop_paused() -> Self {
        Self::LoopPaused { reason: "too_many_agent_turns" }
    }

    /// The user turn could not be composed; the raw text is used.
    pub fn compose_failed(error: &str) -> Self {
        Self::ComposeFailed { error: redact::text_head(error, TEXT_LIMIT).0, fallback: "raw_text" }
    }

    /// The runtime was given the turn.
    pub fn dispatched(composed_text: &str, runtime: &str, merged_from_turn_ids: Vec<String>) -> Self {
        let (composed_text, cut) = redact::text_head(composed_text, TEXT_LIMIT);
        Self::Dispatched {
            composed_text,
            runtime: runtime.to_owned(),
            merged_from_turn_ids,
            truncated: cut.then_some(Truncated::ComposedText(true)),
        }
    }

    /// A block of progress; with the redacted event itself when `verbose`, unless that is too large.
    pub fn block(runtime: &str, block: &message::Block, verbose: bool) -> Self {
        let raw = || {
            let raw = redact::block(&block.raw);
            // Measuring writes it once more, which only those pay who ask for it.
            let size = json::to_vec(&raw).map_or(usize::MAX, |json| json.len());
            (size <= RAW_LIMIT).then_some(raw)
        };
        Self::Block {
            runtime: runtime.to_owned(),
            seq: block.seq,
            block_type: block.kind,
            summary: BlockSummary::of(block),
            raw: if verbose { raw() } else { None },
        }
    }

    /// The turn ended with a reply.
    pub fn outbound(facts: OutboundFacts<'_>) -> Self {
        let (final_text, cut) = redact::text_head(facts.text, TEXT_LIMIT);
        Self::Outbound {
            runtime: facts.runtime.to_owned(),
            runtime_session_id: facts.session_id.filter(|s| !s.is_empty()).map(str::to_owned),
            duration_ms: facts.duration_ms,
            cost_usd: facts.cost_usd,
            final_text,
            delivery_status: facts.delivery,
            delivery_reason: facts.reason.map(redact::text),
            blocks: facts.blocks.to_vec(),
            truncated: cut.then_some(Truncated::FinalText(true)),
        }
    }

    /// The turn ran out of time or budget, or its runtime failed; then with the runtime, the reference and the
    /// evidence.
    pub fn turn_error(
        phase: TurnErrorPhase,
        error: &str,
        duration_ms: u64,
        runtime: Option<&str>,
        failure: Option<(String, RuntimeFailure)>,
    ) -> Self {
        let (error_ref, runtime_failure) = failure.map(|(r, f)| (r, Box::new(f))).unzip();
        Self::TurnError {
            phase,
            error: redact::text_head(error, TEXT_LIMIT).0,
            duration_ms,
            error_ref,
            runtime: runtime.map(str::to_owned),
            runtime_failure,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Inbound { .. } => "inbound",
            Self::AttentionSkipped { .. } => "attention_skipped",
            Self::LoopPaused { .. } => "loop_paused",
            Self::ComposeFailed { .. } => "compose_failed",
            Self::Dropped { .. } => "dropped",
            Self::Dispatched { .. } => "dispatched",
            Self::Block { .. } => "block",
            Self::Said { .. } => "said",
            Self::Outbound { .. } => "outbound",
            Self::TurnError { .. } => "turn_error",
        }
    }

    /// Whether a turn runs from this record on.
    pub(super) fn begins_turn(&self) -> bool {
        matches!(self, Self::Dispatched { .. })
    }

    /// Whether a turn is over, or never was, after this record; only blocks that are late may follow.
    pub(super) fn ends_turn(&self) -> bool {
        !matches!(
            self,
            Self::Inbound { .. }
                | Self::ComposeFailed { .. }
                | Self::Dispatched { .. }
                | Self::Block { .. }
                | Self::Said { .. }
        )
    }
}

pub use crate::time::rfc3339 as timestamp;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ports::FailureSummary;
    use crate::engine::transcript::FailureFacts;
    use crate::message::{Block, BlockKind, Digest};
    use serde_json::json;

    fn message() -> Inbound {
        serde_json::from_value(json!({
            "id": "h_1", "channel": "ag_1", "accountId": "ag_1", "receivedAt": 0, "text": "status? token=abc",
            "conversation": {"id": "rm_1", "kind": "direct"}, "sender": {"id": "usr_3", "kind": "user", "name": "N"},
            "trace": {"id": "h_1", "streamable": true},
        }))
        .unwrap()
    }

    fn line(body: Body) -> String {
        serde_json::to_string(&Record::new(1_767_254_400_123, "t1", &message(), body)).unwrap()
    }

    const HEAD: &str = r#""turnId":"t1","agentId":"ag_1","roomId":"rm_1","topicId":null"#;

    #[test]
    fn records_have_their_fields_in_order() {
        assert_eq!(
            line(Body::inbound(&message())),
            format!(
                r#"{{"ts":"2026-01-01T08:00:00.123Z","kind":"inbound",{HEAD},"messageId":"h_1","sender":{{"id":"usr_3","kind":"user","name":"N"}},"text":"status? token=[REDACTED]","trace":{{"id":"h_1","streamable":true}}}}"#
            )
        );
        assert_eq!(
            line(Body::Dropped { reason: DropReason::BatchMerged, superseded_by: None }),
            format!(
                r#"{{"ts":"2026-01-01T08:00:00.123Z","kind":"dropped",{HEAD},"reason":"batch_merged","supersededBy":null}}"#
            )
        );
        let facts = OutboundFacts {
            runtime: "codex",
            session_id: None,
            duration_ms: 9,
            cost_usd: None,
            text: "",
            delivery: Delivery::EmptyText,
            reason: None,
            blocks: &[BlockSummary { r#type: BlockKind::ToolUse, chars: None, name: Some("shell".to_owned()) }],
        };
        assert_eq!(
            line(Body::outbound(facts)),
            format!(
                r#"{{"ts":"2026-01-01T08:00:00.123Z","kind":"outbound",{HEAD},"runtime":"codex","runtimeSessionId":null,"durationMs":9,"finalText":"","deliveryStatus":"empty_text","deliveryReason":null,"blocks":[{{"type":"tool_use","name":"shell"}}]}}"#
            )
        );
    }

    #[test]
    fn failures_keep_their_nulls() {
        let summary = FailureSummary { exit_code: Some(3), ..FailureSummary::default() };
        let facts = FailureFacts {
            message: &message(),
            turn_id: "t1",
            runtime: "codex",
            cwd: "/w",
            duration_ms: 7,
            error: "codex error (exit code 3)",
        };
        let failure = RuntimeFailure::new(facts, &summary);
        let body =
            Body::turn_error(TurnErrorPhase::Runtime, "e", 7, Some("codex"), Some(("err_1".to_owned(), failure)));
        assert_eq!(
            line(body),
            format!(
                r#"{{"ts":"2026-01-01T08:00:00.123Z","kind":"turn_error",{HEAD},"phase":"runtime","error":"e","durationMs":7,"errorRef":"err_1","runtime":"codex","runtimeFailure":{{"agent_id":"ag_1","room_id":"rm_1","topic_id":null,"turn_id":"t1","runtime":"codex","cwd":"/w","command":null,"exit_code":3,"signal":null,"duration_ms":7,"stderr_tail":null,"stdout_tail":null,"error_name":null,"error_message":"codex error (exit code 3)"}}}}"#
            )
        );
    }

    #[test]
    fn long_texts_are_cut_and_say_so() {
        let Body::Dispatched { composed_text, truncated, .. } =
            Body::dispatched(&"a".repeat(TEXT_LIMIT + 1), "x", Vec::new())
        else {
            unreachable!()
        };
        assert_eq!(composed_text.len(), TEXT_LIMIT);
        assert!(truncated.is_some());
    }

    #[test]
    fn blocks_are_summed_up() {
        let of = |raw: Value| {
            let summary = BlockSummary::of(&Block { kind: BlockKind::Other, seq: 1, raw, digest: Digest::default() });
            (summary.chars, summary.name.unwrap_or_default())
        };
        assert_eq!(of(json!({"text": "a😀", "name": "n"})), (Some(3), "n".to_owned()));
        assert_eq!(of(json!({"name": "n", "update": {"toolCall": {"name": "t"}}})), (None, "t".to_owned()));
        assert_eq!(of(json!({"params": {"update": {"sessionUpdate": "plan"}}})), (None, "plan".to_owned()));
        assert_eq!(of(json!([1])), (None, String::new()));
    }

    #[test]
    fn raw_events_are_only_for_those_who_ask() {
        let block = Block { kind: BlockKind::Other, seq: 1, raw: json!({"token": "x"}), digest: Digest::default() };
        assert!(!line(Body::block("r", &block, false)).contains("raw"));
        assert!(line(Body::block("r", &block, true)).ends_with(r#""raw":{"token":"[REDACTED]"}}"#));
    }
}
