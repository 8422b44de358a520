//! Who calls, and whether the request is made as it must be.

use serde_json::{Map, Value};

use super::clock;
use super::endpoint::{Auth, Endpoint};
use super::http::{Reply, Request};
use super::state::World;
use super::violations::Rule;

/// How long after a refresh requests with the old token may still be on their way.
const IN_FLIGHT_MS: i64 = 250;

/// The agent that a request is made by, as its token says.
pub fn caller(world: &mut World, request: &Request, auth: Auth) -> Result<String, Reply> {
    if auth == Auth::Public {
        return Ok(String::new());
    }
    let Some(token) = request.header("authorization").and_then(|value| value.strip_prefix("Bearer ")) else {
        return Err(Reply::coded(401, "invalid_authorization_header"));
    };
    let agent = holder(world, token, auth == Auth::Issued).map_err(|code| Reply::coded(401, code))?;
    let Some(known) = world.agents.get(&agent) else { return Err(Reply::coded(404, "agent_not_found")) };
    if auth == Auth::Claimed && !known.claimed {
        if known.claim_code.is_empty() {
            return Err(Reply::coded(403, "agent_not_claimed_generic"));
        }
        let url = format!("{}/agents/claim/{}", world.origin, known.claim_code);
        let mut body: Value = serde_json::from_slice(&Reply::coded(403, "agent_not_claimed").body).unwrap();
        body["claim_url"] = url.into();
        return Err(Reply::json(403, &body));
    }
    if request.header("x-botcord-agent-id") != Some(&agent) {
        world.violate(Rule::Headers, format!("{} {}: agent id is not {agent}", request.method, request.path));
    }
    Ok(agent)
}

/// The agent of a token; `any` takes tokens that a newer one replaced.
pub fn holder(world: &mut World, text: &str, any: bool) -> Result<String, &'static str> {
    let (now, real) = (world.clock.now(), clock::real());
    let Some(token) = world.tokens.get_mut(text) else { return Err("invalid_token") };
    if token.until <= now {
        return Err("token_expired");
    }
    let agent = token.agent.clone();
    let oldest = world.agents.get(&agent).map_or(0, |a| a.oldest_token);
    if token.number < oldest {
        if token.replaced_at.is_some_and(|at| real - at > IN_FLIGHT_MS) {
            token.late_uses += 1;
            if token.late_uses > 1 {
                world.violate(Rule::OldToken, format!("{agent}: token number {}", world.tokens[text].number));
            }
        }
        if !any {
            return Err("invalid_token");
        }
    }
    Ok(agent)
}

/// Takes down what is wrong with the headers of a request.
pub fn headers(world: &mut World, request: &Request, endpoint: Endpoint) {
    let is = |name: &str, fits: &dyn Fn(&str) -> bool| request.header(name).is_some_and(fits);
    let line = format!("{} {}", request.method, request.path);
    if !request.body.is_empty() {
        if request.method == "GET" {
            world.violate(Rule::BodyOnGet, line.clone());
        }
        let kind = request.header("content-type").unwrap_or_default();
        let wanted = if endpoint == Endpoint::Upload { "multipart/form-data" } else { "application/json" };
        if !kind.starts_with(wanted) {
            world.violate(Rule::ContentType, format!("{line}: {kind:?}"));
        }
    }
    if matches!(endpoint, Endpoint::File | Endpoint::Socket | Endpoint::Key | Endpoint::Resolve) {
        if request.header("authorization").is_some() {
            world.violate(Rule::Headers, format!("{line}: the token does not belong there"));
        }
        return;
    }
    let registering = matches!(endpoint, Endpoint::Register | Endpoint::Verify);
    if (registering || endpoint == Endpoint::Refresh) && request.header("authorization").is_some() {
        world.violate(Rule::Headers, format!("{line}: the token does not belong there"));
    }
    let named = |prefix: &str, id: &str| id.len() == prefix.len() + 12 && id.starts_with(prefix);
    let version = |text: &str| {
        let numbers = text.split(['-', '+']).next().unwrap_or_default();
        let parts: Vec<&str> = numbers.split('.').collect();
        parts.len() == 3 && parts.iter().all(|part| part.parse::<u32>().is_ok())
    };
    let checks: [(&str, bool); 6] = [
        ("x-botcord-request-id", is("x-botcord-request-id", &is_request_id)),
        ("x-botcord-caller", is("x-botcord-caller", &|who| who == "bellhop")),
        ("x-botcord-caller-version", is("x-botcord-caller-version", &version)),
        ("x-botcord-agent-id", registering || is("x-botcord-agent-id", &|id| named("ag_", id))),
        ("x-botcord-credential-key-id", registering || is("x-botcord-credential-key-id", &|id| named("k_", id))),
        ("x-botcord-retry-attempt", is("x-botcord-retry-attempt", &|n| ["0", "1", "2"].contains(&n))),
    ];
    for (name, good) in checks {
        if !good {
            let value = request.header(name).unwrap_or("nothing");
            world.violate(Rule::Headers, format!("{line}: {name} is {value}"));
        }
    }
    request_id(world, request, endpoint, &line);
}

fn is_request_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// An id belongs to one request and all its tries.
fn request_id(world: &mut World, request: &Request, endpoint: Endpoint, line: &str) {
    let id = request.header("x-botcord-request-id").unwrap_or_default();
    let attempt: u32 = request.header("x-botcord-retry-attempt").and_then(|n| n.parse().ok()).unwrap_or(0);
    let lossy = clock::real() < world.lossy_until;
    let agent = request.header("x-botcord-agent-id").unwrap_or_default();
    // A refresh bears the id of the request that needs it.
    if endpoint == Endpoint::Refresh {
        return;
    }
    let Some(agent) = world.agents.get_mut(agent) else { return };
    if agent.request_ids.len() > 100_000 {
        agent.request_ids.clear();
    }
    let before = agent.request_ids.insert(id.to_owned(), attempt);
    match before {
        Some(last) if attempt <= last => {
            world.violate(Rule::RequestId, format!("{line}: {id} was used before, attempt {attempt} after {last}"));
        }
        None if attempt > 0 && !lossy => {
            world.violate(Rule::RequestId, format!("{line}: attempt {attempt} has a new id"));
        }
        _ => {}
    }
}

/// The JSON object of a body; fields beyond `known` are violations, unless it is empty.
pub fn object(world: &mut World, request: &Request, known: &[&str]) -> Result<Map<String, Value>, Reply> {
    let Ok(Value::Object(body)) = serde_json::from_slice(&request.body) else {
        return Err(Reply::invalid("body", "body", "json_invalid"));
    };
    for name in body.keys() {
        if !known.is_empty() && !known.contains(&name.as_str()) {
            world.violate(Rule::UnknownField, format!("{} {}: {name}", request.method, request.path));
        }
    }
    Ok(body)
}

/// A text of a body; null counts as missing.
pub fn text<'a>(body: &'a Map<String, Value>, name: &str) -> Result<&'a str, Reply> {
    match body.get(name) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(Reply::invalid("body", name, "missing")),
        Some(_) => Err(Reply::invalid("body", name, "string_type")),
    }
}

/// A text that may be missing or null.
pub fn optional<'a>(body: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Reply> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => text(body, name).map(Some),
    }
}

/// A text with so many characters.
pub fn measured<'a>(body: &'a Map<String, Value>, name: &str, min: usize, max: usize) -> Result<&'a str, Reply> {
    let value = text(body, name)?;
    match value.chars().count() {
        n if n < min => Err(Reply::invalid("body", name, "string_too_short")),
        n if n > max => Err(Reply::invalid("body", name, "string_too_long")),
        _ => Ok(value),
    }
}
