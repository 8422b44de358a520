//! Wires everything together: starts the engine of a home, serves its control socket, stops it.
//!
//! Knows all other modules and is known by none but `main`. The same parts run in the daemon
//! (`bellhop start`) and inside `bellhop send` and `bellhop chat` when no daemon runs: then only the
//! conversations that get a new message are taken up, the rest waits for a daemon.

mod agent_files;
mod agent_skills;
mod agents;
mod bindings;
mod bound;
pub mod channels;
mod commands;
#[cfg(test)]
mod config_vectors;
mod control;
mod control_link;
mod diagnostics;
#[cfg(test)]
mod dispatch_vectors;
mod dump;
mod duties;
#[cfg(test)]
mod frame_mistakes;
mod garbage;
mod gateways;
mod health;
mod hubs;
mod ingress;
mod meters;
mod metrics;
mod notify;
mod openclaw;
mod parts;
mod program;
mod provision;
#[cfg(test)]
mod provision_crash;
mod provision_journal;
mod queue;
mod reload;
mod restart;
mod revoke;
mod rooms;
mod runtimes;
mod seeds;
mod session_profile;
mod set_route;
mod settling;
mod signals;
mod snapshot;
mod speaking;
mod unusable;
#[cfg(test)]
mod vectors;
mod vigil;
mod wakes;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, never, select_biased, tick};

use crate::channel::manager::Backoff;
use crate::cli::host::{Running, StartError};
use crate::config::cloud::{self, Cloud};
use crate::config::{Config, Home, load};
use crate::engine::journal::Journal;
use crate::engine::ports::{TurnHook, TurnObserver};
use crate::engine::{Engine, Recovery, now_ms};
use crate::prompt::Prompts;
use crate::runtime::process;
use crate::serve::Control;
use crate::serve::follow::Follow;
use crate::serve::port::MetricsPort;
use crate::serve::server::{self, Server};
use crate::store::{Disk, HomeLock, LockError, RealDisk};
use crate::thread;
use crate::usage::Book;
use channels::Channels;
use control::NodeControl;
use control_link::{ControlLink, LinkSlot};
use gateways::Gateways;
use gateways::frames::Frames;
use hubs::Hubs;
use ingress::Ingress;
use meters::Meters;
use notify::Supervisor;
pub use program::Program;
use provision_journal::Unfinished;
use reload::Live;
use rooms::Rooms;
use settling::Settler;
use signals::Signal;
use snapshot::{Poke, Snapshots};
use watch::{Ping, Watch, Watched};

/// How long running turns may go on when the daemon is told to stop (`start`), unless told otherwise.
pub const DRAIN: Duration = Duration::from_secs(20);

/// A running engine with its socket. Holds the lock of the home as long as it lives.
struct Node {
    engine: Engine,
    journal: Journal,
    prompts: Arc<Prompts>,
    home: Home,
    channels: Channels,
    live: Arc<Live>,
    link: Option<ControlLink>,
    snapshots: Option<Snapshots>,
    server: Option<Server>,
    port: Option<MetricsPort>,
    shutdowns: Receiver<Duration>,
    restarts: Receiver<()>,
    /// The sandbox that this is.
    cloud: Option<Cloud>,
    shutdown: Sender<Duration>,
    /// It ends because its hub does not want it.
    given_up: Arc<AtomicBool>,
    /// Has what the daemon does written down.
    poke: Poke,
    _reaper: process::Reaper,
    _lock: HomeLock,
}

impl Node {
    /// Takes the lock and starts everything, the socket last: once it answers, messages are accepted.
    fn start(home: &Home, config: Config, recovery: Recovery, command: &str) -> Result<Self, StartError> {
        let failed = |e: &dyn std::fmt::Display| StartError::Failed(e.to_string());
        home.prepare().map_err(|e| failed(&e))?;
        let lock = HomeLock::acquire(&home.daemon_dir(), command).map_err(|e| match e {
            LockError::Held { .. } => StartError::AlreadyRunning,
            other => failed(&other),
        })?;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let unfinished = provision_journal::at_start(home, &disk);
        let cloud = if recovery == Recovery::All { Cloud::of_process().map_err(StartError::Failed)? } else { None };
        let config = match &cloud {
            Some(cloud) => {
                cloud::begin(home).map_err(|e| failed(&e))?;
                log::info!("daemon.sandbox instance={:?} hub={}", cloud.cloud_instance_id, cloud.hub());
                config
            }
            None if unfinished.is_some() => load::load(&home.config()).map_err(|e| failed(&e))?,
            None => config,
        };
        for warning in &config.warnings {
            log::warn!("config.warning {warning}");
        }
        if !process::become_subreaper() {
            log::warn!("daemon.no_subreaper");
        }
        let reaper = process::start_reaper().map_err(|e| failed(&e))?;
        let follow = Arc::new(Follow::default());
        let rooms = Rooms::default();
        agents::prepare(home, &config.local_agents);
        commands::prepare(&home.commands_dir());
        // Who is here for some conversations of this machine leaves the hubs to the daemon.
        let hubs = if recovery == Recovery::All { Hubs::find(home, &config) } else { Hubs::default() };
        hubs.prepare(home, &config);
        let gateways =
            if recovery == Recovery::All { Gateways::find(home, &config, &hubs) } else { Gateways::default() };
        let assembled = parts::assemble(home, &config, Arc::clone(&follow), &rooms, &hubs, &gateways);
        let (mut parts, mut names, prompts) = assembled.map_err(StartError::Failed)?;
        let slot = Arc::new(LinkSlot::default());
        names.link = Arc::clone(&slot);
        parts::end_interrupted(&parts.journal, home);
        let journal = parts.journal.clone();
        let meters = Arc::new(Meters::default());
        parts.observers.push(Arc::clone(&meters) as Arc<dyn TurnObserver>);
        let ingress = Ingress::open(&journal);
        parts.observers.push(Arc::clone(&ingress) as Arc<dyn TurnObserver>);
        let settler = cloud.as_ref().map(|cloud| Settler::start(&journal, cloud));
        let settler = settler.transpose().map_err(|e| failed(&e))?;
        let engine = Engine::new(parts).map_err(|e| failed(&e))?;
        engine.add_hook(Arc::new(Book::open(home.usage())));
        engine.add_hook(Arc::clone(&meters) as Arc<dyn TurnHook>);
        if let Some(settler) = &settler {
            engine.add_hook(Arc::new(settler.clone()));
        }
        ingress.set_engine(&engine);
        rooms.open(&engine);
        ingress.open_for(&hubs.at_work());
        engine.recover(recovery);
        if let Some(Unfinished::Revoking(revocation)) = &unfinished {
            engine.dismiss(&revocation.agent);
            engine.set_policy(&revocation.agent, None, None);
        }
        let (poke, pokes) = snapshot::poke();
        let channels = Channels::new(Backoff::default(), {
            let poke = poke.clone();
            move || poke.poke()
        });
        // Only a daemon has somebody who reads it; a visitor is gone in a moment.
        let snapshots = (recovery == Recovery::All).then(|| {
            let poke = poke.clone();
            engine.on_change(move || poke.poke());
            let statuses = channels.clone();
            let statuses = Arc::new(move || statuses.statuses());
            Snapshots::start(home.snapshot(), engine.clone(), statuses, Arc::clone(&slot), pokes)
        });
        let snapshots = snapshots.transpose().map_err(|e| failed(&e))?;
        hubs.open(&engine, &channels);
        gateways.open(&engine, &channels);
        channels.start_all();
        let (shutdown, shutdowns) = bounded(1);
        let (restart, restarts) = bounded(1);
        let agents = Arc::clone(&names.agents);
        let control: Arc<dyn Control> = Arc::new(NodeControl::new(
            engine.clone(),
            channels.clone(),
            Arc::clone(&follow),
            home,
            names,
            shutdown.clone(),
            meters,
        ));
        let server = Server::start(home.root(), Arc::clone(&control), follow, server::Settings::default())
            .map_err(|e| failed(&e))?;
        let live = Arc::new(Live {
            home: home.clone(),
            journal: journal.clone(),
            engine: engine.clone(),
            channels: channels.clone(),
            hubs,
            gateways,
            gateway_frames: Frames::new(home),
            agents,
            ingress,
            settler,
            user_home: std::env::var_os("HOME").map(Into::into).unwrap_or_default(),
            applied: Mutex::new(config.document.clone()),
            started_with: config.document,
            disk,
            register: provision::registrar(),
            provisioning: Mutex::default(),
            reloading: Mutex::new(()),
            link: slot,
            restart,
            #[cfg(test)]
            policies_told: Mutex::default(),
        });
        // A visitor leaves the control socket to the daemon, as it does the hubs.
        // Conversations do not depend on who looks on.
        let port = config.metrics_listen.filter(|_| recovery == Recovery::All);
        let port = port.and_then(|address| {
            MetricsPort::start(address, control).inspect_err(|e| log::error!("serve.metrics_failed error={e}")).ok()
        });
        let mut node = Self {
            engine,
            journal,
            prompts,
            home: home.clone(),
            channels,
            live,
            link: None,
            snapshots,
            server: Some(server),
            port,
            shutdowns,
            restarts,
            cloud,
            shutdown,
            given_up: Arc::default(),
            poke,
            _reaper: reaper,
            _lock: lock,
        };
        if recovery == Recovery::All {
            node.start_link().map_err(|e| failed(&e))?;
        }
        Ok(node)
    }

    /// Connects to the hub that this daemon is logged in to, if it is.
    fn start_link(&mut self) -> std::io::Result<()> {
        let (given_up, shutdown) = (Arc::clone(&self.given_up), self.shutdown.clone());
        let give_up = move || {
            given_up.store(true, Ordering::Release);
            let _ = shutdown.try_send(Duration::ZERO);
        };
        self.link = ControlLink::start(&self.live, self.cloud.as_ref(), self.poke.clone(), give_up)?;
        Ok(())
    }

    /// Has the loops looked after, where anybody supervises. `main_loop` leads to [`Node::wait`].
    fn watch(&self, supervisor: &Arc<Supervisor>, main_loop: Sender<Ping>) -> std::io::Result<Option<Watch>> {
        let watched = Watched {
            engine: self.engine.clone(),
            journal: self.journal.clone(),
            channels: self.channels.clone(),
            socket: self.home.socket(),
            main_loop,
        };
        Watch::start(Arc::clone(supervisor), watched)
    }

    /// Waits until somebody wants it to end; returns how long running turns may go on, and nothing when it is to begin
    /// again afterwards.
    fn wait(&mut self, signals: &Receiver<Signal>, pings: &Receiver<Ping>) -> Option<Duration> {
        let garbage = tick(garbage::EVERY);
        garbage::collect_aside(&self.home);
        loop {
            select_biased! {
                recv(pings) -> ping => match ping {
                    Ok(ping) => drop(ping.try_send(())),
                    Err(_) => return Some(Duration::ZERO),
                },
                recv(signals) -> signal => match signal {
                    Ok(Signal::Stop) => return Some(DRAIN),
                    Ok(Signal::Reload) => self.reload(),
                    Err(_) => return Some(Duration::ZERO),
                },
                recv(garbage) -> _ => garbage::collect_aside(&self.home),
                recv(self.shutdowns) -> drain => return Some(drain.unwrap_or_default()),
                recv(self.restarts) -> restart => if restart.is_ok() {
                    return None;
                },
            }
        }
    }

    fn reload(&mut self) {
        drop(self.live.reload());
        // Somebody may have logged in since.
        if self.link.is_none()
            && let Err(e) = self.start_link()
        {
            log::error!("control.not_started error={e}");
        }
    }

    /// Drains and stops. A second signal ends the draining at once. `again`: it begins again afterwards, and whoever
    /// supervises it wants signs of life meanwhile, for to them it runs all along.
    fn stop(mut self, drain: Duration, signals: &Receiver<Signal>, again: Option<&Supervisor>) -> usize {
        let alive = || again.iter().for_each(|supervisor| supervisor.alive("restarting"));
        let beats = again.and_then(Supervisor::every).map_or_else(never, tick);
        log::info!("daemon.stopping drain_ms={}", drain.as_millis());
        alive();
        if let Some(link) = self.link.take() {
            link.stop();
        }
        // First the channels, so that nothing new comes; the messages they hold stay with their far sides.
        self.channels.stop_all();
        alive();
        let engine = self.engine.clone();
        let (done_tx, done): (Sender<usize>, Receiver<usize>) = bounded(1);
        let stopper = thread::spawn("stop", move || {
            let _ = done_tx.send(engine.stop(drain));
        });
        let interrupted = match stopper {
            Err(_) => self.engine.stop(Duration::ZERO),
            Ok(_) => loop {
                select_biased! {
                    recv(signals) -> signal => if signal == Ok(Signal::Stop) {
                        log::warn!("daemon.stop_now");
                        self.engine.interrupt();
                    },
                    recv(done) -> count => break count.unwrap_or_default(),
                    recv(beats) -> _ => alive(),
                }
            },
        };
        alive();
        self.close();
        interrupted
    }

    fn close(&mut self) {
        self.live.hubs.close();
        self.live.gateways.close();
        if let Some(settler) = &self.live.settler {
            settler.stop();
        }
        if let Some(snapshots) = self.snapshots.take() {
            snapshots.stop();
        }
        drop(self.port.take());
        if let Some(server) = self.server.take() {
            server.stop();
        }
        self.prompts.flush();
    }
}

impl Running for Node {
    fn stop(mut self: Box<Self>) {
        // Others may use this engine through its socket: their turns are waited for, within reason.
        self.channels.stop_all();
        let interrupted = self.engine.stop(DRAIN);
        log::info!("engine.stopped interrupted={interrupted} at={}", now_ms());
        self.close();
    }
}
