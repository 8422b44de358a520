//! Names of segments, and the lines in them.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::record::MAX_LINE;

/// `<dir>/<10 digits>.ndjson`
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.ndjson"))
}

/// `<dir>/<10 digits>.ndjson.tmp`: a segment that is not in force yet.
pub(super) fn tmp_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.ndjson.tmp"))
}

/// The number in a segment's name.
pub(super) fn number(name: &OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(".ndjson")?;
    (digits.len() >= 10 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Whether a name is that of a segment which was not finished.
pub(super) fn is_tmp(name: &OsStr) -> bool {
    name.to_str().and_then(|n| n.strip_suffix(".tmp")).is_some_and(|n| number(OsStr::new(n)).is_some())
}

/// One line as it lies in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RawLine<'a> {
    /// A line that ends with a newline, without it.
    Whole(&'a [u8]),
    /// What follows the last newline.
    Torn,
    /// Longer than [`MAX_LINE`]; skipped.
    TooLong,
}

/// Reads a segment line by line; holds one line in memory.
pub(super) struct Lines {
    reader: BufReader<Box<dyn Read + Send>>,
    line: Vec<u8>,
    offset: u64,
}

impl Lines {
    pub(super) fn new(reader: Box<dyn Read + Send>) -> Self {
        Self { reader: BufReader::with_capacity(64 * 1024, reader), line: Vec::new(), offset: 0 }
    }

    /// The next line and the offset of its first byte.
    pub(super) fn next_line(&mut self) -> io::Result<Option<(u64, RawLine<'_>)>> {
        let at = self.offset;
        self.line.clear();
        self.line.shrink_to(1024 * 1024);
        let read = (&mut self.reader).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut self.line)?;
        self.offset += read as u64;
        if read == 0 {
            return Ok(None);
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            return Ok(Some((at, RawLine::Whole(&self.line))));
        }
        if read <= MAX_LINE {
            return Ok(Some((at, RawLine::Torn)));
        }
        self.offset += self.reader.skip_until(b'\n')? as u64;
        Ok(Some((at, RawLine::TooLong)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised() {
        for (name, expected) in [
            ("0000000001.ndjson", Some(1)),
            ("12345678901.ndjson", Some(12_345_678_901)),
            ("1.ndjson", None),
            ("000000000x.ndjson", None),
            ("+000000001.ndjson", None),
            ("0000000001.ndjson.tmp", None),
            ("0000000001.ndjson.corrupt-5", None),
            ("99999999999999999999999.ndjson", None),
        ] {
            assert_eq!(number(OsStr::new(name)), expected, "{name}");
        }
        assert_eq!(number(path(Path::new("d"), 7).file_name().unwrap()), Some(7));
        assert!(is_tmp(tmp_path(Path::new("d"), 7).file_name().unwrap()));
        assert!(!is_tmp(OsStr::new("notes.tmp")));
    }

    #[test]
    fn lines_come_with_their_offsets() {
        let mut lines = Lines::new(Box::new(&b"ab\n\nc"[..]));
        assert_eq!(lines.next_line().unwrap(), Some((0, RawLine::Whole(b"ab"))));
        assert_eq!(lines.next_line().unwrap(), Some((3, RawLine::Whole(b""))));
        assert_eq!(lines.next_line().unwrap(), Some((4, RawLine::Torn)));
        assert_eq!(lines.next_line().unwrap(), None);
    }

    #[test]
    fn a_line_without_end_is_skipped_without_being_held() {
        let long = std::io::repeat(b'x').take(MAX_LINE as u64 + 5).chain(&b"\nok\n"[..]);
        let mut lines = Lines::new(Box::new(long));
        assert_eq!(lines.next_line().unwrap(), Some((0, RawLine::TooLong)));
        assert_eq!(lines.next_line().unwrap(), Some((MAX_LINE as u64 + 6, RawLine::Whole(b"ok"))));
    }
}
