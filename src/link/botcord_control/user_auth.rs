//! The login on disk: `daemon/user-auth.json`, and the flag that says that it is no good any more.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::store::{self, Disk, StoreError};

/// A login lasts for so long when the hub does not say, in seconds.
pub const DEFAULT_LIFE_S: f64 = 3_600.0;
/// With less time left than this a token is renewed before it is used, in milliseconds.
pub const NEAR_EXPIRY_MS: i64 = 60_000;
/// Longest file, in bytes.
const FILE_LIMIT: u64 = 64 << 10;

/// A login of this daemon at a hub.
#[derive(Clone, PartialEq)]
pub struct UserAuth {
    /// The person.
    pub user_id: String,
    /// This daemon, for the hub.
    pub daemon_instance_id: String,
    /// The hub.
    pub hub_url: String,
    /// Opens the control socket. Secret.
    pub access_token: String,
    /// Buys the next pair of tokens, once. Secret.
    pub refresh_token: String,
    /// When the access token ends, in Unix milliseconds.
    pub expires_at: f64,
    /// When the person logged in (ISO 8601).
    pub logged_in_at: String,
    /// What the daemon is called.
    pub label: Option<String>,
}

/// Without the tokens.
impl fmt::Debug for UserAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserAuth")
            .field("user_id", &self.user_id)
            .field("daemon_instance_id", &self.daemon_instance_id)
            .field("hub_url", &self.hub_url)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Why a login cannot be used.
#[derive(Debug)]
pub enum AuthError {
    /// Others can read it.
    Open(PathBuf),
    /// It cannot be read.
    Io(PathBuf, io::Error),
    /// It is not what it should be: the field, and what is expected there.
    Invalid(PathBuf, &'static str),
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(path) => {
                write!(f, "{} can be read by others; make it yours alone: chmod 600 {0}", path.display())
            }
            Self::Io(path, e) => write!(f, "{}: {e}", path.display()),
            Self::Invalid(path, what) => write!(f, "{}: expected {what}", path.display()),
        }
    }
}

impl std::error::Error for AuthError {}

/// Where it is, below the home.
pub fn path(daemon_dir: &Path) -> PathBuf {
    daemon_dir.join("user-auth.json")
}

/// Reads the login; `None` when there is no file.
pub fn load(path: &Path, now: &str) -> Result<Option<UserAuth>, AuthError> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(AuthError::Io(path.to_owned(), e)),
    };
    if meta.permissions().mode() & 0o077 != 0 {
        return Err(AuthError::Open(path.to_owned()));
    }
    if meta.len() > FILE_LIMIT {
        return Err(AuthError::Invalid(path.to_owned(), "a file of at most 64 KiB"));
    }
    let text = fs::read(path).map_err(|e| AuthError::Io(path.to_owned(), e))?;
    parse(&text, now).map(Some).map_err(|what| AuthError::Invalid(path.to_owned(), what))
}

/// Reads the text of the file. `now` is an ISO 8601 time for a login that does not say when it was made.
pub fn parse(text: &[u8], now: &str) -> Result<UserAuth, &'static str> {
    let value = crate::json::parse(text).map_err(|_| "JSON")?;
    let object = value.as_object().ok_or("an object")?;
    let text = |key: &str| object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let required = |key, what| text(key).map(ToOwned::to_owned).ok_or(what);
    Ok(UserAuth {
        user_id: required("userId", "userId: a non-empty string")?,
        daemon_instance_id: required("daemonInstanceId", "daemonInstanceId: a non-empty string")?,
        hub_url: required("hubUrl", "hubUrl: a non-empty string")?,
        access_token: required("accessToken", "accessToken: a non-empty string")?,
        refresh_token: required("refreshToken", "refreshToken: a non-empty string")?,
        expires_at: object.get("expiresAt").and_then(Value::as_f64).ok_or("expiresAt: milliseconds")?,
        logged_in_at: object.get("loggedInAt").and_then(Value::as_str).unwrap_or(now).to_owned(),
        label: object.get("label").and_then(Value::as_str).map(ToOwned::to_owned),
    })
}

impl UserAuth {
    /// The document of the file.
    pub fn document(&self) -> Value {
        let mut document = json!({
            "version": 1,
            "userId": self.user_id,
            "daemonInstanceId": self.daemon_instance_id,
            "hubUrl": self.hub_url,
            "accessToken": self.access_token,
            "refreshToken": self.refresh_token,
            "expiresAt": number(self.expires_at),
            "loggedInAt": self.logged_in_at,
        });
        if let Some(label) = &self.label {
            document["label"] = label.clone().into();
        }
        document
    }

    /// Writes it, durably and for nobody else to read.
    pub fn save(&self, disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
        store::write_json(disk, path, &self.document())
    }

    /// Whether the access token ends within [`NEAR_EXPIRY_MS`], or has.
    pub fn is_near_expiry(&self, now_ms: i64) -> bool {
        self.expires_at - now_ms as f64 <= NEAR_EXPIRY_MS as f64
    }
}

fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 { (value as i64).into() } else { value.into() }
}

/// The part of a hub's answer that makes a login.
#[derive(Clone, PartialEq)]
pub struct Tokens {
    /// See [`UserAuth::access_token`].
    pub access_token: String,
    /// See [`UserAuth::refresh_token`].
    pub refresh_token: String,
    /// Seconds from now.
    pub expires_in: f64,
    /// The person.
    pub user_id: String,
    /// This daemon.
    pub daemon_instance_id: String,
    /// The hub, where it names one.
    pub hub_url: Option<String>,
}

impl Tokens {
    /// Reads an answer; the error names what it lacks. Keys may be written in either fashion.
    pub fn read(answer: &Value) -> Result<Self, &'static str> {
        let object = answer.as_object().ok_or("an object")?;
        let text = |camel: &str, snake: &str| -> Option<String> {
            let value = object.get(camel).or_else(|| object.get(snake))?;
            value.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned)
        };
        let life = object.get("expiresIn").or_else(|| object.get("expires_in")).and_then(Value::as_f64);
        Ok(Self {
            access_token: text("accessToken", "access_token").ok_or("access_token")?,
            refresh_token: text("refreshToken", "refresh_token").ok_or("refresh_token")?,
            expires_in: life.filter(|life| *life > 0.0).unwrap_or(DEFAULT_LIFE_S),
            user_id: text("userId", "user_id").ok_or("user_id")?,
            daemon_instance_id: text("daemonInstanceId", "daemon_instance_id").ok_or("daemon_instance_id")?,
            hub_url: text("hubUrl", "hub_url"),
        })
    }
}

/// The flag that says that the person has to log in again.
pub fn flag_path(daemon_dir: &Path) -> PathBuf {
    daemon_dir.join("auth-expired.flag")
}

/// Sets the flag. `now` is an ISO 8601 time.
pub fn set_flag(disk: &dyn Disk, daemon_dir: &Path, now: &str) -> Result<(), StoreError> {
    store::write_json(disk, &flag_path(daemon_dir), &json!({"expiredAt": now}))
}

/// Takes the flag away.
pub fn clear_flag(daemon_dir: &Path) -> io::Result<()> {
    match fs::remove_file(flag_path(daemon_dir)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
