//! Signals as one more channel of the main loop.

use crate::thread;
use crossbeam_channel::{Receiver, Sender, bounded};
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

/// Listens from now on. At most 8 signals wait; more of the same add nothing and are dropped. None is dropped for another
/// kind's sake.
pub(super) fn listen() -> std::io::Result<Receiver<Signal>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (tx, rx) = bounded(8);
    thread::spawn("signals", move || {
        for signal in signals.forever() {
            pass_on(&tx, if signal == SIGHUP { Signal::Reload } else { Signal::Stop });
        }
    })?;
    Ok(rx)
}

/// Only this thread sends. A reload that waits reads what there is when its turn comes, so that a second one adds nothing,
/// and a stop finds room however many there were.
fn pass_on(tx: &Sender<Signal>, signal: Signal) {
    if signal == Signal::Stop || tx.is_empty() {
        let _ = tx.try_send(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_reloads_keeps_a_stop_out() {
        let (tx, rx) = bounded(8);
        for _ in 0..100 {
            pass_on(&tx, Signal::Reload);
        }
        pass_on(&tx, Signal::Stop);
        pass_on(&tx, Signal::Reload);
        assert_eq!(rx.try_iter().collect::<Vec<_>>(), [Signal::Reload, Signal::Stop]);
        for _ in 0..100 {
            pass_on(&tx, Signal::Stop);
        }
        assert_eq!(rx.try_iter().count(), 8);
    }
}
