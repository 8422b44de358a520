//! Processes that stay between turns, and a daemon that dies: each of them carries a mark that tells the daemon's
//! home, and a file says that there may be some. The next daemon ends them before a session is resumed beside one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::crypto::hex;
use crate::runtime::process;
use crate::runtime::settings::RuntimeSettings;
use crate::store::{self, RealDisk};

/// Kept processes of Claude Code.
pub const CLAUDE: &str = "claude-warm";
/// Servers of DeepSeek.
pub const DEEPSEEK: &str = "deepseek-servers";

/// The file that says that there may be processes of one kind. It lies in the daemon's directory.
pub struct Marker {
    settings: Arc<RuntimeSettings>,
    kind: &'static str,
    is_set: AtomicBool,
}

impl Marker {
    /// Of this kind; not set.
    pub fn new(settings: Arc<RuntimeSettings>, kind: &'static str) -> Self {
        Self { settings, kind, is_set: AtomicBool::new(false) }
    }

    fn path(&self) -> PathBuf {
        self.settings.daemon_dir.join(self.kind)
    }

    /// To be called before a process is started that may stay.
    pub fn set(&self) {
        if self.is_set.swap(true, Ordering::Relaxed) || !self.settings.daemon_dir.is_dir() {
            return;
        }
        if let Err(e) = store::write(&RealDisk, &self.path(), b"") {
            log::warn!("runtime.marker_not_written kind={} error={e}", self.kind);
        }
    }

    /// To be called when all of them are gone.
    pub fn clear(&self) {
        if self.is_set.swap(false, Ordering::Relaxed) {
            let _ = std::fs::remove_file(self.path());
        }
    }
}

/// Value of [`process::WARM_MARK`] for the processes of this home.
pub fn mark(settings: &RuntimeSettings) -> String {
    let dir = settings.daemon_dir.canonicalize().unwrap_or_else(|_| settings.daemon_dir.clone());
    let hash = ring::digest::digest(&ring::digest::SHA256, dir.as_os_str().as_encoded_bytes());
    hex(hash.as_ref().get(..8).unwrap_or_default())
}

/// Ends what a daemon of this home that did not end orderly has kept, and whatever that has started. Returns how
/// many processes were killed.
pub fn end_leftovers(settings: &RuntimeSettings) -> usize {
    let files = [CLAUDE, DEEPSEEK].map(|kind| settings.daemon_dir.join(kind));
    if !files.iter().any(|file| file.exists()) {
        return 0;
    }
    let killed = process::sweep_warm(&mark(settings));
    log::info!("runtime.kept_swept killed={killed}");
    for file in files {
        let _ = std::fs::remove_file(file);
    }
    killed
}
