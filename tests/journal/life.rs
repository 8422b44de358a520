//! The journal on a disk that works.

use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bellhop::engine::journal::{
    Accept, EntryState, Journal, JournalError, JournalOptions, JournalState, Known, Line, Record, dump,
};
use bellhop::store::{FaultyDisk, Op, RealDisk};

use crate::kit::*;
use crate::mem_disk::MemDisk;

#[test]
fn what_was_accepted_is_there_after_a_restart() {
    let disk = MemDisk::default();
    let journal = open(&disk).journal;
    let first = take_in(&journal, "m1");
    let second = take_in(&journal, "m2");
    let _ = journal.append(started(&first, "t1"));
    journal.append(result("t1", "o1")).wait().unwrap();
    let before = state(&journal);
    journal.close();

    let opened = open(&disk);
    let journal = opened.journal;
    assert_eq!(state(&journal), before);
    assert_eq!(opened.report.previous.map(|boot| boot.pid), Some(std::process::id()));
    assert!(!opened.report.torn_tail && opened.report.quarantined.is_empty());
    journal.view(|ledger| {
        assert_eq!(ledger.entry(&first).unwrap().state, EntryState::Answered { turn: "t1".into() });
        assert_eq!(ledger.entry(&second).unwrap().message.text, "words of m2");
        assert_eq!(ledger.outbox().next().unwrap().message.id, "o1");
    });
}

#[test]
fn a_repeat_is_recognised_at_every_stage() {
    let disk = MemDisk::default();
    let journal = open(&disk).journal;
    let entry = take_in(&journal, "m1");
    let pending = |answer| matches!(answer, Accept::Pending { entry_id } if entry_id == entry);
    assert!(pending(accept(&journal, message("m1"))));
    let _ = journal.append(started(&entry, "t1"));
    assert!(pending(accept(&journal, message("m1"))));
    journal.append(done(&entry)).wait().unwrap();
    assert!(matches!(accept(&journal, message("m1")), Accept::Terminal));
    journal.append(acked(&entry)).wait().unwrap();
    assert!(matches!(accept(&journal, message("m1")), Accept::Terminal));
    journal.close();

    let journal = open(&disk).journal;
    assert!(matches!(accept(&journal, message("m1")), Accept::Terminal));
    let elsewhere = bellhop::message::Inbound { channel: "ag_2".into(), ..message("m1") };
    assert!(matches!(accept(&journal, elsewhere), Accept::New { .. }));
}

#[test]
fn a_repeat_within_one_call_is_one_entry() {
    let journal = open(&MemDisk::default()).journal;
    let answers = journal.accept(vec![message("m1"), message("m2"), message("m1")], NOW);
    assert!(matches!(&answers[..], [
        Accept::New { entry_id: first, .. },
        Accept::New { .. },
        Accept::Pending { entry_id: again },
    ] if first == again));
}

#[test]
fn of_a_batch_only_what_is_new_is_taken_in() {
    let journal = open(&MemDisk::default()).journal;
    let finished = take_in(&journal, "m1");
    finish(&journal, &finished).unwrap();
    take_in(&journal, "m3");

    let Accept::New { entry_id, message, .. } = accept(&journal, batch(&["m1", "m2", "m3"])) else { panic!() };
    assert_eq!(message.entries.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["m2"]);
    assert_eq!((message.id.as_str(), message.text.as_str()), ("m2", "words of m2"));
    assert_eq!(message.sender.id, "from_m2");
    // The finished one is acknowledged again with the rest, the pending one is not touched.
    assert_eq!(journal.view(|l| l.entry(&entry_id).unwrap().ids.clone()), ["m1", "m2"]);
    assert!(matches!(accept(&journal, batch(&["m2", "m3"])), Accept::Pending { .. }));
}

#[test]
fn what_comes_together_costs_one_sync() {
    let disk = FaultyDisk::new(Arc::new(MemDisk::default()));
    let journal = open(&disk).journal;
    let before = disk.count(Op::Sync);

    // The journal's thread is stopped inside its first write, while a hundred more records come.
    let (entered, has_entered) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let gate = Mutex::new(Some(may_go_on));
    disk.after_each(move |op| {
        if op == Op::Append
            && let Some(gate) = gate.lock().unwrap().take()
        {
            entered.send(()).unwrap();
            let _ = gate.recv();
        }
    });
    let first = journal.append(note("first", 0));
    has_entered.recv().unwrap();
    let tickets: Vec<_> = (0..100).map(|i| journal.append(note(&format!("k{i}"), i))).collect();
    assert!(tickets.iter().all(|ticket| ticket.result().is_none()));
    go_on.send(()).unwrap();

    first.wait().unwrap();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert_eq!(disk.count(Op::Sync) - before, 2);
}

#[test]
fn what_nobody_waits_for_is_written_at_once_and_synced_with_the_next() {
    let disk = MemDisk::default();
    let never = JournalOptions { sync_within: Duration::from_hours(1), ..JournalOptions::default() };
    let journal = open_with(&disk, never).journal;
    let syncs = journal.health().fsyncs;
    let bytes = || disk.paths().iter().filter_map(|p| disk.get(p)).map(|bytes| bytes.len()).sum::<usize>();
    for n in 0..10 {
        let before = bytes();
        journal.append_behind(note(&format!("n{n}"), n));
        eventually(|| bytes() > before);
    }
    assert_eq!(journal.health().fsyncs, syncs);
    let notes = |disk: &MemDisk| open(disk).journal.view(|ledger| ledger.notes("n").count());
    assert_eq!(notes(&disk.copy()), 10, "after a kill");
    journal.append(note("last", 1)).wait().unwrap();
    assert_eq!(journal.health().fsyncs, syncs + 1);
    for image in disk.after_power_loss() {
        assert_eq!(notes(&image), 10, "after a loss of power");
    }
    journal.append_behind(note("n10", 1));
    journal.close();
    for image in disk.after_power_loss() {
        assert_eq!(notes(&image), 11, "after the end");
    }
}

#[test]
fn what_nobody_waits_for_is_synced_by_itself_after_a_while() {
    let disk = MemDisk::default();
    let journal = open_with(&disk, JournalOptions { sync_within: Duration::ZERO, ..JournalOptions::default() }).journal;
    let syncs = journal.health().fsyncs;
    journal.append_behind(note("n", 1));
    eventually(|| journal.health().fsyncs > syncs);
    let soon = open_with(&MemDisk::default(), JournalOptions::default()).journal;
    let syncs = soon.health().fsyncs;
    soon.append_behind(note("n", 1));
    eventually(|| soon.health().fsyncs > syncs);
}

fn eventually(holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "never");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn callbacks_run_once_the_record_is_durable_and_may_panic() {
    let disk = MemDisk::default();
    let journal = open(&disk).journal;
    let (tell, told) = mpsc::channel();
    journal.append_then(note("a", 1), Box::new(|_| panic!("a caller's mistake")));
    let image = disk.clone();
    journal.append_then(
        note("b", 2),
        Box::new(move |result| {
            let lost = &image.after_power_loss()[0];
            tell.send((result, open(lost).journal.view(|l| l.note("b").is_some()))).unwrap();
        }),
    );
    assert_eq!(told.recv().unwrap(), (Ok(()), true));
    journal.append(note("c", 3)).wait().unwrap();
}

#[test]
fn a_closed_journal_says_so() {
    let disk = MemDisk::default();
    let journal = open(&disk).journal;
    let last = journal.append(note("a", 1));
    journal.close();
    last.wait().unwrap();
    assert_eq!(journal.append(note("b", 2)).wait(), Err(JournalError::Closed));
    assert!(matches!(accept(&journal, message("m1")), Accept::Refused { .. }));
    assert_eq!(journal.recover_now(), Err(JournalError::Closed));
    assert_eq!(journal.health().state, JournalState::Closed);
    journal.close();
}

#[test]
fn the_bounds_refuse_new_messages_and_nothing_else() {
    let few = JournalOptions { max_entries: 2, ..JournalOptions::default() };
    let journal = open_with(&MemDisk::default(), few).journal;
    let entry = take_in(&journal, "m1");
    take_in(&journal, "m2");
    assert!(matches!(accept(&journal, message("m3")), Accept::Refused { .. }));
    assert!(matches!(accept(&journal, message("m1")), Accept::Pending { .. }));
    finish(&journal, &entry).unwrap();
    take_in(&journal, "m3");

    let narrow = JournalOptions { max_live_bytes: 1_000, ..JournalOptions::default() };
    let journal = open_with(&MemDisk::default(), narrow).journal;
    take_in(&journal, "m1");
    let long = bellhop::message::Inbound { text: "x".repeat(1_000), ..message("m2") };
    assert!(matches!(accept(&journal, long), Accept::Refused { .. }));
    assert_eq!(known(&journal, "m2"), Known::No);
}

#[test]
fn strangers_leave_room_for_the_owner() {
    let owner = |id: &str, text: usize| {
        let mut message = message(id);
        message.conversation.id = "rm_oc_1".into();
        message.text = "x".repeat(text);
        message
    };
    let refused = |answer: Accept| matches!(answer, Accept::Refused { .. });
    let few = JournalOptions { max_entries: 16, ..JournalOptions::default() };
    let journal = open_with(&MemDisk::default(), few).journal;
    (0..14).for_each(|n| drop(take_in(&journal, &format!("m{n}"))));
    assert!(refused(accept(&journal, message("m14"))));
    new(accept(&journal, owner("o1", 1)));
    new(accept(&journal, owner("o2", 1)));
    assert!(refused(accept(&journal, owner("o3", 1))));

    let narrow = JournalOptions { max_live_bytes: 80_000, ..JournalOptions::default() };
    let journal = open_with(&MemDisk::default(), narrow).journal;
    new(accept(&journal, owner("o1", 69_500)));
    assert!(refused(accept(&journal, message("m1"))));
    new(accept(&journal, owner("o2", 1)));
    assert!(refused(accept(&journal, owner("o3", 10_000))));
}

#[test]
fn compaction_keeps_the_state_and_bounds_the_file() {
    let disk = MemDisk::default();
    let journal = open_with(&disk, small()).journal;
    let waiting = take_in(&journal, "waits");
    for i in 0..300 {
        let entry = take_in(&journal, &format!("m{i}"));
        finish(&journal, &entry).unwrap();
    }
    journal.append(note("mark", 7)).wait().unwrap();
    let health = journal.health();
    assert!(health.segment > 10, "{health:?}");
    assert!(health.segment_bytes <= 1_500_u64.max(2 * health.live_bytes) + 2_000, "{health:?}");
    assert_eq!(health.entries, 1);
    let before = state(&journal);
    journal.close();
    assert_eq!(disk.paths().len(), 1, "{:?}", disk.paths());

    let journal = open(&disk).journal;
    assert_eq!(state(&journal), before);
    assert!(journal.view(|ledger| ledger.entry(&waiting).is_some()));
    assert!((0..300).all(|i| known(&journal, &format!("m{i}")) == Known::Terminal));
}

#[test]
fn concurrent_callers_leave_file_and_ledger_in_the_same_order() {
    let home = TempDir::new();
    let journal = Journal::open(&home.0, Arc::new(RealDisk), JournalOptions::default()).unwrap().journal;
    let callers: Vec<_> = (0..8)
        .map(|n| {
            let journal = journal.clone();
            thread::spawn(move || {
                for i in 0..40 {
                    let (_, ticket) = new(accept(&journal, message(&format!("m{n}_{i}"))));
                    if i % 7 == 0 {
                        ticket.wait().unwrap();
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
    journal.append(note("last", 1)).wait().unwrap();

    let in_ledger: Vec<_> = journal.view(|ledger| ledger.entries().map(|e| e.id.clone()).collect());
    // Beside the running journal.
    let in_file: Vec<_> = dump(&home.0)
        .unwrap()
        .filter_map(|line| match line.unwrap().line {
            Line::Known(stamped) => match stamped.record {
                Record::Accepted { e, .. } => Some(e),
                _ => None,
            },
            Line::Unknown(line) => panic!("{line}"),
        })
        .collect();
    assert_eq!(in_ledger.len(), 320);
    assert_eq!(in_file, in_ledger);
}

#[test]
fn concurrent_repeats_are_one_entry() {
    let journal = open(&MemDisk::default()).journal;
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let journal = journal.clone();
            thread::spawn(move || {
                (0..50).filter(|i| matches!(accept(&journal, message(&format!("m{i}"))), Accept::New { .. })).count()
            })
        })
        .collect();
    assert_eq!(callers.into_iter().map(|caller| caller.join().unwrap()).sum::<usize>(), 50);
    assert_eq!(journal.view(bellhop::engine::journal::Ledger::entry_count), 50);
}

#[test]
fn a_real_disk_is_no_other() {
    let home = TempDir::new();
    let begin = || Journal::open(&home.0, Arc::new(RealDisk), small()).unwrap();
    let journal = begin().journal;
    for i in 0..20 {
        let entry = take_in(&journal, &format!("m{i}"));
        if i % 4 != 0 {
            finish(&journal, &entry).unwrap();
        }
    }
    let before = state(&journal);
    assert!(journal.health().segment > 2);
    journal.close();
    let opened = begin();
    assert_eq!(opened.report.bad_line_count, 0);
    assert_eq!(state(&opened.journal), before);
    assert_eq!(std::fs::read_dir(&home.0).unwrap().count(), 1);
}

#[test]
fn files_are_for_their_owner_only() {
    let home = TempDir::new();
    let dir = home.0.join("daemon/journal");
    let journal = Journal::open(&dir, Arc::new(RealDisk), JournalOptions::default()).unwrap().journal;
    take_in(&journal, "m1");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("0000000001.ndjson")), 0o600);
}

#[test]
fn a_long_journal_loads() {
    let disk = MemDisk::default();
    let journal = open(&disk).journal;
    let entry = take_in(&journal, "m1");
    for i in 0..100_000 {
        let _ = journal.append(note(&format!("k{}", i % 1_000), i));
    }
    let records = journal.health().records;
    journal.close();
    let opened = open(&disk);
    assert!(records > 100_000);
    assert_eq!(opened.report.bad_line_count, 0);
    assert!(opened.journal.view(|l| l.entry(&entry).is_some() && l.notes("k").count() == 1_000));
    assert_eq!(opened.journal.view(|l| l.note("k999").unwrap().value.clone()), 99_999);
}
