//! Under a service manager: what it is told on a real socket, and what `bellhop service` writes for it.

mod support;

use std::fs;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::child::unique;
use support::temp_dir::TempDir;

/// Nothing here takes as long; a test that waits longer has failed.
const LIMIT: Duration = Duration::from_mins(1);

fn bellhop(dir: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bellhop"));
    command
        .env_clear()
        .env("HOME", dir.path())
        .env("PATH", format!("{}:/usr/bin:/bin", dir.join("bin").display()))
        .env("BELLHOP_HOME", dir.join("bh"))
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// A daemon that does not outlive its test.
struct Daemon(Child);

impl Daemon {
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The next datagram that begins so; others are returned along with it, in order.
fn read_until(manager: &UnixDatagram, begin: &str) -> (Vec<String>, String) {
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let mut before = Vec::new();
    loop {
        let mut buffer = [0; 4_096];
        let size = match manager.recv(&mut buffer) {
            Ok(size) => size,
            // A wait with a limit ends when the system stops the process for a moment.
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => panic!("no {begin} after {before:?}: {e}"),
        };
        let text = String::from_utf8(buffer[..size].to_vec()).unwrap();
        if text.starts_with(begin) {
            return (before, text);
        }
        before.push(text);
    }
}

#[test]
fn a_manager_is_told_of_readiness_life_and_the_end() {
    let dir = TempDir::new("notify");
    let path = dir.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let mut daemon = Daemon(
        bellhop(&dir).args(["start"]).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "40000").spawn().unwrap(),
    );
    let (before, ready) = read_until(&manager, "READY=1");
    assert_eq!(before, Vec::<String>::new(), "nothing before it is ready");
    assert_eq!(ready, "READY=1\nSTATUS=0 turns running, 0 waiting");
    // Ready means that it answers.
    let status = bellhop(&dir).args(["status", "--json"]).status().unwrap();
    assert_eq!(status.code(), Some(0));
    for _ in 0..3 {
        let (_, alive) = read_until(&manager, "WATCHDOG=1");
        assert_eq!(alive, "WATCHDOG=1\nSTATUS=0 turns running, 0 waiting");
    }
    daemon.signal(Signal::TERM);
    let (before, _) = read_until(&manager, "STOPPING=1");
    assert!(before.iter().all(|text| text.starts_with("WATCHDOG=1")), "{before:?}");
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_manager_may_have_an_abstract_address_and_no_watchdog() {
    let dir = TempDir::new("notify");
    let name = unique("bellhop-notify");
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let mut command = bellhop(&dir);
    // A watchdog for another process is none.
    command.args(["start"]).env("NOTIFY_SOCKET", format!("@{name}")).env("WATCHDOG_USEC", "1").env("WATCHDOG_PID", "1");
    let mut daemon = Daemon(command.spawn().unwrap());
    read_until(&manager, "READY=1");
    daemon.signal(Signal::TERM);
    let (before, _) = read_until(&manager, "STOPPING=1");
    assert_eq!(before, Vec::<String>::new());
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
}

#[test]
fn readiness_is_a_line_feed_on_the_pipe_of_s6() {
    let dir = TempDir::new("s6");
    // The shell opens the descriptor, as s6-supervise does.
    let script = "exec 3>&1; exec \"$0\" start --ready-fd 3 >/dev/null 2>&1";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_bellhop")]).env("BELLHOP_HOME", dir.join("bh"));
    let mut daemon = Daemon(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut byte = [0];
    std::io::Read::read_exact(&mut daemon.0.stdout.take().unwrap(), &mut byte).unwrap();
    assert_eq!(byte, [b'\n']);
    let status = bellhop(&dir).args(["status"]).status().unwrap();
    assert_eq!(status.code(), Some(0), "ready means that it answers");
    // A second one is not needed.
    assert_eq!(bellhop(&dir).args(["start", "-d", "--if-stopped"]).status().unwrap().code(), Some(0));
    assert_eq!(bellhop(&dir).args(["start", "-d"]).status().unwrap().code(), Some(1));
}

#[test]
fn a_descriptor_that_nobody_opened_is_refused_before_anything_happens() {
    let dir = TempDir::new("s6");
    for args in [&["--ready-fd", "77"][..], &["--ready-fd", "0"], &["--ready-fd", "3", "-d"]] {
        let done = bellhop(&dir).arg("start").args(args).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(done.status.code(), Some(2), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        assert!(String::from_utf8_lossy(&done.stderr).contains("--ready-fd"));
    }
    assert!(!dir.join("bh").exists());
}

/// A program that notes how it was called, and does `then`.
fn fake(dir: &TempDir, name: &str, then: &str) {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let calls = dir.join("calls");
    fs::write(bin.join(name), format!("#!/bin/sh\necho {name} \"$@\" >>{}\n{then}\n", calls.display())).unwrap();
    fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
}

fn service(dir: &TempDir, args: &[&str]) -> Output {
    let mut command = bellhop(dir);
    command.env_remove("BELLHOP_HOME").arg("service").args(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

fn out(done: &Output) -> String {
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout.clone()).unwrap()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_unit_of_the_user_is_written_enabled_and_removed() {
    let dir = TempDir::new("service");
    fake(&dir, "systemctl", "");
    let printed = out(&service(&dir, &["print", "--user"]));
    assert!(
        printed.contains(&format!("ExecStart={} start --foreground\n", env!("CARGO_BIN_EXE_bellhop"))),
        "{printed}"
    );
    out(&service(&dir, &["install", "--user"]));
    let path = dir.join(".config/systemd/user/bellhop.service");
    assert_eq!(read(&path), printed);
    out(&service(&dir, &["install", "--user"]));
    let calls = "systemctl --user daemon-reload\nsystemctl --user enable --now bellhop.service\n";
    assert_eq!(read(&dir.join("calls")), calls.repeat(2));
    out(&service(&dir, &["uninstall", "--user"]));
    assert!(!path.exists());
    let end = "systemctl --user disable --now bellhop.service\nsystemctl --user daemon-reload\n";
    assert!(read(&dir.join("calls")).ends_with(end));
    assert_eq!(service(&dir, &["uninstall", "--user"]).status.code(), Some(1), "there is none");
}

#[test]
fn a_unit_that_bellhop_has_not_written_stays() {
    let dir = TempDir::new("service");
    fake(&dir, "systemctl", "");
    let path = dir.join(".config/systemd/user/bellhop.service");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "[Service]\nExecStart=/opt/mine\n").unwrap();
    for verb in ["install", "uninstall"] {
        let done = service(&dir, &[verb, "--user"]);
        assert_eq!(done.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&done.stderr).contains("was not written by bellhop"));
    }
    assert_eq!(read(&path), "[Service]\nExecStart=/opt/mine\n");
    assert!(!dir.join("calls").exists(), "systemd was not asked");
}

#[test]
fn a_manager_that_does_not_run_is_named_with_what_to_do_later() {
    let dir = TempDir::new("service");
    fake(&dir, "systemctl", "echo no bus >&2; exit 1");
    let done = service(&dir, &["install", "--user"]);
    assert_eq!(done.status.code(), Some(1));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("no bus") && said.contains("systemctl --user enable --now bellhop.service"), "{said}");
    assert!(dir.join(".config/systemd/user/bellhop.service").exists());
}

#[test]
fn a_crontab_gains_and_loses_two_lines() {
    let dir = TempDir::new("cron");
    let table = dir.join("table");
    let (list, set) = (format!("cat {}", table.display()), format!("cat >{}", table.display()));
    fake(&dir, "crontab", &format!("case \"$1\" in -l) {list} ;; -) {set} ;; esac"));
    fs::write(&table, "0 1 * * * other\n").unwrap();
    for _ in 0..2 {
        out(&service(&dir, &["install", "--cron", "--home", "/srv/100% mine"]));
        let lines = read(&table);
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert_eq!((lines[0], lines[1], lines[4]), ("0 1 * * * other", "# BEGIN bellhop", "# END bellhop"));
        let command =
            format!("{} start --background --if-stopped '--home=/srv/100\\% mine'", env!("CARGO_BIN_EXE_bellhop"));
        assert_eq!(lines[2], format!("@reboot {command} >/dev/null"));
        assert_eq!(lines[3], format!("*/5 * * * * {command} >/dev/null"));
    }
    out(&service(&dir, &["uninstall", "--cron"]));
    assert_eq!(read(&table), "0 1 * * * other\n");
}

#[test]
fn a_crontab_that_cannot_be_read_is_left_alone() {
    let dir = TempDir::new("cron");
    let table = dir.join("table");
    let set = format!("cat >{}", table.display());
    let list = |said: &str| format!("case \"$1\" in -l) echo {said} >&2; exit 1 ;; -) {set} ;; esac");
    fake(&dir, "crontab", &list("input/output error"));
    let done = service(&dir, &["install", "--cron"]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(1) && said.contains("input/output error"), "{done:?}");
    assert!(!table.exists(), "{}", read(&table));
    fake(&dir, "crontab", &list("no crontab for me"));
    out(&service(&dir, &["install", "--cron"]));
    assert_eq!(read(&table).lines().count(), 4);
}

#[test]
fn a_service_directory_for_s6_starts_the_daemon() {
    let dir = TempDir::new("s6");
    let place = dir.join("service/bellhop");
    let (home, text) = (dir.join("bh"), place.display().to_string());
    let home = home.display().to_string();
    assert_eq!(service(&dir, &["install", "--s6"]).status.code(), Some(2), "where?");
    out(&service(&dir, &["install", "--s6", "--dir", &text, "--home", &home]));
    assert_eq!(read(&place.join("notification-fd")), "3\n");
    // As s6-supervise would.
    let mut command = Command::new("sh");
    command.arg("-c").arg("exec 3>&1 >/dev/null; exec ./run 2>/dev/null").current_dir(&place);
    let mut daemon = Daemon(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut byte = [0];
    std::io::Read::read_exact(&mut daemon.0.stdout.take().unwrap(), &mut byte).unwrap();
    assert_eq!(byte, [b'\n']);
    drop(daemon);
    out(&service(&dir, &["uninstall", "--s6", "--dir", &text]));
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}

#[test]
fn only_one_manager_at_a_time() {
    let dir = TempDir::new("service");
    assert_eq!(service(&dir, &["print", "--cron", "--s6"]).status.code(), Some(2));
    assert_eq!(service(&dir, &["print", "--system", "--home", "/srv/x"]).status.code(), Some(2));
    assert!(out(&service(&dir, &["print", "--system"])).contains("User=bellhop\n"));
    // The home that everything else is told of, too.
    let by_variable =
        |args: &[&str]| out(&bellhop(&dir).arg("service").args(args).stdout(Stdio::piped()).output().unwrap());
    let home = format!("--home={}", dir.join("bh").display());
    for manager in ["--user", "--cron", "--s6"] {
        assert!(by_variable(&["print", manager]).contains(&home), "{manager}");
    }
    assert!(!by_variable(&["print", "--system"]).contains(&home));
}

#[test]
fn no_sign_of_life_comes_while_a_loop_does_not_answer() {
    let dir = TempDir::new("notify");
    let path = dir.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let mut command = bellhop(&dir);
    let _daemon =
        Daemon(command.args(["start"]).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "40000").spawn().unwrap());
    read_until(&manager, "WATCHDOG=1");
    fs::remove_file(dir.join("bh/daemon/bellhop.sock")).unwrap();
    let down = "STATUS=the control socket does not answer";
    read_until(&manager, down);
    for _ in 0..3 {
        assert_eq!(read_until(&manager, ""), (Vec::new(), down.to_owned()));
    }
}
