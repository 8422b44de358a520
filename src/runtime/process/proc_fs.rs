//! What `/proc` tells about processes: who is whose child, since when, and with which environment.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;

use crate::engine::ports::ProcessId;

/// Longest environment that is read, in bytes. Linux lets arguments and environment have 6 MiB together.
const MAX_ENVIRON: u64 = 8 * 1024 * 1024;

/// Kernel flag of a kernel thread (`PF_KTHREAD`).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// The fields of `/proc/<pid>/stat` that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: i32,
    pub(super) state: u8,
    pub(super) parent: i32,
    pub(super) group: i32,
    flags: u64,
    pub(super) start: u64,
}

impl Stat {
    /// Dead, though perhaps not yet reaped.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    pub(super) fn is_kernel_thread(&self) -> bool {
        self.flags & KERNEL_THREAD != 0
    }

    pub(super) fn id(&self) -> ProcessId {
        ProcessId { pid: self.pid, start: self.start }
    }
}

/// Parses `/proc/<pid>/stat`. The name in the second field may hold anything, `)` and newlines included, so
/// the fields after it are counted from the last `)`.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let pid = std::str::from_utf8(text.get(..open)?).ok()?.trim().parse().ok()?;
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    // proc_pid_stat(5) numbers from 1; the state is field 3.
    let fields: Vec<&str> = rest.split_ascii_whitespace().take(20).collect();
    let field = |number: usize| fields.get(number - 3);
    Some(Stat {
        pid,
        state: *field(3)?.as_bytes().first()?,
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        flags: field(9)?.parse().ok()?,
        start: field(22)?.parse().ok()?,
    })
}

/// Parses `/proc/<pid>/task/<tid>/children`.
fn parse_children(text: &str) -> Vec<i32> {
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Values of a variable in `/proc/<pid>/environ`; more than one where a program was given it twice.
fn values<'a>(environ: &'a [u8], name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    environ
        .split(|byte| *byte == 0)
        .filter_map(move |entry| entry.strip_prefix(name).and_then(|rest| rest.strip_prefix(b"=")))
}

/// One process; `None` when there is none (or no `/proc`).
pub(super) fn stat(pid: i32) -> Option<Stat> {
    let mut file = File::open(format!("/proc/{pid}/stat")).ok()?;
    // The longest possible line is about 1 100 bytes: 52 numbers and a name of 64.
    let mut buf = [0; 2048];
    let len = file.read(&mut buf).ok()?;
    parse_stat(buf.get(..len)?)
}

/// Every process of the machine, in no order that can be relied on.
pub(super) fn all() -> Vec<Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(stat).collect()
}

/// Every process below `root`, from the kernel's lists of children where it keeps them (a few files), else
/// from a pass over all processes.
pub(super) fn below(root: i32) -> Vec<Stat> {
    let Some(children) = children(root) else {
        let stats = all();
        let found = descendants(&stats, &HashSet::from([root]), None);
        return stats.into_iter().filter(|stat| found.contains(&stat.pid)).collect();
    };
    let mut found = Vec::new();
    let mut seen = HashSet::from([root]);
    let mut todo = children;
    while let Some(pid) = todo.pop() {
        if !seen.insert(pid) {
            continue;
        }
        found.extend(stat(pid));
        todo.extend(self::children(pid).unwrap_or_default());
    }
    found
}

/// The children of a process that fell to it because their parents had ended, and perhaps others of its children: the
/// kernel gives them to its first thread. With hundreds of threads, it matters that only that one's list is read.
pub(super) fn adopted_by(parent: i32, wanted: impl Fn(i32) -> bool) -> Vec<Stat> {
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let stats = match list {
        Ok(text) => parse_children(&text).into_iter().filter(|pid| wanted(*pid)).filter_map(stat).collect(),
        Err(_) => all(),
    };
    stats.into_iter().filter(|stat| stat.parent == parent && wanted(stat.pid)).collect()
}

/// Children of all threads of a process; `None` where the kernel has no such list or the process is gone.
fn children(pid: i32) -> Option<Vec<i32>> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut known = None;
    for task in tasks.flatten() {
        if let Ok(text) = std::fs::read_to_string(task.path().join("children")) {
            known.get_or_insert_with(Vec::new).extend(parse_children(&text));
        }
    }
    known
}

/// Pids of everything below `roots` (without these). Nothing at or below `barrier` is followed.
pub(super) fn descendants(stats: &[Stat], roots: &HashSet<i32>, barrier: Option<i32>) -> HashSet<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for stat in stats {
        children.entry(stat.parent).or_default().push(stat.pid);
    }
    let mut found = HashSet::new();
    let mut todo: Vec<i32> = roots.iter().copied().collect();
    while let Some(parent) = todo.pop() {
        for pid in children.remove(&parent).unwrap_or_default() {
            if Some(pid) != barrier && !roots.contains(&pid) && found.insert(pid) {
                todo.push(pid);
            }
        }
    }
    found
}

/// What the environment of a process says about a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marked {
    /// One of its values was accepted.
    Yes,
    /// It is not there, or not with such a value, or the environment may not be read.
    No,
    /// The environment is empty: it never had one, or is just being replaced by `execve`.
    Empty,
}

/// Whether the environment that a process was started with has the variable with an accepted value.
///
/// The kernel lets us read what we may trace: processes of our user, or all of them as root.
pub(super) fn marked(pid: i32, name: &str, buf: &mut Vec<u8>, accept: impl Fn(&[u8]) -> bool) -> Marked {
    buf.clear();
    let Ok(file) = File::open(format!("/proc/{pid}/environ")) else { return Marked::No };
    if file.take(MAX_ENVIRON).read_to_end(buf).is_err() {
        return Marked::No;
    }
    if buf.is_empty() {
        return Marked::Empty;
    }
    if values(buf, name.as_bytes()).any(accept) { Marked::Yes } else { Marked::No }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_hostile_names_parse() {
        let line = b"42 (a) Z 1 (b)\n) S 7 42 41 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2 3\n";
        let stat = parse_stat(line).unwrap();
        let parts = (stat.pid, stat.state, stat.parent, stat.group, stat.start);
        assert_eq!(parts, (42, b'S', 7, 42, 98_765));
        assert!(!stat.is_dead() && !stat.is_kernel_thread());
    }

    #[test]
    fn cut_or_strange_stat_lines_are_refused() {
        for line in ["", "42", "42 (a", "42 (a) S 1 2", "x (a) S 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0", ") 1 ("] {
            assert_eq!(parse_stat(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn our_own_process_is_there() {
        let own = stat(std::process::id().cast_signed()).unwrap();
        assert!(!own.is_dead() && own.start > 0);
        assert!(all().contains(&Stat { state: own.state, ..own }) || all().iter().any(|s| s.id() == own.id()));
    }

    #[test]
    fn children_lists() {
        assert_eq!(parse_children("12 345 \n"), [12, 345]);
        assert_eq!(parse_children(""), Vec::<i32>::new());
    }

    #[test]
    fn variables_match_by_whole_name_and_value() {
        let environ = b"A=1\0XMARK=no\0MARK=one\0MARKED=no\0MARK=two=2\0junk\0";
        let found: Vec<&[u8]> = values(environ, b"MARK").collect();
        assert_eq!(found, [&b"one"[..], b"two=2"]);
    }

    #[test]
    fn descendants_stop_at_the_barrier() {
        let process = |pid, parent| Stat { pid, state: b'S', parent, group: 0, flags: 0, start: 0 };
        // 12 comes before its parent; 20 is the barrier with a child of its own.
        let stats =
            [process(12, 11), process(11, 10), process(10, 1), process(20, 10), process(21, 20), process(30, 1)];
        let roots = HashSet::from([10]);
        assert_eq!(descendants(&stats, &roots, None), HashSet::from([11, 12, 20, 21]));
        assert_eq!(descendants(&stats, &roots, Some(20)), HashSet::from([11, 12]));
    }
}
