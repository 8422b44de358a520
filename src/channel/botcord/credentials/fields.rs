//! What a file of credentials says: two spellings of each field, and what counts as there.

use std::fmt;

use serde_json::{Map, Value};

use super::Problem;
use crate::crypto::sign::SigningKey;
use crate::json;
use crate::net::url;

/// Above this a time is in milliseconds.
const SECONDS_MAX: f64 = 10_000_000_000.0;

/// The identity of an agent at its hub, with what the file says about how it is run.
pub struct Credentials {
    /// Address of the hub, without a slash at its end.
    pub hub_url: String,
    /// The agent; letters, digits, `-`, `_` and `.` alone, so that it can be part of a path.
    pub agent_id: String,
    /// Id of its key.
    pub key_id: String,
    /// Its key.
    pub key: SigningKey,
    /// The `privateKey` as the file has it. Secret.
    pub private_key: String,
    /// Name of the agent.
    pub display_name: Option<String>,
    /// When the file was made, as the file says.
    pub saved_at: Option<String>,
    /// The last token. Secret.
    pub token: Option<String>,
    /// Until when it is good (Unix seconds).
    pub token_expires_at: Option<f64>,
    /// When the agent was set up, as the file says.
    pub onboarded_at: Option<String>,
    /// Its runtime adapter.
    pub runtime: Option<String>,
    /// The runtime's model.
    pub runtime_model: Option<String>,
    /// How hard the model is to think.
    pub reasoning_effort: Option<String>,
    /// Whether the model is to think.
    pub thinking: Option<bool>,
    /// Its working directory.
    pub cwd: Option<String>,
    /// Its OpenClaw gateway.
    pub openclaw_gateway: Option<String>,
    /// Its agent at that gateway.
    pub openclaw_agent: Option<String>,
    /// Its Hermes profile.
    pub hermes_profile: Option<String>,
}

impl fmt::Debug for Credentials {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} at {}, key {})", self.agent_id, self.hub_url, self.key_id)
    }
}

impl Credentials {
    /// What an agent cannot do without. `private_key` is the text of `key`'s seed.
    pub fn new(hub_url: String, agent_id: String, key_id: String, key: SigningKey, private_key: String) -> Self {
        Self {
            hub_url,
            agent_id,
            key_id,
            key,
            private_key,
            display_name: None,
            saved_at: None,
            token: None,
            token_expires_at: None,
            onboarded_at: None,
            runtime: None,
            runtime_model: None,
            reasoning_effort: None,
            thinking: None,
            cwd: None,
            openclaw_gateway: None,
            openclaw_agent: None,
            hermes_profile: None,
        }
    }
}

/// Reads the text of a file. The first problem in the order of the fields' importance is reported.
pub fn parse(text: &str) -> Result<Credentials, Problem> {
    let Ok(Value::Object(file)) = json::parse(text.as_bytes()) else { return Err(Problem::NotJson) };
    let hub_url = filled(&file, &["hubUrl", "hub_url", "hub"]).ok_or(Problem::MissingHubUrl)?;
    let agent_id = filled(&file, &["agentId", "agent_id"]).ok_or(Problem::MissingAgentId)?;
    let key_id = filled(&file, &["keyId", "key_id"]).ok_or(Problem::MissingKeyId)?;
    let private_key = filled(&file, &["privateKey", "private_key"]).ok_or(Problem::MissingPrivateKey)?;
    if !is_plain(&agent_id) {
        return Err(Problem::AgentId);
    }
    let key = SigningKey::from_text(&private_key).map_err(|_| Problem::PrivateKey)?;
    if filled(&file, &["publicKey", "public_key"]).is_some_and(|public| public != key.public_text()) {
        return Err(Problem::PublicKeyMismatch);
    }
    let hub_url = url::server(&hub_url).map_err(Problem::HubUrl)?;
    Ok(Credentials {
        display_name: filled(&file, &["displayName", "display_name"]),
        saved_at: filled(&file, &["savedAt", "saved_at"]),
        token: filled(&file, &["token"]),
        token_expires_at: expiry(&file),
        onboarded_at: filled(&file, &["onboardedAt", "onboarded_at"]),
        runtime: filled(&file, &["runtime"]),
        runtime_model: filled(&file, &["runtimeModel", "runtime_model"]),
        reasoning_effort: filled(&file, &["reasoningEffort", "reasoning_effort"]),
        thinking: ["thinking", "thinking_enabled"].iter().find_map(|key| file.get(*key)?.as_bool()),
        cwd: filled(&file, &["cwd"]),
        openclaw_gateway: filled(&file, &["openclawGateway", "openclaw_gateway"]),
        openclaw_agent: filled(&file, &["openclawAgent", "openclaw_agent"]),
        hermes_profile: filled(&file, &["hermesProfile", "hermes_profile"]),
        ..Credentials::new(hub_url, agent_id, key_id, key, private_key)
    })
}

/// The first of these members that is a text with more than white space.
pub(super) fn filled(file: &Map<String, Value>, keys: &[&str]) -> Option<String> {
    let texts = keys.iter().filter_map(|key| file.get(*key)?.as_str());
    texts.into_iter().find(|t| !t.trim().is_empty()).map(str::to_owned)
}

/// When the token ends, in seconds.
pub(super) fn expiry(file: &Map<String, Value>) -> Option<f64> {
    ["tokenExpiresAt", "token_expires_at"].iter().find_map(|key| file.get(*key)?.as_f64()).map(token_expiry)
}

/// A time of either unit, in seconds.
pub fn token_expiry(time: f64) -> f64 {
    if time > SECONDS_MAX { (time / 1_000.0).floor() } else { time }
}

/// Whether an id can be part of a path.
pub(in super::super) fn is_plain(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    id.len() <= 128 && !id.starts_with('.') && id.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=";

    fn file(agent: &str, more: &str) -> String {
        format!(r#"{{"hubUrl":"https://h","agentId":"{agent}","keyId":"k_1","privateKey":"{KEY}"{more}}}"#)
    }

    #[test]
    fn an_id_that_is_a_way_out_is_refused() {
        for id in ["../x", "a/b", ".", "..", ".x", "a b", "é", &"x".repeat(129)] {
            assert_eq!(parse(&file(id, "")).unwrap_err().as_str(), "agent_id", "{id}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let credentials = parse(&file("ag_1", r#","token":"t0p""#)).unwrap();
        let shown = format!("{credentials:?}");
        assert!(!shown.contains("t0p") && !shown.contains("BQUF"), "{shown}");
        let error = parse(&file("ag_1", "").replace("BQUF", "!!!!")).unwrap_err().to_string();
        assert!(!error.contains("BQUF"), "{error}");
    }

    #[test]
    fn a_field_of_the_wrong_type_falls_to_the_other_spelling() {
        let more = r#","tokenExpiresAt":"x","token_expires_at":10000000001,"thinking":1,"thinking_enabled":true"#;
        let credentials = parse(&file("ag_1", more)).unwrap();
        assert_eq!((credentials.token_expires_at, credentials.thinking), (Some(10_000_000.0), Some(true)));
    }
}
