//! What the daemon adds to a run of the CLI: a turn from the submission to its last event, beside a bare run
//! of the same program with the same arguments, environment and input.

use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Place, message};
use crate::fake::Recording;
use crate::report::Report;
use crate::stats::Samples;
use crate::{Failure, Scale};

/// No case takes longer.
const LIMIT: Duration = Duration::from_secs(12);

pub fn measure(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let pairs = scale.of(300, 20);
    case(report, "2 ms CLI, short prompt", 0, 2, pairs)?;
    case(report, "2 ms CLI, prompt of 8 KB", 8 << 10, 2, pairs)?;
    case(report, "2 ms CLI, prompt of 200 KB", 200 << 10, 2, pairs)?;
    // About as quick as real ones are before they ask their model.
    case(report, "300 ms CLI, short prompt", 0, 300, scale.of(15, 3))
}

fn case(report: &mut Report, name: &str, bytes: usize, work: u64, pairs: usize) -> Result<(), Failure> {
    let place = Place::new()?;
    place.make_workspace()?;
    let daemon = Daemon::start(&place)?;
    let padding = "word ".repeat(bytes / 5);
    let record = place.join("recording");
    let first = format!("bench-record={} bench-work={work} {padding}", record.display());
    daemon.turn(&message("claude-code", "c", &first))?;
    let bare = Recording::read(&record)?;
    let turn = message("claude-code", "c", &format!("bench-work={work} {padding}"));
    let (mut bares, mut turns) = (Samples::default(), Samples::default());
    let began = Instant::now();
    for _ in 0..pairs {
        let at = Instant::now();
        bare.repeat()?;
        bares.push(at.elapsed());
        let at = Instant::now();
        daemon.turn(&turn)?;
        turns.push(at.elapsed());
        if began.elapsed() > LIMIT {
            break;
        }
    }
    daemon.stop()?;
    report.add(
        "turn",
        name,
        &[
            ("pairs", turns.len() as f64, ""),
            ("bare p50", bares.ms(50), "ms"),
            ("bare p95", bares.ms(95), "ms"),
            ("turn p50", turns.ms(50), "ms"),
            ("turn p95", turns.ms(95), "ms"),
            ("added p50", turns.ms(50) - bares.ms(50), "ms"),
            ("ratio p50", turns.ms(50) / bares.ms(50), "x"),
            ("ratio p95", turns.ms(95) / bares.ms(95), "x"),
        ],
    );
    Ok(())
}
