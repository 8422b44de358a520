//! What holds for agents that speak the Agent Client Protocol and are named in `acpRuntimes`.
//!
//! An agent need not be able to open an earlier session. Where it is not, the next turn says so with another
//! session id and the notice that the conversation starts anew; both ways the turn is answered.

use serde_json::{Value, json};

use crate::cli::Cli;
use crate::kit::{Answer, LongTool, World, eventually, of_turns};

fn world(cli: Cli, steps: Value) -> World {
    let mut world = World::new(cli);
    world.script(steps);
    world.start();
    world
}

/// The model heard of what was before, or that it is lost: which one is told by the session.
fn goes_on(before: &str, after: &Answer, request: &str, earlier: &str) {
    if before == after.session() {
        assert!(request.contains(earlier), "{earlier:?} is not in {request}");
        return;
    }
    println!("the session {before} is replaced by {}", after.session());
    assert!(request.contains("[BotCord Runtime Recovery Notice]"), "{request}");
}

pub fn a_turn_is_answered_and_the_session_goes_on(cli: Cli) {
    let world = world(cli, json!([{"text": "First answer."}, {"text": "Second answer."}]));
    let first = world.send("first question");
    assert_eq!(first.reply(), "First answer.");
    let second = world.send("second question");
    assert_eq!(second.reply(), "Second answer.");
    let requests = world.requests();
    let last = requests.last().unwrap();
    assert!(last.contains("second question"), "{last}");
    goes_on(first.session(), &second, last, "first question");
    // An agent has a moment for its farewell.
    eventually("the agent is gone", || of_turns(&world).is_empty());
}

pub fn a_tool_is_seen_and_its_result_is_used(cli: Cli) {
    let world =
        world(cli, json!([{"text": "I will look.", "shell": "printf 'marker-%d' 42"}, {"text": "It said so."}]));
    let answer = world.send("look at it");
    assert!(answer.reply().ends_with("It said so."), "{}", answer.json);
    assert!(answer.json["blocks"].as_u64().unwrap() >= 4, "{}", answer.json);
    let requests = world.requests();
    assert!(requests.last().unwrap().contains("marker-42"), "{requests:?}");
}

pub fn an_unknown_session_is_replaced(cli: Cli) {
    let mut world = world(cli, json!([{"text": "First answer."}]));
    let first = world.send("first question");
    assert_eq!(first.reply(), "First answer.");
    // An agent that is leaving may still write its session.
    eventually("the agent is gone", || of_turns(&world).is_empty());
    world.forget_cli_sessions();
    world.script(json!([{"text": "Fresh answer."}, {"text": "Third answer."}]));
    let second = world.send("second question");
    assert_eq!(second.reply(), "Fresh answer.");
    assert_ne!(first.session(), second.session());
    let requests = world.requests();
    assert!(requests[0].contains("[BotCord Runtime Recovery Notice]"), "{requests:?}");
    let third = world.send("third question");
    assert_eq!(third.reply(), "Third answer.");
    goes_on(second.session(), &third, world.requests().last().unwrap(), "second question");
}

pub fn a_cancelled_tool_leaves_nothing(cli: Cli) {
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
    goes_on(answer.session(), &next, world.requests().last().unwrap(), "wait for it");
}

pub fn a_refused_key_has_a_class(cli: Cli) {
    let world = world(cli, json!([{"error": {"status": 401, "message": "the stub says no"}}]));
    let answer = world.send("hello");
    let (kind, message) = answer.error();
    assert_eq!((answer.status(), kind), ("error", "auth"), "{}", answer.json);
    assert!(!message.trim().is_empty() && message.len() < 600, "{message:?}");
}
