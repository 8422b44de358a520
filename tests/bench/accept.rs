//! How long a client waits until its message is durable: alone, and beside seven others; and what one
//! fdatasync of the same disk takes, which no acceptance can beat.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Place, message};
use crate::report::Report;
use crate::stats::Samples;
use crate::{Failure, Scale};

/// Clients at once.
const CLIENTS: usize = 8;
/// No case takes longer.
const LIMIT: Duration = Duration::from_secs(10);

pub fn measure(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let place = Place::new()?;
    let disk = sync_alone(&place, scale.of(500, 50))?;
    add(report, "a write and fdatasync of 500 bytes, no daemon", &disk);

    let daemon = Daemon::start(&place)?;
    let mut alone = Samples::default();
    let began = Instant::now();
    for _ in 0..scale.of(500, 30) {
        let at = Instant::now();
        let accepted = daemon.client.submit(&message("echo", "alone", "hello"))?;
        alone.push(at.elapsed());
        daemon.finish(&accepted.id)?;
        if began.elapsed() > LIMIT {
            break;
        }
    }
    add(report, "one client, nothing else runs", &alone);

    let each = scale.of(250, 20);
    let began = Instant::now();
    let results: Vec<Result<Samples, Failure>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let client = daemon.client.clone();
                scope.spawn(move || client_of_many(&client, number, each, began))
            })
            .collect();
        clients.into_iter().map(|c| c.join().unwrap_or_else(|_| Err("a client panicked".into()))).collect()
    });
    let wall = began.elapsed();
    let mut together = Samples::default();
    for samples in results {
        together.extend(samples?);
    }
    let rate = together.len() as f64 / wall.as_secs_f64();
    report.add(
        "accept",
        "8 clients at once, their turns run meanwhile",
        &[
            ("messages", together.len() as f64, ""),
            ("p50", together.ms(50), "ms"),
            ("p99", together.ms(99), "ms"),
            ("accepted", rate, "/s"),
        ],
    );
    daemon.stop()
}

fn client_of_many(
    client: &bellhop::serve::client::Client,
    number: usize,
    each: usize,
    began: Instant,
) -> Result<Samples, Failure> {
    let mut samples = Samples::default();
    let message = message("echo", &format!("many-{number}"), "hello");
    for _ in 0..each {
        let at = Instant::now();
        client.submit(&message)?;
        samples.push(at.elapsed());
        if began.elapsed() > LIMIT {
            break;
        }
    }
    Ok(samples)
}

fn sync_alone(place: &Place, times: usize) -> Result<Samples, Failure> {
    let mut file = std::fs::File::create(place.join("disk"))?;
    let mut samples = Samples::default();
    for _ in 0..times {
        let at = Instant::now();
        file.write_all(&[b'x'; 500])?;
        file.sync_data()?;
        samples.push(at.elapsed());
    }
    Ok(samples)
}

fn add(report: &mut Report, case: &str, samples: &Samples) {
    report.add(
        "accept",
        case,
        &[("messages", samples.len() as f64, ""), ("p50", samples.ms(50), "ms"), ("p99", samples.ms(99), "ms")],
    );
}
