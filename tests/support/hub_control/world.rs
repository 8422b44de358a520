//! Everything that the hub knows.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::hub::clock;
use super::super::hub::http::Reply;
use super::super::hub::sign::sha256;
use super::sign::Signer;
use super::socket::Conn;

/// Life of a device code or a ticket, in milliseconds.
pub const CODE_LIFE: i64 = 600_000;
/// Life of an access token, in seconds.
pub const ACCESS_LIFE: i64 = 3600;

/// What goes wrong with the next request of an endpoint.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status and an error text.
    Status(u16),
    /// This status and body, once.
    Say(u16, Value),
    /// Read, and never answered.
    Hang,
    /// Carried out, and the connection ends without an answer.
    Close,
    /// Read, and the connection ends; nothing is carried out.
    Reset,
    /// Answered with something that is no JSON.
    Malformed,
    /// Answered after a while.
    Delay(Duration),
}

/// How an upgrade is refused whose caller has no right to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// With this status before the upgrade; the real hub says 403.
    Status(u16),
    /// Accepted, then closed with this.
    CloseWith(u16),
    /// Not answered at all.
    Silence,
}

/// A daemon that somebody has logged in, or a sandbox.
#[derive(Clone, Debug, Default)]
pub struct Instance {
    pub user: String,
    pub label: Option<String>,
    /// The refresh token that counts.
    pub refresh: String,
    pub revoked: bool,
    /// Its id in the cloud, and the launch that counts.
    pub cloud: Option<(String, String)>,
    pub last_seen: i64,
    /// As in the newest snapshot.
    pub runtimes: Option<Value>,
    pub skills: BTreeMap<String, Value>,
    /// Of the snapshot in `hello`.
    pub agents: Vec<Value>,
    /// What to provision in the cloud, by agent.
    pub provision: BTreeMap<String, Value>,
    /// Params of revocations that wait for it.
    pub revocations: VecDeque<Value>,
    /// It is to be removed once nothing waits for it.
    pub removing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodeState {
    Pending,
    Approved(String),
    Consumed,
    Denied,
}

#[derive(Clone, Debug)]
pub struct Code {
    /// What a person is shown.
    pub shown: String,
    pub state: CodeState,
    pub expires: i64,
}

#[derive(Clone, Debug)]
pub struct Ticket {
    pub user: String,
    pub instance: Option<String>,
    pub consumed: bool,
    pub expires: i64,
}

#[derive(Clone, Debug)]
pub struct Access {
    pub instance: String,
    pub expires: i64,
    /// Of a cloud token: the launch it was made for.
    pub launch: Option<String>,
}

/// A reservation of a cloud run.
#[derive(Clone, Debug)]
pub struct Run {
    pub instance: String,
    pub active: bool,
}

/// A request as it was answered.
#[derive(Clone, Debug)]
pub struct Row {
    pub at: i64,
    pub method: String,
    pub path: String,
    pub body: Value,
    pub status: u16,
}

/// A text that came over a socket.
#[derive(Clone, Debug)]
pub struct Heard {
    pub at: i64,
    pub instance: String,
    pub frame: Value,
}

pub struct World {
    pub origin: String,
    /// Added to the machine's time.
    pub offset: i64,
    pub interval: Value,
    /// `hub_url` in token answers, where it is another than the hub's own.
    pub told_url: Option<String>,
    pub refusal: Refusal,
    pub greet: Greet,
    pub signer: Signer,
    pub instances: BTreeMap<String, Instance>,
    pub codes: HashMap<String, Code>,
    pub tickets: HashMap<String, Ticket>,
    pub access: HashMap<String, Access>,
    pub runs: HashMap<String, Run>,
    /// Settled runs by idempotency key.
    pub usage: BTreeMap<String, Value>,
    pub uploads: Vec<(String, Vec<u8>)>,
    /// Policies by agent and room (empty: all rooms), and how often they were asked for.
    pub policies: HashMap<(String, String), Value>,
    pub policy_calls: usize,
    /// Agents that are being registered: public key and challenge.
    pub registering: HashMap<String, (Vec<u8>, String)>,
    pub files: HashMap<String, (Vec<u8>, bool)>,
    pub faults: HashMap<String, VecDeque<Fault>>,
    pub online: BTreeMap<String, Arc<Conn>>,
    /// Frames without an ack: by their id, with their instance, and the ack once it is there.
    pub sent: HashMap<String, (String, Option<Value>)>,
    pub heard: Vec<Heard>,
    pub rows: Vec<Row>,
    pub violations: Vec<String>,
    number: u64,
}

/// What the hub does with a fresh connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Greet {
    /// `hello` in the same segment as the answer to the upgrade.
    pub at_once: bool,
    /// No `hello`.
    pub silent: bool,
}

impl World {
    pub fn new() -> Self {
        Self {
            origin: String::new(),
            offset: 0,
            interval: json!(0.05),
            told_url: None,
            refusal: Refusal::Status(403),
            greet: Greet::default(),
            signer: Signer::numbered(1),
            instances: BTreeMap::new(),
            codes: HashMap::new(),
            tickets: HashMap::new(),
            access: HashMap::new(),
            runs: HashMap::new(),
            usage: BTreeMap::new(),
            uploads: Vec::new(),
            policies: HashMap::new(),
            policy_calls: 0,
            registering: HashMap::new(),
            files: HashMap::new(),
            faults: HashMap::new(),
            online: BTreeMap::new(),
            sent: HashMap::new(),
            heard: Vec::new(),
            rows: Vec::new(),
            violations: Vec::new(),
            number: 0,
        }
    }

    /// The hub's clock, Unix milliseconds.
    pub fn now(&self) -> i64 {
        clock::real() + self.offset
    }

    /// So many hex digits that were not given before.
    pub fn fresh(&mut self, digits: usize) -> String {
        self.number += 1;
        sha256(format!("{} {}", self.origin, self.number).as_bytes()).chars().take(digits).collect()
    }

    pub fn fresh_uuid(&mut self) -> String {
        let hex = self.fresh(32);
        format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
    }

    pub fn violate(&mut self, what: String) {
        self.violations.push(what);
    }

    /// A new instance of a user.
    pub fn instance(&mut self, user: &str, label: Option<String>) -> String {
        let id = format!("dm_{}", self.fresh(12));
        self.instances.insert(id.clone(), Instance { user: user.to_owned(), label, ..Instance::default() });
        id
    }

    /// Fresh tokens for an instance, as the object that every login answers. The old refresh token is spent.
    pub fn tokens(&mut self, id: &str) -> Value {
        let (access, refresh) = (format!("at_{}", self.fresh(40)), format!("drt_{}", self.fresh(64)));
        let expires = self.now() + ACCESS_LIFE * 1000;
        self.access.insert(access.clone(), Access { instance: id.to_owned(), expires, launch: None });
        let url = self.told_url.clone().unwrap_or_else(|| self.origin.clone());
        let instance = self.instances.get_mut(id).expect("tokens are for those who are there");
        instance.refresh.clone_from(&refresh);
        json!({
            "access_token": access, "refresh_token": refresh, "expires_in": ACCESS_LIFE, "user_id": instance.user,
            "daemon_instance_id": id, "hub_url": url,
        })
    }
}

/// A refusal with its text.
pub fn detail(status: u16, text: &str) -> Reply {
    Reply::json(status, &json!({"detail": text}))
}

/// 422: a body that is not what it has to be.
pub fn invalid(field: &str) -> Reply {
    Reply::invalid("body", field, "value_error")
}

/// A text of the body, of so many characters.
pub fn text<'a>(body: &'a Value, field: &str, least: usize, most: usize) -> Result<&'a str, Reply> {
    let fits = |text: &&str| (least..=most).contains(&text.chars().count());
    body[field].as_str().filter(fits).ok_or_else(|| invalid(field))
}
