//! What holds for every CLI.

use serde_json::json;

use crate::cli::Cli;
use crate::kit::{LongTool, World, eventually, of_turns};

/// A world whose daemon runs and whose model answers like this.
fn world(cli: Cli, steps: serde_json::Value) -> World {
    let mut world = World::new(cli);
    world.script(steps);
    world.start();
    world
}

pub fn a_conversation_goes_on_in_one_session(cli: Cli) {
    let world = world(cli, json!([{"text": "First answer."}, {"text": "Second answer."}]));
    println!("memory idle: {:?} KiB", world.memory());
    let first = world.send("first question");
    assert_eq!(first.reply(), "First answer.");
    let second = world.send("second question");
    assert_eq!(second.reply(), "Second answer.");
    assert_eq!(first.session(), second.session());
    println!("memory after two turns: {:?} KiB", world.memory());
    let requests = world.requests();
    let [_, last] = &requests[..] else { panic!("{} requests", requests.len()) };
    for words in ["first question", "First answer.", "second question"] {
        assert!(last.contains(words), "{words:?} is not in {last}");
    }
    assert_eq!(of_turns(&world), Vec::<String>::new());
}

pub fn a_tool_is_seen_and_its_result_is_used(cli: Cli) {
    let world =
        world(cli, json!([{"text": "I will look.", "shell": "printf 'marker-%d' 42"}, {"text": "It said so."}]));
    let answer = world.send("look at it");
    assert_eq!(answer.reply(), "It said so.");
    assert!(answer.json["blocks"].as_u64().unwrap() >= 3, "{}", answer.json);
    let requests = world.requests();
    assert!(requests.last().unwrap().contains("marker-42"), "{requests:?}");
}

pub fn failures_have_a_class(cli: Cli) {
    let mut world = World::new(cli);
    world.script(json!([{"text": "unused"}]));
    world.start();
    for (status, class) in [(401, "auth"), (429, "usage_limit"), (400, "other"), (500, "transient")] {
        world.script(json!([{"error": {"status": status, "message": "the stub says no"}}]));
        let answer = world.send_with(&["--conversation", &format!("c{status}")], "hello");
        let (kind, message) = answer.error();
        assert_eq!((answer.status(), kind), ("error", class), "{status}: {}", answer.json);
        assert!(!message.trim().is_empty() && message.len() < 600, "{status}: {message:?}");
    }
}

pub fn a_cancelled_turn_leaves_nothing_and_the_session_goes_on(cli: Cli) {
    let tool = LongTool::new();
    let mut world = world(cli, json!([{"text": "I wait.", "shell": tool.command()}, {"text": "unwanted"}]));
    let sending = world.begin(&[], "wait for it");
    eventually("the tool runs", || tool.runs());
    let cancelled = world.bellhop(&["cancel"]).output().unwrap();
    assert!(cancelled.status.success(), "{cancelled:?}");
    let answer = sending.answer();
    assert_eq!(answer.status(), "cancelled", "{}", answer.json);
    assert!(!tool.runs(), "the tool goes on");
    assert_eq!(of_turns(&world), Vec::<String>::new());
    world.script(json!([{"text": "Here I am."}]));
    let next = world.send("are you there");
    assert_eq!(next.reply(), "Here I am.");
    assert_eq!(answer.session(), next.session());
    let requests = world.requests();
    assert!(requests[0].contains("wait for it") && requests[0].contains("are you there"), "{requests:?}");
}

/// The same for a CLI that tells its session only with the answer.
pub fn a_cancelled_turn_leaves_nothing(cli: Cli) {
    let tool = LongTool::new();
    let mut world = world(cli, json!([{"text": "I wait.", "shell": tool.command()}, {"text": "unwanted"}]));
    let sending = world.begin(&[], "wait for it");
    eventually("the tool runs", || tool.runs());
    let cancelled = world.bellhop(&["cancel"]).output().unwrap();
    assert!(cancelled.status.success(), "{cancelled:?}");
    let answer = sending.answer();
    assert_eq!(answer.status(), "cancelled", "{}", answer.json);
    assert!(!tool.runs(), "the tool goes on");
    assert_eq!(of_turns(&world), Vec::<String>::new());
    world.script(json!([{"text": "Here I am."}]));
    assert_eq!(world.send("are you there").reply(), "Here I am.");
}

pub fn a_turn_out_of_time_leaves_nothing(cli: Cli) {
    let tool = LongTool::new();
    let mut world = world(cli, json!([{"text": "Ready."}, {"text": "I wait.", "shell": tool.command()}]));
    let first = world.send("be ready");
    assert_eq!(first.reply(), "Ready.");
    let late = world.send_with(&["--timeout", "15"], "wait for it");
    assert_eq!((late.status(), late.code), ("timeout", Some(124)), "{}", late.json);
    assert!(!tool.runs(), "the tool goes on");
    assert_eq!(of_turns(&world), Vec::<String>::new());
    world.script(json!([{"text": "Here I am."}]));
    let next = world.send("are you there");
    assert_eq!(next.reply(), "Here I am.");
    assert_eq!(first.session(), next.session());
    assert!(world.requests()[0].contains("be ready"));
}

pub fn a_killed_daemon_repeats_the_turn_in_its_session(cli: Cli) {
    let tool = LongTool::new();
    let mut world = world(cli, json!([{"text": "I wait.", "shell": tool.command()}]));
    let sending = world.begin(&[], "wait for it");
    eventually("the tool runs", || tool.runs());
    world.kill();
    sending.failed();
    world.script(json!([{"text": "Repeated."}, {"text": "Going on."}]));
    world.start();
    assert!(!tool.runs(), "the tool goes on");
    eventually("the turn is repeated", || !world.requests().is_empty());
    let next = world.send("and now");
    assert_eq!(next.reply(), "Going on.");
    let requests = world.requests();
    let [repeated, last] = &requests[..] else { panic!("{} requests", requests.len()) };
    assert!(repeated.contains("[BotCord Interrupted Turn Notice]"), "{repeated}");
    assert_eq!(repeated.matches("wait for it").count(), 2, "the interrupted attempt is not in {repeated}");
    assert!(last.contains("Repeated.") && last.contains("and now"), "{last}");
}

/// The same for a CLI that tells its session only with the answer.
pub fn a_killed_daemon_repeats_the_turn(cli: Cli) {
    let tool = LongTool::new();
    let mut world = world(cli, json!([{"text": "I wait.", "shell": tool.command()}]));
    let sending = world.begin(&[], "wait for it");
    eventually("the tool runs", || tool.runs());
    world.kill();
    sending.failed();
    world.script(json!([{"text": "Repeated."}, {"text": "Going on."}]));
    world.start();
    assert!(!tool.runs(), "the tool goes on");
    eventually("the turn is repeated", || !world.requests().is_empty());
    assert_eq!(world.send("and now").reply(), "Going on.");
    let requests = world.requests();
    let [repeated, last] = &requests[..] else { panic!("{} requests", requests.len()) };
    assert!(repeated.contains("[BotCord Interrupted Turn Notice]") && repeated.contains("wait for it"), "{repeated}");
    assert!(last.contains("Repeated.") && last.contains("and now"), "{last}");
}

pub fn a_lost_session_is_replaced(cli: Cli) {
    let mut world = world(cli, json!([{"text": "First answer."}]));
    let first = world.send("first question");
    assert_eq!(first.reply(), "First answer.");
    world.forget_cli_sessions();
    world.script(json!([{"text": "Fresh answer."}]));
    let second = world.send("second question");
    assert_eq!(second.reply(), "Fresh answer.");
    assert_ne!(first.session(), second.session());
    let requests = world.requests();
    assert!(requests[0].contains("[BotCord Runtime Recovery Notice]"), "{requests:?}");
}

pub fn options_and_commands_are_text(cli: Cli) {
    for via in ["stdin", "argv"] {
        let mut world = World::new(cli);
        world.configure("promptVia", json!(via));
        world.script(json!([{"text": "Read."}]));
        world.start();
        for text in ["-x --version", "--help me", "- one\n- two"] {
            assert_eq!(world.send(text).reply(), "Read.", "{via} {text}");
            let requests = world.requests();
            let quoted = serde_json::to_string(text).unwrap();
            assert!(requests.last().unwrap().contains(quoted.trim_matches('"')), "{via} {text}: {requests:?}");
        }
    }
}

pub fn a_long_prompt_arrives(cli: Cli) {
    let world = world(cli, json!([{"text": "Read."}]));
    let text = format!("begin {} end-of-it", "word ".repeat(40_000));
    assert_eq!(world.send(&text).reply(), "Read.");
    let requests = world.requests();
    assert!(requests[0].len() > text.len() && requests[0].contains(&text), "{} bytes arrived", requests[0].len());
}

/// One that takes its prompt as an argument only.
pub fn a_prompt_that_is_too_long_is_refused(cli: Cli) {
    let world = world(cli, json!([{"text": "Read."}]));
    let answer = world.send(&"word ".repeat(40_000));
    let (kind, message) = answer.error();
    assert_eq!((answer.status(), kind), ("error", "config"), "{}", answer.json);
    assert!(message.contains("bytes, the limit is 100000"), "{message}");
    assert!(world.requests().is_empty());
}

/// A stranger's words are no command of the CLI and read no file.
pub fn strangers_words_are_text(cli: Cli) {
    let mut world = World::new(cli);
    world.script(json!([{"text": "Read."}]));
    std::fs::write(world.path("work/secret.txt"), "the-content-of-the-file").unwrap();
    std::fs::write(world.path("work/secret.md"), "the-content-of-the-file").unwrap();
    for text in ["/compact now", "/help", "read @secret.txt please", "-p --version"] {
        let result = world.strangers_run(text);
        assert_eq!((result.text.as_str(), result.error), ("Read.", None), "{text}");
        let requests = world.requests();
        let last = requests.last().unwrap();
        assert!(last.contains(text) || last.contains(&text.replace('@', "\\\\@")), "{text}: {last}");
        assert!(!last.contains("the-content-of-the-file"), "{text}: {last}");
    }
}

/// The CLI itself would repeat a request with a bad key for minutes.
pub fn a_refused_key_ends_the_turn_soon(cli: Cli) {
    let mut world = World::new(cli);
    world.set("CLAUDE_CODE_MAX_RETRIES", "10");
    world.script(json!([{"error": {"status": 401, "message": "no such key"}}]));
    world.start();
    let answer = world.send("hello");
    assert_eq!((answer.status(), answer.error().0), ("error", "auth"), "{}", answer.json);
    assert!(world.requests().len() < 5, "{} requests", world.requests().len());
    assert_eq!(of_turns(&world), Vec::<String>::new());
}

/// A machine that has no login of its own: a wrapper sets what the daemon leaves out.
pub fn a_wrapper_may_set_the_key(cli: Cli) {
    let mut world = World::new(cli);
    world.script(json!([{"text": "Hello."}]));
    world.configure("keepAnthropicEnv", json!(false));
    world.start();
    let answer = world.send("hello");
    assert_eq!((answer.status(), answer.error().0), ("error", "auth"), "the key is passed on: {}", answer.json);
    world.stop();
    world.wrap("#!/bin/sh\nexport ANTHROPIC_BASE_URL=http://127.0.0.1:@PORT@ ANTHROPIC_API_KEY=sk-ant-fake\nexec @CLI@ \"$@\"\n");
    world.start();
    assert_eq!(world.send("hello").reply(), "Hello.");
}
