//! `bellhop route`: the rules of the configuration that say what runs the turns of which conversations.

use serde_json::{Map, Value, json};

use super::Context;
use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::output::{neutral, say, say_json};
use super::stop;
use crate::config::edit;
use crate::config::paths::expand_tilde;

/// Options that narrow a rule down, and the key of the configuration for each.
const MATCHES: [(&str, &str); 8] = [
    ("conversation-id", "conversationId"),
    ("room", "conversationId"),
    ("conversation-prefix", "conversationPrefix"),
    ("prefix", "conversationPrefix"),
    ("conversation-kind", "conversationKind"),
    ("channel", "channel"),
    ("account-id", "accountId"),
    ("sender-id", "senderId"),
];

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    match args.verb_name() {
        "add" => add(args, context),
        "remove" => remove(args, context),
        _ => list(args, context),
    }
}

fn list(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let document = context.config()?.document;
    let default = document.get("defaultRoute").cloned().unwrap_or_default();
    let routes = rules(&document);
    if args.flag("json") {
        say_json(&json!({"default": default, "routes": routes}))?;
        return Ok(Exit::Ok);
    }
    let mut out =
        if default.is_object() { format!("default: {}\n", place(&default)) } else { "default: (none)\n".into() };
    out.push_str("routes:\n");
    if routes.is_empty() {
        out.push_str("  (none)\n");
    }
    for (n, route) in routes.iter().enumerate() {
        let conditions: Vec<String> = route["match"].as_object().into_iter().flatten().map(condition).collect();
        let conditions = if conditions.is_empty() { "(any)".to_owned() } else { conditions.join(", ") };
        out.push_str(&format!("  [{n}] {}\n      match: {conditions}\n", place(route)));
    }
    say(&neutral(&out))?;
    Ok(Exit::Ok)
}

fn rules(document: &Map<String, Value>) -> Vec<Value> {
    document.get("routes").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn condition((key, value): (&String, &Value)) -> String {
    format!("{key}={}", value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned))
}

/// What runs, and where.
fn place(route: &Value) -> String {
    let text = |key: &str| route[key].as_str().unwrap_or("-");
    let args: Vec<&str> = route["extraArgs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let args = if args.is_empty() { String::new() } else { format!(" extraArgs=[{}]", args.join(" ")) };
    format!("runtime={} cwd={}{args}", text("adapter"), text("cwd"))
}

fn add(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let mut conditions = Map::new();
    for (option, key) in MATCHES {
        let Some(value) = args.text(option).filter(|value| !value.is_empty()) else { continue };
        if conditions.get(key).is_some_and(|before| *before != value) {
            return Err(Failure::usage(format!("--{option}: another {key} is given, too")));
        }
        conditions.insert(key.into(), value.into());
    }
    match (args.flag("mentioned"), args.flag("no-mentioned")) {
        (true, true) => return Err(Failure::usage("--mentioned and --no-mentioned: give one of them")),
        (false, false) => {}
        (mentioned, _) => drop(conditions.insert("mentioned".into(), mentioned.into())),
    }
    if conditions.is_empty() {
        return Err(Failure::usage("route add needs at least one condition, such as --room or --prefix"));
    }
    let cwd = args.text("cwd").ok_or_else(|| Failure::usage("route add needs --cwd"))?;
    let cwd = std::path::absolute(expand_tilde(&cwd))?;
    let adapter = args.text("adapter").unwrap_or_else(|| "claude-code".into());
    let route = json!({"match": conditions, "adapter": adapter, "cwd": cwd.display().to_string()});
    change(context, &mut |routes| routes.push(route.clone()))?;
    say("route added")?;
    Ok(Exit::Ok)
}

fn remove(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let (keys, wanted) = match (args.text("room"), args.text("prefix")) {
        (Some(room), None) => (["conversationId", "roomId"], room),
        (None, Some(prefix)) => (["conversationPrefix", "roomPrefix"], prefix),
        _ => return Err(Failure::usage("route remove takes one of --room and --prefix")),
    };
    let mut removed = 0;
    change(context, &mut |routes| {
        let before = routes.len();
        routes.retain(|route| !keys.iter().any(|key| route["match"][*key] == wanted.as_str()));
        removed = before - routes.len();
    })?;
    say(&format!("removed {removed} route(s)"))?;
    Ok(Exit::Ok)
}

/// Changes the rules, and has a daemon that runs follow.
fn change(context: &Context<'_>, change: &mut dyn FnMut(&mut Vec<Value>)) -> Result<(), Failure> {
    edit::edit(&context.home, |document| {
        let routes = document.entry("routes").or_insert_with(|| json!([]));
        if routes.is_null() {
            *routes = json!([]);
        }
        if let Value::Array(routes) = routes {
            change(routes);
        }
    })?;
    stop::reload(&context.home)
}
