//! Requests to far sides: `ureq` on connections of our own, which sleep in `poll(2)` on the socket and on whatever
//! may end the request early. No proxy, no redirects, no cookies; bodies are bounded by the caller.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ureq::SendBody;
use ureq::http;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};

use super::dial::{self, DialError};
use super::stream::Stream;
use super::tls::Tls;

/// Buffers of a connection, in bytes.
const BUFFER: usize = 16 << 10;
/// Longest head of an answer, in bytes.
const HEAD_LIMIT: usize = 32 << 10;
/// Connections that are kept for the next request, altogether.
const IDLE: usize = 16;
/// How long they are kept; less than servers do, so that few requests meet a connection that ends.
const IDLE_AGE: Duration = Duration::from_secs(4);

/// A client for any number of servers and threads.
pub struct Http {
    agent: ureq::Agent,
}

/// What goes with a request.
pub enum Body<'a> {
    /// Nothing.
    None,
    /// These bytes.
    Bytes(&'a [u8]),
    /// So many bytes from here.
    Reader(&'a mut dyn Read, u64),
}

/// A request.
pub struct Request<'a, 'b> {
    /// `GET` or `DELETE`; with a body `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: &'a str,
    /// Absolute URL.
    pub url: &'a str,
    /// Headers. Their values may be secret and are never logged.
    pub headers: &'a [(&'a str, &'a str)],
    /// Body.
    pub body: Body<'b>,
    /// For everything together, the answer's body included.
    pub limit: Duration,
}

/// An answer: its status and headers. The body has been handed over.
pub struct Answer {
    /// Status.
    pub status: u16,
    headers: http::HeaderMap,
}

impl Answer {
    /// A header, where it is there and a text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub struct HttpError {
    /// Whether anything of the request has gone out: then the far side may have acted on it.
    pub sent: bool,
    /// What went wrong.
    pub kind: HttpErrorKind,
}

/// What went wrong.
#[derive(Debug)]
pub enum HttpErrorKind {
    /// The time ran out.
    TimedOut,
    /// The caller wanted it to end.
    Aborted,
    /// The answer's body is longer than the caller takes.
    TooLong,
    /// Anything else, for people; without secrets.
    Failed(String),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            HttpErrorKind::TimedOut => f.write_str("timed out"),
            HttpErrorKind::Aborted => f.write_str("given up"),
            HttpErrorKind::TooLong => f.write_str("the answer is too long"),
            HttpErrorKind::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for HttpError {}

/// The request that this thread is busy with. `ureq` has no room for it, but does everything on the caller's thread.
struct Current {
    end: Instant,
    abort: OwnedFd,
    /// A body follows the head, and soon: both go out together.
    joins: bool,
    sent: bool,
    aborted: bool,
    /// Why a connection could not be made or went bad, in better words than `ureq` has.
    why: Option<String>,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// Takes the request off the thread, whatever happens.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(Option::take);
    }
}

impl Http {
    /// A client without connections, which trusts what the machine trusts.
    pub fn new() -> Self {
        Self::over(None)
    }

    /// A client that trusts other certificates.
    pub fn trusting(tls: Tls) -> Self {
        Self::over(Some(tls))
    }

    fn over(tls: Option<Tls>) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(HEAD_LIMIT)
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .max_idle_connections(IDLE)
            .max_idle_connections_per_host(IDLE)
            .max_idle_age(IDLE_AGE)
            .user_agent(concat!("bellhop/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: ureq::Agent::with_parts(config, Dialer { tls }, NoResolver) }
    }

    /// Makes a request. `take` gets the answer's head and a reader of its body; what it leaves is dropped with the
    /// connection. It makes no request of its own. `abort`: readable when the answer is not wanted any more.
    pub fn send(
        &self,
        request: Request<'_, '_>,
        abort: BorrowedFd<'_>,
        take: &mut dyn FnMut(&Answer, &mut dyn Read) -> io::Result<()>,
    ) -> Result<Answer, HttpError> {
        let unsent = |why: String| HttpError { sent: false, kind: HttpErrorKind::Failed(why) };
        let abort = abort.try_clone_to_owned().map_err(|e| unsent(e.to_string()))?;
        let end = Instant::now() + request.limit;
        let joins = matches!(request.body, Body::Bytes(bytes) if !bytes.is_empty());
        CURRENT.with_borrow_mut(|c| *c = Some(Current { end, abort, joins, sent: false, aborted: false, why: None }));
        let _guard = Guard;
        let mut bytes: &[u8] = &[];
        let (reader, length): (&mut dyn Read, Option<u64>) = match request.body {
            Body::None => (&mut bytes, None),
            Body::Bytes(b) => {
                bytes = b;
                (&mut bytes, Some(b.len() as u64))
            }
            Body::Reader(reader, length) => (reader, Some(length)),
        };
        let answer = if let Some(length) = length {
            let builder = match request.method {
                "DELETE" => self.agent.delete(request.url).force_send_body(),
                "PUT" => self.agent.put(request.url),
                "PATCH" => self.agent.patch(request.url),
                _ => self.agent.post(request.url),
            };
            let builder = prepared(builder, request.headers, Some(length));
            builder.send(SendBody::from_reader(&mut Exact { reader, left: length }))
        } else {
            let builder = match request.method {
                "DELETE" => self.agent.delete(request.url),
                _ => self.agent.get(request.url),
            };
            prepared(builder, request.headers, None).call()
        };
        let answer = answer.map_err(|e| explain(&e))?;
        let (parts, mut body) = answer.into_parts();
        let answer = Answer { status: parts.status.as_u16(), headers: parts.headers };
        match take(&answer, &mut body.as_reader()) {
            Ok(()) => Ok(answer),
            Err(e) if e.kind() == io::ErrorKind::FileTooLarge => {
                Err(HttpError { sent: true, kind: HttpErrorKind::TooLong })
            }
            Err(e) => Err(explain(&ureq::Error::Io(e))),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

/// A request with its headers. It has no time limit of `ureq`'s: the connections keep that of [`Current`].
fn prepared<T>(
    mut builder: ureq::RequestBuilder<T>,
    headers: &[(&str, &str)],
    length: Option<u64>,
) -> ureq::RequestBuilder<T> {
    let length = length.map(|length| length.to_string());
    // With room for those that `ureq` adds.
    let Some(map) = builder.headers_mut() else { return builder };
    map.reserve(headers.len() + 4);
    for (name, value) in headers.iter().copied().chain(length.as_deref().map(|length| ("content-length", length))) {
        match (http::HeaderName::from_bytes(name.as_bytes()), http::HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) => {
                map.append(name, value);
            }
            // The builder keeps the error for whoever sends.
            _ => return builder.header(name, value),
        }
    }
    builder
}

/// All of a body, at most `limit` bytes of it: for [`Http::send`].
pub fn read_all(body: &mut dyn Read, limit: u64, into: &mut Vec<u8>) -> io::Result<()> {
    body.take(limit + 1).read_to_end(into)?;
    if into.len() as u64 > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
}

/// As many bytes as were promised; a source with fewer is an error rather than a request that never ends.
struct Exact<'a> {
    reader: &'a mut dyn Read,
    left: u64,
}

impl Read for Exact<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.reader.read(buffer.get_mut(..most).unwrap_or_default())?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body is shorter than it was"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// What went wrong with the current request.
fn explain(error: &ureq::Error) -> HttpError {
    let (sent, aborted, late, why) = CURRENT.with_borrow_mut(|c| match c {
        Some(c) => (c.sent, c.aborted, Instant::now() >= c.end, c.why.take()),
        None => (true, false, false, None),
    });
    let kind = match error {
        _ if aborted => HttpErrorKind::Aborted,
        ureq::Error::Timeout(_) => HttpErrorKind::TimedOut,
        _ if late => HttpErrorKind::TimedOut,
        error => HttpErrorKind::Failed(why.unwrap_or_else(|| crate::text::clip(&error.to_string(), 200))),
    };
    HttpError { sent, kind }
}

/// Does something with the time limit and the alarm of the current request.
fn with_current<T>(work: impl FnOnce(Instant, BorrowedFd<'_>) -> Result<T, DialError>) -> Result<T, ureq::Error> {
    CURRENT.with_borrow_mut(|current| {
        let Some(current) = current else { return Err(ureq::Error::ConnectionFailed) };
        work(current.end, current.abort.as_fd()).map_err(|error| match error {
            DialError::TimedOut => ureq::Error::Timeout(ureq::Timeout::Global),
            DialError::Aborted => {
                current.aborted = true;
                ureq::Error::ConnectionFailed
            }
            DialError::Name(e) | DialError::Connect(e) => ureq::Error::Io(e),
        })
    })
}

fn set_why(why: String) {
    CURRENT.with_borrow_mut(|c| {
        if let Some(c) = c {
            c.why = Some(why);
        }
    });
}

/// Names are looked up where connections are made, not for every request.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(
        &self,
        _: &http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        Ok(self.empty())
    }
}

/// Makes connections.
struct Dialer {
    /// In place of the one of the process.
    tls: Option<Tls>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}

impl Connector for Dialer {
    type Out = Connection;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Connection>, ureq::Error> {
        let host = details.uri.host().unwrap_or_default();
        let port = details.uri.port_u16().unwrap_or(if details.needs_tls() { 443 } else { 80 });
        let tcp = with_current(|end, abort| dial::dial(host, port, end, abort))?;
        let stream: Box<dyn Stream> = if details.needs_tls() {
            let tls = self.tls.clone().map_or_else(Tls::shared, Ok);
            tls.and_then(|tls| tls.over(tcp, host)).map_err(|e| {
                set_why(format!("TLS: {e}"));
                ureq::Error::ConnectionFailed
            })?
        } else {
            Box::new(tcp)
        };
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Connection {
            stream: Mutex::new(stream),
            buffers,
            head: Vec::new(),
            tls: details.needs_tls(),
            answered: false,
        }))
    }
}

/// A connection that does not block longer than it may.
struct Connection {
    /// A mutex for the sake of `Sync`; it is never locked.
    stream: Mutex<Box<dyn Stream>>,
    buffers: LazyBuffers,
    /// The head of a request that waits for its body: two packets cost both sides twice as much.
    head: Vec<u8>,
    tls: bool,
    /// An answer has just been read from it.
    answered: bool,
}

impl Connection {
    /// Sends what waits and then so much of the output buffer.
    fn transmit(&mut self, amount: usize) -> Result<(), ureq::Error> {
        let stream = self.stream.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut output = self.buffers.output().get(..amount).unwrap_or_default();
        let mut joined = std::mem::take(&mut self.head);
        if !joined.is_empty() {
            joined.extend_from_slice(output);
            output = &joined;
        }
        let mut rest = output;
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(0) => return Err(ureq::Error::Io(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    CURRENT.with_borrow_mut(|c| c.iter_mut().for_each(|c| c.sent = true));
                    rest = rest.get(n..).unwrap_or_default();
                }
                Err(e) => retry(&**stream, e, PollFlags::OUT)?,
            }
        }
        loop {
            match stream.flush() {
                Ok(()) if !stream.wants_write() => return Ok(()),
                Ok(()) => with_current(|end, abort| dial::wait(stream.socket(), PollFlags::OUT, end, abort))?,
                Err(e) => retry(&**stream, e, PollFlags::OUT)?,
            }
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

/// Sleeps until it is worth trying again, where an error only says that it is not now.
fn retry(stream: &dyn Stream, error: io::Error, what: PollFlags) -> Result<(), ureq::Error> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock => {
            // TLS may have to write before it can read.
            let what = if stream.wants_write() { what | PollFlags::OUT } else { what };
            with_current(|end, abort| dial::wait(stream.socket(), what, end, abort))
        }
        _ => Err(ureq::Error::Io(error)),
    }
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        let joins = CURRENT.with_borrow_mut(|c| c.as_mut().is_some_and(|c| std::mem::take(&mut c.joins)));
        if joins {
            let head = self.buffers.output().get(..amount).unwrap_or_default().to_vec();
            self.head = head;
            return Ok(());
        }
        self.transmit(amount)
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        if !self.head.is_empty() {
            // Its body has never come.
            self.transmit(0)?;
        }
        // A far side that always has something more would not be waited for, and never be late.
        with_current(|end, _| if Instant::now() < end { Ok(()) } else { Err(DialError::TimedOut) })?;
        let stream = self.stream.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        loop {
            match stream.read(self.buffers.input_append_buf()) {
                Ok(n) => {
                    self.answered = true;
                    self.buffers.input_appended(n);
                    return Ok(n > 0);
                }
                Err(e) => retry(&**stream, e, PollFlags::IN)?,
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // Asked when it is put aside, and again when it is taken up: the second look sees all that the first one would.
        if std::mem::take(&mut self.answered) {
            return true;
        }
        // Nobody speaks on an idle connection, but to end it.
        let stream = self.stream.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let socket = stream.socket();
        let mut fds = [PollFd::new(&socket, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready == 0)
    }

    fn is_tls(&self) -> bool {
        self.tls
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::engine::cancel::CancelToken;

    /// What becomes of a request that is answered with `first` and then `again`, for as long as it is read.
    fn flooded(first: &'static [u8], again: &'static [u8]) -> HttpErrorKind {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let _ = stream.read(&mut [0; 4_096]);
            let flood = again.repeat(1_000);
            let mut open = stream.write_all(first).is_ok();
            while open {
                open = stream.write_all(&flood).is_ok();
            }
        });
        let limit = Duration::from_millis(300);
        let request = Request { method: "GET", url: &url, headers: &[], body: Body::None, limit };
        let abort = CancelToken::new().unwrap();
        let mut bytes = Vec::new();
        let result = Http::new().send(request, abort.as_fd(), &mut |_, body| read_all(body, 1_000, &mut bytes));
        server.join().unwrap();
        result.err().unwrap().kind
    }

    #[test]
    fn an_answer_without_end_is_late_or_too_long() {
        let late = flooded(b"", b"HTTP/1.1 100 Continue\r\n\r\n");
        assert!(matches!(late, HttpErrorKind::TimedOut | HttpErrorKind::Failed(_)), "{late:?}");
        let long = flooded(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n");
        assert!(matches!(long, HttpErrorKind::TooLong), "{long:?}");
    }
}
