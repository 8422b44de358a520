//! Going on after a stop of any kind: what the journal knows and the world does not.
//!
//! An accepted message that never started runs now. One that was running runs again; if it may have had
//! effects, the agent is told so inside the session that the interrupted attempt had announced. A reply
//! that was made and not sent is sent, without running anything. What is done and not acknowledged is
//! acknowledged.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::aside::{self, SetAside};
use super::core::{Core, Job, Phase};
use super::intake::{self, Arriving};
use super::journal::{Entry, EntryState, OutboxItem, Record, Turn};
use super::outbox::{self, Item};
use super::ports::{Settled, TurnEvent, TurnStatus};
use super::records::Ended;
use super::{dead, keys, notice, now_ms, operator, park_timer, parking, unrun};
use crate::message::Inbound;

/// How much of what waits is taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Everything whose channel is there; the rest when its channel is added. Without it nobody knows whose message it
    /// is, so it would be run in the wrong place and answered to nobody.
    All,
    /// Only conversations in which a new message arrives; the others wait for a daemon.
    OnDemand,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Messages that run now, for the first time or again.
    pub requeued: usize,
    /// How many of them had been interrupted.
    pub interrupted: usize,
    /// Replies that are sent now.
    pub replies: usize,
    /// Messages that were too old to be run.
    pub stale: usize,
    /// Messages that were left for a daemon.
    pub dormant: usize,
    /// Messages that somebody has set aside.
    pub held: usize,
}

pub(super) fn recover(core: &Arc<Core>, how: Recovery) -> Recovered {
    // Nothing starts before everything is in its lane: messages that supersede each other become one turn.
    core.lock().phase = Phase::Draining;
    if how != Recovery::OnDemand {
        parking::restore(core);
    }
    park_timer::restore_counts(core);
    aside::restore_counts(core);
    let entries: Vec<Entry> = core.journal.view(|ledger| ledger.entries().cloned().collect());
    let is_here = |channel: &str| core.channel(channel).is_some();
    // A channel that has not come for so long does not come any more: what has not run by a start then ends. What waits for
    // something else waits for its channel as well, and must not run twice when that comes after all.
    let oldest = now_ms() - 2 * core.settings.stale_after.as_millis() as i64;
    let is_given_up = |e: &Entry| is_stale(e, oldest) || e.accepted_at < oldest && waits_for_text(e);
    let (ours, others): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().partition(|e| how == Recovery::OnDemand || is_here(&e.channel) || is_given_up(e));
    if how == Recovery::All {
        let is_late = |o: &OutboxItem| o.since < oldest && !is_here(&o.message.channel);
        give_up(core, &is_late, "its channel has not come any more");
    }
    let replies = unsent(core, &|o| is_here(&o.message.channel));
    let mut found = take_in(core, ours, replies, how);
    found.dormant += others.iter().filter(|e| !matches!(e.state, EntryState::Done { .. })).count();
    {
        let mut state = core.lock();
        if how == Recovery::All {
            let channels = core.channels.read().unwrap_or_else(PoisonError::into_inner);
            state.came = Some(channels.keys().cloned().collect());
        }
        state.phase = Phase::Running;
    }
    core.pump();
    say(&found);
    found
}

/// A channel comes, by being `added`: what was left for this moment goes on.
pub(super) fn channel_comes(core: &Arc<Core>, id: &str, added: impl FnOnce()) {
    let is_first = core.lock().came.as_mut().is_some_and(|came| came.insert(id.to_owned()));
    if !is_first {
        return added();
    }
    // Looked up before anything new can come through it.
    let entries = core.journal.view(|ledger| ledger.entries().filter(|e| e.channel == id).cloned().collect());
    let replies = unsent(core, &|o| o.message.channel == id);
    added();
    say(&take_in(core, entries, replies, Recovery::All));
}

/// Whether what goes through a channel was left for the moment when that comes.
pub(super) fn is_left(core: &Arc<Core>, channel: &str) -> bool {
    core.lock().came.as_ref().is_some_and(|came| !came.contains(channel))
}

/// Cancels those messages, of the ones that were left for their channels, for which `wanted` answers true; returns how
/// many they are.
pub(super) fn cancel_left(core: &Arc<Core>, wanted: &dyn Fn(&Inbound) -> bool) -> u64 {
    let Some(came) = core.lock().came.clone() else { return 0 };
    let waits = |e: &Entry| matches!(e.state, EntryState::Waiting | EntryState::Running { .. });
    let is_left = |e: &&Entry| !came.contains(&e.channel) && waits(e) && wanted(&e.message);
    let left: Vec<Entry> = core.journal.view(|ledger| ledger.entries().filter(is_left).cloned().collect());
    let count = left.len() as u64;
    for entry in left {
        unrun::end(core, &job(core, entry), &keys::uuid_v4(), TurnStatus::Cancelled, "cancelled");
    }
    count
}

/// An agent is dismissed whose channel has not come: its replies that were left for that moment are given up.
pub(super) fn dismiss(core: &Arc<Core>, agent: &str) {
    let Some(came) = core.lock().came.clone() else { return };
    let is_unsent = |o: &OutboxItem| o.message.account_id == agent && !came.contains(&o.message.channel);
    give_up(core, &is_unsent, "the agent was revoked");
}

fn give_up(core: &Arc<Core>, which: &dyn Fn(&OutboxItem) -> bool, why: &str) {
    for item in unsent(core, which) {
        outbox::refuse(core, item, why);
    }
}

/// Goes on with these entries, and with these replies.
fn take_in(core: &Arc<Core>, entries: Vec<Entry>, replies: Vec<Item>, how: Recovery) -> Recovered {
    let mut found = Recovered { replies: replies.len(), ..Recovered::default() };
    let mut stale: HashMap<String, Vec<Entry>> = HashMap::new();
    let oldest = now_ms() - core.settings.stale_after.as_millis() as i64;
    outbox::post_all(core, replies);
    let mut parked: HashMap<String, Vec<Entry>> = HashMap::new();
    if how != Recovery::OnDemand {
        for entry in entries.iter().filter(|e| is_parked(e) && e.accepted_at >= oldest) {
            parked.entry(entry.queue.clone()).or_default().push(entry.clone());
        }
    }
    // First, so that messages which came later end their waits.
    for (key, entries) in parked {
        found.requeued += entries.len();
        park_timer::restore(core, &key, entries);
    }
    for entry in entries {
        let is_absent = how == Recovery::OnDemand && core.channel(&entry.channel).is_none();
        match &entry.state {
            // Its far side is told by whoever has its channel, also of what is too old by now.
            EntryState::Done { .. } if is_absent => {}
            EntryState::Waiting | EntryState::Running { .. } if is_absent => found.dormant += 1,
            EntryState::Done { why, .. } => {
                let settled = Settled::new(entry.ids.clone(), why, [entry.message.as_ref()]);
                match core.channel(&entry.channel) {
                    Some(channel) => outbox::tell(core, channel.as_ref(), &settled, vec![entry.id]),
                    None => drop(core.journal.append(Record::Acked { e: vec![entry.id] })),
                }
            }
            EntryState::Answered { turn } => {
                let (waits, why) = core.journal.view(|ledger| {
                    let turn = ledger.turn(turn);
                    (
                        turn.is_some_and(|t| !t.replies.is_empty()),
                        turn.and_then(|t| t.result.as_ref()).map_or_else(|| "delivered".to_owned(), |r| r.why.clone()),
                    )
                });
                if !waits {
                    let settled = Settled::new(entry.ids.clone(), &why, [entry.message.as_ref()]);
                    outbox::settle(core, &entry.channel, vec![entry.id], settled);
                }
            }
            EntryState::Waiting if waits_for_text(&entry) && entry.accepted_at < oldest => {
                found.stale += 1;
                aside::expire(core, &keys::uuid_v4(), &job(core, entry));
            }
            EntryState::Waiting | EntryState::Running { .. } if is_stale(&entry, oldest) => {
                found.stale += 1;
                stale.entry(entry.queue.clone()).or_default().push(entry);
            }
            EntryState::Waiting | EntryState::Running { .. } if how == Recovery::OnDemand => {
                found.dormant += 1;
                core.lock().dormant.insert(entry.queue);
            }
            EntryState::Waiting if operator::holds(&entry) => {
                found.held += 1;
                take_up(core, entry);
            }
            EntryState::Waiting if is_parked(&entry) => {}
            EntryState::Waiting | EntryState::Running { .. } => {
                found.requeued += 1;
                found.interrupted += usize::from(entry.past.attempts > 0);
                take_up(core, entry);
            }
        }
    }
    for entries in stale.into_values() {
        write_off(core, &entries);
    }
    found
}

fn say(found: &Recovered) {
    if *found != Recovered::default() {
        log::info!(
            "engine.recovered requeued={} interrupted={} replies={} stale={} dormant={} held={}",
            found.requeued,
            found.interrupted,
            found.replies,
            found.stale,
            found.dormant,
            found.held
        );
    }
}

/// Takes up a conversation that was left alone, because a message arrived in it.
pub(super) fn wake_dormant(core: &Arc<Core>, key: &str, except: Option<&str>) {
    if !core.lock().dormant.remove(key) {
        return;
    }
    let entries: Vec<Entry> = core.journal.view(|ledger| ledger.queue(key).cloned().collect());
    for entry in entries {
        let waits = matches!(entry.state, EntryState::Waiting | EntryState::Running { .. });
        if waits && Some(entry.id.as_str()) != except {
            take_up(core, entry);
        }
    }
}

/// Too old to be run; what waits for somebody or something may be.
fn is_stale(entry: &Entry, oldest: i64) -> bool {
    entry.accepted_at < oldest && !entry.held && entry.deferred.is_none()
}

/// Whether an entry is one of files without a word, which nobody holds besides.
fn waits_for_text(entry: &Entry) -> bool {
    entry.message.media_only && !operator::holds(entry)
}

/// Whether an entry waits for its time to run again, by its agent's wish.
fn is_parked(entry: &Entry) -> bool {
    entry.state == EntryState::Waiting && entry.parked.is_some() && !entry.held
}

pub(super) fn job(core: &Core, entry: Entry) -> Job {
    let mut job = Job::new(entry.id, core.route(&entry.message), entry.message);
    job.again = true;
    job.attempts = entry.past.attempts;
    job.interrupted = entry.past.effects;
    if entry.past.effects {
        let runtime = super::turn::runtime_id(&job);
        job.resume = entry.past.session.filter(|s| s.rt == runtime).map(|s| s.id);
    }
    job
}

fn take_up(core: &Arc<Core>, entry: Entry) {
    let age = Duration::from_millis(now_ms().saturating_sub(entry.accepted_at).max(0).unsigned_abs());
    let is_held = operator::holds(&entry);
    let is_asked = entry.held_why.as_deref() == Some(operator::ASKED);
    let is_kept = waits_for_text(&entry);
    let was_interrupted = entry.past.effects && entry.deferred.is_none();
    // What ran before, or waited for its runtime, had passed the gate.
    let was_admitted = entry.past.attempts > 0 || entry.held || entry.parked.is_some() || entry.deferred.is_some();
    let key = entry.queue.clone();
    let job = job(core, entry);
    let ahead = core.lock().queues.ahead(&key);
    core.observe(&TurnEvent::Queued { message: &job.message, ahead });
    let turn_id = keys::uuid_v4();
    if is_held {
        operator::shelve(core, job, is_asked);
    } else if job.attempts >= core.settings.max_attempts {
        unrun::give_up(core, job, turn_id);
    } else if is_kept {
        aside::keep(core, turn_id, job, SetAside::Media, age);
    } else if was_interrupted {
        operator::after_interruption(core, job);
    } else if was_admitted {
        intake::submit(core, Arriving::admitted(turn_id, job));
    } else {
        intake::submit(core, Arriving::new(turn_id, job));
    }
}

/// The replies that the journal knows and that are not out yet, of those for which `wanted` answers true.
fn unsent(core: &Core, wanted: &dyn Fn(&OutboxItem) -> bool) -> Vec<Item> {
    let mut items: Vec<Item> = core.journal.view(|ledger| {
        let item = |o: &OutboxItem| {
            let turn = ledger.turn(&o.turn);
            let entries: Vec<&Entry> =
                turn.map(|t| t.entries.iter().filter_map(|e| ledger.entry(e)).collect()).unwrap_or_default();
            let last = turn.and_then(|t| t.replies.last()) == Some(&o.message.id);
            let why = turn.and_then(|t| t.result.as_ref()).map_or("delivered", |r| r.why.as_str());
            let ids = entries.iter().flat_map(|e| e.ids.clone()).collect();
            Item {
                out: o.message.as_ref().clone(),
                entries: if last { entries.iter().map(|e| e.id.clone()).collect() } else { Vec::new() },
                settled: Settled::new(ids, why, entries.iter().map(|e| e.message.as_ref())),
                record: turn.zip(entries.last()).filter(|_| last).map(|(turn, entry)| ended(turn, entry, o)),
                attempts: 0,
                // It may have gone out just before the end.
                uncertain: true,
            }
        };
        ledger.outbox().filter(|o| wanted(o)).map(item).collect()
    });
    // Looked at before anything of this process is in the transcripts.
    for item in &mut items {
        item.record = item.record.take().filter(|r| !core.transcripts.has_end(&r.message, &r.turn_id));
    }
    items
}

/// What the journal knows of a turn that had ended and may not be in the transcript: for a conversation whose
/// replies are read there, that is the reply.
fn ended(turn: &Turn, entry: &Entry, reply: &OutboxItem) -> Ended {
    Ended {
        message: Arc::clone(&entry.message),
        turn_id: turn.id.clone(),
        runtime: turn.runtime.clone(),
        session_id: turn.session.clone(),
        duration_ms: reply.since.saturating_sub(turn.started_at).try_into().unwrap_or(0),
        cost_usd: None,
        text: reply.message.text.clone(),
        reason: None,
        blocks: Vec::new(),
    }
}

/// Messages of one conversation that are too old to be run: said once, in the conversation.
fn write_off(core: &Arc<Core>, entries: &[Entry]) {
    let Some(last) = entries.last() else { return };
    let count = entries.len();
    let hours = core.settings.stale_after.as_secs() / 3_600;
    log::warn!("engine.stale queue={} messages={count}", last.queue);
    let ids: Vec<String> = entries.iter().map(|e| e.id.clone()).collect();
    dead::keep(core, &ids, &format!("not answered within {hours} h"));
    let far = entries.iter().flat_map(|e| e.ids.clone()).collect();
    let text = format!("⚠️ {count} message(s) that came more than {hours} hours ago were not answered.");
    let item = Item {
        out: notice::Place::from(last.message.as_ref()).diagnostic(format!("stale_{}", last.id), text),
        entries: ids,
        settled: Settled::new(far, "skipped:stale", entries.iter().map(|e| e.message.as_ref())),
        record: None,
        attempts: 0,
        uncertain: false,
    };
    outbox::post(core, item);
}
