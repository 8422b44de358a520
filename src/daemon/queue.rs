//! The queue for people: the engine's words in those of the wire, with or without a running engine.

use std::path::Path;

use crate::engine::backlog::{self, Item, State};
use crate::engine::operator::Refusal;
use crate::engine::{Engine, journal, now_ms};
use crate::serve::wire::{
    AGE_MINUTES, ErrorKind, Failure, QUEUE_LIMIT, Queue, QueueAction, QueueItem, QueueShape, QueueState,
};
use crate::{redact, text};

/// The queue of a running engine.
pub(super) fn live(engine: &Engine) -> Queue {
    let items = engine.queue();
    Queue { live: true, dead: engine.dead_letters().len() as u64, ..listed(&items) }
}

/// What a running engine has given up.
pub(super) fn live_dead(engine: &Engine) -> Queue {
    let items = engine.dead_letters();
    Queue { live: true, dead: items.len() as u64, ..listed(&items) }
}

/// One message with its whole text.
pub(super) fn live_one(engine: &Engine, id: &str) -> Result<QueueItem, Failure> {
    one(engine.queue().into_iter().chain(engine.dead_letters()), id).ok_or_else(|| failure(&Refusal::Unknown, id))
}

/// Changes the queue of a running engine.
pub(super) fn change(engine: &Engine, id: &str, action: QueueAction) -> Result<(), Failure> {
    let done = match action {
        QueueAction::Hold => engine.hold(id),
        QueueAction::Release => engine.release(id),
        QueueAction::Requeue => engine.requeue(id),
        QueueAction::Drop => engine.drop_message(id),
    };
    done.map_err(|refusal| failure(&refusal, id))
}

/// The queue that a journal tells of, without an engine. Only reads.
pub(super) fn stored(dir: &Path) -> std::io::Result<(Queue, Queue, Vec<QueueItem>)> {
    let ledger = match journal::fold(dir) {
        Ok((ledger, bad)) => {
            for line in bad {
                log::warn!("journal.bad_line {line}");
            }
            ledger
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => journal::Ledger::default(),
        Err(e) => return Err(e),
    };
    let (items, dead) = (backlog::of(&ledger), backlog::dead(&ledger));
    let count = dead.len() as u64;
    let all = items.iter().chain(&dead).map(whole).collect();
    Ok((Queue { dead: count, ..listed(&items) }, Queue { dead: count, ..listed(&dead) }, all))
}

fn failure(refusal: &Refusal, id: &str) -> Failure {
    let kind = match refusal {
        Refusal::Unknown => ErrorKind::NotFound,
        Refusal::Conflict(_) => ErrorKind::Conflict,
        Refusal::Unwritable(_) => ErrorKind::Unavailable,
    };
    let text = if *refusal == Refusal::Unknown {
        format!("nothing in the queue has the id {id:?}")
    } else {
        refusal.to_string()
    };
    Failure::new(kind, text)
}

fn one(items: impl IntoIterator<Item = Item>, id: &str) -> Option<QueueItem> {
    items.into_iter().find(|i| i.id == id || i.ids.iter().any(|known| known == id)).map(|i| whole(&i))
}

fn listed(items: &[Item]) -> Queue {
    let mut conversations: Vec<QueueShape> = backlog::shape(items, now_ms())
        .into_iter()
        .map(|(queue, s)| QueueShape { queue: queue.to_owned(), total: s.total, ages: s.ages.to_vec() })
        .collect();
    // Stable: equal ones stay in the order of their keys.
    crate::sort::sort_by_key(&mut conversations, |c| std::cmp::Reverse(c.total));
    conversations.truncate(QUEUE_LIMIT);
    let short = |item: &Item| wire(item, text::preview(&redact::text(&item.message.text)));
    Queue {
        live: false,
        messages: items.iter().take(QUEUE_LIMIT).map(short).collect(),
        more: items.len().saturating_sub(QUEUE_LIMIT) as u64,
        age_minutes: AGE_MINUTES.to_vec(),
        conversations,
        dead: 0,
    }
}

fn whole(item: &Item) -> QueueItem {
    wire(item, item.message.text.clone())
}

fn wire(item: &Item, text: String) -> QueueItem {
    let message = &item.message;
    QueueItem {
        id: item.id.clone(),
        message_ids: item.ids.clone(),
        channel: message.channel.clone(),
        agent: message.account_id.clone(),
        conversation: message.conversation.id.clone(),
        thread: message.conversation.thread_id.clone(),
        queue: item.queue.clone(),
        state: match item.state {
            State::Waiting => QueueState::Waiting,
            State::Running => QueueState::Running,
            State::Held => QueueState::Held,
            State::Parked => QueueState::Parked,
            State::Undelivered => QueueState::Undelivered,
            State::Dead => QueueState::Dead,
        },
        since: item.since,
        attempts: item.attempts,
        turn_id: item.turn.clone(),
        why: item.why.clone(),
        until: item.until,
        sender: message.sender.name.clone().unwrap_or_else(|| message.sender.id.clone()),
        text,
    }
}
