//! The CLIs that are tried: what they are called, what they need, and where they keep what.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Id of the user and the group that everything runs as when the test runs as root.
pub const NOBODY: u32 = 65_534;

/// A CLI that bellhop drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cli {
    Claude,
    Codex,
    Gemini,
    /// The newer program of that name.
    Kimi,
    /// The older one.
    KimiLegacy,
    Hermes,
    /// Gemini as an ACP agent of `acpRuntimes`.
    AcpGemini,
    /// Kimi (the newer one) likewise.
    AcpKimi,
    /// `claude-agent-acp`, which brings a Claude Code of its own, likewise.
    AcpClaude,
}

impl Cli {
    /// Id of its runtime.
    pub fn runtime(self) -> &'static str {
        match self {
            Self::Claude => "claude-code",
            Self::Codex => "codex",
            Self::Gemini => "gemini",
            Self::Kimi | Self::KimiLegacy => "kimi-cli",
            Self::Hermes => "hermes-agent",
            Self::AcpGemini => "acp:gemini",
            Self::AcpKimi => "acp:kimi",
            Self::AcpClaude => "acp:claude",
        }
    }

    /// Its command, and the variable that names another one to the test.
    fn binary(self) -> (&'static str, &'static str) {
        match self {
            Self::KimiLegacy => ("kimi-legacy", "BELLHOP_TEST_KIMI_LEGACY_BIN"),
            Self::AcpClaude => ("claude-agent-acp", "BELLHOP_TEST_CLAUDE_AGENT_ACP_BIN"),
            Self::Claude => ("claude", self.variable()),
            Self::Codex => ("codex", self.variable()),
            Self::Gemini | Self::AcpGemini => ("gemini", self.variable()),
            Self::Kimi | Self::AcpKimi => ("kimi", self.variable()),
            Self::Hermes => ("hermes-acp", self.variable()),
        }
    }

    /// The variable that names its binary to the daemon.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Claude | Self::AcpClaude => "BELLHOP_CLAUDE_BIN",
            Self::Codex => "BELLHOP_CODEX_BIN",
            Self::Gemini | Self::AcpGemini => "BELLHOP_GEMINI_BIN",
            Self::Kimi | Self::KimiLegacy | Self::AcpKimi => "BELLHOP_KIMI_CLI_BIN",
            Self::Hermes => "BELLHOP_HERMES_AGENT_BIN",
        }
    }

    /// Its entry of `acpRuntimes`: name and further arguments.
    pub fn acp(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            Self::AcpGemini => Some(("gemini", &["--acp"])),
            Self::AcpKimi => Some(("kimi", &["acp"])),
            Self::AcpClaude => Some(("claude", &[])),
            Self::Claude | Self::Codex | Self::Gemini | Self::Kimi | Self::KimiLegacy | Self::Hermes => None,
        }
    }

    /// Where it is, or why the test cannot run.
    pub fn find(self) -> Result<PathBuf, String> {
        let (name, variable) = self.binary();
        let file = match std::env::var_os(variable) {
            Some(file) => PathBuf::from(file),
            None => on_path(name).ok_or(format!("{name} is not on PATH and {variable} is not set"))?,
        };
        let answer = as_user(&file).arg("--version").stdin(Stdio::null()).output();
        match answer {
            Ok(output) if output.status.success() => {
                println!("{} {}", file.display(), String::from_utf8_lossy(&output.stdout).trim());
                Ok(file)
            }
            _ => Err(format!("{} --version fails as the user of the test", file.display())),
        }
    }

    /// Where it keeps its sessions, below a world's directory.
    pub fn sessions(self) -> &'static [&'static str] {
        match self {
            Self::Claude | Self::AcpClaude => &["user/.claude/projects"],
            Self::Codex => &["home/agents/local/codex-home/sessions"],
            Self::Gemini | Self::AcpGemini => &["user/.gemini/tmp"],
            Self::Kimi | Self::AcpKimi => &["user/.kimi-code/sessions"],
            Self::KimiLegacy => &["user/.kimi/sessions"],
            Self::Hermes => &[
                "home/agents/local/hermes-home/sessions",
                "home/agents/local/hermes-home/state.db",
                "home/agents/local/hermes-home/state.db-wal",
                "home/agents/local/hermes-home/state.db-shm",
            ],
        }
    }

    /// The files that point it to a model service on this port, below a world's directory.
    pub fn settings(self, port: u16) -> Vec<(&'static str, String)> {
        let (path, text) = match self {
            // They are told by the environment.
            Self::Claude | Self::AcpClaude => return Vec::new(),
            Self::Codex => ("home/agents/local/codex-home/config.toml", CODEX),
            Self::Gemini | Self::AcpGemini => ("user/.gemini/settings.json", GEMINI),
            Self::Kimi | Self::AcpKimi => ("user/.kimi-code/config.toml", KIMI),
            Self::KimiLegacy => ("user/.kimi/config.toml", KIMI_LEGACY),
            // The user's own, from which the agent's home is made.
            Self::Hermes => ("user/.hermes/config.yaml", HERMES),
        };
        vec![(path, text.replace("@PORT@", &port.to_string()))]
    }
}

pub fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|file| file.is_file())
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command as an ordinary user.
pub fn as_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={NOBODY}")).arg(format!("--regid={NOBODY}")).args(["--clear-groups", "--"]);
    command.arg(program);
    command
}

const CODEX: &str = r#"
model = "gpt-5.5"
model_provider = "stub"
check_for_update_on_startup = false
[model_providers.stub]
name = "stub"
base_url = "http://127.0.0.1:@PORT@/v1"
env_key = "STUB_API_KEY"
wire_api = "responses"
request_max_retries = 1
stream_max_retries = 1
[analytics]
enabled = false
"#;

const GEMINI: &str = r#"{
 "general": {"disableAutoUpdate": true, "disableUpdateNag": true, "enableAutoUpdate": false, "maxAttempts": 1},
 "privacy": {"usageStatisticsEnabled": false}, "telemetry": {"enabled": false},
 "security": {"auth": {"selectedType": "gemini-api-key"}}
}"#;

const KIMI: &str = r#"
default_model = "stub"
telemetry = false
[loop_control]
max_attempts_per_step = 2
[providers.stub]
type = "openai"
base_url = "http://127.0.0.1:@PORT@/v1"
api_key = "sk-fake"
[models.stub]
provider = "stub"
model = "stub-model"
max_context_size = 200000
"#;

const KIMI_LEGACY: &str = r#"
default_model = "stub"
[loop_control]
max_retries_per_step = 1
[providers.stub]
type = "openai_legacy"
base_url = "http://127.0.0.1:@PORT@/v1"
api_key = "sk-fake"
[models.stub]
provider = "stub"
model = "stub-model"
max_context_size = 200000
"#;

const HERMES: &str = "
model:
  default: stub-model
  provider: custom
  base_url: http://127.0.0.1:@PORT@/v1
  api_key: sk-fake
  context_length: 200000
";
