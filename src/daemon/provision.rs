//! Agents that the hub puts here or takes away.
//!
//! What is wanted is written down first (credentials, workspace, configuration), then the daemon follows what is
//! written. So a daemon that dies in between finishes at its next start or when the hub repeats itself, and doing it
//! twice is the same as doing it once. What a frame has written is put back as it was when the daemon cannot follow.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::duties::{agent_id, is_safe};
use super::reload::Live;
use crate::channel::botcord::credentials;
use crate::config::{edit, load};
use crate::engine::gate::Policy;
use crate::engine::{Acceptance, Engine};
use crate::link::botcord_control::frame::Refused;
use crate::link::botcord_control::identity;
use crate::link::botcord_control::session::now_iso;
use crate::message::Inbound;
use crate::store::{self, RealDisk};
use crate::time::now_ms;

/// Longest credentials that are put back, in bytes.
const LIMIT: u64 = 256 << 10;

/// Takes a message in, durably.
pub(super) fn accept(engine: &Engine, message: Inbound) -> Result<(), Refused> {
    match engine.accept(vec![message]).pop() {
        Some(Acceptance::Refused(why)) => Err(Refused::new("busy", why)),
        Some(Acceptance::Skipped(why)) => Err(Refused::failed(why)),
        Some(_) => Ok(()),
        None => Err(Refused::failed("the message was not taken")),
    }
}

/// `provision_agent`: an agent that the hub has made, with its key.
pub(super) fn provision(live: &Live, params: &Value) -> Result<Value, Refused> {
    let Some(given) = params.get("credentials").and_then(Value::as_object) else {
        return Err(Refused::failed("credentials: this daemon does not register agents by itself"));
    };
    let document = document(params, given);
    // The same reader as for the file: what it refuses would not load.
    let agent = document.get("agentId").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !agent.is_empty() && !is_safe(&agent) {
        return Err(Refused::failed("credentials.agentId: expected letters, digits, _ and -"));
    }
    let checked = credentials::parse(&Value::Object(document.clone()).to_string())
        .map_err(|problem| Refused::failed(format!("credentials: {problem}")))?;
    let home = &live.home;
    let config = load::load(&home.config()).map_err(|e| Refused::failed(e.to_string()))?;
    if let Some(runtime) = &checked.runtime
        && !config.runtime_ids().iter().any(|known| known == runtime)
    {
        return Err(Refused::failed(format!("runtime: {:?} is not known here", crate::text::clip(runtime, 64))));
    }
    if let Some(cwd) = &checked.cwd {
        check_directory(cwd).map_err(Refused::failed)?;
    }
    let path = home.credentials(&agent);
    let before = Before::of(&path);
    let named = config.agents.clone();
    let done = write(live, &path, &document, &checked, &agent).and_then(|()| {
        live.reload()?;
        match live.hubs.problem(&agent) {
            None if live.hubs.ids().contains(&agent) => Ok(()),
            None => Err("the agent is not among those of the configuration".into()),
            Some(why) => Err(why),
        }
    });
    if let Err(why) = done {
        before.restore(&path);
        let restored = edit::edit(home, |config| put_agents(config, &named));
        if let Err(e) = restored {
            log::error!("control.rollback_failed agent={agent} error={:?}", e.to_string());
        }
        let _ = live.reload();
        return Err(Refused::failed(why));
    }
    if let Some(mode) = params.get("defaultAttention").and_then(Value::as_str) {
        let keywords = params.get("attentionKeywords").filter(|list| list.is_array()).cloned().unwrap_or(json!([]));
        let policy = Policy::from_wire(&json!({"mode": mode, "keywords": keywords}));
        live.engine.set_policy(&agent, None, Some(policy));
    }
    log::info!("control.provisioned agent={agent}");
    Ok(json!({"agentId": agent, "hubUrl": checked.hub_url, "credentialsFile": path.display().to_string()}))
}

/// The file of the agent, from what the frame says in several places.
fn document(params: &Value, given: &Map<String, Value>) -> Map<String, Value> {
    let text = |value: Option<&Value>| {
        value.and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty()).map(Value::from)
    };
    let first =
        |keys: &[&str], own: &str| keys.iter().find_map(|key| text(params.get(*key))).or_else(|| text(given.get(own)));
    let thinking = [params.get("thinking"), given.get("thinking")].into_iter().flatten().find(|v| v.is_boolean());
    let mut out = Map::new();
    out.insert("version".into(), 1.into());
    for key in ["hubUrl", "agentId", "keyId", "privateKey", "publicKey"] {
        if let Some(value) = given.get(key) {
            out.insert(key.into(), value.clone());
        }
    }
    out.insert("savedAt".into(), now_iso().into());
    let openclaw = params.get("openclaw").filter(|choice| text(choice.get("gateway")).is_some());
    let gateway = match openclaw {
        Some(choice) => (text(choice.get("gateway")), text(choice.get("agent"))),
        None => (text(given.get("openclawGateway")), text(given.get("openclawAgent"))),
    };
    let hermes = text(params.get("hermes").and_then(|choice| choice.get("profile")));
    for (key, value) in [
        ("displayName", text(given.get("displayName")).or_else(|| text(params.get("name")))),
        ("token", text(given.get("token"))),
        ("tokenExpiresAt", given.get("tokenExpiresAt").and_then(Value::as_f64).map(seconds)),
        ("runtime", first(&["runtime", "adapter"], "runtime")),
        ("runtimeModel", first(&["runtimeModel"], "runtimeModel")),
        ("reasoningEffort", first(&["reasoningEffort"], "reasoningEffort")),
        ("thinking", thinking.cloned()),
        ("cwd", text(given.get("cwd")).or_else(|| text(params.get("cwd")))),
        ("openclawGateway", gateway.0),
        ("openclawAgent", gateway.1),
        ("hermesProfile", hermes.or_else(|| text(given.get("hermesProfile")))),
    ] {
        if let Some(value) = value {
            out.insert(key.into(), value);
        }
    }
    out
}

/// A time of either unit, as the file has it.
fn seconds(time: f64) -> Value {
    (credentials::token_expiry(time) as i64).into()
}

fn write(
    live: &Live,
    path: &Path,
    document: &Map<String, Value>,
    checked: &credentials::Credentials,
    agent: &str,
) -> Result<(), String> {
    let home = &live.home;
    super::agents::prepare_directory(agent, &home.credentials_dir(), true);
    store::write_json(&RealDisk, path, &Value::Object(document.clone())).map_err(|e| e.to_string())?;
    let workspace = home.workspace(agent);
    super::agents::prepare_directory(agent, &workspace, true);
    let identity_file = workspace.join("identity.md");
    if !identity_file.exists() {
        let (name, runtime) = (checked.display_name.as_deref(), checked.runtime.as_deref());
        let text = identity::fresh(agent, name, runtime, &checked.key_id, &now_iso(), None);
        store::write(&RealDisk, &identity_file, text.as_bytes()).map_err(|e| e.to_string())?;
    }
    // Naming the first agent ends the search for files of credentials: whoever was found that way is named as well.
    let loaded = live.hubs.ids();
    edit::edit(home, |config| {
        let mut agents = named_agents(config);
        if agents.iter().any(|known| known == agent) {
            return;
        }
        for id in loaded.iter().filter(|id| id.starts_with("ag_")) {
            if !agents.contains(id) {
                agents.push(id.clone());
            }
        }
        if !agents.iter().any(|known| known == agent) {
            agents.push(agent.to_owned());
        }
        put_agents(config, &agents);
    })
    .map_err(|e| e.to_string())
}

/// The agents that a configuration names, the old key included.
fn named_agents(config: &Map<String, Value>) -> Vec<String> {
    let list = config.get("agents").and_then(Value::as_array).into_iter().flatten();
    let mut agents: Vec<String> = list.filter_map(Value::as_str).map(ToOwned::to_owned).collect();
    if let Some(old) = config.get("agentId").and_then(Value::as_str)
        && !agents.iter().any(|known| known == old)
    {
        agents.push(old.to_owned());
    }
    agents
}

fn put_agents(config: &mut Map<String, Value>, agents: &[String]) {
    config.shift_remove("agentId");
    if agents.is_empty() {
        config.shift_remove("agents");
    } else {
        config.insert("agents".into(), agents.into());
    }
}

/// A working directory has to be the person's home or below it, links followed as far as there is something.
fn check_directory(cwd: &str) -> Result<(), String> {
    let home = std::env::var_os("HOME").map(PathBuf::from).ok_or("cwd: HOME is not set")?;
    let path = crate::config::paths::expand_tilde(cwd);
    if !path.is_absolute() {
        return Err("cwd: expected an absolute path".into());
    }
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(plain.pop()),
            std::path::Component::CurDir => {}
            other => plain.push(other),
        }
    }
    let real = plain
        .ancestors()
        .find_map(|there| Some(fs::canonicalize(there).ok()?.join(plain.strip_prefix(there).ok()?)))
        .unwrap_or_else(|| plain.clone());
    let real_home = fs::canonicalize(&home).unwrap_or_else(|_| home.clone());
    if plain.starts_with(&home) && real.starts_with(&real_home) {
        return Ok(());
    }
    Err("cwd: expected a directory in the home of this user".into())
}

/// A file as it was.
enum Before {
    Absent,
    Text(Vec<u8>),
    /// It is not known, so it is left as it is.
    Unknown,
}

impl Before {
    fn of(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(meta) if meta.len() <= LIMIT => fs::read(path).map_or(Self::Unknown, Self::Text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::Absent,
            _ => Self::Unknown,
        }
    }

    fn restore(self, path: &Path) {
        let done = match self {
            Self::Absent => fs::remove_file(path).map_err(|e| e.to_string()),
            Self::Text(text) => store::write(&RealDisk, path, &text).map_err(|e| e.to_string()),
            Self::Unknown => Ok(()),
        };
        if let Err(e) = done {
            log::error!("control.rollback_failed path={} error={e:?}", path.display());
        }
    }
}

/// `revoke_agent`: the agent does not work here any more.
pub(super) fn revoke(live: &Live, params: &Value) -> Result<Value, Refused> {
    let agent = agent_id(params, "agentId")?;
    let flag = |key: &str, default: bool| params.get(key).and_then(Value::as_bool).unwrap_or(default);
    let delete_credentials = flag("deleteCredentials", true);
    let delete_state = flag("deleteState", delete_credentials);
    let delete_workspace = flag("deleteWorkspace", false);
    let home = &live.home;
    let tried = |what: &str, done: Result<(), String>| match done {
        Ok(()) => true,
        Err(e) => {
            log::warn!("control.revoke_step_failed agent={agent} step={what} error={e:?}");
            false
        }
    };
    let named = load::load(&home.config()).is_ok_and(|config| config.agents.contains(&agent));
    let removed = named && {
        let edited = edit::edit(home, |config| {
            let agents: Vec<String> = named_agents(config).into_iter().filter(|id| *id != agent).collect();
            put_agents(config, &agents);
        });
        tried("config", edited.map_err(|e| e.to_string()))
    };
    let path = home.credentials(&agent);
    let there = path.exists();
    let aside = there && {
        let moved = if delete_credentials { fs::remove_file(&path).map_err(|e| e.to_string()) } else { keep(&path) };
        tried("credentials", moved)
    };
    if let Err(e) = live.reload() {
        log::warn!("control.revoke_step_failed agent={agent} step=reload error={e:?}");
    }
    let dir =
        if delete_workspace { Some(home.agent_dir(&agent)) } else { delete_state.then(|| home.agent_state(&agent)) };
    let deleted = dir
        .filter(|dir| dir.exists())
        .is_some_and(|dir| tried("files", fs::remove_dir_all(dir).map_err(|e| e.to_string())));
    live.engine.set_policy(&agent, None, None);
    log::info!("control.revoked_agent agent={agent} removed={removed} at={}", now_ms());
    Ok(json!({
        "agentId": agent,
        "removed": removed,
        "credentialsDeleted": aside && delete_credentials,
        "stateDeleted": deleted,
        "workspaceDeleted": deleted && delete_workspace,
    }))
}

/// Puts credentials that are kept where nothing loads them.
fn keep(path: &Path) -> Result<(), String> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Err("no such place".into()) };
    let dir = dir.join("revoked");
    super::agents::prepare_directory("revoked", &dir, true);
    fs::rename(path, dir.join(name)).map_err(|e| e.to_string())
}
