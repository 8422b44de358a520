//! `deepseek-tui`: an HTTP server per agent that keeps threads, with an event stream per turn.
//!
//! [`server`] keeps the processes, [`http`] talks to them, [`sse`] reads frames, [`turn`] follows one turn.

mod http;
mod server;
pub mod sse;
mod turn;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Endpoint, HttpError};
use server::{Lease, Pool, Server, Start, StartError};
use turn::{ChangeThread, End, Manner, NewThread, NewTurn, ThreadMade, TurnMade, Watch};

use crate::engine::PASS_VARIABLE;
use crate::engine::cancel::CancelToken;
use crate::engine::ports::{ErrorClass, RunRequest, RunResult, RunSink, Runtime, Thrown};
use crate::runtime::acp::run::{aborted_before_spawn, denies, ended_without_process};
use crate::runtime::context_file::{self, private_dir};
use crate::runtime::environ::{self, Changes};
use crate::runtime::kept::{self, Marker};
use crate::runtime::outcome::{self, Facts, Parsed, Verdict};
use crate::runtime::process::{Ended, StopCause, WARM_MARK};
pub use crate::runtime::selection::Selection;
use crate::runtime::settings::RuntimeSettings;
use crate::runtime::{classify, descriptor, ndjson, resolve};
use crate::text;

/// Registered id.
pub const ID: &str = "deepseek-tui";

/// Longest time without a frame, unless configured otherwise.
const IDLE_LIMIT: Duration = Duration::from_mins(1);
/// Threads whose last number is remembered.
const THREADS_REMEMBERED: usize = 4_096;

/// DeepSeek's server, under any of its names.
pub struct DeepSeek {
    settings: Arc<RuntimeSettings>,
    pool: Pool,
    marker: Marker,
    /// Last number seen of each thread, so that the server need not repeat what was.
    seen: Mutex<BTreeMap<String, u64>>,
}

/// What a run knows when it ends.
struct Outcome {
    verdict: Verdict,
    session: Option<String>,
    partial: String,
    /// The thread hangs: it is not resumed.
    forget: bool,
}

impl Outcome {
    fn failed(message: &str, class: Option<ErrorClass>, session: Option<&str>) -> Self {
        // Judged by its own words, not with the runtime's name in front.
        let class = class.or_else(|| classify::by_text(message)).or(Some(ErrorClass::Other));
        let message = format!("{ID}: {message}");
        Self {
            verdict: Verdict::Failure { message, class },
            session: session.map(str::to_owned),
            partial: String::new(),
            forget: false,
        }
    }

    fn ended(verdict: Verdict, session: &str) -> Self {
        Self { verdict, session: Some(session.to_owned()), partial: String::new(), forget: false }
    }
}

impl DeepSeek {
    /// The runtime.
    pub fn new(settings: Arc<RuntimeSettings>) -> Self {
        let marker = Marker::new(Arc::clone(&settings), kept::DEEPSEEK);
        Self { settings, pool: Pool::default(), marker, seen: Mutex::default() }
    }

    fn var(&self, name: &str) -> Option<&str> {
        let either = [format!("BELLHOP_{name}"), format!("BOTCORD_{name}")];
        either.iter().find_map(|name| self.settings.var(name)?.to_str()).filter(|value| !value.is_empty())
    }

    fn idle_limit(&self) -> Option<Duration> {
        let given = self.var("DEEPSEEK_TURN_IDLE_TIMEOUT_MS").and_then(|v| v.trim().parse::<f64>().ok());
        match given {
            Some(ms) if ms.is_finite() && ms >= 0.0 => (ms >= 1.0).then(|| Duration::from_millis(ms as u64)),
            _ => Some(IDLE_LIMIT),
        }
    }

    fn program(&self) -> PathBuf {
        descriptor(ID).map_or_else(|| ID.into(), |d| resolve::resolve(d, &self.settings).program)
    }

    /// The server of the request's agent and directory; its children act by `pass`, whichever turn they work for.
    fn server(
        &self,
        request: &RunRequest,
        pass: Option<String>,
        cancel: &CancelToken,
    ) -> Result<Result<Lease, StartError>, Thrown> {
        if let Some(url) = self.var("DEEPSEEK_TUI_URL") {
            let token = self.var("DEEPSEEK_TUI_TOKEN").map(str::to_owned);
            let endpoint = Endpoint { base: url.trim_end_matches('/').to_owned(), token };
            let server = Server::external(endpoint).map_err(|e| Thrown::new(e.to_string()))?;
            return Ok(Ok(Lease::new(Arc::new(server))));
        }
        let agent = if request.agent.is_empty() { "default" } else { &request.agent };
        let mut changes = Changes::default();
        changes.set("FORCE_COLOR", "0");
        changes.set("NO_COLOR", "1");
        changes.set(WARM_MARK, kept::mark(&self.settings));
        if let Some(directory) = self.settings.agent_dir(agent) {
            let directory = directory.join("deepseek-tui/runtime");
            if let Err(error) = private_dir(&directory) {
                log::warn!("deepseek.directory {} error={error}", directory.display());
            }
            changes.set("DEEPSEEK_RUNTIME_DIR", directory);
        }
        // The server outlives this turn and serves other conversations: it must not hold this one's marker.
        let mut shared = RunRequest { wait_file: None, ..request.clone() };
        shared.env.retain(|(name, _)| name != PASS_VARIABLE);
        shared.env.extend(pass.map(|pass| (PASS_VARIABLE.to_owned(), pass)));
        let env: Vec<(OsString, OsString)> = environ::of_run(&shared, &self.settings, &changes)?;
        let start = Start { program: self.program(), env, cwd: request.cwd.clone(), stop: self.settings.stop };
        self.marker.set();
        Ok(self.pool.get(&(agent.to_owned(), request.cwd.clone()), &start, cancel))
    }

    fn last_seen(&self, thread: &str) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(thread).copied().unwrap_or(0)
    }

    fn remember(&self, thread: &str, seq: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= THREADS_REMEMBERED && !seen.contains_key(thread) {
            // A forgotten thread is replayed once; nothing is lost.
            seen.clear();
        }
        seen.insert(thread.to_owned(), seq);
    }

    fn converse(&self, request: &RunRequest, server: &Server, cancel: &CancelToken, sink: &mut dyn RunSink) -> Outcome {
        let resumed = request.session.is_some();
        let selection = Selection::from_args(&request.extra_args);
        let deny = denies(request, &self.settings);
        let manner = Manner::new(!deny, &selection);
        let failed = |HttpError(message): HttpError, session: Option<&str>| {
            let lower = message.to_lowercase();
            let gone = resumed && ["404", "not found", "missing"].iter().any(|word| lower.contains(word));
            Outcome::failed(&message, gone.then_some(ErrorClass::StaleSession), session)
        };
        let thread = match thread(request, server, manner) {
            Ok(thread) => thread,
            Err(error) => return failed(error, None),
        };
        sink.session(&thread);
        let since = self.last_seen(&thread);
        let path = format!("/v1/threads/{thread}/events?since_seq={since}");
        let events = match server.client.events(&path, &request.turn_id, cancel) {
            Ok(events) => events,
            Err(error) => return failed(error, Some(&thread)),
        };
        let new = NewTurn { prompt: &request.text, manner };
        let made: TurnMade = match server.client.post(&format!("/v1/threads/{thread}/turns"), &new) {
            Ok(made) => made,
            Err(error) => return failed(error, Some(&thread)),
        };
        let mut watch = Watch::new(&server.client, &thread, made.id());
        watch.deny = deny;
        watch.idle_limit = self.idle_limit();
        watch.replays = resumed && since == 0;
        watch.seq = since;
        let end = watch.follow(&events, cancel, sink);
        self.remember(&thread, watch.seq);
        let answer = watch.text.answer().to_owned();
        let outcome = match end {
            End::Terminal(None) if answer.is_empty() && !watch.used_tools => {
                Outcome::failed(&silence(&server.stderr()), None, Some(&thread))
            }
            End::Terminal(None) => Outcome::ended(Verdict::Success(answer.clone()), &thread),
            End::Terminal(Some(message)) => Outcome::failed(&message, None, Some(&thread)),
            End::Cancelled => Outcome::ended(Verdict::Missing, &thread),
            End::Idle => {
                server.end();
                let ms = watch.idle_limit.unwrap_or_default().as_millis();
                let message = format!("event stream produced no runtime event for {ms}ms");
                Outcome { forget: true, ..Outcome::failed(&message, Some(ErrorClass::Other), None) }
            }
            End::StreamEnded => {
                let message = server.ended().unwrap_or_else(|| "event stream ended before the turn".to_owned());
                Outcome::failed(&message, Some(ErrorClass::Protocol), Some(&thread))
            }
        };
        Outcome { partial: answer, ..outcome }
    }
}

/// The thread to work in, made or brought up to date.
fn thread(request: &RunRequest, server: &Server, manner: Manner<'_>) -> Result<String, HttpError> {
    let context = context_file::prepend(request.context(), &request.system_rules);
    let Some(session) = &request.session else {
        let workspace = request.cwd.display().to_string();
        let new = NewThread { workspace: &workspace, manner, archived: false, system_prompt: context.as_deref() };
        let made: ThreadMade = server.client.post("/v1/threads", &new)?;
        return made.id().ok_or_else(|| HttpError("the server made a thread without an id".to_owned()));
    };
    let id = session.id.trim();
    if !turn::is_plain_id(id) {
        return Err(HttpError("the stored thread was not found".to_owned()));
    }
    if let Some(system_prompt) = &context {
        let _: ThreadMade = server.client.patch(&format!("/v1/threads/{id}"), &ChangeThread { system_prompt })?;
    }
    Ok(id.to_owned())
}

/// What a turn without an answer and without a failure may be due to.
fn silence(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().collect();
    let last = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n");
    match text::trim(text::tail(&last, 500)) {
        "" => "the turn ended without an answer; is an API key configured?".to_owned(),
        words => words.to_owned(),
    }
}

impl Runtime for DeepSeek {
    fn id(&self) -> &str {
        ID
    }

    fn run(&self, request: &RunRequest, cancel: &CancelToken, sink: &mut dyn RunSink) -> Result<RunResult, Thrown> {
        if let Some(refused) = ndjson::refuse_session(ID, request) {
            return Ok(refused);
        }
        if cancel.is_cancelled() {
            return Ok(aborted_before_spawn(ID, request));
        }
        ndjson::check_cwd(&request.cwd)?;
        let started = Instant::now();
        let mut stderr = String::new();
        let pass = sink.served_by(&format!("{ID}:{}:{}", request.agent, request.cwd.display()));
        let outcome = match self.server(request, pass, cancel)? {
            Ok(server) => {
                if let Some(process) = server.process {
                    sink.spawned(process);
                }
                let outcome = self.converse(request, &server, cancel, sink);
                stderr = server.stderr();
                outcome
            }
            Err(StartError::Cancelled) => return Ok(aborted_before_spawn(ID, request)),
            Err(StartError::Failed(message)) => Outcome::failed(&message, None, None),
            Err(StartError::Missing(message)) => Outcome::failed(&message, Some(ErrorClass::Missing), None),
        };
        let succeeded = matches!(outcome.verdict, Verdict::Success(_));
        let ended = Ended {
            stopped: (cancel.is_cancelled() && !succeeded).then_some(StopCause::Cancelled),
            stderr_tail: stderr,
            ..ended_without_process(started.elapsed())
        };
        let command = ["deepseek", "serve", "--http"].map(str::to_owned);
        let facts = Facts {
            runtime: ID,
            request,
            command: &command,
            events: true,
            succeeded,
            cancelled: cancel.is_cancelled(),
            idle_ms: 0,
            note: None,
        };
        let Outcome { verdict, session, partial, forget } = outcome;
        let result = outcome::conclude(facts, Parsed { verdict, session, partial, ..Parsed::default() }, &ended);
        if forget {
            return Ok(RunResult {
                new_session_id: String::new(),
                session_lost: true,
                session_replaced: false,
                ..result
            });
        }
        Ok(result)
    }

    fn close(&self) {
        self.pool.close();
        // The marker stays: a server whose start was broken off may outlive this, and so may one that is slow to end.
        // The next daemon looks once.
    }
}
