//! Shell scripts as children, a handler that notes what it is told, and a look at who is still alive.

use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bellhop::engine::cancel::CancelToken;
use bellhop::engine::ports::ProcessId;
use bellhop::runtime::process::{
    Driven, Ended, Handler, Io, Process, Spec, Stdin, StopLimits, become_subreaper, start_reaper,
};

/// A name that no other test has.
pub fn unique(what: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// What the daemon does at its start.
pub fn adopt_orphans() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        assert!(become_subreaper());
        std::mem::forget(start_reaper().unwrap());
    });
}

/// A shell script as a child, given all the time it needs when it is stopped.
pub fn script(text: &str) -> Spec {
    Spec {
        runtime: "fake".into(),
        turn_id: unique("turn"),
        program: PathBuf::from("sh"),
        args: vec!["-c".into(), text.into()],
        env: vec![("PATH".into(), std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))],
        cwd: std::env::temp_dir(),
        stdin: Stdin::Null,
        idle_limit: None,
        kill_leftovers: false,
        stop: limits(60_000, 60_000),
    }
}

/// Limits of stopping in milliseconds; giving up is not among what the tests wait for.
pub fn limits(term: u64, kill: u64) -> StopLimits {
    StopLimits { term: Duration::from_millis(term), kill: Duration::from_millis(kill), give_up: Duration::from_mins(2) }
}

type OnEvent<'a> = Box<dyn FnMut(&str, &mut Io) + 'a>;

/// Notes everything; what else it does with a line is up to the test.
#[derive(Default)]
pub struct Notes<'a> {
    pub lines: Vec<String>,
    pub after_stop: Vec<String>,
    pub stderr: Vec<String>,
    pub ticks: u32,
    pub wakes: u32,
    pub interrupts: u32,
    pub busy: bool,
    /// Returned by [`Handler::interrupt`].
    pub interrupts_itself: bool,
    /// Called with every line, and with `(tick)` and `(woken)`.
    pub on_event: Option<OnEvent<'a>>,
}

impl<'a> Notes<'a> {
    pub fn doing(action: impl FnMut(&str, &mut Io) + 'a) -> Self {
        Self { on_event: Some(Box::new(action)), ..Self::default() }
    }

    fn tell(&mut self, event: &str, io: &mut Io) {
        if let Some(action) = &mut self.on_event {
            action(event, io);
        }
    }
}

impl Handler for Notes<'_> {
    fn line(&mut self, line: &str, io: &mut Io) {
        self.lines.push(line.to_owned());
        self.tell(line, io);
    }

    fn line_after_stop(&mut self, line: &str, _: &mut Io) {
        self.after_stop.push(line.to_owned());
    }

    fn stderr_line(&mut self, line: &str, io: &mut Io) {
        self.stderr.push(line.to_owned());
        self.tell(line, io);
    }

    fn tick(&mut self, io: &mut Io) {
        self.ticks += 1;
        self.tell("(tick)", io);
    }

    fn woken(&mut self, io: &mut Io) {
        self.wakes += 1;
        self.tell("(woken)", io);
    }

    fn interrupt(&mut self, _: &mut Io) -> bool {
        self.interrupts += 1;
        self.interrupts_itself
    }

    fn busy(&self) -> bool {
        self.busy
    }
}

/// A fresh token.
pub fn token() -> CancelToken {
    CancelToken::new().unwrap()
}

/// Drives a child to its end with a token that nobody sets.
pub fn run(spec: Spec, notes: &mut Notes<'_>) -> Ended {
    ended(Process::spawn(spec).unwrap().drive(&token(), notes))
}

/// The end, where nothing else is expected.
pub fn ended(driven: Driven) -> Ended {
    match driven {
        Driven::Ended(ended) => ended,
        Driven::Paused => panic!("paused"),
    }
}

/// Processes marked with a turn that run.
pub fn marked(turn: &str) -> Vec<ProcessId> {
    let mark = format!("BELLHOP_TURN={turn}");
    let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    })
    .filter_map(identity)
    .filter(|id| Process::pid_lives(*id))
    .collect()
}

/// Identity of a process that exists.
pub fn identity(pid: i32) -> Option<ProcessId> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let start = stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()?;
    Some(ProcessId { pid, start })
}

/// Waits until something holds; fails the test when it does not come true in a time that only a hanging
/// program needs.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process runs, by its pid.
pub fn lives(pid: i32) -> bool {
    identity(pid).is_some_and(Process::pid_lives)
}

/// Kills one process.
pub fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
