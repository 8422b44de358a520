//! However a turn ends, nothing that it has started outlives it.

use bellhop::serve::wire::{Shutdown, State, Submit};
use rustix::process::Signal;

use crate::daemon::{Daemon, Home, job};
use crate::support::child::eventually;

/// What the fake CLI starts; each then says something and waits to be stopped.
const TREES: [(&str, &str, usize); 5] = [
    ("plain", "sleep 1000 & says up; wait", 2),
    ("setsid", "setsid sleep 1000 >/dev/null 2>&1 & says up; wait", 2),
    ("double", "(setsid sh -c 'sleep 1000 & sleep 1000 & exit 0' >/dev/null 2>&1 &) ; says up; sleep 1000", 4),
    (
        "deaf",
        "trap '' TERM INT HUP; setsid sh -c 'trap \"\" TERM INT HUP; sleep 1000; sleep 1000' >/dev/null 2>&1 & \
              says up; while :; do sleep 1000; done",
        4,
    ),
    ("bomb", "n=0; while [ $n -lt 50 ]; do setsid sleep 1000 >/dev/null 2>&1 & n=$((n+1)); done; says up; wait", 51),
];

/// A daemon that can grow every tree.
fn planted(home: &Home) -> Daemon<'_> {
    for (name, script, _) in TREES {
        home.program(name, script);
    }
    home.start()
}

/// A daemon in which every tree stands.
fn grown(home: &Home) -> Daemon<'_> {
    let daemon = planted(home);
    for (name, ..) in TREES {
        daemon.submit_with(Submit { conversation: Some(name.into()), ..job(name, name) });
    }
    let count = TREES.iter().map(|(.., n)| n).sum::<usize>();
    eventually("all trees have grown", || home.processes().len() >= count);
    daemon
}

fn all_gone(home: &Home) {
    eventually("nothing of any turn is left", || home.processes().is_empty());
}

#[test]
fn cancelled() {
    let home = Home::new("trees-cancel");
    let daemon = grown(&home);
    for (name, ..) in TREES {
        assert_eq!(daemon.client().cancel(name).unwrap().cancelled, 1);
    }
    for (name, ..) in TREES {
        daemon.wait_done(name);
    }
    all_gone(&home);
    assert!(daemon.stop().success());
}

#[test]
fn out_of_time() {
    let home = Home::new("trees-timeout");
    let daemon = planted(&home);
    // Long enough for most trees to stand, also on a busy machine; the others are cut down as saplings.
    for (name, ..) in TREES {
        daemon.submit_with(Submit { conversation: Some(name.into()), timeout_ms: Some(4_000), ..job(name, name) });
    }
    eventually("something was started", || home.processes().len() > TREES.len());
    for (name, ..) in TREES {
        let report = daemon.wait_done(name).report.expect("it ended in this daemon");
        assert_eq!(report.status, bellhop::engine::ports::TurnStatus::Timeout, "{name}");
    }
    all_gone(&home);
    assert!(daemon.stop().success());
}

#[test]
fn shut_down() {
    let home = Home::new("trees-shutdown");
    let daemon = grown(&home);
    daemon.client().shutdown(&Shutdown { drain_seconds: Some(0) }).unwrap();
    assert!(daemon.ended().success());
    assert_eq!(home.processes(), [0; 0], "gone before the daemon is");
}

#[test]
fn killed_with_the_daemon() {
    let home = Home::new("trees-kill");
    grown(&home).kill();
    for (name, ..) in TREES {
        home.program(name, "");
    }
    let left = home.processes();
    assert!(!left.is_empty(), "a daemon that is killed cannot take them along");
    let daemon = home.start();
    // Before the daemon answers, before any session is resumed.
    let again = home.processes();
    assert!(left.iter().all(|pid| !again.contains(pid)), "{left:?} {again:?}");
    for (name, ..) in TREES {
        assert_eq!(daemon.wait_done(name).state, State::Done);
    }
    all_gone(&home);
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().success());
}

#[test]
fn a_cli_that_stays_after_its_reply_is_ended_by_the_next_daemon() {
    let home = Home::new("trees-linger");
    let reply = r#"{"type":"result","subtype":"success","is_error":false,"result":"answer to m","session_id":"s"}"#;
    home.program("stays", &format!("setsid sleep 1000 >/dev/null 2>&1 &\necho '{reply}'\nwait"));
    let daemon = home.start();
    daemon.submit("m", "stays");
    daemon.wait_done("m");
    assert!(home.processes().len() >= 2, "it goes on after its reply");
    daemon.kill();
    let daemon = home.start();
    assert_eq!(home.processes(), [0; 0]);
    assert!(daemon.stop().success());
    assert_eq!((home.runs("m"), crate::books::answers(&home).replies["m"]), (1, 1));
}
