//! Bots of Telegram for local agents and for those of a hub: the real daemon, a fake CLI, and a strict Bot API.
#![allow(missing_docs)]

#[path = "support/hub/mod.rs"]
mod hub;
#[path = "support/hub_control/mod.rs"]
mod hub_control;
#[path = "support/mod.rs"]
mod support;
#[path = "support/telegram/mod.rs"]
mod telegram;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bellhop::serve::client::{Client, ClientLimits};
use bellhop::serve::socket;
use bellhop::serve::wire::ChannelState;
use hub_control::ControlHub;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::temp_dir::TempDir;
use telegram::{BotApi, Fault};

/// How long anything may take.
const LIMIT: Duration = Duration::from_mins(1);

/// Stands for Claude Code: answers the words of the message; "wait" lasts until $GO exists, "files" sends two files by
/// tool, "long" is answered in three lines.
const AGENT: &str = r#"#!/bin/sh
[ "$1" = --version ] && { echo '2.1.197 (Claude Code)'; exit; }
umask 077
prompt=$(mktemp "$RUNS/.prompt.XXXXXX")
cat >"$prompt"
n=1
until ln "$prompt" "$RUNS/$n" 2>/dev/null; do n=$((n + 1)); done
said=$(sed -n '/^<human-message/,/^<\/human-message>/p' "$prompt" | grep -v '^<' | head -n 1 | tr -cd 'a-zA-Z0-9 ')
printf '{"type":"system","subtype":"init","session_id":"00000000-0000-4000-8000-000000000000"}\n'
answer="answer to $said"
case "$said" in
*wait*) while [ ! -e "$GO" ]; do sleep 0.05; done ;;
*files*)
    printf png >pic.png; printf odd >odd.png; printf report >notes.txt
    bellhop room send --text 'here they are' --file pic.png --file odd.png --file notes.txt >"$RUNS/out" 2>&1 ;;
*elsewhere*) bellhop room send --room telegram:user:666 --text psst >"$RUNS/out" 2>&1 ;;
*long*) answer='first part of it\nsecond part of it\nthird part of it' ;;
esac
printf '{"type":"result","subtype":"success","is_error":false,"result":"%s","session_id":"00000000-0000-4000-8000-000000000000"}\n' "$answer"
"#;

struct Home {
    dir: TempDir,
}

impl Home {
    /// With a gateway `tg` of the local agent; `more` are further members of its profile.
    fn new(name: &str, api: &BotApi, more: &Value) -> Self {
        let home = Self::bare(name);
        let mut profile = json!({"id": "tg", "type": "telegram", "accountId": "local", "baseUrl": api.url()});
        profile.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        home.configure(&json!({"thirdPartyGateways": [profile]}));
        home.secret(api.token());
        home
    }

    fn bare(name: &str) -> Self {
        let home = Self { dir: TempDir::new(name) };
        for below in ["runs", "home/daemon/gateways"] {
            fs::create_dir_all(home.dir.join(below)).unwrap();
        }
        fs::write(home.dir.join("claude"), AGENT).unwrap();
        fs::set_permissions(home.dir.join("claude"), fs::Permissions::from_mode(0o755)).unwrap();
        home.configure(&json!({}));
        home
    }

    fn configure(&self, more: &Value) {
        let mut config = json!({"local": {"agents": [{"name": "local", "runtime": "claude-code"}]}});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fs::write(self.path().join("daemon/config.json"), config.to_string()).unwrap();
    }

    fn secret(&self, token: &str) {
        let path = self.path().join("daemon/gateways/tg.json");
        fs::write(&path, json!({"botToken": token}).to_string()).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.dir.join("home")
    }

    fn state(&self) -> Value {
        let text = fs::read_to_string(self.path().join("daemon/gateways/tg.state.json")).unwrap_or("null".into());
        serde_json::from_str(&text).unwrap()
    }

    fn go(&self) {
        fs::write(self.dir.join("go"), "").unwrap();
    }

    /// The prompts of all runs so far.
    fn runs(&self) -> Vec<String> {
        (1..).map_while(|n| fs::read_to_string(self.dir.join("runs").join(n.to_string())).ok()).collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path().join("logs/daemon.log")).unwrap_or_default()
    }

    fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < end, "{what}: not within {LIMIT:?}; log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellhop"));
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("BELLHOP_HOME", self.path())
            .env("BELLHOP_CLAUDE_BIN", self.dir.join("claude"))
            .env("RUNS", self.dir.join("runs"))
            .env("GO", self.dir.join("go"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command with this standard input.
    fn run(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // One that does not read is not disturbed.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn start(&self) -> Daemon<'_> {
        let child = self.command(&["start"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let daemon = Daemon { child, home: self };
        self.wait_for("the daemon answers", || self.client());
        daemon
    }

    fn client(&self) -> Option<Client> {
        let limits = ClientLimits { patience: Duration::ZERO, ..ClientLimits::default() };
        Client::with_limits(&socket::path(&self.path()), limits).ok()
    }

    /// Every file below the directory of the test that holds this text, but the secret itself.
    fn files_with(&self, text: &str) -> Vec<PathBuf> {
        fn walk(dir: &Path, text: &[u8], found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    walk(&entry.path(), text, found);
                } else if kind.is_file() {
                    let content = fs::read(entry.path()).unwrap();
                    if content.windows(text.len()).any(|w| w == text) {
                        found.push(entry.path());
                    }
                }
            }
        }
        let mut found = Vec::new();
        walk(self.dir.path(), text.as_bytes(), &mut found);
        found.retain(|path| !path.ends_with("daemon/gateways/tg.json"));
        found
    }
}

/// A running daemon; killed when dropped.
struct Daemon<'a> {
    child: Child,
    home: &'a Home,
}

impl Daemon<'_> {
    fn channel(&self) -> Option<ChannelState> {
        self.home.client()?.status().ok()?.channels.into_iter().find(|c| c.id == "tg")
    }

    /// Waits until the channel is (not) up; returns what is said about it.
    fn wait_up(&self, up: bool) -> String {
        self.home
            .wait_for(&format!("the channel is up: {up}"), || {
                self.channel().filter(|c| c.up == up && (up || c.detail.as_deref() != Some("not yet")))
            })
            .detail
            .unwrap_or_default()
    }

    /// SIGTERM, and its end.
    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_message_becomes_a_turn_and_its_reply_comes_back() {
    let api = BotApi::start();
    let home = Home::new("tg-reply", &api, &json!({"allowedChatIds": ["7"]}));
    let daemon = home.start();
    daemon.wait_up(true);
    let asked = api.says(7, 7, "hello bot");
    assert_eq!(api.wait_texts(7, 1), ["answer to hello bot"]);
    let sent = &api.calls("sendMessage")[0];
    assert!(sent.params["reply_parameters"].is_null(), "between two nothing is quoted");
    assert_eq!(api.calls("sendChatAction")[0].params, json!({"chat_id": 7, "action": "typing"}));
    let prompt = &home.runs()[0];
    for words in ["from: Ann", "conversation_id: telegram:user:7", "channel: tg", "<human-message", "hello bot"] {
        assert!(prompt.contains(words), "{words}: {prompt}");
    }
    api.wait_taken();
    assert_eq!(home.state()["offset"], 501);
    assert!(home.log().contains(&format!("telegram:7:{asked}")));
    daemon.stop();
    api.wait("the long poll was given up", |api| (api.look().abandoned == 1).then_some(()));
    assert_eq!(home.files_with(api.token()), Vec::<PathBuf>::new());
    assert_eq!(home.files_with("secret_part"), Vec::<PathBuf>::new());
    let mode = |path: &str| fs::metadata(home.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("daemon/gateways/tg.json"), mode("daemon/gateways/tg.state.json")), (0o600, 0o600));
}

#[test]
fn a_group_is_heard_when_it_means_the_bot_and_strangers_never() {
    let api = BotApi::start();
    let home = Home::new("tg-group", &api, &json!({"allowedChatIds": [-100], "allowedSenderIds": ["7"]}));
    let daemon = home.start();
    daemon.wait_up(true);
    api.says(-100, 7, "just talking");
    api.says(-100, 8, "@helper_bot not from me");
    api.says(-200, 7, "@helper_bot not here");
    api.says(8, 8, "not me either");
    let asked = api.says(-100, 7, "@helper_bot status");
    assert_eq!(api.wait_texts(-100, 1), ["answer to helperbot status"]);
    assert_eq!(api.calls("sendMessage")[0].params["reply_parameters"]["message_id"], asked);
    api.says(7, 7, "and in private");
    assert_eq!(api.wait_texts(7, 1), ["answer to and in private"]);
    api.wait_taken();
    assert_eq!(home.runs().len(), 2);
    assert_eq!(api.calls("sendMessage").len(), 2);
    let state = home.state();
    assert_eq!((state["ignored"].as_u64(), state["strangers"].as_array().unwrap().len()), (Some(3), 3));
    let listed = home.run(&["gateway", "list"], "");
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("3 messages of others") && listed.contains("chat -200, sender 7 (Ann)"), "{listed}");
}

#[test]
fn long_replies_come_in_order_and_go_on_where_they_stopped() {
    let api = BotApi::start();
    let home = Home::new("tg-long", &api, &json!({"allowedChatIds": ["7"], "splitAt": 20}));
    let _daemon = home.start();
    let parts = ["first part of it", "second part of it", "third part of it"];
    api.says(7, 7, "a long one");
    assert_eq!(api.wait_texts(7, 3), parts);
    // The second part is refused for a second, the third is lost: only the one that may have arrived comes again.
    for fault in [None, Some(Fault::too_many(1)), None, Some(Fault::DropBefore)] {
        match fault {
            None => api.fault("sendMessage", Fault::Answer(200, json!({"ok": true, "result": {"message_id": 1}}))),
            Some(fault) => api.fault("sendMessage", fault),
        }
    }
    api.says(7, 7, "another long one");
    // The faked answers left no trace: the first part, and the second after the wait. The third is what is seen.
    assert_eq!(api.wait_texts(7, 4)[3], parts[2]);
    api.wait_taken();
    assert_eq!(api.texts(7).len(), 4);
}

#[test]
fn a_restart_goes_on_at_the_cursor() {
    let api = BotApi::start();
    let home = Home::new("tg-restart", &api, &json!({"allowedChatIds": ["7", "9"]}));
    let daemon = home.start();
    api.says(7, 7, "one");
    api.wait_texts(7, 1);
    api.wait_taken();
    daemon.stop();
    api.says(7, 7, "two");
    api.says(9, 9, "three");
    let daemon = home.start();
    assert_eq!(api.wait_texts(7, 2), ["answer to one", "answer to two"]);
    assert_eq!(api.wait_texts(9, 1), ["answer to three"]);
    api.wait_taken();
    daemon.stop();
    assert_eq!((home.runs().len(), api.calls("sendMessage").len()), (3, 3));
    assert_eq!(home.state()["offset"], 503);
}

#[test]
fn what_was_taken_before_the_cursor_was_written_is_not_taken_twice() {
    let api = BotApi::start();
    let home = Home::new("tg-kill", &api, &json!({"allowedChatIds": ["7"]}));
    let daemon = home.start();
    api.says(7, 7, "first");
    api.wait_texts(7, 1);
    api.wait_taken();
    let before = fs::read(home.path().join("daemon/gateways/tg.state.json")).unwrap();
    api.says(7, 7, "please wait");
    home.wait_for("the turn", || (home.runs().len() == 2).then_some(()));
    api.wait_taken();
    daemon.kill();
    // As if the process had died a moment earlier: the journal has the message, the cursor and the server do not know.
    fs::write(home.path().join("daemon/gateways/tg.state.json"), before).unwrap();
    assert_eq!(api.unconfirm(1), 501);
    home.go();
    let daemon = home.start();
    assert_eq!(api.wait_texts(7, 2), ["answer to first", "answer to please wait"]);
    api.wait_taken();
    api.says(7, 7, "third");
    assert_eq!(api.wait_texts(7, 3)[2], "answer to third");
    daemon.stop();
    assert_eq!(home.state()["offset"], 503);
    assert_eq!(api.calls("sendMessage").len(), 3);
}

#[test]
fn files_come_and_go() {
    let api = BotApi::start();
    let home = Home::new("tg-files", &api, &json!({"allowedChatIds": ["7"]}));
    let _daemon = home.start();
    api.file("ph_large", b"jpeg bytes");
    api.file("doc1", b"the text");
    let photo = json!({"photo": [{"file_id": "ph_small", "file_size": 1}, {"file_id": "ph_large", "file_size": 10}],
        "caption": "send files", "media_group_id": "g1"});
    let document = json!({"file_id": "doc1", "file_name": "../../.evil name.txt"});
    let asked = api.messages(7, 7, &[photo, json!({"media_group_id": "g1", "document": document})]);
    assert_eq!(api.wait_texts(7, 2), ["here they are", "answer to send files"]);
    let dir = home.path().join(format!("agents/local/workspace/attachments/tg_7_{asked}"));
    let read =
        |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}; {}", home.log()));
    assert_eq!((read("photo.jpg"), read("_evil name.txt")), ("jpeg bytes".into(), "the text".into()));
    assert_eq!(fs::metadata(dir.join("photo.jpg")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(home.runs()[0].contains(&dir.join("photo.jpg").display().to_string()), "{}", home.runs()[0]);
    let sent = |method: &str| api.calls(method).into_iter().filter_map(|c| c.file).collect::<Vec<_>>();
    assert_eq!(sent("sendPhoto"), [("pic.png".to_owned(), b"png".to_vec())]);
    let documents = [("odd.png".to_owned(), b"odd".to_vec()), ("notes.txt".to_owned(), b"report".to_vec())];
    assert_eq!(sent("sendDocument"), documents, "a picture that is none goes as a file");
    // What cannot be fetched is said, and a photo without words is answered.
    api.message(7, 7, &json!({"photo": [{"file_id": "gone"}]}));
    assert_eq!(api.wait_texts(7, 3)[2], "answer to photo");
    assert!(home.runs()[1].contains("1 could not be fetched"));
}

#[test]
fn an_agent_speaks_in_allowed_chats_only() {
    let api = BotApi::start();
    let home = Home::new("tg-elsewhere", &api, &json!({"allowedChatIds": ["7"]}));
    let _daemon = home.start();
    api.says(7, 7, "go elsewhere");
    assert_eq!(api.wait_texts(7, 1), ["answer to go elsewhere"]);
    assert_eq!(api.calls("sendMessage").len(), 1);
    assert!(fs::read_to_string(home.dir.join("runs/out")).unwrap().contains("not among those that are allowed"));
}

#[test]
fn troubles_are_told_and_pass() {
    let mut api = BotApi::start();
    let home = Home::new("tg-trouble", &api, &json!({"allowedChatIds": ["7"]}));
    api.fault("getMe", Fault::status(502, "Bad Gateway"));
    let webhook = "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to delete it first";
    for fault in [
        Fault::DropBefore,
        Fault::status(409, "Conflict: terminated by other getUpdates request"),
        Fault::status(409, webhook),
        Fault::DropAfter,
    ] {
        api.fault("getUpdates", fault);
    }
    let daemon = home.start();
    api.says(7, 7, "after all that");
    assert_eq!(api.wait_texts(7, 1), ["answer to after all that"]);
    daemon.wait_up(true);
    for words in ["Bad Gateway", "only one program may ask", "delete the webhook"] {
        assert!(home.log().contains(words), "{words}: {}", home.log());
    }
    // A token that is refused is not tried again until somebody gives another one.
    api.renew_token();
    api.says(7, 7, "who are you");
    let detail = daemon.wait_up(false);
    assert!(detail.contains("does not know the bot's token") && detail.contains("not tried again"), "{detail}");
    let added = home.run(&["gateway", "add", "tg", "--token-file", "-"], api.token());
    assert!(added.status.success(), "{added:?}");
    assert_eq!(api.wait_texts(7, 2)[1], "answer to who are you");
    daemon.stop();
    for token in ["AAsecret_part", "BBother_part"] {
        assert_eq!(home.files_with(token), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_bot_is_connected_by_commands() {
    let api = BotApi::start();
    let home = Home::bare("tg-commands");
    let daemon = home.start();
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = home.run(&["gateway", "add", "tg", "--base-url", api.url()], "123:wrong\n");
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    assert!(!String::from_utf8_lossy(&wrong.stderr).contains("123:wrong"));
    assert!(!home.path().join("daemon/gateways/tg.json").exists());
    let added = home.run(&["gateway", "add", "tg", "--base-url", api.url()], &format!("{}\n", api.token()));
    assert!(added.status.success(), "{added:?}");
    assert!(text(&added).contains("@helper_bot speaks for agent local") && text(&added).contains("Nobody may talk"));
    daemon.wait_up(true);
    api.says(7, 7, "let me in");
    home.wait_for("a stranger", || (home.state()["ignored"] == 1).then_some(()));
    assert!(text(&home.run(&["gateway"], "")).contains("chat 7, sender 7 (Ann)"));
    assert!(home.run(&["gateway", "add", "tg", "--chat", "x"], "").status.code() == Some(2));
    let allowed = home.run(&["gateway", "add", "tg", "--chat", "7"], "");
    assert!(allowed.status.success(), "{allowed:?}");
    home.wait_for("the new list holds", || home.log().matches("telegram.connected").nth(1).map(drop));
    api.says(7, 7, "now");
    assert_eq!(api.wait_texts(7, 1), ["answer to now"]);
    let tested = home.run(&["gateway", "test", "tg"], "");
    assert!(tested.status.success() && text(&tested).contains("@helper_bot"), "{tested:?}");
    let listed: Value = serde_json::from_slice(&home.run(&["gateway", "list", "--json"], "").stdout).unwrap();
    assert_eq!((&listed[0]["state"], &listed[0]["tokenPreview"]), (&json!("up"), &json!("9900...oken")));
    assert!(text(&home.run(&["doctor"], "")).contains("tg: @helper_bot for local"));
    let removed = home.run(&["gateway", "remove", "tg"], "");
    assert!(removed.status.success(), "{removed:?}");
    home.wait_for("it is gone", || daemon.channel().is_none().then_some(()));
    assert_eq!(fs::read_dir(home.path().join("daemon/gateways")).unwrap().count(), 0);
    assert_eq!(home.run(&["gateway", "test", "tg"], "").status.code(), Some(2));
    daemon.stop();
    assert_eq!(home.files_with("secret_part"), Vec::<PathBuf>::new());
}

#[test]
fn no_token_is_sent_to_an_address_that_is_not_safe() {
    let home = Home::bare("tg-address");
    // Not one of the loopback, although it leads there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://0.0.0.0:{}", listener.local_addr().unwrap().port());
    let refused = home.run(&["gateway", "add", "tg", "--base-url", &base], "123:secret_part\n");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&base), "{refused:?}");
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().map(drop).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(home.files_with("secret_part"), Vec::<PathBuf>::new());
}

#[test]
fn gateways_of_other_services_and_without_agents_say_why_they_are_not_connected() {
    let api = BotApi::start();
    let home = Home::new("tg-others", &api, &json!({"accountId": "nobody"}));
    let mut config: Value = serde_json::from_slice(&fs::read(home.path().join("daemon/config.json")).unwrap()).unwrap();
    config["thirdPartyGateways"].as_array_mut().unwrap().extend([
        json!({"id": "wx", "type": "wechat", "accountId": "local"}),
        json!({"id": "bare", "type": "telegram", "accountId": "local", "baseUrl": api.url()}),
        json!({"id": "second", "type": "telegram", "accountId": "local", "baseUrl": api.url(),
            "secretFile": home.path().join("daemon/gateways/tg.json")}),
        json!({"id": "off", "type": "telegram", "accountId": "local", "enabled": false}),
    ]);
    fs::write(home.path().join("daemon/config.json"), config.to_string()).unwrap();
    let _daemon = home.start();
    let troubles =
        [("tg", "no agent"), ("wx", "does not connect"), ("bare", "missing bot token"), ("second", "the same secret")];
    for (id, why) in troubles {
        home.wait_for(why, || {
            let channels = home.client()?.status().ok()?.channels;
            assert!(channels.iter().all(|c| c.id != "off"));
            channels.into_iter().find(|c| c.id == id && c.detail.as_ref().is_some_and(|d| d.contains(why)))
        });
    }
    assert_eq!(api.look().polls, 0);
}

/// The daemon as a hub sees it: an agent of the hub's, and a gateway that the configuration has already.
fn at_hub(home: &Home, hub: &ControlHub) -> String {
    let seed = [7; 32];
    let key = bellhop::crypto::sign::SigningKey::from_seed(&seed).unwrap();
    let credentials = json!({"version": 1, "agentId": "ag_a", "keyId": "k_1", "hubUrl": hub.url(), "displayName": "Ada",
        "privateKey": bellhop::crypto::base64::encode(&seed), "publicKey": key.public_text(), "runtime": "claude-code",
        "token": "at", "tokenExpiresAt": 1_900_000_000_000_i64, "savedAt": "2027-01-01T00:00:00.000Z"});
    fs::create_dir_all(home.path().join("credentials")).unwrap();
    fs::write(home.path().join("credentials/ag_a.json"), credentials.to_string()).unwrap();
    hub.log_in(&home.path())
}

#[test]
fn a_hub_looks_after_the_gateways_of_its_agents() {
    let api = BotApi::start();
    let control = ControlHub::start();
    let home = Home::new("tg-hub", &api, &json!({"accountId": "ag_a", "allowedChatIds": ["7"], "enabled": false}));
    let instance = at_hub(&home, &control);
    let daemon = home.start();
    control.wait_online(&instance);
    let ask = |kind: &str, params: Value| control.send(&instance, kind, params).ack();
    let listed = ask("list_gateways", json!({}));
    let gateway = &listed["result"]["gateways"][0];
    assert_eq!((&gateway["enabled"], gateway.get("status")), (&json!(false), None));
    let say = |text: &str, key: &str| {
        json!({"agentId": "ag_a", "gatewayId": "tg", "conversationId": "telegram:user:7", "text": text,
            "idempotencyKey": key})
    };
    assert_eq!(ask("gateway_send", say("early", "k0"))["error"]["code"], "gateway_disabled");
    // What the frame does not say stays, the address of the test's server as well.
    let upsert = json!({"id": "tg", "type": "telegram", "accountId": "ag_a", "enabled": true, "label": "Team"});
    let done = ask("upsert_gateway", upsert);
    assert_eq!((&done["ok"], &done["result"]["tokenPreview"]), (&json!(true), &json!("9900...oken")), "{done}");
    daemon.wait_up(true);
    api.says(7, 7, "hello from afar");
    assert_eq!(api.wait_texts(7, 1), ["answer to hello from afar"]);
    assert!(home.runs()[0].contains("to: ag_a"), "{}", home.runs()[0]);
    let sent = ask("gateway_send", say("a word from the hub", "k1"));
    assert_eq!(sent["result"]["conversationId"], "telegram:user:7", "{sent}");
    assert!(sent["result"]["providerMessageId"].as_str().unwrap().starts_with("telegram:7:"));
    assert_eq!(ask("gateway_send", say("a word from the hub", "k1"))["result"], sent["result"]);
    assert_eq!(api.texts(7), ["answer to hello from afar", "a word from the hub"]);
    api.fault("sendMessage", Fault::status(403, "Forbidden: bot was blocked by the user"));
    assert_eq!(ask("gateway_send", say("unheard", "k2"))["error"]["code"], "send_failed");
    let tested = ask("test_gateway", json!({"id": "tg"}));
    assert_eq!((&tested["result"]["ok"], &tested["result"]["info"]["username"]), (&json!(true), &json!("helper_bot")));
    api.wait_taken();
    let status = ask("list_gateways", json!({}))["result"]["gateways"][0]["status"].clone();
    assert_eq!(
        (&status["running"], &status["connected"], &status["authorized"]),
        (&json!(true), &json!(true), &json!(true))
    );
    assert!(status["lastInboundAt"].is_i64() && status["lastSendAt"].is_i64(), "{status}");
    // A wrong token is told, and with the old one everything is as before.
    let wrong =
        json!({"id": "tg", "type": "telegram", "accountId": "ag_a", "secret": {"botToken": "with spaces in it"}});
    assert_eq!(ask("upsert_gateway", wrong)["error"]["code"], "addChannel_failed");
    api.says(7, 7, "still there");
    assert_eq!(api.wait_texts(7, 3)[2], "answer to still there");
    let foreign = json!({"id": "x", "type": "telegram", "accountId": "local", "secret": {"botToken": "1:x"}});
    assert_eq!(ask("upsert_gateway", foreign)["error"]["code"], "unknown_account");
    let wechat = json!({"provider": "wechat", "accountId": "ag_a"});
    assert_eq!(ask("gateway_login_start", wechat)["error"]["code"], "unsupported_provider");
    let removed = ask("remove_gateway", json!({"id": "tg"}));
    assert_eq!(removed["result"], json!({"id": "tg", "removed": true, "secretDeleted": true}));
    assert!(daemon.channel().is_none());
    assert_eq!(ask("list_gateways", json!({}))["result"], json!({"gateways": []}));
    daemon.stop();
    assert_eq!(home.files_with("secret_part"), Vec::<PathBuf>::new());
}
