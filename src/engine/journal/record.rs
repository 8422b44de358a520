//! Records of the journal and the lines that hold them.
//!
//! A line is one JSON object: `{"v":1,"t":<ms>,"k":"<kind>",…,"c":"<8 hex>"}`. The last key is the
//! beginning of the SHA-256 of everything before `,"c":`, so that a line which was torn, or changed by a
//! tired disk, is recognised without trusting its structure.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ledger::SeenId;
use crate::json;
use crate::message::{Inbound, Outbound};

/// Format version of a line.
pub const VERSION: u32 = 1;

/// The longest line, in bytes: longer records are refused, longer lines are bad.
pub const MAX_LINE: usize = 64 * 1024 * 1024;

/// Something that happened. Entries (`e`) and turns are named by the ids the engine gave them.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
        #[serde(skip_serializing_if = "Option::is_none")]
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
    /// The agent of a running turn says something by a command of its own; it is to be sent.
    Say {
        /// Turn id.
        turn: String,
        /// Recognises a repetition, see [`Said::key`]. Empty where compaction wrote it: the entries know.
        key: String,
        /// What is to be sent.
        out: Arc<Outbound>,
    },
    /// A reply was delivered.
    Sent {
        /// [`Outbound::id`].
        out: String,
        /// Turn id.
        turn: String,
        /// The far side's id of it.
        #[serde(skip_serializing_if = "Option::is_none")]
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
        /// What is remembered of each, and when it was finished.
        keys: Vec<(SeenId, i64)>,
    },
    /// The entry is set aside until it is released or started.
    Hold {
        /// Entry id.
        e: String,
        /// `asked`: the room was asked whether to go on. `media`: it has no text to answer. `login`: the login of
        /// its runtime is refused. Absent: a person or a route wanted it.
        #[serde(skip_serializing_if = "Option::is_none")]
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
        #[serde(skip_serializing_if = "Option::is_none")]
        out: Option<Arc<Outbound>>,
        /// What its attempts left behind.
        #[serde(skip_serializing_if = "Option::is_none")]
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
        value: Value,
    },
    /// A note is not needed any more.
    Forget {
        /// Its key.
        key: String,
    },
}

impl Record {
    /// Reads a record of this kind from the members of its line; `None` for a kind that this version does not know.
    fn read(kind: &str, line: &Value) -> Result<Option<Self>, json::Error> {
        let f = Members(line);
        Ok(Some(match kind {
            "base" => Self::Base {},
            "boot" => Self::Boot { pid: f.get("pid")?, version: f.get("version")? },
            "accepted" => Self::Accepted {
                e: f.get("e")?,
                ids: f.get("ids")?,
                ch: f.get("ch")?,
                q: f.get("q")?,
                msg: f.get("msg")?,
                past: f.get("past")?,
            },
            "started" => {
                Self::Started { e: f.get("e")?, turn: f.get("turn")?, attempt: f.get("attempt")?, rt: f.get("rt")? }
            }
            "spawned" => Self::Spawned { turn: f.get("turn")?, pid: f.get("pid")?, start: f.get("start")? },
            "session" => Self::Session { turn: f.get("turn")?, id: f.get("id")? },
            "effects" => Self::Effects { turn: f.get("turn")? },
            "result" => Self::Result { turn: f.get("turn")?, out: f.get("out")? },
            "say" => Self::Say { turn: f.get("turn")?, key: f.get("key")?, out: f.get("out")? },
            "sent" => Self::Sent { out: f.get("out")?, turn: f.get("turn")?, provider: f.get("provider")? },
            "unsent" => Self::Unsent { out: f.get("out")?, turn: f.get("turn")?, why: f.get("why")? },
            "interrupted" => Self::Interrupted { turn: f.get("turn")? },
            "done" => Self::Done { e: f.get("e")?, why: f.get("why")? },
            "acked" => Self::Acked { e: f.get("e")? },
            "seen" => Self::Seen { ch: f.get("ch")?, keys: f.seen()? },
            "hold" => Self::Hold { e: f.get("e")?, why: f.get("why")? },
            "release" => Self::Release { e: f.get("e")? },
            "parked" => Self::Parked { e: f.get("e")?, until: f.get("until")?, why: f.get("why")? },
            "deferred" => {
                Self::Deferred { e: f.get("e")?, on: f.get("on")?, why: f.get("why")?, until: f.get("until")? }
            }
            "dead" => Self::Dead {
                e: f.get("e")?,
                ids: f.get("ids")?,
                ch: f.get("ch")?,
                q: f.get("q")?,
                msg: f.get("msg")?,
                why: f.get("why")?,
                out: f.get("out")?,
                past: f.get("past")?,
            },
            "buried" => Self::Buried { e: f.get("e")? },
            "note" => Self::Note { key: f.get("key")?, value: line["value"].clone() },
            "forget" => Self::Forget { key: f.get("key")? },
            _ => return Ok(None),
        }))
    }
}

/// The members of a line. One that is missing counts as null.
struct Members<'v>(&'v Value);

impl Members<'_> {
    fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T, json::Error> {
        json::from_value(&self.0[name])
    }

    /// What finished messages are recognised by; earlier versions wrote the ids themselves.
    fn seen(&self) -> Result<Vec<(SeenId, i64)>, json::Error> {
        if self.0.get("keys").is_none() {
            let ids: Vec<(String, i64)> = self.get("ids")?;
            return Ok(ids.into_iter().map(|(id, at)| (SeenId::of(&id), at)).collect());
        }
        let keys: Vec<(String, i64)> = self.get("keys")?;
        let known = keys.into_iter().map(|(key, at)| Some((SeenId::parse(&key)?, at)));
        known.collect::<Option<_>>().ok_or_else(|| serde::de::Error::custom("not the key of an id"))
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
    /// What the agent said by tool on the way, so that an attempt that begins anew does not say it again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<Said>,
}

/// Something that an agent said by tool while it worked on an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// A digest of where and what.
    pub key: String,
    /// [`Outbound::id`].
    pub out: String,
    /// It is delivered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sent: bool,
    /// The far side's id of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
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
    pub session: Option<Value>,
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
    if version == u64::from(VERSION)
        && let Some(record) = Record::read(kind, &fields).map_err(|_| "a field is missing or of the wrong type")?
    {
        return Ok(Line::Known(Stamped { t, record }));
    }
    let text = std::str::from_utf8(line).map_err(|_| "not UTF-8")?;
    Ok(Line::Unknown(text.to_owned()))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// One record of each kind, optional members once there and once not.
    fn records() -> Vec<Record> {
        let msg: Arc<Inbound> = json::from_value(&json!({
            "id": "m", "channel": "c", "accountId": "a", "conversation": {"id": "r", "kind": "group"},
            "sender": {"id": "s", "kind": "user"}, "text": "t", "receivedAt": 7,
        }))
        .unwrap();
        let out: Arc<Outbound> = json::from_value(&json!({
            "id": "o", "turnId": "t1", "channel": "c", "accountId": "a", "conversationId": "r", "text": "t",
        }))
        .unwrap();
        let said = |sent: bool| Said { key: "k".into(), out: "o".into(), sent, provider: sent.then(|| "p".into()) };
        let past = Past {
            attempts: 2,
            effects: true,
            session: Some(Announced { rt: "codex".into(), id: "s".into() }),
            said: vec![said(true), said(false)],
        };
        let outcome = Outcome { replies: vec![out.clone()], session: Some(json!({"a": [1]})), why: "w".into() };
        let (e, turn, why) = (|| "e1".to_owned(), || "t1".to_owned(), || "w".to_owned());
        let accepted = |past| Record::Accepted {
            e: e(),
            ids: vec!["m".into()],
            ch: "c".into(),
            q: "q".into(),
            msg: msg.clone(),
            past,
        };
        let dead = |out, past| Record::Dead {
            e: e(),
            ids: vec!["m".into()],
            ch: "c".into(),
            q: "q".into(),
            msg: msg.clone(),
            why: why(),
            out,
            past,
        };
        vec![
            Record::Base {},
            Record::Boot { pid: 1, version: "0".into() },
            accepted(None),
            accepted(Some(past.clone())),
            Record::Started { e: vec![e()], turn: turn(), attempt: 1, rt: "codex".into() },
            Record::Spawned { turn: turn(), pid: 2, start: u64::MAX },
            Record::Session { turn: turn(), id: "s".into() },
            Record::Effects { turn: turn() },
            Record::Say { turn: turn(), key: "k".into(), out: out.clone() },
            Record::Result { turn: turn(), out: Outcome::default() },
            Record::Result { turn: turn(), out: outcome },
            Record::Sent { out: "o".into(), turn: turn(), provider: None },
            Record::Sent { out: "o".into(), turn: turn(), provider: Some("p".into()) },
            Record::Unsent { out: "o".into(), turn: turn(), why: why() },
            Record::Interrupted { turn: turn() },
            Record::Done { e: vec![e()], why: why() },
            Record::Acked { e: vec![e(), "e2".into()] },
            Record::Seen { ch: "c".into(), keys: vec![(SeenId::of("m"), -1)] },
            Record::Hold { e: e(), why: None },
            Record::Hold { e: e(), why: Some(why()) },
            Record::Release { e: e() },
            Record::Parked { e: e(), until: i64::MAX, why: why() },
            Record::Deferred { e: vec![e()], on: "login:codex".into(), why: why(), until: 3 },
            dead(None, None),
            dead(Some(out), Some(past)),
            Record::Buried { e: e() },
            Record::Note { key: "k".into(), value: json!({"x": [null, 1.5]}) },
            Record::Forget { key: "k".into() },
        ]
    }

    #[test]
    fn every_kind_is_read_as_it_was_written() {
        let mut kinds = std::collections::BTreeSet::new();
        for record in records() {
            let line = encode(9, &record).unwrap();
            let sound = json::parse(&line).unwrap();
            kinds.insert(sound["k"].as_str().unwrap().to_owned());
            let body = line.strip_suffix(b"\n").unwrap();
            assert_eq!(decode(body), Ok(Line::Known(Stamped { t: 9, record })), "{sound}");
        }
        assert_eq!(kinds.len(), 23);
    }

    #[test]
    fn ids_that_an_earlier_version_wrote_as_they_are_are_recognised() {
        let line = |members: &str| {
            let members = members.as_bytes();
            json::parse(&[&b"{\"ch\":\"c\","[..], members, b"}"].concat()).unwrap()
        };
        let read = |members: &str| Record::read("seen", &line(members)).unwrap();
        let known = Some(Record::Seen { ch: "c".into(), keys: vec![(SeenId::of("m"), 7)] });
        assert_eq!(read(r#""ids":[["m",7]]"#), known);
        assert_eq!(read(r#""keys":[["YsZqel3XDDFGYYBjw0TlMQ",7]]"#), known);
        assert!(Record::read("seen", &line(r#""keys":[["YsZqel3XDDFGYYBjw0Tl",7]]"#)).is_err());
        assert!(Record::read("seen", &line(r#""keys":7"#)).is_err());
    }

    #[test]
    fn a_line_without_a_member_is_bad_and_one_of_an_unknown_kind_is_kept() {
        let line = |members: &str| {
            let mut line = format!("{{\"v\":1,\"t\":9,{members}").into_bytes();
            let sum = checksum(&line);
            line.extend_from_slice(CHECK_KEY);
            line.extend_from_slice(&sum);
            line.extend_from_slice(b"\"}");
            line
        };
        for bad in [r#""k":"hold""#, r#""k":"hold","e":1"#, r#""k":"done","e":"e1","why":"w""#, r#""k":"accepted""#] {
            assert_eq!(decode(&line(bad)), Err("a field is missing or of the wrong type"), "{bad}");
        }
        assert_eq!(decode(&line(r#""k":7"#)), Err("not a record"));
        assert!(matches!(decode(&line(r#""k":"later","e":1"#)), Ok(Line::Unknown(_))));
    }
}
