//! Telegram's Bot API in the test's own process: strict, on loopback.
//!
//! It knows one bot, refuses what the real server refuses (other tokens, unknown methods, texts that are empty or too long,
//! two programs that ask for updates at once), and notes what no program should do ([`BotApi::violations`]): parameters
//! that do not exist, offsets that go back or beyond what was handed out. Its end asserts that there was none of that.
//! [`Fault`]s are set for the next call of a method.
#![allow(dead_code, missing_docs)]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::hub::http::{Reply, Request, Wire};

/// How long a test waits for anything.
const LIMIT: Duration = Duration::from_mins(1);
/// The bot's number.
pub const BOT: i64 = 990_099;
/// Its name.
pub const USERNAME: &str = "helper_bot";
/// Longest text of a message, in UTF-16 units.
const TEXT: usize = 4_096;

/// What goes wrong on purpose.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status and document in place of the answer; nothing is done.
    Answer(u16, Value),
    /// The connection ends, and nothing is done.
    DropBefore,
    /// It is done, and the connection ends without an answer.
    DropAfter,
    /// It is never answered.
    Hang,
}

impl Fault {
    pub fn status(status: u16, description: &str) -> Self {
        Self::Answer(status, refusal(status, description))
    }

    pub fn too_many(seconds: u64) -> Self {
        let mut answer = refusal(429, "Too Many Requests");
        answer["parameters"] = json!({"retry_after": seconds});
        Self::Answer(429, answer)
    }
}

fn refusal(status: u16, description: &str) -> Value {
    json!({"ok": false, "error_code": status, "description": description})
}

/// A call that was carried out.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub params: Value,
    /// Name and content of the file that came with it.
    pub file: Option<(String, Vec<u8>)>,
}

#[derive(Default)]
pub struct World {
    token: String,
    updates: BTreeMap<i64, Value>,
    next_update: i64,
    /// Updates below are forgotten.
    confirmed: i64,
    /// The highest that was handed out.
    handed_out: i64,
    next_message: i64,
    files: HashMap<String, Vec<u8>>,
    pub calls: Vec<Call>,
    faults: HashMap<String, VecDeque<Fault>>,
    violations: Vec<String>,
    /// Number of the latest question for updates.
    poll: u64,
    polling: usize,
    /// Questions that the asking side gave up.
    pub abandoned: usize,
    /// Questions that were answered or held.
    pub polls: usize,
}

impl World {
    fn hear(&mut self, chat: i64, sender: i64, more: &Value) -> i64 {
        self.next_message += 1;
        let place = if chat > 0 {
            json!({"id": chat, "type": "private"})
        } else {
            json!({"id": chat, "type": "supergroup", "title": "Lab"})
        };
        let mut message = json!({
            "message_id": self.next_message, "date": 1_800_000_000, "chat": place,
            "from": {"id": sender, "is_bot": false, "first_name": "Ann"},
        });
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let number = self.next_update;
        self.next_update += 1;
        self.updates.insert(number, json!({"update_id": number, "message": message}));
        self.next_message
    }
}

struct Shared {
    world: Mutex<World>,
    changed: Condvar,
    over: AtomicBool,
}

impl Shared {
    fn look(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server.
pub struct BotApi {
    shared: Arc<Shared>,
    url: String,
    token: String,
}

impl BotApi {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let token = format!("{BOT}:AAsecret_part-of_the_token");
        let world =
            World { token: token.clone(), next_update: 500, confirmed: 500, next_message: 10, ..World::default() };
        let shared =
            Arc::new(Shared { world: Mutex::new(world), changed: Condvar::new(), over: AtomicBool::new(false) });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || serve(&shared, stream));
            }
        });
        Self { shared, url, token }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// From now on the bot has another token.
    pub fn renew_token(&mut self) {
        self.token = format!("{BOT}:BBother_part-of_the_token");
        self.change(|world| world.token = format!("{BOT}:BBother_part-of_the_token"));
    }

    pub fn look(&self) -> MutexGuard<'_, World> {
        self.shared.look()
    }

    fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let done = change(&mut self.shared.look());
        self.shared.changed.notify_all();
        done
    }

    /// The next call of this method goes wrong so.
    pub fn fault(&self, method: &str, fault: Fault) {
        self.change(|world| world.faults.entry(method.to_owned()).or_default().push_back(fault));
    }

    /// Somebody writes: `chat` in private when it is positive. Returns the number of the message.
    pub fn says(&self, chat: i64, sender: i64, text: &str) -> i64 {
        self.message(chat, sender, &json!({"text": text}))
    }

    /// A message of any kind.
    pub fn message(&self, chat: i64, sender: i64, more: &Value) -> i64 {
        self.messages(chat, sender, std::slice::from_ref(more))
    }

    /// Messages that come at once; the number of the first.
    pub fn messages(&self, chat: i64, sender: i64, all: &[Value]) -> i64 {
        self.change(|world| {
            let numbers: Vec<i64> = all.iter().map(|more| world.hear(chat, sender, more)).collect();
            numbers[0]
        })
    }

    /// A file that a message may name.
    pub fn file(&self, id: &str, content: &[u8]) {
        self.change(|world| drop(world.files.insert(id.to_owned(), content.to_owned())));
    }

    /// The server has not heard that the updates of the last question were taken.
    pub fn unconfirm(&self, messages: i64) -> i64 {
        self.change(|world| {
            world.confirmed -= messages;
            world.confirmed
        })
    }

    /// The calls of a method so far.
    pub fn calls(&self, method: &str) -> Vec<Call> {
        self.look().calls.iter().filter(|c| c.method == method).cloned().collect()
    }

    /// The texts that were sent to a chat.
    pub fn texts(&self, chat: i64) -> Vec<String> {
        let calls = self.calls("sendMessage");
        let to_chat = calls.iter().filter(|c| c.params["chat_id"] == chat);
        to_chat.map(|c| c.params["text"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until so many texts were sent to a chat.
    pub fn wait_texts(&self, chat: i64, count: usize) -> Vec<String> {
        self.wait(&format!("{count} texts in {chat}"), |api| Some(api.texts(chat)).filter(|t| t.len() >= count))
    }

    /// Waits for something.
    pub fn wait<T>(&self, what: &str, look: impl Fn(&Self) -> Option<T>) -> T {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(Instant::now() < end, "{what}: not within {LIMIT:?}; calls: {:?}", self.look().calls);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until all that was said was taken.
    pub fn wait_taken(&self) {
        self.wait("everything is taken", |api| {
            let world = api.look();
            (world.confirmed == world.next_update && world.polling > 0).then_some(())
        });
    }

    pub fn violations(&self) -> Vec<String> {
        self.look().violations.clone()
    }
}

impl Drop for BotApi {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
        if !std::thread::panicking() {
            let violations = self.violations();
            assert!(violations.is_empty(), "{violations:#?}");
        }
    }
}

fn serve(shared: &Shared, stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut wire = Wire { stream, early: Vec::new() };
    while let Some(mut request) = wire.head() {
        if wire.body(&mut request).is_none() {
            return;
        }
        let Some(reply) = answer(shared, &request, &wire.stream) else { return };
        if wire.stream.write_all(&reply.bytes("Thu, 01 Jan 2026 00:00:00 GMT")).is_err() {
            return;
        }
    }
}

/// The answer; none: the connection ends.
fn answer(shared: &Shared, request: &Request, stream: &TcpStream) -> Option<Reply> {
    let segments: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
    let token = shared.look().token.clone();
    if let ["file", bot, rest @ ..] = segments.as_slice() {
        if *bot != format!("bot{token}") {
            return Some(refuse(401, "Unauthorized"));
        }
        let file = shared.look().files.get(&rest.join("/").replace("documents/", "")).cloned();
        let headers = vec![("Content-Type".to_owned(), "application/octet-stream".to_owned())];
        return Some(match file {
            Some(body) => Reply { status: 200, headers, body },
            None => refuse(404, "Not Found"),
        });
    }
    let [bot, method] = segments.as_slice() else { return Some(refuse(404, "Not Found")) };
    if *bot != format!("bot{token}") {
        return Some(refuse(401, "Unauthorized"));
    }
    let fault = shared.look().faults.get_mut(*method).and_then(VecDeque::pop_front);
    match fault {
        Some(Fault::Answer(status, document)) => return Some(Reply::json(status, &document)),
        Some(Fault::DropBefore) => return None,
        Some(Fault::Hang) => {
            while !shared.over.load(Ordering::SeqCst) && !has_left(stream) {
                std::thread::sleep(Duration::from_millis(10));
            }
            return None;
        }
        Some(Fault::DropAfter) => {
            let _ = carry_out(shared, method, request, stream);
            return None;
        }
        None => {}
    }
    Some(carry_out(shared, method, request, stream)?.map_or_else(
        |(status, description)| refuse(status, &description),
        |result| Reply::json(200, &json!({"ok": true, "result": result})),
    ))
}

fn refuse(status: u16, description: &str) -> Reply {
    Reply::json(status, &refusal(status, description))
}

type Outcome = Result<Value, (u16, String)>;

/// Does what a call asks for; none: the asking side has left.
fn carry_out(shared: &Shared, method: &str, request: &Request, stream: &TcpStream) -> Option<Outcome> {
    let known: &[&str] = match method {
        "getMe" => &[],
        "getUpdates" => &["offset", "limit", "timeout", "allowed_updates"],
        "sendMessage" => &["chat_id", "text", "message_thread_id", "reply_parameters"],
        "sendChatAction" => &["chat_id", "action", "message_thread_id"],
        "getFile" => &["file_id"],
        "sendPhoto" | "sendDocument" | "sendVoice" => &["chat_id", "message_thread_id", "reply_parameters"],
        _ => return Some(Err((404, "Not Found".into()))),
    };
    let violate = |what: String| shared.look().violations.push(format!("{method}: {what}"));
    let kind = request.header("content-type").unwrap_or_default().to_owned();
    let parsed = if kind.starts_with("multipart/form-data") {
        parts(&kind, &request.body)
    } else {
        if kind != "application/json" || request.method != "POST" {
            violate(format!("{} of {kind}", request.method));
        }
        serde_json::from_slice(&request.body).ok().map(|params| (params, None))
    };
    let Some((params, file)) = parsed else { return Some(Err((400, "Bad Request: can't parse".into()))) };
    for name in params.as_object().into_iter().flat_map(|p| p.keys()) {
        if !known.contains(&name.as_str()) {
            violate(format!("unknown parameter {name}"));
        }
    }
    if method == "getUpdates" {
        return updates(shared, &params, stream);
    }
    let mut world = shared.look();
    let outcome = call(&mut world, method, &params, file.as_ref());
    if outcome.is_ok() {
        world.calls.push(Call { method: method.to_owned(), params, file: file.map(|(_, name, body)| (name, body)) });
    }
    drop(world);
    shared.changed.notify_all();
    Some(outcome)
}

/// Parameter, name and content of a file.
type Upload = (String, String, Vec<u8>);

fn call(world: &mut World, method: &str, params: &Value, file: Option<&Upload>) -> Outcome {
    let bad = |why: &str| Err((400, format!("Bad Request: {why}")));
    if method == "getMe" {
        return Ok(json!({"id": BOT, "is_bot": true, "first_name": "Helper", "username": USERNAME,
            "can_read_all_group_messages": false}));
    }
    if method == "getFile" {
        let id = params["file_id"].as_str().unwrap_or_default();
        return match world.files.get(id) {
            Some(file) => Ok(json!({"file_id": id, "file_size": file.len(), "file_path": format!("documents/{id}")})),
            None => bad("invalid file_id"),
        };
    }
    let Some(chat) = params["chat_id"].as_i64() else { return bad("chat_id is empty") };
    if chat == 0 {
        return bad("chat not found");
    }
    match method {
        "sendChatAction" if params["action"] == "typing" => return Ok(json!(true)),
        "sendChatAction" => return bad("wrong parameter action in request"),
        "sendMessage" => {
            let text = params["text"].as_str().unwrap_or_default();
            if text.trim().is_empty() {
                return bad("message text is empty");
            }
            if text.encode_utf16().count() > TEXT {
                return bad("message is too long");
            }
        }
        _ => {
            let field = method.trim_start_matches("send").to_ascii_lowercase();
            if file.is_none_or(|(name, _, content)| *name != field || content.is_empty()) {
                return bad("there is no file in the request");
            }
            if field == "photo" && file.is_some_and(|(_, name, _)| name.starts_with("odd")) {
                return bad("IMAGE_PROCESS_FAILED");
            }
        }
    }
    if !params["reply_parameters"].is_null() && !params["reply_parameters"]["message_id"].is_i64() {
        return bad("can't parse reply parameters");
    }
    world.next_message += 1;
    Ok(json!({"message_id": world.next_message, "chat": {"id": chat}, "date": 1_800_000_000}))
}

/// A long poll.
fn updates(shared: &Shared, params: &Value, stream: &TcpStream) -> Option<Outcome> {
    let end = Instant::now() + Duration::from_secs(params["timeout"].as_u64().unwrap_or(0));
    let mut world = shared.look();
    world.poll += 1;
    world.polls += 1;
    let mine = world.poll;
    if let Some(offset) = params["offset"].as_i64() {
        if offset < world.confirmed {
            let what = format!("getUpdates: offset {offset} is behind {}", world.confirmed);
            world.violations.push(what);
        }
        if offset > world.handed_out.max(world.confirmed) + 1 {
            let what = format!("getUpdates: offset {offset} is beyond {}", world.handed_out);
            world.violations.push(what);
        }
        world.confirmed = world.confirmed.max(offset);
    }
    world.polling += 1;
    let outcome = loop {
        if world.poll != mine {
            break Some(Err((409, "Conflict: terminated by other getUpdates request".into())));
        }
        let confirmed = world.confirmed;
        let waiting: Vec<Value> = world.updates.range(confirmed..).map(|(_, u)| u.clone()).take(100).collect();
        if !waiting.is_empty() || Instant::now() >= end {
            let last = waiting.last().and_then(|u| u["update_id"].as_i64());
            world.handed_out = world.handed_out.max(last.unwrap_or_default());
            break Some(Ok(waiting.into()));
        }
        if shared.over.load(Ordering::SeqCst) {
            break None;
        }
        if has_left(stream) {
            world.abandoned += 1;
            break None;
        }
        let wait = shared.changed.wait_timeout(world, Duration::from_millis(20));
        world = wait.unwrap_or_else(PoisonError::into_inner).0;
    };
    world.polling -= 1;
    outcome
}

/// Whether the other side has closed the connection.
fn has_left(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let left = matches!(stream.peek(&mut [0]), Ok(0));
    stream.set_nonblocking(false).unwrap();
    left
}

/// The parameters and the file of a form.
fn parts(kind: &str, body: &[u8]) -> Option<(Value, Option<Upload>)> {
    let boundary = format!("--{}", kind.split("boundary=").nth(1)?);
    let (mut params, mut file) = (json!({}), None);
    for part in split(body, boundary.as_bytes()) {
        let Some(part) = part.strip_prefix(b"\r\n").and_then(|p| p.strip_suffix(b"\r\n")) else { continue };
        let at = part.windows(4).position(|w| w == b"\r\n\r\n")?;
        let (head, content) = (String::from_utf8(part[..at].to_vec()).ok()?, &part[at + 4..]);
        let quoted = |key: &str| head.split(&format!("{key}=\"")).nth(1).and_then(|rest| rest.split('"').next());
        let name = quoted("; name")?.to_owned();
        match quoted("filename") {
            Some(filename) => file = Some((name, filename.to_owned(), content.to_vec())),
            None => params[name] = serde_json::from_slice(content).ok()?,
        }
    }
    Some((params, file))
}

fn split<'b>(bytes: &'b [u8], by: &[u8]) -> Vec<&'b [u8]> {
    let (mut out, mut start) = (Vec::new(), 0);
    let mut at = 0;
    while at + by.len() <= bytes.len() {
        if &bytes[at..at + by.len()] == by {
            out.push(&bytes[start..at]);
            at += by.len();
            start = at;
        } else {
            at += 1;
        }
    }
    out.push(&bytes[start..]);
    out
}
