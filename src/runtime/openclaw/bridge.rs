//! The bridge processes behind `openclaw-acp`: one per agent and gateway, shared by the agent's
//! conversations.
//!
//! A thread drives each bridge. Turns hand it lines to write and get back, in their mailboxes, the answers
//! to their requests and whatever carries their session's id.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;
use serde_json::Value;

use crate::engine::cancel::{CancelReason, CancelToken};
use crate::engine::ports::ProcessId;
use crate::runtime::acp::permission::{Choice, PermissionAnswer, PermissionRequest};
use crate::runtime::acp::rpc::{self, Id, Incoming, RpcError};
use crate::runtime::acp::trace::Trace;
use crate::runtime::context_file::Scratch;
use crate::runtime::process::{Driven, Handler, Io, Process, Spec, Stdin, StopLimits};
use crate::text;
use crate::thread;

/// For the answer to `initialize`.
const INITIALIZE_LIMIT: Duration = Duration::from_secs(30);
/// A bridge without a turn for so long is ended.
const IDLE_LIMIT: Duration = Duration::from_mins(5);
/// How often the idle time is looked at.
const IDLE_LOOK: Duration = Duration::from_secs(15);
/// A turn that takes nothing out of its full mailbox for so long gets nothing more.
const MAIL_LIMIT: Duration = Duration::from_secs(5);
/// News that may wait in a mailbox.
const MAIL_WAITING: usize = 1_024;
/// Lines that may wait for the bridge.
const COMMANDS_WAITING: usize = 256;
/// Lines that are no JSON: how many are kept, and how much of each, in UTF-16 units.
const GARBAGE_KEPT: usize = 20;
const GARBAGE_LINE: usize = 500;

/// Bridges started so far, for marks that no two of them share.
static BRIDGES: AtomicU64 = AtomicU64::new(1);

/// What a turn hears from its bridge.
#[derive(Debug)]
pub enum News {
    /// The answer to a request.
    Answer(u64, Result<Value, RpcError>),
    /// Parameters of a `session/update`.
    Update(Value),
    /// The agent asks for permission.
    Permission(Id, PermissionRequest),
    /// The bridge has ended: nothing more comes.
    Closed(String),
}

/// Where a turn gets its news.
#[derive(Clone)]
pub struct Mailbox {
    news: Sender<News>,
    wake: CancelToken,
    has_lost: Arc<AtomicBool>,
}

impl Mailbox {
    /// A mailbox that wakes this token with every piece of news.
    pub fn new(wake: &CancelToken) -> (Self, Receiver<News>) {
        let (news, receiver) = bounded(MAIL_WAITING);
        (Self { news, wake: wake.clone(), has_lost: Arc::default() }, receiver)
    }

    /// Returns whether it was taken: a turn that has ended does not listen any more.
    fn put(&self, news: News) -> bool {
        let taken = self.news.send_timeout(news, MAIL_LIMIT).is_ok();
        if !taken {
            self.has_lost.store(true, Ordering::Relaxed);
        }
        self.wake.wake();
        taken
    }

    /// Whether something could not be put in since listening began: then nothing more comes of the session.
    pub fn has_lost(&self) -> bool {
        self.has_lost.load(Ordering::Relaxed)
    }
}

enum Command {
    Write { line: Vec<u8>, answer_to: Option<(u64, Mailbox)> },
    Listen(String, Mailbox),
    Leave(String),
}

#[derive(Default)]
struct State {
    turns: usize,
    idle_since: Option<Instant>,
    garbage: VecDeque<String>,
    ended: Option<String>,
}

/// What a bridge is started with; another one of these needs another bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// WebSocket URL of the gateway.
    pub url: String,
    /// Its secret; never logged, never an argument.
    pub token: Option<String>,
}

/// How to start a bridge.
pub struct Start {
    /// Program.
    pub program: PathBuf,
    /// Environment.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory.
    pub cwd: PathBuf,
    /// Private directory for the file with the secret.
    pub secrets: PathBuf,
    /// What goes over the wire is written here.
    pub trace: Trace,
}

/// A bridge that could not be started.
#[derive(Debug)]
pub struct NotStarted {
    /// For people.
    pub message: String,
    /// The program is not there.
    pub is_missing: bool,
}

impl From<String> for NotStarted {
    fn from(message: String) -> Self {
        Self { message, is_missing: false }
    }
}

/// A running bridge.
pub struct Bridge {
    /// Its process.
    pub process: ProcessId,
    target: Target,
    commands: Sender<Command>,
    stop: CancelToken,
    next_id: AtomicU64,
    state: Mutex<State>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bridge {
    /// Starts a bridge and the thread that drives it. `initialize` is under way when this returns.
    pub fn start(name: &str, target: Target, start: Start) -> Result<Arc<Self>, NotStarted> {
        let mut args: Vec<OsString> = ["acp", "--url"].map(OsString::from).to_vec();
        args.push(target.url.clone().into());
        let secret = match &target.token {
            Some(token) => {
                let file = Scratch::new(&start.secrets, "openclaw-token", token);
                Some(file.map_err(|e| format!("cannot write a token file in {}: {e}", start.secrets.display()))?)
            }
            None => None,
        };
        if let Some(secret) = &secret {
            args.extend(["--token-file".into(), secret.path().as_os_str().to_owned()]);
        }
        let number = BRIDGES.fetch_add(1, Ordering::Relaxed);
        let spec = Spec {
            runtime: super::ID.to_owned(),
            turn_id: format!("pool-openclaw-{}-{number}", std::process::id()),
            program: start.program,
            args,
            env: start.env,
            cwd: start.cwd,
            stdin: Stdin::Pipe,
            idle_limit: None,
            kill_leftovers: true,
            stop: StopLimits { term: Duration::ZERO, ..StopLimits::default() },
        };
        let mut process =
            Process::spawn(spec).map_err(|e| NotStarted { message: e.message, is_missing: e.not_found })?;
        let (commands, inbox) = bounded(COMMANDS_WAITING);
        let bridge = Arc::new(Self {
            process: process.id(),
            target,
            commands,
            stop: CancelToken::new().map_err(|e| e.to_string())?,
            next_id: AtomicU64::new(2),
            state: Mutex::default(),
        });
        let mut trace = start.trace;
        trace.child_start(bridge.process.pid);
        let mut keeper = Keeper {
            bridge: bridge.clone(),
            inbox,
            trace,
            ready: false,
            deadline: None,
            asked: HashMap::new(),
            listeners: HashMap::new(),
            failure: None,
        };
        // The first wake-up makes it begin.
        bridge.stop.wake();
        let drive = move || {
            let ended = loop {
                if let Driven::Ended(ended) = process.drive(&keeper.bridge.stop.clone(), &mut keeper) {
                    break ended;
                }
            };
            drop(secret);
            let shown = |n: Option<i32>| n.map_or_else(|| "null".to_owned(), |n| n.to_string());
            let how = format!("exit code={} signal={}", shown(ended.exit_code), shown(ended.signal));
            keeper.trace.child_exit(ended.exit_code, ended.signal);
            keeper.close(&keeper.failure.clone().unwrap_or_else(|| format!("openclaw acp child closed: {how}")));
        };
        thread::spawn(format!("openclaw:{name}"), drive).map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(bridge)
    }

    /// Sends a request; the answer comes to the mailbox under the id that is returned.
    pub fn request(&self, method: &str, params: impl Serialize, mailbox: &Mailbox) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let line = rpc::request(id, method, params);
        self.command(Command::Write { line, answer_to: Some((id, mailbox.clone())) });
        id
    }

    /// Sends a notification.
    pub fn notify(&self, method: &str, params: impl Serialize) {
        self.command(Command::Write { line: rpc::notification(method, params), answer_to: None });
    }

    /// Answers a request for permission.
    pub fn answer(&self, id: &Id, outcome: Choice) {
        let line = rpc::answer(id, PermissionAnswer { outcome });
        self.command(Command::Write { line, answer_to: None });
    }

    /// News of this session come to the mailbox from now on.
    pub fn listen(&self, session: &str, mailbox: &Mailbox) {
        self.command(Command::Listen(session.to_owned(), mailbox.clone()));
    }

    /// And no longer.
    pub fn leave(&self, session: &str) {
        self.command(Command::Leave(session.to_owned()));
    }

    fn command(&self, command: Command) {
        let mailbox = match &command {
            Command::Write { answer_to: Some((_, mailbox)), .. } | Command::Listen(_, mailbox) => Some(mailbox.clone()),
            _ => None,
        };
        let sent = self.commands.send_timeout(command, MAIL_LIMIT);
        self.stop.wake();
        // After the end nobody takes commands; whoever waits for an answer must hear of it.
        let closed = lock(&self.state).ended.clone().or_else(|| sent.err().map(|_| "openclaw acp is stuck".to_owned()));
        if let (Some(why), Some(mailbox)) = (closed, mailbox) {
            mailbox.put(News::Closed(why));
        }
    }

    /// Whether turns can use it for this target.
    pub fn serves(&self, target: &Target) -> bool {
        self.target == *target && !self.stop.is_cancelled() && lock(&self.state).ended.is_none()
    }

    /// The last lines that were no JSON, oldest first.
    pub fn garbage(&self, lines: usize) -> Vec<String> {
        let state = lock(&self.state);
        state.garbage.iter().skip(state.garbage.len().saturating_sub(lines)).cloned().collect()
    }

    /// Ends it.
    pub fn end(&self) {
        self.stop.cancel(CancelReason::Shutdown);
    }

    /// Waits for the end of an ended bridge, for at most 10 s.
    pub fn wait(&self) {
        let limit = Instant::now() + Duration::from_secs(10);
        while lock(&self.state).ended.is_none() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A turn begins.
    pub fn enter(self: &Arc<Self>) -> Visit {
        let mut state = lock(&self.state);
        state.turns += 1;
        state.idle_since = None;
        drop(state);
        Visit(self.clone())
    }
}

/// A turn's hold on a bridge: as long as one exists the bridge is not idle.
pub struct Visit(Arc<Bridge>);

impl std::ops::Deref for Visit {
    type Target = Bridge;

    fn deref(&self) -> &Bridge {
        &self.0
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.turns = state.turns.saturating_sub(1);
        if state.turns == 0 {
            state.idle_since = Some(Instant::now());
        }
    }
}

/// Reads and writes for a bridge.
struct Keeper {
    bridge: Arc<Bridge>,
    inbox: Receiver<Command>,
    trace: Trace,
    /// `initialize` was answered; nothing else is written before.
    ready: bool,
    deadline: Option<Instant>,
    asked: HashMap<u64, Mailbox>,
    listeners: HashMap<String, Mailbox>,
    failure: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Initialize {
    protocol_version: u32,
    client_capabilities: NoCapabilities,
}

#[derive(Serialize)]
struct NoCapabilities {}

impl Keeper {
    fn write(&mut self, line: Vec<u8>, io: &mut Io) {
        self.trace.sent(&line);
        io.write(line);
    }

    fn obey(&mut self, io: &mut Io) {
        while self.ready
            && let Ok(command) = self.inbox.try_recv()
        {
            match command {
                Command::Write { line, answer_to } => {
                    self.asked.extend(answer_to);
                    self.write(line, io);
                }
                Command::Listen(session, mailbox) => {
                    mailbox.has_lost.store(false, Ordering::Relaxed);
                    self.listeners.insert(session, mailbox);
                }
                Command::Leave(session) => drop(self.listeners.remove(&session)),
            }
        }
    }

    fn fail(&mut self, why: String, io: &mut Io) {
        log::warn!("openclaw.failed {}", crate::redact::text(&why));
        self.failure = Some(why);
        self.bridge.end();
        io.stop();
    }

    /// Tells everybody who waits, now and in the commands not yet taken, that nothing more comes.
    fn close(&mut self, why: &str) {
        lock(&self.bridge.state).ended = Some(why.to_owned());
        let mut waiting: Vec<Mailbox> = std::mem::take(&mut self.asked).into_values().collect();
        waiting.extend(std::mem::take(&mut self.listeners).into_values());
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Write { answer_to: Some((_, mailbox)), .. } | Command::Listen(_, mailbox) => {
                    waiting.push(mailbox);
                }
                Command::Write { .. } | Command::Leave(_) => {}
            }
        }
        for mailbox in waiting {
            mailbox.put(News::Closed(why.to_owned()));
        }
    }

    fn asked(&mut self, id: &Id, method: &str, params: &Value, io: &mut Io) {
        if method != "session/request_permission" {
            self.write(rpc::refuse_unknown(id, method), io);
            return;
        }
        let request = PermissionRequest::from_params(params);
        let refusal = rpc::answer(id, PermissionAnswer { outcome: request.choose(false) });
        let session = request.session_id.clone().unwrap_or_default();
        if !tell(&mut self.listeners, &session, News::Permission(id.clone(), request)) {
            self.write(refusal, io);
        }
    }
}

/// Puts news into the mailbox of a session; returns whether somebody has taken it. Whoever takes nothing any more
/// is not waited for a second time: the bridge works for other conversations, too.
fn tell(listeners: &mut HashMap<String, Mailbox>, session: &str, news: News) -> bool {
    let taken = listeners.get(session).is_some_and(|mailbox| mailbox.put(news));
    if !taken && listeners.remove(session).is_some() {
        log::debug!("openclaw.not_taken session={}", text::head(session, 80));
    }
    taken
}

impl Handler for Keeper {
    fn line(&mut self, line: &str, io: &mut Io) {
        let incoming = rpc::read(line);
        self.trace.received(line, &incoming);
        match incoming {
            Incoming::Answer { id: 1, outcome } => match outcome {
                Ok(_) => {
                    self.ready = true;
                    self.deadline = None;
                    io.wake_at(Some(Instant::now() + IDLE_LOOK));
                    self.obey(io);
                }
                Err(error) => self.fail(format!("initialize failed: {}", error.text()), io),
            },
            Incoming::Answer { id, outcome } => {
                if let Some(mailbox) = self.asked.remove(&id) {
                    mailbox.put(News::Answer(id, outcome));
                }
            }
            Incoming::Request { id, method, params } => self.asked(&id, &method, &params, io),
            Incoming::Notification { method, params } if method == "session/update" => {
                let session = params.get("sessionId").and_then(Value::as_str).unwrap_or_default().to_owned();
                tell(&mut self.listeners, &session, News::Update(params));
            }
            Incoming::Notification { .. } => {}
            Incoming::Garbage => {
                let mut state = lock(&self.bridge.state);
                if state.garbage.len() >= GARBAGE_KEPT {
                    state.garbage.pop_front();
                }
                state.garbage.push_back(text::head(line, GARBAGE_LINE).to_owned());
            }
        }
    }

    fn stderr_line(&mut self, line: &str, _: &mut Io) {
        self.trace.stderr(line);
        log::debug!("openclaw.stderr {}", crate::redact::text(text::head(line, 500)));
    }

    fn woken(&mut self, io: &mut Io) {
        if !self.ready && self.deadline.is_none() {
            let at = Instant::now() + INITIALIZE_LIMIT;
            self.deadline = Some(at);
            io.wake_at(Some(at));
            let params = Initialize { protocol_version: 1, client_capabilities: NoCapabilities {} };
            self.write(rpc::request(1, "initialize", params), io);
        }
        self.obey(io);
    }

    fn tick(&mut self, io: &mut Io) {
        if self.deadline.is_some_and(|at| at <= Instant::now()) {
            let limit = INITIALIZE_LIMIT.as_secs();
            self.fail(format!("openclaw acp did not answer initialize within {limit} s"), io);
            return;
        }
        let idle = lock(&self.bridge.state).idle_since.is_some_and(|since| since.elapsed() >= IDLE_LIMIT);
        if idle {
            self.bridge.end();
            return;
        }
        io.wake_at(Some(self.deadline.unwrap_or_else(|| Instant::now() + IDLE_LOOK)));
    }

    fn interrupt(&mut self, _: &mut Io) -> bool {
        // It is ended with SIGTERM, which follows at once.
        true
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A bridge without a process: the one prompt that comes is answered with success, after news that found no
    /// place when `loses` says so.
    pub(in super::super) fn answering(loses: bool) -> (Arc<Bridge>, std::thread::JoinHandle<()>) {
        let (commands, inbox) = bounded(COMMANDS_WAITING);
        let target = Target { url: String::new(), token: None };
        let (stop, next_id) = (CancelToken::new().unwrap(), AtomicU64::new(2));
        let bridge = Bridge {
            process: ProcessId { pid: 0, start: 0 },
            target,
            commands,
            stop,
            next_id,
            state: Mutex::default(),
        };
        let answer = move || {
            while let Ok(command) = inbox.recv() {
                if let Command::Write { answer_to: Some((id, mailbox)), .. } = command {
                    mailbox.put(News::Update(serde_json::json!({"update": {"sessionUpdate": "agent_message_chunk",
                        "content": {"type": "text", "text": "<final>half"}}})));
                    mailbox.has_lost.store(loses, Ordering::Relaxed);
                    mailbox.put(News::Answer(id, Ok(serde_json::json!({"stopReason": "end_turn"}))));
                }
            }
        };
        (Arc::new(bridge), std::thread::spawn(answer))
    }

    #[test]
    fn who_takes_nothing_any_more_is_not_waited_for_again() {
        let wake = CancelToken::new().unwrap();
        let (gone, _) = Mailbox::new(&wake);
        let (there, news) = Mailbox::new(&wake);
        let mut listeners = HashMap::from([("a".to_owned(), gone.clone()), ("b".to_owned(), there.clone())]);
        let mut told = |session| tell(&mut listeners, session, News::Update(Value::Null));
        assert_eq!(["a", "b", "nobody", "a"].map(&mut told), [false, true, false, false]);
        assert_eq!(listeners.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(news.len(), 1);
        assert_eq!((gone.has_lost(), there.has_lost()), (true, false));
    }
}
