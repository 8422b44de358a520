//! Sends at a pace that a hub takes: below its limits per agent and per target, instead of running into them. Pure.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The span in which sends are counted, in milliseconds: the hub's minute, and a little for the way there.
const WINDOW_MS: i64 = 61_000;

/// What a hub takes of one agent in a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sends; 0: as many as there are, to any target.
    pub all: usize,
    /// Sends to one target.
    pub target: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { all: 20, target: 10 }
    }
}

/// The recent sends of one agent. At most [`Limits::all`] are remembered, so that at most as many targets are.
#[derive(Debug, Default)]
pub struct Pace {
    limits: Limits,
    all: VecDeque<i64>,
    targets: HashMap<String, VecDeque<i64>>,
}

impl Pace {
    /// A pace below these limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes one send to a target, or says how long to wait before asking again. `now`: milliseconds of a clock that
    /// only goes forward.
    pub fn take(&mut self, target: &str, now: i64) -> Result<(), Duration> {
        if self.limits.all == 0 {
            return Ok(());
        }
        forget(&mut self.all, now);
        self.targets.retain(|_, sends| {
            forget(sends, now);
            !sends.is_empty()
        });
        let wait = |sends: Option<&VecDeque<i64>>, limit: usize| {
            let sends = sends.filter(|s| s.len() >= limit)?;
            Some(sends.get(sends.len() - limit)? + WINDOW_MS - now)
        };
        let longest = wait(Some(&self.all), self.limits.all).max(wait(self.targets.get(target), self.limits.target));
        if let Some(ms) = longest {
            return Err(Duration::from_millis(ms.max(1).unsigned_abs()));
        }
        self.all.push_back(now);
        self.targets.entry(target.to_owned()).or_default().push_back(now);
        Ok(())
    }
}

fn forget(sends: &mut VecDeque<i64>, now: i64) {
    while sends.front().is_some_and(|at| at + WINDOW_MS <= now) {
        sends.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The moments at which sends to these targets go out, one after the other.
    fn run(pace: &mut Pace, targets: &[&str], mut now: i64) -> Vec<i64> {
        let mut times = Vec::new();
        for target in targets {
            while let Err(wait) = pace.take(target, now) {
                assert!(!wait.is_zero() && wait <= Duration::from_millis(WINDOW_MS as u64));
                now += wait.as_millis() as i64;
            }
            times.push(now);
        }
        times
    }

    fn most_in_a_minute(times: &[i64]) -> usize {
        times.iter().map(|t| times.iter().filter(|u| (*t..t + 60_000).contains(u)).count()).max().unwrap()
    }

    #[test]
    fn a_hub_without_limits_is_not_waited_for() {
        let mut pace = Pace::new(Limits { all: 0, target: 1 });
        assert_eq!(run(&mut pace, &["a"; 100], 0), [0; 100]);
        assert!(pace.all.is_empty() && pace.targets.is_empty());
        let mut pace = Pace::new(Limits { all: 3, target: 2 });
        assert_eq!(run(&mut pace, &["a", "a", "a", "b"], 0), [0, 0, 61_000, 61_000]);
    }

    #[test]
    fn no_minute_sees_more_than_the_hub_takes() {
        let targets: Vec<&str> = (0..200).map(|n| ["a", "b", "c"][n * n % 3]).collect();
        let times = run(&mut Pace::default(), &targets, 5);
        assert!(most_in_a_minute(&times) <= Limits::default().all);
        for target in ["a", "b", "c"] {
            let its: Vec<i64> = times.iter().zip(&targets).filter(|(_, t)| **t == target).map(|(at, _)| *at).collect();
            assert!(its.is_empty() || most_in_a_minute(&its) <= Limits::default().target);
        }
    }

    #[test]
    fn a_full_target_does_not_hold_up_another() {
        let mut pace = Pace::default();
        assert_eq!(run(&mut pace, &["a"; 10], 0), [0; 10]);
        assert_eq!(pace.take("a", 1), Err(Duration::from_millis(60_999)));
        assert_eq!(run(&mut pace, &["b"; 10], 2), [2; 10]);
        assert_eq!(pace.take("c", 3), Err(Duration::from_millis(60_997)));
        assert_eq!(pace.take("c", 61_000), Ok(()));
        assert_eq!(pace.all.len(), 11);
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut pace = Pace::default();
        for n in 0..1_000 {
            assert_eq!(pace.take(&format!("t{n}"), n * 10_000), Ok(()));
            assert!(pace.targets.len() <= 7 && pace.all.len() <= 7);
        }
    }
}
