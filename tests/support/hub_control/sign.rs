//! The hub's key, and what it signs: written again on this side, so that two mistakes do not cancel.

use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use super::super::hub::jcs;
use super::super::hub::sign::{base64, sha256};

/// A key that signs frames.
pub struct Signer(Ed25519KeyPair);

impl Signer {
    /// From the numbered seeds that test vectors use.
    pub fn numbered(n: usize) -> Self {
        let seed: Vec<u8> = (0..32).map(|i| ((7 * n + i) % 256) as u8).collect();
        Self(Ed25519KeyPair::from_seed_unchecked(&seed).unwrap())
    }

    /// The public key as operators write it down.
    pub fn public(&self) -> String {
        base64(self.0.public_key().as_ref())
    }

    /// How snapshots name it.
    pub fn fingerprint(&self) -> String {
        format!("sha256:{}", sha256(self.public().as_bytes()))
    }

    /// The signature of a frame with these parts.
    pub fn sign(&self, id: &str, kind: &str, params: &Value, ts: &Value) -> String {
        let signed = json!({"id": id, "params": params, "ts": ts, "type": kind});
        base64(self.0.sign(canonical(&signed).as_bytes()).as_ref())
    }
}

/// Canonical JSON whose keys are in the order of their UTF-16 units.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut keys: Vec<&String> = members.keys().collect();
            keys.sort_by_key(|key| key.encode_utf16().collect::<Vec<_>>());
            let name = |key: &str| jcs::canonical(&Value::String(key.to_owned()));
            let parts: Vec<_> = keys.iter().map(|key| format!("{}:{}", name(key), canonical(&members[*key]))).collect();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        scalar => jcs::canonical(scalar),
    }
}
