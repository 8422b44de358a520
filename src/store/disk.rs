//! What durable code needs from a file system, and the real one.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// A file that is written from front to back.
pub trait DiskFile: Send {
    /// Writes all of `bytes` at the end. After an error some of them may be in the file.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything written, and the length, is on stable storage. After an error nothing is
    /// known about what was written since the last success, and the file must not be used any more.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file system.
pub trait Disk: Send + Sync {
    /// Creates a directory and its parents, 0700; fine if it exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Creates a file, 0600. Fails if anything has that name, a dangling link included.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file at its end, creating it 0600. Does not follow a link in the last component.
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading from its beginning.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn Read + Send>>;

    /// Reads a whole file of at most `limit` bytes; a longer one is an error.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_read(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// Names in a directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;

    /// Renames within a file system, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Returns when names that were created, changed or removed in the directory are on stable storage.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Length of a file in bytes.
    fn len(&self, path: &Path) -> io::Result<u64>;

    /// Cuts a file to `len` bytes.
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()>;

    /// Bytes that this user can still write to the file system of `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
}

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

struct RealFile(File);

impl DiskFile for RealFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        #[cfg(debug_assertions)]
        if super::step::is_last() {
            // In the middle of it.
            let _ = self.0.write_all(&bytes[..bytes.len() / 2]);
            super::step::die();
        }
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        super::step();
        // fdatasync: the length is part of what it makes durable, the time stamps are not.
        self.0.sync_data()
    }
}

/// Opens a regular file for reading, through links. Anything else is an error: an agent may have put a pipe in the place
/// of a file, and whoever opened that would wait for ever.
pub fn open_regular(path: &Path) -> io::Result<File> {
    open_foreign(path, 0)
}

/// The same of a path whose last component is no link; one that is is an error (`ELOOP`).
pub fn open_unlinked(path: &Path) -> io::Result<File> {
    open_foreign(path, NO_FOLLOW)
}

fn open_foreign(path: &Path, more: i32) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags | more).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

const NO_FOLLOW: i32 = OFlags::NOFOLLOW.bits() as i32;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        super::step();
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        super::step();
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        super::step();
        let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(NO_FOLLOW).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(dir)?.map(|entry| entry.map(|e| e.file_name())).collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        super::step();
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        super::step();
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        super::step();
        match File::open(dir)?.sync_all() {
            // Some file systems (network, FUSE) do not know how to sync a directory and need not.
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            other => other,
        }
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::symlink_metadata(path)?.len())
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        super::step();
        OpenOptions::new().write(true).custom_flags(NO_FOLLOW).open(path)?.set_len(len)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::store::tests::TempDir;

    #[test]
    fn directories_and_files_are_for_their_owner_only() {
        let home = TempDir::new();
        let dir = home.0.join("a/b");
        RealDisk.create_dir(&dir).unwrap();
        RealDisk.create_dir(&dir).unwrap();
        let path = dir.join("log");
        RealDisk.open_append(&path).unwrap().append(b"one").unwrap();
        let mut file = RealDisk.open_append(&path).unwrap();
        file.append(b" two").unwrap();
        file.sync().unwrap();
        RealDisk.sync_dir(&dir).unwrap();
        assert_eq!((RealDisk.read(&path, 7).unwrap(), RealDisk.len(&path).unwrap()), (b"one two".to_vec(), 7));
        assert_eq!(RealDisk.read(&path, 6).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        RealDisk.truncate(&path, 3).unwrap();
        assert_eq!(RealDisk.read(&path, 7).unwrap(), b"one");
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&home.0.join("a")), mode(&dir), mode(&path)), (0o700, 0o700, 0o600));
        assert!(RealDisk.free_space(&dir).unwrap() > 0);
    }

    #[test]
    fn links_are_not_followed_when_writing() {
        let home = TempDir::new();
        let (target, link) = (home.0.join("target"), home.0.join("link"));
        symlink(&target, &link).unwrap();
        assert!(RealDisk.create(&link).is_err());
        assert!(RealDisk.open_append(&link).is_err());
        assert!(!target.exists());
        fs::write(&target, "kept").unwrap();
        assert!(RealDisk.open_append(&link).is_err());
        assert!(RealDisk.truncate(&link, 0).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
    }
}
