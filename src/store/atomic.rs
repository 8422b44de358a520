//! Documents that are replaced as a whole: a reader, or the next start, sees the old one or the new one.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Disk, StoreError, now_ms};
use crate::json;

/// The longest document that [`load_json`] reads, in bytes.
pub const MAX_DOCUMENT: u64 = 64 * 1024 * 1024;

/// Replaces `path` by a file with these bytes, 0600. When this returns `Ok` the new content survives a loss
/// of power; after an error the old content is still there (after a failed sync of the directory: either).
///
/// The bytes go to `<name>.<pid>.<n>.tmp` in the same directory first, which is removed on failure. The
/// directory has to exist. A link at `path` is replaced, not followed.
pub fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    replace(disk, path, bytes, true)?;
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    disk.sync_dir(dir).map_err(StoreError::at("sync the directory of", path))
}

/// The same without waiting for the disk: after a loss of power the file may be the old one, the new one, or empty. For
/// what each start compares and writes again.
pub fn write_unsynced(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    replace(disk, path, bytes, false)
}

fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8], sync: bool) -> Result<(), StoreError> {
    let tmp = temporary_name(path);
    let replaced = fill(disk, &tmp, bytes, sync)
        .map_err(StoreError::at("write", path))
        .and_then(|()| disk.rename(&tmp, path).map_err(StoreError::at("replace", path)));
    if replaced.is_err() {
        // Best effort: the name carries our pid, so that nobody mistakes a leftover for something in use.
        let _ = disk.remove(&tmp);
    }
    replaced
}

fn fill(disk: &dyn Disk, tmp: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let mut file = match disk.create(tmp) {
        // Left by a dead process that had our pid.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(tmp)?;
            disk.create(tmp)?
        }
        other => other?,
    };
    file.append(bytes)?;
    if sync { file.sync() } else { Ok(()) }
}

fn temporary_name(path: &Path) -> PathBuf {
    // The number keeps two threads that replace the same document apart.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.{}.tmp", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
    PathBuf::from(name)
}

/// [`write`] of a value as JSON, indented by two, with a newline at the end.
pub fn write_json(disk: &dyn Disk, path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let mut bytes = json::to_vec_pretty(value).map_err(|e| StoreError::at("write", path)(e.into()))?;
    bytes.push(b'\n');
    write(disk, path, &bytes)
}

/// What [`load_json`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Loaded<T> {
    /// There is no such file.
    Missing,
    /// It is what it should be.
    Ok(T),
    /// It is not, and has been moved aside: nothing overwrites it.
    Corrupt {
        /// Where it is now: `<name>.corrupt-<ms>`.
        moved_to: PathBuf,
        /// Kind and place of the first error; quotes nothing of the content, which may be secret.
        why: String,
    },
}

/// Reads a JSON document of at most [`MAX_DOCUMENT`] bytes. One that does not parse is renamed to
/// `<name>.corrupt-<ms>`. `Err` means that it could not be read, or not be moved: then it must not be overwritten.
pub fn load_json<T: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<Loaded<T>, StoreError> {
    let mut value = None;
    let loaded = load_with(disk, path, &mut |bytes| {
        value = Some(json::from_slice(bytes)?);
        Ok(())
    })?;
    Ok(match (loaded, value) {
        (Loaded::Corrupt { moved_to, why }, _) => Loaded::Corrupt { moved_to, why },
        (Loaded::Ok(()), Some(value)) => Loaded::Ok(value),
        _ => Loaded::Missing,
    })
}

/// The same for a document that is read in another way than as a whole.
pub fn load_with(
    disk: &dyn Disk,
    path: &Path,
    read: &mut dyn FnMut(&[u8]) -> Result<(), json::Error>,
) -> Result<Loaded<()>, StoreError> {
    let bytes = match disk.read(path, MAX_DOCUMENT) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Missing),
        Err(e) => return Err(StoreError::at("read", path)(e)),
    };
    let Err(error) = read(&bytes) else { return Ok(Loaded::Ok(())) };
    let moved_to = set_aside(disk, path)?;
    let at = |what: &str| format!("{what}, line {} column {}", error.line(), error.column());
    let why = match error.classify() {
        serde_json::error::Category::Eof => at("ends too early"),
        serde_json::error::Category::Data => "has a field that is missing or of the wrong type".into(),
        _ => at("is not JSON"),
    };
    Ok(Loaded::Corrupt { moved_to, why })
}

/// Renames a document that is not what it should be to `<name>.corrupt-<ms>`, and says where it is now.
pub fn set_aside(disk: &dyn Disk, path: &Path) -> Result<PathBuf, StoreError> {
    let moved_to = corrupt_name(path, now_ms());
    disk.rename(path, &moved_to).map_err(StoreError::at("move aside", path))?;
    Ok(moved_to)
}

/// `<path>.corrupt-<ms>`
pub(crate) fn corrupt_name(path: &Path, ms: i64) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(format!(".corrupt-{ms}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use super::*;
    use crate::store::tests::TempDir;
    use crate::store::{Fault, FaultKind, FaultyDisk, Op, RealDisk};

    fn names(dir: &Path) -> Vec<OsString> {
        let mut names = RealDisk.list(dir).unwrap();
        names.sort();
        names
    }

    #[test]
    fn a_document_is_replaced_for_its_owner_only() {
        let dir = TempDir::new();
        let path = dir.0.join("sessions.json");
        write_json(&RealDisk, &path, &vec![1]).unwrap();
        write_json(&RealDisk, &path, &vec![1, 2]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[\n  1,\n  2\n]\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load_json::<Vec<i32>>(&RealDisk, &path).unwrap(), Loaded::Ok(vec![1, 2]));
        assert_eq!(names(&dir.0), ["sessions.json"]);
    }

    #[test]
    fn whatever_fails_the_old_or_the_new_is_there() {
        for kind in [FaultKind::NoSpace, FaultKind::Io, FaultKind::ReadOnly, FaultKind::Short, FaultKind::Late] {
            // create, append, sync, rename, sync the directory
            for nth in 1..=5 {
                let dir = TempDir::new();
                let path = dir.0.join("a.json");
                let disk = FaultyDisk::new(Arc::new(RealDisk));
                write(&disk, &path, b"old").unwrap();
                disk.arm(Fault { op: None, nth, lasting: false, kind });
                let error = write(&disk, &path, b"new").unwrap_err();
                assert!(error.to_string().contains("a.json"), "{error}");
                assert_eq!(error.is_disk_full(), matches!(kind, FaultKind::NoSpace | FaultKind::Short));
                let replaced = nth == 5 || (nth == 4 && kind == FaultKind::Late);
                let expected = if replaced { "new" } else { "old" };
                assert_eq!(std::fs::read_to_string(&path).unwrap(), expected, "{kind:?} {nth}");
                assert_eq!(names(&dir.0), ["a.json"], "{kind:?} {nth}");
                write(&disk, &path, b"newer").unwrap();
            }
        }
    }

    #[test]
    fn the_order_is_write_sync_rename_sync() {
        let dir = TempDir::new();
        let disk = FaultyDisk::new(Arc::new(RealDisk));
        write(&disk, &dir.0.join("a"), b"x").unwrap();
        assert_eq!(disk.log(), [Op::Create, Op::Append, Op::Sync, Op::Rename, Op::SyncDir]);
    }

    #[test]
    fn what_does_not_parse_is_moved_aside_and_not_quoted() {
        let dir = TempDir::new();
        let path = dir.0.join("a.json");
        assert_eq!(load_json::<Vec<i32>>(&RealDisk, &path).unwrap(), Loaded::Missing);
        let no_json = "is not JSON, line 1";
        for (content, expected) in [
            ("[1, 2", "ends too early, line 1"),
            ("[\"secret\"]", "has a field that is missing or of the wrong type"),
            ("nonsense", no_json),
            ("\u{feff}[]", no_json),
            ("", "ends too early"),
        ] {
            std::fs::write(&path, content).unwrap();
            let Loaded::Corrupt { moved_to, why } = load_json::<Vec<i32>>(&RealDisk, &path).unwrap() else { panic!() };
            assert!(moved_to.to_string_lossy().starts_with(&format!("{}.corrupt-", path.display())));
            assert_eq!(std::fs::read_to_string(&moved_to).unwrap(), content);
            assert!(!why.contains("secret") && why.starts_with(expected), "{why}");
            assert!(!path.exists());
            std::fs::remove_file(moved_to).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_moved_aside_is_an_error() {
        let dir = TempDir::new();
        let path = dir.0.join("a.json");
        std::fs::write(&path, "nonsense").unwrap();
        let disk = FaultyDisk::new(Arc::new(RealDisk));
        disk.arm(Fault { op: Some(Op::Rename), nth: 1, lasting: true, kind: FaultKind::ReadOnly });
        assert!(load_json::<Vec<i32>>(&disk, &path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "nonsense");
    }
}
