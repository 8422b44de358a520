//! The skills that an agent has on disk, listed so that it can use those which its CLI does not load by itself.
//!
//! A directory is read again only when its modification time, or that of one of its children, has changed.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::files;
use crate::sanitize;
use crate::text;

/// Skills that the prompt lists.
pub const SHOWN: usize = 24;
/// Length of a description, in UTF-16 units, with the dots that show the cut.
const DESCRIPTION_LIMIT: usize = 260;
/// Bytes read of a `SKILL.md`.
const READ_LIMIT: u64 = 8_192;
/// Skills read in one directory; more are passed over.
const PER_DIRECTORY: usize = 500;
/// Directories remembered.
const CACHED: usize = 1_024;

/// A skill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skill {
    /// Its name.
    pub name: String,
    /// What it does, one line.
    pub description: Option<String>,
    /// Its `SKILL.md`.
    pub path: PathBuf,
    /// Where it comes from, such as `agent-workspace`.
    pub source: &'static str,
    /// The name as the prompt shows it, and what follows the source there. Made when the file is read: what is foreign
    /// is cleaned once, not in every turn.
    shown: (String, String),
}

/// A directory of skills and what it is called.
pub type Place = (PathBuf, &'static str);

/// Where the skills of an agent with this runtime lie. `agent_dir` holds the workspace and the CLIs' own homes,
/// `home` is the user's, `external` comes from `BOTCORD_SKILL_DIRS`.
pub fn places(
    runtime: &str,
    agent_dir: &Path,
    home: &Path,
    hermes_profile: Option<&Path>,
    external: &[PathBuf],
) -> Vec<Place> {
    let workspace = agent_dir.join("workspace");
    let own: Place = (workspace.join("skills"), "agent-workspace");
    let mut places = match runtime {
        "claude-code" | "" => vec![
            (workspace.join(".claude/skills"), "agent-claude"),
            own,
            (home.join(".claude/skills"), "global-claude"),
        ],
        "codex" => vec![
            (agent_dir.join("codex-home/skills"), "agent-codex"),
            (agent_dir.join("codex-home/skills/.system"), "agent-codex"),
            own,
            (home.join(".codex/skills"), "global-codex"),
            (home.join(".codex/skills/.system"), "global-codex"),
        ],
        "gemini" => vec![
            (workspace.join(".gemini/skills"), "agent-gemini"),
            (workspace.join(".agents/skills"), "agent-agents"),
            own,
            (home.join(".gemini/skills"), "global-gemini"),
            (home.join(".agents/skills"), "global-agents"),
        ],
        "hermes-agent" => vec![
            match hermes_profile {
                Some(profile) => (profile.join("skills"), "agent-hermes-profile"),
                None => (agent_dir.join("hermes-home/skills"), "agent-hermes"),
            },
            own,
        ],
        _ => vec![own],
    };
    places.extend(external.iter().map(|dir| (dir.clone(), "external")));
    let mut seen = Vec::new();
    places.retain(|(dir, _)| {
        !seen.contains(dir) && {
            seen.push(dir.clone());
            true
        }
    });
    places
}

/// What was found in a directory, with the times by which it is recognised.
#[derive(Debug)]
struct Listing {
    stamp: Vec<(PathBuf, SystemTime)>,
    skills: Vec<Skill>,
}

/// Finds skills and remembers them.
#[derive(Debug, Default)]
pub struct SkillIndex {
    listings: Mutex<HashMap<PathBuf, Listing>>,
}

impl SkillIndex {
    /// All skills, sorted by name. Of several with one name the agent's own wins over the user's, and the user's over
    /// external ones.
    pub fn find(&self, places: &[Place]) -> Vec<Skill> {
        let mut by_name: BTreeMap<String, Skill> = BTreeMap::new();
        for (dir, source) in places {
            for skill in self.list(dir, source) {
                let known = by_name.get(&skill.name);
                if known.is_none_or(|known| rank(skill.source) < rank(known.source)) {
                    by_name.insert(skill.name.clone(), skill);
                }
            }
        }
        by_name.into_values().collect()
    }

    fn list(&self, dir: &Path, source: &'static str) -> Vec<Skill> {
        let stamp = stamp(dir);
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp.is_empty() {
            listings.remove(dir);
            return Vec::new();
        }
        if let Some(known) = listings.get(dir).filter(|l| l.stamp == stamp) {
            return known.skills.iter().map(|s| Skill { source, ..s.clone() }).collect();
        }
        let skills: Vec<Skill> = stamp.iter().filter_map(|(path, _)| read(path, source)).collect();
        if listings.len() >= CACHED {
            listings.clear();
        }
        listings.insert(dir.to_owned(), Listing { stamp, skills: skills.clone() });
        skills
    }
}

fn rank(source: &str) -> u8 {
    match source {
        s if s.starts_with("agent-") => 0,
        s if s.starts_with("global-") => 1,
        _ => 2,
    }
}

/// The `SKILL.md` files of a directory, sorted, with their modification times.
fn stamp(dir: &Path) -> Vec<(PathBuf, SystemTime)> {
    let Ok(children) = fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<(PathBuf, SystemTime)> = children
        .filter_map(|child| {
            let path = child.ok()?.path().join("SKILL.md");
            let meta = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
            Some((path, meta.modified().ok()?))
        })
        .take(PER_DIRECTORY)
        .collect();
    crate::sort::sort(&mut found);
    found
}

fn read(path: &Path, source: &'static str) -> Option<Skill> {
    let directory = path.parent()?.file_name()?.to_string_lossy().into_owned();
    let content = files::read_at_most(path, READ_LIMIT)?;
    let (name, description) = parse(&String::from_utf8_lossy(&content), &directory);
    let safe = |value: &str| sanitize::one_line(&sanitize::body(value));
    let about = description.as_deref().map(|d| format!(" - {}", safe(d))).unwrap_or_default();
    let shown = (safe(&name), format!("{}{about}", safe(&path.to_string_lossy())));
    Some(Skill { name, description, path: path.to_owned(), source, shown })
}

/// Name and description in a `SKILL.md`. The name is `fallback` where the file gives none; the description comes
/// from the front matter, else from a `**Purpose:**` line, else from the first paragraph that is no heading.
pub fn parse(content: &str, fallback: &str) -> (String, Option<String>) {
    let content = content.replace("\r\n", "\n");
    let (front, rest) = front_matter(&content);
    let field = |key: &str| {
        let value = front.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
        let value = unquoted(text::trim(value)).to_owned();
        (!value.is_empty()).then_some(value)
    };
    let purpose = || rest.split_once("**Purpose:**").map(|(_, after)| after.lines().next().unwrap_or_default());
    let paragraph = || rest.split("\n\n").map(text::trim).find(|p| !p.is_empty() && !p.starts_with('#'));
    let description = field("description").or_else(|| purpose().or_else(paragraph).map(str::to_owned));
    let one_line = description.map(|d| d.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|d| !d.is_empty());
    let cut = one_line.map(|d| {
        if text::len_utf16(&d) <= DESCRIPTION_LIMIT {
            return d;
        }
        format!("{}...", text::head(&d, DESCRIPTION_LIMIT - 3))
    });
    (field("name").unwrap_or_else(|| fallback.to_owned()), cut)
}

/// The part between `---` lines at the beginning, and what follows it.
fn front_matter(content: &str) -> (&str, &str) {
    content.strip_prefix("---\n").and_then(|c| c.split_once("\n---")).unwrap_or(("", content))
}

fn unquoted(value: &str) -> &str {
    let between = |quote| value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote));
    between('"').or_else(|| between('\'')).unwrap_or(value)
}

/// The block of the system context; `None` without skills.
pub fn block(skills: &[Skill]) -> Option<String> {
    if skills.is_empty() {
        return None;
    }
    let mut lines = vec![
        "[BotCord Daemon Skill Index]".to_owned(),
        "Skills on this machine. To use one that your CLI has not loaded by itself, read its SKILL.md first and follow it."
            .to_owned(),
        String::new(),
    ];
    lines.extend(skills.iter().take(SHOWN).map(|skill| {
        let (name, rest) = &skill.shown;
        format!("- {name} ({}): {rest}", skill.source)
    }));
    if skills.len() > SHOWN {
        lines.push(format!("… and {} more", skills.len() - SHOWN));
    }
    Some(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::TempDir;
    use super::*;

    fn write(dir: &Path, skill: &str, content: &str) {
        fs::create_dir_all(dir.join(skill)).unwrap();
        fs::write(dir.join(skill).join("SKILL.md"), content).unwrap();
    }

    #[test]
    fn the_agents_own_skill_wins() {
        let dir = TempDir::new("skills");
        let (own, global) = (dir.path().join("own"), dir.path().join("global"));
        write(&global, "a", "---\nname: digest\n---\nglobal");
        write(&own, "b", "---\nname: digest\n---\nown");
        write(&own, "c", "plain");
        let places = [(global, "global-claude"), (own, "agent-workspace"), (dir.path().join("none"), "external")];
        let index = SkillIndex::default();
        let found = index.find(&places);
        let shown: Vec<_> = found.iter().map(|s| (s.name.as_str(), s.description.as_deref(), s.source)).collect();
        assert_eq!(shown, [("c", Some("plain"), "agent-workspace"), ("digest", Some("own"), "agent-workspace")]);
        assert!(block(&found).unwrap().contains("- c (agent-workspace): /"));
    }

    #[test]
    fn a_new_skill_is_seen_although_the_rest_is_remembered() {
        let dir = TempDir::new("skills-cache");
        let places = [(dir.path().to_owned(), "agent-workspace")];
        let index = SkillIndex::default();
        assert!(index.find(&places).is_empty());
        write(dir.path(), "a", "one");
        assert_eq!(index.find(&places).len(), 1);
        write(dir.path(), "b", "two");
        assert_eq!(index.find(&places).len(), 2);
        fs::remove_dir_all(dir.path().join("a")).unwrap();
        assert_eq!(index.find(&places)[0].name, "b");
    }

    #[test]
    fn a_long_description_is_cut() {
        let (_, description) = parse(&"word ".repeat(200), "x");
        let description = description.unwrap();
        assert_eq!(text::len_utf16(&description), 260);
        assert!(description.ends_with("..."));
    }
}
