//! From the start of the process to its first answer.

use std::sync::Arc;

use bellhop::config::Home;
use bellhop::engine::now_ms;
use bellhop::engine::sessions::{SessionChange, SessionEntry, SessionStore};
use bellhop::store::RealDisk;

use crate::daemon::{Daemon, Place};
use crate::report::Report;
use crate::stats::Samples;
use crate::{Failure, Scale};

pub fn measure(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    for sessions in [0, scale.of(10_000, 1_000)] {
        let mut samples = Samples::default();
        for _ in 0..scale.of(20, 3) {
            let place = Place::new()?;
            if sessions > 0 {
                fill(&place, sessions)?;
            }
            let daemon = Daemon::start(&place)?;
            samples.push(daemon.ready_after);
            daemon.stop()?;
        }
        let case = if sessions == 0 { "empty home".to_owned() } else { format!("home with {sessions} sessions") };
        report.add(
            "start",
            &format!("to the first answer, {case}"),
            &[("starts", samples.len() as f64, ""), ("p50", samples.ms(50), "ms"), ("p95", samples.ms(95), "ms")],
        );
    }
    Ok(())
}

/// Writes a session store as a busy daemon leaves it.
fn fill(place: &Place, sessions: usize) -> Result<(), Failure> {
    let home = Home::at(place.join("home"))?;
    home.prepare()?;
    let now = now_ms();
    let (store, _) = SessionStore::load(&home.sessions(), Arc::new(RealDisk), now)?;
    for number in 0..sessions {
        let key = format!("claude-code:local:local:direct:bench-{number}");
        let entry = SessionEntry {
            key: key.clone(),
            runtime: "claude-code".into(),
            runtime_session_id: format!("00000000-0000-4000-8000-{number:012x}"),
            channel: "local".into(),
            account_id: "local".into(),
            conversation_id: format!("bench-{number}"),
            cwd: home.workspace("local"),
            updated_at: now,
            turn_count: Some(3),
            ..SessionEntry::default()
        };
        store.apply(&SessionChange { key, entry: Some(entry) });
    }
    store.flush()?;
    Ok(())
}
