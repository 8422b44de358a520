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
