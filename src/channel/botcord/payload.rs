//! What a message says on the wire: its id, its words, its files. Pure.

use serde_json::{Map, Value, json};

use super::wire::Upload;
use crate::crypto;
use crate::message::{Outbound, OutboundKind};

/// Longest text that is sent, in bytes; the note that it was cut comes on top.
pub const TEXT_LIMIT: usize = 256 << 10;
/// Code of every diagnostic.
const ERROR_CODE: &str = "agent_error";

/// The id under which the hub knows a message: a UUID of version 4, the same at every attempt and after a restart.
///
/// It is a digest of the message's own id, which is fixed before the first attempt and unique because it is drawn at
/// random.
pub fn msg_id(agent: &str, out: &Outbound) -> String {
    let hash = crypto::sha256_hex(format!("bellhop message\n{agent}\n{}", out.id).as_bytes());
    let variant = match hash.as_bytes()[16] {
        b'0' | b'4' | b'8' | b'c' => '8',
        b'1' | b'5' | b'9' | b'd' => '9',
        b'2' | b'6' | b'a' | b'e' => 'a',
        _ => 'b',
    };
    format!("{}-{}-4{}-{variant}{}-{}", &hash[..8], &hash[8..12], &hash[13..16], &hash[17..20], &hash[20..32])
}

/// The part of a text that fits into a message, with a note when something is missing. `attached`: the whole of it goes
/// along as a file. `None` when all of it fits.
pub fn cut(text: &str, attached: bool) -> Option<String> {
    if text.len() <= TEXT_LIMIT {
        return None;
    }
    let end = text.floor_char_boundary(TEXT_LIMIT);
    let size = text.len() >> 10;
    let rest = if attached { "the whole text is attached" } else { "the rest is left out" };
    Some(format!("{}\n\n[… cut here: the text has {size} KiB; {rest}]", text.get(..end).unwrap_or_default()))
}

/// The text with the paths of uploaded files replaced by their URLs. A path inside a longer one is left alone.
pub fn with_urls(text: &str, files: &[(&str, &str)]) -> String {
    files.iter().fold(text.to_owned(), |text, (path, url)| replace_whole(&text, path, url))
}

fn replace_whole(text: &str, path: &str, url: &str) -> String {
    let is_path = |b: u8| b.is_ascii_alphanumeric() || b"_@+-/".contains(&b);
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (at, _) in text.match_indices(path) {
        let before = at.checked_sub(1).and_then(|i| text.as_bytes().get(i));
        let after = text.as_bytes().get(at + path.len());
        if before.is_some_and(|b| is_path(*b) || *b == b'.') || after.is_some_and(|b| is_path(*b)) {
            continue;
        }
        out.push_str(&text[done..at]);
        out.push_str(url);
        done = at + path.len();
    }
    out.push_str(&text[done..]);
    out
}

/// The payload of a message with these words and files.
pub fn payload(out: &Outbound, text: &str, files: &[Upload]) -> Value {
    let mut payload = Map::new();
    if out.kind == OutboundKind::Error {
        let mut error = Map::new();
        error.insert("code".into(), ERROR_CODE.into());
        error.insert("message".into(), text.into());
        error.extend(out.error_ref.as_ref().map(|r| ("error_ref".to_owned(), r.as_str().into())));
        payload.insert("error".into(), error.into());
    }
    // The live frame of an owner's chat shows this and nothing else.
    if out.kind == OutboundKind::Message || out.conversation_id.starts_with("rm_oc_") {
        payload.insert("text".into(), text.into());
    }
    if !files.is_empty() {
        let files: Vec<Value> = files.iter().map(attachment).collect();
        payload.insert("attachments".into(), files.into());
    }
    payload.into()
}

fn attachment(file: &Upload) -> Value {
    let mut attachment = json!({"filename": file.original_filename, "url": file.url});
    if let Some(members) = attachment.as_object_mut() {
        members.extend(file.content_type.as_ref().map(|t| ("content_type".to_owned(), t.as_str().into())));
        members.extend(file.size_bytes.map(|n| ("size_bytes".to_owned(), n.into())));
    }
    attachment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(kind: OutboundKind, room: &str) -> Outbound {
        Outbound { id: "out_1".into(), kind, conversation_id: room.into(), ..crate::channel::botcord::fake::out("T") }
    }

    #[test]
    fn an_id_is_a_uuid_of_version_4_and_stays_the_same() {
        for n in 0..200 {
            let out = Outbound { id: format!("out_{n}"), ..out(OutboundKind::Message, "rm_1") };
            let id = msg_id("ag_1", &out);
            let parts: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12]);
            assert!(id.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{id}");
            assert!(id.as_bytes()[14] == b'4' && b"89ab".contains(&id.as_bytes()[19]), "{id}");
            assert_eq!(id, msg_id("ag_1", &out));
            assert_ne!(id, msg_id("ag_2", &out));
        }
    }

    #[test]
    fn diagnostics_have_their_own_form() {
        let message = out(OutboundKind::Message, "rm_1");
        assert_eq!(payload(&message, "T", &[]), json!({"text": "T"}));
        let mut error = out(OutboundKind::Error, "rm_1");
        assert_eq!(payload(&error, "T", &[]), json!({"error": {"code": "agent_error", "message": "T"}}));
        error.error_ref = Some("err_1".into());
        error.conversation_id = "rm_oc_1".into();
        let expected = json!({"error": {"code": "agent_error", "message": "T", "error_ref": "err_1"}, "text": "T"});
        assert_eq!(payload(&error, "T", &[]), expected);
        let file = Upload { url: "U".into(), original_filename: "a".into(), size_bytes: Some(1), ..Upload::default() };
        let expected = json!({"text": "T", "attachments": [{"filename": "a", "url": "U", "size_bytes": 1}]});
        assert_eq!(payload(&message, "T", &[file]), expected);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut(&"a".repeat(TEXT_LIMIT), false), None);
        let text = format!("a{}", "é".repeat(TEXT_LIMIT / 2));
        let shown = cut(&text, true).unwrap();
        assert!(shown.len() < TEXT_LIMIT + 100 && shown.ends_with("the whole text is attached]"), "{}", shown.len());
    }

    #[test]
    fn paths_are_replaced_whole() {
        let text = "see out/a.png, `out/a.png` and x/out/a.png or ../out/a.png; out/a.png.";
        let expected = "see U, `U` and x/out/a.png or ../out/a.png; U.";
        assert_eq!(with_urls(text, &[("out/a.png", "U")]), expected);
        assert_eq!(with_urls("./a/b.png a/b.png", &[("./a/b.png", "U"), ("a/b.png", "V")]), "U V");
    }
}
