//! The part of the control API that the agents of running turns use: `/v1/room/`.
//!
//! Everything else on the socket is for the person whose machine this is. Here the caller is a process inside a turn; it
//! shows the token of its turn as `Authorization: Bearer …`, and what it asks for is done in the name of the turn's agent.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::api::{body, checked_id, checked_path, json};
use super::http::{Request, shown};
use super::wire::{ErrorKind, Failure};
use crate::engine::ports::{Found, Look, Uploaded};
use crate::engine::speak::Said;

/// Files of one message at most.
const FILES: usize = 10;
/// Participants that one message mentions at most.
const MENTIONS: usize = 50;
/// Words of one search at most.
const WORDS: usize = 10;
/// Most that one look answers with.
pub const MOST_FOUND: u32 = 50;
/// Longest that a message waits for its delivery before it is answered, in milliseconds.
pub const LONGEST_WAIT_MS: u64 = 25_000;
/// Longest notice for an owner, in characters.
pub const NOTICE_LIMIT: usize = 8_000;

/// `POST /v1/room/send`: says something. The answer is a [`Said`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Say {
    /// Where; the room of the turn when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
    /// Title of a topic; that of the turn when absent, if it is said in the turn's room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// What.
    pub text: String,
    /// Files to go with it, absolute.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
    /// Whom it is meant for, by id, or `@all`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<String>,
    /// The message that it quotes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// It quotes the message that the turn answers.
    pub reply: bool,
    /// How long to wait for its delivery; at most [`LONGEST_WAIT_MS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// What is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The latest messages of a room.
    #[default]
    History,
    /// A room with its members.
    Room,
    /// The agent's rooms.
    Rooms,
    /// The topics of a room.
    Topics,
    /// Messages that hold words.
    Search,
}

/// `POST /v1/room/look`: asks about rooms. The answer is a [`Found`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ask {
    /// What is looked for.
    pub what: What,
    /// Where; the room of the turn when absent, all rooms for a search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
    /// Only in this topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Only before this message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What a search looks for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
    /// At most so many, 1 to [`MOST_FOUND`]; 20 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl Ask {
    /// The question for a channel; `here` is the room of the turn.
    pub fn look(self, here: &str) -> Look {
        let limit = self.limit.unwrap_or(20);
        let room = |named: Option<String>| named.unwrap_or_else(|| here.to_owned());
        match self.what {
            What::History => Look::History { room: room(self.room), topic: self.topic, before: self.before, limit },
            What::Room => Look::Room { room: room(self.room) },
            What::Rooms => Look::Rooms { limit },
            What::Topics => Look::Topics { room: room(self.room) },
            What::Search => Look::Search { room: self.room, words: self.words, limit },
        }
    }
}

/// `POST /v1/room/upload`: uploads a file of the turn's directory. The answer is an [`Uploaded`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// The file, absolute.
    pub file: PathBuf,
}

/// `POST /v1/room/notify-owner`: shows the agent's owner a notice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// 1 to [`NOTICE_LIMIT`] characters.
    pub text: String,
}

/// Answer where there is nothing to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Always true.
    pub ok: bool,
}

/// `POST /v1/room/memory`: looks at the agent's working memory, and changes it first where it is told to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Remember {
    /// Forget everything.
    pub clear: bool,
    /// A new goal; empty: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// The section that `content` is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section: Option<String>,
    /// Its new content; empty: no such section.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// The working memory as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The agent.
    pub agent: String,
    /// Its goal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// Everything else, by section.
    pub sections: std::collections::BTreeMap<String, String>,
    /// When it last changed (RFC 3339); empty when never.
    pub updated_at: String,
    /// Length of everything, in UTF-16 units.
    pub total_chars: usize,
}

/// What the daemon does for the agent of a turn. Requests were checked for form. A token of no running turn is refused
/// with [`ErrorKind::Unauthorized`]; what a channel does not have with [`ErrorKind::NotImplemented`].
pub trait RoomControl: Send + Sync {
    /// Says something; durable when it returns.
    fn say(&self, token: &str, say: Say) -> Result<Said, Failure>;

    /// Asks about rooms.
    fn look(&self, token: &str, ask: Ask) -> Result<Found, Failure>;

    /// Uploads a file.
    fn upload(&self, token: &str, upload: Upload) -> Result<Uploaded, Failure>;

    /// Shows the owner a notice.
    fn notify_owner(&self, token: &str, notice: Notice) -> Result<Done, Failure>;

    /// Looks at the working memory, or changes it.
    fn remember(&self, token: &str, remember: Remember) -> Result<Remembered, Failure>;
}

/// Whether there is `/v1/room/<verb>`.
pub(super) fn has(verb: &str) -> bool {
    matches!(verb, "send" | "look" | "upload" | "notify-owner" | "memory")
}

/// Does what a request to `/v1/room/<verb>` asks.
pub(super) fn respond(request: &Request, verb: &str, rooms: &dyn RoomControl) -> Result<super::api::Reply, Failure> {
    let token = token(request)?;
    Ok(match verb {
        "send" => json(200, &rooms.say(token, checked_say(read(request)?)?)?),
        "look" => json(200, &rooms.look(token, checked_ask(read(request)?)?)?),
        "upload" => {
            let upload: Upload = read(request)?;
            checked_path("file", &upload.file)?;
            json(200, &rooms.upload(token, upload)?)
        }
        "notify-owner" => {
            let notice: Notice = read(request)?;
            let length = notice.text.chars().count();
            if notice.text.trim().is_empty() || length > NOTICE_LIMIT {
                return Err(bad(format!("text has {length} characters; 1 to {NOTICE_LIMIT} are expected")));
            }
            json(200, &rooms.notify_owner(token, notice)?)
        }
        _ => json(200, &rooms.remember(token, checked_memory(read(request)?)?)?),
    })
}

fn read<T: DeserializeOwned>(request: &Request) -> Result<T, Failure> {
    body(request)
}

/// The token of the caller. It is not looked at here, and no error shows it.
fn token(request: &Request) -> Result<&str, Failure> {
    let given = request.header("authorization").and_then(|value| value.split_once(' '));
    let token = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    token.filter(|token| !token.is_empty()).ok_or_else(|| {
        let message = "the token of a turn is expected: Authorization: Bearer TOKEN";
        Failure::new(ErrorKind::Unauthorized, message)
    })
}

fn checked_say(say: Say) -> Result<Say, Failure> {
    for (what, value) in [("room", &say.room), ("topic", &say.topic), ("reply_to", &say.reply_to)] {
        value.as_deref().map_or(Ok(""), |id| checked_id(what, id))?;
    }
    at_most("files", say.files.len(), FILES)?;
    at_most("mentions", say.mentions.len(), MENTIONS)?;
    say.files.iter().try_for_each(|file| checked_path("a file", file))?;
    say.mentions.iter().try_for_each(|id| checked_id("a mention", id).map(drop))?;
    if say.reply && say.reply_to.is_some() {
        return Err(bad("both reply and reply_to are given; one is expected".into()));
    }
    if let Some(ms) = say.wait_ms.filter(|ms| *ms > LONGEST_WAIT_MS) {
        return Err(bad(format!("wait_ms is {ms}; at most {LONGEST_WAIT_MS} are waited")));
    }
    Ok(say)
}

fn checked_ask(ask: Ask) -> Result<Ask, Failure> {
    for (what, value) in [("room", &ask.room), ("topic", &ask.topic), ("before", &ask.before)] {
        value.as_deref().map_or(Ok(""), |id| checked_id(what, id))?;
    }
    if let Some(limit) = ask.limit.filter(|limit| !(1..=MOST_FOUND).contains(limit)) {
        return Err(bad(format!("limit is {limit}; 1 to {MOST_FOUND} is expected")));
    }
    at_most("words", ask.words.len(), WORDS)?;
    ask.words.iter().try_for_each(|word| checked_id("a word", word).map(drop))?;
    if (ask.what == What::Search) == ask.words.is_empty() {
        return Err(bad("words are for a search, and a search needs some".into()));
    }
    Ok(ask)
}

fn checked_memory(remember: Remember) -> Result<Remember, Failure> {
    let changes = remember.goal.is_some() || remember.content.is_some();
    if remember.clear && changes {
        return Err(bad("clear is given beside a change; one is expected".into()));
    }
    if remember.section.is_some() && remember.content.is_none() {
        return Err(bad(format!("section {} comes without content", shown(remember.section.as_deref().unwrap_or("")))));
    }
    Ok(remember)
}

fn at_most(what: &str, count: usize, limit: usize) -> Result<(), Failure> {
    if count <= limit {
        return Ok(());
    }
    Err(bad(format!("there are {count} {what}; at most {limit} are taken")))
}

fn bad(message: String) -> Failure {
    Failure::new(ErrorKind::BadRequest, message)
}
