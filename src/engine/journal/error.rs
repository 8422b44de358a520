//! What can go wrong with the journal.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::store::is_disk_full;

/// A failure of the journal. Cheap to clone, since one failed write fails all that were waiting for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalError {
    /// A file operation failed.
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        message: String,
        /// Whether the disk is full.
        disk_full: bool,
    },
    /// An earlier failure has not been overcome; the text is that failure's.
    Broken {
        /// The failure.
        why: String,
    },
    /// The journal was closed.
    Closed,
    /// The record is longer than [`super::MAX_LINE`].
    TooLarge {
        /// Length of its line.
        bytes: usize,
    },
    /// The record cannot be written as JSON.
    Encode(String),
}

impl JournalError {
    pub(super) fn at(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { op, path, disk_full: is_disk_full(&error), message: error.to_string() }
    }

    /// Whether the disk, or the user's share of it, is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { disk_full: true, .. })
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { op, path, message, disk_full } => {
                let full = if *disk_full { "disk full: " } else { "" };
                write!(f, "{full}cannot {op} {}: {message}", path.display())
            }
            Self::Broken { why } => write!(f, "the journal cannot be written: {why}"),
            Self::Closed => f.write_str("the journal is closed"),
            Self::TooLarge { bytes } => {
                write!(f, "a record of {bytes} bytes is longer than the {} that a line may have", super::MAX_LINE)
            }
            Self::Encode(why) => write!(f, "a record cannot be written as JSON: {why}"),
        }
    }
}

impl std::error::Error for JournalError {}
