//! The agents of hubs: found, connected, and wired to the engine.
//!
//! Who there is comes from the configuration, else from the files of credentials. An agent whose file cannot be used has
//! no channel, but a place in the status, so that it is not simply missing.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::agents;
use super::bound::Bound;
use super::channels::Channels;
use super::seeds::{self, Seed};
use super::unusable::Unusable;
use crate::channel::botcord::channel::{Botcord, KIND, Options};
use crate::channel::botcord::credentials::check::check;
use crate::channel::botcord::credentials::{self, Credentials, CredentialsFile, discover};
use crate::channel::botcord::inbox::AckAt;
use crate::channel::botcord::pace::Limits;
use crate::channel::botcord::socket::Timing;
use crate::cli::host::AgentRow;
use crate::config::{Ack, Config, Home, cloud};
use crate::engine::Engine;
use crate::engine::cancel::CancelToken;
use crate::engine::ports::{Channel, Lifecycle};
use crate::engine::route::Route;
use crate::link::botcord_control::user_auth;
use crate::net::http::{Body, Http, Request};
use crate::net::url;
use crate::store::RealDisk;

/// How long a hub may take to answer the doctor.
const LOOK: Duration = Duration::from_secs(5);
/// How long the end waits for what is still to be acknowledged.
const FLUSH: Duration = Duration::from_secs(2);

/// All agents of hubs.
pub(super) struct Hubs {
    /// One client for all: they share its connections.
    http: Arc<Http>,
    agents: Mutex<Vec<Agent>>,
    /// Agents for whom no channel can be made, in tests.
    #[cfg(test)]
    pub(super) unusable: Mutex<Vec<String>>,
}

impl Default for Hubs {
    fn default() -> Self {
        Self {
            http: Arc::new(Http::new()),
            agents: Mutex::default(),
            #[cfg(test)]
            unusable: Mutex::default(),
        }
    }
}

#[derive(Clone)]
struct Agent {
    bound: Bound,
    /// The file of its credentials.
    path: PathBuf,
    /// What another connection is needed for when it changes.
    identity: Option<Identity>,
    connected: Connected,
}

/// Where an agent is known, and by which key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    hub: String,
    key: String,
}

#[derive(Clone)]
enum Connected {
    Yes(Arc<Botcord>),
    /// Why there is no channel.
    No(Arc<Unusable>),
}

/// An agent as its file describes it; `Err`: why the file cannot be used.
pub(super) struct Found {
    pub(super) id: String,
    pub(super) path: PathBuf,
    pub(super) credentials: Result<Credentials, String>,
}

/// The agents that the configuration names, else those whose credentials lie in the home. Warnings are for people.
pub(super) fn find(home: &Home, config: &Config) -> (Vec<Found>, Vec<String>) {
    if !config.agents.is_empty() {
        let mut others = None;
        let mut named = |id: &String| {
            let mut path = home.credentials(id);
            // An agent that was found by its file, whatever the name of that, is still there when it is named.
            if !path.exists() {
                let dir = || config.credentials_dir.clone().unwrap_or_else(|| home.credentials_dir());
                let others = others.get_or_insert_with(|| discover::discover(&dir(), None).0);
                if let Some(other) = others.iter().find(|other| other.credentials.agent_id == *id) {
                    path.clone_from(&other.path);
                }
            }
            Found { id: id.clone(), credentials: self::named(id, &path), path }
        };
        return (config.agents.iter().map(&mut named).collect(), Vec::new());
    }
    if !config.agent_discovery {
        return (Vec::new(), Vec::new());
    }
    let dir = config.credentials_dir.clone().unwrap_or_else(|| home.credentials_dir());
    // The agents of another hub than the login's are none of this daemon's, unless the configuration says where all are.
    let login = if config.hub.url.is_some() { None } else { login_hub(home) };
    let (found, warnings) = discover::discover(&dir, login.as_deref());
    let found = found.into_iter().map(|f| Found {
        id: f.credentials.agent_id.clone(),
        path: f.path,
        credentials: Ok(f.credentials),
    });
    (found.collect(), warnings.iter().map(ToString::to_string).collect())
}

/// The hub that a person has logged this daemon in to.
fn login_hub(home: &Home) -> Option<String> {
    Some(user_auth::load(&home.daemon_dir().join("user-auth.json"), "").ok()??.hub_url)
}

/// The agents as the doctor sees them. Each hub is asked once.
pub(super) fn rows(home: &Home, config: &Config) -> (Vec<AgentRow>, Vec<String>) {
    let (found, warnings) = find(home, config);
    let http = Http::new();
    let mut asked: HashMap<String, Result<u16, String>> = HashMap::new();
    let named = |found: Found| match found.credentials {
        Ok(credentials) => AgentRow { name: credentials.display_name, ..AgentRow::default() },
        Err(problem) => AgentRow { problem: Some(problem), ..AgentRow::default() },
    };
    let row = |found: Found| {
        let path = found.path.clone();
        let text = std::fs::read_to_string(&path).ok();
        let mut ask = |hub: &str| {
            let hub =
                config.hub.url.clone().or_else(|| url::server(hub).ok()).ok_or("the hub's address is of no use")?;
            asked.entry(hub.clone()).or_insert_with(|| status_of(&http, &hub)).clone()
        };
        let checked = check(&path.display().to_string(), text.as_deref(), &mut ask);
        AgentRow { id: found.id.clone(), checked, ..named(found) }
    };
    (found.into_iter().map(row).collect(), warnings)
}

/// Who there is, with the files of credentials and the names for people. Asks nobody.
pub(super) fn ids(home: &Home, config: &Config) -> Vec<(String, PathBuf, Option<String>)> {
    let name = |found: &Found| found.credentials.as_ref().ok().and_then(|c| c.display_name.clone());
    find(home, config).0.into_iter().map(|found| (found.id.clone(), found.path.clone(), name(&found))).collect()
}

/// The status that a hub answers with.
fn status_of(http: &Http, hub: &str) -> Result<u16, String> {
    let never = CancelToken::new().map_err(|e| e.to_string())?;
    let url = format!("{hub}/");
    let request = Request { method: "GET", url: &url, headers: &[], body: Body::None, limit: LOOK };
    let answer = http.send(request, never.as_fd(), &mut |_, _| Ok(()));
    answer.map(|answer| answer.status).map_err(|e| e.to_string())
}

fn named(id: &str, path: &Path) -> Result<Credentials, String> {
    let credentials = credentials::load(path).map_err(|e| e.to_string())?;
    if credentials.agent_id == id {
        return Ok(credentials);
    }
    Err(format!("credentials {}: they are those of another agent", path.display()))
}

impl Hubs {
    /// The agents of a home, each with its channel. Nothing is connected yet.
    pub(super) fn find(home: &Home, config: &Config) -> Self {
        let hubs = Self::default();
        let (found, warnings) = find(home, config);
        warn_of(&warnings);
        let agents: Vec<Agent> = found.into_iter().map(|found| Agent::new(found, home, config, &hubs.http)).collect();
        *hubs.lock() = agents;
        hubs
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Agent>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Agent> {
        self.lock().clone()
    }

    /// Who there is.
    pub(super) fn ids(&self) -> Vec<String> {
        self.lock().iter().map(|a| a.bound.id.clone()).collect()
    }

    /// Who has a channel.
    pub(super) fn at_work(&self) -> Vec<String> {
        self.lock().iter().filter(|a| a.channel().is_some()).map(|a| a.bound.id.clone()).collect()
    }

    /// Why an agent has no channel, if it has none.
    pub(super) fn problem(&self, id: &str) -> Option<String> {
        match &self.lock().iter().find(|a| a.bound.id == id)?.connected {
            Connected::Yes(_) => None,
            Connected::No(unusable) => Some(unusable.why.clone()),
        }
    }

    /// How an agent is run.
    pub(super) fn bound(&self, id: &str) -> Option<Bound> {
        Some(self.lock().iter().find(|a| a.bound.id == id)?.bound.clone())
    }

    /// What people call an agent.
    pub(super) fn display_name(&self, id: &str) -> Option<String> {
        self.lock().iter().find(|a| a.bound.id == id)?.bound.display_name.clone()
    }

    /// Makes and completes their directories.
    pub(super) fn prepare(&self, home: &Home, config: &Config) {
        self.all().iter().for_each(|agent| agent.prepare(home, config));
    }

    /// The next [`Hubs::find_again`] gives this agent another connection.
    pub(super) fn reconnect(&self, id: &str) {
        self.lock().iter_mut().filter(|a| a.bound.id == id).for_each(|a| a.identity = None);
    }

    /// One route for each agent that has one of its own.
    pub(super) fn routes(&self, home: &Home, config: &Config, default: &Route) -> Vec<Route> {
        self.lock().iter().filter_map(|a| a.bound.route(home, config, default)).collect()
    }

    /// What the engine sends through.
    pub(super) fn for_engine(&self) -> Vec<Arc<dyn Channel>> {
        self.all().into_iter().filter_map(|a| Some(a.channel()? as Arc<dyn Channel>)).collect()
    }

    /// From now on messages go to this engine, once the channels run.
    pub(super) fn open(&self, engine: &Engine, channels: &Channels) {
        self.all().iter().for_each(|agent| agent.open(engine, channels));
    }

    /// Looks again who there is: whoever is gone, or has another key, is connected no more. Replies to the ones that are
    /// gone can still be sent. Whoever is new is connected by [`Hubs::connect`], once there are routes for it. Whoever is
    /// at work stays so while its file is there and cannot be used: that may pass, and a mistake changes nothing.
    pub(super) fn find_again(&self, home: &Home, config: &Config, channels: &Channels) {
        let (mut found, warnings) = find(home, config);
        warn_of(&warnings);
        let before = self.all();
        if config.agents.is_empty() && config.agent_discovery {
            // Of those that are found by their files, such a one is not found.
            let dir = config.credentials_dir.clone().unwrap_or_else(|| home.credentials_dir());
            let damaged = |agent: &Agent| {
                let why = agent.damage().filter(|_| agent.path.parent() == Some(&*dir))?;
                Some(Found { id: agent.bound.id.clone(), path: agent.path.clone(), credentials: Err(why) })
            };
            let missing = before.iter().filter(|a| !found.iter().any(|f| f.id == a.bound.id));
            let damaged: Vec<Found> = missing.filter_map(damaged).collect();
            found.extend(damaged);
        }
        let mut now = Vec::new();
        for found in found {
            let at_work = |a: &&Agent| a.bound.id == found.id && a.identity.is_some() && a.channel().is_some();
            if let Err(why) = &found.credentials
                && let Some(agent) = before.iter().find(at_work)
                && let Some(why) = if found.path.exists() { Some(why.clone()) } else { agent.damage() }
            {
                log::error!("agent.kept agent={} error={why:?}", found.id);
                now.push(agent.clone());
                continue;
            }
            let same = before
                .iter()
                .find(|a| a.bound.id == found.id && a.identity.is_some() && a.identity == found.identity(config));
            if let (Some(agent), Ok(credentials)) = (same, &found.credentials) {
                let mut same = Agent { bound: Bound::from(credentials), path: found.path.clone(), ..agent.clone() };
                same.bound.keep_runtime(&agent.bound, config);
                if same.bound.display_name != agent.bound.display_name
                    && let Some(channel) = same.channel()
                {
                    channel.rename(same.bound.display_name.clone());
                }
                if same.bound != agent.bound {
                    same.prepare(home, config);
                }
                now.push(same);
                continue;
            }
            channels.remove(&found.id);
            #[cfg(test)]
            let found = if self.unusable.lock().unwrap().contains(&found.id) {
                Found { credentials: Err("no channel can be made".into()), ..found }
            } else {
                found
            };
            let agent = Agent::new(found, home, config, &self.http);
            agent.prepare(home, config);
            log::info!("agent.found agent={}", agent.bound.id);
            now.push(agent);
        }
        for gone in before.iter().filter(|a| !now.iter().any(|n| n.bound.id == a.bound.id)) {
            log::info!("agent.gone agent={}", gone.bound.id);
            channels.remove(&gone.bound.id);
        }
        *self.lock() = now;
    }

    /// Connects whoever is not connected yet. What has waited for one of them goes on.
    pub(super) fn connect(&self, engine: &Engine, channels: &Channels) {
        let there = channels.statuses();
        for agent in self.all().iter().filter(|agent| !there.contains_key(&agent.bound.id)) {
            if let Some(channel) = agent.channel() {
                // Before it is added: what has waited for it may be over at once.
                channel.set_engine(Box::new(engine.downgrade()));
                engine.add_channel(channel);
            }
            agent.open(engine, channels);
        }
        channels.start_all();
    }

    /// Waits a moment for what is finished to be acknowledged, then gives up whatever is under way.
    pub(super) fn close(&self) {
        let end = Instant::now() + FLUSH;
        for channel in self.all().iter().filter_map(Agent::channel) {
            channel.close(end.saturating_duration_since(Instant::now()));
        }
    }
}

fn warn_of(passed_over: &[String]) {
    for why in passed_over {
        log::warn!("agent.passed_over why={why:?}");
    }
}

impl Found {
    fn identity(&self, config: &Config) -> Option<Identity> {
        let credentials = self.credentials.as_ref().ok()?;
        let hub = config.hub.url.clone().unwrap_or_else(|| credentials.hub_url.clone());
        Some(Identity { hub, key: credentials.key_id.clone() })
    }
}

impl Agent {
    fn new(found: Found, home: &Home, config: &Config, http: &Arc<Http>) -> Self {
        let identity = found.identity(config);
        let bound = match &found.credentials {
            Ok(credentials) => Bound::from(credentials),
            Err(_) => Bound { id: found.id.clone(), ..Bound::default() },
        };
        let connected = match found.credentials.and_then(|c| connect(&found.path, c, home, config, http)) {
            Ok(channel) => Connected::Yes(channel),
            Err(why) => {
                log::error!("agent.unusable agent={} error={why:?}", found.id);
                let (id, provider) = (found.id.clone(), KIND.to_owned());
                Connected::No(Arc::new(Unusable { id, account: found.id, provider, why }))
            }
        };
        Self { bound, path: found.path, identity, connected }
    }

    /// Why its file, which is there still, cannot be used; `None`: it is gone, or can be.
    fn damage(&self) -> Option<String> {
        let loaded = if self.path.exists() { credentials::load(&self.path) } else { return None };
        loaded.err().map(|e| e.to_string())
    }

    /// Makes and completes its directory.
    fn prepare(&self, home: &Home, config: &Config) {
        let bound = &self.bound;
        let dir = bound.directory(home);
        if dir != home.workspace(&bound.id) {
            agents::prepare_directory(&bound.id, &dir, false);
        }
        let default = config.default_route.as_ref().map_or("", |route| &route.runtime);
        let seed = Seed {
            agent: &bound.id,
            display_name: bound.display_name.as_deref(),
            bio: None,
            runtime: bound.runtime.as_deref().unwrap_or(default),
            key_id: self.identity.as_ref().map_or("", |identity| &identity.key),
        };
        // Without credentials it does no work, and who it is would be written down wrong.
        if self.identity.is_some()
            && let Err(why) = seeds::plant(home, &seed, &RealDisk)
        {
            log::warn!("agent.not_seeded agent={} error={why:?}", bound.id);
        }
    }

    fn channel(&self) -> Option<Arc<Botcord>> {
        match &self.connected {
            Connected::Yes(channel) => Some(Arc::clone(channel)),
            Connected::No(_) => None,
        }
    }

    /// Has it kept running, for this engine.
    fn open(&self, engine: &Engine, channels: &Channels) {
        let lifecycle: Arc<dyn Lifecycle> = match &self.connected {
            Connected::Yes(channel) => {
                channel.set_engine(Box::new(engine.downgrade()));
                Arc::clone(channel) as Arc<dyn Lifecycle>
            }
            Connected::No(unusable) => Arc::clone(unusable) as Arc<dyn Lifecycle>,
        };
        channels.add(lifecycle);
    }
}

fn connect(
    path: &Path,
    mut credentials: Credentials,
    home: &Home,
    config: &Config,
    http: &Arc<Http>,
) -> Result<Arc<Botcord>, String> {
    if let Some(url) = &config.hub.url {
        credentials.hub_url.clone_from(url);
    }
    let file = CredentialsFile::new(path, &credentials, Arc::new(RealDisk));
    let options = Options {
        ack_at: match config.hub.ack {
            Ack::Turn => AckAt::Turn,
            Ack::Journal => AckAt::Journal,
        },
        timing: Timing { poll: config.hub.poll, renew: config.hub.renew, ..Timing::default() },
        limits: Limits { all: config.hub.sends, target: config.hub.sends_to_room },
        stream_blocks: config.stream_blocks,
        ask_policies: !cloud::is_on(),
        verify: config.hub.verify_signatures,
        files_in: config.hub.fetch_files.then(|| Bound::from(&credentials).directory(home)),
    };
    Botcord::new(credentials, file, Arc::clone(http), options).map_err(|e| e.to_string())
}
