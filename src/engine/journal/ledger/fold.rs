//! One record at a time.

use std::sync::Arc;

use serde_json::Value;

use super::seen::{KEEP_IDS_MS, SeenId};
use super::{
    Boot, Dead, Deferral, Entry, EntryState, KEEP_UNKNOWN, Ledger, Note, OutboxItem, Parked, Turn, TurnResult,
};
use crate::engine::journal::record::{Announced, Outcome, Past, Record};
use crate::engine::ports::ProcessId;
use crate::message::Inbound;

impl Ledger {
    /// Takes a record that was made at `t` (Unix milliseconds) and whose line has `bytes` bytes.
    pub fn apply(&mut self, t: i64, record: Record, bytes: u64) {
        match record {
            Record::Base {} => *self = Self::default(),
            Record::Boot { pid, version } => self.boot = Some(Boot { at: t, pid, version }),
            Record::Accepted { e, ids, ch, q, msg, past } => {
                self.accepted(t, e, ids, ch, q, msg, past.unwrap_or_default(), bytes);
            }
            Record::Started { e, turn, attempt, rt } => self.started(t, &e, turn, attempt, rt, bytes),
            Record::Spawned { turn, pid, start } => {
                if let Some(turn) = self.turn_mut(&turn) {
                    turn.process = Some(ProcessId { pid, start });
                }
            }
            Record::Session { turn, id } => self.session(&turn, &id),
            Record::Effects { turn } => self.effects(&turn),
            Record::Result { turn, out } => self.result(t, turn, out, bytes),
            Record::Say { turn, key, out } => self.say(t, &turn, key, out, bytes),
            Record::Sent { out, provider, .. } => {
                self.say_sent(&out, provider);
                self.reply_settled(&out);
            }
            Record::Unsent { out, .. } => {
                self.say_unsent(&out);
                self.reply_settled(&out);
            }
            Record::Interrupted { turn } => self.interrupted(&turn),
            Record::Done { e, why } => e.iter().for_each(|id| self.done(t, id, &why)),
            Record::Acked { e } => e.iter().for_each(|id| self.acked(t, id)),
            Record::Seen { ch, keys } => keys.iter().for_each(|(id, at)| self.finish_id(&ch, *id, *at)),
            Record::Hold { e, why } => self.set_held(&e, true, why),
            Record::Release { e } => self.set_held(&e, false, None),
            Record::Parked { e, until, why } => self.parked(&e, Parked { until, why }),
            Record::Deferred { e, on, why, until } => {
                let deferral = Deferral { on, why, until };
                for id in &e {
                    self.deferred(id, deferral.clone());
                }
            }
            Record::Dead { e, ids, ch, q, msg, why, out, past } => {
                let past = past.unwrap_or_default();
                let dead =
                    Dead { id: e, ids, channel: ch, queue: q, message: msg, at: t, why, reply: out, past, bytes };
                self.bytes = self.bytes.saturating_add_signed(self.dead.add(dead));
            }
            Record::Buried { e } => self.bytes = self.bytes.saturating_add_signed(self.dead.remove(&e)),
            Record::Note { key, value } => self.note_kept(t, key, value, bytes),
            Record::Forget { key } => {
                if let Some(old) = self.notes.remove(&key) {
                    self.bytes -= old.bytes;
                }
            }
        }
    }

    /// Keeps a sound line that this version cannot read.
    pub fn keep_unknown(&mut self, line: String) {
        self.bytes += line.len() as u64;
        self.unknown.push_back(line);
        if self.unknown.len() > KEEP_UNKNOWN
            && let Some(oldest) = self.unknown.pop_front()
        {
            self.bytes -= oldest.len() as u64;
        }
    }

    /// Takes back an entry whose record could not be written. Its ids are unknown again.
    pub fn retract(&mut self, entry_id: &str) {
        self.leave_turn(entry_id);
        if let Some(entry) = self.remove_entry(entry_id)
            && let Some(channel) = self.channels.get_mut(&entry.channel)
        {
            entry.ids.iter().for_each(|id| channel.end(id, &entry.id));
        }
    }

    /// Forgets finished ids that are older than [`KEEP_IDS_MS`].
    pub fn expire(&mut self, now: i64) {
        for channel in self.channels.values_mut() {
            let freed = channel.expire(now.saturating_sub(KEEP_IDS_MS));
            self.bytes = self.bytes.saturating_add_signed(-freed);
        }
        self.channels.retain(|_, channel| !channel.is_empty());
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one record")]
    fn accepted(
        &mut self,
        t: i64,
        id: String,
        ids: Vec<String>,
        channel: String,
        queue: String,
        message: Arc<Inbound>,
        past: Past,
        bytes: u64,
    ) {
        if self.entry_index.contains_key(&id) {
            return;
        }
        let known = self.channels.entry(channel.clone()).or_default();
        for one in &ids {
            known.begin(one, &id);
        }
        let n = self.number();
        self.queues.entry(queue.clone()).or_default().insert(n);
        self.entry_index.insert(id.clone(), n);
        self.bytes += bytes;
        let state = EntryState::Waiting;
        let entry = Entry {
            id,
            ids,
            channel,
            queue,
            message,
            accepted_at: t,
            state,
            past,
            acked: false,
            held: false,
            held_why: None,
            parked: None,
            deferred: None,
            bytes,
        };
        self.entries.insert(n, entry);
    }

    fn started(&mut self, t: i64, entries: &[String], turn_id: String, attempt: u32, runtime: String, bytes: u64) {
        match self.turn_mut(&turn_id) {
            // A turn that has ended does not begin again.
            Some(Turn { result: Some(_), .. }) => return,
            // A second run within the same turn.
            Some(turn) => {
                turn.attempt = attempt;
                if turn.runtime != runtime {
                    turn.session = None;
                    turn.runtime = runtime;
                }
            }
            None => {
                self.add_turn(Turn {
                    id: turn_id.clone(),
                    entries: Vec::new(),
                    attempt,
                    runtime,
                    started_at: t,
                    process: None,
                    session: None,
                    effects: false,
                    result: None,
                    replies: Vec::new(),
                    bytes,
                });
            }
        }
        for id in entries {
            self.join_turn(id, &turn_id);
        }
        // Entries that were in the turn already take part in the new attempt.
        let Some(turn) = self.turn(&turn_id) else { return };
        for id in turn.entries.clone() {
            if let Some(entry) = self.entry_mut(&id) {
                entry.past.attempts = attempt;
            }
        }
    }

    fn join_turn(&mut self, entry_id: &str, turn_id: &str) {
        match self.entry(entry_id).map(|e| &e.state) {
            None | Some(EntryState::Done { .. }) => return,
            Some(EntryState::Running { turn }) if turn == turn_id => return,
            Some(_) => {}
        }
        self.leave_turn(entry_id);
        let Some(turn) = self.turn_mut(turn_id) else { return };
        turn.entries.push(entry_id.to_owned());
        let (effects, session) = (turn.effects, turn.session.clone());
        let session = session.map(|id| Announced { rt: turn.runtime.clone(), id });
        let Some(entry) = self.entry_mut(entry_id) else { return };
        entry.state = EntryState::Running { turn: turn_id.to_owned() };
        entry.held = false;
        entry.held_why = None;
        entry.parked = None;
        entry.deferred = None;
        entry.past.effects |= effects;
        if session.is_some() {
            entry.past.session = session;
        }
    }

    /// Takes an entry out of its turn. The entry waits again; the turn goes when nothing is left of it.
    fn leave_turn(&mut self, entry_id: &str) {
        let Some(entry) = self.entry_mut(entry_id) else { return };
        let (EntryState::Running { turn } | EntryState::Answered { turn }) = &entry.state else { return };
        let turn_id = turn.clone();
        entry.state = EntryState::Waiting;
        if let Some(turn) = self.turn_mut(&turn_id) {
            turn.entries.retain(|id| id != entry_id);
        }
        self.drop_finished_turn(&turn_id);
    }

    fn session(&mut self, turn_id: &str, session: &str) {
        let Some(turn) = self.turn_mut(turn_id) else { return };
        turn.session = Some(session.to_owned());
        let announced = Announced { rt: turn.runtime.clone(), id: session.to_owned() };
        for id in turn.entries.clone() {
            if let Some(entry) = self.entry_mut(&id) {
                entry.past.session = Some(announced.clone());
            }
        }
    }

    pub(super) fn effects(&mut self, turn_id: &str) {
        let Some(turn) = self.turn_mut(turn_id) else { return };
        turn.effects = true;
        for id in turn.entries.clone() {
            if let Some(entry) = self.entry_mut(&id) {
                entry.past.effects = true;
            }
        }
    }

    fn result(&mut self, t: i64, turn_id: String, out: Outcome, bytes: u64) {
        if !self.turn_index.contains_key(&turn_id) {
            self.add_turn(Turn {
                id: turn_id.clone(),
                entries: Vec::new(),
                attempt: 0,
                runtime: String::new(),
                started_at: t,
                process: None,
                session: None,
                effects: false,
                result: None,
                replies: Vec::new(),
                bytes: 0,
            });
        }
        let mut added = Vec::new();
        for message in out.replies {
            if self.outbox_index.contains_key(&message.id) {
                continue;
            }
            added.push(message.id.clone());
            let n = self.number();
            self.outbox_index.insert(message.id.clone(), n);
            self.outbox.insert(n, OutboxItem { message, turn: turn_id.clone(), since: t, bytes: 0 });
        }
        self.bytes += bytes;
        let Some(turn) = self.turn_mut(&turn_id) else { return };
        turn.bytes += bytes;
        turn.replies.extend(added);
        turn.result = Some(TurnResult { session: out.session, why: out.why });
        for id in turn.entries.clone() {
            if let Some(entry) = self.entry_mut(&id) {
                entry.state = EntryState::Answered { turn: turn_id.clone() };
            }
        }
        self.drop_finished_turn(&turn_id);
    }

    fn reply_settled(&mut self, out: &str) {
        let Some(n) = self.outbox_index.remove(out) else { return };
        let Some(item) = self.outbox.remove(&n) else { return };
        self.bytes -= item.bytes;
        if let Some(turn) = self.turn_mut(&item.turn) {
            turn.replies.retain(|id| id != out);
        }
        self.drop_finished_turn(&item.turn);
    }

    fn interrupted(&mut self, turn_id: &str) {
        let Some(Turn { result: None, entries, attempt, .. }) = self.turn(turn_id) else { return };
        let (entries, attempt) = (entries.clone(), *attempt);
        for id in entries {
            self.leave_turn(&id);
            if let Some(entry) = self.entry_mut(&id) {
                entry.past.attempts = attempt.saturating_sub(1);
            }
        }
        self.drop_finished_turn(turn_id);
    }

    fn done(&mut self, t: i64, entry_id: &str, why: &str) {
        self.leave_turn(entry_id);
        let Some(entry) = self.entry_mut(entry_id) else { return };
        if matches!(entry.state, EntryState::Done { .. }) {
            return;
        }
        entry.state = EntryState::Done { at: t, why: why.to_owned() };
        entry.held = false;
        entry.held_why = None;
        entry.parked = None;
        entry.deferred = None;
        if entry.acked {
            self.forget_entry(t, entry_id);
        }
    }

    fn acked(&mut self, t: i64, entry_id: &str) {
        let Some(entry) = self.entry_mut(entry_id) else { return };
        entry.acked = true;
        if matches!(entry.state, EntryState::Done { .. }) {
            self.forget_entry(t, entry_id);
        }
    }

    fn set_held(&mut self, entry_id: &str, held: bool, why: Option<String>) {
        if let Some(entry) = self.entry_mut(entry_id)
            && entry.state == EntryState::Waiting
        {
            entry.held = held;
            entry.held_why = why;
            if !held {
                entry.deferred = None;
            }
        }
    }

    fn deferred(&mut self, entry_id: &str, deferral: Deferral) {
        if self.entry(entry_id).is_none_or(|e| matches!(e.state, EntryState::Done { .. })) {
            return;
        }
        let ran = matches!(self.entry(entry_id).map(|e| &e.state), Some(EntryState::Running { .. }));
        self.leave_turn(entry_id);
        if let Some(entry) = self.entry_mut(entry_id) {
            if ran {
                entry.past.attempts = entry.past.attempts.saturating_sub(1);
            }
            entry.deferred = Some(deferral);
        }
    }

    fn parked(&mut self, entry_id: &str, parked: Parked) {
        if self.entry(entry_id).is_none_or(|e| matches!(e.state, EntryState::Done { .. })) {
            return;
        }
        self.leave_turn(entry_id);
        if let Some(entry) = self.entry_mut(entry_id) {
            // The run before the park was a whole one: the next begins with a clean slate.
            entry.past = Past::default();
            entry.parked = Some(parked);
        }
    }

    fn note_kept(&mut self, at: i64, key: String, value: Value, bytes: u64) {
        self.bytes += bytes;
        if let Some(old) = self.notes.insert(key, Note { at, value, bytes }) {
            self.bytes -= old.bytes;
        }
    }

    /// Removes a terminal entry and remembers its ids.
    fn forget_entry(&mut self, t: i64, entry_id: &str) {
        let Some(entry) = self.remove_entry(entry_id) else { return };
        for id in &entry.ids {
            if let Some(channel) = self.channels.get_mut(&entry.channel) {
                channel.end(id, &entry.id);
            }
            self.finish_id(&entry.channel, SeenId::of(id), t);
        }
    }

    fn finish_id(&mut self, channel: &str, id: SeenId, at: i64) {
        let known = match self.channels.get_mut(channel) {
            Some(known) => known,
            None => self.channels.entry(channel.to_owned()).or_default(),
        };
        let grown = known.finish(id, at);
        self.bytes = self.bytes.saturating_add_signed(grown);
    }

    fn remove_entry(&mut self, entry_id: &str) -> Option<Entry> {
        let n = self.entry_index.remove(entry_id)?;
        let entry = self.entries.remove(&n)?;
        self.bytes -= entry.bytes;
        if let Some(queue) = self.queues.get_mut(&entry.queue) {
            queue.remove(&n);
            if queue.is_empty() {
                self.queues.remove(&entry.queue);
            }
        }
        Some(entry)
    }

    fn add_turn(&mut self, turn: Turn) {
        self.bytes += turn.bytes;
        let n = self.number();
        self.turn_index.insert(turn.id.clone(), n);
        self.turns.insert(n, turn);
    }

    fn drop_finished_turn(&mut self, turn_id: &str) {
        let Some(turn) = self.turn(turn_id) else { return };
        if !turn.entries.is_empty() || !turn.replies.is_empty() {
            return;
        }
        self.bytes -= turn.bytes;
        if let Some(n) = self.turn_index.remove(turn_id) {
            self.turns.remove(&n);
        }
    }

    pub(super) fn entry_mut(&mut self, id: &str) -> Option<&mut Entry> {
        self.entries.get_mut(self.entry_index.get(id)?)
    }

    fn turn_mut(&mut self, id: &str) -> Option<&mut Turn> {
        self.turns.get_mut(self.turn_index.get(id)?)
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}
