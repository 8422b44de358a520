//! The cryptography that TLS gets: what a client of TLS 1.3 needs to be understood by every server, and nothing more.
//! Private keys, what only older versions use, and a third cipher beside the one that all servers have would be code
//! that never runs.

use rustls::crypto::ring::{cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, WebPkiSupportedAlgorithms};
use rustls::pki_types::{PrivateKeyDer, SignatureVerificationAlgorithm};
use rustls::sign::SigningKey;
use rustls::{Error, SignatureScheme};
use std::sync::Arc;
use webpki::ring;

use crate::crypto;

/// Every signature in a certificate that is known.
static ALL: &[&dyn SignatureVerificationAlgorithm] = &[
    ring::ECDSA_P256_SHA256,
    ring::ECDSA_P256_SHA384,
    ring::ECDSA_P384_SHA256,
    ring::ECDSA_P384_SHA384,
    ring::ED25519,
    ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    ring::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    ring::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
    ring::RSA_PKCS1_2048_8192_SHA256,
    ring::RSA_PKCS1_2048_8192_SHA384,
    ring::RSA_PKCS1_2048_8192_SHA512,
];

/// The same by the names that the protocol has for them.
static BY_NAME: &[(SignatureScheme, &[&dyn SignatureVerificationAlgorithm])] = &[
    (SignatureScheme::ECDSA_NISTP256_SHA256, &[ring::ECDSA_P256_SHA256, ring::ECDSA_P384_SHA256]),
    (SignatureScheme::ECDSA_NISTP384_SHA384, &[ring::ECDSA_P384_SHA384, ring::ECDSA_P256_SHA384]),
    (SignatureScheme::ED25519, &[ring::ED25519]),
    (SignatureScheme::RSA_PSS_SHA256, &[ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY]),
    (SignatureScheme::RSA_PSS_SHA384, &[ring::RSA_PSS_2048_8192_SHA384_LEGACY_KEY]),
    (SignatureScheme::RSA_PSS_SHA512, &[ring::RSA_PSS_2048_8192_SHA512_LEGACY_KEY]),
    (SignatureScheme::RSA_PKCS1_SHA256, &[ring::RSA_PKCS1_2048_8192_SHA256]),
    (SignatureScheme::RSA_PKCS1_SHA384, &[ring::RSA_PKCS1_2048_8192_SHA384]),
    (SignatureScheme::RSA_PKCS1_SHA512, &[ring::RSA_PKCS1_2048_8192_SHA512]),
];

/// What a client needs.
pub(super) fn client() -> CryptoProvider {
    CryptoProvider {
        // Servers must have the first.
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1],
        signature_verification_algorithms: WebPkiSupportedAlgorithms { all: ALL, mapping: BY_NAME },
        secure_random: &System,
        key_provider: &System,
    }
}

#[derive(Debug)]
struct System;

impl SecureRandom for System {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        for chunk in bytes.chunks_mut(32) {
            let random = crypto::random::<32>();
            chunk.copy_from_slice(random.get(..chunk.len()).unwrap_or_default());
        }
        Ok(())
    }
}

impl KeyProvider for System {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        Err(Error::General("a client without a certificate has no key".into()))
    }
}
