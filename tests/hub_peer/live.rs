//! Blocks, ends, typing, reactions, notices, files, rooms and policies.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Client;
use crate::hub::{Hub, Rule, State};

fn block(trace: &str, seq: u64, block: Value) -> Value {
    json!({"trace_id": trace, "seq": seq, "block": block})
}

#[test]
fn blocks_are_checked_and_kept_in_order() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let client = Client::new(&hub, &ada);
    let said = hub.owner_says(&ada, "hi");
    let trace = said.hub_msg_id.as_str();
    let post = |body: &Value| client.post("/hub/stream-block", body).status;
    let text = |seq: u64| json!({"kind": "assistant", "seq": seq, "payload": {"text": "x"}});
    assert_eq!(post(&block(trace, 0, text(0))), 422);
    assert_eq!(post(&block(&"t".repeat(49), 1, text(1))), 422);
    assert_eq!(post(&json!({"trace_id": trace, "seq": 1})), 422);
    assert_eq!(post(&block("h_unknown", 1, text(1))), 204, "silently");
    for seq in 1..=205 {
        assert_eq!(post(&block(trace, seq, text(seq))), 204);
    }
    assert_eq!(hub.blocks(&said).len(), 200);
    assert_eq!(hub.violations(), [""; 0]);
    assert_eq!(post(&block(trace, 205, text(205))), 204);
    assert_eq!(hub.violations_of(Rule::BlockOrder).len(), 1);
    assert_eq!(post(&block(trace, 206, json!({"kind": "other", "seq": 206, "payload": {}, "raw": {}}))), 204);
    assert_eq!(hub.violations_of(Rule::RawBlock).len(), 1);
    assert_eq!(post(&json!({"trace_id": trace, "seq": 207, "block": text(207), "mood": 1})), 204);
    assert_eq!(hub.violations_of(Rule::UnknownField).len(), 1);

    let answer = client.envelope_with(&said.room, "hello", &json!({"trace_id": trace}));
    assert_eq!(client.send(&answer).status, 202);
    assert_eq!(post(&block(trace, 208, text(208))), 204);
    assert_eq!(hub.violations_of(Rule::BlockAfterAnswer).len(), 1);
    hub.change(|world| world.traces.get_mut(trace).unwrap().answers[0].1 -= 6000);
    assert_eq!(hub.violations_of(Rule::NoStreamEnd).len(), 1);
    assert_eq!(client.post("/hub/stream-end", &json!({"trace_id": trace})).status, 204);
    assert_eq!(hub.state(&said), State::Done);
}

#[test]
fn an_answer_without_a_trace_ends_the_newest_run() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let client = Client::new(&hub, &ada);
    let (first, second) = (hub.owner_says(&ada, "one"), hub.owner_says(&ada, "two"));
    assert_eq!(client.say(&first.room, "hello").status, 202);
    let answers = |said: &crate::hub::Said| hub.look(|world| world.traces[&said.hub_msg_id].answers.len());
    assert_eq!((answers(&first), answers(&second)), (0, 1));
    hub.allow(Rule::NoStreamEnd);
}

#[test]
fn typing_is_limited() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let room = hub.room("Lab", &[&ada, &bob]);
    let client = Client::new(&hub, &ada);
    let typing = |room: &str| client.post("/hub/typing", &json!({"room_id": room}));
    assert_eq!(typing("rm_000000000000").refusal(), (404, "room_not_found"));
    assert_eq!(typing(&hub.room("Other", &[&bob])).refusal(), (403, "not_a_member"));
    assert_eq!((typing(&room).status, typing(&room).status), (204, 204));
    assert_eq!(hub.typings(&ada, &room).len(), 1, "not again within two seconds");
    for _ in 0..18 {
        assert_eq!(typing(&room).status, 204);
    }
    let many = typing(&room);
    assert_eq!((many.status, many.header("retry-after")), (429, None));
    assert_eq!(hub.violations_of(Rule::Pacing).len(), 1);
    hub.clock().advance(Duration::from_mins(1));
    assert_eq!(typing(&room).status, 204);
}

#[test]
fn reactions_belong_to_a_turn() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let room = hub.room("Lab", &[&bob, &ada]);
    let client = Client::new(&hub, &ada);
    let msg_id = hub.says(&bob, &room, "hi");
    let body =
        |turn: &str| json!({"room_id": room, "turn_id": turn, "kind": "replying", "emoji": "⏳", "ttl_sec": 1800});
    let set = |id: &str, body: &Value| client.post(&format!("/hub/messages/{id}/status-reactions"), body);
    assert_eq!(set(&hub.copy_of(&msg_id, &ada).hub_msg_id, &body("t1")).refusal(), (404, "message_not_found"));
    for (field, value, status) in [
        ("ttl_sec", json!(4), 422),
        ("ttl_sec", json!(1801), 422),
        ("turn_id", json!(""), 422),
        ("emoji", json!("x".repeat(17)), 422),
        ("kind", json!("thinking"), 400),
    ] {
        let mut bad = body("t1");
        bad[field] = value;
        assert_eq!(set(&msg_id, &bad).status, status, "{field}");
    }
    assert_eq!(set(&msg_id, &body("t1")).status, 204);
    let clear = |turn: &str| {
        let body = json!({"room_id": room, "turn_id": turn});
        client.ask(&format!("DELETE /hub/messages/{msg_id}/status-reactions/replying"), &body).status
    };
    assert_eq!((clear("t2"), hub.reactions(&msg_id).len()), (204, 1), "another turn's");
    assert_eq!(clear("t1"), 204);
    assert!(!hub.reactions(&msg_id)[1].set);
}

#[test]
fn owners_are_notified() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let client = Client::new(&hub, &ada);
    let notify = |text: &str| client.post("/hub/notify-owner", &json!({"text": text})).status;
    assert_eq!((notify(""), notify(&"x".repeat(8001))), (422, 422));
    for n in 0..10 {
        assert_eq!(notify(&n.to_string()), 204);
    }
    assert_eq!(notify("one more"), 429);
    assert_eq!(hub.notified(&ada).len(), 10);
    assert_eq!(hub.violations_of(Rule::Pacing).len(), 1);
}

fn multipart(client: &Client, name: &str, kind: &str, bytes: &[u8], part: &str) -> crate::client::Answer {
    let mut headers = client.headers();
    headers.push(("Content-Type".into(), "multipart/form-data; boundary=XyZ".into()));
    let mut body = format!(
        "--XyZ\r\nContent-Disposition: form-data; name=\"{part}\"; filename=\"{name}\"\r\nContent-Type: {kind}\r\n\r\n"
    )
    .into_bytes();
    body.extend(bytes);
    body.extend(b"\r\n--XyZ--\r\n");
    client.raw("POST /hub/upload", &headers, &body).unwrap()
}

#[test]
fn files_go_up_and_down() {
    let hub = Hub::start();
    let client = Client::new(&hub, &hub.agent("Ada"));
    let up = |name: &str, kind: &str, bytes: &[u8]| multipart(&client, name, kind, bytes, "file");
    assert_eq!(multipart(&client, "a.png", "image/png", b"x", "other").status, 422);
    assert_eq!(up("a.png", "image/png", b"").refusal(), (400, "empty_file"));
    assert_eq!(up("a.exe", "application/x-msdownload", b"x").refusal(), (400, "mime_type_not_allowed"));
    hub.change(|world| world.settings.file_limit = 8);
    assert_eq!(up("a.png", "image/png", b"123456789").refusal(), (413, "file_too_large"));
    let stored = up("../dir/ä b.png", "image/png", b"a\r\n--Xy\0").body;
    assert_eq!((&stored["original_filename"], &stored["size_bytes"]), (&json!("ä b.png"), &json!(8)));
    let path = stored["url"].as_str().unwrap().strip_prefix(&hub.url()).unwrap().to_owned();
    let down = || client.raw(&format!("GET {path}"), &[], b"").unwrap();
    assert_eq!(down().bytes, b"a\r\n--Xy\0");
    assert_eq!(down().header("content-type"), Some("image/png"));
    let disposition = "attachment; filename=\"__b.png\"; filename*=UTF-8''%C3%A4%20b%2Epng";
    assert_eq!(down().header("content-disposition"), Some(disposition));
    client.get(&path);
    assert_eq!(hub.violations_of(Rule::Headers).len(), 1, "the token does not belong there");
    hub.clock().advance(Duration::from_hours(1));
    assert_eq!(down().refusal(), (404, "file_expired"));
    assert_eq!(client.raw("GET /hub/files/f_0", &[], b"").unwrap().refusal(), (404, "file_not_found"));
}

#[test]
fn rooms_can_be_looked_up() {
    let hub = Hub::start();
    let (ada, bob, eve) = (hub.agent("Ada"), hub.agent("Bob"), hub.agent("Eve"));
    let client = Client::new(&hub, &ada);
    let body = json!({"name": "Lab", "rule": "Be brief.", "member_ids": [bob.id]});
    let made = client.post("/hub/rooms", &body);
    assert_eq!(made.status, 201);
    let room = made.body["room_id"].as_str().unwrap();
    let seen = client.get(&format!("/hub/rooms/{room}")).body;
    assert_eq!(seen, made.body);
    assert_eq!((&seen["rule"], &seen["member_count"]), (&json!("Be brief."), &json!(2)));
    assert_eq!((&seen["members"][0]["role"], &seen["members"][1]["agent_id"]), (&json!("owner"), &json!(bob.id)));
    assert_eq!(client.get("/hub/rooms/me").body["rooms"][0]["room_id"], room);
    let outside = Client::new(&hub, &eve);
    assert_eq!(outside.get(&format!("/hub/rooms/{room}")).refusal(), (403, "not_a_member"));
    assert_eq!(outside.get("/hub/rooms/rm_000000000000").refusal(), (404, "room_not_found"));

    for n in 0..5 {
        hub.says(&bob, room, &format!("m{n}"));
    }
    let page = |query: &str| client.get(&format!("/hub/rooms/{room}/messages?{query}"));
    let texts = |query: &str| -> (Vec<String>, bool) {
        let body = page(query).body;
        let messages = body["messages"].as_array().unwrap().iter();
        (messages.map(|m| m["text"].as_str().unwrap().to_owned()).collect(), body["has_more"].as_bool().unwrap())
    };
    assert_eq!(texts("limit=2"), (vec!["m4".into(), "m3".into()], true));
    let third = page("limit=3").body["messages"][2]["hub_msg_id"].as_str().unwrap().to_owned();
    assert_eq!(texts(&format!("before={third}")), (vec!["m1".into(), "m0".into()], false));
    assert_eq!(texts(&format!("after={third}")), (vec!["m4".into(), "m3".into()], false));
    assert_eq!(page(&format!("before={third}&after={third}")).refusal(), (400, "before_after_exclusive"));
    assert_eq!(page("before=h_0").refusal(), (400, "invalid_cursor"));
    assert_eq!((page("limit=0").status, page("limit=51").status), (422, 422));
    assert_eq!(texts(&format!("sender_id={}", ada.id)), (vec![], false));
}

#[test]
fn policies_are_by_room() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let client = Client::new(&hub, &ada);
    let (room, other) = (hub.room("Lab", &[&ada]), hub.room("Den", &[&ada]));
    let mode = |query: &str| client.get(&format!("/hub/attention-policy{query}")).body["mode"].clone();
    assert_eq!(mode(""), "always");
    hub.set_policy(&ada, None, json!({"mode": "mention_only", "keywords": [], "allowedSenderIds": []}));
    hub.set_policy(&ada, Some(&room), json!({"mode": "muted", "keywords": [], "allowedSenderIds": []}));
    assert_eq!((mode(""), mode(&format!("?room_id={room}"))), (json!("mention_only"), json!("muted")));
    assert_eq!(mode(&format!("?room_id={other}")), "mention_only");
    assert_eq!(mode(&format!("?room_id={}", hub.owner_room(&ada))), "always");
    assert_eq!(client.get("/hub/attention-policy?room_id=rm_0").refusal(), (404, "room_not_found"));
}
