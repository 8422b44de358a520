//! Messages that are given up are kept as dead letters, so that a person can look at them and run them again.

use std::sync::Arc;

use super::core::Core;
use super::journal::Record;
use crate::message::Outbound;

/// Keeps the messages of these entries; to be called before the journal is told that they are done. `why` is
/// for people.
pub(super) fn keep(core: &Core, entries: &[String], why: &str) {
    for id in entries {
        bury(core, id, why, None);
    }
}

/// Keeps a reply that could not be delivered, with the message that it answers best: the last one.
pub(super) fn keep_reply(core: &Core, entries: &[String], out: &Outbound, why: &str) {
    let Some(last) = entries.last() else { return };
    // What was given up already is to be run again, not to be told again that it was given up.
    if core.journal.view(|ledger| ledger.dead_letter(last).is_none()) {
        bury(core, last, why, Some(Arc::new(out.clone())));
    }
}

fn bury(core: &Core, id: &str, why: &str, out: Option<Arc<Outbound>>) {
    let record = core.journal.view(|ledger| {
        let entry = ledger.entry(id)?;
        Some(Record::Dead {
            e: entry.id.clone(),
            ids: entry.ids.clone(),
            ch: entry.channel.clone(),
            q: entry.queue.clone(),
            msg: Arc::clone(&entry.message),
            why: why.to_owned(),
            out,
            past: Some(entry.past.clone()),
        })
    });
    if let Some(record) = record {
        log::warn!("message.dead entry={id} why={why:?}");
        drop(core.journal.append(record));
    }
}
