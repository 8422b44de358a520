//! The turn engine: from an accepted message to its reply. Knows messages and traits, never a wire or a CLI.
//!
//! The way of a message: [`Engine::accept`] writes it to the [`journal`] and puts it into its lane
//! ([`queue`]); a worker ([`core`]) takes what the lane has ready and runs a [`turn`]; its end is decided
//! by [`outcome`] and carried out by [`conclude`]; the reply leaves through the [`outbox`]. After a crash
//! [`recover`] reads the journal and goes on where it stopped.

pub mod admission;
pub mod approvals;
pub mod backlog;
pub mod cancel;
mod capture;
mod conclude;
mod core;
mod dead;
pub mod fuse;
pub mod gate;
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
mod parking;
mod persist;
pub mod policy;
pub mod ports;
pub mod queue;
mod records;
mod recover;
pub mod replying;
pub mod route;
pub mod sessions;
pub mod settle;
pub mod signals;
mod sink;
mod status;
pub mod timer;
pub mod transcript;
mod turn;
pub mod waits;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use self::approvals::{ApprovalPolicy, Approvals};
use self::cancel::CancelReason;
use self::core::{Core, Job, Phase, State};
use self::journal::{Accept, Journal};
use self::outbox::Outbox;
use self::persist::Sessions;
use self::ports::{Channel, PromptBuilder, Runtimes, Settled, TurnEvent, TurnObserver, TurnReport, TurnStatus};
use self::queue::Queues;
use self::route::Routes;
use self::sessions::{SessionChange, SessionEntry, SessionStore};
use self::timer::Timers;
use self::transcript::Writer;
use crate::message::{Inbound, SenderKind};
use crate::text::trim;

pub use self::persist::{forget_noted_sessions, noted_sessions};
pub use self::recover::{Recovered, Recovery};
pub use self::sink::{LINGERS, Lingering};
pub use self::status::{ChannelPulse, EngineStatus, RunningTurn, Stalled};

/// When a session is left for a fresh one; 0 switches a criterion off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Turns (default 25).
    pub turns: u64,
    /// Input tokens of the last turn (default 160 000).
    pub tokens: u64,
}

/// What the engine can be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Turns that may run at once in the whole daemon.
    pub max_turns: usize,
    /// Time limit of a turn.
    pub turn_limit: Duration,
    /// Whether the text of a superseded message goes along with the next one.
    pub carry_superseded: bool,
    /// Messages that may wait in one conversation; more are refused.
    pub max_waiting: usize,
    /// Runs of one message that crashes may interrupt before it is given up.
    pub max_attempts: u32,
    /// When sessions are left.
    pub rotation: Rotation,
    /// Waits between attempts to deliver a reply.
    pub outbox_delays: Vec<Duration>,
    /// How long an adapter may take to return after it was cancelled. More than the 15 s after which
    /// process control gives up.
    pub abandon_after: Duration,
    /// Messages that were accepted longer ago than this are not run at start-up.
    pub stale_after: Duration,
    /// What makes messages wait instead of being answered with an error. Default: nothing.
    pub parking: waits::Parking,
    /// Memory that is kept free. Default: not looked at.
    pub memory: admission::Memory,
    /// A running turn without progress for so long, while none of its tools runs, is told of; zero: never.
    pub silent_after: Duration,
    /// Whether transcripts hold the runtimes' events themselves.
    pub verbose_blocks: bool,
    /// Variables for every child.
    pub child_env: Vec<(String, String)>,
    /// Who decides about tool calls; [`Engine::set_approval_policy`] changes it later.
    pub approvals: ApprovalPolicy,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_turns: default_max_turns(),
            turn_limit: Duration::from_mins(30),
            carry_superseded: true,
            max_waiting: 1_000,
            max_attempts: 3,
            rotation: Rotation { turns: 25, tokens: 160_000 },
            outbox_delays: outbox::DELAYS.to_vec(),
            abandon_after: Duration::from_secs(20),
            stale_after: Duration::from_hours(24),
            parking: waits::Parking::default(),
            memory: admission::Memory::default(),
            silent_after: Duration::from_mins(10),
            verbose_blocks: false,
            child_env: Vec::new(),
            approvals: ApprovalPolicy::default(),
        }
    }
}

/// The larger of 4 and twice the cores.
pub fn default_max_turns() -> usize {
    std::thread::available_parallelism().map_or(4, |n| (n.get() * 2).max(4))
}

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

impl Engine {
    /// Puts the parts together. Nothing runs before [`Engine::recover`].
    pub fn new(parts: Parts) -> std::io::Result<Self> {
        let Parts { journal, sessions, transcripts, runtimes, prompts, observers, channels, routes, settings } = parts;
        let core = Core {
            approvals: Approvals::new(settings.approvals),
            settings,
            sessions: Sessions::new(sessions, &journal),
            journal,
            routes: RwLock::new(Arc::new(routes)),
            channels: RwLock::new(channels.into_iter().map(|c| (c.id().to_owned(), c)).collect()),
            runtimes,
            prompts,
            observers,
            transcripts,
            timers: Timers::start()?,
            outbox: Outbox::default(),
            state: Mutex::new(State {
                queues: Queues::default(),
                live: HashMap::new(),
                phase: Phase::Running,
                interrupted: 0,
                dormant: HashSet::new(),
                shelf: HashMap::new(),
                waits: waits::Waits::default(),
                wait_timer: false,
                memory_low: false,
                memory_timer: false,
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
                    Ok(()) => self.take(entry_id, message),
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
        if core.channel(&message.channel).is_none() {
            log::warn!("inbound.unknown_channel channel={:?} id={:?}", message.channel, message.id);
            return Some(Acceptance::Skipped("unknown_channel"));
        }
        if message.sender.kind == SenderKind::Agent && message.sender.id == message.account_id {
            return Some(Acceptance::Skipped("own_echo"));
        }
        if trim(&message.text).is_empty() && message.attachments.is_empty() && !message.media_only {
            return Some(Acceptance::Skipped("empty"));
        }
        let state = core.lock();
        if state.phase != Phase::Running {
            return Some(Acceptance::Refused("the daemon is shutting down".into()));
        }
        let waiting = state.queues.waiting(&message.queue_key());
        drop(state);
        let full = waiting >= core.settings.max_waiting;
        full.then(|| {
            let why = format!("{waiting} messages wait in this conversation already");
            notice::refused(core, &notice::Place::from(message), why.clone(), &why)
        })
    }

    /// A durable message goes into its lane.
    fn take(&self, entry: String, message: Arc<Inbound>) -> Acceptance {
        let core = &self.core;
        notice::accepted(core, &message);
        // What the room was asked about goes along with the answer, in one turn.
        let mode = operator::answer(core, &message).then_some(queue::Mode::Coalesce);
        recover::wake_dormant(core, &message.queue_key(), Some(&entry));
        let turn_id = keys::uuid_v4();
        records::inbound(core, &message, &turn_id);
        let ahead = core.lock().queues.ahead(&message.queue_key());
        log::info!(
            "inbound.accepted queue={} id={:?} ahead={ahead} text={:?}",
            message.queue_key(),
            message.id,
            crate::redact::preview(&message.text)
        );
        core.observe(&TurnEvent::Queued { message: &message, ahead });
        let route = core.route(&message);
        let job = Job { entry, message, route, attempts: 0, interrupted: false, resume: None };
        parking::tell_if_waiting(core, &job);
        core.enqueue_as(turn_id, job, mode);
        Acceptance::Accepted { ahead }
    }

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

    fn cancel_where(&self, wanted: impl Fn(&Inbound) -> bool) -> u64 {
        let core = &self.core;
        let mut state = core.lock();
        let mut removed: Vec<(String, Job)> = state
            .queues
            .remove_waiting(|_, arrival| wanted(&arrival.payload.message))
            .into_iter()
            .map(|(_, arrival)| (arrival.turn_id, arrival.payload))
            .collect();
        removed.extend(state.shelf.extract_if(|_, s| wanted(&s.job.message)).map(|(_, s)| (s.turn_id, s.job)));
        let running: Vec<_> = state
            .live
            .iter()
            .filter(|(_, live)| live.messages.iter().any(|m| wanted(m)))
            .map(|(id, live)| (id.clone(), Arc::clone(live)))
            .collect();
        drop(state);
        let mut count = 0;
        for (turn_id, live) in running {
            if !live.token.is_cancelled() {
                count += live.messages.len() as u64;
                core.cancel(&turn_id, &live, CancelReason::User);
            }
        }
        for (turn_id, job) in removed {
            count += 1;
            let message = Arc::clone(&job.message);
            let settled = Settled { ids: message.ids(), why: "cancelled".into() };
            outbox::settle(core, &message.channel, vec![job.entry], settled);
            let report = cancelled_report(&message, &job.route.runtime, turn_id);
            core.observe(&TurnEvent::Finished { message: &message, report: &report });
        }
        count
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

fn cancelled_report(message: &Inbound, runtime: &str, turn_id: String) -> TurnReport {
    TurnReport {
        turn_id,
        message_ids: message.ids(),
        channel: message.channel.clone(),
        agent: message.account_id.clone(),
        conversation: message.conversation.id.clone(),
        runtime: runtime.to_owned(),
        session_id: None,
        status: TurnStatus::Cancelled,
        reply: None,
        error: None,
        blocks: 0,
        ms: 0,
        usage: None,
        cost_usd: None,
        class: None,
    }
}

/// Now, in Unix milliseconds.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}
