//! Writing transcripts: append, rotate, sweep.

use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Mode, OFlags};

use serde::Deserialize;

use super::paths::{self, DIRECTORY, Place};
use super::record::Record;
use super::{history, read};
use crate::engine::ports::RoomMessage;
use crate::json;
use crate::message::Inbound;
use crate::thread;
use crate::time;

/// Size in bytes beyond which a file is rotated.
pub const FILE_LIMIT: u64 = 8_388_608;

/// Files that nobody has written to for so long are deleted.
pub const RETENTION: Duration = Duration::from_hours(72);

/// How often old files are looked for; the first write looks at once.
pub const SWEEP_PERIOD: Duration = Duration::from_hours(6);

/// Records among which [`Writer::has_end`] looks.
const RECENT: usize = 512;

/// Files kept open between records; the one written longest ago is closed for the next.
const OPEN_FILES: usize = 32;

/// Turns whose files are spared by the sweep. Far more than can run at once; beyond it the one begun first is
/// forgotten, which matters only should it stay silent for all of [`RETENTION`].
const RUNNING_TURNS: usize = 1_024;

/// Writes transcripts. Clones write the same ones; there is one writer in a daemon, since only it rotates.
#[derive(Clone)]
pub struct Writer {
    inner: Arc<Inner>,
}

struct Inner {
    /// The directory with the homes of all agents.
    agents: PathBuf,
    enabled: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: HashMap<Key, Open>,
    running: HashMap<String, Running>,
    /// Counts records, for finding the oldest of the two maps.
    clock: u64,
    swept: Option<SystemTime>,
    failing: bool,
}

/// Agent, room, topic.
type Key = (String, String, Option<String>);

struct Open {
    file: File,
    place: Place,
    used: u64,
}

struct Running {
    path: PathBuf,
    begun: u64,
}

impl Writer {
    /// A writer below the directory of all agents' homes; a disabled one does nothing.
    pub fn new(agents: PathBuf, enabled: bool) -> Self {
        Self { inner: Arc::new(Inner { agents, enabled, state: Mutex::default() }) }
    }

    /// Appends a record. A failure is logged, once until writing works again, and goes no further.
    pub fn append(&self, record: &Record) {
        if !self.inner.enabled {
            return;
        }
        let mut state = self.inner.lock();
        let written = self.inner.append(&mut state, record);
        match written {
            Ok(()) => state.failing = false,
            Err(e) if !state.failing => {
                state.failing = true;
                log::warn!("transcript.failed dir={} error={e}", self.inner.agents.display());
            }
            Err(_) => {}
        }
        let now = SystemTime::now();
        let due = state.swept.is_none_or(|t| now.duration_since(t).is_ok_and(|age| age >= SWEEP_PERIOD));
        if due {
            state.swept = Some(now);
            drop(state);
            self.sweep_aside(now);
        }
    }

    /// Whether the end of a turn is among the last [`RECENT`] records of its conversation. A disabled writer has
    /// written every end.
    pub fn has_end(&self, message: &Inbound, turn_id: &str) -> bool {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Seen {
            kind: String,
            turn_id: String,
        }
        if !self.inner.enabled {
            return true;
        }
        let conversation = &message.conversation;
        let topic = conversation.thread_id.as_deref();
        let path = read::locate(&self.inner.agents, &message.account_id, &conversation.id, topic);
        let lines = read::tail(&path, RECENT).unwrap_or_default();
        lines
            .iter()
            .rev()
            .filter_map(|line| json::from_str(line).ok())
            .any(|seen: Seen| seen.turn_id == turn_id && ["outbound", "turn_error"].contains(&seen.kind.as_str()))
    }

    /// The last messages of a conversation as this machine has seen them, oldest first.
    pub fn history(&self, agent: &str, room: &str, topic: Option<&str>, limit: usize) -> Vec<RoomMessage> {
        history::read(&self.inner.agents, agent, room, topic, limit)
    }

    /// Deletes files that were last written before the time less [`RETENTION`], but none that a running turn writes
    /// to. Returns how many.
    pub fn sweep(&self, now: SystemTime) -> usize {
        let Some(before) = now.checked_sub(RETENTION) else { return 0 };
        let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut swept = 0;
        for agent in entries(&self.inner.agents) {
            for room in entries(&agent.path().join(DIRECTORY)).filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
                let files = entries(&room.path()).filter(|e| paths::is_transcript(&e.file_name()));
                swept += files.filter(|file| self.inner.sweep_file(&file.path(), before)).count();
                // Succeeds only where nothing is left.
                let _state = self.inner.lock();
                let _ = std::fs::remove_dir(room.path());
            }
        }
        swept
    }

    /// A sweep on a thread of its own, so that no turn waits for it.
    fn sweep_aside(&self, now: SystemTime) {
        let writer = self.clone();
        let sweep = move || {
            let swept = writer.sweep(now);
            if swept > 0 {
                log::info!("transcript.swept files={swept}");
            }
        };
        if let Err(e) = thread::spawn("transcript-sweep", sweep) {
            log::warn!("transcript.sweep_failed error={e}");
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, state: &mut State, record: &Record) -> io::Result<()> {
        let mut line = json::to_vec(record)?;
        line.push(b'\n');

        let (agent, room, topic) = record.place();
        let key = (agent.to_owned(), room.to_owned(), topic.map(str::to_owned));
        state.clock += 1;
        let now = state.clock;
        let kept = state.open.remove(&key).map(|open| open.file.metadata().map(|meta| (open, meta))).transpose()?;
        let (mut open, mut size) = match kept {
            // Deleted or pruned by somebody: what is written there would be lost.
            Some((open, meta)) if meta.nlink() > 0 => (open, meta.len()),
            _ => self.open(Place::find(&self.agents, agent, room, topic))?,
        };
        if size > 0 && size + line.len() as u64 > FILE_LIMIT {
            self.rotate(&open.place)?;
            (open, size) = self.open(open.place)?;
        }
        open.file.write_all(&line).inspect_err(|_| {
            // Half a line (a full disk, say) would spoil the next one.
            let _ = open.file.set_len(size);
        })?;
        open.used = now;

        let path = open.place.path(&self.agents);
        state.track(record, path, now);
        if state.open.len() >= OPEN_FILES
            && let Some(oldest) = state.open.iter().min_by_key(|(_, o)| o.used).map(|(k, _)| k.clone())
        {
            state.open.remove(&oldest);
        }
        state.open.insert(key, open);
        Ok(())
    }

    /// The file, and how long it is.
    fn open(&self, place: Place) -> io::Result<(Open, u64)> {
        let directory = self.directory(&place)?;
        // Not blocking: a pipe that somebody has put there must not hold up the turn.
        let flags =
            OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = File::from(rustix::fs::openat(&directory, place.name(), flags, mode)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        end_torn_line(&mut file)?;
        let size = file.metadata()?.len();
        Ok((Open { file, place, used: 0 }, size))
    }

    /// The room directory, made where it is missing. The steps below the agent's home follow no links, since agents
    /// can write there.
    fn directory(&self, place: &Place) -> io::Result<OwnedFd> {
        let home = self.agents.join(&place.agent);
        DirBuilder::new().recursive(true).mode(0o700).create(&home)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let home = rustix::fs::open(&home, flags, Mode::empty())?;
        let transcripts = subdirectory(&home, DIRECTORY)?;
        subdirectory(&transcripts, &place.room)
    }

    /// Renames the active file to one with the time in its name, and a number before it where that is taken.
    fn rotate(&self, place: &Place) -> io::Result<()> {
        let directory = self.directory(place)?;
        let stamp = time::compact(time::now_ms());
        let mut name = format!("{}.{stamp}.jsonl", place.topic);
        let mut number = 0;
        while rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            number += 1;
            name = format!("{}.{number}.{stamp}.jsonl", place.topic);
        }
        Ok(rustix::fs::renameat(&directory, place.name(), &directory, &name)?)
    }

    fn sweep_file(&self, path: &Path, before: SystemTime) -> bool {
        // Under the lock, so that no record goes into a file that is being deleted.
        let mut state = self.lock();
        let old =
            std::fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.modified().is_ok_and(|time| time < before));
        if !old || state.running.values().any(|r| r.path == path) {
            return false;
        }
        state.open.retain(|_, open| open.place.path(&self.agents) != path);
        std::fs::remove_file(path).is_ok()
    }
}

impl State {
    /// Remembers the file of a turn from its dispatch to its end.
    fn track(&mut self, record: &Record, path: PathBuf, now: u64) {
        if record.body().ends_turn() {
            self.running.remove(record.turn_id());
        } else if record.body().begins_turn() {
            self.running.insert(record.turn_id().to_owned(), Running { path, begun: now });
            if self.running.len() > RUNNING_TURNS
                && let Some(oldest) = self.running.iter().min_by_key(|(_, r)| r.begun).map(|(id, _)| id.clone())
            {
                self.running.remove(&oldest);
            }
        }
    }
}

fn subdirectory(parent: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// A crash may have left half a line; the next record begins on a line of its own.
fn end_torn_line(file: &mut File) -> io::Result<()> {
    if file.metadata()?.len() == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}
