//! The queue and the journal as a person at the command line meets them: the real program, with a daemon and
//! without one.

#[path = "support/echo_daemon.rs"]
#[allow(dead_code)]
mod echo_daemon;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bellhop::channel::local::{Said, inbound};
use bellhop::engine::journal::{Accept, Journal, JournalOptions, Record};
use bellhop::engine::now_ms;
use bellhop::store::RealDisk;
use echo_daemon::{EchoDaemon, Place};
use serde_json::Value;

fn journal_dir(place: &Place) -> PathBuf {
    place.home.join("daemon/journal")
}

/// What a daemon that died left behind: one message whose third run had effects, and one that is held.
fn left_behind(place: &Place) -> String {
    let opened = Journal::open(&journal_dir(place), Arc::new(RealDisk), JournalOptions::default()).unwrap();
    let journal = opened.journal;
    let say = |id: &str, text: &str| {
        let said = Said {
            id: id.into(),
            agent: "local".into(),
            conversation: format!("room {id}"),
            text: text.into(),
            ..Said::default()
        };
        let Accept::New { entry_id, ticket, .. } = journal.accept(vec![inbound(said, now_ms())], now_ms()).remove(0)
        else {
            panic!("not accepted")
        };
        ticket.wait().unwrap();
        entry_id
    };
    let (ran, held) = (say("m1", "api_key=topsecret and\n\u{1b}[2Jmore"), say("m2", "the second"));
    journal.append(Record::Started { e: vec![ran], turn: "t1".into(), attempt: 3, rt: "echo".into() }).wait().unwrap();
    journal.append(Record::Effects { turn: "t1".into() }).wait().unwrap();
    journal.append(Record::Hold { e: held.clone(), why: None }).wait().unwrap();
    journal.close();
    held
}

/// A daemon of the real program; ended when dropped.
struct Daemon<'a>(&'a Place);

impl<'a> Daemon<'a> {
    fn start(place: &'a Place) -> Self {
        let ran = place.run(&["start", "--background"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        Self(place)
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        self.0.run(&["stop", "--wait"]);
    }
}

fn json(place: &Place, args: &[&str]) -> Value {
    let ran = place.run(args);
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{args:?}: {e}: {ran:?}"))
}

fn states(queue: &Value) -> Vec<(&str, &str)> {
    let messages = queue["messages"].as_array().unwrap();
    messages.iter().map(|m| (m["conversation"].as_str().unwrap(), m["state"].as_str().unwrap())).collect()
}

#[test]
fn without_a_daemon_the_journal_is_read_and_nothing_is_changed() {
    let place = Place::new();
    let ran = place.run(&["queue"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("the queue is empty"), "{}", ran.out);
    let held = left_behind(&place);
    let before = std::fs::read_dir(journal_dir(&place)).unwrap().count();
    let queue = json(&place, &["queue", "list", "--json"]);
    assert_eq!(states(&queue), [("room m1", "running"), ("room m2", "held")]);
    assert_eq!(queue["live"], false);
    assert_eq!(queue["conversations"].as_array().unwrap().len(), 2);
    let list = place.run(&["queue"]).out;
    assert!(list.contains("no daemon runs") && list.contains("<1m") && list.contains(&held), "{list}");
    assert!(!list.contains("topsecret") && !list.contains('\u{1b}'), "{list}");
    let one = json(&place, &["queue", "show", "m2", "--json"]);
    assert_eq!((&one["id"], &one["text"]), (&Value::from(held.as_str()), &Value::from("the second")));
    assert!(!place.run(&["queue", "show", "m1"]).out.contains('\u{1b}'));
    assert_eq!(place.run(&["queue", "show", "m3"]).code, Some(2));
    assert_eq!(place.run(&["queue", "release", "m2"]).code, Some(3));
    assert_eq!(place.run(&["queue", "release"]).code, Some(2));
    assert_eq!(std::fs::read_dir(journal_dir(&place)).unwrap().count(), before);
}

#[test]
fn the_journal_is_dumped_with_previews_or_as_it_is_and_bad_lines_are_named() {
    let place = Place::new();
    assert_eq!(place.run(&["journal", "dump"]).code, Some(0), "there is none");
    left_behind(&place);
    let ran = place.run(&["journal", "dump"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    for word in ["base", "boot", "accepted", "started", "effects", "hold", "room m1", "the second"] {
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
    }
    assert!(!ran.out.contains("topsecret") && !ran.out.contains('\u{1b}'), "{}", ran.out);
    let segments: Vec<_> = std::fs::read_dir(journal_dir(&place)).unwrap().map(|e| e.unwrap().path()).collect();
    let [segment] = &segments[..] else { panic!("{segments:?}") };
    let raw = place.run(&["journal", "dump", "--json"]);
    assert_eq!(raw.out, std::fs::read_to_string(segment).unwrap());
    assert!(raw.out.contains("topsecret"));

    let damaged = raw.out.replacen("the second", "the sEcond", 1);
    std::fs::write(segment, &damaged).unwrap();
    let ran = place.run(&["journal", "dump"]);
    let offset = damaged.lines().take_while(|l| !l.contains("sEcond")).map(|l| l.len() + 1).sum::<usize>();
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains(&format!("{} at byte {offset}: wrong checksum", segment.display())), "{}", ran.err);
    assert!(ran.out.contains("effects"), "the other lines are there: {}", ran.out);
    // As do the parts of the queue that the damage spares.
    assert_eq!(states(&json(&place, &["queue", "--json"])), [("room m1", "running")]);
}

#[test]
fn a_daemon_is_asked_and_told() {
    let place = Place::new();
    place.write("bellhop.json", r#"{"local": {"agents": [{"name": "local", "runtime": "echo"}]}}"#);
    left_behind(&place);
    let daemon = Daemon::start(&place);
    let end = Instant::now() + Duration::from_secs(30);
    while json(&place, &["queue", "dead", "--json"])["dead"] != 1 {
        assert!(Instant::now() < end, "the interrupted message is not given up");
        std::thread::sleep(Duration::from_millis(20));
    }
    let queue = json(&place, &["queue", "--json"]);
    assert_eq!((states(&queue), &queue["live"]), (vec![("room m2", "held")], &Value::Bool(true)));
    assert!(place.run(&["queue"]).out.contains("1 were given up"));
    assert!(place.run(&["queue", "dead"]).out.contains("interrupted 3 times"));
    assert!(place.run(&["status"]).out.contains("1 held; 1 dead"));
    assert_eq!(place.run(&["queue", "requeue", "nothing"]).code, Some(2));
    for args in [["queue", "requeue", "m1"], ["queue", "release", "m2"]] {
        let ran = place.run(&args);
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    while json(&place, &["queue", "--json"])["messages"] != serde_json::json!([]) {
        assert!(Instant::now() < end, "the messages are not answered");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(place.run(&["queue", "dead"]).out.contains("nothing was given up"));
    assert_eq!(place.run(&["journal", "dump"]).code, Some(0), "beside the daemon");
    let ran = place.run(&["status"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let status = json(&place, &["status", "--json"]);
    assert_eq!(status["health"]["channels"][0]["id"], "local");
    assert!(status["health"]["channels"][0]["last_delivered_at"].is_i64(), "{status}");
    drop(daemon);
    assert_eq!(place.run(&["status"]).code, Some(3));
}

#[test]
fn changes_go_to_the_daemon_by_their_names() {
    let daemon = EchoDaemon::start();
    for (verb, word) in
        [("hold", "held"), ("release", "released"), ("requeue", "on its way again"), ("drop", "dropped")]
    {
        let ran = daemon.place.run(&["queue", verb, "e/1"]);
        assert_eq!((ran.code, ran.out.trim()), (Some(0), word), "{ran:?}");
    }
    let asked = daemon.agent.asked.lock().unwrap().clone();
    assert_eq!(asked, ["hold e/1", "release e/1", "requeue e/1", "drop e/1"]);
    let ran = daemon.place.run(&["queue", "show", "e1"]);
    assert!(ran.out.contains("state: held\n") && ran.out.ends_with("hello\n"), "{}", ran.out);
    assert_eq!(daemon.place.run(&["queue", "show", "e2"]).code, Some(2));
    assert!(daemon.place.run(&["queue"]).out.contains("held"));
}

#[test]
fn a_message_for_an_agent_that_is_not_there_waits_for_it() {
    let place = Place::new();
    place.write("bellhop.json", r#"{"local": {"agents": [{"name": "local", "runtime": "echo"}]}}"#);
    let opened = Journal::open(&journal_dir(&place), Arc::new(RealDisk), JournalOptions::default()).unwrap();
    for id in ["ag_gone", "local"] {
        let said = Said {
            id: format!("to {id}"),
            agent: id.into(),
            conversation: "rm".into(),
            text: "hello".into(),
            ..Said::default()
        };
        let mut message = inbound(said, now_ms());
        message.channel = id.into();
        let Accept::New { ticket, .. } = opened.journal.accept(vec![message], now_ms()).remove(0) else { panic!() };
        ticket.wait().unwrap();
    }
    opened.journal.close();
    let _daemon = Daemon::start(&place);
    let end = Instant::now() + Duration::from_secs(30);
    // The other one is answered meanwhile.
    while json(&place, &["queue", "--json"])["messages"].as_array().unwrap().len() > 1 {
        assert!(Instant::now() < end, "nothing is answered");
        std::thread::sleep(Duration::from_millis(20));
    }
    let queue = json(&place, &["queue", "--json"]);
    assert_eq!(states(&queue), [("rm", "parked")]);
    assert_eq!(queue["messages"][0]["why"], "its agent is not here yet", "{queue}");
    assert_eq!(queue["dead"], 0);
}
