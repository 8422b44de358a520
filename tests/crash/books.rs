//! What the files of a home say about each message, to be compared with what its sender was told.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bellhop::engine::journal::{Line, Record, dump};

use crate::daemon::Home;

/// One line `start` of the ledger.
#[derive(Clone, Debug)]
pub struct Run {
    pub life: u32,
    pub turn: String,
    pub told: bool,
}

/// The runs of each message, in order.
pub fn runs(ledger: &str) -> BTreeMap<String, Vec<Run>> {
    let mut runs: BTreeMap<String, Vec<Run>> = BTreeMap::new();
    for line in ledger.lines() {
        if let ["start", life, turn, id, told] = line.split(' ').collect::<Vec<_>>()[..] {
            let run = Run { life: life.parse().unwrap(), turn: turn.into(), told: told == "yes" };
            runs.entry(id.into()).or_default().push(run);
        }
    }
    runs
}

/// Messages whose turn the journal calls unfinished with effects: the next run has to be told.
pub fn interrupted_with_effects(home: &Home) -> BTreeSet<String> {
    let mut message: HashMap<String, String> = HashMap::new();
    let mut turns: HashMap<String, Vec<String>> = HashMap::new();
    let mut open = BTreeSet::new();
    for line in dump(&home.join("daemon/journal")).into_iter().flatten().flatten() {
        let Line::Known(stamped) = line.line else { continue };
        match stamped.record {
            Record::Base {} => {
                message.clear();
                turns.clear();
                open.clear();
            }
            Record::Accepted { e, msg, past, .. } => {
                if past.is_some_and(|p| p.effects) {
                    open.insert(e.clone());
                }
                message.insert(e, msg.id.clone());
            }
            Record::Started { e, turn, .. } => drop(turns.insert(turn, e)),
            Record::Effects { turn } => open.extend(turns.get(&turn).into_iter().flatten().cloned()),
            Record::Result { turn, .. } => {
                for e in turns.get(&turn).into_iter().flatten() {
                    open.remove(e);
                }
            }
            Record::Done { e, .. } => {
                for e in e {
                    open.remove(&e);
                }
            }
            _ => {}
        }
    }
    open.iter().filter_map(|e| message.get(e).cloned()).collect()
}

/// What the transcripts say of the ends of turns.
#[derive(Debug, Default)]
pub struct Answers {
    /// `outbound` records by the message that their text answers.
    pub replies: BTreeMap<String, usize>,
    /// Turns that were given up after interruptions, by conversation.
    pub given_up: BTreeMap<String, usize>,
    /// Other errors.
    pub errors: Vec<String>,
}

pub fn answers(home: &Home) -> Answers {
    let mut answers = Answers::default();
    for record in home.transcript() {
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        match text("kind").as_str() {
            "outbound" => {
                let reply = text("finalText");
                let id = reply.strip_prefix("answer to ").map(str::to_owned);
                // The echo repeats `job <id> <kind>`, perhaps with a notice before it.
                let echoed = || reply.lines().rev().find_map(|l| l.strip_prefix("job ")?.split(' ').next());
                if let Some(id) = id.or_else(|| echoed().map(str::to_owned)) {
                    *answers.replies.entry(id).or_default() += 1;
                }
            }
            "turn_error" if text("error").contains("interrupted") => {
                *answers.given_up.entry(text("roomId")).or_default() += 1;
            }
            "turn_error" => answers.errors.push(record.to_string()),
            _ => {}
        }
    }
    answers
}

/// Files that a kill may have hit are whole, and the journal does not grow.
pub fn check_files(home: &Home) {
    if let Ok(text) = std::fs::read_to_string(home.join("daemon/sessions.json")) {
        serde_json::from_str::<serde_json::Value>(&text).unwrap_or_else(|e| panic!("sessions.json: {e}: {text:?}"));
    }
    let files: Vec<_> = std::fs::read_dir(home.join("daemon/journal")).into_iter().flatten().flatten().collect();
    let bytes: u64 = files.iter().filter_map(|f| Some(f.metadata().ok()?.len())).sum();
    assert!(files.len() <= 8 && bytes < 16 << 20, "{} segments of {bytes} bytes", files.len());
    for file in files {
        let name = file.file_name().into_string().unwrap();
        assert!(!name.contains("corrupt"), "{name}: a kill never damages what was written");
    }
}
