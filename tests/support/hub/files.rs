//! Files up and down.

use serde_json::json;

use super::clock;
use super::http::{Reply, Request};
use super::state::{File, World};

const TYPES: [&str; 14] = [
    "text/",
    "image/",
    "audio/",
    "video/",
    "application/pdf",
    "application/json",
    "application/xml",
    "application/zip",
    "application/gzip",
    "application/octet-stream",
    "application/msword",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "application/vnd.ms-excel",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
];

/// A part of a multipart body.
struct Part {
    filename: String,
    content_type: String,
    bytes: Vec<u8>,
}

pub fn upload(world: &mut World, request: &Request) -> Result<Reply, Reply> {
    let missing = || Reply::invalid("body", "file", "missing");
    let part = part(request).ok_or_else(missing)?;
    if part.bytes.is_empty() {
        return Err(Reply::coded(400, "empty_file"));
    }
    if part.bytes.len() > world.settings.file_limit {
        return Err(Reply::coded(413, "file_too_large"));
    }
    if !TYPES.iter().any(|prefix| part.content_type.starts_with(prefix)) {
        return Err(Reply::coded(400, "mime_type_not_allowed"));
    }
    let base = part.filename.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    let name: String = if base.is_empty() { "upload".into() } else { base.chars().take(200).collect() };
    let id = format!("f_{}", world.fresh(32));
    let life = world.settings.file_life.as_millis() as i64;
    let file = File {
        id: id.clone(),
        name: name.clone(),
        content_type: part.content_type.clone(),
        until: world.clock.now() + life,
        lost: false,
        bytes: part.bytes,
    };
    let size = file.bytes.len();
    world.files.insert(id.clone(), file);
    Ok(Reply::json(
        200,
        &json!({"file_id": id, "url": format!("{}/hub/files/{id}", world.origin), "original_filename": name,
            "content_type": part.content_type, "size_bytes": size,
            "expires_at": clock::iso(world.clock.wall() + life, ".000000+00:00")}),
    ))
}

/// The part called `file`.
fn part(request: &Request) -> Option<Part> {
    let kind = request.header("content-type")?;
    let boundary = kind.split(';').find_map(|item| item.trim().strip_prefix("boundary="))?.trim_matches('"');
    let delimiter = format!("--{boundary}");
    let mut rest = after(&request.body, delimiter.as_bytes())?;
    loop {
        rest = rest.strip_prefix(b"\r\n")?;
        let end = find(rest, format!("\r\n{delimiter}").as_bytes())?;
        let (head, bytes) = rest[..end].split_at(find(&rest[..end], b"\r\n\r\n")?);
        let head = String::from_utf8_lossy(head);
        let header = |name: &str| {
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let disposition = header("content-disposition")?;
        let value = |name: &str| {
            let rest = disposition.split("; ").find_map(|item| item.strip_prefix(&format!("{name}=\"")))?;
            Some(rest.strip_suffix('"')?.replace("%22", "\""))
        };
        if value("name").as_deref() == Some("file") {
            let content_type = header("content-type").unwrap_or("application/octet-stream".into());
            return Some(Part { filename: value("filename")?, content_type, bytes: bytes[4..].to_vec() });
        }
        rest = &rest[end + 2 + delimiter.len()..];
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    // Only places where the first byte fits are compared: bodies may have megabytes.
    let mut at = 0;
    loop {
        at += text.get(at..)?.iter().position(|b| *b == what[0])?;
        if text[at..].starts_with(what) {
            return Some(at);
        }
        at += 1;
    }
}

fn after<'a>(text: &'a [u8], what: &[u8]) -> Option<&'a [u8]> {
    Some(&text[find(text, what)? + what.len()..])
}

pub fn download(world: &World, request: &Request) -> Result<Reply, Reply> {
    let Some(file) = world.files.get(&request.segment(2)) else { return Err(Reply::coded(404, "file_not_found")) };
    if file.until <= world.clock.now() {
        return Err(Reply::coded(404, "file_expired"));
    }
    if file.lost {
        return Err(Reply::coded(404, "file_not_found_on_disk"));
    }
    let ascii: String = file.name.chars().map(|c| if c.is_ascii_graphic() && c != '"' { c } else { '_' }).collect();
    let escape = |b: u8| if b.is_ascii_alphanumeric() { (b as char).to_string() } else { format!("%{b:02X}") };
    let full: String = file.name.bytes().map(escape).collect();
    let disposition = format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{full}");
    let headers = vec![("Content-Type".into(), file.content_type.clone()), ("Content-Disposition".into(), disposition)];
    Ok(Reply { status: 200, headers, body: file.bytes.clone() })
}
