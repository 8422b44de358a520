//! `bellhop config`: what is configured, where, and whether it is right.

use serde_json::{Map, Value, json};

use super::Context;
use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::output::{complain, say, say_json};
use crate::config::{Config, LocalAgent, Permission, PromptVia, Who, load};
use crate::engine::approvals::Decide;
use crate::message::TrustLevel;

/// What stands in the place of a secret.
const HIDDEN: &str = "[hidden]";

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let path = context.home.config();
    match args.verb_name() {
        "path" => say(&path.display().to_string())?,
        "check" => {
            let config = load::load(&path)?;
            for warning in &config.warnings {
                complain(&format!("warning: {warning}"));
            }
            let there = if config.file.is_some() { "is right" } else { "does not exist: all defaults hold" };
            say(&format!("{} {there}", path.display()))?;
        }
        _ => say_json(&shown(&context.config()?, context))?,
    }
    Ok(Exit::Ok)
}

/// The configuration, and the agents of hubs that come of it.
fn shown(config: &Config, context: &Context<'_>) -> Value {
    let agents: Vec<Value> = context
        .host
        .agent_ids(&context.home, config)
        .into_iter()
        .map(|(id, file, name)| {
            let mut agent = json!({"agentId": id, "credentialsFile": file.display().to_string()});
            if let Some(name) = name {
                agent["displayName"] = name.into();
            }
            agent
        })
        .collect();
    let dir = config.credentials_dir.clone().unwrap_or_else(|| context.home.credentials_dir());
    json!({
        "config": effective(config),
        "effective": {
            "agents": agents,
            "source": if config.agents.is_empty() { "credentials" } else { "config" },
            "credentialsDir": dir.display().to_string(),
            "warnings": config.warnings,
        },
    })
}

/// The document with every default filled in and secrets hidden.
fn effective(config: &Config) -> Value {
    let permission = |p| if p == Permission::Full { "full" } else { "restricted" };
    let defaults = json!({
        "local": {"agents": config.local_agents.iter().map(agent).collect::<Vec<_>>()},
        "defaultRoute": null,
        "routes": [],
        "agents": config.agents,
        "agentDiscovery": {"enabled": config.agent_discovery},
        "streamBlocks": config.stream_blocks,
        "transcript": {"enabled": config.transcript},
        "maxConcurrentTurns": config.max_concurrent_turns,
        "turnTimeoutSeconds": config.turn_timeout.as_secs(),
        "idleTimeoutSeconds": config.idle_timeout.map(|t| t.as_secs()),
        "carrySuperseded": config.carry_superseded,
        "promptVia": if config.prompt_via == PromptVia::Stdin { "stdin" } else { "argv" },
        "rotation": {"maxTurns": config.rotation.max_turns, "maxInputTokens": config.rotation.max_input_tokens},
        "claudeWarmSeconds": config.claude_warm.as_secs(),
        "claudeWarmMax": config.claude_warm_max,
        "runtimePermissions": {
            "trusted": permission(config.runtime_permissions.trusted),
            "public": permission(config.runtime_permissions.public),
        },
        "approvals": {
            "owner": decide(config.approvals.owner),
            "trusted": decide(config.approvals.trusted),
            "public": decide(config.approvals.public),
            "timeoutSeconds": config.approvals.limit.as_secs(),
        },
        "sandboxed": config.sandboxed,
        "keepAnthropicEnv": config.keep_anthropic_env,
        "killLeftovers": config.kill_leftovers,
        "memoryReserveMb": config.memory_reserve_mb,
        "memoryPerTurnMb": config.memory_per_turn_mb,
        "parkOnUsageLimit": who(config.parking.usage_limit),
        "parkOnFailure": who(config.parking.broken),
        "silentTurnSeconds": config.silent_turn.as_secs(),
        "acpRuntimes": [],
    });
    let mut all = Value::Object(config.document.clone());
    fill(&mut all, defaults);
    hide(&mut all);
    all
}

fn decide(who: Decide) -> &'static str {
    match who {
        Decide::Allow => "allow",
        Decide::Deny => "deny",
        Decide::Ask => "ask",
    }
}

fn agent(agent: &LocalAgent) -> Value {
    let mut map = Map::new();
    map.insert("name".into(), agent.name.clone().into());
    for (key, value) in [("runtime", agent.runtime.clone()), ("model", agent.model.clone())] {
        if let Some(value) = value {
            map.insert(key.into(), value.into());
        }
    }
    if let Some(cwd) = &agent.cwd {
        map.insert("cwd".into(), cwd.display().to_string().into());
    }
    let trust = match agent.trust {
        TrustLevel::Owner => "owner",
        TrustLevel::Trusted => "trusted",
        TrustLevel::Public => "public",
    };
    map.insert("trust".into(), trust.into());
    Value::Object(map)
}

fn who(who: Who) -> &'static str {
    match who {
        Who::Nobody => "never",
        Who::Rooms => "rooms",
        Who::Everybody => "always",
    }
}

/// Puts in what is missing or null. Lists are taken whole.
fn fill(value: &mut Value, defaults: Value) {
    match (value, defaults) {
        (Value::Object(map), Value::Object(defaults)) => {
            for (key, default) in defaults {
                match map.get_mut(&key) {
                    Some(Value::Null) | None => drop(map.insert(key, default)),
                    Some(value) => fill(value, default),
                }
            }
        }
        (value @ Value::Null, default) => *value = default,
        _ => {}
    }
}

/// Hides whatever has a name that sounds secret, and all variables.
fn hide(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                let name = key.to_lowercase();
                let secret = ["token", "secret", "password", "privatekey", "apikey"].iter().any(|s| name.contains(s));
                match value {
                    Value::String(text) if secret && !name.ends_with("file") => HIDDEN.clone_into(text),
                    Value::Object(variables) if name == "env" || name == "headers" => {
                        variables.values_mut().for_each(|v| *v = HIDDEN.into());
                    }
                    other => hide(other),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn defaults_are_shown_and_secrets_are_not() {
        let text = r#"{"rotation": {"maxTurns": 3}, "x": 1, "streamBlocks": null,
            "openclawGateways": [{"name": "g", "url": "ws://h", "token": "t0p", "tokenFile": "~/t"}],
            "acpRuntimes": [{"name": "a", "command": ["a"], "env": {"K": "t0p"}}]}"#;
        let shown = effective(&load::parse(text, Path::new("f")).unwrap());
        assert_eq!(shown["rotation"], json!({"maxTurns": 3, "maxInputTokens": 160_000}));
        assert_eq!(shown["streamBlocks"], json!(true));
        assert_eq!(shown["x"], json!(1));
        assert!(!shown.to_string().contains("t0p"));
        assert_eq!(shown["openclawGateways"][0]["tokenFile"], json!("~/t"));
        assert_eq!(shown["local"]["agents"], json!([{"name": "local", "trust": "owner"}]));
    }
}
