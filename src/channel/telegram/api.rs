//! Requests to the Bot API: `POST <base>/bot<token>/<method>` with JSON, and `GET <base>/file/bot<token>/<path>`.
//!
//! What goes wrong is told without the URL, and whatever a server says is searched for the token before it is repeated.

use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::crypto;
use crate::json;
use crate::net::http::{Answer, Body, Http, HttpErrorKind, Request, read_all};
use crate::net::url;
use crate::text;

/// Where the Bot API is, unless the gateway says otherwise.
pub const BASE: &str = "https://api.telegram.org";
/// What is said of a token that can be none.
pub const NO_TOKEN: &str = "the bot token has characters that no token has";
/// Longest answer, in bytes; a hundred updates of the longest kind have about two million.
const ANSWER: u64 = 16 << 20;
/// Longest token.
const TOKEN: usize = 256;
/// How long a server waits for an update.
pub const POLL: Duration = Duration::from_secs(50);
/// How much longer an answer to that may take.
const POLL_EXTRA: Duration = Duration::from_secs(15);
/// For a file to come or go.
const FILE_LIMIT: Duration = Duration::from_mins(2);
/// The longest that a server may put a request off; longer ones come back after this.
const LONGEST: Duration = Duration::from_hours(1);
/// What stands in the place of a token.
const HIDDEN: &str = "[hidden]";

/// Why a request did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiError {
    /// The server does not know the token.
    Token,
    /// Another program asks for the same bot's updates, or a webhook takes them.
    Conflict(String),
    /// Too many requests: come again after this time.
    Limited(Duration),
    /// It will not do it, now or later.
    Refused {
        /// Its number for it.
        code: u16,
        /// Its words.
        why: String,
    },
    /// It cannot do it now.
    Down(String),
    /// There is no answer.
    Lost {
        /// Whether the server may have acted on it.
        sent: bool,
        /// What went wrong.
        why: String,
    },
    /// The caller wanted it to end.
    Aborted,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token => f.write_str("Telegram does not know the bot's token"),
            Self::Conflict(why) => write!(f, "the bot's messages go elsewhere: {why}"),
            Self::Limited(after) => write!(f, "too many requests; again in {} s", after.as_secs()),
            Self::Refused { code, why } => write!(f, "refused ({code}): {why}"),
            Self::Down(why) | Self::Lost { why, .. } => f.write_str(why),
            Self::Aborted => f.write_str("given up"),
        }
    }
}

/// A file that goes with a request.
pub struct Part<'a> {
    /// Name of the parameter.
    pub field: &'a str,
    /// Name of the file; plain characters only.
    pub filename: &'a str,
    /// The file.
    pub file: File,
    /// Its size.
    pub size: u64,
}

/// The Bot API for one bot.
pub struct Api {
    http: Arc<Http>,
    base: String,
    token: String,
}

impl Api {
    /// For the bot of this token. Fails for what can be no token.
    pub fn new(http: Arc<Http>, base: &str, token: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_');
        if token.is_empty() || token.len() > TOKEN || !token.bytes().all(plain) {
            return Err(NO_TOKEN.into());
        }
        // Nobody else's sink shows it, either.
        crate::redact::remember(token);
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), token: token.to_owned() })
    }

    /// The number of the bot, which its token begins with.
    pub fn bot(&self) -> &str {
        self.token.split(':').next().unwrap_or_default()
    }

    /// Who the bot is.
    pub fn me(&self, limit: Duration, abort: BorrowedFd<'_>) -> Result<Value, ApiError> {
        self.call("getMe", &json!({}), limit, abort)
    }

    /// The next updates, or none when there were none for so long.
    pub fn updates(&self, offset: Option<i64>, wait: Duration, abort: BorrowedFd<'_>) -> Result<Vec<Value>, ApiError> {
        let mut params = json!({"timeout": wait.as_secs(), "limit": 100, "allowed_updates": ["message"]});
        if let Some(offset) = offset {
            params["offset"] = offset.into();
        }
        match self.call("getUpdates", &params, wait + POLL_EXTRA, abort)? {
            Value::Array(updates) => Ok(updates),
            _ => Err(ApiError::Down("the answer is no list of updates".into())),
        }
    }

    /// Has the server do something.
    pub fn call(
        &self,
        method: &str,
        params: &Value,
        limit: Duration,
        abort: BorrowedFd<'_>,
    ) -> Result<Value, ApiError> {
        let body = json::to_vec(params).map_err(|e| ApiError::Down(e.to_string()))?;
        self.post(method, "application/json", Body::Bytes(&body), limit, abort)
    }

    /// The same with a file. Parameters that are no texts travel as JSON.
    pub fn upload(
        &self,
        method: &str,
        params: &Map<String, Value>,
        part: Part<'_>,
        abort: BorrowedFd<'_>,
    ) -> Result<Value, ApiError> {
        let boundary = crypto::hex(&crypto::random::<16>());
        let mut head = String::new();
        for (name, value) in params {
            head += &format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        }
        let Part { field, filename, file, size } = part;
        head += &format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"{filename}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let length = head.len() as u64 + size + tail.len() as u64;
        let mut body = Cursor::new(head).chain(file.take(size)).chain(Cursor::new(tail));
        let kind = format!("multipart/form-data; boundary={boundary}");
        self.post(method, &kind, Body::Reader(&mut body, length), FILE_LIMIT, abort)
    }

    fn post(
        &self,
        method: &str,
        content_type: &str,
        body: Body<'_>,
        limit: Duration,
        abort: BorrowedFd<'_>,
    ) -> Result<Value, ApiError> {
        let url = format!("{}/bot{}/{method}", self.base, self.token);
        let headers = [("content-type", content_type)];
        let mut bytes = Vec::new();
        let request = Request { method: "POST", url: &url, headers: &headers, body, limit };
        let answer = self.send(request, abort, &mut |_, body| read_all(body, ANSWER, &mut bytes))?;
        self.outcome(answer.status, &bytes)
    }

    /// Fetches a file of at most `most` bytes; `path` is the server's name for it.
    pub fn download(&self, path: &str, most: u64, into: &mut File, abort: BorrowedFd<'_>) -> Result<(), ApiError> {
        let safe = !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !safe {
            return Err(ApiError::Refused { code: 0, why: "the server's name for the file is odd".into() });
        }
        let path: Vec<String> = path.split('/').map(url::encode).collect();
        let url = format!("{}/file/bot{}/{}", self.base, self.token, path.join("/"));
        let request = Request { method: "GET", url: &url, headers: &[], body: Body::None, limit: FILE_LIMIT };
        let mut error = Vec::new();
        let mut take = |answer: &Answer, body: &mut dyn Read| {
            if answer.status != 200 {
                return read_all(body, ANSWER, &mut error);
            }
            // So much is not too long yet, one byte more is.
            let copied = std::io::copy(&mut body.take(most + 1), into)?;
            into.flush()?;
            if copied > most { Err(std::io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
        };
        let answer = self.send(request, abort, &mut take)?;
        match answer.status {
            200 => Ok(()),
            404 => Err(ApiError::Refused { code: 404, why: "the file is gone".into() }),
            status => self.outcome(status, &error).map(drop),
        }
    }

    fn send(
        &self,
        request: Request<'_, '_>,
        abort: BorrowedFd<'_>,
        take: &mut dyn FnMut(&Answer, &mut dyn Read) -> std::io::Result<()>,
    ) -> Result<Answer, ApiError> {
        self.http.send(request, abort, take).map_err(|e| match e.kind {
            HttpErrorKind::Aborted => ApiError::Aborted,
            HttpErrorKind::TooLong => ApiError::Refused { code: 0, why: "the answer is too long".into() },
            _ => ApiError::Lost { sent: e.sent, why: self.blot(&e.to_string()) },
        })
    }

    /// What an answer says.
    fn outcome(&self, status: u16, body: &[u8]) -> Result<Value, ApiError> {
        let mut answer = json::parse(body).unwrap_or_default();
        if status == 200 && answer["ok"] == true {
            return Ok(answer["result"].take());
        }
        let why = answer["description"].as_str().map_or_else(|| format!("it says {status}"), |why| self.blot(why));
        Err(match status {
            // Something in front of the server: its word is no verdict on the bot or on a message.
            300..=499 if answer["ok"] != false && !matches!(status, 413 | 429) => ApiError::Down(why),
            // Of a token that is none the server knows no methods.
            401 | 404 => ApiError::Token,
            409 => ApiError::Conflict(why),
            429 => {
                let after = answer["parameters"]["retry_after"].as_u64().unwrap_or(5).max(1);
                ApiError::Limited(Duration::from_secs(after).min(LONGEST))
            }
            200 | 500.. => ApiError::Down(why),
            _ => {
                let moved = answer["parameters"]["migrate_to_chat_id"].as_i64();
                let moved = moved.map(|id| format!("; the chat's id is {id} now, which has to be allowed"));
                ApiError::Refused { code: status, why: why + &moved.unwrap_or_default() }
            }
        })
    }

    /// A text of somebody else without the token, and not too long.
    fn blot(&self, text: &str) -> String {
        crate::redact::text(&text::clip(&text.replace(&self.token, HIDDEN), 300))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api() -> Api {
        Api::new(Arc::new(Http::new()), "https://h/", "123:ABC-_x").unwrap()
    }

    #[test]
    fn answers_are_told_apart_and_hold_no_token() {
        let said = |status: u16, body: &str| api().outcome(status, body.as_bytes());
        assert_eq!(said(200, r#"{"ok":true,"result":{"id":1}}"#), Ok(json!({"id": 1})));
        assert_eq!(said(401, r#"{"ok":false,"description":"Unauthorized"}"#), Err(ApiError::Token));
        assert_eq!(said(404, r#"{"ok":false,"error_code":404}"#), Err(ApiError::Token));
        for status in [302, 401, 403, 404, 407, 409] {
            assert_eq!(said(status, "<html>"), Err(ApiError::Down(format!("it says {status}"))), "a proxy's");
        }
        assert!(matches!(said(413, "<html>"), Err(ApiError::Refused { code: 413, .. })));
        let limited = r#"{"ok":false,"parameters":{"retry_after":7}}"#;
        assert_eq!(said(429, limited), Err(ApiError::Limited(Duration::from_secs(7))));
        let long = r#"{"ok":false,"parameters":{"retry_after":99999999}}"#;
        assert_eq!(said(429, long), Err(ApiError::Limited(LONGEST)));
        assert_eq!(said(429, "?"), Err(ApiError::Limited(Duration::from_secs(5))));
        assert_eq!(said(409, r#"{"ok":false,"description":"webhook"}"#), Err(ApiError::Conflict("webhook".into())));
        assert_eq!(said(502, "<html>"), Err(ApiError::Down("it says 502".into())));
        assert!(matches!(said(200, "{}"), Err(ApiError::Down(_))));
        let refused =
            said(400, r#"{"ok":false,"description":"no bot123:ABC-_x here","parameters":{"migrate_to_chat_id":-5}}"#);
        match refused {
            Err(ApiError::Refused { code: 400, why }) => {
                assert!(!why.contains("123:ABC") && why.contains("-5 now"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_can_be_no_token_is_refused_and_not_repeated() {
        for token in ["", "a b", "1:a/b", "1:é", &"x".repeat(TOKEN + 1)] {
            let why = Api::new(Arc::new(Http::new()), BASE, token).err().unwrap();
            assert!(token.is_empty() || !why.contains(token), "{why}");
        }
        assert_eq!(api().bot(), "123");
    }
}
