//! Where an agent was last active, so that it can be told in one room what goes on in the others.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{files, sanitize, sender};
use crate::message::Inbound;
use crate::text;

/// Entries older than this are dropped, in milliseconds.
pub const KEPT_MS: i64 = 7 * 24 * 3_600_000;
/// Entries kept over all agents; beyond it the oldest goes.
const CAPACITY: usize = 10_000;
/// The file is written at most once in so many milliseconds.
const WRITE_EVERY_MS: i64 = 1_000;
/// Length of a preview, in UTF-16 units.
const PREVIEW_LIMIT: usize = 120;
/// Largest file that is read, in bytes.
const FILE_LIMIT: u64 = 32 * 1_024 * 1_024;

/// The last thing that happened in one room (or topic) of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Activity {
    /// The agent.
    pub agent_id: String,
    /// The room.
    pub room_id: String,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_name: Option<String>,
    /// The topic inside it.
    #[serde(default)]
    pub topic: Option<String>,
    /// When, in Unix milliseconds.
    pub last_activity_at: i64,
    /// Beginning of what was said.
    #[serde(default)]
    pub last_inbound_preview: String,
    /// `owner`, `human` or `agent`.
    #[serde(default)]
    pub last_sender_kind: String,
    /// Who said it.
    #[serde(default)]
    pub last_sender: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    version: u8,
    entries: BTreeMap<String, Activity>,
}

#[derive(Debug, Default)]
struct State {
    document: Document,
    loaded: bool,
    dirty: bool,
    written_at: i64,
}

/// Remembers activity in a file, which is read when it is first needed.
#[derive(Debug)]
pub struct Tracker {
    path: PathBuf,
    state: Mutex<State>,
}

impl Tracker {
    /// A tracker whose file is `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), state: Mutex::default() }
    }

    /// Notes a message, at `now`. Writes the file unless that was done less than a second ago; what is then left
    /// unwritten goes with the next message or with [`Tracker::flush`].
    pub fn record(&self, message: &Inbound, now: i64) {
        let mut state = self.loaded();
        let entries = &mut state.document.entries;
        let activity = describe(message, now);
        entries
            .insert(format!("{}:{}:{}", activity.agent_id, activity.room_id, message.conversation.thread()), activity);
        if entries.len() > CAPACITY {
            let oldest = entries.iter().min_by_key(|(_, e)| e.last_activity_at).map(|(k, _)| k.clone());
            oldest.and_then(|k| entries.remove(&k));
        }
        state.dirty = true;
        if !(0..WRITE_EVERY_MS).contains(&(now - state.written_at)) {
            self.write(&mut state, now);
        }
    }

    /// Other rooms and topics in which the agent was active since `since`, newest first.
    pub fn others(&self, message: &Inbound, since: i64) -> Vec<Activity> {
        let state = self.loaded();
        let conversation = &message.conversation;
        let mut found: Vec<Activity> = state
            .document
            .entries
            .values()
            .filter(|e| e.agent_id == message.account_id && e.last_activity_at >= since)
            .filter(|e| e.room_id != conversation.id || e.topic.as_deref().unwrap_or("") != conversation.thread())
            .cloned()
            .collect();
        found.sort_by_key(|e| std::cmp::Reverse(e.last_activity_at));
        found
    }

    /// Writes what is not written yet. For the end of the daemon.
    pub fn flush(&self, now: i64) {
        let mut state = self.loaded();
        if state.dirty {
            self.write(&mut state, now);
        }
    }

    fn loaded(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.loaded {
            state.loaded = true;
            let content = files::read_at_most(&self.path, FILE_LIMIT).unwrap_or_default();
            state.document = serde_json::from_slice(&content).unwrap_or_default();
        }
        state
    }

    fn write(&self, state: &mut State, now: i64) {
        state.document.version = 1;
        state.document.entries.retain(|_, e| now.saturating_sub(e.last_activity_at) <= KEPT_MS);
        state.written_at = now;
        state.dirty = false;
        let dir = self.path.parent().map_or(Ok(()), files::create_private_dir);
        if let Err(e) = dir.and_then(|()| files::write_json(&self.path, &state.document)) {
            state.dirty = true;
            log::warn!("activity.not_written path={} error={e}", self.path.display());
        }
    }
}

fn describe(message: &Inbound, now: i64) -> Activity {
    let (party, name) = sender::classify(message);
    let said = if party == sender::Party::Owner { message.text.clone() } else { sanitize::body(&message.text) };
    Activity {
        agent_id: message.account_id.clone(),
        room_id: message.conversation.id.clone(),
        room_name: message.conversation.title.clone(),
        topic: message.conversation.thread_id.clone(),
        last_activity_at: now,
        last_inbound_preview: text::head(&said, PREVIEW_LIMIT).to_owned(),
        last_sender_kind: party.as_str().to_owned(),
        last_sender: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::files::tests::TempDir;
    use super::*;
    use crate::message::document;

    fn message(room: &str, topic: &str) -> Inbound {
        document::parse(&json!({
            "id": "1", "channel": "c", "accountId": "ag_me",
            "conversation": {"id": room, "kind": "group", "threadId": topic},
            "sender": {"id": "hu_1", "name": "Al", "kind": "user"}, "text": "hello", "receivedAt": 0
        }))
        .unwrap()
    }

    #[test]
    fn other_rooms_are_listed_newest_first_also_after_a_restart() {
        let dir = TempDir::new("activity");
        let path = dir.path().join("daemon/activity.json");
        let tracker = Tracker::new(&path);
        for (n, room) in ["rm_1", "rm_2", "rm_3"].iter().enumerate() {
            tracker.record(&message(room, ""), 10_000 + n as i64);
        }
        tracker.flush(10_010);
        let tracker = Tracker::new(&path);
        let rooms: Vec<_> = tracker.others(&message("rm_3", ""), 0).into_iter().map(|e| e.room_id).collect();
        assert_eq!(rooms, ["rm_2", "rm_1"]);
        assert_eq!(tracker.others(&message("rm_3", "tp_1"), 10_002).len(), 1);
    }

    #[test]
    fn old_entries_vanish_and_a_bad_file_is_empty() {
        let dir = TempDir::new("activity-old");
        let path = dir.path().join("activity.json");
        std::fs::write(&path, "[]").unwrap();
        let tracker = Tracker::new(&path);
        tracker.record(&message("rm_1", ""), 1_000);
        tracker.record(&message("rm_2", ""), 1_001 + KEPT_MS);
        let document: Document = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(document.entries.keys().collect::<Vec<_>>(), ["ag_me:rm_2:"]);
    }
}
