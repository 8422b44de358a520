//! Tool calls and their results, from the forms in which CLIs report them (the hub's protocol, §14.2). Pure.

use serde_json::{Map, Value};

use super::stream_block::{json_text, one, string};
use crate::text::trim;

/// Members of an item that say what a tool was called with.
const ITEM_PARAMS: [&str; 11] =
    ["command", "cmd", "args", "path", "query", "url", "name", "input", "arguments", "action", "changes"];
/// Where the input of a tool is looked for.
const TOOL_INPUT: [&str; 4] = ["input", "rawInput", "arguments", "params"];
/// The same, outside of a tool's own object.
const INPUT: [&str; 3] = ["input", "arguments", "params"];

/// `name`, `params`, `id`, `status` of a call; `None` where no form fits.
pub fn call(raw: &Value) -> Option<Map<String, Value>> {
    content_entry(raw, "tool_use")
        .map(|e| made(string(e, "name"), first(e, &["input", "arguments"]), string(e, "id"), None))
        .or_else(|| event_call(raw))
        .or_else(|| item_call(raw.get("item")?))
        .or_else(|| listed_call(raw))
        .or_else(|| {
            let (update, tool) = update(raw)?;
            let params = first(tool, &["rawInput", "raw_input", "input", "arguments", "args", "params"]);
            Some(made(update_name(update, tool), params.or(Some(tool)), update_id(update, tool), None))
        })
}

/// `name`, `result`, `tool_use_id` of a result; `None` where no form fits.
pub fn result(raw: &Value) -> Option<Map<String, Value>> {
    content_entry(raw, "tool_result")
        .map(|e| told(None, text_of(&e["content"]), string(e, "tool_use_id")))
        .or_else(|| event_result(raw))
        .or_else(|| item_result(raw.get("item")?))
        .or_else(|| {
            let is_tool = raw.get("role")? == "tool";
            is_tool.then(|| told(None, text_of(&raw["content"]), string(raw, "tool_call_id")))
        })
        .or_else(|| {
            let (update, tool) = update(raw)?;
            let said = first(tool, &["output", "result", "content", "error"]);
            let said = said.or_else(|| first(update, &["content"])).unwrap_or(update);
            Some(told(Some(update_name(update, tool).unwrap_or("tool")), text_of(said), update_id(update, tool)))
        })
}

/// The payload of a call. `params` is JSON in a string or not; nothing and `{}` are left out.
fn made(name: Option<&str>, params: Option<&Value>, id: Option<&str>, status: Option<&str>) -> Map<String, Value> {
    let mut payload = one("name", name.unwrap_or("tool").into());
    let params = params.map(maybe_json).filter(|p| p.as_object().is_none_or(|o| !o.is_empty()));
    payload.extend(params.map(|p| ("params".to_owned(), p)));
    payload.extend(id.map(|id| ("id".to_owned(), id.into())));
    payload.extend(status.map(|s| ("status".to_owned(), s.into())));
    payload
}

/// The payload of a result.
fn told(name: Option<&str>, result: String, id: Option<&str>) -> Map<String, Value> {
    let mut payload = Map::new();
    payload.extend(name.map(|n| ("name".to_owned(), n.into())));
    payload.insert("result".into(), result.into());
    payload.extend(id.map(|id| ("tool_use_id".to_owned(), id.into())));
    payload
}

/// The first entry of a message's content that has this type.
fn content_entry<'v>(raw: &'v Value, kind: &str) -> Option<&'v Value> {
    raw.get("message")?.get("content")?.as_array()?.iter().find(|e| e["type"] == kind)
}

/// The first of these members that is there and not null.
fn first<'v>(of: &'v Value, keys: &[&str]) -> Option<&'v Value> {
    keys.iter().find_map(|key| of.get(*key).filter(|v| !v.is_null()))
}

/// The value inside a string that holds JSON; everything else as it is.
fn maybe_json(value: &Value) -> Value {
    let parsed =
        value.as_str().map(trim).filter(|s| s.starts_with(['{', '['])).and_then(|s| serde_json::from_str(s).ok());
    parsed.unwrap_or_else(|| value.clone())
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        Value::Array(elements) => {
            let texts = elements.iter().map(|e| string(e, "text").map_or_else(|| text_of(e), str::to_owned));
            texts.filter(|t| !t.is_empty()).collect::<Vec<_>>().join("\n")
        }
        other => json_text(other),
    }
}

/// An event with a payload: its name, its payload, and the inner payload where it is wrapped twice.
fn event(raw: &Value) -> Option<(&str, &Value, &Value)> {
    const MARKS: [&str; 7] = ["item", "tool", "turn", "kind", "output", "result", "error"];
    let payload = raw.get("payload").filter(|p| p.is_object())?;
    let name = string(raw, "event").or_else(|| string(payload, "event"))?;
    let nested = payload.get("payload").filter(|p| p.is_object());
    let inner = nested.filter(|n| payload["event"].is_string() || MARKS.iter().any(|m| n.get(m).is_some()));
    Some((name, payload, inner.unwrap_or(payload)))
}

fn event_call(raw: &Value) -> Option<Map<String, Value>> {
    let (name, payload, inner) = event(raw)?;
    let nothing = Value::Null;
    match name {
        "tool.started" => {
            let tool = &inner["tool"];
            let own = |key| string(inner, key).or_else(|| string(tool, key));
            let params = first(inner, &INPUT).or_else(|| first(tool, &TOOL_INPUT));
            Some(made(own("name"), params, own("id"), own("status")))
        }
        "item.started" => {
            let item = &inner["item"];
            let tool = inner.get("tool").or_else(|| item.get("tool")).unwrap_or(&nothing);
            let metadata = &item["metadata"];
            let name = string(tool, "name")
                .or_else(|| string(inner, "name"))
                .or_else(|| string(item, "name"))
                .or_else(|| inferred(item))
                .or_else(|| string(item, "type"));
            let own = |key| string(tool, key).or_else(|| string(inner, key)).or_else(|| string(item, key));
            let command = ["command", "cmd"].iter().find_map(|key| Some((*key, first(metadata, &[*key])?)));
            let command = command.map(|(key, value)| Value::Object(one(key, value.clone())));
            let params = first(tool, &TOOL_INPUT)
                .or_else(|| first(inner, &INPUT))
                .or_else(|| first(item, &INPUT))
                .or_else(|| first(metadata, &INPUT))
                .or(command.as_ref())
                .or_else(|| first(item, &["detail"]))
                .or_else(|| Some(tool).filter(|t| !t.is_null()))
                .or_else(|| Some(item).filter(|i| !i.is_null()));
            let id = string(tool, "id").or_else(|| string(inner, "id")).or_else(|| string(item, "id"));
            let id = id.or_else(|| string(payload, "item_id"));
            Some(made(name, params, id, own("status")))
        }
        _ => None,
    }
}

fn event_result(raw: &Value) -> Option<Map<String, Value>> {
    let (name, payload, inner) = event(raw)?;
    match name {
        "tool.completed" => {
            let said = first(inner, &["output", "result", "content", "error"]).unwrap_or(inner);
            Some(told(string(inner, "name"), text_of(said), string(inner, "id")))
        }
        "item.completed" | "item.failed" => {
            let item = &inner["item"];
            let said = first(item, &["output", "result", "content", "detail", "summary", "error"])
                .or_else(|| first(inner, &["output", "result", "error"]))
                .or_else(|| Some(item).filter(|i| !i.is_null()))
                .unwrap_or(inner);
            let name = string(item, "name")
                .or_else(|| inferred(item))
                .or_else(|| string(inner, "name"))
                .or_else(|| string(item, "type"));
            let id = string(item, "id").or_else(|| string(inner, "id")).or_else(|| string(payload, "item_id"));
            Some(told(name, text_of(said), id))
        }
        _ => None,
    }
}

/// The name of a tool from what an item says about itself, such as `exec_shell started`.
fn inferred(item: &Value) -> Option<&str> {
    ["summary", "detail"].iter().find_map(|key| leading_name(string(item, key)?).filter(|n| *n != "tool_call"))
}

fn leading_name(said: &str) -> Option<&str> {
    const VERBS: [&str; 5] = ["started", "completed", "failed", "returned", ":"];
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"_.:-".contains(&b);
    let length = said.bytes().take_while(|b| is_name(*b)).count();
    (1..=length).rev().find_map(|end| {
        let (name, rest) = said.split_at(end);
        let rest = rest.trim_start();
        VERBS.iter().any(|verb| rest.starts_with(verb)).then_some(name)
    })
}

fn item_call(item: &Value) -> Option<Map<String, Value>> {
    item.as_object()?;
    let mut params = Map::new();
    let mut take = |of: &Value, keys: &[&str]| {
        for key in keys {
            let value = first(of, &[*key]).filter(|v| v.as_str() != Some(""));
            params.extend(value.map(|v| ((*key).to_owned(), v.clone())));
        }
    };
    take(item, &ITEM_PARAMS);
    if item["action"].is_object() {
        take(&item["action"], &["query", "url", "command", "path"]);
    }
    let name = string(item, "type").or_else(|| string(item, "name")).or_else(|| string(item, "tool"));
    Some(made(name, Some(&Value::Object(params)), string(item, "id"), string(item, "status")))
}

fn item_result(item: &Value) -> Option<Map<String, Value>> {
    item.as_object()?;
    let mut lines = Vec::new();
    lines.extend(string(item, "status").map(|s| format!("status: {s}")));
    let code = first(item, &["exit_code", "exitCode"]);
    lines.extend(code.and_then(|code| match code {
        Value::Number(n) => Some(format!("exit_code: {n}")),
        Value::String(s) => Some(format!("exit_code: {s}")),
        _ => None,
    }));
    for key in ["output", "stdout", "stderr", "aggregated_output", "result", "summary"] {
        lines.extend(item[key].as_str().map(trim).filter(|s| !s.is_empty()).map(str::to_owned));
    }
    let results = item["results"].as_array().filter(|r| !r.is_empty());
    lines.extend(results.map(|_| json_text(&item["results"])));
    let text = if lines.is_empty() { json_text(item) } else { lines.join("\n") };
    Some(told(string(item, "type").or_else(|| string(item, "name")), text, string(item, "id")))
}

fn listed_call(raw: &Value) -> Option<Map<String, Value>> {
    let call = raw.get("tool_calls")?.as_array()?.iter().find(|c| c.is_object())?;
    let function = &call["function"];
    let params = first(function, &["arguments"]).or_else(|| first(call, &["arguments", "input", "rawInput"]));
    Some(made(string(function, "name").or_else(|| string(call, "name")), params, string(call, "id"), None))
}

/// An update about a tool, and the tool.
fn update(raw: &Value) -> Option<(&Value, &Value)> {
    [&raw["params"]["update"], &raw["update"]].into_iter().find_map(|update| {
        let tool =
            ["toolCall", "tool_call", "tool"].iter().find_map(|key| update.get(*key).filter(|t| t.is_object()))?;
        Some((update, tool))
    })
}

fn update_name<'v>(update: &'v Value, tool: &'v Value) -> Option<&'v str> {
    string(tool, "name").or_else(|| string(update, "name"))
}

fn update_id<'v>(update: &'v Value, tool: &'v Value) -> Option<&'v str> {
    string(tool, "id").or_else(|| string(update, "toolCallId"))
}
