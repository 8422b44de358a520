//! What is typed or piped into a chat, line by line, on a thread of its own.

use std::io::{self, BufRead};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::AHEAD;
use crate::cli::failure::Failure;
use crate::thread;

/// Lines that follow each other faster than a person types are one pasted message.
const PASTE: Duration = Duration::from_millis(30);
/// The longest message, in bytes; longer lines are refused.
pub(super) const TEXT_LIMIT: usize = 1 << 20;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Text(String),
    TooLong,
    Unreadable(String),
}

/// Reads standard input on a thread of its own. The channel closes at the end of input.
pub(super) fn lines() -> Result<Receiver<Line>, Failure> {
    let (sender, receiver) = bounded(AHEAD);
    thread::spawn("stdin", move || {
        let mut input = io::stdin().lock();
        let mut message = String::new();
        loop {
            let line = match read_line(&mut input, TEXT_LIMIT) {
                Ok(Some(Line::Text(line))) => line,
                Ok(Some(other)) => {
                    message.clear();
                    if sender.send(other).is_err() {
                        return;
                    }
                    continue;
                }
                Ok(None) => break,
                Err(e) => {
                    let _ = sender.send(Line::Unreadable(e.to_string()));
                    return;
                }
            };
            let joined = line.strip_suffix('\\').filter(|_| message.len() < TEXT_LIMIT);
            message.push_str(joined.unwrap_or(&line));
            if joined.is_some() {
                message.push('\n');
            } else if sender.send(Line::Text(std::mem::take(&mut message))).is_err() {
                return;
            }
        }
        if !message.is_empty() {
            let _ = sender.send(Line::Text(message));
        }
    })?;
    Ok(receiver)
}

/// One line without its end, invalid UTF-8 replaced; one that is too long is skipped. `None` at the end of input.
pub(super) fn read_line(input: &mut impl BufRead, limit: usize) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    let mut too_long = false;
    loop {
        let chunk = match input.fill_buf() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if chunk.is_empty() {
            if line.is_empty() && !too_long {
                return Ok(None);
            }
            break;
        }
        let end = chunk.iter().position(|b| *b == b'\n');
        let used = end.map_or(chunk.len(), |at| at + 1);
        let text = chunk.get(..end.unwrap_or(used)).unwrap_or_default();
        too_long |= line.len() + text.len() > limit;
        if !too_long {
            line.extend_from_slice(text);
        }
        input.consume(used);
        if end.is_some() {
            break;
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(if too_long { Line::TooLong } else { Line::Text(String::from_utf8_lossy(&line).into_owned()) }))
}

/// The line with those that were pasted together with it.
pub(super) fn pasted(mut text: String, lines: &Receiver<Line>) -> String {
    while text.len() < TEXT_LIMIT {
        match lines.recv_timeout(PASTE) {
            Ok(Line::Text(more)) => {
                text.push('\n');
                text.push_str(&more);
            }
            Ok(_) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_need_no_newline_at_the_end() {
        let mut input = io::BufReader::with_capacity(3, &b"abc\r\n\nabcdefgh\nxy\xff"[..]);
        let mut next = || read_line(&mut input, 5).unwrap();
        assert_eq!(next(), Some(Line::Text("abc".into())));
        assert_eq!(next(), Some(Line::Text(String::new())));
        assert_eq!(next(), Some(Line::TooLong));
        assert_eq!(next(), Some(Line::Text("xy\u{fffd}".into())));
        assert_eq!(next(), None);
    }
}
