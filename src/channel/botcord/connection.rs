//! The thread of an agent: keeps its socket, and sees to its inbox in time.
//!
//! It sleeps until the hub says something, a time limit of [`Machine`] or of [`Inbox`] is over, or somebody wants it to
//! end. Nothing in here waits for a turn.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::hub::{Fault, Hub};
use super::inbox::Inbox;
use super::socket::{Effect, Event, Machine, Timing, Trigger};
use crate::engine::cancel::CancelToken;
use crate::engine::ports::{ChannelNews, Exit};
use crate::json;
use crate::net::dice::Dice;
use crate::net::ws::{self, Incoming, Request, Socket, WsError};

/// Longest message of the hub, in bytes; it says little more than that there is something.
const MAX_MESSAGE: usize = 64 << 10;
/// Messages that are looked at before anything else has its turn.
const MAX_AT_ONCE: usize = 64;
/// How long a hub may take to answer a farewell.
const FAREWELL: Duration = Duration::from_secs(2);
/// Wall time may run ahead of the other clock by so much before the machine counts as having slept.
const JUMP: Duration = Duration::from_secs(10);

/// A connection of one agent.
pub struct Connection<'a> {
    agent: &'a str,
    hub: &'a dyn Hub,
    inbox: &'a Arc<Inbox>,
    stop: &'a CancelToken,
    tell: &'a dyn Fn(ChannelNews),
    timing: Timing,
    machine: Machine,
    socket: Option<(u32, Socket)>,
    /// The token of the last attempt.
    token: Option<String>,
    began: Instant,
    clocks: (Instant, SystemTime),
    told_inbound: Option<i64>,
    dice: Dice,
}

impl<'a> Connection<'a> {
    /// A connection that is not made yet.
    pub fn new(
        agent: &'a str,
        hub: &'a dyn Hub,
        inbox: &'a Arc<Inbox>,
        timing: Timing,
        stop: &'a CancelToken,
        tell: &'a dyn Fn(ChannelNews),
    ) -> Self {
        Self {
            agent,
            hub,
            inbox,
            stop,
            tell,
            machine: Machine::new(timing.clone(), 0),
            timing,
            socket: None,
            token: None,
            began: Instant::now(),
            clocks: (Instant::now(), SystemTime::now()),
            told_inbound: None,
            dice: Dice::default(),
        }
    }

    /// Keeps the connection until it is of no use, or is to end.
    pub fn run(mut self) -> Exit {
        self.inbox.open();
        let exit = self.keep();
        self.inbox.close();
        if let Some((_, socket)) = self.socket.take() {
            farewell(socket);
        }
        exit
    }

    fn keep(&mut self) -> Exit {
        loop {
            if self.stop.is_cancelled() {
                return Exit::Ended;
            }
            if let Some(why) = self.inbox.revoked() {
                return Exit::Permanent(why);
            }
            let mut events = VecDeque::new();
            if self.has_slept() {
                events.push_back(Event::Jumped);
            }
            // Before the clock: what has been said already is no silence.
            let rest = self.hear(&mut events);
            events.push_back(Event::Clock);
            while let Some(event) = events.pop_front() {
                let effects = self.machine.step(event, self.now(), self.dice.roll());
                for effect in effects {
                    match self.carry_out(effect) {
                        Ok(more) => events.extend(more),
                        Err(exit) => return exit,
                    }
                }
            }
            self.tell_inbound();
            self.sleep(rest);
        }
    }

    /// Milliseconds since the beginning.
    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Whether the machine has slept, or was put aside, since this was asked last.
    fn has_slept(&mut self) -> bool {
        let (then, wall) = std::mem::replace(&mut self.clocks, (Instant::now(), SystemTime::now()));
        let ahead = self.clocks.1.duration_since(wall).unwrap_or_default().saturating_sub(self.clocks.0 - then);
        if ahead > JUMP {
            log::info!("botcord.clock_jumped agent={} seconds={}", self.agent, ahead.as_secs());
        }
        ahead > JUMP
    }

    /// Takes what the hub has said; returns whether there may be more.
    fn hear(&mut self, events: &mut VecDeque<Event>) -> bool {
        let Some((n, socket)) = &mut self.socket else { return false };
        for _ in 0..MAX_AT_ONCE {
            match socket.receive() {
                Ok(None) => return false,
                Ok(Some(incoming)) => {
                    events.push_back(Event::Heard(*n));
                    events.extend(meaning(self.agent, *n, incoming));
                }
                Err(e) => {
                    events.push_back(Event::Failed(*n, e.to_string()));
                    return false;
                }
            }
        }
        true
    }

    fn sleep(&mut self, not_at_all: bool) {
        let due = self.inbox.tick();
        let limit = if not_at_all { Some(0) } else { self.machine.deadline().checked_sub(self.now()) };
        let limit = Duration::from_millis(limit.unwrap_or_default());
        let limit = due.map_or(limit, |at| limit.min(at.saturating_duration_since(Instant::now())));
        let others: [BorrowedFd<'_>; 2] = [self.stop.as_fd(), self.inbox.nudge().as_fd()];
        let slept = match &mut self.socket {
            Some((_, socket)) => socket.wait(&others, Some(limit)).map_err(|e| e.to_string()),
            None => ws::wait_for(&others, Some(limit)).map_err(|e| e.to_string()),
        };
        let woken = slept.unwrap_or_else(|why| {
            // What is wrong with the socket shows when it is read.
            log::debug!("botcord.wait_failed agent={} error={why:?}", self.agent);
            true
        });
        if woken {
            self.inbox.nudge().drain();
            if !self.stop.is_cancelled() {
                self.stop.drain();
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Result<Vec<Event>, Exit> {
        match effect {
            Effect::Open { socket, refused } => return self.open(socket, refused),
            Effect::Auth => {
                let token = json::to_string(self.token.as_deref().unwrap_or_default()).unwrap_or_default();
                return Ok(self.send(&format!("{{\"type\":\"auth\",\"token\":{token}}}")));
            }
            Effect::Ping => return Ok(self.send("{\"type\":\"ping\"}")),
            Effect::Drop => self.socket = None,
            Effect::Poll(trigger) => {
                self.inbox.set_waits(trigger == Trigger::NoSocket);
                self.inbox.ask(trigger);
            }
            Effect::Up => {
                log::info!("botcord.authenticated agent={}", self.agent);
                let news = ChannelNews { connected: Some(true), reconnect_attempts: Some(0), ..ChannelNews::default() };
                (self.tell)(news);
            }
            Effect::Down { why, retry_ms, attempt } => {
                log::warn!("botcord.down agent={} error={why:?} retry_ms={retry_ms} attempt={attempt}", self.agent);
                (self.tell)(ChannelNews {
                    connected: Some(false),
                    reconnect_attempts: Some(u64::from(attempt)),
                    last_error: Some(why),
                    ..ChannelNews::default()
                });
            }
            Effect::GiveUp(why) => {
                log::error!("botcord.given_up agent={} error={why:?}", self.agent);
                return Err(Exit::Failed(why));
            }
        }
        Ok(Vec::new())
    }

    /// Gets a token and opens a socket with it.
    fn open(&mut self, n: u32, refused: bool) -> Result<Vec<Event>, Exit> {
        match self.hub.token(self.token.as_deref().filter(|_| refused)) {
            Ok(token) => self.token = Some(token),
            Err(Fault::Revoked(why)) => return Err(Exit::Permanent(why)),
            Err(Fault::Failed(why)) => return Ok(vec![Event::Failed(n, why)]),
        }
        let url = self.hub.socket_url();
        log::info!("botcord.connecting agent={} url={url}", self.agent);
        let request = Request { url: &url, headers: &[], limit: self.timing.handshake, max_message: MAX_MESSAGE };
        // The time limit counts from here on.
        let effects = self.machine.step(Event::Dials(n), self.now(), self.dice.roll());
        debug_assert!(effects.is_empty(), "{effects:?}");
        Ok(match ws::open(&request, self.stop.as_fd()) {
            Ok(socket) => {
                self.socket = Some((n, socket));
                vec![Event::Opened(n)]
            }
            // The machine knows how to say this.
            Err(WsError::TimedOut) => vec![Event::Clock],
            Err(e) => vec![Event::Failed(n, e.to_string())],
        })
    }

    fn send(&mut self, text: &str) -> Vec<Event> {
        match &mut self.socket {
            Some((n, socket)) => match socket.send(text) {
                Ok(()) => Vec::new(),
                Err(e) => vec![Event::Failed(*n, e.to_string())],
            },
            None => Vec::new(),
        }
    }

    fn tell_inbound(&mut self) {
        let last = self.inbox.last_inbound_at();
        if last.is_some() && std::mem::replace(&mut self.told_inbound, last) != last {
            (self.tell)(ChannelNews { last_inbound_at: last, last_poll_at: last, ..ChannelNews::default() });
        }
    }
}

/// What a message of the hub is to the state machine.
fn meaning(agent: &str, n: u32, incoming: Incoming) -> Option<Event> {
    let text = match incoming {
        Incoming::Text(text) => text,
        Incoming::Other => return None,
        Incoming::Closed { code, reason } => {
            log::info!("botcord.closed agent={agent} code={code} reason={:?}", crate::text::clip(&reason, 123));
            return Some(Event::Closed(n, code));
        }
    };
    match json::parse(text.as_bytes()).ok()?.get("type")?.as_str()? {
        "auth_ok" => Some(Event::AuthOk(n)),
        "inbox_update" => {
            log::debug!("botcord.inbox_update agent={agent}");
            Some(Event::Update(n))
        }
        kind @ ("error" | "auth_failed") => {
            let said = crate::redact::text(&crate::text::clip(&text, 200));
            log::warn!("botcord.frame agent={agent} type={kind} frame={said:?}");
            None
        }
        _ => None,
    }
}

/// Says good-bye and waits a little for the answer, so that the hub does not have to wonder.
fn farewell(mut socket: Socket) {
    socket.close(1000, "");
    let end = Instant::now() + FAREWELL;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match socket.receive() {
            _ if left.is_zero() => return,
            Ok(Some(Incoming::Closed { .. })) | Err(_) => return,
            Ok(None) if socket.wait(&[], Some(left)).is_err() => return,
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tungstenite::Message;

    use super::*;

    #[test]
    fn a_hub_that_does_not_stop_talking_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let hub = std::thread::spawn(move || {
            let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
            while socket.send(Message::text("{}")).is_ok() {}
        });
        let never = CancelToken::new().unwrap();
        let request = Request { url: &url, headers: &[], limit: Duration::from_secs(20), max_message: MAX_MESSAGE };
        farewell(ws::open(&request, never.as_fd()).unwrap());
        hub.join().unwrap();
    }
}
