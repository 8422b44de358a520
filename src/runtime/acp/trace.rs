//! The trace of an ACP conversation: what went over the wire, without what was said.
//!
//! One JSON line per event in `<directory>/<runtime>/<key>.jsonl`. Prompts and replies are reduced to their
//! sizes, secrets are taken out, and nothing that goes wrong here affects a turn.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::rpc::Incoming;
use crate::json;
use crate::redact;
use crate::text;
use crate::time;

/// A file is set aside when it has more bytes than this and a record is due.
const FILE_LIMIT: u64 = 2_097_152;
/// How many files set aside are kept.
const KEPT_FILES: usize = 20;
/// Longest `error`, in UTF-16 units.
const ERROR_LIMIT: usize = 1_000;
/// Longest `chunk`, in UTF-16 units.
const CHUNK_LIMIT: usize = 2_000;
/// Longest beginning of a string, in UTF-16 units.
const PREVIEW_LIMIT: usize = 160;
/// Most keys that are listed of an object.
const KEYS_LIMIT: usize = 20;
/// Longest line that is parsed once more for the trace, in bytes.
const LINE_LIMIT: usize = 1_048_576;
/// Members whose words are the agent's or the room's: only their size is written.
const PRIVATE: [&str; 12] = [
    "text",
    "content",
    "prompt",
    "message",
    "output",
    "response",
    "rawInput",
    "rawOutput",
    "assistantTexts",
    "details",
    "data",
    "title",
];

/// Where traces go and how much they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// `<home>/logs/acp`; `None` switches traces off.
    pub directory: Option<PathBuf>,
    /// Write parameters and results whole (still redacted).
    pub verbose: bool,
}

impl TraceSettings {
    /// From the daemon's variables: `BOTCORD_ACP_LOGS=0` switches traces off, `BOTCORD_ACP_TRACE=verbose`
    /// makes them whole; the prefix `BELLHOP_` wins.
    pub fn from_vars(home: &Path, var: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| var(&format!("BELLHOP_{name}")).or_else(|| var(&format!("BOTCORD_{name}")));
        let off = either("ACP_LOGS").as_deref() == Some("0");
        Self {
            directory: (!off).then(|| home.join("logs/acp")),
            verbose: either("ACP_TRACE").as_deref() == Some("verbose"),
        }
    }
}

/// What every record of a turn says.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceFacts {
    /// Runtime id.
    pub runtime: String,
    /// Agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// Turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<String>,
    /// Message that is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_id: Option<String>,
    /// Topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// OpenClaw gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_name: Option<String>,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_url: Option<String>,
    /// Hermes profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hermes_profile: Option<String>,
    /// Session, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
}

impl TraceFacts {
    /// The facts of a run.
    pub fn of_run(runtime: &str, request: &crate::engine::ports::RunRequest) -> Self {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            runtime: runtime.to_owned(),
            account_id: some(&request.agent),
            turn_id: some(&request.turn_id),
            message_id: some(&request.message_id),
            room_id: some(&request.room_id),
            topic_id: request.topic_id.clone(),
            gateway_name: request.gateway.as_ref().map(|g| g.name.clone()),
            gateway_url: request.gateway.as_ref().map(|g| g.url.clone()),
            hermes_profile: request.hermes_profile.clone(),
            session_id: None,
        }
    }

    fn file(&self) -> PathBuf {
        let qclaw = self.gateway_name.as_deref().is_some_and(|name| name.to_lowercase().contains("qclaw"))
            || self.gateway_url.as_deref().is_some_and(|url| url.trim_end_matches('/').ends_with(":28789"));
        let runtime = if qclaw && self.runtime == "openclaw-acp" { "qclaw-acp" } else { &self.runtime };
        let parts = [&self.account_id, &self.gateway_name, &self.hermes_profile, &self.room_id];
        let parts: Vec<_> = parts.into_iter().flatten().map(|part| file_part(part)).collect();
        let key = if parts.is_empty() { "default".to_owned() } else { parts.join("_") };
        // Four long ids could exceed what a file system takes as one name.
        let key = text::head(&key, 200);
        Path::new(&file_part(runtime)).join(format!("{key}.jsonl"))
    }
}

/// A part of a file name: everything unusual becomes `_`, at most 120 characters.
fn file_part(part: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let part: String = part.chars().take(120).map(plain).collect();
    if part.chars().all(|c| c == '.') { "_".repeat(part.len().max(1)) } else { part }
}

/// Writes the records of one turn or one process.
pub struct Trace {
    file: Option<PathBuf>,
    verbose: bool,
    facts: TraceFacts,
    pid: Option<i32>,
}

impl Trace {
    /// A trace; nothing is created before the first record.
    pub fn new(settings: &TraceSettings, facts: TraceFacts) -> Self {
        let file = settings.directory.as_ref().map(|directory| directory.join(facts.file()));
        Self { file, verbose: settings.verbose, facts, pid: None }
    }

    /// A trace that writes nothing.
    pub fn off() -> Self {
        Self { file: None, verbose: false, facts: TraceFacts::default(), pid: None }
    }

    /// The session is known now.
    pub fn session(&mut self, id: &str) {
        self.facts.session_id = Some(id.to_owned());
    }

    /// A child was started.
    pub fn child_start(&mut self, pid: i32) {
        self.pid = Some(pid);
        self.record("child_start", Map::new());
    }

    /// A child has ended.
    pub fn child_exit(&mut self, code: Option<i32>, signal: Option<i32>) {
        self.record("child_exit", object([("code", json!(code)), ("signal", json!(signal))]));
    }

    /// A child could not be started.
    pub fn child_error(&mut self, error: &str) {
        self.record("child_error", object([("error", json!(text::clip(&redact::text(error), ERROR_LIMIT)))]));
    }

    /// The watchdog has fired.
    pub fn idle_timeout(&mut self) {
        self.record("idle_timeout", Map::new());
    }

    /// A line of standard error.
    pub fn stderr(&mut self, line: &str) {
        if self.file.is_some() {
            self.record("stderr", object([("chunk", json!(text::clip(&redact::text(line), CHUNK_LIMIT)))]));
        }
    }

    /// A line that was written to the agent.
    pub fn sent(&mut self, line: &[u8]) {
        if self.file.is_none() || line.len() > LINE_LIMIT {
            return;
        }
        let Ok(message) = json::parse(line) else { return };
        self.message("rpc_out", "out", &message);
    }

    /// A line that the agent wrote.
    pub fn received(&mut self, line: &str, incoming: &Incoming) {
        if self.file.is_none() {
            return;
        }
        if *incoming == Incoming::Garbage {
            let chunk = text::clip(&redact::text(text::head(line, 4 * CHUNK_LIMIT)), CHUNK_LIMIT);
            self.record("stdout_non_json", object([("chunk", json!(chunk))]));
        } else if line.len() <= LINE_LIMIT
            && let Ok(message) = json::parse(line.as_bytes())
        {
            self.message("rpc_in", "in", &message);
        }
    }

    fn message(&mut self, stream: &str, direction: &str, message: &Value) {
        let status = match (message.get("method"), message.get("id"), message.get("error")) {
            (Some(_), Some(_), _) => "request",
            (Some(_), None, _) => "notification",
            (None, _, Some(error)) if !error.is_null() => "error",
            _ => "response",
        };
        let mut fields = object([("direction", json!(direction)), ("status", json!(status))]);
        for name in ["id", "method"] {
            if let Some(value) = message.get(name) {
                fields.insert(name.to_owned(), value.clone());
            }
        }
        for name in ["params", "result"] {
            if let Some(value) = message.get(name) {
                let value = if self.verbose { redacted(value, 0) } else { reduced(value, 0) };
                fields.insert(name.to_owned(), value);
            }
        }
        if let Some(error) = message.get("error").filter(|e| !e.is_null()) {
            let error = super::rpc::RpcError::from_value(error).coded_text();
            fields.insert("error".to_owned(), json!(text::clip(&redact::text(&error), ERROR_LIMIT)));
        }
        self.record(stream, fields);
    }

    fn record(&mut self, stream: &str, fields: Map<String, Value>) {
        let Some(path) = &self.file else { return };
        let Ok(Value::Object(mut facts)) = json::to_value(&self.facts) else { return };
        // An address may hold a secret.
        if let Some(Value::String(url)) = facts.get_mut("gatewayUrl") {
            *url = redact::text(url);
        }
        let mut record = object([("ts", json!(time::rfc3339(time::now_ms())))]);
        record.extend(facts);
        record.insert("stream".to_owned(), json!(stream));
        if let Some(pid) = self.pid {
            record.insert("pid".to_owned(), json!(pid));
        }
        record.extend(fields);
        if let Err(error) = append(path, &Value::Object(record)) {
            log::debug!("acp.trace file={} error={error}", path.display());
            // A disk that is full or a directory that is not ours would fail for every line.
            self.file = None;
        }
    }
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn append(path: &Path, record: &Value) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    if std::fs::metadata(path).is_ok_and(|m| m.len() > FILE_LIMIT) {
        set_aside(path)?;
    }
    let mut line = json::to_vec(record)?;
    line.push(b'\n');
    let mut file: File = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(&line)
}

/// Renames a full file and removes the oldest of those set aside before.
fn set_aside(path: &Path) -> std::io::Result<()> {
    let stamp = time::rfc3339(time::now_ms()).replace([':', '.'], "-");
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    std::fs::rename(path, path.with_file_name(format!("{name}.{stamp}.{}", std::process::id())))?;
    let Some(directory) = path.parent() else { return Ok(()) };
    let prefix = format!("{name}.");
    let mut old: Vec<_> = std::fs::read_dir(directory)?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    crate::sort::sort(&mut old);
    let surplus = old.len().saturating_sub(KEPT_FILES);
    for path in old.into_iter().take(surplus) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

fn is_secret(key: &str) -> bool {
    let key: String = key.to_lowercase().chars().filter(|c| !matches!(c, '_' | '-' | ' ')).collect();
    ["token", "secret", "privatekey", "apikey", "authorization", "password"].iter().any(|word| key.contains(word))
}

/// Counts of tokens are no secrets.
fn hides(key: &str, value: &Value) -> bool {
    is_secret(key) && !value.is_number()
}

/// The whole value without secrets, cut at a depth that no message of the protocol has.
fn redacted(value: &Value, depth: usize) -> Value {
    match value {
        _ if depth > 32 => json!("[…]"),
        Value::String(s) => json!(redact::text(s)),
        Value::Array(items) => items.iter().map(|item| redacted(item, depth + 1)).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(k, v)| (k.clone(), if hides(k, v) { json!("[REDACTED]") } else { redacted(v, depth + 1) }))
            .collect::<Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

/// What the value is, and how large, instead of the value.
fn reduced(value: &Value, depth: usize) -> Value {
    let Value::Object(map) = value else { return size_of(value, None) };
    if depth > 1 {
        return size_of(value, None);
    }
    let member = |(key, value): (&String, &Value)| {
        let kept = match key.as_str() {
            _ if hides(key, value) => json!("[REDACTED]"),
            "cwd" | "sessionId" => redacted(value, 0),
            "prompt" => prompt_sizes(value),
            "_meta" | "update" | "toolCall" => reduced(value, depth + 1),
            _ => size_of(value, Some(key)),
        };
        (key.clone(), kept)
    };
    map.iter().map(member).collect::<Map<_, _>>().into()
}

fn prompt_sizes(prompt: &Value) -> Value {
    let size = |part: &Value| {
        let bytes = part.get("text").and_then(Value::as_str).map_or(0, str::len);
        json!({"type": part.get("type").and_then(Value::as_str).unwrap_or("text"), "textBytes": bytes})
    };
    prompt.as_array().map_or_else(|| size_of(prompt, None), |parts| parts.iter().take(KEYS_LIMIT).map(size).collect())
}

fn size_of(value: &Value, key: Option<&str>) -> Value {
    match value {
        Value::String(s) if key.is_some_and(|k| !PRIVATE.contains(&k)) => {
            json!({"bytes": s.len(), "preview": text::clip(&redact::text(text::head(s, 4 * PREVIEW_LIMIT)), PREVIEW_LIMIT)})
        }
        Value::String(s) => json!({"bytes": s.len()}),
        Value::Array(items) => json!({"type": "array", "length": items.len()}),
        Value::Object(map) => json!({"type": "object", "keys": map.keys().take(KEYS_LIMIT).collect::<Vec<_>>()}),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn words_are_reduced_to_their_size() {
        let prompt =
            json!({"sessionId":"s","cwd":"/w","prompt":[{"type":"text","text":"a secret plan"}],"apiToken":"t"});
        let expected =
            json!({"sessionId":"s","cwd":"/w","prompt":[{"type":"text","textBytes":13}],"apiToken":"[REDACTED]"});
        assert_eq!(reduced(&prompt, 0), expected);
        let update =
            json!({"update":{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"words"},"x":"y"}});
        let written = reduced(&update, 0);
        assert!(!written.to_string().contains("words"), "{written}");
        assert_eq!(written["update"]["sessionUpdate"]["preview"], "agent_message_chunk");
        assert_eq!(reduced(&json!({"usage":{"totalTokens":3}}), 0)["usage"]["keys"], json!(["totalTokens"]));
    }

    #[test]
    fn file_names_are_plain() {
        let facts = TraceFacts {
            runtime: "openclaw-acp".into(),
            account_id: Some("ag/1".into()),
            gateway_name: Some("My QClaw".into()),
            room_id: Some("..".into()),
            ..TraceFacts::default()
        };
        assert_eq!(facts.file(), Path::new("qclaw-acp/ag_1_My_QClaw___.jsonl"));
        let other = TraceFacts { runtime: "acp:x".into(), ..TraceFacts::default() };
        assert_eq!(other.file(), Path::new("acp_x/default.jsonl"));
    }

    #[test]
    fn records_are_private_lines() {
        let home = std::env::temp_dir().join(format!("bellhop-trace-{}", std::process::id()));
        let settings = TraceSettings::from_vars(&home, |_| None);
        let mut trace = Trace::new(&settings, TraceFacts { runtime: "hermes-agent".into(), ..TraceFacts::default() });
        trace.child_start(7);
        trace.received("banner", &Incoming::Garbage);
        trace.sent(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{}}\n");
        let path = home.join("logs/acp/hermes-agent/default.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        let streams: Vec<_> = text
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap()["stream"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(streams, ["child_start", "stdout_non_json", "rpc_out"]);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_dir_all(&home).unwrap();
        let facts = TraceFacts {
            runtime: "x".into(),
            gateway_url: Some("wss://u:hush@h/?token=hush".into()),
            ..TraceFacts::default()
        };
        Trace::new(&TraceSettings { directory: Some(home.clone()), verbose: false }, facts).child_start(1);
        let text = std::fs::read_to_string(home.join("x/default.jsonl")).unwrap();
        assert!(!text.contains("hush"), "{text}");
        std::fs::remove_dir_all(&home).unwrap();
        assert_eq!(TraceSettings::from_vars(&home, |n| (n == "BELLHOP_ACP_LOGS").then(|| "0".into())).directory, None);
    }
}
