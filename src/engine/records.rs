//! What the engine writes into transcripts, in the engine's own words.

use std::sync::Arc;

use super::core::Core;
use super::now_ms;
use super::ports::TurnFailure;
use super::transcript::{
    BlockSummary, Body, Delivery, DropReason, OutboundFacts, Record, RuntimeFailure, TurnErrorPhase,
};
use super::turn::Turn;
use crate::message::{Block, Inbound, Outbound};

fn write(core: &Core, turn_id: &str, message: &Inbound, body: Body) {
    core.transcripts.append(&Record::new(now_ms(), turn_id, message, body));
}

/// A message came; `turn_id` is the one drawn for it.
pub(super) fn inbound(core: &Core, message: &Inbound, turn_id: &str) {
    write(core, turn_id, message, Body::inbound(message));
}

/// A message or its turn gave way.
pub(super) fn dropped(core: &Core, message: &Inbound, turn_id: &str, reason: DropReason, by: Option<&str>) {
    write(core, turn_id, message, Body::Dropped { reason, superseded_by: by.map(str::to_owned) });
}

/// The gate let the agent sleep.
pub(super) fn attention_skipped(core: &Core, message: &Inbound, turn_id: &str) {
    write(core, turn_id, message, Body::attention_skipped());
}

/// The fuse kept agents from answering each other without end.
pub(super) fn loop_paused(core: &Core, message: &Inbound, turn_id: &str) {
    write(core, turn_id, message, Body::loop_paused());
}

/// The message was refused before it could become a turn.
pub(super) fn refused(core: &Core, message: &Inbound, turn_id: &str, error: &str) {
    write(core, turn_id, message, Body::turn_error(TurnErrorPhase::Runtime, error, 0, None, None));
}

/// The runtime is given the turn.
pub(super) fn dispatched(core: &Core, turn: &Turn, composed: &str) {
    write(core, &turn.id, &turn.message, Body::dispatched(composed, &turn.runtime, turn.merged_from.clone()));
}

/// The raw text is used, because the turn could not be composed.
pub(super) fn compose_failed(core: &Core, turn: &Turn, error: &str) {
    write(core, &turn.id, &turn.message, Body::compose_failed(error));
}

/// A block of progress.
pub(super) fn block(core: &Core, turn: &Turn, block: &Block) {
    write(core, &turn.id, &turn.message, Body::block(&turn.runtime, block, core.settings.verbose_blocks));
}

/// The turn failed. `evidence` is there when its runtime did.
pub(super) fn turn_error(
    core: &Core,
    turn: &Turn,
    phase: TurnErrorPhase,
    failure: &TurnFailure,
    duration_ms: u64,
    evidence: Option<RuntimeFailure>,
) {
    let runtime = evidence.is_some().then_some(turn.runtime.as_str());
    let evidence = failure.error_ref.clone().zip(evidence);
    write(core, &turn.id, &turn.message, Body::turn_error(phase, &failure.message, duration_ms, runtime, evidence));
}

/// Something that an agent said by tool is out, or given up. It goes to the room in which it was said.
pub(super) fn said(core: &Core, out: &Outbound, failure: Option<&str>) {
    core.transcripts.append(&Record::said(now_ms(), out, failure));
}

/// The end of a turn, to be recorded when it is known what became of its reply.
pub(super) struct Ended {
    pub(super) message: Arc<Inbound>,
    pub(super) turn_id: String,
    pub(super) runtime: String,
    pub(super) session_id: Option<String>,
    pub(super) duration_ms: u64,
    pub(super) cost_usd: Option<f64>,
    pub(super) text: String,
    /// An error that came along with the reply.
    pub(super) reason: Option<String>,
    pub(super) blocks: Vec<BlockSummary>,
}

impl Ended {
    /// Writes the `outbound` record.
    pub(super) fn write(self, core: &Core, delivery: Delivery, failure: Option<&str>) {
        let body = Body::outbound(OutboundFacts {
            runtime: &self.runtime,
            session_id: self.session_id.as_deref(),
            duration_ms: self.duration_ms,
            cost_usd: self.cost_usd,
            text: &self.text,
            delivery,
            reason: failure.or(self.reason.as_deref()),
            blocks: &self.blocks,
        });
        write(core, &self.turn_id, &self.message, body);
    }
}
