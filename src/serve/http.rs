//! HTTP/1.1 as bytes: request heads in, answers out. Pure; `conn` does the waiting.
//!
//! What is refused, and why: heads over [`Limits::head`] bytes or with too many fields (memory), bodies over
//! [`Limits::body`] (memory), more than one `Content-Length` or one beside a `Transfer-Encoding` (two readers
//! could see two requests in one), chunked bodies (no client of this API needs them), `Expect` for anything
//! but `100-continue`, HTTP/1.1 without exactly one `Host`. Any error closes the connection, since what
//! follows can no longer be trusted to be a request.

use std::time::Duration;

use super::wire::{ErrorAnswer, ErrorKind, Failure};
use crate::json;

/// What a server puts up with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest head in bytes, with its empty line (default 16 KiB).
    pub head: usize,
    /// Most header fields; at most [`MOST_HEADERS`] (default 64).
    pub headers: usize,
    /// Longest body in bytes (default 4 MiB).
    pub body: usize,
    /// For a head to arrive, from the connection or its first byte (default 10 s).
    pub head_time: Duration,
    /// For a body to arrive, from the end of the head (default 30 s).
    pub body_time: Duration,
    /// For the next request of a connection to begin (default 30 s).
    pub idle_time: Duration,
    /// For the peer to take an answer, or one event (default 30 s).
    pub write_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: 16 << 10,
            headers: MOST_HEADERS,
            body: 4 << 20,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(30),
            write_time: Duration::from_secs(30),
        }
    }
}

/// Bound of [`Limits::headers`].
pub const MOST_HEADERS: usize = 64;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Method, as it came (methods are case-sensitive).
    pub method: String,
    /// Request target, as it came.
    pub target: String,
    /// Header fields in their order, names in lower case, values as they came without white space around.
    pub headers: Vec<(String, String)>,
    /// The body; empty when there was none.
    pub body: Vec<u8>,
    /// Whether the peer wants to use the connection again.
    pub keep_alive: bool,
}

impl Request {
    /// The first value of a header field, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The target without scheme, authority and query.
    pub fn path(&self) -> &str {
        self.split().0
    }

    /// What follows the first `?` of the target.
    pub fn query(&self) -> Option<&str> {
        self.split().1
    }

    fn split(&self) -> (&str, Option<&str>) {
        let target = match self.target.strip_prefix("http://") {
            Some(rest) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
            None => &self.target,
        };
        match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        }
    }

    /// The segments of the path, percent-decoded one by one, so that an id may contain a slash.
    pub fn segments(&self) -> Result<Vec<String>, Failure> {
        let path = self.path();
        let Some(rest) = path.strip_prefix('/') else {
            return Err(bad(format!("the path is {}; it begins with /", shown(path))));
        };
        rest.split('/')
            .map(|segment| {
                percent_decode(segment).ok_or_else(|| {
                    bad(format!("the path has a bad percent escape or is not UTF-8 in {}", shown(segment)))
                })
            })
            .collect()
    }
}

/// A head that was read, and what is to follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The request, its body still empty.
    pub request: Request,
    /// Bytes of the head.
    pub length: usize,
    /// Bytes of the body.
    pub body: usize,
    /// The peer waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// Reads the head at the beginning of `bytes`; `None` when it is not whole yet.
pub fn parse_head(bytes: &[u8], limits: &Limits) -> Result<Option<Head>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let fields = fields.get_mut(..limits.headers).unwrap_or_default();
    let mut parsed = httparse::Request::new(fields);
    let too_large = || Failure::new(ErrorKind::HeadTooLarge, format!("the head has more than {} bytes", limits.head));
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length > limits.head => return Err(too_large()),
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= limits.head => return Err(too_large()),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            let message = format!("the head has more than {} header fields", limits.headers);
            return Err(Failure::new(ErrorKind::HeadTooLarge, message));
        }
        Err(httparse::Error::Version) => {
            let message = "the request is neither HTTP/1.1 nor HTTP/1.0";
            return Err(Failure::new(ErrorKind::VersionNotSupported, message));
        }
        Err(e) => return Err(bad(format!("this is no HTTP request: {e}"))),
    };
    let mut headers = Vec::with_capacity(parsed.headers.len());
    for field in parsed.headers.iter() {
        let Ok(value) = std::str::from_utf8(field.value) else {
            return Err(bad(format!("header {} is not UTF-8", field.name)));
        };
        headers.push((field.name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        target: parsed.path.unwrap_or_default().to_owned(),
        headers,
        body: Vec::new(),
        keep_alive: false,
    };
    let minor = parsed.version.unwrap_or_default();
    if minor >= 1 && request.headers.iter().filter(|(n, _)| n == "host").count() != 1 {
        return Err(bad("HTTP/1.1 asks for exactly one Host header".into()));
    }
    request.keep_alive = keeps_alive(&request, minor);
    let body = body_length(&request, limits)?;
    let expects_continue = match request.header("expect") {
        None => false,
        Some(value) if value.eq_ignore_ascii_case("100-continue") => minor >= 1 && body > 0,
        Some(value) => {
            let message = format!("Expect is {}; only 100-continue is known", shown(value));
            return Err(Failure::new(ErrorKind::ExpectationFailed, message));
        }
    };
    Ok(Some(Head { request, length, body, expects_continue }))
}

fn keeps_alive(request: &Request, minor: u8) -> bool {
    let says = |word: &str| {
        let values = request.headers.iter().filter(|(n, _)| n == "connection");
        values.flat_map(|(_, v)| v.split(',')).any(|token| token.trim().eq_ignore_ascii_case(word))
    };
    if minor >= 1 { !says("close") } else { says("keep-alive") && !says("close") }
}

fn body_length(request: &Request, limits: &Limits) -> Result<usize, Failure> {
    let mut lengths = request.headers.iter().filter(|(n, _)| n == "content-length").map(|(_, v)| v);
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(bad("there is more than one Content-Length".into()));
    }
    if let Some(coding) = request.header("transfer-encoding") {
        if length.is_some() {
            return Err(bad("there are both a Transfer-Encoding and a Content-Length".into()));
        }
        return Err(if coding.eq_ignore_ascii_case("chunked") {
            let message = "chunked bodies are not read; send the body with a Content-Length";
            Failure::new(ErrorKind::LengthRequired, message)
        } else {
            let message = format!("Transfer-Encoding is {}; send the body with a Content-Length", shown(coding));
            Failure::new(ErrorKind::NotImplemented, message)
        });
    }
    let Some(length) = length else { return Ok(0) };
    // `parse` alone would take a sign.
    if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad(format!("Content-Length is {}; a number is expected", shown(length))));
    }
    // What does not fit a number is too large as well.
    match length.parse() {
        Ok(length) if length <= limits.body => Ok(length),
        _ => Err(Failure::new(
            ErrorKind::TooLarge,
            format!("the body has {} bytes; at most {} are taken", crate::text::clip(length, 20), limits.body),
        )),
    }
}

fn bad(message: String) -> Failure {
    Failure::new(ErrorKind::BadRequest, message)
}

/// Something that came from outside, quoted and cut for an error message.
pub fn shown(text: &str) -> String {
    format!("{:?}", crate::text::clip(text, 80))
}

/// Decodes `%XX` once. `None` for a bad escape or when the result is not UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        decoded.push((high * 16 + low) as u8);
    }
    String::from_utf8(decoded).ok()
}

/// Encodes everything but letters, digits, `-`, `.`, `_`, `~` and `:` for use as one segment of a path.
pub fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// An answer with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Media type of the body.
    pub content_type: &'static str,
    /// Value of `Allow`, for 405.
    pub allow: Option<&'static str>,
    /// The body.
    pub body: Vec<u8>,
}

/// Media type of every answer but event streams.
pub const JSON: &str = "application/json; charset=utf-8";

impl Answer {
    /// A JSON document.
    pub fn json(status: u16, document: &impl serde::Serialize) -> Self {
        match json::to_vec(document) {
            Ok(mut body) => {
                // Friendlier to `curl` in a terminal.
                body.push(b'\n');
                Self { status, content_type: JSON, allow: None, body }
            }
            Err(e) => Self::failure(&Failure::new(ErrorKind::Internal, format!("the answer is no JSON: {e}"))),
        }
    }

    /// An error.
    pub fn failure(failure: &Failure) -> Self {
        let body = json::to_vec(&ErrorAnswer { error: failure.clone() }).unwrap_or_default();
        Self { status: failure.kind.status(), content_type: JSON, allow: None, body: [body, b"\n".to_vec()].concat() }
    }

    /// The whole of it as bytes. `body` is false for the answer to a HEAD request.
    pub fn to_bytes(&self, keep_alive: bool, body: bool) -> Vec<u8> {
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n",
            self.status,
            reason(self.status),
            self.content_type,
            self.body.len()
        );
        if let Some(methods) = self.allow {
            head.push_str(&format!("Allow: {methods}\r\n"));
        }
        head.push_str(if keep_alive { "Connection: keep-alive\r\n\r\n" } else { "Connection: close\r\n\r\n" });
        let mut bytes = head.into_bytes();
        if body {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// The phrase of a status.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<Option<Head>, Failure> {
        parse_head(head.as_bytes(), &Limits::default())
    }

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let text = "POST /v1/x%2Fy?z HTTP/1.1\r\nHost: a\r\nContent-LENGTH: 5 \r\nExpect: 100-Continue\r\n\r\nhello";
        let end = text.len() - 5;
        for cut in 0..end {
            assert_eq!(parse(&text[..cut]), Ok(None), "cut at {cut}");
        }
        let head = parse(text).unwrap().unwrap();
        assert_eq!((head.length, head.body, head.expects_continue), (end, 5, true));
        assert_eq!(head.request.segments().unwrap(), ["v1", "x/y"]);
        assert_eq!(head.request.query(), Some("z"));
        assert!(head.request.keep_alive);
    }

    #[test]
    fn connections_are_kept_as_the_version_says() {
        let keeps = |text: &str| parse(text).unwrap().unwrap().request.keep_alive;
        assert!(keeps("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    }

    #[test]
    fn what_could_be_read_two_ways_is_refused() {
        let cases = [
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("GET /\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{0}\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4194305\r\n\r\n", 413),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", 413),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: tea\r\n\r\n", 417),
        ];
        for (text, status) in cases {
            let failure = parse(text).expect_err(text);
            assert_eq!(failure.kind.status(), status, "{text:?}: {failure}");
        }
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(64));
        assert_eq!(parse(&many).unwrap_err().kind, ErrorKind::HeadTooLarge);
        let long = format!("GET /{}", "x".repeat(16 << 10));
        assert_eq!(parse(&long).unwrap_err().kind, ErrorKind::HeadTooLarge);
    }

    #[test]
    fn targets_may_name_the_authority() {
        let head = parse("GET http://a:1/v1/status?q HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.request.path(), head.request.query()), ("/v1/status", Some("q")));
    }

    #[test]
    fn percent_escapes_go_both_ways() {
        for text in ["", "m_1", "a/b c%", "ä😀", "telegram:1"] {
            assert_eq!(percent_decode(&percent_encode(text)).as_deref(), Some(text));
        }
        for text in ["%", "%4", "%zz", "%ff", "%+1"] {
            assert_eq!(percent_decode(text), None, "{text}");
        }
    }
}
