//! Files that go with a message (the hub's protocol, §15): opened so that nothing else than what was checked is read,
//! and given to the hub in a stream.

use std::fs::File;
use std::io::Cursor;
use std::path::Path;

use super::api::Source;
use super::error::ApiError;
use super::far::Far;
use super::wire::Upload;
use crate::channel::attached;
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

/// Opens a file that a hub may take; see [`attached::open`]. Returns it with its size.
pub fn open(path: &Path) -> Result<(File, u64), String> {
    attached::open(path, MAX_BYTES)
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
            (e.to_string(), e.refusal().is_none_or(|r| r.of_refresh || matches!(r.status, 401 | 429 | 500..)))
        }
    };
    log::warn!("botcord.file_left_out agent={agent} name={name:?} error={:?}", crate::redact::text(&why));
    later
}
