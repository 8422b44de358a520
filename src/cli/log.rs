//! Where log lines go: standard error and, for the process that runs the engine, `logs/daemon.log`.
//!
//! `BELLHOP_LOG` chooses what is logged, in the syntax of `env_logger` (`debug`, `warn,bellhop::engine=debug`).
//! A line is `[LEVEL] message ts=<RFC 3339, UTC>`; messages end with `key=value` pairs. Where standard error is the
//! journal of systemd, which has levels, times and files of its own, a line is `<priority>message`, and no file is
//! written. Failures to log are ignored: a full disk must not stop a conversation.

use crate::time;
use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
/// A file that would grow beyond this is put aside first, in bytes.
pub const ROTATE_AT: u64 = 10 << 20;

/// How many files that were put aside are kept.
pub const KEPT: usize = 20;

/// The longest line, in UTF-16 units; the rest is cut.
const LINE_LIMIT: usize = 16_384;

/// The variable that chooses what is logged.
pub const LEVEL_VARIABLE: &str = "BELLHOP_LOG";

/// Sets the process's logger; later calls change nothing. `default` holds where the variable says nothing:
/// `Warn` for commands, `Info` for the daemon. With a `file`, lines go there as well.
pub fn init(default: log::LevelFilter, stderr: bool, file: Option<&Path>) {
    let wanted = std::env::var(LEVEL_VARIABLE).unwrap_or_default();
    // The name that the BotCord daemon gives it.
    let debug = std::env::var_os("BOTCORD_DAEMON_DEBUG").is_some_and(|v| !v.is_empty());
    let mut builder = env_logger::Builder::new();
    match wanted.as_str() {
        "" if debug => builder.filter_level(log::LevelFilter::Debug),
        "" => builder.filter_level(default),
        spec => builder.parse_filters(spec),
    };
    let journal =
        stderr && is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref(), rustix::fs::fstat(io::stderr()));
    let file = file.filter(|_| !journal).map(|path| LogFile::new(path.to_owned(), ROTATE_AT, KEPT));
    let _ = builder
        .format(move |out, record| {
            let message = record.args().to_string();
            let now = (!journal).then(time::now_ms);
            out.write_all(format_line(record.level(), &message, now).as_bytes())
        })
        .target(env_logger::Target::Pipe(Box::new(Tee { stderr, file })))
        .try_init();
}

/// Standard error and the file. `env_logger` hands over whole lines, one thread at a time.
struct Tee {
    stderr: bool,
    file: Option<LogFile>,
}

impl Write for Tee {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.stderr {
            let _ = io::stderr().lock().write_all(line);
        }
        if let Some(file) = &mut self.file {
            file.write(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether standard error is what `JOURNAL_STREAM` names: a child of the daemon inherits the variable, and may have
/// another standard error.
fn is_journal(variable: Option<&str>, stderr: rustix::io::Result<rustix::fs::Stat>) -> bool {
    let named = variable.and_then(|v| v.split_once(':')).and_then(|(d, i)| Some((d.parse().ok()?, i.parse().ok()?)));
    named.is_some_and(|named: (u64, u64)| stderr.is_ok_and(|stat| named == (stat.st_dev, stat.st_ino)))
}

/// One line; without a time it is one for the journal.
pub fn format_line(level: log::Level, message: &str, now: Option<i64>) -> String {
    let message = crate::text::head(message, LINE_LIMIT);
    // One record is one line, whatever a far side has written into it.
    // Bytes are looked at faster than characters are; beyond ASCII there are some that control.
    let is_plain = message.bytes().all(|b| (b' '..0x7f).contains(&b));
    let message = if !is_plain && message.contains(char::is_control) {
        Cow::Owned(message.replace(char::is_control, " "))
    } else {
        Cow::Borrowed(message)
    };
    match now {
        Some(now) => format!("[{level}] {message} ts={}\n", time::rfc3339(now)),
        None => format!("<{}>{message}\n", priority(level)),
    }
}

/// The priority that syslog has for it.
fn priority(level: log::Level) -> u8 {
    match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    }
}

/// An append-only file that is put aside when it is full. The descriptor stays open.
struct LogFile {
    path: PathBuf,
    limit: u64,
    kept: usize,
    open: Option<(File, u64)>,
}

impl LogFile {
    fn new(path: PathBuf, limit: u64, kept: usize) -> Self {
        Self { path, limit, kept, open: None }
    }

    fn write(&mut self, line: &[u8]) {
        if self.open.as_ref().is_some_and(|(_, size)| *size > 0 && size + line.len() as u64 > self.limit) {
            self.rotate();
        }
        if self.open.is_none() {
            self.open = open(&self.path).ok();
            // A file of an earlier process may be full already.
            if self.open.as_ref().is_some_and(|(_, size)| *size > 0 && size + line.len() as u64 > self.limit) {
                self.rotate();
                self.open = open(&self.path).ok();
            }
        }
        if let Some((file, size)) = &mut self.open {
            match file.write_all(line) {
                Ok(()) => *size += line.len() as u64,
                Err(_) => self.open = None,
            }
        }
    }

    fn rotate(&mut self) {
        self.open = None;
        let stamp = time::rfc3339(time::now_ms()).replace([':', '.'], "-");
        let name = |n: usize| {
            let more = if n == 0 { String::new() } else { format!(".{n}") };
            PathBuf::from(format!("{}.{stamp}.{}{more}", self.path.display(), std::process::id()))
        };
        if let Some(free) = (0..100).map(name).find(|p| !p.exists()) {
            let _ = fs::rename(&self.path, free);
        }
        let aside = rotated(&self.path);
        for old in aside.iter().take(aside.len().saturating_sub(self.kept)) {
            let _ = fs::remove_file(old);
        }
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// Files that were put aside, oldest first (their names begin with the time).
pub fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut list: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| {
            let name = e.file_name();
            name.to_string_lossy().strip_prefix(&prefix).is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
        })
        .map(|e| e.path())
        .collect();
    crate::sort::sort(&mut list);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line() {
        let message = "turn.done text=\"a\nb\u{1b}[2J\"";
        let line = format_line(log::Level::Warn, message, Some(0));
        assert_eq!(line, "[WARN] turn.done text=\"a b [2J\" ts=1970-01-01T00:00:00.000Z\n");
        assert_eq!(format_line(log::Level::Warn, message, None), "<4>turn.done text=\"a b [2J\"\n");
    }

    #[test]
    fn the_journal_is_known_by_its_stream() {
        let stat = || rustix::fs::stat("/");
        let own = stat().map(|s| format!("{}:{}", s.st_dev, s.st_ino)).unwrap();
        assert!(is_journal(Some(&own), stat()));
        for other in [None, Some(""), Some("1"), Some("8:999999999"), Some("x:y")] {
            assert!(!is_journal(other, stat()), "{other:?}");
        }
    }

    #[test]
    fn a_full_file_is_put_aside_and_old_ones_go() {
        let dir = std::env::temp_dir().join(format!("bh-log-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("daemon.log");
        fs::write(dir.join("daemon.log.gz"), "not ours").unwrap();
        let mut log = LogFile::new(path.clone(), 10, 2);
        for n in 0..10 {
            log.write(format!("line {n}\n").as_bytes());
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 9\n");
        assert_eq!(rotated(&path).len(), 2);
        assert!(dir.join("daemon.log.gz").exists());
        // A new process goes on where the old one was.
        LogFile::new(path.clone(), 14, 2).write(b"x\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 9\nx\n");
        fs::remove_dir_all(dir).unwrap();
    }
}
