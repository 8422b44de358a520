//! Hashes, random bytes, signatures and the comparison of secrets; everything on top of `ring`. Knows nobody.
//!
//! - [`base64`]: bytes as text. - [`jcs`]: the canonical form of JSON, which is what gets hashed and signed.
//! - [`sign`]: Ed25519 keys.

pub mod base64;
pub mod jcs;
pub mod sign;

use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};

/// Small letters, two digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(digit(byte >> 4));
        out.push(digit(byte & 15));
    }
    out
}

/// Whether this is so many hexadecimal digits, small or capital, and nothing else.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// SHA-256 of the bytes, as 64 small hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// The first `digits` hex digits of [`sha256_hex`], at most all 64.
pub fn short_hash(bytes: &[u8], digits: usize) -> String {
    let mut hash = sha256_hex(bytes);
    hash.truncate(digits);
    hash
}

/// Random bytes of the operating system, fit for secrets.
///
/// # Panics
///
/// Where the system has no random source; nothing that needs one could go on safely.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// Whether two tokens are equal, in a time that tells nothing about where they differ.
pub fn same_token(a: &str, b: &str) -> bool {
    // Tags under a key of the moment are compared in place of the tokens, so that their lengths do not matter either.
    let key = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>());
    hmac::verify(&key, b.as_bytes(), hmac::sign(&key, a.as_bytes()).as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_nothing_is_known() {
        let hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_hex(b""), hash);
        assert_eq!(short_hash(b"", 8), "e3b0c442");
        assert_eq!(short_hash(b"", 99), hash);
    }

    #[test]
    fn tokens_are_compared_whole() {
        assert!(same_token("abc", "abc"));
        assert!(!same_token("abc", "abd"));
        assert!(!same_token("abc", "ab"));
        assert!(same_token("", ""));
    }

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random::<16>(), random::<16>());
    }
}
