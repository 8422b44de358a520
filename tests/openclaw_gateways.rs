//! Gateways of OpenClaw that are found on this machine and asked how they are, against one that is strict.

mod support;

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use bellhop::runtime::openclaw::discover::merge::merge;
use bellhop::runtime::openclaw::discover::probe::{Answer, probe};
use bellhop::runtime::openclaw::discover::{Found, Places, discover};
use serde_json::{Value, json};
use support::temp_dir::TempDir;
use tungstenite::{Message, WebSocket, accept};

/// How a gateway begins and what it lets in.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// It sends a challenge first.
    Challenges,
    /// It waits for us.
    Silent,
    /// It takes the connection and never says a word.
    Mute,
}

/// A gateway that wants the token `right`, and what it was asked.
fn gateway(manner: Manner) -> (u16, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, questions) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection that only looks whether somebody is there makes no handshake.
            let Ok(socket) = accept(stream) else { continue };
            if let Some(question) = serve(socket, manner) {
                let _ = asked.send(question);
            }
        }
    });
    (port, questions)
}

fn serve(mut socket: WebSocket<TcpStream>, manner: Manner) -> Option<Value> {
    if manner == Manner::Challenges {
        let noise = json!({"type": "event", "event": "tick"}).to_string();
        socket.send(Message::text(noise)).ok()?;
        let challenge = json!({"type": "event", "event": "connect.challenge", "payload": {"nonce": "n"}});
        socket.send(Message::text(challenge.to_string())).ok()?;
    }
    let question: Value = serde_json::from_str(socket.read().ok()?.to_text().ok()?).unwrap();
    if manner == Manner::Mute {
        let _ = socket.read();
        return Some(question);
    }
    let right = question["params"]["auth"]["token"] == "right";
    let answer = if right {
        json!({"ok": true, "payload": {"type": "hello-ok", "server": {"version": "2026.4.1"}}})
    } else {
        json!({"ok": false, "error": {"code": "AUTH_REQUIRED", "message": "token mismatch"}})
    };
    let mut answer = answer;
    answer["type"] = "res".into();
    // Answers to others are none of ours.
    let other = json!({"type": "res", "id": "other", "ok": false}).to_string();
    socket.send(Message::text(other)).ok()?;
    answer["id"] = question["id"].clone();
    socket.send(Message::text(answer.to_string())).ok()?;
    let _ = socket.read();
    Some(question)
}

fn url(port: u16) -> String {
    format!("ws://127.0.0.1:{port}")
}

#[test]
fn a_gateway_is_asked_as_its_own_tools_ask() {
    for manner in [Manner::Challenges, Manner::Silent] {
        let (port, questions) = gateway(manner);
        assert_eq!(probe(&url(port), Some("right")), Answer::Ready(Some("2026.4.1".into())));
        let mut question = questions.recv().unwrap();
        let client = question["params"]["client"].take();
        assert_eq!(client["id"], "openclaw-probe");
        assert!(client["version"].is_string() && client["platform"].is_string() && client["mode"].is_string());
        let params = json!({"minProtocol": 3, "maxProtocol": 3, "client": null, "role": "operator",
            "scopes": ["operator.read"], "auth": {"token": "right"}});
        assert_eq!(question, json!({"type": "req", "id": "probe-connect", "method": "connect", "params": params}));

        assert_eq!(probe(&url(port), Some("wrong")), Answer::Refused("token mismatch".into()));
        assert_eq!(probe(&url(port), None), Answer::Refused("token mismatch".into()));
        questions.recv().unwrap();
        assert!(questions.recv().unwrap()["params"].get("auth").is_none());
    }
}

#[test]
fn what_is_no_gateway_is_unreachable() {
    let (port, _questions) = gateway(Manner::Mute);
    assert_eq!(probe(&url(port), None), Answer::Unreachable("timed out".into()));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    });
    assert!(matches!(probe(&url(port), None), Answer::Unreachable(_)));
    server.join().unwrap();
    assert!(matches!(probe(&url(port), None), Answer::Unreachable(_)), "nobody listens any more");
    assert!(matches!(probe("http://127.0.0.1:1", None), Answer::Unreachable(_)));
}

/// Directories of a machine.
struct Machine {
    dir: TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { dir: TempDir::new("openclaw") }
    }

    fn put(&self, path: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn found(&self, settings: &Value) -> Vec<(String, String, Option<String>)> {
        let root = self.dir.path();
        let places = Places { home: &root.join("home"), root, env: &|_| None, settings };
        let credentials = |token: Option<String>, file: Option<String>| token.or(file);
        discover(&places).into_iter().map(|f| (f.name, f.url, credentials(f.token, f.token_file))).collect()
    }
}

#[test]
fn files_units_and_ports_are_looked_at_in_this_order() {
    let machine = Machine::new();
    let (port, _questions) = gateway(Manner::Silent);
    let file = machine.put("home/.openclaw/gateway-token", "right\n").display().to_string();
    machine.put("home/.openclaw/b.toml", "[acp]\nurl = \"wss://far.example/acp\"\ntoken = \"toml\"\n");
    machine.put("home/.openclaw/a.json", r#"{"gateway": {"port": 7, "auth": {"mode": "token", "token": "json"}}}"#);
    machine.put("home/.openclaw/broken.json", "{");
    machine.put("home/.qclaw/q.json", r#"{"port": 8}"#);
    machine.put("etc/openclaw/c.json", r#"{"url": "ws://127.0.0.1:7/"}"#);
    machine.put(
        "etc/systemd/system/openclaw.service",
        "[Service]\nEnvironment=OPENCLAW_ACP_TOKEN=unit\nExecStart=x --port 9\n",
    );
    let settings = json!({"defaultPorts": [port, 0, 70_000, "x"]});
    let own = |name: &str, url: &str, token: Option<&str>| (name.to_owned(), url.to_owned(), token.map(str::to_owned));
    let expected = [
        own("openclaw-127-0-0-1-7", "ws://127.0.0.1:7", Some("json")),
        own("openclaw-far-example-443", "wss://far.example/acp", Some("toml")),
        own("qclaw-127-0-0-1-8", "ws://127.0.0.1:8", None),
        own("openclaw-127-0-0-1-9", "ws://127.0.0.1:9", Some("unit")),
        own(&format!("openclaw-127-0-0-1-{port}"), &url(port), Some(&file)),
    ];
    assert_eq!(machine.found(&settings), expected);

    // The user's choice of places; nothing listens where it says.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = json!({"searchPaths": ["~/.qclaw"], "defaultPorts": [free]});
    assert_eq!(machine.found(&settings), [expected[2].clone(), expected[3].clone()]);
    assert_eq!(machine.found(&json!({"enabled": false, "defaultPorts": [port]})), []);
}

fn bellhop(dir: &Path, args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_bellhop"))
        .env_clear()
        .env("PATH", dir.join("bin"))
        .env("HOME", dir.join("home"))
        .arg("--home")
        .arg(dir.join("bellhop"))
        .args(args)
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_doctor_writes_down_what_it_finds_and_says_how_it_is() {
    let machine = Machine::new();
    let dir = machine.dir.path();
    let (port, _questions) = gateway(Manner::Challenges);
    let openclaw = json!({"gateway": {"port": port, "auth": {"mode": "token", "token": "right"}},
        "agents": {"list": [{"id": "main", "name": "Front desk"}]}});
    machine.put("home/.openclaw/openclaw.json", &openclaw.to_string());
    fs::create_dir_all(dir.join("home/.openclaw/agents/ops")).unwrap();
    machine.put("home/.hermes/profiles/work/SOUL.md", "");
    machine.put("bellhop/daemon/config.json", r#"{"mine": 1, "openclawDiscovery": {"defaultPorts": []}}"#);

    let (_, text) = bellhop(dir, &["doctor"]);
    let name = format!("openclaw-127-0-0-1-{port}");
    let quoted = format!("\"{name}\"");
    let line =
        format!("    gateway {quoted:<16} {:<40} ✓ 2026.4.1\n      agents (id): main (Front desk), ops\n", url(port));
    assert!(text.contains(&line), "{text}");
    let read =
        || serde_json::from_str::<Value>(&fs::read_to_string(dir.join("bellhop/daemon/config.json")).unwrap()).unwrap();
    let gateways = json!([{"name": name, "url": url(port), "token": "right"}]);
    let written = json!({"mine": 1, "openclawDiscovery": {"defaultPorts": []}, "openclawGateways": gateways});
    assert_eq!(read(), written);

    let (ok, text) = bellhop(dir, &["runtimes", "--json"]);
    let rows: Value = serde_json::from_str(&text).unwrap();
    let row = |id: &str| rows.as_array().unwrap().iter().find(|row| row["id"] == id).unwrap().clone();
    assert!(ok && !text.contains("right"), "a token is nobody's business: {text}");
    let agents = json!([{"id": "main", "name": "Front desk"}, {"id": "ops"}]);
    assert_eq!(
        row("openclaw-acp")["endpoints"],
        json!([{"name": name, "url": url(port), "status": "reachable", "reachable": true, "version": "2026.4.1", "agents": agents}])
    );
    let profiles = row("hermes-agent")["profiles"].clone();
    assert_eq!((&profiles[0]["name"], &profiles[1]["name"]), (&json!("default"), &json!("work")));
    assert_eq!((&profiles[1]["hasSoul"], &profiles[1]["isActive"]), (&json!(true), &json!(false)));

    // Once more nothing is new, and what its owner has changed stays.
    let changed = json!({"openclawGateways": [{"name": "lab", "url": url(port), "token": "wrong"}],
        "openclawDiscovery": {"defaultPorts": []}});
    machine.put("bellhop/daemon/config.json", &changed.to_string());
    let (_, text) = bellhop(dir, &["doctor"]);
    assert!(text.contains("✗ token mismatch"), "{text}");
    assert_eq!(read(), changed);
}

#[test]
fn what_is_found_is_merged_as_the_vectors_have_it() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("vectors/config-map.json")).unwrap();
    let cases: Vec<&Value> = cases.iter().filter(|case| case["input"]["kind"] == "openclaw_merge").collect();
    assert!(!cases.is_empty());
    for case in cases {
        let input = &case["input"];
        let existing = input["existing"].as_array().cloned().unwrap_or_default();
        let text = |found: &Value, key: &str| found[key].as_str().map(str::to_owned);
        let found = |found: &Value| Found {
            name: text(found, "name").unwrap(),
            url: text(found, "url").unwrap(),
            token: text(found, "token"),
            token_file: text(found, "tokenFile"),
        };
        let found: Vec<Found> = input["found"].as_array().unwrap().iter().map(found).collect();
        let merged = merge(&existing, &found);
        let got = json!({"changed": merged.changed, "added": merged.added, "gateways": merged.gateways});
        assert_eq!(got, case["expect"], "{}", case["name"]);
    }
}
