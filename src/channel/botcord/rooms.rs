//! What an agent knows about its rooms, for its prompt (the hub's protocol, §§16.1 and 16.2). All of it is untrusted.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::api::RoomQuery;
use super::far::Far;
use crate::engine::ports::{RecentMessage, RoomContext};
use crate::message::{ConversationKind, Inbound};

/// How long a room is taken to be as it was.
const FRESH: Duration = Duration::from_mins(5);
/// Rooms that are remembered; the one asked for longest ago makes room.
const ROOMS: usize = 64;
/// Members of a room that are remembered.
const MEMBERS: usize = 500;
/// Messages that a session which begins anew is told.
const RECENT: usize = 20;
/// How long somebody waits for an answer that another one has asked for.
const PATIENCE: Duration = Duration::from_secs(40);

enum Slot {
    Known(Arc<RoomContext>, Instant),
    /// Somebody asks for it; what was known before serves nobody.
    Asked,
}

/// The rooms of one agent.
pub struct Rooms {
    far: Arc<dyn Far>,
    slots: Mutex<HashMap<String, Slot>>,
    answered: Condvar,
}

impl Rooms {
    /// Nothing is known yet.
    pub fn new(far: Arc<dyn Far>) -> Self {
        Self { far, slots: Mutex::default(), answered: Condvar::new() }
    }

    /// The room of a message, if it is a group's and the hub tells. Whoever asks for a room that somebody asks for
    /// already gets the same answer.
    pub fn context(&self, message: &Inbound) -> Option<RoomContext> {
        let id = &message.conversation.id;
        let is_group = message.conversation.kind == ConversationKind::Group
            && id.starts_with("rm_")
            && !["rm_dm_", "rm_oc_"].iter().any(|prefix| id.starts_with(prefix));
        if !is_group {
            return None;
        }
        let end = Instant::now() + PATIENCE;
        let mut slots = self.lock();
        loop {
            match slots.get(id) {
                Some(Slot::Known(room, at)) if at.elapsed() < FRESH => return Some(room.as_ref().clone()),
                Some(Slot::Asked) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    slots = self.answered.wait_timeout(slots, left).unwrap_or_else(PoisonError::into_inner).0;
                    if !slots.contains_key(id) {
                        // It failed, and would again.
                        return None;
                    }
                }
                _ => break,
            }
        }
        make_room(&mut slots);
        slots.insert(id.clone(), Slot::Asked);
        drop(slots);
        let asking = Asking { rooms: self, id };
        let room = self.ask(id);
        let mut slots = self.lock();
        if let Some(room) = &room {
            slots.insert(id.clone(), Slot::Known(Arc::new(room.clone()), Instant::now()));
        }
        drop(slots);
        drop(asking);
        room
    }

    fn ask(&self, id: &str) -> Option<RoomContext> {
        let room = match self.far.room(id) {
            Ok(room) => room,
            Err(e) => {
                log::warn!("botcord.room_unknown agent={} room={id} error={:?}", self.far.agent(), e.to_string());
                return None;
            }
        };
        let members = room.members.into_iter().take(MEMBERS);
        Some(RoomContext {
            id: room.room_id,
            name: room.name,
            description: room.description,
            visibility: room.visibility,
            join: room.join_policy,
            members: members
                .map(|m| (m.display_name.filter(|n| !n.trim().is_empty()).unwrap_or(m.agent_id), m.role))
                .collect(),
        })
    }

    /// The latest messages of a message's room, of its topic where it has one; oldest first. `None`: not to be had.
    pub fn recent(&self, message: &Inbound) -> Option<Vec<RecentMessage>> {
        let room = &message.conversation.id;
        if !room.starts_with("rm_") {
            return None;
        }
        let topic_id = message.conversation.thread_id.as_deref().filter(|t| t.starts_with("tp_"));
        let query = RoomQuery { limit: RECENT, topic_id, ..RoomQuery::default() };
        match self.far.room_messages(room, query) {
            Ok(page) => {
                let messages = page.messages.into_iter().take(RECENT).map(|m| RecentMessage {
                    at: m.ts,
                    from: m.from_name.filter(|n| !n.is_empty()).or_else(|| m.from.clone()),
                    from_id: m.from,
                    topic: m.topic_title.filter(|t| !t.is_empty()).or(m.topic_id),
                    text: m.text,
                });
                let mut messages: Vec<RecentMessage> = messages.collect();
                messages.reverse();
                Some(messages)
            }
            Err(e) => {
                log::warn!("botcord.messages_unknown agent={} room={room} error={:?}", self.far.agent(), e.to_string());
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets what is old, and the oldest of what is not when there is no room for more.
fn make_room(slots: &mut HashMap<String, Slot>) {
    slots.retain(|_, slot| !matches!(slot, Slot::Known(_, at) if at.elapsed() >= FRESH));
    if slots.len() < ROOMS {
        return;
    }
    let known = slots.iter().filter_map(|(id, slot)| match slot {
        Slot::Known(_, at) => Some((*at, id.clone())),
        Slot::Asked => None,
    });
    if let Some((_, id)) = known.min() {
        slots.remove(&id);
    }
}

/// Somebody asks for a room. When that is over, also by a panic, the others wait no more.
struct Asking<'a> {
    rooms: &'a Rooms,
    id: &'a str,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut slots = self.rooms.lock();
        if matches!(slots.get(self.id), Some(Slot::Asked)) {
            slots.remove(self.id);
        }
        self.rooms.answered.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeHub, refused};
    use super::*;

    fn message(room: &str, thread: Option<&str>) -> Inbound {
        let document = serde_json::json!({
            "id": "h_1", "channel": "ag_1", "accountId": "ag_1", "sender": {"id": "ag_2", "kind": "agent"},
            "conversation": {"id": room, "kind": "group", "threadId": thread}, "text": "hi", "receivedAt": 0,
        });
        crate::message::document::parse(&document).unwrap()
    }

    #[test]
    fn a_room_is_asked_for_once_and_a_failure_is_not_kept() {
        let hub = Arc::new(FakeHub::answering([Some(refused(404, "room_not_found"))]));
        let rooms = Rooms::new(Arc::clone(&hub) as Arc<dyn Far>);
        let lab = message("rm_1", None);
        assert_eq!(rooms.context(&lab), None);
        assert_eq!(rooms.context(&lab).unwrap().name.as_deref(), Some("Lab"));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(rooms.context(&lab).is_some()));
            }
        });
        for room in ["rm_dm_a_b", "rm_oc_1", "telegram:group:1"] {
            assert_eq!(rooms.context(&message(room, None)), None);
        }
        assert_eq!(hub.calls(), ["room rm_1"; 2]);
    }

    #[test]
    fn who_asks_at_the_same_time_shares_an_answer() {
        let hub = Arc::new(FakeHub::default());
        let rooms = Rooms::new(Arc::clone(&hub) as Arc<dyn Far>);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert!(rooms.context(&message("rm_1", None)).is_some()));
            }
        });
        assert_eq!(hub.calls(), ["room rm_1"]);
    }

    #[test]
    fn rooms_are_bounded() {
        let rooms = Rooms::new(Arc::new(FakeHub::default()));
        for n in 0..ROOMS + 10 {
            rooms.context(&message(&format!("rm_{n}"), None));
        }
        assert_eq!(rooms.lock().len(), ROOMS);
    }

    #[test]
    fn messages_are_those_of_the_topic() {
        let hub = Arc::new(FakeHub::answering([None, None, Some(refused(403, "not_a_member"))]));
        let rooms = Rooms::new(Arc::clone(&hub) as Arc<dyn Far>);
        assert_eq!(rooms.recent(&message("rm_1", Some("tp_1"))), Some(Vec::new()));
        assert_eq!(rooms.recent(&message("rm_1", Some("A title"))), Some(Vec::new()));
        assert_eq!(rooms.recent(&message("rm_1", None)), None);
        assert_eq!(hub.calls(), ["messages rm_1 Some(\"tp_1\")", "messages rm_1 None", "messages rm_1 None"]);
    }
}
