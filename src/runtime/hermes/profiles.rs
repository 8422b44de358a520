//! The profiles of a Hermes installation, for the dashboards that let a person bind one to an agent.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Most bytes of a configuration file that are looked at.
const FILE_LIMIT: u64 = 1_048_576;
/// Most profiles that are listed.
const PROFILES_LIMIT: usize = 256;

/// One profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// Name.
    pub name: String,
    /// Its `HERMES_HOME`.
    pub home: PathBuf,
    /// It is the user's main one.
    pub is_default: bool,
    /// The user works with it at present.
    pub is_active: bool,
    /// Model that it uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// Number of sessions stored in it.
    pub sessions_count: usize,
    /// It has a `SOUL.md`.
    pub has_soul: bool,
}

/// Whether this can be a profile's name: `default`, or `[a-z0-9][a-z0-9_-]{0,63}`.
pub fn is_valid_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=64).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

/// The home of a profile; `None` for an invalid name.
pub fn home(user_home: &Path, name: &str) -> Option<PathBuf> {
    let hermes = user_home.join(".hermes");
    match name {
        "default" => Some(hermes),
        _ if is_valid_name(name) => Some(hermes.join("profiles").join(name)),
        _ => None,
    }
}

/// The profiles below `user_home`, the default one first, the others by name.
pub fn list(user_home: &Path) -> Vec<Profile> {
    let hermes = user_home.join(".hermes");
    if !hermes.is_dir() {
        return Vec::new();
    }
    let active = read(&hermes.join("active_profile")).map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    let active = active.as_deref().unwrap_or("default");
    let mut names: Vec<String> = fs::read_dir(hermes.join("profiles"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != "default" && is_valid_name(name))
        .collect();
    crate::sort::sort(&mut names);
    names.insert(0, "default".to_owned());
    names.truncate(PROFILES_LIMIT);
    names.into_iter().filter_map(|name| Some(profile(home(user_home, &name)?, name, active))).collect()
}

fn profile(home: PathBuf, name: String, active: &str) -> Profile {
    let sessions = fs::read_dir(home.join("sessions")).into_iter().flatten().flatten();
    Profile {
        is_default: name == "default",
        is_active: name == active,
        model_name: read(&home.join("config.yaml")).and_then(|text| model_name(&text)),
        sessions_count: sessions.filter(|e| e.path().extension().is_some_and(|x| x == "jsonl")).count(),
        has_soul: home.join("SOUL.md").exists(),
        name,
        home,
    }
}

/// The indented `default:` below the top-level line `model:`.
fn model_name(config: &str) -> Option<String> {
    let below = config.lines().skip_while(|line| line.trim_end() != "model:").skip(1);
    let indented = below.take_while(|line| line.trim().is_empty() || line.starts_with([' ', '\t', '#']));
    let value = indented.map(str::trim).find_map(|line| line.strip_prefix("default:"))?.trim();
    let value = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].split(quote).next().unwrap_or_default(),
        _ => value.split(" #").next().unwrap_or_default().trim(),
    };
    (!value.is_empty() && !value.starts_with('#')).then(|| value.to_owned())
}

fn read(path: &Path) -> Option<String> {
    let small = fs::metadata(path).ok().is_some_and(|m| m.is_file() && m.len() <= FILE_LIMIT);
    small.then(|| fs::read_to_string(path).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found_below_its_heading() {
        let name = |text| model_name(text);
        assert_eq!(name("a: 1\nmodel:\n  # x\n  default: \"m-1\" # y\n").as_deref(), Some("m-1"));
        assert_eq!(name("model:\n  default: m-2  # y\n").as_deref(), Some("m-2"));
        assert_eq!(name("model:\nother:\n  default: no\n"), None);
        assert_eq!(name("default: no\n"), None);
    }

    #[test]
    fn profiles_are_listed_with_the_default_first() {
        let home = std::env::temp_dir().join(format!("bellhop-profiles-{}", std::process::id()));
        for dir in [".hermes/profiles/work/sessions", ".hermes/profiles/Bad Name", ".hermes/profiles/alpha"] {
            fs::create_dir_all(home.join(dir)).unwrap();
        }
        fs::write(home.join(".hermes/active_profile"), "work\n").unwrap();
        fs::write(home.join(".hermes/profiles/work/sessions/a.jsonl"), "").unwrap();
        fs::write(home.join(".hermes/profiles/work/SOUL.md"), "").unwrap();
        let profiles = list(&home);
        let names: Vec<_> =
            profiles.iter().map(|p| (p.name.as_str(), p.is_active, p.sessions_count, p.has_soul)).collect();
        assert_eq!(names, [("default", false, 0, false), ("alpha", false, 0, false), ("work", true, 1, true)]);
        fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn a_profile_cannot_leave_its_directory() {
        for bad in ["", "..", "a/b", "A", "-x"] {
            assert_eq!(super::home(Path::new("/h"), bad), None, "{bad}");
        }
    }
}
