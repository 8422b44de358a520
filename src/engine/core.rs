//! What all parts of the engine share: the state, the way into a lane, and the workers.
//!
//! A worker is a thread that runs turns until no lane is ready, then leaves: idle conversations hold no
//! thread, and there are never more workers than turns may run at once.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::admission::LOOK_AGAIN_MS;
use super::approvals::Approvals;
use super::aside::{Asides, SetAside};
use super::breaker::Breakers;
use super::cancel::{CancelReason, CancelToken};
use super::fuse::Fuse;
use super::intake::Intake;
use super::journal::Journal;
use super::outbox::Outbox;
use super::park_timer::Parks;
use super::pass::Passes;
use super::persist::Sessions;
use super::policy::Policies;
use super::ports::{Channel, PromptBuilder, Runtimes, TurnEvent, TurnHook, TurnObserver};
use super::queue::{Arrival, Ending, Mode, Queues, Start};
use super::route::{QueueMode, Route, Routes};
use super::timer::Timers;
use super::transcript::{DropReason, Writer};
use super::turn::{self, Turn};
use super::typing::Pings;
use super::waits::{Admission, Waits};
use super::{Settings, conclude, now_ms, parking, records};
use crate::message::Inbound;
use crate::thread;

/// One accepted message with what its turn needs to know.
#[derive(Clone)]
pub(super) struct Job {
    /// Journal id. Ids of one millisecond are in no order; [`Job::number`] is.
    pub(super) entry: String,
    /// Grows with the order in which messages were accepted.
    pub(super) number: u64,
    /// The message.
    pub(super) message: Arc<Inbound>,
    /// The route chosen when it was accepted.
    pub(super) route: Arc<Route>,
    /// Attempts that a crash used up.
    pub(super) attempts: u32,
    /// An earlier attempt may have had effects.
    pub(super) interrupted: bool,
    /// Session that an interrupted attempt had announced.
    pub(super) resume: Option<String>,
    /// Messages that were set aside and go along with it, with the turn ids drawn for them; oldest first.
    pub(super) before: Vec<(String, Job)>,
    /// How many of those were dropped before.
    pub(super) omitted: usize,
    /// Why it is (or was) set aside itself.
    pub(super) set_aside: Option<SetAside>,
    /// It ran before, and its agent wanted to be woken for it again.
    pub(super) woken: bool,
    /// It may have run before, in this process or in an earlier one.
    pub(super) again: bool,
}

impl Job {
    /// A message that nothing is known of yet.
    pub(super) fn new(entry: String, route: Arc<Route>, message: Arc<Inbound>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            entry,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            message,
            route,
            attempts: 0,
            interrupted: false,
            resume: None,
            before: Vec::new(),
            omitted: 0,
            set_aside: None,
            woken: false,
            again: false,
        }
    }

    /// Journal ids of everything that it brings into a turn.
    pub(super) fn entries(&self) -> impl Iterator<Item = &str> {
        self.before.iter().map(|(_, j)| j).chain([self]).map(|j| j.entry.as_str())
    }

    /// Everything that it brings into a turn, oldest first.
    pub(super) fn messages(&self) -> Vec<Arc<Inbound>> {
        self.before.iter().map(|(_, j)| j).chain([self]).map(|j| Arc::clone(&j.message)).collect()
    }
}

/// A turn between its start and its end, as far as others may touch it.
pub(super) struct Live {
    pub(super) key: String,
    pub(super) token: CancelToken,
    pub(super) began: Instant,
    pub(super) started_at: i64,
    pub(super) messages: Vec<Arc<Inbound>>,
    pub(super) runtime: String,
    pub(super) cwd: std::path::PathBuf,
    /// Set once the worker has prepared the turn; what [`conclude::abandon`] needs.
    pub(super) turn: Mutex<Option<Arc<Turn>>>,
}

impl Live {
    /// Whether the end of the turn was told already.
    pub(super) fn is_told(&self) -> bool {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        turn.as_ref().is_some_and(|turn| turn.told.load(Ordering::Acquire))
    }
}

/// Whether the engine takes and starts work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    Draining,
}

pub(super) struct State {
    pub(super) queues: Queues<Job>,
    pub(super) live: HashMap<String, Arc<Live>>,
    pub(super) phase: Phase,
    /// Turns that a shutdown has interrupted.
    pub(super) interrupted: usize,
    /// Queue keys with entries in the journal that were left alone at start-up.
    pub(super) dormant: HashSet<String>,
    /// Channels that were there so far, where messages wait for theirs to come.
    pub(super) came: Option<HashSet<String>>,
    /// Conversations whose agent waits.
    pub(super) parks: Parks,
    /// Turn ids of which their transcript says already that another one took their place, and whose messages are not
    /// accounted for yet.
    pub(super) superseded: HashSet<String>,
    /// Messages that a person or a route has set aside, by their entries.
    pub(super) shelf: HashMap<String, Shelved>,
    /// Runtimes that cannot work for a while.
    pub(super) waits: Waits,
    /// A timer for the next probe is set.
    pub(super) wait_timer: bool,
    /// The last turn that was to start had to wait for memory.
    pub(super) memory_low: bool,
    /// A timer for the next look at the memory is set.
    pub(super) memory_timer: bool,
}

/// A message that a person or a route has set aside.
pub(super) struct Shelved {
    pub(super) turn_id: String,
    pub(super) job: Job,
    /// Its room was asked whether to go on.
    pub(super) asked: bool,
}

/// What a channel was last seen doing, in Unix milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Activity {
    pub(super) inbound: Option<i64>,
    pub(super) delivered: Option<i64>,
}

/// The engine's inside.
pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) journal: Journal,
    pub(super) sessions: Sessions,
    pub(super) routes: RwLock<Arc<Routes>>,
    pub(super) channels: RwLock<HashMap<String, Arc<dyn Channel>>>,
    pub(super) runtimes: Arc<dyn Runtimes>,
    pub(super) prompts: Arc<dyn PromptBuilder>,
    /// Counts the threads that build system context, see [`super::context`].
    pub(super) builders: Arc<()>,
    pub(super) observers: Vec<Arc<dyn TurnObserver>>,
    pub(super) transcripts: Writer,
    pub(super) timers: Timers,
    pub(super) outbox: Outbox,
    pub(super) approvals: Approvals,
    pub(super) intake: Intake,
    pub(super) asides: Asides,
    pub(super) policies: Policies,
    pub(super) breakers: Mutex<Breakers>,
    pub(super) fuse: Mutex<Fuse>,
    pub(super) pings: Arc<Pings>,
    pub(super) passes: Passes,
    /// Held from the look whether something was said already until it is in the journal.
    pub(super) saying: Mutex<()>,
    pub(super) hooks: RwLock<Vec<Arc<dyn TurnHook>>>,
    /// Called when something changes that a picture of the engine shows.
    pub(super) on_change: OnceLock<Box<dyn Fn() + Send + Sync>>,
    pub(super) state: Mutex<State>,
    /// By channel; there are as many as there are channels.
    pub(super) activity: Mutex<HashMap<String, Activity>>,
    /// Conversations that were told that no more is taken.
    pub(super) full: Mutex<HashSet<String>>,
    /// Held by a person's change of the queue: one at a time.
    pub(super) operator: Mutex<()>,
    /// Signalled whenever a turn has ended.
    pub(super) turn_ended: Condvar,
}

impl Core {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn breakers(&self) -> MutexGuard<'_, Breakers> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fuse(&self) -> MutexGuard<'_, Fuse> {
        self.fuse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has changed that a picture of the engine shows.
    pub(super) fn changed(&self) {
        if let Some(call) = self.on_change.get() {
            call();
        }
    }

    /// Calls every hook; a panic in one is logged and hurts nobody.
    pub(super) fn hooked(&self, call: impl Fn(&dyn TurnHook)) {
        let hooks = self.hooks.read().unwrap_or_else(PoisonError::into_inner).clone();
        for hook in hooks {
            if catch_unwind(AssertUnwindSafe(|| call(hook.as_ref()))).is_err() {
                log::error!("hook.panic");
            }
        }
    }

    pub(super) fn channel(&self, id: &str) -> Option<Arc<dyn Channel>> {
        self.channels.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(super) fn route(&self, message: &Inbound) -> Arc<Route> {
        let routes = Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner));
        Arc::new(routes.resolve(message).clone())
    }

    /// Remembers that a channel was seen doing something.
    pub(super) fn saw(&self, channel: &str, what: impl FnOnce(&mut Activity)) {
        what(self.activity.lock().unwrap_or_else(PoisonError::into_inner).entry(channel.to_owned()).or_default());
    }

    /// Tells every observer; a panic in one is logged and hurts nobody.
    pub(super) fn observe(&self, event: &TurnEvent<'_>) {
        for observer in &self.observers {
            if catch_unwind(AssertUnwindSafe(|| observer.event(event))).is_err() {
                log::error!("observer.panic");
            }
        }
    }

    /// Puts a message into its lane and starts what can be started. A wait of the conversation is over.
    pub(super) fn enqueue(self: &Arc<Self>, turn_id: String, job: Job) {
        let mode = self.mode(&job);
        self.enqueue_as(turn_id, job, mode);
    }

    /// The same in another mode than the message's own.
    pub(super) fn enqueue_as(self: &Arc<Self>, turn_id: String, job: Job, mode: Mode) {
        self.place(turn_id, job, mode, true);
    }

    /// Puts a message into its lane whose agent wanted to be woken for it. It waits its turn.
    pub(super) fn enqueue_again(self: &Arc<Self>, turn_id: String, job: Job) {
        self.place(turn_id, job, Mode::Coalesce, false);
    }

    fn place(self: &Arc<Self>, turn_id: String, job: Job, mode: Mode, ends_wait: bool) {
        let key = job.message.queue_key();
        let arrival = Arrival { turn_id, mode, owner: job.message.is_owner_chat(), payload: job };
        let mut state = self.lock();
        let overtaken = ends_wait.then(|| state.parks.overtaken(self, &key));
        let order = state.queues.arrive(&key, arrival);
        let superseded = order.and_then(|order| {
            let live = Arc::clone(state.live.get(&order.turn_id)?);
            // While the lane is locked: a turn that has just ended by itself was not superseded.
            if !live.token.cancel(CancelReason::Superseded) {
                return None;
            }
            state.superseded.insert(order.turn_id.clone());
            Some((order, live))
        });
        drop(state);
        if let Some(overtaken) = overtaken {
            overtaken.settle(self, None);
        }
        if let Some((order, live)) = superseded {
            if let Some(message) = live.messages.last() {
                records::dropped(self, message, &order.turn_id, DropReason::QueueCancelPrevious, Some(&order.by));
            }
            log::info!("turn.supersede queue={key} turn={} by={}", order.turn_id, order.by);
            self.cancelled(&order.turn_id);
        }
        self.pump();
        self.changed();
    }

    /// What a message does to a running turn of its conversation.
    pub(super) fn mode(&self, job: &Job) -> Mode {
        match super::route::queue_mode(&job.route, job.message.conversation.kind) {
            // Messages that want a reply each run one by one, unless their route says otherwise.
            _ if job.route.queue_mode != Some(QueueMode::CancelPrevious) && !self.coalesces(&job.message) => {
                Mode::Single
            }
            QueueMode::CancelPrevious => Mode::CancelPrevious,
            // Its last attempt: should it be what brings the daemon down, no other is given up with it.
            QueueMode::Serial if job.attempts > 0 && job.attempts + 1 >= self.settings.max_attempts => Mode::Single,
            QueueMode::Serial => Mode::Coalesce,
        }
    }

    fn coalesces(&self, message: &Inbound) -> bool {
        self.channel(&message.channel).is_none_or(|c| c.capabilities().coalesce)
    }

    /// Sets a turn's token and makes sure that the turn ends even if its adapter does not return. False: it was
    /// cancelled before, or has ended.
    pub(super) fn cancel(self: &Arc<Self>, turn_id: &str, live: &Live, reason: CancelReason) -> bool {
        let first = live.token.cancel(reason);
        if first {
            self.cancelled(turn_id);
        }
        first
    }

    /// What follows once a turn's token is set.
    pub(super) fn cancelled(self: &Arc<Self>, turn_id: &str) {
        self.approvals.end(turn_id);
        let core = Arc::clone(self);
        let turn_id = turn_id.to_owned();
        self.timers.after(self.settings.abandon_after, move || conclude::abandon(&core, &turn_id));
    }

    /// Starts turns while lanes are ready and the limit allows.
    pub(super) fn pump(self: &Arc<Self>) {
        loop {
            let mut state = self.lock();
            let Some((start, live)) = self.next(&mut state) else { return };
            drop(state);
            let core = Arc::clone(self);
            let (key, turn_id) = (start.key.clone(), start.turn_id.clone());
            let spawned = thread::errand("turn", move || worker(&core, start, live));
            if let Err(e) = spawned {
                log::error!("turn.thread_failed queue={key} error={e}");
                self.put_back(&key, &turn_id);
                return;
            }
        }
    }

    /// The next turn to run, registered as live.
    fn next(self: &Arc<Self>, state: &mut State) -> Option<(Start<Job>, Arc<Live>)> {
        if state.phase != Phase::Running {
            return None;
        }
        let start = self.next_start(state)?;
        let token = match CancelToken::new() {
            Ok(token) => token,
            Err(e) => {
                log::error!("turn.no_descriptor queue={} error={e}", start.key);
                state.waits.left(&start.turn_id);
                state.queues.finished(&start.key, &start.turn_id, Ending::Carried);
                self.pump_later();
                return None;
            }
        };
        let last = start.arrivals.last().map(|a| &a.payload)?;
        let live = Arc::new(Live {
            key: start.key.clone(),
            token,
            began: Instant::now(),
            started_at: now_ms(),
            messages: start.arrivals.iter().flat_map(|a| a.payload.messages()).collect(),
            runtime: turn::runtime_id(last).to_owned(),
            cwd: turn::working_directory(last).to_owned(),
            turn: Mutex::new(None),
        });
        state.live.insert(start.turn_id.clone(), Arc::clone(&live));
        Some((start, live))
    }

    /// The next turn that memory and its runtime's state allow.
    fn next_start(self: &Arc<Self>, state: &mut State) -> Option<Start<Job>> {
        let ages = state.live.values().map(|live| live.began.elapsed().as_millis() as u64);
        if state.queues.has_ready() && !self.settings.memory.admits(ages) {
            if !std::mem::replace(&mut state.memory_low, true) {
                log::info!("turn.waits_for_memory running={}", state.live.len());
            }
            if !std::mem::replace(&mut state.memory_timer, true) {
                let core = Arc::clone(self);
                self.timers.after(Duration::from_millis(LOOK_AGAIN_MS), move || {
                    core.lock().memory_timer = false;
                    core.pump();
                });
            }
            return None;
        }
        state.memory_low = false;
        let State { queues, waits, .. } = state;
        if waits.is_empty() {
            return queues.next(self.settings.max_turns);
        }
        let now = now_ms();
        let start = queues.next_admitted(self.settings.max_turns, |arrival| {
            let job = &arrival.payload;
            let key = parking::key(job);
            waits.admits(&key, now) != Admission::Wait
                || waits.get(&key).is_none_or(|w| !parking::applies(self, job, w.cause))
        })?;
        if let Some(last) = start.arrivals.last() {
            let key = parking::key(&last.payload);
            if waits.admits(&key, now) == Admission::Probe {
                log::info!("wait.probe on={key} turn={}", start.turn_id);
                waits.probing(&key, &start.turn_id);
            }
        }
        Some(start)
    }

    /// Undoes [`Core::next`] and tries again in a second.
    fn put_back(self: &Arc<Self>, key: &str, turn_id: &str) {
        let mut state = self.lock();
        state.live.remove(turn_id);
        state.waits.left(turn_id);
        state.queues.finished(key, turn_id, Ending::Carried);
        drop(state);
        self.pump_later();
    }

    fn pump_later(self: &Arc<Self>) {
        let core = Arc::clone(self);
        self.timers.after(Duration::from_secs(1), move || core.pump());
    }

    /// A turn is over and its messages are accounted for: frees its lane.
    /// `merged`: the turn ids that went into it.
    pub(super) fn turn_over(&self, key: &str, turn_id: &str, merged: &[String]) {
        let mut state = self.lock();
        state.live.remove(turn_id);
        state.waits.left(turn_id);
        state.queues.finished(key, turn_id, Ending::Settled);
        for id in merged.iter().map(String::as_str).chain([turn_id]) {
            state.superseded.remove(id);
        }
        drop(state);
        self.turn_ended.notify_all();
        self.changed();
    }

    /// A turn is over: frees its lane and puts its messages back to its front. With `rest` nothing starts there until
    /// [`Queues::set_blocked`] says otherwise. False, and nothing is done, if a person has cancelled the turn since
    /// its end.
    pub(super) fn carry_over(&self, turn: &Turn, rest: bool) -> bool {
        let mut state = self.lock();
        // While the lane is locked, as a person's cancelling is: it finds the messages here or there.
        if turn.token.reason() == Some(CancelReason::User) {
            return false;
        }
        state.live.remove(&turn.id);
        state.waits.left(&turn.id);
        state.queues.finished(&turn.key, &turn.id, Ending::Carried);
        if rest {
            state.queues.set_blocked(&turn.key, true);
        }
        drop(state);
        self.turn_ended.notify_all();
        self.changed();
        true
    }
}

/// Runs turns until no lane is ready.
fn worker(core: &Arc<Core>, start: Start<Job>, live: Arc<Live>) {
    let mut next = Some((start, live));
    while let Some((start, live)) = next.take() {
        name_thread(&start);
        core.changed();
        let (key, turn_id) = (start.key.clone(), start.turn_id.clone());
        let messages = live.messages.clone();
        let result = catch_unwind(AssertUnwindSafe(|| turn::run(core, start, &live)));
        let concluded = match result {
            Ok(concluded) => concluded,
            Err(_) => {
                log::error!("turn.panic queue={key} turn={turn_id}");
                conclude::panicked(core, &live, &key, &turn_id, &messages)
            }
        };
        // An abandoned turn has been concluded by somebody else, who has freed the lane as well.
        if !concluded {
            return;
        }
        next = core.next(&mut core.lock());
        if next.is_some() {
            core.pump();
        }
    }
}

/// `turn:<conversation>`, as far as the system's 15 bytes go.
fn name_thread(start: &Start<Job>) {
    let conversation = start.arrivals.last().map_or("", |a| a.payload.message.conversation.id.as_str());
    thread::rename(&format!("turn:{conversation}"));
}
