//! How the daemon feels, from what the engine and the channels say about themselves. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::channel::manager::ChannelStatus;
use crate::engine::EngineStatus;
use crate::engine::journal::JournalState as Journal;
use crate::serve::wire::{ChannelPulse, Health, TurnPulse, Wellness};

/// A message that waits for longer than this, and for nothing that is known, needs a look.
const LONG_WAIT_MS: u64 = 30 * 60_000;

/// Down means that no messages are taken; degraded, that some are not answered or answers do not arrive, or that the hub
/// has no hold of the daemon. `control`: what its link says about itself.
pub(super) fn health_of(
    status: &EngineStatus,
    connections: &BTreeMap<String, ChannelStatus>,
    control: &Value,
) -> Health {
    let mut health = Health {
        oldest_waiting_ms: status.oldest_waiting_ms,
        turns: status
            .turns
            .iter()
            .map(|t| TurnPulse { turn_id: t.turn_id.clone(), quiet_ms: t.quiet_ms, silent: t.silent })
            .collect(),
        channels: status
            .channels
            .iter()
            .map(|c| ChannelPulse {
                id: c.id.clone(),
                last_inbound_at: c.last_inbound_at,
                last_delivered_at: c.last_delivered_at,
                oldest_waiting_ms: c.oldest_waiting_ms,
                replies: c.replies as u64,
            })
            .collect(),
        ..Health::default()
    };
    let mut down = Vec::new();
    match &status.journal.state {
        Journal::Open => {}
        Journal::Broken { why, .. } => down.push(format!("the journal cannot be written: {why}")),
        Journal::Closed => down.push("the journal is closed".into()),
    }
    if status.draining {
        down.push("the daemon is shutting down".into());
    }
    let mut degraded = Vec::new();
    for channel in status.channels.iter().filter(|c| c.replies > 0) {
        degraded.push(format!("{} replies wait to be delivered to {}", channel.replies, channel.id));
    }
    // One that has only just begun has nothing to complain about.
    let troubled = |c: &ChannelStatus| !c.connected && (c.last_error.is_some() || !c.running && !c.restart_pending);
    for (id, connection) in connections.iter().filter(|(_, c)| troubled(c)) {
        degraded.push(format!("{id} is not connected: {}", trouble(connection)));
    }
    match (control["state"].as_str(), control["lastError"].as_str()) {
        (Some("logged_out"), why) => {
            degraded.push(format!("the hub refuses the login: {}", why.unwrap_or("log in again")));
        }
        (Some("connecting"), Some(why)) => degraded.push(format!("the hub's control socket is not connected: {why}")),
        _ => {}
    }
    for stalled in &status.stalled {
        degraded.push(format!("{} cannot work: {}", stalled.on, stalled.cause.text()));
    }
    for breaker in &status.breakers {
        degraded.push(format!("the login of {} is refused for {}", breaker.runtime, breaker.account_id));
    }
    for turn in status.turns.iter().filter(|t| t.silent) {
        let minutes = turn.quiet_ms / 60_000;
        degraded.push(format!("turn {} in {} is silent for {minutes} min", turn.turn_id, turn.conversation));
    }
    for channel in &status.channels {
        if let Some(ms) = channel.oldest_waiting_ms.filter(|ms| *ms > LONG_WAIT_MS) {
            degraded.push(format!("a message of {} waits for {} min", channel.id, ms / 60_000));
        }
    }
    health.status = match () {
        () if !down.is_empty() => Wellness::Down,
        () if !degraded.is_empty() => Wellness::Degraded,
        () => Wellness::Well,
    };
    health.reasons = down.into_iter().chain(degraded).collect();
    health
}

/// Why a channel is not connected, for people.
pub(super) fn trouble(status: &ChannelStatus) -> String {
    match (&status.last_error, status.running || status.restart_pending) {
        (Some(why), true) => why.clone(),
        (Some(why), false) => format!("{why}; it is not tried again"),
        (None, true) => "not yet".to_owned(),
        (None, false) => "it is stopped".to_owned(),
    }
}
