//! Asks a gateway how it is, as its own tools do.

use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::{Value, json};

use std::os::fd::AsFd;

use crate::json;
use crate::net::ws::{self, Incoming, Request, Socket, WsError};
use crate::text;

/// For everything together.
pub const LIMIT: Duration = Duration::from_secs(3);
/// How long the gateway's challenge is waited for; some send none.
const CHALLENGE: Duration = Duration::from_millis(250);
/// Longest message of a gateway, in bytes.
const MAX_MESSAGE: usize = 1 << 20;
/// Messages that are read before its answer.
const MOST_MESSAGES: usize = 64;
/// The request's id.
const ID: &str = "probe-connect";

/// What a gateway answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It lets us in; its version, where it says one.
    Ready(Option<String>),
    /// It wants a token that we have not, or another one.
    Refused(String),
    /// It does not answer, or not as a gateway does.
    Unreachable(String),
}

/// Whether something that speaks WebSocket listens on a port of this machine.
pub(super) fn speaks(port: u16, limit: Duration) -> bool {
    open(&format!("ws://127.0.0.1:{port}"), limit).is_ok()
}

/// Asks a gateway; takes up to [`LIMIT`].
pub fn probe(url: &str, token: Option<&str>) -> Answer {
    let end = Instant::now() + LIMIT;
    let asked = open(url, LIMIT).and_then(|mut socket| ask(&mut socket, token, end));
    asked.unwrap_or_else(|e| Answer::Unreachable(e.to_string()))
}

fn open(url: &str, limit: Duration) -> Result<Socket, WsError> {
    // Nobody gives it up early: its other end stays open.
    let (never, _keep) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| WsError::Unreachable(e.into()))?;
    ws::open(&Request { url, headers: &[], limit, max_message: MAX_MESSAGE }, never.as_fd())
}

fn ask(socket: &mut Socket, token: Option<&str>, end: Instant) -> Result<Answer, WsError> {
    let until = end.min(Instant::now() + CHALLENGE);
    next(socket, until, |event| event["event"] == "connect.challenge")?;
    socket.send(&request(token))?;
    let Some(answer) = next(socket, end, |answer| answer["id"] == ID)? else { return Err(WsError::TimedOut) };
    socket.close(1000, "");
    Ok(read(&answer))
}

fn request(token: Option<&str>) -> String {
    let client = json!({
        "id": "openclaw-probe", "version": env!("CARGO_PKG_VERSION"), "platform": std::env::consts::OS, "mode": "probe",
    });
    let mut params = json!({
        "minProtocol": 3, "maxProtocol": 3, "client": client, "role": "operator", "scopes": ["operator.read"],
    });
    if let Some(token) = token {
        params["auth"] = json!({"token": token});
    }
    json!({"type": "req", "id": ID, "method": "connect", "params": params}).to_string()
}

/// The next message that is `wanted`; `None` when there is none in time.
fn next(socket: &mut Socket, end: Instant, wanted: impl Fn(&Value) -> bool) -> Result<Option<Value>, WsError> {
    let mut others = 0;
    loop {
        match socket.receive()? {
            Some(Incoming::Text(text)) => match json::parse(text.as_bytes()) {
                Ok(message) if wanted(&message) => return Ok(Some(message)),
                _ => others += 1,
            },
            Some(Incoming::Other) => others += 1,
            Some(Incoming::Closed { code, reason }) => {
                return Err(WsError::Broken(format!("closed with {code} {}", text::clip(&reason, 100))));
            }
            None => {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(None);
                }
                socket.wait(&[], Some(left))?;
            }
        }
        if others > MOST_MESSAGES {
            return Ok(None);
        }
    }
}

fn read(answer: &Value) -> Answer {
    if answer["ok"] == true {
        let version = answer["payload"]["server"]["version"].as_str();
        return Answer::Ready(version.map(|v| text::clip(v.trim(), 64)).filter(|v| !v.is_empty()));
    }
    let error = &answer["error"];
    let said = error["message"].as_str().or_else(|| error.as_str()).or_else(|| error["code"].as_str());
    let said = text::clip(said.unwrap_or("it refuses without a reason"), 200);
    let words = format!("{} {said}", error["code"].as_str().unwrap_or_default()).to_ascii_lowercase();
    if ["auth", "token", "unauthorized", "forbidden", "pairing"].iter().any(|word| words.contains(word)) {
        return Answer::Refused(said);
    }
    Answer::Unreachable(said)
}
