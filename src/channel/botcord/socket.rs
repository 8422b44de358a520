//! When an agent's socket is opened, spoken on and given up (the hub's protocol, §9.1): a pure state machine.
//!
//! The socket only wakes: no message travels on it. Sockets are numbered, so that news of one that was given up is
//! known for what it is. Times are milliseconds of any clock that only goes forward; they come from the caller, and so
//! does chance.

use std::time::Duration;

/// Time limits of an agent's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From the beginning of a connection to the hub's `auth_ok` (15 s).
    pub handshake: Duration,
    /// Between two signs of life of ours (20 s).
    pub ping: Duration,
    /// Longest silence of the hub (60 s).
    pub silence: Duration,
    /// Longest silence after a sign of life of ours, which a hub answers at once (25 s).
    pub pong: Duration,
    /// Between two looks into the inbox while the socket is up; zero: only when woken (30 s).
    pub poll: Duration,
    /// Without a socket for so long, the inbox is asked without it (60 s).
    pub patience: Duration,
    /// How long each of these questions may wait for something to come (25 s).
    pub long_poll: Duration,
    /// Between two renewals of leases (40 s); the hub's last 120 s.
    pub renew: Duration,
    /// How long the inbox is left alone after the engine has refused a message (30 s).
    pub pause: Duration,
    /// How long the files of one answer of the inbox may take before the rest of them stays at the hub (60 s): the
    /// messages of all rooms wait for them.
    pub files: Duration,
    /// The first wait before a reconnect (1 s); it doubles up to `retry_max`.
    pub retry: Duration,
    /// The longest wait before a reconnect (30 s), before chance adds up to a quarter.
    pub retry_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(15),
            ping: Duration::from_secs(20),
            silence: Duration::from_mins(1),
            pong: Duration::from_secs(25),
            poll: Duration::from_secs(30),
            patience: Duration::from_mins(1),
            long_poll: Duration::from_secs(25),
            renew: Duration::from_secs(40),
            pause: Duration::from_secs(30),
            files: Duration::from_mins(1),
            retry: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// Refused tokens in a row after which the channel gives up and is started anew.
const REFUSALS: u32 = 5;
/// How often in a row the attempt after a connection comes almost at once, unless one of them lasts [`LASTING`]: a hub
/// that takes connections only to drop them is not to be stormed.
const EAGER: u32 = 12;
/// A connection that has lasted so long was a good one.
const LASTING: u64 = 60_000;
/// The close code of a refused token.
const REFUSED: u16 = 4001;

/// Something that happened. The number is that of the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Clock,
    /// There is a token; the connection begins.
    Dials(u32),
    /// It is open.
    Opened(u32),
    /// There is no token or no connection, or it broke.
    Failed(u32, String),
    /// Bytes of any kind have come.
    Heard(u32),
    /// The hub has taken the token.
    AuthOk(u32),
    /// The inbox has something new, or something has changed.
    Update(u32),
    /// The hub has closed it.
    Closed(u32, u16),
    /// The machine has slept, or its clock was set: connections are dead.
    Jumped,
}

/// Why the inbox is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The socket is up (again).
    AuthOk,
    /// The hub says so.
    InboxUpdate,
    /// The last look was a while ago.
    Fallback,
    /// There has been no socket for a while.
    NoSocket,
    /// There is room again for more messages, or the engine takes some again.
    Room,
}

impl Trigger {
    /// A word for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuthOk => "auth_ok",
            Self::InboxUpdate => "inbox_update",
            Self::Fallback => "fallback",
            Self::NoSocket => "no_socket",
            Self::Room => "room",
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Get a token, a new one where `refused`, and open a socket of this number.
    Open {
        /// Its number.
        socket: u32,
        /// The last token was refused.
        refused: bool,
    },
    /// Introduce the agent.
    Auth,
    /// Give a sign of life.
    Ping,
    /// Drop the socket without a word.
    Drop,
    /// Ask the inbox.
    Poll(Trigger),
    /// The hub is reached.
    Up,
    /// It is not reached (any more).
    Down {
        /// Why.
        why: String,
        /// How long until the next attempt.
        retry_ms: u64,
        /// The how-manieth attempt that will be since the hub was reached last.
        attempt: u32,
    },
    /// No further attempt is made.
    GiveUp(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting { until: u64 },
    Fetching,
    Opening { until: u64 },
    Greeting { until: u64 },
    Up { since: u64, ping_at: u64, silent_at: u64 },
    Over,
}

/// The connection of one agent.
#[derive(Clone, Debug)]
pub struct Machine {
    timing: Timing,
    phase: Phase,
    socket: u32,
    attempts: u32,
    /// How many more times the first attempt comes almost at once.
    eager: u32,
    /// It has done so since the hub was reached last.
    was_eager: bool,
    refusals: u32,
    refused: bool,
    /// When the hub is to have answered the last sign of life.
    pong_by: Option<u64>,
    /// When the inbox is asked without being told to; `None`: never.
    poll_at: Option<u64>,
}

fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

impl Machine {
    /// A connection that is to be made at once.
    pub fn new(timing: Timing, now: u64) -> Self {
        let poll_at = Some(now + ms(timing.patience));
        Self {
            timing,
            phase: Phase::Waiting { until: now },
            socket: 0,
            attempts: 0,
            eager: EAGER,
            was_eager: false,
            refusals: 0,
            refused: false,
            pong_by: None,
            poll_at,
        }
    }

    /// Whether the hub is reached.
    pub fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    /// When [`Event::Clock`] is due at the latest.
    pub fn deadline(&self) -> u64 {
        let phase = match self.phase {
            Phase::Waiting { until } | Phase::Opening { until } | Phase::Greeting { until } => until,
            Phase::Up { ping_at, silent_at, .. } => ping_at.min(silent_at).min(self.pong_by.unwrap_or(u64::MAX)),
            Phase::Fetching | Phase::Over => u64::MAX,
        };
        phase.min(self.poll_at.unwrap_or(u64::MAX))
    }

    /// The next step. `chance` is in 0..1.
    pub fn step(&mut self, event: Event, now: u64, chance: f64) -> Vec<Effect> {
        let stale = |socket: &u32| *socket != self.socket;
        match &event {
            _ if self.phase == Phase::Over => return Vec::new(),
            Event::Dials(n) | Event::Opened(n) | Event::Failed(n, _) | Event::Heard(n) if stale(n) => {
                return Vec::new();
            }
            Event::AuthOk(n) | Event::Update(n) | Event::Closed(n, _) if stale(n) => return Vec::new(),
            _ => {}
        }
        match (event, self.phase) {
            (Event::Clock, _) => self.clock(now, chance),
            (Event::Dials(_), Phase::Fetching) => {
                // There is another token now.
                self.refused = false;
                self.phase = Phase::Opening { until: now + ms(self.timing.handshake) };
                Vec::new()
            }
            (Event::Opened(_), Phase::Opening { until }) => {
                self.phase = Phase::Greeting { until };
                vec![Effect::Auth]
            }
            (Event::AuthOk(_), Phase::Greeting { .. }) => {
                (self.attempts, self.refusals, self.was_eager, self.pong_by) = (0, 0, false, None);
                let (ping_at, silent_at) = (now + ms(self.timing.ping), now + ms(self.timing.silence));
                self.phase = Phase::Up { since: now, ping_at, silent_at };
                self.poll_next(now);
                vec![Effect::Up, Effect::Poll(Trigger::AuthOk)]
            }
            (Event::Heard(_), Phase::Up { since, ping_at, .. }) => {
                self.pong_by = None;
                self.phase = Phase::Up { since, ping_at, silent_at: now + ms(self.timing.silence) };
                Vec::new()
            }
            (Event::Update(_), Phase::Up { .. }) => {
                self.poll_next(now);
                vec![Effect::Poll(Trigger::InboxUpdate)]
            }
            (
                Event::Failed(_, why),
                Phase::Fetching | Phase::Opening { .. } | Phase::Greeting { .. } | Phase::Up { .. },
            ) => self.down(why, now, chance),
            (Event::Closed(_, code), Phase::Greeting { .. } | Phase::Up { .. }) => self.closed(code, now, chance),
            (Event::Jumped, Phase::Waiting { .. }) => {
                self.phase = Phase::Waiting { until: now };
                Vec::new()
            }
            (Event::Jumped, Phase::Opening { .. } | Phase::Greeting { .. } | Phase::Up { .. }) => {
                let effects = self.down("the clock jumped".into(), now, chance);
                self.phase = Phase::Waiting { until: now };
                effects
            }
            _ => Vec::new(),
        }
    }

    fn clock(&mut self, now: u64, chance: f64) -> Vec<Effect> {
        let mut effects = match self.phase {
            Phase::Waiting { until } if until <= now => {
                self.socket += 1;
                self.phase = Phase::Fetching;
                vec![Effect::Open { socket: self.socket, refused: self.refused }]
            }
            Phase::Opening { until } | Phase::Greeting { until } if until <= now => {
                let limit = self.timing.handshake.as_millis();
                self.down(format!("botcord ws handshake timeout after {limit}ms"), now, chance)
            }
            Phase::Up { silent_at, .. } if silent_at <= now => {
                let limit = self.timing.silence.as_millis();
                self.down(format!("botcord ws stale after {limit}ms without server frame"), now, chance)
            }
            Phase::Up { .. } if self.pong_by.is_some_and(|at| at <= now) => {
                let limit = self.timing.pong.as_millis();
                self.down(format!("botcord ws ping unanswered for {limit}ms"), now, chance)
            }
            Phase::Up { since, ping_at, silent_at } if ping_at <= now => {
                self.phase = Phase::Up { since, ping_at: now + ms(self.timing.ping), silent_at };
                self.pong_by.get_or_insert(now + ms(self.timing.pong));
                vec![Effect::Ping]
            }
            _ => Vec::new(),
        };
        if self.poll_at.is_some_and(|at| at <= now) {
            let trigger = if self.is_up() { Trigger::Fallback } else { Trigger::NoSocket };
            self.poll_next(now);
            effects.push(Effect::Poll(trigger));
        }
        effects
    }

    /// Sets the time of the next look into the inbox. Without a socket there is always one.
    fn poll_next(&mut self, now: u64) {
        let every = match (self.is_up(), self.timing.poll) {
            (true, Duration::ZERO) => None,
            (_, Duration::ZERO) => Some(self.timing.patience),
            (_, every) => Some(every),
        };
        self.poll_at = every.map(|every| now + ms(every));
    }

    fn closed(&mut self, code: u16, now: u64, chance: f64) -> Vec<Effect> {
        if code != REFUSED {
            return self.down(format!("the hub closed the connection ({code})"), now, chance);
        }
        self.refusals += 1;
        self.refused = true;
        if self.refusals < REFUSALS {
            return self.down(format!("the hub refused the token ({code})"), now, chance);
        }
        self.phase = Phase::Over;
        vec![Effect::Drop, Effect::GiveUp(format!("the hub refused the token {REFUSALS} times in a row"))]
    }

    /// Gives the socket up and plans the next attempt.
    fn down(&mut self, why: String, now: u64, chance: f64) -> Vec<Effect> {
        if self.is_up() {
            self.poll_at = Some(now + ms(self.timing.patience));
        }
        if matches!(self.phase, Phase::Up { since, .. } if since + LASTING <= now) {
            self.eager = EAGER;
        }
        let retry_ms = if self.is_up() && self.eager > 0 && !self.refused {
            // What worked a moment ago works again, as a rule. Chance keeps many agents from coming at once.
            self.eager -= 1;
            self.was_eager = true;
            (ms(self.timing.retry) as f64 * chance / 5.0) as u64
        } else {
            let doublings = self.attempts.saturating_sub(u32::from(self.was_eager)).min(16);
            let wait = ms(self.timing.retry).saturating_mul(1 << doublings).min(ms(self.timing.retry_max));
            (wait as f64 * (1.0 + chance / 4.0)) as u64
        };
        self.attempts = self.attempts.saturating_add(1);
        self.phase = Phase::Waiting { until: now + retry_ms };
        vec![Effect::Drop, Effect::Down { why, retry_ms, attempt: self.attempts }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine::new(Timing::default(), 0)
    }

    /// Opens socket `n`; the waiting time is over.
    fn open(m: &mut Machine, n: u32, now: u64) {
        let refused = matches!(m.step(Event::Clock, now, 0.0)[..], [Effect::Open { socket, .. }] if socket == n);
        assert!(refused, "a socket {n} at {now}: {m:?}");
        assert_eq!(m.step(Event::Dials(n), now, 0.0), []);
        assert_eq!(m.step(Event::Opened(n), now, 0.0), [Effect::Auth]);
    }

    fn up(m: &mut Machine, n: u32, now: u64) {
        open(m, n, now);
        assert_eq!(m.step(Event::AuthOk(n), now, 0.0), [Effect::Up, Effect::Poll(Trigger::AuthOk)]);
    }

    fn retry(effects: &[Effect]) -> u64 {
        match effects {
            [Effect::Drop, Effect::Down { retry_ms, .. }] => *retry_ms,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pings_and_looks_come_in_their_time_and_nothing_else_does() {
        let mut m = machine();
        up(&mut m, 1, 0);
        let mut seen = Vec::new();
        while m.deadline() <= 60_000 {
            let now = m.deadline();
            m.step(Event::Heard(1), now, 0.0);
            seen.extend(m.step(Event::Clock, now, 0.0).into_iter().map(|e| (now, e)));
        }
        let look = Effect::Poll(Trigger::Fallback);
        let ping = |at| (at, Effect::Ping);
        assert_eq!(seen, [ping(20_000), (30_000, look.clone()), ping(40_000), ping(60_000), (60_000, look)]);
        assert_eq!(m.step(Event::Update(1), 61_000, 0.0), [Effect::Poll(Trigger::InboxUpdate)]);
        assert_eq!(m.step(Event::Clock, 61_000, 0.0), [], "the hub has said so a moment ago");
    }

    #[test]
    fn without_looks_only_pings_wake_it() {
        let mut m = Machine::new(Timing { poll: Duration::ZERO, ..Timing::default() }, 0);
        up(&mut m, 1, 0);
        assert_eq!(m.deadline(), 20_000);
        assert_eq!(m.step(Event::Clock, 40_000, 0.0), [Effect::Ping]);
    }

    #[test]
    fn silence_ends_it() {
        let mut m = machine();
        up(&mut m, 1, 0);
        m.step(Event::Heard(1), 5_000, 0.0);
        m.step(Event::Clock, 64_999, 0.0);
        assert!(m.is_up());
        let effects = m.step(Event::Clock, 65_000, 0.0);
        let why = "botcord ws stale after 60000ms without server frame".to_owned();
        assert_eq!(effects[..2], [Effect::Drop, Effect::Down { why, retry_ms: 0, attempt: 1 }]);
    }

    #[test]
    fn a_sign_of_life_that_is_not_answered_ends_it_sooner() {
        let mut m = machine();
        up(&mut m, 1, 0);
        for answered in [20_000, 40_000] {
            assert_eq!(m.step(Event::Clock, answered, 0.0)[0], Effect::Ping);
            m.step(Event::Heard(1), answered + 5, 0.0);
            assert!(m.deadline() > answered + 9_000, "nothing but looks and signs of life");
            m.step(Event::Clock, answered + 10_000, 0.0);
        }
        assert_eq!(m.step(Event::Clock, 60_000, 0.0)[0], Effect::Ping);
        assert_eq!(m.step(Event::Clock, 80_000, 0.0)[0], Effect::Ping);
        assert_eq!(m.deadline(), 85_000, "the first of them counts");
        let why = "botcord ws ping unanswered for 25000ms".to_owned();
        let down = Effect::Down { why, retry_ms: 200, attempt: 1 };
        assert_eq!(m.step(Event::Clock, 85_000, 1.0), [Effect::Drop, down]);
    }

    #[test]
    fn the_first_attempt_comes_almost_at_once_but_not_for_ever() {
        let mut m = machine();
        let mut now = 0;
        for n in 1..=EAGER {
            up(&mut m, n, now);
            assert_eq!(retry(&m.step(Event::Closed(n, 1006), now, 0.5)), 100);
            now += 100;
        }
        up(&mut m, EAGER + 1, now);
        now += retry(&m.step(Event::Closed(EAGER + 1, 1006), now, 0.0));
        assert_eq!(now, u64::from(EAGER) * 100 + 1_000, "this hub does not want it");
        up(&mut m, EAGER + 2, now);
        now += LASTING;
        m.step(Event::Heard(EAGER + 2), now, 0.0);
        let mut waits = vec![retry(&m.step(Event::Failed(EAGER + 2, "cut".into()), now, 0.0))];
        for n in EAGER + 3..EAGER + 6 {
            now += waits.last().unwrap();
            m.step(Event::Clock, now, 0.0);
            waits.push(retry(&m.step(Event::Failed(n, "no".into()), now, 0.0)));
        }
        assert_eq!(waits, [0, 1_000, 2_000, 4_000]);
    }

    #[test]
    fn whoever_does_not_greet_in_time_is_dropped() {
        let mut m = machine();
        open(&mut m, 1, 0);
        assert_eq!(m.step(Event::Clock, 14_999, 0.0), []);
        let why = "botcord ws handshake timeout after 15000ms".to_owned();
        assert_eq!(
            m.step(Event::Clock, 15_000, 0.0),
            [Effect::Drop, Effect::Down { why, retry_ms: 1_000, attempt: 1 }]
        );
        let mut slow = machine();
        slow.step(Event::Clock, 0, 0.0);
        assert_eq!(slow.step(Event::Clock, 40_000, 0.0), [], "a token may take its time");
        slow.step(Event::Dials(1), 40_000, 0.0);
        assert_eq!(slow.deadline(), 55_000);
    }

    #[test]
    fn waits_double_up_to_their_bound_and_begin_anew_once_it_was_up() {
        let mut m = machine();
        let mut now = 0;
        for (n, wait) in (1..).zip([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]) {
            m.step(Event::Clock, now, 0.0);
            assert_eq!(retry(&m.step(Event::Failed(n, "no".into()), now, 0.0)), wait);
            now += wait;
        }
        assert!(matches!(m.step(Event::Clock, now, 0.0)[..], [Effect::Open { .. }, ..]));
        m.step(Event::Dials(8), now, 0.0);
        m.step(Event::Opened(8), now, 0.0);
        m.step(Event::AuthOk(8), now, 0.0);
        assert_eq!(retry(&m.step(Event::Closed(8, 1006), now, 0.999)), 199, "chance alone");
        now += 199;
        m.step(Event::Clock, now, 0.0);
        assert_eq!(retry(&m.step(Event::Failed(9, "no".into()), now, 0.999)), 1_249, "with chance");
    }

    #[test]
    fn the_fifth_refusal_in_a_row_is_the_last() {
        let mut m = machine();
        let mut now = 0;
        for n in 1..=4 {
            open(&mut m, n, now);
            now += retry(&m.step(Event::Closed(n, 4001), now, 0.0));
        }
        assert_eq!(m.step(Event::Clock, now, 0.0), [Effect::Open { socket: 5, refused: true }]);
        m.step(Event::Dials(5), now, 0.0);
        m.step(Event::Opened(5), now, 0.0);
        let mut lucky = m.clone();
        assert!(matches!(m.step(Event::Closed(5, 4001), now, 0.0)[..], [Effect::Drop, Effect::GiveUp(_)]));
        assert_eq!(m.step(Event::Clock, now + 100_000, 0.0), []);
        lucky.step(Event::AuthOk(5), now, 0.0);
        now += retry(&lucky.step(Event::Closed(5, 4001), now, 0.0));
        assert_eq!(lucky.step(Event::Clock, now, 0.0), [Effect::Open { socket: 6, refused: true }]);
        lucky.step(Event::Failed(6, "no other token yet".into()), now, 0.0);
        assert_eq!(lucky.step(Event::Clock, now + 2_000, 0.0), [Effect::Open { socket: 7, refused: true }]);
        lucky.step(Event::Dials(7), now + 2_000, 0.0);
        lucky.step(Event::Failed(7, "no".into()), now + 2_000, 0.0);
        assert_eq!(lucky.step(Event::Clock, now + 6_000, 0.0), [Effect::Open { socket: 8, refused: false }]);
    }

    #[test]
    fn news_of_a_socket_that_was_given_up_is_none() {
        let mut m = machine();
        open(&mut m, 1, 0);
        let now = retry(&m.step(Event::Failed(1, "no".into()), 0, 0.0));
        open(&mut m, 2, now);
        for event in [
            Event::AuthOk(1),
            Event::Update(1),
            Event::Closed(1, 4001),
            Event::Failed(1, "late".into()),
            Event::Opened(1),
            Event::Heard(1),
        ] {
            assert_eq!(m.step(event.clone(), now, 0.0), [], "{event:?}");
        }
        assert_eq!(m.step(Event::AuthOk(2), now, 0.0).len(), 2);
        assert_eq!(m.step(Event::AuthOk(2), now, 0.0), [], "once is enough");
    }

    #[test]
    fn without_a_socket_the_inbox_is_asked_after_a_minute() {
        let mut m = machine();
        let mut polls = Vec::new();
        let mut socket = 0;
        while m.deadline() <= 130_000 {
            let now = m.deadline();
            for effect in m.step(Event::Clock, now, 0.0) {
                match effect {
                    Effect::Open { socket: n, .. } => {
                        socket = n;
                        m.step(Event::Failed(n, "no".into()), now, 0.0);
                    }
                    Effect::Poll(trigger) => polls.push((now, trigger)),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(socket > 5);
        assert_eq!(polls, [60_000, 90_000, 120_000].map(|at| (at, Trigger::NoSocket)));
    }

    #[test]
    fn a_machine_that_has_slept_connects_at_once() {
        let mut m = machine();
        up(&mut m, 1, 0);
        assert!(matches!(m.step(Event::Jumped, 10, 0.0)[..], [Effect::Drop, Effect::Down { .. }]));
        assert_eq!(m.step(Event::Clock, 10, 0.0), [Effect::Open { socket: 2, refused: false }]);
        m.step(Event::Failed(2, "no".into()), 10, 0.0);
        m.step(Event::Jumped, 20, 0.0);
        assert_eq!(m.deadline(), 20);
    }
}
