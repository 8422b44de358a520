//! What the gate and the fuse remember, on its way to the journal: one note for each conversation, written when it
//! changes, so that neither an outage nor a restart makes an agent forget that it is muted or paused.

use std::sync::Arc;

use super::core::Core;
use super::fuse::{Cause, Fuse, Verdict};
use super::gate::Policy;
use super::journal::{Journal, Record, Ticket};
use super::now_ms;
use super::policy::{Known, PolicyCache};
use crate::json;

/// Prefixes of the notes' keys.
const POLICY: &str = "policy:";
const FUSE: &str = "fuse:";

/// The policies that the journal knows. They count as outdated: each is asked for again when it is needed.
pub(super) fn known_policies(journal: &Journal) -> PolicyCache {
    let notes = notes(journal, POLICY).into_iter().filter_map(|(key, value)| match json::from_value::<Known>(&value) {
        Ok(known) => Some(Known { fresh_until: i64::MIN, ..known }),
        Err(e) => {
            log::warn!("policy.note_unreadable key={key} error={e}");
            None
        }
    });
    PolicyCache::from_state(notes.collect())
}

/// The fuse as the journal knows it.
pub(super) fn known_fuse(journal: &Journal) -> Fuse {
    let mut fuse = Fuse::default();
    for (key, value) in notes(journal, FUSE) {
        if !fuse.restore(&key, value) {
            log::warn!("fuse.note_unreadable key={key}");
        }
    }
    fuse
}

fn notes(journal: &Journal, prefix: &str) -> Vec<(String, serde_json::Value)> {
    journal.view(|ledger| {
        ledger.notes(prefix).map(|(key, note)| (key[prefix.len()..].to_owned(), note.value.clone())).collect()
    })
}

/// Writes down what has become different; returns the promise of the last of it.
pub(super) fn write_policies(core: &Core) -> Option<Ticket> {
    let mut last = None;
    for change in core.policies.cache().take_changes() {
        // No id of an agent holds a line break, so the two parts cannot be mistaken for others.
        let key = match &change.conversation {
            Some(conversation) => format!("{POLICY}{}\n{conversation}", change.agent),
            None => format!("{POLICY}{}", change.agent),
        };
        let record = match change.known.as_ref().map(json::to_value) {
            Some(Ok(value)) => Record::Note { key, value },
            Some(Err(e)) => {
                log::error!("policy.unwritable agent={} error={e}", change.agent);
                continue;
            }
            None => Record::Forget { key },
        };
        last = Some(core.journal.append(record));
    }
    last
}

/// A policy was announced, or has changed in a way that is not told. Returns when it is on disk: the hub does not say it
/// twice.
pub(super) fn set_policy(core: &Arc<Core>, agent: &str, conversation: Option<&str>, policy: Option<Policy>) {
    match policy {
        Some(policy) => core.policies.cache().put(agent, conversation, policy, now_ms()),
        None => core.policies.cache().invalidate(agent, conversation),
    }
    if let Some(Err(e)) = write_policies(core).map(|written| written.wait()) {
        log::error!("policy.not_written agent={agent} error={:?}", e.to_string());
    }
}

/// Asks the fuse about one more turn and writes down what it counted.
pub(super) fn admit(core: &Core, key: &str, cause: Cause) -> Verdict {
    let mut fuse = core.fuse();
    let before = fuse.state(key);
    let gone = if cause == Cause::Agent { fuse.next_to_go(key).map(str::to_owned) } else { None };
    let verdict = fuse.admit(key, cause, &core.settings.fuse, now_ms());
    let after = fuse.state(key);
    // Appended under the lock, so that the last note is that of the last count.
    for key in gone.into_iter().chain((before.is_some() && after.is_none()).then(|| key.to_owned())) {
        drop(core.journal.append(Record::Forget { key: format!("{FUSE}{key}") }));
    }
    if let Some(value) = after.filter(|after| before.as_ref() != Some(after)) {
        drop(core.journal.append(Record::Note { key: format!("{FUSE}{key}"), value }));
    }
    verdict
}
