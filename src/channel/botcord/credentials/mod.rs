//! The identity of an agent at a hub, and the file that holds it (the hub's protocol, §3).
//!
//! - [`fields`]: what a file says. - [`file`]: reading and changing it, under a lock and without losing anything.
//! - [`discover`]: the agents of a directory.

pub mod check;
pub mod discover;
pub mod fields;
pub mod file;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::net::url::UrlError;

pub use fields::{Credentials, parse, token_expiry};
pub use file::{CredentialsFile, load};

/// Why credentials cannot be used.
#[derive(Debug)]
pub enum Problem {
    /// The file cannot be read.
    Read(io::Error),
    /// It is not a JSON object.
    NotJson,
    /// It belongs to another user.
    NotOurs(u32),
    /// There is no `hubUrl`.
    MissingHubUrl,
    /// There is no `agentId`.
    MissingAgentId,
    /// The `agentId` cannot be the name of a file.
    AgentId,
    /// There is no `keyId`.
    MissingKeyId,
    /// There is no `privateKey`.
    MissingPrivateKey,
    /// The `privateKey` is not a key.
    PrivateKey,
    /// The `publicKey` is that of another private key.
    PublicKeyMismatch,
    /// The `hubUrl` may not be used.
    HubUrl(UrlError),
}

impl Problem {
    /// A word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Read(_) | Self::NotJson | Self::NotOurs(_) => "unreadable",
            Self::MissingHubUrl => "missing_hub_url",
            Self::MissingAgentId => "missing_agent_id",
            Self::AgentId => "agent_id",
            Self::MissingKeyId => "missing_key_id",
            Self::MissingPrivateKey => "missing_private_key",
            Self::PrivateKey => "private_key",
            Self::PublicKeyMismatch => "public_key_mismatch",
            Self::HubUrl(_) => "invalid_hub_url",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(e) => write!(f, "it cannot be read: {e}"),
            Self::NotJson => f.write_str("it is not a JSON object"),
            Self::NotOurs(uid) => write!(f, "it belongs to another user (uid {uid})"),
            Self::MissingHubUrl => f.write_str("hubUrl is missing"),
            Self::MissingAgentId => f.write_str("agentId is missing"),
            Self::AgentId => f.write_str("agentId has other characters than letters, digits, '-', '_' and '.'"),
            Self::MissingKeyId => f.write_str("keyId is missing"),
            Self::MissingPrivateKey => f.write_str("privateKey is missing"),
            Self::PrivateKey => f.write_str("privateKey is not 32 bytes in base64"),
            Self::PublicKeyMismatch => f.write_str("publicKey does not belong to privateKey"),
            Self::HubUrl(e) => write!(f, "hubUrl {e}"),
        }
    }
}

/// A file of credentials that cannot be used. Its text names the file and the field, never a value.
#[derive(Debug)]
pub struct CredentialsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: Problem,
}

impl CredentialsError {
    fn at(path: &Path) -> impl FnOnce(Problem) -> Self {
        let path = path.to_owned();
        move |problem| Self { path, problem }
    }
}

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "credentials {}: {}", self.path.display(), self.problem)
    }
}

impl std::error::Error for CredentialsError {}
