//! Finds the policy of attention that holds in a conversation, and remembers it.
//!
//! A policy is good for five minutes. When the far side cannot be asked, the last known one goes on holding, also
//! after a restart (see [`PolicyCache::state`]), so that an outage never makes a muted agent speak; the question is
//! repeated after 30 seconds. Only where nothing was ever known does the agent listen to everything.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::gate::Policy;

/// How long a policy is taken for current, in milliseconds.
pub const FRESH_MS: i64 = 300_000;
/// How long after a failed question the next one is asked, in milliseconds.
pub const RETRY_MS: i64 = 30_000;
/// Policies kept; beyond it the ones longest unused are forgotten.
pub const CAPACITY: usize = 10_000;

/// Asks the far side.
pub trait PolicySource: Send + Sync {
    /// The policy of an agent, in one conversation or in general. `None` means that it has none (it listens to
    /// everything); an error means that it could not be found out.
    fn fetch(&self, agent: &str, conversation: Option<&str>) -> Result<Option<Policy>, String>;

    /// Whether it can be asked about a single conversation.
    fn per_conversation(&self) -> bool;
}

/// One remembered policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    /// The agent.
    pub agent: String,
    /// The conversation; absent for the agent's general policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// The policy.
    pub policy: Policy,
    /// Until when it is current, in Unix milliseconds.
    pub fresh_until: i64,
    /// Whether it was asked for (else it was announced).
    pub fetched: bool,
}

type Key = (String, Option<String>);

#[derive(Debug)]
struct Slot {
    /// `None` only records that a question failed.
    known: Option<Known>,
    retry_at: i64,
    used: u64,
}

/// What is known about policies. Plain state: it asks nobody.
#[derive(Debug, Default)]
pub struct PolicyCache {
    slots: HashMap<Key, Slot>,
    clock: u64,
}

impl PolicyCache {
    /// Everything known, for writing to disk; the longest unused first.
    pub fn state(&self) -> Vec<Known> {
        let mut slots: Vec<&Slot> = self.slots.values().collect();
        slots.sort_by_key(|s| s.used);
        slots.into_iter().filter_map(|s| s.known.clone()).collect()
    }

    /// Goes on from what was written to disk.
    pub fn from_state(state: Vec<Known>) -> Self {
        let mut cache = Self::default();
        for known in state {
            cache.store(known);
        }
        cache
    }

    /// The policy, if it is current.
    pub fn current(&mut self, agent: &str, conversation: Option<&str>, now: i64) -> Option<Policy> {
        let known = self.touch(agent, conversation)?.known.as_ref()?;
        // A clock that was set back must not make a policy last longer.
        let is_fresh = now < known.fresh_until && known.fresh_until - now <= FRESH_MS;
        is_fresh.then(|| known.policy.clone())
    }

    /// The last policy known for the conversation, else for the agent, however old.
    pub fn last_known(&mut self, agent: &str, conversation: Option<&str>) -> Option<Policy> {
        let own = self.touch(agent, conversation).and_then(|s| s.known.as_ref()).map(|k| k.policy.clone());
        own.or_else(|| {
            let general = self.touch(agent, None)?.known.as_ref()?.policy.clone();
            Some(in_place(general, conversation))
        })
    }

    /// Whether it is time to ask.
    pub fn may_ask(&self, agent: &str, conversation: Option<&str>, now: i64) -> bool {
        let slot = self.slots.get(&key(agent, conversation));
        slot.is_none_or(|s| now >= s.retry_at || s.retry_at - now > RETRY_MS)
    }

    /// The far side has answered.
    pub fn answered(&mut self, agent: &str, conversation: Option<&str>, policy: Policy, now: i64) {
        self.store(Known {
            agent: agent.to_owned(),
            conversation: conversation.map(str::to_owned),
            policy: in_place(policy, conversation),
            fresh_until: now.saturating_add(FRESH_MS),
            fetched: true,
        });
    }

    /// The far side could not be asked.
    pub fn failed(&mut self, agent: &str, conversation: Option<&str>, now: i64) {
        let retry_at = now.saturating_add(RETRY_MS);
        match self.touch(agent, conversation) {
            Some(slot) => slot.retry_at = retry_at,
            None => self.insert(key(agent, conversation), Slot { known: None, retry_at, used: 0 }),
        }
    }

    /// A policy was announced. One for the whole agent also drops what was asked about its conversations before.
    pub fn put(&mut self, agent: &str, conversation: Option<&str>, policy: Policy, now: i64) {
        if conversation.is_none() {
            self.slots
                .retain(|(a, c), slot| a != agent || c.is_none() || slot.known.as_ref().is_some_and(|k| !k.fetched));
        }
        self.store(Known {
            agent: agent.to_owned(),
            conversation: conversation.map(str::to_owned),
            policy: in_place(policy, conversation),
            fresh_until: now.saturating_add(FRESH_MS),
            fetched: false,
        });
    }

    /// A policy has changed, it is not said how: it has to be asked for again. Without a conversation this holds
    /// for everything of the agent. What was known serves on until there is an answer.
    pub fn invalidate(&mut self, agent: &str, conversation: Option<&str>) {
        for ((a, c), slot) in &mut self.slots {
            if a == agent && (conversation.is_none() || c.as_deref() == conversation) {
                slot.retry_at = i64::MIN;
                if let Some(known) = &mut slot.known {
                    known.fresh_until = i64::MIN;
                }
            }
        }
    }

    fn touch(&mut self, agent: &str, conversation: Option<&str>) -> Option<&mut Slot> {
        self.clock += 1;
        let slot = self.slots.get_mut(&key(agent, conversation))?;
        slot.used = self.clock;
        Some(slot)
    }

    fn store(&mut self, known: Known) {
        let key = (known.agent.clone(), known.conversation.clone());
        self.insert(key, Slot { known: Some(known), retry_at: i64::MIN, used: 0 });
    }

    fn insert(&mut self, key: Key, mut slot: Slot) {
        if !self.slots.contains_key(&key) && self.slots.len() >= CAPACITY {
            let oldest = self.slots.iter().min_by_key(|(_, s)| s.used).map(|(k, _)| k.clone());
            oldest.and_then(|k| self.slots.remove(&k));
        }
        self.clock += 1;
        slot.used = self.clock;
        self.slots.insert(key, slot);
    }
}

fn key(agent: &str, conversation: Option<&str>) -> Key {
    (agent.to_owned(), conversation.map(str::to_owned))
}

fn in_place(policy: Policy, conversation: Option<&str>) -> Policy {
    match conversation {
        Some(id) => policy.in_conversation(id),
        None => policy,
    }
}

/// A [`PolicyCache`] that many threads share, together with the source that fills it.
#[derive(Debug)]
pub struct PolicyResolver<S> {
    source: S,
    cache: Mutex<PolicyCache>,
}

impl<S: PolicySource> PolicyResolver<S> {
    /// Starts with what is known.
    pub fn new(source: S, cache: PolicyCache) -> Self {
        Self { source, cache: Mutex::new(cache) }
    }

    /// What is known, for changing or writing it. Held only for the moment; never while the source is asked.
    pub fn cache(&self) -> MutexGuard<'_, PolicyCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy that holds for the agent in the conversation. May ask the source, which takes as long as it
    /// takes; two threads that ask at once about the same conversation both get an answer.
    pub fn resolve(&self, agent: &str, conversation: &str, now: i64) -> Policy {
        if let Some(policy) = self.cache().current(agent, Some(conversation), now) {
            return policy;
        }
        let scope = self.source.per_conversation().then_some(conversation);
        if scope.is_none()
            && let Some(policy) = self.cache().current(agent, None, now)
        {
            return policy.in_conversation(conversation);
        }
        if self.cache().may_ask(agent, scope, now) {
            match self.source.fetch(agent, scope) {
                Ok(policy) => {
                    let policy = policy.unwrap_or_default();
                    self.cache().answered(agent, scope, policy.clone(), now);
                    return policy.in_conversation(conversation);
                }
                Err(why) => {
                    log::warn!("policy.unknown agent={agent} conversation={conversation} error={why}");
                    self.cache().failed(agent, scope, now);
                }
            }
        }
        self.cache().last_known(agent, Some(conversation)).unwrap_or_default().in_conversation(conversation)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::gate::Mode;
    use super::*;

    struct Far {
        answer: Mutex<Result<Option<Policy>, String>>,
        asked: AtomicUsize,
        per_conversation: bool,
    }

    impl PolicySource for Far {
        fn fetch(&self, _: &str, _: Option<&str>) -> Result<Option<Policy>, String> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.answer.lock().unwrap().clone()
        }
        fn per_conversation(&self) -> bool {
            self.per_conversation
        }
    }

    fn policy(mode: Mode) -> Policy {
        Policy { mode, ..Policy::default() }
    }

    fn resolver(answer: Result<Option<Policy>, String>, per_conversation: bool) -> PolicyResolver<Far> {
        let far = Far { answer: Mutex::new(answer), asked: AtomicUsize::new(0), per_conversation };
        PolicyResolver::new(far, PolicyCache::default())
    }

    #[test]
    fn an_outage_never_unmutes() {
        let resolver = resolver(Ok(Some(policy(Mode::Muted))), true);
        assert_eq!(resolver.resolve("a", "rm_1", 0).mode, Mode::Muted);
        *resolver.source.answer.lock().unwrap() = Err("down".into());
        assert_eq!(resolver.resolve("a", "rm_1", FRESH_MS).mode, Mode::Muted);
        // And not after a restart during the outage either.
        let far = Far { answer: Mutex::new(Err("down".into())), asked: AtomicUsize::new(0), per_conversation: true };
        let state = serde_json::to_string(&resolver.cache().state()).unwrap();
        let again = PolicyResolver::new(far, PolicyCache::from_state(serde_json::from_str(&state).unwrap()));
        assert_eq!(again.resolve("a", "rm_1", 10 * FRESH_MS).mode, Mode::Muted);
    }

    #[test]
    fn a_failed_question_is_repeated_after_a_while() {
        let resolver = resolver(Err("down".into()), true);
        assert_eq!(resolver.resolve("a", "rm_1", 0).mode, Mode::Always);
        assert_eq!(resolver.resolve("a", "rm_1", RETRY_MS - 1).mode, Mode::Always);
        assert_eq!(resolver.source.asked.load(Ordering::SeqCst), 1);
        *resolver.source.answer.lock().unwrap() = Ok(Some(policy(Mode::MentionOnly)));
        assert_eq!(resolver.resolve("a", "rm_1", RETRY_MS).mode, Mode::MentionOnly);
        assert_eq!(resolver.source.asked.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn an_announcement_for_the_agent_replaces_what_was_asked_about_rooms() {
        let resolver = resolver(Ok(None), true);
        assert_eq!(resolver.resolve("a", "rm_1", 0).mode, Mode::Always);
        resolver.cache().put("a", Some("rm_2"), policy(Mode::Keyword), 0);
        resolver.cache().put("a", None, policy(Mode::Muted), 0);
        *resolver.source.answer.lock().unwrap() = Err("down".into());
        assert_eq!(resolver.resolve("a", "rm_1", 1).mode, Mode::Muted);
        assert_eq!(resolver.resolve("a", "rm_2", 1).mode, Mode::Keyword);
        assert_eq!(resolver.resolve("a", "rm_dm_1", 1).mode, Mode::Always);
    }

    #[test]
    fn an_invalidated_policy_is_asked_for_again() {
        let resolver = resolver(Ok(Some(policy(Mode::Muted))), false);
        assert_eq!(resolver.resolve("a", "rm_1", 0).mode, Mode::Muted);
        assert_eq!(resolver.resolve("a", "telegram:user:1", 0).mode, Mode::Always);
        assert_eq!(resolver.source.asked.load(Ordering::SeqCst), 1);
        resolver.cache().invalidate("a", None);
        *resolver.source.answer.lock().unwrap() = Ok(None);
        assert_eq!(resolver.resolve("a", "rm_1", 1).mode, Mode::Always);
    }

    #[test]
    fn the_longest_unused_makes_room() {
        let mut cache = PolicyCache::default();
        for n in 0..CAPACITY {
            cache.put("a", Some(&n.to_string()), Policy::default(), 0);
        }
        assert!(cache.current("a", Some("0"), 1).is_some());
        cache.put("a", Some("new"), Policy::default(), 0);
        assert_eq!(cache.state().len(), CAPACITY);
        assert!(cache.current("a", Some("0"), 1).is_some());
        assert!(cache.current("a", Some("1"), 1).is_none());
    }
}
