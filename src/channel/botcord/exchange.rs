//! The way of a request to a hub and of the answer back: headers, bodies, tokens, what is learnt from every answer.

use std::io::{self, Read, SeekFrom, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::api::Source;
use super::credentials::{Credentials, CredentialsFile};
use super::error::{ApiError, Refusal, Terminal};
use super::refusal::{self, Verdict};
use super::request::{self, Line, Rules};
use super::token::{self, Clock, Fresh, Tokens};
use super::wire::Download;
use crate::crypto::sign::SigningKey;
use crate::crypto::{self, base64};
use crate::engine::cancel::{CancelReason, CancelToken};
use crate::json;
use crate::net::http::{Answer, Body, Http, HttpError, HttpErrorKind, Request, read_all};
use crate::net::url;
use crate::time;

/// How much is read of the body of an error.
const ERROR_LIMIT: u64 = 64 << 10;
/// Longest body of an answer. An inbox that is longer is asked for fewer messages.
pub const BODY_LIMIT: u64 = 32 << 20;
/// The same for a single message, which holds what was said twice.
pub const LARGE_LIMIT: u64 = 64 << 20;
/// Values of an answer other than the inbox's, which reads with more care.
const VALUES: usize = 500_000;
/// What is said of a longer one.
pub const TOO_LONG: &str = "it is too long";
/// Limit of a refresh.
const REFRESH_LIMIT: Duration = Duration::from_secs(10);
/// Longest token.
const TOKEN_MAX: usize = 16 << 10;

/// Who asks, and whom.
pub struct Identity {
    /// Address of the hub.
    pub url: String,
    /// The agent.
    pub agent: String,
    /// Id of its key.
    pub key_id: String,
    /// Its key.
    pub key: SigningKey,
    /// The token that it begins with, and its end.
    token: Option<(String, f64)>,
}

impl Identity {
    /// That of the credentials.
    pub fn of(credentials: Credentials) -> Self {
        // Without its end a token is as good as none.
        let token = credentials.token.zip(credentials.token_expires_at);
        let Credentials { hub_url, agent_id, key_id, key, .. } = credentials;
        Self { url: hub_url, agent: agent_id, key_id, key, token }
    }
}

/// What is sent.
#[derive(Clone, Copy)]
pub enum Payload<'a> {
    /// Nothing.
    None,
    /// A document.
    Json(&'a Value),
    /// A document that is made anew for every attempt; `None` when it cannot be made.
    Made(&'a dyn Fn() -> Option<Value>),
}

/// A request.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// Method.
    pub method: &'static str,
    /// Below the hub's address, with the query.
    pub path: &'a str,
    /// What is sent.
    pub payload: Payload<'a>,
    /// How it is repeated.
    pub rules: Rules,
    /// For each attempt.
    pub limit: Duration,
    /// Longest body of the answer.
    pub most: u64,
    /// Whether it says who asks.
    pub bearer: bool,
    /// Whether the hub does it only for agents that somebody has claimed.
    pub claimed: bool,
}

impl<'a> Call<'a> {
    /// A look-up.
    pub fn get(path: &'a str) -> Self {
        let (payload, rules, limit) = (Payload::None, Rules::IDEMPOTENT, Duration::from_secs(30));
        Self { method: "GET", path, payload, rules, limit, most: BODY_LIMIT, bearer: true, claimed: false }
    }

    /// A document that is posted.
    pub fn post(path: &'a str, body: &'a Value) -> Self {
        Self { method: "POST", payload: Payload::Json(body), ..Self::get(path) }
    }

    /// With other rules.
    #[must_use]
    pub fn rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// With another time limit.
    #[must_use]
    pub fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// For claimed agents alone.
    #[must_use]
    pub fn claimed(self) -> Self {
        Self { claimed: true, ..self }
    }

    /// Without a token.
    #[must_use]
    pub fn public(self) -> Self {
        Self { bearer: false, ..self }
    }
}

/// Makes one attempt: with which token, under which id, which one.
type Work<'w> = dyn FnMut(Option<&str>, &str, u32) -> Result<Vec<u8>, ApiError> + 'w;

/// The way to the hub, for one agent.
pub struct Exchange {
    /// Who asks.
    pub identity: Identity,
    /// The hub's time.
    pub clock: Arc<Clock>,
    http: Arc<Http>,
    tokens: Tokens,
    verdict: Mutex<Verdict>,
    began: Instant,
    stop: CancelToken,
}

impl Exchange {
    /// A way. Fails only when the process is out of descriptors.
    pub fn new(mut identity: Identity, file: Option<CredentialsFile>, http: Arc<Http>) -> io::Result<Self> {
        let clock = Arc::new(Clock::default());
        let mark = format!("{}\n{}\n{}", identity.url, identity.agent, identity.key_id);
        let mark = crypto::short_hash(mark.as_bytes(), 16);
        let tokens = Tokens::new(identity.token.take(), file, clock.clone(), mark);
        let (verdict, began) = (Mutex::default(), Instant::now());
        Ok(Self { identity, clock, http, tokens, verdict, began, stop: CancelToken::new()? })
    }

    /// Ends everything.
    pub fn stop(&self) {
        self.stop.cancel(CancelReason::Shutdown);
    }

    /// The end of the agent at the hub, once it has come.
    pub fn ended(&self) -> Option<Terminal> {
        self.verdict().ended()
    }

    fn verdict(&self) -> MutexGuard<'_, Verdict> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token; another one than `failed`, where that is given.
    pub fn token(&self, failed: Option<&str>, request_id: &str) -> Result<String, ApiError> {
        self.check()?;
        let result = self.tokens.get(failed, &Refresh { exchange: self, request_id });
        result.map_err(|e| self.ended().map_or(e, ApiError::Revoked))
    }

    /// Whether it may go on at all.
    fn check(&self) -> Result<(), ApiError> {
        match self.ended() {
            Some(why) => Err(ApiError::Revoked(why)),
            None if self.stop.is_cancelled() => Err(ApiError::Stopped { sent: false }),
            None => Ok(()),
        }
    }

    /// Makes a request; returns the document that is answered, `null` where none is.
    pub fn ask(&self, call: &Call<'_>) -> Result<Value, ApiError> {
        parsed(&self.ask_bytes(call)?)
    }

    /// Makes a request; returns the body of the answer.
    pub fn ask_bytes(&self, call: &Call<'_>) -> Result<Vec<u8>, ApiError> {
        let mut work = |token: Option<&str>, id: &str, attempt: u32| {
            let body = match call.payload {
                Payload::None => None,
                Payload::Json(value) => Some(document(value)?),
                Payload::Made(make) => Some(document(&make().ok_or(ApiError::Request("it cannot be signed"))?)?),
            };
            let (kind, body) = match &body {
                Some(bytes) => (Some("application/json"), Body::Bytes(bytes)),
                None => (None, Body::None),
            };
            self.once(call, token, id, attempt, kind, body)
        };
        self.repeat(call, &mut work)
    }

    /// Makes attempts at a request.
    fn repeat(&self, call: &Call<'_>, work: &mut Work<'_>) -> Result<Vec<u8>, ApiError> {
        self.check()?;
        let id = crypto::hex(&crypto::random::<16>());
        let mut answer = Vec::new();
        let mut attempts = Attempts { exchange: self, id: &id, bearer: call.bearer, work, answer: &mut answer };
        match request::run(call.rules, &mut attempts) {
            Ok(()) => {
                if call.claimed {
                    self.verdict().served();
                }
                Ok(answer)
            }
            Err(error) => Err(self.learn(error, false)),
        }
    }

    /// What a failure says about the agent.
    fn learn(&self, error: ApiError, refresh: bool) -> ApiError {
        let terminal = error.refusal().and_then(|r| refusal::classify(r, refresh));
        let Some(why) = terminal else { return error };
        let now = self.began.elapsed().as_millis() as i64;
        let is_the_end = self.verdict().refused(why, now);
        log::warn!("botcord.terminal agent={} why={why:?} final={is_the_end} answer={error}", self.identity.agent);
        if is_the_end { ApiError::Revoked(why) } else { error }
    }

    /// One attempt.
    fn once(
        &self,
        call: &Call<'_>,
        token: Option<&str>,
        id: &str,
        attempt: u32,
        kind: Option<&str>,
        body: Body<'_>,
    ) -> Result<Vec<u8>, ApiError> {
        let address = format!("{}{}", self.identity.url, call.path);
        let bearer = token.map(|t| format!("Bearer {t}"));
        let attempt = attempt.to_string();
        let mut headers = self.headers(id, &attempt).to_vec();
        headers.extend(bearer.as_deref().map(|b| ("authorization", b)));
        headers.extend(kind.map(|k| ("content-type", k)));
        let request = Request { method: call.method, url: &address, headers: &headers, body, limit: call.limit };
        let mut bytes = Vec::new();
        self.send(request, &mut |_, body| read_all(body, call.most, &mut bytes))?;
        Ok(bytes)
    }

    fn headers<'a>(&'a self, id: &'a str, attempt: &'a str) -> [(&'a str, &'a str); 6] {
        [
            ("x-botcord-request-id", id),
            ("x-botcord-caller", "bellhop"),
            ("x-botcord-caller-version", env!("CARGO_PKG_VERSION")),
            ("x-botcord-agent-id", &self.identity.agent),
            ("x-botcord-credential-key-id", &self.identity.key_id),
            ("x-botcord-retry-attempt", attempt),
        ]
    }

    /// Sends a request; `take` gets the body of a success.
    fn send(
        &self,
        request: Request<'_, '_>,
        take: &mut dyn FnMut(&Answer, &mut dyn Read) -> io::Result<()>,
    ) -> Result<Answer, ApiError> {
        self.check()?;
        let mut error_body = Vec::new();
        let result = self.http.send(request, self.stop.as_fd(), &mut |head, body| {
            if (200..300).contains(&head.status) {
                take(head, body)
            } else {
                // However the rest is lost: the status says enough.
                let _ = body.take(ERROR_LIMIT).read_to_end(&mut error_body);
                Ok(())
            }
        });
        let answer = result.map_err(network)?;
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        Err(refused(&answer, &error_body))
    }

    /// Posts a body that is read from somewhere between two texts.
    pub fn upload(
        &self,
        path: &str,
        content_type: &str,
        (head, from, size, tail): (&str, &mut dyn Source, u64, &str),
        limit: Duration,
    ) -> Result<Value, ApiError> {
        let call = Call { method: "POST", ..Call::get(path) }.rules(Rules::ONCE).limit(limit).claimed();
        let length = head.len() as u64 + size + tail.len() as u64;
        let mut work = |token: Option<&str>, id: &str, attempt: u32| {
            from.seek(SeekFrom::Start(0)).map_err(|_| ApiError::Request("the file cannot be read"))?;
            let mut whole = head.as_bytes().chain((&mut *from).take(size)).chain(tail.as_bytes());
            self.once(&call, token, id, attempt, Some(content_type), Body::Reader(&mut whole, length))
        };
        parsed(&self.repeat(&call, &mut work)?)
    }

    /// Fetches a file without a token.
    pub fn download(
        &self,
        address: &str,
        most: u64,
        into: &mut dyn Write,
        limit: Duration,
    ) -> Result<Download, ApiError> {
        let id = crypto::hex(&crypto::random::<16>());
        let headers = self.headers(&id, "0");
        let request = Request { method: "GET", url: address, headers: &headers, body: Body::None, limit };
        let mut size = 0;
        let answer = self.send(request, &mut |_, body| {
            size = io::copy(&mut body.take(most + 1), into)?;
            if size > most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
        })?;
        Ok(Download { size, content_type: answer.header("content-type").map(|t| crate::text::clip(t, 200)) })
    }

    /// Sleeps; returns whether nothing is to be waited for any more.
    fn sleep(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while !self.stop.is_cancelled() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // Never drained, so that every sleeper wakes.
            let mut fds = [PollFd::new(&self.stop, PollFlags::IN)];
            let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
        }
        true
    }
}

/// An answer that is no success.
pub(super) fn refused(answer: &Answer, body: &[u8]) -> ApiError {
    let mut refusal = Refusal::new(answer.status, body);
    refusal.retry_after = answer.header("retry-after").and_then(request::retry_after);
    refusal.date = answer.header("date").and_then(http_date);
    refusal.request_id = answer.header("x-botcord-request-id").map(|id| crate::text::clip(id, 64));
    ApiError::Refused(Box::new(refusal))
}

/// The document of an answer.
pub(super) fn parsed(body: &[u8]) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    json::parse_at_most(body, VALUES).map_err(|_| ApiError::Answer("no JSON"))
}

/// The bytes of a document.
pub(super) fn document(value: &Value) -> Result<Vec<u8>, ApiError> {
    json::to_vec(value).map_err(|_| ApiError::Request("it is no JSON"))
}

/// A failure below the hub's own words.
pub(super) fn network(error: HttpError) -> ApiError {
    match error.kind {
        HttpErrorKind::Aborted => ApiError::Stopped { sent: error.sent },
        HttpErrorKind::TooLong => ApiError::Answer(TOO_LONG),
        _ => ApiError::Network { sent: error.sent, why: error.to_string() },
    }
}

/// A time as in `Date` headers, in Unix seconds.
fn http_date(text: &str) -> Option<i64> {
    time::parse_http(text).map(|ms| ms / 1000)
}

/// The attempts at one request.
struct Attempts<'a> {
    exchange: &'a Exchange,
    id: &'a str,
    bearer: bool,
    work: &'a mut Work<'a>,
    answer: &'a mut Vec<u8>,
}

impl Line for Attempts<'_> {
    fn token(&self, failed: Option<&str>) -> Result<String, ApiError> {
        if self.bearer { self.exchange.token(failed, self.id) } else { Ok(String::new()) }
    }

    fn attempt(&mut self, token: &str, attempt: u32) -> Result<(), ApiError> {
        *self.answer = (self.work)(self.bearer.then_some(token), self.id, attempt)?;
        Ok(())
    }

    fn sleep(&self, limit: Duration) -> bool {
        self.exchange.sleep(limit)
    }
}

/// A refresh that a request causes, under the id of that request.
struct Refresh<'a> {
    exchange: &'a Exchange,
    request_id: &'a str,
}

impl token::Source for Refresh<'_> {
    fn fetch(&self) -> Result<Fresh, ApiError> {
        let exchange = self.exchange;
        let identity = &exchange.identity;
        let nonce = crypto::random::<32>();
        let signature = identity.key.sign_text(&nonce);
        let body = json!({"key_id": identity.key_id, "nonce": base64::encode(&nonce), "sig": signature});
        let body = document(&body)?;
        let address = format!("{}/registry/agents/{}/token/refresh", identity.url, url::encode(&identity.agent));
        let mut headers = exchange.headers(self.request_id, "0").to_vec();
        headers.push(("content-type", "application/json"));
        let body = Body::Bytes(&body);
        let request = Request { method: "POST", url: &address, headers: &headers, body, limit: REFRESH_LIMIT };
        let mut bytes = Vec::new();
        let answer = exchange
            .send(request, &mut |_, body| read_all(body, ERROR_LIMIT, &mut bytes))
            .map_err(|e| exchange.learn(e.of_refresh(), true))?;
        exchange.verdict().refreshed();
        let date = answer.header("date").and_then(http_date);
        let answer = parsed(&bytes)?;
        fresh(&answer, date.unwrap_or_else(|| exchange.clock.now()))
            .map(|fresh| Fresh { date, ..fresh })
            .ok_or(ApiError::Answer("a refresh without a token"))
    }

    fn is_stopped(&self) -> bool {
        self.exchange.stop.is_cancelled()
    }
}

/// The token of an answer. One that could not be in a header is none.
pub(super) fn fresh(answer: &Value, now: i64) -> Option<Fresh> {
    let token = ["agent_token", "token"].iter().find_map(|key| answer.get(*key)?.as_str())?;
    if token.is_empty() || token.len() > TOKEN_MAX || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return None;
    }
    let end = answer.get("expires_at").and_then(Value::as_f64).map(super::credentials::token_expiry);
    Some(Fresh { token: token.to_owned(), expires_at: end.map_or(now + token::DAY, |end| end as i64), date: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_either_name_and_null_is_absent() {
        let read = |answer: Value| fresh(&answer, 5).map(|fresh| (fresh.token, fresh.expires_at));
        assert_eq!(read(json!({"agent_token": null, "token": "t", "expires_at": 9})), Some(("t".into(), 9)));
        assert_eq!(
            read(json!({"agent_token": "a", "token": "t", "expires_at": null})),
            Some(("a".into(), 5 + token::DAY))
        );
        for none in [json!({"agent_token": ""}), json!({"token": "a b"}), json!([])] {
            assert_eq!(read(none), None);
        }
    }
}
