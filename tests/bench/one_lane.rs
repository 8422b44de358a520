//! Many messages to one conversation: they run one after the other.

use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Place, message};
use crate::report::Report;
use crate::{Failure, Scale};

/// Longer is a failure.
const LIMIT: Duration = Duration::from_secs(40);

pub fn measure(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    for (runtime, count) in [("echo", scale.of(500, 50)), ("claude-code", scale.of(500, 20))] {
        let place = Place::new()?;
        place.make_workspace()?;
        let daemon = Daemon::start(&place)?;
        let began = Instant::now();
        for _ in 0..count {
            daemon.client.submit(&message(runtime, "c", "hello"))?;
        }
        let accepted = began.elapsed();
        while !daemon.is_idle()? {
            if began.elapsed() > LIMIT {
                return Err(format!("{count} messages take longer than {} s", LIMIT.as_secs()).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let wall = began.elapsed();
        daemon.stop()?;
        let cli = if runtime == "echo" { "built-in echo" } else { "2 ms CLI" };
        report.add(
            "one-conversation",
            &format!("{count} messages, {cli}"),
            &[
                ("accepted after", accepted.as_secs_f64(), "s"),
                ("all answered after", wall.as_secs_f64(), "s"),
                ("per message", wall.as_secs_f64() * 1e3 / count as f64, "ms"),
            ],
        );
    }
    Ok(())
}
