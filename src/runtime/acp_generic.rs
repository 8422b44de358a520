//! `acp:<name>`: any agent that speaks the Agent Client Protocol, from the configuration.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::engine::cancel::CancelToken;
use crate::engine::ports::{ErrorClass, RunRequest, RunResult, RunSink, Runtime, Thrown};
use crate::runtime::acp::client::Plan;
use crate::runtime::acp::run::{self, Launch};
use crate::runtime::context_file::{self, Held};
use crate::runtime::environ::{self, Changes};
use crate::runtime::linger::Lingering;
use crate::runtime::ndjson;
use crate::runtime::reminder::Told;
use crate::runtime::resolve;
use crate::runtime::selection::Selection;
use crate::runtime::settings::{AcpRuntime, RuntimeSettings};

/// What is wrong with the configuration of an agent; `None` when nothing is.
pub fn problem(runtime: &AcpRuntime) -> Option<String> {
    let name = runtime.name.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let named = (1..=32).contains(&name.len())
        && name.first().is_some_and(plain)
        && name.iter().all(|b| plain(b) || matches!(b, b'_' | b'-'));
    if !named {
        return Some(format!("acpRuntimes: name {:?} is not [a-z0-9][a-z0-9_-]{{0,31}}", runtime.name));
    }
    if runtime.command.first().is_none_or(String::is_empty) {
        return Some(format!("acpRuntimes: {} has no command", runtime.name));
    }
    let file = runtime.context_file.as_ref()?;
    let inside = Path::new(file).components().all(|c| matches!(c, Component::Normal(_))) && !file.is_empty();
    (!inside)
        .then(|| format!("acpRuntimes: contextFile {file:?} of {} is not inside the working directory", runtime.name))
}

/// The program of an agent: looked up on PATH unless it is given with a directory. `None`: not found.
pub fn program(runtime: &AcpRuntime, settings: &RuntimeSettings) -> Option<PathBuf> {
    let command = Path::new(runtime.command.first()?);
    if command.components().count() > 1 {
        return resolve::FileId::of_executable(command).map(|_| command.to_owned());
    }
    resolve::on_path(command, &settings.search_path)
}

/// A configured agent.
pub struct AcpAgent {
    id: String,
    runtime: AcpRuntime,
    settings: Arc<RuntimeSettings>,
    lingering: Lingering,
}

impl AcpAgent {
    /// The runtime of a configuration without [`problem`].
    pub fn new(runtime: AcpRuntime, settings: Arc<RuntimeSettings>) -> Self {
        Self { id: format!("acp:{}", runtime.name), runtime, settings, lingering: Lingering::default() }
    }

    /// Writes the context file. `Ok(None)`: there is none, or it could not be written, so that the context
    /// has to go into the prompt.
    fn write_context(
        &self,
        request: &RunRequest,
        context: Option<&str>,
        cancel: &CancelToken,
    ) -> Result<Option<Held>, Aborted> {
        let Some(file) = &self.runtime.context_file else { return Ok(None) };
        let path = request.cwd.join(file);
        let held = context_file::lock(&path, cancel).ok_or(Aborted)?;
        match held.write_section(context) {
            Ok(_) => Ok(Some(held)),
            Err(error) => {
                log::warn!("acp.context_file runtime={} file={} error={error}", self.id, path.display());
                Ok(None)
            }
        }
    }
}

/// The turn was cancelled while it waited for its context file.
struct Aborted;

impl Runtime for AcpAgent {
    fn id(&self) -> &str {
        &self.id
    }

    fn run(&self, request: &RunRequest, cancel: &CancelToken, sink: &mut dyn RunSink) -> Result<RunResult, Thrown> {
        ndjson::check_cwd(&request.cwd)?;
        let Some(program) = program(&self.runtime, &self.settings) else {
            let command = self.runtime.command.first().map_or("", String::as_str);
            let message = format!("{}: {command} not found on PATH", self.id);
            return Err(Thrown { class: Some(ErrorClass::Missing), ..Thrown::new(message) });
        };
        let mut changes = Changes::default();
        for (name, value) in &self.runtime.env {
            changes.set(name, value);
        }
        let env = environ::of_run(request, &self.settings, &changes)?;
        let told = Told::of(request);
        let Ok(held) = self.write_context(request, told.whole.as_deref(), cancel) else {
            return Ok(run::aborted_before_spawn(&self.id, request));
        };
        // Without a file the agent is told again whenever what lasts of the context differs from what it was told last.
        let knows = request.session.as_ref().and_then(|s| s.note.as_deref()) == Some(told.mark.as_str());
        let text = &request.text;
        let (fresh_prompt, resumed_prompt, note) = match held {
            Some(_) => (text.clone(), text.clone(), None),
            None => (told.again(false, text), told.again(knows, text), Some(told.mark)),
        };
        let plan = Plan {
            runtime: self.id.clone(),
            resume: request.session.as_ref().map(|s| s.id.clone()).filter(|id| !id.is_empty()),
            cwd: request.cwd.clone(),
            user_turn: request.text.clone(),
            fresh_prompt,
            resumed_prompt,
            mcp_servers: [self.settings.mcp_servers.as_slice(), &self.runtime.mcp_servers].concat(),
            mode: self.runtime.mode.clone(),
            model: Selection::from_args(&request.extra_args).model,
            deny: run::denies(request, &self.settings),
            linger: self.settings.linger,
            failures_as_text: false,
        };
        let args = self.runtime.command.iter().skip(1).cloned().collect();
        let launch = Launch { program, args, env, held, fresh_note: note.clone(), resumed_note: note };
        run::run(plan, launch, request, &self.settings, &self.lingering, cancel, sink)
    }

    fn close(&self) {
        self.lingering.end_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(json: serde_json::Value) -> AcpRuntime {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_configuration_is_checked_before_it_is_used() {
        use serde_json::json;
        assert_eq!(problem(&runtime(json!({"name":"goose","command":["goose","acp"],"contextFile":"a/B.md"}))), None);
        for bad in [
            json!({"name":"Goose","command":["goose"]}),
            json!({"name":"","command":["goose"]}),
            json!({"name":"g","command":[]}),
            json!({"name":"g","command":["g"],"contextFile":"../x"}),
            json!({"name":"g","command":["g"],"contextFile":"/etc/x"}),
        ] {
            assert!(problem(&runtime(bad.clone())).is_some(), "{bad}");
        }
    }
}
