//! Changes to the configuration file: everything else in it stays as its owner wrote it.

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use serde_json::{Map, Value};

use super::document::ConfigError;
use super::load;
use super::paths::{Home, HomeError, plain};
use crate::json;
use crate::store::{self, Disk, RealDisk, StoreError};

/// A change that could not be made. The file is as it was.
#[derive(Debug)]
pub enum EditError {
    /// The home cannot be used.
    Home(HomeError),
    /// The file is wrong already, or would be afterwards.
    Config(ConfigError),
    /// The lock that keeps two changes apart.
    Lock(PathBuf, io::Error),
    /// Writing.
    Store(StoreError),
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home(e) => e.fmt(f),
            Self::Config(e) => e.fmt(f),
            Self::Lock(path, e) => write!(f, "{} cannot be locked: {}", path.display(), plain(e)),
            Self::Store(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for EditError {}

/// Reads the file (or begins an empty one), lets `change` alter it, checks the outcome, and replaces the
/// file. Waits for another change that is under way.
pub fn edit(home: &Home, change: impl FnOnce(&mut Map<String, Value>)) -> Result<(), EditError> {
    edit_on(&RealDisk, home, change)
}

/// [`edit`] on a disk. A change that changes nothing leaves the file as it is, to the byte.
pub fn edit_on(disk: &dyn Disk, home: &Home, change: impl FnOnce(&mut Map<String, Value>)) -> Result<(), EditError> {
    let mut change = Some(change);
    edited(disk, home, &mut |document| {
        if let Some(change) = change.take() {
            change(document);
        }
    })
}

/// What all changes share, in the program once.
fn edited(disk: &dyn Disk, home: &Home, change: &mut dyn FnMut(&mut Map<String, Value>)) -> Result<(), EditError> {
    home.prepare().map_err(EditError::Home)?;
    let lock = home.daemon_dir().join("config.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock)
        .map_err(|e| EditError::Lock(lock.clone(), e))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|e| EditError::Lock(lock, e.into()))?;

    let path = home.config();
    let before = load::load(&path).map_err(EditError::Config)?;
    let mut document = before.document.clone();
    change(&mut document);
    if document == before.document {
        return Ok(());
    }
    let mut text = json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    load::parse(&text, &path).map_err(EditError::Config)?;
    store::write(disk, &path, text.as_bytes()).map_err(EditError::Store)
}
