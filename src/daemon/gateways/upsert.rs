//! `upsert_gateway`: a gateway that the hub wants, or wants otherwise.
//!
//! First the secret is written, then the profile, then the channel is connected. What was before comes back when that
//! fails.

use serde_json::{Map, Value, json};

use super::frames::{Desk, LIST, needed, needed_id, profile, put_profile, status_of};
use super::login::Logins;
use super::secret::{self, Before};
use crate::config::gateways::{TELEGRAM, TYPES, is_provider, shown};
use crate::config::{GatewayProfile, edit};
use crate::link::botcord_control::frame::Refused;

/// Longest label, secret or address, in bytes.
const TEXT: usize = 2_048;
/// Ids of one list.
const IDS: usize = 1_000;

/// Carries the frame out.
pub(super) fn upsert(desk: &dyn Desk, logins: &Logins, params: &Value) -> Result<Value, Refused> {
    let (id, account) = (needed_id(params, "id")?, needed_id(params, "accountId")?);
    let kind = needed(params, "type")?;
    if !TYPES.contains(&kind) {
        return Err(Refused::params(format!("type: expected one of {}", TYPES.join(", "))));
    }
    if id == "local" || id == account || desk.knows(id) {
        return Err(Refused::params("id: expected an id that is no agent's"));
    }
    let settings = settings(params)?;
    if !is_provider(settings.get("baseUrl").and_then(Value::as_str)) {
        return Err(Refused::params("settings.baseUrl: expected the public address of the service"));
    }
    if !desk.knows(account) {
        return Err(Refused::new("unknown_account", format!("there is no agent {account:?} here")));
    }
    let had_list = has_list(desk)?;
    let existing = profile(desk, id)?;
    let merged = merged(existing.as_ref(), params, (id, kind, account), settings)?;
    let read = GatewayProfile::read(&merged).ok_or_else(|| Refused::params("id, type, accountId: expected texts"))?;
    let same_kind = existing.as_ref().is_some_and(|p| p["type"] == kind);
    let secret = wanted_secret(desk, logins, params, &read, existing.as_ref().filter(|_| same_kind))?;

    let path = read.secret_path(desk.home());
    let failed = |why: String| Refused::failed(why);
    let before = Before::of(&path).map_err(|e| failed(format!("{} cannot be read: {e}", path.display())))?;
    let key = if kind == "feishu" { "appSecret" } else { "botToken" };
    if secret.is_new
        && let Err(why) = secret::write(&path, desk.home(), key, &secret.text)
    {
        before.restore();
        return Err(failed(why));
    }
    let mut merged = merged;
    for (key, value) in &secret.more {
        merged[key.as_str()] = value.clone();
    }
    let written = edit::edit(desk.home(), |config| put_profile(config, id, Some(merged.clone())));
    if let Err(e) = written {
        before.restore();
        return Err(failed(e.to_string()));
    }
    let connected = if read.enabled { desk.add(&read) } else { desk.remove(id) };
    if let Err(why) = connected {
        before.restore();
        let was_there = existing.is_some();
        if let Err(e) = edit::edit(desk.home(), |config| undo(config, id, existing, had_list)) {
            log::error!("gateway.rollback_failed gateway={id} error={:?}", e.to_string());
        }
        // What ran before runs again.
        let old = profile(desk, id).ok().flatten().as_ref().and_then(GatewayProfile::read);
        let back = match old.filter(|p| p.enabled && was_there) {
            Some(old) => desk.add(&old),
            None => desk.remove(id),
        };
        if let Err(e) = back {
            log::error!("gateway.rollback_failed gateway={id} error={e:?}");
        }
        return Err(Refused::new("addChannel_failed", why));
    }
    if let Some(login) = params.get("loginId").and_then(Value::as_str) {
        logins.forget(login);
    }
    log::info!("gateway.written gateway={id} agent={account} enabled={}", read.enabled);
    let mut done = json!({"id": id, "type": kind, "accountId": account, "enabled": read.enabled,
        "tokenPreview": shown(&secret.text)});
    for key in ["appId", "domain", "userOpenId"] {
        if let Some(value) = merged.get(key).filter(|v| kind == "feishu" && !v.is_null()) {
            done[key] = value.clone();
        }
    }
    if let Some(status) = desk.status(id).filter(|_| read.enabled) {
        done["status"] = status_of(&status);
    }
    Ok(done)
}

/// Whether the configuration has a list of gateways at all.
fn has_list(desk: &dyn Desk) -> Result<bool, Refused> {
    let config = desk.config().map_err(|e| Refused::failed(e.to_string()))?;
    Ok(config.document.contains_key(LIST))
}

/// Puts back the profile that was there; a list that was not there goes.
fn undo(config: &mut Map<String, Value>, id: &str, existing: Option<Value>, had_list: bool) {
    put_profile(config, id, existing);
    if !had_list && config.get(LIST).and_then(Value::as_array).is_some_and(Vec::is_empty) {
        config.shift_remove(LIST);
    }
}

/// The settings that are given, each of its type.
fn settings(params: &Value) -> Result<Map<String, Value>, Refused> {
    let wrong = |key: &str, what: &str| Err(Refused::params(format!("settings.{key}: expected {what}")));
    let mut out = Map::new();
    let given = match params.get("settings") {
        None | Some(Value::Null) => return Ok(out),
        Some(Value::Object(given)) => given,
        Some(_) => return Err(Refused::params("settings: expected an object")),
    };
    for (key, value) in given.iter().filter(|(_, v)| !v.is_null()) {
        match key.as_str() {
            "baseUrl" | "domain" => match value.as_str() {
                Some("") => continue,
                Some(text) if text.len() <= TEXT => {}
                _ => return wrong(key, "a text"),
            },
            "allowedSenderIds" | "allowedChatIds" => {
                let fits = |id: &Value| id.as_str().is_some_and(|id| id.len() <= 256) || id.is_i64();
                if !value.as_array().is_some_and(|ids| ids.len() <= IDS && ids.iter().all(fits)) {
                    return wrong(key, "a list of ids");
                }
            }
            "splitAt" => {
                if value.as_u64().is_none_or(|n| n > 1_000_000) {
                    return wrong(key, "a number");
                }
            }
            _ => continue,
        }
        out.insert(key.clone(), value.clone());
    }
    Ok(out)
}

/// The profile as it will be: what is given, and whatever else was there.
fn merged(
    existing: Option<&Value>,
    params: &Value,
    (id, kind, account): (&str, &str, &str),
    settings: Map<String, Value>,
) -> Result<Value, Refused> {
    let mut profile = existing.and_then(Value::as_object).cloned().unwrap_or_default();
    for (key, value) in [("id", id), ("type", kind), ("accountId", account)] {
        profile.insert(key.into(), value.into());
    }
    match params.get("label") {
        None | Some(Value::Null) => {}
        Some(Value::String(label)) if label.len() <= TEXT => drop(profile.insert("label".into(), label.clone().into())),
        Some(_) => return Err(Refused::params("label: expected a text")),
    }
    match params.get("enabled") {
        Some(Value::Bool(on)) => drop(profile.insert("enabled".into(), (*on).into())),
        None | Some(Value::Null) => {
            let on = profile.get("enabled") != Some(&Value::Bool(false));
            profile.insert("enabled".into(), on.into());
        }
        Some(_) => return Err(Refused::params("enabled: expected true or false")),
    }
    profile.extend(settings);
    Ok(profile.into())
}

/// The secret of a gateway.
struct Secret {
    text: String,
    /// Whether it is to be written.
    is_new: bool,
    /// What else a login has brought for the profile.
    more: Vec<(String, Value)>,
}

fn wanted_secret(
    desk: &dyn Desk,
    logins: &Logins,
    params: &Value,
    profile: &GatewayProfile,
    existing: Option<&Value>,
) -> Result<Secret, Refused> {
    let stored = || secret::read(profile, desk.home()).ok();
    let kept = |text| Secret { text, is_new: false, more: Vec::new() };
    if profile.kind == TELEGRAM {
        let given = match params.get("secret") {
            None | Some(Value::Null) => None,
            Some(Value::Object(secret)) => secret.get("botToken").filter(|t| !t.is_null()),
            Some(_) => return Err(Refused::params("secret: expected an object")),
        };
        return match given.map(|t| t.as_str().map(str::trim)) {
            Some(Some(text)) if !text.is_empty() && text.len() <= TEXT => {
                Ok(Secret { text: text.to_owned(), is_new: true, more: Vec::new() })
            }
            Some(Some("")) => stored().map(kept).ok_or_else(|| Refused::params("secret.botToken: is missing")),
            Some(_) => Err(Refused::params("secret.botToken: expected a text")),
            None => stored().map(kept).ok_or_else(|| Refused::params("secret.botToken: is missing")),
        };
    }
    if let Some(login) = params.get("loginId").and_then(Value::as_str).filter(|l| !l.is_empty()) {
        let confirmed = logins.confirmed(login, &profile.kind, &profile.account)?;
        return Ok(Secret { text: confirmed.secret, is_new: true, more: confirmed.profile });
    }
    // Only a Feishu gateway that is there already goes without a login.
    let domain = params.pointer("/settings/domain").filter(|d| !d.is_null());
    let updates = existing.filter(|p| {
        profile.kind == "feishu"
            && p["accountId"] == profile.account.as_str()
            && p["appId"].as_str().is_some_and(|a| !a.is_empty())
            && domain.is_none_or(|d| *d == *p.get("domain").unwrap_or(&Value::from("feishu")))
    });
    updates.and_then(|_| stored()).map(kept).ok_or_else(|| Refused::params("loginId: is missing"))
}
