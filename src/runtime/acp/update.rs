//! `session/update`: what an agent says while a turn runs, and which of its words are the answer.

use serde_json::Value;

use crate::message::{BlockKind, Digest, Phase, Status};

/// Longest title of a tool in a status event, in UTF-16 units.
const TITLE_LIMIT: usize = 80;
/// Longest line about a tool in a digest, in UTF-16 units.
const SUMMARY_LIMIT: usize = 200;
/// Most bytes of UTF-8 that are collected as answer; the rest is dropped.
pub const TEXT_LIMIT: usize = 1_048_576;

/// One update, as far as anything depends on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The session it belongs to.
    pub session_id: Option<String>,
    /// What to show; `None` for thoughts, which stay private.
    pub kind: Option<BlockKind>,
    /// Change of status.
    pub status: Option<Status>,
    /// Words of the agent.
    pub text: Option<String>,
    /// A tool call has ended: words before it were not the answer.
    pub tool_finished: bool,
    /// Size of the context in tokens.
    pub context_used: Option<u64>,
    /// For people.
    pub digest: Digest,
}

impl Update {
    /// Reads the parameters of the notification.
    pub fn from_params(params: &Value) -> Self {
        let update = params.get("update").unwrap_or(&Value::Null);
        let string = |name: &str| update.get(name).and_then(Value::as_str);
        let mut read = Self {
            session_id: params.get("sessionId").and_then(Value::as_str).map(str::to_owned),
            kind: Some(BlockKind::Other),
            status: None,
            text: None,
            tool_finished: false,
            context_used: None,
            digest: Digest::default(),
        };
        let finished = matches!(string("status"), Some("completed" | "failed"));
        match string("sessionUpdate").unwrap_or_default() {
            "agent_message_chunk" => {
                read.kind = Some(BlockKind::AssistantText);
                read.text = content_text(update).map(str::to_owned);
                read.digest.text.clone_from(&read.text);
                if read.text.as_deref().is_some_and(|t| !t.is_empty()) {
                    read.status = Some(Status::stopped());
                }
            }
            "agent_thought_chunk" => {
                read.kind = None;
                read.status = Some(Status::thinking(Phase::Updated, "Thinking"));
            }
            "tool_call" => {
                read.kind = Some(BlockKind::ToolUse);
                read.tool_finished = finished;
                read.show_tool(update);
                read.status = Some(Status::thinking(Phase::Updated, title(update)));
            }
            "tool_call_update" if finished => {
                read.kind = Some(BlockKind::ToolResult);
                read.tool_finished = true;
                read.show_tool(update);
            }
            "tool_call_update" => {
                read.kind = Some(BlockKind::ToolUse);
                read.show_tool(update);
                read.status = Some(Status::thinking(Phase::Updated, title(update)));
            }
            "usage_update" => {
                read.kind = Some(BlockKind::System);
                read.context_used = update.get("used").and_then(Value::as_u64);
            }
            "plan"
            | "available_commands_update"
            | "current_mode_update"
            | "config_option_update"
            | "session_info_update" => read.kind = Some(BlockKind::System),
            _ => {}
        }
        read
    }

    fn show_tool(&mut self, update: &Value) {
        self.digest.tool = Some(title(update));
        self.digest.failed = update.get("status").and_then(Value::as_str) == Some("failed");
        let command = update.get("rawInput").and_then(|input| input.get("command")).and_then(Value::as_str);
        let line = command.or_else(|| first_content_text(update));
        self.digest.summary = line.map(|l| crate::text::clip(&one_line(l), SUMMARY_LIMIT)).filter(|l| !l.is_empty());
    }
}

/// White space collapsed. Only the beginning is looked at: tools print megabytes.
fn one_line(text: &str) -> String {
    crate::text::head(text, 4 * SUMMARY_LIMIT).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn title(update: &Value) -> String {
    let title = update.get("title").and_then(Value::as_str).unwrap_or_default().trim();
    if title.is_empty() { "tool".into() } else { crate::text::head(title, TITLE_LIMIT).into() }
}

fn content_text(update: &Value) -> Option<&str> {
    let content = update.get("content")?;
    if content.get("type")?.as_str()? != "text" {
        return None;
    }
    content.get("text")?.as_str()
}

fn first_content_text(update: &Value) -> Option<&str> {
    update.get("content")?.as_array()?.iter().find_map(|part| part.get("content")?.get("text")?.as_str())
}

/// The answer among the words of a turn: those after the last finished tool call; where they are blank,
/// those before it, and so on. What came earlier was narration.
#[derive(Clone, Debug, Default)]
pub struct AnswerText {
    current: String,
    /// The last stretch that was not blank.
    earlier: String,
    truncated: bool,
}

impl AnswerText {
    /// More words. Beyond [`TEXT_LIMIT`] they are dropped, once with a warning.
    pub fn push(&mut self, text: &str) {
        if self.truncated {
            return;
        }
        let room = TEXT_LIMIT - self.current.len();
        if text.len() <= room {
            self.current.push_str(text);
            return;
        }
        let cut = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        self.current.push_str(&text[..cut]);
        self.truncated = true;
        log::warn!("acp.text_truncated limit={TEXT_LIMIT}");
    }

    /// A tool call has ended.
    pub fn tool_finished(&mut self) {
        if self.current.trim().is_empty() {
            self.current.clear();
        } else {
            self.earlier = std::mem::take(&mut self.current);
            self.truncated = false;
        }
    }

    /// The answer so far, trimmed.
    pub fn answer(&self) -> &str {
        let current = self.current.trim();
        if current.is_empty() { self.earlier.trim() } else { current }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn narration_before_a_tool_is_not_the_answer() {
        let mut text = AnswerText::default();
        text.push("I will ");
        text.push("look.");
        text.tool_finished();
        assert_eq!(text.answer(), "I will look.");
        text.push("\n");
        text.tool_finished();
        assert_eq!(text.answer(), "I will look.");
        text.push("\n\nIt is 42. ");
        assert_eq!(text.answer(), "It is 42.");
    }

    #[test]
    fn text_is_cut_at_a_character() {
        let mut text = AnswerText::default();
        text.push(&"x".repeat(TEXT_LIMIT - 1));
        text.push("é");
        text.push("y");
        assert_eq!(text.answer().len(), TEXT_LIMIT - 1);
        text.tool_finished();
        text.push("after");
        assert_eq!(text.answer(), "after");
    }

    #[test]
    fn odd_updates_are_other() {
        for params in [Value::Null, json!({"update":3}), json!({"update":{"sessionUpdate":"novelty"}})] {
            assert_eq!(Update::from_params(&params).kind, Some(BlockKind::Other), "{params}");
        }
    }

    #[test]
    fn a_failed_tool_is_shown_as_failed() {
        let update = Update::from_params(&json!({"sessionId":"s","update":{"sessionUpdate":"tool_call_update",
            "status":"failed","title":"  run  ","content":[{"type":"content","content":{"type":"text","text":"no\nway"}}]}}));
        assert_eq!(update.kind, Some(BlockKind::ToolResult));
        assert!(update.tool_finished && update.digest.failed);
        assert_eq!(update.digest.summary.as_deref(), Some("no way"));
        assert_eq!(update.digest.tool.as_deref(), Some("run"));
    }
}
