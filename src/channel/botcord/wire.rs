//! What a hub answers. Read leniently: what has a wrong type counts as absent, so that one strange field does not make
//! a whole answer useless. All texts are the far side's and not sanitised.

use serde_json::Value;

use super::salvage;
use crate::json;

/// Values of an answer of the inbox that is read in one go. Senders choose how many a message has, and one who wants to
/// harm would choose as many as the answer may have bytes.
const PAGE_VALUES: usize = 50_000;
/// Values of a message; what of a longer one has more is left out.
const MESSAGE_VALUES: usize = 20_000;

/// One answer of the inbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InboxPage {
    /// Its messages as they came, oldest first; a malformed one is there as it is.
    pub messages: Vec<Value>,
    /// More were waiting than fit.
    pub has_more: bool,
}

/// The hub has taken a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendAnswer {
    /// Its id of one receiver's copy; of a repeat, an id without meaning.
    pub hub_msg_id: Option<String>,
    /// The topic that it went into.
    pub topic_id: Option<String>,
}

/// What has become of a message that was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SentState {
    /// `queued`, `processing`, `delivered`, `acked`, `done` or `failed`.
    pub state: String,
    /// Why it failed.
    pub last_error: Option<String>,
}

/// A file that the hub keeps for an hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upload {
    /// Its id, which is also the secret that gives it away.
    pub file_id: String,
    /// Absolute URL.
    pub url: String,
    /// The name that the hub has given it.
    pub original_filename: String,
    /// Its type.
    pub content_type: Option<String>,
    /// Its size in bytes.
    pub size_bytes: Option<u64>,
}

/// What is known about a file that was fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Download {
    /// Bytes written.
    pub size: u64,
    /// Its type, as the hub says.
    pub content_type: Option<String>,
}

/// A room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Its id.
    pub room_id: String,
    /// Its name.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// What holds in it.
    pub rule: Option<String>,
    /// `public` or `private`.
    pub visibility: Option<String>,
    /// `open` or `invite_only`.
    pub join_policy: Option<String>,
    /// How many are in it.
    pub member_count: Option<u64>,
    /// Who is in it.
    pub members: Vec<Member>,
}

/// A member of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// `ag_…`, or `hu_…` for a person; `unknown` when the hub does not say.
    pub agent_id: String,
    /// Name; people have none.
    pub display_name: Option<String>,
    /// `owner`, `admin` or `member`.
    pub role: Option<String>,
}

/// Messages of a room, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomMessages {
    /// The messages.
    pub messages: Vec<RoomMessage>,
    /// There are older (or newer) ones.
    pub has_more: bool,
}

/// A message of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomMessage {
    /// The hub's id, which is also a cursor.
    pub hub_msg_id: String,
    /// Who said it.
    pub from: Option<String>,
    /// That one's name.
    pub from_name: Option<String>,
    /// What.
    pub text: String,
    /// Type of the envelope.
    pub kind: Option<String>,
    /// When, ISO 8601.
    pub ts: Option<String>,
    /// Id of its topic.
    pub topic_id: Option<String>,
    /// Title of its topic.
    pub topic_title: Option<String>,
}

/// A topic of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topic {
    /// Its id.
    pub topic_id: String,
    /// Its title.
    pub title: Option<String>,
    /// `open`, `completed`, `failed`, …
    pub status: Option<String>,
    /// What it is to reach.
    pub goal: Option<String>,
    /// Messages in it.
    pub message_count: Option<u64>,
}

/// When an agent listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttentionPolicy {
    /// `always`, `mention_only`, `keyword`, `allowed_senders`, `muted`, or something newer.
    pub mode: String,
    /// Words that wake it.
    pub keywords: Vec<String>,
    /// Senders that wake it.
    pub allowed_sender_ids: Vec<String>,
    /// Until when it is muted (Unix milliseconds).
    pub muted_until: Option<i64>,
}

impl InboxPage {
    /// Reads an answer. Of a message that is no JSON for us, though it is for the hub, what can be read is there; of
    /// one that cannot be read at all, `null`. `None` when the answer has no list of messages.
    pub fn read(answer: &[u8]) -> Option<Self> {
        if let Ok(mut answer) = json::parse_at_most(answer, PAGE_VALUES) {
            let has_more = answer.get("has_more") == Some(&Value::Bool(true));
            return match answer.get_mut("messages")?.take() {
                Value::Array(messages) => Some(Self { messages, has_more }),
                _ => None,
            };
        }
        let readable = |element: &[u8]| match json::parse_at_most(element, MESSAGE_VALUES) {
            Ok(message) => message,
            Err(_) => salvage::object(element, MESSAGE_VALUES).map_or(Value::Null, Value::Object),
        };
        let messages = salvage::elements(salvage::member(answer, "messages")?)?.into_iter().map(readable).collect();
        Some(Self { messages, has_more: salvage::member(answer, "has_more") == Some(b"true") })
    }
}

impl SendAnswer {
    /// What the answer says.
    pub fn read(answer: &Value) -> Self {
        Self { hub_msg_id: text(answer, "hub_msg_id"), topic_id: text(answer, "topic_id") }
    }
}

impl SentState {
    /// `None` when the answer names no state.
    pub fn read(answer: &Value) -> Option<Self> {
        Some(Self { state: text(answer, "state")?, last_error: text(answer, "last_error") })
    }
}

impl Upload {
    /// `None` when the answer names no file. `hub`: what a relative URL is relative to.
    pub fn read(answer: &Value, hub: &str) -> Option<Self> {
        let url = text(answer, "url")?;
        Some(Self {
            file_id: text(answer, "file_id")?,
            url: if url.starts_with("http") { url } else { format!("{hub}/{}", url.trim_start_matches('/')) },
            original_filename: text(answer, "original_filename")?,
            content_type: text(answer, "content_type"),
            size_bytes: answer.get("size_bytes").and_then(Value::as_u64),
        })
    }
}

impl Room {
    /// `asked`: the id where the answer has none.
    pub fn read(answer: &Value, asked: &str) -> Self {
        Self {
            room_id: text(answer, "room_id").unwrap_or_else(|| asked.to_owned()),
            name: text(answer, "name"),
            description: text(answer, "description"),
            rule: text(answer, "rule"),
            visibility: text(answer, "visibility"),
            join_policy: text(answer, "join_policy"),
            member_count: answer.get("member_count").and_then(Value::as_u64),
            members: objects(answer, "members").map(Member::read).collect(),
        }
    }
}

impl Member {
    fn read(entry: &Value) -> Self {
        Self {
            agent_id: text(entry, "agent_id").unwrap_or_else(|| "unknown".into()),
            display_name: text(entry, "display_name"),
            role: text(entry, "role"),
        }
    }
}

impl RoomMessages {
    /// `None` when the answer has no list of messages.
    pub fn read(answer: &Value) -> Option<Self> {
        answer.get("messages")?.as_array()?;
        let messages = objects(answer, "messages").map(RoomMessage::read).collect();
        Some(Self { messages, has_more: answer.get("has_more") == Some(&Value::Bool(true)) })
    }
}

impl RoomMessage {
    fn read(entry: &Value) -> Self {
        Self {
            hub_msg_id: text(entry, "hub_msg_id").unwrap_or_default(),
            from: text(entry, "from"),
            from_name: text(entry, "from_name"),
            text: text(entry, "text").unwrap_or_default(),
            kind: text(entry, "type"),
            ts: text(entry, "ts"),
            topic_id: text(entry, "topic_id"),
            topic_title: text(entry, "topic_title"),
        }
    }
}

impl Topic {
    /// The topics of an answer; `None` when it has no list of them.
    pub fn read_all(answer: &Value) -> Option<Vec<Self>> {
        answer.get("topics")?.as_array()?;
        Some(objects(answer, "topics").filter_map(Self::read).collect())
    }

    fn read(entry: &Value) -> Option<Self> {
        Some(Self {
            topic_id: text(entry, "topic_id")?,
            title: text(entry, "title"),
            status: text(entry, "status"),
            goal: text(entry, "goal"),
            message_count: entry.get("message_count").and_then(Value::as_u64),
        })
    }
}

impl AttentionPolicy {
    /// `None` when the answer names no mode.
    pub fn read(answer: &Value) -> Option<Self> {
        Some(Self {
            mode: text(answer, "mode")?,
            keywords: texts(answer, "keywords"),
            allowed_sender_ids: texts(answer, "allowedSenderIds"),
            muted_until: answer.get("muted_until").and_then(Value::as_i64),
        })
    }
}

/// A member that is a text.
fn text(of: &Value, key: &str) -> Option<String> {
    Some(of.get(key)?.as_str()?.to_owned())
}

/// The texts of a list.
fn texts(of: &Value, key: &str) -> Vec<String> {
    let list = of.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|t| t.as_str().map(str::to_owned)).collect()
}

/// The objects of a list.
fn objects<'v>(of: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    let list = of.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter(|o| o.is_object())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn strange_fields_do_not_spoil_an_answer() {
        let page = |answer: Value| InboxPage::read(answer.to_string().as_bytes());
        let read = page(json!({"messages": [{"hub_msg_id": "h_1"}, 5], "count": "x", "has_more": true})).unwrap();
        assert_eq!((read.messages.len(), read.has_more), (2, true));
        assert_eq!(page(json!({"messages": {}})), None);
        assert_eq!(page(json!([])), None);
        assert_eq!(InboxPage::read(b"<html>"), None);
        let room = Room::read(&json!({"name": 5, "members": [7, {"display_name": "Ada"}], "member_count": -1}), "rm_1");
        assert_eq!((room.room_id.as_str(), room.name, room.member_count), ("rm_1", None, None));
        assert_eq!(room.members.len(), 1);
        assert_eq!(room.members[0].agent_id, "unknown");
        let policy =
            AttentionPolicy::read(&json!({"mode": "keyword", "keywords": ["a", 1], "muted_until": null})).unwrap();
        assert_eq!((policy.keywords, policy.muted_until), (vec!["a".to_owned()], None));
        assert!(AttentionPolicy::read(&json!([])).is_none());
        assert!(Topic::read_all(&json!({"topics": [{"title": "x"}, {"topic_id": "tp_1"}]})).unwrap().len() == 1);
    }

    #[test]
    fn a_message_that_is_no_json_for_us_does_not_spoil_the_others() {
        let deep = format!("{}{}", "{\"a\":".repeat(300), "1".to_owned() + &"}".repeat(300));
        let answer = format!(
            r#"{{"messages": [{{"hub_msg_id": "h_1"}}, {{"hub_msg_id": "h_2", "envelope": {deep}}}, {{"hub_msg_id": "h_3",
            "text": "\udfff"}}, {{"hub_msg_id": "h_4", "text": "x"}}], "count": 4, "has_more": true}}"#
        );
        let page = InboxPage::read(answer.as_bytes()).unwrap();
        let expected = json!([
            {"hub_msg_id": "h_1"}, {"hub_msg_id": "h_2"}, {"hub_msg_id": "h_3"}, {"hub_msg_id": "h_4", "text": "x"},
        ]);
        assert_eq!((Value::from(page.messages), page.has_more), (expected, true));
    }

    #[test]
    fn a_message_of_too_many_values_does_not_cost_the_others_or_the_memory() {
        let zeros = "0,".repeat(PAGE_VALUES);
        let answer = format!(
            r#"{{"messages": [{{"hub_msg_id": "h_1", "envelope": {{"payload": {{"x": [{zeros}0]}}}}}}, {{"hub_msg_id": "h_2",
            "text": "{}"}}, {{"hub_msg_id": "h_3", "envelope": {{"payload": [{zeros}0]}}}}], "has_more": false}}"#,
            "[,{".repeat(30_000)
        );
        let page = InboxPage::read(answer.as_bytes()).unwrap();
        let ids: Vec<&Value> = page.messages.iter().map(|m| &m["hub_msg_id"]).collect();
        assert_eq!(ids, ["h_1", "h_2", "h_3"]);
        assert!(page.messages[0].get("envelope").is_none() && page.messages[1]["text"].is_string());
    }

    #[test]
    fn a_relative_url_is_made_absolute() {
        let answer = json!({"file_id": "f_1", "url": "/hub/files/f_1", "original_filename": "a.png", "size_bytes": 5});
        assert_eq!(Upload::read(&answer, "https://h/base").unwrap().url, "https://h/base/hub/files/f_1");
        assert_eq!(Upload::read(&json!({"file_id": "f_1"}), "https://h"), None);
    }
}
