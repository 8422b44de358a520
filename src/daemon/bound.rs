//! The agents of hubs as their credentials describe them, and what answers for them.

use std::path::PathBuf;

use crate::channel::botcord::credentials::Credentials;
use crate::config::paths::expand_tilde;
use crate::config::{Config, Home};
use crate::engine::route::{Match, Route};
use crate::message::TrustLevel;
use crate::runtime::selection::{self, Choice};

/// Runtime that needs a gateway.
const OPENCLAW: &str = "openclaw-acp";
/// Runtime that has profiles.
const HERMES: &str = "hermes-agent";

/// An agent of a hub. Blank texts count as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bound {
    /// Its id, which is that of its channel as well.
    pub(super) id: String,
    /// What people call it.
    pub(super) display_name: Option<String>,
    /// Runtime; `None`: the default route's.
    pub(super) runtime: Option<String>,
    /// Working directory; `None`: its workspace.
    pub(super) cwd: Option<String>,
    /// Model.
    pub(super) model: Option<String>,
    /// How much effort it makes.
    pub(super) effort: Option<String>,
    /// Whether it thinks before it answers.
    pub(super) thinking: Option<bool>,
    /// Name of its gateway.
    pub(super) gateway: Option<String>,
    /// The agent behind the gateway.
    pub(super) gateway_agent: Option<String>,
    /// Profile.
    pub(super) hermes_profile: Option<String>,
}

fn given(text: Option<&String>) -> Option<&str> {
    text.map(|t| t.trim()).filter(|t| !t.is_empty())
}

impl From<&Credentials> for Bound {
    fn from(credentials: &Credentials) -> Self {
        let c = credentials;
        Self {
            id: c.agent_id.clone(),
            display_name: c.display_name.clone(),
            runtime: c.runtime.clone(),
            cwd: c.cwd.clone(),
            model: c.runtime_model.clone(),
            effort: c.reasoning_effort.clone(),
            thinking: c.thinking,
            gateway: c.openclaw_gateway.clone(),
            gateway_agent: c.openclaw_agent.clone(),
            hermes_profile: c.hermes_profile.clone(),
        }
    }
}

impl Bound {
    /// Where it works.
    pub(super) fn directory(&self, home: &Home) -> PathBuf {
        given(self.cwd.as_ref()).map_or_else(|| home.workspace(&self.id), expand_tilde)
    }

    /// A runtime that is not known here does not take the place of one that is.
    pub(super) fn keep_runtime(&mut self, before: &Self, config: &Config) {
        let is_known = |id: Option<&str>| id.is_none_or(|id| config.has_runtime(id));
        let (wanted, had) = (given(self.runtime.as_ref()), given(before.runtime.as_ref()));
        if !is_known(wanted) && is_known(had) {
            let (wanted, had) = (wanted.unwrap_or_default(), had.unwrap_or("default"));
            log::warn!("agent.unknown_runtime agent={} runtime={wanted:?} kept={had:?}", self.id);
            self.runtime.clone_from(&before.runtime);
        }
    }

    /// Its route. `None`, so that the default route is used: its gateway does not exist.
    pub(super) fn route(&self, home: &Home, config: &Config, default: &Route) -> Option<Route> {
        let runtime = match given(self.runtime.as_ref()) {
            Some(id) if !config.has_runtime(id) => {
                log::warn!("agent.unknown_runtime agent={} runtime={id:?} used={}", self.id, default.runtime);
                default.runtime.clone()
            }
            Some(id) => id.to_owned(),
            None => default.runtime.clone(),
        };
        let gateway = if runtime == OPENCLAW { Some(self.gateway(config, default)?) } else { None };
        let choice = Choice { model: self.model.as_deref(), effort: self.effort.as_deref(), thinking: self.thinking };
        let mut extra_args = default.extra_args.clone();
        extra_args.extend(selection::arguments(&runtime, choice));
        let profile = given(self.hermes_profile.as_ref()).filter(|_| runtime == HERMES);
        Some(Route {
            matches: Match { account_id: Some(self.id.clone()), ..Match::default() },
            cwd: self.directory(home),
            extra_args,
            // Distrust holds for all; trust has to be granted to each.
            trust_level: default.trust_level.filter(|t| *t == TrustLevel::Public),
            on_interrupt: default.on_interrupt,
            hermes_profile: profile.map(str::to_owned),
            gateway,
            runtime,
            ..Route::default()
        })
    }

    fn gateway(&self, config: &Config, default: &Route) -> Option<crate::engine::ports::Gateway> {
        let theirs = default.gateway.as_ref().map(|g| g.name.as_str());
        let name = given(self.gateway.as_ref()).or(theirs);
        let found = name.and_then(|name| config.gateway(name, given(self.gateway_agent.as_ref())));
        if found.is_none() {
            log::warn!("agent.no_gateway agent={} gateway={:?}", self.id, name.unwrap_or_default());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;
    use std::path::Path;

    fn route(config: &str, bound: &Bound) -> Option<Route> {
        let config = load::parse(config, Path::new("f")).unwrap();
        bound.route(&Home::at("/h").unwrap(), &config, config.default_route.as_ref().unwrap())
    }

    #[test]
    fn credentials_become_a_route() {
        let config = r#"{"defaultRoute": {"adapter": "claude-code", "cwd": "/w", "extraArgs": ["--x"], "trustLevel": "owner", "queueMode": "serial"}}"#;
        let plain = route(config, &Bound { id: "ag_a".into(), cwd: Some(" ".into()), ..Bound::default() }).unwrap();
        assert_eq!((plain.runtime.as_str(), plain.cwd), ("claude-code", PathBuf::from("/h/agents/ag_a/workspace")));
        assert_eq!(plain.matches, Match { account_id: Some("ag_a".into()), ..Match::default() });
        assert_eq!((plain.trust_level, plain.queue_mode), (None, None));
        let chosen = Bound {
            id: "ag_b".into(),
            runtime: Some("codex".into()),
            cwd: Some("/p".into()),
            model: Some("m".into()),
            effort: Some("high".into()),
            hermes_profile: Some("work".into()),
            ..Bound::default()
        };
        let own = route(config, &chosen).unwrap();
        assert_eq!((own.runtime.as_str(), own.cwd, own.hermes_profile), ("codex", "/p".into(), None));
        assert_eq!(own.extra_args, ["--x", "--model", "m", "-c", "model_reasoning_effort=\"high\""]);
        let hermes = Bound { runtime: Some("hermes-agent".into()), ..chosen.clone() };
        assert_eq!(route(config, &hermes).unwrap().hermes_profile, Some("work".into()));
        let unknown = Bound { runtime: Some("clippy".into()), ..chosen };
        assert_eq!(route(config, &unknown).unwrap().runtime, "claude-code");
    }

    #[test]
    fn distrust_is_inherited() {
        let config = r#"{"defaultRoute": {"adapter": "codex", "cwd": "/w", "trustLevel": "public"}}"#;
        assert_eq!(route(config, &Bound::default()).unwrap().trust(), TrustLevel::Public);
    }

    #[test]
    fn a_gateway_is_the_agents_own_else_the_default_routes() {
        let config = r#"{"defaultRoute": {"adapter": "openclaw-acp", "cwd": "/w", "gateway": "lab", "openclawAgent": "dflt"},
            "openclawGateways": [{"name": "lab", "url": "wss://h", "defaultAgent": "main"}, {"name": "bare", "url": "ws://b"}]}"#;
        let agent_of = |bound: Bound| route(config, &bound)?.gateway.map(|g| (g.name, g.openclaw_agent));
        let bound = |gateway: Option<&str>, agent: Option<&str>| Bound {
            gateway: gateway.map(str::to_owned),
            gateway_agent: agent.map(str::to_owned),
            ..Bound::default()
        };
        let is = |name: &str, agent: Option<&str>| Some((name.to_owned(), agent.map(str::to_owned)));
        assert_eq!(agent_of(bound(None, None)), is("lab", Some("main")), "the default route's agent is its own");
        assert_eq!(agent_of(bound(None, Some("mine"))), is("lab", Some("mine")));
        assert_eq!(agent_of(bound(Some("bare"), None)), is("bare", None));
        assert_eq!(agent_of(bound(Some("gone"), None)), None);
    }
}
