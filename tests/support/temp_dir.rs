//! A directory that is removed at the end of a test.

use std::path::{Path, PathBuf};

/// A fresh directory below the system's place for temporary files.
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes one; `name` helps to recognise it.
    pub fn new(name: &str) -> Self {
        let number = super::run_request::fresh_number();
        let dir = std::env::temp_dir().join(format!("bellhop-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Something in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
