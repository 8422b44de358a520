//! Session changes on their way to disk: first the journal, then, behind the turns, `sessions.json`.
//!
//! A change is a journal note (`session:<key>`) until the file holds it; the note is forgotten only when
//! the file was written after the latest change of that key. So a crash at any point loses no session and
//! brings back no old one.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::core::Core;
use super::journal::{self, Journal, JournalError, JournalOptions, Line, Record};
use super::sessions::{SessionChange, SessionEntry, SessionStore, WRITE_DELAY};
use crate::json;
use crate::store::RealDisk;
use crate::thread;

/// Prefix of the notes' keys.
const NOTE: &str = "session:";

/// The session store and what of it is not in its file yet.
pub(super) struct Sessions {
    store: SessionStore,
    /// Key and number of its latest change.
    pending: Mutex<(u64, HashMap<String, u64>)>,
    scheduled: AtomicBool,
}

impl Sessions {
    /// Takes the store and applies what the journal still knows.
    pub(super) fn new(store: SessionStore, journal: &Journal) -> Self {
        let sessions = Self { store, pending: Mutex::default(), scheduled: AtomicBool::new(false) };
        let notes: Vec<(String, serde_json::Value)> = journal.view(|ledger| {
            ledger.notes(NOTE).map(|(k, note)| (k[NOTE.len()..].to_owned(), note.value.clone())).collect()
        });
        for (key, value) in notes {
            match json::from_value::<SessionChange>(&value) {
                Ok(change) => {
                    sessions.store.apply(&change);
                }
                Err(e) => log::warn!("session.note_unreadable key={key} error={e}"),
            }
            let mut pending = sessions.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.1.insert(key, 0);
        }
        sessions
    }

    pub(super) fn get(&self, key: &str) -> Option<SessionEntry> {
        self.store.get(key)
    }

    pub(super) fn list(&self) -> Vec<SessionEntry> {
        self.store.list()
    }

    /// Notes a change in the journal and applies it. Durable with the next record that is waited for.
    pub(super) fn change(&self, journal: &Journal, change: &SessionChange) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        match json::to_value(change) {
            Ok(value) => journal.append_behind(Record::Note { key: format!("{NOTE}{}", change.key), value }),
            Err(e) => log::error!("session.unwritable key={} error={e}", change.key),
        }
        self.store.apply(change);
        pending.0 += 1;
        let generation = pending.0;
        pending.1.insert(change.key.clone(), generation);
    }

    /// Writes the file and forgets the notes that it made superfluous.
    pub(super) fn flush(&self, journal: &Journal) {
        self.store.prune(super::now_ms());
        let upto = self.pending.lock().unwrap_or_else(PoisonError::into_inner).0;
        match self.store.flush() {
            Ok(true) => {}
            Ok(false) => return,
            Err(e) => {
                log::warn!("session.store_failed error={e}");
                return;
            }
        }
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.1.retain(|key, generation| {
            let written = *generation <= upto;
            if written {
                journal.append_behind(Record::Forget { key: format!("{NOTE}{key}") });
            }
            !written
        });
    }
}

/// Makes sure that the file is written soon.
pub(super) fn flush_soon(core: &Arc<Core>) {
    if core.sessions.scheduled.swap(true, Ordering::AcqRel) {
        return;
    }
    let again = Arc::clone(core);
    core.timers.after(WRITE_DELAY, move || {
        again.sessions.scheduled.store(false, Ordering::Release);
        // The timer thread must not wait for a disk.
        let core = Arc::clone(&again);
        let spawned = thread::errand("sessions", move || core.sessions.flush(&core.journal));
        if let Err(e) = spawned {
            log::warn!("session.thread_failed error={e}");
        }
    });
}

/// Session changes that the journal in `dir` carries and `sessions.json` may not hold yet, by key: what a daemon that
/// was killed has left. Only reads; works beside a running daemon. No journal is an empty one.
pub fn noted_sessions(dir: &Path) -> std::io::Result<Vec<SessionChange>> {
    let lines = match journal::dump(dir) {
        Ok(lines) => lines,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut noted = BTreeMap::new();
    for line in lines.flatten() {
        let Line::Known(stamped) = line.line else { continue };
        match stamped.record {
            // A new segment says everything that still holds.
            Record::Base {} => noted.clear(),
            Record::Note { key, value } => {
                if let (true, Ok(change)) = (key.starts_with(NOTE), json::from_value::<SessionChange>(&value)) {
                    noted.insert(key, change);
                }
            }
            Record::Forget { key } => drop(noted.remove(&key)),
            _ => {}
        }
    }
    Ok(noted.into_values().collect())
}

/// Makes the journal in `dir` forget sessions, so that the next start does not bring them back from there. Durable when
/// it returns. The caller holds the lock of the home and changes `sessions.json` itself, afterwards.
pub fn forget_noted_sessions(dir: &Path, keys: &[String]) -> Result<(), JournalError> {
    let opened = Journal::open(dir, Arc::new(RealDisk), JournalOptions::default())?;
    let tickets: Vec<_> = keys
        .iter()
        .filter_map(|key| {
            let value = json::to_value(&SessionChange { key: key.clone(), entry: None }).ok()?;
            Some(opened.journal.append(Record::Note { key: format!("{NOTE}{key}"), value }))
        })
        .collect();
    let done = tickets.iter().try_for_each(super::journal::Ticket::wait);
    opened.journal.close();
    done
}
