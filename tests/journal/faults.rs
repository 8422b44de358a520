//! Disks that fail, and power that fails. What a ticket confirmed is there afterwards; what was refused is not.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bellhop::engine::journal::{Accept, Journal, JournalOptions, JournalState, Known};
use bellhop::store::{Fault, FaultKind, FaultyDisk, Op};

use crate::kit::*;
use crate::mem_disk::MemDisk;

/// What was promised while the disk failed.
#[derive(Default)]
struct Promised {
    kept: Vec<String>,
    refused: Vec<String>,
}

/// A life with several compactions in it.
fn live(journal: &Journal) -> Promised {
    let mut promised = Promised::default();
    for i in 0..16 {
        let id = format!("m{i}");
        match try_take_in(journal, &id) {
            Ok(entry) => {
                promised.kept.push(id);
                if i % 3 != 0 {
                    // Its records may fail too; the message is known all the same.
                    let _ = finish(journal, &entry);
                }
            }
            Err(_) => promised.refused.push(id),
        }
    }
    promised
}

fn check(disk: &MemDisk, promised: &Promised, strict: bool, what: &str) {
    let journal = open(disk).journal;
    for id in &promised.kept {
        assert_ne!(known(&journal, id), Known::No, "{what}: {id} was confirmed and is lost");
    }
    for id in promised.refused.iter().filter(|_| strict) {
        assert_eq!(known(&journal, id), Known::No, "{what}: {id} was refused and is there");
    }
    take_in(&journal, "afterwards");
}

fn fail_with(fault: Fault, promises: &mut usize) {
    let what = format!("{fault:?}");
    let memory = MemDisk::default();
    open(&memory).journal.close();
    let disk = FaultyDisk::new(Arc::new(memory.clone()));
    disk.arm(fault);
    let Ok(opened) = Journal::open(dir(), Arc::new(disk.clone()), small()) else {
        // It could not be read: nothing was promised, and nothing may have been thrown away.
        return check(&memory, &Promised::default(), true, &what);
    };
    let promised = live(&opened.journal);
    *promises += promised.kept.len();
    // When nothing at all can be done to the disk any more, not even the cut after a failed write, a
    // refused message may come back: as a repeat, which is harmless.
    let strict = !(fault.lasting && fault.op.is_none());
    for image in memory.after_power_loss() {
        check(&image, &promised, false, &format!("{what}, then power loss"));
    }
    check(&memory.copy(), &promised, strict, &format!("{what}, then kill"));
    if fault.lasting {
        disk.disarm();
        opened.journal.recover_now().unwrap();
        assert_eq!(opened.journal.health().state, JournalState::Open, "{what}");
        let entry = take_in(&opened.journal, "recovered");
        finish(&opened.journal, &entry).unwrap();
    }
    opened.journal.close();
    check(&memory, &promised, true, &format!("{what}, then recovery and stop"));
}

fn operations_of_a_life() -> u64 {
    let disk = FaultyDisk::new(Arc::new(MemDisk::default()));
    let journal = open_with(&disk, small()).journal;
    live(&journal);
    journal.close();
    disk.log().len() as u64
}

#[test]
fn one_operation_fails_whichever() {
    let operations = operations_of_a_life();
    assert!(operations > 100, "{operations}");
    let mut promises = 0;
    for kind in [FaultKind::NoSpace, FaultKind::Io, FaultKind::Short, FaultKind::Late] {
        for nth in 1..=operations {
            fail_with(Fault { op: None, nth, lasting: false, kind }, &mut promises);
        }
    }
    assert!(promises > 1_000);
}

#[test]
fn everything_fails_from_some_operation_on() {
    let mut promises = 0;
    for kind in [FaultKind::ReadOnly, FaultKind::Short] {
        for nth in (1..=operations_of_a_life()).step_by(3) {
            fail_with(Fault { op: None, nth, lasting: true, kind }, &mut promises);
        }
    }
    assert!(promises > 100);
}

#[test]
fn one_kind_of_operation_fails_from_some_time_on() {
    let mut promises = 0;
    let kinds = [FaultKind::NoSpace, FaultKind::Short, FaultKind::Late];
    for op in [Op::Create, Op::Append, Op::Sync, Op::Rename, Op::SyncDir, Op::Remove, Op::Truncate] {
        for nth in 1..=12 {
            for kind in kinds {
                fail_with(Fault { op: Some(op), nth, lasting: true, kind }, &mut promises);
            }
        }
    }
    assert!(promises > 100);
}

#[test]
fn power_fails_after_each_operation() {
    let memory = MemDisk::default();
    let disk = FaultyDisk::new(Arc::new(memory.clone()));
    let confirmed: Arc<Mutex<Vec<String>>> = Arc::default();
    let moments: Arc<Mutex<Vec<_>>> = Arc::default();
    let journal = open_with(&disk, small()).journal;
    let (so_far, taken) = (confirmed.clone(), moments.clone());
    disk.after_each(move |op| {
        let so_far = so_far.lock().unwrap().clone();
        taken.lock().unwrap().push((op, memory.copy(), so_far));
    });
    for i in 0..24 {
        let id = format!("m{i}");
        let entry = take_in(&journal, &id);
        confirmed.lock().unwrap().push(id);
        if i % 3 != 0 {
            finish(&journal, &entry).unwrap();
        }
    }
    journal.close();

    let moments = moments.lock().unwrap();
    assert!(moments.iter().any(|(op, ..)| *op == Op::Rename), "no compaction");
    for (n, (op, memory, confirmed)) in moments.iter().enumerate() {
        let images = [memory.after_power_loss(), memory.after_power_loss_torn(), vec![memory.copy()]].concat();
        for (m, image) in images.iter().enumerate() {
            let journal = open(image).journal;
            for id in confirmed {
                assert_ne!(known(&journal, id), Known::No, "{id} lost after operation {n} ({op:?}), image {m}");
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_messages_until_there_is_room() {
    let memory = MemDisk::default();
    let disk = FaultyDisk::new(Arc::new(memory.clone()));
    let patient = JournalOptions { retry_after: Duration::from_hours(1), ..JournalOptions::default() };
    let journal = open_with(&disk, patient).journal;
    let entry = take_in(&journal, "m1");

    disk.arm(Fault { op: Some(Op::Append), nth: 1, lasting: true, kind: FaultKind::Short });
    assert!(try_take_in(&journal, "m2").unwrap_err().contains("disk full"));
    assert!(matches!(journal.health().state, JournalState::Broken { disk_full: true, .. }));
    assert_eq!(known(&journal, "m2"), Known::No);

    // From here on the disk is left alone: messages are refused at once, repeats still recognised.
    let operations = disk.log().len();
    let Accept::Refused { why } = accept(&journal, message("m3")) else { panic!() };
    assert!(why.contains("disk full"), "{why}");
    assert!(matches!(accept(&journal, message("m1")), Accept::Pending { .. }));
    // A turn that ends meanwhile is not forgotten, although it cannot be written.
    assert!(finish(&journal, &entry).is_err());
    assert_eq!(disk.log().len(), operations);
    assert!(journal.recover_now().is_err());

    disk.disarm();
    journal.recover_now().unwrap();
    assert_eq!(journal.health().state, JournalState::Open);
    take_in(&journal, "m3");
    let left = &memory.after_power_loss()[0];
    let journal = open(left).journal;
    assert_eq!(["m1", "m2"].map(|id| known(&journal, id)), [Known::Terminal, Known::No]);
    assert!(matches!(known(&journal, "m3"), Known::Pending { .. }));
}

#[test]
fn a_message_itself_tries_again_when_it_is_time() {
    let disk = FaultyDisk::new(Arc::new(MemDisk::default()));
    let journal = open_with(&disk, small()).journal;
    disk.arm(Fault { op: Some(Op::Sync), nth: 1, lasting: true, kind: FaultKind::Io });
    assert!(try_take_in(&journal, "m1").is_err());
    assert!(try_take_in(&journal, "m1").is_err());
    disk.disarm();
    take_in(&journal, "m1");
    assert!(journal.health().last_error.is_some());
}

#[test]
fn a_disk_that_cannot_be_written_at_the_start_is_no_reason_not_to_start() {
    let memory = MemDisk::default();
    let journal = open(&memory).journal;
    let entry = take_in(&journal, "m1");
    journal.close();
    let disk = FaultyDisk::new(Arc::new(memory.clone()));
    disk.arm(Fault { op: Some(Op::Create), nth: 1, lasting: true, kind: FaultKind::ReadOnly });
    let opened = open_with(&disk, small());
    assert!(opened.report.broken.is_some());
    assert!(opened.journal.view(|l| l.entry(&entry).is_some()));
    assert!(try_take_in(&opened.journal, "m2").is_err());
    disk.disarm();
    take_in(&opened.journal, "m2");
    opened.journal.close();
    let journal = open(&memory).journal;
    assert!(["m1", "m2"].iter().all(|id| known(&journal, id) != Known::No));
}

#[test]
fn a_disk_that_cannot_be_read_is() {
    let memory = MemDisk::default();
    let journal = open(&memory).journal;
    take_in(&journal, "m1");
    journal.close();
    let before = memory.paths();
    for op in [Op::List, Op::Read, Op::CreateDir] {
        let disk = FaultyDisk::new(Arc::new(memory.clone()));
        disk.arm(Fault { op: Some(op), nth: 1, lasting: true, kind: FaultKind::Io });
        assert!(Journal::open(dir(), Arc::new(disk), small()).is_err(), "{op:?}");
        assert_eq!(memory.paths(), before, "{op:?}");
    }
}
