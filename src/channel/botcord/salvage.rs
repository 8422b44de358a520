//! Takes a JSON document apart that does not parse as a whole, so that what is strange in one message does not cost all
//! others: nesting without end, halves of characters, numbers beyond all bounds.
//!
//! Goes by brackets and quotes alone and never deeper than one level at a time, whatever the nesting.

use serde_json::{Map, Value};

use crate::json;

/// The members of an object whose values parse and hold no more values than so many; the others are left out. `None` for
/// what is no whole object.
pub fn object(bytes: &[u8], values: usize) -> Option<Map<String, Value>> {
    let mut members = Map::new();
    for (key, value) in parts(bytes)? {
        if let (Ok(Value::String(key)), Ok(value)) = (json::parse(key), json::parse_at_most(value, values)) {
            members.insert(key, value);
        }
    }
    Some(members)
}

/// The bytes of a member's value. `None` as well for what is no whole object.
pub fn member<'b>(bytes: &'b [u8], wanted: &str) -> Option<&'b [u8]> {
    let found = parts(bytes)?.into_iter().find(|(key, _)| json::parse(key).is_ok_and(|key| key == wanted));
    found.map(|(_, value)| value)
}

/// Keys and values of an object.
fn parts(bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut parts = Vec::new();
    let mut rest = open(bytes, b'{')?;
    while let Some((key, after)) = part(rest) {
        let (value, after) = part(colon(after)?)?;
        parts.push((key, value));
        rest = comma(after)?;
    }
    closed(rest, b'}').then_some(parts)
}

/// The bytes of the elements of a list. `None` for what is no whole list.
pub fn elements(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut elements = Vec::new();
    let mut rest = open(bytes, b'[')?;
    while let Some((element, after)) = part(rest) {
        elements.push(element);
        rest = comma(after)?;
    }
    closed(rest, b']').then_some(elements)
}

/// Whether there is the closing bracket and nothing behind it.
fn closed(rest: &[u8], bracket: u8) -> bool {
    skip_space(rest).strip_prefix(&[bracket]).is_some_and(|rest| skip_space(rest).is_empty())
}

fn skip_space(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii_start()
}

/// What follows the opening bracket.
fn open(bytes: &[u8], bracket: u8) -> Option<&[u8]> {
    skip_space(bytes).strip_prefix(&[bracket])
}

fn colon(bytes: &[u8]) -> Option<&[u8]> {
    skip_space(bytes).strip_prefix(b":")
}

/// What follows a comma; the closing bracket stays.
fn comma(bytes: &[u8]) -> Option<&[u8]> {
    let bytes = skip_space(bytes);
    match bytes.first()? {
        b',' => bytes.get(1..),
        b']' | b'}' => Some(bytes),
        _ => None,
    }
}

/// The next value, and what follows it. `None` where none begins: at a closing bracket, or at the end.
fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let bytes = skip_space(bytes);
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'"' => {
                at = end_of_string(bytes, at)?;
                if depth == 0 {
                    break;
                }
                continue;
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    at += 1;
                    break;
                }
            }
            b']' | b'}' | b',' | b':' if depth == 0 => break,
            byte if depth == 0 && byte.is_ascii_whitespace() => break,
            _ => {}
        }
        at += 1;
    }
    (at > 0).then(|| bytes.split_at(at))
}

/// Where the string that begins at `at` has ended.
fn end_of_string(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_parses_comes_out_the_same() {
        let document =
            json!({"a": [1, {"b": "]}\"\\"}, []], "": null, "c": {"d": ","}, "e": -1.5, "f": true, "ü": "é"});
        for text in [document.to_string(), serde_json::to_string_pretty(&document).unwrap()] {
            assert_eq!(Value::Object(object(text.as_bytes(), 99).unwrap()), document);
            assert_eq!(member(text.as_bytes(), "ü").unwrap(), "\"é\"".as_bytes());
            let list = member(text.as_bytes(), "a").unwrap();
            let elements: Vec<Value> =
                elements(list).unwrap().into_iter().map(|e| serde_json::from_slice(e).unwrap()).collect();
            assert_eq!(Value::from(elements), document["a"]);
        }
        assert_eq!(object(b" { } ", 99).unwrap().len(), 0);
        assert_eq!(elements(b"[]").unwrap().len(), 0);
    }

    #[test]
    fn only_what_is_strange_is_lost() {
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        let text = format!(r#"{{"id": "h_1", "deep": {deep}, "half": "\ud800", "big": 1e999, "text": "x"}}"#);
        assert!(json::parse(text.as_bytes()).is_err());
        assert_eq!(Value::Object(object(text.as_bytes(), 99).unwrap()), json!({"id": "h_1", "text": "x"}));
    }

    #[test]
    fn nonsense_is_nothing() {
        for text in
            ["", "[", "{", "[1", "[1 2]", "{\"a\"", "{\"a\" 1}", "{\"a\":}", "{\"a\":\"", "{\"a\":\"\\", "5", "[[]"]
        {
            assert!(object(text.as_bytes(), 99).is_none() && elements(text.as_bytes()).is_none(), "{text}");
        }
        // Every beginning of a document ends without a panic.
        let text = br#"{"a": [1, {"b": "\"]"}], "c": "d"}"#;
        for end in 0..text.len() {
            let _ = (object(&text[..end], 99), elements(&text[..end]), member(&text[..end], "c"));
        }
    }
}
