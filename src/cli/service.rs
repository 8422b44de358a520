//! `bellhop service`: has a service manager keep the daemon running.
//!
//! The texts are those that packages install (`src/packaging`), with the path of this program filled in. What is not
//! bellhop's own file is never overwritten or removed.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Context;
use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::output::{complain, say};
use crate::config::paths::{HOME_VARIABLE, expand_tilde, own_uid, plain};

const SYSTEM_UNIT: &str = include_str!("../packaging/bellhop.service");
const USER_UNIT: &str = include_str!("../packaging/bellhop.user.service");
const SYSUSERS: &str = include_str!("../packaging/bellhop.sysusers");

/// In the units, where the program's path belongs.
const PROGRAM: &str = "@PROGRAM@";
const UNIT: &str = "bellhop.service";
const SYSTEM_UNIT_PATH: &str = "/etc/systemd/system/bellhop.service";
const SYSUSERS_PATH: &str = "/etc/sysusers.d/bellhop.conf";
/// Around what belongs to bellhop in a crontab.
const CRON_BEGIN: &str = "# BEGIN bellhop";
const CRON_END: &str = "# END bellhop";
/// The descriptor on which s6 is told of readiness.
const S6_FD: &str = "3";
/// Longest file or crontab that is looked at, in bytes.
const LIMIT: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    User,
    System,
    Cron,
    S6,
}

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let chosen: Vec<Manager> =
        [("user", Manager::User), ("system", Manager::System), ("cron", Manager::Cron), ("s6", Manager::S6)]
            .into_iter()
            .filter(|(flag, _)| args.flag(flag))
            .map(|(_, manager)| manager)
            .collect();
    let manager = match chosen[..] {
        [] if own_uid() == 0 => Manager::System,
        [] => Manager::User,
        [manager] => manager,
        _ => return Err(Failure::usage("service takes one of --user, --system, --cron and --s6")),
    };
    let named = args.home.is_some() || std::env::var_os(HOME_VARIABLE).is_some_and(|home| !home.is_empty());
    let home = (named && manager != Manager::System).then(|| context.home.root().to_owned());
    if args.home.is_some() && manager == Manager::System {
        return Err(Failure::usage("the system's service keeps everything in /var/lib/bellhop; --home is not for it"));
    }
    let program = std::env::current_exe().map_err(|e| Failure::new(format!("own program not found: {e}")))?;
    let text = text(manager, &program, home.as_deref())?;
    let dir = args.text("dir").as_deref().map(expand_tilde);
    match (args.verb.map_or("print", |verb| verb.name), manager) {
        ("install", Manager::User) => {
            let exit = install_unit(&user_unit_path()?, &text, &["--user"])?;
            warn_of_linger();
            Ok(exit)
        }
        ("install", Manager::System) => {
            need_root()?;
            seen_by_the_system(&program)?;
            write_own(Path::new(SYSUSERS_PATH), SYSUSERS, 0o644)?;
            call("systemd-sysusers", &[])?;
            install_unit(Path::new(SYSTEM_UNIT_PATH), &text, &[])
        }
        ("install", Manager::Cron) => {
            set_crontab(Some(&text))?;
            say("the crontab starts bellhop at boot and looks after it every five minutes")?;
            Ok(Exit::Ok)
        }
        ("install", Manager::S6) => install_s6(&service_dir(dir)?, &text),
        ("uninstall", Manager::User) => uninstall_unit(&user_unit_path()?, &["--user"]),
        ("uninstall", Manager::System) => {
            need_root()?;
            let exit = uninstall_unit(Path::new(SYSTEM_UNIT_PATH), &[])?;
            remove_own(Path::new(SYSUSERS_PATH))?;
            say("the user bellhop and /var/lib/bellhop are kept")?;
            Ok(exit)
        }
        ("uninstall", Manager::Cron) => {
            set_crontab(None)?;
            say("the crontab no longer mentions bellhop; a daemon that runs goes on: bellhop stop")?;
            Ok(Exit::Ok)
        }
        ("uninstall", Manager::S6) => {
            let dir = service_dir(dir)?;
            remove_own(&dir.join("run"))?;
            remove_own(&dir.join("notification-fd"))?;
            say(&format!("{} is no service any more", dir.display()))?;
            Ok(Exit::Ok)
        }
        _ => {
            say(text.trim_end())?;
            Ok(Exit::Ok)
        }
    }
}

fn text(manager: Manager, program: &Path, home: Option<&Path>) -> Result<String, Failure> {
    let utf8 = |path: &Path| {
        let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
        text.map(ToOwned::to_owned).ok_or_else(|| {
            Failure::new(format!("{}: a service cannot be made of a path with such characters", path.display()))
        })
    };
    let program = utf8(program)?;
    let home = home.map(utf8).transpose()?;
    Ok(match manager {
        Manager::System => SYSTEM_UNIT.replace(PROGRAM, &unit_word(&program)),
        Manager::User => {
            let home = home.map_or(String::new(), |home| format!(" {}", unit_word(&format!("--home={home}"))));
            USER_UNIT
                .replace("start --foreground", &format!("start --foreground{home}"))
                .replace(PROGRAM, &unit_word(&program))
        }
        Manager::Cron => {
            // A percent sign ends a crontab's command.
            let home = home.map_or(String::new(), |home| format!(" {}", shell_word(&format!("--home={home}"))));
            let command = format!("{} start --background --if-stopped{home} >/dev/null", shell_word(&program));
            let command = command.replace('%', "\\%");
            format!("{CRON_BEGIN}\n@reboot {command}\n*/5 * * * * {command}\n{CRON_END}\n")
        }
        Manager::S6 => {
            let home = home.map_or(String::new(), |home| format!(" {}", shell_word(&format!("--home={home}"))));
            format!(
                "#!/bin/sh\n# bellhop under s6. Under runit, without --ready-fd and the file notification-fd.\nexec 2>&1\n\
                 exec {} start --foreground --ready-fd {S6_FD}{home}\n",
                shell_word(&program)
            )
        }
    })
}

/// A word of `ExecStart=` (systemd.service(5), "Command lines").
fn unit_word(text: &str) -> String {
    let text = text.replace('%', "%%").replace('$', "$$");
    if text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-=%$+@:,".contains(c)) {
        return text;
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A word for sh.
fn shell_word(text: &str) -> String {
    if text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-=+@:,".contains(c)) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn need_root() -> Result<(), Failure> {
    match own_uid() {
        0 => Ok(()),
        _ => Err(Failure::new("a service of the system is installed by root; your own: --user")),
    }
}

/// The unit of the system hides these directories (`ProtectHome=`, `PrivateTmp=`): a program there never starts.
fn seen_by_the_system(program: &Path) -> Result<(), Failure> {
    if ["/home", "/root", "/run/user", "/tmp", "/var/tmp"].iter().all(|hidden| !program.starts_with(hidden)) {
        return Ok(());
    }
    let program = program.display();
    Err(Failure::new(format!(
        "the system's service does not see {program}: put the program where all can run it, such as /usr/local/bin, and \
         install the service with that one"
    )))
}

/// Where the unit of the user belongs.
pub(super) fn user_unit_path() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    let config = config.ok_or_else(|| Failure::new("HOME is not set, so there is no place for a user's unit"))?;
    Ok(config.join("systemd/user").join(UNIT))
}

fn service_dir(dir: Option<PathBuf>) -> Result<PathBuf, Failure> {
    dir.ok_or_else(|| Failure::usage("--s6 needs --dir, the service directory, such as /run/service/bellhop"))
}

fn install_unit(path: &Path, text: &str, scope: &[&str]) -> Result<Exit, Failure> {
    write_own(path, text, 0o644)?;
    say(&format!("{} written", path.display()))?;
    let enable = || {
        call("systemctl", &[scope, &["daemon-reload"]].concat())?;
        call("systemctl", &[scope, &["enable", "--now", UNIT]].concat())
    };
    enable().map_err(|failure| {
        let more = format!("; once systemd runs: systemctl {}", [scope, &["enable", "--now", UNIT]].concat().join(" "));
        Failure::new(failure.message + &more)
    })?;
    say("bellhop runs, and starts with the machine or the session")?;
    Ok(Exit::Ok)
}

fn uninstall_unit(path: &Path, scope: &[&str]) -> Result<Exit, Failure> {
    if !is_own(path)? {
        return Err(Failure::new(format!("{} is not there", path.display())));
    }
    // It may be disabled already, or systemd may not run: the file goes all the same.
    if let Err(failure) = call("systemctl", &[scope, &["disable", "--now", UNIT]].concat()) {
        complain(&failure.message);
    }
    remove_own(path)?;
    if let Err(failure) = call("systemctl", &[scope, &["daemon-reload"]].concat()) {
        complain(&failure.message);
    }
    say(&format!("{} removed", path.display()))?;
    Ok(Exit::Ok)
}

fn install_s6(dir: &Path, text: &str) -> Result<Exit, Failure> {
    write_own(&dir.join("notification-fd"), &format!("{S6_FD}\n"), 0o644)?;
    write_own(&dir.join("run"), text, 0o755)?;
    say(&format!("{} written; now: s6-svscanctl -a {}", dir.display(), dir.parent().unwrap_or(dir).display()))?;
    Ok(Exit::Ok)
}

/// Without lingering a user's services end with the last session of that user.
fn warn_of_linger() {
    let Some(user) = user_name() else { return };
    if !lingers(&user) {
        complain(&format!("it ends when you log out, unless you let it linger: loginctl enable-linger {user}"));
    }
}

/// Whether the services of a user run without a login.
pub(super) fn lingers(user: &str) -> bool {
    Path::new("/var/lib/systemd/linger").join(user).exists()
}

/// The name of who runs this.
pub(super) fn user_name() -> Option<String> {
    let uid = own_uid().to_string();
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

/// Whether the file is there and bellhop's; somebody else's is an error.
fn is_own(path: &Path) -> Result<bool, Failure> {
    let size = match fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(at(path, &e)),
    };
    let ours = size < LIMIT && {
        let text = fs::read(path).map_err(|e| at(path, &e))?;
        text == format!("{S6_FD}\n").as_bytes()
            || text.split(|b| *b == b'\n').take(2).any(|l| l.starts_with(b"# bellhop"))
            || text == SYSUSERS.as_bytes()
    };
    if ours { Ok(true) } else { Err(Failure::new(format!("{} was not written by bellhop", path.display()))) }
}

fn write_own(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    is_own(path)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(|e| at(dir, &e))?;
    let mut name = path.as_os_str().as_bytes().to_vec();
    name.extend_from_slice(format!(".new-{}", std::process::id()).as_bytes());
    let new = PathBuf::from(std::ffi::OsStr::from_bytes(&name));
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&new);
        at(path, &e)
    })
}

fn remove_own(path: &Path) -> Result<(), Failure> {
    if is_own(path)? {
        fs::remove_file(path).map_err(|e| at(path, &e))?;
    }
    Ok(())
}

fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{}: {}", path.display(), plain(error)))
}

/// Puts the block into the user's crontab, in place of an older one; `None` takes it out.
fn set_crontab(block: Option<&str>) -> Result<(), Failure> {
    let listed = Command::new("crontab").arg("-l").env("LC_ALL", "C").stdin(Stdio::null()).output();
    let listed = listed.map_err(|e| Failure::new(format!("crontab cannot be run: {e}; is cron installed?")))?;
    // A user without a crontab is told so with status 1, as of anything else that keeps it from being read.
    let said = String::from_utf8_lossy(&listed.stderr);
    let none = ["no crontab", "No such file"].iter().any(|words| said.contains(words));
    let old = match listed.status.success() {
        true => listed.stdout,
        false if none => Vec::new(),
        false => {
            let said = super::output::one_line(&said, 300);
            let status = listed.status;
            return Err(Failure::new(format!("crontab -l failed ({status}): {said}; the crontab is left alone")));
        }
    };
    let old = String::from_utf8(old).map_err(|_| Failure::new("the crontab is not UTF-8; it is left alone"))?;
    let mut new = without_block(&old)?;
    new.push_str(block.unwrap_or(""));
    if new == old {
        return Ok(());
    }
    let mut child = Command::new("crontab")
        .arg("-")
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|e| Failure::new(format!("crontab cannot be run: {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(new.as_bytes())?;
    }
    match child.wait()? {
        status if status.success() => Ok(()),
        status => Err(Failure::new(format!("crontab refused the new table ({status})"))),
    }
}

fn without_block(table: &str) -> Result<String, Failure> {
    let mut out = String::with_capacity(table.len());
    let mut inside = false;
    for line in table.split_inclusive('\n') {
        match line.trim_end() {
            CRON_BEGIN => inside = true,
            CRON_END if inside => inside = false,
            _ if inside => {}
            _ => out.push_str(line),
        }
    }
    if inside {
        return Err(Failure::new(format!("the crontab has {CRON_BEGIN:?} without {CRON_END:?}; it is left alone")));
    }
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    Ok(out)
}

fn call(program: &str, args: &[&str]) -> Result<(), Failure> {
    let done = Command::new(program).args(args).stdin(Stdio::null()).output();
    let line = || format!("{program} {}", args.join(" "));
    match done {
        Err(e) => Err(Failure::new(format!("{}: {}", line().trim_end(), plain(&e)))),
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => {
            let said = String::from_utf8_lossy(&done.stderr);
            let said = super::output::one_line(said.trim(), 300);
            Err(Failure::new(format!("{} failed ({}): {said}", line().trim_end(), done.status)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_their_readers() {
        assert_eq!(unit_word("/usr/bin/bellhop"), "/usr/bin/bellhop");
        assert_eq!(unit_word("/a b/50%$x\""), "\"/a b/50%%$$x\\\"\"");
        assert_eq!(shell_word("/a b/it's"), "'/a b/it'\\''s'");
    }

    #[test]
    fn a_crontab_keeps_what_others_wrote() {
        let table = format!("MAILTO=me\n{CRON_BEGIN}\nold\n{CRON_END}\n0 1 * * * x");
        assert_eq!(without_block(&table).unwrap(), "MAILTO=me\n0 1 * * * x\n");
        assert_eq!(without_block("").unwrap(), "");
        assert!(without_block(&format!("{CRON_BEGIN}\n0 1 * * * x\n")).is_err(), "an open block");
    }

    #[test]
    fn a_program_that_its_unit_hides_is_refused() {
        for hidden in ["/root/.cargo/bin/bellhop", "/home/me/bellhop", "/tmp/bellhop"] {
            assert!(seen_by_the_system(Path::new(hidden)).is_err(), "{hidden}");
        }
        for seen in ["/usr/local/bin/bellhop", "/opt/home/bellhop", "/rooted/bellhop"] {
            assert!(seen_by_the_system(Path::new(seen)).is_ok(), "{seen}");
        }
    }

    #[test]
    fn every_manager_gets_the_path_and_the_home() {
        let (program, home) = (Path::new("/opt/b%/bellhop"), Path::new("/srv/my home"));
        let unit = text(Manager::User, program, Some(home)).unwrap();
        assert!(unit.contains("ExecStart=/opt/b%%/bellhop start --foreground \"--home=/srv/my home\"\n"), "{unit}");
        let cron = text(Manager::Cron, program, Some(home)).unwrap();
        let command = "'/opt/b\\%/bellhop' start --background --if-stopped '--home=/srv/my home' >/dev/null";
        assert_eq!(cron, format!("{CRON_BEGIN}\n@reboot {command}\n*/5 * * * * {command}\n{CRON_END}\n"));
        let run = text(Manager::S6, Path::new("/bin/bellhop"), None).unwrap();
        assert!(run.ends_with("exec /bin/bellhop start --foreground --ready-fd 3\n"), "{run}");
        let unit = text(Manager::System, program, None).unwrap();
        assert!(unit.contains("ExecStart=/opt/b%%/bellhop start") && !unit.contains(PROGRAM), "{unit}");
        assert!(text(Manager::User, Path::new("/a\nb"), None).is_err());
    }
}
