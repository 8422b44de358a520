//! What the engine says about itself.

use std::sync::Arc;

use super::core::{Core, Phase};
use super::journal::{EntryState, JournalHealth};
use super::now_ms;

/// A turn that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningTurn {
    /// Turn id.
    pub turn_id: String,
    /// Queue key.
    pub key: String,
    /// Channel id.
    pub channel: String,
    /// Agent.
    pub agent: String,
    /// Conversation id.
    pub conversation: String,
    /// Runtime id.
    pub runtime: String,
    /// Working directory.
    pub cwd: std::path::PathBuf,
    /// Unix milliseconds.
    pub started_at: i64,
}

/// A picture of one moment.
#[derive(Clone, Debug)]
pub struct EngineStatus {
    /// It takes no more messages.
    pub draining: bool,
    /// What runs, oldest first.
    pub turns: Vec<RunningTurn>,
    /// Messages that wait for their turn, those of sleeping conversations included.
    pub waiting: usize,
    /// Conversations in which something waits.
    pub waiting_conversations: usize,
    /// Age of the oldest waiting message in milliseconds.
    pub oldest_waiting_ms: Option<u64>,
    /// Replies that are not delivered yet.
    pub replies: usize,
    /// How the journal is.
    pub journal: JournalHealth,
}

pub(super) fn status(core: &Arc<Core>) -> EngineStatus {
    let (draining, mut turns) = {
        let state = core.lock();
        let turn = |(id, live): (&String, &Arc<super::core::Live>)| {
            let message = live.messages.last();
            RunningTurn {
                turn_id: id.clone(),
                key: live.key.clone(),
                channel: message.map(|m| m.channel.clone()).unwrap_or_default(),
                agent: message.map(|m| m.account_id.clone()).unwrap_or_default(),
                conversation: message.map(|m| m.conversation.id.clone()).unwrap_or_default(),
                runtime: live.runtime.clone(),
                cwd: live.cwd.clone(),
                started_at: live.started_at,
            }
        };
        (state.phase == Phase::Draining, state.live.iter().map(turn).collect::<Vec<_>>())
    };
    turns.sort_by(|a, b| a.started_at.cmp(&b.started_at).then_with(|| a.turn_id.cmp(&b.turn_id)));
    let (waiting, waiting_conversations, oldest) = core.journal.view(|ledger| {
        let mut queues = std::collections::HashSet::new();
        let (mut count, mut oldest) = (0, None::<i64>);
        for entry in ledger.entries().filter(|e| e.state == EntryState::Waiting) {
            count += 1;
            queues.insert(entry.queue.as_str());
            oldest = Some(oldest.map_or(entry.accepted_at, |o| o.min(entry.accepted_at)));
        }
        (count, queues.len(), oldest)
    });
    EngineStatus {
        draining,
        turns,
        waiting,
        waiting_conversations,
        oldest_waiting_ms: oldest.map(|at| now_ms().saturating_sub(at).max(0) as u64),
        replies: core.outbox.len(),
        journal: core.journal.health(),
    }
}
