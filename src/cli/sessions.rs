//! `bellhop sessions`: which conversations a runtime would remember, and making it forget.
//!
//! A running daemon is asked. Without one the store is read, or changed under the home's lock, together with what
//! the journal says about sessions: a daemon that was killed may have left news there that the store does not have.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::output::{ago, one_line, say, say_json, table};
use super::{Context, connect};
use crate::config::paths::plain;
use crate::engine::{forget_noted_sessions, noted_sessions};
use crate::json;
use crate::serve::wire::{ResetSessions, SessionInfo, Sessions};
use crate::store::{self, HomeLock, Loaded, RealDisk};

/// The store's file. Members that this program does not need survive a change.
#[derive(Deserialize)]
#[serde(try_from = "Map<String, Value>")]
struct Store {
    entries: BTreeMap<String, Value>,
    more: Map<String, Value>,
}

impl TryFrom<Map<String, Value>> for Store {
    type Error = &'static str;

    fn try_from(mut more: Map<String, Value>) -> Result<Self, Self::Error> {
        if !more.get("version").is_some_and(Value::is_u64) {
            return Err("version is not a number");
        }
        match more.remove("entries") {
            Some(Value::Object(entries)) => Ok(Self { entries: crate::sort::map(entries), more }),
            _ => Err("entries is not an object"),
        }
    }
}

impl From<Store> for Value {
    fn from(store: Store) -> Self {
        let mut document = store.more;
        document.insert("entries".into(), store.entries.into_iter().collect());
        Self::Object(document)
    }
}

/// What of an entry is shown.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    runtime: String,
    runtime_session_id: String,
    #[serde(default)]
    channel: String,
    #[serde(default)]
    account_id: String,
    #[serde(default)]
    conversation_id: String,
    #[serde(default)]
    thread_id: Option<String>,
    #[serde(default)]
    cwd: String,
    #[serde(default)]
    updated_at: f64,
}

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    match args.verb_name() {
        "reset" => reset(args, context),
        _ => list(args, context),
    }
}

fn list(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    context.home.check()?;
    let sessions = match connect::daemon_if_any(&context.home)? {
        Some(client) => client.sessions()?,
        None => stored(context)?,
    };
    if args.flag("json") {
        say_json(&sessions)?;
        return Ok(Exit::Ok);
    }
    if sessions.sessions.is_empty() {
        say("no sessions")?;
        return Ok(Exit::Ok);
    }
    let head = ["AGENT", "CONVERSATION", "RUNTIME", "SESSION", "USED", "KEY"];
    let mut rows = vec![head.map(ToOwned::to_owned).to_vec()];
    for s in &sessions.sessions {
        let session = one_line(&s.session_id, 40);
        rows.push(vec![
            one_line(&s.agent, 40),
            one_line(&s.conversation, 60),
            one_line(&s.runtime, 40),
            session,
            ago(s.updated_at),
            one_line(&s.key, 300),
        ]);
    }
    say(&table("", &rows))?;
    Ok(Exit::Ok)
}

fn reset(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let which = ResetSessions {
        key: args.operands.first().cloned(),
        conversation: args.text("conversation"),
        agent: None,
        all: args.flag("all"),
    };
    let given = usize::from(which.key.is_some()) + usize::from(which.conversation.is_some()) + usize::from(which.all);
    if given != 1 {
        return Err(Failure::usage("sessions reset takes one of KEY, --conversation and --all"));
    }
    context.home.check()?;
    let count = match connect::daemon_if_any(&context.home)? {
        Some(client) => client.reset_sessions(&which)?.reset,
        None => forget(context, &which)?,
    };
    say(&match count {
        0 => "no such session".to_owned(),
        1 => "1 session forgotten".to_owned(),
        n => format!("{n} sessions forgotten"),
    })?;
    Ok(if count == 0 && !which.all { Exit::Failed } else { Exit::Ok })
}

fn read(context: &Context<'_>) -> Result<Option<Store>, Failure> {
    // Not load_json: a reader moves nothing aside.
    let path = context.home.sessions();
    match std::fs::read(&path) {
        Ok(bytes) => json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Failure::new(format!("{}: not a session store: {e}", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::new(format!("{}: {e}", path.display()))),
    }
}

/// Entries by key: those of the store, as the journal has changed them.
fn entries(context: &Context<'_>, stored: BTreeMap<String, Value>) -> Result<BTreeMap<String, Value>, Failure> {
    let journal = context.home.journal();
    let noted = noted_sessions(&journal)
        .map_err(|e| Failure::new(format!("{} cannot be read: {}", journal.display(), plain(&e))))?;
    let mut entries = stored;
    for change in noted {
        match change.entry.and_then(|e| json::to_value(&e).ok()) {
            Some(entry) => drop(entries.insert(change.key, entry)),
            None => drop(entries.remove(&change.key)),
        }
    }
    Ok(entries)
}

fn stored(context: &Context<'_>) -> Result<Sessions, Failure> {
    let stored = read(context)?.map(|s| s.entries).unwrap_or_default();
    let mut sessions: Vec<SessionInfo> = entries(context, stored)?
        .into_iter()
        .filter_map(|(key, value)| {
            let e: Entry = json::from_value(&value).ok()?;
            Some(SessionInfo {
                key,
                runtime: e.runtime,
                channel: e.channel,
                agent: e.account_id,
                conversation: e.conversation_id,
                thread: e.thread_id,
                session_id: e.runtime_session_id,
                cwd: e.cwd.into(),
                updated_at: e.updated_at as i64,
            })
        })
        .collect();
    crate::sort::sort_by_key(&mut sessions, |s| std::cmp::Reverse(s.updated_at));
    Ok(Sessions { sessions })
}

fn forget(context: &Context<'_>, which: &ResetSessions) -> Result<u64, Failure> {
    let path = context.home.sessions();
    if !path.exists() && !context.home.journal().exists() {
        return Ok(0);
    }
    let _lock = HomeLock::acquire(&context.home.daemon_dir(), "bellhop sessions reset")
        .map_err(|e| Failure { exit: Exit::Unreachable, message: format!("{e}; it does not answer") })?;
    let mut store: Store = match store::load_json(&RealDisk, &path).map_err(|e| Failure::new(e.to_string()))? {
        Loaded::Missing => Store { entries: BTreeMap::new(), more: Map::from_iter([("version".into(), 1.into())]) },
        Loaded::Ok(store) => store,
        Loaded::Corrupt { moved_to, why } => {
            let moved = moved_to.display();
            return Err(Failure::new(format!("{} {why}; it is now {moved}", path.display())));
        }
    };
    let conversation = |e: &Value| e.get("conversationId").and_then(Value::as_str).map(ToOwned::to_owned);
    let wanted = |key: &String, entry: &Value| {
        let by_conversation = which.conversation.is_some() && conversation(entry) == which.conversation;
        which.all || which.key.as_ref() == Some(key) || by_conversation
    };
    let keys: Vec<String> = entries(context, store.entries.clone())?
        .into_iter()
        .filter(|(key, entry)| wanted(key, entry))
        .map(|(key, _)| key)
        .collect();
    if keys.is_empty() {
        return Ok(0);
    }
    // First the journal, whose word counts: a crash between the two leaves the sessions forgotten.
    forget_noted_sessions(&context.home.journal(), &keys).map_err(|e| Failure::new(e.to_string()))?;
    store.entries.retain(|key, _| !keys.contains(key));
    store::write_json(&RealDisk, &path, &Value::from(store)).map_err(|e| Failure::new(e.to_string()))?;
    Ok(keys.len() as u64)
}
