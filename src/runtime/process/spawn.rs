//! Starts a child, and says clearly why one cannot be started.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::process::Pid;

use super::leader::Leader;
use super::sweep::MARK;
use super::{SpawnError, Spec, Stdin, reap};

/// Where a bare name is looked for when the child has no PATH, as the C library does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A program that is being replaced at this moment (an update) is tried again so often, so far apart.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// A started child with our ends of its pipes, which do not block.
pub(super) struct Started {
    pub(super) leader: Leader,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// Starts the child of a spec, as leader of a process group of its own.
pub(super) fn start(spec: &Spec) -> Result<Started, SpawnError> {
    check_strings(spec)?;
    check_cwd(spec)?;
    let program = find_program(spec)?;
    let mut command = Command::new(&program);
    command
        .args(&spec.args)
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .env(MARK, &spec.turn_id)
        .current_dir(&spec.cwd)
        .stdin(if spec.stdin == Stdin::Null { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = spawn(&mut command).map_err(|error| explain(spec, &program, &error))?;
    let Some(pid) = Pid::from_raw(child.id().cast_signed()) else {
        return Err(refusal(spec, "the child has no process id"));
    };
    let leader = Leader::new(pid);
    Ok(Started {
        leader,
        stdin: child.stdin.take().map(OwnedFd::from).and_then(unblocked),
        stdout: child.stdout.take().map(OwnedFd::from).and_then(unblocked),
        stderr: child.stderr.take().map(OwnedFd::from).and_then(unblocked),
    })
}

fn spawn(command: &mut Command) -> io::Result<std::process::Child> {
    let mut tries = 1;
    loop {
        match reap::spawn_owned(command) {
            Err(error) if tries < BUSY_TRIES && error.raw_os_error() == Some(Errno::TXTBSY.raw_os_error()) => {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            done => return done,
        }
    }
}

/// Only our end of the pipe becomes non-blocking, the child's stays as programs expect it.
fn unblocked(pipe: OwnedFd) -> Option<OwnedFd> {
    rustix::io::ioctl_fionbio(&pipe, true).ok().map(|()| pipe)
}

fn refusal(spec: &Spec, what: impl Display) -> SpawnError {
    SpawnError { message: format!("{} cannot be started: {what}", spec.runtime), not_found: false }
}

fn missing(spec: &Spec, what: impl Display) -> SpawnError {
    SpawnError { not_found: true, ..refusal(spec, what) }
}

/// Nothing that the system would cut short or misread. Values are not named: they may be secret.
fn check_strings(spec: &Spec) -> Result<(), SpawnError> {
    let has_nul = |text: &OsStr| text.as_bytes().contains(&0);
    if has_nul(spec.program.as_os_str()) || has_nul(spec.cwd.as_os_str()) {
        return Err(refusal(spec, "the program or directory contains a NUL character"));
    }
    if has_nul(OsStr::new(&spec.turn_id)) {
        return Err(refusal(spec, "the turn id contains a NUL character"));
    }
    if let Some(at) = spec.args.iter().position(|arg| has_nul(arg)) {
        return Err(refusal(spec, format_args!("argument {} contains a NUL character", at + 1)));
    }
    for (name, value) in &spec.env {
        let shown = name.to_string_lossy();
        if name.is_empty() || has_nul(name) || name.as_bytes().contains(&b'=') {
            return Err(refusal(spec, format_args!("{shown:?} is not a name of an environment variable")));
        }
        if has_nul(value) {
            return Err(refusal(spec, format_args!("environment variable {shown} contains a NUL character")));
        }
    }
    Ok(())
}

fn check_cwd(spec: &Spec) -> Result<(), SpawnError> {
    let cwd = spec.cwd.display();
    match std::fs::metadata(&spec.cwd) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(refusal(spec, format_args!("working directory {cwd} does not exist")))
        }
        Err(error) => Err(refusal(spec, format_args!("working directory {cwd}: {error}"))),
        Ok(meta) if !meta.is_dir() => Err(refusal(spec, format_args!("working directory {cwd} is not a directory"))),
        Ok(_) if !may_execute(&spec.cwd) => {
            Err(refusal(spec, format_args!("working directory {cwd} may not be entered")))
        }
        Ok(_) => Ok(()),
    }
}

/// A path is taken from the working directory, a bare name from the child's PATH. Doing this here, and not
/// in the system, gives better messages and lets the standard library spawn without `fork`.
fn find_program(spec: &Spec) -> Result<PathBuf, SpawnError> {
    let program = &spec.program;
    let shown = program.display();
    if program.as_os_str().as_bytes().contains(&b'/') {
        let path = spec.cwd.join(program);
        return match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(missing(spec, format_args!("program {shown} does not exist")))
            }
            Err(error) => Err(missing(spec, format_args!("program {shown}: {error}"))),
            Ok(meta) if !meta.is_file() => Err(missing(spec, format_args!("program {shown} is not a file"))),
            Ok(_) if !may_execute(&path) => Err(missing(spec, format_args!("program {shown} is not executable"))),
            Ok(_) => Ok(path),
        };
    }
    let path = spec.env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or_else(|| OsString::from(DEFAULT_PATH), |(_, value)| value.clone());
    let mut unusable = None;
    // An empty entry means the working directory.
    for candidate in std::env::split_paths(&path).map(|dir| spec.cwd.join(dir).join(program)) {
        if !candidate.is_file() {
            continue;
        }
        if may_execute(&candidate) {
            return Ok(candidate);
        }
        unusable.get_or_insert(candidate);
    }
    Err(match unusable {
        Some(path) => missing(spec, format_args!("program {} is not executable", path.display())),
        None => missing(spec, format_args!("program {shown} was not found on the PATH")),
    })
}

fn may_execute(path: &Path) -> bool {
    match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        // Kernels before 5.8 know no flags here; the spawn itself then tells.
        Err(Errno::NOSYS | Errno::INVAL) => true,
        done => done.is_ok(),
    }
}

fn explain(spec: &Spec, program: &Path, error: &io::Error) -> SpawnError {
    let shown = program.display();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::TOOBIG) => {
            let size = |text: &OsStr| text.len() + 1;
            let args: usize = spec.args.iter().map(|arg| size(arg)).sum();
            let env: usize = spec.env.iter().map(|(name, value)| size(name) + size(value)).sum();
            let longest = spec.args.iter().map(|arg| arg.len()).max().unwrap_or(0);
            refusal(
                spec,
                format_args!(
                    "argument list too long: {args} bytes of arguments (the longest has {longest}) and {env} bytes \
                     of environment"
                ),
            )
        }
        // It was there a moment ago, so what is missing is what it needs.
        Some(Errno::NOENT) => {
            missing(spec, format_args!("program {shown} or the interpreter in its first line does not exist"))
        }
        Some(Errno::ACCESS | Errno::PERM) => missing(spec, format_args!("program {shown} may not be executed")),
        Some(Errno::NOEXEC) => refusal(
            spec,
            format_args!("program {shown} is not in a format that this machine runs (a script without `#!` line?)"),
        ),
        Some(Errno::TXTBSY) => refusal(spec, format_args!("program {shown} is being written to")),
        _ => refusal(spec, format_args!("program {shown}: {error}")),
    }
}
