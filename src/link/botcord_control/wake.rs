//! `wake_agent`: a scheduled turn, as a message of the engine. Pure.

use serde_json::{Map, Value, json};

use super::frame::Refused;
use crate::message::Inbound;
use crate::message::document;

/// What the hub wants an agent to do by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Wake {
    /// The agent.
    pub agent: String,
    /// What it is told.
    pub message: Inbound,
    /// The same for every repetition of this wake.
    pub dedupe_key: String,
}

/// Reads the parameters. `loaded` tells whether an agent has a channel here.
pub fn read(params: &Value, now_ms: i64, loaded: impl Fn(&str) -> bool) -> Result<Wake, Refused> {
    let params = params.as_object().ok_or_else(|| Refused::params("params: expected an object"))?;
    let given = |snake: &str, camel: &str| params.get(snake).or_else(|| params.get(camel)).filter(|v| !v.is_null());
    let text = |snake: &str, camel: &str| given(snake, camel).and_then(Value::as_str).filter(|t| !t.is_empty());
    let agent = text("agent_id", "agentId").ok_or_else(|| Refused::params("agent_id: expected a non-empty string"))?;
    let words = text("message", "message").ok_or_else(|| Refused::params("message: expected a non-empty string"))?;
    if !loaded(agent) {
        return Err(Refused::new("agent_not_loaded", format!("{agent} has no channel here")));
    }
    let policy = match given("session_policy", "sessionPolicy") {
        None => "reuse_per_schedule",
        Some(Value::String(policy)) if policy == "fresh_per_run" || policy == "reuse_per_schedule" => policy,
        Some(_) => return Err(Refused::params("session_policy: expected fresh_per_run or reuse_per_schedule")),
    };
    let epoch = match given("session_epoch", "sessionEpoch") {
        None => None,
        Some(epoch) => match epoch.as_f64().filter(|n| n.fract() == 0.0 && *n >= 1.0 && *n < 9e15) {
            Some(epoch) => Some(epoch as i64),
            None => return Err(Refused::params("session_epoch: expected a positive integer")),
        },
    };
    let run = text("run_id", "runId").map_or_else(|| format!("wake-{now_ms}"), ToOwned::to_owned);
    let schedule = text("schedule_id", "scheduleId");
    let thread = match (policy, schedule) {
        ("fresh_per_run", Some(schedule)) => Some(format!("{schedule}:run:{run}")),
        ("fresh_per_run", None) => Some(run.clone()),
        (_, None) => None,
        (_, Some(schedule)) => Some(epoch.map_or_else(|| schedule.to_owned(), |n| format!("{schedule}:v{n}"))),
    };
    let dedupe_key = text("dedupe_key", "dedupeKey");
    let mut raw = Map::new();
    raw.insert("source_type".into(), "botcord_schedule".into());
    for (key, value) in [
        ("schedule_id", schedule),
        ("scheduled_for", text("scheduled_for", "scheduledFor")),
        ("dispatched_at", text("dispatched_at", "dispatchedAt")),
        ("run_id", Some(run.as_str())),
        ("dedupe_key", dedupe_key),
        ("session_policy", Some(policy)),
    ] {
        if let Some(value) = value {
            raw.insert(key.into(), value.into());
        }
    }
    if let Some(epoch) = epoch {
        raw.insert("session_epoch".into(), epoch.into());
    }
    let mut message = json!({
        "id": run, "channel": agent, "accountId": agent,
        "conversation": {"id": format!("rm_schedule_{agent}"), "kind": "direct", "title": "BotCord Scheduler"},
        "sender": {"id": "hub", "name": "BotCord Scheduler", "kind": "system"},
        "text": words, "raw": raw, "mentioned": true, "receivedAt": now_ms,
        "trace": {"id": run, "streamable": false},
    });
    if let Some(thread) = thread {
        message["conversation"]["threadId"] = thread.into();
    }
    Ok(Wake {
        agent: agent.to_owned(),
        message: document::parse(&message).map_err(|e| Refused::failed(e.to_string()))?,
        dedupe_key: dedupe_key.unwrap_or(&run).to_owned(),
    })
}
