//! Digests of a CLI's events for people: words, the name of a tool, one line about a call or its result.

use serde_json::Value;

use crate::message::Digest;
use crate::runtime::fields;
use crate::text;

/// Longest line about a call or a result, in UTF-16 units.
const MAX_SUMMARY: usize = 200;

/// Inputs that say most about a call, the most telling first.
const TELLING: [&str; 12] = [
    "command",
    "file_path",
    "path",
    "notebook_path",
    "query",
    "pattern",
    "url",
    "description",
    "title",
    "prompt",
    "subject",
    "name",
];

/// White space collapsed, at most 200 units; `None` when nothing is left.
pub fn line(text: &str) -> Option<String> {
    // Only the beginning is looked at: a result may be megabytes long.
    let start = text::head(text, 4 * MAX_SUMMARY);
    let joined = start.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut = start.len() < text.len() && text::len_utf16(&joined) < MAX_SUMMARY;
    let shown = text::head(&joined, MAX_SUMMARY);
    if shown.len() < joined.len() || cut {
        return Some(format!("{}…", text::head(shown, MAX_SUMMARY - 1)));
    }
    (!shown.is_empty()).then(|| shown.to_owned())
}

/// One line about the input of a tool.
pub fn input(input: &Value) -> Option<String> {
    if let Some(text) = input.as_str() {
        return line(text);
    }
    let telling = TELLING.iter().find_map(|key| match input.get(key)? {
        Value::String(text) => line(text),
        Value::Array(parts) => line(&parts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        _ => None,
    });
    match input {
        _ if telling.is_some() => telling,
        Value::Object(map) if map.is_empty() => None,
        Value::Null => None,
        other => line(&other.to_string()),
    }
}

/// A whole message of the agent. It ends with a newline, so that the next one does not run on in its last line.
pub fn message(text: &str) -> Digest {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    words(&format!("{text}{end}"))
}

/// Words of the agent; more may follow on the same line.
pub fn words(text: &str) -> Digest {
    Digest { text: Some(text.to_owned()), ..Digest::default() }
}

/// A call of a tool.
pub fn call(tool: &str, summary: Option<String>) -> Digest {
    Digest { tool: Some(tool.to_owned()), summary, ..Digest::default() }
}

/// Content of a tool's result: a string, or a list with text parts.
pub fn content(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => line(text),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| fields::text(part, &["text"])).collect();
            line(&texts.join(" "))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_call_is_summed_up_by_what_tells_most() {
        assert_eq!(input(&json!({"description": "d", "command": "ls\n -l"})).as_deref(), Some("ls -l"));
        assert_eq!(input(&json!({"command": ["git", "log"]})).as_deref(), Some("git log"));
        assert_eq!(input(&json!({"depth": 3})).as_deref(), Some(r#"{"depth":3}"#));
        assert_eq!(input(&json!({})), None);
    }

    #[test]
    fn a_summary_never_exceeds_its_limit() {
        let long = line(&"word ".repeat(10_000)).unwrap();
        assert!(text::len_utf16(&long) <= MAX_SUMMARY);
        assert!(long.ends_with('…'));
        assert!(line(&format!("a{}b", " ".repeat(5_000))).unwrap().ends_with('…'));
    }
}
