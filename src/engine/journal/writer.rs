//! The journal's thread: one write and (where somebody waits) one sync for all that has come, new segments,
//! and failures.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::JournalError;
use super::record::{self, Record};
use super::segment;
use super::shared::{Batch, Next, Shared, Snapshot};
use super::ticket::Waiter;
use crate::store::{Disk, DiskFile, now_ms};

/// A new segment is written in pieces of about this size.
const PIECE: usize = 1024 * 1024;

/// How often it is logged that nothing can be written.
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);

pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    shared: Arc<Shared>,
    /// The segment in force, while it can be written.
    active: Option<Active>,
    /// The number of the next new segment. Never used twice, so that no leftover can be in the way.
    next: u64,
    /// Segments that a newer one has replaced, or will.
    obsolete: Vec<u64>,
    /// Those of them that are kept for people, and under which names.
    quarantine: Vec<(u64, PathBuf)>,
    /// Who waits for the sync that is due next.
    patient: Vec<Waiter>,
    /// When it was last logged that nothing can be written.
    complained: Option<Instant>,
}

struct Active {
    number: u64,
    file: Box<dyn DiskFile>,
    /// Length of what is known to be durable.
    len: u64,
    /// Length of what is written.
    written: u64,
    /// When what is not durable has to be.
    sync_at: Option<Instant>,
    /// The length at which a new segment is to begin.
    replace_at: u64,
}

/// A new segment could not be made.
struct Failure {
    error: JournalError,
    /// Nothing of the attempt is left, for certain: the segment in force may go on.
    undone: bool,
}

impl Writer {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        shared: Arc<Shared>,
        obsolete: Vec<u64>,
        quarantine: Vec<(u64, PathBuf)>,
    ) -> Self {
        let next = obsolete.iter().max().map_or(1, |n| n.saturating_add(1));
        Self { disk, dir, shared, active: None, next, obsolete, quarantine, patient: Vec::new(), complained: None }
    }

    /// Begins the first segment of this process.
    pub(super) fn begin(&mut self) -> Result<(), JournalError> {
        let (snapshot, batch) = self.shared.snapshot(now_ms());
        match self.new_segment(&snapshot) {
            Ok(()) => {
                self.shared.succeed(batch, true);
                Ok(())
            }
            Err(Failure { error, .. }) => {
                self.complain(&error);
                self.shared.fail(batch, error.clone(), true);
                Err(error)
            }
        }
    }

    /// The thread. Ends when the journal is closed and everything is written.
    pub(super) fn run(mut self) {
        let shared = self.shared.clone();
        let work = AssertUnwindSafe(|| {
            loop {
                match self.shared.next(self.active.as_ref().and_then(|active| active.sync_at)) {
                    Next::Write(batch) => self.commit(batch),
                    Next::Sync => self.sync(Batch::default()),
                    Next::End => return,
                }
            }
        });
        if catch_unwind(work).is_err() {
            log::error!("journal.panic thread=journal");
            shared.abandon("the journal's thread has panicked");
        }
    }

    fn commit(&mut self, mut batch: Batch) {
        let Some(active) = &mut self.active else {
            match self.shared.still_broken() {
                Some(error) if !batch.forced => self.shared.fail(batch, error, false),
                _ => self.start_over(batch),
            }
            return;
        };
        if batch.bytes.is_empty() {
            if self.patient.is_empty() {
                self.shared.succeed(batch, false);
            } else {
                self.sync(batch);
            }
            return;
        }
        if let Err(e) = active.file.append(&batch.bytes) {
            return self.give_up_active(batch, e);
        }
        active.written += batch.bytes.len() as u64;
        if batch.waiters.is_empty() {
            let now = Instant::now();
            let at = now + self.shared.sync_within(!batch.patient.is_empty());
            let sync_at = active.sync_at.map_or(at, |earlier| earlier.min(at));
            active.sync_at = Some(sync_at);
            self.patient.append(&mut batch.patient);
            if now < sync_at {
                return;
            }
        }
        self.sync(batch);
    }

    /// Makes durable what is written, which ends with this batch.
    fn sync(&mut self, mut batch: Batch) {
        batch.patient.append(&mut self.patient);
        let Some(active) = &mut self.active else { return self.shared.succeed(batch, false) };
        if let Err(e) = active.file.sync() {
            return self.give_up_active(batch, e);
        }
        active.len = active.written;
        active.sync_at = None;
        let mut state = self.shared.lock();
        state.stats.segment_bytes = active.len;
        state.stats.fsyncs += 1;
        drop(state);
        self.shared.succeed(batch, false);
        self.replace_if_due();
    }

    /// A write or sync of the segment in force has failed.
    fn give_up_active(&mut self, batch: Batch, why: io::Error) {
        if let Some(active) = &self.active {
            let error = JournalError::at("write", &segment::path(&self.dir, active.number))(why);
            log::error!("journal.write_failed error={error}");
            self.shared.lock().stats.last_error = Some(error.to_string());
        }
        self.abandon_active();
        self.start_over(batch);
    }

    /// The segment in force must not be written any more. What follows its durable part is cut off: it
    /// belongs to records whose tickets are about to fail, or that nobody waits for and the ledger has.
    fn abandon_active(&mut self) {
        let Some(active) = self.active.take() else { return };
        let path = segment::path(&self.dir, active.number);
        if let Err(e) = self.disk.truncate(&path, active.len) {
            log::warn!("journal.not_cut segment={} error={e}", path.display());
        }
        self.obsolete.push(active.number);
    }

    /// No segment can be written: tries a new one from the ledger, which has everything that waits.
    fn start_over(&mut self, mut batch: Batch) {
        batch.patient.append(&mut self.patient);
        let (snapshot, later) = self.shared.snapshot(now_ms());
        batch.extend(later);
        match self.new_segment(&snapshot) {
            Ok(()) => {
                self.complained = None;
                self.shared.succeed(batch, true);
            }
            Err(Failure { error, .. }) => {
                self.complain(&error);
                self.shared.fail(batch, error, true);
            }
        }
    }

    fn complain(&mut self, error: &JournalError) {
        if self.complained.is_some_and(|last| last.elapsed() < COMPLAIN_EVERY) {
            return;
        }
        self.complained = Some(Instant::now());
        log::error!("journal.broken error={error} (no messages are taken in)");
    }

    /// Compacts, once the segment in force has outgrown what is alive.
    fn replace_if_due(&mut self) {
        let Some(active) = &self.active else { return };
        if active.len <= active.replace_at {
            return;
        }
        let (live, least) = {
            let state = self.shared.lock();
            (state.ledger.live_bytes(), state.options.segment_bytes)
        };
        if active.len <= least.max(2 * live) {
            return;
        }
        let old = active.number;
        let (snapshot, batch) = self.shared.snapshot(now_ms());
        self.obsolete.push(old);
        match self.new_segment(&snapshot) {
            Ok(()) => self.shared.succeed(batch, true),
            Err(Failure { error, undone: true }) => {
                // The old one is as good as before; it goes on, and grows a while before the next try.
                log::warn!("journal.not_compacted error={error}");
                self.shared.lock().stats.last_error = Some(error.to_string());
                self.obsolete.retain(|&n| n != old);
                if let Some(active) = &mut self.active {
                    active.replace_at = active.len.saturating_add(least);
                }
                self.commit(batch);
            }
            Err(Failure { error, undone: false }) => {
                // The new one may be in force or not: what went to the old one could be lost.
                log::error!("journal.compaction_failed error={error}");
                self.obsolete.retain(|&n| n != old);
                self.abandon_active();
                self.start_over(batch);
            }
        }
    }

    /// Writes a segment with the whole state, puts it in force, and removes those it replaces.
    fn new_segment(&mut self, snapshot: &Snapshot) -> Result<(), Failure> {
        let number = self.next;
        self.next = self.next.saturating_add(1);
        let tmp = segment::tmp_path(&self.dir, number);
        let path = segment::path(&self.dir, number);
        let written = self.write_segment(&tmp, snapshot);
        let (file, len) = written.map_err(|e| {
            // Load ignores it, so that a leftover does no harm.
            let _ = self.disk.remove(&tmp);
            Failure { error: JournalError::at("write", &path)(e), undone: true }
        })?;
        let in_force = self.disk.rename(&tmp, &path).and_then(|()| self.disk.sync_dir(&self.dir));
        if let Err(e) = in_force {
            let error = JournalError::at("put in force", &path)(e);
            let undone = self.withdraw(&tmp, &path);
            if !undone {
                self.obsolete.push(number);
            }
            return Err(Failure { error, undone });
        }
        let mut state = self.shared.lock();
        state.stats.segment = number;
        state.stats.segment_bytes = len;
        state.stats.fsyncs += 1;
        drop(state);
        self.active = Some(Active { number, file, len, written: len, sync_at: None, replace_at: 0 });
        self.remove_obsolete();
        Ok(())
    }

    fn write_segment(&self, tmp: &Path, snapshot: &Snapshot) -> io::Result<(Box<dyn DiskFile>, u64)> {
        let mut file = match self.disk.create(tmp) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.remove(tmp)?;
                self.disk.create(tmp)?
            }
            other => other?,
        };
        let mut piece = record::encode(now_ms(), &Record::Base {})?;
        let mut len = 0;
        for stamped in &snapshot.records {
            piece.extend(record::encode(stamped.t, &stamped.record)?);
            if piece.len() >= PIECE {
                len += piece.len() as u64;
                file.append(&piece)?;
                piece.clear();
            }
        }
        for line in &snapshot.unknown {
            piece.extend_from_slice(line.as_bytes());
            piece.push(b'\n');
        }
        len += piece.len() as u64;
        file.append(&piece)?;
        file.sync()?;
        Ok((file, len))
    }

    /// Takes back a segment of which it is not known whether it is in force; returns whether that is certain.
    fn withdraw(&self, tmp: &Path, path: &Path) -> bool {
        let gone = |path: &Path| match self.disk.remove(path) {
            Ok(()) => true,
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        };
        let _ = gone(tmp);
        gone(path) && self.disk.sync_dir(&self.dir).is_ok()
    }

    /// What stays behind for some failure does no harm, and is tried again with the next new segment.
    fn remove_obsolete(&mut self) {
        let Self { disk, dir, quarantine, .. } = self;
        self.obsolete.retain(|&number| {
            let path = segment::path(dir, number);
            let kept = quarantine.iter().find(|(n, _)| *n == number).map(|(_, kept)| kept);
            let moved = match kept {
                Some(kept) => disk.rename(&path, kept),
                None => disk.remove(&path),
            };
            match moved {
                Ok(()) => false,
                Err(e) if e.kind() == io::ErrorKind::NotFound => false,
                Err(e) => {
                    log::warn!("journal.not_removed segment={} error={e}", path.display());
                    true
                }
            }
        });
        self.quarantine.retain(|(number, _)| self.obsolete.contains(number));
    }
}
