//! From an inbox message of the hub to an [`Inbound`] (the hub's protocol, §11). Pure.
//!
//! An inbox message is read leniently: what has a wrong type counts as absent, unless the message could not be
//! understood without it. Text that does not come from the owner is sanitised here, so that nothing behind this module
//! sees it otherwise.

use serde_json::{Map, Value, json};

use crate::message::{Inbound, SenderKind, document};
use crate::sanitize;
use crate::text;

/// For whom messages are read.
#[derive(Clone, Copy, Debug)]
pub struct Me<'a> {
    /// Id of the channel.
    pub channel: &'a str,
    /// Id of the agent.
    pub agent: &'a str,
}

/// Why a message starts no turn. It is acknowledged all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// It is no object, or has no envelope.
    Malformed,
    /// Its type is for nobody's eyes, such as a receipt.
    Type,
    /// It belongs to no room.
    NoRoom,
    /// Somebody who wants to be a contact; a person decides about that elsewhere.
    ContactRequest,
    /// Its text is no text.
    Text,
    /// The agent said it itself.
    OwnEcho,
}

impl Skip {
    /// A word for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Type => "type",
            Self::NoRoom => "no_room",
            Self::ContactRequest => "contact_request",
            Self::Text => "text",
            Self::OwnEcho => "own_echo",
        }
    }
}

/// What a message is grouped by, and what keeps it out of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kin {
    /// The room.
    pub room: String,
    /// The topic's id, else its title, else nothing.
    pub thread: String,
    /// Whether its text has the owner's authority, which it must not lend to others.
    pub owner: bool,
    /// Whether it is accounted for by itself.
    pub alone: bool,
    /// Length of its text in UTF-16 units.
    pub units: usize,
}

/// The hub's id of a message, under which it is acknowledged.
pub fn hub_id(raw: &Value) -> Option<&str> {
    filled(raw, "hub_msg_id")
}

/// Whether a message starts a turn, and which ones it belongs to.
pub fn usable(raw: &Value, me: Me<'_>) -> Result<Kin, Skip> {
    let envelope = raw.get("envelope").filter(|e| e.is_object()).ok_or(Skip::Malformed)?;
    let kind = envelope.get("type").and_then(Value::as_str).unwrap_or_default();
    if !matches!(kind, "message" | "contact_request" | "cloud_run") {
        return Err(Skip::Type);
    }
    let Some(room) = filled(raw, "room_id") else {
        return Err(if kind == "contact_request" { Skip::ContactRequest } else { Skip::NoRoom });
    };
    if !matches!(raw.get("text"), None | Some(Value::Null | Value::String(_))) {
        return Err(Skip::Text);
    }
    let owner = is_owners(raw);
    if sender_kind(raw) == SenderKind::Agent && filled(envelope, "from") == Some(me.agent) {
        return Err(Skip::OwnEcho);
    }
    let thread = thread(raw).unwrap_or_default().to_owned();
    let units = text::len_utf16(words(raw));
    Ok(Kin { room: room.to_owned(), thread, owner, alone: kind == "cloud_run", units })
}

/// One message to the engine from the inbox messages of a group, oldest first: what the last one says, with the texts of
/// all. All of them are [`usable`], have an id and the same trust. `None` for an empty group, or for a message that is
/// not usable after all.
pub fn group(raws: Vec<Value>, me: Me<'_>, now: i64) -> Option<Inbound> {
    let mut raw = raws.last()?.clone();
    let owner = is_owners(&raw);
    let mut said = words(&raw);
    if text::trim(said).is_empty() {
        said = raws.iter().rev().map(words).find(|w| !text::trim(w).is_empty()).unwrap_or(said);
    }
    let said = if owner { said.to_owned() } else { sanitize::content(said) };
    let mentioned = raws.iter().any(|m| m.get("mentioned") == Some(&Value::Bool(true)));
    let batch = raws.len() > 1;
    if batch {
        raw.as_object_mut()?.insert("batch".into(), Value::Array(raws));
    }
    let mut message = document::parse(&document_of(raw, said, mentioned, me, now)?).ok()?;
    // Runs come from the agent itself, by the hub. What somebody else calls one is not ours to account for.
    if message.sender.id != me.agent
        && let Some(run) = &mut message.cloud_run
    {
        run.settle_usage = false;
    }
    for entry in &mut message.entries {
        if owner {
            entry.sender_kind = SenderKind::User;
        } else if batch {
            entry.text = sanitize::content(&entry.text);
        }
    }
    Some(message)
}

/// The message document that the rest of the program reads.
fn document_of(raw: Value, said: String, mentioned: bool, me: Me<'_>, now: i64) -> Option<Value> {
    let id = hub_id(&raw)?.to_owned();
    let room = filled(&raw, "room_id")?.to_owned();
    let kind = if room.starts_with("rm_dm_") || room.starts_with("rm_oc_") { "direct" } else { "group" };
    let envelope = raw.get("envelope")?;
    let sender = match sender_kind(&raw) {
        SenderKind::User => "user",
        _ => "agent",
    };
    let trace = json!({"id": id, "streamable": room.starts_with("rm_oc_")});
    let conversation = json!({"id": room, "kind": kind, "title": filled(&raw, "room_name"), "threadId": thread(&raw)});
    let from = filled(envelope, "from").unwrap_or_default();
    let sender = json!({"id": from, "name": filled(&raw, "source_user_name"), "kind": sender});
    let reply_to = filled(envelope, "reply_to").into();
    let mut document = Map::new();
    for (key, value) in [
        ("id", id.into()),
        ("channel", me.channel.into()),
        ("accountId", me.agent.into()),
        ("conversation", conversation),
        ("sender", sender),
        ("text", said.into()),
        ("replyTo", reply_to),
        ("mentioned", mentioned.into()),
        ("receivedAt", now.into()),
        ("trace", trace),
        ("raw", raw),
    ] {
        document.insert(key.into(), value);
    }
    Some(document.into())
}

fn thread(raw: &Value) -> Option<&str> {
    ["topic_id", "topic"].iter().find_map(|key| raw.get(*key)?.as_str())
}

/// The text as the hub renders it, else the sender's own; not yet sanitised.
fn words(raw: &Value) -> &str {
    raw.get("text")
        .and_then(Value::as_str)
        .or_else(|| raw.get("envelope")?.get("payload")?.get("text")?.as_str())
        .unwrap_or_default()
}

/// Owner trust: the owner's chat, or what the owner started.
fn is_owners(raw: &Value) -> bool {
    filled(raw, "room_id").is_some_and(|room| room.starts_with("rm_oc_"))
        || matches!(filled(raw, "source_type"), Some("dashboard_user_chat" | "cloud_agent_run"))
}

fn sender_kind(raw: &Value) -> SenderKind {
    let person = is_owners(raw) || filled(raw, "source_type") == Some("dashboard_human_room");
    if person { SenderKind::User } else { SenderKind::Agent }
}

/// A member that is a text and not empty.
fn filled<'v>(of: &'v Value, key: &str) -> Option<&'v str> {
    of.get(key)?.as_str().filter(|s| !s.is_empty())
}
