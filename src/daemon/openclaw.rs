//! OpenClaw gateways: what is found of them is put into the configuration, and how they are is told.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{hubs, parts};
use crate::config::{Config, Home, edit, load};
use crate::runtime::hermes::profiles;
use crate::runtime::openclaw::discover::probe::{self, Answer};
use crate::runtime::openclaw::discover::{Places, agents, discover, merge};
use crate::thread;

/// Most gateways that are asked.
const MOST: usize = 32;

/// Looks for gateways, and adds those that are new to the configuration; what else is in its file stays as it is.
/// Returns the configuration as it is afterwards. May take as long as ports take that do not answer.
pub(super) fn refresh(home: &Home, config: Config) -> Config {
    let none = Value::Null;
    let user_home = parts::runtime_settings(home, &config).user_home;
    let places = Places {
        home: &user_home,
        root: Path::new("/"),
        env: &|name| std::env::var(name).ok(),
        settings: config.document.get("openclawDiscovery").unwrap_or(&none),
    };
    let found = discover(&places);
    if !merge::merge(configured(&config.document), &found).changed {
        return config;
    }
    // Merged once more inside: somebody else may have changed the file meanwhile.
    let mut names = Vec::new();
    let written = edit::edit(home, |document| {
        let merged = merge::merge(configured(document), &found);
        names.extend(merged.added.iter().filter_map(|g| g["name"].as_str().map(str::to_owned)));
        document.insert("openclawGateways".into(), merged.gateways.into());
    });
    let loaded =
        written.map_err(|e| e.to_string()).and_then(|()| load::load(&home.config()).map_err(|e| e.to_string()));
    match loaded {
        Ok(now) => {
            log::info!("openclaw.found added={:?}", names.join(","));
            now
        }
        Err(error) => {
            log::warn!("openclaw.not_added error={error:?}");
            config
        }
    }
}

fn configured(document: &Map<String, Value>) -> &[Value] {
    document.get("openclawGateways").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The configured gateways as the hub wants to know them, all asked at once.
pub(super) fn endpoints(home: &Home, config: &Config) -> Vec<Value> {
    let gateways = configured(&config.document);
    let gateways = &gateways[..gateways.len().min(MOST)];
    if gateways.is_empty() {
        return Vec::new();
    }
    let user_home = parts::runtime_settings(home, config).user_home;
    let bound = bindings(home, config);
    std::thread::scope(|scope| {
        let asked: Vec<_> = gateways
            .iter()
            .map(|gateway| {
                let (user_home, bound) = (&user_home, &bound);
                let ask = move || endpoint(gateway, config, user_home, bound);
                std::thread::Builder::new().stack_size(thread::STACK).spawn_scoped(scope, ask)
            })
            .collect();
        asked.into_iter().filter_map(|thread| thread.ok()?.join().ok()).collect()
    })
}

/// Agents of hubs that stand for one behind a gateway: gateway, agent behind it, id.
fn bindings(home: &Home, config: &Config) -> Vec<(String, String, String)> {
    let (found, _) = hubs::find(home, config);
    let of = |found: hubs::Found| {
        let credentials = found.credentials.ok()?;
        Some((credentials.openclaw_gateway?, credentials.openclaw_agent?, found.id))
    };
    found.into_iter().filter_map(of).collect()
}

fn endpoint(gateway: &Value, config: &Config, user_home: &Path, bound: &[(String, String, String)]) -> Value {
    let text = |key: &str| gateway.get(key).and_then(Value::as_str).unwrap_or_default();
    let (name, url) = (text("name"), text("url"));
    let household = agents::of(gateway, user_home);
    let token = config.gateway(name, None).and_then(|gateway| gateway.token);
    let mut endpoint = json!({"name": name, "url": url});
    let (status, detail) = if household.acp_disabled {
        ("acp_disabled", Some(("error", "its configuration turns ACP off".to_owned())))
    } else {
        match probe::probe(url, token.as_deref()) {
            Answer::Ready(version) => ("reachable", version.map(|v| ("version", v))),
            Answer::Refused(why) if token.is_none() => ("missing_token", Some(("error", why))),
            Answer::Refused(why) => ("auth_required", Some(("error", why))),
            Answer::Unreachable(why) => ("unreachable", Some(("error", why))),
        }
    };
    endpoint["status"] = status.into();
    endpoint["reachable"] = (status == "reachable").into();
    if let Some((key, value)) = detail {
        endpoint[key] = value.into();
    }
    let mut agents = household.agents;
    for agent in &mut agents {
        let owner = bound.iter().find(|(at, behind, _)| at == name && agent["id"] == **behind);
        if let Some((_, _, id)) = owner {
            agent["botcordBinding"] = json!({"agentId": id});
        }
    }
    if !agents.is_empty() {
        endpoint["agents"] = agents.into();
    }
    endpoint
}

/// The profiles of Hermes as the hub wants to know them: with the agent of it that uses each.
pub(super) fn hermes_profiles(home: &Home, config: &Config) -> Vec<Value> {
    let list = profiles::list(&parts::runtime_settings(home, config).user_home);
    let (found, _) = if list.is_empty() { Default::default() } else { hubs::find(home, config) };
    let with_owner = |profile: &profiles::Profile| {
        let mut entry = crate::json::to_value(profile).ok()?;
        let owner = found.iter().find_map(|found| {
            let credentials = found.credentials.as_ref().ok()?;
            (credentials.hermes_profile.as_deref() == Some(&profile.name)).then_some(credentials)
        });
        if let Some(owner) = owner {
            entry["occupiedBy"] = owner.agent_id.clone().into();
            if let Some(name) = &owner.display_name {
                entry["occupiedByName"] = name.clone().into();
            }
        }
        Some(entry)
    };
    list.iter().filter_map(with_owner).collect()
}
