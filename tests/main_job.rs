//! The main job as a newcomer does it: the real program, a home of its own, an agent CLI or none.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use support::engine::TempDir;

/// A CLI that behaves like Claude Code: it answers with the session it is in and what it was told.
const FAKE_CLAUDE: &str = r#"#!/bin/sh
session=fresh-$$
while [ $# -gt 0 ]; do
  [ "$1" = --resume ] && session=$2
  shift
done
text=$(cat | tr '\n' ' ')
case $text in
  *fail*) echo '{"type":"result","subtype":"success","is_error":true,"result":"API Error: 529 overloaded","session_id":"'$session'"}'; exit 1;;
  *talk*) echo '{"type":"system","subtype":"init","session_id":"'$session'"}'
    echo '{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"well"}]},"session_id":"'$session'"}'
    exec sleep 300;;
  *sleep*) echo '{"type":"system","subtype":"init","session_id":"'$session'"}'; exec sleep 300;;
  *quiet*) echo '{"type":"result","subtype":"success","is_error":false,"result":"NO_REPLY","session_id":"'$session'"}'; exit 0;;
esac
echo '{"type":"system","subtype":"init","session_id":"'$session'"}'
echo '{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"'$session' heard '"$text"'"}]},"session_id":"'$session'"}'
echo '{"type":"result","subtype":"success","is_error":false,"result":"'$session' heard '"$text"'","session_id":"'$session'","total_cost_usd":0.01,"usage":{"input_tokens":3,"output_tokens":2}}'
"#;

/// A fresh machine: nothing on the PATH but the system's own commands.
struct Machine {
    dir: TempDir,
    claude: bool,
}

impl Machine {
    fn new(claude: bool) -> Self {
        let dir = TempDir::new("main-job");
        for sub in ["bin", "project"] {
            fs::create_dir(dir.0.join(sub)).unwrap();
        }
        if claude {
            let path = dir.0.join("bin/claude");
            fs::write(&path, FAKE_CLAUDE).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { dir, claude }
    }

    fn project(&self) -> PathBuf {
        self.dir.0.join("project")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellhop"));
        command.args(args).current_dir(self.project()).env_clear().stdin(Stdio::null());
        command.env("HOME", &self.dir.0).env("PATH", format!("{}:/usr/bin:/bin", self.dir.0.join("bin").display()));
        if !self.claude {
            // The machine that runs the tests may have CLIs of its own.
            command.env("PATH", self.dir.0.join("bin"));
        }
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let out = self.run(args);
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"))
    }

    fn start(&self) {
        let out = self.run(&["start", "--background"]);
        assert!(out.status.success(), "{out:?}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.run(&["stop", "--wait"]);
    }
}

fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn without_any_cli_echo_answers_and_says_how_to_get_one() {
    let machine = Machine::new(false);
    let out = machine.run(&["send", "hello there"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let text = stdout(&out);
    assert!(text.contains("No agent CLI was found") && text.trim_end().ends_with("hello there"), "{text}");
}

#[test]
fn a_second_message_continues_the_session_with_and_without_a_daemon() {
    let machine = Machine::new(true);
    let first = machine.json(&["send", "--json", "one"]);
    let session = first["session_id"].as_str().unwrap().to_owned();
    assert!(session.starts_with("fresh-"), "{first}");
    assert_eq!(first["reply"], format!("{session} heard one").trim());
    machine.start();
    let second = machine.json(&["send", "--json", "two"]);
    assert_eq!(second["session_id"], session.as_str(), "{second}");
    assert_eq!((&second["runtime"], &second["status"]), (&"claude-code".into(), &"ok".into()));
    assert_eq!(second["cost_usd"], 0.01);
    let fresh = machine.json(&["send", "--json", "--new", "three"]);
    assert_ne!(fresh["session_id"], session.as_str());
}

#[test]
fn each_directory_has_its_own_conversation() {
    let machine = Machine::new(true);
    let other = machine.dir.0.join("other");
    fs::create_dir(&other).unwrap();
    let here = machine.json(&["send", "--json", "one"]);
    let there = machine.json(&["send", "--json", "--cwd", other.to_str().unwrap(), "one"]);
    assert_ne!(here["conversation"], there["conversation"]);
    assert_ne!(here["session_id"], there["session_id"]);
    let named = machine.json(&["send", "--json", "--conversation", "notes", "one"]);
    assert_eq!(named["conversation"], "notes");
}

#[test]
fn exit_codes_tell_scripts_what_happened() {
    let machine = Machine::new(true);
    for (text, code, status) in [("please fail", 1, "error"), ("be quiet", 0, "no_reply"), ("fine", 0, "ok")] {
        let out = machine.run(&["send", "--json", "--conversation", status, text]);
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!((out.status.code(), &report["status"]), (Some(code), &status.into()), "{text}: {report}");
    }
    let out = machine.run(&["send", "--json", "--timeout", "1", "--conversation", "slow", "please sleep"]);
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((out.status.code(), &report["status"]), (Some(124), &"timeout".into()), "{report}");
    assert_eq!(machine.run(&["send", "--no-wait", "x"]).status.code(), Some(3), "needs a daemon");
    assert_eq!(machine.run(&["send", "--runtime", "gpt", "x"]).status.code(), Some(2), "no such runtime");
    assert_eq!(machine.run(&["send", "--bogus", "x"]).status.code(), Some(2));
}

#[test]
fn a_pipe_is_a_conversation() {
    let machine = Machine::new(true);
    let mut child = machine.command(&["chat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"first\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert!(stdout(&out).contains("heard first"), "{out:?}");
    let session = machine.json(&["send", "--json", "second"])["session_id"].as_str().unwrap().to_owned();
    assert!(stdout(&out).contains(&session), "chat and send share the conversation of the directory");
}

#[test]
fn a_message_that_nobody_waits_for_is_answered_and_written_down() {
    let machine = Machine::new(true);
    machine.start();
    let out = machine.run(&["send", "--no-wait", "--conversation", "later", "remember this"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let end = std::time::Instant::now() + support::engine::PATIENCE;
    loop {
        let dump = stdout(&machine.run(&["transcript", "dump", "--room", "later"]));
        if dump.contains("\"outbound\"") {
            assert!(dump.contains("heard remember this"), "{dump}");
            break;
        }
        assert!(std::time::Instant::now() < end, "never answered: {dump}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_turn_whose_chat_has_lost_its_reader_is_not_left_for_the_next_start() {
    let machine = Machine::new(true);
    let mut child = machine.command(&["chat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Its first words find nobody, while it goes on.
    drop(child.stdout.take());
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"talk, then sleep\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(machine.json(&["queue", "--json"])["messages"], serde_json::json!([]));
}

#[test]
fn a_daemon_is_started_on_a_home_whose_name_is_no_text() {
    use std::os::unix::ffi::OsStrExt;
    let machine = Machine::new(false);
    let home = machine.dir.0.join(std::ffi::OsStr::from_bytes(b"h\xff"));
    let run = |args: &[&str]| machine.command(args).env("BELLHOP_HOME", &home).output().unwrap();
    let started = run(&["start", "--background"]);
    assert!(started.status.success(), "{started:?}");
    assert!(run(&["send", "--no-wait", "hello"]).status.success());
    assert!(run(&["stop", "--wait"]).status.success());
    let found: Vec<_> = fs::read_dir(&machine.dir.0).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(found.iter().filter(|name| name.as_bytes().starts_with(b"h")).count(), 1, "{found:?}");
}

#[test]
fn one_home_has_one_daemon() {
    let machine = Machine::new(true);
    machine.start();
    let second = machine.run(&["start"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("already running"), "{second:?}");
    let replaced = machine.run(&["start", "--background", "--replace"]);
    assert!(replaced.status.success(), "{replaced:?}");
    assert_eq!(machine.json(&["send", "--json", "still here"])["status"], "ok");
}
