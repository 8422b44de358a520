//! Instruction files that a CLI reads at its start and that all conversations of an agent share.
//!
//! Two conversations that start together could swap contexts, which would be a leak between rooms. So a run
//! holds the file's lock from writing it until its CLI has announced the session (it has read the file by
//! then) or ended, and never longer than [`MAX_HOLD`].

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::cancel::CancelToken;
use crate::engine::ports::SystemRule;
use crate::sanitize;
use crate::store;

/// First line of a managed section.
pub const START: &str = "<!-- BOTCORD_SYSTEM_RULES_START -->";
/// Last line of a managed section.
pub const END: &str = "<!-- BOTCORD_SYSTEM_RULES_END -->";
/// What stands in the place of either inside of one.
const GONE: &str = "<!-- -->";
/// What the second line of a managed section says to whoever opens the file.
pub const MANAGED_LINE: &str =
    "<!-- bellhop rewrites this part before every turn; write your own text outside the markers. -->";
/// Longest time that a run keeps the others waiting.
pub const MAX_HOLD: Duration = Duration::from_secs(20);
/// A file that is longer is left alone.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The rules as the agent is told them; `None` when there is none.
pub fn render_rules(rules: &[SystemRule]) -> Option<String> {
    let rendered: Vec<String> = rules
        .iter()
        .filter(|rule| !rule.text.trim().is_empty())
        .map(|rule| {
            let name = rule.room_name.as_deref().map(sanitize::label).filter(|name| !name.is_empty());
            let name = name.map(|name| format!(" | name: {name}")).unwrap_or_default();
            format!(
                "[BotCord Room Rule]\nid: {} | version: {}{name}\n{}",
                sanitize::label(&rule.room_id),
                sanitize::label(&rule.version),
                sanitize::body(rule.text.trim()),
            )
        })
        .collect();
    (!rendered.is_empty()).then(|| rendered.join("\n\n"))
}

/// Rules and context, in this order; `None` when both are blank.
pub fn prepend(context: Option<&str>, rules: &[SystemRule]) -> Option<String> {
    let context = context.filter(|text| !text.trim().is_empty()).map(str::to_owned);
    let parts: Vec<String> = render_rules(rules).into_iter().chain(context).collect();
    (!parts.is_empty()).then(|| parts.join("\n\n"))
}

/// `existing` with its managed section replaced, added, or (`body` = `None`) removed.
pub fn merge(existing: &str, body: Option<&str>) -> String {
    let section = body.map(|body| {
        // A body that closed the section itself could smuggle text out of it. Something stays in the place of a marker,
        // so that what was around it does not become one.
        let body = body.replace(START, GONE).replace(END, GONE);
        format!("{START}\n{MANAGED_LINE}\n\n{body}\n{END}")
    });
    let bounds = existing.find(START).and_then(|start| {
        let end = existing.get(start..)?.find(END)? + start + END.len();
        Some((start, end))
    });
    if let Some((start, end)) = bounds {
        let before = existing.get(..start).unwrap_or_default().trim_end();
        let after = existing.get(end..).unwrap_or_default().trim_start();
        let parts = [before, section.as_deref().unwrap_or_default(), after];
        let kept: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        return if kept.is_empty() { String::new() } else { kept.join("\n\n") + "\n" };
    }
    let Some(section) = section else { return existing.to_owned() };
    match existing.trim_end() {
        "" => format!("{section}\n"),
        before => format!("{before}\n\n{section}\n"),
    }
}

/// A file's lock; the file may be written while it is held. Dropping it lets the next run in.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    ticket: u64,
}

struct Holder {
    ticket: u64,
    until: Instant,
}

static HOLDERS: LazyLock<Mutex<HashMap<PathBuf, Holder>>> = LazyLock::new(Mutex::default);
static RELEASED: Condvar = Condvar::new();
static TICKET: AtomicU64 = AtomicU64::new(0);

fn holders() -> MutexGuard<'static, HashMap<PathBuf, Holder>> {
    HOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the file is free and takes it; `None` when the turn was cancelled meanwhile.
pub fn lock(path: &Path, cancel: &CancelToken) -> Option<Held> {
    lock_for(path, cancel, MAX_HOLD)
}

fn lock_for(path: &Path, cancel: &CancelToken, hold: Duration) -> Option<Held> {
    // How often a waiting run looks whether it was cancelled.
    const LOOK: Duration = Duration::from_millis(100);
    // One lock per file, by whatever links its directory is reached.
    let dir = path.parent().and_then(|dir| dir.canonicalize().ok());
    let path = &match (dir, path.file_name()) {
        (Some(dir), Some(name)) => dir.join(name),
        _ => path.to_owned(),
    };
    let ticket = TICKET.fetch_add(1, Ordering::Relaxed);
    let mut map = holders();
    loop {
        if cancel.is_cancelled() {
            return None;
        }
        let now = Instant::now();
        let wait = map.get(path).map(|holder| holder.until.saturating_duration_since(now));
        match wait {
            Some(wait) if !wait.is_zero() => {
                map = RELEASED.wait_timeout(map, wait.min(LOOK)).unwrap_or_else(PoisonError::into_inner).0;
            }
            _ => {
                map.insert(path.to_owned(), Holder { ticket, until: now + hold });
                return Some(Held { path: path.to_owned(), ticket });
            }
        }
    }
}

impl Held {
    /// Makes the file hold `content`; returns whether it had to be written. A missing file stays missing
    /// when there is nothing to write.
    pub fn write(&self, content: &str) -> std::io::Result<bool> {
        write_if_changed(&self.path, content)
    }

    /// Puts `body` into the file's managed section (or removes it). Fails without touching the file when it
    /// is too long or no UTF-8.
    pub fn write_section(&self, body: Option<&str>) -> std::io::Result<bool> {
        let existing = read(&self.path)?.unwrap_or_default();
        write_if_changed(&self.path, &merge(&existing, body))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut map = holders();
        // Another run may have taken over after MAX_HOLD.
        if map.get(&self.path).is_some_and(|holder| holder.ticket == self.ticket) {
            map.remove(&self.path);
        }
        drop(map);
        RELEASED.notify_all();
    }
}

fn read(path: &Path) -> std::io::Result<Option<String>> {
    let file = match store::open_regular(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other("the file is too long"));
    }
    Ok(Some(text))
}

fn write_if_changed(path: &Path, content: &str) -> std::io::Result<bool> {
    match read(path) {
        Ok(Some(existing)) if existing == content => return Ok(false),
        Ok(None) if content.is_empty() => return Ok(false),
        _ => {}
    }
    // A link (GEMINI.md → AGENTS.md, say) stays a link: the file behind it is replaced.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    replace(&target, content.as_bytes())?;
    Ok(true)
}

/// Replaces a file by rename; mode 0600.
fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = TICKET.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_file_name(format!(".{name}.{}.{number}.tmp", std::process::id()));
    let written = write_private(&temporary, content).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)
}

/// Creates a directory and what is above it, for the owner only.
pub fn private_dir(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Copies a file, readable by its owner only.
pub fn copy_private(from: &Path, to: &Path) -> std::io::Result<()> {
    replace(to, &std::fs::read(from)?)
}

/// A private file that is removed when it is dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Writes a file with a fresh name below `dir`; mode 0600.
    pub fn new(dir: &Path, prefix: &str, content: &str) -> std::io::Result<Self> {
        private_dir(dir)?;
        let number = TICKET.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{prefix}.{}.{number}", std::process::id()));
        let scratch = Self { path };
        let _ = std::fs::remove_file(&scratch.path);
        write_private(&scratch.path, content.as_bytes())?;
        Ok(scratch)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bellhop-context-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn one_run_at_a_time_holds_a_file() {
        let dir = dir("lock");
        let path = dir.join("AGENTS.md");
        let token = CancelToken::new().unwrap();
        let first = lock(&path, &token).unwrap();
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let (other, theirs) = (path.clone(), token.clone());
        let waiter = std::thread::spawn(move || {
            let held = lock(&other, &theirs).unwrap();
            sender.send(()).unwrap();
            drop(held);
        });
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        drop(first);
        receiver.recv().unwrap();
        waiter.join().unwrap();
        let _held = lock(&path, &token).unwrap();
        token.cancel(crate::engine::cancel::CancelReason::User);
        assert!(lock(&path, &token).is_none());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_is_the_same_by_whatever_links_its_directory_is_reached() {
        let dir = dir("links");
        std::os::unix::fs::symlink(&dir, dir.join("link")).unwrap();
        let held = lock(&dir.join("link/X.md"), &CancelToken::new().unwrap()).unwrap();
        let real = dir.canonicalize().unwrap().join("X.md");
        assert_eq!(holders().get(&real).map(|h| h.ticket), Some(held.ticket));
        drop(held);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_holder_that_stays_too_long_is_passed_by_and_cannot_release_the_next() {
        let path = Path::new("/nowhere/held");
        let token = CancelToken::new().unwrap();
        let late = lock_for(path, &token, Duration::from_millis(1)).unwrap();
        let next = lock(path, &token).unwrap();
        drop(late);
        assert_eq!(holders().get(path).map(|h| h.ticket), Some(next.ticket));
    }

    #[test]
    fn a_file_is_written_only_when_it_differs_and_links_stay_links() {
        let dir = dir("write");
        let (target, link) = (dir.join("AGENTS.md"), dir.join("GEMINI.md"));
        std::fs::write(&target, "# Mine\n").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let held = lock(&link, &CancelToken::new().unwrap()).unwrap();
        assert!(held.write_section(Some("ctx")).unwrap());
        assert!(!held.write_section(Some("ctx")).unwrap());
        assert!(link.symlink_metadata().unwrap().is_symlink());
        let text = std::fs::read_to_string(&target).unwrap();
        assert!(text.starts_with("# Mine\n\n<!-- BOTCORD") && text.contains("\n\nctx\n"), "{text}");
        assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(held.write_section(None).unwrap());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "# Mine\n");
        std::fs::write(&target, b"\xff\xfe").unwrap();
        assert!(held.write_section(Some("ctx")).is_err());
        let pipe = dir.join("PIPE.md");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let piped = lock(&pipe, &CancelToken::new().unwrap()).unwrap();
        assert!(piped.write_section(Some("ctx")).is_err(), "nobody waits for a pipe");
        assert_eq!(std::fs::read(&target).unwrap(), b"\xff\xfe");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_rule_cannot_close_its_section() {
        let merged = merge("", Some(&format!("a\n{END}\nb")));
        assert_eq!(merged.matches(END).count(), 1);
        assert!(merged.ends_with(&format!("{END}\n")));
        for (inner, at) in [(END, 16), (START, 16), (END, END.len() - 1)] {
            for outer in [START, END] {
                let hidden = format!("{}{inner}{}", &outer[..at], &outer[at..]);
                let merged = merge("# Mine", Some(&format!("a\n{hidden}\nb")));
                assert_eq!((merged.matches(START).count(), merged.matches(END).count()), (1, 1), "{merged}");
                assert_eq!(merge(&merged, None), "# Mine\n", "nothing of it stays");
            }
        }
    }

    #[test]
    fn a_scratch_file_is_gone_afterwards() {
        let dir = dir("scratch");
        let scratch = Scratch::new(&dir.join("state"), "system-prompt", "x").unwrap();
        let path = scratch.path().to_owned();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        drop(scratch);
        assert!(!path.exists());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
