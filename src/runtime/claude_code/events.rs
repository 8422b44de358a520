//! What the events of `claude --output-format stream-json` mean.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::engine::ports::{ErrorClass, Usage};
use crate::message::{BlockKind, Digest, Phase, Status};
use crate::runtime::ndjson::{Seen, StreamParser, Then};
use crate::runtime::outcome::{Collected, Parsed, Verdict};
use crate::runtime::process::Ended;
use crate::runtime::{digest, fields};

/// Tool calls whose names are remembered for their results.
const MAX_OPEN_CALLS: usize = 256;
/// The CLI repeats requests with a bad key for minutes; this many refusals in a row are enough.
const MAX_AUTH_RETRIES: u32 = 2;

const ROOT_ADVICE: &str = "Run bellhop as an ordinary user, or set `sandboxed: true` in its configuration if this \
                           machine is a sandbox.";

/// Reads the events of one run.
#[derive(Default)]
pub struct Parser {
    session: Option<String>,
    /// The terminal event; a later one replaces an earlier one.
    result: Option<Value>,
    /// Error kind that the CLI put on its own message.
    error_kind: Option<String>,
    auth_retries: u32,
    context_tokens: Option<u64>,
    streamed: Collected,
    open_calls: BTreeMap<String, String>,
    events: bool,
}

impl StreamParser for Parser {
    fn event(&mut self, event: &Value) -> Seen {
        self.events = true;
        match fields::text(event, &["type"]) {
            Some("system") => self.system(event),
            Some("assistant") => self.assistant(event),
            Some("user") => self.user(event),
            Some("result") => {
                self.take_session(event);
                self.result = Some(event.clone());
                let then = if is_success(event) { Then::Succeeded } else { Then::Failed };
                Seen::kind(BlockKind::Other).status(Status::stopped()).then(then)
            }
            _ => Seen::kind(BlockKind::Other),
        }
    }

    fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    fn finish(&mut self, ended: &Ended) -> Parsed {
        let result = self.result.take();
        let verdict = match &result {
            Some(result) => self.verdict(result),
            None if self.auth_retries >= MAX_AUTH_RETRIES => Verdict::MissingBecause {
                message: Some("Failed to authenticate: the model service refused the credentials (HTTP 401)".into()),
                class: Some(ErrorClass::Auth),
            },
            None => Verdict::Missing,
        };
        let refused_root = !self.events && ended.stderr_tail.contains("root/sudo privileges");
        Parsed {
            verdict,
            session: self.session.clone(),
            partial: self.streamed.take().trim().to_owned(),
            advice: refused_root.then_some(ROOT_ADVICE),
            cost_usd: result.as_ref().and_then(|r| fields::number(r, &["total_cost_usd"])),
            usage: result.as_ref().and_then(usage),
            context_tokens: self.context_tokens,
            ..Parsed::default()
        }
    }
}

impl Parser {
    fn take_session(&mut self, event: &Value) {
        if let Some(id) = fields::words(event, &["session_id"]) {
            self.session = Some(id.to_owned());
        }
    }

    fn system(&mut self, event: &Value) -> Seen {
        self.take_session(event);
        let seen = Seen::kind(BlockKind::System);
        match fields::text(event, &["subtype"]) {
            Some("init") => seen.status(Status::thinking(Phase::Started, "Starting session")),
            Some("api_retry") => self.retry(event, seen),
            _ => seen,
        }
    }

    fn retry(&mut self, event: &Value, mut seen: Seen) -> Seen {
        let refused = fields::text(event, &["error"]) == Some("authentication_failed");
        self.auth_retries = if refused { self.auth_retries + 1 } else { 0 };
        if let (Some(attempt), Some(max)) = (fields::count(event, &["attempt"]), fields::count(event, &["max_retries"]))
        {
            let status = fields::count(event, &["error_status"]).map(|s| format!(" ({s})")).unwrap_or_default();
            seen.status = Some(Status::thinking(Phase::Updated, format!("Retrying{status}, attempt {attempt}/{max}")));
        }
        if self.auth_retries >= MAX_AUTH_RETRIES { seen.then(Then::Stop) } else { seen }
    }

    fn assistant(&mut self, event: &Value) -> Seen {
        self.take_session(event);
        let synthetic = fields::text(event, &["message", "model"]) == Some("<synthetic>");
        if synthetic {
            self.error_kind = fields::text(event, &["error"]).map(str::to_owned);
        } else {
            self.auth_retries = 0;
            // A subagent's requests say nothing about the size of this session.
            if fields::text(event, &["parent_tool_use_id"]).is_none() {
                self.context_tokens = context_tokens(event).or(self.context_tokens);
            }
        }
        let parts = fields::list(event, &["message", "content"]);
        let is = |part: &&Value, kind: &str| fields::text(part, &["type"]) == Some(kind);
        let texts: Vec<&str> =
            parts.iter().filter(|p| is(p, "text")).filter_map(|p| fields::text(p, &["text"])).collect();
        let text = texts.concat();
        let has_text_part = parts.iter().any(|p| is(&p, "text"));
        if !synthetic {
            self.streamed.push(&text);
        }
        let mut shown = if text.is_empty() { Digest::default() } else { digest::words(&text) };
        let call = parts.iter().find(|p| is(p, "tool_use"));
        let kind = match (call, has_text_part) {
            (Some(_), _) => BlockKind::ToolUse,
            (None, true) => BlockKind::AssistantText,
            (None, false) => BlockKind::Other,
        };
        let mut seen = Seen::kind(kind);
        if !text.trim().is_empty() {
            seen.status = Some(Status::stopped());
        }
        if let Some(call) = call {
            let name = fields::words(call, &["name"]).unwrap_or("tool");
            shown.tool = Some(name.to_owned());
            shown.summary = fields::at(call, &["input"]).and_then(digest::input);
            if seen.status.is_none() {
                seen.status = Some(Status::thinking(Phase::Updated, name));
            }
            if let Some(id) = fields::text(call, &["id"])
                && self.open_calls.len() < MAX_OPEN_CALLS
            {
                self.open_calls.insert(id.to_owned(), name.to_owned());
            }
        }
        seen.digest(shown)
    }

    fn user(&mut self, event: &Value) -> Seen {
        self.take_session(event);
        let parts = fields::list(event, &["message", "content"]);
        let Some(result) = parts.iter().find(|p| fields::text(p, &["type"]) == Some("tool_result")) else {
            return Seen::kind(BlockKind::Other);
        };
        let tool = fields::text(result, &["tool_use_id"]).and_then(|id| self.open_calls.remove(id));
        Seen::kind(BlockKind::ToolResult).digest(Digest {
            text: None,
            tool,
            summary: digest::content(fields::at(result, &["content"])),
            failed: fields::flag(result, &["is_error"]),
        })
    }

    fn verdict(&self, result: &Value) -> Verdict {
        let subtype = fields::text(result, &["subtype"]).unwrap_or_default();
        let denied = fields::list(result, &["permission_denials"]).len();
        if denied > 0 {
            log::info!("runtime.permissions_denied runtime=claude-code count={denied}");
        }
        if is_success(result) {
            return Verdict::Success(fields::text(result, &["result"]).unwrap_or_default().to_owned());
        }
        let errors: Vec<&str> = fields::list(result, &["errors"]).iter().filter_map(Value::as_str).collect();
        let message = match fields::words(result, &["result"]) {
            Some(message) => message.to_owned(),
            None if !errors.is_empty() => errors.join("; "),
            None if subtype.is_empty() => "claude-code reported a failure without a message".to_owned(),
            None => subtype.to_owned(),
        };
        Verdict::Failure { class: self.class(result, subtype), message }
    }

    /// The class that fields tell, in the order in which classes are tried.
    fn class(&self, result: &Value, subtype: &str) -> Option<ErrorClass> {
        if fields::text(result, &["terminal_reason"]) == Some("prompt_too_long") {
            return Some(ErrorClass::ContextOverflow);
        }
        let by_kind = match self.error_kind.as_deref() {
            Some("rate_limit" | "billing_error") => Some(ErrorClass::UsageLimit),
            Some("authentication_failed") => Some(ErrorClass::Auth),
            Some("server_error" | "overloaded") => Some(ErrorClass::Transient),
            _ => None,
        };
        by_kind.or_else(|| match (subtype, self.error_kind.as_deref()) {
            ("error_max_turns" | "error_max_budget_usd", _) => Some(ErrorClass::Limit),
            _ if fields::text(result, &["stop_reason"]) == Some("refusal") => Some(ErrorClass::Refused),
            (_, Some("model_not_found")) => Some(ErrorClass::Config),
            _ => None,
        })
    }
}

/// Failures, too, may come with the subtype `success`.
fn is_success(result: &Value) -> bool {
    fields::text(result, &["subtype"]) == Some("success") && !fields::flag(result, &["is_error"])
}

fn context_tokens(event: &Value) -> Option<u64> {
    let part = |key: &str| fields::count(event, &["message", "usage", key]);
    let input = part("input_tokens")?;
    let cached =
        part("cache_creation_input_tokens").unwrap_or(0).saturating_add(part("cache_read_input_tokens").unwrap_or(0));
    Some(input.saturating_add(cached))
}

/// Tokens of the turn. They are zero when the answer did not come as a stream; the sums per model are not.
fn usage(result: &Value) -> Option<Usage> {
    let usage = fields::at(result, &["usage"])?;
    let part = |value: &Value, key: &str| fields::count(value, &[key]).unwrap_or(0);
    let turn = Usage {
        hit: part(usage, "cache_read_input_tokens"),
        miss: part(usage, "input_tokens").saturating_add(part(usage, "cache_creation_input_tokens")),
        output: part(usage, "output_tokens"),
    };
    if turn != Usage::default() {
        return Some(turn);
    }
    let models = fields::at(result, &["modelUsage"]).and_then(Value::as_object);
    Some(models.into_iter().flat_map(|models| models.values()).fold(turn, |sum, model| Usage {
        hit: sum.hit.saturating_add(part(model, "cacheReadInputTokens")),
        miss:
            sum.miss.saturating_add(part(model, "inputTokens")).saturating_add(part(model, "cacheCreationInputTokens")),
        output: sum.output.saturating_add(part(model, "outputTokens")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::testing::ended;
    use serde_json::json;

    fn refusal(attempt: u32, error: &str) -> Value {
        json!({"type":"system","subtype":"api_retry","attempt":attempt,"max_retries":10,"error_status":401,"error":error})
    }

    #[test]
    fn the_second_refusal_in_a_row_ends_the_run() {
        let mut parser = Parser::default();
        assert_eq!(parser.event(&refusal(1, "authentication_failed")).then, Then::Continue);
        assert_eq!(parser.event(&refusal(2, "overloaded")).then, Then::Continue);
        assert_eq!(parser.event(&refusal(3, "authentication_failed")).then, Then::Continue);
        let seen = parser.event(&refusal(4, "authentication_failed"));
        assert_eq!(seen.then, Then::Stop);
        assert_eq!(seen.status, Some(Status::thinking(Phase::Updated, "Retrying (401), attempt 4/10")));
        let Verdict::MissingBecause { class, .. } = parser.finish(&ended(None, Some(9), "")).verdict else { panic!() };
        assert_eq!(class, Some(ErrorClass::Auth));
    }

    #[test]
    fn a_result_names_its_tool() {
        let mut parser = Parser::default();
        parser.event(&json!({"type":"assistant","message":{"content":[
            {"type":"tool_use","id":"t1","name":"Bash","input":{"command":"false"}}]}}));
        let seen = parser.event(&json!({"type":"user","message":{"content":[
            {"type":"tool_result","tool_use_id":"t1","is_error":true,"content":[{"type":"text","text":"exit 1"}]}]}}));
        assert_eq!(seen.digest.tool.as_deref(), Some("Bash"));
        assert_eq!(seen.digest.summary.as_deref(), Some("exit 1"));
        assert!(seen.digest.failed);
    }

    #[test]
    fn a_subagent_does_not_count_as_the_session() {
        let mut parser = Parser::default();
        let message = |tokens: u64| json!({"content":[],"usage":{"input_tokens":tokens}});
        parser.event(&json!({"type":"assistant","message":message(100)}));
        parser.event(&json!({"type":"assistant","message":message(7),"parent_tool_use_id":"t1"}));
        assert_eq!(parser.finish(&ended(Some(0), None, "")).context_tokens, Some(100));
    }
}
