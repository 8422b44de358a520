//! The records that rebuild a ledger.

use std::sync::Arc;

use super::{Entry, EntryState, Ledger, OutboxItem, Turn};
use crate::engine::journal::record::{Outcome, Past, Record, Stamped};

/// How many ids one `seen` record holds, so that no line grows long.
const IDS_PER_RECORD: usize = 1_000;

impl Ledger {
    /// Records from which [`Ledger::apply`] rebuilds exactly this state, except for the lines of
    /// [`Ledger::unknown`]. Messages are shared, not copied.
    pub fn to_records(&self) -> Vec<Stamped> {
        let mut records = Vec::new();
        if let Some(boot) = &self.boot {
            push(&mut records, boot.at, Record::Boot { pid: boot.pid, version: boot.version.clone() });
        }
        for (ch, known) in &self.channels {
            let mut known = known.finished().peekable();
            while known.peek().is_some() {
                let keys: Vec<_> = known.by_ref().take(IDS_PER_RECORD).collect();
                let at = keys.last().map_or(0, |(_, at)| *at);
                push(&mut records, at, Record::Seen { ch: ch.clone(), keys });
            }
        }
        for (key, note) in &self.notes {
            push(&mut records, note.at, Record::Note { key: key.clone(), value: note.value.clone() });
        }
        self.dead().for_each(|dead| push(&mut records, dead.at, dead.record()));
        self.entries().for_each(|entry| push_entry(&mut records, entry));
        self.turns().for_each(|turn| push_turn(&mut records, turn));
        self.push_results(&mut records);
        records
    }

    /// The outbox is in the order of its records, which need not be that of the turns.
    fn push_results(&self, records: &mut Vec<Stamped>) {
        let items: Vec<_> = self.outbox().collect();
        let together = |a: &&OutboxItem, b: &&OutboxItem| {
            a.turn == b.turn && a.since == b.since && !a.message.by_tool && !b.message.by_tool
        };
        for group in items.chunk_by(together) {
            let [first, ..] = group else { continue };
            if first.message.by_tool {
                let (turn, out) = (first.turn.clone(), Arc::clone(&first.message));
                let say = Record::Say { turn, key: String::new(), out };
                push(records, first.since, say);
                continue;
            }
            let Some(result) = self.turn(&first.turn).and_then(|turn| turn.result.as_ref()) else { continue };
            let replies = group.iter().map(|item| item.message.clone()).collect();
            let out = Outcome { replies, session: result.session.clone(), why: result.why.clone() };
            push(records, first.since, Record::Result { turn: first.turn.clone(), out });
        }
        for turn in self.turns().filter(|turn| turn.replies.is_empty()) {
            if let Some(result) = &turn.result {
                let out = Outcome { replies: Vec::new(), session: result.session.clone(), why: result.why.clone() };
                push(records, turn.started_at, Record::Result { turn: turn.id.clone(), out });
            }
        }
    }
}

fn push(records: &mut Vec<Stamped>, t: i64, record: Record) {
    records.push(Stamped { t, record });
}

fn push_entry(records: &mut Vec<Stamped>, entry: &Entry) {
    let at = entry.accepted_at;
    let e = &entry.id;
    let accepted = Record::Accepted {
        e: e.clone(),
        ids: entry.ids.clone(),
        ch: entry.channel.clone(),
        q: entry.queue.clone(),
        msg: entry.message.clone(),
        past: Some(entry.past.clone()).filter(|past| *past != Past::default()),
    };
    push(records, at, accepted);
    if entry.acked {
        push(records, at, Record::Acked { e: vec![e.clone()] });
    }
    if let Some(parked) = &entry.parked {
        push(records, at, Record::Parked { e: e.clone(), until: parked.until, why: parked.why.clone() });
    }
    if entry.held {
        push(records, at, Record::Hold { e: e.clone(), why: entry.held_why.clone() });
    }
    if let Some(d) = &entry.deferred {
        let (on, why) = (d.on.clone(), d.why.clone());
        push(records, at, Record::Deferred { e: vec![e.clone()], on, why, until: d.until });
    }
    if let EntryState::Done { at, why } = &entry.state {
        push(records, *at, Record::Done { e: vec![e.clone()], why: why.clone() });
    }
}

fn push_turn(records: &mut Vec<Stamped>, turn: &Turn) {
    let at = turn.started_at;
    let id = &turn.id;
    let (e, rt) = (turn.entries.clone(), turn.runtime.clone());
    push(records, at, Record::Started { e, turn: id.clone(), attempt: turn.attempt, rt });
    if let Some(process) = turn.process {
        push(records, at, Record::Spawned { turn: id.clone(), pid: process.pid, start: process.start });
    }
    if let Some(session) = &turn.session {
        push(records, at, Record::Session { turn: id.clone(), id: session.clone() });
    }
    if turn.effects {
        push(records, at, Record::Effects { turn: id.clone() });
    }
}
