//! What a daemon takes that has nothing to do.

use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Place};
use crate::proc_fs::{Activity, Usage};
use crate::report::Report;
use crate::{Failure, Scale};

/// Time for what follows a start or a turn (writes behind, threads that leave).
const SETTLE: Duration = Duration::from_secs(7);

pub fn measure(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let place = Place::new()?;
    let daemon = Daemon::start(&place)?;
    watch(scale, report, "idle", "empty home", &daemon, 10)?;
    daemon.stop()
}

/// Lets a daemon settle, then looks at it for so many seconds without asking it anything.
pub fn watch(
    scale: Scale,
    report: &mut Report,
    measure: &str,
    case: &str,
    daemon: &Daemon,
    seconds: usize,
) -> Result<(), Failure> {
    std::thread::sleep(SETTLE);
    let before = Activity::of(daemon.pid())?;
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(scale.of(seconds, 2) as u64));
    let seconds = began.elapsed().as_secs_f64();
    let after = Activity::of(daemon.pid())?;
    let usage = Usage::of(daemon.pid())?;
    let per_minute = |count: u64| count as f64 * 60.0 / seconds;
    report.add(
        measure,
        case,
        &[
            ("rss", usage.rss_kb as f64, "kB"),
            ("rss without files' pages", usage.anon_kb as f64, "kB"),
            ("threads", usage.threads as f64, ""),
            ("wake-ups", per_minute(after.sleeps.saturating_sub(before.sleeps)), "/min"),
            ("processor", per_minute(after.cpu_ns.saturating_sub(before.cpu_ns)) / 1e6, "ms/min"),
        ],
    );
    Ok(())
}
