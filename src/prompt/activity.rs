//! Where an agent was last active, so that it can be told in one room what goes on in the others.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{files, sender};
use crate::json;
use crate::message::Inbound;
use crate::sanitize;
use crate::text;
use crate::thread;

/// Entries older than this are dropped, in milliseconds.
pub const KEPT_MS: i64 = 7 * 24 * 3_600_000;
/// Entries kept over all agents; beyond it the oldest goes.
const CAPACITY: usize = 10_000;
/// How long a change may wait for its write; so the file is written at most once in this time.
const WRITE_DELAY: Duration = Duration::from_secs(1);
/// Version of the file's format.
const VERSION: u64 = 1;
/// How many entries are written at a time.
const AT_A_TIME: usize = 256;
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

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<String, Activity>,
    loaded: bool,
    dirty: bool,
    /// A thread waits to write.
    writing: bool,
}

/// Remembers activity in a file, which is read when it is first needed and written behind the messages.
#[derive(Clone, Debug)]
pub struct Tracker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    state: Mutex<State>,
}

impl Tracker {
    /// A tracker whose file is `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { shared: Arc::new(Shared { path: path.into(), state: Mutex::default() }) }
    }

    /// Notes a message, at `now`. The file follows within a second, on a thread of its own: nobody waits for it.
    pub fn record(&self, message: &Inbound, now: i64) {
        let mut state = self.shared.loaded();
        let entries = &mut state.entries;
        let activity = describe(message, now);
        entries
            .insert(format!("{}:{}:{}", activity.agent_id, activity.room_id, message.conversation.thread()), activity);
        if entries.len() > CAPACITY {
            let oldest = entries.iter().min_by_key(|(_, e)| e.last_activity_at).map(|(k, _)| k.clone());
            oldest.and_then(|k| entries.remove(&k));
        }
        state.dirty = true;
        if std::mem::replace(&mut state.writing, true) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let spawned = thread::spawn("activity", move || {
            std::thread::sleep(WRITE_DELAY);
            let mut state = shared.loaded();
            state.writing = false;
            shared.write(state, files::now_ms());
        });
        if let Err(e) = spawned {
            state.writing = false;
            log::warn!("activity.thread_failed error={e}");
        }
    }

    /// The `most` latest of the other rooms and topics in which the agent was active since `since`, newest first,
    /// and how many there are.
    pub fn others(&self, message: &Inbound, since: i64, most: usize) -> (Vec<Activity>, usize) {
        let state = self.shared.loaded();
        let conversation = &message.conversation;
        let mut found: Vec<&Activity> = state
            .entries
            .values()
            .filter(|e| e.agent_id == message.account_id && e.last_activity_at >= since)
            .filter(|e| e.room_id != conversation.id || e.topic.as_deref().unwrap_or("") != conversation.thread())
            .collect();
        crate::sort::sort_by_key(&mut found, |e| std::cmp::Reverse(e.last_activity_at));
        (found.iter().take(most).copied().cloned().collect(), found.len())
    }

    /// Writes what is not written yet. For the end of the daemon.
    pub fn flush(&self, now: i64) {
        self.shared.write(self.shared.loaded(), now);
    }
}

impl Shared {
    fn loaded(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.loaded {
            state.loaded = true;
            let content = files::read_at_most(&self.path, FILE_LIMIT).unwrap_or_default();
            let mut entries = BTreeMap::new();
            let read = json::for_each_in(&content, "entries", &mut |key, value| {
                if let Ok(activity) = json::from_value(&value) {
                    entries.insert(key, activity);
                }
            });
            if read.is_ok() {
                state.entries = entries;
            }
        }
        state
    }

    /// Writes if something changed; messages go on meanwhile.
    fn write(&self, mut state: MutexGuard<'_, State>, now: i64) {
        if !std::mem::take(&mut state.dirty) {
            return;
        }
        state.entries.retain(|_, e| now.saturating_sub(e.last_activity_at) <= KEPT_MS);
        drop(state);
        let written = self
            .path
            .parent()
            .map_or(Ok(()), files::create_private_dir)
            .and_then(|()| files::write(&self.path, &self.document()?));
        if let Err(e) = written {
            self.loaded().dirty = true;
            log::warn!("activity.not_written path={} error={e}", self.path.display());
        }
    }
}

impl Shared {
    /// The file's content, made in parts: messages go on meanwhile.
    fn document(&self) -> Result<Vec<u8>, json::Error> {
        let mut document = json::Entries::new(VERSION);
        let mut from = Bound::Unbounded;
        loop {
            let some: Vec<(String, Activity)> = {
                let state = self.loaded();
                let range = state.entries.range::<String, _>((from.as_ref(), Bound::Unbounded));
                range.take(AT_A_TIME).map(|(key, activity)| (key.clone(), activity.clone())).collect()
            };
            for (key, activity) in &some {
                document.add(key, &json::to_vec_pretty(activity)?)?;
            }
            let Some((last, _)) = some.into_iter().last() else { break };
            from = Bound::Excluded(last);
        }
        let mut bytes = document.finish();
        bytes.push(b'\n');
        Ok(bytes)
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
        let rooms: Vec<_> = tracker.others(&message("rm_3", ""), 0, 9).0.into_iter().map(|e| e.room_id).collect();
        assert_eq!(rooms, ["rm_2", "rm_1"]);
        assert_eq!(tracker.others(&message("rm_3", "tp_1"), 10_002, 9).1, 1);
        let (latest, count) = tracker.others(&message("rm_3", ""), 0, 1);
        assert_eq!((latest.len(), latest[0].room_id.as_str(), count), (1, "rm_2", 2));
    }

    #[test]
    fn old_entries_vanish_and_a_bad_file_is_empty() {
        let dir = TempDir::new("activity-old");
        let path = dir.path().join("activity.json");
        std::fs::write(&path, "[]").unwrap();
        let tracker = Tracker::new(&path);
        tracker.record(&message("rm_1", ""), 1_000);
        tracker.record(&message("rm_2", ""), 1_001 + KEPT_MS);
        tracker.flush(1_001 + KEPT_MS);
        let document: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let entries = document["entries"].as_object().unwrap();
        assert_eq!(entries.keys().collect::<Vec<_>>(), ["ag_me:rm_2:"]);
    }
}
