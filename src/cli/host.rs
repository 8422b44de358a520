//! What the command line needs of the rest of the program, as a trait: `main` hands in the real thing.
//!
//! The commands know the control API and the configuration; running the engine, the runtimes and the
//! agents' memory is behind this door.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use crate::channel::botcord::credentials::check::Checked;
use crate::config::{Config, GatewayProfile, Home};
use crate::link::botcord_control::enter::{Entered, Look, Said, Wish};
use crate::runtime::catalogue::Catalogue;
use crate::serve::wire::{Queue, QueueItem};

/// The rest of the program.
pub trait Host: Sync {
    /// Takes the lock, serves until a signal says otherwise, and returns with what the process should end
    /// with. The logger is set up already. Says on standard error why, if it cannot start. A line feed is written to
    /// the pipe `ready` once it is ready.
    fn run_foreground(&self, home: &Home, config: Config, ready: Option<File>) -> ExitCode;

    /// Takes the lock and runs the engine and its socket on threads of this process. When this returns, the
    /// socket answers. Installs no signal handlers.
    fn start_in_process(&self, home: &Home, config: Config) -> Result<Box<dyn Running>, StartError>;

    /// The queue that the journal of a home tells of. Only reads; an empty one where there is no journal.
    fn stored_queue(&self, home: &Home) -> io::Result<StoredQueue>;

    /// Hands out the journal line by line, until `each` answers false. `raw`: as it is; else readable. Only
    /// reads, beside a running daemon too.
    fn dump_journal(&self, home: &Home, raw: bool, each: &mut dyn FnMut(Dumped) -> bool) -> io::Result<()>;

    /// The agents of hubs that a daemon would connect, and why files were passed over. Asks each hub whether it is
    /// there, which may take seconds.
    fn agents(&self, home: &Home, config: &Config) -> (Vec<AgentRow>, Vec<String>);

    /// The login as it lies in the home.
    fn login(&self, home: &Home) -> Look;

    /// The agents of hubs, their files of credentials, and what people call them. Asks no hub.
    fn agent_ids(&self, home: &Home, config: &Config) -> Vec<(String, PathBuf, Option<String>)>;

    /// Makes a bundle of what helps to find out what is wrong.
    fn bundle(&self, home: &Home, wish: BundleWish) -> io::Result<Bundled>;

    /// Sees to the login at a hub, before a daemon starts. `tell` gets what a person is told meanwhile. The error is for
    /// people.
    fn log_in(&self, home: &Home, wish: &Wish, tell: &mut dyn FnMut(Said<'_>)) -> Result<Entered, String>;

    /// Looks for OpenClaw gateways on this machine, and writes new ones into the configuration.
    fn find_gateways(&self, home: &Home, config: Config) -> Config;

    /// The secret of a gateway; the error says what is wrong and holds nothing of it.
    fn gateway_secret(&self, home: &Home, profile: &GatewayProfile) -> Result<String, String>;

    /// Writes the secret of a gateway.
    fn store_gateway_secret(&self, home: &Home, profile: &GatewayProfile, secret: &str) -> Result<(), String>;

    /// Who the bot of a gateway is, as its service says; asks it, which may take seconds.
    fn ask_gateway(&self, profile: &GatewayProfile, secret: &str) -> Result<Value, String>;

    /// The runtimes that there are, in the order of every listing. May take seconds: it asks the programs
    /// for their versions and whatever else is wanted.
    fn runtimes(&self, home: &Home, config: &Config, wanted: Wanted) -> Vec<RuntimeRow>;
}

/// What is to be found out about runtimes besides their versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Models and parameters.
    pub models: bool,
    /// How the gateways of OpenClaw are, and the profiles of Hermes.
    pub places: bool,
    /// Whether they can work here.
    pub login: LoginCheck,
}

/// How it is found out whether a runtime is logged in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoginCheck {
    /// Not at all.
    #[default]
    None,
    /// The program is asked; no model is.
    Ask,
    /// It runs a turn.
    Turn,
}

/// An engine that runs in this process.
pub trait Running: Send {
    /// Ends it: running turns are interrupted (they go on at the next start), the lock is released.
    fn stop(self: Box<Self>);
}

/// A queue without a daemon.
#[derive(Debug, Default)]
pub struct StoredQueue {
    /// What is not finished.
    pub queue: Queue,
    /// What was given up.
    pub dead: Queue,
    /// All of both with their whole texts.
    pub messages: Vec<QueueItem>,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dumped {
    /// As it is, or readable.
    Line(String),
    /// It cannot be read: where it is, and what is wrong with it.
    Bad(String),
}

/// Why the engine did not start.
#[derive(Debug)]
pub enum StartError {
    /// Another process holds the home's lock; it may be about to listen.
    AlreadyRunning,
    /// Anything else, for people.
    Failed(String),
}

/// An agent of a hub, as the doctor sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentRow {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: Option<String>,
    /// What a quick look at its credentials and its hub has found.
    pub checked: Checked,
    /// Why its credentials cannot be used.
    pub problem: Option<String>,
}

/// What goes into a bundle of diagnostics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BundleWish {
    /// More of the logs.
    pub full_log: bool,
    /// Conversations, too.
    pub transcripts: bool,
}

/// A bundle of diagnostics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundled {
    /// Its file's name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
}

/// One runtime, as the doctor lists it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RuntimeRow {
    /// Its id.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// Whether its program was found.
    pub ok: bool,
    /// What the program says about its version.
    pub version: Option<String>,
    /// Where the program is.
    pub path: Option<String>,
    /// How to install it.
    pub hint: Option<String>,
    /// Lines to show below it: login, gateways, warnings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Why the program was not found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Gateways of OpenClaw.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Value>,
    /// Profiles of Hermes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<Value>,
    /// Models and parameters, where they were wanted.
    #[serde(skip)]
    pub catalogue: Catalogue,
}

/// A program without an engine: everything that needs one says so. For tests of the command line, and for
/// builds that leave the engine out.
pub struct NoEngine;

impl Host for NoEngine {
    fn run_foreground(&self, _home: &Home, _config: Config, _ready: Option<File>) -> ExitCode {
        log::error!("this build of bellhop has no engine");
        ExitCode::FAILURE
    }

    fn start_in_process(&self, _home: &Home, _config: Config) -> Result<Box<dyn Running>, StartError> {
        Err(StartError::Failed("this build of bellhop has no engine".into()))
    }

    fn stored_queue(&self, _home: &Home) -> io::Result<StoredQueue> {
        Ok(StoredQueue::default())
    }

    fn dump_journal(&self, _home: &Home, _raw: bool, _each: &mut dyn FnMut(Dumped) -> bool) -> io::Result<()> {
        Ok(())
    }

    fn agents(&self, _home: &Home, _config: &Config) -> (Vec<AgentRow>, Vec<String>) {
        (Vec::new(), Vec::new())
    }

    fn login(&self, _home: &Home) -> Look {
        Look { auth: Ok(None), expired: false }
    }

    fn agent_ids(&self, _home: &Home, _config: &Config) -> Vec<(String, PathBuf, Option<String>)> {
        Vec::new()
    }

    fn bundle(&self, _home: &Home, _wish: BundleWish) -> io::Result<Bundled> {
        Err(io::Error::other("this build of bellhop has no engine"))
    }

    fn log_in(&self, _home: &Home, _wish: &Wish, _tell: &mut dyn FnMut(Said<'_>)) -> Result<Entered, String> {
        Err("this build of bellhop has no engine".into())
    }

    fn find_gateways(&self, _home: &Home, config: Config) -> Config {
        config
    }

    fn gateway_secret(&self, _home: &Home, _profile: &GatewayProfile) -> Result<String, String> {
        Err("this build of bellhop has no engine".into())
    }

    fn store_gateway_secret(&self, _home: &Home, _profile: &GatewayProfile, _secret: &str) -> Result<(), String> {
        Err("this build of bellhop has no engine".into())
    }

    fn ask_gateway(&self, _profile: &GatewayProfile, _secret: &str) -> Result<Value, String> {
        Err("this build of bellhop has no engine".into())
    }

    fn runtimes(&self, _home: &Home, _config: &Config, _wanted: Wanted) -> Vec<RuntimeRow> {
        Vec::new()
    }
}
