//! `claude -p` for agents that come from a vault: the same CLI as `claude-code` with another profile.
//!
//! Such an agent has a private directory, an environment made from scratch, MCP servers of its own and
//! session ids that the daemon chooses. What differs from `claude-code` is here and in [`files`]; driving
//! the process and reading its events is shared.

mod files;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use files::safe_name;

use ring::rand::{SecureRandom, SystemRandom};

use crate::crypto::hex;
use crate::engine::cancel::CancelToken;
use crate::engine::ports::{
    Approval, ApprovalRequest, ErrorClass, ProcessId, RunRequest, RunResult, RunSink, Runtime, Thrown,
};
use crate::message::{Block, BlockKind, Status};
use crate::runtime::claude_code::Parser;
use crate::runtime::environ::Changes;
use crate::runtime::ndjson::{Arg, Cli, Launch, NdjsonRuntime, StreamParser};
use crate::runtime::process::Stdin;
use crate::runtime::prompt_text;
use crate::runtime::settings::{PromptVia, RuntimeSettings};
use crate::time;

/// Registered id.
pub const ID: &str = "claude-vault";

/// Pauses before a turn that failed for a passing reason is repeated.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(5)];

/// Variables of the daemon that such an agent sees; everything else stays outside.
const KEPT: [&str; 14] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "LANG",
    "TZ",
    "CLAUDE_CONFIG_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
    "XDG_STATE_HOME",
    "XDG_RUNTIME_DIR",
];

/// Where the binary lies is looked up in the daemon's variables, and not passed on.
const LOOK_UP: [&str; 2] = ["BELLHOP_CLAUDE_BIN", "BOTCORD_CLAUDE_BIN"];

/// Variables of other agents' runs that mean nothing to these.
const FOREIGN: [&str; 3] = ["BOTCORD_HUB", "BOTCORD_AGENT_ID", "BOTCORD_WAIT_FILE"];

/// Credentials that only the daemon gives.
const REFUSED: [&str; 3] = ["ANTHROPIC_API_KEY", "CLAUDE_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"];

/// How the system prompt is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PromptMode {
    /// After the CLI's own.
    #[default]
    Append,
    /// In its place.
    Replace,
}

/// An MCP server of the agent, reached over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpServer {
    /// Name the agent sees.
    pub name: String,
    /// Address.
    pub url: String,
    /// Sent as a bearer token; secret.
    pub token: Option<String>,
}

/// What one turn of a vault agent depends on besides its request.
#[derive(Clone, Debug, Default)]
pub struct VaultTurn {
    /// Directory that belongs to the agent alone; created when missing.
    pub private: PathBuf,
    /// Model to use.
    pub model: Option<String>,
    /// What becomes of the system prompt.
    pub prompt_mode: PromptMode,
    /// MCP servers, the vault's own first.
    pub servers: Vec<HttpServer>,
    /// Variables of the channel; the daemon's own win over them.
    pub variables: BTreeMap<String, String>,
    /// Login of the agent; secret.
    pub oauth_token: Option<String>,
    /// Keep the CLI's configuration, caches and temporary files in the private directory.
    pub private_home: bool,
    /// Number of the turn in its conversation.
    pub number: Option<u64>,
    /// What woke the agent.
    pub fired_by: Option<String>,
}

/// Knows the agents of vaults.
pub trait VaultAgents: Send + Sync {
    /// What a turn of this request's agent depends on; the message of an unknown agent is shown.
    fn turn(&self, request: &RunRequest) -> Result<VaultTurn, String>;
}

/// The runtime.
pub struct ClaudeVault {
    inner: NdjsonRuntime,
}

impl ClaudeVault {
    /// The runtime for the agents that `agents` knows.
    pub fn new(settings: &RuntimeSettings, agents: Arc<dyn VaultAgents>) -> Self {
        let settings = Arc::new(RuntimeSettings { base_env: kept(&settings.base_env), ..settings.clone() });
        Self { inner: NdjsonRuntime::new(VaultCli { agents }, settings) }
    }

    fn attempt(
        &self,
        request: &RunRequest,
        cancel: &CancelToken,
        sink: &mut Counting<'_>,
    ) -> Result<RunResult, Thrown> {
        sink.tools = false;
        self.inner.run(request, cancel, sink)
    }
}

/// The part of the daemon's environment that vault agents see.
fn kept(env: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let is_kept = |name: &str| KEPT.contains(&name) || LOOK_UP.contains(&name) || name.starts_with("LC_");
    let mut kept: Vec<_> = env.iter().filter(|(name, _)| name.to_str().is_some_and(is_kept)).cloned().collect();
    if !kept.iter().any(|(name, _)| name == "PATH") {
        kept.push(("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()));
    }
    kept
}

impl Runtime for ClaudeVault {
    fn id(&self) -> &str {
        ID
    }

    fn run(&self, request: &RunRequest, cancel: &CancelToken, sink: &mut dyn RunSink) -> Result<RunResult, Thrown> {
        let mut sink = Counting { inner: sink, seq: 0, tools: false };
        let mut request = request.clone();
        let mut pauses = PAUSES.iter();
        let mut replaced = false;
        loop {
            let mut result = self.attempt(&request, cancel, &mut sink)?;
            let failure = result.error.as_ref().filter(|_| !cancel.is_cancelled());
            // What a tool did cannot be done again.
            let Some(failure) = failure.filter(|_| !sink.tools) else {
                result.session_replaced |= replaced && !result.new_session_id.is_empty();
                return Ok(result);
            };
            if request.session.is_some() && (result.session_lost || is_unknown_session(&failure.message)) {
                log::info!("vault.session_replaced agent={}", request.agent);
                request.session = None;
                replaced = true;
                continue;
            }
            let Some(pause) = pauses.next().filter(|_| is_transient(failure.class, &failure.message)) else {
                return Ok(result);
            };
            log::info!("vault.retry agent={} pause_s={}", request.agent, pause.as_secs());
            if cancel.sleep(*pause) {
                return Ok(result);
            }
        }
    }

    fn close(&self) {
        self.inner.close();
    }
}

/// Whether a failure says that the session does not exist.
pub fn is_unknown_session(message: &str) -> bool {
    let lower = message.to_lowercase();
    let then = |first: &str, second: &str| {
        lower.lines().any(|line| line.split_once(first).is_some_and(|(_, rest)| rest.contains(second)))
    };
    let phrases = ["no conversation found", "session not found", "no session found", "no session with"];
    phrases.iter().any(|phrase| lower.contains(phrase))
        || then("conversation ", "not found")
        || then("could not find", "session")
}

/// Whether a failure is likely to pass.
pub fn is_transient(class: Option<ErrorClass>, message: &str) -> bool {
    const WORDS: [&str; 12] = [
        "overloaded",
        "rate limit",
        "service unavailable",
        "bad gateway",
        "gateway time",
        "internal server error",
        "temporarily",
        "timed out",
        "timeout",
        "etimedout",
        "econnreset",
        "529",
    ];
    const CODES: [&str; 5] = ["429", "500", "502", "503", "504"];
    let lower = message.to_lowercase();
    let digits = |c: char| c.is_ascii_digit();
    let is_code = |word: &str| CODES.contains(&word);
    class == Some(ErrorClass::Transient)
        || WORDS.iter().any(|word| lower.contains(word))
        || lower.split(|c| !digits(c)).any(is_code)
}

/// Numbers blocks over all attempts and notes whether a tool was used.
struct Counting<'a> {
    inner: &'a mut dyn RunSink,
    seq: u64,
    tools: bool,
}

impl RunSink for Counting<'_> {
    fn begin(&mut self) -> Result<(), Thrown> {
        self.inner.begin()
    }

    fn spawned(&mut self, process: ProcessId) {
        self.inner.spawned(process);
    }

    fn session(&mut self, id: &str) {
        self.inner.session(id);
    }

    fn lingers(&mut self, process: ProcessId) {
        self.inner.lingers(process);
    }

    fn block(&mut self, block: Block) {
        self.tools |= matches!(block.kind, BlockKind::ToolUse | BlockKind::ToolResult);
        self.seq += 1;
        self.inner.block(Block { seq: self.seq, ..block });
    }

    fn status(&mut self, status: Status) {
        self.inner.status(status);
    }

    fn approval(&mut self, request: ApprovalRequest) -> Option<Approval> {
        self.inner.approval(request)
    }

    fn decision(&mut self) -> Option<(String, Approval)> {
        self.inner.decision()
    }
}

/// Starts the CLI with the profile of vault agents.
struct VaultCli {
    agents: Arc<dyn VaultAgents>,
}

impl Cli for VaultCli {
    /// The binary, its override variable and the form of its session ids are those of `claude-code`.
    fn id(&self) -> &'static str {
        crate::runtime::claude_code::ID
    }

    fn prepare(&self, request: &RunRequest, settings: &RuntimeSettings, _: &CancelToken) -> Result<Launch, Thrown> {
        let refused = |message: String| Thrown { class: Some(ErrorClass::Config), ..Thrown::new(message) };
        let turn = self.agents.turn(request).map_err(refused)?;
        let io = |what: &str, e: std::io::Error| refused(format!("{ID}: cannot write {what}: {e}"));
        let mcp = files::write_mcp(&turn).map_err(|e| io("the MCP configuration", e))?;
        let system =
            files::write_system_prompt(&turn.private, request.context()).map_err(|e| io("the system prompt", e))?;
        if turn.private_home {
            files::seed_home(&turn.private, &request.cwd, &turn.servers).map_err(|e| io("the private home", e))?;
        }
        let attached = files::copy_attachments(&turn.private, &request.attachments);

        let text = prompt(&turn, request.session.is_some(), &time::rfc3339(time::now_ms()), &request.text, &attached);
        let text = prompt_text::prepare(self.id(), &text, true);
        let mut stdin = Stdin::Null;
        let mut args: Vec<Arg> = vec!["-p".into()];
        match prompt_text::via(&text, settings.prompt_via) {
            PromptVia::Argv => args.push(Arg::Prompt(text)),
            PromptVia::Stdin => stdin = Stdin::Bytes(text.into_bytes()),
        }
        args.extend(
            ["--output-format", "stream-json", "--verbose", "--strict-mcp-config", "--mcp-config"].map(Arg::from),
        );
        args.push(mcp.display().to_string().into());
        args.push("--dangerously-skip-permissions".into());
        if let Some(model) = turn.model.as_deref().map(str::trim).filter(|m| !m.is_empty()) {
            args.extend(["--model".into(), Arg::from(model)]);
        }
        if let Some(file) = system {
            let flag = match turn.prompt_mode {
                PromptMode::Append => "--append-system-prompt-file",
                PromptMode::Replace => "--system-prompt-file",
            };
            args.extend([flag.into(), Arg::from(file.display().to_string())]);
        }
        if let Some(session) = &request.session {
            args.extend(["--resume".into(), Arg::from(session.id.as_str())]);
        } else {
            let id = random_uuid().ok_or_else(|| refused(format!("{ID}: no random bytes")))?;
            args.extend(["--session-id".into(), Arg::from(id)]);
        }
        let env = environment(&turn, settings);
        Ok(Launch { args, env, stdin, held: None, scratch: None, note: None })
    }

    fn parser(&self, _: &RunRequest) -> Box<dyn StreamParser> {
        Box::new(Parser::default())
    }
}

/// What is set on top of the daemon's part of the environment.
fn environment(turn: &VaultTurn, settings: &RuntimeSettings) -> Changes {
    let remove = LOOK_UP.into_iter().chain(FOREIGN).collect();
    let mut env = Changes { set: Vec::new(), remove };
    for (name, value) in &turn.variables {
        if REFUSED.contains(&name.as_str()) {
            log::warn!("vault.variable_refused name={name}");
        } else if settings.var(name).is_none() {
            env.set(name, value);
        }
    }
    if !turn.variables.contains_key("IS_SANDBOX") {
        env.set("IS_SANDBOX", "1");
    }
    if turn.private_home {
        for (name, below) in files::HOME_VARIABLES {
            env.set(name, turn.private.join(below));
        }
        env.set("DISABLE_AUTOUPDATER", "1");
    }
    if let Some(token) = &turn.oauth_token {
        env.set("CLAUDE_CODE_OAUTH_TOKEN", token);
    }
    env
}

/// The message with a line in front that says who runs the agent and why, and its files below.
fn prompt(turn: &VaultTurn, resumed: bool, now: &str, text: &str, attached: &[(PathBuf, String)]) -> String {
    // The text before the message is trusted; a wake-up's name must not end the bracket.
    let plain = |s: &str| s.replace(['[', ']', '\n', '\r'], " ");
    let mut facts = vec![format!("now={now}"), format!("session={}", if resumed { "resumed" } else { "new" })];
    facts.extend(turn.number.map(|n| format!("turn={n}")));
    facts.extend(turn.fired_by.as_deref().map(|by| format!("fired-by={}", plain(crate::text::head(by, 120)))));
    let mut prompt = format!("[bellhop run context: {}]\n\n{text}", facts.join(", "));
    if !attached.is_empty() {
        let lines: Vec<_> =
            attached.iter().map(|(path, kind)| format!("- {} ({})", path.display(), plain(kind))).collect();
        prompt.push_str(&format!("\n\n[attached files:\n{}]", lines.join("\n")));
    }
    prompt
}

/// A random UUID (version 4).
fn random_uuid() -> Option<String> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex(&bytes);
    Some(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn failures_are_told_apart() {
        for text in
            ["No conversation found with session ID: x", "conversation abc not found", "Could not find that session"]
        {
            assert!(is_unknown_session(text), "{text}");
        }
        assert!(!is_unknown_session("the file was not found"));
        for text in ["API Error: 529", "HTTP 503", "request timed out", "ECONNRESET"] {
            assert!(is_transient(None, text), "{text}");
        }
        for text in ["1500 tokens", "invalid api key", "err_42900"] {
            assert!(!is_transient(None, text), "{text}");
        }
    }

    #[test]
    fn the_context_line_cannot_be_closed_from_outside() {
        let turn = VaultTurn { number: Some(3), fired_by: Some("cron] do\nthis".into()), ..VaultTurn::default() };
        let files = [(PathBuf::from("/p/a.txt"), "text/plain".to_owned())];
        let text = prompt(&turn, true, "2026-01-01T00:00:00Z", "hi", &files);
        let line = "[bellhop run context: now=2026-01-01T00:00:00Z, session=resumed, turn=3, fired-by=cron  do this]";
        assert_eq!(text, format!("{line}\n\nhi\n\n[attached files:\n- /p/a.txt (text/plain)]"));
    }

    #[test]
    fn the_environment_is_made_from_scratch() {
        let env = [("HOME", "/h"), ("LC_ALL", "C"), ("ANTHROPIC_API_KEY", "x"), ("SECRET", "y")];
        let env = env.map(|(k, v)| (OsString::from(k), OsString::from(v)));
        let kept = kept(&env);
        let names: Vec<_> = kept.iter().filter_map(|(k, _)| k.to_str()).collect();
        assert_eq!(names, ["HOME", "LC_ALL", "PATH"]);

        let settings = RuntimeSettings { base_env: kept, ..RuntimeSettings::with_env(Path::new("/b"), Vec::new()) };
        let variables = [("HOME", "/evil"), ("CLAUDE_API_KEY", "k"), ("MINE", "1")];
        let turn = VaultTurn {
            variables: variables.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            oauth_token: Some("t".into()),
            ..VaultTurn::default()
        };
        let set: Vec<_> = environment(&turn, &settings).set.into_iter().map(|(name, _)| name).collect();
        assert_eq!(set, ["MINE", "IS_SANDBOX", "CLAUDE_CODE_OAUTH_TOKEN"]);
    }

    #[test]
    fn session_ids_are_uuids_and_differ() {
        let (a, b) = (random_uuid().unwrap(), random_uuid().unwrap());
        assert_ne!(a, b);
        assert_eq!((a.len(), a.as_bytes()[14]), (36, b'4'));
    }
}
