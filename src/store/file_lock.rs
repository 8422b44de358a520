//! A lock on one file, for as long as it takes to change it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};

/// How often is looked whether a lock is free.
const PAUSE: Duration = Duration::from_millis(50);

/// Held while nobody else may change a file; ends with the process.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

/// Why a lock was not given.
#[derive(Debug)]
pub enum LockFailure {
    /// Somebody else has it for longer than was waited.
    Held,
    /// It cannot be used at all, in a directory that cannot be written to, say.
    Unusable(io::Error),
}

impl fmt::Display for LockFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held => f.write_str("another process holds the lock"),
            Self::Unusable(e) => write!(f, "the lock cannot be used: {e}"),
        }
    }
}

impl std::error::Error for LockFailure {}

impl FileLock {
    /// Takes the lock of this name, which is a file of its own: what it guards may be replaced. Waits up to `limit`, or
    /// until `stopped` says so.
    pub fn acquire(path: &Path, limit: Duration, stopped: &dyn Fn() -> bool) -> Result<Self, LockFailure> {
        // A pipe in its place would keep whoever opens it.
        let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK).bits() as i32;
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let file = file.open(path).map_err(LockFailure::Unusable)?;
        let end = Instant::now() + limit;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(e) => return Err(LockFailure::Unusable(e.into())),
            }
            if Instant::now() >= end || stopped() {
                return Err(LockFailure::Held);
            }
            std::thread::sleep(PAUSE);
        }
    }
}
