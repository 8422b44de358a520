//! Logins at services that want one (`gateway_login_start`, `gateway_login_status`, `gateway_recent_senders`). bellhop
//! connects none of these services, so no login begins here; what the hub asks is answered as far as it can be.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::frames::needed;
use crate::config::gateways::is_provider;
use crate::link::botcord_control::frame::Refused;
use crate::time::now_ms;

/// Services that want a login.
const PROVIDERS: [&str; 2] = ["wechat", "feishu"];
/// How long a login may take, in milliseconds.
const AGE_MS: i64 = 300_000;
/// Logins that are remembered; the oldest make room.
const MOST: usize = 64;

/// A login.
#[derive(Clone, Debug, Default)]
pub(super) struct Login {
    pub(super) provider: String,
    pub(super) account: String,
    /// What the service gave, once somebody has confirmed it.
    pub(super) secret: Option<String>,
    /// What else it said, by the names of a profile: `baseUrl`, `appId`, `domain`, `userOpenId`.
    pub(super) profile: Vec<(String, Value)>,
    /// How the hub may recognise the secret.
    pub(super) preview: String,
    pub(super) began: i64,
}

/// What a confirmed login brings.
#[derive(Debug)]
pub(super) struct Confirmed {
    pub(super) secret: String,
    pub(super) profile: Vec<(String, Value)>,
}

/// Logins by their id; in memory only, for they hold secrets that nobody has taken yet.
#[derive(Default)]
pub(super) struct Logins {
    all: Mutex<HashMap<String, Login>>,
}

impl Logins {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Login>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Option<Login> {
        let all = self.lock();
        all.get(id).cloned()
    }

    /// Remembers a login.
    #[cfg_attr(not(test), expect(dead_code, reason = "begins with the first service that wants a login"))]
    pub(super) fn put(&self, id: &str, login: Login) {
        let mut all = self.lock();
        if all.len() >= MOST {
            let oldest = all.iter().min_by_key(|(_, l)| l.began).map(|(id, _)| id.clone());
            oldest.and_then(|id| all.remove(&id));
        }
        all.insert(id.to_owned(), login);
    }

    /// A login has served.
    pub(super) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// What a login has brought for a gateway of this agent.
    pub(super) fn confirmed(&self, id: &str, provider: &str, account: &str) -> Result<Confirmed, Refused> {
        let login = self.known(id)?;
        if login.provider != provider {
            return Err(Refused::params("loginId: it is a login of another service"));
        }
        if login.account != account {
            return Err(Refused::new("login_account_mismatch", "it is the login of another agent"));
        }
        let secret = login.secret.ok_or_else(|| Refused::new("login_unconfirmed", "nobody has confirmed it"))?;
        Ok(Confirmed { secret, profile: login.profile })
    }

    fn known(&self, id: &str) -> Result<Login, Refused> {
        let login = self.find(id).ok_or_else(|| Refused::new("login_missing", "there is no such login"))?;
        if is_over(&login) { Err(Refused::new("login_expired", "it took too long")) } else { Ok(login) }
    }

    /// `gateway_login_start`.
    pub(super) fn start(params: &Value) -> Result<Value, Refused> {
        let provider = provider(params)?;
        needed(params, "accountId")?;
        if !is_provider(params.get("baseUrl").and_then(Value::as_str)) {
            return Err(Refused::params("baseUrl: expected the public address of the service"));
        }
        Err(Refused::new("unsupported_provider", format!("bellhop does not connect gateways of {provider}")))
    }

    /// `gateway_login_status`.
    pub(super) fn status(&self, params: &Value) -> Result<Value, Refused> {
        let provider = provider(params)?;
        let (id, account) = (needed(params, "loginId")?, needed(params, "accountId")?);
        let Some(login) = self.find(id).filter(|l| !is_over(l)) else { return Ok(json!({"status": "expired"})) };
        if login.provider != provider {
            return Err(Refused::params("provider: it is a login of another service"));
        }
        if login.account != account {
            return Err(Refused::new("forbidden", "it is the login of another agent"));
        }
        if login.secret.is_none() {
            return Err(Refused::new("no_qrcode", "there is nothing to ask the service about"));
        }
        let mut done = json!({"status": "confirmed", "tokenPreview": login.preview});
        for (key, value) in login.profile {
            done[key.as_str()] = value;
        }
        Ok(done)
    }

    /// `gateway_recent_senders`.
    pub(super) fn recent_senders(&self, params: &Value) -> Result<Value, Refused> {
        let provider = provider(params)?;
        let (id, account) = (needed(params, "loginId")?, needed(params, "accountId")?);
        if params
            .get("timeoutSeconds")
            .is_some_and(|t| !t.is_null() && !t.as_f64().is_some_and(|t| (0.0..=10.0).contains(&t)))
        {
            return Err(Refused::params("timeoutSeconds: expected 0 to 10"));
        }
        let login = self.known(id)?;
        if login.provider != provider {
            return Err(Refused::params("provider: it is a login of another service"));
        }
        if login.account != account {
            return Err(Refused::new("forbidden", "it is the login of another agent"));
        }
        if login.secret.is_none() {
            return Err(Refused::new("login_unconfirmed", "nobody has confirmed it"));
        }
        Err(Refused::new("provider_unreachable", format!("bellhop does not connect gateways of {provider}")))
    }
}

fn provider(params: &Value) -> Result<&str, Refused> {
    let provider = needed(params, "provider")?;
    if PROVIDERS.contains(&provider) {
        return Ok(provider);
    }
    Err(Refused::params(format!("provider: expected one of {}", PROVIDERS.join(", "))))
}

fn is_over(login: &Login) -> bool {
    !(0..AGE_MS).contains(&(now_ms() - login.began))
}
