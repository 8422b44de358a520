//! What the hub asks about gateways (`list_gateways`, `upsert_gateway`, `remove_gateway`, `test_gateway`, `gateway_send`,
//! `gateway_login_…`, `gateway_recent_senders`): from the parameters of a frame to its result.
//!
//! The handlers know the files of the home and, through [`Desk`], what runs; so they can be tried without any service.

use std::fs;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::login::Logins;
use super::sending::Sent;
use super::{secret, sending, upsert};
use crate::channel::manager::ChannelStatus;
use crate::config::gateways::TELEGRAM;
use crate::config::paths::is_agent_id;
use crate::config::{Config, ConfigError, GatewayProfile, Home, edit};
use crate::daemon::revoke::flag;
use crate::link::botcord_control::frame::{Handled, Refused};
use crate::message::Outbound;
use crate::store;

/// The list of profiles in the configuration.
pub(super) const LIST: &str = "thirdPartyGateways";
/// Members of a profile that [`list`] shows when they are set.
const SHOWN: [&str; 8] =
    ["label", "baseUrl", "appId", "domain", "userOpenId", "allowedSenderIds", "allowedChatIds", "splitAt"];

/// What the handlers need of the daemon.
pub(in crate::daemon) trait Desk: Send + Sync {
    /// Where files are.
    fn home(&self) -> &Home;

    /// The configuration as it is written down.
    fn config(&self) -> Result<Config, ConfigError>;

    /// Whether an agent of a hub is at work here, or is named by the configuration.
    fn knows(&self, agent: &str) -> bool;

    /// How a gateway is; `None`: its channel is not loaded.
    fn status(&self, id: &str) -> Option<ChannelStatus>;

    /// Connects a gateway as it is written down now, in place of one of the same id.
    fn add(&self, profile: &GatewayProfile) -> Result<(), String>;

    /// Takes a gateway's channel away, if there is one.
    fn remove(&self, id: &str) -> Result<(), String>;

    /// Sends through a gateway; returns the service's id of the message.
    fn send(&self, out: &Outbound) -> Result<Option<String>, String>;

    /// Who the bot of a gateway is, as its service says.
    fn ask(&self, profile: &GatewayProfile, token: &str) -> Result<Value, String>;
}

/// What is remembered between frames.
pub(in crate::daemon) struct Frames {
    pub(super) logins: Logins,
    sent: Sent,
    /// Changes, one at a time.
    changing: Mutex<()>,
}

impl Frames {
    /// For a home.
    pub(in crate::daemon) fn new(home: &Home) -> Self {
        Self { logins: Logins::default(), sent: Sent::open(home.daemon_dir()), changing: Mutex::default() }
    }

    /// Carries a frame out. `None`: it is not about gateways.
    pub(in crate::daemon) fn carry_out(&self, desk: &dyn Desk, kind: &str, params: &Value) -> Option<Handled> {
        let one = || self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let done = match kind {
            "list_gateways" => list(desk),
            "upsert_gateway" => {
                let _one = one();
                upsert::upsert(desk, &self.logins, params)
            }
            "remove_gateway" => {
                let _one = one();
                remove(desk, params)
            }
            "test_gateway" => test(desk, params),
            "gateway_send" => sending::send(desk, &self.sent, params),
            "gateway_login_start" => Logins::start(params),
            "gateway_login_status" => self.logins.status(params),
            "gateway_recent_senders" => self.logins.recent_senders(params),
            _ => return None,
        };
        Some(done.map(Some))
    }
}

/// A parameter that is a text and not empty.
pub(super) fn needed<'p>(params: &'p Value, key: &str) -> Result<&'p str, Refused> {
    let text = params.get(key).and_then(Value::as_str).filter(|t| !t.trim().is_empty());
    text.ok_or_else(|| Refused::params(format!("{key}: expected a text that is not empty")))
}

/// The id of a gateway or an agent, which becomes part of paths.
pub(super) fn needed_id<'p>(params: &'p Value, key: &str) -> Result<&'p str, Refused> {
    let id = needed(params, key)?;
    if is_agent_id(id) { Ok(id) } else { Err(Refused::params(format!("{key}: expected letters, digits, _ and -"))) }
}

/// The profiles of the configuration, as they are written.
fn profiles(desk: &dyn Desk) -> Result<Vec<Value>, Refused> {
    let config = desk.config().map_err(|e| Refused::failed(e.to_string()))?;
    Ok(config.document.get(LIST).and_then(Value::as_array).cloned().unwrap_or_default())
}

/// The profile of this id.
pub(super) fn profile(desk: &dyn Desk, id: &str) -> Result<Option<Value>, Refused> {
    Ok(profiles(desk)?.into_iter().find(|p| p["id"] == id))
}

/// How a gateway is, for the hub. What is not known is left out; whether it is connected is not before it has answered.
pub(super) fn status_of(status: &ChannelStatus) -> Value {
    let mut out = Map::new();
    out.insert("running".into(), status.running.into());
    if status.connected || status.authorized.is_some() || status.last_poll_at.is_some() {
        out.insert("connected".into(), status.connected.into());
    }
    if let Some(authorized) = status.authorized {
        out.insert("authorized".into(), authorized.into());
    }
    for (key, at) in [
        ("lastPollAt", status.last_poll_at),
        ("lastInboundAt", status.last_inbound_at),
        ("lastSendAt", status.last_send_at),
    ] {
        if let Some(at) = at {
            out.insert(key.into(), at.into());
        }
    }
    out.insert("lastError".into(), status.last_error.clone().into());
    out.into()
}

fn list(desk: &dyn Desk) -> Result<Value, Refused> {
    let profiles = profiles(desk)?;
    let gateways: Vec<Value> = profiles
        .iter()
        .map(|profile| {
            let mut out = Map::new();
            for key in ["id", "type", "accountId"] {
                out.insert(key.into(), profile[key].clone());
            }
            out.insert("enabled".into(), (profile["enabled"] != false).into());
            for key in SHOWN {
                if let Some(value) = profile.get(key).filter(|v| !v.is_null()) {
                    out.insert(key.into(), value.clone());
                }
            }
            if let Some(status) = desk.status(profile["id"].as_str().unwrap_or_default()) {
                out.insert("status".into(), status_of(&status));
            }
            out.into()
        })
        .collect();
    Ok(json!({"gateways": gateways}))
}

fn remove(desk: &dyn Desk, params: &Value) -> Result<Value, Refused> {
    let id = needed_id(params, "id")?;
    let with_secret = flag(params, "deleteSecret", true)?;
    desk.remove(id).map_err(|why| Refused::new("removeChannel_failed", why))?;
    let known = profile(desk, id)?;
    if known.is_some() {
        edit::edit(desk.home(), |config| put_profile(config, id, None)).map_err(|e| Refused::failed(e.to_string()))?;
    }
    if with_secret {
        // A file of somebody's own is not the hub's to delete.
        for path in [desk.home().gateway_secret(id), desk.home().gateway_state(id)] {
            store::step();
            fs::remove_file(&path)
                .or_else(secret::gone)
                .map_err(|e| Refused::failed(format!("{} cannot be deleted: {e}", path.display())))?;
        }
    }
    log::info!("gateway.removed gateway={id} known={} with_secret={with_secret}", known.is_some());
    Ok(json!({"id": id, "removed": known.is_some(), "secretDeleted": with_secret}))
}

/// Puts a profile in the place of the one with its id, or behind the others; `None` takes it away.
pub(super) fn put_profile(config: &mut Map<String, Value>, id: &str, profile: Option<Value>) {
    let list = config.entry(LIST).or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    let at = list.iter().position(|p| p["id"] == id);
    match (at, profile) {
        (Some(at), Some(profile)) => list[at] = profile,
        (None, Some(profile)) => list.push(profile),
        (Some(at), None) => drop(list.remove(at)),
        (None, None) => {}
    }
}

fn test(desk: &dyn Desk, params: &Value) -> Result<Value, Refused> {
    let id = needed(params, "id")?;
    let Some(profile) = profile(desk, id)?.as_ref().and_then(GatewayProfile::read) else {
        return Err(Refused::new("unknown_gateway", format!("there is no gateway {:?}", crate::text::clip(id, 64))));
    };
    let outcome = if profile.kind == TELEGRAM {
        secret::read(&profile, desk.home()).and_then(|token| desk.ask(&profile, &token))
    } else {
        live(desk.status(id))
    };
    Ok(match outcome {
        Ok(info) => json!({"id": id, "ok": true, "info": info}),
        Err(why) => json!({"id": id, "ok": false, "error": why}),
    })
}

/// What the status of a gateway says about whether it works.
fn live(status: Option<ChannelStatus>) -> Result<Value, String> {
    let status = status.ok_or("it is not running")?;
    if let Some(why) = status.last_error {
        return Err(why);
    }
    if !status.running {
        return Err("it is not running".into());
    }
    if status.authorized == Some(false) {
        return Err("its secret is refused".into());
    }
    Ok(json!({
        "lastPollAt": status.last_poll_at,
        "lastInboundAt": status.last_inbound_at,
        "authorized": status.authorized,
    }))
}
