//! `set_route`: a route for some conversations of an agent, written into the configuration and used from then on.

use serde_json::{Map, Value, json};

use super::duties::is_safe;
use super::provision::check_directory;
use super::reload::Live;
use crate::config::edit;
use crate::link::botcord_control::frame::Refused;

/// Routes that a configuration may have before a frame can add none.
const ROUTES: usize = 1_000;

/// Sets it, in place of the one with the same agent and beginning of the conversation.
pub(super) fn set_route(live: &Live, params: &Value) -> Result<Value, Refused> {
    let agent = params.get("agentId").and_then(Value::as_str).filter(|id| !id.is_empty());
    let agent = agent.ok_or_else(|| Refused::failed("agentId: expected the id of an agent"))?;
    if !is_safe(agent) {
        return Err(Refused::params("agentId: expected letters, digits, _ and -"));
    }
    let pattern = params.get("pattern").and_then(Value::as_str).filter(|pattern| !pattern.is_empty());
    let given = params.get("route").filter(|route| !route.is_null());
    if let Some(given) = given {
        check(given)?;
    }
    if given.is_none() && pattern.is_none() {
        return Err(Refused::failed("expected a route or a pattern"));
    }
    let config = live.read().map_err(|e| Refused::failed(e.to_string()))?;
    let route = route(&config, given, pattern, agent, live)?;
    let mut placed = None;
    edit::edit(&live.home, |document| {
        let routes = document.entry("routes").or_insert_with(|| json!([]));
        if routes.is_null() {
            *routes = json!([]);
        }
        // What is no list the check before has refused.
        let Some(routes) = routes.as_array_mut() else { return };
        let same = routes.iter().position(|known| is_same(known, &route));
        match same {
            Some(at) => routes[at] = Value::Object(route.clone()),
            None if routes.len() < ROUTES => routes.push(Value::Object(route.clone())),
            None => return,
        }
        placed = Some((same.unwrap_or(routes.len() - 1), same.is_none()));
    })
    .map_err(|e| Refused::failed(e.to_string()))?;
    let Some((index, inserted)) = placed else { return Err(Refused::failed(format!("there are {ROUTES} routes"))) };
    live.reroute().map_err(Refused::failed)?;
    log::info!("control.route_set agent={agent} index={index} inserted={inserted}");
    Ok(json!({"ok": true, "agentId": agent, "routeIndex": index, "inserted": inserted}))
}

/// Each member of a route has its type.
fn check(given: &Value) -> Result<(), Refused> {
    let is_texts = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    let wrong = |what: &str| Err(Refused::params(format!("route{what}")));
    let given_as = |key: &str, fits: &dyn Fn(&Value) -> bool| given.get(key).is_none_or(|v| v.is_null() || fits(v));
    if !given.is_object() {
        return wrong(": expected an object");
    }
    for key in ["adapter", "cwd"] {
        if !given_as(key, &Value::is_string) {
            return wrong(&format!(".{key}: expected a text"));
        }
    }
    if !given_as("match", &Value::is_object) {
        return wrong(".match: expected an object");
    }
    if !given_as("extraArgs", &is_texts) {
        return wrong(".extraArgs: expected a list of texts");
    }
    Ok(())
}

/// The route as the file will have it.
fn route(
    config: &crate::config::Config,
    given: Option<&Value>,
    pattern: Option<&str>,
    agent: &str,
    live: &Live,
) -> Result<Map<String, Value>, Refused> {
    let default = config.document.get("defaultRoute");
    let text = |key: &str| {
        let filled = |of: Option<&Value>| {
            of?.get(key).and_then(Value::as_str).filter(|text| !text.trim().is_empty()).map(str::to_owned)
        };
        filled(given).or_else(|| filled(default))
    };
    let adapter = text("adapter")
        .ok_or_else(|| Refused::failed("route.adapter is missing, and there is no default route to take it from"))?;
    if !config.has_runtime(&adapter) {
        let known = config.runtime_ids().join(", ");
        let adapter = crate::text::clip(&adapter, 64);
        return Err(Refused::failed(format!("route.adapter: unknown runtime {adapter:?}; expected one of {known}")));
    }
    let cwd = text("cwd")
        .ok_or_else(|| Refused::failed("route.cwd is missing, and there is no default route to take it from"))?;
    check_directory(&cwd, &live.user_home).map_err(Refused::failed)?;
    let mut matches = Map::new();
    matches.insert("accountId".into(), agent.into());
    for (key, value) in given.and_then(|route| route.get("match")).and_then(Value::as_object).into_iter().flatten() {
        if key != "accountId" {
            matches.insert(key.clone(), value.clone());
        }
    }
    if let Some(pattern) = pattern
        && matches.get("conversationPrefix").and_then(Value::as_str).is_none_or(str::is_empty)
    {
        matches.insert("conversationPrefix".into(), pattern.into());
    }
    let mut route = Map::new();
    route.insert("match".into(), matches.into());
    route.insert("adapter".into(), adapter.into());
    route.insert("cwd".into(), cwd.into());
    let list = |of: Option<&Value>| of?.get("extraArgs").filter(|args| !args.is_null()).cloned();
    if let Some(args) = list(given).or_else(|| list(default)) {
        route.insert("extraArgs".into(), args);
    }
    // What a route of a gateway cannot do without.
    if route.get("adapter").is_some_and(|adapter| adapter == "openclaw-acp") {
        for key in ["gateway", "openclawAgent"] {
            let of = |of: Option<&Value>| of?.get(key).filter(|value| value.is_string()).cloned();
            if let Some(value) = of(given).or_else(|| of(default)) {
                route.insert(key.into(), value);
            }
        }
    }
    Ok(route)
}

/// Whether a rule of the file is for the same agent and beginning. Without a beginning it must select nothing else.
fn is_same(known: &Value, route: &Map<String, Value>) -> bool {
    let empty = Map::new();
    let known = known.get("match").and_then(Value::as_object).unwrap_or(&empty);
    let new = route.get("match").and_then(Value::as_object).unwrap_or(&empty);
    let prefix = |of: &Map<String, Value>| {
        let filled = |key: &str| of.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        filled("conversationPrefix").or_else(|| filled("roomPrefix"))
    };
    let only = || known.iter().all(|(key, value)| key == "accountId" || value.is_null() || value == "");
    let (theirs, ours) = (prefix(known), prefix(new));
    known.get("accountId") == new.get("accountId") && theirs == ours && (ours.is_some() || only())
}
