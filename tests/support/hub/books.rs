//! The hub's books: what was said to whom, and what was stored as answer.

use std::collections::BTreeMap;

use serde_json::Value;

use super::handles::{AgentHandle, Hub};
use super::speech::Said;
use super::state::{Reaction, State, World};
use super::waits;

/// A copy, as a test compares it.
#[derive(Clone, Debug)]
pub struct Entry {
    pub said: Said,
    pub text: String,
    pub topic: Option<String>,
    pub state: State,
    /// How often it was handed out.
    pub handed: u32,
    /// Texts of its answers, in order.
    pub answers: Vec<String>,
    /// Stream ends of its trace.
    pub ends: usize,
}

/// A message that came over the wire.
#[derive(Clone, Debug)]
pub struct Sent {
    pub msg_id: String,
    pub from: String,
    pub room: String,
    pub envelope: Value,
    pub text: String,
    /// Requests that carried it.
    pub attempts: u32,
    /// How often people saw it.
    pub shown: u32,
    /// Real time, in milliseconds.
    pub at: i64,
}

/// Everything, in the order it was stored.
#[derive(Clone, Debug, Default)]
pub struct Books {
    pub entries: Vec<Entry>,
    pub sent: Vec<Sent>,
    /// Message ids that were tried and never stored, with the number of tries.
    pub tried: BTreeMap<String, u32>,
}

impl Hub {
    /// The books as they are.
    pub fn books(&self) -> Books {
        self.look(books)
    }

    /// What came over the wire into a room: envelopes, in order.
    pub fn heard(&self, room: &str) -> Vec<Value> {
        self.look(|world| {
            let messages = world.rooms[room].messages.iter().map(|index| &world.messages[*index]);
            messages.filter(|message| message.sent).map(|message| message.envelope.clone()).collect()
        })
    }

    /// Stream blocks of an owner's message: the `block` members, in order of arrival.
    pub fn blocks(&self, said: &Said) -> Vec<Value> {
        self.look(|world| {
            let trace = world.traces.get(&said.hub_msg_id);
            trace.into_iter().flat_map(|trace| &trace.blocks).map(|(body, _)| body["block"].clone()).collect()
        })
    }

    /// How often an agent was seen typing in a room.
    pub fn typings(&self, agent: &AgentHandle, room: &str) -> Vec<i64> {
        self.look(|world| {
            let typing = world.rooms[room].typing.iter();
            typing.filter(|(who, _)| *who == agent.id).map(|(_, at)| *at).collect()
        })
    }

    /// Reactions to a message, in order.
    pub fn reactions(&self, msg_id: &str) -> Vec<Reaction> {
        self.look(|world| world.reactions.iter().filter(|r| r.msg_id == msg_id).cloned().collect())
    }

    /// What the agent told its owner through notices.
    pub fn notified(&self, agent: &AgentHandle) -> Vec<String> {
        self.look(|world| world.agents[&agent.id].notified.clone())
    }

    /// The state of a copy.
    pub fn state(&self, said: &Said) -> State {
        self.look(|world| world.copy(&said.hub_msg_id).expect("it was said").state)
    }

    /// How often a copy was handed out.
    pub fn handed(&self, said: &Said) -> u32 {
        self.look(|world| world.copy(&said.hub_msg_id).expect("it was said").handed)
    }
}

fn books(world: &World) -> Books {
    let entries = world.copies.iter().filter(|copy| world.agents.contains_key(&copy.receiver)).map(|copy| {
        let message = &world.messages[copy.message];
        let said = Said {
            hub_msg_id: copy.hub_msg_id.clone(),
            msg_id: message.msg_id.clone(),
            room: message.room.clone().unwrap_or_default(),
            agent: copy.receiver.clone(),
        };
        Entry {
            answers: waits::answers(world, &said).into_iter().map(|answer| answer.text.clone()).collect(),
            ends: world.traces.get(&copy.hub_msg_id).map_or(0, |trace| trace.ended.len()),
            said,
            text: message.text.clone(),
            topic: message.topic.as_ref().map(|(_, title)| title.clone()),
            state: copy.state,
            handed: copy.handed,
        }
    });
    let sent = world.messages.iter().filter(|message| message.sent).map(|message| Sent {
        msg_id: message.msg_id.clone(),
        from: message.from.clone(),
        room: message.room.clone().unwrap_or_default(),
        envelope: message.envelope.clone(),
        text: message.text.clone(),
        attempts: world.attempts.get(&message.msg_id).map_or(0, |attempt| attempt.count),
        shown: message.shown,
        at: message.at,
    });
    let unknown = world.attempts.iter().filter(|(id, _)| !world.by_msg_id.contains_key(*id));
    Books {
        entries: entries.collect(),
        sent: sent.collect(),
        tried: unknown.map(|(id, attempt)| (id.clone(), attempt.count)).collect(),
    }
}
