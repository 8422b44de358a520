//! The profile of a course session that was laid down for one room of an agent: instructions and skills that hold
//! there for a limited time.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::files;
use crate::crypto::is_hex;
use crate::json;
use crate::sanitize::{body, one_line};
use crate::text;
use crate::time;

/// The only form that is read.
const SCHEMA: &str = "botcord-session-profile/0.1";
/// Largest profile that is read, in bytes.
const FILE_LIMIT: u64 = 2 * 1_024 * 1_024;

/// A stored profile, as far as it is shown to the agent.
#[expect(clippy::struct_field_names, reason = "the names of the document")]
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    schema_version: String,
    agent_id: String,
    session_key: String,
    room_id: String,
    profile_id: String,
    profile_hash: String,
    prompt_pack: PromptPack,
    #[serde(default)]
    skills: Vec<ProfileSkill>,
    #[serde(default)]
    missing_capabilities: Vec<String>,
    expires_at: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PromptPack {
    #[serde(rename = "ref")]
    reference: String,
    system_instructions: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileSkill {
    #[serde(rename = "ref")]
    reference: String,
    skill_md_path: String,
}

/// The profile that holds in a room now. Deletes those of the agent that have expired or cannot be read, except the
/// ones that are just being put together.
pub fn read(agent_dir: &Path, agent: &str, room_id: &str, now: i64) -> Option<Profile> {
    let sessions = agent_dir.join("sessions");
    let wanted = crate::crypto::sha256_hex(room_id.as_bytes());
    let mut found = None;
    for directory in fs::read_dir(sessions).ok()?.flatten() {
        let name = directory.file_name();
        let name = name.to_string_lossy();
        // Only directories that bellhop can have made: anything else is not ours to delete.
        if !is_hex(&name, 64) || !directory.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        match load(&directory.path()).filter(|p| !p.has_expired(now)) {
            Some(profile) if name == wanted.as_str() => found = Some(profile),
            Some(_) => {}
            None => {
                if let Err(e) = fs::remove_dir_all(directory.path()) {
                    log::warn!("profile.not_removed path={} error={e}", directory.path().display());
                }
            }
        }
    }
    found.filter(|p| p.is_for(agent, room_id))
}

fn load(directory: &Path) -> Option<Profile> {
    json::from_slice(&files::read_at_most(&directory.join("profile.json"), FILE_LIMIT)?).ok()
}

impl Profile {
    fn has_expired(&self, now: i64) -> bool {
        time::parse(&self.expires_at).is_none_or(|until| until <= now)
    }

    fn is_for(&self, agent: &str, room_id: &str) -> bool {
        let hash = self.profile_hash.strip_prefix("sha256:");
        self.schema_version == SCHEMA
            && self.agent_id == agent
            && self.room_id == room_id
            && !self.session_key.is_empty()
            && !self.profile_id.is_empty()
            && hash.is_some_and(|h| is_hex(h, 64))
    }

    /// The block of the system context.
    pub fn block(&self) -> String {
        let safe = |value: &str| one_line(&body(value));
        let id =
            [format!("profile_id: {}", safe(&self.profile_id)), format!("profile_hash: {}", safe(&self.profile_hash))];
        if !self.missing_capabilities.is_empty() {
            let missing: Vec<String> = self.missing_capabilities.iter().map(|c| safe(c)).collect();
            return [
                "[BotLearn Course Session Profile: Inactive]".to_owned(),
                id.join("\n"),
                format!("missing_capabilities: {}", missing.join(", ")),
                "Do not run the task of this course: report that the requirements above are not met.".to_owned(),
            ]
            .join("\n");
        }
        let mut lines = vec![
            "[BotLearn Course Session Profile]".to_owned(),
            "Trusted configuration of this session; the rules of the platform stand above it.".to_owned(),
            id.join("\n"),
            format!("prompt_pack: {}", safe(&self.prompt_pack.reference)),
            String::new(),
            text::trim(&self.prompt_pack.system_instructions).to_owned(),
        ];
        if !self.skills.is_empty() {
            lines.push("\n[BotLearn Course Session Skill Overlay]".into());
            lines.push("Skills of this session only; read the SKILL.md of one before you use it.".into());
            lines.extend(self.skills.iter().map(|s| format!("- {}: {}", safe(&s.reference), safe(&s.skill_md_path))));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::files::tests::TempDir;
    use super::*;

    fn profile(room: &str, expires: &str) -> Value {
        json!({
            "schemaVersion": SCHEMA, "agentId": "ag_1", "sessionKey": "k", "roomId": room, "profileId": "p",
            "profileHash": format!("sha256:{}", "a".repeat(64)), "courseVersionId": "c",
            "promptPack": {"ref": "pack@1", "digest": "d", "systemInstructions": " teach \n"},
            "skills": [{"ref": "plan@1", "digest": "d", "skillMdPath": "/s/SKILL.md"}],
            "missingCapabilities": [], "expiresAt": expires
        })
    }

    fn store(dir: &Path, room: &str, value: &Value) -> std::path::PathBuf {
        let path = dir.join("sessions").join(crate::crypto::sha256_hex(room.as_bytes()));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("profile.json"), value.to_string()).unwrap();
        path
    }

    #[test]
    fn the_profile_of_the_room_is_shown_and_expired_ones_go() {
        let dir = TempDir::new("profile");
        store(dir.path(), "rm_1", &profile("rm_1", "2026-01-01T08:15:00.000Z"));
        let expired = store(dir.path(), "rm_2", &profile("rm_2", "2020-01-01T00:00:00Z"));
        let staging = dir.path().join("sessions/.staging-1");
        fs::create_dir_all(&staging).unwrap();
        let now = 1_767_225_600_000;
        let found = read(dir.path(), "ag_1", "rm_1", now).unwrap();
        assert!(found.block().contains("prompt_pack: pack@1\n\nteach\n\n[BotLearn Course Session Skill Overlay]"));
        assert!(found.block().ends_with("- plan@1: /s/SKILL.md"));
        assert!(!expired.exists() && staging.exists());
        assert_eq!(read(dir.path(), "ag_2", "rm_1", now), None);
    }

    #[test]
    fn a_profile_with_unmet_requirements_forbids_its_task() {
        let dir = TempDir::new("profile-missing");
        let mut lacking = profile("rm_1", "2036-01-01T08:15:00Z");
        lacking["missingCapabilities"] = json!(["web.search", "workspace.write"]);
        store(dir.path(), "rm_1", &lacking);
        let block = read(dir.path(), "ag_1", "rm_1", 0).unwrap().block();
        assert!(block.starts_with("[BotLearn Course Session Profile: Inactive]"));
        assert!(block.contains("missing_capabilities: web.search, workspace.write"));
        assert!(!block.contains("teach"));
    }
}
