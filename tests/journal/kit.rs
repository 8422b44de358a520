//! Messages, journals and their lives, in few words.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bellhop::engine::journal::{
    Accept, Journal, JournalError, JournalOptions, Known, Opened, Outcome, Record, Stamped, Ticket,
};
use bellhop::message::{Entry, Inbound, Outbound, SenderKind};
use bellhop::store::Disk;

pub const NOW: i64 = 1_767_225_600_000;
pub const CHANNEL: &str = "ag_1";

/// Where journals on a disk in memory lie.
pub fn dir() -> &'static Path {
    Path::new("/journal")
}

/// Never waits before it tries again, and compacts early.
pub fn small() -> JournalOptions {
    JournalOptions { segment_bytes: 1_500, retry_after: Duration::ZERO, ..JournalOptions::default() }
}

pub fn open(disk: &(impl Disk + Clone + 'static)) -> Opened {
    open_with(disk, JournalOptions::default())
}

pub fn open_with(disk: &(impl Disk + Clone + 'static), options: JournalOptions) -> Opened {
    Journal::open(dir(), Arc::new(disk.clone()), options).unwrap()
}

pub fn message(id: &str) -> Inbound {
    let document = serde_json::json!({
        "id": id, "channel": CHANNEL, "accountId": "ag_1", "text": format!("words of {id}"),
        "conversation": {"id": "rm_1", "kind": "group"},
        "sender": {"id": "hu_1", "kind": "user"}, "receivedAt": NOW,
    });
    serde_json::from_value(document).unwrap()
}

pub fn batch(ids: &[&str]) -> Inbound {
    let entry = |id: &&str| Entry {
        id: (*id).into(),
        msg_id: None,
        sender_id: format!("from_{id}"),
        sender_label: format!("From {id}"),
        sender_kind: SenderKind::User,
        text: format!("words of {id}"),
        mentioned: false,
        envelope_type: None,
        quote: None,
    };
    Inbound { entries: ids.iter().map(entry).collect(), ..message(ids.last().unwrap()) }
}

pub fn outbound(id: &str, turn: &str) -> Arc<Outbound> {
    let document = serde_json::json!({
        "id": id, "channel": CHANNEL, "accountId": "ag_1", "conversationId": "rm_1", "text": "yes", "turnId": turn,
    });
    Arc::new(serde_json::from_value(document).unwrap())
}

pub fn started(entry: &str, turn: &str) -> Record {
    Record::Started { e: vec![entry.into()], turn: turn.into(), attempt: 1, rt: "echo".into() }
}

pub fn result(turn: &str, out: &str) -> Record {
    let out = Outcome { replies: vec![outbound(out, turn)], session: None, why: "delivered".into() };
    Record::Result { turn: turn.into(), out }
}

pub fn sent(out: &str, turn: &str) -> Record {
    Record::Sent { out: out.into(), turn: turn.into(), provider: None }
}

pub fn done(entry: &str) -> Record {
    Record::Done { e: vec![entry.into()], why: "delivered".into() }
}

pub fn acked(entry: &str) -> Record {
    Record::Acked { e: vec![entry.into()] }
}

pub fn note(key: &str, n: u64) -> Record {
    Record::Note { key: key.into(), value: n.into() }
}

/// Accepts one message, without waiting.
pub fn accept(journal: &Journal, message: Inbound) -> Accept {
    journal.accept(vec![message], NOW).pop().unwrap()
}

pub fn new(answer: Accept) -> (String, Ticket) {
    match answer {
        Accept::New { entry_id, ticket, .. } => (entry_id, ticket),
        other => panic!("not taken in: {other:?}"),
    }
}

/// Accepts one message durably; its entry id.
pub fn take_in(journal: &Journal, id: &str) -> String {
    let (entry, ticket) = new(accept(journal, message(id)));
    ticket.wait().unwrap();
    entry
}

/// The same where it may fail.
pub fn try_take_in(journal: &Journal, id: &str) -> Result<String, String> {
    match accept(journal, message(id)) {
        Accept::New { entry_id, ticket, .. } => ticket.wait().map(|()| entry_id).map_err(|e| e.to_string()),
        Accept::Refused { why } => Err(why),
        other => panic!("unexpected: {other:?}"),
    }
}

/// From the first record of a turn to the last.
pub fn finish(journal: &Journal, entry: &str) -> Result<(), JournalError> {
    let (turn, out) = (format!("t_{entry}"), format!("o_{entry}"));
    let _ = journal.append(started(entry, &turn));
    let _ = journal.append(result(&turn, &out));
    journal.append_behind(sent(&out, &turn));
    let _ = journal.append(done(entry));
    journal.append(acked(entry)).wait()
}

pub fn known(journal: &Journal, id: &str) -> Known {
    journal.view(|ledger| ledger.known(CHANNEL, id))
}

/// The state without the boot, which every start replaces.
pub fn state(journal: &Journal) -> Vec<Stamped> {
    let mut records = journal.view(bellhop::engine::journal::Ledger::to_records);
    records.retain(|stamped| !matches!(stamped.record, Record::Boot { .. }));
    records
}

/// A directory that goes with the test.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("bellhop-journal-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
