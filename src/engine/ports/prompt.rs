//! Who tells a runtime what.

use std::ops::Range;

use super::{RecentMessage, SystemRule};
use crate::message::Inbound;

/// What a prompt builder is told besides the message.
#[derive(Clone, Copy, Debug, Default)]
pub struct PromptFacts<'a> {
    /// Runtime that will run the turn.
    pub runtime: &'a str,
    /// Type of the message's channel.
    pub channel_kind: &'a str,
    /// Whether the text of the turn reaches the room (else the agent has to speak by tool).
    pub text_is_delivered: bool,
    /// Whether the channel answers questions about its rooms, and takes files.
    pub has_tools: bool,
}

/// Why a session starts anew in the middle of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreshStart<'a> {
    /// The previous session could not be resumed or compacted; the error is redacted.
    Failed(&'a str),
    /// It had grown too large.
    TooLarge {
        /// Input tokens of its last turn.
        tokens: u64,
        /// Turns it had.
        turns: u64,
    },
    /// It had lasted for many turns.
    TooOld {
        /// Turns it had.
        turns: u64,
    },
    /// The working directory is another one, and the CLI ties sessions to directories.
    Moved,
}

/// What a user turn is put into when something happened that the agent has to know first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A fresh session continues an old conversation.
    Recovery {
        /// Runtime id.
        runtime: &'a str,
        /// Why.
        why: FreshStart<'a>,
        /// What was said last in the room, oldest first; `None` when unavailable.
        recent: Option<&'a [RecentMessage]>,
    },
    /// The working memory changed since the session saw it.
    MemoryChanged {
        /// Version that the session knows.
        old: Option<&'a str>,
        /// Version now.
        new: &'a str,
    },
    /// An earlier attempt of this turn was interrupted after it may have had effects.
    Interrupted {
        /// This attempt, from 2.
        attempt: u32,
    },
}

/// What a runtime is told besides the user turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemContext {
    /// The whole.
    pub text: String,
    /// Parts of it that are about this moment and read differently the next time, in their order: for CLIs that keep
    /// every version of what they are told.
    pub passing: Vec<Range<usize>>,
}

impl<T: Into<String>> From<T> for SystemContext {
    fn from(text: T) -> Self {
        Self { text: text.into(), passing: Vec::new() }
    }
}

impl SystemContext {
    /// What lasts, and what does not; both may be empty.
    pub fn split(&self) -> (String, String) {
        let (mut lasting, mut now, mut at) = (String::new(), Vec::new(), 0);
        for part in &self.passing {
            lasting.push_str(self.text.get(at..part.start).unwrap_or_default());
            now.extend(self.text.get(part.clone()).map(str::trim));
            at = part.end;
        }
        lasting.push_str(self.text.get(at..).unwrap_or_default());
        (lasting.trim().to_owned(), now.join("\n\n"))
    }
}

/// Composes what a runtime is told. Called on the turn's thread; quick, and free of network calls except
/// where a channel offers context: context and rules are asked for on a thread of their own, and a turn runs without
/// what takes longer than `Settings::context_limit`.
pub trait PromptBuilder: Send + Sync {
    /// The user turn. A failure makes the engine use the trimmed raw text.
    fn user_turn(&self, message: &Inbound, facts: PromptFacts<'_>) -> Result<String, String>;

    /// The system context, built afresh for each run; `None` when there is nothing to say.
    fn system_context(&self, message: &Inbound, facts: PromptFacts<'_>) -> Option<SystemContext>;

    /// Rules of the room.
    fn system_rules(&self, message: &Inbound) -> Vec<SystemRule>;

    /// The user turn with the notice that `frame` asks for in front of it.
    fn framed(&self, user_turn: &str, frame: Frame<'_>) -> String;

    /// Version of the agent's working memory, where it has one.
    fn memory_version(&self, account_id: &str) -> Option<String> {
        let _ = account_id;
        None
    }
}
