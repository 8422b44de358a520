//! What the hub asks of snapshots before it stores them.

use serde_json::Value;

/// How far ahead `probedAt` may be, in milliseconds.
const AHEAD: f64 = 300_000.0;

fn probed(params: &Value, now: i64) -> bool {
    params["probedAt"].as_f64().is_some_and(|at| at > 0.0 && at <= now as f64 + AHEAD)
}

fn is_fingerprint(value: &Value) -> bool {
    let hex = value.as_str().and_then(|text| text.strip_prefix("sha256:")).unwrap_or_default();
    hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a `runtime_snapshot` is stored.
pub fn runtime_snapshot(params: &Value, now: i64) -> bool {
    let Some(runtimes) = params["runtimes"].as_array() else { return false };
    let version = match &params["daemonVersion"] {
        Value::Null => true,
        Value::String(text) => text.chars().count() <= 64,
        _ => false,
    };
    let keys = match &params["hubControlTrustKeyFingerprints"] {
        Value::Null => true,
        Value::Array(keys) => keys.len() <= 16 && keys.iter().all(is_fingerprint),
        _ => false,
    };
    runtimes.len() <= 64 && runtimes.iter().all(Value::is_object) && probed(params, now) && version && keys
}

/// Whether an `agent_skill_snapshot` is stored.
pub fn skill_snapshot(params: &Value, now: i64) -> bool {
    let filled = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    let Some(skills) = params["skills"].as_array() else { return false };
    let sound = |skill: &Value| filled(&skill["name"]) && filled(&skill["source"]) && skill["mtimeMs"].is_number();
    filled(&params["agentId"]) && skills.len() <= 10_000 && skills.iter().all(sound) && probed(params, now)
}
