//! `claude -p` for vault agents, with a program in place of the CLI.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use bellhop::engine::cancel::CancelToken;
use bellhop::engine::ports::{ResumedSession, RunRequest, RunResult, Runtime};
use bellhop::message::{Attachment, AttachmentKind};
use bellhop::runtime::claude_vault::{ClaudeVault, HttpServer, VaultAgents, VaultTurn};
use serde_json::{Value, json};
use support::fake_cli::FakeCli;
use support::run_request::Recorder;

struct Agents(VaultTurn);

impl VaultAgents for Agents {
    fn turn(&self, _: &RunRequest) -> Result<VaultTurn, String> {
        Ok(self.0.clone())
    }
}

const SUCCESS: &str = r#"{"type":"result","subtype":"success","is_error":false,"result":"Done.","session_id":"s-new"}"#;

fn turn(cli: &FakeCli) -> VaultTurn {
    VaultTurn {
        private: cli.join("private"),
        model: Some("opus".into()),
        servers: vec![HttpServer {
            name: "parachute-vault-x".into(),
            url: "http://v/mcp".into(),
            token: Some("hush".into()),
        }],
        private_home: true,
        ..VaultTurn::default()
    }
}

fn run(cli: &FakeCli, session: Option<&str>, attachments: Vec<Attachment>) -> (RunResult, Recorder) {
    let runtime = ClaudeVault::new(&cli.settings, Arc::new(Agents(turn(cli))));
    let mut request = cli.request("hello");
    request.system_context = Some("Be kind.".into());
    request.session = session.map(|id| ResumedSession { id: id.into(), ..ResumedSession::default() });
    request.attachments = attachments;
    let mut sink = Recorder::default();
    let result = runtime.run(&request, &CancelToken::new().unwrap(), &mut sink).unwrap();
    (result, sink)
}

#[test]
fn a_turn_has_its_own_files_and_session() {
    let cli = FakeCli::new("claude-code");
    cli.plays(&format!("cat >\"$dir/stdin\"\nenv >\"$dir/env\"\necho '{SUCCESS}'\n"));
    let file = cli.join("note.txt");
    std::fs::write(&file, "words").unwrap();
    let attachment = Attachment {
        file_path: file,
        filename: "../my note.txt".into(),
        content_type: Some("text/plain".into()),
        kind: AttachmentKind::File,
        source_path: None,
    };
    let (result, _) = run(&cli, None, vec![attachment]);
    assert_eq!((result.text.as_str(), result.new_session_id.as_str(), result.error), ("Done.", "s-new", None));
    let args: Vec<String> = cli.get("argv").lines().map(str::to_owned).collect();
    let private = cli.join("private").display().to_string();
    let expected = [
        "-p",
        "--output-format",
        "stream-json",
        "--verbose",
        "--strict-mcp-config",
        "--mcp-config",
        &format!("{private}/.mcp.json"),
        "--dangerously-skip-permissions",
        "--model",
        "opus",
        "--append-system-prompt-file",
        &format!("{private}/system-prompt.txt"),
        "--session-id",
    ];
    assert_eq!(args[..expected.len()], expected);
    assert_eq!(args[expected.len()].len(), 36);
    let prompt = cli.get("stdin");
    assert!(
        prompt.starts_with("[bellhop run context: now=") && prompt.contains(", session=new]\n\nhello\n\n"),
        "{prompt}"
    );
    assert!(prompt.contains(&format!("- {private}/attachments/my_note.txt (text/plain)")), "{prompt}");
    assert_eq!(std::fs::read_to_string(cli.join("private/attachments/my_note.txt")).unwrap(), "words");
    let mcp: Value = serde_json::from_str(&std::fs::read_to_string(cli.join("private/.mcp.json")).unwrap()).unwrap();
    let server = json!({"type": "http", "url": "http://v/mcp", "headers": {"Authorization": "Bearer hush"}});
    assert_eq!(mcp, json!({"mcpServers": {"parachute-vault-x": server}}));
    let mode = std::fs::metadata(cli.join("private/.mcp.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(cli.join("private/home/.claude/.claude.json").exists());
    let env = cli.get("env");
    assert!(
        env.contains("IS_SANDBOX=1") && env.contains(&format!("CLAUDE_CONFIG_DIR={private}/home/.claude")),
        "{env}"
    );
}

#[test]
fn an_unknown_session_is_replaced_once() {
    let cli = FakeCli::new("claude-code");
    let failed = r#"{"type":"result","subtype":"error_during_execution","is_error":true,"session_id":"x","errors":["No conversation found with session ID: old"]}"#;
    cli.plays(&format!(
        "cat >/dev/null\necho \"$*\" >>\"$dir/runs\"\ncase \"$*\" in *--resume*) echo '{failed}'; exit 1;; esac\necho '{SUCCESS}'\n"
    ));
    let (result, _) = run(&cli, Some("old"), Vec::new());
    assert_eq!((result.text.as_str(), result.new_session_id.as_str()), ("Done.", "s-new"));
    assert!(result.session_replaced);
    assert_eq!(cli.get("runs").lines().count(), 2);
}

#[test]
fn a_turn_that_used_a_tool_is_never_repeated() {
    let cli = FakeCli::new("claude-code");
    let tool = r#"{"type":"assistant","message":{"content":[{"type":"tool_use","name":"Bash","id":"t","input":{}}]},"session_id":"s"}"#;
    let failed = r#"{"type":"result","subtype":"success","is_error":true,"api_error_status":529,"result":"API Error: 529 overloaded","session_id":"s"}"#;
    cli.plays(&format!("cat >/dev/null\necho x >>\"$dir/runs\"\necho '{tool}'\necho '{failed}'\nexit 1\n"));
    let (result, sink) = run(&cli, None, Vec::new());
    assert!(result.error.is_some());
    assert_eq!(cli.get("runs").lines().count(), 1);
    assert_eq!(sink.blocks.iter().map(|b| b.seq).collect::<Vec<_>>(), [1, 2]);
}
