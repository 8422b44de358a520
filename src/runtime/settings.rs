//! Everything that the adapters are configured with, gathered once when the registry is built.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::ports::{ACP_IDLE_LIMIT, NDJSON_IDLE_LIMIT};
use crate::message::TrustLevel;
use crate::runtime::process::StopLimits;
use crate::runtime::resolve;

/// How a prompt reaches a CLI that can take it either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptVia {
    /// On standard input: arguments can be read by every user of the machine.
    #[default]
    Stdin,
    /// As an argument, unless it is too long for one.
    Argv,
}

/// What the agent may do without being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// Everything.
    #[default]
    Full,
    /// What the CLI allows without approval; the rest is denied.
    Restricted,
}

/// Permissions by trust level. The owner always has all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RuntimePermissions {
    /// For routes that are `trusted`.
    pub trusted: Permission,
    /// For routes that are `public`.
    pub public: Permission,
}

impl RuntimePermissions {
    /// Whether a run at this trust level is restricted.
    pub fn restricted(&self, trust: TrustLevel) -> bool {
        let permission = match trust {
            TrustLevel::Owner => Permission::Full,
            TrustLevel::Trusted => self.trusted,
            TrustLevel::Public => self.public,
        };
        permission == Permission::Restricted
    }
}

/// An MCP server that agents may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, try_from = "McpServerForm")]
pub enum McpServer {
    /// Reached over HTTP.
    Http {
        /// Name the agent sees.
        name: String,
        /// Address.
        url: String,
        /// Headers of every request; secret.
        headers: BTreeMap<String, String>,
    },
    /// Started by the agent.
    Stdio {
        /// Name the agent sees.
        name: String,
        /// Program.
        command: String,
        /// Arguments.
        args: Vec<String>,
        /// Variables; secret.
        env: BTreeMap<String, String>,
    },
}

/// What is given for either kind; an address makes it one that is reached over HTTP.
#[derive(Deserialize)]
struct McpServerForm {
    name: String,
    url: Option<String>,
    command: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

impl TryFrom<McpServerForm> for McpServer {
    type Error = &'static str;

    fn try_from(form: McpServerForm) -> Result<Self, Self::Error> {
        let McpServerForm { name, url, command, headers, args, env } = form;
        match (url, command) {
            (Some(url), _) => Ok(Self::Http { name, url, headers }),
            (None, Some(command)) => Ok(Self::Stdio { name, command, args, env }),
            (None, None) => Err("neither url nor command is given"),
        }
    }
}

/// A generic agent that speaks the Agent Client Protocol; its id is `acp:<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcpRuntime {
    /// `[a-z0-9][a-z0-9_-]{0,31}`.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables on top of the usual ones.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Session mode to select, where the agent offers it.
    #[serde(default)]
    pub mode: Option<String>,
    /// File in the working directory that gets context and rules.
    #[serde(default)]
    pub context_file: Option<String>,
    /// MCP servers of this agent, after the general ones.
    #[serde(default)]
    pub mcp_servers: Vec<McpServer>,
}

/// Claude Code processes that are kept after a turn for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warm {
    /// How long; zero: none is kept.
    pub keep: Duration,
    /// Most that are kept at once; the one that was used longest ago goes first.
    pub max: usize,
    /// All of them go when the machine has less free memory than this, in bytes. 0: not looked at.
    pub reserve: u64,
}

impl Default for Warm {
    fn default() -> Self {
        Self { keep: Duration::ZERO, max: 4, reserve: 256 << 20 }
    }
}

/// Settings of all adapters.
#[derive(Clone, Debug)]
pub struct RuntimeSettings {
    /// Home directory of the user: logins and fall-back places of binaries are looked for below it.
    pub user_home: PathBuf,
    /// `<home of bellhop>/agents`: one directory per agent below it.
    pub agents_dir: PathBuf,
    /// `<home of bellhop>/daemon`: caches and marks, written only when it exists.
    pub daemon_dir: PathBuf,
    /// The daemon's own environment, from which every child's is made.
    pub base_env: Vec<(OsString, OsString)>,
    /// PATH of children and of the look-up of binaries; see [`resolve::extend_path`].
    pub search_path: OsString,
    /// Directory of the bundled `botcord` command, put in front of a child's PATH.
    pub bundled_bin: Option<PathBuf>,
    /// Variables that children must not see, besides the daemon's own credentials.
    pub remove_env: Vec<String>,
    /// Leave the Anthropic variables in Claude Code's environment, for machines that have a key and no login.
    pub keep_anthropic_env: bool,
    /// The machine is a sandbox: Claude Code may skip permissions as root.
    pub sandboxed: bool,
    /// The daemon runs as root.
    pub as_root: bool,
    /// How prompts are handed over.
    pub prompt_via: PromptVia,
    /// Kill what a normal end of a CLI leaves running.
    pub kill_leftovers: bool,
    /// Permissions by trust level.
    pub permissions: RuntimePermissions,
    /// Whether somebody answers the questions of an agent that is restricted; otherwise what it would have to ask
    /// for is denied.
    pub ask_approvals: bool,
    /// Processes of Claude Code that are kept between turns.
    pub warm: Warm,
    /// Longest silence of a CLI that prints JSON lines; `None` switches the watchdog off.
    pub ndjson_idle: Option<Duration>,
    /// The same for ACP agents.
    pub acp_idle: Option<Duration>,
    /// Pauses before a run whose session is held by another process is repeated.
    pub busy_pauses: Vec<Duration>,
    /// How long a run waits for the end of a CLI that has given its reply, before it is watched aside.
    pub linger: Duration,
    /// Time limits of stopping.
    pub stop: StopLimits,
    /// MCP servers of every agent that takes some.
    pub mcp_servers: Vec<McpServer>,
    /// Generic ACP agents.
    pub acp_runtimes: Vec<AcpRuntime>,
}

impl RuntimeSettings {
    /// Defaults for a daemon whose files lie in `home`, with the environment of this process.
    pub fn from_env(home: &Path) -> Self {
        Self::with_env(home, std::env::vars_os().collect())
    }

    /// The same with a given environment.
    pub fn with_env(home: &Path, base_env: Vec<(OsString, OsString)>) -> Self {
        let var = |name: &str| base_env.iter().rev().find(|(k, _)| k == name).map(|(_, v)| v.as_os_str());
        let user_home = var("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let extra = resolve::extra_directories(&user_home);
        let search_path = resolve::extend_path(var("PATH").unwrap_or_default(), &extra);
        let idle = var("BELLHOP_ACP_IDLE_TIMEOUT_MS").or_else(|| var("BOTCORD_ACP_IDLE_TIMEOUT_MS"));
        Self {
            agents_dir: home.join("agents"),
            daemon_dir: home.join("daemon"),
            ndjson_idle: idle_limit(idle, NDJSON_IDLE_LIMIT),
            acp_idle: idle_limit(idle, ACP_IDLE_LIMIT),
            user_home,
            search_path,
            base_env,
            bundled_bin: None,
            remove_env: Vec::new(),
            keep_anthropic_env: false,
            sandboxed: false,
            as_root: rustix::process::geteuid().is_root(),
            prompt_via: PromptVia::default(),
            kill_leftovers: false,
            permissions: RuntimePermissions::default(),
            ask_approvals: false,
            warm: Warm::default(),
            busy_pauses: [1, 2, 4, 8].map(Duration::from_secs).to_vec(),
            linger: Duration::from_millis(500),
            stop: StopLimits::default(),
            mcp_servers: Vec::new(),
            acp_runtimes: Vec::new(),
        }
    }

    /// A variable of the daemon's environment.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        self.base_env.iter().rev().find(|(k, _)| k == name).map(|(_, v)| v.as_os_str())
    }

    /// Where answers of CLIs are kept between starts; `None`: nowhere, since it is switched off or there is no
    /// daemon's directory yet.
    pub fn catalogue_cache(&self) -> Option<PathBuf> {
        if self.prefixed("RUNTIME_CATALOG_CACHE").is_some_and(|value| value == "0") {
            return None;
        }
        match self.prefixed("RUNTIME_CATALOG_CACHE_DIR") {
            Some(dir) => Some(dir.into()),
            None => self.daemon_dir.is_dir().then(|| self.daemon_dir.join("runtime-catalog-cache")),
        }
    }

    /// Whether the daemon may renew the lists of models in the background.
    pub fn renews_catalogue(&self) -> bool {
        self.prefixed("RUNTIME_CATALOG_BACKGROUND_REFRESH").is_none_or(|value| value != "0")
    }

    /// A variable that is known with the prefix of this program and with that of the older one.
    fn prefixed(&self, name: &str) -> Option<&OsStr> {
        let known = resolve::OVERRIDE_PREFIXES.map(|prefix| format!("{prefix}{name}"));
        known.iter().find_map(|name| self.var(name)).filter(|value| !value.is_empty())
    }

    /// The private directory of an agent, or `None` for a name that is no single path component.
    pub fn agent_dir(&self, agent: &str) -> Option<PathBuf> {
        let plain = !agent.is_empty() && agent != "." && agent != ".." && !agent.contains(['/', '\0']);
        plain.then(|| self.agents_dir.join(agent))
    }
}

/// Milliseconds from a variable: floored, 0 = off; anything that is no number ≥ 0 leaves the default.
fn idle_limit(value: Option<&OsStr>, default: Duration) -> Option<Duration> {
    let given = value.and_then(OsStr::to_str).map(str::trim).and_then(|v| v.parse::<f64>().ok());
    match given {
        Some(ms) if ms.is_finite() && ms >= 0.0 => {
            let ms = ms as u64;
            (ms > 0).then(|| Duration::from_millis(ms))
        }
        _ => Some(default),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect()
    }

    #[test]
    fn the_idle_limit_is_floored_and_zero_switches_it_off() {
        let limit =
            |v: &str| RuntimeSettings::with_env(Path::new("/h"), env(&[("BOTCORD_ACP_IDLE_TIMEOUT_MS", v)])).acp_idle;
        assert_eq!(limit("1500.9"), Some(Duration::from_millis(1500)));
        assert_eq!(limit("0"), None);
        for bad in ["", "soon", "-1", "inf", "NaN"] {
            assert_eq!(limit(bad), Some(ACP_IDLE_LIMIT), "{bad}");
        }
    }

    #[test]
    fn an_agent_directory_never_leaves_its_root() {
        let settings = RuntimeSettings::with_env(Path::new("/h"), env(&[]));
        assert_eq!(settings.agent_dir("ag_1"), Some(PathBuf::from("/h/agents/ag_1")));
        for bad in ["", ".", "..", "a/b", "../x"] {
            assert_eq!(settings.agent_dir(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_renewal_of_catalogues_can_be_switched_off() {
        let renews = |pairs: &[(&str, &str)]| RuntimeSettings::with_env(Path::new("/h"), env(pairs)).renews_catalogue();
        assert!(renews(&[]) && renews(&[("BOTCORD_RUNTIME_CATALOG_BACKGROUND_REFRESH", "1")]));
        for prefix in ["BOTCORD", "BELLHOP"] {
            assert!(!renews(&[(&format!("{prefix}_RUNTIME_CATALOG_BACKGROUND_REFRESH"), "0")]), "{prefix}");
        }
    }

    #[test]
    fn only_what_is_restricted_by_name_is_restricted() {
        let permissions: RuntimePermissions = serde_json::from_str(r#"{"public":"restricted"}"#).unwrap();
        assert!(permissions.restricted(TrustLevel::Public));
        assert!(!permissions.restricted(TrustLevel::Trusted));
        assert!(!permissions.restricted(TrustLevel::Owner));
    }
}
