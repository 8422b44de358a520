//! Who lives behind a gateway of this machine: what OpenClaw's own configuration and directories say.

use std::path::Path;

use serde_json::{Map, Value};

use super::{QCLAW_PORT, is_local, place, read};
use crate::json;
use crate::{sort, text};

/// Most agents that are listed.
const MOST: usize = 64;

/// What is known of a local gateway without asking it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Household {
    /// Agents, as the hub wants to know them: `id`, and `name`, `workspace`, `model` where they are known.
    pub agents: Vec<Value>,
    /// Its configuration says that nobody may talk to it by ACP.
    pub acp_disabled: bool,
}

/// Reads it. Of a gateway elsewhere nothing is known.
pub fn of(gateway: &Value, user_home: &Path) -> Household {
    let text = |key: &str| gateway.get(key).and_then(Value::as_str).unwrap_or_default();
    if !is_local(text("url")) {
        return Household::default();
    }
    let is_qclaw = text("name").contains("qclaw") || place(text("url")).is_some_and(|(_, port)| port == QCLAW_PORT);
    let dir = user_home.join(if is_qclaw { ".qclaw" } else { ".openclaw" });
    let config =
        read(&dir.join("openclaw.json")).and_then(|text| json::parse(text.as_bytes()).ok()).unwrap_or_default();
    let listed = config["agents"]["list"].as_array().map_or(&[][..], Vec::as_slice);
    let mut agents: Vec<Value> = listed.iter().filter_map(agent).take(MOST).collect();
    let entries = std::fs::read_dir(dir.join("agents")).into_iter().flatten().flatten();
    let is_dir = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let names = entries.filter(is_dir).filter_map(|entry| entry.file_name().into_string().ok());
    let mut more: Vec<String> = names.filter(|n| is_id(n) && !agents.iter().any(|a| a["id"] == **n)).collect();
    sort::sort(&mut more);
    agents.extend(more.into_iter().take(MOST).map(|id| json(&[("id", Some(id.into()))])));
    agents.truncate(MOST);
    Household { agents, acp_disabled: config["acp"]["enabled"] == false }
}

/// The agent that is meant where none is named: `default`, or the only one.
pub fn chosen(agents: &[Value]) -> Option<&str> {
    let id = |agent: &'_ Value| agent["id"] == "default";
    match agents {
        [only] => only["id"].as_str(),
        _ => agents.iter().find(|a| id(a)).and_then(|a| a["id"].as_str()),
    }
}

fn is_id(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        && !name.starts_with('.')
}

fn agent(listed: &Value) -> Option<Value> {
    let text = |value: &Value| value.as_str().map(str::trim).filter(|t| !t.is_empty()).map(|t| text::clip(t, 200));
    let id = text(&listed["id"]).filter(|id| is_id(id))?;
    let model = text(&listed["model"]).or_else(|| text(&listed["model"]["primary"]));
    let model = model.map(|model| match model.split_once('/') {
        Some((provider, name)) => json(&[("name", Some(name.into())), ("provider", Some(provider.into()))]),
        None => json(&[("name", Some(model.into()))]),
    });
    let name = text(&listed["name"]).or_else(|| text(&listed["identity"]["name"]));
    Some(json(&[
        ("id", Some(id.into())),
        ("name", name.map(Into::into)),
        ("workspace", text(&listed["workspace"]).map(Into::into)),
        ("model", model),
    ]))
}

fn json(members: &[(&str, Option<Value>)]) -> Value {
    let given = members.iter().filter_map(|(key, value)| Some(((*key).to_owned(), value.clone()?)));
    given.collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn agents_come_from_the_configuration_and_from_directories() {
        let home = std::env::temp_dir().join(format!("bellhop-household-{}", std::process::id()));
        for dir in ["main", "ops", ".hidden", "bad name"] {
            std::fs::create_dir_all(home.join(".openclaw/agents").join(dir)).unwrap();
        }
        let config = json!({"acp": {"enabled": false}, "agents": {"list": [
            {"id": "main", "name": "Front desk", "workspace": "/w", "model": {"primary": "p/m"}},
            {"name": "without an id"}, {"id": "../x"}, 7,
        ]}});
        std::fs::write(home.join(".openclaw/openclaw.json"), config.to_string()).unwrap();
        let found = of(&json!({"name": "lab", "url": "ws://127.0.0.1:1"}), &home);
        let main =
            json!({"id": "main", "name": "Front desk", "workspace": "/w", "model": {"name": "m", "provider": "p"}});
        assert_eq!(found.agents, [main, json!({"id": "ops"})]);
        assert!(found.acp_disabled);
        assert_eq!(of(&json!({"name": "lab", "url": "ws://elsewhere:1"}), &home), Household::default());
        assert_eq!(of(&json!({"name": "qclaw-x", "url": "ws://127.0.0.1:1"}), &home), Household::default());
        std::fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn one_agent_is_meant_where_none_is_named() {
        let ids = |ids: &[&str]| ids.iter().map(|id| json!({"id": id})).collect::<Vec<_>>();
        assert_eq!(chosen(&ids(&["a"])), Some("a"));
        assert_eq!(chosen(&ids(&["a", "default"])), Some("default"));
        assert_eq!(chosen(&ids(&["a", "b"])), None);
        assert_eq!(chosen(&[]), None);
    }
}
