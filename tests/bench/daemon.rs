//! A real daemon with a home of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bellhop::channel::local::DEFAULT_AGENT;
use bellhop::config::Home;
use bellhop::engine::ports::TurnStatus;
use bellhop::serve::client::Client;
use bellhop::serve::socket;
use bellhop::serve::wire::{Event, Shutdown, Submit};

use crate::Failure;

/// How long anything of a daemon is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory for homes that goes away with this.
pub struct Place(PathBuf);

impl Place {
    /// A fresh one in the system's place for temporary files.
    pub fn new() -> Result<Self, Failure> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("bellhop-bench-{}-{number}", std::process::id()));
        std::fs::create_dir_all(dir.join("user"))?;
        Ok(Self(dir))
    }

    /// Makes the directory that the CLI of the default agent works in.
    pub fn make_workspace(&self) -> Result<(), Failure> {
        let home = Home::at(self.join("home"))?;
        home.prepare()?;
        Ok(std::fs::create_dir_all(home.workspace(DEFAULT_AGENT))?)
    }

    /// Something in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    /// Its control socket.
    pub client: Client,
    /// From the start of the process to its first answer.
    pub ready_after: Duration,
}

impl Daemon {
    /// Starts one in `<place>/home`, and waits until it answers.
    pub fn start(place: &Place) -> Result<Self, Failure> {
        let binary = std::env::var_os("BELLHOP_BENCH_DAEMON").unwrap_or_else(|| env!("CARGO_BIN_EXE_bellhop").into());
        let home = place.join("home");
        let log = std::fs::File::options().create(true).append(true).open(place.join("daemon.log"))?;
        let began = Instant::now();
        let child = Command::new(binary)
            .arg("--home")
            .arg(&home)
            .arg("start")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
            .env("HOME", place.join("user"))
            .env("BELLHOP_CLAUDE_BIN", std::env::current_exe()?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut starting = Starting(Some(child));
        let client = wait_ready(&socket::path(&home), &mut starting, began)
            .map_err(|e| format!("{e}; its log:\n{}", tail(&place.join("daemon.log"))))?;
        let ready_after = began.elapsed();
        let child = starting.0.take().ok_or("the daemon is gone")?;
        Ok(Self { child, client, ready_after })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs one message to its end; an end that is not a reply is an error.
    pub fn turn(&self, message: &Submit) -> Result<(), Failure> {
        let accepted = self.client.submit(message)?;
        self.finish(&accepted.id)
    }

    /// Waits for the end of a message's turn.
    pub fn finish(&self, id: &str) -> Result<(), Failure> {
        for event in self.client.events(id)? {
            if let Event::Finished(report) = event? {
                return match report.status {
                    TurnStatus::Ok => Ok(()),
                    other => Err(format!("a turn ended with {other:?}: {:?}", report.error).into()),
                };
            }
        }
        Err("the events ended without an end".into())
    }

    /// Whether nothing runs and nothing waits.
    pub fn is_idle(&self) -> Result<bool, Failure> {
        let status = self.client.status()?;
        Ok(status.turns.is_empty() && status.waiting.messages == 0 && status.waiting.replies == 0)
    }

    /// Stops it in an orderly way.
    pub fn stop(mut self) -> Result<(), Failure> {
        self.client.shutdown(&Shutdown { drain_seconds: Some(5) })?;
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > end {
                return Err("the daemon did not stop".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A child that is killed unless it was taken out.
struct Starting(Option<Child>);

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait_ready(socket: &Path, starting: &mut Starting, began: Instant) -> Result<Client, Failure> {
    loop {
        if let Ok(client) = Client::connect(socket)
            && client.health().is_ok()
        {
            return Ok(client);
        }
        if let Some(child) = &mut starting.0
            && let Some(status) = child.try_wait()?
        {
            return Err(format!("the daemon ended at its start: {status}").into());
        }
        if began.elapsed() > PATIENCE {
            return Err("the daemon does not answer".into());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

/// A message for a runtime in a conversation.
pub fn message(runtime: &str, conversation: &str, text: &str) -> Submit {
    Submit {
        runtime: Some(runtime.to_owned()),
        conversation: Some(conversation.to_owned()),
        text: text.to_owned(),
        ..Submit::default()
    }
}
