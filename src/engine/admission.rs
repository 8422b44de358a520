//! Whether the machine's memory lets a further turn start. Pure; [`available_mb`] is the one look at the world.
//!
//! Agent CLIs take hundreds of megabytes each. A machine that runs out of memory kills one of them, or the
//! daemon: it is better that a turn waits for another one's end.

use std::fmt;
use std::sync::Arc;

/// How long a turn that was just started is counted with what it has not taken yet, in milliseconds.
pub const SETTLES_AFTER_MS: u64 = 15_000;
/// How often memory is looked at while a turn waits for it, in milliseconds.
pub const LOOK_AGAIN_MS: u64 = 2_000;

/// Where the figure comes from; `None` where the system does not tell, which refuses nothing.
#[derive(Clone)]
pub struct Source(pub Arc<dyn Fn() -> Option<u64> + Send + Sync>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// What is kept free.
#[derive(Clone, Debug)]
pub struct Memory {
    /// MiB that stay free; 0: memory is not looked at.
    pub reserve_mb: u64,
    /// MiB that a turn is expected to take.
    pub per_turn_mb: u64,
    /// MiB that are available.
    pub available: Source,
}

impl Default for Memory {
    /// Not looked at.
    fn default() -> Self {
        Self { reserve_mb: 0, per_turn_mb: 350, available: Source(Arc::new(available_mb)) }
    }
}

impl Memory {
    /// Whether a further turn may start beside these, given by their ages in milliseconds. With none running
    /// one always may: waiting would help nobody.
    pub fn admits(&self, running_ages_ms: impl IntoIterator<Item = u64>) -> bool {
        let mut running = running_ages_ms.into_iter().peekable();
        if self.reserve_mb == 0 || running.peek().is_none() {
            return true;
        }
        let young = running.filter(|age| *age < SETTLES_AFTER_MS).count() as u64;
        (self.available.0)().is_none_or(|free| free >= self.needed_mb(young))
    }

    /// What has to be available: the reserve, the new turn, and what young turns are yet to take.
    fn needed_mb(&self, young: u64) -> u64 {
        self.reserve_mb.saturating_add(self.per_turn_mb.saturating_mul(young + 1))
    }
}

/// `MemAvailable` of `/proc/meminfo`, in MiB.
pub fn available_mb() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(available: Option<u64>) -> Memory {
        Memory { reserve_mb: 200, per_turn_mb: 300, available: Source(Arc::new(move || available)) }
    }

    #[test]
    fn the_first_turn_always_starts_and_further_ones_need_room() {
        const OLD: u64 = SETTLES_AFTER_MS;
        let table: [(Option<u64>, &[u64], bool); 8] = [
            (Some(0), &[], true),
            (Some(499), &[OLD], false),
            (Some(500), &[OLD], true),
            (Some(500), &[OLD, OLD, OLD], true),
            (Some(799), &[OLD, 0], false),
            (Some(800), &[OLD, 0], true),
            (Some(1_099), &[0, 1], false),
            (None, &[OLD], true),
        ];
        for (available, ages, admitted) in table {
            assert_eq!(with(available).admits(ages.iter().copied()), admitted, "{available:?} {ages:?}");
        }
        assert!(Memory { reserve_mb: 0, ..with(Some(0)) }.admits([0]), "switched off");
    }

    #[test]
    fn the_systems_account_is_read() {
        assert_eq!(parse("MemTotal: 10 kB\nMemAvailable:    2097152 kB\n"), Some(2048));
        assert_eq!(parse("MemTotal: 10 kB\n"), None);
        assert_eq!(parse("MemAvailable: lots\n"), None);
    }
}
