//! Frames that were answered already: a repetition gets the first answer again, also after a restart.
//!
//! A frame is remembered from the moment when its handler starts, for as long as its time stamp could let it pass
//! again. On disk it is one line per frame and one per answer, appended; when the file has grown, it is written anew
//! with what still counts. A line that cannot be read is skipped: at worst a frame is carried out twice, which every
//! handler bears.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::store;

/// How long a frame is remembered, in milliseconds: twice the distance that its clock may have from ours.
pub const WINDOW_MS: i64 = 600_000;
/// How many are remembered at most; the oldest is forgotten first.
pub const KEEP: usize = 4_096;
/// Answers above this many bytes are remembered as given, without their content.
const ANSWER_LIMIT: usize = 16 << 10;
/// The file is written anew when it has so many lines more than twice what is remembered.
const SLACK: usize = 1_024;
/// Longest file that is read at start, in bytes.
const FILE_LIMIT: u64 = 64 << 20;

/// What is known of a frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Known {
    /// Its handler runs.
    Running,
    /// It was answered so.
    Answered(Value),
}

/// The memory.
#[derive(Debug)]
pub struct Replay {
    known: HashMap<String, Known>,
    /// Ids and when they came, oldest first.
    order: VecDeque<(i64, String)>,
    path: Option<PathBuf>,
    file: Option<File>,
    lines: usize,
}

impl Replay {
    /// A memory without a file.
    pub fn in_memory() -> Self {
        Self { known: HashMap::new(), order: VecDeque::new(), path: None, file: None, lines: 0 }
    }

    /// What the file of an earlier process still knows; it goes on there.
    pub fn open(path: PathBuf, now_ms: i64) -> io::Result<Self> {
        let mut replay = Self::in_memory();
        match File::open(&path) {
            Ok(file) => {
                for line in BufReader::new(file.take(FILE_LIMIT)).split(b'\n') {
                    replay.read(&line?);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        replay.path = Some(path);
        replay.forget(now_ms);
        // What was not answered when the daemon died has to be carried out again.
        replay.known.retain(|_, known| *known != Known::Running);
        let known = &replay.known;
        replay.order.retain(|(_, id)| known.contains_key(id));
        replay.rewrite()?;
        Ok(replay)
    }

    /// What is known of a frame.
    pub fn get(&self, id: &str) -> Option<&Known> {
        self.known.get(id)
    }

    /// A frame is about to be carried out.
    pub fn begin(&mut self, id: &str, now_ms: i64) {
        self.forget(now_ms);
        self.remember(id.to_owned(), now_ms);
        self.append(&json!({"t": now_ms, "id": id}));
    }

    /// It was answered.
    pub fn answered(&mut self, id: &str, answer: &Value) {
        let Some(known) = self.known.get_mut(id) else { return };
        let large = answer.to_string().len() > ANSWER_LIMIT;
        let answer = if large { json!({"id": id, "ok": answer["ok"]}) } else { answer.clone() };
        *known = Known::Answered(answer.clone());
        self.append(&json!({"id": id, "answer": answer}));
    }

    fn remember(&mut self, id: String, at_ms: i64) {
        if self.known.insert(id.clone(), Known::Running).is_none() {
            self.order.push_back((at_ms, id));
        }
        while self.order.len() > KEEP {
            if let Some((_, old)) = self.order.pop_front() {
                self.known.remove(&old);
            }
        }
    }

    fn forget(&mut self, now_ms: i64) {
        while self.order.front().is_some_and(|(at, _)| *at < now_ms.saturating_sub(WINDOW_MS)) {
            if let Some((_, old)) = self.order.pop_front() {
                self.known.remove(&old);
            }
        }
    }

    fn read(&mut self, line: &[u8]) {
        let Ok(line) = crate::json::parse(line) else { return };
        let Some(id) = line["id"].as_str() else { return };
        match (&line["answer"], line["t"].as_i64()) {
            (Value::Null, Some(at)) => self.remember(id.to_owned(), at),
            (answer @ Value::Object(_), _) => {
                if let Some(known) = self.known.get_mut(id) {
                    *known = Known::Answered(answer.clone());
                }
            }
            _ => {}
        }
    }

    fn append(&mut self, line: &Value) {
        if self.lines > 2 * self.order.len() + SLACK
            && let Err(e) = self.rewrite()
        {
            log::warn!("control.replay_rewrite_failed error={e}");
        }
        let Some(file) = &mut self.file else { return };
        store::step();
        if let Err(e) = file.write_all(format!("{line}\n").as_bytes()) {
            log::warn!("control.replay_write_failed error={e}");
        }
        self.lines += 1;
    }

    /// Writes what is remembered into a fresh file, in place of the old one.
    fn rewrite(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let new = path.with_extension(format!("new-{}", std::process::id()));
        let mut text = String::new();
        for (at, id) in &self.order {
            text.push_str(&format!("{}\n", json!({"t": at, "id": id})));
            if let Some(Known::Answered(answer)) = self.known.get(id) {
                text.push_str(&format!("{}\n", json!({"id": id, "answer": answer})));
            }
        }
        let written = || {
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&new, path)?;
            OpenOptions::new().append(true).open(path)
        };
        self.file = Some(written().inspect_err(|_| drop(fs::remove_file(&new)))?);
        self.lines = text.lines().count();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("bh-replay-{name}-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    #[test]
    fn an_answer_survives_a_restart_until_its_window_is_over() {
        let path = path("restart");
        let mut replay = Replay::open(path.clone(), 0).unwrap();
        replay.begin("a", 1_000);
        replay.begin("b", 2_000);
        let answer = json!({"id": "a", "ok": true, "result": {"n": 1}});
        replay.answered("a", &answer);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"t\":3,\"id\":\"torn").unwrap();
        let replay = Replay::open(path.clone(), 2_000).unwrap();
        assert_eq!(replay.get("a"), Some(&Known::Answered(answer)));
        assert_eq!((replay.get("b"), replay.get("torn")), (None, None), "to be carried out again");
        let replay = Replay::open(path.clone(), 1_001 + WINDOW_MS).unwrap();
        assert_eq!(replay.get("a"), None);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn memory_and_file_are_bounded() {
        let path = path("bound");
        let mut replay = Replay::open(path.clone(), 0).unwrap();
        for n in 0..3 * KEEP {
            replay.begin(&n.to_string(), 0);
            replay.answered(&n.to_string(), &json!({"id": n.to_string(), "ok": true}));
        }
        assert_eq!((replay.known.len(), replay.order.len()), (KEEP, KEEP));
        assert!(replay.get("0").is_none() && replay.get(&(3 * KEEP - 1).to_string()).is_some());
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 2 * KEEP + SLACK + 2, "{lines}");
        replay.begin("large", 0);
        replay.answered("large", &json!({"id": "large", "ok": true, "result": "x".repeat(ANSWER_LIMIT)}));
        assert_eq!(replay.get("large"), Some(&Known::Answered(json!({"id": "large", "ok": true}))));
        fs::remove_file(path).unwrap();
    }
}
