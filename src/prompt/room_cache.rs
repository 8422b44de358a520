//! Remembers what channels say about rooms, so that a turn does not wait for the network each time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::RoomLookup;
use crate::engine::ports::RoomContext;
use crate::message::Inbound;

/// How long an answer holds, in milliseconds.
const KNOWN_MS: i64 = 300_000;
/// How long it holds that there was none.
const UNKNOWN_MS: i64 = 60_000;
/// Rooms remembered; beyond it all are forgotten.
const CAPACITY: usize = 1_024;

type Slot = Arc<Mutex<Option<(i64, Option<RoomContext>)>>>;

/// Answers by agent and room. Turns that ask about one room at once share one question.
#[derive(Debug, Default)]
pub struct RoomCache {
    slots: Mutex<HashMap<(String, String), Slot>>,
}

impl RoomCache {
    /// What is known about the room of a message at `now`; asks when that is too old.
    pub fn get(&self, message: &Inbound, now: i64, lookup: &RoomLookup) -> Option<RoomContext> {
        let slot = self.slot(message);
        let mut answer = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, known)) = answer.as_ref() {
            let holds = if known.is_some() { KNOWN_MS } else { UNKNOWN_MS };
            if (0..holds).contains(&(now - at)) {
                return known.clone();
            }
        }
        let known = lookup(message);
        *answer = Some((now, known.clone()));
        known
    }

    fn slot(&self, message: &Inbound) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= CAPACITY {
            slots.clear();
        }
        let key = (message.account_id.clone(), message.conversation.id.clone());
        Arc::clone(slots.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::message::document;

    #[test]
    fn an_answer_holds_for_a_while_and_none_for_less() {
        let message = document::parse(&json!({
            "id": "1", "channel": "c", "accountId": "a", "conversation": {"id": "rm_1", "kind": "group"},
            "sender": {"id": "s", "kind": "agent"}, "receivedAt": 0
        }))
        .unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        // The first answer is none, the later ones are.
        let lookup: RoomLookup =
            Box::new(move |_| (counter.fetch_add(1, Ordering::SeqCst) > 0).then(RoomContext::default));
        let cache = RoomCache::default();
        let ask = |now| (cache.get(&message, now, &lookup).is_some(), asked.load(Ordering::SeqCst));
        assert_eq!(ask(0), (false, 1));
        assert_eq!(ask(UNKNOWN_MS - 1), (false, 1));
        assert_eq!(ask(UNKNOWN_MS), (true, 2));
        assert_eq!(ask(UNKNOWN_MS + KNOWN_MS - 1), (true, 2));
        assert_eq!(ask(UNKNOWN_MS + KNOWN_MS), (true, 3));
    }
}
