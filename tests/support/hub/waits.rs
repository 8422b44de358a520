//! Waiting for what the daemon does, with a bound, and with words about what was there instead.

use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::handles::{AgentHandle, Hub};
use super::server::wait_for;
use super::speech::Said;
use super::state::{Message, State, Trace, World};

impl Hub {
    /// Waits until `look` finds something.
    pub fn wait_for<T>(&self, what: &str, look: impl FnMut(&World) -> Option<T>) -> T {
        self.wait_with(what, look, |world, limit| self.shared.wait(world, limit))
    }

    fn wait_with<'a, T>(
        &'a self,
        what: &str,
        mut look: impl FnMut(&World) -> Option<T>,
        mut wait: impl FnMut(MutexGuard<'a, World>, Duration) -> MutexGuard<'a, World>,
    ) -> T {
        let end = Instant::now() + self.patience();
        let mut world = self.shared.look();
        loop {
            if let Some(found) = look(&world) {
                return found;
            }
            let now = Instant::now();
            if now >= end {
                let instead = describe(&mut world);
                drop(world);
                panic!("{what}: waited {:?}; instead:\n{instead}", self.patience());
            }
            world = wait(world, end - now);
        }
    }

    /// Waits until it is so.
    pub fn wait_until(&self, what: &str, mut holds: impl FnMut(&World) -> bool) {
        self.wait_for(what, |world| holds(world).then_some(()));
    }

    /// Waits until the agent has a WebSocket.
    pub fn wait_connected(&self, agent: &AgentHandle) {
        let what = format!("{} is connected", agent.name);
        self.wait_until(&what, |world| world.conns.get(&agent.id).is_some_and(|conns| !conns.is_empty()));
    }

    /// Waits until the agent has no WebSocket.
    pub fn wait_disconnected(&self, agent: &AgentHandle) {
        let what = format!("{} is not connected", agent.name);
        self.wait_until(&what, |world| world.conns.get(&agent.id).is_none_or(Vec::is_empty));
    }

    /// Waits for the answer to something said: the message whose trace or quote names it. Nothing else wakes who
    /// waits so, and however many do cost the hub no more than one.
    pub fn wait_answer(&self, said: &Said) -> Value {
        let ids = [&said.msg_id, &said.hub_msg_id];
        let bell = {
            let bells = &mut self.shared.look().bells;
            let bell = bells.entry(said.msg_id.clone()).or_default().clone();
            bells.insert(said.hub_msg_id.clone(), bell.clone());
            bell
        };
        let first = |world: &World| answers(world, said).first().map(|message| message.envelope.clone());
        let what = format!("an answer to {}", said.msg_id);
        let answer = self.wait_with(&what, first, |world, limit| wait_for(&bell, world, limit));
        let mut world = self.shared.look();
        for id in ids {
            world.bells.remove(id);
        }
        answer
    }

    /// Waits for an answer, and returns its text.
    pub fn wait_text(&self, said: &Said) -> String {
        let answer = self.wait_answer(said);
        answer["payload"]["text"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits for a message of this agent in a room that holds this text; returns the envelope.
    pub fn wait_heard(&self, room: &str, from: &AgentHandle, text: &str) -> Value {
        self.wait_for(&format!("{} says {text:?} in {room}", from.name), |world| {
            let room = world.rooms.get(room)?;
            let messages = room.messages.iter().map(|index| &world.messages[*index]);
            let mut found = messages.filter(|m| m.sent && m.from == from.id && m.text.contains(text));
            found.next().map(|message| message.envelope.clone())
        })
    }

    /// Waits until nothing is expected of the daemon about this copy.
    pub fn wait_settled(&self, said: &Said) {
        self.wait_until(&format!("{} is acknowledged", said.hub_msg_id), |world| {
            world.copy(&said.hub_msg_id).is_some_and(|copy| copy.state.is_settled())
        });
    }

    /// Waits until a copy is in this state.
    pub fn wait_state(&self, said: &Said, state: State) {
        self.wait_until(&format!("{} is {}", said.hub_msg_id, state.word()), |world| {
            world.copy(&said.hub_msg_id).is_some_and(|copy| copy.state == state)
        });
    }

    /// Waits for the stream end of an owner's message; returns what streamed.
    pub fn wait_stream_end(&self, said: &Said) -> Trace {
        self.wait_for(&format!("the stream end of {}", said.hub_msg_id), |world| {
            world.traces.get(&said.hub_msg_id).filter(|trace| !trace.ended.is_empty()).cloned()
        })
    }

    /// Waits until every copy of every agent is settled.
    pub fn wait_all_settled(&self) {
        self.wait_until("every message is acknowledged", |world| {
            world.processing.is_empty() && world.queued.values().all(std::collections::BTreeSet::is_empty)
        });
    }
}

/// The answers to something said.
pub fn answers<'a>(world: &'a World, said: &Said) -> Vec<&'a Message> {
    let Some(room) = world.rooms.get(&said.room) else { return Vec::new() };
    let Some(copy) = world.copy(&said.hub_msg_id) else { return Vec::new() };
    // Only what came later can answer it.
    let later = room.messages.partition_point(|index| *index <= copy.message);
    let messages = room.messages[later..].iter().map(|index| &world.messages[*index]);
    let about = |message: &&Message| {
        message.sent
            && message.from == said.agent
            && (message.envelope["trace_id"] == said.hub_msg_id.as_str()
                || message.envelope["reply_to"] == said.msg_id.as_str())
    };
    messages.filter(about).collect()
}

/// The state of things, for a failure.
fn describe(world: &mut World) -> String {
    let mut out = String::new();
    let last = world.rows.len().saturating_sub(40);
    for row in &world.rows[last..] {
        let body: String = row.body.to_string().chars().take(160).collect();
        out += &format!("  {} {} → {} {body}\n", row.agent, row.line, row.status);
    }
    let open = world.copies.iter().filter(|copy| !copy.state.is_settled());
    for copy in open.take(20) {
        let (state, handed) = (copy.state.word(), copy.handed);
        out += &format!("  {} for {}: {state}, handed out {handed} times\n", copy.hub_msg_id, copy.receiver);
    }
    for (agent, conns) in &world.conns {
        out += &format!("  {agent}: {} sockets\n", conns.len());
    }
    for line in world.violations() {
        out += &format!("  broken rule {line}\n");
    }
    out
}
