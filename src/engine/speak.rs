//! Agents that speak for themselves: what a running turn's agent says by a command of its own.
//!
//! Whoever shows the pass of a running turn is its agent at work ([`Engine::speaker`]). What it says is written to the
//! journal, goes through the outbox in the order of its conversation, and is delivered also when this process dies in
//! between. The same words to the same place are said once for each message that is answered: a command that is repeated,
//! or an attempt that begins anew after an interruption, is told what became of the first.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use std::{error, fmt};

use serde::{Deserialize, Serialize};

use super::core::Core;
use super::journal::{self, Record};
use super::outbox::{self, Item, Resolved};
use super::pass::Pass;
use super::ports::{Channel, RoomMessage, Settled};
use super::turn::Turn;
use super::{Engine, keys, outcome};
use crate::crypto;
use crate::message::{Attachment, Inbound, Outbound, OutboundKind};
use crate::text::{self, trim};

/// How often the agent of one turn may say something.
pub const SAYS_PER_TURN: u32 = 100;
/// How much of what an agent said may wait for its delivery.
pub const SAID_WAITING: usize = 200;
/// Longest text, in bytes.
pub const TEXT_LIMIT: usize = 256 * 1024;

/// The agent of a running turn.
#[derive(Clone)]
pub struct Speaker {
    core: Arc<Core>,
    turn: Arc<Turn>,
}

/// What an agent says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Where; `None`: in the conversation of its turn.
    pub room: Option<String>,
    /// Topic; `None`: that of the turn, if it is said in the turn's conversation.
    pub topic: Option<String>,
    /// The text; may be blank when there are files.
    pub text: String,
    /// Files that were checked.
    pub files: Vec<Attachment>,
    /// Whom it is meant for, by the channel's ids.
    pub mentions: Vec<String>,
    /// The message that it quotes.
    pub reply_to: Option<String>,
    /// It quotes the message that the turn answers.
    pub is_reply: bool,
}

/// What became of something that was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Its id on the way out; the same at every attempt.
    pub id: String,
    /// Where it was said.
    pub room: String,
    /// How far it is.
    pub state: SaidState,
    /// The far side's id of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Why it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// It was said before; this is about that time, and nothing was sent now.
    #[serde(default)]
    pub repeated: bool,
}

/// How far something is that was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaidState {
    /// The far side has it.
    Delivered,
    /// It is kept and will be delivered, or given up after the channel's last attempt.
    Waiting,
    /// It was given up.
    Failed,
}

/// Why nothing was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpeakError {
    /// The pass is of no turn that runs.
    NoTurn,
    /// A process that serves several turns at once shows its pass: the rooms that they are in.
    Ambiguous(Vec<String>),
    /// There are neither words nor files, or more than there may be.
    Words(String),
    /// Enough was said.
    Enough(String),
    /// It could not be written down, so it is not sent either.
    Unstored(String),
}

impl fmt::Display for SpeakError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTurn => f.write_str("this is not the token of a turn that runs"),
            Self::Ambiguous(rooms) => {
                write!(
                    f,
                    "several turns of this agent run in one process; name one of their rooms: {}",
                    rooms.join(", ")
                )
            }
            Self::Words(why) | Self::Enough(why) => f.write_str(why),
            Self::Unstored(why) => write!(f, "it could not be written down, and is not sent: {why}"),
        }
    }
}

impl error::Error for SpeakError {}

impl Engine {
    /// The agent of the turn whose pass this is. `room` decides where a process serves several turns.
    pub fn speaker(&self, pass: &str, room: Option<&str>) -> Result<Speaker, SpeakError> {
        let pass = Pass::parse(pass).ok_or(SpeakError::NoTurn)?;
        let core = &self.core;
        let live: Vec<_> = core.lock().live.values().cloned().collect();
        let turns = live.iter().filter_map(|l| l.turn.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let mut mine: Vec<Arc<Turn>> = turns
            .filter(|turn| {
                let served_by = turn.progress().served_by.clone();
                // Every name is tried, whatever the others say.
                let is_own = core.passes.is_of(&pass, &turn.id);
                served_by.iter().fold(is_own, |found, name| core.passes.is_of(&pass, name) | found)
            })
            .filter(|turn| !turn.token.is_over() && !turn.token.is_cancelled())
            .collect();
        if mine.len() > 1
            && let Some(room) = room
        {
            mine.retain(|turn| turn.message.conversation.id == room);
        }
        match mine.as_slice() {
            [] => Err(SpeakError::NoTurn),
            [turn] => Ok(Speaker { core: Arc::clone(core), turn: Arc::clone(turn) }),
            turns => Err(SpeakError::Ambiguous(turns.iter().map(|t| t.message.conversation.id.clone()).collect())),
        }
    }
}

impl Speaker {
    /// The turn.
    pub fn turn_id(&self) -> &str {
        &self.turn.id
    }

    /// The message that the turn answers.
    pub fn message(&self) -> &Inbound {
        &self.turn.message
    }

    /// Where the turn works: files of the agent are below it.
    pub fn cwd(&self) -> &Path {
        &self.turn.cwd
    }

    /// The channel of the turn.
    pub fn channel(&self) -> Option<Arc<dyn Channel>> {
        self.core.channel(&self.turn.message.channel)
    }

    /// What was said last in a conversation of this agent, as far as this machine has seen it; oldest first.
    pub fn history(&self, room: &str, topic: Option<&str>, limit: usize) -> Vec<RoomMessage> {
        self.core.transcripts.history(&self.turn.message.account_id, room, topic, limit)
    }

    /// Says something: it is durable when this returns, and delivered if that happens within `wait`.
    pub fn say(&self, words: Words, wait: Duration) -> Result<Said, SpeakError> {
        let (core, turn) = (&self.core, &self.turn);
        let out = self.outbound(words)?;
        let key = key(&out);
        let (out, ticket, end) = {
            let _one_at_a_time = core.saying.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(said) = self.said_before(&key, &out) {
                log::info!("say.repeated turn={} out={} to={:?}", turn.id, said.id, said.room);
                return Ok(said);
            }
            self.allow()?;
            turn.progress().effects = true;
            let out = Arc::new(out);
            let end = core.outbox.await_end(&out.id);
            let record = Record::Say { turn: turn.id.clone(), key, out: Arc::clone(&out) };
            (out, core.journal.append(record), end)
        };
        if let Err(e) = ticket.wait() {
            core.outbox.leave(&out.id);
            let why = e.to_string();
            log::error!("say.not_durable turn={} out={} error={why:?}", turn.id, out.id);
            drop(core.journal.append(Record::Unsent { out: out.id.clone(), turn: turn.id.clone(), why: why.clone() }));
            return Err(SpeakError::Unstored(why));
        }
        let (id, room) = (out.id.clone(), out.conversation_id.clone());
        log::info!("say.accepted turn={} out={id} to={room:?} units={}", turn.id, text::len_utf16(&out.text));
        let settled = Settled { ids: Vec::new(), why: "said".into(), streams: Vec::new() };
        let out = out.as_ref().clone();
        outbox::post_aside(
            core,
            Item { out, entries: Vec::new(), settled, record: None, attempts: 0, uncertain: false },
        );
        let end = end.recv_timeout(wait).ok();
        core.outbox.leave(&id);
        Ok(told(id, room, end))
    }

    fn outbound(&self, words: Words) -> Result<Outbound, SpeakError> {
        let message = &self.turn.message;
        let refuse = |why: String| Err(SpeakError::Words(why));
        if trim(&words.text).is_empty() && words.files.is_empty() {
            return refuse("there is nothing to say".into());
        }
        if words.text.len() > TEXT_LIMIT {
            return refuse(format!("the text has {} bytes; at most {TEXT_LIMIT} are sent", words.text.len()));
        }
        if outcome::is_no_reply(&words.text) {
            return refuse("NO_REPLY means that nothing is sent; make it the whole answer of the turn instead".into());
        }
        let is_here = words.room.as_ref().is_none_or(|room| *room == message.conversation.id);
        if words.is_reply && !is_here {
            return refuse("a reply goes to the room of the message that is answered".into());
        }
        // A topic goes by its title. That of the turn has an id besides, and may be called by it.
        let own = (message.conversation.thread_id.as_deref(), message.topic());
        let is_own = |topic: &str| is_here && (Some(topic) == own.0 || Some(topic) == own.1);
        let (thread_id, topic) = match words.topic.filter(|topic| !is_own(topic)) {
            Some(topic) => (Some(topic.clone()), Some(topic)),
            None if is_here => (own.0.map(str::to_owned), own.1.map(str::to_owned)),
            None => (None, None),
        };
        Ok(Outbound {
            // Of the same form as those of replies; channels make their own ids of it.
            id: format!("out_{}", keys::uuid_v4()),
            channel: message.channel.clone(),
            account_id: message.account_id.clone(),
            conversation_id: words.room.unwrap_or_else(|| message.conversation.id.clone()),
            thread_id,
            topic,
            kind: OutboundKind::Message,
            text: words.text,
            error_ref: None,
            attachments: words.files,
            reply_to: words.reply_to.or_else(|| words.is_reply.then(|| message.reply_target().to_owned())),
            trace_id: message.trace.as_ref().filter(|_| is_here).map(|t| t.id.clone()),
            turn_id: self.turn.id.clone(),
            by_tool: true,
            mentions: words.mentions,
        })
    }

    /// What became of the same words to the same place, if they were said for a message that this turn answers.
    fn said_before(&self, key: &str, out: &Outbound) -> Option<Said> {
        let entries = self.turn.entries();
        let said: journal::Said =
            self.core.journal.view(|ledger| entries.iter().find_map(|e| ledger.said(e, key).cloned()))?;
        let state = if said.sent { SaidState::Delivered } else { SaidState::Waiting };
        let room = out.conversation_id.clone();
        Some(Said { id: said.out, room, state, message_id: said.provider, error: None, repeated: true })
    }

    /// Counts one more saying, unless there were too many.
    fn allow(&self) -> Result<(), SpeakError> {
        let message = &self.turn.message;
        if self.core.outbox.said_by(&message.channel, &message.account_id) >= SAID_WAITING {
            return Err(SpeakError::Enough(format!("{SAID_WAITING} messages of this agent wait for their delivery")));
        }
        let mut progress = self.turn.progress();
        if progress.said >= SAYS_PER_TURN {
            return Err(SpeakError::Enough(format!(
                "{SAYS_PER_TURN} messages were sent in this turn, as many as may be"
            )));
        }
        progress.said += 1;
        Ok(())
    }
}

fn told(id: String, room: String, end: Option<Resolved>) -> Said {
    let (state, message_id, error) = match end {
        Some(Ok(message_id)) => (SaidState::Delivered, message_id, None),
        Some(Err(why)) => (SaidState::Failed, None, Some(why)),
        None => (SaidState::Waiting, None, None),
    };
    Said { id, room, state, message_id, error, repeated: false }
}

/// A digest of where and what: the place, the text, the files, the quote.
fn key(out: &Outbound) -> String {
    let files = out.attachments.iter().map(|a| a.file_path.display().to_string());
    let quote = out.reply_to.clone().unwrap_or_default();
    let parts: Vec<String> =
        [out.conversation_id.clone(), out.thread_id.clone().unwrap_or_default(), quote, out.text.clone()]
            .into_iter()
            .chain(files)
            .collect();
    // No part can be mistaken for two: each comes with its length.
    let all = parts.iter().fold(String::new(), |all, part| format!("{all}{}:{part}", part.len()));
    crypto::short_hash(all.as_bytes(), 32)
}
