//! `openclaw-acp` against a bridge that plays what it is given.

mod support;

use std::sync::Arc;

use bellhop::engine::cancel::CancelToken;
use bellhop::engine::ports::{Approval, ErrorClass, Gateway, ResumedSession, RunRequest, RunResult, Runtime, Usage};
use bellhop::message::{BlockKind, TrustLevel};
use bellhop::runtime::openclaw::OpenClaw;
use bellhop::runtime::process::Process;
use serde_json::{Value, json};
use support::child::eventually;
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

fn chunk(text: &str) -> Step {
    update(json!({"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": text}}))
}

fn update(update: Value) -> Step {
    says(json!({"method": "session/update", "params": {"sessionId": "s1", "update": update}}))
}

/// `initialize` is read and answered.
fn greeted(rest: Vec<Step>) -> Vec<Step> {
    [vec![reads(), answers(1, json!({"protocolVersion": 1}))], rest].concat()
}

struct Bench {
    agent: FakeAgent,
    runtime: OpenClaw,
}

impl Bench {
    fn new(steps: &[Step]) -> Self {
        let mut agent = FakeAgent::new("openclaw-acp");
        agent.plays(steps, b"log line\n", 0);
        let runtime = OpenClaw::new(Arc::new(agent.cli().settings.clone()));
        Self { agent, runtime }
    }

    fn request(&self) -> RunRequest {
        let mut request = self.agent.request("hello");
        request.gateway = Some(Gateway {
            name: "lab".into(),
            url: "ws://127.0.0.1:18789".into(),
            token: Some("hush-hush".into()),
            openclaw_agent: Some("main".into()),
        });
        request
    }

    fn run(&self, request: &RunRequest, sink: &mut Recorder) -> RunResult {
        let token = sink.cancel_at.as_ref().map_or_else(|| CancelToken::new().unwrap(), |(_, token)| token.clone());
        self.runtime.run(request, &token, sink).unwrap()
    }

    fn resume(&self, sink: &mut Recorder) -> RunResult {
        let mut request = self.request();
        request.session = Some(ResumedSession { id: "s1".into(), ..ResumedSession::default() });
        self.run(&request, sink)
    }
}

#[test]
fn two_turns_share_a_bridge_and_the_secret_is_no_argument() {
    let usage = json!({"inputTokens": 20, "outputTokens": 7, "cachedReadTokens": 100, "totalTokens": 127});
    let mut bench = Bench::new(&greeted(vec![
        reads(),
        answers(2, json!({"sessionId": "s1"})),
        reads(),
        Step::Out("a banner".into()),
        update(json!({"sessionUpdate": "agent_thought_chunk", "content": {"type": "text", "text": "private"}})),
        chunk("<think>hm</think><fin"),
        update(json!({"sessionUpdate": "tool_call", "title": "look", "toolCallId": "t"})),
        chunk("al>Hello</final>"),
        answers(3, json!({"stopReason": "end_turn", "usage": usage})),
        reads(),
        chunk("<final>Hello of old</final>"),
        answers(4, json!({"sessionId": "s1"})),
        reads(),
        answers(5, json!({"assistantTexts": ["Second"]})),
    ]));
    let mut sink = Recorder::default();
    let result = bench.run(&bench.request(), &mut sink);
    assert_eq!((result.text.as_str(), result.error), ("Hello", None));
    assert_eq!((result.new_session_id.as_str(), result.usage), ("s1", Some(Usage { hit: 100, miss: 20, output: 7 })));
    let kinds: Vec<_> = sink.blocks.iter().map(|b| b.kind).collect();
    assert_eq!(kinds, [BlockKind::ToolUse, BlockKind::AssistantText]);
    assert_eq!(sink.blocks[1].raw["update"]["content"], json!([{"type": "text", "text": "Hello"}]));
    let args: Vec<String> = bench.agent.cli().get("argv").lines().map(str::to_owned).collect();
    assert_eq!(args[..4], ["acp", "--url", "ws://127.0.0.1:18789", "--token-file"]);
    assert_eq!(std::fs::read_to_string(&args[4]).unwrap(), "hush-hush");

    let mut again = Recorder::default();
    let result = bench.resume(&mut again);
    assert_eq!((result.text.as_str(), result.error), ("Second", None));
    assert_eq!(again.spawned, sink.spawned);
    assert!(again.blocks.is_empty(), "history was shown: {:?}", again.blocks);
    bench.runtime.close();
    eventually("the bridge is gone", || !Process::pid_lives(sink.spawned[0]));
    eventually("the token file is gone", || !std::path::Path::new(&args[4]).exists());

    let received = bench.agent.received();
    let methods: Vec<_> = received.iter().map(|line| line["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["initialize", "session/new", "session/prompt", "session/load", "session/prompt"]);
    assert_eq!(received[1]["params"]["_meta"]["sessionKey"], "agent:main:ag_1:rm_1");
    assert_eq!(received[0]["params"], json!({"protocolVersion": 1, "clientCapabilities": {}}));
}

#[test]
fn an_unknown_session_is_replaced_at_the_load_and_at_the_prompt() {
    let gone = |id: u64| {
        says(json!({"id": id, "error": {"message": "Internal", "data": {"details": "session s1 not found"}}}))
    };
    let bench = Bench::new(&greeted(vec![
        reads(),
        gone(2),
        reads(),
        answers(3, json!({"sessionId": "s1"})),
        reads(),
        gone(4),
        reads(),
        answers(5, json!({"sessionId": "s2"})),
        reads(),
        answers(6, json!({"text": "Fresh"})),
    ]));
    let mut sink = Recorder { recovery: Some("what was said, and hello".into()), ..Recorder::default() };
    let result = bench.resume(&mut sink);
    assert_eq!((result.text.as_str(), result.new_session_id.as_str()), ("Fresh", "s2"));
    assert!(result.session_replaced);
    let prompts: Vec<_> =
        bench.agent.received().into_iter().filter(|line| line["method"] == "session/prompt").collect();
    let told: Vec<_> = prompts.iter().map(|line| line["params"]["prompt"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(told, ["what was said, and hello"; 2], "a new session is told what it cannot know");

    let bench = Bench::new(&greeted(vec![
        reads(),
        answers(2, json!({"sessionId": "s1"})),
        reads(),
        gone(3),
        reads(),
        answers(4, json!({"sessionId": "s2"})),
        reads(),
        gone(5),
    ]));
    let mut sink = Recorder { recovery: Some("nothing was said before".into()), ..Recorder::default() };
    let result = bench.run(&bench.request(), &mut sink);
    assert!(bench.agent.received().iter().all(|line| !line.to_string().contains("before")), "there was no session");
    let error = result.error.unwrap();
    assert_eq!(error.message, "openclaw-acp: prompt failed after session reset: Internal: session s1 not found");
    assert!(result.session_lost && result.new_session_id.is_empty());
}

#[test]
fn permissions_are_answered() {
    for (trust, approve, option) in [
        (TrustLevel::Public, Some(Approval::Allow), "no"),
        (TrustLevel::Trusted, Some(Approval::Allow), "yes"),
        (TrustLevel::Trusted, Some(Approval::Deny { reason: String::new() }), "no"),
    ] {
        let ask = says(json!({"id": "q-1", "method": "session/request_permission", "params": {"sessionId": "s1",
            "options": [{"optionId": "yes", "kind": "allow_once"}, {"optionId": "no", "kind": "reject_once"}],
            "toolCall": {"title": "rm"}}}));
        let other = says(json!({"id": 0, "method": "fs/read_text_file", "params": {}}));
        let bench = Bench::new(&greeted(vec![
            reads(),
            answers(2, json!({"sessionId": "s1"})),
            reads(),
            ask,
            reads(),
            other,
            reads(),
            answers(3, json!({"text": "Done"})),
        ]));
        let mut request = bench.request();
        request.trust = trust;
        let mut sink = Recorder { approve, ..Recorder::default() };
        assert_eq!(bench.run(&request, &mut sink).text, "Done");
        let received = bench.agent.received();
        assert_eq!(received[3]["id"], "q-1");
        assert_eq!(received[3]["result"]["outcome"]["optionId"], option);
        assert_eq!((&received[4]["id"], &received[4]["error"]["code"]), (&json!(0), &json!(-32601)));
        bench.runtime.close();
    }
}

#[test]
fn a_cancelled_turn_leaves_the_bridge_alone() {
    let bench = Bench::new(&greeted(vec![
        reads(),
        answers(2, json!({"sessionId": "s1"})),
        reads(),
        update(json!({"sessionUpdate": "tool_call", "title": "look"})),
        reads(),
        says(json!({"id": "late", "method": "session/request_permission", "params": {"sessionId": "s1",
            "options": [{"optionId": "r", "kind": "reject_once"}]}})),
        reads(),
        answers(3, json!({"stopReason": "cancelled"})),
        reads(),
        answers(4, json!({"sessionId": "s1"})),
        reads(),
        answers(5, json!({"text": "Second"})),
    ]));
    let token = CancelToken::new().unwrap();
    let mut sink = Recorder { cancel_at: Some((1, token)), ..Recorder::default() };
    let result = bench.run(&bench.request(), &mut sink);
    assert_eq!(result.error.unwrap().message, "openclaw-acp aborted");
    assert_eq!(result.new_session_id, "s1");
    let mut again = Recorder::default();
    assert_eq!(bench.resume(&mut again).text, "Second");
    assert_eq!(again.spawned, sink.spawned);
    assert_eq!(
        bench.agent.received()[3],
        json!({"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": "s1"}})
    );
    let late = &bench.agent.received()[4];
    assert_eq!((&late["id"], &late["result"]["outcome"]), (&json!("late"), &json!({"outcome": "cancelled"})));
    bench.runtime.close();
}

#[test]
fn odd_ends_are_errors() {
    // The bridge ends while a turn waits.
    let mut bench = Bench::new(&[]);
    bench.agent.cli().plays("read -r line; exit 7");
    let error = bench.run(&bench.request(), &mut Recorder::default()).error.unwrap();
    assert_eq!(error.message, "openclaw-acp: openclaw acp child closed: exit code=7 signal=null");

    // It stops for an unknown reason, with something on stdout that is no JSON.
    let steps = vec![
        reads(),
        answers(2, json!({"sessionId": "s1"})),
        reads(),
        Step::Out("gateway said no".into()),
        answers(3, json!({"stopReason": "max_tokens"})),
    ];
    let bench = Bench::new(&greeted(steps));
    let error = bench.run(&bench.request(), &mut Recorder::default()).error.unwrap();
    assert_eq!(error.message, "openclaw-acp: prompt stopped: max_tokens; gateway said no");

    // No gateway at all.
    let mut request = bench.request();
    request.gateway = None;
    let error = bench.run(&request, &mut Recorder::default()).error.unwrap();
    assert!(error.message.starts_with("openclaw-acp: missing gateway endpoint"));
    assert_eq!(error.class, Some(ErrorClass::Config));
}

#[test]
fn silence_ends_the_turn_and_not_the_bridge() {
    let mut agent = FakeAgent::new("openclaw-acp");
    agent.cli().settings.acp_idle = Some(std::time::Duration::from_millis(200));
    let steps = [
        reads(),
        answers(2, json!({"sessionId": "s1"})),
        reads(),
        reads(),
        answers(3, json!({"stopReason": "cancelled"})),
    ];
    agent.plays(&greeted(steps.to_vec()), b"", 0);
    let runtime = OpenClaw::new(Arc::new(agent.cli().settings.clone()));
    let bench = Bench { agent, runtime };
    let mut sink = Recorder::default();
    let error = bench.run(&bench.request(), &mut sink).error.unwrap();
    assert_eq!(error.message, "openclaw-acp idle timeout: no output for 200ms");
    assert!(Process::pid_lives(sink.spawned[0]));
    bench.runtime.close();
}
