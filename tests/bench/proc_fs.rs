//! What Linux says about a process and about the machine.

use std::path::PathBuf;

use crate::Failure;

/// Memory and threads of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Resident memory in kB.
    pub rss_kb: u64,
    /// The most it has been, in kB.
    pub peak_kb: u64,
    /// Resident memory that is its own (not pages of files), in kB.
    pub anon_kb: u64,
    /// Threads.
    pub threads: u64,
}

impl Usage {
    /// Of a running process.
    pub fn of(pid: u32) -> Result<Self, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name| number(&status, name).unwrap_or(0);
        Ok(Self {
            rss_kb: field("VmRSS:"),
            peak_kb: field("VmHWM:"),
            anon_kb: field("RssAnon:"),
            threads: field("Threads:"),
        })
    }
}

/// Open descriptors of a running process.
pub fn descriptors(pid: u32) -> Result<u64, Failure> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64)
}

/// Time of a process on a processor so far, its ended threads included and its children not, in milliseconds.
pub fn cpu_ms(pid: u32) -> Result<u64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; user and system time are the 12th and 13th field after it, in
    // hundredths of a second on every Linux that there is.
    let after = stat.rsplit_once(')').ok_or("/proc has no such form")?.1;
    let ticks: Vec<u64> = after.split_whitespace().skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
    Ok(ticks.iter().sum::<u64>() * 10)
}

/// What the threads of a process have done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Activity {
    /// Times that a thread went to sleep by itself: each is the end of a wake-up.
    pub sleeps: u64,
    /// Time on a processor in nanoseconds.
    pub cpu_ns: u64,
}

impl Activity {
    /// Of the threads that run now.
    pub fn of(pid: u32) -> Result<Self, Failure> {
        let mut sum = Self::default();
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let dir: PathBuf = task?.path();
            // A thread may end between the listing and the look.
            let status = std::fs::read_to_string(dir.join("status")).unwrap_or_default();
            let schedule = std::fs::read_to_string(dir.join("schedstat")).unwrap_or_default();
            sum.sleeps += number(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            sum.cpu_ns += schedule.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(sum)
    }
}

/// The number after a name at the beginning of a line.
fn number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What the figures depend on: name and value.
pub fn machine() -> Vec<(&'static str, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':')).map_or("?", |(_, v)| v.trim());
    let memory = number(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0) / 1024;
    let load = read("/proc/loadavg");
    vec![
        ("cores", std::thread::available_parallelism().map_or(0, std::num::NonZero::get).to_string()),
        ("cpu", cpu.to_owned()),
        ("memory_mb", memory.to_string()),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("temp_dir", std::env::temp_dir().display().to_string()),
        ("load_before", load.split_whitespace().next().unwrap_or("?").to_owned()),
    ]
}
