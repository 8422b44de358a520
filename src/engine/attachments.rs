//! Files that a reply to the owner names by their path: found in the text, checked, and sent along.
//!
//! Only files below the working directory count, after links have been followed, and none in a directory whose name
//! begins with a dot: an agent that is talked into naming `.ssh/id.png` sends nothing. What is found here is a path;
//! the channel that reads the file opens it without following links, since it may have been exchanged meanwhile.

use std::path::{Component, Path, PathBuf};

use crate::message::{Attachment, AttachmentKind};

/// Files of one reply; further ones are left out.
pub const MAX_FILES: usize = 10;
/// Largest file, in bytes; the smallest has one byte.
pub const MAX_BYTES: u64 = 26_214_400;
/// Path tokens of one reply that are looked at on disk.
const MAX_TOKENS: usize = 1_000;
/// Longest path, in bytes; Linux has none that is longer.
const MAX_PATH: usize = 4_096;

/// Extensions that count, with the content type where one is told.
const TYPES: [(&str, Option<&str>); 19] = [
    ("avif", Some("image/avif")),
    ("bmp", Some("image/bmp")),
    ("csv", Some("text/csv")),
    ("doc", None),
    ("docx", None),
    ("gif", Some("image/gif")),
    ("htm", Some("text/html")),
    ("html", Some("text/html")),
    ("jpeg", Some("image/jpeg")),
    ("jpg", Some("image/jpeg")),
    ("pdf", Some("application/pdf")),
    ("png", Some("image/png")),
    ("ppt", None),
    ("pptx", None),
    ("svg", Some("image/svg+xml")),
    ("webp", Some("image/webp")),
    ("xls", None),
    ("xlsx", None),
    ("zip", Some("application/zip")),
];

/// The files below `base` that `reply` names, in the order of the text, each once.
pub fn find(reply: &str, base: &Path) -> Vec<Attachment> {
    let tokens = candidates(reply);
    if tokens.is_empty() {
        return Vec::new();
    }
    let Ok(base) = base.canonicalize() else { return Vec::new() };
    let mut found: Vec<Attachment> = Vec::new();
    for token in tokens.into_iter().take(MAX_TOKENS) {
        if found.len() == MAX_FILES {
            break;
        }
        let Some(path) = file_below(&base, token) else { continue };
        if found.iter().all(|a| a.file_path != path) {
            found.extend(attachment(path, token));
        }
    }
    found
}

/// The file at `path`, which an agent wants to send: below `base` like those of a reply, but of any type. The error says
/// what is wrong, for the agent.
pub fn pick(path: &Path, base: &Path) -> Result<Attachment, String> {
    let shown = path.display();
    let base = base.canonicalize().map_err(|_| "the turn's directory is gone".to_owned())?;
    let real = base.join(path).canonicalize().map_err(|e| format!("{shown}: {}", plain(&e)))?;
    let Ok(inside) = real.strip_prefix(&base) else {
        return Err(format!("{shown}: only files in the turn's directory, {}, are sent", base.display()));
    };
    if inside.components().any(is_hidden) {
        return Err(format!("{shown}: hidden files are not sent, nor files in hidden directories"));
    }
    let meta = real.metadata().map_err(|e| format!("{shown}: {}", plain(&e)))?;
    if !meta.is_file() {
        return Err(format!("{shown}: it is not a regular file"));
    }
    if !(1..=MAX_BYTES).contains(&meta.len()) {
        return Err(format!("{shown}: it has {} bytes; 1 to {MAX_BYTES} are sent", meta.len()));
    }
    let extension = real.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let text =
        ["md", "txt", "log", "json", "xml", "patch", "diff", "toml", "yaml", "yml"].contains(&extension.as_str());
    let content_type = content_type(&extension).or(text.then_some("text/plain"));
    Ok(Attachment {
        filename: real.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        kind: kind_of(content_type),
        content_type: content_type.map(str::to_owned),
        source_path: None,
        file_path: real,
    })
}

/// What the system says, without its number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn is_hidden(component: Component<'_>) -> bool {
    component.as_os_str().as_encoded_bytes().starts_with(b".")
}

fn kind_of(content_type: Option<&str>) -> AttachmentKind {
    let is_image = content_type.is_some_and(|t| t.starts_with("image/"));
    if is_image { AttachmentKind::Image } else { AttachmentKind::File }
}

/// The real path of a token, if that is a sendable file below `base` (which is a real path).
fn file_below(base: &Path, token: &str) -> Option<PathBuf> {
    let path = base.join(token).canonicalize().ok()?;
    let inside = path.strip_prefix(base).ok()?;
    if inside.parent()?.components().any(is_hidden) {
        return None;
    }
    let meta = path.metadata().ok()?;
    (meta.is_file() && (1..=MAX_BYTES).contains(&meta.len())).then_some(path)
}

fn attachment(path: PathBuf, token: &str) -> Option<Attachment> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    TYPES.iter().find(|(known, _)| *known == extension)?;
    let content_type = content_type(&extension);
    Some(Attachment {
        filename: path.file_name()?.to_string_lossy().into_owned(),
        content_type: content_type.map(str::to_owned),
        kind: kind_of(content_type),
        source_path: Some(token.to_owned()),
        file_path: path,
    })
}

/// The media type of files with this extension, where one is told.
pub fn content_type(extension: &str) -> Option<&'static str> {
    TYPES.iter().find(|(known, _)| *known == extension)?.1
}

/// Everything in a text that looks like the path of a file: at least one directory, a name and a known extension,
/// between white space, brackets or quotes.
pub fn candidates(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut before = None;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = rest.bytes().take_while(|b| is_path_byte(*b)).count();
        if length == 0 {
            before = Some(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (run, after) = rest.split_at(length);
        let opens = before.is_none_or(|c| c.is_whitespace() || "([{\"'`".contains(c));
        if opens && length <= MAX_PATH {
            tokens.extend(token(run, after.chars().next()));
        }
        before = run.chars().next_back();
        rest = after;
    }
    tokens
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_@+.-/".contains(&byte)
}

/// The longest beginning of a run of path characters that is a token; `after` is what follows the run.
fn token(run: &str, after: Option<char>) -> Option<&str> {
    let closes = after.is_none_or(|c| c.is_whitespace() || ")]}\"'`,.!?:;".contains(c));
    let whole = closes.then_some(run.len());
    // Inside a run only a full stop can follow a path: the end of a sentence.
    let stops = run.rmatch_indices('.').map(|(at, _)| at);
    whole.into_iter().chain(stops).filter_map(|end| run.get(..end)).find(|t| is_token(t))
}

fn is_token(token: &str) -> bool {
    let Some((directories, name)) = token.rsplit_once('/') else { return false };
    let directories = directories.strip_prefix('/').unwrap_or(directories);
    let Some((stem, extension)) = name.rsplit_once('.') else { return false };
    !stem.is_empty()
        && TYPES.iter().any(|(known, _)| extension.eq_ignore_ascii_case(known))
        && directories.split('/').all(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::tests::TempDir;

    #[test]
    fn tokens_are_paths_between_brackets_quotes_and_blanks() {
        for (text, expected) in [
            ("see out/a.png", vec!["out/a.png"]),
            ("(./a.png) [../x/b.PDF], `/tmp/c.zip`.", vec!["./a.png", "../x/b.PDF", "/tmp/c.zip"]),
            ("out/a.png. Then out/b.png.txt", vec!["out/a.png", "out/b.png"]),
            ("out/a.tar.zip!", vec!["out/a.tar.zip"]),
            ("a.png /a.png out/.png out/a.exe", vec![]),
            ("https://host/x/a.png //host/a.png x=out/a.png 图out/a.png", vec![]),
            ("out/a.png/b out/a.png-", vec![]),
            ("图 out/a.png。", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(candidates(text), expected, "{text}");
        }
    }

    #[test]
    fn only_real_files_below_the_base_are_sent_once_each() {
        let dir = TempDir::new();
        let base = dir.0.join("work");
        for sub in ["out", ".ssh", "empty.png"] {
            fs::create_dir_all(base.join(sub)).unwrap();
        }
        for file in ["out/a.png", "out/b.csv", ".ssh/key.png", "../secret.png"] {
            fs::write(base.join(file), "x").unwrap();
        }
        fs::write(base.join("out/empty.gif"), "").unwrap();
        std::os::unix::fs::symlink("../../secret.png", base.join("out/link.png")).unwrap();
        std::os::unix::fs::symlink("../.ssh/key.png", base.join("out/key.png")).unwrap();
        let text = "out/b.csv ./out/a.png out/a.png out/link.png out/key.png .ssh/key.png ../secret.png \
                    out/empty.gif ./empty.png out/missing.png";
        let found = find(text, &base);
        let shown: Vec<_> = found.iter().map(|a| (a.filename.as_str(), a.source_path.as_deref().unwrap())).collect();
        assert_eq!(shown, [("b.csv", "out/b.csv"), ("a.png", "./out/a.png")]);
        assert_eq!((found[0].kind, found[1].kind), (AttachmentKind::File, AttachmentKind::Image));
        assert_eq!(found[0].content_type.as_deref(), Some("text/csv"));
        assert!(find(text, &base.join("nowhere")).is_empty());
    }

    #[test]
    fn what_an_agent_names_is_sent_from_its_own_directory_only() {
        let dir = TempDir::new();
        let base = dir.0.join("work");
        fs::create_dir_all(base.join(".git")).unwrap();
        for file in ["notes.md", "a.png", ".env", ".git/config", "../secret.txt"] {
            fs::write(base.join(file), "x").unwrap();
        }
        fs::write(base.join("empty.txt"), "").unwrap();
        std::os::unix::fs::symlink("../secret.txt", base.join("link.txt")).unwrap();
        let picked = pick(&base.join("notes.md"), &base).unwrap();
        assert_eq!((picked.filename.as_str(), picked.content_type.as_deref()), ("notes.md", Some("text/plain")));
        assert_eq!(pick(Path::new("a.png"), &base).unwrap().kind, AttachmentKind::Image);
        for (path, why) in [
            (".env", "hidden"),
            (".git/config", "hidden"),
            ("../secret.txt", "only files in the turn's directory"),
            ("link.txt", "only files in the turn's directory"),
            ("/etc/passwd", "only files in the turn's directory"),
            ("empty.txt", "it has 0 bytes"),
            (".", "not a regular file"),
            ("missing", "No such file"),
        ] {
            let refused = pick(Path::new(path), &base).unwrap_err();
            assert!(refused.contains(why), "{path}: {refused}");
        }
    }

    #[test]
    fn there_is_an_end_to_it() {
        let dir = TempDir::new();
        fs::create_dir(dir.0.join("out")).unwrap();
        let names: Vec<String> = (0..11).map(|n| format!("out/{n}.png")).collect();
        for name in &names {
            fs::write(dir.0.join(name), "x").unwrap();
        }
        let found = find(&names.join(" "), &dir.0);
        let sources: Vec<_> = found.iter().filter_map(|a| a.source_path.clone()).collect();
        assert_eq!(sources, names[..10]);
    }
}
