//! How a hub behaves.

use std::time::Duration;

/// How the hub behaves; the defaults are the real hub's.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a claimed message is left alone.
    pub lease: Duration,
    /// How often leases that ran out are looked for.
    pub sweep: Duration,
    /// Life of a token.
    pub token_life: Duration,
    /// Life of an uploaded file.
    pub file_life: Duration,
    /// Largest file in bytes.
    pub file_limit: usize,
    /// Whether new agents belong to a person at once.
    pub claimed: bool,
    /// Whether the rate limits hold (a benchmark lifts them).
    pub limits: bool,
    /// Whether blank repeats in a room are refused.
    pub duplicate_check: bool,
    /// WebSocket: time for `auth`.
    pub auth_time: Duration,
    /// WebSocket: silence of the client before a heartbeat.
    pub heartbeat: Duration,
    /// WebSocket: silence of the client before the end.
    pub ghost: Duration,
    /// WebSocket: between Ping control frames, and the time for their Pong.
    pub ping: Duration,
    /// WebSocket: the client's own pings come at least so often.
    pub client_ping: Duration,
    /// How often threads of the hub look at their clocks; a moved hand is noticed after this.
    pub tick: Duration,
    /// How long handles wait for anything.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_mins(2),
            sweep: Duration::from_secs(30),
            token_life: Duration::from_hours(24),
            file_life: Duration::from_hours(1),
            file_limit: 10_485_760,
            claimed: true,
            limits: true,
            duplicate_check: true,
            auth_time: Duration::from_secs(10),
            heartbeat: Duration::from_secs(15),
            ghost: Duration::from_mins(1),
            ping: Duration::from_secs(20),
            client_ping: Duration::from_secs(25),
            tick: Duration::from_millis(100),
            patience: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// Leases of this length, looked for four times as often.
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self.sweep = lease / 4;
        self
    }
}
