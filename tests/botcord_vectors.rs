//! Vectors of an agent's identity at a BotCord hub: keys, signatures, addresses, files of credentials, retries.

mod support;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::time::{Duration, SystemTime};

use bellhop::channel::botcord::credentials::{self, Credentials, discover, token_expiry};
use bellhop::channel::botcord::envelope::{self, Draft, Signer};
use bellhop::channel::botcord::error::{ApiError, Refusal, Terminal};
use bellhop::channel::botcord::refusal;
use bellhop::channel::botcord::request::{self, Line, Rules};
use bellhop::channel::botcord::token::{Clock, Fresh, Source, Tokens};
use bellhop::crypto::jcs;
use bellhop::crypto::sign::{self, SigningKey};
use bellhop::engine::keys;
use bellhop::net::url;
use serde_json::{Value, json};
use support::temp_dir::TempDir;
use support::vector_file::{check, check_only};

fn str_of<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key} in {value}"))
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {value}"))
}

/// What a hub computes, and a daemon never does.
const HUB_SIDE: [&str; 2] = ["timestamp", "owner_room_id"];

fn key(input: &Value) -> SigningKey {
    SigningKey::from_text(str_of(input, "private_key")).unwrap()
}

#[test]
fn vectors_crypto() {
    let ours = |op: &str| !HUB_SIDE.contains(&op);
    check_only("botcord-crypto", ours, |input| match str_of(input, "op") {
        "public_key" => match SigningKey::from_text(str_of(input, "private_key")) {
            Ok(key) => json!({
                "public_key": key.public_text(), "formatted": format!("ed25519:{}", key.public_text()),
                "agent_id": sign::agent_id(key.public()),
            }),
            Err(sign::KeyError::Length) => json!({"error": "private_key_length"}),
            Err(e) => panic!("{e}"),
        },
        "challenge" => json!({"sig": key(input).answer(str_of(input, "challenge")).unwrap()}),
        "jcs" => {
            let value: Value = serde_json::from_str(str_of(input, "json")).unwrap();
            json!({"canonical": jcs::canonical(&value), "payload_hash": jcs::payload_hash(&value)})
        }
        "sign" => signed(input),
        "verify" => {
            let checked = envelope::check(&input["envelope"], str_of(input, "public_key"));
            json!({"payload_hash": checked.payload_hash, "signature": checked.signature})
        }
        "token_expiry" => {
            let time = token_expiry(number(input, "value"));
            if time.fract() == 0.0 { (time as i64).into() } else { time.into() }
        }
        "hub_url" => match url::server(str_of(input, "url")) {
            Ok(server) => json!({"ws": url::socket(&server, "/hub/ws").unwrap(), "normalized": server}),
            Err(e) => json!({"error": e.as_str()}),
        },
        "session_key_client" => {
            let text = |key: &str| input[key].as_str();
            keys::room_key(text("room_id"), text("topic"), text("sender_id")).into()
        }
        "session_key_hub" => hub_session_key(input),
        op => panic!("unknown op {op}"),
    });
}

/// The envelope as the vectors give it: with the signature and without what is not signed.
fn signed(input: &Value) -> Value {
    let key = key(input);
    let signer = Signer { agent: str_of(input, "from"), key_id: str_of(input, "key_id"), key: &key };
    let draft = Draft {
        msg_id: str_of(input, "msg_id"),
        to: str_of(input, "to"),
        kind: str_of(input, "type"),
        reply_to: input["reply_to"].as_str(),
        topic: input["topic"].as_str(),
        goal: input["goal"].as_str(),
        payload: &input["payload"],
        mentions: &[],
        trace_id: None,
    };
    let ts = input["ts"].as_i64().unwrap();
    let mut envelope = envelope::seal(&draft, signer, ts).unwrap();
    if input["ttl_sec"] != envelope["ttl_sec"] {
        // Drafts have no time of their own to live; the signature covers it all the same.
        envelope["ttl_sec"] = input["ttl_sec"].clone();
        envelope::sign(&mut envelope, signer.key_id, &key).unwrap();
    }
    json!({"signing_input": envelope::signing_input(&envelope).unwrap(), "envelope": envelope})
}

/// The key that a hub makes, in a namespace of its own.
fn hub_session_key(input: &Value) -> Value {
    const DNS: [u8; 16] =
        [0x6b, 0xa7, 0xb8, 0x10, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8];
    let bytes = |uuid: &str| {
        let digits: String = uuid.chars().filter(|c| *c != '-').collect();
        let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap();
        std::array::from_fn(byte)
    };
    let namespace = bytes(&keys::uuid_v5(DNS, "botcord"));
    let seed = match (input["room_id"].as_str(), input["topic"].as_str()) {
        (Some(room), Some(topic)) => format!("{room}:{topic}"),
        (Some(room), None) => room.to_owned(),
        (None, _) => "default".to_owned(),
    };
    format!("botcord:{}", keys::uuid_v5(namespace, &seed)).into()
}

const KEY: &str = "BQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=";

#[test]
fn vectors_credentials() {
    check("botcord-credentials", &[], |input| match str_of(input, "op") {
        "load" => {
            let dir = TempDir::new("credentials");
            let path = dir.path().join("x.json");
            std::fs::write(&path, str_of(input, "file_text")).unwrap();
            match credentials::load(&path) {
                Ok(credentials) => json!({"credentials": shown(&credentials, str_of(input, "file_text"))}),
                Err(e) => json!({"error": e.problem.as_str()}),
            }
        }
        "discover" => discovered(input),
        op => panic!("unknown op {op}"),
    });
}

/// Credentials as the vectors show them: what is there.
fn shown(credentials: &Credentials, text: &str) -> Value {
    let file: Value = serde_json::from_str(text).unwrap();
    let mut shown = json!({
        "version": 1, "hubUrl": credentials.hub_url, "agentId": credentials.agent_id, "keyId": credentials.key_id,
        "privateKey": credentials.private_key, "publicKey": credentials.key.public_text(),
    });
    let texts = [
        ("displayName", &credentials.display_name),
        ("savedAt", &credentials.saved_at),
        ("token", &credentials.token),
        ("onboardedAt", &credentials.onboarded_at),
        ("runtime", &credentials.runtime),
        ("runtimeModel", &credentials.runtime_model),
        ("reasoningEffort", &credentials.reasoning_effort),
        ("cwd", &credentials.cwd),
        ("openclawGateway", &credentials.openclaw_gateway),
        ("openclawAgent", &credentials.openclaw_agent),
        ("hermesProfile", &credentials.hermes_profile),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            shown[name] = value.as_str().into();
        }
    }
    if let Some(end) = credentials.token_expires_at {
        shown["tokenExpiresAt"] = (end as i64).into();
    }
    if let Some(thinking) = credentials.thinking {
        shown["thinking"] = thinking.into();
    }
    assert!(file.is_object());
    shown
}

fn discovered(input: &Value) -> Value {
    let dir = TempDir::new("credentials");
    for file in input["files"].as_array().unwrap() {
        let path = dir.path().join(str_of(file, "name"));
        let hub = file["hub_url"].as_str().or(input["expected_hub_url"].as_str()).unwrap_or("https://hub.example");
        let text = if file["invalid"] == true {
            "{}".to_owned()
        } else {
            json!({"hubUrl": hub, "agentId": str_of(file, "agent_id"), "keyId": "k_1", "privateKey": KEY}).to_string()
        };
        std::fs::write(&path, text).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(file["mtime_ms"].as_u64().unwrap());
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    }
    let (found, warnings) = discover::discover(dir.path(), input["expected_hub_url"].as_str());
    let name = |f: &discover::Found| f.path.file_name().unwrap().to_str().unwrap().to_owned();
    let agents: Vec<Value> =
        found.iter().map(|f| json!({"agent_id": f.credentials.agent_id, "file": name(f)})).collect();
    let warnings: Vec<&str> = warnings.iter().map(discover::Warning::as_str).collect();
    json!({"agents": agents, "warnings": warnings})
}

/// A hub that answers by the script of a vector.
struct Script<'v> {
    input: &'v Value,
    tokens: Tokens,
    requests: RefCell<Vec<Value>>,
    refreshes: Cell<usize>,
    waits: RefCell<Vec<u64>>,
}

/// What an answer of a script is. The last one is repeated, so that a request that is tried too often shows.
fn scripted(answers: &Value, at: usize) -> Result<(), ApiError> {
    let list = answers.as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(answer) = list.get(at).or(list.last()) else { return Ok(()) };
    if answer["network_error"] == true {
        return Err(ApiError::Network { sent: true, why: "network".into() });
    }
    let status = answer["status"].as_u64().unwrap() as u16;
    if status < 300 {
        return Ok(());
    }
    let mut refusal = Refusal::new(status, answer["body"].as_str().unwrap_or_default().as_bytes());
    refusal.retry_after = answer["retry_after"].as_str().and_then(request::retry_after);
    Err(ApiError::Refused(Box::new(refusal)))
}

impl Source for Script<'_> {
    fn fetch(&self) -> Result<Fresh, ApiError> {
        let n = self.refreshes.get();
        self.refreshes.set(n + 1);
        scripted(&self.input["refresh"], n)?;
        let (token, expires_at) = (format!("t{}", n + 1), Clock::default().now() + 86_400);
        Ok(Fresh { token, expires_at, date: None })
    }

    fn is_stopped(&self) -> bool {
        false
    }
}

impl Line for Script<'_> {
    fn token(&self, failed: Option<&str>) -> Result<String, ApiError> {
        self.tokens.get(failed, self)
    }

    fn attempt(&mut self, token: &str, attempt: u32) -> Result<(), ApiError> {
        let mut requests = self.requests.borrow_mut();
        requests.push(json!({"token": token, "retry_attempt": attempt}));
        scripted(&self.input["responses"], requests.len() - 1)
    }

    fn sleep(&self, limit: Duration) -> bool {
        self.waits.borrow_mut().push(limit.as_millis() as u64);
        false
    }
}

fn requested(input: &Value) -> Value {
    let rules = match str_of(input, "call") {
        "poll" | "ack" => Rules::INBOX,
        "room" => Rules::IDEMPOTENT,
        "send" => Rules::SEND,
        call => panic!("unknown call {call}"),
    };
    let token = match input.get("token") {
        Some(Value::Null) => None,
        None => Some("t0".to_owned()),
        other => panic!("unknown token {other:?}"),
    };
    let end = Clock::default().now() as f64 + input["token_expires_in"].as_f64().unwrap_or(86_400.0);
    let tokens = Tokens::new(token.map(|t| (t, end)), None, std::sync::Arc::default(), "test".into());
    let mut script =
        Script { input, tokens, requests: RefCell::default(), refreshes: Cell::new(0), waits: RefCell::default() };
    let result = match request::run(rules, &mut script) {
        Ok(()) => json!("ok"),
        Err(ApiError::Network { .. }) => json!({"error": "network"}),
        Err(e) => json!({"error": e.status().unwrap_or_else(|| panic!("{e}"))}),
    };
    json!({
        "requests": script.requests.into_inner(), "refreshes": script.refreshes.get(),
        "waits_ms": script.waits.into_inner(), "result": result,
    })
}

#[test]
fn vectors_http() {
    // What may be done twice is done again after a fault of the server or the network.
    let three = json!([
        {"token": "t0", "retry_attempt": 0}, {"token": "t0", "retry_attempt": 1}, {"token": "t0", "retry_attempt": 2},
    ]);
    let again = |error: Value| json!({"requests": three, "refreshes": 0, "waits_ms": [1_000, 2_000], "result": {"error": error}});
    let stricter =
        [("poll 503 not retried", again(503.into())), ("poll network error not retried", again("network".into()))];
    check("botcord-http", &stricter, |input| match str_of(input, "op") {
        "request" => requested(input),
        "classify" => {
            let refusal = Refusal::new(input["status"].as_u64().unwrap() as u16, str_of(input, "body").as_bytes());
            let terminal = refusal::classify(&refusal, input["refresh"] == true);
            json!({
                "credentials_terminal": terminal == Some(Terminal::Credentials),
                "unclaimed": terminal == Some(Terminal::Unclaimed),
            })
        }
        op => panic!("unknown op {op}"),
    });
}
