//! Signed messages: what is put into them, what is signed of them, and whether the signature is good (the hub's
//! protocol, §§4 and 5).

use serde_json::{Map, Value, json};

use crate::crypto::sign::{self, SigningKey};
use crate::crypto::{base64, jcs};

/// The version that is spoken.
const VERSION: &str = "a2a/0.1";
/// How long the hub keeps a copy that nobody fetches, in seconds.
pub const TTL_SECONDS: u64 = 3_600;
/// Longest title of a topic, in characters.
const TOPIC_LIMIT: usize = 256;
/// Longest goal, in characters.
const GOAL_LIMIT: usize = 1_024;

/// A message to be signed and sent. The same draft gives the same message at every attempt, but for its time.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// UUID v4 in small letters; the same at every attempt.
    pub msg_id: &'a str,
    /// A room, or an agent.
    pub to: &'a str,
    /// `message`, `error`, `result` or `contact_request`.
    pub kind: &'a str,
    /// The message that it quotes or answers.
    pub reply_to: Option<&'a str>,
    /// Title of its topic; what is more than 256 characters is cut off.
    pub topic: Option<&'a str>,
    /// What the topic is to reach; what is more than 1 024 characters is cut off.
    pub goal: Option<&'a str>,
    /// What it says; an object with ASCII keys.
    pub payload: &'a Value,
    /// Whom it mentions.
    pub mentions: &'a [String],
    /// Handle on the progress of the message that it answers.
    pub trace_id: Option<&'a str>,
}

impl Draft<'_> {
    /// The title of its topic as it is sent.
    pub fn topic(&self) -> Option<&str> {
        self.topic.map(|t| cut(t, TOPIC_LIMIT))
    }
}

/// Who signs.
#[derive(Clone, Copy, Debug)]
pub struct Signer<'a> {
    /// The agent.
    pub agent: &'a str,
    /// Id of its key.
    pub key_id: &'a str,
    /// Its key.
    pub key: &'a SigningKey,
}

/// The body of a send. `ts`: Unix seconds. `None` when what is signed holds control characters, which would make it
/// mean something else.
pub fn seal(draft: &Draft<'_>, signer: Signer<'_>, ts: i64) -> Option<Value> {
    let mut envelope = json!({
        "v": VERSION,
        "msg_id": draft.msg_id,
        "ts": ts,
        "from": signer.agent,
        "to": draft.to,
        "type": draft.kind,
        "reply_to": draft.reply_to,
        "ttl_sec": TTL_SECONDS,
        "topic": draft.topic(),
        "goal": draft.goal.map(|g| cut(g, GOAL_LIMIT)),
        "payload": draft.payload,
        "payload_hash": jcs::payload_hash(draft.payload),
    });
    sign(&mut envelope, signer.key_id, signer.key)?;
    let members = envelope.as_object_mut()?;
    if !draft.mentions.is_empty() {
        members.insert("mentions".into(), draft.mentions.into());
    }
    if let Some(trace) = draft.trace_id {
        members.insert("trace_id".into(), trace.into());
    }
    Some(envelope)
}

/// Adds `sig` to an envelope that is complete otherwise.
pub fn sign(envelope: &mut Value, key_id: &str, key: &SigningKey) -> Option<()> {
    let input = signing_input(envelope)?;
    let members: &mut Map<String, Value> = envelope.as_object_mut()?;
    let signature = json!({"alg": "ed25519", "key_id": key_id, "value": key.sign_text(input.as_bytes())});
    members.insert("sig".into(), signature);
    Some(())
}

/// The text that is signed. `None` when the envelope is not of the right form, or a field holds control characters.
pub fn signing_input(envelope: &Value) -> Option<String> {
    let version = envelope.get("v")?.as_str()?;
    let mut fields = vec!["v", "msg_id", "ts", "from", "to", "type", "reply_to", "ttl_sec", "payload_hash"];
    if version != VERSION {
        fields.extend(["topic", "goal"]);
    }
    let mut input = String::new();
    for (n, name) in fields.into_iter().enumerate() {
        if n > 0 {
            input.push('\n');
        }
        match envelope.get(name) {
            Some(Value::String(text)) if text.contains(char::is_control) => return None,
            Some(Value::String(text)) => input.push_str(text),
            Some(Value::Number(number)) => input.push_str(&number.to_string()),
            None | Some(Value::Null) if matches!(name, "reply_to" | "topic" | "goal") => {}
            _ => return None,
        }
    }
    Some(input)
}

/// What is right about an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The payload is the one that was hashed.
    pub payload_hash: bool,
    /// The signature is that of the key, over what the envelope says.
    pub signature: bool,
}

/// Checks an envelope of somebody else against a public key in base64.
pub fn check(envelope: &Value, public_key: &str) -> Checked {
    let payload_hash = envelope.get("payload").is_some_and(|payload| {
        envelope.get("payload_hash").and_then(Value::as_str) == Some(jcs::payload_hash(payload).as_str())
    });
    let verified = || {
        let value = envelope.get("sig")?.get("value")?.as_str()?;
        let input = signing_input(envelope)?;
        Some(sign::verify(&base64::decode(public_key)?, input.as_bytes(), &base64::decode(value)?))
    };
    Checked { payload_hash, signature: verified().unwrap_or(false) }
}

/// The first characters of a text.
fn cut(text: &str, limit: usize) -> &str {
    text.char_indices().nth(limit).map_or(text, |(at, _)| &text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal_with<'a>(change: impl Fn(&mut Draft<'a>)) -> Option<Value> {
        let key = SigningKey::from_seed(&(0..32).collect::<Vec<u8>>()).unwrap();
        let payload: &'static Value = Box::leak(Box::new(json!({"text": "hello"})));
        let mut draft = Draft {
            msg_id: "00000000-0000-4000-8000-000000000001",
            to: "rm_0123456789ab",
            kind: "message",
            reply_to: None,
            topic: None,
            goal: None,
            payload,
            mentions: &[],
            trace_id: None,
        };
        change(&mut draft);
        let signer = Signer { agent: "ag_aaaaaaaaaaaa", key_id: "k_0123456789ab", key: &key };
        let envelope = seal(&draft, signer, 1_760_000_000)?;
        assert_eq!(check(&envelope, &key.public_text()), Checked { payload_hash: true, signature: true });
        Some(envelope)
    }

    #[test]
    fn the_known_answer() {
        let envelope = seal_with(|_| {}).unwrap();
        let known = "lItOPc1YUcCxZAn5BWJvhfjuQdBGKkGGG8TjYY5d59Rd8UqoIjDBkDW5/9cQ0ZvO5ZUW76kO/1iWYjaDl2QTDQ==";
        assert_eq!(envelope["sig"]["value"], known);
        assert!(envelope.get("mentions").is_none() && envelope.get("trace_id").is_none());
    }

    #[test]
    fn what_could_be_read_two_ways_is_not_signed() {
        assert!(seal_with(|d| d.reply_to = Some("a\nb")).is_none());
        assert!(seal_with(|d| d.to = "rm_1\u{85}").is_none());
        assert!(seal_with(|d| d.topic = Some("a\nb")).is_some(), "topics are not signed");
    }

    #[test]
    fn long_titles_are_cut_where_a_character_ends() {
        let long = "é".repeat(2_000);
        let envelope = seal_with(|d| (d.topic, d.goal) = (Some(long.as_str()), Some(long.as_str()))).unwrap();
        let length = |key: &str| envelope[key].as_str().unwrap().chars().count();
        assert_eq!((length("topic"), length("goal")), (256, 1_024));
    }
}
