//! A raw client of the hub: makes requests as a daemon must, and as it must not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::hub::{AgentHandle, Hub};

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    pub bytes: Vec<u8>,
    /// Null where the body is no JSON.
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Status and code, to compare at once.
    pub fn refusal(&self) -> (u16, &str) {
        (self.status, self.body["code"].as_str().unwrap_or_default())
    }
}

fn fresh() -> u64 {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// A message id that was not used before.
pub fn uuid() -> String {
    format!("00000000-0000-4000-8000-{:012x}", fresh())
}

pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// An agent with a token.
pub struct Client {
    pub address: String,
    pub agent: AgentHandle,
    pub token: String,
}

impl Client {
    pub fn new(hub: &Hub, agent: &AgentHandle) -> Self {
        let (token, _) = hub.token(agent);
        Self { address: hub.url()["http://".len()..].to_owned(), agent: agent.clone(), token }
    }

    /// The headers that every request has.
    pub fn headers(&self) -> Vec<(String, String)> {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            pair("Authorization", &format!("Bearer {}", self.token)),
            pair("X-BotCord-Request-ID", &format!("{:032x}", fresh())),
            pair("X-BotCord-Caller", "bellhop"),
            pair("X-BotCord-Caller-Version", "1.2.3"),
            pair("X-BotCord-Agent-ID", &self.agent.id),
            pair("X-BotCord-Credential-Key-ID", &self.agent.key_id),
            pair("X-BotCord-Retry-Attempt", "0"),
        ]
    }

    /// A request with these headers and this body.
    pub fn raw(&self, line: &str, headers: &[(String, String)], body: &[u8]) -> Option<Answer> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut head = format!("{line} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        stream.write_all((head + "\r\n").as_bytes()).ok()?;
        stream.write_all(body).ok()?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).ok()?;
        parse(&bytes)
    }

    /// A request as it must be, with a JSON body unless that is null; nothing when no whole answer comes.
    pub fn try_ask(&self, line: &str, body: &Value) -> Option<Answer> {
        let mut headers = self.headers();
        if body.is_null() {
            return self.raw(line, &headers, b"");
        }
        headers.push(("Content-Type".into(), "application/json".into()));
        self.raw(line, &headers, body.to_string().as_bytes())
    }

    pub fn ask(&self, line: &str, body: &Value) -> Answer {
        self.try_ask(line, body).expect("a whole answer")
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &Value::Null)
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(&format!("POST {path}"), body)
    }

    /// A request without a token, as the registry has them.
    pub fn post_public(&self, path: &str, body: &Value) -> Answer {
        let mut headers = self.headers().split_off(1);
        headers.push(("Content-Type".into(), "application/json".into()));
        self.raw(&format!("POST {path}"), &headers, body.to_string().as_bytes()).expect("a whole answer")
    }

    pub fn poll(&self) -> Vec<Value> {
        let answer = self.get("/hub/inbox?limit=50&ack=false");
        assert_eq!(answer.status, 200, "{answer:?}");
        let messages = answer.body["messages"].as_array().unwrap().clone();
        assert_eq!(answer.body["count"], messages.len());
        messages
    }

    pub fn ack(&self, ids: &[&str]) -> Value {
        self.post("/hub/inbox/ack", &json!({"message_ids": ids})).body["acked"].clone()
    }

    /// A signed envelope.
    pub fn envelope(&self, to: &str, payload: Value) -> Value {
        let mut envelope = json!({
            "v": "a2a/0.1", "msg_id": uuid(), "ts": now(), "from": self.agent.id, "to": to, "type": "message",
            "reply_to": null, "ttl_sec": 3600, "topic": null, "goal": null, "payload": payload,
        });
        self.seal(&mut envelope);
        envelope
    }

    pub fn seal(&self, envelope: &mut Value) {
        self.agent.seed.seal(envelope, &self.agent.key_id);
    }

    /// An envelope with other fields, signed.
    pub fn envelope_with(&self, to: &str, text: &str, fields: &Value) -> Value {
        let mut envelope = self.envelope(to, json!({"text": text}));
        for (name, value) in fields.as_object().unwrap() {
            envelope[name] = value.clone();
        }
        self.seal(&mut envelope);
        envelope
    }

    pub fn send(&self, envelope: &Value) -> Answer {
        self.post("/hub/send", envelope)
    }

    pub fn say(&self, to: &str, text: &str) -> Answer {
        self.send(&self.envelope(to, json!({"text": text})))
    }
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let mut slots = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut slots);
    let httparse::Status::Complete(start) = head.parse(bytes).ok()? else { return None };
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|h| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).into_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().unwrap());
    let bytes = bytes.get(start..start + length)?.to_vec();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Some(Answer { status: head.code?, headers, bytes, body })
}
