//! What Kimi's events mean.

use serde_json::Value;

use crate::engine::ports::ErrorClass;
use crate::json;
use crate::message::{BlockKind, Digest, Phase, Status};
use crate::runtime::ndjson::{Seen, StreamParser, Then};
use crate::runtime::outcome::{Parsed, Verdict};
use crate::runtime::process::Ended;
use crate::runtime::{classify, digest, fields};
use crate::text;

/// In front of the message of a failed run on standard error.
const FAILED: &str = "error: failed to run prompt: ";
/// What the newer program adds after it.
const SEE_LOG: &str = "See log: ";

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Kind of its block.
    pub kind: BlockKind,
    /// Change of status.
    pub status: Option<Status>,
    /// For people.
    pub digest: Digest,
    /// Words of the assistant.
    pub text: Option<String>,
    /// A failure that it reports.
    pub error: Option<String>,
    /// The session.
    pub session: Option<String>,
    /// It is the newer program's farewell, which a failed run does not print.
    pub resume_hint: bool,
}

impl Event {
    /// Reads an event.
    pub fn read(event: &Value) -> Self {
        let mut read = Self {
            kind: BlockKind::Other,
            status: None,
            digest: Digest::default(),
            text: None,
            error: error(event),
            session: fields::words(event, &["session_id"]).map(str::to_owned),
            resume_hint: fields::text(event, &["type"]) == Some("session.resume_hint"),
        };
        match fields::text(event, &["role"]) {
            Some("assistant") => read.assistant(event),
            Some("tool") => {
                read.kind = BlockKind::ToolResult;
                read.status = Some(Status::thinking(Phase::Updated, "Tool result"));
                read.digest.summary = digest::content(event.get("content"));
            }
            Some("meta") => {
                read.kind = BlockKind::System;
                read.status = retrying(event);
            }
            _ if event.get("category").is_some() || event.get("severity").is_some() => read.kind = BlockKind::System,
            _ => {}
        }
        read
    }

    fn assistant(&mut self, event: &Value) {
        let words = content_text(event.get("content"));
        let says = !words.is_empty();
        let calls = fields::list(event, &["tool_calls"]);
        if let Some(call) = calls.first() {
            let name = fields::words(call, &["function", "name"]).unwrap_or("tool");
            let input = fields::text(call, &["function", "arguments"]).unwrap_or_default();
            let input = json::parse(input.as_bytes()).unwrap_or(Value::Null);
            self.kind = BlockKind::ToolUse;
            self.status = Some(Status::thinking(Phase::Updated, text::head(name, 80)));
            self.digest = digest::call(name, digest::input(&input));
            self.digest.text = says.then(|| words.clone());
        } else if says {
            self.kind = BlockKind::AssistantText;
            self.status = Some(Status::stopped());
            self.digest = digest::words(&words);
        } else if fields::list(event, &["content"]).iter().any(is_thought) {
            self.status = Some(Status::thinking(Phase::Started, "Thinking"));
        }
        self.text = says.then_some(words);
    }
}

/// A string, or the text parts of a list.
fn content_text(content: Option<&Value>) -> String {
    match content {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().filter(|p| fields::text(p, &["type"]) == Some("text"));
            texts.filter_map(|p| fields::text(p, &["text"])).collect()
        }
        _ => String::new(),
    }
}

fn is_thought(part: &Value) -> bool {
    fields::text(part, &["type"]) == Some("think") && fields::words(part, &["think"]).is_some()
}

fn retrying(event: &Value) -> Option<Status> {
    if fields::text(event, &["type"]) != Some("turn.step.retrying") {
        return None;
    }
    let status = fields::count(event, &["status_code"]).map(|s| format!(" ({s})")).unwrap_or_default();
    let attempt = fields::count(event, &["next_attempt"])?;
    let of = fields::count(event, &["max_attempts"]).map(|max| format!("/{max}")).unwrap_or_default();
    Some(Status::thinking(Phase::Updated, format!("Retrying{status}, attempt {attempt}{of}")))
}

/// The forms in which the older program reports a failure.
fn error(event: &Value) -> Option<String> {
    if let Some(error) = event.get("error").filter(|e| !e.is_null()) {
        let message = error.as_str().or_else(|| fields::words(error, &["message"]));
        return message.filter(|m| !m.trim().is_empty()).map(str::to_owned);
    }
    if fields::text(event, &["type"]) == Some("error") {
        return fields::words(event, &["message"]).map(str::to_owned);
    }
    if fields::text(event, &["severity"]) != Some("error") {
        return None;
    }
    let parts = [fields::words(event, &["title"]), fields::words(event, &["body"])];
    let parts: Vec<&str> = parts.into_iter().flatten().collect();
    Some(if parts.is_empty() { "error".to_owned() } else { parts.join(": ") })
}

/// The parser of one run.
#[derive(Debug, Default)]
pub struct Parser {
    /// The older program was given its session's id; an assistant message is its sign of success then.
    given: Option<String>,
    session: Option<String>,
    /// Words of the last assistant message that had any.
    answer: Option<String>,
    /// There was an assistant message.
    spoke: bool,
    error: Option<String>,
    resume_hint: bool,
    /// The model has been asked: only then its instructions are certainly made up, since the newer program prints
    /// its version before it does anything else.
    underway: bool,
}

impl Parser {
    /// A parser. `given` is the id that the older program was started with; `None` for the newer one.
    pub fn new(given: Option<String>) -> Self {
        Self { given, ..Self::default() }
    }

    fn verdict(&mut self, ended: &Ended) -> Verdict {
        let succeeded = match self.given {
            Some(_) => self.spoke,
            None => self.resume_hint,
        };
        // Without a code it has said farewell and not ended yet.
        let ended_well = ended.exit_code == Some(0) || (ended.exit_code.is_none() && self.resume_hint);
        // The newer program's farewell tells of success, whatever it has overcome before, unless its code denies it.
        let told = self.error.take().filter(|_| self.given.is_some() || !(ended_well && self.resume_hint));
        if let Some(message) = told {
            return Verdict::Failure { message, class: None };
        }
        if ended_well && succeeded {
            return Verdict::Success(self.answer.take().map(|t| text::trim(&t).to_owned()).unwrap_or_default());
        }
        // The older program tells of a failure in plain words between its events.
        let plain = plain_words(&ended.stdout_tail);
        if self.given.is_some() && ended.exit_code.is_some_and(|code| code != 0) && !plain.is_empty() {
            return Verdict::Failure { message: plain, class: None };
        }
        let stderr = message_of(&ended.stderr_tail);
        if ended.exit_code == Some(0) || ended.exit_code.is_none() || stderr.is_empty() {
            return Verdict::Missing;
        }
        if ended.stderr_tail.contains(FAILED) {
            return Verdict::Failure { message: without_error(&stderr), class: None };
        }
        // Nothing was printed and it failed: the arguments were wrong, whatever the words are.
        let never_began = self.session.is_none() && self.answer.is_none() && classify::by_text(&stderr).is_none();
        let class = (never_began && stderr.starts_with("error: ")).then_some(ErrorClass::Config);
        Verdict::MissingBecause { message: Some(without_error(&stderr)), class }
    }
}

/// The last failure that standard error tells, without the hint at a log file. What tools print is there,
/// too, so that everything before it does not count.
fn message_of(stderr: &str) -> String {
    let from = stderr.rfind(FAILED).map(|at| at + FAILED.len());
    let text = from.and_then(|at| stderr.get(at..)).unwrap_or(stderr);
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with(SEE_LOG)).collect();
    text::trim(&lines.join("\n")).to_owned()
}

/// What is no event on standard output, without the line breaks of a narrow terminal.
fn plain_words(stdout: &str) -> String {
    const COLUMNS: usize = 80;
    let mut words = String::new();
    for line in stdout.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('{')) {
        words.push_str(line);
        if line.chars().count() < COLUMNS {
            words.push(' ');
        }
    }
    without_error(text::trim(&words))
}

fn without_error(message: &str) -> String {
    text::tail(message.strip_prefix("error: ").unwrap_or(message), 2_048).to_owned()
}

impl StreamParser for Parser {
    fn event(&mut self, event: &Value) -> Seen {
        let read = Event::read(event);
        if read.session.is_some() {
            self.session = read.session;
        }
        if read.text.is_some() {
            self.answer = read.text;
        }
        if read.error.is_some() {
            self.error = read.error;
        }
        self.resume_hint |= read.resume_hint;
        self.spoke |= fields::text(event, &["role"]) == Some("assistant");
        self.underway |= fields::text(event, &["type"]) != Some("system.version");
        let then = if read.resume_hint { Then::Succeeded } else { Then::Continue };
        let seen = Seen::kind(read.kind).digest(read.digest).then(then);
        match read.status {
            Some(status) => seen.status(status),
            None => seen,
        }
    }

    fn session(&self) -> Option<&str> {
        self.session.as_deref().or(self.given.as_deref())
    }

    fn has_read_context(&self) -> bool {
        self.underway
    }

    fn finish(&mut self, ended: &Ended) -> Parsed {
        let verdict = self.verdict(ended);
        Parsed {
            verdict,
            session: self.session.take().or_else(|| self.given.take()),
            partial: self.answer.take().unwrap_or_default(),
            ..Parsed::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::testing::ended;
    use serde_json::json;

    fn run(given: Option<&str>, events: &[Value], end: &Ended) -> Verdict {
        let mut parser = Parser::new(given.map(str::to_owned));
        for event in events {
            parser.event(event);
        }
        parser.finish(end).verdict
    }

    #[test]
    fn the_newer_program_succeeds_with_its_farewell_only() {
        let answer = json!({"role":"assistant","content":"hi"});
        let hint = json!({"role":"meta","type":"session.resume_hint","session_id":"s"});
        let zero = ended(Some(0), None, "error: what a tool printed");
        assert_eq!(run(None, &[answer.clone(), hint], &zero), Verdict::Success("hi".into()));
        assert_eq!(run(None, std::slice::from_ref(&answer), &zero), Verdict::Missing);
        assert_eq!(run(Some("s"), &[answer], &zero), Verdict::Success("hi".into()));
    }

    #[test]
    fn a_turn_without_words_has_succeeded_all_the_same() {
        let calls = json!({"role":"assistant","content":null,"tool_calls":[{"function":{"name":"Bash"}}]});
        let silent = json!({"role":"assistant","content":""});
        let tool = json!({"role":"tool","content":"done"});
        let zero = ended(Some(0), None, "");
        assert_eq!(run(Some("s"), &[calls, tool.clone(), silent], &zero), Verdict::Success(String::new()));
        assert_eq!(run(Some("s"), &[tool], &zero), Verdict::Missing);
    }

    #[test]
    fn what_the_newer_program_has_overcome_is_no_failure() {
        let error = json!({"role":"tool","content":"","error":"exit 1"});
        let answer = json!({"role":"assistant","content":"hi"});
        let hint = json!({"role":"meta","type":"session.resume_hint","session_id":"s"});
        let zero = ended(Some(0), None, "");
        assert_eq!(run(None, &[error.clone(), answer.clone(), hint.clone()], &zero), Verdict::Success("hi".into()));
        let failed = Verdict::Failure { message: "exit 1".into(), class: None };
        assert_eq!(run(None, &[error.clone(), answer], &zero), failed);
        assert_eq!(run(None, &[error, hint.clone()], &ended(Some(1), None, "")), failed);
        assert!(!matches!(run(None, &[hint], &ended(Some(1), None, "error: x")), Verdict::Success(_)));
    }

    #[test]
    fn the_older_program_reports_failures_in_words() {
        let mut end = ended(Some(1), None, "\nTo resume this session: kimi -r s");
        let line = "Error code: 401 - {'error': {'message': 'no', 'type': 'invalid_request_error', 'param': ";
        end.stdout_tail = format!("{{\"role\":\"tool\"}}\n{}\n{}\n", &line[..80], "None}}");
        let Verdict::Failure { message, class: None } = run(Some("s"), &[], &end) else { panic!() };
        assert_eq!(message, format!("{}None}}}}", &line[..80]));
        assert_eq!(classify::by_text(&message), Some(ErrorClass::Auth));
    }

    #[test]
    fn the_older_program_reports_failures_in_events() {
        let end = ended(Some(1), None, "");
        for (event, message) in [
            (json!({"error":"a"}), "a"),
            (json!({"error":{"message":"b"}}), "b"),
            (json!({"type":"error","message":"c"}), "c"),
            (json!({"severity":"error","title":"t","body":"d"}), "t: d"),
        ] {
            let verdict = run(Some("s"), &[event], &end);
            assert_eq!(verdict, Verdict::Failure { message: message.into(), class: None });
        }
    }

    #[test]
    fn the_version_says_nothing_of_the_context_file() {
        let mut parser = Parser::new(None);
        parser.event(&json!({"role":"meta","type":"system.version","version":"2.1.0"}));
        assert!(!parser.has_read_context());
        parser.event(&json!({"role":"assistant","content":"hi"}));
        assert!(parser.has_read_context());
    }

    #[test]
    fn a_failure_of_the_model_is_no_wrong_protocol() {
        let end = ended(Some(1), None, "error: failed to run prompt: provider.api_error: 400 no\nSee log: /tmp/x.log");
        let version = json!({"role":"meta","type":"system.version","version":"2.1.0"});
        let message = "provider.api_error: 400 no".to_owned();
        assert_eq!(run(None, &[version], &end), Verdict::Failure { message, class: None });
    }

    #[test]
    fn retries_are_told() {
        let event =
            json!({"role":"meta","type":"turn.step.retrying","next_attempt":2,"max_attempts":10,"status_code":429});
        let label = Event::read(&event).status;
        assert_eq!(label, Some(Status::thinking(Phase::Updated, "Retrying (429), attempt 2/10")));
    }

    #[test]
    fn what_tools_print_before_the_failure_is_left_out() {
        let stderr = "tool noise\nerror: failed to run prompt: Session \"x\" not found.\nSee log: /tmp/x.log";
        assert_eq!(message_of(stderr), "Session \"x\" not found.");
    }
}
