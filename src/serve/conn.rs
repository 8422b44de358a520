//! One connection: requests read and answers written within time limits, over a non-blocking socket.
//!
//! Nothing here sleeps but in `poll(2)`, over the socket and the server's stop descriptor, with the time that
//! is left. Requests that come pipelined wait in the buffer and are answered one after the other.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::http::{Answer, Limits, Request, parse_head};
use super::wire::{ErrorKind, Failure};

/// Bytes per read; also how much of pipelined requests can wait in memory.
const CHUNK: usize = 16 << 10;

/// How long, and how much of, the rest of a refused request is read before the connection is closed, so that
/// a peer that is still sending gets to read why.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 8 << 20);

/// How long an answer may still take to be written once the server stops.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What came of waiting for a request.
#[derive(Debug)]
pub enum Incoming {
    /// A whole request.
    Request(Request),
    /// Something that is answered with an error, after which the connection closes.
    Refused(Failure),
    /// Nothing, and nothing to answer: the peer has gone, was idle for too long, or the server stops.
    Closed,
}

/// What woke a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    Ready,
    Late,
    Stopped,
}

/// A connection over a socket that was set to non-blocking.
pub struct Conn<S> {
    stream: S,
    stop: Arc<OwnedFd>,
    limits: Limits,
    buffer: Vec<u8>,
    /// No request has come yet.
    fresh: bool,
}

enum Filled {
    Some,
    End,
    Late,
    Stopped,
}

impl<S: Read + Write + AsFd> Conn<S> {
    /// A connection that ends early once `stop` is readable.
    pub fn new(stream: S, stop: Arc<OwnedFd>, limits: Limits) -> Self {
        Self { stream, stop, limits, buffer: Vec::new(), fresh: true }
    }

    /// The socket.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Socket and what was read beyond the last request, for another protocol to go on with.
    pub fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.buffer)
    }

    /// The next request, whole with its body.
    pub fn next_request(&mut self) -> Incoming {
        let first = if self.fresh { self.limits.head_time } else { self.limits.idle_time };
        self.fresh = false;
        let mut end = Instant::now() + if self.buffer.is_empty() { first } else { self.limits.head_time };
        let head = loop {
            match parse_head(&self.buffer, &self.limits) {
                Ok(Some(head)) => break head,
                Ok(None) => {}
                Err(failure) => return Incoming::Refused(failure),
            }
            let nothing_yet = self.buffer.is_empty();
            match self.fill(end) {
                Filled::Some if nothing_yet => end = Instant::now() + self.limits.head_time,
                Filled::Some => {}
                _ if nothing_yet => return Incoming::Closed,
                ended => return Incoming::Refused(unfinished(&ended, "head", self.limits.head_time)),
            }
        };
        self.buffer.drain(..head.length.min(self.buffer.len()));
        if head.expects_continue
            && self.buffer.len() < head.body
            && self.write(b"HTTP/1.1 100 Continue\r\n\r\n").is_err()
        {
            return Incoming::Closed;
        }
        let end = Instant::now() + self.limits.body_time;
        while self.buffer.len() < head.body {
            match self.fill(end) {
                Filled::Some => {}
                ended => return Incoming::Refused(unfinished(&ended, "body", self.limits.body_time)),
            }
        }
        let mut request = head.request;
        let rest = self.buffer.split_off(head.body.min(self.buffer.len()));
        request.body = std::mem::replace(&mut self.buffer, rest);
        Incoming::Request(request)
    }

    /// Writes all of it, or fails when the peer does not take it in time.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut end = Instant::now() + self.limits.write_time;
        let mut heed_stop = true;
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match self.wait(PollFlags::OUT, end, heed_stop)? {
                    Woken::Ready => {}
                    Woken::Late => return Err(io::ErrorKind::TimedOut.into()),
                    Woken::Stopped => {
                        heed_stop = false;
                        end = end.min(Instant::now() + LAST_WORDS);
                    }
                },
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Answers with an error and closes, giving a peer that is still sending the time to read it.
    pub fn refuse(mut self, failure: &Failure) {
        if self.write(&Answer::failure(failure).to_bytes(false, true)).is_err()
            || rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write).is_err()
        {
            return;
        }
        let end = Instant::now() + LINGER.0;
        let mut read = 0;
        while read < LINGER.1 && matches!(self.fill(end), Filled::Some) {
            read += self.buffer.len();
            self.buffer.clear();
        }
    }

    /// Reads once, waiting until `end`.
    fn fill(&mut self, end: Instant) -> Filled {
        let mut chunk = [0; CHUNK];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Filled::End,
                Ok(n) => {
                    self.buffer.extend_from_slice(chunk.get(..n).unwrap_or_default());
                    // Bytes that trickle must not stretch the time.
                    return if Instant::now() > end { Filled::Late } else { Filled::Some };
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match self.wait(PollFlags::IN, end, true) {
                    Ok(Woken::Ready) => {}
                    Ok(Woken::Late) => return Filled::Late,
                    Ok(Woken::Stopped) => return Filled::Stopped,
                    Err(_) => return Filled::End,
                },
                Err(_) => return Filled::End,
            }
        }
    }

    fn wait(&self, what: PollFlags, end: Instant, heed_stop: bool) -> io::Result<Woken> {
        loop {
            let mut fds = [PollFd::new(&self.stream, what), PollFd::new(&*self.stop, PollFlags::IN)];
            let watched = if heed_stop { &mut fds[..] } else { &mut fds[..1] };
            match poll(watched, Some(&time_until(end))) {
                Ok(0) => return Ok(Woken::Late),
                Ok(_) if !fds[0].revents().is_empty() => return Ok(Woken::Ready),
                Ok(_) => return Ok(Woken::Stopped),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// What is left until then, for `poll(2)`.
pub(super) fn time_until(end: Instant) -> Timespec {
    let left = end.saturating_duration_since(Instant::now());
    // A duration out of range is longer than any limit here: an hour stands for it.
    Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 })
}

fn unfinished(how: &Filled, part: &str, limit: Duration) -> Failure {
    match how {
        Filled::Stopped => Failure::new(ErrorKind::Unavailable, "the daemon stops"),
        Filled::Late => {
            let message = format!("the {part} did not arrive within {} s", limit.as_secs_f32());
            Failure::new(ErrorKind::RequestTimeout, message)
        }
        _ => Failure::new(ErrorKind::BadRequest, format!("the request ended within its {part}")),
    }
}
