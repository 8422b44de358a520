//! Every refusal of a send in the given order, and the odd answers to repeats.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Client, now};
use crate::hub::sign::Seed;
use crate::hub::{Hub, Rule};

/// A room of Ada and Bob, and Ada's client.
fn lab() -> (Hub, Client, Client, String) {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let room = hub.room("Lab", &[&bob, &ada]);
    let (a, b) = (Client::new(&hub, &ada), Client::new(&hub, &bob));
    (hub, a, b, room)
}

#[test]
fn the_checks_have_an_order() {
    let (hub, ada, bob, _) = lab();
    // Everything is wrong with this one; each step mends the next thing that is refused.
    let mut envelope = ada.envelope("rm_000000000000", json!({"text": "hi"}));
    envelope["type"] = "ack".into();
    envelope["from"] = bob.agent.id.clone().into();
    envelope["ts"] = (now() + 400).into();
    envelope["payload_hash"] = "sha256:0".into();
    envelope["sig"] = json!({"alg": "rsa", "key_id": "k_000000000000", "value": "AA=="});
    assert_eq!(ada.send(&envelope).status, 422);
    envelope["sig"]["alg"] = "ed25519".into();
    assert_eq!(ada.send(&envelope).refusal(), (403, "sender_does_not_match_token"));
    envelope["from"] = ada.agent.id.clone().into();
    assert_eq!(ada.send(&envelope).refusal(), (400, "send_invalid_type"));
    envelope["type"] = "message".into();
    assert_eq!(ada.send(&envelope).refusal(), (400, "timestamp_out_of_range"));
    envelope["ts"] = now().into();
    assert_eq!(ada.send(&envelope).refusal(), (400, "payload_hash_mismatch"));
    envelope["payload_hash"] = crate::hub::sign::payload_hash(&envelope["payload"]).into();
    assert_eq!(ada.send(&envelope).refusal(), (400, "signing_key_not_found_or_inactive"));
    envelope["sig"]["key_id"] = bob.agent.key_id.clone().into();
    assert_eq!(ada.send(&envelope).refusal(), (400, "key_does_not_belong_to_sender"));
    envelope["sig"]["key_id"] = ada.agent.key_id.clone().into();
    assert_eq!(ada.send(&envelope).refusal(), (400, "signature_verification_failed"));
    ada.seal(&mut envelope);
    assert_eq!(ada.send(&envelope).refusal(), (404, "room_not_found"));
    assert_eq!(hub.violations_of(Rule::BlindRepeat).len(), 6, "all but the one after the time stamp was refused");
}

#[test]
fn malformed_envelopes_are_named() {
    let (hub, ada, _, room) = lab();
    for (field, value) in [
        ("type", json!("shout")),
        ("ttl_sec", json!(0)),
        ("payload", json!([])),
        ("ts", json!("now")),
        ("reply_to", json!(7)),
        ("mentions", json!("ag_1")),
        ("msg_id", json!("x".repeat(65))),
    ] {
        let answer = ada.send(&ada.envelope_with(&room, "hi", &json!({field: value})));
        assert_eq!((answer.status, &answer.body["detail"][0]["loc"][1]), (422, &json!(field)));
    }
    assert_eq!(hub.violations(), [""; 0]);
    let strange = ada.envelope_with(&room, "hi", &json!({"msg_id": "ABC", "mood": "good", "mentions": []}));
    assert_eq!(ada.send(&strange).status, 202, "the hub itself does not mind");
    assert_eq!(hub.violations_of(Rule::Envelope).len(), 2);
    assert_eq!(hub.violations_of(Rule::MsgId).len(), 1);
    let old = ada.envelope_with(&room, "ho", &json!({"ts": now() - 20}));
    assert_eq!(ada.send(&old).status, 202);
    assert_eq!(hub.violations_of(Rule::StaleTs).len(), 1);
    hub.clock().skew(-1000);
    assert_eq!(ada.say(&room, "later").refusal(), (400, "timestamp_out_of_range"));
}

#[test]
fn rooms_have_rules_in_this_order() {
    let (hub, ada, bob, room) = lab();
    let stranger = Client::new(&hub, &hub.agent("Eve"));
    assert_eq!(stranger.say(&room, "hi").refusal(), (403, "not_a_member"));
    hub.set_room(&room, |room| room.default_send = false);
    assert_eq!(ada.say(&room, "hi").refusal(), (403, "only_owner_admin_can_post"));
    assert_eq!(bob.say(&room, "hi").status, 202, "the owner always may");
    hub.set_room(&room, |room| (room.default_send, room.slow_mode) = (true, Some(30)));
    assert_eq!(ada.say(&room, "one").status, 202);
    let slow = ada.say(&room, "one");
    assert_eq!(slow.refusal(), (429, "slow_mode_wait"), "before the check for duplicates");
    assert_eq!(slow.header("retry-after"), Some("30"));
    hub.set_room(&room, |room| room.slow_mode = None);
    let twice = ada.say(&room, "one");
    assert_eq!((twice.refusal(), twice.header("retry-after")), ((429, "duplicate_content"), None));
    hub.clock().advance(Duration::from_secs(301));
    assert_eq!(ada.say(&room, "one").status, 202);
}

#[test]
fn quotes_must_be_of_the_room() {
    let (hub, ada, bob, room) = lab();
    let elsewhere = hub.room("Den", &[&ada.agent, &bob.agent]);
    let there = bob.envelope(&elsewhere, json!({"text": "there"}));
    assert_eq!(bob.send(&there).status, 202);
    let quote = |text: &str, id: &Value| ada.send(&ada.envelope_with(&room, text, &json!({"reply_to": id})));
    assert_eq!(quote("a", &json!("nothing")).refusal(), (400, "reply_target_not_found"));
    assert_eq!(quote("b", &there["msg_id"]).refusal(), (400, "reply_target_cross_room"));
    assert_eq!(quote("b", &Value::Null).refusal(), (429, "duplicate_content"), "the refused try counts");
    let here = bob.say(&room, "here").body["hub_msg_id"].clone();
    assert_eq!(quote("c", &here).status, 202, "the id of a copy will do");
    let error = json!({"type": "error", "reply_to": "nothing"});
    assert_eq!(ada.send(&ada.envelope_with(&room, "d", &error)).status, 202, "not looked at in an error");
}

#[test]
fn repeats_are_stored_once() {
    let (hub, ada, bob, room) = lab();
    let mut first = ada.envelope(&room, json!({"text": "one"}));
    let stored = ada.send(&first).body;
    assert_eq!(ada.send(&first).refusal(), (429, "duplicate_content"));
    assert_eq!(hub.violations_of(Rule::BlindRepeat).len(), 1);
    let status = ada.get(&format!("/hub/status/{}", first["msg_id"].as_str().unwrap()));
    assert_eq!(status.body["state"], "queued");
    hub.clock().advance(Duration::from_secs(301));
    first["ts"] = now().into();
    ada.seal(&mut first);
    let again = ada.send(&first).body;
    assert_eq!(again["queued"], true);
    assert_ne!(again["hub_msg_id"], stored["hub_msg_id"], "it names nothing");
    assert_eq!(hub.violations(), [""; 0], "it was asked for before");
    assert_eq!(bob.poll().len(), 1, "one copy");

    let direct = ada.envelope(&bob.agent.id, json!({"text": "direct"}));
    let one = ada.send(&direct).body;
    hub.look(|world| assert!(world.attempts[direct["msg_id"].as_str().unwrap()].count == 1));
    let two = ada.send(&direct).body;
    assert_eq!(one["hub_msg_id"], two["hub_msg_id"]);
    assert_eq!(hub.violations_of(Rule::BlindRepeat).len(), 1);
    assert_eq!(bob.poll()[0]["room_id"], json!(crate::hub::deliver::direct_room(&ada.agent.id, &bob.agent.id)));

    let said = hub.owner_says(&ada.agent, "hi");
    let answer = ada.envelope_with(&said.room, "hello", &json!({"trace_id": said.hub_msg_id}));
    assert_eq!((ada.send(&answer).status, ada.send(&answer).status), (202, 202));
    assert_eq!(hub.violations_of(Rule::BlindRepeat).len(), 1);
    let books = hub.books();
    assert_eq!(books.sent.last().map(|sent| (sent.shown, sent.attempts)), Some((2, 2)), "its people see it twice");
    assert_eq!(ada.get("/hub/status/nothing").refusal(), (404, "message_not_found"));
    assert_eq!(bob.get(&format!("/hub/status/{}", answer["msg_id"].as_str().unwrap())).refusal().1, "not_the_sender");
}

#[test]
fn agents_choose_who_may_write() {
    let (hub, ada, bob, _) = lab();
    assert_eq!(ada.say("ag_000000000000", "hi").refusal(), (404, "unknown_agent"));
    assert_eq!(ada.say(&hub.person("Pat"), "hi").refusal(), (404, "unknown_agent"));
    hub.refuse_senders(&bob.agent, Some("not_in_contacts"));
    assert_eq!(ada.say(&bob.agent.id, "hi").refusal(), (403, "not_in_contacts"));
    hub.change(|world| world.agents.get_mut(&bob.agent.id).unwrap().blocked.insert(ada.agent.id.clone()));
    assert_eq!(ada.say(&bob.agent.id, "hi").refusal(), (403, "blocked"));
    hub.change(|world| world.agents.get_mut(&bob.agent.id).unwrap().blocked.clear());
    let request = |to: &str| ada.send(&ada.envelope_with(to, "let me in", &json!({"type": "contact_request"})));
    assert_eq!(request(&ada.agent.id).refusal(), (400, "cannot_send_contact_request_to_self"));
    assert_eq!(request(&bob.agent.id).status, 202);
    assert_eq!(request(&bob.agent.id).refusal(), (409, "contact_request_already_pending"));
    assert_eq!(bob.poll()[0]["room_id"], Value::Null);
}

#[test]
fn topics_go_by_title() {
    let (_hub, ada, bob, room) = lab();
    let send = |text: &str, fields: Value| ada.send(&ada.envelope_with(&room, text, &fields)).body["topic_id"].clone();
    let id = send("a", json!({"topic": "Launch", "goal": "ship"}));
    assert_eq!(send("b", json!({"topic": "Launch", "type": "error"})), id);
    let topic = |n: usize| ada.get(&format!("/hub/rooms/{room}/topics")).body["topics"][n].clone();
    assert_eq!((&topic(0)["status"], &topic(0)["goal"]), (&json!("failed"), &json!("ship")));
    send("c", json!({"topic": "Launch", "goal": "again"}));
    assert_eq!((&topic(0)["status"], &topic(0)["message_count"]), (&json!("open"), &json!(3)));
    send("d", json!({"topic": "Launch", "type": "result"}));
    assert_eq!(topic(0)["status"], "completed");
    let query = ada.post("/hub/send?topic=By%20query", &ada.envelope(&room, json!({"text": "e"})));
    assert_eq!(query.status, 202);
    assert_eq!(topic(1)["title"], "By query");
    assert_eq!(bob.poll()[4]["topic"], "By query");
    let long = ada.envelope_with(&room, "f", &json!({"topic": "x".repeat(257)}));
    assert_eq!(ada.send(&long).status, 500);
}

#[test]
fn limits_are_counted_in_order() {
    let (hub, ada, bob, room) = lab();
    for n in 0..10 {
        assert_eq!(ada.say(&room, &n.to_string()).status, 202);
    }
    let target = ada.say(&room, "more");
    assert_eq!(target.refusal(), (429, "conversation_rate_limit_exceeded"));
    assert!(target.header("retry-after").unwrap().parse::<u32>().unwrap() <= 60);
    let mut forged = ada.envelope(&bob.agent.id, json!({"text": "hi"}));
    forged["sig"]["value"] = Seed([1; 32]).sign(b"x").into();
    for _ in 0..9 {
        forged["msg_id"] = crate::client::uuid().into();
        assert_eq!(ada.send(&forged).status, 400);
    }
    assert_eq!(ada.say(&bob.agent.id, "x").refusal(), (429, "rate_limit_exceeded"), "refused ones count, too");
    assert_eq!(hub.violations_of(Rule::Pacing).len(), 2);
    hub.clock().advance(Duration::from_mins(1));
    assert_eq!(ada.say(&room, "more").status, 202);
}

#[test]
fn a_room_without_listeners_gives_it_back() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let room = hub.room("Cell", &[&ada]);
    let client = Client::new(&hub, &ada);
    assert_eq!(client.say(&room, "anybody?").status, 202);
    assert_eq!(client.poll()[0]["text"], "anybody?");
}

#[test]
fn a_receipt_needs_no_token() {
    let (hub, ada, bob, room) = lab();
    let question = ada.envelope(&room, json!({"text": "done?"}));
    ada.send(&question);
    let post = |envelope: &Value| bob.post_public("/hub/receipt", envelope);
    let mut receipt = bob.envelope_with("hub", "yes", &json!({"type": "message"}));
    assert_eq!(post(&receipt).refusal(), (400, "receipt_invalid_type"));
    receipt["type"] = "ack".into();
    assert_eq!(post(&receipt).refusal(), (400, "receipt_must_have_reply_to"));
    receipt["reply_to"] = "nothing".into();
    assert_eq!(post(&receipt).refusal(), (400, "signature_verification_failed"));
    bob.seal(&mut receipt);
    assert_eq!(post(&receipt).refusal(), (404, "original_message_not_found"));
    receipt["reply_to"] = question["msg_id"].clone();
    bob.seal(&mut receipt);
    assert_eq!(post(&receipt).body, json!({"received": true}));
    let status = ada.get(&format!("/hub/status/{}", question["msg_id"].as_str().unwrap()));
    assert_eq!(status.body["state"], "acked");
    assert_eq!(ada.poll()[0]["envelope"]["type"], "ack");
    drop(hub);
}
