//! Two things that happen at once: a stop and a delivery, a restart and a reply, a cancellation and the question whether
//! a message wakes the agent, a fresh session and a newer message, a block and the end of its stream.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bellhop::engine::gate::Policy;
use bellhop::engine::journal::{Accept, Journal, JournalOptions, JournalState, Record};
use bellhop::engine::ports::Delivery;
use bellhop::engine::waits::{Parking, Who};
use bellhop::engine::{Engine, Rotation, Settings, WeakEngine, now_ms};
use bellhop::message::{BlockKind, Inbound, OutboundKind, Trace};
use bellhop::store::RealDisk;
use support::engine::{
    Build, FakeChannel, FakePolicies, Gate, Harness, PATIENCE, TempDir, answer, block, failure, group, hang, message,
    script,
};

/// Waits for something for at most a tenth of a second: for what comes at once where there is a fault, and not at all
/// otherwise.
fn briefly(holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_millis(100);
    while !holds() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An engine that is told later, for what is there before it.
#[derive(Default)]
struct Later(std::sync::Mutex<WeakEngine>);

impl Later {
    fn set(&self, engine: &Engine) {
        *self.0.lock().unwrap() = engine.downgrade();
    }

    fn get(&self) -> Option<Engine> {
        self.0.lock().unwrap().upgrade()
    }
}

#[test]
fn a_reply_that_is_going_out_during_a_stop_is_not_sent_again_and_the_next_one_waits_for_the_next_start() {
    let (engine, attempts) = (Arc::new(Later::default()), Arc::new(AtomicUsize::new(0)));
    let (known, counted) = (Arc::clone(&engine), Arc::clone(&attempts));
    let mut channel = FakeChannel::botcord();
    channel.before_send = Some(Box::new(move |_| {
        if counted.fetch_add(1, Ordering::AcqRel) > 0
            && let Some(engine) = known.get()
        {
            until("the stop to begin", || engine.status().draining);
            briefly(|| engine.status().journal.state == JournalState::Closed);
        }
    }));
    // The first is put off, and so is the second: they are sent by nobody's turn any more.
    let later = || Delivery::Transient { after: None, why: "later".into() };
    channel.deliveries.lock().unwrap().push(later());
    let settings = Settings { outbox_delays: vec![Duration::from_millis(5); 3], ..Settings::default() };
    let routes = vec![bellhop::engine::route::Route {
        runtime: "claude-code".into(),
        queue_mode: Some(bellhop::engine::route::QueueMode::Serial),
        ..bellhop::engine::route::Route::default()
    }];
    let run = script(|_, request, _, _| Ok(answer(&format!("to {}", request.text), "s")));
    let h = Harness::build("stop-sending", Build { channel, settings, routes, script: run, ..Build::default() });
    engine.set(&h.engine);
    h.accept(message("1", "one"));
    h.channel.sent.wait(1);
    h.accept(message("2", "two"));
    h.runtime.ended.wait(2);
    assert!(h.engine.wait_idle(PATIENCE));
    until("the first to be sent again", || attempts.load(Ordering::Acquire) == 2);
    h.engine.stop(Duration::ZERO);
    let sent = |h: &Harness| h.channel.sent.all().into_iter().map(|out| out.text).collect::<Vec<_>>();
    // The first attempt, and that during the stop.
    until("the attempt to end", || h.channel.sent.len() >= 2);
    briefly(|| h.channel.sent.len() > 2);
    assert_eq!(sent(&h), ["to one", "to one"]);
    let again = Harness::in_dir(Arc::clone(&h.dir), Build::default());
    again.channel.settled.wait_for("both to be settled", |s| s.iter().any(|s| s.ids == ["2"]));
    assert_eq!(sent(&again), ["to two"]);
    assert_eq!(again.runtime.runs.len(), 0);
}

#[test]
fn a_reply_of_an_earlier_process_goes_before_a_newer_one_however_slow_other_rooms_are() {
    let later = || Delivery::Transient { after: None, why: "no network".into() };
    let slow = Settings { outbox_delays: vec![Duration::from_mins(10); 3], ..Settings::default() };
    let run = || script(|_, request, _, _| Ok(answer(&format!("to {}", request.text), "s")));
    let h = Harness::build("old-replies", Build { settings: slow, script: run(), ..Build::default() });
    h.channel.deliveries.lock().unwrap().extend([later(), later()]);
    let chat = |room: &str, id: &str, text: &str| {
        let mut message: Inbound = message(id, text);
        message.conversation.id = format!("rm_oc_{room}");
        message
    };
    h.accept(chat("a", "1", "one"));
    h.channel.sent.wait(1);
    h.accept(chat("b", "2", "two"));
    h.channel.sent.wait(2);
    let gate = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&gate);
    let mut channel = FakeChannel::botcord();
    channel.before_send = Some(Box::new(move |out| {
        if out.conversation_id == "rm_oc_a" {
            until("the other room to be served", || opened.load(Ordering::Acquire));
        }
    }));
    let again = Harness::in_dir(h.stop(), Build { channel, script: run(), ..Build::default() });
    again.accept(chat("b", "3", "three"));
    let served = || again.channel.sent.all().into_iter().map(|out| out.text).collect::<Vec<_>>();
    briefly(|| served().len() == 2);
    gate.store(true, Ordering::Release);
    again.channel.sent.wait(3);
    let order: Vec<_> = served().into_iter().filter(|text| text != "to one").collect();
    assert_eq!(order, ["to two", "to three"]);
}

#[test]
fn a_message_is_cancelled_while_it_is_asked_whether_it_wakes_the_agent() {
    for how in ["message", "conversation", "agent"] {
        let gate = Arc::new(Gate::default());
        let pass = Arc::clone(&gate);
        let mut channel = FakeChannel::botcord();
        channel.policies = Some(FakePolicies::new(move |_| {
            pass.pass(&bellhop::engine::cancel::CancelToken::new().unwrap());
            Ok(Some(Policy::default()))
        }));
        let asked = Arc::clone(&channel.policies.as_ref().unwrap().asked);
        let h = Harness::build("cancel-asking", Build { channel, ..Build::default() });
        h.accept(group("rm_1", "1", "one"));
        asked.wait(1);
        h.accept(group("rm_1", "2", "two"));
        h.accept(group("rm_2", "3", "three"));
        asked.wait(2);
        let wanted: &[&str] = match how {
            "message" => {
                assert_eq!(h.engine.cancel_message("botcord", "1"), 1);
                &["1"]
            }
            "conversation" => {
                assert_eq!(h.engine.cancel_conversation("botcord", "ag_me", "rm_1"), 2);
                &["1", "2"]
            }
            _ => {
                h.engine.dismiss("ag_me");
                &["1", "2", "3"]
            }
        };
        gate.open();
        let reports = h.reports.reports.wait(3);
        assert!(h.engine.wait_idle(PATIENCE));
        let mut cancelled: Vec<_> =
            reports.iter().filter(|r| r.status == bellhop::engine::ports::TurnStatus::Cancelled).collect();
        cancelled.sort_by_key(|r| r.message_ids.clone());
        let cancelled: Vec<_> = cancelled.iter().flat_map(|r| r.message_ids.clone()).collect();
        assert_eq!(cancelled, wanted, "{how}");
        assert_eq!(h.runtime.runs.len(), 3 - wanted.len(), "{how}");
        assert_eq!(h.engine.queue().len(), 0, "{how}");
    }
}

#[test]
fn no_block_of_a_turn_follows_the_end_of_its_stream() {
    for how in ["no reply", "used up", "superseded", "cancelled"] {
        let mut channel = FakeChannel::botcord();
        channel.block_takes = Duration::from_millis(30);
        let script = script(move |n, request, cancel, sink| {
            if n > 0 {
                return Ok(answer("later", "s"));
            }
            (1..4).for_each(|seq| sink.block(block(BlockKind::ToolUse, seq)));
            match (how, request.text.as_str()) {
                ("no reply", _) => Ok(answer("NO_REPLY", "s")),
                ("used up", _) => Ok(failure("You've hit your usage limit", "s")),
                _ => hang(cancel),
            }
        });
        let settings =
            Settings { parking: Parking { usage_limit: Who::Rooms, ..Parking::default() }, ..Settings::default() };
        let h = Harness::build("stream-end", Build { channel, script, settings, ..Build::default() });
        let streamed = |id: &str| Inbound { trace: Some(Trace { id: id.into(), streamable: true }), ..message(id, id) };
        h.accept(streamed("1"));
        h.channel.blocks.wait(1);
        match how {
            "superseded" => drop(h.accept(message("2", "2"))),
            "cancelled" => assert_eq!(h.engine.cancel_message("botcord", "1"), 1),
            _ => {}
        }
        h.channel.ended.wait(1);
        // What is on its way now would be out by then.
        std::thread::sleep(Duration::from_millis(300));
        let order = h.order.all();
        let end = order.iter().position(|word| word == "end 1").unwrap();
        assert!(!order[end..].contains(&"block".to_owned()), "{how}: {order:?}");
    }
}

/// The text and the session of each run.
fn runs(h: &Harness) -> Vec<(String, Option<String>)> {
    h.runtime.runs.all().into_iter().map(|r| (r.text, r.session.map(|s| s.id))).collect()
}

#[test]
fn what_takes_the_place_of_a_turn_that_began_anew_is_told_of_the_room_as_well() {
    // Left for its length, and lost: both begin a fresh session with what the room has said.
    for lost in [false, true] {
        let settings = Settings { rotation: Rotation { turns: 1, tokens: 0 }, ..Settings::default() };
        let settings = if lost { Settings::default() } else { settings };
        let script = script(move |n, request, cancel, _| match n {
            0 => Ok(answer("first", "sid-0")),
            1 if lost => Ok(failure("session not found", "")),
            _ if request.text.contains("slow") && !request.text.contains("newer") => hang(cancel),
            _ if request.session.is_some() => Ok(failure("session not found", "")),
            _ => Ok(answer("last", "sid-9")),
        });
        let build = Build { script, settings, default_runtime: "codex".into(), ..Build::default() };
        let h = Harness::build("fresh-superseded", build);
        h.handle(message("1", "hello"));
        h.accept(message("2", "slow"));
        h.runtime.runs.wait(if lost { 3 } else { 2 });
        h.handle(message("3", "newer"));
        let all = runs(&h);
        let (text, session) = all.last().unwrap();
        assert!(text.starts_with("[recovery]") && text.ends_with("newer"), "{lost}: {all:?}");
        assert_eq!(session, &None, "{lost}");
        let stored = h.sessions().into_values().next().unwrap();
        assert_eq!((stored.runtime_session_id.as_str(), stored.turn_count), ("sid-9", Some(1)));
    }
}

#[test]
fn a_fresh_session_that_fails_leaves_none() {
    let settings = Settings { rotation: Rotation { turns: 1, tokens: 0 }, ..Settings::default() };
    let script = script(|n, _, _, _| Ok(if n == 0 { answer("first", "sid-0") } else { failure("no", "") }));
    let h = Harness::build("fresh-failed", Build { script, settings, ..Build::default() });
    h.handle(message("1", "hello"));
    h.handle(message("2", "again"));
    assert!(h.sessions().is_empty());
    assert_eq!(h.channel.sent.all()[1].kind, OutboundKind::Error);
    h.handle(message("3", "and again"));
    assert_eq!(h.runtime.runs.all()[2].text, "and again");
}

/// What an earlier process has left: `one`, interrupted in this attempt, and `two`, which has not run, both like `like`.
fn crashed(dir: &TempDir, like: &Inbound, attempt: u32) {
    let opened = Journal::open(&dir.0.join("journal"), Arc::new(RealDisk), JournalOptions::default()).unwrap();
    let mut entries = Vec::new();
    for (id, text) in [("m1", "one"), ("m2", "two")] {
        let message = Inbound { id: id.into(), text: text.into(), ..like.clone() };
        let accepted = opened.journal.accept(vec![message], now_ms()).remove(0);
        let Accept::New { entry_id, ticket, .. } = accepted else { panic!("{accepted:?}") };
        ticket.wait().unwrap();
        entries.push(entry_id);
    }
    let (e, rt) = (vec![entries.remove(0)], "claude-code".into());
    opened.journal.append(Record::Started { e, turn: "t1".into(), attempt, rt }).wait().unwrap();
    opened.journal.close();
}

#[test]
fn a_message_that_was_interrupted_too_often_takes_no_other_with_it() {
    for like in [message("", ""), group("rm_g", "", "")] {
        let dir = Arc::new(TempDir::new("innocent"));
        crashed(&dir, &like, 3);
        let h = Harness::in_dir(dir, Build::default());
        h.channel.settled.wait(2);
        assert!(h.engine.wait_idle(PATIENCE));
        let runs: Vec<_> = h.runtime.runs.all().into_iter().map(|r| r.text).collect();
        assert_eq!(runs, ["two"]);
        let dead: Vec<_> = h.engine.dead_letters().into_iter().flat_map(|item| item.ids).collect();
        assert_eq!(dead, ["m1"]);
        let told = h.channel.sent.all().into_iter().find(|out| out.kind == OutboundKind::Error).unwrap();
        assert_eq!(told.text, "⚠️ This message was interrupted 3 times and is not tried again.");
    }
}

#[test]
fn in_a_room_a_message_that_was_interrupted_runs_alone() {
    let dir = Arc::new(TempDir::new("suspicious"));
    crashed(&dir, &group("rm_g", "", ""), 2);
    let h = Harness::in_dir(dir, Build::default());
    h.channel.settled.wait(2);
    let runs: Vec<_> = h.runtime.runs.all().into_iter().map(|r| r.text).collect();
    assert_eq!(runs, ["one", "two"]);
}
