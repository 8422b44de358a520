//! What turns have cost: one line for each of them, and sums that stay when the lines go.
//!
//! Knows the engine's ports and the store. A line is appended to `turns.ndjson` when the last run of a turn is over.
//! At [`ROTATE_AT`] bytes all lines are added to `totals.json`, and the file becomes `turns.1.ndjson` in place of an
//! older one. Lines are numbered, and the totals know up to which number they go: whatever is interrupted, nothing is
//! counted twice and nothing that was written is forgotten. The process's end takes nothing; a loss of power may take
//! the last lines.

mod totals;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

pub use self::totals::{Spending, Sum, Totals};
use crate::engine::now_ms;
use crate::engine::ports::{TurnDone, TurnHook};
use crate::json;
use crate::store::{self, Loaded, RealDisk};

/// Size at which the lines are put aside, in bytes: some 15 000 turns. There are two such files at most.
pub const ROTATE_AT: u64 = 4 << 20;
/// Longest line that is read, in bytes; ids have limits of their own far below it.
const LINE_LIMIT: u64 = 16 << 10;

/// One turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TurnUsage {
    /// Number of the line, from 1.
    #[serde(rename = "n")]
    pub number: u64,
    /// When its last run was over (Unix milliseconds).
    #[serde(rename = "t")]
    pub at: i64,
    /// Turn id.
    pub turn: String,
    /// Agent.
    pub agent: String,
    /// Channel id.
    pub channel: String,
    /// Conversation id.
    pub conversation: String,
    /// Runtime id.
    pub runtime: String,
    /// What it cost.
    pub sum: Sum,
}

/// The files below one directory.
#[derive(Clone, Debug)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// The files below `dir`, which need not exist.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn lines(&self) -> PathBuf {
        self.dir.join("turns.ndjson")
    }

    fn older_lines(&self) -> PathBuf {
        self.dir.join("turns.1.ndjson")
    }

    fn totals(&self) -> PathBuf {
        self.dir.join("totals.json")
    }

    /// Everything that is known, and the latest turns that have lines, oldest first. Beside a running daemon, too.
    pub fn read(&self) -> Result<(Totals, Vec<TurnUsage>), store::StoreError> {
        // Opened before the totals are read: lines that are put aside meanwhile are in one of the two.
        let current = open_lines(&self.lines());
        let older = open_lines(&self.older_lines());
        let mut totals = self.read_totals()?;
        let mut lines = Vec::new();
        for file in older.into_iter().chain(current) {
            each(file, |line| lines.push(line));
        }
        for line in &lines {
            totals.add(line);
        }
        Ok((totals, lines))
    }

    fn read_totals(&self) -> Result<Totals, store::StoreError> {
        Ok(match store::load_json(&RealDisk, &self.totals())? {
            Loaded::Ok(totals) => totals,
            Loaded::Missing => Totals::default(),
            Loaded::Corrupt { moved_to, why } => {
                log::warn!("usage.corrupt moved_to={} why={why:?}", moved_to.display());
                Totals::default()
            }
        })
    }
}

fn open_lines(path: &Path) -> Option<File> {
    File::open(path).map_err(|e| log::debug!("usage.not_opened path={} error={e}", path.display())).ok()
}

/// Calls `with` for every line; what is no line, such as a torn last one, is passed over.
fn each(file: File, mut with: impl FnMut(TurnUsage)) {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(LINE_LIMIT).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if let Ok(line) = json::from_slice(&line) {
            with(line);
        }
    }
}

/// Writes the lines of one daemon, which has to be the only one that does.
pub struct Book {
    files: Files,
    limit: u64,
    state: Mutex<State>,
}

struct State {
    /// Number of the next line.
    next: u64,
    open: Option<(File, u64)>,
}

impl Book {
    /// The book below `dir`, which is made with the first line.
    pub fn open(dir: PathBuf) -> Self {
        Self::with_limit(dir, ROTATE_AT)
    }

    fn with_limit(dir: PathBuf, limit: u64) -> Self {
        let files = Files::at(dir);
        let mut last = files.read_totals().map_or(0, |totals| totals.upto);
        // After a crash in the middle of putting aside, the newest line may be in either.
        for path in [files.lines(), files.older_lines()] {
            if let Some(file) = open_lines(&path) {
                each(file, |line| last = last.max(line.number));
            }
        }
        Self { files, limit, state: Mutex::new(State { next: last + 1, open: None }) }
    }

    /// Writes a turn down; its number is given here. A failure is logged: a full disk must not stop a conversation.
    pub fn record(&self, mut turn: TurnUsage) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        turn.number = state.next;
        let written = json::to_vec(&turn).map_err(std::io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            self.append(&mut state, &line)
        });
        match written {
            Ok(()) => state.next += 1,
            Err(e) => {
                state.open = None;
                log::warn!("usage.not_written path={} error={e}", self.files.lines().display());
            }
        }
    }

    fn append(&self, state: &mut State, line: &[u8]) -> std::io::Result<()> {
        if state.open.as_ref().is_some_and(|(_, size)| size + line.len() as u64 > self.limit) {
            state.open = None;
            self.put_aside()?;
        }
        if state.open.is_none() {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.files.dir)?;
            let mut file =
                OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(self.files.lines())?;
            let size = file.metadata()?.len();
            // What a crash has torn must not take the next line with it.
            if size > 0 {
                file.write_all(b"\n")?;
            }
            state.open = Some((file, size));
        }
        let Some((file, size)) = &mut state.open else { return Ok(()) };
        file.write_all(line)?;
        *size += line.len() as u64;
        Ok(())
    }

    fn put_aside(&self) -> std::io::Result<()> {
        let (totals, _) = self.files.read().map_err(|e| e.source)?;
        store::write_json(&RealDisk, &self.files.totals(), &totals).map_err(|e| e.source)?;
        fs::rename(self.files.lines(), self.files.older_lines())
    }
}

impl TurnHook for Book {
    fn turn_complete(&self, done: &TurnDone<'_>) {
        let usage = done.result.and_then(|r| r.usage);
        let cost = done.result.and_then(|r| r.cost_usd).filter(|cost| cost.is_finite() && *cost >= 0.0);
        let failed = done.result.is_none_or(|r| r.error.is_some());
        let message = done.message;
        self.record(TurnUsage {
            number: 0,
            at: now_ms(),
            turn: done.turn_id.to_owned(),
            agent: message.account_id.clone(),
            channel: message.channel.clone(),
            conversation: message.conversation.id.clone(),
            runtime: done.runtime.to_owned(),
            sum: Sum {
                turns: 1,
                failed: u64::from(failed),
                ms: done.wall_ms,
                counted: u64::from(usage.is_some()),
                hit: usage.map_or(0, |u| u.hit),
                miss: usage.map_or(0, |u| u.miss),
                output: usage.map_or(0, |u| u.output),
                cost_usd: cost,
            },
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bellhop-usage-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    fn turn(n: u64) -> TurnUsage {
        TurnUsage {
            at: 1_767_225_600_000,
            turn: format!("t{n}"),
            agent: "a".into(),
            conversation: "c".into(),
            runtime: "codex".into(),
            sum: Sum { turns: 1, counted: 1, miss: n, ..Sum::default() },
            ..TurnUsage::default()
        }
    }

    fn known(dir: &Path) -> (u64, u64) {
        let sum = Files::at(dir.to_owned()).read().unwrap().0.all();
        (sum.turns, sum.miss)
    }

    #[test]
    fn nothing_is_lost_or_counted_twice_when_lines_are_put_aside() {
        let dir = dir("aside");
        assert_eq!(known(&dir), (0, 0));
        let mut expected = (0, 0);
        for n in 1..=40 {
            // A new process each time.
            Book::with_limit(dir.clone(), 1_000).record(turn(n));
            expected = (expected.0 + 1, expected.1 + n);
            assert_eq!(known(&dir), expected);
        }
        let book = Book::with_limit(dir.clone(), 1_000);
        for n in 41..=80 {
            book.record(turn(n));
        }
        assert_eq!(known(&dir), (80, 80 * 81 / 2));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
        let size = fs::metadata(dir.join("turns.1.ndjson")).unwrap().len();
        assert!(size <= 1_000 + 200, "{size}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_crash_between_the_totals_and_the_renaming_counts_once() {
        let dir = dir("crash");
        let book = Book::open(dir.clone());
        for n in 1..=3 {
            book.record(turn(n));
        }
        let (totals, _) = book.files.read().unwrap();
        store::write_json(&RealDisk, &book.files.totals(), &totals).unwrap();
        assert_eq!(known(&dir), (3, 6));
        let again = Book::open(dir.clone());
        again.record(turn(4));
        assert_eq!(known(&dir), (4, 10));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_torn_line_takes_no_other_with_it() {
        let dir = dir("torn");
        Book::open(dir.clone()).record(turn(1));
        let mut file = OpenOptions::new().append(true).open(dir.join("turns.ndjson")).unwrap();
        file.write_all(b"{\"n\":2,\"t\":1,\"tur").unwrap();
        Book::open(dir.clone()).record(turn(5));
        assert_eq!(known(&dir), (2, 6));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn files_are_the_owners_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = dir("modes");
        let book = Book::with_limit(dir.clone(), 300);
        for n in 1..=9 {
            book.record(turn(n));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        for file in fs::read_dir(&dir).unwrap() {
            assert_eq!(mode(&file.unwrap().path()), 0o600);
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
