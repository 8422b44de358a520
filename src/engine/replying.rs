//! When a "being answered" reaction is put on a group message, and on which one.
//!
//! Agents share rooms; the reaction tells people that one of them is at work. It is shown for messages that
//! address the agent and ask for something, and kept away from those that merely inform.

use super::mention;
use crate::message::{ConversationKind, Inbound};
use crate::text;

/// English phrases that ask for an action even in a message that is marked as information.
#[rustfmt::skip]
const STRONG: &[&str] = &[
    "can you", "could you", "would you", "need you", "take a look", "review", "fix", "implement", "publish", "deploy",
    "restart", "verify", "investigate", "check", "confirm", "approve", "blocker", "blocked", "error", "failed",
    "failure", "incident", "rollback", "release", "ship", "merge",
];

/// Weaker English requests.
#[rustfmt::skip]
const POLITE: &[&str] = &[
    "please", "pls",
];

/// English phrases that mark a message as information.
#[rustfmt::skip]
const FYI: &[&str] = &[
    "fyi", "for your awareness", "for visibility", "heads up", "cc", "no action", "no-action", "no reply", "no-reply",
    "no response", "no-response", "just sharing", "just noting", "ack only", "context only", "context-only",
];

/// Chinese phrases that mark a message as information.
#[rustfmt::skip]
const FYI_CJK: &[&str] = &[
    "仅供参考", "供参考", "仅参考", "周知", "知会", "抄送", "备忘", "知悉即可", "看到即可", "仅通知", "仅同步",
    "仅周知", "不用回复", "无需回复", "不用回", "无需回", "不用处理", "无需处理", "不需要处理",
];

/// Chinese marks of a question.
#[rustfmt::skip]
const QUESTION_CJK: &[&str] = &[
    "吗", "呢", "嘛", "是否", "能否", "可否", "是不是", "能不能", "可不可以", "行不行", "怎么", "怎样", "咋办",
    "如何", "为什么", "为何", "啥", "什么", "多少", "哪个", "哪些", "何时", "多久",
];

/// Chinese words that ask for an action, unless a word of [`NOT_ASKED`] stands right before them.
#[rustfmt::skip]
const ACTION_CJK: &[&str] = &[
    "请", "麻烦", "帮忙", "帮我", "帮个忙", "处理", "修复", "修一下", "改一下", "改下", "调整", "看一下", "看下",
    "看看", "瞧瞧", "检查", "确认", "核对", "核实", "排查", "调查", "审查", "审核", "复核", "评审", "部署", "发布",
    "上线", "重启", "回滚", "合并", "推进", "跟进", "落实", "执行", "安排", "搞定", "搞一下", "弄一下", "验证",
    "复现", "定位", "优化", "解决",
];

/// Chinese words that turn an action into something done, under way or not wanted.
#[rustfmt::skip]
const NOT_ASKED: &[&str] = &[
    "不用", "无需", "不需要", "不必", "不想", "暂不", "先不", "别", "勿", "没必要", "已经", "已", "刚刚", "刚",
    "正在", "正",
];

/// Whether the reaction is shown: in a group, for a message that addresses the agent and asks for something.
pub fn is_shown(message: &Inbound) -> bool {
    if message.conversation.kind != ConversationKind::Group || !mention::effective(message) {
        return false;
    }
    let parts = std::iter::once(message.text.as_str()).chain(message.entries.iter().map(|e| e.text.as_str()));
    asks(text::trim(&parts.collect::<Vec<_>>().join("\n")))
}

/// The message that gets the reaction: the latest entry that addresses the agent, else the latest that has an id,
/// else the message itself.
pub fn target(message: &Inbound) -> Option<&str> {
    let with_id = |mentioned_only: bool| {
        let mut entries = message.entries.iter().rev().filter(move |e| e.mentioned || !mentioned_only);
        entries.find_map(|e| e.msg_id.as_deref().filter(|id| !id.is_empty()))
    };
    with_id(true).or_else(|| with_id(false)).or(message.msg_id.as_deref()).filter(|id| !id.is_empty())
}

fn asks(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|p| has_words(&lower, p));
    let holds = |fragments: &[&str]| fragments.iter().any(|f| lower.contains(f));

    let strong = says(STRONG) || lower.contains(['?', '？']) || holds(QUESTION_CJK) || asks_in_chinese(&lower);
    let informs = says(FYI) || holds(FYI_CJK);
    strong || (!informs && says(POLITE))
}

/// Whether `phrase` stands in `text` with no ASCII word character next to it.
fn has_words(text: &str, phrase: &str) -> bool {
    let is_word = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    text.match_indices(phrase).any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|i| text.as_bytes().get(i));
        !is_word(before) && !is_word(text.as_bytes().get(at + phrase.len()))
    })
}

fn asks_in_chinese(text: &str) -> bool {
    ACTION_CJK
        .iter()
        .any(|action| text.match_indices(action).any(|(at, _)| !NOT_ASKED.iter().any(|not| text[..at].ends_with(not))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole() {
        assert!(asks("Fix!"));
        assert!(!asks("prefix_fix suffixed fixing"));
        assert!(asks("ok, 看下"));
    }

    #[test]
    fn information_outweighs_politeness_but_not_a_request() {
        assert!(!asks("fyi, please note"));
        assert!(asks("fyi, please deploy"));
        assert!(!asks("已部署，周知"));
        assert!(asks("周知：请部署"));
    }
}
