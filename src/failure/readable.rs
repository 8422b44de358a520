//! An error text without the JSON that some CLIs pass on from the service they use.

use serde_json::{Deserializer, Value};

/// Bodies inside bodies: proxies wrap what the service behind them said.
const MAX_DEPTH: u32 = 3;

/// The text with the first error body in it replaced by what that body says; any other text as it is.
///
/// `[API Error: {"error":{"code":401,"message":"no such key"}}]` becomes `[API Error: no such key (401)]`.
pub fn readable(text: &str) -> String {
    unwrapped(text, MAX_DEPTH).unwrap_or_else(|| text.to_owned())
}

fn unwrapped(text: &str, depth: u32) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    let (before, body) = text.split_at(text.find('{')?);
    let mut values = Deserializer::from_str(body).into_iter::<Value>();
    let value = values.next()?.ok()?;
    let after = body.get(values.byte_offset()..)?;
    let error = value.get("error").unwrap_or(&value);
    let message = error.get("message").or(Some(error)).and_then(Value::as_str)?;
    let message = unwrapped(message, depth).unwrap_or_else(|| message.to_owned());
    let message = message.trim();
    if message.is_empty() {
        return None;
    }
    let code = error.get("code").and_then(Value::as_u64).map(|code| code.to_string());
    let code = code
        .filter(|code| depth + 1 == MAX_DEPTH && !before.contains(code.as_str()) && !message.contains(code.as_str()));
    let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
    Some(format!("{before}{message}{code}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_replaced_by_what_it_says() {
        let table = [
            (
                r#"[API Error: {"error":{"code":401,"message":"no such key","status":"UNAUTHENTICATED"}}]"#,
                "[API Error: no such key (401)]",
            ),
            (r#"{"error": {"message": "no", "type": "invalid_request_error", "param": null, "code": null}}"#, "no"),
            (r#"400 {"error":{"code":400,"message":"{\"error\":{\"code\":400,\"message\":\"bad\"}}"}}"#, "400 bad"),
            (r#"it failed: {"error":"busy"} (exit code 1)"#, "it failed: busy (exit code 1)"),
            (r#"{"message":"gone"}"#, "gone"),
        ];
        for (text, shown) in table {
            assert_eq!(readable(text), shown, "{text}");
        }
    }

    #[test]
    fn anything_else_stays_as_it_is() {
        let cut = r#"[API Error: {"error":{"code":401,"mess"#;
        for text in ["", "it broke", "a {b} c", r#"{"ok":true}"#, r#"{"error":{"message":" "}}"#, "{", cut] {
            assert_eq!(readable(text), text);
        }
    }
}
