//! What the engine can be told.

use std::time::Duration;

use super::approvals::ApprovalPolicy;
use super::breaker::BreakerLimits;
use super::fuse::FuseLimits;
use super::typing::TypingPace;
use super::{admission, outbox, waits};

/// When a session is left for a fresh one; 0 switches a criterion off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Turns (default 25).
    pub turns: u64,
    /// Input tokens of the last turn (default 160 000).
    pub tokens: u64,
}

/// What the engine can be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Turns that may run at once in the whole daemon.
    pub max_turns: usize,
    /// Time limit of a turn.
    pub turn_limit: Duration,
    /// Whether the text of a superseded message goes along with the next one.
    pub carry_superseded: bool,
    /// Messages that may wait in one conversation; more are refused.
    pub max_waiting: usize,
    /// Runs of one message that crashes may interrupt before it is given up.
    pub max_attempts: u32,
    /// When sessions are left.
    pub rotation: Rotation,
    /// Waits between attempts to deliver a reply.
    pub outbox_delays: Vec<Duration>,
    /// How long the builder of prompts may take for system context and rules together, before the turn runs
    /// without them.
    pub context_limit: Duration,
    /// How long an adapter may take to return after it was cancelled. More than the 15 s after which
    /// process control gives up.
    pub abandon_after: Duration,
    /// Messages that were accepted longer ago than this are not run at start-up.
    pub stale_after: Duration,
    /// What makes messages wait instead of being answered with an error. Default: nothing.
    pub parking: waits::Parking,
    /// Memory that is kept free. Default: not looked at.
    pub memory: admission::Memory,
    /// A running turn without progress for so long, while none of its tools runs, is told of; zero: never.
    pub silent_after: Duration,
    /// Whether transcripts hold the runtimes' events themselves.
    pub verbose_blocks: bool,
    /// When the login of a runtime counts as refused, and for how long its turns are stopped then.
    pub breaker: BreakerLimits,
    /// How many turns in a row agents may cause (default: 20 within ten minutes).
    pub fuse: FuseLimits,
    /// How long files without a word wait for a text (default 24 h).
    pub aside_for: Duration,
    /// How often typing is shown (default: every 4 s, and not within 2 s).
    pub typing: TypingPace,
    /// Variables for every child.
    pub child_env: Vec<(String, String)>,
    /// Who decides about tool calls; [`Engine::set_approval_policy`] changes it later.
    pub approvals: ApprovalPolicy,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_turns: default_max_turns(),
            turn_limit: Duration::from_mins(30),
            carry_superseded: true,
            max_waiting: 1_000,
            max_attempts: 3,
            rotation: Rotation { turns: 25, tokens: 160_000 },
            outbox_delays: outbox::DELAYS.to_vec(),
            context_limit: Duration::from_secs(5),
            abandon_after: Duration::from_secs(20),
            stale_after: Duration::from_hours(24),
            parking: waits::Parking::default(),
            memory: admission::Memory::default(),
            silent_after: Duration::from_mins(10),
            verbose_blocks: false,
            breaker: BreakerLimits::default(),
            fuse: FuseLimits::default(),
            aside_for: Duration::from_hours(24),
            typing: TypingPace::default(),
            child_env: Vec::new(),
            approvals: ApprovalPolicy::default(),
        }
    }
}

/// The larger of 4 and twice the cores.
pub fn default_max_turns() -> usize {
    std::thread::available_parallelism().map_or(4, |n| (n.get() * 2).max(4))
}
