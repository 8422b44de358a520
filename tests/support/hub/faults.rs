//! What goes wrong on purpose: per endpoint, so many times or with a probability.

use std::time::Duration;

use serde_json::Value;

use super::endpoint::Endpoint;
use super::http::Reply;

/// One way to go wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The request waits first; other faults may follow.
    Delay(Duration),
    /// This in place of the answer; the request is not carried out.
    Answer(Reply),
    /// The connection ends before the body is read.
    DropBefore,
    /// The request is carried out, and the connection ends without an answer.
    DropAfter,
    /// The connection ends in the middle of the answer.
    DropHalfway,
    /// The body ends early, though its length is right for what is there.
    Truncate,
    /// The answer says to be of this type.
    ContentType(&'static str),
    /// Accepted, and never answered.
    Stall,
    /// Inbox: everything handed out to the agent and not settled is handed out again.
    Redeliver,
    /// Inbox: no messages, but there are said to be more.
    EmptyButMore,
    /// Inbox: this in the middle of the batch.
    Insert(Value),
    /// Inbox: the newest first.
    Reverse,
    /// Inbox: a count that is not theirs.
    WrongCount(u64),
    /// WebSocket: the upgrade is answered with this status.
    RefuseUpgrade(u16),
    /// WebSocket: `auth` is never answered.
    Silence,
    /// WebSocket: closed with this at once after `auth`.
    CloseAtAuth(u16, &'static str),
    /// WebSocket: this text after `auth_ok`.
    Text(String),
    /// WebSocket: a binary frame after `auth_ok`.
    Binary(Vec<u8>),
    /// WebSocket: nothing is sent after `auth_ok`, whatever comes.
    Mute,
}

impl Fault {
    /// A coded error.
    pub fn coded(status: u16, code: &str) -> Self {
        Self::Answer(Reply::coded(status, code))
    }

    /// A status with an empty body.
    pub fn status(status: u16) -> Self {
        Self::Answer(Reply { status, headers: Vec::new(), body: Vec::new() })
    }

    /// What a proxy says.
    pub fn html(status: u16) -> Self {
        let body = format!("<html><body><h1>{status}</h1></body></html>").into_bytes();
        Self::Answer(Reply { status, headers: vec![("Content-Type".into(), "text/html".into())], body })
    }

    /// 401, though the token is good.
    pub fn unauthorized() -> Self {
        Self::coded(401, "invalid_token")
    }

    /// 429 with this code and `Retry-After`.
    pub fn too_many(code: &str, retry_after: Option<&str>) -> Self {
        let reply = Reply::coded(429, code);
        Self::Answer(match retry_after {
            Some(value) => reply.with("Retry-After", value),
            None => reply,
        })
    }

    /// Whether the daemon may be unable to tell what the hub has seen.
    pub fn is_lossy(&self) -> bool {
        matches!(self, Self::DropBefore | Self::DropAfter | Self::DropHalfway | Self::Stall | Self::Delay(_))
    }
}

/// Where and how often.
pub struct Plan {
    pub endpoint: Endpoint,
    pub fault: Fault,
    /// Only requests of this agent.
    pub agent: Option<String>,
    /// How many more times; nothing for ever.
    pub left: Option<u32>,
    /// Of 1000 requests.
    pub per_mille: u64,
}

/// All plans, and the dice.
#[derive(Default)]
pub struct Faults {
    plans: Vec<Plan>,
    dice: u64,
    /// How often something went wrong on purpose.
    pub fired: u64,
}

impl Faults {
    pub fn seed(&mut self, seed: u64) {
        self.dice = seed;
    }

    pub fn add(&mut self, plan: Plan) {
        self.plans.push(plan);
    }

    pub fn clear(&mut self) {
        self.plans.clear();
    }

    /// What goes wrong with this request: any delays, and at most one other fault.
    pub fn take(&mut self, endpoint: Endpoint, agent: &str) -> Vec<Fault> {
        let mut taken = Vec::new();
        for plan in &mut self.plans {
            let ended = taken.last().is_some_and(|fault| !matches!(fault, Fault::Delay(_)));
            if ended || plan.endpoint != endpoint || plan.agent.as_deref().is_some_and(|a| a != agent) {
                continue;
            }
            self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if plan.left == Some(0) || (self.dice >> 33) % 1000 >= plan.per_mille {
                continue;
            }
            plan.left = plan.left.map(|left| left - 1);
            taken.push(plan.fault.clone());
        }
        self.fired += taken.len() as u64;
        taken
    }
}
