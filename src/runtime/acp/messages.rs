//! Parameters and results of the requests that this client makes, as they are on the wire.

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::engine::ports::Usage;
use crate::json;
use crate::runtime::settings::McpServer;

/// The version of the protocol that this client speaks.
pub const PROTOCOL_VERSION: u64 = 1;

/// `initialize`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InitializeParams {
    protocol_version: u64,
    client_capabilities: ClientCapabilities,
    client_info: ClientInfo,
}

#[derive(Serialize)]
struct ClientCapabilities {
    fs: FileSystem,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FileSystem {
    read_text_file: bool,
    write_text_file: bool,
}

#[derive(Serialize)]
struct ClientInfo {
    name: &'static str,
    version: &'static str,
}

impl InitializeParams {
    /// What this client is and can do: it offers no file system and no terminal, agents bring their own.
    pub fn new() -> Self {
        Self {
            protocol_version: PROTOCOL_VERSION,
            client_capabilities: ClientCapabilities {
                fs: FileSystem { read_text_file: false, write_text_file: false },
            },
            client_info: ClientInfo { name: "bellhop", version: env!("CARGO_PKG_VERSION") },
        }
    }
}

impl Default for InitializeParams {
    fn default() -> Self {
        Self::new()
    }
}

/// A member that is missing, null or of another type than expected is its default: agents differ in what
/// they announce, and none of it is worth failing a turn for.
fn lenient<'de, D: Deserializer<'de>, T: Default + serde::de::DeserializeOwned>(d: D) -> Result<T, D::Error> {
    Ok(json::from_value(&Value::deserialize(d)?).unwrap_or_default())
}

/// Result of `initialize`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Initialized {
    /// The agent's version of the protocol.
    pub protocol_version: Value,
    /// What it can do.
    #[serde(deserialize_with = "lenient")]
    pub agent_capabilities: AgentCapabilities,
}

/// What an agent can do.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentCapabilities {
    /// `session/load` exists.
    #[serde(deserialize_with = "lenient")]
    pub load_session: bool,
    /// MCP servers that it can reach.
    #[serde(deserialize_with = "lenient")]
    pub mcp_capabilities: McpCapabilities,
}

/// Which MCP servers an agent can use besides those it starts itself.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct McpCapabilities {
    /// Over HTTP.
    #[serde(deserialize_with = "lenient")]
    pub http: bool,
}

/// Result of `session/new` and `session/load`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionOpened {
    /// The session's id.
    #[serde(deserialize_with = "lenient")]
    pub session_id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    modes: Modes,
    #[serde(deserialize_with = "lenient")]
    models: Models,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Modes {
    #[serde(deserialize_with = "lenient")]
    available_modes: Vec<Mode>,
}

#[derive(Clone, Debug, Deserialize)]
struct Mode {
    id: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Models {
    #[serde(deserialize_with = "lenient")]
    available_models: Vec<OfferedModel>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfferedModel {
    model_id: String,
}

impl SessionOpened {
    /// Reads a result.
    pub fn from_result(result: Value) -> Self {
        json::from_value(&result).unwrap_or_default()
    }

    /// Whether the session can be put into this mode.
    pub fn offers_mode(&self, mode: &str) -> bool {
        self.modes.available_modes.iter().any(|m| m.id == mode)
    }

    /// Whether the session can use this model.
    pub fn offers_model(&self, model: &str) -> bool {
        self.models.available_models.iter().any(|m| m.model_id == model)
    }
}

/// `session/new`, and `session/load` with an id.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenParams<'a> {
    /// The session to load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<&'a str>,
    /// Working directory.
    pub cwd: &'a Path,
    /// MCP servers for the session.
    pub mcp_servers: Vec<McpEntry<'a>>,
    /// What OpenClaw wants besides.
    #[serde(rename = "_meta", skip_serializing_if = "Option::is_none")]
    pub meta: Option<SessionKeyMeta<'a>>,
}

/// OpenClaw's key of a conversation.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionKeyMeta<'a> {
    /// The key.
    pub session_key: &'a str,
}

/// An MCP server as the protocol writes it.
#[derive(Serialize)]
#[serde(untagged)]
pub enum McpEntry<'a> {
    /// Started by the agent.
    Stdio {
        /// Name.
        name: &'a str,
        /// Program.
        command: &'a str,
        /// Arguments.
        args: &'a [String],
        /// Variables.
        env: Vec<Pair<'a>>,
    },
    /// Reached over HTTP.
    Http {
        /// Always `http`.
        #[serde(rename = "type")]
        kind: &'static str,
        /// Name.
        name: &'a str,
        /// Address.
        url: &'a str,
        /// Headers.
        headers: Vec<Pair<'a>>,
    },
}

/// A variable or a header.
#[derive(Serialize)]
pub struct Pair<'a> {
    name: &'a str,
    value: &'a str,
}

/// The configured servers that an agent can use.
pub fn mcp_entries(servers: &[McpServer], capabilities: McpCapabilities) -> Vec<McpEntry<'_>> {
    servers
        .iter()
        .filter_map(|server| match server {
            McpServer::Stdio { name, command, args, env } => Some(McpEntry::Stdio {
                name,
                command,
                args,
                env: env.iter().map(|(name, value)| Pair { name, value }).collect(),
            }),
            McpServer::Http { name, url, headers } if capabilities.http => Some(McpEntry::Http {
                kind: "http",
                name,
                url,
                headers: headers.iter().map(|(name, value)| Pair { name, value }).collect(),
            }),
            McpServer::Http { .. } => None,
        })
        .collect()
}

/// `session/cancel`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionParams<'a> {
    /// The session.
    pub session_id: &'a str,
}

/// `session/set_mode`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetModeParams<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The mode.
    pub mode_id: &'a str,
}

/// `session/set_model`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetModelParams<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The model.
    pub model_id: &'a str,
}

/// `session/prompt`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PromptParams<'a> {
    /// The session.
    pub session_id: &'a str,
    /// What the agent is told.
    pub prompt: [TextPart<'a>; 1],
}

/// Words.
#[derive(Serialize)]
pub struct TextPart<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    text: &'a str,
}

impl<'a> TextPart<'a> {
    /// A part of a prompt.
    pub fn new(text: &'a str) -> Self {
        Self { kind: "text", text }
    }
}

/// Result of `session/prompt`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Prompted {
    /// Why the agent stopped; `end_turn` when it does not say.
    #[serde(deserialize_with = "lenient")]
    stop_reason: Option<String>,
    #[serde(deserialize_with = "lenient")]
    usage: Option<PromptUsage>,
    #[serde(rename = "_meta", deserialize_with = "lenient")]
    meta: Option<PromptMeta>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_field_names, reason = "the names on the wire")]
struct PromptUsage {
    #[serde(deserialize_with = "lenient")]
    input_tokens: u64,
    #[serde(deserialize_with = "lenient")]
    output_tokens: u64,
    #[serde(deserialize_with = "lenient")]
    cached_read_tokens: u64,
    #[serde(deserialize_with = "lenient")]
    thought_tokens: u64,
    #[serde(deserialize_with = "lenient")]
    total_tokens: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
struct PromptMeta {
    quota: Quota,
}

#[derive(Clone, Debug, Deserialize)]
struct Quota {
    token_count: TokenCount,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct TokenCount {
    input_tokens: u64,
    output_tokens: u64,
}

impl Prompted {
    /// Reads a result.
    pub fn from_result(result: Value) -> Self {
        json::from_value(&result).unwrap_or_default()
    }

    /// Why the agent stopped.
    pub fn stop_reason(&self) -> &str {
        self.stop_reason.as_deref().unwrap_or("end_turn")
    }

    /// Tokens of the turn. Agents disagree on whether their input number includes what came from the
    /// cache; the total tells it for both.
    pub fn usage(&self) -> Option<Usage> {
        if let Some(usage) = self.usage {
            let output = usage.output_tokens.saturating_add(usage.thought_tokens);
            let hit = usage.cached_read_tokens;
            let miss = match usage.total_tokens {
                Some(total) => total.saturating_sub(output).saturating_sub(hit),
                None => usage.input_tokens,
            };
            return Some(Usage { hit, miss, output });
        }
        let count = self.meta.as_ref()?.quota.token_count;
        Some(Usage { hit: 0, miss: count.input_tokens, output: count.output_tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_ways_of_counting_input_give_the_same_usage() {
        let usage = |v| Prompted::from_result(json!({ "usage": v })).usage();
        let expected = Some(Usage { hit: 100, miss: 20, output: 7 });
        assert_eq!(
            usage(json!({"inputTokens":20,"outputTokens":7,"cachedReadTokens":100,"totalTokens":127})),
            expected
        );
        let thoughts =
            json!({"inputTokens":120,"outputTokens":3,"thoughtTokens":4,"cachedReadTokens":100,"totalTokens":127});
        assert_eq!(usage(thoughts), expected);
        assert_eq!(usage(json!({"inputTokens":20,"outputTokens":7,"cachedReadTokens":100})), expected);
        assert_eq!(usage(json!("odd")), None);
    }

    #[test]
    fn odd_answers_count_as_empty_ones() {
        for odd in [json!(null), json!([]), json!({"stopReason": 3}), json!("x")] {
            assert_eq!(Prompted::from_result(odd).stop_reason(), "end_turn");
        }
        let opened = SessionOpened::from_result(json!({"sessionId":"s","modes":{"availableModes":[3]},"models":null}));
        assert_eq!(opened.session_id.as_deref(), Some("s"));
        assert!(!opened.offers_mode("x"));
    }

    #[test]
    fn http_servers_go_only_to_agents_that_can_reach_them() {
        let servers: Vec<McpServer> = serde_json::from_value(json!([
            {"name":"a","url":"http://x","headers":{"k":"v"}}, {"name":"b","command":"run","env":{"E":"1"}}]))
        .unwrap();
        let written = |http| json!(mcp_entries(&servers, McpCapabilities { http }));
        assert_eq!(written(false), json!([{"name":"b","command":"run","args":[],"env":[{"name":"E","value":"1"}]}]));
        assert_eq!(
            written(true)[0],
            json!({"type":"http","name":"a","url":"http://x","headers":[{"name":"k","value":"v"}]})
        );
    }
}
