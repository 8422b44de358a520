//! Logging in: device codes, install tickets, refreshing.

use serde_json::{Value, json};

use super::super::hub::http::Reply;
use super::world::{CODE_LIFE, Code, CodeState, World, detail, text};

type Answer = Result<Reply, Reply>;

/// Letters of user codes.
const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

pub fn device_code(world: &mut World) -> Reply {
    let device = format!("dc_{}", world.fresh(32));
    let hex = world.fresh(16);
    let letter = |n: usize| LETTERS[usize::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap() % LETTERS.len()] as char;
    let letters: String = (0..8).map(letter).collect();
    let user_code = format!("{}-{}", &letters[..4], &letters[4..]);
    let expires = world.now() + CODE_LIFE;
    let code = Code { shown: user_code.clone(), state: CodeState::Pending, expires };
    world.codes.insert(device.clone(), code);
    let uri = format!("{}/activate", world.origin);
    Reply::json(
        200,
        &json!({
            "device_code": device, "user_code": user_code, "verification_uri": uri,
            "verification_uri_complete": format!("{uri}?code={user_code}"),
            "expires_in": CODE_LIFE / 1000, "interval": world.interval,
        }),
    )
}

pub fn device_token(world: &mut World, body: &Value) -> Answer {
    let device = text(body, "device_code", 8, 64)?;
    let now = world.now();
    let Some(code) = world.codes.get_mut(device) else { return Err(detail(400, "invalid_device_code")) };
    match code.state.clone() {
        CodeState::Consumed => Err(detail(400, "device_code_already_consumed")),
        CodeState::Denied => Err(detail(403, "device_code_denied")),
        _ if code.expires <= now => Err(detail(410, "device_code_expired")),
        CodeState::Pending => Ok(Reply::json(200, &json!({"status": "pending"}))),
        CodeState::Approved(instance) => {
            code.state = CodeState::Consumed;
            Ok(Reply::json(200, &world.tokens(&instance)))
        }
    }
}

pub fn install_token(world: &mut World, body: &Value) -> Answer {
    let token = text(body, "install_token", 8, 128)?.to_owned();
    for (field, most) in [("label", 64), ("daemon_instance_id", 32)] {
        if !body[field].is_null() {
            text(body, field, 0, most)?;
        }
    }
    let now = world.now();
    let Some(ticket) = world.tickets.get(&token).cloned() else { return Err(detail(401, "invalid_install_token")) };
    if ticket.expires <= now {
        return Err(detail(410, "install_token_expired"));
    }
    if ticket.consumed {
        return Err(detail(400, "install_token_consumed"));
    }
    let asked = body["daemon_instance_id"].as_str().map(str::to_owned);
    let label = body["label"].as_str().map(str::to_owned);
    let id = match ticket.instance.or(asked) {
        None => world.instance(&ticket.user, label),
        Some(id) => {
            let known = world.instances.get(&id).filter(|i| i.user == ticket.user && i.cloud.is_none());
            let Some(known) = known else { return Err(detail(404, "daemon_instance_not_found")) };
            if known.revoked {
                return Err(detail(409, "daemon_revoked"));
            }
            id
        }
    };
    world.tickets.get_mut(&token).unwrap().consumed = true;
    Ok(Reply::json(200, &world.tokens(&id)))
}

pub fn refresh(world: &mut World, body: &Value) -> Answer {
    let token = text(body, "refresh_token", 8, 256)?;
    let known = world.instances.iter().find(|(_, instance)| instance.refresh == token);
    let Some((id, instance)) = known else { return Err(detail(401, "invalid_refresh_token")) };
    if instance.revoked {
        return Err(detail(401, "daemon_revoked"));
    }
    let id = id.clone();
    Ok(Reply::json(200, &world.tokens(&id)))
}
