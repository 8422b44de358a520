//! A zip archive of files as they are, written from beginning to end. Knows nobody.
//!
//! What goes in is text that was made short before, and the archive is bounded: compression would not be worth its code.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Names are UTF-8.
const UTF8: u16 = 1 << 11;
/// The oldest version of the format that has all of this.
const VERSION: u16 = 20;
/// The polynomial of the checksum, its bits in reverse.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// An archive that is being written.
pub struct Archive {
    file: BufWriter<File>,
    at: u64,
    limit: u64,
    /// The central directory so far.
    directory: Vec<u8>,
    count: u16,
    stamp: (u16, u16),
}

impl Archive {
    /// Makes a new file, 0600. It will have at most `limit` bytes, and less than 4 GiB. `now`: Unix milliseconds.
    pub fn create(path: &Path, limit: u64, now: i64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let limit = limit.min(u64::from(u32::MAX));
        Ok(Self { file: BufWriter::new(file), at: 0, limit, directory: Vec::new(), count: 0, stamp: stamp(now) })
    }

    /// Whether a file of so many bytes still fits in.
    pub fn has_room(&self, name: &str, length: usize) -> bool {
        let heads = 30 + 46 + 2 * name.len() as u64;
        let end = self.at + self.directory.len() as u64 + 22;
        self.count < u16::MAX && end + heads + length as u64 <= self.limit
    }

    /// Adds a file; false when it does not fit in.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        let (Ok(name_length), true) = (u16::try_from(name.len()), self.has_room(name, bytes.len())) else {
            return Ok(false);
        };
        // All numbers fit: the limit is below 4 GiB.
        let (offset, length) = (self.at as u32, bytes.len() as u32);
        let mut common = Vec::with_capacity(26);
        for half in [VERSION, UTF8, 0, self.stamp.0, self.stamp.1] {
            common.extend_from_slice(&half.to_le_bytes());
        }
        for word in [crc(bytes), length, length] {
            common.extend_from_slice(&word.to_le_bytes());
        }
        common.extend_from_slice(&name_length.to_le_bytes());
        common.extend_from_slice(&[0, 0]);
        self.put(b"PK\x03\x04")?;
        self.put(&common)?;
        self.put(name.as_bytes())?;
        self.put(bytes)?;
        self.directory.extend_from_slice(b"PK\x01\x02");
        // Made by version 2.0 on Unix, whose permissions are in the upper half of the attributes.
        self.directory.extend_from_slice(&[20, 3]);
        self.directory.extend_from_slice(&common);
        self.directory.extend_from_slice(&[0; 6]);
        self.directory.extend_from_slice(&(0o100_600_u32 << 16).to_le_bytes());
        self.directory.extend_from_slice(&offset.to_le_bytes());
        self.directory.extend_from_slice(name.as_bytes());
        self.count += 1;
        Ok(true)
    }

    /// Writes the directory; returns the length of the whole.
    pub fn finish(mut self) -> io::Result<u64> {
        let directory = std::mem::take(&mut self.directory);
        let (start, length) = (self.at as u32, directory.len() as u32);
        self.put(&directory)?;
        let mut end = b"PK\x05\x06\0\0\0\0".to_vec();
        end.extend_from_slice(&self.count.to_le_bytes());
        end.extend_from_slice(&self.count.to_le_bytes());
        end.extend_from_slice(&length.to_le_bytes());
        end.extend_from_slice(&start.to_le_bytes());
        end.extend_from_slice(&[0, 0]);
        self.put(&end)?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        Ok(self.at)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

/// Time and date as DOS has them, in UTC: in steps of two seconds, from 1980 on.
fn stamp(now: i64) -> (u16, u16) {
    let text = crate::time::rfc3339(now);
    let part = |range: std::ops::Range<usize>| text.get(range).and_then(|t| t.parse::<u16>().ok()).unwrap_or(0);
    let time = (part(11..13) << 11) | (part(14..16) << 5) | (part(17..19) / 2);
    let date = (part(0..4).saturating_sub(1980).min(127) << 9) | (part(5..7).max(1) << 5) | part(8..10).max(1);
    (time, date)
}

/// CRC-32, half a byte at a time: a bundle is not worth a large table.
fn crc(bytes: &[u8]) -> u32 {
    let mut table = [0_u32; 16];
    for (n, entry) in table.iter_mut().enumerate() {
        *entry = (0..4).fold(n as u32, |c, _| if c & 1 == 1 { (c >> 1) ^ POLYNOMIAL } else { c >> 1 });
    }
    let step = |c: u32, nibble: u32| (c >> 4) ^ table[((c ^ nibble) & 15) as usize];
    !bytes.iter().fold(!0, |c, byte| step(step(c, u32::from(*byte)), u32::from(*byte >> 4)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::TempDir;

    #[test]
    fn checksums_and_times() {
        assert_eq!((crc(b""), crc(b"123456789")), (0, 0xcbf4_3926));
        // 2027-01-15T08:00:00Z
        assert_eq!(stamp(1_800_000_000_000), (8 << 11, (47 << 9) | (1 << 5) | 15));
        assert_eq!(stamp(0), (0, (1 << 5) | 1));
    }

    #[test]
    fn an_archive_is_bounded_and_has_its_parts_in_place() {
        let dir = TempDir::new();
        let path = dir.0.join("a.zip");
        let mut archive = Archive::create(&path, 300, 0).unwrap();
        assert!(archive.add("a/ä.txt", b"123456789").unwrap());
        assert!(!archive.add("long", &[0; 200]).unwrap());
        assert!(archive.add("e", b"").unwrap());
        let length = archive.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, length);
        assert!(bytes.starts_with(b"PK\x03\x04") && length <= 300);
        let end = &bytes[bytes.len() - 22..];
        let start = u32::from_le_bytes(end[16..20].try_into().unwrap()) as usize;
        assert_eq!((&end[..4], end[10], &bytes[start..start + 4]), (&b"PK\x05\x06"[..], 2, &b"PK\x01\x02"[..]));
        assert!(Archive::create(&path, 300, 0).is_err(), "nothing is overwritten");
    }
}
