//! Files that survive: atomic replacement, the lock of the home, and the file system behind them.
//!
//! Knows nobody. What has to be durable goes through [`Disk`], so that tests can make every single
//! operation fail ([`FaultyDisk`]). Rules that hold everywhere here: files are 0600 and directories 0700;
//! a failed fsync is fatal for the file it was called on (never tried again on the same descriptor, since
//! the kernel may have dropped the dirty pages); a directory is synced after a rename in it.

mod atomic;
mod disk;
mod faulty;
mod file_lock;
mod lock;
#[cfg(debug_assertions)]
mod step;
pub mod zip;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) use atomic::corrupt_name;
pub use atomic::{Loaded, MAX_DOCUMENT, load_json, load_with, set_aside, write, write_json, write_unsynced};
pub use disk::{Disk, DiskFile, RealDisk, open_regular, open_unlinked};
pub use faulty::{Fault, FaultKind, FaultyDisk, Op};
pub use file_lock::{FileLock, LockFailure};
pub use lock::{HomeLock, LockError};

/// A file operation that failed: what was tried on which file, and what the system said.
#[derive(Debug)]
pub struct StoreError {
    /// What was tried, as a verb: `write`, `rename`.
    pub op: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl StoreError {
    /// For use in `map_err`.
    pub fn at(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { op, path, source }
    }

    /// Whether the disk, or the user's share of it, is full.
    pub fn is_disk_full(&self) -> bool {
        is_disk_full(&self.source)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.op, self.path.display(), self.source)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A change of the disk that does not go through [`Disk`] is about to be made; tests of crashes may end here.
#[inline]
pub(crate) fn step() {
    #[cfg(debug_assertions)]
    if step::is_last() {
        step::die();
    }
}

/// Whether an error says that the disk, or the user's share of it, is full.
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub(crate) use crate::time::now_ms;

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A directory that goes with the test.
    pub(crate) struct TempDir(pub(crate) PathBuf);

    impl TempDir {
        pub(crate) fn new() -> Self {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let name = format!("bellhop-store-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
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
}
