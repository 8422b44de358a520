//! Files that come and go with messages, for every channel: opened so that nothing else than what was checked is read,
//! and stored under names that do no harm.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags};

/// Longest name, in bytes.
const NAME: usize = 120;
/// Files of one name in one directory.
const SAME_NAME: usize = 20;

/// Opens a file that is named by its real path: no link on the way is followed, so that what is opened is what was
/// checked. Returns it with its size, which is 1 to `most` bytes.
pub fn open(path: &Path, most: u64) -> Result<(File, u64), String> {
    let failed = |e: rustix::io::Errno| e.to_string();
    let name = path.file_name().ok_or("not a file")?;
    let mut dir: Option<OwnedFd> = None;
    for part in path.parent().into_iter().flat_map(Path::components) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        dir = Some(match (part, &dir) {
            (Component::RootDir, None) => fs::open("/", flags, Mode::empty()).map_err(failed)?,
            (Component::Normal(part), Some(above)) => fs::openat(above, part, flags, Mode::empty()).map_err(failed)?,
            _ => return Err("not a real path".into()),
        });
    }
    let dir = dir.ok_or("not a real path")?;
    // A pipe would keep whoever opens it.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = fs::openat(&dir, name, flags, Mode::empty()).map_err(failed)?;
    let stat = fs::fstat(&file).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("not a regular file".into());
    }
    // A second name may stand where its owner would not have it read.
    if stat.st_nlink > 1 && stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err("another name of somebody else's file".into());
    }
    match u64::try_from(stat.st_size) {
        Ok(0) | Err(_) => Err("empty".into()),
        Ok(size) if size > most => Err(format!("{size} bytes; at most {most} are sent")),
        Ok(size) => Ok((file.into(), size)),
    }
}

/// A new file of this name, or of the name with a counter.
pub fn create(dir: &Path, name: &str) -> Result<(PathBuf, File), String> {
    for n in 1..=SAME_NAME {
        let path = dir.join(counted(name, n));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        match options.open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    Err("too many files of one name".into())
}

fn counted(name: &str, n: usize) -> String {
    match name.rsplit_once('.') {
        _ if n == 1 => name.to_owned(),
        Some((stem, extension)) if !stem.is_empty() => format!("{stem}-{n}.{extension}"),
        _ => format!("{name}-{n}"),
    }
}

/// A name for a file that somebody else has named: no directories, no hidden files, nothing but plain characters.
pub fn local_name(filename: &str) -> String {
    let base = filename.rsplit(['/', '\\']).next().unwrap_or_default();
    let plain = |c: char| if c.is_alphanumeric() || "._- ()".contains(c) { c } else { '_' };
    let name: String = base.chars().map(plain).collect();
    let hidden = name.len() - name.trim_start_matches('.').len();
    let name = format!("{}{}", "_".repeat(hidden), &name[hidden..]);
    let kept = name.get(..name.floor_char_boundary(NAME)).unwrap_or_default().trim();
    if kept.is_empty() { "file".to_owned() } else { kept.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::store::tests::TempDir;

    const MOST: u64 = 10 << 20;

    #[test]
    fn only_the_file_itself_is_opened() {
        let dir = TempDir::new();
        let base = dir.0.canonicalize().unwrap();
        std::fs::create_dir(base.join("d")).unwrap();
        std::fs::write(base.join("d/a.png"), "abc").unwrap();
        std::fs::write(base.join("empty.png"), "").unwrap();
        symlink("d/a.png", base.join("link.png")).unwrap();
        symlink("d", base.join("e")).unwrap();
        let (file, size) = open(&base.join("d/a.png"), MOST).unwrap();
        assert_eq!((std::io::read_to_string(file).unwrap().as_str(), size), ("abc", 3));
        for path in ["link.png", "e/a.png", "d", "d/../d/a.png", "empty.png", "missing.png"] {
            assert!(open(&base.join(path), MOST).is_err(), "{path}");
        }
        assert!(open(Path::new("d/a.png"), MOST).is_err(), "relative");
        assert!(open(Path::new("/dev/null"), MOST).is_err(), "no regular file");
        let pipe = base.join("pipe.png");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(open(&pipe, MOST).is_err());
        let large = File::create(base.join("large.zip")).unwrap();
        large.set_len(MOST).unwrap();
        assert_eq!(open(&base.join("large.zip"), MOST).unwrap().1, MOST);
        large.set_len(MOST + 1).unwrap();
        assert!(open(&base.join("large.zip"), MOST).unwrap_err().contains("10485761"));
    }

    #[test]
    fn names_do_no_harm() {
        for (given, expected) in [
            ("a.png", "a.png"),
            ("../../etc/passwd", "passwd"),
            ("C:\\x\\report (1).pdf", "report (1).pdf"),
            (".ssh", "_ssh"),
            ("..", "__"),
            ("a\nb\u{202e}c*.txt", "a_b_c_.txt"),
            ("", "file"),
            ("x/", "file"),
            ("報告.pdf", "報告.pdf"),
        ] {
            assert_eq!(local_name(given), expected, "{given:?}");
        }
        assert_eq!(local_name(&"é".repeat(100)).len(), NAME);
        assert_eq!((counted("a.png", 1), counted("a.png", 2)), ("a.png".into(), "a-2.png".into()));
        assert_eq!(counted("a", 3), "a-3");
    }
}
