//! Transcripts as files: what the writer leaves on the disk, and what the command line reads from it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bellhop::engine::ports::FailureSummary;
use bellhop::engine::transcript::{
    self, Body, DropReason, ErrorSelector, FILE_LIMIT, FailureFacts, Follow, RETENTION, Record, RuntimeFailure,
    TurnErrorPhase, Writer,
};
use bellhop::message::Inbound;

/// A directory of agents' homes, removed at the end.
struct Agents(PathBuf);

impl Agents {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("bellhop-transcripts-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn writer(&self) -> Writer {
        Writer::new(self.0.clone(), true)
    }

    fn names(&self, room: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("ag_1/transcripts").join(room)).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        // A sweep may be looking at it; what it holds up is a temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn message(room: &str, topic: Option<&str>, text: &str) -> Inbound {
    serde_json::from_value(serde_json::json!({
        "id": "h_1", "channel": "ag_1", "accountId": "ag_1", "receivedAt": 0, "text": text,
        "conversation": {"id": room, "kind": "group", "threadId": topic}, "sender": {"id": "hu_1", "kind": "user"},
    }))
    .unwrap()
}

fn inbound(room: &str, topic: Option<&str>, text: &str) -> Record {
    let message = message(room, topic, text);
    Record::new(1_767_225_600_000, "t1", &message, Body::inbound(&message))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn records_are_appended_to_private_files() {
    let agents = Agents::new();
    let writer = agents.writer();
    writer.append(&inbound("rm_1", None, "one"));
    writer.append(&inbound("rm_1", Some("tp/1"), "two"));
    writer.append(&inbound("rm_1", None, "three"));

    let file = transcript::file(&agents.0, "ag_1", "rm_1", None);
    assert_eq!(lines(&file).len(), 2);
    assert_eq!(agents.names("rm_1"), ["_default.jsonl", "tp%2F1.jsonl"]);
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    assert_eq!(mode(&agents.0.join("ag_1/transcripts")), 0o700);

    let rooms = transcript::list(&agents.0, "ag_1").unwrap();
    assert_eq!(rooms.len(), 1);
    assert_eq!(rooms[0].room_id, "rm_1");
    let topics: Vec<Option<&str>> = rooms[0].topics.iter().map(|t| t.topic_id.as_deref()).collect();
    assert_eq!(topics, [None, Some("tp/1")]);
    assert!(transcript::list(&agents.0, "ag_2").unwrap().is_empty());
}

#[test]
fn a_disabled_writer_leaves_nothing() {
    let agents = Agents::new();
    Writer::new(agents.0.clone(), false).append(&inbound("rm_1", None, "x"));
    assert_eq!(fs::read_dir(&agents.0).unwrap().count(), 0);
}

#[test]
fn ids_that_share_a_name_get_files_of_their_own() {
    let agents = Agents::new();
    let writer = agents.writer();
    for (room, topic) in [("a/b", None), ("a%2Fb", None), ("rm", Some("_default")), ("rm", None)] {
        writer.append(&inbound(room, topic, room));
    }
    // Another writer, which has nothing open, decides the same.
    let again = agents.writer();
    for (room, topic) in [("a/b", None), ("a%2Fb", None), ("rm", Some("_default")), ("rm", None)] {
        again.append(&inbound(room, topic, room));
        let file = transcript::locate(&agents.0, "ag_1", room, topic);
        assert_eq!(lines(&file).len(), 2, "{}", file.display());
    }
    assert_eq!(agents.names(""), ["a%2Fb", "a%2Fb_771723a6", "rm"]);
}

#[test]
fn a_full_file_is_rotated_and_none_is_overwritten() {
    let agents = Agents::new();
    let writer = agents.writer();
    let file = transcript::file(&agents.0, "ag_1", "rm_1", None);
    for round in 0..4 {
        writer.append(&inbound("rm_1", None, &format!("first of {round}")));
        let mut active = fs::OpenOptions::new().append(true).open(&file).unwrap();
        let padding = vec![b' '; usize::try_from(FILE_LIMIT).unwrap() - 300];
        active.write_all(&padding).unwrap();
        active.write_all(b"\n").unwrap();
    }
    writer.append(&inbound("rm_1", None, "last"));

    let names = agents.names("rm_1");
    assert_eq!(names.iter().filter(|n| transcript::is_rotated(n)).count(), 4, "{names:?}");
    assert_eq!(lines(&file).len(), 1);
    assert!(lines(&file)[0].contains("last"));
    let rooms = transcript::list(&agents.0, "ag_1").unwrap();
    assert_eq!(rooms[0].topics.len(), 1);
    assert_eq!(rooms[0].topics[0].rotated, 4);

    assert!(transcript::prune(&agents.0, "ag_1", Some(SystemTime::UNIX_EPOCH)).unwrap().is_empty());
    assert_eq!(transcript::prune(&agents.0, "ag_1", None).unwrap().len(), 4);
    assert_eq!(agents.names("rm_1"), ["_default.jsonl"]);
    assert!(transcript::prune_all(&agents.0, "ag_1").unwrap());
    assert!(!file.exists());
}

#[test]
fn half_a_line_does_not_spoil_the_next() {
    let agents = Agents::new();
    agents.writer().append(&inbound("rm_1", None, "one"));
    let file = transcript::file(&agents.0, "ag_1", "rm_1", None);
    fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(b"{\"torn").unwrap();
    agents.writer().append(&inbound("rm_1", None, "two"));
    let lines = lines(&file);
    assert_eq!(lines.len(), 3);
    assert!(lines[2].contains("two"));
}

#[test]
fn links_are_not_followed() {
    let agents = Agents::new();
    let elsewhere = Agents::new();
    let target = elsewhere.0.join("target");
    fs::write(&target, "untouched\n").unwrap();
    let file = transcript::file(&agents.0, "ag_1", "rm_1", None);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    symlink(&target, &file).unwrap();
    symlink(&elsewhere.0, agents.0.join("ag_1/transcripts/rm_2")).unwrap();

    let writer = agents.writer();
    writer.append(&inbound("rm_1", None, "x"));
    writer.append(&inbound("rm_2", None, "x"));
    writer.append(&inbound("rm_3", None, "x"));
    assert_eq!(fs::read_to_string(&target).unwrap(), "untouched\n");
    assert_eq!(fs::read_dir(&elsewhere.0).unwrap().count(), 1);
    assert!(transcript::tail(&file, 1).is_err());
    assert_eq!(agents.names("rm_3").len(), 1, "a failure does not stop the rest");
}

#[test]
fn a_deleted_file_is_made_anew() {
    let agents = Agents::new();
    let writer = agents.writer();
    writer.append(&inbound("rm_1", None, "one"));
    let file = transcript::file(&agents.0, "ag_1", "rm_1", None);
    fs::remove_file(&file).unwrap();
    writer.append(&inbound("rm_1", None, "two"));
    assert_eq!(lines(&file).len(), 1);
}

#[test]
fn many_conversations_do_not_mean_many_open_files() {
    let agents = Agents::new();
    let writer = agents.writer();
    for _ in 0..2 {
        for n in 0..80 {
            writer.append(&inbound(&format!("rm_{n}"), None, "x"));
        }
    }
    for n in 0..80 {
        assert_eq!(lines(&transcript::file(&agents.0, "ag_1", &format!("rm_{n}"), None)).len(), 2);
    }
    let own = format!("{}/ag_1", agents.0.display());
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten().filter(|fd| {
        fs::read_link(fd.path()).is_ok_and(|p| p.starts_with(&own) && p.extension().is_some_and(|e| e == "jsonl"))
    });
    // The sweep of the first write may be looking at one more.
    assert!(open.count() <= 33);
}

#[test]
fn old_files_are_swept_except_those_of_running_turns() {
    let agents = Agents::new();
    let writer = agents.writer();
    let age = |room: &str| {
        let file = transcript::file(&agents.0, "ag_1", room, None);
        let old = SystemTime::now() - RETENTION - Duration::from_mins(1);
        fs::File::options().append(true).open(&file).unwrap().set_modified(old).unwrap();
        file
    };
    // The writer looks for old files itself at its first write, when there are none yet.
    for (room, turn, dispatched) in [("rm_old", "t1", false), ("rm_busy", "t2", true), ("rm_done", "t3", true)] {
        let message = message(room, None, "x");
        let body = if dispatched { Body::dispatched("x", "echo", Vec::new()) } else { Body::inbound(&message) };
        writer.append(&Record::new(0, turn, &message, body));
    }
    let done = message("rm_done", None, "x");
    let dropped = Body::Dropped { reason: DropReason::QueueCancelPrevious, superseded_by: None };
    writer.append(&Record::new(0, "t3", &done, dropped));
    writer.append(&inbound("rm_new", None, "x"));
    let (old, busy, done) = (age("rm_old"), age("rm_busy"), age("rm_done"));

    writer.sweep(SystemTime::now());
    assert!(!old.exists() && !done.exists() && busy.exists());
    assert!(!old.parent().unwrap().exists(), "an empty directory goes with its files");
    assert!(transcript::file(&agents.0, "ag_1", "rm_new", None).exists());

    writer.append(&inbound("rm_old", None, "again"));
    assert_eq!(lines(&old).len(), 1);
}

#[test]
fn the_end_is_shown_and_followed_across_a_rotation() {
    let agents = Agents::new();
    let path = agents.0.join("f.jsonl");
    assert!(transcript::tail(&path, 1).is_err());
    let long = "é".repeat(50_000);
    fs::write(&path, format!("1\n2\n{long}\n4\ntorn")).unwrap();
    assert_eq!(transcript::tail(&path, 2).unwrap(), [long.as_str(), "4"]);
    assert_eq!(transcript::tail(&path, 9).unwrap(), ["1", "2", &long, "4"]);
    assert_eq!(transcript::tail(&path, 0).unwrap(), [""; 0]);

    let (shown, mut follow) = Follow::new(path.clone(), 1).unwrap();
    assert_eq!(shown, ["4"]);
    assert!(follow.lines().unwrap().is_empty());
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b" no more\n6\n").unwrap();
    fs::rename(&path, agents.0.join("f.20260101-000000.jsonl")).unwrap();
    fs::write(&path, "7\n8").unwrap();
    assert_eq!(follow.lines().unwrap(), ["torn no more", "6", "7"]);
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\n").unwrap();
    assert_eq!(follow.lines().unwrap(), ["8"]);
}

#[test]
fn a_failure_is_found_by_its_reference_or_turn() {
    let agents = Agents::new();
    let writer = agents.writer();
    let message = message("rm_1", Some("tp"), "x");
    writer.append(&Record::new(0, "t1", &message, Body::inbound(&message)));
    let facts = FailureFacts {
        message: &message,
        turn_id: "t1",
        runtime: "codex",
        cwd: "/w",
        duration_ms: 1,
        error: "codex error (exit code 3)",
    };
    let summary = FailureSummary { stderr_tail: Some("password: x".to_owned()), ..FailureSummary::default() };
    let failure = RuntimeFailure::new(facts, &summary);
    let body = Body::turn_error(TurnErrorPhase::Runtime, "boom", 1, Some("codex"), Some(("err_1".to_owned(), failure)));
    writer.append(&Record::new(0, "t1", &message, body));

    let find = |topic, by| transcript::find_error(&agents.0, "ag_1", "rm_1", topic, by).unwrap();
    let found = find(None, ErrorSelector::Reference("err_1")).unwrap();
    assert_eq!(found.message, "boom");
    assert_eq!(found.failure.as_ref().unwrap().stderr_tail.as_deref(), Some("password: [REDACTED]"));
    assert_eq!(find(Some("tp"), ErrorSelector::Turn("t1")), Some(found));
    assert_eq!(find(None, ErrorSelector::Turn("t2")), None);
    assert_eq!(find(Some("other"), ErrorSelector::Turn("t1")), None);
    assert!(transcript::find_error(&agents.0, "ag_1", "rm_9", None, ErrorSelector::Turn("t1")).unwrap().is_none());
}
