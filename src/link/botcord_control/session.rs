//! The login of a running daemon: its access token, renewed by one caller for all and by one process for all.
//!
//! A refresh token buys one pair of tokens. So the file is read again, under a lock, before one is spent, and the new
//! pair is on disk before it is used. A token is renewed when a fifth of its life is left, while nobody waits for it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::login;
use super::user_auth::{self, AuthError, DEFAULT_LIFE_S, Tokens, UserAuth};
use crate::config::cloud::Cloud;
use crate::engine::cancel::CancelToken;
use crate::net::http::{Body, Http, HttpError, Request, read_all};
use crate::net::url;
use crate::store::{self, Disk, FileLock};
use crate::time::{self, now_ms};

/// For one request of a login.
pub const LIMIT: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes.
pub const ANSWER_LIMIT: u64 = 64 << 10;
/// How long another process may take to renew the login.
const LOCK_LIMIT: Duration = Duration::from_secs(15);
/// The part of its life at which a token is renewed.
const RENEW_AT: f64 = 0.8;
/// The clock in a head of HTTP has no finer steps, and an answer is under way for a while; in milliseconds.
const DATE_STEP_MS: i64 = 2_000;

/// Why there is no access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// The hub takes this login no more: a person has to log in again.
    Rejected(String),
    /// Not now.
    Failed(String),
    /// There is no login.
    NoLogin,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(why) => write!(f, "the login was refused: {why}"),
            Self::Failed(why) => f.write_str(why),
            Self::NoLogin => f.write_str("not logged in"),
        }
    }
}

/// What a hub answered.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The document; null when it is not JSON.
    pub body: Value,
    /// Its clock in Unix milliseconds, where it says so.
    pub date: Option<i64>,
}

impl Answer {
    /// What a person is told of a refusal.
    pub fn refusal(&self) -> String {
        refusal(self.status, &self.body)
    }
}

/// What a person is told of an answer that says no.
pub fn refusal(status: u16, body: &Value) -> String {
    let code = ["code", "detail", "error"].iter().find_map(|key| body.get(*key).and_then(Value::as_str));
    match code {
        Some(code) => format!("HTTP {status}: {}", crate::text::clip(&crate::redact::text(code), 200)),
        None => format!("HTTP {status}"),
    }
}

/// Posts a document to a hub. `abort`: readable when the answer is not wanted any more.
pub fn post(http: &Http, url: &str, body: &Value, abort: BorrowedFd<'_>) -> Result<Answer, HttpError> {
    let bytes = body.to_string();
    let mut text = Vec::new();
    let request = Request {
        method: "POST",
        url,
        headers: &[("content-type", "application/json"), ("accept", "application/json")],
        body: Body::Bytes(bytes.as_bytes()),
        limit: LIMIT,
    };
    let answer = http.send(request, abort, &mut |_, body| read_all(body, ANSWER_LIMIT, &mut text))?;
    let date = answer.header("date").and_then(time::parse_http);
    Ok(Answer { status: answer.status, body: crate::json::parse(&text).unwrap_or(Value::Null), date })
}

/// The login.
pub struct Session {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    http: Http,
    /// It comes with the environment: there is no file of it, and it is never renewed.
    given: bool,
    state: Mutex<State>,
    /// Held by whoever renews: the others wait, and find what it got.
    flight: Mutex<()>,
    /// Never set: a renewal that is under way is not given up, since it may have spent the refresh token.
    never: CancelToken,
}

struct State {
    auth: Option<UserAuth>,
    /// When the file was changed last, as far as was seen.
    seen: Option<std::time::SystemTime>,
    /// The hub's clock less ours, in milliseconds.
    skew_ms: i64,
    /// How long the access token lives in all, in milliseconds, as far as is known.
    life_ms: f64,
}

impl Session {
    /// The login that lies in `daemon_dir`. One that cannot be used is logged and counts as none.
    pub fn open(daemon_dir: &Path, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let session = Self::new(daemon_dir, disk, None)?;
        session.look_again();
        Ok(session)
    }

    /// The login of a sandbox. Of it nothing is written but whether it has expired.
    pub fn of_cloud(daemon_dir: &Path, disk: Arc<dyn Disk>, cloud: &Cloud) -> io::Result<Self> {
        let auth = UserAuth {
            user_id: cloud.cloud_instance_id.clone(),
            daemon_instance_id: cloud.instance_id.clone(),
            hub_url: cloud.hub(),
            access_token: cloud.access_token.clone(),
            refresh_token: String::new(),
            expires_at: f64::INFINITY,
            logged_in_at: now_iso(),
            label: Some(format!("cloud:{}", cloud.cloud_instance_id)),
        };
        Self::new(daemon_dir, disk, Some(auth))
    }

    fn new(daemon_dir: &Path, disk: Arc<dyn Disk>, auth: Option<UserAuth>) -> io::Result<Self> {
        let given = auth.is_some();
        let state = State { auth, seen: None, skew_ms: 0, life_ms: DEFAULT_LIFE_S * 1_000.0 };
        Ok(Self {
            dir: daemon_dir.to_owned(),
            disk,
            http: Http::new(),
            given,
            state: Mutex::new(state),
            flight: Mutex::new(()),
            never: CancelToken::new()?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self) -> PathBuf {
        user_auth::path(&self.dir)
    }

    /// Reads the file again if it has changed. True: there is a login that was not there before.
    pub fn look_again(&self) -> bool {
        if self.given {
            return false;
        }
        let changed = std::fs::metadata(self.path()).and_then(|meta| meta.modified()).ok();
        let mut state = self.lock();
        if changed.is_none() || changed == state.seen {
            return false;
        }
        state.seen = changed;
        match user_auth::load(&self.path(), &now_iso()) {
            Ok(Some(auth)) => {
                let new = state.auth.as_ref().is_none_or(|old| old.refresh_token != auth.refresh_token);
                state.auth = Some(auth);
                new
            }
            Ok(None) => false,
            Err(e) => {
                log::warn!("control.login_unusable error={:?}", e.to_string());
                false
            }
        }
    }

    /// The login, where there is one.
    pub fn auth(&self) -> Option<UserAuth> {
        self.lock().auth.clone()
    }

    /// The hub's clock less ours, as far as is known, in milliseconds.
    pub fn skew_ms(&self) -> i64 {
        self.lock().skew_ms
    }

    /// Believes the hub's clock.
    pub fn set_skew_ms(&self, skew_ms: i64) {
        self.lock().skew_ms = skew_ms;
    }

    /// Takes the hub's clock from the head of an answer, unless a better word of it agrees. The address of a hub is
    /// `https`, or on this machine: nobody in between has written it.
    pub fn heard_date(&self, date_ms: i64) {
        let skew = date_ms.saturating_sub(now_ms());
        let mut state = self.lock();
        if skew.saturating_sub(state.skew_ms).saturating_abs() > DATE_STEP_MS {
            state.skew_ms = skew;
        }
    }

    /// When the access token is to be renewed, in Unix milliseconds; `None` without a login that can be.
    pub fn renew_at(&self) -> Option<i64> {
        if self.given {
            return None;
        }
        let state = self.lock();
        Some((state.auth.as_ref()?.expires_at - state.life_ms * (1.0 - RENEW_AT)) as i64)
    }

    /// A token that is good for a minute at least. `anew`: not the one that there is, since the hub did not take it or
    /// it is to be renewed.
    pub fn access_token(&self, anew: bool) -> Result<String, TokenError> {
        let before = self.auth().ok_or(TokenError::NoLogin)?;
        let good = |auth: &UserAuth, anew: bool| !anew && !auth.is_near_expiry(now_ms());
        if self.given || good(&before, anew) {
            return Ok(before.access_token);
        }
        let _flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have renewed it meanwhile.
        let held = self.auth().ok_or(TokenError::NoLogin)?;
        if held.access_token != before.access_token && good(&held, false) {
            return Ok(held.access_token);
        }
        let lock = lock(&self.dir).map_err(TokenError::Failed)?;
        let renewed = self.renew(held, anew);
        drop(lock);
        let (auth, life_ms) = renewed?;
        let token = auth.access_token.clone();
        let mut state = self.lock();
        state.auth = Some(auth);
        state.life_ms = life_ms;
        Ok(token)
    }

    /// The renewed login, and how long its access token lives in milliseconds.
    fn renew(&self, held: UserAuth, anew: bool) -> Result<(UserAuth, f64), TokenError> {
        let mut auth = held;
        // Another process may have renewed it. A file that cannot be read right now is no reason not to try.
        if let Ok(Some(stored)) = user_auth::load(&self.path(), &now_iso())
            && stored.refresh_token != auth.refresh_token
        {
            let fresh = stored.access_token != auth.access_token;
            auth = stored;
            if !auth.is_near_expiry(now_ms()) && (fresh || !anew) {
                return Ok((auth, DEFAULT_LIFE_S * 1_000.0));
            }
        }
        let hub = url::server(&auth.hub_url).map_err(|e| TokenError::Failed(format!("the login's hubUrl {e}")))?;
        let url = format!("{hub}{}", login::REFRESH);
        let answer = post(&self.http, &url, &login::refresh_body(&auth.refresh_token), self.never.as_fd())
            .map_err(|e| TokenError::Failed(format!("the login cannot be renewed: {e}")))?;
        if let Some(date) = answer.date {
            self.heard_date(date);
        }
        if login::is_rejected(answer.status) {
            return Err(TokenError::Rejected(answer.refusal()));
        }
        if !(200..300).contains(&answer.status) {
            return Err(TokenError::Failed(format!("the login cannot be renewed: {}", answer.refusal())));
        }
        let tokens = Tokens::read(&answer.body)
            .map_err(|what| TokenError::Failed(format!("the hub's answer to a renewal has no {what}")))?;
        let asked = auth.hub_url.clone();
        let auth = UserAuth {
            hub_url: adopted(&asked, tokens.hub_url.as_deref()),
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
            expires_at: now_ms() as f64 + tokens.expires_in * 1_000.0,
            ..auth
        };
        auth.save(&*self.disk, &self.path()).map_err(|e| TokenError::Failed(e.to_string()))?;
        log::info!("control.login_renewed instance={}", auth.daemon_instance_id);
        Ok((auth, tokens.expires_in * 1_000.0))
    }

    /// Waits for a renewal that is under way.
    pub fn settle(&self) {
        drop(self.flight.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The client and the directory of the login, for other requests to the same hub.
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// The hub has taken it. What was said on disk of a login that is given does not hold any more.
    pub fn taken(&self) {
        if self.given
            && let Err(e) = user_auth::clear_flag(&self.dir)
        {
            log::warn!("control.flag_failed error={e}");
        }
    }

    /// Says on disk that a person has to log in again.
    pub fn expire(&self) {
        if let Err(e) = user_auth::set_flag(&*self.disk, &self.dir, &now_iso()) {
            log::warn!("control.flag_failed error={:?}", e.to_string());
        }
    }
}

/// The hub of a login after an answer that may name another one.
pub fn adopted(asked: &str, named: Option<&str>) -> String {
    let Some(named) = named else { return asked.trim().trim_end_matches('/').to_owned() };
    match url::server(named) {
        Ok(hub) => {
            let host = |u: &str| url::origin(u).map(|(_, host, _)| host);
            if host(&hub) != host(asked) {
                log::warn!("control.hub_moved from={asked:?} to={hub:?}");
            }
            hub
        }
        Err(e) => {
            log::warn!("control.hub_url_ignored reason={}", e.as_str());
            asked.trim().trim_end_matches('/').to_owned()
        }
    }
}

/// Keeps other processes from renewing or replacing the login.
fn lock(daemon_dir: &Path) -> Result<FileLock, String> {
    FileLock::acquire(&daemon_dir.join("user-auth.lock"), LOCK_LIMIT, &|| false).map_err(|e| e.to_string())
}

/// Turns the hub's answer into the login of this daemon, and writes it down.
pub fn adopt(
    disk: &dyn Disk,
    daemon_dir: &Path,
    asked: &str,
    tokens: Tokens,
    label: Option<String>,
) -> Result<UserAuth, AuthError> {
    let path = user_auth::path(daemon_dir);
    let now = now_iso();
    // A daemon that renews the login at this moment must not put its own in the place of this one.
    let _lock = lock(daemon_dir).map_err(|e| AuthError::Io(path.clone(), io::Error::other(e)))?;
    let before = match user_auth::load(&path, &now) {
        Ok(before) => before,
        Err(AuthError::Invalid(..)) => {
            store::set_aside(disk, &path).map_err(|e| AuthError::Io(path.clone(), io::Error::other(e.to_string())))?;
            None
        }
        Err(_) => None,
    };
    let same = before.filter(|before| before.daemon_instance_id == tokens.daemon_instance_id);
    let auth = UserAuth {
        hub_url: adopted(asked, tokens.hub_url.as_deref()),
        expires_at: now_ms() as f64 + tokens.expires_in * 1_000.0,
        logged_in_at: same.map_or(now, |before| before.logged_in_at),
        user_id: tokens.user_id,
        daemon_instance_id: tokens.daemon_instance_id,
        access_token: tokens.access_token,
        refresh_token: tokens.refresh_token,
        label,
    };
    auth.save(disk, &path).map_err(|e| AuthError::Io(path.clone(), io::Error::other(e.to_string())))?;
    user_auth::clear_flag(daemon_dir).map_err(|e| AuthError::Io(user_auth::flag_path(daemon_dir), e))?;
    Ok(auth)
}

/// Now, in ISO 8601 with milliseconds.
pub fn now_iso() -> String {
    time::rfc3339(now_ms())
}
