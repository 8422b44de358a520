//! Which wakes of agents have been taken, so that a repetition is not run again, also after a restart.
//!
//! One line for each in a file that is written anew when it has grown. A line that cannot be read is skipped.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::store::{self, RealDisk};

/// How long one is remembered, in milliseconds.
const AGE_MS: i64 = 24 * 3_600_000;
/// How many at most; the oldest is forgotten first.
const MOST: usize = 4_096;
/// Longest file that is read, in bytes.
const FILE_LIMIT: u64 = 16 << 20;

/// The memory.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    path: PathBuf,
    /// When they came and their keys, oldest first.
    known: VecDeque<(i64, String)>,
    lines: usize,
}

impl Wakes {
    /// What an earlier process has left.
    pub(super) fn open(path: PathBuf, now: i64) -> Self {
        let mut wakes = Self { path, ..Self::default() };
        let mut text = String::new();
        if let Ok(file) = File::open(&wakes.path)
            && let Err(e) = file.take(FILE_LIMIT).read_to_string(&mut text)
        {
            log::warn!("control.wakes_unreadable error={e}");
        }
        for line in text.lines() {
            let Ok(line) = crate::json::parse(line.as_bytes()) else { continue };
            if let (Some(at), Some(key)) = (line["t"].as_i64(), line["key"].as_str()) {
                wakes.known.push_back((at, key.to_owned()));
            }
        }
        wakes.lines = text.lines().count();
        wakes.forget(now);
        wakes
    }

    /// Whether it was taken already.
    pub(super) fn knows(&mut self, key: &str, now: i64) -> bool {
        self.forget(now);
        self.known.iter().any(|(_, known)| known == key)
    }

    /// It has been taken.
    pub(super) fn add(&mut self, key: String, now: i64) {
        let line = line(now, &key);
        self.known.push_back((now, key));
        self.forget(now);
        let written = if self.lines > 2 * self.known.len() + 64 { self.rewrite() } else { self.append(&line) };
        if let Err(e) = written {
            log::warn!("control.wakes_not_written error={e}");
        }
    }

    fn forget(&mut self, now: i64) {
        while self.known.len() > MOST || self.known.front().is_some_and(|(at, _)| *at < now - AGE_MS) {
            self.known.pop_front();
        }
    }

    fn append(&mut self, line: &str) -> std::io::Result<()> {
        self.lines += 1;
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        file.write_all(line.as_bytes())?;
        file.sync_data()
    }

    fn rewrite(&mut self) -> std::io::Result<()> {
        let text: String = self.known.iter().map(|(at, key)| line(*at, key)).collect();
        self.lines = self.known.len();
        store::write(&RealDisk, &self.path, text.as_bytes()).map_err(|e| e.source)
    }
}

fn line(at: i64, key: &str) -> String {
    format!("{}\n", json!({"t": at, "key": Value::from(key)}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::TempDir;

    #[test]
    fn they_are_known_for_a_day_and_by_the_next_process() {
        let dir = TempDir::new();
        let path = dir.0.join("wakes.jsonl");
        let mut wakes = Wakes::open(path.clone(), 0);
        assert!(!wakes.knows("a", 0));
        wakes.add("a".into(), 0);
        wakes.add("b".into(), 1_000);
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"t\":5,\"key\":\"torn").unwrap();
        let mut wakes = Wakes::open(path.clone(), 1_000);
        assert!(wakes.knows("a", AGE_MS) && wakes.knows("b", AGE_MS) && !wakes.knows("torn", AGE_MS));
        assert!(!wakes.knows("a", AGE_MS + 1) && wakes.knows("b", AGE_MS + 1));
        assert!(!Wakes::open(path, AGE_MS + 1_001).knows("b", AGE_MS + 1_001));
    }

    #[test]
    fn memory_and_file_are_bounded() {
        let dir = TempDir::new();
        let path = dir.0.join("wakes.jsonl");
        let mut wakes = Wakes::open(path.clone(), 0);
        wakes.known = (0..MOST).map(|n| (0, n.to_string())).collect();
        wakes.add("new".into(), 0);
        assert!(!wakes.knows("0", 0) && wakes.knows("1", 0) && wakes.knows("new", 0));
        wakes.lines = 2 * MOST + 65;
        wakes.add("newer".into(), 0);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!((text.lines().count(), wakes.lines), (MOST, MOST), "written anew");
        assert!(text.ends_with(&line(0, "newer")));
    }
}
