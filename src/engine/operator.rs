//! What a person does to the queue: set messages aside, let them go, run dead ones again, drop them.
//!
//! Every change is in the journal before it is reported as done, and one happens at a time.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::aside::{self, SetAside};
use super::core::{Core, Job, Shelved};
use super::intake::{self, Arriving};
use super::journal::{Dead, Entry, EntryState, Ledger, Outcome, Past, Record};
use super::notice;
use super::outbox::Item;
use super::ports::{Settled, TurnStatus};
use super::queue::Mode;
use super::route::OnInterrupt;
use super::{Engine, backlog, keys, park_timer, parking, recover, turn, unrun};
use crate::message::Inbound;

/// [`super::journal::Entry::held_why`] of a message whose room was asked.
pub(super) const ASKED: &str = "asked";

/// Why a message waits whose channel has not come since the start.
const ABSENT: &str = "its agent is not here yet";

/// Why the queue was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing in the queue has this id.
    Unknown,
    /// It is in no state for this; for people.
    Conflict(String),
    /// The journal cannot be written; for people.
    Unwritable(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("nothing in the queue has this id"),
            Self::Conflict(why) | Self::Unwritable(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Refusal {}

/// What an id names.
enum Named {
    Entry { id: String, state: EntryState, held: bool },
    Dead(Box<Dead>),
}

impl Engine {
    /// The queue: everything that is not finished, oldest first, with what the engine knows beyond the journal.
    pub fn queue(&self) -> Vec<backlog::Item> {
        let core = &self.core;
        let mut items = core.journal.view(backlog::of);
        let state = core.lock();
        for item in &mut items {
            backlog::refine(item, |turn| state.live.contains_key(turn));
            if state.came.as_ref().is_some_and(|came| !came.contains(&item.message.channel)) {
                item.leave(ABSENT);
            }
        }
        if !state.waits.is_empty() {
            let mut waiting = std::collections::HashMap::new();
            for (_, arrival) in state.queues.arrivals() {
                let wait = state.waits.get(&parking::key(&arrival.payload));
                if let Some(wait) = wait.filter(|w| parking::applies(core, &arrival.payload, w.cause)) {
                    waiting.extend(arrival.payload.entries().map(|entry| (entry, wait)));
                }
            }
            for item in &mut items {
                if let Some(wait) = waiting.get(item.id.as_str()) {
                    item.park(wait.cause.text(), wait.until);
                }
            }
        }
        items
    }

    /// Messages that were given up, oldest first.
    pub fn dead_letters(&self) -> Vec<backlog::Item> {
        self.core.journal.view(backlog::dead)
    }

    /// Sets a waiting message aside: it does not run, and does not hold up its conversation.
    pub fn hold(&self, id: &str) -> Result<(), Refusal> {
        let _one = self.core.operator.lock().unwrap_or_else(PoisonError::into_inner);
        match find(&self.core, id)? {
            Named::Entry { held: true, .. } => Ok(()),
            Named::Entry { id, state, .. } => {
                let found = take_waiting(&self.core, &id);
                let left = left(&self.core, &id).is_some();
                let known = {
                    let mut state = self.core.lock();
                    let is_dormant = || state.dormant.iter().any(|key| self.core.is_in(key, &id));
                    let known = found.is_some() || left || is_dormant();
                    if let Some((turn_id, job)) = found {
                        state.shelf.insert(id.clone(), Shelved { turn_id, job, asked: false });
                    }
                    known
                };
                if !known {
                    return Err(unready(&self.core, &id, &state));
                }
                self.core.changed();
                // A superseded turn's messages wait in their lane, but not yet in the journal.
                if let EntryState::Running { turn } = state {
                    drop(self.core.journal.append(Record::Interrupted { turn }));
                }
                write(&self.core, Record::Hold { e: id, why: None })
            }
            Named::Dead(_) => Err(Refusal::Conflict("it is dead, and does not run anyway".into())),
        }
    }

    /// Lets a message go that was set aside, or has the runtime tried at once that a message waits for.
    pub fn release(&self, id: &str) -> Result<(), Refusal> {
        let _one = self.core.operator.lock().unwrap_or_else(PoisonError::into_inner);
        match find(&self.core, id)? {
            Named::Entry { id, held: true, .. } => release(&self.core, &id),
            Named::Entry { id, state, .. } => self.hurry(&id, &state),
            Named::Dead(_) => Err(Refusal::Conflict("it is dead; requeue runs it again".into())),
        }
    }

    /// Runs a dead message again or, where only its reply is missing, sends that again. What waits is released.
    pub fn requeue(&self, id: &str) -> Result<(), Refusal> {
        let _one = self.core.operator.lock().unwrap_or_else(PoisonError::into_inner);
        match find(&self.core, id)? {
            Named::Entry { id, held: true, .. } => release(&self.core, &id),
            Named::Entry { id, state, .. } => self.hurry(&id, &state),
            Named::Dead(dead) => revive(&self.core, *dead),
        }
    }

    /// Ends a waiting, held or dead message without an answer.
    pub fn drop_message(&self, id: &str) -> Result<(), Refusal> {
        let core = &self.core;
        let _one = core.operator.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, entry_state) = match find(core, id)? {
            Named::Dead(dead) => return write(core, Record::Buried { e: dead.id }),
            Named::Entry { id, state, .. } => (id, state),
        };
        let shelved = core.lock().shelf.remove(&id).map(|s| (s.turn_id, s.job));
        match shelved.or_else(|| take_waiting(core, &id)) {
            Some((turn_id, job)) => unrun::end(core, &job, &turn_id, TurnStatus::Cancelled, "skipped:dropped"),
            // What its agent wanted to be woken for goes as a whole, as it came.
            None if park_timer::give_up(core, &id) => {}
            None => {
                let entry = left(core, &id).ok_or_else(|| unready(core, &id, &entry_state))?;
                let job = recover::job(core, entry);
                unrun::end(core, &job, &keys::uuid_v4(), TurnStatus::Cancelled, "skipped:dropped");
            }
        }
        // Its lane may have been waiting for it alone.
        core.pump();
        core.changed();
        Ok(())
    }

    fn hurry(&self, id: &str, entry_state: &EntryState) -> Result<(), Refusal> {
        if let Some((turn_id, job)) = self.core.asides.remove(|job| job.entry == id).pop() {
            if let Err(e) = write(&self.core, Record::Release { e: id.to_owned() }) {
                let why = job.set_aside.unwrap_or(SetAside::Login);
                aside::keep(&self.core, turn_id, job, why, Duration::ZERO);
                return Err(e);
            }
            self.core.breakers().hurry(turn::runtime_id(&job), &job.message.account_id);
            intake::submit(&self.core, Arriving::released(turn_id, job));
            return Ok(());
        }
        if park_timer::wake_now(&self.core, id) {
            return Ok(());
        }
        // A turn that is just being parked is in the journal a moment before its messages are in their lane.
        let deferred = self.core.journal.view(|ledger| ledger.entry(id)?.deferred.as_ref().map(|d| d.on.clone()));
        let hurried = {
            let mut state = self.core.lock();
            let on = state
                .queues
                .arrivals()
                .find(|(_, a)| a.payload.entries().any(|e| e == id))
                .map(|(_, a)| parking::key(&a.payload))
                .or(deferred);
            on.is_some_and(|key| state.waits.hurry(&key))
        };
        if !hurried {
            return Err(match entry_state {
                EntryState::Waiting => Refusal::Conflict("it is not held; its turn comes".into()),
                other => unready(&self.core, id, other),
            });
        }
        self.core.pump();
        Ok(())
    }
}

impl Core {
    /// Whether an entry is in this queue and was left alone at start-up. Not to be called in a view.
    fn is_in(&self, key: &str, entry: &str) -> bool {
        self.journal.view(|ledger| ledger.queue(key).any(|e| e.id == entry))
    }
}

/// Whether a person or a route has set an entry aside, or its room was asked about it.
pub(super) fn holds(entry: &Entry) -> bool {
    entry.held && SetAside::of(entry).is_none()
}

/// An entry that waits for its channel to come.
fn left(core: &Core, id: &str) -> Option<Entry> {
    let entry = core.journal.view(|ledger| ledger.entry(id).cloned())?;
    let waits = matches!(entry.state, EntryState::Waiting | EntryState::Running { .. });
    let is_left = waits && core.lock().came.as_ref().is_some_and(|came| !came.contains(&entry.channel));
    is_left.then_some(entry)
}

/// Takes a message out of wherever it waits for its turn: its lane, the way there, or what is set aside. What it
/// would have taken along waits on.
fn take_waiting(core: &Arc<Core>, id: &str) -> Option<(String, Job)> {
    let mut part = None;
    let mut whole = core.lock().queues.remove_waiting(|_, arrival| {
        let before = &mut arrival.payload.before;
        if let Some(at) = before.iter().position(|(_, earlier)| earlier.entry == id) {
            part = Some(before.remove(at));
        }
        arrival.payload.entry == id
    });
    let whole = whole.pop().map(|(_, arrival)| (arrival.turn_id, arrival.payload));
    let arriving = || core.intake.remove(|job| job.entry == id).pop().map(|a| (a.turn_id, a.job));
    let aside = || core.asides.remove(|job| job.entry == id).pop();
    let (turn_id, mut job) = part.or(whole).or_else(arriving).or_else(aside)?;
    for (turn_id, earlier) in std::mem::take(&mut job.before) {
        if earlier.message.media_only {
            aside::keep(core, turn_id, earlier, SetAside::Media, Duration::ZERO);
        } else {
            intake::submit(core, Arriving::released(turn_id, earlier));
        }
    }
    Some((turn_id, job))
}

/// Takes an interrupted message back into its lane as its route wants. The caller is starting up.
pub(super) fn after_interruption(core: &Arc<Core>, job: Job) {
    let waited_at = core.channel(&job.message.channel).is_none_or(|c| c.is_waited_at());
    match job.route.on_interrupt.unwrap_or_default() {
        // There is no room that a question would reach.
        OnInterrupt::Ask if waited_at => set_aside(core, job, None),
        OnInterrupt::Rerun => intake::submit(core, Arriving::admitted(keys::uuid_v4(), job)),
        OnInterrupt::Hold => set_aside(core, job, None),
        OnInterrupt::Ask => {
            let place = notice::Place::from(job.message.as_ref());
            let id = format!("ask_{}_{}", job.entry, job.attempts);
            // One question is enough for all messages of a room.
            let asked = core.lock().shelf.values().any(|s| s.asked && s.job.message.queue_key() == place.key);
            set_aside(core, job, Some(ASKED.into()));
            if asked {
                return;
            }
            let text = "⚠️ The answer to this message was interrupted by a restart, and may have been carried out in \
                        part. It is on hold: any reply here goes on with it.";
            notice::tell(core, &place, id, text.into());
        }
    }
}

fn set_aside(core: &Core, job: Job, why: Option<String>) {
    let entry = job.entry.clone();
    log::warn!("message.held entry={entry} queue={} why=interrupted", job.message.queue_key());
    shelve(core, job, why.is_some());
    // Where it ran when the daemon died, the journal still has it running.
    if let Some(turn) = core.journal.view(|ledger| match &ledger.entry(&entry)?.state {
        EntryState::Running { turn } => Some(turn.clone()),
        _ => None,
    }) {
        drop(core.journal.append(Record::Interrupted { turn }));
    }
    drop(core.journal.append(Record::Hold { e: entry, why }));
}

/// Puts a message aside in memory; the journal knows.
pub(super) fn shelve(core: &Core, job: Job, asked: bool) {
    let shelved = Shelved { turn_id: keys::uuid_v4(), asked, job };
    core.lock().shelf.insert(shelved.job.entry.clone(), shelved);
}

/// A message came: what its room was asked about goes on with it. Returns whether there was something.
pub(super) fn answer(core: &Arc<Core>, message: &Inbound) -> bool {
    let key = message.queue_key();
    let mut asked: Vec<(u64, String)> = {
        let state = core.lock();
        let about = state.shelf.values().filter(|s| s.asked && s.job.message.queue_key() == key);
        about.map(|s| (s.job.number, s.job.entry.clone())).collect()
    };
    crate::sort::sort(&mut asked);
    for (_, entry) in &asked {
        if let Err(e) = put_back(core, entry) {
            log::warn!("message.not_released entry={entry} error={e}");
        }
    }
    !asked.is_empty()
}

/// A person lets a message go.
fn release(core: &Arc<Core>, entry: &str) -> Result<(), Refusal> {
    write(core, Record::Release { e: entry.to_owned() })?;
    // Of a conversation that was left alone at start-up only the journal has to know.
    let shelved = core.lock().shelf.remove(entry);
    if let Some(Shelved { turn_id, job, .. }) = shelved {
        intake::submit(core, Arriving::released(turn_id, job));
    }
    Ok(())
}

/// From the shelf to the end of the lane, without cancelling what runs there. Starts nothing.
fn put_back(core: &Arc<Core>, entry: &str) -> Result<(), Refusal> {
    write(core, Record::Release { e: entry.to_owned() })?;
    let mut state = core.lock();
    let Some(Shelved { turn_id, job, .. }) = state.shelf.remove(entry) else { return Ok(()) };
    let key = job.message.queue_key();
    let owner = job.message.is_owner_chat();
    let arrival = super::queue::Arrival { turn_id, mode: Mode::Coalesce, owner, payload: job };
    let order = state.queues.arrive(&key, arrival);
    debug_assert!(order.is_none(), "it cancels nothing");
    Ok(())
}

/// A dead letter becomes an entry again.
fn revive(core: &Arc<Core>, dead: Dead) -> Result<(), Refusal> {
    let entry = core.journal.new_entry_id();
    let message = Arc::clone(&dead.message);
    let past = Past { attempts: 0, ..dead.past.clone() };
    // Its ids are finished for good: the far side has been told, and repeats are still recognised.
    write(
        core,
        Record::Accepted {
            e: entry.clone(),
            ids: Vec::new(),
            ch: dead.channel.clone(),
            q: dead.queue.clone(),
            msg: Arc::clone(&message),
            past: Some(past.clone()).filter(|p| *p != Past::default()),
        },
    )?;
    // Until the channel comes, which takes it up.
    let is_left = recover::is_left(core, &dead.channel);
    log::info!("message.revived dead={} entry={entry} reply={}", dead.id, dead.reply.is_some());
    match dead.reply {
        Some(reply) => {
            let turn = reply.turn_id.clone();
            let started = Record::Started { e: vec![entry.clone()], turn: turn.clone(), attempt: 1, rt: String::new() };
            drop(core.journal.append(started));
            let out = Outcome { replies: vec![Arc::clone(&reply)], session: None, why: "delivered".into() };
            write(core, Record::Result { turn, out })?;
            let settled = Settled::new(message.ids(), "delivered", [message.as_ref()]);
            let out = reply.as_ref().clone();
            let item = Item { out, entries: vec![entry], settled, record: None, attempts: 0, uncertain: true };
            if !is_left {
                notice::post_later(core, item);
            }
        }
        None if is_left => {}
        None => {
            let route = core.route(&message);
            let mut job = Job { interrupted: past.effects, ..Job::new(entry, route, message) };
            let runtime = turn::runtime_id(&job).to_owned();
            job.resume = past.session.filter(|s| past.effects && s.rt == runtime).map(|s| s.id);
            intake::submit(core, Arriving::released(keys::uuid_v4(), job));
        }
    }
    write(core, Record::Buried { e: dead.id })
}

fn find(core: &Core, id: &str) -> Result<Named, Refusal> {
    core.journal.view(|ledger| named(ledger, id)).ok_or(Refusal::Unknown)
}

/// By the entry's id, else by an id of the channel.
fn named(ledger: &Ledger, id: &str) -> Option<Named> {
    let entry = ledger.entry(id).or_else(|| ledger.entries().find(|e| e.ids.iter().any(|known| known == id)));
    if let Some(e) = entry.filter(|e| !matches!(e.state, EntryState::Done { .. })) {
        return Some(Named::Entry { id: e.id.clone(), state: e.state.clone(), held: holds(e) });
    }
    let dead = ledger.dead_letter(id).or_else(|| ledger.dead().find(|d| d.ids.iter().any(|known| known == id)));
    dead.map(|d| Named::Dead(Box::new(d.clone())))
}

/// Why a message that is in no lane, on no shelf and not set aside cannot be changed.
fn unready(core: &Core, id: &str, state: &EntryState) -> Refusal {
    let is_parked = || core.journal.view(|ledger| ledger.entry(id).is_some_and(|e| e.parked.is_some()));
    Refusal::Conflict(match state {
        EntryState::Waiting if is_parked() => {
            "its agent has answered it and wants to be woken for it again; release does so now".into()
        }
        EntryState::Answered { .. } => "it is answered; its reply is on its way".into(),
        EntryState::Done { .. } => "it is finished".into(),
        EntryState::Waiting | EntryState::Running { .. } => "its turn runs; bellhop cancel ends it".into(),
    })
}

fn write(core: &Core, record: Record) -> Result<(), Refusal> {
    core.journal.append(record).wait().map_err(|e| Refusal::Unwritable(e.to_string()))
}
