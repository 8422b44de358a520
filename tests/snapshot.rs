//! The daemon's snapshot file: there while it runs, gone after a clean end.

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use support::engine::{PATIENCE, TempDir};

/// Ends the daemon with the test, whatever comes of it.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn snapshot(file: &Path) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()
}

#[test]
fn the_snapshot_shows_what_goes_on_and_goes_with_the_daemon() {
    let home = TempDir::new("snapshot");
    let program = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellhop"));
        command
            .args(args)
            .env("BELLHOP_HOME", &home.0)
            .env("PATH", "/nonexistent")
            .env("BOTCORD_DAEMON_SNAPSHOT_INTERVAL_MS", "20")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let mut daemon = Daemon(program(&["start", "--foreground"]).spawn().unwrap());
    let file = home.0.join("daemon/snapshot.json");
    let first = wait_for("the snapshot", || snapshot(&file));
    assert_eq!(first["version"], 1);
    assert!(first["writtenAt"].is_number());
    for part in ["channels", "turns", "runtimeCircuitBreakers", "queues"] {
        assert_eq!(first["snapshot"][part], serde_json::json!({}), "{part}");
    }
    assert_eq!(first["snapshot"]["journal"]["writable"], true);

    // It is written again because something changes, and in the end shows no turn.
    wait_for("the socket", || program(&["status"]).status().unwrap().success().then_some(()));
    assert!(program(&["send", "hello"]).status().unwrap().success());
    wait_for("a newer one", || {
        let newer = snapshot(&file)?;
        let idle = newer["snapshot"]["turns"] == serde_json::json!({});
        (newer["writtenAt"] != first["writtenAt"] && idle).then_some(())
    });

    assert!(program(&["stop"]).status().unwrap().success());
    assert!(wait_for("the end", || daemon.0.try_wait().unwrap()).success());
    assert!(!file.exists());
}
