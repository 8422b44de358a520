//! What agents ask the hub for, as far as their daemon's control side needs it: policies, registration, files.

use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value, json};

use super::super::hub::http::{Reply, Request};
use super::super::hub::sign::{base64, sha256, unbase64};
use super::world::{World, detail, invalid, text};

type Answer = Result<Reply, Reply>;

/// The agent's token is `token of <agent>`, as the test writes it into the credentials.
pub fn policy(world: &mut World, request: &Request) -> Answer {
    world.policy_calls += 1;
    let header = request.header("authorization").unwrap_or_default();
    let Some(agent) = header.strip_prefix("Bearer token of ") else { return Err(detail(401, "invalid_token")) };
    let room = request.parameter("room_id").unwrap_or_default();
    let known = world.policies.get(&(agent.to_owned(), room.to_owned()));
    let known = known.or_else(|| world.policies.get(&(agent.to_owned(), String::new())));
    Ok(Reply::json(200, known.unwrap_or(&json!({"mode": "always", "keywords": []}))))
}

pub fn register(world: &mut World, body: &Value) -> Answer {
    text(body, "display_name", 1, 128)?;
    let key = text(body, "pubkey", 1, 128)?.strip_prefix("ed25519:").and_then(unbase64);
    let key = key.filter(|key| key.len() == 32).ok_or_else(|| invalid("pubkey"))?;
    let id = format!("ag_{}", &sha256(base64(&key).as_bytes())[..12]);
    let challenge = base64(world.fresh(32).as_bytes());
    world.registering.insert(id.clone(), (key, challenge.clone()));
    Ok(Reply::json(201, &json!({"agent_id": id, "key_id": format!("k_{}", &id[3..]), "challenge": challenge})))
}

pub fn verify(world: &mut World, request: &Request, body: &Value) -> Answer {
    let id = request.segment(2);
    let Some((key, challenge)) = world.registering.get(&id) else { return Err(detail(404, "unknown_agent")) };
    if body["challenge"] != challenge.as_str() || body["key_id"] != format!("k_{}", &id[3..]).as_str() {
        return Err(detail(400, "unknown_challenge"));
    }
    let signature = body["sig"].as_str().and_then(unbase64).ok_or_else(|| invalid("sig"))?;
    let signed = unbase64(challenge).unwrap();
    if UnparsedPublicKey::new(&ED25519, key).verify(&signed, &signature).is_err() {
        return Err(detail(401, "bad_signature"));
    }
    let expires = world.now() / 1000 + 86_400;
    Ok(Reply::json(200, &json!({"agent_token": format!("token of {id}"), "expires_at": expires})))
}

/// The file and whether its length is told.
pub fn file(world: &World, request: &Request) -> Answer {
    let Some((bytes, _)) = world.files.get(&request.segment(2)) else { return Err(detail(404, "file_not_found")) };
    let headers = vec![("Content-Type".to_owned(), "application/octet-stream".to_owned())];
    Ok(Reply { status: 200, headers, body: bytes.clone() })
}
