//! Replies on their way out: in order per conversation, repeated until the far side has them.
//!
//! The turn that made a reply tries to send it at once. What fails for a while stays here and in the
//! journal, is tried again after [`DELAYS`] with the same id, and holds back later replies of its
//! conversation; other conversations go on. After the last delay it is given up, which is recorded; a patient
//! channel repeats the last delay until its patience ends. Where the far side says when to come again, that is done.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::core::Core;
use super::dead;
use super::journal::{JournalError, Record};
use super::ports::{Channel, Delivery, Settled};
use super::records::{self, Ended};
use super::transcript::Delivery as Recorded;
use crate::message::Outbound;
use crate::thread;

/// Waits before the second, third and fourth attempt.
pub const DELAYS: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(10), Duration::from_mins(1)];

/// Threads that send what an earlier process has left.
const SENDERS: usize = 8;
/// How long a reply waits for a thread when there was none to be had.
const AGAIN: Duration = Duration::from_secs(1);

/// For how long a far side may put a reply off, of a channel that has no patience of its own.
const PATIENCE: Duration = Duration::from_hours(24);
/// The longest wait that a far side may ask for at once; hubs ask for an hour at most.
const LONGEST: Duration = Duration::from_hours(1);

/// A reply with everything that its end needs.
pub(super) struct Item {
    pub(super) out: Outbound,
    /// Journal entries that are done when it is resolved.
    pub(super) entries: Vec<String>,
    /// What the channel is told then.
    pub(super) settled: Settled,
    /// What the transcript says of the turn once the reply is resolved.
    pub(super) record: Option<Ended>,
    pub(super) attempts: usize,
    pub(super) uncertain: bool,
}

impl Item {
    /// The queue key of its conversation.
    fn key(&self) -> String {
        let out = &self.out;
        let thread = out.thread_id.as_deref().unwrap_or("");
        format!("{}:{}:{}:{thread}", out.channel, out.account_id, out.conversation_id)
    }
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// Somebody sends the first item, or a timer will.
    busy: bool,
    /// Since when the first item cannot be sent.
    failing: Option<Instant>,
}

/// All replies that are not out yet.
#[derive(Default)]
pub(super) struct Outbox {
    queues: Mutex<HashMap<String, Queue>>,
    /// Who waits for the end of a message, by its id.
    waiters: Mutex<HashMap<String, Sender<Resolved>>>,
    /// Messages that are being sent, and ends that far sides are being told of.
    untold: Mutex<usize>,
    all_told: Condvar,
    /// The journal is about to be closed: nothing more is sent.
    closed: AtomicBool,
}

/// What became of a message: the far side's id of it, or why it was given up.
pub(super) type Resolved = Result<Option<String>, String>;

impl Outbox {
    /// Number of replies that wait, by channel.
    pub(super) fn by_channel(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        for item in queues.values().flat_map(|q| &q.items) {
            *counts.entry(item.out.channel.clone()).or_default() += 1;
        }
        counts
    }

    /// What becomes of a message; to be asked for before it is posted. Whoever does not wait any more says so with
    /// [`Outbox::leave`].
    pub(super) fn await_end(&self, id: &str) -> Receiver<Resolved> {
        let (sender, end) = bounded(1);
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), sender);
        end
    }

    /// Nobody waits for the end of this message any more.
    pub(super) fn leave(&self, id: &str) {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Number of messages of an agent that it sent by tool and that wait.
    pub(super) fn said_by(&self, channel: &str, account: &str) -> usize {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let of_agent = |out: &Outbound| out.by_tool && out.channel == channel && out.account_id == account;
        queues.values().flat_map(|q| &q.items).filter(|item| of_agent(&item.out)).count()
    }

    /// Sends nothing more: what goes out from here on would not be written down, and be sent again by the next process.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Waits until what is being sent is out and far sides know of all ends, at most for `limit`.
    pub(super) fn wait_told(&self, limit: Duration) {
        let untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.all_told.wait_timeout_while(untold, limit, |untold| *untold > 0));
    }

    /// Number of replies that wait.
    pub(super) fn len(&self) -> usize {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).values().map(|q| q.items.len()).sum()
    }
}

/// Sends a reply, or queues it behind the earlier ones of its conversation.
pub(super) fn post(core: &Arc<Core>, item: Item) {
    if let Some(key) = put(core, item) {
        drain(core, &key);
    }
}

/// The same without waiting for the channel: when this returns, the message has its place in its conversation.
pub(super) fn post_aside(core: &Arc<Core>, item: Item) {
    if let Some(key) = put(core, item) {
        drain_aside(core, &key);
    }
}

/// The replies of an earlier process. When this returns they have their places in their conversations, before any newer
/// one; a few threads send them, so that one slow far side does not hold up all.
pub(super) fn post_all(core: &Arc<Core>, items: Vec<Item>) {
    let keys: VecDeque<String> = items.into_iter().filter_map(|item| put(core, item)).collect();
    let threads = keys.len().min(SENDERS);
    let keys = Arc::new(Mutex::new(keys));
    for _ in 0..threads {
        let (sender, left) = (Arc::clone(core), Arc::clone(&keys));
        let next = move || left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let spawned = thread::spawn("outbox", move || {
            while let Some(key) = next() {
                drain(&sender, &key);
            }
        });
        if let Err(e) = spawned {
            log::error!("outbox.thread_failed error={e}");
            let left = std::mem::take(&mut *keys.lock().unwrap_or_else(PoisonError::into_inner));
            for key in left {
                drain_later(core, key, AGAIN);
            }
            break;
        }
    }
}

/// Gives up a reply of an earlier process.
pub(super) fn refuse(core: &Arc<Core>, item: Item, why: &str) {
    resolve(core, item, Err(why.to_owned()));
}

/// Gives up all replies of an agent that wait; returns how many. One that is being sent goes on.
pub(super) fn give_up(core: &Arc<Core>, agent: &str, why: &str) -> usize {
    let mut gone = Vec::new();
    for queue in core.outbox.queues.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
        let (theirs, others) = std::mem::take(&mut queue.items).into_iter().partition(|i| i.out.account_id == agent);
        queue.items = others;
        gone.push(theirs);
    }
    let gone: Vec<Item> = gone.into_iter().flat_map(|items: VecDeque<Item>| items).collect();
    let count = gone.len();
    for item in gone {
        resolve(core, item, Err(why.to_owned()));
    }
    count
}

/// Queues a message; returns the key of a queue that nobody sends from yet.
fn put(core: &Core, item: Item) -> Option<String> {
    let key = item.key();
    let mut queues = core.outbox.queues.lock().unwrap_or_else(PoisonError::into_inner);
    let queue = queues.entry(key.clone()).or_default();
    queue.items.push_back(item);
    (!std::mem::replace(&mut queue.busy, true)).then_some(key)
}

/// [`drain`] on a thread of its own.
fn drain_aside(core: &Arc<Core>, key: &str) {
    let (sender, queue) = (Arc::clone(core), key.to_owned());
    let spawned = thread::errand("outbox", move || drain(&sender, &queue));
    if let Err(e) = spawned {
        log::error!("outbox.thread_failed queue={key} error={e}");
        drain_later(core, key.to_owned(), AGAIN);
    }
}

fn drain_later(core: &Arc<Core>, key: String, delay: Duration) {
    let again = Arc::clone(core);
    core.timers.after(delay, move || drain_aside(&again, &key));
}

/// Sends from the front of one conversation's queue until it is empty or has to wait.
fn drain(core: &Arc<Core>, key: &str) {
    loop {
        // Counted before it is looked whether anything may still be sent.
        let _counted = Untold::new(core);
        let Some(mut item) = take(core, key) else { return };
        item.attempts += 1;
        match attempt(core, &item) {
            Delivery::Delivered { id } => settled_first(core, key, item, Ok(id)),
            Delivery::Permanent { why } => settled_first(core, key, item, Err(why)),
            Delivery::Transient { after, why } => {
                item.uncertain = false;
                if !retry(core, key, item, after, &why) {
                    return;
                }
            }
            Delivery::Uncertain { why } => {
                item.uncertain = true;
                if !retry(core, key, item, None, &why) {
                    return;
                }
            }
        }
    }
}

fn settled_first(core: &Arc<Core>, key: &str, item: Item, result: Result<Option<String>, String>) {
    if let Some(queue) = core.outbox.queues.lock().unwrap_or_else(PoisonError::into_inner).get_mut(key) {
        queue.failing = None;
    }
    resolve(core, item, result);
}

fn take(core: &Core, key: &str) -> Option<Item> {
    if core.outbox.closed.load(Ordering::SeqCst) {
        return None;
    }
    let mut queues = core.outbox.queues.lock().unwrap_or_else(PoisonError::into_inner);
    let item = queues.get_mut(key)?.items.pop_front();
    if item.is_none() {
        queues.remove(key);
    }
    item
}

fn attempt(core: &Core, item: &Item) -> Delivery {
    let Some(channel) = core.channel(&item.out.channel) else {
        return Delivery::Permanent { why: format!("no channel {}", item.out.channel) };
    };
    let call = || if item.uncertain { channel.resolve(&item.out) } else { channel.send(&item.out) };
    let panicked = |_| Delivery::Uncertain { why: "the channel panicked".into() };
    let delivery = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(panicked);
    match delivery {
        // The far side does not have it: this attempt sends.
        Delivery::Transient { after: None, .. } if item.uncertain => {
            catch_unwind(AssertUnwindSafe(|| channel.send(&item.out))).unwrap_or_else(panicked)
        }
        delivery => delivery,
    }
}

/// Puts an item back and sets a timer; after the last delay it is given up. Returns whether to go on with
/// the next item now.
fn retry(core: &Arc<Core>, key: &str, mut item: Item, after: Option<Duration>, why: &str) -> bool {
    let patience = core.channel(&item.out.channel).and_then(|c| c.patience());
    let delays = &core.settings.outbox_delays;
    let delay = match after {
        Some(after) => {
            item.attempts -= 1;
            Some(after.min(LONGEST))
        }
        None => delays.get(item.attempts - 1).or(delays.last().filter(|_| patience.is_some())).copied(),
    };
    let mut queues = core.outbox.queues.lock().unwrap_or_else(PoisonError::into_inner);
    let failing = queues.get_mut(key).map(|queue| queue.failing.get_or_insert_with(Instant::now).elapsed());
    let is_late = failing.is_some_and(|since| since >= patience.unwrap_or(PATIENCE));
    let Some(delay) = delay.filter(|_| !is_late) else {
        drop(queues);
        settled_first(core, key, item, Err(why.to_owned()));
        return true;
    };
    log::warn!(
        "outbox.retry queue={key} out={} attempt={} in_ms={} why={why:?}",
        item.out.id,
        item.attempts,
        delay.as_millis()
    );
    queues.entry(key.to_owned()).or_default().items.push_front(item);
    drop(queues);
    drain_later(core, key.to_owned(), delay);
    false
}

/// The reply is out, or given up: tells the journal, the transcript and the channel.
fn resolve(core: &Arc<Core>, item: Item, result: Result<Option<String>, String>) {
    let Item { out, entries, mut settled, record, .. } = item;
    let channel = out.channel.clone();
    let failure = result.as_ref().err().map(|why| crate::redact::text(why));
    if out.by_tool {
        records::said(core, &out, failure.as_deref());
    }
    let waiter = core.outbox.waiters.lock().unwrap_or_else(PoisonError::into_inner).remove(&out.id);
    let end = || match &failure {
        Some(why) => Err(why.clone()),
        None => Ok(result.as_ref().ok().cloned().flatten()),
    };
    let told = waiter.map(|waiter| (waiter, end()));
    // Before the journal forgets the reply: a crash in between finds it there and looks into the transcript.
    if let Some(record) = record {
        let status = if failure.is_some() { Recorded::SendFailed } else { Recorded::Delivered };
        record.write(core, status, failure.as_deref());
    }
    match result {
        Ok(provider) => {
            core.saw(&channel, |a| a.delivered = Some(super::now_ms()));
            let sent = Record::Sent { out: out.id, turn: out.turn_id, provider };
            if entries.is_empty() {
                core.journal.append_behind(sent);
            } else {
                // The end of its entries follows.
                core.journal.append_ahead(sent);
            }
        }
        Err(_) => {
            let why = failure.unwrap_or_default();
            log::warn!("outbox.given_up out={} conversation={} why={why:?}", out.id, out.conversation_id);
            settled.why = "send_failed".into();
            dead::keep_reply(core, &entries, &out, &format!("the reply could not be delivered: {why}"));
            drop(core.journal.append(Record::Unsent { out: out.id, turn: out.turn_id, why }));
        }
    }
    // Not before the journal knows: whoever says the same again would be told that this one still waits.
    if let Some((waiter, end)) = told {
        let _ = waiter.try_send(end);
    }
    if !entries.is_empty() {
        settle(core, &channel, entries, settled);
    }
}

/// How long a record that could not be written waits for its next try.
const SETTLE_AGAIN: Duration = Duration::from_secs(5);

/// Entries are done: durably, then the channel acknowledges them. While the journal cannot be written this is
/// tried again and again, so that nothing stays unacknowledged once the disk is well.
pub(super) fn settle(core: &Arc<Core>, channel: &str, entries: Vec<String>, settled: Settled) {
    let again = Arc::clone(core);
    let channel = channel.to_owned();
    let record = Record::Done { e: entries.clone(), why: settled.why.clone() };
    core.journal.append_then(
        record,
        Box::new(move |durable| {
            match durable {
                Ok(()) => {}
                Err(JournalError::Closed) => return,
                Err(_) => {
                    let core = Arc::clone(&again);
                    again.timers.after(SETTLE_AGAIN, move || settle(&core, &channel, entries, settled));
                    return;
                }
            }
            let Some(channel) = again.channel(&channel) else { return };
            tell(&again, channel.as_ref(), &settled, entries);
        }),
    );
}

/// A message that is being sent, or a far side that does not know of an end yet, for whoever waits until there are none.
struct Untold(Arc<Core>);

impl Untold {
    fn new(core: &Arc<Core>) -> Self {
        *core.outbox.untold.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(Arc::clone(core))
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        *self.0.outbox.untold.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.outbox.all_told.notify_all();
    }
}

/// Tells a channel that messages are terminal. The journal remembers their entries until the far side knows of the ends
/// of their streams: nothing else would tell it after a crash. It asks by itself about what is not acknowledged.
pub(super) fn tell(core: &Arc<Core>, channel: &dyn Channel, settled: &Settled, entries: Vec<String>) {
    let untold = Untold::new(core);
    let told = move || {
        untold.0.journal.append_behind(Record::Acked { e: entries });
        drop(untold);
    };
    let call = || {
        if settled.streams.is_empty() {
            told();
        } else {
            channel.stream_end(&settled.streams, Box::new(told));
        }
        channel.settled(settled);
    };
    if catch_unwind(AssertUnwindSafe(call)).is_err() {
        log::error!("channel.panic in=settled channel={}", channel.id());
    }
}
