//! A home with a fake CLI and the daemon on it, as a process of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bellhop::serve::client::{Client, ClientLimits};
use bellhop::serve::socket;
use bellhop::serve::wire::DaemonStatus;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::hub::{AgentHandle, Hub};
use crate::support::temp_dir::TempDir;

/// How long anything may take.
const LIMIT: Duration = Duration::from_mins(1);

/// A home; everything goes when it is dropped.
pub struct Home {
    dir: TempDir,
}

impl Home {
    /// With a configuration that names the fake CLI; `more` are further keys.
    pub fn new(name: &str, more: &Value) -> Self {
        let home = Self { dir: TempDir::new(name) };
        for below in ["runs", "home/daemon"] {
            fs::create_dir_all(home.dir.join(below)).unwrap();
        }
        let program = home.dir.join("claude");
        fs::write(&program, include_str!("agent.sh")).unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut config = json!({"defaultRoute": {"adapter": "claude-code", "cwd": home.dir.path()}});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fs::write(home.path().join("daemon/config.json"), config.to_string()).unwrap();
        home
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// With the credentials of these agents.
    pub fn with(self, hub: &Hub, agents: &[&AgentHandle]) -> Self {
        for agent in agents {
            hub.write_credentials(agent, &self.path());
        }
        self
    }

    /// Lets everything that waits go on.
    pub fn go(&self) {
        fs::write(self.dir.join("go"), "").unwrap();
    }

    /// The prompts of all runs so far, in the order in which they began.
    pub fn runs(&self) -> Vec<String> {
        (1..).map_while(|n| fs::read_to_string(self.dir.join("runs").join(n.to_string())).ok()).collect()
    }

    pub fn wait_runs(&self, count: usize) -> Vec<String> {
        self.wait_for(&format!("{count} runs"), || Some(self.runs()).filter(|runs| runs.len() >= count))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path().join("logs/daemon.log")).unwrap_or_default()
    }

    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < end, "{what}: not within {LIMIT:?}; log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn wait_log(&self, text: &str) {
        self.wait_for(&format!("{text:?} in the log"), || self.log().contains(text).then_some(()));
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

    /// What a command prints.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a daemon and waits until it answers.
    pub fn start(&self) -> Daemon<'_> {
        let mut command = self.command(&["start", "--foreground"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let daemon = Daemon { child, home: self };
        self.wait_for("the daemon answers", || self.client());
        daemon
    }

    fn client(&self) -> Option<Client> {
        let limits = ClientLimits { patience: Duration::ZERO, ..ClientLimits::default() };
        Client::with_limits(&socket::path(&self.path()), limits).ok()
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon<'a> {
    child: Child,
    home: &'a Home,
}

impl Daemon<'_> {
    pub fn status(&self) -> DaemonStatus {
        self.home.wait_for("a status", || self.home.client()?.status().ok())
    }

    /// Waits until the channel of an agent is (not) up; returns what is said about it.
    pub fn wait_channel(&self, agent: &AgentHandle, up: bool) -> Option<String> {
        self.home.wait_for(&format!("{} is up: {up}", agent.name), || {
            let status = self.status();
            let channel = status.channels.into_iter().find(|c| c.id == agent.id)?;
            (channel.up == up).then_some(channel.detail)
        })
    }

    /// Has it read its configuration, and look for agents, once more.
    pub fn reload(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }

    /// SIGTERM, and its end.
    pub fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.home.wait_for("the daemon ends", || self.child.try_wait().unwrap());
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
    }
}
