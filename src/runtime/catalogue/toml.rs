//! As much TOML as the configuration files of the CLIs need: sections and `key = value` lines.
//!
//! Values are strings in either quotes, integers, booleans and one-line lists of strings. Lines of any
//! other form are skipped: a file that this reader does not fully understand still names its models.

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string, escapes resolved.
    Text(String),
    /// An integer.
    Integer(i64),
    /// A boolean.
    Boolean(bool),
    /// A list of strings; members of other types are left out.
    List(Vec<String>),
}

impl Value {
    /// The string.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// A section: its dotted name as parts (empty at the top of the file), and its keys in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// `models."a.b"` is `["models", "a.b"]`.
    pub name: Vec<String>,
    /// Keys and values.
    pub keys: Vec<(String, Value)>,
}

impl Section {
    /// The value of a key; the last one where it is repeated.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.iter().rev().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    /// The string of a key.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::text)
    }
}

/// Reads a file. The first section is always the top of the file.
pub fn parse(text: &str) -> Vec<Section> {
    let mut sections = vec![Section::default()];
    for line in text.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(section_name) {
            sections.push(Section { name, keys: Vec::new() });
        } else if let Some((key, value)) = key_value(line)
            && let Some(section) = sections.last_mut()
        {
            section.keys.push((key, value));
        }
    }
    sections
}

/// `models."a.b"]` and what may follow; arrays of tables are not read.
fn section_name(rest: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = rest.trim_start();
    loop {
        let (part, after) = if rest.starts_with(['"', '\'']) {
            quoted(rest)?
        } else {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | ':')))?;
            (rest[..end].to_owned(), &rest[end..])
        };
        if part.is_empty() {
            return None;
        }
        parts.push(part);
        rest = after.trim_start();
        match rest.strip_prefix('.') {
            Some(more) => rest = more.trim_start(),
            None => return rest.starts_with(']').then_some(parts),
        }
    }
}

fn key_value(line: &str) -> Option<(String, Value)> {
    let (key, rest) = if line.starts_with(['"', '\'']) {
        let (key, after) = quoted(line)?;
        (key, after.trim_start().strip_prefix('=')?)
    } else {
        let (key, rest) = line.split_once('=')?;
        (key.trim().to_owned(), rest)
    };
    if key.is_empty() || key.starts_with('#') {
        return None;
    }
    Some((key, value(rest.trim())?))
}

fn value(text: &str) -> Option<Value> {
    if text.starts_with(['"', '\'']) {
        return quoted(text).map(|(text, _)| Value::Text(text));
    }
    if let Some(list) = text.strip_prefix('[') {
        return Some(Value::List(list_of_strings(list)));
    }
    let bare = text.split('#').next().unwrap_or_default().trim();
    match bare {
        "true" => Some(Value::Boolean(true)),
        "false" => Some(Value::Boolean(false)),
        _ => bare.replace('_', "").parse().ok().map(Value::Integer),
    }
}

fn list_of_strings(mut rest: &str) -> Vec<String> {
    let mut list = Vec::new();
    while let Some(at) = rest.find(['"', '\'', ']']) {
        rest = &rest[at..];
        let Some((text, after)) = quoted(rest) else { break };
        list.push(text);
        rest = after;
    }
    list
}

/// A quoted string at the start of `text`, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some((value, &text[at + 1..]));
        }
        if c != '\\' || quote == '\'' {
            value.push(c);
            continue;
        }
        match chars.next()?.1 {
            'n' => value.push('\n'),
            't' => value.push('\t'),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_keys_and_values_are_read() {
        let file =
            "a = 1 # one\nb = \"x # \\\"y\\\"\"\n[models.\"p/q.r\"]\nc = ['u', \"v\"]\nd=true\n[models.plain-1]\n";
        let sections = parse(file);
        assert_eq!(sections[0].get("a"), Some(&Value::Integer(1)));
        assert_eq!(sections[0].text("b"), Some("x # \"y\""));
        assert_eq!(sections[1].name, ["models", "p/q.r"]);
        assert_eq!(sections[1].get("c"), Some(&Value::List(vec!["u".into(), "v".into()])));
        assert_eq!(sections[1].get("d"), Some(&Value::Boolean(true)));
        assert_eq!(sections[2].name, ["models", "plain-1"]);
    }

    #[test]
    fn odd_lines_are_skipped() {
        let sections = parse("[broken\n[[table]]\n= 3\nx = \"open\ny = 1979-05-27\n\u{feff}z = [1, 2\n");
        assert_eq!(sections.len(), 1);
        assert_eq!(sections[0].get("x"), None);
    }
}
