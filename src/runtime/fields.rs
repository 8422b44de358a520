//! Reading fields of a CLI's event. Events are free-form and change with every release, so that each field is
//! looked at by itself: one that has another type than expected is absent and spoils nothing else.

use serde_json::Value;

/// The value at a path of object keys. One that is null is absent.
pub fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key)).filter(|value| !value.is_null())
}

/// The text at a path.
pub fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    at(value, path)?.as_str()
}

/// The text at a path, if it is not blank.
pub fn words<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    text(value, path).filter(|text| !text.trim().is_empty())
}

/// The finite number ≥ 0 at a path.
pub fn number(value: &Value, path: &[&str]) -> Option<f64> {
    at(value, path)?.as_f64().filter(|n| n.is_finite() && *n >= 0.0)
}

/// The same, as a count.
pub fn count(value: &Value, path: &[&str]) -> Option<u64> {
    number(value, path).map(|n| n as u64)
}

/// The elements at a path; none when there is no list.
pub fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The flag at a path; absent is false.
pub fn flag(value: &Value, path: &[&str]) -> bool {
    at(value, path).and_then(Value::as_bool).unwrap_or(false)
}
