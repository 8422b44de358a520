//! The loop that drives one child: sleep in `poll(2)`, then look at the token, the deadlines and the pipes,
//! in this order.
//!
//! Between two looks at the token at most one chunk of each pipe is read, and the token is looked at again
//! before every line, so a flood of output cannot delay a cancellation by more than one call of the handler.

use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;

use super::leader::TICK;
use super::pipes::{CHUNK, MAX_QUEUED};
use super::stop::{Effect, Event, Stop};
use super::{Action, Driven, Ended, Handler, Io, Process, StopCause, reap};
use crate::engine::cancel::CancelToken;
use crate::text;

/// How long a pipe is still read after the child's exit, when something the child left holds it open.
const LINGER: Duration = Duration::from_secs(1);

/// How long to wait when `poll` itself fails, which only a machine out of memory makes happen.
const POLL_PAUSE: Duration = Duration::from_millis(50);

/// A stop sequence under way.
pub(super) struct Stopping {
    /// `None`: the child did not end by itself in the time the handler gave it. Its work is done, so
    /// what it started on purpose stays alone.
    pub(super) cause: Option<StopCause>,
    since: Instant,
    state: Stop,
}

/// One call of [`Process::drive`].
pub(super) struct Drive<'a> {
    child: &'a mut Process,
    cancel: &'a CancelToken,
    handler: &'a mut dyn Handler,
    buf: Vec<u8>,
    paused: bool,
    given_up: bool,
    /// Since when the idle watchdog counts.
    quiet_since: Instant,
    was_busy: bool,
}

/// What `poll` found.
#[derive(Clone, Copy, Default)]
struct Ready {
    token: bool,
    exit: bool,
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl<'a> Drive<'a> {
    pub(super) fn new(child: &'a mut Process, cancel: &'a CancelToken, handler: &'a mut dyn Handler) -> Self {
        let was_busy = handler.busy();
        Self {
            child,
            cancel,
            handler,
            buf: vec![0; CHUNK],
            paused: false,
            given_up: false,
            quiet_since: Instant::now(),
            was_busy,
        }
    }

    pub(super) fn run(mut self) -> Driven {
        let mut ready = Ready::default();
        loop {
            self.look_at_token(ready.token);
            self.meet_deadlines();
            if ready.exit {
                self.note_exit();
            }
            if ready.stdin {
                self.child.stdin.write();
            }
            self.read(ready);
            self.pass_lines();
            self.watch_idle();
            if self.child.stopping.is_none() && self.paused {
                return Driven::Paused;
            }
            if self.is_over() {
                return Driven::Ended(self.end());
            }
            ready = self.sleep();
        }
    }

    fn look_at_token(&mut self, woken: bool) {
        if woken {
            self.cancel.drain();
        }
        if self.cancel.is_cancelled() {
            self.begin_stop(Some(StopCause::Cancelled));
        } else if woken && self.child.stopping.is_none() {
            self.event(|handler, io| handler.woken(io));
        }
    }

    fn meet_deadlines(&mut self) {
        let now = Instant::now();
        if let Some(stopping) = &mut self.child.stopping {
            let elapsed = Event::Elapsed(now.saturating_duration_since(stopping.since));
            let effect;
            (stopping.state, effect) = stopping.state.step(elapsed, self.child.limits);
            self.perform(effect);
        } else {
            if self.child.end_at.take_if(|at| *at <= now).is_some() {
                self.begin_stop(None);
            }
            if self.child.stopping.is_none() && self.child.wake_at.take_if(|at| *at <= now).is_some() {
                self.event(|handler, io| handler.tick(io));
            }
        }
        if self.child.exited_at.is_some_and(|at| at + LINGER <= now) {
            self.let_pipes_go();
        }
    }

    fn read(&mut self, ready: Ready) {
        let mut came = 0;
        if ready.stdout {
            came += self.child.stdout.read(&mut self.buf);
        }
        if ready.stderr {
            came += self.child.stderr.read(&mut self.buf);
        }
        if came > 0 {
            self.quiet_since = Instant::now();
        }
    }

    fn let_pipes_go(&mut self) {
        self.child.stdout.let_go(&mut self.buf);
        self.child.stderr.let_go(&mut self.buf);
    }

    /// Hands on what has come. The lines are taken out of the child meanwhile, so that what the handler
    /// asks for can be done at once.
    fn pass_lines(&mut self) {
        let mut lines = std::mem::take(&mut self.child.stdout.lines);
        lines.for_each(|line| {
            self.look_at_token(false);
            if self.child.stopping.is_some() {
                self.event(|handler, io| handler.line_after_stop(line, io));
                self.stand_down();
                return self.unless_paused();
            }
            self.event(|handler, io| handler.line(line, io));
            self.quiet_since = Instant::now();
            self.unless_paused()
        });
        self.child.stdout.lines = lines;
        if self.unless_paused().is_break() {
            return;
        }
        let mut lines = std::mem::take(&mut self.child.stderr.lines);
        lines.for_each(|line| {
            self.look_at_token(false);
            if self.child.stopping.is_some() {
                return ControlFlow::Continue(());
            }
            self.event(|handler, io| handler.stderr_line(line, io));
            self.quiet_since = Instant::now();
            self.unless_paused()
        });
        self.child.stderr.lines = lines;
    }

    fn unless_paused(&self) -> ControlFlow<()> {
        if self.paused && self.child.stopping.is_none() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// After reading, so that output which waited while the handler was slow counts.
    fn watch_idle(&mut self) {
        let Some(limit) = self.child.idle_limit else { return };
        let now = Instant::now();
        if self.handler.busy() {
            self.quiet_since = now;
        }
        if self.child.exited_at.is_none() && now.saturating_duration_since(self.quiet_since) >= limit {
            self.begin_stop(Some(StopCause::Idle));
        }
    }

    /// Calls the handler and does what it asks for.
    fn event(&mut self, call: impl FnOnce(&mut dyn Handler, &mut Io)) {
        let mut io = Io::default();
        call(&mut *self.handler, &mut io);
        if self.handler.busy() != self.was_busy {
            self.was_busy = !self.was_busy;
            self.quiet_since = Instant::now();
        }
        for action in io.actions {
            self.apply(action);
        }
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Write(bytes) => {
                self.child.stdin.push(bytes);
                if self.child.stdin.is_stuck() {
                    log::warn!("process.stdin_stuck {} limit_bytes={MAX_QUEUED}", self.child.label());
                    self.child.stdin.close();
                }
            }
            Action::CloseStdin => self.child.stdin.close_after_queue(),
            Action::Stop => self.begin_stop(Some(StopCause::Handler)),
            Action::Pause => self.paused = true,
            Action::WakeAt(at) => self.child.wake_at = at,
            Action::EndWithin(limit) => self.child.end_at = Instant::now().checked_add(limit),
        }
    }

    fn begin_stop(&mut self, cause: Option<StopCause>) {
        if let Some(stopping) = &mut self.child.stopping {
            // Cancelled while it was being ended quietly: from now on its leftovers go, too.
            if stopping.cause.is_none() && cause.is_some() {
                stopping.cause = cause;
                let gone = stopping.state == Stop::Gone;
                self.child.remember_descendants();
                if gone {
                    self.child.sweep();
                }
            }
            return;
        }
        let exited = self.note_exit();
        if exited && cause.is_none() {
            return;
        }
        log::debug!("process.stop {} cause={cause:?}", self.child.label());
        let (state, effect) = Stop::begin(exited);
        self.child.stopping = Some(Stopping { cause, since: Instant::now(), state });
        self.perform(effect);
    }

    /// Calls the stop off when the child has obeyed the first step of it and stays.
    fn stand_down(&mut self) {
        let asked = self.child.stopping.as_ref().is_some_and(|stopping| stopping.state == Stop::Interrupted);
        if asked && self.handler.at_rest() {
            self.child.stopping = None;
            self.paused = true;
        }
    }

    fn perform(&mut self, effect: Effect) {
        let leaves_nothing = self.child.stop_cause().is_some();
        if leaves_nothing && matches!(effect, Effect::Interrupt | Effect::Terminate | Effect::Kill) {
            // Once their parents are dead nothing leads to them any more.
            self.child.remember_descendants();
        }
        match effect {
            Effect::Wait => {}
            Effect::Interrupt => {
                let mut asked = false;
                if leaves_nothing {
                    self.event(|handler, io| asked = handler.interrupt(io));
                }
                if !asked {
                    self.child.leader.signal(Signal::INT);
                }
            }
            Effect::Terminate => self.child.leader.signal_group(Signal::TERM),
            Effect::Kill => self.child.leader.signal_group(Signal::KILL),
            Effect::GiveUp => {
                self.given_up = true;
                self.child.leader.signal_group(Signal::KILL);
                if leaves_nothing {
                    self.child.sweep();
                }
                self.let_pipes_go();
            }
            Effect::Sweep => {
                if leaves_nothing {
                    self.child.leader.signal_group(Signal::KILL);
                    self.child.sweep();
                }
            }
        }
    }

    /// Looks whether the child has exited; returns whether it has.
    fn note_exit(&mut self) -> bool {
        if self.child.exited_at.is_some() {
            return true;
        }
        if self.child.leader.look().is_none() {
            return false;
        }
        self.child.exited_at = Some(Instant::now());
        self.child.stdin.close();
        if let Some(stopping) = &mut self.child.stopping {
            let effect;
            (stopping.state, effect) = stopping.state.step(Event::Exited, self.child.limits);
            self.perform(effect);
        }
        true
    }

    /// Given up, or exited with both pipes at their end. Every line has been handed on by then.
    fn is_over(&self) -> bool {
        let child = &*self.child;
        self.given_up || (child.exited_at.is_some() && child.stdout.fd().is_none() && child.stderr.fd().is_none())
    }

    fn end(&mut self) -> Ended {
        let child = &mut *self.child;
        let exit = child.leader.look().unwrap_or_default();
        child.stdin.close();
        let given_up = self.given_up && child.leader.exit().is_none();
        if given_up {
            reap::give_up(child.leader.hand_over(), child.turn_id.clone());
        } else {
            child.leader.reap();
        }
        let ended = Ended {
            exit_code: exit.code,
            signal: exit.signal,
            stopped: child.stop_cause(),
            given_up,
            stderr_tail: text::without_escapes(child.stderr.tail.text()),
            stdout_tail: text::without_escapes(child.stdout.tail.text()),
            skipped_lines: child.stdout.lines.skipped() + child.stderr.lines.skipped(),
            duration: child.started.elapsed(),
        };
        child.ended = Some(ended.clone());
        ended
    }

    /// Sleeps until something happens or is due.
    fn sleep(&self) -> Ready {
        let child = &*self.child;
        let pidfd = if child.exited_at.is_none() { child.leader.pidfd() } else { None };
        let wanted = [
            (Some(self.cancel.as_fd()), PollFlags::IN),
            (pidfd, PollFlags::IN),
            (child.stdin.fd(), PollFlags::OUT),
            (child.stdout.fd(), PollFlags::IN),
            (child.stderr.fd(), PollFlags::IN),
        ];
        let polled = wanted.iter().filter_map(|(fd, flags)| Some(PollFd::from_borrowed_fd((*fd)?, *flags)));
        let mut fds: Vec<PollFd<'_>> = polled.collect();
        let left = self.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ready::default(),
            Err(error) => {
                log::warn!("process.poll_failed {} error={error}", child.label());
                std::thread::sleep(POLL_PAUSE);
                return Ready::default();
            }
        }
        let mut polled = fds.iter();
        let mut ready = wanted.map(|(fd, _)| fd.is_some() && polled.next().is_some_and(|fd| !fd.revents().is_empty()));
        // Without a pidfd every wake-up looks for the exit.
        ready[1] |= child.exited_at.is_none() && pidfd.is_none();
        let [token, exit, stdin, stdout, stderr] = ready;
        Ready { token, exit, stdin, stdout, stderr }
    }

    /// When something is due next.
    fn next_deadline(&self) -> Option<Instant> {
        let child = &*self.child;
        let linger = child.exited_at.map(|at| at + LINGER);
        let look = (linger.is_none() && child.leader.pidfd().is_none()).then(|| Instant::now() + TICK);
        if let Some(stopping) = &child.stopping {
            let step = stopping.state.due(child.limits).and_then(|after| stopping.since.checked_add(after));
            return [linger, look, step].into_iter().flatten().min();
        }
        let idle = child.idle_limit.filter(|_| linger.is_none());
        let idle = idle.and_then(|limit| self.quiet_since.checked_add(limit));
        let end = child.end_at.filter(|_| linger.is_none());
        [linger, look, child.wake_at, end, idle].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::super::{Spec, Stdin, StopLimits};
    use super::*;
    use crate::engine::cancel::CancelReason;

    struct Lines(Vec<String>);

    impl Handler for Lines {
        fn line(&mut self, line: &str, _: &mut Io) {
            self.0.push(line.to_owned());
        }
    }

    fn without_pidfd(script: &str) -> Process {
        let spec = Spec {
            runtime: "fake".into(),
            turn_id: format!("drive-test-{}-{}", std::process::id(), script.len()),
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            env: Vec::new(),
            cwd: "/".into(),
            stdin: Stdin::Null,
            idle_limit: None,
            kill_leftovers: false,
            stop: StopLimits::default(),
        };
        let mut process = Process::spawn(spec).unwrap();
        process.leader.forget_pidfd();
        process
    }

    #[test]
    fn kernels_without_pidfd() {
        // Tests that were started in the background ignore interrupts, and so would their children.
        let is_default = Arc::new(AtomicBool::new(true));
        signal_hook::flag::register_conditional_default(signal_hook::consts::SIGINT, is_default).unwrap();
        let cancel = CancelToken::new().unwrap();
        let mut lines = Lines(Vec::new());
        let Driven::Ended(end) = without_pidfd("echo x; exec >&- 2>&-; exit 3").drive(&cancel, &mut lines) else {
            panic!("paused")
        };
        assert_eq!((end.exit_code, lines.0), (Some(3), vec!["x".to_owned()]));
        cancel.cancel(CancelReason::User);
        let Driven::Ended(end) = without_pidfd("exec sleep 300").drive(&cancel, &mut Lines(Vec::new())) else {
            panic!("paused")
        };
        assert_eq!((end.signal, end.stopped), (Some(2), Some(StopCause::Cancelled)));
        let dropped = without_pidfd("exec  sleep  300");
        let id = dropped.id();
        drop(dropped);
        assert!(!Process::pid_lives(id));
    }
}
