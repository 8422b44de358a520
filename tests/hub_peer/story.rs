//! The happy way of an owner's message, and of one between agents.

use serde_json::{Value, json};

use crate::client::Client;
use crate::hub::{Hub, State};

#[test]
fn an_owner_gets_an_answer() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let client = Client::new(&hub, &ada);
    assert_eq!(client.poll(), [Value::Null; 0]);

    let said = hub.owner_says(&ada, "hi");
    let got = client.poll();
    assert_eq!(got[0]["hub_msg_id"], said.hub_msg_id.as_str());
    assert_eq!(got[0]["text"], "hi");
    assert_eq!(got[0]["room_id"], said.room.as_str());
    assert_eq!(got[0]["my_role"], "owner");
    assert_eq!(got[0]["source_type"], "dashboard_user_chat");
    assert_eq!(hub.state(&said), State::Processing);
    assert_eq!(client.poll(), [Value::Null; 0], "it is claimed");

    let trace = &said.hub_msg_id;
    assert_eq!(client.post("/hub/typing", &json!({"room_id": said.room})).status, 204);
    let block =
        json!({"trace_id": trace, "seq": 1, "block": {"kind": "assistant", "seq": 1, "payload": {"text": "he"}}});
    assert_eq!(client.post("/hub/stream-block", &block).status, 204);
    let answer = client.envelope_with(&said.room, "hello", &json!({"reply_to": said.msg_id, "trace_id": trace}));
    let stored = client.send(&answer);
    assert_eq!(stored.status, 202);
    assert_eq!(stored.body["status"], "queued");
    assert_eq!(client.post("/hub/stream-end", &json!({"trace_id": trace})).status, 204);
    assert_eq!(client.ack(&[trace]), 0, "the stream end has settled it");

    assert_eq!(hub.wait_text(&said), "hello");
    hub.wait_settled(&said);
    assert_eq!(hub.state(&said), State::Done);
    assert_eq!(hub.blocks(&said), [json!({"kind": "assistant", "seq": 1, "payload": {"text": "he"}})]);
    assert_eq!(hub.typings(&ada, &said.room).len(), 1);
    assert_eq!(hub.wait_stream_end(&said).answers.len(), 1);
    let books = hub.books();
    assert_eq!(books.entries[0].answers, ["hello"]);
    assert_eq!((books.sent[0].attempts, books.sent[0].shown), (1, 1));
    assert_eq!(hub.violations(), [""; 0]);
}

#[test]
fn agents_talk_in_a_room() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let room = hub.room("Lab", &[&ada, &bob]);
    let (a, b) = (Client::new(&hub, &ada), Client::new(&hub, &bob));
    let fields = json!({"topic": "Launch", "mentions": [bob.id]});
    let stored = a.send(&a.envelope_with(&room, "hello Lab", &fields));
    assert_eq!(stored.status, 202, "{stored:?}");
    let got = b.poll();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0]["topic"], "Launch");
    assert_eq!(got[0]["topic_id"], stored.body["topic_id"]);
    assert_eq!(got[0]["mentioned"], true);
    assert_eq!(got[0]["room_member_names"], json!(["Ada", "Bob"]));
    assert_eq!(got[0]["my_role"], "member");
    assert_eq!(b.ack(&[got[0]["hub_msg_id"].as_str().unwrap()]), 1);
    assert_eq!(b.ack(&[got[0]["hub_msg_id"].as_str().unwrap()]), 0);
    assert_eq!(a.poll(), [Value::Null; 0], "no copy for the sender");
    hub.wait_heard(&room, &ada, "hello Lab");
    hub.wait_all_settled();
}
