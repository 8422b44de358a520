//! A home as the BotCord daemon leaves it is taken over as it is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::home::Home;
use crate::hub::{Hub, sign};

/// Stands for Claude Code: notes where it runs and how it was called, and goes on with the session that it is given.
const CLAUDE: &str = r#"#!/bin/sh
cat > /dev/null
{ pwd; printf '%s\n' "$@"; } > "$NOTES.tmp" && mv "$NOTES.tmp" "$NOTES"
printf '{"type":"system","subtype":"init","session_id":"5f0e2b1c-0000-4000-8000-000000000007"}\n'
printf '{"type":"result","subtype":"success","is_error":false,"result":"as before","session_id":"5f0e2b1c-0000-4000-8000-000000000007"}\n'
"#;

/// Copies the recorded home, with `words` in the places of their names; all that it wrote.
fn copy(from: &Path, to: &Path, words: &[(&str, String)]) -> Vec<PathBuf> {
    fs::create_dir_all(to).unwrap();
    let mut written = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let fill = |text: &str, mark: &str| {
            words.iter().fold(text.to_owned(), |text, (name, word)| text.replace(&format!("{mark}{name}{mark}"), word))
        };
        let name = path.file_name().unwrap().to_str().unwrap();
        let name = match name.split_once('.') {
            Some((stem, end)) if !stem.is_empty() => {
                let word = words.iter().find(|(word, _)| *word == stem);
                format!("{}.{end}", word.map_or(stem, |(_, word)| word))
            }
            _ => words.iter().find(|(word, _)| *word == name).map_or(name, |(_, word)| word).to_owned(),
        };
        let target = to.join(name);
        if path.is_dir() {
            written.extend(copy(&path, &target, words));
        } else {
            fs::write(&target, fill(&fs::read_to_string(&path).unwrap(), "@")).unwrap();
            fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
            written.push(target);
        }
    }
    written
}

#[test]
fn sessions_go_on_and_nothing_is_lost() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let said = hub.owner_says(&ada, "Where were we?");
    let home = Home::new();
    let (project, notes) = (home.dir.join("project"), home.dir.join("notes"));
    fs::create_dir_all(&project).unwrap();
    let claude = home.dir.join("claude");
    fs::write(&claude, CLAUDE).unwrap();
    fs::set_permissions(&claude, fs::Permissions::from_mode(0o755)).unwrap();
    let (token, expires) = hub.token(&ada);
    let words = [
        ("HUB", hub.url()),
        ("AGENT", ada.id.clone()),
        ("ROOM", said.room.clone()),
        ("KEYID", ada.key_id.clone()),
        ("PRIVATE", sign::base64(&ada.seed.0)),
        ("PUBLIC", ada.seed.public()),
        ("TOKEN", token),
        ("EXPIRES", expires.to_string()),
        ("HOME", home.dir.path().display().to_string()),
        ("CWD", project.display().to_string()),
        ("NOW", jiff::Timestamp::now().as_millisecond().to_string()),
    ];
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/botcord-home");
    let files = copy(&recorded, &home.root(), &words);
    let before: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();

    let told = home.run(&["doctor"]);
    let line = "the home of another daemon is taken over as it is: 1 agents, 2 sessions, the login of 6d0a4f6e-6a52";
    assert!(told.out.contains(line) && told.out.contains("to go back: bellhop stop"), "{told:?}");

    let mut command = home.command(&["start", "-d"]);
    command.env("BELLHOP_CLAUDE_BIN", &claude).env("NOTES", &notes);
    assert!(command.output().unwrap().status.success());
    assert_eq!(hub.wait_answer(&said)["payload"]["text"], "as before");
    hub.wait_settled(&said);

    let called = fs::read_to_string(&notes).unwrap();
    let called: Vec<&str> = called.lines().collect();
    assert_eq!(Path::new(called[0]), project.canonicalize().unwrap());
    let resumed = called.iter().position(|word| *word == "--resume").expect("it goes on with a session");
    assert_eq!(called[resumed + 1], "5f0e2b1c-0000-4000-8000-000000000007");
    assert!(called.contains(&"bypassPermissions"), "{called:?}");

    assert_eq!(home.run(&["stop", "--wait"]).code, Some(0));
    let sessions: Value = serde_json::from_slice(&fs::read(home.daemon().join("sessions.json")).unwrap()).unwrap();
    let entries = sessions["entries"].as_object().unwrap();
    let key = format!("claude-code:{0}:{0}:direct:{1}", ada.id, said.room);
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert_eq!((&entries[&key]["turnCount"], &entries[&key]["cwd"]), (&json!(8), &json!(words[9].1)));
    let written = [home.daemon().join("sessions.json"), home.root().join(format!("agents/{}/transcripts", ada.id))];
    for (path, before) in files.iter().zip(&before) {
        let now = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if path.starts_with(&written[1]) {
            assert!(now.starts_with(before) && now.len() > before.len(), "{}: it is the same file", path.display());
        } else if *path != written[0] {
            assert!(now == *before, "{} was changed", path.display());
        }
    }
}
