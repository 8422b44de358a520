//! Signals as one more channel, for commands that wait.

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::failure::Failure;
use crate::thread;

/// Signals that arrive but are not looked at: more than a person can mean.
const PENDING: usize = 8;

/// From now on SIGINT, SIGTERM and SIGHUP arrive here instead of ending the process.
pub fn channel() -> Result<Receiver<i32>, Failure> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|e| Failure::new(format!("signals cannot be caught: {e}")))?;
    let (sender, receiver) = bounded(PENDING);
    thread::spawn("signals", move || {
        for signal in &mut signals {
            let _ = sender.try_send(signal);
        }
    })?;
    Ok(receiver)
}
