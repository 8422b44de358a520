//! Where transcripts lie: ids as names of files, and whose files they are.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

use crate::crypto::short_hash;
use crate::json;

/// Longest name that is taken as it is, and longest encoded name, in bytes.
const PLAIN_LIMIT: usize = 128;
const ENCODED_LIMIT: usize = 200;

/// Digits of the hash that tells shortened, unusable and colliding names apart.
const HASH_DIGITS: usize = 8;

/// Longest first line that is read to learn whose file it is; every record that bellhop writes is shorter.
const FIRST_LINE_LIMIT: u64 = 1 << 20;

/// Directory below an agent's home.
pub(super) const DIRECTORY: &str = "transcripts";

/// Name of the file of a room without topics.
const NO_TOPIC: &str = "_default";

/// The name of a directory or file for an id: itself where that is harmless, else percent-encoded; at most 200 bytes.
///
/// Two ids may share a name, since `%` is kept: `%2F` and `/`. The writer looks at the first record of what is there
/// and evades.
pub fn segment(raw: &str) -> String {
    let hash = || short_hash(raw.as_bytes(), HASH_DIGITS);
    if matches!(raw, "." | "..") || raw.bytes().all(|b| b < 0x20 || b == 0x7f) {
        return format!("_invalid_{}", hash());
    }
    if is_device(raw) {
        return format!("_win_{raw}");
    }
    if raw.len() <= PLAIN_LIMIT && raw.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
        return raw.to_owned();
    }
    let mut name = raw.bytes().fold(String::new(), |mut name, b| {
        if b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'%') {
            name.push(char::from(b));
        } else {
            name.push_str(&format!("%{b:02X}"));
        }
        name
    });
    if name.len() > ENCODED_LIMIT {
        // The cut leaves room for the hash, and never a half of `%2F`.
        let keep = ENCODED_LIMIT - 1 - HASH_DIGITS;
        let bytes = name.as_bytes();
        let keep = match (bytes[keep - 2], bytes[keep - 1]) {
            (_, b'%') => keep - 1,
            (b'%', _) => keep - 2,
            _ => keep,
        };
        name.truncate(keep);
        name.push('_');
        name.push_str(&hash());
    }
    name
}

/// Names that a Windows file system keeps for devices; a home may be copied there.
fn is_device(raw: &str) -> bool {
    let is = |names: &[&str], what: &str| names.iter().any(|n| what.eq_ignore_ascii_case(n));
    let numbered = || {
        let (name, number) = raw.split_at_checked(3)?;
        Some(is(&["COM", "LPT"], name) && matches!(number.as_bytes(), [b'1'..=b'9']))
    };
    is(&["CON", "PRN", "AUX", "NUL"], raw) || numbered().unwrap_or(false)
}

/// The file of a topic (or of a room without topics) below the directory of all agents, before any evasion.
pub fn file(agents: &Path, agent: &str, room: &str, topic: Option<&str>) -> PathBuf {
    agents.join(segment(agent)).join(DIRECTORY).join(segment(room)).join(format!("{}.jsonl", topic_base(topic)))
}

fn topic_base(topic: Option<&str>) -> String {
    topic.map_or_else(|| NO_TOPIC.to_owned(), segment)
}

/// Whether a name is that of a rotated file: it has `.<8 digits>-<6 digits>.jsonl` in it.
pub fn is_rotated(name: &str) -> bool {
    rotation(name).is_some()
}

/// When a file was rotated, to be compared with others of its topic: the time in its name, and the number before it.
pub(super) fn rotation(name: &str) -> Option<(&str, u64)> {
    name.match_indices('.').find_map(|(at, _)| {
        let stamp = name.get(at + 1..at + 16)?;
        let digits = |s: &[u8]| s.iter().all(u8::is_ascii_digit);
        let bytes = stamp.as_bytes();
        let is_stamp = digits(&bytes[..8]) && bytes[8] == b'-' && digits(&bytes[9..]);
        if !is_stamp || !name.get(at + 16..)?.starts_with(".jsonl") {
            return None;
        }
        let number = name.get(..at)?.rsplit_once('.').and_then(|(_, n)| n.parse().ok());
        Some((stamp, number.unwrap_or(0)))
    })
}

/// The base name that a file of a room directory belongs to: what stands before its first dot.
pub(super) fn base(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// Whose records a file holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Owner {
    #[serde(rename = "agentId")]
    pub agent: String,
    #[serde(rename = "roomId")]
    pub room: String,
    #[serde(rename = "topicId")]
    pub topic: Option<String>,
}

/// The owner of a file by its first record; `None` when there is none that can be read.
pub(super) fn owner(path: &Path) -> Option<Owner> {
    let mut line = Vec::new();
    BufReader::new(open_read(path).ok()?.take(FIRST_LINE_LIMIT)).read_until(b'\n', &mut line).ok()?;
    json::from_slice(&line).ok()
}

/// Opens a file for reading; never a symbolic link, and never waiting for the other end of a pipe.
pub(super) fn open_read(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Some owner of the files in a room directory.
pub(super) fn directory_owner(directory: &Path) -> Option<Owner> {
    let names = std::fs::read_dir(directory).ok()?;
    names.flatten().filter(|e| is_transcript(&e.file_name())).find_map(|e| owner(&e.path()))
}

/// Whether a name ends like that of a transcript.
pub(super) fn is_transcript(name: &std::ffi::OsStr) -> bool {
    Path::new(name).extension().is_some_and(|e| e == "jsonl")
}

/// The name for an id whose own name another id has taken.
pub(super) fn evasive(name: &str, raw: &str) -> String {
    format!("{name}_{}", short_hash(raw.as_bytes(), HASH_DIGITS))
}

/// Where the records of a topic go: names relative to the directory of all agents, with collisions evaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub agent: String,
    pub room: String,
    /// File name without `.jsonl`.
    pub topic: String,
}

impl Place {
    /// Looks at the owners of what is there; a name that another id owns gets a hash of the raw id after it.
    pub(super) fn find(agents: &Path, agent: &str, room: &str, topic: Option<&str>) -> Self {
        let mut place = Self { agent: segment(agent), room: segment(room), topic: topic_base(topic) };
        if let Some(owner) = directory_owner(&place.directory(agents)) {
            if owner.agent != agent {
                place.agent = evasive(&place.agent, agent);
            } else if owner.room != room {
                place.room = evasive(&place.room, room);
            }
        }
        if let Some(owner) = owner(&place.path(agents))
            && owner.topic.as_deref().unwrap_or("") != topic.unwrap_or("")
        {
            place.topic = evasive(&place.topic, topic.unwrap_or(""));
        }
        place
    }

    /// The room directory.
    pub(super) fn directory(&self, agents: &Path) -> PathBuf {
        agents.join(&self.agent).join(DIRECTORY).join(&self.room)
    }

    /// The active file.
    pub(super) fn path(&self, agents: &Path) -> PathBuf {
        self.directory(agents).join(self.name())
    }

    /// Name of the active file.
    pub(super) fn name(&self) -> String {
        format!("{}.jsonl", self.topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_never_leaves_half_an_escape() {
        for lead in 0..4 {
            let name = segment(&format!("{}{}", "x".repeat(lead), "/".repeat(100)));
            let (kept, _) = name.rsplit_once('_').unwrap();
            assert!(name.len() <= ENCODED_LIMIT && name.len() > ENCODED_LIMIT - 3);
            assert_eq!((kept.len() - lead) % 3, 0, "{name}");
        }
    }

    #[test]
    fn harmless_names_are_no_devices() {
        assert_eq!(segment("COM0"), "COM0");
        assert_eq!(segment("é1"), "%C3%A91");
        assert_eq!(segment("nul"), "_win_nul");
    }

    #[test]
    fn rotated_names_are_told_from_active_ones() {
        assert!(is_rotated("tp.20260101-080000.jsonl"));
        assert!(is_rotated("tp.2.20260101-080000.jsonl"));
        assert!(!is_rotated("tp.jsonl"));
        assert!(!is_rotated("tp.2026010-080000.jsonl"));
        assert!(!is_rotated("20260101-080000.jsonl"));
        assert!(!is_rotated("é.20260101-08000é.jsonl"));
        assert_eq!(rotation("tp.12.20260101-080000.jsonl"), Some(("20260101-080000", 12)));
        assert_eq!(base("tp.20260101-080000.jsonl"), "tp");
    }
}
