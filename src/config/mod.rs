//! The configuration: one JSON file that need not exist, and every path below the home.
//!
//! Knows `message` and the route types of the engine. What is read is checked as a whole before anything is
//! applied; what is not known is kept and named in a warning. The file's format is that of the BotCord
//! daemon with bellhop's own keys beside it.
//!
//! - [`keys`]: the one table of keys. - [`load`]: from text to [`Config`]. - [`edit`]: changes to the file.
//! - [`agents`]: who is named in the document. - [`gateways`]: gateways to other chat services.
//! - [`document`] and [`locate`]: reading JSON so that a mistake can be named with its line.
//! - [`paths`]: the home. - [`cloud`]: what is different in a hub's sandbox.

pub mod agents;
pub mod cloud;
pub mod document;
pub mod edit;
pub mod gateways;
pub mod keys;
pub mod load;
pub mod locate;
pub mod paths;
mod routes;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

pub use document::{ConfigError, Problem};
pub use gateways::GatewayProfile;
pub use paths::{Home, HomeError};

use crate::engine::approvals::ApprovalPolicy;
use crate::engine::ports::Gateway;
use crate::engine::route::Route;
pub use crate::engine::waits::{Parking, Who};
use crate::message::TrustLevel;
pub use crate::runtime::settings::{AcpRuntime, McpServer, Permission, PromptVia, RuntimePermissions};

/// Runtime ids that a route or an agent may name besides `acp:<name>`; `echo` is built in.
pub const RUNTIMES: &[&str] =
    &["claude-code", "codex", "deepseek-tui", "kimi-cli", "hermes-agent", "gemini", "openclaw-acp", "echo"];

/// The agent that there is without any configuration.
pub const DEFAULT_AGENT: &str = "local";

/// When a session is left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// After so many turns.
    pub max_turns: u64,
    /// When a prompt has so many tokens.
    pub max_input_tokens: u64,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { max_turns: 25, max_input_tokens: 160_000 }
    }
}

/// An agent of the local channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAgent {
    /// Its id.
    pub name: String,
    /// Its runtime; `None`: the default route's, else the first one installed.
    pub runtime: Option<String>,
    /// Where it works, when the message does not say.
    pub cwd: Option<PathBuf>,
    /// How far those who write to it are trusted.
    pub trust: TrustLevel,
    /// Model, where the runtime lets it be chosen.
    pub model: Option<String>,
}

impl LocalAgent {
    /// An agent with nothing but a name.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), runtime: None, cwd: None, trust: TrustLevel::Owner, model: None }
    }
}

/// When a hub's copy of a message is given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// When its turn is over.
    #[default]
    Turn,
    /// When the journal has it.
    Journal,
}

/// How the hub's agents are connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSettings {
    /// The hub, in place of the one that credentials name.
    pub url: Option<String>,
    /// When messages are acknowledged.
    pub ack: Ack,
    /// Between two looks into the inbox without being told to; zero: none.
    pub poll: Duration,
    /// Between two renewals of leases.
    pub renew: Duration,
    /// Whether files of messages are fetched before their turn.
    pub fetch_files: bool,
    /// Whether the signatures of other agents' messages are checked.
    pub verify_signatures: bool,
    /// Messages that an agent sends in a minute; 0: as many as there are.
    pub sends: usize,
    /// Messages that it sends to one room in a minute.
    pub sends_to_room: usize,
}

impl Default for HubSettings {
    fn default() -> Self {
        Self {
            url: None,
            ack: Ack::Turn,
            poll: Duration::from_secs(30),
            renew: Duration::from_secs(40),
            sends: 20,
            sends_to_room: 10,
            fetch_files: false,
            verify_signatures: false,
        }
    }
}

/// The configuration, with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it comes from; `None`: there is none, all defaults.
    pub file: Option<PathBuf>,
    /// Local agents; at least one, the first is the default.
    pub local_agents: Vec<LocalAgent>,
    /// Hub agents that are named; empty: those that are found.
    pub agents: Vec<String>,
    /// Whether hub agents are searched for when none is named.
    pub agent_discovery: bool,
    /// Where; `None`: in the home.
    pub credentials_dir: Option<PathBuf>,
    /// How they are connected.
    pub hub: HubSettings,
    /// The default route, if one is configured.
    pub default_route: Option<Route>,
    /// Routes, in file order.
    pub routes: Vec<Route>,
    /// Gateways to other chat services, in file order.
    pub gateways: Vec<GatewayProfile>,
    /// Whether progress is shown to far sides that want it.
    pub stream_blocks: bool,
    /// Whether transcripts are kept, before `BOTCORD_TRANSCRIPT` has its say.
    pub transcript: bool,
    /// Turns that run at once.
    pub max_concurrent_turns: usize,
    /// Longest time of a turn.
    pub turn_timeout: Duration,
    /// Longest silence of a runtime; `None`: each runtime's own limit. Zero: no limit.
    pub idle_timeout: Option<Duration>,
    /// Whether the text of a superseded message is carried along.
    pub carry_superseded: bool,
    /// Turns that agents may cause in a row without a person in between; 0: any number.
    pub max_bot_turns_in_a_row: u32,
    /// How prompts travel.
    pub prompt_via: PromptVia,
    /// When sessions are left behind.
    pub rotation: Rotation,
    /// How long a Claude Code process is kept after a turn; zero: not at all.
    pub claude_warm: Duration,
    /// How many of them are kept at once.
    pub claude_warm_max: usize,
    /// What runtimes may do.
    pub runtime_permissions: RuntimePermissions,
    /// This machine is a sandbox.
    pub sandboxed: bool,
    /// Claude Code gets the provider's variables.
    pub keep_anthropic_env: bool,
    /// Leftovers of turns that ended well are killed.
    pub kill_leftovers: bool,
    /// Free memory below which no further turn starts, in MiB; 0: not looked at.
    pub memory_reserve_mb: u64,
    /// Memory that a turn is expected to take, in MiB.
    pub memory_per_turn_mb: u64,
    /// Whose messages wait for what.
    pub parking: Parking,
    /// A turn without progress for so long is told of; zero: never.
    pub silent_turn: Duration,
    /// Where the metrics are served besides the control socket: an address of this machine.
    pub metrics_listen: Option<std::net::SocketAddr>,
    /// Who decides about tool calls that a runtime asks about.
    pub approvals: ApprovalPolicy,
    /// ACP runtimes.
    pub acp_runtimes: Vec<AcpRuntime>,
    /// The whole document as it was read, with what bellhop does not know.
    pub document: Map<String, Value>,
    /// What is odd but usable, one line each.
    pub warnings: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            file: None,
            local_agents: vec![LocalAgent::named(DEFAULT_AGENT)],
            agents: Vec::new(),
            agent_discovery: true,
            credentials_dir: None,
            hub: HubSettings::default(),
            default_route: None,
            routes: Vec::new(),
            gateways: Vec::new(),
            stream_blocks: true,
            transcript: true,
            max_concurrent_turns: default_concurrency(),
            turn_timeout: Duration::from_mins(30),
            idle_timeout: None,
            carry_superseded: true,
            max_bot_turns_in_a_row: 0,
            prompt_via: PromptVia::Stdin,
            rotation: Rotation::default(),
            claude_warm: Duration::ZERO,
            claude_warm_max: 4,
            runtime_permissions: RuntimePermissions::default(),
            sandboxed: false,
            keep_anthropic_env: false,
            kill_leftovers: false,
            memory_reserve_mb: 256,
            memory_per_turn_mb: 350,
            parking: Parking { usage_limit: Who::Rooms, broken: Who::Rooms },
            silent_turn: Duration::from_mins(10),
            metrics_listen: None,
            approvals: ApprovalPolicy::default(),
            acp_runtimes: Vec::new(),
            document: Map::new(),
            warnings: Vec::new(),
        }
    }
}

fn default_concurrency() -> usize {
    std::thread::available_parallelism().map_or(4, |cores| (cores.get() * 2).max(4))
}

/// Where the answer to "are transcripts kept?" comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TranscriptSource {
    /// `BOTCORD_TRANSCRIPT`.
    Environment,
    /// The file says so.
    File,
    /// Nothing says otherwise.
    Default,
}

impl Config {
    /// Whether transcripts are kept, and who says so.
    pub fn transcript_enabled(&self) -> (bool, TranscriptSource) {
        self.transcript_with(std::env::var("BOTCORD_TRANSCRIPT").ok().as_deref())
    }

    /// The same with this value of the variable.
    pub fn transcript_with(&self, variable: Option<&str>) -> (bool, TranscriptSource) {
        match variable {
            Some("1") => (true, TranscriptSource::Environment),
            Some("0") => (false, TranscriptSource::Environment),
            _ if self.document.get("transcript").is_some_and(|t| t.get("enabled").is_some()) => {
                (self.transcript, TranscriptSource::File)
            }
            _ => (self.transcript, TranscriptSource::Default),
        }
    }

    /// When a session is left for a fresh one. Variables come before the file.
    pub fn rotation(&self) -> Rotation {
        let limit = |name: &str| limit(std::env::var(name).ok().as_deref());
        Rotation {
            max_turns: limit("BOTCORD_GATEWAY_MAX_RESUME_TURNS").unwrap_or(self.rotation.max_turns),
            max_input_tokens: limit("BOTCORD_GATEWAY_MAX_RESUME_INPUT_TOKENS")
                .unwrap_or(self.rotation.max_input_tokens),
        }
    }

    /// Ids of all agents that are named, local ones first.
    pub fn agent_ids(&self) -> Vec<&str> {
        self.local_agents.iter().map(|a| a.name.as_str()).chain(self.agents.iter().map(String::as_str)).collect()
    }

    /// A gateway that the configuration lists, for `agent` behind it, else for its default one.
    pub fn gateway(&self, name: &str, agent: Option<&str>) -> Option<Gateway> {
        let all = self.document.get("openclawGateways").and_then(Value::as_array)?;
        let (gateway, warning) = routes::gateway_named(all, name, agent)?;
        if let Some(warning) = warning {
            log::warn!("config.warning {warning}");
        }
        Some(gateway)
    }

    /// Whether this is one of [`Config::runtime_ids`].
    pub fn has_runtime(&self, id: &str) -> bool {
        let is_own = |name: &str| self.acp_runtimes.iter().any(|runtime| runtime.name == name);
        RUNTIMES.contains(&id) || id.strip_prefix("acp:").is_some_and(is_own)
    }

    /// Ids that a route, an agent or a message may name as its runtime.
    pub fn runtime_ids(&self) -> Vec<String> {
        let acp = self.acp_runtimes.iter().map(|r| format!("acp:{}", r.name));
        RUNTIMES.iter().map(|id| (*id).to_owned()).chain(acp).collect()
    }
}

/// A limit that a variable sets: a number of at least 0, of which the whole part counts. Anything else sets none.
fn limit(text: Option<&str>) -> Option<u64> {
    let number: f64 = text?.trim().parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_variable_sets_a_limit_only_with_a_number() {
        for (text, expected) in [
            ("0", Some(0)),
            (" 7.9 ", Some(7)),
            ("1e3", Some(1_000)),
            ("", None),
            ("-1", None),
            ("inf", None),
            ("x", None),
        ] {
            assert_eq!(super::limit(Some(text)), expected, "{text}");
        }
        assert_eq!(super::limit(None), None);
    }
}
