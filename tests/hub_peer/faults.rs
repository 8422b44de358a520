//! Faults, crashes, strictness about requests, and paths that are not there.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;
use crate::hub::faults::Plan;
use crate::hub::{Endpoint, Fault, Hub, Rule, State};

const POLL: &str = "GET /hub/inbox?limit=50&ack=false";

fn one() -> (Hub, Client) {
    let hub = Hub::start();
    let client = Client::new(&hub, &hub.agent("Ada"));
    (hub, client)
}

#[test]
fn connections_end_where_they_are_told() {
    let (hub, client) = one();
    let said = hub.owner_says(&client.agent, "hi");
    let room = said.room.clone();
    hub.fault(Endpoint::Send, Fault::DropBefore, 1);
    let first = client.envelope(&room, json!({"text": "one"}));
    assert!(client.try_ask("POST /hub/send", &first).is_none());
    assert!(hub.books().sent.is_empty() && hub.books().tried.is_empty(), "never seen");
    hub.fault(Endpoint::Send, Fault::DropAfter, 1);
    assert!(client.try_ask("POST /hub/send", &first).is_none());
    assert_eq!(hub.books().sent.len(), 1, "stored all the same");
    hub.fault(Endpoint::Send, Fault::DropHalfway, 1);
    let second = client.envelope(&room, json!({"text": "two"}));
    assert!(client.try_ask("POST /hub/send", &second).is_none());
    assert_eq!(hub.books().sent.len(), 2);
    assert_eq!(hub.violations(), [""; 0]);
    client.send(&second);
    assert_eq!(hub.violations_of(Rule::BlindRepeat).len(), 1);
    hub.allow(Rule::NoStreamEnd);
}

#[test]
fn answers_are_spoilt() {
    let (hub, client) = one();
    hub.fault(Endpoint::Inbox, Fault::unauthorized(), 1);
    assert_eq!(client.ask(POLL, &Value::Null).refusal(), (401, "invalid_token"));
    hub.fault(Endpoint::Inbox, Fault::too_many("slow_down", Some("7")), 1);
    let many = client.ask(POLL, &Value::Null);
    assert_eq!((many.status, many.header("retry-after")), (429, Some("7")));
    hub.fault(Endpoint::Inbox, Fault::html(404), 1);
    let html = client.ask(POLL, &Value::Null);
    assert_eq!((html.status, html.header("content-type"), &html.body), (404, Some("text/html"), &Value::Null));
    hub.fault(Endpoint::Inbox, Fault::ContentType("text/plain"), 1);
    assert_eq!(client.ask(POLL, &Value::Null).header("content-type"), Some("text/plain"));
    hub.fault(Endpoint::Inbox, Fault::Truncate, 1);
    let short = client.ask(POLL, &Value::Null);
    assert!(short.status == 200 && short.body.is_null() && !short.bytes.is_empty());
    hub.fault(Endpoint::Inbox, Fault::EmptyButMore, 1);
    assert_eq!(client.ask(POLL, &Value::Null).body, json!({"messages": [], "count": 0, "has_more": true}));

    for n in 0..4 {
        hub.owner_says(&client.agent, &n.to_string());
    }
    hub.fault(Endpoint::Inbox, Fault::Insert(json!({"hub_msg_id": 7})), 1);
    assert_eq!(client.poll()[2], json!({"hub_msg_id": 7}));
    hub.fault(Endpoint::Inbox, Fault::Redeliver, 1);
    hub.fault(Endpoint::Inbox, Fault::WrongCount(9), 1);
    assert_eq!(client.poll().len(), 4, "handed out again");
    assert_eq!(client.ask(POLL, &Value::Null).body["count"], 9);
    hub.expire_leases(&client.agent);
    hub.fault(Endpoint::Inbox, Fault::Reverse, 1);
    assert_eq!(client.poll()[0]["text"], "3");
}

#[test]
fn faults_can_be_late_rare_and_for_one_agent() {
    let (hub, client) = one();
    let began = Instant::now();
    hub.fault(Endpoint::Inbox, Fault::Delay(Duration::from_millis(200)), 1);
    hub.fault(Endpoint::Inbox, Fault::status(502), 1);
    assert_eq!(client.ask(POLL, &Value::Null).status, 502);
    assert!(began.elapsed() >= Duration::from_millis(200));
    let plan = |agent: &str| Plan {
        endpoint: Endpoint::Inbox,
        fault: Fault::status(500),
        agent: Some(agent.to_owned()),
        left: None,
        per_mille: 1000,
    };
    hub.plan(plan("ag_other"));
    assert_eq!(client.ask(POLL, &Value::Null).status, 200);
    hub.plan(plan(&client.agent.id));
    assert_eq!(client.ask(POLL, &Value::Null).status, 500);
    hub.heal();
    hub.weaken(Endpoint::Inbox, Fault::status(503), 300);
    let bad = (0..100).filter(|_| client.ask(POLL, &Value::Null).status == 503).count();
    assert!((10..60).contains(&bad), "{bad} of 100");
}

#[test]
fn a_crash_keeps_the_state() {
    let (hub, client) = one();
    let said = hub.owner_says(&client.agent, "hi");
    assert_eq!(client.poll().len(), 1);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.try_ask(&format!("{POLL}&timeout=30"), &Value::Null));
        hub.wait_until("the poll is there", |world| world.rows.len() == 2);
        hub.stop();
        assert!(waiting.join().unwrap().is_none(), "cut off");
    });
    assert!(client.try_ask(POLL, &Value::Null).is_none(), "nobody listens");
    let url = hub.url();
    hub.start_again();
    assert_eq!(hub.url(), url);
    assert_eq!(hub.state(&said), State::Processing);
    assert_eq!(client.ack(&[&said.hub_msg_id]), 1);
}

#[test]
fn requests_are_looked_at_closely() {
    let (hub, client) = one();
    let poll = |headers: &[(String, String)]| client.raw(POLL, headers, b"").unwrap().status;
    for (name, value) in [
        ("X-BotCord-Request-ID", "ABC"),
        ("X-BotCord-Caller", "curl"),
        ("X-BotCord-Caller-Version", "one"),
        ("X-BotCord-Credential-Key-ID", "key"),
        ("X-BotCord-Retry-Attempt", "3"),
    ] {
        let mut headers = client.headers();
        headers.iter_mut().find(|(n, _)| n == name).unwrap().1 = value.to_owned();
        assert_eq!(poll(&headers), 200);
        assert_eq!(hub.violations_of(Rule::Headers).len(), 1, "{name}");
        hub.violations_of(Rule::RequestId);
    }
    let mut headers = client.headers();
    headers.iter_mut().find(|(n, _)| n == "X-BotCord-Agent-ID").unwrap().1 = "ag_000000000000".into();
    poll(&headers);
    assert_eq!(hub.violations_of(Rule::Headers).len(), 1, "another agent's id");

    let mut headers = client.headers();
    poll(&headers);
    poll(&headers);
    assert_eq!(hub.violations_of(Rule::RequestId).len(), 1, "used twice");
    headers.iter_mut().find(|(n, _)| n == "X-BotCord-Retry-Attempt").unwrap().1 = "1".into();
    poll(&headers);
    assert_eq!(hub.violations(), [""; 0], "a retry has the same");
    let mut headers = client.headers();
    headers.iter_mut().find(|(n, _)| n == "X-BotCord-Retry-Attempt").unwrap().1 = "1".into();
    poll(&headers);
    assert_eq!(hub.violations_of(Rule::RequestId).len(), 1, "a retry of nothing");

    client.ask(POLL, &json!({}));
    assert_eq!(hub.violations_of(Rule::BodyOnGet).len(), 1);
    client.raw("POST /hub/typing", &client.headers(), b"{\"room_id\":\"x\"}").unwrap();
    assert_eq!(hub.violations_of(Rule::ContentType).len(), 1);
    assert_eq!(client.raw("POST /hub/typing", &client.headers(), b"{").unwrap().status, 422);
    hub.violations_of(Rule::ContentType);
    client.post("/hub/inbox/ack", &json!({"message_ids": [], "mood": "good"}));
    assert_eq!(hub.violations_of(Rule::UnknownField).len(), 1);
}

#[test]
fn other_paths_are_not_there() {
    let (_hub, client) = one();
    assert_eq!(client.get("/hub/wallet").body, json!({"detail": "Not Found"}));
    let wrong = client.ask("PUT /hub/send", &Value::Null);
    assert_eq!((wrong.status, &wrong.body), (405, &json!({"detail": "Method Not Allowed"})));
    let answer = client.get("/hub/rooms/me");
    assert_eq!(answer.header("x-botcord-request-id").map(str::len), Some(32));
    assert!(answer.header("date").is_some_and(|date| date.ends_with(" GMT")));
    let refused = client.get("/hub/rooms/rm_0").body;
    assert_eq!(
        refused,
        json!({"detail": "room not found", "code": "room_not_found", "hint": null, "retryable": false})
    );
}

#[test]
fn a_broken_rule_fails_the_test() {
    let (hub, client) = one();
    client.get("/hub/inbox?limit=49&ack=false");
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(hub)));
    let words = *failed.unwrap_err().downcast::<String>().unwrap();
    assert!(words.contains("PollParameters: limit 49"), "{words}");
}

#[test]
fn a_wait_ends_and_tells_what_was_there() {
    let (hub, client) = one();
    hub.change(|world| world.settings.patience = Duration::from_millis(50));
    let said = hub.owner_says(&client.agent, "hi");
    client.poll();
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| hub.wait_answer(&said)));
    let words = *failed.unwrap_err().downcast::<String>().unwrap();
    assert!(words.contains("GET /hub/inbox?limit=50&ack=false → 200"), "{words}");
    assert!(words.contains(&format!("{} for {}: processing", said.hub_msg_id, client.agent.id)), "{words}");
}
