//! A new agent: its key is made here and made known to a hub that still lets agents register themselves (the hub's
//! protocol, §§7.1 and 7.2). Today's public hub does not; there a person sets agents up.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use serde_json::{Value, json};

use super::credentials::Credentials;
use super::credentials::fields;
use super::error::ApiError;
use super::exchange::{document, fresh, network, parsed, refused};
use crate::crypto::sign::{self, SigningKey};
use crate::crypto::{self, base64};
use crate::net::http::{Body, Http, Request, read_all};
use crate::net::url;

/// Limit of each request.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest answer.
const ANSWER_LIMIT: u64 = 64 << 10;

/// An agent that a hub knows from now on.
#[derive(Debug)]
pub struct Registered {
    /// Its identity, with a first token; to be kept at once: nobody can give the key again.
    pub credentials: Credentials,
    /// Where a person claims it, before which it may do little.
    pub claim_url: Option<String>,
}

/// Registers an agent with a new key at a hub (an address as [`url::server`] gives it). `name`: 1 to 128 characters;
/// `bio`: up to 500, blank for none. `abort`: readable when it is not wanted any more.
pub fn register(http: &Http, hub: &str, name: &str, bio: &str, abort: BorrowedFd<'_>) -> Result<Registered, ApiError> {
    if name.trim().is_empty() || name.chars().count() > 128 {
        return Err(ApiError::Request("a name has 1 to 128 characters"));
    }
    if bio.chars().count() > 500 {
        return Err(ApiError::Request("a description has at most 500 characters"));
    }
    let seed = crypto::random::<32>();
    let key = SigningKey::from_seed(&seed).map_err(|_| ApiError::Request("the key cannot be made"))?;
    let mut body = json!({"display_name": name, "pubkey": format!("ed25519:{}", key.public_text())});
    if !bio.trim().is_empty() {
        body["bio"] = bio.into();
    }
    let id = crypto::hex(&crypto::random::<16>());
    let answer = post(http, &format!("{hub}/registry/agents"), &id, &body, abort)?;
    let text = |key: &str| answer.get(key).and_then(Value::as_str);
    let (Some(agent_id), Some(key_id), Some(challenge)) = (text("agent_id"), text("key_id"), text("challenge")) else {
        return Err(ApiError::Answer("a registration without a challenge"));
    };
    if agent_id != sign::agent_id(key.public()) || !fields::is_plain(key_id) {
        return Err(ApiError::Answer("a registration of somebody else"));
    }
    let signature = key.answer(challenge).ok_or(ApiError::Answer("a challenge that is no base64"))?;
    let body = json!({"key_id": key_id, "challenge": challenge, "sig": signature});
    let path = format!("{hub}/registry/agents/{}/verify", url::encode(agent_id));
    let id = crypto::hex(&crypto::random::<16>());
    let verified = post(http, &path, &id, &body, abort)?;
    let token = fresh(&verified, crate::store::now_ms() / 1_000).ok_or(ApiError::Answer("no token"))?;
    let claim_url = verified.get("claim_url").and_then(Value::as_str).map(str::to_owned);
    let credentials = Credentials {
        display_name: Some(name.to_owned()),
        token: Some(token.token),
        token_expires_at: Some(token.expires_at as f64),
        ..Credentials::new(hub.to_owned(), agent_id.to_owned(), key_id.to_owned(), key, base64::encode(&seed))
    };
    Ok(Registered { credentials, claim_url })
}

/// Posts a document as nobody in particular.
fn post(http: &Http, address: &str, id: &str, body: &Value, abort: BorrowedFd<'_>) -> Result<Value, ApiError> {
    let body = document(body)?;
    let headers = [
        ("content-type", "application/json"),
        ("x-botcord-request-id", id),
        ("x-botcord-caller", "bellhop"),
        ("x-botcord-caller-version", env!("CARGO_PKG_VERSION")),
        ("x-botcord-retry-attempt", "0"),
    ];
    let request = Request { method: "POST", url: address, headers: &headers, body: Body::Bytes(&body), limit: LIMIT };
    let mut bytes = Vec::new();
    let answer = http.send(request, abort, &mut |_, body| read_all(body, ANSWER_LIMIT, &mut bytes)).map_err(network)?;
    if (200..300).contains(&answer.status) { parsed(&bytes) } else { Err(refused(&answer, &bytes)) }
}
