//! Agents, their keys and their tokens.

use serde_json::json;

use super::clock;
use super::http::{Reply, Request};
use super::sign;
use super::state::{Agent, Challenge, Key, Token, World};
use super::strict::{measured, object, optional, text};

/// How long a challenge lives.
const CHALLENGE_MS: i64 = 300_000;

type Answer = Result<Reply, Reply>;

/// The base64 of a key written as the registry writes it.
fn public_key(formatted: &str) -> Result<&str, Reply> {
    let Some(public) = formatted.strip_prefix("ed25519:") else {
        return Err(Reply::coded(400, "pubkey_must_start_with_ed25519"));
    };
    match sign::unbase64(public) {
        None => Err(Reply::coded(400, "pubkey_base64_invalid")),
        Some(bytes) if bytes.len() != 32 => Err(Reply::coded(400, "pubkey_must_be_32_bytes")),
        Some(_) => Ok(public),
    }
}

pub fn register(world: &mut World, request: &Request) -> Answer {
    let body = object(world, request, &["display_name", "pubkey", "bio"])?;
    let name = measured(&body, "display_name", 1, 128)?;
    let bio = optional(&body, "bio")?;
    if bio.is_some_and(|bio| bio.chars().count() > 500) {
        return Err(Reply::invalid("body", "bio", "string_too_long"));
    }
    let public = public_key(text(&body, "pubkey")?)?;
    let id = sign::agent_id(public);
    if world.keys.values().any(|key| key.agent == id && key.public != public) {
        return Err(Reply::coded(409, "agent_id_collision"));
    }
    enter(world, &id, name);
    world.agents.get_mut(&id).unwrap().bio = bio.map(str::to_owned);
    let (key_id, challenge) = offer_key(world, &id, public);
    Ok(Reply::json(201, &json!({"agent_id": id, "key_id": key_id, "challenge": challenge})))
}

/// Makes an agent, if there is none with this id.
pub fn enter(world: &mut World, id: &str, name: &str) {
    let claimed = world.settings.claimed;
    let claim_code = format!("clm_{}", world.fresh(16));
    let owner = world.fresh_uuid();
    let human = format!("hu_{}", world.fresh(12));
    world.people.insert(human.clone(), format!("Owner of {name}"));
    world.agents.entry(id.to_owned()).or_insert_with(|| Agent {
        id: id.to_owned(),
        name: name.to_owned(),
        claimed,
        claim_code,
        owner: Some((owner, human)),
        ..Agent::default()
    });
}

/// A pending key and its challenge.
pub fn offer_key(world: &mut World, agent: &str, public: &str) -> (String, String) {
    let key_id = format!("k_{}", world.fresh(12));
    let key = Key { agent: agent.to_owned(), public: public.to_owned(), state: "pending" };
    world.keys.insert(key_id.clone(), key);
    let bytes = sign::Seed::named(&world.fresh(32)).0;
    let challenge = sign::base64(&bytes);
    let until = world.clock.now() + CHALLENGE_MS;
    let offered = Challenge { agent: agent.to_owned(), key_id: key_id.clone(), until, used: false };
    world.challenges.insert(challenge.clone(), offered);
    (key_id, challenge)
}

pub fn verify(world: &mut World, request: &Request) -> Answer {
    let agent = request.segment(2);
    let body = object(world, request, &["key_id", "challenge", "sig"])?;
    let (key_id, text_, sig) = (text(&body, "key_id")?, text(&body, "challenge")?, text(&body, "sig")?);
    let now = world.clock.now();
    let challenge = world.challenges.get(text_).filter(|c| c.agent == agent && c.key_id == key_id);
    let Some(challenge) = challenge else { return Err(Reply::coded(404, "challenge_not_found")) };
    if challenge.used {
        return Err(Reply::coded(400, "challenge_already_used"));
    }
    if challenge.until <= now {
        return Err(Reply::coded(400, "challenge_expired"));
    }
    let Some(key) = world.keys.get_mut(key_id) else { return Err(Reply::coded(404, "key_not_found")) };
    if !sign::verify(&key.public, &sign::unbase64(text_).unwrap_or_default(), sig) {
        return Err(Reply::coded(401, "signature_verification_failed"));
    }
    key.state = "active";
    world.challenges.get_mut(text_).unwrap().used = true;
    Ok(Reply::json(200, &token_answer(world, &agent)))
}

/// Issues a token that leaves the others as they are.
pub fn issue(world: &mut World, agent: &str) -> (String, i64) {
    let number = world.number();
    let token = format!("tok.{}.{number}", world.fresh(40));
    let life = world.settings.token_life.as_millis() as i64;
    let until = world.clock.now() + life;
    let held = Token { agent: agent.to_owned(), number, until, late_uses: 0, replaced_at: None };
    world.tokens.insert(token.clone(), held);
    (token, (world.clock.wall() + life) / 1000)
}

fn token_answer(world: &mut World, agent: &str) -> serde_json::Value {
    let (token, expires_at) = issue(world, agent);
    let known = &world.agents[agent];
    let url = (!known.claimed).then(|| format!("{}/agents/claim/{}", world.origin, known.claim_code));
    json!({"agent_token": token, "expires_at": expires_at, "claim_url": url})
}

/// Issues a token that is the only valid one from now on.
pub fn replace(world: &mut World, agent: &str) -> serde_json::Value {
    let answer = token_answer(world, agent);
    let number = world.tokens[answer["agent_token"].as_str().unwrap()].number;
    world.agents.get_mut(agent).unwrap().oldest_token = number;
    let real = clock::real();
    for token in world.tokens.values_mut().filter(|t| t.agent == agent && t.number < number) {
        token.replaced_at.get_or_insert(real);
    }
    answer
}

pub fn refresh(world: &mut World, request: &Request) -> Answer {
    let agent = request.segment(2);
    let body = object(world, request, &["key_id", "nonce", "sig"])?;
    let (key_id, nonce, sig) = (text(&body, "key_id")?, text(&body, "nonce")?, text(&body, "sig")?);
    if !world.agents.contains_key(&agent) {
        return Err(Reply::coded(404, "agent_not_found").with("X-BotCord-Refresh-Status", "stale-agent"));
    }
    let key = world.keys.get(key_id).filter(|key| key.agent == agent);
    let Some(key) = key else { return Err(Reply::coded(404, "key_not_found")) };
    if key.state != "active" {
        return Err(Reply::coded(403, "key_not_active"));
    }
    let public = key.public.clone();
    if !world.agents.get_mut(&agent).unwrap().nonces.insert(nonce.to_owned()) {
        return Err(Reply::coded(409, "nonce_already_used"));
    }
    let bytes = sign::unbase64(nonce).filter(|bytes| bytes.len() == 32);
    if !bytes.is_some_and(|bytes| sign::verify(&public, &bytes, sig)) {
        return Err(Reply::coded(401, "signature_verification_failed"));
    }
    Ok(Reply::json(200, &replace(world, &agent)))
}

pub fn claim_link(world: &World, request: &Request, caller: &str) -> Answer {
    own(request, caller)?;
    let agent = &world.agents[caller];
    let url = format!("{}/agents/claim/{}", world.origin, agent.claim_code);
    let code = &agent.claim_code;
    let body = json!({"agent_id": agent.id, "display_name": agent.name, "claim_code": code, "claim_url": url});
    Ok(Reply::json(200, &body))
}

/// Another agent's affairs are none of the caller's.
fn own(request: &Request, caller: &str) -> Result<(), Reply> {
    if request.segment(2) == caller { Ok(()) } else { Err(Reply::plain(403, "Agent does not match token")) }
}

pub fn add_key(world: &mut World, request: &Request, caller: &str) -> Answer {
    own(request, caller)?;
    let body = object(world, request, &["pubkey"])?;
    let public = public_key(text(&body, "pubkey")?)?.to_owned();
    let (key_id, challenge) = offer_key(world, caller, &public);
    Ok(Reply::json(201, &json!({"key_id": key_id, "challenge": challenge})))
}

pub fn key(world: &World, request: &Request) -> Answer {
    let key_id = request.segment(4);
    let key = world.keys.get(&key_id).filter(|key| key.agent == request.segment(2));
    let Some(key) = key else { return Err(Reply::coded(404, "key_not_found")) };
    let created = clock::iso(world.clock.wall(), "Z");
    let public = format!("ed25519:{}", key.public);
    Ok(Reply::json(200, &json!({"key_id": key_id, "pubkey": public, "state": key.state, "created_at": created})))
}

pub fn revoke_key(world: &mut World, request: &Request, caller: &str) -> Answer {
    own(request, caller)?;
    let key_id = request.segment(4);
    let active = world.keys.values().filter(|key| key.agent == caller && key.state == "active").count();
    let key = world.keys.get_mut(&key_id).filter(|key| key.agent == caller);
    let Some(key) = key else { return Err(Reply::coded(404, "key_not_found")) };
    if key.state == "revoked" {
        return Err(Reply::coded(400, "key_already_revoked"));
    }
    if key.state == "active" && active == 1 {
        return Err(Reply::coded(400, "cannot_revoke_last_active_key"));
    }
    key.state = "revoked";
    Ok(Reply::json(200, &json!({"key_id": key_id, "state": "revoked"})))
}

pub fn resolve(world: &World, request: &Request) -> Answer {
    let Some(agent) = world.agents.get(&request.segment(2)) else { return Err(Reply::coded(404, "agent_not_found")) };
    let online = world.conns.get(&agent.id).is_some_and(|conns| !conns.is_empty());
    Ok(Reply::json(
        200,
        &json!({"agent_id": agent.id, "display_name": agent.name, "bio": agent.bio, "avatar_url": null,
            "is_bound": agent.claimed, "has_endpoint": false, "endpoints": [], "online": online,
            "is_claimed": agent.claimed}),
    ))
}
