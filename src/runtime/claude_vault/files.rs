//! Files in the private directory of a vault agent.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::{HttpServer, VaultTurn};
use crate::json;
use crate::message::Attachment;
use crate::runtime::context_file::private_dir;

/// Most files that go with one message.
const ATTACHMENTS_LIMIT: usize = 20;
/// Largest file that goes with a message, in bytes.
const ATTACHMENT_LIMIT: u64 = 100 * 1_048_576;
/// Longest name of an attachment, in characters.
const NAME_LIMIT: usize = 200;

/// Variables that lead the CLI into the private directory, with the directories below it.
pub(super) const HOME_VARIABLES: [(&str, &str); 10] = [
    ("CLAUDE_CONFIG_DIR", "home/.claude"),
    ("XDG_CONFIG_HOME", "home/.config"),
    ("XDG_DATA_HOME", "home/.local/share"),
    ("XDG_CACHE_HOME", "home/.cache"),
    ("XDG_STATE_HOME", "home/.local/state"),
    ("XDG_RUNTIME_DIR", "home/.run"),
    ("TMPDIR", "tmp"),
    ("TMP", "tmp"),
    ("TEMP", "tmp"),
    ("CLAUDE_CODE_TMPDIR", "tmp"),
];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct McpFile<'a> {
    mcp_servers: BTreeMap<&'a str, McpServer<'a>>,
}

#[derive(Serialize)]
struct McpServer<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Headers>,
}

#[derive(Serialize)]
struct Headers {
    #[serde(rename = "Authorization")]
    authorization: String,
}

/// Writes `.mcp.json`, even when there is no server: the flag that names it is always given.
pub(super) fn write_mcp(turn: &VaultTurn) -> Result<PathBuf> {
    let server = |server: &HttpServer| Headers {
        authorization: format!("Bearer {}", server.token.as_deref().unwrap_or_default()),
    };
    let entries = turn.servers.iter().map(|s| {
        let headers = s.token.as_ref().map(|_| server(s));
        (s.name.as_str(), McpServer { kind: "http", url: &s.url, headers })
    });
    let file = McpFile { mcp_servers: entries.collect() };
    let path = turn.private.join(".mcp.json");
    replace(&path, &json::to_vec(&file)?)?;
    Ok(path)
}

/// Writes `system-prompt.txt`; `None` when there is nothing to say.
pub(super) fn write_system_prompt(private: &Path, prompt: Option<&str>) -> Result<Option<PathBuf>> {
    let Some(prompt) = prompt.filter(|p| !p.trim().is_empty()) else { return Ok(None) };
    let path = private.join("system-prompt.txt");
    replace(&path, prompt.as_bytes())?;
    Ok(Some(path))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClaudeJson<'a> {
    has_completed_onboarding: bool,
    projects: BTreeMap<String, Project<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Project<'a> {
    has_trust_dialog_accepted: bool,
    has_completed_project_onboarding: bool,
    enabled_mcpjson_servers: Vec<&'a str>,
    enable_all_project_mcp_servers: bool,
}

/// Creates the directories of a private home and, once, the files without which the CLI would ask.
pub(super) fn seed_home(private: &Path, cwd: &Path, servers: &[HttpServer]) -> Result<()> {
    for (_, below) in HOME_VARIABLES {
        private_dir(&private.join(below))?;
    }
    let project = Project {
        has_trust_dialog_accepted: true,
        has_completed_project_onboarding: true,
        enabled_mcpjson_servers: servers.iter().map(|s| s.name.as_str()).collect(),
        enable_all_project_mcp_servers: true,
    };
    let projects = crate::sort::map([(cwd.display().to_string(), project)]);
    let claude = ClaudeJson { has_completed_onboarding: true, projects };
    let home = private.join("home/.claude");
    write_once(&home.join(".claude.json"), &json::to_vec(&claude)?)?;
    write_once(&home.join("settings.json"), br#"{"skipDangerousModePermissionPrompt":true}"#)
}

/// Copies the files of a message below the private directory; one that fails is left out. Yields paths and
/// media types.
pub(super) fn copy_attachments(private: &Path, attachments: &[Attachment]) -> Vec<(PathBuf, String)> {
    if attachments.is_empty() {
        return Vec::new();
    }
    let directory = private.join("attachments");
    if let Err(error) = private_dir(&directory) {
        log::warn!("vault.attachments directory={} error={error}", directory.display());
        return Vec::new();
    }
    let mut copied: Vec<(PathBuf, String)> = Vec::new();
    for (number, attachment) in attachments.iter().take(ATTACHMENTS_LIMIT).enumerate() {
        let mut to = directory.join(safe_name(&attachment.filename));
        if copied.iter().any(|(taken, _)| *taken == to) {
            to = directory.join(format!("{}-{}", number + 1, safe_name(&attachment.filename)));
        }
        match copy(&attachment.file_path, &to) {
            Ok(()) => {
                let kind = attachment.content_type.as_deref().unwrap_or("application/octet-stream");
                copied.push((to, kind.to_owned()));
            }
            Err(error) => log::warn!("vault.attachment file={} error={error}", to.display()),
        }
    }
    copied
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let meta = fs::metadata(from)?;
    if !meta.is_file() || meta.len() > ATTACHMENT_LIMIT {
        return Err(std::io::Error::other("not a file, or larger than 100 MiB"));
    }
    let temporary = fresh(to);
    let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let copied = std::io::copy(&mut std::io::Read::take(fs::File::open(from)?, ATTACHMENT_LIMIT), &mut out);
    finish(copied.map(drop), &temporary, to)
}

/// The last part of a path as a plain file name.
pub fn safe_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let name: String = last.chars().filter(|c| *c != '\0').map(plain).collect();
    let name: String = name.trim_start_matches('.').chars().take(NAME_LIMIT).collect();
    if name.is_empty() { "file".to_owned() } else { name }
}

/// Replaces a file by rename; mode 0600.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(directory) = path.parent() {
        private_dir(directory)?;
    }
    let temporary = fresh(path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    finish(file.write_all(content), &temporary, path)
}

fn finish(written: Result<()>, temporary: &Path, path: &Path) -> Result<()> {
    let done = written.and_then(|()| fs::rename(temporary, path));
    if done.is_err() {
        // Nothing more can be done about it.
        let _ = fs::remove_file(temporary);
    }
    done
}

/// A name beside `path` that no other write uses.
fn fresh(path: &Path) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".new.{}.{number}", std::process::id()))
}

fn write_once(path: &Path, content: &[u8]) -> Result<()> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
        Ok(mut file) => file.write_all(content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_plain() {
        for (name, safe) in [
            ("a b.txt", "a_b.txt"),
            ("../../etc/passwd", "passwd"),
            ("...hidden", "hidden"),
            ("", "file"),
            ("dir/", "file"),
            ("C:\\x\\é.png", "_.png"),
        ] {
            assert_eq!(safe_name(name), safe, "{name}");
        }
        assert_eq!(safe_name(&"x".repeat(999)).len(), NAME_LIMIT);
    }
}
