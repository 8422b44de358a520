//! A turn in a process of its own: what `hermes-agent` and the generic agents share around [`Turn`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::{Plan, Turn};
use super::trace::{Trace, TraceFacts, TraceSettings};
use crate::engine::cancel::CancelToken;
use crate::engine::ports::{RunRequest, RunResult, RunSink, Thrown};
use crate::message::TrustLevel;
use crate::runtime::context_file::Held;
use crate::runtime::linger::Lingering;
use crate::runtime::ndjson;
use crate::runtime::outcome::{self, Facts, Verdict};
use crate::runtime::process::{Driven, Ended, Process, Spec, Stdin, StopCause};
use crate::runtime::settings::RuntimeSettings;

/// How the agent of one turn is started.
pub struct Launch {
    /// Program.
    pub program: PathBuf,
    /// Arguments without the program.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The context file that the agent reads when it opens a session.
    pub held: Option<Held>,
    /// What to remember with a session made in this turn.
    pub fresh_note: Option<String>,
    /// What to remember with the session that was resumed.
    pub resumed_note: Option<String>,
}

/// Runs a turn to its end. `plan.cwd` is the working directory of the process, too. An agent that stays
/// after a complete reply is handed to `lingering`.
pub fn run(
    plan: Plan,
    launch: Launch,
    request: &RunRequest,
    settings: &RuntimeSettings,
    lingering: &Lingering,
    cancel: &CancelToken,
    sink: &mut dyn RunSink,
) -> Result<RunResult, Thrown> {
    let runtime = plan.runtime.clone();
    if let Some(session) = &plan.resume {
        lingering.end_session(session);
    }
    if cancel.is_cancelled() {
        return Ok(aborted_before_spawn(&runtime, request));
    }
    let mut command = vec![launch.program.display().to_string()];
    command.extend(launch.args.iter().cloned());
    let spec = Spec {
        runtime: runtime.clone(),
        turn_id: request.turn_id.clone(),
        program: launch.program,
        args: launch.args.into_iter().map(OsString::from).collect(),
        env: launch.env,
        cwd: plan.cwd.clone(),
        stdin: Stdin::Pipe,
        idle_limit: settings.acp_idle,
        kill_leftovers: settings.kill_leftovers,
        stop: settings.stop,
    };
    let mut trace = Trace::new(&trace_settings(settings), TraceFacts::of_run(&runtime, request));
    let mut process = Process::spawn(spec).map_err(|error| {
        trace.child_error(&error.message);
        ndjson::not_started(error)
    })?;
    sink.spawned(process.id());
    trace.child_start(process.id().pid);
    let mut turn = Turn::new(plan, sink, trace, launch.held);
    // The first wake-up makes the turn begin: a handler can only write while it handles something.
    cancel.wake();
    let ended = match process.drive(cancel, &mut turn) {
        Driven::Ended(ended) => {
            turn.trace().child_exit(ended.exit_code, ended.signal);
            ended
        }
        // It pauses only when the reply is complete.
        Driven::Paused => {
            turn.lingers(process.id());
            lingering.watch(process, &request.turn_id, turn.session().unwrap_or_default());
            ended_without_process(Duration::ZERO)
        }
    };
    if ended.stopped == Some(StopCause::Idle) {
        turn.trace().idle_timeout();
    }
    let parsed = turn.finish(&ended);
    let note = if turn.is_fresh() { launch.fresh_note } else { launch.resumed_note };
    let facts = Facts {
        runtime: &runtime,
        request,
        command: &command,
        events: turn.has_events(),
        succeeded: matches!(parsed.verdict, Verdict::Success(_)),
        cancelled: cancel.is_cancelled(),
        idle_ms: settings.acp_idle.unwrap_or_default().as_millis(),
        note: note.as_deref(),
    };
    Ok(outcome::conclude(facts, parsed, &ended))
}

/// The result of a run that was cancelled before anything was started; the stored session stays.
pub fn aborted_before_spawn(runtime: &str, request: &RunRequest) -> RunResult {
    ndjson::aborted(request, format!("{runtime} aborted before spawn"))
}

/// The end of a turn that no process ended with.
pub fn ended_without_process(duration: Duration) -> Ended {
    Ended {
        exit_code: None,
        signal: None,
        stopped: None,
        given_up: false,
        stderr_tail: String::new(),
        stdout_tail: String::new(),
        skipped_lines: 0,
        duration,
    }
}

/// Whether requests for permission are refused without asking anybody.
pub fn denies(request: &RunRequest, settings: &RuntimeSettings) -> bool {
    request.trust == TrustLevel::Public || settings.permissions.restricted(request.trust)
}

/// Where traces of agents go: below the directory that holds `agents`.
pub fn trace_settings(settings: &RuntimeSettings) -> TraceSettings {
    let home = settings.agents_dir.parent().unwrap_or(Path::new("."));
    TraceSettings::from_vars(home, |name| settings.var(name).and_then(|v| v.to_str()).map(str::to_owned))
}
