//! The orderly end: what runs may finish, what cannot is taken up by the next start.

use rustix::process::Signal;

use crate::books;
use crate::daemon::Home;
use crate::support::child::eventually;
use crate::support::engine::{Harness, PATIENCE, answer, message};

fn waits(home: &Home, ids: &[&str]) {
    eventually("the turns run", || ids.iter().all(|id| home.runs(id) == 1));
}

#[test]
fn sigterm_lets_running_turns_finish_and_leaves_waiting_ones() {
    let home = Home::new("drain");
    let daemon = home.start();
    daemon.submit("runs", "wait");
    waits(&home, &["runs"]);
    // Behind it in the same conversation.
    let conversation = Some("c-runs".to_owned());
    daemon.submit_with(bellhop::serve::wire::Submit { conversation, ..crate::daemon::job("waits", "fast") });
    daemon.signal(Signal::TERM);
    eventually("it drains", || home.log().contains("daemon.stopping"));
    let refused = home.client().map(|c| c.submit(&crate::daemon::job("late", "fast")));
    assert!(!matches!(refused, Some(Ok(_))), "taken while it ends");
    home.go();
    assert!(daemon.ended().success());
    let answers = books::answers(&home);
    assert_eq!((answers.replies.get("runs"), answers.replies.get("waits")), (Some(&1), None));

    let daemon = home.start();
    daemon.wait_done("waits");
    assert!(daemon.stop().success());
    let answers = books::answers(&home);
    assert_eq!((answers.replies.get("runs"), answers.replies.get("waits")), (Some(&1), Some(&1)));
    assert_eq!((home.runs("runs"), home.runs("waits"), home.runs("late")), (1, 1, 0));
}

#[test]
fn a_second_sigterm_interrupts_at_once_and_loses_nothing() {
    let home = Home::new("interrupt");
    let daemon = home.start();
    let ids = ["a", "b", "c"];
    for id in ids {
        daemon.submit(id, "wait");
    }
    eventually("all have said something", || books::interrupted_with_effects(&home).len() == 3);
    daemon.signal(Signal::TERM);
    eventually("it drains", || home.log().contains("daemon.stopping"));
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().success());
    assert!(home.log().contains("daemon.stopped interrupted=3"), "{}", home.log());
    assert_eq!(home.processes(), [0; 0]);
    assert!(books::answers(&home).replies.is_empty(), "an interruption is no answer");

    home.go();
    let daemon = home.start();
    for id in ids {
        daemon.wait_done(id);
    }
    assert!(daemon.stop().success());
    let runs = books::runs(&home.ledger());
    for id in ids {
        assert_eq!(runs[id].iter().map(|r| r.told).collect::<Vec<_>>(), [false, true], "{id}");
        assert_eq!(books::answers(&home).replies[id], 1);
    }
}

#[test]
fn an_idle_daemon_ends_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = Home::new("idle");
        let daemon = home.start();
        daemon.signal(signal);
        assert_eq!(daemon.ended().code(), Some(0));
        assert!(home.client().is_none());
        assert!(!home.join("daemon/daemon.pid").exists());
    }
}

#[test]
fn an_answer_that_is_whole_when_the_shutdown_comes_is_not_thrown_away() {
    let h = Harness::script("whole", |_, _, cancel, _| {
        assert!(cancel.sleep(PATIENCE), "never interrupted");
        Ok(answer("just in time", "s"))
    });
    h.accept(message("m", "hello"));
    h.runtime.runs.wait(1);
    assert_eq!(h.engine.stop(std::time::Duration::ZERO), 0, "none has to run again");
    assert_eq!(h.channel.sent.all()[0].text, "just in time");
    let dir = std::sync::Arc::clone(&h.dir);
    drop(h);
    let h = Harness::in_dir(dir, crate::support::engine::Build::default());
    assert_eq!((h.recovered.requeued, h.engine.knows("botcord", "m")), (0, Some(true)));
}
