//! Every request that an agent makes to its hub, one method each. All of them wait for the network within their own
//! time limits, from any thread; none waits for another, but while there is no token.

use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::credentials::{Credentials, CredentialsFile};
use super::envelope::{self, Draft, Signer};
use super::error::{ApiError, Refusal, Terminal};
use super::exchange::{self, Call, Exchange, Identity, Payload};
use super::page::Page;
use super::request::Rules;
use super::wire::{AttentionPolicy, Download, InboxPage, Room, RoomMessages, SendAnswer, SentState, Topic, Upload};
use crate::crypto;
use crate::net::http::Http;
use crate::net::url;

/// Messages of a room in one answer.
const PAGE: usize = 50;
/// Limit of what shows that somebody is at work.
const LIVE_LIMIT: Duration = Duration::from_secs(10);
/// Limit of the look at a key, for which the inbox waits.
const KEY_LIMIT: Duration = Duration::from_secs(5);
/// For an agent's policy: its messages wait for it.
const POLICY_LIMIT: Duration = Duration::from_secs(5);
/// Limit of everything else.
const LIMIT: Duration = Duration::from_secs(30);
/// How much longer than asked for a long poll may take.
const POLL_EXTRA: Duration = Duration::from_secs(10);
/// The longest that the hub waits for a message to come.
const POLL_MAX: u64 = 30;
/// How long a reaction stays when nobody takes it off, in seconds.
const REACTION_TTL: u64 = 1_800;

/// Something that can be read again from its beginning.
pub trait Source: Read + Seek {}

impl<T: Read + Seek> Source for T {}

/// Which messages of a room are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoomQuery<'a> {
    /// How many, 1 to 50.
    pub limit: usize,
    /// Older than this hub message id; not together with `after`.
    pub before: Option<&'a str>,
    /// Newer than this one.
    pub after: Option<&'a str>,
    /// Of this topic alone.
    pub topic_id: Option<&'a str>,
    /// Of this sender alone.
    pub sender_id: Option<&'a str>,
}

/// The hub of one agent.
pub struct Api {
    hub: Exchange,
    display_name: RwLock<Option<String>>,
    file: Option<CredentialsFile>,
    /// Messages that are asked for at once.
    page: Mutex<Page>,
    began: Instant,
}

impl Api {
    /// For the agent of these credentials. `file`: where tokens are kept, and what is put aside when the hub has done
    /// with the agent. Fails only when the process is out of descriptors.
    pub fn new(credentials: Credentials, file: Option<CredentialsFile>, http: Arc<Http>) -> io::Result<Self> {
        let display_name = RwLock::new(credentials.display_name.clone());
        let hub = Exchange::new(Identity::of(credentials), file.clone(), http)?;
        Ok(Self { hub, display_name, file, page: Mutex::default(), began: Instant::now() })
    }

    /// The agent.
    pub fn agent(&self) -> &str {
        &self.hub.identity.agent
    }

    /// The agent's name.
    pub fn display_name(&self) -> Option<String> {
        self.display_name.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The agent has another name from now on.
    pub fn rename(&self, name: Option<String>) {
        *self.display_name.write().unwrap_or_else(PoisonError::into_inner) = name;
    }

    /// Address of the hub.
    pub fn hub_url(&self) -> &str {
        &self.hub.identity.url
    }

    /// Address of the hub's WebSocket.
    pub fn socket_url(&self) -> String {
        // It was a server's address when the credentials were read.
        url::socket(self.hub_url(), "/hub/ws").unwrap_or_default()
    }

    /// The time as the hub has it (Unix seconds), as far as is known.
    pub fn now(&self) -> i64 {
        self.hub.clock.now()
    }

    /// Corrects the clock by what a refusal says about the hub's; returns whether it does. For
    /// `timestamp_out_of_range`.
    pub fn adopt_clock(&self, refusal: &Refusal) -> bool {
        let Some(date) = refusal.date else { return false };
        let offset = self.hub.clock.adopt(date);
        log::warn!("botcord.clock agent={} off_by_s={offset} help=\"set this machine's clock\"", self.agent());
        true
    }

    /// Ends every request and every wait, and refuses new ones.
    pub fn stop(&self) {
        self.hub.stop();
    }

    /// Why the hub will have nothing to do with this agent any more, once it has said so often enough.
    pub fn ended(&self) -> Option<Terminal> {
        self.hub.ended()
    }

    /// Puts the credentials aside, as `<name>.revoked-<unix seconds>`; returns where they are now.
    pub fn put_credentials_aside(&self) -> Result<Option<PathBuf>, crate::store::StoreError> {
        self.file.as_ref().map_or(Ok(None), |file| file.put_aside(crate::store::now_ms() / 1_000))
    }

    /// A token for the WebSocket.
    pub fn token(&self) -> Result<String, ApiError> {
        self.hub.token(None, &request_id())
    }

    /// Another token than the one that was refused.
    pub fn refresh_after(&self, failed: &str) -> Result<String, ApiError> {
        self.hub.token(Some(failed), &request_id())
    }

    /// Takes up to 50 messages under lease; waits so long for the first one, at most 30 s. After an answer of more than
    /// 32 MiB, which is an error, the next ones ask for fewer; a single message may have 64 MiB.
    pub fn poll(&self, wait: Duration) -> Result<InboxPage, ApiError> {
        let wait = wait.as_secs().min(POLL_MAX);
        let page = *self.page.lock().unwrap_or_else(PoisonError::into_inner);
        let mut path = format!("/hub/inbox?limit={}&ack=false", page.size());
        if wait > 0 {
            path.push_str(&format!("&timeout={wait}"));
        }
        let limit = if wait > 0 { Duration::from_secs(wait) + POLL_EXTRA } else { LIMIT };
        let call = Call::get(&path).rules(Rules::INBOX).limit(limit).claimed();
        let result = self.hub.ask_bytes(&Call { most: page.limit(), ..call });
        let now = self.began.elapsed().as_millis() as i64;
        *self.page.lock().unwrap_or_else(PoisonError::into_inner) = match &result {
            Ok(_) => page.was_read(now),
            Err(ApiError::Answer(exchange::TOO_LONG)) => page.was_too_long(now),
            Err(_) => page,
        };
        InboxPage::read(&result?).ok_or(ApiError::Answer("an inbox without messages"))
    }

    /// Says that messages are finished; returns how many of them the hub still had.
    pub fn ack(&self, ids: &[String]) -> Result<u64, ApiError> {
        self.count("/hub/inbox/ack", ids, "acked")
    }

    /// Says that messages are still worked on; returns for how many the lease goes on.
    pub fn renew(&self, ids: &[String]) -> Result<u64, ApiError> {
        self.count("/hub/inbox/lease/renew", ids, "renewed")
    }

    fn count(&self, path: &str, ids: &[String], key: &str) -> Result<u64, ApiError> {
        if ids.is_empty() {
            return Ok(0);
        }
        let body = json!({"message_ids": ids});
        let answer = self.hub.ask(&Call::post(path, &body).rules(Rules::INBOX).claimed())?;
        Ok(answer.get(key).and_then(Value::as_u64).unwrap_or_default())
    }

    /// Sends a message, signed anew for every attempt. It is not repeated when it is uncertain whether the hub has it
    /// ([`ApiError::is_uncertain`]); [`Api::message_status`] tells then.
    pub fn send(&self, draft: &Draft<'_>) -> Result<SendAnswer, ApiError> {
        let path = match draft.topic() {
            Some(topic) => format!("/hub/send?topic={}", url::encode(topic)),
            None => "/hub/send".to_owned(),
        };
        let identity = &self.hub.identity;
        let signer = Signer { agent: &identity.agent, key_id: &identity.key_id, key: &identity.key };
        let seal = || envelope::seal(draft, signer, self.now());
        let call = Call { payload: Payload::Made(&seal), ..Call::get(&path) };
        let call = Call { method: "POST", ..call }.rules(Rules::SEND).claimed();
        self.hub.ask(&call).map(|answer| SendAnswer::read(&answer))
    }

    /// What has become of a message of our own; `None` when the hub does not have it.
    pub fn message_status(&self, msg_id: &str) -> Result<Option<SentState>, ApiError> {
        let path = format!("/hub/status/{}", url::encode(msg_id));
        match self.hub.ask(&Call::get(&path).claimed()) {
            Ok(answer) => SentState::read(&answer).map(Some).ok_or(ApiError::Answer("a message without a state")),
            Err(e) if e.status() == Some(404) && e.is("message_not_found") => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Shows a block: `{"kind", "seq", "payload"}`.
    pub fn stream_block(&self, trace_id: &str, seq: u64, block: Value) -> Result<(), ApiError> {
        let mut body = json!({"trace_id": trace_id, "seq": seq});
        // Moved: written as a part of the document, it would be made once more.
        body["block"] = block;
        self.live("/hub/stream-block", &body, Rules::LIVE)
    }

    /// Says that no more blocks follow, and that the turn is over.
    pub fn stream_end(&self, trace_id: &str) -> Result<(), ApiError> {
        self.live("/hub/stream-end", &json!({"trace_id": trace_id}), Rules::LIVE_IDEMPOTENT)
    }

    /// Shows that the agent is typing.
    pub fn typing(&self, room_id: &str) -> Result<(), ApiError> {
        self.live("/hub/typing", &json!({"room_id": room_id}), Rules::LIVE)
    }

    fn live(&self, path: &str, body: &Value, rules: Rules) -> Result<(), ApiError> {
        self.hub.ask(&Call::post(path, body).rules(rules).limit(LIVE_LIMIT)).map(drop)
    }

    /// Puts a reaction on the message that is being answered; half an hour later it goes by itself.
    pub fn set_replying(&self, msg_id: &str, room_id: &str, turn_id: &str, emoji: &str) -> Result<(), ApiError> {
        let path = format!("/hub/messages/{}/status-reactions", url::encode(msg_id));
        let body = json!({
            "room_id": room_id, "turn_id": turn_id, "kind": "replying", "emoji": emoji, "ttl_sec": REACTION_TTL,
        });
        self.live(&path, &body, Rules::LIVE_IDEMPOTENT)
    }

    /// Takes that reaction off.
    pub fn clear_replying(&self, msg_id: &str, room_id: &str, turn_id: &str) -> Result<(), ApiError> {
        let path = format!("/hub/messages/{}/status-reactions/replying", url::encode(msg_id));
        let body = json!({"room_id": room_id, "turn_id": turn_id});
        let call = Call { method: "DELETE", ..Call::post(&path, &body) };
        self.hub.ask(&call.rules(Rules::LIVE_IDEMPOTENT).limit(LIVE_LIMIT)).map(drop)
    }

    /// Gives the hub a file of so many bytes, which are streamed.
    pub fn upload(&self, from: &mut dyn Source, size: u64, name: &str, kind: &str) -> Result<Upload, ApiError> {
        let boundary = format!("bellhop-{}", request_id());
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\nContent-Type: {}\r\n\r\n",
            quoted(name),
            quoted(kind)
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let content_type = format!("multipart/form-data; boundary={boundary}");
        let answer = self.hub.upload("/hub/upload", &content_type, (&head, from, size, &tail), LIMIT)?;
        Upload::read(&answer, self.hub_url()).ok_or(ApiError::Answer("an upload without a file"))
    }

    /// Whether a URL is that of a file at this hub, so that it may be fetched.
    pub fn may_download(&self, address: &str) -> bool {
        let id = url::path(address).and_then(|path| path.rsplit_once("/hub/files/f_"));
        let is_file = id.is_some_and(|(before, id)| {
            let prefix = url::path(self.hub_url()).unwrap_or_default();
            let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
            (before.is_empty() || before == prefix) && !id.is_empty() && id.bytes().all(word)
        });
        is_file && url::origin(address) == url::origin(self.hub_url())
    }

    /// Fetches a file of the hub without showing who asks, up to `limit` bytes; a longer one is
    /// `ApiError::Answer`. Nothing is said about what was written before an error.
    pub fn download(&self, address: &str, limit: u64, into: &mut dyn Write) -> Result<Download, ApiError> {
        if !self.may_download(address) {
            return Err(ApiError::Request("not a file of this hub"));
        }
        self.hub.download(address, limit, into, LIMIT)
    }

    /// A room.
    pub fn room(&self, room_id: &str) -> Result<Room, ApiError> {
        let answer = self.hub.ask(&Call::get(&room_path(room_id, "")).claimed())?;
        Ok(Room::read(&answer, room_id))
    }

    /// Messages of a room, newest first.
    pub fn room_messages(&self, room_id: &str, query: RoomQuery<'_>) -> Result<RoomMessages, ApiError> {
        let mut path = format!("{}?limit={}", room_path(room_id, "/messages"), query.limit.clamp(1, PAGE));
        let filters = [("before", query.before), ("after", query.after), ("topic_id", query.topic_id)];
        for (key, value) in filters.into_iter().chain([("sender_id", query.sender_id)]) {
            if let Some(value) = value {
                path.push_str(&format!("&{key}={}", url::encode(value)));
            }
        }
        let answer = self.hub.ask(&Call::get(&path).claimed())?;
        RoomMessages::read(&answer).ok_or(ApiError::Answer("a room without messages"))
    }

    /// The rooms that the agent is in.
    pub fn rooms_me(&self) -> Result<Vec<Room>, ApiError> {
        let answer = self.hub.ask(&Call::get("/hub/rooms/me").claimed())?;
        let rooms = answer.get("rooms").and_then(Value::as_array).ok_or(ApiError::Answer("no list of rooms"))?;
        Ok(rooms.iter().filter(|r| r.get("room_id").is_some_and(Value::is_string)).map(|r| Room::read(r, "")).collect())
    }

    /// The topics of a room.
    pub fn topics(&self, room_id: &str) -> Result<Vec<Topic>, ApiError> {
        let answer = self.hub.ask(&Call::get(&room_path(room_id, "/topics")).claimed())?;
        Topic::read_all(&answer).ok_or(ApiError::Answer("no list of topics"))
    }

    /// A room with its latest messages (1 to 20) and open topics, as the hub puts it.
    pub fn room_summary(&self, room_id: &str, recent: usize) -> Result<Value, ApiError> {
        self.hub.ask(
            &Call::get(&format!("{}?recent_limit={}", room_path(room_id, "/summary"), recent.clamp(1, 20))).claimed(),
        )
    }

    /// Messages with any of these words (at most 10), in a room or in all of the agent's; as the hub puts it.
    pub fn search(&self, room_id: Option<&str>, words: &[&str], limit: usize) -> Result<Value, ApiError> {
        let mut path = room_id.map_or_else(|| "/hub/search".to_owned(), |room| room_path(room, "/search"));
        path.push_str(&format!("?limit={}", limit.clamp(1, 20)));
        for word in words.iter().take(10) {
            path.push_str(&format!("&q={}", url::encode(word)));
        }
        self.hub.ask(&Call::get(&path).claimed())
    }

    /// What goes on in the agent's rooms, as the hub puts it.
    pub fn rooms_overview(&self, limit: usize) -> Result<Value, ApiError> {
        self.hub.ask(&Call::get(&format!("/hub/rooms/overview?limit={}", limit.clamp(1, 50))).claimed())
    }

    /// Envelopes of a room, as the hub puts them; `limit` 1 to 100.
    pub fn history(&self, room_id: &str, limit: usize) -> Result<Value, ApiError> {
        let path = format!("/hub/history?room_id={}&limit={}", url::encode(room_id), limit.clamp(1, 100));
        self.hub.ask(&Call::get(&path).claimed())
    }

    /// When the agent listens, in a room or in general.
    pub fn attention_policy(&self, room_id: Option<&str>) -> Result<AttentionPolicy, ApiError> {
        let query = room_id.map(|room| format!("?room_id={}", url::encode(room))).unwrap_or_default();
        let answer = self.hub.ask(&Call::get(&format!("/hub/attention-policy{query}")).limit(POLICY_LIMIT))?;
        AttentionPolicy::read(&answer).ok_or(ApiError::Answer("a policy without a mode"))
    }

    /// Tells the owner something: 1 to 8 000 characters.
    pub fn notify_owner(&self, text: &str) -> Result<(), ApiError> {
        if text.trim().is_empty() || text.chars().count() > 8_000 {
            return Err(ApiError::Request("a notice has 1 to 8000 characters"));
        }
        self.hub.ask(&Call::post("/hub/notify-owner", &json!({"text": text})).rules(Rules::ONCE)).map(drop)
    }

    /// The public key of any agent in base64, for checking what it has signed.
    pub fn public_key(&self, agent_id: &str, key_id: &str) -> Result<String, ApiError> {
        let path = format!("/registry/agents/{}/keys/{}", url::encode(agent_id), url::encode(key_id));
        let answer = self.hub.ask(&Call::get(&path).rules(Rules::ONCE).limit(KEY_LIMIT).public())?;
        let key = answer.get("pubkey").and_then(Value::as_str).and_then(|key| key.strip_prefix("ed25519:"));
        key.map(str::to_owned).ok_or(ApiError::Answer("a key without a key"))
    }
}

fn room_path(room_id: &str, more: &str) -> String {
    format!("/hub/rooms/{}{more}", url::encode(room_id))
}

/// 32 hex digits: an id of a request.
fn request_id() -> String {
    crypto::hex(&crypto::random::<16>())
}

/// A text inside quotes of a part's header.
fn quoted(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).map(|c| if matches!(c, '"' | '\\') { '_' } else { c }).take(200).collect()
}
