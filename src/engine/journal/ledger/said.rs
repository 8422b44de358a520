//! What agents say by tool while their turn runs.
//!
//! It goes through the outbox like a reply, but no entry waits for it: its turn has none of it among its replies. The
//! entries remember it, so that an attempt that begins anew after an interruption is not heard twice.

use std::sync::Arc;

use super::{Ledger, OutboxItem};
use crate::engine::journal::record::Said;
use crate::message::Outbound;

/// How many sayings an entry remembers; beyond that the oldest are forgotten.
const KEEP_SAID: usize = 100;

impl Ledger {
    /// Something that an agent has said while it worked on an entry, in this attempt or in an earlier one.
    pub fn said(&self, entry_id: &str, key: &str) -> Option<&Said> {
        self.entry(entry_id)?.past.said.iter().find(|said| said.key == key)
    }

    pub(super) fn say(&mut self, t: i64, turn: &str, key: String, message: Arc<Outbound>, bytes: u64) {
        if self.outbox_index.contains_key(&message.id) {
            return;
        }
        if !key.is_empty() {
            self.effects(turn);
            self.remember(turn, &Said { key, out: message.id.clone(), sent: false, provider: None });
        }
        let n = self.number();
        self.bytes += bytes;
        self.outbox_index.insert(message.id.clone(), n);
        self.outbox.insert(n, OutboxItem { message, turn: turn.to_owned(), since: t, bytes });
    }

    fn remember(&mut self, turn: &str, said: &Said) {
        for id in self.turn(turn).map(|turn| turn.entries.clone()).unwrap_or_default() {
            let Some(entry) = self.entry_mut(&id) else { continue };
            let list = &mut entry.past.said;
            list.push(said.clone());
            if list.len() > KEEP_SAID {
                list.remove(0);
            }
        }
    }

    /// It is delivered: entries remember how the far side calls it.
    pub(super) fn say_sent(&mut self, out: &str, provider: Option<String>) {
        if !self.is_by_tool(out) {
            return;
        }
        let said = self.entries.values_mut().flat_map(|entry| &mut entry.past.said);
        for said in said.filter(|said| said.out == out) {
            said.sent = true;
            said.provider.clone_from(&provider);
        }
    }

    /// It is given up: it may be said again.
    pub(super) fn say_unsent(&mut self, out: &str) {
        if self.is_by_tool(out) {
            for entry in self.entries.values_mut() {
                entry.past.said.retain(|said| said.out != out);
            }
        }
    }

    fn is_by_tool(&self, out: &str) -> bool {
        self.outbox_item(out).is_some_and(|item| item.message.by_tool)
    }
}
