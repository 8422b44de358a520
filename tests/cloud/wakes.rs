//! Scheduled turns, which run once.

use serde_json::{Value, json};

use crate::place::Cloud;

fn wake(cloud: &Cloud, run: &str, key: Option<&str>) -> Value {
    json!({"agent_id": cloud.agent.id, "message": format!("Do {run}."), "run_id": run, "schedule_id": "sch_1",
           "dedupe_key": key, "session_policy": "fresh_per_run", "session_epoch": 2})
}

#[test]
fn a_wake_runs_once_although_it_is_said_again_after_a_crash() {
    let cloud = Cloud::new("wake-crash");
    let daemon = cloud.start();
    let send = |params: Value| cloud.control.send(&cloud.instance, "wake_agent", params).result();
    let queued = json!({"agent_id": cloud.agent.id, "queued": true});
    let again = json!({"agent_id": cloud.agent.id, "queued": true, "duplicate": true});
    assert_eq!(send(wake(&cloud, "run1", Some("sch_1:1:auto"))), queued);
    assert_eq!(send(wake(&cloud, "run1", Some("sch_1:1:auto"))), again);
    assert_eq!(send(wake(&cloud, "run2", Some("sch_1:1:auto"))), again, "another run of the same moment");
    // The journal had it before it was answered: it survives whatever comes.
    assert_eq!(send(wake(&cloud, "run3", None)), queued);
    daemon.kill();
    let _daemon = cloud.start();
    assert_eq!(send(wake(&cloud, "run1", Some("sch_1:1:auto"))), again);
    assert_eq!(send(wake(&cloud, "run3", None)), again);
    assert_eq!(send(wake(&cloud, "run4", Some("sch_1:2:auto"))), queued);
    let of = |runs: &[String], word: &str| runs.iter().filter(|run| run.contains(word)).count();
    let runs = cloud.sandbox.wait_for("three turns", || {
        let runs = cloud.sandbox.runs();
        ["Do run1.", "Do run3.", "Do run4."].iter().all(|word| of(&runs, word) > 0).then_some(runs)
    });
    assert_eq!(of(&runs, "Do run2."), 0);
    // The CLI of the fourth may have begun before those of the others: only interrupted ones begin twice.
    assert_eq!(of(&runs, "Do run4."), 1);
    assert!(runs.iter().any(|run| run.contains("schedule_id: sch_1")), "{runs:?}");
}
