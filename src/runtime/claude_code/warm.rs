//! Warm mode: a Claude Code process that stays after a turn and takes the next one on standard input.
//!
//! A new process needs most of a second before it asks the model anything; one that waits begins at once. It
//! costs some 300 MiB, so this is off unless configured, and [`super::pool`] bounds it. What a process cannot
//! change later (program, arguments, system prompt, environment, directory) is compared before each turn: a
//! difference ends it and starts another one that resumes the session. So does a process that has died.
//!
//! A process that has background tasks after its reply is not kept: when one ends, the CLI begins a turn of its
//! own, whose result would be taken for the answer to the next message.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::control::{self, Question, Questions};
use super::events::{Parser, Totals};
use super::pool::{Identity, Kept, Pool};
use super::{ClaudeCode, ID, SystemPrompt, environment, is_owner, scratch, stream_arguments, system_text};
use crate::engine::PASS_VARIABLE;
use crate::engine::cancel::{CancelReason, CancelToken};
use crate::engine::ports::{Approval, RunRequest, RunResult, RunSink, Runtime, Thrown};
use crate::json;
use crate::runtime::context_file::Scratch;
use crate::runtime::kept::{self, Marker};
use crate::runtime::ndjson::{
    Arg, Driver, NdjsonRuntime, StreamParser, Then, aborted, check_cwd, not_started, refuse_session, still_running,
};
use crate::runtime::outcome::{self, Facts};
use crate::runtime::process::{Driven, Ended, Handler, Io, Process, Spec, Stdin, StopCause, WARM_MARK};
use crate::runtime::prompt_text::{self, MAX_ARGUMENT};
use crate::runtime::settings::RuntimeSettings;
use crate::runtime::{descriptor, environ, resolve};

/// Claude Code: one process per turn, or one for several.
pub struct Claude {
    single: NdjsonRuntime,
    settings: Arc<RuntimeSettings>,
    pool: Pool,
    marker: Marker,
}

/// A process for a turn, with what the turn's record shows of it.
struct Started {
    kept: Kept,
    command: Vec<String>,
    /// It has had turns before.
    reused: bool,
}

impl Claude {
    /// The runtime.
    pub fn new(settings: Arc<RuntimeSettings>) -> Self {
        let single = NdjsonRuntime::new(ClaudeCode, Arc::clone(&settings));
        let pool = Pool::new(settings.warm);
        let marker = Marker::new(Arc::clone(&settings), kept::CLAUDE);
        Self { single, settings, pool, marker }
    }

    /// Whether a turn is written to standard input: to keep the process, or to hear its questions.
    fn is_streamed(&self, request: &RunRequest) -> bool {
        let asks = self.settings.ask_approvals && self.settings.permissions.restricted(request.trust);
        asks || !self.settings.warm.keep.is_zero()
    }

    /// What the process of a turn has to be like.
    fn identity(&self, request: &RunRequest) -> Result<Identity, Thrown> {
        let found = descriptor(ID).map(|d| resolve::resolve(d, &self.settings));
        let (program, file) = found.map_or_else(|| (PathBuf::from("claude"), None), |f| (f.program, f.file));
        let mut changes = environment(&self.settings);
        changes.set(WARM_MARK, kept::mark(&self.settings));
        let args = stream_arguments(request, &self.settings, None, SystemPrompt::None);
        let mut env = environ::of_run(request, &self.settings, &changes)?;
        // Another one for each turn; what a process was started with counts for its later turns as well.
        env.retain(|(name, _)| name != PASS_VARIABLE);
        Ok(Identity {
            program,
            file,
            args: args.iter().map(|arg| arg.as_str().to_owned()).collect(),
            system: system_text(request),
            env,
            cwd: request.cwd.clone(),
        })
    }

    /// The process that waits for this session, if it is still what is wanted.
    fn waiting(&self, request: &RunRequest, wanted: &Identity) -> Option<Kept> {
        let session = request.session.as_ref()?;
        let kept = self.pool.take(&(request.agent.clone(), session.id.clone()))?;
        let Some(what) = kept.identity.differs(wanted) else { return Some(kept) };
        log::info!("claude.warm_renewed turn={} pid={} changed={what}", request.turn_id, kept.process.id().pid);
        kept.end();
        None
    }

    fn start(&self, request: &RunRequest, wanted: Identity) -> Result<Kept, Thrown> {
        self.pool.make_room();
        if !self.settings.warm.keep.is_zero() {
            self.marker.set();
        }
        let scratch = match &wanted.system {
            Some(text) if text.len() > MAX_ARGUMENT => Some(scratch(request, &self.settings, text)?),
            _ => None,
        };
        let args = self.arguments(request, &wanted, scratch.as_ref().map(Scratch::path));
        let pass = request.env.iter().find(|(name, _)| name == PASS_VARIABLE);
        let pass = pass.map(|(name, value)| (name.into(), value.into()));
        let spec = Spec {
            runtime: ID.to_owned(),
            turn_id: request.turn_id.clone(),
            program: wanted.program.clone(),
            args: args.iter().map(|arg| OsString::from(arg.as_str())).collect(),
            env: wanted.env.iter().cloned().chain(pass).collect(),
            cwd: wanted.cwd.clone(),
            stdin: Stdin::Pipe,
            idle_limit: self.settings.ndjson_idle,
            kill_leftovers: self.settings.kill_leftovers,
            stop: self.settings.stop,
        };
        let process = Process::spawn(spec).map_err(not_started)?;
        Ok(Kept { process, identity: wanted, totals: Totals::default(), scratch })
    }

    fn arguments(&self, request: &RunRequest, wanted: &Identity, file: Option<&Path>) -> Vec<Arg> {
        let system = match (file, &wanted.system) {
            (Some(file), _) => SystemPrompt::File(file),
            (None, Some(text)) => SystemPrompt::Inline(text),
            (None, None) => SystemPrompt::None,
        };
        stream_arguments(request, &self.settings, request.session.as_ref().map(|s| s.id.as_str()), system)
    }

    fn command(&self, request: &RunRequest, kept: &Kept) -> Vec<String> {
        let args = self.arguments(request, &kept.identity, kept.scratch.as_ref().map(Scratch::path));
        let program = kept.identity.program.display().to_string();
        std::iter::once(program).chain(args.iter().map(Arg::shown)).collect()
    }

    /// Gives the turn to a process. `None`: a process that had waited was dead before it took notice.
    fn turn(
        &self,
        started: Started,
        request: &RunRequest,
        cancel: &CancelToken,
        sink: &mut dyn RunSink,
    ) -> Option<RunResult> {
        let Started { mut kept, command, reused } = started;
        sink.spawned(kept.process.id());
        if reused {
            sink.served_by(kept.process.turn_id());
            kept.process.begin_turn();
        }
        kept.process.write(control::turn(&prompt_text::prepare(ID, &request.text, is_owner(request))));
        let restricted = self.settings.permissions.restricted(request.trust);
        let mut parser = Parser::after(kept.totals);
        let mut seq = 0;
        let mut turn = StreamTurn {
            driver: Driver {
                runtime: ID,
                parser: &mut parser,
                sink,
                held: None,
                announced: String::new(),
                seq: &mut seq,
                linger: self.settings.linger,
                events: false,
                succeeded: false,
                other_lines: 0,
            },
            cancel,
            keeps: !self.settings.warm.keep.is_zero(),
            may_ask: self.settings.ask_approvals || !restricted,
            questions: Questions::default(),
            rests: false,
            obeyed: false,
            interrupted: false,
        };
        let driven = kept.process.drive(cancel, &mut turn);
        let (events, succeeded, rests) = (turn.driver.events, turn.driver.succeeded, turn.rests);
        let stays = rests || turn.at_rest();
        let ended = match driven {
            Driven::Ended(ended) if reused && !events && ended.stopped.is_none() && !cancel.is_cancelled() => {
                log::info!("claude.warm_died turn={} code={:?}", request.turn_id, ended.exit_code);
                return None;
            }
            Driven::Ended(ended) => {
                turn.driver.log_end(&ended);
                ended
            }
            Driven::Paused => {
                let session = parser.session().unwrap_or_default().to_owned();
                kept.totals = parser.totals();
                if stays && !rests {
                    kept.process.sweep_tools();
                }
                if stays && !session.is_empty() {
                    self.pool.put((request.agent.clone(), session), kept);
                } else {
                    self.single.lingering().watch(kept.process, &request.turn_id, &session);
                }
                Ended { stopped: (stays && !rests).then_some(StopCause::Cancelled), ..still_running() }
            }
        };
        let facts = Facts {
            runtime: ID,
            request,
            command: &command,
            events,
            succeeded,
            cancelled: cancel.is_cancelled(),
            idle_ms: self.settings.ndjson_idle.unwrap_or_default().as_millis(),
            note: None,
        };
        Some(outcome::conclude(facts, parser.finish(&ended), &ended))
    }
}

impl Runtime for Claude {
    fn id(&self) -> &str {
        ID
    }

    fn begins_itself(&self) -> bool {
        true
    }

    fn run(&self, request: &RunRequest, cancel: &CancelToken, sink: &mut dyn RunSink) -> Result<RunResult, Thrown> {
        if !self.is_streamed(request) {
            return self.single.run(request, cancel, sink);
        }
        sink.begin()?;
        if let Some(refused) = refuse_session(ID, request) {
            return Ok(refused);
        }
        if cancel.is_cancelled() {
            return Ok(aborted(request, format!("{ID} aborted before spawn")));
        }
        check_cwd(&request.cwd)?;
        if let Some(session) = &request.session {
            self.single.lingering().end_session(&session.id);
        }
        let wanted = self.identity(request)?;
        if let Some(kept) = self.waiting(request, &wanted) {
            let started = Started { command: self.command(request, &kept), kept, reused: true };
            if let Some(result) = self.turn(started, request, cancel, sink) {
                return Ok(result);
            }
        }
        if cancel.is_cancelled() {
            return Ok(aborted(request, format!("{ID} aborted before spawn")));
        }
        let kept = self.start(request, wanted)?;
        let started = Started { command: self.command(request, &kept), kept, reused: false };
        let result = self.turn(started, request, cancel, sink);
        Ok(result.unwrap_or_else(|| aborted(request, format!("{ID} did not start"))))
    }

    fn close(&self) {
        self.single.close();
        self.pool.close();
        self.marker.clear();
    }
}

/// One turn of a process that reads turns from standard input.
struct StreamTurn<'a> {
    driver: Driver<'a>,
    cancel: &'a CancelToken,
    /// The process may stay.
    keeps: bool,
    /// Questions go to the engine; otherwise they are denied.
    may_ask: bool,
    questions: Questions,
    /// The turn is over and the process waits for the next one.
    rests: bool,
    /// It was asked to interrupt the turn, and has said that it heard that.
    obeyed: bool,
    /// The terminal event came after the interrupt.
    interrupted: bool,
}

impl StreamTurn<'_> {
    fn asked(&mut self, event: &Value, line: &str, io: &mut Io) {
        match self.questions.read(event) {
            None => {}
            Some(Question::Answered(line)) => io.write(line),
            Some(Question::Tool(question)) => {
                let id = question.id.clone();
                let decision = if json::parse(line.as_bytes()).is_err() {
                    // Halves of characters were replaced in it: what is allowed would be another file or command.
                    Some(Approval::Deny {
                        reason: "The input is not valid Unicode and cannot be repeated exactly.".into(),
                    })
                } else if self.may_ask {
                    self.driver.sink.approval(question)
                } else {
                    Some(Approval::Deny { reason: "This is not allowed in this conversation.".into() })
                };
                if let Some(decision) = decision {
                    self.decide(&id, decision, io);
                }
            }
        }
    }

    fn decide(&mut self, id: &str, decision: Approval, io: &mut Io) {
        if let Some(line) = self.questions.answer(id, decision) {
            io.write(line);
        }
    }
}

impl Handler for StreamTurn<'_> {
    fn line(&mut self, line: &str, io: &mut Io) {
        let Some(raw) = self.driver.object(line) else { return };
        self.asked(&raw, line, io);
        match self.driver.pass(raw) {
            Then::Succeeded if self.keeps && !self.driver.parser.goes_on() => {
                self.driver.succeeded = true;
                self.rests = true;
                io.pause();
            }
            // A failure may come from something that only a new process looks at again, such as the login.
            then @ (Then::Succeeded | Then::Failed) => {
                io.close_stdin();
                self.driver.follow(then, io);
            }
            then => self.driver.follow(then, io),
        }
    }

    fn line_after_stop(&mut self, line: &str, _: &mut Io) {
        if self.driver.succeeded {
            return;
        }
        let Some(raw) = self.driver.object(line) else { return };
        self.obeyed |= control::is_interrupt_answer(&raw);
        self.interrupted |= raw.get("type").and_then(Value::as_str) == Some("result");
        self.driver.pass_after_stop(&raw);
    }

    fn stderr_line(&mut self, line: &str, io: &mut Io) {
        self.driver.stderr_line(line, io);
    }

    /// The process has not ended soon enough after its last word: it is watched aside.
    fn tick(&mut self, io: &mut Io) {
        io.pause();
    }

    fn woken(&mut self, io: &mut Io) {
        while let Some((id, decision)) = self.driver.sink.decision() {
            self.decide(&id, decision, io);
        }
    }

    /// Asked only when a person wants something else instead; in all other cases it is better to have the
    /// process gone.
    fn interrupt(&mut self, io: &mut Io) -> bool {
        let wanted = matches!(self.cancel.reason(), Some(CancelReason::User | CancelReason::Superseded));
        if !self.keeps || !wanted {
            return false;
        }
        io.write(control::interrupt());
        true
    }

    fn at_rest(&self) -> bool {
        self.obeyed && self.interrupted && !self.driver.parser.goes_on()
    }

    fn busy(&self) -> bool {
        self.questions.any()
    }
}
