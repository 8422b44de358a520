//! `hermes-agent`: an ACP agent with a home and a working directory of its own per agent.

mod home;
pub mod profiles;

use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::cancel::CancelToken;
use crate::engine::ports::{ErrorClass, RunRequest, RunResult, RunSink, Runtime, Thrown};
use crate::runtime::acp::client::Plan;
use crate::runtime::acp::run::{self, Launch};
use crate::runtime::context_file::{self, Held, private_dir};
use crate::runtime::environ::{self, Changes};
use crate::runtime::linger::Lingering;
use crate::runtime::ndjson;
use crate::runtime::reminder::Told;
use crate::runtime::selection::Selection;
use crate::runtime::settings::RuntimeSettings;

/// Registered id.
pub const ID: &str = "hermes-agent";

/// Hermes.
pub struct Hermes {
    settings: Arc<RuntimeSettings>,
    lingering: Lingering,
}

impl Hermes {
    /// The runtime.
    pub fn new(settings: Arc<RuntimeSettings>) -> Self {
        Self { settings, lingering: Lingering::default() }
    }

    /// Working directory: the agent's own; the route's only where there is no agent.
    fn workspace(&self, request: &RunRequest) -> Result<PathBuf, Thrown> {
        if request.agent.is_empty() {
            ndjson::check_cwd(&request.cwd)?;
            return Ok(request.cwd.clone());
        }
        let workspace = self.agent_dir(request)?.join("hermes-workspace");
        private_dir(&workspace).map_err(|e| refused(format!("cannot create {}: {e}", workspace.display())))?;
        Ok(workspace)
    }

    fn agent_dir(&self, request: &RunRequest) -> Result<PathBuf, Thrown> {
        let agent = &request.agent;
        self.settings.agent_dir(agent).ok_or_else(|| refused(format!("{agent:?} is no valid agent id")))
    }

    /// `HERMES_HOME`: the bound profile's, or one that belongs to the agent. `None` leaves the user's own.
    fn home(&self, request: &RunRequest) -> Result<Option<PathBuf>, Thrown> {
        if let Some(profile) = &request.hermes_profile {
            let home = profiles::home(&self.settings.user_home, profile);
            return home.map(Some).ok_or_else(|| refused(format!("{profile:?} is no valid Hermes profile")));
        }
        if request.agent.is_empty() {
            return Ok(None);
        }
        let home = self.agent_dir(request)?.join("hermes-home");
        if let Err(error) = home::seed(&home, &self.settings.user_home.join(".hermes")) {
            log::warn!("hermes.home directory={} error={error}", home.display());
        }
        Ok(Some(home))
    }
}

impl Runtime for Hermes {
    fn id(&self) -> &str {
        ID
    }

    fn run(&self, request: &RunRequest, cancel: &CancelToken, sink: &mut dyn RunSink) -> Result<RunResult, Thrown> {
        let cwd = self.workspace(request)?;
        let mut changes = Changes::default();
        changes.set("NO_COLOR", "1");
        // Dangerous tools ask instead of refusing by themselves.
        changes.set("HERMES_INTERACTIVE", "1");
        if let Some(home) = self.home(request)? {
            changes.set("HERMES_HOME", home);
        }
        let env = environ::of_run(request, &self.settings, &changes)?;
        let told = Told::of(request);
        // AGENTS.md is read when a session is made and stays in it as it was.
        let first = request.session.as_ref().and_then(|s| s.note.clone());
        let changed = first.as_ref().is_some_and(|first| *first != told.mark);
        let Some(held) = context_file::lock(&cwd.join("AGENTS.md"), cancel) else {
            return Ok(run::aborted_before_spawn(ID, request));
        };
        let held = write(held, told.whole.as_deref().unwrap_or_default());
        let plan = Plan {
            runtime: ID.to_owned(),
            resume: request.session.as_ref().map(|s| s.id.clone()).filter(|id| !id.is_empty()),
            cwd,
            user_turn: request.text.clone(),
            fresh_prompt: request.text.clone(),
            resumed_prompt: told.again(!changed, &request.text),
            mcp_servers: self.settings.mcp_servers.clone(),
            mode: None,
            model: Selection::from_args(&request.extra_args).model,
            deny: run::denies(request, &self.settings),
            linger: self.settings.linger,
            failures_as_text: true,
        };
        let launch = Launch {
            program: ndjson::program(ID, &self.settings),
            args: Vec::new(),
            env,
            held: Some(held),
            resumed_note: Some(first.unwrap_or_else(|| told.mark.clone())),
            fresh_note: Some(told.mark),
        };
        run::run(plan, launch, request, &self.settings, &self.lingering, cancel, sink)
    }

    fn close(&self) {
        self.lingering.end_all();
    }
}

/// A turn without its context is better than none.
fn write(held: Held, content: &str) -> Held {
    if let Err(error) = held.write(content) {
        log::warn!("hermes.context error={error}");
    }
    held
}

fn refused(message: String) -> Thrown {
    Thrown { class: Some(ErrorClass::Config), ..Thrown::new(message) }
}
