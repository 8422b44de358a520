//! Runtime sessions: which CLI session continues which conversation. Kept in `sessions.json`.
//!
//! The journal carries every change until it is in the file, so the file is written behind the turns: at
//! most once in [`WRITE_DELAY`], all changes at once, by atomic rename. Ten thousand conversations cost one
//! write, not ten thousand.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ports::Usage;
use crate::json;
use crate::message::{ConversationKind, Inbound};
use crate::store::{self, Disk, Loaded, StoreError};

/// Entries that were not used for so long are forgotten (30 days).
const MAX_AGE_MS: i64 = 30 * 24 * 3_600_000;
/// Version of the file's format.
const VERSION: u64 = 1;
/// How long changes may wait for their write.
pub const WRITE_DELAY: Duration = Duration::from_secs(2);

/// One conversation's session with one runtime.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionEntry {
    /// Store key, see [`Inbound::session_key`].
    pub key: String,
    /// Runtime id.
    pub runtime: String,
    /// The CLI's id of the session.
    pub runtime_session_id: String,
    /// Version of the working memory that the session has seen.
    #[serde(default)]
    pub memory_version: Option<String>,
    /// Channel id.
    pub channel: String,
    /// Agent.
    pub account_id: String,
    /// Direct or group.
    pub conversation_kind: ConversationKind,
    /// Conversation id.
    pub conversation_id: String,
    /// Thread id.
    #[serde(default)]
    pub thread_id: Option<String>,
    /// Directory that the session was made in.
    pub cwd: PathBuf,
    /// Unix milliseconds.
    pub updated_at: i64,
    /// Turns that resumed or made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_count: Option<u64>,
    /// Size of its last prompt in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_input_tokens: Option<u64>,
    /// Totals since the beginning of the session, for CLIs that count so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_totals: Option<Usage>,
    /// What the adapter wants to be remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The last turn failed in a way that may be the session's fault.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspect: bool,
}

impl Default for SessionEntry {
    fn default() -> Self {
        Self {
            key: String::new(),
            runtime: String::new(),
            runtime_session_id: String::new(),
            memory_version: None,
            channel: String::new(),
            account_id: String::new(),
            conversation_kind: ConversationKind::Direct,
            conversation_id: String::new(),
            thread_id: None,
            cwd: PathBuf::new(),
            updated_at: 0,
            turn_count: None,
            last_input_tokens: None,
            usage_totals: None,
            note: None,
            suspect: false,
        }
    }
}

impl SessionEntry {
    /// A fresh entry for a message's conversation.
    pub fn new(message: &Inbound, runtime: &str, session_id: &str, cwd: &Path, now: i64) -> Self {
        Self {
            key: message.session_key(runtime),
            runtime: runtime.to_owned(),
            runtime_session_id: session_id.to_owned(),
            channel: message.channel.clone(),
            account_id: message.account_id.clone(),
            conversation_kind: message.conversation.kind,
            conversation_id: message.conversation.id.clone(),
            thread_id: message.conversation.thread_id.clone(),
            cwd: cwd.to_owned(),
            updated_at: now,
            ..Self::default()
        }
    }
}

/// A change of one entry, as the journal carries it: the new state, or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionChange {
    /// Store key.
    pub key: String,
    /// The new entry; `None` forgets it.
    pub entry: Option<SessionEntry>,
}

/// How many entries are written at a time: those who use the store meanwhile do not wait for all of them.
const AT_A_TIME: usize = 256;

#[derive(Default)]
struct State {
    entries: BTreeMap<String, SessionEntry>,
    /// Bumped by every change, so that a writer knows whether it wrote the latest.
    generation: u64,
    written: u64,
}

/// The store.
pub struct SessionStore {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
    /// Held while writing, so that writes do not overtake each other.
    writing: Mutex<()>,
    read_only: bool,
}

/// What loading found, for the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadNotes {
    /// Sentences, one per finding.
    pub warnings: Vec<String>,
}

impl SessionStore {
    /// Loads the file. A missing one is an empty store; one that does not parse is moved aside; one of a
    /// newer version is read and never written; single bad entries are dropped.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub fn load(path: &Path, disk: Arc<dyn Disk>, now: i64) -> Result<(Self, LoadNotes), StoreError> {
        let mut notes = LoadNotes::default();
        let mut state = State::default();
        let mut read_only = false;
        let mut document = Map::new();
        let loaded = store::load_with(disk.as_ref(), path, &mut |bytes| {
            document = json::for_each_in(bytes, "entries", &mut |key, value| match json::from_value::<SessionEntry>(
                &value,
            ) {
                Ok(entry) if entry.key == key && !entry.runtime_session_id.is_empty() => {
                    state.entries.insert(key, entry);
                }
                Ok(_) => notes.warnings.push(format!("sessions.json: entry {key}: key or id does not fit")),
                Err(e) => notes.warnings.push(format!("sessions.json: entry {key}: {e}")),
            })?;
            Ok(())
        })?;
        match loaded {
            Loaded::Missing => {}
            Loaded::Corrupt { moved_to, why } => {
                state = State::default();
                notes.warnings = vec![format!("sessions.json: {why}; moved to {}", moved_to.display())];
            }
            Loaded::Ok(()) => match document.get("version").and_then(Value::as_u64) {
                Some(version) if version >= VERSION && document.contains_key("entries") => {
                    read_only = version > VERSION;
                }
                _ => {
                    state = State::default();
                    let moved = store::set_aside(disk.as_ref(), path)?;
                    notes.warnings = vec![format!(
                        "sessions.json: expected version {VERSION} and an object of entries; moved to {}",
                        moved.display()
                    )];
                }
            },
        }
        if read_only {
            notes.warnings.push("sessions.json: made by a newer version; it is read and not written".into());
        }
        let store = Self { path: path.to_owned(), disk, state: Mutex::new(state), writing: Mutex::new(()), read_only };
        store.prune(now);
        Ok((store, notes))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry under a key.
    pub fn get(&self, key: &str) -> Option<SessionEntry> {
        self.lock().entries.get(key).cloned()
    }

    /// All entries, by key.
    pub fn list(&self) -> Vec<SessionEntry> {
        self.lock().entries.values().cloned().collect()
    }

    /// Applies a change in memory; returns whether something is to be written.
    pub fn apply(&self, change: &SessionChange) -> bool {
        let mut state = self.lock();
        let changed = match &change.entry {
            Some(entry) => state.entries.insert(change.key.clone(), entry.clone()).as_ref() != Some(entry),
            None => state.entries.remove(&change.key).is_some(),
        };
        state.generation += u64::from(changed);
        changed
    }

    /// Forgets entries that were not used for 30 days; returns how many.
    pub fn prune(&self, now: i64) -> usize {
        let mut state = self.lock();
        let before = state.entries.len();
        state.entries.retain(|_, e| e.updated_at >= now - MAX_AGE_MS);
        let removed = before - state.entries.len();
        state.generation += u64::from(removed > 0);
        removed
    }

    /// Whether changes wait to be written.
    pub fn is_dirty(&self) -> bool {
        let state = self.lock();
        !self.read_only && state.generation != state.written
    }

    /// The file's content. Each entry is as it is when its turn comes.
    fn document(&self) -> Result<Vec<u8>, json::Error> {
        let mut document = json::Entries::new(VERSION);
        let mut from = Bound::Unbounded;
        loop {
            let some: Vec<SessionEntry> = {
                let state = self.lock();
                let range = state.entries.range::<String, _>((from.as_ref(), Bound::Unbounded));
                range.take(AT_A_TIME).map(|(_, entry)| entry.clone()).collect()
            };
            let Some(last) = some.last() else { return Ok(document.finish()) };
            from = Bound::Excluded(last.key.clone());
            for entry in &some {
                document.add(&entry.key, &json::to_vec_pretty(entry)?)?;
            }
        }
    }

    /// Writes the file if something changed. Returns whether everything that had been applied before the
    /// call is in the file now.
    pub fn flush(&self) -> Result<bool, StoreError> {
        if self.read_only {
            return Ok(false);
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = {
            let state = self.lock();
            if state.generation == state.written {
                return Ok(true);
            }
            state.generation
        };
        let bytes = self.document().map_err(|e| StoreError::at("write", &self.path)(e.into()))?;
        store::write(self.disk.as_ref(), &self.path, &bytes)?;
        self.lock().written = generation;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RealDisk;

    fn entry(key: &str, updated_at: i64) -> SessionEntry {
        SessionEntry {
            key: key.into(),
            runtime: "echo".into(),
            runtime_session_id: "s".into(),
            updated_at,
            ..SessionEntry::default()
        }
    }

    fn directory(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bellhop-sessions-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn load(path: &Path, now: i64) -> (SessionStore, LoadNotes) {
        SessionStore::load(path, Arc::new(RealDisk), now).unwrap()
    }

    #[test]
    fn entries_survive_a_restart_and_old_ones_do_not() {
        let dir = directory("restart");
        let path = dir.join("sessions.json");
        let (store, _) = load(&path, 0);
        let now = MAX_AGE_MS + 5;
        for e in [entry("a", now), entry("b", 5), entry("c", 4)] {
            store.apply(&SessionChange { key: e.key.clone(), entry: Some(e) });
        }
        assert!(store.is_dirty());
        assert!(store.flush().unwrap());
        assert!(!store.is_dirty());
        let entries: BTreeMap<_, _> = store.list().into_iter().map(|e| (e.key.clone(), e)).collect();
        let whole = json::to_string_pretty(&serde_json::json!({"version": 1, "entries": entries})).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole, "as if it had been written at once");
        let (store, notes) = load(&path, now);
        assert_eq!(store.list().iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(notes.warnings, Vec::<String>::new());
        assert!(store.is_dirty(), "the pruned file is to be written");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn many_entries_are_written_in_parts() {
        let dir = directory("many");
        let path = dir.join("sessions.json");
        let (store, _) = load(&path, 0);
        assert!(store.flush().unwrap());
        for n in 0..=(2 * AT_A_TIME) {
            store.apply(&SessionChange { key: format!("k{n}"), entry: Some(entry(&format!("k{n}"), 1)) });
        }
        assert!(store.flush().unwrap());
        let (again, notes) = load(&path, 0);
        assert_eq!((again.list(), notes.warnings), (store.list(), Vec::new()));
        for n in 0..=(2 * AT_A_TIME) {
            store.apply(&SessionChange { key: format!("k{n}"), entry: None });
        }
        assert!(store.flush().unwrap());
        assert!(load(&path, 0).0.list().is_empty());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_corrupt_file_is_moved_aside_and_a_bad_entry_is_dropped_alone() {
        let dir = directory("corrupt");
        let path = dir.join("sessions.json");
        std::fs::write(&path, "{\"version\":1,").unwrap();
        let (store, notes) = load(&path, 0);
        assert!(store.list().is_empty());
        assert_eq!(notes.warnings.len(), 1);
        let aside: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(aside.len(), 1);
        assert!(aside[0].to_string_lossy().starts_with("sessions.json.corrupt-"), "{aside:?}");

        let good = serde_json::to_value(entry("a", 1)).unwrap();
        let document = serde_json::json!({"version": 1, "entries": {"a": good, "b": {"key": "b"}}});
        std::fs::write(&path, document.to_string()).unwrap();
        let (store, notes) = load(&path, 2);
        assert_eq!(store.list().len(), 1);
        assert_eq!(notes.warnings.len(), 1);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_of_a_newer_version_is_never_written() {
        let dir = directory("newer");
        let path = dir.join("sessions.json");
        let document = serde_json::json!({"version": 2, "entries": {"a": entry("a", 1)}}).to_string();
        std::fs::write(&path, &document).unwrap();
        let (store, _) = load(&path, 2);
        assert_eq!(store.list().len(), 1);
        store.apply(&SessionChange { key: "a".into(), entry: None });
        assert!(!store.flush().unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), document);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
