//! The servers behind `deepseek-tui`: one per agent and working directory, kept between turns.
//!
//! A thread drives each server's process. It ends the process after five minutes without a turn, and tells
//! waiting turns when the process ends by itself.

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};

use super::http::{Client, Endpoint};
use crate::crypto::hex;
use crate::engine::cancel::{CancelReason, CancelToken};
use crate::engine::ports::ProcessId;
use crate::runtime::process::{Driven, Handler, Io, Process, SpawnError, Spec, Stdin, StopLimits};
use crate::text;
use crate::thread;

/// How long a server may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How often it is asked whether it is.
const READY_PAUSE: Duration = Duration::from_millis(250);
/// A server without a turn for so long is ended.
pub const IDLE_LIMIT: Duration = Duration::from_mins(5);
/// How often the idle time is looked at.
const IDLE_LOOK: Duration = Duration::from_secs(15);
/// How often a free port is tried: another program may take it in between.
const PORT_TRIES: usize = 3;
/// Most of standard error that is kept, in UTF-16 units.
const STDERR_LIMIT: usize = 4_096;

/// Which server: agent and working directory.
pub type Key = (String, PathBuf);

/// How to start a server.
#[derive(Clone)]
pub struct Start {
    /// Program.
    pub program: PathBuf,
    /// Environment without the token.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory.
    pub cwd: PathBuf,
    /// Limits of stopping.
    pub stop: StopLimits,
}

/// Why there is no server.
#[derive(Debug, PartialEq, Eq)]
pub enum StartError {
    /// For people.
    Failed(String),
    /// The program is not there; for people.
    Missing(String),
    /// The turn was cancelled meanwhile.
    Cancelled,
}

#[derive(Default)]
struct State {
    turns: usize,
    idle_since: Option<Instant>,
    stderr: String,
    /// How it ended.
    ended: Option<String>,
}

/// A running server.
pub struct Server {
    /// How to talk to it.
    pub client: Client,
    /// Its process; `None` for one that somebody else started.
    pub process: Option<ProcessId>,
    stop: CancelToken,
    state: Mutex<State>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// A server that is not ours to start or end.
    pub fn external(endpoint: Endpoint) -> std::io::Result<Self> {
        Self::new(endpoint, None)
    }

    fn new(endpoint: Endpoint, process: Option<ProcessId>) -> std::io::Result<Self> {
        let stop = CancelToken::new()?;
        Ok(Self { client: Client::new(endpoint), process, stop, state: Mutex::default() })
    }

    /// How it ended, once it has.
    pub fn ended(&self) -> Option<String> {
        lock(&self.state).ended.clone()
    }

    /// The last words on standard error.
    pub fn stderr(&self) -> String {
        lock(&self.state).stderr.clone()
    }

    /// Ends the process group: no turn can take hold of it any more.
    pub fn end(&self) {
        self.stop.cancel(CancelReason::Shutdown);
    }

    /// Waits for the end of an ended server, for at most 10 s.
    fn wait(&self) {
        let limit = Instant::now() + Duration::from_secs(10);
        while self.process.is_some() && self.ended().is_none() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_usable(&self) -> bool {
        !self.stop.is_cancelled() && self.ended().is_none()
    }
}

/// A turn's hold on a server: as long as one exists the server is not idle.
pub struct Lease {
    server: Arc<Server>,
}

impl Lease {
    /// Takes hold of a server.
    pub fn new(server: Arc<Server>) -> Self {
        let mut state = lock(&server.state);
        state.turns += 1;
        state.idle_since = None;
        drop(state);
        Self { server }
    }
}

impl std::ops::Deref for Lease {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = lock(&self.server.state);
        state.turns = state.turns.saturating_sub(1);
        if state.turns == 0 {
            state.idle_since = Some(Instant::now());
        }
    }
}

enum Slot {
    /// Somebody starts it; others wait.
    Starting,
    Running(Arc<Server>),
}

/// The servers that run.
#[derive(Default)]
pub struct Pool {
    slots: Mutex<HashMap<Key, Slot>>,
    changed: Condvar,
}

impl Pool {
    /// The server for this key, started when there is none. Turns that come meanwhile share it.
    pub fn get(&self, key: &Key, start: &Start, cancel: &CancelToken) -> Result<Lease, StartError> {
        let mut slots = lock(&self.slots);
        loop {
            if cancel.is_cancelled() {
                return Err(StartError::Cancelled);
            }
            match slots.get(key) {
                Some(Slot::Running(server)) if server.is_usable() => return Ok(Lease::new(server.clone())),
                Some(Slot::Starting) => {
                    let waited = self.changed.wait_timeout(slots, Duration::from_millis(100));
                    slots = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                _ => break,
            }
        }
        slots.retain(|_, slot| !matches!(slot, Slot::Running(server) if !server.is_usable()));
        slots.insert(key.clone(), Slot::Starting);
        drop(slots);
        let started = start_server(&key.0, start, cancel).map(Lease::new);
        let mut slots = lock(&self.slots);
        match &started {
            Ok(lease) => slots.insert(key.clone(), Slot::Running(lease.server.clone())),
            Err(_) => slots.remove(key),
        };
        drop(slots);
        self.changed.notify_all();
        started
    }

    /// Ends all servers and waits for them.
    pub fn close(&self) {
        let slots = std::mem::take(&mut *lock(&self.slots));
        let servers: Vec<_> = slots
            .into_values()
            .filter_map(|slot| match slot {
                Slot::Running(server) => Some(server),
                Slot::Starting => None,
            })
            .collect();
        for server in &servers {
            server.end();
        }
        for server in &servers {
            server.wait();
        }
    }
}

/// Starts a server and waits until it is ready.
fn start_server(name: &str, start: &Start, cancel: &CancelToken) -> Result<Arc<Server>, StartError> {
    let mut tried = 0;
    loop {
        tried += 1;
        let server = launch(name, start)?;
        let end = Instant::now() + READY_LIMIT;
        let why = loop {
            if cancel.is_cancelled() {
                server.end();
                return Err(StartError::Cancelled);
            }
            if let Some(ended) = server.ended() {
                break ended;
            }
            if server.client.is_healthy() {
                return Ok(server);
            }
            if Instant::now() >= end {
                server.end();
                return Err(StartError::Failed(format!("server not ready within {} s", READY_LIMIT.as_secs())));
            }
            std::thread::sleep(READY_PAUSE);
        };
        if tried >= PORT_TRIES {
            let stderr = server.stderr();
            let words = text::trim(text::tail(text::trim(&stderr), 500));
            return Err(StartError::Failed(if words.is_empty() { why } else { format!("{why}: {words}") }));
        }
        log::info!("deepseek.start_again agent={name} tried={tried} {why}");
    }
}

/// Starts the process and the thread that drives it.
fn launch(name: &str, start: &Start) -> Result<Arc<Server>, StartError> {
    let failed = |what: &str, e: std::io::Error| StartError::Failed(format!("{what}: {e}"));
    let port = free_port().map_err(|e| failed("no free port", e))?;
    let token = random_token().ok_or_else(|| StartError::Failed("no random bytes".to_owned()))?;
    let mut env = start.env.clone();
    // In the environment and not among the arguments, which every user of the machine can read.
    env.retain(|(variable, _)| variable != "DEEPSEEK_RUNTIME_TOKEN");
    env.push(("DEEPSEEK_RUNTIME_TOKEN".into(), token.clone().into()));
    let spec = Spec {
        runtime: super::ID.to_owned(),
        turn_id: format!("pool-deepseek-{}-{port}", std::process::id()),
        program: start.program.clone(),
        args: ["serve", "--http", "--host", "127.0.0.1", "--port", &port.to_string()].map(OsString::from).to_vec(),
        env,
        cwd: start.cwd.clone(),
        stdin: Stdin::Null,
        idle_limit: None,
        kill_leftovers: true,
        stop: start.stop,
    };
    let not_started = |e: SpawnError| {
        if e.not_found { StartError::Missing(e.message) } else { StartError::Failed(e.message) }
    };
    let mut process = Process::spawn(spec).map_err(not_started)?;
    let endpoint = Endpoint { base: format!("http://127.0.0.1:{port}"), token: Some(token) };
    let server = Server::new(endpoint, Some(process.id())).map_err(|e| failed("no descriptor", e))?;
    let server = Arc::new(server);
    let watched = server.clone();
    // Woken once, so that the handler can set its alarm.
    server.stop.wake();
    thread::spawn(format!("deepseek:{name}"), move || {
        let mut keeper = Keeper { server: watched.clone() };
        let ended = loop {
            if let Driven::Ended(ended) = process.drive(&watched.stop, &mut keeper) {
                break ended;
            }
        };
        let how = match (ended.exit_code, ended.signal) {
            (Some(code), _) => format!("deepseek serve exited with code {code}"),
            (None, Some(signal)) => format!("deepseek serve was killed by signal {signal}"),
            (None, None) => "deepseek serve ended".to_owned(),
        };
        log::info!("deepseek.ended {how}");
        lock(&watched.state).ended = Some(how);
    })
    .map_err(|e| failed("cannot start a thread", e))?;
    Ok(server)
}

/// Looks after the process of a server.
struct Keeper {
    server: Arc<Server>,
}

impl Handler for Keeper {
    fn line(&mut self, _: &str, _: &mut Io) {}

    fn stderr_line(&mut self, line: &str, _: &mut Io) {
        let mut state = lock(&self.server.state);
        state.stderr.push_str(line);
        state.stderr.push('\n');
        if text::len_utf16(&state.stderr) > 2 * STDERR_LIMIT {
            let from = state.stderr.len() - text::tail(&state.stderr, STDERR_LIMIT).len();
            state.stderr.drain(..from);
        }
    }

    fn woken(&mut self, io: &mut Io) {
        io.wake_at(Some(Instant::now() + IDLE_LOOK));
    }

    fn tick(&mut self, io: &mut Io) {
        let idle = lock(&self.server.state).idle_since.is_some_and(|since| since.elapsed() >= IDLE_LIMIT);
        if idle {
            // Cancelled and not only stopped: no turn may take it any more.
            self.server.end();
            return;
        }
        io.wake_at(Some(Instant::now() + IDLE_LOOK));
    }

    fn busy(&self) -> bool {
        true
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// 32 random bytes in hexadecimal.
fn random_token() -> Option<String> {
    let mut bytes = [0_u8; 32];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(hex(&bytes))
}
