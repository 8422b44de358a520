//! When a channel is started, restarted and left alone: a pure state machine, one for each channel.
//!
//! A channel that ends, whether it failed or not, is started again after a wait that doubles up to a bound and begins
//! anew after a run that lasted. One that says that no restart will help is left alone until it is started by hand.
//! Times are Unix milliseconds and come from the caller, threads are the caller's business.

use serde::Serialize;

use crate::engine::ports::{ChannelNews, Exit};

/// The waits between runs, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first one.
    pub first_ms: i64,
    /// The longest one.
    pub max_ms: i64,
    /// A run of this length makes the next wait the first one again.
    pub reset_after_ms: i64,
}

impl Default for Backoff {
    /// One second, doubled up to a minute, anew after a run of 30 seconds.
    fn default() -> Self {
        Self { first_ms: 1_000, max_ms: 60_000, reset_after_ms: 30_000 }
    }
}

/// How a channel is, as snapshots show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelStatus {
    /// Channel id.
    pub channel: String,
    /// The agent.
    pub account_id: String,
    /// Whether it runs.
    pub running: bool,
    /// Whether it reaches its far side.
    pub connected: bool,
    /// Whether it waits to be started again.
    pub restart_pending: bool,
    /// How often it was started again, or tried to connect since it last did.
    pub reconnect_attempts: u64,
    /// When it was started last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_start_at: Option<i64>,
    /// When it ended last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_stop_at: Option<i64>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// What it connects to.
    pub provider: String,
    /// When it asked its far side last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_poll_at: Option<i64>,
    /// When something came last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_inbound_at: Option<i64>,
    /// When something was sent last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_send_at: Option<i64>,
    /// Whether its far side takes its credentials, once that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorized: Option<bool>,
}

impl ChannelStatus {
    /// Takes what the channel says about itself.
    pub fn tell(&mut self, news: ChannelNews) {
        self.connected = news.connected.unwrap_or(self.connected);
        self.reconnect_attempts = news.reconnect_attempts.unwrap_or(self.reconnect_attempts);
        self.authorized = news.authorized.or(self.authorized);
        self.last_poll_at = news.last_poll_at.or(self.last_poll_at);
        self.last_inbound_at = news.last_inbound_at.or(self.last_inbound_at);
        self.last_send_at = news.last_send_at.or(self.last_send_at);
        let before = self.last_error.take().filter(|_| news.connected != Some(true));
        self.last_error = news.last_error.or(before);
    }
}

/// Something that happens to a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants it to run.
    Start,
    /// Its run has ended.
    Exited(Exit),
    /// The wait is over.
    Due,
    /// Somebody wants it to end.
    Stop,
}

/// What is to be done then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// Run it.
    Launch,
    /// Wait so many milliseconds, then say [`Event::Due`].
    Wait(i64),
    /// Tell the run to end.
    Abort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Running { since: i64 },
    Stopping,
    Waiting,
}

/// One channel under supervision.
#[derive(Clone, Debug)]
pub struct Supervised {
    /// How it is.
    pub status: ChannelStatus,
    phase: Phase,
    backoff: Backoff,
    delay_ms: i64,
}

impl Supervised {
    /// A channel that does not run yet.
    pub fn new(channel: &str, account: &str, provider: &str, backoff: Backoff) -> Self {
        let status = ChannelStatus {
            channel: channel.to_owned(),
            account_id: account.to_owned(),
            provider: provider.to_owned(),
            ..ChannelStatus::default()
        };
        Self { status, phase: Phase::Idle, backoff, delay_ms: backoff.first_ms }
    }

    /// The next step. `jitter` is the part of a wait that is added to it, such as -0.2 to 0.2.
    pub fn step(&mut self, event: Event, now: i64, jitter: f64) -> Effect {
        match (event, self.phase) {
            (Event::Start, Phase::Idle) => self.launch(now),
            (Event::Due, Phase::Waiting) => {
                self.status.reconnect_attempts += 1;
                self.delay_ms = self.delay_ms.saturating_mul(2).min(self.backoff.max_ms);
                self.launch(now)
            }
            (Event::Exited(exit), Phase::Running { since }) => self.exited(exit, now, Some(now - since), jitter),
            (Event::Exited(exit), Phase::Stopping) => self.exited(exit, now, None, jitter),
            (Event::Stop, Phase::Running { .. }) => {
                self.phase = Phase::Stopping;
                Effect::Abort
            }
            (Event::Stop, Phase::Waiting) => {
                self.phase = Phase::Idle;
                self.status.restart_pending = false;
                Effect::Nothing
            }
            _ => Effect::Nothing,
        }
    }

    fn launch(&mut self, now: i64) -> Effect {
        self.phase = Phase::Running { since: now };
        self.status.running = true;
        self.status.restart_pending = false;
        self.status.last_error = None;
        self.status.last_start_at = Some(now);
        Effect::Launch
    }

    /// A run has ended; `lasted` is `None` when it was told to.
    fn exited(&mut self, exit: Exit, now: i64, lasted: Option<i64>, jitter: f64) -> Effect {
        self.phase = Phase::Idle;
        self.status.running = false;
        self.status.connected = false;
        self.status.last_stop_at = Some(now);
        let permanent = matches!(exit, Exit::Permanent(_));
        if let Exit::Failed(why) | Exit::Permanent(why) = exit {
            self.status.last_error = Some(why);
        }
        let Some(lasted) = lasted.filter(|_| !permanent) else { return Effect::Nothing };
        if lasted >= self.backoff.reset_after_ms {
            self.delay_ms = self.backoff.first_ms;
        }
        self.phase = Phase::Waiting;
        self.status.restart_pending = true;
        Effect::Wait((self.delay_ms as f64 * (1.0 + jitter)) as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Backoff = Backoff { first_ms: 1_000, max_ms: 4_000, reset_after_ms: 30_000 };

    fn channel(backoff: Backoff) -> Supervised {
        Supervised::new("c", "a", "telegram", backoff)
    }

    fn crash() -> Event {
        Event::Exited(Exit::Failed("gone".into()))
    }

    #[test]
    fn s75_a_running_channel_is_left_alone() {
        let mut c = channel(SHORT);
        assert_eq!(c.step(Event::Start, 5, 0.0), Effect::Launch);
        assert_eq!(c.step(Event::Start, 6, 0.0), Effect::Nothing);
        assert_eq!((c.status.running, c.status.last_start_at), (true, Some(5)));
    }

    #[test]
    fn s76_waits_double_up_to_their_bound() {
        let mut c = channel(SHORT);
        let mut now = 0;
        c.step(Event::Start, now, 0.0);
        for (n, wait) in [1_000, 2_000, 4_000, 4_000].into_iter().enumerate() {
            assert_eq!(c.step(crash(), now, 0.0), Effect::Wait(wait));
            assert_eq!((c.status.last_error.as_deref(), c.status.restart_pending), (Some("gone"), true));
            assert_eq!(c.status.reconnect_attempts, n as u64);
            now += wait;
            assert_eq!(c.step(Event::Due, now, 0.0), Effect::Launch);
            assert_eq!((c.status.last_error.as_deref(), c.status.restart_pending), (None, false));
        }
        assert_eq!(channel(SHORT).step(Event::Due, 0, 0.0), Effect::Nothing);
    }

    #[test]
    fn s77_a_run_that_lasts_starts_the_waits_anew() {
        let mut c = channel(Backoff::default());
        c.step(Event::Start, 0, 0.0);
        for now in [0, 1_000] {
            c.step(crash(), now, 0.0);
            c.step(Event::Due, now, 0.0);
        }
        assert_eq!(c.step(crash(), 32_000, 0.0), Effect::Wait(1_000));
        c.step(Event::Due, 33_000, 0.0);
        assert_eq!(c.step(crash(), 33_001, 0.2), Effect::Wait(2_400), "with jitter");
    }

    #[test]
    fn s78_whoever_returns_is_started_again_unless_that_is_no_use() {
        let mut c = channel(SHORT);
        c.step(Event::Start, 0, 0.0);
        assert_eq!(c.step(Event::Exited(Exit::Ended), 1, 0.0), Effect::Wait(1_000));
        c.step(Event::Due, 1_001, 0.0);
        assert_eq!(c.step(Event::Exited(Exit::Permanent("revoked".into())), 2_000, 0.0), Effect::Nothing);
        assert_eq!(c.step(Event::Due, 9_000, 0.0), Effect::Nothing);
        assert_eq!((c.status.restart_pending, c.status.last_error.as_deref()), (false, Some("revoked")));
        assert_eq!(c.step(Event::Start, 9_001, 0.0), Effect::Launch, "by hand");
    }

    #[test]
    fn s79_a_stopped_channel_stays_so_until_it_is_started() {
        let mut c = channel(SHORT);
        c.step(Event::Start, 0, 0.0);
        c.step(crash(), 1, 0.0);
        assert_eq!(c.step(Event::Stop, 2, 0.0), Effect::Nothing);
        assert!(!c.status.restart_pending);
        assert_eq!(c.step(Event::Due, 1_001, 0.0), Effect::Nothing);
        assert_eq!(c.step(Event::Stop, 1_002, 0.0), Effect::Nothing);
        assert_eq!(c.step(Event::Start, 1_003, 0.0), Effect::Launch);
        assert_eq!(c.step(Event::Stop, 1_004, 0.0), Effect::Abort);
        assert_eq!(c.step(crash(), 1_005, 0.0), Effect::Nothing, "it was told to end");
        assert!(!c.status.running && !c.status.restart_pending);
    }

    #[test]
    fn a_connection_forgets_the_error_before_it() {
        let mut c = channel(SHORT);
        c.step(Event::Start, 0, 0.0);
        let down =
            ChannelNews { last_error: Some("gone".into()), reconnect_attempts: Some(3), ..ChannelNews::default() };
        c.status.tell(down);
        c.status.tell(ChannelNews { last_poll_at: Some(1), ..ChannelNews::default() });
        assert_eq!((c.status.last_error.as_deref(), c.status.reconnect_attempts), (Some("gone"), 3));
        let up = ChannelNews { connected: Some(true), reconnect_attempts: Some(0), ..ChannelNews::default() };
        c.status.tell(up);
        assert_eq!((c.status.last_error.as_deref(), c.status.reconnect_attempts), (None, 0));
    }

    #[test]
    fn a_status_has_the_fields_of_its_readers() {
        let mut c = channel(SHORT);
        c.step(Event::Start, 7, 0.0);
        c.status.tell(ChannelNews { connected: Some(true), last_poll_at: Some(8), ..ChannelNews::default() });
        assert_eq!(
            serde_json::to_string(&c.status).unwrap(),
            r#"{"channel":"c","accountId":"a","running":true,"connected":true,"restartPending":false,"reconnectAttempts":0,"lastStartAt":7,"lastError":null,"provider":"telegram","lastPollAt":8}"#
        );
    }
}
