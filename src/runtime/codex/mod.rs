//! `codex`: the command line, home and instruction file of `codex exec`.

mod events;
mod home;

pub use events::Parser;
pub use home::context_versions;

use crate::engine::cancel::CancelToken;
use crate::engine::ports::{ResumedSession, RunRequest, Thrown};
use crate::message::TrustLevel;
use crate::runtime::environ::Changes;
use crate::runtime::extra_args;
use crate::runtime::ndjson::{Arg, Cli, Launch, StreamParser};
use crate::runtime::process::Stdin;
use crate::runtime::prompt_text;
use crate::runtime::reminder;
use crate::runtime::settings::{PromptVia, RuntimeSettings};

/// Registered id.
pub const ID: &str = "codex";

/// A thread that carries more versions of its instructions than this is left behind.
const MAX_CONTEXT_VERSIONS: u32 = 20;

/// Codex CLI.
pub struct Codex;

impl Cli for Codex {
    fn id(&self) -> &'static str {
        ID
    }

    fn prepare(
        &self,
        request: &RunRequest,
        settings: &RuntimeSettings,
        cancel: &CancelToken,
    ) -> Result<Launch, Thrown> {
        let (args, stdin) = arguments(request, settings);
        let mut env = Changes::default();
        env.set("FORCE_COLOR", "0");
        env.set("NO_COLOR", "1");
        let mut launch = Launch { args, env, stdin, held: None, scratch: None, note: None };
        if let Some(agent) = settings.agent_dir(&request.agent) {
            let prepared = home::prepare(&agent.join("codex-home"), request, settings, cancel)?;
            launch.env.set("CODEX_HOME", agent.join("codex-home"));
            launch.held = prepared.held;
            launch.note = prepared.note;
        }
        Ok(launch)
    }

    fn parser(&self, request: &RunRequest) -> Box<dyn StreamParser> {
        Box::new(Parser::new(request.session.as_ref()))
    }

    fn wants_fresh(&self, session: &ResumedSession) -> bool {
        session.note.as_deref().and_then(context_versions).is_some_and(|versions| versions > MAX_CONTEXT_VERSIONS)
    }
}

/// The arguments after `codex`, and what it reads.
pub fn arguments(request: &RunRequest, settings: &RuntimeSettings) -> (Vec<Arg>, Stdin) {
    let owner = request.from_owner || request.trust == TrustLevel::Owner;
    let (_, passing) = request.split_context();
    let prompt = prompt_text::prepare(ID, &reminder::prefix(Some(&passing), &request.text), owner);
    let extra = extra_args::codex(&request.extra_args);
    let mut args: Vec<Arg> = vec!["exec".into()];
    if let Some(session) = &request.session {
        args.extend(["resume".into(), Arg::from(session.id.as_str())]);
    }
    if !overrides_sandbox(&extra) {
        let restricted = settings.permissions.restricted(request.trust);
        let mode = if restricted { "workspace-write" } else { "danger-full-access" };
        // As settings, because `exec resume` knows no `--sandbox`. The quotes are TOML's.
        args.extend(["-c".into(), Arg::from(format!("sandbox_mode=\"{mode}\""))]);
        args.extend(["-c", "approval_policy=\"never\""].map(Arg::from));
    }
    args.extend(["--skip-git-repo-check", "--json"].map(Arg::from));
    args.extend(extra.into_iter().map(Arg::from));
    match prompt_text::via(&prompt, settings.prompt_via) {
        PromptVia::Argv => {
            args.extend(["--".into(), Arg::Prompt(prompt)]);
            (args, Stdin::Null)
        }
        PromptVia::Stdin => {
            args.push("-".into());
            (args, Stdin::Bytes(prompt.into_bytes()))
        }
    }
}

/// Whether the operator's arguments choose the sandbox.
fn overrides_sandbox(extra: &[String]) -> bool {
    const JOINED: [&str; 3] = ["-c sandbox_mode=", "-csandbox_mode=", "--config=sandbox_mode="];
    let joined = |arg: &String| JOINED.iter().any(|prefix| arg.starts_with(prefix));
    let pair = |pair: &[String]| match pair {
        [flag, value] => (flag == "-c" || flag == "--config") && value.starts_with("sandbox_mode="),
        _ => false,
    };
    extra.iter().any(|arg| arg == "--dangerously-bypass-approvals-and-sandbox" || joined(arg))
        || extra.windows(2).any(pair)
}
