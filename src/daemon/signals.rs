//! Signals as one more channel of the main loop.

use crate::thread;
use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// Listens from now on. At most 8 signals wait; more of the same add nothing and are dropped.
pub(super) fn listen() -> std::io::Result<Receiver<Signal>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (tx, rx) = bounded(8);
    thread::spawn("signals", move || {
        for signal in signals.forever() {
            let _ = tx.try_send(if signal == SIGHUP { Signal::Reload } else { Signal::Stop });
        }
    })?;
    Ok(rx)
}
