//! Short commands of a CLI whose output is wanted: `--help`, `model list`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use super::process::{Driven, Handler, Io, Process, Spec, Stdin, StopLimits};
use crate::engine::cancel::CancelToken;

/// How long such a command may take.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// Most bytes of output that are kept; a command that prints more has failed.
const OUTPUT_LIMIT: usize = 16 * 1_048_576;

struct Collect {
    text: String,
    end: Instant,
    failed: bool,
}

impl Handler for Collect {
    fn line(&mut self, line: &str, io: &mut Io) {
        io.wake_at(Some(self.end));
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
        turn_id: format!("probe-{}", std::process::id()),
        program: program.to_owned(),
        args: args.iter().map(Into::into).collect(),
        env,
        cwd: if cwd.is_dir() { cwd.to_owned() } else { "/".into() },
        stdin: Stdin::Null,
        // Silence ends it here, endless chatter by the tick.
        idle_limit: Some(limit),
        kill_leftovers: false,
        stop: StopLimits::default(),
    };
    let cancel = CancelToken::new().ok()?;
    let mut collect = Collect { text: String::new(), end: Instant::now() + limit, failed: false };
    match Process::spawn(spec).ok()?.drive(&cancel, &mut collect) {
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
}
