//! Whether a runtime can work here: its login, and what is known to keep it from working.
//!
//! No secret is read: the CLIs that can tell are asked, or a turn is run.

use std::time::Duration;

use super::{Probe, RuntimeSettings, capture, claude_code, environ, fields, trial};
use crate::json;
use crate::redact;
use crate::runtime::digest;

/// How long a CLI may take to tell about its login.
const LIMIT: Duration = Duration::from_secs(10);

/// The newest major versions that this program was tried with.
const TRIED: [(&str, u32); 5] = [("claude-code", 2), ("codex", 0), ("gemini", 0), ("kimi-cli", 2), ("hermes-agent", 0)];

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// It works, with a word about how.
    Ok(String),
    /// It does not, and why.
    Failed(String),
    /// It was not tried, and why.
    Skipped(String),
}

impl Login {
    fn shown(&self) -> String {
        match self {
            Self::Ok(text) => format!("auth ok: {text}"),
            Self::Failed(text) => format!("auth failed: {text}"),
            Self::Skipped(text) => format!("auth skipped: {text}"),
        }
    }
}

/// Lines for people about a runtime that is there: warnings, then its login. With `turn` it runs a turn, else
/// its CLI is asked. Nothing about one that is not there.
pub fn notes(probe: &Probe, settings: &RuntimeSettings, turn: bool) -> Vec<String> {
    if probe.path.is_none() {
        return Vec::new();
    }
    let login = if turn { trial::run(probe.descriptor.id, settings) } else { ask(probe, settings) };
    let warnings = warnings(probe.descriptor.id, probe.version.as_deref(), settings);
    warnings.into_iter().map(|text| format!("warning: {text}")).chain([login.shown()]).collect()
}

/// What is known to go wrong.
fn warnings(id: &str, version: Option<&str>, settings: &RuntimeSettings) -> Vec<String> {
    let mut warnings = Vec::new();
    if id == claude_code::ID && settings.as_root && !settings.sandboxed {
        warnings.push("bellhop runs as root, where Claude Code refuses to work unless `sandboxed` is true".to_owned());
    }
    let tried = TRIED.iter().find(|(known, _)| *known == id).map(|(_, major)| *major);
    if let (Some(tried), Some(found)) = (tried, version.and_then(major))
        && found > tried
    {
        warnings.push(format!("version {found}.x is newer than what bellhop was tried with ({tried}.x)"));
    }
    warnings
}

/// The first number of a line such as `codex-cli 0.169.0`.
fn major(version: &str) -> Option<u32> {
    let words = version.split(|c: char| !c.is_ascii_digit() && c != '.');
    let dotted = words.map(|word| word.trim_matches('.')).find(|word| word.contains('.'))?;
    dotted.split('.').next()?.parse().ok()
}

/// Asks the CLI.
fn ask(probe: &Probe, settings: &RuntimeSettings) -> Login {
    let id = probe.descriptor.id;
    let question: &[&str] = match id {
        "claude-code" => &["auth", "status"],
        "codex" => &["login", "status"],
        _ => return Login::Skipped("the CLI has no command that tells; --auth-check=turn tries it".into()),
    };
    let Some(program) = &probe.path else { return Login::Skipped("it is not there".into()) };
    let mut env = environ::plain(settings);
    if id == claude_code::ID {
        // With the variables that a turn has, and no others.
        let changes = claude_code::environment(settings);
        env.retain(|(name, _)| !changes.remove.iter().any(|gone| name == gone));
        env.extend(changes.set.into_iter().map(|(name, value)| (name.into(), value)));
    }
    let Some(said) = capture::run(program, question, env, &settings.user_home, LIMIT) else {
        return Login::Failed(format!("{id} {} gave no answer", question.join(" ")));
    };
    judge(id, said.code, &said.stdout, &said.stderr)
}

/// What an answer means. The exit code decides, the words are for people.
fn judge(id: &str, code: Option<i32>, stdout: &str, stderr: &str) -> Login {
    let said = [stdout, stderr].into_iter().find_map(|text| text.lines().find_map(digest::line));
    let status = json::parse(stdout.as_bytes()).unwrap_or_default();
    let told = match (fields::words(&status, &["authMethod"]), said) {
        (Some(method), _) => format!("{id}: {method}"),
        (None, Some(_)) if status.is_object() => {
            format!("{id} auth {}", if code == Some(0) { "ok" } else { "missing" })
        }
        (None, Some(line)) => redact::text(&line),
        (None, None) => format!("{id} said nothing"),
    };
    if code == Some(0) { Login::Ok(told) } else { Login::Failed(told) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_exit_code_decides() {
        let claude = "{\n\"loggedIn\": true,\n\"authMethod\": \"api_key\"\n}\n";
        assert_eq!(judge("claude-code", Some(0), claude, ""), Login::Ok("claude-code: api_key".into()));
        let out = "{\"loggedIn\": false, \"authMethod\": \"none\"}";
        assert_eq!(judge("claude-code", Some(1), out, ""), Login::Failed("claude-code: none".into()));
        assert_eq!(judge("codex", Some(1), "", "Not logged in\n"), Login::Failed("Not logged in".into()));
        assert_eq!(judge("codex", None, "", ""), Login::Failed("codex said nothing".into()));
        let key = judge("codex", Some(0), "", "Logged in using sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCD");
        assert!(matches!(&key, Login::Ok(text) if !text.contains("abcdefgh")), "{key:?}");
    }

    #[test]
    fn majors_are_found_in_every_kind_of_line() {
        let table = [("2.1.197 (Claude Code)", 2), ("codex-cli 0.169.0", 0), ("kimi, version 10.0", 10)];
        for (line, expected) in table {
            assert_eq!(major(line), Some(expected), "{line}");
        }
        assert_eq!(major("unknown"), None);
    }

    #[test]
    fn root_without_a_sandbox_and_unknown_majors_are_told() {
        let mut settings = RuntimeSettings::with_env(Path::new("/h"), Vec::new());
        settings.as_root = true;
        assert_eq!(warnings("claude-code", Some("3.0.0 (Claude Code)"), &settings).len(), 2);
        assert_eq!(warnings("codex", Some("codex-cli 0.200.0"), &settings), Vec::<String>::new());
        settings.sandboxed = true;
        assert_eq!(warnings("claude-code", Some("2.9.0 (Claude Code)"), &settings), Vec::<String>::new());
    }
}
