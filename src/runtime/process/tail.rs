//! Keeps the end of a byte stream, for the record of a failure.

use crate::text;

/// Length of the kept end, in UTF-16 units.
pub(super) const TAIL_UNITS: usize = 8_192;

/// Bytes that are enough for it: no unit takes more than three (an invalid byte becomes one unit), and up to
/// three bytes at the front may be the end of a character that was cut.
const TAIL_BYTES: usize = TAIL_UNITS * 3 + 3;

/// The last bytes of a stream; at most twice [`TAIL_BYTES`] are held.
#[derive(Default)]
pub(super) struct Tail {
    buf: Vec<u8>,
    cut: bool,
}

impl Tail {
    /// Takes the next chunk of the stream.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        if chunk.len() >= TAIL_BYTES {
            self.cut |= !self.buf.is_empty() || chunk.len() > TAIL_BYTES;
            self.buf.clear();
            self.buf.extend_from_slice(last(chunk));
            return;
        }
        self.buf.extend_from_slice(chunk);
        if self.buf.len() > 2 * TAIL_BYTES {
            self.buf.drain(..self.buf.len() - TAIL_BYTES);
            self.cut = true;
        }
    }

    /// The last [`TAIL_UNITS`] units of what has come, invalid UTF-8 replaced.
    pub(super) fn text(&self) -> String {
        let mut bytes = last(&self.buf);
        if self.cut || bytes.len() < self.buf.len() {
            let half = bytes.iter().take(3).take_while(|byte| is_continuation(**byte)).count();
            bytes = &bytes[half..];
        }
        text::tail(&String::from_utf8_lossy(bytes), TAIL_UNITS).to_owned()
    }
}

fn last(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.len().saturating_sub(TAIL_BYTES)..]
}

fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(bytes: &[u8], chunk: usize) -> String {
        let mut tail = Tail::default();
        bytes.chunks(chunk).for_each(|chunk| tail.push(chunk));
        tail.text()
    }

    #[test]
    fn a_short_stream_is_kept_whole() {
        assert_eq!(kept(b" a\nb\xff\n", 3), " a\nb\u{fffd}\n");
        assert_eq!(Tail::default().text(), "");
    }

    #[test]
    fn a_long_stream_keeps_what_decoding_it_whole_would_keep() {
        for sample in ["x", "ü", "€", "😀", "a€😀ü\n"] {
            let mut bytes = sample.repeat(60_000 / sample.len()).into_bytes();
            bytes.extend_from_slice(b"\xff\xe2\x82 end");
            let whole = String::from_utf8_lossy(&bytes).into_owned();
            for chunk in [1, 7, 4_096, 30_000, 65_536] {
                assert_eq!(kept(&bytes, chunk), text::tail(&whole, TAIL_UNITS), "{sample} in chunks of {chunk}");
            }
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut tail = Tail::default();
        for _ in 0..10_000 {
            tail.push(&[b'x'; 1_000]);
        }
        assert!(tail.buf.len() <= 2 * TAIL_BYTES);
        assert_eq!(tail.text().len(), TAIL_UNITS);
    }
}
