//! Vectors of what comes in through a BotCord hub: sanitising, inbox messages, answers of the inbox.

#[path = "support/vector_file.rs"]
mod vector_file;

use bellhop::channel::botcord::drain::{self, Known};
use bellhop::channel::botcord::normalise::{self, Me};
use bellhop::message::{Entry, Inbound};
use bellhop::sanitize;
use serde_json::{Map, Value, json};
use vector_file::{check, check_only};

fn str_of<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key} in {value}"))
}

fn list<'v>(value: &'v Value, key: &str) -> &'v Vec<Value> {
    value[key].as_array().unwrap_or_else(|| panic!("no list {key} in {value}"))
}

#[test]
fn vectors_sanitize() {
    check("sanitize", &[], |input| match str_of(input, "op") {
        "content" => sanitize::content(input["text"].as_str().unwrap_or_default()).into(),
        "sender_name" => sanitize::label(str_of(input, if input["name"].is_string() { "name" } else { "text" })).into(),
        op => panic!("unknown op {op}"),
    });
}

/// A message in the form of the vectors: without time and the provider's document.
fn shown(message: &Inbound) -> Value {
    let mut conversation = json!({
        "id": message.conversation.id, "kind": message.conversation.kind, "threadId": message.conversation.thread_id,
    });
    if let Some(title) = &message.conversation.title {
        conversation["title"] = title.as_str().into();
    }
    let trace = message.trace.as_ref().unwrap();
    let sender: Map<String, Value> = serde_json::from_value(serde_json::to_value(&message.sender).unwrap()).unwrap();
    json!({
        "id": message.id, "channel": message.channel, "accountId": message.account_id, "conversation": conversation,
        "sender": sender, "text": message.text, "replyTo": message.reply_to, "mentioned": message.mentioned,
        "trace": {"id": trace.id, "streamable": trace.streamable},
    })
}

fn group(input: &Value, messages: Vec<Value>) -> Option<Inbound> {
    let me = Me { channel: str_of(input, "channel_id"), agent: str_of(input, "account_id") };
    if messages.iter().any(|m| normalise::usable(m, me).is_err()) {
        return None;
    }
    Some(normalise::group(messages, me, 5).unwrap())
}

fn drained(input: &Value) -> Value {
    let has = |key: &str, id: &str| list(input, key).iter().any(|known| known == id);
    let known = |id: &str| match () {
        () if has("pending", id) => Known::Pending,
        () if has("seen", id) => Known::Finished,
        () => Known::No,
    };
    let messages: Vec<Value> = list(input, "messages")
        .iter()
        .map(|m| {
            let mut message = m.clone();
            let fields = message.as_object_mut().unwrap();
            let kind = fields.remove("type").unwrap();
            fields.insert("envelope".into(), json!({"type": kind, "from": "ag_x"}));
            message
        })
        .collect();
    let more = input["has_more"] == true && !messages.is_empty();
    let plan = drain::plan(messages, &known, Me { channel: "c", agent: "ag_me" });
    let groups: Vec<Vec<_>> =
        plan.groups.iter().map(|g| g.iter().map(|m| normalise::hub_id(m).unwrap()).collect()).collect();
    json!({"ack_now": plan.ack_now, "groups": groups, "has_more": more})
}

#[test]
fn vectors_inbound_normalise() {
    // Paths in replies are another matter: `rewrite_paths` is looked at where replies are.
    check_only(
        "inbound-normalise",
        |op| op != "rewrite_paths",
        |input| match str_of(input, "op") {
            "single" => group(input, vec![input["message"].clone()]).map_or(Value::Null, |m| shown(&m)),
            "batch" => {
                let message = group(input, list(input, "messages").clone()).unwrap();
                let ids: Vec<&Entry> = message.entries.iter().filter(|_| message.entries.len() > 1).collect();
                let mut shown = shown(&message);
                shown["batch_ids"] = ids.iter().map(|e| e.id.as_str()).collect();
                shown
            }
            "drain" => drained(input),
            "reply_target" => {
                let raw = json!({
                    "hub_msg_id": str_of(input, "id"), "room_id": "rm_1",
                    "envelope": {"type": "message", "from": "ag_x", "reply_to": input["reply_to"], "msg_id": input["msg_id"]}
                });
                let message = normalise::group(vec![raw], Me { channel: "c", agent: "ag_me" }, 0).unwrap();
                message.reply_target().into()
            }
            op => panic!("unknown op {op}"),
        },
    );
}
