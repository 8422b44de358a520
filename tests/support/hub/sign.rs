//! Keys, hashes and signatures, written again on the hub's side so that two mistakes do not cancel.

use ring::digest;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde_json::Value;

use super::jcs;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, n| bits << 8 | u32::from(chunk.get(n).copied().unwrap_or(0)));
        for n in 0..4 {
            let sextet = (bits >> (18 - 6 * n)) as usize & 63;
            out.push(if n <= chunk.len() { ALPHABET[sextet] as char } else { '=' });
        }
    }
    out
}

/// The bytes of standard base64 with padding; nothing for any other text.
pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|c| **c == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut out = Vec::new();
    for quad in text[..text.len() - padding].chunks(4) {
        let mut bits = 0u32;
        for c in quad {
            bits = bits << 6 | u32::try_from(ALPHABET.iter().position(|a| a == c)?).ok()?;
        }
        bits <<= 6 * (4 - quad.len());
        out.extend(&bits.to_be_bytes()[1..quad.len()]);
    }
    Some(out)
}

/// SHA-256 in small hex.
pub fn sha256(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// An agent's key.
#[derive(Clone)]
pub struct Seed(pub [u8; 32]);

impl Seed {
    /// The key that belongs to these words.
    pub fn named(words: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, words.as_bytes());
        Self(hash.as_ref().try_into().unwrap())
    }

    fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.0).unwrap()
    }

    /// Base64 of the public key.
    pub fn public(&self) -> String {
        base64(self.pair().public_key().as_ref())
    }

    /// Base64 of the signature over these bytes.
    pub fn sign(&self, bytes: &[u8]) -> String {
        base64(self.pair().sign(bytes).as_ref())
    }

    /// Fills `payload_hash` and `sig` of an envelope.
    pub fn seal(&self, envelope: &mut Value, key_id: &str) {
        envelope["payload_hash"] = payload_hash(&envelope["payload"]).into();
        let value = self.sign(signing_input(envelope).as_bytes());
        envelope["sig"] = serde_json::json!({"alg": "ed25519", "key_id": key_id, "value": value});
    }
}

/// The id of the agent with this public key (base64).
pub fn agent_id(public: &str) -> String {
    format!("ag_{}", &sha256(public.as_bytes())[..12])
}

/// `sha256:` and the hash of the canonical payload.
pub fn payload_hash(payload: &Value) -> String {
    format!("sha256:{}", sha256(jcs::canonical(payload).as_bytes()))
}

/// What the signature of an envelope is over.
pub fn signing_input(envelope: &Value) -> String {
    let text = |field: &str| match &envelope[field] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut fields = vec!["v", "msg_id", "ts", "from", "to", "type", "reply_to", "ttl_sec", "payload_hash"];
    if envelope["v"] != "a2a/0.1" {
        fields.extend(["topic", "goal"]);
    }
    fields.into_iter().map(text).collect::<Vec<_>>().join("\n")
}

/// Whether `signature` (base64) over `bytes` is by the owner of `public` (base64).
pub fn verify(public: &str, bytes: &[u8], signature: &str) -> bool {
    let (Some(public), Some(signature)) = (unbase64(public), unbase64(signature)) else { return false };
    UnparsedPublicKey::new(&ED25519, public).verify(bytes, &signature).is_ok()
}
