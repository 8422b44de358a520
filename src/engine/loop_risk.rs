//! Signs that agents talk to each other without end.
//!
//! [`LoopWatch`] keeps the last few texts of each conversation and names suspicious patterns, which become a hint
//! in the agent's context. It only warns; what stops a loop is the [`fuse`](super::fuse). Times are given by the
//! caller, in Unix milliseconds.

use std::collections::{BTreeSet, HashMap, VecDeque};

use serde::Serialize;
use serde_json::Value;

use crate::message::{Block, BlockKind};
use crate::text;

/// Texts kept per conversation and side.
const SAMPLES: usize = 6;
/// How long a text counts, in milliseconds.
const SAMPLE_AGE_MS: i64 = 600_000;
/// Window of the turn rate, in milliseconds.
const RATE_WINDOW_MS: i64 = 120_000;
/// Conversations kept; beyond it the ones longest unused are forgotten.
const CONVERSATIONS: usize = 4_096;
/// How far apart the sample of a post and its sight in the room may be, in milliseconds.
const ECHO_MS: i64 = 120_000;
/// How far apart two sights of one post may be, in milliseconds.
const AGAIN_MS: i64 = 10_000;

/// Acknowledgements that carry nothing, in normalised form.
#[rustfmt::skip]
const ACKS: &[&str] = &[
    "ok", "okay", "got it", "thanks", "thank you", "noted", "understood", "sounds good", "sgtm", "roger", "copy",
    "will do", "all good", "no worries", "bye", "goodbye", "see you", "talk later", "收到", "好的", "好", "行", "嗯",
    "嗯嗯", "明白", "明白了", "知道了", "谢谢", "谢谢你", "感谢", "辛苦了", "先这样", "回头聊", "有需要再说", "没问题",
    "了解", "好嘞",
];

/// A sign of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Both sides answer each other in quick succession.
    HighTurnRate,
    /// The other side's last two texts are mere acknowledgements.
    ShortAckTail,
    /// The agent repeats itself.
    RepeatedOutbound,
}

impl Reason {
    /// The word that the agent is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HighTurnRate => "high_turn_rate",
            Self::ShortAckTail => "short_ack_tail",
            Self::RepeatedOutbound => "repeated_outbound",
        }
    }
}

/// Which way a text went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// To the agent.
    In,
    /// From the agent.
    Out,
}

#[derive(Debug)]
struct Sample {
    at: i64,
    /// Normalised; never empty.
    text: String,
    /// When it was last seen in the room, if it was.
    seen: Option<i64>,
}

#[derive(Debug, Default)]
struct Conversation {
    inbound: VecDeque<Sample>,
    outbound: VecDeque<Sample>,
    used: i64,
}

/// Remembers recent texts per conversation ([`Inbound::loop_key`](crate::message::Inbound::loop_key)), in memory only.
#[derive(Debug, Default)]
pub struct LoopWatch {
    conversations: HashMap<String, Conversation>,
}

impl LoopWatch {
    /// Notes a text. Texts that normalise to nothing are passed over; diagnostics should not be noted at all.
    pub fn record(&mut self, key: &str, side: Side, text: &str, at: i64) {
        let text = normalise(text);
        if text.is_empty() {
            return;
        }
        if !self.conversations.contains_key(key) && self.conversations.len() >= CONVERSATIONS {
            let oldest = self.conversations.iter().min_by_key(|(_, c)| c.used).map(|(k, _)| k.clone());
            oldest.and_then(|k| self.conversations.remove(&k));
        }
        let conversation = self.conversations.entry(key.to_owned()).or_default();
        conversation.used = conversation.used.max(at);
        let list = match side {
            Side::In => &mut conversation.inbound,
            Side::Out => &mut conversation.outbound,
        };
        list.push_back(Sample { at, text, seen: None });
        if list.len() > SAMPLES {
            list.pop_front();
        }
    }

    /// Notes a text of the agent that was seen in the room: what was noted when it was sent is not noted again.
    pub fn saw_own(&mut self, key: &str, text: &str, at: i64) {
        let said = normalise(text);
        let noted = self.conversations.get_mut(key).and_then(|conversation| {
            let is_near = |other: i64, most: i64| other.saturating_sub(at).saturating_abs() <= most;
            let was_noted = |s: &Sample| s.seen.map_or_else(|| is_near(s.at, ECHO_MS), |seen| is_near(seen, AGAIN_MS));
            let is_it = |s: &Sample| s.text == said && was_noted(s);
            conversation.outbound.iter_mut().find(|s| is_it(s))
        });
        match noted {
            Some(sample) => sample.seen = Some(at),
            None => {
                self.record(key, Side::Out, text, at);
                let Some(conversation) = self.conversations.get_mut(key) else { return };
                let list = &mut conversation.outbound;
                if let Some(sample) = list.back_mut().filter(|s| s.at == at && s.text == said) {
                    sample.seen = Some(at);
                }
                // Histories tell of what was before.
                for newest in (1..list.len()).rev() {
                    if list[newest - 1].at <= list[newest].at {
                        break;
                    }
                    list.swap(newest - 1, newest);
                }
            }
        }
    }

    /// What looks like a loop in a conversation.
    pub fn evaluate(&mut self, key: &str, now: i64) -> Vec<Reason> {
        let Some(conversation) = self.conversations.get_mut(key) else { return Vec::new() };
        for list in [&mut conversation.inbound, &mut conversation.outbound] {
            list.retain(|s| now.saturating_sub(s.at) <= SAMPLE_AGE_MS);
        }
        if conversation.inbound.is_empty() && conversation.outbound.is_empty() {
            self.conversations.remove(key);
            return Vec::new();
        }
        let signs = [
            (Reason::HighTurnRate, high_turn_rate(conversation, now)),
            (Reason::ShortAckTail, short_ack_tail(&conversation.inbound)),
            (Reason::RepeatedOutbound, repeated(&conversation.outbound)),
        ];
        signs.into_iter().filter(|(_, found)| *found).map(|(reason, _)| reason).collect()
    }
}

/// A text reduced to what is said: frame lines, links, punctuation, case and spacing are gone.
pub fn normalise(text: &str) -> String {
    let lines = text.split('\n').map(text::trim).filter(|l| !l.is_empty() && !is_frame(l));
    let text = lines.collect::<Vec<_>>().join("\n").to_lowercase();
    let spaced: String =
        without_links(&text).chars().map(|c| if c.is_alphanumeric() || c.is_whitespace() { c } else { ' ' }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_frame(line: &str) -> bool {
    const STARTS: [&str; 5] =
        ["[BotCord Message]", "[BotCord Notification]", "[Room Rule]", "<agent-message", "<human-message"];
    STARTS.iter().any(|s| line.starts_with(s)) || matches!(line, "</agent-message>" | "</human-message>")
}

/// `text` (in lower case) without runs that begin with `http://` or `https://`.
fn without_links(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("http") {
        let link = &rest[at..];
        let after = link.strip_prefix("https://").or_else(|| link.strip_prefix("http://"));
        let Some(after) = after.filter(|a| a.starts_with(|c: char| !c.is_whitespace())) else {
            out.push_str(&rest[..at + 4]);
            rest = &link[4..];
            continue;
        };
        out.push_str(&rest[..at]);
        rest = after.find(char::is_whitespace).map_or("", |end| &after[end..]);
    }
    out.push_str(rest);
    out
}

/// Eight texts in two minutes, three on each side, with six changes of side.
fn high_turn_rate(conversation: &Conversation, now: i64) -> bool {
    let recent = |list: &VecDeque<Sample>, side: Side| -> Vec<(i64, Side)> {
        list.iter().filter(|s| now.saturating_sub(s.at) <= RATE_WINDOW_MS).map(|s| (s.at, side)).collect()
    };
    let inbound = recent(&conversation.inbound, Side::In);
    let outbound = recent(&conversation.outbound, Side::Out);
    if inbound.len() < 3 || outbound.len() < 3 || inbound.len() + outbound.len() < 8 {
        return false;
    }
    let mut all = [inbound, outbound].concat();
    crate::sort::sort_by_key(&mut all, |(at, side)| (*at, *side));
    all.windows(2).filter(|pair| pair[0].1 != pair[1].1).count() >= 6
}

fn short_ack_tail(inbound: &VecDeque<Sample>) -> bool {
    inbound.len() >= 2 && inbound.iter().rev().take(2).all(|s| ACKS.contains(&s.text.as_str()))
}

fn repeated(outbound: &VecDeque<Sample>) -> bool {
    let mut latest = outbound.iter().rev().map(|s| s.text.as_str());
    let Some(last) = latest.next() else { return false };
    let earlier: Vec<&str> = latest.take(2).collect();
    earlier.contains(&last) || earlier.len() == 2 && earlier.iter().all(|e| are_similar(e, last))
}

/// Whether the three-unit grams of two texts agree to 88 in a hundred.
fn are_similar(a: &str, b: &str) -> bool {
    if text::len_utf16(a) < 6 || text::len_utf16(b) < 6 {
        return a == b;
    }
    let grams = |t: &str| -> BTreeSet<[u16; 3]> {
        let units: Vec<u16> = t.encode_utf16().collect();
        units.windows(3).map(|w| [w[0], w[1], w[2]]).collect()
    };
    let (a, b) = (grams(a), grams(b));
    let common = a.intersection(&b).count();
    let all = a.len() + b.len() - common;
    common as f64 / all as f64 >= 0.88
}

/// What a shell command that sends a text has in it.
const SENDING: [&str; 4] = ["botcord send ", "botcord reply ", "bellhop room send ", "bellhop room reply "];

/// The text that a tool call sends to a room by itself, apart from the turn's reply: `botcord send … --text "…"` or
/// `bellhop room send …` in a shell, or the `botcord_send` tool.
pub fn sent_by_tool(block: &Block) -> Option<String> {
    if block.kind != BlockKind::ToolUse {
        return None;
    }
    let tool = block.digest.tool.as_deref().unwrap_or_default();
    if tool.ends_with("botcord_send") {
        return find_string(&block.raw, &|key, _| matches!(key, "text" | "message"), 0).map(str::to_owned);
    }
    let sends = |value: &str| SENDING.iter().any(|command| value.contains(command));
    let command = find_string(&block.raw, &|_, value| sends(value), 0)?;
    let (_, after) = command.split_once("--text")?;
    let after = after.trim_start_matches([' ', '=']);
    match after.chars().next()? {
        quote @ ('"' | '\'') => after[1..].split(quote).next().map(str::to_owned),
        _ => after.split_whitespace().next().map(str::to_owned),
    }
}

/// The first string below `value` that fits; runtimes nest their tool input differently. At most 8 levels deep.
fn find_string<'v>(value: &'v Value, fits: &dyn Fn(&str, &str) -> bool, depth: usize) -> Option<&'v str> {
    if depth > 8 {
        return None;
    }
    match value {
        Value::Object(map) => map.iter().find_map(|(key, value)| match value {
            Value::String(s) if fits(key, s) => Some(s.as_str()),
            other => find_string(other, fits, depth + 1),
        }),
        Value::Array(list) => list.iter().find_map(|value| match value {
            Value::String(s) if fits("", s) => Some(s.as_str()),
            other => find_string(other, fits, depth + 1),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::message::Digest;

    #[test]
    fn texts_sent_by_tool_are_seen() {
        let block = |tool: &str, raw: Value| Block {
            kind: BlockKind::ToolUse,
            seq: 1,
            raw,
            digest: Digest { tool: Some(tool.into()), ..Digest::default() },
        };
        let shell = block("Bash", json!({"input": {"command": "botcord send --room rm_1 --text \"on it\" --json"}}));
        assert_eq!(sent_by_tool(&shell).as_deref(), Some("on it"));
        let own = block("Bash", json!({"input": {"command": "bellhop room reply --text 'on it'"}}));
        assert_eq!(sent_by_tool(&own).as_deref(), Some("on it"));
        let tool = block("mcp__botcord__botcord_send", json!({"input": {"room_id": "rm_1", "text": "on it"}}));
        assert_eq!(sent_by_tool(&tool).as_deref(), Some("on it"));
        assert_eq!(sent_by_tool(&block("Bash", json!({"input": {"command": "ls"}}))), None);
    }

    #[test]
    fn a_post_that_is_seen_in_the_room_counts_once() {
        let mut watch = LoopWatch::default();
        watch.record("k", Side::Out, "On it.", 10_000);
        watch.saw_own("k", "on it", 70_000);
        watch.saw_own("k", "on it!", 71_000);
        assert_eq!(watch.evaluate("k", 80_000), []);
        // Said by another session of the agent, and told of by the history only.
        watch.saw_own("k", "on it", 40_000 + ECHO_MS);
        watch.saw_own("k", "earlier", 1_000);
        assert_eq!(watch.evaluate("k", 200_000), [Reason::RepeatedOutbound]);
        let order: Vec<i64> = watch.conversations["k"].outbound.iter().map(|s| s.at).collect();
        assert_eq!(order, [1_000, 10_000, 40_000 + ECHO_MS]);
    }

    #[test]
    fn links_are_removed_and_nothing_else() {
        assert_eq!(without_links("a http:// b https://x http y"), "a http:// b  http y");
    }

    #[test]
    fn forgotten_conversations_make_room() {
        let mut watch = LoopWatch::default();
        for n in 0..=CONVERSATIONS {
            watch.record(&n.to_string(), Side::In, "x", n as i64);
        }
        assert_eq!(watch.conversations.len(), CONVERSATIONS);
        assert!(!watch.conversations.contains_key("0"));
    }
}
