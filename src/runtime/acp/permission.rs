//! Requests for permission: reading them, and which of the offered options to take.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::ports::ApprovalRequest;

/// Longest summary shown to whoever decides, in UTF-16 units.
const SUMMARY_LIMIT: usize = 200;

/// Parameters of `session/request_permission`. Whatever is missing or of another type counts as absent:
/// the agent waits for an answer and gets one in any case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PermissionRequest {
    /// The session that asks.
    pub session_id: Option<String>,
    /// What can be chosen, in the agent's order.
    pub options: Vec<PermissionOption>,
    /// Title of the tool call.
    pub title: Option<String>,
    /// First words about what it would do.
    pub detail: Option<String>,
}

/// One thing that can be chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PermissionOption {
    /// The agent's id of it.
    pub option_id: String,
    /// `allow_once`, `allow_always`, `reject_once`, `reject_always`.
    #[serde(default)]
    pub kind: String,
}

/// What the agent is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Choice {
    /// One of its options.
    Selected {
        /// Id of the option.
        #[serde(rename = "optionId")]
        option_id: String,
    },
    /// None of them.
    Cancelled,
}

/// The `result` of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PermissionAnswer {
    /// The choice.
    pub outcome: Choice,
}

impl PermissionRequest {
    /// Reads the parameters of a request.
    pub fn from_params(params: &Value) -> Self {
        let options = params.get("options").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let call = params.get("toolCall").unwrap_or(&Value::Null);
        let command = call.get("rawInput").and_then(|input| input.get("command")).and_then(Value::as_str);
        Self {
            session_id: params.get("sessionId").and_then(Value::as_str).map(str::to_owned),
            options: options.iter().filter_map(|o| PermissionOption::deserialize(o).ok()).collect(),
            title: call.get("title").and_then(Value::as_str).map(str::to_owned),
            detail: command.or_else(|| first_text(call)).map(str::to_owned),
        }
    }

    /// The question for whoever decides. `redact` takes secrets out of the summary.
    pub fn question(&self, id: String, redact: impl Fn(&str) -> String) -> ApprovalRequest {
        let title = self.title.as_deref().map(str::trim).filter(|t| !t.is_empty()).unwrap_or("tool");
        let detail = self.detail.as_deref().unwrap_or(title);
        let line = detail.split_whitespace().collect::<Vec<_>>().join(" ");
        ApprovalRequest {
            id,
            tool: redact(crate::text::head(title, 80)),
            summary: crate::text::clip(&redact(&line), SUMMARY_LIMIT),
        }
    }

    /// The option that says no more than was decided: once rather than always, because "always" would hold
    /// for other people in the room, too. Nothing suitable offered: cancelled.
    pub fn choose(&self, allow: bool) -> Choice {
        let first = |kind: &str| self.options.iter().find(|o| o.kind == kind);
        let option = if allow { first("allow_once").or_else(|| first("allow_always")) } else { first("reject_once") };
        match option {
            Some(option) => Choice::Selected { option_id: option.option_id.clone() },
            None => Choice::Cancelled,
        }
    }
}

fn first_text(call: &Value) -> Option<&str> {
    call.get("content")?.as_array()?.iter().find_map(|part| part.get("content")?.get("text")?.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn once_is_preferred_to_always() {
        let request = PermissionRequest::from_params(&json!({"options":[
            {"optionId":"a","kind":"allow_always"},{"optionId":"b","kind":"allow_once"},{"optionId":"c","kind":"reject_always"}]}));
        assert_eq!(request.choose(true), Choice::Selected { option_id: "b".into() });
        assert_eq!(request.choose(false), Choice::Cancelled);
    }

    #[test]
    fn an_unreadable_request_still_gets_an_answer() {
        for params in [Value::Null, json!({"options":"x"}), json!({"options":[{"kind":"allow_once"}, 3]})] {
            let request = PermissionRequest::from_params(&params);
            assert_eq!(request.choose(true), Choice::Cancelled, "{params}");
            assert_eq!(request.question("1".into(), str::to_owned).tool, "tool");
        }
    }

    #[test]
    fn the_question_says_what_would_run() {
        let request =
            PermissionRequest::from_params(&json!({"toolCall":{"title":"Bash","rawInput":{"command":"ls\n -l"}}}));
        let question = request.question("7".into(), str::to_owned);
        assert_eq!((question.tool.as_str(), question.summary.as_str()), ("Bash", "ls -l"));
    }
}
