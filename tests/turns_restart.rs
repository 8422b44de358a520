//! What is counted of a conversation holds over a restart, and what an agent said elsewhere is known to its prompts.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bellhop::engine::backlog::State;
use bellhop::engine::journal::{Accept, Journal, JournalOptions, Record};
use bellhop::engine::now_ms;
use bellhop::engine::park::MarkerFile;
use bellhop::engine::ports::{Capabilities, Channel, Delivery, RecentMessage, RunRequest, TurnEvent, TurnObserver};
use bellhop::engine::sessions::SessionEntry;
use bellhop::engine::{Recovery, Settings};
use bellhop::message::{ConversationKind, Inbound};
use bellhop::store::RealDisk;
use support::engine::{Build, FakeChannel, Gate, Harness, PATIENCE, TempDir, answer, group, hang, message, script};

fn media(room: &str, id: &str) -> Inbound {
    Inbound { media_only: true, ..group(room, id, "[image]") }
}

fn wish(request: &RunRequest, ms: i64) {
    let mut file = MarkerFile::new(1, None, now_ms());
    file.deadline_ms = now_ms() + ms;
    std::fs::write(request.wait_file.as_ref().unwrap(), serde_json::to_string(&file).unwrap()).unwrap();
}

fn idle(h: &Harness) {
    assert!(h.engine.wait_idle(support::engine::PATIENCE));
}

#[test]
fn files_that_were_dropped_before_a_restart_are_told_of_after_it() {
    let direct = |message: Inbound| {
        let mut message = message;
        message.conversation.kind = ConversationKind::Direct;
        message
    };
    let h = Harness::new("dropped-files");
    for n in 0..42 {
        h.accept(direct(media("rm_x", &format!("f{n}"))));
    }
    h.channel.settled.wait(2);
    let again = Harness::in_dir(h.stop(), Build::default());
    again.accept(direct(media("rm_x", "f42")));
    again.channel.settled.wait(1);
    again.handle(direct(group("rm_x", "t", "these")));
    idle(&again);
    let told = again.prompts.composed.all().pop().unwrap();
    assert_eq!((told.entries.len(), told.omitted), (41, 3));
    // Told once: neither the next message nor the next process hears of them again.
    again.handle(direct(group("rm_x", "u", "and this")));
    idle(&again);
    assert_eq!(again.prompts.composed.all().pop().unwrap().omitted, 0);
    let last = Harness::in_dir(again.stop(), Build::default());
    last.handle(direct(group("rm_x", "v", "and that")));
    idle(&last);
    assert_eq!(last.prompts.composed.all().pop().unwrap().omitted, 0);
}

#[test]
fn a_restart_gives_no_agent_its_waits_anew() {
    let waiting = || Build {
        script: script(|_, request, _, _| {
            wish(request, 1_000);
            Ok(answer("later", "s"))
        }),
        ..Build::default()
    };
    let h = Harness::build("waits", waiting());
    h.accept(group("rm_g", "m", "hello"));
    // The first run and the first wait are over, the second wait has begun.
    h.runtime.runs.wait(2);
    h.reports.reports.wait(2);
    idle(&h);
    let again = Harness::in_dir(h.stop(), waiting());
    assert_eq!(again.channel.settled.wait(1)[0].ids, ["m"]);
    assert_eq!(again.runtime.runs.len(), 2, "three waits, so four runs in all");
}

#[test]
fn what_was_left_for_a_channel_goes_on_when_it_comes_and_not_before() {
    let h = Harness::script("as-channels-come", |_, request, cancel, _| match request.room_id.as_str() {
        "rm_slow" => hang(cancel),
        _ => Ok(answer("done", "s")),
    });
    h.handle(group("rm_quick", "0", "hello"));
    h.accept(group("rm_slow", "1", "hello"));
    h.runtime.runs.wait(2);
    let elsewhere = || Build {
        channel: FakeChannel::new("elsewhere", "botcord", FakeChannel::botcord().capabilities()),
        ..Build::default()
    };
    let again = Harness::in_dir(h.stop(), elsewhere());
    assert_eq!((again.recovered.requeued, again.recovered.dormant, again.runtime.runs.len()), (0, 1, 0));
    let queue = again.engine.queue();
    let waits: Vec<_> = queue.iter().map(|i| (i.message.conversation.id.as_str(), i.state, i.why.as_deref())).collect();
    assert_eq!(waits, [("rm_slow", State::Parked, Some("its agent is not here yet"))]);
    // Nor does the next process lose it.
    let again = Harness::in_dir(again.stop(), elsewhere());
    let channel = Arc::new(FakeChannel::botcord());
    again.engine.add_channel(Arc::clone(&channel) as Arc<dyn Channel>);
    assert_eq!(channel.settled.wait(1)[0].ids, ["1"]);
    again.engine.add_channel(Arc::clone(&channel) as Arc<dyn Channel>);
    again.engine.add_channel(Arc::new(FakeChannel::new("third", "botcord", channel.capabilities())));
    idle(&again);
    assert_eq!((again.runtime.runs.len(), channel.settled.len()), (1, 1));
}

#[test]
fn a_message_that_waited_for_days_runs_once_when_its_channel_comes() {
    let dir = Arc::new(TempDir::new("old-and-waiting"));
    let opened = Journal::open(&dir.0.join("journal"), Arc::new(RealDisk), JournalOptions::default()).unwrap();
    let old = now_ms() - 3 * 24 * 3_600_000;
    let mut entries = Vec::new();
    for (room, id) in [("rm_deferred", "1"), ("rm_held", "2")] {
        let accepted = opened.journal.accept(vec![group(room, id, "hello")], old).remove(0);
        let Accept::New { entry_id, ticket, .. } = accepted else { panic!("{accepted:?}") };
        ticket.wait().unwrap();
        entries.push(entry_id);
    }
    let (on, why) = ("codex".into(), "usage_limit".into());
    opened.journal.append(Record::Deferred { e: vec![entries[0].clone()], on, why, until: old }).wait().unwrap();
    opened.journal.append(Record::Hold { e: entries[1].clone(), why: None }).wait().unwrap();
    opened.journal.close();
    let gate = Arc::new(Gate::default());
    let pass = Arc::clone(&gate);
    let build = Build {
        channel: FakeChannel::new("elsewhere", "botcord", FakeChannel::botcord().capabilities()),
        script: script(move |_, _, cancel, _| {
            pass.pass(cancel);
            Ok(answer("done", "s"))
        }),
        ..Build::default()
    };
    let h = Harness::in_dir(dir, build);
    let channel = Arc::new(FakeChannel::botcord());
    h.engine.add_channel(Arc::clone(&channel) as Arc<dyn Channel>);
    h.runtime.runs.wait(1);
    gate.open();
    channel.settled.wait(1);
    assert!(h.engine.wait_idle(PATIENCE));
    h.engine.release(&entries[1]).unwrap();
    channel.settled.wait(2);
    assert!(h.engine.wait_idle(PATIENCE));
    let runs: Vec<_> = h.runtime.runs.all().into_iter().map(|r| (r.room_id, r.text)).collect();
    assert_eq!(runs, [("rm_deferred".into(), "hello".into()), ("rm_held".into(), "hello".into())]);
}

#[test]
fn what_was_left_for_an_agent_that_is_revoked_ends_with_it() {
    let later = || Delivery::Transient { after: None, why: "no network".into() };
    let slow = Settings { outbox_delays: vec![Duration::from_mins(10); 3], ..Settings::default() };
    let script =
        script(|_, request, cancel, _| if request.text == "slow" { hang(cancel) } else { Ok(answer("ok", "s")) });
    let h = Harness::build("revoked", Build { settings: slow, script, ..Build::default() });
    h.channel.deliveries.lock().unwrap().push(later());
    h.accept(message("1", "quick"));
    h.channel.sent.wait(1);
    h.accept(group("rm_g", "2", "slow"));
    h.runtime.runs.wait(2);
    let elsewhere = FakeChannel::new("elsewhere", "botcord", FakeChannel::botcord().capabilities());
    let again = Harness::in_dir(h.stop(), Build { channel: elsewhere, ..Build::default() });
    assert_eq!((again.recovered.dormant, again.recovered.replies), (2, 0));
    again.engine.dismiss("ag_me");
    let dead: Vec<_> = again.engine.dead_letters().into_iter().map(|item| (item.ids, item.why.unwrap())).collect();
    assert_eq!(dead, [(vec!["1".to_owned()], "the reply could not be delivered: the agent was revoked".to_owned())]);
    assert_eq!(again.engine.queue().len(), 0);
    let channel = Arc::new(FakeChannel::botcord());
    again.engine.add_channel(Arc::clone(&channel) as Arc<dyn Channel>);
    let mut ends: Vec<_> = channel.settled.wait(2).into_iter().map(|s| (s.ids, s.why)).collect();
    ends.sort();
    let ends: Vec<_> = ends.iter().map(|(ids, why)| (ids[0].as_str(), why.as_str())).collect();
    assert_eq!(ends, [("1", "send_failed"), ("2", "cancelled")]);
    assert_eq!((again.runtime.runs.len(), channel.sent.len()), (0, 0));
}

#[test]
fn whoever_is_here_for_one_message_leaves_what_is_too_old_to_those_who_can_say_so() {
    let dir = Arc::new(TempDir::new("old-and-visited"));
    let opened = Journal::open(&dir.0.join("journal"), Arc::new(RealDisk), JournalOptions::default()).unwrap();
    let accepted = opened.journal.accept(vec![group("rm_g", "1", "hello")], now_ms() - 2 * 24 * 3_600_000).remove(0);
    let Accept::New { ticket, .. } = accepted else { panic!("{accepted:?}") };
    ticket.wait().unwrap();
    opened.journal.close();
    let terminal = FakeChannel::new("terminal", "local", Capabilities::default());
    let visit = Build { channel: terminal, recovery: Recovery::OnDemand, ..Build::default() };
    let visitor = Harness::in_dir(dir, visit);
    assert_eq!((visitor.recovered.dormant, visitor.recovered.stale), (1, 0));
    let daemon = Harness::in_dir(visitor.stop(), Build::default());
    assert_eq!(daemon.channel.settled.wait(1)[0].why, "skipped:stale");
    let told = daemon.channel.sent.all();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].text, "⚠️ 1 message(s) that came more than 24 hours ago were not answered.");
    assert_eq!(daemon.runtime.runs.len(), 0);
}

#[test]
fn what_was_left_for_a_channel_can_be_held_and_dropped() {
    let h = Harness::script("left", |_, _, cancel, _| hang(cancel));
    for (room, id) in [("rm_1", "1"), ("rm_2", "2"), ("rm_3", "3")] {
        h.accept(group(room, id, "hello"));
    }
    h.runtime.runs.wait(3);
    let build = Build {
        channel: FakeChannel::new("elsewhere", "botcord", FakeChannel::botcord().capabilities()),
        script: script(|_, _, _, _| Ok(answer("done", "s"))),
        ..Build::default()
    };
    let again = Harness::in_dir(h.stop(), build);
    let id = |room: &str| {
        let queue = again.engine.queue();
        queue.into_iter().find(|item| item.message.conversation.id == room).map(|item| item.id)
    };
    let (held, dropped) = (id("rm_1").unwrap(), id("rm_2").unwrap());
    again.engine.hold(&held).unwrap();
    again.engine.drop_message(&dropped).unwrap();
    assert_eq!((id("rm_2"), again.runtime.runs.len()), (None, 0));
    let channel = Arc::new(FakeChannel::botcord());
    again.engine.add_channel(Arc::clone(&channel) as Arc<dyn Channel>);
    channel.settled.wait(1);
    idle(&again);
    assert_eq!(again.runtime.runs.len(), 1, "what is held waits on, what was dropped is gone");
    again.engine.release(&held).unwrap();
    again.runtime.runs.wait(2);
    idle(&again);
    assert_eq!((again.runtime.runs.len(), again.engine.queue().len()), (2, 0));
}

#[derive(Default)]
struct Ears(Mutex<Vec<(String, i64, String)>>);

impl TurnObserver for Ears {
    fn event(&self, event: &TurnEvent<'_>) {
        if let TurnEvent::OwnWords { message, said } = event {
            let heard = said.iter().map(|(at, text)| (message.conversation.id.clone(), *at, text.clone()));
            self.0.lock().unwrap().extend(heard);
        }
    }
}

#[test]
fn the_agents_own_words_in_a_rooms_history_are_heard() {
    let said = |from: &str, text: &str| RecentMessage {
        at: Some("2026-01-01T08:00:00Z".into()),
        from: Some("Nora".into()),
        from_id: Some(from.into()),
        text: text.into(),
        ..RecentMessage::default()
    };
    let channel = FakeChannel::botcord();
    *channel.recent.lock().unwrap() = Some(vec![said("hu_1", "go on"), said("ag_me", "on it")]);
    let ears = Arc::new(Ears::default());
    let build =
        Build { channel, extra_observers: vec![Arc::clone(&ears) as Arc<dyn TurnObserver>], ..Build::default() };
    let h = Harness::build("own-words", build);
    h.handle(group("rm_g", "1", "hello"));
    assert!(ears.0.lock().unwrap().is_empty());
    let key = h.sessions().into_keys().next().unwrap();
    let dir = h.stop();
    let path = dir.0.join("sessions.json");
    let mut stored: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let entry: SessionEntry = serde_json::from_value(stored["entries"][&key].clone()).unwrap();
    stored["entries"][&key] = serde_json::to_value(SessionEntry { turn_count: Some(99), ..entry }).unwrap();
    std::fs::write(&path, stored.to_string()).unwrap();
    let channel = FakeChannel::botcord();
    *channel.recent.lock().unwrap() = Some(vec![said("hu_1", "go on"), said("ag_me", "on it")]);
    let build =
        Build { channel, extra_observers: vec![Arc::clone(&ears) as Arc<dyn TurnObserver>], ..Build::default() };
    let again = Harness::in_dir(dir, build);
    again.handle(group("rm_g", "2", "hello again"));
    let mut echo = group("rm_g", "3", "my own post");
    echo.sender.id = "ag_me".into();
    echo.received_at = 7;
    again.accept(echo);
    let heard = ears.0.lock().unwrap().clone();
    let heard: Vec<(&str, i64, &str)> =
        heard.iter().map(|(room, at, text)| (room.as_str(), *at, text.as_str())).collect();
    assert_eq!(heard, [("rm_g", 1_767_254_400_000, "on it"), ("rm_g", 7, "my own post")]);
}
