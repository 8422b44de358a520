//! Child processes of runtimes: started in a process group of their own, read line by line, stopped
//! without leaving anything behind.
//!
//! One thread drives one child: it sleeps in `poll(2)` over the child's three pipes, its pidfd and the
//! turn's [`CancelToken`]. No reader threads: a pipe that an orphan keeps open cannot strand one, a full
//! pipe slows the CLI down instead of filling memory, and cancellation always comes before more output.

mod drive;
mod leader;
mod lines;
mod pipes;
mod proc_fs;
mod reap;
mod spawn;
mod stop;
mod sweep;
mod tail;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use self::drive::{Drive, Stopping};
use self::leader::Leader;
use self::pipes::{Sink, Source};
use crate::engine::cancel::CancelToken;
use crate::engine::ports::ProcessId;

pub use self::reap::{Reaper, become_subreaper, reap_orphans, retry_given_up, start_reaper};
pub use self::sweep::{WARM_MARK, sweep_turn, sweep_turns, sweep_warm};

/// How long dropping a running child waits for it to die.
const DROP_WAIT: Duration = Duration::from_secs(2);

/// What to start.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Runtime id, for messages: `<id> exited with code 3`.
    pub runtime: String,
    /// Turn id; the child's `BELLHOP_TURN`, by which the sweep finds what it left.
    pub turn_id: String,
    /// Program; a bare name is looked up on the child's PATH.
    pub program: PathBuf,
    /// Arguments without the program.
    pub args: Vec<OsString>,
    /// The whole environment of the child (nothing is inherited). `BELLHOP_TURN` is added.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory; must exist.
    pub cwd: PathBuf,
    /// What the child reads.
    pub stdin: Stdin,
    /// No byte on stdout or stderr for so long: the child is stopped. `None` switches the watchdog off.
    pub idle_limit: Option<Duration>,
    /// Kill what a normal end leaves running, instead of logging its number.
    pub kill_leftovers: bool,
    /// Time limits of stopping.
    pub stop: StopLimits,
}

/// Standard input of a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stdin {
    /// `/dev/null`.
    Null,
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// A pipe that the handler writes to with [`Io::write`] until [`Io::close_stdin`].
    Pipe,
}

/// When the steps of stopping follow each other, counted from the request to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopLimits {
    /// SIGTERM to the process group.
    pub term: Duration,
    /// SIGKILL to the process group.
    pub kill: Duration,
    /// The driver gives up waiting; the pid stays on a list that is tried again every 60 s.
    pub give_up: Duration,
}

impl Default for StopLimits {
    fn default() -> Self {
        Self { term: Duration::from_secs(2), kill: Duration::from_secs(5), give_up: Duration::from_secs(15) }
    }
}

/// The time to SIGTERM of a child whose work is done. Codex ignores SIGINT while it winds up, and the next turn
/// of the conversation waits meanwhile.
const TERM_WHEN_DONE: Duration = Duration::from_millis(200);

/// A child that could not be started.
#[derive(Debug)]
pub struct SpawnError {
    /// For people: names the program or directory and what is wrong with it.
    pub message: String,
    /// The program does not exist or cannot be executed.
    pub not_found: bool,
}

/// Why the driver stopped a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// The turn's token was set.
    Cancelled,
    /// The handler asked with [`Io::stop`].
    Handler,
    /// The idle watchdog.
    Idle,
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code, when it exited.
    pub exit_code: Option<i32>,
    /// Signal number, when it was killed by one.
    pub signal: Option<i32>,
    /// Set when the driver stopped it.
    pub stopped: Option<StopCause>,
    /// It did not end within [`StopLimits::give_up`].
    pub given_up: bool,
    /// Last 8 192 characters of stderr, without sequences for terminals (not redacted).
    pub stderr_tail: String,
    /// Last 8 192 characters of stdout, likewise.
    pub stdout_tail: String,
    /// Lines of stdout and stderr that were longer than 16 MiB and were skipped whole.
    pub skipped_lines: u64,
    /// From the spawn to the end.
    pub duration: Duration,
}

/// Why [`Process::drive`] returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driven {
    /// The child has ended and both pipes are read.
    Ended(Ended),
    /// The handler asked for a pause with [`Io::pause`]; the child lives and can be driven again.
    Paused,
}

/// What a handler can do to the child while it handles an event. The default one belongs to no child: for
/// tests of handlers.
#[derive(Debug, Default)]
pub struct Io {
    pub(super) actions: Vec<Action>,
}

#[derive(Debug)]
pub(super) enum Action {
    Write(Vec<u8>),
    CloseStdin,
    Stop,
    Pause,
    WakeAt(Option<Instant>),
    EndWithin(Duration),
}

impl Io {
    /// Queues bytes for the child's stdin. Nothing happens when it is closed. A child that leaves more
    /// than 64 MiB unread loses its stdin.
    pub fn write(&mut self, bytes: impl Into<Vec<u8>>) {
        self.actions.push(Action::Write(bytes.into()));
    }

    /// Closes stdin once everything queued is written.
    pub fn close_stdin(&mut self) {
        self.actions.push(Action::CloseStdin);
    }

    /// Starts the stop sequence.
    pub fn stop(&mut self) {
        self.actions.push(Action::Stop);
    }

    /// Makes [`Process::drive`] return [`Driven::Paused`] after this event.
    pub fn pause(&mut self) {
        self.actions.push(Action::Pause);
    }

    /// Sets (or clears) the time at which [`Handler::tick`] is called next.
    pub fn wake_at(&mut self, at: Option<Instant>) {
        self.actions.push(Action::WakeAt(at));
    }

    /// The child is expected to end by itself within this time; afterwards it is stopped, which is not
    /// counted as a failure ([`Ended::stopped`] stays empty). Its work being done, it is not asked with
    /// [`Handler::interrupt`], and what it has started on purpose is not swept.
    pub fn end_within(&mut self, limit: Duration) {
        self.actions.push(Action::EndWithin(limit));
    }
}

/// What a runtime adapter does with the output of its child.
pub trait Handler {
    /// One line of stdout, trimmed, not empty, invalid UTF-8 replaced. A last line without newline counts.
    /// Not called any more once the stop sequence has begun, except for [`Handler::line_after_stop`].
    fn line(&mut self, line: &str, io: &mut Io);

    /// One line of stdout that came after the stop sequence began (a session id may still be taken from it).
    fn line_after_stop(&mut self, line: &str, io: &mut Io) {
        let _ = (line, io);
    }

    /// One line of stderr, trimmed, not empty. Neither this nor `tick` nor `woken` is called once the stop
    /// sequence has begun.
    fn stderr_line(&mut self, line: &str, io: &mut Io) {
        let _ = (line, io);
    }

    /// The time set with [`Io::wake_at`] has come.
    fn tick(&mut self, io: &mut Io) {
        let _ = io;
    }

    /// The turn's token was woken without being set: an approval may have come.
    fn woken(&mut self, io: &mut Io) {
        let _ = io;
    }

    /// First step of stopping. Returns whether the handler has asked the child itself (`session/cancel`);
    /// otherwise it gets SIGINT.
    fn interrupt(&mut self, io: &mut Io) -> bool {
        let _ = io;
        false
    }

    /// Whether a child that was asked to stop with [`Handler::interrupt`] has done so and is at rest, ready for
    /// more. Looked at after every [`Handler::line_after_stop`] until the next step of stopping is due: the stop
    /// is then called off and [`Process::drive`] returns [`Driven::Paused`].
    fn at_rest(&self) -> bool {
        false
    }

    /// While this is true the idle watchdog does not count (a tool runs, an approval is waited for).
    fn busy(&self) -> bool {
        false
    }
}

/// A running child. Dropping it kills its process group and everything marked with its turn.
pub struct Process {
    runtime: String,
    turn_id: String,
    idle_limit: Option<Duration>,
    kill_leftovers: bool,
    limits: StopLimits,
    leader: Leader,
    stdin: Sink,
    stdout: Source,
    stderr: Source,
    started: Instant,
    exited_at: Option<Instant>,
    /// When [`Handler::tick`] is due.
    wake_at: Option<Instant>,
    /// When the child should have ended by itself.
    end_at: Option<Instant>,
    stopping: Option<Stopping>,
    /// Descendants that were seen while the child was being stopped.
    known: Vec<ProcessId>,
    /// What earlier turns of this child have left running; no sweep touches it, nor what is below it.
    spared: Vec<ProcessId>,
    ended: Option<Ended>,
}

impl Process {
    /// Starts a child. A program without `/` is looked up on the child's PATH, a relative one with `/` is
    /// taken from [`Spec::cwd`].
    pub fn spawn(spec: Spec) -> Result<Self, SpawnError> {
        let started = spawn::start(&spec)?;
        let mut stdin = Sink::new(started.stdin);
        if let Stdin::Bytes(bytes) = spec.stdin {
            stdin.push(bytes);
            stdin.close_after_queue();
        }
        Ok(Self {
            runtime: spec.runtime,
            turn_id: spec.turn_id,
            idle_limit: spec.idle_limit,
            kill_leftovers: spec.kill_leftovers,
            limits: spec.stop,
            leader: started.leader,
            stdin,
            stdout: Source::new(started.stdout),
            stderr: Source::new(started.stderr),
            started: Instant::now(),
            exited_at: None,
            wake_at: None,
            end_at: None,
            stopping: None,
            known: Vec::new(),
            spared: Vec::new(),
            ended: None,
        })
    }

    /// Queues bytes for the child's stdin, which are written when it is driven next; see [`Io::write`].
    pub fn write(&mut self, bytes: impl Into<Vec<u8>>) {
        self.stdin.push(bytes.into());
    }

    /// To be called before each further turn of a child that stays between turns: what the turns before have
    /// left running on purpose is not swept with this one.
    pub fn begin_turn(&mut self) {
        self.spared = self.leftovers();
        self.known.clear();
    }

    /// Kills what a turn has left running whose child was interrupted and stays: the processes of its tools.
    /// The child, what shares its process group (its own helpers) and what earlier turns have left are not
    /// touched. Returns how many were killed.
    pub fn sweep_tools(&mut self) -> usize {
        let leader = self.id();
        let known = std::mem::take(&mut self.known);
        let turns = [self.turn_id.as_bytes()].into();
        let target = sweep::Target {
            turns,
            known,
            spared: self.spared.clone(),
            kept_group: Some(leader),
            ..sweep::Target::default()
        };
        let killed = sweep::sweep(&target);
        if killed > 0 {
            log::debug!("process.tools_swept {} killed={killed}", self.label());
        }
        killed
    }

    /// Sets the time at which [`Handler::tick`] is called first, whatever the child does until then; see
    /// [`Io::wake_at`].
    pub fn wake_at(&mut self, at: Instant) {
        self.wake_at = Some(at);
    }

    /// Its identity.
    pub fn id(&self) -> ProcessId {
        self.leader.id()
    }

    /// The turn that it was started for.
    pub fn turn_id(&self) -> &str {
        &self.turn_id
    }

    /// Says that its work is done: when it is stopped from now on, it gets SIGTERM as soon as it has not heeded
    /// SIGINT for a moment.
    pub fn work_is_done(&mut self) {
        self.limits.term = self.limits.term.min(TERM_WHEN_DONE);
    }

    /// Whether this process (and not a later one with its pid) runs. A dead one that nobody has reaped
    /// does not.
    pub fn pid_lives(id: ProcessId) -> bool {
        proc_fs::stat(id.pid).is_some_and(|stat| stat.id() == id && !stat.is_dead())
    }

    /// Feeds the child's output to the handler until it ends, is stopped, or the handler pauses.
    ///
    /// After [`Driven::Paused`] it may be driven again, with another token and another handler; the output
    /// in between waits. After [`Driven::Ended`] the same end is returned again. The idle watchdog
    /// counts anew with every call.
    pub fn drive(&mut self, cancel: &CancelToken, handler: &mut dyn Handler) -> Driven {
        if let Some(ended) = &self.ended {
            return Driven::Ended(ended.clone());
        }
        Drive::new(self, cancel, handler).run()
    }

    /// What the child has left running after a normal end: processes of its turn that fell to us as
    /// orphans, and everything below them. Looks at our own children only; without
    /// [`become_subreaper`] at those of init.
    pub fn leftovers(&self) -> Vec<ProcessId> {
        sweep::leftovers(&self.turn_id)
    }

    /// Deals with the [`Process::leftovers`] of a normal end as [`Spec::kill_leftovers`] says: kills them or
    /// logs their number, which is returned. Meant to be called once the reply is on its way.
    pub fn finish(&mut self) -> usize {
        let left = self.leftovers().len();
        if left > 0 && self.kill_leftovers {
            self.sweep();
            log::info!("process.leftovers_killed {} n={left}", self.label());
        } else if left > 0 {
            log::info!("process.left_running {} n={left}", self.label());
        }
        left
    }

    fn stop_cause(&self) -> Option<StopCause> {
        self.stopping.as_ref()?.cause
    }

    /// For logs.
    fn label(&self) -> String {
        format!("runtime={} turn={} pid={}", self.runtime, self.turn_id, self.id().pid)
    }

    fn remember_descendants(&mut self) {
        for stat in proc_fs::below(self.id().pid) {
            if !self.known.contains(&stat.id()) {
                self.known.push(stat.id());
            }
        }
    }

    fn sweep(&mut self) {
        let known = std::mem::take(&mut self.known);
        let turns = [self.turn_id.as_bytes()].into();
        let target = sweep::Target { turns, known, spared: self.spared.clone(), ..sweep::Target::default() };
        let killed = sweep::sweep(&target);
        if killed > 0 {
            log::debug!("process.swept {} killed={killed}", self.label());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        self.remember_descendants();
        self.leader.signal_group(Signal::KILL);
        self.sweep();
        if self.leader.wait(DROP_WAIT) {
            self.leader.reap();
        } else {
            reap::give_up(self.leader.hand_over(), self.turn_id.clone());
        }
    }
}

/// Name of a signal for people, such as `SIGKILL`.
pub fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}
