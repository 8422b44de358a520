//! The daemon in its own place: drained, then executed anew with the same arguments, pid and supervisor. If the program
//! on disk is another one by then, that was the update.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, access};
use serde_json::{Value, json};

use super::reload::Live;
use crate::cli::RESTARTED_VARIABLE;
use crate::link::botcord_control::frame::Refused;
use crate::thread;

/// So long the answer to the frame has to get on its way.
const GRACE: Duration = Duration::from_millis(750);

/// Has the daemon restart soon. The answer to the frame. One that could not start again goes on.
pub(super) fn schedule(live: &Arc<Live>) -> Result<Value, Refused> {
    live.read().map_err(|e| Refused::failed(format!("not restarted: {e}")))?;
    let program = std::env::current_exe().map(|program| on_disk(&program));
    let usable = program.and_then(|program| Ok(access(&program, Access::EXEC_OK)?));
    usable.map_err(|e| Refused::failed(format!("not restarted: the program cannot be executed: {e}")))?;
    let restart = live.restart.clone();
    let soon = move || {
        std::thread::sleep(GRACE);
        // One that waits already is enough.
        let _ = restart.try_send(());
    };
    let scheduled = thread::spawn("restart", soon).inspect_err(|e| log::error!("daemon.no_restart error={e}")).is_ok();
    Ok(json!({
        "scheduled": scheduled, "updateRequested": true, "updateSupported": false, "installPrefix": null, "packageSpec": "",
    }))
}

/// Becomes the program anew. Returns only when that is not possible, and says why.
pub(super) fn in_place() -> String {
    let program = match std::env::current_exe() {
        Ok(program) => on_disk(&program),
        Err(e) => return e.to_string(),
    };
    log::info!("daemon.restarting program={:?}", program.display());
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(RESTARTED_VARIABLE, "1");
    command.exec().to_string()
}

/// The path of a program that was replaced while it ran.
fn on_disk(program: &Path) -> PathBuf {
    let text = program.as_os_str().to_string_lossy();
    text.strip_suffix(" (deleted)").map_or_else(|| program.to_owned(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_program_is_found() {
        assert_eq!(on_disk(Path::new("/usr/bin/bellhop (deleted)")), Path::new("/usr/bin/bellhop"));
        assert_eq!(on_disk(Path::new("/usr/bin/bellhop")), Path::new("/usr/bin/bellhop"));
    }
}
