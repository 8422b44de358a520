//! Gateways to other chat services: read from the configuration, connected, and wired to the engine.
//!
//! - [`secret`]: the files of their secrets. - [`frames`]: what the hub has done with them, with [`upsert`], [`sending`] and
//!   [`login`]. - [`desk`]: what those need of the daemon.
//!
//! A gateway that cannot be connected has a place in the status that says why, so that it is not simply missing.

mod desk;
pub(super) mod frames;
mod login;
pub(super) mod secret;
mod sending;
mod upsert;
#[cfg(test)]
mod vectors;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::agents;
use super::channels::Channels;
use super::hubs::Hubs;
use super::unusable::Unusable;
use crate::channel::manager::ChannelStatus;
use crate::channel::telegram::access::Access;
use crate::channel::telegram::api::{self, Api};
use crate::channel::telegram::channel::{Groups, Options, Telegram};
use crate::config::gateways::TELEGRAM;
use crate::config::{Config, GatewayProfile, Home};
use crate::crypto;
use crate::engine::Engine;
use crate::engine::cancel::CancelToken;
use crate::engine::ports::{Channel, Lifecycle};
use crate::engine::route::{Match, Route};
use crate::message::TrustLevel;
use crate::net::http::Http;

/// How long a service may take to say who a bot is.
const LOOK: Duration = Duration::from_secs(10);

/// All gateways that are switched on.
pub(super) struct Gateways {
    http: Arc<Http>,
    list: Mutex<Vec<Gateway>>,
}

impl Default for Gateways {
    fn default() -> Self {
        Self { http: Arc::new(Http::new()), list: Mutex::default() }
    }
}

#[derive(Clone)]
struct Gateway {
    plan: Plan,
    connected: Connected,
}

/// What another connection is needed for when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    profile: GatewayProfile,
    /// What its agent is here; `None`: nobody, or one that cannot work.
    agent: Option<Agent>,
    /// A digest of its secret, or why there is none.
    secret: Result<String, String>,
}

/// The agent of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Agent {
    is_local: bool,
    workspace: std::path::PathBuf,
}

#[derive(Clone)]
enum Connected {
    Yes(Arc<Telegram>),
    /// Why there is no channel.
    No(Arc<Unusable>),
}

/// Who the bot of a gateway is, as its service says.
pub(super) fn ask(profile: &GatewayProfile, token: &str) -> Result<Value, String> {
    let base = profile.base_url.as_deref().unwrap_or(api::BASE);
    let api = Api::new(Arc::new(Http::new()), base, token)?;
    let never = CancelToken::new().map_err(|e| e.to_string())?;
    api.me(LOOK, std::os::fd::AsFd::as_fd(&never)).map_err(|e| e.to_string())
}

impl Gateways {
    /// The gateways of a configuration. Nothing is connected yet.
    pub(super) fn find(home: &Home, config: &Config, hubs: &Hubs) -> Self {
        let gateways = Self::default();
        let plans = plans(home, config, hubs).into_iter();
        let found: Vec<Gateway> = plans.map(|plan| gateways.connect(plan, home)).collect();
        *gateways.lock() = found;
        gateways
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Gateway>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Gateway> {
        self.lock().clone()
    }

    /// What the engine sends through.
    pub(super) fn for_engine(&self) -> Vec<Arc<dyn Channel>> {
        self.all().iter().filter_map(Gateway::channel).map(|c| c as Arc<dyn Channel>).collect()
    }

    /// From now on messages go to this engine, once the channels run.
    pub(super) fn open(&self, engine: &Engine, channels: &Channels) {
        self.all().iter().for_each(|gateway| gateway.open(engine, channels));
    }

    /// Does what a configuration says: whatever is new or has changed is connected anew, what is gone is not any more.
    pub(super) fn follow(&self, home: &Home, config: &Config, hubs: &Hubs, engine: &Engine, channels: &Channels) {
        let wanted = plans(home, config, hubs);
        for gateway in self.all().iter().filter(|g| !wanted.contains(&g.plan)) {
            self.take(&gateway.plan.profile.id, engine, channels);
        }
        for plan in wanted {
            if !self.all().iter().any(|g| g.plan == plan) {
                self.put(plan, home, engine, channels);
            }
        }
        channels.start_all();
    }

    /// Connects one, which is not there yet.
    fn put(&self, plan: Plan, home: &Home, engine: &Engine, channels: &Channels) {
        log::info!("gateway.found gateway={}", plan.profile.id);
        let gateway = self.connect(plan, home);
        if let Some(channel) = gateway.channel() {
            engine.add_channel(channel);
        }
        gateway.open(engine, channels);
        self.lock().push(gateway);
    }

    /// Takes one away, if there is one of this id. Returns when nobody asks for its bot's messages any more.
    fn take(&self, id: &str, engine: &Engine, channels: &Channels) {
        let taken: Vec<Gateway> = {
            let mut list = self.lock();
            let (taken, kept) = std::mem::take(&mut *list).into_iter().partition(|g| g.plan.profile.id == id);
            *list = kept;
            taken
        };
        for gateway in taken {
            log::info!("gateway.gone gateway={id}");
            channels.remove(id);
            engine.remove_channel(id);
            if let Some(channel) = gateway.channel() {
                channel.close();
            }
        }
    }

    /// Why a gateway is not connected and never will be; `None`: it is, or there is none of this id.
    pub(super) fn problem(&self, id: &str) -> Option<String> {
        match &self.lock().iter().find(|g| g.plan.profile.id == id)?.connected {
            Connected::Yes(_) => None,
            Connected::No(unusable) => Some(unusable.why.clone()),
        }
    }

    /// How a gateway is, if it is switched on.
    pub(super) fn status(&self, id: &str, channels: &Channels) -> Option<ChannelStatus> {
        let gateway = self.lock().iter().find(|g| g.plan.profile.id == id).cloned()?;
        let mut status = channels.statuses().remove(id)?;
        // What was sent is told with the next long poll only.
        status.last_send_at = gateway.channel().and_then(|c| c.last_send_at()).or(status.last_send_at);
        Some(status)
    }

    /// Gives up whatever is under way.
    pub(super) fn close(&self) {
        for channel in self.all().iter().filter_map(Gateway::channel) {
            channel.close();
        }
    }

    fn connect(&self, plan: Plan, home: &Home) -> Gateway {
        let profile = &plan.profile;
        let connected = match self.telegram(&plan, home) {
            Ok(channel) => Connected::Yes(channel),
            Err(why) => {
                log::error!("gateway.unusable gateway={} error={why:?}", profile.id);
                let (id, account, provider) = (profile.id.clone(), profile.account.clone(), profile.kind.clone());
                Connected::No(Arc::new(Unusable { id, account, provider, why }))
            }
        };
        Gateway { plan, connected }
    }

    fn telegram(&self, plan: &Plan, home: &Home) -> Result<Arc<Telegram>, String> {
        let profile = &plan.profile;
        if profile.kind != TELEGRAM {
            return Err(format!("gateways of {} are kept, but bellhop does not connect them", profile.kind));
        }
        let agent = plan.agent.as_ref().ok_or_else(|| format!("there is no agent {:?} at work", profile.account))?;
        plan.secret.clone()?;
        let token = secret::read(profile, home)?;
        secret::prepare(home);
        let options = Options {
            id: profile.id.clone(),
            account: profile.account.clone(),
            base: profile.base_url.clone().unwrap_or_else(|| api::BASE.to_owned()),
            access: Access { chats: profile.allowed_chats.clone(), senders: profile.allowed_senders.clone() },
            split_at: profile.split_at,
            workspace: agent.workspace.clone(),
            state: profile.state_path(home),
            groups: match (agent.is_local, profile.hears_all) {
                (true, true) => Groups::All,
                (true, false) => Groups::Mentions,
                (false, _) => Groups::Hub,
            },
        };
        Telegram::new(options, &token, Arc::clone(&self.http))
    }
}

impl Gateway {
    fn channel(&self) -> Option<Arc<Telegram>> {
        match &self.connected {
            Connected::Yes(channel) => Some(Arc::clone(channel)),
            Connected::No(_) => None,
        }
    }

    /// Has it kept running, for this engine.
    fn open(&self, engine: &Engine, channels: &Channels) {
        let lifecycle: Arc<dyn Lifecycle> = match &self.connected {
            Connected::Yes(channel) => {
                channel.set_engine(engine.downgrade());
                Arc::clone(channel) as Arc<dyn Lifecycle>
            }
            Connected::No(unusable) => Arc::clone(unusable) as Arc<dyn Lifecycle>,
        };
        channels.add(lifecycle);
    }
}

/// What is to be connected.
fn plans(home: &Home, config: &Config, hubs: &Hubs) -> Vec<Plan> {
    let (at_hub, at_work) = (hubs.ids(), hubs.at_work());
    let mut plans: Vec<Plan> = Vec::new();
    for profile in config.gateways.iter().filter(|g| g.enabled) {
        if at_hub.contains(&profile.id) {
            log::error!("gateway.unusable gateway={} error=\"an agent has the same id\"", profile.id);
            continue;
        }
        let local = config.local_agents.iter().find(|a| a.name == profile.account);
        // Without its credentials nobody knows how an agent is run: its chats wait until it comes.
        let agent = if at_hub.contains(&profile.account) {
            at_work
                .contains(&profile.account)
                .then(|| Agent { is_local: false, workspace: directory(home, hubs, &profile.account) })
        } else {
            local.map(|a| Agent { is_local: true, workspace: agents::directory(home, a) })
        };
        let mut secret = secret::read(profile, home).map(|s| crypto::short_hash(s.as_bytes(), 32));
        // Two that ask for the same bot's messages would only take them from each other.
        if let Some(first) = plans.iter().find(|p| p.secret.is_ok() && p.secret == secret) {
            secret = Err(format!("gateway {} has the same secret", first.profile.id));
        }
        plans.push(Plan { profile: profile.clone(), agent, secret });
    }
    plans
}

/// Routes of local agents for their gateways. Strangers to the machine are not its owner, whatever the agent's trust is.
pub(super) fn routes(home: &Home, config: &Config, default: &Route) -> Vec<Route> {
    let local = |profile: &GatewayProfile| {
        let agent = config.local_agents.iter().find(|a| a.name == profile.account)?;
        let route = agents::route(home, agent, default);
        Some(Route {
            matches: Match { channel: Some(profile.id.clone()), ..route.matches },
            trust_level: Some(agent.trust.max(TrustLevel::Trusted)),
            ..route
        })
    };
    config.gateways.iter().filter(|g| g.enabled).filter_map(local).collect()
}

/// Where an agent of a hub works.
fn directory(home: &Home, hubs: &Hubs, id: &str) -> std::path::PathBuf {
    hubs.bound(id).map_or_else(|| home.workspace(id), |bound| bound.directory(home))
}
