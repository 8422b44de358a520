//! `bellhop transcript`: the record of conversations.
//!
//! Works on the files, with or without a daemon. Which conversation a directory belongs to is read from the
//! first record in it, not guessed from its name (names are shortened and can collide).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::{Value, json};

use super::Context;
use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::logs::Tail;
use super::output::{complain, neutral, say};
use crate::config::paths::plain;
use crate::config::{Config, TranscriptSource, edit};

/// The longest first record that is read to learn whose file it is, in bytes. A record's texts are cut at
/// 32 768 characters each.
const RECORD_LIMIT: u64 = 1 << 20;

/// How often a followed transcript is looked at.
const PERIOD: Duration = Duration::from_millis(250);

/// Whose file it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Owner {
    room_id: String,
    #[serde(default)]
    topic_id: Option<String>,
}

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

fn list(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let agent = agent(args, &context.config()?)?;
    let mut rooms: Vec<String> =
        files(&context.home.transcripts(&agent))?.into_iter().filter_map(|f| Some(owner(&f.path)?.room_id)).collect();
    rooms.sort();
    rooms.dedup();
    for room in rooms {
        say(&neutral(&room))?;
    }
    Ok(Exit::Ok)
}

fn tail(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let files = wanted(args, context)?;
    let Some(path) = files.iter().rev().find(|f| !f.rotated).or(files.last()).map(|f| f.path.clone()) else {
        return Err(Failure::new("there is no such transcript"));
    };
    let lines = usize::try_from(args.number("lines").unwrap_or(50)).unwrap_or(usize::MAX);
    let mut tail = Tail::new(File::open(&path)?, lines)?;
    loop {
        show(&tail.more()?)?;
        if !args.flag("follow") {
            show(&tail.rest())?;
            return Ok(Exit::Ok);
        }
        std::thread::sleep(PERIOD);
        tail.follow_rotation(&path)?;
    }
}

fn dump(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    for file in wanted(args, context)? {
        let mut reader = BufReader::new(File::open(&file.path)?);
        let mut chunk = Vec::new();
        // In whole lines, so that no character is cut in two.
        while reader.read_until(b'\n', &mut chunk)? > 0 {
            if chunk.len() > 1 << 16 {
                show(&std::mem::take(&mut chunk))?;
            }
        }
        show(&chunk)?;
    }
    Ok(Exit::Ok)
}

/// Records as they are stored. JSON escapes control characters, except for a few that steer terminals.
fn show(text: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let mut out = io::stdout().lock();
    out.write_all(neutral(&String::from_utf8_lossy(text)).as_bytes())?;
    out.flush()
}

/// The files of the room and topic that the options name, oldest first.
fn wanted(args: &Parsed, context: &Context<'_>) -> Result<Vec<Transcript>, Failure> {
    let config = context.config()?;
    let agent = agent(args, &config)?;
    let room = args.text("room").ok_or_else(|| {
        Failure::usage(format!("{} needs --room; those that there are: bellhop transcript list", args.name()))
    })?;
    let topic = args.text("topic");
    let mut found = files(&context.home.transcripts(&agent))?;
    found
        .retain(|f| owner(&f.path).is_some_and(|o| o.room_id == room && o.topic_id.filter(|t| !t.is_empty()) == topic));
    if found.is_empty() {
        let topic = topic.map_or(String::new(), |t| format!(" topic {t}"));
        let hint = if config.transcript_enabled().0 { "" } else { " (transcripts are disabled)" };
        return Err(Failure::new(format!("no transcript of {agent} in {room}{topic}{hint}")));
    }
    Ok(found)
}

struct Transcript {
    path: PathBuf,
    rotated: bool,
}

/// Every transcript of an agent; those of one topic together, oldest first, the active one last.
fn files(root: &Path) -> Result<Vec<Transcript>, Failure> {
    // Keyed by directory, topic's name, whether active, time of rotation.
    let mut sorted = BTreeMap::new();
    for room in entries(root)? {
        if !room.is_dir() {
            continue;
        }
        for path in entries(&room)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(stem) = name.strip_suffix(".jsonl") else { continue };
            let (base, stamp) = split_stamp(stem);
            sorted.insert((room.clone(), base.to_owned(), stamp.is_none(), stamp.map(ToOwned::to_owned)), path);
        }
    }
    Ok(sorted.into_iter().map(|((_, _, active, _), path)| Transcript { path, rotated: !active }).collect())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    match fs::read_dir(dir) {
        Ok(list) => Ok(list.flatten().map(|e| e.path()).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Failure::new(format!("{}: {}", dir.display(), plain(&e)))),
    }
}

/// A rotated file's name is `<topic>.<8 digits>-<6 digits>`, perhaps with a counter `.<n>` behind it.
fn split_stamp(stem: &str) -> (&str, Option<&str>) {
    let digits = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
    let is_stamp = |s: &str| {
        let (stamp, counter) = s.split_once('.').unwrap_or((s, "0"));
        let counted = !counter.is_empty() && counter.bytes().all(|b| b.is_ascii_digit());
        counted && stamp.split_once('-').is_some_and(|(d, t)| digits(d, 8) && digits(t, 6))
    };
    let points = stem.match_indices('.').map(|(at, _)| at);
    for at in points {
        if let Some(rest) = stem.get(at + 1..).filter(|r| is_stamp(r)) {
            return (stem.get(..at).unwrap_or(stem), Some(rest));
        }
    }
    (stem, None)
}

fn owner(path: &Path) -> Option<Owner> {
    let mut line = Vec::new();
    BufReader::new(File::open(path).ok()?.take(RECORD_LIMIT)).read_until(b'\n', &mut line).ok()?;
    serde_json::from_slice(&line).ok()
}

fn prune(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let agent = agent(args, &context.config()?)?;
    let root = context.home.transcripts(&agent);
    if args.flag("all") {
        if !args.flag("yes") {
            return Err(Failure::usage("--all deletes every transcript of the agent; to do so, add --yes"));
        }
        match fs::remove_dir_all(&root) {
            Ok(()) => say(&format!("deleted {}", root.display()))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => say("nothing to delete")?,
            Err(e) => return Err(Failure::new(format!("{}: {}", root.display(), plain(&e)))),
        }
        return Ok(Exit::Ok);
    }
    let limit = args.text("older-than").map(|age| parse_age(&age)).transpose()?;
    let now = SystemTime::now();
    let mut count = 0;
    for file in files(&root)?.into_iter().filter(|f| f.rotated) {
        let age = fs::metadata(&file.path).and_then(|m| m.modified()).ok().and_then(|m| now.duration_since(m).ok());
        if limit.is_none_or(|limit| age.is_some_and(|a| a > limit)) {
            fs::remove_file(&file.path).map_err(|e| Failure::new(format!("{}: {}", file.path.display(), plain(&e))))?;
            count += 1;
        }
    }
    say(&format!("{count} files deleted"))?;
    Ok(Exit::Ok)
}

/// `30d`, `12h`, `90m`, `60s`; a number alone is days.
fn parse_age(age: &str) -> Result<Duration, Failure> {
    let unit = age.trim_start_matches(|c: char| c.is_ascii_digit());
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" | "" => 86_400,
        _ => 0,
    };
    let number = age.get(..age.len() - unit.len()).and_then(|n| n.parse::<u64>().ok());
    match number.and_then(|n| n.checked_mul(seconds)) {
        Some(total) if seconds > 0 => Ok(Duration::from_secs(total)),
        _ => Err(Failure::usage(format!("option --older-than: expected 30d, 12h, 90m or 60s, found {age:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!(parse_age("30d").unwrap(), Duration::from_secs(30 * 86_400));
        assert_eq!(parse_age("2").unwrap(), Duration::from_secs(2 * 86_400));
        assert_eq!(parse_age("90m").unwrap(), Duration::from_secs(5_400));
        for wrong in ["", "d", "5w", "1.5h", "99999999999999999d", "-1d"] {
            assert!(parse_age(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_whole_stamp_makes_a_file_a_rotated_one() {
        assert_eq!(split_stamp("_default"), ("_default", None));
        assert_eq!(split_stamp("_default.20270115-080000"), ("_default", Some("20270115-080000")));
        assert_eq!(split_stamp("_default.20270115-080000.2"), ("_default", Some("20270115-080000.2")));
        assert_eq!(split_stamp("v1.2.2027-08"), ("v1.2.2027-08", None));
    }
}
