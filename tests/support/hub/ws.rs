//! The wake-up line of an agent.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::{Error, Message, WebSocket};

use super::clock;
use super::faults::Fault;
use super::http::{Reply, Request};
use super::server::Talk;
use super::state::SocketRow;
use super::strict;
use super::violations::Rule;

/// The writing side, shared by the connection's thread and all who push.
pub struct Conn {
    pub number: u64,
    stream: Mutex<TcpStream>,
    mute: AtomicBool,
}

impl Conn {
    /// Nothing is written from now on, and nothing that comes counts: a connection whose other end is gone.
    pub fn fall_silent(&self) {
        self.mute.store(true, Ordering::SeqCst);
    }

    fn is_mute(&self) -> bool {
        self.mute.load(Ordering::SeqCst)
    }

    /// Writes a text frame; a peer that is gone is no failure.
    pub fn push(&self, text: &str) {
        if !self.is_mute() {
            let _ = self.frame(0x81, text.as_bytes());
        }
    }

    /// One whole frame of a server.
    fn frame(&self, first: u8, payload: &[u8]) -> io::Result<()> {
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
        self.stream.lock().unwrap().write_all(&bytes)
    }

    /// Ends the connection.
    pub fn cut(&self) {
        let _ = self.stream.lock().unwrap().shutdown(Shutdown::Both);
    }

    /// Sends a close frame, and reads no answer.
    pub fn close(&self, code: u16, reason: &str) {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend(reason.as_bytes());
        let _ = self.frame(0x88, &payload);
    }
}

/// What tungstenite reads from and answers to: every write of it is whole frames.
struct Line {
    reader: TcpStream,
    conn: Arc<Conn>,
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.conn.is_mute() {
            self.conn.stream.lock().unwrap().write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What came from the client, or did not.
enum Came {
    Frame(Value),
    Pong,
    Nonsense,
    Nothing,
    End,
}

/// Serves a request for a WebSocket to its end.
pub fn session(talk: &mut Talk<'_>, request: &Request, faults: &[Fault], row: usize) {
    let has = |wanted: &dyn Fn(&Fault) -> bool| faults.iter().any(wanted);
    let refusal = faults.iter().find_map(|fault| match fault {
        Fault::RefuseUpgrade(status) => Some(Reply::plain(*status, "no upgrade")),
        Fault::Answer(reply) => Some(reply.clone()),
        _ => None,
    });
    let key = request.header("sec-websocket-key").filter(|_| request.upgrades());
    let refusal = refusal.or_else(|| key.is_none().then(|| Reply::router(404, "Not Found")));
    let date = clock::http_date(talk.shared.clock.wall());
    if let Some(reply) = refusal {
        talk.shared.change(|world| world.rows[row].status = reply.status);
        let _ = talk.wire.stream.write_all(&reply.bytes(&date));
        return;
    }
    talk.shared.change(|world| world.rows[row].status = 101);
    let accept = derive_accept_key(key.unwrap_or_default().as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    if talk.wire.stream.write_all(head.as_bytes()).is_err() {
        return;
    }
    let stream = Mutex::new(talk.wire.stream.try_clone().unwrap());
    let mute = has(&|fault| matches!(fault, Fault::Mute | Fault::Silence));
    let conn = Arc::new(Conn { number: talk.number, stream, mute: AtomicBool::new(mute) });
    let reader = talk.wire.stream.try_clone().unwrap();
    reader.set_read_timeout(Some(talk.shared.look().settings.tick)).unwrap();
    let early = std::mem::take(&mut talk.wire.early);
    let line = Line { reader, conn: conn.clone() };
    let mut session = Session {
        talk,
        ws: WebSocket::from_partially_read(line, early, Role::Server, None),
        conn,
        agent: String::new(),
        began: 0,
    };
    if session.authenticate(faults) {
        session.run(faults);
    }
    session.leave();
}

struct Session<'a, 'b> {
    talk: &'a mut Talk<'b>,
    ws: WebSocket<Line>,
    conn: Arc<Conn>,
    agent: String,
    /// By the sockets' clock.
    began: i64,
}

impl Session<'_, '_> {
    fn read(&mut self) -> Came {
        if self.talk.is_over() {
            return Came::End;
        }
        match self.ws.read() {
            Ok(Message::Text(text)) => match serde_json::from_str(text.as_str()) {
                Ok(Value::Object(frame)) => Came::Frame(Value::Object(frame)),
                _ => Came::Nonsense,
            },
            Ok(Message::Binary(_)) => Came::Nonsense,
            Ok(Message::Pong(_)) => Came::Pong,
            Ok(Message::Ping(_)) => {
                // The pong is made by the next write.
                let _ = self.ws.flush();
                Came::Nothing
            }
            Ok(Message::Close(_) | Message::Frame(_)) => {
                let _ = self.ws.flush();
                Came::End
            }
            Err(Error::Io(error)) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Came::Nothing
            }
            Err(_) => Came::End,
        }
    }

    /// Closes as the hub does, and reads on until the client has answered or a second is over.
    fn close(&mut self, code: u16, reason: &str) {
        let _ = self.ws.close(Some(CloseFrame { code: code.into(), reason: reason.to_owned().into() }));
        let end = clock::real() + 1000;
        while clock::real() < end && !matches!(self.read(), Came::End) {}
    }

    /// The first frame has to be `auth` with the newest token.
    fn authenticate(&mut self, faults: &[Fault]) -> bool {
        let clock = self.talk.shared.clock.clone();
        let limit = self.talk.shared.look().settings.auth_time.as_millis() as i64;
        let end = clock.sockets() + limit;
        let frame = loop {
            match self.read() {
                Came::Frame(frame) => break frame,
                Came::Nonsense | Came::End => return false,
                Came::Pong | Came::Nothing if clock.sockets() < end => {}
                Came::Pong | Came::Nothing => {
                    self.close(4001, "Auth timeout");
                    return false;
                }
            }
        };
        for fault in faults {
            match fault {
                Fault::CloseAtAuth(code, reason) => {
                    self.close(*code, reason);
                    return false;
                }
                Fault::Silence => {
                    while !matches!(self.read(), Came::End) {}
                    return false;
                }
                _ => {}
            }
        }
        let token = frame["token"].as_str().filter(|token| frame["type"] == "auth" && !token.is_empty());
        let Some(token) = token else {
            self.close(4001, "Missing token");
            return false;
        };
        let (number, conn) = (self.talk.number, self.conn.clone());
        // Before the client may know: from then on a test may move the clock.
        self.began = clock.sockets();
        let agent = self.talk.shared.change(|world| {
            let agent = strict::holder(world, token, false).ok().filter(|agent| world.agents.contains_key(agent))?;
            let now = clock::real();
            let row = SocketRow {
                number,
                agent: agent.clone(),
                opened: now,
                ready: Some(now),
                closed: None,
                pings: 0,
                asked: 0,
            };
            world.sockets.push(row);
            // Before anything else can be pushed to it.
            conn.push(&json!({"type": "auth_ok", "agent_id": agent}).to_string());
            world.conns.entry(agent.clone()).or_default().push(conn);
            Some(agent)
        });
        match agent {
            Some(agent) => {
                self.agent = agent;
                true
            }
            None => {
                self.close(4001, "Invalid token");
                false
            }
        }
    }

    fn run(&mut self, faults: &[Fault]) {
        for fault in faults {
            match fault {
                Fault::Text(text) => self.conn.push(text),
                Fault::Binary(bytes) => drop(self.conn.frame(0x82, bytes)),
                _ => {}
            }
        }
        let clock = self.talk.shared.clock.clone();
        let settings = self.talk.shared.look().settings.clone();
        let ms = |time: Duration| time.as_millis() as i64;
        let now = self.began;
        let (mut heard, mut beat, mut pinged, mut ping_seen) = (now, now, now, now);
        let mut pong_missing = false;
        loop {
            match self.read() {
                Came::Frame(frame) => {
                    (heard, beat) = (clock.sockets(), clock.sockets());
                    if frame["type"] == "ping" {
                        ping_seen = heard;
                        self.conn.push(&json!({"type": "pong"}).to_string());
                        self.count(|row| row.pings += 1);
                    }
                }
                Came::Pong => pong_missing = false,
                // The hub's reader fails, and its connection ends without a close frame.
                Came::Nonsense | Came::End => return,
                Came::Nothing => {}
            }
            let now = clock.sockets();
            if now - ping_seen > ms(settings.client_ping) {
                let what = format!("{}: {} ms", self.agent, now - ping_seen);
                self.talk.shared.change(|world| world.violate(Rule::NoPing, what));
                ping_seen = now;
            }
            if now - heard >= ms(settings.ghost) {
                self.close(4002, "Ghost connection: no client response");
                return;
            }
            if now - beat >= ms(settings.heartbeat) {
                beat = now;
                self.conn.push(&json!({"type": "heartbeat"}).to_string());
            }
            if now - pinged >= ms(settings.ping) {
                if pong_missing {
                    let what = self.agent.clone();
                    self.talk.shared.change(|world| world.violate(Rule::NoPong, what));
                    self.close(1011, "keepalive ping timeout");
                    return;
                }
                pinged = now;
                if !self.conn.is_mute() {
                    pong_missing = true;
                    let _ = self.conn.frame(0x89, b"hub");
                    self.count(|row| row.asked += 1);
                }
            }
        }
    }

    fn count(&self, count: impl FnOnce(&mut SocketRow)) {
        let number = self.talk.number;
        self.talk.shared.change(|world| {
            world.sockets.iter_mut().rev().find(|row| row.number == number).map(count);
        });
    }

    fn leave(&mut self) {
        let number = self.talk.number;
        self.talk.shared.change(|world| {
            for conns in world.conns.values_mut() {
                conns.retain(|conn| conn.number != number);
            }
            if let Some(row) = world.sockets.iter_mut().rev().find(|row| row.number == number) {
                row.closed = Some(clock::real());
            }
        });
        self.talk.hang_up();
    }
}
