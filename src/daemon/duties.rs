//! What the hub's frames ask of the daemon.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bound::Bound;
use super::reload::Live;
use super::wakes::Wakes;
use super::{agent_files, agent_skills, bindings, diagnostics, hubs, openclaw};
use super::{provision, restart, revoke, runtimes, session_profile, set_route};
use crate::channel::botcord::credentials::{Credentials, file};
use crate::config::{Config, cloud};
use crate::crypto;
use crate::engine::gate::Policy;
use crate::engine::route::Route;
use crate::link::botcord_control::frame::{Frame, Handled, Refused, event};
use crate::link::botcord_control::handle::Link;
use crate::link::botcord_control::identity::{self, Patch, Patched};
use crate::link::botcord_control::lanes::Duties;
use crate::link::botcord_control::{ingress, wake};
use crate::store::{self, RealDisk};
use crate::thread;
use crate::time::now_ms;

/// How long the look at the runtimes may take; the hub waits ten seconds for it.
const PROBES: Duration = Duration::from_secs(8);
/// Agents of a `hello` that are remembered.
const EXPECTED: usize = 256;
/// Longest `identity.md` that is changed, in bytes.
const IDENTITY_LIMIT: u64 = 1 << 20;

/// Carries frames out.
pub(super) struct HubDuties {
    pub(super) live: Arc<Live>,
    wakes: Wakes,
    /// What the hub was told of the skills of each agent.
    skills: Mutex<HashMap<String, SkillsTold>>,
    /// Whom the hub takes to be here, as its last `hello` said.
    expected: Mutex<Vec<String>>,
}

/// An event about an agent's skills.
struct SkillsTold {
    event: String,
    /// Of what was told.
    digest: String,
    /// The hub has it.
    kept: bool,
}

impl Duties for HubDuties {
    fn carry_out(&self, frame: &Frame) -> Handled {
        if !frame.params.is_object() {
            return Err(Refused::params("params: expected an object"));
        }
        let params = &frame.params;
        match frame.kind.as_str() {
            "ping" => Ok(Some(json!({"pong": true, "ts": now_ms()}))),
            "hello" => Ok(Some(self.hello(params))),
            "update_agent" => self.update_agent(&self.known(), params).map(Some),
            "provision_agent" => {
                let done = provision::provision(&self.live, params)?;
                self.installed(&done);
                Ok(Some(done))
            }
            "revoke_agent" => revoke::revoke(&self.live, params).map(Some),
            "list_agents" => Ok(Some(self.list_agents())),
            "list_runtimes" => Ok(Some(self.runtimes())),
            "policy_updated" => self.policy_updated(params).map(Some),
            "wake_agent" => self.wake(params).map(Some),
            "cloud_gateway_runtime_inbound" => self.ingress(params),
            "set_route" => set_route::set_route(&self.live, params).map(Some),
            "list_agent_files" => self.list_files(params).map(Some),
            "list_agent_skills" => self.list_skills(params).map(Some),
            "install_agent_skill" => self.install_skill(params).map(Some),
            "apply_session_profile" => self.apply_profile(params).map(Some),
            "get_session_profile" => {
                let agent = agent_id(params, "agentId")?;
                let place = session_profile::Place::read(&self.live.home, &agent, params)?;
                session_profile::get(&place, params, now_ms()).map(Some)
            }
            "reload_config" => {
                let reloaded = self.live.reload().map_err(Refused::failed)?;
                Ok(Some(json!({"reloaded": true, "added": reloaded.added, "removed": reloaded.removed})))
            }
            "collect_diagnostics" => diagnostics::collect(&self.live).map(Some),
            "restart_daemon" => restart::schedule(&self.live).map(Some),
            kind => self.live.gateway_frames.carry_out(&*self.live, kind, params).unwrap_or_else(|| {
                Err(Refused::new("unknown_type", format!("{:?} is not known here", crate::text::clip(kind, 64))))
            }),
        }
    }
}

impl HubDuties {
    pub(super) fn new(live: Arc<Live>) -> Self {
        let wakes = Wakes::new(live.journal.clone());
        Self { live, wakes, skills: Mutex::default(), expected: Mutex::default() }
    }

    fn hello(&self, params: &Value) -> Value {
        let (mut updated, mut skipped, known) = (0, 0, self.known());
        let agents = || params.get("agents").and_then(Value::as_array).into_iter().flatten();
        *self.expected.lock().unwrap_or_else(PoisonError::into_inner) =
            agents().filter_map(|entry| agent_id(entry, "agentId").ok()).take(EXPECTED).collect();
        for entry in agents() {
            let done = self.update_agent(&known, entry);
            if let Err(refused) = &done {
                log::warn!("control.hello_entry_failed error={:?}", refused.message);
            }
            if done.is_ok_and(|done| done["changed"] == true) { updated += 1 } else { skipped += 1 }
        }
        json!({"updated": updated, "skipped": skipped})
    }

    /// Agents that the hub takes to be here and that are not.
    pub(super) fn absent(&self) -> Vec<String> {
        let here = self.live.hubs.ids();
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        expected.iter().filter(|id| !here.contains(id)).cloned().collect()
    }

    /// What the dashboard has changed of an agent: what it is called, and what runs it.
    fn update_agent(&self, known: &Known, entry: &Value) -> Result<Value, Refused> {
        let agent = agent_id(entry, "agentId")?;
        for key in ["runtime", "runtimeModel", "reasoningEffort"] {
            if entry.get(key).is_some_and(|value| !value.is_string() && !value.is_null()) {
                return Err(Refused::params(format!("{key}: expected a text or null")));
            }
        }
        let identity = self.patch_identity(&agent, &Patch::read(entry));
        let runtime = self.patch_runtime(known, &agent, entry)?;
        self.rename(known, &agent, entry);
        let changed = identity["changed"] == true || runtime["changed"] == true;
        Ok(json!({"changed": changed, "identity": identity, "runtime": runtime}))
    }

    fn patch_identity(&self, agent: &str, patch: &Patch) -> Value {
        let path = self.live.home.workspace(agent).join("identity.md");
        let is_small = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= IDENTITY_LIMIT);
        let text = if is_small { fs::read_to_string(&path).ok() } else { None };
        let patched = identity::patch(text.as_deref(), patch);
        if let Patched::Changed(text) = &patched
            && let Err(e) = store::write(&RealDisk, &path, text.as_bytes())
        {
            log::warn!("control.identity_failed agent={agent} error={:?}", e.to_string());
            return json!({"changed": false, "skipped": "unparseable"});
        }
        patched.report()
    }

    /// The name that the hub tells is that of the credentials, and the one by which the agent is addressed.
    fn rename(&self, known: &Known, agent: &str, entry: &Value) {
        let name = entry.get("displayName").and_then(Value::as_str).map(str::trim).filter(|name| !name.is_empty());
        let (Some(name), Some((path, credentials))) = (name, known.credentials(agent)) else { return };
        if credentials.display_name.as_deref() == Some(name) {
            return;
        }
        let file = file::CredentialsFile::new(path, credentials, Arc::new(RealDisk));
        let changed = file.change(&|members| {
            members.shift_remove("display_name");
            members.insert("displayName".into(), name.into());
        });
        if let Err(why) = changed.and_then(|_| self.live.reload().map(drop)) {
            log::warn!("control.rename_failed agent={agent} error={why:?}");
        }
    }

    fn patch_runtime(&self, known: &Known, agent: &str, entry: &Value) -> Result<Value, Refused> {
        const TEXTS: [(&str, &str); 3] =
            [("runtime", "runtime"), ("runtimeModel", "runtime_model"), ("reasoningEffort", "reasoning_effort")];
        let thinking = entry.get("thinking");
        if thinking.is_none() && TEXTS.iter().all(|(key, _)| entry.get(*key).is_none()) {
            return Ok(json!({"changed": false, "skipped": "no_runtime_fields"}));
        }
        let Some((path, credentials)) = known.credentials(agent) else {
            return Ok(json!({"changed": false, "skipped": "credentials_missing"}));
        };
        let file = file::CredentialsFile::new(path, credentials, Arc::new(RealDisk));
        let changed = file
            .change(&|members| {
                for (key, old) in TEXTS {
                    let Some(value) = entry.get(key) else { continue };
                    members.shift_remove(old);
                    match value.as_str().map(str::trim).filter(|text| !text.is_empty()) {
                        Some(text) => drop(members.insert(key.into(), text.into())),
                        None => drop(members.shift_remove(key)),
                    }
                }
                if let Some(thinking) = thinking {
                    members.shift_remove("thinking_enabled");
                    match thinking {
                        Value::Bool(on) => drop(members.insert("thinking".into(), (*on).into())),
                        _ => drop(members.shift_remove("thinking")),
                    }
                }
            })
            .map_err(Refused::failed)?;
        if changed {
            self.live.reload().map_err(Refused::failed)?;
        }
        Ok(json!({"changed": changed, "routeUpdated": changed}))
    }

    /// What is written down at this moment; read once for each frame.
    fn known(&self) -> Known {
        // Of a file with a mistake nothing counts.
        let Ok(config) = self.live.read() else { return Known::default() };
        let agents = hubs::find(&self.live.home, &config).0;
        Known { config, agents }
    }

    fn list_files(&self, params: &Value) -> Result<Value, Refused> {
        let agent = agent_id(params, "agentId")?;
        let known = self.known();
        let Some((_, credentials)) = known.credentials(&agent) else {
            return Err(Refused::new("agent_credentials_missing", "the agent has no usable credentials here"));
        };
        let runtime = runtime(&known.config, &Bound::from(credentials));
        let owner = agent_files::Owner {
            home: &self.live.home,
            user_home: &self.live.user_home,
            agent: &agent,
            runtime: &runtime,
            credentials,
            openclaw: bindings::openclaw_workspace(&self.live, &known.config, credentials),
        };
        let wanted = match params.get("fileId") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(id.as_str()).filter(|id| !id.is_empty()),
            Some(_) => return Err(Refused::params("fileId: expected a text")),
        };
        Ok(agent_files::list(&owner, wanted))
    }

    fn list_skills(&self, params: &Value) -> Result<Value, Refused> {
        let bound = self.loaded(&agent_id(params, "agentId")?)?;
        let place = SkillPlace::of(&self.live.config(), &bound);
        Ok(agent_skills::snapshot(&place.owner(&self.live, &bound), now_ms()))
    }

    fn install_skill(&self, params: &Value) -> Result<Value, Refused> {
        let bound = self.loaded(&agent_id(params, "agentId")?)?;
        let place = SkillPlace::of(&self.live.config(), &bound);
        let owner = place.owner(&self.live, &bound);
        let installed = agent_skills::install(&owner, params)?;
        let snapshot = agent_skills::snapshot(&owner, now_ms());
        Ok(json!({"agentId": bound.id, "installed": installed, "snapshot": snapshot}))
    }

    fn apply_profile(&self, params: &Value) -> Result<Value, Refused> {
        let agent = agent_id(params, "agentId")?;
        let place = session_profile::Place::read(&self.live.home, &agent, params)?;
        let routes = self.live.engine.routes();
        let own = |route: &&Route| {
            route.matches.channel.is_none() && route.matches.account_id.as_deref() == Some(agent.as_str())
        };
        let route = routes.managed.iter().find(own);
        let route = route.ok_or_else(|| Refused::new("agent_not_loaded", format!("{agent} has no route here")))?;
        session_profile::apply(&place, route, params, now_ms()).map_err(|why| Refused::new("profile_apply_failed", why))
    }

    /// An agent that has a channel here.
    fn loaded(&self, agent: &str) -> Result<Bound, Refused> {
        let bound = self.live.hubs.bound(agent).filter(|_| self.live.channels.statuses().contains_key(agent));
        bound.ok_or_else(|| Refused::new("agent_not_loaded", format!("{agent} has no channel here")))
    }

    fn list_agents(&self) -> Value {
        let statuses = self.live.channels.statuses();
        let last: std::collections::HashMap<String, i64> =
            self.live.engine.status().channels.into_iter().filter_map(|c| Some((c.id, c.last_inbound_at?))).collect();
        let mut known = self.live.config().agents;
        known.extend(self.live.hubs.ids().into_iter().filter(|id| !known.contains(id)).collect::<Vec<_>>());
        let absent = known.iter().filter(|id| !statuses.contains_key(*id));
        let agents: Vec<Value> = statuses
            .iter()
            .map(|(id, status)| (id, status.running, status.running && status.connected))
            .map(|(id, running, online)| (id, online, if running { "running" } else { "stopped" }))
            .chain(absent.map(|id| (id, false, "unknown")))
            .map(|(id, online, status)| {
                let name = self.live.hubs.display_name(id).unwrap_or_else(|| id.clone());
                let mut agent = json!({"id": id, "name": name, "online": online, "status": status});
                if let Some(at) = last.get(id) {
                    agent["lastMessageAt"] = (*at).into();
                }
                agent
            })
            .collect();
        json!({"agents": agents})
    }

    /// The runtimes of this machine, as the hub wants to know them. Gateways that are new are used from now on.
    fn runtimes(&self) -> Value {
        let live = &self.live;
        let end = Instant::now() + PROBES;
        let before = live.config();
        // A sandbox has what its hub has put there, and nothing is added to a file that cannot be used.
        let is_fixed = cloud::is_on() || live.read().is_err();
        let config = if is_fixed { before.clone() } else { openclaw::refresh(&live.home, before.clone()) };
        if config.document != before.document
            && let Err(error) = live.reload()
        {
            log::warn!("control.not_reloaded error={error:?}");
        }
        let mut snapshot = runtimes::snapshot(&live.home, &config, &live.engine.status().breakers, end);
        snapshot["hubControlTrustKeyFingerprints"] = json!(live.link.fingerprints());
        snapshot
    }

    /// Tells the hub of them, on a thread of its own: the programs are asked for their versions.
    pub(super) fn tell_runtimes(self: &Arc<Self>, link: &Link) {
        let (duties, link) = (Arc::clone(self), link.clone());
        let told = thread::spawn("control:probe", move || {
            let event = event("rt", "runtime_snapshot", now_ms(), crypto::random(), Some(duties.runtimes()));
            link.tell("runtime_snapshot", event);
            duties.tell_skills(&link);
        });
        if let Err(e) = told {
            log::warn!("control.no_snapshot error={e}");
        }
    }

    /// Tells the hub of the skills of each agent, unless it has kept the same before.
    fn tell_skills(&self, link: &Link) {
        let loaded = self.live.hubs.ids();
        self.skills().retain(|agent, _| loaded.contains(agent));
        let config = self.live.config();
        for agent in &loaded {
            self.tell_skills_of(&config, agent, link);
        }
    }

    fn tell_skills_of(&self, config: &Config, agent: &str, link: &Link) {
        let Ok(bound) = self.loaded(agent) else { return };
        let place = SkillPlace::of(config, &bound);
        let now = now_ms();
        let skills = agent_skills::snapshot(&place.owner(&self.live, &bound), now);
        let digest = crypto::sha256_hex(json!([skills["runtime"], skills["skills"]]).to_string().as_bytes());
        if self.skills().get(agent).is_some_and(|told| told.kept && told.digest == digest) {
            return;
        }
        let event = event("skill", "agent_skill_snapshot", now, crypto::random(), Some(skills));
        let id = event["id"].as_str().unwrap_or_default().to_owned();
        self.skills().insert(agent.to_owned(), SkillsTold { event: id, digest, kept: false });
        link.tell(&format!("agent_skill_snapshot {agent}"), event);
    }

    /// An agent has come. In a sandbox, where all come so, the hub is told at once what it is able to do.
    fn installed(&self, done: &Value) {
        if let (true, Some(agent), Some(link)) = (cloud::is_on(), done["agentId"].as_str(), self.live.link.link()) {
            self.tell_skills_of(&self.live.config(), agent, &link);
        }
    }

    /// The hub has kept an event.
    pub(super) fn kept(&self, event: &str) {
        if let Some(told) = self.skills().values_mut().find(|told| told.event == event) {
            told.kept = true;
        }
    }

    fn skills(&self) -> MutexGuard<'_, HashMap<String, SkillsTold>> {
        self.skills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn policy_updated(&self, params: &Value) -> Result<Value, Refused> {
        let agent = agent_id(params, "agent_id")?;
        let room = params.get("room_id").and_then(Value::as_str);
        let policy = params.get("policy").filter(|policy| policy.is_object());
        self.live.set_policy(&agent, room, policy.map(Policy::from_wire));
        Ok(json!({"agent_id": agent, "applied": true, "embedded": policy.is_some()}))
    }

    fn wake(&self, params: &Value) -> Result<Value, Refused> {
        let wake = wake::read(params, now_ms(), |agent| self.loaded(agent).is_ok())?;
        let mut done = json!({"agent_id": wake.agent, "queued": true});
        if !self.wakes.take(&self.live.engine, wake)? {
            done["duplicate"] = true.into();
        }
        Ok(done)
    }

    /// A message of a third-party chat; answered when its turn is over.
    fn ingress(&self, params: &Value) -> Handled {
        let arrival = ingress::read(params, now_ms(), is_safe)?;
        let agent = &arrival.event.agent;
        if !self.live.hubs.ids().contains(agent) || self.live.hubs.problem(agent).is_some() {
            let why = format!("{agent} has no channel here");
            return Err(arrival.event.rejected(Refused::new("agent_not_loaded", why)));
        }
        self.live.ingress.take(arrival)
    }

    /// The link is open (again): what the hub wants to know then.
    pub(super) fn connected(self: &Arc<Self>, link: &Link) {
        self.live.ingress.set_link(link);
        if let Some(settler) = &self.live.settler {
            settler.hub_is_there();
        }
        self.tell_runtimes(link);
    }
}

/// The configuration, and the agents that it names or that are found.
#[derive(Default)]
struct Known {
    config: Config,
    agents: Vec<hubs::Found>,
}

impl Known {
    /// The file of an agent's credentials, and what is in it.
    fn credentials(&self, agent: &str) -> Option<(&Path, &Credentials)> {
        let found = self.agents.iter().find(|found| found.id == agent)?;
        Some((&found.path, found.credentials.as_ref().ok()?))
    }
}

/// The runtime that an agent's turns have unless a route says otherwise.
fn runtime(config: &Config, bound: &Bound) -> String {
    let own = bound.runtime.as_deref().map(str::trim).filter(|id| config.has_runtime(id));
    let default = || config.default_route.as_ref().map(|route| route.runtime.clone()).unwrap_or_default();
    own.map_or_else(default, str::to_owned)
}

/// What the look at an agent's skills borrows.
struct SkillPlace {
    runtime: String,
    external: Vec<PathBuf>,
}

impl SkillPlace {
    fn of(config: &Config, bound: &Bound) -> Self {
        let external = std::env::var_os("BOTCORD_SKILL_DIRS").map(|dirs| std::env::split_paths(&dirs).collect());
        Self { runtime: runtime(config, bound), external: external.unwrap_or_default() }
    }

    fn owner<'a>(&'a self, live: &'a Live, bound: &'a Bound) -> agent_skills::Owner<'a> {
        agent_skills::Owner {
            home: &live.home,
            user_home: &live.user_home,
            agent: &bound.id,
            runtime: &self.runtime,
            hermes_profile: bound.hermes_profile.as_deref().map(str::trim).filter(|name| !name.is_empty()),
            external: &self.external,
        }
    }
}

/// The agent that a frame is about. Its id becomes part of paths.
pub(super) fn agent_id(params: &Value, key: &str) -> Result<String, Refused> {
    let id = params.get(key).and_then(Value::as_str).filter(|id| is_safe(id));
    id.map(ToOwned::to_owned).ok_or_else(|| Refused::params(format!("{key}: expected the id of an agent")))
}

/// Letters, digits, `_` and `-`, the first one a letter or digit; at most 128.
pub(super) fn is_safe(id: &str) -> bool {
    crate::config::paths::is_agent_id(id)
}
