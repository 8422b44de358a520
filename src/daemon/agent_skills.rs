//! `list_agent_skills` and `install_agent_skill`: the skills of an agent, and new ones for it.
//!
//! A skill is written beside its place and put there when it is complete, so that a CLI never reads half of one; all
//! skills of a frame are checked before the first is written.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::config::Home;
use crate::crypto;
use crate::link::botcord_control::frame::Refused;
use crate::prompt::skills::{self, SkillIndex};
use crate::runtime::hermes::profiles;
use crate::store::{self, Disk, RealDisk};

/// Longest file of a skill, in bytes.
const FILE_LIMIT: usize = 262_144;
/// Files of a skill besides its text.
const FILES: usize = 128;
/// Skills of a frame.
const SKILLS: usize = 64;
/// Longest path of a file, and longest name in it: it is written under a longer one first.
const PATH_LIMIT: usize = 512;
const PART_LIMIT: usize = 230;

/// Whose skills.
pub(super) struct Owner<'a> {
    pub(super) home: &'a Home,
    /// The home of the person.
    pub(super) user_home: &'a Path,
    pub(super) agent: &'a str,
    /// The runtime of the agent.
    pub(super) runtime: &'a str,
    pub(super) hermes_profile: Option<&'a str>,
    /// Further directories with skills.
    pub(super) external: &'a [PathBuf],
}

/// The skills of an agent, as the hub wants to know them.
pub(super) fn snapshot(owner: &Owner<'_>, now: i64) -> Value {
    let profile = owner.hermes_profile.and_then(|name| profiles::home(owner.user_home, name));
    let dir = owner.home.agent_dir(owner.agent);
    let places = skills::places(owner.runtime, &dir, owner.user_home, profile.as_deref(), owner.external);
    let found = SkillIndex::default().find(&places);
    let skills: Vec<Value> = found
        .into_iter()
        .map(|skill| {
            let modified = fs::metadata(&skill.path).and_then(|meta| meta.modified()).ok();
            let age = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            let own = skill.source.starts_with("agent-");
            let mut row = json!({
                "name": one_line(&skill.name),
                "source": if own { "workspace" } else { "runtime-global" },
                "sourceDetail": skill.source,
                "runtime": owner.runtime,
                "path": skill.path.display().to_string(),
                "mtimeMs": age.as_millis() as u64,
            });
            if let Some(description) = skill.description {
                row["description"] = description.into();
            }
            if let Some(profile) = owner.hermes_profile.filter(|_| skill.source == "agent-hermes-profile") {
                row["profile"] = profile.into();
            }
            row
        })
        .collect();
    json!({"agentId": owner.agent, "runtime": owner.runtime, "skills": skills, "probedAt": now})
}

/// White space collapsed.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Where a skill is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    ClaudeCode,
    Codex,
}

impl Target {
    fn as_str(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::Codex => "codex",
        }
    }

    /// The directory of its skills.
    fn root(self, owner: &Owner<'_>) -> PathBuf {
        match self {
            Self::ClaudeCode => owner.home.workspace(owner.agent).join(".claude/skills"),
            Self::Codex => owner.home.codex_home(owner.agent).join("skills"),
        }
    }
}

/// A skill that has been checked.
#[derive(Debug)]
struct Skill {
    name: String,
    /// Paths and contents, `SKILL.md` first.
    files: Vec<(String, String)>,
    targets: Vec<Target>,
}

fn failed(why: impl Into<String>) -> Refused {
    Refused::new("skill_install_failed", why)
}

/// Installs what a frame brings. The agent is loaded.
pub(super) fn install(owner: &Owner<'_>, params: &Value) -> Result<Vec<Value>, Refused> {
    let modes = ["manifest", "archiveManifest", "vercel"].map(|key| params.get(key).filter(|value| !value.is_null()));
    let skills = match modes {
        [Some(manifest), None, None] => vec![checked(owner, manifest, None)?],
        [None, Some(archive), None] => archived(owner, archive)?,
        [None, None, Some(_)] => {
            return Err(failed("vercel: this daemon runs no package manager; send the skill as a manifest"));
        }
        _ => return Err(Refused::params("expected exactly one of manifest, archiveManifest and vercel")),
    };
    skills.iter().map(|skill| write(owner, skill)).collect()
}

fn archived(owner: &Owner<'_>, archive: &Value) -> Result<Vec<Skill>, Refused> {
    let targets = targets(archive)?;
    let Some(list) = archive.get("skills").filter(|skills| !skills.is_null()) else {
        return Ok(vec![checked(owner, archive, None)?]);
    };
    let list = list.as_array().filter(|list| !list.is_empty() && list.len() <= SKILLS);
    let list = list.ok_or_else(|| failed(format!("skills: expected a list of 1 to {SKILLS}")))?;
    let skills: Vec<Skill> =
        list.iter().map(|skill| checked(owner, skill, targets.as_deref())).collect::<Result<_, _>>()?;
    let names: BTreeSet<&str> = skills.iter().map(|skill| skill.name.as_str()).collect();
    if names.len() < skills.len() {
        return Err(failed("skills: two have the same name"));
    }
    Ok(skills)
}

fn targets(of: &Value) -> Result<Option<Vec<Target>>, Refused> {
    let Some(given) = of.get("targetRuntimes").filter(|given| !given.is_null()) else { return Ok(None) };
    let mut targets = Vec::new();
    for word in given.as_array().into_iter().flatten() {
        let target = match word.as_str() {
            Some("claude-code") => Target::ClaudeCode,
            Some("codex") => Target::Codex,
            _ => return Err(failed("targetRuntimes: expected claude-code or codex")),
        };
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    if targets.is_empty() {
        Err(failed("targetRuntimes: expected a list that is not empty"))
    } else {
        Ok(Some(targets))
    }
}

/// Reads one skill of a frame.
fn checked(owner: &Owner<'_>, skill: &Value, default: Option<&[Target]>) -> Result<Skill, Refused> {
    if !skill.is_object() {
        return Err(failed("expected a skill"));
    }
    let text = |key: &str| skill.get(key).and_then(Value::as_str);
    let name = text("name").or_else(|| text("id")).unwrap_or_default();
    if !is_name(name) {
        return Err(failed("name: expected 1 to 80 of letters, digits, dot, _ and -, the first a letter or digit"));
    }
    let mut files: Vec<(String, String)> = Vec::new();
    let listed = match skill.get("files").filter(|files| !files.is_null()) {
        None => &[][..],
        Some(Value::Array(files)) if files.len() <= FILES => files.as_slice(),
        Some(_) => return Err(failed(format!("files: expected a list of at most {FILES}"))),
    };
    for file in listed {
        if file.get("sourcePath").is_some_and(|path| !path.is_null()) {
            return Err(failed("sourcePath: only content is taken"));
        }
        let path = file.get("path").and_then(Value::as_str).filter(|path| is_inner_path(path));
        let path = path.ok_or_else(|| failed("path: expected a relative path without . and .."))?;
        let content = file.get("content").and_then(Value::as_str).ok_or_else(|| failed("content: expected a text"))?;
        if is_in_the_way(&files, path) || path.starts_with("SKILL.md/") {
            return Err(failed("files: two have the same path"));
        }
        files.push((path.to_owned(), content.to_owned()));
    }
    let given = text("skillMd").or_else(|| text("markdown")).map(str::to_owned);
    let listed = files.iter().position(|(path, _)| path == "SKILL.md");
    let main = match (given, listed) {
        (Some(_), Some(_)) => return Err(failed("SKILL.md is given twice")),
        (Some(text), None) => text,
        (None, Some(at)) => files.remove(at).1,
        (None, None) => generated(name, text("description")),
    };
    files.insert(0, ("SKILL.md".to_owned(), main));
    if files.iter().any(|(_, content)| content.len() > FILE_LIMIT) {
        return Err(failed(format!("a file has more than {FILE_LIMIT} bytes")));
    }
    let by_runtime = || match owner.runtime {
        "codex" => vec![Target::Codex],
        "claude-code" => vec![Target::ClaudeCode],
        _ => vec![Target::ClaudeCode, Target::Codex],
    };
    let targets = targets(skill)?.or_else(|| default.map(<[Target]>::to_vec)).unwrap_or_else(by_runtime);
    Ok(Skill { name: name.to_owned(), files, targets })
}

fn is_name(name: &str) -> bool {
    name.len() <= 80
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// A relative path that stays where it begins, and that can be written.
pub(super) fn is_inner_path(path: &str) -> bool {
    path.len() <= PATH_LIMIT
        && !path.contains(['\\', '\0'])
        && path.split('/').all(|part| !part.is_empty() && part.len() <= PART_LIMIT && part != "." && part != "..")
}

/// Whether a path would have to be a file and a directory at once.
pub(super) fn is_in_the_way(files: &[(String, String)], path: &str) -> bool {
    let below = |of: &str, path: &str| path.strip_prefix(of).is_some_and(|rest| rest.starts_with('/'));
    files.iter().any(|(known, _)| known == path || below(known, path) || below(path, known))
}

/// The text of a skill that brings none.
fn generated(name: &str, description: Option<&str>) -> String {
    let description = description.map(one_line).filter(|text| !text.is_empty());
    let quoted = description.map(|text| text.replace('\\', "\\\\").replace('"', "\\\""));
    let line = quoted.map(|text| format!("description: \"{text}\"\n")).unwrap_or_default();
    format!("---\nname: {name}\n{line}---\n\n# {name}\n")
}

/// Writes a skill to all its places; returns what the hub is told.
fn write(owner: &Owner<'_>, skill: &Skill) -> Result<Value, Refused> {
    let mut paths = Vec::new();
    for target in &skill.targets {
        let root = target.root(owner);
        RealDisk.create_dir(&root).map_err(|e| failed(format!("the directory of skills cannot be made: {e}")))?;
        // The agent may have put a link on the way.
        let inside = fs::canonicalize(&root)
            .and_then(|real| Ok(real.starts_with(fs::canonicalize(owner.home.agent_dir(owner.agent))?)));
        if !inside.is_ok_and(|inside| inside) {
            return Err(failed("the directory of skills lies outside of the agent's directory"));
        }
        let place = root.join(&skill.name);
        let staged = root.join(format!(".{}.{}.new", skill.name, crypto::hex(&crypto::random::<6>())));
        let done = stage(&staged, skill).and_then(|()| swap(&staged, &place));
        if let Err(why) = done {
            let _ = fs::remove_dir_all(&staged);
            return Err(failed(why));
        }
        paths.push(place.display().to_string());
    }
    let targets: Vec<&str> = skill.targets.iter().map(|target| target.as_str()).collect();
    Ok(json!({"name": skill.name, "targets": targets, "paths": paths}))
}

fn stage(dir: &Path, skill: &Skill) -> Result<(), String> {
    for (path, content) in &skill.files {
        let file = dir.join(path);
        if let Some(above) = file.parent() {
            RealDisk.create_dir(above).map_err(|e| e.to_string())?;
        }
        store::write(&RealDisk, &file, content.as_bytes()).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Puts a directory in the place of another one, which is removed. At any moment one of the two is there.
pub(super) fn swap(staged: &Path, place: &Path) -> Result<(), String> {
    store::step();
    let old = match renameat_with(CWD, staged, CWD, place, RenameFlags::EXCHANGE) {
        Ok(()) => staged.to_owned(),
        Err(Errno::NOENT) => return fs::rename(staged, place).map_err(|e| e.to_string()),
        // A file system that does not know how.
        Err(Errno::INVAL | Errno::NOSYS) => one_by_one(staged, place)?,
        Err(e) => return Err(e.to_string()),
    };
    store::step();
    // A link is not a directory.
    let removed = if old.is_symlink() || old.is_file() { fs::remove_file(&old) } else { fs::remove_dir_all(&old) };
    if let Err(e) = removed {
        log::warn!("skills.old_left path={} error={e}", old.display());
    }
    Ok(())
}

/// The same with a moment in between; returns where the old one is.
fn one_by_one(staged: &Path, place: &Path) -> Result<PathBuf, String> {
    let old = staged.with_extension("old");
    fs::rename(place, &old).map_err(|e| e.to_string())?;
    if let Err(e) = fs::rename(staged, place) {
        let _ = fs::rename(&old, place);
        return Err(e.to_string());
    }
    Ok(old)
}
