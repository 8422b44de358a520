//! A home of the real program, and the program on it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use bellhop::link::botcord_control::enter::{Entered, Said, Wish, log_in};
use bellhop::store::RealDisk;
use serde_json::Value;

use crate::hub_control::ControlHub;
use crate::support::temp_dir::TempDir;

/// A home without anything in it.
pub struct Home {
    pub dir: TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self { dir: TempDir::new("login") }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join("bh")
    }

    pub fn daemon(&self) -> PathBuf {
        self.root().join("daemon")
    }

    pub fn login(&self) -> Value {
        serde_json::from_slice(&fs::read(self.daemon().join("user-auth.json")).unwrap()).unwrap()
    }

    pub fn flag(&self) -> PathBuf {
        self.daemon().join("auth-expired.flag")
    }

    pub fn set_flag(&self) {
        fs::write(self.flag(), "{}").unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellhop"));
        command.env_clear().env("HOME", self.dir.path()).env("PATH", "/usr/bin:/bin").env("BELLHOP_HOME", self.root());
        command.args(args).stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(&self.command(args).output().unwrap())
    }

    /// Starts a daemon in the background.
    pub fn start(&self, args: &[&str]) -> Ran {
        self.run(&[&["start", "-d"], args].concat())
    }

    /// Logs in within this process, as at a terminal; what was said.
    pub fn enter(&self, wish: &Wish, told: &mut dyn FnMut(Said<'_>)) -> Result<Entered, String> {
        fs::create_dir_all(self.daemon()).unwrap();
        log_in(&self.daemon(), &RealDisk, wish, told)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.root().join("logs/daemon.log")).unwrap_or_default());
        }
        if self.daemon().join("daemon.lock").exists() {
            self.run(&["stop", "--wait"]);
        }
    }
}

#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// A home with a login whose access token ends so soon.
pub fn logged_in(hub: &ControlHub, left_ms: i64) -> (Home, String) {
    let home = Home::new();
    let instance = hub.log_in(&home.root());
    let mut login = home.login();
    login["expiresAt"] = (jiff::Timestamp::now().as_millisecond() + left_ms).into();
    fs::write(home.daemon().join("user-auth.json"), login.to_string()).unwrap();
    (home, instance)
}
