//! Rooms and what can be looked up about them.

use serde_json::{Value, json};

use super::clock;
use super::http::{Reply, Request};
use super::live::member;
use super::state::{Member, Message, Room, World};
use super::strict::{measured, object, optional};

type Answer = Result<Reply, Reply>;

/// Makes a room; the first member owns it.
pub fn make(world: &mut World, name: &str, members: &[String]) -> String {
    let id = format!("rm_{}", world.fresh(12));
    let role = |n: usize| if n == 0 { "owner" } else { "member" };
    let members = members.iter().enumerate();
    let room = Room {
        id: id.clone(),
        name: name.to_owned(),
        members: members
            .map(|(n, id)| Member { id: id.clone(), role: role(n), muted: false, can_send: None })
            .collect(),
        default_send: true,
        created: world.clock.wall(),
        ..Room::default()
    };
    world.rooms.insert(id.clone(), room);
    id
}

pub fn create(world: &mut World, request: &Request, caller: &str) -> Answer {
    let known = ["name", "rule", "description", "member_ids", "slow_mode_seconds", "default_send"];
    let body = object(world, request, &known)?;
    let name = measured(&body, "name", 1, 128)?.to_owned();
    let rule = optional(&body, "rule")?.map(str::to_owned);
    let description = optional(&body, "description")?.unwrap_or_default().to_owned();
    let mut members = vec![caller.to_owned()];
    for id in body.get("member_ids").and_then(Value::as_array).into_iter().flatten() {
        let id = id.as_str().unwrap_or_default();
        if !world.agents.contains_key(id) && !world.people.contains_key(id) {
            return Err(Reply::coded(404, "unknown_agent"));
        }
        members.push(id.to_owned());
    }
    let id = make(world, &name, &members);
    let room = world.rooms.get_mut(&id).unwrap();
    (room.rule, room.description) = (rule, description);
    room.slow_mode = body.get("slow_mode_seconds").and_then(Value::as_i64);
    room.default_send = body.get("default_send").and_then(Value::as_bool).unwrap_or(true);
    Ok(Reply::json(201, &describe(world, &id)))
}

/// A room as its members see it.
pub fn describe(world: &World, id: &str) -> Value {
    let room = &world.rooms[id];
    let created = clock::iso(room.created, "");
    let members: Vec<Value> = room.members.iter().map(|m| describe_member(world, m, &created)).collect();
    let owner = room.members.iter().find(|m| m.role == "owner").or(room.members.first()).map(|m| m.id.as_str());
    let kind = if owner.is_some_and(|id| id.starts_with("hu_")) { "human" } else { "agent" };
    json!({
        "room_id": room.id, "name": room.name, "description": room.description, "rule": room.rule,
        "owner_id": owner, "owner_type": kind, "visibility": "private", "join_policy": "invite_only",
        "required_subscription_product_id": null, "max_members": null, "default_send": room.default_send,
        "default_invite": false, "allow_human_send": true, "slow_mode_seconds": room.slow_mode,
        "member_count": members.len(), "members": members, "created_at": created,
        "url": format!("{}/chats/messages/{}", world.origin, room.id),
    })
}

fn describe_member(world: &World, member: &Member, joined: &str) -> Value {
    let agent = world.agents.get(&member.id);
    let kind = if agent.is_some() { "agent" } else { "human" };
    let online = world.conns.get(&member.id).is_some_and(|conns| !conns.is_empty());
    json!({
        "agent_id": member.id, "participant_type": kind, "display_name": agent.map(|agent| &agent.name),
        "avatar_url": null, "role": member.role, "muted": member.muted, "can_send": member.can_send,
        "can_invite": null, "joined_at": joined, "online": online,
    })
}

pub fn room(world: &World, request: &Request, caller: &str) -> Answer {
    let id = request.segment(2);
    member(world, &id, caller)?;
    Ok(Reply::json(200, &describe(world, &id)))
}

pub fn mine(world: &World, caller: &str) -> Reply {
    let rooms = world.rooms.values().filter(|room| room.member(caller).is_some());
    let rooms: Vec<Value> = rooms.map(|room| describe(world, &room.id)).collect();
    Reply::json(200, &json!({"rooms": rooms}))
}

pub fn topics(world: &World, request: &Request, caller: &str) -> Answer {
    let id = request.segment(2);
    member(world, &id, caller)?;
    let topics = world.rooms[&id].topics.iter().map(|topic| {
        json!({"topic_id": topic.id, "room_id": id, "title": topic.title, "description": "",
            "status": topic.status, "goal": topic.goal, "message_count": topic.messages})
    });
    Ok(Reply::json(200, &json!({"topics": topics.collect::<Vec<_>>()})))
}

pub fn messages(world: &World, request: &Request, caller: &str) -> Answer {
    let id = request.segment(2);
    member(world, &id, caller)?;
    let limit = match request.parameter("limit").unwrap_or("20").parse::<usize>() {
        Ok(limit) if (1..=50).contains(&limit) => limit,
        Ok(_) => return Err(Reply::invalid("query", "limit", "less_than_equal")),
        Err(_) => return Err(Reply::invalid("query", "limit", "int_parsing")),
    };
    let all = &world.rooms[&id].messages;
    let place = |cursor: &str| {
        let copy = world.copy(cursor).ok_or_else(|| Reply::coded(400, "invalid_cursor"))?;
        all.iter().position(|m| *m == copy.message).ok_or_else(|| Reply::coded(400, "invalid_cursor"))
    };
    let range = match (request.parameter("before"), request.parameter("after")) {
        (Some(_), Some(_)) => return Err(Reply::coded(400, "before_after_exclusive")),
        (Some(before), None) => &all[..place(before)?],
        (None, Some(after)) => &all[place(after)? + 1..],
        (None, None) => &all[..],
    };
    let fits = |message: &&Message| {
        let topic = message.topic.as_ref().map(|(id, _)| id.as_str());
        request.parameter("topic_id").is_none_or(|id| topic == Some(id))
            && request.parameter("sender_id").is_none_or(|id| message.from == id)
    };
    let mut found = range.iter().rev().map(|index| &world.messages[*index]).filter(fits);
    let page: Vec<Value> = found.by_ref().take(limit).map(|message| line(world, message)).collect();
    let has_more = found.next().is_some();
    Ok(Reply::json(200, &json!({"messages": page, "has_more": has_more})))
}

fn line(world: &World, message: &Message) -> Value {
    let (topic_id, topic_title) = message.topic.clone().unzip();
    json!({
        "hub_msg_id": message.hub_msg_id, "from": message.from, "from_name": world.name_of(&message.from),
        "text": message.text, "type": message.envelope["type"], "ts": clock::iso(message.wall, "Z"),
        "topic_id": topic_id, "topic_title": topic_title,
    })
}

pub fn policy(world: &World, request: &Request, caller: &str) -> Answer {
    let room = request.parameter("room_id").unwrap_or_default();
    if !room.is_empty() {
        member(world, room, caller)?;
    }
    let policies = &world.agents[caller].policies;
    let known = policies.get(room).or_else(|| policies.get(""));
    let default = json!({"mode": "always", "keywords": [], "allowedSenderIds": []});
    let direct = room.starts_with("rm_dm_") || room.starts_with("rm_oc_");
    Ok(Reply::json(200, if direct { &default } else { known.unwrap_or(&default) }))
}
