//! Remembers the progress of messages, so that it can be watched from the beginning.
//!
//! [`Follow`] sits on the turns' threads as a [`TurnObserver`]. It takes a lock for moments, writes nothing
//! to any socket and waits for nobody: whoever watches has a place in the memory and reads at a pace of its
//! own. What it falls behind on is thinned out before its eyes, not kept for it. A finished message that nobody watches
//! is kept as text ([`frozen`]).
//!
//! Numbers of events grow over all messages and begin at the milliseconds since 1970 times 1 024, so that a
//! number given before a restart is below all that come after it (and all are exact in a double).

mod frozen;

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{EventfdFlags, eventfd};

use super::wire::{BlockView, Event, MessageState, Question, Queued, Started, State};
use crate::engine::ports::{TurnEvent, TurnObserver, TurnReport};
use crate::message::{BlockKind, Inbound};
use crate::text;

/// The channel whose messages are known by their bare ids.
pub const LOCAL: &str = "local";

/// Most of the reply that a remembered report keeps, in UTF-16 units. The journal and the room have it whole.
pub const REPLY_LIMIT: usize = 1 << 20;

/// Longest text of one remembered block, in bytes; longer ones become several.
const TEXT_LIMIT: usize = 64 << 10;

/// Most status events that survive thinning.
const STATUSES_KEPT: usize = 8;

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Events per message. When full, status events go first, then pieces of text are joined, then the oldest
    /// blocks go (default 1 024).
    pub events: usize,
    /// Bytes per message, without its report; beyond them the oldest blocks go (default 1 MiB).
    pub message_bytes: usize,
    /// Messages. Beyond them finished ones are forgotten, oldest first, then the oldest others (default 4 096).
    pub messages: usize,
    /// Bytes in all, with the same order of forgetting (default 16 MiB).
    pub bytes: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { events: 1024, message_bytes: 1 << 20, messages: 4096, bytes: 16 << 20 }
    }
}

/// The name under which a message is watched: its id, with the channel before it when that is not the local one.
pub fn watch_key(channel: &str, id: &str) -> String {
    if channel == LOCAL { id.to_owned() } else { format!("{channel}:{id}") }
}

/// The memory of progress. Share it as an `Arc`.
pub struct Follow {
    limits: Memory,
    state: Mutex<Logs>,
}

#[derive(Default)]
struct Logs {
    by_key: HashMap<String, Log>,
    /// Finished ones in the order of finishing, with [`Log::serial`] to recognise entries that are out of date.
    finished: VecDeque<(String, u64)>,
    bytes: usize,
    /// The last number given.
    number: u64,
}

/// The events of one message.
#[derive(Default)]
struct Log {
    events: VecDeque<Entry>,
    /// In place of the events, once it is finished and nobody watches.
    frozen: Option<Box<str>>,
    bytes: usize,
    state: Progress,
    /// Number of the event that made it finished, or that began it.
    serial: u64,
    watchers: Vec<Arc<OwnedFd>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Waiting,
    Running,
    Finished,
}

struct Entry {
    number: u64,
    event: Arc<Event>,
    size: usize,
    /// Of joined text: the number of each piece and where it ends.
    pieces: Vec<(u64, u32)>,
}

impl Default for Follow {
    fn default() -> Self {
        Self::with_limits(Memory::default())
    }
}

impl Follow {
    /// A memory with other limits than the default ones.
    pub fn with_limits(limits: Memory) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        Self { limits, state: Mutex::new(Logs { number: now << 10, ..Logs::default() }) }
    }

    /// Watches a message from the first event after number `after`. `None` when nothing is remembered of it,
    /// unless it is `expected`: known to be on its way.
    pub fn subscribe(self: &Arc<Self>, key: &str, after: u64, expected: bool) -> std::io::Result<Option<Subscription>> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let mut state = self.lock();
        // A number that was never given comes from a daemon whose clock was ahead: show everything.
        let cursor = if after > state.number { 0 } else { after };
        if expected && !state.by_key.contains_key(key) {
            let serial = state.number;
            state.by_key.insert(key.to_owned(), Log { serial, ..Log::default() });
            state.forget(&self.limits);
        }
        let Some(log) = state.by_key.get_mut(key) else { return Ok(None) };
        log.watchers.push(Arc::clone(&wake));
        let grown = log.thaw();
        state.bytes += grown;
        Ok(Some(Subscription { follow: Arc::clone(self), key: key.to_owned(), wake, cursor }))
    }

    /// What is remembered of a message's state; `None` when nothing is.
    pub fn message_state(&self, key: &str) -> Option<MessageState> {
        let state = self.lock();
        let log = state.by_key.get(key).filter(|log| !log.is_empty())?;
        let mut answer = MessageState::new(
            key,
            match log.state {
                Progress::Waiting => State::Waiting,
                Progress::Running => State::Running,
                Progress::Finished => State::Done,
            },
        );
        let thawed = log.frozen.as_deref().and_then(frozen::last);
        if let Some(Event::Finished(report)) = log.events.back().or(thawed.as_ref()).map(|entry| &*entry.event) {
            answer.report = Some((**report).clone());
        }
        Some(answer)
    }

    /// Forgets a message and ends the subscriptions to it.
    pub fn forget(&self, key: &str) {
        self.lock().remove(key);
    }

    /// A fresh number for an event that is not remembered.
    pub fn number(&self) -> u64 {
        let mut state = self.lock();
        state.number += 1;
        state.number
    }

    fn lock(&self) -> MutexGuard<'_, Logs> {
        // Every change leaves the state whole, so a panic elsewhere under the lock does no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, keys: &[String], event: Event) {
        let event = Arc::new(event);
        let mut state = self.lock();
        for key in keys {
            state.push(key, &event, &self.limits);
        }
    }
}

impl TurnObserver for Follow {
    fn event(&self, event: &TurnEvent<'_>) {
        match event {
            TurnEvent::Queued { message, ahead } => {
                self.push(&keys(message, None), Event::Queued(Queued { ahead: *ahead }));
            }
            TurnEvent::Started { message, turn_id, runtime, attempt } => {
                let (turn_id, runtime) = ((*turn_id).to_owned(), (*runtime).to_owned());
                self.push(&keys(message, None), Event::Started(Started { turn_id, runtime, attempt: *attempt }));
            }
            TurnEvent::OwnWords { .. } => {}
            TurnEvent::Block { message, block, .. } => {
                let keys = keys(message, None);
                for view in parts(BlockView::from(*block)) {
                    self.push(&keys, Event::Block(view));
                }
            }
            TurnEvent::Status { message, status, .. } => {
                self.push(&keys(message, None), Event::Status((*status).clone()));
            }
            TurnEvent::Approval { message, question } => {
                let question = Question {
                    id: question.id.clone(),
                    tool: text::clip(&question.tool, 200),
                    summary: text::clip(&question.summary, 200),
                    expires_at: question.expires_at,
                };
                self.push(&keys(message, None), Event::Approval(question));
            }
            TurnEvent::Finished { message, report } => {
                let mut kept = (*report).clone();
                kept.reply = kept.reply.map(|reply| text::clip(&reply, REPLY_LIMIT));
                self.push(&keys(message, Some(report)), Event::Finished(Box::new(kept)));
            }
        }
    }
}

/// Every name under which somebody may watch the message: of a merged one, all that it consists of.
fn keys(message: &Inbound, report: Option<&TurnReport>) -> Vec<String> {
    let mut keys = vec![watch_key(&message.channel, &message.id)];
    let parts = message.entries.iter().map(|entry| watch_key(&message.channel, &entry.id));
    let reported = report.into_iter().flat_map(|r| r.message_ids.iter().map(|id| watch_key(&r.channel, id)));
    for key in parts.chain(reported) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// The block in pieces of at most [`TEXT_LIMIT`] bytes of text.
fn parts(mut view: BlockView) -> Vec<BlockView> {
    view.tool = view.tool.map(|tool| text::clip(&tool, 200));
    view.summary = view.summary.map(|summary| text::clip(&summary, 200));
    let Some(text) = view.text.take_if(|text| text.len() > TEXT_LIMIT) else { return vec![view] };
    let mut rest = text.as_str();
    let mut views = Vec::new();
    while !rest.is_empty() {
        let cut = (0..=TEXT_LIMIT.min(rest.len())).rev().find(|&at| rest.is_char_boundary(at)).unwrap_or_default();
        let (piece, after) = rest.split_at(cut);
        views.push(BlockView { text: Some(piece.to_owned()), ..view.clone() });
        rest = after;
    }
    views
}

impl Logs {
    fn push(&mut self, key: &str, event: &Arc<Event>, limits: &Memory) {
        self.number += 1;
        let number = self.number;
        let log = match self.by_key.get_mut(key) {
            Some(log) => log,
            None => self.by_key.entry(key.to_owned()).or_insert_with(|| Log { serial: number, ..Log::default() }),
        };
        self.bytes -= log.bytes;
        if log.state == Progress::Finished {
            // The same id again, after its turn: a story of its own.
            log.events.clear();
            log.frozen = None;
            log.bytes = 0;
            log.serial = number;
        }
        log.state = match **event {
            Event::Queued(_) => Progress::Waiting,
            Event::Finished(_) => Progress::Finished,
            _ => Progress::Running,
        };
        let size = size_of_event(event);
        log.bytes += size;
        log.events.push_back(Entry { number, event: Arc::clone(event), size, pieces: Vec::new() });
        let report = if log.state == Progress::Finished { size } else { 0 };
        if log.events.len() > limits.events || log.bytes - report > limits.message_bytes {
            log.thin(limits.events / 4 * 3, limits.message_bytes / 4 * 3 + report);
        }
        log.freeze();
        self.bytes += log.bytes;
        if log.state == Progress::Finished {
            log.serial = number;
            self.finished.push_back((key.to_owned(), number));
        }
        for watcher in &log.watchers {
            // It can only fail when the counter is full, and then the watcher is awake.
            let _ = rustix::io::write(watcher, &1u64.to_ne_bytes());
        }
        if self.finished.len() > 2 * limits.messages {
            // Ids that finished again and again leave entries that mean nothing any more.
            let by_key = &self.by_key;
            self.finished.retain(|(key, serial)| by_key.get(key).is_some_and(|log| log.serial == *serial));
        }
        self.forget(limits);
    }

    /// Makes room until the limits of the whole hold.
    fn forget(&mut self, limits: &Memory) {
        while self.by_key.len() > limits.messages || self.bytes > limits.bytes {
            if let Some((key, serial)) = self.finished.pop_front() {
                if self.by_key.get(&key).is_some_and(|log| log.state == Progress::Finished && log.serial == serial) {
                    self.remove(&key);
                }
                continue;
            }
            let oldest = self.by_key.iter().min_by_key(|(_, log)| (!log.watchers.is_empty(), log.serial));
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { return };
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &str) {
        let Some(log) = self.by_key.remove(key) else { return };
        self.bytes -= log.bytes;
        for watcher in &log.watchers {
            let _ = rustix::io::write(watcher, &1u64.to_ne_bytes());
        }
    }
}

impl Log {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.frozen.is_none()
    }

    /// Makes text of the events, if nothing more comes and nobody watches.
    fn freeze(&mut self) {
        if self.state != Progress::Finished || !self.watchers.is_empty() || self.events.is_empty() {
            return;
        }
        if let Some(text) = frozen::freeze(&self.events) {
            self.bytes = text.len() + size_of::<Self>();
            self.events = VecDeque::new();
            self.watchers = Vec::new();
            self.frozen = Some(text);
        }
    }

    /// Makes events of the text again; returns by how many bytes this is more.
    fn thaw(&mut self) -> usize {
        let Some(text) = self.frozen.take() else { return 0 };
        let before = self.bytes;
        self.events = frozen::thaw(&text);
        self.bytes = self.events.iter().map(|entry| entry.size).sum::<usize>().max(before);
        self.bytes - before
    }

    /// Brings the log below `most` events and `bytes` bytes: old status events go, pieces of text that follow
    /// each other are joined, and if that is not enough the oldest blocks go.
    fn thin(&mut self, most: usize, bytes: usize) {
        let statuses = self.events.iter().filter(|e| matches!(*e.event, Event::Status(_))).count();
        let mut old = statuses.saturating_sub(STATUSES_KEPT.min(most / 8));
        let mut kept: VecDeque<Entry> = VecDeque::with_capacity(self.events.len());
        for entry in self.events.drain(..) {
            if old > 0 && matches!(*entry.event, Event::Status(_)) {
                old -= 1;
                continue;
            }
            match kept.back_mut() {
                Some(last) if joins(&last.event, &entry.event) => last.join(entry),
                _ => kept.push_back(entry),
            }
        }
        self.bytes = kept.iter().map(|e| e.size).sum();
        let mut count = kept.len();
        kept.retain(|entry| {
            let block = matches!(*entry.event, Event::Block(_) | Event::Status(_) | Event::Approval(_));
            let drop = block && (count > most || self.bytes > bytes);
            if drop {
                count -= 1;
                self.bytes -= entry.size;
            }
            !drop
        });
        // What is left are starts: more of them than the limit would mean a turn that starts for ever.
        while kept.len() > most {
            self.bytes -= kept.pop_front().map_or(0, |entry| entry.size);
        }
        self.events = kept;
    }

    /// The first event after `cursor`; of joined text only what comes after it.
    fn after(&self, cursor: u64) -> Option<(u64, Arc<Event>)> {
        let at = self.events.partition_point(|entry| entry.number <= cursor);
        let entry = self.events.get(at)?;
        let seen = entry.pieces.iter().take_while(|(number, _)| *number <= cursor).last();
        if let (Some((_, end)), Event::Block(view)) = (seen, &*entry.event) {
            let rest = view.text.as_deref().and_then(|text| text.get(*end as usize..));
            let view = BlockView { text: rest.map(str::to_owned), ..view.clone() };
            return Some((entry.number, Arc::new(Event::Block(view))));
        }
        Some((entry.number, Arc::clone(&entry.event)))
    }
}

fn text_of(event: &Event) -> Option<&str> {
    match event {
        Event::Block(view) if view.kind == BlockKind::AssistantText => view.text.as_deref(),
        _ => None,
    }
}

fn joins(first: &Event, second: &Event) -> bool {
    matches!((text_of(first), text_of(second)), (Some(a), Some(b)) if a.len() + b.len() <= TEXT_LIMIT)
}

impl Entry {
    /// Appends the text of an entry that [`joins`].
    fn join(&mut self, next: Entry) {
        let (Some(first), Some(second)) = (text_of(&self.event), text_of(&next.event)) else { return };
        let start = first.len() as u32;
        if self.pieces.is_empty() {
            self.pieces.push((self.number, start));
        }
        if next.pieces.is_empty() {
            self.pieces.push((next.number, start + second.len() as u32));
        } else {
            self.pieces.extend(next.pieces.iter().map(|(number, end)| (*number, start + end)));
        }
        let second = second.to_owned();
        if let Event::Block(next_view) = &*next.event
            && let Event::Block(view) = Arc::make_mut(&mut self.event)
        {
            view.seq = next_view.seq;
            view.text.get_or_insert_default().push_str(&second);
        }
        self.number = next.number;
        self.size = size_of_event(&self.event) + self.pieces.len() * size_of::<(u64, u32)>();
    }
}

/// About how much memory an event takes, in bytes.
fn size_of_event(event: &Event) -> usize {
    let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let content = match event {
        Event::Queued(_) | Event::Status(_) => 32,
        Event::Started(started) => started.turn_id.len() + started.runtime.len(),
        Event::Block(view) => len(&view.text) + len(&view.tool) + len(&view.summary),
        Event::Approval(request) => request.id.len() + request.tool.len() + request.summary.len(),
        Event::Finished(report) => {
            let error = report.error.as_ref().map_or(0, |e| e.message.len());
            512 + len(&report.reply) + error + report.message_ids.iter().map(|id| id.len() + 24).sum::<usize>()
        }
    };
    content + size_of::<Entry>() + size_of::<Event>()
}

/// What comes next for a watcher.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// An event and its number.
    Event(u64, Arc<Event>),
    /// Nothing yet; the subscription's descriptor becomes readable when there is.
    Nothing,
    /// All was seen, or the message was forgotten: nothing comes any more.
    Over,
}

/// A watcher's place in the events of one message. As a descriptor it is readable when there may be news.
pub struct Subscription {
    follow: Arc<Follow>,
    key: String,
    wake: Arc<OwnedFd>,
    cursor: u64,
}

impl Subscription {
    /// The next event. Never waits.
    pub fn next_event(&mut self) -> Next {
        // First the wake-up, then the look: news that come in between wake again.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        let state = self.follow.lock();
        let Some(log) = state.by_key.get(&self.key) else { return Next::Over };
        if let Some((number, event)) = log.after(self.cursor) {
            self.cursor = number;
            return Next::Event(number, event);
        }
        if log.state == Progress::Finished { Next::Over } else { Next::Nothing }
    }
}

impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.follow.lock();
        let Some(log) = state.by_key.get_mut(&self.key) else { return };
        log.watchers.retain(|watcher| !Arc::ptr_eq(watcher, &self.wake));
        if log.watchers.is_empty() && log.is_empty() {
            state.by_key.remove(&self.key);
            return;
        }
        let before = log.bytes;
        log.freeze();
        let after = log.bytes;
        state.bytes = state.bytes - before + after;
    }
}
