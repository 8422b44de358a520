//! A JSON document that is read field by field, collecting every complaint with its path and line.
//!
//! Deserialising into structs would stop at the first mistake and could not say which values are allowed.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::locate::{Step, line_of};

/// Mistakes of one document that are told one by one.
const MOST: usize = 100;

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1.
    pub line: usize,
    /// Path of the field, such as `routes[0].adapter`; empty for the document itself.
    pub field: String,
    /// What was found and what is expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.field, self.message) }
    }
}

/// A configuration that cannot be used. Nothing of it is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Everything that is wrong with it, in the order of the checks; at least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    /// One line for each problem: `file:line: field: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            let newline = if n == 0 { "" } else { "\n" };
            if problem.line == 0 {
                write!(f, "{newline}{}: {problem}", self.file.display())?;
            } else {
                write!(f, "{newline}{}:{}: {problem}", self.file.display(), problem.line)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Where complaints about one document go.
pub struct Complaints<'a> {
    text: &'a str,
    list: Vec<Problem>,
}

impl<'a> Complaints<'a> {
    /// None yet. `text` is the document as it was read.
    pub fn new(text: &'a str) -> Self {
        Self { text, list: Vec::new() }
    }

    /// Adds one about the value at this path. Each looks for its line from the beginning of the text on, and nobody reads
    /// more than [`MOST`] of them: of the rest is said only that there are some.
    pub fn add(&mut self, path: &[Step], message: impl Into<String>) {
        let (path, message) = match self.list.len() {
            0..MOST => (path, message.into()),
            MOST => (&[][..], format!("there are more mistakes than these {MOST}")),
            _ => return,
        };
        self.list.push(Problem { line: line_of(self.text, path), field: spelled(path), message });
    }

    /// The error, if there is anything to complain about.
    pub fn finish(self, file: &Path) -> Result<(), ConfigError> {
        if self.list.is_empty() {
            return Ok(());
        }
        Err(ConfigError { file: file.to_owned(), problems: self.list })
    }
}

/// `routes[0].match.channel`.
pub fn spelled(path: &[Step]) -> String {
    let mut out = String::new();
    for step in path {
        match step {
            Step::Key(key) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(key);
            }
            Step::Index(index) => out.push_str(&format!("[{index}]")),
        }
    }
    out
}

/// What a value is, for complaints: strings and numbers as they are (shortened), the rest by kind.
pub fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        other => crate::text::clip(&other.to_string(), 60),
    }
}

/// A value with its path. Reading a field that is absent or `null` gives `None`; reading one of the wrong
/// kind gives `None` as well and leaves a complaint.
#[derive(Clone)]
pub struct Node<'v> {
    value: &'v Value,
    path: Vec<Step>,
}

impl<'v> Node<'v> {
    /// The document.
    pub fn root(value: &'v Value) -> Self {
        Self { value, path: Vec::new() }
    }

    /// The value.
    pub fn value(&self) -> &'v Value {
        self.value
    }

    /// Where it is.
    pub fn path(&self) -> &[Step] {
        &self.path
    }

    /// Complains about it.
    pub fn complain(&self, to: &mut Complaints<'_>, message: impl Into<String>) {
        to.add(&self.path, message);
    }

    /// Complains that it is not what it should be.
    pub fn expected(&self, to: &mut Complaints<'_>, what: &str) {
        self.complain(to, format!("expected {what}, found {}", found(self.value)));
    }

    /// The members, when it is an object; else a complaint.
    pub fn object(&self, to: &mut Complaints<'_>) -> Option<&'v Map<String, Value>> {
        if let Value::Object(map) = self.value {
            return Some(map);
        }
        self.expected(to, "an object");
        None
    }

    /// A member, unless absent or null.
    pub fn get(&self, key: &str) -> Option<Node<'v>> {
        let value = self.value.get(key).filter(|v| !v.is_null())?;
        let mut path = self.path.clone();
        path.push(Step::Key(key.to_owned()));
        Some(Node { value, path })
    }

    /// The elements of a member that is a list.
    pub fn list(&self, key: &str, to: &mut Complaints<'_>) -> Option<Vec<Node<'v>>> {
        let node = self.get(key)?;
        let Value::Array(items) = node.value else {
            node.expected(to, "a list");
            return None;
        };
        let items = items.iter().enumerate().map(|(index, value)| {
            let mut path = node.path.clone();
            path.push(Step::Index(index));
            Node { value, path }
        });
        Some(items.collect())
    }

    /// A text that is not empty.
    pub fn text(&self, key: &str, to: &mut Complaints<'_>) -> Option<&'v str> {
        self.get(key)?.as_text(to)
    }

    /// This value as a text that is not empty.
    pub fn as_text(&self, to: &mut Complaints<'_>) -> Option<&'v str> {
        let text = self.value.as_str().filter(|s| !s.trim().is_empty());
        if text.is_none() {
            self.expected(to, "a text that is not empty");
        }
        text
    }

    /// A text that must be there.
    pub fn needed_text(&self, key: &str, to: &mut Complaints<'_>) -> Option<&'v str> {
        if self.get(key).is_none() {
            let mut path = self.path.clone();
            path.push(Step::Key(key.to_owned()));
            to.add(&path, "is missing; expected a text");
        }
        self.text(key, to)
    }

    /// Texts that are not empty.
    pub fn texts(&self, key: &str, to: &mut Complaints<'_>) -> Option<Vec<String>> {
        let items = self.list(key, to)?;
        Some(items.iter().filter_map(|i| i.as_text(to)).map(ToOwned::to_owned).collect())
    }

    /// `true` or `false`.
    pub fn boolean(&self, key: &str, to: &mut Complaints<'_>) -> Option<bool> {
        let node = self.get(key)?;
        if node.value.as_bool().is_none() {
            node.expected(to, "true or false");
        }
        node.value.as_bool()
    }

    /// A whole number in a range.
    pub fn number(&self, key: &str, range: std::ops::RangeInclusive<u64>, to: &mut Complaints<'_>) -> Option<u64> {
        let node = self.get(key)?;
        let number = node.value.as_u64().filter(|n| range.contains(n));
        if number.is_none() {
            node.expected(to, &format!("a whole number from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, key: &str, words: &[(&str, T)], to: &mut Complaints<'_>) -> Option<T> {
        let node = self.get(key)?;
        let hit = node.value.as_str().and_then(|s| words.iter().find(|(w, _)| *w == s));
        if hit.is_none() {
            let names: Vec<_> = words.iter().map(|(w, _)| format!("\"{w}\"")).collect();
            node.expected(to, &names.join(" or "));
        }
        hit.map(|(_, value)| *value)
    }
}
