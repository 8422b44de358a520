//! Looks after the daemon's loops for a service manager.
//!
//! One thread, and only under a manager that waits for readiness or has a watchdog. Readiness is told once every
//! channel has reached its far side, or has said why it cannot, or a while has passed. Each sign of life follows a
//! look at every loop: the main loop, the engine's state, the journal's thread and the control socket have to
//! answer first. One that hangs keeps this thread waiting, the sign does not come, and the manager acts. A disk that
//! cannot be written or a far side that is away is no reason: a restart would not mend it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::channels::Channels;
use super::notify::Supervisor;
use crate::channel::manager::ChannelStatus;
use crate::engine::Engine;
use crate::engine::journal::Journal;
use crate::serve::client::{Client, ClientError};
use crate::thread;

/// How long readiness waits for channels that have neither reached their far side nor failed to.
const FIRST_CONTACT: Duration = Duration::from_secs(10);
/// How often is looked meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// Asks the main loop for an answer.
pub(super) type Ping = Sender<()>;

/// What is looked after.
pub(super) struct Watched {
    /// The engine.
    pub(super) engine: Engine,
    /// The journal.
    pub(super) journal: Journal,
    /// Channels that are kept running.
    pub(super) channels: Channels,
    /// The control socket.
    pub(super) socket: PathBuf,
    /// The main loop.
    pub(super) main_loop: Sender<Ping>,
}

/// The thread. Dropping it ends the signs of life.
pub(super) struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts it, where anybody supervises.
    pub(super) fn start(supervisor: Arc<Supervisor>, watched: Watched) -> io::Result<Option<Self>> {
        if !supervisor.waits() {
            return Ok(None);
        }
        let (stop, stopped) = bounded(0);
        let thread = thread::spawn("watch", move || run(&supervisor, &watched, &stopped))?;
        Ok(Some(Self { stop: Some(stop), thread: Some(thread) }))
    }

    /// Ends it. A thread that waits for a loop that hangs is left behind.
    pub(super) fn stop(mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take().filter(JoinHandle::is_finished) {
            let _ = thread.join();
        }
    }
}

fn run(supervisor: &Supervisor, watched: &Watched, stopped: &Receiver<()>) {
    let end = Instant::now() + FIRST_CONTACT;
    while Instant::now() < end && !all_heard_of(&watched.channels) {
        if stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
    supervisor.ready(&summary(watched));
    let Some(every) = supervisor.every() else { return };
    loop {
        match look(watched) {
            Ok(()) => supervisor.alive(&summary(watched)),
            Err(what) => {
                log::error!("watch.no_answer of={what}");
                supervisor.status(&format!("{what} does not answer"));
            }
        }
        if stopped.recv_timeout(every) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

/// Asks every loop for an answer.
fn look(watched: &Watched) -> Result<(), &'static str> {
    let (ping, answer) = bounded(1);
    watched.main_loop.send(ping).map_err(|_| "the main loop")?;
    answer.recv().map_err(|_| "the main loop")?;
    watched.engine.status();
    // An error is an answer, too: it says that the disk is at fault, not the thread.
    let _ = watched.journal.recover_now();
    match Client::connect(&watched.socket).and_then(|client| client.health()) {
        // Too many clients, say: whoever refuses, lives.
        Ok(_) | Err(ClientError::Answered { .. }) => Ok(()),
        Err(_) => Err("the control socket"),
    }
}

fn all_heard_of(channels: &Channels) -> bool {
    channels.statuses().values().all(is_heard_of)
}

fn is_heard_of(channel: &ChannelStatus) -> bool {
    channel.connected || channel.last_error.is_some() || !channel.running
}

fn summary(watched: &Watched) -> String {
    let channels = watched.channels.statuses();
    let offline: Vec<&str> = channels.iter().filter(|(_, c)| !c.connected).map(|(id, _)| id.as_str()).collect();
    let engine = watched.engine.status();
    let turns = format!("{} turns running, {} waiting", engine.turns.len(), engine.waiting);
    match (channels.len(), offline.len()) {
        (0, _) => turns,
        (all, 0) => format!("{turns}; {all} channels connected"),
        (all, missing) => format!("{turns}; {missing} of {all} channels offline: {}", offline.join(", ")),
    }
}
