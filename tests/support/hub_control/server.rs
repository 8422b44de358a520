//! The port: connections, the table of paths, and what goes wrong on purpose.

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::super::hub::clock;
use super::super::hub::http::{Reply, Request, Wire};
use super::world::{Fault, Row, World, invalid};
use super::{agents, cloud, login, socket};

/// How often threads look whether the hub is over.
pub const TICK: Duration = Duration::from_millis(20);

/// What all threads of a hub share.
pub struct Shared {
    world: Mutex<World>,
    changed: Condvar,
    over: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    pub fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut world = World::new();
        world.origin = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Self {
            world: Mutex::new(world),
            changed: Condvar::new(),
            over: AtomicBool::new(false),
            streams: Mutex::default(),
            threads: Mutex::default(),
        });
        let accepting = shared.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.is_over() {
                    return;
                }
                accepting.take(stream);
            }
        });
        shared.threads.lock().unwrap().push(thread);
        shared
    }

    fn take(self: &Arc<Self>, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        self.streams.lock().unwrap().push(stream.try_clone().unwrap());
        let shared = self.clone();
        let thread = std::thread::spawn(move || {
            let mut wire = Wire { stream, early: Vec::new() };
            while serve(&shared, &mut wire) {}
            let _ = wire.stream.shutdown(Shutdown::Both);
        });
        self.threads.lock().unwrap().push(thread);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// A look at the world; what others wait for is changed with [`Self::change`].
    pub fn look(&self) -> MutexGuard<'_, World> {
        // A test that fails inside a look must not make the hub fail, too.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let result = change(&mut self.look());
        self.changed.notify_all();
        result
    }

    /// Waits for a change, at most for [`TICK`].
    pub fn wait<'a>(&self, world: MutexGuard<'a, World>) -> MutexGuard<'a, World> {
        self.changed.wait_timeout(world, TICK).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Ends all connections and threads.
    pub fn stop(&self) {
        self.over.store(true, Ordering::SeqCst);
        let address = self.look().origin["http://".len()..].to_owned();
        let _ = TcpStream::connect(address);
        loop {
            for stream in self.streams.lock().unwrap().drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
            self.changed.notify_all();
            let Some(thread) = self.threads.lock().unwrap().pop() else { return };
            let _ = thread.join();
        }
    }

    /// Stays away until the hub is over.
    pub fn hang(&self) {
        while !self.is_over() {
            std::thread::sleep(TICK);
        }
    }
}

/// The name under which faults of a request are set: its path, with the ids left out.
fn endpoint(request: &Request) -> &'static str {
    let segments: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    match (request.method.as_str(), segments.as_slice()) {
        ("POST", ["daemon", "auth", "device-code"]) => "device-code",
        ("POST", ["daemon", "auth", "device-token"]) => "device-token",
        ("POST", ["daemon", "auth", "install-token"]) => "install-token",
        ("POST", ["daemon", "auth", "refresh"]) => "refresh",
        ("POST", ["daemon", "diagnostics", "upload"]) => "upload",
        ("POST", ["internal", "cloud-agents", "runs", _, "settle"]) => "settle",
        ("GET", ["hub", "attention-policy"]) => "policy",
        ("GET", ["hub", "files", _]) => "file",
        ("POST", ["registry", "agents"]) => "register",
        ("POST", ["registry", "agents", _, "verify"]) => "verify",
        ("GET", ["daemon", "ws"]) => "ws",
        ("GET", ["cloud", "daemon", "ws"]) => "cloud-ws",
        _ => "",
    }
}

/// Serves one request; returns whether another may follow.
fn serve(shared: &Arc<Shared>, wire: &mut Wire) -> bool {
    let Some(mut request) = wire.head() else { return false };
    if wire.body(&mut request).is_none() || shared.is_over() {
        return false;
    }
    let name = endpoint(&request);
    let fault = shared.change(|world| world.faults.get_mut(name).and_then(std::collections::VecDeque::pop_front));
    match &fault {
        Some(Fault::Hang) => {
            note(shared, &request, 0);
            shared.hang();
            return false;
        }
        Some(Fault::Reset) => {
            note(shared, &request, 0);
            return false;
        }
        Some(Fault::Delay(time)) => std::thread::sleep(*time),
        _ => {}
    }
    if name.ends_with("ws") && !matches!(fault, Some(Fault::Status(_))) {
        let status = socket::session(shared, wire, &request, name == "cloud-ws");
        note(shared, &request, status);
        return false;
    }
    let reply = match &fault {
        Some(Fault::Status(status)) => Reply::router(*status, "on purpose"),
        Some(Fault::Say(status, body)) => Reply::json(*status, body),
        _ => shared.change(|world| answer(world, name, &request)).unwrap_or_else(|refusal| refusal),
    };
    note(shared, &request, reply.status);
    let date = clock::http_date(shared.look().now());
    let bytes = match fault {
        Some(Fault::Close) => return false,
        Some(Fault::Malformed) => Reply { body: b"<html>".to_vec(), ..reply }.bytes(&date),
        _ => reply.bytes(&date),
    };
    let untold = name == "file" && shared.look().files.get(&request.segment(2)).is_some_and(|(_, told)| !told);
    if untold {
        // Its end is the end of the connection.
        let _ = wire.stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        let _ = wire.stream.write_all(&reply_body(&bytes));
        return false;
    }
    wire.stream.write_all(&bytes).is_ok()
}

fn reply_body(bytes: &[u8]) -> Vec<u8> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
    bytes[head..].to_vec()
}

fn note(shared: &Shared, request: &Request, status: u16) {
    shared.change(|world| {
        let body = serde_json::from_slice(&request.body).unwrap_or_default();
        let (at, method, path) = (world.now(), request.method.clone(), request.path.clone());
        world.rows.push(Row { at, method, path, body, status });
    });
}

fn answer(world: &mut World, name: &str, request: &Request) -> Result<Reply, Reply> {
    let parsed = serde_json::from_slice::<Value>(&request.body);
    let body = || parsed.as_ref().ok().filter(|body| body.is_object()).ok_or_else(|| invalid("body"));
    match name {
        "device-code" => Ok(login::device_code(world)),
        "device-token" => login::device_token(world, body()?),
        "install-token" => login::install_token(world, body()?),
        "refresh" => login::refresh(world, body()?),
        "upload" => cloud::upload(world, request),
        "settle" => cloud::settle(world, request, body()?),
        "policy" => agents::policy(world, request),
        "register" => agents::register(world, body()?),
        "verify" => agents::verify(world, request, body()?),
        "file" => agents::file(world, request),
        _ => Err(Reply::router(404, "Not Found")),
    }
}
