//! `bellhop start`: the daemon, attached or detached.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::host::Host;
use super::output::{complain, say};
use super::{Context, connect, finish, log, login, stop};
use crate::config::cloud::{self, Cloud};
use crate::config::paths::HOME_VARIABLE;
use crate::config::{Config, Home};

/// Set in the environment of a detached daemon.
const CHILD_VARIABLE: &str = "BELLHOP_DAEMON_CHILD";

/// Set in the environment of a daemon that has put itself in its own place.
pub const RESTARTED_VARIABLE: &str = "BELLHOP_RESTARTED";

/// How long a detached daemon may take until it answers.
const STARTING: Duration = Duration::from_secs(15);

/// How long a daemon that is replaced may take to end.
const REPLACING: Duration = Duration::from_secs(50);

/// How much of what a failed daemon has said is repeated, in bytes.
const SAID: usize = 4_096;

/// Runs the command. Its exit code may be any that the daemon ends with.
pub fn main(args: &Parsed, host: &dyn Host) -> ExitCode {
    match run(args, host) {
        Ok(code) => code,
        Err(failure) => finish(Err(failure)).into(),
    }
}

fn run(args: &Parsed, host: &dyn Host) -> Result<ExitCode, Failure> {
    if args.flag("background") && args.flag("foreground") {
        return Err(Failure::usage("start takes --background or --foreground, not both"));
    }
    if !args.flag("background") {
        crate::heap::be_frugal();
    }
    let cloud = Cloud::of_process().map_err(Failure::new)?;
    let ready = ready_pipe(args)?;
    let detached = std::env::var_os(CHILD_VARIABLE).is_some();
    let context = Context { home: Home::find(args.home.as_deref())?, host };
    context.home.prepare()?;
    // Checked before anything else is touched: a daemon that runs is not replaced by one that cannot start.
    let mut config = match &cloud {
        // Its file is written anew once the home is ours.
        Some(_) => cloud::configuration(&context.home)?,
        None => crate::config::load::load(&context.home.config())?,
    };
    let running = stop::holder(&context.home)?;
    if args.flag("if-stopped") && running.is_some() {
        return Ok(ExitCode::SUCCESS);
    }
    // Whoever has started this process has seen to it; a sandbox's login comes with the environment.
    if cloud.is_none() && !detached && std::env::var_os(RESTARTED_VARIABLE).is_none() {
        let wish = login::wish(args)?;
        if let Some(pid) = running.filter(|_| !args.flag("replace")) {
            let wished = wish.is_some() && login::see_to_it(wish, &context)?;
            if wished {
                // It looks for a new login when it reads its configuration again.
                stop::signal(&context.home, pid, rustix::process::Signal::HUP)?;
            }
            return Err(already_running(pid, wished));
        }
        login::see_to_it(wish, &context)?;
        if login::first_configuration(args, &context)? {
            config = crate::config::load::load(&context.home.config())?;
        }
    }
    // The start that a sandbox wakes up with has the token that counts now.
    make_room(args.flag("replace") || cloud.is_some(), &context.home)?;
    if args.flag("background") && cloud.is_none() {
        return match background(&context.home) {
            // Another start was faster.
            Err(_) if args.flag("if-stopped") && stop::holder(&context.home)?.is_some() => Ok(ExitCode::SUCCESS),
            done => done.map(ExitCode::from),
        };
    }
    if detached {
        // Out of the terminal's session: its end must not be ours.
        let _ = rustix::process::setsid();
    }
    Ok(foreground(&context, config, detached, ready))
}

/// The pipe on which a supervisor waits for readiness. Opened before anything else: a descriptor that the supervisor
/// did not open would be one of ours later.
fn ready_pipe(args: &Parsed) -> Result<Option<File>, Failure> {
    let Some(fd) = args.number("ready-fd") else { return Ok(None) };
    if args.flag("background") {
        return Err(Failure::usage("--ready-fd is for a daemon in the foreground"));
    }
    let pipe = OpenOptions::new().write(true).open(format!("/proc/self/fd/{fd}"));
    match pipe.and_then(|pipe| Ok((pipe.metadata()?.file_type().is_fifo(), pipe))) {
        Ok((true, pipe)) => Ok(Some(pipe)),
        _ => Err(Failure::usage(format!("--ready-fd: {fd} is not a pipe that the supervisor has opened"))),
    }
}

/// `told`: of a new login.
fn already_running(pid: i32, told: bool) -> Failure {
    let told = if told { ", and uses the new login" } else { "" };
    Failure::new(format!("already running (pid {pid}){told}; to put another in its place: --replace"))
}

fn make_room(replace: bool, home: &Home) -> Result<(), Failure> {
    let Some(pid) = stop::holder(home)? else { return Ok(()) };
    if !replace {
        return Err(already_running(pid, false));
    }
    stop::terminate(home, pid)?;
    if !stop::wait(home, REPLACING)? {
        return Err(Failure::new(format!("nothing was started: {}", stop::not_ended(pid))));
    }
    Ok(())
}

fn foreground(context: &Context<'_>, config: Config, detached: bool, ready: Option<File>) -> ExitCode {
    log::init(::log::LevelFilter::Info, !detached, Some(&context.home.log()));
    for warning in &config.warnings {
        ::log::warn!("{warning}");
    }
    context.host.run_foreground(&context.home, config, ready)
}

fn background(home: &Home) -> Result<Exit, Failure> {
    let program = std::env::current_exe().map_err(|e| Failure::new(format!("own program not found: {e}")))?;
    // What the daemon says before its log is there. The file has no name, so that nothing is left behind.
    let said = nameless(home)?;
    let mut command = Command::new(program);
    command.arg("start").arg("--foreground");
    match home.root().to_str() {
        Some(root) => command.arg(format!("--home={root}")),
        // No argument can say it.
        None => command.env(HOME_VARIABLE, home.root()),
    };
    let child = command
        .env(CHILD_VARIABLE, "1")
        .env_remove(login::TICKET_VARIABLE)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone()?)
        .spawn()
        .map_err(|e| Failure::new(format!("the daemon cannot be started: {e}")))?;
    let pid = child.id();
    match wait_until_it_answers(home, child)? {
        Started::Answers => say(&format!("daemon started (pid {pid})"))?,
        Started::Ended(how) => {
            if let Some(pid) = stop::holder(home)? {
                return Err(already_running(pid, false));
            }
            let mut text = tail_of(said);
            // Once the log was set up, the reason is its last line.
            if text.is_empty() {
                let log = File::open(home.log()).map(tail_of).unwrap_or_default();
                log.lines().last().unwrap_or("see: bellhop logs").clone_into(&mut text);
            }
            return Err(Failure::new(format!("the daemon did not start ({how}): {text}")));
        }
        Started::Silent => {
            complain(&format!("the daemon (pid {pid}) runs, but has not answered within {} s", STARTING.as_secs()));
            return Ok(Exit::Unreachable);
        }
    }
    Ok(Exit::Ok)
}

enum Started {
    Answers,
    Ended(String),
    Silent,
}

fn wait_until_it_answers(home: &Home, mut child: Child) -> Result<Started, Failure> {
    let end = Instant::now() + STARTING;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Ok(Started::Ended(status.to_string()));
        }
        if stop::holder(home)? == i32::try_from(child.id()).ok() && connect::daemon_if_any(home)?.is_some() {
            return Ok(Started::Answers);
        }
        if Instant::now() > end {
            return Ok(Started::Silent);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn nameless(home: &Home) -> Result<File, Failure> {
    let path = home.logs_dir().join(format!(".start-{}", std::process::id()));
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
    let file = file.map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
    let _ = fs::remove_file(path);
    Ok(file)
}

fn tail_of(mut file: File) -> String {
    let mut text = Vec::new();
    let size = file.seek(SeekFrom::End(0)).unwrap_or(0);
    let _ = file.seek(SeekFrom::Start(size.saturating_sub(SAID as u64)));
    let _ = file.take(SAID as u64).read_to_end(&mut text);
    String::from_utf8_lossy(&text).trim().trim_start_matches("bellhop: ").to_owned()
}
