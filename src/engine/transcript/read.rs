//! Reading transcripts, for the command line: list, tail, follow, find a failure, prune.
//!
//! Reading looks at files that a running daemon may append to or rotate at any moment, and takes no lock.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::failure::RuntimeFailure;
use super::paths::{self, DIRECTORY, Place};
use crate::json;

/// Longest line that is read; bellhop writes far shorter ones.
const LINE_LIMIT: u64 = 16 << 20;

/// The transcripts of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomFiles {
    /// The room's id; the name of its directory where no record tells.
    pub room_id: String,
    /// Its directory.
    pub directory: PathBuf,
    /// Its topics, by file name.
    pub topics: Vec<TopicFile>,
}

/// The transcript of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFile {
    /// The topic's id; `None` for that of a room without topics.
    pub topic_id: Option<String>,
    /// The active file. It may not exist while only rotated ones do.
    pub path: PathBuf,
    /// Size in bytes, rotated files included.
    pub bytes: u64,
    /// Last write.
    pub modified: SystemTime,
    /// How many rotated files there are.
    pub rotated: usize,
}

/// The rooms of an agent, in the order of their directories' names. No rooms where there are no transcripts.
pub fn list(agents: &Path, agent: &str) -> io::Result<Vec<RoomFiles>> {
    let mut rooms = Vec::new();
    for directory in room_directories(agents, agent)? {
        let owner = paths::directory_owner(&directory);
        let mut topics = BTreeMap::<String, TopicFile>::new();
        for (name, path) in transcripts(&directory)? {
            let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
            let base = paths::base(&name).to_owned();
            let active = directory.join(format!("{base}.jsonl"));
            let topic = topics.entry(base).or_insert_with(|| TopicFile {
                topic_id: paths::owner(&path).and_then(|o| o.topic),
                path: active,
                bytes: 0,
                modified: SystemTime::UNIX_EPOCH,
                rotated: 0,
            });
            topic.bytes += meta.len();
            topic.modified = topic.modified.max(meta.modified()?);
            topic.rotated += usize::from(paths::is_rotated(&name));
        }
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let room_id = owner.map_or(name, |o| o.room);
        rooms.push(RoomFiles { room_id, directory, topics: topics.into_values().collect() });
    }
    Ok(rooms)
}

/// The active file of a topic, where its records go now; it may not exist.
pub fn locate(agents: &Path, agent: &str, room: &str, topic: Option<&str>) -> PathBuf {
    Place::find(agents, agent, room, topic).path(agents)
}

/// Every file of a topic, oldest first; the active one comes last, if it exists.
pub fn files(agents: &Path, agent: &str, room: &str, topic: Option<&str>) -> io::Result<Vec<PathBuf>> {
    let place = Place::find(agents, agent, room, topic);
    let mut rotated: Vec<_> = match transcripts(&place.directory(agents)) {
        Ok(files) => files
            .into_iter()
            .filter(|(name, _)| paths::base(name) == place.topic)
            .filter_map(|(name, path)| {
                let (stamp, number) = paths::rotation(&name)?;
                Some(((stamp.to_owned(), number), path))
            })
            .collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e),
    };
    crate::sort::sort(&mut rotated);
    let active = Some(place.path(agents)).filter(|path| path.exists());
    Ok(rotated.into_iter().map(|(_, path)| path).chain(active).collect())
}

/// The last `count` lines of a file, without their ends; a last line that is still being written is left out.
pub fn tail(path: &Path, count: usize) -> io::Result<Vec<String>> {
    Ok(last_lines(&mut paths::open_read(path)?, count)?.0)
}

/// The last whole lines, and the position after them.
fn last_lines(file: &mut File, count: usize) -> io::Result<(Vec<String>, u64)> {
    const STEP: u64 = 65_536;
    let length = file.metadata()?.len();
    let mut start = length;
    let mut bytes = Vec::new();
    let mut ends = 0;
    // One line end more than lines are wanted: that of the line before the first.
    while start > 0 && ends <= count {
        // Ever larger steps, so that putting them together stays linear.
        let step = STEP.max(bytes.len() as u64).min(start);
        start -= step;
        file.seek(SeekFrom::Start(start))?;
        let mut chunk = Vec::with_capacity(bytes.len() + step as usize);
        file.take(step).read_to_end(&mut chunk)?;
        ends += chunk.split(|b| *b == b'\n').count() - 1;
        chunk.append(&mut bytes);
        bytes = chunk;
    }
    let Some(end) = bytes.iter().rposition(|b| *b == b'\n') else { return Ok((Vec::new(), start)) };
    let lines: Vec<&[u8]> = bytes[..end].split(|b| *b == b'\n').collect();
    let last = &lines[lines.len().saturating_sub(count)..];
    let last = last.iter().map(|l| String::from_utf8_lossy(l).into_owned()).collect();
    Ok((last, start + end as u64 + 1))
}

/// Follows a file as it grows and is rotated.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    open: Option<(BufReader<File>, u64)>,
    partial: Vec<u8>,
}

impl Follow {
    /// The last `count` lines, and what follows them. A file that is yet to come is followed from its beginning.
    pub fn new(path: PathBuf, count: usize) -> io::Result<(Vec<String>, Self)> {
        let mut open = open_with_inode(&path);
        let mut lines = Vec::new();
        if let Some((file, _)) = &mut open {
            let (last, end) = last_lines(file.get_mut(), count)?;
            lines = last;
            file.seek(SeekFrom::Start(end))?;
        }
        Ok((lines, Self { path, open, partial: Vec::new() }))
    }

    /// The lines that have been completed since the last call. The caller decides how long to wait between calls.
    pub fn lines(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        self.drain(&mut lines)?;
        let there = std::fs::symlink_metadata(&self.path).ok().map(|m| m.ino());
        let here = self.open.as_ref().map(|(_, inode)| *inode);
        if there.is_some() && there != here {
            // Rotated: what was written to the old file between the two looks is there, the rest in the new one.
            self.drain(&mut lines)?;
            self.partial.clear();
            self.open = open_with_inode(&self.path);
            self.drain(&mut lines)?;
        }
        Ok(lines)
    }

    fn drain(&mut self, lines: &mut Vec<String>) -> io::Result<()> {
        let Some((file, _)) = &mut self.open else { return Ok(()) };
        loop {
            let room = LINE_LIMIT.saturating_sub(self.partial.len() as u64);
            let read = file.take(room).read_until(b'\n', &mut self.partial)?;
            if self.partial.last() == Some(&b'\n') {
                self.partial.pop();
                lines.push(String::from_utf8_lossy(&self.partial).into_owned());
                self.partial.clear();
            } else if self.partial.len() as u64 >= LINE_LIMIT {
                // No record; its rest comes as a line of its own.
                self.partial.clear();
            } else if read == 0 {
                return Ok(());
            }
        }
    }
}

fn open_with_inode(path: &Path) -> Option<(BufReader<File>, u64)> {
    let file = paths::open_read(path).ok()?;
    let inode = file.metadata().ok()?.ino();
    Some((BufReader::new(file), inode))
}

/// By what a failure is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorSelector<'a> {
    /// The turn.
    Turn(&'a str),
    /// The reference that the room was given.
    Reference(&'a str),
}

/// A failure that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FoundError {
    /// Where.
    pub file: PathBuf,
    /// When.
    pub ts: String,
    /// The turn.
    pub turn_id: String,
    /// The reference.
    pub error_ref: Option<String>,
    /// Runtime id.
    pub runtime: Option<String>,
    /// What people were told.
    pub message: String,
    /// Evidence.
    pub failure: Option<RuntimeFailure>,
}

/// The first failure in a topic's active file, or without a topic in all files of the room, rotated ones included.
/// `None` when there is none, or no such file.
pub fn find_error(
    agents: &Path,
    agent: &str,
    room: &str,
    topic: Option<&str>,
    by: ErrorSelector<'_>,
) -> io::Result<Option<FoundError>> {
    let files = if topic.is_some() {
        vec![locate(agents, agent, room, topic)]
    } else {
        let directory = Place::find(agents, agent, room, None).directory(agents);
        match transcripts(&directory) {
            Ok(files) => files.into_iter().map(|(_, path)| path).collect(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        }
    };
    for path in files {
        match find_in(&path, by) {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            // Rotated or swept meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// The fields of a record that a search looks at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    kind: String,
    #[serde(default)]
    ts: String,
    #[serde(default)]
    turn_id: String,
    #[serde(default)]
    error: String,
    error_ref: Option<String>,
    runtime: Option<String>,
    runtime_failure: Option<RuntimeFailure>,
}

fn find_in(path: &Path, by: ErrorSelector<'_>) -> io::Result<Option<FoundError>> {
    let mut file = BufReader::new(paths::open_read(path)?);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        if (&mut file).take(LINE_LIMIT).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        // What is no record is not looked at.
        let Ok(line) = json::from_slice::<Line>(&bytes) else { continue };
        let is_failure = matches!(line.kind.as_str(), "turn_error" | "runtime_failure")
            && (line.error_ref.is_some() || line.runtime_failure.is_some());
        let is_meant = match by {
            ErrorSelector::Turn(id) => line.turn_id == id,
            ErrorSelector::Reference(reference) => line.error_ref.as_deref() == Some(reference),
        };
        if is_failure && is_meant {
            return Ok(Some(FoundError {
                file: path.to_owned(),
                ts: line.ts,
                turn_id: line.turn_id,
                error_ref: line.error_ref,
                runtime: line.runtime,
                message: line.error,
                failure: line.runtime_failure,
            }));
        }
    }
}

/// Deletes an agent's rotated files, of which only those last written before the time when one is given. Returns
/// what was deleted.
pub fn prune(agents: &Path, agent: &str, before: Option<SystemTime>) -> io::Result<Vec<PathBuf>> {
    let mut pruned = Vec::new();
    for directory in room_directories(agents, agent)? {
        for (name, path) in transcripts(&directory)? {
            let old =
                |limit| std::fs::symlink_metadata(&path).and_then(|m| m.modified()).is_ok_and(|time| time < limit);
            if paths::is_rotated(&name) && before.is_none_or(old) {
                gone(std::fs::remove_file(&path))?;
                pruned.push(path);
            }
        }
    }
    Ok(pruned)
}

/// Deletes all transcripts of an agent. Returns whether there were any.
pub fn prune_all(agents: &Path, agent: &str) -> io::Result<bool> {
    let directories = room_directories(agents, agent)?;
    for directory in &directories {
        gone(std::fs::remove_dir_all(directory))?;
    }
    Ok(!directories.is_empty())
}

/// What a running daemon has swept meanwhile is gone as well.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// Room directories of an agent, sorted. Where another agent has the same name, each gets its own.
fn room_directories(agents: &Path, agent: &str) -> io::Result<Vec<PathBuf>> {
    let name = paths::segment(agent);
    let mut directories = Vec::new();
    for home in [paths::evasive(&name, agent), name] {
        let entries = match std::fs::read_dir(agents.join(home).join(DIRECTORY)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let rooms = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path());
        directories.extend(rooms.filter(|dir| paths::directory_owner(dir).is_none_or(|o| o.agent == agent)));
    }
    crate::sort::sort(&mut directories);
    Ok(directories)
}

/// Names and paths of the transcripts in a room directory, sorted by name.
fn transcripts(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut files: Vec<(String, PathBuf)> = std::fs::read_dir(directory)?
        .flatten()
        .filter(|e| paths::is_transcript(&e.file_name()) && e.file_type().is_ok_and(|t| t.is_file()))
        .map(|e| (e.file_name().to_string_lossy().into_owned(), e.path()))
        .collect();
    crate::sort::sort(&mut files);
    Ok(files)
}
