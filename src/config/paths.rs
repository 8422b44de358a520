//! Every path below the home, and the checks that make a home usable.
//!
//! The layout is that of the BotCord daemon, so that an existing installation can be taken over as it is.
//! Directories are 0700, files 0600. Nothing else in the program puts a path together.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::crypto::short_hash;

use rustix::fs::Access;

/// The name of the variable that names the home.
pub const HOME_VARIABLE: &str = "BELLHOP_HOME";

/// What lies where, for the manual: path below the home and what it is.
pub const LAYOUT: &[(&str, &str)] = &[
    ("daemon/config.json", "Configuration, see bellhop.json(5). Needs not exist."),
    ("daemon/config.json.previous", "In a sandbox: the configuration of the run before."),
    ("daemon/bellhop.sock", "Control socket; only its owner can connect."),
    ("daemon/daemon.lock", "Held (flock) by the one process that runs the engine on this home."),
    ("daemon/daemon.pid", "Its process id."),
    ("daemon/journal/", "Accepted messages and undelivered replies: what survives a crash."),
    ("daemon/sessions.json", "Runtime sessions by conversation."),
    ("daemon/usage/", "What turns have cost: the last turns line by line, and sums; some 10 MiB at most."),
    ("daemon/snapshot.json", "The daemon's last known state."),
    ("daemon/user-auth.json", "Login of this daemon at a hub; with it the hub can bring and take agents."),
    ("daemon/auth-expired.flag", "The hub takes that login no more: a person has to log in again."),
    ("daemon/control-frames.jsonl", "Which of the hub's frames were answered, and how."),
    ("daemon/gateways/<gateway>.json", "Secret of a gateway: the token of a bot."),
    (
        "daemon/gateways/<gateway>.state.json",
        "Where a gateway is in its messages, and who wrote to it without being allowed.",
    ),
    (
        "daemon/gateway-sends.json",
        "What the hub had gateways send in the last day, so that a repetition is not sent again.",
    ),
    ("agents/<agent>/workspace/", "Working directory of an agent that has no other."),
    ("agents/<agent>/transcripts/<conversation>/<topic>.jsonl", "Transcripts."),
    ("memory/<agent>/working-memory.json", "Working memory."),
    (
        "NAME.corrupt-TIME",
        "A damaged file that was set aside. Kept for 30 days, and the newest 256 MiB of each directory.",
    ),
    (
        "agents/<agent>/workspace/attachments/<message>/",
        "Files that came with a message. Kept for 30 days, and the newest 1 GiB. Nothing else in a workspace is removed.",
    ),
    ("credentials/<agent>.json", "Identity of an agent at a hub."),
    ("logs/daemon.log", "Log; rotated at 10 MiB, the 20 newest are kept."),
];

/// A home: the directory below which everything lies. Cheap to clone; says nothing about existence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

/// A home that cannot be used.
#[derive(Debug)]
pub enum HomeError {
    /// Neither option nor variables say where it is.
    Unknown,
    /// The option or variable is there and empty.
    Empty,
    /// Something else is in its place.
    NotADirectory(PathBuf),
    /// It belongs to another user.
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Nothing can be written in it.
    NotWritable(PathBuf, io::Error),
    /// It does not exist and cannot be made.
    Create(PathBuf, io::Error),
    /// It cannot be looked at.
    Look(PathBuf, io::Error),
}

impl fmt::Display for HomeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(f, "no home: neither --home nor {HOME_VARIABLE} nor HOME is set"),
            Self::Empty => write!(f, "--home is empty; expected a directory"),
            Self::NotADirectory(path) => write!(f, "{} is not a directory", path.display()),
            Self::NotOurs { path, owner } => {
                let own = own_uid();
                write!(f, "{} belongs to user {owner}, not to user {own}", path.display())?;
                if own == 0 { write!(f, "; act as that one: sudo -u '#{owner}' bellhop …") } else { Ok(()) }
            }
            Self::NotWritable(path, why) => write!(f, "{} is not writable: {}", path.display(), plain(why)),
            Self::Create(path, why) => write!(f, "{} cannot be created: {}", path.display(), plain(why)),
            Self::Look(path, why) => write!(f, "{} cannot be read: {}", path.display(), plain(why)),
        }
    }
}

impl std::error::Error for HomeError {}

/// An I/O error without its number.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

impl Home {
    /// A home at this path, made absolute. Touches nothing.
    pub fn at(root: impl AsRef<Path>) -> Result<Self, HomeError> {
        let root = root.as_ref();
        if root.as_os_str().is_empty() {
            return Err(HomeError::Empty);
        }
        let root = std::path::absolute(root).map_err(|e| HomeError::Look(root.to_owned(), e))?;
        Ok(Self { root })
    }

    /// The home that the option, else `BELLHOP_HOME`, else `$HOME/.bellhop` names. An empty variable counts
    /// as unset. Not every shell, and no service manager, puts the user's home in place of a `~` behind an equals sign.
    pub fn find(option: Option<&str>) -> Result<Self, HomeError> {
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        match option {
            Some(path) => Self::at(expand_tilde(path)),
            None => match (variable(HOME_VARIABLE), variable("HOME")) {
                (Some(path), _) => Self::at(path.to_str().map_or_else(|| PathBuf::from(&path), expand_tilde)),
                (None, Some(user)) => Self::at(Path::new(&user).join(".bellhop")),
                (None, None) => Err(HomeError::Unknown),
            },
        }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What only the daemon writes.
    pub fn daemon_dir(&self) -> PathBuf {
        self.root.join("daemon")
    }

    /// The commands that agents find on their PATH.
    pub fn commands_dir(&self) -> PathBuf {
        self.daemon_dir().join("bin")
    }

    /// The configuration.
    pub fn config(&self) -> PathBuf {
        self.daemon_dir().join("config.json")
    }

    /// Runtime sessions.
    pub fn sessions(&self) -> PathBuf {
        self.daemon_dir().join("sessions.json")
    }

    /// Live state for readers without a connection.
    pub fn snapshot(&self) -> PathBuf {
        self.daemon_dir().join("snapshot.json")
    }

    /// Activity per conversation.
    pub fn activity(&self) -> PathBuf {
        self.daemon_dir().join("activity.json")
    }

    /// What turns have cost.
    pub fn usage(&self) -> PathBuf {
        self.daemon_dir().join("usage")
    }

    /// Directory of the journal.
    pub fn journal(&self) -> PathBuf {
        self.daemon_dir().join("journal")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.daemon_dir().join("bellhop.sock")
    }

    /// The file whose flock makes the daemon the only one.
    pub fn lock(&self) -> PathBuf {
        self.daemon_dir().join("daemon.lock")
    }

    /// Process id of the lock's holder.
    pub fn pid_file(&self) -> PathBuf {
        self.daemon_dir().join("daemon.pid")
    }

    /// Secrets and cursors of gateways to other chat services.
    pub fn gateways_dir(&self) -> PathBuf {
        self.daemon_dir().join("gateways")
    }

    /// The secret of one gateway.
    pub fn gateway_secret(&self, id: &str) -> PathBuf {
        self.gateways_dir().join(format!("{}.json", segment(id)))
    }

    /// What a gateway goes on from after a restart.
    pub fn gateway_state(&self, id: &str) -> PathBuf {
        self.gateways_dir().join(format!("{}.state.json", segment(id)))
    }

    /// Model catalogues.
    pub fn catalog_cache(&self) -> PathBuf {
        self.daemon_dir().join("runtime-catalog-cache")
    }

    /// Identities of hub agents.
    pub fn credentials_dir(&self) -> PathBuf {
        self.root.join("credentials")
    }

    /// The identity of one hub agent.
    pub fn credentials(&self, agent: &str) -> PathBuf {
        self.credentials_dir().join(format!("{}.json", segment(agent)))
    }

    /// All agents.
    pub fn agents_dir(&self) -> PathBuf {
        self.root.join("agents")
    }

    /// Everything of one agent.
    pub fn agent_dir(&self, agent: &str) -> PathBuf {
        self.agents_dir().join(segment(agent))
    }

    /// Working directory of an agent that has no other.
    pub fn workspace(&self, agent: &str) -> PathBuf {
        self.agent_dir(agent).join("workspace")
    }

    /// What the daemon keeps about an agent.
    pub fn agent_state(&self, agent: &str) -> PathBuf {
        self.agent_dir(agent).join("state")
    }

    /// `CODEX_HOME` of an agent.
    pub fn codex_home(&self, agent: &str) -> PathBuf {
        self.agent_dir(agent).join("codex-home")
    }

    /// Transcripts of an agent.
    pub fn transcripts(&self, agent: &str) -> PathBuf {
        self.agent_dir(agent).join("transcripts")
    }

    /// Directory of an agent's working memory.
    pub fn memory_dir(&self, agent: &str) -> PathBuf {
        self.root.join("memory").join(segment(agent))
    }

    /// An agent's working memory.
    pub fn memory(&self, agent: &str) -> PathBuf {
        self.memory_dir(agent).join("working-memory.json")
    }

    /// Directory of the logs.
    pub fn logs_dir(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The daemon's log.
    pub fn log(&self) -> PathBuf {
        self.logs_dir().join("daemon.log")
    }

    /// Whether the home is usable as far as it exists. Creates nothing; `Ok(false)` when there is none yet.
    pub fn check(&self) -> Result<bool, HomeError> {
        for path in [self.root.clone(), self.daemon_dir(), self.logs_dir()] {
            match fs::metadata(&path) {
                Ok(meta) => check_dir(&path, &meta)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound && path == self.root => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                    return Err(HomeError::NotADirectory(blocking_file(&path)));
                }
                Err(e) => return Err(HomeError::Look(path, e)),
            }
        }
        Ok(true)
    }

    /// Makes the home and the directories that every daemon needs, 0700, and checks them. Existing ones
    /// below the home are tightened to 0700; the home itself, which may be shared on purpose, is not.
    pub fn prepare(&self) -> Result<(), HomeError> {
        self.check()?;
        make(&self.root)?;
        for path in [self.daemon_dir(), self.journal(), self.logs_dir(), self.agents_dir()] {
            make(&path)?;
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o700));
        }
        self.check().map(drop)
    }
}

fn make(path: &Path) -> Result<(), HomeError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| HomeError::Create(path.to_owned(), e))
}

fn check_dir(path: &Path, meta: &fs::Metadata) -> Result<(), HomeError> {
    if !meta.is_dir() {
        return Err(HomeError::NotADirectory(path.to_owned()));
    }
    if meta.uid() != own_uid() {
        return Err(HomeError::NotOurs { path: path.to_owned(), owner: meta.uid() });
    }
    rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|e| HomeError::NotWritable(path.to_owned(), e.into()))
}

/// The part of the path that is in the way of the rest.
fn blocking_file(path: &Path) -> PathBuf {
    path.ancestors().find(|p| p.exists()).unwrap_or(path).to_owned()
}

/// The user we act as.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// One path component for an id: bytes other than letters, digits, `_` and `-` are written `%XX`; the empty id
/// is `%`. Ordinary ids stay as they are; no id leads out of its directory.
fn segment(id: &str) -> String {
    if id.is_empty() {
        return "%".to_owned();
    }
    let mut out = String::with_capacity(id.len());
    for byte in id.bytes() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Whether a text may be the id of an agent, which becomes part of paths: letters, digits, `_` and `-`, the first one a
/// letter or digit; at most 128.
pub fn is_agent_id(id: &str) -> bool {
    id.len() <= 128
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// `~` and `~/x` with the user's home put in; other paths as they are.
pub fn expand_tilde(path: &str) -> PathBuf {
    let user = || std::env::var_os("HOME").filter(|h| !h.is_empty()).map(PathBuf::from);
    match path.strip_prefix('~') {
        Some("") => user().unwrap_or_else(|| path.into()),
        Some(rest) if rest.starts_with('/') => {
            user().map_or_else(|| path.into(), |h| h.join(rest.trim_start_matches('/')))
        }
        _ => path.into(),
    }
}

/// Id of the conversation that belongs to a directory: `dir-<name>-<8 hex>`, the name being the last part of
/// the path reduced to `[A-Za-z0-9_-]` and 40 characters, the hex the beginning of the SHA-256 of the path.
/// The path is resolved first, so that a link and its target are one conversation; a directory that does not
/// exist counts as it is written.
pub fn directory_conversation(dir: &Path) -> String {
    let real = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let name: String = real
        .file_name()
        .unwrap_or(OsStr::new("root"))
        .to_string_lossy()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        .take(40)
        .collect();
    format!("dir-{name}-{}", short_hash(real.as_os_str().as_bytes(), 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bh-paths-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn an_id_never_leads_out_of_its_directory() {
        assert_eq!(segment("ag_1-x.y"), "ag_1-x%2Ey");
        assert_eq!(segment(".."), "%2E%2E");
        assert_eq!(segment("a/b"), "a%2Fb");
        assert_eq!(segment(""), "%");
    }

    #[test]
    fn a_home_is_made_private() {
        let dir = scratch("private");
        let home = Home::at(dir.join("home")).unwrap();
        assert!(!home.check().unwrap());
        home.prepare().unwrap();
        assert!(home.check().unwrap());
        for path in [home.root().to_owned(), home.daemon_dir(), home.logs_dir()] {
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700, "{}", path.display());
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let dir = scratch("file");
        fs::write(dir.join("f"), "").unwrap();
        let error = Home::at(dir.join("f")).unwrap().prepare().unwrap_err();
        assert!(matches!(&error, HomeError::NotADirectory(p) if *p == dir.join("f")), "{error}");
        let error = Home::at(dir.join("f/below")).unwrap().prepare().unwrap_err();
        assert!(matches!(&error, HomeError::NotADirectory(p) if *p == dir.join("f")), "{error}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_directory_has_one_conversation() {
        let dir = scratch("dir conversation, with signs");
        let id = directory_conversation(&dir);
        let link = dir.with_extension("link");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        assert_eq!(directory_conversation(&link), id);
        assert!(id.contains("dirconversationwithsigns-"), "{id}");
        assert!(id.len() <= "dir-".len() + 40 + 9, "{id}");
        // SHA-256 of "/" begins with 8a5edab2.
        assert_eq!(directory_conversation(Path::new("/")), "dir-root-8a5edab2");
        fs::remove_file(link).unwrap();
        fs::remove_dir_all(dir).unwrap();
    }
}
