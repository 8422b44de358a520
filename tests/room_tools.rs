//! Agents that speak for themselves: a CLI that calls `botcord` and `bellhop room` from inside its turn, against the real
//! daemon.

#[path = "support/echo_daemon.rs"]
#[allow(dead_code)]
mod echo_daemon;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bellhop::serve::client::Client;
use echo_daemon::{Place, Ran};
use serde_json::{Value, json};

/// A daemon of the real program; killed when dropped.
struct Daemon {
    child: Child,
}

impl Daemon {
    fn start(place: &Place) -> Self {
        let child = place
            .command(&["start"])
            .env("BELLHOP_CLAUDE_BIN", place.home.join("claude"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the daemon's socket", || Client::connect(&socket(place)).is_ok());
        Self { child }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(place: &Place) -> PathBuf {
    place.home.join("daemon/bellhop.sock")
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !condition() {
        assert!(Instant::now() < end, "{what}: it did not happen within 60 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A home with one agent whose CLI is `script`; what that puts into `$answer` is the answer, `$H` is the home.
fn place(script: &str) -> Place {
    let place = Place::new();
    place.write(
        "daemon/config.json",
        &json!({"local": {"agents": [{"name": "a", "runtime": "claude-code"}]}}).to_string(),
    );
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && {{ echo 2.0.0; exit; }}\nprompt=$(cat)\nH=$BELLHOP_HOME\n{script}\n\
         answer=$(printf %s \"$answer\" | tr '\\n\"' '| ')\n\
         printf '{{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s1\"}}\\n'\n\
         printf '{{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"session_id\":\"s1\",\"result\":\"%s\"}}\\n' \
         \"$answer\"\n"
    );
    place.write("claude", &text);
    std::fs::set_permissions(place.home.join("claude"), std::fs::Permissions::from_mode(0o755)).unwrap();
    place
}

fn ask(place: &Place, text: &str) -> String {
    let ran = place.run(&["send", "--json", "--conversation", "main", text]);
    let answer: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    answer["reply"].as_str().unwrap_or_else(|| panic!("{ran:?}")).to_owned()
}

/// The records of a kind in the transcript of a conversation.
fn records(place: &Place, conversation: &str, kind: &str) -> Vec<Value> {
    let ran = place.run(&["transcript", "dump", "--agent", "a", "--conversation", conversation]);
    let records = ran.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    records.filter(|record| record["kind"] == kind).collect()
}

fn text_of(place: &Place, file: &str) -> String {
    std::fs::read_to_string(place.home.join(file)).unwrap_or_default()
}

/// A request of somebody who shows this token.
fn request(place: &Place, verb: &str, authorization: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket(place)).unwrap();
    let length = body.len();
    let head = format!(
        "POST /v1/room/{verb} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorization}\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    // A server that refuses early does not read all of it.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{answer}"));
    (status, answer)
}

#[test]
fn an_agent_speaks_by_itself() {
    let place = place(
        "answer=$(botcord send --room side --text 'hello there' --json 2>&1; echo \"=$?\"\n\
         botcord reply on it 2>&1; echo \"=$?\"\n\
         printf 'several\\nlines' | bellhop room send --topic plan - 2>&1; echo \"=$?\")",
    );
    let _daemon = Daemon::start(&place);
    let answer = ask(&place, "go");
    assert!(answer.contains("state : delivered") || answer.contains(" state :  delivered"), "{answer}");
    assert_eq!(answer.matches("=0").count(), 3, "{answer}");
    let said = records(&place, "side", "said");
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!((&said[0]["text"], &said[0]["deliveryStatus"]), (&json!("hello there"), &json!("delivered")));
    assert_eq!(records(&place, "main", "said")[0]["text"], "on it");
    let answered = records(&place, "main", "inbound")[0]["turnId"].clone();
    assert_eq!(said[0]["turnId"], answered, "it belongs to the turn that said it");
    // Everything is out: nothing is left in the journal.
    let dump = place.run(&["journal", "dump"]).out;
    assert_eq!(dump.matches(" say ").count(), 3, "{dump}");
    let status: Value = serde_json::from_str(&place.run(&["status", "--json"]).out).unwrap();
    assert_eq!(status["waiting"]["replies"], 0);
}

#[test]
fn the_same_words_are_sent_once_for_a_message() {
    let place = place(
        "answer=$(botcord send --room side same; botcord send --room side same 2>&1; botcord send --room other same)",
    );
    let _daemon = Daemon::start(&place);
    let answer = ask(&place, "go");
    let lines: Vec<&str> = answer.split('|').collect();
    assert_eq!(lines[0], lines[1], "{answer}");
    assert!(lines[2].contains("was said before"), "{answer}");
    assert_eq!((records(&place, "side", "said").len(), records(&place, "other", "said").len()), (1, 1));
    // Another message, another matter.
    ask(&place, "go");
    assert_eq!(records(&place, "side", "said").len(), 2);
}

#[test]
fn what_is_not_to_be_sent_is_refused() {
    let place = place(
        "echo secret >\"$H/secret.txt\"; echo x >notes.md; mkdir -p .ssh; echo x >.ssh/id; head -c 300000 /dev/zero | tr '\\0' x >big\n\
         try() { botcord \"$@\" 2>&1; echo \"=$?\"; }\n\
         answer=$(try send --file \"$H/secret.txt\" x; try send --file .ssh/id x; try send ' '; try send NO_REPLY\n\
         try send - <big; try send --file notes.md; try reply --text a b; try send --nonsense x; try upload notes.md\n\
         try members; try topics --room r; try search x; try notify-owner x; try send --room \"$(printf 'a\\tb')\" x)",
    );
    let _daemon = Daemon::start(&place);
    let answer = ask(&place, "go");
    let wanted = [
        ("only files in the turn's directory", 2),
        ("hidden files are not sent", 2),
        ("there is nothing to say", 2),
        ("NO_REPLY means that nothing is sent", 2),
        ("the text has 300000 bytes", 2),
        ("out_", 0),
        ("the text is given twice", 2),
        ("--nonsense", 2),
        ("does not offer that", 1),
        ("", 0),
        ("does not offer that", 1),
        ("does not offer that", 1),
        ("does not offer that", 1),
        ("without control characters", 2),
    ];
    let mut rest = answer.as_str();
    for (words, code) in wanted {
        let (one, after) = rest.split_once('=').unwrap_or_else(|| panic!("{words}: {answer}"));
        assert!(one.contains(words), "{words}: {one}");
        assert!(after.starts_with(&code.to_string()), "{words}: {code}: {after}");
        rest = after;
    }
    assert_eq!(records(&place, "main", "said").len(), 1, "only the file went out");
    assert_eq!(records(&place, "main", "said")[0]["files"], json!(["notes.md"]));
}

#[test]
fn a_turn_sends_so_much_and_no_more() {
    let place = place(
        "i=0; while [ $i -lt 101 ]; do last=$(botcord send --room side \"number $i\" 2>&1); code=$?; i=$((i+1)); done\n\
         answer=\"$code $last\"",
    );
    let _daemon = Daemon::start(&place);
    let answer = ask(&place, "go");
    assert!(answer.starts_with("1 ") && answer.contains("100 messages were sent in this turn"), "{answer}");
    assert_eq!(records(&place, "side", "said").len(), 100);
}

#[test]
fn an_agent_looks_things_up_and_remembers() {
    let place = place(
        "case $prompt in\n\
         *first*) answer=noted ;;\n\
         *) botcord send --room side 'a [System] word' >/dev/null\n\
         answer=$(botcord history; botcord history --room side --json; botcord info; botcord history --limit 51 2>&1; echo \"=$?\"\n\
         botcord memory goal 'ship it'; botcord memory set ' be brief ' --section style; botcord memory clear-section \
         --section none; botcord memory; botcord memory set ' ' 2>&1; echo \"=$?\") ;;\n\
         esac",
    );
    let _daemon = Daemon::start(&place);
    ask(&place, "first [BotCord Message] x");
    let answer = ask(&place, "second");
    let at = |words: &str| answer.find(words).unwrap_or_else(|| panic!("{words}: {answer}"));
    assert!(at("first") < at("noted") && at("noted") < at("second"), "{answer}");
    assert!(answer.contains("a [System] word"), "{answer}");
    assert!(answer.contains("main") && answer.contains("1 to 50 is expected|=2"), "{answer}");
    assert!(answer.contains("ship it") && answer.contains("be brief") && answer.ends_with("=2"), "{answer}");
    let memory: Value = serde_json::from_str(&place.run(&["memory", "--agent", "a", "--json"]).out).unwrap();
    assert_eq!(memory["memory"]["goal"], "ship it");
    assert_eq!(memory["memory"]["sections"], json!({"style": "be brief"}));
}

#[test]
fn a_wish_to_wait_is_left_where_the_turn_says() {
    let place = place(
        "answer=$(BOTCORD_WAIT_FILE=\"$H/wish\" botcord wait 0.2 --reason later; botcord wait never 2>&1; echo \"=$?\")",
    );
    let _daemon = Daemon::start(&place);
    let answer = ask(&place, "go");
    assert!(answer.contains("waitSeconds :1") && answer.ends_with("=2"), "{answer}");
    let wish: Value = serde_json::from_str(&text_of(&place, "wish")).unwrap();
    assert_eq!((&wish["seconds"], &wish["reason"]), (&json!(1), &json!("later")));
}

#[test]
fn a_token_is_good_for_its_turn_only() {
    let place = place(
        "printf %s \"$BELLHOP_ROOM_TOKEN\" >\"$H/token.new\"; mv \"$H/token.new\" \"$H/token\"\n\
         printf '%s\\n' \"$@\" >\"$H/argv\"; tr '\\0' ' ' </proc/$PPID/cmdline >\"$H/parent\"\n\
         while [ -e \"$H/stay\" ]; do sleep 0.02; done; answer=$(env; echo said)",
    );
    place.write("stay", "");
    let _daemon = Daemon::start(&place);
    let waiting = place
        .command(&["send", "--json", "--conversation", "main", "go"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the token", || !text_of(&place, "token").is_empty());
    let token = text_of(&place, "token");
    assert_eq!(token.len(), 64);
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let say = r#"{"text":"hello"}"#;
    let mut other = token.clone().into_bytes();
    other[10] = if other[10] == b'0' { b'1' } else { b'0' };
    let other = String::from_utf8(other).unwrap();
    for (authorization, status) in [
        (String::new(), 401),
        ("Authorization: Basic eDp5\r\n".to_owned(), 401),
        (bearer(""), 401),
        (bearer("x"), 401),
        (bearer(&other), 401),
        (bearer(&token[..63]), 401),
        (bearer(&token), 200),
    ] {
        let (got, answer) = request(&place, "send", &authorization, say);
        assert_eq!(got, status, "{authorization}: {answer}");
        assert!(!answer.contains(&token), "{answer}");
    }
    // What is malformed or too large is refused, whoever asks.
    let many = format!(r#"{{"text":"x","mentions":[{}]}}"#, vec!["\"m\""; 51].join(","));
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(300_000));
    let huge = format!(r#"{{"text":"{}"}}"#, "x".repeat(5 << 20));
    for (verb, body, status) in [
        ("send", "", 400),
        ("send", "{}", 400),
        ("send", r#"{"text":"x","colour":1}"#, 400),
        ("send", r#"{"text":"x","room":""}"#, 400),
        ("send", r#"{"text":"x","files":["relative"]}"#, 400),
        ("send", r#"{"text":"x","reply":true,"reply_to":"m"}"#, 400),
        ("send", r#"{"text":"x","reply":true,"room":"elsewhere"}"#, 400),
        ("send", r#"{"text":"x","wait_ms":25001}"#, 400),
        ("send", &many, 400),
        ("send", &large, 400),
        ("send", &huge, 413),
        ("look", r#"{"what":"search"}"#, 400),
        ("look", r#"{"what":"history","words":["x"]}"#, 400),
        ("look", r#"{"what":"history","limit":0}"#, 400),
        ("look", r#"{"what":"nothing"}"#, 400),
        ("upload", r#"{"file":"/etc/passwd"}"#, 400),
        ("notify-owner", r#"{"text":" "}"#, 400),
        ("memory", r#"{"clear":true,"goal":"x"}"#, 400),
        ("memory", r#"{"section":"x"}"#, 400),
        ("nothing", "{}", 404),
    ] {
        let (got, answer) = request(&place, verb, &bearer(&token), body);
        assert_eq!(got, status, "{verb} {}: {answer}", body.chars().take(80).collect::<String>());
    }
    std::fs::remove_file(place.home.join("stay")).unwrap();
    let ran = Ran::of(waiting.wait_with_output().unwrap());
    assert!(ran.out.contains("said"), "{ran:?}");
    // The turn is over, and so is the token.
    wait_for("the end of the turn", || request(&place, "send", &bearer(&token), say).0 == 401);
    let after = place.command(&["room", "send", "x"]).env("BELLHOP_ROOM_TOKEN", &token).output().unwrap();
    let after = Ran::of(after);
    assert!(after.code == Some(1) && after.err.contains("not the token of a turn that runs"), "{after:?}");
    let outside = place.run(&["room", "send", "x"]);
    assert!(outside.code == Some(2) && outside.err.contains("inside a turn"), "{outside:?}");
    // It is nowhere but in the environment of its turn; what the CLI prints of that is redacted where it is kept.
    for file in ["argv", "parent", "logs/daemon.log"] {
        assert!(!text_of(&place, file).contains(&token), "{file}");
    }
    let kept = place.run(&["transcript", "dump", "--agent", "a", "--conversation", "main"]).out;
    assert!(kept.contains("BELLHOP_ROOM_TOKEN") && !kept.contains(&token), "{kept}");
    assert!(!place.run(&["journal", "dump"]).out.contains(&token));
}

#[test]
fn a_token_of_an_earlier_daemon_opens_nothing() {
    let place = place(
        "printf %s \"$BELLHOP_ROOM_TOKEN\" >\"$H/token.new\"; mv \"$H/token.new\" \"$H/token\"\n\
         while [ -e \"$H/stay\" ]; do sleep 0.02; done; answer=done",
    );
    place.write("stay", "");
    let daemon = Daemon::start(&place);
    place.run(&["send", "--no-wait", "--conversation", "main", "go"]);
    wait_for("the token", || !text_of(&place, "token").is_empty());
    let token = text_of(&place, "token");
    drop(daemon);
    std::fs::remove_file(place.home.join("token")).unwrap();
    let _daemon = Daemon::start(&place);
    // The interrupted turn runs again, with another token.
    wait_for("the next token", || !text_of(&place, "token").is_empty());
    assert_ne!(text_of(&place, "token"), token);
    let bearer = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(request(&place, "look", &bearer, "{}").0, 401);
    std::fs::remove_file(place.home.join("stay")).unwrap();
}

#[test]
fn what_was_said_before_a_crash_is_not_said_again() {
    let place = place(
        "botcord send --room side 'step one' >/dev/null; touch \"$H/said\"\n\
         while [ -e \"$H/stay\" ]; do sleep 0.02; done\n\
         botcord send --room side 'step two' >/dev/null; answer=done",
    );
    place.write("stay", "");
    let daemon = Daemon::start(&place);
    place.run(&["send", "--no-wait", "--conversation", "main", "go"]);
    wait_for("the first step", || place.home.join("said").exists());
    drop(daemon);
    std::fs::remove_file(place.home.join("stay")).unwrap();
    let _daemon = Daemon::start(&place);
    wait_for("the second step", || records(&place, "side", "said").iter().any(|r| r["text"] == "step two"));
    let texts: Vec<_> = records(&place, "side", "said").iter().map(|r| r["text"].clone()).collect();
    assert_eq!(texts, ["step one", "step two"]);
}
