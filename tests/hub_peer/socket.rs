//! The wake-up line: handshake, close codes, heartbeats, pings, and what is noticed.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::client::Client;
use crate::hub::{Endpoint, Fault, Hub, Rule, Settings};

fn connect(hub: &Hub) -> WebSocket<TcpStream> {
    let url = hub.url().replace("http", "ws") + "/hub/ws";
    let stream = TcpStream::connect(&hub.url()["http://".len()..]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    tungstenite::client(url, stream).unwrap().0
}

fn say(ws: &mut WebSocket<TcpStream>, frame: &Value) {
    ws.send(Message::text(frame.to_string())).unwrap();
}

/// The next text frame; a close frame as `{"close", "reason"}`; null at the end.
fn hear(ws: &mut WebSocket<TcpStream>) -> Value {
    loop {
        match ws.read() {
            Ok(Message::Text(text)) => return serde_json::from_str(text.as_str()).unwrap(),
            Ok(Message::Close(Some(close))) => {
                return json!({"close": u16::from(close.code), "reason": close.reason.as_str()});
            }
            Ok(_) => {}
            Err(_) => return Value::Null,
        }
    }
}

/// The next frame of this type.
fn hear_type(ws: &mut WebSocket<TcpStream>, kind: &str) -> Value {
    loop {
        let frame = hear(ws);
        assert!(frame["type"].is_string(), "no {kind} but {frame}");
        if frame["type"] == kind {
            return frame;
        }
    }
}

fn open(hub: &Hub, client: &Client) -> WebSocket<TcpStream> {
    let mut ws = connect(hub);
    say(&mut ws, &json!({"type": "auth", "token": client.token}));
    assert_eq!(hear(&mut ws), json!({"type": "auth_ok", "agent_id": client.agent.id}));
    ws
}

#[test]
fn it_wakes_for_messages_and_typing() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let client = Client::new(&hub, &ada);
    let mut ws = open(&hub, &client);
    hub.wait_connected(&ada);
    hub.owner_says(&ada, "hi");
    assert_eq!(hear(&mut ws), json!({"type": "inbox_update"}));
    say(&mut ws, &json!({"type": "ping"}));
    assert_eq!(hear(&mut ws), json!({"type": "pong"}));
    say(&mut ws, &json!({"type": "what"}));
    let room = hub.room("Lab", &[&bob, &ada]);
    Client::new(&hub, &bob).post("/hub/typing", &json!({"room_id": room}));
    let typing = json!({"type": "typing", "agent_id": bob.id, "room_id": room, "sender_name": "Bob"});
    assert_eq!(hear(&mut ws), typing);
    ws.close(None).unwrap();
    hub.wait_disconnected(&ada);
}

#[test]
fn bad_handshakes_end_with_4001() {
    let hub = Hub::with(Settings { tick: Duration::from_millis(10), ..Settings::default() });
    let ada = hub.agent("Ada");
    let client = Client::new(&hub, &ada);
    let after = |frame: Value| {
        let mut ws = connect(&hub);
        say(&mut ws, &frame);
        hear(&mut ws)
    };
    assert_eq!(after(json!({"type": "auth"})), json!({"close": 4001, "reason": "Missing token"}));
    assert_eq!(after(json!({"type": "ping"})), json!({"close": 4001, "reason": "Missing token"}));
    let invalid = json!({"close": 4001, "reason": "Invalid token"});
    assert_eq!(after(json!({"type": "auth", "token": "nonsense"})), invalid);
    hub.refreshed_elsewhere(&ada);
    assert_eq!(after(json!({"type": "auth", "token": client.token})), invalid, "a newer one was issued");
    let mut ws = connect(&hub);
    hub.wait_until("the upgrade is there", |world| world.rows.len() == 5);
    hub.clock().advance_sockets(Duration::from_secs(11));
    assert_eq!(hear(&mut ws), json!({"close": 4001, "reason": "Auth timeout"}));
    assert_eq!(after(json!("text")), Value::Null, "no object: gone without a close frame");
}

#[test]
fn silence_is_noticed() {
    let hub = Hub::with(Settings { tick: Duration::from_millis(10), ..Settings::default() });
    let ada = hub.agent("Ada");
    let mut ws = open(&hub, &Client::new(&hub, &ada));
    hub.clock().advance_sockets(Duration::from_secs(16));
    assert_eq!(hear(&mut ws), json!({"type": "heartbeat"}));
    hub.clock().advance_sockets(Duration::from_secs(10));
    hub.wait_until("a ping is missed", |world| !world.ledger.lines().is_empty());
    assert_eq!(hub.violations_of(Rule::NoPing).len(), 1);
    hub.clock().advance_sockets(Duration::from_secs(15));
    hear_type(&mut ws, "heartbeat");
    hub.clock().advance_sockets(Duration::from_secs(30));
    let end = loop {
        let frame = hear(&mut ws);
        if frame["type"] != "heartbeat" {
            break frame;
        }
    };
    assert_eq!(end, json!({"close": 4002, "reason": "Ghost connection: no client response"}));
    hub.allow(Rule::NoPing);
}

#[test]
fn pongs_are_missed() {
    let hub = Hub::with(Settings { tick: Duration::from_millis(10), ..Settings::default() });
    let ada = hub.agent("Ada");
    let mut ws = open(&hub, &Client::new(&hub, &ada));
    hub.clock().advance_sockets(Duration::from_secs(20));
    hub.wait_until("the hub has asked", |world| world.sockets[0].asked == 1);
    say(&mut ws, &json!({"type": "ping"}));
    hub.wait_until("the ping is counted", |world| world.sockets[0].pings == 1);
    // Nothing was read, so nothing is answered.
    hub.clock().advance_sockets(Duration::from_secs(20));
    hub.wait_until("the pong is missed", |world| !world.ledger.lines().is_empty());
    assert_eq!(hub.violations_of(Rule::NoPong).len(), 1);
}

#[test]
fn two_sockets_both_hear_and_are_noticed() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let client = Client::new(&hub, &ada);
    let (mut one, mut two) = (open(&hub, &client), open(&hub, &client));
    hub.owner_says(&ada, "hi");
    assert_eq!((hear(&mut one), hear(&mut two)), (json!({"type": "inbox_update"}), json!({"type": "inbox_update"})));
    assert_eq!(hub.violations(), [""; 0], "the first may be about to end");
    hub.change(|world| *world.sockets[1].ready.as_mut().unwrap() -= 3000);
    assert_eq!(hub.violations_of(Rule::SecondSocket).len(), 1);
    hub.allow(Rule::SecondSocket);
}

#[test]
fn it_fails_as_told() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let client = Client::new(&hub, &ada);
    hub.fault(Endpoint::Socket, Fault::RefuseUpgrade(503), 1);
    let stream = TcpStream::connect(&client.address).unwrap();
    assert!(tungstenite::client(hub.url().replace("http", "ws") + "/hub/ws", stream).is_err());
    hub.fault(Endpoint::Socket, Fault::CloseAtAuth(1008, "because"), 1);
    let mut ws = connect(&hub);
    say(&mut ws, &json!({"type": "auth", "token": client.token}));
    assert_eq!(hear(&mut ws), json!({"close": 1008, "reason": "because"}));
    hub.fault(Endpoint::Socket, Fault::Text("{\"type\":\"surprise\"}".into()), 1);
    let mut ws = open(&hub, &client);
    assert_eq!(hear(&mut ws), json!({"type": "surprise"}));
    hub.close_sockets(&ada, Some((4001, "Invalid token")));
    assert_eq!(hear(&mut ws), json!({"close": 4001, "reason": "Invalid token"}));
    drop(ws);
    hub.wait_disconnected(&ada);
    hub.fault(Endpoint::Socket, Fault::Binary(vec![0; 70_000]), 1);
    let mut ws = open(&hub, &client);
    assert_eq!(ws.read().unwrap().len(), 70_000);
    hub.close_sockets(&ada, None);
    assert!(ws.read().is_err());
    hub.wait_disconnected(&ada);

    hub.fault(Endpoint::Socket, Fault::Silence, 1);
    let mut ws = connect(&hub);
    say(&mut ws, &json!({"type": "auth", "token": client.token}));
    ws.get_ref().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(ws.read().is_err(), "nothing comes");
}
