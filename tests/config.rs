//! The configuration file: what is accepted, what is refused, and in which words.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bellhop::config::keys::KEYS;
use bellhop::config::{Ack, Config, ConfigError, HubSettings, PromptVia, load};
use bellhop::engine::approvals::{ApprovalPolicy, Decide};
use bellhop::engine::route::{Match, OnInterrupt, QueueMode};
use bellhop::engine::waits::{Parking, Who};
use bellhop::message::{ConversationKind, TrustLevel};

fn parse(text: &str) -> Result<Config, ConfigError> {
    load::parse(text, Path::new("config.json"))
}

fn complaints(text: &str) -> Vec<String> {
    parse(text).expect_err(text).problems.iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_object_means_all_defaults() {
    let config = parse("{}").unwrap();
    let defaults = Config { file: config.file.clone(), ..Config::default() };
    assert_eq!(config, defaults);
    assert!(config.max_concurrent_turns >= 4);
    assert_eq!(config.turn_timeout, Duration::from_mins(30));
    assert_eq!((config.rotation.max_turns, config.rotation.max_input_tokens), (25, 160_000));
    assert!(config.carry_superseded && config.stream_blocks && config.transcript);
    assert_eq!(config.local_agents[0].name, "local");
}

#[test]
fn every_key_is_read() {
    let config = parse(
        r#"{
        "local": {"agents": [{"name": "a", "runtime": "acp:goose", "cwd": "/w", "trust": "public", "model": "m"}]},
        "defaultRoute": {"adapter": "codex", "cwd": "/d", "extraArgs": ["-x"], "trustLevel": "owner", "queueMode": "serial", "onInterrupt": "ask"},
        "routes": [{"match": {"channel": "c", "accountId": "ag", "roomId": "old", "conversationPrefix": "rm_", "roomPrefix": "other",
                    "conversationKind": "group", "senderId": "s", "mentioned": false}, "adapter": "openclaw-acp", "cwd": "/r",
                    "gateway": "g", "openclawAgent": "main", "trustLevel": "weird"}, {"adapter": "echo", "cwd": "/e"}],
        "openclawGateways": [{"name": "g", "url": "ws://h"}],
        "agents": ["ag_b", "ag_a", "ag_b"], "agentId": "ag_c",
        "agentDiscovery": {"enabled": false, "credentialsDir": "/c"},
        "hub": {"url": "http://localhost:8000", "ack": "journal", "pollSeconds": 0, "renewSeconds": 5, "sendsPerMinute": 7,
                "sendsPerRoom": 6, "fetchFiles": true, "verifySignatures": true},
        "streamBlocks": false, "transcript": {"enabled": false}, "maxConcurrentTurns": 3, "turnTimeoutSeconds": 60,
        "idleTimeoutSeconds": 0, "carrySuperseded": false, "promptVia": "argv", "rotation": {"maxTurns": 5, "maxInputTokens": 2000},
        "claudeWarmSeconds": 9, "claudeWarmMax": 7, "runtimePermissions": {"public": "restricted"}, "sandboxed": true, "keepAnthropicEnv": true,
        "killLeftovers": true, "memoryReserveMb": 0, "memoryPerTurnMb": 7,
        "parkOnUsageLimit": "always", "parkOnFailure": "never", "silentTurnSeconds": 0,
        "approvals": {"owner": "ask", "trusted": "deny", "public": "allow", "timeoutSeconds": 7},
        "acpRuntimes": [{"name": "goose", "command": ["goose", "acp"], "env": {"A": "b"}, "mode": "m", "contextFile": "AGENTS.md",
                         "mcpServers": [{"name": "files", "command": "mcp-files"}]}]
    }"#,
    )
    .unwrap();
    let agent = &config.local_agents[0];
    assert_eq!((agent.runtime.as_deref(), agent.trust), (Some("acp:goose"), TrustLevel::Public));
    let default = config.default_route.as_ref().unwrap();
    assert_eq!(
        (default.runtime.as_str(), default.trust_level, default.queue_mode),
        ("codex", Some(TrustLevel::Owner), Some(QueueMode::Serial))
    );
    assert_eq!(default.on_interrupt, Some(OnInterrupt::Ask));
    assert_eq!((config.memory_reserve_mb, config.memory_per_turn_mb, config.silent_turn), (0, 7, Duration::ZERO));
    assert_eq!(config.parking, Parking { usage_limit: Who::Everybody, broken: Who::Nobody });
    let route = &config.routes[0];
    let gateway = route.gateway.as_ref().unwrap();
    assert_eq!((gateway.url.as_str(), gateway.openclaw_agent.as_deref()), ("ws://h", Some("main")));
    assert_eq!(route.matches.conversation_id.as_deref(), Some("old"));
    assert_eq!(route.matches.conversation_prefix.as_deref(), Some("rm_"));
    assert_eq!(route.matches.conversation_kind, Some(ConversationKind::Group));
    assert_eq!((route.matches.mentioned, route.trust_level), (Some(false), Some(TrustLevel::Public)));
    assert_eq!(config.routes[1].matches, Match::default());
    assert_eq!(config.agents, ["ag_b", "ag_a"]);
    assert_eq!(config.credentials_dir, Some(PathBuf::from("/c")));
    let url = Some("http://localhost:8000".into());
    let renew = Duration::from_secs(5);
    let (ack, poll, sends, sends_to_room) = (Ack::Journal, Duration::ZERO, 7, 6);
    let hub = HubSettings { url, ack, poll, renew, sends, sends_to_room, fetch_files: true, verify_signatures: true };
    assert_eq!(config.hub, hub);
    assert_eq!((config.idle_timeout, config.prompt_via), (Some(Duration::ZERO), PromptVia::Argv));
    assert!(config.runtime_permissions.restricted(TrustLevel::Public));
    let limit = Duration::from_secs(7);
    let wanted = ApprovalPolicy { owner: Decide::Ask, trusted: Decide::Deny, public: Decide::Allow, limit };
    assert_eq!(config.approvals, wanted);
    assert!(!config.runtime_permissions.restricted(TrustLevel::Owner));
    assert_eq!(config.acp_runtimes[0].command, ["goose", "acp"]);
    assert_eq!(config.warnings.len(), 3, "agentId, roomPrefix, trustLevel: {:?}", config.warnings);
}

#[test]
fn null_is_the_same_as_nothing() {
    let nulls: Vec<String> =
        KEYS.iter().filter(|k| !k.path.contains('.')).map(|k| format!("\"{}\": null", k.path)).collect();
    let config = parse(&format!("{{{}}}", nulls.join(","))).unwrap();
    assert_eq!(config.turn_timeout, Config::default().turn_timeout);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn each_mistake_names_its_field_and_what_is_expected() {
    let cases = [
        ("[]", "expected an object, found a list"),
        (
            r#"{"hub": {"url": "http://hub.example"}}"#,
            "hub.url: the address is http:// and not on this machine; only https:// is safe there",
        ),
        (r#"{"routes": {}}"#, "routes: expected a list, found an object"),
        (r#"{"routes": [5]}"#, "routes[0]: expected an object, found 5"),
        (r#"{"routes": [{"adapter": "codex"}]}"#, "routes[0]: cwd is missing; expected a text"),
        (
            r#"{"routes": [{"adapter": "", "cwd": "/"}]}"#,
            "routes[0].adapter: expected a text that is not empty, found \"\"",
        ),
        (
            r#"{"routes": [{"match": 1, "adapter": "codex", "cwd": "/"}]}"#,
            "routes[0].match: expected an object, found 1",
        ),
        (
            r#"{"routes": [{"match": {"conversationKind": "dm"}, "adapter": "codex", "cwd": "/"}]}"#,
            "routes[0].match.conversationKind: expected \"direct\" or \"group\", found \"dm\"",
        ),
        (
            r#"{"defaultRoute": {"adapter": "acp:goose", "cwd": "/"}, "acpRuntimes": [{"name": "duck", "command": ["d"]}]}"#,
            "defaultRoute.adapter: unknown runtime \"acp:goose\"; expected one of claude-code, codex, deepseek-tui, kimi-cli, \
             hermes-agent, gemini, openclaw-acp, echo, acp:duck",
        ),
        (
            r#"{"defaultRoute": {"adapter": "openclaw-acp", "cwd": "/"}}"#,
            "defaultRoute: gateway is missing; openclaw-acp needs the name of one of openclawGateways",
        ),
        (
            r#"{"defaultRoute": {"adapter": "openclaw-acp", "cwd": "/", "gateway": "g"}, "openclawGateways": [{"name": "lab", "url": "w"}]}"#,
            "defaultRoute.gateway: unknown gateway \"g\"; expected one of openclawGateways: lab",
        ),
        (r#"{"openclawGateways": [{"name": "a"}]}"#, "openclawGateways[0].url: is missing; expected a text"),
        (
            r#"{"openclawGateways": [{"name": "a", "url": "x"}, {"name": "a", "url": "y"}]}"#,
            "openclawGateways[1].name: \"a\" is there twice",
        ),
        (
            r#"{"thirdPartyGateways": [{"id": "g", "type": "irc", "accountId": "a"}]}"#,
            "thirdPartyGateways[0].type: expected \"telegram\" or \"wechat\" or \"feishu\", found \"irc\"",
        ),
        (r#"{"agents": ["a", ""]}"#, "agents[1]: expected a text that is not empty, found \"\""),
        (r#"{"local": {"agents": [{}]}}"#, "local.agents[0].name: is missing; expected a text"),
        (
            r#"{"local": {"agents": [{"name": "../x"}]}}"#,
            "local.agents[0].name: expected 1 to 64 characters of [A-Za-z0-9_-], the first not a sign, found \"../x\"",
        ),
        (r#"{"local": {"agents": [{"name": "a"}, {"name": "a"}]}}"#, "local.agents[1].name: \"a\" is there twice"),
        (
            r#"{"local": {"agents": [{"name": "a", "cwd": "rel"}]}}"#,
            "local.agents[0].cwd: expected an absolute path, or one that begins with ~/, found \"rel\"",
        ),
        (r#"{"maxConcurrentTurns": 0}"#, "maxConcurrentTurns: expected a whole number from 1 to 1024, found 0"),
        (r#"{"maxConcurrentTurns": 1.5}"#, "maxConcurrentTurns: expected a whole number from 1 to 1024, found 1.5"),
        (r#"{"sandboxed": "yes"}"#, "sandboxed: expected true or false, found \"yes\""),
        (r#"{"rotation": 5}"#, "rotation: expected an object, found 5"),
        (
            r#"{"acpRuntimes": [{"name": "A", "command": ["x"]}]}"#,
            "acpRuntimes[0].name: expected 1 to 32 characters of [a-z0-9_-], the first not a sign, found \"A\"",
        ),
        (
            r#"{"acpRuntimes": [{"name": "a", "command": []}]}"#,
            "acpRuntimes[0]: command is missing or empty; expected a list with a program and its arguments",
        ),
        (
            r#"{"acpRuntimes": [{"name": "a", "command": ["x"], "contextFile": "../y"}]}"#,
            "acpRuntimes[0].contextFile: expected the name of a file, without a directory, found \"../y\"",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(complaints(text), [expected], "{text}");
    }
}

#[test]
fn a_secret_is_never_quoted() {
    let said = complaints(r#"{"acpRuntimes": [{"name": "a", "command": ["x"], "env": {"KEY": 12345}}]}"#).join("");
    assert!(said.contains("\"KEY\"") && !said.contains("12345"), "{said}");
}

#[test]
fn all_mistakes_are_named_at_once() {
    assert_eq!(complaints(r#"{"agents": 1, "routes": 2, "streamBlocks": 3}"#).len(), 3);
}

#[test]
fn of_very_many_mistakes_the_first_hundred_are_named() {
    let list = vec!["5"; 500_000].join(",");
    let text = format!("{{\"defaultRoute\": {{\"adapter\": \"codex\", \"cwd\": \"/\", \"extraArgs\": [{list}]}}}}");
    let told = complaints(&text);
    assert_eq!(told.len(), 101);
    assert!(told[99].starts_with("defaultRoute.extraArgs[99]: "), "{}", told[99]);
    assert_eq!(told[100], "there are more mistakes than these 100");
}

#[test]
fn a_list_of_unusable_agents_counts_as_absent() {
    assert_eq!(parse(r#"{"agents": ["", ""]}"#).unwrap().agents, Vec::<String>::new());
    assert_eq!(parse(r#"{"agents": [], "agentId": "x"}"#).unwrap().agents, ["x"]);
}

#[test]
fn what_others_wrote_is_kept() {
    let text =
        r#"{"cloud": {"a": 1}, "thirdPartyGateways": [{"id": "g", "type": "telegram", "accountId": "a", "foo": 1}]}"#;
    let config = parse(text).unwrap();
    assert_eq!(
        serde_json::to_value(&config.document).unwrap(),
        serde_json::from_str::<serde_json::Value>(text).unwrap()
    );
    assert_eq!(
        config.warnings,
        ["config.json: unknown keys, kept but without effect: cloud (line 1), thirdPartyGateways[0].foo (line 1)"]
    );
}

#[test]
fn a_file_that_is_no_file_is_refused() {
    let error = load::load(&std::env::temp_dir()).unwrap_err();
    assert!(error.to_string().ends_with("is not a file"), "{error}");
    assert_eq!(load::load(Path::new("/nowhere/config.json")).unwrap(), Config::default());
}
