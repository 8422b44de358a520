//! Messages of third-party chats that the hub's ingress hands in.

use serde_json::{Value, json};

use crate::place::Cloud;

fn frame(cloud: &Cloud, event: &str, chat: u32, text: &str) -> Value {
    let (gateway, agent) = ("gw_tg_1", cloud.agent.id.as_str());
    json!({"frame": {
        "type": "gateway_inbound", "event_id": event, "gateway_id": gateway, "agent_id": agent, "provider": "telegram",
        "message": {"id": format!("telegram:{event}"), "channel": gateway, "accountId": agent,
            "conversation": {"id": format!("telegram:user:{chat}"), "kind": "direct", "title": "Ann", "threadId": null},
            "sender": {"id": format!("telegram:user:{chat}"), "name": "Ann", "kind": "user"}, "text": text, "replyTo": null,
            "mentioned": true, "receivedAt": 1_800_000_000_000_i64,
            "trace": {"id": format!("telegram:{event}"), "streamable": false}}}})
}

const KIND: &str = "cloud_gateway_runtime_inbound";

fn result(cloud: &Cloud, event: &str, chat: u32, text: &str) -> Value {
    json!({"accepted": true, "eventId": event, "gatewayId": "gw_tg_1", "agentId": cloud.agent.id,
           "conversationId": format!("telegram:user:{chat}"), "turnId": format!("turn_{event}"),
           "outbound": {"finalText": text, "providerMessageId": format!("telegram:{event}")}})
}

#[test]
fn a_message_is_answered_with_its_frame_and_only_once_a_day() {
    let cloud = Cloud::new("ingress-reply");
    let daemon = cloud.start();
    let send =
        |event: &str, chat, text: &str| cloud.control.send(&cloud.instance, KIND, frame(&cloud, event, chat, text));
    assert_eq!(send("evt_1", 1, "say:one").result(), result(&cloud, "evt_1", 1, "answer to one"));
    let typing = cloud.control.wait_event(&cloud.instance, "cloud_gateway_runtime_status", 0);
    assert_eq!(
        typing,
        json!({"eventId": "evt_1", "turnId": "turn_evt_1", "gatewayId": "gw_tg_1", "agentId": cloud.agent.id,
               "conversationId": "telegram:user:1", "kind": "typing", "phase": "started", "traceId": "telegram:evt_1"})
    );
    assert_eq!(send("evt_1", 1, "say:one").result(), result(&cloud, "evt_1", 1, "answer to one"));
    daemon.kill();
    let _daemon = cloud.start();
    assert_eq!(send("evt_1", 1, "say:one").result(), result(&cloud, "evt_1", 1, "answer to one"), "also after a crash");
    assert_eq!(cloud.sandbox.runs().len(), 1);
    let books = cloud.hub.books();
    assert!(books.sent.is_empty(), "nothing of it goes to the agent's rooms");
}

#[test]
fn each_event_has_its_own_answer_and_none_keeps_others_from_theirs() {
    let cloud = Cloud::new("ingress-many");
    let _daemon = cloud.start();
    let send =
        |event: &str, chat, text: &str| cloud.control.send(&cloud.instance, KIND, frame(&cloud, event, chat, text));
    // Two in one chat, the same one twice, and one in another chat of the same gateway.
    let slow = send("evt_1", 1, "please wait, say:one");
    cloud.sandbox.wait_runs(1);
    let behind = send("evt_2", 1, "say:two");
    let again = send("evt_1", 1, "please wait, say:one");
    assert_eq!(send("evt_3", 2, "say:three").result(), result(&cloud, "evt_3", 2, "answer to three"));
    assert_eq!(cloud.control.send(&cloud.instance, "ping", json!({})).result()["pong"], true, "lanes are free");
    cloud.sandbox.go();
    for (pending, event, text) in
        [(slow, "evt_1", "answer to one"), (behind, "evt_2", "answer to two"), (again, "evt_1", "answer to one")]
    {
        assert_eq!(pending.result(), result(&cloud, event, 1, text));
    }
    assert_eq!(cloud.sandbox.runs().len(), 3);
}

#[test]
fn gateways_that_choose_the_same_id_get_an_answer_each() {
    let cloud = Cloud::new("ingress-same");
    let daemon = cloud.start();
    let at = |gateway: &str, chat, text: &str| {
        let mut params = frame(&cloud, "evt_1", chat, text);
        params["frame"]["gateway_id"] = gateway.into();
        params["frame"]["message"]["channel"] = gateway.into();
        cloud.control.send(&cloud.instance, KIND, params)
    };
    let of = |gateway: &str, chat, text: &str| {
        let mut result = result(&cloud, "evt_1", chat, text);
        result["gatewayId"] = gateway.into();
        result
    };
    let slow = at("gw_tg_1", 1, "please wait, say:one");
    cloud.sandbox.wait_runs(1);
    assert_eq!(at("gw_tg_2", 2, "say:two").result(), of("gw_tg_2", 2, "answer to two"));
    cloud.sandbox.go();
    assert_eq!(slow.result(), of("gw_tg_1", 1, "answer to one"));
    assert_eq!(at("gw_tg_2", 2, "say:two").result(), of("gw_tg_2", 2, "answer to two"));
    daemon.kill();
    let _daemon = cloud.start();
    assert_eq!(at("gw_tg_1", 1, "say:one").result(), of("gw_tg_1", 1, "answer to one"), "also after a crash");
    assert_eq!(cloud.sandbox.runs().len(), 2);
}

#[test]
fn an_event_whose_turn_a_crash_interrupted_is_answered_when_it_comes_again() {
    let cloud = Cloud::new("ingress-crash");
    let daemon = cloud.start();
    let params = frame(&cloud, "evt_1", 1, "please wait, say:one");
    let _lost = cloud.control.send(&cloud.instance, KIND, params.clone());
    cloud.sandbox.wait_runs(1);
    daemon.kill();
    cloud.control.wait_offline(&cloud.instance);
    let _daemon = cloud.start();
    let pending = cloud.control.send(&cloud.instance, KIND, params);
    cloud.sandbox.wait_runs(2);
    cloud.sandbox.go();
    assert_eq!(pending.result(), result(&cloud, "evt_1", 1, "answer to one"));
    assert_eq!(cloud.sandbox.runs().len(), 2, "the interrupted one, and the one that went on");
}

#[test]
fn what_is_no_event_says_why() {
    let cloud = Cloud::new("ingress-bad");
    let _daemon = cloud.start();
    let send = |params: Value| cloud.control.send(&cloud.instance, KIND, params);
    assert_eq!(send(json!({})).refusal(), "bad_params");
    assert_eq!(send(json!({"frame": "x"})).refusal(), "bad_params");
    let change = |path: &[&str], value: &str| {
        let mut params = frame(&cloud, "evt_1", 1, "say:one");
        let place = path.iter().fold(&mut params["frame"], |at, key| &mut at[*key]);
        *place = value.into();
        let ack = send(params).ack();
        assert_eq!((&ack["ok"], &ack["result"]["accepted"]), (&json!(false), &json!(false)), "{ack}");
        assert_eq!(ack["result"]["error"]["code"], ack["error"]["code"]);
        ack["error"]["code"].as_str().unwrap().to_owned()
    };
    assert_eq!(change(&["type"], "gateway_outbound_start"), "bad_frame_type");
    assert_eq!(change(&["event_id"], ""), "bad_frame");
    assert_eq!(change(&["gateway_id"], "../x"), "bad_frame");
    assert_eq!(change(&["message", "accountId"], "ag_2"), "account_mismatch");
    assert_eq!(change(&["message", "channel"], "gw_2"), "channel_mismatch");
    assert_eq!(change(&["message", "conversation", "id"], "rm_oc_1"), "bad_frame");
    assert_eq!(change(&["message", "text"], ""), "not_accepted");
    let mut params = frame(&cloud, "evt_2", 1, "say:one");
    for place in [&["agent_id"][..], &["message", "accountId"]] {
        *place.iter().fold(&mut params["frame"], |at, key| &mut at[*key]) = "ag_far".into();
    }
    assert_eq!(send(params).refusal(), "agent_not_loaded");
    assert!(cloud.sandbox.runs().is_empty());
    // None of them is remembered.
    let good = send(frame(&cloud, "evt_1", 1, "say:one")).result();
    assert_eq!(good, result(&cloud, "evt_1", 1, "answer to one"));
}
