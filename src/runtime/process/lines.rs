//! Splits a byte stream into lines, however the bytes are cut into chunks.
//!
//! Bounded: a line of more than [`MAX_LINE`] bytes is skipped whole and counted, so that a CLI that never
//! prints a newline costs at most that much memory.

use std::borrow::Cow;
use std::io::BufRead;
use std::ops::{ControlFlow, Range};

use crate::text;

/// Longest line that is handed on, in bytes without its newline.
pub(super) const MAX_LINE: usize = 16 * 1024 * 1024;

/// A buffer that has grown beyond this is given back as soon as it is empty.
const KEEP_CAPACITY: usize = 256 * 1024;

/// Bytes that have come and are not handed on yet. Holds at most one unfinished line and one chunk, as long
/// as [`Lines::for_each`] runs to its end between two calls of [`Lines::push`].
pub(super) struct Lines {
    limit: usize,
    buf: Vec<u8>,
    /// Where the current line begins.
    start: usize,
    /// Up to where there is no newline; keeps a long line that comes in small pieces linear.
    scanned: usize,
    /// Inside a line that is too long, before its newline.
    skipping: bool,
    skipped: u64,
    ended: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self::with_limit(MAX_LINE)
    }
}

impl Lines {
    fn with_limit(limit: usize) -> Self {
        Self { limit, buf: Vec::new(), start: 0, scanned: 0, skipping: false, skipped: 0, ended: false }
    }

    /// Takes the next chunk of the stream.
    pub(super) fn push(&mut self, mut chunk: &[u8]) {
        if self.skipping {
            let Some(at) = newline(chunk) else { return };
            self.skipping = false;
            chunk = &chunk[at + 1..];
        }
        self.buf.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        self.buf.extend_from_slice(chunk);
    }

    /// The stream has ended: what is left is the last line.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Lines that were too long so far.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Hands on every complete line, trimmed, invalid UTF-8 replaced, empty ones left out. When `each`
    /// breaks, the remaining lines stay for the next call.
    pub(super) fn for_each(&mut self, mut each: impl FnMut(&str) -> ControlFlow<()>) {
        while let Some(range) = self.next_range() {
            if range.len() > self.limit {
                self.skipped += 1;
                continue;
            }
            let line = decode(&self.buf[range]);
            let line = text::trim(&line);
            if !line.is_empty() && each(line).is_break() {
                return;
            }
        }
    }

    /// Bytes of the next line in `buf`, without its newline.
    fn next_range(&mut self) -> Option<Range<usize>> {
        let start = self.start;
        if let Some(at) = newline(&self.buf[self.scanned..]) {
            let end = self.scanned + at;
            self.start = end + 1;
            self.scanned = end + 1;
            return Some(start..end);
        }
        let end = self.buf.len();
        self.scanned = end;
        if self.ended && start < end {
            self.start = end;
            return Some(start..end);
        }
        if end - start > self.limit {
            self.skipped += 1;
            self.skipping = true;
            self.start = end;
        }
        if self.start == end {
            self.clear();
        }
        None
    }

    fn clear(&mut self) {
        self.start = 0;
        self.scanned = 0;
        self.buf.clear();
        if self.buf.capacity() > KEEP_CAPACITY {
            self.buf = Vec::new();
        }
    }
}

fn decode(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes.trim_ascii())
}

/// Position of the first newline. `skip_until` is the standard library's way to its `memchr`.
fn newline(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    // Reading from a slice cannot fail.
    let read = rest.skip_until(b'\n').unwrap_or(0);
    let at = read.checked_sub(1)?;
    (bytes.get(at) == Some(&b'\n')).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(limit: usize, chunks: &[&[u8]]) -> (Vec<String>, u64) {
        let mut lines = Lines::with_limit(limit);
        let mut found = Vec::new();
        let mut take = |lines: &mut Lines| {
            lines.for_each(|line| {
                found.push(line.to_owned());
                ControlFlow::Continue(())
            });
        };
        for chunk in chunks {
            lines.push(chunk);
            take(&mut lines);
        }
        lines.end();
        take(&mut lines);
        (found, lines.skipped())
    }

    #[test]
    fn lines_are_trimmed_and_empty_ones_left_out() {
        let (lines, skipped) = split(100, &[b"  a \r\n\n \t\n\xef\xbb\xbfb\nlast"]);
        assert_eq!(lines, ["a", "b", "last"]);
        assert_eq!(skipped, 0);
    }

    #[test]
    fn invalid_bytes_are_replaced() {
        let (lines, _) = split(100, &[b"a\xffb\n\xe2\x82\n"]);
        assert_eq!(lines, ["a\u{fffd}b", "\u{fffd}"]);
    }

    #[test]
    fn the_limit_is_the_longest_line_that_passes() {
        assert_eq!(split(4, &[b"1234\n12345\n1234"]), (vec!["1234".into(), "1234".into()], 1));
        assert_eq!(split(4, &[b"12345"]), (vec![], 1));
        assert_eq!(split(4, &[b"123", b"456", b"789", b"\n", b"ok\n"]), (vec!["ok".into()], 1));
    }

    #[test]
    fn a_break_keeps_the_rest() {
        let mut lines = Lines::default();
        lines.push(b"a\nb\nc");
        let mut seen = Vec::new();
        for _ in 0..3 {
            lines.for_each(|line| {
                seen.push(line.to_owned());
                ControlFlow::Break(())
            });
        }
        assert_eq!(seen, ["a", "b"]);
        lines.end();
        lines.for_each(|line| {
            seen.push(line.to_owned());
            ControlFlow::Continue(())
        });
        assert_eq!(seen, ["a", "b", "c"]);
    }

    #[test]
    fn any_split_of_the_bytes_gives_the_same_lines() {
        let text = "one\n\n  zwö\u{1f600} \r\nüüüüüüüüüüüüüüüüüüü\n\u{feff}x\n".as_bytes();
        let mut bytes = text.to_vec();
        bytes.extend_from_slice(b"\xf0\x9f\nbad \xc3\xff end\n0123456789abcdef\n0123456789abcdefg\nlast \xe2\x82\xac");
        let whole = split(16, &[&bytes]);
        assert!(whole.1 > 0 && whole.0.len() > 4, "{whole:?}");
        for size in 1..bytes.len() {
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(split(16, &chunks), whole, "chunks of {size}");
        }
        // Uneven cuts from a small linear congruential generator.
        let mut seed = 7u32;
        for round in 0..500 {
            let mut chunks: Vec<&[u8]> = Vec::new();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (chunk, tail) = rest.split_at(((seed >> 16) as usize % 9).min(rest.len()));
                chunks.push(chunk);
                rest = tail;
            }
            assert_eq!(split(16, &chunks), whole, "round {round}");
        }
    }

    #[test]
    fn a_large_buffer_is_given_back() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; 4 * KEEP_CAPACITY]);
        lines.for_each(|_| ControlFlow::Continue(()));
        lines.push(b"\n");
        lines.for_each(|_| ControlFlow::Continue(()));
        assert!(lines.buf.capacity() <= KEEP_CAPACITY);
    }
}
