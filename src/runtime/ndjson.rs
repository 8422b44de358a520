//! Driver of the CLIs that run once per turn and print one JSON object per line.
//!
//! What is particular to a CLI is its [`Cli`] (arguments, environment, files) and its [`StreamParser`]
//! (what its events mean). Everything else is here: starting, numbering of blocks, the announcement of the
//! session, stopping, repeating when another process holds the session, and the evidence of a failure.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::engine::cancel::CancelToken;
use crate::engine::ports::{ErrorClass, ResumedSession, RunError, RunRequest, RunResult, RunSink, Runtime, Thrown};
use crate::json;
use crate::message::{Block, BlockKind, Digest, Status};
use crate::redact;
use crate::runtime::context_file::{Held, Scratch};
use crate::runtime::linger::Lingering;
use crate::runtime::outcome::{self, Facts, Parsed};
use crate::runtime::process::{Driven, Ended, Handler, Io, Process, SpawnError, Spec, Stdin};
use crate::runtime::settings::RuntimeSettings;
use crate::runtime::{descriptor, environ, resolve, session_id};
use crate::text;

/// How long a CLI may stay after its terminal event (Claude Code waits 5 s for its background tasks).
const GRACE: Duration = Duration::from_secs(10);
/// Lines that are no JSON are logged up to this number per run, then only counted.
const MAX_LOGGED_LINES: u64 = 10;

/// What is particular to starting one CLI.
pub trait Cli: Send + Sync {
    /// Registered id.
    fn id(&self) -> &'static str;

    /// Arguments, environment and files of a run. Called anew for every attempt.
    fn prepare(&self, request: &RunRequest, settings: &RuntimeSettings, cancel: &CancelToken)
    -> Result<Launch, Thrown>;

    /// A parser for the output of that run.
    fn parser(&self, request: &RunRequest) -> Box<dyn StreamParser>;

    /// See [`Runtime::wants_fresh`].
    fn wants_fresh(&self, session: &ResumedSession) -> bool {
        let _ = session;
        false
    }

    /// See [`Runtime::acts_unseen`].
    fn acts_unseen(&self) -> bool {
        false
    }
}

/// One argument of a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arg {
    /// As it is.
    Plain(String),
    /// A prompt or a system prompt; logs show its size only.
    Prompt(String),
}

impl Arg {
    /// What the child gets.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Plain(text) | Self::Prompt(text) => text,
        }
    }

    /// What logs show.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Prompt(text) => format!("<prompt: {} bytes>", text.len()),
        }
    }
}

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Self::Plain(text.to_owned())
    }
}

impl From<String> for Arg {
    fn from(text: String) -> Self {
        Self::Plain(text)
    }
}

/// How one run is started.
#[derive(Debug)]
pub struct Launch {
    /// Arguments without the program.
    pub args: Vec<Arg>,
    /// Changes of the environment.
    pub env: environ::Changes,
    /// What the CLI reads.
    pub stdin: Stdin,
    /// The context file that it reads, held until [`StreamParser::has_read_context`] says that it has.
    pub held: Option<Held>,
    /// A file that is removed after the run.
    pub scratch: Option<Scratch>,
    /// See [`RunResult::note`].
    pub note: Option<String>,
}

/// What the driver does after an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    /// Read on.
    #[default]
    Continue,
    /// That was the terminal event of success: the reply is complete, the CLI has 10 s to end.
    Succeeded,
    /// That was the terminal event of a failure: the CLI has 10 s to end.
    Failed,
    /// The run cannot succeed any more: stop it.
    Stop,
}

/// What one event amounts to.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Kind of its block.
    pub kind: BlockKind,
    /// For people.
    pub digest: Digest,
    /// The status event that comes before the block.
    pub status: Option<Status>,
    /// What to do next.
    pub then: Then,
}

impl Seen {
    /// A block without digest and status.
    pub fn kind(kind: BlockKind) -> Self {
        Self { kind, digest: Digest::default(), status: None, then: Then::Continue }
    }

    /// With a digest.
    #[must_use]
    pub fn digest(mut self, digest: Digest) -> Self {
        self.digest = digest;
        self
    }

    /// With a status event.
    #[must_use]
    pub fn status(mut self, status: Status) -> Self {
        self.status = Some(status);
        self
    }

    /// With something to do next.
    #[must_use]
    pub fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }
}

/// Understands the events of one run.
pub trait StreamParser {
    /// One object of standard output.
    fn event(&mut self, event: &Value) -> Seen;

    /// One object that came after the run was told to stop. Only its session and its numbers are used.
    fn after_stop(&mut self, event: &Value) {
        let _ = self.event(event);
    }

    /// One line of standard error; a CLI may tell of its retries there.
    fn stderr_line(&mut self, line: &str) -> Option<Status> {
        let _ = line;
        None
    }

    /// The session announced so far.
    fn session(&self) -> Option<&str>;

    /// Whether the CLI has certainly read its context file, so that another run may write it.
    fn has_read_context(&self) -> bool {
        self.session().is_some()
    }

    /// Whether something of the turn goes on inside the CLI after its terminal event.
    fn goes_on(&self) -> bool {
        false
    }

    /// What it all meant. Called once, at the end.
    fn finish(&mut self, ended: &Ended) -> Parsed;
}

/// A runtime that is one process per turn.
pub struct NdjsonRuntime {
    cli: Box<dyn Cli>,
    settings: Arc<RuntimeSettings>,
    lingering: Lingering,
}

impl NdjsonRuntime {
    /// The runtime of this CLI.
    pub fn new(cli: impl Cli + 'static, settings: Arc<RuntimeSettings>) -> Self {
        Self { cli: Box::new(cli), settings, lingering: Lingering::default() }
    }

    /// The processes that have given their reply and not ended yet.
    pub(super) fn lingering(&self) -> &Lingering {
        &self.lingering
    }
}

impl Runtime for NdjsonRuntime {
    fn id(&self) -> &str {
        self.cli.id()
    }

    fn run(&self, request: &RunRequest, cancel: &CancelToken, sink: &mut dyn RunSink) -> Result<RunResult, Thrown> {
        let id = self.cli.id();
        if let Some(refused) = refuse_session(id, request) {
            return Ok(refused);
        }
        if let Some(session) = &request.session {
            self.lingering.end_session(&session.id);
        }
        let mut pauses = self.settings.busy_pauses.iter();
        let mut seq = 0;
        loop {
            let result = self.attempt(request, cancel, sink, &mut seq)?;
            let busy = result.error.as_ref().is_some_and(|e| e.class == Some(ErrorClass::Busy));
            let Some(pause) = pauses.next().filter(|_| busy) else { return Ok(result) };
            log::info!("runtime.busy runtime={id} turn={} pause_ms={}", request.turn_id, pause.as_millis());
            if cancel.sleep(*pause) {
                return Ok(aborted(request, format!("{id} aborted")));
            }
        }
    }

    fn begins_itself(&self) -> bool {
        true
    }

    fn wants_fresh(&self, session: &ResumedSession) -> bool {
        self.cli.wants_fresh(session)
    }

    fn acts_unseen(&self) -> bool {
        self.cli.acts_unseen()
    }

    fn close(&self) {
        self.lingering.end_all();
    }
}

/// The result for a session id that must not reach a command line.
pub fn refuse_session(id: &str, request: &RunRequest) -> Option<RunResult> {
    let session = request.session.as_ref()?;
    if session_id::accepted(id, &session.id) {
        return None;
    }
    let message = format!("{id} cannot resume the stored session: its id is not valid");
    let error = RunError { message, class: Some(ErrorClass::StaleSession) };
    Some(RunResult { session_lost: true, error: Some(error), ..RunResult::default() })
}

/// The result of a run that was cancelled while no process of it ran; the stored session stays.
pub fn aborted(request: &RunRequest, message: String) -> RunResult {
    RunResult {
        new_session_id: request.session.as_ref().map(|s| s.id.clone()).unwrap_or_default(),
        error: Some(RunError { message, class: None }),
        ..RunResult::default()
    }
}

/// A directory that is not there is told before anything is started in it.
pub fn check_cwd(cwd: &std::path::Path) -> Result<(), Thrown> {
    if cwd.is_dir() {
        return Ok(());
    }
    let message = format!("working directory {} does not exist", cwd.display());
    Err(Thrown { class: Some(ErrorClass::Config), ..Thrown::new(message) })
}

/// What a child that could not be started is to the engine, which keeps messages while a program is missing.
pub fn not_started(error: SpawnError) -> Thrown {
    let class = if error.not_found { ErrorClass::Missing } else { ErrorClass::Config };
    Thrown { class: Some(class), ..Thrown::new(error.message) }
}

/// The program of a registered runtime.
pub fn program(id: &str, settings: &RuntimeSettings) -> PathBuf {
    descriptor(id).map_or_else(|| id.into(), |d| resolve::resolve(d, settings).program)
}

impl NdjsonRuntime {
    fn attempt(
        &self,
        request: &RunRequest,
        cancel: &CancelToken,
        sink: &mut dyn RunSink,
        seq: &mut u64,
    ) -> Result<RunResult, Thrown> {
        let id = self.cli.id();
        let before_spawn = || aborted(request, format!("{id} aborted before spawn"));
        if cancel.is_cancelled() {
            return Ok(before_spawn());
        }
        check_cwd(&request.cwd)?;
        let mut launch = self.cli.prepare(request, &self.settings, cancel)?;
        // Preparing may wait for a context file.
        if cancel.is_cancelled() {
            return Ok(before_spawn());
        }
        // A CLI that gets its prompt on standard input can do nothing before that, so it starts meanwhile.
        let reads_prompt = matches!(&launch.stdin, Stdin::Bytes(prompt) if !prompt.is_empty());
        if !reads_prompt {
            sink.begin()?;
        }
        let program = program(id, &self.settings);
        let mut command = vec![program.display().to_string()];
        command.extend(launch.args.iter().map(Arg::shown));
        let spec = Spec {
            runtime: id.to_owned(),
            turn_id: request.turn_id.clone(),
            program,
            args: launch.args.iter().map(|arg| OsString::from(arg.as_str())).collect(),
            env: environ::of_run(request, &self.settings, &launch.env)?,
            cwd: request.cwd.clone(),
            stdin: std::mem::replace(&mut launch.stdin, Stdin::Null),
            idle_limit: self.settings.ndjson_idle,
            kill_leftovers: self.settings.kill_leftovers,
            stop: self.settings.stop,
        };
        let mut process = Process::spawn(spec).map_err(not_started)?;
        sink.spawned(process.id());
        if reads_prompt {
            // Dropping the process ends it.
            sink.begin()?;
        }
        let mut parser = self.cli.parser(request);
        let mut driver = Driver {
            runtime: id,
            parser: parser.as_mut(),
            sink,
            held: launch.held.take(),
            announced: String::new(),
            seq,
            linger: self.settings.linger,
            events: false,
            succeeded: false,
            other_lines: 0,
        };
        let driven = process.drive(cancel, &mut driver);
        let (events, succeeded) = (driver.events, driver.succeeded);
        let ended = match driven {
            Driven::Ended(ended) => {
                driver.log_end(&ended);
                // While the journal still knows the turn: a crash in between leaves nothing behind.
                process.finish();
                ended
            }
            // The driver pauses only when the reply is complete.
            Driven::Paused => {
                sink.lingers(process.id());
                self.lingering.watch(process, &request.turn_id, parser.session().unwrap_or_default());
                still_running()
            }
        };
        let facts = Facts {
            runtime: id,
            request,
            command: &command,
            events,
            succeeded,
            cancelled: cancel.is_cancelled(),
            idle_ms: self.settings.ndjson_idle.unwrap_or_default().as_millis(),
            note: launch.note.as_deref(),
        };
        Ok(outcome::conclude(facts, parser.finish(&ended), &ended))
    }
}

/// The end of a process that has given its reply and still runs: nothing is known of it.
pub(super) fn still_running() -> Ended {
    Ended {
        exit_code: None,
        signal: None,
        stopped: None,
        given_up: false,
        stderr_tail: String::new(),
        stdout_tail: String::new(),
        skipped_lines: 0,
        duration: Duration::ZERO,
    }
}

/// Passes the output of one run on: numbers blocks, announces the session, keeps the terminal event.
pub(super) struct Driver<'a> {
    pub(super) runtime: &'static str,
    pub(super) parser: &'a mut dyn StreamParser,
    pub(super) sink: &'a mut dyn RunSink,
    pub(super) held: Option<Held>,
    pub(super) announced: String,
    pub(super) seq: &'a mut u64,
    pub(super) linger: Duration,
    /// Whether any event has come.
    pub(super) events: bool,
    /// The last terminal event told of success. Set by nothing that comes after a stop.
    pub(super) succeeded: bool,
    pub(super) other_lines: u64,
}

impl Driver<'_> {
    pub(super) fn object(&mut self, line: &str) -> Option<Value> {
        if let Ok(value @ Value::Object(_)) = json::parse_lossy(line.as_bytes()) {
            return Some(value);
        }
        self.other_lines += 1;
        if self.other_lines <= MAX_LOGGED_LINES {
            log::warn!("runtime.line_skipped runtime={} line={}", self.runtime, redact::text(text::head(line, 200)));
        }
        None
    }

    fn announce(&mut self) {
        if self.parser.has_read_context() {
            self.held = None;
        }
        let Some(session) = self.parser.session() else { return };
        if session != self.announced {
            session.clone_into(&mut self.announced);
            self.sink.session(session);
        }
    }

    pub(super) fn log_end(&self, ended: &Ended) {
        if self.other_lines > MAX_LOGGED_LINES || ended.skipped_lines > 0 {
            let (other, long) = (self.other_lines, ended.skipped_lines);
            log::warn!("runtime.lines_skipped runtime={} not_json={other} too_long={long}", self.runtime);
        }
    }

    /// Passes one event on; what is to be done about it is left to the caller.
    pub(super) fn pass(&mut self, raw: Value) -> Then {
        self.events = true;
        let seen = self.parser.event(&raw);
        self.announce();
        if let Some(status) = seen.status {
            self.sink.status(status);
        }
        *self.seq += 1;
        self.sink.block(Block { kind: seen.kind, seq: *self.seq, raw, digest: seen.digest });
        seen.then
    }

    /// What follows from an event for a CLI that ends after its terminal event.
    pub(super) fn follow(&mut self, then: Then, io: &mut Io) {
        match then {
            Then::Continue => {}
            Then::Succeeded => {
                self.succeeded = true;
                io.end_within(GRACE);
                io.wake_at(Instant::now().checked_add(self.linger));
            }
            Then::Failed => {
                self.succeeded = false;
                io.end_within(GRACE);
                io.wake_at(None);
            }
            Then::Stop => io.stop(),
        }
    }

    /// Takes the session and the numbers from an event that came after a stop.
    pub(super) fn pass_after_stop(&mut self, raw: &Value) {
        self.parser.after_stop(raw);
        self.announce();
    }
}

impl Handler for Driver<'_> {
    fn line(&mut self, line: &str, io: &mut Io) {
        let Some(raw) = self.object(line) else { return };
        let then = self.pass(raw);
        self.follow(then, io);
    }

    fn line_after_stop(&mut self, line: &str, _: &mut Io) {
        // A reply that was complete before the stop is not touched any more.
        if self.succeeded {
            return;
        }
        if let Some(raw) = self.object(line) {
            self.pass_after_stop(&raw);
        }
    }

    fn tick(&mut self, io: &mut Io) {
        io.pause();
    }

    fn stderr_line(&mut self, line: &str, _: &mut Io) {
        if let Some(status) = self.parser.stderr_line(line) {
            self.sink.status(status);
        }
    }
}
