//! What a daemon says at a hub, as the people there see it: the answer with its live signs and files, once whatever
//! happens; diagnostics and the mark on a message in groups; silence where the policy wants it.
#![allow(missing_docs)]

#[path = "../botcord_inbox/daemon.rs"]
#[allow(dead_code)]
mod daemon;
#[path = "../support/hub/mod.rs"]
mod hub;
#[path = "../support/mod.rs"]
mod support;

use std::fs;

use daemon::Home;
use hub::speech::Extra;
use hub::{AgentHandle, Endpoint, Fault, Hub, State};
use serde_json::{Value, json};

/// A home with the CLI of these tests.
fn home(name: &str, hub: &Hub, agents: &[&AgentHandle]) -> Home {
    let home = Home::new(name, &json!({})).with(hub, agents);
    fs::write(home.path().parent().unwrap().join("claude"), include_str!("agent.sh")).unwrap();
    home
}

fn mention(agent: &AgentHandle) -> Extra {
    Extra { mentions: vec![agent.id.clone()], ..Extra::default() }
}

#[test]
fn an_owner_sees_the_work_and_gets_the_answer_with_its_file() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let home = home("draw", &hub, &[&ada]);
    let _daemon = home.start();
    hub.wait_connected(&ada);
    let said = hub.owner_says(&ada, "please draw");
    let answer = hub.wait_answer(&said);
    assert_eq!((&answer["trace_id"], &answer["reply_to"]), (&json!(said.hub_msg_id), &json!(said.msg_id)));
    let file = &answer["payload"]["attachments"][0];
    assert_eq!((&file["filename"], &file["size_bytes"]), (&json!("cover.png"), &json!(7)));
    assert_eq!(answer["payload"]["text"], format!("Here it is: {}", file["url"].as_str().unwrap()));
    hub.wait_settled(&said);
    hub.wait_stream_end(&said);
    assert_eq!(hub.state(&said), State::Done);
    assert!(!hub.typings(&ada, &said.room).is_empty());
    let blocks = hub.blocks(&said);
    let kinds: Vec<&str> = blocks.iter().filter_map(|b| b["kind"].as_str()).collect();
    let words: String = blocks.iter().filter_map(|b| b["payload"]["text"].as_str()).collect();
    assert!(words.contains("I draw. ") && words.contains("Here it is."), "{blocks:?}");
    assert!(kinds.contains(&"tool_call") && kinds.contains(&"tool_result") && kinds.contains(&"thinking"), "{kinds:?}");
    let all = Value::Array(blocks).to_string();
    assert!(!all.contains("sk-1234567890abcdef") && !all.contains("\"raw\""), "{all}");
}

#[test]
fn an_answer_is_there_once_though_its_confirmation_is_lost_and_the_daemon_is_killed() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let home = home("once", &hub, &[&ada]);
    let daemon = home.start();
    hub.wait_connected(&ada);
    let first = hub.owner_says(&ada, "one");
    hub.wait_text(&first);
    hub.wait_settled(&first);
    // Stored, but the daemon cannot find out.
    hub.fault(Endpoint::Send, Fault::DropAfter, 1);
    hub.break_down(Endpoint::Status, Fault::status(503));
    let said = hub.owner_says(&ada, "two");
    hub.wait_text(&said);
    hub.wait_until("the daemon asks", |world| world.rows.iter().any(|row| row.endpoint == Some(Endpoint::Status)));
    daemon.kill();
    hub.heal();
    let _daemon = home.start();
    hub.wait_settled(&said);
    hub.wait_stream_end(&said);
    let books = hub.books();
    assert_eq!(books.sent.iter().map(|s| s.text.as_str()).collect::<Vec<_>>(), ["answer to one", "answer to two"]);
    assert!(books.sent.iter().all(|sent| sent.attempts == 1), "{:?}", books.sent);
    assert_eq!(home.runs().len(), 2, "no turn ran again");
}

#[test]
fn a_group_sees_who_is_at_work_and_what_went_wrong_but_no_plain_text() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let room = hub.room("Lab", &[&ada, &bob]);
    let home = home("group", &hub, &[&ada]);
    let _daemon = home.start();
    hub.wait_connected(&ada);
    let asked = hub.says_more(&bob, &room, "check this, please wait", mention(&ada));
    hub.wait_until("the mark is on", |world| world.reactions.iter().any(|r| r.msg_id == asked));
    home.go();
    hub.wait_settled(&hub.copy_of(&asked, &ada));
    hub.wait_until("the mark is off", |world| {
        world.rows.iter().any(|row| row.endpoint == Some(Endpoint::Unreact) && row.status == 204)
    });
    assert_eq!(hub.heard(&room), [Value::Null; 0], "the agent speaks there by tool alone");
    let context = fs::read_to_string(home.path().parent().unwrap().join("runs/1.context")).unwrap();
    assert!(context.contains("[BotCord Room Context]") && context.contains("Bob"), "{context}");
    let failing = hub.says_more(&bob, &room, "please fail", mention(&ada));
    let error = hub.wait_heard(&room, &ada, "Runtime error");
    assert_eq!((error["type"].as_str(), error["reply_to"].as_str()), (Some("error"), Some(failing.as_str())));
    hub.wait_settled(&hub.copy_of(&failing, &ada));
}

#[test]
fn a_policy_holds_also_while_the_hub_does_not_tell_it() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let room = hub.room("Lab", &[&ada, &bob]);
    hub.set_policy(&ada, Some(&room), json!({"mode": "mention_only"}));
    let home = home("policy", &hub, &[&ada]);
    let daemon = home.start();
    hub.wait_connected(&ada);
    let quiet = hub.says(&bob, &room, "just talking");
    hub.wait_settled(&hub.copy_of(&quiet, &ada));
    daemon.kill();
    hub.break_down(Endpoint::Policy, Fault::status(503));
    let _daemon = home.start();
    let quiet = hub.says(&bob, &room, "still talking");
    hub.wait_settled(&hub.copy_of(&quiet, &ada));
    assert_eq!(home.runs(), [""; 0]);
    let loud = hub.says_more(&bob, &room, "now listen", mention(&ada));
    hub.wait_settled(&hub.copy_of(&loud, &ada));
    assert_eq!(home.runs().len(), 1);
}

#[test]
fn a_storm_of_refusals_delays_answers_and_changes_nothing_else() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let home = home("storm", &hub, &[&ada]);
    let _daemon = home.start();
    hub.wait_connected(&ada);
    hub.fault(Endpoint::Send, Fault::too_many("rate_limit_exceeded", Some("1")), 7);
    let mut texts = Vec::new();
    for word in ["one", "two", "three"] {
        let said = hub.owner_says(&ada, word);
        texts.push(hub.wait_text(&said));
        hub.wait_stream_end(&said);
    }
    assert_eq!(texts, ["answer to one", "answer to two", "answer to three"]);
    assert_eq!(hub.books().sent.len(), 3);
}
