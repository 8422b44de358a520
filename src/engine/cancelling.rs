//! Cancelling on a person's wish: what runs and what waits anywhere on its way.

use super::Engine;
use super::cancel::CancelReason;
use super::core::Job;
use super::ports::TurnStatus;
use super::{outbox, unrun};
use crate::message::Inbound;

impl Engine {
    /// Cancels a message of a channel: the turn that answers it, or the message while it waits. Returns how
    /// many messages were cancelled.
    pub fn cancel_message(&self, channel: &str, id: &str) -> u64 {
        self.cancel_where(|message| {
            message.channel == channel && (message.id == id || message.ids().iter().any(|i| i == id))
        })
    }

    /// Cancels what runs and what waits in one conversation of an agent.
    pub fn cancel_conversation(&self, channel: &str, agent: &str, conversation: &str) -> u64 {
        self.cancel_where(|m| m.channel == channel && m.account_id == agent && m.conversation.id == conversation)
    }

    /// An agent does not work here any more: what runs and waits for it is cancelled, its replies that are not out are
    /// given up (their transcripts say so), and its sessions are forgotten. Its channel is removed.
    pub fn dismiss(&self, agent: &str) {
        let cancelled = self.cancel_where(|message| message.account_id == agent);
        self.remove_channel(agent);
        let replies = outbox::give_up(&self.core, agent, "the agent was revoked");
        let sessions = self.forget_sessions(|entry| entry.account_id == agent);
        log::info!("engine.dismissed agent={agent} cancelled={cancelled} replies={replies} sessions={sessions}");
    }

    fn cancel_where(&self, wanted: impl Fn(&Inbound) -> bool) -> u64 {
        let core = &self.core;
        let any = |job: &Job| job.messages().iter().any(|m| wanted(m));
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
        let mut count = parked.into_iter().map(|parked| parked.settle(core, Some("cancelled"))).sum();
        for (turn_id, messages) in running {
            core.cancelled(&turn_id);
            count += messages;
        }
        let arriving = core.intake.remove(any).into_iter().map(|a| (a.turn_id, a.job));
        for (turn_id, mut job) in removed.into_iter().chain(arriving).chain(core.asides.remove(any)) {
            let mut all = std::mem::take(&mut job.before);
            all.push((turn_id, job));
            count += all.len() as u64;
            for (turn_id, job) in all {
                unrun::end(core, &job, &turn_id, TurnStatus::Cancelled, "cancelled");
            }
        }
        count
    }
}
