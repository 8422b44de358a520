//! Scheduled turns: each is run once, although the hub may say so twice. For a day the journal remembers which ones
//! there were.

use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::provision;
use crate::engine::Engine;
use crate::engine::journal::{Journal, Record};
use crate::link::botcord_control::frame::Refused;
use crate::link::botcord_control::wake::Wake;
use crate::sort;
use crate::time::now_ms;

/// Prefix of the notes' keys; the agent, a line break and the wake's key follow.
const NOTE: &str = "wake:";
/// Wakes that are remembered; the oldest are forgotten first.
const MOST: usize = 4_096;
/// For how long, in milliseconds.
const AGE_MS: i64 = 24 * 3_600_000;
/// Longest key that is remembered as it is, in bytes.
const KEY_LIMIT: usize = 1_024;

/// The memory.
pub(super) struct Wakes {
    journal: Journal,
    /// Held until the journal has a wake: a repetition that comes meanwhile waits.
    one: Mutex<()>,
}

impl Wakes {
    pub(super) fn new(journal: Journal) -> Self {
        Self { journal, one: Mutex::default() }
    }

    /// Gives a wake to the engine; false when it was given before.
    pub(super) fn take(&self, engine: &Engine, wake: Wake) -> Result<bool, Refused> {
        if wake.dedupe_key.len() > KEY_LIMIT {
            return Err(Refused::params(format!("dedupe_key: expected at most {KEY_LIMIT} bytes")));
        }
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        self.forget();
        let key = format!("{NOTE}{}\n{}", wake.agent, wake.dedupe_key);
        let noted = self.journal.view(|ledger| ledger.note(&key).map(|note| note.value.clone()));
        // The note is written before the message, so that a crash in between leaves one that the engine knows nothing of.
        let run = noted.as_ref().and_then(|note| note["run"].as_str());
        if run.is_some_and(|run| engine.knows(&wake.message.channel, run).is_some()) {
            return Ok(false);
        }
        let fresh = engine.knows(&wake.message.channel, &wake.message.id).is_none();
        let value = json!({"run": wake.message.id, "at": now_ms()});
        self.journal.append_behind(Record::Note { key: key.clone(), value });
        // Durable when it returns, the note before it included.
        provision::accept(engine, wake.message).inspect_err(|_| {
            self.journal.append_behind(Record::Forget { key });
        })?;
        Ok(fresh)
    }

    /// Forgets those that are too old, and makes room for one more.
    fn forget(&self) {
        let at = |value: &Value| value["at"].as_i64().unwrap_or_default();
        let mut known: Vec<(i64, String)> = self
            .journal
            .view(|ledger| ledger.notes(NOTE).map(|(key, note)| (at(&note.value), key.to_owned())).collect());
        sort::sort(&mut known);
        let (too_many, oldest) = ((known.len() + 1).saturating_sub(MOST), now_ms() - AGE_MS);
        for (_, key) in
            known.into_iter().enumerate().filter(|(n, (at, _))| *n < too_many || *at < oldest).map(|(_, k)| k)
        {
            self.journal.append_behind(Record::Forget { key });
        }
    }
}
