//! Live signs of a turn for its channel: typing, stream blocks, the thinking marker, the end of the stream.
//!
//! One thread per turn that has any sends them, in order, so that a slow channel never holds up the
//! runtime. Its queue is bounded at [`MAX_QUEUED`]: beyond that, deltas of text are merged, then `other`
//! and `system` blocks are dropped, and at last the oldest. Turns without signs have no thread.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ports::{Capabilities, Channel, StreamBlock};
use crate::message::{Block, BlockKind, Inbound, Phase, Status};

/// Blocks that may wait for a slow channel.
pub const MAX_QUEUED: usize = 256;
/// Typing is refreshed this often.
const TYPING_REFRESH: Duration = Duration::from_secs(4);
/// A ping is left out when the last one of the conversation is younger than this.
const TYPING_DEBOUNCE: Duration = Duration::from_secs(2);
/// Conversations whose last ping is remembered.
const TYPING_KEYS: usize = 1_024;

/// The signs of one turn.
pub(super) struct Signals {
    inner: Option<Arc<Inner>>,
}

struct Inner {
    channel: Arc<dyn Channel>,
    message: Arc<Inbound>,
    turn_id: String,
    typing: bool,
    stream: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<StreamBlock>,
    marker: Marker,
    next_seq: u64,
    typing: bool,
    started: bool,
    ended: bool,
}

/// When the synthetic thinking marker is due; pure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marker {
    active: bool,
    saw_text: bool,
}

impl Marker {
    /// An adapter's block is about to be forwarded; returns whether `started` goes before it.
    pub fn block(&mut self, kind: BlockKind) -> bool {
        if kind == BlockKind::AssistantText {
            *self = Self { active: false, saw_text: true };
            return false;
        }
        let due = !self.active && (!self.saw_text || kind == BlockKind::ToolUse);
        self.active |= due;
        due
    }

    /// The runtime itself says that it thinks; returns whether the marker is forwarded.
    pub fn status(&mut self, phase: Phase) -> bool {
        match phase {
            Phase::Started | Phase::Updated => {
                self.active = true;
                true
            }
            Phase::Stopped => std::mem::take(&mut self.active),
        }
    }

    /// The turn ends; returns whether `stopped` is forwarded.
    pub fn end(&mut self, superseded: bool) -> bool {
        std::mem::take(&mut self.active) && !superseded
    }
}

impl Signals {
    /// The signs that this message's turn gives; none for a channel without them.
    pub(super) fn new(
        channel: Option<Arc<dyn Channel>>,
        capabilities: Capabilities,
        message: &Arc<Inbound>,
        turn_id: &str,
    ) -> Self {
        let has_trace = message.trace.is_some();
        let streamable = message.streamable();
        let typing = capabilities.typing && has_trace && (streamable || !capabilities.gated);
        let stream = capabilities.blocks && streamable;
        let inner = channel.filter(|_| typing || stream).map(|channel| {
            Arc::new(Inner {
                channel,
                message: Arc::clone(message),
                turn_id: turn_id.to_owned(),
                typing,
                stream,
                state: Mutex::new(State { next_seq: 1, ..State::default() }),
                changed: Condvar::new(),
            })
        });
        Self { inner }
    }

    /// Before the run: the first typing ping.
    pub(super) fn begin(&self) {
        let Some(inner) = &self.inner else { return };
        {
            let mut state = inner.lock();
            if std::mem::replace(&mut state.started, true) {
                return;
            }
            state.typing = inner.typing;
        }
        let sender = Arc::clone(inner);
        let spawned =
            std::thread::Builder::new().name("signals".into()).stack_size(256 * 1024).spawn(move || sender.run());
        if let Err(e) = spawned {
            log::warn!("signals.thread_failed turn={} error={e}", inner.turn_id);
            inner.lock().ended = true;
        }
    }

    /// A block of the adapter.
    pub(super) fn block(&self, block: &Block) {
        let Some(inner) = self.inner.as_ref().filter(|i| i.stream) else { return };
        let mut state = inner.lock();
        if state.marker.block(block.kind) {
            inner.push(&mut state, BlockKind::Thinking, json!({"phase": "started", "source": "dispatcher"}));
        }
        inner.push(&mut state, block.kind, block.raw.clone());
    }

    /// A status event of the adapter.
    pub(super) fn status(&self, status: &Status) {
        let Some(inner) = &self.inner else { return };
        let mut state = inner.lock();
        match status {
            Status::Typing { phase: Phase::Started } => {
                // Starts the refresh where there is none; never an extra ping.
                state.typing |= inner.channel.capabilities().typing;
                inner.changed.notify_one();
            }
            Status::Thinking { phase, label } if inner.stream => {
                if state.marker.status(*phase) {
                    let mut raw = json!({"phase": phase, "source": "runtime"});
                    if let (Some(label), Value::Object(map)) = (label, &mut raw) {
                        map.insert("label".into(), label.clone().into());
                    }
                    inner.push(&mut state, BlockKind::Thinking, raw);
                }
            }
            Status::Typing { .. } | Status::Thinking { .. } => {}
        }
    }

    /// After the run: closes the marker and the stream. What is queued still goes out.
    pub(super) fn end(&self, superseded: bool) {
        let Some(inner) = &self.inner else { return };
        let mut state = inner.lock();
        if state.ended {
            return;
        }
        if state.marker.end(superseded) && inner.stream {
            inner.push(&mut state, BlockKind::Thinking, json!({"phase": "stopped", "source": "dispatcher"}));
        }
        state.ended = true;
        inner.changed.notify_one();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, state: &mut State, kind: BlockKind, raw: Value) {
        if state.ended || !state.started {
            return;
        }
        let block = StreamBlock {
            trace_id: self.message.trace.as_ref().map(|t| t.id.clone()).unwrap_or_default(),
            turn_id: self.turn_id.clone(),
            account_id: self.message.account_id.clone(),
            conversation_id: self.message.conversation.id.clone(),
            seq: state.next_seq,
            kind,
            raw,
        };
        state.next_seq += 1;
        state.queue.push_back(block);
        if state.queue.len() > MAX_QUEUED {
            shorten(&mut state.queue);
        }
        self.changed.notify_one();
    }

    fn run(&self) {
        let mut next_ping = Instant::now();
        loop {
            let mut state = self.lock();
            let block = loop {
                if let Some(block) = state.queue.pop_front() {
                    break Some(block);
                }
                if state.ended {
                    break None;
                }
                if state.typing {
                    let now = Instant::now();
                    if next_ping <= now {
                        next_ping = now + TYPING_REFRESH;
                        drop(state);
                        self.ping();
                        state = self.lock();
                        continue;
                    }
                    let wait = next_ping - now;
                    state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
                } else {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    next_ping = Instant::now() + TYPING_REFRESH;
                }
            };
            drop(state);
            match block {
                Some(block) => self.guarded("block", || self.channel.block(&block)),
                None => break,
            }
        }
        if self.stream {
            self.guarded("stream_end", || self.channel.stream_end(&self.message, &self.turn_id));
        }
    }

    fn ping(&self) {
        let key = format!("{}:{}", self.message.account_id, self.message.conversation.id);
        if recently_pinged(&key) {
            return;
        }
        self.guarded("typing", || self.channel.typing(&self.message));
    }

    fn guarded(&self, what: &str, call: impl FnOnce() -> Result<(), String>) {
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => log::warn!("signals.{what}_failed turn={} error={:?}", self.turn_id, crate::redact::text(&e)),
            Err(_) => log::error!("channel.panic in={what} channel={}", self.channel.id()),
        }
    }
}

/// Makes room in a full queue without changing the order of what stays.
fn shorten(queue: &mut VecDeque<StreamBlock>) {
    let quiet = |b: &StreamBlock| matches!(b.kind, BlockKind::Other | BlockKind::System);
    if let Some(at) = queue.iter().position(quiet) {
        queue.remove(at);
    } else {
        queue.pop_front();
    }
}

/// Whether the conversation was pinged a moment ago; if not, it counts as pinged now.
fn recently_pinged(key: &str) -> bool {
    static PINGS: Mutex<Vec<(String, Instant)>> = Mutex::new(Vec::new());
    let mut pings = PINGS.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    pings.retain(|(_, at)| now.duration_since(*at) < TYPING_DEBOUNCE);
    if pings.iter().any(|(k, _)| k == key) {
        return true;
    }
    if pings.len() >= TYPING_KEYS {
        pings.remove(0);
    }
    pings.push((key.to_owned(), now));
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds blocks (`t` text, `u` tool use, `s` system, `o` other) and runtime statuses (`+` started,
    /// `-` stopped); returns what is forwarded: `T` marker started, `R` marker of the runtime, `.` end.
    fn forwarded(feed: &str, superseded: bool) -> String {
        let mut marker = Marker::default();
        let mut out = String::new();
        for c in feed.chars() {
            let kind = match c {
                't' => BlockKind::AssistantText,
                'u' => BlockKind::ToolUse,
                's' => BlockKind::System,
                'o' => BlockKind::Other,
                '+' | '-' => {
                    let phase = if c == '+' { Phase::Started } else { Phase::Stopped };
                    if marker.status(phase) {
                        out.push(if c == '+' { 'R' } else { 'r' });
                    }
                    continue;
                }
                _ => unreachable!("the test's own letters"),
            };
            if marker.block(kind) {
                out.push('T');
            }
            out.push(c);
        }
        if marker.end(superseded) {
            out.push('.');
        }
        out
    }

    #[test]
    fn the_marker_opens_before_work_and_closes_after_it() {
        for (feed, expected) in [
            ("st", "Tst"),
            ("t", "t"),
            ("tu", "tTu."),
            ("+u", "Ru."),
            ("tso", "tso"),
            ("u-", "Tur"),
            ("-", ""),
            ("sso", "Tsso."),
        ] {
            assert_eq!(forwarded(feed, false), expected, "{feed}");
        }
        assert_eq!(forwarded("u", true), "Tu", "a superseded turn forwards nothing more");
    }
}
