//! The agents whose credentials lie in a directory.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::{Credentials, CredentialsError, Problem, load};
use crate::net::url;

/// An agent that was found.
#[derive(Debug)]
pub struct Found {
    /// Its file.
    pub path: PathBuf,
    /// Its credentials.
    pub credentials: Credentials,
}

/// Why a file was passed over.
#[derive(Debug)]
pub enum Warning {
    /// The directory cannot be read.
    Directory(PathBuf, io::Error),
    /// The file cannot be used.
    Invalid(CredentialsError),
    /// The agent belongs to another hub than the daemon.
    OtherHub(PathBuf),
    /// Another file of the same agent is newer, or comes first.
    Duplicate(PathBuf),
}

impl Warning {
    /// A word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Directory(..) => "unreadable",
            Self::Invalid(_) => "invalid",
            Self::OtherHub(_) => "other_hub",
            Self::Duplicate(_) => "duplicate",
        }
    }
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path, e) => write!(f, "{} cannot be read: {e}", path.display()),
            Self::Invalid(e) => e.fmt(f),
            Self::OtherHub(path) => write!(f, "{} is for another hub", path.display()),
            Self::Duplicate(path) => write!(f, "{} is an older file of an agent that is there twice", path.display()),
        }
    }
}

/// The agents of a directory, by id. A directory that is not there has none. `hub`: the only hub whose agents are
/// wanted, where that matters.
pub fn discover(dir: &Path, hub: Option<&str>) -> (Vec<Found>, Vec<Warning>) {
    let mut warnings = Vec::new();
    // By agent, from the beginning.
    let mut found: Vec<(i64, Found)> = Vec::new();
    for path in names(dir, &mut warnings) {
        let time = modified_ms(&path);
        let credentials = match load(&path) {
            Ok(credentials) => credentials,
            Err(e) => {
                // One that went away meanwhile is not worth a word.
                if !matches!(&e.problem, Problem::Read(e) if e.kind() == io::ErrorKind::NotFound) {
                    warnings.push(Warning::Invalid(e));
                }
                continue;
            }
        };
        if is_other_hub(&credentials.hub_url, hub) {
            warnings.push(Warning::OtherHub(path));
            continue;
        }
        let this = Found { path, credentials };
        let id = &this.credentials.agent_id;
        match found.binary_search_by(|(_, f)| f.credentials.agent_id.cmp(id)) {
            Err(place) => found.insert(place, (time, this)),
            Ok(place) => match found.get_mut(place) {
                Some(known) if time > known.0 => {
                    let older = std::mem::replace(known, (time, this));
                    warnings.push(Warning::Duplicate(older.1.path));
                }
                _ => warnings.push(Warning::Duplicate(this.path)),
            },
        }
    }
    (found.into_iter().map(|(_, f)| f).collect(), warnings)
}

/// The files that may hold credentials, by their bytes.
fn names(dir: &Path, warnings: &mut Vec<Warning>) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|e| e.file_name())).collect::<io::Result<Vec<OsString>>>());
    let mut names = match listed {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => {
            warnings.push(Warning::Directory(dir.to_owned(), e));
            Vec::new()
        }
    };
    names.retain(|name| name.as_bytes().ends_with(b".json"));
    crate::sort::sort(&mut names);
    names.into_iter().map(|name| dir.join(name)).collect()
}

fn modified_ms(path: &Path) -> i64 {
    let modified = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |age| age.as_millis() as i64)
}

/// Whether two hubs have another host or port. What is no URL is like every other.
fn is_other_hub(hub: &str, wanted: Option<&str>) -> bool {
    let place = |url: &str| url::origin(url).map(|(_, host, port)| (host, port));
    match (place(hub), wanted.and_then(place)) {
        (Some(theirs), Some(wanted)) => theirs != wanted,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::TempDir;

    #[test]
    fn a_directory_that_is_none_is_warned_about_once() {
        let dir = TempDir::new();
        let (found, warnings) = discover(&dir.0.join("missing"), None);
        assert!(found.is_empty() && warnings.is_empty());
        let file = dir.0.join("file");
        std::fs::write(&file, "").unwrap();
        let (found, warnings) = discover(&file, None);
        assert!(found.is_empty());
        assert_eq!(warnings.iter().map(Warning::as_str).collect::<Vec<_>>(), ["unreadable"]);
    }

    #[test]
    fn hubs_are_compared_by_host_and_port() {
        assert!(!is_other_hub("https://h/base", Some("https://H:443")));
        assert!(is_other_hub("https://h:8443", Some("https://h")));
        assert!(!is_other_hub("https://h", Some("nonsense")));
        assert!(!is_other_hub("https://h", None));
    }
}
