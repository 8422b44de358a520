//! A clock that jumps by hours between two starts, as that of a machine without a battery does.

use std::fs;

use bellhop::engine::journal::{Line, Record, decode, encode};
use bellhop::serve::wire::State;

use crate::books;
use crate::daemon::Home;
use crate::support::child::eventually;

const HOUR: i64 = 3_600_000;

/// What the files would hold if the clock had been off by `by` ms so far.
fn shift(home: &Home, by: i64) {
    for entry in fs::read_dir(home.join("daemon/journal")).unwrap().flatten() {
        let mut shifted = Vec::new();
        for line in fs::read(entry.path()).unwrap().split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let Ok(Line::Known(mut stamped)) = decode(line) else { panic!("{}", String::from_utf8_lossy(line)) };
            stamped.t += by;
            if let Record::Seen { keys, .. } = &mut stamped.record {
                for (_, at) in keys {
                    *at += by;
                }
            }
            shifted.extend(encode(stamped.t, &stamped.record).unwrap());
        }
        fs::write(entry.path(), shifted).unwrap();
    }
    let path = home.join("daemon/sessions.json");
    let Ok(text) = fs::read_to_string(&path) else { return };
    let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
    for entry in document["entries"].as_object_mut().unwrap().values_mut() {
        entry["updatedAt"] = (entry["updatedAt"].as_i64().unwrap() + by).into();
    }
    fs::write(path, document.to_string()).unwrap();
}

#[test]
fn hours_back_and_forth_lose_nothing_and_repeat_nothing() {
    let home = Home::new("clock");
    let mut all: Vec<String> = Vec::new();
    for (round, by) in [0, -5 * HOUR, 9 * HOUR, -20 * HOUR, 3 * HOUR, 22 * HOUR].into_iter().enumerate() {
        let daemon = home.start();
        // What earlier rounds left is done, what they finished is recognised.
        for id in &all {
            daemon.wait_done(id);
            daemon.submit(id, "fast");
            assert_eq!(daemon.state(id).state, State::Done);
        }
        let (done, open) = (format!("done{round}"), format!("open{round}"));
        daemon.submit_with(bellhop::serve::wire::Submit {
            conversation: Some("same".into()),
            ..crate::daemon::job(&done, "fast")
        });
        daemon.wait_done(&done);
        daemon.submit(&open, "slow");
        eventually("it runs", || home.runs(&open) == 1);
        daemon.kill();
        shift(&home, by);
        all.extend([done, open]);
    }
    let daemon = home.start();
    for id in &all {
        daemon.wait_done(id);
    }
    assert!(daemon.client().sessions().unwrap().sessions.iter().any(|s| s.conversation == "same"));
    assert!(daemon.stop().success());
    let answers = books::answers(&home);
    for id in &all {
        assert_eq!(answers.replies.get(id), Some(&1), "{id}");
        assert!(home.runs(id) <= 2, "{id}");
    }
    let stale: Vec<String> = home.log().lines().filter(|l| l.contains("stale queue")).map(str::to_owned).collect();
    assert!(stale.is_empty(), "{stale:#?}");
}
