//! An agent's inbox at its hub: asked, handed to the engine, kept under lease, acknowledged.
//!
//! Asking, acknowledging and renewing are errands. Each kind runs on a thread of its own while there is something to
//! do, and never twice at once, so that none waits for another and an idle agent has no such thread. What is worked on
//! is known here by its ids alone; that it survives a crash is the engine's business, and the hub's, whose copy stays
//! until the turn is over.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::drain::{self, Known, Plan, Skipped};
use super::hub::{Fault, Hub, PAGE};
use super::normalise::{self, Me, Skip};
use super::signatures;
use super::socket::{Timing, Trigger};
use crate::engine::cancel::CancelToken;
use crate::engine::ports::Acceptor;
use crate::engine::{Acceptance, now_ms};
use crate::message::{Attachment, Inbound};
use crate::thread;

/// Messages of one agent that may be accepted and unfinished; with more than that in sight, the inbox is not asked.
pub const MAX_UNFINISHED: usize = 1_000;
/// Ids in one request.
const BATCH: usize = 200;
/// What is finished within this is acknowledged in one request. The hub keeps a message for two minutes, and the journal
/// recognises one that comes again.
const GATHER: Duration = Duration::from_millis(100);
/// Answers in a row that may hold nothing but repeats, or nothing at all although there was time to wait for something,
/// before the asking ends; a sound hub gives none.
const MAX_REPEATS: usize = 5;
/// Whoever is to wait for something and has nothing after so short a time has not waited.
const NO_WAIT: Duration = Duration::from_secs(1);

/// Whether a message came from the inbox. Others of the same channel, such as scheduled turns, are none of its business.
fn is_hubs(id: &str) -> bool {
    id.starts_with("h_")
}

/// When the hub's copy of a message is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckAt {
    /// When its turn is over.
    Turn,
    /// When the engine has it.
    Journal,
}

/// What runs on a thread of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    Ask,
    Acknowledge,
    Renew,
}

impl Errand {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ask => "ask",
            Self::Acknowledge => "ack",
            Self::Renew => "renew",
        }
    }
}

#[derive(Default)]
struct State {
    /// Accepted and not finished. Never more than [`MAX_UNFINISHED`], but for what an earlier life has left.
    held: HashSet<String>,
    /// To be acknowledged: at most what was held and one answer of the inbox.
    acks: Vec<String>,
    /// They are not to wait for more.
    hurried: bool,
    /// Why the inbox is to be asked (again).
    wanted: Option<Trigger>,
    busy: [bool; 3],
    /// The channel runs.
    open: bool,
    /// Questions wait for something to come: there is no socket that would tell.
    waits: bool,
    renew_at: Option<Instant>,
    /// The engine has refused a message: the inbox is left alone until then.
    paused: Option<Instant>,
    revoked: Option<String>,
    last_inbound_at: Option<i64>,
    unrenewed: u32,
}

impl State {
    fn forget(&mut self, ids: &[String]) {
        for id in ids {
            self.held.remove(id);
        }
    }

    fn is_full(&self) -> bool {
        self.held.len() + PAGE > MAX_UNFINISHED
    }
}

/// Is told the id of somebody who wants to be a contact.
pub type OnContactRequest = Box<dyn Fn(&str) + Send + Sync>;

/// Fetches the files of an inbox message.
pub type FetchFiles = Box<dyn Fn(&Value) -> Vec<Attachment> + Send + Sync>;

/// Says whether an inbox message is badly signed.
pub type IsBad = Box<dyn Fn(&Value) -> bool + Send + Sync>;

/// The inbox of one agent.
pub struct Inbox {
    agent: String,
    hub: Arc<dyn Hub>,
    ack_at: AckAt,
    timing: Timing,
    engine: OnceLock<Box<dyn Acceptor>>,
    on_contact_request: OnceLock<OnContactRequest>,
    fetch_files: OnceLock<FetchFiles>,
    is_bad: OnceLock<IsBad>,
    /// Wakes the thread of the socket.
    nudge: CancelToken,
    state: Mutex<State>,
    acknowledged: Condvar,
    /// Wakes whoever gathers what is to be acknowledged.
    hurry: Condvar,
}

impl Inbox {
    /// The inbox of an agent, which is also the id of its channel. Fails only when the process is out of descriptors.
    pub fn new(agent: &str, hub: Arc<dyn Hub>, ack_at: AckAt, timing: Timing) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            agent: agent.to_owned(),
            hub,
            ack_at,
            timing,
            engine: OnceLock::new(),
            on_contact_request: OnceLock::new(),
            fetch_files: OnceLock::new(),
            is_bad: OnceLock::new(),
            nudge: CancelToken::new()?,
            state: Mutex::default(),
            acknowledged: Condvar::new(),
            hurry: Condvar::new(),
        }))
    }

    /// Who takes the messages. Only the first one given counts; without one the inbox is not asked.
    pub fn set_engine(&self, engine: Box<dyn Acceptor>) {
        let _ = self.engine.set(engine);
    }

    /// Who is told of somebody who wants to be a contact. Called on the asking thread, with the sender's id.
    pub fn on_contact_request(&self, tell: OnContactRequest) {
        let _ = self.on_contact_request.set(tell);
    }

    /// Who fetches files of messages before they are handed over; without it they stay with the hub. Called on the asking
    /// thread.
    pub fn fetch_files(&self, fetch: FetchFiles) {
        let _ = self.fetch_files.set(fetch);
    }

    /// Who knows good signatures from bad ones; without it they are not looked at. Called on the asking thread.
    pub fn check_signatures(&self, is_bad: IsBad) {
        let _ = self.is_bad.set(is_bad);
    }

    /// Becomes readable when [`Inbox::tick`] is to be called.
    pub fn nudge(&self) -> &CancelToken {
        &self.nudge
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The channel runs from now on. What the engine still has from an earlier life goes under lease again.
    pub fn open(&self) {
        let unfinished = self.engine.get().map(|e| e.unfinished(&self.agent)).unwrap_or_default();
        let mut state = self.lock();
        state.open = true;
        state.hurried = false;
        state.revoked = None;
        if self.ack_at == AckAt::Turn {
            state.held.extend(unfinished.into_iter().filter(|id| is_hubs(id)));
        }
        // At once: the hub may be about to give them out again.
        state.renew_at = (!state.held.is_empty()).then(Instant::now);
    }

    /// The channel does not run any more. What is finished is acknowledged all the same.
    pub fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        state.waits = false;
        state.renew_at = None;
    }

    /// Whether questions wait for something to come.
    pub fn set_waits(&self, waits: bool) {
        self.lock().waits = waits;
    }

    /// Why the hub will have nothing to do with this agent any more, once it has said so.
    pub fn revoked(&self) -> Option<String> {
        self.lock().revoked.clone()
    }

    /// When something came last (Unix milliseconds).
    pub fn last_inbound_at(&self) -> Option<i64> {
        self.lock().last_inbound_at
    }

    /// Ids that are accepted and not finished.
    pub fn unfinished(&self) -> usize {
        self.lock().held.len()
    }

    /// Has the inbox asked. While it is being asked, it is asked once more afterwards.
    pub fn ask(self: &Arc<Self>, trigger: Trigger) {
        self.lock().wanted = Some(trigger);
        self.ask_if_wanted();
    }

    fn ask_if_wanted(self: &Arc<Self>) {
        let mut state = self.lock();
        let may = state.open && !state.is_full() && state.paused.is_none() && state.wanted.is_some();
        if may && !std::mem::replace(&mut state.busy[Errand::Ask as usize], true) {
            drop(state);
            self.send_off(Errand::Ask);
        }
    }

    /// Does what is due; returns when the next thing is.
    pub fn tick(self: &Arc<Self>) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.lock();
        if state.paused.is_some_and(|until| until <= now) {
            state.paused = None;
            state.wanted.get_or_insert(Trigger::Room);
        }
        let due = state.renew_at.is_some_and(|at| at <= now);
        if due {
            state.renew_at = Some(now + self.timing.renew);
        }
        let renew = due && !std::mem::replace(&mut state.busy[Errand::Renew as usize], true);
        let next = [state.renew_at, state.paused].into_iter().flatten().min();
        drop(state);
        if renew {
            self.send_off(Errand::Renew);
        }
        self.ask_if_wanted();
        next
    }

    /// Messages are finished, durably.
    pub fn settled(self: &Arc<Self>, ids: &[String]) {
        let mut state = self.lock();
        state.forget(ids);
        if self.ack_at == AckAt::Turn {
            state.acks.extend(ids.iter().filter(|id| is_hubs(id)).cloned());
        }
        drop(state);
        self.acknowledge();
        self.ask_if_wanted();
    }

    /// Waits until everything that is finished is acknowledged, at most for `limit`.
    pub fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        state.hurried = true;
        self.hurry.notify_all();
        while !state.acks.is_empty() || state.busy[Errand::Acknowledge as usize] {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.acknowledged.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn acknowledge(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.acks.len() >= BATCH {
            self.hurry.notify_all();
        }
        if !state.acks.is_empty() && !std::mem::replace(&mut state.busy[Errand::Acknowledge as usize], true) {
            drop(state);
            self.send_off(Errand::Acknowledge);
        }
    }

    /// Starts the thread of an errand that is marked as busy.
    fn send_off(self: &Arc<Self>, errand: Errand) {
        let inbox = Arc::clone(self);
        let name = format!("{}:{}", errand.as_str(), self.agent);
        let spawned = thread::errand(name, move || inbox.run(errand));
        if let Err(e) = spawned {
            log::error!("botcord.thread_failed agent={} errand={} error={e}", self.agent, errand.as_str());
            self.lock().busy[errand as usize] = false;
        }
    }

    fn run(self: &Arc<Self>, errand: Errand) {
        let work = || match errand {
            Errand::Ask => self.run_asking(),
            Errand::Acknowledge => self.run_acknowledging(),
            Errand::Renew => self.run_renewing(),
        };
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            log::error!("botcord.panic agent={} errand={}", self.agent, errand.as_str());
            self.lock().busy[errand as usize] = false;
        }
    }

    /// Takes note of a refusal; returns its text.
    fn fault(&self, fault: Fault) -> String {
        match fault {
            Fault::Failed(why) => why,
            Fault::Revoked(why) => {
                self.lock().revoked = Some(why.clone());
                self.nudge.wake();
                why
            }
        }
    }

    fn run_asking(self: &Arc<Self>) {
        let mut repeats = 0;
        loop {
            let (trigger, wait) = {
                let mut state = self.lock();
                let may = state.open && !state.is_full() && state.paused.is_none() && state.revoked.is_none();
                let Some(trigger) = state.wanted.take_if(|_| may) else {
                    state.busy[Errand::Ask as usize] = false;
                    return;
                };
                (trigger, if state.waits { self.timing.long_poll } else { Duration::ZERO })
            };
            let asked = Instant::now();
            let page = match self.hub.poll(wait) {
                Ok(page) => page,
                Err(fault) => {
                    let why = self.fault(fault);
                    log::error!("botcord.poll_failed agent={} trigger={} error={why:?}", self.agent, trigger.as_str());
                    // The next trigger tries again.
                    continue;
                }
            };
            let more = page.has_more && !page.messages.is_empty();
            let has_news = if page.messages.is_empty() {
                asked.elapsed() >= NO_WAIT.min(wait / 2)
            } else {
                self.take(page.messages, trigger, more)
            };
            repeats = if has_news { 0 } else { repeats + 1 };
            let mut state = self.lock();
            if repeats >= MAX_REPEATS {
                log::warn!("botcord.repeats agent={} answers={repeats}", self.agent);
                repeats = 0;
            } else if more || state.waits && state.open {
                state.wanted.get_or_insert(trigger);
            }
        }
    }

    /// Deals with the messages of an answer; returns whether any of them was new.
    fn take(self: &Arc<Self>, messages: Vec<Value>, trigger: Trigger, more: bool) -> bool {
        let Some(engine) = self.engine.get() else { return false };
        let began = Instant::now();
        let me = Me { channel: &self.agent, agent: &self.agent };
        let count = messages.len();
        let known = |id: &str| match engine.knows(&self.agent, id) {
            None => Known::No,
            Some(false) => Known::Pending,
            Some(true) => Known::Finished,
        };
        let plan = drain::plan(messages, &known, me);
        let has_news = plan.has_news();
        let Plan { ack_now, groups, pending, skipped, repeats } = plan;
        let eligible: usize = groups.iter().map(Vec::len).sum();
        let inbounds: Vec<Inbound> = groups.into_iter().filter_map(|group| self.inbound(group, me, began)).collect();
        let ids: Vec<Vec<String>> = inbounds.iter().map(Inbound::ids).collect();
        {
            let mut state = self.lock();
            state.acks.extend(ack_now);
            if self.ack_at == AckAt::Journal {
                // An earlier life may have meant to wait for their turns.
                state.acks.extend_from_slice(&pending);
            }
            // Before they are accepted: they may be finished before that returns.
            state.held.extend(pending.iter().chain(ids.iter().flatten()).cloned());
            if eligible > 0 {
                state.last_inbound_at = Some(now_ms());
            }
            if state.renew_at.is_none() && !state.held.is_empty() && self.ack_at == AckAt::Turn {
                state.renew_at = Some(Instant::now() + self.timing.renew);
            }
        }
        self.acknowledge();
        let groups = inbounds.len();
        let answers = engine.accept(inbounds);
        let refused = self.answered(&ids, &answers);
        self.tell_skipped(&skipped);
        log::info!(
            "botcord.drained agent={} trigger={} messages={count} eligible={eligible} repeats={repeats} pending={} \
             skipped={} groups={groups} refused={refused} more={more} ms={}",
            self.agent,
            trigger.as_str(),
            pending.len(),
            skipped.len(),
            began.elapsed().as_millis()
        );
        self.nudge.wake();
        has_news
    }

    /// The message that a group becomes, with its files where they are wanted.
    fn inbound(&self, group: Vec<Value>, me: Me<'_>, began: Instant) -> Option<Inbound> {
        let in_time = |_: &&Value| began.elapsed() < self.timing.files;
        let fetch = self.fetch_files.get();
        let files = fetch.map(|fetch| group.iter().take_while(in_time).flat_map(fetch).collect()).unwrap_or_default();
        let is_bad = |raw: &&Value| self.is_bad.get().is_some_and(|is_bad| is_bad(raw));
        let bad = group.iter().filter(is_bad).filter_map(normalise::hub_id).map(str::to_owned).collect::<Vec<_>>();
        let mut message = normalise::group(group, me, now_ms())?;
        signatures::mark(&mut message, &bad);
        Some(Inbound { attachments: files, ..message })
    }

    /// What the engine has said about each group; returns how many it has refused.
    fn answered(self: &Arc<Self>, ids: &[Vec<String>], answers: &[Acceptance]) -> usize {
        let mut refused = 0;
        let mut state = self.lock();
        for (ids, answer) in ids.iter().zip(answers) {
            match answer {
                Acceptance::Accepted { .. } if self.ack_at == AckAt::Turn => {}
                Acceptance::Accepted { .. } => state.acks.extend_from_slice(ids),
                Acceptance::Pending => {}
                Acceptance::Finished | Acceptance::Skipped(_) => {
                    state.forget(ids);
                    state.acks.extend_from_slice(ids);
                }
                Acceptance::Refused(why) => {
                    refused += 1;
                    state.forget(ids);
                    log::warn!("botcord.refused agent={} messages={} why={why:?}", self.agent, ids.len());
                    state.paused = Some(Instant::now() + self.timing.pause);
                }
            }
        }
        drop(state);
        self.acknowledge();
        refused
    }

    fn tell_skipped(&self, all: &[Skipped]) {
        for skipped in all {
            let (agent, why) = (&self.agent, skipped.why.as_str());
            match (&skipped.id, skipped.why) {
                (None, _) => log::warn!("botcord.nameless agent={agent}"),
                (Some(id), Skip::Malformed | Skip::Text) => log::warn!("botcord.malformed agent={agent} id={id:?}"),
                (Some(id), Skip::ContactRequest) => match self.on_contact_request.get() {
                    Some(tell) => tell(&skipped.from),
                    None => log::info!("botcord.contact_request agent={agent} id={id:?} from={:?}", skipped.from),
                },
                (Some(id), _) => log::debug!("botcord.skipped agent={agent} id={id:?} why={why}"),
            }
        }
    }

    fn run_acknowledging(&self) {
        loop {
            let ids: Vec<String> = {
                let mut state = self.lock();
                if state.acks.is_empty() {
                    state.busy[Errand::Acknowledge as usize] = false;
                    self.acknowledged.notify_all();
                    return;
                }
                let gathers = |s: &mut State| s.acks.len() < BATCH && !s.hurried;
                let gathered = self.hurry.wait_timeout_while(state, GATHER, gathers);
                state = gathered.unwrap_or_else(PoisonError::into_inner).0;
                let count = state.acks.len().min(BATCH);
                state.acks.drain(..count).collect()
            };
            match self.hub.acknowledge(&ids) {
                Ok(count) => log::debug!("botcord.acked agent={} ids={} counted={count}", self.agent, ids.len()),
                Err(fault) => {
                    let why = self.fault(fault);
                    // They come again when their leases run out, and are known then.
                    log::warn!("botcord.ack_failed agent={} ids={} error={why:?}", self.agent, ids.len());
                }
            }
        }
    }

    fn run_renewing(self: &Arc<Self>) {
        self.mend();
        let held: Vec<String> = {
            let mut state = self.lock();
            if state.held.is_empty() {
                state.renew_at = None;
            }
            state.held.iter().cloned().collect()
        };
        let mut renewed = 0;
        let mut failed = false;
        for ids in held.chunks(BATCH) {
            match self.hub.renew(ids) {
                Ok(count) => renewed += count,
                Err(fault) => {
                    failed = true;
                    let why = self.fault(fault);
                    log::warn!("botcord.renew_failed agent={} ids={} error={why:?}", self.agent, ids.len());
                }
            }
        }
        log::debug!("botcord.renewed agent={} ids={} counted={renewed}", self.agent, held.len());
        let mut state = self.lock();
        let lost = renewed == 0 && !held.is_empty() && !failed;
        state.unrenewed = if lost { state.unrenewed + 1 } else { 0 };
        if state.unrenewed == 2 {
            log::warn!("botcord.second_consumer agent={} held={}", self.agent, held.len());
        }
        state.busy[Errand::Renew as usize] = false;
    }

    /// Lets go of what the engine does not work on: whatever went wrong, no lease is renewed for ever.
    fn mend(self: &Arc<Self>) {
        let Some(engine) = self.engine.get() else { return };
        let held: Vec<String> = self.lock().held.iter().cloned().collect();
        // The engine is asked without the lock: it calls here with locks of its own.
        let gone = held.into_iter().filter_map(|id| match engine.knows(&self.agent, &id) {
            Some(false) => None,
            known => Some((id, known.is_some())),
        });
        let gone: Vec<(String, bool)> = gone.collect();
        let mut state = self.lock();
        for (id, finished) in gone {
            if state.held.remove(&id) && finished {
                state.acks.push(id);
            }
        }
        drop(state);
        self.acknowledge();
    }
}
