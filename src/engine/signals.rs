//! Live signs of a turn for its channel: the reaction on the message that is answered, typing, stream blocks, the
//! thinking marker, the end of the stream.
//!
//! One thread per turn that has any sends them, in order, so that a slow channel never holds up the
//! runtime; see [`Stream`] for what waits. Turns without signs have no thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ports::{Capabilities, Channel, MessageStatus, StreamBlock};
use super::stream::{Next, Piece, Stream};
use super::typing::{Pings, TypingPace};
use super::{gate, replying};
use crate::message::{Block, BlockKind, Digest, Inbound, Phase, Status};
use crate::thread;

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
    /// The message that gets the reaction.
    reaction: Option<String>,
    pings: Arc<Pings>,
    pace: TypingPace,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    stream: Stream,
    marker: Marker,
    typing: bool,
    started: bool,
    /// A block is on its way.
    sending: bool,
    ended: bool,
    /// The thread that sends sleeps. It is woken then alone: to wake nobody is a call of the system, too.
    asleep: bool,
    /// Somebody waits until the blocks are out.
    flushing: bool,
}

impl State {
    fn push(&mut self, kind: BlockKind, raw: Value, digest: Digest) {
        if self.started && !self.ended {
            self.stream.push(kind, raw, digest, Instant::now());
        }
    }
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
    /// The signs that this message's turn gives; none for a channel without them. Blocks are numbered from the number
    /// after `seq`.
    pub(super) fn new(
        channel: Option<Arc<dyn Channel>>,
        message: &Arc<Inbound>,
        seq: u64,
        turn_id: &str,
        pings: &Arc<Pings>,
        pace: TypingPace,
    ) -> Self {
        let Some(channel) = channel else { return Self { inner: None } };
        let capabilities = channel.capabilities();
        let typing = capabilities.typing && gate::typing_is_shown(capabilities.gated, message);
        let stream = capabilities.blocks && message.streamable();
        let reaction = reaction(capabilities, message);
        if !typing && !stream && reaction.is_none() {
            return Self { inner: None };
        }
        let stream_pace = channel.stream_pace();
        let inner = Inner {
            channel,
            message: Arc::clone(message),
            turn_id: turn_id.to_owned(),
            typing,
            stream,
            reaction,
            pings: Arc::clone(pings),
            pace,
            state: Mutex::new(State {
                stream: Stream::new(stream_pace, seq),
                marker: Marker::default(),
                typing: false,
                started: false,
                sending: false,
                ended: false,
                asleep: false,
                flushing: false,
            }),
            changed: Condvar::new(),
        };
        Self { inner: Some(Arc::new(inner)) }
    }

    /// Before the run: the reaction and the first typing ping. Nothing waits for them.
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
        let spawned = thread::errand("signals", move || sender.run());
        if let Err(e) = spawned {
            log::warn!("signals.thread_failed turn={} error={e}", inner.turn_id);
            let mut state = inner.lock();
            // Nobody sends, so nobody is to wait for it.
            (state.started, state.ended) = (false, true);
        }
    }

    /// A block of the adapter.
    pub(super) fn block(&self, block: &Block) {
        let Some(inner) = self.inner.as_ref().filter(|i| i.stream) else { return };
        let mut state = inner.lock();
        if state.marker.block(block.kind) {
            let started = json!({"phase": "started", "source": "dispatcher"});
            state.push(BlockKind::Thinking, started, Digest::default());
        }
        state.push(block.kind, block.raw.clone(), block.digest.clone());
        inner.wake(state);
    }

    /// A status event of the adapter.
    pub(super) fn status(&self, status: &Status) {
        let Some(inner) = &self.inner else { return };
        let mut state = inner.lock();
        match status {
            Status::Typing { phase: Phase::Started } => {
                // Starts the refresh where there is none; never an extra ping.
                state.typing |= inner.typing;
                inner.wake(state);
            }
            Status::Thinking { phase, label } if inner.stream => {
                if state.marker.status(*phase) {
                    let mut raw = json!({"phase": phase, "source": "runtime"});
                    if let (Some(label), Value::Object(map)) = (label, &mut raw) {
                        map.insert("label".into(), label.clone().into());
                    }
                    state.push(BlockKind::Thinking, raw, Digest::default());
                    inner.wake(state);
                }
            }
            Status::Typing { .. } | Status::Thinking { .. } => {}
        }
    }

    /// After the run: closes the marker. What is queued still goes out, see [`Signals::flush`]; of a superseded turn
    /// nothing does.
    pub(super) fn end(&self, superseded: bool) {
        let Some(inner) = &self.inner else { return };
        let mut state = inner.lock();
        if state.ended {
            return;
        }
        if state.marker.end(superseded) && inner.stream && state.started {
            let stopped = json!({"phase": "stopped", "source": "dispatcher"});
            state.stream.push_last(BlockKind::Thinking, stopped, Instant::now());
        }
        if superseded {
            state.stream.clear();
        }
        state.ended = true;
        inner.wake(state);
    }

    /// After [`Signals::end`], before the reply or the end of the stream: waits until the blocks are out, at most for
    /// `limit`. What is not out by then is dropped, since nobody reads it behind them.
    pub(super) fn flush(&self, limit: Duration) {
        let Some(inner) = self.inner.as_ref().filter(|i| i.stream) else { return };
        let end = Instant::now() + limit;
        let mut state = inner.lock();
        state.flushing = true;
        while state.started && (state.sending || !state.stream.is_empty()) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                log::warn!("signals.late turn={} limit_ms={}", inner.turn_id, limit.as_millis());
                state.stream.clear();
                return;
            }
            state = inner.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has changed for the thread that sends.
    fn wake(&self, state: MutexGuard<'_, State>) {
        let asleep = state.asleep;
        drop(state);
        if asleep {
            self.changed.notify_all();
        }
    }

    fn run(&self) {
        self.react(true);
        // On a busy machine the turn may be over by now.
        if self.typing && !self.lock().ended {
            self.ping();
        }
        let mut next_ping = Instant::now() + self.pace.refresh;
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let ended = state.ended;
            let more = match state.stream.next(now, ended) {
                Next::Send(seq, piece) => {
                    state.sending = true;
                    drop(state);
                    self.send(seq, piece);
                    state = self.lock();
                    state.sending = false;
                    if state.flushing && state.stream.is_empty() {
                        self.changed.notify_all();
                    }
                    continue;
                }
                Next::Nothing if ended => {
                    // What was left may have been more than the far side takes: nobody waits for that.
                    self.changed.notify_all();
                    break;
                }
                Next::Nothing => None,
                Next::Wait(until) => Some(until),
            };
            if !state.typing {
                next_ping = now + self.pace.refresh;
            } else if next_ping <= now {
                next_ping = now + self.pace.refresh;
                drop(state);
                self.ping();
                state = self.lock();
                continue;
            }
            let until = [more, Some(next_ping).filter(|_| state.typing)].into_iter().flatten().min();
            state.asleep = true;
            state = match until {
                Some(at) => self.changed.wait_timeout(state, at - now).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.asleep = false;
        }
        drop(state);
        self.react(false);
    }

    fn send(&self, seq: u64, piece: Piece) {
        let block = StreamBlock {
            trace_id: self.message.trace.as_ref().map(|t| t.id.clone()).unwrap_or_default(),
            turn_id: self.turn_id.clone(),
            account_id: self.message.account_id.clone(),
            conversation_id: self.message.conversation.id.clone(),
            seq,
            kind: piece.kind,
            raw: piece.raw,
            digest: piece.digest,
        };
        self.guarded("block", || self.channel.block(&block));
    }

    /// Puts the reaction on, or takes it off.
    fn react(&self, started: bool) {
        let Some(message_id) = &self.reaction else { return };
        let status = MessageStatus {
            trace_id: self.message.trace.as_ref().map(|t| t.id.clone()),
            account_id: self.message.account_id.clone(),
            conversation_id: self.message.conversation.id.clone(),
            message_id: message_id.clone(),
            turn_id: self.turn_id.clone(),
            started,
        };
        self.guarded("status", || self.channel.message_status(&status));
    }

    fn ping(&self) {
        let key = format!("{}:{}", self.message.account_id, self.message.conversation.id);
        if self.pings.may_ping(&key, self.pace.debounce) {
            self.guarded("typing", || self.channel.typing(&self.message));
        }
    }

    fn guarded(&self, what: &str, call: impl FnOnce() -> Result<(), String>) {
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => log::warn!("signals.{what}_failed turn={} error={:?}", self.turn_id, crate::redact::text(&e)),
            Err(_) => log::error!("channel.panic in={what} channel={}", self.channel.id()),
        }
    }
}

/// The message that gets a reaction: in shared rooms, when it asks something of the agent.
fn reaction(capabilities: Capabilities, message: &Inbound) -> Option<String> {
    let shown =
        capabilities.message_status && capabilities.gated && !message.is_owner_chat() && replying::is_shown(message);
    replying::target(message).filter(|_| shown).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::ports::Delivery;
    use super::super::stream::StreamPace;
    use super::*;
    use crate::message::{Outbound, document};

    /// A far side that takes two blocks of a turn, of which none is reserved, and remembers them.
    #[derive(Default)]
    struct Far(Mutex<Vec<u64>>);

    impl Channel for Far {
        fn id(&self) -> &'static str {
            "far"
        }

        fn kind(&self) -> &'static str {
            "far"
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities { typing: false, blocks: true, message_status: false, coalesce: false, gated: false }
        }

        fn send(&self, _: &Outbound) -> Delivery {
            Delivery::Permanent { why: "this one only looks".into() }
        }

        fn stream_pace(&self) -> StreamPace {
            StreamPace { most: 2, reserve: 0, ..StreamPace::default() }
        }

        fn block(&self, block: &StreamBlock) -> Result<(), String> {
            self.0.lock().unwrap().push(block.seq);
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_blocks_that_the_far_side_does_not_take() {
        let message: Inbound = document::parse(&json!({
            "id": "h_1", "channel": "far", "accountId": "ag_1", "sender": {"id": "ag_1", "kind": "user"},
            "conversation": {"id": "rm_oc_1", "kind": "direct"}, "text": "hi", "receivedAt": 0,
            "trace": {"id": "h_1", "streamable": true},
        }))
        .unwrap();
        let far = Arc::new(Far::default());
        for turn in 0..20 {
            let channel: Arc<dyn Channel> = far.clone();
            let signals = Signals::new(
                Some(channel),
                &Arc::new(message.clone()),
                turn * 10,
                "t",
                &Arc::default(),
                TypingPace::default(),
            );
            signals.begin();
            for (seq, text) in (1..).zip(["one", "two", "three", "four"]) {
                let raw = json!({"text": text});
                signals.block(&Block { seq, kind: BlockKind::AssistantText, raw, digest: Digest::default() });
            }
            signals.end(false);
            // Longer than anybody waits for this test.
            signals.flush(Duration::from_hours(24));
            let seen = std::mem::take(&mut *far.0.lock().unwrap());
            assert_eq!(seen, [turn * 10 + 1, turn * 10 + 2]);
        }
    }

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
