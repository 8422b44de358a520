//! Signals as one more channel, for commands that wait.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::failure::Failure;
use crate::thread;

/// Signals that arrive but are not looked at: more than a person can mean.
const PENDING: usize = 8;

/// Who has not looked at a signal for so long hangs at something, such as a daemon that does not answer.
const DEAF: Duration = Duration::from_secs(1);

/// From now on SIGINT, SIGTERM and SIGHUP arrive here instead of ending the process, unless nobody looks at them: then
/// another one ends it. When the receiver is gone they do nothing any more.
pub fn channel() -> Result<Receiver<i32>, Failure> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|e| Failure::new(format!("signals cannot be caught: {e}")))?;
    let (sender, receiver) = bounded(PENDING);
    thread::spawn("signals", move || {
        let mut since = Instant::now();
        for signal in &mut signals {
            if sender.is_empty() {
                since = Instant::now();
            } else if since.elapsed() > DEAF {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
            let _ = sender.try_send(signal);
        }
    })?;
    Ok(receiver)
}
