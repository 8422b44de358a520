//! Session changes on their way to disk: first the journal, then, behind the turns, `sessions.json`.
//!
//! A change is a journal note (`session:<key>`) until the file holds it; the note is forgotten only when
//! the file was written after the latest change of that key. So a crash at any point loses no session and
//! brings back no old one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::core::Core;
use super::journal::{Journal, Record};
use super::sessions::{SessionChange, SessionEntry, SessionStore, WRITE_DELAY};

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
            match serde_json::from_value::<SessionChange>(value) {
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
        match serde_json::to_value(change) {
            Ok(value) => drop(journal.append(Record::Note { key: format!("{NOTE}{}", change.key), value })),
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
                drop(journal.append(Record::Forget { key: format!("{NOTE}{key}") }));
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
        let spawned = std::thread::Builder::new()
            .name("sessions".into())
            .stack_size(256 * 1024)
            .spawn(move || core.sessions.flush(&core.journal));
        if let Err(e) = spawned {
            log::warn!("session.thread_failed error={e}");
        }
    });
}
