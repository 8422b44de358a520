//! What `bellhop doctor` finds out about the machine: the kernel's means, the clock, the memory, lingering.

use std::fs;
use std::path::Path;

use super::doctor::{Finding, Verdict};
use super::service::{lingers, user_name, user_unit_path};
use crate::config::paths::own_uid;
use crate::time;

/// The oldest kernel whose means suffice: `pidfd_open(2)` came with it.
const KERNEL: (u32, u32) = (5, 3);

/// Before this moment no clock is right: 2026-01-01, in seconds since the epoch.
const NOT_BEFORE: i64 = 1_767_225_600;

/// With less memory than this available one agent may be too much, in MiB. Claude Code takes about as much.
const LOW_MEMORY: u64 = 300;

/// Everything that is looked at.
pub(super) fn findings() -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut found = vec![
        kernel(rustix::system::uname().release().to_str().unwrap_or("")),
        proc_fs(Path::new("/proc")),
        clock(time::now_ms() / 1000, Path::new("/run/systemd")),
    ];
    found.extend(memory(&read("/proc/meminfo")));
    found.extend(linger());
    found
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= KERNEL {
        return Finding::ok("kernel", release);
    }
    let (major, minor) = KERNEL;
    let fix = format!("run it on Linux {major}.{minor} or later: older ones cannot name a process safely");
    Finding::bad("kernel", Verdict::Broken, format!("{release} is too old"), fix)
}

/// The sweep after a turn reads which processes belong to it.
fn proc_fs(proc: &Path) -> Finding {
    match fs::read(proc.join("self/environ")).and_then(|_| fs::read(proc.join("self/stat"))) {
        Ok(_) => Finding::ok("proc", "processes of agents can be found"),
        Err(e) => Finding::bad(
            "proc",
            Verdict::Broken,
            format!("{} cannot be read: {e}", proc.display()),
            "mount proc: without it what an agent leaves behind is not found",
        ),
    }
}

/// Far sides refuse what is signed five minutes off.
fn clock(now: i64, systemd: &Path) -> Finding {
    if now < NOT_BEFORE {
        let fix = "set the clock, or have it set: timedatectl set-ntp true";
        return Finding::bad("clock", Verdict::Broken, "it shows a time before this program was made", fix);
    }
    // timesyncd leaves a file once it has heard a server; other daemons leave none.
    let (there, synchronized) = (systemd.join("timesync"), systemd.join("timesync/synchronized"));
    if there.exists() && !synchronized.exists() {
        let fix = "timedatectl timesync-status tells why; far sides refuse a clock that is five minutes off";
        return Finding::bad("clock", Verdict::Warning, "it has not been synchronised yet", fix);
    }
    Finding::ok("clock", "plausible")
}

fn memory(meminfo: &str) -> Option<Finding> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.split_whitespace().next()?.parse::<u64>().ok()? >> 10;
    let text = format!("{available} MiB available");
    if available >= LOW_MEMORY {
        return Some(Finding::ok("memory", text));
    }
    let fix = "agents wait until there is room: free some, or lower memoryPerTurnMb in bellhop.json(5)";
    Some(Finding::bad("memory", Verdict::Warning, text, fix))
}

/// Where bellhop is a service of this user: whether it runs without a login.
fn linger() -> Option<Finding> {
    if own_uid() == 0 || !user_unit_path().is_ok_and(|path| path.exists()) {
        return None;
    }
    let user = user_name()?;
    if lingers(&user) {
        return Some(Finding::ok("linger", format!("the services of {user} run without a login")));
    }
    let fix = format!("loginctl enable-linger {user}");
    Some(Finding::bad("linger", Verdict::Warning, "the service ends with the last login", fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_named() {
        for (release, verdict) in [
            ("6.1.0-18-amd64", Verdict::Ok),
            ("5.3.0", Verdict::Ok),
            ("5.2.21", Verdict::Broken),
            ("4.19-x", Verdict::Broken),
            ("", Verdict::Broken),
        ] {
            assert_eq!(kernel(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn a_clock_is_wrong_before_the_program_was_made_or_not_set_yet() {
        let nowhere = Path::new("/nowhere");
        assert_eq!(clock(0, nowhere).verdict, Verdict::Broken);
        assert_eq!(clock(NOT_BEFORE, nowhere).verdict, Verdict::Ok);
        let dir = std::env::temp_dir().join(format!("bh-clock-{}", std::process::id()));
        fs::create_dir_all(dir.join("timesync")).unwrap();
        assert_eq!(clock(NOT_BEFORE, &dir).verdict, Verdict::Warning);
        fs::write(dir.join("timesync/synchronized"), "").unwrap();
        assert_eq!(clock(NOT_BEFORE, &dir).verdict, Verdict::Ok);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn little_memory_is_a_warning() {
        let meminfo = |mib: u64| format!("MemTotal: 1 kB\nMemAvailable:  {} kB\n", mib << 10);
        assert_eq!(memory(&meminfo(300)).unwrap().verdict, Verdict::Ok);
        assert_eq!(memory(&meminfo(299)).unwrap().verdict, Verdict::Warning);
        assert!(memory("").is_none());
    }

    #[test]
    fn without_proc_nothing_can_be_swept() {
        assert_eq!(proc_fs(Path::new("/proc")).verdict, Verdict::Ok);
        assert_eq!(proc_fs(Path::new("/nowhere")).verdict, Verdict::Broken);
    }
}
