//! Where the binary of a runtime lies: one look-up for listings and for runs.
//!
//! Nothing is cached. A look-up is a handful of `stat` calls before a process that takes hundreds of
//! milliseconds, and a binary that was replaced or removed is noticed at once. What depends on the file's
//! content (its version) is cached by [`FileId`].

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::runtime::Descriptor;
use crate::runtime::settings::RuntimeSettings;

/// Prefixes of the override variables; the first wins.
pub const OVERRIDE_PREFIXES: [&str; 2] = ["BELLHOP_", "BOTCORD_"];

/// Identity of a file's content, as far as the system tells without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Modification time in nanoseconds.
    pub mtime_ns: i128,
    /// Bytes.
    pub size: u64,
}

impl FileId {
    /// Identity of the file behind `path` (links are followed), when it is an executable regular file.
    pub fn of_executable(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
            return None;
        }
        let mtime_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        Some(Self { dev: meta.dev(), ino: meta.ino(), mtime_ns, size: meta.size() })
    }
}

/// What the look-up of a runtime's binary came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What to start: a path, or the bare name when nothing was found (starting it then fails).
    pub program: PathBuf,
    /// Identity of the file; `None` when there is no such executable.
    pub file: Option<FileId>,
    /// Why it is not available, for people.
    pub problem: Option<String>,
}

/// Looks for the binary of a runtime: override variable, PATH, the runtime's own places, bare name.
pub fn resolve(descriptor: &Descriptor, settings: &RuntimeSettings) -> Resolved {
    if let Some((variable, value)) = overridden(descriptor, settings) {
        let path = PathBuf::from(&value);
        // A bare name in the variable is looked up like the usual one.
        let program =
            if value.as_bytes().contains(&b'/') { path } else { on_path(&path, &settings.search_path).unwrap_or(path) };
        let file = FileId::of_executable(&program);
        let problem = file.is_none().then(|| {
            let program = program.display();
            format!("{variable} names {program}, which is not an executable file")
        });
        return Resolved { program, file, problem };
    }
    let mut names = std::iter::once(descriptor.binary).chain(other_names(descriptor.id).iter().copied());
    let hit = names
        .find_map(|name| on_path(Path::new(name), &settings.search_path))
        .map(|hit| preferred(descriptor.id, hit))
        .or_else(|| fallbacks(descriptor.id, &settings.user_home).into_iter().find(|p| is_executable(p)));
    let Some(program) = hit else {
        let problem = format!("{} not found on PATH", descriptor.binary);
        return Resolved { program: descriptor.binary.into(), file: None, problem: Some(problem) };
    };
    let file = FileId::of_executable(&program);
    Resolved { program, file, problem: None }
}

/// Names under which a program that was renamed is found as well.
fn other_names(id: &str) -> &'static [&'static str] {
    match id {
        "deepseek-tui" => &["codewhale", "codew"],
        _ => &[],
    }
}

/// The override variable that is set (not empty) and its value.
fn overridden(descriptor: &Descriptor, settings: &RuntimeSettings) -> Option<(String, OsString)> {
    OVERRIDE_PREFIXES.iter().find_map(|prefix| {
        let name = format!("{prefix}{}", descriptor.variable);
        let value = settings.var(&name)?;
        (!value.is_empty()).then(|| (name, value.to_owned()))
    })
}

/// The first executable regular file of that name in the directories of `path`.
pub fn on_path(name: &Path, path: &OsStr) -> Option<PathBuf> {
    if name.as_os_str().is_empty() || name.as_os_str().as_bytes().contains(&b'/') {
        return None;
    }
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    FileId::of_executable(path).is_some()
}

/// A better file than the PATH hit, where a runtime has one.
fn preferred(id: &str, hit: PathBuf) -> PathBuf {
    let better = match id {
        "codex" => codex_native(&hit),
        // The npm package's command downloads the real binary beside itself.
        "deepseek-tui" => hit
            .canonicalize()
            .ok()
            .and_then(|real| Some(real.parent()?.join("downloads/deepseek")))
            .filter(|p| is_executable(p)),
        _ => None,
    };
    better.unwrap_or(hit)
}

/// Platform package and target triple of Codex's npm packages on this machine.
fn codex_platform() -> Option<(&'static str, &'static str)> {
    Some(match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => ("linux-x64", "x86_64-unknown-linux-musl"),
        ("linux", "aarch64") => ("linux-arm64", "aarch64-unknown-linux-musl"),
        ("macos", "x86_64") => ("darwin-x64", "x86_64-apple-darwin"),
        ("macos", "aarch64") => ("darwin-arm64", "aarch64-apple-darwin"),
        _ => return None,
    })
}

/// The native program that the npm launcher would start: saves a Node.js process per turn.
fn codex_native(hit: &Path) -> Option<PathBuf> {
    let (platform, triple) = codex_platform()?;
    let real = hit.canonicalize().ok()?;
    let package = real.ancestors().find(|dir| dir.ends_with("node_modules/@openai/codex"))?;
    let tail = format!("codex-{platform}/vendor/{triple}/bin/codex");
    [package.parent()?.join(&tail), package.join("node_modules/@openai").join(&tail)]
        .into_iter()
        .find(|p| is_executable(p))
}

/// Places outside PATH where a runtime may lie, in order.
fn fallbacks(id: &str, home: &Path) -> Vec<PathBuf> {
    let mac = cfg!(target_os = "macos");
    match id {
        "claude-code" if mac => {
            let bundle = "Claude Code URL Handler.app/Contents/MacOS/claude";
            vec![home.join("Applications").join(bundle), Path::new("/Applications").join(bundle)]
        }
        "codex" if mac => vec!["/Applications/Codex.app/Contents/Resources/codex".into()],
        "hermes-agent" => vec![
            home.join(".hermes/hermes-agent/venv/bin/hermes-acp"),
            "/opt/hermes/hermes-agent/venv/bin/hermes-acp".into(),
        ],
        _ => Vec::new(),
    }
}

/// Directories that PATH is extended by: installers put agent CLIs there, and a service manager's PATH
/// knows none of them.
pub fn extra_directories(home: &Path) -> Vec<PathBuf> {
    let system: &[&str] = if cfg!(target_os = "macos") {
        &["/opt/homebrew/bin", "/opt/homebrew/sbin", "/usr/local/bin", "/usr/local/sbin"]
    } else {
        &["/usr/local/bin", "/usr/local/sbin"]
    };
    let below_home = [
        ".botcord/bin",
        ".local/bin",
        ".cargo/bin",
        ".bun/bin",
        ".deno/bin",
        ".npm-global/bin",
        ".yarn/bin",
        ".pnpm",
        ".pyenv/shims",
        ".rye/shims",
        ".pixi/bin",
    ];
    system.iter().map(PathBuf::from).chain(below_home.iter().map(|d| home.join(d))).collect()
}

/// `base` and then `extra`; entries trimmed, empty and repeated ones dropped.
pub fn extend_path(base: &OsStr, extra: &[PathBuf]) -> OsString {
    let mut entries: Vec<&[u8]> = Vec::new();
    let given = base.as_bytes().split(|b| *b == b':').chain(extra.iter().map(|p| p.as_os_str().as_bytes()));
    for entry in given.map(<[u8]>::trim_ascii) {
        if !entry.is_empty() && !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    OsString::from_vec(entries.join(&b':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::descriptor;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("bellhop-resolve-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn program(&self, path: &str, mode: u32) -> PathBuf {
            let path = self.0.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        }

        fn settings(&self, vars: &[(&str, &Path)]) -> RuntimeSettings {
            let mut env = vec![("HOME".into(), self.0.clone().into()), ("PATH".into(), self.0.join("bin").into())];
            env.extend(vars.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))));
            let mut settings = RuntimeSettings::with_env(&self.0, env);
            settings.search_path = self.0.join("bin").into();
            settings
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_executable_regular_files_count() {
        let dir = Dir::new("files");
        let claude = descriptor("claude-code").unwrap();
        dir.program("bin/claude", 0o644);
        let found = resolve(claude, &dir.settings(&[]));
        assert_eq!(found.program, Path::new("claude"));
        assert!(found.problem.unwrap().contains("not found on PATH"));
        let path = dir.program("bin/claude", 0o755);
        let found = resolve(claude, &dir.settings(&[]));
        assert_eq!((found.program, found.problem), (path, None));
        assert!(found.file.is_some());
    }

    #[test]
    fn the_own_prefix_of_an_override_wins() {
        let dir = Dir::new("override");
        let (a, b) = (dir.program("a", 0o755), dir.program("b", 0o755));
        let codex = descriptor("codex").unwrap();
        let found = resolve(codex, &dir.settings(&[("BOTCORD_CODEX_BIN", &a), ("BELLHOP_CODEX_BIN", &b)]));
        assert_eq!(found.program, b);
        let missing = dir.0.join("nothing");
        let found = resolve(codex, &dir.settings(&[("BOTCORD_CODEX_BIN", &missing)]));
        assert_eq!(found.program, missing);
        assert!(found.problem.unwrap().contains("BOTCORD_CODEX_BIN"));
    }

    #[test]
    fn the_native_codex_is_preferred_to_its_launcher() {
        let Some((platform, triple)) = codex_platform() else { return };
        let dir = Dir::new("codex");
        let codex = descriptor("codex").unwrap();
        let launcher = dir.program("lib/node_modules/@openai/codex/bin/codex.js", 0o755);
        std::fs::create_dir_all(dir.0.join("bin")).unwrap();
        std::os::unix::fs::symlink(&launcher, dir.0.join("bin/codex")).unwrap();
        assert_eq!(resolve(codex, &dir.settings(&[])).program, dir.0.join("bin/codex"));
        let native = format!("lib/node_modules/@openai/codex-{platform}/vendor/{triple}/bin/codex");
        let native = dir.program(&native, 0o755).canonicalize().unwrap();
        assert_eq!(resolve(codex, &dir.settings(&[])).program, native);
    }
}
