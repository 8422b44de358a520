//! Frames that are wrong, and frames that meet files which are: nothing is deleted, forgotten or broken by them.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::dispatch_vectors::Setup;
use super::gateways::Gateways;
use crate::config::{agents, edit, load};
use crate::link::botcord_control::frame::{Handled, Incoming, read};
use crate::link::botcord_control::lanes::Duties;
use crate::store::tests::TempDir;

/// A daemon on a home that goes with it.
struct Place {
    dir: TempDir,
    setup: Setup,
}

impl Place {
    fn new(setup: &Value) -> Self {
        let dir = TempDir::new();
        let setup = Setup::of(setup, &dir.0);
        Self { dir, setup }
    }

    fn ask(&self, kind: &str, params: &Value) -> Handled {
        let frame = json!({"id": "f", "type": kind, "params": params}).to_string();
        let Incoming::Frame(frame) = read(&frame) else { panic!("a frame") };
        self.setup.duties.carry_out(&frame)
    }

    fn refused(&self, kind: &str, params: &Value) -> &'static str {
        self.ask(kind, params).expect_err("it is wrong").code
    }

    fn done(&self, kind: &str, params: &Value) -> Value {
        self.ask(kind, params).expect("it is carried out").expect("with a result")
    }

    fn loaded(&self) -> Vec<String> {
        self.setup.live.channels.statuses().into_keys().collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.setup.engine.stop(Duration::ZERO);
    }
}

fn one_agent() -> Value {
    json!({"config": {"defaultRoute": {"adapter": "claude-code", "cwd": "/"}, "agents": ["ag_a"]},
           "credentials": {"ag_a": {"runtime": "codex"}}, "loaded": ["ag_a"],
           "files": {".botcord/agents/ag_a/state/x": "x", ".botcord/agents/ag_a/workspace/x": "x"}})
}

#[test]
fn what_is_no_flag_deletes_nothing() {
    let place = Place::new(&one_agent());
    let (home, config) = (&place.setup.home, fs::read(place.setup.home.config()).unwrap());
    for wrong in [json!("false"), json!(0), json!([]), json!({})] {
        for flag in ["deleteCredentials", "deleteState", "deleteWorkspace"] {
            let mut params = json!({"agentId": "ag_a"});
            params[flag] = wrong.clone();
            assert_eq!(place.refused("revoke_agent", &params), "bad_params", "{params}");
        }
        assert_eq!(place.refused("remove_gateway", &json!({"id": "gw_1", "deleteSecret": wrong})), "bad_params");
    }
    assert!(home.credentials("ag_a").exists() && home.agent_state("ag_a").join("x").exists());
    assert_eq!((fs::read(home.config()).unwrap(), place.loaded()), (config, vec!["ag_a".to_owned()]));
    let revoke = json!({"agentId": "ag_a", "deleteCredentials": null, "deleteState": false});
    let done = place.done("revoke_agent", &revoke);
    assert_eq!((&done["credentialsDeleted"], &done["stateDeleted"]), (&json!(true), &json!(false)));
}

#[test]
fn what_is_no_text_changes_no_agent() {
    let place = Place::new(&one_agent());
    let path = place.setup.home.credentials("ag_a");
    let before = fs::read_to_string(&path).unwrap();
    for key in ["runtime", "runtimeModel", "reasoningEffort"] {
        let mut entry = json!({"agentId": "ag_a", "displayName": "Other"});
        entry[key] = json!(5);
        assert_eq!(place.refused("update_agent", &entry), "bad_params", "{entry}");
        let done = place.done("hello", &json!({"agents": [entry, {"agentId": "ag_a", "runtime": "codex"}]}));
        assert_eq!(done, json!({"updated": 0, "skipped": 2}));
    }
    assert_eq!(place.refused("list_agent_files", &json!({"agentId": "ag_a", "fileId": 5})), "bad_params");
    for wrong in [json!("x"), json!([]), json!(true)] {
        // Nobody is registered in the place of credentials that cannot be read.
        assert_eq!(place.refused("provision_agent", &json!({"credentials": wrong})), "bad_params");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    assert!(!place.setup.home.credentials("ag_reg").exists());
}

#[test]
fn no_route_makes_the_file_unreadable() {
    let place = Place::new(&one_agent());
    let home = &place.setup.home;
    let cwd = place.dir.0.display().to_string();
    let route = |more: Value| {
        let mut route = json!({"adapter": "codex", "cwd": cwd});
        route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"agentId": "ag_a", "route": route})
    };
    let before = fs::read(home.config()).unwrap();
    for (more, code) in [
        (json!({"extraArgs": ["x".repeat(5 << 20)]}), "handler_error"),
        (json!({"extraArgs": "--x"}), "bad_params"),
        (json!({"extraArgs": [5]}), "bad_params"),
        (json!({"adapter": 5}), "bad_params"),
        (json!({"cwd": ["/"]}), "bad_params"),
        (json!({"match": "rm_"}), "bad_params"),
        (json!({"match": {"conversationKind": "crowd"}}), "handler_error"),
        (json!({"match": {"mentioned": "yes"}}), "handler_error"),
    ] {
        assert_eq!(place.refused("set_route", &route(more)), code);
        assert_eq!(fs::read(home.config()).unwrap(), before);
    }
    let no_route = json!({"agentId": "ag_a", "pattern": "rm_", "route": "codex"});
    assert_eq!(place.refused("set_route", &no_route), "bad_params");
    place.done("set_route", &route(json!({"extraArgs": null})));
    assert_eq!(load::load(&home.config()).unwrap().routes.len(), 1);
}

#[test]
fn a_configuration_that_is_gone_takes_nobody_away() {
    let place = Place::new(&one_agent());
    let (home, routes) = (&place.setup.home, place.setup.engine.routes());
    let aside = home.config().with_extension("json~");
    fs::rename(home.config(), &aside).unwrap();
    let credentials = json!({"agentId": "ag_b", "keyId": "k", "hubUrl": "https://hub.example",
                             "privateKey": crate::crypto::base64::encode(&[5; 32])});
    for (kind, params) in [
        ("reload_config", json!({})),
        ("provision_agent", json!({"credentials": credentials})),
        ("set_route", json!({"agentId": "ag_a", "pattern": "rm_"})),
        (
            "upsert_gateway",
            json!({"id": "gw_1", "type": "telegram", "accountId": "ag_a", "secret": {"botToken": "1:a"}}),
        ),
        ("restart_daemon", json!({})),
    ] {
        assert_eq!(place.refused(kind, &params), "handler_error", "{kind}");
        assert!(!home.config().exists() && !home.credentials("ag_b").exists(), "{kind}");
    }
    // What is asked is answered from what holds, and nothing is written down for it.
    let skills = place.done("list_agent_skills", &json!({"agentId": "ag_a"}));
    assert_eq!(skills["runtime"], "codex");
    place.done("list_runtimes", &json!({}));
    assert!(!home.config().exists());
    assert_eq!(place.loaded(), ["ag_a"]);
    assert_eq!(place.setup.engine.routes().user, routes.user);
    fs::rename(aside, home.config()).unwrap();
    let same = json!({"reloaded": true, "added": [], "removed": []});
    assert_eq!(place.done("reload_config", &json!({})), same);
    // None at all is what an empty one says.
    fs::write(home.config(), "{\"agentDiscovery\": {\"enabled\": false}}").unwrap();
    assert_eq!(place.done("reload_config", &json!({}))["removed"], json!(["ag_a"]));
}

#[test]
fn a_daemon_that_could_not_start_again_goes_on() {
    let place = Place::new(&one_agent());
    assert_eq!(place.done("restart_daemon", &json!({}))["scheduled"], true);
    fs::write(place.setup.home.config(), "{\"routes\": 5").unwrap();
    let refused = place.ask("restart_daemon", &json!({})).unwrap_err();
    assert_eq!(refused.code, "handler_error");
    assert!(refused.message.contains("not restarted") && refused.message.contains("config.json"), "{refused:?}");
}

#[test]
fn every_file_of_a_revoked_agent_goes() {
    for (kept, found) in [(false, 0), (true, 2)] {
        let place = Place::new(&json!({"config": {"defaultRoute": {"adapter": "claude-code", "cwd": "/"}},
            "credentials": {"ag_a": {}, "ag_b": {}}, "loaded": ["ag_a", "ag_b"]}));
        let home = &place.setup.home;
        // Somebody has made a copy of it: the next search would find that.
        fs::copy(home.credentials("ag_a"), home.credentials_dir().join("copy.json")).unwrap();
        place.done("revoke_agent", &json!({"agentId": "ag_a", "deleteCredentials": !kept}));
        assert_eq!(place.loaded(), ["ag_b"]);
        assert!(!home.credentials("ag_a").exists() && !home.credentials_dir().join("copy.json").exists());
        let aside = fs::read_dir(home.credentials_dir().join("revoked")).into_iter().flatten().count();
        assert_eq!((aside, home.credentials("ag_b").exists()), (found, true));
    }
}

#[test]
fn what_another_frame_has_left_is_not_forgotten() {
    let place = Place::new(&one_agent());
    let home = &place.setup.home;
    edit::edit(home, |document| assert!(agents::add(document, "ag_b", &[]))).unwrap();
    let record = json!({"agent": "ag_b", "credentials": null, "named": {"agents": ["ag_a"]}, "configured": true});
    let path = home.daemon_dir().join("provision.journal");
    fs::write(&path, record.to_string()).unwrap();
    // What is in the way keeps the record from being settled now.
    fs::create_dir_all(home.credentials("ag_b").join("in the way")).unwrap();
    assert_eq!(place.done("revoke_agent", &json!({"agentId": "ag_a"}))["removed"], true);
    assert!(path.exists(), "ag_b has to be undone still");
    fs::remove_dir_all(home.credentials("ag_b")).unwrap();
    place.done("revoke_agent", &json!({"agentId": "ag_zz"}));
    assert!(!path.exists());
    let named = agents::named(&load::load(&home.config()).unwrap().document);
    assert_eq!(named, Vec::<String>::new(), "neither the one that was undone nor the one that was revoked");
}

#[test]
fn a_revoked_agent_is_not_woken_whatever_the_configuration_is() {
    let place = Place::new(&one_agent());
    fs::write(place.setup.home.config(), "{\"routes\": 5").unwrap();
    assert_eq!(place.done("revoke_agent", &json!({"agentId": "ag_a"}))["removed"], false);
    assert!(place.loaded().is_empty() && !place.setup.home.credentials("ag_a").exists());
    let wake = json!({"agent_id": "ag_a", "message": "go", "run_id": "run_1"});
    assert_eq!(place.refused("wake_agent", &wake), "agent_not_loaded");
}

#[test]
fn an_agent_whose_file_is_damaged_works_on() {
    for found in [false, true] {
        let mut setup = one_agent();
        if found {
            setup["config"].as_object_mut().unwrap().remove("agents");
        }
        let place = Place::new(&setup);
        let (live, path) = (&place.setup.live, place.setup.home.credentials("ag_a"));
        let whole = fs::read(&path).unwrap();
        let reload = || place.done("reload_config", &json!({}));
        let same = json!({"reloaded": true, "added": [], "removed": []});
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(reload(), same);
        assert_eq!((live.hubs.problem("ag_a"), live.hubs.ids()), (None, vec!["ag_a".to_owned()]));
        fs::write(&path, &whole).unwrap();
        assert_eq!(reload(), same);
        fs::remove_file(&path).unwrap();
        let gone = reload();
        assert_eq!(gone["removed"], if found { json!(["ag_a"]) } else { json!([]) });
        assert_eq!(live.hubs.problem("ag_a").is_some(), !found, "one that is named says why it is not at work");
    }
}

#[test]
fn a_damaged_file_keeps_its_agent_whatever_its_name_and_place() {
    let place = Place::new(&json!({}));
    let (live, home) = (&place.setup.live, &place.setup.home);
    let elsewhere = place.dir.0.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let path = elsewhere.join("mine.json");
    let whole = json!({"agentId": "ag_a", "keyId": "k", "hubUrl": "https://hub.example",
                       "privateKey": crate::crypto::base64::encode(&[5; 32])})
    .to_string();
    let reload = || place.done("reload_config", &json!({}));
    let same = json!({"reloaded": true, "added": [], "removed": []});
    let discovery = json!({"enabled": true, "credentialsDir": elsewhere});
    fs::write(&path, &whole).unwrap();
    fs::write(home.config(), json!({"agentDiscovery": discovery}).to_string()).unwrap();
    assert_eq!(reload()["added"], json!(["ag_a"]));
    for named in [false, true] {
        let mut config = json!({"agentDiscovery": discovery});
        if named {
            config["agents"] = json!(["ag_a"]);
        }
        fs::write(&path, &whole).unwrap();
        fs::write(home.config(), config.to_string()).unwrap();
        assert_eq!(reload(), same);
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(reload(), same);
        assert_eq!((live.hubs.problem("ag_a"), live.hubs.at_work()), (None, vec!["ag_a".to_owned()]), "{named}");
    }
    fs::write(home.config(), json!({"agentDiscovery": discovery}).to_string()).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(reload()["removed"], json!(["ag_a"]));
}

#[test]
fn chats_of_an_agent_without_credentials_wait_for_it() {
    let setup = |key: &str| {
        json!({"config": {"agents": ["ag_a"], "thirdPartyGateways":
                   [{"id": "gw_1", "type": "telegram", "accountId": "ag_a", "enabled": true}]},
               "credentials": {"ag_a": {"keyId": key}}, "loaded": ["ag_a"],
               "gateway_secrets": {"gw_1": {"botToken": "1:a"}}})
    };
    for (key, channels) in [("k_1", vec!["gw_1"]), ("", vec![])] {
        let place = Place::new(&setup(key));
        let live = &place.setup.live;
        assert_eq!((live.hubs.ids(), live.hubs.at_work().len()), (vec!["ag_a".to_owned()], channels.len()));
        let gateways = Gateways::find(&live.home, &live.read().unwrap(), &live.hubs);
        let here: Vec<_> = gateways.for_engine().iter().map(|c| c.id().to_owned()).collect();
        assert_eq!(here, channels);
        assert_eq!(gateways.problem("gw_1").is_some(), channels.is_empty());
    }
}

#[test]
fn what_a_frame_has_written_first_is_not_taken_away_by_a_gap() {
    let gateway = json!({"id": "gw_1", "type": "telegram", "accountId": "ag_a", "secret": {"botToken": "1:a"}});
    let route = json!({"adapter": "codex", "cwd": "$DIR"});
    for (kind, params) in
        [("set_route", json!({"agentId": "ag_a", "pattern": "rm_", "route": route})), ("upsert_gateway", gateway)]
    {
        let place = Place::new(&json!({"credentials": {"ag_a": {}}, "loaded": ["ag_a"]}));
        let home = &place.setup.home;
        let params = params.to_string().replace("$DIR", &place.dir.0.display().to_string());
        place.done(kind, &serde_json::from_str(&params).unwrap());
        fs::remove_file(home.config()).unwrap();
        assert_eq!(place.refused("reload_config", &json!({})), "handler_error", "{kind}");
    }
}

#[test]
fn of_skills_that_cannot_be_written_none_is() {
    let place = Place::new(&one_agent());
    let skills = place.setup.home.codex_home("ag_a").join("skills");
    let file = |path: &str| json!({"path": path, "content": "x"});
    for files in [
        json!([file("a"), file("a/b")]),
        json!([file("a/b/c"), file("a/b")]),
        json!([file("SKILL.md/x")]),
        json!([file(&"x".repeat(250))]),
    ] {
        let archive =
            json!({"agentId": "ag_a", "archiveManifest": {"skills": [{"id": "one"}, {"id": "two", "files": files}]}});
        assert_eq!(place.refused("install_agent_skill", &archive), "skill_install_failed", "{archive}");
        assert!(!skills.join("one").exists(), "{archive}");
    }
    let archive = json!({"agentId": "ag_a", "archiveManifest": {"skills": [
        {"id": "one", "files": [file("a/b"), file("a/bc"), file("a.b")]}, {"id": "two", "files": [file("SKILL.md")]}]}});
    place.done("install_agent_skill", &archive);
    assert!(skills.join("one/a/bc").is_file() && skills.join("two/SKILL.md").is_file());
}
