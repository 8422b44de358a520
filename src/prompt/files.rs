//! Reading and replacing small files.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use serde::Serialize;

use crate::store::{self, RealDisk};

/// Whether a name can be one path segment: letters, digits, `.`, `_`, `-`, not beginning with a dot.
pub fn is_plain_name(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.bytes().all(is_plain)
}

/// The first `limit` bytes of a regular file, or `None`.
pub fn read_at_most(path: &Path, limit: u64) -> Option<Vec<u8>> {
    read_open(store::open_regular(path).ok()?, limit)
}

/// The same of a regular file that is open.
pub fn read_open(file: File, limit: u64) -> Option<Vec<u8>> {
    let len = file.metadata().ok()?.len();
    // With room for all of it and a byte more, the end shows without a search for it in small steps.
    let mut content = Vec::with_capacity(usize::try_from(len.min(limit)).ok()? + 1);
    file.take(limit).read_to_end(&mut content).ok()?;
    Some(content)
}

/// Creates a directory and its parents for this user alone (0700).
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces a file (0600) by `value` as indented JSON: a crash leaves the old content or the new one.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    store::write_json(&RealDisk, path, value).map_err(|e| e.source)
}

/// Replaces a file (0600): a crash leaves the old content or the new one.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    store::write(&RealDisk, path, bytes).map_err(|e| e.source)
}

/// Renames a file that cannot be used to `NAME.corrupt-<ms>`, and logs it.
pub fn move_aside(path: &Path) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".corrupt-{}", now_ms()));
    fs::rename(path, &aside)?;
    log::warn!("file.moved_aside path={} to={}", path.display(), Path::new(&aside).display());
    Ok(())
}

pub use crate::time::now_ms;

#[cfg(test)]
pub mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A directory that is removed at the end of a test.
    pub struct TempDir(PathBuf);

    impl TempDir {
        pub fn new(name: &str) -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("bellhop-{name}-{}-{n}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        pub fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let dir = TempDir::new("files");
        let target = dir.path().join("taken");
        fs::create_dir(&target).unwrap();
        assert!(write_json(&target, &1).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
