//! `identity.md`: who an agent is, for its runtime; the hub may change the name and the bio in it. Pure.

use serde_json::{Value, json};

const NAME: &str = "- **Display name**: ";
const BIO: &str = "## Bio\n\n";
/// What stands where there is no name.
const NOT_SET: &str = "_(not set)_";
/// What stands where there is no bio.
pub const NO_BIO: &str = "_(nothing yet; the owner can write a bio in the dashboard)_";

/// What the hub says of an agent. The outer `None`: it says nothing; the inner one: it says that there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// What people call it.
    pub display_name: Option<Option<String>>,
    /// What it says of itself.
    pub bio: Option<Option<String>>,
}

impl Patch {
    /// Reads the two keys; what is neither text nor null counts as nothing said.
    pub fn read(entry: &Value) -> Self {
        let told = |key: &str| match entry.get(key) {
            Some(Value::String(text)) => Some(Some(text.clone())),
            Some(Value::Null) => Some(None),
            _ => None,
        };
        Self { display_name: told("displayName").filter(Option::is_some), bio: told("bio") }
    }
}

/// What became of a patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patched {
    /// The new text of the file.
    Changed(String),
    /// Nothing to write; the word says why.
    Skipped(&'static str),
}

impl Patched {
    /// For the hub.
    pub fn report(&self) -> Value {
        match self {
            Self::Changed(_) => json!({"changed": true}),
            Self::Skipped(why) => json!({"changed": false, "skipped": why}),
        }
    }
}

/// Puts name and bio into the text of a file; `None`: there is no file.
pub fn patch(text: Option<&str>, patch: &Patch) -> Patched {
    let Some(before) = text else { return Patched::Skipped("missing-file") };
    let mut text = before.to_owned();
    if let Some(name) = &patch.display_name {
        let name = name.as_deref().map_or("", str::trim);
        // A name with a line break would be more than a line.
        let name: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let Some(start) = line_start(&text, NAME) else { return Patched::Skipped("unparseable") };
        let end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        text.replace_range(start + NAME.len()..end, if name.is_empty() { NOT_SET } else { &name });
    }
    if let Some(bio) = &patch.bio {
        let bio = bio.as_deref().map(str::trim).filter(|bio| !bio.is_empty()).unwrap_or(NO_BIO);
        let Some(start) = line_start(&text, BIO) else { return Patched::Skipped("unparseable") };
        let start = start + BIO.len();
        let rest = &text[start..];
        // Of a bio with headings the end cannot be told. It is not put in again, before what is left of itself.
        let has_headings = bio.starts_with("##") || bio.contains("\n##");
        let is_there = || rest.strip_prefix(bio).is_some_and(|after| after.is_empty() || after.starts_with('\n'));
        if has_headings && is_there() {
            return if text == before { Patched::Skipped("no-change") } else { Patched::Changed(text) };
        }
        let end = if rest.starts_with("##") { Some(0) } else { rest.find("\n##").map(|at| at + 1) };
        match end {
            Some(end) => text.replace_range(start..start + end, &format!("{bio}\n\n")),
            None => text.replace_range(start.., &format!("{bio}\n")),
        }
    }
    if text == before { Patched::Skipped("no-change") } else { Patched::Changed(text) }
}

/// Where the first line begins that begins so.
fn line_start(text: &str, begin: &str) -> Option<usize> {
    if text.starts_with(begin) {
        return Some(0);
    }
    text.find(&format!("\n{begin}")).map(|at| at + 1)
}

/// The file of a new agent.
pub fn fresh(
    agent: &str,
    name: Option<&str>,
    runtime: Option<&str>,
    key: &str,
    created: &str,
    bio: Option<&str>,
) -> String {
    let or_not_set = |text: Option<&str>| {
        let text = text.map(str::trim).filter(|text| !text.is_empty()).unwrap_or(NOT_SET);
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>()
    };
    let bio = bio.map(str::trim).filter(|bio| !bio.is_empty()).unwrap_or(NO_BIO);
    format!(
        "# Identity\n\n- **Agent ID**: {agent}\n{NAME}{}\n- **Runtime**: {}\n- **Key ID**: {key}\n- **Created**: {created}\n\n\
         {BIO}{bio}\n\n## Role\n\n_(what you are here for; you and your owner may write it)_\n\n\
         ## Boundaries\n\n_(what you do not do without being asked)_\n",
        or_not_set(name),
        or_not_set(runtime),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bio_with_headings_is_put_in_once() {
        let bio = Patch { bio: Some(Some("Reviews\n\n## Focus\n\nRust".into())), ..Patch::default() };
        let file = fresh("ag_1", Some("Nia"), None, "k_1", "-", None);
        let Patched::Changed(first) = patch(Some(&file), &bio) else { panic!("{file}") };
        assert_eq!(patch(Some(&first), &bio), Patched::Skipped("no-change"), "{first}");
        let renamed = Patch { display_name: Some(Some("Ada".into())), ..bio };
        assert_eq!(patch(Some(&first), &renamed), Patched::Changed(first.replace("Nia", "Ada")));
    }
}
