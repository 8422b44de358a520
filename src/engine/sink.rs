//! Where a run reports to: journal, transcript, observers and the channel, in this order.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::approvals::{self, Decide, Mailbox};
use super::cancel::CancelReason;
use super::core::Core;
use super::journal::{Record, Ticket};
use super::ports::{Approval, ApprovalRequest, FreshStart, ProcessId, RunSink, Thrown, TurnEvent};
use super::records;
use super::transcript::BlockSummary;
use super::turn::{self, Turn};
use crate::json;
use crate::message::{Block, BlockKind, Status};

/// Prefix of the keys of notes that hold a [`Lingering`].
pub const LINGERS: &str = "linger:";

/// A process that outlives its turn for a while. Should the daemon die first, the next one ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lingering {
    /// The turn that it carries in its environment.
    pub turn: String,
    /// The process.
    pub process: ProcessId,
}

/// The engine's end of a run. Nothing in it waits for a network.
pub(super) struct TurnSink {
    core: Arc<Core>,
    turn: Arc<Turn>,
    composed: String,
    mailbox: Mailbox,
    /// When the record of the turn's start is durable.
    started: Ticket,
}

impl TurnSink {
    pub(super) fn new(core: Arc<Core>, turn: Arc<Turn>, composed: &str, started: &Ticket) -> Self {
        Self { core, turn, composed: composed.to_owned(), mailbox: Mailbox::default(), started: started.clone() }
    }

    /// Puts a question to whoever watches; the answer comes through the mailbox.
    fn ask(&self, request: ApprovalRequest) -> Option<Approval> {
        let (core, turn) = (&self.core, &self.turn);
        let deny = |reason: &str| Some(Approval::Deny { reason: reason.to_owned() });
        let Some(question) = core.approvals.ask(&turn.id, &turn.message, request, &self.mailbox, &turn.token) else {
            log::warn!("approval.too_many queue={} turn={}", turn.key, turn.id);
            return deny("too many questions wait");
        };
        log::info!("approval.asked id={} queue={} turn={} tool={:?}", question.id, turn.key, turn.id, question.tool);
        core.observe(&TurnEvent::Approval { message: &turn.message, question: &question });
        let (again, id) = (Arc::clone(core), question.id);
        core.timers.after(core.approvals.policy().limit, move || {
            let reason = "nobody has answered in time".to_owned();
            again.approvals.answer(&id, Approval::Deny { reason });
        });
        // Cancelled between the question and now: nobody else would answer.
        if turn.token.is_cancelled() {
            core.approvals.end(&turn.id);
        }
        None
    }
}

impl RunSink for TurnSink {
    fn begin(&mut self) -> Result<(), Thrown> {
        self.started.wait().map_err(|e| Thrown::new(e.to_string()))
    }

    fn spawned(&mut self, process: ProcessId) {
        let record = Record::Spawned { turn: self.turn.id.clone(), pid: process.pid, start: process.start };
        // Needed after a crash of this process; no child outlives the power.
        self.core.journal.append_behind(record);
    }

    fn session(&mut self, id: &str) {
        let mut progress = self.turn.progress();
        progress.last = Some(Instant::now());
        if progress.announced.as_deref() == Some(id) {
            return;
        }
        progress.announced = Some(id.to_owned());
        drop(progress);
        self.core.journal.append_behind(Record::Session { turn: self.turn.id.clone(), id: id.to_owned() });
    }

    fn lingers(&mut self, process: ProcessId) {
        let turn = &self.turn;
        match json::to_value(&Lingering { turn: turn.id.clone(), process }) {
            // One per conversation: the next turn of it ends the one before.
            Ok(value) => drop(self.core.journal.append(Record::Note { key: format!("{LINGERS}{}", turn.key), value })),
            Err(e) => log::error!("turn.linger_unwritable turn={} error={e}", turn.id),
        }
    }

    fn block(&mut self, block: Block) {
        let turn = &self.turn;
        let tool_calls = {
            let mut progress = turn.progress();
            progress.blocks += 1;
            progress.last = Some(Instant::now());
            match block.kind {
                BlockKind::ToolUse => progress.open_tools += 1,
                BlockKind::ToolResult => progress.open_tools = progress.open_tools.saturating_sub(1),
                // Whoever speaks again has got its results, whether they were shown or not.
                BlockKind::AssistantText => progress.open_tools = 0,
                _ => {}
            }
            let quiet = matches!(block.kind, BlockKind::System | BlockKind::Thinking);
            if !quiet && !progress.effects {
                progress.effects = true;
                // Not waited for: what the CLI did is done. Of a short turn it shares the sync of the result.
                self.core.journal.append_soon(Record::Effects { turn: turn.id.clone() });
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
        turn.progress().last = Some(Instant::now());
        if turn.token.is_cancelled() {
            return;
        }
        self.core.observe(&TurnEvent::Status { message: &turn.message, turn_id: &turn.id, status: &status });
        turn.signals.status(&status);
    }

    fn approval(&mut self, request: ApprovalRequest) -> Option<Approval> {
        let turn = &self.turn;
        let decide = self.core.approvals.policy().of(turn.approval_trust());
        log::info!("turn.approval queue={} turn={} tool={:?} policy={decide:?}", turn.key, turn.id, request.tool);
        match decide {
            Decide::Allow => Some(Approval::Allow),
            Decide::Deny => Some(Approval::Deny { reason: "this is not allowed here".into() }),
            Decide::Ask => self.ask(request),
        }
    }

    fn recovery_text(&mut self) -> Option<String> {
        let why = FreshStart::Failed("the session was not found");
        Some(turn::recovery(&self.core, &self.turn, why, &self.composed))
    }

    fn served_by(&mut self, name: &str) -> Option<String> {
        let mut progress = self.turn.progress();
        if name != self.turn.id && progress.served_by.iter().all(|known| known != name) {
            progress.served_by.push(name.to_owned());
        }
        Some(self.core.passes.of(name))
    }

    fn decision(&mut self) -> Option<(String, Approval)> {
        approvals::receive(&self.mailbox)
    }
}

impl Drop for TurnSink {
    /// The run is over: nobody waits for an answer any more.
    fn drop(&mut self) {
        self.core.approvals.end(&self.turn.id);
    }
}
