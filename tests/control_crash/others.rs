//! The other frames that change something.

use std::fs;

use serde_json::{Value, json};

use crate::agents::{config, provision};
use crate::place::Place;
use crate::series::{Case, run};

const AGENT: &str = "ag_a";

/// A daemon with one agent.
fn begin(name: &str) -> Place {
    let mut place = Place::new(name, &config());
    place.start();
    place.done("provision_agent", provision(&place, 1));
    place
}

fn text(place: &Place, name: &str) -> String {
    fs::read_to_string(place.home(name)).unwrap_or_default()
}

#[test]
fn what_an_agent_is_called_and_runs_on() {
    let mut place = begin("crash-change");
    let entry = |name: &str, model: &str| json!({"agentId": AGENT, "displayName": name, "bio": format!("I am {name}"), "runtimeModel": model});
    let ready = |place: &Place| {
        place.done("update_agent", entry("Old", "m1"));
    };
    let look = |place: &Place| {
        let file = place.json("credentials/ag_a.json");
        let agents = place.done("list_agents", json!({}));
        json!({"identity": text(place, "agents/ag_a/workspace/identity.md"), "model": file["runtimeModel"],
               "name": file["displayName"], "called": agents["agents"].as_array().unwrap().iter()
               .find(|agent| agent["id"] == AGENT).map(|agent| agent["name"].clone())})
    };
    let params = entry("New", "m2");
    let case = Case { kind: "update_agent", params, ready: &ready, look: &look, at_once: false, steps: 15 };
    run(&mut place, &case);

    let route = |adapter: &str| json!({"agentId": AGENT, "pattern": "rm_x", "route": {"adapter": adapter, "cwd": place_of(&place)}});
    let (first, second) = (route("codex"), route("claude-code"));
    let ready = |place: &Place| {
        place.done("set_route", first.clone());
    };
    let look = |place: &Place| json!({"routes": place.json("daemon/config.json")["routes"]});
    let case = Case { kind: "set_route", params: second, ready: &ready, look: &look, at_once: true, steps: 5 };
    run(&mut place, &case);
}

fn place_of(place: &Place) -> String {
    place.dir.path().display().to_string()
}

#[test]
fn what_an_agent_is_given() {
    let mut place = begin("crash-gifts");
    let skill = |text: &str| {
        json!({"agentId": AGENT, "manifest": {"name": "gamma", "skillMd": text, "targetRuntimes": ["codex", "claude-code"],
               "files": [{"path": "ref/a.md", "content": text}]}})
    };
    let ready = |place: &Place| {
        place.done("install_agent_skill", skill("old"));
    };
    let look = |place: &Place| {
        let of = |root: &str| {
            ["SKILL.md", "ref/a.md"].map(|name| text(place, &format!("agents/ag_a/{root}/skills/gamma/{name}")))
        };
        json!({"codex": of("codex-home"), "claude": of("workspace/.claude")})
    };
    let params = skill("new");
    let case = Case { kind: "install_agent_skill", params, ready: &ready, look: &look, at_once: false, steps: 20 };
    run(&mut place, &case);

    let hash = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let profile = |id: &str| {
        json!({"agentId": AGENT, "sessionKey": "course_run:1", "roomId": "rm_oc_1",
               "schemaVersion": "botlearn-course-runtime-profile/0.1", "profileId": id, "profileHash": hash("a"),
               "courseVersionId": "v1", "skillPackages": [], "requiredCapabilities": [], "ttlSeconds": 86_400,
               "promptPack": {"id": "p", "version": "1.0.0", "digest": hash("b"), "systemInstructions": format!("Do {id}")}})
    };
    let ready = |place: &Place| {
        place.done("apply_session_profile", profile("crp_1"));
    };
    let look = |place: &Place| {
        let place_of = |name: &&String| name.ends_with("/profile.json") && !name.starts_with('.');
        let found: Vec<Value> = place
            .names("agents/ag_a/sessions")
            .iter()
            .filter(place_of)
            .map(|name| place.json(&format!("agents/ag_a/sessions/{name}"))["promptPack"].clone())
            .collect();
        json!({"profiles": found})
    };
    let params = profile("crp_2");
    let case = Case { kind: "apply_session_profile", params, ready: &ready, look: &look, at_once: true, steps: 7 };
    run(&mut place, &case);
}

#[test]
fn gateways_and_policies() {
    let mut place = begin("crash-gateways");
    let gateway = |token: &str, label: &str| {
        json!({"id": "gw_telegram_0a1b2c3d4e5f", "type": "telegram", "accountId": AGENT, "enabled": false, "label": label,
               "secret": {"botToken": token}, "settings": {"allowedChatIds": ["-1001"]}})
    };
    let (old, new) = (gateway("123456:OLD-SECRET", "Old"), gateway("123456:NEW-SECRET", "New"));
    let look = |place: &Place| {
        json!({"profiles": place.json("daemon/config.json")["thirdPartyGateways"],
               "secret": place.json("daemon/gateways/gw_telegram_0a1b2c3d4e5f.json")})
    };
    let ready = |place: &Place| {
        place.done("upsert_gateway", old.clone());
    };
    let case = Case { kind: "upsert_gateway", params: new, ready: &ready, look: &look, at_once: false, steps: 10 };
    run(&mut place, &case);
    let params = json!({"id": "gw_telegram_0a1b2c3d4e5f", "deleteSecret": true});
    let case = Case { kind: "remove_gateway", params, ready: &ready, look: &look, at_once: false, steps: 6 };
    run(&mut place, &case);
}

#[test]
fn a_configuration_that_is_read_again() {
    let mut place = begin("crash-reload");
    let route = |adapter: &str| {
        let mut config = config();
        config["agents"] = json!([AGENT]);
        config["routes"] = json!([{"match": {"accountId": AGENT}, "adapter": adapter, "cwd": "/"}]);
        config
    };
    // An agent that the file names, with credentials, and without a directory.
    let mut other = crate::agents::credentials(&place, 7);
    other["agentId"] = "ag_b".into();
    fs::write(place.home("credentials/ag_b.json"), other.to_string()).unwrap();
    let ready = |place: &Place| {
        place.write_config(&route("codex"));
        place.done("reload_config", json!({}));
        let _ = fs::remove_dir_all(place.home("agents/ag_b"));
        let mut config = route("claude-code");
        config["agents"] = json!([AGENT, "ag_b"]);
        place.write_config(&config);
    };
    let look = |place: &Place| {
        let agents = place.done("list_agents", json!({}));
        let ids: Vec<Value> = agents["agents"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|a| a["status"] != "unknown")
            .map(|a| a["id"].clone())
            .collect();
        json!({"agents": ids, "workspace": place.names("agents/ag_b/workspace")})
    };
    let case = Case { kind: "reload_config", params: json!({}), ready: &ready, look: &look, at_once: true, steps: 40 };
    let before = {
        ready(&place);
        look(&place)
    };
    assert_eq!(before["agents"], json!([AGENT]));
    place.done("reload_config", json!({}));
    let wanted = look(&place);
    // A start reads the file as the frame does, so that whatever was left is as wanted.
    let mut kills = 0;
    loop {
        ready(&place);
        let id = place.frame_id();
        let told = place.told(&id, case.kind, &case.params, kills + 1);
        if !told.killed {
            break;
        }
        kills += 1;
        place.start();
        assert_eq!(look(&place), wanted, "at {kills}");
        let again = place.again(&id, case.kind, &case.params);
        assert_eq!((&again["ok"], &again["result"]["reloaded"]), (&json!(true), &json!(true)), "{again}");
        assert_eq!(look(&place), wanted, "at {kills}, again");
    }
    println!("reload_config: killed at each of {kills} steps");
    assert!(kills >= case.steps, "{kills}");
}

#[test]
fn a_wake_is_run_to_its_end_once() {
    let mut place = begin("crash-wake");
    let ends = |place: &Place| {
        let files = place.names("agents/ag_a/transcripts");
        let texts = files.iter().map(|name| text(place, &format!("agents/ag_a/transcripts/{name}")));
        let whole = |text: String| text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect::<Vec<Value>>();
        let lines: Vec<Value> = texts.flat_map(whole).filter(|line| line["kind"] == "outbound").collect();
        let mut said: Vec<String> = lines.iter().map(|line| line["finalText"].as_str().unwrap().to_owned()).collect();
        said.sort_by_key(|text| (text.len(), text.clone()));
        said
    };
    let answers = |kills| (0..kills).map(|n| format!("answer to w{n}")).collect::<Vec<_>>();
    let mut kills = 0;
    loop {
        let run = format!("w{kills}");
        let params = json!({"agent_id": AGENT, "message": format!("say:{run}"), "run_id": run, "schedule_id": "sch_1",
                            "dedupe_key": run, "session_policy": "fresh_per_run"});
        let id = place.frame_id();
        // The turn writes, too, as soon as it may begin.
        let told = place.told(&id, "wake_agent", &params, kills + 1);
        if !told.killed {
            break;
        }
        kills += 1;
        place.start();
        let again = place.again(&id, "wake_agent", &params);
        assert_eq!((&again["ok"], &again["result"]["queued"]), (&json!(true), &json!(true)), "{again}");
        assert_eq!(place.done("wake_agent", params)["duplicate"], true, "at {kills}");
        // Whatever is interrupted three times is given up.
        place.hub.wait("the end of the run", |_| (ends(&place).len() >= kills).then_some(()));
        assert_eq!(ends(&place), answers(kills));
    }
    place.hub.wait("the last one", |_| (ends(&place).len() > kills).then_some(()));
    assert_eq!(ends(&place), answers(kills + 1));
    println!("wake_agent: killed at each of {kills} steps");
    assert!(kills >= 4, "{kills}");
}

#[test]
fn a_daemon_that_is_revoked_stays_out() {
    let mut place = Place::new("crash-out", &config());
    let (mut kills, mut alive) = (0, false);
    while !alive {
        place.start();
        let id = place.frame_id();
        let told = place.told(&id, "revoke", &json!({"reason": "revoked_by_user"}), kills + 1);
        alive = !told.killed;
        kills += usize::from(told.killed);
        place.hub.instance(&place.instance.clone(), |instance| instance.revoked = true);
        if told.killed {
            place.spawn();
        }
        place.hub.wait("the flag", |_| place.home("daemon/auth-expired.flag").exists().then_some(()));
        // The flag comes before the answer and the end of the connection.
        place.hub.wait_offline(&place.instance);
        place.end();
        // Somebody logs it in again.
        fs::remove_file(place.home("daemon/auth-expired.flag")).unwrap();
        fs::remove_file(place.home("daemon/user-auth.json")).unwrap();
        place.instance = place.hub.log_in(&place.home(""));
    }
    println!("revoke: killed at each of {kills} steps");
    assert!(kills >= 4, "{kills}");
}
