//! A hub, a home, and a daemon on it that can be told at which change of the disk it dies.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::hub_control::frames::wait_ack;
use crate::hub_control::{ControlHub, Frame};
use crate::support::temp_dir::TempDir;

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Everything goes when it is dropped.
pub struct Place {
    pub dir: TempDir,
    pub hub: ControlHub,
    pub instance: String,
    daemon: Option<Child>,
    number: usize,
}

/// Whether a daemon lives to write down that it is revoked.
fn stays(daemon: &mut Child, flag: &Path) -> bool {
    while !flag.exists() {
        if daemon.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// What became of a frame.
pub struct Told {
    /// The answer, if the hub got one.
    pub ack: Option<Value>,
    /// The daemon has died.
    pub killed: bool,
}

impl Place {
    pub fn new(name: &str, config: &Value) -> Self {
        let (dir, hub) = (TempDir::new(name), ControlHub::start());
        let instance = hub.log_in(&dir.join("bh"));
        let place = Self { dir, hub, instance, daemon: None, number: 0 };
        fs::create_dir_all(place.dir.join("runs")).unwrap();
        let program = place.dir.join("claude");
        fs::write(&program, include_str!("../cloud/agent.sh")).unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        place.write_config(config);
        place
    }

    /// Something in the home of the daemon.
    pub fn home(&self, name: &str) -> PathBuf {
        self.dir.join("bh").join(name)
    }

    pub fn write_config(&self, config: &Value) {
        let path = self.home("daemon/config.json");
        fs::write(&path, config.to_string()).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// A file of the home; one that is there has to be whole.
    pub fn json(&self, name: &str) -> Value {
        match fs::read(self.home(name)) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{name} is torn: {e}")),
            Err(_) => Value::Null,
        }
    }

    fn mark(&self) -> PathBuf {
        self.dir.join("die")
    }

    /// Starts the daemon, and waits until it answers the hub.
    pub fn start(&mut self) {
        self.spawn();
        self.hub.wait_online(&self.instance);
        assert_eq!(self.done("ping", json!({}))["pong"], true);
    }

    /// Ends it.
    pub fn end(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// Starts the daemon.
    pub fn spawn(&mut self) {
        self.hub.wait_offline(&self.instance);
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellhop"));
        command
            .args(["start", "--foreground"])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("BELLHOP_HOME", self.home(""))
            .env("BELLHOP_CLAUDE_BIN", self.dir.join("claude"))
            .env("RUNS", self.dir.join("runs"))
            .env("GO", self.dir.join("go"))
            .env("BELLHOP_TEST_DIE", self.mark())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.daemon = Some(command.spawn().unwrap());
    }

    /// The result of a frame that is carried out.
    #[track_caller]
    pub fn done(&self, kind: &str, params: Value) -> Value {
        let ack = self.hub.send(&self.instance, kind, params).ack();
        assert_eq!(ack["ok"], true, "{kind}: {ack}");
        ack["result"].clone()
    }

    /// A name for a frame that is sent twice.
    pub fn frame_id(&mut self) -> String {
        self.number += 1;
        format!("frame-{}", self.number)
    }

    /// Sends a frame to a daemon that dies before the `nth` change of the disk from now on.
    pub fn told(&mut self, id: &str, kind: &str, params: &Value, nth: usize) -> Told {
        let new = self.dir.join("die.new");
        fs::write(&new, nth.to_string()).unwrap();
        fs::rename(new, self.mark()).unwrap();
        let pending = self.hub.send_frame(&self.instance, &Self::frame(id, kind, params));
        let ack = wait_ack(&pending.shared, id, LIMIT);
        let (flag, mark) = (self.home("daemon/auth-expired.flag"), self.mark());
        let daemon = self.daemon.as_mut().expect("it was started");
        // One that the hub has revoked lives and says nothing more; its last steps follow the answer.
        let stays = kind == "revoke" && ack.is_some() && stays(daemon, &flag);
        let _ = fs::remove_file(mark);
        // An answer may be the last thing it said.
        let ping = ack.is_some().then(|| self.hub.try_send(&self.instance, &Frame::new("ping", json!({})))).flatten();
        let alive = stays || ping.is_some_and(|ping| wait_ack(&ping.shared, &ping.id, LIMIT).is_some());
        if !alive {
            let status = daemon.wait().unwrap();
            self.daemon = None;
            assert_eq!(status.signal(), Some(9), "it died of something else: {status}\n{}", self.log());
        }
        Told { ack, killed: !alive }
    }

    /// The same frame once more, as the hub repeats it.
    pub fn again(&self, id: &str, kind: &str, params: &Value) -> Value {
        self.hub.send_frame(&self.instance, &Self::frame(id, kind, params)).ack()
    }

    fn frame(id: &str, kind: &str, params: &Value) -> Frame {
        Frame { id: Some(id.to_owned()), ..Frame::new(kind, params.clone()) }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.home("logs/daemon.log")).unwrap_or_default()
    }

    /// Names below a directory of the home, sorted, without the halves of files that a kill has left.
    pub fn names(&self, dir: &str) -> Vec<String> {
        fn collect(root: &Path, dir: &Path, into: &mut Vec<String>) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() && !path.is_symlink() {
                    collect(root, &path, into);
                } else if path.extension().is_none_or(|end| end != "tmp") {
                    into.push(path.strip_prefix(root).unwrap().display().to_string());
                }
            }
        }
        let mut names = Vec::new();
        collect(&self.home(dir), &self.home(dir), &mut names);
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        self.end();
    }
}
