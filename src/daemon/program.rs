//! What the command line has the program do: run the daemon in the foreground, or look at a home without one.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::bounded;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use serde_json::Value;

use super::notify::Supervisor;
use super::{DRAIN, Node, diagnostics, dump, gateways, hubs, openclaw, queue, restart, runtimes, signals};
use crate::cli::RESTARTED_VARIABLE;
use crate::cli::exit::Exit;
use crate::cli::host::{
    AgentRow, BundleWish, Bundled, Dumped, Host, Running, RuntimeRow, StartError, StoredQueue, Wanted,
};
use crate::config::{Config, GatewayProfile, Home, cloud};
use crate::engine::Recovery;
use crate::link::botcord_control::enter::{self, Entered, Look, Said, Wish};
use crate::store::RealDisk;

/// The program behind the command line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Program;

impl Host for Program {
    fn run_foreground(&self, home: &Home, config: Config, ready: Option<File>) -> ExitCode {
        if std::env::var_os("BOTCORD_DAEMON_SENTRY_DSN").is_some() {
            log::debug!("daemon.reports_to_nobody variables=BOTCORD_DAEMON_SENTRY_DSN");
        }
        let supervisor = Arc::new(Supervisor::of_process(ready));
        if std::env::var_os(RESTARTED_VARIABLE).is_some() {
            // To whoever supervises, this process has run for long.
            supervisor.alive("restarting");
        }
        let signals = match signals::listen() {
            Ok(signals) => signals,
            Err(e) => {
                log::error!("daemon.signals_failed error={e}");
                return ExitCode::FAILURE;
            }
        };
        let config = if cloud::is_on() { config } else { openclaw::refresh(home, config) };
        if cloud::is_on()
            && let Err(e) = set_dumpable_behavior(DumpableBehavior::NotDumpable)
        {
            // The agents have the same user: without this they could read the token in our environment.
            log::warn!("daemon.environment_readable error={e}");
        }
        let mut node = match Node::start(home, config, Recovery::All, "start") {
            Ok(node) => node,
            Err(StartError::AlreadyRunning) => {
                log::error!("daemon.already_running home={}", home.root().display());
                return ExitCode::FAILURE;
            }
            Err(StartError::Failed(why)) => {
                log::error!("daemon.start_failed error={why:?}");
                return ExitCode::FAILURE;
            }
        };
        log::info!("daemon.started home={} pid={}", home.root().display(), std::process::id());
        // This end stays open as long as the main loop listens to the other one.
        let (main_loop, pings) = bounded(1);
        let watch = match node.watch(&supervisor, main_loop.clone()) {
            Ok(watch) => watch,
            Err(e) => {
                log::error!("daemon.watch_failed error={e}");
                return ExitCode::FAILURE;
            }
        };
        let end = node.wait(&signals, &pings);
        // Whoever begins again at once does not stop for the supervisor, which would see to it that it ends.
        if end.is_some() {
            supervisor.stopping();
        }
        if let Some(watch) = watch {
            watch.stop();
        }
        let given_up = Arc::clone(&node.given_up);
        let again = if end.is_none() { Some(&*supervisor) } else { None };
        let interrupted = node.stop(end.unwrap_or(DRAIN), &signals, again);
        log::info!("daemon.stopped interrupted={interrupted}");
        if end.is_some() {
            return if given_up.load(Ordering::Acquire) { Exit::Refused.into() } else { ExitCode::SUCCESS };
        }
        let why = restart::in_place();
        log::error!("daemon.not_restarted error={why:?}");
        ExitCode::FAILURE
    }

    fn start_in_process(&self, home: &Home, config: Config) -> Result<Box<dyn Running>, StartError> {
        let node = Node::start(home, config, Recovery::OnDemand, "in-process")?;
        Ok(Box::new(node))
    }

    fn stored_queue(&self, home: &Home) -> std::io::Result<StoredQueue> {
        let (queue, dead, messages) = queue::stored(&home.journal())?;
        Ok(StoredQueue { queue, dead, messages })
    }

    fn dump_journal(&self, home: &Home, raw: bool, each: &mut dyn FnMut(Dumped) -> bool) -> std::io::Result<()> {
        dump::dump(&home.journal(), raw, each)
    }

    fn agents(&self, home: &Home, config: &Config) -> (Vec<AgentRow>, Vec<String>) {
        hubs::rows(home, config)
    }

    fn log_in(&self, home: &Home, wish: &Wish, tell: &mut dyn FnMut(Said<'_>)) -> Result<Entered, String> {
        enter::log_in(&home.daemon_dir(), &RealDisk, wish, tell)
    }

    fn find_gateways(&self, home: &Home, config: Config) -> Config {
        openclaw::refresh(home, config)
    }

    fn login(&self, home: &Home) -> Look {
        enter::look(&home.daemon_dir())
    }

    fn agent_ids(&self, home: &Home, config: &Config) -> Vec<(String, PathBuf, Option<String>)> {
        hubs::ids(home, config)
    }

    fn bundle(&self, home: &Home, wish: BundleWish) -> std::io::Result<Bundled> {
        diagnostics::bundle(home, wish)
    }

    fn gateway_secret(&self, home: &Home, profile: &GatewayProfile) -> Result<String, String> {
        gateways::secret::read(profile, home)
    }

    fn store_gateway_secret(&self, home: &Home, profile: &GatewayProfile, secret: &str) -> Result<(), String> {
        gateways::secret::write(&profile.secret_path(home), home, "botToken", secret)
    }

    fn ask_gateway(&self, profile: &GatewayProfile, secret: &str) -> Result<Value, String> {
        if profile.kind != crate::config::gateways::TELEGRAM {
            return Err(format!("bellhop does not connect gateways of {}", profile.kind));
        }
        gateways::ask(profile, secret)
    }

    fn runtimes(&self, home: &Home, config: &Config, wanted: Wanted) -> Vec<RuntimeRow> {
        runtimes::rows(home, config, wanted)
    }
}
