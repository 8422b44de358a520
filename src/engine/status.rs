//! What the engine says about itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use super::approvals::PendingApproval;
use super::breaker::BreakerState;
use super::core::{Core, Live, Phase};
use super::journal::{EntryState, JournalHealth, Ledger};
use super::{now_ms, operator, parking};

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
    /// Milliseconds since the runtime's last sign of life.
    pub quiet_ms: u64,
    /// It is quiet for longer than [`super::Settings::silent_after`], and no tool of it runs.
    pub silent: bool,
}

/// What one channel was last seen doing, since this process began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelPulse {
    /// Channel id.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// The last message that came (Unix milliseconds).
    pub last_inbound_at: Option<i64>,
    /// The last reply that was delivered (Unix milliseconds).
    pub last_delivered_at: Option<i64>,
    /// Age of its oldest message that waits and is neither held nor parked, in milliseconds.
    pub oldest_waiting_ms: Option<u64>,
    /// Replies that wait to be delivered.
    pub replies: usize,
}

/// A runtime that cannot work for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stalled {
    /// The runtime, with the account behind it where there are several.
    pub on: String,
    /// Why.
    pub cause: super::waits::Cause,
    /// Since when (Unix milliseconds).
    pub since: i64,
    /// When it is tried next (Unix milliseconds).
    pub until: i64,
}

/// A conversation in which something waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitingQueue {
    /// Messages in its lane, or on their way there.
    pub buffered: usize,
    /// Messages that are set aside: files without a word, and what waits for a login.
    pub set_aside: usize,
    /// When its agent is woken again (Unix milliseconds).
    pub parked_until: Option<i64>,
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
    /// Messages among them that somebody has set aside.
    pub held: usize,
    /// Messages that were given up and are kept.
    pub dead: usize,
    /// Channels, by their ids.
    pub channels: Vec<ChannelPulse>,
    /// Runtimes that cannot work.
    pub stalled: Vec<Stalled>,
    /// Age of the oldest waiting message that is neither held nor parked, in milliseconds.
    pub oldest_waiting_ms: Option<u64>,
    /// Conversations in which something waits, by queue key; sleeping ones excluded.
    pub queues: BTreeMap<String, WaitingQueue>,
    /// Runtimes whose login is refused, for the time being.
    pub breakers: Vec<BreakerState>,
    /// Replies that are not delivered yet.
    pub replies: usize,
    /// Tool calls that wait for permission, oldest first.
    pub approvals: Vec<PendingApproval>,
    /// How the journal is.
    pub journal: JournalHealth,
}

pub(super) fn status(core: &Arc<Core>) -> EngineStatus {
    let now = now_ms();
    let (draining, live, stalled) = {
        let state = core.lock();
        let live = state.live.iter().filter(|(_, live)| !live.is_told());
        let live: Vec<_> = live.map(|(id, live)| (id.clone(), Arc::clone(live))).collect();
        let stalled = state.waits.iter().map(|(on, w)| (on.to_owned(), w.clone())).collect::<Vec<_>>();
        (state.phase == Phase::Draining, live, stalled)
    };
    let stalled: Vec<_> =
        stalled.into_iter().map(|(on, w)| Stalled { on, cause: w.cause, since: w.since, until: w.until }).collect();
    let mut turns: Vec<_> = live.iter().map(|(id, live)| running(core, id, live)).collect();
    crate::sort::sort_by(&mut turns, |a, b| a.started_at.cmp(&b.started_at).then_with(|| a.turn_id.cmp(&b.turn_id)));
    let runtimes: HashSet<String> = stalled.iter().map(|s| s.on.clone()).collect();
    let parked: HashSet<String> = if runtimes.is_empty() {
        HashSet::new()
    } else {
        let state = core.lock();
        let waits = state.queues.arrivals().map(|(_, a)| &a.payload);
        let waits = waits.filter(|job| runtimes.contains(&parking::key(job)));
        waits.flat_map(|job| job.entries().map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    let w = core.journal.view(|ledger| Waiting::of(ledger, &parked));
    let age = |at: i64| now.saturating_sub(at).max(0) as u64;
    EngineStatus {
        draining,
        turns,
        waiting: w.count,
        waiting_conversations: w.conversations,
        held: w.held,
        dead: w.dead,
        channels: channels(core, &w, age),
        stalled,
        oldest_waiting_ms: w.oldest.values().min().map(|at| age(*at)),
        queues: queues(core),
        breakers: core.breakers().open(now),
        replies: core.outbox.len(),
        approvals: core.approvals.list(),
        journal: core.journal.health(),
    }
}

fn running(core: &Core, id: &str, live: &Live) -> RunningTurn {
    let message = live.messages.last();
    let turn = live.turn.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let limit = core.settings.silent_after;
    let quiet = turn.as_ref().map_or_else(|| live.began.elapsed(), |t| t.since_progress());
    let silent = turn.as_ref().and_then(|t| t.silence()).is_some_and(|s| !limit.is_zero() && s >= limit);
    RunningTurn {
        turn_id: id.to_owned(),
        key: live.key.clone(),
        channel: message.map(|m| m.channel.clone()).unwrap_or_default(),
        agent: message.map(|m| m.account_id.clone()).unwrap_or_default(),
        conversation: message.map(|m| m.conversation.id.clone()).unwrap_or_default(),
        runtime: live.runtime.clone(),
        cwd: live.cwd.clone(),
        started_at: live.started_at,
        quiet_ms: quiet.as_millis() as u64,
        silent,
    }
}

/// What the journal says of waiting messages.
#[derive(Default)]
struct Waiting {
    count: usize,
    conversations: usize,
    held: usize,
    dead: usize,
    /// When the oldest message of a channel was accepted that should have its turn soon.
    oldest: HashMap<String, i64>,
}

impl Waiting {
    fn of(ledger: &Ledger, parked: &HashSet<String>) -> Self {
        let mut found = Self { dead: ledger.dead().count(), ..Self::default() };
        let mut queues = HashSet::new();
        for entry in ledger.entries().filter(|e| e.state == EntryState::Waiting) {
            found.count += 1;
            queues.insert(entry.queue.as_str());
            found.held += usize::from(operator::holds(entry));
            let patient = entry.held || entry.parked.is_some() || parked.contains(&entry.id);
            if !patient {
                let oldest = found.oldest.entry(entry.channel.clone()).or_insert(entry.accepted_at);
                *oldest = entry.accepted_at.min(*oldest);
            }
        }
        found.conversations = queues.len();
        found
    }
}

fn channels(core: &Core, waiting: &Waiting, age: impl Fn(i64) -> u64) -> Vec<ChannelPulse> {
    let channels: Vec<_> = core.channels.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
    let activity = core.activity.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let replies = core.outbox.by_channel();
    let mut pulses: Vec<_> = channels
        .into_iter()
        .map(|channel| {
            let seen = activity.get(channel.id()).copied().unwrap_or_default();
            ChannelPulse {
                id: channel.id().to_owned(),
                kind: channel.kind().to_owned(),
                last_inbound_at: seen.inbound,
                last_delivered_at: seen.delivered,
                oldest_waiting_ms: waiting.oldest.get(channel.id()).map(|at| age(*at)),
                replies: replies.get(channel.id()).copied().unwrap_or_default(),
            }
        })
        .collect();
    crate::sort::sort_by(&mut pulses, |a, b| a.id.cmp(&b.id));
    pulses
}

fn queues(core: &Core) -> BTreeMap<String, WaitingQueue> {
    let mut queues: BTreeMap<String, WaitingQueue> = BTreeMap::new();
    let (buffered, parked) = {
        let state = core.lock();
        (state.queues.waiting_by_key(), state.parks.until())
    };
    for (key, count) in buffered.into_iter().chain(core.intake.counts()) {
        queues.entry(key).or_default().buffered += count;
    }
    for (key, until) in parked {
        queues.entry(key).or_default().parked_until = Some(until);
    }
    for (key, count) in core.asides.counts() {
        queues.entry(key).or_default().set_aside = count;
    }
    queues
}
