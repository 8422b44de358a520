//! What agents say by tool while their turn runs, seen from the engine: order, delivery, repetition, crashes, passes.

#[path = "support/engine.rs"]
#[allow(dead_code)]
mod engine;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bellhop::engine::cancel::CancelToken;
use bellhop::engine::ports::{Delivery, RunRequest, RunResult, RunSink, Thrown};
use bellhop::engine::speak::{Said, SaidState, SpeakError, Words};
use bellhop::engine::{Engine, PASS_VARIABLE, Settings};
use bellhop::message::{OutboundKind, Trace};

use bellhop::store::{Fault, FaultKind, FaultyDisk, Op, RealDisk};
use engine::{Build, FakeChannel, Harness, Log, PATIENCE, TempDir, answer, group, script};

/// The engine, for a script that runs inside it.
type Door = Arc<OnceLock<Engine>>;

fn pass(request: &RunRequest) -> &str {
    request.env.iter().find(|(name, _)| name == PASS_VARIABLE).map(|(_, value)| value.as_str()).unwrap()
}

fn words(text: &str) -> Words {
    Words { text: text.into(), ..Words::default() }
}

fn say(door: &Door, request: &RunRequest, words: Words) -> Result<Said, SpeakError> {
    say_within(door, request, words, PATIENCE)
}

fn say_within(door: &Door, request: &RunRequest, words: Words, wait: Duration) -> Result<Said, SpeakError> {
    door.wait().speaker(pass(request), None)?.say(words, wait)
}

type Run = dyn Fn(usize, &RunRequest, &CancelToken, &mut dyn RunSink, &Door) + Send + Sync;

/// An engine whose runtime does this and then answers.
fn speaking(name: &str, build: Build, run: Box<Run>) -> Harness {
    in_dir(Arc::new(TempDir::new(name)), build, run)
}

fn in_dir(dir: Arc<TempDir>, build: Build, run: Box<Run>) -> Harness {
    let door: Door = Arc::default();
    let inside = Arc::clone(&door);
    let script = script(move |n, request, cancel, sink| -> Result<RunResult, Thrown> {
        run(n, request, cancel, sink, &inside);
        Ok(answer("the end", "sid-1"))
    });
    let harness = Harness::in_dir(dir, Build { script, ..build });
    assert!(door.set(harness.engine.clone()).is_ok());
    harness
}

fn texts(channel: &FakeChannel) -> Vec<String> {
    channel.sent.all().into_iter().map(|out| out.text).collect()
}

fn slow() -> Settings {
    Settings { outbox_delays: vec![Duration::from_hours(1); 3], ..Settings::default() }
}

fn later() -> Delivery {
    Delivery::Transient { after: None, why: "not now".into() }
}

#[test]
fn what_is_said_goes_out_like_a_reply_with_the_facts_of_its_turn() {
    let done: Arc<Log<Said>> = Arc::default();
    let log = Arc::clone(&done);
    let run = move |_: usize, request: &RunRequest, _: &CancelToken, _: &mut dyn RunSink, door: &Door| {
        log.push(say(door, request, words("here")).unwrap());
        log.push(say(door, request, Words { is_reply: true, ..words("quoting") }).unwrap());
        let there = Words {
            room: Some("rm_2".into()),
            topic: Some("plan".into()),
            mentions: vec!["ag_2".into()],
            reply_to: Some("m9".into()),
            ..words("there")
        };
        log.push(say(door, request, there).unwrap());
        assert!(say(door, request, Words { room: Some("rm_2".into()), is_reply: true, ..words("x") }).is_err());
    };
    let h = speaking("said", Build::default(), Box::new(run));
    let mut message = group("rm_1", "1", "go");
    message.msg_id = Some("m1".into());
    message.trace = Some(Trace { id: "h1".into(), streamable: false });
    message.conversation.thread_id = Some("tp_1".into());
    assert_eq!(h.handle(message).why, "gated");
    let said = done.all();
    assert!(
        said.iter().all(|s| s.state == SaidState::Delivered && s.message_id.as_deref() == Some("p1") && !s.repeated)
    );
    let sent = h.channel.sent.all();
    assert_eq!(texts(&h.channel), ["here", "quoting", "there"], "the answer of a gated room goes nowhere");
    assert!(sent.iter().all(|o| o.by_tool && o.kind == OutboundKind::Message && o.account_id == "ag_me"));
    let facts = |n: usize| {
        let out = &sent[n];
        (out.conversation_id.as_str(), out.thread_id.as_deref(), out.reply_to.as_deref(), out.trace_id.as_deref())
    };
    assert_eq!(facts(0), ("rm_1", Some("tp_1"), None, Some("h1")));
    assert_eq!(facts(1), ("rm_1", Some("tp_1"), Some("m1"), Some("h1")));
    assert_eq!(facts(2), ("rm_2", Some("plan"), Some("m9"), None));
    assert_eq!(sent[2].mentions, ["ag_2"]);
    let kinds: Vec<String> = h.kinds().into_iter().filter(|k| k == "said").collect();
    assert_eq!(kinds.len(), 3);
}

#[test]
fn what_waits_keeps_its_place_before_the_reply() {
    let run = |_: usize, request: &RunRequest, _: &CancelToken, _: &mut dyn RunSink, door: &Door| {
        let said = say_within(door, request, words("first"), Duration::from_millis(1)).unwrap();
        // The channel says no for a while; the agent does not wait for it.
        assert!(said.state != SaidState::Failed, "{said:?}");
        let again = say_within(door, request, words("first"), Duration::from_millis(1)).unwrap();
        assert!(again.repeated && again.id == said.id);
    };
    let mut build = Build::default();
    build.channel.capabilities.gated = false;
    let h = speaking("said-order", build, Box::new(run));
    h.channel.deliveries.lock().unwrap().extend([later(), later()]);
    h.handle(group("rm_1", "1", "go"));
    let sent = h.channel.sent.wait_for("the reply", |sent| sent.iter().any(|o| o.text == "the end"));
    let texts: Vec<&str> = sent.iter().map(|o| o.text.as_str()).collect();
    assert_eq!(texts, ["first", "first", "first", "the end"]);
    assert!(sent[..3].iter().all(|o| o.id == sent[0].id), "one id at every attempt");
}

#[test]
fn what_is_given_up_is_told_and_may_be_said_again() {
    let done: Arc<Log<Said>> = Arc::default();
    let log = Arc::clone(&done);
    let run = move |_: usize, request: &RunRequest, _: &CancelToken, _: &mut dyn RunSink, door: &Door| {
        log.push(say(door, request, words("x")).unwrap());
        log.push(say(door, request, words("x")).unwrap());
        log.push(say(door, request, words("x")).unwrap());
    };
    let h = speaking("said-failed", Build::default(), Box::new(run));
    h.channel.deliveries.lock().unwrap().push(Delivery::Permanent { why: "not_a_member".into() });
    h.handle(group("rm_1", "1", "go"));
    let said = done.all();
    assert_eq!((said[0].state, said[0].error.as_deref()), (SaidState::Failed, Some("not_a_member")));
    assert_eq!((said[1].state, said[1].repeated), (SaidState::Delivered, false));
    assert_eq!((said[2].state, said[2].repeated, &said[2].id), (SaidState::Delivered, true, &said[1].id));
    assert_eq!(said[2].message_id.as_deref(), Some("p1"));
    assert_eq!(h.channel.sent.len(), 2);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The files as a SIGKILL would leave them after something was said and before it was delivered.
fn killed_between_acceptance_and_delivery(name: &str) -> (Arc<TempDir>, String) {
    let image = Arc::new(TempDir::new(&format!("{name}-image")));
    let (target, ids): (_, Arc<Log<String>>) = (Arc::clone(&image), Arc::default());
    let log = Arc::clone(&ids);
    let dir = Arc::new(TempDir::new(name));
    let source = Arc::clone(&dir);
    let run = move |_: usize, request: &RunRequest, _: &CancelToken, _: &mut dyn RunSink, door: &Door| {
        let said = say_within(door, request, words("step one"), Duration::from_millis(1)).unwrap();
        assert_eq!(said.state, SaidState::Waiting);
        copy(&source.0, &target.0);
        log.push(said.id);
    };
    let h = in_dir(dir, Build { settings: slow(), ..Build::default() }, Box::new(run));
    h.channel.deliveries.lock().unwrap().push(later());
    h.accept(group("rm_1", "1", "go"));
    let id = ids.wait(1).remove(0);
    h.engine.stop(Duration::ZERO);
    (image, id)
}

/// The turn that begins anew says the same and one thing more.
fn again(log: &Arc<Log<Said>>) -> Box<Run> {
    let log = Arc::clone(log);
    Box::new(move |_, request, _, _, door| {
        log.push(say(door, request, words("step one")).unwrap());
        log.push(say(door, request, words("step two")).unwrap());
    })
}

#[test]
fn a_kill_before_the_delivery_loses_nothing_and_doubles_nothing() {
    let (image, id) = killed_between_acceptance_and_delivery("said-kill");
    let done: Arc<Log<Said>> = Arc::default();
    let h = in_dir(image, Build::default(), again(&done));
    assert_eq!((h.recovered.replies, h.recovered.requeued), (1, 1));
    h.channel.settled.wait(1);
    let sent = h.channel.sent.wait(2);
    let of = |text: &str| sent.iter().filter(|o| o.text == text).map(|o| o.id.clone()).collect::<Vec<_>>();
    assert_eq!(of("step one"), std::slice::from_ref(&id), "once, under the id it had");
    assert_eq!(of("step two").len(), 1);
    let said = done.all();
    assert_eq!((said[0].repeated, &said[0].id, said[1].repeated), (true, &id, false));
    assert!(h.runtime.runs.all()[0].text.starts_with("[interrupted]"), "the agent is told that it has begun before");
}

#[test]
fn what_had_reached_the_far_side_before_a_kill_is_not_sent_again() {
    let (image, _) = killed_between_acceptance_and_delivery("said-there");
    let done: Arc<Log<Said>> = Arc::default();
    let channel = FakeChannel::botcord();
    // The far side is asked first, and has it.
    channel.deliveries.lock().unwrap().push(Delivery::Delivered { id: Some("p0".into()) });
    let h = in_dir(image, Build { channel, ..Build::default() }, again(&done));
    h.channel.settled.wait(1);
    assert_eq!(texts(&h.channel), ["step two"]);
    assert!(h.order.all().contains(&"resolve".to_owned()));
}

#[test]
fn what_cannot_be_written_down_is_not_sent() {
    let disk = FaultyDisk::new(Arc::new(RealDisk));
    let faulty = disk.clone();
    let errors: Arc<Log<SpeakError>> = Arc::default();
    let log = Arc::clone(&errors);
    let run = move |_: usize, request: &RunRequest, _: &CancelToken, _: &mut dyn RunSink, door: &Door| {
        faulty.arm(Fault { op: Some(Op::Append), nth: 1, kind: FaultKind::NoSpace, lasting: true });
        log.push(say(door, request, words("x")).unwrap_err());
        faulty.disarm();
    };
    let h = speaking("said-full", Build { disk: Arc::new(disk), ..Build::default() }, Box::new(run));
    h.accept(group("rm_1", "1", "go"));
    assert!(matches!(errors.wait(1)[0], SpeakError::Unstored(_)));
    h.runtime.ended.wait(1);
    assert!(texts(&h.channel).is_empty());
}

#[test]
fn a_pass_ends_with_its_turn_or_its_cancellation() {
    let passes: Arc<Log<String>> = Arc::default();
    let log = Arc::clone(&passes);
    let run = move |_: usize, request: &RunRequest, cancel: &CancelToken, _: &mut dyn RunSink, door: &Door| {
        assert_eq!(door.wait().speaker(pass(request), None).unwrap().turn_id(), request.turn_id);
        log.push(pass(request).to_owned());
        if request.text == "hang" {
            while !cancel.sleep(PATIENCE) {}
            assert_eq!(say(door, request, words("late")), Err(SpeakError::NoTurn));
        }
    };
    let h = speaking("said-pass", Build::default(), Box::new(run));
    h.handle(group("rm_1", "1", "go"));
    h.accept(group("rm_2", "2", "hang"));
    let passes = passes.wait(2);
    assert_ne!(passes[0], passes[1]);
    assert!(matches!(h.engine.speaker(&passes[0], None), Err(SpeakError::NoTurn)));
    assert!(h.engine.speaker(&passes[1], None).is_ok());
    h.engine.cancel_message("botcord", "2");
    h.channel.settled.wait(2);
    assert!(matches!(h.engine.speaker(&passes[1], None), Err(SpeakError::NoTurn)));
    assert!(texts(&h.channel).is_empty());
}

#[test]
fn a_process_of_several_turns_acts_where_only_one_of_them_runs_or_is_named() {
    let shared: Arc<Log<String>> = Arc::default();
    let log = Arc::clone(&shared);
    let run = move |_: usize, _: &RunRequest, cancel: &CancelToken, sink: &mut dyn RunSink, _: &Door| {
        log.push(sink.served_by("server").unwrap());
        while !cancel.sleep(PATIENCE) {}
    };
    let h = speaking("said-shared", Build::default(), Box::new(run));
    h.accept(group("rm_1", "1", "go"));
    let pass = shared.wait(1).remove(0);
    assert_eq!(h.engine.speaker(&pass, None).unwrap().message().id, "1");
    h.accept(group("rm_2", "2", "go"));
    assert_eq!(shared.wait(2)[1], pass);
    let Err(SpeakError::Ambiguous(mut rooms)) = h.engine.speaker(&pass, None) else { panic!("two turns") };
    rooms.sort();
    assert_eq!(rooms, ["rm_1", "rm_2"]);
    assert_eq!(h.engine.speaker(&pass, Some("rm_2")).unwrap().message().id, "2");
    assert!(matches!(h.engine.speaker(&pass, Some("rm_3")), Err(SpeakError::NoTurn)));
    h.engine.stop(Duration::ZERO);
    assert!(matches!(h.engine.speaker(&pass, None), Err(SpeakError::NoTurn)));
}
