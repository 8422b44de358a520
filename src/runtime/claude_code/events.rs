//! What the events of `claude --output-format stream-json` mean.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::engine::ports::{ErrorClass, Usage};
use crate::message::{BlockKind, Digest, Phase, Status};
use crate::runtime::ndjson::{Seen, StreamParser, Then};
use crate::runtime::outcome::{Collected, Parsed, Verdict};
use crate::runtime::process::Ended;
use crate::runtime::{digest, fields};

/// Tool calls whose names are remembered for their results.
const MAX_OPEN_CALLS: usize = 256;
/// Background tasks that are kept in mind; a turn that has more of them counts as one that goes on.
const MAX_TASKS: usize = 256;
/// The CLI repeats requests with a bad key for minutes; this many refusals in a row are enough.
const MAX_AUTH_RETRIES: u32 = 2;

const ROOT_ADVICE: &str = "Run bellhop as an ordinary user, or set `sandboxed: true` in its configuration if this \
                           machine is a sandbox.";

/// What a process has counted since its start. Cost and tokens per model are cumulative in every result.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// US dollars.
    pub cost_usd: f64,
    /// Tokens of all models.
    pub tokens: Usage,
}

/// Reads the events of one run.
#[derive(Default)]
pub struct Parser {
    /// What the process had counted before this run.
    before: Totals,
    /// The same after it.
    totals: Totals,
    /// Background tasks that run.
    tasks: BTreeSet<String>,
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
                self.count(event);
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

    fn goes_on(&self) -> bool {
        !self.tasks.is_empty()
    }

    fn finish(&mut self, ended: &Ended) -> Parsed {
        let result = self.result.take();
        let refused = self.auth_retries >= MAX_AUTH_RETRIES;
        let verdict = match &result {
            // What the CLI says about its being stopped is not what went wrong.
            Some(result) if !refused || is_success(result) => self.verdict(result),
            _ if refused => Verdict::MissingBecause {
                message: Some("Failed to authenticate: the model service refused the credentials (HTTP 401)".into()),
                class: Some(ErrorClass::Auth),
            },
            _ => Verdict::Missing,
        };
        let refused_root = !self.events && ended.stderr_tail.contains("root/sudo privileges");
        Parsed {
            verdict,
            session: self.session.clone(),
            partial: self.streamed.take().trim().to_owned(),
            advice: refused_root.then_some(ROOT_ADVICE),
            cost_usd: result.as_ref().and_then(|r| fields::number(r, &["total_cost_usd"])).map(|c| self.cost(c)),
            usage: result.as_ref().and_then(|r| self.usage(r)),
            context_tokens: self.context_tokens,
            ..Parsed::default()
        }
    }
}

impl Parser {
    /// For a further run of a process that has counted so much already.
    pub fn after(before: Totals) -> Self {
        Self { before, totals: before, ..Self::default() }
    }

    /// What the process has counted by now.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn count(&mut self, result: &Value) {
        if let Some(cost) = fields::number(result, &["total_cost_usd"]) {
            self.totals.cost_usd = cost;
        }
        if fields::at(result, &["modelUsage"]).is_some() {
            self.totals.tokens = model_sums(result);
        }
    }

    /// The share of this run. A total that has shrunk is one that was counted anew.
    fn cost(&self, total: f64) -> f64 {
        if total >= self.before.cost_usd { total - self.before.cost_usd } else { total }
    }

    /// Tokens of the run. They are zero when the answer did not come as a stream; the sums per model are not.
    fn usage(&self, result: &Value) -> Option<Usage> {
        match run_usage(result) {
            Some(run) if run != Usage::default() => return Some(run),
            None if fields::at(result, &["modelUsage"]).is_none() => return None,
            _ => {}
        }
        let (sums, before) = (model_sums(result), self.before.tokens);
        let share = |sum: u64, before: u64| sum.checked_sub(before).unwrap_or(sum);
        Some(Usage {
            hit: share(sums.hit, before.hit),
            miss: share(sums.miss, before.miss),
            output: share(sums.output, before.output),
        })
    }

    /// Keeps the list of what runs in the background.
    fn task(&mut self, event: &Value, subtype: &str) {
        let Some(id) = fields::text(event, &["task_id"]) else { return };
        if subtype == "task_started" {
            if self.tasks.len() < MAX_TASKS {
                self.tasks.insert(id.to_owned());
            }
            return;
        }
        let status = fields::text(event, &["status"]).or_else(|| fields::text(event, &["patch", "status"]));
        // Both tell of other states, too.
        if status.is_some_and(|status| !matches!(status, "pending" | "running" | "paused")) {
            self.tasks.remove(id);
        }
    }

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
            Some(subtype @ ("task_started" | "task_updated" | "task_notification")) => {
                self.task(event, subtype);
                seen
            }
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
        // A subagent's requests say nothing about the end of the turn and the size of this session.
        let of_turn = fields::text(event, &["parent_tool_use_id"]).is_none();
        if of_turn {
            self.error_kind = fields::text(event, &["error"]).map(str::to_owned);
        }
        if !synthetic {
            self.auth_retries = 0;
            if of_turn {
                self.context_tokens = context_tokens(event).or(self.context_tokens);
            }
        }
        let parts = fields::list(event, &["message", "content"]);
        let is = |part: &&Value, kind: &str| fields::text(part, &["type"]) == Some(kind);
        let texts: Vec<&str> =
            parts.iter().filter(|p| is(p, "text")).filter_map(|p| fields::text(p, &["text"])).collect();
        let text = texts.concat();
        let has_text_part = parts.iter().any(|p| is(&p, "text"));
        if !synthetic && of_turn {
            self.streamed.push(&text);
        }
        let mut shown = if text.is_empty() { Digest::default() } else { digest::message(&text) };
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
            // Without one, what was said is the answer.
            let said = fields::text(result, &["result"]).unwrap_or_else(|| self.streamed.as_str().trim());
            return Verdict::Success(said.to_owned());
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

fn part(value: &Value, key: &str) -> u64 {
    fields::count(value, &[key]).unwrap_or(0)
}

fn run_usage(result: &Value) -> Option<Usage> {
    let usage = fields::at(result, &["usage"])?;
    Some(Usage {
        hit: part(usage, "cache_read_input_tokens"),
        miss: part(usage, "input_tokens").saturating_add(part(usage, "cache_creation_input_tokens")),
        output: part(usage, "output_tokens"),
    })
}

/// Tokens of all models since the start of the process.
fn model_sums(result: &Value) -> Usage {
    let models = fields::at(result, &["modelUsage"]).and_then(Value::as_object);
    models.into_iter().flat_map(|models| models.values()).fold(Usage::default(), |sum, model| Usage {
        hit: sum.hit.saturating_add(part(model, "cacheReadInputTokens")),
        miss: sum
            .miss
            .saturating_add(part(model, "inputTokens"))
            .saturating_add(part(model, "cacheCreationInputTokens")),
        output: sum.output.saturating_add(part(model, "outputTokens")),
    })
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
        // Seen of the real CLI when it is interrupted meanwhile.
        parser.after_stop(&json!({"type":"result","subtype":"error_during_execution","is_error":true,
            "errors":["[ede_diagnostic] result_type=user"]}));
        let Verdict::MissingBecause { class, .. } = parser.finish(&ended(None, Some(9), "")).verdict else { panic!() };
        assert_eq!(class, Some(ErrorClass::Auth));
    }

    #[test]
    fn numbers_that_are_missing_are_not_zero() {
        let usage = |more: Value| {
            let mut result = json!({"type":"result","subtype":"success","result":"x"});
            result.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let mut parser = Parser::default();
            parser.event(&result);
            parser.finish(&ended(Some(0), None, "")).usage
        };
        assert_eq!(usage(json!({})), None);
        assert_eq!(usage(json!({"usage":null,"modelUsage":null,"total_cost_usd":null})), None);
        let sums = Some(Usage { hit: 3, miss: 4, output: 5 });
        let models = json!({"m":{"inputTokens":4,"outputTokens":5,"cacheReadInputTokens":3}});
        assert_eq!(usage(json!({"usage":null,"modelUsage":models})), sums);
        assert_eq!(usage(json!({"modelUsage":models,"usage":{"input_tokens":0}})), sums);
    }

    #[test]
    fn an_answer_that_the_result_does_not_repeat_is_the_answer() {
        let says = json!({"type":"assistant","message":{"content":[{"type":"text","text":" It is 42. "}]}});
        for (result, answer) in [
            (json!({"type":"result","subtype":"success","result":null}), "It is 42."),
            (json!({"type":"result","subtype":"success"}), "It is 42."),
            (json!({"type":"result","subtype":"success","result":""}), ""),
        ] {
            let mut parser = Parser::default();
            parser.event(&says);
            parser.event(&result);
            assert_eq!(parser.finish(&ended(Some(0), None, "")).verdict, Verdict::Success(answer.into()), "{result}");
        }
    }

    #[test]
    fn the_kind_of_an_error_is_that_of_the_last_message() {
        let result = json!({"type":"result","subtype":"error_max_turns","is_error":true,"errors":["no more"]});
        let class = |events: &[Value]| {
            let mut parser = Parser::default();
            for event in events.iter().chain([&result]) {
                parser.event(event);
            }
            match parser.finish(&ended(Some(1), None, "")).verdict {
                Verdict::Failure { class, .. } => class,
                other => panic!("{other:?}"),
            }
        };
        let message = |model: &str, error: Option<&str>, parent: Option<&str>| json!({"type":"assistant","message":{"model":model,"content":[]},"error":error,"parent_tool_use_id":parent});
        let overloaded = message("<synthetic>", Some("overloaded"), None);
        assert_eq!(class(std::slice::from_ref(&overloaded)), Some(ErrorClass::Transient));
        assert_eq!(class(&[message("m", Some("overloaded"), None)]), Some(ErrorClass::Transient));
        assert_eq!(class(&[overloaded, message("m", None, None)]), Some(ErrorClass::Limit));
        assert_eq!(class(&[message("<synthetic>", Some("overloaded"), Some("t1"))]), Some(ErrorClass::Limit));
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

    #[test]
    fn a_further_run_reports_its_own_share() {
        let result = |cost: f64, input: u64, output: u64| {
            json!({"type":"result","subtype":"success","result":"x","total_cost_usd":cost,"usage":{"input_tokens":0},
                   "modelUsage":{"m":{"inputTokens":input,"outputTokens":output}}})
        };
        let mut first = Parser::default();
        first.event(&result(0.5, 10, 3));
        let mut second = Parser::after(first.totals());
        assert_eq!(first.finish(&ended(Some(0), None, "")).cost_usd, Some(0.5));
        second.event(&result(0.75, 14, 5));
        let parsed = second.finish(&ended(Some(0), None, ""));
        assert_eq!((parsed.cost_usd, parsed.usage), (Some(0.25), Some(Usage { hit: 0, miss: 4, output: 2 })));
        assert_eq!(second.totals(), Totals { cost_usd: 0.75, tokens: Usage { hit: 0, miss: 14, output: 5 } });
        let mut anew = Parser::after(second.totals());
        anew.event(&result(0.25, 1, 1));
        assert_eq!(anew.finish(&ended(Some(0), None, "")).cost_usd, Some(0.25));
    }

    #[test]
    fn a_background_task_goes_on_until_it_is_told_to_have_ended() {
        let mut parser = Parser::default();
        let task = |subtype: &str, rest: Value| {
            let mut event = json!({"type":"system","subtype":subtype,"task_id":"b1"});
            event.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            event
        };
        assert!(!parser.goes_on());
        parser.event(&task("task_started", json!({})));
        parser.event(&task("task_updated", json!({"patch":{"status":"running"}})));
        assert!(parser.goes_on());
        parser.event(&task("task_updated", json!({"patch":{"status":"killed"}})));
        assert!(!parser.goes_on());
        parser.event(&task("task_started", json!({})));
        parser.event(&task("task_notification", json!({"status":"completed"})));
        assert!(!parser.goes_on());
    }
}
