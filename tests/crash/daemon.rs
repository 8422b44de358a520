//! A home with a fake CLI, and the daemon on it as a process of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bellhop::serve::client::{Client, ClientLimits};
use bellhop::serve::socket;
use bellhop::serve::wire::{MessageState, State, Submit};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::child::eventually;
use crate::support::temp_dir::TempDir;

const CONFIG: &str = r#"{
    "local": {"agents": [{"name": "local", "runtime": "claude-code"}]},
    "maxConcurrentTurns": 12,
    "killLeftovers": true
}"#;

/// A home with its configuration; the daemons on it are counted as lives.
pub struct Home {
    dir: TempDir,
    lives: AtomicU32,
}

impl Home {
    pub fn new(name: &str) -> Self {
        let dir = TempDir::new(name);
        for below in ["bin", "home/daemon"] {
            fs::create_dir_all(dir.join(below)).unwrap();
        }
        let home = Self { dir, lives: AtomicU32::new(0) };
        home.program("claude", include_str!("claude.sh"));
        fs::write(home.join("daemon/config.json"), CONFIG).unwrap();
        home
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join("home")
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Puts a program beside the CLI.
    pub fn program(&self, name: &str, text: &str) {
        let path = self.dir.join("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Lets everything that waits go on.
    pub fn go(&self) {
        fs::write(self.dir.join("go"), "").unwrap();
    }

    /// What the CLI has written down.
    pub fn ledger(&self) -> String {
        fs::read_to_string(self.dir.join("ledger")).unwrap_or_default()
    }

    /// How often the CLI has begun to work on a message.
    pub fn runs(&self, id: &str) -> usize {
        self.ledger().lines().filter(|l| l.starts_with("start ") && l.split(' ').nth(3) == Some(id)).count()
    }

    /// Number of the daemon that was started last, from 1.
    pub fn life(&self) -> u32 {
        self.lives.load(Ordering::SeqCst)
    }

    pub fn command(&self) -> Command {
        let life = self.lives.fetch_add(1, Ordering::SeqCst) + 1;
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellhop"));
        command
            .args(["start", "--foreground", "--home"])
            .arg(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("BELLHOP_CLAUDE_BIN", self.dir.join("bin/claude"))
            .env("LEDGER", self.dir.join("ledger"))
            .env("GO", self.dir.join("go"))
            .env("LIFE", life.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Starts a daemon without waiting for it.
    pub fn spawn(&self) -> Daemon<'_> {
        Daemon { child: self.command().spawn().unwrap(), home: self }
    }

    /// Starts a daemon and waits until it answers.
    pub fn start(&self) -> Daemon<'_> {
        let mut daemon = self.spawn();
        daemon.wait_ready();
        daemon
    }

    /// A client that does not wait for a daemon that is gone.
    pub fn client(&self) -> Option<Client> {
        let limits = ClientLimits { patience: Duration::ZERO, ..ClientLimits::default() };
        Client::with_limits(&socket::path(&self.path()), limits).ok()
    }

    /// Processes of turns of this home that live.
    pub fn processes(&self) -> Vec<i32> {
        let home = format!("BELLHOP_HOME={}", self.path().display());
        let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &i32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let vars: Vec<&[u8]> = environ.split(|b| *b == 0).collect();
            vars.contains(&home.as_bytes()) && vars.iter().any(|v| v.starts_with(b"BELLHOP_TURN="))
        })
        .collect()
    }

    /// All records of all transcripts.
    pub fn transcript(&self) -> Vec<serde_json::Value> {
        fn collect(dir: &Path, into: &mut Vec<serde_json::Value>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    collect(&path, into);
                } else if path.extension().is_some_and(|e| e == "jsonl") {
                    let text = fs::read_to_string(&path).unwrap();
                    // A kill may leave half a line.
                    into.extend(text.lines().filter_map(|line| serde_json::from_str(line).ok()));
                }
            }
        }
        let mut records = Vec::new();
        collect(&self.join("agents"), &mut records);
        records
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.join("logs/daemon.log")).unwrap_or_default()
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon<'a> {
    pub child: Child,
    home: &'a Home,
}

impl Daemon<'_> {
    fn wait_ready(&mut self) {
        let end = Instant::now() + Duration::from_secs(30);
        let mut retries = 3;
        while self.home.client().is_none() {
            if let Some(status) = self.child.try_wait().unwrap() {
                // A child that the killed one was just starting may hold its lock for a moment more.
                assert!(status.code() == Some(1) && retries > 0, "the daemon ended: {status}\n{}", self.home.log());
                retries -= 1;
                std::thread::sleep(Duration::from_millis(200));
                self.child = self.home.command().spawn().unwrap();
            }
            assert!(Instant::now() < end, "the daemon never answered");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn client(&self) -> Client {
        self.home.client().expect("it listens")
    }

    /// Hands in `job <id> <kind>` in the conversation named like the message.
    pub fn submit(&self, id: &str, kind: &str) {
        self.submit_with(Submit { conversation: Some(format!("c-{id}")), ..job(id, kind) });
    }

    pub fn submit_with(&self, message: Submit) {
        let accepted = self.client().submit(&message).unwrap();
        assert_eq!(Some(&accepted.id), message.id.as_ref());
    }

    pub fn state(&self, id: &str) -> MessageState {
        self.client().message(id).unwrap()
    }

    pub fn wait_done(&self, id: &str) -> MessageState {
        eventually(&format!("{id} is done"), || self.state(id).state == State::Done);
        self.state(id)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub fn ended(mut self) -> ExitStatus {
        let mut status = None;
        eventually("the daemon ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// SIGTERM, and its end.
    pub fn stop(self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// SIGKILL, and its end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A test that fails leaves no process behind.
        if std::thread::panicking() {
            for pid in self.home.processes() {
                let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
            }
        }
    }
}

/// A message for the fake CLI.
pub fn job(id: &str, kind: &str) -> Submit {
    Submit { id: Some(id.into()), text: format!("job {id} {kind}"), ..Submit::default() }
}
