//! Claims, leases, acknowledgements, and long polls.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;
use crate::hub::speech::Extra;
use crate::hub::state::Source;
use crate::hub::{Hub, Rule, Settings, State};

#[test]
fn a_lease_runs_out_and_is_renewed() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let client = Client::new(&hub, &ada);
    let said = hub.owner_says(&ada, "hi");
    let id = said.hub_msg_id.as_str();
    assert_eq!(client.poll().len(), 1);
    hub.clock().advance(Duration::from_secs(100));
    let renewed = client.post("/hub/inbox/lease/renew", &json!({"message_ids": [id]}));
    assert_eq!(renewed.body, json!({"renewed": 1}));
    hub.clock().advance(Duration::from_secs(100));
    assert_eq!(client.poll(), [Value::Null; 0], "renewed");
    hub.clock().advance(Duration::from_mins(1));
    hub.wait_state(&said, State::Queued);
    assert_eq!(client.poll()[0]["hub_msg_id"], id);
    assert_eq!(hub.handed(&said), 2);
    assert_eq!(client.ack(&[id]), 1);
    assert_eq!(client.post("/hub/inbox/lease/renew", &json!({"message_ids": [id]})).body, json!({"renewed": 0}));
    assert_eq!(hub.state(&said), State::Delivered);
}

#[test]
fn a_batch_has_fifty_and_says_that_there_are_more() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let room = hub.room("Lab", &[&bob, &ada]);
    for n in 0..60 {
        hub.says(&bob, &room, &format!("message {n}"));
    }
    let client = Client::new(&hub, &ada);
    let first = client.get("/hub/inbox?limit=50&ack=false").body;
    assert_eq!((&first["count"], &first["has_more"]), (&json!(50), &json!(true)));
    assert_eq!(first["messages"][0]["text"], "message 0");
    let rest = client.get("/hub/inbox?limit=50&ack=false").body;
    assert_eq!((&rest["count"], &rest["has_more"]), (&json!(10), &json!(false)));
    assert_eq!(rest["messages"][9]["text"], "message 59");
}

#[test]
fn parameters_have_ranges() {
    let hub = Hub::start();
    let client = Client::new(&hub, &hub.agent("Ada"));
    for query in ["limit=0", "limit=51", "limit=x", "timeout=31", "timeout=-1", "ack=maybe"] {
        assert_eq!(client.get(&format!("/hub/inbox?{query}")).status, 422, "{query}");
    }
    assert_eq!(hub.violations(), [""; 0], "refused before they could do harm");
    client.get("/hub/inbox?limit=50");
    client.get("/hub/inbox?ack=false");
    assert_eq!(hub.violations_of(Rule::PollParameters).len(), 2);
}

#[test]
fn a_long_poll_returns_when_something_arrives() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let client = Client::new(&hub, &ada);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.get("/hub/inbox?limit=50&ack=false&timeout=30"));
        hub.wait_until("the poll is there", |world| !world.rows.is_empty());
        let began = Instant::now();
        hub.owner_says(&ada, "hi");
        assert_eq!(waiting.join().unwrap().body["count"], 1);
        assert!(began.elapsed() < Duration::from_secs(20));
    });
    let empty = client.get("/hub/inbox?limit=50&ack=false&timeout=1");
    assert_eq!(empty.body, json!({"messages": [], "count": 0, "has_more": false}));
}

#[test]
fn what_nobody_fetches_expires() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let room = hub.room("Lab", &[&bob, &ada]);
    let msg_id = hub.says_more(&bob, &room, "quick", Extra { ttl_sec: Some(60), ..Extra::default() });
    let said = hub.copy_of(&msg_id, &ada);
    hub.clock().advance(Duration::from_secs(61));
    assert_eq!(Client::new(&hub, &ada).poll(), [Value::Null; 0]);
    assert_eq!(hub.state(&said), State::Failed);
    let notice = Client::new(&hub, &bob).poll();
    assert_eq!(notice[0]["envelope"]["from"], "hub");
    assert_eq!(notice[0]["envelope"]["payload"]["error"]["code"], "TTL_EXPIRED");
    assert_eq!(notice[0]["envelope"]["reply_to"], msg_id.as_str());
    assert_eq!(notice[0]["room_id"], Value::Null);
}

#[test]
fn foreign_ids_do_not_count_and_are_noticed() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let client = Client::new(&hub, &bob);
    let said = hub.owner_says(&ada, "hi");
    assert_eq!(client.ack(&[&said.hub_msg_id, "h_nothing"]), 0);
    assert_eq!(hub.violations_of(Rule::NeverHanded).len(), 2);
    hub.probe_journal(|_| false);
    let said = hub.owner_says(&bob, "hi");
    assert_eq!(client.poll().len(), 1);
    assert_eq!(client.ack(&[&said.hub_msg_id]), 1);
    assert_eq!(hub.violations_of(Rule::AckBeforeJournal).len(), 1);
}

#[test]
fn everybody_sounds_as_the_protocol_says() {
    let hub = Hub::start();
    let (ada, bob, pat) = (hub.agent("Ada"), hub.agent("Bob"), hub.person("Pat"));
    let room = hub.room("Lab", &[&bob, &ada]);
    hub.join(&room, &pat);
    let client = Client::new(&hub, &ada);
    let one = || {
        let mut got = client.poll();
        assert_eq!(got.len(), 1, "{got:?}");
        got.remove(0)
    };
    hub.person_says(&pat, &room, "hello", Extra { mentions: vec!["@all".into()], ..Extra::default() });
    let got = one();
    assert_eq!(got["source_type"], "dashboard_human_room");
    assert_eq!((&got["source_user_name"], &got["mentioned"]), (&json!("Pat"), &json!(true)));
    assert_eq!((&got["envelope"]["sig"]["value"], &got["envelope"]["payload_hash"]), (&json!(""), &json!("")));

    hub.person_says_as(&pat, &ada, &room, "as Ada");
    let got = one();
    assert_eq!((&got["envelope"]["from"], &got["source_type"]), (&json!(ada.id), &json!("dashboard_human_room")));

    hub.cloud_run(&ada, "summarise", json!({"run_id": "crun_0011223344556677"}));
    let got = one();
    assert_eq!((&got["envelope"]["type"], &got["source_type"]), (&json!("cloud_run"), &json!("cloud_agent_run")));

    hub.owner_says_more(
        &ada,
        Some("course-1"),
        json!({"attachments": [{"filename": "a.png", "url": "/hub/files/f_1", "size_bytes": 5}]}),
    );
    let text = one()["text"].as_str().unwrap().to_owned();
    let url = format!("{}/hub/files/f_1", hub.url());
    assert!(
        text.starts_with('{') && text.ends_with(&format!("\n【Attachments】\n  📎 a.png, 5 bytes: {url}")),
        "{text}"
    );

    hub.contact_request(&bob, &ada, "please");
    let got = one();
    assert_eq!((&got["text"], &got["room_id"]), (&json!("please"), &Value::Null));

    hub.payment_notice(&bob.id, &room, "paid");
    assert_eq!(one()["source_type"], "wallet_transfer_notice");
    hub.notice(&ada, "contact_removed", json!({"removed_by": bob.id}));
    assert_eq!(one()["envelope"]["type"], "contact_removed");

    let sent = client.say(&room, "question");
    let question = sent.body["hub_msg_id"].as_str().unwrap();
    let msg_id = hub.look(|world| world.messages.iter().find(|m| m.hub_msg_id == question).unwrap().msg_id.clone());
    hub.receipt(&bob, "ack", &msg_id);
    assert_eq!(one()["envelope"]["reply_to"], msg_id.as_str());
    assert_eq!(client.get(&format!("/hub/status/{msg_id}")).body["state"], "acked");

    hub.says_more(&bob, &room, "see", Extra { reply_to: Some(msg_id.clone()), ..Extra::default() });
    assert_eq!(one()["reply_preview"]["text_preview"], "question");
    let odd = json!({"type": "message", "msg_id": "odd", "from": 7, "ttl_sec": 60});
    hub.drops(&ada, odd, Some(&room), Source { kind: "mystery", ..Source::default() });
    assert_eq!(one()["source_type"], "mystery");
}

#[test]
fn short_leases_are_looked_for_often() {
    let hub = Hub::with(Settings::default().with_lease(Duration::from_millis(200)));
    let ada = hub.agent("Ada");
    let said = hub.owner_says(&ada, "hi");
    assert_eq!(Client::new(&hub, &ada).poll().len(), 1);
    hub.wait_state(&said, State::Queued);
}
