//! The agents of the local channel as they are configured: who there is, what answers for them, where they work.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use crate::channel::local::DEFAULT_AGENT;
use crate::config::{Home, LocalAgent};
use crate::engine::route::{Match, Route};
use crate::runtime::selection::{self, Choice};

/// The agents that there are; replaced as a whole when the configuration is read again.
#[derive(Debug, Default)]
pub(super) struct Agents {
    list: RwLock<Vec<LocalAgent>>,
}

impl Agents {
    pub(super) fn new(list: Vec<LocalAgent>) -> Self {
        Self { list: RwLock::new(list) }
    }

    /// The next message meets these.
    pub(super) fn replace(&self, list: Vec<LocalAgent>) {
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = list;
    }

    /// The agent of this name; without a name the first one. `Err` holds the names that there are.
    pub(super) fn find(&self, name: Option<&str>) -> Result<LocalAgent, String> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let found = match name {
            None => Some(list.first().cloned().unwrap_or_else(|| LocalAgent::named(DEFAULT_AGENT))),
            Some(name) => list.iter().find(|a| a.name == name).cloned(),
        };
        found.ok_or_else(|| list.iter().map(|a| a.name.as_str()).collect::<Vec<_>>().join(", "))
    }
}

/// The route of an agent: the default one, with what is configured for the agent in its place.
pub(super) fn route(home: &Home, agent: &LocalAgent, default: &Route) -> Route {
    let mut route = Route {
        matches: Match { channel: Some("local".into()), account_id: Some(agent.name.clone()), ..Match::default() },
        trust_level: Some(agent.trust),
        cwd: directory(home, agent),
        ..default.clone()
    };
    if let Some(runtime) = &agent.runtime {
        route.runtime.clone_from(runtime);
    }
    let chosen = agent.model.as_deref().map(str::trim).filter(|m| !m.is_empty());
    if let Some(model) = chosen {
        let mut arguments = selection::arguments(&route.runtime, Choice { model: chosen, ..Choice::default() });
        if arguments.is_empty() && selection::takes_model(&route.runtime) {
            arguments = vec!["--model".to_owned(), model.to_owned()];
        }
        if arguments.is_empty() {
            log::warn!("agent.model_ignored agent={} runtime={} model={model:?}", agent.name, route.runtime);
        }
        route.extra_args.extend(arguments);
    }
    route
}

/// Where an agent works unless a message says otherwise.
pub(super) fn directory(home: &Home, agent: &LocalAgent) -> PathBuf {
    agent.cwd.clone().unwrap_or_else(|| home.workspace(&agent.name))
}

/// Makes the workspaces of agents that have no other directory, 0700, and says which directories are missing.
pub(super) fn prepare(home: &Home, agents: &[LocalAgent]) {
    for agent in agents {
        prepare_directory(&agent.name, &directory(home, agent), agent.cwd.is_none());
    }
}

/// Makes the directory of an agent if it is its workspace; another one has to be there.
pub(super) fn prepare_directory(agent: &str, dir: &Path, is_workspace: bool) {
    if is_workspace {
        if let Err(e) = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir) {
            log::warn!("agent.no_workspace agent={agent} path={} error={e}", dir.display());
        }
    } else if !dir.is_dir() {
        log::warn!("agent.no_directory agent={agent} path={}", dir.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::TrustLevel;

    #[test]
    fn an_agent_of_the_configuration_becomes_a_route() {
        let home = Home::at("/h").unwrap();
        let default = Route { runtime: "codex".into(), extra_args: vec!["--x".into()], ..Route::default() };
        let plain = route(&home, &LocalAgent::named("a"), &default);
        assert_eq!((plain.runtime.as_str(), plain.cwd), ("codex", PathBuf::from("/h/agents/a/workspace")));
        let agent = LocalAgent {
            runtime: Some("acp:goose".into()),
            cwd: Some("/w".into()),
            trust: TrustLevel::Public,
            model: Some(" m ".into()),
            ..LocalAgent::named("b")
        };
        let own = route(&home, &agent, &default);
        assert_eq!(
            (own.runtime.as_str(), own.cwd.clone(), own.trust()),
            ("acp:goose", "/w".into(), TrustLevel::Public)
        );
        assert_eq!(own.extra_args, ["--x", "--model", "m"]);
        let echo = LocalAgent { runtime: Some("echo".into()), ..agent };
        assert_eq!(route(&home, &echo, &default).extra_args, ["--x"]);
    }

    #[test]
    fn an_unknown_agent_is_told_who_there_is() {
        let agents = Agents::new(vec![LocalAgent::named("a"), LocalAgent::named("b")]);
        assert_eq!(agents.find(None).unwrap().name, "a");
        assert_eq!(agents.find(Some("c")).unwrap_err(), "a, b");
        agents.replace(vec![LocalAgent::named("c")]);
        assert_eq!(agents.find(Some("c")).unwrap().name, "c");
    }
}
