//! A bundle of what helps somebody else to find out what is wrong here: `doctor --bundle`, and the frame
//! `collect_diagnostics`, which sends it to the hub.
//!
//! Everything in it is redacted. Conversations are left out unless they are asked for. At most [`LIMIT`] bytes; what does
//! not fit in is named in `status.json`. The newest [`KEPT`] bundles stay on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;
use serde_json::{Map, Value, json};

use super::Program;
use super::reload::Live;
use crate::cli::host::{BundleWish, Bundled};
use crate::cli::{self, Context};
use crate::config::{Home, cloud};
use crate::engine::cancel::CancelToken;
use crate::link::botcord_control::enter;
use crate::link::botcord_control::frame::Refused;
use crate::link::botcord_control::session::{self, Session};
use crate::net::http::{Body, Request, read_all};
use crate::net::url;
use crate::redact;
use crate::store::zip::Archive;
use crate::time;

/// Largest bundle, which is what a hub takes, in bytes.
const LIMIT: u64 = 52_428_800;
/// Bundles that are kept.
const KEPT: usize = 10;
/// For making and sending one, when a hub waits for it; and after how much of it no further file is taken.
const PATIENCE: Duration = Duration::from_secs(50);
const GATHERING: Duration = Duration::from_secs(30);
/// Of a transcript or of another program's log only the end is taken, in bytes.
const PART: u64 = 2 << 20;
/// Of the daemon's own log files the end, if one is larger than they get.
const WHOLE: u64 = 12 << 20;
/// Text that is redacted at once, in bytes.
const PIECE: usize = 256 << 10;
/// Directories below which files are looked for.
const DEPTH: usize = 4;
/// Files that are looked at in one place.
const LOOKED_AT: usize = 10_000;
/// Where the upload goes.
const UPLOAD: &str = "/daemon/diagnostics/upload";
/// Variables whose values are told.
const VARIABLES: [&str; 14] = [
    "PATH",
    "HOME",
    "SHELL",
    "LANG",
    "TZ",
    "BELLHOP_HOME",
    "BELLHOP_LOG",
    "BOTCORD_HUB_URL",
    "BOTCORD_DAEMON_INSTANCE_ID",
    "BOTCORD_CLOUD_DAEMON_INSTANCE_ID",
    "BOTCORD_DAEMON_DEBUG",
    "BOTCORD_DAEMON_SNAPSHOT_INTERVAL_MS",
    "BOTCORD_TRANSCRIPT",
    "BOTCORD_SKILL_DIRS",
];

const README: &str = "\
Diagnostics of a bellhop daemon.

status.json             this machine, versions, paths, the login without its tokens, what did not fit in
doctor.txt, doctor.json what bellhop doctor says
daemon.log, logs/       the daemon's log, and older parts of it
acp-logs/               traces of runtimes that speak ACP
runtime-logs/           logs that other programs keep
transcripts/            conversations, only if they were asked for
*.redacted              files of the daemon

Secrets were replaced by [REDACTED], as far as they can be recognised. Look through it before you give it away.
";

/// Makes a bundle.
pub(super) fn bundle(home: &Home, wish: BundleWish) -> io::Result<Bundled> {
    bundle_until(home, wish, None)
}

/// The same; from `end` on, no further file is taken.
fn bundle_until(home: &Home, wish: BundleWish, end: Option<Instant>) -> io::Result<Bundled> {
    let dir = home.root().join("diagnostics");
    home.prepare().map_err(|e| io::Error::other(e.to_string()))?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let now = time::now_ms();
    let stamp = time::rfc3339(now).replace([':', '.'], "-");
    let name = format!("botcord-daemon-diagnostics-{stamp}.zip");
    let path = dir.join(&name);
    let mut making = Making { archive: Archive::create(&path, LIMIT, now)?, end, took: Vec::new(), left: Vec::new() };
    let made = making.fill(home, wish).and_then(|()| making.archive.finish());
    match made {
        Ok(size) => {
            forget_old(&dir);
            Ok(Bundled { name, path, size })
        }
        Err(e) => {
            let _ = fs::remove_file(&path);
            Err(e)
        }
    }
}

/// A bundle that is being filled.
struct Making {
    archive: Archive,
    /// When it is too late for more.
    end: Option<Instant>,
    /// Names of log files that are in it.
    took: Vec<String>,
    /// Names of what did not fit in.
    left: Vec<String>,
}

impl Making {
    fn fill(&mut self, home: &Home, wish: BundleWish) -> io::Result<()> {
        self.add("README.txt", README)?;
        let (json, text) = cli::diagnosis(&Context { home: home.clone(), host: &Program });
        self.add("doctor.txt", &redact::text(&text))?;
        self.add("doctor.json", &redact::text(&crate::json::to_string_pretty(&json).unwrap_or_default()))?;
        let config = end_of(&home.config(), WHOLE, Links::Followed).unwrap_or_default();
        self.add("config.json.redacted", &redacted(&without_values(&config)))?;
        for (name, path) in [
            ("snapshot.json", home.snapshot()),
            ("sessions.json.redacted", home.sessions()),
            ("auth-expired.flag", home.daemon_dir().join("auth-expired.flag")),
        ] {
            self.add_file(name, &path, PART, Links::Followed)?;
        }
        self.add_log("daemon.log", &home.log(), WHOLE)?;
        let old: Vec<PathBuf> = cli::log::rotated(&home.log()).into_iter().rev().collect();
        let count = if wish.full_log { old.len() } else { 5 };
        for path in old.iter().take(count) {
            self.add_log(&format!("logs/{}", name_of(path)), path, WHOLE)?;
        }
        self.add_tree("acp-logs", &home.logs_dir().join("acp"), if wish.full_log { 50 } else { 10 })?;
        let user = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let others =
            [".openclaw", ".qclaw", ".hermes"].map(|tool| (tool[1..].to_owned(), user.join(tool).join("logs")));
        let hermes = entries(&home.agents_dir()).into_iter().filter_map(|agent| {
            Some((format!("hermes-{}", name_of(&agent)), inside(&agent, &["hermes-home", "logs"])?))
        });
        for (tool, dir) in others.into_iter().chain(hermes) {
            self.add_tree(&format!("runtime-logs/{tool}"), &dir, if wish.full_log { 25 } else { 5 })?;
        }
        if wish.transcripts {
            let agents = entries(&home.agents_dir());
            let own = agents.iter().filter_map(|agent| inside(agent, &["transcripts"]));
            let files = own.flat_map(|dir| newest(&dir)).collect();
            let count = if wish.full_log { 50 } else { 10 };
            for (_, path) in sorted(files).into_iter().take(count) {
                let inside = path.strip_prefix(home.agents_dir()).unwrap_or(&path).display().to_string();
                self.add_file(&format!("transcripts/{inside}"), &path, PART, Links::Refused)?;
            }
        }
        let status = self.status(home);
        self.add("status.json", &redact::text(&crate::json::to_string_pretty(&status).unwrap_or_default()))
    }

    fn status(&self, home: &Home) -> Value {
        let found = enter::look(&home.daemon_dir());
        let login = match &found.auth {
            Ok(Some(auth)) => json!({
                "userId": auth.user_id, "daemonInstanceId": auth.daemon_instance_id, "hubUrl": auth.hub_url,
                "expiresAt": auth.expires_at, "loggedInAt": auth.logged_in_at, "label": auth.label,
            }),
            Ok(None) => Value::Null,
            Err(why) => json!({"error": why}),
        };
        let variables: Map<String, Value> =
            VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?.into()))).collect();
        let uname = rustix::system::uname();
        let word = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        json!({
            "createdAt": time::rfc3339(time::now_ms()),
            "version": concat!("bellhop/", env!("CARGO_PKG_VERSION")),
            "host": {
                "name": word(uname.nodename()), "system": word(uname.sysname()), "release": word(uname.release()),
                "machine": word(uname.machine()),
            },
            "environment": variables,
            "home": home.root().display().to_string(),
            "config": home.config().display().to_string(),
            "logs": self.took,
            "left": self.left,
            "userAuth": login,
            "authExpired": found.expired,
        })
    }

    fn add(&mut self, name: &str, text: &str) -> io::Result<()> {
        if !self.archive.add(name, text.as_bytes())? {
            self.left.push(name.to_owned());
        }
        Ok(())
    }

    /// The end of a file, redacted. One that is not there is left out.
    fn add_file(&mut self, name: &str, path: &Path, most: u64, links: Links) -> io::Result<bool> {
        if self.end.is_some_and(|end| Instant::now() >= end) {
            self.left.push(name.to_owned());
            return Ok(false);
        }
        let Ok(text) = end_of(path, most, links) else { return Ok(false) };
        // It gets longer rather than shorter; what surely does not fit in need not be redacted.
        if !self.archive.has_room(name, text.len() / 2) {
            self.left.push(name.to_owned());
            return Ok(false);
        }
        self.add(name, &redacted(&text))?;
        Ok(true)
    }

    fn add_log(&mut self, name: &str, path: &Path, most: u64) -> io::Result<()> {
        if self.add_file(name, path, most, Links::Refused)? {
            self.took.push(name.to_owned());
        }
        Ok(())
    }

    /// The newest files below a directory.
    fn add_tree(&mut self, name: &str, dir: &Path, count: usize) -> io::Result<()> {
        for (_, path) in newest(dir).into_iter().take(count) {
            let inside = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
            self.add_log(&format!("{name}/{inside}"), &path, PART)?;
        }
        Ok(())
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().flatten().take(LOOKED_AT).map(|entry| entry.path()).collect();
    crate::sort::sort(&mut entries);
    entries
}

type Dated = (SystemTime, PathBuf);

/// The regular files below a directory, newest first. Links are not followed.
fn newest(dir: &Path) -> Vec<Dated> {
    let mut found = Vec::new();
    let mut dirs = vec![(dir.to_owned(), 0)];
    let mut seen = 0;
    while let Some((dir, depth)) = dirs.pop() {
        for path in entries(&dir) {
            seen += 1;
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if meta.is_dir() && depth < DEPTH {
                dirs.push((path, depth + 1));
            } else if meta.is_file() {
                found.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), path));
            }
        }
        if seen >= LOOKED_AT {
            break;
        }
    }
    sorted(found)
}

fn sorted(mut files: Vec<Dated>) -> Vec<Dated> {
    crate::sort::sort_by(&mut files, |a, b| b.cmp(a));
    files
}

/// A directory in that of an agent. The agent may have put a link on the way, or may be about to.
fn inside(agent: &Path, names: &[&str]) -> Option<PathBuf> {
    let mut dir = agent.to_owned();
    for name in std::iter::once(None).chain(names.iter().map(Some)) {
        dir.extend(name);
        fs::symlink_metadata(&dir).ok().filter(fs::Metadata::is_dir)?;
    }
    Some(dir)
}

/// The configuration without what it gives other programs in variables and headers, which may have any name.
fn without_values(config: &str) -> String {
    fn blot(value: &mut Value, all: bool) {
        match value {
            Value::Array(items) => {
                let texts: Option<Vec<String>> = items.iter().map(|item| Some(item.as_str()?.to_owned())).collect();
                match texts.and_then(|texts| redact::argv(&texts)).filter(|_| !all) {
                    Some(shown) => *value = shown.into(),
                    None => items.iter_mut().for_each(|item| blot(item, all)),
                }
            }
            Value::Object(members) => {
                for (key, member) in members {
                    blot(member, all || matches!(key.as_str(), "env" | "headers"));
                }
            }
            Value::Null => {}
            scalar if all => *scalar = redact::HIDDEN.into(),
            _ => {}
        }
    }
    if config.trim().is_empty() {
        return String::new();
    }
    // Of what is no JSON nobody could say which of it are values.
    let Ok(mut document) = crate::json::parse(config.trim_start_matches('\u{feff}').as_bytes()) else {
        return "left out: it is no JSON; doctor.txt says where\n".to_owned();
    };
    blot(&mut document, false);
    crate::json::to_string_pretty(&document).unwrap_or_default()
}

/// Whether a file may be read that a link leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    Followed,
    Refused,
}

/// The last bytes of a regular file, from the beginning of a line on.
fn end_of(path: &Path, most: u64, links: Links) -> io::Result<String> {
    // Not blocking: a pipe may have taken the file's place.
    let flags = OFlags::NONBLOCK | if links == Links::Refused { OFlags::NOFOLLOW } else { OFlags::empty() };
    let mut file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let size = meta.len();
    let start = size.saturating_sub(most);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    if start > 0 {
        let line = bytes.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
        bytes.drain(..line);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A long text, redacted in pieces that end with a line.
fn redacted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let cut = rest.as_bytes().iter().skip(PIECE).position(|b| *b == b'\n').map_or(rest.len(), |at| PIECE + at + 1);
        let (piece, after) = rest.split_at(cut);
        out.push_str(&redact::text(piece));
        rest = after;
    }
    out
}

fn forget_old(dir: &Path) {
    let ours = |path: &PathBuf| {
        let name = name_of(path);
        name.strip_suffix(".zip").is_some_and(|name| name.starts_with("botcord-daemon-diagnostics-"))
    };
    // Their names are their times.
    let bundles: Vec<PathBuf> = entries(dir).into_iter().filter(ours).collect();
    for old in bundles.iter().take(bundles.len().saturating_sub(KEPT)) {
        let _ = fs::remove_file(old);
    }
}

/// Carries `collect_diagnostics` out. Without a login, as in the cloud, the bundle stays here.
pub(super) fn collect(live: &Live) -> Result<Value, Refused> {
    let began = Instant::now();
    let failed = |what: &str, why: String| Refused::failed(format!("{what}: {why}"));
    let bundled = bundle_until(&live.home, BundleWish::default(), Some(began + GATHERING));
    let bundled = bundled.map_err(|e| failed("no bundle", e.to_string()))?;
    let mut done = json!({
        "bundle_id": null, "filename": bundled.name, "size_bytes": bundled.size, "expires_at": null,
        "local_path": bundled.path.display().to_string(),
    });
    // Sandboxes have nowhere to send it: the upload is for the login of a person.
    let Some(session) = live.link.session().filter(|_| !cloud::is_on()) else { return Ok(done) };
    let answer = upload(&session, &bundled, began + PATIENCE).map_err(|why| failed("the bundle was not sent", why))?;
    for key in ["bundle_id", "filename", "size_bytes", "expires_at"] {
        if let Some(value) = answer.get(key) {
            done[key] = value.clone();
        }
    }
    Ok(done)
}

fn upload(session: &Session, bundled: &Bundled, end: Instant) -> Result<Value, String> {
    let token = session.access_token(false).map_err(|e| e.to_string())?;
    let auth = session.auth().ok_or("not logged in")?;
    let hub = url::server(&auth.hub_url).map_err(|e| format!("the login's hubUrl {e}"))?;
    let never = CancelToken::new().map_err(|e| e.to_string())?;
    let mut file = File::open(&bundled.path).map_err(|e| e.to_string())?;
    let (bearer, mut text) = (format!("Bearer {token}"), Vec::new());
    let request = Request {
        method: "POST",
        url: &format!("{hub}{UPLOAD}"),
        headers: &[
            ("authorization", bearer.as_str()),
            ("content-type", "application/zip"),
            ("x-botcord-filename", &bundled.name),
            ("accept", "application/json"),
        ],
        body: Body::Reader(&mut file, bundled.size),
        limit: end.saturating_duration_since(Instant::now()),
    };
    let answer =
        session.http().send(request, never.as_fd(), &mut |_, body| read_all(body, session::ANSWER_LIMIT, &mut text));
    let answer = answer.map_err(|e| e.to_string())?;
    let body = crate::json::parse(&text).unwrap_or(Value::Null);
    if !(200..300).contains(&answer.status) {
        return Err(session::refusal(answer.status, &body));
    }
    match body["bundle_id"].as_str() {
        Some(id) if !id.is_empty() => Ok(body),
        _ => Err("the hub's answer has no bundle_id".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::TempDir;

    #[test]
    fn what_there_is_no_time_for_is_named() {
        let dir = TempDir::new();
        let home = Home::at(dir.0.join("bh")).unwrap();
        home.prepare().unwrap();
        fs::write(home.log(), "a line of the log\n").unwrap();
        for (end, there) in [(None, true), (Some(Instant::now()), false)] {
            let bundled = bundle_until(&home, BundleWish::default(), end).unwrap();
            let bytes = String::from_utf8_lossy(&fs::read(&bundled.path).unwrap()).into_owned();
            assert_eq!(bytes.contains("a line of the log"), there);
            let left = bytes.split_once("\"left\": [").unwrap().1.split_once(']').unwrap().0;
            assert_eq!(left.contains("\"daemon.log\""), !there, "{left}");
        }
    }

    #[test]
    fn no_value_for_other_programs_is_told() {
        let config = r#"{"acpRuntimes": [{"id": "mine", "env": {"LICENCE": "dragonfly", "PIN": 4711, "ON": true},
            "headers": {"X-Mine": ["heron", 815]}}], "maxConcurrentTurns": 7}"#;
        let told = without_values(config);
        for secret in ["dragonfly", "4711", "true", "heron", "815"] {
            assert!(!told.contains(secret), "{told}");
        }
        for kept in ["LICENCE", "PIN", "ON", "X-Mine", "\"maxConcurrentTurns\": 7"] {
            assert!(told.contains(kept), "{told}");
        }
        // As an editor leaves it.
        let torn = config.replace("7}", "7,}");
        assert_eq!(without_values(&torn), "left out: it is no JSON; doctor.txt says where\n");
        assert_eq!(without_values(""), "");
    }
}
