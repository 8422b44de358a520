//! What is counted from the start of the process on, for `GET /metrics`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::engine::now_ms;
use crate::engine::ports::{TurnDone, TurnEvent, TurnHook, TurnObserver, TurnStatus};

/// Runtimes that are told apart; more are counted as `other`. There are seven and what is configured.
const RUNTIMES: usize = 64;
/// Upper bounds of the times of turns, in seconds.
pub(super) const TURN_SECONDS: [f64; 11] = [0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0];
/// Upper bounds of the times for which messages wait, in seconds.
pub(super) const WAIT_SECONDS: [f64; 9] = [0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1_800.0];

/// How many values fell below which bound.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    /// For each bound, those that are above the bound before and not above this one.
    pub(super) counts: Vec<u64>,
    /// All of them, those above the last bound too.
    pub(super) count: u64,
    pub(super) sum: f64,
}

impl Histogram {
    fn observe(&mut self, bounds: &[f64], value: f64) {
        self.counts.resize(bounds.len(), 0);
        if let Some(count) = bounds.iter().position(|bound| value <= *bound).and_then(|at| self.counts.get_mut(at)) {
            *count += 1;
        }
        self.count += 1;
        self.sum += value;
    }
}

/// What is counted of one runtime.
#[derive(Clone, Debug, Default)]
pub(super) struct OfRuntime {
    /// By outcome.
    pub(super) turns: BTreeMap<&'static str, u64>,
    pub(super) seconds: Histogram,
    pub(super) cached: u64,
    pub(super) input: u64,
    pub(super) output: u64,
    pub(super) cost_usd: f64,
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Meters {
    by_runtime: Mutex<BTreeMap<String, OfRuntime>>,
    waited: Mutex<Histogram>,
}

impl Meters {
    /// How long messages waited for their turn, in seconds.
    pub(super) fn waited(&self) -> Histogram {
        self.waited.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A copy of what is counted by runtime.
    pub(super) fn read(&self) -> BTreeMap<String, OfRuntime> {
        self.by_runtime.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, runtime: &str, with: impl FnOnce(&mut OfRuntime)) {
        let mut by_runtime = self.by_runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let known = by_runtime.contains_key(runtime) || by_runtime.len() < RUNTIMES;
        with(by_runtime.entry(if known { runtime } else { "other" }.to_owned()).or_default());
    }
}

impl TurnObserver for Meters {
    fn event(&self, event: &TurnEvent<'_>) {
        match event {
            TurnEvent::Started { message, .. } => {
                let waited = now_ms().saturating_sub(message.received_at).max(0) as f64 / 1_000.0;
                self.waited.lock().unwrap_or_else(PoisonError::into_inner).observe(&WAIT_SECONDS, waited);
            }
            TurnEvent::Finished { report, .. } => {
                self.count(&report.runtime, |of| *of.turns.entry(word(report.status)).or_default() += 1);
            }
            _ => {}
        }
    }
}

impl TurnHook for Meters {
    fn turn_complete(&self, done: &TurnDone<'_>) {
        let usage = done.result.and_then(|r| r.usage).unwrap_or_default();
        let cost = done.result.and_then(|r| r.cost_usd).filter(|cost| cost.is_finite() && *cost >= 0.0);
        self.count(done.runtime, |of| {
            of.seconds.observe(&TURN_SECONDS, done.wall_ms as f64 / 1_000.0);
            of.cached = of.cached.saturating_add(usage.hit);
            of.input = of.input.saturating_add(usage.miss);
            of.output = of.output.saturating_add(usage.output);
            of.cost_usd += cost.unwrap_or_default();
        });
    }
}

fn word(status: TurnStatus) -> &'static str {
    match status {
        TurnStatus::Ok => "ok",
        TurnStatus::Error => "error",
        TurnStatus::Cancelled => "cancelled",
        TurnStatus::Timeout => "timeout",
        TurnStatus::NoReply => "no_reply",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_above_every_bound_are_counted_too() {
        let mut histogram = Histogram::default();
        for value in [0.5, 0.6, 9_999.0] {
            histogram.observe(&TURN_SECONDS, value);
        }
        assert_eq!((histogram.counts[0], histogram.counts[1], histogram.count), (1, 1, 3));
    }

    #[test]
    fn runtimes_are_bounded() {
        let meters = Meters::default();
        for n in 0..100 {
            meters.count(&format!("acp:{n}"), |of| of.input += 1);
        }
        let read = meters.read();
        assert_eq!((read.len(), read["other"].input), (RUNTIMES + 1, 36));
    }
}
