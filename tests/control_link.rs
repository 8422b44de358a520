//! The control link of a real daemon, against a hub that is as strict as the real one about frames.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bellhop::crypto::sign::SigningKey;
use bellhop::link::botcord_control::frame::{Frame, Incoming, read};
use bellhop::link::botcord_control::ring::signing_input;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::temp_dir::TempDir;
use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::frame::{CloseFrame, coding::CloseCode};
use tungstenite::{Message, WebSocket};

/// Nothing here takes as long; a test that waits longer has failed.
const LIMIT: Duration = Duration::from_mins(1);

/// The hub's end: it hands out connections as they come, and renews logins in between.
struct Hub {
    listener: TcpListener,
    /// The access token that it takes now, and the refresh token that buys the next one.
    tokens: (String, String),
    renewed: u32,
}

/// A connection of the daemon.
struct Peer {
    socket: WebSocket<TcpStream>,
    number: u32,
    key: Option<SigningKey>,
    /// Events that came while an answer was waited for.
    events: Vec<Value>,
}

impl Hub {
    fn start() -> Self {
        let tokens = ("at_0".to_owned(), "drt_000000".to_owned());
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap(), tokens, renewed: 0 }
    }

    fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }

    /// The next connection that is let in; renewals and refusals before it are answered.
    fn accept(&mut self) -> Peer {
        self.listener.set_nonblocking(true).unwrap();
        let end = Instant::now() + LIMIT;
        loop {
            assert!(Instant::now() < end, "no connection");
            let Ok((stream, _)) = self.listener.accept() else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            let mut head = [0; 2_048];
            let size = stream.peek(&mut head).unwrap();
            let head = String::from_utf8_lossy(&head[..size]).into_owned();
            if head.starts_with("GET /daemon/ws") {
                let bearer = format!("Bearer {}", self.tokens.0);
                #[allow(clippy::result_large_err, reason = "the library's own type")]
                let check = |request: &Request, response: Response| {
                    assert_eq!(request.uri().path(), "/daemon/ws");
                    assert_eq!(request.uri().query(), Some("label=build+box"));
                    if request.headers().get("authorization").is_some_and(|value| *value == *bearer) {
                        return Ok(response);
                    }
                    let mut refused = tungstenite::handshake::server::ErrorResponse::new(None);
                    *refused.status_mut() = tungstenite::http::StatusCode::FORBIDDEN;
                    Err(refused)
                };
                if let Ok(socket) = tungstenite::accept_hdr(stream, check) {
                    return Peer { socket, number: 0, key: None, events: Vec::new() };
                }
            } else {
                self.answer(stream);
            }
        }
    }

    fn answer(&mut self, mut stream: TcpStream) {
        let mut text = Vec::new();
        let body = loop {
            let mut buffer = [0; 4_096];
            // A daemon that was killed meanwhile leaves less than a request.
            let Some(size) = stream.read(&mut buffer).ok().filter(|size| *size > 0) else { return };
            text.extend_from_slice(&buffer[..size]);
            let so_far = String::from_utf8_lossy(&text).into_owned();
            if let Some((head, body)) = so_far.split_once("\r\n\r\n") {
                let head = head.to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
                if body.len() >= length.parse::<usize>().unwrap() {
                    break body.to_owned();
                }
            }
        };
        let line = String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned();
        let (status, answer) = if line.starts_with("POST /daemon/auth/refresh ") {
            let asked: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(asked.as_object().unwrap().len(), 1, "{asked}");
            if asked["refresh_token"] == self.tokens.1.as_str() {
                self.renewed += 1;
                self.tokens = (format!("at_{}", self.renewed), format!("drt_00000{}", self.renewed));
                let answer = json!({"access_token": self.tokens.0, "refresh_token": self.tokens.1, "expires_in": 3600,
                                    "user_id": "u1", "daemon_instance_id": "dm_1"});
                ("200 OK", answer)
            } else {
                ("401 Unauthorized", json!({"detail": "invalid_refresh_token"}))
            }
        } else {
            ("404 Not Found", json!({"detail": "Not Found"}))
        };
        let answer = answer.to_string();
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
        let _ = stream.write_all((head + &answer).as_bytes());
    }
}

impl Peer {
    fn read(&mut self) -> Value {
        loop {
            match self.socket.read().expect("the daemon ended the connection") {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn send(&mut self, id: &str, kind: &str, params: &Value) {
        let mut frame = json!({"id": id, "type": kind, "params": params, "ts": now_ms()});
        if let Some(key) = &self.key {
            let Incoming::Frame(read) = read(&frame.to_string()) else { panic!("a frame") };
            let read: Frame = read;
            frame["sig"] = key.sign_text(signing_input(&read).as_bytes()).into();
        }
        self.socket.send(Message::text(frame.to_string())).unwrap();
    }

    /// The answer to a frame; events in between are put aside, and answered.
    fn answer_to(&mut self, id: &str) -> Value {
        loop {
            let message = self.read();
            if message.get("type").is_some() {
                assert!(message["id"].is_string() && message["ts"].is_number(), "{message}");
                let ack = json!({"id": message["id"], "ok": true}).to_string();
                self.socket.send(Message::text(ack)).unwrap();
                self.events.push(message);
                continue;
            }
            assert_eq!(message["id"], id, "{message}");
            assert!(message["ok"].is_boolean(), "{message}");
            return message;
        }
    }

    fn ask(&mut self, kind: &str, params: Value) -> Value {
        self.number += 1;
        let id = format!("f{}", self.number);
        self.send(&id, kind, &params);
        self.answer_to(&id)
    }

    fn done(&mut self, kind: &str, params: Value) -> Value {
        let answer = self.ask(kind, params);
        assert_eq!(answer["ok"], true, "{kind}: {answer}");
        answer["result"].clone()
    }

    fn refused(&mut self, kind: &str, params: Value) -> String {
        let answer = self.ask(kind, params);
        assert_eq!(answer["ok"], false, "{kind}: {answer}");
        answer["error"]["code"].as_str().unwrap().to_owned()
    }

    fn event(&mut self, kind: &str) -> Value {
        loop {
            if let Some(at) = self.events.iter().position(|event| event["type"] == kind) {
                return self.events.remove(at);
            }
            let message = self.read();
            assert!(message.get("type").is_some(), "{message}");
            self.events.push(message);
        }
    }

    /// How the daemon ends the connection.
    fn farewell(&mut self) -> (u16, String) {
        loop {
            match self.socket.read().expect("the daemon went without a word") {
                Message::Close(frame) => {
                    let frame = frame.expect("a code");
                    return (frame.code.into(), frame.reason.to_string());
                }
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn close(mut self, code: u16) {
        self.socket.close(Some(CloseFrame { code: CloseCode::from(code), reason: "".into() })).unwrap();
        while self.socket.read().is_ok() {}
    }
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A home with a login, and the daemon on it.
struct Home {
    dir: TempDir,
    daemon: Option<Child>,
    key: Option<String>,
    env: Vec<(&'static str, std::path::PathBuf)>,
}

impl Home {
    fn new(hub: &Hub) -> Self {
        let home = Self { dir: TempDir::new("control"), daemon: None, key: None, env: Vec::new() };
        fs::create_dir_all(home.dir.join("bh/daemon")).unwrap();
        home.log_in(hub, "drt_000000", now_ms() + 3_600_000);
        home
    }

    fn log_in(&self, hub: &Hub, refresh: &str, expires_at: i64) {
        let path = self.dir.join("bh/daemon/user-auth.json");
        let login = json!({"version": 1, "userId": "u1", "daemonInstanceId": "dm_1", "hubUrl": hub.url(),
            "accessToken": "at_0", "refreshToken": refresh, "expiresAt": expires_at,
            "loggedInAt": "2027-01-01T00:00:00.000Z", "label": "build box"});
        let new = self.dir.join("bh/daemon/new");
        fs::write(&new, login.to_string()).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn start(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellhop"));
        command
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PATH", "/usr/bin:/bin")
            .envs(self.env.iter().cloned())
            .args(["start", "--home"])
            .arg(self.dir.join("bh"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(key) = &self.key {
            command.env("BOTCORD_HUB_CONTROL_PUBLIC_KEY", key);
        }
        self.daemon = Some(command.spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.join("bh").join(name)
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.kill();
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An agent of the hub, with the key of its number.
fn credentials(hub: &Hub, agent: &str, seed: u8) -> Value {
    let key = SigningKey::from_seed(&[seed; 32]).unwrap();
    json!({"agentId": agent, "keyId": "k_1", "privateKey": private(seed), "publicKey": key.public_text(),
           "hubUrl": hub.url(), "displayName": "Nia", "token": "at", "tokenExpiresAt": 1_900_000_000_000_i64})
}

fn private(seed: u8) -> String {
    bellhop::crypto::base64::encode(&[seed; 32])
}

#[test]
fn frames_are_answered_once_also_after_a_crash() {
    let mut hub = Hub::start();
    let mut home = Home::new(&hub);
    home.start();
    let mut peer = hub.accept();
    let hello =
        json!({"server_time": now_ms(), "agents": [{"agentId": "ag_far", "displayName": "x"}, {"nope": 1}, null]});
    assert_eq!(peer.done("hello", hello), json!({"updated": 0, "skipped": 3}));
    assert_eq!(peer.done("ping", json!({}))["pong"], true);
    assert_eq!(peer.refused("no_such_frame", json!({})), "unknown_type");
    assert_eq!(peer.refused("ping", json!([])), "bad_params");
    assert_eq!(peer.refused("policy_updated", json!({"agent_id": 5})), "bad_params");
    assert_eq!(peer.refused("wake_agent", json!({"agent_id": "ag_far", "message": "x"})), "agent_not_loaded");
    assert_eq!(peer.refused("revoke_agent", json!({"agentId": "../daemon/x"})), "bad_params");
    let snapshot = peer.event("runtime_snapshot");
    assert!(snapshot["id"].as_str().unwrap().starts_with("rt_"), "{snapshot}");
    assert!(snapshot["params"]["probedAt"].as_i64().unwrap() > 0);
    assert!(snapshot["params"]["runtimes"].as_array().unwrap().iter().any(|r| r["id"] == "claude-code"));
    // What is no frame is dropped, and what comes behind it is heard.
    for text in ["no json", "[]", "{\"id\":\"x\"}", "{\"id\":\"hb_1\",\"ok\":true}"] {
        peer.socket.send(Message::text(text)).unwrap();
    }
    let first = peer.ask("ping", json!({}));
    home.kill();
    home.start();
    let mut peer = hub.accept();
    let id = first["id"].as_str().unwrap().to_owned();
    peer.send(&id, "ping", &json!({}));
    let again = peer.answer_to(&id);
    assert_eq!((&again["result"]["ts"], &again["result"]["duplicate"]), (&first["result"]["ts"], &json!(true)));
}

#[test]
fn an_agent_comes_twice_and_goes_once() {
    let mut hub = Hub::start();
    let mut home = Home::new(&hub);
    home.start();
    let mut peer = hub.accept();
    assert_eq!(peer.done("list_agents", json!({})), json!({"agents": []}));
    let wanted =
        json!({"credentials": credentials(&hub, "ag_4b1d", 1), "runtime": "codex", "defaultAttention": "mention_only"});
    let path = home.path("credentials/ag_4b1d.json");
    for _ in 0..2 {
        let done = peer.done("provision_agent", wanted.clone());
        assert_eq!(done["agentId"], "ag_4b1d");
        assert_eq!(done["credentialsFile"], path.display().to_string());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let file = home.json("credentials/ag_4b1d.json");
        assert_eq!((&file["runtime"], &file["tokenExpiresAt"]), (&json!("codex"), &json!(1_900_000_000)));
        assert_eq!(home.json("daemon/config.json")["agents"], json!(["ag_4b1d"]));
    }
    assert!(fs::read_to_string(home.path("agents/ag_4b1d/workspace/identity.md")).unwrap().contains("Nia"));
    let agents = peer.done("list_agents", json!({}));
    assert_eq!((&agents["agents"][0]["id"], &agents["agents"][0]["name"]), (&json!("ag_4b1d"), &json!("Nia")));
    let done = peer
        .done("update_agent", json!({"agentId": "ag_4b1d", "displayName": "Zoé", "runtimeModel": "m", "bio": null}));
    assert_eq!(
        (&done["changed"], &done["identity"]["changed"], &done["runtime"]["changed"]),
        (&json!(true), &json!(true), &json!(true))
    );
    assert_eq!(home.json("credentials/ag_4b1d.json")["runtimeModel"], "m");
    for bad in [
        json!({"credentials": credentials(&hub, "ag_two", 1), "runtime": "clippy"}),
        json!({"credentials": credentials(&hub, "../x", 1)}),
        json!({"credentials": {"agentId": "ag_two"}}),
        json!({"credentials": credentials(&hub, "ag_two", 1), "cwd": "/etc"}),
        json!({}),
    ] {
        assert_eq!(peer.refused("provision_agent", bad), "handler_error");
    }
    assert_eq!(
        fs::read_dir(home.path("credentials"))
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "json"))
            .count(),
        1
    );
    assert_eq!(home.json("daemon/config.json")["agents"], json!(["ag_4b1d"]));
    let gone = peer.done("revoke_agent", json!({"agentId": "ag_4b1d"}));
    assert_eq!(
        (&gone["removed"], &gone["credentialsDeleted"], &gone["workspaceDeleted"]),
        (&json!(true), &json!(true), &json!(false))
    );
    assert!(!path.exists() && home.path("agents/ag_4b1d/workspace").exists());
    assert_eq!(peer.done("list_agents", json!({})), json!({"agents": []}));
    let gone = peer.done("revoke_agent", json!({"agentId": "ag_4b1d"}));
    assert_eq!(gone["removed"], false, "an unknown agent is no error");
}

#[test]
fn a_scheduled_turn_runs_once() {
    let mut hub = Hub::start();
    let mut home = Home::new(&hub);
    home.start();
    let mut peer = hub.accept();
    peer.done("provision_agent", json!({"credentials": credentials(&hub, "ag_4b1d", 1)}));
    let wake = json!({"agent_id": "ag_4b1d", "message": "Do the morning check", "run_id": "run_1", "schedule_id": "sch_1",
                      "dedupe_key": "sch_1:1:auto", "session_policy": "fresh_per_run"});
    assert_eq!(peer.done("wake_agent", wake.clone()), json!({"agent_id": "ag_4b1d", "queued": true}));
    assert_eq!(peer.done("wake_agent", wake)["duplicate"], true);
    let transcripts = home.path("agents/ag_4b1d/transcripts");
    let records = || {
        let rooms = fs::read_dir(&transcripts).into_iter().flatten().flatten();
        let files = rooms.flat_map(|room| fs::read_dir(room.path()).into_iter().flatten().flatten());
        files.map(|file| fs::read_to_string(file.path()).unwrap_or_default()).collect::<String>()
    };
    wait_for("the turn", || records().contains("Do the morning check"));
}

#[test]
fn only_the_hubs_key_counts_where_one_is_configured() {
    let mut hub = Hub::start();
    let mut home = Home::new(&hub);
    let key = SigningKey::from_seed(&[9; 32]).unwrap();
    home.key = Some(key.public_text());
    home.start();
    let mut peer = hub.accept();
    assert_eq!(peer.refused("ping", json!({})), "unsigned");
    peer.key = Some(SigningKey::from_seed(&[8; 32]).unwrap());
    assert_eq!(peer.refused("ping", json!({})), "bad_signature");
    peer.key = Some(key);
    assert_eq!(peer.done("ping", json!({}))["pong"], true);
}

#[test]
fn keys_that_were_written_down_after_the_start_count_for_a_later_login() {
    let mut hub = Hub::start();
    let mut home = Home::new(&hub);
    fs::remove_file(home.path("daemon/user-auth.json")).unwrap();
    home.start();
    wait_for("the control socket", || home.path("daemon/bellhop.sock").exists());
    let key = SigningKey::from_seed(&[9; 32]).unwrap();
    let config = json!({"hubControlPublicKeys": [key.public_text()]});
    fs::write(home.path("daemon/config.json"), config.to_string()).unwrap();
    home.log_in(&hub, "drt_000000", now_ms() + 3_600_000);
    let pid = Pid::from_child(home.daemon.as_ref().unwrap());
    kill_process(pid, Signal::HUP).unwrap();
    let mut peer = hub.accept();
    assert_eq!(peer.refused("ping", json!({})), "unsigned");
    peer.key = Some(key);
    assert_eq!(peer.done("ping", json!({}))["pong"], true);
}

#[test]
fn a_restart_gives_a_watchdog_signs_of_life_all_along() {
    let mut hub = Hub::start();
    let mut home = Home::new(&hub);
    let (claude, begun, go) = (home.dir.join("claude"), home.dir.join("begun"), home.dir.join("go"));
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exec echo 2.1.0\ncat >/dev/null\ntouch {}\n\
         while [ ! -e {} ]; do sleep 0.05; done\n\
         echo '{{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"result\":\"done\"}}'\n",
        begun.display(),
        go.display()
    );
    fs::write(&claude, script).unwrap();
    fs::set_permissions(&claude, fs::Permissions::from_mode(0o755)).unwrap();
    let manager = UnixDatagram::bind(home.dir.join("notify")).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    home.env = vec![
        ("BELLHOP_CLAUDE_BIN", claude),
        ("NOTIFY_SOCKET", home.dir.join("notify")),
        ("WATCHDOG_USEC", "100000".into()),
    ];
    home.start();
    let mut peer = hub.accept();
    let told = || {
        let mut buffer = [0; 4_096];
        let size = manager.recv(&mut buffer).expect("a word to the manager");
        String::from_utf8_lossy(&buffer[..size]).into_owned()
    };
    while !told().starts_with("READY=1") {}
    peer.done("provision_agent", json!({"runtime": "claude-code", "credentials": credentials(&hub, "ag_1", 1)}));
    peer.done("wake_agent", json!({"agent_id": "ag_1", "message": "go", "run_id": "run_1"}));
    wait_for("the turn", || begun.exists());
    assert_eq!(peer.done("restart_daemon", json!({}))["scheduled"], true);
    let mut restarting = 0;
    loop {
        let text = told();
        assert!(!text.starts_with("STOPPING=1"), "to its manager it never stops");
        if text.starts_with("READY=1") {
            break;
        }
        restarting += usize::from(text == "WATCHDOG=1\nSTATUS=restarting");
        // One before the channels stop, one after that; more while the turn is waited for.
        if restarting > 5 {
            fs::write(&go, "").unwrap();
        }
    }
    assert!(restarting > 5, "{restarting}");
    let mut peer = hub.accept();
    peer.number = 10;
    assert_eq!(peer.done("ping", json!({}))["pong"], true);
}

#[test]
fn a_login_is_renewed_and_a_refused_one_waits_for_the_next() {
    let mut hub = Hub::start();
    let mut home = Home::new(&hub);
    home.log_in(&hub, "drt_000000", now_ms() + 1_000);
    home.start();
    let mut peer = hub.accept();
    assert_eq!((hub.renewed, peer.done("ping", json!({}))["pong"].clone()), (1, json!(true)));
    assert_eq!(home.json("daemon/user-auth.json")["refreshToken"], "drt_000001");
    // The hub takes the token no more: one renewal, and in again.
    hub.tokens.0 = "other".into();
    peer.close(1000);
    let peer = hub.accept();
    assert_eq!(hub.renewed, 2);
    // Revoked: the flag is there, and nothing comes until somebody logs in again.
    let flag = home.path("daemon/auth-expired.flag");
    assert!(!flag.exists());
    peer.close(4403);
    wait_for("the flag", || flag.exists());
    assert_eq!(fs::metadata(&flag).unwrap().permissions().mode() & 0o777, 0o600);
    hub.tokens = ("at_0".into(), "drt_000009".into());
    home.log_in(&hub, "drt_000009", now_ms() + 3_600_000);
    let mut peer = hub.accept();
    assert_eq!(peer.done("ping", json!({}))["pong"], true);
    let log = fs::read_to_string(home.path("logs/daemon.log")).unwrap();
    for secret in ["drt_", "at_0", "at_1", "at_2"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[test]
fn a_revocation_is_acknowledged_and_final() {
    let mut hub = Hub::start();
    let mut home = Home::new(&hub);
    home.start();
    let mut peer = hub.accept();
    assert_eq!(peer.done("revoke", json!({"reason": "revoked_by_user"})), json!({"acknowledged": true}));
    assert_eq!(peer.farewell().0, 1000);
    let flag = home.path("daemon/auth-expired.flag");
    wait_for("the flag", || flag.exists());
}

#[test]
fn a_long_answer_is_given_and_the_connection_stays() {
    let mut hub = Hub::start();
    let mut home = Home::new(&hub);
    fs::create_dir_all(home.path("credentials")).unwrap();
    fs::write(home.path("credentials/ag_1.json"), credentials(&hub, "ag_1", 3).to_string()).unwrap();
    fs::set_permissions(home.path("credentials/ag_1.json"), fs::Permissions::from_mode(0o600)).unwrap();
    for dir in ["a", "b", "c"] {
        let dir = home.path("agents/ag_1/workspace").join(dir);
        fs::create_dir_all(&dir).unwrap();
        for n in 0..600 {
            fs::write(dir.join(format!("{n:03}-{}.md", "x".repeat(150))), "").unwrap();
        }
    }
    home.start();
    let mut peer = hub.accept();
    let listed = peer.done("list_agent_files", json!({"agentId": "ag_1"}));
    let count =
        listed["files"].as_array().unwrap().iter().filter(|f| f["relativePath"].to_string().contains("xxx")).count();
    assert_eq!(count, 1_800);
    assert!(listed.to_string().len() > 1 << 20, "{}", listed.to_string().len());
    assert_eq!(peer.done("ping", json!({}))["pong"], true);
}

#[test]
fn who_goes_says_so() {
    let mut hub = Hub::start();
    let mut home = Home::new(&hub);
    home.start();
    let mut peer = hub.accept();
    assert_eq!(peer.done("ping", json!({}))["pong"], true);
    let daemon = Pid::from_child(home.daemon.as_ref().unwrap());
    kill_process(daemon, Signal::TERM).unwrap();
    assert_eq!(peer.farewell(), (1000, "daemon stopping".to_owned()));
}

#[test]
fn skills_are_told_after_each_connect_until_the_hub_has_them() {
    let mut hub = Hub::start();
    let mut home = Home::new(&hub);
    fs::create_dir_all(home.path("credentials")).unwrap();
    fs::write(home.path("credentials/ag_1.json"), credentials(&hub, "ag_1", 3).to_string()).unwrap();
    fs::set_permissions(home.path("credentials/ag_1.json"), fs::Permissions::from_mode(0o600)).unwrap();
    home.start();
    let names = |event: &Value| -> Vec<String> {
        assert_eq!(event["params"]["agentId"], "ag_1");
        let skills = event["params"]["skills"].as_array().unwrap();
        skills.iter().map(|skill| skill["name"].as_str().unwrap().to_owned()).collect()
    };
    let mut peer = hub.accept();
    let told = names(&peer.event("agent_skill_snapshot"));
    assert_eq!(told, ["botcord", "botcord-user-guide", "botcord_memory"]);
    peer.close(1001);

    // It was not answered, so it comes again.
    let mut peer = hub.accept();
    let again = peer.event("agent_skill_snapshot");
    assert_eq!(names(&again), told);
    peer.socket.send(Message::text(json!({"id": again["id"], "ok": true}).to_string())).unwrap();
    assert_eq!(peer.done("ping", json!({}))["pong"], true);
    peer.close(1001);

    let mut peer = hub.accept();
    peer.number = 10;
    peer.event("runtime_snapshot");
    let params = json!({"agentId": "ag_1", "manifest": {"name": "own", "description": "d"}});
    let installed = peer.done("install_agent_skill", params);
    assert_eq!(installed["snapshot"]["skills"].as_array().unwrap().len(), 4);
    assert!(peer.events.iter().all(|event| event["type"] != "agent_skill_snapshot"), "{:?}", peer.events);
    peer.close(1001);

    let mut peer = hub.accept();
    assert_eq!(names(&peer.event("agent_skill_snapshot")).last().unwrap(), "own");
}

#[test]
fn a_wake_is_not_run_again_after_a_crash() {
    let mut hub = Hub::start();
    let mut home = Home::new(&hub);
    fs::write(home.path("daemon/config.json"), r#"{"defaultRoute": {"adapter": "echo", "cwd": "/"}}"#).unwrap();
    home.start();
    let mut peer = hub.accept();
    let provision = json!({"runtime": "echo", "credentials": credentials(&hub, "ag_1", 3)});
    peer.done("provision_agent", provision);
    let wake = |run: &str| json!({"agent_id": "ag_1", "message": "go", "run_id": run, "dedupe_key": "sch_1:1:auto"});
    assert_eq!(peer.done("wake_agent", wake("run_1")), json!({"agent_id": "ag_1", "queued": true}));
    home.kill();
    home.start();
    let mut peer = hub.accept();
    peer.number = 10;
    let again = peer.done("wake_agent", wake("run_2"));
    assert_eq!(again, json!({"agent_id": "ag_1", "queued": true, "duplicate": true}));
}
