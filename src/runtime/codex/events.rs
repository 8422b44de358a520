//! What the events of `codex exec --json` mean.

use serde_json::Value;

use crate::engine::ports::{ErrorClass, ResumedSession, Usage};
use crate::message::{BlockKind, Digest, Phase, Status};
use crate::runtime::ndjson::{Seen, StreamParser, Then};
use crate::runtime::outcome::{Parsed, Verdict};
use crate::runtime::process::Ended;
use crate::runtime::{classify, digest, fields};
use crate::text;

/// Longest excerpt of an event that stands for a message, in UTF-16 units.
const MAX_EXCERPT: usize = 800;
/// How much of standard error becomes the message when there was no event, in UTF-16 units.
const STDERR_IN_MESSAGE: usize = 500;
/// Lines that mean nothing for the turn: the first comes whenever a prompt is on the command line, the second
/// where the home lies below the directory for temporary files.
const HARMLESS: [&str; 2] = ["Reading additional input from stdin", "could not create PATH aliases"];

/// Reads the events of one run.
pub struct Parser {
    resumed: Option<ResumedSession>,
    session: Option<String>,
    /// The last message: earlier ones narrate.
    message: Option<String>,
    verdict: Verdict,
    /// An `error` event. It counts only when the process ends without a terminal event.
    error: Option<String>,
    /// The last lost connection, which Codex takes up again by itself.
    reconnect: Option<String>,
    totals: Option<Totals>,
    tool_items: u64,
    events: bool,
}

/// Counts since the beginning of the thread.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Totals {
    input: u64,
    cached: u64,
    output: u64,
}

impl Totals {
    fn of(event: &Value) -> Option<Self> {
        let usage = fields::at(event, &["usage"])?;
        let part = |key: &str| fields::count(usage, &[key]);
        // An older release sends an empty object: no numbers are not zero tokens.
        part("input_tokens").or(part("output_tokens"))?;
        let part = |key| part(key).unwrap_or(0);
        Some(Self { input: part("input_tokens"), cached: part("cached_input_tokens"), output: part("output_tokens") })
    }

    fn usage(self) -> Usage {
        Usage { hit: self.cached, miss: self.input.saturating_sub(self.cached), output: self.output }
    }

    /// What came on top of `before`; all of it when a count has become smaller (another thread).
    fn since(self, before: Usage) -> Self {
        let before = Self { input: before.hit.saturating_add(before.miss), cached: before.hit, output: before.output };
        let less = |now: u64, then: u64| now.checked_sub(then);
        match (less(self.input, before.input), less(self.cached, before.cached), less(self.output, before.output)) {
            (Some(input), Some(cached), Some(output)) => Self { input, cached, output },
            _ => self,
        }
    }
}

impl Parser {
    /// A parser for a run that resumes this session, or begins one.
    pub fn new(resumed: Option<&ResumedSession>) -> Self {
        Self {
            resumed: resumed.cloned(),
            session: None,
            message: None,
            verdict: Verdict::Missing,
            error: None,
            reconnect: None,
            totals: None,
            tool_items: 0,
            events: false,
        }
    }
}

impl StreamParser for Parser {
    fn event(&mut self, event: &Value) -> Seen {
        self.events = true;
        match fields::text(event, &["type"]) {
            Some("thread.started") => {
                if let Some(id) = fields::words(event, &["thread_id"]) {
                    self.session = Some(id.to_owned());
                }
                Seen::kind(BlockKind::System).status(Status::thinking(Phase::Started, "Starting session"))
            }
            Some("turn.started") => Seen::kind(BlockKind::System).status(Status::thinking(Phase::Started, "Thinking")),
            Some("turn.completed") => self.completed(event),
            Some("turn.failed") => {
                let message = message_of(event, &["error"]);
                self.verdict = Verdict::Failure { message, class: None };
                Seen::kind(BlockKind::Other).status(Status::stopped()).then(Then::Failed)
            }
            Some("error") => self.error(event),
            Some("item.started") => started(event),
            Some("item.completed") => self.item(event),
            _ => Seen::kind(BlockKind::Other),
        }
    }

    fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    fn finish(&mut self, ended: &Ended) -> Parsed {
        let said: Vec<&str> =
            ended.stderr_tail.lines().filter(|line| !HARMLESS.iter().any(|words| line.contains(words))).collect();
        let stderr = text::trim(&said.join("\n")).to_owned();
        let mut verdict = std::mem::take(&mut self.verdict);
        if verdict == Verdict::Missing {
            let told = self.error.take().or_else(|| self.reconnect.take());
            // Without any event standard error is the whole message.
            let only = (!self.events && !stderr.is_empty()).then(|| text::tail(&stderr, STDERR_IN_MESSAGE).to_owned());
            let class = only.as_ref().map(|words| {
                let failed = ended.exit_code.is_some_and(|code| code != 0);
                let otherwise = if failed { ErrorClass::Config } else { ErrorClass::Protocol };
                classify::by_text(words).unwrap_or(otherwise)
            });
            if let Some(message) = told.or(only) {
                verdict = Verdict::MissingBecause { message: Some(message), class };
            }
        }
        if let Verdict::Success(text) = &mut verdict {
            self.message.take().unwrap_or_default().trim().clone_into(text);
        }
        let turn = self.totals.and_then(|totals| self.turn(totals));
        Parsed {
            verdict,
            session: self.session.clone(),
            partial: self.message.take().unwrap_or_default(),
            stderr: Some(stderr),
            usage: turn.map(Totals::usage),
            usage_totals: self.totals.map(Totals::usage),
            context_tokens: turn.map(|turn| turn.input / (1 + self.tool_items)),
            ..Parsed::default()
        }
    }
}

impl Parser {
    /// The counts of this turn; `None` when a thread was resumed whose earlier counts are unknown.
    fn turn(&self, totals: Totals) -> Option<Totals> {
        let Some(resumed) = &self.resumed else { return Some(totals) };
        if self.session.as_ref().is_some_and(|id| *id != resumed.id) {
            return Some(totals);
        }
        resumed.usage_totals.map(|before| totals.since(before))
    }

    fn completed(&mut self, event: &Value) -> Seen {
        self.totals = Totals::of(event).or(self.totals);
        let failed = fields::text(event, &["turn", "status"]) == Some("failed");
        self.verdict = if failed {
            Verdict::Failure { message: message_of(event, &["turn", "error"]), class: None }
        } else {
            Verdict::Success(String::new())
        };
        let then = if failed { Then::Failed } else { Then::Succeeded };
        Seen::kind(BlockKind::System).status(Status::stopped()).then(then)
    }

    fn error(&mut self, event: &Value) -> Seen {
        let message = match fields::words(event, &["message"]).or_else(|| fields::words(event, &["error"])) {
            Some(message) => message.to_owned(),
            None => message_of(event, &["error"]),
        };
        if message.starts_with("Reconnecting...") {
            self.reconnect = Some(message);
            return Seen::kind(BlockKind::Other).status(Status::thinking(Phase::Updated, "Reconnecting"));
        }
        self.error = Some(message);
        Seen::kind(BlockKind::Other)
    }

    fn item(&mut self, event: &Value) -> Seen {
        let kind = fields::text(event, &["item", "type"]).unwrap_or_default();
        if kind == "agent_message" {
            let text = fields::text(event, &["item", "text"]).unwrap_or_default();
            let text = crate::runtime::outcome::cap(text, crate::runtime::outcome::MAX_TEXT);
            self.message = Some(text.to_owned());
            return Seen::kind(BlockKind::AssistantText).digest(digest::message(text)).status(Status::stopped());
        }
        if kind == "error" {
            let message = fields::text(event, &["item", "message"]).unwrap_or_default();
            log::warn!("codex.warning text={}", crate::redact::text(&text::preview(message)));
        }
        if label(kind).is_none() {
            return Seen::kind(BlockKind::Other);
        }
        self.tool_items += 1;
        Seen::kind(BlockKind::ToolResult).digest(result_digest(kind, event))
    }
}

/// What a person is told while a tool item of this kind runs; `None` for what is no tool.
fn label(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "command_execution" => "Running command",
        "file_change" => "Editing files",
        "mcp_tool_call" => "Calling tool",
        "web_search" => "Searching web",
        _ => return None,
    })
}

fn started(event: &Value) -> Seen {
    let kind = fields::text(event, &["item", "type"]).unwrap_or_default();
    let Some(label) = label(kind) else { return Seen::kind(BlockKind::Other) };
    let item = fields::at(event, &["item"]).unwrap_or(&Value::Null);
    let summary = match kind {
        "file_change" => changes(item),
        "mcp_tool_call" => fields::at(item, &["arguments"]).and_then(digest::input),
        "web_search" => fields::text(item, &["query"]).and_then(digest::line),
        _ => fields::text(item, &["command"]).and_then(digest::line),
    };
    Seen::kind(BlockKind::ToolUse)
        .digest(digest::call(&tool(kind, item), summary))
        .status(Status::thinking(Phase::Updated, label))
}

/// The name that a person knows the tool by.
fn tool(kind: &str, item: &Value) -> String {
    match (kind, fields::text(item, &["server"]), fields::text(item, &["tool"])) {
        ("mcp_tool_call", Some(server), Some(tool)) => format!("{server}.{tool}"),
        ("mcp_tool_call", None, Some(tool)) => tool.to_owned(),
        _ => kind.to_owned(),
    }
}

fn changes(item: &Value) -> Option<String> {
    let changes: Vec<String> = fields::list(item, &["changes"])
        .iter()
        .take(16)
        .filter_map(|c| Some(format!("{} {}", fields::text(c, &["kind"])?, fields::text(c, &["path"])?)))
        .collect();
    digest::line(&changes.join(", "))
}

fn result_digest(kind: &str, event: &Value) -> Digest {
    let item = fields::at(event, &["item"]).unwrap_or(&Value::Null);
    let error = fields::words(item, &["error", "message"]).or_else(|| fields::words(item, &["error"]));
    let summary = match kind {
        "command_execution" => fields::text(item, &["aggregated_output"]).and_then(digest::line),
        "file_change" => changes(item),
        "mcp_tool_call" => {
            error.and_then(digest::line).or_else(|| digest::content(fields::at(item, &["result", "content"])))
        }
        _ => fields::text(item, &["query"]).and_then(digest::line),
    };
    let failed = fields::text(item, &["status"]) == Some("failed") || error.is_some();
    Digest { text: None, tool: Some(tool(kind, item)), summary, failed }
}

/// The message of an error at a path, else the beginning of the whole event.
fn message_of(event: &Value, path: &[&str]) -> String {
    let error = fields::at(event, path);
    let told = error.and_then(|e| fields::words(e, &["message"]).or_else(|| e.as_str()));
    match told.filter(|told| !told.trim().is_empty()) {
        Some(told) => told.to_owned(),
        None => text::clip(&event.to_string(), MAX_EXCERPT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::testing::ended;
    use serde_json::json;

    fn turn(resumed: Option<(&str, Option<Usage>)>, announced: &str) -> Parsed {
        let resumed = resumed.map(|(id, totals)| ResumedSession {
            id: id.into(),
            usage_totals: totals,
            ..ResumedSession::default()
        });
        let mut parser = Parser::new(resumed.as_ref());
        parser.event(&json!({"type":"thread.started","thread_id":announced}));
        parser.event(
            &json!({"type":"turn.completed","usage":{"input_tokens":240,"cached_input_tokens":200,"output_tokens":14}}),
        );
        parser.finish(&ended(Some(0), None, ""))
    }

    #[test]
    fn usage_is_what_this_turn_added() {
        let usage = |hit, miss, output| Some(Usage { hit, miss, output });
        let all = usage(200, 40, 14);
        assert_eq!(turn(None, "a").usage, all);
        assert_eq!(turn(Some(("a", usage(100, 20, 7))), "a").usage, usage(100, 20, 7));
        assert_eq!(turn(Some(("a", usage(999, 20, 7))), "a").usage, all);
        assert_eq!(turn(Some(("a", None)), "a").usage, None);
        assert_eq!(turn(Some(("a", None)), "b").usage, all);
        assert_eq!(turn(Some(("a", None)), "a").usage_totals, all);
    }

    #[test]
    fn an_error_event_counts_only_without_a_terminal_event() {
        let mut parser = Parser::new(None);
        parser.event(&json!({"type":"error","message":"Reconnecting... 1/5 (x)"}));
        parser.event(&json!({"type":"error","message":"it broke"}));
        let verdict = parser.finish(&ended(Some(1), None, "")).verdict;
        assert_eq!(verdict, Verdict::MissingBecause { message: Some("it broke".into()), class: None });
    }

    #[test]
    fn the_older_form_of_a_failure_is_understood() {
        let mut parser = Parser::new(None);
        parser.event(&json!({"type":"turn.completed","turn":{"status":"failed","error":{"message":"no"}}}));
        let verdict = parser.finish(&ended(Some(0), None, "")).verdict;
        assert_eq!(verdict, Verdict::Failure { message: "no".into(), class: None });
    }
}
