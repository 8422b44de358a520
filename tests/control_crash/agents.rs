//! Agents that come, get another key, and go.

use std::fs;

use serde_json::{Value, json};

use crate::place::Place;
use crate::series::{Case, run};

const AGENT: &str = "ag_a";
const WORKSPACE: &str = "agents/ag_a/workspace";

pub fn config() -> Value {
    json!({"defaultRoute": {"adapter": "claude-code", "cwd": "/"}, "agents": ["ag_other"]})
}

/// Credentials of the agent with the key of this number.
pub fn credentials(place: &Place, key: u8) -> Value {
    let seed = bellhop::crypto::base64::encode(&[key; 32]);
    json!({"agentId": AGENT, "keyId": format!("k_{key}"), "privateKey": seed, "hubUrl": place.hub.url(),
           "displayName": "Nia", "token": format!("t{key}"), "tokenExpiresAt": 4_000_000_000_i64})
}

pub fn provision(place: &Place, key: u8) -> Value {
    json!({"name": "Nia", "runtime": "claude-code", "runtimeModel": format!("m{key}"),
           "credentials": credentials(place, key)})
}

/// What lasts of the agent, and whether it is at work.
fn look(place: &Place) -> Value {
    let file = |name: &str| {
        let mut file = place.json(name);
        if let Some(file) = file.as_object_mut() {
            file.remove("savedAt");
        }
        file
    };
    let agents = place.done("list_agents", json!({}));
    let at_work = agents["agents"].as_array().unwrap().iter().any(|agent| agent["id"] == AGENT);
    json!({
        "credentials": file("credentials/ag_a.json"),
        "kept": file("credentials/revoked/ag_a.json"),
        "config": place.json("daemon/config.json"),
        "record": place.home("daemon/provision.journal").exists(),
        "at work": at_work,
        // An agent that is at work has everything; of one that is not the directory may stay.
        "workspace": if at_work { place.names(WORKSPACE) } else { Vec::new() },
        "state": at_work && place.home("agents/ag_a/state").exists(),
    })
}

#[test]
fn one_that_comes_is_there_or_was_never_there() {
    let mut place = Place::new("crash-provision", &config());
    place.start();
    let params = provision(&place, 1);
    let gone = |place: &Place| {
        place.done("revoke_agent", json!({"agentId": AGENT, "deleteWorkspace": true}));
    };
    let case = Case { kind: "provision_agent", params, ready: &gone, look: &look, at_once: true, steps: 70 };
    run(&mut place, &case);
    assert_eq!(place.names(WORKSPACE).len(), 11, "{:?}", place.names(WORKSPACE));
}

#[test]
fn one_that_is_here_has_its_old_key_or_the_new_one() {
    let mut place = Place::new("crash-update", &config());
    place.start();
    let (old, params) = (provision(&place, 1), provision(&place, 2));
    let ready = |place: &Place| {
        place.done("provision_agent", old.clone());
    };
    let case = Case { kind: "provision_agent", params, ready: &ready, look: &look, at_once: true, steps: 12 };
    run(&mut place, &case);
    assert_eq!(place.json("credentials/ag_a.json")["keyId"], "k_2");
}

#[test]
fn one_that_goes_is_gone_or_still_here() {
    let mut place = Place::new("crash-revoke", &config());
    place.start();
    let whom = provision(&place, 1);
    let ready = |place: &Place| {
        let _ = fs::remove_file(place.home("credentials/revoked/ag_a.json"));
        place.done("provision_agent", whom.clone());
    };
    let gone = |place: &Place| {
        let mut gone = look(place);
        gone["state"] = place.home("agents/ag_a/state").exists().into();
        gone["directory"] = place.home("agents/ag_a").exists().into();
        gone
    };
    for (more, kept, directory) in [
        (json!({}), false, true),
        (json!({"deleteCredentials": false, "deleteState": true}), true, true),
        (json!({"deleteCredentials": true, "deleteState": true, "deleteWorkspace": true}), false, false),
    ] {
        let mut params = more;
        params["agentId"] = AGENT.into();
        let case = Case { kind: "revoke_agent", params, ready: &ready, look: &gone, at_once: true, steps: 12 };
        run(&mut place, &case);
        let now = gone(&place);
        assert_eq!((now["kept"].is_object(), &now["directory"]), (kept, &json!(directory)), "{now}");
        assert_eq!((&now["at work"], &now["state"], &now["credentials"]), (&json!(false), &json!(false), &Value::Null));
        assert_eq!(now["config"]["agents"], json!(["ag_other"]));
    }
}
