//! All that the hub knows, behind one lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar};

use serde_json::{Value, json};

use super::clock::{self, Clock};
use super::endpoint::Endpoint;
use super::faults::Faults;
use super::settings::Settings;
use super::sign;
use super::violations::{Ledger, Rule};
use super::ws::Conn;

/// An agent as the registry knows it.
#[derive(Default)]
pub struct Agent {
    pub id: String,
    pub name: String,
    pub bio: Option<String>,
    pub claimed: bool,
    pub claim_code: String,
    /// User id and human id of its person.
    pub owner: Option<(String, String)>,
    /// Tokens with a lower number are void.
    pub oldest_token: u64,
    pub nonces: HashSet<String>,
    /// Refreshes that are being answered.
    pub refreshing: u32,
    /// Why nobody may send to it.
    pub admission: Option<String>,
    pub blocked: BTreeSet<String>,
    /// By room; the empty room is the agent's own policy.
    pub policies: HashMap<String, Value>,
    pub sends: Window,
    pub sends_to: HashMap<String, Window>,
    pub typings: Window,
    pub typing_in: HashMap<String, i64>,
    pub notices: Window,
    /// Texts of `notify-owner`.
    pub notified: Vec<String>,
    pub contact_requests: BTreeSet<String>,
    /// Keys of requests, to tell retries: id, and its highest attempt.
    pub request_ids: HashMap<String, u32>,
}

/// Times of what counts against a limit of the last minute.
#[derive(Default)]
pub struct Window(VecDeque<i64>);

impl Window {
    /// Counts one more; where that is too much, the seconds until it is not.
    pub fn take(&mut self, now: i64, limit: usize) -> Result<(), i64> {
        while self.0.front().is_some_and(|at| now - at >= 60_000) {
            self.0.pop_front();
        }
        if self.0.len() >= limit {
            return Err(((self.0[0] + 60_000 - now + 999) / 1000).max(1));
        }
        self.0.push_back(now);
        Ok(())
    }
}

/// A signing key.
pub struct Key {
    pub agent: String,
    /// Base64.
    pub public: String,
    /// `pending`, `active`, `revoked`.
    pub state: &'static str,
}

/// What a key has to sign to become active.
pub struct Challenge {
    pub agent: String,
    pub key_id: String,
    pub until: i64,
    pub used: bool,
}

/// A bearer token.
pub struct Token {
    pub agent: String,
    pub number: u64,
    pub until: i64,
    /// Uses after it was replaced.
    pub late_uses: u32,
    /// Real time of its replacement.
    pub replaced_at: Option<i64>,
}

/// A member of a room.
#[derive(Clone, Debug)]
pub struct Member {
    pub id: String,
    pub role: &'static str,
    pub muted: bool,
    pub can_send: Option<bool>,
}

/// A topic of a room.
#[derive(Clone, Debug)]
pub struct Topic {
    pub id: String,
    pub title: String,
    pub goal: Option<String>,
    /// `open`, `completed`, `failed`.
    pub status: &'static str,
    pub messages: u64,
}

/// A room of any kind.
#[derive(Default)]
pub struct Room {
    pub id: String,
    pub name: String,
    pub description: String,
    pub rule: Option<String>,
    pub members: Vec<Member>,
    pub topics: Vec<Topic>,
    pub default_send: bool,
    pub slow_mode: Option<i64>,
    pub created: i64,
    /// Hash and time of each sender's previous payload.
    pub last_payload: HashMap<String, (String, i64)>,
    /// Time of each sender's last message.
    pub last_sent: HashMap<String, i64>,
    /// Indices of its messages.
    pub messages: Vec<usize>,
    /// Agents that were seen typing, and the real time.
    pub typing: Vec<(String, i64)>,
}

impl Room {
    pub fn member(&self, id: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.id == id)
    }
}

/// A logical message, whoever got it.
#[derive(Clone, Debug)]
pub struct Message {
    pub msg_id: String,
    pub from: String,
    pub room: Option<String>,
    pub envelope: Value,
    pub text: String,
    /// Id and title.
    pub topic: Option<(String, String)>,
    /// Of its first copy.
    pub hub_msg_id: String,
    /// Real time it was stored.
    pub at: i64,
    /// By the wall clock.
    pub wall: i64,
    /// How often the room's people saw it.
    pub shown: u32,
    /// Whether it came over the wire.
    pub sent: bool,
}

/// State of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Queued,
    Processing,
    Delivered,
    Acked,
    Done,
    Failed,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Processing => "processing",
            Self::Delivered => "delivered",
            Self::Acked => "acked",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing is expected of a daemon any more.
    pub fn is_settled(self) -> bool {
        !matches!(self, Self::Queued | Self::Processing)
    }
}

/// One receiver's copy of a message.
#[derive(Clone, Debug)]
pub struct Copy {
    pub hub_msg_id: String,
    pub receiver: String,
    /// Index of the message.
    pub message: usize,
    pub state: State,
    pub created: i64,
    pub lease_until: i64,
    /// How often it was handed out.
    pub handed: u32,
    /// Real times it was handed out.
    pub handed_at: Vec<i64>,
    pub delivered_at: Option<i64>,
    pub acked_at: Option<i64>,
    pub last_error: Option<&'static str>,
    pub mentioned: bool,
    pub source: Source,
}

/// Who a message says it is by.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub kind: &'static str,
    pub session: Option<&'static str>,
    pub user_id: Option<String>,
    pub user_name: Option<String>,
}

/// A run of an owner chat.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    pub agent: String,
    pub room: String,
    /// Bodies of stream blocks, in the order of arrival, and their real times.
    pub blocks: Vec<(Value, i64)>,
    pub dropped: u32,
    pub last_seq: u64,
    /// Message ids of the answers and real times.
    pub answers: Vec<(String, i64)>,
    pub ended: Vec<i64>,
}

/// What is known of a message id that was sent.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    pub count: u32,
    /// Real times.
    pub times: Vec<i64>,
    /// Whether the sender may send it again as it is.
    pub may_repeat: bool,
}

/// A reaction that was set or cleared.
#[derive(Clone, Debug)]
pub struct Reaction {
    pub agent: String,
    pub msg_id: String,
    pub turn_id: String,
    pub set: bool,
    pub at: i64,
}

/// An uploaded file.
#[derive(Clone, Debug)]
pub struct File {
    pub id: String,
    pub name: String,
    pub content_type: String,
    pub bytes: Vec<u8>,
    pub until: i64,
    pub lost: bool,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Row {
    pub endpoint: Option<Endpoint>,
    pub agent: String,
    pub line: String,
    pub body: Value,
    pub attempt: String,
    pub request_id: String,
    /// Of the answer; 0 while there is none.
    pub status: u16,
    pub at: i64,
}

/// A life of a WebSocket, in real time.
#[derive(Clone, Debug)]
pub struct SocketRow {
    pub number: u64,
    pub agent: String,
    pub opened: i64,
    pub ready: Option<i64>,
    pub closed: Option<i64>,
    /// Of the client.
    pub pings: u32,
    /// Ping control frames of the hub.
    pub asked: u32,
}

/// Asked on every acknowledged id: whether the daemon's journal may hold it.
pub type JournalProbe = Box<dyn FnMut(&str) -> bool + Send>;

/// Everything.
#[derive(Default)]
pub struct World {
    pub settings: Settings,
    pub clock: Arc<Clock>,
    /// `http://127.0.0.1:<port>`.
    pub origin: String,
    pub ledger: Ledger,
    pub faults: Faults,
    pub agents: BTreeMap<String, Agent>,
    /// Names by human id.
    pub people: BTreeMap<String, String>,
    pub rooms: BTreeMap<String, Room>,
    pub keys: BTreeMap<String, Key>,
    pub challenges: HashMap<String, Challenge>,
    pub tokens: HashMap<String, Token>,
    pub messages: Vec<Message>,
    pub by_msg_id: HashMap<String, usize>,
    pub copies: Vec<Copy>,
    pub by_hub_id: HashMap<String, usize>,
    pub by_receiver: HashMap<(String, String), usize>,
    pub queued: HashMap<String, BTreeSet<usize>>,
    pub processing: BTreeSet<usize>,
    pub next_sweep: i64,
    pub traces: HashMap<String, Trace>,
    pub attempts: BTreeMap<String, Attempt>,
    pub reactions: Vec<Reaction>,
    pub files: BTreeMap<String, File>,
    pub receipts: Vec<Value>,
    pub rows: Vec<Row>,
    pub sockets: Vec<SocketRow>,
    pub conns: HashMap<String, Vec<Arc<Conn>>>,
    /// Rung when something was sent about a message; by its id and the id of its copy.
    pub bells: HashMap<String, Arc<Condvar>>,
    /// Frames to be written when the lock is free.
    pub pushes: Vec<(Arc<Conn>, String)>,
    pub journal_probe: Option<JournalProbe>,
    /// Until then (real time) the hub may have missed requests.
    pub lossy_until: i64,
    pub counter: u64,
}

impl World {
    /// A number that was not there before.
    pub fn number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// So many hex digits that were not there before.
    pub fn fresh(&mut self, digits: usize) -> String {
        let number = self.number();
        sign::sha256(format!("{} {number}", self.origin).as_bytes())[..digits].to_owned()
    }

    /// A new message id.
    pub fn fresh_uuid(&mut self) -> String {
        let hex = self.fresh(32);
        format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
    }

    /// Takes a violation down.
    pub fn violate(&mut self, rule: Rule, what: impl Into<String>) {
        self.ledger.add(rule, what.into());
    }

    /// Queues a frame for every socket of an agent.
    pub fn push(&mut self, agent: &str, frame: &Value) {
        for conn in self.conns.get(agent).into_iter().flatten() {
            self.pushes.push((conn.clone(), frame.to_string()));
        }
    }

    /// Tells an agent's sockets to poll.
    pub fn wake(&mut self, agent: &str) {
        self.push(agent, &json!({"type": "inbox_update"}));
    }

    /// The name of an agent, a person or the hub.
    pub fn name_of(&self, id: &str) -> String {
        self.agents.get(id).map(|a| &a.name).or_else(|| self.people.get(id)).cloned().unwrap_or_default()
    }

    /// The copy with this id.
    pub fn copy(&self, hub_msg_id: &str) -> Option<&Copy> {
        Some(&self.copies[*self.by_hub_id.get(hub_msg_id)?])
    }

    /// Changes the state of a copy and the lists that follow from it.
    pub fn set_state(&mut self, copy: usize, state: State) {
        let (wall, old) = (self.clock.wall(), self.copies[copy].state);
        let receiver = self.copies[copy].receiver.clone();
        match old {
            State::Queued => {
                self.queued.entry(receiver.clone()).or_default().remove(&copy);
            }
            State::Processing => {
                self.processing.remove(&copy);
            }
            _ => {}
        }
        match state {
            State::Queued => {
                self.queued.entry(receiver).or_default().insert(copy);
            }
            State::Processing => {
                self.processing.insert(copy);
            }
            State::Delivered => self.copies[copy].delivered_at = Some(wall),
            State::Acked | State::Done => self.copies[copy].acked_at = Some(wall),
            State::Failed => {}
        }
        self.copies[copy].state = state;
    }

    /// Violations, together with those that only time shows.
    pub fn violations(&mut self) -> Vec<String> {
        self.look_back();
        self.ledger.lines()
    }

    /// Finds what was not done in time.
    pub fn look_back(&mut self) {
        let real = clock::real();
        let mut found = Vec::new();
        for (id, trace) in &mut self.traces {
            let Some((answer, at)) = trace.answers.first() else { continue };
            let late = trace.ended.iter().all(|end| end - at > 5000);
            if late && real - at > 5000 {
                found.push((Rule::NoStreamEnd, format!("trace {id}, answer {answer}")));
                trace.ended.push(*at);
            }
        }
        for (n, one) in self.sockets.iter().enumerate() {
            for other in &self.sockets[n + 1..] {
                let (Some(_), Some(ready)) = (one.ready, other.ready) else { continue };
                // A killed client's socket takes a moment to end.
                if one.agent == other.agent && one.closed.unwrap_or(real) > ready + 2000 {
                    found.push((Rule::SecondSocket, format!("{}: {} beside {}", one.agent, other.number, one.number)));
                }
            }
        }
        self.ledger.take(Rule::SecondSocket);
        for (rule, what) in found {
            self.violate(rule, what);
        }
    }
}
