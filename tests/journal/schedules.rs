//! Every order of a few calls and of the steps of the disk below them: who appends while a write, a sync, a new segment
//! or a failure is under way, and who closes the journal meanwhile.
//!
//! The journal's callers and its commits meet in one locked state; between two steps of the disk nothing else changes
//! it. So a schedule is which call comes after which step of the disk, and the disk itself makes the calls: all
//! schedules are walked through with the journal as it is, and no tool that takes over the scheduler is needed.

use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bellhop::engine::journal::{Accept, Journal, JournalError, JournalOptions, Known, Ticket};
use bellhop::store::{Fault, FaultKind, FaultyDisk, Op};

use crate::kit::*;
use crate::mem_disk::MemDisk;

/// Longest wait for a journal that is to come to rest; a schedule that gets here has failed.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// A new message.
    Take,
    /// The first message again, from another thread.
    Again,
    /// A record that somebody waits for.
    Note,
    /// One that nobody waits for.
    Behind,
    /// Somebody wants to know whether it can be written.
    Nudge,
    Close,
}

const CALLS: [Call; 6] = [Call::Take, Call::Again, Call::Note, Call::Behind, Call::Nudge, Call::Close];

/// A call, and how many steps of the disk lie between it and the one before. It comes earlier when the journal rests.
type Plan = Vec<(usize, Call)>;

#[derive(Default)]
struct Stage {
    journal: Option<Journal>,
    /// What is still to come, the next one last.
    plan: Plan,
    steps: usize,
    closing: bool,
    messages: Vec<(String, Result<Ticket, String>)>,
    notes: Vec<(String, Ticket)>,
    behind: Vec<String>,
    repeats: Vec<JoinHandle<Accept>>,
}

impl Stage {
    /// Makes the next call.
    fn call(&mut self) {
        let (Some((_, call)), Some(journal)) = (self.plan.pop(), self.journal.clone()) else { return };
        self.steps = 0;
        let number = self.plan.len();
        match call {
            Call::Take => {
                let id = format!("m{number}");
                let taken = match accept(&journal, message(&id)) {
                    Accept::New { ticket, .. } => Ok(ticket),
                    Accept::Refused { why } => Err(why),
                    other => panic!("{id} is new: {other:?}"),
                };
                self.messages.push((id, taken));
            }
            Call::Again => {
                let Some((id, _)) = self.messages.first() else { return };
                let id = id.clone();
                self.repeats.push(std::thread::spawn(move || accept(&journal, message(&id))));
            }
            Call::Note => {
                let key = format!("n{number}");
                let ticket = journal.append(note(&key, 1));
                self.notes.push((key, ticket));
            }
            Call::Behind => {
                let key = format!("b{number}");
                journal.append_behind(note(&key, 1));
                if !self.closing {
                    self.behind.push(key);
                }
            }
            Call::Nudge => {
                std::thread::spawn(move || drop(journal.recover_now()));
            }
            Call::Close => {
                self.closing = true;
                // Not on this thread, which may be the journal's own.
                self.repeats.push(std::thread::spawn(move || {
                    journal.close();
                    Accept::Terminal
                }));
            }
        }
    }

    fn is_settled(&self) -> bool {
        let tickets = self.messages.iter().filter_map(|(_, taken)| taken.as_ref().ok());
        tickets.chain(self.notes.iter().map(|(_, ticket)| ticket)).all(|ticket| ticket.result().is_some())
    }
}

fn at(stage: &Mutex<Stage>) -> MutexGuard<'_, Stage> {
    stage.lock().expect("no call panics")
}

/// Plays a plan to its end.
fn play(plan: &[(usize, Call)], fault: Option<Fault>) {
    let what = format!("{plan:?} {fault:?}");
    let memory = MemDisk::default();
    let disk = FaultyDisk::new(Arc::new(memory.clone()));
    let options = JournalOptions { segment_bytes: 400, sync_within: Duration::ZERO, ..small() };
    let journal = open_with(&disk, options).journal;
    let stage =
        Stage { plan: plan.iter().rev().copied().collect(), journal: Some(journal.clone()), ..Stage::default() };
    let stage = Arc::new(Mutex::new(stage));
    let playing = Arc::clone(&stage);
    disk.after_each(move |_| {
        let mut stage = at(&playing);
        stage.steps += 1;
        while stage.plan.last().is_some_and(|(gap, _)| *gap <= stage.steps) {
            stage.call();
        }
    });
    if let Some(fault) = fault {
        disk.arm(fault);
    }
    let end = Instant::now() + PATIENCE;
    loop {
        let mut now = at(&stage);
        if now.is_settled() && journal.health().pending_bytes == 0 {
            if now.plan.is_empty() {
                break;
            }
            now.call();
        }
        drop(now);
        assert!(Instant::now() < end, "{what}: somebody waits in vain");
        std::thread::yield_now();
    }
    let repeats = std::mem::take(&mut at(&stage).repeats);
    let repeats: Vec<_> = repeats.into_iter().map(|thread| thread.join().expect("no call panics")).collect();
    journal.close();
    let mut stage = std::mem::take(&mut *at(&stage));
    stage.journal = None;
    check(&stage, &repeats, &journal, &memory, fault.is_some(), &what);
}

fn check(stage: &Stage, repeats: &[Accept], journal: &Journal, memory: &MemDisk, faulty: bool, what: &str) {
    let mut images = memory.after_power_loss();
    images.push(memory.copy());
    let mut images: Vec<_> = images.iter().map(|image| open(image).journal).collect();
    images.push(journal.clone());
    for (number, image) in images.iter().enumerate() {
        for (id, taken) in &stage.messages {
            let is_there = known(image, id) != Known::No;
            match taken.as_ref().map(|ticket| ticket.result().expect("it is settled")) {
                Ok(Ok(())) => assert!(is_there, "{what}: {id} was confirmed and is lost, image {number}"),
                // The first one again may have been taken in although it was refused before.
                _ if is_there => assert!(id == &stage.messages[0].0 && !repeats.is_empty(), "{what}: {id} was refused"),
                _ => {}
            }
        }
        for (key, ticket) in &stage.notes {
            let is_there = image.view(|ledger| ledger.note(key).is_some());
            let result = ticket.result().expect("it is settled");
            assert!(faulty || matches!(result, Ok(()) | Err(JournalError::Closed)), "{what}: {key} {result:?}");
            let confirmed = result.is_ok();
            assert!(is_there || !confirmed, "{what}: {key} was confirmed and is lost, image {number}");
        }
        if let Some((id, _)) = stage.messages.first()
            && repeats.iter().any(|answer| matches!(answer, Accept::Pending { .. }))
        {
            assert_ne!(known(image, id), Known::No, "{what}: {id} was said to be safe, image {number}");
        }
    }
    if faulty {
        return;
    }
    let all_there = |key: &String| journal.view(|ledger| ledger.note(key).is_some());
    assert!(stage.behind.iter().all(all_there), "{what}");
    for image in &images {
        assert_eq!(state(image), state(journal), "{what}: what is on disk is what was in memory");
    }
}

/// All plans with so many calls, up to `gaps` steps apart.
fn plans(calls: usize, gaps: usize) -> Vec<Plan> {
    let mut plans = vec![Vec::new()];
    for _ in 0..calls {
        let longer = plans.iter().flat_map(|plan: &Plan| {
            // Before the first there is nothing to be apart from.
            let last = if plan.is_empty() { 0 } else { gaps };
            let next = (0..=last).flat_map(|gap| CALLS.map(|call| (gap, call)));
            next.map(|next| plan.iter().copied().chain([next]).collect())
        });
        plans = longer.collect();
    }
    plans
}

#[test]
fn calls_meet_a_sound_disk_at_every_step() {
    let plans = plans(3, 4);
    assert_eq!(plans.len(), 6 * 30 * 30);
    for plan in &plans {
        play(plan, None);
    }
}

#[test]
fn calls_meet_a_disk_that_fails_at_every_step() {
    let once = |nth, kind| Fault { op: None, nth, lasting: false, kind };
    let from_then_on = |op, kind| Fault { op: Some(op), nth: 1, lasting: true, kind };
    let faults = [
        once(1, FaultKind::Short),
        once(1, FaultKind::Late),
        once(2, FaultKind::Io),
        once(2, FaultKind::Late),
        once(3, FaultKind::Short),
        from_then_on(Op::Append, FaultKind::Short),
        from_then_on(Op::Sync, FaultKind::Io),
        from_then_on(Op::Rename, FaultKind::Late),
    ];
    let with_message = |plan: &Plan| plan.iter().any(|(_, call)| *call == Call::Take);
    let plans: Vec<_> = plans(3, 2).into_iter().filter(with_message).collect();
    assert_eq!(plans.len(), (216 - 125) * 9);
    for plan in &plans {
        for fault in faults {
            play(plan, Some(fault));
        }
    }
}
