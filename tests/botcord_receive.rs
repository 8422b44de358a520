//! An agent's inbox with a hub and an engine made of lists: what is asked, accepted, kept under lease, acknowledged.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bellhop::channel::botcord::hub::{Fault, Hub, Page};
use bellhop::channel::botcord::inbox::{AckAt, Inbox, MAX_UNFINISHED};
use bellhop::channel::botcord::socket::{Timing, Trigger};
use bellhop::engine::Acceptance;
use bellhop::engine::ports::Acceptor;
use bellhop::message::Inbound;
use bellhop::net::ws;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// What the two sides have seen.
#[derive(Default)]
struct World {
    /// Answers of the inbox; an empty one when they are used up.
    pages: VecDeque<Result<Page, Fault>>,
    polls: Vec<Duration>,
    acks: Vec<Vec<String>>,
    ack_faults: VecDeque<Fault>,
    renewals: Vec<Vec<String>>,
    /// What the engine says, in order; `Accepted` when it is used up.
    answers: VecDeque<Acceptance>,
    accepted: Vec<Inbound>,
    /// Known to the engine, and whether finished.
    known: HashMap<String, bool>,
    /// What is finished while it is being accepted.
    quick: bool,
}

struct Stage {
    world: Mutex<World>,
    changed: Condvar,
    inbox: Mutex<Option<Arc<Inbox>>>,
}

impl Stage {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Waits until something holds.
    fn until<T>(&self, what: &str, look: impl Fn(&World) -> Option<T>) -> T {
        let end = Instant::now() + LIMIT;
        let mut world = self.lock();
        loop {
            if let Some(found) = look(&world) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: polls {:?}, acks {:?}", world.polls.len(), world.acks);
            world = self.changed.wait_timeout(world, left.min(Duration::from_millis(100))).unwrap().0;
        }
    }
}

struct FakeHub(Arc<Stage>);

impl Hub for FakeHub {
    fn poll(&self, wait: Duration) -> Result<Page, Fault> {
        let mut world = self.0.lock();
        world.polls.push(wait);
        self.0.changed.notify_all();
        world.pages.pop_front().unwrap_or_else(|| Ok(Page::default()))
    }

    fn acknowledge(&self, ids: &[String]) -> Result<u64, Fault> {
        let mut world = self.0.lock();
        world.acks.push(ids.to_vec());
        self.0.changed.notify_all();
        world.ack_faults.pop_front().map_or(Ok(ids.len() as u64), Err)
    }

    fn renew(&self, ids: &[String]) -> Result<u64, Fault> {
        let mut ids = ids.to_vec();
        ids.sort();
        let count = ids.len() as u64;
        self.0.lock().renewals.push(ids);
        self.0.changed.notify_all();
        Ok(count)
    }

    fn token(&self, _refused: Option<&str>) -> Result<String, Fault> {
        unreachable!("no socket here")
    }

    fn socket_url(&self) -> String {
        unreachable!("no socket here")
    }
}

struct FakeEngine(Arc<Stage>);

impl Acceptor for FakeEngine {
    fn accept(&self, messages: Vec<Inbound>) -> Vec<Acceptance> {
        let mut answers = Vec::new();
        for message in messages {
            let ids = message.ids();
            let mut world = self.0.lock();
            let answer = world.answers.pop_front().unwrap_or(Acceptance::Accepted { ahead: 0 });
            if matches!(answer, Acceptance::Accepted { .. }) {
                let quick = world.quick;
                world.known.extend(ids.iter().map(|id| (id.clone(), quick)));
                world.accepted.push(message);
                drop(world);
                if quick {
                    self.0.inbox.lock().unwrap().as_ref().unwrap().settled(&ids);
                }
            }
            answers.push(answer);
        }
        self.0.changed.notify_all();
        answers
    }

    fn knows(&self, _channel: &str, id: &str) -> Option<bool> {
        self.0.lock().known.get(id).copied()
    }

    fn unfinished(&self, _channel: &str) -> Vec<String> {
        self.0.lock().known.iter().filter(|(_, finished)| !**finished).map(|(id, _)| id.clone()).collect()
    }
}

struct Play {
    stage: Arc<Stage>,
    inbox: Arc<Inbox>,
}

fn play(ack_at: AckAt, timing: Timing) -> Play {
    let stage = Arc::new(Stage { world: Mutex::default(), changed: Condvar::new(), inbox: Mutex::default() });
    let inbox = Inbox::new("ag_me", Arc::new(FakeHub(Arc::clone(&stage))), ack_at, timing).unwrap();
    inbox.set_engine(Box::new(FakeEngine(Arc::clone(&stage))));
    *stage.inbox.lock().unwrap() = Some(Arc::clone(&inbox));
    Play { stage, inbox }
}

impl Play {
    /// The turns of messages are over.
    fn finish(&self, ids: &[&str]) {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        self.stage.lock().known.extend(ids.iter().map(|id| (id.clone(), true)));
        self.inbox.settled(&ids);
    }

    fn polls(&self, count: usize) {
        self.stage.until(&format!("{count} polls"), |w| (w.polls.len() >= count).then_some(()));
    }

    fn acked(&self, ids: &[&str]) {
        self.stage.until(&format!("acks of {ids:?}"), |w| (w.acks.concat() == ids).then_some(()));
    }
}

fn message(id: &str, room: &str) -> Value {
    let envelope = json!({"type": "message", "from": "ag_x", "msg_id": format!("m-{id}"), "payload": {"text": "x"}});
    json!({"hub_msg_id": id, "room_id": room, "text": format!("text of {id}"), "envelope": envelope})
}

fn page(messages: Vec<Value>, has_more: bool) -> Page {
    Page { messages, has_more }
}

#[test]
fn an_answer_is_grouped_accepted_and_acknowledged_when_it_is_finished() {
    let p = play(AckAt::Turn, Timing::default());
    let receipt = json!({"hub_msg_id": "h_3", "room_id": null, "envelope": {"type": "ack", "from": "ag_x"}});
    {
        let mut world = p.stage.lock();
        world.known.extend([("h_0".to_owned(), true), ("h_9".to_owned(), false)]);
        world.pages.push_back(Ok(page(
            vec![
                message("h_0", "rm_1"),
                message("h_9", "rm_1"),
                message("h_1", "rm_1"),
                message("h_2", "rm_2"),
                receipt,
                message("h_4", "rm_1"),
            ],
            true,
        )));
        world.pages.push_back(Ok(page(vec![message("h_5", "rm_2")], false)));
    }
    p.inbox.open();
    p.inbox.ask(Trigger::AuthOk);
    p.stage.until("three messages", |w| (w.accepted.len() == 3).then_some(()));
    let accepted: Vec<_> = p.stage.lock().accepted.iter().map(Inbound::ids).collect();
    assert_eq!(accepted, [vec!["h_1", "h_4"], vec!["h_2"], vec!["h_5"]]);
    p.polls(2);
    p.acked(&["h_0", "h_3"]);
    assert_eq!(p.stage.lock().acks.len(), 1, "what needs no turn goes in one request");
    assert_eq!(p.inbox.unfinished(), 5);
    p.finish(&["h_1", "h_4"]);
    p.acked(&["h_0", "h_3", "h_1", "h_4"]);
    assert_eq!(p.stage.lock().acks.len(), 2, "a group goes in one request");
    p.inbox.flush(LIMIT);
    assert_eq!(p.inbox.unfinished(), 3);
}

#[test]
fn what_is_finished_before_its_acceptance_returns_is_not_kept() {
    let p = play(AckAt::Turn, Timing::default());
    p.stage.lock().quick = true;
    p.stage.lock().pages.push_back(Ok(page(vec![message("h_1", "rm_1")], false)));
    p.inbox.open();
    p.inbox.ask(Trigger::InboxUpdate);
    p.acked(&["h_1"]);
    assert_eq!(p.inbox.unfinished(), 0);
}

#[test]
fn a_trigger_during_a_question_asks_once_more_and_a_failure_waits_for_the_next() {
    let p = play(AckAt::Turn, Timing::default());
    p.stage.lock().pages.push_back(Err(Fault::Failed("no".into())));
    p.inbox.ask(Trigger::Fallback);
    assert!(p.stage.lock().polls.is_empty(), "the channel does not run yet");
    p.inbox.open();
    p.inbox.ask(Trigger::Fallback);
    p.polls(1);
    p.inbox.ask(Trigger::Fallback);
    p.polls(2);
}

#[test]
fn with_a_thousand_unfinished_nothing_more_is_fetched_until_there_is_room() {
    let p = play(AckAt::Turn, Timing::default());
    let ids: Vec<String> = (0..MAX_UNFINISHED - 50).map(|n| format!("h_{n}")).collect();
    for chunk in ids.chunks(50) {
        let messages = chunk.iter().map(|id| message(id, &format!("rm_{id}"))).collect();
        p.stage.lock().pages.push_back(Ok(page(messages, true)));
    }
    p.stage.lock().pages.push_back(Ok(page(vec![message("h_last", "rm_1")], true)));
    p.inbox.open();
    p.inbox.ask(Trigger::AuthOk);
    p.polls(20);
    p.stage.until("all accepted", |w| (w.accepted.len() == MAX_UNFINISHED - 49).then_some(()));
    assert_eq!(p.inbox.unfinished(), MAX_UNFINISHED - 49);
    p.inbox.ask(Trigger::InboxUpdate);
    p.inbox.tick();
    assert_eq!(p.stage.lock().polls.len(), 20, "50 more may not fit");
    p.finish(&["h_1"]);
    p.polls(21);
}

#[test]
fn what_the_engine_refuses_stays_with_the_hub_and_is_not_asked_for_at_once() {
    let p = play(AckAt::Turn, Timing { pause: Duration::from_millis(300), ..Timing::default() });
    {
        let mut world = p.stage.lock();
        world.pages.push_back(Ok(page(vec![message("h_1", "rm_1"), message("h_2", "rm_2")], true)));
        world.answers.extend([Acceptance::Refused("the disk is full".into()), Acceptance::Accepted { ahead: 0 }]);
    }
    p.inbox.open();
    let began = Instant::now();
    p.inbox.ask(Trigger::AuthOk);
    p.stage.until("one accepted", |w| (w.accepted.len() == 1).then_some(()));
    // What the socket's thread does: it sleeps until something is due.
    while began.elapsed() < Duration::from_millis(300) {
        let due = p.inbox.tick().expect("something is due");
        assert_eq!(p.stage.lock().polls.len(), 1);
        let limit = due.saturating_duration_since(Instant::now());
        ws::wait_for(&[p.inbox.nudge().as_fd()], Some(limit)).unwrap();
        p.inbox.nudge().drain();
    }
    p.inbox.tick();
    p.polls(2);
    assert!(p.stage.lock().acks.is_empty());
    assert_eq!(p.inbox.unfinished(), 1);
}

#[test]
fn leases_are_renewed_while_something_is_worked_on() {
    let p = play(AckAt::Turn, Timing { renew: Duration::from_millis(20), ..Timing::default() });
    p.stage.lock().known.insert("h_old".into(), false);
    p.inbox.open();
    assert!(p.inbox.tick().is_some(), "what an earlier life has left is renewed at once");
    p.stage.until("the first renewal", |w| (w.renewals.first()? == &["h_old"]).then_some(()));
    p.stage.lock().pages.push_back(Ok(page(vec![message("h_1", "rm_1")], false)));
    p.inbox.ask(Trigger::AuthOk);
    p.stage.until("acceptance", |w| (w.accepted.len() == 1).then_some(()));
    let both = |w: &World| (w.renewals.last()? == &["h_1", "h_old"]).then_some(());
    let end = Instant::now() + LIMIT;
    while both(&p.stage.lock()).is_none() {
        assert!(Instant::now() < end);
        p.inbox.tick();
        std::thread::yield_now();
    }
    // Nobody works on one of them any more, and nobody has said so.
    p.stage.lock().known.insert("h_old".into(), true);
    p.finish(&["h_1"]);
    while p.inbox.tick().is_some() {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
    p.acked(&["h_1", "h_old"]);
    assert_eq!(p.inbox.unfinished(), 0);
}

#[test]
fn acknowledged_with_the_journal_nothing_is_renewed() {
    let p = play(AckAt::Journal, Timing::default());
    p.stage.lock().known.insert("h_old".into(), false);
    p.stage.lock().pages.push_back(Ok(page(vec![message("h_1", "rm_1"), message("h_old", "rm_1")], false)));
    p.inbox.open();
    p.inbox.ask(Trigger::AuthOk);
    p.stage.until("acks", |w| (w.acks.concat().len() == 2).then_some(()));
    assert!(p.inbox.tick().is_none());
    p.finish(&["h_1"]);
    p.inbox.flush(LIMIT);
    assert_eq!(p.stage.lock().acks.concat().len(), 2, "once is enough");
}

#[test]
fn a_refusal_of_the_agent_is_noticed_wherever_it_comes() {
    let p = play(AckAt::Turn, Timing::default());
    p.stage.lock().ack_faults.push_back(Fault::Revoked("agent not claimed".into()));
    p.inbox.open();
    p.finish(&["h_1"]);
    p.inbox.flush(LIMIT);
    assert_eq!(p.inbox.revoked().as_deref(), Some("agent not claimed"));
    p.inbox.ask(Trigger::Fallback);
    p.inbox.tick();
    assert!(p.stage.lock().polls.is_empty());
}

#[test]
fn a_hub_that_repeats_itself_for_ever_is_left_alone() {
    let p = play(AckAt::Turn, Timing::default());
    p.stage.lock().known.insert("h_1".into(), false);
    for _ in 0..100 {
        p.stage.lock().pages.push_back(Ok(page(vec![message("h_1", "rm_1")], true)));
    }
    p.inbox.open();
    p.inbox.ask(Trigger::AuthOk);
    p.polls(5);
    p.inbox.flush(LIMIT);
    let left = p.stage.until("an end", |w| (w.pages.len() == 95).then_some(w.pages.len()));
    p.inbox.ask(Trigger::InboxUpdate);
    p.polls(6);
    assert!(p.stage.lock().pages.len() < left);
}

#[test]
fn without_a_socket_questions_wait_for_something_to_come() {
    let p = play(AckAt::Turn, Timing::default());
    p.inbox.open();
    p.inbox.set_waits(true);
    p.inbox.ask(Trigger::NoSocket);
    p.polls(3);
    assert_eq!(p.stage.lock().polls[..3], [Duration::from_secs(25); 3]);
    p.inbox.set_waits(false);
    p.inbox.close();
}

#[test]
fn files_that_take_too_long_stay_at_the_hub() {
    let p = play(AckAt::Turn, Timing { files: Duration::from_millis(50), ..Timing::default() });
    let fetched = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&fetched);
    p.inbox.fetch_files(Box::new(move |raw| {
        seen.lock().unwrap().push(raw["hub_msg_id"].clone());
        std::thread::sleep(Duration::from_millis(50));
        Vec::new()
    }));
    let messages = vec![message("h_1", "rm_1"), message("h_2", "rm_2"), message("h_3", "rm_3")];
    p.stage.lock().pages.push_back(Ok(page(messages, false)));
    p.inbox.open();
    p.inbox.ask(Trigger::AuthOk);
    p.stage.until("all of them", |w| (w.accepted.len() == 3).then_some(()));
    assert_eq!(*fetched.lock().unwrap(), ["h_1"]);
}

#[test]
fn a_hub_that_does_not_wait_is_not_stormed() {
    let p = play(AckAt::Turn, Timing::default());
    p.inbox.open();
    p.inbox.set_waits(true);
    for asked in [5, 10] {
        p.inbox.ask(Trigger::NoSocket);
        p.polls(asked);
        // In a moment a storm would have asked some thousand times.
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(p.stage.lock().polls.len(), asked);
    }
}
