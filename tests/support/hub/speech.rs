//! Who says what: agents, people, the owner, and the hub itself.

use serde_json::{Value, json};

use super::deliver::{self, Parcel};
use super::handles::{AgentHandle, Hub};
use super::state::{Member, Room, Source, Trace, World};
use super::{inbox, send};

/// Something that was said to an agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Said {
    /// Of the agent's copy; the trace of an owner chat.
    pub hub_msg_id: String,
    pub msg_id: String,
    /// Empty outside rooms.
    pub room: String,
    /// Whose copy it is.
    pub agent: String,
}

/// What a message has besides its text.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    pub topic: Option<String>,
    pub goal: Option<String>,
    pub reply_to: Option<String>,
    /// Ids, or `@all`.
    pub mentions: Vec<String>,
    /// Members of the payload besides `text`.
    pub payload: Value,
    pub ttl_sec: Option<i64>,
    /// Type of the envelope, where it is no `message`.
    pub kind: Option<&'static str>,
    /// The signature is not over this message.
    pub forged: bool,
}

impl Hub {
    /// The id of an agent's owner chat, made on first use.
    pub fn owner_room(&self, agent: &AgentHandle) -> String {
        self.change(|world| owner_room(world, &agent.id, None))
    }

    /// The owner writes to the agent.
    pub fn owner_says(&self, agent: &AgentHandle, text: &str) -> Said {
        self.owner_says_more(agent, None, json!({"text": text}))
    }

    /// The owner writes with attachments, or in a chat of its own (`session`).
    pub fn owner_says_more(&self, agent: &AgentHandle, session: Option<&str>, payload: Value) -> Said {
        let source = Source { kind: "dashboard_user_chat", session: Some("owner_chat"), ..Source::default() };
        self.change(|world| {
            let room = owner_room(world, &agent.id, session);
            in_own_room(world, agent, &room, "message", "dashboard", payload, source)
        })
    }

    /// A cloud run begins: `run` is the payload's `cloud_run`.
    pub fn cloud_run(&self, agent: &AgentHandle, text: &str, run: Value) -> Said {
        let source = Source { kind: "cloud_agent_run", session: Some("cloud_run"), ..Source::default() };
        self.change(|world| {
            let room = owner_room(world, &agent.id, None);
            let payload = json!({"text": text, "cloud_run": run});
            in_own_room(world, agent, &room, "cloud_run", "cloud-run", payload, source)
        })
    }

    /// An agent says something in a room; returns the message id.
    pub fn says(&self, from: &AgentHandle, room: &str, text: &str) -> String {
        self.says_more(from, room, text, Extra::default())
    }

    /// An agent says something in a room, with a topic, a quote, mentions, a broken signature.
    pub fn says_more(&self, from: &AgentHandle, room: &str, text: &str, extra: Extra) -> String {
        self.change(|world| {
            let mut envelope = envelope(world, &from.id, room, extra.kind.unwrap_or("message"), text, &extra);
            from.seed.seal(&mut envelope, &from.key_id);
            if extra.forged {
                envelope["sig"]["value"] = from.seed.sign(b"something else").into();
            }
            let msg_id = envelope["msg_id"].as_str().unwrap().to_owned();
            let receivers = deliver::receivers(world, &world.rooms[room], &from.id);
            let source = Source { kind: "agent", ..Source::default() };
            let mentioned = room.starts_with("rm_dm_");
            let room = Some(room.to_owned());
            deliver::store(world, Parcel { envelope, room, receivers, mentioned, source, sent: false });
            msg_id
        })
    }

    /// An agent writes to another one; the direct room is made on first use.
    pub fn writes_to(&self, from: &AgentHandle, to: &AgentHandle, text: &str) -> Said {
        let room = deliver::direct_room(&from.id, &to.id);
        self.change(|world| send::open_direct(world, &room, &from.id, &to.id));
        let msg_id = self.says(from, &room, text);
        self.copy_of(&msg_id, to)
    }

    /// A person says something in a room; returns the message id.
    pub fn person_says(&self, person: &str, room: &str, text: &str, extra: Extra) -> String {
        let name = self.look(|world| world.name_of(person));
        self.speaks(person, &name, room, text, extra, "dashboard_human_room", "dashboard-human")
    }

    /// A person speaks in a room as an agent; that agent gets a copy, too.
    pub fn person_says_as(&self, person: &str, agent: &AgentHandle, room: &str, text: &str) -> String {
        let name = self.look(|world| world.name_of(person));
        let extra = Extra::default();
        self.speaks(&agent.id, &name, room, text, extra, "dashboard_human_room", "dashboard-human")
    }

    /// A payment is told in a room.
    pub fn payment_notice(&self, payer: &str, room: &str, text: &str) -> String {
        self.speaks(payer, "", room, text, Extra::default(), "wallet_transfer_notice", "wallet")
    }

    #[expect(clippy::too_many_arguments, reason = "one place for three kinds of speech")]
    fn speaks(
        &self,
        from: &str,
        name: &str,
        room: &str,
        text: &str,
        extra: Extra,
        kind: &'static str,
        key: &str,
    ) -> String {
        self.change(|world| {
            let mut envelope = envelope(world, from, room, "message", text, &extra);
            unsigned(&mut envelope, key);
            let msg_id = envelope["msg_id"].as_str().unwrap().to_owned();
            let members = &world.rooms[room].members;
            // Whoever a person speaks as hears it, too.
            let receivers: Vec<String> =
                members.iter().filter(|m| m.id != from || m.id.starts_with("ag_")).map(|m| m.id.clone()).collect();
            let user_name = Some(name.to_owned()).filter(|name| !name.is_empty());
            let source = Source { kind, session: Some("room_human"), user_id: None, user_name };
            let mentioned = room.starts_with("rm_dm_");
            let room = Some(room.to_owned());
            deliver::store(world, Parcel { envelope, room, receivers, mentioned, source, sent: false });
            msg_id
        })
    }

    /// Someone wants to be a contact: arrives without a room.
    pub fn contact_request(&self, from: &AgentHandle, to: &AgentHandle, message: &str) -> Said {
        let msg_id = self.change(|world| {
            let extra = Extra { payload: json!({"message": message}), ..Extra::default() };
            let mut envelope = envelope(world, &from.id, &to.id, "contact_request", "", &extra);
            from.seed.seal(&mut envelope, &from.key_id);
            let msg_id = envelope["msg_id"].as_str().unwrap().to_owned();
            let source = Source { kind: "agent", ..Source::default() };
            let receivers = vec![to.id.clone()];
            deliver::store(world, Parcel { envelope, room: None, receivers, mentioned: true, source, sent: false });
            msg_id
        });
        self.copy_of(&msg_id, to)
    }

    /// A receipt (`ack`, `result`, `error`) of another agent for a message that was sent to it.
    pub fn receipt(&self, from: &AgentHandle, kind: &str, original: &str) {
        self.change(|world| {
            let extra = Extra { reply_to: Some(original.to_owned()), payload: json!({}), ..Extra::default() };
            let mut envelope = envelope(world, &from.id, "hub", kind, "", &extra);
            from.seed.seal(&mut envelope, &from.key_id);
            send::acknowledge(world, original, &envelope).expect("the original was sent to it");
        });
    }

    /// A notice of the hub itself: an error, a system message, an answer to a contact request.
    pub fn notice(&self, to: &AgentHandle, kind: &str, payload: Value) -> Said {
        let id = self.change(|world| inbox::notice(world, &to.id, kind, &Value::Null, payload));
        self.look(|world| said(world, &id))
    }

    /// Puts any envelope and room into an agent's inbox.
    pub fn drops(&self, to: &AgentHandle, envelope: Value, room: Option<&str>, source: Source) -> Said {
        let id = self.change(|world| {
            let receivers = vec![to.id.clone()];
            let room = room.map(str::to_owned);
            deliver::store(world, Parcel { envelope, room, receivers, mentioned: false, source, sent: false }).0
        });
        self.look(|world| said(world, &id))
    }

    /// An agent's copy of a message.
    pub fn copy_of(&self, msg_id: &str, agent: &AgentHandle) -> Said {
        self.look(|world| {
            let copy = world.by_receiver.get(&(msg_id.to_owned(), agent.id.clone()));
            let copy = copy.unwrap_or_else(|| panic!("{} has no copy of {msg_id}", agent.name));
            said(world, &world.copies[*copy].hub_msg_id)
        })
    }
}

fn said(world: &World, hub_msg_id: &str) -> Said {
    let copy = world.copy(hub_msg_id).expect("it was stored");
    let message = &world.messages[copy.message];
    Said {
        hub_msg_id: hub_msg_id.to_owned(),
        msg_id: message.msg_id.clone(),
        room: message.room.clone().unwrap_or_default(),
        agent: copy.receiver.clone(),
    }
}

/// The room of an agent and its owner.
pub fn owner_room(world: &mut World, agent: &str, session: Option<&str>) -> String {
    let (user, human) = world.agents[agent].owner.clone().expect("the agent has an owner");
    let id = deliver::owner_room_id(&user, agent, session);
    if !world.rooms.contains_key(&id) {
        let member = |id: &str, role| Member { id: id.to_owned(), role, muted: false, can_send: None };
        let room = Room {
            id: id.clone(),
            name: world.name_of(agent),
            members: vec![member(agent, "owner"), member(&human, "member")],
            default_send: true,
            created: world.clock.wall(),
            ..Room::default()
        };
        world.rooms.insert(id.clone(), room);
    }
    id
}

/// A message from an agent to itself, as owners and cloud runs send it.
fn in_own_room(
    world: &mut World,
    agent: &AgentHandle,
    room: &str,
    kind: &str,
    key: &str,
    payload: Value,
    mut source: Source,
) -> Said {
    let (user, human) = world.agents[&agent.id].owner.clone().expect("the agent has an owner");
    (source.user_id, source.user_name) = (Some(user), Some(world.name_of(&human)));
    let extra = Extra { payload, ..Extra::default() };
    let mut envelope = envelope(world, &agent.id, &agent.id, kind, "", &extra);
    unsigned(&mut envelope, key);
    let receivers = vec![agent.id.clone()];
    let room = room.to_owned();
    let parcel = Parcel { envelope, room: Some(room.clone()), receivers, mentioned: true, source, sent: false };
    let (id, _) = deliver::store(world, parcel);
    let trace = Trace { agent: agent.id.clone(), room, ..Trace::default() };
    world.traces.insert(id.clone(), trace);
    said(world, &id)
}

fn envelope(world: &mut World, from: &str, to: &str, kind: &str, text: &str, extra: &Extra) -> Value {
    let mut payload = if extra.payload.is_object() { extra.payload.clone() } else { json!({}) };
    if !text.is_empty() {
        payload["text"] = text.into();
    }
    let mentions = (!extra.mentions.is_empty()).then(|| extra.mentions.clone());
    json!({
        "v": "a2a/0.1", "msg_id": world.fresh_uuid(), "ts": world.clock.wall() / 1000, "from": from, "to": to,
        "type": kind, "reply_to": extra.reply_to, "ttl_sec": extra.ttl_sec.unwrap_or(3600), "topic": extra.topic,
        "goal": extra.goal, "payload": payload, "payload_hash": "", "sig": {}, "mentions": mentions,
        "trace_id": null,
    })
}

fn unsigned(envelope: &mut Value, key: &str) {
    envelope["sig"] = json!({"alg": "ed25519", "key_id": key, "value": ""});
}
