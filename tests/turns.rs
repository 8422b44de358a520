//! The turn engine, scenario by scenario: what a channel sees, what a runtime is given, what is written down.
//!
//! Test names carry the numbers of the scenario list in the turn engine document.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bellhop::engine::cancel::CancelToken;
use bellhop::engine::ports::{Capabilities, Delivery, ErrorClass, RunError, RunResult, Thrown, TurnStatus, Usage};
use bellhop::engine::route::{Match, QueueMode, Route};
use bellhop::engine::{Acceptance, Recovery, Rotation, Settings};
use bellhop::message::{BlockKind, ConversationKind, OutboundKind, Overrides, SenderKind, Status, Trace, TrustLevel};
use support::engine::{
    Build, FakeChannel, FakePrompts, Gate, Harness, PATIENCE, TempDir, answer, block, failure, group, hang, message,
    script,
};

fn serial() -> Vec<Route> {
    vec![Route { queue_mode: Some(QueueMode::Serial), runtime: "claude-code".into(), ..Route::default() }]
}

#[test]
fn s01_a_blank_message_is_skipped() {
    let h = Harness::new("s01");
    assert_eq!(h.accept(message("m", "   ")), Acceptance::Skipped("empty"));
    assert_eq!((h.runtime.runs.len(), h.channel.sent.len(), h.transcript().len()), (0, 0, 0));
}

#[test]
fn s02_the_agents_own_echo_is_skipped() {
    let h = Harness::new("s02");
    let mut echo = message("m", "hello");
    echo.sender.id = "ag_me".into();
    assert_eq!(h.accept(echo), Acceptance::Skipped("own_echo"));
    assert_eq!((h.runtime.runs.len(), h.transcript().len()), (0, 0));
}

#[test]
fn s03_an_owner_may_carry_the_agents_id() {
    let h = Harness::new("s03");
    let mut own = message("m", "hello");
    own.sender.id = "ag_me".into();
    own.sender.kind = SenderKind::User;
    h.handle(own);
    assert_eq!(h.channel.sent.all()[0].text, "ok");
}

#[test]
fn s04_an_unknown_channel_is_skipped() {
    let h = Harness::new("s04");
    let mut lost = message("m", "hello");
    lost.channel = "nowhere".into();
    assert_eq!(h.accept(lost), Acceptance::Skipped("unknown_channel"));
    assert_eq!((h.runtime.runs.len(), h.channel.sent.len()), (0, 0));
}

#[test]
fn s05_a_reply_carries_thread_target_and_trace() {
    let h = Harness::new("s05");
    let mut m = message("msg_1", "hello");
    m.conversation.thread_id = Some("t_1".into());
    m.trace = Some(Trace { id: "trace_1".into(), streamable: false });
    h.handle(m);
    let run = &h.runtime.runs.all()[0];
    assert_eq!((run.trust, &run.cwd), (TrustLevel::Trusted, &h.dir.0));
    let sent = h.channel.sent.all();
    assert_eq!(sent.len(), 1);
    assert_eq!(
        (sent[0].thread_id.as_deref(), sent[0].reply_to.as_deref(), sent[0].trace_id.as_deref(), sent[0].text.as_str()),
        (Some("t_1"), Some("msg_1"), Some("trace_1"), "ok")
    );
    let sessions = h.sessions();
    let entry = &sessions["claude-code:botcord:ag_me:direct:rm_oc_1:t_1"];
    assert_eq!((entry.thread_id.as_deref(), entry.runtime_session_id.as_str()), (Some("t_1"), "sid-1"));
}

#[test]
fn s06_observer_then_run_then_acknowledgement() {
    let h = Harness::new("s06");
    h.handle(message("m", "hello"));
    assert_eq!(h.order.all(), ["queued", "run hello", "run end", "send ok", "ack m"]);
}

#[test]
fn s07_nothing_is_acknowledged_while_the_run_blocks() {
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let h = Harness::script("s07", move |_, _, cancel, _| {
        pass.pass(cancel);
        Ok(answer("ok", "s"))
    });
    h.accept(message("m", "hello"));
    h.runtime.runs.wait(1);
    assert_eq!(h.channel.settled.len(), 0);
    gate.open();
    h.channel.settled.wait(1);
    assert_eq!(h.order.all(), ["queued", "run hello", "run end", "send ok", "ack m"]);
}

#[test]
fn s08_s51_failing_observers_hurt_nobody() {
    struct Bad;
    impl bellhop::engine::ports::TurnObserver for Bad {
        fn event(&self, _: &bellhop::engine::ports::TurnEvent<'_>) {
            panic!("observer");
        }
    }
    let h = Harness::build("s08", Build { extra_observers: vec![Arc::new(Bad)], ..Build::default() });
    h.handle(message("m", "hello"));
    assert_eq!(h.order.all(), ["queued", "run hello", "run end", "send ok", "ack m"]);
    assert_eq!(h.kinds(), ["inbound", "dispatched", "outbound"]);
    assert_eq!(h.sessions().len(), 1);
}

#[test]
fn s11_the_runtime_gets_the_composed_text() {
    let prompts = FakePrompts { compose: Box::new(|m| Ok(format!("W:{}", m.text))), ..FakePrompts::default() };
    let h = Harness::build("s11", Build { prompts, ..Build::default() });
    h.handle(message("m", "hello"));
    assert_eq!(h.runtime.runs.all()[0].text, "W:hello");
}

#[test]
fn s12_a_failed_composition_falls_back_to_the_raw_text() {
    let prompts = FakePrompts { compose: Box::new(|_| Err("broken".into())), ..FakePrompts::default() };
    let h = Harness::build("s12", Build { prompts, ..Build::default() });
    h.handle(message("m", " hello "));
    assert_eq!(h.runtime.runs.all()[0].text, "hello");
    assert_eq!(h.kinds(), ["inbound", "compose_failed", "dispatched", "outbound"]);
}

#[test]
fn s13_a_route_chooses_runtime_arguments_directory_and_trust() {
    let dir = TempDir::new("s13-cwd");
    let route = Route {
        matches: Match { conversation_prefix: Some("rm_oc_".into()), ..Match::default() },
        runtime: "claude-code".into(),
        cwd: dir.0.clone(),
        extra_args: vec!["--flag".into(), "value".into()],
        trust_level: Some(TrustLevel::Owner),
        ..Route::default()
    };
    let h = Harness::build("s13", Build { routes: vec![route], default_runtime: "codex".into(), ..Build::default() });
    let mut m = message("m", "hello");
    m.conversation.id = "rm_oc_z".into();
    h.handle(m);
    let run = &h.runtime.runs.all()[0];
    assert_eq!(
        (&run.cwd, run.extra_args.as_slice(), run.trust),
        (&dir.0, &["--flag".to_owned(), "value".into()][..], TrustLevel::Owner)
    );
    assert!(h.sessions().contains_key("claude-code:botcord:ag_me:direct:rm_oc_z"));
}

#[test]
fn s14_the_channels_reply_target_wins() {
    let channel = FakeChannel::new("fs", "feishu", Capabilities { coalesce: true, ..Capabilities::default() });
    let h = Harness::build("s14", Build { channel, ..Build::default() });
    let mut m = group("feishu:chat:1", "m", "hello");
    m.channel = "fs".into();
    m.reply_to = Some("om_raw".into());
    h.handle(m);
    assert_eq!(h.channel.sent.all()[0].reply_to.as_deref(), Some("om_raw"));
}

#[test]
fn s15_serial_turns_of_one_room_follow_each_other() {
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let h = Harness::build(
        "s15",
        Build {
            routes: serial(),
            script: Box::new(move |n, _, cancel, _| {
                pass.pass(cancel);
                Ok(answer(&format!("r{n}"), "s"))
            }),
            ..Build::default()
        },
    );
    h.accept(message("1", "one"));
    h.runtime.runs.wait(1);
    h.accept(message("2", "two"));
    gate.open();
    h.channel.settled.wait(2);
    // A message is acknowledged behind the next turn's back.
    let (acks, order): (Vec<_>, Vec<_>) = h.order.all().into_iter().partition(|w| w.starts_with("ack"));
    let order: Vec<_> = order.into_iter().filter(|w| !w.starts_with("queued")).collect();
    assert_eq!(order, ["run one", "run end", "send r0", "run two", "run end", "send r1"]);
    assert_eq!(acks, ["ack 1", "ack 2"]);
}

#[test]
fn s16_two_rooms_run_at_the_same_time() {
    let h = Harness::script("s16", |_, _, cancel, _| {
        assert!(cancel.sleep(support::engine::PATIENCE), "the other room never ran");
        Err(Thrown::new("cancelled"))
    });
    h.accept(group("rm_a", "1", "one"));
    h.accept(group("rm_b", "2", "two"));
    h.runtime.runs.wait(2);
    assert_eq!(h.runtime.ended.len(), 0);
    assert_eq!(h.engine.cancel_message("botcord", "1") + h.engine.cancel_message("botcord", "2"), 2);
    h.channel.settled.wait(2);
}

#[test]
fn s17_a_newer_direct_message_cancels_and_carries_the_older_one() {
    let h = Harness::script("s17", |n, _, cancel, _| if n == 0 { hang(cancel) } else { Ok(answer("second", "sid-2")) });
    h.accept(message("1", "first"));
    h.runtime.runs.wait(1);
    h.accept(message("2", "newer"));
    let settled = h.channel.settled.wait(1);
    let sent = h.channel.sent.all();
    assert_eq!(sent.iter().map(|o| o.text.as_str()).collect::<Vec<_>>(), ["second"]);
    assert_eq!(h.runtime.runs.all()[1].text, "first\nnewer", "the unanswered text goes along");
    assert_eq!(settled[0].ids, ["1", "2"], "both are acknowledged, together");
    let sessions = h.sessions();
    assert_eq!(sessions.values().map(|e| e.runtime_session_id.as_str()).collect::<Vec<_>>(), ["sid-2"]);
    let dropped: Vec<_> = h.transcript().into_iter().filter(|r| r["kind"] == "dropped").collect();
    assert_eq!(dropped.len(), 1, "one last record for each turn id");
    assert_eq!(dropped[0]["reason"], "queue_cancel_previous");
}

#[test]
fn s17_without_carrying_the_older_text_is_gone() {
    let settings = Settings { carry_superseded: false, ..Settings::default() };
    let script = script(|n, _, cancel, _| if n == 0 { hang(cancel) } else { Ok(answer("x", "s")) });
    let h = Harness::build("s17b", Build { script, settings, ..Build::default() });
    h.accept(message("1", "first"));
    h.runtime.runs.wait(1);
    h.accept(message("2", "newer"));
    let settled = h.channel.settled.wait(2);
    assert_eq!(h.runtime.runs.all()[1].text, "newer");
    assert_eq!(settled.iter().map(|s| s.why.as_str()).collect::<Vec<_>>(), ["superseded", "delivered"]);
}

#[test]
fn s18_room_messages_that_wait_become_one_turn() {
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let h = Harness::script("s18", move |_, _, cancel, _| {
        pass.pass(cancel);
        Ok(answer("ok", "s"))
    });
    h.accept(group("rm_g", "m1", "one"));
    h.runtime.runs.wait(1);
    h.accept(group("rm_g", "m2", "two"));
    h.accept(group("rm_g", "m3", "three"));
    assert_eq!(h.channel.settled.len(), 0);
    gate.open();
    let settled = h.channel.settled.wait(2);
    assert_eq!(h.runtime.runs.len(), 2);
    let composed = h.prompts.composed.all();
    assert_eq!(composed.len(), 2);
    assert_eq!((composed[1].id.as_str(), composed[1].entries.len()), ("m3", 2));
    assert_eq!(composed[1].entries.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["m2", "m3"]);
    assert_eq!(settled.iter().map(|s| s.ids.join(",")).collect::<Vec<_>>(), ["m1", "m2,m3"]);
    assert_eq!(h.channel.sent.len(), 0, "a group room gets no text");
}

#[test]
fn s23_never_two_runs_of_one_room_and_only_the_last_is_answered() {
    let h = Harness::script("s23", |_, request, cancel, _| {
        if request.text.contains("three") { Ok(answer("reply", "sid-3")) } else { hang(cancel) }
    });
    h.accept(message("1", "one"));
    h.runtime.runs.wait(1);
    h.engine.accept(vec![message("2", "two"), message("3", "three")]);
    h.reports.reports.wait_for("message 3 to be answered", |r| r.iter().any(|r| r.message_ids.contains(&"3".into())));
    let order: Vec<_> = h.order.all().into_iter().filter(|w| w.starts_with("run")).collect();
    assert!(order.chunks(2).all(|pair| pair.len() == 2 && pair[1] == "run end"), "{order:?}");
    assert_eq!(h.channel.sent.all().iter().map(|o| o.text.as_str()).collect::<Vec<_>>(), ["reply"]);
    let sessions = h.sessions();
    assert_eq!(sessions.values().map(|e| e.runtime_session_id.as_str()).collect::<Vec<_>>(), ["sid-3"]);
}

#[test]
fn s26_s27_usage_and_turns_are_counted() {
    let h = Harness::script("s26", |_, _, _, _| {
        Ok(RunResult { usage: Some(Usage { hit: 9_000, miss: 1_000, output: 5 }), ..answer("ok", "sid-1") })
    });
    h.handle(message("1", "one"));
    let entry = h.sessions().into_values().next().unwrap();
    assert_eq!((entry.turn_count, entry.last_input_tokens), (Some(1), Some(10_000)));
    h.handle(message("2", "two"));
    assert_eq!(h.runtime.runs.all()[1].session.as_ref().unwrap().id, "sid-1");
    assert_eq!(h.sessions().into_values().next().unwrap().turn_count, Some(2));
}

#[test]
fn s28_s29_s30_sessions_rotate_by_turns_and_by_tokens() {
    for (rotation, tokens, rotates) in [
        (Rotation { turns: 2, tokens: 0 }, 5, true),
        (Rotation { turns: 0, tokens: 1_000 }, 2_000, true),
        (Rotation { turns: 0, tokens: 0 }, 999_999, false),
    ] {
        let settings = Settings { rotation, ..Settings::default() };
        let script = script(move |n, _, _, _| {
            Ok(RunResult { context_tokens: Some(tokens), ..answer("ok", &format!("sid-{n}")) })
        });
        let h = Harness::build("s28", Build { script, settings, ..Build::default() });
        for n in 0..3 {
            h.handle(message(&format!("m{n}"), "hello"));
        }
        let last = &h.runtime.runs.all()[2];
        assert_eq!(last.session.is_none(), rotates, "{rotation:?}");
        assert_eq!(last.text.starts_with("[recovery]"), rotates);
        if rotates && rotation.turns > 0 {
            assert!(last.text.contains("0 recent"), "{}", last.text);
            assert_eq!(h.sessions().into_values().next().unwrap().turn_count, Some(1));
        }
    }
}

#[test]
fn a_fresh_session_is_told_what_this_machine_has_heard_where_nobody_else_can_tell() {
    let channel = FakeChannel::new("tg", "telegram", Capabilities { coalesce: true, ..Capabilities::default() });
    *channel.recent.lock().unwrap() = None;
    let settings = Settings { rotation: Rotation { turns: 2, tokens: 0 }, ..Settings::default() };
    let h = Harness::build("heard", Build { channel, settings, ..Build::default() });
    for n in 0..3 {
        let mut m = message(&format!("m{n}"), &format!("say {n}"));
        (m.channel, m.conversation.id) = ("tg".into(), "telegram:user:1".into());
        h.handle(m);
    }
    let last = h.runtime.runs.all().pop().unwrap().text;
    assert!(last.starts_with("[recovery] TooOld { turns: 2 } | 4 recent"), "two questions, two answers: {last}");
    let heard = h.prompts.heard.all().pop().unwrap();
    let heard: Vec<_> = heard.iter().map(|m| (m.from.as_deref().unwrap_or_default(), m.text.as_str())).collect();
    assert_eq!(heard, [("ag_peer", "say 0"), ("ag_me", "ok"), ("ag_peer", "say 1"), ("ag_me", "ok")]);
}

#[test]
fn a_session_stays_in_the_directory_it_was_made_in() {
    for (runtime, moves) in [("claude-code", false), ("gemini", false), ("kimi-cli", false), ("codex", true)] {
        let h = Harness::build("moved", Build { default_runtime: runtime.into(), ..Build::default() });
        let elsewhere = TempDir::new("elsewhere");
        h.handle(message("1", "one"));
        let mut there = message("2", "two");
        there.overrides = Some(Overrides { cwd: Some(elsewhere.0.clone()), ..Overrides::default() });
        h.handle(there);
        let run = h.runtime.runs.all().pop().unwrap();
        assert_eq!((run.session.is_some(), run.text.starts_with("[recovery] Moved")), (moves, !moves), "{runtime}");
    }
}

#[test]
fn a_session_that_its_adapter_gives_up_is_not_resumed() {
    let script = script(|n, _, _, _| {
        let note = (n == 1).then(|| "leave it".to_owned());
        Ok(RunResult { note, ..answer("ok", &format!("sid-{n}")) })
    });
    let h = Harness::build("wants-fresh", Build { script, ..Build::default() });
    for n in 0..3 {
        h.handle(message(&format!("m{n}"), "hello"));
    }
    let runs = h.runtime.runs.all();
    assert_eq!(runs[1].session.as_ref().map(|s| s.id.as_str()), Some("sid-0"));
    assert!(runs[2].session.is_none() && runs[2].text.starts_with("[recovery]"), "{}", runs[2].text);
}

#[test]
fn s31_s32_an_unclear_failure_of_a_resumed_session_forgets_it() {
    for returned in ["", "sid-1"] {
        let h = Harness::script("s31", move |n, _, _, _| {
            Ok(if n == 0 { answer("ok", "sid-1") } else { failure("strange", returned) })
        });
        h.handle(message("1", "one"));
        h.handle(message("2", "two"));
        assert!(h.sessions().is_empty(), "returned {returned:?}");
        assert_eq!(h.channel.sent.all()[1].kind, OutboundKind::Error);
    }
}

#[test]
fn s33_s34_a_lost_session_is_replaced_by_a_fresh_one_with_a_recovery_prompt() {
    for (runtime, error) in
        [("hermes-agent", "acp error: Session not found: x"), ("codex", "maximum context length exceeded")]
    {
        let script = script(move |n, _, _, _| {
            Ok(match n {
                0 => answer("ok", "sid-stale"),
                1 => failure(error, ""),
                _ => answer("recovered", "sid-new"),
            })
        });
        let build = Build { script, default_runtime: runtime.into(), ..Build::default() };
        let h = Harness::build("s33", build);
        h.handle(message("1", "one"));
        h.handle(message("2", "two"));
        let runs = h.runtime.runs.all();
        assert_eq!(runs.len(), 3);
        assert_eq!((runs[1].session.as_ref().unwrap().id.as_str(), runs[2].session.is_none()), ("sid-stale", true));
        assert!(runs[2].text.starts_with(&format!("[recovery] failed: {error} | 0 recent")), "{}", runs[2].text);
        assert!(runs[2].text.ends_with("[turn]\ntwo"));
        assert_eq!(h.channel.sent.all()[1].text, "recovered");
        assert_eq!(h.sessions().into_values().next().unwrap().runtime_session_id, "sid-new");
    }
}

#[test]
fn a_class_of_the_adapter_makes_any_runtime_recover() {
    let h = Harness::script("class", |n, _, _, _| {
        Ok(match n {
            0 => answer("ok", "s0"),
            1 => RunResult {
                error: Some(RunError { message: "gone".into(), class: Some(ErrorClass::StaleSession) }),
                session_lost: true,
                ..RunResult::default()
            },
            _ => answer("fresh", "s1"),
        })
    });
    h.handle(message("1", "one"));
    h.handle(message("2", "two"));
    assert_eq!(h.runtime.runs.len(), 3);
    assert_eq!(h.channel.sent.all()[1].text, "fresh");
}

#[test]
fn s35_s36_a_changed_memory_is_announced_once() {
    let h = Harness::new("s35");
    for (version, notice) in [("v1", None), ("v2", Some("previous: v1, current: v2")), ("v2", None)] {
        *h.prompts.memory.lock().unwrap() = Some(version.into());
        h.handle(message(&format!("m{}", h.runtime.runs.len()), "hello"));
        let text = h.runtime.runs.all().pop().unwrap().text;
        match notice {
            Some(notice) => assert!(text.starts_with("[memory]") && text.contains(notice) && text.ends_with("hello")),
            None => assert_eq!(text, "hello"),
        }
    }
    assert_eq!(h.sessions().into_values().next().unwrap().memory_version.as_deref(), Some("v2"));
}

#[test]
fn s37_a_gated_turn_keeps_its_session() {
    let h = Harness::new("s37");
    h.handle(group("rm_g", "m", "hello"));
    assert_eq!(h.sessions().len(), 1);
    assert_eq!(h.channel.sent.len(), 0);
}

#[test]
fn s38_a_fresh_turn_that_fails_stores_nothing() {
    let h = Harness::script("s38", |_, _, _, _| Ok(failure("strange", "")));
    h.handle(message("m", "hello"));
    assert!(h.sessions().is_empty());
}

#[test]
fn s39_to_s42_transient_failures_are_retried_until_something_happened() {
    for (first_block, runs) in
        [(None, 2), (Some(BlockKind::System), 2), (Some(BlockKind::Other), 1), (Some(BlockKind::ToolUse), 1)]
    {
        let h = Harness::script("s39", move |n, _, _, sink| {
            if n > 0 {
                return Ok(answer("at last", "s"));
            }
            if let Some(kind) = first_block {
                sink.block(block(kind, 1));
            }
            Ok(failure("acp error -32603: Internal error", ""))
        });
        h.handle(message("m", "hello"));
        assert_eq!(h.runtime.runs.len(), runs, "{first_block:?}");
        let sent = h.channel.sent.all();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].kind == OutboundKind::Message, runs == 2);
    }
}

#[test]
fn s43_an_authentication_text_is_an_error_and_forgets_the_session() {
    let text = "Failed to authenticate. API Error: 403 Request not allowed";
    let h = Harness::script("s43", move |n, _, _, _| Ok(answer(if n == 0 { "ok" } else { text }, "s0")));
    h.handle(message("1", "one"));
    h.handle(message("2", "two"));
    assert!(h.sessions().is_empty());
    let last = h.channel.sent.all().pop().unwrap();
    assert_eq!(last.kind, OutboundKind::Error);
    assert!(last.text.contains(text));
}

#[test]
fn s45_s46_failures_are_redacted_everywhere_and_have_one_reference() {
    for throws in [true, false] {
        let error = "boom Authorization: Bearer s3cr3t token=abcdef drt_live1";
        let h = Harness::script(
            "s45",
            move |_, _, _, _| {
                if throws { Err(Thrown::new(error)) } else { Ok(failure(error, "")) }
            },
        );
        h.handle(message("m", "hello"));
        let sent = h.channel.sent.all();
        assert_eq!(sent.len(), 1);
        let reference = sent[0].error_ref.clone().unwrap();
        assert!(reference.len() == 16 && reference.starts_with("err_"), "{reference}");
        assert!(sent[0].text.contains("boom") && sent[0].text.contains(&reference), "{}", sent[0].text);
        let transcript = h.transcript();
        let errors: Vec<_> = transcript.iter().filter(|r| r["kind"] == "turn_error").collect();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0]["errorRef"], reference.as_str());
        let all = format!("{transcript:?} {sent:?}");
        for secret in ["s3cr3t", "abcdef", "live1"] {
            assert!(!all.contains(secret), "{secret} leaks");
        }
        assert!(h.sessions().is_empty());
        assert_eq!(h.kinds().last().unwrap() == "turn_error", throws, "an outbound record follows a result only");
    }
}

#[test]
fn s47_s48_a_turn_that_takes_too_long_is_cancelled_and_said_so() {
    for room in ["rm_oc_1", "rm_g"] {
        let settings = Settings { turn_limit: Duration::from_millis(100), ..Settings::default() };
        let script = script(|_, _, cancel, _| hang(cancel));
        let h = Harness::build("s47", Build { script, settings, ..Build::default() });
        let mut m = message("m", "hello");
        m.conversation.id = room.into();
        if room == "rm_g" {
            m.conversation.kind = ConversationKind::Group;
        }
        let settled = h.handle(m);
        assert_eq!(settled.why, "timeout");
        let sent = h.channel.sent.all();
        assert_eq!((sent.len(), sent[0].kind, sent[0].reply_to.as_deref()), (1, OutboundKind::Error, Some("m")));
        assert_eq!(sent[0].text, "Runtime timeout after 1 second(s); aborted");
        assert!(sent[0].error_ref.is_none() && h.sessions().is_empty());
    }
}

#[test]
fn s49_a_throw_in_a_group_room_is_told_there() {
    let h = Harness::script("s49", |_, _, _, _| Err(Thrown::new("kaput")));
    let mut m = group("rm_g", "m", "hello");
    m.reply_to = Some("om_x".into());
    h.handle(m);
    let sent = h.channel.sent.all();
    assert_eq!((sent[0].conversation_id.as_str(), sent[0].reply_to.as_deref()), ("rm_g", Some("om_x")));
}

#[test]
fn s50_a_reply_that_cannot_be_sent_is_recorded_and_the_message_acknowledged() {
    let h = Harness::new("s50");
    h.channel.deliveries.lock().unwrap().push(Delivery::Permanent { why: "room is gone".into() });
    let settled = h.handle(message("m", "hello"));
    assert_eq!(settled.why, "send_failed");
    let record = h.transcript().pop().unwrap();
    assert_eq!(
        (record["deliveryStatus"].as_str(), record["deliveryReason"].as_str()),
        (Some("send_failed"), Some("room is gone"))
    );
}

#[test]
fn a_send_that_fails_for_a_while_is_repeated_with_the_same_id_and_keeps_its_place() {
    let h = Harness::new("outbox");
    let down = || Delivery::Transient { after: None, why: "503".into() };
    *h.channel.deliveries.lock().unwrap() = vec![down(), down()];
    h.accept(message("1", "one"));
    h.channel.sent.wait(1);
    let mut other = message("2", "two");
    other.conversation.kind = ConversationKind::Direct;
    h.reports.reports.wait(1);
    h.accept(other);
    let settled = h.channel.settled.wait(2);
    assert_eq!(settled.iter().map(|s| s.ids.join(",")).collect::<Vec<_>>(), ["1", "2"]);
    let sent = h.channel.sent.all();
    assert_eq!(sent.len(), 4);
    assert!(sent[0].id == sent[1].id && sent[1].id == sent[2].id && sent[2].id != sent[3].id);
}

#[test]
fn an_uncertain_send_is_asked_about_before_it_is_repeated() {
    let h = Harness::new("uncertain");
    *h.channel.deliveries.lock().unwrap() =
        vec![Delivery::Uncertain { why: "cut off".into() }, Delivery::Delivered { id: Some("p".into()) }];
    let settled = h.handle(message("m", "hello"));
    assert_eq!(settled.why, "delivered");
    assert_eq!(h.channel.sent.len(), 1, "not sent again: the far side had it");
    assert!(h.order.all().contains(&"resolve".to_owned()));
}

#[test]
fn s52_to_s56_what_reaches_which_room() {
    let dashboard = {
        let mut m = message("m", "hello");
        m.conversation.id = "rm_dash".into();
        m.origin = bellhop::message::Origin::OwnerChat;
        m
    };
    for (m, text, sent, status) in [
        (group("rm_g", "m", "hello"), "x", 0, "gated_non_owner_chat"),
        (dashboard, "x", 1, "delivered"),
        (message("m", "hello"), "  ", 0, "empty_text"),
        (message("m", "hello"), "`NO_REPLY`", 0, "no_reply"),
    ] {
        let h = Harness::script("s52", move |_, _, _, _| Ok(answer(text, "s")));
        h.handle(m);
        assert_eq!(h.channel.sent.len(), sent, "{text}");
        assert_eq!(h.transcript().pop().unwrap()["deliveryStatus"], status);
    }
    let channel = FakeChannel::new("tg", "telegram", Capabilities { coalesce: true, ..Capabilities::default() });
    let h = Harness::build("s54", Build { channel, ..Build::default() });
    let mut m = message("m", "hello");
    m.channel = "tg".into();
    m.conversation.id = "telegram:user:1".into();
    h.handle(m);
    assert_eq!(h.channel.sent.len(), 1);
}

fn streamable(id: &str) -> bellhop::message::Inbound {
    let mut m = message(id, "hello");
    m.trace = Some(Trace { id: "trace_1".into(), streamable: true });
    m
}

#[test]
fn s57_s63_to_s66_blocks_are_forwarded_in_order_with_the_thinking_marker() {
    use BlockKind::{AssistantText, System, Thinking, ToolUse};
    for (feed, expected) in [
        (vec![AssistantText, AssistantText], vec![AssistantText, AssistantText]),
        (vec![System, AssistantText], vec![Thinking, System, AssistantText]),
        (vec![AssistantText, ToolUse], vec![AssistantText, Thinking, ToolUse, Thinking]),
    ] {
        let h = Harness::script("s57", move |_, _, _, sink| {
            for (n, kind) in feed.iter().enumerate() {
                sink.block(block(*kind, n as u64 + 1));
            }
            Ok(answer("ok", "s"))
        });
        h.handle(streamable("m"));
        h.channel.ended.wait(1);
        let blocks = h.channel.blocks.all();
        assert_eq!(blocks.iter().map(|b| b.kind).collect::<Vec<_>>(), expected);
        assert_eq!(blocks.iter().map(|b| b.seq).collect::<Vec<_>>(), (1..=expected.len() as u64).collect::<Vec<_>>());
        assert!(blocks.iter().all(|b| b.trace_id == "trace_1"));
    }
    let h = Harness::script("s66", |_, _, _, sink| {
        sink.status(Status::thinking(bellhop::message::Phase::Started, "Searching"));
        sink.block(block(ToolUse, 1));
        Ok(answer("ok", "s"))
    });
    h.handle(streamable("m"));
    h.channel.ended.wait(1);
    let blocks = h.channel.blocks.all();
    assert_eq!(blocks.iter().map(|b| b.kind).collect::<Vec<_>>(), [Thinking, ToolUse, Thinking]);
    assert_eq!((&blocks[0].raw["label"], &blocks[0].raw["source"]), (&"Searching".into(), &"runtime".into()));
    assert_eq!(blocks[2].raw["phase"], "stopped");
}

#[test]
fn s58_without_a_streamable_trace_there_are_no_blocks() {
    let h = Harness::script("s58", |_, _, _, sink| {
        sink.block(block(BlockKind::AssistantText, 1));
        Ok(answer("ok", "s"))
    });
    let mut m = streamable("m");
    m.trace.as_mut().unwrap().streamable = false;
    h.handle(m);
    assert_eq!((h.channel.blocks.len(), h.channel.sent.len()), (0, 1));
}

#[test]
fn s69_the_system_context_reaches_the_runtime_when_there_is_one() {
    for (context, expected) in [(Some("ctx"), Some("ctx")), (None, None), (Some(""), None)] {
        let prompts = FakePrompts { context: Box::new(move || context.map(String::from)), ..FakePrompts::default() };
        let h = Harness::build("s69", Build { prompts, ..Build::default() });
        h.handle(message("m", "hello"));
        assert_eq!(h.runtime.runs.all()[0].context(), expected);
    }
}

#[test]
fn s71_a_tool_budget_ends_the_turn() {
    let h = Harness::script("s71", |_, request, cancel, sink| {
        assert_eq!((request.budget.max_tool_calls, request.budget.max_wall_time_ms), (Some(1), Some(12_000)));
        sink.block(block(BlockKind::ToolUse, 1));
        sink.block(block(BlockKind::ToolUse, 2));
        hang(cancel)
    });
    let mut m = message("m", "hello");
    m.cloud_run = Some(bellhop::message::CloudRun {
        run_id: Some("r".into()),
        budget: bellhop::message::Budget { max_wall_time_ms: Some(12_000), max_tool_calls: Some(1) },
        settle_usage: true,
    });
    h.handle(m);
    let sent = h.channel.sent.all();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].text, "Cloud run budget exceeded: tool call budget exceeded after 2 tool call(s)");
    assert!(h.sessions().is_empty());
}

#[test]
fn s74_a_running_turn_is_listed() {
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let h = Harness::script("s74", move |_, _, cancel, _| {
        pass.pass(cancel);
        Ok(answer("ok", "s"))
    });
    h.accept(message("m", "hello"));
    h.runtime.runs.wait(1);
    let turns = h.engine.status().turns;
    assert_eq!(turns.len(), 1);
    assert_eq!((turns[0].conversation.as_str(), turns[0].runtime.as_str()), ("rm_oc_1", "claude-code"));
    gate.open();
    h.channel.settled.wait(1);
    assert!(h.engine.wait_idle(support::engine::PATIENCE));
    assert!(h.engine.status().turns.is_empty());
}

#[test]
fn s90_text_with_an_error_is_the_reply() {
    for (error, returned, kept) in [("warn", "s1", true), ("warn", "", false), ("Invalid API key", "s1", false)] {
        let h = Harness::script("s90", move |n, _, _, _| {
            Ok(if n == 0 {
                answer("ok", "s0")
            } else {
                RunResult { text: "partial".into(), ..failure(error, returned) }
            })
        });
        h.handle(message("1", "one"));
        h.handle(message("2", "two"));
        assert_eq!(h.channel.sent.all()[1].text, "partial");
        assert_eq!(h.sessions().len() == 1, kept, "{error} {returned}");
    }
}

#[test]
fn s91_a_failure_that_stays_is_told_once() {
    let h = Harness::script("s91", |_, _, _, _| Ok(failure("ECONNRESET", "")));
    h.handle(message("m", "hello"));
    assert_eq!((h.runtime.runs.len(), h.channel.sent.len()), (2, 1));
    assert_eq!(h.kinds().iter().filter(|k| *k == "turn_error").count(), 1);
}

#[test]
fn s93_an_unavailable_history_does_not_stop_a_recovery() {
    let h = Harness::build(
        "s93",
        Build {
            default_runtime: "codex".into(),
            script: Box::new(|n, _, _, _| {
                Ok(match n {
                    0 => answer("ok", "s0"),
                    1 => failure("context", ""),
                    _ => answer("ok", "s1"),
                })
            }),
            ..Build::default()
        },
    );
    *h.channel.recent.lock().unwrap() = None;
    h.handle(message("1", "one"));
    h.handle(message("2", "two"));
    assert!(h.runtime.runs.all()[2].text.contains("(unavailable)"));
    assert_eq!(h.channel.sent.len(), 2);
}

#[test]
fn s95_long_errors_keep_their_end_in_the_transcript_and_its_beginning_in_the_room() {
    let error: String = (0..3_000).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    let script = {
        let error = error.clone();
        script(move |_, _, _, _| Ok(failure(&error, "")))
    };
    let h = Harness::build("s95", Build { script, ..Build::default() });
    h.handle(message("m", "hello"));
    let kept = &error[3_000 - 2_048..];
    let record = h.transcript().into_iter().find(|r| r["kind"] == "turn_error").unwrap();
    assert_eq!(record["error"], kept);
    assert!(h.channel.sent.all()[0].text.starts_with(&format!("⚠️ Runtime error: {}… [error_ref: err_", &kept[..500])));
}

#[test]
fn an_unknown_runtime_is_an_error_reply_and_the_room_goes_on() {
    let h = Harness::build("unknown", Build { default_runtime: "codec".into(), ..Build::default() });
    h.handle(message("1", "one"));
    h.handle(message("2", "two"));
    let sent = h.channel.sent.all();
    assert_eq!(sent.len(), 2);
    assert!(sent[0].text.contains("unknown runtime \"codec\"; registered are claude-code, codex"), "{}", sent[0].text);
}

#[test]
fn a_panic_in_a_runtime_is_told_and_hurts_nobody() {
    let h = Harness::script("panic", |n, _, _, _| {
        assert!(n > 0, "contained");
        Ok(answer("ok", "s"))
    });
    assert_eq!(h.handle(message("1", "one")).why, "error");
    h.handle(message("2", "two"));
    let sent = h.channel.sent.all();
    assert_eq!((sent[0].kind, sent[1].text.as_str()), (OutboundKind::Error, "ok"));
}

#[test]
fn an_adapter_that_never_returns_is_left_behind() {
    let settings = Settings { abandon_after: Duration::from_millis(50), ..Settings::default() };
    let script = script(|n, _, _, _| {
        if n == 0 {
            std::thread::sleep(Duration::from_secs(2));
        }
        Ok(answer("ok", "s"))
    });
    let h = Harness::build("stuck", Build { script, settings, ..Build::default() });
    h.accept(message("1", "one"));
    h.runtime.runs.wait(1);
    h.accept(message("2", "two"));
    let settled = h.channel.settled.wait(1);
    assert_eq!(settled[0].ids, ["1", "2"]);
    assert_eq!(h.runtime.ended.all(), [1], "the first run has not even returned");
    h.runtime.ended.wait(2);
    assert_eq!((h.channel.sent.len(), h.channel.settled.len()), (1, 1), "what it returns late is not used");
}

#[test]
fn a_repeated_message_is_recognised_while_it_runs_and_after() {
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let h = Harness::script("repeat", move |_, _, cancel, _| {
        pass.pass(cancel);
        Ok(answer("ok", "s"))
    });
    h.accept(message("m", "hello"));
    assert_eq!(h.accept(message("m", "hello")), Acceptance::Pending);
    gate.open();
    h.channel.settled.wait(1);
    assert_eq!(h.accept(message("m", "hello")), Acceptance::Finished);
    assert_eq!((h.runtime.runs.len(), h.channel.sent.len()), (1, 1));
}

#[test]
fn a_cancelled_message_is_settled_without_a_reply_whether_it_runs_or_waits() {
    let h = Harness::build(
        "cancel",
        Build { routes: serial(), script: Box::new(|_, _, cancel, _| hang(cancel)), ..Build::default() },
    );
    h.accept(message("1", "one"));
    h.runtime.runs.wait(1);
    h.accept(message("2", "two"));
    assert_eq!(h.engine.cancel_conversation("botcord", "ag_me", "rm_oc_1"), 2);
    let settled = h.channel.settled.wait(2);
    assert!(settled.iter().all(|s| s.why == "cancelled"));
    assert!(h.reports.reports.wait(2).iter().all(|r| r.status == TurnStatus::Cancelled));
    assert_eq!((h.runtime.runs.len(), h.channel.sent.len()), (1, 0));
}

#[test]
fn cancelling_while_a_superseded_turn_comes_to_its_end_cancels_that_too() {
    let gate = Arc::new(Gate::default());
    let slow = Arc::clone(&gate);
    let h = Harness::script("cancel-late", move |n, _, cancel, _| {
        assert_eq!(n, 0, "nothing runs again");
        let aborted = hang(cancel);
        slow.pass(&CancelToken::new().unwrap());
        aborted
    });
    h.accept(message("1", "first"));
    h.runtime.runs.wait(1);
    h.accept(message("2", "newer"));
    assert_eq!(h.engine.cancel_conversation("botcord", "ag_me", "rm_oc_1"), 2);
    gate.open();
    let settled = h.channel.settled.wait(2);
    assert!(settled.iter().all(|s| s.why == "cancelled"), "{settled:?}");
    assert!(h.engine.wait_idle(PATIENCE));
    assert_eq!((h.runtime.runs.len(), h.channel.sent.len()), (1, 0));
}

#[test]
fn a_message_that_is_carried_twice_has_one_last_record() {
    let h = Harness::script("carry", |n, _, cancel, _| if n < 2 { hang(cancel) } else { Ok(answer("third", "s")) });
    for (runs, id) in ["1", "2", "3"].into_iter().enumerate() {
        h.accept(message(id, id));
        h.runtime.runs.wait(runs + 1);
    }
    h.channel.settled.wait(1);
    assert_eq!(h.runtime.runs.all()[2].text, "1\n2\n3");
    let dropped: Vec<_> = h.transcript().into_iter().filter(|r| r["kind"] == "dropped").collect();
    assert_eq!(dropped.len(), 2, "{dropped:?}");
}

#[test]
fn a_full_conversation_refuses_and_loses_nothing() {
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let h = Harness::build(
        "full",
        Build {
            settings: Settings { max_waiting: 2, ..Settings::default() },
            script: Box::new(move |_, _, cancel, _| {
                pass.pass(cancel);
                Ok(answer("ok", "s"))
            }),
            ..Build::default()
        },
    );
    let answers: Vec<_> = (0..4)
        .map(|n| {
            let answer = h.accept(group("rm_g", &format!("m{n}"), "hello"));
            h.runtime.runs.wait(1);
            answer
        })
        .collect();
    assert_eq!(answers[2], Acceptance::Accepted { ahead: 2 });
    assert!(matches!(&answers[3], Acceptance::Refused(why) if why.contains("2 messages wait")), "{answers:?}");
    gate.open();
    h.channel.settled.wait(2);
    assert!(matches!(h.accept(group("rm_g", "m3", "hello")), Acceptance::Accepted { .. }), "later it is taken");
}

#[test]
fn an_orderly_stop_interrupts_and_the_next_start_goes_on() {
    let h = Harness::script("stop", |_, _, cancel, sink| {
        sink.session("sid-live");
        sink.block(block(BlockKind::ToolUse, 1));
        hang(cancel)
    });
    h.accept(message("m", "hello"));
    h.runtime.runs.wait(1);
    assert_eq!(h.engine.stop(Duration::ZERO), 1);
    assert_eq!((h.channel.sent.len(), h.channel.settled.len()), (0, 0));
    assert!(matches!(h.accept(message("late", "hello")), Acceptance::Refused(_)));
    let again = Harness::in_dir(h.dir, Build::default());
    again.channel.settled.wait(1);
    let run = &again.runtime.runs.all()[0];
    assert!(run.text.starts_with("[interrupted] attempt"), "{}", run.text);
    assert_eq!(run.session.as_ref().unwrap().id, "sid-live", "it goes on in the session that was announced");
    assert_eq!(again.channel.sent.len(), 1);
    assert_eq!((again.recovered.requeued, again.recovered.interrupted), (1, again.recovered.interrupted));
}

#[test]
fn a_cli_that_acts_before_it_tells_is_told_that_it_was_interrupted() {
    for (runtime, told) in [("kimi-cli", true), ("codex", false)] {
        let build = |run| Build { script: run, default_runtime: runtime.into(), ..Build::default() };
        let h = Harness::build("unseen", build(script(|_, _, cancel, _| hang(cancel))));
        h.accept(message("m", "hello"));
        h.runtime.runs.wait(1);
        assert_eq!(h.engine.stop(Duration::ZERO), 1);
        let again = Harness::in_dir(h.dir, build(script(|_, _, _, _| Ok(answer("ok", "s")))));
        again.channel.settled.wait(1);
        let text = again.runtime.runs.all()[0].text.clone();
        assert_eq!(text.starts_with("[interrupted] attempt"), told, "{runtime}: {text}");
    }
    // What is not seen does not keep a failure that passes from being tried again.
    let run = script(|n, _, _, _| Ok(if n == 0 { failure("ECONNRESET", "") } else { answer("ok", "s") }));
    let h =
        Harness::build("unseen-retry", Build { script: run, default_runtime: "kimi-cli".into(), ..Build::default() });
    h.handle(message("m", "hello"));
    assert_eq!((h.runtime.runs.len(), h.channel.sent.all()[0].text.as_str()), (2, "ok"));
}

#[test]
fn a_process_that_runs_for_one_message_leaves_other_conversations_for_the_daemon() {
    let h = Harness::script("dormant", |_, _, cancel, _| hang(cancel));
    h.accept(group("rm_a", "1", "one"));
    h.accept(group("rm_b", "2", "two"));
    h.runtime.runs.wait(2);
    let dir = h.stop();
    let visitor = Harness::in_dir(dir, Build { recovery: Recovery::OnDemand, ..Build::default() });
    assert_eq!((visitor.recovered.dormant, visitor.recovered.requeued), (2, 0));
    visitor.accept(group("rm_a", "3", "three"));
    let settled = visitor.channel.settled.wait_for("rm_a to be settled", |s| {
        s.iter().flat_map(|s| &s.ids).filter(|id| *id == "1" || *id == "3").count() == 2
    });
    assert!(settled.iter().all(|s| !s.ids.contains(&"2".into())));
    assert_eq!(visitor.engine.status().waiting, 1);
    let daemon = Harness::in_dir(visitor.stop(), Build::default());
    assert_eq!(daemon.channel.settled.wait(1)[0].ids, ["2"]);
}

#[test]
fn a_process_without_a_channel_leaves_its_replies_for_the_daemon() {
    let later = || Delivery::Transient { after: None, why: "no network".into() };
    let slow = Settings { outbox_delays: vec![Duration::from_mins(10); 3], ..Settings::default() };
    let h = Harness::build("unsent", Build { settings: slow, ..Build::default() });
    h.channel.deliveries.lock().unwrap().push(later());
    h.accept(message("1", "one"));
    h.channel.sent.wait(1);
    let other = FakeChannel::new("terminal", "local", Capabilities::default());
    let visit = Build { channel: other, recovery: Recovery::OnDemand, ..Build::default() };
    let visitor = Harness::in_dir(h.stop(), visit);
    assert_eq!(visitor.recovered.replies, 0);
    let daemon = Harness::in_dir(visitor.stop(), Build::default());
    assert_eq!(daemon.recovered.replies, 1);
    assert_eq!(daemon.channel.settled.wait(1)[0].ids, ["1"]);
    assert_eq!(daemon.channel.sent.all()[0].text, "ok");
}

/// Lets a thread wait until the returned sender is gone.
fn held() -> (std::sync::mpsc::Sender<()>, impl Fn() + Send + Sync) {
    let (release, hold) = std::sync::mpsc::channel::<()>();
    let hold = std::sync::Mutex::new(hold);
    (release, move || {
        let _ = hold.lock().unwrap().recv();
    })
}

fn rule() -> bellhop::engine::ports::SystemRule {
    serde_json::from_value(serde_json::json!({"kind": "room_rule", "scope": "room", "id": "room:r", "version": "v",
        "roomId": "r", "text": "be kind"}))
    .unwrap()
}

#[test]
fn a_turn_runs_without_a_context_that_does_not_come() {
    let (release, wait) = held();
    let context = move || {
        wait();
        Some("too late".to_owned())
    };
    let prompts =
        FakePrompts { context: Box::new(context), rules: Box::new(|_| vec![rule()]), ..FakePrompts::default() };
    let settings = Settings { context_limit: Duration::from_millis(30), ..Settings::default() };
    let h = Harness::build("late-context", Build { prompts, settings, ..Build::default() });
    h.handle(message("1", "one"));
    let runs = h.runtime.runs.all();
    assert_eq!((&runs[0].system_context, runs[0].system_rules.len()), (&None, 0));
    assert_eq!(h.channel.sent.all()[0].text, "ok");
    drop(release);
    h.stop();
}

#[test]
fn a_context_in_time_is_used_though_the_rules_do_not_come() {
    let (release, wait) = held();
    let rules = move |_: &bellhop::message::Inbound| {
        wait();
        vec![rule()]
    };
    let context = || Some("in time".to_owned());
    let prompts = FakePrompts { context: Box::new(context), rules: Box::new(rules), ..FakePrompts::default() };
    let settings = Settings { context_limit: Duration::from_secs(2), ..Settings::default() };
    let h = Harness::build("late-rules", Build { prompts, settings, ..Build::default() });
    h.handle(message("1", "one"));
    let runs = h.runtime.runs.all();
    assert_eq!((runs[0].context(), runs[0].system_rules.len()), (Some("in time"), 0));
    drop(release);
    h.stop();
}

#[test]
fn a_panic_while_building_context_costs_the_context_only() {
    let context = || -> Option<String> { panic!("broken builder") };
    let prompts = FakePrompts { context: Box::new(context), ..FakePrompts::default() };
    let h = Harness::build("broken-context", Build { prompts, ..Build::default() });
    h.handle(message("1", "one"));
    assert_eq!(h.runtime.runs.all()[0].system_context, None);
    assert_eq!(h.channel.sent.all()[0].text, "ok");
}
