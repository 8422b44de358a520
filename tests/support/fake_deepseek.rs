//! DeepSeek's server as far as the adapter uses it, and strict about it: requests that the real one would
//! refuse are refused.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// A request as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Method and path with query.
    pub line: String,
    /// Body; null without one.
    pub body: Value,
}

/// What the server does.
#[derive(Clone, Default)]
pub struct Script {
    /// Frames of each turn: event name and data.
    pub turn: Vec<(&'static str, Value)>,
    /// Frames after an interruption or an approval.
    pub after: Vec<(&'static str, Value)>,
    /// Threads that exist from the beginning.
    pub threads: Vec<&'static str>,
    /// The stream is closed after the frames of the turn.
    pub hangs_up: bool,
}

struct Shared {
    token: Option<String>,
    script: Script,
    requests: Mutex<Vec<Request>>,
    threads: Mutex<Vec<String>>,
    streams: Mutex<Vec<TcpStream>>,
    seq: Mutex<u64>,
}

/// A running server. Its threads end with the test.
#[derive(Clone)]
pub struct FakeDeepSeek {
    /// `http://127.0.0.1:<port>`.
    pub url: String,
    shared: Arc<Shared>,
}

impl FakeDeepSeek {
    /// Serves on a free port.
    pub fn start(token: Option<&str>, script: Script) -> Self {
        Self::serve(TcpListener::bind(("127.0.0.1", 0)).unwrap(), token, script)
    }

    /// Serves on this port.
    pub fn serve(listener: TcpListener, token: Option<&str>, script: Script) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let threads = script.threads.iter().map(|t| (*t).to_owned()).collect();
        let shared = Arc::new(Shared {
            token: token.map(str::to_owned),
            script,
            requests: Mutex::default(),
            threads: Mutex::new(threads),
            streams: Mutex::default(),
            seq: Mutex::new(40),
        });
        let server = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || while server.answer(&stream) {});
            }
        });
        Self { url, shared }
    }

    /// The requests so far, apart from health checks.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Method and path of the requests.
    pub fn lines(&self) -> Vec<String> {
        self.requests().into_iter().map(|r| r.line).collect()
    }
}

impl Shared {
    /// Answers one request; returns whether the connection stays open for another.
    fn answer(&self, stream: &TcpStream) -> bool {
        let mut reader = BufReader::new(stream);
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return false;
        }
        let (mut length, mut authorization) = (0, None);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            match name.to_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap(),
                "authorization" => authorization = Some(value.trim().to_owned()),
                "transfer-encoding" => panic!("the body has no length"),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        let mut parts = first.split(' ');
        let line = format!("{} {}", parts.next().unwrap(), parts.next().unwrap());
        if line == "GET /health" {
            return reply(stream, 200, &json!({"ok": true}));
        }
        self.requests.lock().unwrap().push(Request { line: line.clone(), body: body.clone() });
        if authorization != self.token.as_ref().map(|token| format!("Bearer {token}")) {
            return reply(stream, 401, &json!({"error": "unauthorized"}));
        }
        self.route(stream, &line, &body)
    }

    fn route(&self, stream: &TcpStream, line: &str, body: &Value) -> bool {
        let (method, path) = line.split_once(' ').unwrap();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let known = |thread: &str| self.threads.lock().unwrap().iter().any(|t| t == thread);
        match (method, parts.as_slice()) {
            ("POST", ["v1", "threads"]) => {
                assert!(
                    body["workspace"].is_string() && body["mode"] == "agent" && body["archived"] == false,
                    "{body}"
                );
                self.threads.lock().unwrap().push("thr_1".to_owned());
                reply(stream, 201, &json!({"id": "thr_1"}))
            }
            ("PATCH", ["v1", "threads", thread]) if known(thread) => {
                assert!(body["system_prompt"].is_string(), "{body}");
                reply(stream, 200, &json!({"id": thread}))
            }
            ("GET", ["v1", "threads", thread, "events"]) if known(thread) => {
                assert!(query.starts_with("since_seq="), "{query}");
                // Held until the stream is known: the client may make a turn as soon as it has the head.
                let mut streams = self.streams.lock().unwrap();
                let mut writer = stream;
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                writer.write_all(head.as_bytes()).unwrap();
                chunk(stream, ": hello\n\n");
                streams.push(stream.try_clone().unwrap());
                false
            }
            ("POST", ["v1", "threads", thread, "turns"]) if known(thread) => {
                assert!(body["prompt"].is_string() && body["auto_approve"].is_boolean(), "{body}");
                let open = reply(stream, 200, &json!({"turn": {"id": "turn_1"}}));
                self.send(&self.script.turn);
                if self.script.hangs_up {
                    for stream in self.streams.lock().unwrap().drain(..) {
                        chunk(&stream, "");
                    }
                }
                open
            }
            ("POST", ["v1", "threads", thread, "turns", "turn_1", "interrupt"]) if known(thread) => {
                let open = reply(stream, 200, &json!({}));
                self.send(&self.script.after);
                open
            }
            ("POST", ["v1", "approvals", "ap_1"]) => {
                assert_eq!(body["remember"], false);
                let open = reply(stream, 200, &json!({}));
                self.send(&self.script.after);
                open
            }
            _ => reply(stream, 404, &json!({"error": "no such thing"})),
        }
    }

    fn send(&self, frames: &[(&'static str, Value)]) {
        for (event, data) in frames {
            let mut data = data.clone();
            let mut seq = self.seq.lock().unwrap();
            *seq += 1;
            data["seq"] = json!(*seq);
            let frame = format!("event: {event}\ndata: {data}\n\n");
            let half = (0..=frame.len() / 2).rev().find(|at| frame.is_char_boundary(*at)).unwrap();
            if let Some(stream) = self.streams.lock().unwrap().last() {
                chunk(stream, &frame[..half]);
                chunk(stream, &frame[half..]);
            }
        }
    }
}

fn reply(mut stream: &TcpStream, status: u16, body: &Value) -> bool {
    let body = body.to_string();
    let head =
        format!("HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).is_ok() && stream.write_all(body.as_bytes()).is_ok()
}

/// A piece of a chunked body; the empty one ends it. A client that has gone away is no failure.
fn chunk(mut stream: &TcpStream, text: &str) {
    let _ = stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes());
}
