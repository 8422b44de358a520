//! What is told of a daemon with a login: status, doctor, bundles of diagnostics; and the commands beside them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::home::{Home, logged_in};
use crate::hub_control::world::Fault;
use crate::hub_control::{ControlHub, Frame};

/// Names and contents of an archive of stored files.
fn unzip(bytes: &[u8]) -> Vec<(String, String)> {
    let number = |at: usize, size: usize| bytes[at..at + size].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
    let end = bytes.len() - 22;
    assert_eq!(&bytes[end..end + 4], b"PK\x05\x06");
    let mut at = number(end + 16, 4);
    let mut files = Vec::new();
    for _ in 0..number(end + 10, 2) {
        assert_eq!((&bytes[at..at + 4], number(at + 10, 2)), (&b"PK\x01\x02"[..], 0), "stored");
        let (size, name, head) = (number(at + 24, 4), number(at + 28, 2), number(at + 42, 4));
        assert_eq!((&bytes[head..head + 4], number(head + 18, 4)), (&b"PK\x03\x04"[..], size));
        let text = |from: usize, length: usize| String::from_utf8(bytes[from..from + length].to_vec()).unwrap();
        files.push((text(at + 46, name), text(head + 30 + name, size)));
        at += 46 + name;
    }
    assert_eq!(at, end);
    files
}

fn file<'a>(files: &'a [(String, String)], name: &str) -> &'a str {
    let found = files.iter().find(|(known, _)| known == name);
    &found.unwrap_or_else(|| panic!("{name} is not among {:?}", files.iter().map(|f| &f.0).collect::<Vec<_>>())).1
}

/// What must not be in a bundle, in places where it comes from.
fn secrets(home: &Home) {
    fs::create_dir_all(home.root().join("logs/acp/kimi")).unwrap();
    fs::write(home.root().join("logs/acp/kimi/a.jsonl"), "{\"botToken\": \"s3cr3t-bot\"}\n").unwrap();
    fs::write(home.root().join("logs/daemon.log.2020-01-01T00-00-00-000Z.1"), "appSecret=s3cr3t-app\n").unwrap();
    let room = home.root().join("agents/ag_1/transcripts/rm_1");
    fs::create_dir_all(&room).unwrap();
    fs::write(room.join("default.jsonl"), "{\"text\": \"private words\"}\n").unwrap();
    let config = json!({"defaultRoute": {"adapter": "claude-code", "cwd": "/", "extraArgs": ["--api-key", "s3cr3t-arg"]},
                        "acpRuntimes": [{"name": "a", "command": ["a"], "env": {"LICENCE": "s3cr3t-env"},
                            "mcpServers": [{"name": "m", "url": "https://h", "headers": {"X-Mine": "s3cr3t-head"}}]}],
                        "openclawGateways": [{"name": "g", "url": "wss://h", "token": "s3cr3t-gateway"}]});
    fs::write(home.daemon().join("config.json"), config.to_string()).unwrap();
    // An agent has put links in the place of its logs and transcripts.
    let elsewhere = home.root().join("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    fs::write(elsewhere.join("id_ed25519"), "s3cr3t-elsewhere").unwrap();
    fs::create_dir_all(home.root().join("agents/ag_1/hermes-home")).unwrap();
    fs::create_dir_all(home.root().join("agents/ag_2")).unwrap();
    for link in ["agents/ag_1/hermes-home/logs", "agents/ag_2/hermes-home", "agents/ag_2/transcripts", "agents/ag_3"] {
        symlink(&elsewhere, home.root().join(link)).unwrap();
    }
    fs::create_dir_all(elsewhere.join("logs")).unwrap();
    fs::write(elsewhere.join("logs/x"), "s3cr3t-elsewhere").unwrap();
}

fn bundles(home: &Home) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = fs::read_dir(home.root().join("diagnostics")).unwrap().map(|e| e.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn a_bundle_holds_what_helps_and_no_secrets() {
    let hub = ControlHub::start();
    let (home, instance) = logged_in(&hub, 3_600_000);
    fs::create_dir_all(home.root().join("logs")).unwrap();
    secrets(&home);
    let ran = home.run(&["doctor", "--bundle", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    let path = Path::new(told["bundle"]["path"].as_str().unwrap());
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path).unwrap().len(), told["bundle"]["sizeBytes"].as_u64().unwrap());
    let files = unzip(&fs::read(path).unwrap());
    let status: Value = serde_json::from_str(file(&files, "status.json")).unwrap();
    assert_eq!(status["userAuth"]["daemonInstanceId"], instance);
    assert!(file(&files, "doctor.txt").contains("Checks:") && file(&files, "README.txt").contains("bellhop"));
    assert_eq!(serde_json::from_str::<Value>(file(&files, "doctor.json")).unwrap()["channels"], json!([]));
    assert!(file(&files, "acp-logs/kimi/a.jsonl").contains("botToken"));
    assert!(file(&files, "logs/daemon.log.2020-01-01T00-00-00-000Z.1").contains("appSecret"));
    let config = file(&files, "config.json.redacted");
    assert!(
        ["openclawGateways", "LICENCE", "X-Mine", "--api-key"].iter().all(|word| config.contains(word)),
        "{config}"
    );
    let all = files.iter().map(|(name, text)| [name.as_str(), text].join("\n")).collect::<Vec<_>>().join("\n");
    let login = home.login();
    for secret in
        ["s3cr3t", "private words", login["refreshToken"].as_str().unwrap(), login["accessToken"].as_str().unwrap()]
    {
        assert!(!all.contains(secret), "{secret}");
    }
    // Conversations only when they are asked for; and not more bundles than are of use.
    let ran = home.run(&["doctor", "--bundle", "--transcripts", "--full-log"]);
    assert!(ran.out.starts_with("bundle: /"), "{ran:?}");
    let files = unzip(&fs::read(bundles(&home).last().unwrap()).unwrap());
    assert!(file(&files, "transcripts/ag_1/transcripts/rm_1/default.jsonl").contains("private words"));
    assert!(!files.iter().any(|(_, text)| text.contains("s3cr3t")));
    assert_eq!(home.run(&["doctor", "--transcripts"]).code, Some(2));
}

#[test]
fn the_hub_collects_a_bundle() {
    let hub = ControlHub::start();
    let (home, instance) = logged_in(&hub, 3_600_000);
    fs::create_dir_all(home.root().join("logs")).unwrap();
    secrets(&home);
    assert_eq!(home.start(&[]).code, Some(0));
    hub.wait_online(&instance);
    let done = hub.send(&instance, "collect_diagnostics", json!({})).result();
    let [path] = &bundles(&home)[..] else { panic!("one bundle") };
    assert_eq!(done["local_path"], path.display().to_string());
    assert_eq!(done["filename"], path.file_name().unwrap().to_str().unwrap());
    assert!(done["bundle_id"].is_string() && done["expires_at"].is_string(), "{done}");
    let (name, sent) = hub.world(|world| world.uploads.pop().unwrap());
    assert_eq!((name.as_str(), &sent), (done["filename"].as_str().unwrap(), &fs::read(path).unwrap()));
    let files = unzip(&sent);
    assert!(!files.iter().any(|(name, text)| name.starts_with("transcripts/") || text.contains("s3cr3t")));
    hub.fault("upload", [Fault::Status(500)]);
    assert_eq!(hub.send(&instance, "collect_diagnostics", json!({})).refusal(), "handler_error");
}

#[test]
fn status_and_doctor_know_the_login() {
    let hub = ControlHub::start();
    let (home, instance) = logged_in(&hub, 3_600_000);
    assert_eq!(home.start(&[]).code, Some(0));
    hub.wait_online(&instance);
    assert_eq!(hub.send(&instance, "ping", json!({})).ack()["ok"], true);
    let ran = home.run(&["status"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("logged in as user-1 (test)\ncontrol socket: connected since "), "{ran:?}");
    assert!(ran.out.contains("without a key of the hub"), "{ran:?}");
    let status: Value = serde_json::from_str(&home.run(&["status", "--json"]).out).unwrap();
    assert_eq!(status["userAuth"]["daemonInstanceId"], instance);
    assert_eq!(
        (&status["alive"], &status["authExpired"], &status["agents"], &status["control"]["state"]),
        (&json!(true), &json!(false), &json!([]), &json!("connected"))
    );
    let path = home.daemon().join("snapshot.json");
    hub.wait("the state of the link on disk", |_| {
        let snapshot: Value = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        (snapshot["snapshot"]["control"]["state"] == "connected").then_some(())
    });
    let ran = home.run(&["doctor"]);
    for line in ["ok       login", "warning  hub keys", "ok       hub socket   connected", "No channels configured."] {
        assert!(ran.out.contains(line), "{line}: {ran:?}");
    }
    hub.revoke(&instance, "by_user");
    hub.wait("the flag", |_| home.flag().exists().then_some(()));
    let ran = home.run(&["status"]);
    assert!(ran.out.contains("warning: the hub refuses the login") && ran.out.contains("logged out"), "{ran:?}");
    let ran = home.run(&["doctor"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("BROKEN   login"), "{ran:?}");
}

#[test]
fn a_clock_that_is_off_is_told() {
    let hub = ControlHub::start();
    hub.move_clock(600_000);
    let (home, instance) = logged_in(&hub, 3_600_000);
    assert_eq!(home.start(&[]).code, Some(0));
    hub.wait_online(&instance);
    let ping = Frame { timeless: true, ..Frame::new("ping", json!({})) };
    assert_eq!(hub.send_frame(&instance, &ping).ack()["ok"], true);
    let ran = home.run(&["status"]);
    assert!(ran.out.contains("the clock of this machine is ") && ran.out.contains("behind the hub's"), "{ran:?}");
    assert!(home.run(&["doctor"]).out.contains("warning  clock"), "{ran:?}");
}

#[test]
fn routes_are_listed_added_and_removed() {
    let home = Home::new();
    for args in [
        &["--room", "rm_1", "--adapter", "codex", "--cwd", "/", "--mentioned"][..],
        &["--prefix", "rm_oc_", "--cwd", "/", "--no-mentioned", "--account-id", "ag_1"],
        &["--conversation-id", "rm_1", "--conversation-kind", "direct", "--cwd", "/"],
    ] {
        let ran = home.run(&[&["route", "add"], args].concat());
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), "route added\n"), "{ran:?}");
    }
    for (args, code) in [
        (&["--cwd", "/"][..], 2),
        (&["--room", "rm_1"], 2),
        (&["--room", "rm_1", "--conversation-id", "rm_2", "--cwd", "/"], 2),
        (&["--room", "rm_1", "--adapter", "clippy", "--cwd", "/"], 2),
        (&["--room", "rm_1", "--conversation-kind", "odd", "--cwd", "/"], 2),
    ] {
        let ran = home.run(&[&["route", "add"], args].concat());
        assert_eq!((ran.code, ran.out.as_str()), (Some(code), ""), "{ran:?}");
    }
    let listed: Value = serde_json::from_str(&home.run(&["route", "list", "--json"]).out).unwrap();
    assert_eq!(
        listed["routes"],
        json!([
            {"match": {"conversationId": "rm_1", "mentioned": true}, "adapter": "codex", "cwd": "/"},
            {"match": {"conversationPrefix": "rm_oc_", "accountId": "ag_1", "mentioned": false},
             "adapter": "claude-code", "cwd": "/"},
            {"match": {"conversationId": "rm_1", "conversationKind": "direct"}, "adapter": "claude-code", "cwd": "/"},
        ])
    );
    let text = home.run(&["route"]).out;
    assert!(text.contains("  [0] runtime=codex cwd=/\n      match: conversationId=rm_1, mentioned=true\n"), "{text}");
    assert_eq!(home.run(&["route", "remove", "--room", "rm_1"]).out, "removed 2 route(s)\n");
    assert_eq!(home.run(&["route", "remove", "--room", "rm_1"]).out, "removed 0 route(s)\n");
    assert_eq!(home.run(&["route", "remove"]).code, Some(2));
    let ran = home.run(&["route", "list", "extra"]);
    assert_eq!(ran.code, Some(2), "a word that means something is not passed over");
    let ran = home.run(&["config", "extra"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let ran = home.run(&["logs", "extra"]);
    assert!(ran.err.contains("\"extra\" is ignored"), "{ran:?}");
    let config: Value = serde_json::from_str(&home.run(&["config"]).out).unwrap();
    assert_eq!(config["effective"]["source"], "credentials");
    assert_eq!(config["config"]["routes"].as_array().unwrap().len(), 1);
}
