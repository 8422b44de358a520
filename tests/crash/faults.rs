//! Every single operation on the disk fails once, in every way there is, while messages are taken and answered.

use std::sync::Arc;
use std::time::Duration;

use bellhop::engine::journal::JournalState;
use bellhop::engine::ports::Capabilities;
use bellhop::engine::{Acceptance, Settings};
use bellhop::store::{Disk, Fault, FaultKind, FaultyDisk, Op, RealDisk};

use crate::support::child::eventually;
use crate::support::engine::{Build, FakeChannel, Gate, Harness, TempDir, answer, group, script};

/// Messages of one life: two conversations, one by one in each.
const MESSAGES: usize = 5;

fn faulty() -> FaultyDisk {
    FaultyDisk::new(Arc::new(RealDisk))
}

fn build(disk: &FaultyDisk) -> Build {
    build_on(Arc::new(disk.clone()))
}

/// A channel on which every message gets a reply of its own.
fn build_on(disk: Arc<dyn Disk>) -> Build {
    Build { disk, channel: FakeChannel::new("botcord", "plain", Capabilities::default()), ..Build::default() }
}

fn name(n: usize) -> String {
    format!("m{n}")
}

/// Hands in the messages; returns what was said to each.
fn hand_in(h: &Harness) -> Vec<Acceptance> {
    let message = |n: usize| group(&format!("rm_{}", n % 2), &name(n), &format!("words {n}"));
    (0..MESSAGES).map(|n| h.accept(message(n))).collect()
}

/// One life with a fault, and the next one with a good disk.
fn live_and_reopen(fault: Fault) {
    let disk = faulty();
    let h = Harness::build("fault", build(&disk));
    disk.arm(fault);
    let answers = hand_in(&h);
    // What can be answered is; what waits for the disk is left to the next life.
    let accepted: Vec<usize> = (0..MESSAGES).filter(|n| matches!(answers[*n], Acceptance::Accepted { .. })).collect();
    h.engine.wait_idle(Duration::from_secs(30));
    h.engine.stop(Duration::from_secs(30));
    let before = h.runtime.runs.all();
    let dir = Arc::clone(&h.dir);
    drop(h);

    disk.disarm();
    let h = Harness::in_dir(dir, build_on(Arc::new(RealDisk)));
    for (n, was) in answers.iter().enumerate() {
        let id = name(n);
        let context = || format!("{fault:?}: {id} was {was:?}");
        match was {
            Acceptance::Accepted { .. } => {
                eventually(&format!("{} and is answered", context()), || h.engine.knows("botcord", &id) == Some(true));
            }
            Acceptance::Refused(why) => {
                assert!(!why.is_empty());
                // A disk that fails for good may keep what it said it could not write: the sender repeats it
                // under the same id, and it is answered once.
                assert!(fault.lasting || h.engine.knows("botcord", &id).is_none(), "{} but it is there", context());
            }
            other => panic!("{}: {other:?}", context()),
        }
    }
    h.engine.stop(Duration::from_secs(30));
    for n in accepted {
        let text = format!("words {n}");
        let ran = |runs: &[bellhop::engine::ports::RunRequest]| runs.iter().filter(|r| r.text.contains(&text)).count();
        let (first, second) = (ran(&before), ran(&h.runtime.runs.all()));
        assert!(first + second >= 1, "{fault:?}: {text} never ran");
        assert!(first <= 1 && second <= 1, "{fault:?}: {text} ran {first} and {second} times");
    }
}

/// Operations of a life without faults, of one kind or of all.
fn operations(op: Option<Op>) -> u64 {
    let disk = faulty();
    let h = Harness::build("fault-count", build(&disk));
    let before = disk.log().len();
    hand_in(&h);
    h.channel.settled.wait(MESSAGES);
    h.engine.stop(Duration::from_secs(30));
    disk.log()[before..].iter().filter(|o| op.is_none_or(|wanted| wanted == **o)).count() as u64
}

fn each(op: Option<Op>, kinds: &[FaultKind]) {
    let count = operations(op);
    assert!(count > 0, "{op:?} is never used");
    for &kind in kinds {
        for lasting in [false, true] {
            for nth in 1..=count {
                live_and_reopen(Fault { op, nth, lasting, kind });
            }
        }
    }
}

#[test]
fn any_operation_may_find_the_disk_full() {
    each(None, &[FaultKind::NoSpace]);
}

#[test]
fn any_operation_may_find_the_disk_read_only() {
    each(None, &[FaultKind::ReadOnly]);
}

#[test]
fn any_write_may_fail_or_be_cut_short() {
    each(Some(Op::Append), &[FaultKind::Io, FaultKind::Short, FaultKind::Late]);
}

#[test]
fn any_fsync_may_fail() {
    each(Some(Op::Sync), &[FaultKind::Io, FaultKind::Late]);
}

#[test]
fn any_rename_may_fail() {
    each(Some(Op::Rename), &[FaultKind::Io, FaultKind::Late]);
}

/// Every operation that changes something fails.
fn broken() -> Fault {
    Fault { op: None, nth: 1, lasting: true, kind: FaultKind::NoSpace }
}

#[test]
fn while_nothing_can_be_written_messages_are_refused_and_waiting_turns_run_later() {
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let disk = faulty();
    let h = Harness::build(
        "fault-wait",
        Build {
            script: script(move |_, _, cancel, _| {
                pass.pass(cancel);
                Ok(answer("ok", "s"))
            }),
            settings: Settings {
                max_turns: 1,
                outbox_delays: vec![Duration::from_millis(5); 3],
                ..Settings::default()
            },
            ..build(&disk)
        },
    );
    assert!(matches!(h.accept(group("rm_a", "first", "one")), Acceptance::Accepted { .. }));
    h.runtime.runs.wait(1);
    assert!(matches!(h.accept(group("rm_b", "second", "two")), Acceptance::Accepted { .. }));

    disk.arm(broken());
    let Acceptance::Refused(why) = h.accept(group("rm_c", "third", "three")) else { panic!("taken without a disk") };
    assert!(why.contains("cannot write") && why.to_lowercase().contains("no space"), "{why}");
    let Acceptance::Refused(why) = h.accept(group("rm_c", "third", "three")) else { panic!("taken without a disk") };
    assert!(why.starts_with("the journal cannot be written: "), "{why}");
    assert!(matches!(h.engine.status().journal.state, JournalState::Broken { disk_full: true, .. }));

    gate.open();
    h.channel.sent.wait(1);
    eventually("the second turn was put back", || h.engine.status().turns.is_empty());
    assert_eq!(h.runtime.runs.len(), 1, "nothing runs that the journal does not know of");
    assert_eq!(h.channel.settled.len(), 0, "nothing is acknowledged that is not durable");

    disk.disarm();
    // The lane of the second rests for 5 s; its start is what finds the disk well again.
    let sent = h.channel.sent.wait(2);
    assert_eq!(sent.len(), 2);
    eventually("both are done", || ["first", "second"].iter().all(|id| h.engine.knows("botcord", id) == Some(true)));
    assert_eq!(h.runtime.runs.len(), 2);
    assert_eq!(h.engine.knows("botcord", "third"), None);
    assert!(matches!(h.accept(group("rm_c", "third", "three")), Acceptance::Accepted { .. }));
    eventually("the third is acknowledged, and the others too", || h.channel.settled.len() == 3);
    h.engine.stop(Duration::from_secs(30));
}

#[test]
fn a_journal_that_is_broken_from_the_start_takes_messages_once_the_disk_is_well() {
    let dir = Arc::new(TempDir::new("fault-start"));
    let disk = faulty();
    disk.arm(Fault { op: Some(Op::Create), nth: 1, lasting: true, kind: FaultKind::ReadOnly });
    let h = Harness::in_dir(Arc::clone(&dir), build(&disk));
    assert!(matches!(h.accept(group("rm_a", "m", "one")), Acceptance::Refused(_)));
    disk.disarm();
    eventually("it is taken", || matches!(h.accept(group("rm_a", "m", "one")), Acceptance::Accepted { .. }));
    h.channel.settled.wait(1);
    h.engine.stop(Duration::from_secs(30));
}
