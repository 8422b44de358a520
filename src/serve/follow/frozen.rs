//! The events of a finished message that nobody watches, as one piece of text.
//!
//! Thousands of finished messages are remembered, and hardly any is looked at again: as text each takes a quarter of
//! the memory, and one piece of it instead of dozens that lie between everything else. An event is a line,
//! `<number> <name> <pieces> <data>`; pieces of joined text are `<number>:<end>,…`, and `-` stands for none.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;

use super::{Entry, Event, size_of_event};

/// The text of the events; `None` when one of them cannot be written.
pub(super) fn freeze(events: &VecDeque<Entry>) -> Option<Box<str>> {
    let mut text = String::new();
    for entry in events {
        write!(text, "{} {} ", entry.number, entry.event.name()).ok()?;
        for (number, end) in &entry.pieces {
            write!(text, "{number}:{end},").ok()?;
        }
        if entry.pieces.is_empty() {
            text.push('-');
        }
        writeln!(text, " {}", entry.event.data().ok()?).ok()?;
    }
    Some(text.into())
}

/// The events of a text that [`freeze`] has made.
pub(super) fn thaw(text: &str) -> VecDeque<Entry> {
    text.lines().filter_map(entry).collect()
}

/// The last of them.
pub(super) fn last(text: &str) -> Option<Entry> {
    entry(text.lines().next_back()?)
}

fn entry(line: &str) -> Option<Entry> {
    let mut fields = line.splitn(4, ' ');
    let number = fields.next()?.parse().ok()?;
    let name = fields.next()?;
    let pieces: Vec<(u64, u32)> = fields.next()?.split(',').filter_map(piece).collect();
    let event = Event::parse(name, fields.next()?).ok()??;
    let size = size_of_event(&event) + pieces.len() * size_of::<(u64, u32)>();
    Some(Entry { number, event: Arc::new(event), size, pieces })
}

fn piece(text: &str) -> Option<(u64, u32)> {
    let (number, end) = text.split_once(':')?;
    Some((number.parse().ok()?, end.parse().ok()?))
}
