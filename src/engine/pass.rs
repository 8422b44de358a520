//! Passes: with one, a process shows in which turn of which agent it works.
//!
//! The pass of a turn is in the environment of its children and opens only what the agent of that turn may do. It is a
//! keyed digest of the turn's name under a key that this process has drawn at its start and keeps in memory alone:
//! nothing is stored, nobody else can make one, and none outlives the daemon. Whether the turn still runs is asked each
//! time.

use ring::hmac;

use crate::crypto::{self, is_hex};

/// The variable that holds the pass of a turn in the environment of its children.
pub const PASS_VARIABLE: &str = "BELLHOP_ROOM_TOKEN";

/// Bytes of a pass; as text two digits each.
const LENGTH: usize = 32;

/// Makes passes and recognises them.
pub(super) struct Passes {
    key: hmac::Key,
}

impl Default for Passes {
    fn default() -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &crypto::random::<LENGTH>()) }
    }
}

impl Passes {
    /// The pass of a turn, or of a process that serves several turns: 64 hex digits.
    pub(super) fn of(&self, name: &str) -> String {
        crypto::hex(hmac::sign(&self.key, name.as_bytes()).as_ref())
    }

    /// Whether `pass` is the one of `name`. The time this takes tells nothing about how much of it is right.
    pub(super) fn is_of(&self, pass: &Pass, name: &str) -> bool {
        hmac::verify(&self.key, name.as_bytes(), &pass.0).is_ok()
    }
}

/// A pass that somebody shows; whether it opens anything is another question.
pub(super) struct Pass([u8; LENGTH]);

impl Pass {
    /// Reads a pass; `None` for what cannot be one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; LENGTH];
        if !is_hex(text, LENGTH * 2) {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_of_one_name_and_of_one_daemon() {
        let passes = Passes::default();
        let text = passes.of("t1");
        let pass = Pass::parse(&text).unwrap();
        assert_eq!(text.len(), 64);
        assert!(passes.is_of(&pass, "t1"));
        assert!(!passes.is_of(&pass, "t2"));
        assert!(!Passes::default().is_of(&pass, "t1"));
        let mut forged = text.clone().into_bytes();
        forged[63] ^= 1;
        let forged = String::from_utf8(forged).unwrap();
        assert!(Pass::parse(&forged).is_none_or(|p| !passes.is_of(&p, "t1")));
    }

    #[test]
    fn what_is_no_pass_is_not_read() {
        for text in ["", "ab", &"g".repeat(64), &"a".repeat(65), &"é".repeat(32), &"+1".repeat(32)] {
            assert!(Pass::parse(text).is_none(), "{text}");
        }
    }
}
