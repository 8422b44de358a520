//! The thread of the link: keeps the socket, checks what comes, hands it to the lanes, and sends what they answer.
//!
//! It sleeps until the hub says something, an answer or event is to go out, or a time limit of [`Machine`] is over.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use serde_json::Value;

use super::frame::{self, Frame, Refused, event};
use super::gate::{Gate, Step};
use super::handle::{Link, Shared};
use super::lanes::{Duties, Lanes};
use super::machine::{Effect, Event, Machine, Timing};
use super::session::{Session, TokenError};
use crate::crypto;
use crate::engine::cancel::CancelToken;
use crate::net::dice::Dice;
use crate::net::url;
use crate::net::ws::{self, Incoming, Request, Socket, WsError};
use crate::thread;
use crate::time::now_ms;

/// Longest frame of the hub, in bytes.
const MAX_FRAME: usize = 8 << 20;
/// Longest answer or event, in bytes.
const SEND_LIMIT: usize = 4 << 20;
/// For connecting and shaking hands together.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// How often is looked for a new login while there is none.
const LOOK: Duration = Duration::from_secs(5);
/// Answers that wait for a connection; the oldest is forgotten first, as the hub has forgotten its question.
const PENDING: usize = 256;
/// How long an answer is worth sending.
const PENDING_AGE: Duration = Duration::from_mins(10);
/// How long is waited after a renewal in the background that came to nothing, in milliseconds.
const RENEW_AGAIN: u64 = 60_000;
/// Longest name of this machine in the URL.
const LABEL_LIMIT: usize = 64;
/// Frames that are looked at before anything else has its turn.
const MAX_AT_ONCE: usize = 64;

/// What a link is made of.
pub struct Parts {
    /// The login.
    pub session: Arc<Session>,
    /// Checks frames.
    pub gate: Gate,
    /// Carries them out.
    pub duties: Arc<dyn Duties>,
    /// Path of the socket at the hub: `/daemon/ws`, or `/cloud/daemon/ws`.
    pub path: &'static str,
    /// Time limits.
    pub timing: Timing,
    /// Called after every connect, on the link's thread; is quick.
    pub connected: Box<dyn Fn(&Link) + Send>,
    /// Called on the link's thread with the id of each event that the hub has taken; is quick.
    pub kept: Box<dyn Fn(&str) + Send>,
    /// Called on any thread when [`Link::state`] has changed; is quick.
    pub changed: Box<dyn Fn() + Send + Sync>,
    /// Says where the keys came from, for the warning that there are none.
    pub config: PathBuf,
}

/// Prepares a link, and the thread's work.
pub fn prepare(parts: Parts) -> std::io::Result<(Link, Runner)> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let shared = Arc::new(Shared { wake, state: Mutex::default(), changed: parts.changed });
    let link = Link { shared: Arc::clone(&shared) };
    let done = Arc::clone(&shared);
    let lanes = Lanes::new(
        parts.duties,
        Arc::new(move |frame: &Frame, handled| {
            done.lock().done.push_back((frame.clone(), handled));
            done.wake();
        }),
    );
    let runner = Runner {
        link: link.clone(),
        session: parts.session,
        gate: parts.gate,
        lanes,
        path: parts.path,
        machine: Machine::new(parts.timing),
        dice: Dice::default(),
        connected: parts.connected,
        kept: parts.kept,
        config: parts.config,
        socket: None,
        renewing: false,
        renew_not_before: 0,
        began: Instant::now(),
    };
    Ok((link, runner))
}

/// The thread's work.
pub struct Runner {
    link: Link,
    session: Arc<Session>,
    gate: Gate,
    lanes: Lanes,
    path: &'static str,
    machine: Machine,
    dice: Dice,
    connected: Box<dyn Fn(&Link) + Send>,
    kept: Box<dyn Fn(&str) + Send>,
    config: PathBuf,
    socket: Option<Socket>,
    /// A thread renews the login.
    renewing: bool,
    renew_not_before: u64,
    began: Instant,
}

impl Runner {
    /// Keeps the link until `stop` is set.
    pub fn run(mut self, stop: &CancelToken) {
        while !stop.is_cancelled() {
            let mut events = VecDeque::new();
            events.extend(self.news());
            // Before the clock: what has been said already is no silence.
            let rest = self.hear(&mut events);
            self.settle();
            events.extend(self.send_waiting());
            events.push_back(Event::Clock);
            while let Some(event) = events.pop_front() {
                for effect in self.machine.step(event, self.now(), self.dice.roll()) {
                    events.extend(self.carry_out(effect, stop));
                }
            }
            // Behind the events: one of them may be that the login is no good.
            self.renew_in_time();
            self.sleep(rest, stop);
        }
        if let Some(mut socket) = self.socket.take() {
            socket.close(1000, "daemon stopping");
        }
        self.link.shared.update(|link| link.connected = false);
        // What was paid for is to be on disk.
        self.session.settle();
    }

    /// What others have said since the last time.
    fn news(&mut self) -> Vec<Event> {
        let (keys, look, renewed) = {
            let mut state = self.link.shared.lock();
            (state.keys.take(), std::mem::take(&mut state.look), state.renewed.take())
        };
        if let Some((ring, require_signed)) = keys {
            self.gate.ring = ring;
            self.gate.require_signed = require_signed;
            let unsigned = self.takes_unsigned();
            self.link.shared.update(|link| link.unsigned = unsigned);
        }
        let mut events = Vec::new();
        self.renewing &= renewed.is_none();
        match renewed {
            None | Some(Ok(())) => {}
            Some(Err(e @ TokenError::Rejected(_))) => events.push(Event::Rejected(e.to_string())),
            Some(Err(e)) => {
                log::warn!("control.not_renewed error={:?}", e.to_string());
                self.renew_not_before = self.now() + RENEW_AGAIN;
            }
        }
        if (look || self.machine.is_dead()) && self.session.look_again() {
            log::info!("control.logged_in");
            self.link.shared.update(|link| link.expired = false);
            events.push(Event::LoggedIn);
        }
        events
    }

    fn takes_unsigned(&self) -> bool {
        self.gate.ring.is_empty() && !self.gate.require_signed
    }

    /// When the login is to be renewed in the background.
    fn renewal(&self) -> Option<u64> {
        if self.renewing || self.socket.is_none() {
            return None;
        }
        let left = self.session.renew_at()?.saturating_sub(now_ms());
        Some((self.now() + u64::try_from(left).unwrap_or(0)).max(self.renew_not_before))
    }

    /// While the socket is up the login is renewed before it must be, so that no reconnect waits for it.
    fn renew_in_time(&mut self) {
        if self.renewal().is_none_or(|at| at > self.now()) {
            return;
        }
        let (session, shared) = (Arc::clone(&self.session), Arc::clone(&self.link.shared));
        let renew = move || {
            let renewed = session.access_token(true).map(drop);
            shared.lock().renewed = Some(renewed);
            shared.wake();
        };
        match thread::spawn("control:renew", renew) {
            Ok(_) => self.renewing = true,
            Err(e) => {
                log::warn!("control.not_renewed error={e}");
                self.renew_not_before = self.now() + RENEW_AGAIN;
            }
        }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Takes what the hub has said; returns whether there may be more.
    fn hear(&mut self, events: &mut VecDeque<Event>) -> bool {
        for _ in 0..MAX_AT_ONCE {
            let Some(socket) = &mut self.socket else { return false };
            match socket.receive() {
                Ok(None) => return false,
                Ok(Some(Incoming::Text(text))) => {
                    events.push_back(Event::Heard);
                    events.extend(self.take(&text));
                }
                Ok(Some(Incoming::Other)) => events.push_back(Event::Heard),
                Ok(Some(Incoming::Closed { code, reason })) => {
                    log::info!("control.closed code={code} reason={:?}", crate::text::clip(&reason, 123));
                    events.push_back(Event::Closed(code));
                    return false;
                }
                Err(e) => {
                    if matches!(e, WsError::TooLong) {
                        socket.close(1009, "");
                    }
                    events.push_back(Event::Failed(e.to_string()));
                    return false;
                }
            }
        }
        true
    }

    fn take(&mut self, text: &str) -> Option<Event> {
        self.gate.skew_ms = self.session.skew_ms();
        match self.gate.take(text, now_ms()) {
            Step::Drop(why) => log::warn!("control.frame_dropped reason={why:?}"),
            Step::Answered { id, refused: None } => (self.kept)(&id),
            Step::Answered { id, refused: Some(code) } => {
                log::warn!(
                    "control.event_refused id={:?} code={:?}",
                    crate::text::clip(&id, 80),
                    crate::text::clip(&code, 80)
                );
            }
            Step::Send(answer) => {
                if let Some(code) = answer["error"]["code"].as_str() {
                    log::warn!("control.frame_refused code={code}");
                }
                self.answer(answer);
            }
            Step::Revoked(answer) => {
                log::warn!("control.revoked");
                self.answer(answer);
                self.send_waiting();
                if let Some(socket) = &mut self.socket {
                    socket.close(1000, "");
                }
                return Some(Event::Revoked);
            }
            Step::Handle(frame) => {
                log::info!("control.frame type={:?}", crate::text::clip(&frame.kind, 64));
                if frame.kind == "hello" {
                    self.believe_clock(&frame);
                }
                if let Some(refused) = self.lanes.push(frame.clone()) {
                    let answer = self.gate.finish(&frame.id, &refused);
                    self.answer(answer);
                }
            }
        }
        None
    }

    fn believe_clock(&self, frame: &Frame) {
        let Some(hub) = frame.params.get("server_time").and_then(Value::as_i64) else { return };
        let skew = hub.saturating_sub(now_ms());
        self.session.set_skew_ms(skew);
        let far = (skew.saturating_abs() > 60_000).then_some(skew);
        if far.is_some() {
            log::warn!("control.clock_off ms={skew}");
        }
        self.link.shared.update(|link| link.skew_ms = far);
    }

    /// Makes answers of what has been carried out.
    fn settle(&mut self) {
        loop {
            let next = self.link.shared.lock().done.pop_front();
            let Some((frame, handled)) = next else { return };
            if let Err(refused) = &handled {
                let message = crate::redact::text(&crate::text::clip(&refused.message, 300));
                log::warn!("control.frame_failed type={:?} code={} error={message:?}", frame.kind, refused.code);
            }
            let answer = self.gate.finish(&frame.id, &handled);
            self.answer(answer);
        }
    }

    fn answer(&self, answer: Value) {
        let mut state = self.link.shared.lock();
        state.answers.push_back((Instant::now(), answer));
        while state.answers.len() > PENDING {
            state.answers.pop_front();
        }
    }

    /// Sends what waits, if there is a connection.
    fn send_waiting(&mut self) -> Option<Event> {
        let socket = self.socket.as_mut()?;
        loop {
            let mut state = self.link.shared.lock();
            let (at, key, message) = match state.answers.pop_front() {
                Some((at, _)) if at.elapsed() > PENDING_AGE => continue,
                Some((at, answer)) => (Some(at), String::new(), answer),
                None if state.events.is_empty() => return None,
                None => {
                    let (key, event) = state.events.remove(0);
                    (None, key, event)
                }
            };
            drop(state);
            let Err(e) = socket.send(&sendable(&message)) else { continue };
            // The next connection gets it.
            let mut state = self.link.shared.lock();
            match at {
                Some(at) => state.answers.push_front((at, message)),
                None if state.events.iter().all(|(newer, _)| *newer != key) => state.events.insert(0, (key, message)),
                None => {}
            }
            return Some(Event::Failed(e.to_string()));
        }
    }

    fn carry_out(&mut self, effect: Effect, stop: &CancelToken) -> Option<Event> {
        match effect {
            Effect::Token { force } => Some(match self.session.access_token(force) {
                Ok(_) => Event::Token,
                Err(TokenError::Failed(why)) => Event::NoToken(why),
                Err(e @ (TokenError::Rejected(_) | TokenError::NoLogin)) => Event::Rejected(e.to_string()),
            }),
            Effect::Open => Some(self.open(stop)),
            Effect::Drop => {
                self.socket = None;
                None
            }
            Effect::Beat => {
                let beat = event("hb", "pong", now_ms(), crypto::random(), None);
                let socket = self.socket.as_mut()?;
                socket.ping().and_then(|()| socket.send(&beat.to_string())).err().map(|e| Event::Failed(e.to_string()))
            }
            Effect::Up => {
                log::info!("control.connected");
                self.session.taken();
                let unsigned = self.takes_unsigned();
                self.link.shared.update(|link| {
                    link.connected = true;
                    link.expired = false;
                    link.last_error = None;
                    link.unsigned = unsigned;
                });
                if unsigned {
                    log::warn!("control.unsigned_frames_accepted keys=none config={}", self.config.display());
                }
                (self.connected)(&self.link);
                None
            }
            Effect::Down { why, retry_ms } => {
                log::warn!("control.down error={why:?} retry_ms={retry_ms}");
                self.link.shared.update(|link| {
                    link.connected = false;
                    link.last_error = Some(why);
                });
                None
            }
            Effect::Expired(why) => {
                log::error!("control.login_expired error={why:?}");
                if self.session.auth().is_some() {
                    self.session.expire();
                }
                self.link.shared.update(|link| {
                    link.connected = false;
                    link.expired = true;
                    link.last_error = Some(why);
                });
                None
            }
        }
    }

    fn open(&mut self, stop: &CancelToken) -> Event {
        let Some(auth) = self.session.auth() else { return Event::Failed("not logged in".into()) };
        let label: String = auth.label.as_deref().unwrap_or("").chars().take(LABEL_LIMIT).collect();
        // The file may say anything; a token goes to no hub that a login would not have gone to.
        let url = url::server(&auth.hub_url).and_then(|hub| socket_url(&hub, self.path, &label));
        let url = match url {
            Ok(url) => url,
            Err(e) => return Event::Failed(format!("the hub's address {e}")),
        };
        log::info!("control.connecting url={url}");
        let bearer = format!("Bearer {}", auth.access_token);
        let headers = [("Authorization", bearer.as_str())];
        let request = Request { url: &url, headers: &headers, limit: HANDSHAKE, max_message: MAX_FRAME };
        match ws::open(&request, stop.as_fd()) {
            Ok(socket) => {
                if let Some(date) = socket.date() {
                    self.session.heard_date(date);
                }
                self.socket = Some(socket);
                Event::Opened
            }
            Err(WsError::Refused { status, retry_after, date }) => {
                if let Some(date) = date {
                    self.session.heard_date(date);
                }
                Event::Refused { status, retry_after: retry_after.map(|time| time.as_millis() as u64) }
            }
            Err(e) => Event::Failed(e.to_string()),
        }
    }

    fn sleep(&mut self, not_at_all: bool, stop: &CancelToken) {
        let limit = match [self.machine.deadline(), self.renewal()].into_iter().flatten().min() {
            _ if not_at_all => Some(Duration::ZERO),
            Some(at) => Some(Duration::from_millis(at.saturating_sub(self.now()))),
            None if self.machine.is_dead() => Some(LOOK),
            None => None,
        };
        let others: [BorrowedFd<'_>; 2] = [stop.as_fd(), self.link.shared.wake.as_fd()];
        let slept = match &mut self.socket {
            Some(socket) => socket.wait(&others, limit).map_err(|e| e.to_string()),
            None => ws::wait_for(&others, limit).map_err(|e| e.to_string()),
        };
        if let Err(why) = slept {
            // What is wrong with the socket shows when it is read.
            log::debug!("control.wait_failed error={why:?}");
        }
        let _ = rustix::io::read(&self.link.shared.wake, &mut [0_u8; 8]);
    }
}

/// The text of a message; one that is too long is told of in its place.
fn sendable(message: &Value) -> String {
    let text = message.to_string();
    if text.len() <= SEND_LIMIT {
        return text;
    }
    let id = message["id"].as_str().unwrap_or_default();
    log::warn!("control.too_long id={:?} bytes={}", crate::text::clip(id, 80), text.len());
    let why = format!("the answer has {} bytes; at most {SEND_LIMIT} are sent", text.len());
    frame::answer(id, &Err(Refused::failed(why))).to_string()
}

/// The socket's address; the name of this machine goes along where it has one.
pub fn socket_url(hub: &str, path: &str, label: &str) -> Result<String, url::UrlError> {
    let url = url::socket(hub, path)?;
    if label.is_empty() {
        return Ok(url);
    }
    // As forms are encoded.
    Ok(format!("{url}?label={}", url::encode(label).replace("%20", "+")))
}
