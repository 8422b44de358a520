//! `apply_session_profile`, `get_session_profile`: instructions and skills that hold for a while in one room of an agent.
//!
//! All is checked before anything is written, and put in its place when it is complete. What is laid down is read by
//! [`crate::prompt::profile`], which also deletes what has expired.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::agent_skills::{is_in_the_way, is_inner_path, swap};
use crate::config::Home;
use crate::crypto;
use crate::engine::route::Route;
use crate::link::botcord_control::frame::Refused;
use crate::prompt::profile;
use crate::store::{self, Disk, RealDisk};
use crate::time;

/// The only form that is taken, and the one in which it is kept.
const SCHEMA: &str = "botlearn-course-runtime-profile/0.1";
const STORED: &str = "botcord-session-profile/0.1";
/// Longest instructions, in characters.
const INSTRUCTIONS: usize = 100_000;
/// Skills of a profile, files of a skill, bytes of a file and of all together.
const SKILLS: usize = 32;
const FILES: usize = 128;
const FILE_LIMIT: usize = 262_144;
const TOTAL_LIMIT: usize = 2_097_152;
/// Capabilities that a profile may ask for.
const CAPABILITIES: usize = 64;
/// Rooms of one agent with a profile.
const PROFILES: usize = 1_000;
/// Longest profile that is read, in bytes.
const READ_LIMIT: u64 = 2 << 20;

/// Where the profile of a room lies.
pub(super) fn directory(home: &Home, agent: &str, room: &str) -> PathBuf {
    home.agent_dir(agent).join("sessions").join(crypto::sha256_hex(room.as_bytes()))
}

/// Which room of which agent a frame is about.
pub(super) struct Place<'a> {
    pub(super) home: &'a Home,
    pub(super) agent: &'a str,
    pub(super) session_key: &'a str,
    pub(super) room: &'a str,
}

impl<'a> Place<'a> {
    /// Reads it. `agent` has been checked.
    pub(super) fn read(home: &'a Home, agent: &'a str, params: &'a Value) -> Result<Self, Refused> {
        let text = |key: &str| {
            let text = params.get(key).and_then(Value::as_str).filter(|text| !text.trim().is_empty());
            text.ok_or_else(|| Refused::params(format!("{key}: expected a text that is not empty")))
        };
        Ok(Self { home, agent, session_key: text("sessionKey")?, room: text("roomId")? })
    }
}

/// A skill that has been checked.
struct Skill {
    reference: String,
    digest: String,
    files: Vec<(String, String)>,
}

/// Lays a profile down. `route` is the agent's own.
pub(super) fn apply(place: &Place<'_>, route: &Route, params: &Value, now: i64) -> Result<Value, String> {
    let text = |of: &Value, key: &str, most: usize| {
        let text = of.get(key).and_then(Value::as_str).filter(|t| !t.trim().is_empty() && t.chars().count() <= most);
        text.map(str::to_owned).ok_or_else(|| format!("{key}: expected a text of at most {most} characters"))
    };
    if params.get("schemaVersion").and_then(Value::as_str) != Some(SCHEMA) {
        return Err(format!("schemaVersion: expected {SCHEMA}"));
    }
    let (session_key, room) = (text(params, "sessionKey", 180)?, text(params, "roomId", 512)?);
    let course = text(params, "courseVersionId", 128)?;
    let (profile_id, profile_hash) = (id(params, "profileId")?, digest(params, "profileHash")?);
    let pack = params.get("promptPack").filter(|pack| pack.is_object()).ok_or("promptPack: expected an object")?;
    let pack_ref = format!("{}@{}", id(pack, "id")?, id(pack, "version")?);
    let pack_digest = digest(pack, "digest")?;
    let instructions = text(pack, "systemInstructions", INSTRUCTIONS)?;
    let ttl = params.get("ttlSeconds").and_then(Value::as_i64).filter(|ttl| (30..=86_400).contains(ttl));
    let ttl = ttl.ok_or("ttlSeconds: expected a whole number from 30 to 86400")?;
    let required = capabilities(params)?;
    let skills = skills(params)?;
    let available = available(route);
    let missing: Vec<&String> = required.iter().filter(|wanted| !available.contains(&wanted.as_str())).collect();

    // What has expired makes room.
    profile::read(&place.home.agent_dir(place.agent), place.agent, place.room, now);
    let target = directory(place.home, place.agent, &room);
    let sessions = target.parent().ok_or("no such place")?;
    RealDisk.create_dir(sessions).map_err(|e| e.to_string())?;
    let others = fs::read_dir(sessions).map_err(|e| e.to_string())?.take(PROFILES).count();
    if others >= PROFILES && !target.exists() {
        return Err(format!("{PROFILES} rooms have a profile already"));
    }
    let rows: Vec<Value> = skills
        .iter()
        .map(|skill| {
            let path = target.join("skills").join(&skill.reference).join("SKILL.md");
            json!({"ref": skill.reference, "digest": skill.digest, "skillMdPath": path.display().to_string()})
        })
        .collect();
    let stored = json!({
        "schemaVersion": STORED, "agentId": place.agent, "sessionKey": session_key, "roomId": room,
        "profileId": profile_id, "profileHash": profile_hash, "courseVersionId": course,
        "promptPack": {"ref": pack_ref, "digest": pack_digest, "systemInstructions": instructions},
        "skills": rows, "requiredCapabilities": required, "availableCapabilities": available,
        "missingCapabilities": missing, "runtime": route.runtime,
        "appliedAt": time::rfc3339(now), "expiresAt": time::rfc3339(now + ttl * 1_000),
    });
    let staged = sessions.join(format!(".staging-{}", crypto::hex(&crypto::random::<8>())));
    let done = stage(&staged, &skills, &stored).and_then(|()| swap(&staged, &target));
    if let Err(why) = done {
        let _ = fs::remove_dir_all(&staged);
        return Err(why);
    }
    Ok(report(&stored))
}

fn stage(dir: &Path, skills: &[Skill], stored: &Value) -> Result<(), String> {
    for skill in skills {
        for (path, content) in &skill.files {
            let file = dir.join("skills").join(&skill.reference).join(path);
            if let Some(above) = file.parent() {
                RealDisk.create_dir(above).map_err(|e| e.to_string())?;
            }
            store::write(&RealDisk, &file, content.as_bytes()).map_err(|e| e.to_string())?;
        }
    }
    RealDisk.create_dir(dir).map_err(|e| e.to_string())?;
    store::write_json(&RealDisk, &dir.join("profile.json"), stored).map_err(|e| e.to_string())
}

/// What the hub is told of a profile that is laid down.
fn report(stored: &Value) -> Value {
    let met = stored["missingCapabilities"].as_array().is_none_or(Vec::is_empty);
    let skills: Vec<&Value> = stored["skills"].as_array().into_iter().flatten().map(|skill| &skill["ref"]).collect();
    json!({
        "profileId": stored["profileId"], "profileHash": stored["profileHash"],
        "status": if met { "applied" } else { "requirements_unmet" },
        "appliedPromptPackRef": stored["promptPack"]["ref"], "appliedSkillRefs": skills,
        "availableCapabilities": stored["availableCapabilities"], "missingSkills": [],
        "missingCapabilities": stored["missingCapabilities"], "runtime": stored["runtime"],
        "expiresAt": stored["expiresAt"],
    })
}

/// The profile that holds in a room.
pub(super) fn get(place: &Place<'_>, params: &Value, now: i64) -> Result<Value, Refused> {
    let path = directory(place.home, place.agent, place.room).join("profile.json");
    let stored = RealDisk.read(&path, READ_LIMIT).ok().and_then(|text| crate::json::parse(&text).ok());
    let holds = |stored: &Value| stored["expiresAt"].as_str().and_then(time::parse).is_some_and(|until| until > now);
    let stored = stored.filter(holds);
    let stored = stored.ok_or_else(|| Refused::new("session_profile_missing", "no profile holds in this room"))?;
    let differs = |key: &str| params.get(key).is_some_and(|wanted| wanted.is_string() && *wanted != stored[key]);
    if stored["sessionKey"] != place.session_key || differs("profileId") || differs("profileHash") {
        return Err(Refused::new("session_profile_mismatch", "another profile holds in this room"));
    }
    Ok(report(&stored))
}

fn id(of: &Value, key: &str) -> Result<String, String> {
    let text = of.get(key).and_then(Value::as_str).filter(|text| {
        text.len() <= 160
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    });
    text.map(str::to_owned).ok_or_else(|| format!("{key}: expected 1 to 160 of letters, digits, dot, _ and -"))
}

fn digest(of: &Value, key: &str) -> Result<String, String> {
    let text = of.get(key).and_then(Value::as_str).filter(|text| text.strip_prefix("sha256:").is_some_and(is_hex));
    text.map(str::to_owned).ok_or_else(|| format!("{key}: expected sha256: and 64 hexadecimal digits"))
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn capabilities(params: &Value) -> Result<Vec<String>, String> {
    let is_name = |text: &&str| {
        text.len() <= 80
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
    };
    let wrong = || format!("requiredCapabilities: expected a list of at most {CAPABILITIES} names");
    let mut names: Vec<String> = Vec::new();
    let Some(given) = params.get("requiredCapabilities").filter(|given| !given.is_null()) else { return Ok(names) };
    for name in given.as_array().filter(|list| list.len() <= CAPABILITIES).ok_or_else(wrong)? {
        let name = name.as_str().filter(is_name).ok_or_else(wrong)?;
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn skills(params: &Value) -> Result<Vec<Skill>, String> {
    let wrong = || format!("skillPackages: expected a list of at most {SKILLS}");
    let Some(given) = params.get("skillPackages").filter(|given| !given.is_null()) else { return Ok(Vec::new()) };
    let (mut skills, mut ids, mut total) = (Vec::new(), Vec::new(), 0);
    for package in given.as_array().filter(|list| list.len() <= SKILLS).ok_or_else(wrong)? {
        let (name, version, told) = (id(package, "id")?, id(package, "version")?, digest(package, "digest")?);
        if ids.contains(&name) {
            return Err("skillPackages: two have the same id".into());
        }
        let mut files = archive(package, &name)?;
        total += files.iter().map(|(_, content)| content.len()).sum::<usize>();
        if total > TOTAL_LIMIT {
            return Err(format!("skillPackages: more than {TOTAL_LIMIT} bytes"));
        }
        crate::sort::sort_by(&mut files, |(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
        let mut all = Vec::new();
        for (path, content) in &files {
            for part in [path, content] {
                all.extend_from_slice(part.as_bytes());
                all.push(0);
            }
        }
        if told != format!("sha256:{}", crypto::sha256_hex(&all)) {
            return Err("digest: the files are not those that were digested".into());
        }
        skills.push(Skill { reference: format!("{name}@{version}"), digest: told, files });
        ids.push(name);
    }
    Ok(skills)
}

/// The files of a package, its `SKILL.md` first.
fn archive(package: &Value, name: &str) -> Result<Vec<(String, String)>, String> {
    let archive =
        package.get("archiveManifest").filter(|archive| archive.is_object() && archive.get("skills").is_none());
    let archive = archive.ok_or("archiveManifest: expected one skill")?;
    if archive.get("name").is_some_and(|given| given != name) {
        return Err("archiveManifest.name: expected the id of the package".into());
    }
    let main = ["skillMd", "markdown"].iter().find_map(|key| archive.get(*key)?.as_str());
    let mut files = vec![("SKILL.md".to_owned(), main.ok_or("skillMd: expected a text")?.to_owned())];
    let listed = match archive.get("files").filter(|files| !files.is_null()) {
        None => &[][..],
        Some(Value::Array(files)) if files.len() < FILES => files.as_slice(),
        Some(_) => return Err(format!("files: expected a list of less than {FILES}")),
    };
    for file in listed {
        if file.get("sourcePath").is_some_and(|path| !path.is_null()) {
            return Err("sourcePath: only content is taken".into());
        }
        let path = file.get("path").and_then(Value::as_str).filter(|path| is_inner_path(path));
        let path = path.ok_or("path: expected a relative path without . and ..")?;
        let content = file.get("content").and_then(Value::as_str).ok_or("content: expected a text")?;
        if is_in_the_way(&files, path) {
            return Err("files: two have the same path".into());
        }
        if file.get("size").is_some_and(|size| !size.is_null() && size.as_u64() != Some(content.len() as u64)) {
            return Err("size: the content has another one".into());
        }
        let sum = file.get("sha256").filter(|sum| !sum.is_null());
        if sum.is_some_and(|sum| *sum != crypto::sha256_hex(content.as_bytes())) {
            return Err("sha256: the content has another one".into());
        }
        files.push((path.to_owned(), content.to_owned()));
    }
    if files.iter().any(|(_, content)| content.len() > FILE_LIMIT) {
        return Err(format!("a file has more than {FILE_LIMIT} bytes"));
    }
    Ok(files)
}

/// What the agent's runtime can do, sorted.
fn available(route: &Route) -> Vec<&'static str> {
    let args = || route.extra_args.iter().map(String::as_str);
    let searches = match route.runtime.as_str() {
        "claude-code" | "deepseek-tui" | "gemini" | "kimi-cli" | "hermes-agent" => true,
        "codex" => args().any(|arg| arg == "--search" || arg.replace(['"', ' '], "").contains("web_search=true")),
        _ => false,
    };
    let confined = args().any(|arg| {
        let plain = arg.replace(['"', '\'', ' '], "");
        plain == "read-only"
            || plain == "--sandbox=read-only"
            || plain.split_once("sandbox_mode=").is_some_and(|(_, mode)| mode == "read-only")
    });
    let writes = !confined && rustix::fs::access(&route.cwd, rustix::fs::Access::WRITE_OK).is_ok();
    [("web.search", searches), ("workspace.write", writes)].into_iter().filter(|c| c.1).map(|c| c.0).collect()
}

#[cfg(test)]
mod tests {
    use super::super::vectors;
    use super::*;
    use crate::store::tests::TempDir;

    #[test]
    fn profiles_are_laid_down_as_the_vectors_say() {
        let (mut failed, mut count) = (Vec::new(), 0);
        for case in vectors::cases("daemon-local.json") {
            let dir = TempDir::new();
            let case =
                serde_json::from_str::<Value>(&case.to_string().replace("$HOME/w (writable)", "$HOME/w")).unwrap();
            let (input, expected) =
                (&vectors::in_home(&case["input"], &dir.0), vectors::in_home(&case["expect"], &dir.0));
            let home = Home::at(dir.0.join(".botcord")).unwrap();
            let found = match input["kind"].as_str().unwrap() {
                "session_dir" => {
                    let path =
                        directory(&home, input["agent_id"].as_str().unwrap(), input["room_id"].as_str().unwrap());
                    json!({"path": path})
                }
                "session_profile_apply" => applied(&home, input),
                _ => continue,
            };
            count += 1;
            if found != expected {
                failed.push(format!("{}\n  expected {expected}\n  found    {found}", case["name"]));
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
        assert!(count > 0);
    }

    fn applied(home: &Home, input: &Value) -> Value {
        let (params, route, now) = (&input["params"], &input["route"], input["now_ms"].as_i64().unwrap());
        let cwd = PathBuf::from(route["cwd"].as_str().unwrap());
        fs::create_dir_all(&cwd).unwrap();
        let route = Route {
            runtime: route["runtime"].as_str().unwrap().to_owned(),
            extra_args: vectors::strings(&route["extraArgs"]),
            cwd,
            ..Route::default()
        };
        let agent = params["agentId"].as_str().unwrap();
        let place = Place::read(home, agent, params).unwrap();
        let done = apply(&place, &route, params, now);
        let path = directory(home, agent, place.room).join("profile.json");
        let stored: Value = fs::read(path).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
        let got = get(&place, params, now).map_err(|refused| refused.code);
        let Ok(value) = done else {
            assert_eq!(got, Err("session_profile_missing"));
            let left = fs::read_dir(home.agent_dir(agent).join("sessions")).into_iter().flatten().count();
            assert_eq!(left, 0, "nothing is left of what was refused");
            return json!({"ok": false, "stored": stored});
        };
        assert_eq!(got, Ok(value.clone()));
        let other = json!({"profileId": "crp_other"});
        assert_eq!(get(&place, &other, now).unwrap_err().code, "session_profile_mismatch");
        let until = now + params["ttlSeconds"].as_i64().unwrap() * 1_000;
        assert_eq!(get(&place, params, until).unwrap_err().code, "session_profile_missing");
        // What the prompt reads is what was laid down; once more in its place is as good.
        assert!(profile::read(&home.agent_dir(agent), agent, place.room, now).is_some());
        assert_eq!(apply(&place, &route, params, now), Ok(value.clone()));
        json!({"ok": true, "value": value, "stored": stored})
    }
}
