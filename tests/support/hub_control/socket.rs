//! A daemon's socket: who may have one, what is said first, and what comes over it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Error, Message, WebSocket};

use super::super::hub::clock;
use super::super::hub::http::{Reply, Request, Wire};
use super::server::{Shared, TICK};
use super::world::{Heard, Refusal, World};
use super::{checks, frames};

/// Queued revocations that are sent on one connection.
const REVOCATIONS: usize = 50;
/// How long the hub waits for the ack of one.
const REVOCATION_TIME: Duration = Duration::from_secs(10);

/// The writing side of a socket.
pub struct Conn {
    stream: Mutex<TcpStream>,
    /// Events are not acked.
    pub mute: AtomicBool,
    /// Acks of events that wait to be let go; `None`: they go out at once.
    held: Mutex<Option<Vec<String>>>,
    /// Nothing is read.
    pub deaf: AtomicBool,
    /// The test has closed it.
    closed: AtomicBool,
}

impl Conn {
    pub fn text(&self, text: &str) {
        let _ = self.write(&frame(0x81, text.as_bytes()));
    }

    /// From now on acks of events wait for [`Self::release`].
    pub fn hold(&self) {
        self.held.lock().unwrap().get_or_insert_default();
    }

    /// Sends the acks that wait, and later ones at once.
    pub fn release(&self) {
        for ack in self.held.lock().unwrap().take().into_iter().flatten() {
            self.text(&ack);
        }
    }

    fn ack(&self, ack: String) {
        match &mut *self.held.lock().unwrap() {
            Some(held) => held.push(ack),
            None => self.text(&ack),
        }
    }

    /// A text in fragments of so many bytes, each written by itself.
    pub fn fragments(&self, text: &str, size: usize) {
        let chunks: Vec<_> = text.as_bytes().chunks(size).collect();
        for (n, chunk) in chunks.iter().enumerate() {
            let first = u8::from(n == 0) | if n + 1 == chunks.len() { 0x80 } else { 0 };
            let _ = self.write(&frame(first, chunk));
        }
    }

    /// One frame, byte by byte.
    pub fn bytes_one_by_one(&self, text: &str) {
        for byte in frame(0x81, text.as_bytes()) {
            let _ = self.write(&[byte]);
        }
    }

    /// A close frame. The connection ends when the peer has answered it, or after a second.
    pub fn close(&self, code: u16, reason: &str) {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend(reason.as_bytes());
        let _ = self.write(&frame(0x88, &payload));
        self.closed.store(true, Ordering::SeqCst);
    }

    /// The end without a close frame.
    pub fn cut(&self) {
        let _ = self.stream.lock().unwrap().shutdown(Shutdown::Both);
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.stream.lock().unwrap().write_all(bytes)
    }
}

/// A frame of a server.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(length as u8),
        length @ 126..65536 => {
            bytes.push(126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

/// What tungstenite reads from and answers to.
struct Line(TcpStream, Arc<Conn>);

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1.deaf.load(Ordering::SeqCst) {
            std::thread::sleep(TICK);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.read(buffer)
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.write(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whose socket this may be.
fn caller(world: &World, request: &Request, cloud: bool) -> Option<String> {
    let token = request.header("authorization")?.strip_prefix("Bearer ")?;
    let access = world.access.get(token).filter(|access| access.expires > world.now())?;
    let instance = world.instances.get(&access.instance).filter(|instance| !instance.revoked)?;
    let launch = instance.cloud.as_ref().map(|(_, launch)| launch);
    (access.launch.as_ref() == launch && launch.is_some() == cloud).then(|| access.instance.clone())
}

/// Serves an upgrade to the end of its socket; returns the status of the answer, 0 for none.
pub fn session(shared: &Arc<Shared>, wire: &mut Wire, request: &Request, cloud: bool) -> u16 {
    let (caller, refusal, greet) = {
        let world = shared.look();
        (caller(&world, request, cloud), world.refusal, world.greet)
    };
    let key = request.header("sec-websocket-key").filter(|_| request.upgrades());
    let refused = match (&caller, refusal) {
        _ if key.is_none() => Some(404),
        (None, Refusal::Status(status)) => Some(status),
        (None, Refusal::Silence) => {
            shared.hang();
            return 0;
        }
        _ => None,
    };
    let date = clock::http_date(shared.look().now());
    if let Some(status) = refused {
        let _ = wire.stream.write_all(&Reply::router(status, "refused").bytes(&date));
        return status;
    }
    let accept = derive_accept_key(key.unwrap_or_default().as_bytes());
    let mut head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nDate: {date}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .into_bytes();
    let conn = Arc::new(Conn {
        stream: Mutex::new(wire.stream.try_clone().unwrap()),
        mute: AtomicBool::new(false),
        held: Mutex::default(),
        deaf: AtomicBool::new(false),
        closed: AtomicBool::new(false),
    });
    let reader = wire.stream.try_clone().unwrap();
    reader.set_read_timeout(Some(TICK)).unwrap();
    let early = std::mem::take(&mut wire.early);
    let mut ws = WebSocket::from_partially_read(Line(reader, conn.clone()), early, Role::Server, None);
    let Some(id) = caller else {
        let Refusal::CloseWith(code) = refusal else { unreachable!("the others were answered") };
        let _ = conn.write(&head);
        conn.close(code, "refused");
        drain(shared, &mut ws);
        return 101;
    };
    let (hello, before) = shared.change(|world| {
        // With its place in the world: the end of an older socket must not take it for one of its own frames.
        let hello = (!greet.silent).then(|| frames::hello(world, &id));
        if greet.at_once
            && let Some(hello) = &hello
        {
            head.extend(frame(0x81, hello.as_bytes()));
        }
        // Inside, so that nobody finds it online before it is, nor online late.
        let _ = conn.write(&head);
        let now = world.now();
        world.instances.get_mut(&id).expect("it is the caller").last_seen = now;
        (hello, world.online.insert(id.clone(), conn.clone()))
    });
    if let Some(before) = before {
        before.close(4001, "replaced by a newer connection");
    }
    if let Some(hello) = hello.filter(|_| !greet.at_once) {
        conn.text(&hello);
    }
    let errands = {
        let (shared, id) = (shared.clone(), id.clone());
        std::thread::spawn(move || errands(&shared, &id, cloud))
    };
    run(shared, &mut ws, &conn, &id, cloud);
    shared.change(|world| {
        let is_ours = world.online.get(&id).is_some_and(|online| Arc::ptr_eq(online, &conn));
        if is_ours {
            world.online.remove(&id);
            world.sent.retain(|_, (instance, ack)| *instance != id || ack.is_some());
        }
    });
    conn.cut();
    let _ = errands.join();
    101
}

/// What the hub asks of a fresh connection by itself.
fn errands(shared: &Arc<Shared>, id: &str, cloud: bool) {
    if cloud {
        let Some(list) = frames::ask(shared, id, "list_agents", json!({}), REVOCATION_TIME) else { return };
        let loaded: Vec<&str> = list["result"]["agents"]
            .as_array()
            .map_or_else(Vec::new, |agents| agents.iter().filter_map(|agent| agent["id"].as_str()).collect());
        let missing: Vec<Value> = {
            let world = shared.look();
            let wanted = world.instances[id].provision.iter();
            wanted.filter(|(agent, _)| !loaded.contains(&agent.as_str())).map(|(_, params)| params.clone()).collect()
        };
        for params in missing {
            frames::ask(shared, id, "provision_agent", params, Duration::from_secs(30));
        }
        return;
    }
    for _ in 0..REVOCATIONS {
        let Some(params) = shared.look().instances[id].revocations.front().cloned() else { break };
        let bound = shared.look().instances[id].agents.iter().any(|agent| agent["agentId"] == params["agentId"]);
        let done = bound
            || frames::ask(shared, id, "revoke_agent", params, REVOCATION_TIME).is_some_and(|ack| ack["ok"] == true);
        if !done {
            return;
        }
        shared.change(|world| world.instances.get_mut(id).map(|instance| instance.revocations.pop_front()));
    }
    let ends = {
        let world = shared.look();
        world.instances[id].removing && world.instances[id].revocations.is_empty()
    };
    if ends {
        frames::ask(shared, id, "revoke", json!({"reason": "removed_by_user"}), REVOCATION_TIME);
        shared.change(|world| {
            world.instances.get_mut(id).expect("it has a socket").revoked = true;
            if let Some(conn) = world.online.get(id) {
                conn.close(4403, "revoked");
            }
        });
    }
}

/// Reads a closed socket to its end, for at most a second.
fn drain(shared: &Shared, ws: &mut WebSocket<Line>) {
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end && !shared.is_over() {
        match ws.read() {
            Err(Error::Io(e)) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

fn run(shared: &Shared, ws: &mut WebSocket<Line>, conn: &Conn, id: &str, cloud: bool) {
    while !shared.is_over() {
        if conn.closed.load(Ordering::SeqCst) {
            return drain(shared, ws);
        }
        match ws.read() {
            Ok(Message::Text(text)) => match serde_json::from_str::<Value>(text.as_str()) {
                Ok(frame) if frame.is_object() => heard(shared, conn, id, cloud, &frame),
                _ => {}
            },
            Ok(Message::Binary(_)) => shared.change(|world| world.violate(format!("{id} sent a binary frame"))),
            Ok(Message::Close(_)) => {
                let _ = ws.flush();
                return;
            }
            Ok(_) => drop(ws.flush()),
            Err(Error::Io(e)) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

/// An ack of ours, or an event of theirs.
fn heard(shared: &Shared, conn: &Conn, id: &str, cloud: bool, frame: &Value) {
    let answer = shared.change(|world| {
        let at = world.now();
        world.heard.push(Heard { at, instance: id.to_owned(), frame: frame.clone() });
        world.instances.get_mut(id)?.last_seen = at;
        if !frame["ok"].is_null() {
            took(world, id, frame);
            return None;
        }
        let (name, kind) = (frame["id"].as_str()?, frame["type"].as_str()?);
        let refused = |code: &str| Some(json!({"id": name, "ok": false, "error": {"code": code, "message": kind}}));
        let params = &frame["params"];
        match kind {
            "pong" | "agent_provisioned" | "agent_revoked" => {}
            "runtime_snapshot" if checks::runtime_snapshot(params, at) => {
                world.instances.get_mut(id)?.runtimes = Some(params.clone());
            }
            "agent_skill_snapshot" if checks::skill_snapshot(params, at) => {
                let agent = params["agentId"].as_str()?.to_owned();
                world.instances.get_mut(id)?.skills.insert(agent, params.clone());
            }
            "runtime_snapshot" | "agent_skill_snapshot" => {
                world.violate(format!("{id} sent a {kind} that the hub refuses: {params}"));
                return refused("bad_params");
            }
            "cloud_gateway_runtime_status" if cloud => {}
            _ => {
                world.violate(format!("{id} sent an event of the unknown type {kind}"));
                return refused("unknown_type");
            }
        }
        Some(json!({"id": name, "ok": true}))
    });
    if let Some(answer) = answer.filter(|_| !conn.mute.load(Ordering::SeqCst)) {
        conn.ack(answer.to_string());
    }
}

fn took(world: &mut World, id: &str, ack: &Value) {
    let name = ack["id"].as_str().unwrap_or_default();
    let fault = match world.sent.get_mut(name) {
        _ if !ack["type"].is_null() => Some("has a type"),
        _ if !ack["ok"].is_boolean() => Some("does not say yes or no"),
        _ if ack["ok"] == false && !ack["error"]["code"].is_string() => Some("has no code"),
        Some((instance, _)) if instance != id => Some("is for a frame of another daemon"),
        Some((_, first)) if first.is_some() => Some("is the second one"),
        Some((_, first)) => {
            *first = Some(ack.clone());
            None
        }
        None => Some("is for no frame"),
    };
    if let Some(fault) = fault {
        world.violate(format!("{id}: an ack {fault}: {ack}"));
    }
}
