//! `kill -9` at any moment: everything accepted is answered, and nothing runs twice by accident.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bellhop::serve::client::ClientError;
use bellhop::serve::wire::{State, Submit};

use crate::books::{self, Answers};
use crate::daemon::{Home, job};
use crate::support::child::eventually;

/// Kills of a run in the suite; `BELLHOP_CRASH_ROUNDS` asks for another number.
const ROUNDS: usize = 200;
/// Senders at the same time.
const SENDERS: usize = 5;
/// Messages of one sender that wait for their answers.
const OPEN: usize = 4;

#[test]
fn kill_9_in_the_middle_of_ten_turns() {
    let home = Home::new("ten-turns");
    let daemon = home.start();
    let ids: Vec<String> = (0..10).map(|n| format!("m{n}")).collect();
    for id in &ids {
        daemon.submit(id, "wait");
    }
    eventually("ten turns have said something", || books::interrupted_with_effects(&home).len() == 10);
    daemon.kill();

    home.go();
    let daemon = home.start();
    for id in &ids {
        daemon.wait_done(id);
        daemon.submit(id, "wait"); // A sender that repeats itself gets no second answer.
    }
    assert!(daemon.stop().success());
    let runs = books::runs(&home.ledger());
    let answers = books::answers(&home);
    for id in &ids {
        let told: Vec<bool> = runs[id].iter().map(|run| run.told).collect();
        assert_eq!(told, [false, true], "{id} ran again once, and was told so");
        assert_eq!(answers.replies[id], 1, "{id} was answered once");
    }
    assert_eq!(home.processes(), [0; 0]);
}

/// Small, seeded, good enough to choose moments.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn millis(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.below(limit))
    }
}

/// What senders know.
#[derive(Default)]
struct Promises {
    /// Conversation of every message that was answered with 202.
    accepted: Mutex<BTreeMap<String, String>>,
    /// The life of the daemon that called a message done.
    done: Mutex<BTreeMap<String, u32>>,
    repeats: AtomicUsize,
}

#[test]
fn kill_9_at_any_moment() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("BELLHOP_CRASH_SEED").unwrap_or(clock);
    let rounds = number("BELLHOP_CRASH_ROUNDS").map_or(ROUNDS, |n| n as usize);
    println!("BELLHOP_CRASH_SEED={seed} BELLHOP_CRASH_ROUNDS={rounds}");

    let began = Instant::now();
    let home = Home::new("kills");
    let promises = Promises::default();
    let over = AtomicBool::new(false);
    let mut told_after: BTreeMap<String, u32> = BTreeMap::new();
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|n| {
                let random = Random(seed ^ (n as u64 + 1));
                let (home, promises, over) = (&home, &promises, &over);
                scope.spawn(move || send(random, n, home, promises, over))
            })
            .collect();
        // A failed check must not leave the senders waiting.
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut random = Random(seed);
            for _ in 0..rounds {
                kill_once(&home, &mut random);
                books::check_files(&home);
                for id in books::interrupted_with_effects(&home) {
                    told_after.entry(id).or_insert(home.life());
                }
            }
        }));
        over.store(true, Ordering::SeqCst);
        let daemon = killed.is_ok().then(|| home.start());
        for sender in senders {
            sender.join().unwrap();
        }
        if let Err(panic) = killed {
            std::panic::resume_unwind(panic);
        }
        let daemon = daemon.unwrap();
        for id in promises.accepted.lock().unwrap().keys() {
            daemon.wait_done(id);
        }
        eventually("every process of a turn is gone", || home.processes().is_empty());
        assert!(daemon.stop().success());
    });
    let answers = books::answers(&home);
    compare(&home, &promises, &told_after, &answers);
    println!(
        "{rounds} kills in {:?}: {} messages accepted, {} repeats, {} runs, {} interrupted with effects, {} given up",
        began.elapsed(),
        promises.accepted.lock().unwrap().len(),
        promises.repeats.load(Ordering::SeqCst),
        books::runs(&home.ledger()).values().map(Vec::len).sum::<usize>(),
        told_after.len(),
        answers.given_up.values().sum::<usize>(),
    );
}

/// One life of the daemon: most of them under load, some of them ended while they still begin.
fn kill_once(home: &Home, random: &mut Random) {
    let daemon = if random.below(6) == 0 {
        let daemon = home.spawn();
        std::thread::sleep(random.millis(60));
        daemon
    } else {
        let daemon = home.start();
        std::thread::sleep(random.millis(450));
        daemon
    };
    daemon.kill();
}

/// Sends messages until it is over, each again and again until it is accepted.
fn send(mut random: Random, sender: usize, home: &Home, promises: &Promises, over: &AtomicBool) {
    let mut open: Vec<String> = Vec::new();
    for n in 0.. {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let id = format!("s{sender}-{n}");
        let conversation = format!("c{sender}-{}", random.below(3));
        let kind = ["fast", "fast", "slow", "tool"][random.below(4) as usize];
        let runtime = (random.below(4) == 0).then(|| "echo".to_owned());
        let message = Submit { conversation: Some(conversation.clone()), runtime, ..job(&id, kind) };
        // Some senders do not ask again.
        let patient = random.below(20) != 0;
        if submit(home, &message, patient, over) {
            promises.accepted.lock().unwrap().insert(id.clone(), conversation);
            open.push(id);
        }
        if random.below(5) == 0 && submit(home, &message, false, over) {
            promises.repeats.fetch_add(1, Ordering::SeqCst);
            promises
                .accepted
                .lock()
                .unwrap()
                .insert(message.id.clone().unwrap(), message.conversation.clone().unwrap());
        }
        while open.len() > OPEN && !over.load(Ordering::SeqCst) {
            std::thread::sleep(random.millis(20));
            let Some(client) = home.client() else { continue };
            open.retain(|id| {
                let done = client.message(id).is_ok_and(|m| m.state == State::Done);
                // Read after the answer: it comes from this daemon or an earlier one.
                let life = home.life();
                if done {
                    promises.done.lock().unwrap().insert(id.clone(), life);
                }
                !done
            });
        }
    }
}

/// Whether the daemon took the message.
fn submit(home: &Home, message: &Submit, patient: bool, over: &AtomicBool) -> bool {
    while !over.load(Ordering::SeqCst) {
        match home.client().map(|client| client.submit(message)) {
            Some(Ok(_)) => return true,
            Some(Err(ClientError::Answered { failure, .. })) => panic!("refused: {failure}"),
            _ if !patient => return false,
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    false
}

fn compare(home: &Home, promises: &Promises, told_after: &BTreeMap<String, u32>, answers: &Answers) {
    let accepted = promises.accepted.lock().unwrap();
    let done = promises.done.lock().unwrap();
    assert!(answers.errors.is_empty(), "{:#?}", answers.errors);
    let proves = !told_after.is_empty() || home.life() < 50;
    assert!(proves, "no kill has hit a turn with effects: the test proves nothing");

    let mut unanswered: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (id, conversation) in accepted.iter() {
        match answers.replies.get(id) {
            None => unanswered.entry(conversation).or_default().push(id),
            Some(count) => assert_eq!(*count, 1, "{id} has {count} answers"),
        }
    }
    for (conversation, ids) in unanswered {
        let given_up = answers.given_up.get(conversation).copied().unwrap_or(0);
        assert!(ids.len() <= given_up, "{conversation}: no answer to {ids:?}, {given_up} given up");
    }
    for (id, runs) in books::runs(&home.ledger()) {
        let mut lives: Vec<u32> = runs.iter().map(|r| r.life).collect();
        lives.dedup();
        assert_eq!(lives.len(), runs.len(), "{id} ran twice in one life: {runs:?}");
        assert!(runs.len() <= 3, "{id} ran too often: {runs:?}");
        let mut turns: Vec<&str> = runs.iter().map(|r| r.turn.as_str()).collect();
        turns.sort_unstable();
        turns.dedup();
        assert_eq!(turns.len(), runs.len(), "{id}: a turn ran twice: {runs:?}");
        if let Some(life) = done.get(&id) {
            assert!(runs.iter().all(|r| r.life <= *life), "{id} was done in {life} and ran again: {runs:?}");
        }
        if let Some(life) = told_after.get(&id) {
            assert!(runs.iter().all(|r| r.told == (r.life > *life)), "{id}, interrupted in {life}: {runs:?}");
        }
    }
}
