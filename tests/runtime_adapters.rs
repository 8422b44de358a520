//! Adapters with a program in place of their CLI: what it is given, and what becomes of an odd one.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bellhop::engine::cancel::{CancelReason, CancelToken};
use bellhop::engine::ports::{ErrorClass, Gateway, ResumedSession, RunResult, Runtimes, SystemContext};
use bellhop::message::{BlockKind, TrustLevel};
use bellhop::runtime::process::Process;
use bellhop::runtime::settings::{Permission, PromptVia};
use bellhop::runtime::{RUNTIMES, Registry, codex};
use support::fake_cli::FakeCli;
use support::run_request::Recorder;

const CLIS: [&str; 3] = ["claude-code", "codex", "gemini"];

/// What each CLI prints for a turn that answers `ok`.
fn success(runtime: &str) -> &'static str {
    match runtime {
        "claude-code" => {
            "echo '{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s1\"}'\n\
             echo '{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"result\":\"ok\",\"session_id\":\"s1\"}'\n"
        }
        "codex" => {
            "echo '{\"type\":\"thread.started\",\"thread_id\":\"01a1fb29-b11c-7b31-bfd9-e432cc964977\"}'\n\
             echo '{\"type\":\"item.completed\",\"item\":{\"type\":\"agent_message\",\"text\":\"ok\"}}'\n\
             echo '{\"type\":\"turn.completed\",\"usage\":{}}'\n"
        }
        "gemini" => {
            "echo '{\"type\":\"init\",\"session_id\":\"s1\"}'\n\
             echo '{\"type\":\"message\",\"role\":\"assistant\",\"content\":\"ok\"}'\n\
             echo '{\"type\":\"result\",\"status\":\"success\"}'\n"
        }
        "kimi-cli" => {
            "echo '{\"role\":\"assistant\",\"content\":\"ok\"}'\n\
             echo '{\"role\":\"meta\",\"type\":\"session.resume_hint\",\"session_id\":\"session_1\"}'\n"
        }
        other => panic!("unknown runtime {other}"),
    }
}

fn class(result: &RunResult) -> Option<ErrorClass> {
    result.error.as_ref().and_then(|e| e.class)
}

fn resumed(id: &str) -> ResumedSession {
    ResumedSession { id: id.into(), ..ResumedSession::default() }
}

#[test]
fn a_prompt_comes_on_stdin_and_is_no_argument() {
    for runtime in CLIS {
        let cli = FakeCli::new(runtime);
        cli.plays(&format!("cat >\"$dir/stdin\"\n{}", success(runtime)));
        let secret = format!("the plan is {}", "ü".repeat(100_000));
        let (result, _) = cli.run_to_end(&cli.request(&secret));
        assert_eq!(result.text, "ok", "{runtime}: {:?}", result.error);
        assert_eq!(cli.get("stdin"), secret, "{runtime}");
        assert!(!cli.get("argv").contains("the plan"), "{runtime}");
    }
}

#[test]
fn a_prompt_may_be_an_argument_but_never_in_a_log() {
    for runtime in CLIS {
        let mut cli = FakeCli::new(runtime);
        cli.settings.prompt_via = PromptVia::Argv;
        cli.plays("exit 3\n");
        let (result, _) = cli.run_to_end(&cli.request("the plan"));
        assert!(cli.get("argv").contains("the plan"), "{runtime}");
        let command = result.failure.unwrap().command.unwrap().join(" ");
        assert!(command.contains("<prompt: 8 bytes>") && !command.contains("the plan"), "{command}");
    }
}

#[test]
fn no_cli_gets_its_prompt_before_the_start_is_durable() {
    for (runtime, via) in CLIS.into_iter().flat_map(|runtime| [(runtime, PromptVia::Stdin), (runtime, PromptVia::Argv)])
    {
        let mut cli = FakeCli::new(runtime);
        cli.settings.prompt_via = via;
        cli.plays(&format!("cat >\"$dir/stdin\"\n{}", success(runtime)));
        let mut sink = Recorder { refuses: true, ..Recorder::default() };
        let thrown = cli.run(&cli.request("the plan"), &CancelToken::new().unwrap(), &mut sink).unwrap_err();
        assert_eq!(thrown.message, "refused", "{runtime}");
        // One that reads its prompt has been started, and is gone without it.
        assert_eq!((sink.begun, sink.spawned.len()), (1, usize::from(via == PromptVia::Stdin)), "{runtime}");
        assert!(!sink.spawned.iter().any(|process| Process::pid_lives(*process)), "{runtime}");
        assert_eq!(std::fs::read_to_string(cli.join("stdin")).unwrap_or_default(), "", "{runtime}");
        let (result, sink) = cli.run_to_end(&cli.request("the plan"));
        assert_eq!((result.text.as_str(), sink.begun), ("ok", 1), "{runtime}");
    }
}

#[test]
fn a_missing_cli_is_told_before_anything_runs() {
    let all = RUNTIMES.iter().map(|descriptor| (descriptor.id, Duration::ZERO));
    for (runtime, warm) in all.chain([("claude-code", Duration::from_secs(9)), ("acp:gone", Duration::ZERO)]) {
        let mut cli = FakeCli::new(if runtime == "acp:gone" { "gemini" } else { runtime });
        cli.settings.base_env.retain(|(name, _)| name == "HOME");
        cli.settings.search_path = cli.join("nothing").into();
        cli.settings.warm.keep = warm;
        let gone = serde_json::json!({"name": "gone", "command": ["gone"]});
        cli.settings.acp_runtimes = vec![serde_json::from_value(gone).unwrap()];
        let mut request = cli.request("hi");
        let gateway = Gateway { name: "lab".into(), url: "ws://127.0.0.1:1".into(), token: None, openclaw_agent: None };
        request.gateway = Some(gateway);
        let mut sink = Recorder::default();
        let adapter = Registry::new(cli.settings.clone()).get(runtime).unwrap();
        let (class, message) = match adapter.run(&request, &CancelToken::new().unwrap(), &mut sink) {
            Err(thrown) => (thrown.class, thrown.message),
            Ok(result) => (class(&result), result.error.map(|e| e.message).unwrap_or_default()),
        };
        assert_eq!(class, Some(ErrorClass::Missing), "{runtime}: {message}");
        assert!(sink.spawned.is_empty());
    }
}

#[test]
fn a_missing_directory_is_told_before_anything_runs() {
    let cli = FakeCli::new("codex");
    let mut request = cli.request("hi");
    request.cwd = cli.join("gone");
    let thrown = cli.run(&request, &CancelToken::new().unwrap(), &mut Recorder::default()).unwrap_err();
    assert!(thrown.message.contains("gone") && thrown.class == Some(ErrorClass::Config), "{}", thrown.message);
}

#[test]
fn a_cli_that_says_nothing_has_not_succeeded() {
    for runtime in CLIS {
        let cli = FakeCli::new(runtime);
        for (script, expected) in [
            ("exit 0\n", ErrorClass::Protocol),
            ("echo 'Usage: agent [options]'\nexit 0\n", ErrorClass::Protocol),
            ("echo 1.2.3\nexit 0\n", ErrorClass::Protocol),
            ("echo 'Error: nothing works' >&2\nexit 0\n", ErrorClass::Protocol),
            ("exit 7\n", ErrorClass::Config),
            ("kill -KILL $$\n", ErrorClass::Protocol),
        ] {
            cli.plays(script);
            let (result, _) = cli.run_to_end(&cli.request("hi"));
            assert_eq!(class(&result), Some(expected), "{runtime}, {script:?}: {:?}", result.error);
            assert_eq!((result.text.as_str(), result.new_session_id.as_str()), ("", ""), "{runtime}, {script:?}");
            assert!(result.failure.is_some());
        }
    }
}

#[test]
fn bytes_that_are_no_utf_8_are_replaced() {
    let cli = FakeCli::new("claude-code");
    cli.plays(
        "printf '{\"type\":\"result\",\"subtype\":\"success\",\"result\":\"a\\377b\",\"session_id\":\"s\"}\\n'\n",
    );
    let (result, _) = cli.run_to_end(&cli.request("hi"));
    assert_eq!(result.text, "a\u{fffd}b", "{:?}", result.error);
    // Half a character, as programs that cut texts between UTF-16 units escape it.
    cli.plays("printf '%s\\n' '{\"type\":\"result\",\"subtype\":\"success\",\"result\":\"cut \\ud83d\"}'\n");
    let (result, _) = cli.run_to_end(&cli.request("hi"));
    assert_eq!(result.text, "cut \u{fffd}", "{:?}", result.error);
}

#[test]
fn a_session_id_that_is_an_option_never_reaches_a_command_line() {
    for runtime in CLIS {
        let cli = FakeCli::new(runtime);
        cli.plays(success(runtime));
        let mut request = cli.request("hi");
        request.session = Some(resumed("--dangerous"));
        let (result, sink) = cli.run_to_end(&request);
        assert_eq!(class(&result), Some(ErrorClass::StaleSession), "{runtime}");
        assert!(result.session_lost && result.new_session_id.is_empty() && sink.spawned.is_empty());
    }
}

#[test]
fn a_cancelled_turn_is_not_started_and_keeps_its_session() {
    let cli = FakeCli::new("codex");
    cli.plays(success("codex"));
    let mut request = cli.request("hi");
    request.session = Some(resumed("01a1fb29-b11c-7b31-bfd9-e432cc964977"));
    let token = CancelToken::new().unwrap();
    token.cancel(CancelReason::User);
    let mut sink = Recorder::default();
    let result = cli.run(&request, &token, &mut sink).unwrap();
    assert_eq!(result.error.unwrap().message, "codex aborted before spawn");
    assert_eq!(result.new_session_id, "01a1fb29-b11c-7b31-bfd9-e432cc964977");
    assert!(sink.spawned.is_empty());
}

#[test]
fn what_an_interrupted_cli_says_counts_only_for_session_and_bill() {
    let cli = FakeCli::new("claude-code");
    cli.plays(
        "trap 'echo \"{\\\"type\\\":\\\"result\\\",\\\"subtype\\\":\\\"success\\\",\\\"result\\\":\\\"late\\\",\
         \\\"session_id\\\":\\\"s2\\\",\\\"total_cost_usd\\\":0.5,\\\"usage\\\":{\\\"output_tokens\\\":7}}\"; exit 0' INT TERM\n\
         echo '{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s1\"}'\nwhile :; do sleep 0.05; done\n",
    );
    let token = CancelToken::new().unwrap();
    let mut sink = Recorder { cancel_at: Some((1, token.clone())), ..Recorder::default() };
    let result = cli.run(&cli.request("hi"), &token, &mut sink).unwrap();
    assert_eq!(result.error.unwrap().message, "claude-code aborted");
    assert_eq!((result.text.as_str(), result.new_session_id.as_str()), ("", "s2"));
    assert_eq!((result.cost_usd, result.usage.map(|u| u.output)), (Some(0.5), Some(7)));
    assert_eq!(sink.blocks.len(), 1);
}

#[test]
fn a_reply_does_not_wait_for_a_cli_that_stays_and_its_session_is_not_shared() {
    let mut cli = FakeCli::new("claude-code");
    cli.settings.linger = Duration::from_millis(10);
    cli.plays(&format!("{}exec sleep 600\n", success("claude-code")));
    let runtime = Registry::new(cli.settings.clone()).get("claude-code").unwrap();
    let token = CancelToken::new().unwrap();
    let mut sink = Recorder::default();
    let mut request = cli.request("hi");
    let result = runtime.run(&request, &token, &mut sink).unwrap();
    assert_eq!((result.text.as_str(), result.new_session_id.as_str()), ("ok", "s1"), "{:?}", result.error);
    let alive = |sink: &Recorder, run: usize| Path::new(&format!("/proc/{}/stat", sink.spawned[run].pid)).exists();
    assert!(alive(&sink, 0));
    request.session = Some(resumed("s1"));
    request.turn_id.push_str("_next");
    assert_eq!(runtime.run(&request, &token, &mut sink).unwrap().text, "ok");
    assert!(!alive(&sink, 0) && alive(&sink, 1));
    assert_eq!(sink.lingering, sink.spawned, "after a crash the daemon knows what still runs");
    runtime.close();
    assert!(!alive(&sink, 1));
}

#[test]
fn a_cli_that_stays_and_ignores_an_interrupt_is_terminated() {
    let mut cli = FakeCli::new("codex");
    cli.settings.linger = Duration::from_millis(10);
    // Later than SIGKILL, where its work is not done.
    (cli.settings.stop.term, cli.settings.stop.kill) = (Duration::from_secs(10), Duration::from_secs(10));
    let traps = "trap '' INT\ntrap 'echo term >\"$dir/got\"; exit 0' TERM\n";
    cli.plays(&format!("{traps}{}while :; do sleep 0.05; done\n", success("codex")));
    let runtime = Registry::new(cli.settings.clone()).get("codex").unwrap();
    let token = CancelToken::new().unwrap();
    let result = runtime.run(&cli.request("hi"), &token, &mut Recorder::default()).unwrap();
    assert_eq!(result.text, "ok", "{:?}", result.error);
    runtime.close();
    assert_eq!(cli.get("got"), "term\n");
}

#[test]
fn a_silent_cli_is_stopped() {
    let mut cli = FakeCli::new("gemini");
    cli.settings.ndjson_idle = Some(Duration::from_millis(200));
    cli.settings.stop.term = Duration::from_millis(50);
    cli.settings.stop.kill = Duration::from_millis(100);
    cli.plays("echo '{\"type\":\"init\",\"session_id\":\"s1\"}'\nwhile :; do sleep 0.05; done\n");
    let (result, _) = cli.run_to_end(&cli.request("hi"));
    assert_eq!(result.error.unwrap().message, "gemini idle timeout: no output for 200ms");
}

#[test]
fn a_busy_session_is_waited_for() {
    let cli = FakeCli::new("codex");
    let busy = "echo 'Error: thread x already has an active writer' >&2; exit 1";
    cli.plays(&format!(
        "echo x >>\"$dir/runs\"\n[ $(wc -l <\"$dir/runs\") -ge 3 ] || {{ {busy}; }}\n{}",
        success("codex")
    ));
    let mut request = cli.request("hi");
    request.session = Some(resumed("01a1fb29-b11c-7b31-bfd9-e432cc964977"));
    let (result, sink) = cli.run_to_end(&request);
    assert_eq!(result.text, "ok", "{:?}", result.error);
    assert_eq!((sink.spawned.len(), cli.get("runs").lines().count()), (3, 3));
    assert_eq!(sink.blocks.iter().map(|b| b.seq).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_busy_session_is_given_up_in_the_end_but_not_lost() {
    let cli = FakeCli::new("codex");
    cli.plays("echo x >>\"$dir/runs\"\necho 'thread already has an active writer' >&2\nexit 1\n");
    let mut request = cli.request("hi");
    request.session = Some(resumed("01a1fb29-b11c-7b31-bfd9-e432cc964977"));
    let (result, _) = cli.run_to_end(&request);
    assert_eq!(class(&result), Some(ErrorClass::Busy));
    assert!(!result.session_lost && !result.new_session_id.is_empty());
    assert_eq!(cli.get("runs").lines().count(), 5);
}

#[test]
fn codex_has_a_home_of_its_own_with_login_and_context() {
    let cli = FakeCli::new("codex");
    std::fs::write(cli.join("home/.codex/auth.json"), "login").unwrap();
    cli.plays(&format!(
        "cat \"$CODEX_HOME/AGENTS.md\" >\"$dir/context\"\ncat \"$CODEX_HOME/auth.json\" >\"$dir/login\"\n{}",
        success("codex")
    ));
    let mut request = cli.request("hi");
    request.system_context = Some("You are Porter.".into());
    let (result, _) = cli.run_to_end(&request);
    assert_eq!((cli.get("context").as_str(), cli.get("login").as_str()), ("You are Porter.", "login"));
    let note = result.note.unwrap();
    assert_eq!(codex::context_versions(&note), Some(1));
    request.session = Some(ResumedSession { id: result.new_session_id, note: Some(note), ..ResumedSession::default() });
    request.system_context = None;
    let (result, _) = cli.run_to_end(&request);
    assert_eq!(cli.get("context"), "");
    assert_eq!(result.note.as_deref().and_then(codex::context_versions), Some(2));
    let home = cli.join("bellhop/agents/ag_1/codex-home");
    assert_eq!(home.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn what_is_about_the_moment_does_not_grow_a_thread_of_codex() {
    let cli = FakeCli::new("codex");
    cli.plays(&format!("cat >\"$dir/stdin\"\ncat \"$CODEX_HOME/AGENTS.md\" >\"$dir/context\"\n{}", success("codex")));
    let mut request = cli.request("hi");
    let mut note = None;
    for ago in ["1m ago", "2m ago", "3m ago"] {
        let passing = std::iter::once(15..15 + 2 + ago.len()).collect();
        request.system_context = Some(SystemContext { text: format!("You are Porter.\n\n{ago}\n\nSkills"), passing });
        let (result, _) = cli.run_to_end(&request);
        assert_eq!(result.text, "ok", "{:?}", result.error);
        assert_eq!(cli.get("context"), "You are Porter.\n\nSkills");
        assert_eq!(cli.get("stdin"), format!("<system-reminder>\n{ago}\n</system-reminder>\n\nhi"));
        let id = result.new_session_id;
        assert!(note.is_none() || note == result.note, "{note:?} is not {:?}", result.note);
        note = result.note;
        request.session = Some(ResumedSession { id, note: note.clone(), ..ResumedSession::default() });
    }
    assert_eq!(note.as_deref().and_then(codex::context_versions), Some(1));
}

#[test]
fn conversations_of_one_agent_never_see_each_others_context() {
    for (runtime, file) in [("codex", "\"$CODEX_HOME/AGENTS.md\""), ("gemini", "GEMINI.md")] {
        let cli = FakeCli::new(runtime);
        // It reads its context late, and announces its session only then.
        cli.plays(&format!("sleep 0.1\ncp {file} \"$dir/context.$BELLHOP_TURN\"\n{}", success(runtime)));
        let run = |name: String| {
            let mut request = cli.request("hi");
            request.system_context = Some(format!("secret of {name}").into());
            let (result, _) = cli.run_to_end(&request);
            assert_eq!(result.text, "ok", "{runtime}: {:?}", result.error);
            let seen = cli.get(&format!("context.{}", request.turn_id));
            assert_eq!(seen.matches("secret of").count(), 1, "{runtime}: {seen}");
            assert!(seen.contains(&format!("secret of {name}")), "{runtime}, {name}: {seen}");
        };
        std::thread::scope(|scope| {
            for name in ["anna", "bert", "carl"] {
                scope.spawn(move || run(name.into()));
            }
        });
    }
}

#[test]
fn kimi_hears_of_rules_that_changed_since_its_session_began() {
    let cli = FakeCli::new("kimi-cli");
    cli.plays(success("kimi-cli"));
    let rule = |text: &str| {
        let rule = serde_json::json!({"kind": "room_rule", "scope": "room", "id": "room:rm_1", "version": "sha256:1",
            "roomId": "rm_1", "text": text});
        vec![serde_json::from_value(rule).unwrap()]
    };
    let mut request = cli.request("hi");
    for (text, told) in [("Be brief.", false), ("Be brief.", false), ("Be long.", true), ("Be long.", true)] {
        request.system_rules = rule(text);
        let (result, _) = cli.run_to_end(&request);
        assert_eq!(result.text, "ok", "{:?}", result.error);
        let argv = cli.get("argv");
        let prompt = argv.split_once("--prompt\n").unwrap().1;
        let in_prompt = prompt.starts_with("<system-reminder>\n[BotCord Room Rule]\n") && prompt.contains(text);
        assert_eq!((in_prompt, prompt.ends_with("hi\n")), (told, true), "{prompt}");
        assert!(std::fs::read_to_string(cli.join("cwd/.kimi-code/AGENTS.md")).unwrap().contains(text));
        let (id, note) = (result.new_session_id, result.note);
        request.session = Some(ResumedSession { id, note, ..ResumedSession::default() });
    }
}

#[test]
fn gemini_gets_its_context_in_the_prompt_when_the_file_cannot_be_written() {
    let cli = FakeCli::new("gemini");
    std::fs::create_dir(cli.join("cwd/GEMINI.md")).unwrap();
    cli.plays(&format!("cat >\"$dir/stdin\"\n{}", success("gemini")));
    let mut request = cli.request("hi");
    request.system_context = Some(" You are Porter.\n".into());
    let (result, _) = cli.run_to_end(&request);
    assert_eq!(result.text, "ok", "{:?}", result.error);
    assert_eq!(cli.get("stdin"), "You are Porter.\n\n---\n\nhi");
}

#[test]
fn a_long_system_prompt_of_claude_goes_in_a_private_file() {
    let cli = FakeCli::new("claude-code");
    cli.plays(&format!(
        "while [ $# -gt 0 ]; do\n[ \"$1\" = --append-system-prompt-file ] && {{ cp -p \"$2\" \"$dir/system\"; echo \"$2\" >\"$dir/path\"; }}\n\
         shift\ndone\n{}",
        success("claude-code")
    ));
    let mut request = cli.request("hi");
    request.system_context = Some("long ".repeat(30_000).into());
    let (result, _) = cli.run_to_end(&request);
    assert_eq!(result.text, "ok", "{:?}", result.error);
    assert_eq!(cli.get("system"), "long ".repeat(30_000));
    assert_eq!(cli.join("system").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let path = cli.get("path");
    assert!(path.contains("/agents/ag_1/state/") && !Path::new(path.trim()).exists(), "{path}");
}

#[test]
fn claude_runs_as_root_only_in_a_declared_sandbox_and_without_stale_keys() {
    let mut cli = FakeCli::new("claude-code");
    cli.plays(&format!("env >\"$dir/env\"\n{}", success("claude-code")));
    cli.settings.base_env.push(("ANTHROPIC_API_KEY".into(), "stale".into()));
    cli.settings.as_root = true;
    cli.run_to_end(&cli.request("hi"));
    assert!(!cli.get("env").contains("IS_SANDBOX") && !cli.get("env").contains("ANTHROPIC_API_KEY"));
    cli.settings.sandboxed = true;
    cli.settings.keep_anthropic_env = true;
    cli.run_to_end(&cli.request("hi"));
    assert!(cli.get("env").contains("IS_SANDBOX=1") && cli.get("env").contains("ANTHROPIC_API_KEY=stale"));
}

#[test]
fn restricted_strangers_do_not_skip_permissions() {
    let table = [
        ("claude-code", "dontAsk"),
        ("codex", "sandbox_mode=\"workspace-write\""),
        ("gemini", "--approval-mode\ndefault"),
    ];
    for (runtime, expected) in table {
        let mut cli = FakeCli::new(runtime);
        cli.settings.permissions.public = Permission::Restricted;
        cli.plays(success(runtime));
        let mut request = cli.request("hi");
        cli.run_to_end(&request);
        assert!(!cli.get("argv").contains(expected), "{runtime}");
        request.trust = TrustLevel::Public;
        cli.run_to_end(&request);
        assert!(cli.get("argv").contains(expected), "{runtime}: {}", cli.get("argv"));
    }
}

#[test]
fn a_long_reply_is_cut_and_a_partial_one_never_sent() {
    let cli = FakeCli::new("gemini");
    let half = "x".repeat(700_000);
    cli.put("half", format!("{{\"type\":\"message\",\"role\":\"assistant\",\"content\":\"{half}\"}}\n").as_bytes());
    cli.plays("cat \"$dir/half\" \"$dir/half\"\necho '{\"type\":\"result\",\"status\":\"success\"}'\n");
    let (result, _) = cli.run_to_end(&cli.request("hi"));
    assert_eq!(result.text.len(), 1_048_576);
    cli.plays("cat \"$dir/half\"\nexit 1\n");
    let (result, sink) = cli.run_to_end(&cli.request("hi"));
    assert!(result.text.is_empty() && result.error.is_some());
    assert!(result.failure.unwrap().partial_text.unwrap().starts_with('x'));
    assert_eq!(sink.blocks[0].kind, BlockKind::AssistantText);
}

#[test]
fn secrets_do_not_reach_the_evidence_of_a_failure() {
    let cli = FakeCli::new("claude-code");
    cli.plays("echo 'token=abcdef123456' >&2\necho 'password: hunter22'\nexit 1\n");
    let (result, _) = cli.run_to_end(&cli.request("hi"));
    let evidence = serde_json::to_string(&result.failure).unwrap();
    assert!(!evidence.contains("abcdef123456") && !evidence.contains("hunter22"), "{evidence}");
}

#[test]
fn a_version_is_asked_once_per_file() {
    let cli = FakeCli::new("codex");
    cli.plays("echo x >>\"$dir/runs\"\necho; echo ' fake 1.2 '\necho more\n");
    let mut settings = cli.settings.clone();
    // No real CLI of this machine is found.
    for other in RUNTIMES.iter().filter(|d| d.id != "codex") {
        settings.base_env.push((format!("BELLHOP_{}", other.variable).into(), "/nowhere/cli".into()));
    }
    settings.base_env.push(("FAKE_CLI".into(), cli.join("").into()));
    let registry = Registry::new(settings);
    for _ in 0..2 {
        let probe = registry.ask(RUNTIMES.iter().find(|d| d.id == "codex").unwrap());
        assert_eq!(probe.version.as_deref(), Some("fake 1.2"));
        assert!(probe.path.is_some() && probe.problem.is_none());
    }
    assert_eq!((cli.get("runs").lines().count(), cli.get("argv").as_str()), (1, "--version\n"));
    assert_eq!(registry.first_available(), "codex");
    assert!(registry.get("codex").is_ok());
}
