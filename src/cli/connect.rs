//! From a home to somebody who answers: the daemon, or an engine inside this process.

use std::time::{Duration, Instant};

use super::failure::Failure;
use super::host::{Host, Running, StartError};
use crate::config::{Config, Home};
use crate::serve::client::{Client, ClientError};

/// How long a process that has the lock but does not answer yet is waited for.
const STARTING: Duration = Duration::from_secs(10);

/// A client, and the engine behind it if that runs in this process. Dropping it stops that engine.
pub struct Connection {
    /// Who to ask.
    pub client: Client,
    running: Option<Box<dyn Running>>,
}

impl Connection {
    /// Whether the engine runs in this process and ends with it.
    pub fn is_in_process(&self) -> bool {
        self.running.is_some()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

/// The running daemon, or a failure that says how to start one.
pub fn daemon(home: &Home) -> Result<Client, Failure> {
    // A home that cannot be used has a better reason than "no daemon".
    home.check()?;
    Ok(Client::connect(&home.socket())?)
}

/// The running daemon, or `None` where nobody listens.
pub fn daemon_if_any(home: &Home) -> Result<Option<Client>, Failure> {
    match Client::connect(&home.socket()) {
        Ok(client) => Ok(Some(client)),
        Err(ClientError::NoDaemon { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The running daemon; where there is none, the engine is started in this process.
pub fn daemon_or_engine(
    home: &Home,
    host: &dyn Host,
    config: impl Fn() -> Result<Config, Failure>,
) -> Result<Connection, Failure> {
    home.check()?;
    if let Some(client) = daemon_if_any(home)? {
        return Ok(Connection { client, running: None });
    }
    home.prepare()?;
    let give_up = Instant::now() + STARTING;
    loop {
        match host.start_in_process(home, config()?) {
            Ok(running) => {
                let client = Client::connect(&home.socket());
                return match client {
                    Ok(client) => Ok(Connection { client, running: Some(running) }),
                    Err(error) => {
                        running.stop();
                        Err(error.into())
                    }
                };
            }
            Err(StartError::Failed(why)) => return Err(Failure::new(why)),
            Err(StartError::AlreadyRunning) => {}
        }
        // Somebody else was faster: their socket is about to appear, or they are about to end.
        if let Some(client) = daemon_if_any(home)? {
            return Ok(Connection { client, running: None });
        }
        if Instant::now() > give_up {
            return Err(Failure {
                exit: super::exit::Exit::Unreachable,
                message: "another process holds the home's lock but does not answer; see: bellhop doctor".into(),
            });
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
