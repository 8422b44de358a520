//! Keeps working memories in files.
//!
//! Whoever changes one holds a lock beside it from reading to writing; the file is replaced atomically; one that cannot
//! be read as memory is moved aside, never overwritten.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{error, fmt};

use super::{Memory, Update, UpdateError, Updated};
use crate::json;
use crate::prompt::files;
use crate::store::{self, FileLock};

/// How long whoever changes a memory waits for others, who need a moment. An agent's own program can hold the lock for
/// ever, and must not keep the daemon's threads.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
/// Largest file that is read, in bytes.
const FILE_LIMIT: u64 = 1_024 * 1_024;

/// A memory file that cannot be read or changed.
#[derive(Debug)]
pub enum MemoryError {
    /// The agent's id cannot be part of a path.
    AgentId(String),
    /// A file operation failed.
    File(PathBuf, io::Error),
    /// The change is not possible.
    Update(UpdateError),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AgentId(id) => write!(f, "agent id {id:?} cannot have a memory: expected letters, digits, . _ -"),
            Self::File(path, e) => write!(f, "{}: {e}", path.display()),
            Self::Update(e) => e.fmt(f),
        }
    }
}

impl error::Error for MemoryError {}

/// The memories of all agents of a home.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    home: PathBuf,
    daemon_dir: PathBuf,
}

impl MemoryStore {
    /// `home` is the root directory (`~/.botcord` or bellhop's own), `daemon_dir` the one in which older daemons kept
    /// memories.
    pub fn new(home: impl Into<PathBuf>, daemon_dir: impl Into<PathBuf>) -> Self {
        Self { home: home.into(), daemon_dir: daemon_dir.into() }
    }

    /// Directory of an agent's memory.
    pub fn dir(&self, agent: &str) -> Result<PathBuf, MemoryError> {
        if !files::is_plain_name(agent) {
            return Err(MemoryError::AgentId(agent.to_owned()));
        }
        Ok(self.home.join("memory").join(agent))
    }

    /// What an agent remembers; `None` where there is nothing, or nothing readable. A file at a place of older
    /// daemons is moved to its place now.
    pub fn read(&self, agent: &str) -> Option<Memory> {
        let dir = self.dir(agent).ok()?;
        let document = json::parse(&files::read_at_most(&self.locate(agent, &dir), FILE_LIMIT)?).ok()?;
        Memory::from_value(&document)
    }

    /// Changes an agent's memory; `now` is the time to be noted (RFC 3339).
    pub fn update(&self, agent: &str, update: &Update, now: &str) -> Result<Updated, MemoryError> {
        self.change(agent, now, |memory| memory.apply(update).map_err(MemoryError::Update))
    }

    /// Makes an agent forget everything.
    pub fn clear(&self, agent: &str, now: &str) -> Result<(), MemoryError> {
        self.change(agent, now, |memory| {
            *memory = Memory::default();
            Ok(())
        })
    }

    fn change<T>(
        &self,
        agent: &str,
        now: &str,
        change: impl FnOnce(&mut Memory) -> Result<T, MemoryError>,
    ) -> Result<T, MemoryError> {
        let dir = self.dir(agent)?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |e| MemoryError::File(path, e)
        };
        files::create_private_dir(&dir).map_err(failed(&dir))?;
        let lock_path = dir.join("working-memory.lock");
        let _lock = FileLock::acquire(&lock_path, LOCK_LIMIT, &|| false)
            .map_err(|e| MemoryError::File(lock_path, io::Error::other(e.to_string())))?;

        let canonical = dir.join("working-memory.json");
        let found = self.locate(agent, &dir);
        let content = read_whole(&found).map_err(failed(&found))?;
        let known = content.as_deref().map(|c| json::parse(c).ok().as_ref().and_then(Memory::from_value));
        if known == Some(None) {
            files::move_aside(&found).map_err(failed(&found))?;
        }
        let mut memory = known.flatten().unwrap_or_default();
        let result = change(&mut memory)?;
        now.clone_into(&mut memory.updated_at);
        files::write_json(&canonical, &memory).map_err(failed(&canonical))?;
        Ok(result)
    }

    /// The file to read: the canonical one, into whose place an older one is moved when it is missing.
    fn locate(&self, agent: &str, dir: &Path) -> PathBuf {
        let canonical = dir.join("working-memory.json");
        if canonical.exists() {
            return canonical;
        }
        let older = [
            self.home.join("agents").join(agent).join("state").join("working-memory.json"),
            self.daemon_dir.join("memory").join(agent).join("working-memory.json"),
        ];
        let Some(old) = older.into_iter().find(|p| p.is_file()) else { return canonical };
        match files::create_private_dir(dir).and_then(|()| move_file(&old, &canonical)) {
            Ok(()) => canonical,
            Err(e) => {
                log::warn!("memory.not_moved agent={agent} from={} error={e}", old.display());
                old
            }
        }
    }
}

/// The whole file; `None` when there is none. An error for one larger than a memory can be.
fn read_whole(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match store::open_regular(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut content = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut content)?;
    if content.len() as u64 > FILE_LIMIT {
        return Err(io::Error::other(format!("larger than {FILE_LIMIT} bytes, which no working memory is")));
    }
    Ok(Some(content))
}

fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
            fs::copy(from, to)?;
            fs::remove_file(from)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::files::tests::TempDir;

    fn set(section: &str, content: &str) -> Update {
        Update { section: Some(section.into()), content: Some(content.into()), goal: None }
    }

    #[test]
    fn many_writers_lose_nothing() {
        let dir = TempDir::new("memory-race");
        let store = MemoryStore::new(dir.path(), dir.path().join("daemon"));
        std::thread::scope(|scope| {
            for n in 0..8 {
                let store = &store;
                scope.spawn(move || store.update("ag_1", &set(&format!("s{n}"), "x"), "t").unwrap());
            }
        });
        assert_eq!(store.read("ag_1").unwrap().sections.len(), 8);
    }

    #[test]
    fn whoever_keeps_the_lock_does_not_keep_the_daemon() {
        let dir = TempDir::new("memory-held");
        let store = MemoryStore::new(dir.path(), dir.path().join("daemon"));
        let home = store.dir("ag_1").unwrap();
        fs::create_dir_all(&home).unwrap();
        let lock = home.join("working-memory.lock");
        let held = FileLock::acquire(&lock, Duration::ZERO, &|| false).unwrap();
        let why = store.update("ag_1", &set("notes", "x"), "t").unwrap_err().to_string();
        assert!(why.contains("working-memory.lock: another process holds the lock"), "{why}");
        drop(held);
        fs::remove_file(&lock).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &lock, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        assert!(store.update("ag_1", &set("notes", "x"), "t").is_err(), "nobody waits for a pipe");
        assert_eq!(store.read("ag_1"), None);
    }

    #[test]
    fn an_unreadable_file_is_moved_aside() {
        let dir = TempDir::new("memory-corrupt");
        let store = MemoryStore::new(dir.path(), dir.path().join("daemon"));
        let home = store.dir("ag_1").unwrap();
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("working-memory.json"), "{ not json").unwrap();
        assert_eq!(store.read("ag_1"), None);
        store.update("ag_1", &set("notes", "new"), "t").unwrap();
        assert_eq!(store.read("ag_1").unwrap().sections["notes"], "new");
        let names: Vec<_> = fs::read_dir(&home).unwrap().map(|e| e.unwrap().file_name()).collect();
        let aside = names.iter().find(|n| n.to_string_lossy().contains(".corrupt-")).expect("moved aside");
        assert_eq!(fs::read_to_string(home.join(aside)).unwrap(), "{ not json");
    }

    #[test]
    fn a_file_of_an_older_daemon_is_moved_to_its_place() {
        let dir = TempDir::new("memory-old");
        let store = MemoryStore::new(dir.path(), dir.path().join("daemon"));
        let old = dir.path().join("daemon/memory/ag_1");
        fs::create_dir_all(&old).unwrap();
        fs::write(old.join("working-memory.json"), r#"{"version":1,"content":"c","updatedAt":"t"}"#).unwrap();
        assert_eq!(store.read("ag_1").unwrap().sections["notes"], "c");
        assert!(!old.join("working-memory.json").exists());
        assert!(store.dir("ag_1").unwrap().join("working-memory.json").exists());
    }

    #[test]
    fn an_agent_id_is_no_path() {
        let store = MemoryStore::new("/nonexistent", "/nonexistent");
        for id in ["", "..", "a/b", ".hidden"] {
            assert!(matches!(store.dir(id), Err(MemoryError::AgentId(_))), "{id}");
        }
    }
}
