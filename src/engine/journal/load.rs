//! Reading the journal: at start-up into a ledger, and line by line for people.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::error::JournalError;
use super::ledger::{Boot, Ledger};
use super::record::{self, Line, Record, Stamped};
use super::segment::{self, Lines, RawLine};
use crate::store::{Disk, RealDisk, corrupt_name};

/// How many bad lines a [`LoadReport`] names.
const NAMED_BAD_LINES: usize = 100;

/// What was found when the journal was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Records that were read, unknown ones included.
    pub records: u64,
    /// Segments that were read.
    pub segments: usize,
    /// The last line was not whole, and was dropped: it had never been confirmed.
    pub torn_tail: bool,
    /// The first hundred lines that could not be read.
    pub bad_lines: Vec<BadLine>,
    /// Number of lines that could not be read.
    pub bad_line_count: u64,
    /// Where the segments that held them are kept.
    pub quarantined: Vec<PathBuf>,
    /// Records that this version does not know; they are kept.
    pub unknown: u64,
    /// The daemon that had the journal before.
    pub previous: Option<Boot>,
    /// Why nothing can be written for the time being.
    pub broken: Option<JournalError>,
}

/// A line that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The segment.
    pub segment: PathBuf,
    /// Where the line begins, in bytes.
    pub offset: u64,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.segment.display(), self.offset, self.why)
    }
}

impl std::error::Error for BadLine {}

pub(super) struct Loaded {
    pub(super) ledger: Ledger,
    pub(super) report: LoadReport,
    /// Every segment that is there; to be removed once a new one is in force.
    pub(super) segments: Vec<u64>,
    /// Those among them that hold bad lines, and the names under which they are to be kept.
    pub(super) quarantine: Vec<(u64, PathBuf)>,
}

/// Reads all segments from the last one that begins with `base`.
pub(super) fn load(disk: &dyn Disk, dir: &Path, now: i64) -> Result<Loaded, JournalError> {
    let mut segments = Vec::new();
    for name in disk.list(dir).map_err(JournalError::at("list", dir))? {
        if let Some(number) = segment::number(&name) {
            segments.push(number);
        } else if segment::is_tmp(&name) {
            // Never came into force; what it holds is in the segments before it.
            let _ = disk.remove(&dir.join(name));
        }
    }
    crate::sort::sort(&mut segments);
    let mut first = 0;
    for (i, &number) in segments.iter().enumerate().rev() {
        if begins_with_base(disk, &segment::path(dir, number))? {
            first = i;
            break;
        }
    }
    let mut loaded =
        Loaded { ledger: Ledger::default(), report: LoadReport::default(), segments, quarantine: Vec::new() };
    let live = loaded.segments.split_off(first);
    for (i, &number) in live.iter().enumerate() {
        let path = segment::path(dir, number);
        let last = i + 1 == live.len();
        let bad = loaded.read_segment(disk, &path, last).map_err(JournalError::at("read", &path))?;
        if bad {
            let kept = corrupt_name(&path, now);
            log::error!("journal.quarantined segment={} kept={}", path.display(), kept.display());
            loaded.report.quarantined.push(kept.clone());
            loaded.quarantine.push((number, kept));
        }
    }
    loaded.segments.extend(live);
    loaded.report.previous = loaded.ledger.boot().cloned();
    if loaded.report.unknown > 0 {
        log::warn!("journal.unknown records={} (of another version; kept)", loaded.report.unknown);
    }
    Ok(loaded)
}

fn begins_with_base(disk: &dyn Disk, path: &Path) -> Result<bool, JournalError> {
    let look = || {
        let mut lines = Lines::new(disk.open_read(path)?);
        Ok(match lines.next_line()? {
            Some((_, RawLine::Whole(line))) => {
                matches!(record::decode(line), Ok(Line::Known(Stamped { record: Record::Base {}, .. })))
            }
            _ => false,
        })
    };
    look().map_err(JournalError::at("read", path))
}

impl Loaded {
    /// Replays a segment; returns whether it holds bad lines.
    fn read_segment(&mut self, disk: &dyn Disk, path: &Path, last: bool) -> io::Result<bool> {
        let mut lines = Lines::new(disk.open_read(path)?);
        let mut bad = false;
        self.report.segments += 1;
        while let Some((offset, raw)) = lines.next_line()? {
            let why = match raw {
                RawLine::Whole(line) => match record::decode(line) {
                    Ok(Line::Known(Stamped { t, record })) => {
                        self.report.records += 1;
                        self.ledger.apply(t, record, line.len() as u64 + 1);
                        continue;
                    }
                    Ok(Line::Unknown(line)) => {
                        self.report.records += 1;
                        self.report.unknown += 1;
                        self.ledger.keep_unknown(line);
                        continue;
                    }
                    Err(why) => why,
                },
                RawLine::Torn if last => {
                    log::warn!("journal.torn segment={} offset={offset}", path.display());
                    self.report.torn_tail = true;
                    continue;
                }
                RawLine::Torn => "does not end with a newline",
                RawLine::TooLong => "too long",
            };
            bad = true;
            self.report.bad_line_count += 1;
            if self.report.bad_lines.len() < NAMED_BAD_LINES {
                log::error!("journal.bad_line segment={} offset={offset} why={why:?}", path.display());
                self.report.bad_lines.push(BadLine { segment: path.to_owned(), offset, why: why.to_owned() });
            }
        }
        Ok(bad)
    }
}

/// One line of the journal, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct Dumped {
    /// The segment.
    pub segment: PathBuf,
    /// Where the line begins, in bytes.
    pub offset: u64,
    /// What it holds.
    pub line: Line,
    /// The line itself, without its newline.
    pub raw: String,
}

/// All lines in a journal's directory, in the order of the segments. Only reads, takes no lock and works
/// beside a running daemon: a segment that is removed meanwhile ends early, and a last line that is still
/// being written is left out.
pub fn dump(dir: &Path) -> io::Result<impl Iterator<Item = Result<Dumped, BadLine>> + use<>> {
    let mut numbers: Vec<_> = RealDisk.list(dir)?.iter().filter_map(|name| segment::number(name)).collect();
    crate::sort::sort(&mut numbers);
    let paths = numbers.into_iter().map(|n| segment::path(dir, n)).collect();
    Ok(Dump { paths, open: None })
}

/// What the records in a journal's directory amount to, and the lines that could not be read. Only reads,
/// like [`dump`]; beside a running daemon the picture may be a moment old.
pub fn fold(dir: &Path) -> io::Result<(Ledger, Vec<BadLine>)> {
    let (mut ledger, mut bad) = (Ledger::default(), Vec::new());
    for line in dump(dir)? {
        match line {
            Ok(Dumped { line: Line::Known(Stamped { t, record }), .. }) => ledger.apply(t, record, 0),
            Err(line) if bad.len() < NAMED_BAD_LINES => bad.push(line),
            Ok(Dumped { line: Line::Unknown(_), .. }) | Err(_) => {}
        }
    }
    Ok((ledger, bad))
}

struct Dump {
    paths: VecDeque<PathBuf>,
    open: Option<(PathBuf, Lines)>,
}

impl Iterator for Dump {
    type Item = Result<Dumped, BadLine>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((path, mut lines)) = self.open.take() else {
                let path = self.paths.pop_front()?;
                match RealDisk.open_read(&path) {
                    Ok(file) => self.open = Some((path, Lines::new(file))),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Some(Err(BadLine { segment: path, offset: 0, why: e.to_string() })),
                }
                continue;
            };
            let segment = path.clone();
            let mut text = String::new();
            let (offset, decoded) = match lines.next_line() {
                Ok(None) => continue,
                Ok(Some((_, RawLine::Torn))) if self.paths.is_empty() => continue,
                Ok(Some((offset, RawLine::Torn))) => (offset, Err("does not end with a newline")),
                Ok(Some((offset, RawLine::TooLong))) => (offset, Err("too long")),
                Ok(Some((offset, RawLine::Whole(line)))) => {
                    text = String::from_utf8_lossy(line).into_owned();
                    (offset, record::decode(line))
                }
                // The rest of this segment is unreadable; the others may not be.
                Err(e) => return Some(Err(BadLine { segment, offset: 0, why: e.to_string() })),
            };
            self.open = Some((path, lines));
            return Some(match decoded {
                Ok(line) => Ok(Dumped { segment, offset, line, raw: text }),
                Err(why) => Err(BadLine { segment, offset, why: why.to_owned() }),
            });
        }
    }
}
