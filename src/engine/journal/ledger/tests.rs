//! Tables of single transitions, and random walks that hold the ledger against its own compaction.

use super::*;
use crate::engine::journal::record::{Announced, Outcome, Record};
use crate::message::{Conversation, ConversationKind, Origin, OutboundKind, Sender, SenderKind};

fn message(channel: &str, id: &str) -> Arc<Inbound> {
    Arc::new(Inbound {
        id: id.into(),
        channel: channel.into(),
        account_id: "ag_1".into(),
        conversation: Conversation {
            id: format!("rm_{channel}"),
            kind: ConversationKind::Group,
            title: None,
            thread_id: None,
        },
        sender: Sender { id: "hu_1".into(), name: None, kind: SenderKind::User },
        text: format!("text of {id}"),
        reply_to: None,
        msg_id: None,
        mentioned: false,
        received_at: 1,
        trace: None,
        entries: Vec::new(),
        omitted: 0,
        hops: 0,
        origin: Origin::Room,
        quote: None,
        envelope_type: None,
        room: None,
        schedule: None,
        cloud_run: None,
        media_only: false,
        attachments: Vec::new(),
        overrides: None,
    })
}

fn reply(id: &str, turn: &str) -> Arc<Outbound> {
    Arc::new(Outbound {
        id: id.into(),
        channel: "a".into(),
        account_id: "ag_1".into(),
        conversation_id: "rm_a".into(),
        thread_id: None,
        topic: None,
        kind: OutboundKind::Message,
        text: "yes".into(),
        error_ref: None,
        attachments: Vec::new(),
        reply_to: None,
        trace_id: None,
        turn_id: turn.into(),
        by_tool: false,
        mentions: Vec::new(),
    })
}

fn saying(id: &str, turn: &str, key: &str) -> Record {
    let out = Outbound { by_tool: true, ..reply(id, turn).as_ref().clone() };
    Record::Say { turn: turn.into(), key: key.into(), out: Arc::new(out) }
}

fn accepted(e: &str, ids: &[&str], ch: &str) -> Record {
    let msg = message(ch, ids[0]);
    let ids = ids.iter().map(|&id| id.into()).collect();
    Record::Accepted { e: e.into(), ids, ch: ch.into(), q: msg.queue_key(), msg, past: None }
}

fn started(entries: &[&str], turn: &str, attempt: u32) -> Record {
    let e = entries.iter().map(|&e| e.into()).collect();
    Record::Started { e, turn: turn.into(), attempt, rt: "echo".into() }
}

fn result(turn: &str, replies: &[&str]) -> Record {
    let replies = replies.iter().map(|id| reply(id, turn)).collect();
    Record::Result { turn: turn.into(), out: Outcome { replies, session: None, why: "delivered".into() } }
}

fn sent(out: &str, turn: &str) -> Record {
    Record::Sent { out: out.into(), turn: turn.into(), provider: None }
}

fn done(entries: &[&str], why: &str) -> Record {
    Record::Done { e: entries.iter().map(|&e| e.into()).collect(), why: why.into() }
}

fn acked(entries: &[&str]) -> Record {
    Record::Acked { e: entries.iter().map(|&e| e.into()).collect() }
}

fn fold(records: impl IntoIterator<Item = Record>) -> Ledger {
    let mut ledger = Ledger::default();
    for (t, record) in records.into_iter().enumerate() {
        ledger.apply(t as i64, record, 100);
    }
    ledger
}

fn rebuilt(ledger: &Ledger) -> Ledger {
    let mut other = Ledger::default();
    for stamped in ledger.to_records() {
        other.apply(stamped.t, stamped.record, 100);
    }
    ledger.unknown().for_each(|line| other.keep_unknown(line.to_owned()));
    other
}

/// Everything that can be seen of a ledger, without the bytes, which are only an estimate.
fn shape(ledger: &Ledger) -> String {
    let mut ledger = ledger.clone();
    ledger.entries.values_mut().for_each(|e| e.bytes = 0);
    ledger.turns.values_mut().for_each(|t| t.bytes = 0);
    ledger.notes.values_mut().for_each(|n| n.bytes = 0);
    let mut keys: Vec<_> = ledger.queue_keys().collect();
    keys.sort_unstable();
    let queues: Vec<_> = keys.iter().map(|&k| (k, ledger.queue(k).map(|e| &e.id).collect::<Vec<_>>())).collect();
    let seen: Vec<_> = ledger.channels.iter().map(|(ch, known)| (ch, known.finished().collect::<Vec<_>>())).collect();
    let ids = (0..IDS).map(|i| format!("m{i}"));
    let known: Vec<_> =
        ids.flat_map(|id| ["a", "b"].map(|ch| format!("{ch} {id} {:?}", ledger.known(ch, &id)))).collect();
    let entries: Vec<_> = ledger.entries().collect();
    let turns: Vec<_> = ledger.turns().collect();
    let outbox: Vec<_> = ledger.outbox().collect();
    let notes: Vec<_> = ledger.notes("").collect();
    let dead: Vec<_> = ledger.dead().map(|d| (d.at, d.record())).collect();
    format!(
        "{dead:#?} {entries:#?} {turns:#?} {outbox:#?} {notes:#?} {queues:#?} {seen:#?} {known:#?} {:?} {:?}",
        ledger.boot, ledger.unknown
    )
}

#[test]
fn a_message_goes_its_way_and_only_its_ids_remain() {
    let mut ledger = fold([accepted("e1", &["m1"], "a")]);
    assert_eq!(ledger.known("a", "m1"), Known::Pending { entry_id: "e1".into() });
    assert_eq!(ledger.known("b", "m1"), Known::No);

    ledger.apply(10, started(&["e1"], "t1", 1), 100);
    assert_eq!(ledger.entry("e1").unwrap().state, EntryState::Running { turn: "t1".into() });
    ledger.apply(11, result("t1", &["o1", "o2"]), 100);
    assert_eq!(ledger.entry("e1").unwrap().state, EntryState::Answered { turn: "t1".into() });
    assert_eq!(ledger.outbox().map(|i| i.message.id.as_str()).collect::<Vec<_>>(), ["o1", "o2"]);

    ledger.apply(12, sent("o1", "t1"), 100);
    assert_eq!(ledger.turn("t1").unwrap().replies, ["o2"]);
    ledger.apply(13, sent("o2", "t1"), 100);
    ledger.apply(14, done(&["e1"], "delivered"), 100);
    assert!(ledger.turn("t1").is_none());
    assert_eq!(ledger.known("a", "m1"), Known::Terminal);
    assert_eq!(ledger.entry_count(), 1);

    ledger.apply(15, acked(&["e1"]), 100);
    assert_eq!(ledger.known("a", "m1"), Known::Terminal);
    assert_eq!((ledger.entry_count(), ledger.queue_keys().count()), (0, 0));
    assert!(ledger.live_bytes() < 50, "{}", ledger.live_bytes());
}

#[test]
fn a_crash_counts_as_an_attempt_and_a_shutdown_does_not() {
    let run = [
        accepted("e1", &["m1"], "a"),
        started(&["e1"], "t1", 1),
        Record::Session { turn: "t1".into(), id: "s1".into() },
        Record::Effects { turn: "t1".into() },
    ];
    let crashed = fold(run.clone());
    let entry = crashed.entry("e1").unwrap();
    let session = Some(Announced { rt: "echo".into(), id: "s1".into() });
    assert_eq!(entry.past, Past { attempts: 1, effects: true, session: session.clone(), said: vec![] });
    assert_eq!(crashed.turn("t1").unwrap().session.as_deref(), Some("s1"));

    let stopped = fold(run.into_iter().chain([Record::Interrupted { turn: "t1".into() }]));
    let entry = stopped.entry("e1").unwrap();
    assert_eq!(entry.past, Past { attempts: 0, effects: true, session, said: vec![] });
    assert_eq!(entry.state, EntryState::Waiting);
    assert!(stopped.turn("t1").is_none());
}

#[test]
fn what_an_attempt_left_is_remembered_through_later_ones() {
    let ledger = fold([
        accepted("e1", &["m1"], "a"),
        started(&["e1"], "t1", 1),
        Record::Session { turn: "t1".into(), id: "s1".into() },
        Record::Effects { turn: "t1".into() },
        started(&["e1"], "t2", 2),
    ]);
    assert!(ledger.turn("t1").is_none());
    let past = &ledger.entry("e1").unwrap().past;
    assert_eq!((past.attempts, past.effects), (2, true));
    assert_eq!(past.session.as_ref().map(|s| s.id.as_str()), Some("s1"));
    assert_eq!(shape(&ledger), shape(&rebuilt(&ledger)));
}

#[test]
fn an_early_acknowledgement_waits_for_the_end() {
    let ledger = fold([accepted("e1", &["m1"], "a"), acked(&["e1"])]);
    assert!(ledger.entry("e1").unwrap().acked);
    let ledger = fold([accepted("e1", &["m1"], "a"), acked(&["e1"]), done(&["e1"], "gated")]);
    assert_eq!((ledger.entry_count(), ledger.known("a", "m1")), (0, Known::Terminal));
}

#[test]
fn held_and_parked_end_with_the_next_start() {
    let hold = Record::Hold { e: "e1".into(), why: None };
    let park = Record::Parked { e: "e1".into(), until: 99, why: "soon".into() };
    let ledger = fold([accepted("e1", &["m1"], "a"), hold.clone()]);
    assert!(ledger.entry("e1").unwrap().held);
    let ledger = fold([accepted("e1", &["m1"], "a"), hold, Record::Release { e: "e1".into() }]);
    assert!(!ledger.entry("e1").unwrap().held);

    let records = [accepted("e1", &["m1"], "a"), started(&["e1"], "t1", 1), park];
    let ledger = fold(records.clone());
    let entry = ledger.entry("e1").unwrap();
    assert_eq!((entry.parked.as_ref().unwrap().until, entry.past.attempts), (99, 0));
    let ledger = fold(records.into_iter().chain([started(&["e1"], "t2", 1)]));
    assert_eq!(ledger.entry("e1").unwrap().parked, None);
}

#[test]
fn a_deferred_attempt_does_not_count_and_keeps_what_it_left() {
    let defer = Record::Deferred { e: vec!["e1".into()], on: "codex".into(), why: "login".into(), until: 99 };
    let records =
        [accepted("e1", &["m1"], "a"), started(&["e1"], "t1", 1), Record::Effects { turn: "t1".into() }, defer];
    let ledger = fold(records.clone());
    let entry = ledger.entry("e1").unwrap();
    assert_eq!((&entry.state, entry.past.attempts, entry.past.effects), (&EntryState::Waiting, 0, true));
    assert_eq!(entry.deferred.as_ref().unwrap().on, "codex");
    assert_eq!(ledger.turns().count(), 0);
    let ledger = fold(records.into_iter().chain([started(&["e1"], "t2", 1)]));
    assert_eq!(ledger.entry("e1").unwrap().deferred, None);
}

#[test]
fn dead_letters_are_kept_within_bounds_and_go_when_buried() {
    let dead = |n: usize| Record::Dead {
        e: format!("e{n}"),
        ids: vec![format!("m{n}")],
        ch: "a".into(),
        q: "q".into(),
        msg: message("a", "m"),
        why: "no".into(),
        out: None,
        past: None,
    };
    let ledger = fold((0..KEEP_DEAD + 5).map(dead));
    assert_eq!((ledger.dead().count(), ledger.dead().next().unwrap().id.as_str()), (KEEP_DEAD, "e5"));
    let mut ledger = Ledger::default();
    ledger.apply(1, dead(0), KEEP_DEAD_BYTES);
    ledger.apply(1, dead(1), KEEP_DEAD_BYTES);
    assert_eq!((ledger.dead().count(), ledger.live_bytes()), (1, KEEP_DEAD_BYTES));
    ledger.apply(1, Record::Buried { e: "e1".into() }, 10);
    assert_eq!((ledger.dead().count(), ledger.live_bytes()), (0, 0));
}

#[test]
fn a_retracted_entry_was_never_there() {
    let mut ledger = fold([accepted("e1", &["m1"], "a")]);
    ledger.retract("e1");
    assert_eq!(ledger.known("a", "m1"), Known::No);
    assert_eq!((ledger.entry_count(), ledger.live_bytes()), (0, 0));
}

#[test]
fn notes_are_replaced_and_forgotten() {
    let note = |key: &str, n: i32| Record::Note { key: key.into(), value: n.into() };
    let ledger = fold([note("wake/1", 1), note("wake/2", 2), note("wake/1", 3), note("mark", 4)]);
    let found: Vec<_> = ledger.notes("wake/").map(|(k, n)| (k, n.value.clone())).collect();
    assert_eq!(found, [("wake/1", 3.into()), ("wake/2", 2.into())]);
    assert_eq!(ledger.live_bytes(), 300);
    let ledger = fold([note("mark", 4), Record::Forget { key: "mark".into() }]);
    assert_eq!((ledger.note("mark"), ledger.live_bytes()), (None, 0));
}

#[test]
fn finished_ids_are_bounded_by_age_and_number() {
    let keys = |n: usize| (0..n).map(|i| (SeenId::of(&format!("m{i}")), i as i64)).collect();
    let mut ledger = fold([Record::Seen { ch: "a".into(), keys: keys(KEEP_IDS + 10) }]);
    assert_eq!(ledger.known("a", "m9"), Known::No);
    assert_eq!(ledger.known("a", "m10"), Known::Terminal);
    let before = ledger.live_bytes();
    ledger.expire(KEEP_IDS_MS + 20);
    assert_eq!(ledger.known("a", "m19"), Known::No);
    assert_eq!(ledger.known("a", "m20"), Known::Terminal);
    assert!(ledger.live_bytes() < before);
    ledger.expire(i64::MAX);
    assert_eq!((ledger.live_bytes(), ledger.channels.len()), (0, 0));
}

#[test]
fn lines_of_unknown_kinds_are_bounded() {
    let mut ledger = Ledger::default();
    (0..=KEEP_UNKNOWN).for_each(|i| ledger.keep_unknown(format!("{i:05}")));
    assert_eq!(ledger.unknown().next(), Some("00001"));
    assert_eq!(ledger.live_bytes(), 5 * KEEP_UNKNOWN as u64);
}

#[test]
fn base_forgets_everything() {
    let ledger = fold([accepted("e1", &["m1"], "a"), started(&["e1"], "t1", 1), Record::Base {}]);
    assert_eq!(shape(&ledger), shape(&Ledger::default()));
}

const IDS: u64 = 24;

/// xorshift64*: enough for walking about, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn name(&mut self, prefix: char, n: u64) -> String {
        format!("{prefix}{}", self.below(n))
    }

    fn names(&mut self, prefix: char, n: u64) -> Vec<String> {
        (0..=self.below(3)).map(|_| self.name(prefix, n)).collect()
    }
}

/// Any record, sensible or not: small pools of names make them refer to each other. Only ids of a message
/// that is being worked on are not accepted again: that is what a ledger is asked before.
fn any_record(dice: &mut Dice, ledger: &Ledger) -> Record {
    let turn = dice.name('t', 10);
    let e = dice.name('e', 12);
    match dice.below(29) {
        0..=4 => {
            let ch = if dice.below(2) == 0 { "a" } else { "b" };
            let mut ids = dice.names('m', IDS);
            ids.retain(|id| !matches!(ledger.known(ch, id), Known::Pending { .. }));
            let msg = message(ch, "m");
            let session = Some(Announced { rt: "echo".into(), id: dice.name('s', 3) });
            let past = Past { attempts: 1, effects: dice.below(2) == 0, session, said: Vec::new() };
            let past = Some(past).filter(|_| dice.below(4) == 0);
            Record::Accepted { e, ids, ch: ch.into(), q: dice.name('q', 3), msg, past }
        }
        5..=8 => {
            let attempt = dice.below(3) as u32 + 1;
            Record::Started { e: dice.names('e', 12), turn, attempt, rt: dice.name('r', 2) }
        }
        9 => Record::Spawned { turn, pid: dice.below(100) as i32, start: dice.below(100) },
        10 => Record::Session { turn, id: dice.name('s', 3) },
        11 => Record::Effects { turn },
        12 | 13 => {
            let replies = dice.names('o', 30).iter().map(|id| reply(id, &turn)).collect();
            let replies = if dice.below(4) == 0 { Vec::new() } else { replies };
            let session = Some(dice.below(5).into());
            Record::Result { turn, out: Outcome { replies, session, why: dice.name('w', 4) } }
        }
        14 | 15 => Record::Sent { out: dice.name('o', 30), turn, provider: None },
        16 => Record::Unsent { out: dice.name('o', 30), turn, why: "no".into() },
        17 => Record::Interrupted { turn },
        18 => Record::Done { e: dice.names('e', 12), why: dice.name('w', 4) },
        19 => Record::Acked { e: dice.names('e', 12) },
        20 => Record::Hold { e, why: Some(dice.name('w', 2)).filter(|w| w != "w0") },
        21 => Record::Release { e },
        22 => Record::Parked { e, until: dice.below(100) as i64, why: "later".into() },
        23 => Record::Deferred {
            e: dice.names('e', 12),
            on: "codex".into(),
            why: "login".into(),
            until: dice.below(9) as i64,
        },
        24 => {
            let out = Some(Arc::new(reply("o99", "t99").as_ref().clone())).filter(|_| dice.below(2) == 0);
            let (ids, msg) = (vec!["m".into()], message("a", "m"));
            Record::Dead { e, ids, ch: "a".into(), q: "q".into(), msg, why: "no".into(), out, past: None }
        }
        25 => Record::Buried { e },
        26 | 27 => saying(&dice.name('o', 30), &turn, &dice.name('w', 4)),
        _ if dice.below(3) == 0 => Record::Forget { key: dice.name('k', 4) },
        _ => Record::Note { key: dice.name('k', 4), value: dice.below(9).into() },
    }
}

#[test]
fn what_was_said_by_tool_is_sent_and_not_said_again() {
    let mut ledger = fold([accepted("e0", &["m0"], "a"), started(&["e0"], "t0", 1), saying("o1", "t0", "k")]);
    ledger.apply(5, saying("o2", "t0", "l"), 10);
    assert!(ledger.entry("e0").unwrap().past.effects && ledger.turn("t0").unwrap().replies.is_empty());
    // The turn is interrupted and begins anew: what it said stays to be sent, and is known.
    let ledger = &mut rebuilt(&ledger);
    ledger.apply(6, started(&["e0"], "t1", 2), 10);
    assert_eq!(ledger.outbox().map(|o| o.message.id.as_str()).collect::<Vec<_>>(), ["o1", "o2"]);
    ledger.apply(7, Record::Sent { out: "o1".into(), turn: "t0".into(), provider: Some("p".into()) }, 10);
    let said = ledger.said("e0", "k").unwrap();
    assert_eq!((said.sent, said.provider.as_deref()), (true, Some("p")));
    // What was given up may be said again.
    ledger.apply(8, Record::Unsent { out: "o2".into(), turn: "t0".into(), why: "no".into() }, 10);
    assert_eq!((ledger.said("e0", "l"), ledger.outbox_count()), (None, 0));
    ledger.apply(9, result("t1", &[]), 10);
    ledger.apply(9, done(&["e0"], "gated"), 10);
    assert!(ledger.turns().next().is_none());
}

#[test]
fn compaction_rebuilds_the_same_state_on_any_walk() {
    for seed in 1..=150 {
        let mut dice = Dice::new(seed);
        let mut ledger = Ledger::default();
        let mut copy = Ledger::default();
        for t in 0..120 {
            let record = any_record(&mut dice, &ledger);
            ledger.apply(t, record.clone(), 100);
            copy.apply(t, record.clone(), 100);
            // The copy is compacted now and then; no later record may tell the two apart.
            if dice.below(5) != 0 {
                continue;
            }
            copy = rebuilt(&copy);
            let (a, b) = (shape(&ledger), shape(&copy));
            let differ = a.lines().zip(b.lines()).find(|(a, b)| a != b);
            assert!(a == b, "seed {seed}, after {record:?} at {t}: {differ:?}");
        }
    }
}

#[test]
fn bytes_come_back_to_nothing_when_all_is_finished() {
    for seed in 1..=50 {
        let mut dice = Dice::new(seed);
        let mut ledger = Ledger::default();
        for t in 0..200 {
            let record = any_record(&mut dice, &ledger);
            ledger.apply(t, record, 100);
        }
        let turns: Vec<_> = ledger.turns().map(|t| t.id.clone()).collect();
        for turn in turns {
            ledger.apply(300, result(&turn, &[]), 10);
        }
        let outs: Vec<_> = ledger.outbox().map(|i| (i.message.id.clone(), i.turn.clone())).collect();
        for (out, turn) in outs {
            ledger.apply(300, sent(&out, &turn), 10);
        }
        for i in 0..12 {
            let id = format!("e{i}");
            ledger.apply(300, done(&[&id], "x"), 10);
            ledger.apply(300, acked(&[&id]), 10);
            ledger.apply(300, Record::Buried { e: id }, 10);
        }
        (0..4).for_each(|i| ledger.apply(300, Record::Forget { key: format!("k{i}") }, 10));
        ledger.expire(i64::MAX);
        assert_eq!((ledger.live_bytes(), ledger.turns.len()), (0, 0), "seed {seed}");
    }
}
