//! Short commands of a CLI whose output is wanted: `--version`, `--help`, `model list`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::process::{Driven, Handler, Io, Process, Spec, Stdin, StopLimits};
use crate::engine::cancel::CancelToken;

/// How long such a command may take.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// Most bytes of output that are kept; a command that prints more has failed.
const OUTPUT_LIMIT: usize = 16 * 1_048_576;
/// How one that takes too long is stopped: nothing is lost with it.
const STOP: StopLimits =
    StopLimits { term: Duration::from_millis(200), kill: Duration::from_millis(500), give_up: Duration::from_secs(2) };

/// Commands run so far. Each is marked with a number of its own: several run at the same time, and ending one that
/// takes too long must not end the others.
static COMMANDS: AtomicU64 = AtomicU64::new(1);

struct Collect {
    text: String,
    failed: bool,
}

impl Handler for Collect {
    fn line(&mut self, line: &str, io: &mut Io) {
        if self.text.len() + line.len() >= OUTPUT_LIMIT {
            self.failed = true;
            io.stop();
            return;
        }
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn tick(&mut self, io: &mut Io) {
        self.failed = true;
        io.stop();
    }
}

/// Standard output of `program args`, lines trimmed and empty ones left out. Nothing on stdin, standard
/// error dropped, colours off. `None`: it could not be started, failed, took longer than 5 s or printed
/// more than 16 MiB.
pub fn stdout(program: &Path, args: &[&str], env: &BTreeMap<String, String>, cwd: &Path) -> Option<String> {
    let env = env.iter().map(|(k, v)| (k.into(), v.into())).collect();
    let said = run(program, args, env, cwd, TIME_LIMIT)?;
    (said.code == Some(0)).then_some(said.stdout)
}

/// What a command said and how it ended.
pub struct Said {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output, lines trimmed and empty ones left out.
    pub stdout: String,
    /// The end of standard error, as it came.
    pub stderr: String,
}

/// Runs `program args` with nothing on stdin and colours off. `None`: it could not be started, took longer than
/// `limit` or printed more than 16 MiB.
pub fn run(
    program: &Path,
    args: &[&str],
    mut env: Vec<(OsString, OsString)>,
    cwd: &Path,
    limit: Duration,
) -> Option<Said> {
    env.retain(|(name, _)| name != "FORCE_COLOR" && name != "NO_COLOR");
    env.extend([("FORCE_COLOR", "0"), ("NO_COLOR", "1")].map(|(k, v)| (k.into(), v.into())));
    let spec = Spec {
        runtime: "probe".into(),
        turn_id: format!("probe-{}-{}", std::process::id(), COMMANDS.fetch_add(1, Ordering::Relaxed)),
        program: program.to_owned(),
        args: args.iter().map(Into::into).collect(),
        env,
        cwd: if cwd.is_dir() { cwd.to_owned() } else { "/".into() },
        stdin: Stdin::Null,
        idle_limit: None,
        kill_leftovers: false,
        stop: STOP,
    };
    let cancel = CancelToken::new().ok()?;
    let mut collect = Collect { text: String::new(), failed: false };
    let mut process = Process::spawn(spec).ok()?;
    // Neither silence nor chatter on either pipe puts it off.
    process.wake_at(Instant::now() + limit);
    match process.drive(&cancel, &mut collect) {
        Driven::Ended(end) if end.stopped.is_none() && !collect.failed => {
            Some(Said { code: end.exit_code, stdout: collect.text, stderr: end.stderr_tail })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(script: &str) -> Option<String> {
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".into());
        let env = BTreeMap::from([("PATH".to_owned(), path)]);
        stdout(Path::new("sh"), &["-c", script], &env, &std::env::temp_dir())
    }

    #[test]
    fn only_a_command_that_succeeds_is_heard() {
        assert_eq!(say("echo ' a'; echo; echo b >&2; printf $NO_COLOR").as_deref(), Some("a\n1\n"));
        assert_eq!(say("echo a; exit 1"), None);
        assert_eq!(stdout(Path::new("/nowhere/x"), &[], &BTreeMap::new(), Path::new("/")), None);
    }

    #[test]
    fn whatever_it_does_meanwhile_its_time_ends() {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        let forever = |script: &str| {
            let env = vec![("PATH".into(), path.clone())];
            run(Path::new("sh"), &["-c", script], env, Path::new("/"), Duration::from_millis(300)).is_none()
        };
        for said in ["", "echo x;", "echo x >&2;", "printf x;", "printf x >&2;"] {
            assert!(forever(&format!("while :; do {said} sleep 0.02; done")), "{said:?}");
        }
    }

    #[test]
    fn the_end_of_one_leaves_the_others_alone() {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        let ask = |script: &'static str, limit: u64| {
            let env = vec![("PATH".into(), path.clone())];
            std::thread::spawn(move || {
                run(Path::new("sh"), &["-c", script], env, Path::new("/"), Duration::from_millis(limit))
            })
        };
        let (slow, short) = (ask("sleep 1; echo done", 60_000), ask("sleep 60", 100));
        assert!(short.join().unwrap().is_none());
        assert_eq!(slow.join().unwrap().map(|said| said.stdout), Some("done\n".to_owned()));
    }
}
