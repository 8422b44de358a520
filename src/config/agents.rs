//! Hub agents in the document of the configuration: who is named, and how one is added and removed. Pure.

use serde_json::{Map, Value, json};

/// The agents that a document names, those of the old key after the others; each once, in the order of the file.
pub fn named(document: &Map<String, Value>) -> Vec<String> {
    let list = document.get("agents").and_then(Value::as_array).into_iter().flatten();
    let mut agents = Vec::new();
    for id in list.chain(document.get("agentId")).filter_map(Value::as_str).filter(|id| !id.is_empty()) {
        if !agents.iter().any(|known| known == id) {
            agents.push(id.to_owned());
        }
    }
    agents
}

/// The agents that a document configures: the list, if anything in it can be used, else the old key. Empty: whoever is
/// found.
pub fn configured(document: &Map<String, Value>) -> Vec<String> {
    let mut listed = document.clone();
    listed.remove("agentId");
    let agents = named(&listed);
    if agents.is_empty() { named(document) } else { agents }
}

/// The document of a first configuration.
pub fn first(document: &mut Map<String, Value>, agents: &[String], cwd: &str) {
    document.insert("defaultRoute".into(), json!({"adapter": "claude-code", "cwd": cwd}));
    document.insert("routes".into(), json!([]));
    document.insert("streamBlocks".into(), true.into());
    let mut named: Vec<String> = Vec::new();
    for id in agents.iter().filter(|id| !id.is_empty()) {
        if !named.contains(id) {
            named.push(id.clone());
        }
    }
    if !named.is_empty() {
        document.insert("agents".into(), named.into());
    }
}

/// Names an agent. `loaded`: who has a channel at present. Naming the first one ends the search for files of credentials,
/// so whoever was found that way is named as well. Returns whether anything changes.
pub fn add(document: &mut Map<String, Value>, agent: &str, loaded: &[String]) -> bool {
    let mut agents = named(document);
    for id in loaded.iter().filter(|id| id.starts_with("ag_")) {
        if !agents.contains(id) {
            agents.push(id.clone());
        }
    }
    if agents.iter().any(|known| known == agent) {
        return false;
    }
    agents.push(agent.to_owned());
    put(document, agents);
    true
}

/// Names an agent no more. Returns whether anything changes.
pub fn remove(document: &mut Map<String, Value>, agent: &str) -> bool {
    let mut agents = named(document);
    let before = agents.len();
    agents.retain(|known| known != agent);
    if agents.len() == before {
        return false;
    }
    put(document, agents);
    true
}

fn put(document: &mut Map<String, Value>, agents: Vec<String>) {
    document.shift_remove("agentId");
    document.insert("agents".into(), agents.into());
}
