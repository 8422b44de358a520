//! Finds and kills what a turn has left running.
//!
//! CLIs start their tools in sessions of their own, where signals to the process group do not reach them.
//! What they cannot shake off easily is the environment: every child carries `BELLHOP_TURN`, and so does what
//! it starts. A process belongs to a turn when its environment says so, or when it is below one that does.
//!
//! No signal can hit a stranger: a process is opened as a pidfd, and only if pid and start time are still
//! those that were found is the signal sent, through that descriptor.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, pidfd_send_signal};

use super::proc_fs::{self, Marked, Stat};
use super::reap;
use crate::engine::ports::ProcessId;

/// The variable by which processes of a turn are known.
pub(super) const MARK: &str = "BELLHOP_TURN";

/// The variable by which processes are known that stay between turns, and whatever they start. Its value tells
/// the daemon's home.
pub const WARM_MARK: &str = "BELLHOP_WARM";

/// How long a sweep lasts at most.
pub(super) const SWEEP_LIMIT: Duration = Duration::from_secs(2);

/// Passes over `/proc` of one sweep. Three are enough for programs that stand still (find, confirm, and one
/// for those that forked in between); the others are for programs that fork as fast as they are killed.
const MAX_PASSES: usize = 16;

/// Dying processes that are waited for by descriptor; of more than these the next pass finds the rest.
const MAX_WATCHED: usize = 64;

/// A process in the middle of `execve` shows an empty environment for a moment, which is longer when the machine is
/// busy. Before a look that finds nothing is believed, those with an empty one are looked at again after these.
const EXEC_PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(2), Duration::from_millis(10), Duration::from_millis(40)];

/// How long one pass waits for those that it killed.
const PASS_WAIT: Duration = Duration::from_millis(500);

/// What to look for.
#[derive(Default)]
pub(super) struct Target<'a> {
    /// Values of [`MARK`].
    pub(super) turns: HashSet<&'a [u8]>,
    /// Processes seen below the CLI while it lived; they count even when they hide their environment.
    pub(super) known: Vec<ProcessId>,
    /// Process groups, by their leaders; they count only while the leader can be verified.
    pub(super) groups: Vec<ProcessId>,
    /// A value of [`WARM_MARK`].
    pub(super) warm: Option<&'a [u8]>,
    /// Processes that stay, with everything below them.
    pub(super) spared: Vec<ProcessId>,
    /// A leader that stays with its process group; what is below it in other groups counts.
    pub(super) kept_group: Option<ProcessId>,
}

/// Ends everything marked with a turn, and its process group if `process` still leads it. Returns how many
/// processes were killed; blocks until they are gone, for at most 2 s.
pub fn sweep_turn(turn_id: &str, process: Option<ProcessId>) -> usize {
    sweep_turns(&[(turn_id, process)])
}

/// [`sweep_turn`] for many turns in one pass over the processes of the machine.
pub fn sweep_turns(turns: &[(&str, Option<ProcessId>)]) -> usize {
    if turns.is_empty() {
        return 0;
    }
    let target = Target {
        turns: turns.iter().map(|(turn, _)| turn.as_bytes()).filter(|turn| !turn.is_empty()).collect(),
        groups: turns.iter().filter_map(|(_, process)| *process).collect(),
        ..Target::default()
    };
    sweep(&target)
}

/// Ends everything that carries [`WARM_MARK`] with this value. For what a daemon has left that died: while one
/// lives, its own list of processes is the better way.
pub fn sweep_warm(value: &str) -> usize {
    if value.is_empty() {
        return 0;
    }
    sweep(&Target { warm: Some(value.as_bytes()), ..Target::default() })
}

/// Kills until a pass finds nothing, within [`SWEEP_LIMIT`]. Returns how many processes were killed.
pub(super) fn sweep(target: &Target<'_>) -> usize {
    let end = Instant::now() + SWEEP_LIMIT;
    let mut killed = HashSet::new();
    for _ in 0..MAX_PASSES {
        let found = find(target);
        if found.is_empty() {
            break;
        }
        let mut dying = Vec::new();
        for id in found {
            match kill(id) {
                Killed::Gone => continue,
                Killed::Watched(pidfd) if dying.len() < MAX_WATCHED => dying.push(pidfd),
                Killed::Watched(_) | Killed::Unwatched => {}
            }
            killed.insert((id.pid, id.start));
        }
        wait_gone(dying, end.min(Instant::now() + PASS_WAIT));
        if Instant::now() >= end {
            log::warn!("process.sweep_incomplete killed={}", killed.len());
            break;
        }
    }
    // Those that fell to us are zombies now.
    reap::reap_orphans();
    killed.len()
}

/// What a CLI that has ended left among the children that fell to us, and everything below it.
pub(super) fn leftovers(turn: &str) -> Vec<ProcessId> {
    let adopter = reap::adopter();
    let orphans = proc_fs::adopted_by(adopter, |pid| !reap::is_owned(pid));
    let living = orphans.iter().filter(|stat| !stat.is_dead()).map(|stat| stat.pid);
    let roots = marked_among(living, MARK, true, |value| value == turn.as_bytes());
    if roots.is_empty() {
        return Vec::new();
    }
    let stats = proc_fs::below(adopter);
    let below = proc_fs::descendants(&stats, &roots, Some(own_pid()));
    let counts = |stat: &&Stat| !stat.is_dead() && (roots.contains(&stat.pid) || below.contains(&stat.pid));
    stats.iter().filter(counts).map(Stat::id).collect()
}

/// Kills one process if it is still the one that was found.
pub(super) fn kill(id: ProcessId) -> Killed {
    let Some(pid) = Pid::from_raw(id.pid) else { return Killed::Gone };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Some(pidfd),
        Err(Errno::SRCH) => return Killed::Gone,
        // No such call, or no descriptor left.
        Err(_) => None,
    };
    if proc_fs::stat(id.pid).is_none_or(|stat| stat.id() != id || stat.is_dead()) {
        return Killed::Gone;
    }
    let sent = match &pidfd {
        Some(pidfd) => pidfd_send_signal(pidfd, Signal::KILL),
        None => kill_process(pid, Signal::KILL),
    };
    match (sent, pidfd) {
        (Err(_), _) => Killed::Gone,
        (Ok(()), Some(pidfd)) => Killed::Watched(pidfd),
        (Ok(()), None) => Killed::Unwatched,
    }
}

/// What became of a process that was to be killed.
pub(super) enum Killed {
    /// There was nothing to kill, or it is not ours to kill.
    Gone,
    /// Killed; the descriptor becomes readable when it is dead.
    Watched(OwnedFd),
    /// Killed, on a system without pidfd.
    Unwatched,
}

fn find(target: &Target<'_>) -> Vec<ProcessId> {
    let own = own_pid();
    let stats = proc_fs::all();
    let exempt = exempt(target, &stats, own);
    let alive: Vec<&Stat> = stats
        .iter()
        // Neither we nor init, whatever their environment says.
        .filter(|stat| stat.pid != own && stat.pid != 1 && !stat.is_dead() && !stat.is_kernel_thread())
        .filter(|stat| !exempt.contains(&stat.pid))
        .collect();
    let groups: HashSet<i32> = target
        .groups
        .iter()
        .filter(|leader| stats.iter().any(|stat| stat.id() == **leader && stat.group == leader.pid))
        .map(|leader| leader.pid)
        .collect();
    let (known, others): (Vec<&Stat>, Vec<&Stat>) =
        alive.iter().partition(|stat| target.known.contains(&stat.id()) || groups.contains(&stat.group));
    let others = || others.iter().map(|stat| stat.pid);
    let mut found = HashSet::new();
    if !target.turns.is_empty() {
        found.extend(marked_among(others(), MARK, known.is_empty(), |value| target.turns.contains(value)));
    }
    if let Some(warm) = target.warm {
        found.extend(marked_among(others(), WARM_MARK, known.is_empty(), |value| value == warm));
    }
    found.extend(known.iter().map(|stat| stat.pid));
    found.extend(proc_fs::descendants(&stats, &found, Some(own)));
    alive.into_iter().filter(|stat| found.contains(&stat.pid)).map(Stat::id).collect()
}

/// Pids of those that stay.
fn exempt(target: &Target<'_>, stats: &[Stat], own: i32) -> HashSet<i32> {
    let lives = |id: &ProcessId| stats.iter().any(|stat| stat.id() == *id);
    let mut exempt: HashSet<i32> = target.spared.iter().filter(|id| lives(id)).map(|id| id.pid).collect();
    exempt.extend(proc_fs::descendants(stats, &exempt, Some(own)));
    if let Some(leader) = target.kept_group.filter(lives) {
        exempt.extend(stats.iter().filter(|stat| stat.group == leader.pid).map(|stat| stat.pid));
    }
    exempt
}

/// Those whose environment has the mark with an accepted value. `patient`: nobody looks again if none is found.
fn marked_among(
    pids: impl Iterator<Item = i32>,
    mark: &str,
    patient: bool,
    accept: impl Fn(&[u8]) -> bool,
) -> HashSet<i32> {
    let mut buf = Vec::new();
    let mut found = HashSet::new();
    let mut unsure = Vec::new();
    for pid in pids {
        match proc_fs::marked(pid, mark, &mut buf, &accept) {
            Marked::Yes => drop(found.insert(pid)),
            Marked::Empty => unsure.push(pid),
            Marked::No => {}
        }
    }
    for pause in EXEC_PAUSES {
        if unsure.is_empty() {
            break;
        }
        std::thread::sleep(pause);
        unsure.retain(|pid| match proc_fs::marked(*pid, mark, &mut buf, &accept) {
            Marked::Yes => {
                found.insert(*pid);
                false
            }
            Marked::Empty => true,
            Marked::No => false,
        });
        // The next pass looks again.
        if !patient || !found.is_empty() {
            break;
        }
    }
    found
}

fn own_pid() -> i32 {
    getpid().as_raw_nonzero().get()
}

/// Sleeps until all are dead or `end` has come. Without descriptors it is a short nap.
fn wait_gone(mut dying: Vec<OwnedFd>, end: Instant) {
    if dying.is_empty() {
        std::thread::sleep(Duration::from_millis(10));
        return;
    }
    while !dying.is_empty() {
        let Ok(left) = Timespec::try_from(end.saturating_duration_since(Instant::now())) else { return };
        let mut fds: Vec<PollFd<'_>> = dying.iter().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&left)) {
            Err(Errno::INTR) => continue,
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let dead: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut dead = dead.into_iter();
        dying.retain(|_| !dead.next().unwrap_or(false));
    }
}
