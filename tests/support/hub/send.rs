//! `POST /hub/send`: the checks in their order, then what the target allows.

use serde_json::{Map, Value, json};

use super::clock;
use super::deliver::{self, Parcel, is_owner_chat, may_post};
use super::http::{Reply, Request};
use super::sign;
use super::state::{Member, Room, Source, World};
use super::strict::object;
use super::violations::Rule;

const TYPES: [&str; 10] = [
    "message",
    "contact_request",
    "result",
    "error",
    "cloud_run",
    "ack",
    "contact_request_response",
    "contact_removed",
    "system",
    "notification",
];
const FIELDS: [&str; 15] = [
    "v",
    "msg_id",
    "ts",
    "from",
    "to",
    "type",
    "reply_to",
    "ttl_sec",
    "topic",
    "goal",
    "payload",
    "payload_hash",
    "sig",
    "mentions",
    "trace_id",
];
/// Sends of an agent, and of an agent to one target, in a minute.
const LIMITS: (usize, usize) = (20, 10);
/// How long the same payload is not taken twice in a row.
const DUPLICATE_MS: i64 = 300_000;

type Answer = Result<Reply, Reply>;

/// Carries out a send of `caller`.
pub fn send(world: &mut World, request: &Request, caller: &str) -> Answer {
    let body = object(world, request, &[])?;
    let mut envelope = shape(&body)?;
    strictness(world, &body);
    let text = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default();
    let (from, to, kind) = (text("from"), text("to"), text("type"));
    if from != caller {
        return Err(Reply::coded(403, "sender_does_not_match_token"));
    }
    if !["message", "contact_request", "result", "error"].contains(&kind) {
        return Err(Reply::coded(400, "send_invalid_type"));
    }
    limits(world, from, to)?;
    authentic(world, &envelope)?;
    if envelope["topic"].is_null()
        && let Some(topic) = request.parameter("topic")
    {
        envelope["topic"] = topic.into();
    }
    let long = |field: &str, max: usize| envelope[field].as_str().is_some_and(|text| text.chars().count() > max);
    if long("topic", 256) || long("goal", 1024) {
        return Err(Reply::plain(500, "Internal Server Error"));
    }
    let (hub_msg_id, topic_id) =
        if to.starts_with("rm_") { to_room(world, envelope, to)? } else { to_agent(world, envelope, to)? };
    let body = json!({"queued": true, "hub_msg_id": hub_msg_id, "status": "queued", "topic_id": topic_id});
    Ok(Reply::json(202, &body))
}

/// The envelope with all its fields, or 422.
pub fn shape(body: &Map<String, Value>) -> Result<Value, Reply> {
    let bad = |field: &str, kind: &str| Err(Reply::invalid("body", field, kind));
    for field in ["v", "msg_id", "from", "to", "type", "payload_hash"] {
        match body.get(field) {
            Some(Value::String(_)) => {}
            None => return bad(field, "missing"),
            Some(_) => return bad(field, "string_type"),
        }
    }
    for field in ["reply_to", "topic", "goal", "trace_id"] {
        if body.get(field).is_some_and(|value| !value.is_null() && !value.is_string()) {
            return bad(field, "string_type");
        }
    }
    if !body["type"].as_str().is_some_and(|kind| TYPES.contains(&kind)) {
        return bad("type", "enum");
    }
    if body["msg_id"].as_str().is_some_and(|id| id.chars().count() > 64) {
        return bad("msg_id", "string_too_long");
    }
    if body.get("ts").is_none_or(|ts| !ts.is_i64()) {
        return bad("ts", "int_type");
    }
    if body.get("ttl_sec").and_then(Value::as_i64).is_none_or(|ttl| ttl < 1) {
        return bad("ttl_sec", "greater_than_equal");
    }
    if body.get("payload").is_none_or(|payload| !payload.is_object()) {
        return bad("payload", "dict_type");
    }
    let sig = body.get("sig").unwrap_or(&Value::Null);
    if sig["alg"] != "ed25519" || !sig["key_id"].is_string() || !sig["value"].is_string() {
        return bad("sig", "literal_error");
    }
    if body
        .get("mentions")
        .is_some_and(|m| !m.is_null() && !m.as_array().is_some_and(|m| m.iter().all(Value::is_string)))
    {
        return bad("mentions", "list_type");
    }
    let mut envelope = Map::new();
    for field in FIELDS {
        envelope.insert(field.to_owned(), body.get(field).cloned().unwrap_or(Value::Null));
    }
    Ok(Value::Object(envelope))
}

fn strictness(world: &mut World, body: &Map<String, Value>) {
    let id = body["msg_id"].as_str().unwrap_or_default().to_owned();
    for field in body.keys().filter(|field| !FIELDS.contains(&field.as_str())) {
        world.violate(Rule::Envelope, format!("{id}: {field}"));
    }
    if body.get("mentions").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        world.violate(Rule::Envelope, format!("{id}: empty mentions"));
    }
    if body["v"] != "a2a/0.1" {
        world.violate(Rule::Envelope, format!("{id}: version {}", body["v"]));
    }
    if !is_uuid_v4(&id) {
        world.violate(Rule::MsgId, id.clone());
    }
    let ts = body["ts"].as_i64().unwrap_or(0);
    let now = clock::real().min(world.clock.wall()) / 1000;
    if ts < now - 5 {
        world.violate(Rule::StaleTs, format!("{id}: {} s old", now - ts));
    }
    let attempt = world.attempts.entry(id.clone()).or_default();
    let (again, allowed) = (attempt.count > 0, attempt.may_repeat);
    attempt.count += 1;
    attempt.times.push(clock::real());
    attempt.may_repeat = false;
    if again && !allowed {
        world.violate(Rule::BlindRepeat, id);
    }
}

/// Takes down what an answer that went out means for the next try of the same message.
pub fn answered(world: &mut World, body: &[u8], reply: &Reply) {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(attempt) = body["msg_id"].as_str().and_then(|id| world.attempts.get_mut(id)) else { return };
    let waits = ["rate_limit_exceeded", "conversation_rate_limit_exceeded", "slow_mode_wait"];
    let mends = ["reply_target_not_found", "reply_target_cross_room", "timestamp_out_of_range"];
    let code = reply.code().unwrap_or_default();
    attempt.may_repeat = reply.status == 401 || waits.contains(&code.as_str()) || mends.contains(&code.as_str());
}

fn is_uuid_v4(id: &str) -> bool {
    let parts: Vec<&str> = id.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    lengths == [8, 4, 4, 4, 12]
        && parts.iter().all(|part| hex(part))
        && parts[2].starts_with('4')
        && parts[3].starts_with(['8', '9', 'a', 'b'])
}

fn limits(world: &mut World, from: &str, to: &str) -> Result<(), Reply> {
    if !world.settings.limits {
        return Ok(());
    }
    let now = world.clock.now();
    let agent = world.agents.get_mut(from).unwrap();
    let refused = match agent.sends.take(now, LIMITS.0) {
        Err(seconds) => Some(("rate_limit_exceeded", seconds)),
        Ok(()) => {
            let window = agent.sends_to.entry(to.to_owned()).or_default();
            window.take(now, LIMITS.1).err().map(|seconds| ("conversation_rate_limit_exceeded", seconds))
        }
    };
    let Some((code, seconds)) = refused else { return Ok(()) };
    world.violate(Rule::Pacing, format!("{from} to {to}: {code}"));
    Err(Reply::coded(429, code).with("Retry-After", &seconds.to_string()))
}

/// Whether a time stamp is near enough, both in seconds.
pub fn is_timely(ts: i64, now: i64) -> bool {
    ts.abs_diff(now) <= 300
}

/// Time stamp, hash, key and signature.
pub fn authentic(world: &World, envelope: &Value) -> Result<(), Reply> {
    let bad = |code: &str| Err(Reply::coded(400, code));
    if !is_timely(envelope["ts"].as_i64().unwrap_or(0), world.clock.wall() / 1000) {
        return bad("timestamp_out_of_range");
    }
    if envelope["payload_hash"] != sign::payload_hash(&envelope["payload"]) {
        return bad("payload_hash_mismatch");
    }
    let key = envelope["sig"]["key_id"].as_str().and_then(|id| world.keys.get(id));
    let Some(key) = key.filter(|key| key.state == "active") else { return bad("signing_key_not_found_or_inactive") };
    if envelope["from"] != key.agent.as_str() {
        return bad("key_does_not_belong_to_sender");
    }
    let signature = envelope["sig"]["value"].as_str().unwrap_or_default();
    let person = envelope["from"].as_str().is_some_and(|from| from.starts_with("hu_"));
    if !person && !sign::verify(&key.public, sign::signing_input(envelope).as_bytes(), signature) {
        return bad("signature_verification_failed");
    }
    Ok(())
}

type Stored = Result<(String, Option<String>), Reply>;

/// What holds in a room.
pub fn to_room(world: &mut World, mut envelope: Value, to: &str) -> Stored {
    let from = envelope["from"].as_str().unwrap_or_default().to_owned();
    let (now, check) = (world.clock.now(), world.settings.duplicate_check);
    let Some(room) = world.rooms.get_mut(to) else { return Err(Reply::coded(404, "room_not_found")) };
    let Some(member) = room.member(&from).cloned() else { return Err(Reply::coded(403, "not_a_member")) };
    if !may_post(room, &member) {
        return Err(Reply::coded(403, "only_owner_admin_can_post"));
    }
    if let (Some(slow), "member", Some(last)) = (room.slow_mode, member.role, room.last_sent.get(&from))
        && now - last < slow * 1000
    {
        let seconds = (last + slow * 1000 - now + 999) / 1000;
        return Err(Reply::coded(429, "slow_mode_wait").with("Retry-After", &seconds.to_string()));
    }
    if check && !is_owner_chat(to) {
        let hash = sign::payload_hash(&envelope["payload"]);
        let last = room.last_payload.insert(from.clone(), (hash.clone(), now));
        if let Some((same, at)) = last.filter(|(same, at)| *same == hash && now - at < DUPLICATE_MS) {
            room.last_payload.insert(from, (same, at));
            return Err(Reply::coded(429, "duplicate_content"));
        }
    }
    quote(world, &mut envelope, to)?;
    let room = &world.rooms[to];
    let receivers = if is_owner_chat(to) {
        vec![room.members.iter().find(|m| m.id != from).map_or(from.clone(), |m| m.id.clone())]
    } else {
        deliver::receivers(world, room, &from)
    };
    if is_owner_chat(to) {
        answer(world, &envelope, to, &from);
    }
    let source = Source { kind: "agent", ..Source::default() };
    let mentioned = to.starts_with("rm_dm_");
    Ok(deliver::store(world, Parcel { envelope, room: Some(to.to_owned()), receivers, mentioned, source, sent: true }))
}

/// Binds an answer in an owner chat to its run.
fn answer(world: &mut World, envelope: &Value, room: &str, agent: &str) {
    let named = envelope["trace_id"].as_str().filter(|id| world.traces.contains_key(*id)).map(str::to_owned);
    // Without a trace the newest run that has no answer.
    let newest = || {
        let mut ids = world.copies.iter().rev().map(|copy| &copy.hub_msg_id);
        ids.find(|id| world.traces.get(*id).is_some_and(|t| t.room == room && t.answers.is_empty())).cloned()
    };
    let Some(id) = named.or_else(newest) else { return };
    let Some(trace) = world.traces.get_mut(&id).filter(|trace| trace.agent == agent) else { return };
    let msg_id = envelope["msg_id"].as_str().unwrap_or_default();
    if trace.answers.iter().all(|(known, _)| known != msg_id) {
        trace.answers.push((msg_id.to_owned(), clock::real()));
    }
}

fn quote(world: &World, envelope: &mut Value, room: &str) -> Result<(), Reply> {
    if envelope["type"] != "message" {
        return Ok(());
    }
    let Some(target) = envelope["reply_to"].as_str() else { return Ok(()) };
    let Some(found) = deliver::find(world, target) else { return Err(Reply::coded(400, "reply_target_not_found")) };
    if found.room.as_deref() != Some(room) {
        return Err(Reply::coded(400, "reply_target_cross_room"));
    }
    Ok(())
}

/// What holds between two agents.
fn to_agent(world: &mut World, mut envelope: Value, to: &str) -> Stored {
    let from = envelope["from"].as_str().unwrap_or_default().to_owned();
    let Some(target) = world.agents.get(to) else { return Err(Reply::coded(404, "unknown_agent")) };
    let contact = envelope["type"] == "contact_request";
    if contact && from == to {
        return Err(Reply::coded(400, "cannot_send_contact_request_to_self"));
    }
    if target.blocked.contains(&from) {
        return Err(Reply::coded(403, "blocked"));
    }
    if let Some(code) = &target.admission
        && !contact
    {
        return Err(Reply::coded(403, code));
    }
    let source = Source { kind: "agent", ..Source::default() };
    let receivers = vec![to.to_owned()];
    if contact {
        if !envelope["reply_to"].is_null() {
            return Err(Reply::invalid("body", "reply_to", "value_error"));
        }
        if !world.agents.get_mut(to).unwrap().contact_requests.insert(from) {
            return Err(Reply::coded(409, "contact_request_already_pending"));
        }
        let parcel = Parcel { envelope, room: None, receivers, mentioned: true, source, sent: true };
        return Ok(deliver::store(world, parcel));
    }
    let room = deliver::direct_room(&from, to);
    open_direct(world, &room, &from, to);
    quote(world, &mut envelope, &room)?;
    Ok(deliver::store(world, Parcel { envelope, room: Some(room), receivers, mentioned: true, source, sent: true }))
}

/// Makes the direct room of two on first use.
pub fn open_direct(world: &mut World, room: &str, a: &str, b: &str) {
    if world.rooms.contains_key(room) {
        return;
    }
    let member = |id: &str| Member { id: id.to_owned(), role: "member", muted: false, can_send: None };
    let name = format!("{} & {}", world.name_of(a), world.name_of(b));
    let made = Room {
        id: room.to_owned(),
        name,
        members: vec![member(a), member(b)],
        default_send: true,
        created: world.clock.wall(),
        ..Room::default()
    };
    world.rooms.insert(room.to_owned(), made);
}

/// `GET /hub/status/{msg_id}`.
pub fn status(world: &mut World, request: &Request, caller: &str) -> Answer {
    let msg_id = request.segment(2);
    if let Some(attempt) = world.attempts.get_mut(&msg_id) {
        attempt.may_repeat = true;
    }
    let Some(message) = world.by_msg_id.get(&msg_id) else { return Err(Reply::coded(404, "message_not_found")) };
    let message = &world.messages[*message];
    if message.from != caller {
        return Err(Reply::coded(403, "not_the_sender"));
    }
    let Some(copy) = world.copy(&message.hub_msg_id) else { return Err(Reply::coded(404, "message_not_found")) };
    let seconds = |at: Option<i64>| at.map(|at| at / 1000);
    Ok(Reply::json(
        200,
        &json!({"msg_id": msg_id, "state": copy.state.word(), "created_at": message.wall / 1000,
            "delivered_at": seconds(copy.delivered_at), "acked_at": seconds(copy.acked_at),
            "last_error": copy.last_error}),
    ))
}

/// `POST /hub/receipt`: by signature, without a token.
pub fn receipt(world: &mut World, request: &Request) -> Answer {
    let body = object(world, request, &[])?;
    let envelope = shape(&body)?;
    let kind = envelope["type"].as_str().unwrap_or_default();
    if !["ack", "result", "error"].contains(&kind) {
        return Err(Reply::coded(400, "receipt_invalid_type"));
    }
    let Some(original) = envelope["reply_to"].as_str() else {
        return Err(Reply::coded(400, "receipt_must_have_reply_to"));
    };
    authentic(world, &envelope)?;
    acknowledge(world, original, &envelope)?;
    Ok(Reply::json(200, &json!({"received": true})))
}

/// Settles the original, and puts the receipt into its sender's inbox.
pub fn acknowledge(world: &mut World, original: &str, envelope: &Value) -> Result<(), Reply> {
    let from = envelope["from"].as_str().unwrap_or_default();
    let copy = world.by_receiver.get(&(original.to_owned(), from.to_owned())).copied();
    let Some(copy) = copy else { return Err(Reply::coded(404, "original_message_not_found")) };
    let state = match envelope["type"].as_str() {
        Some("ack") => super::state::State::Acked,
        Some("result") => super::state::State::Done,
        _ => super::state::State::Failed,
    };
    world.set_state(copy, state);
    let message = &world.messages[world.copies[copy].message];
    let (receivers, room) = (vec![message.from.clone()], message.room.clone());
    let source = Source { kind: "agent", ..Source::default() };
    let parcel = Parcel { envelope: envelope.clone(), room, receivers, mentioned: true, source, sent: false };
    deliver::store(world, parcel);
    world.receipts.push(envelope.clone());
    Ok(())
}
