//! Messages of third-party chats that the hub's ingress hands in: each becomes a turn, and what is said in it goes back
//! with the answer to its frame.
//!
//! An event and what was said for it are in the journal for a day. So one that comes again, also after a crash of
//! either side, is not run again: its answer is that of the first, which is waited for while it is being made.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::crypto;
use crate::engine::journal::{Journal, Record};
use crate::engine::policy::{Announced, PolicySource};
use crate::engine::ports::{Capabilities, Channel, Delivery, Settled, TurnEvent, TurnObserver};
use crate::engine::{Acceptance, Engine, WeakEngine};
use crate::link::botcord_control::frame::{Handled, Refused, event as event_frame};
use crate::link::botcord_control::handle::Link;
use crate::link::botcord_control::ingress::{Arrival, Event, PREFIX};
use crate::message::{Inbound, Outbound};
use crate::sort;
use crate::text;
use crate::time::now_ms;

/// Prefix of the notes' keys; what [`key`] makes of the event follows.
const NOTE: &str = "ingress:";
/// Events that are remembered; the oldest ones that are over go first.
const MOST: usize = 1_000;
/// What was said for all of them together, in bytes; beyond it the oldest ones that are over go.
const SAID: usize = 8 << 20;
/// What is kept of what was said for one, in UTF-16 units.
const SAID_FOR_ONE: usize = 128 << 10;
/// For how long, in milliseconds.
const AGE_MS: i64 = 24 * 3_600_000;
/// Frames that are waited for at once; each holds a thread.
const AT_ONCE: usize = 64;
/// Gateways that have a channel here, each agent's by itself.
const GATEWAYS: usize = 256;
/// How long a frame waits for the end of its turn; the hub waits no longer.
const LIMIT: Duration = Duration::from_mins(30);

/// All events of all gateways.
pub(super) struct Ingress {
    journal: Journal,
    engine: OnceLock<WeakEngine>,
    link: OnceLock<Link>,
    state: Mutex<State>,
    /// Told when an event is over.
    over: Condvar,
}

#[derive(Default)]
struct State {
    /// By what [`key`] makes of them.
    events: HashMap<String, Entry>,
    /// Keys of events by the turns that run for them.
    turns: HashMap<String, String>,
    /// Channels that the engine has.
    gateways: BTreeSet<String>,
    waiting: usize,
}

/// What an event is known by. Ids are those of its gateway: two gateways may well choose the same, and neither may get the
/// other's answer.
fn key(event: &Event) -> String {
    format!("{}\n{}", event.channel(), event.id)
}

/// An event, and what became of it.
struct Entry {
    event: Event,
    /// Id of its message, and what replies name.
    message: String,
    reply_target: String,
    at: i64,
    /// What was said, by the ids of the replies.
    said: Vec<(String, String)>,
    over: bool,
}

impl Entry {
    fn note(&self) -> Value {
        let e = &self.event;
        json!({
            "event": e.id, "gateway": e.gateway, "agent": e.agent, "conversation": e.conversation, "provider": e.provider,
            "trace": e.trace, "message": self.message, "replyTo": self.reply_target, "at": self.at,
            "said": self.said, "over": self.over,
        })
    }

    fn record(&self) -> Record {
        Record::Note { key: format!("{NOTE}{}", key(&self.event)), value: self.note() }
    }

    /// `known`: what the note is known by, which was the event's id alone once.
    fn read(known: &str, note: &Value) -> Option<Self> {
        let text = |key: &str| note[key].as_str().map(str::to_owned);
        let event = Event {
            id: text("event").unwrap_or_else(|| known.to_owned()),
            gateway: text("gateway")?,
            agent: text("agent")?,
            conversation: text("conversation")?,
            provider: text("provider")?,
            trace: text("trace"),
        };
        let said = note["said"].as_array()?.iter();
        let said = said.filter_map(|pair| Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned()))).collect();
        Some(Self {
            event,
            message: text("message")?,
            reply_target: text("replyTo")?,
            at: note["at"].as_i64()?,
            said,
            over: note["over"] == true,
        })
    }

    fn result(&self) -> Value {
        let said: Vec<String> = self.said.iter().map(|(_, text)| text.clone()).collect();
        self.event.result(&said)
    }

    fn size(&self) -> usize {
        self.said.iter().map(|(_, text)| text.len()).sum()
    }
}

impl Ingress {
    /// Goes on with what the journal knows.
    pub(super) fn open(journal: &Journal) -> Arc<Self> {
        let notes: Vec<(String, Entry)> = journal.view(|ledger| {
            let notes = ledger.notes(NOTE).map(|(key, note)| (&key[NOTE.len()..], &note.value));
            notes.filter_map(|(known, value)| Some((known.to_owned(), Entry::read(known, value)?))).collect()
        });
        let mut events = HashMap::new();
        for (known, entry) in notes {
            let key = key(&entry.event);
            if known != key {
                journal.append_behind(entry.record());
                journal.append_behind(Record::Forget { key: format!("{NOTE}{known}") });
            }
            events.insert(key, entry);
        }
        Arc::new(Self {
            journal: journal.clone(),
            engine: OnceLock::new(),
            link: OnceLock::new(),
            state: Mutex::new(State { events, ..State::default() }),
            over: Condvar::new(),
        })
    }

    /// These agents are there: replies of an earlier process go through the channels of their gateways, and turns that it
    /// did not finish go on.
    pub(super) fn open_for(self: &Arc<Self>, agents: &[String]) {
        let Some(engine) = self.engine.get().and_then(WeakEngine::upgrade) else { return };
        let gateways: Vec<Gateway> = {
            let mut state = self.lock();
            let State { events, gateways, .. } = &mut *state;
            let theirs = events.values().filter(|entry| agents.contains(&entry.event.agent));
            theirs.filter(|e| gateways.insert(e.event.channel())).map(|e| Gateway::new(self, &e.event)).collect()
        };
        for gateway in gateways {
            engine.add_channel(Arc::new(gateway));
        }
    }

    /// From now on events go to this engine.
    pub(super) fn set_engine(&self, engine: &Engine) {
        let _ = self.engine.set(engine.downgrade());
    }

    /// Whom to tell that agents are typing.
    pub(super) fn set_link(&self, link: &Link) {
        let _ = self.link.set(link.clone());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event; returns when its turn is over.
    pub(super) fn take(self: &Arc<Self>, arrival: Arrival) -> Handled {
        let Arrival { event, message } = arrival;
        let key = key(&event);
        let failed = |why: &str| Err(event.rejected(Refused::new("dispatch_failed", why)));
        let Some(engine) = self.engine.get().and_then(WeakEngine::upgrade) else {
            return failed("the daemon is shutting down");
        };
        {
            let mut state = self.lock();
            self.forget(&mut state);
            if state.waiting >= AT_ONCE {
                return Err(event.rejected(Refused::new("busy", format!("{AT_ONCE} events wait already"))));
            }
            if !state.events.contains_key(&key) {
                if state.events.len() >= MOST {
                    return failed("too many events are not over yet");
                }
                if !state.gateways.contains(&event.channel()) && state.gateways.len() >= GATEWAYS {
                    return failed("too many gateways");
                }
                let entry = Entry {
                    event: event.clone(),
                    message: message.id.clone(),
                    reply_target: message.reply_target().to_owned(),
                    at: now_ms(),
                    said: Vec::new(),
                    over: false,
                };
                // Made durable by the acceptance that follows it.
                self.journal.append_behind(entry.record());
                state.events.insert(key.clone(), entry);
            }
            state.waiting += 1;
        }
        self.open_for(std::slice::from_ref(&event.agent));
        let handled = self.run(&engine, &event, &key, message);
        self.lock().waiting -= 1;
        handled
    }

    fn run(&self, engine: &Engine, event: &Event, key: &str, message: Inbound) -> Handled {
        let known = {
            let state = self.lock();
            let entry = state.events.get(key);
            entry.map(|entry| (entry.message.clone(), entry.over))
        };
        // The event of another frame, perhaps of an earlier process: with the message of that one.
        let (mut id, over) = known.unwrap_or((message.id.clone(), false));
        if id != message.id && !over && engine.knows(&event.channel(), &id).is_none() {
            // That one died before its message was taken.
            id.clone_from(&message.id);
            if let Some(entry) = self.lock().events.get_mut(key) {
                entry.message.clone_from(&id);
            }
        }
        if !over && id == message.id {
            match engine.accept(vec![message]).pop() {
                Some(Acceptance::Accepted { .. } | Acceptance::Pending) => {}
                Some(Acceptance::Finished) => self.end(&event.channel(), &[id]),
                Some(Acceptance::Skipped(why)) => {
                    self.drop_event(key);
                    return Err(event.rejected(Refused::new("not_accepted", why)));
                }
                Some(Acceptance::Refused(why)) => {
                    self.drop_event(key);
                    return Err(event.rejected(Refused::new("dispatch_failed", why)));
                }
                None => return Err(event.rejected(Refused::new("dispatch_failed", "the message was lost"))),
            }
        }
        let end = Instant::now() + LIMIT;
        let mut state = self.lock();
        loop {
            match state.events.get(key) {
                Some(entry) if entry.over => return Ok(Some(entry.result())),
                Some(_) => {}
                None => return Ok(Some(event.result(&[]))),
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = format!("its turn has not ended within {} minutes", LIMIT.as_secs() / 60);
                return Err(event.rejected(Refused::new("dispatch_failed", why)));
            }
            state = self.over.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn drop_event(&self, key: &str) {
        self.lock().events.remove(key);
        self.journal.append_behind(Record::Forget { key: format!("{NOTE}{key}") });
    }

    /// Forgets what is too old, and what is too much.
    fn forget(&self, state: &mut State) {
        let now = now_ms();
        let mut size: usize = state.events.values().map(Entry::size).sum();
        let mut over: Vec<(i64, String)> =
            state.events.values().filter(|e| e.over || e.at < now - AGE_MS).map(|e| (e.at, key(&e.event))).collect();
        sort::sort(&mut over);
        for (at, key) in over {
            if at >= now - AGE_MS && size <= SAID && state.events.len() < MOST {
                break;
            }
            if let Some(gone) = state.events.remove(&key) {
                size -= gone.size();
                self.journal.append_behind(Record::Forget { key: format!("{NOTE}{key}") });
            }
        }
    }

    /// What an agent says goes to the event that its turn is for.
    fn say(&self, channel: &str, out: &Outbound) -> Delivery {
        let mut state = self.lock();
        let by_turn = state.turns.get(&out.turn_id).cloned();
        let answers = |entry: &&Entry| {
            entry.event.channel() == channel
                && !entry.over
                && (out.trace_id.is_some() && entry.event.trace == out.trace_id
                    || out.reply_to.as_deref() == Some(&entry.reply_target))
        };
        let by_words = || state.events.values().find(answers).map(|entry| key(&entry.event));
        let Some(entry) = by_turn.or_else(by_words).and_then(|key| state.events.get_mut(&key)) else {
            return Delivery::Permanent { why: "the event is over or forgotten".into() };
        };
        let id = entry.event.trace.clone();
        let known = entry.said.iter().any(|(known, _)| *known == out.id);
        if !known {
            let room = SAID_FOR_ONE.saturating_sub(entry.said.iter().map(|(_, text)| text::len_utf16(text)).sum());
            entry.said.push((out.id.clone(), text::clip(&out.text, room)));
        }
        let ticket = self.journal.append(entry.record());
        drop(state);
        match ticket.wait() {
            Ok(()) => Delivery::Delivered { id },
            Err(e) => Delivery::Transient { after: None, why: e.to_string() },
        }
    }

    /// Messages of a channel are over.
    fn end(&self, channel: &str, ids: &[String]) {
        let mut state = self.lock();
        let State { events, turns, .. } = &mut *state;
        for entry in events.values_mut().filter(|e| !e.over && e.event.channel() == channel && ids.contains(&e.message))
        {
            entry.over = true;
            let ended = key(&entry.event);
            turns.retain(|_, event| *event != ended);
            self.journal.append_behind(entry.record());
        }
        drop(state);
        self.over.notify_all();
    }
}

impl TurnObserver for Ingress {
    fn event(&self, event: &TurnEvent<'_>) {
        let TurnEvent::Started { message, turn_id, .. } = event else { return };
        if !message.channel.starts_with(PREFIX) {
            return;
        }
        let mut state = self.lock();
        let of = |entry: &&Entry| entry.event.channel() == message.channel && entry.message == message.id;
        let key = state.events.values().find(of).map(|entry| key(&entry.event));
        if let Some(key) = key {
            state.turns.insert((*turn_id).to_owned(), key);
        }
    }
}

/// The channel of one gateway. It reaches nobody: what is said through it is kept for the hub.
struct Gateway {
    id: String,
    provider: String,
    ingress: Arc<Ingress>,
}

impl Gateway {
    fn new(ingress: &Arc<Ingress>, event: &Event) -> Self {
        Self { id: event.channel(), provider: text::clip(&event.provider, 64), ingress: Arc::clone(ingress) }
    }

    /// The agent's own channel, which knows more of it.
    fn own(&self, agent: &str) -> Option<Arc<dyn Channel>> {
        self.ingress.engine.get()?.upgrade()?.channel(agent)
    }
}

impl Channel for Gateway {
    fn id(&self) -> &str {
        &self.id
    }

    fn kind(&self) -> &str {
        &self.provider
    }

    fn capabilities(&self) -> Capabilities {
        // Each event wants an answer of its own.
        Capabilities { typing: true, ..Capabilities::default() }
    }

    fn is_waited_at(&self) -> bool {
        true
    }

    fn send(&self, message: &Outbound) -> Delivery {
        self.ingress.say(&self.id, message)
    }

    fn typing(&self, message: &Inbound) -> Result<(), String> {
        let state = self.ingress.lock();
        let of = |entry: &&Entry| entry.event.channel() == self.id && entry.message == message.id && !entry.over;
        if let (Some(entry), Some(link)) = (state.events.values().find(of), self.ingress.link.get()) {
            let params = Some(entry.event.typing());
            let frame = event_frame("cgrs", "cloud_gateway_runtime_status", now_ms(), crypto::random(), params);
            link.tell_now(&format!("typing:{}", key(&entry.event)), frame);
        }
        Ok(())
    }

    fn settled(&self, settled: &Settled) {
        self.ingress.end(&self.id, &settled.ids);
    }

    fn policies(&self) -> Option<&dyn PolicySource> {
        Some(&Announced)
    }

    fn display_name(&self, agent: &str) -> Option<String> {
        self.own(agent)?.display_name(agent)
    }

    fn hub_url(&self, agent: &str) -> Option<String> {
        self.own(agent)?.hub_url(agent)
    }
}
