//! `bellhop stop`: asks the daemon to end, by signal, so that it works even when the daemon does not answer.
//!
//! Who the daemon is, the lock says: the pid file may be older than the process that has its number now.

use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Context;
use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::output::say;
use crate::config::Home;
use crate::store::{HomeLock, LockError};

/// How long the end is waited for: a little more than the daemon allows itself.
const PATIENCE: Duration = Duration::from_secs(50);

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    context.home.check()?;
    let Some(pid) = holder(&context.home)? else {
        return Err(Failure::new("no daemon runs on this home"));
    };
    terminate(&context.home, pid)?;
    say(&format!("sent SIGTERM to {pid}"))?;
    if args.flag("wait") && !wait(&context.home, PATIENCE)? {
        return Err(Failure { exit: Exit::Timeout, message: not_ended(pid) });
    }
    Ok(Exit::Ok)
}

/// The process that holds the home's lock.
pub fn holder(home: &Home) -> Result<Option<i32>, Failure> {
    match HomeLock::holder(&home.daemon_dir()) {
        Ok(None) => Ok(None),
        Ok(Some(LockError::Held { pid: Some(pid), .. })) => Ok(Some(pid)),
        Ok(Some(held)) => Err(Failure::new(format!("{held}; its process id is not known"))),
        Err(error) => Err(Failure::new(error.to_string())),
    }
}

/// What to do about a daemon that does not end.
pub fn not_ended(pid: i32) -> String {
    format!("process {pid} has not ended yet; if it hangs: kill -9 {pid} (what was accepted is not lost)")
}

/// Sends SIGTERM to the lock's holder, and to nobody else.
pub fn terminate(home: &Home, pid: i32) -> Result<(), Failure> {
    signal(home, pid, Signal::TERM)
}

/// Sends a signal to the lock's holder, and to nobody else.
pub fn signal(home: &Home, pid: i32, signal: Signal) -> Result<(), Failure> {
    let failed = |e: rustix::io::Errno| Failure::new(format!("process {pid} cannot be signalled: {e}"));
    let target = Pid::from_raw(pid).filter(|_| pid > 1).ok_or_else(|| Failure::new("the lock names no process"))?;
    // The handle stays with this process, whatever becomes of its number; if the lock is still held by
    // that number after it was opened, it is the right one.
    let handle = pidfd_open(target, PidfdFlags::empty()).map_err(failed)?;
    if holder(home)? != Some(pid) {
        return Ok(());
    }
    match pidfd_send_signal(&handle, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

/// Has a daemon that runs read its configuration again.
pub fn reload(home: &Home) -> Result<(), Failure> {
    match holder(home)? {
        Some(pid) => signal(home, pid, Signal::HUP),
        None => Ok(()),
    }
}

/// Waits until nobody holds the lock; `false` when the time is up.
pub fn wait(home: &Home, limit: Duration) -> Result<bool, Failure> {
    let end = Instant::now() + limit;
    while holder(home)?.is_some() {
        if Instant::now() > end {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(true)
}
