//! The command line as a person meets it: the real program, without a daemon.

#[path = "support/echo_daemon.rs"]
#[allow(dead_code)]
mod echo_daemon;

use std::path::Path;

use bellhop::cli::man;
use bellhop::cli::table::COMMANDS;
use bellhop::config::load;
use bellhop::config::paths::directory_conversation;
use echo_daemon::{Place, Ran};

#[test]
fn every_command_and_verb_has_help() {
    let place = Place::new();
    for command in COMMANDS {
        let names = std::iter::once(vec![command.name]).chain(command.verbs.iter().map(|v| vec![command.name, v.name]));
        for name in names {
            let ran = place.run(&[&name[..], &["--help"]].concat());
            assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{name:?}");
            assert!(ran.out.contains(&format!("Usage: bellhop {}", name.join(" "))), "{name:?}: {}", ran.out);
            let ran = place.run(&[&["help"], &name[..]].concat());
            assert_eq!(ran.code, Some(0), "help {name:?}");
        }
    }
}

#[test]
fn without_arguments_there_is_help_and_status_1() {
    let ran = Place::new().run(&[]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("Usage: bellhop"), "{}", ran.out);
    assert_eq!(ran.err, "");
}

#[test]
fn the_version_is_shown_everywhere() {
    let place = Place::new();
    let version = format!("bellhop {}\n", env!("CARGO_PKG_VERSION"));
    for args in [&["version"][..], &["--version"], &["-V"], &["send", "--version"], &["sessions", "list", "-V"]] {
        let ran = place.run(args);
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), version.as_str()), "{args:?}");
    }
}

#[test]
fn what_is_not_understood_ends_with_status_2_and_names_the_nearest() {
    let place = Place::new();
    for (args, words) in [
        (&["sned", "x"][..], "unknown command sned; did you mean send?"),
        (&["send", "--jsno", "x"], "unknown option --jsno; did you mean --json?"),
        (&["send", "-x", "y"], "unknown option -x"),
        (&["send"], "send needs TEXT|-"),
        (&["send", "--json"], "send needs TEXT|-"),
        (&["send", "--timeout", "soon", "x"], "option --timeout: expected a whole number, found \"soon\""),
        (&["send", "--timeout=0", "x"], "option --timeout: expected at least 1 second"),
        (&["send", "--file", "/nowhere", "x"], "--file: /nowhere"),
        (&["send", "--cwd", "/nowhere", "x"], "--cwd: /nowhere"),
        (&["send", ""], "the message is empty"),
        (&["sessions", "rest"], "unknown verb of sessions rest; did you mean reset?"),
        (&["sessions", "reset"], "takes one of KEY, --conversation and --all"),
        (&["sessions", "reset", "k", "--all"], "takes one of KEY, --conversation and --all"),
        (&["transcript"], "transcript needs a verb: list, tail"),
        (&["transcript", "tail", "--room", "a", "--conversation", "b"], "are the same option"),
        (&["debug", "runtime-error"], "takes one of --turn-id and --error-ref"),
        (&["transcript", "prune", "--all"], "add --yes"),
        (&["transcript", "prune", "--older-than", "5w"], "found \"5w\""),
        (&["start", "--background", "--foreground"], "not both"),
        (&["memory", "delete"], "needs --section"),
        (&["status", "--home"], "option --home needs a value"),
        (&["status", "--home="], "--home is empty"),
        (&["completions", "tcsh"], "expected bash, zsh, fish"),
    ] {
        let ran = place.run(args);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{args:?}: {}", ran.err);
        assert!(ran.err.starts_with("bellhop: ") && ran.err.contains(words), "{args:?}: {}", ran.err);
    }
}

#[test]
fn the_manual_pages_in_the_tree_are_up_to_date() {
    for name in man::PAGES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(name);
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            man::page(name).as_ref() == Some(&there),
            "man/{name} is stale; renew it with: cargo run -- man {name} > man/{name}"
        );
    }
}

#[test]
fn manual_pages_come_out_of_the_program() {
    let place = Place::new();
    for name in man::PAGES {
        assert_eq!(Some(place.run(&["man", name]).out), man::page(name));
    }
    assert_eq!(Some(place.run(&["man"]).out), man::page("bellhop.1"));
}

#[test]
fn completion_scripts_know_every_command() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let ran = place.run(&["completions", shell]);
        assert_eq!(ran.code, Some(0));
        for command in COMMANDS.iter().filter(|c| !c.hidden) {
            assert!(ran.out.contains(command.name), "{shell}: {}", command.name);
            for option in command.options.iter().chain(command.verbs.iter().flat_map(|v| v.options)) {
                assert!(ran.out.contains(option.long), "{shell}: {}", option.long);
            }
        }
    }
}

#[test]
fn bash_completes() {
    // The words of a command line; the last one is being typed.
    let complete = |words: &[&str]| {
        let quoted: Vec<_> = words.iter().map(|w| format!("'{w}'")).collect();
        let script = format!(
            "source <({} completions bash); COMP_WORDS=({}); COMP_CWORD={}; _bellhop; echo \"${{COMPREPLY[@]}}\"",
            env!("CARGO_BIN_EXE_bellhop"),
            quoted.join(" "),
            words.len() - 1
        );
        let output = std::process::Command::new("bash").args(["--norc", "-c", &script]).output().ok()?;
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words:?}");
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    // Machines without bash have nothing to complete.
    let Some(first) = complete(&["bellhop", "s"]) else { return };
    assert_eq!(first, "send status start service stop sessions");
    for (words, expected) in [
        (&["bellhop", "sessions", ""][..], "list reset --json --home --help --version"),
        (&["bellhop", "send", "--runtime", "g"], "gemini"),
        (&["bellhop", "--home", "/x", "sessions", "reset", "--a"], "--all"),
        (&["bellhop", "completions", "z"], "zsh"),
        (&["bellhop", "usage", "--by", ""], "agent day conversation runtime turn"),
        (&["bellhop", "send", "--timeout", ""], ""),
    ] {
        assert_eq!(complete(words).as_deref(), Some(expected), "{words:?}");
    }
}

#[test]
fn a_configuration_with_mistakes_names_file_line_field_and_what_is_expected() {
    let place = Place::new();
    let config = "{\n  \"defaultRoute\": {\n    \"adapter\": \"claud\",\n    \"cwd\": \"here\"\n  },\n  \
                  \"turnTimeoutSeconds\": \"30\",\n  \"promptVia\": \"pipe\"\n}\n";
    place.write("daemon/config.json", config);
    let file = place.home.join("daemon/config.json");
    for args in [&["config", "check"][..], &["config"], &["start", "--foreground"], &["transcript", "enable"]] {
        let ran = place.run(args);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{args:?}");
        for (line, words) in [
            (3, "defaultRoute.adapter: unknown runtime \"claud\"; expected one of claude-code, codex"),
            (4, "defaultRoute.cwd: expected an absolute path"),
            (6, "turnTimeoutSeconds: expected a whole number from 1 to 604800, found \"30\""),
            (7, "promptVia: expected \"stdin\" or \"argv\", found \"pipe\""),
        ] {
            let expected = format!("{}:{line}: {words}", file.display());
            assert!(ran.err.contains(&expected), "{args:?}: wanted {expected} in\n{}", ran.err);
        }
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), config, "the file is as it was");
}

#[test]
fn broken_json_is_placed() {
    let place = Place::new();
    place.write("daemon/config.json", "{\n  \"routes\": [\n  }\n");
    let ran = place.run(&["config", "check"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("config.json:3: not JSON: "), "{}", ran.err);
}

#[test]
fn no_configuration_and_unknown_keys_are_fine() {
    let place = Place::new();
    let ran = place.run(&["config", "check"]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.contains("all defaults hold"), "{}", ran.out);
    place.write("daemon/config.json", "{\"maxConcurrentTurn\": 3,\n\"rotation\": {\"turns\": 3}}");
    let ran = place.run(&["config", "check"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("maxConcurrentTurn (line 1), rotation.turns (line 2)"), "{}", ran.err);
}

#[test]
fn switching_transcripts_keeps_the_rest_of_the_file() {
    let place = Place::new();
    place.write("daemon/config.json", "{\"zeta\": [1, {\"b\": 2}], \"transcript\": {\"keep\": 1}, \"alpha\": null}");
    assert_eq!(place.run(&["transcript", "disable"]).code, Some(0));
    let text = std::fs::read_to_string(place.home.join("daemon/config.json")).unwrap();
    let order: Vec<_> =
        ["zeta", "transcript", "keep", "enabled", "alpha"].iter().map(|k| text.find(k).unwrap()).collect();
    assert!(order.is_sorted(), "{text}");
    let status = place.run(&["transcript", "status"]).out;
    assert!(status.starts_with("enabled: false\nsource: config ("), "{status}");
    let ran = place.command(&["transcript", "status"]).env("BOTCORD_TRANSCRIPT", "1").output().unwrap();
    assert!(String::from_utf8_lossy(&ran.stdout).starts_with("enabled: true\nsource: env BOTCORD_TRANSCRIPT=1"));
}

#[test]
fn transcripts_are_found_by_what_they_hold() {
    let place = Place::new();
    let record = |room: &str, topic: &str, n: u32| {
        let topic = if topic.is_empty() { "null".to_owned() } else { format!("\"{topic}\"") };
        format!("{{\"kind\":\"inbound\",\"agentId\":\"local\",\"roomId\":\"{room}\",\"topicId\":{topic},\"n\":{n}}}\n")
    };
    let dir = "agents/local/transcripts";
    place.write(&format!("{dir}/x%2Fy/_default.jsonl"), &(record("x/y", "", 3) + &record("x/y", "", 4)));
    place.write(&format!("{dir}/x%2Fy/_default.20270115-080000.jsonl"), &record("x/y", "", 1));
    place.write(&format!("{dir}/x%2Fy/_default.20270116-080000.jsonl"), &record("x/y", "", 2));
    place.write(&format!("{dir}/x%2Fy/t.jsonl"), &record("x/y", "t", 9));
    place.write(&format!("{dir}/other/_default.jsonl"), &record("other", "", 8));
    assert_eq!(place.run(&["transcript", "list"]).out, "other\nx/y\n");
    let numbers = |args: &[&str]| -> Vec<u64> {
        let ran = place.run(args);
        ran.out.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["n"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(&["transcript", "dump", "--room", "x/y"]), [1, 2, 3, 4]);
    assert_eq!(numbers(&["transcript", "dump", "--room=x/y", "--topic=t"]), [9]);
    assert_eq!(numbers(&["transcript", "tail", "--conversation", "x/y", "-n1"]), [4]);
    // Without a name: the conversation of the current directory.
    let here = directory_conversation(&std::fs::canonicalize(place.home.join("work")).unwrap());
    assert_eq!(place.run(&["transcript", "dump"]).code, Some(1));
    place.write(&format!("{dir}/{here}/_default.jsonl"), &record(&here, "", 7));
    assert_eq!(numbers(&["transcript", "dump"]), [7]);
    assert_eq!(numbers(&["transcript", "tail"]), [7]);
    let ran = place.run(&["transcript", "tail", "--room", "none"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(place.run(&["transcript", "prune", "--older-than", "1d"]).out, "0 files deleted\n");
    assert_eq!(place.run(&["transcript", "prune"]).out, "2 files deleted\n");
    assert_eq!(numbers(&["transcript", "dump", "--room", "x/y"]), [3, 4]);
}

#[test]
fn the_evidence_of_a_failure_is_found() {
    let place = Place::new();
    let record = |turn: &str, reference: &str| {
        format!(
            "{{\"ts\":\"T\",\"kind\":\"turn_error\",\"agentId\":\"local\",\"roomId\":\"c\",\"topicId\":null,\"turnId\":\"{turn}\",\
             \"runtime\":\"codex\",\"error\":\"it broke\",\"errorRef\":\"{reference}\"}}\n"
        )
    };
    let text = record("t1", "err_1") + &record("t2", "err_2");
    place.write("agents/local/transcripts/c/_default.jsonl", &text);
    for by in [&["--turn-id", "t2"], &["--error-ref", "err_2"]] {
        let ran = place.run(&[&["debug", "runtime-error", "--room", "c"][..], by].concat());
        let found: serde_json::Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        assert_eq!((&found["turn_id"], &found["error_ref"]), (&"t2".into(), &"err_2".into()));
        assert_eq!(found["message"], "it broke");
    }
    let ran = place.run(&["debug", "runtime-error", "--conversation", "c", "--turn-id", "t3"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(1), "", "bellhop: no failure t3 of local in c\n"));
}

#[test]
fn a_tilde_that_the_shell_has_left_is_the_home_of_the_user() {
    let place = Place::new();
    let config = |home: &str| place.home.join(home).join("daemon/config.json").display().to_string() + "\n";
    assert_eq!(place.run(&["--home=~/a b", "config", "path"]).out, config("a b"));
    let by_variable = place.command(&["config", "path"]).env("BELLHOP_HOME", "~/c").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&by_variable.stdout), config("c"));
    assert_eq!(place.run(&["route", "add", "--room", "r", "--cwd=~/work"]).code, Some(0));
    let routes: serde_json::Value = serde_json::from_str(&place.run(&["route", "list", "--json"]).out).unwrap();
    assert_eq!(routes["routes"][0]["cwd"], place.home.join("work").display().to_string());
    assert!(!place.home.join("work/~").exists());
}

#[test]
fn a_home_that_cannot_be_used_is_explained_in_one_line() {
    let place = Place::new();
    place.write("file", "");
    let file = place.home.join("file").display().to_string();
    let below = format!("{file}/home");
    // Nobody, root included, can make a directory there.
    for (home, words) in [
        (file.as_str(), format!("{file} is not a directory")),
        (&below, format!("{file} is not a directory")),
        ("/proc/bellhop", "/proc/bellhop cannot be created".into()),
    ] {
        for args in [&["start", "--foreground"][..], &["start", "--background"], &["memory", "clear"]] {
            let ran = place.run(&[&["--home", home], args].concat());
            assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{home} {args:?}: {}", ran.err);
            assert!(ran.err.contains(&words) && ran.err.lines().count() == 1, "{home} {args:?}: {}", ran.err);
        }
    }
    let output = place.command(&["status"]).env_remove("BELLHOP_HOME").env_remove("HOME").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("no home: "));
}

#[test]
fn a_home_without_permission_is_not_writable() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let dir = place.home.join("locked");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o500)).unwrap();
    // Root may write everywhere; then the home has to work instead.
    let root = std::fs::write(dir.join("probe"), "").is_ok();
    let ran = place.run(&["--home", dir.to_str().unwrap(), "memory", "clear"]);
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    if root {
        assert_eq!(ran.code, Some(0), "{}", ran.err);
    } else {
        assert_eq!(ran.code, Some(1));
        assert!(ran.err.contains("locked is not writable: permission denied"), "{}", ran.err);
    }
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    // A directory where the lock file has to be.
    let place = Place::new();
    std::fs::create_dir(place.home.join("daemon/daemon.lock")).unwrap();
    for args in [&["start", "--foreground"][..], &["start", "--background"]] {
        let ran = place.run(args);
        assert_eq!(ran.code, Some(1), "{args:?}: {}", ran.err);
        assert!(ran.err.contains("daemon.lock"), "{args:?}: {}", ran.err);
    }
}

#[test]
fn without_a_daemon_clients_end_with_status_3() {
    let place = Place::new();
    let ran = place.run(&["status"]);
    assert_eq!(ran.code, Some(3));
    assert_eq!(ran.out, "daemon: stopped\nnot logged in (control plane disabled)\n");
    let ran = place.run(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &status["pid"], &status["alive"]), (Some(3), &serde_json::Value::Null, &false.into()));
    for args in [&["cancel"][..], &["cancel", "id"], &["send", "--no-wait", "x"]] {
        let ran = place.run(args);
        assert_eq!((ran.code, ran.out.as_str()), (Some(3), ""), "{args:?}");
        assert!(ran.err.contains("bellhop start --background"), "{}", ran.err);
    }
    let ran = place.run(&["stop"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "bellhop: no daemon runs on this home\n"));
    let ran = place.run(&["logs"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("there is no log yet"), "{}", ran.err);
}

#[test]
fn sessions_are_listed_and_forgotten_without_a_daemon() {
    let place = Place::new();
    let entry = |key: &str, room: &str, at: u64| {
        format!(
            "\"{key}\": {{\"key\": \"{key}\", \"runtime\": \"codex\", \"runtimeSessionId\": \"s-{key}\", \"channel\": \"local\", \
             \"accountId\": \"local\", \"conversationKind\": \"direct\", \"conversationId\": \"{room}\", \"threadId\": null, \
             \"cwd\": \"/w\", \"updatedAt\": {at}, \"turnCount\": 7}}"
        )
    };
    let all = [entry("k1", "c1", 1), entry("k2", "c2", 2), entry("k3", "c2", 3)].join(",");
    place.write("daemon/sessions.json", &format!("{{\"version\": 1, \"later\": true, \"entries\": {{{all}}}}}"));
    let keys = || -> Vec<String> {
        let list: serde_json::Value = serde_json::from_str(&place.run(&["sessions", "--json"]).out).unwrap();
        list["sessions"].as_array().unwrap().iter().map(|s| s["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(), ["k3", "k2", "k1"]);
    assert_eq!(place.run(&["sessions", "reset", "nothing"]).code, Some(1));
    assert_eq!(place.run(&["sessions", "reset", "--conversation", "c2"]).out, "2 sessions forgotten\n");
    assert_eq!(keys(), ["k1"]);
    let text = std::fs::read_to_string(place.home.join("daemon/sessions.json")).unwrap();
    assert!(text.contains("turnCount") && text.contains("later"), "what is not known survives: {text}");
    assert_eq!(place.run(&["sessions", "reset", "--all"]).code, Some(0));
    assert_eq!(place.run(&["sessions"]).out, "no sessions\n");
}

#[test]
fn memory_is_shown_and_changed() {
    let place = Place::new();
    assert!(place.run(&["memory"]).out.contains("is empty"));
    let ran = place.run(&["memory", "set", "--goal", "ship it", "--content=-x"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let answer: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        answer,
        serde_json::json!({"ok": true, "totalChars": 9, "goal": "ship it", "section": "notes", "sectionPresent": true})
    );
    assert!(place.run(&["memory", "get"]).out.starts_with("goal: ship it\n\n[section: notes]\n-x\n"));
    assert_eq!(place.run(&["memory", "set"]).code, Some(1));
    assert_eq!(place.run(&["memory", "delete", "--section", "notes"]).code, Some(0));
    assert_eq!(place.run(&["memory", "set", "--goal="]).code, Some(0));
    let memory: serde_json::Value = serde_json::from_str(&place.run(&["memory", "--json"]).out).unwrap();
    assert_eq!(memory["memory"]["sections"], serde_json::json!({}));
}

#[test]
fn the_doctor_finds_what_is_broken() {
    let place = Place::new();
    let ran = place.run(&["doctor"]);
    assert!(ran.out.contains("/7 runtimes available"), "{}", ran.out);
    place.write("daemon/config.json", "{\"streamBlocks\": 1}");
    let ran = place.run(&["doctor", "--json"]);
    assert_eq!(ran.code, Some(1));
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let config = report["checks"].as_array().unwrap().iter().find(|c| c["what"] == "config").unwrap();
    assert_eq!(config["verdict"], "broken");
    assert!(config["fix"].is_string() && config["text"].as_str().unwrap().contains("config.json:1: streamBlocks"));
}

#[test]
fn the_example_in_the_manual_is_right() {
    let page = man::page("bellhop.json.5").unwrap();
    let example = page.split(".nf\n").nth(1).and_then(|t| t.split("\n.fi").next()).unwrap();
    let example = example.replace("\\(dq", "\"").replace("\\-", "-").replace("\\(ti", "~");
    let config = load::parse(&example, Path::new("example")).unwrap();
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.local_agents.len(), 2);
}

/// A program in the home.
fn program(place: &Place, name: &str, script: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    place.write(name, script);
    let path = place.home.join(name);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

/// A CLI that counts how often it is asked for its version, and knows whether it is logged in.
fn fake_codex(place: &Place) -> std::path::PathBuf {
    program(
        place,
        "codex",
        "#!/bin/sh\ncase \"$*\" in\n\
         --version) echo x >>\"$HOME/asked\"; echo codex-cli 7.0.0 ;;\n\
         'debug models') echo '{\"models\":[{\"slug\":\"gpt-x\"}]}' ;;\n\
         'login status') echo 'Not logged in' >&2; exit 1 ;;\n\
         *) exit 2 ;;\nesac\n",
    )
}

#[test]
fn runtimes_are_listed_with_what_can_be_chosen() {
    let place = Place::new();
    let codex = fake_codex(&place);
    let list = |args: &[&str]| {
        let ran = Ran::of(place.command(args).env("BELLHOP_CODEX_BIN", &codex).output().unwrap());
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        ran.out
    };
    for _ in 0..2 {
        let rows: serde_json::Value = serde_json::from_str(&list(&["runtimes", "--json"])).unwrap();
        let row = rows.as_array().unwrap().iter().find(|row| row["id"] == "codex").unwrap();
        assert_eq!((&row["available"], &row["version"]), (&true.into(), &"codex-cli 7.0.0".into()));
        assert!(row.get("models").is_none());
    }
    let rows: serde_json::Value = serde_json::from_str(&list(&["runtimes", "--json", "--models"])).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["id"] == "codex").unwrap();
    assert_eq!(row["models"][0]["id"], "gpt-x");
    assert!(list(&["runtimes", "--models"]).contains("\n    model gpt-x\n"));
    let asked = std::fs::read_to_string(place.home.join("asked")).unwrap();
    assert_eq!(asked.lines().count(), 1, "the version is remembered between commands");
}

#[test]
fn the_doctor_asks_for_logins_when_told_to() {
    let place = Place::new();
    let codex = fake_codex(&place);
    let doctor = |args: &[&str]| Ran::of(place.command(args).env("BELLHOP_CODEX_BIN", &codex).output().unwrap()).out;
    assert!(!doctor(&["doctor"]).contains("auth"));
    let out = doctor(&["doctor", "--auth-check"]);
    assert!(out.contains("\n    auth failed: Not logged in\n"), "{out}");
    assert!(out.contains("warning: version 7.x is newer"), "{out}");
    let out = doctor(&["doctor", "--auth-check=turn"]);
    assert!(out.contains("\n    auth failed: config: codex exited with code 2"), "{out}");
}

#[test]
fn a_trial_that_is_stopped_leaves_the_others_alone() {
    let place = Place::new();
    // Refused while the other one works, and stopped for it.
    let claude = program(
        &place,
        "claude",
        "#!/bin/sh\n[ \"$1\" = --version ] && exec echo 2.0.0\n\
         trap ': >\"$HOME/stopped\"; exit 0' INT\n\
         until [ -e \"$HOME/began\" ]; do sleep 0.05; done\n\
         for n in 1 2; do\n\
         echo '{\"type\":\"system\",\"subtype\":\"api_retry\",\"error\":\"authentication_failed\"}'\n\
         done\nwhile :; do sleep 0.05; done\n",
    );
    let codex = program(
        &place,
        "codex",
        "#!/bin/sh\n[ \"$1\" = exec ] || exec echo codex-cli 0.1.0\n: >\"$HOME/began\"\n\
         until [ -e \"$HOME/stopped\" ]; do sleep 0.05; done\nsleep 0.5\n\
         echo '{\"type\":\"thread.started\",\"thread_id\":\"t1\"}'\necho '{\"type\":\"turn.completed\"}'\n",
    );
    let mut command = place.command(&["doctor", "--auth-check=turn"]);
    let out = Ran::of(command.env("BELLHOP_CLAUDE_BIN", claude).env("BELLHOP_CODEX_BIN", codex).output().unwrap()).out;
    assert!(out.contains("auth failed: auth: Failed to authenticate"), "{out}");
    assert!(out.contains(" ms, session t1"), "{out}");
}
