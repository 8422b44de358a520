//! The files of gateways' secrets: `{"botToken": "…"}`, 0600 in a directory that is 0700.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::config::paths::plain;
use crate::config::{GatewayProfile, Home};
use crate::json;
use crate::store::{self, RealDisk};

/// Longest file, in bytes.
const LIMIT: u64 = 64 << 10;

/// Makes the directory of all secrets.
pub(crate) fn prepare(home: &Home) {
    super::agents::prepare_directory("gateways", &home.gateways_dir(), true);
}

/// The secret of a gateway. The error says what is wrong, and holds nothing of the file.
pub(crate) fn read(profile: &GatewayProfile, home: &Home) -> Result<String, String> {
    let path = profile.secret_path(home);
    let missing = || "missing bot token".to_owned();
    let text = match fs::metadata(&path) {
        Ok(meta) if meta.is_file() && meta.len() <= LIMIT => {
            fs::read_to_string(&path).map_err(|e| format!("{} cannot be read: {}", path.display(), plain(&e)))?
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(missing()),
        Err(e) => return Err(format!("{} cannot be read: {}", path.display(), plain(&e))),
        Ok(_) => return Err(format!("{} is no file of a secret", path.display())),
    };
    let text = text.trim();
    if !text.starts_with('{') {
        // A file that somebody has written by hand.
        return if text.is_empty() { Err(missing()) } else { Ok(text.to_owned()) };
    }
    let document = json::parse(text.as_bytes()).map_err(|_| format!("{} is not JSON", path.display()))?;
    let secret = ["botToken", "appSecret"].iter().find_map(|key| document[*key].as_str());
    secret.map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).ok_or_else(missing)
}

/// Writes a secret; `key` is the name that its service gives it.
pub(crate) fn write(path: &Path, home: &Home, key: &str, secret: &str) -> Result<(), String> {
    prepare(home);
    let mut document = Map::new();
    document.insert(key.to_owned(), secret.into());
    store::write_json(&RealDisk, path, &Value::Object(document)).map_err(|e| e.to_string())
}

/// A file as it was, to be put back.
pub(super) struct Before {
    path: PathBuf,
    /// `None`: there was none.
    content: Option<Vec<u8>>,
}

impl Before {
    /// Remembers it.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let content = match fs::read(path) {
            Ok(content) => Some(content),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        Ok(Self { path: path.to_owned(), content })
    }

    /// Puts it back.
    pub(super) fn restore(self) {
        let done = match self.content {
            None => fs::remove_file(&self.path).or_else(gone),
            Some(content) => store::write(&RealDisk, &self.path, &content).map_err(|e| e.source),
        };
        if let Err(e) = done {
            log::error!("gateway.rollback_failed path={} error={e}", self.path.display());
        }
    }
}

/// That there is no such file is what was wanted.
pub(super) fn gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::TempDir;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_its_owners_and_is_read_in_both_forms() {
        let dir = TempDir::new();
        let home = Home::at(&dir.0).unwrap();
        home.prepare().unwrap();
        let profile = GatewayProfile { id: "gw_1".into(), kind: "telegram".into(), ..GatewayProfile::default() };
        assert_eq!(read(&profile, &home).unwrap_err(), "missing bot token");
        let path = profile.secret_path(&home);
        write(&path, &home, "botToken", "123:abc").unwrap();
        assert_eq!(read(&profile, &home).unwrap(), "123:abc");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        for (content, expected) in [
            ("456:def\n", Ok("456:def")),
            ("{\"botToken\": \" \"}", Err("missing bot token")),
            ("\n", Err("missing bot token")),
        ] {
            fs::write(&path, content).unwrap();
            assert_eq!(read(&profile, &home), expected.map(str::to_owned).map_err(str::to_owned));
        }
        fs::write(&path, "{secret").unwrap();
        assert!(!read(&profile, &home).unwrap_err().contains("secret\""));
    }
}
