//! A large document member by member, so that it never lies in memory as a whole.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::Error;

/// Reads an object. Of its member `name`, where that is an object, each member goes to `each` as it comes; everything
/// else is returned, `name` with an empty object in its place. What `each` was given counts only if `Ok` is returned.
pub fn for_each_in(bytes: &[u8], name: &str, each: &mut dyn FnMut(String, Value)) -> Result<Map<String, Value>, Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let rest = Outer { name, each }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(rest)
}

/// Makes `{"version": …, "entries": {…}}`, indented by two, entry by entry.
pub struct Entries {
    out: Vec<u8>,
    any: bool,
}

impl Entries {
    /// One without entries.
    pub fn new(version: u64) -> Self {
        Self { out: format!("{{\n  \"version\": {version},\n  \"entries\": {{").into_bytes(), any: false }
    }

    /// Adds an entry; `value` is indented JSON.
    pub fn add(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        self.out.extend_from_slice(if self.any { b",\n    " } else { b"\n    " });
        self.any = true;
        self.out.extend_from_slice(&super::to_vec(key)?);
        self.out.extend_from_slice(b": ");
        for (n, line) in value.split(|byte| *byte == b'\n').enumerate() {
            if n > 0 {
                self.out.extend_from_slice(b"\n    ");
            }
            self.out.extend_from_slice(line);
        }
        Ok(())
    }

    /// The document, without a newline at the end.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(if self.any { b"\n  }\n}" } else { b"}\n}" });
        self.out
    }
}

struct Outer<'a> {
    name: &'a str,
    each: &'a mut dyn FnMut(String, Value),
}

impl<'de> DeserializeSeed<'de> for Outer<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Outer<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut rest = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            let value = if key == self.name {
                members.next_value_seed(Inner { each: &mut *self.each })?
            } else {
                members.next_value()?
            };
            rest.insert(key, value);
        }
        Ok(rest)
    }
}

struct Inner<'a> {
    each: &'a mut dyn FnMut(String, Value),
}

impl<'de> DeserializeSeed<'de> for Inner<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Inner<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        while let Some((key, value)) = members.next_entry()? {
            (self.each)(key, value);
        }
        Ok(Value::Object(Map::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    type Read = (Map<String, Value>, Vec<(String, Value)>);

    fn read(text: &str) -> Result<Read, Error> {
        let mut seen = Vec::new();
        let rest = for_each_in(text.as_bytes(), "entries", &mut |key, value| seen.push((key, value)))?;
        Ok((rest, seen))
    }

    #[test]
    fn members_come_one_by_one_and_the_rest_at_the_end() {
        let (rest, seen) = read(r#"{"entries": {"b": {"x": 1}, "a": null}, "version": 1}"#).unwrap();
        assert_eq!(Value::Object(rest), json!({"entries": {}, "version": 1}));
        assert_eq!(seen, [("b".to_owned(), json!({"x": 1})), ("a".to_owned(), json!(null))]);
        assert_eq!(read("{}").unwrap(), (Map::new(), Vec::new()));
    }

    #[test]
    fn entries_are_written_as_a_whole_document_would_be() {
        for entries in [json!({}), json!({"a\n\"": {"x": [1, {}]}, "b": "1\n2"})] {
            let mut document = Entries::new(7);
            for (key, value) in entries.as_object().unwrap() {
                document.add(key, &crate::json::to_vec_pretty(value).unwrap()).unwrap();
            }
            let whole = crate::json::to_vec_pretty(&json!({"version": 7, "entries": entries})).unwrap();
            assert_eq!(document.finish(), whole);
        }
    }

    #[test]
    fn whatever_is_not_that_is_an_error() {
        for text in ["", "[]", "{\"entries\": [1]}", "{\"entries\": {}", "{} {}", "{\"entries\": {\"a\": }}"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
