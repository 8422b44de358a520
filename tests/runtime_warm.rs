//! Claude Code processes that stay between turns: a program that reads turns from standard input in place of the
//! CLI, and recordings of the real one.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bellhop::engine::PASS_VARIABLE;
use bellhop::engine::cancel::{CancelReason, CancelToken};
use bellhop::engine::ports::{Approval, ErrorClass, ProcessId, ResumedSession, RunRequest, RunResult, Runtime};
use bellhop::message::TrustLevel;
use bellhop::runtime::kept;
use bellhop::runtime::process::Process;
use bellhop::runtime::settings::{Permission, RuntimePermissions, RuntimeSettings};
use serde_json::{Value, json};
use support::fake_cli::FakeCli;
use support::run_request::Recorder;

/// Notes its pid, then plays the file `turn` for every line of standard input; `$n` counts them.
const STREAM: &str = "echo $$ >>\"$dir/pids\"
printf '%s\\n' \"$*\" | tr '\\n' ' ' >>\"$dir/starts\"; echo >>\"$dir/starts\"
n=0
while IFS= read -r line; do
  printf '%s\\n' \"$line\" >>\"$dir/stdin\"
  n=$((n+1))
  . \"$dir/turn\"
done
echo $$ >>\"$dir/ends\"
";

/// A turn that answers with its number; the cost is cumulative.
const ANSWER: &str = "
echo '{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s1\"}'
echo \"{\\\"type\\\":\\\"result\\\",\\\"subtype\\\":\\\"success\\\",\\\"result\\\":\\\"answer $n\\\",\\\"session_id\\\":\\\"s1\\\",\\\"total_cost_usd\\\":$n}\"
";

/// A fake CLI and the one adapter that drives it.
struct World {
    cli: FakeCli,
    runtime: Option<Arc<dyn Runtime>>,
}

impl World {
    fn new(turn: &str) -> Self {
        Self::with(turn, |_| {})
    }

    fn with(turn: &str, change: impl FnOnce(&mut RuntimeSettings)) -> Self {
        let mut cli = FakeCli::new("claude-code");
        cli.settings.warm.keep = Duration::from_mins(10);
        cli.settings.warm.reserve = 0;
        change(&mut cli.settings);
        cli.plays(STREAM);
        cli.put("turn", turn.as_bytes());
        let runtime = Some(cli.runtime());
        Self { cli, runtime }
    }

    /// A request in the session that the fake CLI announces.
    fn resumed(&self, text: &str) -> RunRequest {
        let mut request = self.cli.request(text);
        request.session = Some(ResumedSession { id: "s1".into(), ..ResumedSession::default() });
        request
    }

    fn run(&self, request: &RunRequest) -> (RunResult, Recorder) {
        let mut sink = Recorder::default();
        let result = self.run_with(request, &CancelToken::new().unwrap(), &mut sink);
        (result, sink)
    }

    fn run_with(&self, request: &RunRequest, cancel: &CancelToken, sink: &mut Recorder) -> RunResult {
        self.runtime.as_ref().unwrap().run(request, cancel, sink).unwrap()
    }

    /// Lines of a file that the fake CLI writes.
    fn lines(&self, file: &str) -> Vec<String> {
        std::fs::read_to_string(self.cli.join(file)).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.close();
        }
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn error(result: &RunResult) -> Option<&str> {
    result.error.as_ref().map(|e| e.message.as_str())
}

#[test]
fn the_second_turn_goes_to_the_same_process() {
    let world = World::new(ANSWER);
    let (first, one) = world.run(&world.cli.request("hello"));
    assert_eq!((first.text.as_str(), error(&first)), ("answer 1", None));
    assert_eq!((first.new_session_id.as_str(), first.cost_usd), ("s1", Some(1.0)));
    let (second, two) = world.run(&world.resumed("again"));
    assert_eq!((second.text.as_str(), second.cost_usd), ("answer 2", Some(1.0)));
    assert_eq!(one.spawned, two.spawned, "each turn tells its process, and it is one");
    assert_eq!(two.sessions, ["s1"]);
    assert_eq!(two.blocks.iter().map(|b| b.seq).collect::<Vec<_>>(), [1, 2]);
    let said: Vec<Value> = world.lines("stdin").iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(said[0], json!({"type":"user","message":{"role":"user","content":"hello"}}));
    assert_eq!(said[1]["message"]["content"], "again");
    assert!(!world.lines("starts")[0].contains("hello"), "a prompt is no argument");
}

#[test]
fn a_process_keeps_the_pass_of_its_first_turn_and_says_whose_that_is() {
    let world = World::new(&format!("printf '%s\\n' \"$BELLHOP_ROOM_TOKEN\" >>\"$dir/passes\"\n{ANSWER}"));
    let with_pass = |mut request: RunRequest, pass: &str| {
        request.env.push((PASS_VARIABLE.to_owned(), pass.to_owned()));
        request
    };
    let request = with_pass(world.cli.request("hello"), "one");
    let (_, first) = world.run(&request);
    let (second, sink) = world.run(&with_pass(world.resumed("again"), "two"));
    assert_eq!((second.text.as_str(), world.lines("pids").len()), ("answer 2", 1), "another pass is no other process");
    assert_eq!(world.lines("passes"), ["one", "one"]);
    assert!(first.served_by.is_empty());
    assert_eq!(sink.served_by, [request.turn_id]);
}

#[test]
fn without_the_setting_each_turn_is_a_process() {
    let world = World::with("", |settings| settings.warm.keep = Duration::ZERO);
    world.cli.plays(&format!("n=1\n{ANSWER}"));
    let (_, one) = world.run(&world.cli.request("a"));
    let (second, two) = world.run(&world.resumed("b"));
    assert_eq!(second.text, "answer 1");
    assert_ne!(one.spawned, two.spawned);
    assert!(!world.cli.get("argv").contains("--input-format"));
}

#[test]
fn another_session_or_agent_has_its_own_process() {
    let world = World::new(ANSWER);
    let (_, one) = world.run(&world.cli.request("a"));
    let mut other = world.resumed("b");
    other.agent = "ag_2".into();
    let (result, two) = world.run(&other);
    assert_eq!(result.text, "answer 1");
    assert_ne!(one.spawned, two.spawned);
    let (result, three) = world.run(&world.resumed("c"));
    assert_eq!((result.text.as_str(), &three.spawned), ("answer 2", &one.spawned));
}

#[test]
fn what_is_fixed_at_the_start_makes_a_new_process_that_resumes() {
    let world = World::new(ANSWER);
    let changes: [fn(&mut RunRequest); 3] = [
        |request| request.system_context = Some("be kind".into()),
        |request| request.extra_args = vec!["--model".into(), "m2".into()],
        |request| request.env.push(("COLOUR".into(), "blue".into())),
    ];
    let (_, mut before) = world.run(&world.cli.request("first"));
    for (at, change) in changes.iter().enumerate() {
        let mut request = world.resumed("next");
        change(&mut request);
        let (result, sink) = world.run(&request);
        assert_eq!(result.text, "answer 1", "change {at}");
        assert!(!Process::pid_lives(before.spawned[0]), "change {at}: two processes on one session");
        assert!(world.lines("starts").last().unwrap().contains("--resume s1"), "change {at}");
        before = sink;
    }
    assert!(!world.lines("starts")[0].contains("--resume"));
    assert_eq!(world.lines("ends").len(), 3, "they ended by themselves when their input did");
}

#[test]
fn a_large_system_prompt_is_a_file_as_long_as_the_process_lives() {
    let world = World::new(ANSWER);
    let mut request = world.cli.request("a");
    request.system_context = Some("x".repeat(150_000).into());
    world.run(&request);
    let start = world.lines("starts").remove(0);
    let file = start.split_whitespace().skip_while(|a| *a != "--append-system-prompt-file").nth(1).unwrap().to_owned();
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 150_000);
    request.session = Some(ResumedSession { id: "s1".into(), ..ResumedSession::default() });
    assert_eq!(world.run(&request).0.text, "answer 2");
    world.runtime.as_ref().unwrap().close();
    assert!(!Path::new(&file).exists());
}

#[test]
fn a_process_that_died_between_turns_costs_no_message() {
    let world = World::new(ANSWER);
    let (_, one) = world.run(&world.cli.request("a"));
    support::child::kill(one.spawned[0].pid);
    wait("it is dead", || !Process::pid_lives(one.spawned[0]));
    let (result, _) = world.run(&world.resumed("b"));
    assert_eq!((result.text.as_str(), error(&result)), ("answer 1", None));
    assert!(world.lines("starts")[1].contains("--resume s1"));
}

#[test]
fn a_process_that_dies_of_the_message_is_replaced_once() {
    let world = World::new(&format!("[ $n = 1 ] || exit 9\n{ANSWER}"));
    world.run(&world.cli.request("a"));
    let (result, sink) = world.run(&world.resumed("b"));
    assert_eq!((result.text.as_str(), error(&result)), ("answer 1", None));
    assert_eq!(sink.spawned.len(), 2);
    assert!(world.lines("starts")[1].contains("--resume s1"));
}

#[test]
fn a_process_that_dies_in_the_middle_of_a_turn_has_failed() {
    let dies = "[ $n = 1 ] || { echo '{\"type\":\"assistant\",\"message\":{\"content\":[]}}'; exit 9; }\n";
    let world = World::new(&format!("{dies}{ANSWER}"));
    world.run(&world.cli.request("a"));
    let (result, sink) = world.run(&world.resumed("b"));
    assert_eq!(error(&result), Some("claude-code exited with code 9"));
    assert_eq!((result.new_session_id.as_str(), sink.spawned.len()), ("s1", 1));
}

#[test]
fn a_failed_turn_ends_the_process() {
    let fails = "echo '{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":true,\"result\":\"Not logged in\",\"session_id\":\"s1\"}'";
    let world = World::new(fails);
    let (result, sink) = world.run(&world.cli.request("a"));
    assert_eq!(result.error.as_ref().unwrap().class, Some(ErrorClass::Auth));
    assert!(!Process::pid_lives(sink.spawned[0]));
    assert_eq!(world.lines("ends").len(), 1);
}

#[test]
fn a_process_with_a_background_task_is_not_kept() {
    let task = "echo '{\"type\":\"system\",\"subtype\":\"task_started\",\"task_id\":\"b1\"}'";
    let world = World::new(&format!("{task}\n{ANSWER}"));
    let (result, one) = world.run(&world.cli.request("a"));
    assert_eq!(result.text, "answer 1");
    let (result, two) = world.run(&world.resumed("b"));
    assert_eq!(result.text, "answer 1");
    assert_ne!(one.spawned, two.spawned);
}

#[test]
fn a_process_that_works_unasked_is_not_used_again() {
    let late =
        "{ while [ ! -e \"$dir/go\" ]; do sleep 0.02; done; echo '{\"type\":\"result\",\"result\":\"unasked\"}'; } &";
    let world = World::new(&format!("if [ ! -e \"$dir/go\" ]; then {late}\nfi\n{ANSWER}"));
    let (_, one) = world.run(&world.cli.request("a"));
    world.cli.put("go", b"");
    wait("it is ended", || !Process::pid_lives(one.spawned[0]));
    let (result, _) = world.run(&world.resumed("b"));
    assert_eq!(result.text, "answer 1");
}

#[test]
fn the_process_that_was_used_longest_ago_makes_room() {
    let world = World::with("", |settings| settings.warm.max = 2);
    let turn = ANSWER.replace("'{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s1\"}'", "'{}'");
    let turn = turn.replace("\\\"s1\\\"", "\\\"$BOTCORD_AGENT_ID\\\"");
    world.cli.put("turn", turn.as_bytes());
    let run = |agent: &str| {
        let mut request = world.cli.request("hi");
        request.agent = agent.into();
        request.session = Some(ResumedSession { id: agent.into(), ..ResumedSession::default() });
        let (result, sink) = world.run(&request);
        assert_eq!(error(&result), None);
        (result.text, sink.spawned[0])
    };
    let (_, a) = run("a");
    let (_, b) = run("b");
    assert_eq!(run("a"), ("answer 2".to_owned(), a));
    let (_, c) = run("c");
    wait("b makes room", || !Process::pid_lives(b));
    assert!(Process::pid_lives(a) && Process::pid_lives(c));
    assert_eq!(run("b").0, "answer 1");
}

#[test]
fn a_session_keeps_one_process_only() {
    let world = World::new(ANSWER);
    // Both begin anew, and the CLI announces the same session.
    let (_, one) = world.run(&world.cli.request("a"));
    let (_, two) = world.run(&world.cli.request("b"));
    wait("the older one is ended", || !Process::pid_lives(one.spawned[0]));
    let (result, three) = world.run(&world.resumed("c"));
    assert_eq!((result.text.as_str(), &three.spawned), ("answer 2", &two.spawned));
}

#[test]
fn nothing_is_kept_when_memory_is_short_or_the_time_is_up() {
    type Change = fn(&mut RuntimeSettings);
    let changes: [Change; 2] = [|s| s.warm.reserve = u64::MAX, |s| s.warm.keep = Duration::from_millis(50)];
    for change in changes {
        let world = World::with(ANSWER, change);
        let (result, sink) = world.run(&world.cli.request("a"));
        assert_eq!(result.text, "answer 1");
        wait("it ends", || !Process::pid_lives(sink.spawned[0]));
        assert_eq!(world.run(&world.resumed("b")).0.text, "answer 1");
    }
}

#[test]
fn closing_ends_all_and_leaves_no_mark() {
    let world = World::new(ANSWER);
    let (_, sink) = world.run(&world.cli.request("a"));
    let marker = world.cli.settings.daemon_dir.join("claude-warm");
    assert!(marker.exists() && Process::pid_lives(sink.spawned[0]));
    world.runtime.as_ref().unwrap().close();
    assert!(!marker.exists() && !Process::pid_lives(sink.spawned[0]));
    assert_eq!(world.lines("ends").len(), 1);
}

/// Runs until the turn's tool, of which it notes the pid, runs; then cancels.
fn interrupt_while_a_tool_runs(world: &World, why: CancelReason) -> (RunResult, Recorder) {
    let token = CancelToken::new().unwrap();
    let mut sink = Recorder::default();
    let result = std::thread::scope(|scope| {
        let run = scope.spawn(|| world.run_with(&world.resumed("work"), &token, &mut sink));
        wait("the tool runs", || world.cli.join("tool").exists());
        token.cancel(why);
        run.join().unwrap()
    });
    (result, sink)
}

/// From the second turn on: a tool in a session of its own that outlives the interrupt, which the CLI obeys.
const TOOL: &str = "
if [ $n = 2 ]; then
  setsid sh -c 'echo $$ >\"$0/tool.new\"; mv \"$0/tool.new\" \"$0/tool\"; exec sleep 300' \"$dir\" </dev/null >/dev/null 2>&1 &
  echo '{\"type\":\"assistant\",\"message\":{\"content\":[]}}'
  IFS= read -r line
  printf '%s\\n' \"$line\" >>\"$dir/stdin\"
  echo '{\"type\":\"control_response\",\"response\":{\"subtype\":\"success\",\"request_id\":\"interrupt\"}}'
  echo '{\"type\":\"result\",\"subtype\":\"error_during_execution\",\"is_error\":true,\"session_id\":\"s1\",\"total_cost_usd\":2}'
  return 0 2>/dev/null || continue
fi
";

/// The first turn leaves a server behind on purpose; a helper of the CLI lives in its process group.
const LEFT: &str = "
if [ $n = 1 ]; then
  (setsid sh -c 'echo $$ >\"$0/server.new\"; mv \"$0/server.new\" \"$0/server\"; exec sleep 300' \"$dir\" </dev/null >/dev/null 2>&1 &)
  while [ ! -e \"$dir/server\" ]; do sleep 0.02; done
  sleep 300 </dev/null >/dev/null 2>&1 & echo $! >\"$dir/helper\"
fi
";

fn noted_pid(world: &World, file: &str) -> i32 {
    world.cli.get(file).trim().parse().unwrap()
}

#[test]
fn an_interrupted_turn_ends_its_tools_and_nothing_else() {
    let world = World::new(&format!("{LEFT}{TOOL}{ANSWER}"));
    bellhop::runtime::process::become_subreaper();
    let (_, one) = world.run(&world.cli.request("a"));
    let (result, _) = interrupt_while_a_tool_runs(&world, CancelReason::Superseded);
    assert_eq!((error(&result), result.new_session_id.as_str()), (Some("claude-code aborted"), "s1"));
    let lives = |file: &str| support::child::lives(noted_pid(&world, file));
    wait("the tool is gone", || !lives("tool"));
    assert!(lives("server") && lives("helper"));
    let (result, two) = world.run(&world.resumed("go on"));
    assert_eq!((result.text.as_str(), result.cost_usd), ("answer 3", Some(1.0)));
    assert_eq!(one.spawned, two.spawned);
    support::child::kill(noted_pid(&world, "server"));
    support::child::kill(noted_pid(&world, "helper"));
}

#[test]
fn a_process_that_does_not_obey_is_stopped() {
    let deaf = TOOL.replace("IFS= read -r line\n", "sleep 300\n");
    let world = World::with(&format!("{deaf}{ANSWER}"), |settings| {
        settings.stop.term = Duration::from_millis(50);
        settings.stop.kill = Duration::from_millis(200);
    });
    let (_, one) = world.run(&world.cli.request("a"));
    let (result, _) = interrupt_while_a_tool_runs(&world, CancelReason::User);
    assert_eq!(error(&result), Some("claude-code aborted"));
    assert!(!Process::pid_lives(one.spawned[0]));
    wait("the tool is gone", || !support::child::lives(noted_pid(&world, "tool")));
    std::fs::remove_file(world.cli.join("tool")).unwrap();
    assert_eq!(world.run(&world.resumed("b")).0.text, "answer 1");
}

#[test]
fn a_turn_that_ran_out_of_time_takes_its_process_along() {
    let world = World::new(&format!("trap 'exit 1' INT\n{LEFT}{TOOL}{ANSWER}"));
    bellhop::runtime::process::become_subreaper();
    let (_, one) = world.run(&world.cli.request("a"));
    let (result, _) = interrupt_while_a_tool_runs(&world, CancelReason::Timeout);
    assert_eq!(error(&result), Some("claude-code aborted"));
    assert!(!Process::pid_lives(one.spawned[0]));
    let lives = |file: &str| support::child::lives(noted_pid(&world, file));
    wait("the tool and the helper are gone", || !lives("tool") && !lives("helper"));
    assert!(lives("server"), "an earlier turn left it on purpose");
    support::child::kill(noted_pid(&world, "server"));
    assert!(!world.lines("stdin").iter().any(|line| line.contains("interrupt")));
}

/// Asks whether it may use a tool and answers with what it was told.
const QUESTION: &str = "
echo '{\"type\":\"control_request\",\"request_id\":\"q0\",\"request\":{\"subtype\":\"hook_callback\"}}'
IFS= read -r refused
echo '{\"type\":\"control_request\",\"request_id\":\"q1\",\"request\":{\"subtype\":\"can_use_tool\",\"tool_name\":\"Bash\",\"input\":{\"command\":\"ls\"}}}'
IFS= read -r told
printf '%s\\n' \"$refused\" \"$told\" >\"$dir/told\"
";

fn restricted(settings: &mut RuntimeSettings) {
    settings.permissions = RuntimePermissions { trusted: Permission::Full, public: Permission::Restricted };
}

fn told(world: &World) -> Vec<Value> {
    world.lines("told").iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["response"].clone()).collect()
}

#[test]
fn a_tool_is_used_when_somebody_allows_it() {
    for later in [false, true] {
        let world = World::with(&format!("{QUESTION}{ANSWER}"), |settings| {
            restricted(settings);
            settings.ask_approvals = true;
        });
        let mut request = world.cli.request("a");
        request.trust = TrustLevel::Public;
        let token = CancelToken::new().unwrap();
        let mut sink = Recorder::default();
        if later {
            sink.later = Some((Approval::Allow, token.clone()));
        } else {
            sink.approve = Some(Approval::Deny { reason: "not today".into() });
        }
        let result = world.run_with(&request, &token, &mut sink);
        assert_eq!((result.text.as_str(), error(&result)), ("answer 1", None));
        assert_eq!((sink.questions.len(), sink.questions[0].tool.as_str()), (1, "Bash"));
        assert_eq!(sink.questions[0].summary, "ls");
        let told = told(&world);
        assert_eq!(told[0], json!({"subtype":"error","request_id":"q0","error":"unsupported"}));
        let expected = if later {
            json!({"behavior":"allow","updatedInput":{"command":"ls"}})
        } else {
            json!({"behavior":"deny","message":"not today"})
        };
        assert_eq!(told[1]["response"], expected);
        assert!(world.lines("starts")[0].contains("--permission-mode default --permission-prompt-tool stdio"));
    }
}

#[test]
fn an_input_that_cannot_be_repeated_is_denied() {
    let question = QUESTION.replace("\"ls\"", "\"rm \\udcff\"").replace("echo '", "printf '%s\\n' '");
    assert!(question.contains("rm \\udcff"), "{question}");
    let world = World::with(&format!("{question}{ANSWER}"), |settings| {
        restricted(settings);
        settings.ask_approvals = true;
    });
    let mut request = world.cli.request("a");
    request.trust = TrustLevel::Public;
    let mut sink = Recorder { approve: Some(Approval::Allow), ..Recorder::default() };
    world.run_with(&request, &CancelToken::new().unwrap(), &mut sink);
    assert!(sink.questions.is_empty());
    let reason = "The input is not valid Unicode and cannot be repeated exactly.";
    assert_eq!(told(&world)[1]["response"], json!({"behavior":"deny","message":reason}));
}

#[test]
fn a_restricted_agent_is_denied_where_nobody_answers() {
    let world = World::with(&format!("{QUESTION}{ANSWER}"), restricted);
    let mut request = world.cli.request("a");
    request.trust = TrustLevel::Public;
    let mut sink = Recorder { approve: Some(Approval::Allow), ..Recorder::default() };
    world.run_with(&request, &CancelToken::new().unwrap(), &mut sink);
    assert!(sink.questions.is_empty());
    assert_eq!(told(&world)[1]["response"]["behavior"], "deny");
    assert!(world.lines("starts")[0].contains("--permission-mode dontAsk"));
}

#[test]
fn what_a_dead_daemon_has_kept_is_found_at_the_next_start() {
    let world = World::new(ANSWER);
    let (_, sink) = world.run(&world.cli.request("a"));
    let process: ProcessId = sink.spawned[0];
    assert_eq!(kept::end_leftovers(&world.cli.settings), 1);
    assert!(!Process::pid_lives(process));
    assert_eq!(kept::end_leftovers(&world.cli.settings), 0, "the mark is gone");
}

/// A script that follows the recorded conversation: reads what came in, prints what went out.
fn replay(cli: &FakeCli, name: &str) -> Vec<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recordings/claude-code/{name}.wire.ndjson"));
    let mut script = String::new();
    let mut received = Vec::new();
    for (at, line) in std::fs::read_to_string(file).unwrap().lines().enumerate() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let said = entry["line"].as_str().unwrap();
        if entry["dir"] == "in" {
            received.push(serde_json::from_str(said).unwrap());
            script.push_str("IFS= read -r line; printf '%s\\n' \"$line\" >>\"$dir/stdin\"\n");
        } else {
            cli.put(&format!("out.{at}"), format!("{said}\n").as_bytes());
            script.push_str(&format!("cat \"$dir/out.{at}\"\n"));
        }
    }
    cli.plays(&format!("printf '%s\\n' \"$*\" >\"$dir/starts\"\n{script}cat >/dev/null\n"));
    received
}

fn meta(name: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/recordings/claude-code/{name}.meta.json"));
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn kinds(sink: &Recorder) -> Vec<&str> {
    sink.blocks.iter().map(|b| b.kind.as_str()).collect()
}

/// What the adapter started, and what it wrote, is what was recorded.
fn check_wire(world: &World, name: &str, received: &[Value]) {
    let argv: Vec<String> =
        meta(name)["argv"].as_array().unwrap()[1..].iter().map(|a| a.as_str().unwrap().into()).collect();
    assert_eq!(world.lines("starts"), [argv.join(" ")]);
    let wrote: Vec<Value> = world.lines("stdin").iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(wrote, received);
}

#[test]
fn the_recorded_two_turns() {
    let name = "stream-input-two-turns";
    let world = World::new("");
    let received = replay(&world.cli, name);
    let (first, one) = world.run(&world.cli.request("one"));
    assert_eq!((first.text.as_str(), error(&first)), ("first answer", None));
    let mut request = world.cli.request("two");
    request.session = Some(ResumedSession { id: first.new_session_id.clone(), ..ResumedSession::default() });
    let (second, two) = world.run(&request);
    let expect = &meta(name)["expect"];
    assert_eq!((second.text.as_str(), error(&second)), (expect["text"].as_str().unwrap(), None));
    assert_eq!(second.new_session_id, expect["session"]["id"].as_str().unwrap());
    assert_eq!((one.spawned.len(), &one.spawned), (1, &two.spawned));
    let all: Vec<&str> = kinds(&one).into_iter().chain(kinds(&two)).collect();
    assert_eq!(json!(all), expect["blockKinds"]);
    for result in [&first, &second] {
        let usage = result.usage.unwrap();
        assert_eq!(json!({"hit": usage.hit, "miss": usage.miss, "output": usage.output}), expect["usage"]);
        // The CLI counts over both turns.
        let share = expect["costUsd"].as_f64().unwrap() / 2.0;
        assert!((result.cost_usd.unwrap() - share).abs() < 1e-9, "{:?}", result.cost_usd);
        assert_eq!(json!(result.context_tokens), expect["contextTokens"]);
    }
    check_wire(&world, name, &received);
}

#[test]
fn the_recorded_question() {
    let name = "stream-input-permission-allow";
    let world = World::with("", |settings| {
        restricted(settings);
        settings.ask_approvals = true;
    });
    let received = replay(&world.cli, name);
    let mut request = world.cli.request("one");
    request.trust = TrustLevel::Public;
    let mut sink = Recorder { approve: Some(Approval::Allow), ..Recorder::default() };
    let result = world.run_with(&request, &CancelToken::new().unwrap(), &mut sink);
    let expect = &meta(name)["expect"];
    assert_eq!((result.text.as_str(), error(&result)), (expect["text"].as_str().unwrap(), None));
    assert_eq!(json!(kinds(&sink)), expect["blockKinds"]);
    assert_eq!(sink.questions[0].summary, "python3 -c 'print(6*7)'");
    check_wire(&world, name, &received);
}
