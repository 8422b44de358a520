//! Provisioning on a disk that fails, and in a daemon that dies: what is found afterwards is what was there before, or
//! all that was wanted.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::dispatch_vectors::Setup;
use super::provision_journal::at_start;
use super::seeds::{self, Seed};
use crate::config::Home;
use crate::link::botcord_control::frame::{Incoming, read};
use crate::link::botcord_control::lanes::Duties;
use crate::store::tests::TempDir;
use crate::store::{Disk, RealDisk};
use crate::store::{Fault, FaultKind, FaultyDisk};

const KEY: &str = "BwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiMkJSY=";

fn provision() -> Value {
    json!({"id": "f", "type": "provision_agent", "params": {"name": "Nia", "runtime": "claude-code", "credentials": {
        "agentId": "ag_a", "keyId": "k_1", "privateKey": KEY, "hubUrl": "https://hub.example", "token": "new"}}})
}

/// Set-ups before the frame: a new agent, one that is here, one beside others that were found, one that gets no channel.
fn setups() -> Vec<Value> {
    let route = json!({"adapter": "claude-code", "cwd": "/"});
    vec![
        json!({"config": {"defaultRoute": route}}),
        json!({"config": {"defaultRoute": route, "agentId": "ag_a"}, "credentials": {"ag_a": {"displayName": "Old"}},
               "loaded": ["ag_a"]}),
        json!({"config": {"defaultRoute": route}, "credentials": {"ag_b": {}}, "loaded": ["ag_b"]}),
        json!({"config": {"defaultRoute": route, "agents": ["ag_b"]}, "add_channel_fails": ["ag_a"]}),
    ]
}

/// A home as a set-up has it, with the directory of the agent made: that is no part of what is put back.
fn begin(setup: &Value, disk: Arc<dyn Disk>) -> (TempDir, Setup) {
    let dir = TempDir::new();
    let begun = Setup::on(setup, &dir.0, disk);
    let seed = Seed { agent: "ag_a", display_name: None, bio: None, runtime: "claude-code", key_id: "k_1" };
    seeds::plant(&begun.home, &seed, &RealDisk).unwrap();
    (dir, begun)
}

/// What lasts, with the place of this home left out.
fn lasting(home: &Home, place: &Path) -> Value {
    let text = |path: &Path| fs::read_to_string(path).unwrap_or_default().replace(place.to_str().unwrap(), "$HOME");
    let mut credentials: Value = serde_json::from_str(&text(&home.credentials("ag_a"))).unwrap_or_default();
    if let Some(file) = credentials.as_object_mut() {
        file.remove("savedAt");
    }
    let config: Value = serde_json::from_str(&text(&home.config())).unwrap();
    json!({"credentials": credentials, "config": config, "journal": home.daemon_dir().join("provision.journal").exists()})
}

/// Carries the frame out; returns whether it was answered well.
fn carry_out(setup: &Setup) -> bool {
    let Incoming::Frame(frame) = read(&provision().to_string()) else { panic!("a frame") };
    setup.duties.carry_out(&frame).is_ok()
}

#[test]
fn whatever_fails_everything_is_as_before_or_as_wanted() {
    for setup in setups() {
        let (dir, whole) = begin(&setup, Arc::new(RealDisk));
        let before = lasting(&whole.home, &dir.0);
        let can = carry_out(&whole);
        let wanted = lasting(&whole.home, &dir.0);
        whole.engine.stop(std::time::Duration::ZERO);
        assert_eq!(can, setup.get("add_channel_fails").is_none());
        assert_eq!(can, wanted != before, "{setup}");
        assert_eq!(wanted["journal"], false);

        // The two in the middle differ from the first one only in what is put back.
        let simple = setup.get("loaded").is_none();
        for lasts in [true, false].into_iter().filter(|lasts| *lasts || simple) {
            let (mut nth, mut undone) = (0, 0);
            loop {
                nth += 1;
                let disk = FaultyDisk::new(Arc::new(RealDisk));
                let (dir, begun) = begin(&setup, Arc::new(disk.clone()));
                disk.arm(Fault { op: None, nth, lasting: lasts, kind: FaultKind::Io });
                let counted = disk.log().len();
                let good = carry_out(&begun);
                let hit = (disk.log().len() - counted) as u64 >= nth;
                begun.engine.stop(std::time::Duration::ZERO);
                let case = format!("{setup} at {nth}, lasting {lasts}");
                if lasts {
                    // The process is gone; the next one looks after what it left.
                    at_start(&begun.home, &(Arc::new(RealDisk) as Arc<dyn Disk>));
                }
                let found = lasting(&begun.home, &dir.0);
                assert!(found == before || found == wanted, "{case}: {found}");
                assert!(!good || found == wanted, "{case}: promised and not done: {found}");
                // A failure that the daemon lives through is put back before the hub hears of it.
                assert!(good || lasts || found == before, "{case}: refused and done: {found}");
                undone += usize::from(found == before);
                if !hit {
                    assert_eq!(good, can);
                    break;
                }
            }
            assert!(nth > 10 && undone > 3, "{setup}: {undone} of {nth}");
        }
    }
}

#[test]
fn who_was_named_meanwhile_stays_named() {
    let (dir, begun) = begin(&setups()[2], Arc::new(RealDisk));
    assert!(carry_out(&begun));
    let record = json!({"agent": "ag_a", "credentials": null, "named": {"agents": ["ag_b"]}, "configured": true});
    fs::write(begun.home.daemon_dir().join("provision.journal"), record.to_string()).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    crate::config::edit::edit(&begun.home, |document| {
        crate::config::agents::add(document, "ag_c", &[]);
    })
    .unwrap();
    assert!(at_start(&begun.home, &disk).is_some());
    assert!(at_start(&begun.home, &disk).is_none(), "once is enough");
    let after = lasting(&begun.home, &dir.0);
    assert_eq!(after["config"]["agents"], json!(["ag_b", "ag_c"]));
    assert_eq!((&after["credentials"], &after["journal"]), (&Value::Null, &json!(false)));
    begun.engine.stop(std::time::Duration::ZERO);
}
