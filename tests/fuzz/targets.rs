//! What reads bytes from outside, one function for each kind of input. None may panic, whatever it is given.
//!
//! Shared by the targets of cargo-fuzz (`fuzz_targets/`) and by `tests/fuzz_smoke.rs`.
#![allow(dead_code)]

use std::ffi::OsString;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bellhop::channel::botcord::credentials::fields;
use bellhop::channel::botcord::drain::{self, Known};
use bellhop::channel::botcord::normalise::{self, Me};
use bellhop::config::load;
use bellhop::crypto::{jcs, sha256_hex};
use bellhop::engine::journal::{self, Ledger, Line};
use bellhop::engine::ports::ResumedSession;
use bellhop::engine::sessions::SessionStore;
use bellhop::link::botcord_control::gate::{Gate, Step};
use bellhop::link::botcord_control::replay::Replay;
use bellhop::link::botcord_control::ring::KeyRing;
use bellhop::link::botcord_control::{identity, user_auth, wake};
use bellhop::net::url;
use bellhop::runtime::acp::messages::{Prompted, SessionOpened};
use bellhop::runtime::acp::permission::PermissionRequest;
use bellhop::runtime::acp::rpc::{self, Incoming};
use bellhop::runtime::acp::update::Update;
use bellhop::runtime::catalogue;
use bellhop::runtime::deepseek::sse;
use bellhop::runtime::ndjson::StreamParser;
use bellhop::runtime::openclaw::text as openclaw_text;
use bellhop::runtime::process::Ended;
use bellhop::runtime::{claude_code, codex, gemini, kimi as kimi_cli};
use bellhop::serve::http::{Answer, Limits, parse_head, percent_decode, percent_encode};
use bellhop::serve::room;
use bellhop::store::{Disk, DiskFile};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Takes one input.
pub type Target = fn(&[u8]);

/// Every target with the name of its corpus.
pub const TARGETS: [(&str, Target); 16] = [
    ("journal", journal),
    ("claude", claude),
    ("codex", codex),
    ("gemini", gemini),
    ("acp", acp),
    ("http", http),
    ("config", config),
    ("sessions", sessions),
    ("inbox", inbox),
    ("frames", frames),
    ("kimi", kimi),
    ("deepseek", deepseek),
    ("openclaw", openclaw),
    ("credentials", credentials),
    ("room", room),
    ("catalogue", catalogue),
];

/// Lines of the journal: decoded as they are, and once more with a checksum that fits, so that what is behind the
/// checksum is reached too; what decodes is replayed and survives another round.
pub fn journal(data: &[u8]) {
    let mut ledger = Ledger::default();
    for line in data.split(|&b| b == b'\n') {
        let _ = journal::decode(line);
        let Ok(Line::Known(stamped)) = journal::decode(&sealed(line)) else { continue };
        let again = journal::encode(stamped.t, &stamped.record).expect("what was read can be written");
        let again = again.strip_suffix(b"\n").expect("a line ends");
        // A time or a number may have been spelled in another way, but it stays a record of this version.
        assert!(matches!(journal::decode(again), Ok(Line::Known(_))), "{}", String::from_utf8_lossy(again));
        ledger.apply(stamped.t, stamped.record, line.len() as u64);
        ledger.expire(stamped.t);
    }
    let _ = (ledger.entry_count(), ledger.outbox_count(), ledger.live_bytes());
    let _ = (ledger.queue_keys().count(), ledger.turns().count(), ledger.dead().count());
}

/// The line with a checksum that fits in place of the one it has.
fn sealed(line: &[u8]) -> Vec<u8> {
    const KEY: &[u8] = b",\"c\":\"";
    let body = match line.windows(KEY.len()).rposition(|w| w == KEY) {
        Some(at) => &line[..at],
        None => line.strip_suffix(b"}").unwrap_or(line),
    };
    let sum = sha256_hex(body);
    [body, KEY, &sum.as_bytes()[..8], b"\"}"].concat()
}

/// Output of Claude Code.
pub fn claude(data: &[u8]) {
    stream(data, &mut claude_code::Parser::default());
}

/// Output of Codex, in a fresh and in a resumed session.
pub fn codex(data: &[u8]) {
    stream(data, &mut codex::Parser::new(None));
    stream(data, &mut codex::Parser::new(Some(&ResumedSession { id: "s".into(), ..ResumedSession::default() })));
}

/// Output of Gemini CLI, in a fresh and in a resumed session.
pub fn gemini(data: &[u8]) {
    stream(data, &mut gemini::Parser::new(false));
    stream(data, &mut gemini::Parser::new(true));
}

/// Standard output to the end; its second half counts as what came after a stop.
fn stream(data: &[u8], parser: &mut dyn StreamParser) {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let stop = if data.len().is_multiple_of(4) { lines.len() / 2 } else { lines.len() };
    for (number, line) in lines.iter().enumerate() {
        let _ = parser.stderr_line(line);
        let Ok(event @ Value::Object(_)) = serde_json::from_str::<Value>(line) else { continue };
        if number < stop {
            let _ = parser.event(&event);
        } else {
            parser.after_stop(&event);
        }
        let _ = (parser.goes_on(), parser.session().map(str::len));
    }
    let _ = parser.finish(&Ended {
        exit_code: Some(i32::from(data.first().is_some_and(|b| b % 2 == 1))),
        signal: None,
        stopped: None,
        given_up: false,
        stderr_tail: text.chars().take(8192).collect(),
        stdout_tail: String::new(),
        skipped_lines: 0,
        duration: Duration::from_millis(1),
    });
}

/// Output of Kimi CLI, in a fresh and in a resumed session.
pub fn kimi(data: &[u8]) {
    stream(data, &mut kimi_cli::Parser::new(None));
    stream(data, &mut kimi_cli::Parser::new(Some("s".into())));
}

/// The event stream of the DeepSeek server, cut as its first byte says.
pub fn deepseek(data: &[u8]) {
    let size = 1 + data.first().map_or(0, |b| usize::from(*b));
    let mut splitter = sse::Splitter::default();
    let mut bytes = 0;
    for chunk in data.chunks(size) {
        if splitter.push(chunk).is_err() {
            return;
        }
        while let Some(frame) = splitter.next_frame() {
            bytes += 1;
            assert!(bytes <= data.len(), "a frame has at least a byte");
            let _ = (frame.turn_id(), frame.seq(), frame.is_terminal(), frame.approval_id());
            let _ = (frame.error(), frame.turn_error(), format!("{:?}", sse::meaning(&frame)));
        }
    }
}

/// Text of an OpenClaw agent as it comes and as a whole, and answers of its gateway.
pub fn openclaw(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut filter = openclaw_text::Filter::default();
    let pieces: Vec<&str> = text.split_inclusive(['<', ' ', '\n']).collect();
    let mut shown: usize = pieces.iter().map(|piece| filter.push(piece).len()).sum();
    shown += filter.finish().len();
    assert!(shown <= text.len(), "nothing is invented");
    let _ = (openclaw_text::normalize(&text), openclaw_text::make_safe(&text));
    for line in text.lines() {
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        let _ = (openclaw_text::content_text(&value), openclaw_text::final_text(&value));
    }
}

/// Messages of a hub's control socket: through a gate that believes everybody, so that what is behind it is reached,
/// and through one that believes a key that signed none of them.
pub fn frames(data: &[u8]) {
    const NOW: i64 = 1_800_000_000_000;
    const KEY: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    let mut open = Gate::new(KeyRing::default(), false, Replay::in_memory());
    let mut closed = Gate::new(KeyRing::new([KEY]), true, Replay::in_memory());
    for line in String::from_utf8_lossy(data).lines() {
        let step = closed.take(line, NOW);
        assert!(!matches!(step, Step::Handle(_) | Step::Revoked(_)), "an unsigned frame was believed: {line}");
        if let Step::Handle(frame) = open.take(line, NOW) {
            let _ = wake::read(&frame.params, NOW, |_| true);
            let patch = identity::Patch::read(&frame.params);
            let _ = identity::patch(Some(line), &patch).report();
            assert_eq!(open.take(line, NOW), Step::Drop("repeated while it is carried out"));
            let answer = open.finish(&frame.id, &Ok(None));
            assert_eq!((answer["id"].as_str(), answer.get("type")), (Some(frame.id.as_str()), None));
            assert!(matches!(open.take(line, NOW), Step::Send(_)), "it is carried out once");
        }
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        let canonical = jcs::canonical(&value);
        let again = serde_json::from_str(&canonical).expect("the canonical form is JSON");
        assert_eq!(jcs::canonical(&again), canonical);
    }
}

/// An agent's credentials, the login of a daemon, and a hub's answer with tokens.
pub fn credentials(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match fields::parse(&text) {
        Ok(credentials) => {
            assert!(!credentials.agent_id.is_empty());
            assert!(url::socket(&credentials.hub_url, "/hub/ws").is_ok());
        }
        Err(problem) => assert!(!problem.as_str().is_empty()),
    }
    if let Ok(auth) = user_auth::parse(data, "2026-01-01T00:00:00.000Z") {
        let document = auth.document().to_string();
        let again = user_auth::parse(document.as_bytes(), "").expect("what was read can be written");
        assert_eq!((again.user_id, again.refresh_token), (auth.user_id, auth.refresh_token));
    }
    if let Ok(answer) = serde_json::from_slice(data) {
        let _ = user_auth::Tokens::read(&answer);
    }
}

/// What agents ask the daemon for from inside their turns.
pub fn room(data: &[u8]) {
    round::<room::Say>(data);
    round::<room::Upload>(data);
    round::<room::Notice>(data);
    round::<room::Remember>(data);
    if let Some(ask) = round::<room::Ask>(data) {
        let _ = ask.look("rm_here");
    }
}

/// What can be read can be written, and stays what it is.
fn round<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) -> Option<T> {
    let value: T = bellhop::json::from_slice(data).ok()?;
    let text = bellhop::json::to_vec(&value).expect("what was read can be written");
    assert_eq!(bellhop::json::from_slice(&text).ok().as_ref(), Some(&value));
    Some(value)
}

/// What CLIs and their files say about models.
pub fn catalogue(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for section in catalogue::toml::parse(&text) {
        assert!(section.keys.iter().all(|(key, _)| section.get(key).is_some()));
    }
    let codex = catalogue::codex::models(&text).unwrap_or_default();
    let _ = catalogue::codex::parameters(&codex, &text);
    let _ = (catalogue::kimi::models(&text), catalogue::kimi::parameters(&text));
    let _ = (catalogue::deepseek::models(&text), catalogue::deepseek::parameters(&text));
    let _ = catalogue::claude::catalogue(&catalogue::claude::Settings::parse(&text), |_| None);
}

/// Output of an ACP agent: each line as a message, and its content as everything that it may have to be.
pub fn acp(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for line in text.lines() {
        let incoming = rpc::read(line.trim());
        let _ = format!("{incoming:?}");
        if let Incoming::Request { id, method, .. } = &incoming {
            let _ = rpc::refuse_unknown(id, method);
        }
        let Ok(Value::Object(message)) = serde_json::from_str::<Value>(line) else { continue };
        if let Some(params) = message.get("params") {
            let _ = Update::from_params(params);
            let permission = PermissionRequest::from_params(params);
            let _ = (permission.choose(true), permission.choose(false));
            let _ = permission.question("q".into(), str::to_owned);
        }
        if let Some(result) = message.get("result") {
            let opened = SessionOpened::from_result(result.clone());
            let _ = (opened.offers_mode("m"), opened.offers_model("m"));
            let prompted = Prompted::from_result(result.clone());
            let _ = (prompted.stop_reason().len(), prompted.usage());
        }
        if let Some(error) = message.get("error") {
            let error = rpc::RpcError::from_value(error);
            let _ = (error.text(), error.coded_text(), error.class(), error.allows_fresh_session());
        }
    }
}

/// The head of a request at the control socket; what came of it is answered.
pub fn http(data: &[u8]) {
    match parse_head(data, &Limits::default()) {
        Ok(None) => {}
        Ok(Some(head)) => {
            assert!(head.length <= data.len(), "a head is no longer than what it was read from");
            assert!(head.body <= Limits::default().body);
            let _ = (head.request.path().len(), head.request.query());
            for segment in head.request.segments().unwrap_or_default() {
                assert_eq!(percent_decode(&percent_encode(&segment)), Some(segment));
            }
        }
        Err(failure) => assert!(Answer::failure(&failure).to_bytes(false, true).starts_with(b"HTTP/1.1 ")),
    }
}

/// The configuration. A complaint can be shown.
pub fn config(data: &[u8]) {
    if let Err(error) = load::parse(&String::from_utf8_lossy(data), Path::new("config.json")) {
        assert!(!error.to_string().is_empty());
    }
}

/// `sessions.json`; what is taken from it survives being written.
pub fn sessions(data: &[u8]) {
    let disk = Arc::new(OneFile(data.to_vec()));
    let Ok((store, notes)) = SessionStore::load(Path::new("sessions.json"), disk, 0) else { return };
    let _ = notes.warnings.concat();
    for entry in store.list() {
        assert_eq!(store.get(&entry.key).as_ref(), Some(&entry));
        let text = serde_json::to_string(&entry).expect("what was read can be written");
        assert_eq!(serde_json::from_str(&text).ok(), Some(entry), "{text}");
    }
}

/// A disk with one file that can be read and moved.
struct OneFile(Vec<u8>);

impl Disk for OneFile {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, _: &Path) -> io::Result<Box<dyn DiskFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open_append(&self, _: &Path) -> io::Result<Box<dyn DiskFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn open_read(&self, _: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.0.clone())))
    }

    fn list(&self, _: &Path) -> io::Result<Vec<OsString>> {
        Ok(Vec::new())
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn len(&self, _: &Path) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn truncate(&self, _: &Path, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

/// An answer of a hub's inbox, up to the messages that the engine gets.
pub fn inbox(data: &[u8]) {
    let Ok(Value::Object(mut answer)) = serde_json::from_slice(data) else { return };
    let Some(Value::Array(messages)) = answer.remove("messages") else { return };
    let me = Me { channel: "ag_me", agent: "ag_me" };
    let known = |id: &str| match id.len() % 7 {
        0 => Known::Finished,
        1 => Known::Pending,
        _ => Known::No,
    };
    let count = messages.len();
    let plan = drain::plan(messages, &known, me);
    let mut seen = plan.ack_now.len() + plan.pending.len();
    for group in plan.groups {
        let ids: Vec<String> = group.iter().filter_map(|m| normalise::hub_id(m).map(str::to_owned)).collect();
        let message = normalise::group(group, me, 0).expect("what is usable makes a message");
        assert_eq!(message.ids(), ids, "everything in a message can be acknowledged");
        seen += ids.len();
    }
    assert!(seen <= count);
}
