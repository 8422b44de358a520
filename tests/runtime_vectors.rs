//! Vectors of the runtime adapters: arguments, events, and the pure functions that they share.

mod support;

use std::path::{Path, PathBuf};

use bellhop::engine::ports::{ResumedSession, RunRequest};
use bellhop::message::TrustLevel;
use bellhop::runtime::acp::permission::PermissionRequest;
use bellhop::runtime::acp::rpc::RpcError;
use bellhop::runtime::acp::update::Update;
use bellhop::runtime::claude_code::SystemPrompt;
use bellhop::runtime::deepseek::sse::{self, Frame};
use bellhop::runtime::ndjson::{Arg, StreamParser};
use bellhop::runtime::openclaw::text;
use bellhop::runtime::selection::Selection;
use bellhop::runtime::settings::PromptVia;
use bellhop::runtime::{
    RuntimeSettings, catalogue, classify, claude_code, codex, context_file, extra_args, gemini, kimi, outcome,
    prompt_text, resolve, session_id,
};
use serde_json::{Value, json};
use support::run_request::request;
use support::vector_file::check;

fn str_of<'v>(input: &'v Value, key: &str) -> &'v str {
    input[key].as_str().unwrap_or_else(|| panic!("{key} is no string in {input}"))
}

fn strings(input: &Value) -> Vec<String> {
    serde_json::from_value(input.clone()).unwrap_or_else(|e| panic!("{input}: {e}"))
}

#[test]
fn vectors_runtime_args() {
    check("runtime-args", &[], |input| match str_of(input, "op") {
        "extra" => extra(input),
        "argv" => argv(input),
        "sessionId" => json!(session_id::accepted(str_of(input, "runtime"), str_of(input, "sessionId"))),
        "prompt" => prompt(input),
        op => panic!("unknown op {op}"),
    });
}

fn extra(input: &Value) -> Value {
    let args = strings(&input["extraArgs"]);
    json!(match str_of(input, "runtime") {
        "claude-code" => extra_args::claude_reference(&args),
        "codex" => extra_args::codex_reference(&args),
        "gemini" => extra_args::gemini_reference(&args),
        "kimi-cli" => extra_args::kimi_legacy(&args),
        other => panic!("unknown runtime {other}"),
    })
}

fn run_request(input: &Value) -> RunRequest {
    let mut request = request(str_of(input, "text"));
    request.cwd = PathBuf::from(str_of(input, "cwd"));
    request.session = input["sessionId"].as_str().map(|id| ResumedSession { id: id.into(), ..Default::default() });
    request.trust = serde_json::from_value::<TrustLevel>(input["trustLevel"].clone()).unwrap();
    request.system_context = input["systemContext"].as_str().map(Into::into);
    if let Some(rules) = input.get("systemRules") {
        request.system_rules = serde_json::from_value(rules.clone()).unwrap();
    }
    if let Some(extra) = input.get("extraArgs") {
        request.extra_args = strings(extra);
    }
    request
}

/// The whole command line, with the prompt as an argument.
fn argv(input: &Value) -> Value {
    let mut settings = RuntimeSettings::with_env(Path::new("/nowhere"), Vec::new());
    settings.prompt_via = PromptVia::Argv;
    let request = run_request(input);
    let (binary, (args, _)) = match str_of(input, "runtime") {
        "claude-code" => {
            let system = context_file::prepend(request.context(), &request.system_rules);
            let system = system.as_deref().map_or(SystemPrompt::None, SystemPrompt::Inline);
            ("claude", claude_code::arguments(&request, &settings, system))
        }
        "codex" => ("codex", codex::arguments(&request, &settings)),
        "gemini" => ("gemini", gemini::arguments(&request, &settings, request.context())),
        "kimi-cli" => return kimi_argv(input, &request),
        other => panic!("unknown runtime {other}"),
    };
    let argv: Vec<&str> = std::iter::once(binary).chain(args.iter().map(Arg::as_str)).collect();
    json!({ "argv": argv })
}

fn kimi_argv(input: &Value, request: &RunRequest) -> Value {
    assert_eq!(str_of(input, "flavour"), "legacy");
    let session = request.session.as_ref().unwrap();
    let prompt = kimi::prompt(request.context(), &request.text);
    let extra = extra_args::kimi_legacy(&request.extra_args);
    let args = kimi::legacy_args(None, &session.id, extra, &prompt);
    json!({"argv": std::iter::once("kimi".to_owned()).chain(args).collect::<Vec<_>>()})
}

fn prompt(input: &Value) -> Value {
    let repeated = |parts: &Value| parts[0].as_str().unwrap().repeat(parts[1].as_u64().unwrap() as usize);
    let given = input.get("repeat").map_or_else(|| str_of(input, "text").to_owned(), repeated);
    let text = prompt_text::prepare(str_of(input, "runtime"), &given, input["owner"] == true);
    let via = match prompt_text::via(&text, PromptVia::Argv) {
        PromptVia::Argv => "argv",
        PromptVia::Stdin => "stdin",
    };
    if input.get("repeat").is_some() {
        json!({"bytes": text.len(), "via": via})
    } else {
        json!({"text": text, "via": via})
    }
}

#[test]
fn vectors_runtime_blocks() {
    // A failed turn ends the thinking as a completed one does.
    let failed = json!({"kind": "other", "status": {"kind": "thinking", "phase": "stopped"}});
    check("runtime-blocks", &[("codex: turn.failed", failed)], |input| {
        let event = &input["event"];
        let mut parser: Box<dyn StreamParser> = match str_of(input, "runtime") {
            "claude-code" => Box::new(claude_code::Parser::default()),
            "codex" => Box::new(codex::Parser::new(None)),
            "gemini" => Box::new(gemini::Parser::new(false)),
            "kimi-cli" => Box::new(kimi::Parser::new(None)),
            "acp" => {
                let update = Update::from_params(&json!({"sessionId": "s", "update": event}));
                return json!({"kind": update.kind, "status": update.status});
            }
            "deepseek-tui" => {
                let frame = Frame { event: str_of(event, "event").into(), data: event["data"].clone() };
                return json!({"kind": sse::meaning(&frame).kind});
            }
            other => panic!("unknown runtime {other}"),
        };
        let seen = parser.event(event);
        json!({"kind": seen.kind, "status": seen.status})
    });
}

#[test]
fn vectors_runtime_misc() {
    check("runtime-misc", &[], |input| match str_of(input, "op") {
        "cap" => json!(outcome::cap(str_of(input, "text"), input["maxBytes"].as_u64().unwrap() as usize)),
        "path" => {
            let extra: Vec<PathBuf> = strings(&input["extra"]).into_iter().map(PathBuf::from).collect();
            json!(resolve::extend_path(str_of(input, "base").as_ref(), &extra).to_str())
        }
        "terminalStderr" => json!(classify::is_terminal_stderr(str_of(input, "text"))),
        "managedRules" => {
            let rules: Vec<_> = serde_json::from_value(input["rules"].clone()).unwrap();
            let body = context_file::render_rules(&rules);
            let merged = context_file::merge(str_of(input, "existing"), body.as_deref());
            json!(merged.replace(context_file::MANAGED_LINE, "@LINE@"))
        }
        "rpcError" => json!(RpcError::from_value(&input["error"]).text()),
        "loadFallback" => json!(RpcError::from_value(&input["error"]).allows_fresh_session()),
        "permission" => {
            let request = PermissionRequest::from_params(&json!({"options": input["options"]}));
            json!(request.choose(str_of(input, "trust") != "public"))
        }
        "sse" => match Frame::parse(str_of(input, "frame")) {
            Some(frame) => json!({"event": frame.event, "data": frame.data}),
            None => Value::Null,
        },
        "deepseekSelection" => json!(Selection::from_args(&strings(&input["extraArgs"]))),
        "deepseekError" => {
            json!(Frame { event: str_of(input, "event").into(), data: input["data"].clone() }.error())
        }
        op => panic!("unknown op {op}"),
    });
}

#[test]
fn vectors_runtime_openclaw_text() {
    check("runtime-openclaw-text", &[], |input| match str_of(input, "op") {
        "stream" => {
            let mut filter = text::Filter::default();
            let pushed: Vec<_> = strings(&input["chunks"]).iter().map(|chunk| filter.push(chunk)).collect();
            json!({"pushed": pushed, "flushed": filter.finish()})
        }
        "normalize" => json!(text::normalize(str_of(input, "text"))),
        "final" => json!(text::final_text(&input["result"])),
        op => panic!("unknown op {op}"),
    });
}

#[test]
fn vectors_runtime_catalog() {
    check("runtime-catalog", &[], |input| {
        let raw = str_of(input, "raw");
        match str_of(input, "op") {
            "deepseekModels" => json!(catalogue::deepseek::models(raw)),
            "codexModels" => json!(catalogue::codex::models(raw)),
            "kimiModels" => json!(catalogue::kimi::models(raw)),
            "kimiParameters" => json!(catalogue::kimi::parameters(raw)),
            op => panic!("unknown op {op}"),
        }
    });
}
