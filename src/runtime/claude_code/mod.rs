//! `claude-code`: the command line, environment and system prompt of `claude -p`.
//!
//! A turn is a process of its own, or one of several that a process takes on standard input: see [`warm`].

mod control;
mod events;
mod pool;
pub mod warm;

use std::path::Path;

pub use events::{Parser, Totals};
pub use warm::Claude;

use crate::engine::cancel::CancelToken;
use crate::engine::ports::{ErrorClass, RunRequest, Thrown};
use crate::message::TrustLevel;
use crate::runtime::context_file::{self, Scratch};
use crate::runtime::environ::Changes;
use crate::runtime::extra_args;
use crate::runtime::ndjson::{Arg, Cli, Launch, StreamParser};
use crate::runtime::process::Stdin;
use crate::runtime::prompt_text::{self, MAX_ARGUMENT};
use crate::runtime::settings::{PromptVia, RuntimeSettings};

/// Registered id.
pub const ID: &str = "claude-code";

/// Variables that would replace the login stored in `~/.claude`; a stale one makes every turn fail.
const ANTHROPIC_VARIABLES: [&str; 5] = [
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_CUSTOM_HEADERS",
    "CLAUDE_CODE_OAUTH_TOKEN",
];

/// The permission mode in which nothing is asked and everything allowed.
const BYPASS: &str = "bypassPermissions";

/// How the system prompt is handed over.
#[derive(Clone, Copy, Debug)]
pub enum SystemPrompt<'a> {
    /// There is none.
    None,
    /// As an argument.
    Inline(&'a str),
    /// In a file: it is too long for an argument.
    File(&'a Path),
}

/// Claude Code.
pub struct ClaudeCode;

impl Cli for ClaudeCode {
    fn id(&self) -> &'static str {
        ID
    }

    fn prepare(&self, request: &RunRequest, settings: &RuntimeSettings, _: &CancelToken) -> Result<Launch, Thrown> {
        let text = system_text(request);
        let scratch = match &text {
            Some(text) if text.len() > MAX_ARGUMENT => Some(scratch(request, settings, text)?),
            _ => None,
        };
        let system = match (&text, &scratch) {
            (_, Some(scratch)) => SystemPrompt::File(scratch.path()),
            (Some(text), None) => SystemPrompt::Inline(text),
            (None, None) => SystemPrompt::None,
        };
        let (args, stdin) = arguments(request, settings, system);
        Ok(Launch { args, env: environment(settings), stdin, held: None, scratch, note: None })
    }

    fn parser(&self, _: &RunRequest) -> Box<dyn StreamParser> {
        Box::new(Parser::default())
    }
}

/// The system prompt.
fn system_text(request: &RunRequest) -> Option<String> {
    context_file::prepend(request.context(), &request.system_rules).map(|text| text.replace('\0', "\u{fffd}"))
}

/// What its environment has and has not.
pub(crate) fn environment(settings: &RuntimeSettings) -> Changes {
    let mut env = Changes::default();
    if !settings.keep_anthropic_env {
        env.remove.extend(ANTHROPIC_VARIABLES);
    }
    // As root the CLI refuses to skip permissions unless it is told that the machine is a sandbox.
    if settings.as_root && settings.sandboxed {
        env.set("IS_SANDBOX", "1");
    }
    env
}

fn scratch(request: &RunRequest, settings: &RuntimeSettings, text: &str) -> Result<Scratch, Thrown> {
    let dir = settings
        .agent_dir(&request.agent)
        .map_or_else(|| settings.agents_dir.join("state"), |agent| agent.join("state"));
    Scratch::new(&dir, "system-prompt", text).map_err(|e| Thrown {
        class: Some(ErrorClass::Config),
        ..Thrown::new(format!("cannot write the system prompt to {}: {e}", dir.display()))
    })
}

/// The arguments after `claude`, and what it reads.
pub fn arguments(request: &RunRequest, settings: &RuntimeSettings, system: SystemPrompt<'_>) -> (Vec<Arg>, Stdin) {
    let prompt = prompt_text::prepare(ID, &request.text, is_owner(request));
    let mut args: Vec<Arg> = vec!["-p".into()];
    let mut stdin = Stdin::Null;
    match prompt_text::via(&prompt, settings.prompt_via) {
        PromptVia::Argv => args.push(Arg::Prompt(prompt)),
        PromptVia::Stdin => stdin = Stdin::Bytes(prompt.into_bytes()),
    }
    let mode = if settings.permissions.restricted(request.trust) { "dontAsk" } else { BYPASS };
    args.extend(common_arguments(request, request.session.as_ref().map(|s| s.id.as_str()), system, &[mode]));
    (args, stdin)
}

/// The arguments after `claude` of a process that takes its turns on standard input. One that may not do everything
/// asks there for permission, if somebody is there to answer.
fn stream_arguments(
    request: &RunRequest,
    settings: &RuntimeSettings,
    session: Option<&str>,
    system: SystemPrompt<'_>,
) -> Vec<Arg> {
    let mode: &[&str] = match settings.permissions.restricted(request.trust) {
        false => &[BYPASS],
        true if settings.ask_approvals => &["default", "--permission-prompt-tool", "stdio"],
        true => &["dontAsk"],
    };
    let mut args: Vec<Arg> = ["-p", "--input-format", "stream-json"].map(Arg::from).to_vec();
    args.extend(common_arguments(request, session, system, mode));
    args
}

/// What follows the prompt. `mode` is the permission mode, with what it needs.
fn common_arguments(request: &RunRequest, session: Option<&str>, system: SystemPrompt<'_>, mode: &[&str]) -> Vec<Arg> {
    let extra = extra_args::claude(&request.extra_args);
    let has = |prefix: &str| extra.iter().any(|arg| arg.starts_with(prefix));
    let mut args = ["--output-format", "stream-json", "--verbose"].map(Arg::from).to_vec();
    // The agent's skills in the working directory are seen, the user's own settings are not.
    if !has("--setting-sources") {
        args.extend(["--setting-sources", "project"].map(Arg::from));
    }
    if let Some(session) = session {
        args.extend(["--resume", session].map(Arg::from));
    }
    if !has("--permission-mode") {
        args.push("--permission-mode".into());
        args.extend(mode.iter().copied().map(Arg::from));
    }
    if !extra.iter().any(|arg| arg == "--append-system-prompt") {
        match system {
            SystemPrompt::None => {}
            SystemPrompt::Inline(text) => {
                args.extend(["--append-system-prompt".into(), Arg::Prompt(text.to_owned())]);
            }
            SystemPrompt::File(path) => {
                args.extend(["--append-system-prompt-file".into(), Arg::from(path.display().to_string())]);
            }
        }
    }
    args.extend(extra.into_iter().map(Arg::from));
    args
}

fn is_owner(request: &RunRequest) -> bool {
    request.from_owner || request.trust == TrustLevel::Owner
}
