//! `bellhop transcript` and `bellhop debug`: the record of conversations.
//!
//! Works on the files, with or without a daemon. Where they lie and how they are read is the engine's matter
//! ([`crate::engine::transcript`]).

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::Context;
use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::message::working_directory;
use super::output::{complain, neutral, placed, say, say_json};
use crate::config::paths::{directory_conversation, plain};
use crate::config::{Config, TranscriptSource, edit};
use crate::engine::transcript::{self, ErrorSelector, Follow};
use crate::time;

/// How often a followed transcript is looked at.
const PERIOD: Duration = Duration::from_millis(250);

/// How much of a dumped file is written at once, in bytes, to the end of a line.
const CHUNK: usize = 1 << 16;

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    match args.verb_name() {
        "enable" => switch(context, true),
        "disable" => switch(context, false),
        "status" => status(context),
        "list" => list(args, context),
        "prune" => prune(args, context),
        "tail" => tail(args, context),
        _ => dump(args, context),
    }
}

fn switch(context: &Context<'_>, on: bool) -> Result<Exit, Failure> {
    edit::edit(&context.home, |document| {
        let transcript = document.entry("transcript").or_insert_with(|| json!({}));
        if transcript.is_null() {
            *transcript = json!({});
        }
        if let Value::Object(map) = transcript {
            map.insert("enabled".into(), on.into());
        }
    })?;
    let word = if on { "enabled" } else { "disabled" };
    say(&format!("transcripts {word}, from the next start of the daemon on"))?;
    let (now, source) = context.config()?.transcript_enabled();
    if source == TranscriptSource::Environment && now != on {
        complain("warning: BOTCORD_TRANSCRIPT says otherwise and wins where it is set");
    }
    Ok(Exit::Ok)
}

fn status(context: &Context<'_>) -> Result<Exit, Failure> {
    let (on, source) = context.config()?.transcript_enabled();
    let source = match source {
        TranscriptSource::Environment => {
            format!("env BOTCORD_TRANSCRIPT={}", std::env::var("BOTCORD_TRANSCRIPT").unwrap_or_default())
        }
        TranscriptSource::File => format!("config ({})", context.home.config().display()),
        TranscriptSource::Default => "default-on".into(),
    };
    let root = context.home.agents_dir();
    say(&format!("enabled: {on}\nsource: {source}\nroot: {}/<agent>/transcripts", root.display()))?;
    Ok(Exit::Ok)
}

/// The one that is named, else the only one that there is.
pub fn agent(args: &Parsed, config: &Config) -> Result<String, Failure> {
    match (args.text("agent"), config.agent_ids().as_slice()) {
        (Some(agent), _) => Ok(agent),
        (None, [only]) => Ok((*only).to_owned()),
        (None, several) => {
            Err(Failure::usage(format!("there are several agents; name one with --agent: {}", several.join(", "))))
        }
    }
}

/// Which conversation is meant.
struct Which {
    agent: String,
    room: String,
    topic: Option<String>,
}

impl Which {
    /// What the options say; without a conversation, the current directory's with the agent of the terminal.
    fn of(args: &Parsed, config: &Config) -> Result<Self, Failure> {
        let room = match (args.text("conversation"), args.text("room")) {
            (Some(a), Some(b)) if a != b => {
                return Err(Failure::usage("--conversation and --room are the same option; give one of them"));
            }
            (a, b) => a.or(b),
        };
        let topic = args.text("topic").filter(|t| !t.is_empty());
        if let Some(room) = room {
            return Ok(Self { agent: agent(args, config)?, room, topic });
        }
        let first = || config.local_agents.first().map(|a| a.name.clone());
        let Some(agent) = args.text("agent").or_else(first) else {
            return Err(Failure::usage("name the agent with --agent"));
        };
        Ok(Self { agent, room: directory_conversation(&working_directory(None)?), topic })
    }

    /// There is nothing of it.
    fn missing(&self, config: &Config) -> Failure {
        let topic = self.topic.as_ref().map_or(String::new(), |t| format!(" topic {t}"));
        let hint = if config.transcript_enabled().0 { "" } else { " (transcripts are disabled)" };
        let Self { agent, room, .. } = self;
        Failure::new(format!(
            "no transcript of {agent} in {room}{topic}{hint}; those that there are: bellhop transcript list"
        ))
    }
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::new(format!("the transcripts cannot be read: {}", plain(error)))
}

fn list(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let agent = agent(args, &context.config()?)?;
    let listed = transcript::list(&context.home.agents_dir(), &agent).map_err(|e| unreadable(&e))?;
    let mut rooms: Vec<String> = listed.into_iter().filter(|r| !r.topics.is_empty()).map(|r| r.room_id).collect();
    crate::sort::sort(&mut rooms);
    for room in rooms {
        say(&neutral(&room))?;
    }
    Ok(Exit::Ok)
}

fn tail(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let config = context.config()?;
    let which = Which::of(args, &config)?;
    let lines = usize::try_from(args.number("lines").unwrap_or(50)).unwrap_or(usize::MAX);
    let mut files = files(&which, context)?;
    if !args.flag("follow") {
        let Some(path) = files.pop() else { return Err(which.missing(&config)) };
        return show(&transcript::tail(&path, lines).map_err(|e| unreadable(&e))?).map(|()| Exit::Ok);
    }
    // A conversation that has none yet may begin any time.
    let active = transcript::locate(&context.home.agents_dir(), &which.agent, &which.room, which.topic.as_deref());
    let (last, mut follow) = Follow::new(active, lines).map_err(|e| unreadable(&e))?;
    show(&last)?;
    loop {
        std::thread::sleep(PERIOD);
        show(&follow.lines().map_err(|e| unreadable(&e))?)?;
    }
}

fn dump(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let config = context.config()?;
    let which = Which::of(args, &config)?;
    let files = files(&which, context)?;
    if files.is_empty() {
        return Err(which.missing(&config));
    }
    for path in files {
        let mut reader = BufReader::new(File::open(&path)?);
        let mut chunk = Vec::new();
        // In whole lines, so that no character is cut in two.
        while reader.read_until(b'\n', &mut chunk)? > 0 {
            if chunk.len() > CHUNK {
                print(&std::mem::take(&mut chunk))?;
            }
        }
        print(&chunk)?;
    }
    Ok(Exit::Ok)
}

fn files(which: &Which, context: &Context<'_>) -> Result<Vec<PathBuf>, Failure> {
    let agents = context.home.agents_dir();
    transcript::files(&agents, &which.agent, &which.room, which.topic.as_deref()).map_err(|e| unreadable(&e))
}

fn show(lines: &[String]) -> Result<(), Failure> {
    for line in lines {
        say(&neutral(line))?;
    }
    Ok(())
}

/// Records as they are stored. JSON escapes control characters, except for a few that steer terminals.
fn print(text: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let mut out = io::stdout().lock();
    out.write_all(neutral(&String::from_utf8_lossy(text)).as_bytes()).and_then(|()| out.flush()).map_err(placed)
}

/// `bellhop debug runtime-error`: the evidence of a failed turn.
pub fn runtime_error(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let (turn, reference) = (args.text("turn-id"), args.text("error-ref"));
    let by = match (&turn, &reference) {
        (Some(turn), None) => ErrorSelector::Turn(turn),
        (None, Some(reference)) => ErrorSelector::Reference(reference),
        _ => return Err(Failure::usage(format!("{} takes one of --turn-id and --error-ref", args.name()))),
    };
    let config = context.config()?;
    let which = Which::of(args, &config)?;
    let agents = context.home.agents_dir();
    let found = transcript::find_error(&agents, &which.agent, &which.room, which.topic.as_deref(), by);
    match found.map_err(|e| unreadable(&e))? {
        Some(found) => say_json(&found)?,
        None => {
            let sought = turn.or(reference).unwrap_or_default();
            let Which { agent, room, .. } = which;
            return Err(Failure::new(format!("no failure {sought} of {agent} in {room}")));
        }
    }
    Ok(Exit::Ok)
}

fn prune(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let agent = agent(args, &context.config()?)?;
    let agents = context.home.agents_dir();
    let failed = |e: io::Error| Failure::new(format!("not everything was deleted: {}", plain(&e)));
    if args.flag("all") {
        if !args.flag("yes") {
            return Err(Failure::usage("--all deletes every transcript of the agent; to do so, add --yes"));
        }
        let any = transcript::prune_all(&agents, &agent).map_err(failed)?;
        say(&if any { format!("deleted every transcript of {agent}") } else { "nothing to delete".to_owned() })?;
        return Ok(Exit::Ok);
    }
    let age = args.text("older-than").map(|age| parse_age(&age)).transpose()?;
    // An age beyond the beginning of time: nothing is that old.
    let before = age.map(|age| SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH));
    let pruned = transcript::prune(&agents, &agent, before).map_err(failed)?;
    say(&format!("{} files deleted", pruned.len()))?;
    Ok(Exit::Ok)
}

fn parse_age(age: &str) -> Result<Duration, Failure> {
    let wrong = || Failure::usage(format!("option --older-than: expected 30d, 12h, 90m or 60s, found {age:?}"));
    time::parse_age(age).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!(parse_age("30d").unwrap(), Duration::from_hours(720));
        assert_eq!(parse_age("2").unwrap(), Duration::from_hours(48));
        assert_eq!(parse_age("90m").unwrap(), Duration::from_mins(90));
        for wrong in ["", "d", "5w", "1.5h", "99999999999999999d", "-1d"] {
            assert!(parse_age(wrong).is_err(), "{wrong}");
        }
    }
}
