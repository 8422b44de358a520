//! Checks what other agents have signed, where that is wanted (the hub's protocol, §4.6): the hub has checked it before,
//! so that this tells of a hub that is not to be trusted. Such a message is marked, and never dropped.
//!
//! What the hub writes itself carries no signature of an agent, and people have no keys: both are left alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::envelope;
use super::error::ApiError;
use super::far::Far;
use crate::message::Inbound;

/// Keys that are remembered; when there are more, all are asked for anew.
const KEYS: usize = 1_000;
/// Longest id of an agent or key.
const ID: usize = 64;
/// What is shown behind the name of the sender.
const MARK: &str = " (signature bad)";
/// What is said of the message.
const NOTE: &str = "signature bad: it may be from somebody else than it says";

/// The keys of other agents, as the hub has them.
pub struct Signatures {
    far: Arc<dyn Far>,
    /// By agent and key; nothing where the agent has no such key.
    keys: Mutex<HashMap<(String, String), Option<String>>>,
}

impl Signatures {
    /// No key is known yet.
    pub fn new(far: Arc<dyn Far>) -> Self {
        Self { far, keys: Mutex::default() }
    }

    /// Whether an inbox message is signed, and not by its sender. Waits for the hub where the key is not known yet; a
    /// message whose key cannot be had now is not bad.
    pub fn is_bad(&self, raw: &Value) -> bool {
        let Some((agent, key_id, envelope)) = signed(raw) else { return false };
        let key = match self.key(agent, key_id) {
            Ok(key) => key,
            Err(e) => {
                let (own, why) = (self.far.agent(), e.to_string());
                log::warn!("botcord.key_unknown agent={own} of={agent:?} key={key_id:?} error={why:?}");
                return false;
            }
        };
        let is_good = key.is_some_and(|key| {
            let checked = envelope::check(envelope, &key);
            checked.payload_hash && checked.signature
        });
        if !is_good {
            let id = raw["hub_msg_id"].as_str().unwrap_or("-");
            log::warn!("botcord.signature_bad agent={} id={id:?} from={agent:?} key={key_id:?}", self.far.agent());
        }
        !is_good
    }

    /// An agent's key, if it has it.
    fn key(&self, agent: &str, key_id: &str) -> Result<Option<String>, ApiError> {
        let name = (agent.to_owned(), key_id.to_owned());
        let known = self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        if let Some(key) = known {
            return Ok(key);
        }
        let key = match self.far.public_key(agent, key_id) {
            Ok(key) => Some(key),
            Err(e) if e.is("key_not_found") || e.is("agent_not_found") => None,
            Err(e) => return Err(e),
        };
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS {
            keys.clear();
        }
        keys.insert(name, key.clone());
        Ok(key)
    }
}

/// Sender, key and envelope of a message that an agent has signed.
fn signed(raw: &Value) -> Option<(&str, &str, &Value)> {
    let envelope = raw.get("envelope")?;
    let from = envelope.get("from")?.as_str()?;
    let signature = envelope.get("sig")?;
    let key_id = signature.get("key_id")?.as_str()?;
    let is_signed = signature.get("value").and_then(Value::as_str).is_some_and(|value| !value.is_empty());
    let fits = from.starts_with("ag_") && key_id.starts_with("k_") && from.len() <= ID && key_id.len() <= ID;
    (is_signed && fits).then_some((from, key_id, envelope))
}

/// Marks what of a message is badly signed, by the hub's ids.
pub fn mark(message: &mut Inbound, bad: &[String]) {
    if bad.is_empty() {
        return;
    }
    for entry in message.entries.iter_mut().filter(|entry| bad.contains(&entry.id)) {
        entry.sender_label.push_str(MARK);
    }
    let note = &mut message.room.get_or_insert_default().delivery_note;
    *note = Some(note.take().map_or_else(|| NOTE.to_owned(), |said| format!("{said}; {NOTE}")));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::envelope::{Draft, Signer, seal};
    use super::super::fake::{FakeHub, refused};
    use super::*;
    use crate::crypto::sign::SigningKey;

    fn raw(change: impl Fn(&mut Value)) -> Value {
        let key = SigningKey::from_seed(&[7; 32]).unwrap();
        let payload = json!({"text": "hello"});
        let draft = Draft {
            msg_id: "00000000-0000-4000-8000-000000000001",
            to: "rm_1",
            kind: "message",
            reply_to: None,
            topic: None,
            goal: None,
            payload: &payload,
            mentions: &[],
            trace_id: None,
        };
        let signer = Signer { agent: "ag_x", key_id: "k_1", key: &key };
        let mut raw = json!({"hub_msg_id": "h_1", "envelope": seal(&draft, signer, 1).unwrap()});
        change(&mut raw["envelope"]);
        raw
    }

    #[test]
    fn what_was_changed_on_the_way_is_noticed_and_each_key_is_asked_for_once() {
        let hub = Arc::new(FakeHub::default());
        *hub.public_key.lock().unwrap() = SigningKey::from_seed(&[7; 32]).unwrap().public_text();
        let signatures = Signatures::new(Arc::clone(&hub) as Arc<dyn Far>);
        assert!(!signatures.is_bad(&raw(|_| {})));
        assert!(signatures.is_bad(&raw(|e| e["to"] = "rm_2".into())));
        assert!(signatures.is_bad(&raw(|e| e["payload"]["text"] = "hallo".into())));
        assert!(signatures.is_bad(&raw(|e| e["sig"]["value"] = "AAAA".into())));
        assert_eq!(hub.calls(), ["key ag_x k_1"]);
    }

    #[test]
    fn what_no_agent_has_signed_is_left_alone() {
        let hub = Arc::new(FakeHub::default());
        let signatures = Signatures::new(Arc::clone(&hub) as Arc<dyn Far>);
        for change in [
            |e: &mut Value| e["from"] = "hu_x".into(),
            |e: &mut Value| e["sig"]["value"] = "".into(),
            |e: &mut Value| e["sig"]["key_id"] = "dashboard".into(),
            |e: &mut Value| e["sig"] = Value::Null,
            |e: &mut Value| e["from"] = format!("ag_{}", "x".repeat(100)).into(),
        ] {
            assert!(!signatures.is_bad(&raw(change)));
        }
        assert!(!signatures.is_bad(&json!([1])) && hub.calls().is_empty());
    }

    #[test]
    fn a_key_that_is_not_there_is_no_key_and_one_that_cannot_be_had_is_asked_for_again() {
        let down = Some(ApiError::Network { sent: false, why: "down".into() });
        let hub = Arc::new(FakeHub::answering([down, Some(refused(404, "key_not_found"))]));
        let signatures = Signatures::new(Arc::clone(&hub) as Arc<dyn Far>);
        assert!(!signatures.is_bad(&raw(|_| {})));
        assert!(signatures.is_bad(&raw(|_| {})));
        assert!(signatures.is_bad(&raw(|_| {})));
        assert_eq!(hub.calls(), ["key ag_x k_1"; 2]);
    }
}
