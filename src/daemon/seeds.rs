//! What the directory of an agent begins with: a workspace with a few files, and bellhop's skills.
//!
//! Files of the agent's own are written only where they are missing. The skills are written at every start, where they
//! differ; other skills are left alone.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::config::Home;
use crate::link::botcord_control::identity;
use crate::link::botcord_control::session::now_iso;
use crate::store::{self, Disk};

/// The skills that every agent has.
const SKILLS: [(&str, &str); 3] = [
    ("botcord", include_str!("skills/botcord.md")),
    ("botcord-user-guide", include_str!("skills/botcord-user-guide.md")),
    ("botcord_memory", include_str!("skills/botcord_memory.md")),
];
const TASK: &str = "# Task\n\n<!-- What you are working on; yours to write. -->\n";

/// Whose directory.
pub(super) struct Seed<'a> {
    pub(super) agent: &'a str,
    pub(super) display_name: Option<&'a str>,
    pub(super) bio: Option<&'a str>,
    /// The runtime that its turns have.
    pub(super) runtime: &'a str,
    pub(super) key_id: &'a str,
}

/// Makes and completes the directory of an agent.
pub(super) fn plant(home: &Home, seed: &Seed<'_>, disk: &dyn Disk) -> Result<(), String> {
    let workspace = home.workspace(seed.agent);
    let dirs = [home.agent_dir(seed.agent), workspace.clone(), workspace.join("notes"), home.agent_state(seed.agent)];
    for dir in &dirs {
        private(disk, dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    let about = about(home, seed.agent);
    let identity = identity::fresh(
        seed.agent,
        seed.display_name,
        Some(seed.runtime).filter(|id| !id.is_empty()),
        seed.key_id,
        &now_iso(),
        seed.bio,
    );
    for (name, text) in [
        ("AGENTS.md", about.as_str()),
        ("CLAUDE.md", about.as_str()),
        ("identity.md", identity.as_str()),
        ("task.md", TASK),
        ("notes/.gitkeep", ""),
    ] {
        let path = workspace.join(name);
        // Also a link that leads nowhere is somebody's.
        if path.symlink_metadata().is_err() {
            store::write(disk, &path, text.as_bytes()).map_err(|e| e.to_string())?;
        }
    }
    let mut roots = vec![workspace.join(".claude/skills"), workspace.join("skills")];
    match seed.runtime {
        "codex" => roots.push(home.codex_home(seed.agent).join("skills")),
        "hermes-agent" => roots.push(home.agent_dir(seed.agent).join("hermes-home/skills")),
        _ => {}
    }
    if seed.runtime == "hermes-agent" {
        let dir = home.agent_dir(seed.agent).join("hermes-workspace");
        private(disk, &dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    roots.iter().try_for_each(|root| skills(root, disk))
}

/// Writes the skills below a directory.
pub(super) fn skills(root: &Path, disk: &dyn Disk) -> Result<(), String> {
    for (name, text) in SKILLS {
        let dir = root.join(name);
        let path = dir.join("SKILL.md");
        let same = fs::metadata(&path).is_ok_and(|meta| meta.len() == text.len() as u64)
            && fs::read(&path).is_ok_and(|there| there == text.as_bytes());
        if !same {
            disk.create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            store::write_unsynced(disk, &path, text.as_bytes()).map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

/// Makes a directory for this user alone, also one that was there.
fn private(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    disk.create_dir(dir)?;
    let meta = fs::symlink_metadata(dir)?;
    if meta.is_dir() && meta.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// What the directory is, for the agent.
fn about(home: &Home, agent: &str) -> String {
    format!(
        "# Your workspace\n\n\
         You are the agent {agent}, and this directory is where you work.\n\n\
         - `identity.md` says who you are. It is loaded in every turn; your owner changes the name and the bio.\n\
         - `task.md` and `notes/` are yours: keep what you are doing in them.\n\
         - Your working memory lies in `{}` and is shown to you in every turn. Change it with the memory command or \
         tool, not by hand.\n\
         - `skills/` holds your skills.\n\
         - `../state/` belongs to the daemon. Do not touch it.\n",
        home.memory_dir(agent).display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RealDisk;
    use crate::store::tests::TempDir;

    #[test]
    fn what_the_agent_has_written_stays_and_skills_are_kept_current() {
        let dir = TempDir::new();
        let home = Home::at(dir.0.join("h")).unwrap();
        let seed = Seed { agent: "ag_1", display_name: Some("Nia"), bio: Some("b"), runtime: "codex", key_id: "k" };
        plant(&home, &seed, &RealDisk).unwrap();
        let workspace = home.workspace("ag_1");
        let text = |name: &str| fs::read_to_string(workspace.join(name)).unwrap();
        assert_eq!(text("AGENTS.md"), text("CLAUDE.md"));
        assert!(text("identity.md").contains("- **Display name**: Nia\n- **Runtime**: codex\n- **Key ID**: k\n"));
        fs::write(workspace.join("task.md"), "mine").unwrap();
        fs::write(workspace.join("skills/botcord/SKILL.md"), "old").unwrap();
        fs::create_dir_all(workspace.join("skills/own")).unwrap();
        fs::set_permissions(&workspace, fs::Permissions::from_mode(0o755)).unwrap();
        plant(&home, &Seed { display_name: Some("Other"), ..seed }, &RealDisk).unwrap();
        assert_eq!(text("task.md"), "mine");
        assert!(text("identity.md").contains("Nia"), "only a patch changes it");
        assert!(text("skills/botcord/SKILL.md").starts_with("---\nname: botcord\n"));
        assert!(workspace.join("skills/own").is_dir());
        assert_eq!(fs::metadata(&workspace).unwrap().permissions().mode() & 0o777, 0o700);
        for root in ["codex-home/skills", "workspace/.claude/skills", "workspace/skills"] {
            assert!(home.agent_dir("ag_1").join(root).join("botcord_memory/SKILL.md").is_file(), "{root}");
        }
        assert!(!home.agent_dir("ag_1").join("hermes-home").exists(), "another runtime's");
    }
}
