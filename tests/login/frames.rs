//! What a hub has a daemon do, as a whole: with the process, its files, and its agents.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use crate::home::{Home, Ran, logged_in};
use crate::hub::Hub;
use crate::hub_control::{ControlHub, Frame};

/// A hub, a home that is logged in to it, and its instance.
fn house() -> (ControlHub, Home, String) {
    let hub = ControlHub::start();
    let (home, instance) = logged_in(&hub, 3_600_000);
    (hub, home, instance)
}

fn credentials(hub: &ControlHub, agent: &str, key: u8) -> Value {
    json!({"agentId": agent, "keyId": "k_1", "privateKey": bellhop::crypto::base64::encode(&[key; 32]),
           "hubUrl": hub.url(), "displayName": "Nia", "token": "t", "tokenExpiresAt": 4_000_000_000_i64})
}

fn provision(hub: &ControlHub, instance: &str, agent: &str, key: u8) {
    let params =
        json!({"runtime": "codex", "runtimeModel": "m1", "bio": "old", "credentials": credentials(hub, agent, key)});
    hub.send(instance, "provision_agent", params).result();
}

fn agents(hub: &ControlHub, instance: &str) -> Vec<String> {
    let listed = hub.send(instance, "list_agents", json!({})).result();
    listed["agents"].as_array().unwrap().iter().map(|agent| agent["id"].as_str().unwrap().to_owned()).collect()
}

/// A house whose daemon is at the hub's command, with the agent `ag_a`.
fn house_with_an_agent() -> (ControlHub, Home, String) {
    let (hub, home, instance) = house();
    assert_eq!(home.start(&[]).code, Some(0));
    hub.wait_online(&instance);
    provision(&hub, &instance, "ag_a", 1);
    (hub, home, instance)
}

#[test]
fn an_agent_that_is_provisioned_answers_its_owner() {
    let (control, home, instance) = house();
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    assert_eq!(home.start(&[]).code, Some(0));
    control.wait_online(&instance);
    let said = hub.owner_says(&ada, "hello");
    let params = json!({"runtime": "echo", "credentials": hub.credentials(&ada)});
    for _ in 0..2 {
        let done = control.send(&instance, "provision_agent", params.clone()).result();
        assert_eq!((&done["agentId"], &done["hubUrl"]), (&json!(ada.id), &json!(hub.url())));
    }
    assert!(hub.wait_text(&said).contains("hello"));
    hub.wait_settled(&said);
    assert_eq!(agents(&control, &instance), [ada.id.as_str()]);
    let gone = control.send(&instance, "revoke_agent", json!({"agentId": ada.id})).result();
    assert_eq!(
        gone,
        json!({"agentId": ada.id, "removed": true, "credentialsDeleted": true, "stateDeleted": true, "workspaceDeleted": false})
    );
    assert!(agents(&control, &instance).is_empty());
    assert_eq!(hub.books().entries[0].answers.len(), 1);
}

#[test]
fn a_configuration_that_is_wrong_changes_nothing() {
    let (hub, home, instance) = house_with_an_agent();
    let path = home.daemon().join("config.json");
    let good = fs::read_to_string(&path).unwrap();
    for (text, field) in [
        ("{\"agents\": [\"ag_b\"],".to_owned(), "not JSON"),
        (json!({"agents": ["ag_b", 5]}).to_string(), "agents[1]"),
        (
            json!({"agents": ["ag_b"], "defaultRoute": {"adapter": "clippy", "cwd": "/"}}).to_string(),
            "defaultRoute.adapter",
        ),
        (json!({"agents": ["ag_b"], "routes": [{"adapter": "codex"}]}).to_string(), "routes[0]"),
    ] {
        fs::write(&path, &text).unwrap();
        let ack = hub.send(&instance, "reload_config", json!({})).ack();
        let keys: Vec<&String> = ack.as_object().unwrap().keys().collect();
        assert_eq!((&ack["ok"], &ack["error"]["code"]), (&json!(false), &json!("handler_error")), "{ack}");
        assert_eq!(keys.len(), 3, "{ack}");
        let why = ack["error"]["message"].as_str().unwrap();
        assert!(why.contains("config.json") && why.contains(field), "{why}");
        assert_eq!(agents(&hub, &instance), ["ag_a"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "it is its owner's to mend");
        // Nor does any other frame write over it.
        let route = json!({"agentId": "ag_a", "pattern": "rm_x"});
        assert_eq!(hub.send(&instance, "set_route", route).refusal(), "handler_error");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    let mut config: Value = serde_json::from_str(&good).unwrap();
    config["agents"] = json!(["ag_a", "ag_b"]);
    fs::write(&path, config.to_string()).unwrap();
    let done = hub.send(&instance, "reload_config", json!({})).result();
    assert_eq!(done, json!({"reloaded": true, "added": ["ag_b"], "removed": []}));
    fs::write(&path, good).unwrap();
    let done = hub.send(&instance, "reload_config", json!({})).result();
    assert_eq!(done, json!({"reloaded": true, "added": [], "removed": ["ag_b"]}));
}

#[test]
fn keys_change_one_after_the_other() {
    let (hub, home, instance) = house();
    let old = hub.key();
    hub.rotate_key(2);
    let new = hub.key();
    hub.rotate_key(1);
    let mut command = home.command(&["start", "-d"]);
    command.env("BOTCORD_HUB_CONTROL_PUBLIC_KEYS", format!("{old},{new},{old}"));
    assert_eq!(Ran::of(&command.output().unwrap()).code, Some(0));
    hub.wait_online(&instance);
    let told = hub.wait_event(&instance, "runtime_snapshot", 0);
    assert_eq!(told["hubControlTrustKeyFingerprints"].as_array().unwrap().len(), 2);
    for seed in [1, 2] {
        hub.rotate_key(seed);
        assert_eq!(hub.send(&instance, "ping", json!({})).result()["pong"], true, "{seed}");
    }
    hub.rotate_key(3);
    assert_eq!(hub.send(&instance, "ping", json!({})).refusal(), "bad_signature");
    hub.rotate_key(2);
    // What the file says begins to count where the environment says nothing.
    assert_eq!(home.run(&["stop", "--wait"]).code, Some(0));
    hub.wait_offline(&instance);
    fs::write(home.daemon().join("config.json"), json!({"hubControlPublicKeys": [old, new]}).to_string()).unwrap();
    assert_eq!(home.start(&[]).code, Some(0));
    hub.wait_online(&instance);
    assert_eq!(hub.send(&instance, "ping", json!({})).result()["pong"], true);
    fs::write(home.daemon().join("config.json"), json!({"hubControlPublicKeys": [new]}).to_string()).unwrap();
    assert_eq!(hub.send(&instance, "reload_config", json!({})).result()["reloaded"], true);
    assert_eq!(hub.send(&instance, "ping", json!({})).result()["pong"], true);
    hub.rotate_key(1);
    assert_eq!(hub.send(&instance, "ping", json!({})).refusal(), "bad_signature");
}

#[test]
fn as_many_frames_as_can_wait_are_carried_out_in_order() {
    let (hub, home, instance) = house_with_an_agent();
    // Whoever changes the configuration waits for us.
    let lock = OpenOptions::new().write(true).open(home.daemon().join("config.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let sent: Vec<_> = (0..300)
        .map(|n| hub.send(&instance, "set_route", json!({"agentId": "ag_a", "pattern": format!("rm_{}", n % 4)})))
        .collect();
    let busy: Vec<_> = sent[256..].iter().map(|pending| pending.refusal()).collect();
    assert!(busy.iter().all(|code| code == "busy"), "{busy:?}");
    let stale = Frame { offset: -700_000, ..Frame::new("ping", json!({})) };
    assert_eq!(hub.send_frame(&instance, &stale).refusal(), "stale_ts", "it hears all the same");
    let before = hub.heard(&instance).len();
    flock(&lock, FlockOperation::Unlock).unwrap();
    for pending in &sent[..256] {
        assert_eq!(pending.result()["ok"], true);
    }
    let wanted: Vec<&str> = sent[..256].iter().map(|pending| pending.id.as_str()).collect();
    let heard = hub.heard(&instance);
    let acks: Vec<&str> =
        heard[before..].iter().filter(|f| f["type"].is_null()).map(|f| f["id"].as_str().unwrap()).collect();
    assert_eq!(acks, wanted);
    assert_eq!(hub.send(&instance, "ping", json!({})).result()["pong"], true);
    let config: Value = serde_json::from_slice(&fs::read(home.daemon().join("config.json")).unwrap()).unwrap();
    assert_eq!(config["routes"].as_array().unwrap().len(), 4);
}

#[test]
fn whoever_was_away_is_told_what_has_changed() {
    let (hub, home, instance) = house_with_an_agent();
    provision(&hub, &instance, "ag_b", 2);
    assert_eq!(home.run(&["stop", "--wait"]).code, Some(0));
    hub.wait_offline(&instance);
    hub.revoke_later(&instance, json!({"agentId": "ag_b"}));
    hub.bind(
        &instance,
        json!({"agentId": "ag_a", "displayName": "Zoé", "bio": "new", "runtime": "codex", "runtimeModel": "m2"}),
    );
    hub.bind(&instance, json!({"agentId": "ag_far", "displayName": "Far", "bio": null, "runtime": null}));
    assert_eq!(home.start(&[]).code, Some(0));
    hub.wait("the revocation", |world| world.instances[&instance].revocations.is_empty().then_some(()));
    let hello = hub.wait("the answer to hello", |world| {
        let ack = world.heard.iter().rev().find(|heard| heard.frame["result"]["updated"].is_number())?;
        (ack.frame["result"]["updated"] == 1).then(|| ack.frame["result"].clone())
    });
    assert_eq!(hello, json!({"updated": 1, "skipped": 1}));
    assert_eq!(agents(&hub, &instance), ["ag_a"]);
    let file = |name: &str| fs::read_to_string(home.root().join(name)).unwrap();
    let known: Value = serde_json::from_str(&file("credentials/ag_a.json")).unwrap();
    assert_eq!((&known["displayName"], &known["runtimeModel"]), (&json!("Zoé"), &json!("m2")));
    let identity = file("agents/ag_a/workspace/identity.md");
    assert!(identity.contains("- **Display name**: Zoé") && identity.contains("\nnew\n"), "{identity}");
    assert!(!home.root().join("credentials/ag_b.json").exists());
    let told = home.run(&["status"]).out;
    assert!(told.contains("expected by the hub, not installed: ag_far\n"), "{told}");
    // A runtime that is not known here is written down, and the one that there was goes on.
    let done = hub.send(&instance, "update_agent", json!({"agentId": "ag_a", "runtime": "clippy"})).result();
    assert_eq!(done["runtime"], json!({"changed": true, "routeUpdated": true}));
    let known: Value = serde_json::from_str(&file("credentials/ag_a.json")).unwrap();
    assert_eq!(known["runtime"], "clippy");
    let skills = hub.send(&instance, "list_agent_skills", json!({"agentId": "ag_a"})).result();
    assert_eq!(skills["runtime"], "codex");
}

/// Stands for Claude Code: refuses, but for a message with "patience" in it, which is answered when $GO is there.
const CLAUDE: &str = r#"#!/bin/sh
error=true said="Invalid API key"
if grep -q patience; then
    while [ ! -e "$GO" ]; do sleep 0.05; done
    error=false said=hello
fi
printf '{"type":"system","subtype":"init","session_id":"5f0e2b1c-0000-4000-8000-000000000007"}\n'
printf '{"type":"result","subtype":"success","is_error":%s,"result":"%s"}\n' "$error" "$said"
"#;

#[test]
fn the_hub_is_told_of_a_circuit_that_breaks_and_of_one_that_is_whole_again() {
    let (hub, home, instance) = house();
    let (program, go) = (home.dir.join("claude"), home.dir.join("go"));
    fs::write(&program, CLAUDE).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(home.daemon().join("config.json"), json!({"parkOnFailure": "never"}).to_string()).unwrap();
    let mut command = home.command(&["start", "-d"]);
    command.env("BELLHOP_CLAUDE_BIN", &program).env("GO", &go).env("BOTCORD_DAEMON_SNAPSHOT_INTERVAL_MS", "20");
    assert_eq!(Ran::of(&command.output().unwrap()).code, Some(0));
    hub.wait_online(&instance);
    let params = json!({"runtime": "claude-code", "credentials": credentials(&hub, "ag_a", 1)});
    hub.send(&instance, "provision_agent", params).result();
    // The newest word on it.
    let told = |wanted: usize| -> Vec<Value> {
        hub.wait("what the hub is told of it", |world| {
            let told = world.heard.iter().rev().find(|heard| heard.frame["type"] == "runtime_snapshot")?;
            let runtimes = told.frame["params"]["runtimes"].as_array()?;
            let entry = runtimes.iter().find(|entry| entry["id"] == "claude-code")?;
            let breakers = entry["health"]["circuitBreakers"].as_array().cloned().unwrap_or_default();
            (breakers.len() == wanted).then_some(breakers)
        })
    };
    told(0);
    let wake = |run: &str, message: &str| {
        let params = json!({"agent_id": "ag_a", "message": message, "run_id": run, "dedupe_key": run,
                            "schedule_id": "sch_1", "session_policy": "fresh_per_run"});
        hub.send(&instance, "wake_agent", params).result();
    };
    wake("w0", "patience");
    for run in ["w1", "w2", "w3"] {
        wake(run, "go");
    }
    let breaker = told(1).remove(0);
    assert_eq!((&breaker["accountId"], &breaker["failures"]), (&json!("ag_a"), &json!(3)), "{breaker}");
    fs::write(go, "").unwrap();
    told(0);
}
