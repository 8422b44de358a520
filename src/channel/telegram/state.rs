//! What a gateway goes on from after a restart: a small document that is replaced as a whole.
//!
//! It holds where in the updates the daemon is, how much of long replies was sent, and who wrote without being listed.
//! A document of another bot is begun anew: each bot counts its updates for itself.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

use crate::store::{self, Disk, Loaded};

/// Strangers that are remembered; the latest.
const STRANGERS: usize = 8;
/// Replies of which a part was sent; the oldest make room.
const PARTLY: usize = 64;

/// For how long the server surely goes on counting, in milliseconds.
const COUNTED_MS: i64 = 6 * 24 * 3_600_000;

/// Somebody whose message did not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stranger {
    /// The chat.
    pub chat: i64,
    /// The sender.
    pub sender: i64,
    /// What they call themselves.
    pub name: String,
    /// When they wrote last (Unix milliseconds).
    pub at: i64,
}

/// The document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The bot.
    pub bot: String,
    /// The first update that is wanted.
    pub offset: Option<i64>,
    /// When that was written (Unix milliseconds).
    pub at: i64,
    /// Messages that did not count.
    pub ignored: u64,
    /// Who wrote them, the latest last.
    pub strangers: VecDeque<Stranger>,
    /// Parts of replies that were sent, by the reply's id, the latest last.
    partly: VecDeque<(String, usize)>,
}

impl State {
    /// Reads a document; what is odd counts as absent.
    pub fn read(document: &Value) -> Self {
        let list = |key: &str| document[key].as_array().map(Vec::as_slice).unwrap_or_default();
        let text = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
        let stranger = |s: &Value| {
            let (chat, sender) = (s["chat"].as_i64()?, s["sender"].as_i64()?);
            Some(Stranger { chat, sender, name: text(s, "name"), at: s["at"].as_i64().unwrap_or_default() })
        };
        let part = |p: &Value| Some((p["id"].as_str()?.to_owned(), p["parts"].as_u64()? as usize));
        Self {
            bot: text(document, "bot"),
            offset: document["offset"].as_i64(),
            at: document["at"].as_i64().unwrap_or_default(),
            ignored: document["ignored"].as_u64().unwrap_or_default(),
            strangers: list("strangers").iter().filter_map(stranger).take(STRANGERS).collect(),
            partly: list("partly").iter().filter_map(part).take(PARTLY).collect(),
        }
    }

    fn document(&self) -> Value {
        let strangers = self.strangers.iter();
        let strangers: Vec<Value> =
            strangers.map(|s| json!({"chat": s.chat, "sender": s.sender, "name": s.name, "at": s.at})).collect();
        let partly: Vec<Value> = self.partly.iter().map(|(id, parts)| json!({"id": id, "parts": parts})).collect();
        let mut out = Map::new();
        for (key, value) in [
            ("bot", self.bot.clone().into()),
            ("offset", self.offset.into()),
            ("at", self.at.into()),
            ("ignored", self.ignored.into()),
            ("strangers", strangers.into()),
            ("partly", partly.into()),
        ] {
            out.insert(key.into(), value);
        }
        out.into()
    }

    /// The update to go on from. After a quiet week the server counts anew, from any number; what it had before is gone
    /// by then.
    pub fn resume(&self, now: i64) -> Option<i64> {
        self.offset.filter(|_| now - self.at < COUNTED_MS)
    }

    /// Counts a message of somebody who is not listed; returns whether it is the first one that is remembered.
    pub fn ignore(&mut self, stranger: Stranger) -> bool {
        self.ignored += 1;
        let before = self.strangers.len();
        self.strangers.retain(|s| (s.chat, s.sender) != (stranger.chat, stranger.sender));
        let is_new = self.strangers.len() == before;
        self.strangers.push_back(stranger);
        if self.strangers.len() > STRANGERS {
            self.strangers.pop_front();
        }
        is_new
    }

    /// How many parts of a reply were sent.
    pub fn sent(&self, id: &str) -> usize {
        self.partly.iter().find(|(known, _)| known == id).map_or(0, |(_, parts)| *parts)
    }

    /// So many parts of a reply were sent; none: it is done with.
    pub fn set_sent(&mut self, id: &str, parts: usize) {
        self.partly.retain(|(known, _)| known != id);
        if parts > 0 {
            self.partly.push_back((id.to_owned(), parts));
        }
        if self.partly.len() > PARTLY {
            self.partly.pop_front();
        }
    }
}

/// The document and its file, for the threads of a gateway.
pub struct Kept {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
}

impl Kept {
    /// Reads the file, for this bot. One that cannot be read is set aside, and the server says again what it has.
    pub fn open(path: &Path, bot: &str, disk: Arc<dyn Disk>) -> Self {
        let mut state = State::default();
        match store::load_json::<Value>(disk.as_ref(), path) {
            Ok(Loaded::Ok(document)) => state = State::read(&document),
            Ok(Loaded::Missing) => {}
            Ok(Loaded::Corrupt { moved_to, why }) => {
                log::warn!("telegram.state_corrupt moved_to={} error={why:?}", moved_to.display());
            }
            Err(e) => log::warn!("telegram.state_unreadable error={:?}", e.to_string()),
        }
        if state.bot != bot {
            state = State { bot: bot.to_owned(), ..State::default() };
        }
        Self { path: path.to_owned(), disk, state: Mutex::new(state) }
    }

    /// A look at it.
    pub fn look(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it, here and in the file. Where the file cannot be written the change holds until the end of the process:
    /// what comes twice then is known to the journal.
    pub fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.look();
        let before = state.clone();
        change(&mut state);
        if *state == before {
            return;
        }
        // Under the lock, so that the file never goes back.
        if let Err(e) = store::write_json(self.disk.as_ref(), &self.path, &state.document()) {
            log::error!("telegram.state_unwritten error={:?}", e.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RealDisk;
    use crate::store::tests::TempDir;

    #[test]
    fn what_is_kept_is_read_again_and_is_one_bots() {
        let dir = TempDir::new();
        let path = dir.0.join("gw.state.json");
        let open = |bot: &str| Kept::open(&path, bot, Arc::new(RealDisk));
        let kept = open("1");
        kept.change(|s| {
            (s.offset, s.at) = (Some(7), 1_000);
            s.set_sent("out_1", 2);
            s.set_sent("out_2", 1);
            s.set_sent("out_1", 0);
            assert!(s.ignore(Stranger { chat: 5, sender: 5, name: "Ann".into(), at: 9 }));
            assert!(!s.ignore(Stranger { chat: 5, sender: 5, name: "Ann".into(), at: 9 }), "known");
        });
        let again = open("1");
        assert_eq!(*again.look(), *kept.look());
        assert_eq!((again.look().resume(2_000), kept.look().resume(2_000 + COUNTED_MS)), (Some(7), None));
        assert_eq!(["out_1", "out_2"].map(|id| again.look().sent(id)), [0, 1]);
        assert_eq!(*open("2").look(), State { bot: "2".into(), ..State::default() });
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(open("1").look().offset, None);
        assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 1, "set aside");
    }

    #[test]
    fn lists_are_bounded() {
        let mut state = State::default();
        for n in 0..100 {
            state.ignore(Stranger { chat: n, sender: n, ..Stranger::default() });
            state.set_sent(&n.to_string(), 1);
        }
        assert_eq!((state.ignored, state.strangers.len(), state.partly.len()), (100, STRANGERS, PARTLY));
        state.ignore(Stranger { chat: 99, sender: 99, ..Stranger::default() });
        assert_eq!((state.strangers.len(), state.strangers[STRANGERS - 1].chat), (STRANGERS, 99));
        assert_eq!(State::read(&state.document()), state);
    }
}
