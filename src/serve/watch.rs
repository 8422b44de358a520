//! Serving one event stream: from what is remembered of a message to a connection, until its turn is over.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::conn::{Conn, time_until};
use super::follow::{Next, Subscription};
use super::http::shown;
use super::server::Shared;
use super::sse;
use super::wire::{ErrorKind, Event, Failure, MessageState, State};

const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
    Cache-Control: no-store\r\nConnection: close\r\n\r\n";

/// Events that are written at once, in bytes.
const BATCH: usize = 64 << 10;

/// Where the events of a message come from.
enum Source {
    /// They are remembered, or will come.
    Live(Subscription),
    /// Only the end is known.
    Over(Box<Event>),
}

/// Streams the events of a message after number `after`, and closes the connection. The stream ends after `finished`, when the server stops, when the peer has
/// gone, or when the peer takes nothing for the time that a write may take.
pub(super) fn stream<S: Read + Write + AsFd>(mut conn: Conn<S>, id: &str, after: u64, shared: &Shared) {
    let Some(_place) = shared.stream_place() else {
        let message = format!("{} event streams are open, as many as there may be", shared.settings.streams);
        return conn.refuse(&Failure::new(ErrorKind::Unavailable, message));
    };
    let source = catch_unwind(AssertUnwindSafe(|| source(id, after, shared))).unwrap_or_else(|_| {
        log::error!("serve.panic message={}", shown(id));
        Err(Failure::new(ErrorKind::Internal, "the daemon failed at this request; its log says more"))
    });
    let result = match source {
        Err(failure) => return conn.refuse(&failure),
        Ok(Source::Live(subscription)) => follow(&mut conn, id, subscription, shared),
        Ok(Source::Over(event)) => finish(&mut conn, *event, shared, STREAM_HEAD.to_vec()),
    };
    if let Err(e) = result {
        log::debug!("serve.stream.ended message={} error={e}", shown(id));
    }
}

fn source(id: &str, after: u64, shared: &Shared) -> Result<Source, Failure> {
    let subscribe = |expected| {
        let failed = |e: io::Error| Failure::new(ErrorKind::Unavailable, format!("the event stream cannot begin: {e}"));
        shared.follow.subscribe(id, after, expected).map_err(failed)
    };
    if let Some(subscription) = subscribe(false)? {
        return Ok(Source::Live(subscription));
    }
    // The journal remembers more than the progress does, above all after a restart.
    let MessageState { state, report, .. } = shared.control.message_state(id);
    let not_found = |what: &str| Failure::new(ErrorKind::NotFound, format!("message {} {what}", shown(id)));
    match (state, report) {
        (State::Waiting | State::Running, _) => {
            subscribe(true)?.map(Source::Live).ok_or_else(|| not_found("cannot be watched now"))
        }
        (State::Done, Some(report)) => Ok(Source::Over(Box::new(Event::Finished(Box::new(report))))),
        (State::Done, None) => Err(not_found("is done, and its events are no longer remembered")),
        (State::Unknown, _) => Err(not_found("is not known")),
    }
}

fn follow<S: Read + Write + AsFd>(
    conn: &mut Conn<S>,
    id: &str,
    mut subscription: Subscription,
    shared: &Shared,
) -> io::Result<()> {
    let mut bytes = STREAM_HEAD.to_vec();
    let (mut done, mut stopping) = (false, false);
    loop {
        let next = subscription.next_event();
        if let Next::Event(number, event) = &next {
            bytes.extend(sse::encode(*number, event)?);
        }
        if !bytes.is_empty() && (bytes.len() >= BATCH || !matches!(next, Next::Event(..))) {
            conn.write(&bytes)?;
            bytes.clear();
        }
        match next {
            Next::Event(..) => {}
            Next::Over => return Ok(()),
            Next::Nothing if stopping => return Ok(()),
            Next::Nothing if done => return end(conn, id, shared),
            Next::Nothing => match wait(&shared.stop, conn.stream(), &subscription, shared.settings.keep_alive)? {
                News::Some => {}
                // The last turns may have ended in the moment before, and nobody else tells of it.
                News::Stop => stopping = true,
                News::End => return Ok(()),
                News::Quiet => {
                    bytes.extend_from_slice(sse::KEEP_ALIVE);
                    // Events that came meanwhile are looked at once more before it counts.
                    done = shared.control.message_state(id).state == State::Done;
                }
            },
        }
    }
}

/// The message ended and no event said so.
fn end<S: Read + Write + AsFd>(conn: &mut Conn<S>, id: &str, shared: &Shared) -> io::Result<()> {
    let Some(report) = shared.control.message_state(id).report else {
        // Who connects again is told that it is done.
        shared.follow.forget(id);
        return Ok(());
    };
    finish(conn, Event::Finished(Box::new(report)), shared, Vec::new())
}

fn finish<S: Read + Write + AsFd>(
    conn: &mut Conn<S>,
    event: Event,
    shared: &Shared,
    mut bytes: Vec<u8>,
) -> io::Result<()> {
    bytes.extend(sse::encode(shared.follow.number(), &event)?);
    conn.write(&bytes)
}

/// What woke a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// There may be events.
    Some,
    /// The server stops.
    Stop,
    /// The peer has gone.
    End,
    /// Neither, for the whole time.
    Quiet,
}

fn wait(stop: &OwnedFd, peer: &impl AsFd, news: &impl AsFd, limit: Duration) -> io::Result<News> {
    let end = Instant::now() + limit;
    loop {
        let mut fds = [
            PollFd::new(stop, PollFlags::IN),
            // Asked for nothing, it still tells when the peer has gone altogether; half-closed is not gone.
            PollFd::new(peer, PollFlags::empty()),
            PollFd::new(news, PollFlags::IN),
        ];
        match poll(&mut fds, Some(&time_until(end))) {
            Ok(0) => return Ok(News::Quiet),
            Ok(_) if !fds[1].revents().is_empty() => return Ok(News::End),
            Ok(_) if !fds[0].revents().is_empty() => return Ok(News::Stop),
            Ok(_) => return Ok(News::Some),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
