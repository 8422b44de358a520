//! The end of a sandbox that its hub does not want: when the token is refused for long and no turn runs, the process
//! ends, so that whoever supervises it can decide.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::control_link::milliseconds;
use crate::engine::Engine;
use crate::link::botcord_control::handle::Link;
use crate::thread;

/// How long a refused sandbox stays without a turn, unless [`LINGER_VARIABLE`] says otherwise.
const LINGER_MS: u64 = 30 * 60_000;
/// The variable with that time in milliseconds.
const LINGER_VARIABLE: &str = "BELLHOP_CLOUD_LINGER_MS";
/// It looks so many times within it.
const LOOKS: u32 = 30;

/// The thread that watches.
pub(super) struct Vigil {
    over: Sender<()>,
    thread: JoinHandle<()>,
}

impl Vigil {
    /// What the link is to poke when it has changed. One poke stands for any number of them.
    pub(super) fn poke() -> (Sender<()>, Receiver<()>) {
        bounded(1)
    }

    pub(super) fn start(
        link: Link,
        engine: Engine,
        pokes: Receiver<()>,
        give_up: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let limit = Duration::from_millis(milliseconds(LINGER_VARIABLE).unwrap_or(LINGER_MS));
        let (over, ended) = bounded::<()>(0);
        let thread = thread::spawn("vigil", move || watch(&link, &engine, &pokes, &ended, limit, &give_up))?;
        Ok(Self { over, thread })
    }

    pub(super) fn stop(self) {
        drop(self.over);
        let _ = self.thread.join();
    }
}

/// Sleeps while all is well.
fn watch(
    link: &Link,
    engine: &Engine,
    pokes: &Receiver<()>,
    ended: &Receiver<()>,
    limit: Duration,
    give_up: &dyn Fn(),
) {
    let mut idle_since: Option<Instant> = None;
    loop {
        let state = link.state();
        if !state.expired || state.connected {
            idle_since = None;
        } else if idle_since.is_none() || !engine.status().turns.is_empty() {
            idle_since = Some(Instant::now());
        }
        if idle_since.is_some_and(|since| since.elapsed() >= limit) {
            log::error!(
                "control.given_up error={:?} idle_ms={}",
                state.last_error.unwrap_or_default(),
                limit.as_millis()
            );
            give_up();
            return;
        }
        let look = idle_since.map_or(Duration::from_hours(24), |_| limit / LOOKS);
        crossbeam_channel::select_biased! {
            recv(ended) -> _ => return,
            recv(pokes) -> _ => {}
            default(look) => {}
        }
    }
}
