//! A watched message: its events, over as many connections as it takes.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{Client, ClientError, FIRST_PAUSE, message_path, read_once, understand};
use crate::serve::sse;
use crate::serve::wire::{ErrorKind, Event, MessageState, State};

/// The events of one message, ending after [`Event::Finished`]. Blocks until the next one comes.
///
/// A daemon that has no place for another watcher is asked now and then until it has, or the message has ended.
/// A connection that breaks is made again for up to [`super::ClientLimits::patience`] and goes on after the last
/// event that was seen; no event is given twice (a turn that runs again after a restart has events of its
/// own, beginning with another [`Event::Started`]). After an error the iterator has ended.
#[derive(Debug)]
pub struct Events {
    client: Client,
    id: String,
    last: Option<u64>,
    stream: Option<(UnixStream, sse::Parser)>,
    over: bool,
    /// Since when nothing has come over any connection.
    lost: Option<Instant>,
    pause: Duration,
}

impl Events {
    pub(super) fn begin(client: Client, id: &str) -> Result<Self, ClientError> {
        let id = id.to_owned();
        let mut events = Self { client, id, last: None, stream: None, over: false, lost: None, pause: FIRST_PAUSE };
        match events.open() {
            Ok(stream) => events.stream = Some(stream),
            // The message is accepted: what may pass is waited out from the beginning.
            Err(why) if why.may_pass() => {}
            Err(why) => return Err(why),
        }
        Ok(events)
    }

    fn open(&self) -> Result<(UnixStream, sse::Parser), ClientError> {
        let client = &self.client;
        let mut stream = client.open()?;
        let (head, rest) = client.ask(&mut stream, "GET", &message_path(&self.id, "/events"), None, self.last)?;
        if head.status != 200 {
            let body = client.read_body(&mut stream, &head, rest)?;
            return Err(understand::<serde::de::IgnoredAny>(head.status, &body)
                .err()
                .unwrap_or_else(|| ClientError::NotUnderstood(format!("status {} for a stream", head.status))));
        }
        stream.set_read_timeout(Some(client.limits.silence)).map_err(ClientError::Lost)?;
        let mut parser = sse::Parser::default();
        parser.push(&rest);
        Ok((stream, parser))
    }

    /// The next event of the open connection.
    fn read(&mut self) -> Result<Event, ClientError> {
        let Some((stream, parser)) = &mut self.stream else {
            return Err(ClientError::Lost(io::ErrorKind::NotConnected.into()));
        };
        let mut chunk = Vec::new();
        loop {
            let frame = parser.next_frame().map_err(|_| ClientError::NotUnderstood("an endless event".into()))?;
            if let Some(frame) = frame {
                let event = Event::parse(&frame.name, &frame.data)
                    .map_err(|e| ClientError::NotUnderstood(format!("event {}: {e}", frame.name)))?;
                self.last = frame.id.or(self.last);
                if let Some(event) = event {
                    return Ok(event);
                }
                continue;
            }
            chunk.clear();
            // Silence beyond the keep-alives is a connection that is gone.
            match read_once(stream, &mut chunk) {
                Ok(0) => return Err(ClientError::Lost(io::ErrorKind::UnexpectedEof.into())),
                Err(e) => return Err(ClientError::Lost(e)),
                Ok(_) => {
                    self.lost = None;
                    self.pause = FIRST_PAUSE;
                    parser.push(&chunk);
                }
            }
        }
    }

    /// Waits and connects again, or says that it has waited long enough. The end of the message, if that was seen
    /// without a stream.
    fn again(&mut self, mut why: ClientError) -> Result<Option<Event>, ClientError> {
        let mut since = *self.lost.get_or_insert_with(Instant::now);
        self.stream = None;
        loop {
            if !why.may_pass() {
                return Err(why);
            }
            // A daemon whose places for watchers are taken is there all the same, and can be asked for the end.
            if why.kind() == Some(ErrorKind::Unavailable) {
                since = Instant::now();
                self.lost = Some(since);
                if let Ok(MessageState { state: State::Done, report: Some(report), .. }) = self.client.message(&self.id)
                {
                    return Ok(Some(Event::Finished(Box::new(report))));
                }
            }
            if since.elapsed() + self.pause > self.client.limits.patience {
                return Err(ClientError::StillAccepted { id: self.id.clone(), why: Box::new(why) });
            }
            std::thread::sleep(self.pause);
            self.pause = (self.pause * 2).min(Duration::from_secs(1));
            match self.open() {
                Ok(stream) => {
                    self.stream = Some(stream);
                    return Ok(None);
                }
                Err(error) => why = error,
            }
        }
    }
}

impl Iterator for Events {
    type Item = Result<Event, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.over {
            match self.read().map(Some).or_else(|why| self.again(why)) {
                Ok(Some(event)) => {
                    self.over = matches!(event, Event::Finished(_));
                    return Some(Ok(event));
                }
                Ok(None) => {}
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
