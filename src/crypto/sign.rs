//! Ed25519 keys (RFC 8032): deterministic signatures of 64 bytes, keys of 32.

use std::fmt;

use ring::signature::{self, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::{base64, short_hash};

/// A private key with its public one.
pub struct SigningKey {
    pair: Ed25519KeyPair,
}

/// Text that is no private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// It is not base64.
    Text,
    /// It does not hold exactly 32 bytes.
    Length,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "is not base64",
            Self::Length => "does not hold 32 bytes",
        })
    }
}

impl std::error::Error for KeyError {}

impl fmt::Debug for SigningKey {
    /// Shows the public half alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public_text())
    }
}

impl SigningKey {
    /// The key of a seed.
    pub fn from_seed(seed: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Length)?;
        Ok(Self { pair })
    }

    /// The key of a seed in base64.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        Self::from_seed(&base64::decode(text).ok_or(KeyError::Text)?)
    }

    /// The public key.
    pub fn public(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// The public key in base64.
    pub fn public_text(&self) -> String {
        base64::encode(self.public())
    }

    /// The signature of some bytes.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_vec()
    }

    /// The signature of some bytes, in base64.
    pub fn sign_text(&self, bytes: &[u8]) -> String {
        base64::encode(&self.sign(bytes))
    }

    /// The answer to a challenge: the signature, in base64, of the *bytes* that its text stands for. `None` when the
    /// text is not base64.
    pub fn answer(&self, challenge: &str) -> Option<String> {
        Some(self.sign_text(&base64::decode(challenge)?))
    }
}

/// Whether `signature` is that of `bytes` under a public key. False as well when key or signature are none.
pub fn verify(public: &[u8], bytes: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&signature::ED25519, public).verify(bytes, signature).is_ok()
}

/// The id that goes with a public key: `ag_` and 12 digits of the hash of its *text*.
pub fn agent_id(public: &[u8]) -> String {
    format!("ag_{}", short_hash(base64::encode(public).as_bytes(), 12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_checked() {
        let key = SigningKey::from_seed(&[7; 32]).unwrap();
        let signature = key.sign(b"text");
        assert!(verify(key.public(), b"text", &signature));
        assert!(!verify(key.public(), b"Text", &signature));
        assert!(!verify(key.public(), b"text", &signature[1..]));
        assert!(!verify(b"short", b"text", &signature));
    }

    #[test]
    fn keys_of_other_lengths_are_none() {
        for length in [0, 31, 33, 64] {
            assert_eq!(SigningKey::from_text(&base64::encode(&vec![1; length])).unwrap_err(), KeyError::Length);
        }
        assert_eq!(SigningKey::from_text("no key!").unwrap_err(), KeyError::Text);
    }

    #[test]
    fn a_private_key_is_not_shown() {
        let seed = base64::encode(&[9; 32]);
        let shown = format!("{:?}", SigningKey::from_text(&seed).unwrap());
        assert!(!shown.contains(&seed[..20]), "{shown}");
    }
}
