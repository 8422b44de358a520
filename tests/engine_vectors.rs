//! Vectors of the engine's pure functions. Every case of a file runs; all that fail are named, then the test fails.

use std::path::Path;

use bellhop::engine::route::{Match, Route, Routes, queue_mode};
use bellhop::engine::{keys, transcript};
use bellhop::message::{ConversationKind, Inbound};
use bellhop::{failure, redact, text};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One case of a vector file. `input` is read into the test's own type, so that an unknown `op` is an error.
#[derive(Deserialize)]
struct Case {
    name: String,
    input: Value,
    expect: Value,
}

/// Runs all cases of a file through `run`, which returns what was found, as JSON.
#[track_caller]
fn check<I: DeserializeOwned>(file: &str, run: impl Fn(I) -> Value) {
    let path = format!("{}/tests/vectors/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(!cases.is_empty());
    let failed: Vec<String> = cases
        .into_iter()
        .filter_map(|case| match serde_json::from_value(case.input) {
            Err(e) => Some(format!("{}: input: {e}", case.name)),
            Ok(input) => {
                let found = run(input);
                (found != case.expect).then(|| format!("{}: expected {}, found {found}", case.name, case.expect))
            }
        })
        .collect();
    assert!(failed.is_empty(), "{file}:\n{}", failed.join("\n"));
}

#[test]
fn runtime_errors_vectors() {
    #[derive(Deserialize)]
    #[serde(tag = "op", rename_all = "snake_case")]
    enum Input {
        Auth { text: String },
        Transient { text: String },
        Usage { text: String },
        RecoverableSession { text: String },
        Reset { text: String },
        Format { text: String, runtime: Option<String> },
    }
    check("runtime-errors", |input| match input {
        Input::Auth { text } => failure::is_auth_failure(&text).into(),
        Input::Transient { text } => failure::is_transient(&text).into(),
        Input::Usage { text } => failure::is_usage_limit(&text).into(),
        Input::RecoverableSession { text } => failure::is_recoverable_session_failure(&text).into(),
        Input::Reset { text } => failure::usage_reset_hint(&text).into(),
        Input::Format { text, runtime } => failure::usage_message(&text, runtime.as_deref().unwrap_or("")).into(),
    });
}

#[test]
fn redaction_vectors() {
    #[derive(Deserialize)]
    #[serde(tag = "op", rename_all = "snake_case")]
    enum Input {
        Text { text: String },
        Argv { argv: Vec<String> },
        Block { value: Value },
        BlockText { text: String },
    }
    check("redaction", |input| match input {
        Input::Text { text } => redact::text(&text).into(),
        Input::Argv { argv } => redact::argv(&argv).into(),
        Input::Block { value } => redact::block(&value),
        Input::BlockText { text } => redact::block_text(&text).into(),
    });
}

#[test]
fn text_split_vectors() {
    #[derive(Deserialize)]
    struct Input {
        text: String,
        limit: i64,
    }
    check("text-split", |i: Input| text::split(&i.text, usize::try_from(i.limit).unwrap_or(0)).into());
}

#[test]
fn session_key_vectors() {
    #[derive(Deserialize)]
    #[serde(tag = "op", rename_all = "snake_case", rename_all_fields = "camelCase")]
    enum Input {
        Uuid { room_id: Option<String>, topic: Option<String>, sender_id: Option<String> },
        Store { key: Key },
        Queue { message: Inbound },
        Breaker { runtime: String, message: Inbound },
        Loop { key: Key },
        ProfileDir { room_id: String },
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Key {
        #[serde(default)]
        runtime: String,
        #[serde(default)]
        channel: String,
        account_id: String,
        conversation_kind: Option<ConversationKind>,
        conversation_id: String,
        thread_id: Option<String>,
    }
    impl Key {
        fn message(&self) -> Inbound {
            serde_json::from_value(serde_json::json!({
                "id": "h_1", "channel": self.channel, "accountId": self.account_id, "receivedAt": 0,
                "conversation": {
                    "id": self.conversation_id,
                    "kind": self.conversation_kind.unwrap_or(ConversationKind::Group),
                    "threadId": self.thread_id,
                },
                "sender": {"id": "ag_s", "kind": "agent"},
            }))
            .unwrap()
        }
    }
    check("session-key", |input| match input {
        Input::Uuid { room_id, topic, sender_id } => {
            keys::room_key(room_id.as_deref(), topic.as_deref(), sender_id.as_deref()).into()
        }
        Input::Store { key } => key.message().session_key(&key.runtime).into(),
        Input::Queue { message } => message.queue_key().into(),
        Input::Breaker { runtime, message } => keys::breaker_key(&runtime, &message).into(),
        Input::Loop { key } => key.message().loop_key().into(),
        Input::ProfileDir { room_id } => keys::profile_dir(&room_id).into(),
    });
}

#[test]
fn router_vectors() {
    #[expect(clippy::large_enum_variant, reason = "a test holds one at a time")]
    #[derive(Deserialize)]
    #[serde(tag = "op", rename_all = "snake_case")]
    enum Input {
        Resolve {
            default: Route,
            #[serde(default)]
            routes: Vec<Route>,
            #[serde(default)]
            managed: Vec<Route>,
            message: Inbound,
        },
        Match {
            r#match: Option<Match>,
            message: Inbound,
        },
        QueueMode {
            route: Route,
            kind: ConversationKind,
        },
    }
    check("router", |input| match input {
        Input::Resolve { default, routes, managed, message } => {
            Routes { user: routes, managed, default }.resolve(&message).runtime.as_str().into()
        }
        Input::Match { r#match, message } => r#match.unwrap_or_default().holds(&message).into(),
        Input::QueueMode { route, kind } => queue_mode(&route, kind).as_str().into(),
    });
}

#[test]
fn transcript_paths_vectors() {
    #[derive(Deserialize)]
    #[serde(tag = "op", rename_all = "snake_case", rename_all_fields = "camelCase")]
    enum Input {
        Segment { raw: String },
        File { agent_id: String, room_id: String, topic_id: Option<String> },
        Truncate { unit: String, count: usize },
    }
    check("transcript-paths", |input| match input {
        Input::Segment { raw } => transcript::segment(&raw).into(),
        Input::File { agent_id, room_id, topic_id } => {
            transcript::file(Path::new(""), &agent_id, &room_id, topic_id.as_deref()).to_str().into()
        }
        Input::Truncate { unit, count } => {
            let (kept, truncated) = text::truncate(&unit.repeat(count), transcript::TEXT_LIMIT);
            serde_json::json!({"length_utf16": text::len_utf16(&kept), "truncated": truncated})
        }
    });
}
