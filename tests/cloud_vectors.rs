//! Vectors of sandboxes: what the environment says, what a run has used, messages that an ingress hands in.
#![allow(missing_docs)]

use bellhop::config::cloud::Cloud;
use bellhop::engine::ports::Usage;
use bellhop::engine::settle::settlement;
use bellhop::link::botcord_control::frame::Refused;
use bellhop::link::botcord_control::ingress;
use bellhop::link::botcord_control::settle::{Fate, fate, first};
use bellhop::message::document;
use serde_json::{Map, Value, json};

/// Runs the cases of one kind. That every kind is known to somebody is tested beside the other vectors of the link.
#[track_caller]
fn check(file: &str, kind: &str, run: impl Fn(&Value) -> Value) {
    let path = format!("{}/tests/vectors/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases: Vec<&Value> = cases.iter().filter(|case| case["input"]["kind"] == kind).collect();
    assert!(!cases.is_empty(), "{file}: no case of kind {kind}");
    let wrong = |case: &&Value| {
        let found = run(&case["input"]);
        (found != case["expect"])
            .then(|| format!("{}:\n  expected {}\n  found    {found}", case["name"], case["expect"]))
    };
    let failed: Vec<String> = cases.iter().filter_map(wrong).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn environments() {
    check("daemon-local", "cloud_env", |input| {
        match Cloud::read(|name| input["env"][name].as_str().map(str::to_owned)) {
            Ok(None) => json!({"cloud": false}),
            Err(_) => json!({"cloud": true, "ok": false}),
            Ok(Some(cloud)) => json!({"cloud": true, "ok": true, "value": {
                "hubUrl": cloud.hub_url, "cloudDaemonInstanceId": cloud.cloud_instance_id,
                "daemonInstanceId": cloud.instance_id, "accessToken": cloud.access_token,
            }}),
        }
    });
}

#[test]
fn settlements() {
    check("control-frames", "settle", |input| {
        let text = |key: &str| input[key].as_str().unwrap();
        let message = document::parse(&json!({
            "id": "m", "channel": "ag_1", "accountId": "ag_1", "conversation": {"id": "rm_oc_1", "kind": "direct"},
            "sender": {"id": "ag_1", "kind": "user"}, "text": "p", "receivedAt": 0, "raw": {"envelope": input["envelope"]},
        }));
        let run = message.unwrap().cloud_run;
        let wants = run.as_ref().is_some_and(|run| run.settle_usage);
        let count = |key: &str| input["tokens"][key].as_f64().unwrap_or(0.0).max(0.0) as u64;
        let usage = Usage {
            hit: count("inputCacheHitTokens"),
            miss: count("inputCacheMissTokens"),
            output: count("outputTokens"),
        };
        let wall = input["wall_time_ms"].as_f64().unwrap() as u64;
        let made = run.and_then(|run| settlement(&run, wall, Some(usage), None));
        let post = made.map(|settlement| first(text("hub_url"), text("access_token"), &settlement));
        let level = match &post {
            Some(_) if fate(200) == Fate::Settled => json!("info"),
            None if wants => json!("warn"),
            _ => Value::Null,
        };
        let request = post.map_or(Value::Null, |post| {
            let headers: Map<String, Value> =
                post.headers.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
            json!({"method": "POST", "url": post.url, "headers": headers, "body": post.body})
        });
        json!({"request": request, "log_level": level})
    });
}

#[test]
fn messages_of_an_ingress() {
    check("control-frames", "cloud_inbound", |input| {
        let params = json!({"frame": input["frame"]});
        let arrival = match ingress::read(&params, 0, |id| !id.is_empty()) {
            Ok(arrival) => arrival,
            Err(Refused { result, code, .. }) => {
                let mut result = *result.unwrap();
                assert_eq!(result["error"]["code"], code);
                result["error"].as_object_mut().unwrap().remove("message");
                return json!({"result": result, "typing_first": null});
            }
        };
        assert_eq!(arrival.message.text, input["frame"]["message"]["text"]);
        let said: Vec<String> = Some(input["runtime_reply"].as_str().unwrap().to_owned())
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect();
        let mut typing = arrival.event.typing();
        assert_eq!(typing.as_object_mut().unwrap().shift_remove("kind"), Some(json!("typing")));
        json!({"result": arrival.event.result(&said), "typing_first": typing})
    });
}

#[test]
fn several_replies_are_joined() {
    let event = ingress::Event { id: "evt".into(), ..ingress::Event::default() };
    let result = event.result(&["one".into(), "two".into()]);
    assert_eq!(result["outbound"], json!({"finalText": "one\n\ntwo", "providerMessageId": null}));
}

#[test]
fn an_ingress_cannot_speak_for_a_room_of_the_hub_or_bring_files() {
    let frame = |conversation: &str| {
        json!({"frame": {"type": "gateway_inbound", "event_id": "e", "gateway_id": "gw", "agent_id": "ag", "provider": "x",
            "message": {"id": "1", "channel": "gw", "accountId": "ag", "conversation": {"id": conversation, "kind": "direct"},
                "sender": {"id": "ag", "kind": "user"}, "text": "hi", "receivedAt": 1, "attachments": [{"filePath": "/etc/passwd"}],
                "raw": {"source_type": "dashboard_user_chat", "envelope": {"type": "cloud_run", "payload": {}}}}}})
    };
    let refused = ingress::read(&frame("rm_oc_1"), 0, |_| true).unwrap_err();
    assert_eq!(refused.code, "bad_frame");
    let arrival = ingress::read(&frame("telegram:user:1"), 0, |_| true).unwrap();
    let message = arrival.message;
    assert!(!message.is_owner_chat() && message.cloud_run.is_none() && message.attachments.is_empty());
    assert_eq!(message.channel, "ingress:ag:gw");
    let refused = ingress::read(&frame("telegram:user:1"), 0, |id| id != "gw").unwrap_err();
    assert_eq!(refused.code, "bad_frame");
}
