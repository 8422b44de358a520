//! The control side of the tests' hub is itself tested: it answers as the protocol says, and it notices what a daemon
//! must not do.
#![allow(missing_docs)]

#[path = "support/hub/mod.rs"]
mod hub;
#[path = "support/hub_control/mod.rs"]
mod hub_control;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

use hub::sign::{base64, unbase64};
use hub_control::world::{Fault, Greet};
use hub_control::{ControlHub, Frame, Refusal, checks, sign};

/// A directory that goes with the test.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("bellhop-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Status and body of a request.
fn call(hub: &ControlHub, method: &str, path: &str, token: Option<&str>, body: &[u8]) -> (u16, Value) {
    let (status, bytes) = raw(hub, method, path, token, body);
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

fn raw(hub: &ControlHub, method: &str, path: &str, token: Option<&str>, body: &[u8]) -> (u16, Vec<u8>) {
    let address = hub.url()["http://".len()..].to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{bearer}Content-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return (0, answer) };
    let status = String::from_utf8_lossy(&answer[..end]).split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer[end + 4..].to_vec())
}

fn post(hub: &ControlHub, path: &str, body: &Value) -> (u16, Value) {
    call(hub, "POST", path, None, body.to_string().as_bytes())
}

fn detail(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["detail"].as_str().unwrap_or_default())
}

/// A daemon's end of a socket.
struct Daemon(WebSocket<TcpStream>);

impl Daemon {
    /// Connects; the status where the upgrade is refused.
    fn connect(hub: &ControlHub, path: &str, token: &str) -> Result<Self, u16> {
        let address = hub.url()["http://".len()..].to_owned();
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().unwrap());
        let stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                Err(answer.status().as_u16())
            }
            Err(e) => panic!("{e}"),
        }
    }

    /// The next text as a frame.
    fn read(&mut self) -> Value {
        loop {
            match self.0.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(text.as_str()).unwrap(),
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// The code of the close frame that ends it.
    fn close_code(&mut self) -> u16 {
        loop {
            match self.0.read().unwrap() {
                Message::Close(frame) => return frame.map_or(1005, |frame| frame.code.into()),
                Message::Text(text) => panic!("{text}"),
                _ => {}
            }
        }
    }

    fn send(&mut self, frame: &Value) {
        self.0.send(Message::text(frame.to_string())).unwrap();
    }

    /// Answers a frame with yes.
    fn accept(&mut self, frame: &Value) {
        self.send(&json!({"id": frame["id"], "ok": true, "result": {"for": frame["type"]}}));
    }
}

/// A hub with a daemon that has logged in, and its access token.
fn logged_in(hub: &ControlHub, home: &TempDir) -> (String, String) {
    let id = hub.log_in(&home.0);
    let file = std::fs::read(home.0.join("daemon/user-auth.json")).unwrap();
    let auth: Value = serde_json::from_slice(&file).unwrap();
    (id, auth["accessToken"].as_str().unwrap().to_owned())
}

#[test]
fn a_login_code_is_good_for_one_answer() {
    let hub = ControlHub::start();
    let (status, code) = call(&hub, "POST", "/daemon/auth/device-code", None, b"");
    assert_eq!((status, code["expires_in"].as_i64(), code["interval"].as_f64()), (200, Some(600), Some(0.05)));
    let ask = || post(&hub, "/daemon/auth/device-token", &json!({"device_code": code["device_code"]}));
    assert_eq!(ask(), (200, json!({"status": "pending"})));
    let instance = hub.approve(code["user_code"].as_str().unwrap(), Some("box"));
    let (status, tokens) = ask();
    assert_eq!((status, &tokens["daemon_instance_id"], &tokens["hub_url"]), (200, &json!(instance), &json!(hub.url())));
    assert_eq!(detail(&ask()), (400, "device_code_already_consumed"));

    let (_, code) = post(&hub, "/daemon/auth/device-code", &json!({}));
    hub.deny(code["user_code"].as_str().unwrap());
    let ask = |code: &Value| post(&hub, "/daemon/auth/device-token", &json!({"device_code": code["device_code"]}));
    assert_eq!(detail(&ask(&code)), (403, "device_code_denied"));
    let (_, code) = post(&hub, "/daemon/auth/device-code", &json!({}));
    hub.move_clock(600_001);
    assert_eq!(detail(&ask(&code)), (410, "device_code_expired"));
    assert_eq!(detail(&ask(&json!({"device_code": "dc_unknown"}))), (400, "invalid_device_code"));
    assert_eq!(ask(&json!({"device_code": "short"})).0, 422);
}

#[test]
fn a_ticket_is_used_once_and_may_renew_an_instance() {
    let hub = ControlHub::start();
    let redeem = |body: Value| post(&hub, "/daemon/auth/install-token", &body);
    assert_eq!(detail(&redeem(json!({"install_token": "dit_unknown"}))), (401, "invalid_install_token"));
    let ticket = hub.ticket(None);
    assert_eq!(redeem(json!({"install_token": ticket, "label": "x".repeat(65)})).0, 422);
    let (status, first) = redeem(json!({"install_token": ticket, "label": "box"}));
    assert_eq!(status, 200);
    assert_eq!(detail(&redeem(json!({"install_token": ticket}))), (400, "install_token_consumed"));

    let (id, ticket) = (first["daemon_instance_id"].clone(), hub.ticket(None));
    let (_, again) = redeem(json!({"install_token": ticket, "daemon_instance_id": id}));
    assert_eq!(again["daemon_instance_id"], id);
    let spent = post(&hub, "/daemon/auth/refresh", &json!({"refresh_token": first["refresh_token"]}));
    assert_eq!(detail(&spent), (401, "invalid_refresh_token"));
    let ticket = hub.ticket(None);
    let other = redeem(json!({"install_token": ticket, "daemon_instance_id": "dm_of_nobody"}));
    assert_eq!(detail(&other), (404, "daemon_instance_not_found"));
    hub.instance(id.as_str().unwrap(), |instance| instance.revoked = true);
    assert_eq!(detail(&redeem(json!({"install_token": ticket, "daemon_instance_id": id}))), (409, "daemon_revoked"));
    hub.move_clock(600_001);
    assert_eq!(detail(&redeem(json!({"install_token": ticket}))), (410, "install_token_expired"));
}

#[test]
fn refresh_tokens_rotate_and_requests_fail_on_purpose() {
    let hub = ControlHub::start();
    let ticket = hub.ticket(None);
    let (_, tokens) = post(&hub, "/daemon/auth/install-token", &json!({"install_token": ticket}));
    let refresh = |token: &Value| post(&hub, "/daemon/auth/refresh", &json!({"refresh_token": token}));
    let (status, second) = refresh(&tokens["refresh_token"]);
    assert_eq!(status, 200);
    assert_eq!(detail(&refresh(&tokens["refresh_token"])), (401, "invalid_refresh_token"));
    hub.fault("refresh", [Fault::Status(500), Fault::Malformed, Fault::Close]);
    assert_eq!(refresh(&second["refresh_token"]).0, 500);
    assert_eq!(refresh(&second["refresh_token"]), (200, Value::Null), "carried out, but not to be understood");
    assert_eq!(refresh(&second["refresh_token"]).0, 0, "no answer");
    assert_eq!(refresh(&second["refresh_token"]).0, 401, "spent by the second try");
    assert_eq!(hub.requests("/refresh").len(), 6);
}

#[test]
fn upgrades_are_refused_as_the_test_wants() {
    let (hub, home) = (ControlHub::start(), TempDir::new("control-refuse"));
    let (_, token) = logged_in(&hub, &home);
    let refusal = |path: &str, token: &str| Daemon::connect(&hub, path, token).err();
    assert_eq!(refusal("/daemon/ws", "wrong"), Some(403));
    assert_eq!(refusal("/cloud/daemon/ws", &token), Some(403), "a token of the other kind");
    hub.refuse_with(Refusal::Status(503));
    assert_eq!(refusal("/daemon/ws", "wrong"), Some(503));
    hub.refuse_with(Refusal::CloseWith(4401));
    assert_eq!(Daemon::connect(&hub, "/daemon/ws", "wrong").unwrap().close_code(), 4401);
    hub.move_clock(3_600_001);
    assert_eq!(Daemon::connect(&hub, "/daemon/ws", &token).unwrap().close_code(), 4401, "expired");
}

#[test]
fn the_first_frame_is_a_signed_hello_and_acks_are_matched() {
    let (hub, home) = (ControlHub::start(), TempDir::new("control-hello"));
    let (id, token) = logged_in(&hub, &home);
    hub.bind(&id, json!({"agentId": "ag_1", "displayName": "Nia", "bio": null, "runtime": null}));
    let mut daemon = Daemon::connect(&hub, "/daemon/ws", &token).unwrap();
    let hello = daemon.read();
    assert_eq!((&hello["type"], &hello["params"]["agents"][0]["agentId"]), (&json!("hello"), &json!("ag_1")));
    let signed = json!({"id": hello["id"], "params": hello["params"], "ts": hello["ts"], "type": "hello"});
    let signature = unbase64(hello["sig"].as_str().unwrap()).unwrap();
    let key = unbase64(&hub.key()).unwrap();
    UnparsedPublicKey::new(&ED25519, key).verify(sign::canonical(&signed).as_bytes(), &signature).unwrap();
    daemon.accept(&hello);

    let pending = hub.send(&id, "ping", json!({}));
    let ping = daemon.read();
    daemon.accept(&ping);
    assert_eq!(pending.result(), json!({"for": "ping"}));
    assert_eq!(hub.violations(), Vec::<String>::new());
    daemon.accept(&ping);
    daemon.send(&json!({"id": "unknown", "ok": true}));
    daemon.send(&json!({"id": "e1", "type": "pong", "ok": true}));
    daemon.send(&json!({"id": "e2", "type": "config_reloaded"}));
    assert_eq!(daemon.read()["error"]["code"], "unknown_type");
    assert_eq!(hub.violations().len(), 4, "twice, for nothing, with a type, an unknown event");
}

#[test]
fn events_are_checked_and_stored() {
    let (hub, home) = (ControlHub::start(), TempDir::new("control-events"));
    let (id, token) = logged_in(&hub, &home);
    let mut daemon = Daemon::connect(&hub, "/daemon/ws", &token).unwrap();
    let hello = daemon.read();
    daemon.accept(&hello);
    let mut event = |kind: &str, params: Value| {
        daemon.send(&json!({"id": "e", "type": kind, "ts": 1, "params": params}));
        daemon.read()["ok"] == true
    };
    assert!(event("pong", Value::Null));
    assert!(event("runtime_snapshot", json!({"runtimes": [], "probedAt": 5, "daemonVersion": "bellhop/1"})));
    assert_eq!(hub.wait_event(&id, "runtime_snapshot", 0)["daemonVersion"], "bellhop/1");
    assert!(event("agent_skill_snapshot", json!({"agentId": "ag_1", "skills": [], "probedAt": 5})));
    assert!(hub.instance(&id, |instance| instance.skills.contains_key("ag_1")));
    assert!(!event("runtime_snapshot", json!({"runtimes": [1], "probedAt": 5})));
    assert!(!event("cloud_gateway_runtime_status", json!({})), "not of a local daemon");
    assert_eq!(hub.violations().len(), 2);
}

#[test]
fn frames_can_be_wrong_in_every_way() {
    let (hub, home) = (ControlHub::start(), TempDir::new("control-wrong"));
    let (id, token) = logged_in(&hub, &home);
    let mut daemon = Daemon::connect(&hub, "/daemon/ws", &token).unwrap();
    daemon.read();
    let mut sent = |frame: Frame| {
        hub.send_frame(&id, &frame);
        daemon.read()
    };
    let plain = || Frame::new("ping", json!({"a": 1}));
    assert!(sent(Frame { unsigned: true, ..plain() })["sig"].is_null());
    assert!(sent(Frame { timeless: true, ..plain() })["ts"].is_null());
    assert_eq!(sent(Frame { id: Some("same".into()), ..plain() })["id"], "same");
    assert_eq!(sent(Frame { tampered: Some(json!({"a": 2})), ..plain() })["params"]["a"], 2);
    let (now, early) = (sent(plain())["ts"].as_i64().unwrap(), sent(Frame { offset: -400_000, ..plain() }));
    assert!(now - early["ts"].as_i64().unwrap() >= 399_000);
    let conn = hub.conn(&id);
    let long = json!({"id": "l", "type": "ping", "params": "ä".repeat(70_000)}).to_string();
    conn.fragments(&long, 1000);
    conn.bytes_one_by_one(&json!({"id": "b"}).to_string());
    assert_eq!(daemon.read()["id"], "l");
    assert_eq!(daemon.read()["id"], "b");
}

#[test]
fn a_newer_socket_displaces_the_older_one_and_its_end_fails_what_is_in_flight() {
    let (hub, home) = (ControlHub::start(), TempDir::new("control-displace"));
    let (id, token) = logged_in(&hub, &home);
    hub.greet(Greet { at_once: true, silent: false });
    let mut first = Daemon::connect(&hub, "/daemon/ws", &token).unwrap();
    assert_eq!(first.read()["type"], "hello", "together with the answer to the upgrade");
    let before = hub.conn(&id);
    let mut second = Daemon::connect(&hub, "/daemon/ws", &token).unwrap();
    assert_eq!(first.close_code(), 4001);
    hub.wait_reconnected(&id, &before);
    assert_eq!(second.read()["type"], "hello");
    let pending = hub.send(&id, "ping", json!({}));
    hub.cut(&id);
    hub.wait_offline(&id);
    assert!(hub.world(|world| !world.sent.contains_key(&pending.id)));
    let mut third = Daemon::connect(&hub, "/daemon/ws", &token).unwrap();
    third.read();
    hub.wait_online(&id);
    hub.close(&id, 1012, "paused");
    assert_eq!(third.close_code(), 1012);
}

#[test]
fn revocations_wait_for_the_daemon_and_the_last_one_ends_it() {
    let (hub, home) = (ControlHub::start(), TempDir::new("control-revoke"));
    let (id, token) = logged_in(&hub, &home);
    for agent in ["ag_1", "ag_2"] {
        hub.revoke_later(&id, json!({"agentId": agent}));
    }
    hub.instance(&id, |instance| instance.removing = true);
    let mut daemon = Daemon::connect(&hub, "/daemon/ws", &token).unwrap();
    let kinds = ["hello", "revoke_agent", "revoke_agent", "revoke"];
    for kind in kinds {
        let frame = daemon.read();
        assert_eq!(frame["type"], kind);
        daemon.accept(&frame);
    }
    assert_eq!(daemon.close_code(), 4403);
    assert_eq!(Daemon::connect(&hub, "/daemon/ws", &token).err(), Some(403));
}

#[test]
fn a_cloud_daemon_is_given_its_agents_and_settles_its_runs() {
    let hub = ControlHub::start();
    let (id, old) = hub.launch(None);
    let (_, variables) = hub.launch(Some(&id));
    let token = |variables: &[(String, String)]| variables[3].1.clone();
    assert_eq!(Daemon::connect(&hub, "/cloud/daemon/ws", &token(&old)).err(), Some(403), "of an earlier launch");
    let token = token(&variables);
    hub.instance(&id, |instance| {
        for agent in ["ag_1", "ag_2"] {
            instance.provision.insert(agent.into(), json!({"credentials": {"agentId": agent}}));
        }
    });
    let mut daemon = Daemon::connect(&hub, "/cloud/daemon/ws", &token).unwrap();
    let hello = daemon.read();
    assert_eq!(hello["params"]["cloud_daemon_instance_id"], variables[1].1.as_str());
    daemon.accept(&hello);
    let list = daemon.read();
    assert_eq!(list["type"], "list_agents");
    daemon.send(&json!({"id": list["id"], "ok": true, "result": {"agents": [{"id": "ag_1"}]}}));
    let provision = daemon.read();
    assert_eq!(
        (&provision["type"], &provision["params"]["credentials"]["agentId"]),
        (&json!("provision_agent"), &json!("ag_2"))
    );
    daemon.accept(&provision);

    hub.reserve("crun_1", &id);
    hub.reserve("crun_2", "dm_other");
    let usage = json!({
        "provider": "p", "model": "m", "input_cache_hit_tokens": 0, "input_cache_miss_tokens": 0, "output_tokens": 8,
        "sandbox_seconds": 4, "idempotency_key": "crun_1:settle",
    });
    let settle = |run: &str, usage: &Value| {
        let path = format!("/internal/cloud-agents/runs/{run}/settle");
        call(&hub, "POST", &path, Some(&token), usage.to_string().as_bytes())
    };
    assert_eq!(settle("crun_1", &usage).1["deduplicated"], false);
    assert_eq!(settle("crun_1", &usage).1["deduplicated"], true);
    let mut other = usage.clone();
    other["idempotency_key"] = json!("another");
    assert_eq!(detail(&settle("crun_1", &other)), (409, "reservation_not_active"));
    assert_eq!(detail(&settle("crun_3", &other)), (404, "no_reservation"));
    assert_eq!(settle("crun_2", &other).0, 403);
    assert_eq!(hub.violations().len(), 1, "a run of somebody else");
    other["output_tokens"] = json!(-1);
    assert_eq!(settle("crun_1", &other).0, 422);
}

#[test]
fn what_agents_ask_for_is_answered() {
    let (hub, home) = (ControlHub::start(), TempDir::new("control-agents"));
    let (_, token) = logged_in(&hub, &home);
    hub.world(|world| {
        world.policies.insert(("ag_1".into(), String::new()), json!({"mode": "muted", "keywords": []}));
        world.files.insert("f_1".into(), (b"whole".to_vec(), true));
        world.files.insert("f_2".into(), (b"untold".to_vec(), false));
    });
    let policy = call(&hub, "GET", "/hub/attention-policy?room_id=rm_1", Some("token of ag_1"), b"");
    assert_eq!(policy, (200, json!({"mode": "muted", "keywords": []})));
    assert_eq!(call(&hub, "GET", "/hub/attention-policy", None, b"").0, 401);
    assert_eq!(hub.world(|world| world.policy_calls), 2);
    assert_eq!(raw(&hub, "GET", "/hub/files/f_1", None, b""), (200, b"whole".to_vec()));
    assert_eq!(raw(&hub, "GET", "/hub/files/f_2", None, b""), (200, b"untold".to_vec()));
    assert_eq!(raw(&hub, "GET", "/hub/files/f_3", None, b"").0, 404);

    let seed = hub::sign::Seed::named("agent");
    let key = ring::signature::Ed25519KeyPair::from_seed_unchecked(&seed.0).unwrap();
    let public = base64(ring::signature::KeyPair::public_key(&key).as_ref());
    let (_, begun) =
        post(&hub, "/registry/agents", &json!({"display_name": "Nia", "pubkey": format!("ed25519:{public}")}));
    let path = format!("/registry/agents/{}/verify", begun["agent_id"].as_str().unwrap());
    let challenge = unbase64(begun["challenge"].as_str().unwrap()).unwrap();
    let mut proof = json!({"key_id": begun["key_id"], "challenge": begun["challenge"], "sig": base64(&[0; 64])});
    assert_eq!(detail(&post(&hub, &path, &proof)), (401, "bad_signature"));
    proof["sig"] = base64(key.sign(&challenge).as_ref()).into();
    assert_eq!(post(&hub, &path, &proof).0, 200);

    let upload = |token: Option<&str>, bytes: &[u8]| call(&hub, "POST", "/daemon/diagnostics/upload", token, bytes);
    assert_eq!(detail(&upload(None, b"PK\x03\x04x")), (401, "missing_bearer"));
    assert_eq!(detail(&upload(Some(&token), b"")), (400, "empty_diagnostic_bundle"));
    assert_eq!(detail(&upload(Some(&token), b"x")), (400, "diagnostic_bundle_must_be_zip"));
    assert_eq!(upload(Some(&token), b"PK\x03\x04x").1["size_bytes"], 5);
}

#[test]
fn its_own_checks_and_signatures_follow_the_vectors() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/control-frames.json");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut seen = 0;
    for case in &cases {
        let (input, expect) = (&case["input"], &case["expect"]);
        let now = 1_800_000_000_000;
        match input["kind"].as_str().unwrap() {
            "hub_validate_runtime_snapshot" => {
                assert_eq!(checks::runtime_snapshot(&input["params"], now), expect["accepted"] == true, "{case}");
            }
            "hub_validate_agent_skill_snapshot" => {
                assert_eq!(checks::skill_snapshot(&input["params"], now), expect["accepted"] == true, "{case}");
            }
            "canonical" => {
                // Parsed from the text, since not every parser reads the numbers of the frame exactly.
                let signed: Value = serde_json::from_str(expect["text"].as_str().unwrap()).unwrap();
                assert_eq!(expect["text"], sign::canonical(&signed).as_str(), "{case}");
                let (id, kind) = (signed["id"].as_str().unwrap(), signed["type"].as_str().unwrap());
                let signature = sign::Signer::numbered(1).sign(id, kind, &signed["params"], &signed["ts"]);
                assert_eq!(expect["signature_b64_by_seed_1"], signature.as_str(), "{case}");
            }
            "keypair" => {
                let seed = unbase64(input["seed_b64"].as_str().unwrap()).unwrap();
                let number = (0..256).find(|n| (7 * n) % 256 == usize::from(seed[0])).unwrap();
                let signer = sign::Signer::numbered(number);
                let named = json!({"public_key_b64": signer.public(), "fingerprint": signer.fingerprint()});
                assert_eq!(&named, expect, "{case}");
            }
            // For the daemon's side.
            _ => continue,
        }
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
}
