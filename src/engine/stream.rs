//! The blocks of a turn on their way to its channel: gathered, numbered, bounded. Pure; the caller has the clock and
//! sends.
//!
//! Far sides take only so many blocks of a turn, and a slow one must not hold up the runtime. So words that follow one
//! another are put together, a full queue drops what says least, and near the end of the allowance only calls of tools
//! go out, and the mark that the thinking is over.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::message::{BlockKind, Digest};

/// How a far side wants the blocks of a turn. The default is every block as it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPace {
    /// Words that follow one another are gathered for so long.
    pub gather: Duration,
    /// Or until they are so many bytes.
    pub gather_bytes: usize,
    /// Blocks that may wait.
    pub queue: usize,
    /// Blocks of one turn.
    pub most: u64,
    /// How many of them are kept for calls of tools and, the last one, for the end.
    pub reserve: u64,
}

impl Default for StreamPace {
    fn default() -> Self {
        Self { gather: Duration::ZERO, gather_bytes: 0, queue: 256, most: u64::MAX, reserve: 1 }
    }
}

/// A block that waits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) kind: BlockKind,
    pub(super) raw: Value,
    pub(super) digest: Digest,
    /// The turn's last word.
    is_last: bool,
    due: Instant,
}

/// What is to be done now.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Send this, under this number.
    Send(u64, Piece),
    /// More may come to what waits until then.
    Wait(Instant),
    /// Nothing waits.
    Nothing,
}

/// The blocks of one turn.
#[derive(Debug)]
pub(super) struct Stream {
    pace: StreamPace,
    queue: VecDeque<Piece>,
    /// Number of the last block that went out.
    seq: u64,
    sent: u64,
    /// When words went out last.
    spoke: Option<Instant>,
}

impl Stream {
    /// A stream whose blocks are numbered from the number after `seq`.
    pub(super) fn new(pace: StreamPace, seq: u64) -> Self {
        Self { pace, queue: VecDeque::new(), seq, sent: 0, spoke: None }
    }

    /// Takes a block.
    pub(super) fn push(&mut self, kind: BlockKind, raw: Value, digest: Digest, now: Instant) {
        if kind == BlockKind::AssistantText
            && let (Some(text), Some(last)) = (&digest.text, self.queue.back_mut())
            && let (BlockKind::AssistantText, Some(words)) = (last.kind, &mut last.digest.text)
            && words.len() + text.len() <= self.pace.gather_bytes
        {
            words.push_str(text);
            return;
        }
        // The first words are shown at once.
        let gathers = kind == BlockKind::AssistantText && digest.text.is_some();
        let due = self.spoke.filter(|_| gathers).map_or(now, |at| now.max(at + self.pace.gather));
        self.queue.push_back(Piece { kind, raw, digest, is_last: false, due });
        if self.queue.len() > self.pace.queue {
            self.shorten();
        }
    }

    /// Takes the turn's last block.
    pub(super) fn push_last(&mut self, kind: BlockKind, raw: Value, now: Instant) {
        self.queue.push_back(Piece { kind, raw, digest: Digest::default(), is_last: true, due: now });
    }

    /// What is to be done; with `hurry` nothing waits for more.
    pub(super) fn next(&mut self, now: Instant, hurry: bool) -> Next {
        while let Some(first) = self.queue.front() {
            let full = first.digest.text.as_ref().is_some_and(|t| t.len() >= self.pace.gather_bytes);
            if !hurry && self.queue.len() == 1 && first.due > now && !full {
                return Next::Wait(first.due);
            }
            let Some(piece) = self.queue.pop_front() else { break };
            if !self.may_send(&piece) {
                continue;
            }
            if piece.kind == BlockKind::AssistantText {
                self.spoke = Some(now);
            }
            self.sent += 1;
            self.seq += 1;
            return Next::Send(self.seq, piece);
        }
        Next::Nothing
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Drops what waits.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }

    fn may_send(&self, piece: &Piece) -> bool {
        let left = self.pace.most.saturating_sub(self.sent);
        match piece.kind {
            _ if piece.is_last => left > 0,
            BlockKind::ToolUse => left > 1,
            _ => left > self.pace.reserve,
        }
    }

    /// Makes room without changing the order of what stays: what says least goes first.
    fn shorten(&mut self) {
        let quiet = |p: &Piece| matches!(p.kind, BlockKind::Other | BlockKind::System);
        let dull = |p: &Piece| matches!(p.kind, BlockKind::Thinking | BlockKind::ToolResult);
        let at = self.queue.iter().position(quiet).or_else(|| self.queue.iter().position(dull));
        self.queue.remove(at.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: StreamPace =
        StreamPace { gather: Duration::from_millis(250), gather_bytes: 8, queue: 4, most: 6, reserve: 3 };

    fn words(text: &str) -> Digest {
        Digest { text: Some(text.to_owned()), ..Digest::default() }
    }

    fn say(stream: &mut Stream, text: &str, now: Instant) {
        stream.push(BlockKind::AssistantText, Value::Null, words(text), now);
    }

    fn take(stream: &mut Stream, now: Instant, hurry: bool) -> Option<(u64, String)> {
        match stream.next(now, hurry) {
            Next::Send(seq, piece) => Some((seq, piece.digest.text.unwrap_or_else(|| piece.kind.as_str().to_owned()))),
            _ => None,
        }
    }

    #[test]
    fn words_are_shown_at_once_and_gathered_then() {
        let (mut stream, start) = (Stream::new(PACE, 0), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        say(&mut stream, "a", start);
        assert_eq!(take(&mut stream, start, false), Some((1, "a".into())));
        say(&mut stream, "b", after(10));
        assert_eq!(stream.next(after(10), false), Next::Wait(after(250)));
        say(&mut stream, "c", after(20));
        assert_eq!(take(&mut stream, after(249), false), None);
        assert_eq!(take(&mut stream, after(250), false), Some((2, "bc".into())));
        assert_eq!(stream.next(after(250), false), Next::Nothing);
    }

    #[test]
    fn gathering_ends_with_its_bytes_with_another_block_and_with_the_turn() {
        let (mut stream, start) = (Stream::new(PACE, 0), Instant::now());
        say(&mut stream, "a", start);
        take(&mut stream, start, false);
        for text in ["1234", "5678", "9"] {
            say(&mut stream, text, start);
        }
        assert_eq!(take(&mut stream, start, false), Some((2, "12345678".into())));
        assert_eq!(take(&mut stream, start, false), None);
        stream.push(BlockKind::ToolUse, Value::Null, Digest::default(), start);
        assert_eq!(take(&mut stream, start, false), Some((3, "9".into())));
        assert_eq!(take(&mut stream, start, false), Some((4, "tool_use".into())));
        say(&mut stream, "z", start);
        assert_eq!(take(&mut stream, start, true).map(|(_, t)| t), None, "only calls are left");
    }

    #[test]
    fn near_the_end_only_calls_go_out_and_the_last_word() {
        let (mut stream, now) = (Stream::new(PACE, 100), Instant::now());
        let mut kinds = Vec::new();
        for kind in ["s", "s", "s", "s", "t", "s", "t", "t", "t"] {
            let kind = if kind == "s" { BlockKind::System } else { BlockKind::ToolUse };
            stream.push(kind, Value::Null, Digest::default(), now);
            while let Some((seq, kind)) = take(&mut stream, now, false) {
                kinds.push((seq, kind));
            }
        }
        stream.push_last(BlockKind::Thinking, Value::Null, now);
        kinds.extend(take(&mut stream, now, false));
        stream.push_last(BlockKind::Thinking, Value::Null, now);
        assert_eq!(stream.next(now, false), Next::Nothing, "no more than are allowed");
        let kinds: Vec<_> = kinds.iter().map(|(seq, kind)| (*seq, kind.as_str())).collect();
        let expected = [
            (101, "system"),
            (102, "system"),
            (103, "system"),
            (104, "tool_use"),
            (105, "tool_use"),
            (106, "thinking"),
        ];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn a_full_queue_drops_what_says_least() {
        use BlockKind::{AssistantText, Other, ToolResult, ToolUse};
        let (mut stream, now) = (Stream::new(PACE, 0), Instant::now());
        for kind in [AssistantText, Other, ToolUse, ToolResult, ToolUse, ToolUse, ToolUse] {
            stream.push(kind, Value::Null, Digest::default(), now);
        }
        let left: Vec<_> = stream.queue.iter().map(|p| p.kind).collect();
        assert_eq!(left, [ToolUse; 4]);
    }
}
