//! The configuration as the vectors have it: checked, changed, and made into agents and routes.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::bound::Bound;
use super::hubs;
use super::vectors::{self, in_home, list, members, strings};
use crate::config::{Config, Home, agents, load};
use crate::engine::route::Route;
use crate::runtime::openclaw::discover::{Found, merge::merge};
use crate::runtime::selection::{self, Choice};

#[test]
fn configurations_are_read_and_changed_as_the_vectors_say() {
    vectors::apart("daemon::config_vectors::configurations_are_read_and_changed_as_the_vectors_say", run_all);
}

fn run_all(place: &Path) {
    let user_home = place.join("h");
    let mut failed = Vec::new();
    for case in vectors::cases("config-map.json") {
        let _ = fs::remove_dir_all(&user_home);
        fs::create_dir_all(&user_home).unwrap();
        let (input, expected) = (in_home(&case["input"], &user_home), in_home(&case["expect"], &user_home));
        let home = Home::at(user_home.join(".botcord")).unwrap();
        let kind = input["kind"].as_str().unwrap();
        let (expected, found) = match kind {
            "load" => loaded(&input, &expected),
            "configured_agents" => {
                let agents = agents::configured(input["config"].as_object().unwrap());
                let agents = if agents.is_empty() { Value::Null } else { agents.into() };
                (expected, json!({"agents": agents}))
            }
            "init" => {
                let mut document = Map::new();
                agents::first(&mut document, &strings(&input["agents"]), input["cwd"].as_str().unwrap());
                (expected, document.into())
            }
            "add_agent" | "remove_agent" => {
                let mut document = input["config"].as_object().unwrap().clone();
                let agent = input["agent_id"].as_str().unwrap();
                let changed = if kind == "add_agent" {
                    agents::add(&mut document, agent, &strings(&input["loaded"]))
                } else {
                    agents::remove(&mut document, agent)
                };
                (expected, json!({"config": changed.then_some(document)}))
            }
            "runtime_args" => {
                let choice = &input["selection"];
                let args = selection::arguments(
                    input["runtime"].as_str().unwrap(),
                    Choice {
                        model: choice["runtimeModel"].as_str(),
                        effort: choice["reasoningEffort"].as_str(),
                        thinking: choice["thinking"].as_bool(),
                    },
                );
                (expected, json!({"args": args}))
            }
            "map" => mapped(&input, &expected, &home, &user_home),
            "boot_agents" => booted(&input, &expected, &home),
            "openclaw_merge" => {
                let found = |found: &Value| {
                    let text = |key: &str| found[key].as_str().map(str::to_owned);
                    Found {
                        name: text("name").unwrap(),
                        url: text("url").unwrap(),
                        token: text("token"),
                        token_file: text("tokenFile"),
                    }
                };
                let found: Vec<Found> = list(&input["found"]).iter().map(found).collect();
                let merged = merge(list(&input["existing"]), &found);
                (expected, json!({"changed": merged.changed, "added": merged.added, "gateways": merged.gateways}))
            }
            other => panic!("nothing knows the kind {other:?}"),
        };
        if expected != found {
            failed.push(format!("{}\n  expected {expected}\n  found    {found}", case["name"]));
        }
    }
    assert!(failed.is_empty(), "{} differ\n{}", failed.len(), failed.join("\n"));
}

/// A text and its loaded form are the same configuration; of a mistake the field is compared.
fn loaded(input: &Value, expected: &Value) -> (Value, Value) {
    let Some(text) = input["config_text"].as_str() else {
        // No file is no mistake here: everything has its default.
        let config = load::load(Path::new("/nonexistent/config.json")).unwrap();
        return (expected["field"].clone(), if config.file.is_none() { "CONFIG_MISSING".into() } else { Value::Null });
    };
    // What a loaded configuration says, with nothing of the text.
    let meaning = |text: &str| {
        let config = load::parse(text, Path::new("config.json")).ok()?;
        Some(Config { document: Map::new(), warnings: Vec::new(), ..config })
    };
    match load::parse(text, Path::new("config.json")) {
        Err(error) => {
            let problem = &error.problems[0];
            assert!(problem.line > 0, "{problem}");
            let field = if problem.message.starts_with("not JSON") { "JSON" } else { problem.field.as_str() };
            (json!([expected["ok"], expected["field"]]), json!([false, field]))
        }
        Ok(config) if expected["ok"] == true => {
            let as_loaded = expected["config"].to_string();
            assert_eq!(meaning(&as_loaded), meaning(text), "{text}");
            // What is not known stays in the file, and is named.
            let document: Value = serde_json::from_str(text).unwrap();
            assert_eq!(Value::Object(config.document), document);
            let strange = members(&document).any(|(key, _)| ["foo", "cloud"].contains(&key.as_str()));
            assert!(!strange || config.warnings.iter().any(|warning| warning.contains("foo")), "{:?}", config.warnings);
            (Value::Null, Value::Null)
        }
        // bellhop works without a default route (with the first runtime that is installed), and without agents of hubs.
        Ok(config) => {
            let field = match config {
                Config { default_route: None, .. } => "defaultRoute",
                Config { agent_discovery: false, agents, .. } if agents.is_empty() => "agents",
                _ => "none",
            };
            (expected["field"].clone(), field.into())
        }
    }
}

fn plain(route: &Route) -> Value {
    let mut route = serde_json::to_value(route).unwrap();
    if route.get("match").is_none() {
        route["match"] = json!({});
    }
    route
}

/// Without what an absent value is the same as.
fn simple(mut route: Value) -> Value {
    if list(&route["extraArgs"]).is_empty() {
        route.as_object_mut().unwrap().remove("extraArgs");
    }
    route
}

/// From a configuration to channels and routes.
fn mapped(input: &Value, expected: &Value, home: &Home, user_home: &Path) -> (Value, Value) {
    for (path, text) in members(&input["files"]) {
        fs::write(user_home.join(path), text.as_str().unwrap()).unwrap();
    }
    let (mut document, mut expected) = (input["config"].clone(), expected["gateway"].clone());
    // A route to a gateway that does not exist is a mistake of the file; the others are as they are.
    while let Err(error) = load::parse(&document.to_string(), Path::new("f")) {
        let at = error.problems[0].field.strip_prefix("routes[").and_then(|f| f.strip_suffix("].gateway"));
        let at: usize = at.unwrap_or_else(|| panic!("{error}")).parse().unwrap();
        document["routes"].as_array_mut().unwrap().remove(at);
        let gone = expected["routes"].as_array_mut().unwrap().remove(at);
        assert!(gone.get("gateway").is_none());
    }
    let config = load::parse(&document.to_string(), Path::new("f")).unwrap();
    let named = match &input["agent_ids"] {
        Value::Null => config.agents.clone(),
        ids => strings(ids),
    };
    if expected.is_null() {
        // Nobody is named: whoever is found will be there.
        assert!(named.is_empty());
        return (Value::Null, Value::Null);
    }
    let default = config.default_route.as_ref().unwrap();
    let bound = |id: &String| {
        let told = &input["agent_runtimes"][id];
        let text = |key: &str| told[key].as_str().map(str::to_owned);
        Bound {
            id: id.clone(),
            runtime: text("runtime"),
            cwd: text("cwd"),
            model: text("runtimeModel"),
            effort: text("reasoningEffort"),
            thinking: told["thinking"].as_bool(),
            gateway: text("openclawGateway"),
            gateway_agent: text("openclawAgent"),
            hermes_profile: text("hermesProfile"),
            ..Bound::default()
        }
    };
    let managed: Vec<Value> =
        named.iter().filter_map(|id| bound(id).route(home, &config, default)).map(|r| plain(&r)).collect();
    let mut default = plain(default);
    default.as_object_mut().unwrap().remove("match");
    let found = json!({
        "defaultRoute": default,
        "routes": config.routes.iter().map(plain).collect::<Vec<_>>(),
        "managedRoutes": managed,
        "streamBlocks": config.stream_blocks,
    });
    let expected_agents = list(&expected["channels"]).iter().filter(|channel| channel["type"] == "botcord");
    assert_eq!(expected_agents.map(|c| c["id"].as_str().unwrap()).collect::<Vec<_>>(), named);
    for routes in ["routes", "managedRoutes"] {
        expected[routes] = list(&expected[routes]).iter().cloned().map(simple).collect();
    }
    expected.as_object_mut().unwrap().remove("channels");
    (expected, found)
}

/// Who is there when the daemon starts.
fn booted(input: &Value, expected: &Value, home: &Home) -> (Value, Value) {
    fs::create_dir_all(home.credentials_dir()).unwrap();
    home.prepare().unwrap();
    for (name, file) in members(&input["credentials_files"]) {
        let path = home.credentials_dir().join(name);
        let text = file.as_str().map_or_else(|| file.to_string(), str::to_owned);
        fs::write(&path, text).unwrap();
        if let Some(time) = input["mtimes"][name].as_u64() {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time);
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
    }
    if let Some(hub) = input["expected_hub_url"].as_str() {
        let login = json!({"userId": "u", "daemonInstanceId": "dm_1", "hubUrl": hub, "accessToken": "a",
                           "refreshToken": "r", "expiresAt": 1});
        crate::store::write_json(&crate::store::RealDisk, &home.daemon_dir().join("user-auth.json"), &login).unwrap();
    }
    let config = load::parse(&input["config"].to_string(), Path::new("f")).unwrap();
    let (found, warnings) = hubs::find(home, &config);
    let mut runtimes = Map::new();
    let mut row = |found: &hubs::Found| {
        let mut row = json!({"agentId": found.id, "credentialsFile": found.path, "hubUrl": ""});
        let Ok(c) = &found.credentials else { return row };
        row["hubUrl"] = c.hub_url.clone().into();
        row["keyId"] = c.key_id.clone().into();
        let mut run = Map::new();
        for (key, value) in [
            ("runtime", c.runtime.clone().map(Value::from)),
            ("cwd", c.cwd.clone().map(Value::from)),
            ("runtimeModel", c.runtime_model.clone().map(Value::from)),
            ("reasoningEffort", c.reasoning_effort.clone().map(Value::from)),
            ("thinking", c.thinking.map(Value::from)),
            ("openclawGateway", c.openclaw_gateway.clone().map(Value::from)),
            ("openclawAgent", c.openclaw_agent.clone().map(Value::from)),
            ("hermesProfile", c.hermes_profile.clone().map(Value::from)),
        ] {
            if let Some(value) = value {
                run.insert(key.into(), value.clone());
                row[key] = value;
            }
        }
        for (key, value) in [("displayName", &c.display_name), ("savedAt", &c.saved_at)] {
            if let Some(value) = value {
                row[key] = value.clone().into();
            }
        }
        if !run.is_empty() {
            runtimes.insert(found.id.clone(), run.into());
        }
        row
    };
    let rows: Vec<Value> = found.iter().map(&mut row).collect();
    let source = if config.agents.is_empty() { "credentials" } else { "config" };
    let dir = config.credentials_dir.clone().unwrap_or_else(|| home.credentials_dir());
    let found = json!({
        "source": source, "agents": rows, "credentials_dir": dir, "warning_count": warnings.len() + config.warnings.len(),
        "agent_runtimes": runtimes,
    });
    (expected.clone(), found)
}
