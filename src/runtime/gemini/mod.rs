//! `gemini`: the command line, environment and instruction file of Gemini CLI.

mod events;

pub use events::Parser;

use crate::engine::cancel::CancelToken;
use crate::engine::ports::{RunRequest, Thrown};
use crate::message::TrustLevel;
use crate::runtime::context_file::{self, Held};
use crate::runtime::environ::Changes;
use crate::runtime::extra_args;
use crate::runtime::ndjson::{Arg, Cli, Launch, StreamParser};
use crate::runtime::process::Stdin;
use crate::runtime::prompt_text;
use crate::runtime::settings::{PromptVia, RuntimeSettings};

/// Registered id.
pub const ID: &str = "gemini";

/// Gemini CLI.
pub struct Gemini;

impl Cli for Gemini {
    fn id(&self) -> &'static str {
        ID
    }

    fn prepare(
        &self,
        request: &RunRequest,
        settings: &RuntimeSettings,
        cancel: &CancelToken,
    ) -> Result<Launch, Thrown> {
        // GEMINI.md is read afresh at every start and not stored in the session, so that context and rules
        // that changed replace the old ones there. In the prompt they would stay.
        let held = write_context(request, cancel);
        let prefix =
            if held.is_some() { None } else { context_file::prepend(request.context(), &request.system_rules) };
        let (args, stdin) = arguments(request, settings, prefix.as_deref());
        let mut env = Changes::default();
        env.set("FORCE_COLOR", "0");
        env.set("NO_COLOR", "1");
        // Without it the CLI starts itself a second time.
        env.set("GEMINI_CLI_NO_RELAUNCH", "1");
        Ok(Launch { args, env, stdin, held, scratch: None, note: None })
    }

    fn parser(&self, request: &RunRequest) -> Box<dyn StreamParser> {
        let resumed = request.session.is_some();
        Box::new(Parser::new(resumed))
    }
}

/// Puts context and rules into the managed section of `GEMINI.md`; `None` when it cannot be written.
fn write_context(request: &RunRequest, cancel: &CancelToken) -> Option<Held> {
    let path = request.cwd.join("GEMINI.md");
    // `@path` in that file is replaced by the content of that file, and context holds names that strangers chose.
    let body =
        context_file::prepend(request.context(), &request.system_rules).map(|body| prompt_text::escape_mentions(&body));
    let held = context_file::lock(&path, cancel)?;
    match held.write_section(body.as_deref()) {
        Ok(_) => Some(held),
        Err(e) => {
            log::warn!("gemini.context_not_written file={} error={e}", path.display());
            None
        }
    }
}

/// The arguments after `gemini`, and what it reads. `prefix` goes in front of the prompt.
pub fn arguments(request: &RunRequest, settings: &RuntimeSettings, prefix: Option<&str>) -> (Vec<Arg>, Stdin) {
    let owner = request.from_owner || request.trust == TrustLevel::Owner;
    let text = match prefix.map(str::trim).filter(|prefix| !prefix.is_empty()) {
        // Preparing leaves the owner's words alone, but the context is not the owner's.
        Some(prefix) if owner => format!("{}\n\n---\n\n{}", prefix.replace('@', "\\@"), request.text),
        Some(prefix) => format!("{prefix}\n\n---\n\n{}", request.text),
        None => request.text.clone(),
    };
    let prompt = prompt_text::prepare(ID, &text, owner);
    let extra = extra_args::gemini(&request.extra_args);
    let has = |names: &[&str]| {
        extra.iter().any(|arg| names.contains(&arg.split_once('=').map_or(arg.as_str(), |(name, _)| name)))
    };
    let mut args: Vec<Arg> = Vec::new();
    let mut stdin = Stdin::Null;
    match prompt_text::via(&prompt, settings.prompt_via) {
        PromptVia::Argv => args.extend(["-p".into(), Arg::Prompt(prompt)]),
        PromptVia::Stdin => stdin = Stdin::Bytes(prompt.into_bytes()),
    }
    args.extend(["--output-format", "stream-json"].map(Arg::from));
    if !has(&["--approval-mode", "-y", "--yolo"]) {
        if settings.permissions.restricted(request.trust) {
            args.extend(["--approval-mode", "default"].map(Arg::from));
        } else {
            args.push("--yolo".into());
        }
    }
    // An untrusted folder would lower the approval mode, or end the CLI.
    if !has(&["--skip-trust"]) {
        args.push("--skip-trust".into());
    }
    if let Some(session) = &request.session {
        args.extend(["--resume".into(), Arg::from(session.id.as_str())]);
    }
    args.extend(extra.into_iter().map(Arg::from));
    (args, stdin)
}
