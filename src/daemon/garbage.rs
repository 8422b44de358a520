//! What bellhop leaves behind and nobody takes away: damaged files that were set aside, halves of files and directories
//! from a process that died while it wrote, and attachments that were fetched for turns long over.
//!
//! Bounded by age and size. Nothing else is touched: a file goes only if bellhop has given it its name, and it lies
//! where bellhop puts it. Transcripts and logs have rules of their own, where they are written.

use std::fs::{self, DirEntry, Metadata};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::config::Home;
use crate::crypto::is_hex;
use crate::thread;

/// How often is looked.
pub(super) const EVERY: Duration = Duration::from_hours(6);

/// Files that were set aside are kept so long …
const DAMAGED_AGE: Duration = Duration::from_hours(30 * 24);
/// … and the newest of them, up to so many bytes in each directory.
const DAMAGED_BYTES: u64 = 256 << 20;
/// Halves of files are kept so long: whoever writes them has done so by then.
const HALF_AGE: Duration = Duration::from_hours(24);
/// Attachments are kept so long after they were fetched …
const ATTACHMENTS_AGE: Duration = Duration::from_hours(30 * 24);
/// … and the newest of them, up to so many bytes for each agent.
const ATTACHMENTS_BYTES: u64 = 1 << 30;
/// Entries of one directory that are looked at; a directory with more is looked at again the next time.
const MOST: usize = 100_000;

/// Takes away what is due, on a thread of its own. An agent's attachments lie in its workspace.
pub(super) fn collect_aside(home: &Home) {
    let home = home.clone();
    let collect = move || {
        let gone = collect(&home, SystemTime::now());
        if gone.files > 0 {
            log::info!("garbage.collected files={} bytes={}", gone.files, gone.bytes);
        }
    };
    if let Err(e) = thread::spawn("garbage", collect) {
        log::warn!("garbage.thread_failed error={e}");
    }
}

/// What was taken away.
#[derive(Debug, Default, PartialEq, Eq)]
struct Gone {
    /// Files; a message's attachments count as one.
    files: usize,
    bytes: u64,
}

fn collect(home: &Home, now: SystemTime) -> Gone {
    let mut gone = Gone::default();
    let mut ours = vec![home.root().to_owned(), home.daemon_dir(), home.journal(), home.credentials_dir()];
    ours.push(home.daemon_dir().join("gateways"));
    for (id, agent) in directories(&home.agents_dir()) {
        ours.extend([home.agents_dir().join(&id).join("state"), home.root().join("memory").join(&id)]);
        for below in ["sessions", "workspace/.claude/skills", "codex-home/skills"] {
            let staged = directories(&agent.join(below)).into_iter().filter(|(name, _)| is_staged(name));
            let staged = staged.filter_map(|(_, path)| Found::look(path)).collect();
            remove_old(staged, now, HALF_AGE, u64::MAX, &mut gone);
        }
        let attachments = directories(&agent.join("workspace/attachments"));
        let fetched = attachments.into_iter().filter(|(name, _)| is_message_id(name)).map(|(_, path)| path);
        remove_old(fetched.filter_map(Found::look).collect(), now, ATTACHMENTS_AGE, ATTACHMENTS_BYTES, &mut gone);
    }
    for dir in ours {
        let (mut damaged, mut halves) = (Vec::new(), Vec::new());
        for entry in entries(&dir) {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let list = match () {
                () if is_damaged(name) => &mut damaged,
                () if is_half(name) => &mut halves,
                () => continue,
            };
            list.extend(Found::look(entry.path()));
        }
        remove_old(damaged, now, DAMAGED_AGE, DAMAGED_BYTES, &mut gone);
        remove_old(halves, now, HALF_AGE, u64::MAX, &mut gone);
    }
    gone
}

/// A file, or a directory with everything in it.
struct Found {
    path: PathBuf,
    /// When something in it was written last.
    written: SystemTime,
    bytes: u64,
    is_dir: bool,
}

impl Found {
    /// `None` for what is gone, is a link, or says no time.
    fn look(path: PathBuf) -> Option<Self> {
        let meta = fs::symlink_metadata(&path).ok()?;
        let mut found = Self { written: meta.modified().ok()?, bytes: meta.len(), is_dir: meta.is_dir(), path };
        if found.is_dir {
            for meta in entries(&found.path).filter_map(|entry| entry.metadata().ok()) {
                found.bytes += meta.len();
                found.written = meta.modified().map_or(found.written, |at| at.max(found.written));
            }
        }
        (found.is_dir || meta.is_file()).then_some(found)
    }

    fn remove(&self) -> std::io::Result<()> {
        if self.is_dir { fs::remove_dir_all(&self.path) } else { fs::remove_file(&self.path) }
    }
}

/// Removes what is older than `age`, and of the rest the oldest that go beyond `bytes`.
fn remove_old(mut found: Vec<Found>, now: SystemTime, age: Duration, bytes: u64, gone: &mut Gone) {
    crate::sort::sort_by_key(&mut found, |f| std::cmp::Reverse(f.written));
    let mut kept = 0u64;
    for file in found {
        // What is from the future is new: a clock may be wrong.
        let is_old = now.duration_since(file.written).is_ok_and(|a| a > age);
        kept = kept.saturating_add(file.bytes);
        if !is_old && kept <= bytes {
            continue;
        }
        match file.remove() {
            Ok(()) => {
                gone.files += 1;
                gone.bytes += file.bytes;
            }
            Err(e) => log::warn!("garbage.not_removed path={} error={e}", file.path.display()),
        }
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    fs::read_dir(dir).into_iter().flatten().flatten().take(MOST)
}

/// The directories in a directory that is none of links, with their names.
fn directories(dir: &Path) -> Vec<(String, PathBuf)> {
    if !fs::symlink_metadata(dir).as_ref().is_ok_and(Metadata::is_dir) {
        return Vec::new();
    }
    let dirs = entries(dir).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}

/// `<name>.corrupt-<ms>`
fn is_damaged(name: &str) -> bool {
    name.rsplit_once(".corrupt-").is_some_and(|(name, ms)| !name.is_empty() && is_number(ms))
}

/// `<name>.<pid>.<n>.tmp`
fn is_half(name: &str) -> bool {
    let Some(rest) = name.strip_suffix(".tmp") else { return false };
    let mut parts = rest.rsplitn(3, '.');
    let numbers = [parts.next(), parts.next()].into_iter().all(|part| part.is_some_and(is_number));
    numbers && parts.next().is_some_and(|name| !name.is_empty())
}

/// `.<name>.<hex>.new`, `.staging-<hex>`, and what they were to replace, with `.old` at the end.
fn is_staged(name: &str) -> bool {
    let bare = name.strip_suffix(".old").unwrap_or(name);
    let of_skill = || {
        let (name, hex) = bare.strip_suffix(".new").unwrap_or(bare).strip_prefix('.')?.rsplit_once('.')?;
        Some(!name.is_empty() && is_hex(hex, 12))
    };
    bare.strip_prefix(".staging-").is_some_and(|hex| is_hex(hex, 16)) || of_skill().unwrap_or(false)
}

/// The hub's id of a message, after which its attachments' directory is named.
fn is_message_id(name: &str) -> bool {
    let of_hub = |id: &str| id.len() >= 8 && id.bytes().all(|b| b.is_ascii_alphanumeric());
    let of_telegram = |id: &str| id.contains('_') && id.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'_' | b'-'));
    name.strip_prefix("h_").is_some_and(of_hub) || name.strip_prefix("tg_").is_some_and(of_telegram)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    const DAY: Duration = Duration::from_hours(24);

    fn home(name: &str) -> Home {
        let root = std::env::temp_dir().join(format!("bellhop-garbage-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let home = Home::at(&root).unwrap();
        home.prepare().unwrap();
        home
    }

    fn put(path: &Path, bytes: u64, written: SystemTime) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create(path).unwrap();
        file.set_len(bytes).unwrap();
        file.set_modified(written).unwrap();
    }

    #[test]
    fn only_what_is_old_and_has_our_name_in_our_place_goes() {
        let home = home("age");
        let now = SystemTime::now();
        let workspace = home.workspace("ag_1");
        let goes = [
            home.daemon_dir().join("sessions.json.corrupt-1700000000000"),
            home.journal().join("0000000007.ndjson.corrupt-1700000000000"),
            home.agent_state("ag_1").join("policy.json.12.3.tmp"),
            workspace.join("attachments/h_01J9ZK3W/a.png"),
        ];
        let stays = [
            home.config(),
            home.daemon_dir().join("sessions.json.corrupt-by-hand"),
            home.daemon_dir().join("notes.tmp"),
            workspace.join("sessions.json.corrupt-1700000000000"),
            workspace.join("report.1.2.tmp"),
            workspace.join("attachments/mine/a.png"),
            workspace.join("attachments/h_01J9ZK3X"),
        ];
        for path in goes.iter().chain(&stays) {
            put(path, 10, now - DAY * 31);
        }
        let young = [
            home.daemon_dir().join("sessions.json.corrupt-1700000000001"),
            workspace.join("attachments/h_01J9ZK3Y/b.png"),
        ];
        for path in &young {
            put(path, 10, now - DAY * 29);
        }
        // Directories are as old as this test.
        assert_eq!(collect(&home, now).files, 3);
        assert!(young.iter().chain(&goes[3..]).all(|path| path.exists()));
        assert_eq!(collect(&home, now + DAY * 31).files, 3);
        for path in goes.iter().chain(&young) {
            assert!(!path.exists(), "{}", path.display());
        }
        assert!(stays.iter().all(|path| path.exists()));
        fs::remove_dir_all(home.root()).unwrap();
    }

    #[test]
    fn directories_that_were_never_put_in_place_go_and_secrets_with_them() {
        let home = home("staged");
        let (now, agent) = (SystemTime::now(), home.agent_dir("ag_1"));
        let goes = [
            agent.join("sessions/.staging-0123456789abcdef/profile.json"),
            agent.join("codex-home/skills/.gamma.0123456789ab.new/SKILL.md"),
            agent.join("workspace/.claude/skills/.gamma.0123456789ab.old/SKILL.md"),
            home.daemon_dir().join("gateways/gw_1.json.12.3.tmp"),
        ];
        let stays = [
            agent.join("codex-home/skills/gamma/SKILL.md"),
            agent.join("codex-home/skills/.system/SKILL.md"),
            agent.join("workspace/.claude/skills/.mine.new/SKILL.md"),
            home.daemon_dir().join("gateways/gw_1.json"),
        ];
        for path in goes.iter().chain(&stays) {
            put(path, 10, now);
        }
        assert_eq!(collect(&home, now).files, 0);
        assert_eq!(collect(&home, now + DAY * 2).files, goes.len());
        assert!(stays.iter().all(|path| path.exists()) && goes.iter().all(|path| !path.exists()));
        fs::remove_dir_all(home.root()).unwrap();
    }

    #[test]
    fn the_newest_stay_up_to_a_size() {
        let home = home("size");
        let now = SystemTime::now();
        let file = |n: u64| home.daemon_dir().join(format!("x.json.corrupt-{n}"));
        for n in 1..=4 {
            put(&file(n), DAMAGED_BYTES / 2, now - DAY * n as u32);
        }
        assert_eq!(collect(&home, now), Gone { files: 2, bytes: DAMAGED_BYTES });
        assert!(file(1).exists() && file(2).exists() && !file(3).exists() && !file(4).exists());
        fs::remove_dir_all(home.root()).unwrap();
    }

    #[test]
    fn a_link_is_not_followed() {
        let home = home("link");
        let elsewhere = home.workspace("ag_1").join("elsewhere");
        let theirs = elsewhere.join("h_01J9ZK3W/a.png");
        put(&theirs, 1, SystemTime::UNIX_EPOCH);
        std::os::unix::fs::symlink(&elsewhere, home.workspace("ag_1").join("attachments")).unwrap();
        std::os::unix::fs::symlink(&theirs, home.daemon_dir().join("a.json.corrupt-1")).unwrap();
        assert_eq!(collect(&home, SystemTime::now() + DAY * 400), Gone::default());
        assert!(theirs.exists());
        fs::remove_dir_all(home.root()).unwrap();
    }
}
