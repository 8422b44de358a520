//! A runtime's event as a hub's dashboard shows it (the hub's protocol, §14.2). Pure.
//!
//! Every CLI has its own words for "I call a tool". Here they become one form: a kind, and a payload of a few members.
//! The event itself is never sent: it holds files, environment and prompts.

use serde_json::{Map, Value};

use super::tool_event;
use crate::message::{BlockKind, Digest};

/// A block in the dashboard's words.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// `assistant`, `tool_call`, `tool_result`, `thinking`, `system` or `other`.
    pub kind: &'static str,
    /// What is shown; neither redacted nor cut yet.
    pub payload: Map<String, Value>,
}

/// Turns a runtime's event into what a dashboard shows of it.
pub fn normalise(kind: BlockKind, raw: &Value) -> Shown {
    match kind {
        BlockKind::AssistantText => {
            let mut payload = Map::new();
            payload.insert("text".into(), words(raw).into());
            Shown { kind: "assistant", payload }
        }
        BlockKind::ToolUse => Shown { kind: "tool_call", payload: tool_event::call(raw).unwrap_or_default() },
        BlockKind::ToolResult => Shown { kind: "tool_result", payload: tool_event::result(raw).unwrap_or_default() },
        BlockKind::System => Shown { kind: "system", payload: described(raw, &["subtype", "session_id", "model"]) },
        BlockKind::Thinking => Shown { kind: "thinking", payload: described(raw, &["phase", "label", "source"]) },
        BlockKind::Other => Shown { kind: "other", payload: other(raw) },
    }
}

/// [`normalise`], completed from the adapter's own digest where the event has a form that dashboards do not know, and
/// with the words of all blocks that were put together.
pub fn shown(kind: BlockKind, raw: &Value, digest: &Digest) -> Shown {
    if kind == BlockKind::AssistantText
        && let Some(text) = &digest.text
    {
        let payload = Map::from_iter([("text".to_owned(), text.clone().into())]);
        return Shown { kind: "assistant", payload };
    }
    let mut shown = normalise(kind, raw);
    if shown.payload.is_empty() {
        let name = digest.tool.clone().map(|tool| ("name".to_owned(), tool.into()));
        let summary = digest.summary.clone().map(Value::from);
        match kind {
            BlockKind::ToolUse => {
                shown.payload.extend(name);
                shown.payload.extend(summary.map(|s| ("params".to_owned(), Value::Object(one("summary", s)))));
            }
            BlockKind::ToolResult => {
                shown.payload.extend(name);
                shown.payload.extend(summary.map(|s| ("result".to_owned(), s)));
            }
            _ => {}
        }
    }
    shown
}

/// Words of the agent.
fn words(raw: &Value) -> String {
    let texts = |content: &[Value]| -> String {
        content.iter().filter(|e| e["type"] == "text").filter_map(|e| e["text"].as_str()).collect()
    };
    let whole = raw["message"]["content"].as_array().map(|c| texts(c)).filter(|t| !t.is_empty());
    let payload = &raw["payload"];
    let inner = &payload["payload"];
    whole
        .or_else(|| string(&raw["item"], "text").map(str::to_owned))
        .or_else(|| {
            match raw["event"].as_str()? {
                "message.delta" => string(payload, "content"),
                "item.delta" if payload["kind"] == "agent_message" || inner["kind"] == "agent_message" => {
                    string(payload, "delta").or_else(|| string(inner, "delta"))
                }
                _ => None,
            }
            .map(str::to_owned)
        })
        .unwrap_or_default()
}

/// The named strings, and the details.
fn described(raw: &Value, keys: &[&str]) -> Map<String, Value> {
    let mut payload = Map::new();
    for key in keys {
        payload.extend(string(raw, key).map(|s| ((*key).to_owned(), s.into())));
    }
    payload.extend(details(raw).map(|d| ("details".to_owned(), d.into())));
    payload
}

fn other(raw: &Value) -> Map<String, Value> {
    let mut payload = Map::new();
    let event = string(raw, "event").or_else(|| string(&raw["payload"], "event"));
    if let Some(event) = event.filter(|e| matches!(*e, "turn.completed" | "turn.finished" | "turn.done" | "done")) {
        payload.insert("terminal".into(), true.into());
        payload.extend(details(raw).map(|d| ("details".to_owned(), d.into())));
        payload.insert("event".into(), event.into());
    } else if raw["type"] == "result" {
        payload.extend(string(raw, "result").map(|s| ("text".to_owned(), s.into())));
        payload.extend(string(raw, "subtype").map(|s| ("subtype".to_owned(), s.into())));
        let cost = Some(&raw["total_cost_usd"]).filter(|c| c.is_number());
        payload.extend(cost.map(|c| ("total_cost_usd".to_owned(), c.clone())));
    }
    payload
}

/// What an event says in words, at worst all of it. `None` for what is no object.
fn details(raw: &Value) -> Option<String> {
    const PLACES: [&str; 9] = [
        "/text",
        "/message",
        "/summary",
        "/label",
        "/payload/delta",
        "/payload/item/detail",
        "/payload/item/summary",
        "/payload/payload/item/detail",
        "/payload/payload/item/summary",
    ];
    raw.as_object()?;
    let said = PLACES.iter().find_map(|place| raw.pointer(place)?.as_str()).filter(|s| !s.is_empty());
    let content = ["/content", "/message/content", "/params/update/content"];
    let content = || content.iter().filter_map(|place| content_text(raw.pointer(place)?)).find(|t| !t.is_empty());
    Some(said.map(str::to_owned).or_else(content).unwrap_or_else(|| json_text(raw)))
}

fn content_text(content: &Value) -> Option<String> {
    match content {
        Value::String(s) => Some(s.clone()),
        Value::Array(elements) => {
            let texts: Vec<String> = elements.iter().filter_map(content_text).filter(|t| !t.is_empty()).collect();
            Some(texts.join("\n"))
        }
        Value::Object(_) => ["text", "thinking", "content"]
            .iter()
            .find_map(|key| string(content, key).map(str::to_owned))
            .or_else(|| content["content"].as_array().and_then(|_| content_text(&content["content"]))),
        _ => None,
    }
}

/// A member that is a string and not empty.
pub(super) fn string<'v>(of: &'v Value, key: &str) -> Option<&'v str> {
    of.get(key)?.as_str().filter(|s| !s.is_empty())
}

/// A map of one member.
pub(super) fn one(key: &str, value: Value) -> Map<String, Value> {
    Map::from_iter([(key.to_owned(), value)])
}

/// JSON on several lines, members in their order.
pub(super) fn json_text(value: &Value) -> String {
    // Writing a value to memory does not fail.
    serde_json::to_string_pretty(value).unwrap_or_default()
}
