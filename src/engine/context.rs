//! What the system prompt of a turn is made of: context and rules, built within one time limit.
//!
//! A builder may ask a channel's far side about the room. A far side that does not answer must not hold up
//! the turn, so the builder works on a thread of its own, and the turn goes on with what is there in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::core::Core;
use super::ports::{PromptFacts, SystemContext, SystemRule};
use super::turn::Turn;
use crate::text::trim;
use crate::thread;

/// Builders that may be late at once, besides one for each turn; beyond that turns run without asking.
const MAX_LATE: usize = 16;
/// How soon a cancelled turn stops waiting.
const LOOK: Duration = Duration::from_millis(100);

/// What a runtime is told besides the user turn.
#[derive(Default)]
pub(super) struct Built {
    /// Never blank.
    pub(super) context: Option<SystemContext>,
    pub(super) rules: Vec<SystemRule>,
}

enum Part {
    Context(Option<SystemContext>),
    Rules(Vec<SystemRule>),
}

/// Builds both for a turn. What is not there after `Settings::context_limit` is left out, and so is what a
/// builder that panics did not make.
pub(super) fn build(core: &Core, turn: &Turn) -> Built {
    // The engine holds one count itself, every builder at work another.
    let late = Arc::strong_count(&core.builders).saturating_sub(1);
    if late >= core.settings.max_turns.saturating_add(MAX_LATE) {
        log::warn!("turn.context_skipped queue={} turn={} builders={late}", turn.key, turn.id);
        return Built::default();
    }
    match start(core, turn) {
        Ok(parts) => collect(core, turn, &parts),
        Err(e) => {
            log::error!("turn.context_thread_failed queue={} turn={} error={e}", turn.key, turn.id);
            Built::default()
        }
    }
}

fn start(core: &Core, turn: &Turn) -> std::io::Result<Receiver<Part>> {
    let (to, parts) = bounded(2);
    let (prompts, at_work) = (Arc::clone(&core.prompts), Arc::clone(&core.builders));
    let (message, runtime) = (Arc::clone(&turn.message), turn.runtime.clone());
    let facts = turn.facts();
    let (channel_kind, text_is_delivered) = (facts.channel_kind.to_owned(), facts.text_is_delivered);
    let has_tools = facts.has_tools;
    thread::errand("context", move || {
        let facts = PromptFacts { runtime: &runtime, channel_kind: &channel_kind, text_is_delivered, has_tools };
        if to.send(Part::Context(prompts.system_context(&message, facts))).is_ok() {
            let _ = to.send(Part::Rules(prompts.system_rules(&message)));
        }
        // Until here, or until a panic unwinds, this thread counts.
        drop(at_work);
    })?;
    Ok(parts)
}

/// Takes the parts until both are there, the time is over or the turn is cancelled.
fn collect(core: &Core, turn: &Turn, parts: &Receiver<Part>) -> Built {
    let limit = core.settings.context_limit;
    let began = Instant::now();
    let mut built = Built::default();
    loop {
        let left = limit.saturating_sub(began.elapsed());
        match parts.recv_timeout(left.min(LOOK)) {
            Ok(Part::Context(context)) => built.context = context.filter(|c| !trim(&c.text).is_empty()),
            Ok(Part::Rules(rules)) => {
                built.rules = rules;
                return built;
            }
            Err(RecvTimeoutError::Timeout) if turn.token.is_cancelled() => return built,
            Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                log::warn!("turn.context_late queue={} turn={} limit_ms={}", turn.key, turn.id, limit.as_millis());
                return built;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                log::error!("turn.context_failed queue={} turn={}", turn.key, turn.id);
                return built;
            }
        }
    }
}
