//! What a person does to the queue: set messages aside, let them go, run dead ones again, drop them.
//!
//! Every change is in the journal before it is reported as done, and one happens at a time.

use std::fmt;
use std::sync::{Arc, PoisonError};

use super::core::{Core, Job, Shelved};
use super::journal::{Dead, EntryState, Ledger, Outcome, Past, Record};
use super::notice;
use super::outbox::{self, Item};
use super::ports::{Settled, TurnEvent};
use super::queue::Mode;
use super::route::OnInterrupt;
use super::{Engine, backlog, cancelled_report, keys, parking, turn};
use crate::message::Inbound;

/// [`super::journal::Entry::held_why`] of a message whose room was asked.
pub(super) const ASKED: &str = "asked";

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
        }
        if !state.waits.is_empty() {
            let mut waiting = std::collections::HashMap::new();
            for (_, arrival) in state.queues.arrivals() {
                let wait = state.waits.get(&parking::key(&arrival.payload));
                if let Some(wait) = wait.filter(|w| parking::applies(core, &arrival.payload, w.cause)) {
                    waiting.insert(arrival.payload.entry.as_str(), wait);
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
                let shelved = {
                    let mut state = self.core.lock();
                    let found = state.queues.remove_waiting(|_, a| a.payload.entry == id).pop();
                    let found = found.map(|(_, a)| Shelved { turn_id: a.turn_id, job: a.payload, asked: false });
                    let is_dormant = state.dormant.iter().any(|key| found.is_none() && self.core.is_in(key, &id));
                    let known = found.is_some() || is_dormant;
                    if let Some(found) = found {
                        state.shelf.insert(id.clone(), found);
                    }
                    known
                };
                if !shelved {
                    return Err(unready(&state));
                }
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
        let found = {
            let mut state = core.lock();
            let waiting = state.queues.remove_waiting(|_, a| a.payload.entry == id).pop();
            waiting.map(|(_, a)| (a.turn_id, a.payload)).or_else(|| state.shelf.remove(&id).map(|s| (s.turn_id, s.job)))
        };
        let Some((turn_id, job)) = found else { return Err(unready(&entry_state)) };
        let settled = Settled { ids: job.message.ids(), why: "skipped:dropped".into() };
        outbox::settle(core, &job.message.channel, vec![id], settled);
        let report = cancelled_report(&job.message, &job.route.runtime, turn_id);
        core.observe(&TurnEvent::Finished { message: &job.message, report: &report });
        // Its lane may have been waiting for it alone.
        core.pump();
        Ok(())
    }

    fn hurry(&self, id: &str, entry_state: &EntryState) -> Result<(), Refusal> {
        let hurried = {
            let mut state = self.core.lock();
            let on =
                state.queues.arrivals().find(|(_, a)| a.payload.entry == id).map(|(_, a)| parking::key(&a.payload));
            on.is_some_and(|key| state.waits.hurry(&key))
        };
        if !hurried {
            return Err(match entry_state {
                EntryState::Waiting => Refusal::Conflict("it is not held; its turn comes".into()),
                other => unready(other),
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

/// Takes an interrupted message back into its lane as its route wants. The caller is starting up.
pub(super) fn after_interruption(core: &Arc<Core>, job: Job) {
    let waited_at = core.channel(&job.message.channel).is_none_or(|c| c.is_waited_at());
    match job.route.on_interrupt.unwrap_or_default() {
        // There is no room that a question would reach.
        OnInterrupt::Ask if waited_at => set_aside(core, job, None),
        OnInterrupt::Rerun => drop(core.enqueue(keys::uuid_v4(), job)),
        OnInterrupt::Hold => set_aside(core, job, None),
        OnInterrupt::Ask => {
            let place = notice::Place::from(job.message.as_ref());
            let id = format!("ask_{}_{}", job.entry, job.attempts);
            set_aside(core, job, Some(ASKED.into()));
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
    let mut asked: Vec<String> = {
        let state = core.lock();
        state
            .shelf
            .values()
            .filter(|s| s.asked && s.job.message.queue_key() == key)
            .map(|s| s.job.entry.clone())
            .collect()
    };
    asked.sort_unstable();
    for entry in &asked {
        if let Err(e) = put_back(core, entry) {
            log::warn!("message.not_released entry={entry} error={e}");
        }
    }
    !asked.is_empty()
}

fn release(core: &Arc<Core>, entry: &str) -> Result<(), Refusal> {
    put_back(core, entry)?;
    core.pump();
    Ok(())
}

/// From the shelf to the end of the lane, without cancelling what runs there. Starts nothing.
fn put_back(core: &Arc<Core>, entry: &str) -> Result<(), Refusal> {
    write(core, Record::Release { e: entry.to_owned() })?;
    let mut state = core.lock();
    // Of a conversation that was left alone at start-up only the journal has to know.
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
    log::info!("message.revived dead={} entry={entry} reply={}", dead.id, dead.reply.is_some());
    match dead.reply {
        Some(reply) => {
            let turn = reply.turn_id.clone();
            let started = Record::Started { e: vec![entry.clone()], turn: turn.clone(), attempt: 1, rt: String::new() };
            drop(core.journal.append(started));
            let out = Outcome { replies: vec![Arc::clone(&reply)], session: None, why: "delivered".into() };
            write(core, Record::Result { turn, out })?;
            let settled = Settled { ids: message.ids(), why: "delivered".into() };
            let out = reply.as_ref().clone();
            let item = Item { out, entries: vec![entry], settled, record: None, attempts: 0, uncertain: true };
            notice::post_later(core, item);
        }
        None => {
            let route = core.route(&message);
            let mut job = Job { entry, message, route, attempts: 0, interrupted: past.effects, resume: None };
            let runtime = turn::runtime_id(&job).to_owned();
            job.resume = past.session.filter(|s| past.effects && s.rt == runtime).map(|s| s.id);
            core.enqueue_as(keys::uuid_v4(), job, Some(Mode::Coalesce));
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
        return Some(Named::Entry { id: e.id.clone(), state: e.state.clone(), held: e.held });
    }
    let dead = ledger.dead_letter(id).or_else(|| ledger.dead().find(|d| d.ids.iter().any(|known| known == id)));
    dead.map(|d| Named::Dead(Box::new(d.clone())))
}

fn unready(state: &EntryState) -> Refusal {
    Refusal::Conflict(match state {
        EntryState::Answered { .. } => "it is answered; its reply is on its way".into(),
        EntryState::Done { .. } => "it is finished".into(),
        EntryState::Waiting | EntryState::Running { .. } => "its turn runs; bellhop cancel ends it".into(),
    })
}

fn write(core: &Core, record: Record) -> Result<(), Refusal> {
    core.journal.append(record).wait().map_err(|e| Refusal::Unwritable(e.to_string()))
}
