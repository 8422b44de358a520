//! `gateway_send`: words that the hub has an agent say through a gateway.
//!
//! A repetition within a day gets the answer of the first time, also after a restart; one that comes while the first is
//! under way waits for it. What could not be sent may be tried again.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::frames::{Desk, needed, needed_id, profile};
use crate::config::GatewayProfile;
use crate::config::gateways::TELEGRAM;
use crate::crypto;
use crate::link::botcord_control::frame::Refused;
use crate::message::{Outbound, OutboundKind};
use crate::net::url;
use crate::store::{self, Loaded, RealDisk};
use crate::time::now_ms;

/// How long an answer is remembered, in milliseconds.
const AGE_MS: i64 = 24 * 3_600_000;
/// Answers that are remembered; the oldest make room.
const MOST: usize = 1_000;
/// Longest text, in bytes.
const TEXT: usize = 256 << 10;
/// Longest name of a file, in characters.
const NAME: usize = 200;
/// Largest file, in bytes.
const FILE_BYTES: u64 = 10_485_760;
/// Files of one message.
const FILES: usize = 10;

/// What was sent under a key: when, and the answer.
struct Answer {
    key: String,
    at: i64,
    result: Value,
}

#[derive(Default)]
struct State {
    answers: VecDeque<Answer>,
    under_way: HashSet<String>,
}

/// What was sent.
pub(super) struct Sent {
    path: PathBuf,
    state: Mutex<State>,
    done: Condvar,
}

impl Sent {
    /// Reads what is remembered.
    pub(super) fn open(dir: PathBuf) -> Self {
        let path = dir.join("gateway-sends.json");
        let mut state = State::default();
        let answer = |a: &Value| {
            let key = a["key"].as_str()?.to_owned();
            Some(Answer { key, at: a["at"].as_i64()?, result: a["result"].clone() })
        };
        match store::load_json::<Value>(&RealDisk, &path) {
            Ok(Loaded::Ok(document)) => {
                state.answers.extend(document.as_array().into_iter().flatten().filter_map(answer).take(MOST));
            }
            Ok(Loaded::Missing) => {}
            Ok(Loaded::Corrupt { why, .. }) => log::warn!("gateway.sends_corrupt error={why:?}"),
            Err(e) => log::warn!("gateway.sends_unreadable error={:?}", e.to_string()),
        }
        Self { path, state: Mutex::new(state), done: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does it, unless it was done under this key.
    fn once(&self, key: &str, send: &dyn Fn() -> Result<Value, Refused>) -> Result<Value, Refused> {
        let mut state = self.lock();
        while state.under_way.contains(key) {
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let now = now_ms();
        // One of the future is remembered: the clock was put back.
        state.answers.retain(|a| now - a.at < AGE_MS);
        if let Some(answer) = state.answers.iter().find(|a| a.key == key) {
            return Ok(answer.result.clone());
        }
        state.under_way.insert(key.to_owned());
        drop(state);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(send))
            .unwrap_or_else(|_| Err(Refused::new("send_failed", "the channel panicked")));
        let mut state = self.lock();
        state.under_way.remove(key);
        if let Ok(result) = &result {
            state.answers.push_back(Answer { key: key.to_owned(), at: now, result: result.clone() });
            if state.answers.len() > MOST {
                state.answers.pop_front();
            }
            let document: Vec<Value> =
                state.answers.iter().map(|a| json!({"key": a.key, "at": a.at, "result": a.result})).collect();
            if let Err(e) = store::write_json(&RealDisk, &self.path, &document) {
                log::error!("gateway.sends_unwritten error={:?}", e.to_string());
            }
        }
        drop(state);
        self.done.notify_all();
        result
    }
}

/// Carries the frame out.
pub(super) fn send(desk: &dyn Desk, sent: &Sent, params: &Value) -> Result<Value, Refused> {
    let (agent, id) = (needed_id(params, "agentId")?, needed_id(params, "gatewayId")?);
    let conversation = needed(params, "conversationId")?;
    let files = match params.get("attachments") {
        None | Some(Value::Null) => &[][..],
        Some(Value::Array(files)) if files.len() <= FILES => files,
        Some(_) => return Err(Refused::params("attachments: expected a list of at most 10")),
    };
    let text = match params.get("text") {
        Some(Value::String(text)) if text.len() <= TEXT => text.as_str(),
        None | Some(Value::Null) if !files.is_empty() => "",
        _ => return Err(Refused::params("text: expected a text")),
    };
    if text.trim().is_empty() && files.is_empty() {
        return Err(Refused::params("text: expected a text that is not empty"));
    }
    let key = match params.get("idempotencyKey") {
        None | Some(Value::Null) => None,
        Some(Value::String(key)) if key.len() <= 256 => Some(key.as_str()).filter(|k| !k.is_empty()),
        Some(_) => return Err(Refused::params("idempotencyKey: expected a text of at most 256 bytes")),
    };
    let Some(profile) = profile(desk, id)?.as_ref().and_then(GatewayProfile::read) else {
        return Err(Refused::new("unknown_gateway", format!("there is no gateway {id:?}")));
    };
    may_send(&profile, agent, conversation, !files.is_empty())?;
    for file in files {
        check_file(file).map_err(|why| Refused::new("send_failed", format!("attachments: {why}")))?;
    }
    if !files.is_empty() {
        // Only Feishu takes any, and bellhop does not connect it.
        return Err(Refused::new("send_failed", "gateways of feishu are not connected by bellhop"));
    }
    let trace = key.map_or_else(|| now_ms().to_string(), str::to_owned);
    let out_id = match key {
        Some(key) => {
            format!("out_{}", crypto::short_hash(format!("{id}\n{conversation}\n{key}\n{text}").as_bytes(), 32))
        }
        None => format!("out_{}", crypto::hex(&crypto::random::<16>())),
    };
    let send = || {
        let out = Outbound {
            // The same for a repetition, which goes on in the middle of a long text if that is where it stopped.
            id: out_id.clone(),
            channel: id.to_owned(),
            account_id: agent.to_owned(),
            conversation_id: conversation.to_owned(),
            thread_id: None,
            topic: None,
            kind: OutboundKind::Message,
            text: text.to_owned(),
            error_ref: None,
            attachments: Vec::new(),
            reply_to: None,
            trace_id: Some(format!("gateway-send:{trace}")),
            turn_id: String::new(),
            by_tool: false,
            mentions: Vec::new(),
        };
        let message = desk.send(&out).map_err(|why| Refused::new("send_failed", crate::redact::text(&why)))?;
        log::info!(
            "gateway.sent gateway={id} agent={agent} to={conversation:?} units={}",
            crate::text::len_utf16(text)
        );
        Ok(json!({"gatewayId": id, "conversationId": conversation, "providerMessageId": message}))
    };
    match key {
        // The hub chooses keys for each message; that none is used for two is not relied on.
        Some(key) => sent.once(&format!("{id}\n{conversation}\n{key}"), &send),
        None => send(),
    }
}

/// Whether an agent may send to a conversation through a gateway.
fn may_send(profile: &GatewayProfile, agent: &str, conversation: &str, with_files: bool) -> Result<(), Refused> {
    if profile.account != agent {
        return Err(Refused::new("account_mismatch", "the gateway is another agent's"));
    }
    if !profile.enabled {
        return Err(Refused::new("gateway_disabled", "the gateway is switched off"));
    }
    if profile.kind == "wechat" {
        return Err(Refused::new("unsupported_provider", "nothing can be sent to WeChat that answers nobody"));
    }
    let forms: [&str; 2] =
        if profile.kind == TELEGRAM { ["telegram:user:", "telegram:group:"] } else { ["feishu:user:", "feishu:chat:"] };
    if with_files && profile.kind == TELEGRAM {
        return Err(Refused::new("unsupported_provider", "files can be sent to Feishu only"));
    }
    let chat = forms.iter().find_map(|form| conversation.strip_prefix(form)).filter(|chat| !chat.is_empty());
    let chat = chat.ok_or_else(|| {
        Refused::new("bad_conversation", format!("conversationId: expected {}<id> or {}<id>", forms[0], forms[1]))
    })?;
    let open = profile.kind != TELEGRAM && profile.allowed_chats.is_empty();
    if open || profile.allowed_chats.iter().any(|allowed| allowed == chat) {
        return Ok(());
    }
    Err(Refused::new("conversation_not_allowed", "the conversation is not among allowedChatIds"))
}

/// Whether a file may be fetched: it lies where the hub keeps files, and is not too large.
fn check_file(file: &Value) -> Result<(), &'static str> {
    let name = file["filename"].as_str().filter(|n| !n.is_empty()).ok_or("filename is missing")?;
    if name.chars().count() > NAME {
        return Err("filename is too long");
    }
    let address = file["url"].as_str().unwrap_or_default();
    let address = address.split('#').next().unwrap_or_default();
    let is_http = url::origin(address).is_some_and(|(scheme, ..)| matches!(scheme.as_str(), "http" | "https"));
    let id = url::path(address).and_then(|path| path.strip_prefix("/hub/files/f_"));
    let plain = |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if !is_http || !id.is_some_and(plain) {
        return Err("url is no file of a hub");
    }
    if file["sizeBytes"].as_u64().is_some_and(|size| size > FILE_BYTES) {
        return Err("it is too large");
    }
    Ok(())
}
