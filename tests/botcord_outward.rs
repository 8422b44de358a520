//! What an agent says and looks up at a hub, request by request: every outcome of a send, files, live signs, rooms.
#![allow(missing_docs)]

#[path = "support/hub/mod.rs"]
mod hub;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bellhop::channel::botcord::api::Api;
use bellhop::channel::botcord::credentials;
use bellhop::channel::botcord::far::Far;
use bellhop::channel::botcord::pace::Limits;
use bellhop::channel::botcord::voice::Voice;
use bellhop::engine::gate::Mode;
use bellhop::engine::policy::PolicySource;
use bellhop::engine::ports::{Delivery, MessageStatus, StreamBlock};
use bellhop::message::{Attachment, AttachmentKind, BlockKind, Digest, Inbound, Outbound, OutboundKind, document};
use bellhop::net::http::Http;
use hub::{AgentHandle, Endpoint, Fault, Hub, Said, State};
use serde_json::{Value, json};

/// An agent at a hub, and its voice there.
struct Stage {
    hub: Hub,
    ada: AgentHandle,
    voice: Voice,
    dir: PathBuf,
}

impl Stage {
    fn new(name: &str) -> Self {
        let hub = Hub::start();
        let ada = hub.agent("Ada");
        let dir = std::env::temp_dir().join(format!("bellhop-outward-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let dir = dir.canonicalize().unwrap();
        let path = hub.write_credentials(&ada, &dir);
        let api = Api::new(credentials::load(&path).unwrap(), None, Arc::new(Http::new())).unwrap();
        let far: Arc<dyn Far> = Arc::new(api);
        let voice = Voice::new(&far, true, Limits::default());
        Self { hub, ada, voice, dir }
    }

    fn group(&self) -> String {
        let bob = self.hub.agent("Bob");
        self.hub.room("Lab", &[&self.ada, &bob])
    }

    fn out(&self, id: &str, room: &str, text: &str) -> Outbound {
        Outbound {
            id: id.into(),
            channel: self.ada.id.clone(),
            account_id: self.ada.id.clone(),
            conversation_id: room.into(),
            thread_id: None,
            topic: None,
            kind: OutboundKind::Message,
            text: text.into(),
            error_ref: None,
            attachments: Vec::new(),
            reply_to: None,
            trace_id: None,
            turn_id: id.into(),
            by_tool: false,
            mentions: Vec::new(),
        }
    }

    fn answer(&self, said: &Said, text: &str) -> Outbound {
        let (reply_to, trace_id) = (Some(said.msg_id.clone()), Some(said.hub_msg_id.clone()));
        Outbound { reply_to, trace_id, ..self.out("out_1", &said.room, text) }
    }

    fn send(&self, out: &Outbound) -> Delivery {
        self.voice.sender.send(out)
    }

    fn delivered(&self, out: &Outbound) {
        let delivery = self.send(out);
        assert!(matches!(delivery, Delivery::Delivered { .. }), "{delivery:?}");
    }

    fn ended(&self, said: &Said) {
        self.voice.ends.push(std::slice::from_ref(&said.hub_msg_id), Box::new(|| ()));
        self.hub.wait_stream_end(said);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn inbound(room: &str, kind: &str) -> Inbound {
    document::parse(&json!({
        "id": "h_1", "channel": "c", "accountId": "ag_1", "sender": {"id": "ag_2", "kind": "agent"},
        "conversation": {"id": room, "kind": kind}, "text": "hi", "receivedAt": 0,
    }))
    .unwrap()
}

#[test]
fn an_answer_is_said_once_although_its_confirmation_is_lost() {
    let stage = Stage::new("lost");
    let room = stage.group();
    for (n, fault) in [Fault::DropAfter, Fault::DropHalfway, Fault::Truncate].into_iter().enumerate() {
        let out = stage.out(&format!("out_{n}"), &room, &format!("words {n}"));
        stage.hub.fault(Endpoint::Send, fault, 1);
        assert!(matches!(stage.send(&out), Delivery::Uncertain { .. }), "{n}");
        assert!(matches!(stage.voice.sender.resolve(&out), Delivery::Delivered { .. }), "{n}");
    }
    assert_eq!(stage.hub.heard(&room).len(), 3);
    assert!(stage.hub.books().sent.iter().all(|sent| sent.attempts == 1));
}

#[test]
fn an_answer_that_did_not_arrive_is_sent_again_after_asking() {
    let stage = Stage::new("again");
    let room = stage.group();
    for (n, fault) in [Fault::DropBefore, Fault::status(503), Fault::html(502)].into_iter().enumerate() {
        let out = stage.out(&format!("out_{n}"), &room, &format!("words {n}"));
        stage.hub.fault(Endpoint::Send, fault, 1);
        assert!(matches!(stage.send(&out), Delivery::Uncertain { .. }), "{n}");
        stage.hub.fault(Endpoint::Status, Fault::html(404), 1);
        assert!(matches!(stage.voice.sender.resolve(&out), Delivery::Uncertain { .. }), "not the hub's word: {n}");
        assert!(matches!(stage.voice.sender.resolve(&out), Delivery::Transient { after: None, .. }), "{n}");
        stage.delivered(&out);
    }
    assert_eq!(stage.hub.heard(&room).len(), 3);
}

#[test]
fn an_answer_outlives_a_token_that_cannot_be_had() {
    let faults = [Fault::html(404), Fault::html(403), Fault::status(422), Fault::coded(404, "agent_not_found")];
    for (n, fault) in faults.into_iter().enumerate() {
        let stage = Stage::new(&format!("no-token-{n}"));
        let room = stage.group();
        let out = stage.out("out_1", &room, "words");
        stage.hub.fault(Endpoint::Send, Fault::unauthorized(), 1);
        stage.hub.fault(Endpoint::Refresh, fault, 1);
        for _ in 0..2 {
            assert!(matches!(stage.send(&out), Delivery::Transient { after: None, .. }), "{n}");
        }
        assert!(stage.hub.heard(&room).is_empty(), "{n}");
    }
    let stage = Stage::new("unclaimed");
    let room = stage.group();
    let out = stage.out("out_1", &room, "words");
    stage.hub.fault(Endpoint::Send, Fault::coded(403, "agent_not_claimed"), 1);
    assert!(matches!(stage.send(&out), Delivery::Transient { after: None, .. }), "once is no verdict");
    stage.delivered(&out);
}

#[test]
fn what_the_hub_refuses_for_good_is_given_up_and_what_it_puts_off_is_not() {
    let stage = Stage::new("refused");
    let room = stage.group();
    for code in ["not_a_member", "only_owner_admin_can_post"] {
        stage.hub.fault(Endpoint::Send, Fault::coded(403, code), 1);
        assert!(matches!(stage.send(&stage.out(code, &room, code)), Delivery::Permanent { .. }), "{code}");
    }
    assert!(matches!(stage.send(&stage.out("gone", "rm_000000000000", "x")), Delivery::Permanent { .. }));
    stage.hub.fault(Endpoint::Send, Fault::too_many("slow_mode_wait", Some("90")), 1);
    match stage.send(&stage.out("slow", &room, "slow")) {
        Delivery::Transient { after: Some(wait), .. } => assert_eq!(wait, Duration::from_secs(90)),
        other => panic!("{other:?}"),
    }
    stage.delivered(&stage.out("slow", &room, "slow"));
    // A line break in what is signed would make it mean something else.
    assert!(matches!(stage.send(&stage.out("forged", "rm_1\nx", "x")), Delivery::Permanent { .. }));
    assert_eq!(stage.hub.heard(&room).len(), 1);
}

#[test]
fn the_quote_gives_way_to_the_answer() {
    let stage = Stage::new("quote");
    let said = stage.hub.owner_says(&stage.ada, "hi");
    let gone = Outbound { reply_to: Some("5f0f1d3e-7a52-4c1e-9b2e-000000000001".into()), ..stage.answer(&said, "yes") };
    stage.delivered(&gone);
    let answer = stage.hub.wait_answer(&said);
    assert_eq!((answer["reply_to"].clone(), answer["payload"]["text"].clone()), (Value::Null, "yes".into()));
    stage.ended(&said);
    assert_eq!(stage.hub.state(&said), State::Done);
}

#[test]
fn a_wrong_clock_is_set_by_the_hubs() {
    let stage = Stage::new("clock");
    let room = stage.group();
    stage.hub.clock().skew(3_600);
    stage.delivered(&stage.out("out_1", &room, "one"));
    stage.delivered(&stage.out("out_2", &room, "two"));
    assert_eq!(stage.hub.books().sent.iter().map(|sent| sent.attempts).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn a_topic_goes_by_its_title_and_a_diagnostic_has_its_own_form() {
    let stage = Stage::new("topic");
    let room = stage.group();
    let topic =
        Outbound { thread_id: Some("tp_1".into()), topic: Some("Launch plan".into()), ..stage.out("1", &room, "a") };
    stage.delivered(&topic);
    let error = Outbound {
        kind: OutboundKind::Error,
        error_ref: Some("err_0".into()),
        ..stage.out("2", &room, "⚠️ Runtime error: x")
    };
    stage.delivered(&error);
    let heard = stage.hub.heard(&room);
    assert_eq!((heard[0]["topic"].as_str(), heard[1]["type"].as_str()), (Some("Launch plan"), Some("error")));
    let payload = json!({"error": {"code": "agent_error", "message": "⚠️ Runtime error: x", "error_ref": "err_0"}});
    assert_eq!(heard[1]["payload"], payload);
    let said = stage.hub.owner_says(&stage.ada, "hi");
    let failed = Outbound { kind: OutboundKind::Error, ..stage.answer(&said, "oh") };
    stage.delivered(&failed);
    assert_eq!(stage.hub.wait_answer(&said)["payload"]["text"], "oh");
    stage.ended(&said);
}

#[test]
fn many_answers_go_out_at_the_hubs_pace_and_in_order() {
    let stage = Stage::new("pace");
    let room = stage.group();
    let mut put_off = 0;
    for n in 0..12 {
        match stage.send(&stage.out(&format!("out_{n}"), &room, &format!("words {n}"))) {
            Delivery::Delivered { .. } => assert_eq!(put_off, 0),
            Delivery::Transient { after: Some(wait), .. } => {
                put_off += 1;
                assert!(wait <= Duration::from_secs(61));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(put_off, 2);
    assert_eq!(stage.hub.requests(Endpoint::Send).len(), 10, "the hub is not even asked");
}

#[test]
fn files_go_along_and_their_paths_become_urls() {
    let stage = Stage::new("files");
    let file = |name: &str, content: &[u8]| {
        let path = stage.dir.join(name);
        std::fs::write(&path, content).unwrap();
        Attachment {
            file_path: path,
            filename: name.into(),
            content_type: Some("image/png".into()),
            kind: AttachmentKind::Image,
            source_path: Some(format!("out/{name}")),
        }
    };
    let mut attachments = vec![file("a.png", b"picture"), file("empty.png", b""), file("odd.png", b"odd")];
    attachments[2].content_type = Some("model/odd".into());
    std::os::unix::fs::symlink(stage.dir.join("a.png"), stage.dir.join("link.png")).unwrap();
    attachments.push(Attachment { file_path: stage.dir.join("link.png"), ..attachments[0].clone() });
    let said = stage.hub.owner_says(&stage.ada, "draw");
    let out = Outbound { attachments, ..stage.answer(&said, "see out/a.png, not out/empty.png or out/odd.png") };
    stage.hub.fault(Endpoint::Upload, Fault::unauthorized(), 1);
    stage.delivered(&out);
    let answer = stage.hub.wait_answer(&said);
    let url = answer["payload"]["attachments"][0]["url"].as_str().unwrap().to_owned();
    assert!(url.starts_with(&stage.hub.url()), "{url}");
    assert_eq!(answer["payload"]["text"], format!("see {url}, not out/empty.png or out/odd.png"));
    assert_eq!(answer["payload"]["attachments"].as_array().unwrap().len(), 1);
    assert_eq!(answer["payload"]["attachments"][0]["size_bytes"], 7);
    stage.ended(&said);
}

#[test]
fn an_answer_that_is_too_long_is_cut_and_goes_along_whole() {
    let stage = Stage::new("long");
    let said = stage.hub.owner_says(&stage.ada, "write");
    let text = "words ".repeat(60_000);
    stage.delivered(&stage.answer(&said, &text));
    let payload = stage.hub.wait_answer(&said)["payload"].clone();
    let shown = payload["text"].as_str().unwrap();
    assert!(shown.len() < (256 << 10) + 200 && shown.ends_with("the whole text is attached]"), "{}", shown.len());
    assert_eq!(payload["attachments"][0]["size_bytes"], text.len());
    stage.ended(&said);
}

#[test]
fn live_signs_are_seen() {
    let stage = Stage::new("live");
    let said = stage.hub.owner_says(&stage.ada, "hi");
    let block = |seq: u64, kind: BlockKind, raw: Value| StreamBlock {
        trace_id: said.hub_msg_id.clone(),
        turn_id: "t".into(),
        account_id: stage.ada.id.clone(),
        conversation_id: said.room.clone(),
        seq,
        kind,
        raw,
        digest: Digest::default(),
    };
    let text = json!({"message": {"content": [{"type": "text", "text": "hello"}]}});
    stage.voice.live.block(&block(1, BlockKind::AssistantText, text)).unwrap();
    let call =
        json!({"message": {"content": [{"type": "tool_use", "name": "Read", "input": {"password": "hunter22"}}]}});
    stage.voice.live.block(&block(2, BlockKind::ToolUse, call)).unwrap();
    stage.voice.live.typing(&inbound(&said.room, "direct")).unwrap();
    let blocks = stage.hub.blocks(&said);
    assert_eq!(blocks[0], json!({"kind": "assistant", "seq": 1, "payload": {"text": "hello"}}));
    assert_eq!(blocks[1]["payload"], json!({"name": "Read", "params": {"password": "[REDACTED]"}}));
    assert_eq!(stage.hub.typings(&stage.ada, &said.room).len(), 1);
    // The hub is away for a moment: it is told a little later.
    stage.hub.fault(Endpoint::StreamEnd, Fault::status(503), 1);
    stage.ended(&said);
    stage.voice.ends.flush(Duration::from_secs(30));
}

#[test]
fn a_mark_is_seen_on_the_message_and_goes() {
    let stage = Stage::new("mark");
    let room = stage.group();
    let person = stage.hub.person("Eve");
    stage.hub.join(&room, &person);
    let msg_id = stage.hub.person_says(&person, &room, "please look", hub::speech::Extra::default());
    let status = |started| MessageStatus {
        trace_id: None,
        account_id: stage.ada.id.clone(),
        conversation_id: room.clone(),
        message_id: msg_id.clone(),
        turn_id: "t".into(),
        started,
    };
    stage.voice.live.message_status(&status(true)).unwrap();
    stage.hub.fault(Endpoint::Unreact, Fault::status(503), 1);
    stage.voice.live.message_status(&status(false)).unwrap();
    assert_eq!(stage.hub.requests(Endpoint::Unreact).len(), 2, "tried again");
    stage.hub.fault(Endpoint::Unreact, Fault::coded(404, "message_not_found"), 1);
    assert!(stage.voice.live.message_status(&status(false)).is_err());
    assert_eq!(stage.hub.requests(Endpoint::Unreact).len(), 3, "a verdict is one");
}

#[test]
fn rooms_and_policies_are_looked_up() {
    let stage = Stage::new("rooms");
    let room = stage.group();
    stage.delivered(&stage.out("out_1", &room, "first words"));
    stage.delivered(&stage.out("out_2", &room, "second words"));
    let message = inbound(&room, "group");
    let context = stage.voice.rooms.context(&message).unwrap();
    assert_eq!((context.name.as_deref(), context.members.len()), (Some("Lab"), 2));
    stage.voice.rooms.context(&message).unwrap();
    assert_eq!(stage.hub.requests(Endpoint::Room).len(), 1);
    let recent = stage.voice.rooms.recent(&message).unwrap();
    assert_eq!(recent.iter().map(|m| m.text.as_str()).collect::<Vec<_>>(), ["first words", "second words"]);

    stage.hub.set_policy(&stage.ada, Some(&room), json!({"mode": "keyword", "keywords": ["deploy"]}));
    let policy = stage.voice.policies.fetch(&stage.ada.id, Some(&room)).unwrap().unwrap();
    assert_eq!((policy.mode, policy.keywords), (Mode::Keyword, vec!["deploy".to_owned()]));
    stage.hub.break_down(Endpoint::Policy, Fault::coded(404, "room_not_found"));
    assert!(stage.voice.policies.fetch(&stage.ada.id, Some(&room)).is_err(), "unknown is not always");

    stage.voice.contacts.wanted("ag_0123456789ab");
    assert!(stage.hub.notified(&stage.ada)[0].starts_with("ag_0123456789ab wants to be a contact"));
}
