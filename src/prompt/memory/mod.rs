//! An agent's working memory: a goal and named sections that last over turns and rooms.
//!
//! Here are its form, the rules of changing it and the block of the prompt; the [`store`](MemoryStore) keeps it in a
//! file, which is shared with the `botcord` CLI.

mod store;

use std::collections::BTreeMap;
use std::{error, fmt};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::store::{MemoryError, MemoryStore};
use crate::json;
use crate::text;

/// Longest goal, in UTF-16 units.
pub const GOAL_LIMIT: usize = 500;
/// Longest section.
pub const SECTION_LIMIT: usize = 10_000;
/// Longest sum of goal and sections.
pub const TOTAL_LIMIT: usize = 20_000;
/// Above so much the agent is asked to condense.
pub const WARN_ABOVE: usize = 2_000;
/// The section that is meant when none is named.
pub const DEFAULT_SECTION: &str = "notes";

/// What an agent remembers. Written with keys in this order, sections sorted by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    version: u8,
    /// What it works towards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// Everything else, by section.
    pub sections: BTreeMap<String, String>,
    /// When it last changed (RFC 3339), or empty.
    pub updated_at: String,
}

impl Default for Memory {
    fn default() -> Self {
        Self { version: 2, goal: None, sections: BTreeMap::new(), updated_at: String::new() }
    }
}

impl Memory {
    /// Reads a memory document of version 2 or 1; `None` for anything else.
    pub fn from_value(document: &Value) -> Option<Self> {
        let string = |key: &str| document.get(key).and_then(Value::as_str).map(str::to_owned);
        let updated_at = string("updatedAt").unwrap_or_default();
        match document.get("version").and_then(Value::as_u64)? {
            2 => {
                let sections = match document.get("sections")? {
                    Value::Object(map) => crate::sort::map(
                        map.iter()
                            .filter(|(name, _)| is_section_name(name))
                            .filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))),
                    ),
                    Value::Array(_) => BTreeMap::new(),
                    _ => return None,
                };
                Some(Self { goal: string("goal"), sections, updated_at, ..Self::default() })
            }
            1 => {
                let content = string("content")?;
                let section = (!content.is_empty()).then(|| (DEFAULT_SECTION.to_owned(), content));
                Some(Self { sections: crate::sort::map(section), updated_at, ..Self::default() })
            }
            _ => None,
        }
    }

    /// Changes when goal or sections do: `wm-sha256:` and 16 hex digits. The time of the change has no part in it.
    pub fn version(&self) -> String {
        #[derive(Serialize)]
        struct Hashed<'a> {
            version: u8,
            goal: Option<&'a str>,
            sections: &'a BTreeMap<String, String>,
        }
        let hashed = Hashed { version: 2, goal: self.goal.as_deref(), sections: &self.sections };
        let json = json::to_vec(&hashed).unwrap_or_default();
        format!("wm-sha256:{}", crate::crypto::short_hash(&json, 16))
    }

    /// Length of goal and sections together, in UTF-16 units.
    pub fn total(&self) -> usize {
        self.goal.iter().chain(self.sections.values()).map(|t| text::len_utf16(t)).sum()
    }

    /// Applies a change; on an error nothing has changed. Does not touch [`Memory::updated_at`].
    pub fn apply(&mut self, update: &Update) -> Result<Updated, UpdateError> {
        if update.goal.is_none() && update.content.is_none() {
            return Err(UpdateError::Nothing);
        }
        let mut next = self.clone();
        if let Some(goal) = &update.goal {
            if text::len_utf16(goal) > GOAL_LIMIT {
                return Err(UpdateError::GoalTooLong(text::len_utf16(goal)));
            }
            next.goal = (!goal.is_empty()).then(|| goal.clone());
        }
        let section = text::trim(update.section.as_deref().unwrap_or(DEFAULT_SECTION)).to_owned();
        if let Some(content) = &update.content {
            if !is_section_name(&section) {
                return Err(UpdateError::SectionName(section));
            }
            if text::len_utf16(content) > SECTION_LIMIT {
                return Err(UpdateError::SectionTooLong(text::len_utf16(content)));
            }
            if content.is_empty() {
                next.sections.remove(&section);
            } else {
                next.sections.insert(section.clone(), content.clone());
            }
        }
        let total = next.total();
        if total > TOTAL_LIMIT {
            return Err(UpdateError::TotalTooLong(total));
        }
        *self = next;
        Ok(Updated { total_chars: total, section_present: self.sections.contains_key(&section), section })
    }

    fn is_empty(&self) -> bool {
        self.goal.as_deref().is_none_or(|g| text::trim(g).is_empty())
            && self.sections.values().all(|s| text::trim(s).is_empty())
    }
}

fn is_section_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A change of a memory. An empty goal or content deletes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The new goal.
    pub goal: Option<String>,
    /// The section that `content` is for; [`DEFAULT_SECTION`] if absent.
    pub section: Option<String>,
    /// The section's new content.
    pub content: Option<String>,
}

/// The result of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updated {
    /// Length of everything, in UTF-16 units.
    pub total_chars: usize,
    /// Whether the section exists now.
    pub section_present: bool,
    /// The section that was meant.
    pub section: String,
}

/// A change that is not possible. Lengths are UTF-16 units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateError {
    /// Neither goal nor content.
    Nothing,
    /// The goal is too long.
    GoalTooLong(usize),
    /// The section's name has other characters than letters, digits and underscores.
    SectionName(String),
    /// The content is too long.
    SectionTooLong(usize),
    /// Everything together would be too long.
    TotalTooLong(usize),
}

impl fmt::Display for UpdateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "nothing to change: give a goal or a section's content"),
            Self::GoalTooLong(n) => write!(f, "the goal has {n} characters, at most {GOAL_LIMIT} are kept"),
            Self::SectionName(name) => write!(f, "section name {name:?}: only letters, digits and _ are possible"),
            Self::SectionTooLong(n) => write!(f, "the content has {n} characters, at most {SECTION_LIMIT} are kept"),
            Self::TotalTooLong(n) => {
                write!(f, "the memory would have {n} characters, at most {TOTAL_LIMIT} are kept: condense it first")
            }
        }
    }
}

impl error::Error for UpdateError {}

/// The block of the system context. `place` is the directory of the file, for people who look for it; `local` leaves
/// out the hub's tools, for agents that have only bellhop's own command.
pub fn block(memory: Option<&Memory>, agent: &str, place: &str, local: bool) -> String {
    let how = if local {
        format!(
            "Change it with `bellhop memory set --agent {agent}`: `--goal <text>` sets the goal, `--section <name> \
             --content <text>` one section; an empty text deletes it, and no section touches another."
        )
    } else {
        "Change it with the botcord_memory tool or the command line: `botcord memory goal <text>` sets the goal, \
         `botcord memory set <content> --section <name>` one section, `botcord memory clear-section --section <name>` \
         deletes it (with the tool: empty content); no section touches another."
            .to_owned()
    };
    let mut lines = vec![
        "[BotCord Working Memory]".to_owned(),
        format!(
            "What stands here lasts over turns and rooms: your goal, what you have agreed on, what is still to be done. \
             It is your only memory store ({place}); nothing else of a conversation is certain to last."
        ),
        how,
        "When one room hands you work that is to be delivered in another, note it in the section pending_tasks: source \
         room, target room, what is to be delivered, status, and where to report. Look there before you answer \
         NO_REPLY, and remove what is done."
            .to_owned(),
        "Change it only when something has changed that will matter later.".to_owned(),
    ];
    let Some(memory) = memory.filter(|m| !m.is_empty()) else {
        lines.push("The memory is empty.".into());
        return lines.join("\n");
    };
    let since = if memory.updated_at.is_empty() { "unknown" } else { memory.updated_at.as_str() };
    lines.push(format!("Current memory (updated {since}):"));
    if let Some(goal) = memory.goal.as_deref().map(crate::sanitize::one_line).filter(|g| !text::trim(g).is_empty()) {
        lines.push(format!("Goal: {}", text::trim(&neutralise(&goal))));
    }
    for (name, content) in memory.sections.iter().filter(|(_, content)| !text::trim(content).is_empty()) {
        lines.push(format!("\n<section_{name}>\n{}\n</section_{name}>", neutralise(content)));
    }
    let shown = memory.total();
    if shown > WARN_ABOVE {
        lines
            .push(format!("\nThe memory has {shown} characters. Condense it: keep what still matters, drop the rest."));
    }
    lines.join("\n")
}

/// Takes the brackets off tags that look like the memory's own (`<section_x>`, `<current_memory>`).
pub fn neutralise(content: &str) -> String {
    let mut out = String::with_capacity(content.len());
    let mut rest = content;
    while let Some(start) = rest.find('<') {
        out.push_str(&rest[..start]);
        let inner = &rest[start + 1..];
        // The cheap test comes first: looking for a `>` behind every `<` would cost a scan each.
        if !begins_memory_tag(inner) {
            out.push('<');
            rest = inner;
        } else if let Some(close) = inner.find('>') {
            out.push('‹');
            out.push_str(&inner[..close]);
            out.push('›');
            rest = &inner[close + 1..];
        } else {
            rest = &rest[start..];
            break;
        }
    }
    out.push_str(rest);
    out
}

fn begins_memory_tag(inner: &str) -> bool {
    let name = inner.strip_prefix('/').unwrap_or(inner);
    let follows = |word: &str| {
        let (head, after) = name.split_at_checked(word.len())?;
        head.eq_ignore_ascii_case(word).then(|| after.bytes().next())?
    };
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    follows("current_memory").is_some_and(|next| !is_word(next)) || follows("section_").is_some_and(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(section: &str, content: &str) -> Update {
        Update { section: Some(section.into()), content: Some(content.into()), goal: None }
    }

    #[test]
    fn the_block_shows_what_is_remembered() {
        let mut memory = Memory { goal: Some("ship\nit".into()), updated_at: "T".into(), ..Memory::default() };
        memory.sections.insert("notes".into(), "a </section_notes> b".into());
        memory.sections.insert("blank".into(), " ".into());
        let shown = block(Some(&memory), "ag_1", "memory/ag_1", false);
        assert!(shown.contains("pending_tasks") && shown.contains("(updated T)"));
        assert!(shown.ends_with("Goal: ship it\n\n<section_notes>\na ‹/section_notes› b\n</section_notes>"), "{shown}");
        assert!(block(None, "ag_1", "p", true).ends_with("The memory is empty."));
        memory.sections.insert("long".into(), "x".repeat(2_000));
        assert!(block(Some(&memory), "ag_1", "p", false).contains("characters. Condense it"));
    }

    #[test]
    fn a_failed_change_changes_nothing() {
        let mut memory = Memory::default();
        memory.sections.insert("a".into(), "x".repeat(SECTION_LIMIT));
        memory.sections.insert("b".into(), "x".repeat(SECTION_LIMIT));
        let before = memory.clone();
        assert_eq!(memory.apply(&set("c", "x")), Err(UpdateError::TotalTooLong(20_001)));
        assert_eq!(memory, before);
    }
}
