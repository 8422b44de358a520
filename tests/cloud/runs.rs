//! Cloud runs, and what the hub is told of them.

use serde_json::json;

use crate::hub::speech::Extra;
use crate::hub_control::Fault;
use crate::place::Cloud;

#[test]
fn a_run_is_told_once_although_the_hub_fails_in_every_way() {
    let cloud = Cloud::new("cloud-settle");
    cloud.control.reserve("crun_1", &cloud.instance);
    cloud.control.fault("settle", [Fault::Status(500), Fault::Reset, Fault::Hang]);
    let daemon = cloud.start();
    let run = json!({"run_id": "crun_1", "settle_usage": true, "budget": {"max_wall_time_seconds": 600, "max_tool_calls": 30}});
    let said = cloud.hub.cloud_run(&cloud.agent, "say:one", run);
    assert_eq!(cloud.hub.wait_text(&said), "answer to one", "the reply does not wait for the hub");
    cloud.hub.wait_settled(&said);
    // The third request is read and never answered; the process dies meanwhile.
    cloud.sandbox.wait_for("three requests", || (cloud.settle_statuses() == [500, 0, 0]).then_some(()));
    daemon.kill();
    assert!(cloud.usage().is_empty());
    let daemon = cloud.start();
    cloud.control.wait("the settlement", |world| world.usage.get("crun_1:settle").cloned());
    cloud.sandbox.wait_log("settle.done");
    daemon.stop();
    let daemon = cloud.start();
    daemon.stop();
    assert_eq!(cloud.settle_statuses(), [500, 0, 0, 200], "what the hub has is not told again");
    let usage = cloud.usage();
    assert_eq!(usage.len(), 1);
    let seconds = usage[0]["sandbox_seconds"].as_u64().unwrap();
    assert!(seconds >= 1, "{seconds}");
    let wanted = json!({
        "provider": "anthropic", "model": "default", "input_cache_hit_tokens": 0, "input_cache_miss_tokens": 0,
        "output_tokens": 0, "sandbox_seconds": seconds, "idempotency_key": "crun_1:settle",
    });
    assert_eq!(usage[0], wanted);
    for row in cloud.control.requests("/settle") {
        assert_eq!(row.body, wanted, "every attempt says the same");
    }
}

#[test]
fn a_run_that_the_hub_has_carried_out_without_saying_so_is_told_again_and_counts_once() {
    let cloud = Cloud::new("cloud-settle-close");
    cloud.control.reserve("crun_1", &cloud.instance);
    cloud.control.fault("settle", [Fault::Close]);
    let daemon = cloud.start();
    let said = cloud.hub.cloud_run(&cloud.agent, "say:one", json!({"run_id": "crun_1"}));
    cloud.hub.wait_settled(&said);
    cloud.control.wait("the settlement", |world| world.usage.get("crun_1:settle").cloned());
    daemon.kill();
    let _daemon = cloud.start();
    cloud.sandbox.wait_log("settle.done");
    assert_eq!((cloud.settle_statuses(), cloud.usage().len()), (vec![200, 200], 1));
}

#[test]
fn what_the_hub_refuses_is_over_and_what_is_not_wanted_is_not_told() {
    let cloud = Cloud::new("cloud-settle-refused");
    cloud.control.reserve("crun_3", &cloud.instance);
    let daemon = cloud.start();
    for (run, text) in [
        (json!({"run_id": "crun_1"}), "say:unknown"),
        (json!({"run_id": "crun_2", "settle_usage": false}), "say:unwanted"),
        (json!({}), "say:nameless"),
        (json!({"run_id": "crun_3"}), "say:known"),
    ] {
        let said = cloud.hub.cloud_run(&cloud.agent, text, run);
        cloud.hub.wait_settled(&said);
    }
    cloud.control.wait("the settlement", |world| world.usage.get("crun_3:settle").cloned());
    daemon.stop();
    let told: Vec<(String, u16)> =
        cloud.control.requests("/settle").iter().map(|row| (row.path.clone(), row.status)).collect();
    let path = |run: &str| format!("/internal/cloud-agents/runs/{run}/settle");
    assert_eq!(told, [(path("crun_1"), 404), (path("crun_3"), 200)]);
    let log = cloud.sandbox.log();
    assert!(log.contains("settle.refused run=\"crun_1\"") && log.contains("settle.no_run_id"), "{log}");
}

#[test]
fn a_run_of_somebody_else_is_not_ours_to_account_for() {
    let cloud = Cloud::new("cloud-settle-forged");
    cloud.control.reserve("crun_1", &cloud.instance);
    let daemon = cloud.start();
    let bob = cloud.hub.agent("Bob");
    let room = cloud.hub.room("Lab", &[&cloud.agent, &bob]);
    let payload = json!({"cloud_run": {"run_id": "crun_1"}});
    let extra = Extra { kind: Some("cloud_run"), payload, mentions: vec![cloud.agent.id.clone()], ..Extra::default() };
    let asked = cloud.hub.says_more(&bob, &room, "say:one", extra);
    cloud.hub.wait_settled(&cloud.hub.copy_of(&asked, &cloud.agent));
    daemon.stop();
    assert!(cloud.control.requests("/settle").is_empty());
}
