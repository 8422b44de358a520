//! Fetches the files of a message before its turn (the hub's protocol, §15.2), where that is wanted: else the agent sees
//! their URLs in the text.
//!
//! Names and URLs come from whoever wrote the message. Only files of the agent's own hub are fetched, and a name is
//! turned into one that can do no harm. What fails is left out, and its URL is still in the text.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use serde_json::Value;

use super::far::Far;
use crate::channel::attached;
use crate::message::{Attachment, AttachmentKind};

/// Files of one message.
const MAX_FILES: usize = 10;
/// Largest file, in bytes.
const MAX_BYTES: u64 = 10 << 20;

/// Fetches what an inbox message brings into `<workspace>/attachments/<hub message id>/`.
pub fn fetch(far: &dyn Far, workspace: &Path, raw: &Value) -> Vec<Attachment> {
    let listed = raw.pointer("/envelope/payload/attachments").and_then(Value::as_array);
    let (Some(listed), Some(id)) = (listed, raw["hub_msg_id"].as_str()) else { return Vec::new() };
    let is_id = (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let wanted: Vec<(&str, &str)> = listed
        .iter()
        .filter_map(|a| Some((a["url"].as_str()?, a["filename"].as_str().unwrap_or_default())))
        .filter(|(url, _)| far.may_download(url))
        .take(MAX_FILES)
        .collect();
    if !is_id || wanted.is_empty() {
        return Vec::new();
    }
    let dir = workspace.join("attachments").join(id);
    if let Err(e) = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir) {
        log::warn!("botcord.prefetch_failed agent={} dir={} error={e}", far.agent(), dir.display());
        return Vec::new();
    }
    let fetched = wanted.iter().filter_map(|(url, filename)| match fetch_one(far, &dir, url, filename) {
        Ok(attachment) => Some(attachment),
        Err(why) => {
            let why = crate::redact::text(&why);
            log::warn!("botcord.prefetch_failed agent={} message={id} error={why:?}", far.agent());
            None
        }
    });
    fetched.collect()
}

fn fetch_one(far: &dyn Far, dir: &Path, url: &str, filename: &str) -> Result<Attachment, String> {
    let (path, mut file) = attached::create(dir, &attached::local_name(filename))?;
    let fetched = far.download(url, MAX_BYTES, &mut file).map_err(|e| e.to_string());
    match fetched {
        Ok(download) => {
            let content_type = download.content_type;
            let is_image = content_type.as_deref().is_some_and(|t| t.starts_with("image/"));
            Ok(Attachment {
                filename: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                file_path: path,
                kind: if is_image { AttachmentKind::Image } else { AttachmentKind::File },
                content_type,
                source_path: None,
            })
        }
        Err(why) => {
            let _ = fs::remove_file(&path);
            Err(why)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fake::{FakeHub, refused};
    use super::*;
    use crate::store::tests::TempDir;

    #[test]
    fn files_of_the_hub_are_fetched_side_by_side_and_what_fails_leaves_nothing() {
        let dir = TempDir::new();
        let hub = FakeHub::answering([None, Some(refused(404, "file_expired")), None]);
        let file = |url: &str, name: &str| json!({"url": url, "filename": name});
        let listed = json!([
            file("https://h/hub/files/f_1", "a.png"),
            file("https://evil/hub/files/f_1", "b.png"),
            file("https://h/hub/files/f_2", "a.png"),
            file("https://h/hub/files/f_3", "a.png"),
        ]);
        let raw = json!({"hub_msg_id": "h_1", "envelope": {"payload": {"attachments": listed}}});
        let fetched = fetch(&hub, &dir.0, &raw);
        let names: Vec<&str> = fetched.iter().map(|a| a.filename.as_str()).collect();
        assert_eq!(names, ["a.png", "a-2.png"]);
        assert_eq!(fs::read(&fetched[1].file_path).unwrap(), b"file");
        assert_eq!(fs::read_dir(dir.0.join("attachments/h_1")).unwrap().count(), 2);
        assert_eq!(hub.calls().len(), 3);
        let hostile = json!({"hub_msg_id": "../h", "envelope": raw["envelope"]});
        assert!(fetch(&hub, &dir.0, &hostile).is_empty());
    }
}
