//! What the events of `gemini --output-format stream-json` mean.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::engine::ports::{ErrorClass, Usage};
use crate::message::{BlockKind, Digest, Phase, Status};
use crate::runtime::ndjson::{Seen, StreamParser, Then};
use crate::runtime::outcome::{Collected, Parsed, Verdict};
use crate::runtime::process::Ended;
use crate::runtime::{classify, digest, fields};
use crate::text;

/// Tool calls whose names are remembered for their results.
const MAX_OPEN_CALLS: usize = 256;

/// Reads the events of one run.
#[derive(Default)]
pub struct Parser {
    resumed: bool,
    session: Option<String>,
    /// Words since the last result of a tool.
    words: Collected,
    /// The last words before that which were not blank.
    earlier: String,
    /// The last `error` event that was no warning.
    error: Option<String>,
    result: Option<Value>,
    open_calls: BTreeMap<String, String>,
}

impl Parser {
    /// A parser for a run that resumes a session, or begins one.
    pub fn new(resumed: bool) -> Self {
        Self { resumed, ..Self::default() }
    }
}

impl StreamParser for Parser {
    fn event(&mut self, event: &Value) -> Seen {
        match fields::text(event, &["type"]) {
            Some("init") => {
                if let Some(id) = fields::words(event, &["session_id"]) {
                    self.session = Some(id.to_owned());
                }
                Seen::kind(BlockKind::System).status(Status::thinking(Phase::Started, "Starting session"))
            }
            Some("message") if fields::text(event, &["role"]) == Some("assistant") => {
                let content = fields::text(event, &["content"]).unwrap_or_default();
                self.words.push(content);
                Seen::kind(BlockKind::AssistantText).digest(digest::words(content)).status(Status::stopped())
            }
            Some("tool_use") => self.call(event),
            Some("tool_result") => self.tool_result(event),
            Some("error") => {
                if fields::text(event, &["severity"]) == Some("error") {
                    self.error = fields::words(event, &["message"]).map(str::to_owned);
                }
                Seen::kind(BlockKind::Other)
            }
            Some("result") => {
                self.result = Some(event.clone());
                let success = fields::text(event, &["status"]) == Some("success");
                let then = if success { Then::Succeeded } else { Then::Failed };
                Seen::kind(BlockKind::System).status(Status::stopped()).then(then)
            }
            _ => Seen::kind(BlockKind::Other),
        }
    }

    fn stderr_line(&mut self, line: &str) -> Option<Status> {
        let (attempt, status) = retry(line)?;
        Some(Status::thinking(Phase::Updated, format!("Retrying ({status}), attempt {attempt}")))
    }

    fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    fn finish(&mut self, ended: &Ended) -> Parsed {
        let words = if self.words.is_blank() { std::mem::take(&mut self.earlier) } else { self.words.take() };
        let words = words.trim().to_owned();
        let result = self.result.take();
        let by_exit = by_exit_code(ended.exit_code);
        let status = result.as_ref().and_then(|r| fields::text(r, &["status"]));
        let verdict = match (&result, status) {
            (_, Some("success")) => Verdict::Success(words.clone()),
            (Some(result), _) => {
                let message = fields::words(result, &["error", "message"]).map(str::to_owned);
                let message = message.or_else(|| self.error.take());
                let message = message.unwrap_or_else(|| "gemini reported a failure without a message".to_owned());
                Verdict::Failure { class: by_exit.or_else(|| by_http(&message, ended.exit_code)), message }
            }
            (None, _) => Verdict::MissingBecause { message: self.error.take(), class: by_exit },
        };
        Parsed {
            verdict,
            session: self.session.clone(),
            // A session whose first request failed is unknown to the CLI afterwards.
            fresh_session_dies_with_error: !self.resumed,
            partial: words,
            stderr: Some(meaningful(&ended.stderr_tail)),
            usage: result.as_ref().and_then(usage),
            ..Parsed::default()
        }
    }
}

impl Parser {
    fn call(&mut self, event: &Value) -> Seen {
        let name = fields::words(event, &["tool_name"]).unwrap_or("tool");
        if let Some(id) = fields::text(event, &["tool_id"])
            && self.open_calls.len() < MAX_OPEN_CALLS
        {
            self.open_calls.insert(id.to_owned(), name.to_owned());
        }
        let summary = fields::at(event, &["parameters"]).and_then(digest::input);
        Seen::kind(BlockKind::ToolUse)
            .digest(digest::call(name, summary))
            .status(Status::thinking(Phase::Updated, name))
    }

    fn tool_result(&mut self, event: &Value) -> Seen {
        // What was said before a tool ran is narration, unless nothing follows.
        let said = self.words.take();
        if !said.trim().is_empty() {
            self.earlier = said;
        }
        let tool = fields::text(event, &["tool_id"]).and_then(|id| self.open_calls.remove(id));
        let failed = fields::text(event, &["status"]).is_some_and(|status| status != "success");
        let error = fields::words(event, &["error", "message"]).and_then(digest::line);
        let summary = digest::content(fields::at(event, &["output"])).or(error);
        Seen::kind(BlockKind::ToolResult).digest(Digest { text: None, tool, summary, failed })
    }
}

/// Attempt and status of a line that tells of a retry, such as
/// `Attempt 2 failed with status 429. Retrying with backoff...`.
fn retry(line: &str) -> Option<(u32, u32)> {
    let (attempt, rest) = line.strip_prefix("Attempt ")?.split_once(" failed with status ")?;
    let (status, rest) = rest.split_once(". ")?;
    let attempt = attempt.parse().ok()?;
    let status = status.parse().ok()?;
    rest.starts_with("Retrying with backoff").then_some((attempt, status))
}

/// The class that an exit code of the CLI's own tells.
fn by_exit_code(code: Option<i32>) -> Option<ErrorClass> {
    match code? {
        41 => Some(ErrorClass::Auth),
        44 | 52 | 55 => Some(ErrorClass::Config),
        53 => Some(ErrorClass::Limit),
        _ => None,
    }
}

/// Other exit codes of a failed request are the HTTP status modulo 256; they tell the class of a message that
/// does not.
fn by_http(message: &str, code: Option<i32>) -> Option<ErrorClass> {
    if classify::by_text(message).is_some() {
        return None;
    }
    match code? {
        145 | 147 => Some(ErrorClass::Auth),
        173 => Some(ErrorClass::UsageLimit),
        244 | 246..=248 => Some(ErrorClass::Transient),
        _ => None,
    }
}

/// Standard error without the lines that come with every run.
fn meaningful(stderr: &str) -> String {
    let harmless = |line: &&str| {
        line.contains("256-color")
            || line.starts_with("YOLO mode")
            || line.starts_with("Ripgrep is not available")
            || line.starts_with("[STARTUP]")
    };
    let kept: Vec<&str> = stderr.lines().filter(|line| !harmless(line)).collect();
    text::trim(&kept.join("\n")).to_owned()
}

fn usage(result: &Value) -> Option<Usage> {
    let stats = fields::at(result, &["stats"])?;
    let input = fields::count(stats, &["input_tokens"])?;
    let hit = fields::count(stats, &["cached"]).unwrap_or(0);
    let output = fields::count(stats, &["output_tokens"]).unwrap_or(0);
    Some(Usage { hit, miss: input.saturating_sub(hit), output })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::testing::ended;
    use serde_json::json;

    fn says(text: &str) -> Value {
        json!({"type":"message","role":"assistant","content":text,"delta":true})
    }

    fn text_of(events: &[Value]) -> Verdict {
        let mut parser = Parser::new(false);
        for event in events {
            parser.event(event);
        }
        parser.event(&json!({"type":"result","status":"success"}));
        parser.finish(&ended(Some(0), None, "")).verdict
    }

    #[test]
    fn the_reply_is_what_follows_the_last_tool_unless_that_is_blank() {
        let result = json!({"type":"tool_result","tool_id":"t","status":"success"});
        let reply = |text: &str| Verdict::Success(text.into());
        assert_eq!(text_of(&[says("I look."), result.clone(), says("It "), says("is.")]), reply("It is."));
        assert_eq!(text_of(&[says("It is."), result.clone(), says(" \n")]), reply("It is."));
        assert_eq!(text_of(&[says("First."), result.clone(), result, says("")]), reply("First."));
    }

    #[test]
    fn a_retry_is_told_from_stderr() {
        assert_eq!(retry("Attempt 2 failed with status 429. Retrying with backoff... x"), Some((2, 429)));
        for other in ["Attempt x failed with status 429. Retrying with backoff", "Attempt 2 failed", ""] {
            assert_eq!(retry(other), None);
        }
    }

    #[test]
    fn exit_codes_tell_what_messages_do_not() {
        assert_eq!(by_http("[API Error: {}]", Some(173)), Some(ErrorClass::UsageLimit));
        assert_eq!(by_http("API key not valid", Some(173)), None);
        assert_eq!(by_exit_code(Some(53)), Some(ErrorClass::Limit));
    }

    #[test]
    fn lines_of_every_run_are_no_message() {
        let stderr = "Warning: 256-color support not detected.\nYOLO mode is enabled.\n[STARTUP] x\nreal\n";
        assert_eq!(meaningful(stderr), "real");
    }
}
