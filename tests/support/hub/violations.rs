//! What a daemon must never do, even where the hub answers politely.

use std::collections::BTreeSet;

/// One rule each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A header of every request is missing or malformed.
    Headers,
    /// A request id was used for two requests, or changed between the tries of one.
    RequestId,
    /// A JSON body that does not say so.
    ContentType,
    /// A body on GET.
    BodyOnGet,
    /// A field in a body that the hub does not know.
    UnknownField,
    /// An envelope with other fields than it has.
    Envelope,
    /// A poll that claims by acknowledging, or with another limit than 50.
    PollParameters,
    /// Acknowledged or renewed what this agent was never handed.
    NeverHanded,
    /// Acknowledged before the journal had it.
    AckBeforeJournal,
    /// A message id that is no UUID version 4 in lower case.
    MsgId,
    /// A time stamp older than five seconds.
    StaleTs,
    /// A message sent again without asking what became of it.
    BlindRepeat,
    /// Blocks of a trace whose numbers do not grow.
    BlockOrder,
    /// A block after the answer.
    BlockAfterAnswer,
    /// A block that carries the runtime's own event.
    RawBlock,
    /// No stream end within five seconds after the answer in an owner chat.
    NoStreamEnd,
    /// A second WebSocket while the first one lives.
    SecondSocket,
    /// No ping for 25 seconds.
    NoPing,
    /// A Ping that was not answered.
    NoPong,
    /// A token used more than once after a newer one was issued.
    OldToken,
    /// More than one refresh at a time.
    ParallelRefresh,
    /// Ran into a limit that can be kept.
    Pacing,
}

/// What was seen.
#[derive(Default)]
pub struct Ledger {
    seen: Vec<(Rule, String)>,
    allowed: BTreeSet<Rule>,
}

impl Ledger {
    /// Takes it down, unless the test allows it.
    pub fn add(&mut self, rule: Rule, what: String) {
        if !self.allowed.contains(&rule) {
            self.seen.push((rule, what));
        }
    }

    /// From now on this is not taken down; what was seen of it is forgotten.
    pub fn allow(&mut self, rule: Rule) {
        self.allowed.insert(rule);
        self.seen.retain(|(seen, _)| *seen != rule);
    }

    /// Takes out what was seen of one rule.
    pub fn take(&mut self, rule: Rule) -> Vec<String> {
        let (taken, rest) = std::mem::take(&mut self.seen).into_iter().partition(|(seen, _)| *seen == rule);
        self.seen = rest;
        Vec::into_iter(taken).map(|(_, what)| what).collect()
    }

    /// Everything, one line each.
    pub fn lines(&self) -> Vec<String> {
        self.seen.iter().map(|(rule, what)| format!("{rule:?}: {what}")).collect()
    }
}
