//! The lines that go to a `claude --input-format stream-json`: turns, interrupts, and answers to its questions.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::engine::ports::{Approval, ApprovalRequest};
use crate::json;
use crate::redact;
use crate::runtime::{digest, fields};

/// Questions that may wait for a decision at once; further ones are denied.
const MAX_WAITING: usize = 64;

/// Id of the request that interrupts a turn.
pub(super) const INTERRUPT: &str = "interrupt";

#[derive(Serialize)]
struct User<'a> {
    r#type: &'static str,
    message: Message<'a>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

/// The line that begins a turn.
pub(super) fn turn(text: &str) -> Vec<u8> {
    line(&User { r#type: "user", message: Message { role: "user", content: text } })
}

/// The line that interrupts a turn.
pub(super) fn interrupt() -> Vec<u8> {
    line(&json!({"type": "control_request", "request_id": INTERRUPT, "request": {"subtype": "interrupt"}}))
}

/// Whether an event says that the interrupt has arrived.
pub(super) fn is_interrupt_answer(event: &Value) -> bool {
    fields::text(event, &["type"]) == Some("control_response")
        && fields::text(event, &["response", "request_id"]) == Some(INTERRUPT)
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn answer(id: &str, response: &Value) -> Vec<u8> {
    line(&json!({
        "type": "control_response",
        "response": {"subtype": "success", "request_id": id, "response": response}
    }))
}

fn refusal(id: &str) -> Vec<u8> {
    line(&json!({
        "type": "control_response",
        "response": {"subtype": "error", "request_id": id, "error": "unsupported"}
    }))
}

/// What the CLI asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Question {
    /// Whether a tool may be used.
    Tool(ApprovalRequest),
    /// Something that is answered already.
    Answered(Vec<u8>),
}

/// The questions of a run that are not answered yet, with the inputs that an answer has to repeat.
#[derive(Default)]
pub(super) struct Questions {
    waiting: BTreeMap<String, Value>,
}

impl Questions {
    /// Reads an event; `None` when it asks for nothing.
    pub(super) fn read(&mut self, event: &Value) -> Option<Question> {
        let id = fields::text(event, &["request_id"])?;
        match fields::text(event, &["type"])? {
            "control_request" => {}
            "control_cancel_request" => {
                self.waiting.remove(id);
                return None;
            }
            _ => return None,
        }
        if fields::text(event, &["request", "subtype"]) != Some("can_use_tool") || self.waiting.len() >= MAX_WAITING {
            return Some(Question::Answered(refusal(id)));
        }
        let input = fields::at(event, &["request", "input"]).cloned().unwrap_or_else(|| json!({}));
        let question = ApprovalRequest {
            id: id.to_owned(),
            tool: fields::words(event, &["request", "tool_name"]).unwrap_or("tool").to_owned(),
            summary: digest::input(&input).map(|line| redact::text(&line)).unwrap_or_default(),
        };
        self.waiting.insert(id.to_owned(), input);
        Some(Question::Tool(question))
    }

    /// The line that answers a question; `None` when that one does not wait.
    pub(super) fn answer(&mut self, id: &str, approval: Approval) -> Option<Vec<u8>> {
        let input = self.waiting.remove(id)?;
        Some(match approval {
            Approval::Allow => answer(id, &json!({"behavior": "allow", "updatedInput": input})),
            Approval::Deny { reason } => answer(id, &json!({"behavior": "deny", "message": reason})),
        })
    }

    /// Whether the CLI waits for an answer.
    pub(super) fn any(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[u8]) -> Value {
        assert_eq!(line.last(), Some(&b'\n'));
        serde_json::from_slice(line).unwrap()
    }

    fn request(id: &str, subtype: &str) -> Value {
        json!({"type":"control_request","request_id":id,
               "request":{"subtype":subtype,"tool_name":"Bash","input":{"command":"ls"}}})
    }

    #[test]
    fn a_turn_is_one_line_whatever_its_text() {
        let line = turn("a\nb\u{2028}\"c\"");
        assert_eq!(line.split(|b| *b == b'\n').count(), 2);
        assert_eq!(parsed(&line)["message"], json!({"role":"user","content":"a\nb\u{2028}\"c\""}));
    }

    #[test]
    fn a_tool_is_allowed_with_the_input_it_was_asked_for() {
        let mut questions = Questions::default();
        let Some(Question::Tool(question)) = questions.read(&request("q1", "can_use_tool")) else { panic!() };
        assert_eq!((question.tool.as_str(), question.summary.as_str()), ("Bash", "ls"));
        assert!(questions.any());
        let allowed = parsed(&questions.answer("q1", Approval::Allow).unwrap());
        let expected = json!({"behavior":"allow","updatedInput":{"command":"ls"}});
        assert_eq!(allowed["response"]["response"], expected);
        assert_eq!(questions.answer("q1", Approval::Allow), None);
        questions.read(&request("q2", "can_use_tool"));
        let denied = parsed(&questions.answer("q2", Approval::Deny { reason: "no".into() }).unwrap());
        assert_eq!(denied["response"]["response"], json!({"behavior":"deny","message":"no"}));
    }

    #[test]
    fn other_questions_are_refused_and_withdrawn_ones_forgotten() {
        let mut questions = Questions::default();
        let Some(Question::Answered(line)) = questions.read(&request("q1", "hook_callback")) else { panic!() };
        assert_eq!(parsed(&line)["response"], json!({"subtype":"error","request_id":"q1","error":"unsupported"}));
        questions.read(&request("q2", "can_use_tool"));
        assert_eq!(questions.read(&json!({"type":"control_cancel_request","request_id":"q2"})), None);
        assert!(!questions.any());
        assert_eq!(questions.read(&json!({"type":"assistant"})), None);
    }

    #[test]
    fn questions_that_nobody_answers_are_bounded() {
        let mut questions = Questions::default();
        for n in 0..MAX_WAITING {
            assert!(matches!(questions.read(&request(&n.to_string(), "can_use_tool")), Some(Question::Tool(_))));
        }
        assert!(matches!(questions.read(&request("more", "can_use_tool")), Some(Question::Answered(_))));
    }
}
