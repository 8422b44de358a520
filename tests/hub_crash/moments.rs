//! Kills at the moments that matter, one by one.

use std::time::Duration;

use crate::books;
use crate::chats::{self, Owners};
use crate::daemon::Home;
use crate::hub::{Endpoint, Fault, Hub, Rule, Said, State};
use crate::support::child::eventually;

/// A hub, a home with one agent, and something said to it.
fn begin(name: &str, kind: &str) -> (Hub, Home, String, Said) {
    let (hub, home, owners) = (chats::hub(), Home::new(name), Owners::default());
    hub.allow(Rule::BlockOrder);
    hub.allow(Rule::NoStreamEnd);
    let agent = &chats::agents(&hub, &home, 1)[0];
    let id = owners.say(&hub, agent, "chat", kind);
    let said = owners.said.lock().unwrap()[&id].clone();
    (hub, home, id, said)
}

fn one_answer(hub: &Hub, said: &Said, text: &str) {
    assert_eq!(hub.wait_text(said), text);
    hub.wait_settled(said);
    let books = hub.books();
    assert_eq!(books.entries[0].answers, [text]);
    assert_eq!(books.sent.iter().map(|sent| sent.shown).collect::<Vec<_>>(), [1]);
}

#[test]
fn between_the_poll_and_the_end_of_the_turn() {
    let (hub, home, id, said) = begin("mid-turn", "wait");
    let daemon = home.start();
    eventually("the turn runs", || home.runs(&id) == 1);
    hub.wait_state(&said, State::Processing);
    daemon.kill();
    home.go();
    let _daemon = home.start();
    one_answer(&hub, &said, &format!("answer to {id}"));
    assert_eq!(home.runs(&id), 2);
}

#[test]
fn between_the_poll_and_the_journal() {
    let (hub, home, id, said) = begin("poll", "fast");
    // The answer to the poll never arrives whole: only the lease brings the message back.
    hub.fault(Endpoint::Inbox, Fault::DropHalfway, 1);
    let daemon = home.start();
    hub.wait_until("it is claimed", |world| world.copy(&said.hub_msg_id).unwrap().handed == 1);
    daemon.kill();
    let _daemon = home.start();
    one_answer(&hub, &said, &format!("answer to {id}"));
    assert_eq!((home.runs(&id), hub.handed(&said)), (1, 2));
}

#[test]
fn between_the_answer_stored_and_confirmed() {
    let (hub, home, id, said) = begin("confirm", "fast");
    hub.fault(Endpoint::Send, Fault::Delay(Duration::from_millis(1)), 1);
    hub.fault(Endpoint::Send, Fault::DropAfter, 1);
    hub.break_down(Endpoint::Status, Fault::Stall);
    let daemon = home.start();
    hub.wait_answer(&said);
    hub.wait_until("the daemon asks what became of it", |world| {
        world.rows.iter().any(|row| row.endpoint == Some(Endpoint::Status))
    });
    daemon.kill();
    hub.heal();
    let _daemon = home.start();
    one_answer(&hub, &said, &format!("answer to {id}"));
    assert_eq!(home.runs(&id), 1, "an answered turn is not run again");
}

#[test]
fn between_the_answer_and_the_acknowledgement() {
    let (hub, home, id, said) = begin("ack", "fast");
    hub.break_down(Endpoint::Ack, Fault::status(503));
    hub.break_down(Endpoint::StreamEnd, Fault::status(503));
    let daemon = home.start();
    hub.wait_answer(&said);
    daemon.kill();
    hub.heal();
    let _daemon = home.start();
    one_answer(&hub, &said, &format!("answer to {id}"));
    hub.wait_stream_end(&said);
    assert_eq!(home.runs(&id), 1);
    let runs = &books::runs(&home.ledger())[&id];
    assert_eq!(runs[0].life, 1);
}

#[test]
fn between_the_acknowledgement_and_the_end_of_the_stream() {
    let (hub, home, owners) = (chats::hub(), Home::new("end"), Owners::default());
    hub.allow(Rule::NoStreamEnd);
    let agent = &chats::agents(&hub, &home, 1)[0];
    let says = || {
        let id = owners.say(&hub, agent, "chat", "fast");
        let said = owners.said.lock().unwrap()[&id].clone();
        (id, said)
    };
    hub.break_down(Endpoint::StreamEnd, Fault::Stall);
    let daemon = home.start();
    let (id, said) = says();
    hub.wait_answer(&said);
    hub.wait_settled(&said);
    hub.wait_until("it is told of the end", |world| {
        world.rows.iter().any(|row| row.endpoint == Some(Endpoint::StreamEnd))
    });
    daemon.kill();
    hub.heal();
    let daemon = home.start();
    hub.wait_stream_end(&said);
    one_answer(&hub, &said, &format!("answer to {id}"));
    assert_eq!(home.runs(&id), 1);
    assert!(daemon.stop().success());
    // What the hub knows now it is not told again.
    let daemon = home.start();
    hub.wait_stream_end(&says().1);
    assert!(daemon.stop().success());
    assert_eq!(hub.requests(Endpoint::StreamEnd).len(), 3);
}

#[test]
fn the_hub_is_away_when_the_answer_is_ready() {
    let (hub, home, id, said) = begin("away", "wait");
    let daemon = home.start();
    eventually("the turn runs", || home.runs(&id) == 1);
    hub.stop();
    home.go();
    eventually("the turn is over", || home.ledger().contains("end "));
    hub.start_again();
    one_answer(&hub, &said, &format!("answer to {id}"));
    assert_eq!(home.runs(&id), 1);
    assert!(daemon.stop().success());
}
