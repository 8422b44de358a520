//! Agents that the hub puts here.
//!
//! What is wanted is written down (credentials, workspace, configuration), then the daemon follows what is written.
//! Doing it twice is the same as doing it once. What a frame has written is put back as it was when the daemon cannot
//! follow, or dies before it has: [`super::provision_journal`].

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::duties::is_safe;
use super::provision_journal::Before;
use super::reload::{Live, Register};
use super::seeds::Seed;
use super::{bindings, hubs, provision_journal, seeds};
use crate::channel::botcord::credentials::{self, Credentials, CredentialsFile};
use crate::channel::botcord::registry;
use crate::config::cloud::Cloud;
use crate::config::{Config, agents, edit};
use crate::engine::cancel::CancelToken;
use crate::engine::gate::Policy;
use crate::engine::{Acceptance, Engine};
use crate::link::botcord_control::frame::Refused;
use crate::link::botcord_control::session::now_iso;
use crate::message::Inbound;
use crate::net::http::Http;
use crate::runtime::hermes::profiles;
use crate::store;
use crate::time::now_ms;

/// Longest credentials that are put back, in bytes.
const LIMIT: u64 = 256 << 10;
/// How long a change of credentials waits for one that is under way.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
/// Runtime that needs a gateway.
const OPENCLAW: &str = "openclaw-acp";
/// Runtime that has profiles.
const HERMES: &str = "hermes-agent";
/// Members of credentials, in both spellings, that a frame replaces. All others survive it.
const MEMBERS: [&str; 35] = [
    "version",
    "hubUrl",
    "hub_url",
    "hub",
    "agentId",
    "agent_id",
    "keyId",
    "key_id",
    "privateKey",
    "private_key",
    "publicKey",
    "public_key",
    "savedAt",
    "saved_at",
    "displayName",
    "display_name",
    "token",
    "tokenExpiresAt",
    "token_expires_at",
    "runtime",
    "runtimeModel",
    "runtime_model",
    "reasoningEffort",
    "reasoning_effort",
    "thinking",
    "thinking_enabled",
    "cwd",
    "openclawGateway",
    "openclaw_gateway",
    "openclawAgent",
    "openclaw_agent",
    "hermesProfile",
    "hermes_profile",
    "onboardedAt",
    "onboarded_at",
];

/// Takes a message in, durably.
pub(super) fn accept(engine: &Engine, message: Inbound) -> Result<(), Refused> {
    match engine.accept(vec![message]).pop() {
        Some(Acceptance::Refused(why)) => Err(Refused::new("busy", why)),
        Some(Acceptance::Skipped(why)) => Err(Refused::failed(why)),
        Some(_) => Ok(()),
        None => Err(Refused::failed("the message was not taken")),
    }
}

/// Registers agents over HTTP.
pub(super) fn registrar() -> Box<Register> {
    Box::new(|hub, name, bio| {
        let never = CancelToken::new().map_err(|e| e.to_string())?;
        let registered = registry::register(&Http::new(), hub, name, bio, never.as_fd()).map_err(|e| e.to_string())?;
        Ok(registered.credentials)
    })
}

pub(super) fn one_at_a_time(live: &Live) -> MutexGuard<'_, ()> {
    live.provisioning.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A text with more than white space, without the white space around it.
fn text(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// What a frame says in several places about how an agent is run.
struct Wanted {
    name: Option<String>,
    bio: Option<String>,
    runtime: Option<String>,
    model: Option<String>,
    effort: Option<String>,
    thinking: Option<bool>,
    cwd: Option<String>,
    gateway: Option<String>,
    gateway_agent: Option<String>,
    profile: Option<String>,
}

impl Wanted {
    fn read(params: &Value) -> Self {
        let empty = Value::Null;
        let given = params.get("credentials").unwrap_or(&empty);
        let first = |keys: &[&str], own: &str| {
            keys.iter().find_map(|key| text(params.get(*key))).or_else(|| text(given.get(own)))
        };
        let openclaw = params.get("openclaw").filter(|choice| text(choice.get("gateway")).is_some());
        let (gateway, gateway_agent) = match openclaw {
            Some(choice) => (text(choice.get("gateway")), text(choice.get("agent"))),
            None => (text(given.get("openclawGateway")), text(given.get("openclawAgent"))),
        };
        let hermes = text(params.get("hermes").and_then(|choice| choice.get("profile")));
        Self {
            name: text(given.get("displayName")).or_else(|| text(params.get("name"))),
            bio: text(params.get("bio")),
            runtime: first(&["runtime", "adapter"], "runtime"),
            model: first(&["runtimeModel"], "runtimeModel"),
            effort: first(&["reasoningEffort"], "reasoningEffort"),
            thinking: [params, given].into_iter().find_map(|of| of.get("thinking")?.as_bool()),
            cwd: text(given.get("cwd")).or_else(|| text(params.get("cwd"))),
            gateway,
            gateway_agent,
            profile: hermes.or_else(|| text(given.get("hermesProfile"))),
        }
    }
}

/// `provision_agent`: an agent that the hub has made, with its key; or one that is to be made.
pub(super) fn provision(live: &Live, params: &Value) -> Result<Value, Refused> {
    let mut wanted = Wanted::read(params);
    if let Some(cwd) = &wanted.cwd {
        check_directory(cwd, &live.user_home).map_err(Refused::failed)?;
    }
    let _one = one_at_a_time(live);
    let config = live.read().map_err(|e| Refused::failed(e.to_string()))?;
    let given = params.get("credentials").filter(|given| !given.is_null());
    if given.is_some_and(|given| !given.is_object()) {
        return Err(Refused::params("credentials: expected an object"));
    }
    if wanted.runtime.as_deref() == Some(OPENCLAW)
        && let Some(gateway) = &wanted.gateway
    {
        wanted.gateway_agent = bindings::openclaw_agent(live, &config, gateway, wanted.gateway_agent.as_deref());
        let agent = wanted.gateway_agent.as_deref();
        if let Some(known) = agent.and_then(|agent| bindings::of_openclaw(live, &config, gateway, agent)) {
            return bind(live, &known);
        }
    }
    if wanted.runtime.as_deref() == Some(HERMES)
        && let Some(profile) = &wanted.profile
    {
        let agent = given.and_then(|given| given.get("agentId")).and_then(Value::as_str);
        bindings::check_hermes(live, &config, profile, agent)?;
    }
    if let Some(runtime) = &wanted.runtime
        && !config.has_runtime(runtime)
    {
        return Err(Refused::failed(format!("runtime: {:?} is not known here", crate::text::clip(runtime, 64))));
    }
    let document = match given.and_then(Value::as_object) {
        Some(given) => document(live, given, &wanted),
        None => document(live, &register(live, &config, &mut wanted)?, &wanted),
    };
    // The same reader as for the file: what it refuses would not load.
    let agent = document.get("agentId").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !agent.is_empty() && !is_safe(&agent) {
        return Err(Refused::failed("credentials.agentId: expected letters, digits, _ and -"));
    }
    let checked = credentials::parse(&Value::Object(document.clone()).to_string())
        .map_err(|problem| Refused::failed(format!("credentials: {problem}")))?;
    install(live, &config, &document, &checked, &wanted).map_err(Refused::failed)?;
    if let Some(mode) = params.get("defaultAttention").and_then(Value::as_str) {
        let keywords = params.get("attentionKeywords").filter(|list| list.is_array()).cloned().unwrap_or(json!([]));
        live.set_policy(&agent, None, Some(Policy::from_wire(&json!({"mode": mode, "keywords": keywords}))));
    }
    log::info!("control.provisioned agent={agent}");
    Ok(provisioned(live, &checked))
}

fn provisioned(live: &Live, credentials: &Credentials) -> Value {
    let path = live.home.credentials(&credentials.agent_id);
    json!({"agentId": credentials.agent_id, "hubUrl": credentials.hub_url, "credentialsFile": path.display().to_string()})
}

/// Takes an agent that is on disk already into work.
fn bind(live: &Live, known: &Credentials) -> Result<Value, Refused> {
    let loaded = live.hubs.ids();
    let named = edit::edit_on(&*live.disk, &live.home, |document| {
        agents::add(document, &known.agent_id, &loaded);
    });
    named.map_err(|e| Refused::failed(e.to_string()))?;
    live.reload().map_err(Refused::failed)?;
    log::info!("control.bound agent={}", known.agent_id);
    Ok(provisioned(live, known))
}

/// Makes a new agent known to the hub of the agents that are here.
fn register(live: &Live, config: &Config, wanted: &mut Wanted) -> Result<Map<String, Value>, Refused> {
    let (found, _) = hubs::find(&live.home, config);
    let hub = found.into_iter().find_map(|found| Some(found.credentials.ok()?.hub_url)).or_else(sandbox_hub);
    let hub = hub.ok_or_else(|| Refused::failed("credentials: missing, and no agent here tells the hub to ask"))?;
    let name = wanted.name.get_or_insert_with(|| format!("agent-{}", now_ms())).clone();
    let made = (live.register)(&hub, &name, wanted.bio.as_deref().unwrap_or_default());
    let made = made.map_err(|why| Refused::failed(format!("the hub did not register the agent: {why}")))?;
    let mut given = Map::new();
    for (key, value) in [
        ("hubUrl", made.hub_url),
        ("agentId", made.agent_id),
        ("keyId", made.key_id),
        ("privateKey", made.private_key),
        ("publicKey", made.key.public_text()),
    ] {
        given.insert(key.into(), value.into());
    }
    if let (Some(token), end) = (made.token, made.token_expires_at) {
        given.insert("token".into(), token.into());
        given.extend(end.map(|end| ("tokenExpiresAt".to_owned(), (end as i64).into())));
    }
    Ok(given)
}

/// A sandbox knows one hub.
fn sandbox_hub() -> Option<String> {
    Some(Cloud::of_process().ok()??.hub())
}

/// The file of the agent. What it has beyond what is known here stays in it.
fn document(live: &Live, given: &Map<String, Value>, wanted: &Wanted) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("version".into(), 1.into());
    for key in ["hubUrl", "agentId", "keyId", "privateKey", "publicKey"] {
        if let Some(value) = given.get(key) {
            out.insert(key.into(), value.clone());
        }
    }
    if !out.contains_key("hubUrl") {
        out.extend(sandbox_hub().map(|hub| ("hubUrl".to_owned(), hub.into())));
    }
    out.insert("savedAt".into(), now_iso().into());
    let agent = given.get("agentId").and_then(Value::as_str).filter(|id| is_safe(id));
    let workspace = || agent.map(|agent| live.home.workspace(agent).display().to_string());
    let of = |text: &Option<String>| text.clone().map(Value::from);
    for (key, value) in [
        ("displayName", of(&wanted.name)),
        ("token", text(given.get("token")).map(Value::from)),
        ("tokenExpiresAt", given.get("tokenExpiresAt").and_then(Value::as_f64).map(seconds)),
        ("runtime", of(&wanted.runtime)),
        ("runtimeModel", of(&wanted.model)),
        ("reasoningEffort", of(&wanted.effort)),
        ("thinking", wanted.thinking.map(Value::from)),
        ("cwd", wanted.cwd.clone().or_else(workspace).map(Value::from)),
        ("openclawGateway", of(&wanted.gateway)),
        ("openclawAgent", of(&wanted.gateway_agent)),
        ("hermesProfile", of(&wanted.profile)),
    ] {
        if let Some(value) = value {
            out.insert(key.into(), value);
        }
    }
    let before = agent.and_then(|agent| read(&live.home.credentials(agent)).ok().flatten());
    let before = before.and_then(|text| crate::json::parse(text.as_bytes()).ok());
    for (key, value) in before.as_ref().and_then(Value::as_object).into_iter().flatten() {
        if !MEMBERS.contains(&key.as_str()) {
            out.insert(key.clone(), value.clone());
        }
    }
    out
}

/// A time of either unit, as the file has it.
fn seconds(time: f64) -> Value {
    (credentials::token_expiry(time) as i64).into()
}

/// The text of a file, `None` where there is none.
fn read(path: &Path) -> Result<Option<String>, String> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > LIMIT => Err(format!("{}: longer than {LIMIT} bytes", path.display())),
        Ok(_) => fs::read_to_string(path).map(Some).map_err(|e| format!("{}: {e}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

/// Writes everything and follows it; on a failure everything is as it was before.
fn install(
    live: &Live,
    config: &Config,
    document: &Map<String, Value>,
    checked: &Credentials,
    wanted: &Wanted,
) -> Result<(), String> {
    let (home, agent) = (&live.home, checked.agent_id.as_str());
    provision_journal::settle(home, &live.disk).map_err(|why| format!("what an earlier frame has left: {why}"))?;
    let text = read(&home.credentials(agent))?;
    let before = Before {
        agent: agent.to_owned(),
        named: Before::of(&config.document),
        configured: config.file.is_some(),
        credentials: text,
    };
    if let Err(e) = before.begin(home, &*live.disk) {
        // Half written it would undo at the next start what others do until then.
        let _ = provision_journal::end(home, &*live.disk);
        return Err(e);
    }
    let done = write(live, config, document, checked, wanted).and_then(|()| {
        let identity = |text: &str| {
            let c = credentials::parse(text).ok()?;
            Some((c.hub_url, c.key_id, c.private_key, c.token))
        };
        let now = Some(Value::Object(document.clone()).to_string());
        if before.credentials.as_deref().and_then(identity) != now.as_deref().and_then(identity) {
            live.hubs.reconnect(agent);
        }
        live.reload()?;
        match live.hubs.problem(agent) {
            None if live.hubs.ids().iter().any(|id| id == agent) => provision_journal::end(home, &*live.disk),
            None => Err("the agent is not among those of the configuration".into()),
            Some(why) => Err(why),
        }
    });
    let Err(why) = done else { return Ok(()) };
    // What has failed once may be well the next time; whatever is left, the next frame or start puts back.
    match before.undo(home, &live.disk).or_else(|_| before.undo(home, &live.disk)) {
        Ok(()) => {
            live.hubs.reconnect(agent);
            let _ = live.reload();
        }
        Err(e) => log::error!("control.rollback_failed agent={agent} error={e:?}"),
    }
    Err(why)
}

fn write(
    live: &Live,
    config: &Config,
    document: &Map<String, Value>,
    checked: &Credentials,
    wanted: &Wanted,
) -> Result<(), String> {
    let (home, disk, agent) = (&live.home, &*live.disk, checked.agent_id.as_str());
    disk.create_dir(&home.credentials_dir()).map_err(|e| e.to_string())?;
    let path = home.credentials(agent);
    {
        // Whoever renews a token at this moment must not bring the old file back.
        let file = CredentialsFile::new(&path, checked, live.disk.clone());
        let _lock = file.lock(LOCK_LIMIT, &|| false).map_err(|e| e.to_string())?;
        store::write_json(disk, &path, &Value::Object(document.clone())).map_err(|e| e.to_string())?;
    }
    let default = config.default_route.as_ref().map_or("", |route| &route.runtime);
    let runtime = wanted.runtime.as_deref().unwrap_or(default);
    let seed = Seed {
        agent,
        display_name: checked.display_name.as_deref(),
        bio: wanted.bio.as_deref(),
        runtime,
        key_id: &checked.key_id,
    };
    seeds::plant(home, &seed, disk)?;
    if let Some(profile) = wanted.profile.as_deref().filter(|_| runtime == HERMES)
        && let Some(dir) = profiles::home(&live.user_home, profile)
    {
        seeds::skills(&dir.join("skills"), disk)?;
    }
    let loaded = live.hubs.ids();
    let named = edit::edit_on(disk, home, |document| {
        agents::add(document, agent, &loaded);
    });
    named.map_err(|e| e.to_string())
}

/// A working directory has to be the person's home or below it, links followed as far as there is something.
pub(super) fn check_directory(cwd: &str, home: &Path) -> Result<(), String> {
    if home.as_os_str().is_empty() {
        return Err("cwd: HOME is not set".into());
    }
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
    let real_home = fs::canonicalize(home).unwrap_or_else(|_| home.to_owned());
    if plain.starts_with(home) && real.starts_with(&real_home) {
        return Ok(());
    }
    Err("cwd: expected a directory in the home of this user".into())
}
