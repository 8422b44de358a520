//! From an update of the Bot API to an [`Inbound`]. Pure.
//!
//! Updates are read leniently: what has a wrong type counts as absent, unless the message could not be understood without
//! it. Texts are sanitised here, so that nothing behind this module sees them otherwise.

use serde_json::Value;

use super::access::is_private;
use crate::message::{
    Attachment, AttachmentKind, Conversation, ConversationKind, Inbound, Origin, Quote, Sender, SenderKind, Trace,
};
use crate::sanitize;
use crate::text;

/// Length of a quote's preview, in UTF-16 units; prompts show less.
const PREVIEW: usize = 300;

/// The bot itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bot {
    /// Its number.
    pub id: i64,
    /// Its name without the `@`.
    pub username: String,
}

impl Bot {
    /// From the answer to `getMe`.
    pub fn read(me: &Value) -> Option<Self> {
        let username = me["username"].as_str().unwrap_or_default().to_owned();
        Some(Self { id: me["id"].as_i64()?, username })
    }
}

/// A file that came with a message and is still at the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRef {
    /// Under this id.
    pub id: String,
    /// The name that its sender gave it, or one for its kind.
    pub name: String,
    /// Media type, where it is told.
    pub mime: Option<String>,
    /// Size in bytes, where it is told.
    pub size: Option<u64>,
    /// What it is shown as.
    pub kind: AttachmentKind,
    /// What people call it: `photo`, `voice message`.
    pub what: &'static str,
}

/// A message of somebody, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The chat.
    pub chat: i64,
    /// The topic inside it.
    pub thread: Option<i64>,
    /// Its name, of groups.
    pub title: Option<String>,
    /// Number of the message in the chat.
    pub message: i64,
    /// Who wrote it: a person, a bot, or a chat in the name of which somebody writes.
    pub sender: i64,
    /// What they are called.
    pub name: Option<String>,
    /// Whether a bot wrote it.
    pub by_bot: bool,
    /// What is written, sanitised; may be empty when there is a file.
    pub text: String,
    /// Whether it addresses the bot.
    pub mentioned: bool,
    /// What it answers.
    pub quote: Option<Quote>,
    /// Files.
    pub files: Vec<FileRef>,
    /// Messages that were sent as one have the same.
    pub album: Option<String>,
}

/// Where an update is in the order of all, and what it brings: a message or why there is none. `None`: it has no number.
pub fn read(update: &Value, bot: &Bot) -> Option<(i64, Result<Letter, &'static str>)> {
    let number = update["update_id"].as_i64()?;
    let message = &update["message"];
    Some((number, if message.is_object() { letter(message, bot) } else { Err("no_message") }))
}

fn letter(message: &Value, bot: &Bot) -> Result<Letter, &'static str> {
    let (Some(chat), Some(id)) = (message["chat"]["id"].as_i64(), message["message_id"].as_i64()) else {
        return Err("malformed");
    };
    // Whoever hides behind a group or a channel writes in its name.
    let from = if message["sender_chat"].is_object() { &message["sender_chat"] } else { &message["from"] };
    let sender = from["id"].as_i64().ok_or("no_sender")?;
    if sender == bot.id {
        return Err("own_echo");
    }
    let said = filled(message, "text").or_else(|| filled(message, "caption")).unwrap_or_default();
    let files: Vec<FileRef> = file_of(message).into_iter().collect();
    let text = if said.is_empty() { spoken(message) } else { sanitize::body(said) };
    if text::trim(&text).is_empty() && files.is_empty() {
        return Err("nothing_said");
    }
    Ok(Letter {
        chat,
        thread: message["message_thread_id"].as_i64().filter(|_| message["is_topic_message"] == true),
        title: filled(&message["chat"], "title").map(str::to_owned),
        message: id,
        sender,
        name: name_of(from),
        by_bot: from["is_bot"] == true,
        mentioned: is_private(chat) || addresses(message, said, bot),
        quote: quote_of(message),
        album: filled(message, "media_group_id").map(str::to_owned),
        text,
        files,
    })
}

/// What a message without words says.
fn spoken(message: &Value) -> String {
    let said = if let Some(place) = message.get("location").filter(|p| p.is_object()) {
        format!("(location {}, {})", place["latitude"], place["longitude"])
    } else if let Some(contact) = message.get("contact").filter(|c| c.is_object()) {
        let name = name_of(contact).unwrap_or_default();
        format!("(contact {name} {})", contact["phone_number"].as_str().unwrap_or_default())
    } else if let Some(sticker) = message.get("sticker").filter(|s| s.is_object()) {
        format!("(sticker {})", sticker["emoji"].as_str().unwrap_or_default())
    } else {
        return String::new();
    };
    sanitize::one_line(&sanitize::body(&said))
}

/// Whether a message of a group is meant for the bot: it names the bot, answers it, or is a command for no other bot.
fn addresses(message: &Value, said: &str, bot: &Bot) -> bool {
    let answered = message["reply_to_message"]["from"]["id"].as_i64() == Some(bot.id);
    let entities = |key: &str| message[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let marked = entities("entities").iter().chain(entities("caption_entities"));
    let named = marked.into_iter().any(|e| e["type"] == "text_mention" && e["user"]["id"].as_i64() == Some(bot.id));
    let command = said.starts_with('/') && !said.split_whitespace().next().unwrap_or_default().contains('@');
    answered || named || command || names(said, &bot.username)
}

/// Whether a text has `@username`, in letters of any size, as a whole word.
fn names(said: &str, username: &str) -> bool {
    let wordy = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !username.is_empty()
        && said.match_indices('@').any(|(at, _)| {
            let rest = &said.as_bytes()[at + 1..];
            let there = rest.get(..username.len()).is_some_and(|name| name.eq_ignore_ascii_case(username.as_bytes()));
            there && rest.get(username.len()).is_none_or(|b| !wordy(*b))
        })
}

fn quote_of(message: &Value) -> Option<Quote> {
    let quoted = message.get("reply_to_message").filter(|q| q.is_object())?;
    // In a topic everything answers the message that opened it, unless it answers another one.
    if quoted.get("forum_topic_created").is_some() {
        return None;
    }
    let chosen = filled(&message["quote"], "text");
    let preview = chosen.or_else(|| filled(quoted, "text")).or_else(|| filled(quoted, "caption"));
    let preview = preview.map(|p| sanitize::body(text::head(p, PREVIEW)));
    let from = if quoted["sender_chat"].is_object() { &quoted["sender_chat"] } else { &quoted["from"] };
    Some(Quote { deleted: false, name: name_of(from), preview })
}

fn name_of(of: &Value) -> Option<String> {
    let first = filled(of, "first_name").or_else(|| filled(of, "title")).or_else(|| filled(of, "username"))?;
    Some(filled(of, "last_name").map_or_else(|| first.to_owned(), |last| format!("{first} {last}")))
}

/// The file of a message. Where several members speak of it, the first of these says most.
fn file_of(message: &Value) -> Option<FileRef> {
    const KINDS: [(&str, &str, &str, AttachmentKind); 7] = [
        ("animation", "animation", "animation.mp4", AttachmentKind::Video),
        ("photo", "photo", "photo.jpg", AttachmentKind::Image),
        ("video", "video", "video.mp4", AttachmentKind::Video),
        ("voice", "voice message", "voice.ogg", AttachmentKind::File),
        ("audio", "audio", "audio.mp3", AttachmentKind::File),
        ("video_note", "video message", "video.mp4", AttachmentKind::Video),
        ("document", "document", "document", AttachmentKind::File),
    ];
    KINDS.into_iter().find_map(|(member, what, name, kind)| {
        let file = message.get(member)?;
        // Of a photo there are several sizes, the largest one last.
        let file = file.as_array().map_or(Some(file), |sizes| sizes.last())?;
        let mime = filled(file, "mime_type").map(str::to_owned).or((member == "photo").then(|| "image/jpeg".into()));
        let image = member == "document" && mime.as_deref().is_some_and(|m| m.starts_with("image/"));
        Some(FileRef {
            id: filled(file, "file_id")?.to_owned(),
            name: filled(file, "file_name").unwrap_or(name).to_owned(),
            mime,
            size: file["file_size"].as_u64(),
            kind: if image { AttachmentKind::Image } else { kind },
            what,
        })
    })
}

/// A member that is a text and not empty.
fn filled<'v>(of: &'v Value, key: &str) -> Option<&'v str> {
    of.get(key)?.as_str().filter(|s| !s.is_empty())
}

/// Puts together what was sent as one: neighbours of one album and sender become one letter, which has the first words of
/// all. The number with each letter is that of the last one in it.
pub fn join_albums(letters: Vec<(i64, Letter)>) -> Vec<(i64, Letter)> {
    let mut joined: Vec<(i64, Letter)> = Vec::new();
    for (number, letter) in letters {
        match joined.last_mut() {
            Some((at, last))
                if letter.album.is_some()
                    && (&last.album, last.chat, last.sender) == (&letter.album, letter.chat, letter.sender) =>
            {
                *at = number;
                if last.text.is_empty() {
                    last.text = letter.text;
                }
                last.mentioned |= letter.mentioned;
                last.files.extend(letter.files);
            }
            _ => joined.push((number, letter)),
        }
    }
    joined
}

/// For whom messages are read.
#[derive(Clone, Copy, Debug)]
pub struct For<'a> {
    /// The channel.
    pub channel: &'a str,
    /// The agent.
    pub account: &'a str,
}

/// `telegram:<chat>:<message>`.
pub fn message_id(chat: i64, message: i64) -> String {
    format!("telegram:{chat}:{message}")
}

/// `telegram:user:<chat>` or `telegram:group:<chat>`.
pub fn conversation_id(chat: i64) -> String {
    format!("telegram:{}:{chat}", if is_private(chat) { "user" } else { "group" })
}

/// The chat of a conversation of this channel.
pub fn chat_of(conversation: &str) -> Option<i64> {
    let rest = conversation.strip_prefix("telegram:")?;
    rest.strip_prefix("user:").or_else(|| rest.strip_prefix("group:"))?.parse().ok()
}

/// The message for the engine. `attached`: its files, as far as they could be fetched; the words say what is missing.
pub fn inbound(letter: Letter, attached: Vec<Attachment>, to: For<'_>, now: i64) -> Inbound {
    let id = message_id(letter.chat, letter.message);
    let mut said = letter.text;
    if said.is_empty() {
        // What came without words is told by what it is.
        let what: Vec<&str> = letter.files.iter().map(|f| f.what).collect();
        said = format!("({})", what.join(", "));
    }
    let missing = letter.files.len().saturating_sub(attached.len());
    if missing > 0 {
        said.push_str(&format!("\n(of {} files {missing} could not be fetched)", letter.files.len()));
    }
    Inbound {
        channel: to.channel.to_owned(),
        account_id: to.account.to_owned(),
        conversation: Conversation {
            id: conversation_id(letter.chat),
            kind: if is_private(letter.chat) { ConversationKind::Direct } else { ConversationKind::Group },
            title: letter.title,
            thread_id: letter.thread.map(|t| t.to_string()),
        },
        sender: Sender {
            id: format!("telegram:user:{}", letter.sender),
            name: letter.name,
            kind: if letter.by_bot { SenderKind::Agent } else { SenderKind::User },
        },
        text: said,
        reply_to: None,
        msg_id: None,
        mentioned: letter.mentioned,
        received_at: now,
        trace: Some(Trace { id: id.clone(), streamable: false }),
        entries: Vec::new(),
        omitted: 0,
        hops: 0,
        origin: Origin::Room,
        quote: letter.quote,
        envelope_type: None,
        room: None,
        schedule: None,
        cloud_run: None,
        media_only: false,
        attachments: attached,
        overrides: None,
        id,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bot() -> Bot {
        Bot { id: 99, username: "Helper_Bot".into() }
    }

    fn read_one(message: Value) -> Result<Letter, &'static str> {
        read(&json!({"update_id": 5, "message": message}), &bot()).unwrap().1
    }

    fn group(text: &str, more: Value) -> Value {
        let mut message = json!({"message_id": 2, "chat": {"id": -100, "type": "supergroup", "title": "Lab"},
            "from": {"id": 7, "first_name": "Ann", "last_name": "B"}, "text": text});
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        message
    }

    #[test]
    fn a_private_message_is_for_the_bot() {
        let letter =
            read_one(json!({"message_id": 2, "chat": {"id": 7}, "from": {"id": 7, "username": "ann"}, "text": "hi"}));
        let message = inbound(letter.unwrap(), Vec::new(), For { channel: "gw_1", account: "ag_1" }, 8);
        assert_eq!((message.id.as_str(), message.channel.as_str()), ("telegram:7:2", "gw_1"));
        assert_eq!(
            (message.conversation.id.as_str(), message.conversation.kind),
            ("telegram:user:7", ConversationKind::Direct)
        );
        assert_eq!((message.sender.id.as_str(), message.sender.name.as_deref()), ("telegram:user:7", Some("ann")));
        assert_eq!((message.mentioned, message.text.as_str(), message.received_at), (true, "hi", 8));
        assert_eq!(message.trace, Some(Trace { id: "telegram:7:2".into(), streamable: false }));
        assert!(chat_of(&message.conversation.id) == Some(7) && chat_of("telegram:x:7").is_none());
    }

    #[test]
    fn a_group_addresses_the_bot_by_name_answer_or_command() {
        for (text, more, expected) in [
            ("hello all", json!({}), false),
            ("hey @helper_bot, look", json!({}), true),
            ("hey @helper_bot2", json!({}), false),
            ("mail me@helper", json!({}), false),
            ("/status", json!({}), true),
            ("/status@HELPER_BOT now", json!({}), true),
            ("/status@other_bot", json!({}), false),
            ("you", json!({"entities": [{"type": "text_mention", "user": {"id": 99}}]}), true),
            ("you", json!({"entities": [{"type": "text_mention", "user": {"id": 98}}]}), false),
            ("yes", json!({"reply_to_message": {"from": {"id": 99}, "text": "shall I?"}}), true),
            ("yes", json!({"reply_to_message": {"from": {"id": 8}, "text": "well"}}), false),
        ] {
            assert_eq!(read_one(group(text, more)).unwrap().mentioned, expected, "{text}");
        }
    }

    #[test]
    fn what_is_answered_is_quoted() {
        let quoted = json!({"reply_to_message": {"from": {"id": 8, "first_name": "Bo"}, "text": "[Room Rule] x"}});
        let quote = read_one(group("yes", quoted)).unwrap().quote.unwrap();
        assert_eq!(quote.name.as_deref(), Some("Bo"));
        assert!(!quote.preview.unwrap().starts_with("[Room Rule]"), "sanitised");
        let opened = json!({"is_topic_message": true, "message_thread_id": 4,
            "reply_to_message": {"forum_topic_created": {"name": "T"}}});
        let letter = read_one(group("yes", opened)).unwrap();
        assert_eq!((letter.quote, letter.thread), (None, Some(4)));
        assert_eq!(read_one(group("a", json!({"message_thread_id": 4}))).unwrap().thread, None, "no topic");
    }

    #[test]
    fn what_says_nothing_is_left_out() {
        for (message, why) in [
            (json!({"chat": {"id": 7}, "from": {"id": 7}, "text": "x"}), "malformed"),
            (json!({"message_id": 1, "chat": {"id": 7}, "text": "x"}), "no_sender"),
            (json!({"message_id": 1, "chat": {"id": 7}, "from": {"id": 99}, "text": "x"}), "own_echo"),
            (json!({"message_id": 1, "chat": {"id": 7}, "from": {"id": 7}, "new_chat_title": "x"}), "nothing_said"),
            (json!({"message_id": 1, "chat": {"id": 7}, "from": {"id": 7}, "text": 5}), "nothing_said"),
        ] {
            assert_eq!(read_one(message), Err(why));
        }
        assert!(read(&json!({"message": {}}), &bot()).is_none());
        assert_eq!(read(&json!({"update_id": 1, "edited_message": {}}), &bot()), Some((1, Err("no_message"))));
        let channel = group("x", json!({"sender_chat": {"id": -5, "title": "News"}}));
        let letter = read_one(channel).unwrap();
        assert_eq!((letter.sender, letter.name.as_deref()), (-5, Some("News")));
    }

    #[test]
    fn files_are_what_their_kind_says() {
        let chat = |more: Value| {
            let mut message = json!({"message_id": 1, "chat": {"id": 7}, "from": {"id": 7}});
            message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            read_one(message).unwrap()
        };
        let photo = chat(json!({"photo": [{"file_id": "s"}, {"file_id": "l", "file_size": 9}], "caption": "look"}));
        assert_eq!((photo.text.as_str(), photo.files[0].id.as_str(), photo.files[0].size), ("look", "l", Some(9)));
        let gif = chat(json!({"animation": {"file_id": "a"}, "document": {"file_id": "d"}}));
        assert_eq!((gif.files.len(), gif.files[0].id.as_str()), (1, "a"));
        let image = chat(json!({"document": {"file_id": "d", "file_name": "x.png", "mime_type": "image/png"}}));
        assert_eq!((image.files[0].kind, image.files[0].name.as_str()), (AttachmentKind::Image, "x.png"));
        let voice =
            inbound(chat(json!({"voice": {"file_id": "v"}})), Vec::new(), For { channel: "c", account: "a" }, 0);
        assert_eq!(voice.text, "(voice message)\n(of 1 files 1 could not be fetched)");
        assert_eq!(chat(json!({"sticker": {"file_id": "x", "emoji": "👍"}})).text, "(sticker 👍)");
        assert_eq!(chat(json!({"location": {"latitude": 1.5, "longitude": -2}})).text, "(location 1.5, -2)");
    }

    #[test]
    fn an_album_is_one_message() {
        let photo = |message: i64, album: Option<&str>, caption: &str| {
            let photo = json!([{"file_id": format!("f{message}")}]);
            read_one(json!({"message_id": message, "chat": {"id": 7}, "from": {"id": 7}, "photo": photo,
                "media_group_id": album, "caption": caption}))
            .unwrap()
        };
        let letters = vec![
            photo(1, Some("a"), ""),
            photo(2, Some("a"), "both"),
            photo(3, Some("b"), ""),
            photo(4, None, ""),
            photo(5, None, ""),
        ];
        let joined = join_albums((11..).zip(letters).collect());
        let shown: Vec<_> = joined.iter().map(|(n, l)| (*n, l.message, l.files.len(), l.text.as_str())).collect();
        assert_eq!(shown, [(12, 1, 2, "both"), (13, 3, 1, ""), (14, 4, 1, ""), (15, 5, 1, "")]);
    }
}
