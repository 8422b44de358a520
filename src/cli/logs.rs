//! `bellhop logs`: the end of the daemon's log, and what is added to it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::Context;
use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::output::{neutral, placed};
use crate::config::paths::plain;

/// How far back from the end lines are looked for, in bytes.
const LOOK_BACK: u64 = 8 << 20;

/// How often a followed file is looked at.
const PERIOD: Duration = Duration::from_millis(250);

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let path = context.home.log();
    let lines = usize::try_from(args.number("lines").unwrap_or(100)).unwrap_or(usize::MAX);
    let file = File::open(&path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Failure::new(format!(
            "there is no log yet: {}; a daemon that systemd runs writes to the journal: journalctl -u bellhop, or \
             journalctl --user -u bellhop",
            path.display()
        )),
        _ => Failure::new(format!("{} cannot be read: {}", path.display(), plain(&e))),
    })?;
    let mut tail = Tail::new(file, lines)?;
    loop {
        show(&tail.more()?)?;
        if !args.flag("follow") {
            show(&tail.rest())?;
            return Ok(Exit::Ok);
        }
        std::thread::sleep(PERIOD);
        tail.follow_rotation(&path)?;
    }
}

/// The log holds what far sides say: no control characters reach the terminal.
fn show(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(neutral(&String::from_utf8_lossy(text)).as_bytes()).and_then(|()| out.flush()).map_err(placed)
}

/// Reads a growing file from its last lines on.
struct Tail {
    file: File,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
}

impl Tail {
    /// Begins at the last `lines` lines.
    fn new(mut file: File, lines: usize) -> io::Result<Self> {
        let size = file.seek(SeekFrom::End(0))?;
        let start = size.saturating_sub(LOOK_BACK);
        file.seek(SeekFrom::Start(start))?;
        let mut end = Vec::new();
        (&file).take(size - start).read_to_end(&mut end)?;
        let from = last_lines(&end, lines, start > 0);
        file.seek(SeekFrom::Start(start + from as u64))?;
        Ok(Self { file, partial: Vec::new() })
    }

    /// The whole lines that were added, at most a few megabytes at once.
    fn more(&mut self) -> io::Result<Vec<u8>> {
        (&self.file).take(LOOK_BACK).read_to_end(&mut self.partial)?;
        let whole = self.partial.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let rest = self.partial.split_off(whole);
        let lines = std::mem::replace(&mut self.partial, rest);
        // A line without an end is not collected for ever.
        if lines.is_empty() && self.partial.len() as u64 >= LOOK_BACK {
            return Ok(std::mem::take(&mut self.partial));
        }
        Ok(lines)
    }

    /// What stands behind the last newline.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.partial);
        if !rest.is_empty() {
            rest.push(b'\n');
        }
        rest
    }

    /// Goes over to the file that has taken the place of this one, or back to the start of one that was cut.
    fn follow_rotation(&mut self, path: &Path) -> io::Result<()> {
        let mine = self.file.metadata()?;
        let Ok(now) = std::fs::metadata(path) else { return Ok(()) };
        if (now.dev(), now.ino()) != (mine.dev(), mine.ino()) {
            // Only once everything of the old one is read.
            if self.file.stream_position()? >= mine.len()
                && let Ok(file) = File::open(path)
            {
                self.file = file;
                self.partial.clear();
            }
        } else if mine.len() < self.file.stream_position()? {
            self.file.seek(SeekFrom::Start(0))?;
            self.partial.clear();
        }
        Ok(())
    }
}

/// Where the last `lines` lines begin. `cut`: the bytes begin in the middle of a line, which does not count.
fn last_lines(bytes: &[u8], lines: usize, cut: bool) -> usize {
    if lines == 0 {
        return bytes.len();
    }
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut newlines = body.iter().enumerate().rev().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1);
    if let Some(start) = newlines.nth(lines - 1) {
        return start;
    }
    let first = body.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
    if cut { first } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_from_the_end() {
        let text = b"a\nb\nc\n";
        assert_eq!(last_lines(text, 1, false), 4);
        assert_eq!(last_lines(text, 2, false), 2);
        assert_eq!(last_lines(text, 9, false), 0);
        assert_eq!(last_lines(text, 9, true), 2);
        assert_eq!(last_lines(text, 0, false), 6);
        assert_eq!(last_lines(b"a\nb", 1, false), 2);
    }

    #[test]
    fn a_followed_file_may_be_replaced() {
        let dir = std::env::temp_dir().join(format!("bh-tail-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("log");
        std::fs::write(&path, "1\n2\n3").unwrap();
        let mut tail = Tail::new(File::open(&path).unwrap(), 2).unwrap();
        assert_eq!(tail.more().unwrap(), b"2\n");
        std::fs::rename(&path, dir.join("old")).unwrap();
        std::fs::write(&path, "4\n").unwrap();
        tail.follow_rotation(&path).unwrap();
        assert_eq!(tail.more().unwrap(), b"4\n");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
