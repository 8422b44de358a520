//! Where a run reports to: journal, transcript, observers and the channel, in this order.

use std::sync::Arc;

use super::cancel::CancelReason;
use super::core::Core;
use super::journal::Record;
use super::ports::{Approval, ApprovalRequest, FreshStart, ProcessId, RunSink, TurnEvent};
use super::records;
use super::transcript::BlockSummary;
use super::turn::{self, Turn};
use crate::message::{Block, BlockKind, Status};

/// The engine's end of a run. Nothing in it waits for a network.
pub(super) struct TurnSink {
    core: Arc<Core>,
    turn: Arc<Turn>,
    composed: String,
}

impl TurnSink {
    pub(super) fn new(core: Arc<Core>, turn: Arc<Turn>, composed: &str) -> Self {
        Self { core, turn, composed: composed.to_owned() }
    }
}

impl RunSink for TurnSink {
    fn spawned(&mut self, process: ProcessId) {
        let record = Record::Spawned { turn: self.turn.id.clone(), pid: process.pid, start: process.start };
        drop(self.core.journal.append(record));
    }

    fn session(&mut self, id: &str) {
        let mut progress = self.turn.progress();
        if progress.announced.as_deref() == Some(id) {
            return;
        }
        progress.announced = Some(id.to_owned());
        drop(progress);
        drop(self.core.journal.append(Record::Session { turn: self.turn.id.clone(), id: id.to_owned() }));
    }

    fn block(&mut self, block: Block) {
        let turn = &self.turn;
        let tool_calls = {
            let mut progress = turn.progress();
            progress.blocks += 1;
            let quiet = matches!(block.kind, BlockKind::System | BlockKind::Thinking);
            if !quiet && !progress.effects {
                progress.effects = true;
                // Synced by the journal at once, but not waited for: what the CLI did is done.
                drop(self.core.journal.append(Record::Effects { turn: turn.id.clone() }));
            }
            progress.keep(BlockSummary::of(&block));
            progress.tool_calls += u64::from(block.kind == BlockKind::ToolUse);
            progress.tool_calls
        };
        records::block(&self.core, turn, &block);
        self.core.observe(&TurnEvent::Block { message: &turn.message, turn_id: &turn.id, block: &block });
        if !turn.token.is_cancelled() {
            turn.signals.block(&block);
        }
        if block.kind == BlockKind::ToolUse && turn.budget.max_tool_calls.is_some_and(|max| tool_calls > max) {
            let live = self.core.lock().live.get(&turn.id).cloned();
            if let Some(live) = live {
                log::warn!("turn.tool_budget queue={} turn={} calls={tool_calls}", turn.key, turn.id);
                self.core.cancel(&turn.id, &live, CancelReason::Budget);
            }
        }
    }

    fn status(&mut self, status: Status) {
        let turn = &self.turn;
        if turn.token.is_cancelled() {
            return;
        }
        self.core.observe(&TurnEvent::Status { message: &turn.message, turn_id: &turn.id, status: &status });
        turn.signals.status(&status);
    }

    fn approval(&mut self, request: ApprovalRequest) -> Option<Approval> {
        log::info!("turn.approval queue={} turn={} tool={:?}", self.turn.key, self.turn.id, request.tool);
        Some(Approval::Allow)
    }

    fn recovery_text(&mut self) -> Option<String> {
        let why = FreshStart::Failed("the session was not found");
        Some(turn::recovery(&self.core, &self.turn, why, &self.composed))
    }

    fn decision(&mut self) -> Option<(String, Approval)> {
        None
    }
}
