//! Channels that have to be kept running: pollers, sockets.

use crate::engine::cancel::CancelToken;

/// How a run of a channel ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It ended by itself, or because it was told to.
    Ended,
    /// It failed; the text is for people and holds no secrets.
    Failed(String),
    /// It failed in a way that no restart mends, such as a revoked token.
    Permanent(String),
}

/// What a channel says about its own connection while it runs. `None`: no news.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelNews {
    /// Whether the far side is reached. That it is forgets what went wrong before.
    pub connected: Option<bool>,
    /// How many attempts to reach it were made since it was reached last.
    pub reconnect_attempts: Option<u64>,
    /// Whether the far side takes its credentials.
    pub authorized: Option<bool>,
    /// When the far side was asked last (Unix milliseconds).
    pub last_poll_at: Option<i64>,
    /// When something came last.
    pub last_inbound_at: Option<i64>,
    /// When something was sent last.
    pub last_send_at: Option<i64>,
    /// What went wrong last, without ending the run.
    pub last_error: Option<String>,
}

/// A channel that needs a thread of its own. It is started, and restarted after it has ended, by whoever supervises it.
pub trait Lifecycle: Send + Sync {
    /// Id of the channel.
    fn id(&self) -> &str;

    /// The agent that it is for.
    fn account(&self) -> &str;

    /// What it connects to, for people: `telegram`, …
    fn provider(&self) -> &str;

    /// Runs until it fails or `stop` is set, and returns soon after that (a supervisor waits ten seconds). `tell` takes
    /// news at any time and is quick.
    fn run(&self, stop: &CancelToken, tell: &dyn Fn(ChannelNews)) -> Exit;
}
