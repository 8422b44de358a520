//! When the control socket is connected, kept, and given up. Pure: time comes in as milliseconds since the beginning.

/// Time limits; the defaults are the protocol's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two signs of life of ours, in milliseconds.
    pub beat: u64,
    /// Without a byte from the hub for so long the connection is dropped.
    pub silence: u64,
    /// A connection that has lived for so long was a good one: the next delay is short again.
    pub settled: u64,
    /// First pause after another daemon with the same login took the place; doubled each time.
    pub displaced: u64,
    /// Longest of them.
    pub displaced_max: u64,
    /// A hub that refuses is asked for a fresh token not more often than this.
    pub forced: u64,
    /// The token is given and cannot be renewed: a hub that refuses it is asked again after so long.
    pub refused: Option<u64>,
    /// A hub is left alone not longer than this when it asks for it.
    pub retry_after_max: u64,
    /// Delays by attempt; the last one is for all further ones.
    pub delays: Vec<u64>,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            beat: 20_000,
            silence: 50_000,
            settled: 30_000,
            displaced: 30_000,
            displaced_max: 600_000,
            forced: 60_000,
            refused: None,
            retry_after_max: 300_000,
            delays: vec![1_000, 2_000, 4_000, 8_000, 16_000, 30_000],
        }
    }
}

impl Timing {
    /// The delay before an attempt, the first of which is 0. `chance` is in 0..1.
    pub fn delay(&self, attempt: usize, chance: f64) -> u64 {
        let last = self.delays.len().saturating_sub(1);
        let base = self.delays.get(attempt.min(last)).copied().unwrap_or(30_000);
        base + (chance * base as f64 * 0.25) as u64
    }
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Clock,
    /// There is an access token.
    Token,
    /// There is none, for now.
    NoToken(String),
    /// There will be none without a new login.
    Rejected(String),
    /// The socket is open.
    Opened,
    /// The hub answered the handshake with a status of its own.
    Refused {
        /// It.
        status: u16,
        /// How long the hub wants to be left alone, in milliseconds.
        retry_after: Option<u64>,
    },
    /// The hub said something.
    Heard,
    /// The connection broke or could not be made.
    Failed(String),
    /// The hub closed it.
    Closed(u16),
    /// A person has logged in anew.
    LoggedIn,
    /// The hub has revoked this daemon.
    Revoked,
}

/// What is to be done then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Get a token (a fresh one, where `force`); then tell [`Event::Token`], [`Event::NoToken`] or [`Event::Rejected`].
    Token {
        /// The one that there is was refused.
        force: bool,
    },
    /// Connect; then tell [`Event::Opened`], [`Event::Refused`] or [`Event::Failed`].
    Open,
    /// Forget the socket.
    Drop,
    /// Send a ping and a heartbeat.
    Beat,
    /// It is connected.
    Up,
    /// It is not, and will be tried again.
    Down {
        /// Why.
        why: String,
        /// When, in milliseconds from now.
        retry_ms: u64,
    },
    /// The login is no good any more: say so on disk. Another one is waited for, or a hub that takes it after all.
    Expired(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Until then; then with a fresh token, if `force`.
    Waiting { until: u64, force: bool },
    /// For a token.
    Token,
    /// For the handshake.
    Opening,
    /// Connected.
    Open { since: u64, heard: u64, beat: u64 },
    /// Without a login.
    Dead,
}

/// The state of a link.
#[derive(Clone, Debug)]
pub struct Machine {
    timing: Timing,
    phase: Phase,
    attempt: usize,
    displaced: u32,
    /// When a fresh token was asked for because the hub refused.
    forced: Option<u64>,
}

impl Machine {
    /// A link that connects at once.
    pub fn new(timing: Timing) -> Self {
        let phase = Phase::Waiting { until: 0, force: false };
        Self { timing, phase, attempt: 0, displaced: 0, forced: None }
    }

    /// When [`Event::Clock`] has to come at the latest; `None`: not at all.
    pub fn deadline(&self) -> Option<u64> {
        match self.phase {
            Phase::Waiting { until, .. } => Some(until),
            Phase::Open { heard, beat, .. } => Some(beat.min(heard + self.timing.silence)),
            Phase::Token | Phase::Opening | Phase::Dead => None,
        }
    }

    /// Whether it waits for a new login.
    pub fn is_dead(&self) -> bool {
        self.phase == Phase::Dead
    }

    /// What an event leads to. `chance` is in 0..1, another one each time.
    pub fn step(&mut self, event: Event, now: u64, chance: f64) -> Vec<Effect> {
        match (event, self.phase.clone()) {
            (Event::Clock, Phase::Waiting { until, force }) if now >= until => {
                self.phase = Phase::Token;
                vec![Effect::Token { force }]
            }
            (Event::Clock, Phase::Open { since, heard, beat }) => {
                if now >= heard + self.timing.silence {
                    let why = format!("no word from the hub for {} s", self.timing.silence / 1_000);
                    return self.lost(why, now, chance);
                }
                if now < beat {
                    return Vec::new();
                }
                self.phase = Phase::Open { since, heard, beat: now + self.timing.beat };
                vec![Effect::Beat]
            }
            (Event::Token, Phase::Token) => {
                self.phase = Phase::Opening;
                vec![Effect::Open]
            }
            (Event::NoToken(why), Phase::Token) => self.wait(format!("no access token: {why}"), now, chance),
            // A login may also be renewed while the socket is open.
            (Event::Rejected(why), Phase::Token | Phase::Open { .. }) => self.die(why),
            (Event::Opened, Phase::Opening) => {
                // Many daemons shall not beat in step.
                let beat = now + (chance * self.timing.beat as f64) as u64;
                self.phase = Phase::Open { since: now, heard: now, beat };
                vec![Effect::Up]
            }
            (Event::Refused { status: status @ (401 | 403), .. }, Phase::Opening) => {
                let why = format!("the hub refuses this daemon (HTTP {status})");
                if let Some(pause) = self.timing.refused {
                    return self.refused(why, now, pause);
                }
                let fresh = self.forced.is_some_and(|at| now < at + self.timing.forced);
                if !fresh {
                    self.forced = Some(now);
                    return self.pause(why, now, 0, true);
                }
                self.attempt = self.timing.delays.len();
                self.wait(why, now, chance)
            }
            (Event::Refused { status, retry_after }, Phase::Opening) => {
                let least = retry_after.unwrap_or(0).min(self.timing.retry_after_max);
                let delay = self.next_delay(chance).max(least);
                self.pause(format!("the hub answers HTTP {status} instead of a socket"), now, delay, false)
            }
            (Event::Heard, Phase::Open { since, beat, .. }) => {
                self.phase = Phase::Open { since, heard: now, beat };
                Vec::new()
            }
            (Event::Failed(why), Phase::Opening) => self.wait(why, now, chance),
            (Event::Failed(why), Phase::Open { .. }) => self.lost(why, now, chance),
            (Event::Closed(code), Phase::Open { .. }) => self.closed(code, now, chance),
            (Event::Revoked, phase) if phase != Phase::Dead => self.die("the hub has revoked this daemon".into()),
            (Event::LoggedIn, phase) => {
                *self = Self::new(self.timing.clone());
                self.phase = Phase::Waiting { until: now, force: false };
                if phase == Phase::Dead { Vec::new() } else { vec![Effect::Drop] }
            }
            _ => Vec::new(),
        }
    }

    /// The hub does not take the token, and there will be no other one.
    fn refused(&mut self, why: String, now: u64, pause: u64) -> Vec<Effect> {
        self.phase = Phase::Waiting { until: now + pause, force: false };
        vec![Effect::Drop, Effect::Expired(why)]
    }

    fn closed(&mut self, code: u16, now: u64, chance: f64) -> Vec<Effect> {
        let why = format!("the hub closed the socket ({code})");
        if let (4401 | 1008, Some(pause)) = (code, self.timing.refused) {
            return self.refused(why, now, pause);
        }
        match code {
            4403 => self.die("the hub has revoked this daemon".into()),
            4401 | 1008 if self.forced.is_none_or(|at| now >= at + self.timing.forced) => {
                self.forced = Some(now);
                self.pause(why, now, 0, true)
            }
            4001 => {
                if matches!(self.phase, Phase::Open { since, .. } if now >= since + self.timing.displaced_max) {
                    self.displaced = 0;
                }
                let pause = self.timing.displaced << self.displaced.min(16);
                self.displaced += 1;
                let why = "displaced: another daemon with the same login has connected".to_owned();
                self.pause(why, now, pause.min(self.timing.displaced_max), false)
            }
            _ => self.lost(why, now, chance),
        }
    }

    /// An open connection is gone.
    fn lost(&mut self, why: String, now: u64, chance: f64) -> Vec<Effect> {
        if let Phase::Open { since, .. } = self.phase
            && now >= since + self.timing.settled
        {
            self.attempt = 0;
            self.displaced = 0;
        }
        self.wait(why, now, chance)
    }

    fn wait(&mut self, why: String, now: u64, chance: f64) -> Vec<Effect> {
        let delay = self.next_delay(chance);
        self.pause(why, now, delay, false)
    }

    fn next_delay(&mut self, chance: f64) -> u64 {
        // The first one at any moment of its delay: a hub that was restarted shall not be stormed.
        let first = self.timing.delays.first().copied().unwrap_or(0);
        let delay =
            if self.attempt == 0 { (chance * first as f64) as u64 } else { self.timing.delay(self.attempt, chance) };
        self.attempt += 1;
        delay
    }

    fn pause(&mut self, why: String, now: u64, delay: u64, force: bool) -> Vec<Effect> {
        self.phase = Phase::Waiting { until: now + delay, force };
        vec![Effect::Drop, Effect::Down { why, retry_ms: delay }]
    }

    fn die(&mut self, why: String) -> Vec<Effect> {
        self.phase = Phase::Dead;
        vec![Effect::Drop, Effect::Expired(why)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_given_is_shown_again_after_a_while() {
        let mut machine = Machine::new(Timing { refused: Some(300_000), ..Timing::default() });
        let asks = |machine: &mut Machine, now| {
            assert_eq!(machine.step(Event::Clock, now, 0.5), [Effect::Token { force: false }]);
            assert_eq!(machine.step(Event::Token, now, 0.5), [Effect::Open]);
        };
        for now in [0, 300_000] {
            asks(&mut machine, now);
            let effects = machine.step(Event::Refused { status: 403, retry_after: None }, now, 0.5);
            assert!(matches!(&effects[..], [Effect::Drop, Effect::Expired(_)]), "{effects:?}");
            assert_eq!((machine.deadline(), machine.is_dead()), (Some(now + 300_000), false));
        }
        asks(&mut machine, 600_000);
        assert_eq!(machine.step(Event::Opened, 600_000, 0.5), [Effect::Up]);
        let effects = machine.step(Event::Closed(4401), 600_000, 0.5);
        assert!(matches!(&effects[..], [Effect::Drop, Effect::Expired(_)]), "{effects:?}");
        asks(&mut machine, 900_000);
        machine.step(Event::Opened, 900_000, 0.5);
        retry(&machine.step(Event::Closed(1012), 900_000, 0.5));
        assert!(!machine.is_dead(), "a sandbox that pauses goes on");
    }

    fn open(machine: &mut Machine, now: u64) {
        assert_eq!(machine.step(Event::Clock, now, 0.5), [Effect::Token { force: false }]);
        assert_eq!(machine.step(Event::Token, now, 0.5), [Effect::Open]);
        assert_eq!(machine.step(Event::Opened, now, 0.5), [Effect::Up]);
    }

    fn refused(status: u16) -> Event {
        Event::Refused { status, retry_after: None }
    }

    fn retry(effects: &[Effect]) -> u64 {
        match effects {
            [Effect::Drop, Effect::Down { retry_ms, .. }] => *retry_ms,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_beats_and_notices_silence() {
        let mut machine = Machine::new(Timing::default());
        open(&mut machine, 0);
        assert_eq!(machine.deadline(), Some(10_000), "the first beat is anywhere in the first interval");
        assert_eq!(machine.step(Event::Clock, 10_000, 0.0), [Effect::Beat]);
        assert_eq!(machine.step(Event::Clock, 29_999, 0.0), []);
        assert_eq!(machine.step(Event::Clock, 30_000, 0.0), [Effect::Beat]);
        machine.step(Event::Heard, 30_001, 0.0);
        assert_eq!(machine.step(Event::Clock, 50_000, 0.0), [Effect::Beat]);
        assert_eq!(retry(&machine.step(Event::Clock, 80_001, 0.5)), 500);
    }

    #[test]
    fn delays_grow_until_a_connection_has_lived() {
        let mut machine = Machine::new(Timing::default());
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..7 {
            open(&mut machine, now);
            let delay = retry(&machine.step(Event::Failed("x".into()), now, 0.0));
            delays.push(delay);
            now += delay;
        }
        assert_eq!(delays, [0, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        open(&mut machine, now);
        assert_eq!(retry(&machine.step(Event::Failed("x".into()), now + 30_000, 0.25)), 250, "it had lived");
    }

    #[test]
    fn a_refusal_is_answered_with_one_fresh_token() {
        let mut machine = Machine::new(Timing::default());
        machine.step(Event::Clock, 0, 0.0);
        machine.step(Event::Token, 0, 0.0);
        assert_eq!(retry(&machine.step(refused(403), 0, 0.0)), 0);
        assert_eq!(machine.step(Event::Clock, 0, 0.0), [Effect::Token { force: true }]);
        machine.step(Event::Token, 0, 0.0);
        assert_eq!(retry(&machine.step(refused(403), 0, 0.0)), 30_000, "the longest step");
        assert_eq!(machine.step(Event::Clock, 30_000, 0.0), [Effect::Token { force: false }]);
        let dead = machine.step(Event::Rejected("no".into()), 30_000, 0.0);
        assert_eq!(dead, [Effect::Drop, Effect::Expired("no".into())]);
        assert_eq!((machine.deadline(), machine.is_dead()), (None, true));
        assert_eq!(machine.step(Event::Clock, 99_000, 0.0), []);
        machine.step(Event::LoggedIn, 100_000, 0.0);
        open(&mut machine, 100_000);
    }

    #[test]
    fn a_hub_that_asks_for_time_gets_some() {
        let delay = |retry_after| {
            let mut machine = Machine::new(Timing::default());
            machine.step(Event::Clock, 0, 0.0);
            machine.step(Event::Token, 0, 0.0);
            retry(&machine.step(Event::Refused { status: 503, retry_after }, 0, 0.5))
        };
        assert_eq!([None, Some(100), Some(7_000), Some(86_400_000)].map(delay), [500, 500, 7_000, 300_000]);
    }

    #[test]
    fn a_login_counts_in_every_state_and_a_rejected_renewal_ends_an_open_connection() {
        let mut machine = Machine::new(Timing::default());
        open(&mut machine, 0);
        assert_eq!(machine.step(Event::LoggedIn, 5, 0.0), [Effect::Drop]);
        open(&mut machine, 5);
        assert_eq!(machine.step(Event::Rejected("no".into()), 6, 0.0), [Effect::Drop, Effect::Expired("no".into())]);
        assert_eq!(machine.step(Event::LoggedIn, 7, 0.0), []);
        open(&mut machine, 7);
    }

    #[test]
    fn close_codes_have_their_meanings() {
        let closed = |code| {
            let mut machine = Machine::new(Timing::default());
            open(&mut machine, 0);
            let effects = machine.step(Event::Closed(code), 0, 0.5);
            (effects, machine)
        };
        assert!(matches!(&closed(4403).0[..], [Effect::Drop, Effect::Expired(_)]));
        for code in [4401, 1008] {
            let (effects, mut machine) = closed(code);
            assert_eq!(retry(&effects), 0);
            assert_eq!(machine.step(Event::Clock, 0, 0.0), [Effect::Token { force: true }], "{code}");
        }
        for code in [1000, 1001, 1006, 1011, 1012] {
            assert_eq!(retry(&closed(code).0), 500, "{code}");
        }
        let (effects, mut machine) = closed(4001);
        assert_eq!(retry(&effects), 30_000);
        open(&mut machine, 30_000);
        assert_eq!(retry(&machine.step(Event::Closed(4001), 30_001, 0.5)), 60_000, "no ping-pong");
    }

    #[test]
    fn what_an_old_socket_says_is_none_of_the_new_ones_business() {
        let mut machine = Machine::new(Timing::default());
        open(&mut machine, 0);
        retry(&machine.step(Event::Closed(1000), 0, 0.0));
        for event in [Event::Closed(4403), Event::Failed("x".into()), Event::Opened, Event::Token] {
            assert_eq!(machine.step(event, 0, 0.0), []);
        }
    }
}
