//! A file of credentials: read with care, changed as a whole and under a lock, put aside instead of deleted.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;
use serde_json::{Map, Value};

use super::fields::{self, Credentials};
use super::{CredentialsError, Problem};
use crate::json;
use crate::store::{self, Disk, FileLock, LockFailure, StoreError};
use crate::time;

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 256 << 10;

/// How long a change waits for others.
const CHANGE_LIMIT: Duration = Duration::from_secs(15);

/// How long the lock is waited for before a file is put aside without it.
const PUT_ASIDE_LIMIT: Duration = Duration::from_secs(2);

/// Reads a file of credentials. It may be readable by others, which is warned about once for each file; a file of
/// another user is refused.
pub fn load(path: &Path) -> Result<Credentials, CredentialsError> {
    read(path).and_then(|text| fields::parse(&text)).map_err(CredentialsError::at(path))
}

fn read(path: &Path) -> Result<String, Problem> {
    // Not blocking: a pipe in its place must not hold up the start.
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
    let file = file.map_err(Problem::Read)?;
    let meta = file.metadata().map_err(Problem::Read)?;
    if !meta.is_file() {
        return Err(Problem::Read(io::Error::other("it is not a file")));
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(Problem::NotOurs(meta.uid()));
    }
    if meta.mode() & 0o077 != 0 && is_new(path) {
        log::warn!("credentials.readable path={} mode={:o} help=\"chmod 600\"", path.display(), meta.mode() & 0o777);
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(Problem::Read)?;
    if text.len() as u64 > MAX_FILE { Err(Problem::Read(io::ErrorKind::FileTooLarge.into())) } else { Ok(text) }
}

/// Whether this file was not warned about before.
fn is_new(path: &Path) -> bool {
    /// As many files are remembered.
    const MOST: usize = 1_000;
    static WARNED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    let is_new = !warned.iter().any(|p| p == path);
    if is_new && warned.len() < MOST {
        warned.push(path.to_owned());
    }
    is_new
}

/// A file that was loaded, for changing it later.
#[derive(Clone)]
pub struct CredentialsFile {
    path: PathBuf,
    agent_id: String,
    key_id: String,
    disk: Arc<dyn Disk>,
}

impl CredentialsFile {
    /// The file that these credentials came from.
    pub fn new(path: &Path, credentials: &Credentials, disk: Arc<dyn Disk>) -> Self {
        let (agent_id, key_id) = (credentials.agent_id.clone(), credentials.key_id.clone());
        Self { path: path.to_owned(), agent_id, key_id, disk }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the lock, which is a file `<name>.lock` beside it: the file itself is replaced with every change. Waits up
    /// to `limit`, or until `stopped` says so.
    pub fn lock(&self, limit: Duration, stopped: &dyn Fn() -> bool) -> Result<FileLock, LockFailure> {
        FileLock::acquire(&beside(&self.path, ".lock"), limit, stopped)
    }

    /// The token that the file has now, with its end (Unix seconds): another program may have got a new one. `None`
    /// when there is none, or the file is not that of this agent and key any more.
    pub fn token(&self) -> Option<(String, f64)> {
        let file = self.current()?;
        Some((fields::filled(&file, &["token"])?, fields::expiry(&file)?))
    }

    /// Writes a token into the file, which otherwise stays as it is, the order of its members included. Nothing happens
    /// when the file is gone, cannot be read, or is not that of this agent and key any more. The lock is to be held.
    pub fn save_token(&self, token: &str, expires_at: i64) -> Result<bool, StoreError> {
        let Some(mut file) = self.current() else { return Ok(false) };
        file.insert("token".into(), token.into());
        file.insert("tokenExpiresAt".into(), expires_at.into());
        store::write_json(&*self.disk, &self.path, &Value::Object(file))?;
        Ok(true)
    }

    /// Changes members of the file, under its lock; returns whether that made a difference. Everything else stays as it
    /// is. The error is for people.
    pub fn change(&self, change: &dyn Fn(&mut Map<String, Value>)) -> Result<bool, String> {
        let _lock = self.lock(CHANGE_LIMIT, &|| false).map_err(|e| e.to_string())?;
        let before = self.current().ok_or("the credentials are gone, or those of another agent")?;
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(false);
        }
        store::write_json(&*self.disk, &self.path, &Value::Object(after)).map_err(|e| e.to_string())?;
        Ok(true)
    }

    /// Puts the file aside, as `<name>.revoked-<unix seconds>`: the key may still be wanted, and nothing loads it by
    /// itself any more. Returns where it is now; `None` when there is nothing to put aside.
    pub fn put_aside(&self, now: i64) -> Result<Option<PathBuf>, StoreError> {
        // Best effort: whoever writes a token right now must not bring the file back.
        let _lock = self.lock(PUT_ASIDE_LIMIT, &|| false);
        if self.current().is_none() {
            return Ok(None);
        }
        let aside = beside(&self.path, &format!(".revoked-{now}"));
        self.disk.rename(&self.path, &aside).map_err(StoreError::at("put aside", &self.path))?;
        if let Some(dir) = self.path.parent() {
            self.disk.sync_dir(dir).map_err(StoreError::at("sync the directory of", &self.path))?;
        }
        let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&aside, owner_only).map_err(StoreError::at("protect", &aside))?;
        Ok(Some(aside))
    }

    /// What the file says, if it is still that of this agent and key.
    fn current(&self) -> Option<Map<String, Value>> {
        let Ok(Value::Object(file)) = json::parse(read(&self.path).ok()?.as_bytes()) else { return None };
        let is_ours = fields::filled(&file, &["agentId", "agent_id"]).as_ref() == Some(&self.agent_id)
            && fields::filled(&file, &["keyId", "key_id"]).as_ref() == Some(&self.key_id);
        is_ours.then_some(file)
    }
}

/// Writes the file of a new agent, 0600 in a directory of 0700. `more` are further members, such as `runtime`.
pub fn create(
    path: &Path,
    disk: &dyn Disk,
    credentials: &Credentials,
    more: Map<String, Value>,
) -> Result<(), StoreError> {
    let mut file = Map::new();
    let mut put = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            file.insert(key.into(), value.into());
        }
    };
    let now = now();
    put("hubUrl", Some(&credentials.hub_url));
    put("agentId", Some(&credentials.agent_id));
    put("keyId", Some(&credentials.key_id));
    put("privateKey", Some(&credentials.private_key));
    put("publicKey", Some(&credentials.key.public_text()));
    put("displayName", credentials.display_name.as_deref());
    put("savedAt", Some(credentials.saved_at.as_deref().unwrap_or(&now)));
    put("token", credentials.token.as_deref());
    if let Some(end) = credentials.token_expires_at {
        file.insert("tokenExpiresAt".into(), (end as i64).into());
    }
    let mut whole = Map::new();
    whole.insert("version".into(), 1.into());
    whole.append(&mut file);
    for (key, value) in more {
        whole.insert(key, value);
    }
    if let Some(dir) = path.parent() {
        disk.create_dir(dir).map_err(StoreError::at("create", dir))?;
    }
    store::write_json(disk, path, &Value::Object(whole))
}

/// ISO 8601 with milliseconds.
fn now() -> String {
    time::rfc3339(time::now_ms())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::RealDisk;
    use crate::store::tests::TempDir;

    const FILE: &str = r#"{"zeta":{"b":1,"a":[1.50]},"hub":"https://h","agent_id":"ag_1","keyId":"k_1",
        "privateKey":"BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=","token":"old","alpha":null}"#;

    fn written(dir: &TempDir, text: &str) -> CredentialsFile {
        let path = dir.0.join("ag_1.json");
        std::fs::write(&path, text).unwrap();
        let credentials = fields::parse(FILE).unwrap();
        CredentialsFile::new(&path, &credentials, Arc::new(RealDisk))
    }

    #[test]
    fn a_token_is_written_and_all_else_stays() {
        let dir = TempDir::new();
        let file = written(&dir, FILE);
        assert!(file.save_token("new", 1_779_856_985).unwrap());
        let text = std::fs::read_to_string(file.path()).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["zeta", "hub", "agent_id", "keyId", "privateKey", "token", "alpha", "tokenExpiresAt"]);
        assert!(text.ends_with("}\n") && text.contains("\n  \"token\": \"new\",\n"), "{text}");
        assert_eq!(value["zeta"]["b"], 1);
        assert_eq!(file.token(), Some(("new".into(), 1_779_856_985.0)));
        assert_eq!(std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_file_of_another_agent_or_key_is_left_alone() {
        let dir = TempDir::new();
        for other in [FILE.replace("k_1", "k_2"), FILE.replace("ag_1", "ag_2"), "{oops".into(), "[]".into()] {
            let file = written(&dir, &other);
            assert!(!file.save_token("new", 1).unwrap());
            assert_eq!(file.token(), None);
            assert_eq!(file.put_aside(1).unwrap(), None);
            assert_eq!(std::fs::read_to_string(file.path()).unwrap(), other);
            std::fs::remove_file(file.path()).unwrap();
            assert!(!file.save_token("new", 1).unwrap());
            assert!(!file.path().exists());
        }
    }

    #[test]
    fn what_is_put_aside_keeps_the_key() {
        let dir = TempDir::new();
        let file = written(&dir, FILE);
        let aside = file.put_aside(1_795_213_741).unwrap().unwrap();
        assert_eq!(aside, dir.0.join("ag_1.json.revoked-1795213741"));
        assert_eq!(std::fs::read_to_string(&aside).unwrap(), FILE);
        assert_eq!(std::fs::metadata(&aside).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!file.path().exists());
    }

    #[test]
    fn one_at_a_time_holds_the_lock() {
        let dir = TempDir::new();
        let file = written(&dir, FILE);
        let first = file.lock(Duration::ZERO, &|| false).unwrap();
        assert!(matches!(file.lock(Duration::from_millis(60), &|| false), Err(LockFailure::Held)));
        assert!(matches!(file.lock(Duration::from_hours(1), &|| true), Err(LockFailure::Held)));
        drop(first);
        file.lock(Duration::ZERO, &|| false).unwrap();
        let nowhere = CredentialsFile { path: dir.0.join("no/ag_1.json"), ..file };
        assert!(matches!(nowhere.lock(Duration::ZERO, &|| false), Err(LockFailure::Unusable(_))));
    }

    #[test]
    fn the_file_of_another_user_is_refused() {
        let dir = TempDir::new();
        let ours = written(&dir, FILE).path().to_owned();
        // Who may not give files away is not the owner of this one.
        let given = rustix::fs::chown(&ours, Some(rustix::process::Uid::from_raw(4_711)), None).is_ok();
        let error = load(if given { &ours } else { Path::new("/etc/passwd") }).unwrap_err();
        assert!(error.to_string().contains("belongs to another user"), "{error}");
        assert_eq!(error.problem.as_str(), "unreadable");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = TempDir::new();
        assert!(matches!(load(&dir.0).unwrap_err().problem, Problem::Read(_)));
        let pipe = dir.0.join("pipe.json");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::from(0o600), 0)
            .unwrap();
        assert!(matches!(load(&pipe).unwrap_err().problem, Problem::Read(_)));
        let long = dir.0.join("long.json");
        std::fs::write(&long, vec![b' '; MAX_FILE as usize + 1]).unwrap();
        assert!(matches!(load(&long).unwrap_err().problem, Problem::Read(_)));
        assert!(load(&dir.0.join("none.json")).unwrap_err().to_string().contains("none.json"));
    }

    #[test]
    fn a_new_file_can_be_loaded() {
        let dir = TempDir::new();
        let path = dir.0.join("credentials/ag_1.json");
        let mut credentials = fields::parse(FILE).unwrap();
        (credentials.token, credentials.token_expires_at) = (Some("t".into()), Some(5.0));
        let more = Map::from_iter([("runtime".to_owned(), "codex".into())]);
        create(&path, &RealDisk, &credentials, more).unwrap();
        let loaded = load(&path).unwrap();
        assert_eq!((loaded.token.as_deref(), loaded.token_expires_at), (Some("t"), Some(5.0)));
        assert_eq!(loaded.runtime.as_deref(), Some("codex"));
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("{\n  \"version\": 1,\n  \"hubUrl\""));
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    }
}
