//! The ACP client against agents that do what no recording has.

mod support;

use bellhop::engine::cancel::{CancelReason, CancelToken};
use bellhop::engine::ports::{Approval, ErrorClass, ResumedSession, RunResult, SystemContext};
use bellhop::runtime::settings::McpServer;
use serde_json::{Value, json};
use support::fake_agent::{FakeAgent, Step};
use support::run_request::Recorder;

fn reads() -> Step {
    Step::In(Value::Null)
}

fn says(message: Value) -> Step {
    let mut message = message;
    message["jsonrpc"] = json!("2.0");
    Step::Out(message.to_string())
}

fn answers(id: u64, result: Value) -> Step {
    says(json!({"id": id, "result": result}))
}

fn fails(id: u64, message: &str) -> Step {
    says(json!({"id": id, "error": {"code": -32603, "message": message}}))
}

fn words(text: &str) -> Step {
    says(json!({"method": "session/update", "params": {"sessionId": "s1",
        "update": {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}}}))
}

fn initialized(capabilities: Value) -> Vec<Step> {
    vec![reads(), answers(1, json!({"protocolVersion": 1, "agentCapabilities": capabilities}))]
}

/// Reads the prompt as request `id` and answers it.
fn prompted(id: u64) -> Vec<Step> {
    vec![reads(), words("Done."), answers(id, json!({"stopReason": "end_turn"}))]
}

fn session(id: u64) -> Vec<Step> {
    vec![reads(), answers(id, json!({"sessionId": "s1"}))]
}

fn play(agent: &FakeAgent, steps: &[Vec<Step>]) {
    agent.plays(&steps.concat(), b"", 0);
}

fn run(
    agent: &FakeAgent,
    resume: Option<(&str, Option<&str>)>,
    context: Option<&str>,
    sink: &mut Recorder,
) -> RunResult {
    let mut request = agent.request("hello");
    request.system_context = context.map(Into::into);
    request.extra_args = vec!["--model".into(), "m2".into()];
    request.session = resume.map(|(id, note)| ResumedSession {
        id: id.into(),
        note: note.map(str::to_owned),
        ..ResumedSession::default()
    });
    let given = sink.later.as_ref().map(|(_, token)| token.clone());
    agent.run(&request, &given.unwrap_or_else(|| CancelToken::new().unwrap()), sink).unwrap()
}

fn methods(agent: &FakeAgent) -> Vec<String> {
    agent.received().iter().map(|line| line["method"].as_str().unwrap_or("(answer)").to_owned()).collect()
}

fn prompt_text(agent: &FakeAgent) -> String {
    let received = agent.received();
    let prompt = received.iter().find(|line| line["method"] == "session/prompt").unwrap();
    prompt["params"]["prompt"][0]["text"].as_str().unwrap().to_owned()
}

#[test]
fn mode_and_model_are_set_where_they_are_offered() {
    let offer = json!({"sessionId": "s1", "modes": {"availableModes": [{"id": "yolo"}]},
        "models": {"availableModels": [{"modelId": "m2"}]}});
    let mut agent = FakeAgent::new("offering");
    agent.config().mode = Some("yolo".into());
    let settings = vec![reads(), answers(2, offer), reads(), fails(3, "no such mode"), reads(), answers(4, json!({}))];
    play(&agent, &[initialized(json!({})), settings, prompted(5)]);
    assert_eq!(run(&agent, None, None, &mut Recorder::default()).text, "Done.");
    let received = agent.received();
    assert_eq!(
        methods(&agent),
        ["initialize", "session/new", "session/set_mode", "session/set_model", "session/prompt"]
    );
    assert_eq!(received[2]["params"], json!({"sessionId": "s1", "modeId": "yolo"}));
    assert_eq!(received[3]["params"], json!({"sessionId": "s1", "modelId": "m2"}));

    play(&agent, &[initialized(json!({})), session(2), prompted(3)]);
    run(&agent, None, None, &mut Recorder::default());
    assert_eq!(methods(&agent), ["initialize", "session/new", "session/prompt"]);
}

#[test]
fn servers_reach_only_agents_that_can_use_them() {
    let servers: Vec<McpServer> =
        serde_json::from_value(json!([{"name": "a", "url": "http://x"}, {"name": "b", "command": "run"}])).unwrap();
    for (http, count) in [(false, 1), (true, 2)] {
        let mut agent = FakeAgent::new("tooled");
        agent.config().mcp_servers.clone_from(&servers);
        play(&agent, &[initialized(json!({"mcpCapabilities": {"http": http}})), session(2), prompted(3)]);
        run(&agent, None, None, &mut Recorder::default());
        assert_eq!(agent.received()[1]["params"]["mcpServers"].as_array().unwrap().len(), count);
    }
}

#[test]
fn an_agent_that_stays_after_its_reply_is_known_to_the_daemon() {
    let mut agent = FakeAgent::new("staying");
    agent.cli().settings.linger = std::time::Duration::from_millis(10);
    let steps = [initialized(json!({})), session(2), prompted(3)].concat();
    let words = |step: Step| match step {
        Step::In(_) => "read -r line\n".to_owned(),
        Step::Out(line) => format!("echo '{line}'\n"),
    };
    let script: String = steps.into_iter().map(words).collect();
    agent.config().command = vec!["sh".into(), "-c".into(), format!("{script}exec sleep 5")];
    let mut sink = Recorder::default();
    assert_eq!(run(&agent, None, None, &mut sink).text, "Done.");
    assert_eq!((sink.lingering.len(), &sink.lingering), (1, &sink.spawned));
}

#[test]
fn a_decision_may_come_later() {
    for (decision, option) in [(Approval::Allow, "once"), (Approval::Deny { reason: String::new() }, "never")] {
        let agent = FakeAgent::new("asking");
        let ask = says(json!({"id": "q", "method": "session/request_permission", "params": {"sessionId": "s1",
            "options": [{"optionId": "always", "kind": "allow_always"}, {"optionId": "once", "kind": "allow_once"},
                {"optionId": "never", "kind": "reject_once"}],
            "toolCall": {"title": "Bash", "rawInput": {"command": "rm -r x --token=hush"}}}}));
        let asking = vec![reads(), ask, reads(), answers(3, json!({}))];
        play(&agent, &[initialized(json!({})), session(2), asking]);
        let mut sink = Recorder { later: Some((decision, CancelToken::new().unwrap())), ..Recorder::default() };
        let result = run(&agent, None, None, &mut sink);
        assert_eq!((result.text.as_str(), result.error), ("", None));
        let answer = agent.received().pop().unwrap();
        assert_eq!((&answer["id"], &answer["result"]["outcome"]["optionId"]), (&json!("q"), &json!(option)));
        assert_eq!(sink.questions.len(), 1);
        assert_eq!(sink.questions[0].tool, "Bash");
        assert!(sink.questions[0].summary.starts_with("rm -r x") && !sink.questions[0].summary.contains("hush"));
    }
}

#[test]
fn an_agent_that_cannot_load_gets_a_new_session() {
    let agent = FakeAgent::new("forgetful");
    play(&agent, &[initialized(json!({"loadSession": false})), session(2), prompted(3)]);
    let result = run(&agent, Some(("old", None)), None, &mut Recorder::default());
    assert!(result.session_replaced);
    assert_eq!((result.text.as_str(), result.new_session_id.as_str()), ("Done.", "s1"));
    assert_eq!(methods(&agent), ["initialize", "session/new", "session/prompt"]);
}

#[test]
fn a_missing_login_is_not_answered_with_a_new_session() {
    let agent = FakeAgent::new("locked");
    let refused = says(json!({"id": 2, "error": {"code": -32000, "message": "Authentication required"}}));
    play(&agent, &[initialized(json!({"loadSession": true})), vec![reads(), refused]]);
    let result = run(&agent, Some(("old", None)), None, &mut Recorder::default());
    assert_eq!(result.error.unwrap().class, Some(ErrorClass::Auth));
    assert_eq!((result.new_session_id.as_str(), result.session_lost), ("old", false));
}

#[test]
fn odd_agents_are_errors() {
    let error = |steps: &[Vec<Step>]| {
        let agent = FakeAgent::new("odd");
        play(&agent, steps);
        run(&agent, None, None, &mut Recorder::default()).error.unwrap()
    };
    let version = error(&[vec![reads(), answers(1, json!({"protocolVersion": 7}))]]);
    assert!(version.message.contains("version 7") && version.message.contains("version 1"), "{}", version.message);
    let agent = FakeAgent::new("worded");
    play(&agent, &[vec![reads(), answers(1, json!({"protocolVersion": "1"}))], session(2), prompted(3)]);
    assert_eq!(run(&agent, None, None, &mut Recorder::default()).text, "Done.");
    let anonymous = error(&[initialized(json!({})), vec![reads(), answers(2, json!({}))]]);
    assert_eq!(anonymous.class, Some(ErrorClass::Protocol));
    let refusal = vec![reads(), answers(3, json!({"stopReason": "refusal"}))];
    let refused = error(&[initialized(json!({})), session(2), refusal]);
    assert_eq!((refused.message.as_str(), refused.class), ("prompt stopped: refusal", Some(ErrorClass::Refused)));

    let mut agent = FakeAgent::new("short-lived");
    agent.cli().plays("read -r line; echo 'bad config' >&2; exit 3");
    let error = run(&agent, None, None, &mut Recorder::default()).error.unwrap();
    assert_eq!(error.message, "acp:short-lived exited with code 3: bad config");
}

#[test]
fn words_of_a_failed_turn_are_no_reply() {
    let agent = FakeAgent::new("failing");
    let failing = vec![reads(), words("Half"), fails(3, "API Error: 500"), words(" and a late word")];
    play(&agent, &[initialized(json!({})), session(2), failing]);
    let mut sink = Recorder::default();
    let result = run(&agent, None, None, &mut sink);
    assert_eq!(result.text, "");
    assert_eq!(result.error.unwrap().class, Some(ErrorClass::Transient));
    assert_eq!(result.failure.unwrap().partial_text.as_deref(), Some("Half and a late word"));
    assert_eq!(sink.blocks.len(), 2);
    assert_eq!(result.new_session_id, "s1");
}

#[test]
fn without_a_file_the_context_is_told_when_it_changes() {
    let agent = FakeAgent::new("told");
    let steps = |load: &str| {
        [initialized(json!({"loadSession": true})), vec![reads(), answers(2, json!({"sessionId": load}))], prompted(3)]
    };
    play(&agent, &steps("s1"));
    let note = run(&agent, None, Some("Be kind."), &mut Recorder::default()).note.unwrap();
    assert_eq!(prompt_text(&agent), "<system-reminder>\nBe kind.\n</system-reminder>\n\nhello");

    play(&agent, &steps("s1"));
    let again = run(&agent, Some(("s1", Some(&note))), Some("Be kind."), &mut Recorder::default()).note;
    assert_eq!((prompt_text(&agent).as_str(), again.as_deref()), ("hello", Some(note.as_str())));

    play(&agent, &steps("s1"));
    run(&agent, Some(("s1", Some(&note))), Some("Be brief."), &mut Recorder::default());
    assert!(prompt_text(&agent).contains("Be brief."));
}

#[test]
fn a_session_is_not_told_all_again_for_what_is_about_the_moment() {
    for name in ["moment", "hermes-agent"] {
        let agent = FakeAgent::new(name);
        let mut note = None;
        for ago in ["1m ago", "2m ago"] {
            let usage = json!({"stopReason": "end_turn", "usage": {"totalTokens": 5, "outputTokens": 2}});
            let turn = vec![reads(), words("Done."), answers(3, usage)];
            play(&agent, &[initialized(json!({"loadSession": true})), session(2), turn]);
            let mut request = agent.request("hello");
            let passing = std::iter::once(8..10 + ago.len()).collect();
            request.system_context = Some(SystemContext { text: format!("Be kind.\n\n{ago}"), passing });
            let resumed = note.is_some();
            request.session =
                note.take().map(|note| ResumedSession { id: "s1".into(), note, ..ResumedSession::default() });
            let result = agent.run(&request, &CancelToken::new().unwrap(), &mut Recorder::default()).unwrap();
            assert_eq!(result.text, "Done.", "{:?}", result.error);
            if resumed {
                assert_eq!(prompt_text(&agent), format!("<system-reminder>\n{ago}\n</system-reminder>\n\nhello"));
            }
            note = Some(result.note);
        }
    }
}

#[test]
fn a_context_file_takes_the_context() {
    let mut agent = FakeAgent::new("filed");
    agent.config().context_file = Some("AGENTS.md".into());
    play(&agent, &[initialized(json!({})), session(2), prompted(3)]);
    run(&agent, None, Some("Be kind."), &mut Recorder::default());
    assert_eq!(prompt_text(&agent), "hello");
    let file = std::fs::read_to_string(agent.cli().join("cwd/AGENTS.md")).unwrap();
    assert!(file.contains("\n\nBe kind.\n"), "{file}");
}

#[test]
fn hermes_has_a_home_and_hears_of_a_changed_context() {
    let mut agent = FakeAgent::new("hermes-agent");
    let usage = json!({"stopReason": "end_turn", "usage": {"totalTokens": 5, "outputTokens": 2}});
    let turn = vec![reads(), words("HTTP 200: fine"), answers(3, usage)];
    let steps = [initialized(json!({"loadSession": true})), session(2), turn];
    play(&agent, &steps);
    let result = run(&agent, None, Some("First."), &mut Recorder::default());
    assert_eq!(result.text, "HTTP 200: fine");
    let file = agent.cli().join("bellhop/agents/ag_1/hermes-workspace/AGENTS.md");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "First.");
    assert!(agent.cli().join("bellhop/agents/ag_1/hermes-home/.env").exists());

    play(&agent, &steps);
    let changed = run(&agent, Some(("s1", result.note.as_deref())), Some("Second."), &mut Recorder::default());
    assert_eq!(prompt_text(&agent), "<system-reminder>\nSecond.\n</system-reminder>\n\nhello");
    assert_eq!(changed.note, result.note);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "Second.");
}

#[test]
fn a_turn_cancelled_while_a_question_waits_is_aborted() {
    let agent = FakeAgent::new("waiting");
    let ask =
        says(json!({"id": 0, "method": "session/request_permission", "params": {"sessionId": "s1", "options": []}}));
    let tool = says(json!({"method": "session/update", "params": {"sessionId": "s1",
        "update": {"sessionUpdate": "tool_call", "title": "look"}}}));
    play(&agent, &[initialized(json!({})), session(2), vec![reads(), ask, tool]]);
    let token = CancelToken::new().unwrap();
    let mut sink = Recorder { cancel_at: Some((1, token.clone())), ..Recorder::default() };
    let result = agent.run(&agent.request("hello"), &token, &mut sink).unwrap();
    assert_eq!(result.error.unwrap().message, "acp:waiting aborted");
    assert_eq!(result.new_session_id, "s1");
    let received = agent.received();
    assert_eq!(received[3]["result"]["outcome"], json!({"outcome": "cancelled"}));
    assert_eq!(received[4], json!({"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": "s1"}}));

    // One that comes after the wish to stop has to be answered, too: the agent waits for it.
    let once = json!([{"optionId": "a", "kind": "allow_once"}, {"optionId": "r", "kind": "reject_once"}]);
    let late = says(json!({"id": "late", "method": "session/request_permission",
        "params": {"sessionId": "s1", "options": once}}));
    let tool = says(json!({"method": "session/update", "params": {"sessionId": "s1",
        "update": {"sessionUpdate": "tool_call", "title": "look"}}}));
    let stopping = vec![reads(), tool, reads(), late, reads(), answers(3, json!({"stopReason": "cancelled"}))];
    play(&agent, &[initialized(json!({})), session(2), stopping]);
    let token = CancelToken::new().unwrap();
    let mut sink = Recorder { cancel_at: Some((1, token.clone())), ..Recorder::default() };
    agent.run(&agent.request("hello"), &token, &mut sink).unwrap();
    let answer = agent.received().pop().unwrap();
    assert_eq!((&answer["id"], &answer["result"]["outcome"]), (&json!("late"), &json!({"outcome": "cancelled"})));
    assert_eq!(sink.questions.len(), 0);

    let cancelled = CancelToken::new().unwrap();
    cancelled.cancel(CancelReason::User);
    let result = agent.run(&agent.request("hello"), &cancelled, &mut Recorder::default()).unwrap();
    assert_eq!(result.error.unwrap().message, "acp:waiting aborted before spawn");
}
