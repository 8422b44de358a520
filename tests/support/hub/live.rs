//! Live signs: stream blocks and their end, typing, reactions, notices to the owner.

use serde_json::{Value, json};

use super::clock;
use super::http::{Reply, Request};
use super::state::{Reaction, State, World};
use super::strict::{measured, object, text};
use super::violations::Rule;

/// Blocks that a trace keeps.
const BLOCKS: usize = 200;

type Answer = Result<Reply, Reply>;

fn trace_id(body: &serde_json::Map<String, Value>) -> Result<String, Reply> {
    measured(body, "trace_id", 1, 48).map(str::to_owned)
}

pub fn block(world: &mut World, request: &Request, caller: &str) -> Answer {
    let body = object(world, request, &["trace_id", "seq", "block"])?;
    let id = trace_id(&body)?;
    let Some(seq) = body.get("seq").and_then(Value::as_u64).filter(|seq| *seq >= 1) else {
        return Err(Reply::invalid("body", "seq", "greater_than_equal"));
    };
    let Some(block) = body.get("block").filter(|block| block.is_object()) else {
        return Err(Reply::invalid("body", "block", "dict_type"));
    };
    if block.get("raw").is_some() {
        world.violate(Rule::RawBlock, format!("trace {id}, block {seq}"));
    }
    let known = world.traces.get(&id).filter(|trace| trace.agent == caller);
    let Some(last) = known.map(|trace| trace.last_seq) else { return Ok(Reply::empty()) };
    if seq <= last || block["seq"] != seq {
        world.violate(Rule::BlockOrder, format!("trace {id}: {seq} ({}) after {last}", block["seq"]));
    }
    let trace = world.traces.get_mut(&id).unwrap();
    trace.last_seq = seq.max(last);
    if let Some((answer, _)) = trace.answers.first() {
        let ago = clock::real() - trace.answers[0].1;
        let what = format!("trace {id}: block {seq} {ago} ms after {answer}");
        trace.dropped += 1;
        world.violate(Rule::BlockAfterAnswer, what);
    } else if trace.blocks.len() < BLOCKS {
        trace.blocks.push((Value::Object(body), clock::real()));
    } else {
        trace.dropped += 1;
    }
    Ok(Reply::empty())
}

pub fn end(world: &mut World, request: &Request, caller: &str) -> Answer {
    let body = object(world, request, &["trace_id"])?;
    let id = trace_id(&body)?;
    if let Some(trace) = world.traces.get_mut(&id).filter(|trace| trace.agent == caller) {
        trace.ended.push(clock::real());
        let copy = world.by_hub_id[&id];
        if world.copies[copy].state != State::Failed {
            world.set_state(copy, State::Done);
        }
    }
    Ok(Reply::empty())
}

/// 404 and 403 where the caller is no member.
pub fn member(world: &World, room: &str, caller: &str) -> Result<(), Reply> {
    let Some(room) = world.rooms.get(room) else { return Err(Reply::coded(404, "room_not_found")) };
    if room.member(caller).is_none() {
        return Err(Reply::coded(403, "not_a_member"));
    }
    Ok(())
}

pub fn typing(world: &mut World, request: &Request, caller: &str) -> Answer {
    let body = object(world, request, &["room_id"])?;
    let id = text(&body, "room_id")?.to_owned();
    member(world, &id, caller)?;
    let (now, limits) = (world.clock.now(), world.settings.limits);
    let agent = world.agents.get_mut(caller).unwrap();
    if limits && agent.typings.take(now, 20).is_err() {
        world.violate(Rule::Pacing, format!("{caller}: typing"));
        return Err(Reply::plain(429, "Too many typing notifications"));
    }
    let last = agent.typing_in.insert(id.clone(), now);
    if last.is_some_and(|last| now - last < 2000) {
        agent.typing_in.insert(id, last.unwrap());
        return Ok(Reply::empty());
    }
    let name = agent.name.clone();
    let room = world.rooms.get_mut(&id).unwrap();
    room.typing.push((caller.to_owned(), clock::real()));
    let others: Vec<String> = room.members.iter().filter(|m| m.id != caller).map(|m| m.id.clone()).collect();
    let frame = json!({"type": "typing", "agent_id": caller, "room_id": id, "sender_name": name});
    for other in others {
        world.push(&other, &frame);
    }
    Ok(Reply::empty())
}

pub fn notify(world: &mut World, request: &Request, caller: &str) -> Answer {
    let body = object(world, request, &["text"])?;
    let text = measured(&body, "text", 1, 8000)?.to_owned();
    let (now, limits) = (world.clock.now(), world.settings.limits);
    let agent = world.agents.get_mut(caller).unwrap();
    if limits && agent.notices.take(now, 10).is_err() {
        world.violate(Rule::Pacing, format!("{caller}: notify-owner"));
        return Err(Reply::plain(429, "Too many notifications"));
    }
    if agent.owner.is_some() {
        agent.notified.push(text);
    }
    Ok(Reply::empty())
}

/// Room and message of a reaction.
fn target(world: &World, request: &Request, room: &str, caller: &str) -> Result<String, Reply> {
    member(world, room, caller)?;
    let msg_id = request.segment(2);
    let message = world.by_msg_id.get(&msg_id).map(|index| &world.messages[*index]);
    if message.is_none_or(|message| message.room.as_deref() != Some(room)) {
        return Err(Reply::coded(404, "message_not_found"));
    }
    Ok(msg_id)
}

pub fn react(world: &mut World, request: &Request, caller: &str) -> Answer {
    let body = object(world, request, &["room_id", "turn_id", "kind", "emoji", "ttl_sec"])?;
    let room = text(&body, "room_id")?.to_owned();
    let turn_id = measured(&body, "turn_id", 1, 128)?.to_owned();
    measured(&body, "emoji", 1, 16)?;
    if !body.get("ttl_sec").and_then(Value::as_i64).is_some_and(|ttl| (5..=1800).contains(&ttl)) {
        return Err(Reply::invalid("body", "ttl_sec", "less_than_equal"));
    }
    if text(&body, "kind")? != "replying" {
        return Err(Reply::plain(400, "Unsupported status kind"));
    }
    let msg_id = target(world, request, &room, caller)?;
    let at = clock::real();
    world.reactions.push(Reaction { agent: caller.to_owned(), msg_id, turn_id, set: true, at });
    Ok(Reply::empty())
}

pub fn unreact(world: &mut World, request: &Request, caller: &str) -> Answer {
    let body = object(world, request, &["room_id", "turn_id"])?;
    let room = text(&body, "room_id")?.to_owned();
    let turn_id = measured(&body, "turn_id", 1, 128)?.to_owned();
    let msg_id = target(world, request, &room, caller)?;
    // Ignored when another turn owns it.
    let owner = world.reactions.iter().rev().find(|r| r.agent == caller && r.msg_id == msg_id);
    if owner.is_some_and(|owner| owner.set && owner.turn_id == turn_id) {
        let at = clock::real();
        world.reactions.push(Reaction { agent: caller.to_owned(), msg_id, turn_id, set: false, at });
    }
    Ok(Reply::empty())
}
