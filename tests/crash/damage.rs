//! What a person, a tired disk or another program has done to the files: one clear line, a defined state, and no
//! accepted message lost.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::books;
use crate::daemon::Home;
use crate::support::child::eventually;

fn waiting(home: &Home, ids: &[&str]) {
    let daemon = home.start();
    for id in ids {
        daemon.submit(id, "wait");
    }
    eventually("all have begun", || ids.iter().all(|id| home.runs(id) == 1));
    daemon.kill();
    home.go();
}

fn answered(home: &Home, ids: &[&str]) {
    let daemon = home.start();
    for id in ids {
        daemon.wait_done(id);
    }
    assert!(daemon.stop().success());
    let answers = books::answers(home);
    for id in ids {
        assert_eq!(answers.replies.get(*id), Some(&1), "{id}");
    }
}

/// The line of the log that holds all these words; there is exactly one.
fn line(home: &Home, words: &[&str]) -> String {
    let log = home.log();
    let lines: Vec<&str> = log.lines().filter(|l| words.iter().all(|w| l.contains(w))).collect();
    assert_eq!(lines.len(), 1, "{words:?} in {log}");
    lines[0].to_owned()
}

/// Files in the daemon's directory, or one below it, whose name holds a word.
fn named(home: &Home, dir: &str, word: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.join("daemon").join(dir)).unwrap().flatten().map(|e| e.path());
    entries.filter(|p| p.file_name().unwrap().to_str().unwrap().contains(word)).collect()
}

/// A start that is expected to fail: its output.
fn refused(mut command: Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.stderr(Stdio::piped()).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn sessions_that_do_not_parse_are_set_aside() {
    let home = Home::new("bad-sessions");
    waiting(&home, &["a", "b"]);
    fs::write(home.join("daemon/sessions.json"), "{\"version\":1,\"entr").unwrap();
    answered(&home, &["a", "b"]);
    let kept = named(&home, "", "sessions.json.corrupt-");
    assert_eq!(kept.len(), 1);
    assert_eq!(fs::read_to_string(&kept[0]).unwrap(), "{\"version\":1,\"entr");
    assert!(line(&home, &["sessions.json", "moved to"]).contains(kept[0].file_name().unwrap().to_str().unwrap()));
    let sessions = fs::read_to_string(home.join("daemon/sessions.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&sessions).unwrap()["entries"].as_object().unwrap().len(), 2);
}

#[test]
fn a_bad_line_in_the_journal_costs_that_line_and_no_other() {
    let home = Home::new("bad-journal");
    waiting(&home, &["a", "b", "c"]);
    let segments = named(&home, "journal", ".ndjson");
    assert_eq!(segments.len(), 1);
    let text = fs::read_to_string(&segments[0]).unwrap();
    // The start of b's turn: b is accepted all the same, and runs again.
    let started = text.lines().filter(|l| l.contains("\"k\":\"started\"")).nth(1).unwrap();
    fs::write(&segments[0], text.replace(started, &started.replace("attempt", "at\u{0}empt"))).unwrap();
    answered(&home, &["a", "b", "c"]);
    assert_eq!(named(&home, "journal", "corrupt").len(), 1, "what was there is kept for people");
    line(&home, &["journal.bad_line", "offset="]);
    line(&home, &["journal.quarantined", "kept="]);
}

#[test]
fn an_end_that_was_cut_off_is_dropped() {
    let home = Home::new("torn-journal");
    waiting(&home, &["a"]);
    let segment = named(&home, "journal", ".ndjson").remove(0);
    let text = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, format!("{text}{{\"v\":1,\"t\":17")).unwrap();
    answered(&home, &["a"]);
    line(&home, &["journal.torn", "offset="]);
    assert!(named(&home, "journal", "corrupt").is_empty());
}

#[test]
fn a_configuration_that_is_no_json_starts_nothing() {
    let home = Home::new("bad-config");
    waiting(&home, &["a"]);
    let config = fs::read_to_string(home.join("daemon/config.json")).unwrap();
    fs::write(home.join("daemon/config.json"), "garbage\u{1}{").unwrap();
    let (code, said) = refused(home.command());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.lines().count() <= 2 && said.contains("config.json") && said.contains("not JSON"), "{said}");
    assert!(home.client().is_none());
    fs::write(home.join("daemon/config.json"), config).unwrap();
    answered(&home, &["a"]);
}

#[test]
fn a_home_that_is_taken_is_left_to_its_holder() {
    let home = Home::new("taken");
    let daemon = home.start();
    daemon.submit("a", "fast");
    daemon.wait_done("a");
    let (code, said) = refused(home.command());
    assert_eq!(code, Some(1), "{said}");
    let pid = daemon.child.id();
    assert!(said.lines().count() == 1 && said.contains(&format!("already running (pid {pid})")), "{said}");
    daemon.submit("b", "fast");
    daemon.wait_done("b");
    assert!(daemon.stop().success());
}

#[test]
fn a_lock_that_something_else_holds_is_respected() {
    let home = Home::new("locked");
    let file = fs::File::create(home.join("daemon/daemon.lock")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let (code, said) = refused(home.command());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.lines().count() == 1 && said.contains("already running"), "{said}");
    drop(file);
    assert!(home.start().stop().success());
}

#[test]
fn a_home_that_cannot_be_written_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new("read-only");
    let mut command = home.command();
    if rustix::process::geteuid().is_root() {
        // Root may write everywhere: the daemon is started as nobody, if this machine can do that.
        let can = Command::new("setpriv").args(["--reuid=65534", "--clear-groups", "true"]).output();
        if !can.is_ok_and(|o| o.status.success()) {
            println!("skipped: runs as root, and setpriv cannot change that");
            return;
        }
        let mut other = Command::new("setpriv");
        other.args(["--reuid=65534", "--clear-groups"]).arg(command.get_program()).args(command.get_args());
        other.env_clear().envs(command.get_envs().filter_map(|(k, v)| Some((k, v?)))).stdin(Stdio::null());
        command = other;
    } else {
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o500)).unwrap();
        fs::set_permissions(home.join("daemon"), fs::Permissions::from_mode(0o500)).unwrap();
    }
    let (code, said) = refused(command);
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(home.join("daemon"), fs::Permissions::from_mode(0o700)).unwrap();
    if said.contains("setpriv") {
        println!("skipped: another user cannot run the program from where it lies: {said}");
        return;
    }
    assert!(matches!(code, Some(1 | 2)), "{said}");
    assert!(said.lines().count() == 1 && said.contains(home.path().to_str().unwrap()), "{said}");
    assert!(home.start().stop().success());
}
