//! The direct child of a [`Process`](super::Process): its signals, its exit, its reaping.
//!
//! A child keeps its pid until its parent reaps it, and a process group keeps its number as long. So until
//! [`Leader::reap`] a signal to either can reach nobody else; afterwards none is sent.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, pidfd_open, waitid,
};

use super::{proc_fs, reap};
use crate::engine::ports::ProcessId;

/// How often an exit is looked for on kernels without pidfd (before Linux 5.3).
pub(super) const TICK: Duration = Duration::from_millis(50);

/// How a process has ended; both empty when somebody else took its status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
}

/// A child and leader of a process group, not reaped yet.
pub(super) struct Leader {
    id: ProcessId,
    pid: Pid,
    pidfd: Option<OwnedFd>,
    exit: Option<Exit>,
    reaped: bool,
}

impl Leader {
    /// A child that was just spawned with [`reap::spawn_owned`].
    pub(super) fn new(pid: Pid) -> Self {
        let raw = pid.as_raw_nonzero().get();
        let start = proc_fs::stat(raw).map_or(0, |stat| stat.start);
        Self {
            id: ProcessId { pid: raw, start },
            pid,
            pidfd: pidfd_open(pid, PidfdFlags::empty()).ok(),
            exit: None,
            reaped: false,
        }
    }

    pub(super) fn id(&self) -> ProcessId {
        self.id
    }

    /// Readable once the child has exited.
    pub(super) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(std::os::fd::AsFd::as_fd)
    }

    /// As on a kernel that has none.
    #[cfg(test)]
    pub(super) fn forget_pidfd(&mut self) {
        self.pidfd = None;
    }

    /// How it ended, if it has been seen to.
    pub(super) fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// Looks whether it has exited, without reaping it.
    pub(super) fn look(&mut self) -> Option<Exit> {
        if self.exit.is_some() {
            return self.exit;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.pid), options) {
            Ok(Some(status)) => {
                self.exit = Some(Exit { code: status.exit_status(), signal: status.terminating_signal() });
            }
            Err(Errno::CHILD) => {
                // Somebody reaped it behind our back: the pid is no longer ours to signal.
                log::warn!("process.status_lost pid={}", self.id.pid);
                self.exit = Some(Exit::default());
                self.release();
            }
            Ok(None) | Err(_) => {}
        }
        self.exit
    }

    /// Sleeps until it has exited or for at most `limit`; returns whether it has.
    pub(super) fn wait(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.look().is_none() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let Some(pidfd) = self.pidfd() else {
                std::thread::sleep(left.min(TICK));
                continue;
            };
            let timeout = Timespec::try_from(left).ok();
            let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
            if poll(&mut fds, timeout.as_ref()).is_err_and(|error| error != Errno::INTR) {
                std::thread::sleep(left.min(TICK));
            }
        }
        true
    }

    /// Signals the child alone.
    pub(super) fn signal(&self, signal: Signal) {
        if !self.reaped {
            // It may have exited a moment ago.
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Signals the whole process group, also one whose leader has exited.
    pub(super) fn signal_group(&self, signal: Signal) {
        if !self.reaped {
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// Reaps it if it has exited.
    pub(super) fn reap(&mut self) {
        if self.reaped || self.look().is_none() {
            return;
        }
        self.release();
    }

    /// Leaves the child to somebody else; this one signals and reaps it no more.
    pub(super) fn hand_over(&mut self) -> Self {
        let reaped = std::mem::replace(&mut self.reaped, true);
        Self { id: self.id, pid: self.pid, pidfd: self.pidfd.take(), exit: self.exit, reaped }
    }

    fn release(&mut self) {
        self.reaped = true;
        reap::reap_owned(self.pid);
    }
}
