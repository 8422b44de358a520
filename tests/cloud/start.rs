//! Starting, staying, and ending in a sandbox.

use std::fs;

use serde_json::{Value, json};

use crate::hub::Endpoint;
use crate::hub_control::ControlHub;
use crate::place::{Cloud, Sandbox};

#[test]
fn a_variable_that_is_missing_is_named_and_nothing_is_touched() {
    let control = ControlHub::start();
    let (_, launch) = control.launch(None);
    let sandbox = Sandbox::new("cloud-missing");
    fs::create_dir_all(sandbox.home("daemon")).unwrap();
    fs::write(sandbox.home("daemon/config.json"), "{}").unwrap();
    for name in ["BOTCORD_HUB_URL", "BOTCORD_CLOUD_DAEMON_INSTANCE_ID", "BOTCORD_DAEMON_INSTANCE_ID"] {
        let mut command = sandbox.command(&launch);
        let output = command.env_remove(name).stderr(std::process::Stdio::piped()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(name) && !said.contains("ct_"), "{said}");
    }
    assert_eq!(fs::read_to_string(sandbox.home("daemon/config.json")).unwrap(), "{}");
    assert!(control.requests("/cloud/daemon/ws").is_empty());
}

#[test]
fn a_sandbox_begins_anew_and_has_the_agents_of_its_hub_alone() {
    let cloud = Cloud::new("cloud-fresh");
    let sandbox = &cloud.sandbox;
    // Left by an earlier life: somebody whose credentials lie there, and a configuration.
    let gone = cloud.hub.agent("Gone");
    cloud.hub.write_credentials(&gone, &sandbox.home(""));
    let before = json!({"agents": [gone.id], "maxConcurrentTurns": 3}).to_string();
    fs::create_dir_all(sandbox.home("daemon")).unwrap();
    fs::write(sandbox.home("daemon/config.json"), &before).unwrap();
    let mut command = sandbox.command(&cloud.launch);
    let mut daemon = command.arg("--replace").spawn().unwrap();
    cloud.wait_agent();
    let config = sandbox.json("daemon/config.json");
    let cwd = sandbox.path().display().to_string();
    let wanted = json!({"defaultRoute": {"adapter": "deepseek-tui", "cwd": cwd}, "routes": [], "streamBlocks": true,
                        "agents": [cloud.agent.id]});
    assert_eq!(config, wanted);
    assert_eq!(fs::read_to_string(sandbox.home("daemon/config.json.previous")).unwrap(), before);
    assert!(cloud.hub.requests(Endpoint::Inbox).iter().all(|row| row.agent != gone.id));
    let skills = cloud.control.wait_event(&cloud.instance, "agent_skill_snapshot", 0);
    assert_eq!(skills["agentId"], cloud.agent.id.as_str(), "said when it was put there");
    let said = cloud.hub.owner_says(&cloud.agent, "say:one");
    assert_eq!(cloud.hub.wait_text(&said), "answer to one");
    cloud.hub.wait_settled(&said);
    assert!(cloud.hub.requests(Endpoint::Policy).is_empty() && cloud.control.world(|world| world.policy_calls) == 0);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn the_start_that_a_sandbox_wakes_up_with_goes_on_where_the_first_one_was() {
    let mut cloud = Cloud::new("cloud-resume");
    cloud.control.reserve("crun_1", &cloud.instance);
    let mut first = cloud.sandbox.start(&cloud.launch);
    cloud.wait_agent();
    let run = cloud.hub.cloud_run(&cloud.agent, "please wait, say:one", json!({"run_id": "crun_1"}));
    cloud.sandbox.wait_runs(1);
    // The sandbox sleeps: the hub closes the socket. When it wakes up it is given another token.
    let before = cloud.control.conn(&cloud.instance);
    cloud.control.close(&cloud.instance, 1012, "pausing");
    cloud.control.wait_reconnected(&cloud.instance, &before);
    cloud.launch = cloud.control.launch(Some(&cloud.instance)).1;
    let credentials = fs::read(cloud.sandbox.home(&format!("credentials/{}.json", cloud.agent.id))).unwrap();
    let second = cloud.sandbox.start(&cloud.launch);
    assert_eq!(first.wait_end().code(), Some(0), "the first one has made room");
    cloud.wait_agent();
    cloud.sandbox.wait_runs(2);
    cloud.sandbox.go();
    assert_eq!(cloud.hub.wait_text(&run), "answer to one");
    cloud.hub.wait_settled(&run);
    cloud.control.wait("the settlement", |world| world.usage.get("crun_1:settle").cloned());
    assert_eq!(cloud.usage().len(), 1);
    assert_ne!(fs::read(cloud.sandbox.home(&format!("credentials/{}.json", cloud.agent.id))).unwrap(), credentials);
    second.stop();
    assert_eq!(cloud.settle_statuses(), [200]);
}

#[test]
fn a_token_that_is_refused_for_long_ends_the_process_once_nothing_runs() {
    let cloud = Cloud::new("cloud-refused");
    let mut command = cloud.sandbox.command(&cloud.launch);
    command.env("BELLHOP_CLOUD_RETRY_MS", "50").env("BELLHOP_CLOUD_LINGER_MS", "300");
    let mut daemon = command.spawn().unwrap();
    cloud.wait_agent();
    let said = cloud.hub.owner_says(&cloud.agent, "please wait, say:one");
    cloud.sandbox.wait_runs(1);
    let flag = cloud.sandbox.home("daemon/auth-expired.flag");
    assert!(!flag.exists());
    // Another launch: the token of this one is worth nothing.
    cloud.control.launch(Some(&cloud.instance));
    cloud.control.close(&cloud.instance, 1012, "pausing");
    let refused = || cloud.control.requests("/cloud/daemon/ws").iter().filter(|row| row.status == 403).count();
    cloud.sandbox.wait_for("twelve refusals", || (refused() >= 12).then_some(()));
    assert!(flag.exists());
    assert_eq!(daemon.try_wait().unwrap(), None, "a turn runs");
    cloud.sandbox.go();
    assert_eq!(cloud.hub.wait_text(&said), "answer to one");
    let end = cloud.sandbox.wait_for("its end", || daemon.try_wait().unwrap());
    assert_eq!(end.code(), Some(75));
    assert!(!cloud.sandbox.log().contains("ct_"), "the token is in the log");
}

#[test]
fn a_sandbox_whose_token_counts_again_is_well() {
    let cloud = Cloud::new("cloud-again");
    let mut command = cloud.sandbox.command(&cloud.launch);
    command.env("BELLHOP_CLOUD_RETRY_MS", "50");
    let mut daemon = command.spawn().unwrap();
    cloud.wait_agent();
    let launch = cloud.control.instance(&cloud.instance, |instance| instance.cloud.take());
    cloud.control.close(&cloud.instance, 1012, "pausing");
    let flag = cloud.sandbox.home("daemon/auth-expired.flag");
    cloud.sandbox.wait_for("the flag", || flag.exists().then_some(()));
    cloud.control.instance(&cloud.instance, |instance| instance.cloud = launch);
    cloud.control.wait_online(&cloud.instance);
    cloud.sandbox.wait_for("no flag", || (!flag.exists()).then_some(()));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn children_know_nothing_of_the_token_and_the_keys() {
    let cloud = Cloud::new("cloud-secret");
    let cli = "#!/bin/sh\ncat >/dev/null\nenv >\"$RUNS/env\"\ncat /proc/$PPID/environ >\"$RUNS/environ\" 2>/dev/null\n\
         printf '{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s1\"}\\n'\n\
         printf '{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"result\":\"said\",\"session_id\":\"s1\"}\\n'\n";
    fs::write(cloud.sandbox.path().join("claude"), cli).unwrap();
    let _daemon = cloud.start();
    let said = cloud.hub.owner_says(&cloud.agent, "say:one");
    assert_eq!(cloud.hub.wait_text(&said), "said");
    let env = fs::read_to_string(cloud.sandbox.path().join("runs/env")).unwrap();
    assert!(env.contains("BOTCORD_AGENT_ID="), "{env}");
    assert!(!env.contains("ct_") && !env.contains("PUBLIC_KEY"), "{env}");
    // Whoever is root may read everything.
    if !rustix::process::getuid().is_root() {
        let environ = fs::read_to_string(cloud.sandbox.path().join("runs/environ")).unwrap();
        assert!(!environ.contains("ct_"));
    }
}

#[test]
fn a_muted_agent_stays_muted_over_a_restart_without_asking() {
    let cloud = Cloud::new("cloud-muted");
    let daemon = cloud.start();
    let (bob, policy) = (cloud.hub.agent("Bob"), json!({"mode": "muted", "keywords": []}));
    let room = cloud.hub.room("Lab", &[&cloud.agent, &bob]);
    let params = json!({"agent_id": cloud.agent.id, "policy": policy});
    let done = cloud.control.send(&cloud.instance, "policy_updated", params).result();
    assert_eq!(done["applied"], true);
    daemon.kill();
    let _daemon = cloud.start();
    let asked = cloud.hub.says(&bob, &room, "hello there.");
    cloud.hub.wait_settled(&cloud.hub.copy_of(&asked, &cloud.agent));
    assert!(cloud.sandbox.runs().is_empty() && cloud.hub.requests(Endpoint::Policy).is_empty());
}

#[test]
fn what_is_collected_for_diagnosis_stays_in_the_sandbox() {
    let cloud = Cloud::new("bundle");
    let _daemon = cloud.start();
    let done = cloud.control.send(&cloud.instance, "collect_diagnostics", json!({})).result();
    assert_eq!((&done["bundle_id"], &done["expires_at"]), (&Value::Null, &Value::Null), "{done}");
    let bundle = fs::read(done["local_path"].as_str().unwrap()).unwrap();
    assert!(bundle.starts_with(b"PK\x03\x04"));
    assert_eq!(done["size_bytes"], bundle.len());
}

#[test]
fn a_sandbox_asks_no_gateways_of_its_own() {
    let mut cloud = Cloud::new("cloud-gateways");
    let gateway = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    gateway.set_nonblocking(true).unwrap();
    let url = format!("ws://{}", gateway.local_addr().unwrap());
    cloud.launch.push(("OPENCLAW_GATEWAY_URL".into(), url));
    let daemon = cloud.start();
    cloud.control.wait_event(&cloud.instance, "runtime_snapshot", 0);
    let told = cloud.control.send(&cloud.instance, "list_runtimes", json!({})).result();
    let entry =
        told["runtimes"].as_array().unwrap().iter().find(|entry| entry["id"] == "openclaw-acp").unwrap().clone();
    assert!(entry["endpoints"].is_null(), "{entry}");
    assert!(cloud.sandbox.json("daemon/config.json")["openclawGateways"].is_null());
    assert!(gateway.accept().is_err(), "somebody has asked");
    daemon.stop();
}
