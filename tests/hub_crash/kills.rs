//! SIGKILL of the daemon and crashes of the hub at random moments under load, and the books afterwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::books;
use crate::chats::{self, Owners, Random};
use crate::daemon::Home;
use crate::hub::{Endpoint, Fault, Hub, Rule};
use crate::support::child::eventually;

/// Rounds of a run in the suite; `BELLHOP_CRASH_ROUNDS` asks for another number.
const ROUNDS: u64 = 60;
/// No more rounds after this.
const ENOUGH: Duration = Duration::from_secs(80);
const AGENTS: usize = 4;

#[test]
fn either_side_dies_at_any_moment() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("BELLHOP_CRASH_SEED").unwrap_or(clock);
    let rounds = number("BELLHOP_CRASH_ROUNDS").unwrap_or(ROUNDS);
    println!("BELLHOP_CRASH_SEED={seed} BELLHOP_CRASH_ROUNDS={rounds}");

    let began = Instant::now();
    let (hub, home, owners, over) = (chats::hub(), Home::new("hub-kills"), Owners::default(), AtomicBool::new(false));
    // What a kill cannot help: a turn that runs again counts its blocks anew, its stream ends late, and a block of a hub
    // that was just away may come behind the answer.
    for rule in [Rule::BlockOrder, Rule::NoStreamEnd, Rule::BlockAfterAnswer] {
        hub.allow(rule);
    }
    let agents = chats::agents(&hub, &home, AGENTS);
    let mut done = 0;
    std::thread::scope(|scope| {
        for (n, agent) in agents.iter().enumerate() {
            let (hub, home, owners, over) = (&hub, &home, &owners, &over);
            let random = Random(seed ^ (n as u64 + 1));
            scope.spawn(move || owners.talk(hub, home, agent, random, over));
        }
        // A failed check must not leave the owners waiting.
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut random = Random(seed);
            while done < rounds && began.elapsed() < ENOUGH {
                round(&hub, &home, &mut random);
                books::check_files(&home);
                done += 1;
            }
        }));
        over.store(true, Ordering::SeqCst);
        if let Err(panic) = killed {
            std::panic::resume_unwind(panic);
        }
    });
    hub.heal();
    let daemon = home.start();
    let said = owners.said.lock().unwrap().clone();
    for (id, said) in &said {
        hub.wait_answer(said);
        owners.sees_answer(&hub, &home, id);
    }
    hub.wait_all_settled();
    eventually("every process of a turn is gone", || home.processes().is_empty());
    assert!(daemon.stop().success());
    compare(&hub, &home, &owners);
    println!(
        "{done} rounds in {:?}, {} lives: {} messages, {} runs, {} faults",
        began.elapsed(),
        home.life(),
        said.len(),
        books::runs(&home.ledger()).values().map(Vec::len).sum::<usize>(),
        hub.look(|world| world.faults.fired),
    );
}

/// One life of the daemon, in which the hub may die, too, or answer badly.
fn round(hub: &Hub, home: &Home, random: &mut Random) {
    hub.heal();
    for endpoint in [Endpoint::Send, Endpoint::Ack, Endpoint::Inbox, Endpoint::StreamEnd, Endpoint::Renew] {
        let fault = match random.below(8) {
            0 => Fault::DropBefore,
            1 => Fault::DropAfter,
            2 => Fault::DropHalfway,
            3 => Fault::status(503),
            _ => continue,
        };
        hub.weaken(endpoint, fault, 200);
    }
    let daemon = if random.below(6) == 0 { home.spawn() } else { home.start() };
    if random.below(3) == 0 {
        std::thread::sleep(random.millis(500));
        hub.stop();
        std::thread::sleep(random.millis(300));
        if random.below(2) == 0 {
            // Both are down at once.
            daemon.kill();
            hub.start_again();
            return;
        }
        hub.start_again();
    }
    std::thread::sleep(random.millis(1500));
    daemon.kill();
}

/// The books of the hub, of the CLI and of the owners, side by side.
fn compare(hub: &Hub, home: &Home, owners: &Owners) {
    let books = hub.books();
    let (said, answered) = (owners.said.lock().unwrap(), owners.answered.lock().unwrap());
    for (id, one) in said.iter() {
        let entry = books.entries.iter().find(|entry| entry.said == *one).unwrap();
        assert_eq!(entry.answers.len(), 1, "{id} has these answers: {:?}", entry.answers);
        assert!(entry.state.is_settled(), "{id} is {:?}", entry.state);
        let right = entry.answers[0] == format!("answer to {id}") || entry.answers[0].contains("interrupted");
        assert!(right, "{id} got {:?}", entry.answers[0]);
    }
    for sent in &books.sent {
        assert_eq!(sent.shown, 1, "people saw it more than once: {sent:?}");
    }
    assert_eq!(books.sent.len(), said.len(), "as many answers as messages");
    let mut again = 0;
    for (id, runs) in books::runs(&home.ledger()) {
        again += runs.len() - 1;
        let mut lives: Vec<u32> = runs.iter().map(|run| run.life).collect();
        lives.dedup();
        assert_eq!(lives.len(), runs.len(), "{id} ran twice in one life: {runs:?}");
        let seen = answered[&id];
        assert!(runs.iter().all(|run| run.life <= seen), "{id} was answered in {seen} and ran again: {runs:?}");
    }
    assert!(again > 0 || home.life() < 30, "no kill has hit a turn: the test proves nothing");
}
