//! `bellhop room`: what the agent of a turn says and asks, from inside its turn.
//!
//! The turn's token and the home come with the environment; the rest is the daemon's. `botcord VERB` is the same as
//! `bellhop room VERB`.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Context;
use super::args::Parsed;
use super::connect;
use super::exit::Exit;
use super::failure::Failure;
use super::message::{attachment, words};
use super::output::{complain, neutral, one_line, say, say_json};
use crate::engine::park::{MarkerFile, parse_seconds};
use crate::engine::ports::{Found, RoomInfo, RoomMessage, RoomTopic, Uploaded};
use crate::engine::speak::{Said, SaidState};
use crate::engine::{PASS_VARIABLE, now_ms};
use crate::json;
use crate::serve::client::Client;
use crate::serve::room::{Ask, Done, Notice, Remember, Remembered, Say, Upload, What};

/// Where an agent leaves its wish to be woken again.
const WAIT_VARIABLE: &str = "BOTCORD_WAIT_FILE";
/// Where it goes without that variable; nobody reads it there.
const WAIT_FILE: &str = ".botcord-wait.json";
/// Longest reason for a wait, in characters.
const REASON_LIMIT: usize = 500;

/// Most that is read of the file with a new content, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    match args.verb_name() {
        "send" | "reply" => speak(args, context),
        "upload" => {
            let file = attachment(&first(args))?;
            let uploaded: Uploaded = client(context)?.room("upload", &Upload { file })?;
            shown(args, &uploaded, || uploaded.url.clone())
        }
        "memory" => memory(args, context),
        "notify-owner" => {
            let done: Done = client(context)?.room("notify-owner", &Notice { text: text(args)? })?;
            shown(args, &done, || "the owner is told".into())
        }
        "wait" => wait(args),
        _ => look(args, context),
    }
}

/// The daemon, for the agent of the turn in whose environment this runs.
fn client(context: &Context<'_>) -> Result<Client, Failure> {
    let token = std::env::var(PASS_VARIABLE).ok().filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| {
        Failure::usage(format!("bellhop room is for agents inside a turn; there is no {PASS_VARIABLE} here"))
    })?;
    Ok(connect::daemon(&context.home)?.acting(&token))
}

fn speak(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let files = args.all("file").iter().map(|file| attachment(file)).collect::<Result<Vec<_>, _>>()?;
    let has_text = args.text("text").is_some() || !args.operands.is_empty();
    let request = Say {
        room: args.text("room"),
        topic: args.text("topic"),
        text: if has_text || files.is_empty() { text(args)? } else { String::new() },
        files,
        mentions: args.all("mention"),
        reply_to: args.text("reply-to"),
        reply: args.verb_name() == "reply",
        wait_ms: None,
    };
    let said: Said = client(context)?.room("send", &request)?;
    let exit = if said.state == SaidState::Failed { Exit::Failed } else { Exit::Ok };
    if args.flag("json") {
        say_json(&said)?;
        return Ok(exit);
    }
    match said.state {
        SaidState::Failed => {
            complain(&format!("not delivered: {}", said.error.as_deref().unwrap_or("no reason given")));
        }
        _ => say(&neutral(said.message_id.as_deref().unwrap_or(&said.id)))?,
    }
    if said.repeated {
        complain("this was said before for the same message, and is not sent again");
    } else if said.state == SaidState::Waiting {
        complain("it is not delivered yet; it is kept and will be, so do not send it again");
    }
    Ok(exit)
}

/// The text of `--text`, or of the operands.
fn text(args: &Parsed) -> Result<String, Failure> {
    match (args.text("text"), args.operands.as_slice()) {
        (Some(_), [_, ..]) => Err(Failure::usage("the text is given twice: with --text and without")),
        (Some(text), []) => Ok(text),
        (None, []) => Err(Failure::usage("there is nothing to say: give TEXT, --text TEXT or - for standard input")),
        (None, operands) => words(operands),
    }
}

fn look(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let what = match args.verb_name() {
        "history" => What::History,
        "topics" => What::Topics,
        "search" => What::Search,
        "list" => What::Rooms,
        _ => What::Room,
    };
    let ask = Ask {
        what,
        room: args.text("room"),
        topic: args.text("topic"),
        before: args.text("before"),
        words: args.operands.clone(),
        limit: args.number("limit").map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
    };
    let found: Found = client(context)?.room("look", &ask)?;
    shown(args, &found, || match args.verb_name() {
        "members" => members(&found),
        "topics" => found.topics.iter().map(topic).collect(),
        "info" | "list" => found.rooms.iter().map(room).collect(),
        _ => found.messages.iter().map(message).collect(),
    })
}

/// Prints an answer as JSON or for reading.
fn shown(args: &Parsed, answer: &impl Serialize, text: impl FnOnce() -> String) -> Result<Exit, Failure> {
    if args.flag("json") {
        say_json(answer)?;
    } else {
        let text = neutral(&text());
        say(if text.is_empty() { "nothing found" } else { &text })?;
    }
    Ok(Exit::Ok)
}

/// `[id] time name (id) in room / topic: text`, further lines of the text indented.
fn message(message: &RoomMessage) -> String {
    let RoomMessage { id, at, from, name, room, topic, text } = message;
    let mut line = String::new();
    let mut add = |before: &str, part: Option<&str>, after: &str| {
        if let Some(part) = part.filter(|p| !p.is_empty()) {
            line.push_str(before);
            line.push_str(&one_line(part, 300));
            line.push_str(after);
        }
    };
    add("[", id.as_deref(), "] ");
    add("", at.as_deref(), " ");
    add("", name.as_deref().or(from.as_deref()), "");
    add(" (", from.as_deref().filter(|_| name.is_some()), ")");
    add(" in ", room.as_deref(), "");
    add(" / ", topic.as_deref(), "");
    line.push_str(": ");
    line.push_str(&text.trim().replace('\n', "\n    "));
    line.push('\n');
    line
}

fn members(found: &Found) -> String {
    let members = found.rooms.iter().flat_map(|room| &room.members);
    let line = |id: &str, name: Option<&str>, role: Option<&str>| {
        let name = name.map_or_else(String::new, |name| format!(" {}", one_line(name, 200)));
        let role = role.map_or_else(String::new, |role| format!(" ({})", one_line(role, 100)));
        format!("{}{name}{role}\n", one_line(id, 300))
    };
    members.map(|m| line(&m.id, m.name.as_deref(), m.role.as_deref())).collect()
}

fn room(room: &RoomInfo) -> String {
    let mut text = format!("{}\n", one_line(&room.id, 300));
    let facts = [
        ("name", &room.name),
        ("description", &room.description),
        ("rule", &room.rule),
        ("visibility", &room.visibility),
        ("join", &room.join),
    ];
    for (name, value) in facts {
        if let Some(value) = value.as_deref().filter(|v| !v.trim().is_empty()) {
            text.push_str(&format!("  {name}: {}\n", one_line(value, 2_000)));
        }
    }
    if !room.members.is_empty() {
        text.push_str(&format!("  members: {}\n", room.members.len()));
    }
    text
}

fn topic(topic: &RoomTopic) -> String {
    let part = |before: &str, part: &Option<String>, after: &str| {
        let part = part.as_deref().filter(|p| !p.is_empty());
        part.map_or_else(String::new, |part| format!("{before}{}{after}", one_line(part, 500)))
    };
    let title = part(" ", &topic.title, "");
    format!("{}{title}{}{}\n", one_line(&topic.id, 300), part(" (", &topic.status, ")"), part(": ", &topic.goal, ""))
}

/// `memory [get]`, `memory goal TEXT|--clear`, `memory set TEXT`, `memory clear-section`, `memory clear`.
fn memory(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let mut operands = args.operands.iter().map(String::as_str);
    let action = operands.next().unwrap_or("get");
    let content: Vec<String> = operands.map(str::to_owned).collect();
    let section = args.text("section");
    let given = || match (args.text("file"), content.as_slice()) {
        (Some(_), [_, ..]) => Err(Failure::usage("the content is given twice: as TEXT and with --file")),
        (Some(file), []) => read_file(&attachment(&file)?),
        (None, []) => Err(Failure::usage(format!("memory {action} needs a text"))),
        (None, content) => words(content),
    };
    let trimmed = |text: String| match text.trim() {
        "" => Err(Failure::usage("the text is empty; to delete it use: memory clear-section, or memory goal --clear")),
        text => Ok(Some(text.to_owned())),
    };
    let request = match action {
        "get" if content.is_empty() => Remember::default(),
        "goal" if args.flag("clear") && content.is_empty() => {
            Remember { goal: Some(String::new()), ..Remember::default() }
        }
        "goal" => Remember { goal: trimmed(given()?)?, ..Remember::default() },
        "set" => Remember { content: trimmed(given()?)?, section, ..Remember::default() },
        "clear-section" if content.is_empty() => {
            let section = section.ok_or_else(|| Failure::usage("memory clear-section needs --section"))?;
            Remember { content: Some(String::new()), section: Some(section), ..Remember::default() }
        }
        "clear" if content.is_empty() => Remember { clear: true, ..Remember::default() },
        "get" | "clear-section" | "clear" => return Err(Failure::usage(format!("memory {action} takes no text"))),
        other => {
            let known = "get, goal, set, clear-section, clear";
            return Err(Failure::usage(format!("memory {other:?} is not known; there are: {known}")));
        }
    };
    let now: Remembered = client(context)?.room("memory", &request)?;
    say_json(&now)?;
    Ok(Exit::Ok)
}

/// Leaves the wish to be woken again; nobody is asked.
fn wait(args: &Parsed) -> Result<Exit, Failure> {
    let seconds = parse_seconds(&first(args)).map_err(|e| Failure::usage(e.to_string()))?;
    let reason = args.text("reason").map(|reason| crate::text::clip(&reason, REASON_LIMIT));
    let path =
        std::env::var_os(WAIT_VARIABLE).filter(|v| !v.is_empty()).map_or_else(|| WAIT_FILE.into(), PathBuf::from);
    let marker = json::to_string(&MarkerFile::new(seconds, reason, now_ms())).map_err(std::io::Error::from)?;
    let written = File::create(&path).and_then(|mut file| file.write_all(marker.as_bytes()));
    written.map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
    say(&serde_json::json!({"ok": true, "waitSeconds": seconds, "marker": path}).to_string())?;
    Ok(Exit::Ok)
}

fn first(args: &Parsed) -> String {
    args.operands.first().cloned().unwrap_or_default()
}

/// A file of text. No memory holds more than the limit.
fn read_file(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_LIMIT).read_to_string(&mut text));
    read.map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    Ok(text)
}
