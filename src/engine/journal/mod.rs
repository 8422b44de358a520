//! The turn journal: what was accepted is never lost, and what was done is never done twice by accident.
//!
//! An append-only log of records ([`Record`]) in `<home>/daemon/journal/`, and the state they amount to
//! ([`Ledger`]) in memory. Appending changes the ledger at once and hands the line to one thread, which
//! writes everything that has come meanwhile with one write and one fdatasync and then settles the
//! [`Ticket`]s: the more comes at once, the fewer syncs each record costs. The order of the lines is the
//! order in which the ledger took them. Records that nobody waits for are written at once and synced with the
//! next one that somebody waits for, or a little later ([`Journal::append_soon`], [`Journal::append_behind`]).
//!
//! Segments are `<10 digits>.ndjson`. When one has outgrown what is alive in it, the ledger is written to a
//! new one, which begins with `base` and comes into force by rename; so there is one segment at rest, and
//! every start begins a new one.
//!
//! A failed write or fsync is fatal for its file. The journal then tries, once, a new segment from the
//! ledger. If that fails too it is broken: tickets fail, new messages are refused (the far side keeps
//! them), and no more than every [`JournalOptions::retry_after`] another new segment is tried. What was
//! appended while it was broken stays in the ledger and is written when it recovers, except for messages
//! whose ticket failed: those were never accepted.

mod error;
mod ledger;
mod load;
mod record;
mod segment;
mod shared;
mod ticket;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use crate::message::Inbound;
use crate::store::{Disk, now_ms};
use crate::thread;

pub use error::JournalError;
pub use ledger::{
    Boot, Dead, Deferral, Entry, EntryState, KEEP_DEAD, KEEP_DEAD_BYTES, KEEP_IDS, KEEP_IDS_MS, KEEP_UNKNOWN, Known,
    Ledger, Note, OutboxItem, Parked, SeenId, Turn, TurnResult,
};
pub use load::{BadLine, Dumped, LoadReport, dump, fold};
pub use record::{Announced, Line, MAX_LINE, Outcome, Past, Record, Said, Stamped, VERSION, decode, encode};
pub use ticket::{Then, Ticket};

use shared::{Shared, When};
use ticket::Waiter;
use writer::Writer;

/// Bounds of a journal. The defaults need no thought; tests use smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalOptions {
    /// A segment is replaced when it is longer than this and than twice what is alive. Default 4 MiB.
    pub segment_bytes: u64,
    /// Messages are refused when this much is alive; those of other places than the owner's chats when it is seven
    /// eighths of this. Default 256 MiB.
    pub max_live_bytes: u64,
    /// Messages are refused when there are so many entries; in the same way. Default 100 000.
    pub max_entries: usize,
    /// Messages are refused when so much waits to be written. Default 64 MiB. Other records come from
    /// turns, whose number is bounded, and are never refused.
    pub max_pending_bytes: usize,
    /// How long a broken journal leaves the disk alone. Default 5 s.
    pub retry_after: Duration,
    /// How long a record of [`Journal::append_behind`] may be without a sync. Default 100 ms.
    pub sync_within: Duration,
    /// How long a record of [`Journal::append_soon`] may be without a sync. Default 10 ms.
    pub group_within: Duration,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 4 * 1024 * 1024,
            max_live_bytes: 256 * 1024 * 1024,
            max_entries: 100_000,
            max_pending_bytes: 64 * 1024 * 1024,
            retry_after: Duration::from_secs(5),
            sync_within: Duration::from_millis(100),
            group_within: Duration::from_millis(10),
        }
    }
}

/// A journal and what was found when it was opened.
#[derive(Debug)]
pub struct Opened {
    /// The journal.
    pub journal: Journal,
    /// What was found.
    pub report: LoadReport,
}

/// What became of a message.
#[derive(Clone, Debug)]
pub enum Accept {
    /// It is an entry now; it survives a crash once the ticket says so. A ticket that fails means that the
    /// message was not accepted: its entry is gone again.
    New {
        /// The entry's id.
        entry_id: String,
        /// The message as it was written down; of a batch whose beginning was known: the rest of it.
        message: Arc<Inbound>,
        /// When it is durable. All messages of one call share it.
        ticket: Ticket,
    },
    /// It is an entry already, and durable.
    Pending {
        /// The entry's id.
        entry_id: String,
    },
    /// It is finished already: acknowledge it.
    Terminal,
    /// It cannot be taken now: the far side has to keep it.
    Refused {
        /// For people.
        why: String,
    },
}

/// Whether a journal can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalState {
    /// It can.
    Open,
    /// It cannot for the time being.
    Broken {
        /// For people.
        why: String,
        /// Whether it is for want of space.
        disk_full: bool,
    },
    /// Not any more.
    Closed,
}

/// How a journal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalHealth {
    /// Whether it can be written.
    pub state: JournalState,
    /// Number of the active segment.
    pub segment: u64,
    /// Its length in bytes.
    pub segment_bytes: u64,
    /// About how many of them are still needed.
    pub live_bytes: u64,
    /// Number of entries.
    pub entries: usize,
    /// Number of replies that are still to be sent.
    pub outbox: usize,
    /// Bytes that wait to be written.
    pub pending_bytes: usize,
    /// Records appended since it was opened.
    pub records: u64,
    /// Syncs of segments since it was opened.
    pub fsyncs: u64,
    /// The last failure, even if it has been overcome.
    pub last_error: Option<String>,
}

/// The journal of a home. Clones are the same journal; the last one to go closes it.
#[derive(Clone, Debug)]
pub struct Journal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    writer: ThreadId,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Journal {
    /// Opens the journal in `dir`, which is created if need be, and begins a new segment. The caller holds
    /// the lock of the home: two processes must not have the same journal open.
    ///
    /// Bad lines and torn ends are no errors, they are in the report. A disk that cannot be written is
    /// none either: the journal is then broken from the start. `Err` means that what is there could not be
    /// read, or that there is no thread to be had.
    pub fn open(dir: &Path, disk: Arc<dyn Disk>, options: JournalOptions) -> Result<Opened, JournalError> {
        let now = now_ms();
        disk.create_dir(dir).map_err(JournalError::at("create", dir))?;
        let mut loaded = load::load(&*disk, dir, now)?;
        loaded.ledger.expire(now);
        let boot = Record::Boot { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned() };
        loaded.ledger.apply(now, boot, 0);

        let mut report = std::mem::take(&mut loaded.report);
        let shared = Arc::new(Shared::new(loaded.ledger, options));
        let mut writer = Writer::new(disk, dir.to_owned(), shared.clone(), loaded.segments, loaded.quarantine);
        report.broken = writer.begin().err();
        let thread =
            thread::spawn("journal", move || writer.run()).map_err(JournalError::at("start a thread for", dir))?;
        let inner = Inner { shared, writer: thread.thread().id(), thread: Mutex::new(Some(thread)) };
        Ok(Opened { journal: Self { inner: Arc::new(inner) }, report })
    }

    /// Appends a record. The ledger has it when this returns; it is durable when the ticket says so.
    pub fn append(&self, record: Record) -> Ticket {
        let ticket = Ticket::new();
        self.inner.shared.append(now_ms(), record, Some(Waiter::ticket(ticket.clone())), When::AtOnce);
        ticket
    }

    /// Appends a record that has to be durable soon. It is written at once, and synced with what is appended in the next
    /// [`JournalOptions::group_within`].
    pub fn append_soon(&self, record: Record) {
        self.inner.shared.append(now_ms(), record, Some(Waiter::ticket(Ticket::new())), When::Soon);
    }

    /// Appends a record for which nobody waits. It is written at once, so that it survives the end of this
    /// process, but costs no sync of its own: a loss of power within [`JournalOptions::sync_within`] may
    /// take it, unless a record that somebody waits for came after it.
    pub fn append_behind(&self, record: Record) {
        self.inner.shared.append(now_ms(), record, None, When::AtOnce);
    }

    /// [`Journal::append_behind`] for a record that the caller's next one follows immediately: they are written together.
    pub fn append_ahead(&self, record: Record) {
        self.inner.shared.append(now_ms(), record, None, When::WithTheNext);
    }

    /// Appends a record as [`Journal::append_soon`] does; `then` is called on the journal's thread once it is durable or
    /// could not be written (a record that is refused at once, because the journal is closed or the record too large, is
    /// told on the caller's thread). It must be quick and must not wait for a ticket; a panic is caught.
    pub fn append_then(&self, record: Record, then: Then) {
        self.inner.shared.append(now_ms(), record, Some(Waiter::then(then)), When::Soon);
    }

    /// Takes in messages, in order and all at once with respect to other callers. A message whose ids
    /// (with its channel) are known is not taken in again. If it is that of a concurrent call which is not
    /// durable yet, this waits until it is.
    pub fn accept(&self, messages: Vec<Inbound>, now: i64) -> Vec<Accept> {
        let may_wait = !self.on_writer_thread();
        self.inner.shared.accept(messages, now, may_wait)
    }

    /// A fresh id for an entry that is appended by hand.
    pub fn new_entry_id(&self) -> String {
        crate::engine::keys::entry_id(now_ms())
    }

    /// Looks at the state. Appending waits meanwhile: be quick, and do not append inside.
    pub fn view<R>(&self, look: impl FnOnce(&Ledger) -> R) -> R {
        look(&self.inner.shared.lock().ledger)
    }

    /// Tries to write again at once, if broken, and says whether the journal can be written now. What was appended before
    /// is durable then, but for records of [`Journal::append_behind`].
    pub fn recover_now(&self) -> Result<(), JournalError> {
        let ticket = Ticket::new();
        self.inner.shared.nudge(Waiter::ticket(ticket.clone()));
        if self.on_writer_thread() {
            return Ok(());
        }
        ticket.wait()
    }

    /// How it is.
    pub fn health(&self) -> JournalHealth {
        self.inner.shared.lock().health()
    }

    /// Writes what is pending and ends the thread. Later appends fail with [`JournalError::Closed`].
    pub fn close(&self) {
        self.inner.close();
    }

    fn on_writer_thread(&self) -> bool {
        std::thread::current().id() == self.inner.writer
    }
}

impl Inner {
    fn close(&self) {
        self.shared.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The last handle may go inside a callback: the thread then ends by itself.
        if let Some(thread) = thread.filter(|_| std::thread::current().id() != self.writer) {
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}
