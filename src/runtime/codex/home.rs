//! The agent's own `CODEX_HOME`: a link to the user's login and the instruction file `AGENTS.md`.
//!
//! Codex copies `AGENTS.md` into a thread at its first turn and appends every changed version on resume. So what is
//! about the moment only goes in front of the prompt, and the versions that a thread has seen are counted, and
//! remembered with the session.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::crypto::short_hash;
use crate::engine::cancel::CancelToken;
use crate::engine::ports::{ErrorClass, RunRequest, Thrown};
use crate::json;
use crate::runtime::context_file::{self, Held};
use crate::runtime::settings::RuntimeSettings;

/// What is remembered with a session.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    /// Versions of the instruction file that the thread carries.
    versions: u32,
    /// Beginning of the SHA-256 of the last one, in hex.
    last: String,
}

/// How many versions of its instructions a thread carries, from the note that was stored with its session.
/// A thread with many of them (20, say) is better replaced.
pub fn context_versions(note: &str) -> Option<u32> {
    json::from_str::<Note>(note).ok().map(|note| note.versions)
}

pub(super) struct Prepared {
    pub(super) held: Option<Held>,
    pub(super) note: Option<String>,
}

/// Makes the home ready. Only a home that cannot be made is an error; without a login Codex says so itself.
pub(super) fn prepare(
    home: &Path,
    request: &RunRequest,
    settings: &RuntimeSettings,
    cancel: &CancelToken,
) -> Result<Prepared, Thrown> {
    context_file::private_dir(home).map_err(|e| Thrown {
        class: Some(ErrorClass::Config),
        ..Thrown::new(format!("cannot create {}: {e}", home.display()))
    })?;
    if let Err(e) = link_login(&settings.user_home.join(".codex/auth.json"), &home.join("auth.json")) {
        log::warn!("codex.login_link_failed home={} error={e}", home.display());
    }
    let (lasting, _) = request.split_context();
    let text = context_file::prepend(Some(&lasting), &request.system_rules).unwrap_or_default();
    let held = context_file::lock(&home.join("AGENTS.md"), cancel);
    let written = held.as_ref().map(|held| held.write(&text));
    if let Some(Err(e)) = written {
        log::warn!("codex.context_not_written home={} error={e}", home.display());
    }
    Ok(Prepared { held, note: note(request, &text) })
}

fn note(request: &RunRequest, text: &str) -> Option<String> {
    let last = short_hash(text.as_bytes(), 16);
    let before = request.session.as_ref().and_then(|s| s.note.as_deref());
    let before = before.and_then(|note| json::from_str::<Note>(note).ok());
    let versions = match before {
        Some(before) if before.last == last => before.versions,
        Some(before) => before.versions.saturating_add(1),
        None => 1,
    };
    json::to_string(&Note { versions, last }).ok()
}

/// Makes `link` point to the user's login. A copy that only the owner can read where links cannot be made;
/// nothing when the user never logged in.
fn link_login(login: &Path, link: &Path) -> std::io::Result<()> {
    if !login.exists() {
        return Ok(());
    }
    if std::fs::read_link(link).is_ok_and(|target| target == login) {
        return Ok(());
    }
    if link.symlink_metadata().is_ok() {
        std::fs::remove_file(link)?;
    }
    match std::os::unix::fs::symlink(login, link) {
        // Another turn of this agent was quicker.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => context_file::copy_private(login, link),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ports::ResumedSession;
    use crate::runtime::testing::request;
    use std::path::PathBuf;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bellhop-codex-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn the_login_is_linked_and_a_wrong_one_replaced() {
        let dir = dir("login");
        let (login, link) = (dir.join("login.json"), dir.join("auth.json"));
        link_login(&login, &link).unwrap();
        assert!(link.symlink_metadata().is_err());
        std::fs::write(&login, "{}").unwrap();
        std::fs::write(&link, "stale").unwrap();
        for _ in 0..2 {
            link_login(&login, &link).unwrap();
            assert_eq!(std::fs::read_link(&link).unwrap(), login);
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn versions_of_the_context_are_counted_per_thread() {
        let mut request = request("hi");
        let first = note(&request, "a").unwrap();
        assert_eq!(context_versions(&first), Some(1));
        request.session = Some(ResumedSession { note: Some(first.clone()), ..ResumedSession::default() });
        assert_eq!(note(&request, "a"), Some(first));
        let second = note(&request, "b").unwrap();
        assert_eq!(context_versions(&second), Some(2));
        assert_eq!(context_versions("garbage"), None);
    }

    #[test]
    fn a_thread_with_many_versions_is_left_behind() {
        use crate::runtime::ndjson::Cli;
        let session = |versions: u32| ResumedSession {
            note: serde_json::to_string(&Note { versions, last: "0".into() }).ok(),
            ..ResumedSession::default()
        };
        assert!(!super::super::Codex.wants_fresh(&session(20)));
        assert!(super::super::Codex.wants_fresh(&session(21)));
        assert!(!super::super::Codex.wants_fresh(&ResumedSession::default()));
    }
}
