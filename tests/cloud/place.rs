//! A sandbox with a fake CLI in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::hub::{AgentHandle, Hub};
use crate::hub_control::ControlHub;
use crate::hub_control::frames::wait_ack;
use crate::support::temp_dir::TempDir;

/// How long anything may take.
const LIMIT: Duration = Duration::from_mins(1);

/// A machine; everything goes when it is dropped.
pub struct Sandbox {
    dir: TempDir,
}

impl Sandbox {
    pub fn new(name: &str) -> Self {
        let sandbox = Self { dir: TempDir::new(name) };
        fs::create_dir_all(sandbox.dir.join("runs")).unwrap();
        let program = sandbox.dir.join("claude");
        fs::write(&program, include_str!("agent.sh")).unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        sandbox
    }

    /// The home of the user.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Something in the home of the daemon.
    pub fn home(&self, name: &str) -> PathBuf {
        self.dir.join("bh").join(name)
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.home(name)).unwrap()).unwrap()
    }

    /// Lets every run that waits go on.
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
        fs::read_to_string(self.home("logs/daemon.log")).unwrap_or_default()
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

    /// The program with the environment of a launch.
    pub fn command(&self, launch: &[(String, String)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellhop"));
        command
            .args(["start", "--foreground"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("BELLHOP_HOME", self.dir.join("bh"))
            .env("BELLHOP_CLAUDE_BIN", self.dir.join("claude"))
            .env("RUNS", self.dir.join("runs"))
            .env("GO", self.dir.join("go"))
            .envs(launch.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    pub fn start(&self, launch: &[(String, String)]) -> Daemon<'_> {
        Daemon { child: self.command(launch).spawn().unwrap(), sandbox: self }
    }
}

/// A daemon; killed when dropped.
pub struct Daemon<'a> {
    pub child: Child,
    sandbox: &'a Sandbox,
}

impl Daemon<'_> {
    pub fn wait_end(&mut self) -> ExitStatus {
        self.sandbox.wait_for("the daemon ends", || self.child.try_wait().unwrap())
    }

    pub fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert_eq!(self.wait_end().code(), Some(0));
    }

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

/// What the control side provisions for an agent of the hub.
pub fn params(hub: &Hub, agent: &AgentHandle) -> Value {
    let mut credentials = hub.credentials(agent);
    credentials["runtime"] = "claude-code".into();
    json!({"credentials": credentials})
}

/// Both sides of a hub, and a sandbox of it that is to have one agent.
pub struct Cloud {
    pub hub: Hub,
    pub control: ControlHub,
    pub agent: AgentHandle,
    pub instance: String,
    pub launch: Vec<(String, String)>,
    pub sandbox: Sandbox,
}

impl Cloud {
    pub fn new(name: &str) -> Self {
        let (hub, control) = (Hub::start(), ControlHub::start());
        let agent = hub.agent("Ada");
        let (instance, launch) = control.launch(None);
        let wanted = (agent.id.clone(), params(&hub, &agent));
        control.instance(&instance, |instance| instance.provision.extend([wanted]));
        Self { hub, control, agent, instance, launch, sandbox: Sandbox::new(name) }
    }

    /// Starts the daemon and waits until its agent is there.
    pub fn start(&self) -> Daemon<'_> {
        // What the one before it left of its connection is gone first.
        self.control.wait_offline(&self.instance);
        let daemon = self.sandbox.start(&self.launch);
        self.wait_agent();
        daemon
    }

    /// Waits until the agent has been put there by this connection, or was there.
    pub fn wait_agent(&self) {
        self.sandbox.wait_for("the agent", || {
            self.control.wait_online(&self.instance);
            // The connection may be that of a daemon that is about to be gone.
            let asked = self.control.send(&self.instance, "list_agents", json!({}));
            let ack = wait_ack(&asked.shared, &asked.id, Duration::from_secs(10))?;
            let agents = ack["result"]["agents"].as_array()?.clone();
            agents.iter().any(|agent| agent["id"] == self.agent.id.as_str() && agent["online"] == true).then_some(())
        });
    }

    /// Settlements that the hub has.
    pub fn usage(&self) -> Vec<Value> {
        self.control.world(|world| world.usage.values().cloned().collect())
    }

    /// Statuses of the answers to settlements so far; 0: none was given.
    pub fn settle_statuses(&self) -> Vec<u16> {
        self.control.requests("/settle").iter().map(|row| row.status).collect()
    }
}
