//! The turn engine around its turns: what wakes an agent, what waits, what is refused, what is shown meanwhile.
//!
//! Test names carry the numbers of the scenario list in the turn engine document.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bellhop::engine::backlog::State;
use bellhop::engine::breaker::BreakerLimits;
use bellhop::engine::fuse::FuseLimits;
use bellhop::engine::gate::{Mode, Policy};
use bellhop::engine::park::MarkerFile;
use bellhop::engine::ports::{Capabilities, Delivery, RunRequest, RunResult, Thrown};
use bellhop::engine::route::{OnInterrupt, QueueMode, Route};
use bellhop::engine::typing::TypingPace;
use bellhop::engine::waits::{Parking, Who};
use bellhop::engine::{Acceptance, Settings, now_ms};
use bellhop::message::{
    BlockKind, Budget, CloudRun, ConversationKind, Entry, Inbound, OutboundKind, Phase, RoomFacts, SenderKind, Status,
    Trace,
};
use support::engine::{
    Build, FakeChannel, FakePolicies, FakePrompts, Gate, Harness, Script, answer, block, failure, group, hang, message,
    script,
};

fn policy(mode: Mode) -> Policy {
    Policy { mode, ..Policy::default() }
}

/// A BotCord-like channel with these policies.
fn guarded(policies: FakePolicies) -> FakeChannel {
    FakeChannel { policies: Some(policies), ..FakeChannel::botcord() }
}

/// A message of a person.
fn human(room: &str, id: &str, text: &str) -> Inbound {
    let mut message = group(room, id, text);
    message.sender.kind = SenderKind::User;
    message
}

/// A picture without a word.
fn media(room: &str, id: &str) -> Inbound {
    let mut message = group(room, id, &format!("[file {id}]"));
    message.media_only = true;
    message
}

fn entry(id: &str, msg_id: &str, text: &str) -> Entry {
    Entry {
        id: id.into(),
        msg_id: Some(msg_id.into()),
        sender_id: "ag_peer".into(),
        sender_label: "ag_peer".into(),
        sender_kind: SenderKind::Agent,
        text: text.into(),
        mentioned: false,
        envelope_type: None,
        quote: None,
    }
}

const REFUSED: &str = "Failed to authenticate. API Error: 403 Request not allowed";

/// Waits until no turn runs and nothing is on its way.
fn idle(h: &Harness) {
    assert!(h.engine.wait_idle(support::engine::PATIENCE));
}

#[test]
fn s09_a_gate_that_says_no_ends_the_message() {
    let channel = guarded(FakePolicies::always(policy(Mode::Muted)));
    let h = Harness::build("s09", Build { channel, ..Build::default() });
    let settled = h.handle(group("rm_g", "m", "hello"));
    assert_eq!((settled.ids, settled.why.as_str()), (vec!["m".to_owned()], "skipped:attention"));
    assert_eq!((h.runtime.runs.len(), h.reports.queued.len(), h.channel.settled.len()), (0, 1, 1));
    let transcript = h.transcript();
    assert_eq!(h.kinds(), ["inbound", "attention_skipped"]);
    assert_eq!(transcript[0]["turnId"], transcript[1]["turnId"]);
    assert_eq!(h.handle(message("o", "the owner is heard")).why, "delivered");
}

#[test]
fn s10_a_gate_that_fails_is_open() {
    for broken in [true, false] {
        let source = FakePolicies::new(move |_| if broken { panic!("broken gate") } else { Err("offline".into()) });
        let h = Harness::build("s10", Build { channel: guarded(source), ..Build::default() });
        h.handle(group("rm_g", "m", "hello"));
        assert_eq!(h.runtime.runs.len(), 1);
    }
}

#[test]
fn a_muted_agent_stays_muted_through_an_outage_and_a_restart() {
    let h = Harness::build(
        "outage",
        Build { channel: guarded(FakePolicies::always(policy(Mode::Muted))), ..Build::default() },
    );
    h.handle(group("rm_g", "1", "hello"));
    let channel = guarded(FakePolicies::new(|_| Err("down".into())));
    let again = Harness::in_dir(h.stop(), Build { channel, ..Build::default() });
    assert_eq!(again.handle(group("rm_g", "2", "hello")).why, "skipped:attention");
    again.engine.set_policy("ag_me", Some("rm_g"), Some(policy(Mode::Always)));
    assert_eq!(again.handle(group("rm_g", "3", "hello")).why, "gated");
    assert_eq!(again.runtime.runs.len(), 1);
}

#[test]
fn a_slow_policy_holds_up_neither_accepting_nor_other_queues_and_keeps_the_order() {
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let never = bellhop::engine::cancel::CancelToken::new().unwrap();
    let source = FakePolicies::new(move |room| {
        if room == "rm_slow" {
            pass.pass(&never);
        }
        Ok(None)
    });
    let asked = Arc::clone(&source.asked);
    let serial = Route {
        queue_mode: Some(QueueMode::Serial),
        runtime: "claude-code".into(),
        cwd: std::env::temp_dir(),
        ..Route::default()
    };
    let h = Harness::build("slow", Build { channel: guarded(source), routes: vec![serial], ..Build::default() });
    for id in ["1", "2", "3"] {
        assert!(matches!(h.accept(group("rm_slow", id, id)), Acceptance::Accepted { .. }));
    }
    asked.wait(1);
    assert_eq!(h.handle(group("rm_quick", "q", "quick")).ids, ["q"]);
    assert_eq!(h.engine.status().queues["botcord:ag_me:rm_slow:"].buffered, 2);
    gate.open();
    let settled = h.channel.settled.wait_for("all four", |s| s.iter().flat_map(|s| &s.ids).count() == 4);
    let order: Vec<String> = settled.into_iter().flat_map(|s| s.ids).collect();
    assert_eq!(order, ["q", "1", "2", "3"]);
    assert_eq!(asked.all(), ["rm_slow", "rm_quick"], "one question for each room");
}

#[test]
fn s24_a_mention_by_name_reaches_the_text_and_the_context() {
    let channel = FakeChannel { display_name: Some("Nora".into()), ..FakeChannel::botcord() };
    let route = Route {
        queue_mode: Some(QueueMode::CancelPrevious),
        runtime: "claude-code".into(),
        cwd: std::env::temp_dir(),
        ..Route::default()
    };
    let h = Harness::build("s24", Build { channel, routes: vec![route], ..Build::default() });
    h.handle(group("rm_g", "m", "hi @nora"));
    assert!(h.prompts.composed.all()[0].mentioned);
    assert!(h.prompts.contexts.all()[0].mentioned);
}

#[test]
fn s25_a_file_without_words_waits_for_the_next_text() {
    let h = Harness::new("s25");
    h.accept(media("rm_g", "1"));
    assert_eq!(h.engine.status().queues["botcord:ag_me:rm_g:"].set_aside, 1);
    assert_eq!((h.channel.settled.len(), h.kinds().len()), (0, 1), "not acknowledged before it is used");
    let settled = h.handle(group("rm_g", "2", "look"));
    assert_eq!(settled.ids, ["1", "2"]);
    assert_eq!(h.runtime.runs.len(), 1);
    assert_eq!(h.runtime.runs.all()[0].text, "[file 1]\nlook");
}

#[test]
fn s96_s97_files_are_merged_in_front_and_bounded() {
    let direct = |mut m: Inbound| {
        m.conversation.kind = ConversationKind::Direct;
        m
    };
    let h = Harness::new("s96");
    h.accept(direct(media("rm_x", "1")));
    h.handle(direct(group("rm_x", "2", "look")));
    let records = h.transcript();
    let find = |kind: &str, n: usize| records.iter().filter(|r| r["kind"] == kind).nth(n).unwrap().clone();
    let (file, text) = (find("inbound", 0)["turnId"].clone(), find("inbound", 1)["turnId"].clone());
    assert_eq!(find("dispatched", 0)["mergedFromTurnIds"], serde_json::json!([file]));
    let dropped = find("dropped", 0);
    assert_eq!(
        (&dropped["turnId"], &dropped["reason"], &dropped["supersededBy"]),
        (&file, &"batch_merged".into(), &text)
    );

    for n in 0..41 {
        h.accept(direct(media("rm_y", &format!("f{n}"))));
    }
    h.accept(direct(group("rm_y", "t", "these")));
    h.channel.settled.wait_for("the text", |s| s.iter().any(|s| s.ids.contains(&"t".into())));
    let composed = h.prompts.composed.all().pop().unwrap();
    assert_eq!((composed.entries.len(), composed.omitted), (41, 1));
    assert_eq!((composed.entries[0].id.as_str(), composed.entries[40].id.as_str()), ("f1", "t"));
    let overflow = h.transcript().into_iter().filter(|r| r["reason"] == "queue_overflow").count();
    assert_eq!(overflow, 1);
}

#[test]
fn files_survive_a_restart_and_expire() {
    let h = Harness::new("aside");
    h.accept(media("rm_g", "1"));
    let again = Harness::in_dir(h.stop(), Build::default());
    assert_eq!(again.handle(group("rm_g", "2", "look")).ids, ["1", "2"]);

    let settings = Settings { aside_for: Duration::from_millis(20), ..Settings::default() };
    let h = Harness::build("expire", Build { settings, ..Build::default() });
    h.accept(media("rm_g", "1"));
    h.accept(media("rm_h", "2"));
    let settled = h.channel.settled.wait(2);
    assert!(settled.iter().all(|s| s.why == "skipped:deferred_expired"), "{settled:?}");
    let dropped: Vec<_> = h.transcript().into_iter().filter(|r| r["kind"] == "dropped").collect();
    assert!(dropped.len() == 2 && dropped.iter().all(|r| r["reason"] == "deferred_expired"));
    assert_eq!(h.handle(group("rm_g", "3", "late")).ids, ["3"]);
}

#[test]
fn a_gate_that_says_no_leaves_the_files_for_later() {
    let h = Harness::build(
        "kept",
        Build { channel: guarded(FakePolicies::always(policy(Mode::MentionOnly))), ..Build::default() },
    );
    h.accept(media("rm_g", "1"));
    assert_eq!(h.handle(group("rm_g", "2", "not for you")).why, "skipped:attention");
    assert_eq!(h.handle(group("rm_g", "3", "@ag_me look")).ids, ["1", "3"]);
}

/// A channel and settings for tests of the breaker: the login is refused as long as the flag says so.
fn refusing(limits: BreakerLimits) -> (Build, Arc<AtomicBool>) {
    let refused = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&refused);
    let run =
        script(move |_, _, _, _| Ok(if flag.load(Ordering::SeqCst) { answer(REFUSED, "") } else { answer("ok", "s") }));
    let settings = Settings { breaker: limits, ..Settings::default() };
    (Build { script: run, settings, ..Build::default() }, refused)
}

#[test]
fn s44_s92_a_refused_login_stops_turns_before_they_run() {
    let (build, _) = refusing(BreakerLimits { threshold: 2, cool_down_ms: 60_000 });
    let h = Harness::build("s44", build);
    h.handle(message("1", "one"));
    h.handle(message("2", "two"));
    let breakers = h.engine.status().breakers;
    assert_eq!(breakers.len(), 1);
    assert_eq!((breakers[0].key.as_str(), breakers[0].failures), ("claude-code:botcord:ag_me:rm_oc_1:", 2));
    let before = h.transcript().len();
    h.handle(message("3", "three"));
    assert_eq!((h.runtime.runs.len(), h.reports.queued.len()), (2, 3));
    let sent = h.channel.sent.all().pop().unwrap();
    assert_eq!((sent.kind, sent.error_ref), (OutboundKind::Error, None));
    let until =
        sent.text.strip_prefix("⚠️ Runtime error: runtime authentication failed repeatedly; dispatch paused until ");
    assert!(until.is_some_and(|t| t.len() == 24 && t.ends_with('Z')), "{}", sent.text);
    assert_eq!(h.kinds()[before..], ["inbound", "turn_error", "outbound"]);
    assert_eq!(h.order.all().iter().rev().take(2).collect::<Vec<_>>(), ["ack 3", &format!("send {}", sent.text)]);

    *h.channel.deliveries.lock().unwrap() = vec![Delivery::Permanent { why: "gone".into() }];
    assert_eq!(h.handle(message("4", "four")).why, "send_failed");
    assert_eq!(h.transcript().pop().unwrap()["deliveryStatus"], "send_failed");
}

#[test]
fn what_met_a_refused_login_in_a_shared_room_is_answered_after_it_recovers() {
    let (build, refused) = refusing(BreakerLimits { threshold: 1, cool_down_ms: 3_000 });
    let h = Harness::build("login", build);
    h.handle(group("rm_a", "1", "one"));
    h.accept(group("rm_a", "2", "two"));
    h.accept(group("rm_b", "3", "three"));
    h.channel.sent.wait_for("three errors", |sent| sent.len() == 3);
    assert_eq!((h.runtime.runs.len(), h.channel.settled.len()), (1, 1), "kept, not acknowledged");
    let cool = |h: &Harness| {
        let end = std::time::Instant::now() + support::engine::PATIENCE;
        while !h.engine.status().breakers.is_empty() {
            assert!(std::time::Instant::now() < end);
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    // The first try is refused once more: what waited goes on waiting, the message that tried has its error.
    cool(&h);
    assert_eq!(h.handle(group("rm_a", "4", "four")).ids, ["4"]);
    assert_eq!(h.runtime.runs.all()[1].text, "two\nfour");
    cool(&h);
    refused.store(false, Ordering::SeqCst);
    h.accept(group("rm_a", "5", "five"));
    let settled = h.channel.settled.wait_for("all", |s| s.iter().flat_map(|s| &s.ids).count() == 5);
    let groups: Vec<_> = settled.iter().skip(2).map(|s| s.ids.clone()).collect();
    assert!(groups.contains(&vec!["2".into(), "5".into()]) && groups.contains(&vec!["3".into()]), "{groups:?}");
}

#[test]
fn what_waits_for_a_login_survives_a_restart() {
    let (build, _) = refusing(BreakerLimits { threshold: 1, cool_down_ms: 600_000 });
    let h = Harness::build("login-restart", build);
    h.handle(group("rm_a", "1", "one"));
    h.accept(group("rm_a", "2", "two"));
    h.channel.sent.wait(2);
    let again = Harness::in_dir(h.stop(), Build::default());
    assert_eq!(again.channel.settled.wait(1)[0].ids, ["2"]);
    assert_eq!(again.runtime.runs.all()[0].text, "two");
}

/// The queue as a person sees it: ids, states, and why.
fn listed(h: &Harness) -> Vec<(String, State, Option<String>)> {
    h.engine.queue().into_iter().map(|item| (item.ids.join(","), item.state, item.why)).collect()
}

/// Waits until the journal has everything as `wanted`.
fn until_listed(h: &Harness, wanted: &[(&str, State, &str)]) {
    let words = |(id, state, why): &(&str, State, &str)| {
        (id.to_string(), *state, Some(why.to_string()).filter(|why| !why.is_empty()))
    };
    let wanted: Vec<_> = wanted.iter().map(words).collect();
    let end = std::time::Instant::now() + support::engine::PATIENCE;
    while listed(h) != wanted {
        assert!(std::time::Instant::now() < end, "{:?} is not {wanted:?}", listed(h));
        std::thread::sleep(Duration::from_millis(3));
    }
}

#[test]
fn where_messages_wait_for_a_login_the_breaker_does_not_count() {
    let parking = Parking { broken: Who::Rooms, ..Parking::default() };
    let (mut build, refused) = refusing(BreakerLimits { threshold: 1, cool_down_ms: 600_000 });
    build.settings.parking = parking;
    let h = Harness::build("park-login", build);
    h.accept(group("rm_a", "1", "one"));
    let parked = ("1", State::Parked, "not logged in");
    until_listed(&h, &[parked]);
    h.accept(group("rm_b", "2", "two"));
    until_listed(&h, &[parked, ("2", State::Parked, "not logged in")]);
    assert_eq!(h.channel.sent.wait(2).len(), 2, "each room is told once");
    let status = h.engine.status();
    assert!(status.breakers.is_empty() && status.stalled[0].on == "claude-code", "{status:?}");
    assert_eq!((h.runtime.runs.len(), h.channel.settled.len()), (1, 0));
    // A restart keeps them apart from what an agent or a text is waited for.
    let (mut build, _) = refusing(BreakerLimits::default());
    build.settings.parking = parking;
    let again = Harness::in_dir(h.stop(), build);
    until_listed(&again, &[parked, ("2", State::Parked, "not logged in")]);
    assert_eq!(again.runtime.runs.len(), 0);
    let (mut build, flag) = refusing(BreakerLimits::default());
    flag.store(false, Ordering::SeqCst);
    build.settings.parking = parking;
    let well = Harness::in_dir(again.stop(), build);
    well.engine.release("1").unwrap();
    well.channel.settled.wait(2);
    assert!(well.engine.status().stalled.is_empty());
    refused.store(false, Ordering::SeqCst);
}

#[test]
fn what_waits_aside_is_listed_and_a_person_may_change_it() {
    let (build, refused) = refusing(BreakerLimits { threshold: 1, cool_down_ms: 600_000 });
    let h = Harness::build("aside-listed", build);
    h.handle(group("rm_a", "1", "one"));
    h.accept(group("rm_a", "2", "two"));
    h.accept(media("rm_b", "3"));
    h.accept(media("rm_b", "4"));
    h.accept(media("rm_b", "5"));
    let (login, file) = ("not logged in", "files that wait for a text");
    let aside = |id| (id, State::Parked, file);
    until_listed(&h, &[("2", State::Parked, login), aside("3"), aside("4"), aside("5")]);
    assert_eq!(h.engine.status().held, 0, "nobody has set them aside");
    h.engine.hold("3").unwrap();
    h.engine.drop_message("4").unwrap();
    until_listed(&h, &[("2", State::Parked, login), ("3", State::Held, ""), aside("5")]);
    assert_eq!(h.engine.status().held, 1);
    refused.store(false, Ordering::SeqCst);
    h.engine.release("2").unwrap();
    h.channel.settled.wait_for("the second", |s| s.iter().any(|s| s.ids == ["2"] && s.why == "gated"));

    // What a person holds stays where it is; the file goes along with its text.
    let again = Harness::in_dir(h.stop(), Build::default());
    assert_eq!(again.recovered.held, 1);
    assert_eq!(again.handle(group("rm_b", "6", "look")).ids, ["5", "6"]);
    until_listed(&again, &[("3", State::Held, "")]);
    again.engine.release("3").unwrap();
    again.channel.settled.wait_for("the file", |s| s.iter().any(|s| s.ids == ["3"]));
}

#[test]
fn what_a_waiting_text_takes_along_can_be_taken_out_of_it() {
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let serial = Route {
        queue_mode: Some(QueueMode::Serial),
        runtime: "claude-code".into(),
        cwd: std::env::temp_dir(),
        ..Route::default()
    };
    let run = script(move |_, _, cancel, _| {
        pass.pass(cancel);
        Ok(answer("ok", "s"))
    });
    let h = Harness::build("take-part", Build { routes: vec![serial], script: run, ..Build::default() });
    h.accept(group("rm_g", "1", "one"));
    h.runtime.runs.wait(1);
    h.accept(media("rm_g", "2"));
    h.accept(media("rm_g", "3"));
    h.accept(group("rm_g", "4", "look"));
    h.engine.drop_message("2").unwrap();
    // Without its text, the file waits for another one.
    h.engine.hold("4").unwrap();
    gate.open();
    h.channel.settled.wait(2);
    until_listed(&h, &[("3", State::Parked, "files that wait for a text"), ("4", State::Held, "")]);
    h.engine.release("4").unwrap();
    h.channel.settled.wait_for("both", |s| s.iter().any(|s| s.ids == ["3", "4"]));
}

#[test]
fn a_person_ends_the_wait_of_an_agent() {
    for dropped in [false, true] {
        let h = parking("wake-now", |n, request| {
            if n == 0 {
                wish(request, 30_000);
            }
            Ok(answer("later", "s"))
        });
        h.accept(group("rm_g", "1", "one"));
        until_listed(&h, &[("1", State::Parked, "waiting for others")]);
        assert!(h.engine.hold("1").is_err(), "it is answered already");
        if dropped {
            h.engine.drop_message("1").unwrap();
        } else {
            h.engine.release("1").unwrap();
        }
        let why = if dropped { "skipped:dropped" } else { "gated" };
        assert_eq!(h.channel.settled.wait(1)[0].why, why);
        assert_eq!(h.runtime.runs.len(), if dropped { 1 } else { 2 });
    }
}

#[test]
fn an_answer_that_wakes_nobody_still_lets_an_interrupted_message_go_on() {
    let ask = || {
        vec![Route {
            on_interrupt: Some(OnInterrupt::Ask),
            runtime: "claude-code".into(),
            cwd: std::env::temp_dir(),
            ..Route::default()
        }]
    };
    let run = script(|_, _, cancel, sink| {
        sink.block(block(BlockKind::ToolUse, 1));
        hang(cancel)
    });
    let h = Harness::build("ask-gated", Build { routes: ask(), script: run, ..Build::default() });
    h.accept(group("rm_g", "1", "one"));
    h.runtime.runs.wait(1);
    let dir = h.stop();
    let channel = guarded(FakePolicies::always(policy(Mode::Muted)));
    let again = Harness::in_dir(dir, Build { routes: ask(), channel, ..Build::default() });
    until_listed(&again, &[("1", State::Held, "asked")]);
    again.accept(group("rm_g", "2", "yes"));
    let settled = again.channel.settled.wait(2);
    assert!(settled.iter().any(|s| s.ids == ["2"] && s.why == "skipped:attention"), "{settled:?}");
    assert!(again.runtime.runs.all()[0].text.starts_with("[interrupted]"));
}

/// A run that asks to be woken again after so many milliseconds.
fn wish(request: &RunRequest, ms: i64) {
    let mut file = MarkerFile::new(1, Some("waiting for others".into()), now_ms());
    file.deadline_ms = now_ms() + ms;
    std::fs::write(request.wait_file.as_ref().unwrap(), serde_json::to_string(&file).unwrap()).unwrap();
}

fn parking(
    name: &str,
    run: impl Fn(usize, &RunRequest) -> Result<RunResult, Thrown> + Send + Sync + 'static,
) -> Harness {
    Harness::script(name, move |n, request, _, _| run(n, request))
}

#[test]
fn s72_an_agent_is_woken_again_and_only_so_often() {
    let h = parking("s72a", |n, request| {
        if n == 0 {
            wish(request, 1_500);
        }
        Ok(answer("later", "s"))
    });
    assert_eq!(h.handle(group("rm_g", "m", "hello")).ids, ["m"]);
    idle(&h);
    assert_eq!(h.runtime.runs.len(), 2);
    assert_eq!(h.reports.queued.len(), 1, "observers hear of it once");
    assert_eq!(h.kinds(), ["inbound", "dispatched", "outbound", "dispatched", "outbound"]);

    let h = parking("s72c", |_, request| {
        wish(request, 1_000);
        Ok(answer("later", "s"))
    });
    h.handle(group("rm_g", "m", "hello"));
    idle(&h);
    assert_eq!(h.runtime.runs.len(), 4);
}

#[test]
fn s72_a_newer_message_takes_the_place_of_a_wait() {
    let h = parking("s72b", |n, request| {
        if n == 0 {
            wish(request, 30_000);
        }
        Ok(answer("later", "s"))
    });
    h.accept(group("rm_g", "1", "one"));
    h.reports.reports.wait(1);
    idle(&h);
    assert!(h.engine.status().queues["botcord:ag_me:rm_g:"].parked_until.is_some());
    h.accept(group("rm_g", "2", "two"));
    let settled = h.channel.settled.wait(2);
    assert_eq!(settled.iter().map(|s| s.ids.join(",")).collect::<Vec<_>>(), ["1", "2"]);
    idle(&h);
    assert_eq!(h.runtime.runs.all().iter().map(|r| r.text.clone()).collect::<Vec<_>>(), ["one", "two"]);
    assert!(h.engine.status().queues.is_empty());
}

#[test]
fn a_wish_is_passed_over_when_messages_wait_already() {
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let h = Harness::script("busy-park", move |n, request, cancel, _| {
        if n == 0 {
            pass.pass(cancel);
            wish(request, 20);
        }
        Ok(answer("later", "s"))
    });
    h.accept(group("rm_g", "1", "one"));
    h.runtime.runs.wait(1);
    h.accept(group("rm_g", "2", "two"));
    gate.open();
    h.channel.settled.wait(2);
    idle(&h);
    assert_eq!(h.runtime.runs.all().iter().map(|r| r.text.clone()).collect::<Vec<_>>(), ["one", "two"]);
}

#[test]
fn a_parked_turn_survives_a_restart() {
    let h = parking("park-restart", |_, request| {
        wish(request, 5_000);
        Ok(answer("later", "s"))
    });
    h.accept(group("rm_g", "m", "hello"));
    h.reports.reports.wait(1);
    idle(&h);
    let dir = h.stop();
    let again = Harness::in_dir(dir, Build::default());
    assert_eq!(again.channel.settled.wait(1)[0].ids, ["m"]);
    let run = &again.runtime.runs.all()[0];
    assert_eq!(run.text, "hello", "it was not interrupted");
    assert_eq!(run.session.as_ref().unwrap().id, "s");
}

#[test]
fn s73_there_is_no_waiting_in_owner_chats_and_between_two() {
    let h = Harness::new("s73");
    h.handle(message("1", "hello"));
    let mut direct = group("rm_dm_1", "2", "hello");
    direct.conversation.kind = ConversationKind::Direct;
    h.handle(direct);
    assert!(h.runtime.runs.all().iter().all(|r| r.wait_file.is_none()));
}

#[test]
fn s82_rooms_have_markers_of_their_own() {
    let first: Arc<support::engine::Log<String>> = Arc::default();
    let seen = Arc::clone(&first);
    let h = parking("s82", move |_, request| {
        if !seen.all().contains(&request.room_id) {
            seen.push(request.room_id.clone());
            wish(request, 1_500);
        }
        Ok(answer("later", "s"))
    });
    h.accept(group("rm_a", "1", "hello"));
    h.accept(group("rm_b", "2", "hello"));
    h.channel.settled.wait(2);
    idle(&h);
    let runs = h.runtime.runs.all();
    for room in ["rm_a", "rm_b"] {
        assert_eq!(runs.iter().filter(|r| r.room_id == room).count(), 2);
    }
    let mut files: Vec<_> = runs.iter().map(|r| r.wait_file.clone()).collect();
    files.sort();
    files.dedup();
    assert_eq!(files.len(), 2);
}

#[test]
fn s83_an_error_is_posted_and_the_agent_is_woken_but_not_after_a_timeout() {
    let h = parking("s83a", |n, request| {
        if n == 0 {
            wish(request, 1_500);
            return Ok(failure("broken", ""));
        }
        Ok(answer("later", "s"))
    });
    h.handle(group("rm_g", "m", "hello"));
    idle(&h);
    assert_eq!((h.runtime.runs.len(), h.channel.sent.len()), (2, 1));

    let settings = Settings { turn_limit: Duration::from_millis(300), ..Settings::default() };
    let run = script(|_, request, cancel, _| {
        wish(request, 30_000);
        hang(cancel)
    });
    let h = Harness::build("s83b", Build { settings, script: run, ..Build::default() });
    assert_eq!(h.handle(group("rm_g", "m", "hello")).why, "timeout");
    assert!(h.engine.status().queues.is_empty());
    assert!(!h.runtime.runs.all()[0].wait_file.as_ref().unwrap().exists());
}

#[test]
fn s84_a_marker_that_was_left_behind_wakes_nobody() {
    let h = Harness::new("s84");
    let file = bellhop::engine::park::marker_path(&h.dir.0, "botcord:ag_me:rm_g:");
    std::fs::write(&file, serde_json::to_string(&MarkerFile::new(20, None, now_ms())).unwrap()).unwrap();
    h.handle(group("rm_g", "m", "hello"));
    assert!(!file.exists());
    assert!(h.engine.status().queues.is_empty());
}

/// A run that answers when the gate is opened.
fn held() -> (Arc<Gate>, Box<Script>) {
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let run = script(move |_, _, cancel, _| {
        pass.pass(cancel);
        Ok(answer("ok", "s"))
    });
    (gate, run)
}

fn streamable(mut message: Inbound) -> Inbound {
    message.trace = Some(Trace { id: format!("trace_{}", message.id), streamable: true });
    message
}

#[test]
fn s59_s62_typing_is_shown_once_before_the_run_and_may_fail() {
    for typing_fails in [false, true] {
        let channel = FakeChannel { typing_fails, ..FakeChannel::botcord() };
        let gate = Arc::new(Gate::default());
        let pass = Arc::clone(&gate);
        let run = script(move |_, _, cancel, sink| {
            pass.pass(cancel);
            sink.status(Status::Typing { phase: Phase::Started });
            Ok(answer("ok", "s"))
        });
        let h = Harness::build("s59", Build { channel, script: run, ..Build::default() });
        h.accept(streamable(message("m", "hello")));
        // Nothing that the run does brings it about.
        h.channel.typing.wait(1);
        gate.open();
        h.channel.ended.wait(1);
        assert_eq!((h.channel.typing.len(), h.channel.sent.len()), (1, 1));
    }
}

#[test]
fn s60_s61_typing_is_refreshed_while_the_turn_runs_and_not_too_often() {
    let tg = |name: &str, typing: TypingPace, run: Box<Script>| {
        let capabilities = Capabilities { typing: true, coalesce: true, ..Capabilities::default() };
        let channel = FakeChannel::new("tg", "telegram", capabilities);
        Harness::build(
            name,
            Build { channel, script: run, settings: Settings { typing, ..Settings::default() }, ..Build::default() },
        )
    };
    let chat = |id: &str| {
        let mut m = message(id, "hello");
        (m.channel, m.conversation.id) = ("tg".into(), "telegram:user:1".into());
        m.trace = Some(Trace { id: "t".into(), streamable: false });
        m
    };
    let quick = TypingPace { refresh: Duration::from_millis(5), debounce: Duration::ZERO };
    let (gate, run) = held();
    let h = tg("s60", quick, run);
    h.accept(chat("m"));
    h.channel.typing.wait(3);
    gate.open();
    h.channel.settled.wait(1);

    let slow = TypingPace { refresh: Duration::from_hours(1), debounce: Duration::from_hours(1) };
    let (gate, run) = held();
    let h = tg("s61", slow, run);
    h.accept(chat("1"));
    h.channel.typing.wait(1);
    gate.open();
    h.channel.settled.wait(1);
    h.handle(chat("2"));
    idle(&h);
    assert_eq!(h.channel.typing.len(), 1);
}

#[test]
fn s67_the_message_that_is_answered_gets_a_reaction() {
    let h = Harness::new("s67");
    let mut m = group("rm_g", "h1", "@ag_me please review this");
    (m.mentioned, m.msg_id) = (true, Some("m1".into()));
    h.handle(m);
    let statuses = h.channel.statuses.wait(2);
    assert_eq!(
        statuses.iter().map(|s| (s.message_id.as_str(), s.started)).collect::<Vec<_>>(),
        [("m1", true), ("m1", false)]
    );
    assert_eq!(statuses[0].turn_id, statuses[1].turn_id);
}

#[test]
fn s68_no_reaction_without_a_request_to_the_agent() {
    let h = Harness::new("s68");
    let mut fyi = group("rm_g", "2", "FYI, no action here");
    (fyi.mentioned, fyi.msg_id) = (true, Some("m2".into()));
    let mut owner = message("3", "@ag_me please review this");
    owner.msg_id = Some("m3".into());
    for m in [group("rm_g", "1", "please review"), fyi, owner] {
        h.handle(m);
    }
    idle(&h);
    assert_eq!(h.channel.statuses.len(), 0);
}

#[test]
fn s85_s86_blocks_and_markers() {
    use BlockKind::{AssistantText, Other, System, Thinking, ToolResult, ToolUse};
    for (feed, stopped, expected) in [
        (vec![AssistantText, System, Other], false, vec![AssistantText, System, Other]),
        (vec![AssistantText, ToolResult], false, vec![AssistantText, ToolResult]),
        (vec![ToolUse], true, vec![Thinking, ToolUse, Thinking]),
    ] {
        let h = Harness::script("s85", move |_, _, _, sink| {
            for (n, kind) in feed.iter().enumerate() {
                sink.block(block(*kind, n as u64 + 1));
            }
            if stopped {
                sink.status(Status::stopped());
            }
            Ok(answer("ok", "s"))
        });
        h.handle(streamable(message("m", "hello")));
        h.channel.ended.wait(1);
        let blocks = h.channel.blocks.all();
        assert_eq!(blocks.iter().map(|b| b.kind).collect::<Vec<_>>(), expected);
        if stopped {
            assert_eq!(blocks[2].raw["source"], "runtime");
        }
    }
}

#[test]
fn the_stream_of_every_message_of_a_batch_ends() {
    let h = Harness::script("ends", |n, _, cancel, _| if n == 0 { hang(cancel) } else { Ok(answer("ok", "s")) });
    h.accept(streamable(message("1", "one")));
    h.runtime.runs.wait(1);
    h.accept(streamable(message("2", "two")));
    h.channel.settled.wait(1);
    let ended = h.channel.ended.wait(3);
    assert_eq!(ended.iter().filter(|id| *id == "2").count(), 1);
    assert_eq!(ended.iter().filter(|id| *id == "1").count(), 2, "once for each turn it was in");
}

#[test]
fn s87_a_name_anywhere_in_a_batch_wakes_and_gets_the_reaction() {
    let channel =
        FakeChannel { display_name: Some("Name".into()), ..guarded(FakePolicies::always(policy(Mode::MentionOnly))) };
    let h = Harness::build("s87", Build { channel, ..Build::default() });
    let mut m = group("rm_g", "h2", "latest");
    m.entries = vec![entry("h1", "m1", "@Name please verify"), entry("h2", "m2", "latest")];
    h.handle(m);
    assert!(h.prompts.composed.all()[0].mentioned);
    assert_eq!(h.channel.statuses.wait(2)[0].message_id, "m1");
}

#[test]
fn s70_a_room_rule_is_a_system_rule_and_no_text() {
    let prompts = FakePrompts {
        rules: Box::new(|m| bellhop::prompt::room::rule(m).into_iter().collect()),
        ..FakePrompts::default()
    };
    let h = Harness::build("s70", Build { prompts, ..Build::default() });
    let mut m = group("rm_g", "m", "hello");
    m.room = Some(RoomFacts { rule: Some(" be brief ".into()), ..RoomFacts::default() });
    h.handle(m);
    let run = &h.runtime.runs.all()[0];
    assert_eq!(run.system_rules.len(), 1);
    assert_eq!(run.system_rules[0].text, "be brief");
    assert!(run.system_rules[0].version.starts_with("sha256:"));
    assert!(!run.text.contains("brief"));
}

#[test]
fn s81_the_limit_covers_the_preparation() {
    let prompts = FakePrompts {
        context: Box::new(|| {
            std::thread::sleep(Duration::from_millis(1_500));
            None
        }),
        ..FakePrompts::default()
    };
    let settings = Settings { turn_limit: Duration::from_millis(100), ..Settings::default() };
    let h = Harness::build("s81", Build { prompts, settings, ..Build::default() });
    assert_eq!(h.handle(message("m", "hello")).why, "timeout");
    assert_eq!(h.runtime.runs.len(), 0, "its time was over before it could begin");
    assert_eq!(h.hooks.done.len(), 0);
}

#[test]
fn s94_minutes_of_a_short_budget_are_rounded() {
    let h = Harness::script("s94", |_, _, cancel, _| hang(cancel));
    let mut m = message("m", "hello");
    let budget = Budget { max_wall_time_ms: Some(400), max_tool_calls: None };
    m.cloud_run = Some(CloudRun { run_id: Some("r".into()), budget, settle_usage: true });
    h.handle(m);
    assert!(h.channel.sent.all()[0].text.contains("0 minute(s)"));
}

#[test]
fn s98_a_reply_to_the_owner_carries_the_files_it_names() {
    let text = (0..11).map(|n| format!("out/{n}.png")).collect::<Vec<_>>().join(" ");
    let said = text.clone();
    let h = Harness::script("s98", move |_, _, _, _| Ok(answer(&said, "s")));
    std::fs::create_dir(h.dir.0.join("out")).unwrap();
    (0..11).for_each(|n| std::fs::write(h.dir.0.join(format!("out/{n}.png")), "x").unwrap());
    h.handle(message("m", "draw"));
    let sent = h.channel.sent.all().pop().unwrap();
    let names: Vec<_> = sent.attachments.iter().map(|a| a.filename.as_str()).collect();
    assert_eq!(names, (0..10).map(|n| format!("{n}.png")).collect::<Vec<_>>());

    let channel = FakeChannel::new("tg", "telegram", Capabilities::default());
    let run = script(move |_, _, _, _| Ok(answer(&text, "s")));
    let other = Harness::in_dir(Arc::clone(&h.dir), Build { channel, script: run, ..Build::default() });
    let mut m = group("telegram:group:1", "t", "draw");
    m.channel = "tg".into();
    other.handle(m);
    assert!(other.channel.sent.all()[0].attachments.is_empty());
}

#[test]
fn agents_that_answer_each_other_without_end_are_stopped_until_a_person_speaks() {
    let fuse = FuseLimits { max_bot_turns_in_a_row: 2, ..FuseLimits::default() };
    let settings = || Settings { fuse, ..Settings::default() };
    let h = Harness::build("fuse", Build { settings: settings(), ..Build::default() });
    for id in ["1", "2"] {
        assert_eq!(h.handle(group("rm_g", id, "your turn")).why, "gated");
    }
    assert_eq!(h.handle(group("rm_g", "3", "your turn")).why, "skipped:loop_paused");
    assert_eq!(h.kinds().pop().unwrap(), "loop_paused");
    assert_eq!(h.channel.sent.wait(1).len(), 1);
    // A restart does not reset it, and there is one notice.
    let again = Harness::in_dir(h.stop(), Build { settings: settings(), ..Build::default() });
    assert_eq!(again.handle(group("rm_g", "4", "your turn")).why, "skipped:loop_paused");
    assert_eq!(again.handle(group("rm_other", "5", "your turn")).why, "gated");
    assert_eq!(again.handle(human("rm_g", "6", "go on")).why, "gated");
    assert_eq!(again.handle(group("rm_g", "7", "your turn")).why, "gated");
    assert_eq!((again.runtime.runs.len(), again.channel.sent.len()), (3, 0));
}

#[test]
fn hooks_hear_of_every_run_once_and_of_every_settlement() {
    let channel = guarded(FakePolicies::new(|room| Ok((room == "rm_mute").then(|| policy(Mode::Muted)))));
    let run = script(|n, _, cancel, _| match n {
        0 => hang(cancel),
        1 => Ok(answer("ok", "s")),
        _ => Err(Thrown::new("boom")),
    });
    let h = Harness::build("hook", Build { channel, script: run, ..Build::default() });
    let cloud = |mut m: Inbound| {
        let run_id = Some(format!("run/{}", m.id));
        m.cloud_run = Some(CloudRun { run_id, budget: Budget::default(), settle_usage: true });
        m
    };
    h.accept(cloud(message("1", "one")));
    h.runtime.runs.wait(1);
    h.accept(cloud(message("2", "two")));
    h.channel.settled.wait(1);
    h.handle(message("3", "three"));
    h.handle(cloud(group("rm_mute", "4", "four")));
    let done = h.hooks.done.all();
    let heard: Vec<_> = done.iter().map(|d| (d.message.as_str(), d.text.as_deref(), d.thrown.as_deref())).collect();
    assert_eq!(heard, [("1", None, Some("aborted")), ("2", Some("ok"), None), ("3", None, Some("boom"))]);
    let mut settled: Vec<_> = h.hooks.settlements.all().into_iter().map(|s| s.path).collect();
    settled.sort();
    let path = |id: &str| format!("/internal/cloud-agents/runs/run%2F{id}/settle");
    assert_eq!(settled, [path("1"), path("2"), path("4")]);
}

#[test]
fn s80_a_nameless_message_is_dropped() {
    let h = Harness::new("s80");
    assert_eq!(h.accept(message("", "hello")), Acceptance::Skipped("nameless"));
    assert_eq!((h.runtime.runs.len(), h.transcript().len()), (0, 0));
}

#[test]
fn a_message_on_its_way_or_set_aside_can_be_cancelled() {
    let h = Harness::new("cancel-aside");
    h.accept(media("rm_g", "1"));
    assert_eq!(h.engine.cancel_message("botcord", "1"), 1);
    assert_eq!(h.channel.settled.wait(1)[0].why, "cancelled");
    let h = parking("cancel-park", |_, request| {
        wish(request, 30_000);
        Ok(answer("later", "s"))
    });
    h.accept(group("rm_g", "1", "one"));
    h.reports.reports.wait(1);
    idle(&h);
    assert_eq!(h.engine.cancel_conversation("botcord", "ag_me", "rm_g"), 1);
    assert_eq!(h.channel.settled.wait(1)[0].why, "cancelled");
}

/// Sends `first`, then the others while its turn runs; returns the second composed message.
fn composed_of(name: &str, others: Vec<Inbound>) -> (Harness, Inbound) {
    let (gate, run) = held();
    let h = Harness::build(name, Build { script: run, ..Build::default() });
    h.accept(group("rm_g", "first", "first"));
    h.runtime.runs.wait(1);
    for other in others {
        assert!(matches!(h.accept(other), Acceptance::Accepted { .. }));
    }
    gate.open();
    h.channel.settled.wait(2);
    idle(&h);
    assert_eq!(h.runtime.runs.len(), 2);
    let composed = h.prompts.composed.all().pop().unwrap();
    (h, composed)
}

#[test]
fn s19_one_mention_makes_the_merged_message_mentioned() {
    let mut m2 = group("rm_g", "m2", "two");
    m2.mentioned = true;
    let (_, composed) = composed_of("s19", vec![m2, group("rm_g", "m3", "three")]);
    assert_eq!((composed.id.as_str(), composed.mentioned), ("m3", true));
}

/// What was settled without having been shown to the agent; everything else ended with its turn.
fn skipped(h: &Harness) -> Vec<String> {
    let settled = h.channel.settled.wait(3);
    let (skipped, answered): (Vec<_>, Vec<_>) = settled.into_iter().partition(|s| s.why == "skipped:overflow");
    assert_eq!(answered.iter().map(|s| s.why.as_str()).collect::<Vec<_>>(), ["gated"; 2]);
    skipped.into_iter().flat_map(|s| s.ids).collect()
}

#[test]
fn s20_s21_what_is_too_much_is_left_out_oldest_first() {
    let many = (0..50).map(|n| group("rm_g", &format!("m_{n}"), "x")).collect();
    let (h, composed) = composed_of("s20", many);
    let ids: Vec<String> = composed.ids();
    assert_eq!(ids, (10..50).map(|n| format!("m_{n}")).collect::<Vec<_>>());
    assert_eq!(h.transcript().iter().filter(|r| r["reason"] == "queue_overflow").count(), 10);
    assert_eq!(composed.omitted, 10, "the agent is told");
    assert_eq!(skipped(&h), (0..10).map(|n| format!("m_{n}")).collect::<Vec<_>>());

    let long = (0..20).map(|n| group("rm_g", &format!("m_{n}"), &"x".repeat(2_000))).collect();
    let (h, composed) = composed_of("s21", long);
    assert_eq!(composed.ids(), (12..20).map(|n| format!("m_{n}")).collect::<Vec<_>>());
    assert_eq!(skipped(&h), (0..12).map(|n| format!("m_{n}")).collect::<Vec<_>>());
}

#[test]
fn s22_batches_inside_waiting_messages_become_one_flat_batch() {
    let mut batch = group("rm_g", "b", "b2");
    batch.entries = vec![entry("b1", "m1", "one"), entry("b2", "m2", "two")];
    let (_, composed) = composed_of("s22", vec![group("rm_g", "a", "zero"), batch, group("rm_g", "c", "three")]);
    assert_eq!(composed.ids(), ["a", "b1", "b2", "c"]);
}

#[test]
fn s88_s89_a_session_file_that_cannot_be_written_hurts_no_reply() {
    let settings = Settings {
        rotation: bellhop::engine::Rotation { turns: 1, tokens: 0 },
        outbox_delays: vec![Duration::from_millis(5)],
        ..Settings::default()
    };
    let h = Harness::build("s88", Build { settings, ..Build::default() });
    // A directory cannot be replaced by a file, not even by root.
    let file = h.dir.0.join("sessions.json");
    std::fs::create_dir(&file).unwrap();
    h.handle(message("1", "one"));
    h.handle(message("2", "two"));
    let runs = h.runtime.runs.all();
    assert!(runs[1].session.is_none() && runs[1].text.starts_with("[recovery]"), "{}", runs[1].text);
    assert_eq!((h.channel.sent.len(), h.channel.settled.len()), (2, 2));
    let dir = h.stop();
    std::fs::remove_dir(&file).unwrap();
    let again = Harness::in_dir(dir, Build::default());
    assert_eq!(again.sessions().len(), 1, "the journal has it");
}
