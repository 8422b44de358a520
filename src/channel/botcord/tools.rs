//! What an agent asks its hub by its own commands while its turn runs: look-ups, files, word to its owner.
//!
//! Sending is not here: what is said goes through the engine like every answer. Nothing is kept: whoever asks wants to
//! know how it is now.

use std::sync::Arc;

use serde_json::Value;

use super::api::{Api, RoomQuery};
use super::error::ApiError;
use super::files;
use super::wire::{Member, Room};
use crate::engine::ports::{Found, Look, RoomInfo, RoomMember, RoomMessage, RoomTools, RoomTopic, ToolError, Uploaded};
use crate::message::Attachment;

/// The commands of one agent at its hub.
pub struct Tools {
    api: Arc<Api>,
}

impl Tools {
    /// Those of the agent whose hub this is.
    pub fn new(api: Arc<Api>) -> Self {
        Self { api }
    }

    fn history(&self, room: &str, topic: Option<&str>, before: Option<&str>, limit: u32) -> Result<Found, ApiError> {
        // A topic is named by its title or its id; the hub filters by id.
        let topic = match topic {
            Some(topic) if !topic.starts_with("tp_") => {
                let topics = self.api.topics(room)?;
                let found = topics.into_iter().find(|t| t.title.as_deref() == Some(topic));
                Some(found.ok_or(ApiError::Request("the room has no topic of this title"))?.topic_id)
            }
            topic => topic.map(str::to_owned),
        };
        let query = RoomQuery { limit: limit as usize, before, topic_id: topic.as_deref(), ..RoomQuery::default() };
        let page = self.api.room_messages(room, query)?;
        let messages = page.messages.into_iter().rev().map(|m| RoomMessage {
            id: Some(m.hub_msg_id),
            at: m.ts,
            from: m.from,
            name: m.from_name,
            room: None,
            topic: m.topic_title.or(m.topic_id),
            text: m.text,
        });
        Ok(Found { messages: messages.collect(), more: page.has_more, ..Found::default() })
    }

    fn search(&self, room: Option<&str>, words: &[String], limit: u32) -> Result<Found, ApiError> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answer = self.api.search(room, &words, limit as usize)?;
        let hits =
            answer.get("results").and_then(Value::as_array).ok_or(ApiError::Answer("a search without results"))?;
        let hit = |hit: &Value| {
            let text = |key: &str| hit.get(key).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
            Some(RoomMessage {
                id: text("hub_msg_id"),
                at: text("ts"),
                from: text("from"),
                name: text("from_name"),
                room: text("room_id").filter(|_| room.is_none()),
                topic: text("topic_title").or_else(|| text("topic_id")),
                text: text("snippet")?,
            })
        };
        let more = answer.get("has_more").and_then(Value::as_bool).unwrap_or_default();
        Ok(Found { messages: hits.iter().filter_map(hit).collect(), more, ..Found::default() })
    }

    fn rooms(&self, limit: u32) -> Result<Found, ApiError> {
        let mut rooms: Vec<RoomInfo> = self.api.rooms_me()?.into_iter().map(info).collect();
        let more = rooms.len() > limit as usize;
        rooms.truncate(limit as usize);
        Ok(Found { rooms, more, ..Found::default() })
    }

    fn topics(&self, room: &str) -> Result<Found, ApiError> {
        let topic =
            |t: super::wire::Topic| RoomTopic { id: t.topic_id, title: t.title, status: t.status, goal: t.goal };
        Ok(Found { topics: self.api.topics(room)?.into_iter().map(topic).collect(), ..Found::default() })
    }
}

fn info(room: Room) -> RoomInfo {
    let member = |m: Member| RoomMember { id: m.agent_id, name: m.display_name, role: m.role };
    RoomInfo {
        id: room.room_id,
        name: room.name,
        description: room.description,
        rule: room.rule,
        visibility: room.visibility,
        join: room.join_policy,
        members: room.members.into_iter().map(member).collect(),
    }
}

impl RoomTools for Tools {
    fn look(&self, _agent: &str, look: &Look) -> Result<Found, ToolError> {
        let found = match look {
            Look::History { room, topic, before, limit } => {
                self.history(room, topic.as_deref(), before.as_deref(), *limit)
            }
            Look::Room { room } => {
                self.api.room(room).map(|room| Found { rooms: vec![info(room)], ..Found::default() })
            }
            Look::Rooms { limit } => self.rooms(*limit),
            Look::Topics { room } => self.topics(room),
            Look::Search { room, words, limit } => self.search(room.as_deref(), words, *limit),
        };
        found.map_err(refused)
    }

    fn upload(&self, _agent: &str, file: &Attachment) -> Result<Uploaded, ToolError> {
        let (mut opened, size) =
            files::open(&file.file_path).map_err(|why| ToolError::Refused(format!("{}: {why}", file.filename)))?;
        let kind = file.content_type.as_deref().unwrap_or("application/octet-stream");
        let upload = self.api.upload(&mut opened, size, &file.filename, kind).map_err(refused)?;
        let bytes = upload.size_bytes.unwrap_or(size);
        Ok(Uploaded { url: upload.url, filename: upload.original_filename, bytes, expires_at: None })
    }

    fn notify_owner(&self, _agent: &str, text: &str) -> Result<(), ToolError> {
        self.api.notify_owner(text).map_err(refused)
    }
}

/// The hub's word for what is wrong, where it has one.
fn refused(error: ApiError) -> ToolError {
    match &error {
        ApiError::Refused(refusal)
            if (400..500).contains(&refusal.status) && refusal.status != 429 && !refusal.of_refresh =>
        {
            ToolError::Refused(refusal.code.clone().unwrap_or_else(|| format!("the hub answers {}", refusal.status)))
        }
        ApiError::Request(why) => ToolError::Refused((*why).to_owned()),
        _ => ToolError::Failed(error.to_string()),
    }
}
