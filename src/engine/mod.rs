//! The turn engine: from an accepted message to its reply. Knows messages and traits, never a wire or a CLI.
//!
//! The way of a message: [`Engine::accept`] writes it to the [`journal`]; [`intake`] decides whether it wakes the
//! agent and puts it into its lane ([`queue`]); a worker ([`core`]) takes what the lane has ready and runs a [`turn`]; its end is decided
//! by [`outcome`] and carried out by [`conclude`]; the reply leaves through the [`outbox`]. After a crash
//! [`recover`] reads the journal and goes on where it stopped.

pub mod admission;
pub mod approvals;
mod aside;
pub mod attachments;
mod attention;
pub mod backlog;
pub mod breaker;
pub mod cancel;
mod cancelling;
mod capture;
mod conclude;
mod context;
mod core;
mod dead;
pub mod fuse;
pub mod gate;
mod intake;
pub mod journal;
pub mod keys;
pub mod loop_risk;
pub mod mention;
pub mod merge;
mod notice;
pub mod operator;
pub mod outbox;
pub mod outcome;
pub mod park;
mod park_timer;
mod parking;
mod pass;
mod persist;
pub mod policy;
pub mod ports;
mod prepare;
pub mod queue;
mod records;
mod recover;
pub mod replying;
pub mod route;
#[cfg(test)]
mod schedules;
pub mod sessions;
mod settings;
pub mod settle;
pub mod signals;
mod sink;
pub mod speak;
mod status;
mod stream;
pub mod timer;
pub mod transcript;
mod turn;
pub mod typing;
mod unrun;
pub mod waits;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use self::approvals::{ApprovalPolicy, Approvals};
use self::aside::Asides;
use self::cancel::CancelReason;
use self::core::{Core, Phase, State};
use self::gate::Policy;
use self::intake::Intake;
use self::journal::{Accept, Journal};
use self::outbox::Outbox;
use self::park_timer::Parks;
use self::persist::Sessions;
use self::policy::Policies;
use self::ports::{Channel, PromptBuilder, Runtimes, TurnEvent, TurnHook, TurnObserver};
use self::queue::Queues;
use self::route::Routes;
use self::sessions::{SessionChange, SessionEntry, SessionStore};
use self::timer::Timers;
use self::transcript::Writer;
use crate::message::{Inbound, SenderKind};
use crate::text::trim;

pub use self::pass::PASS_VARIABLE;
pub use self::persist::{forget_noted_sessions, noted_sessions};
pub use self::recover::{Recovered, Recovery};
pub use self::settings::{Rotation, Settings, default_max_turns};
pub use self::sink::{LINGERS, Lingering};
pub use self::status::{ChannelPulse, EngineStatus, RunningTurn, Stalled};

/// How long the end of the daemon waits for replies that are just going out, and for far sides to know of what is over.
const FAREWELL: Duration = Duration::from_secs(2);

/// What an engine is made of.
pub struct Parts {
    /// Open journal.
    pub journal: Journal,
    /// Loaded session store.
    pub sessions: SessionStore,
    /// Transcript writer.
    pub transcripts: Writer,
    /// Where runtimes are found.
    pub runtimes: Arc<dyn Runtimes>,
    /// What runtimes are told.
    pub prompts: Arc<dyn PromptBuilder>,
    /// Who watches.
    pub observers: Vec<Arc<dyn TurnObserver>>,
    /// Where messages come from.
    pub channels: Vec<Arc<dyn Channel>>,
    /// Which runtime answers whom.
    pub routes: Routes,
    /// Settings.
    pub settings: Settings,
}

/// What became of a message that a channel handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It is in the journal and waits behind so many others; [`Channel::settled`] tells its end.
    Accepted {
        /// Turns and messages of its conversation that are before it.
        ahead: usize,
    },
    /// It was here before and is not finished: keep its lease.
    Pending,
    /// It was here before and is finished: acknowledge it.
    Finished,
    /// Nothing is to be done about it: acknowledge it.
    Skipped(&'static str),
    /// Not now: do not acknowledge it, stop taking more for a while.
    Refused(String),
}

/// The turn in which an agent writes to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// The turn.
    pub turn_id: String,
    /// [`Inbound::hops`] of what it answers.
    pub hops: u32,
    /// Queue keys of the turns that may be waiting for it, itself first: what is put behind one of them may wait for
    /// itself.
    pub queues: Vec<String>,
}

/// The turn engine. Clones are the same one.
#[derive(Clone)]
pub struct Engine {
    core: Arc<Core>,
}

/// An [`Engine`] that may be gone.
#[derive(Clone, Default)]
pub struct WeakEngine {
    core: Weak<Core>,
}

impl WeakEngine {
    /// The engine, if it is still there.
    pub fn upgrade(&self) -> Option<Engine> {
        Some(Engine { core: self.core.upgrade()? })
    }
}

impl Engine {
    /// Puts the parts together. Nothing runs before [`Engine::recover`].
    pub fn new(parts: Parts) -> std::io::Result<Self> {
        let Parts { journal, sessions, transcripts, runtimes, prompts, observers, channels, routes, settings } = parts;
        let policies = Policies::new(attention::known_policies(&journal));
        let fuse = Mutex::new(attention::known_fuse(&journal));
        let core = Core {
            approvals: Approvals::new(settings.approvals),
            settings,
            sessions: Sessions::new(sessions, &journal),
            journal,
            routes: RwLock::new(Arc::new(routes)),
            channels: RwLock::new(channels.into_iter().map(|c| (c.id().to_owned(), c)).collect()),
            runtimes,
            prompts,
            builders: Arc::default(),
            observers,
            transcripts,
            timers: Timers::start()?,
            outbox: Outbox::default(),
            intake: Intake::default(),
            asides: Asides::default(),
            policies,
            breakers: Mutex::default(),
            fuse,
            pings: Arc::default(),
            passes: pass::Passes::default(),
            saying: Mutex::default(),
            hooks: RwLock::default(),
            on_change: OnceLock::new(),
            state: Mutex::new(State {
                queues: Queues::default(),
                live: HashMap::new(),
                phase: Phase::Running,
                interrupted: 0,
                dormant: HashSet::new(),
                came: None,
                parks: Parks::default(),
                shelf: HashMap::new(),
                waits: waits::Waits::default(),
                wait_timer: false,
                memory_low: false,
                memory_timer: false,
                superseded: HashSet::new(),
            }),
            activity: Mutex::default(),
            full: Mutex::default(),
            operator: Mutex::default(),
            turn_ended: Condvar::new(),
        };
        Ok(Self { core: Arc::new(core) })
    }

    /// Goes on with what the journal knows: see [`Recovery`]. Called once, before the first
    /// [`Engine::accept`]; processes that the journal says were running must be gone.
    pub fn recover(&self, how: Recovery) -> Recovered {
        recover::recover(&self.core, how)
    }

    /// Takes messages over: returns when they are durable, long before they are answered. The answers are in
    /// the order of the messages; messages of one queue keep their order.
    pub fn accept(&self, messages: Vec<Inbound>) -> Vec<Acceptance> {
        let core = &self.core;
        let mut answers: Vec<Option<Acceptance>> = messages.iter().map(|m| self.refuse_early(m)).collect();
        let wanted: Vec<(usize, Inbound)> =
            messages.into_iter().enumerate().filter(|(at, _)| answers[*at].is_none()).collect();
        let positions: Vec<usize> = wanted.iter().map(|(at, _)| *at).collect();
        let messages: Vec<Inbound> = wanted.into_iter().map(|(_, m)| m).collect();
        // Only a refusal needs its message once more, and its room only once.
        let rooms: Vec<notice::Place> = messages.iter().map(notice::Place::from).collect();
        let accepted = core.journal.accept(messages, now_ms());
        for ((at, accept), room) in positions.into_iter().zip(accepted).zip(rooms) {
            answers[at] = Some(match accept {
                Accept::New { entry_id, message, ticket } => match ticket.wait() {
                    Ok(()) => Acceptance::Accepted { ahead: intake::take(core, entry_id, message) },
                    Err(e) => notice::refused(core, &room, e.to_string(), notice::UNSTORED),
                },
                Accept::Pending { .. } => Acceptance::Pending,
                Accept::Terminal => Acceptance::Finished,
                Accept::Refused { why } => notice::refused(core, &room, why, notice::UNSTORED),
            });
        }
        answers.into_iter().flatten().collect()
    }

    /// Reasons not to take a message that need no journal.
    fn refuse_early(&self, message: &Inbound) -> Option<Acceptance> {
        let core = &self.core;
        if message.id.is_empty() || message.channel.is_empty() {
            log::warn!("inbound.nameless channel={:?} id={:?}", message.channel, message.id);
            return Some(Acceptance::Skipped("nameless"));
        }
        if core.channel(&message.channel).is_none() {
            log::warn!("inbound.unknown_channel channel={:?} id={:?}", message.channel, message.id);
            return Some(Acceptance::Skipped("unknown_channel"));
        }
        if message.sender.kind == SenderKind::Agent && message.sender.id == message.account_id {
            let said = [(message.received_at, message.text.clone())];
            core.observe(&TurnEvent::OwnWords { message, said: &said });
            return Some(Acceptance::Skipped("own_echo"));
        }
        if trim(&message.text).is_empty() && message.attachments.is_empty() && !message.media_only {
            return Some(Acceptance::Skipped("empty"));
        }
        let state = core.lock();
        if state.phase != Phase::Running {
            return Some(Acceptance::Refused("the daemon is shutting down".into()));
        }
        let key = message.queue_key();
        let waiting = state.queues.waiting(&key);
        drop(state);
        let waiting = waiting + core.intake.len(&key) + core.asides.len(&key);
        (waiting >= core.settings.max_waiting).then(|| {
            let why = format!("{waiting} messages wait in this conversation already");
            notice::refused(core, &notice::Place::from(message), why.clone(), &why)
        })
    }

    /// A policy of attention was announced for an agent, in one conversation or in general; `None`: it has changed and
    /// has to be asked for again.
    pub fn set_policy(&self, agent: &str, conversation: Option<&str>, policy: Option<Policy>) {
        attention::set_policy(&self.core, agent, conversation, policy);
    }

    /// Adds a channel, in place of one with the same id. Its routes are to be there already: messages that have waited
    /// for it go on.
    pub fn add_channel(&self, channel: Arc<dyn Channel>) {
        let id = channel.id().to_owned();
        recover::channel_comes(&self.core, &id, || {
            self.core.channels.write().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), channel);
        });
    }

    /// Removes a channel. Its messages that wait or run go on; what they answer cannot be sent any more.
    pub fn remove_channel(&self, id: &str) {
        self.core.channels.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// The channel of this id.
    pub fn channel(&self, id: &str) -> Option<Arc<dyn Channel>> {
        self.core.channel(id)
    }

    /// A handle that does not keep the engine alive, for those that the engine itself holds.
    pub fn downgrade(&self) -> WeakEngine {
        WeakEngine { core: Arc::downgrade(&self.core) }
    }

    /// Adds somebody who accounts for turns.
    pub fn add_hook(&self, hook: Arc<dyn TurnHook>) {
        self.core.hooks.write().unwrap_or_else(PoisonError::into_inner).push(hook);
    }

    /// Has `call` called whenever something changes that [`Engine::status`] shows. It is called on many threads, must
    /// not wait and must not call the engine. Only the first one given counts.
    pub fn on_change(&self, call: impl Fn() + Send + Sync + 'static) {
        let _ = self.core.on_change.set(Box::new(call));
    }

    /// All runtime sessions.
    pub fn sessions(&self) -> Vec<SessionEntry> {
        self.core.sessions.list()
    }

    /// Forgets the sessions for which `wanted` answers true; returns how many.
    pub fn forget_sessions(&self, wanted: impl Fn(&SessionEntry) -> bool) -> u64 {
        let mut count = 0;
        for entry in self.sessions().into_iter().filter(|e| wanted(e)) {
            self.core.sessions.change(&self.core.journal, &SessionChange { key: entry.key, entry: None });
            count += 1;
        }
        if count > 0 {
            persist::flush_soon(&self.core);
        }
        count
    }

    /// The routes that the next message meets.
    pub fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.core.routes.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the routes; the next message uses the new ones.
    pub fn set_routes(&self, routes: Routes) {
        *self.core.routes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }

    /// Replaces the policy for tool calls; the next question meets the new one.
    pub fn set_approval_policy(&self, policy: ApprovalPolicy) {
        self.core.approvals.set_policy(policy);
    }

    /// Answers a question about a tool call; `false` when it does not wait (any more).
    pub fn answer_approval(&self, id: &str, answer: ports::Approval) -> bool {
        self.core.approvals.answer(id, answer)
    }

    /// What runs, what waits, how the journal is.
    pub fn status(&self) -> EngineStatus {
        status::status(&self.core)
    }

    /// Whether a message is known, and if so whether it is finished.
    pub fn knows(&self, channel: &str, id: &str) -> Option<bool> {
        match self.core.journal.view(|ledger| ledger.known(channel, id)) {
            journal::Known::No => None,
            journal::Known::Pending { .. } => Some(false),
            journal::Known::Terminal => Some(true),
        }
    }

    /// Ids of a channel's messages that are not finished and that the far side does not know to be.
    pub fn unfinished(&self, channel: &str) -> Vec<String> {
        self.core.journal.view(|ledger| {
            let open = |e: &&journal::Entry| {
                e.channel == channel && !e.acked && !matches!(e.state, journal::EntryState::Done { .. })
            };
            ledger.entries().filter(open).flat_map(|e| e.ids.iter().cloned()).collect()
        })
    }

    /// What a message has behind it that is written in this turn of this agent; of any turn of the agent when that one
    /// does not run (a process may outlive its first turn). `None`: the agent runs no turn.
    pub fn asking(&self, turn_id: &str, agent: &str) -> Option<Asking> {
        let state = self.core.lock();
        let of_agent = |live: &core::Live| live.messages.iter().any(|m| m.account_id == agent);
        let hops = |live: &core::Live| live.messages.iter().map(|m| m.hops).max().unwrap_or(0);
        let exact = state.live.get_key_value(turn_id).filter(|(_, live)| of_agent(live));
        let any = || state.live.iter().filter(|(_, live)| of_agent(live)).max_by_key(|(_, live)| hops(live));
        let (id, live) = exact.or_else(any)?;
        let mut asking = Asking { turn_id: id.clone(), hops: hops(live), queues: Vec::new() };
        let mut next = Some(live);
        // A turn cannot be its own ancestor, but what is on a disk may say so.
        while let Some(live) = next.filter(|live| !asking.queues.contains(&live.key)) {
            asking.queues.push(live.key.clone());
            next = live.messages.iter().find_map(|m| state.live.get(m.overrides.as_ref()?.turn.as_ref()?));
        }
        Some(asking)
    }

    /// Interrupts every running turn now; they run again at the next start. Ends a draining early.
    pub fn interrupt(&self) -> usize {
        let core = &self.core;
        let live: Vec<_> = {
            let mut state = core.lock();
            state.phase = Phase::Draining;
            state.live.iter().map(|(id, live)| (id.clone(), Arc::clone(live))).collect()
        };
        for (id, live) in &live {
            core.cancel(id, live, CancelReason::Shutdown);
        }
        live.len()
    }

    /// Takes no more messages, lets running turns go on for at most `drain`, interrupts the rest (they run
    /// again at the next start), and writes everything down. Returns how many turns were interrupted.
    pub fn stop(&self, drain: Duration) -> usize {
        let core = &self.core;
        core.lock().phase = Phase::Draining;
        self.wait_idle(drain);
        self.interrupt();
        self.wait_idle(core.settings.abandon_after + Duration::from_secs(5));
        core.timers.close();
        core.runtimes.close();
        core.sessions.flush(&core.journal);
        core.outbox.close();
        // What is over, and what is just going out, is told while it can still be written down that it was.
        if core.journal.recover_now().is_ok() {
            core.outbox.wait_told(FAREWELL);
        }
        core.journal.close();
        let state = core.lock();
        state.interrupted + state.live.len()
    }

    /// Waits until no turn runs, at most for `limit`; returns whether that is so.
    pub fn wait_idle(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.core.lock();
        while !state.live.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.core.turn_ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

pub use crate::time::now_ms;
