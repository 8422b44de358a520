//! Finds the policy of attention that holds in a conversation, and remembers it.
//!
//! A policy is good for five minutes. When the far side cannot be asked, the last known one goes on holding, also
//! after a restart (see [`PolicyCache::state`]), so that an outage never makes a muted agent speak; the question is
//! repeated after 30 seconds. Only where nothing was ever known does the agent listen to everything.

use std::collections::{HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

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
    /// everything); an error means that it could not be found out. An empty one means that it never can be.
    fn fetch(&self, agent: &str, conversation: Option<&str>) -> Result<Option<Policy>, String>;

    /// Whether it can be asked about a single conversation.
    fn per_conversation(&self) -> bool;
}

/// A far side that announces policies and is never asked for them.
pub struct Announced;

impl PolicySource for Announced {
    fn fetch(&self, _: &str, _: Option<&str>) -> Result<Option<Policy>, String> {
        Err(String::new())
    }

    fn per_conversation(&self) -> bool {
        false
    }
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
    changes: Vec<Change>,
}

/// A policy that is to be written to disk, or forgotten there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The agent.
    pub agent: String,
    /// The conversation; `None` for the agent's general policy.
    pub conversation: Option<String>,
    /// The policy; `None`: forgotten.
    pub known: Option<Known>,
}

impl PolicyCache {
    /// Everything known, for writing to disk; the longest unused first.
    pub fn state(&self) -> Vec<Known> {
        let mut slots: Vec<&Slot> = self.slots.values().collect();
        crate::sort::sort_by_key(&mut slots, |s| s.used);
        slots.into_iter().filter_map(|s| s.known.clone()).collect()
    }

    /// Goes on from what was written to disk.
    pub fn from_state(state: Vec<Known>) -> Self {
        let mut cache = Self::default();
        for known in state {
            cache.store(known);
        }
        cache.changes.clear();
        cache
    }

    /// What is different from what was taken the last time. A policy that was only confirmed is no change.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
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
            let stale = |(a, c): &Key, slot: &Slot| {
                a == agent && c.is_some() && slot.known.as_ref().is_none_or(|known| known.fetched)
            };
            let stale: Vec<Key> = self.slots.iter().filter(|(k, s)| stale(k, s)).map(|(k, _)| k.clone()).collect();
            for key in &stale {
                self.forget(key);
            }
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
            if let Some(oldest) = oldest {
                self.forget(&oldest);
            }
        }
        self.clock += 1;
        slot.used = self.clock;
        let policy = |slot: &Slot| slot.known.as_ref().map(|k| (k.policy.clone(), k.fetched));
        let now = policy(&slot);
        let known = slot.known.clone();
        let before = self.slots.insert(key.clone(), slot).as_ref().and_then(policy);
        if now.is_some() && now != before {
            self.changes.push(Change { agent: key.0, conversation: key.1, known });
        }
    }

    fn forget(&mut self, key: &Key) {
        if self.slots.remove(key).is_some_and(|slot| slot.known.is_some()) {
            self.changes.push(Change { agent: key.0.clone(), conversation: key.1.clone(), known: None });
        }
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

/// A [`PolicyCache`] that many threads share, and how it is filled.
#[derive(Debug, Default)]
pub struct Policies {
    cache: Mutex<PolicyCache>,
    /// What somebody asks the far side about at this moment; others wait for the answer.
    asking: Mutex<HashSet<Key>>,
    answered: Condvar,
}

/// The right to ask about a key; others go on when it is dropped.
struct Asking<'a>(&'a Policies, Key);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asking().remove(&self.1);
        self.0.answered.notify_all();
    }
}

impl Policies {
    /// Starts with what is known.
    pub fn new(cache: PolicyCache) -> Self {
        Self { cache: Mutex::new(cache), ..Self::default() }
    }

    /// What is known, for changing or writing it. Held only for the moment; never while a source is asked.
    pub fn cache(&self) -> MutexGuard<'_, PolicyCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy that holds for the agent in the conversation, if that can be told without asking: it is current,
    /// or asking has failed a moment ago.
    pub fn at_hand(&self, per_conversation: bool, agent: &str, conversation: &str, now: i64) -> Option<Policy> {
        let mut cache = self.cache();
        if let Some(policy) = cache.current(agent, Some(conversation), now) {
            return Some(policy);
        }
        let scope = per_conversation.then_some(conversation);
        if scope.is_none()
            && let Some(policy) = cache.current(agent, None, now)
        {
            return Some(policy.in_conversation(conversation));
        }
        if cache.may_ask(agent, scope, now) {
            return None;
        }
        Some(cache.last_known(agent, Some(conversation)).unwrap_or_default().in_conversation(conversation))
    }

    fn asking(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody asks about a key, and takes the right to do so.
    fn ask(&self, key: Key) -> Asking<'_> {
        let mut asking = self.asking();
        while !asking.insert(key.clone()) {
            asking = self.answered.wait(asking).unwrap_or_else(PoisonError::into_inner);
        }
        Asking(self, key)
    }

    /// The policy that holds for the agent in the conversation. May ask the source, which takes as long as it takes.
    /// Threads that want to know the same at once share one question.
    pub fn resolve(&self, source: &dyn PolicySource, agent: &str, conversation: &str, now: i64) -> Policy {
        let per_conversation = source.per_conversation();
        let at_hand = || self.at_hand(per_conversation, agent, conversation, now);
        if let Some(policy) = at_hand() {
            return policy;
        }
        let scope = per_conversation.then_some(conversation);
        let _asking = self.ask(key(agent, scope));
        // Somebody may have asked meanwhile.
        if let Some(policy) = at_hand() {
            return policy;
        }
        match source.fetch(agent, scope) {
            Ok(policy) => {
                let policy = policy.unwrap_or_default();
                self.cache().answered(agent, scope, policy.clone(), now);
                policy.in_conversation(conversation)
            }
            Err(why) => {
                let why = crate::redact::text(&why);
                if !why.is_empty() {
                    log::warn!("policy.unknown agent={agent} conversation={conversation} error={why:?}");
                }
                let mut cache = self.cache();
                cache.failed(agent, scope, now);
                cache.last_known(agent, Some(conversation)).unwrap_or_default().in_conversation(conversation)
            }
        }
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

    #[test]
    fn what_was_announced_holds_until_the_next_word() {
        let policies = Policies::default();
        let mode = |conversation: &str, now| policies.resolve(&Announced, "ag_1", conversation, now).mode;
        assert_eq!(mode("rm_a", 0), Mode::Always);
        policies.cache().put("ag_1", None, policy(Mode::Muted), 1);
        policies.cache().put("ag_1", Some("rm_b"), policy(Mode::MentionOnly), 1);
        for now in [2, 1 + FRESH_MS, 100 * FRESH_MS] {
            assert_eq!((mode("rm_a", now), mode("rm_b", now)), (Mode::Muted, Mode::MentionOnly), "{now}");
        }
        policies.cache().put("ag_1", None, policy(Mode::Always), 100 * FRESH_MS);
        assert_eq!(mode("rm_a", 200 * FRESH_MS), Mode::Always);
    }

    fn policy(mode: Mode) -> Policy {
        Policy { mode, ..Policy::default() }
    }

    /// Policies and where they come from.
    struct Resolver {
        source: Far,
        policies: Policies,
    }

    impl Resolver {
        fn resolve(&self, agent: &str, conversation: &str, now: i64) -> Policy {
            self.policies.resolve(&self.source, agent, conversation, now)
        }

        fn cache(&self) -> MutexGuard<'_, PolicyCache> {
            self.policies.cache()
        }
    }

    fn resolver(answer: Result<Option<Policy>, String>, per_conversation: bool) -> Resolver {
        let source = Far { answer: Mutex::new(answer), asked: AtomicUsize::new(0), per_conversation };
        Resolver { source, policies: Policies::default() }
    }

    /// Answers when it is told to.
    struct Slow {
        asked: AtomicUsize,
        go: Mutex<std::sync::mpsc::Receiver<()>>,
        answer: Result<Option<Policy>, String>,
    }

    impl PolicySource for Slow {
        fn fetch(&self, _: &str, _: Option<&str>) -> Result<Option<Policy>, String> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let _ = self.go.lock().unwrap().recv();
            self.answer.clone()
        }
        fn per_conversation(&self) -> bool {
            true
        }
    }

    #[test]
    fn those_who_want_to_know_the_same_share_one_question() {
        for answer in [Ok(Some(policy(Mode::Muted))), Err("down".to_owned())] {
            let (go, gone) = std::sync::mpsc::channel();
            let wanted = if answer.is_ok() { Mode::Muted } else { Mode::Always };
            let (policies, slow) =
                (Policies::default(), Slow { asked: AtomicUsize::new(0), go: Mutex::new(gone), answer });
            std::thread::scope(|scope| {
                let askers: Vec<_> =
                    (0..8).map(|_| scope.spawn(|| policies.resolve(&slow, "a", "rm_1", 0).mode)).collect();
                while slow.asked.load(Ordering::SeqCst) == 0 {
                    std::thread::yield_now();
                }
                // However many answers there are to be had.
                (0..8).for_each(|_| go.send(()).unwrap());
                assert!(askers.into_iter().all(|asker| asker.join().unwrap() == wanted));
            });
            assert_eq!(slow.asked.load(Ordering::SeqCst), 1);
            assert!(policies.asking().is_empty());
        }
    }

    #[test]
    fn an_outage_never_unmutes() {
        let resolver = resolver(Ok(Some(policy(Mode::Muted))), true);
        assert_eq!(resolver.resolve("a", "rm_1", 0).mode, Mode::Muted);
        *resolver.source.answer.lock().unwrap() = Err("down".into());
        assert_eq!(resolver.resolve("a", "rm_1", FRESH_MS).mode, Mode::Muted);
        // And not after a restart during the outage either.
        let state = serde_json::to_string(&resolver.cache().state()).unwrap();
        let cache = PolicyCache::from_state(serde_json::from_str(&state).unwrap());
        let again = Resolver { policies: Policies::new(cache), ..self::resolver(Err("down".into()), true) };
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
    fn only_what_changes_is_written() {
        let mut cache = PolicyCache::default();
        cache.answered("a", Some("rm_1"), policy(Mode::Muted), 0);
        assert_eq!(cache.take_changes().len(), 1);
        cache.answered("a", Some("rm_1"), policy(Mode::Muted), FRESH_MS);
        assert_eq!(cache.take_changes(), []);
        cache.put("a", None, policy(Mode::Always), FRESH_MS);
        let changes: Vec<_> =
            cache.take_changes().into_iter().map(|c| (c.conversation, c.known.map(|k| k.policy.mode))).collect();
        assert_eq!(changes, [(Some("rm_1".into()), None), (None, Some(Mode::Always))]);
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
