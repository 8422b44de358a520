//! A WebSocket of which one thread sleeps in `poll(2)` on the socket and on whatever else may wake it: an idle socket
//! makes no wake-ups of its own.
//!
//! [`open`] connects and shakes hands, within a time limit and until it is told to stop. A [`Socket`] never blocks
//! otherwise: [`Socket::receive`] says what has come, [`Socket::send`] queues what is to go, [`Socket::wait`] sleeps.
//! Incoming messages and outgoing bytes are bounded. Answers to pings go out by themselves with the next call.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use ring::digest;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tungstenite::error::CapacityError;
use tungstenite::protocol::frame::{CloseFrame, coding::CloseCode};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use super::dial::{self, DialError};
use super::stream::Stream;
use super::tls::Tls;
use crate::crypto::{self, base64};
use crate::time;

/// Longest head of an answer to a handshake, in bytes.
const HEAD_LIMIT: usize = 16 << 10;
/// Header lines of such an answer.
const HEADERS: usize = 64;
/// How much is read at once; also what an idle socket holds in memory.
const READ_BUFFER: usize = 4 << 10;
/// Bytes that may wait to be sent, so also the longest message; a peer that lets more pile up is given up.
const SEND_LIMIT: usize = 8 << 20;
/// What the key of a handshake is hashed with.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What to connect to, and how.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `ws://…` or `wss://…`.
    pub url: &'a str,
    /// Further headers. Their values may be secret and are never logged.
    pub headers: &'a [(&'a str, &'a str)],
    /// For connecting and shaking hands together.
    pub limit: Duration,
    /// Longest incoming message in bytes; a longer one ends the connection (1009).
    pub max_message: usize,
}

/// Why a socket could not be opened, or is of no use any more.
#[derive(Debug)]
pub enum WsError {
    /// The URL is none.
    Url,
    /// The name of the host is unknown, or it does not answer.
    Unreachable(io::Error),
    /// The peer is not who it should be, or speaks another TLS.
    Tls(String),
    /// It answers, but not with a WebSocket.
    Refused {
        /// HTTP status.
        status: u16,
        /// How long it wants to be left alone, where it says so.
        retry_after: Option<Duration>,
        /// Its clock in Unix milliseconds, where it says so.
        date: Option<i64>,
    },
    /// It answers with something that is no handshake.
    Handshake(&'static str),
    /// The time ran out.
    TimedOut,
    /// The caller wanted it to end.
    Aborted,
    /// The connection broke, or ended without a word.
    Broken(String),
    /// The peer sent a message that is too long.
    TooLong,
    /// More waits to be sent than may.
    Congested,
}

impl fmt::Display for WsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url => write!(f, "not a WebSocket URL"),
            Self::Unreachable(e) => write!(f, "unreachable: {e}"),
            Self::Tls(why) => write!(f, "TLS: {why}"),
            Self::Refused { status, .. } => write!(f, "the far side answers {status} instead of a WebSocket"),
            Self::Handshake(why) => write!(f, "bad handshake: {why}"),
            Self::TimedOut => write!(f, "timed out"),
            Self::Aborted => write!(f, "given up"),
            Self::Broken(why) => write!(f, "connection lost: {why}"),
            Self::TooLong => write!(f, "the far side sent a message that is too long"),
            Self::Congested => write!(f, "the far side takes nothing any more"),
        }
    }
}

impl std::error::Error for WsError {}

impl From<DialError> for WsError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Name(e) | DialError::Connect(e) => Self::Unreachable(e),
            DialError::TimedOut => Self::TimedOut,
            DialError::Aborted => Self::Aborted,
        }
    }
}

/// Something that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A text message.
    Text(String),
    /// A sign of life without a text: a ping, a pong, a binary message.
    Other,
    /// The peer ends the connection.
    Closed {
        /// Its code; 1005 when it gives none.
        code: u16,
        /// Its reason, at most 123 bytes.
        reason: String,
    },
}

/// An open WebSocket. Dropped, it ends without a word.
pub struct Socket {
    inner: WebSocket<Box<dyn Stream>>,
    unsent: bool,
    date: Option<i64>,
}

/// Connects and shakes hands. `abort`: readable when the socket is not wanted any more.
pub fn open(request: &Request<'_>, abort: BorrowedFd<'_>) -> Result<Socket, WsError> {
    open_over(request, abort, None)
}

/// [`open`] with other certificates than those of the machine.
pub(super) fn open_over(request: &Request<'_>, abort: BorrowedFd<'_>, tls: Option<&Tls>) -> Result<Socket, WsError> {
    let end = Instant::now() + request.limit;
    let target = Target::parse(request.url).ok_or(WsError::Url)?;
    let tcp = dial::dial(target.host, target.port, end, abort)?;
    let mut stream: Box<dyn Stream> = if target.tls {
        let tls = tls.map_or_else(Tls::shared, |tls| Ok(tls.clone()));
        tls.and_then(|tls| tls.over(tcp, target.host)).map_err(|e| WsError::Tls(e.to_string()))?
    } else {
        Box::new(tcp)
    };
    let key = base64::encode(&crypto::random::<16>());
    write_all(stream.as_mut(), handshake(&target, &key, request.headers).as_bytes(), end, abort)?;
    let (rest, date) = read_answer(stream.as_mut(), &key, end, abort)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(SEND_LIMIT)
        .max_message_size(Some(request.max_message))
        .max_frame_size(Some(request.max_message));
    let inner = WebSocket::from_partially_read(stream, rest, Role::Client, Some(config));
    Ok(Socket { inner, unsent: false, date })
}

impl Socket {
    /// The peer's clock when it answered the handshake, in Unix milliseconds, where it said so.
    pub fn date(&self) -> Option<i64> {
        self.date
    }

    /// What has come, if anything has. After an error, or [`Incoming::Closed`], the socket is of no more use.
    pub fn receive(&mut self) -> Result<Option<Incoming>, WsError> {
        match self.inner.read() {
            Ok(Message::Text(text)) => Ok(Some(Incoming::Text(text.as_str().to_owned()))),
            Ok(Message::Close(frame)) => {
                // The answer to it; whether it arrives does not matter.
                let _ = self.inner.flush();
                let (code, reason) = frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
                Ok(Some(Incoming::Closed { code, reason }))
            }
            Ok(_) => {
                self.flush()?;
                Ok(Some(Incoming::Other))
            }
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(Error::Capacity(CapacityError::MessageTooLong { .. })) => {
                self.close(1009, "");
                Err(WsError::TooLong)
            }
            Err(e) => Err(broken(&e)),
        }
    }

    /// Sends a text message, as soon as the peer takes it.
    pub fn send(&mut self, text: &str) -> Result<(), WsError> {
        match self.inner.write(Message::text(text)) {
            Ok(()) => self.flush(),
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                self.unsent = true;
                Ok(())
            }
            Err(Error::WriteBufferFull(_)) => Err(WsError::Congested),
            Err(e) => Err(broken(&e)),
        }
    }

    /// Queues a ping.
    pub fn ping(&mut self) -> Result<(), WsError> {
        match self.inner.write(Message::Ping(Vec::new().into())) {
            Ok(()) => self.flush(),
            Err(Error::WriteBufferFull(_)) => Err(WsError::Congested),
            Err(e) => Err(broken(&e)),
        }
    }

    /// Says that nothing more comes from here, and why. The peer's answer is an [`Incoming::Closed`] or the end.
    pub fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        self.unsent = self.inner.close(Some(frame)).is_err() || self.inner.flush().is_err();
    }

    fn flush(&mut self) -> Result<(), WsError> {
        match self.inner.flush() {
            Ok(()) => self.unsent = false,
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => self.unsent = true,
            Err(e) => return Err(broken(&e)),
        }
        Ok(())
    }

    /// Sleeps until the peer has sent something, one of `others` is readable, or `limit` is over. To be called when
    /// [`Socket::receive`] has nothing more. What waits to be sent goes out meanwhile. Returns whether one of `others`
    /// is readable.
    pub fn wait(&mut self, others: &[BorrowedFd<'_>], limit: Option<Duration>) -> Result<bool, WsError> {
        let stream = self.inner.get_ref();
        let waits = self.unsent || stream.wants_write();
        let what = if waits { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let socket = stream.socket();
        let woken = sleep_on(Some((socket, what)), others, limit).map_err(|e| WsError::Broken(e.to_string()))?;
        if waits {
            self.flush()?;
        }
        Ok(woken)
    }
}

/// Sleeps until one of `others` is readable or `limit` is over: what a thread does that has no socket. Returns whether one
/// is readable.
pub fn wait_for(others: &[BorrowedFd<'_>], limit: Option<Duration>) -> io::Result<bool> {
    sleep_on(None, others, limit)
}

fn sleep_on(
    socket: Option<(BorrowedFd<'_>, PollFlags)>,
    others: &[BorrowedFd<'_>],
    limit: Option<Duration>,
) -> io::Result<bool> {
    let mut fds: Vec<PollFd<'_>> = others.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    if let Some((fd, what)) = &socket {
        fds.push(PollFd::new(fd, *what));
    }
    let limit = limit.and_then(|l| Timespec::try_from(l).ok());
    match poll(&mut fds, limit.as_ref()) {
        Ok(_) => Ok(fds.iter().take(others.len()).any(|fd| !fd.revents().is_empty())),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn broken(error: &Error) -> WsError {
    WsError::Broken(match error {
        Error::ConnectionClosed | Error::AlreadyClosed => "it has ended".to_owned(),
        other => crate::text::clip(&other.to_string(), 200),
    })
}

/// The parts of a WebSocket URL.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    tls: bool,
    /// As in the URL: IPv6 addresses keep their brackets.
    host: &'a str,
    port: u16,
    /// What the header of that name says.
    authority: &'a str,
    path: &'a str,
}

impl<'a> Target<'a> {
    /// Takes nothing that could break out of a header line.
    fn parse(url: &'a str) -> Option<Self> {
        if url.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return None;
        }
        let (tls, rest) = match url.split_once("://")? {
            ("ws", rest) => (false, rest),
            ("wss", rest) => (true, rest),
            _ => return None,
        };
        let rest = rest.split('#').next()?;
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let (host, port) = match authority.rfind(':').filter(|at| !authority[*at..].contains(']')) {
            Some(at) => (&authority[..at], authority[at + 1..].parse().ok()?),
            None => (authority, if tls { 443 } else { 80 }),
        };
        let usable = !host.is_empty() && !authority.contains('@') && path.starts_with('/');
        usable.then_some(Self { tls, host, port, authority, path })
    }
}

fn handshake(target: &Target<'_>, key: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\n",
        target.path, target.authority
    );
    for (name, value) in headers {
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        head.push_str(name);
        head.push_str(": ");
        head.push_str(&value);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head
}

fn write_all(stream: &mut dyn Stream, bytes: &[u8], end: Instant, abort: BorrowedFd<'_>) -> Result<(), WsError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(0) => return Err(WsError::Broken("it has ended".into())),
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
            Err(e) => retry(stream, &e, PollFlags::OUT, end, abort)?,
        }
    }
    while let Err(e) = stream.flush() {
        retry(stream, &e, PollFlags::OUT, end, abort)?;
    }
    Ok(())
}

/// Waits where an error only says that there is nothing to be done right now.
fn retry(
    stream: &dyn Stream,
    error: &io::Error,
    what: PollFlags,
    end: Instant,
    abort: BorrowedFd<'_>,
) -> Result<(), WsError> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock => {
            // TLS may have to write before it can read, and the other way round.
            let what = if stream.wants_write() { PollFlags::OUT } else { what };
            Ok(dial::wait(stream.socket(), what, end, abort)?)
        }
        // This is how TLS complains about a certificate.
        io::ErrorKind::InvalidData => Err(WsError::Tls(crate::text::clip(&error.to_string(), 200))),
        _ => Err(WsError::Broken(crate::text::clip(&error.to_string(), 200))),
    }
}

/// Reads the answer to a handshake; returns what came after it, and the peer's clock.
fn read_answer(
    stream: &mut dyn Stream,
    key: &str,
    end: Instant,
    abort: BorrowedFd<'_>,
) -> Result<(Vec<u8>, Option<i64>), WsError> {
    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Err(WsError::Handshake("the connection ended before it")),
            Ok(n) => answer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(e) => {
                retry(stream, &e, PollFlags::IN, end, abort)?;
                continue;
            }
        }
        if let Some((length, date)) = check_answer(&answer, key)? {
            return Ok((answer.split_off(length), date));
        }
        if answer.len() > HEAD_LIMIT {
            return Err(WsError::Handshake("its head is too long"));
        }
    }
}

/// The length of the head, once it is complete and right, and the time in it.
fn check_answer(answer: &[u8], key: &str) -> Result<Option<(usize, Option<i64>)>, WsError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(answer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(WsError::Handshake("no HTTP")),
    };
    let value = |name: &str| {
        let found = head.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        found.and_then(|h| std::str::from_utf8(h.value).ok()).unwrap_or_default().trim()
    };
    let date = time::parse_http(value("date"));
    if head.code != Some(101) {
        let retry_after = retry_after(value("retry-after"), date);
        return Err(WsError::Refused { status: head.code.unwrap_or_default(), retry_after, date });
    }
    let accept = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    if !value("upgrade").eq_ignore_ascii_case("websocket") {
        return Err(WsError::Handshake("no upgrade to a WebSocket"));
    }
    if !value("connection").split(',').any(|v| v.trim().eq_ignore_ascii_case("upgrade")) {
        return Err(WsError::Handshake("no upgrade of the connection"));
    }
    if value("sec-websocket-accept") != base64::encode(accept.as_ref()) {
        return Err(WsError::Handshake("the answer is for another question"));
    }
    if !value("sec-websocket-extensions").is_empty() || !value("sec-websocket-protocol").is_empty() {
        return Err(WsError::Handshake("an extension that nobody asked for"));
    }
    Ok(Some((length, date)))
}

/// Seconds, or a time by the peer's own clock.
fn retry_after(value: &str, date: Option<i64>) -> Option<Duration> {
    let until = || u64::try_from(time::parse_http(value)?.checked_sub(date?)?).ok();
    value.parse().ok().map(Duration::from_secs).or_else(|| until().map(Duration::from_millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::thread::{JoinHandle, spawn};

    use crate::engine::cancel::{CancelReason, CancelToken};

    const LIMIT: Duration = Duration::from_secs(20);

    /// A server for one connection.
    fn serve<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> (String, JoinHandle<T>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/hub/ws?x=1", listener.local_addr().unwrap());
        (url, spawn(move || serve(listener.accept().unwrap().0)))
    }

    fn connect(url: &str, abort: &CancelToken) -> Result<Socket, WsError> {
        open(&Request { url, headers: &[("X-Test", "a\r\nb")], limit: LIMIT, max_message: 1024 }, abort.as_fd())
    }

    /// What comes next, waited for.
    fn next(socket: &mut Socket) -> Result<Incoming, WsError> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(incoming) = socket.receive()? {
                return Ok(incoming);
            }
            assert!(Instant::now() < end, "nothing has come");
            socket.wait(&[], Some(LIMIT))?;
        }
    }

    #[test]
    fn words_and_pings_go_both_ways() {
        let (url, server) = serve(|stream| {
            let mut ws = tungstenite::accept(stream).unwrap();
            let heard = ws.read().unwrap();
            ws.send(Message::Ping(b"p".as_slice().into())).unwrap();
            ws.send(Message::text("welcome")).unwrap();
            let pong = ws.read().unwrap();
            let frame = CloseFrame { code: CloseCode::from(4001), reason: "Invalid token".into() };
            ws.close(Some(frame)).unwrap();
            (heard, pong)
        });
        let abort = CancelToken::new().unwrap();
        let mut socket = connect(&url, &abort).unwrap();
        assert!(socket.receive().unwrap().is_none(), "it does not block");
        socket.send("hello").unwrap();
        assert_eq!(next(&mut socket).unwrap(), Incoming::Other);
        assert_eq!(next(&mut socket).unwrap(), Incoming::Text("welcome".into()));
        let closed = Incoming::Closed { code: 4001, reason: "Invalid token".into() };
        assert_eq!(next(&mut socket).unwrap(), closed);
        let (heard, pong) = server.join().unwrap();
        assert_eq!((heard, pong), (Message::text("hello"), Message::Pong(b"p".as_slice().into())));
    }

    #[test]
    fn a_message_that_is_too_long_ends_it() {
        let (url, server) = serve(|stream| {
            let mut ws = tungstenite::accept(stream).unwrap();
            ws.send(Message::text("x".repeat(1025))).unwrap();
            ws.read()
        });
        let abort = CancelToken::new().unwrap();
        let mut socket = connect(&url, &abort).unwrap();
        assert!(matches!(next(&mut socket), Err(WsError::TooLong)));
        drop(socket);
        match server.join().unwrap() {
            Ok(Message::Close(Some(frame))) => assert_eq!(frame.code, CloseCode::Size),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_does_not_wait_for_the_reader_is_not_lost() {
        let (url, server) = serve(|stream| {
            let mut ws = tungstenite::accept(stream).unwrap();
            (0..200).map(|_| ws.read().unwrap().len()).sum::<usize>()
        });
        let abort = CancelToken::new().unwrap();
        let mut socket = connect(&url, &abort).unwrap();
        for _ in 0..200 {
            while let Err(e) = socket.send(&"y".repeat(10_000)) {
                assert!(matches!(e, WsError::Congested), "{e}");
                socket.wait(&[], Some(LIMIT)).unwrap();
            }
        }
        while socket.unsent {
            socket.wait(&[], Some(LIMIT)).unwrap();
        }
        assert_eq!(server.join().unwrap(), 2_000_000);
    }

    #[test]
    fn an_answer_that_is_no_handshake_is_told_from_others() {
        let answer = |text: &'static str| {
            let (url, server) = serve(move |mut stream| {
                let mut head = [0; 4096];
                let n = stream.read(&mut head).unwrap();
                stream.write_all(text.as_bytes()).unwrap();
                String::from_utf8_lossy(&head[..n]).into_owned()
            });
            let result = connect(&url, &CancelToken::new().unwrap());
            (server.join().unwrap(), result.err().map(|e| e.to_string()).unwrap_or_default())
        };
        let (head, error) = answer("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        assert!(head.starts_with("GET /hub/ws?x=1 HTTP/1.1\r\nHost: 127.0.0.1:"), "{head}");
        assert!(head.ends_with("\r\nX-Test: ab\r\n\r\n"), "{head}");
        assert_eq!(error, "the far side answers 404 instead of a WebSocket");
        assert_eq!(answer("SSH-2.0\r\n").1, "bad handshake: no HTTP");
        assert_eq!(answer("").1, "bad handshake: the connection ended before it");
        let good = "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
        assert_eq!(answer(good).1, "bad handshake: the answer is for another question");
    }

    #[test]
    fn a_connection_is_given_up_when_nobody_wants_it_any_more() {
        let (url, server) = serve(|mut stream| stream.read_to_end(&mut Vec::new()).is_ok());
        let abort = CancelToken::new().unwrap();
        let from_outside = abort.clone();
        let opener = spawn(move || connect(&url, &abort).err());
        from_outside.cancel(CancelReason::Shutdown);
        assert!(matches!(opener.join().unwrap(), Some(WsError::Aborted)));
        drop(server);
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = connect(&format!("ws://{closed}"), &CancelToken::new().unwrap()).err();
        assert!(matches!(error, Some(WsError::Unreachable(_))), "{error:?}");
    }

    #[test]
    fn only_urls_of_the_right_kind_are_taken() {
        let parse = |url| Target::parse(url).map(|t| (t.tls, t.host, t.port, t.path));
        assert_eq!(parse("ws://h"), Some((false, "h", 80, "/")));
        assert_eq!(parse("wss://h:8/a?b#c"), Some((true, "h", 8, "/a?b")));
        assert_eq!(parse("wss://[::1]/x"), Some((true, "[::1]", 443, "/x")));
        assert_eq!(parse("ws://[::1]:9"), Some((false, "[::1]", 9, "/")));
        for bad in ["http://h", "ws://", "ws://u@h/", "ws://h/\r\nX: y", "ws://h:x/", "h", "ws://h?x"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
