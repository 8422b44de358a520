//! The engine for those who look after it: parking, holding, dead letters, memory, health, back-pressure.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bellhop::engine::admission::{Memory, Source};
use bellhop::engine::backlog::State;
use bellhop::engine::journal::{Journal, JournalOptions, Record};
use bellhop::engine::operator::Refusal;
use bellhop::engine::ports::{Channel, Delivery, ErrorClass, RunError, RunResult, Thrown};
use bellhop::engine::route::{OnInterrupt, QueueMode, Route};
use bellhop::engine::waits::{Parking, Who};
use bellhop::engine::{Acceptance, Settings};
use bellhop::message::{BlockKind, OutboundKind};
use bellhop::store::RealDisk;
use support::engine::{Build, FakeChannel, Gate, Harness, TempDir, answer, block, failure, group, message, script};

const PATIENCE: Duration = Duration::from_secs(30);

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

fn parking() -> Settings {
    Settings {
        parking: Parking { usage_limit: Who::Rooms, broken: Who::Rooms },
        outbox_delays: vec![Duration::from_millis(2); 2],
        ..Settings::default()
    }
}

fn states(h: &Harness) -> Vec<State> {
    h.engine.queue().iter().map(|i| i.state).collect()
}

fn id_of(h: &Harness, message: &str) -> String {
    h.engine.queue().into_iter().find(|i| i.ids.iter().any(|id| id == message)).unwrap().id
}

/// A runtime that is broken in this way until the flag is set.
fn broken_until(
    fixed: &Arc<AtomicBool>,
    error: &'static str,
    class: Option<ErrorClass>,
) -> Box<support::engine::Script> {
    let fixed = Arc::clone(fixed);
    script(move |_, request, _, _| {
        if fixed.load(Ordering::Acquire) {
            return Ok(answer(&format!("to {}", request.text), "sid-1"));
        }
        let error = Some(RunError { message: error.into(), class });
        Ok(RunResult { error, new_session_id: "sid-1".into(), ..RunResult::default() })
    })
}

#[test]
fn a_used_up_quota_parks_tells_once_and_resumes_by_itself_after_a_restart() {
    let fixed = Arc::new(AtomicBool::new(false));
    let dir = Arc::new(TempDir::new("ops-quota"));
    let build = || Build {
        script: broken_until(&fixed, "You've hit your usage limit", None),
        settings: parking(),
        ..Build::default()
    };
    let h = Harness::in_dir(Arc::clone(&dir), build());
    h.accept(group("rm_1", "m1", "one"));
    until("the first is parked", || states(&h) == [State::Parked]);
    // Another room of the same runtime waits behind it, without a run, and is told too.
    h.accept(group("rm_2", "m2", "two"));
    h.accept(group("rm_1", "m3", "three"));
    let notices = h.channel.sent.wait(2);
    until("all are parked", || states(&h) == [State::Parked; 3]);
    assert_eq!(h.runtime.runs.len(), 1);
    assert!(notices.iter().all(|n| n.kind == OutboundKind::Error));
    assert!(
        notices[0].text.starts_with("Claude Code usage limit reached — please try again later."),
        "{}",
        notices[0].text
    );
    assert!(h.engine.queue().iter().all(|i| i.until.is_some()));
    assert_eq!(h.engine.status().stalled[0].on, "claude-code");
    assert_eq!(h.engine.status().oldest_waiting_ms, None, "what is parked is not overdue");
    h.stop();

    let h = Harness::in_dir(dir, build());
    h.accept(group("rm_2", "m4", "four"));
    until("all are parked again", || states(&h) == [State::Parked; 4]);
    assert_eq!((h.runtime.runs.len(), h.channel.sent.len()), (0, 0), "nobody is told twice, nothing is run");
    fixed.store(true, Ordering::Release);
    let id = id_of(&h, "m1");
    h.engine.release(&id).unwrap();
    until("everything is answered", || h.engine.queue().is_empty());
    assert!(h.channel.sent.all().iter().all(|o| o.kind == OutboundKind::Message));
    assert!(h.engine.status().stalled.is_empty());
    assert!(!h.runtime.runs.all().iter().any(|r| r.text.starts_with("[interrupted]")), "nothing had been done");
    h.stop();
}

#[test]
fn what_a_cut_off_run_did_is_told_to_the_next_one() {
    let h = Harness::build(
        "ops-cut",
        Build {
            script: script(|n, _, _, sink| {
                if n > 0 {
                    return Ok(answer("done", "sid-1"));
                }
                sink.session("sid-1");
                sink.block(block(BlockKind::ToolUse, 1));
                Ok(failure("usage limit reached", "sid-1"))
            }),
            settings: parking(),
            ..Build::default()
        },
    );
    h.accept(group("rm_1", "m1", "one"));
    until("it is parked", || states(&h) == [State::Parked]);
    h.engine.release("m1").unwrap();
    h.channel.settled.wait(1);
    let runs = h.runtime.runs.all();
    assert!(runs[1].text.starts_with("[interrupted] attempt 1"), "{}", runs[1].text);
    assert_eq!(runs[1].session.as_ref().unwrap().id, "sid-1");
}

#[test]
fn an_expired_login_and_a_missing_program_park_and_the_terminal_gets_its_error() {
    for (error, class, words) in [
        ("Invalid API key", None, "is not logged in"),
        ("codex cannot be started", Some(ErrorClass::Missing), "is not installed"),
        ("write: No space left on device", Some(ErrorClass::Other), "disk of this machine is full"),
    ] {
        let fixed = Arc::new(AtomicBool::new(false));
        let script = broken_until(&fixed, error, class);
        let h = Harness::build("ops-login", Build { script, settings: parking(), ..Build::default() });
        h.accept(group("rm_1", "m1", "one"));
        let notice = h.channel.sent.wait(1).remove(0);
        assert!(notice.text.contains(words), "{}", notice.text);
        until("it is parked", || states(&h) == [State::Parked]);
        assert_eq!(h.channel.settled.len(), 0);
        h.stop();

        let mut channel = FakeChannel::botcord();
        channel.waited_at = true;
        let script = broken_until(&fixed, error, class);
        let h = Harness::build("ops-login-local", Build { channel, script, settings: parking(), ..Build::default() });
        assert_eq!(h.handle(group("rm_1", "m1", "one")).why, "error");
        assert_eq!(h.channel.sent.all()[0].kind, OutboundKind::Error);
        h.stop();
    }
}

#[test]
fn held_messages_do_not_run_and_do_not_block() {
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let serial = Route { queue_mode: Some(QueueMode::Serial), runtime: "claude-code".into(), ..Route::default() };
    let dir = Arc::new(TempDir::new("ops-hold"));
    let h = Harness::in_dir(
        Arc::clone(&dir),
        Build {
            routes: vec![serial.clone()],
            script: script(move |_, request, cancel, _| {
                pass.pass(cancel);
                Ok(answer(&request.text, "s"))
            }),
            ..Build::default()
        },
    );
    h.accept(message("m1", "one"));
    until("it runs", || h.runtime.runs.len() == 1);
    h.accept(message("m2", "two"));
    h.accept(message("m3", "three"));
    assert!(matches!(h.engine.hold("m1"), Err(Refusal::Conflict(_))), "its turn runs");
    assert_eq!(h.engine.hold("nothing"), Err(Refusal::Unknown));
    h.engine.hold("m2").unwrap();
    h.engine.hold("m2").unwrap();
    assert_eq!(states(&h), [State::Running, State::Held, State::Waiting]);
    gate.open();
    until("the others are done", || states(&h) == [State::Held]);
    assert_eq!(h.channel.sent.all().iter().map(|o| o.text.as_str()).collect::<Vec<_>>(), ["one", "three"]);
    assert_eq!((h.engine.status().held, h.engine.status().oldest_waiting_ms), (1, None));
    h.stop();

    let h = Harness::in_dir(dir, Build { routes: vec![serial], ..Build::default() });
    assert_eq!((h.recovered.held, h.recovered.requeued), (1, 0));
    assert_eq!(states(&h), [State::Held]);
    h.accept(message("m4", "four"));
    until("the fourth is done", || states(&h) == [State::Held]);
    h.engine.release("m2").unwrap();
    until("the second is done", || h.engine.queue().is_empty());
    assert_eq!(h.runtime.runs.all().last().unwrap().text, "two");
    assert!(matches!(h.engine.release("m2"), Err(Refusal::Unknown)));
    h.stop();
}

#[test]
fn dropped_messages_are_acknowledged_and_never_run() {
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let h = Harness::build(
        "ops-drop",
        Build {
            routes: vec![Route {
                queue_mode: Some(QueueMode::Serial),
                runtime: "claude-code".into(),
                ..Route::default()
            }],
            script: script(move |_, request, cancel, _| {
                pass.pass(cancel);
                Ok(answer(&request.text, "s"))
            }),
            ..Build::default()
        },
    );
    for id in ["m1", "m2", "m3"] {
        h.accept(message(id, id));
    }
    until("it runs", || h.runtime.runs.len() == 1);
    h.engine.hold("m3").unwrap();
    h.engine.drop_message("m2").unwrap();
    h.engine.drop_message("m3").unwrap();
    let settled = h.channel.settled.wait(2);
    assert!(settled.iter().all(|s| s.why == "skipped:dropped"), "{settled:?}");
    gate.open();
    until("nothing is left", || h.engine.queue().is_empty());
    assert_eq!(h.runtime.runs.len(), 1);
}

/// A journal as a daemon leaves it that died in the middle of a turn, for the `attempt`th time.
fn crashed(dir: &TempDir, attempt: u32, effects: bool) {
    let opened = Journal::open(&dir.0.join("journal"), Arc::new(RealDisk), JournalOptions::default()).unwrap();
    let journal = opened.journal;
    let accepted = journal.accept(vec![message("m1", "one")], bellhop::engine::now_ms()).remove(0);
    let bellhop::engine::journal::Accept::New { entry_id, ticket, .. } = accepted else { panic!("{accepted:?}") };
    ticket.wait().unwrap();
    let rt = "claude-code".into();
    journal.append(Record::Started { e: vec![entry_id], turn: "t1".into(), attempt, rt }).wait().unwrap();
    journal.append(Record::Session { turn: "t1".into(), id: "sid-9".into() }).wait().unwrap();
    if effects {
        journal.append(Record::Effects { turn: "t1".into() }).wait().unwrap();
    }
    journal.close();
}

fn policy(on_interrupt: OnInterrupt) -> Vec<Route> {
    vec![Route { on_interrupt: Some(on_interrupt), runtime: "claude-code".into(), ..Route::default() }]
}

#[test]
fn an_interrupted_turn_without_effects_runs_again_whatever_the_policy() {
    for on_interrupt in [OnInterrupt::Rerun, OnInterrupt::Ask, OnInterrupt::Hold] {
        let dir = Arc::new(TempDir::new("ops-silent-replay"));
        crashed(&dir, 1, false);
        let h = Harness::in_dir(dir, Build { routes: policy(on_interrupt), ..Build::default() });
        h.channel.settled.wait(1);
        assert_eq!(h.runtime.runs.all()[0].text, "one");
        assert_eq!(h.channel.sent.len(), 1);
        h.stop();
    }
}

#[test]
fn ask_holds_an_interrupted_message_until_somebody_answers() {
    let dir = Arc::new(TempDir::new("ops-ask"));
    crashed(&dir, 1, true);
    let h = Harness::in_dir(Arc::clone(&dir), Build { routes: policy(OnInterrupt::Ask), ..Build::default() });
    let asked = h.channel.sent.wait(1).remove(0);
    assert!(asked.kind == OutboundKind::Error && asked.text.contains("on hold"), "{}", asked.text);
    assert_eq!((states(&h), h.runtime.runs.len()), (vec![State::Held], 0));
    h.stop();
    // It is asked once.
    let h = Harness::in_dir(dir, Build { routes: policy(OnInterrupt::Ask), ..Build::default() });
    assert_eq!(states(&h), [State::Held]);
    h.accept(message("m2", "yes, go on"));
    until("both are answered", || h.engine.queue().is_empty());
    let runs = h.runtime.runs.all();
    assert_eq!(runs.len(), 1, "one turn for the message and the answer");
    assert!(runs[0].text.starts_with("[interrupted]"), "{}", runs[0].text);
    assert!(runs[0].text.contains("yes, go on"), "{}", runs[0].text);
    let texts: Vec<_> = h.prompts.composed.all()[0].entries.iter().map(|e| e.text.clone()).collect();
    assert_eq!(texts, ["one", "yes, go on"]);
    assert!(!h.channel.sent.all().iter().any(|o| o.text.contains("on hold")));
    h.stop();
}

#[test]
fn hold_keeps_an_interrupted_message_until_it_is_released() {
    let dir = Arc::new(TempDir::new("ops-hold-policy"));
    crashed(&dir, 1, true);
    let h = Harness::in_dir(dir, Build { routes: policy(OnInterrupt::Hold), ..Build::default() });
    assert_eq!((states(&h), h.channel.sent.len()), (vec![State::Held], 0));
    // A message in between goes its own way.
    h.handle(message("m2", "two"));
    assert_eq!(states(&h), [State::Held]);
    h.engine.release("m1").unwrap();
    until("it is answered", || h.engine.queue().is_empty());
    let last = h.runtime.runs.all().pop().unwrap();
    assert!(last.text.starts_with("[interrupted]") && last.text.ends_with("one"), "{}", last.text);
    h.stop();
}

#[test]
fn a_message_given_up_after_three_interruptions_is_kept_and_can_run_again() {
    let dir = Arc::new(TempDir::new("ops-dead"));
    crashed(&dir, 3, true);
    let h = Harness::in_dir(Arc::clone(&dir), Build::default());
    assert_eq!(h.channel.settled.wait(1)[0].why, "error");
    assert_eq!(h.runtime.runs.len(), 0);
    let dead = h.engine.dead_letters();
    assert_eq!((dead.len(), dead[0].why.as_deref()), (1, Some("interrupted 3 times")));
    assert!(matches!(h.engine.hold("m1"), Err(Refusal::Conflict(_))));
    h.stop();
    // It survives a restart, and a repeat by the far side is still recognised.
    let h = Harness::in_dir(dir, Build::default());
    assert_eq!(h.engine.dead_letters().len(), 1);
    assert_eq!(h.accept(message("m1", "one")), Acceptance::Finished);
    h.engine.requeue("m1").unwrap();
    h.channel.sent.wait(1);
    until("it is answered", || h.engine.queue().is_empty());
    let run = h.runtime.runs.all().remove(0);
    assert!(run.text.starts_with("[interrupted] attempt 1"), "{}", run.text);
    assert_eq!(run.session.unwrap().id, "sid-9");
    assert!(h.engine.dead_letters().is_empty());
    assert_eq!(h.engine.requeue("m1"), Err(Refusal::Unknown));
    h.stop();
}

#[test]
fn what_is_brought_back_for_an_agent_that_is_not_there_waits_for_it_once() {
    let dir = Arc::new(TempDir::new("ops-absent"));
    crashed(&dir, 3, true);
    let h = Harness::in_dir(Arc::clone(&dir), Build::default());
    h.channel.settled.wait(1);
    h.stop();
    let elsewhere = FakeChannel::new("elsewhere", "botcord", FakeChannel::botcord().capabilities());
    let h = Harness::in_dir(dir, Build { channel: elsewhere, ..Build::default() });
    h.engine.requeue("m1").unwrap();
    assert!(h.engine.dead_letters().is_empty());
    assert_eq!((h.engine.queue().len(), h.runtime.runs.len()), (1, 0));
    let channel = Arc::new(FakeChannel::botcord());
    h.engine.add_channel(Arc::clone(&channel) as Arc<dyn Channel>);
    until("it is answered", || h.engine.queue().is_empty());
    assert_eq!((h.runtime.runs.len(), channel.sent.len(), h.channel.sent.len()), (1, 1, 0));
    h.stop();
}

#[test]
fn what_waits_for_an_agent_that_is_not_there_can_be_cancelled() {
    let dir = Arc::new(TempDir::new("ops-absent-cancelled"));
    crashed(&dir, 1, false);
    let elsewhere = FakeChannel::new("elsewhere", "botcord", FakeChannel::botcord().capabilities());
    let h = Harness::in_dir(dir, Build { channel: elsewhere, ..Build::default() });
    let m = message("m1", "one");
    assert_eq!(h.engine.cancel_conversation(&m.channel, &m.account_id, "another"), 0);
    assert_eq!(h.engine.cancel_conversation(&m.channel, &m.account_id, &m.conversation.id), 1);
    assert_eq!(h.engine.cancel_message(&m.channel, "m1"), 0);
    let channel = Arc::new(FakeChannel::botcord());
    h.engine.add_channel(Arc::clone(&channel) as Arc<dyn Channel>);
    assert_eq!(channel.settled.wait(1)[0].why, "cancelled");
    assert_eq!((h.engine.queue().len(), h.runtime.runs.len()), (0, 0));
    h.stop();
}

#[test]
fn a_reply_that_could_not_be_delivered_is_sent_again_without_a_second_run() {
    let channel = FakeChannel::botcord();
    *channel.deliveries.lock().unwrap() = vec![Delivery::Permanent { why: "gone".into() }];
    let h = Harness::build("ops-undelivered", Build { channel, ..Build::default() });
    assert_eq!(h.handle(message("m1", "one")).why, "send_failed");
    until("it is dead", || h.engine.dead_letters().len() == 1);
    assert_eq!(h.engine.dead_letters()[0].why.as_deref(), Some("the reply could not be delivered: gone"));
    h.engine.requeue("m1").unwrap();
    until("it is sent again", || h.channel.sent.len() == 2);
    until("nothing is left", || h.engine.queue().is_empty() && h.engine.dead_letters().is_empty());
    let sent = h.channel.sent.all();
    assert_eq!((&sent[0].id, &sent[0].text, h.runtime.runs.len()), (&sent[1].id, &sent[1].text, 1));
}

#[test]
fn a_turn_waits_for_memory_and_starts_when_there_is_some() {
    let available = Arc::new(AtomicU64::new(0));
    let gate = Arc::new(Gate::default());
    let (look, pass) = (Arc::clone(&available), Arc::clone(&gate));
    let source = Source(Arc::new(move || Some(look.load(Ordering::Acquire))));
    let h = Harness::build(
        "ops-memory",
        Build {
            settings: Settings {
                memory: Memory { reserve_mb: 100, per_turn_mb: 100, available: source },
                max_turns: 8,
                ..Settings::default()
            },
            script: script(move |_, _, cancel, _| {
                pass.pass(cancel);
                Ok(answer("ok", "s"))
            }),
            ..Build::default()
        },
    );
    h.accept(group("rm_1", "m1", "one"));
    until("the first runs without memory", || h.runtime.runs.len() == 1);
    h.accept(group("rm_2", "m2", "two"));
    assert_eq!((h.engine.status().turns.len(), h.runtime.runs.len()), (1, 1));
    // Found by the timer alone: nothing else happens in the engine.
    available.store(10_000, Ordering::Release);
    until("the second runs too", || h.runtime.runs.len() == 2);
    gate.open();
    until("all is done", || h.engine.queue().is_empty());
}

#[test]
fn status_tells_what_came_what_went_and_what_is_silent() {
    let (gate, step) = (Arc::new(Gate::default()), Arc::new(Gate::default()));
    let (pass, next) = (Arc::clone(&gate), Arc::clone(&step));
    let h = Harness::build(
        "ops-status",
        Build {
            settings: Settings { silent_after: Duration::from_millis(1), ..Settings::default() },
            script: script(move |n, _, cancel, sink| {
                if n > 0 {
                    sink.block(block(BlockKind::ToolUse, 1));
                    next.pass(cancel);
                    sink.block(block(BlockKind::ToolResult, 2));
                    pass.pass(cancel);
                }
                Ok(answer("ok", "s"))
            }),
            ..Build::default()
        },
    );
    let pulse = |h: &Harness| h.engine.status().channels[0].clone();
    assert_eq!((pulse(&h).last_inbound_at, pulse(&h).last_delivered_at), (None, None));
    h.handle(message("m1", "one"));
    assert!(pulse(&h).last_inbound_at.is_some() && pulse(&h).last_delivered_at.is_some());
    h.accept(message("m2", "two"));
    until("the tool runs", || h.engine.status().turns.first().is_some_and(|t| t.quiet_ms > 2));
    until("its turn has begun", || h.runtime.runs.len() == 2);
    step.open();
    until("the silence is noticed", || h.engine.status().turns.first().is_some_and(|t| t.silent));
    gate.open();
    until("all is done", || h.engine.queue().is_empty());
}

#[test]
fn a_silent_tool_is_not_a_silent_turn() {
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let h = Harness::build(
        "ops-tool",
        Build {
            settings: Settings { silent_after: Duration::from_millis(1), ..Settings::default() },
            script: script(move |_, _, cancel, sink| {
                sink.block(block(BlockKind::ToolUse, 1));
                pass.pass(cancel);
                Ok(answer("ok", "s"))
            }),
            ..Build::default()
        },
    );
    h.accept(message("m1", "one"));
    until("its tool runs", || h.kinds().iter().any(|k| k == "block"));
    until("it is quiet", || h.engine.status().turns.first().is_some_and(|t| t.quiet_ms > 5));
    assert!(!h.engine.status().turns[0].silent);
    gate.open();
    until("all is done", || h.engine.queue().is_empty());
}

#[test]
fn a_full_conversation_is_told_once_until_there_is_room() {
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let h = Harness::build(
        "ops-full",
        Build {
            settings: Settings { max_waiting: 1, ..Settings::default() },
            script: script(move |_, _, cancel, _| {
                pass.pass(cancel);
                Ok(answer("ok", "s"))
            }),
            ..Build::default()
        },
    );
    let room = |id: &str| group("rm_1", id, id);
    h.accept(room("m1"));
    until("it runs", || h.runtime.runs.len() == 1);
    assert!(matches!(h.accept(room("m2")), Acceptance::Accepted { .. }));
    for id in ["m3", "m4"] {
        assert!(matches!(h.accept(room(id)), Acceptance::Refused(_)));
    }
    let told = h.channel.sent.wait(1);
    assert!(told[0].text.contains("1 messages wait in this conversation already"), "{}", told[0].text);
    gate.open();
    until("there is room", || h.engine.queue().is_empty());
    assert!(matches!(h.accept(room("m3")), Acceptance::Accepted { .. }));
    until("all is done", || h.engine.queue().is_empty());
    let notices = h.channel.sent.all().iter().filter(|o| o.text.contains("already")).count();
    assert_eq!(notices, 1);
}

#[test]
fn a_probe_that_is_cancelled_is_followed_by_the_next() {
    let h = Harness::build(
        "ops-probe",
        Build {
            script: script(|n, request, cancel, _| match n {
                0 => Ok(failure("usage limit reached", "s")),
                1 => support::engine::hang(cancel),
                _ => Ok(answer(&request.text, "s")),
            }),
            settings: parking(),
            ..Build::default()
        },
    );
    h.accept(group("rm_1", "m1", "one"));
    until("it is parked", || states(&h) == [State::Parked]);
    h.accept(group("rm_2", "m2", "two"));
    h.engine.release("m1").unwrap();
    until("the probe runs", || h.runtime.runs.len() == 2);
    assert_eq!(states(&h), [State::Running, State::Parked], "one probe at a time");
    assert_eq!(h.engine.cancel_message("botcord", "m1"), 1);
    until("the other is answered", || h.engine.queue().is_empty());
    assert_eq!(h.runtime.runs.len(), 3);
    h.stop();
}

#[test]
fn nobody_is_asked_where_nobody_would_hear_it() {
    let dir = Arc::new(TempDir::new("ops-ask-local"));
    crashed(&dir, 1, true);
    let mut channel = FakeChannel::botcord();
    channel.waited_at = true;
    let h = Harness::in_dir(dir, Build { channel, routes: policy(OnInterrupt::Ask), ..Build::default() });
    h.handle(message("m2", "two"));
    assert_eq!((states(&h), h.channel.sent.len()), (vec![State::Held], 1));
    assert_eq!(h.runtime.runs.all()[0].text, "two");
    h.stop();
}

#[test]
fn a_run_that_fails_otherwise_is_not_parked() {
    let h = Harness::build(
        "ops-other",
        Build {
            script: script(|_, _, _, _| Err(Thrown::new("no such thing"))),
            settings: parking(),
            ..Build::default()
        },
    );
    assert_eq!(h.handle(group("rm_1", "m1", "one")).why, "error");
}
