//! Files that go with a message (the hub's protocol, §15): opened so that nothing else than what was checked is read,
//! and given to the hub in a stream.

use std::fs::File;
use std::io::Cursor;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{self, FileType, Mode, OFlags};

use super::api::Source;
use super::error::ApiError;
use super::far::Far;
use super::wire::Upload;
use crate::message::Attachment;

/// Largest file that a hub takes, in bytes.
pub const MAX_BYTES: u64 = 10 << 20;
/// Files of one message.
pub const MAX_FILES: usize = 10;
/// The type of what has no type.
const UNTYPED: &str = "application/octet-stream";
/// The file that holds a text which is too long for a message.
const WHOLE_TEXT: &str = "answer.txt";

/// Why a file is not sent.
#[derive(Debug)]
enum Refused {
    /// It cannot be, whenever it is tried.
    File(String),
    /// The hub did not take it now.
    Hub(ApiError),
}

/// Opens a file that is named by its real path: no link on the way is followed, so that what is opened is what was
/// checked. Returns it with its size.
pub fn open(path: &Path) -> Result<(File, u64), String> {
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
        Ok(size) if size > MAX_BYTES => Err(format!("{size} bytes; a hub takes {MAX_BYTES}")),
        Ok(size) => Ok((file.into(), size)),
    }
}

/// What became of the files of a message.
#[derive(Debug, Default)]
pub struct Uploaded {
    /// Those that the hub has, in their order.
    pub files: Vec<Upload>,
    /// For each of them the path in the text that named it, if one did.
    pub paths: Vec<Option<String>>,
    /// Some may be taken another time.
    pub is_partial: bool,
}

/// Gives the hub the files of a message; those that it does not take are left out.
pub fn upload_all(far: &dyn Far, attachments: &[Attachment]) -> Uploaded {
    let mut uploaded = Uploaded::default();
    for attachment in attachments.iter().take(MAX_FILES) {
        match upload(far, attachment) {
            Ok(file) => {
                uploaded.files.push(file);
                uploaded.paths.push(attachment.source_path.clone());
            }
            Err(why) => {
                uploaded.is_partial |= left_out(far.agent(), &attachment.filename, &why);
            }
        }
    }
    uploaded
}

/// Gives the hub a text as a file. `Err(true)`: it may be taken another time.
pub fn upload_text(far: &dyn Far, text: &str) -> Result<Upload, bool> {
    let kept = text.get(..text.floor_char_boundary(MAX_BYTES as usize)).unwrap_or_default();
    let mut source = Cursor::new(kept.as_bytes());
    far.upload(&mut source, kept.len() as u64, WHOLE_TEXT, "text/plain; charset=utf-8")
        .map_err(|e| left_out(far.agent(), WHOLE_TEXT, &Refused::Hub(e)))
}

fn upload(far: &dyn Far, attachment: &Attachment) -> Result<Upload, Refused> {
    let (mut file, size) = open(&attachment.file_path).map_err(Refused::File)?;
    let kind = attachment.content_type.as_deref().unwrap_or(UNTYPED);
    let source: &mut dyn Source = &mut file;
    source.rewind().map_err(|e| Refused::File(e.to_string()))?;
    far.upload(source, size, &attachment.filename, kind).map_err(Refused::Hub)
}

/// Notes why a file is left out; returns whether it may be taken another time.
fn left_out(agent: &str, name: &str, why: &Refused) -> bool {
    let (why, later) = match why {
        Refused::File(why) => (why.clone(), false),
        Refused::Hub(e) => {
            (e.to_string(), e.refusal().is_none_or(|r| r.status == 401 || r.status == 429 || r.status >= 500))
        }
    };
    log::warn!("botcord.file_left_out agent={agent} name={name:?} error={:?}", crate::redact::text(&why));
    later
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::store::tests::TempDir;

    #[test]
    fn only_the_file_itself_is_opened() {
        let dir = TempDir::new();
        let base = dir.0.canonicalize().unwrap();
        std::fs::create_dir(base.join("d")).unwrap();
        std::fs::write(base.join("d/a.png"), "abc").unwrap();
        std::fs::write(base.join("empty.png"), "").unwrap();
        symlink("d/a.png", base.join("link.png")).unwrap();
        symlink("d", base.join("e")).unwrap();
        let (file, size) = open(&base.join("d/a.png")).unwrap();
        assert_eq!((std::io::read_to_string(file).unwrap().as_str(), size), ("abc", 3));
        for path in ["link.png", "e/a.png", "d", "d/../d/a.png", "empty.png", "missing.png"] {
            assert!(open(&base.join(path)).is_err(), "{path}");
        }
        assert!(open(Path::new("d/a.png")).is_err(), "relative");
        assert!(open(Path::new("/dev/null")).is_err(), "no regular file");
        let pipe = base.join("pipe.png");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(open(&pipe).is_err());
        let large = File::create(base.join("large.zip")).unwrap();
        large.set_len(MAX_BYTES).unwrap();
        assert_eq!(open(&base.join("large.zip")).unwrap().1, MAX_BYTES);
        large.set_len(MAX_BYTES + 1).unwrap();
        assert!(open(&base.join("large.zip")).unwrap_err().contains("10485761"));
    }
}
