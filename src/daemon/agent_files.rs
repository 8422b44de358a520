//! `list_agent_files`: what an agent's owner may see of its directories. Metadata, or one file with its content.
//!
//! An agent can put links into its directories at any moment, so no component below its directory is ever followed: each
//! is opened by its name in the directory that is open already. Ids are compared with what is found, never turned into
//! paths. What a listing holds is bounded, and says so where it was cut.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use serde_json::{Value, json};

use crate::channel::botcord::credentials::Credentials;
use crate::config::Home;
use crate::runtime::hermes::profiles;

/// Longest file whose content is shown, in bytes.
const CONTENT_LIMIT: u64 = 131_072;
/// Entries of a listing.
const ENTRIES: usize = 2_000;
/// Names that are looked at.
const SEARCHED: usize = 50_000;
/// Levels of directories below the workspace.
const LEVELS: usize = 16;
/// A directory with more entries is named, but not entered.
const CROWDED: usize = 1_000;
/// Neither are these.
const CLOSED: [&str; 2] = [".git", "node_modules"];
/// What is shown of a memory that has not been written yet.
const EMPTY_MEMORY: &str = "{\n  \"version\": 2,\n  \"sections\": {},\n  \"updatedAt\": null\n}";

/// Whose files are listed.
pub(super) struct Owner<'a> {
    pub(super) home: &'a Home,
    /// The home of the person.
    pub(super) user_home: &'a Path,
    pub(super) agent: &'a str,
    /// The runtime of the agent.
    pub(super) runtime: &'a str,
    pub(super) credentials: &'a Credentials,
    /// The agent behind its gateway, and where that works, if it is on this machine.
    pub(super) openclaw: Option<(String, PathBuf)>,
}

/// The files of an agent; only the one with the id `wanted`, with its content, if that is given.
pub(super) fn list(owner: &Owner<'_>, wanted: Option<&str>) -> Value {
    look(owner, wanted, SEARCHED)
}

fn look(owner: &Owner<'_>, wanted: Option<&str>, most: usize) -> Value {
    let mut look =
        Look { runtime: owner.runtime, wanted, scope: "", profile: None, files: Vec::new(), seen: 0, most, cut: false };
    let dir = owner.home.agent_dir(owner.agent);
    if let Ok(dir) = open_root(&dir) {
        look.scope = "workspace";
        if wanted.is_none_or(|id| id.starts_with("workspace:"))
            && let Ok(workspace) = open_dir(dir.as_fd(), c"workspace")
        {
            look.walk(&workspace, "", LEVELS);
        }
        look.memory(owner);
        if owner.runtime == "hermes-agent" {
            look.hermes(owner, dir.as_fd());
        }
    } else {
        look.memory(owner);
    }
    if owner.runtime == "openclaw-acp"
        && let Some((agent, workspace)) = &owner.openclaw
        && let Ok(workspace) = open_root(workspace)
    {
        look.scope = "openclaw";
        for name in ["SOUL.md", "MEMORY.md", "AGENTS.md"] {
            let (id, shown) = (format!("openclaw:{agent}:{name}"), format!("openclaw/{agent}/{name}"));
            look.below(workspace.as_fd(), name, &id, &shown);
        }
    }
    let mut listing = json!({"agentId": owner.agent, "runtime": owner.runtime, "files": look.files});
    if look.cut {
        listing["truncated"] = true.into();
    }
    listing
}

struct Look<'a> {
    runtime: &'a str,
    wanted: Option<&'a str>,
    scope: &'static str,
    profile: Option<&'a str>,
    files: Vec<Value>,
    seen: usize,
    /// Names that are looked at.
    most: usize,
    cut: bool,
}

/// Opens a directory that the daemon has made; the way to it is the daemon's own.
fn open_root(path: &Path) -> rustix::io::Result<OwnedFd> {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a directory in another one, unless it is a link.
fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The names in a directory, sorted; at most one more than `most`.
fn names(dir: &OwnedFd, most: usize) -> Vec<CString> {
    let Ok(entries) = Dir::read_from(dir) else { return Vec::new() };
    let mut names: Vec<CString> = entries
        .map_while(Result::ok)
        .map(|entry| entry.file_name().to_owned())
        .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
        .take(most + 1)
        .collect();
    crate::sort::sort(&mut names);
    names
}

impl<'a> Look<'a> {
    /// Whether there is no room for more.
    fn is_full(&mut self) -> bool {
        let full = self.seen >= self.most || self.files.len() >= self.wanted.map_or(ENTRIES, |_| 1);
        self.cut |= full && self.wanted.is_none();
        full
    }

    /// Everything below a directory whose path in the workspace is `above`, which ends in a slash unless it is empty.
    fn walk(&mut self, dir: &OwnedFd, above: &str, levels: usize) {
        for name in names(dir, if above.is_empty() { SEARCHED } else { CROWDED }) {
            if self.is_full() {
                return;
            }
            self.seen += 1;
            let Ok(stat) = statat(dir, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let relative = format!("{above}{}", name.to_string_lossy());
            match kind(&stat) {
                FileType::RegularFile => {
                    let (id, shown) = (format!("workspace:{relative}"), format!("workspace/{relative}"));
                    self.file(dir.as_fd(), &name, &id, &shown, &relative);
                }
                // Of the directories only those are entered that lie on the way to what is wanted.
                FileType::Directory
                    if self.wanted.is_none_or(|id| {
                        id.strip_prefix("workspace:")
                            .and_then(|id| id.strip_prefix(&relative))
                            .is_some_and(|rest| rest.starts_with('/'))
                    }) =>
                {
                    self.directory(dir, &name, &relative, levels);
                }
                _ => {}
            }
        }
    }

    fn directory(&mut self, dir: &OwnedFd, name: &CStr, relative: &str, levels: usize) {
        let closed = CLOSED.iter().any(|closed| name.to_bytes() == closed.as_bytes());
        let opened = if closed { None } else { open_dir(dir.as_fd(), name).ok() };
        match opened {
            Some(inner) if levels > 0 && names(&inner, CROWDED).len() <= CROWDED => {
                self.walk(&inner, &format!("{relative}/"), levels - 1);
            }
            opened => {
                self.cut |= opened.is_some() && self.wanted.is_none();
                // There is nothing to read in it.
                if self.wanted.is_none() {
                    self.files.push(json!({
                        "id": format!("workspace:{relative}/"), "name": format!("workspace/{relative}/"),
                        "scope": self.scope, "relativePath": format!("{relative}/"), "runtime": self.runtime,
                        "size": 0, "truncated": true,
                    }));
                }
            }
        }
    }

    /// One file, if it is one, and the one that is asked for.
    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr, id: &str, shown: &str, relative: &str) {
        if self.wanted.is_some_and(|wanted| wanted != id) {
            return;
        }
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let Some(stat) = stat.ok().filter(|stat| kind(stat) == FileType::RegularFile) else { return };
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let mtime = stat.st_mtime as f64 * 1_000.0 + stat.st_mtime_nsec as f64 / 1_000_000.0;
        let mut entry = self.entry(id, shown, relative, size);
        entry["mtimeMs"] = mtime.into();
        if size > CONTENT_LIMIT {
            entry["truncated"] = true.into();
        } else if self.wanted.is_some() {
            match content(dir, name) {
                Some(Content::Text(text)) => entry["content"] = text.into(),
                Some(Content::TooLong) => entry["truncated"] = true.into(),
                None => entry["error"] = "the file cannot be read".into(),
            }
        }
        self.files.push(entry);
    }

    fn entry(&self, id: &str, shown: &str, relative: &str, size: u64) -> Value {
        let mut entry = json!({"id": id, "name": shown, "scope": self.scope, "relativePath": relative,
                               "runtime": self.runtime, "size": size});
        if let Some(profile) = self.profile {
            entry["profile"] = profile.into();
        }
        entry
    }

    fn memory(&mut self, owner: &Owner<'_>) {
        const ID: &str = "memory:working-memory.json";
        const SHOWN: &str = "memory/working-memory.json";
        const NAME: &str = "working-memory.json";
        if self.is_full() {
            return;
        }
        self.scope = "memory";
        let before = self.files.len();
        let dir = open_root(&owner.home.memory_dir(owner.agent));
        if let Ok(dir) = &dir {
            self.file(dir.as_fd(), c"working-memory.json", ID, SHOWN, NAME);
        }
        // A link in its place is neither shown nor passed off as an empty memory.
        let there = dir.is_ok_and(|dir| statat(dir, c"working-memory.json", AtFlags::SYMLINK_NOFOLLOW).is_ok());
        let absent = self.files.len() == before && !there;
        if absent && self.wanted.is_none_or(|wanted| wanted == ID) {
            let mut entry = self.entry(ID, SHOWN, NAME, EMPTY_MEMORY.len() as u64);
            if self.wanted.is_some() {
                entry["content"] = EMPTY_MEMORY.into();
            }
            self.files.push(entry);
        }
    }

    fn hermes(&mut self, owner: &Owner<'a>, agent_dir: BorrowedFd<'_>) {
        self.scope = "hermes";
        let profile = owner.credentials.hermes_profile.as_deref().map(str::trim).filter(|name| !name.is_empty());
        let home = match profile {
            Some(name) => profiles::home(owner.user_home, name).and_then(|home| open_root(&home).ok()),
            None => open_dir(agent_dir, c"hermes-home").ok(),
        };
        let prefix = profile.map_or_else(|| "hermes-home".to_owned(), |name| format!("hermes-profile:{name}"));
        let place = profile.map_or_else(|| "hermes-home".to_owned(), |name| format!("hermes/{name}"));
        self.profile = profile;
        for relative in ["SOUL.md", "AGENTS.md", "memories/MEMORY.md"] {
            let Some(home) = &home else { break };
            let (id, shown) = (format!("{prefix}:{relative}"), format!("{place}/{relative}"));
            self.below(home.as_fd(), relative, &id, &shown);
        }
        self.profile = None;
        if let Ok(workspace) = open_dir(agent_dir, c"hermes-workspace") {
            self.below(workspace.as_fd(), "AGENTS.md", "hermes-workspace:AGENTS.md", "hermes-workspace/AGENTS.md");
        }
    }

    /// A file by its known path.
    fn below(&mut self, dir: BorrowedFd<'_>, relative: &str, id: &str, shown: &str) {
        if self.is_full() {
            return;
        }
        let (above, name) = match relative.split_once('/') {
            Some((above, name)) => (Some(above), name),
            None => (None, relative),
        };
        let (Ok(name), above) = (CString::new(name), above.and_then(|above| CString::new(above).ok())) else { return };
        let inner = above.map(|above| open_dir(dir, &above));
        match &inner {
            Some(Ok(inner)) => self.file(inner.as_fd(), &name, id, shown, relative),
            Some(Err(_)) => {}
            None => self.file(dir, &name, id, shown, relative),
        }
    }
}

enum Content {
    Text(String),
    /// It has grown meanwhile.
    TooLong,
}

/// The content of a regular file, `None` where there is none to be had.
fn content(dir: BorrowedFd<'_>, name: &CStr) -> Option<Content> {
    // Not blocking: a pipe may have taken the file's place.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty()).ok()?;
    let stat = fstat(&file).ok()?;
    if kind(&stat) != FileType::RegularFile {
        return None;
    }
    let mut bytes = Vec::new();
    File::from(file).take(CONTENT_LIMIT + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > CONTENT_LIMIT {
        return Some(Content::TooLong);
    }
    Some(Content::Text(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::channel::botcord::credentials::parse;
    use crate::store::tests::TempDir;

    fn listed(dir: &TempDir, runtime: &str, wanted: Option<&str>) -> Value {
        listed_of(dir, runtime, wanted, SEARCHED)
    }

    fn listed_of(dir: &TempDir, runtime: &str, wanted: Option<&str>, most: usize) -> Value {
        let home = Home::at(dir.0.join("bh")).unwrap();
        let credentials = parse(
            r#"{"hubUrl":"https://h","agentId":"ag_1","keyId":"k","hermesProfile":"work",
                "privateKey":"BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU="}"#,
        );
        let owner = Owner {
            home: &home,
            user_home: &dir.0,
            agent: "ag_1",
            runtime,
            credentials: &credentials.unwrap(),
            openclaw: Some(("main".into(), dir.0.join("claw"))),
        };
        look(&owner, wanted, most)
    }

    fn ids(listing: &Value) -> Vec<&str> {
        listing["files"].as_array().unwrap().iter().map(|file| file["id"].as_str().unwrap()).collect()
    }

    #[test]
    fn no_link_is_followed_anywhere() {
        let dir = TempDir::new();
        let workspace = dir.0.join("bh/agents/ag_1/workspace");
        fs::create_dir_all(workspace.join("sub")).unwrap();
        fs::create_dir_all(dir.0.join("bh/memory")).unwrap();
        fs::create_dir(dir.0.join("secrets")).unwrap();
        for name in ["key", "working-memory.json"] {
            fs::write(dir.0.join("secrets").join(name), "secret").unwrap();
        }
        fs::write(workspace.join("sub/own"), "mine").unwrap();
        symlink(dir.0.join("secrets/key"), workspace.join("file")).unwrap();
        symlink(dir.0.join("secrets"), workspace.join("dir")).unwrap();
        rustix::fs::mknodat(CWD, workspace.join("pipe"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
        let memory = "memory:working-memory.json";
        assert_eq!(ids(&listed(&dir, "codex", None)), ["workspace:sub/own", memory]);
        for id in
            ["workspace:file", "workspace:dir/key", "workspace:pipe", "workspace:sub/../file", "workspace:/etc/passwd"]
        {
            assert!(ids(&listed(&dir, "codex", Some(id))).is_empty(), "{id}");
        }
        assert_eq!(listed(&dir, "codex", Some("workspace:sub/own"))["files"][0]["content"], "mine");
        fs::create_dir(dir.0.join("bh/memory/ag_1")).unwrap();
        symlink(dir.0.join("secrets/working-memory.json"), dir.0.join("bh/memory/ag_1/working-memory.json")).unwrap();
        assert!(ids(&listed(&dir, "codex", Some(memory))).is_empty(), "neither the link nor an empty memory");
        // The whole workspace may have been replaced by a link.
        fs::remove_dir_all(&workspace).unwrap();
        symlink(dir.0.join("secrets"), &workspace).unwrap();
        assert!(ids(&listed(&dir, "codex", None)).is_empty());
    }

    #[test]
    fn a_listing_is_bounded_and_says_so() {
        let dir = TempDir::new();
        let workspace = dir.0.join("bh/agents/ag_1/workspace");
        for name in [".git/objects", "node_modules/x", "crowd"] {
            fs::create_dir_all(workspace.join(name)).unwrap();
        }
        fs::write(workspace.join(".git/config"), "x").unwrap();
        let mut deep = workspace.clone();
        (0..=LEVELS).for_each(|_| deep.push("d"));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("bottom"), "x").unwrap();
        let below = |levels: usize| format!("workspace:{}", "d/".repeat(levels));
        let listing = listed(&dir, "codex", None);
        assert_eq!(
            ids(&listing),
            ["workspace:.git/", &below(LEVELS + 1), "workspace:node_modules/", "memory:working-memory.json"]
        );
        assert_eq!(listing["truncated"], true, "there is more below");
        for n in 0..=CROWDED {
            fs::write(workspace.join(format!("crowd/{n}")), "x").unwrap();
        }
        assert!(ids(&listed(&dir, "codex", None)).contains(&"workspace:crowd/"));
        for n in 0..ENTRIES {
            fs::write(workspace.join(format!("a{n:05}")), "x").unwrap();
        }
        let listing = listed(&dir, "codex", None);
        assert_eq!((listing["files"].as_array().unwrap().len(), &listing["truncated"]), (ENTRIES, &true.into()));
        assert_eq!(ids(&listed(&dir, "codex", Some("workspace:a01999"))), ["workspace:a01999"], "it can still be read");
    }

    #[test]
    fn directories_without_files_are_bounded_too() {
        let dir = TempDir::new();
        let workspace = dir.0.join("bh/agents/ag_1/workspace");
        for n in 0..6 {
            for m in 0..10 {
                fs::create_dir_all(workspace.join(format!("d{n}/{m}"))).unwrap();
            }
        }
        fs::write(workspace.join("z"), "there").unwrap();
        fs::write(workspace.join("d5/z"), "below").unwrap();
        let listed = |wanted| listed_of(&dir, "codex", wanted, 50);
        let listing = listed(None);
        assert_eq!((ids(&listing), &listing["truncated"]), (vec![], &true.into()));
        for (id, content) in [("workspace:z", "there"), ("workspace:d5/z", "below")] {
            let listing = listed(Some(id));
            assert_eq!(listing["files"][0]["content"], content, "what is wanted is not searched for everywhere");
        }
        assert_eq!(ids(&listed(Some("memory:working-memory.json"))), ["memory:working-memory.json"]);
    }

    #[test]
    fn other_programs_have_their_files() {
        let dir = TempDir::new();
        for name in ["bh/agents/ag_1/hermes-workspace", ".hermes/profiles/work/memories", "claw"] {
            fs::create_dir_all(dir.0.join(name)).unwrap();
        }
        for name in [
            "bh/agents/ag_1/hermes-workspace/AGENTS.md",
            ".hermes/profiles/work/SOUL.md",
            ".hermes/profiles/work/memories/MEMORY.md",
            "claw/SOUL.md",
        ] {
            fs::write(dir.0.join(name), name).unwrap();
        }
        let hermes = listed(&dir, "hermes-agent", None);
        let profile = ["hermes-profile:work:SOUL.md", "hermes-profile:work:memories/MEMORY.md"];
        assert_eq!(ids(&hermes)[1..], [profile[0], profile[1], "hermes-workspace:AGENTS.md"]);
        assert_eq!(
            (&hermes["files"][1]["name"], &hermes["files"][1]["profile"]),
            (&"hermes/work/SOUL.md".into(), &"work".into())
        );
        let claw = listed(&dir, "openclaw-acp", Some("openclaw:main:SOUL.md"));
        assert_eq!((ids(&claw), &claw["files"][0]["content"]), (vec!["openclaw:main:SOUL.md"], &"claw/SOUL.md".into()));
    }
}
