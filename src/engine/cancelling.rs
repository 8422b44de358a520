//! Cancelling on a person's wish: what runs and what waits anywhere on its way.

use std::sync::Arc;

use super::Engine;
use super::cancel::CancelReason;
use super::core::{Core, Job};
use super::ports::TurnStatus;
use super::{outbox, recover, unrun};
use crate::message::Inbound;

impl Engine {
    /// Cancels a message of a channel: the turn that answers it, or the message while it waits. Returns how
    /// many messages were cancelled.
    pub fn cancel_message(&self, channel: &str, id: &str) -> u64 {
        cancel(&self.core, &|message| {
            message.channel == channel && (message.id == id || message.ids().iter().any(|i| i == id))
        })
    }

    /// Cancels what runs and what waits in one conversation of an agent.
    pub fn cancel_conversation(&self, channel: &str, agent: &str, conversation: &str) -> u64 {
        cancel(&self.core, &|m| m.channel == channel && m.account_id == agent && m.conversation.id == conversation)
    }

    /// An agent does not work here any more: what runs and waits for it is cancelled, its replies that are not out are
    /// given up (their transcripts say so), and its sessions are forgotten. Its channel is removed.
    pub fn dismiss(&self, agent: &str) {
        let cancelled = cancel(&self.core, &|message| message.account_id == agent);
        recover::dismiss(&self.core, agent);
        self.remove_channel(agent);
        let replies = outbox::give_up(&self.core, agent, "the agent was revoked");
        let sessions = self.forget_sessions(|entry| entry.account_id == agent);
        log::info!("engine.dismissed agent={agent} cancelled={cancelled} replies={replies} sessions={sessions}");
    }
}

/// Cancels every turn and every waiting message for which `wanted` answers true; returns how many messages that are.
pub(super) fn cancel(core: &Arc<Core>, wanted: &dyn Fn(&Inbound) -> bool) -> u64 {
    let any = |job: &Job| job.messages().iter().any(|m| wanted(m));
    // In the order in which messages go their way, so that none is missed that goes on meanwhile.
    let mut arriving = core.intake.remove(any);
    let mut count = core.intake.cancel(wanted);
    let kept = core.asides.remove(any);
    let mut state = core.lock();
    let removed = state.queues.remove_waiting(|_, arrival| any(&arrival.payload)).into_iter();
    let mut removed: Vec<_> = removed.map(|(_, arrival)| (arrival.turn_id, arrival.payload)).collect();
    removed.extend(state.shelf.extract_if(|_, s| any(&s.job)).map(|(_, s)| (s.turn_id, s.job)));
    // While the lanes are locked: what is superseded would come back into them.
    let running: Vec<_> = state
        .live
        .iter()
        .filter(|(_, live)| live.messages.iter().any(|m| wanted(m)) && live.token.cancel(CancelReason::User))
        .map(|(id, live)| (id.clone(), live.messages.len() as u64))
        .collect();
    let parked: Vec<_> = state.parks.keys_where(any).iter().map(|key| state.parks.overtaken(core, key)).collect();
    drop(state);
    // What waited elsewhere may have been sent on its way again before it was looked for there.
    arriving.extend(core.intake.remove(any));
    count += core.intake.cancel(wanted) + recover::cancel_left(core, wanted);
    let arriving = arriving.into_iter().map(|arriving| (arriving.turn_id, arriving.job));
    count += parked.into_iter().map(|parked| parked.settle(core, Some("cancelled"))).sum::<u64>();
    for (turn_id, messages) in running {
        core.cancelled(&turn_id);
        count += messages;
    }
    for (turn_id, job) in removed.into_iter().chain(arriving).chain(kept) {
        count += end(core, turn_id, job);
    }
    count
}

/// Ends a message that waits, with those that it would have taken along; returns how many messages that are.
pub(super) fn end(core: &Arc<Core>, turn_id: String, mut job: Job) -> u64 {
    let mut all = std::mem::take(&mut job.before);
    all.push((turn_id, job));
    for (turn_id, job) in &all {
        unrun::end(core, job, turn_id, TurnStatus::Cancelled, "cancelled");
    }
    all.len() as u64
}
