//! The directory with the commands that agents find on their PATH: this program under its own name and as `botcord`.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

/// Names under which agents call this program.
const NAMES: [&str; 2] = ["bellhop", "botcord"];

/// Makes the directory (0700) and the links in it. Without it agents cannot speak for themselves; everything else works.
pub(super) fn prepare(dir: &Path) {
    let made = program().and_then(|program| link_all(dir, &program));
    if let Err(e) = made {
        log::warn!("daemon.no_commands dir={} error={e}", dir.display());
    }
}

/// This program. One that was replaced while it runs is found in its place.
fn program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let there = path.to_str().and_then(|p| p.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(there.unwrap_or(path))
}

fn link_all(dir: &Path, program: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    for name in NAMES {
        let link = dir.join(name);
        if std::fs::read_link(&link).is_ok_and(|target| target == program) {
            continue;
        }
        // By way of another name, so that a turn that runs always finds one of the two.
        let new = dir.join(format!(".{name}.{}", std::process::id()));
        let _ = std::fs::remove_file(&new);
        symlink(program, &new)?;
        std::fs::rename(&new, &link)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::tests::TempDir;

    #[test]
    fn the_links_lead_to_this_program_and_are_renewed() {
        let temp = TempDir::new();
        let dir = temp.0.join("daemon/bin");
        std::fs::create_dir(temp.0.join("daemon")).unwrap();
        link_all(&dir, Path::new("/old/bellhop")).unwrap();
        std::fs::remove_file(dir.join("botcord")).unwrap();
        std::fs::write(dir.join("botcord"), "somebody's own").unwrap();
        link_all(&dir, Path::new("/new/bellhop")).unwrap();
        link_all(&dir, Path::new("/new/bellhop")).unwrap();
        for name in NAMES {
            assert_eq!(std::fs::read_link(dir.join(name)).unwrap(), Path::new("/new/bellhop"));
        }
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2);
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        prepare(&dir);
        assert_eq!(std::fs::read_link(dir.join("botcord")).unwrap(), std::env::current_exe().unwrap());
    }
}
