//! Standard output and error for commands: write errors are values, control characters are harmless.

use std::io::{self, IsTerminal, Write};

use crate::config::paths::plain;
use crate::json;
use crate::time;
use serde::Serialize;

/// Writes text to standard output, with a newline at the end if it has none.
pub fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let end: &[u8] = if text.ends_with('\n') { b"" } else { b"\n" };
    out.write_all(text.as_bytes()).and_then(|()| out.write_all(end)).and_then(|()| out.flush()).map_err(placed)
}

/// An error of standard output that says where it happened.
pub fn placed(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output: {}", plain(&error)))
}

/// Writes a value as indented JSON to standard output.
pub fn say_json(value: &impl Serialize) -> io::Result<()> {
    say(&json::to_string_pretty(value)?)
}

/// Writes a line for people to standard error. There is nobody to tell when that fails.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "bellhop: {}", neutral(text.trim_end()));
}

/// Whether colours are wanted on this stream: a terminal that is not dumb, and no `NO_COLOR`.
pub fn wants_colour(stream: &impl IsTerminal) -> bool {
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    !no_colour && is_live(stream)
}

/// Whether a line can be overwritten on this stream.
pub fn is_live(stream: &impl IsTerminal) -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|t| t.is_empty() || t == "dumb");
    stream.is_terminal() && !dumb
}

/// Text that cannot steer a terminal: control characters but newline and tab are shown (`^[`, `<9b>`), as are
/// those that change the direction of writing, which can make a line read as something else.
pub fn neutral(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            '\u{0}'..='\u{1f}' => {
                out.push('^');
                out.push(char::from(c as u8 + b'@'));
            }
            '\u{7f}' => out.push_str("^?"),
            '\u{80}'..='\u{9f}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{061c}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => {
                out.push_str(&format!("<{:x}>", c as u32));
            }
            c => out.push(c),
        }
    }
    out
}

/// `neutral`, on one line and at most so many characters.
pub fn one_line(text: &str, limit: usize) -> String {
    crate::text::clip(&neutral(&text.split_whitespace().collect::<Vec<_>>().join(" ")), limit)
}

/// A table: columns as wide as their widest cell, two spaces apart, no spaces at the ends of lines.
pub fn table(indent: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> =
        (0..columns).map(|c| rows.iter().filter_map(|r| r.get(c)).map(|s| width(s)).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (cell, wide) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(wide.saturating_sub(width(cell)) + 2));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Columns that a text takes on a terminal, near enough: two for East Asian wide characters and emoji, none
/// for combining marks.
pub fn width(text: &str) -> usize {
    text.chars()
        .map(|c| match c as u32 {
            0x300..=0x36f | 0x200b..=0x200d | 0xfe00..=0xfe0f => 0,
            0x1100..=0x115f
            | 0x2e80..=0xa4cf
            | 0xac00..=0xd7a3
            | 0xf900..=0xfaff
            | 0xfe30..=0xfe6f
            | 0xff00..=0xff60
            | 0xffe0..=0xffe6
            | 0x1f300..=0x1f64f
            | 0x1f900..=0x1f9ff
            | 0x20000..=0x3fffd => 2,
            _ => 1,
        })
        .sum()
}

/// A span of time for people: `850 ms`, `12.3 s`, `4 min 5 s`, `3 h 12 min`, `2 d 3 h`.
pub fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{seconds}.{} s", ms % 1000 / 100),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// How long ago a Unix time in milliseconds was.
pub fn ago(then_ms: i64) -> String {
    let now = time::now_ms();
    format!("{} ago", span(u64::try_from(now.saturating_sub(then_ms)).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_cannot_be_steered() {
        assert_eq!(neutral("a\u{1b}[2J\r\n\tb\u{7f}\u{9b}1m\u{202e}"), "a^[[2J^M\n\tb^?<9b>1m<202e>");
        assert_eq!(one_line("a\n\u{1b}]0;x\u{7} b", 40), "a ^[]0;x^G b");
    }

    #[test]
    fn tables_are_padded_by_display_width() {
        let rows =
            vec![vec!["名前".into(), "x".into()], vec!["ab".into(), "y".into()], vec!["c".into(), String::new()]];
        assert_eq!(table(" ", &rows), " 名前  x\n ab    y\n c\n");
    }

    #[test]
    fn spans() {
        let cases = [
            (0, "0 ms"),
            (12_345, "12.3 s"),
            (245_000, "4 min 5 s"),
            (11_520_000, "3 h 12 min"),
            (183_600_000, "2 d 3 h"),
        ];
        for (ms, text) in cases {
            assert_eq!(span(ms), text);
        }
    }
}
