//! Fetches the files of a message into `<workspace>/attachments/<message>/`, before the message is taken in.
//!
//! Names come from whoever wrote it and are turned into ones that do no harm. What cannot be fetched is left out, and the
//! message says so.

use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::api::{Api, ApiError};
use super::update::{FileRef, Letter};
use crate::channel::attached;
use crate::message::Attachment;

/// Files of one message.
const MAX_FILES: usize = 10;
/// Largest file, in bytes; the public server gives no larger ones.
const MAX_BYTES: u64 = 20 << 20;
/// For the question where a file is.
const LIMIT: Duration = Duration::from_secs(20);

/// Fetches what a letter brings. Fails only when it was given up.
pub fn fetch(
    api: &Api,
    channel: &str,
    workspace: &Path,
    letter: &Letter,
    abort: BorrowedFd<'_>,
) -> Result<Vec<Attachment>, ApiError> {
    let mut fetched = Vec::new();
    if letter.files.is_empty() {
        return Ok(fetched);
    }
    let dir = workspace.join("attachments").join(format!("tg_{}_{}", letter.chat, letter.message));
    // What an attempt before a crash has left would only be in the way of the names.
    let _ = fs::remove_dir_all(&dir);
    if let Err(e) = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir) {
        log::warn!("telegram.fetch_failed channel={channel} dir={} error={e}", dir.display());
        return Ok(fetched);
    }
    for file in letter.files.iter().take(MAX_FILES) {
        match fetch_one(api, &dir, file, abort) {
            Ok(attachment) => fetched.push(attachment),
            Err(Failed::Api(ApiError::Aborted)) => return Err(ApiError::Aborted),
            Err(Failed::Api(e)) => log::warn!("telegram.fetch_failed channel={channel} error={:?}", e.to_string()),
            Err(Failed::Here(why)) => log::warn!("telegram.fetch_failed channel={channel} error={why:?}"),
        }
    }
    Ok(fetched)
}

enum Failed {
    Api(ApiError),
    Here(String),
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

fn fetch_one(api: &Api, dir: &Path, wanted: &FileRef, abort: BorrowedFd<'_>) -> Result<Attachment, Failed> {
    if let Some(size) = wanted.size.filter(|size| *size > MAX_BYTES) {
        return Err(Failed::Here(format!("{} has {size} bytes; at most {MAX_BYTES} are fetched", wanted.what)));
    }
    let found = api.call("getFile", &json!({"file_id": wanted.id}), LIMIT, abort)?;
    let place = found["file_path"].as_str().ok_or_else(|| Failed::Here("the server names no file".into()))?;
    let (path, mut file) = attached::create(dir, &attached::local_name(&wanted.name)).map_err(Failed::Here)?;
    if let Err(e) = api.download(place, MAX_BYTES, &mut file, abort) {
        let _ = fs::remove_file(&path);
        return Err(e.into());
    }
    Ok(Attachment {
        filename: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        file_path: path,
        content_type: wanted.mime.clone(),
        kind: wanted.kind,
        source_path: None,
    })
}
