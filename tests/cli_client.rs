//! The commands that talk to a daemon, against a control server that plays one.

#[path = "support/echo_daemon.rs"]
#[allow(dead_code)]
mod echo_daemon;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bellhop::config::paths::directory_conversation;
use bellhop::store::HomeLock;
use echo_daemon::{EchoDaemon, Place, Ran};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};

#[test]
fn a_message_is_answered() {
    let daemon = EchoDaemon::start();
    let ran = daemon.place.run(&["send", "hello", "you"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "hello you\n", ""));
    let sent = daemon.agent.submitted.lock().unwrap()[0].clone();
    let work = daemon.place.home.join("work");
    assert_eq!(sent.conversation, Some(directory_conversation(&work)));
    assert_eq!((sent.cwd, sent.typed_in), (None, Some(std::fs::canonicalize(work).unwrap())));
    assert_eq!((sent.agent, sent.runtime, sent.new, sent.timeout_ms), (None, None, false, None));
}

#[test]
fn options_reach_the_daemon() {
    let daemon = EchoDaemon::start();
    daemon.place.write("work/a file", "x");
    let ran = daemon.place.feed(
        &[
            "send",
            "--agent",
            "a1",
            "--conversation=c1",
            "--runtime",
            "codex",
            "--cwd",
            "/",
            "--new",
            "--file",
            "a file",
            "--timeout",
            "90",
            "-",
        ],
        "from\nstandard input\n",
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let sent = daemon.agent.submitted.lock().unwrap()[0].clone();
    assert_eq!(sent.text, "from\nstandard input\n");
    assert_eq!(
        (sent.agent.as_deref(), sent.conversation.as_deref(), sent.runtime.as_deref()),
        (Some("a1"), Some("c1"), Some("codex"))
    );
    assert_eq!((sent.new, sent.timeout_ms), (true, Some(90_000)));
    assert_eq!((sent.cwd, sent.typed_in, sent.from), (Some("/".into()), None, None));
    assert_eq!(sent.files.len(), 1);
    assert!(sent.files[0].is_absolute() && sent.files[0].ends_with("work/a file"));
}

#[test]
fn each_end_of_a_turn_has_its_status() {
    let daemon = EchoDaemon::start();
    for (text, code, out, err) in [
        ("fail", 1, "", "bellhop: not logged in (err_1)\n"),
        ("none", 0, "", ""),
        ("timeout", 124, "", "bellhop: the turn ran out of time\n"),
        ("busy", 1, "", "bellhop: 50 messages wait; at most 50 may\n"),
    ] {
        let ran = daemon.place.run(&["send", text]);
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(code), out, err), "{text}");
    }
}

#[test]
fn json_says_everything() {
    let daemon = EchoDaemon::start();
    let object = |text: &str| -> (Option<i32>, Value) {
        let ran = daemon.place.run(&["send", "--json", "--conversation", "c", text]);
        (ran.code, serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}")))
    };
    let (code, mut answer) = object("hello");
    assert_eq!(code, Some(0));
    assert!(answer["id"].take().as_str().is_some_and(|id| !id.is_empty()));
    assert_eq!(
        answer,
        json!({"id": null, "agent": "local", "conversation": "c", "runtime": "echo", "session_id": "s1", "status": "ok", "reply": "hello",
               "error": null, "blocks": 2, "ms": 12, "usage": {"hit": 1, "miss": 2, "output": 3}, "cost_usd": 0.5})
    );
    let (code, answer) = object("fail");
    assert_eq!((code, &answer["status"], &answer["error"]["kind"]), (Some(1), &json!("error"), &json!("auth")));
    assert_eq!(object("none").1["status"], "no_reply");
}

#[test]
fn a_time_limit_cancels_the_message() {
    let daemon = EchoDaemon::start();
    // A turn that was cancelled from here because its time was up, as one that waits for another is.
    let ran = daemon.place.run(&["send", "--json", "--timeout", "1", "hang"]);
    assert_eq!(ran.code, Some(124), "{ran:?}");
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap()["status"], "timeout");
    let id = daemon.agent.submitted.lock().unwrap()[0].id.clone().unwrap();
    assert_eq!(*daemon.agent.asked.lock().unwrap(), [format!("cancel {id}")]);
}

#[test]
fn no_wait_prints_the_id() {
    let daemon = EchoDaemon::start();
    let ran = daemon.place.run(&["send", "--no-wait", "hang"]);
    let id = daemon.agent.submitted.lock().unwrap()[0].id.clone().unwrap();
    assert_eq!((ran.code, ran.out), (Some(0), format!("{id}\n")));
}

#[test]
fn an_interruption_cancels_the_turn() {
    let daemon = EchoDaemon::start();
    let child = daemon.place.command(&["send", "hang"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(|| !daemon.agent.submitted.lock().unwrap().is_empty());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "bellhop: the turn was cancelled\n"));
}

#[test]
fn a_reply_is_awaited_where_there_is_no_place_for_another_watcher() {
    let daemon = EchoDaemon::start();
    let hangs = daemon.place.run(&["send", "--no-wait", "hang"]).out;
    let watch = || {
        let mut stream = UnixStream::connect(daemon.place.home.join("daemon/bellhop.sock")).unwrap();
        write!(stream, "GET /v1/messages/{}/events HTTP/1.1\r\nHost: x\r\n\r\n", hangs.trim()).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        (String::from_utf8_lossy(&status).into_owned(), stream)
    };
    let held: Vec<_> = (0..24).map(|_| watch()).collect();
    assert!(held.iter().all(|(status, _)| status == "HTTP/1.1 200"), "{held:?}");
    assert_eq!(watch().0, "HTTP/1.1 503");
    let ran = daemon.place.run(&["send", "hello"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "hello\n", ""));
}

#[test]
fn a_message_whose_end_nobody_remembers_is_no_mistake_of_the_sender() {
    let daemon = EchoDaemon::start();
    let ran = daemon.place.run(&["send", "--conversation", "c", "forgotten"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("is done") && ran.err.contains("transcript tail --conversation c"), "{ran:?}");
}

#[test]
fn a_daemon_that_does_not_answer_keeps_nobody_from_leaving() {
    let place = Place::new();
    let listener = UnixListener::bind(place.home.join("daemon/bellhop.sock")).unwrap();
    for command in ["send", "chat"] {
        let input = place.home.join("input");
        std::fs::write(&input, "hello\n").unwrap();
        let args: &[&str] = if command == "send" { &["send", "hello"] } else { &["chat"] };
        let mut child = place.command(args).stdin(std::fs::File::open(input).unwrap()).spawn().unwrap();
        // It has sent its message, and waits.
        let held = loop {
            let (mut stream, _) = listener.accept().unwrap();
            if stream.read(&mut [0; 4096]).unwrap() > 0 {
                break stream;
            }
        };
        let pid = rustix::process::Pid::from_child(&child);
        let status = loop {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
            std::thread::sleep(Duration::from_millis(100));
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
        };
        assert_eq!(status.signal(), Some(2), "{command}: {status:?}");
        drop(held);
    }
}

#[test]
fn the_end_of_input_at_a_terminal_leaves_what_still_runs() {
    let daemon = EchoDaemon::start();
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let open = || rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    let mut child = daemon.place.command(&["chat"]).stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
    let mut terminal = std::fs::File::from(master);
    terminal.write_all(b"hang\n").unwrap();
    wait_for(|| !daemon.agent.submitted.lock().unwrap().is_empty());
    // Control and D.
    terminal.write_all(b"\x04").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut shown = Vec::new();
    // The end of the last program is an error of the terminal.
    let _ = terminal.read_to_end(&mut shown);
    let shown = String::from_utf8_lossy(&shown);
    let work = std::fs::canonicalize(daemon.place.home.join("work")).unwrap();
    assert!(shown.contains(&format!("The agent works in {}. /help", work.display())), "{shown}");
    assert!(shown.contains("(the daemon goes on with what was asked)"), "{shown}");
    assert!(daemon.agent.asked.lock().unwrap().is_empty(), "nothing was cancelled");
}

#[test]
fn who_watches_the_status_sees_the_daemon_go_and_come() {
    let place = Place::new();
    let mut child = place.command(&["status", "--watch"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let shown = lines.map(Result::unwrap).filter(|line| line == "daemon: stopped").take(2).count();
    assert_eq!(shown, 2, "it goes on");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_chat_from_a_pipe_takes_one_line_after_the_other() {
    let daemon = EchoDaemon::start();
    let ran = daemon.place.feed(&["chat", "--new"], "hello\n\ntools\ntwo \\\nlines");
    assert_eq!(
        ran.out.replace("12 ms, 3 tokens in, 3 out, $0.5000", "."),
        "hello\n-- .\n* Bash: ls\n  failed: denied\ndone\n-- 12 ms, 1 tool call, 3 tokens in, 3 out, $0.5000\ntwo \nlines\n-- .\n"
            .replace("12 ms, 3 tokens in, 3 out, $0.5000", ".")
    );
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let sent = daemon.agent.submitted.lock().unwrap();
    assert_eq!(sent.iter().map(|s| s.new).collect::<Vec<_>>(), [true, false, false]);
}

#[test]
fn a_chat_from_a_pipe_fails_if_any_message_failed() {
    let daemon = EchoDaemon::start();
    let ran = daemon.place.feed(&["chat"], "fail\nhello\n/quit\nnever\n");
    assert!(ran.out.starts_with("not logged in (err_1)\n-- ") && ran.out.contains("hello\n"), "{}", ran.out);
    assert_eq!(daemon.agent.submitted.lock().unwrap().len(), 2);
    let ran = daemon.place.feed(&["chat"], "hello\nfail\n");
    assert_eq!(ran.code, Some(1));
}

#[test]
fn an_agent_cannot_steer_the_terminal_through_chat() {
    let daemon = EchoDaemon::start();
    let ran = daemon.place.feed(&["chat"], "rude\n");
    assert!(ran.out.starts_with("^[[2Jx\n"), "{:?}", ran.out);
    // Another program gets the reply as it is.
    assert_eq!(daemon.place.run(&["send", "rude"]).out, "\u{1b}[2Jx\n");
}

#[test]
fn status_sessions_and_cancel() {
    let daemon = EchoDaemon::start();
    let ran = daemon.place.run(&["status"]);
    assert!(ran.out.contains("pid 7 (0.1.0)") && ran.out.contains("turn-7"), "{}", ran.out);
    let status: Value = serde_json::from_str(&daemon.place.run(&["status", "--json"]).out).unwrap();
    assert_eq!(status["turns"][0]["conversation"], "c7");
    assert!(daemon.place.run(&["sessions"]).out.contains("k1"));
    assert_eq!(daemon.place.run(&["sessions", "reset", "k1"]).out, "1 session forgotten\n");
    assert_eq!(daemon.place.run(&["sessions", "reset", "k2"]).code, Some(1));
    assert_eq!(daemon.place.run(&["sessions", "reset", "--all"]).out, "3 sessions forgotten\n");

    let here = directory_conversation(&daemon.place.home.join("work"));
    assert_eq!(daemon.place.run(&["cancel"]).out, "2 messages cancelled\n");
    assert_eq!(daemon.place.run(&["cancel", "--conversation", "idle"]).code, Some(1));
    assert_eq!(daemon.place.run(&["cancel", "--agent", "a1"]).code, Some(0));
    assert_eq!(daemon.place.run(&["cancel", "turn-7"]).code, Some(0));
    assert_eq!(daemon.place.run(&["cancel", "m1"]).code, Some(1));
    assert_eq!(daemon.place.run(&["cancel", "m1", "--agent", "a"]).code, Some(2));
    let asked = daemon.agent.asked.lock().unwrap().clone();
    assert_eq!(
        asked,
        [
            format!("cancel /{here}"),
            "cancel /idle".into(),
            "cancel a1/c7".into(),
            "cancel a1/c7".into(),
            "cancel m1".into()
        ]
    );
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let place = Place::new();
    place.write("logs/daemon.log", &"a line of the log\n".repeat(20_000));
    let mut child =
        place.command(&["logs", "-n", "20000"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(place.run(&["logs", "-n3"]).out, "a line of the log\n".repeat(3));
}

#[test]
fn stop_signals_the_holder_of_the_lock_and_nobody_else() {
    let place = Place::new();
    // The number in the pid file is that of an innocent process: this one.
    place.write("daemon/daemon.pid", &std::process::id().to_string());
    assert_eq!(place.run(&["stop"]).code, Some(1));

    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hold_the_lock", "--ignored", "--nocapture"])
        .env("BELLHOP_TEST_HOME", &place.home)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(|| matches!(HomeLock::holder(&place.home.join("daemon")), Ok(Some(_))));
    let ran = place.run(&["start"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains(&format!("already running (pid {})", holder.id())), "{}", ran.err);
    let ran = place.run(&["doctor"]);
    assert!(ran.out.contains("holds the lock but does not answer"), "{}", ran.out);
    // It ends only when somebody collects it, as a supervisor would.
    let pid = holder.id();
    let reaper = std::thread::spawn(move || holder.wait().unwrap());
    let ran = place.run(&["stop", "--wait"]);
    assert_eq!((ran.code, ran.out), (Some(0), format!("sent SIGTERM to {pid}\n")), "{}", ran.err);
    assert!(!reaper.join().unwrap().success());
}

/// Not a test: another one starts this process again to have somebody who holds the lock.
#[test]
#[ignore = "plays a daemon for another test"]
fn hold_the_lock() {
    let Some(home) = std::env::var_os("BELLHOP_TEST_HOME") else { return };
    let _lock = HomeLock::acquire(&std::path::Path::new(&home).join("daemon"), "a test").unwrap();
    std::thread::sleep(Duration::from_mins(1));
}

fn wait_for(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "it did not happen within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}
