//! Reads a message document: the JSON form in which control frames, bridges and vectors carry a message.
//!
//! Its own fields (`id`, `channel`, `sender`, …) are checked strictly, with an error that names the field. Its
//! `raw` field is whatever the provider sent: known keys are read where they have the expected type and are
//! passed over otherwise. After this module nothing reads a provider's document any more.

use std::fmt;

use serde_json::{Map, Value};

use super::{
    Budget, CloudRun, Conversation, ConversationKind, Entry, Inbound, Origin, Quote, RoomFacts, ScheduleFacts, Sender,
    SenderKind, Trace,
};
use crate::text;

/// How many member names are kept; a prompt shows ten.
const MEMBER_NAMES: usize = 50;

/// A field of a message document that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentError {
    /// Path of the field, such as `sender.kind`; `message` for the document itself.
    pub field: String,
    /// What is there, shortened.
    pub found: String,
    /// What should be there.
    pub expected: &'static str,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message document: {}: found {}, expected {}", self.field, self.found, self.expected)
    }
}

impl std::error::Error for DocumentError {}

/// Turns a message document into the typed message.
///
/// A message without `raw`, or with an empty one, still yields one entry, made of its own fields, so that it can
/// be merged with others without losing its text or its sender. Unknown fields are ignored.
pub fn parse(document: &Value) -> Result<Inbound, DocumentError> {
    if !document.is_object() {
        return Err(wrong("message", Some(document), "an object"));
    }
    let id = required(document, "id")?;
    let account_id = required(document, "accountId")?;
    let conversation = Conversation {
        id: required(document, "conversation.id")?,
        kind: conversation_kind(document)?,
        title: optional(document, "conversation.title")?,
        thread_id: optional(document, "conversation.threadId")?.filter(|t| !t.is_empty()),
    };
    let sender = Sender {
        id: string(document, "sender.id")?,
        name: optional(document, "sender.name")?,
        kind: sender_kind(document)?,
    };
    let words = optional(document, "text")?.unwrap_or_default();
    let mentioned = flag(document, "mentioned")?;

    let nothing = Map::new();
    let raw = document.get("raw").and_then(Value::as_object).unwrap_or(&nothing);
    let envelope = object(raw, "envelope");
    let msg_id = envelope.and_then(|e| filled(e, "msg_id"));
    let envelope_type = envelope.and_then(|e| filled(e, "type"));
    let quote = object(raw, "reply_preview").map(quote);
    let origin = origin(raw, &conversation.id);

    let entries = match raw.get("batch").and_then(Value::as_array) {
        Some(batch) => batch.iter().map(|element| batch_entry(element, &id)).collect(),
        None => vec![Entry {
            id: id.clone(),
            msg_id: msg_id.clone(),
            sender_id: sender.id.clone(),
            sender_label: own_label(&sender),
            sender_kind: sender.kind,
            text: words.clone(),
            mentioned,
            envelope_type: envelope_type.clone(),
            quote: quote.clone(),
        }],
    };

    Ok(Inbound {
        id,
        channel: required(document, "channel")?,
        account_id,
        conversation,
        sender,
        text: words,
        reply_to: optional(document, "replyTo")?.filter(|r| !r.is_empty()),
        msg_id,
        mentioned,
        received_at: received_at(document)?,
        trace: trace(document)?,
        entries,
        omitted: 0,
        hops: 0,
        origin,
        quote,
        room: room_facts(raw),
        schedule: (origin == Origin::Schedule).then(|| schedule_facts(raw)),
        cloud_run: cloud_run(envelope, envelope_type.as_deref()),
        envelope_type,
        media_only: is_media_only(raw),
        attachments: Vec::new(),
        overrides: None,
    })
}

/// Whether a provider's message has media and no words of its author.
///
/// A hub renders attachments into the plain `text` of an inbox message, so that field proves nothing where the
/// envelope has a payload.
pub fn is_media_only(raw: &Map<String, Value>) -> bool {
    has_media(raw) && !has_words(raw)
}

fn has_media(raw: &Map<String, Value>) -> bool {
    if let Some(batch) = raw.get("batch").and_then(Value::as_array) {
        return batch.iter().filter_map(Value::as_object).any(has_media);
    }
    let attached = object(raw, "envelope")
        .and_then(|e| object(e, "payload"))
        .and_then(|p| p.get("attachments"))
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty());
    attached || items(raw).is_some_and(|list| list.iter().any(is_media_item))
}

/// An element of a chat provider's item list; type 1 is text.
fn is_media_item(item: &Value) -> bool {
    item.is_object() && item.get("type").and_then(Value::as_f64) != Some(1.0)
}

fn has_words(raw: &Map<String, Value>) -> bool {
    if let Some(batch) = raw.get("batch").and_then(Value::as_array) {
        return batch.iter().filter_map(Value::as_object).any(has_words);
    }
    let said = |of: &Map<String, Value>, key: &str| {
        of.get(key).and_then(Value::as_str).is_some_and(|s| !text::trim(s).is_empty())
    };
    let envelope = object(raw, "envelope");
    if envelope.is_none() && said(raw, "text") {
        return true;
    }
    if let Some(payload) = envelope.and_then(|e| object(e, "payload")) {
        return ["text", "body", "message"].iter().any(|key| said(payload, key));
    }
    match items(raw) {
        Some(list) => list.iter().filter_map(|item| item.get("text_item")?.as_object()).any(|item| said(item, "text")),
        None => said(raw, "text"),
    }
}

fn items(raw: &Map<String, Value>) -> Option<&Vec<Value>> {
    raw.get("item_list").and_then(Value::as_array)
}

/// One inbox message of a batch. An element that is no object has neither text nor sender.
fn batch_entry(element: &Value, message_id: &str) -> Entry {
    let nothing = Map::new();
    let raw = element.as_object().unwrap_or(&nothing);
    let envelope = object(raw, "envelope");
    let from = envelope.and_then(|e| filled(e, "from"));
    let human = raw.get("source_type").and_then(Value::as_str) == Some("dashboard_human_room")
        || from.as_deref().is_some_and(|f| f.starts_with("hu_"));
    let label = if human {
        filled(raw, "source_user_name").unwrap_or_else(|| "User".into())
    } else {
        from.clone().unwrap_or_else(|| "unknown".into())
    };
    let payload_text = || envelope?.get("payload")?.get("text")?.as_str();
    let msg_id = envelope.and_then(|e| filled(e, "msg_id"));
    Entry {
        id: filled(raw, "hub_msg_id").unwrap_or_else(|| message_id.to_owned()),
        msg_id,
        sender_id: from.unwrap_or_default(),
        sender_label: label,
        sender_kind: if human { SenderKind::User } else { SenderKind::Agent },
        text: raw.get("text").and_then(Value::as_str).or_else(payload_text).unwrap_or_default().to_owned(),
        mentioned: raw.get("mentioned") == Some(&Value::Bool(true)),
        envelope_type: envelope.and_then(|e| filled(e, "type")),
        quote: object(raw, "reply_preview").map(quote),
    }
}

/// How the sender of a single message is shown: people by name, agents by id.
fn own_label(sender: &Sender) -> String {
    let name = sender.name.as_deref().filter(|n| !n.is_empty() && sender.kind == SenderKind::User);
    let id = Some(sender.id.as_str()).filter(|i| !i.is_empty());
    let nobody = if sender.kind == SenderKind::User { "user" } else { "unknown" };
    name.or(id).unwrap_or(nobody).to_owned()
}

fn origin(raw: &Map<String, Value>, conversation_id: &str) -> Origin {
    match raw.get("source_type").and_then(Value::as_str) {
        _ if conversation_id.starts_with("rm_oc_") => Origin::OwnerChat,
        Some("dashboard_user_chat") => Origin::OwnerChat,
        Some("botcord_schedule") => Origin::Schedule,
        _ => Origin::Room,
    }
}

fn quote(preview: &Map<String, Value>) -> Quote {
    Quote {
        deleted: preview.get("deleted") == Some(&Value::Bool(true)),
        name: filled(preview, "sender_display_name").or_else(|| filled(preview, "sender_id")),
        preview: filled(preview, "text_preview"),
    }
}

fn room_facts(raw: &Map<String, Value>) -> Option<RoomFacts> {
    let names = raw.get("room_member_names").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let facts = RoomFacts {
        id: filled(raw, "room_id"),
        name: filled(raw, "room_name"),
        member_count: positive(raw, "room_member_count", true).map(|n| n as u64),
        member_names: names
            .iter()
            .filter_map(Value::as_str)
            .filter(|n| !n.is_empty())
            .take(MEMBER_NAMES)
            .map(str::to_owned)
            .collect(),
        my_role: filled(raw, "my_role"),
        can_send: raw.get("my_can_send").and_then(Value::as_bool),
        rule: filled(raw, "room_rule").filter(|r| !text::trim(r).is_empty()),
        topic: filled(raw, "topic"),
        delivery_note: filled(raw, "delivery_note"),
    };
    (facts != RoomFacts::default()).then_some(facts)
}

fn schedule_facts(raw: &Map<String, Value>) -> ScheduleFacts {
    ScheduleFacts {
        schedule_id: filled(raw, "schedule_id"),
        scheduled_for: filled(raw, "scheduled_for"),
        dispatched_at: filled(raw, "dispatched_at"),
        run_id: filled(raw, "run_id"),
    }
}

fn cloud_run(envelope: Option<&Map<String, Value>>, envelope_type: Option<&str>) -> Option<CloudRun> {
    if envelope_type != Some("cloud_run") {
        return None;
    }
    let run = envelope.and_then(|e| object(e, "payload")).and_then(|p| object(p, "cloud_run"));
    let limits = run.and_then(|r| object(r, "budget"));
    let limit = |key| limits.and_then(|b| positive(b, key, false));
    Some(CloudRun {
        run_id: run.and_then(|r| filled(r, "run_id")),
        budget: Budget {
            max_wall_time_ms: limit("max_wall_time_seconds").map(|s| (s * 1_000.0) as u64),
            max_tool_calls: limit("max_tool_calls").map(|n| n as u64),
        },
        settle_usage: run.and_then(|r| r.get("settle_usage")) != Some(&Value::Bool(false)),
    })
}

/// A finite number above zero (or zero, where that is meant).
fn positive(of: &Map<String, Value>, key: &str, or_zero: bool) -> Option<f64> {
    of.get(key)?.as_f64().filter(|n| n.is_finite() && (*n > 0.0 || or_zero && *n == 0.0))
}

fn object<'v>(of: &'v Map<String, Value>, key: &str) -> Option<&'v Map<String, Value>> {
    of.get(key)?.as_object()
}

/// A string that is not empty.
fn filled(of: &Map<String, Value>, key: &str) -> Option<String> {
    of.get(key)?.as_str().filter(|s| !s.is_empty()).map(str::to_owned)
}

fn conversation_kind(document: &Value) -> Result<ConversationKind, DocumentError> {
    match string(document, "conversation.kind")?.as_str() {
        "direct" => Ok(ConversationKind::Direct),
        "group" => Ok(ConversationKind::Group),
        _ => Err(wrong("conversation.kind", at(document, "conversation.kind"), "\"direct\" or \"group\"")),
    }
}

fn sender_kind(document: &Value) -> Result<SenderKind, DocumentError> {
    match string(document, "sender.kind")?.as_str() {
        "user" => Ok(SenderKind::User),
        "agent" => Ok(SenderKind::Agent),
        "system" => Ok(SenderKind::System),
        _ => Err(wrong("sender.kind", at(document, "sender.kind"), "\"user\", \"agent\" or \"system\"")),
    }
}

fn received_at(document: &Value) -> Result<i64, DocumentError> {
    let found = at(document, "receivedAt");
    let number = found.and_then(|v| v.as_i64().or_else(|| v.as_f64().map(|n| n as i64)));
    number.ok_or_else(|| wrong("receivedAt", found, "a number of Unix milliseconds"))
}

fn trace(document: &Value) -> Result<Option<Trace>, DocumentError> {
    match document.get("trace") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(_)) => {
            Ok(Some(Trace { id: string(document, "trace.id")?, streamable: flag(document, "trace.streamable")? }))
        }
        other => Err(wrong("trace", other, "an object")),
    }
}

/// The value at a dotted path; `null` counts as absent.
fn at<'v>(document: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(document, |value, key| value.get(key)).filter(|v| !v.is_null())
}

/// A string that must be there and not be empty.
fn required(document: &Value, path: &str) -> Result<String, DocumentError> {
    let value = string(document, path)?;
    if value.is_empty() { Err(wrong(path, at(document, path), "a string that is not empty")) } else { Ok(value) }
}

/// A string that must be there.
fn string(document: &Value, path: &str) -> Result<String, DocumentError> {
    optional(document, path)?.ok_or_else(|| wrong(path, None, "a string"))
}

fn optional(document: &Value, path: &str) -> Result<Option<String>, DocumentError> {
    match at(document, path) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.clone())),
        other => Err(wrong(path, other, "a string")),
    }
}

fn flag(document: &Value, path: &str) -> Result<bool, DocumentError> {
    match at(document, path) {
        None => Ok(false),
        Some(Value::Bool(b)) => Ok(*b),
        other => Err(wrong(path, other, "true or false")),
    }
}

fn wrong(field: &str, found: Option<&Value>, expected: &'static str) -> DocumentError {
    let found = match found {
        None | Some(Value::Null) => "nothing".into(),
        Some(Value::String(s)) if s.is_empty() => "an empty string".into(),
        Some(Value::String(s)) => format!("the string {:?}", text::clip(s, 40)),
        Some(Value::Bool(b)) => b.to_string(),
        Some(Value::Number(n)) => format!("the number {n}"),
        Some(Value::Array(_)) => "a list".into(),
        Some(Value::Object(_)) => "an object".into(),
    };
    DocumentError { field: field.into(), found, expected }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({
            "id": "h_1", "channel": "ag_me", "accountId": "ag_me", "conversation": {"id": "rm_1", "kind": "group"},
            "sender": {"id": "hu_1", "name": "Mira", "kind": "user"}, "text": "hello", "receivedAt": 5
        })
    }

    #[test]
    fn a_message_without_raw_still_has_an_entry() {
        let message = parse(&document()).unwrap();
        assert_eq!(message.entries.len(), 1);
        assert_eq!(message.entries[0].text, "hello");
        assert_eq!(message.entries[0].sender_label, "Mira");
        assert_eq!(message.entries[0].id, "h_1");
        assert!(message.room.is_none() && message.cloud_run.is_none() && !message.media_only);
    }

    #[test]
    fn an_error_names_the_field_and_what_was_found() {
        let mut bad = document();
        bad["sender"]["kind"] = json!("robot");
        assert_eq!(
            parse(&bad).unwrap_err().to_string(),
            "message document: sender.kind: found the string \"robot\", expected \"user\", \"agent\" or \"system\""
        );
        let mut bad = document();
        bad["id"] = json!("");
        assert_eq!(parse(&bad).unwrap_err().field, "id");
        let mut bad = document();
        bad["text"] = json!(5);
        assert_eq!(parse(&bad).unwrap_err().found, "the number 5");
        let mut bad = document();
        bad["conversation"] = json!("rm_1");
        assert_eq!(parse(&bad).unwrap_err().field, "conversation.id");
        let mut bad = document();
        bad["trace"] = json!({"streamable": true});
        assert_eq!(parse(&bad).unwrap_err().field, "trace.id");
        assert_eq!(parse(&json!([])).unwrap_err().field, "message");
    }

    #[test]
    fn raw_of_an_unexpected_shape_is_passed_over() {
        for raw in [json!(null), json!("x"), json!({"batch": 5, "envelope": [], "room_member_count": "many"})] {
            let mut odd = document();
            odd["raw"] = raw;
            assert_eq!(parse(&odd).unwrap().entries.len(), 1);
        }
    }

    #[test]
    fn a_batch_becomes_entries() {
        let mut batch = document();
        batch["raw"] = json!({"envelope": {"msg_id": "m2"}, "batch": [
            {"hub_msg_id": "h_0", "text": "a", "source_type": "dashboard_human_room", "source_user_name": "Al",
             "envelope": {"from": "ag_x", "msg_id": "m1"}, "mentioned": true},
            {"hub_msg_id": "h_1", "envelope": {"from": "hu_2", "payload": {"text": "b"}}},
            17
        ]});
        let message = parse(&batch).unwrap();
        let shown: Vec<_> = message.entries.iter().map(|e| (e.sender_label.as_str(), e.text.as_str())).collect();
        assert_eq!(shown, [("Al", "a"), ("User", "b"), ("unknown", "")]);
        assert_eq!(message.ids(), ["h_0", "h_1", "h_1"]);
        assert!(message.entries[0].mentioned && message.entries[0].sender_kind == SenderKind::User);
        assert_eq!(message.msg_id.as_deref(), Some("m2"));
    }

    #[test]
    fn a_cloud_run_settles_unless_told_otherwise() {
        let mut run = document();
        run["raw"] = json!({"envelope": {"type": "cloud_run", "payload": {}}});
        assert!(parse(&run).unwrap().cloud_run.unwrap().settle_usage);
        run["raw"] = json!({"envelope": {"type": "cloud_run", "payload": {"cloud_run": {"settle_usage": false}}}});
        assert!(!parse(&run).unwrap().cloud_run.unwrap().settle_usage);
    }
}
