//! Requests as they come and answers as they go: one connection's HTTP/1.1.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

/// A head that is longer is not read.
const HEAD_LIMIT: usize = 64 * 1024;
/// A body that is longer is not read.
const BODY_LIMIT: usize = 32 * 1024 * 1024;

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// In capitals.
    pub method: String,
    /// Without the query, as sent.
    pub path: String,
    /// Decoded names and values, in order.
    pub query: Vec<(String, String)>,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    /// As sent.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of this name (small letters).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The first parameter of this name.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The `n`th segment of the path, decoded; empty where there is none.
    pub fn segment(&self, n: usize) -> String {
        self.path.trim_start_matches('/').split('/').nth(n).map(unescape).unwrap_or_default()
    }

    /// Whether it asks for a WebSocket.
    pub fn upgrades(&self) -> bool {
        self.header("upgrade").is_some_and(|to| to.eq_ignore_ascii_case("websocket"))
    }
}

/// `%41` and the like become what they stand for.
pub fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let code = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// JSON.
    pub fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
        Self { status, headers, body: body.to_string().into_bytes() }
    }

    /// 204.
    pub fn empty() -> Self {
        Self { status: 204, headers: Vec::new(), body: Vec::new() }
    }

    /// A coded error.
    pub fn coded(status: u16, code: &str) -> Self {
        let detail = code.replace('_', " ");
        Self::json(status, &json!({"detail": detail, "code": code, "hint": null, "retryable": status >= 500}))
    }

    /// A plain error.
    pub fn plain(status: u16, text: &str) -> Self {
        Self::json(status, &json!({"detail": text, "error": text, "hint": null, "retryable": false}))
    }

    /// An error of the router.
    pub fn router(status: u16, text: &str) -> Self {
        Self::json(status, &json!({"detail": text}))
    }

    /// 422 about one place of the request.
    pub fn invalid(part: &str, field: &str, kind: &str) -> Self {
        let problem = json!({"type": kind, "loc": [part, field], "msg": kind.replace('_', " "), "input": {}});
        Self::json(422, &json!({"detail": [problem]}))
    }

    /// With another header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The error's code, if the body has one.
    pub fn code(&self) -> Option<String> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        Some(body["code"].as_str()?.to_owned())
    }

    /// The bytes for the wire.
    pub fn bytes(&self, date: &str) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Status\r\nDate: {date}\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if self.status != 204 {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        let mut bytes = (head + "\r\n").into_bytes();
        bytes.extend(&self.body);
        bytes
    }
}

/// The reading side of a connection, with what was read too early.
pub struct Wire {
    pub stream: TcpStream,
    pub early: Vec<u8>,
}

impl Wire {
    /// The head of the next request; nothing when the peer has gone, or talks nonsense.
    pub fn head(&mut self) -> Option<Request> {
        loop {
            let mut slots = [httparse::EMPTY_HEADER; 64];
            let mut parsed = httparse::Request::new(&mut slots);
            if let httparse::Status::Complete(length) = parsed.parse(&self.early).ok()? {
                let request = request(&parsed)?;
                self.early.drain(..length);
                return Some(request);
            }
            if self.early.len() > HEAD_LIMIT {
                return None;
            }
            self.more()?;
        }
    }

    /// Reads the body that the head announces; nothing when it does not come whole.
    pub fn body(&mut self, request: &mut Request) -> Option<()> {
        if request.header("expect").is_some() {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
        if request.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            request.body = self.chunks()?;
            return Some(());
        }
        let length = request.header("content-length").unwrap_or("0").parse().ok()?;
        request.body = self.exactly(length)?;
        Some(())
    }

    fn more(&mut self) -> Option<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) | Err(_) => None,
            Ok(count) => {
                self.early.extend(&buffer[..count]);
                Some(())
            }
        }
    }

    fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        if length > BODY_LIMIT {
            return None;
        }
        while self.early.len() < length {
            self.more()?;
        }
        let rest = self.early.split_off(length);
        Some(std::mem::replace(&mut self.early, rest))
    }

    fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let (start, length) = loop {
                match httparse::parse_chunk_size(&self.early).ok()? {
                    httparse::Status::Complete(found) => break found,
                    httparse::Status::Partial => self.more()?,
                }
            };
            self.early.drain(..start);
            let length = usize::try_from(length).ok()?;
            body.extend(self.exactly(length)?);
            self.exactly(2)?;
            if length == 0 {
                return Some(body);
            }
            if body.len() > BODY_LIMIT {
                return None;
            }
        }
    }
}

fn request(parsed: &httparse::Request) -> Option<Request> {
    let (path, query) = parsed.path?.split_once('?').unwrap_or((parsed.path?, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (unescape(&name.replace('+', " ")), unescape(&value.replace('+', " ")))
    });
    let headers = parsed
        .headers
        .iter()
        .map(|h| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).trim().to_owned()));
    Some(Request {
        method: parsed.method?.to_owned(),
        path: path.to_owned(),
        query: pairs.collect(),
        headers: headers.collect(),
        body: Vec::new(),
    })
}
