//! Server-sent events as bytes: written by the server, read by the client.

use super::wire::Event;

/// Longest event that is read, in bytes; a longer one is an error. Writers stay far below (a remembered
/// reply is at most 1 MiB of text, see `follow`).
pub const EVENT_LIMIT: usize = 16 << 20;

/// A comment, sent now and then so that both ends notice when the other is gone.
pub const KEEP_ALIVE: &[u8] = b": still here\n\n";

/// One event as it goes over the wire.
pub fn encode(number: u64, event: &Event) -> serde_json::Result<Vec<u8>> {
    Ok(format!("id: {number}\nevent: {}\ndata: {}\n\n", event.name(), event.data()?).into_bytes())
}

/// An event as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The `id:` line, when it is a number.
    pub id: Option<u64>,
    /// The `event:` line.
    pub name: String,
    /// The `data:` lines, joined by line breaks.
    pub data: String,
}

/// An event of more than [`EVENT_LIMIT`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Cuts a byte stream into events. Lines end with LF or CRLF; fields without a meaning here are skipped.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: Vec<u8>,
    /// How much of `buffer` was searched for the end of a line.
    searched: usize,
    frame: Frame,
    /// Bytes of the lines in `frame`.
    size: usize,
}

impl Parser {
    /// Adds bytes as they come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event, if there is one.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, TooLong> {
        while let Some(line) = self.next_line()? {
            if line.is_empty() {
                self.size = 0;
                let frame = std::mem::take(&mut self.frame);
                // A block without data (a comment, say) is no event.
                if !frame.data.is_empty() {
                    return Ok(Some(frame));
                }
            } else {
                self.field(&line);
            }
        }
        Ok(None)
    }

    fn next_line(&mut self) -> Result<Option<String>, TooLong> {
        let found = self.buffer.get(self.searched..).and_then(|rest| rest.iter().position(|&b| b == b'\n'));
        let Some(at) = found.map(|n| n + self.searched) else {
            self.searched = self.buffer.len();
            return if self.size + self.searched > EVENT_LIMIT { Err(TooLong) } else { Ok(None) };
        };
        self.searched = 0;
        let line: Vec<u8> = self.buffer.drain(..=at).collect();
        self.size += line.len();
        if self.size > EVENT_LIMIT {
            return Err(TooLong);
        }
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Ok(Some(String::from_utf8_lossy(line).into_owned()))
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => self.frame.id = value.parse().ok(),
            "event" => value.clone_into(&mut self.frame.name),
            "data" => {
                if !self.frame.data.is_empty() {
                    self.frame.data.push('\n');
                }
                self.frame.data.push_str(value);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::wire::Queued;

    #[test]
    fn what_is_written_is_read() {
        let event = Event::Queued(Queued { ahead: 1 });
        let mut bytes = KEEP_ALIVE.to_vec();
        bytes.extend(encode(7, &event).unwrap());
        let mut parser = Parser::default();
        for byte in bytes {
            assert_eq!(parser.next_frame().unwrap(), None);
            parser.push(&[byte]);
        }
        let frame = parser.next_frame().unwrap().unwrap();
        assert_eq!((frame.id, frame.name.as_str()), (Some(7), "queued"));
        assert_eq!(Event::parse(&frame.name, &frame.data).unwrap(), Some(event));
    }

    #[test]
    fn other_writers_of_the_format_are_understood() {
        let mut parser = Parser::default();
        parser.push(b"event:a\r\ndata:1\r\ndata: 2\r\nretry: 5\r\nnothing\r\n\r\ndata: 3\n\n");
        let first = parser.next_frame().unwrap().unwrap();
        assert_eq!((first.id, first.name.as_str(), first.data.as_str()), (None, "a", "1\n2"));
        let second = parser.next_frame().unwrap().unwrap();
        assert_eq!((second.name.as_str(), second.data.as_str()), ("", "3"));
        assert_eq!(parser.next_frame().unwrap(), None);
    }

    #[test]
    fn an_endless_line_is_an_error() {
        let mut parser = Parser::default();
        parser.push(&vec![b'x'; EVENT_LIMIT]);
        assert_eq!(parser.next_frame(), Ok(None));
        parser.push(b"xx");
        assert_eq!(parser.next_frame(), Err(TooLong));
    }
}
