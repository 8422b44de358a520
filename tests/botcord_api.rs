//! An agent's requests against a strict hub on loopback, and against servers that misbehave below HTTP.

#[path = "support/hub/mod.rs"]
mod hub;
mod support;

use std::io::{Cursor, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use bellhop::channel::botcord::api::{Api, RoomQuery};
use bellhop::channel::botcord::credentials::{self, CredentialsFile};
use bellhop::channel::botcord::envelope::Draft;
use bellhop::channel::botcord::error::{ApiError, Terminal};
use bellhop::channel::botcord::registry;
use bellhop::engine::cancel::CancelToken;
use bellhop::engine::keys::uuid_v4;
use bellhop::net::http::Http;
use bellhop::store::RealDisk;
use hub::{AgentHandle, Endpoint, Fault, Hub, Rule, State};
use serde_json::{Value, json};
use support::temp_dir::TempDir;

/// An agent of a hub and what asks for it, with its file of credentials.
struct Side {
    api: Arc<Api>,
    path: PathBuf,
    _home: TempDir,
}

fn side(hub: &Hub, agent: &AgentHandle) -> Side {
    let home = TempDir::new("api");
    let path = hub.write_credentials(agent, home.path());
    let api = Arc::new(api_of(&path));
    Side { api, path, _home: home }
}

fn api_of(path: &std::path::Path) -> Api {
    let credentials = credentials::load(path).unwrap();
    let file = CredentialsFile::new(path, &credentials, Arc::new(RealDisk));
    Api::new(credentials, Some(file), Arc::new(Http::new())).unwrap()
}

fn draft<'a>(msg_id: &'a str, to: &'a str, payload: &'a Value) -> Draft<'a> {
    Draft {
        msg_id,
        to,
        kind: "message",
        reply_to: None,
        topic: None,
        goal: None,
        payload,
        mentions: &[],
        trace_id: None,
    }
}

fn token_in(path: &std::path::Path) -> String {
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    file["token"].as_str().unwrap().to_owned()
}

#[test]
fn an_owner_chat_from_question_to_end() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let side = side(&hub, &ada);
    let api = &side.api;
    let said = hub.owner_says(&ada, "hi");
    let page = api.poll(Duration::ZERO).unwrap();
    assert_eq!(page.messages.len(), 1);
    let message = &page.messages[0];
    let (id, room) = (message["hub_msg_id"].as_str().unwrap(), message["room_id"].as_str().unwrap());
    let ids = [id.to_owned()];
    assert_eq!(api.renew(&ids).unwrap(), 1);
    api.typing(room).unwrap();
    api.stream_block(id, 1, json!({"kind": "assistant", "seq": 1, "payload": {"text": "hel"}})).unwrap();
    let (msg_id, payload) = (uuid_v4(), json!({"text": "hello"}));
    let question = message["envelope"]["msg_id"].as_str().unwrap();
    let answer = Draft { reply_to: Some(question), trace_id: Some(id), ..draft(&msg_id, room, &payload) };
    assert!(api.send(&answer).unwrap().hub_msg_id.is_some());
    api.stream_end(id).unwrap();
    api.ack(&ids).unwrap();
    assert_eq!(api.ack(&ids).unwrap(), 0);
    assert_eq!(hub.wait_text(&said), "hello");
    hub.wait_settled(&said);
    assert!(api.message_status(&msg_id).unwrap().is_some());
    assert_eq!(api.message_status(&uuid_v4()).unwrap(), None);
    api.notify_owner("all done").unwrap();
    assert_eq!(hub.notified(&ada), ["all done"]);
}

#[test]
fn a_new_agent_registers_and_is_there_after_a_restart() {
    let hub = Hub::start();
    let (home, http, abort) = (TempDir::new("api"), Http::new(), CancelToken::new().unwrap());
    let registered = registry::register(&http, &hub.url(), "Ada", " ", abort.as_fd()).unwrap();
    let path = home.join("credentials/ada.json");
    credentials::file::create(&path, &RealDisk, &registered.credentials, serde_json::Map::new()).unwrap();
    let (found, warnings) = credentials::discover::discover(path.parent().unwrap(), Some(&hub.url()));
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(found[0].credentials.agent_id, registered.credentials.agent_id);
    assert!(api_of(&path).poll(Duration::ZERO).unwrap().messages.is_empty());
    assert!(hub.requests(Endpoint::Refresh).is_empty());
    hub.fault(Endpoint::Register, Fault::html(405), 1);
    let error = registry::register(&http, &hub.url(), "Bob", "a bio", abort.as_fd()).unwrap_err();
    assert_eq!(error.status(), Some(405));
    hub.fault(Endpoint::Verify, Fault::coded(400, "challenge_expired"), 1);
    let error = registry::register(&http, &hub.url(), "Bob", "a bio", abort.as_fd()).unwrap_err();
    assert!(error.is("challenge_expired"), "{error}");
    for (name, bio) in [("", ""), (" ", ""), (&"x".repeat(129), ""), ("Ada", &"x".repeat(501))] {
        let error = registry::register(&http, &hub.url(), name, bio, abort.as_fd()).unwrap_err();
        assert!(matches!(error, ApiError::Request(_)), "{error}");
    }
}

#[test]
fn an_inbox_that_is_too_long_is_read_in_pieces() {
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = asked.clone();
    let (url, _, thread) = heard_server(move |stream, head| {
        let limit = head.split("limit=").nth(1).and_then(|l| l.split('&').next()).unwrap().to_owned();
        let length = if limit == "1" || seen.lock().unwrap().len() > 2 { 0 } else { 33 << 20 };
        seen.lock().unwrap().push(limit);
        let body = format!("{{\"messages\":[],\"x\":\"{}\"}}", "x".repeat(length));
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
    });
    let api = asking(&url);
    let results: Vec<bool> = (0..9).map(|_| api.poll(Duration::ZERO).is_ok()).collect();
    assert_eq!(results, [false, false, true, true, true, true, true, true, true]);
    assert_eq!(*asked.lock().unwrap(), ["50", "7", "1", "1", "1", "1", "1", "1", "1"], "it may come back");
    end(&url, thread);
}

#[test]
fn a_long_poll_ends_when_something_comes() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let room = hub.room("Lab", &[&bob, &ada]);
    let side = side(&hub, &ada);
    let api = side.api.clone();
    let began = Instant::now();
    let poller = spawn(move || api.poll(Duration::from_secs(25)).unwrap());
    while hub.requests(Endpoint::Inbox).is_empty() && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    hub.says(&bob, &room, "news");
    assert_eq!(poller.join().unwrap().messages.len(), 1);
    assert!(began.elapsed() < Duration::from_secs(24));
}

#[test]
fn rooms_topics_policies_and_reactions() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let room = hub.room("Lab & Co", &[&bob, &ada]);
    hub.set_policy(&ada, Some(&room), json!({"mode": "keyword", "keywords": ["deploy"]}));
    let side = side(&hub, &ada);
    let api = &side.api;
    let known = api.room(&room).unwrap();
    assert_eq!((known.name.as_deref(), known.members.len(), known.member_count), (Some("Lab & Co"), 2, Some(2)));
    assert_eq!(api.rooms_me().unwrap()[0].room_id, room);
    for n in 0..3 {
        hub.says(&bob, &room, &format!("message {n}"));
    }
    let recent = api.room_messages(&room, RoomQuery { limit: 2, ..RoomQuery::default() }).unwrap();
    assert_eq!(recent.messages.iter().map(|m| m.text.as_str()).collect::<Vec<_>>(), ["message 2", "message 1"]);
    assert!(recent.has_more);
    let before = RoomQuery { limit: 50, before: Some(&recent.messages[1].hub_msg_id), ..RoomQuery::default() };
    assert_eq!(api.room_messages(&room, before).unwrap().messages[0].text, "message 0");
    let both = RoomQuery { after: Some("h_x"), ..before };
    assert!(api.room_messages(&room, both).unwrap_err().is("before_after_exclusive"));
    let (msg_id, payload) = (uuid_v4(), json!({"text": "about it"}));
    let topic = Draft { topic: Some("Ärger & mehr?"), ..draft(&msg_id, &room, &payload) };
    let sent = api.send(&topic).unwrap();
    let topics = api.topics(&room).unwrap();
    assert_eq!((topics[0].title.as_deref(), Some(topics[0].topic_id.clone())), (Some("Ärger & mehr?"), sent.topic_id));
    let policy = api.attention_policy(Some(&room)).unwrap();
    assert_eq!((policy.mode.as_str(), policy.keywords), ("keyword", vec!["deploy".to_owned()]));
    assert_eq!(api.attention_policy(None).unwrap().mode, "always");
    api.set_replying(&msg_id, &room, "turn-1", "⏳").unwrap();
    assert_eq!(hub.reactions(&msg_id).len(), 1);
    api.clear_replying(&msg_id, &room, "turn-1").unwrap();
    assert!(api.room("rm_000000000000").unwrap_err().is("room_not_found"));
    let key = api.public_key(&bob.id, &bob.key_id).unwrap();
    assert_eq!(key, hub.credentials(&bob)["publicKey"]);
}

#[test]
fn files_go_up_and_come_down() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let side = side(&hub, &ada);
    let content: Vec<u8> = (0..300_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    let mut file = Cursor::new(content.clone());
    // The token is refused once, so that the file is read twice.
    hub.fault(Endpoint::Upload, Fault::unauthorized(), 1);
    let upload = side.api.upload(&mut file, content.len() as u64, "a \"b\"\r\n.png", "image/png").unwrap();
    assert_eq!((upload.size_bytes, upload.content_type.as_deref()), (Some(300_000), Some("image/png")));
    assert!(side.api.may_download(&upload.url), "{}", upload.url);
    let mut back = Vec::new();
    let download = side.api.download(&upload.url, 1 << 20, &mut back).unwrap();
    assert!(back == content && download.size == 300_000);
    assert_eq!(side.api.download(&upload.url, 299_999, &mut Vec::new()), Err(ApiError::Answer("it is too long")));
    assert_eq!(side.api.download(&upload.url, 300_000, &mut Vec::new()).unwrap().size, 300_000);
    let gone = format!("{}/hub/files/f_{}", hub.url(), "0".repeat(32));
    assert!(side.api.download(&gone, 1, &mut Vec::new()).unwrap_err().is("file_not_found"));
    let empty = side.api.upload(&mut Cursor::new(Vec::new()), 0, "a.png", "image/png").unwrap_err();
    assert!(empty.is("empty_file"), "{empty}");
    let short = side.api.upload(&mut Cursor::new(vec![1]), 5_000, "a.png", "image/png").unwrap_err();
    assert!(short.to_string().contains("shorter"), "{short}");
}

#[test]
fn only_files_of_the_hub_are_fetched() {
    let hub = Hub::start();
    let side = side(&hub, &hub.agent("Ada"));
    let file = format!("/hub/files/f_{}", "0".repeat(32));
    for url in [
        format!("https://elsewhere.example{file}"),
        format!("{}/x{file}", hub.url()),
        format!("{}/hub/rooms/me", hub.url()),
        format!("{}/hub/files/f_", hub.url()),
        format!("{}/hub/files/f_..%2f", hub.url()),
        format!("{}{file}?x", hub.url()),
        file.clone(),
    ] {
        assert!(!side.api.may_download(&url), "{url}");
        assert!(matches!(side.api.download(&url, 10, &mut Vec::new()), Err(ApiError::Request(_))));
    }
    assert!(side.api.may_download(&format!("{}{file}", hub.url())));
}

#[test]
fn a_token_that_was_replaced_elsewhere_is_taken_from_the_file() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let side = side(&hub, &ada);
    side.api.poll(Duration::ZERO).unwrap();
    // The other program writes its token into the file.
    let (token, end) = hub.refreshed_elsewhere(&ada);
    let mut file: Value = serde_json::from_str(&std::fs::read_to_string(&side.path).unwrap()).unwrap();
    (file["token"], file["tokenExpiresAt"]) = (token.clone().into(), end.into());
    std::fs::write(&side.path, file.to_string()).unwrap();
    side.api.poll(Duration::ZERO).unwrap();
    assert!(hub.requests(Endpoint::Refresh).is_empty());
    // This one does not.
    hub.refreshed_elsewhere(&ada);
    side.api.poll(Duration::ZERO).unwrap();
    assert_eq!(hub.requests(Endpoint::Refresh).len(), 1);
    assert_ne!(token_in(&side.path), token);
    // What is in the file is good for the next start.
    api_of(&side.path).poll(Duration::ZERO).unwrap();
    assert_eq!(hub.requests(Endpoint::Refresh).len(), 1);
}

#[test]
fn two_programs_with_one_file_do_not_refresh_against_each_other() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let side = side(&hub, &ada);
    let others: Vec<Api> = (0..4).map(|_| api_of(&side.path)).collect();
    hub.refreshed_elsewhere(&ada);
    // Each of them still has the old token and uses it once.
    hub.allow(Rule::OldToken);
    std::thread::scope(|scope| {
        for api in &others {
            scope.spawn(|| api.poll(Duration::ZERO).unwrap());
        }
    });
    assert_eq!(hub.requests(Endpoint::Refresh).len(), 1);
}

#[test]
fn many_requests_share_one_refresh() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let side = side(&hub, &ada);
    hub.expire_tokens(&ada);
    hub.fault(Endpoint::Refresh, Fault::Delay(Duration::from_millis(100)), 1);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| side.api.rooms_me().unwrap());
        }
    });
    assert_eq!(hub.requests(Endpoint::Refresh).len(), 1);
}

#[test]
fn one_terminal_answer_is_not_the_end() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let side = side(&hub, &ada);
    hub.expire_tokens(&ada);
    hub.fault(Endpoint::Refresh, Fault::coded(404, "agent_not_found"), 1);
    assert!(side.api.poll(Duration::ZERO).unwrap_err().is("agent_not_found"));
    assert_eq!(side.api.ended(), None);
    assert!(matches!(side.api.poll(Duration::ZERO), Err(ApiError::NoToken(_))), "it is not asked again at once");
    assert_eq!(hub.requests(Endpoint::Refresh).len(), 1);
    assert!(side.path.exists());
}

#[test]
fn an_agent_that_nobody_claims_is_told_so_until_it_is() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let side = side(&hub, &ada);
    hub.unclaim(&ada);
    for _ in 0..3 {
        let error = side.api.poll(Duration::ZERO).unwrap_err();
        assert!(error.status() == Some(403) && error.to_string().contains("agent_not_claimed"), "{error}");
    }
    assert_eq!(side.api.ended(), None);
    assert_eq!(Terminal::Unclaimed.to_string(), "agent not claimed");
}

#[test]
fn what_is_put_aside_can_be_found() {
    let hub = Hub::start();
    let side = side(&hub, &hub.agent("Ada"));
    let aside = side.api.put_credentials_aside().unwrap().unwrap();
    assert!(aside.to_str().unwrap().contains(".json.revoked-") && aside.exists() && !side.path.exists());
    assert_eq!(side.api.put_credentials_aside().unwrap(), None);
}

#[test]
fn faults_are_repeated_only_where_nothing_is_done_twice() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let room = hub.room("Lab", &[&bob, &ada]);
    let side = side(&hub, &ada);
    hub.fault(Endpoint::Room, Fault::html(502), 1);
    assert_eq!(side.api.room(&room).unwrap().room_id, room);
    hub.fault(Endpoint::Ack, Fault::DropAfter, 1);
    hub.says(&bob, &room, "x");
    let page = side.api.poll(Duration::ZERO).unwrap();
    let ids = [page.messages[0]["hub_msg_id"].as_str().unwrap().to_owned()];
    side.api.ack(&ids).unwrap();
    assert_eq!(hub.requests(Endpoint::Ack).len(), 2);
    // A message may have been stored.
    let (msg_id, payload) = (uuid_v4(), json!({"text": "once"}));
    hub.fault(Endpoint::Send, Fault::DropAfter, 1);
    let error = side.api.send(&draft(&msg_id, &room, &payload)).unwrap_err();
    assert!(error.is_uncertain(), "{error}");
    assert_eq!(hub.requests(Endpoint::Send).len(), 1);
    assert!(side.api.message_status(&msg_id).unwrap().is_some());
    // Nobody waits for a sign of life.
    hub.fault(Endpoint::Typing, Fault::status(500), 1);
    assert_eq!(side.api.typing(&room).unwrap_err().status(), Some(500));
    assert_eq!(hub.requests(Endpoint::Typing).len(), 1);
    hub.fault(Endpoint::Inbox, Fault::Truncate, 1);
    assert!(side.api.poll(Duration::ZERO).is_err());
}

#[test]
fn a_hub_that_is_too_busy_is_waited_for() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let room = hub.room("Lab", &[&bob, &ada]);
    let side = side(&hub, &ada);
    hub.allow(Rule::Pacing);
    hub.fault(Endpoint::Send, Fault::too_many("rate_limit_exceeded", Some("1")), 1);
    let (msg_id, payload) = (uuid_v4(), json!({"text": "x"}));
    hub.allow(Rule::BlindRepeat);
    side.api.send(&draft(&msg_id, &room, &payload)).unwrap();
    hub.fault(Endpoint::Send, Fault::too_many("rate_limit_exceeded", Some("100")), 1);
    let error = side.api.send(&draft(&uuid_v4(), &room, &json!({"text": "y"}))).unwrap_err();
    assert_eq!(error.refusal().unwrap().retry_after, Some(Duration::from_secs(100)));
    hub.fault(Endpoint::Send, Fault::too_many("duplicate_content", Some("1")), 1);
    assert!(side.api.send(&draft(&uuid_v4(), &room, &json!({"text": "z"}))).unwrap_err().is("duplicate_content"));
}

#[test]
fn a_clock_that_is_wrong_is_corrected_by_the_hubs() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let room = hub.room("Lab", &[&bob, &ada]);
    let side = side(&hub, &ada);
    hub.clock().skew(10_000);
    let (msg_id, payload) = (uuid_v4(), json!({"text": "x"}));
    let draft = draft(&msg_id, &room, &payload);
    let error = side.api.send(&draft).unwrap_err();
    assert!(error.is("timestamp_out_of_range"), "{error}");
    assert!(side.api.adopt_clock(error.refusal().unwrap()));
    hub.allow(Rule::BlindRepeat);
    hub.allow(Rule::StaleTs);
    side.api.send(&draft).unwrap();
}

#[test]
fn a_request_is_given_up_when_it_is_not_wanted() {
    let hub = Hub::start();
    let side = side(&hub, &hub.agent("Ada"));
    let api = side.api.clone();
    let poller = spawn(move || api.poll(Duration::from_secs(25)));
    let began = Instant::now();
    while hub.requests(Endpoint::Inbox).is_empty() && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    side.api.stop();
    assert_eq!(poller.join().unwrap(), Err(ApiError::Stopped { sent: true }));
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(side.api.rooms_me(), Err(ApiError::Stopped { sent: false }));
    assert!(matches!(side.api.token(), Err(ApiError::Stopped { .. })));
}

#[test]
fn an_old_hub_answers_and_is_not_believed_too_much() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let side = side(&hub, &ada);
    let said = hub.owner_says(&ada, "x");
    hub.fault(Endpoint::Inbox, Fault::Insert(json!({"hub_msg_id": 5, "envelope": []})), 1);
    let page = side.api.poll(Duration::ZERO).unwrap();
    assert_eq!(page.messages.len(), 2, "a strange message stops nothing");
    assert_eq!(hub.state(&said), State::Processing);
    hub.fault(Endpoint::Inbox, Fault::html(200), 1);
    assert_eq!(side.api.poll(Duration::ZERO), Err(ApiError::Answer("an inbox without messages")));
}

/// A server that says the same to everybody, and counts.
fn server(answer: impl Fn(&mut TcpStream) + Send + 'static) -> (String, Arc<AtomicUsize>, JoinHandle<()>) {
    heard_server(move |stream, _| answer(stream))
}

/// A server that answers to the head of a request, and counts.
fn heard_server(answer: impl Fn(&mut TcpStream, &str) + Send + 'static) -> (String, Arc<AtomicUsize>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let thread = spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
                head.push(byte[0]);
            }
            if head.is_empty() {
                return;
            }
            counted.fetch_add(1, Ordering::SeqCst);
            answer(&mut stream, &String::from_utf8_lossy(&head));
        }
    });
    (url, count, thread)
}

/// What asks such a server.
fn asking(url: &str) -> Api {
    let file = json!({
        "hubUrl": url, "agentId": "ag_0123456789ab", "keyId": "k_0123456789ab", "token": "secret-token",
        "tokenExpiresAt": 9_999_999_999_i64, "privateKey": "BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=",
    });
    let credentials = credentials::parse(&file.to_string()).unwrap();
    Api::new(credentials, None, Arc::new(Http::new())).unwrap()
}

/// Ends a server, which waits for a connection.
fn end(url: &str, thread: JoinHandle<()>) {
    drop(TcpStream::connect(url.strip_prefix("http://").unwrap()));
    thread.join().unwrap();
}

#[test]
fn redirects_are_not_followed() {
    let (elsewhere, visits, other) = server(|_| ());
    let target = elsewhere.clone();
    let (url, _, thread) = server(move |stream| {
        let head = format!("HTTP/1.1 307 T\r\nLocation: {target}/hub/rooms/me\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
    });
    assert_eq!(asking(&url).rooms_me().unwrap_err().status(), Some(307));
    end(&url, thread);
    end(&elsewhere, other);
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[test]
fn an_error_without_end_is_read_in_part() {
    let (url, _, thread) = server(|stream| {
        let head = "HTTP/1.1 403 F\r\nConnection: close\r\n\r\n";
        let mut sent = stream.write_all(head.as_bytes());
        while sent.is_ok() {
            sent = stream.write_all(&[b'x'; 8_192]);
        }
    });
    let error = asking(&url).room("rm_1").unwrap_err();
    assert_eq!(error.status(), Some(403));
    assert_eq!(error.refusal().unwrap().excerpt.len(), 200);
    end(&url, thread);
}

#[test]
fn heads_that_are_too_long_and_nonsense_are_errors() {
    for answer in [format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(100_000)), "nonsense\r\n\r\n".to_owned()] {
        let (url, count, thread) = server(move |stream| {
            let _ = stream.write_all(answer.as_bytes());
        });
        let error = asking(&url).notify_owner("x").unwrap_err();
        assert!(matches!(error, ApiError::Network { sent: true, .. }), "{error}");
        assert!(!error.to_string().contains("secret-token"), "{error}");
        assert_eq!(count.load(Ordering::SeqCst), 1);
        end(&url, thread);
    }
}

#[test]
fn whether_anything_was_sent_is_known() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = asking(&format!("http://{closed}")).notify_owner("x").unwrap_err();
    assert!(matches!(error, ApiError::Network { sent: false, .. }) && !error.is_uncertain(), "{error}");
    let (url, _, thread) = server(|_| ());
    let error = asking(&url).notify_owner("x").unwrap_err();
    assert!(matches!(error, ApiError::Network { sent: true, .. }) && error.is_uncertain(), "{error}");
    end(&url, thread);
}
