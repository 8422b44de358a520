//! Runtimes that cannot work for a while: a used-up quota, an expired login, a missing program, a full disk.
//!
//! Nobody is helped by an error for every message. The first one that meets such a state makes a [`Wait`]:
//! its room is told once, it and everything behind it stays in the journal, one turn at a time probes whether
//! the state has passed, and the first that gets through lets everything go. Pure: the engine asks
//! [`cause`] at the end of a run, [`Waits::admits`] before a turn, and carries out what they say.
//!
//! A wait is kept as a note of the journal under [`NOTE`] and its key.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::outcome::Run;
use super::ports::ErrorClass;
use super::route::Route;
use crate::failure;

/// Prefix of the notes' keys.
pub const NOTE: &str = "wait:";
/// First wait for a quota whose return is not told; doubled each time, up to [`QUOTA_MAX_MS`].
pub const QUOTA_MS: i64 = 30 * 60_000;
/// See [`QUOTA_MS`].
pub const QUOTA_MAX_MS: i64 = 4 * 3_600_000;
/// Longest wait, whatever the provider says.
pub const LONGEST_MS: i64 = 24 * 3_600_000;
/// Shortest wait for a quota: a provider's clock may be behind.
pub const SHORTEST_MS: i64 = 60_000;
/// How often a login, a program or a disk is tried.
pub const PROBE_MS: i64 = 5 * 60_000;
/// Rooms that are remembered as told, for each wait; further ones are not told.
const TOLD: usize = 1_000;

/// What a runtime waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The provider's quota.
    UsageLimit,
    /// Somebody who logs it in.
    Login,
    /// Its program.
    Missing,
    /// Space on the disk.
    Disk,
}

impl Cause {
    /// The word in the journal and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UsageLimit => "usage_limit",
            Self::Login => "login",
            Self::Missing => "missing",
            Self::Disk => "disk",
        }
    }

    /// For people: what is waited for.
    pub fn text(self) -> &'static str {
        match self {
            Self::UsageLimit => "usage limit reached",
            Self::Login => "not logged in",
            Self::Missing => "program not found",
            Self::Disk => "disk full",
        }
    }
}

/// Whose messages wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Who {
    /// Nobody's: each gets an error.
    #[default]
    Nobody,
    /// Those of channels where nobody waits for the answer ([`super::ports::Channel::is_waited_at`]).
    Rooms,
    /// All.
    Everybody,
}

/// What makes messages wait instead of being answered with an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parking {
    /// A used-up quota.
    pub usage_limit: Who,
    /// An expired login, a missing program, a full disk.
    pub broken: Who,
}

impl Parking {
    /// Whose messages wait for this.
    pub fn who(&self, cause: Cause) -> Who {
        if cause == Cause::UsageLimit { self.usage_limit } else { self.broken }
    }

    /// Whether messages of a channel wait for this.
    pub fn waits_for(&self, cause: Cause, is_waited_at: bool) -> bool {
        match self.who(cause) {
            Who::Nobody => false,
            Who::Rooms => !is_waited_at,
            Who::Everybody => true,
        }
    }
}

/// Why a run could not do its work, if for a reason that passes. A run that brought a reply did its work.
pub fn cause(run: &Run) -> Option<Cause> {
    let reply = run.reply();
    let said_auth = run.error().is_none() && failure::is_auth_failure(reply);
    if said_auth {
        return Some(Cause::Login);
    }
    let error = run.error()?;
    if !reply.is_empty() && !failure::is_auth_failure(reply) {
        return None;
    }
    if run.class() == Some(ErrorClass::Missing) {
        return Some(Cause::Missing);
    }
    if failure::is_disk_full(error) {
        return Some(Cause::Disk);
    }
    if run.is_usage_limit() {
        return Some(Cause::UsageLimit);
    }
    run.is_auth().then_some(Cause::Login)
}

/// What a wait is about: a runtime, with the account behind it where the route names one.
pub fn key(runtime: &str, route: &Route) -> String {
    match (&route.gateway, &route.hermes_profile) {
        (Some(gateway), _) if runtime == "openclaw-acp" => format!("{runtime}/{}", gateway.name),
        (_, Some(profile)) if runtime == "hermes-agent" => format!("{runtime}/{profile}"),
        _ => runtime.to_owned(),
    }
}

/// One runtime that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// Why.
    pub cause: Cause,
    /// Since when (Unix milliseconds).
    pub since: i64,
    /// Runs that met it.
    pub tries: u32,
    /// When the next probe may run (Unix milliseconds).
    pub until: i64,
    /// Queue keys of rooms that know.
    #[serde(default)]
    pub told: BTreeSet<String>,
    /// A probe runs: what the next [`Waits::admits`] has to wait for.
    #[serde(skip)]
    probe: Option<String>,
}

impl Wait {
    /// Whether the next probe may run. A clock that was set back must not make the wait longer than it is.
    pub(super) fn is_due(&self, now: i64) -> bool {
        self.until <= now || self.until.saturating_sub(now) > LONGEST_MS + SHORTEST_MS
    }
}

/// What a turn of a runtime may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Run.
    Free,
    /// Run as the probe; nobody else does until its end.
    Probe,
    /// Wait.
    Wait,
}

/// All runtimes that cannot work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    waits: BTreeMap<String, Wait>,
}

impl Waits {
    /// A wait that the journal knew.
    pub fn restore(&mut self, key: impl Into<String>, wait: Wait) {
        self.waits.insert(key.into(), wait);
    }

    /// The wait of a key.
    pub fn get(&self, key: &str) -> Option<&Wait> {
        self.waits.get(key)
    }

    /// All of them with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Wait)> {
        self.waits.iter().map(|(k, w)| (k.as_str(), w))
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// What a turn may do now. Changes nothing; who goes ahead with a probe says so with [`Waits::probing`].
    pub fn admits(&self, key: &str, now: i64) -> Admission {
        match self.waits.get(key) {
            None => Admission::Free,
            Some(wait) if wait.is_due(now) && wait.probe.is_none() => Admission::Probe,
            Some(_) => Admission::Wait,
        }
    }

    /// A turn goes ahead as the probe.
    pub fn probing(&mut self, key: &str, turn: &str) {
        if let Some(wait) = self.waits.get_mut(key) {
            wait.probe = Some(turn.to_owned());
        }
    }

    /// A turn met the cause. `reset`: when the provider says that it passes. Returns the wait as it is now.
    pub fn met(&mut self, key: &str, turn: &str, cause: Cause, reset: Option<i64>, now: i64) -> Wait {
        let known = self.waits.remove(key).filter(|w| w.cause == cause);
        // Turns that ran side by side meet the same thing; only the probe makes the wait longer.
        let again = known.as_ref().is_none_or(|w| w.is_due(now) || w.probe.as_deref() == Some(turn));
        let tries = known.as_ref().map_or(0, |w| w.tries) + u32::from(again);
        let until = match (&known, again) {
            (Some(known), false) => known.until.max(reset.map_or(0, |at| bounded(at, now))),
            _ => next_try(cause, tries, reset, now),
        };
        let (since, told) = known.map_or_else(|| (now, BTreeSet::new()), |w| (w.since, w.told));
        let wait = Wait { cause, since, tries, until, told, probe: None };
        self.waits.insert(key.to_owned(), wait.clone());
        wait
    }

    /// A turn got far enough to show that nothing keeps the runtime from working. Returns whether something did.
    pub fn worked(&mut self, key: &str) -> bool {
        self.waits.remove(key).is_some()
    }

    /// A turn is over, in whatever way: it is nobody's probe any more.
    pub fn left(&mut self, turn: &str) {
        for wait in self.waits.values_mut().filter(|w| w.probe.as_deref() == Some(turn)) {
            wait.probe = None;
        }
    }

    /// A person wants the next try now. Returns whether there was something to hurry.
    pub fn hurry(&mut self, key: &str) -> bool {
        self.waits.get_mut(key).map(|w| w.until = 0).is_some()
    }

    /// A room is about to be told; returns whether it did not know yet.
    pub fn tell(&mut self, key: &str, room: &str) -> bool {
        let Some(wait) = self.waits.get_mut(key) else { return false };
        wait.told.len() < TOLD && wait.told.insert(room.to_owned())
    }

    /// When the next probe may run that may not run yet.
    pub fn next_probe(&self, now: i64) -> Option<i64> {
        self.waits.values().filter(|w| !w.is_due(now)).map(|w| w.until).min()
    }
}

/// When a run that met the cause for the `tries`th time is followed by the next.
pub fn next_try(cause: Cause, tries: u32, reset: Option<i64>, now: i64) -> i64 {
    match (cause, reset) {
        (Cause::UsageLimit, Some(at)) => bounded(at, now),
        (Cause::UsageLimit, None) => {
            let doubled = QUOTA_MS.saturating_mul(1 << tries.saturating_sub(1).min(8));
            now.saturating_add(doubled.min(QUOTA_MAX_MS))
        }
        _ => now.saturating_add(PROBE_MS),
    }
}

fn bounded(at: i64, now: i64) -> i64 {
    at.clamp(now.saturating_add(SHORTEST_MS), now.saturating_add(LONGEST_MS))
}

/// What a room is told. `error` is the provider's text.
pub fn notice(cause: Cause, runtime: &str, error: &str, until: i64, now: i64) -> String {
    let name = failure::label(runtime);
    let minutes = (until - now).max(0) / 60_000 + 1;
    let soon = if minutes < 120 { format!("{minutes} min") } else { format!("{} h", minutes / 60) };
    match cause {
        Cause::UsageLimit => {
            let said = failure::usage_message(error, runtime);
            format!("{said} This message is kept and answered then; next try in about {soon}.")
        }
        Cause::Login => {
            format!("⚠️ {name} is not logged in on this machine. This message is kept and answered once it is.")
        }
        Cause::Missing => {
            format!("⚠️ {name} is not installed on this machine. This message is kept and answered once it is.")
        }
        Cause::Disk => {
            "⚠️ The disk of this machine is full. This message is kept and answered once there is room.".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ports::{RunError, RunResult, Thrown};

    const HOUR: i64 = 3_600_000;

    fn failed(message: &str, class: Option<ErrorClass>) -> Run {
        let error = Some(RunError { message: message.into(), class });
        Run::Returned(RunResult { error, ..RunResult::default() })
    }

    #[test]
    fn causes_are_told_apart() {
        let said = |text: &str| Run::Returned(RunResult { text: text.into(), ..RunResult::default() });
        let both = Run::Returned(RunResult {
            text: "half a reply".into(),
            error: Some(RunError { message: "usage limit reached".into(), class: None }),
            ..RunResult::default()
        });
        let missing = Thrown { class: Some(ErrorClass::Missing), ..Thrown::new("codex cannot be started") };
        let table = [
            (failed("usage limit reached", None), Some(Cause::UsageLimit)),
            (failed("anything", Some(ErrorClass::UsageLimit)), Some(Cause::UsageLimit)),
            (failed("anything", Some(ErrorClass::Auth)), Some(Cause::Login)),
            (failed("Invalid API key", None), Some(Cause::Login)),
            (said("Failed to authenticate. API Error: 401"), Some(Cause::Login)),
            (failed("write: No space left on device", Some(ErrorClass::Other)), Some(Cause::Disk)),
            (Run::Threw(missing), Some(Cause::Missing)),
            (Run::Threw(Thrown::new("no such directory")), None),
            (failed("overloaded", Some(ErrorClass::Transient)), None),
            (said("done"), None),
            (both, None),
        ];
        for (run, wanted) in table {
            assert_eq!(cause(&run), wanted, "{run:?}");
        }
    }

    #[test]
    fn where_a_person_waits_an_error_comes_at_once_unless_all_are_to_wait() {
        for (who, rooms, waited_at) in
            [(Who::Nobody, false, false), (Who::Rooms, true, false), (Who::Everybody, true, true)]
        {
            let parking = Parking { usage_limit: who, broken: Who::Nobody };
            assert_eq!(parking.waits_for(Cause::UsageLimit, false), rooms, "{who:?}");
            assert_eq!(parking.waits_for(Cause::UsageLimit, true), waited_at, "{who:?}");
            assert!(!parking.waits_for(Cause::Login, false) && !parking.waits_for(Cause::Disk, true));
        }
    }

    #[test]
    fn waits_double_follow_the_provider_and_are_bounded() {
        let minutes = |tries| next_try(Cause::UsageLimit, tries, None, 0) / 60_000;
        assert_eq!([1, 2, 3, 4, 5, 99].map(minutes), [30, 60, 120, 240, 240, 240]);
        let told = |at| next_try(Cause::UsageLimit, 1, Some(at), 0);
        assert_eq!([-5, 2 * HOUR, 99 * HOUR].map(told), [SHORTEST_MS, 2 * HOUR, LONGEST_MS]);
        for cause in [Cause::Login, Cause::Missing, Cause::Disk] {
            assert_eq!(next_try(cause, 7, Some(HOUR), 0), PROBE_MS);
        }
    }

    #[test]
    fn one_probe_at_a_time_and_its_success_lets_all_go() {
        let mut w = Waits::default();
        assert_eq!(w.admits("codex", 0), Admission::Free);
        assert_eq!(w.met("codex", "t1", Cause::Login, None, 0).until, PROBE_MS);
        assert_eq!((w.admits("codex", 1), w.admits("gemini", 1)), (Admission::Wait, Admission::Free));
        assert_eq!(w.admits("codex", PROBE_MS), Admission::Probe);
        w.probing("codex", "t2");
        assert_eq!(w.admits("codex", PROBE_MS), Admission::Wait);
        w.left("other");
        assert_eq!(w.admits("codex", PROBE_MS), Admission::Wait);
        w.left("t2");
        assert_eq!(w.admits("codex", PROBE_MS), Admission::Probe);
        assert!(w.worked("codex"));
        assert!(w.is_empty() && !w.worked("codex"));
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_wait_longer() {
        let mut w = Waits::default();
        let now = 400 * 24 * HOUR;
        assert_eq!(w.met("c", "t1", Cause::UsageLimit, Some(now + 99 * HOUR), now).until, now + LONGEST_MS);
        assert_eq!((w.admits("c", now), w.next_probe(now)), (Admission::Wait, Some(now + LONGEST_MS)));
        let back = now - 300 * 24 * HOUR;
        assert_eq!((w.admits("c", back), w.next_probe(back)), (Admission::Probe, None));
        w.probing("c", "t2");
        let again = w.met("c", "t2", Cause::UsageLimit, None, back);
        assert_eq!((again.tries, again.until), (2, back + 2 * QUOTA_MS));
    }

    #[test]
    fn turns_side_by_side_count_once_and_another_cause_begins_anew() {
        let mut w = Waits::default();
        w.met("c", "t1", Cause::UsageLimit, None, 0);
        let second = w.met("c", "t2", Cause::UsageLimit, None, 5);
        assert_eq!((second.tries, second.until), (1, QUOTA_MS));
        w.probing("c", "t3");
        let third = w.met("c", "t3", Cause::UsageLimit, None, QUOTA_MS);
        assert_eq!((third.tries, third.until, third.since), (2, 3 * QUOTA_MS, 0));
        let other = w.met("c", "t4", Cause::Login, None, 9);
        assert_eq!((other.tries, other.until, other.since), (1, 9 + PROBE_MS, 9));
    }

    #[test]
    fn a_room_is_told_once_and_a_note_keeps_it() {
        let mut w = Waits::default();
        assert!(!w.tell("c", "room"));
        w.met("c", "t1", Cause::UsageLimit, None, 0);
        assert!(w.tell("c", "room") && !w.tell("c", "room") && w.tell("c", "other"));
        let note = serde_json::to_string(w.get("c").unwrap()).unwrap();
        let mut again = Waits::default();
        again.restore("c", serde_json::from_str(&note).unwrap());
        assert!(!again.tell("c", "room"));
        assert_eq!(again, w);
        assert!(w.hurry("c") && w.admits("c", 1) == Admission::Probe);
    }
}
