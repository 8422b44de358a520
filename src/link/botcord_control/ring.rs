//! Whose signatures count: the hub's public control keys.

use serde_json::{Map, Number, Value};

use super::frame::Frame;
use crate::crypto::{self, base64, jcs, sign};

/// The variable with keys, separated by commas or line breaks.
pub const KEYS_VARIABLE: &str = "BOTCORD_HUB_CONTROL_PUBLIC_KEYS";
/// The variable with one key.
pub const KEY_VARIABLE: &str = "BOTCORD_HUB_CONTROL_PUBLIC_KEY";

/// Public keys in the order in which they were given, each once. A frame is good when any of them signed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRing {
    keys: Vec<String>,
}

impl KeyRing {
    /// The first of these that names a key: [`KEYS_VARIABLE`], [`KEY_VARIABLE`], the configuration.
    pub fn of(keys: Option<&str>, key: Option<&str>, configured: &[String]) -> Self {
        let listed = |text: &str| Self::new(text.split([',', '\n', '\r']));
        let ring = keys.map(listed).unwrap_or_default();
        if !ring.is_empty() {
            return ring;
        }
        let ring = Self::new(key);
        if ring.is_empty() { Self::new(configured.iter().map(String::as_str)) } else { ring }
    }

    /// The ring of this process with this configuration.
    pub fn in_effect(config: &Map<String, Value>) -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let list = config.get("hubControlPublicKeys").and_then(Value::as_array);
        let listed: Vec<String> = list.into_iter().flatten().filter_map(Value::as_str).map(ToOwned::to_owned).collect();
        Self::of(variable(KEYS_VARIABLE).as_deref(), variable(KEY_VARIABLE).as_deref(), &listed)
    }

    /// A ring of these; white space around them does not count, nor do blank ones.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        let mut ring = Self::default();
        for key in keys.into_iter().map(str::trim).filter(|key| !key.is_empty()) {
            if !ring.keys.iter().any(|known| known == key) {
                ring.keys.push(key.to_owned());
            }
        }
        ring
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys, as they were given.
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// What the hub is told of each key: the hash of its text.
    pub fn fingerprints(&self) -> Vec<String> {
        self.keys.iter().map(|key| fingerprint(key)).collect()
    }

    /// Whether one of the keys signed the frame. A key or signature that is none does not verify.
    pub fn verifies(&self, frame: &Frame) -> bool {
        let Some(signature) = frame.sig.as_deref().and_then(base64::decode) else { return false };
        let text = signing_input(frame);
        self.keys
            .iter()
            .filter_map(|key| base64::decode(key))
            .any(|key| sign::verify(&key, text.as_bytes(), &signature))
    }
}

/// `sha256:` and the hash of the text of a key.
pub fn fingerprint(key: &str) -> String {
    format!("sha256:{}", crypto::sha256_hex(key.as_bytes()))
}

/// What is signed: the canonical JSON of id, parameters, time and type, and nothing else of the frame.
pub fn signing_input(frame: &Frame) -> String {
    let mut object = serde_json::Map::new();
    object.insert("id".into(), frame.id.clone().into());
    object.insert("params".into(), frame.params.clone());
    object.insert("ts".into(), Value::Number(frame.ts.clone().unwrap_or_else(|| Number::from(0))));
    object.insert("type".into(), frame.kind.clone().into());
    jcs::canonical(&Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_source_that_names_a_key_is_the_ring() {
        let configured = ["c".to_owned(), " c ".to_owned(), String::new()];
        assert_eq!(KeyRing::of(Some(" a, b\n,a"), Some("k"), &configured).keys(), ["a", "b"]);
        assert_eq!(KeyRing::of(Some(" ,\n"), Some(" k "), &configured).keys(), ["k"]);
        assert_eq!(KeyRing::of(None, Some(""), &configured).keys(), ["c"]);
        assert!(KeyRing::of(None, None, &[]).is_empty());
    }
}
