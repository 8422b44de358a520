//! Known answers about whole turns: what a run leads to, and what messages that wait become.

mod support;

use std::sync::Arc;

use serde_json::{Value, json};

use bellhop::engine::ports::{FailureSummary, RunError, RunResult, Thrown};
use bellhop::message::document;
use support::engine::{Build, Gate, Harness, TempDir, answer, message, script};
use support::vector_file;

#[test]
fn turn_outcome_vectors() {
    vector_file::check("turn-outcome", &[], |input| {
        known_keys(input, &["runtime", "channel", "conversation", "prior_session", "prior_turns", "steps"]);
        let runtime = input["runtime"].as_str().unwrap_or("claude-code").to_owned();
        let mut m = message("m1", "hello");
        if let Some(id) = input["conversation"]["id"].as_str() {
            m.conversation.id = id.into();
        }
        if input["conversation"]["kind"] == "group" {
            m.conversation.kind = bellhop::message::ConversationKind::Group;
        }
        let dir = Arc::new(TempDir::new("outcome"));
        if let Some(session) = input["prior_session"].as_str() {
            let key = m.session_key(&runtime);
            let entry = json!({
                "key": key, "runtime": runtime, "runtimeSessionId": session, "channel": m.channel,
                "accountId": m.account_id, "conversationKind": m.conversation.kind, "conversationId": m.conversation.id,
                "cwd": dir.0, "updatedAt": bellhop::engine::now_ms(), "turnCount": input["prior_turns"].as_u64().unwrap_or(1),
            });
            let document = json!({"version": 1, "entries": {key: entry}});
            std::fs::write(dir.0.join("sessions.json"), document.to_string()).unwrap();
        }
        let steps = input["steps"].as_array().unwrap().clone();
        let run = script(move |n, _, _, _| step(&steps[n.min(steps.len() - 1)]));
        let build = Build { script: run, default_runtime: runtime, ..Build::default() };
        let h = Harness::in_dir(dir, build);
        h.handle(m);
        let runs = h.runtime.runs.all();
        let sends: Vec<Value> = h
            .channel
            .sent
            .all()
            .iter()
            .map(|o| json!({"type": o.kind, "text": hide_reference(&o.text), "has_error_ref": o.error_ref.is_some()}))
            .collect();
        let session =
            h.sessions().into_values().next().map(|e| json!({"id": e.runtime_session_id, "turnCount": e.turn_count}));
        let transcript = h.transcript();
        let field = |kind: &str, field: &str| {
            transcript.iter().find(|r| r["kind"] == kind).map_or(Value::Null, |r| r[field].clone())
        };
        json!({
            "runs": runs.len(),
            "run_sessions": runs.iter().map(|r| r.session.as_ref().map(|s| s.id.clone())).collect::<Vec<_>>(),
            "recovery_prompt": runs.iter().map(|r| r.text.starts_with("[recovery]")).collect::<Vec<_>>(),
            "sends": sends,
            "session": session,
            "delivery_status": field("outbound", "deliveryStatus"),
            "turn_error_phase": field("turn_error", "phase"),
        })
    });
}

fn known_keys(value: &Value, known: &[&str]) {
    for key in value.as_object().unwrap().keys() {
        assert!(known.contains(&key.as_str()), "unknown key {key}");
    }
}

fn step(step: &Value) -> Result<RunResult, Thrown> {
    known_keys(step, &["text", "error", "newSessionId", "exit_code", "throw"]);
    if let Some(message) = step["throw"].as_str() {
        return Err(Thrown::new(message));
    }
    let exit_code = step["exit_code"].as_i64().map(|c| i32::try_from(c).unwrap());
    Ok(RunResult {
        error: step["error"].as_str().map(|message| RunError { message: message.into(), class: None }),
        failure: exit_code.map(|code| FailureSummary { exit_code: Some(code), ..FailureSummary::default() }),
        ..answer(step["text"].as_str().unwrap_or_default(), step["newSessionId"].as_str().unwrap_or_default())
    })
}

/// The reference is random: `err_` and twelve hex digits.
fn hide_reference(text: &str) -> String {
    match text.split_once("err_") {
        Some((before, after)) if after.len() > 12 && after[..12].chars().all(|c| c.is_ascii_hexdigit()) => {
            format!("{before}err_<12hex>{}", &after[12..])
        }
        _ => text.to_owned(),
    }
}

#[test]
fn coalesce_vectors() {
    vector_file::check("coalesce", &[], |input| {
        known_keys(input, &["arrivals"]);
        let gate = Arc::new(Gate::default());
        let pass = Arc::clone(&gate);
        let run = script(move |_, _, cancel, _| {
            pass.pass(cancel);
            Ok(answer("ok", "s"))
        });
        let h = Harness::build("coalesce", Build { script: run, ..Build::default() });
        h.accept(support::engine::group("rm_g", "m_first", "first"));
        h.runtime.runs.wait(1);
        let arrivals = input["arrivals"].as_array().unwrap();
        for arrival in arrivals {
            h.accept(document::parse(&full_document(arrival)).unwrap());
        }
        gate.open();
        h.channel.settled.wait(2);
        assert!(h.engine.wait_idle(support::engine::PATIENCE));
        let composed = h.prompts.composed.all().pop().unwrap();
        let batch = arrivals.len() > 1;
        let text = Some(composed.text.clone()).filter(|t| t.len() <= 1_000);
        let dropped: Vec<Value> =
            h.transcript().into_iter().filter(|r| r["kind"] == "dropped").map(|r| r["reason"].clone()).collect();
        let mentioned: Vec<_> = composed.entries.iter().map(|e| e.mentioned).collect();
        json!({
            "anchor_id": composed.id,
            "text": text,
            "mentioned": batch.then_some(composed.mentioned),
            "batch_ids": batch.then(|| composed.entries.iter().map(|e| e.id.clone()).collect::<Vec<_>>()),
            "batch_mentioned": batch.then_some(mentioned),
            "turns": h.runtime.runs.len(),
            "dropped": dropped,
        })
    });
}

/// The vector's short form as a whole message document.
fn full_document(arrival: &Value) -> Value {
    known_keys(arrival, &["id", "text", "text_repeat", "raw", "mentioned"]);
    let text = match &arrival["text_repeat"] {
        Value::Null => arrival["text"].as_str().unwrap().to_owned(),
        repeat => repeat["unit"].as_str().unwrap().repeat(usize::try_from(repeat["count"].as_u64().unwrap()).unwrap()),
    };
    let mut raw = arrival["raw"].clone();
    if raw.get("text").is_none() {
        raw["text"] = text.clone().into();
    }
    json!({
        "id": arrival["id"], "channel": "botcord", "accountId": "ag_me",
        "conversation": {"id": "rm_g", "kind": "group"}, "sender": {"id": "ag_peer", "kind": "agent"},
        "text": text, "raw": raw, "mentioned": arrival.get("mentioned").cloned().unwrap_or(false.into()), "receivedAt": 0,
    })
}
