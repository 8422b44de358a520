//! Children that fall to the daemon: it is the child subreaper of everything below it, so that what a CLI
//! leaves behind becomes its child, can be found cheaply and does not stay a zombie.
//!
//! Two kinds of children are never touched, because somebody waits for them: those that
//! [`Process`](super::Process) started (they are registered here), and those in the daemon's own process
//! group, which other parts started with `std::process`.

use std::collections::BTreeSet;
use std::io;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpgrp, getpid, set_child_subreaper, waitid};
use signal_hook::consts::SIGCHLD;
use signal_hook::iterator::{Handle, Signals};

use super::leader::Leader;
use super::{proc_fs, sweep};
use crate::thread;

/// Longest list of processes that could not be ended. A longer one forgets its oldest entries.
const MAX_GIVEN_UP: usize = 1024;

/// How long the reaper lets deaths collect: a dying tree is reaped in one go, and a child that is waited
/// for is reaped by its owner in the meantime.
const COLLECT: Duration = Duration::from_millis(100);

/// How often processes that could not be ended are tried again.
const RETRY: Duration = Duration::from_mins(1);

/// Stack of the reaper's thread; it holds one small buffer.
const STACK: usize = 128 * 1024;

static SUBREAPER: AtomicBool = AtomicBool::new(false);
static OWNED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
static GIVEN_UP: Mutex<Vec<GivenUp>> = Mutex::new(Vec::new());

struct GivenUp {
    leader: Leader,
    turn: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes this process the one that orphans below it fall to, instead of init. Returns whether it is.
pub fn become_subreaper() -> bool {
    let done = set_child_subreaper(Some(getpid())).is_ok();
    SUBREAPER.store(done, Ordering::Relaxed);
    done
}

/// The process that orphans of our children fall to.
pub(super) fn adopter() -> i32 {
    if SUBREAPER.load(Ordering::Relaxed) { getpid().as_raw_nonzero().get() } else { 1 }
}

/// Spawns a child that the orphan reaper leaves alone until [`reap_owned`].
///
/// Spawning holds the lock of the register, so that the reaper cannot see the child before it is in there.
pub(super) fn spawn_owned(command: &mut Command) -> io::Result<Child> {
    let mut owned = lock(&OWNED);
    let child = command.spawn()?;
    owned.insert(child.id().cast_signed());
    Ok(child)
}

/// Reaps a dead child of [`spawn_owned`] and takes it off the register, in one step: once it is reaped the
/// pid may belong to the next child.
pub(super) fn reap_owned(pid: Pid) {
    let mut owned = lock(&OWNED);
    let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    owned.remove(&pid.as_raw_nonzero().get());
}

/// Leaves a child of [`spawn_owned`] to the orphan reaper.
fn disown(pid: i32) {
    lock(&OWNED).remove(&pid);
}

/// Whether a [`Process`](super::Process) waits for this child.
pub(super) fn is_owned(pid: i32) -> bool {
    lock(&OWNED).contains(&pid)
}

/// Reaps dead children that nobody waits for; returns how many. Costs one system call when no child of ours
/// is dead, else a look at our children.
pub fn reap_orphans() -> usize {
    let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if !matches!(waitid(WaitId::All, peek), Ok(Some(_))) {
        return 0;
    }
    let own_pid = getpid().as_raw_nonzero().get();
    let own_group = getpgrp().as_raw_nonzero().get();
    let children = proc_fs::adopted_by(own_pid, |pid| !is_owned(pid));
    // Held over the look and the reaping: a pid that is not owned now cannot become so in between.
    let owned = lock(&OWNED);
    let orphans = children
        .iter()
        .filter(|stat| stat.is_dead() && stat.group != own_group && !owned.contains(&stat.pid))
        .filter_map(|stat| Pid::from_raw(stat.pid));
    let reap = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    orphans.filter(|pid| matches!(waitid(WaitId::Pid(*pid), reap), Ok(Some(_)))).count()
}

/// Runs [`reap_orphans`] whenever a child has died. Dropping it ends that.
pub struct Reaper {
    signals: Handle,
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.signals.close();
    }
}

/// Starts the thread that reaps orphans. It sleeps until SIGCHLD comes.
pub fn start_reaper() -> io::Result<Reaper> {
    let mut signals = Signals::new([SIGCHLD])?;
    let reaper = Reaper { signals: signals.handle() };
    thread::spawn_sized("reaper", STACK, move || {
        reap_orphans();
        for _ in &mut signals {
            std::thread::sleep(COLLECT);
            let reaped = reap_orphans();
            if reaped > 0 {
                log::debug!("process.reaped orphans={reaped}");
            }
        }
    })?;
    Ok(reaper)
}

/// Remembers a child that did not end in time.
pub(super) fn give_up(leader: Leader, turn: String) {
    log::error!("process.given_up pid={} turn={turn}", leader.id().pid);
    let mut list = lock(&GIVEN_UP);
    if list.len() >= MAX_GIVEN_UP {
        let oldest = list.remove(0);
        disown(oldest.leader.id().pid);
    }
    list.push(GivenUp { leader, turn });
    // The first of a list starts the thread that tries again; it leaves when the list is empty.
    if list.len() == 1 {
        let retry = || {
            std::thread::sleep(RETRY);
            while retry_given_up() > 0 {
                std::thread::sleep(RETRY);
            }
        };
        if let Err(e) = thread::spawn_sized("given-up", STACK, retry) {
            log::error!("process.retry_failed error={e}");
        }
    }
}

/// Tries again to end the processes that did not end in time; returns how many are still there.
pub fn retry_given_up() -> usize {
    let list = std::mem::take(&mut *lock(&GIVEN_UP));
    let mut left = Vec::new();
    for mut entry in list {
        entry.leader.signal_group(Signal::KILL);
        if entry.leader.look().is_none() {
            left.push(entry);
            continue;
        }
        entry.leader.reap();
        sweep::sweep_turn(&entry.turn, None);
        log::info!("process.ended_late pid={} turn={}", entry.leader.id().pid, entry.turn);
    }
    let mut list = lock(&GIVEN_UP);
    list.extend(left);
    list.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;

    #[test]
    fn children_that_somebody_waits_for_are_left_alone() {
        let mut plain = Command::new("true").spawn().unwrap();
        let mut own = spawn_owned(Command::new("true").process_group(0)).unwrap();
        assert!(is_owned(own.id().cast_signed()));
        for _ in 0..20 {
            reap_orphans();
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(plain.wait().unwrap().success());
        assert!(own.wait().unwrap().success());
        disown(own.id().cast_signed());
        assert!(!is_owned(own.id().cast_signed()));
    }

    #[test]
    fn what_was_given_up_is_ended_later() {
        let leader = sleeper();
        let id = leader.id();
        give_up(leader, "given-up-test".into());
        while retry_given_up() > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!is_owned(id.pid));
        assert!(!super::super::Process::pid_lives(id));
    }

    fn sleeper() -> Leader {
        Leader::new(Pid::from_child(&spawn_owned(Command::new("sleep").arg("300").process_group(0)).unwrap()))
    }
}
