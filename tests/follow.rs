//! The memory of progress: what is kept, what is thinned out, what is forgotten, and for whom.

#[path = "support/fake_control.rs"]
#[allow(dead_code)]
mod fake_control;

use std::sync::Arc;

use bellhop::engine::ports::{TurnEvent, TurnObserver};
use bellhop::message::{Block, BlockKind, Digest, Entry, Inbound, Phase, SenderKind, Status};
use bellhop::serve::follow::{Follow, Memory, Next, Subscription, watch_key};
use bellhop::serve::wire::{Event, State};
use fake_control::{Tell, message, report};

fn memory(limits: Memory) -> Arc<Follow> {
    Arc::new(Follow::with_limits(limits))
}

fn watch(follow: &Arc<Follow>, key: &str, after: u64) -> Option<Subscription> {
    follow.subscribe(key, after, false).unwrap()
}

/// All that can be had now, as `(number, event)`, and whether it is over.
fn all(subscription: &mut Subscription) -> (Vec<(u64, Event)>, bool) {
    let mut events = Vec::new();
    loop {
        match subscription.next_event() {
            Next::Event(number, event) => events.push((number, (*event).clone())),
            Next::Nothing => return (events, false),
            Next::Over => return (events, true),
        }
    }
}

fn words(events: &[(u64, Event)]) -> String {
    let text = |event: &Event| match event {
        Event::Block(view) => view.text.clone(),
        _ => None,
    };
    events.iter().filter_map(|(_, event)| text(event)).collect()
}

fn tool(follow: &Follow, message: &Inbound, seq: u64) {
    let digest = Digest { tool: Some("Bash".into()), ..Digest::default() };
    let block = Block { kind: BlockKind::ToolUse, seq, raw: serde_json::Value::Null, digest };
    follow.event(&TurnEvent::Block { message, turn_id: "t", block: &block });
}

#[test]
fn pieces_of_text_are_joined_when_there_are_too_many_and_none_is_lost() {
    let follow = memory(Memory { events: 8, ..Memory::default() });
    let message = message("m");
    follow.queued(&message);
    follow.started(&message);
    let mut early = watch(&follow, "m", 0).unwrap();
    let mut expected = String::new();
    let mut seen = Vec::new();
    for seq in 1..=100 {
        let text = format!("é{seq} ");
        follow.says(&message, seq, &text);
        follow.event(&TurnEvent::Status {
            message: &message,
            turn_id: "t",
            status: &Status::thinking(Phase::Updated, "on"),
        });
        expected.push_str(&text);
        if seq % 7 == 0 {
            seen.extend(all(&mut early).0);
        }
    }
    seen.extend(all(&mut early).0);
    assert_eq!(words(&seen), expected);
    let (late, over) = all(&mut watch(&follow, "m", 0).unwrap());
    assert!(!over);
    assert!(late.len() <= 8, "{}", late.len());
    assert_eq!(late[0].1.name(), "queued");
    assert_eq!(late[1].1.name(), "started");
}

#[test]
fn who_comes_back_into_joined_text_gets_only_the_rest() {
    let follow = memory(Memory { events: 8, ..Memory::default() });
    let message = message("m");
    let mut first = follow.subscribe("m", 0, true).unwrap().unwrap();
    let mut numbers = Vec::new();
    for seq in 1..=30 {
        follow.says(&message, seq, &format!("{seq},"));
        numbers.extend(all(&mut first).0.into_iter().map(|(number, _)| number));
    }
    assert_eq!(numbers.len(), 30);
    for (n, number) in numbers.iter().enumerate() {
        let rest = words(&all(&mut watch(&follow, "m", *number).unwrap()).0);
        let expected = (n + 2..=30).fold(String::new(), |text, seq| text + &format!("{seq},"));
        assert_eq!(rest, expected, "after {}", n + 1);
    }
}

#[test]
fn what_cannot_be_joined_goes_from_the_old_end() {
    let follow = memory(Memory { events: 16, ..Memory::default() });
    let message = message("m");
    follow.queued(&message);
    follow.started(&message);
    for seq in 1..=100 {
        tool(&follow, &message, seq);
    }
    follow.finished(&message, "done");
    let (events, over) = all(&mut watch(&follow, "m", 0).unwrap());
    assert!(over && events.len() <= 16);
    let names: Vec<_> = events.iter().map(|(_, e)| e.name()).collect();
    assert_eq!((names[0], names[1], *names.last().unwrap()), ("queued", "started", "finished"));
    let last_block = events.iter().rev().find_map(|(_, e)| match e {
        Event::Block(view) => Some(view.seq),
        _ => None,
    });
    assert_eq!(last_block, Some(100));
}

#[test]
fn long_texts_come_in_pieces_and_old_ones_go_when_memory_is_short() {
    let follow = memory(Memory { message_bytes: 256 << 10, ..Memory::default() });
    let message = message("m");
    let long = "😀".repeat(40 << 10);
    follow.says(&message, 1, &long);
    assert_eq!(words(&all(&mut watch(&follow, "m", 0).unwrap()).0), long);
    follow.says(&message, 2, &long);
    follow.says(&message, 3, &long);
    follow.finished(&message, "done");
    let (events, _) = all(&mut watch(&follow, "m", 0).unwrap());
    let kept = words(&events);
    assert!(!kept.is_empty() && kept.len() <= 256 << 10, "{}", kept.len());
    assert_eq!(events.last().unwrap().1.name(), "finished");
}

#[test]
fn finished_messages_are_forgotten_first_and_oldest_first() {
    let follow = memory(Memory { messages: 4, ..Memory::default() });
    for id in ["runs", "b", "a"] {
        follow.started(&message(id));
    }
    follow.finished(&message("a"), "");
    follow.finished(&message("b"), "");
    follow.queued(&message("c"));
    let mut watching_a = watch(&follow, "a", 0).unwrap();
    follow.queued(&message("d"));
    let known = |id| watch(&follow, id, 0).is_some();
    assert_eq!(["runs", "a", "b", "c", "d"].map(known), [true, false, true, true, true]);
    assert_eq!(all(&mut watching_a), (Vec::new(), true));
    follow.queued(&message("e"));
    assert_eq!(["runs", "b", "c", "d", "e"].map(known), [true, false, true, true, true]);
    // None is finished now: the oldest goes, but rather one that nobody watches.
    let _watching = watch(&follow, "runs", 0).unwrap();
    follow.queued(&message("f"));
    assert_eq!(["runs", "c", "d", "e", "f"].map(known), [true, false, true, true, true]);
}

#[test]
fn the_memory_as_a_whole_is_bounded() {
    let follow = memory(Memory { bytes: 64 << 10, ..Memory::default() });
    for n in 0..200 {
        let message = message(&format!("m{n}"));
        follow.started(&message);
        follow.finished(&message, &"x".repeat(4 << 10));
    }
    let left = (0..200).filter(|n| watch(&follow, &format!("m{n}"), 0).is_some()).count();
    assert!((1..=16).contains(&left), "{left}");
    assert!(watch(&follow, "m199", 0).is_some());
}

#[test]
fn each_part_of_a_merged_message_can_be_watched() {
    let follow = memory(Memory::default());
    let mut merged = message("merged");
    merged.channel = "telegram".into();
    for id in ["1", "2"] {
        let mut single = message(id);
        single.channel = "telegram".into();
        follow.queued(&single);
        merged.entries.push(Entry {
            id: id.into(),
            msg_id: None,
            sender_id: "u".into(),
            sender_label: "u".into(),
            sender_kind: SenderKind::User,
            text: id.into(),
            mentioned: false,
            envelope_type: None,
            quote: None,
        });
    }
    follow.started(&merged);
    let mut report = report("merged", "both");
    report.channel = "telegram".into();
    report.message_ids = vec!["1".into(), "2".into()];
    follow.event(&TurnEvent::Finished { message: &merged, report: &report });
    for (id, count) in [("1", 3), ("2", 3), ("merged", 2)] {
        let (events, over) = all(&mut watch(&follow, &watch_key("telegram", id), 0).unwrap());
        assert_eq!((events.len(), over), (count, true), "{id}");
    }
    assert!(watch(&follow, "1", 0).is_none(), "another channel's id is no local one");
}

#[test]
fn an_id_that_comes_again_after_its_turn_begins_anew() {
    let follow = memory(Memory::default());
    let message = message("m");
    follow.started(&message);
    follow.finished(&message, "first");
    assert_eq!(follow.message_state("m").unwrap().state, State::Done);
    assert_eq!(follow.message_state("m").unwrap().report.unwrap().reply.as_deref(), Some("first"));
    follow.queued(&message);
    assert_eq!(follow.message_state("m").unwrap().state, State::Waiting);
    let (events, over) = all(&mut watch(&follow, "m", 0).unwrap());
    assert_eq!((events.len(), over), (1, false));
}

#[test]
fn watching_what_never_comes_leaves_nothing_behind() {
    let follow = memory(Memory::default());
    drop(follow.subscribe("m", 0, true).unwrap().unwrap());
    assert!(watch(&follow, "m", 0).is_none());
    assert_eq!(follow.message_state("m"), None);
}

#[test]
fn a_finished_message_is_told_again_as_it_was() {
    let follow = memory(Memory { events: 8, ..Memory::default() });
    let message = message("m");
    let mut present = follow.subscribe("m", 0, true).unwrap().unwrap();
    follow.queued(&message);
    follow.started(&message);
    let mut seen = Vec::new();
    for seq in 1..=20 {
        follow.says(&message, seq, &format!("{seq}: \"a\"\nb\u{2028}, "));
        seen.extend(all(&mut present).0);
    }
    tool(&follow, &message, 21);
    follow.finished(&message, "line 1\nline 2");
    seen.extend(all(&mut present).0);
    let told = all(&mut watch(&follow, "m", 0).unwrap());
    assert_eq!(words(&told.0), words(&seen));
    // Now nobody watches any more: from here on it is told from the text.
    drop(present);
    for _ in 0..2 {
        assert_eq!(follow.message_state("m").unwrap().report.unwrap().reply.as_deref(), Some("line 1\nline 2"));
        assert_eq!(all(&mut watch(&follow, "m", 0).unwrap()), told);
        for (n, (number, _)) in seen.iter().enumerate() {
            let rest = all(&mut watch(&follow, "m", *number).unwrap()).0;
            assert_eq!(words(&rest), words(&seen[n + 1..]), "after event {n}");
            assert_eq!(rest.is_empty(), n + 1 == seen.len(), "after event {n}");
        }
    }
}
