//! The registered runtimes and the adapters made from them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::ports::{Runtime, Runtimes};
use crate::runtime::acp_generic::{self, AcpAgent};
use crate::runtime::claude_code::Claude;
use crate::runtime::codex::Codex;
use crate::runtime::deepseek::DeepSeek;
use crate::runtime::echo::Echo;
use crate::runtime::gemini::Gemini;
use crate::runtime::hermes::Hermes;
use crate::runtime::kimi::Kimi;
use crate::runtime::ndjson::NdjsonRuntime;
use crate::runtime::openclaw::OpenClaw;
use crate::runtime::resolve;
use crate::runtime::settings::RuntimeSettings;
use crate::runtime::version::Answers;

/// Facts about a registered runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Id in routes, keys and frames.
    pub id: &'static str,
    /// For people.
    pub name: &'static str,
    /// Command on PATH.
    pub binary: &'static str,
    /// Variable that names another binary, without its prefix (`BELLHOP_` or `BOTCORD_`).
    pub variable: &'static str,
    /// What to do when it is missing.
    pub install_hint: Option<&'static str>,
}

/// Every runtime with a binary, in the order of every listing.
pub const RUNTIMES: [Descriptor; 7] = [
    Descriptor { id: "claude-code", name: "Claude Code", binary: "claude", variable: "CLAUDE_BIN", install_hint: None },
    Descriptor { id: "codex", name: "Codex CLI", binary: "codex", variable: "CODEX_BIN", install_hint: None },
    Descriptor {
        id: "deepseek-tui",
        name: "DeepSeek TUI",
        binary: "deepseek",
        variable: "DEEPSEEK_TUI_BIN",
        install_hint: Some("put `deepseek` on PATH, or set BELLHOP_DEEPSEEK_TUI_BIN"),
    },
    Descriptor { id: "kimi-cli", name: "Kimi CLI", binary: "kimi", variable: "KIMI_CLI_BIN", install_hint: None },
    Descriptor {
        id: "hermes-agent",
        name: "Hermes Agent",
        binary: "hermes-acp",
        variable: "HERMES_AGENT_BIN",
        install_hint: Some("pip install \"hermes-agent[acp]\", or set BELLHOP_HERMES_AGENT_BIN"),
    },
    Descriptor {
        id: "gemini",
        name: "Gemini CLI",
        binary: "gemini",
        variable: "GEMINI_BIN",
        install_hint: Some("npm install -g @google/gemini-cli, then run `gemini` once"),
    },
    Descriptor {
        id: "openclaw-acp",
        name: "OpenClaw (ACP)",
        binary: "openclaw",
        variable: "OPENCLAW_BIN",
        install_hint: None,
    },
];

/// Id under which [`Registry::get`](Runtimes::get) yields an echo that says why it answers.
pub const ECHO_STAND_IN: &str = "echo:stand-in";

/// The facts about a registered runtime.
pub fn descriptor(id: &str) -> Option<&'static Descriptor> {
    RUNTIMES.iter().find(|d| d.id == id)
}

/// What a look at this machine found out about a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which one.
    pub descriptor: &'static Descriptor,
    /// Where its binary lies; `None` = it is not available.
    pub path: Option<PathBuf>,
    /// First line of `--version`.
    pub version: Option<String>,
    /// Why it is not available.
    pub problem: Option<String>,
}

/// The adapters of this daemon. Each exists once, so that those with pooled processes keep them.
pub struct Registry {
    settings: Arc<RuntimeSettings>,
    adapters: BTreeMap<String, Arc<dyn Runtime>>,
    answers: Arc<Answers>,
}

impl Registry {
    /// Makes the adapters.
    pub fn new(settings: RuntimeSettings) -> Self {
        let settings = Arc::new(settings);
        let answers = Arc::new(Answers::kept_in(settings.catalogue_cache().as_deref()));
        let mut registry = Self { settings: settings.clone(), adapters: BTreeMap::new(), answers };
        registry.add(Claude::new(settings.clone()));
        registry.add(NdjsonRuntime::new(Codex, settings.clone()));
        registry.add(DeepSeek::new(settings.clone()));
        let kimi = Kimi::new(settings.clone(), registry.answers.clone());
        registry.add(NdjsonRuntime::new(kimi, settings.clone()));
        registry.add(Hermes::new(settings.clone()));
        registry.add(NdjsonRuntime::new(Gemini, settings.clone()));
        registry.add(OpenClaw::new(settings.clone()));
        for agent in &settings.acp_runtimes {
            match acp_generic::problem(agent) {
                Some(problem) => log::error!("runtime.config {problem}"),
                None => registry.add(AcpAgent::new(agent.clone(), settings.clone())),
            }
        }
        registry.add(Echo::default());
        registry.adapters.insert(ECHO_STAND_IN.into(), Arc::new(Echo { stands_in: true }));
        registry
    }

    /// Adds an adapter under its own id; an earlier one of that id is replaced.
    pub fn add(&mut self, runtime: impl Runtime + 'static) {
        self.adapters.insert(runtime.id().to_owned(), Arc::new(runtime));
    }

    /// Settings of the adapters.
    pub fn settings(&self) -> &RuntimeSettings {
        &self.settings
    }

    /// What CLIs have said about themselves.
    pub fn answers(&self) -> &Arc<Answers> {
        &self.answers
    }

    /// Ids that [`Runtimes::get`] knows, in the order of listings.
    pub fn ids(&self) -> Vec<&str> {
        let rank = |id: &str| RUNTIMES.iter().position(|d| d.id == id).unwrap_or(RUNTIMES.len());
        let mut ids: Vec<&str> = self.adapters.keys().map(String::as_str).filter(|id| *id != ECHO_STAND_IN).collect();
        crate::sort::sort_by_key(&mut ids, |id| rank(id));
        ids
    }

    /// Id of the first runtime whose binary is there, else [`ECHO_STAND_IN`].
    pub fn first_available(&self) -> &'static str {
        RUNTIMES
            .iter()
            .filter(|d| self.adapters.contains_key(d.id))
            .find(|d| resolve::resolve(d, &self.settings).file.is_some())
            .map_or(ECHO_STAND_IN, |d| d.id)
    }

    /// Looks for one runtime; runs nothing.
    pub fn find(&self, descriptor: &'static Descriptor) -> Probe {
        self.look(descriptor, false)
    }

    /// Looks for one runtime, and asks it for its version.
    pub fn ask(&self, descriptor: &'static Descriptor) -> Probe {
        self.look(descriptor, true)
    }

    fn look(&self, descriptor: &'static Descriptor, asks: bool) -> Probe {
        let found = resolve::resolve(descriptor, &self.settings);
        let asked = found.file.filter(|_| asks);
        let version = asked.and_then(|file| self.answers.version(&found.program, file, &self.settings));
        let path = found.file.map(|_| found.program);
        Probe { descriptor, path, version, problem: found.problem }
    }

    /// Keeps for the next start what the programs have said that are there; the rest is forgotten.
    pub fn keep_answers(&self) {
        let files: Vec<_> = RUNTIMES.iter().filter_map(|d| resolve::resolve(d, &self.settings).file).collect();
        self.answers.keep(&files);
    }
}

impl Runtimes for Registry {
    fn get(&self, id: &str) -> Result<Arc<dyn Runtime>, String> {
        self.adapters
            .get(id)
            .cloned()
            .ok_or_else(|| format!("unknown runtime {id:?}; registered are {}", self.ids().join(", ")))
    }

    fn close(&self) {
        for runtime in self.adapters.values() {
            runtime.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn registry() -> Registry {
        let mut settings = RuntimeSettings::with_env(Path::new("/nowhere"), Vec::new());
        settings.search_path = "/nowhere".into();
        settings.user_home = "/nowhere".into();
        Registry::new(settings)
    }

    #[test]
    fn an_unknown_id_is_told_with_the_known_ones() {
        let Err(message) = registry().get("gpt") else { panic!("gpt is known") };
        assert!(
            message.contains("claude-code, codex, deepseek-tui, kimi-cli, hermes-agent, gemini, openclaw-acp, echo"),
            "{message}"
        );
        assert!(!message.contains(ECHO_STAND_IN), "{message}");
    }

    #[test]
    fn without_any_cli_the_echo_stands_in() {
        let registry = registry();
        assert_eq!(registry.first_available(), ECHO_STAND_IN);
        assert_eq!(registry.get(ECHO_STAND_IN).unwrap().id(), crate::runtime::echo::ID);
    }

    #[test]
    fn every_registered_runtime_is_probed_in_order() {
        let registry = registry();
        let probes: Vec<_> = RUNTIMES.iter().map(|d| registry.ask(d)).collect();
        let ids: Vec<_> = probes.iter().map(|p| p.descriptor.id).collect();
        assert_eq!(ids, RUNTIMES.map(|d| d.id));
        assert!(probes.iter().all(|p| p.path.is_none() && p.problem.is_some()));
    }
}
