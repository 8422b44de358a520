//! Where the control socket lies, and how to reach it when its path is too long for the kernel.
//!
//! A Unix socket address holds 107 bytes of path, and homes of sandboxes are longer than one thinks. The
//! directory is then opened and the socket named through `/proc/self/fd`, which is always short.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Directory of the socket below the home; mode 0700.
pub const DIRECTORY: &str = "daemon";

/// File name of the socket; mode 0600.
pub const NAME: &str = "bellhop.sock";

/// Paths longer than this take the way through `/proc`. A little below the kernel's 107 (and macOS' 103).
pub(super) const PATH_LIMIT: usize = 100;

/// The control socket of a home.
pub fn path(home: &Path) -> PathBuf {
    home.join(DIRECTORY).join(NAME)
}

/// Connects to the socket at `path`, however long that is. Blocks only while the daemon's backlog is full.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let name = Short::of(path)?;
    UnixStream::connect(&name.path)
}

/// A path that fits a socket address, as long as this lives.
pub(super) struct Short {
    pub(super) path: PathBuf,
    _directory: Option<OwnedFd>,
}

impl Short {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        if path.as_os_str().as_bytes().len() <= PATH_LIMIT {
            return Ok(Self { path: path.to_owned(), _directory: None });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a socket path names a file in a directory"));
        };
        let directory = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        Ok(Self { path, _directory: Some(directory) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_paths_go_through_proc() {
        let short = Short::of(Path::new("/tmp/x.sock")).unwrap();
        assert_eq!(short.path, Path::new("/tmp/x.sock"));
        let long = std::env::temp_dir().join("./".repeat(60)).join(NAME);
        let short = Short::of(&long).unwrap();
        assert!(short.path.starts_with("/proc/self/fd") && short.path.ends_with(NAME), "{:?}", short.path);
    }
}
