//! Reading the configuration again while the daemon runs (SIGHUP, or because a hub wants it).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;
use serde_json::{Map, Value};

use super::agents::{self, Agents};
use super::channels::Channels;
use super::control_link::LinkSlot;
use super::gateways::Gateways;
use super::gateways::frames::Frames;
use super::hubs::Hubs;
use super::ingress::Ingress;
use super::parts;
use super::settling::Settler;
use crate::channel::botcord::credentials::Credentials;
use crate::config::{Config, ConfigError, Home, Problem, cloud, keys, load};
use crate::engine::Engine;
use crate::engine::gate::Policy;
use crate::engine::journal::Journal;
use crate::runtime::Registry;
use crate::store::Disk;

/// What a daemon applies without a restart.
const LIVE: [&str; 11] = [
    "local",
    "agents",
    "agentId",
    "agentDiscovery",
    "defaultRoute",
    "routes",
    "openclawGateways",
    "thirdPartyGateways",
    "approvals",
    "hubControlPublicKeys",
    "requireSignedControl",
];

/// What follows the configuration while the daemon runs.
pub(super) struct Live {
    pub(super) home: Home,
    /// The home of the person whose daemon this is; empty where that is not known.
    pub(super) user_home: PathBuf,
    pub(super) journal: Journal,
    pub(super) engine: Engine,
    pub(super) channels: Channels,
    pub(super) hubs: Hubs,
    pub(super) gateways: Gateways,
    /// What the hub asks about them.
    pub(super) gateway_frames: Frames,
    pub(super) agents: Arc<Agents>,
    /// Messages of third-party chats that come by a hub.
    pub(super) ingress: Arc<Ingress>,
    /// Tells a sandbox's hub what runs have used.
    pub(super) settler: Option<Settler>,
    /// The document of the configuration that the process was started with.
    pub(super) started_with: Map<String, Value>,
    /// The document that holds now.
    pub(super) applied: Mutex<Map<String, Value>>,
    /// What is written goes here.
    pub(super) disk: Arc<dyn Disk>,
    /// Makes an agent known to a hub that lets daemons do that.
    pub(super) register: Box<Register>,
    /// Agents come and go one at a time.
    pub(super) provisioning: Mutex<()>,
    /// One at a time.
    pub(super) reloading: Mutex<()>,
    /// The link to the hub that a person has logged this daemon in to.
    pub(super) link: Arc<LinkSlot>,
    /// Has the daemon put itself in its own place.
    pub(super) restart: Sender<()>,
    /// What was told of policies, in tests: agent, room, and the policy, if it was given.
    #[cfg(test)]
    pub(super) policies_told: Mutex<Vec<PolicyTold>>,
}

/// From the address of a hub, a name and a bio to the credentials of a new agent; the error is for people.
pub(super) type Register = dyn Fn(&str, &str, &str) -> Result<Credentials, String> + Send + Sync;

#[cfg(test)]
pub(super) type PolicyTold = (String, Option<String>, Option<Policy>);

/// Agents of hubs that a new configuration has brought and taken.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reloaded {
    pub(super) added: Vec<String>,
    pub(super) removed: Vec<String>,
}

impl Live {
    /// Applies what can be applied at once, and says what cannot. A file with a mistake changes nothing; the error says
    /// which one.
    pub(super) fn reload(&self) -> Result<Reloaded, String> {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let config = match self.read() {
            Ok(config) => config,
            Err(error) => {
                for p in &error.problems {
                    let file = error.file.display();
                    log::error!("config.invalid file={file} line={} field={:?} error={:?}", p.line, p.field, p.message);
                }
                log::error!("daemon.not_reloaded problems={} kept=\"the configuration before\"", error.problems.len());
                return Err(error.to_string());
            }
        };
        for warning in &config.warnings {
            log::warn!("config.warning {warning}");
        }
        agents::prepare(&self.home, &config.local_agents);
        let before = self.hubs.ids();
        self.hubs.find_again(&self.home, &config, &self.channels);
        let now = self.hubs.ids();
        // Before the channels, so that their first message finds its route.
        self.set_routes(&config);
        self.hubs.connect(&self.engine, &self.channels);
        self.gateways.follow(&self.home, &config, &self.hubs, &self.engine, &self.channels);
        self.ingress.open_for(&self.hubs.at_work());
        self.engine.set_approval_policy(config.approvals);
        self.agents.replace(config.local_agents.clone());
        self.applied().clone_from(&config.document);
        self.link.follow(&config.document);
        log::info!("daemon.reloaded agents={} routes={}", config.local_agents.len(), config.routes.len());
        let waiting = needs_restart(&self.started_with, &config.document);
        if !waiting.is_empty() {
            log::warn!("daemon.needs_restart keys={}", waiting.join(","));
        }
        let without = |these: &[String], those: &[String]| {
            these.iter().filter(|id| !those.contains(id)).cloned().collect::<Vec<_>>()
        };
        Ok(Reloaded { added: without(&now, &before), removed: without(&before, &now) })
    }
}

impl Live {
    /// The configuration as it is written down. A file that is gone is a mistake, too: editors that put a new one in its
    /// place leave a moment without any, and nobody takes all agents and routes away so.
    pub(super) fn read(&self) -> Result<Config, ConfigError> {
        let config = load::load(&self.home.config())?;
        if config.file.is_none() && !self.applied().is_empty() {
            let message = "is gone; to go on without any configuration, write {} into it".to_owned();
            let problems = vec![Problem { line: 0, field: String::new(), message }];
            return Err(ConfigError { file: self.home.config(), problems });
        }
        Ok(config)
    }

    /// The configuration as it is written down, else the one that holds.
    pub(super) fn config(&self) -> Config {
        self.read().unwrap_or_else(|_| {
            let text = Value::Object(self.applied().clone()).to_string();
            let mut config = load::parse(&text, &self.home.config()).unwrap_or_default();
            if cloud::is_on() {
                cloud::in_sandbox(&mut config);
            }
            config
        })
    }

    /// The document that holds now.
    pub(super) fn applied(&self) -> MutexGuard<'_, Map<String, Value>> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hub has told, or taken back, what an agent pays attention to.
    pub(super) fn set_policy(&self, agent: &str, room: Option<&str>, policy: Option<Policy>) {
        #[cfg(test)]
        self.policies_told.lock().unwrap().push((agent.to_owned(), room.map(str::to_owned), policy.clone()));
        self.engine.set_policy(agent, room, policy);
    }

    /// Has new turns follow the routes of the file, and of the agents that are here.
    pub(super) fn reroute(&self) -> Result<(), String> {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let config = self.read().map_err(|e| e.to_string())?;
        self.set_routes(&config);
        self.apply(&config, &["defaultRoute", "routes"]);
        Ok(())
    }

    /// These keys hold from now on as they are written down.
    pub(super) fn apply(&self, config: &Config, keys: &[&str]) {
        let mut applied = self.applied();
        for key in keys {
            match config.document.get(*key) {
                Some(value) => drop(applied.insert((*key).to_owned(), value.clone())),
                None => drop(applied.shift_remove(*key)),
            }
        }
    }

    fn set_routes(&self, config: &Config) {
        let registry = Registry::new(parts::runtime_settings(&self.home, config));
        self.engine.set_routes(parts::routes(&self.home, config, &registry, &self.hubs));
    }
}

/// Keys that have another value than at the start and take effect at the next one only.
fn needs_restart(before: &Map<String, Value>, now: &Map<String, Value>) -> Vec<&'static str> {
    let changed: BTreeSet<&str> = before
        .keys()
        .chain(now.keys())
        .map(String::as_str)
        .filter(|key| before.get(*key).filter(|v| !v.is_null()) != now.get(*key).filter(|v| !v.is_null()))
        .collect();
    keys::members("").filter(|key| changed.contains(key) && !LIVE.contains(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_known_and_fixed_needs_a_restart() {
        let map = |value: Value| value.as_object().cloned().unwrap();
        let before = map(json!({"maxConcurrentTurns": 2, "routes": [], "mine": 1, "sandboxed": null}));
        let now = map(json!({"maxConcurrentTurns": 3, "local": {}, "mine": 2, "transcript": {"enabled": false}}));
        assert_eq!(needs_restart(&before, &now), ["transcript", "maxConcurrentTurns"]);
        assert!(needs_restart(&before, &before).is_empty());
    }
}
