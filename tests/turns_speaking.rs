//! How replies and live signs reach a channel: what is repeated, what waits for what.

mod support;

use std::time::Duration;

use bellhop::engine::ports::{Delivery, StreamPace};
use bellhop::message::{BlockKind, Trace};
use support::engine::{Build, FakeChannel, Harness, answer, block, message, script};

#[test]
fn what_a_far_side_puts_off_does_not_count_as_a_failure() {
    let h = Harness::new("put_off");
    let later = || Delivery::Transient { after: Some(Duration::from_millis(1)), why: "429".into() };
    *h.channel.deliveries.lock().unwrap() = std::iter::repeat_with(later).take(20).collect();
    let settled = h.handle(message("m", "hello"));
    assert_eq!((settled.why.as_str(), h.channel.sent.len()), ("delivered", 21));
}

#[test]
fn a_patient_channel_is_tried_on_until_its_patience_ends() {
    let down = || Delivery::Transient { after: None, why: "503".into() };
    for (patience, why) in [(Duration::from_hours(1), "delivered"), (Duration::ZERO, "send_failed")] {
        let channel = FakeChannel { patience: Some(patience), ..FakeChannel::botcord() };
        let h = Harness::build("patience", Build { channel, ..Build::default() });
        *h.channel.deliveries.lock().unwrap() = std::iter::repeat_with(down).take(12).collect();
        assert_eq!(h.handle(message("m", "hello")).why, why);
    }
}

#[test]
fn while_it_is_unknown_whether_a_reply_arrived_it_is_not_repeated() {
    let h = Harness::new("unknown");
    let unknown = || Delivery::Uncertain { why: "cut off".into() };
    let wait = Delivery::Transient { after: Some(Duration::from_millis(1)), why: "not there, not yet".into() };
    *h.channel.deliveries.lock().unwrap() = vec![unknown(), unknown(), unknown(), wait];
    assert_eq!(h.handle(message("m", "hello")).why, "delivered");
    let calls: Vec<String> = h.order.all().into_iter().filter(|o| o == "resolve" || o.starts_with("send")).collect();
    assert_eq!(calls, ["send ok", "resolve", "resolve", "resolve", "send ok"]);
}

#[test]
fn words_are_gathered_and_out_before_the_reply_and_the_stream_ends_after_it() {
    let pace = StreamPace { gather: Duration::from_hours(1), gather_bytes: 100, ..StreamPace::default() };
    let channel = FakeChannel { stream_pace: pace, ..FakeChannel::botcord() };
    let run = script(|_, _, _, sink| {
        for (n, text) in ["one ", "two ", "three"].iter().enumerate() {
            let mut words = block(BlockKind::AssistantText, n as u64 + 1);
            words.digest.text = Some((*text).to_owned());
            sink.block(words);
        }
        Ok(answer("one two three", "s"))
    });
    let h = Harness::build("gather", Build { channel, script: run, ..Build::default() });
    let mut m = message("m", "hello");
    m.trace = Some(Trace { id: "m".into(), streamable: true });
    h.handle(m);
    let words: String = h.channel.blocks.all().iter().filter_map(|b| b.digest.text.clone()).collect();
    assert_eq!(words, "one two three");
    assert!(h.channel.blocks.len() <= 2, "the first words at once, the others together");
    let order = h.order.all();
    let at = |what: &str| order.iter().position(|o| o.starts_with(what)).unwrap();
    assert!(at("block") < at("send") && at("send") < at("end m") && at("end m") < at("ack m"), "{order:?}");
}
