//! The other end of the control socket: a blocking client for the commands of a person.
//!
//! One connection per request. What a daemon that restarts does to a request is dealt with here: a message
//! is sent again under the same id until its acceptance is known, and a watched stream goes on where it
//! was. A person therefore sees one of three things: the answer, "there is no daemon", or what the daemon
//! said was wrong.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::http::percent_encode;
use super::socket;
use super::wire::{
    Accepted, AnswerApproval, Cancel, Cancelled, DaemonStatus, ErrorAnswer, ErrorKind, Failure, Health, MessageState,
    Queue, QueueAction, QueueChanged, QueueItem, ResetSessions, Sessions, SessionsReset, Shutdown, ShuttingDown,
    Submit,
};

mod events;

use crate::json;
pub use events::Events;

/// Longest head of an answer, in bytes.
const HEAD_LIMIT: usize = 16 << 10;

/// Longest body of an answer, in bytes.
const BODY_LIMIT: usize = 16 << 20;

/// Pause before the first new attempt; doubled each time up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Why a request has no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nothing listens: no socket file, or nobody behind it.
    NoDaemon {
        /// Where it was looked for.
        socket: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// The daemon answered with an error.
    Answered {
        /// HTTP status.
        status: u16,
        /// What it said.
        failure: Failure,
    },
    /// The connection ended or failed before the answer was whole.
    Lost(io::Error),
    /// No answer within the time limit.
    Silent(Duration),
    /// The answer is not of this protocol.
    NotUnderstood(String),
    /// The daemon went away while a message was watched and did not come back in time. The message is
    /// accepted and will be answered once the daemon runs again.
    StillAccepted {
        /// Id of the message.
        id: String,
        /// What was last tried.
        why: Box<ClientError>,
    },
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDaemon { socket, why } => write!(f, "no daemon listens at {}: {why}", socket.display()),
            Self::Answered { failure, .. } => write!(f, "{failure}"),
            Self::Lost(why) => write!(f, "the connection to the daemon was lost: {why}"),
            Self::Silent(limit) => write!(f, "the daemon did not answer within {} s", limit.as_secs()),
            Self::NotUnderstood(what) => write!(f, "the daemon's answer was not understood: {what}"),
            Self::StillAccepted { id, why } => {
                write!(f, "lost sight of message {id} ({why}); it is accepted and will be answered")?;
                if why.is_no_daemon() { f.write_str(" once one runs: bellhop start --background") } else { Ok(()) }
            }
        }
    }
}

impl std::error::Error for ClientError {}

impl ClientError {
    /// Whether there was nobody to ask.
    pub fn is_no_daemon(&self) -> bool {
        matches!(self, Self::NoDaemon { .. })
    }

    /// The kind of error that the daemon answered with.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Answered { failure, .. } => Some(failure.kind),
            _ => None,
        }
    }

    /// Whether a restart of the daemon explains it, so that another try makes sense.
    fn may_pass(&self) -> bool {
        match self {
            Self::NoDaemon { .. } | Self::Lost(_) | Self::Silent(_) => true,
            Self::Answered { failure, .. } => failure.kind == ErrorKind::Unavailable,
            _ => false,
        }
    }

    fn from_io(error: io::Error, limit: Duration) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Silent(limit),
            _ => Self::Lost(error),
        }
    }
}

/// Time limits of a client.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// For the whole answer to a request (default 30 s).
    pub answer: Duration,
    /// For silence on an event stream: three of the server's keep-alives (default 45 s).
    pub silence: Duration,
    /// How long a daemon that went away is waited for (default 10 s).
    pub patience: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self { answer: Duration::from_secs(30), silence: Duration::from_secs(45), patience: Duration::from_secs(10) }
    }
}

/// A client of one daemon. Cheap to clone; may be used from several threads.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    limits: ClientLimits,
    token: Option<Token>,
}

/// The token of a turn. Not even a debugger's line shows it.
#[derive(Clone)]
struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Client {
    /// A client of the daemon behind the socket at `path` (see [`socket::path`]), once somebody listens there.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::with_limits(path, ClientLimits::default())
    }

    /// The same with other time limits.
    pub fn with_limits(path: &Path, limits: ClientLimits) -> Result<Self, ClientError> {
        let client = Self { socket: path.to_owned(), limits, token: None };
        client.open().map(drop)?;
        Ok(client)
    }

    /// Hands in a message. Returns once it is durable.
    ///
    /// A message without an id gets a random one, so that it can be sent again (for up to
    /// [`ClientLimits::patience`]) when the daemon goes away before it has answered, and is still answered once.
    pub fn submit(&self, message: &Submit) -> Result<Accepted, ClientError> {
        let mut message = message.clone();
        if message.id.is_none() {
            message.id = random_id();
        }
        let give_up = Instant::now() + self.limits.patience;
        let mut pause = FIRST_PAUSE;
        let mut sent_before = false;
        loop {
            let error = match self.post("/v1/messages", &message) {
                Ok(accepted) => return Ok(accepted),
                Err(error) => error,
            };
            // A daemon that is not there has nothing of this message: say so at once, unless it was there before.
            let lost = matches!(error, ClientError::Lost(_)) && message.id.is_some();
            if !(lost || sent_before && error.may_pass()) || Instant::now() + pause > give_up {
                return Err(error);
            }
            sent_before = true;
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Where a message is.
    pub fn message(&self, id: &str) -> Result<MessageState, ClientError> {
        self.get(&message_path(id, ""))
    }

    /// Watches a message from its first remembered event to its end.
    pub fn events(&self, id: &str) -> Result<Events, ClientError> {
        Events::begin(self.clone(), id)
    }

    /// Cancels one message, waiting or running.
    pub fn cancel(&self, id: &str) -> Result<Cancelled, ClientError> {
        self.post(&message_path(id, "/cancel"), &Nothing {})
    }

    /// Cancels everything in a conversation.
    pub fn cancel_conversation(&self, which: &Cancel) -> Result<Cancelled, ClientError> {
        self.post("/v1/cancel", which)
    }

    /// The daemon's account of itself.
    pub fn status(&self) -> Result<DaemonStatus, ClientError> {
        self.get("/v1/status")
    }

    /// How the daemon feels; a daemon that is down says so and is not an error.
    pub fn health(&self) -> Result<Health, ClientError> {
        let (status, body) = self.exchange("GET", "/health", None)?;
        if status == 200 || status == 503 {
            // A 503 is also what a server at its limits says; that one is an error object.
            if let Ok(health) = json::from_slice(&body) {
                return Ok(health);
            }
        }
        understand(status, &body)
    }

    /// The sessions that would be resumed.
    pub fn sessions(&self) -> Result<Sessions, ClientError> {
        self.get("/v1/sessions")
    }

    /// Forgets sessions.
    pub fn reset_sessions(&self, which: &ResetSessions) -> Result<SessionsReset, ClientError> {
        self.post("/v1/sessions/reset", which)
    }

    /// The queue.
    pub fn queue(&self) -> Result<Queue, ClientError> {
        self.get("/v1/queue")
    }

    /// Messages that were given up.
    pub fn dead_letters(&self) -> Result<Queue, ClientError> {
        self.get("/v1/queue/dead")
    }

    /// One message of the queue.
    pub fn queue_item(&self, id: &str) -> Result<QueueItem, ClientError> {
        self.get(&format!("/v1/queue/{}", percent_encode(id)))
    }

    /// Changes the queue.
    pub fn change_queue(&self, id: &str, action: QueueAction) -> Result<QueueChanged, ClientError> {
        self.post(&format!("/v1/queue/{}/{}", percent_encode(id), action.word()), &Nothing {})
    }

    /// Makes the daemon end. Returns before it is gone.
    pub fn shutdown(&self, how: &Shutdown) -> Result<ShuttingDown, ClientError> {
        self.post("/v1/shutdown", how)
    }

    /// Answers a question about a tool call.
    pub fn answer_approval(&self, id: &str, answer: &AnswerApproval) -> Result<AnswerApproval, ClientError> {
        self.post(&format!("/v1/approvals/{}", percent_encode(id)), answer)
    }

    /// The same client, acting for the agent of the turn whose token this is.
    #[must_use]
    pub fn acting(self, token: &str) -> Self {
        // A line break would end the header field; no token holds one.
        Self { token: Some(Token(token.replace(['\r', '\n'], ""))), ..self }
    }

    /// Asks for something that the agent of a turn may do: `/v1/room/<verb>`. See [`Client::acting`].
    pub fn room<A: DeserializeOwned>(&self, verb: &str, request: &impl Serialize) -> Result<A, ClientError> {
        self.post(&format!("/v1/room/{verb}"), request)
    }

    fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, ClientError> {
        let (status, body) = self.exchange("GET", path, None)?;
        understand(status, &body)
    }

    fn post<A: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> Result<A, ClientError> {
        let body = json::to_vec(request).map_err(|e| ClientError::NotUnderstood(e.to_string()))?;
        let (status, body) = self.exchange("POST", path, Some(&body))?;
        understand(status, &body)
    }

    fn exchange(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<(u16, Vec<u8>), ClientError> {
        let mut stream = self.open()?;
        let (head, rest) = self.ask(&mut stream, method, path, body, None)?;
        let body = self.read_body(&mut stream, &head, rest)?;
        Ok((head.status, body))
    }

    fn open(&self) -> Result<UnixStream, ClientError> {
        let stream =
            socket::connect(&self.socket).map_err(|why| ClientError::NoDaemon { socket: self.socket.clone(), why })?;
        stream.set_write_timeout(Some(self.limits.answer)).map_err(ClientError::Lost)?;
        Ok(stream)
    }

    /// Sends a request and reads the head of the answer, with what came after it.
    fn ask(
        &self,
        stream: &mut UnixStream,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        last_event: Option<u64>,
    ) -> Result<(Head, Vec<u8>), ClientError> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: bellhop\r\nConnection: close\r\n").into_bytes();
        if let Some(number) = last_event {
            request.extend(format!("Last-Event-ID: {number}\r\n").bytes());
        }
        if let Some(Token(token)) = &self.token {
            request.extend(format!("Authorization: Bearer {token}\r\n").bytes());
        }
        if let Some(body) = body {
            request.extend(format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len()).bytes());
            request.extend_from_slice(body);
        } else {
            request.extend_from_slice(b"\r\n");
        }
        // A server that refuses early closes before it has read all: its answer is still there to be read.
        let written = stream.write_all(&request);
        self.read_head(stream).map_err(|error| match (written, error) {
            (Err(why), ClientError::Lost(_)) => ClientError::from_io(why, self.limits.answer),
            (_, error) => error,
        })
    }

    fn read_head(&self, stream: &mut UnixStream) -> Result<(Head, Vec<u8>), ClientError> {
        let end = Instant::now() + self.limits.answer;
        let mut bytes = Vec::new();
        loop {
            if let Some((head, length)) = Head::parse(&bytes)? {
                bytes.drain(..length.min(bytes.len()));
                return Ok((head, bytes));
            }
            if bytes.len() > HEAD_LIMIT {
                return Err(ClientError::NotUnderstood(format!("its head has more than {HEAD_LIMIT} bytes")));
            }
            if self.read_some(stream, &mut bytes, end)? == 0 {
                return Err(ClientError::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn read_body(&self, stream: &mut UnixStream, head: &Head, mut body: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        let end = Instant::now() + self.limits.answer;
        let wanted = head.content_length.unwrap_or(usize::MAX);
        while body.len() < wanted {
            if body.len() > BODY_LIMIT {
                return Err(ClientError::NotUnderstood(format!("its body has more than {BODY_LIMIT} bytes")));
            }
            if self.read_some(stream, &mut body, end)? == 0 {
                if head.content_length.is_some() {
                    return Err(ClientError::Lost(io::ErrorKind::UnexpectedEof.into()));
                }
                break;
            }
        }
        body.truncate(wanted);
        Ok(body)
    }

    fn read_some(&self, stream: &mut UnixStream, into: &mut Vec<u8>, end: Instant) -> Result<usize, ClientError> {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ClientError::Silent(self.limits.answer));
        }
        stream.set_read_timeout(Some(left)).map_err(ClientError::Lost)?;
        read_once(stream, into).map_err(|e| ClientError::from_io(e, self.limits.answer))
    }
}

/// The body of a request that has nothing to say.
#[derive(Serialize)]
struct Nothing {}

fn message_path(id: &str, rest: &str) -> String {
    format!("/v1/messages/{}{rest}", percent_encode(id))
}

fn random_id() -> Option<String> {
    let mut bytes = [0; 12];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).ok()?;
    Some(bytes.iter().fold(String::from("m_"), |id, byte| id + &format!("{byte:02x}")))
}

fn read_once(stream: &mut UnixStream, into: &mut Vec<u8>) -> io::Result<usize> {
    let mut chunk = [0; 16 << 10];
    loop {
        match stream.read(&mut chunk) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(n) => {
                into.extend_from_slice(chunk.get(..n).unwrap_or_default());
                return Ok(n);
            }
        }
    }
}

fn understand<A: DeserializeOwned>(status: u16, body: &[u8]) -> Result<A, ClientError> {
    if (200..300).contains(&status) {
        return json::from_slice(body).map_err(|e| ClientError::NotUnderstood(e.to_string()));
    }
    Err(match json::from_slice::<ErrorAnswer>(body) {
        Ok(answer) => ClientError::Answered { status, failure: answer.error },
        Err(_) => ClientError::NotUnderstood(format!("status {status} without an error object")),
    })
}

/// What is read of the head of an answer.
struct Head {
    status: u16,
    content_length: Option<usize>,
}

impl Head {
    /// The head and its length in bytes, once it is whole. A `100 Continue` never comes: it is not asked for.
    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, ClientError> {
        let not_understood = |what: String| ClientError::NotUnderstood(what);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut headers);
        let length = match answer.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(e) => return Err(not_understood(format!("its head is not HTTP ({e})"))),
        };
        let mut content_length = None;
        for header in answer.headers.iter().filter(|h| h.name.eq_ignore_ascii_case("content-length")) {
            let number = std::str::from_utf8(header.value).ok().and_then(|v| v.trim().parse().ok());
            content_length = Some(number.ok_or_else(|| not_understood("its Content-Length is no number".into()))?);
        }
        Ok(Some((Self { status: answer.code.unwrap_or_default(), content_length }, length)))
    }
}
