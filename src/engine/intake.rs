//! From a durable message to its lane: what is skipped, what waits aside, what wakes the agent.
//!
//! Each queue has a lane of its own here as well, so that messages keep their order although some of these questions
//! ask the far side. A question that needs no network is answered at once, on the thread that brought the message;
//! any other by one of at most [`MAX_THREADS`] threads, which come and go. So a slow far side holds up neither
//! [`Engine::accept`](super::Engine::accept) nor other queues.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::aside::{self, SetAside};
use super::breaker::{self, Check};
use super::core::{Core, Job};
use super::fuse::{Cause, Verdict};
use super::gate::{self, Policy};
use super::ports::{Channel, TurnEvent, TurnStatus};
use super::queue::Mode;
use super::{attention, cancelling, keys, notice, now_ms, operator, parking, records, recover, turn, unrun, waits};
use crate::message::Inbound;
use crate::thread;

/// Threads that ask far sides about messages. When more queues have questions at once, they wait for each other.
const MAX_THREADS: usize = 32;

/// A message on its way into its lane.
pub(super) struct Arriving {
    /// The turn id drawn for it.
    pub(super) turn_id: String,
    pub(super) job: Job,
    origin: Origin,
}

/// Which questions are asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// It is new: all.
    New,
    /// It was let in before: whether its runtime may run.
    Admitted,
    /// A person let it go: the same, and it cancels nothing.
    Released,
    /// Its agent wanted to be woken for it: the same, and it does not end its own wait.
    Woken,
}

impl Arriving {
    /// A message that has just come.
    pub(super) fn new(turn_id: String, job: Job) -> Self {
        Self { turn_id, job, origin: Origin::New }
    }

    /// A message that passed the gate before.
    pub(super) fn admitted(turn_id: String, job: Job) -> Self {
        Self { turn_id, job, origin: Origin::Admitted }
    }

    /// A message that a person has let go, or runs again.
    pub(super) fn released(turn_id: String, job: Job) -> Self {
        Self { turn_id, job, origin: Origin::Released }
    }

    /// A message whose agent wanted to be woken for it again.
    pub(super) fn woken(turn_id: String, job: Job) -> Self {
        Self { turn_id, job, origin: Origin::Woken }
    }
}

/// A message that is in no list just now.
struct Looking {
    messages: Vec<Arc<Inbound>>,
    /// A person does not want it any more.
    cancelled: bool,
}

#[derive(Default)]
struct Lanes {
    /// What waits behind the message that is being looked at, by queue key. A key is there while somebody looks.
    waiting: HashMap<String, VecDeque<Arriving>>,
    /// What is being looked at, by queue key.
    looking: HashMap<String, Looking>,
    /// Queues whose next message needs an answer from afar.
    asking: VecDeque<String>,
    threads: usize,
}

/// All messages on their way into their lanes.
#[derive(Default)]
pub(super) struct Intake {
    lanes: Mutex<Lanes>,
}

impl Intake {
    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages of a queue that are not in their lane yet; the one that is being looked at does not count.
    pub(super) fn len(&self, key: &str) -> usize {
        self.lock().waiting.get(key).map_or(0, VecDeque::len)
    }

    /// Numbers of messages that are not in their lane yet, by queue key.
    pub(super) fn counts(&self) -> Vec<(String, usize)> {
        let lanes = self.lock();
        let counts = lanes.waiting.iter().filter(|(_, w)| !w.is_empty());
        counts.map(|(key, w)| (key.clone(), w.len())).collect()
    }

    /// Takes out every message for which `wanted` answers true.
    pub(super) fn remove(&self, wanted: impl Fn(&Job) -> bool) -> Vec<Arriving> {
        let mut removed = Vec::new();
        for queue in self.lock().waiting.values_mut() {
            let (out, kept): (VecDeque<_>, _) = std::mem::take(queue).into_iter().partition(|a| wanted(&a.job));
            *queue = kept;
            removed.extend(out);
        }
        removed
    }

    /// Has those messages cancelled, once it is decided where they go, that are being looked at and wanted; returns how
    /// many they are.
    pub(super) fn cancel(&self, wanted: &dyn Fn(&Inbound) -> bool) -> u64 {
        let mut count = 0;
        for looking in self.lock().looking.values_mut() {
            if !looking.cancelled && looking.messages.iter().any(|message| wanted(message)) {
                looking.cancelled = true;
                count += looking.messages.len() as u64;
            }
        }
        count
    }

    /// Whether a person has cancelled what is being looked at.
    fn is_cancelled(&self, key: &str) -> bool {
        self.lock().looking.get(key).is_some_and(|looking| looking.cancelled)
    }

    /// The next message of a queue; without one the queue is left alone.
    fn next(&self, key: &str) -> Option<Arriving> {
        let mut lanes = self.lock();
        lanes.looking.remove(key);
        let next = lanes.waiting.get_mut(key)?.pop_front();
        match &next {
            Some(arriving) => {
                let looking = Looking { messages: arriving.job.messages(), cancelled: false };
                lanes.looking.insert(key.to_owned(), looking);
            }
            None => drop(lanes.waiting.remove(key)),
        }
        next
    }

    /// Gives the message that is being looked at back to the front of its queue, unless a person has cancelled it:
    /// then it is returned.
    fn put_back(&self, key: &str, arriving: Arriving) -> Option<Arriving> {
        let mut lanes = self.lock();
        if lanes.looking.remove(key).is_some_and(|looking| looking.cancelled) {
            return Some(arriving);
        }
        lanes.waiting.entry(key.to_owned()).or_default().push_front(arriving);
        None
    }
}

/// Sends a message on its way, behind the earlier ones of its queue.
pub(super) fn submit(core: &Arc<Core>, arriving: Arriving) {
    let key = arriving.job.message.queue_key();
    {
        let mut lanes = core.intake.lock();
        if let Some(waiting) = lanes.waiting.get_mut(&key) {
            waiting.push_back(arriving);
            return;
        }
        lanes.waiting.insert(key.clone(), VecDeque::from([arriving]));
    }
    if drain(core, &key, false) == Drained::Asks {
        ask_aside(core, key);
    }
}

#[derive(PartialEq, Eq)]
enum Drained {
    /// Nothing is left.
    Empty,
    /// The next message has a question.
    Asks,
}

/// Looks at the messages of one queue, one after the other.
fn drain(core: &Arc<Core>, key: &str, may_ask: bool) -> Drained {
    while let Some(arriving) = core.intake.next(key) {
        if !may_ask && asks(core, &arriving) {
            let Some(gone) = core.intake.put_back(key, arriving) else { return Drained::Asks };
            cancelling::end(core, gone.turn_id, gone.job);
            continue;
        }
        let message = Arc::clone(&arriving.job.message);
        // What a panic leaves behind is in the journal, for the next start.
        if catch_unwind(AssertUnwindSafe(|| decide(core, arriving))).is_err() {
            log::error!("intake.panic queue={key}");
        }
        // A person may have come when it was decided and not yet to be found where it went.
        if core.intake.is_cancelled(key) {
            cancelling::cancel(core, &|other| other.channel == message.channel && other.id == message.id);
        }
    }
    Drained::Empty
}

/// Has a queue looked at by a thread that may wait.
fn ask_aside(core: &Arc<Core>, key: String) {
    {
        let mut lanes = core.intake.lock();
        lanes.asking.push_back(key);
        if lanes.threads >= MAX_THREADS {
            return;
        }
        lanes.threads += 1;
    }
    let asker = Arc::clone(core);
    let spawned = thread::spawn("intake", move || ask(&asker));
    if let Err(e) = spawned {
        log::error!("intake.thread_failed error={e}");
        ask(core);
    }
}

/// Looks at queues with questions until there are none.
fn ask(core: &Arc<Core>) {
    loop {
        let key = {
            let mut lanes = core.intake.lock();
            let Some(key) = lanes.asking.pop_front() else {
                lanes.threads -= 1;
                return;
            };
            key
        };
        drain(core, &key, true);
    }
}

/// Whether the far side has to be asked about a message.
fn asks(core: &Core, arriving: &Arriving) -> bool {
    let message = &arriving.job.message;
    if arriving.origin != Origin::New || message.media_only || message.is_owner_chat() {
        return false;
    }
    core.channel(&message.channel).is_some_and(|channel| {
        channel.policies().is_some_and(|source| {
            let (agent, conversation) = (&message.account_id, &message.conversation.id);
            core.policies.at_hand(source.per_conversation(), agent, conversation, now_ms()).is_none()
        })
    })
}

/// Decides about a message and puts it where it belongs.
fn decide(core: &Arc<Core>, arriving: Arriving) {
    let Arriving { turn_id, mut job, origin } = arriving;
    let key = job.message.queue_key();
    let cause = Cause::of(&job.message);
    if origin == Origin::New {
        if job.message.media_only {
            answered(core, &job);
            return aside::keep(core, turn_id, job, SetAside::Media, Duration::ZERO);
        }
        if cause == Cause::Human {
            // Whether or not the agent listens: somebody is there.
            attention::admit(core, &key, cause);
        }
        if !wakes(core, &mut job) {
            log::debug!("inbound.gated queue={key} id={:?}", job.message.id);
            answered(core, &job);
            records::attention_skipped(core, &job.message, &turn_id);
            return unrun::end(core, &job, &turn_id, TurnStatus::NoReply, "skipped:attention");
        }
    }
    if core.intake.is_cancelled(&key) {
        cancelling::end(core, turn_id, job);
        return;
    }
    let runtime = turn::runtime_id(&job).to_owned();
    // Where messages wait for a login in their lanes, each of them may be the one that finds it renewed.
    let check = if parking::applies(core, &job, waits::Cause::Login) {
        Check::Closed
    } else {
        core.breakers().check(&runtime, &job.message.account_id, now_ms())
    };
    match check {
        Check::Open { until } => return blocked(core, turn_id, job, until),
        Check::Probe => log::info!("breaker.probe queue={key} runtime={runtime} turn={turn_id}"),
        Check::Closed => {}
    }
    if origin == Origin::New && cause == Cause::Agent && !may_answer(core, &key, &job, &turn_id) {
        return;
    }
    let (kept, dropped) = core.asides.take(&key);
    job.omitted += dropped;
    job.before.extend(kept);
    crate::sort::sort_by_key(&mut job.before, |(_, earlier)| earlier.number);
    match origin {
        Origin::New => {
            parking::tell_if_waiting(core, &job);
            // What the room was asked about goes along with the answer, in one turn.
            if operator::answer(core, &job.message) {
                return core.enqueue_as(turn_id, job, Mode::Coalesce);
            }
        }
        Origin::Admitted => {}
        Origin::Released => return core.enqueue_as(turn_id, job, Mode::Coalesce),
        Origin::Woken => return core.enqueue_again(turn_id, job),
    }
    core.enqueue(turn_id, job);
}

/// A message that the agent does not hear now: what its room was asked about goes on all the same.
fn answered(core: &Arc<Core>, job: &Job) {
    if operator::answer(core, &job.message) {
        core.pump();
    }
}

/// The gate: applies the policy that holds, and flags what addresses the agent. A gate that fails is open.
fn wakes(core: &Arc<Core>, job: &mut Job) -> bool {
    let Some(channel) = core.channel(&job.message.channel) else { return true };
    let mut message = job.message.as_ref().clone();
    let decided = catch_unwind(AssertUnwindSafe(|| {
        let policy = policy(core, channel.as_ref(), job);
        let name = channel.display_name(&message.account_id);
        gate::wakes(&policy, &mut message, name.as_deref(), now_ms())
    }));
    drop(attention::write_policies(core));
    match decided {
        Ok(wakes) => {
            if message != *job.message {
                job.message = Arc::new(message);
            }
            wakes
        }
        Err(_) => {
            log::warn!("gate.failed queue={} id={:?}", job.message.queue_key(), job.message.id);
            true
        }
    }
}

fn policy(core: &Core, channel: &dyn Channel, job: &Job) -> Policy {
    let message = &job.message;
    match channel.policies() {
        // The owner is always heard: there is nothing to ask.
        Some(source) if !message.is_owner_chat() => {
            core.policies.resolve(source, &message.account_id, &message.conversation.id, now_ms())
        }
        _ => Policy::default(),
    }
}

/// The fuse: whether agents may cause one more turn here. Messages that join a waiting turn cause none.
fn may_answer(core: &Arc<Core>, key: &str, job: &Job, turn_id: &str) -> bool {
    if core.mode(job) != Mode::Single && core.lock().queues.waiting(key) > 0 {
        return true;
    }
    let Verdict::Skip { first } = attention::admit(core, key, Cause::Agent) else { return true };
    log::warn!("fuse.skip queue={key} turn={turn_id} first={first}");
    records::loop_paused(core, &job.message, turn_id);
    if first {
        let text = "⚠️ Agents have answered each other here many times in a row; this agent pauses until a person \
                    speaks or some time has passed.";
        unrun::notice(core, &job.message, turn_id, text.to_owned());
    }
    unrun::end(core, job, turn_id, TurnStatus::NoReply, "skipped:loop_paused");
    false
}

/// The login of the runtime is refused: says so. Where the agent speaks by tool, the message waits for better times;
/// elsewhere whoever asked has the answer that there is none now.
fn blocked(core: &Arc<Core>, turn_id: String, mut job: Job, until: i64) {
    log::warn!("breaker.blocked queue={} runtime={}", job.message.queue_key(), turn::runtime_id(&job));
    let gated = core.channel(&job.message.channel).is_some_and(|c| c.capabilities().gated);
    let keep = gated && !job.message.is_owner_chat();
    let before = std::mem::take(&mut job.before);
    unrun::refuse(core, job.clone(), turn_id.clone(), breaker::blocked_error(until), keep);
    for (turn_id, earlier) in before {
        let why = earlier.set_aside.unwrap_or(SetAside::Login);
        aside::keep(core, turn_id, earlier, why, Duration::ZERO);
    }
    if keep {
        aside::keep(core, turn_id, job, SetAside::Login, Duration::ZERO);
    }
}

/// A message was written down: tells those who watch, then sends it on its way. Returns how much is before it.
pub(super) fn take(core: &Arc<Core>, entry: String, message: Arc<Inbound>) -> usize {
    let key = message.queue_key();
    notice::accepted(core, &message);
    recover::wake_dormant(core, &key, Some(&entry));
    let turn_id = keys::uuid_v4();
    records::inbound(core, &message, &turn_id);
    let job = Job::new(entry, core.route(&message), message);
    let ahead = core.lock().queues.ahead(&key) + core.intake.len(&key);
    log::info!(
        "inbound.accepted queue={key} turn={turn_id} id={:?} mode={:?} ahead={ahead} text={:?}",
        job.message.id,
        core.mode(&job),
        crate::redact::preview(&job.message.text)
    );
    core.observe(&TurnEvent::Queued { message: &job.message, ahead });
    submit(core, Arriving::new(turn_id, job));
    ahead
}
