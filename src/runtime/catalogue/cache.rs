//! The cache file of a catalogue. For ten minutes it is used as it is, and renewed in the background; later a new one is
//! made, for which the old one stands in when the CLI says nothing.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Catalogue, Installed, Origin, discover, read_file};
use crate::json;
use crate::store::{self, RealDisk};
use crate::thread;
use crate::time;

/// How long a file counts as fresh, in milliseconds.
const FRESH_MS: u64 = 600_000;
/// A file that is younger than this is not renewed: dashboards ask several times in a row. In milliseconds.
const NEW_MS: u64 = 30_000;
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
        env: crate::sort::map(installed.variables().iter().map(|name| (*name, installed.var(name)))),
    };
    json::to_string(&context).unwrap_or_default()
}

/// Files that are being renewed, so that each is renewed by one thread. There are as many as runtimes.
static RENEWING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn renewing() -> MutexGuard<'static, Vec<PathBuf>> {
    RENEWING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The catalogue of a runtime, from the cache where it is good enough.
///
/// `directory` is where cache files lie; without one nothing is cached. With `renews`, a fresh file is also renewed by
/// a thread, for the next time. A runtime without a catalogue yields an empty one.
pub fn lookup(installed: &Installed, directory: Option<&Path>, renews: bool) -> Catalogue {
    let Some(directory) = directory else { return discover(installed).unwrap_or_default() };
    let path = directory.join(format!("{}.json", installed.runtime.replace([':', '/'], "_")));
    let key = context_key(installed);
    let Some(file) = read(&path, installed, &key) else { return renew(installed, &path, key, None) };
    // A file from the future is as old as any.
    let age = (time::now_ms() as u64).checked_sub(file.updated_at).unwrap_or(u64::MAX);
    if age > FRESH_MS {
        return renew(installed, &path, key, Some(file.catalog));
    }
    if renews && age >= NEW_MS {
        renew_aside(installed.clone(), path, key, file.catalog.clone());
    }
    file.catalog
}

/// Renews a file on a thread of its own, unless that is being done.
fn renew_aside(installed: Installed, path: PathBuf, key: String, old: Catalogue) {
    {
        let mut renewing = renewing();
        if renewing.contains(&path) {
            return;
        }
        renewing.push(path.clone());
    }
    let (file, runtime) = (path.clone(), installed.runtime.clone());
    let spawned = thread::errand(format!("catalogue:{runtime}"), move || {
        let _done = Renewing(path.clone());
        renew(&installed, &path, key, Some(old));
    });
    if let Err(error) = spawned {
        log::warn!("catalogue.renew runtime={runtime} error={error}");
        drop(Renewing(file));
    }
}

/// Takes its file out of [`RENEWING`] at the end, also that of a panic.
struct Renewing(PathBuf);

impl Drop for Renewing {
    fn drop(&mut self) {
        renewing().retain(|path| *path != self.0);
    }
}

fn read(path: &Path, installed: &Installed, key: &str) -> Option<File> {
    let file: File = json::from_str(&read_file(path)?).ok()?;
    (file.version == VERSION && file.runtime_id == installed.runtime && file.context_key == key).then_some(file)
}

/// Asks for the catalogue and writes it down. Where nothing was found out, what is known stays.
fn renew(installed: &Installed, path: &Path, context_key: String, old: Option<Catalogue>) -> Catalogue {
    let Some(found) = discover(installed) else { return Catalogue::default() };
    let catalog = match old {
        Some(old) if is_builtin(&found) && !is_builtin(&old) => old,
        _ => found,
    };
    let runtime_id = installed.runtime.clone();
    let file = File { version: VERSION, runtime_id, context_key, updated_at: time::now_ms() as u64, catalog };
    if let Err(error) = write(path, &file) {
        log::warn!("catalogue.write file={} error={error}", path.display());
    }
    file.catalog
}

/// Whether it holds nothing but what this program has a list of.
fn is_builtin(catalogue: &Catalogue) -> bool {
    catalogue.models.iter().all(|model| model.source == Origin::Builtin)
}

fn write(path: &Path, file: &File) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    store::write(&RealDisk, path, &json::to_vec(file)?).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::tests::TempDir;

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

    /// A `codex` that lists what is in the file `says`, and fails without it.
    fn codex(home: &Path) -> Installed {
        let binary = home.join("codex");
        std::fs::write(&binary, format!("#!/bin/sh\nexec cat '{}'\n", home.join("says").display())).unwrap();
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o700)).unwrap();
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".into());
        Installed {
            runtime: "codex".into(),
            binary,
            env: BTreeMap::from([("PATH".to_owned(), path)]),
            ..installed(home)
        }
    }

    fn says(home: &Path, model: &str) {
        std::fs::write(home.join("says"), format!(r#"{{"models":[{{"slug":"{model}"}}]}}"#)).unwrap();
    }

    fn age(file: &Path, ms: u64) {
        let mut document: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        document["updatedAt"] = (time::now_ms() as u64 - ms).into();
        std::fs::write(file, document.to_string()).unwrap();
    }

    fn ids(catalogue: &Catalogue) -> Vec<&str> {
        catalogue.models.iter().map(|m| m.id.as_str()).collect()
    }

    #[test]
    fn a_fresh_file_is_used_and_renewed_for_the_next_time() {
        let dir = TempDir::new();
        let (cache, installed) = (dir.0.join("cache"), codex(&dir.0));
        let file = cache.join("codex.json");
        says(&dir.0, "one");
        assert_eq!(ids(&lookup(&installed, Some(&cache), true)), ["one"]);
        says(&dir.0, "two");
        assert_eq!(ids(&lookup(&installed, Some(&cache), true)), ["one"], "it has just been made");
        assert!(!renewing().contains(&file));
        age(&file, NEW_MS);
        assert_eq!(ids(&lookup(&installed, Some(&cache), false)), ["one"], "not asked to renew it");
        assert!(!renewing().contains(&file));
        assert_eq!(ids(&lookup(&installed, Some(&cache), true)), ["one"]);
        while renewing().contains(&file) {
            std::thread::yield_now();
        }
        assert_eq!(ids(&lookup(&installed, Some(&cache), false)), ["two"]);
    }

    #[test]
    fn an_old_file_is_replaced_unless_nothing_is_found_out() {
        let dir = TempDir::new();
        let (cache, installed) = (dir.0.join("cache"), codex(&dir.0));
        let file = cache.join("codex.json");
        says(&dir.0, "one");
        lookup(&installed, Some(&cache), true);
        age(&file, FRESH_MS + 60_000);
        says(&dir.0, "two");
        assert_eq!(ids(&lookup(&installed, Some(&cache), true)), ["two"]);
        age(&file, FRESH_MS + 60_000);
        std::fs::remove_file(dir.0.join("says")).unwrap();
        assert_eq!(ids(&lookup(&installed, Some(&cache), true)), ["two"], "better than a list of our own");
        std::fs::remove_file(&file).unwrap();
        assert!(is_builtin(&lookup(&installed, Some(&cache), true)));
    }
}
