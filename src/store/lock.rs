//! One daemon per home.
//!
//! The truth is an advisory lock (`flock`) on `daemon/daemon.lock`: it ends with the process that holds it,
//! however that ends, and no pid that was given to another process can be mistaken for it. What is written
//! into the file only tells people who that is.
//!
//! The Node.js daemon that may live in the same home knows no `flock`: it looks at `daemon/daemon.pid` and at a
//! directory `daemon/daemon.pid.lock` with a file `owner.pid` in it. Both are written as well, so that it sees
//! us, and looked at, so that we see it.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use super::{Disk, RealDisk, StoreError, atomic};

/// How often, and how many times, [`HomeLock::holder`] looks again while the lock is held by nobody with a name.
const NAMELESS_PAUSE: Duration = Duration::from_millis(10);
const NAMELESS_TRIES: u32 = 100;

/// The lock of a home; held until it is dropped.
#[derive(Debug)]
pub struct HomeLock {
    // Never unlinked: a second process could lock the new file while a third still holds the old one.
    file: File,
    pid_files: PidFiles,
}

/// Why the lock could not be taken.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it.
    Held {
        /// Its process id, as it wrote it down.
        pid: Option<i32>,
        /// What it is, such as `bellhop start`.
        command: Option<String>,
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file cannot be used.
    Io(StoreError),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Held { pid, command, path } => {
                let command = command.as_deref().unwrap_or("another process");
                match pid {
                    Some(pid) => write!(f, "already running: {command} (pid {pid}) holds {}", path.display()),
                    None => write!(f, "already running: {command} holds {}", path.display()),
                }
            }
        }
    }
}

impl std::error::Error for LockError {}

impl HomeLock {
    /// Takes the lock of the daemon directory (`<home>/daemon`, created 0700 if need be) without waiting, and
    /// writes the pid files. `command` is what a second caller is told, such as `bellhop start`.
    pub fn acquire(daemon_dir: &Path, command: &str) -> Result<Self, LockError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(daemon_dir)
            .map_err(|e| LockError::Io(StoreError::at("create", daemon_dir)(e)))?;
        let path = daemon_dir.join("daemon.lock");
        let io = |e: io::Error| LockError::Io(StoreError::at("lock", &path)(e));
        let file = open(&path, true).map_err(io)?;
        match lock_exclusive(&file) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(held(&file, path)),
            Err(e) => return Err(io(e.into())),
        }
        let pid_files = PidFiles::in_dir(daemon_dir);
        if let Some(pid) = pid_files.other_daemon() {
            return Err(LockError::Held {
                pid: Some(pid),
                command: Some("a Node.js daemon".into()),
                path: pid_files.pid,
            });
        }
        // These are words for others: a full disk must not keep the daemon from starting.
        if let Err(e) = write_owner(&file, command) {
            log::warn!("lock.owner path={} error={e}", path.display());
        }
        if let Err(e) = pid_files.write() {
            log::warn!("lock.pid error={e}");
        }
        Ok(Self { file, pid_files })
    }

    /// The Node.js daemon that runs in a home whose lock nobody holds.
    pub fn foreign(daemon_dir: &Path) -> Option<i32> {
        PidFiles::in_dir(daemon_dir).other_daemon()
    }

    /// Who holds the lock of a daemon directory, without taking it; `None` when nobody does.
    pub fn holder(daemon_dir: &Path) -> Result<Option<LockError>, LockError> {
        let path = daemon_dir.join("daemon.lock");
        let io = |e: io::Error| LockError::Io(StoreError::at("lock", &path)(e));
        let file = match open(&path, false) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(e)),
        };
        // Between taking the lock and saying who has it lies a moment.
        for _ in 0..NAMELESS_TRIES {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
                Ok(()) => return Ok(None),
                Err(Errno::WOULDBLOCK) => match held(&file, path.clone()) {
                    LockError::Held { pid: None, .. } => std::thread::sleep(NAMELESS_PAUSE),
                    named => return Ok(Some(named)),
                },
                Err(e) => return Err(io(e.into())),
            }
        }
        Ok(Some(held(&file, path)))
    }
}

impl Drop for HomeLock {
    fn drop(&mut self) {
        self.pid_files.remove();
        // The next holder shall not be taken for this one until it has written its own name.
        let _ = self.file.set_len(0);
        // Closing would do, but for a child between fork and exec, which holds the file for a moment longer.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// What daemons without `flock` look at.
#[derive(Debug)]
struct PidFiles {
    pid: PathBuf,
    lock_dir: PathBuf,
    owner: PathBuf,
}

impl PidFiles {
    fn in_dir(daemon_dir: &Path) -> Self {
        let lock_dir = daemon_dir.join("daemon.pid.lock");
        Self { pid: daemon_dir.join("daemon.pid"), owner: lock_dir.join("owner.pid"), lock_dir }
    }

    /// A living daemon of the other kind. Called with the `flock` held, so that it is none of ours.
    fn other_daemon(&self) -> Option<i32> {
        let named = [&self.owner, &self.pid].into_iter().filter_map(|path| read_pid(path));
        named.filter(|&pid| pid != own_pid()).find(|&pid| is_node_daemon(pid))
    }

    fn write(&self) -> Result<(), StoreError> {
        let text = own_pid().to_string();
        RealDisk.create_dir(&self.lock_dir).map_err(StoreError::at("create", &self.lock_dir))?;
        atomic::write(&RealDisk, &self.owner, text.as_bytes())?;
        atomic::write(&RealDisk, &self.pid, text.as_bytes())
    }

    /// Removes what is ours: somebody may have replaced it by force.
    fn remove(&self) {
        if read_pid(&self.pid) == Some(own_pid()) {
            let _ = std::fs::remove_file(&self.pid);
        }
        if read_pid(&self.owner) == Some(own_pid()) {
            let _ = std::fs::remove_file(&self.owner);
            let _ = std::fs::remove_dir(&self.lock_dir);
        }
    }
}

fn own_pid() -> i32 {
    std::process::id() as i32
}

fn read_pid(path: &Path) -> Option<i32> {
    let bytes = RealDisk.read(path, 64).ok()?;
    std::str::from_utf8(&bytes).ok()?.trim().parse().ok().filter(|&pid| pid > 0)
}

/// Whether a pid is that of a living Node.js daemon, and not of something that got the pid later.
fn is_node_daemon(pid: i32) -> bool {
    let Some(process) = rustix::process::Pid::from_raw(pid) else { return false };
    if rustix::process::test_kill_process(process) == Err(Errno::SRCH) {
        return false;
    }
    match std::fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(command_line) => runs_node(&command_line),
        // It cannot be told what it is: rather not start than run beside it.
        Err(_) => true,
    }
}

/// Whether a command line (words that end in NUL) is that of Node.js or of a daemon that carries its own.
fn runs_node(command_line: &[u8]) -> bool {
    let program = command_line.split(|&b| b == 0).next().unwrap_or_default();
    let name = program.rsplit(|&b| b == b'/').next().unwrap_or_default();
    name.starts_with(b"node") || name.starts_with(b"botcord")
}

/// Tries a few times within 100 ms, since [`HomeLock::holder`] of another process has the lock for a moment.
fn lock_exclusive(file: &File) -> rustix::io::Result<()> {
    for _ in 0..5 {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
}

/// Writes the line in one piece over what a killed holder left, so that no reader finds half of it.
fn write_owner(file: &File, command: &str) -> io::Result<()> {
    let line = format!("{} {}\n", std::process::id(), command.replace('\n', " "));
    file.write_all_at(line.as_bytes(), 0)?;
    file.set_len(line.len() as u64)
}

/// Reads `<pid> <command>` of the first line; a file that says something else names nobody.
fn held(file: &File, path: PathBuf) -> LockError {
    let mut bytes = [0; 4096];
    let size = file.read_at(&mut bytes, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..size]);
    let line = text.lines().next().unwrap_or_default().trim();
    let (pid, command) = line.split_once(' ').unwrap_or((line, ""));
    let pid = pid.parse().ok();
    let command = Some(command).filter(|c| pid.is_some() && !c.is_empty()).map(str::to_owned);
    LockError::Held { pid, command, path }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::TempDir;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let home = TempDir::new();
        let dir = home.0.join("daemon");
        assert!(HomeLock::holder(&dir).unwrap().is_none());
        let lock = HomeLock::acquire(&dir, "bellhop start").unwrap();
        let error = HomeLock::acquire(&dir, "bellhop chat").unwrap_err().to_string();
        let expected =
            format!("already running: bellhop start (pid {}) holds {}/daemon.lock", own_pid(), dir.display());
        assert_eq!(error, expected);
        assert_eq!(HomeLock::holder(&dir).unwrap().unwrap().to_string(), expected);
        assert_eq!(read_pid(&dir.join("daemon.pid")), Some(own_pid()));
        assert_eq!(read_pid(&dir.join("daemon.pid.lock/owner.pid")), Some(own_pid()));

        drop(lock);
        assert!(HomeLock::holder(&dir).unwrap().is_none());
        assert!(!dir.join("daemon.pid").exists() && !dir.join("daemon.pid.lock").exists());
        HomeLock::acquire(&dir, "bellhop start").unwrap();
    }

    #[test]
    fn a_holder_that_has_not_said_its_name_yet_is_waited_for() {
        let home = TempDir::new();
        let path = home.0.join("daemon.lock");
        let file = open(&path, true).unwrap();
        lock_exclusive(&file).unwrap();
        std::thread::scope(|scope| {
            let seen = scope.spawn(|| HomeLock::holder(&home.0).unwrap().unwrap().to_string());
            std::thread::sleep(3 * NAMELESS_PAUSE);
            write_owner(&file, "bellhop start").unwrap();
            assert!(seen.join().unwrap().contains(&format!("bellhop start (pid {})", own_pid())));
        });
    }

    #[test]
    fn a_shorter_name_leaves_nothing_of_a_longer_one() {
        let home = TempDir::new();
        let path = home.0.join("daemon.lock");
        std::fs::write(&path, format!("1 {}\n", "x".repeat(99))).unwrap();
        let lock = HomeLock::acquire(&home.0, "bellhop start").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{} bellhop start\n", own_pid()));
        drop(lock);
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn a_pid_file_of_nobody_is_replaced_and_one_of_another_is_left() {
        let home = TempDir::new();
        // Alive for certain, and no Node.js daemon.
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        std::fs::write(home.0.join("daemon.pid"), child.id().to_string()).unwrap();
        let lock = HomeLock::acquire(&home.0, "bellhop start");
        child.kill().unwrap();
        child.wait().unwrap();
        let lock = lock.unwrap();
        assert_eq!(read_pid(&home.0.join("daemon.pid")), Some(own_pid()));
        std::fs::write(home.0.join("daemon.pid"), "1").unwrap();
        drop(lock);
        assert_eq!(read_pid(&home.0.join("daemon.pid")), Some(1));
    }

    #[test]
    fn command_lines_of_node_are_recognised() {
        for (line, expected) in [
            (&b"/usr/bin/node\0/opt/daemon/index.js\0start\0"[..], true),
            (b"node22\0x\0", true),
            (b"botcord-daemon start\0", true),
            (b"/usr/bin/bellhop\0start\0", false),
            (b"/bin/sh\0-c\0node x\0", false),
            (b"", false),
        ] {
            assert_eq!(runs_node(line), expected, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn a_lock_file_that_is_a_link_is_refused() {
        let home = TempDir::new();
        std::os::unix::fs::symlink(home.0.join("elsewhere"), home.0.join("daemon.lock")).unwrap();
        assert!(matches!(HomeLock::acquire(&home.0, "bellhop start"), Err(LockError::Io(_))));
        assert!(!home.0.join("elsewhere").exists());
    }
}
