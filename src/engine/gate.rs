//! When a message wakes the agent, and what of a turn reaches the room.
//!
//! An [`Policy`] comes from the far side for an agent or for one room; [`wakes`] applies it to a message. The two
//! delivery rules below are here as well because they belong to the same question: who hears whom.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mention;
use crate::message::Inbound;

/// What an agent pays attention to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Mode {
    /// Every message.
    #[default]
    Always,
    /// Messages that address it.
    MentionOnly,
    /// Messages that hold a keyword.
    Keyword,
    /// Messages of listed senders.
    AllowedSenders,
    /// None.
    Muted,
    /// A mode that this version does not know: every message.
    Other(String),
}

impl From<String> for Mode {
    fn from(word: String) -> Self {
        match word.as_str() {
            "always" => Self::Always,
            "mention_only" => Self::MentionOnly,
            "keyword" => Self::Keyword,
            "allowed_senders" => Self::AllowedSenders,
            "muted" => Self::Muted,
            _ => Self::Other(word),
        }
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Always => "always".into(),
            Mode::MentionOnly => "mention_only".into(),
            Mode::Keyword => "keyword".into(),
            Mode::AllowedSenders => "allowed_senders".into(),
            Mode::Muted => "muted".into(),
            Mode::Other(word) => word,
        }
    }
}

/// A policy of attention, in the form in which it travels. The default wakes on everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The rule.
    #[serde(default)]
    pub mode: Mode,
    /// Literal words for [`Mode::Keyword`], compared in lower case.
    #[serde(default)]
    pub keywords: Vec<String>,
    /// Ids for [`Mode::AllowedSenders`], compared exactly.
    #[serde(default, rename = "allowedSenderIds", skip_serializing_if = "Vec::is_empty")]
    pub allowed_sender_ids: Vec<String>,
    /// Nothing wakes the agent before this time (Unix milliseconds).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muted_until: Option<i64>,
}

impl Policy {
    /// Reads a policy from the wire; parts of another type than expected count as absent.
    pub fn from_wire(policy: &Value) -> Self {
        let strings = |key: &str| {
            let list = policy.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            mode: policy.get("mode").and_then(Value::as_str).map(|m| m.to_owned().into()).unwrap_or_default(),
            keywords: strings("keywords"),
            allowed_sender_ids: strings("allowedSenderIds"),
            muted_until: policy.get("muted_until").and_then(Value::as_f64).map(|t| t as i64),
        }
    }

    /// The policy as it holds in a conversation: two-party conversations always wake the agent (unless muted for
    /// a time), whatever the mode says.
    #[must_use]
    pub fn in_conversation(mut self, conversation_id: &str) -> Self {
        const DIRECT: [&str; 4] = ["rm_dm_", "telegram:user:", "wechat:user:", "feishu:user:"];
        if DIRECT.iter().any(|prefix| conversation_id.starts_with(prefix)) {
            self.mode = Mode::Always;
        }
        self
    }

    fn is_muted(&self, now: i64) -> bool {
        self.mode == Mode::Muted || self.muted_until.is_some_and(|until| until > now)
    }
}

/// What a policy looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// Whether the agent is addressed.
    pub mentioned: bool,
    /// What was said.
    pub text: &'a str,
    /// Who said it.
    pub sender_id: Option<&'a str>,
}

/// The plain decision about one subject; `now` in Unix milliseconds.
pub fn should_wake(policy: &Policy, subject: Subject<'_>, now: i64) -> bool {
    if policy.is_muted(now) {
        return false;
    }
    match policy.mode {
        Mode::MentionOnly => subject.mentioned,
        Mode::Keyword => {
            let text = subject.text.to_lowercase();
            let words = policy.keywords.iter().filter(|k| !k.is_empty());
            !text.is_empty() && words.into_iter().any(|k| text.contains(&k.to_lowercase()))
        }
        Mode::AllowedSenders => {
            subject.sender_id.is_some_and(|id| policy.allowed_sender_ids.iter().any(|allowed| allowed == id))
        }
        Mode::Always | Mode::Other(_) | Mode::Muted => true,
    }
}

/// Whether a message wakes its agent. `policy` is what holds in its conversation ([`Policy::in_conversation`]).
///
/// The agent's owner always gets through. Of a batch, one entry that would wake the agent is enough. Mentions that
/// are found in the text set the flags of the message, which composition and reactions see later on; a list of
/// senders is decided without looking at mentions.
pub fn wakes(policy: &Policy, message: &mut Inbound, display_name: Option<&str>, now: i64) -> bool {
    if policy.mode != Mode::AllowedSenders || message.is_owner_chat() {
        let agent = message.account_id.clone();
        mention::apply(message, Some(&agent), display_name);
    }
    if message.is_owner_chat() {
        return true;
    }
    let whole = Subject { mentioned: message.mentioned, text: &message.text, sender_id: Some(&message.sender.id) };
    should_wake(policy, whole, now)
        || message.entries.iter().any(|e| {
            let entry = Subject { mentioned: e.mentioned, text: &e.text, sender_id: Some(&e.sender_id) };
            should_wake(policy, entry, now)
        })
}

/// Whether the final text of a turn is sent to the room of its message.
///
/// On a gated channel ([`Capabilities::gated`](super::ports::Capabilities::gated)) only the owner's chat gets it;
/// elsewhere the agent has to speak by tool.
pub fn text_is_delivered(gated: bool, message: &Inbound) -> bool {
    !gated || message.is_owner_chat()
}

/// Whether a diagnostic (failure, time limit, budget) is sent to the room of its message: everywhere, so that
/// nobody waits for an answer that will not come.
pub fn error_is_delivered(gated: bool, message: &Inbound) -> bool {
    let _ = (gated, message);
    true
}

/// Whether "is typing" is shown: where the far side follows the message's progress, and on gated channels only
/// where it also wants stream blocks.
pub fn typing_is_shown(gated: bool, message: &Inbound) -> bool {
    message.trace.as_ref().is_some_and(|t| t.streamable || !gated)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::message::document;

    fn message(conversation: &str, raw: Value) -> Inbound {
        document::parse(&json!({
            "id": "h_1", "channel": "ag_me", "accountId": "ag_me",
            "conversation": {"id": conversation, "kind": "group"},
            "sender": {"id": "ag_s", "kind": "agent"}, "text": "latest", "raw": raw, "receivedAt": 0
        }))
        .unwrap()
    }

    #[test]
    fn the_owner_gets_through_whatever_the_policy() {
        let policy = Policy { mode: Mode::Muted, muted_until: Some(i64::MAX), ..Policy::default() };
        assert!(wakes(&policy, &mut message("rm_oc_1", json!({})), None, 0));
        assert!(wakes(&policy, &mut message("rm_1", json!({"source_type": "dashboard_user_chat"})), None, 0));
        assert!(!wakes(&policy, &mut message("rm_1", json!({})), None, 0));
    }

    #[test]
    fn one_entry_of_a_batch_is_enough() {
        let batch = json!({"batch": [{"text": "please DEPLOY", "envelope": {"from": "hu_7"}}, {"text": "latest"}]});
        let keyword = Policy { mode: Mode::Keyword, keywords: vec!["deploy".into()], ..Policy::default() };
        assert!(wakes(&keyword, &mut message("rm_1", batch.clone()), None, 0));
        let listed =
            Policy { mode: Mode::AllowedSenders, allowed_sender_ids: vec!["hu_7".into()], ..Policy::default() };
        assert!(wakes(&listed, &mut message("rm_1", batch.clone()), None, 0));
        let muted = Policy { muted_until: Some(10), ..listed };
        assert!(!wakes(&muted, &mut message("rm_1", batch), None, 9));
    }

    #[test]
    fn a_policy_of_odd_shape_is_read_as_far_as_it_goes() {
        let odd = json!({"mode": 7, "keywords": "x", "allowedSenderIds": ["a", 1], "muted_until": "soon"});
        let read = Policy::from_wire(&odd);
        assert_eq!(read, Policy { allowed_sender_ids: vec!["a".into()], ..Policy::default() });
        assert_eq!(Policy::from_wire(&json!({"mode": "new"})).mode, Mode::Other("new".into()));
    }
}
