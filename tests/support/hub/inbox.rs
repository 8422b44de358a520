//! The inbox: claims with a lease, renewals, acknowledgements, and what time does to them.

use serde_json::{Value, json};

use super::clock;
use super::deliver::{self, Parcel};
use super::http::{Reply, Request};
use super::state::{Source, State, World};
use super::strict::object;
use super::violations::Rule;

/// What a poll asks for.
pub struct Poll {
    pub limit: usize,
    pub acknowledge: bool,
    pub timeout_ms: i64,
    pub room: Option<String>,
}

/// Reads the parameters of a poll.
pub fn poll(world: &mut World, request: &Request) -> Result<Poll, Reply> {
    let number = |name: &str, default: i64, range: std::ops::RangeInclusive<i64>| match request.parameter(name) {
        None => Ok(default),
        Some(text) => match text.parse::<i64>() {
            Ok(value) if range.contains(&value) => Ok(value),
            Ok(_) => Err(Reply::invalid("query", name, "less_than_equal")),
            Err(_) => Err(Reply::invalid("query", name, "int_parsing")),
        },
    };
    let limit = number("limit", 10, 1..=50)?;
    let timeout = number("timeout", 0, 0..=30)?;
    let acknowledge = match request.parameter("ack") {
        None | Some("true" | "1") => true,
        Some("false" | "0") => false,
        Some(_) => return Err(Reply::invalid("query", "ack", "bool_parsing")),
    };
    if acknowledge || limit != 50 {
        world.violate(Rule::PollParameters, format!("limit {limit}, ack {acknowledge}"));
    }
    let room = request.parameter("room_id").map(str::to_owned);
    Ok(Poll { limit: limit as usize, acknowledge, timeout_ms: timeout * 1000, room })
}

/// Whether a poll would get anything.
pub fn has_mail(world: &mut World, agent: &str, poll: &Poll) -> bool {
    expire(world, agent);
    !candidates(world, agent, poll, 1).is_empty()
}

fn candidates(world: &World, agent: &str, poll: &Poll, count: usize) -> Vec<usize> {
    let queued = world.queued.get(agent).into_iter().flatten().copied();
    let wanted = |copy: &usize| poll.room.is_none() || world.messages[world.copies[*copy].message].room == poll.room;
    queued.filter(wanted).take(count).collect()
}

/// Hands out what is queued.
pub fn claim(world: &mut World, agent: &str, poll: &Poll) -> Value {
    expire(world, agent);
    let mut found = candidates(world, agent, poll, poll.limit + 1);
    let has_more = found.len() > poll.limit;
    found.truncate(poll.limit);
    let lease_until = world.clock.now() + world.settings.lease.as_millis() as i64;
    let mut messages = Vec::new();
    for copy in found {
        world.set_state(copy, if poll.acknowledge { State::Delivered } else { State::Processing });
        let row = &mut world.copies[copy];
        row.lease_until = lease_until;
        row.handed += 1;
        row.handed_at.push(clock::real());
        messages.push(deliver::entry(world, &world.copies[copy]));
    }
    json!({"messages": messages, "count": messages.len(), "has_more": has_more})
}

/// Fails what has been queued longer than its sender wanted.
fn expire(world: &mut World, agent: &str) {
    let now = world.clock.now();
    let late: Vec<usize> = world.queued.get(agent).into_iter().flatten().copied().collect();
    for copy in late {
        let row = &world.copies[copy];
        let envelope = &world.messages[row.message].envelope;
        let ttl = envelope["ttl_sec"].as_i64().unwrap_or(3600);
        if now - row.created < ttl * 1000 {
            continue;
        }
        let (sender, msg_id) = (envelope["from"].clone(), envelope["msg_id"].clone());
        world.set_state(copy, State::Failed);
        world.copies[copy].last_error = Some("TTL_EXPIRED");
        let sender = sender.as_str().unwrap_or_default().to_owned();
        if world.agents.contains_key(&sender) && sender != agent {
            let payload = json!({"error": {"code": "TTL_EXPIRED", "message": "Message expired before delivery"}});
            notice(world, &sender, "error", &msg_id, payload);
        }
    }
}

/// A message of the hub itself, outside any room.
pub fn notice(world: &mut World, to: &str, kind: &str, reply_to: &Value, payload: Value) -> String {
    let msg_id = world.fresh_uuid();
    let envelope = json!({
        "v": "a2a/0.1", "msg_id": msg_id, "ts": world.clock.wall() / 1000, "from": "hub", "to": to, "type": kind,
        "reply_to": reply_to, "ttl_sec": 3600, "topic": null, "goal": null,
        "payload_hash": super::sign::payload_hash(&payload), "payload": payload,
        "sig": {"alg": "ed25519", "key_id": "hub", "value": ""}, "mentions": null, "trace_id": null,
    });
    let source = Source { kind: "agent", ..Source::default() };
    let receivers = vec![to.to_owned()];
    deliver::store(world, Parcel { envelope, room: None, receivers, mentioned: true, source, sent: false }).0
}

/// Everything claimed whose lease ran out (or all of it) is queued again.
pub fn sweep(world: &mut World, all_of: Option<&str>) {
    let now = world.clock.now();
    let over = |copy: &usize| match all_of {
        Some(agent) => world.copies[*copy].receiver == agent,
        None => world.copies[*copy].lease_until <= now,
    };
    let over: Vec<usize> = world.processing.iter().copied().filter(over).collect();
    for copy in over {
        world.set_state(copy, State::Queued);
        let receiver = world.copies[copy].receiver.clone();
        world.wake(&receiver);
    }
}

/// The ids of a body, with the copies they mean.
fn ids(world: &mut World, request: &Request, caller: &str) -> Result<Vec<(String, Option<usize>)>, Reply> {
    let body = object(world, request, &["message_ids"])?;
    let Some(Value::Array(ids)) = body.get("message_ids") else {
        return Err(Reply::invalid("body", "message_ids", "missing"));
    };
    let mut found = Vec::new();
    for id in ids {
        let Some(id) = id.as_str() else { return Err(Reply::invalid("body", "message_ids", "string_type")) };
        let copy = world.by_hub_id.get(id).copied();
        let copy = copy.filter(|copy| world.copies[*copy].receiver == caller);
        if copy.is_none_or(|copy| world.copies[copy].handed == 0) {
            world.violate(Rule::NeverHanded, format!("{caller} {}: {id}", request.path));
        }
        found.push((id.to_owned(), copy));
    }
    Ok(found)
}

pub fn ack(world: &mut World, request: &Request, caller: &str) -> Result<Reply, Reply> {
    let mut acked = 0;
    for (id, copy) in ids(world, request, caller)? {
        if let Some(mut probe) = world.journal_probe.take() {
            if !probe(&id) {
                world.violate(Rule::AckBeforeJournal, id.clone());
            }
            world.journal_probe = Some(probe);
        }
        let Some(copy) = copy.filter(|copy| !world.copies[*copy].state.is_settled()) else { continue };
        world.set_state(copy, State::Delivered);
        acked += 1;
    }
    Ok(Reply::json(200, &json!({"acked": acked})))
}

pub fn renew(world: &mut World, request: &Request, caller: &str) -> Result<Reply, Reply> {
    let until = world.clock.now() + world.settings.lease.as_millis() as i64;
    let mut renewed = 0;
    for (_, copy) in ids(world, request, caller)? {
        let Some(copy) = copy.filter(|copy| world.copies[*copy].state == State::Processing) else { continue };
        world.copies[copy].lease_until = until;
        renewed += 1;
    }
    Ok(Reply::json(200, &json!({"renewed": renewed})))
}
