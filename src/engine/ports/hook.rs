//! Who accounts for turns.

use super::{RunResult, Thrown};
use crate::engine::settle::Settlement;
use crate::message::Inbound;

/// A turn whose last run is over.
#[derive(Clone, Copy, Debug)]
pub struct TurnDone<'a> {
    /// The (merged) message.
    pub message: &'a Inbound,
    /// Turn id.
    pub turn_id: &'a str,
    /// Runtime id.
    pub runtime: &'a str,
    /// What the last run returned; `None` when it threw.
    pub result: Option<&'a RunResult>,
    /// Why the last run could not begin, or did not return.
    pub thrown: Option<&'a Thrown>,
    /// From the moment when the turn knew its runtime to the end of the last run, waits and retries included; in
    /// milliseconds.
    pub wall_ms: u64,
}

/// Called at the end of turns, before their reply is sent. Calls wait for their return, so they have to be quick:
/// what needs a network is to be handed to somebody else. A panic is caught and logged.
pub trait TurnHook: Send + Sync {
    /// The last run of a turn is over, whatever came of it, superseded turns included. Called exactly once for a turn
    /// whose runtime was run, and never for others.
    fn turn_complete(&self, done: &TurnDone<'_>) {
        let _ = done;
    }

    /// A cloud run is over and wants to be accounted for. Also called for runs that never became a turn, with no
    /// usage. After a crash the same settlement may come again; its key tells.
    fn settle(&self, settlement: &Settlement) {
        let _ = settlement;
    }
}
