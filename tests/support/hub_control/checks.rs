//! What the hub asks of snapshots before it stores them.

use serde_json::{Value, json};

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

/// What the hub keeps of one that is stored: how many runtimes, how many endpoints the first one has, and the rest.
pub fn stored_runtimes(params: &Value) -> Value {
    let runtimes = params["runtimes"].as_array().map_or(&[][..], Vec::as_slice);
    let endpoints = runtimes.first().and_then(|first| first["endpoints"].as_array()).map(|all| all.len().min(32));
    let mut keys: Vec<&Value> = Vec::new();
    for key in params["hubControlTrustKeyFingerprints"].as_array().into_iter().flatten() {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let keys = if keys.is_empty() { Value::Null } else { json!(keys) };
    json!({"runtimes": runtimes.len(), "endpoints_first": endpoints, "fingerprints": keys,
           "daemon_version": params["daemonVersion"].as_str().map(str::trim)})
}

/// What the hub keeps of the skills of one that is stored.
pub fn stored_skills(params: &Value) -> Value {
    const TEXTS: [(&str, usize); 7] = [
        ("name", 128),
        ("source", 64),
        ("description", 500),
        ("runtime", 64),
        ("path", 1_024),
        ("sourceDetail", 128),
        ("profile", 128),
    ];
    let row = |skill: &Value| {
        let at = skill["mtimeMs"].as_f64().unwrap_or_default();
        let time =
            jiff::Timestamp::from_millisecond(at as i64).unwrap().strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string();
        let mut row = json!({"mtimeMs": skill["mtimeMs"], "mtimeAt": time});
        for (key, most) in TEXTS {
            if let Some(text) = skill[key].as_str() {
                row[key] = text.chars().take(most).collect::<String>().into();
            }
        }
        row
    };
    json!({"skills": params["skills"].as_array().into_iter().flatten().map(row).collect::<Vec<_>>()})
}

/// Whether an `agent_skill_snapshot` is stored.
pub fn skill_snapshot(params: &Value, now: i64) -> bool {
    let filled = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    let Some(skills) = params["skills"].as_array() else { return false };
    let sound = |skill: &Value| filled(&skill["name"]) && filled(&skill["source"]) && skill["mtimeMs"].is_number();
    filled(&params["agentId"]) && skills.len() <= 10_000 && skills.iter().all(sound) && probed(params, now)
}
