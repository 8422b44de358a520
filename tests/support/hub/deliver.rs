//! Storing a message once per receiver, and telling the receivers.

use serde_json::{Value, json};

use super::state::{Copy, Message, Room, Source, State, Topic, World};
use super::{clock, sign};

/// A message on its way.
#[derive(Default)]
pub struct Parcel {
    pub envelope: Value,
    pub room: Option<String>,
    pub receivers: Vec<String>,
    /// Receivers that are told so, whatever the mentions say.
    pub mentioned: bool,
    pub source: Source,
    /// Whether it came over the wire.
    pub sent: bool,
}

/// Kinds by the room's name.
pub fn is_owner_chat(room: &str) -> bool {
    room.starts_with("rm_oc_")
}

/// The id of the owner chat of a user and an agent.
pub fn owner_room_id(user: &str, agent: &str, session: Option<&str>) -> String {
    let session = session.map(|key| format!(":session:{key}")).unwrap_or_default();
    format!("rm_oc_{}", &sign::sha256(format!("owner_chat:{user}:{agent}{session}").as_bytes())[..16])
}

/// The id of the direct room of two.
pub fn direct_room(a: &str, b: &str) -> String {
    format!("rm_dm_{}_{}", a.min(b), a.max(b))
}

/// Stores a parcel; returns the id of the first copy and the topic's id.
pub fn store(world: &mut World, parcel: Parcel) -> (String, Option<String>) {
    let envelope = parcel.envelope;
    let text_of = |field: &str| envelope[field].as_str().unwrap_or_default().to_owned();
    let (msg_id, from) = (text_of("msg_id"), text_of("from"));
    let topic = parcel.room.as_ref().and_then(|room| resolve_topic(world, room, &envelope));
    let topic_id = topic.as_ref().map(|(id, _)| id.clone());
    let message = match world.by_msg_id.get(&msg_id) {
        Some(known) => *known,
        None => {
            let message = Message {
                msg_id: msg_id.clone(),
                from: from.clone(),
                room: parcel.room.clone(),
                text: render(world, &envelope),
                topic,
                hub_msg_id: String::new(),
                at: clock::real(),
                wall: world.clock.wall(),
                shown: 0,
                sent: parcel.sent,
                envelope: envelope.clone(),
            };
            world.messages.push(message);
            for about in [text_of("trace_id"), text_of("reply_to")] {
                if let Some(bell) = world.bells.get(&about) {
                    bell.notify_all();
                }
            }
            let index = world.messages.len() - 1;
            world.by_msg_id.insert(msg_id.clone(), index);
            if let Some(room) = parcel.room.as_ref().and_then(|room| world.rooms.get_mut(room)) {
                room.messages.push(index);
                let now = world.clock.now();
                room.last_sent.insert(from.clone(), now);
            }
            index
        }
    };
    world.messages[message].shown += 1;
    let mut first = None;
    for receiver in parcel.receivers {
        let key = (msg_id.clone(), receiver.clone());
        if let Some(copy) = world.by_receiver.get(&key) {
            // Stored already: the receiver is told again, and the answer names a copy that is nowhere.
            let direct = parcel.room.as_deref().is_some_and(|room| room.starts_with("rm_dm_"));
            let known = world.copies[*copy].hub_msg_id.clone();
            let named = if direct { known } else { format!("h_{}", world.fresh(32)) };
            first.get_or_insert(named);
            world.wake(&receiver);
            continue;
        }
        let hub_msg_id = format!("h_{}", world.fresh(32));
        let mentions = envelope["mentions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mentioned = parcel.mentioned || mentions.iter().any(|m| m == "@all" || *m == receiver.as_str());
        // People read what they get at once.
        let agent = world.agents.contains_key(&receiver);
        let state = if agent { State::Queued } else { State::Delivered };
        let copy = Copy {
            hub_msg_id: hub_msg_id.clone(),
            receiver: receiver.clone(),
            message,
            state: State::Failed,
            created: world.clock.now(),
            lease_until: 0,
            handed: 0,
            handed_at: Vec::new(),
            delivered_at: None,
            acked_at: None,
            last_error: None,
            mentioned,
            source: parcel.source.clone(),
        };
        world.copies.push(copy);
        let index = world.copies.len() - 1;
        world.by_hub_id.insert(hub_msg_id.clone(), index);
        world.by_receiver.insert(key, index);
        world.set_state(index, state);
        if world.messages[message].hub_msg_id.is_empty() {
            world.messages[message].hub_msg_id.clone_from(&hub_msg_id);
        }
        first.get_or_insert(hub_msg_id);
        world.wake(&receiver);
    }
    (first.unwrap_or_default(), topic_id)
}

/// The room's topic with the envelope's title, made where there is none.
fn resolve_topic(world: &mut World, room: &str, envelope: &Value) -> Option<(String, String)> {
    let title = envelope["topic"].as_str().filter(|title| !title.is_empty())?.to_owned();
    let goal = envelope["goal"].as_str().map(str::to_owned);
    let id = format!("tp_{}", world.fresh(12));
    let room = world.rooms.get_mut(room)?;
    let at = match room.topics.iter().position(|topic| topic.title == title) {
        Some(at) => at,
        None => {
            let topic = Topic { id, title: title.clone(), goal: goal.clone(), status: "open", messages: 0 };
            room.topics.push(topic);
            room.topics.len() - 1
        }
    };
    let topic = &mut room.topics[at];
    topic.messages += 1;
    match envelope["type"].as_str() {
        Some("error") if topic.status == "open" => topic.status = "failed",
        Some("result") if topic.status == "open" => topic.status = "completed",
        Some("message") if goal.is_some() => {
            topic.status = "open";
            topic.goal = goal;
        }
        _ => {}
    }
    Some((topic.id.clone(), title))
}

/// The body of a message as the hub writes it for readers.
pub fn render(world: &World, envelope: &Value) -> String {
    let payload = &envelope["payload"];
    let word = |field: &str| payload[field].as_str().filter(|text| !text.is_empty());
    if envelope["type"] == "contact_request" {
        return word("message").unwrap_or("sent you a contact request.").to_owned();
    }
    let body = word("text").or(word("body")).or(word("message"));
    let mut text = body.map_or_else(|| payload.to_string(), str::to_owned);
    let attachments = payload["attachments"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !attachments.is_empty() {
        text += "\n【Attachments】";
    }
    for file in attachments {
        let name = file["filename"].as_str().unwrap_or("file");
        let size = file["size_bytes"].as_u64().map(|size| format!(", {size} bytes")).unwrap_or_default();
        let url = file["url"].as_str().unwrap_or_default();
        let origin = if url.starts_with("http") { "" } else { &world.origin };
        text += &format!("\n  📎 {name}{size}: {origin}{url}");
    }
    text
}

/// Who gets a copy of what this sender says in a room.
pub fn receivers(world: &World, room: &Room, from: &str) -> Vec<String> {
    let hears = |id: &str| world.agents.get(id).is_none_or(|agent| !agent.blocked.contains(from));
    let others = room.members.iter().filter(|m| m.id != from && !m.muted && hears(&m.id));
    let receivers: Vec<String> = others.map(|m| m.id.clone()).collect();
    if receivers.is_empty() { vec![from.to_owned()] } else { receivers }
}

/// The entry of a copy in an inbox.
pub fn entry(world: &World, copy: &Copy) -> Value {
    let message = &world.messages[copy.message];
    let room = message.room.as_ref().and_then(|id| world.rooms.get(id));
    let me = room.and_then(|room| room.member(&copy.receiver));
    let names: Vec<String> =
        room.into_iter().flat_map(|room| &room.members).map(|member| world.name_of(&member.id)).collect();
    let (topic_id, topic) = message.topic.clone().unzip();
    json!({
        "hub_msg_id": copy.hub_msg_id,
        "envelope": message.envelope,
        "text": message.text,
        "room_id": message.room,
        "room_name": room.map(|room| &room.name),
        "room_rule": room.and_then(|room| room.rule.as_ref()),
        "room_member_count": room.map(|room| room.members.len()),
        "room_member_names": room.map(|_| names),
        "my_role": me.map(|me| me.role),
        "my_can_send": room.zip(me).map(|(room, me)| may_post(room, me)),
        "topic": topic,
        "topic_id": topic_id,
        "goal": message.envelope["goal"],
        "delivery_note": null,
        "mentioned": copy.mentioned,
        "source_type": copy.source.kind,
        "source_user_id": copy.source.user_id,
        "source_user_name": copy.source.user_name,
        "source_session_kind": copy.source.session,
        "reply_preview": preview(world, message),
    })
}

/// Whether a member has the right to speak.
pub fn may_post(room: &Room, member: &super::state::Member) -> bool {
    member.role == "owner" || member.can_send.unwrap_or(member.role == "admin" || room.default_send)
}

fn preview(world: &World, message: &Message) -> Value {
    let Some(quoted) = message.envelope["reply_to"].as_str() else { return Value::Null };
    let Some(quoted) = find(world, quoted) else {
        return json!({"msg_id": quoted, "sender_id": null, "sender_display_name": null, "text_preview": null,
            "topic_id": null, "deleted": true});
    };
    let text: String = quoted.text.chars().take(120).collect();
    json!({"msg_id": quoted.msg_id, "sender_id": quoted.from, "sender_display_name": world.name_of(&quoted.from),
        "text_preview": text, "topic_id": quoted.topic.as_ref().map(|(id, _)| id), "deleted": false})
}

/// A message by its own id or that of a copy.
pub fn find<'a>(world: &'a World, id: &str) -> Option<&'a Message> {
    let index = match id.strip_prefix("h_") {
        Some(_) => world.copy(id)?.message,
        None => *world.by_msg_id.get(id)?,
    };
    Some(&world.messages[index])
}
