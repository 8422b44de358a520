//! JSON to types and back, by one road each way.
//!
//! serde writes the code for every type once more for every reader and writer that it meets. So there is one of each
//! here, and the rest of the program uses no other: documents are parsed into a [`Value`] and types are read from that
//! ([`read`]); types are written into bytes, and whatever else is wanted is made from those. That costs a copy of
//! documents which are small, and saves a tenth of the program. Knows nobody.
//!
//! Differences to `serde_json`: of a member that is there twice the last one counts, structs are read from objects
//! only, and errors name the member where `serde_json` counts lines. Parsing stops at 128 levels.

mod each;
mod lossy;
mod read;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use each::{Entries, for_each_in};
pub use lossy::parse_lossy;
pub use serde_json::Error;

/// Reads a document. The error tells with [`Error::is_data`] JSON that does not fit from what is not JSON.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    from_value(&parse(bytes)?)
}

/// [`from_slice`] of a text.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    from_slice(text.as_bytes())
}

/// Reads a part of a document.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, Error> {
    T::deserialize(read::Node(value))
}

/// The document as it is.
pub fn parse(bytes: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(bytes)
}

/// [`parse`] of somebody else's document: one of more values is an error, as a number of two bytes takes eighty in memory.
pub fn parse_at_most(bytes: &[u8], values: usize) -> Result<Value, Error> {
    if values < at_most(bytes) {
        return Err(serde::de::Error::custom(format_args!("more than {values} values")));
    }
    parse(bytes)
}

/// How many values a document can have: the first one, and one behind each bracket and comma.
fn at_most(bytes: &[u8]) -> usize {
    let (mut count, mut is_text, mut is_escaped) = (1, false, false);
    for byte in bytes {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_text,
            b'"' => is_text = !is_text,
            b',' | b'[' | b'{' if !is_text => count += 1,
            _ => {}
        }
    }
    count
}

/// Compact JSON. Fails only for what JSON has no form for, such as maps whose keys are not texts.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value)
}

/// [`to_vec`] as text.
pub fn to_string<T: Serialize + ?Sized>(value: &T) -> Result<String, Error> {
    text(to_vec(value)?)
}

/// JSON indented by two, without a newline at the end.
pub fn to_vec_pretty<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    pretty(&to_vec(value)?)
}

/// [`to_vec_pretty`] as text.
pub fn to_string_pretty<T: Serialize + ?Sized>(value: &T) -> Result<String, Error> {
    text(to_vec_pretty(value)?)
}

/// A part of a document.
pub fn to_value<T: Serialize + ?Sized>(value: &T) -> Result<Value, Error> {
    parse(&to_vec(value)?)
}

fn pretty(compact: &[u8]) -> Result<Vec<u8>, Error> {
    serde_json::to_vec_pretty(&parse(compact)?)
}

fn text(bytes: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(bytes).map_err(serde::ser::Error::custom)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        FirstOne,
        #[serde(other)]
        Other,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Choice {
        Bare,
        Tuple(i64, String),
        Inner(Vec<u8>),
        Fields { size: u64 },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Everything {
        flag: bool,
        small: i8,
        big: u64,
        float: f64,
        whole_float: f64,
        text: String,
        path: PathBuf,
        #[serde(default)]
        absent: Option<u32>,
        #[serde(default = "forty")]
        given: u32,
        list: Vec<Word>,
        pair: (String, i64),
        map: BTreeMap<String, Option<bool>>,
        choices: Vec<Choice>,
        raw: Value,
    }

    fn forty() -> u32 {
        40
    }

    fn document() -> Value {
        json!({
            "flag": true, "small": -3, "big": u64::MAX, "float": 0.5, "wholeFloat": 7, "text": "a\u{0}é", "path": "/x",
            "list": ["first_one", "of_a_later_version"], "pair": ["p", -1], "map": {"a": null, "b": false},
            "choices": ["bare", {"tuple": [1, "t"]}, {"inner": [1, 2]}, {"fields": {"size": 9}}],
            "raw": {"z": [1, {"y": null}], "a": 1.5},
        })
    }

    #[test]
    fn everything_is_read_as_it_was_written() {
        let read: Everything = from_value(&document()).unwrap();
        assert_eq!((read.given, read.absent), (40, None));
        assert_eq!(read.list, [Word::FirstOne, Word::Other]);
        assert_eq!(read.choices[1], Choice::Tuple(1, "t".into()));
        assert_eq!(read.raw.to_string(), r#"{"z":[1,{"y":null}],"a":1.5}"#);
        let bytes = to_vec(&read).unwrap();
        assert_eq!(from_slice::<Everything>(&bytes).unwrap(), read);
        assert_eq!(from_value::<Everything>(&to_value(&read).unwrap()).unwrap(), read);
        assert_eq!(from_str::<Everything>(&to_string_pretty(&read).unwrap()).unwrap(), read);
        assert_eq!(to_string(&read).unwrap().into_bytes(), bytes);
        assert_eq!(
            to_string_pretty(&json!({"b": [1], "a": {}})).unwrap(),
            "{\n  \"b\": [\n    1\n  ],\n  \"a\": {}\n}"
        );
    }

    #[test]
    fn it_understands_what_serde_json_understands() {
        let text = document().to_string();
        let theirs: Everything = serde_json::from_str(&text).unwrap();
        assert_eq!(from_str::<Everything>(&text).unwrap(), theirs);
        // Each member once replaced by each kind of value: both take it, or neither does.
        for name in document().as_object().unwrap().keys() {
            for odd in [json!(null), json!(1), json!(-1), json!(1e300), json!("x"), json!([]), json!([1]), json!({})] {
                let mut changed = document();
                changed[name] = odd.clone();
                let theirs = serde_json::from_str::<Everything>(&changed.to_string()).ok();
                assert_eq!(from_value::<Everything>(&changed).ok(), theirs, "{name} = {odd}");
            }
        }
    }

    #[test]
    fn errors_name_the_member() {
        let error = |change: fn(&mut Value)| {
            let mut value = document();
            change(&mut value);
            let error = from_value::<Everything>(&value).unwrap_err();
            assert!(error.is_data());
            error.to_string()
        };
        assert_eq!(error(|v| v["pair"][1] = json!("x")), "pair: invalid type: string \"x\", expected i64");
        assert_eq!(error(|v| v["map"]["a"] = json!(1)), "map: a: invalid type: integer `1`, expected a boolean");
        assert_eq!(error(|v| v["list"] = json!({})), "list: invalid type: map, expected a sequence");
        assert_eq!(error(|v| *v = json!([])), "invalid type: sequence, expected struct Everything");
        assert!(error(|v| v["more"] = json!(1)).starts_with("unknown field `more`, expected one of `flag`"));
        assert_eq!(error(|v| drop(v.as_object_mut().unwrap().remove("text"))), "missing field `text`");
        assert!(error(|v| v["choices"] = json!([{"bare": 1, "inner": 2}])).starts_with("choices: invalid"));
        assert!(from_str::<Value>("{").unwrap_err().is_eof());
        assert!(from_slice::<Value>(b"\xff").unwrap_err().is_syntax());
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert!(from_str::<Value>(&deep).is_err());
        // The deepest that is taken has room on the stack of any thread.
        let deep = format!("{}{}", "[".repeat(127), "]".repeat(127));
        let read = crate::thread::spawn("deep", move || {
            let read: Vec<Value> = from_str(&deep).unwrap();
            assert_eq!(to_string(&read).unwrap(), deep);
        });
        read.unwrap().join().unwrap();
    }
}
