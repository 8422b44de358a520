//! Records of the journal and the lines that hold them.
//!
//! A line is one JSON object: `{"v":1,"t":<ms>,"k":"<kind>",…,"c":"<8 hex>"}`. The last key is the
//! beginning of the SHA-256 of everything before `,"c":`, so that a line which was torn, or changed by a
//! tired disk, is recognised without trusting its structure.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::json;
use crate::message::{Inbound, Outbound};

/// Format version of a line.
pub const VERSION: u32 = 1;

/// The longest line, in bytes: longer records are refused, longer lines are bad.
pub const MAX_LINE: usize = 64 * 1024 * 1024;

/// Something that happened. Entries (`e`) and turns are named by the ids the engine gave them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// Everything before this record is obsolete; the state follows.
    Base {},
    /// A daemon opened the journal.
    Boot {
        /// Its process id.
        pid: u32,
        /// Its version.
        version: String,
    },
    /// A message was taken in.
    Accepted {
        /// Entry id.
        e: String,
        /// The channel's ids of everything in it.
        ids: Vec<String>,
        /// Channel.
        ch: String,
        /// Queue key.
        q: String,
        /// The message as received.
        msg: Arc<Inbound>,
        /// What earlier attempts left; written by compaction only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        past: Option<Past>,
    },
    /// A turn for these entries is about to run.
    Started {
        /// Entry ids, oldest first.
        e: Vec<String>,
        /// Turn id.
        turn: String,
        /// From 1.
        attempt: u32,
        /// Runtime id.
        rt: String,
    },
    /// The turn's runtime runs as this process.
    Spawned {
        /// Turn id.
        turn: String,
        /// Process id.
        pid: i32,
        /// Start time in clock ticks since boot.
        start: u64,
    },
    /// The runtime has announced the session that the turn runs in.
    Session {
        /// Turn id.
        turn: String,
        /// Session id.
        id: String,
    },
    /// The turn may have changed the world from here on.
    Effects {
        /// Turn id.
        turn: String,
    },
    /// The turn has ended; its replies are to be sent.
    Result {
        /// Turn id.
        turn: String,
        /// What came of it.
        out: Outcome,
    },
    /// A reply was delivered.
    Sent {
        /// [`Outbound::id`].
        out: String,
        /// Turn id.
        turn: String,
        /// The far side's id of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider: Option<String>,
    },
    /// A reply was given up.
    Unsent {
        /// [`Outbound::id`].
        out: String,
        /// Turn id.
        turn: String,
        /// For people.
        why: String,
    },
    /// The turn was stopped by an orderly shutdown: its entries wait again, and the attempt does not count.
    Interrupted {
        /// Turn id.
        turn: String,
    },
    /// The entries are terminal.
    Done {
        /// Entry ids.
        e: Vec<String>,
        /// `delivered`, `gated`, `no_reply`, `error`, `skipped:<why>`, …
        why: String,
    },
    /// The far side knows: nothing is left to do but to recognise repeats.
    Acked {
        /// Entry ids.
        e: Vec<String>,
    },
    /// Ids of finished messages; written by compaction only.
    Seen {
        /// Channel.
        ch: String,
        /// Message id and when it was finished.
        ids: Vec<(String, i64)>,
    },
    /// The entry is set aside until it is released or started.
    Hold {
        /// Entry id.
        e: String,
        /// `asked`: the room was asked whether to go on. `media`: it has no text to answer. `login`: the login of
        /// its runtime is refused. Absent: a person or a route wanted it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The entry waits like any other again.
    Release {
        /// Entry id.
        e: String,
    },
    /// The entry ran, and is to run again later by the agent's own wish.
    Parked {
        /// Entry id.
        e: String,
        /// Not before (Unix milliseconds).
        until: i64,
        /// The agent's reason.
        why: String,
    },
    /// The entries' run could not do its work for a reason that passes; they wait, and the attempt does not
    /// count.
    Deferred {
        /// Entry ids.
        e: Vec<String>,
        /// What they wait for: the key of the wait.
        on: String,
        /// `usage_limit`, `login`, `missing` or `disk`.
        why: String,
        /// Not before (Unix milliseconds).
        until: i64,
    },
    /// A message was given up; it is kept, so that a person may run it again.
    Dead {
        /// Id of the entry it was, now that of the dead letter.
        e: String,
        /// The channel's ids of it.
        ids: Vec<String>,
        /// Channel.
        ch: String,
        /// Queue key.
        q: String,
        /// The message as received.
        msg: Arc<Inbound>,
        /// For people.
        why: String,
        /// The reply that could not be delivered, if there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        out: Option<Arc<Outbound>>,
        /// What its attempts left behind.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        past: Option<Past>,
    },
    /// A dead letter is not kept any more: it runs again, or a person does not want it.
    Buried {
        /// Id of the dead letter.
        e: String,
    },
    /// A small value to be kept, such as a cursor or a key that recognises repeats.
    Note {
        /// Names it; a later note of the same key replaces it.
        key: String,
        /// Free-form: the business of whoever owns the key.
        value: serde_json::Value,
    },
    /// A note is not needed any more.
    Forget {
        /// Its key.
        key: String,
    },
}

impl Record {
    /// Whether this version knows a kind of record.
    fn knows(kind: &str) -> bool {
        const KINDS: [&str; 22] = [
            "base",
            "boot",
            "accepted",
            "started",
            "spawned",
            "session",
            "effects",
            "result",
            "sent",
            "unsent",
            "interrupted",
            "done",
            "acked",
            "seen",
            "hold",
            "release",
            "parked",
            "deferred",
            "dead",
            "buried",
            "note",
            "forget",
        ];
        KINDS.contains(&kind)
    }
}

/// What earlier attempts at an entry left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// Number of attempts that count.
    #[serde(default)]
    pub attempts: u32,
    /// One of them may have changed the world.
    #[serde(default)]
    pub effects: bool,
    /// The session that the latest of them announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Announced>,
}

/// A session that a runtime announced while it ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// Runtime id.
    pub rt: String,
    /// Session id.
    pub id: String,
}

/// How a turn ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What is to be sent, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replies: Vec<Arc<Outbound>>,
    /// The session to be stored; free-form here, since only its writer reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<serde_json::Value>,
    /// The reason that `done` will give.
    pub why: String,
}

/// A record and when it was made (Unix milliseconds).
#[derive(Clone, Debug, PartialEq)]
pub struct Stamped {
    /// When.
    pub t: i64,
    /// What.
    pub record: Record,
}

/// What a line holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// A record of this version.
    Known(Stamped),
    /// A sound line of another version, or of a kind that this one does not know; without its newline.
    Unknown(String),
}

/// Encodes a record as a line, newline included.
pub fn encode(t: i64, record: &Record) -> Result<Vec<u8>, serde_json::Error> {
    // serde writes `{"<kind>":{<fields>}}`; the line has the kind beside the fields.
    let written = json::to_vec(record)?;
    let (kind, fields) = written
        .strip_prefix(b"{\"")
        .and_then(|rest| rest.strip_suffix(b"}}"))
        .and_then(|rest| rest.split_at_checked(rest.iter().position(|b| *b == b'"')?))
        .and_then(|(kind, rest)| Some((kind, rest.strip_prefix(b"\":{")?)))
        .ok_or_else(|| serde::ser::Error::custom("a record without fields"))?;
    let mut line = format!("{{\"v\":{VERSION},\"t\":{t},\"k\":\"").into_bytes();
    line.reserve(written.len() + CHECK_KEY.len() + SUM_LEN + 3);
    line.extend_from_slice(kind);
    line.push(b'"');
    if !fields.is_empty() {
        line.push(b',');
        line.extend_from_slice(fields);
    }
    let sum = checksum(&line);
    line.extend_from_slice(CHECK_KEY);
    line.extend_from_slice(&sum);
    line.extend_from_slice(b"\"}\n");
    Ok(line)
}

/// Decodes a line without its newline. The error says in a few words what is wrong with it.
pub fn decode(line: &[u8]) -> Result<Line, &'static str> {
    let body_len = line.len().checked_sub(CHECK_KEY.len() + SUM_LEN + 2).ok_or("too short")?;
    let (body, tail) = line.split_at(body_len);
    let sum =
        tail.strip_prefix(CHECK_KEY).and_then(|rest| rest.strip_suffix(b"\"}")).ok_or("no checksum at its end")?;
    if sum != checksum(body) {
        return Err("wrong checksum");
    }
    // From here on the line is what somebody wrote; failures are those of the writer.
    let fields = json::parse(line).map_err(|_| "not a record")?;
    let (Some(version), Some(t), Some(kind)) = (fields["v"].as_u64(), fields["t"].as_i64(), fields["k"].as_str())
    else {
        return Err("not a record");
    };
    if version != u64::from(VERSION) || !Record::knows(kind) {
        let text = std::str::from_utf8(line).map_err(|_| "not UTF-8")?;
        return Ok(Line::Unknown(text.to_owned()));
    }
    let record = json::from_variant(kind, &fields).map_err(|_| "a field is missing or of the wrong type")?;
    Ok(Line::Known(Stamped { t, record }))
}

const CHECK_KEY: &[u8] = b",\"c\":\"";
const SUM_LEN: usize = 8;

fn checksum(bytes: &[u8]) -> [u8; SUM_LEN] {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut sum = [b'0'; SUM_LEN];
    for (pair, byte) in sum.chunks_exact_mut(2).zip(digest.as_ref()) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    sum
}
