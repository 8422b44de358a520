//! Changes to the configuration file: everything else in it stays as its owner wrote it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::document::{ConfigError, Problem};
use super::load;
use super::paths::{Home, HomeError};
use crate::json;
use crate::store::{self, Disk, FileLock, LockFailure, RealDisk, StoreError};

/// How long a change waits for another one: its process may have been stopped in the middle of it.
const LOCK_LIMIT: Duration = Duration::from_secs(8);

/// A change that could not be made. The file is as it was.
#[derive(Debug)]
pub enum EditError {
    /// The home cannot be used.
    Home(HomeError),
    /// The file is wrong already, or would be afterwards.
    Config(ConfigError),
    /// The lock that keeps two changes apart.
    Lock(PathBuf, LockFailure),
    /// Writing.
    Store(StoreError),
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home(e) => e.fmt(f),
            Self::Config(e) => e.fmt(f),
            Self::Lock(path, e) => write!(f, "{} cannot be locked: {e}", path.display()),
            Self::Store(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for EditError {}

/// Reads the file (or begins an empty one), lets `change` alter it, checks the outcome, and replaces the
/// file. Waits up to eight seconds for another change that is under way.
pub fn edit(home: &Home, change: impl FnOnce(&mut Map<String, Value>)) -> Result<(), EditError> {
    edit_on(&RealDisk, home, change)
}

/// [`edit`] on a disk. A change that changes nothing leaves the file as it is, to the byte.
pub fn edit_on(disk: &dyn Disk, home: &Home, change: impl FnOnce(&mut Map<String, Value>)) -> Result<(), EditError> {
    let mut change = Some(change);
    edited(disk, home, LOCK_LIMIT, &mut |document| {
        if let Some(change) = change.take() {
            change(document);
        }
    })
}

/// What all changes share, in the program once. `limit`: how long it waits for another change.
fn edited(
    disk: &dyn Disk,
    home: &Home,
    limit: Duration,
    change: &mut dyn FnMut(&mut Map<String, Value>),
) -> Result<(), EditError> {
    home.prepare().map_err(EditError::Home)?;
    let lock = home.daemon_dir().join("config.lock");
    let _one = FileLock::acquire(&lock, limit, &|| false).map_err(|e| EditError::Lock(lock, e))?;

    let path = home.config();
    let before = load::load(&path).map_err(EditError::Config)?;
    let mut document = before.document.clone();
    change(&mut document);
    if document == before.document {
        return Ok(());
    }
    let mut text = json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    // What is longer the next start would not read.
    if text.len() as u64 > load::FILE_LIMIT {
        let message = format!("would have {} bytes; at most {} are read", text.len(), load::FILE_LIMIT);
        let problems = vec![Problem { line: 0, field: String::new(), message }];
        return Err(EditError::Config(ConfigError { file: path, problems }));
    }
    load::parse(&text, &path).map_err(EditError::Config)?;
    store::write(disk, &path, text.as_bytes()).map_err(EditError::Store)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::tests::TempDir;

    fn home(dir: &TempDir) -> Home {
        let home = Home::at(dir.0.join("bh")).unwrap();
        home.prepare().unwrap();
        fs::write(home.config(), "{\"agents\": [\"ag_1\"]}").unwrap();
        home
    }

    #[test]
    fn a_file_does_not_become_longer_than_what_is_read() {
        let dir = TempDir::new();
        let home = home(&dir);
        let filled =
            |bytes: usize| edit(&home, |document| drop(document.insert("mine".into(), "x".repeat(bytes).into())));
        let limit = load::FILE_LIMIT as usize;
        let error = filled(limit).unwrap_err();
        assert!(error.to_string().contains("at most 4194304 are read"), "{error}");
        assert_eq!(fs::read_to_string(home.config()).unwrap(), "{\"agents\": [\"ag_1\"]}");
        filled(limit - 100).unwrap();
        load::load(&home.config()).unwrap();
    }

    #[test]
    fn a_change_does_not_wait_for_ever_for_one_that_never_ends() {
        let dir = TempDir::new();
        let home = home(&dir);
        let lock = home.daemon_dir().join("config.lock");
        let _held = FileLock::acquire(&lock, Duration::ZERO, &|| false).unwrap();
        let limit = Duration::from_millis(20);
        let error = edited(&RealDisk, &home, limit, &mut |document| document.clear()).unwrap_err();
        assert!(matches!(&error, EditError::Lock(path, LockFailure::Held) if *path == lock), "{error}");
        assert_eq!(fs::read_to_string(home.config()).unwrap(), "{\"agents\": [\"ag_1\"]}");
    }
}
