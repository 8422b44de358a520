//! Ten thousand conversations with one message each: time, threads, memory; and what they cost afterwards,
//! in the daemon that had them and in one that starts on their home.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Place, message};
use crate::idle::watch;
use crate::proc_fs::Usage;
use crate::report::Report;
use crate::{Failure, Scale};

/// Connections that submit.
const CLIENTS: usize = 4;
/// Longer is a failure.
const LIMIT: Duration = Duration::from_secs(90);
/// Between two looks at the daemon.
const LOOK: Duration = Duration::from_millis(5);

pub fn measure(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let count = scale.of(10_000, 300);
    let place = Place::new()?;
    let daemon = Daemon::start(&place)?;
    let before = Usage::of(daemon.pid())?;
    let most_threads = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let (accepted, wall) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if let Ok(usage) = Usage::of(daemon.pid()) {
                    most_threads.fetch_max(usage.threads, Ordering::Relaxed);
                }
                std::thread::sleep(LOOK);
            }
        });
        let times = submit_all(&daemon, count, began);
        over.store(true, Ordering::Relaxed);
        times
    })?;
    let after = Usage::of(daemon.pid())?;
    report.add(
        "conversations",
        &format!("{count} with one message each, built-in echo"),
        &[
            ("accepted after", accepted.as_secs_f64(), "s"),
            ("all answered after", wall.as_secs_f64(), "s"),
            ("turns", count as f64 / wall.as_secs_f64(), "/s"),
            ("threads, most seen", most_threads.into_inner() as f64, ""),
            ("rss before", before.rss_kb as f64, "kB"),
            ("rss peak", after.peak_kb as f64, "kB"),
            ("rss at the end", after.rss_kb as f64, "kB"),
        ],
    );
    watch(scale, report, "conversations", &format!("{count}, then idle"), &daemon, 10)?;
    daemon.stop()?;

    let daemon = Daemon::start(&place)?;
    report.add(
        "conversations",
        &format!("started on the home of {count}"),
        &[("first answer after", daemon.ready_after.as_secs_f64() * 1e3, "ms")],
    );
    watch(scale, report, "conversations", &format!("started on the home of {count}, idle"), &daemon, 10)?;
    daemon.stop()
}

/// Submits from a few connections, waits for the last turn; both times from `began`.
fn submit_all(daemon: &Daemon, count: usize, began: Instant) -> Result<(Duration, Duration), Failure> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|first| {
                let client = daemon.client.clone();
                scope.spawn(move || -> Result<(), Failure> {
                    for number in (first..count).step_by(CLIENTS) {
                        client.submit(&message("echo", &format!("bench-{number}"), "hello"))?;
                        if began.elapsed() > LIMIT {
                            return Err(format!("{count} messages were not accepted in time").into());
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        clients.into_iter().try_for_each(|c| c.join().unwrap_or_else(|_| Err("a client panicked".into())))
    })?;
    let accepted = began.elapsed();
    while !daemon.is_idle()? {
        if began.elapsed() > LIMIT {
            return Err(format!("{count} turns take longer than {} s", LIMIT.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok((accepted, began.elapsed()))
}
