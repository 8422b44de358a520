//! The cache file of a catalogue: fresh for ten minutes, used beyond that while a new one is made.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Catalogue, Installed, discover, read_file};
use crate::json;
use crate::store::{self, RealDisk};
use crate::thread;
use crate::time;

/// How long a file counts as fresh, in milliseconds.
const FRESH_MS: u64 = 600_000;
/// Version of the file's form.
const VERSION: u32 = 2;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    version: u32,
    runtime_id: String,
    context_key: String,
    /// Unix milliseconds.
    updated_at: u64,
    catalog: Catalogue,
}

/// Everything that a catalogue depends on. Its JSON text is the key: a change of any of it makes the
/// file stale.
#[derive(Serialize)]
struct Context<'a> {
    runtime: &'a str,
    path: &'a Path,
    version: Option<&'a str>,
    home: &'a Path,
    files: Vec<(PathBuf, Option<(i64, u64)>)>,
    env: BTreeMap<&'a str, Option<&'a str>>,
}

fn context_key(installed: &Installed) -> String {
    let stamp = |file: &Path| std::fs::metadata(file).ok().map(|m| (m.mtime(), m.size()));
    let context = Context {
        runtime: &installed.runtime,
        path: &installed.binary,
        version: installed.version.as_deref(),
        home: &installed.home,
        files: installed.files().into_iter().map(|f| (f.clone(), stamp(&f))).collect(),
        env: installed.variables().iter().map(|name| (*name, installed.var(name))).collect(),
    };
    json::to_string(&context).unwrap_or_default()
}

/// The catalogue of a runtime, from the cache where it is good enough.
///
/// `directory` is where cache files lie; without one nothing is cached. `refresh` allows a stale file to be
/// used at once and renewed by a thread. A runtime without a catalogue yields an empty one.
pub fn lookup(installed: &Installed, directory: Option<&Path>, refresh: bool) -> Catalogue {
    let Some(directory) = directory else { return discover(installed).unwrap_or_default() };
    let path = directory.join(format!("{}.json", installed.runtime.replace([':', '/'], "_")));
    let key = context_key(installed);
    let Some(file) = read(&path, installed, &key) else { return renew(installed, &path, key) };
    if (time::now_ms() as u64).saturating_sub(file.updated_at) <= FRESH_MS {
        return file.catalog;
    }
    if !refresh {
        return renew(installed, &path, key);
    }
    let again = installed.clone();
    let name = format!("catalogue:{}", installed.runtime);
    let spawned = thread::spawn(name, move || drop(renew(&again, &path, key)));
    if let Err(error) = spawned {
        log::warn!("catalogue.refresh runtime={} error={error}", installed.runtime);
    }
    file.catalog
}

fn read(path: &Path, installed: &Installed, key: &str) -> Option<File> {
    let file: File = json::from_str(&read_file(path)?).ok()?;
    (file.version == VERSION && file.runtime_id == installed.runtime && file.context_key == key).then_some(file)
}

fn renew(installed: &Installed, path: &Path, context_key: String) -> Catalogue {
    let Some(catalog) = discover(installed) else { return Catalogue::default() };
    let runtime_id = installed.runtime.clone();
    let file = File { version: VERSION, runtime_id, context_key, updated_at: time::now_ms() as u64, catalog };
    if let Err(error) = write(path, &file) {
        log::warn!("catalogue.write file={} error={error}", path.display());
    }
    file.catalog
}

fn write(path: &Path, file: &File) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    store::write(&RealDisk, path, &json::to_vec(file)?).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(home: &Path) -> Installed {
        Installed {
            runtime: "claude-code".into(),
            binary: "/nowhere/claude".into(),
            version: None,
            home: home.to_owned(),
            env: BTreeMap::new(),
        }
    }

    #[test]
    fn a_changed_setting_makes_the_file_stale() {
        let home = std::env::temp_dir().join(format!("bellhop-catalogue-{}", std::process::id()));
        let cache = home.join("cache");
        std::fs::create_dir_all(home.join(".claude")).unwrap();
        let first = lookup(&installed(&home), Some(&cache), true);
        assert!(cache.join("claude-code.json").exists());
        assert!(first.models.iter().all(|m| m.id != "mine"));

        std::fs::write(home.join(".claude/settings.json"), r#"{"model":"mine"}"#).unwrap();
        let second = lookup(&installed(&home), Some(&cache), true);
        assert!(second.models.iter().any(|m| m.id == "mine"));
        std::fs::remove_dir_all(&home).unwrap();
    }
}
