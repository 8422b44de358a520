//! What was said in a conversation, as its transcript tells it: for channels whose far side does not.

use std::path::Path;

use serde::Deserialize;

use super::read;
use crate::engine::ports::RoomMessage;
use crate::json;

/// Records among which messages are looked for: most records are blocks.
const RECENT: usize = 2_000;

/// What is read of a record.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    kind: String,
    ts: String,
    #[serde(default)]
    message_id: Option<String>,
    #[serde(default)]
    sender: Option<Sender>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    final_text: Option<String>,
    #[serde(default)]
    delivery_status: Option<String>,
}

#[derive(Deserialize)]
struct Sender {
    id: String,
    #[serde(default)]
    name: Option<String>,
}

/// The last messages, oldest first, at most `limit`. What the agent said and nobody got is left out. Nothing where there
/// is no transcript.
pub(super) fn read(agents: &Path, agent: &str, room: &str, topic: Option<&str>, limit: usize) -> Vec<RoomMessage> {
    let lines = read::tail(&read::locate(agents, agent, room, topic), RECENT).unwrap_or_default();
    let seen = lines.iter().rev().filter_map(|line| json::from_str(line).ok());
    let mut messages: Vec<_> = seen.filter_map(|seen| message(seen, agent, topic)).take(limit).collect();
    messages.reverse();
    messages
}

fn message(seen: Seen, agent: &str, topic: Option<&str>) -> Option<RoomMessage> {
    let (text, from, name) = match (seen.kind.as_str(), seen.delivery_status.as_deref()) {
        ("inbound", _) => {
            let Sender { id, name } = seen.sender?;
            (seen.text, id, name)
        }
        ("outbound", Some("delivered")) => (seen.final_text, agent.to_owned(), None),
        ("said", Some("delivered")) => (seen.text, agent.to_owned(), None),
        _ => return None,
    };
    Some(RoomMessage {
        id: seen.message_id,
        at: Some(seen.ts),
        from: Some(from),
        name,
        room: None,
        topic: topic.map(str::to_owned),
        text: text.filter(|t| !t.trim().is_empty())?,
    })
}
