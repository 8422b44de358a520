//! The stop sequence: which step is due when. Pure; the driver carries the steps out.
//!
//! ```text
//! begin ─▶ Interrupted ─term─▶ Terminated ─kill─▶ Killed ─give up─▶ GivenUp
//!              └───────────────────┴─────────────────┴──── exit ──▶ Gone
//! ```

use std::time::Duration;

use super::StopLimits;

/// How far stopping has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The CLI was asked, politely.
    Interrupted,
    /// Its group got SIGTERM.
    Terminated,
    /// Its group got SIGKILL.
    Killed,
    /// It did not end in time and is not waited for any more.
    GivenUp,
    /// It has exited.
    Gone,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// So much time has passed since the request to stop.
    Elapsed(Duration),
    /// The CLI has exited.
    Exited,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    Wait,
    /// Ask the CLI: the handler's way or SIGINT.
    Interrupt,
    /// SIGTERM to the group.
    Terminate,
    /// SIGKILL to the group.
    Kill,
    /// Kill whatever can be killed and stop waiting.
    GiveUp,
    /// Kill what the CLI has left.
    Sweep,
}

impl Stop {
    /// The first step.
    pub(super) fn begin(exited: bool) -> (Self, Effect) {
        if exited { (Self::Gone, Effect::Sweep) } else { (Self::Interrupted, Effect::Interrupt) }
    }

    /// The next step. A step whose time has passed unseen is left out in favour of the later one.
    pub(super) fn step(self, event: Event, limits: StopLimits) -> (Self, Effect) {
        if matches!(self, Self::GivenUp | Self::Gone) {
            return (self, Effect::Wait);
        }
        let Event::Elapsed(elapsed) = event else {
            return (Self::Gone, Effect::Sweep);
        };
        if elapsed >= limits.give_up {
            return (Self::GivenUp, Effect::GiveUp);
        }
        if elapsed >= limits.kill && self != Self::Killed {
            return (Self::Killed, Effect::Kill);
        }
        if elapsed >= limits.term && self == Self::Interrupted {
            return (Self::Terminated, Effect::Terminate);
        }
        (self, Effect::Wait)
    }

    /// When [`Stop::step`] is due next, counted from the request to stop.
    pub(super) fn due(self, limits: StopLimits) -> Option<Duration> {
        match self {
            Self::Interrupted => Some(limits.term.min(limits.kill).min(limits.give_up)),
            Self::Terminated => Some(limits.kill.min(limits.give_up)),
            Self::Killed => Some(limits.give_up),
            Self::GivenUp | Self::Gone => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StopLimits =
        StopLimits { term: Duration::from_secs(2), kill: Duration::from_secs(5), give_up: Duration::from_secs(15) };

    fn at(secs: u64) -> Event {
        Event::Elapsed(Duration::from_secs(secs))
    }

    #[test]
    fn the_sequence() {
        use Effect::*;
        use Stop::*;
        let table = [
            (Interrupted, at(0), Interrupted, Wait),
            (Interrupted, at(1), Interrupted, Wait),
            (Interrupted, at(2), Terminated, Terminate),
            (Interrupted, at(5), Killed, Effect::Kill),
            (Interrupted, at(15), GivenUp, GiveUp),
            (Interrupted, Event::Exited, Gone, Sweep),
            (Terminated, at(2), Terminated, Wait),
            (Terminated, at(4), Terminated, Wait),
            (Terminated, at(5), Killed, Effect::Kill),
            (Terminated, at(20), GivenUp, GiveUp),
            (Terminated, Event::Exited, Gone, Sweep),
            (Killed, at(5), Killed, Wait),
            (Killed, at(14), Killed, Wait),
            (Killed, at(15), GivenUp, GiveUp),
            (Killed, Event::Exited, Gone, Sweep),
            (GivenUp, at(99), GivenUp, Wait),
            (GivenUp, Event::Exited, GivenUp, Wait),
            (Gone, at(99), Gone, Wait),
            (Gone, Event::Exited, Gone, Wait),
        ];
        for (state, event, next, effect) in table {
            assert_eq!(state.step(event, LIMITS), (next, effect), "{state:?} {event:?}");
        }
        assert_eq!(Stop::begin(false), (Interrupted, Interrupt));
        assert_eq!(Stop::begin(true), (Gone, Sweep));
    }

    #[test]
    fn every_state_moves_at_its_due_time_and_reaches_an_end() {
        let odd = StopLimits { term: Duration::from_secs(9), kill: Duration::from_secs(3), give_up: Duration::ZERO };
        for limits in [LIMITS, odd, StopLimits { give_up: Duration::from_secs(30), ..odd }] {
            let (mut state, _) = Stop::begin(false);
            let mut steps = 0;
            while let Some(due) = state.due(limits) {
                let (next, effect) = state.step(Event::Elapsed(due), limits);
                assert_ne!(next, state, "{limits:?}");
                assert_ne!(effect, Effect::Wait, "{limits:?}");
                state = next;
                steps += 1;
            }
            assert_eq!(state, Stop::GivenUp);
            assert!(steps <= 3);
        }
    }
}
