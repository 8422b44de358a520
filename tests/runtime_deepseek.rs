//! `deepseek-tui` against a server that answers as the real one does.

mod support;

use std::net::TcpListener;

use bellhop::engine::cancel::{CancelReason, CancelToken};
use bellhop::engine::ports::{Approval, ErrorClass, ResumedSession, RunResult, Runtime};
use bellhop::message::BlockKind::{AssistantText, Other, System, Thinking, ToolResult, ToolUse};
use bellhop::message::TrustLevel;
use bellhop::runtime::deepseek::DeepSeek;
use bellhop::runtime::kept;
use bellhop::runtime::process::Process;
use serde_json::{Value, json};
use support::child::eventually;
use support::fake_cli::FakeCli;
use support::fake_deepseek::{FakeDeepSeek, Script};
use support::run_request::Recorder;

fn ours(payload: Value) -> Value {
    json!({"thread_id": "thr_1", "turn_id": "turn_1", "payload": payload})
}

fn words(text: &str) -> (&'static str, Value) {
    ("item.delta", ours(json!({"kind": "agent_message", "delta": text})))
}

fn completed() -> (&'static str, Value) {
    ("turn.completed", ours(json!({"turn": {"status": "completed"}})))
}

struct Bench {
    cli: FakeCli,
    server: FakeDeepSeek,
    runtime: DeepSeek,
}

impl Bench {
    fn new(script: Script, vars: &[(&str, &str)]) -> Self {
        let server = FakeDeepSeek::start(Some("secret"), script);
        let mut cli = FakeCli::new("deepseek-tui");
        let env = &mut cli.settings.base_env;
        env.push(("BELLHOP_DEEPSEEK_TUI_URL".into(), server.url.clone().into()));
        env.push(("BOTCORD_DEEPSEEK_TUI_TOKEN".into(), "secret".into()));
        env.extend(vars.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        let runtime = DeepSeek::new(cli.settings.clone().into());
        Self { cli, server, runtime }
    }

    fn run(&self, resume: Option<&str>, trust: TrustLevel, sink: &mut Recorder) -> RunResult {
        let mut request = self.cli.request("hello");
        request.trust = trust;
        request.system_context = Some("Be kind.".into());
        request.extra_args = vec!["--model=m".into(), "--other".into()];
        request.session = resume.map(|id| ResumedSession { id: id.into(), ..ResumedSession::default() });
        let token = sink.cancel_at.as_ref().map_or_else(|| CancelToken::new().unwrap(), |(_, token)| token.clone());
        self.runtime.run(&request, &token, sink).unwrap()
    }
}

#[test]
fn a_new_thread_is_made_and_its_last_number_remembered() {
    let script = Script {
        turn: vec![
            ("turn.started", ours(json!({}))),
            ("item.delta", ours(json!({"kind": "agent_reasoning", "delta": "private"}))),
            ("item.delta", ours(json!({"kind": "agent_reasoning", "delta": "more"}))),
            words("I will look."),
            ("item.started", ours(json!({"item": {"kind": "command_execution", "summary": "shell: ls"}}))),
            ("item.failed", ours(json!({"item": {"kind": "command_execution", "detail": "no"}}))),
            ("item.delta", json!({"turn_id": "another", "payload": {"kind": "agent_message", "delta": "not mine"}})),
            ("unheard.of", ours(json!({"kind": 3}))),
            words("It is "),
            words("42. é"),
            completed(),
        ],
        ..Script::default()
    };
    let bench = Bench::new(script, &[]);
    let mut sink = Recorder::default();
    let result = bench.run(None, TrustLevel::Trusted, &mut sink);
    assert_eq!((result.text.as_str(), result.error), ("It is 42. é", None));
    assert_eq!(result.new_session_id, "thr_1");
    let kinds: Vec<_> = sink.blocks.iter().map(|b| b.kind).collect();
    assert_eq!(kinds, [System, Thinking, AssistantText, ToolUse, ToolResult, AssistantText, AssistantText, Other]);
    assert!(!serde_json::to_string(&sink.blocks).unwrap().contains("private"));
    assert_eq!(sink.blocks[3].digest.tool.as_deref(), Some("shell"));

    let result = bench.run(Some("thr_1"), TrustLevel::Public, &mut Recorder::default());
    assert_eq!(result.text, "It is 42. é");
    let lines = bench.server.lines();
    let expected = [
        "POST /v1/threads",
        "GET /v1/threads/thr_1/events?since_seq=0",
        "POST /v1/threads/thr_1/turns",
        "PATCH /v1/threads/thr_1",
        "GET /v1/threads/thr_1/events?since_seq=51",
        "POST /v1/threads/thr_1/turns",
    ];
    assert_eq!(lines, expected);
    let requests = bench.server.requests();
    let cwd = bench.cli.join("cwd").display().to_string();
    assert_eq!(
        requests[0].body,
        json!({"workspace": cwd, "mode": "agent", "allow_shell": true, "trust_mode": true, "auto_approve": true,
            "model": "m", "archived": false, "system_prompt": "Be kind."})
    );
    let turn = json!({"prompt": "hello", "mode": "agent", "allow_shell": false, "trust_mode": false,
        "auto_approve": false, "model": "m"});
    assert_eq!(requests[5].body, turn);
}

#[test]
fn a_failed_turn_is_an_error_and_keeps_its_words_for_the_log() {
    let failed = ("turn.completed", ours(json!({"turn": {"status": "failed", "error": "401 invalid x-api-key"}})));
    let bench = Bench::new(Script { turn: vec![words("Half"), failed], ..Script::default() }, &[]);
    let result = bench.run(None, TrustLevel::Trusted, &mut Recorder::default());
    let error = result.error.unwrap();
    assert_eq!(error.message, "deepseek-tui: 401 invalid x-api-key");
    assert_eq!(error.class, Some(ErrorClass::Auth));
    assert_eq!((result.text.as_str(), result.new_session_id.as_str()), ("", ""));
    assert_eq!(result.failure.unwrap().partial_text.as_deref(), Some("Half"));
}

#[test]
fn a_cancelled_turn_is_interrupted_in_the_server() {
    let script = Script { turn: vec![words("Half")], after: vec![completed()], ..Script::default() };
    let bench = Bench::new(script, &[]);
    let token = CancelToken::new().unwrap();
    let mut sink = Recorder { cancel_at: Some((1, token)), ..Recorder::default() };
    let result = bench.run(None, TrustLevel::Trusted, &mut sink);
    assert_eq!(result.error.unwrap().message, "deepseek-tui aborted");
    assert_eq!((result.text.as_str(), result.new_session_id.as_str()), ("", "thr_1"));
    assert_eq!(bench.server.lines().last().unwrap(), "POST /v1/threads/thr_1/turns/turn_1/interrupt");
}

#[test]
fn approvals_are_answered() {
    for (trust, approve, decision) in [
        (TrustLevel::Public, None, "deny"),
        (TrustLevel::Trusted, Some(Approval::Allow), "allow"),
        (TrustLevel::Trusted, Some(Approval::Deny { reason: "no".into() }), "deny"),
    ] {
        let script = Script {
            turn: vec![("approval.required", ours(json!({"approval_id": "ap_1", "tool_name": "shell"})))],
            after: vec![words("Done."), completed()],
            ..Script::default()
        };
        let bench = Bench::new(script, &[]);
        let mut sink = Recorder { approve, ..Recorder::default() };
        assert_eq!(bench.run(None, trust, &mut sink).text, "Done.");
        let last = bench.server.requests().pop().unwrap();
        assert_eq!(last.line, "POST /v1/approvals/ap_1");
        assert_eq!(last.body, json!({"decision": decision, "remember": false}));
        assert_eq!(sink.questions.len(), usize::from(trust != TrustLevel::Public));
    }
}

#[test]
fn a_thread_that_is_gone_is_forgotten() {
    let bench = Bench::new(Script { turn: vec![completed()], ..Script::default() }, &[]);
    let result = bench.run(Some("thr_old"), TrustLevel::Trusted, &mut Recorder::default());
    assert!(result.session_lost && result.new_session_id.is_empty());
    assert_eq!(result.error.unwrap().class, Some(ErrorClass::StaleSession));
}

#[test]
fn replayed_events_of_a_resumed_thread_do_not_count() {
    let old = |text: &str| ("message.delta", json!({"content": text}));
    let past = json!({"turn_id": "turn_0", "payload": {"turn": {"status": "failed"}}});
    let turn = vec![
        old("old "),
        ("turn.completed", past),
        ("done", json!({})),
        ("turn.started", ours(json!({}))),
        old("new"),
        ("done", json!({})),
    ];
    let bench = Bench::new(Script { turn, threads: vec!["thr_old"], ..Script::default() }, &[]);
    let result = bench.run(Some("thr_old"), TrustLevel::Trusted, &mut Recorder::default());
    assert_eq!((result.text.as_str(), result.error), ("new", None));
}

#[test]
fn silence_and_a_lost_stream_are_errors() {
    let limit = [("BOTCORD_DEEPSEEK_TURN_IDLE_TIMEOUT_MS", "150")];
    let bench = Bench::new(Script { turn: vec![words("Half")], ..Script::default() }, &limit);
    let result = bench.run(None, TrustLevel::Trusted, &mut Recorder::default());
    assert_eq!(result.error.unwrap().message, "deepseek-tui: event stream produced no runtime event for 150ms");
    assert!(result.new_session_id.is_empty() && result.session_lost);

    let bench = Bench::new(Script { turn: vec![words("Half")], hangs_up: true, ..Script::default() }, &[]);
    let result = bench.run(None, TrustLevel::Trusted, &mut Recorder::default());
    assert_eq!(result.error.unwrap().class, Some(ErrorClass::Protocol));

    let bench = Bench::new(Script { turn: vec![completed()], ..Script::default() }, &[]);
    let result = bench.run(None, TrustLevel::Trusted, &mut Recorder::default());
    assert!(result.error.unwrap().message.contains("API key"));
}

/// Makes the CLI one that serves this turn, with a check of how it was started.
fn serving(cli: &FakeCli, turn: Vec<(&'static str, Value)>) -> std::thread::JoinHandle<FakeDeepSeek> {
    // The program only says on which port and with which token it was started; the test serves there.
    cli.plays("printf '%s' \"$DEEPSEEK_RUNTIME_TOKEN\" >\"$dir/token\"\necho $$ >\"$dir/pid\"\nmv \"$dir/pid\" \"$dir/started\"\nwhile :; do sleep 0.05; done\n");
    let started = cli.join("started");
    let (argv, token) = (cli.join("argv"), cli.join("token"));
    std::thread::spawn(move || {
        eventually("the server is started", || started.exists());
        let argv = std::fs::read_to_string(argv).unwrap();
        let token = std::fs::read_to_string(token).unwrap();
        assert!(token.len() == 64 && !argv.contains(&token), "{argv}");
        let args: Vec<&str> = argv.lines().collect();
        assert_eq!(args[..5], ["serve", "--http", "--host", "127.0.0.1", "--port"]);
        let listener = TcpListener::bind(("127.0.0.1", args[5].parse().unwrap())).unwrap();
        FakeDeepSeek::serve(listener, Some(&token), Script { turn, ..Script::default() })
    })
}

#[test]
fn a_server_is_started_once_and_ended_at_the_close() {
    let cli = FakeCli::new("deepseek-tui");
    let serve = serving(&cli, vec![words("Hi."), completed()]);
    let runtime = DeepSeek::new(cli.settings.clone().into());
    let mut sink = Recorder::default();
    let result = runtime.run(&cli.request("hello"), &CancelToken::new().unwrap(), &mut sink).unwrap();
    assert_eq!((result.text.as_str(), result.error), ("Hi.", None));
    let server = serve.join().unwrap();
    std::fs::remove_file(cli.join("started")).unwrap();
    let mut again = Recorder::default();
    runtime.run(&cli.request("hello"), &CancelToken::new().unwrap(), &mut again).unwrap();
    assert_eq!(again.spawned, sink.spawned);
    assert!(!cli.join("started").exists(), "started twice");
    assert_eq!(server.lines().len(), 6);
    let marker = cli.settings.daemon_dir.join(kept::DEEPSEEK);
    assert!(marker.exists());
    runtime.close();
    eventually("the server is gone", || !Process::pid_lives(sink.spawned[0]));
    assert!(marker.exists(), "another one may still start");
    assert_eq!(kept::end_leftovers(&cli.settings), 0);
    assert!(!marker.exists());
}

#[test]
fn what_a_dead_daemon_has_left_is_found_at_the_next_start() {
    let cli = FakeCli::new("deepseek-tui");
    let serve = serving(&cli, vec![words("Hi."), completed()]);
    let runtime = DeepSeek::new(cli.settings.clone().into());
    let mut sink = Recorder::default();
    runtime.run(&cli.request("hello"), &CancelToken::new().unwrap(), &mut sink).unwrap();
    serve.join().unwrap();
    assert!(kept::end_leftovers(&cli.settings) > 0);
    assert!(!Process::pid_lives(sink.spawned[0]));
    assert_eq!(kept::end_leftovers(&cli.settings), 0, "the mark is gone");
}

#[test]
fn a_server_that_ends_at_once_is_tried_again_and_then_told() {
    let cli = FakeCli::new("deepseek-tui");
    cli.plays("echo x >>\"$dir/starts\"\necho 'cannot listen' >&2\nexit 3\n");
    let runtime = DeepSeek::new(cli.settings.clone().into());
    let result = runtime.run(&cli.request("hi"), &CancelToken::new().unwrap(), &mut Recorder::default()).unwrap();
    assert_eq!(result.error.unwrap().message, "deepseek-tui: deepseek serve exited with code 3: cannot listen");
    assert_eq!(cli.get("starts").lines().count(), 3);

    let cancelled = CancelToken::new().unwrap();
    cancelled.cancel(CancelReason::User);
    let result = runtime.run(&cli.request("hi"), &cancelled, &mut Recorder::default()).unwrap();
    assert_eq!(result.error.unwrap().message, "deepseek-tui aborted before spawn");
}
