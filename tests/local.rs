//! The local conversation with the real program: daemon, commands, agents of the configuration.

#[path = "support/echo_daemon.rs"]
#[allow(dead_code)]
mod echo_daemon;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
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
        // Read by the fake CLI, where there is one.
        let claude = place.home.join("claude");
        let child = place
            .command(&["start"])
            .env("BELLHOP_CLAUDE_BIN", claude)
            .env("PROGRAM", env!("CARGO_BIN_EXE_bellhop"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the daemon's socket", || Client::connect(&place.home.join("daemon/bellhop.sock")).is_ok());
        Self { child }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "{what}: it did not happen within 30 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn configure(place: &Place, config: &Value) {
    place.write("daemon/config.json", &config.to_string());
}

/// The answer of `send --json`.
fn send(place: &Place, args: &[&str]) -> Value {
    let ran = place.run(&[&["send", "--json"][..], args].concat());
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

/// A program in place of Claude Code: `$prompt` is what it is told, `$answer` what it answers.
fn fake_claude(place: &Place, script: &str) -> String {
    let path = place.home.join("claude");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && {{ echo 2.0.0; exit; }}\nprompt=$(cat)\n{script}\n\
         answer=$(printf %s \"$answer\" | tr '\\n\"' '| ')\n\
         printf '{{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s1\"}}\\n'\n\
         printf '{{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"session_id\":\"s1\",\"result\":\"%s\"}}\\n' \
         \"$answer\"\n"
    );
    // Written under another name, so that no test starts it half-written or while it is open for writing.
    place.write("claude.new", &text);
    std::fs::set_permissions(place.home.join("claude.new"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(place.home.join("claude.new"), &path).unwrap();
    path.display().to_string()
}

fn echo() -> Value {
    json!({"local": {"agents": [{"name": "local", "runtime": "echo"}]}})
}

#[test]
fn a_session_that_a_killed_daemon_left_in_its_journal_is_forgotten() {
    let place = Place::new();
    configure(&place, &echo());
    let daemon = Daemon::start(&place);
    let first = send(&place, &["hello"])["session_id"].clone();
    assert!(first.is_string(), "{first}");
    // Killed at once: the journal has the session, its file mostly not yet.
    drop(daemon);
    let listed: Value = serde_json::from_str(&place.run(&["sessions", "--json"]).out).unwrap();
    assert_eq!(listed["sessions"][0]["session_id"], first);
    assert_eq!(place.run(&["sessions", "reset", "--all"]).out, "1 session forgotten\n");
    assert_eq!(place.run(&["sessions"]).out, "no sessions\n");
    assert_ne!(send(&place, &["hello"])["session_id"], first);
}

#[test]
fn agents_of_the_configuration_work_where_it_says() {
    let place = Place::new();
    fake_claude(&place, "answer=\"$PWD $* $BELLHOP_AGENT\"");
    configure(
        &place,
        &json!({"local": {"agents": [
            {"name": "free", "runtime": "claude-code", "model": "opus"},
            {"name": "fixed", "runtime": "claude-code", "cwd": place.home.join("elsewhere"), "trust": "public"}
        ]}}),
    );
    std::fs::create_dir(place.home.join("elsewhere")).unwrap();
    let _daemon = Daemon::start(&place);
    let work = std::fs::canonicalize(place.home.join("work")).unwrap();
    let reply = |args: &[&str]| send(&place, args)["reply"].as_str().unwrap().to_owned();
    let said = reply(&["hello"]);
    assert!(said.starts_with(&format!("{} ", work.display())) && said.contains("--model opus"), "{said}");
    assert!(said.ends_with(" free"), "{said}");
    let said = reply(&["--agent", "fixed", "hello"]);
    assert!(said.starts_with(&place.home.join("elsewhere").display().to_string()), "{said}");
    assert!(!said.contains("--model"), "{said}");
    // What the command line says wins over both.
    assert!(reply(&["--agent", "fixed", "--cwd", "/", "hello"]).starts_with("/ "));
    let workspace = std::fs::metadata(place.home.join("agents/free/workspace")).unwrap();
    assert_eq!(workspace.mode() & 0o777, 0o700);
    assert!(!place.home.join("agents/fixed/workspace").exists());
    let ran = place.run(&["send", "--agent", "nobody", "hello"]);
    assert!(ran.code != Some(0) && ran.err.contains("there is no agent \"nobody\"; there are: free, fixed"), "{ran:?}");
}

#[test]
fn an_agent_writes_to_another_one_without_the_owners_authority() {
    let place = Place::new();
    fake_claude(
        &place,
        "case $prompt in\n\
         self) set -- --agent a hello ;;\n\
         move) set -- --agent b --cwd / hello ;;\n\
         owner) set -- --agent b --conversation rm_oc_1 hello ;;\n\
         *) set -- --agent b hello ;;\n\
         esac\n\
         answer=$(\"$PROGRAM\" send \"$@\" 2>&1)",
    );
    configure(
        &place,
        &json!({"local": {"agents": [{"name": "a", "runtime": "claude-code"}, {"name": "b", "runtime": "echo"}]}}),
    );
    let _daemon = Daemon::start(&place);
    // b repeats what it was told: not a word of the owner, but a message of an agent.
    let said = send(&place, &["hello"])["reply"].as_str().unwrap().to_owned();
    assert!(said.contains("from: a | to: b | conversation_id: agent-a"), "{said}");
    assert!(said.contains("sender_kind= agent "), "{said}");
    for (text, refused) in [
        ("self", "an agent cannot write to itself"),
        ("move", "an agent cannot choose the runtime or the directory"),
        ("owner", "are the owner's"),
    ] {
        let said = send(&place, &[text])["reply"].as_str().unwrap().to_owned();
        assert!(said.contains(refused), "{text}: {said}");
    }
    // Whoever claims a turn that does not run is not believed.
    let mut command = place.command(&["send", "--agent", "b", "x"]);
    let ran = Ran::of(command.env("BELLHOP_AGENT", "a").env("BELLHOP_TURN", "t").output().unwrap());
    assert!(ran.code != Some(0) && ran.err.contains("does not run here"), "{ran:?}");
}

#[test]
fn two_agents_do_not_talk_for_ever() {
    let place = Place::new();
    fake_claude(
        &place,
        "to=a; [ \"$BELLHOP_AGENT\" = a ] && to=b\n\
         answer=$(\"$PROGRAM\" send --no-wait --agent $to again 2>&1)\n\
         echo \"$answer\" >>\"$BELLHOP_HOME/talk\"",
    );
    let agent = |name: &str| json!({"name": name, "runtime": "claude-code"});
    configure(&place, &json!({"local": {"agents": [agent("a"), agent("b")]}}));
    let _daemon = Daemon::start(&place);
    send(&place, &["hello"]);
    let talk = || std::fs::read_to_string(place.home.join("talk")).unwrap_or_default();
    wait_for("the end of the talk", || talk().contains("bellhop:"));
    let lines: Vec<String> = talk().lines().map(str::to_owned).collect();
    // Turns overlap: an agent may write to the other while its turn there runs on, which is the other end.
    assert!(lines.len() <= 9, "{lines:?}");
    assert!(
        lines.last().is_some_and(|l| l.contains("chain of agents") || l.contains("waits for this one")),
        "{lines:?}"
    );
}

#[test]
fn a_hangup_applies_the_configuration() {
    let place = Place::new();
    configure(&place, &echo());
    let daemon = Daemon::start(&place);
    let log = || std::fs::read_to_string(place.home.join("logs/daemon.log")).unwrap_or_default();
    let hangup = |lines: usize, what: &str| {
        daemon.signal(rustix::process::Signal::HUP);
        wait_for(what, || log().matches(what).count() >= lines);
    };
    place.write("daemon/config.json", "{\n  \"maxConcurrentTurns\": 3,\n  \"routes\": 7\n}");
    hangup(1, "daemon.not_reloaded");
    let text = log();
    assert!(text.contains("line=3 field=\"routes\"") && text.contains("daemon/config.json"), "{text}");
    assert_eq!(send(&place, &["hello"])["agent"], "local");
    configure(&place, &json!({"maxConcurrentTurns": 3, "local": {"agents": [{"name": "new", "runtime": "echo"}]}}));
    hangup(1, "daemon.needs_restart");
    assert!(log().contains("daemon.needs_restart keys=maxConcurrentTurns"), "{}", log());
    assert_eq!(send(&place, &["hello"])["agent"], "new");
    assert!(place.run(&["send", "--agent", "local", "hello"]).err.contains("there are: new"));
    assert!(place.home.join("agents/new/workspace").is_dir());
}

/// An ACP agent that asks for permission and says what became of it.
fn asking_agent(place: &Place, approvals: &Value) {
    place.write(
        "asks.sh",
        "id() { printf %s \"$line\" | sed 's/.*\"id\":\\([0-9]*\\).*/\\1/'; }\n\
         say() { printf '{\"jsonrpc\":\"2.0\",%s}\\n' \"$1\"; }\n\
         while IFS= read -r line; do\n\
         case $line in\n\
         *'\"initialize\"'*) say \"\\\"id\\\":$(id),\\\"result\\\":{\\\"protocolVersion\\\":1}\" ;;\n\
         *'\"session/new\"'*) say \"\\\"id\\\":$(id),\\\"result\\\":{\\\"sessionId\\\":\\\"s1\\\"}\" ;;\n\
         *'\"session/prompt\"'*)\n\
         turn=$(id)\n\
         say '\"id\":900,\"method\":\"session/request_permission\",\"params\":{\"sessionId\":\"s1\",\
         \"toolCall\":{\"title\":\"Bash\",\"rawInput\":{\"command\":\"rm -r x\"}},\
         \"options\":[{\"optionId\":\"yes\",\"kind\":\"allow_once\"},{\"optionId\":\"no\",\"kind\":\"reject_once\"}]}'\n\
         IFS= read -r line\n\
         case $line in *'\"yes\"'*) word=allowed ;; *'\"no\"'*) word=denied ;; *) word=cancelled ;; esac\n\
         say '\"method\":\"session/update\",\"params\":{\"sessionId\":\"s1\",\"update\":{\"sessionUpdate\":\
         \"agent_message_chunk\",\"content\":{\"type\":\"text\",\"text\":\"'$word'\"}}}'\n\
         say \"\\\"id\\\":$turn,\\\"result\\\":{\\\"stopReason\\\":\\\"end_turn\\\"}\" ;;\n\
         esac\n\
         done\n",
    );
    configure(
        place,
        &json!({
            "approvals": approvals,
            "acpRuntimes": [{"name": "asks", "command": ["/bin/sh", place.home.join("asks.sh")]}],
            "local": {"agents": [
                {"name": "local", "runtime": "acp:asks"},
                {"name": "trusted", "runtime": "acp:asks", "trust": "trusted"}
            ]}
        }),
    );
}

/// The ids of the questions that wait.
fn questions(place: &Place) -> Vec<String> {
    let status: Value = serde_json::from_str(&place.run(&["status", "--json"]).out).unwrap();
    status["approvals"].as_array().unwrap().iter().map(|a| a["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_person_is_asked_about_a_tool_call() {
    let place = Place::new();
    asking_agent(&place, &json!({"owner": "ask", "trusted": "deny", "timeoutSeconds": 86_400}));
    let _daemon = Daemon::start(&place);
    for (answer, word) in [(&["approve"][..], "allowed\n"), (&["approve", "--deny", "--reason", "no"], "denied\n")] {
        let asking = place.command(&["send", "x"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("the question", || questions(&place).len() == 1);
        let id = questions(&place).remove(0);
        assert!(place.run(&["status"]).out.contains("rm -r x"));
        assert_eq!(place.run(&[answer, &[id.as_str()]].concat()).code, Some(0));
        assert_ne!(place.run(&["approve", &id]).code, Some(0), "it is answered once");
        let ran = Ran::of(asking.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), word));
        assert!(ran.err.contains("waits for permission: Bash: rm -r x"), "{}", ran.err);
    }
    assert_eq!(place.run(&["send", "--approve", "allow", "x"]).out, "allowed\n");
    assert!(place.feed(&["chat", "--approve", "deny"], "x\n").out.contains("denied\n"));
    // The policy decides for others, and nobody is asked.
    let ran = place.run(&["send", "--agent", "trusted", "--approve", "allow", "x"]);
    assert_eq!(ran.out, "denied\n");
}

#[test]
fn a_question_without_an_answer_is_denied() {
    let place = Place::new();
    asking_agent(&place, &json!({"owner": "ask", "timeoutSeconds": 1}));
    // Without a daemon, too: the engine runs inside the command.
    let ran = place.run(&["send", "x"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "denied\n"), "{ran:?}");
}

#[test]
fn a_cancelled_turn_leaves_no_question() {
    let place = Place::new();
    asking_agent(&place, &json!({"owner": "ask", "timeoutSeconds": 86_400}));
    let _daemon = Daemon::start(&place);
    let asking = place.command(&["send", "x"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the question", || questions(&place).len() == 1);
    assert_eq!(place.run(&["cancel"]).out, "1 message cancelled\n");
    assert_eq!(Ran::of(asking.wait_with_output().unwrap()).code, Some(1));
    assert!(questions(&place).is_empty());
}

#[test]
fn a_chat_has_commands() {
    let place = Place::new();
    configure(&place, &echo());
    place.write("work/a file.png", "x");
    let _daemon = Daemon::start(&place);
    let input = "hello\n/file a file.png\n/file nowhere\nlook\n/usage\n/cancel\n/reset\n/reset\n/help\n";
    let ran = place.feed(&["chat"], input);
    assert_eq!(ran.code, Some(1), "a file that is not there is a failure: {ran:?}");
    let path = std::fs::canonicalize(place.home.join("work")).unwrap().join("a file.png");
    assert!(ran.out.contains(&format!("- {} (image)", path.display())), "{}", ran.out);
    assert_eq!(ran.out.matches("[BotCord Files]").count(), 1);
    for words in
        ["nowhere: ", "2 turns, 0 tokens in", "(nothing to cancel)", "(the session is forgotten)", "no session to"]
    {
        assert!(ran.out.contains(words), "{words}: {}", ran.out);
    }
}

#[test]
fn the_memory_command_that_an_agent_is_told_works_in_its_turn() {
    let place = Place::new();
    fake_claude(&place, "answer=$(\"$PROGRAM\" memory set --agent a --goal \"ship it\" 2>&1; printf ' %s' \"$*\")");
    configure(&place, &json!({"local": {"agents": [{"name": "a", "runtime": "claude-code"}, {"name": "b"}]}}));
    let daemon = Daemon::start(&place);
    let said = send(&place, &["hello"])["reply"].as_str().unwrap().to_owned();
    assert!(said.contains("bellhop memory set --agent a"), "{said}");
    let goal = |agent: &str| place.run(&["memory", "--agent", agent]).out;
    assert!(goal("a").starts_with("goal: ship it\n"), "{}", goal("a"));
    drop(daemon);
    // The same without a daemon; with several agents, one has to be named.
    assert!(goal("a").starts_with("goal: ship it\n") && goal("b").contains("is empty"));
    assert_eq!(place.run(&["memory"]).code, Some(2));
    assert!(place.run(&["memory", "--agent", "c"]).err.contains("there is no agent \"c\"; there are: a, b"));
    assert_eq!(place.run(&["memory", "clear", "--agent", "a"]).code, Some(0));
    assert!(goal("a").contains("is empty"), "{}", goal("a"));
}
