//! Hubs that are out of order: what they give twice, backwards or in a form that nobody has asked for, clocks that are
//! wrong, and connections that are taken only to be dropped.

use std::collections::BTreeSet;

use serde_json::json;

use crate::daemon::Home;
use crate::hub::state::World;
use crate::hub::{Endpoint, Fault, Hub, Said};

fn sockets(world: &World) -> usize {
    world.rows.iter().filter(|row| row.endpoint == Some(Endpoint::Socket)).count()
}

#[test]
fn what_comes_again_while_it_is_worked_on_or_backwards_is_answered_once() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let home = Home::new("again", &json!({})).with(&hub, &[&ada]);
    let chat = |word: &str| hub.owner_says_more(&ada, Some(word), json!({"text": format!("chat {word}")}));
    let is_over = |said: &Said| {
        hub.wait_answer(said);
        hub.wait_settled(said);
    };
    hub.fault(Endpoint::Inbox, Fault::Reverse, 1);
    let first = hub.owner_says(&ada, "please wait here");
    let others: Vec<Said> = ["b", "c", "d"].into_iter().map(chat).collect();
    let daemon = home.start();
    others.iter().for_each(is_over);
    home.wait_runs(4);
    // What is worked on is handed out once more, beside something new.
    hub.fault(Endpoint::Inbox, Fault::Redeliver, 1);
    is_over(&chat("e"));
    assert_eq!((hub.handed(&first), home.runs().len()), (2, 5));
    home.go();
    assert_eq!(hub.wait_text(&first), "answer to here");
    hub.wait_settled(&first);
    daemon.stop();
    assert_eq!(home.runs().len(), 5);
    let books = hub.books();
    let answers: BTreeSet<String> = books.entries.iter().flat_map(|entry| entry.answers.clone()).collect();
    let expected = ["here", "b", "c", "d", "e"].map(|word| format!("answer to {word}"));
    assert_eq!((answers, books.sent.len()), (BTreeSet::from(expected), 5));
}

#[test]
fn frames_that_mean_nothing_leave_the_connection_as_it_is() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    for odd in [
        Fault::Binary(vec![0, 159, 146, 150]),
        Fault::Text("\u{1b}[2J no json".into()),
        Fault::Text(r#"{"type":["inbox_update"]}"#.into()),
        Fault::Text(format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000))),
    ] {
        hub.fault(Endpoint::Socket, odd, 1);
        let home = Home::new("frames", &json!({})).with(&hub, &[&ada]);
        let before = hub.look(sockets);
        let daemon = home.start();
        hub.wait_connected(&ada);
        let said = hub.owner_says(&ada, "Still there?");
        assert_eq!(hub.wait_text(&said), "answer to there");
        hub.wait_settled(&said);
        hub.wait_stream_end(&said);
        daemon.stop();
        assert_eq!(hub.look(sockets), before + 1);
        assert!(!home.log().contains('\u{1b}'));
    }
}

#[test]
fn an_hour_between_the_clocks_is_no_reason_to_be_silent() {
    for skew in [3_600, -3_600] {
        let hub = Hub::start();
        hub.clock().skew(skew);
        let ada = hub.agent("Ada");
        let home = Home::new("clocks", &json!({})).with(&hub, &[&ada]);
        hub.expire_tokens(&ada);
        let daemon = home.start();
        for word in ["one", "two"] {
            let said = hub.owner_says(&ada, word);
            assert_eq!(hub.wait_text(&said), format!("answer to {word}"), "{skew}");
            hub.wait_settled(&said);
            hub.wait_stream_end(&said);
        }
        daemon.stop();
        assert_eq!(hub.requests(Endpoint::Refresh).len(), 1, "a token lasts as long as it lasts: {skew}");
        let attempts: Vec<_> = hub.books().sent.iter().map(|sent| sent.attempts).collect();
        assert_eq!(attempts, [2, 1], "the clock is set once: {skew}");
    }
}

#[test]
fn a_hub_that_takes_connections_only_to_drop_them_is_tried_less_and_less() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    hub.break_down(Endpoint::Socket, Fault::DropBefore);
    let home = Home::new("dropped", &json!({})).with(&hub, &[&ada]);
    let daemon = home.start();
    home.wait_log("attempt=3");
    assert_eq!(hub.look(|world| world.faults.fired), 3, "one connection for each attempt");
    let log = home.log();
    let waits: Vec<u64> = log
        .lines()
        .filter(|line| line.contains("botcord.down"))
        .filter_map(|line| line.split("retry_ms=").nth(1)?.split(' ').next()?.parse().ok())
        .collect();
    for (wait, least) in waits.iter().zip([1_000, 2_000, 4_000]) {
        assert!((least..=least * 5 / 4).contains(wait), "{waits:?}");
    }
    assert_eq!(waits.len(), 3, "{log}");
    hub.heal();
    let said = hub.owner_says(&ada, "Back again?");
    assert_eq!(hub.wait_text(&said), "answer to again");
    hub.wait_settled(&said);
    hub.wait_stream_end(&said);
    daemon.stop();
}
