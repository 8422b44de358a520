//! Gateways to other chat services as the file writes them: `thirdPartyGateways`.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::document::{Complaints, Node};
use super::paths::{Home, expand_tilde, is_agent_id};
use crate::net::url;

/// Services that a gateway may name.
pub const TYPES: [&str; 3] = ["telegram", "wechat", "feishu"];
/// The one that bellhop connects to.
pub const TELEGRAM: &str = "telegram";

/// A gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayProfile {
    /// Its id, which is that of its channel.
    pub id: String,
    /// Its service, one of [`TYPES`].
    pub kind: String,
    /// The agent that it is for.
    pub account: String,
    /// What people call it.
    pub label: Option<String>,
    /// Whether it is connected.
    pub enabled: bool,
    /// Where its secret is, in place of the home's own file.
    pub secret_file: Option<PathBuf>,
    /// Where its cursor is, in place of the home's own file.
    pub state_file: Option<PathBuf>,
    /// Senders that count; empty: all of the chats.
    pub allowed_senders: Vec<String>,
    /// Chats that count.
    pub allowed_chats: Vec<String>,
    /// Longest piece of a reply; 0: as long as the service takes.
    pub split_at: usize,
    /// Address of the service, in place of its public one.
    pub base_url: Option<String>,
    /// Whether a local agent hears all that is said in groups, and not only what addresses it.
    pub hears_all: bool,
}

impl GatewayProfile {
    /// Reads one; what is odd counts as absent. `None`: it has no id, type or agent.
    pub fn read(profile: &Value) -> Option<Self> {
        let text = |key: &str| profile[key].as_str().map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned);
        Some(Self {
            id: text("id")?,
            kind: text("type")?,
            account: text("accountId")?,
            label: text("label"),
            enabled: profile["enabled"] != false,
            secret_file: text("secretFile").as_deref().map(expand_tilde),
            state_file: text("stateFile").as_deref().map(expand_tilde),
            allowed_senders: ids(&profile["allowedSenderIds"]),
            allowed_chats: ids(&profile["allowedChatIds"]),
            split_at: profile["splitAt"].as_u64().unwrap_or_default() as usize,
            base_url: text("baseUrl"),
            hears_all: profile["wakeOn"] == "all",
        })
    }

    /// All of a document, in its order.
    pub fn all(document: &Map<String, Value>) -> Vec<Self> {
        let list = document.get("thirdPartyGateways").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Self::read).collect()
    }

    /// The file of its secret.
    pub fn secret_path(&self, home: &Home) -> PathBuf {
        self.secret_file.clone().unwrap_or_else(|| home.gateway_secret(&self.id))
    }

    /// The file of its cursor.
    pub fn state_path(&self, home: &Home) -> PathBuf {
        self.state_file.clone().unwrap_or_else(|| home.gateway_state(&self.id))
    }
}

/// Whether the hub may give a gateway this address: the public one of a service, or none. On this machine's own account
/// anything may be configured, but the hub must not have secrets sent elsewhere.
pub fn is_provider(address: Option<&str>) -> bool {
    let Some(address) = address.filter(|a| !a.is_empty()) else { return true };
    let known = |host: &str| matches!(host, "api.telegram.org" | "ilinkai.weixin.qq.com");
    url::server(address).is_ok()
        && url::origin(address).is_some_and(|(scheme, host, _)| scheme == "https" && known(&host))
}

/// The beginning and the end of a secret, for recognising it; one of at most 8 characters as it is, which [`shown`] does
/// not do.
pub fn preview(secret: &str) -> String {
    let letters: Vec<char> = secret.chars().collect();
    if letters.len() <= 8 {
        return secret.to_owned();
    }
    let part = |letters: &[char]| letters.iter().collect::<String>();
    format!("{}...{}", part(&letters[..4]), part(&letters[letters.len() - 4..]))
}

/// [`preview`], but nothing of a secret that is so short that it would give most of it away.
pub fn shown(secret: &str) -> String {
    if secret.chars().count() < 12 { "****".to_owned() } else { preview(secret) }
}

/// A list of ids: texts, or numbers as people write them.
fn ids(list: &Value) -> Vec<String> {
    let text = |id: &Value| id.as_str().map(|t| t.trim().to_owned()).or_else(|| id.as_i64().map(|n| n.to_string()));
    list.as_array().into_iter().flatten().filter_map(text).filter(|id| !id.is_empty()).collect()
}

/// Checks the list. Types of members that only other services use are not looked at.
pub(super) fn check(root: &Node<'_>, to: &mut Complaints<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for node in root.list("thirdPartyGateways", to).unwrap_or_default() {
        if node.object(to).is_none() {
            continue;
        }
        for field in ["id", "type", "accountId"] {
            node.needed_text(field, to);
        }
        if node.get("type").is_some_and(|t| t.value().is_string()) {
            node.word("type", &TYPES.map(|t| (t, ())), to);
        }
        for key in ["secretFile", "stateFile", "baseUrl"] {
            node.text(key, to);
        }
        node.boolean("enabled", to);
        node.number("splitAt", 0..=1_000_000, to);
        node.word("wakeOn", &[("mention", ()), ("all", ())], to);
        for key in ["allowedSenderIds", "allowedChatIds"] {
            for id in node.list(key, to).unwrap_or_default() {
                if !id.value().is_string() && !id.value().is_i64() {
                    id.expected(to, "an id");
                }
            }
        }
        if let (Some(base), Some(TELEGRAM)) = (node.get("baseUrl"), node.value()["type"].as_str())
            && let Some(Err(e)) = base.value().as_str().map(url::server)
        {
            base.complain(to, format!("the address {e}"));
        }
        let Some(at) = node.get("id") else { continue };
        let Some(id) = at.value().as_str() else { continue };
        // It becomes part of paths, and the name of a channel beside the local one.
        if !id.is_empty() && !is_agent_id(id) {
            at.expected(to, "letters, digits, _ and -, at most 128, the first a letter or digit");
        }
        if id == "local" {
            at.complain(to, "\"local\" is the terminal's channel; expected another id");
        }
        if seen.contains(&id) {
            at.complain(to, format!("{id:?} is there twice"));
        }
        seen.push(id);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn previews_and_addresses_are_those_of_the_vectors() {
        let vectors = include_bytes!("../../tests/vectors/daemon-local.json");
        let cases: Vec<Value> = crate::json::from_slice(vectors).unwrap();
        let mut count = [0, 0];
        for case in cases {
            let input = &case["input"];
            match input["kind"].as_str().unwrap() {
                "token_preview" => {
                    count[0] += 1;
                    assert_eq!(preview(input["token"].as_str().unwrap()), case["expect"]["preview"], "{case}");
                }
                "provider_base_url" => {
                    count[1] += 1;
                    assert_eq!(is_provider(input["url"].as_str()), case["expect"]["allowed"] == true, "{case}");
                }
                _ => {}
            }
        }
        assert!(count.iter().all(|n| *n > 0), "{count:?}");
        assert_eq!((shown("12345678901").as_str(), shown("123456789012").as_str()), ("****", "1234...9012"));
        assert!(
            !is_provider(Some("https://api.telegram.org@evil.example"))
                && !is_provider(Some("https://169.254.169.254"))
        );
    }

    #[test]
    fn a_profile_is_read_with_its_defaults() {
        let all = GatewayProfile::all(
            json!({"thirdPartyGateways": [
                {"id": "gw_1", "type": "telegram", "accountId": "a", "allowedChatIds": [-100, " 7 ", "", null], "wakeOn": "all"},
                {"id": "gw_2", "type": "wechat", "accountId": "a", "enabled": false, "secretFile": "/s"},
                {"id": "gw_3"},
            ]})
            .as_object()
            .unwrap(),
        );
        let home = Home::at("/h").unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].enabled, &all[0].allowed_chats, all[0].hears_all),
            (true, &vec!["-100".into(), "7".into()], true)
        );
        assert_eq!(all[0].secret_path(&home), PathBuf::from("/h/daemon/gateways/gw_1.json"));
        assert_eq!(all[0].state_path(&home), PathBuf::from("/h/daemon/gateways/gw_1.state.json"));
        assert_eq!((all[1].enabled, all[1].secret_path(&home)), (false, PathBuf::from("/s")));
    }
}
