//! Recorded conversations with real ACP agents, played back to the real client through real pipes.

mod support;

use std::path::Path;

use bellhop::engine::cancel::CancelToken;
use bellhop::engine::ports::{Approval, ResumedSession, RunResult, Usage};
use bellhop::message::TrustLevel;
use serde_json::{Value, json};
use support::fake_agent::{FakeAgent, Step};
use support::run_request::Recorder;

struct Case {
    folder: &'static str,
    name: String,
    steps: Vec<Step>,
    stderr: Vec<u8>,
    meta: Value,
}

fn read(folder: &str, file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(folder).join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn cases(folder: &'static str) -> Vec<Case> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(folder);
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = file.strip_suffix(".wire.ndjson") else {
            let known = [".meta.json", ".stdout.ndjson", ".stderr.txt"].iter().any(|ending| file.ends_with(ending));
            assert!(known, "what is {file}?");
            continue;
        };
        let wire = String::from_utf8(read(folder, &file)).unwrap();
        let mut steps: Vec<Step> = wire.lines().map(step).collect();
        if name == "prompt-unknown-session" {
            // Recorded without opening a session, which this client never does: a load that succeeds.
            let load = json!({"jsonrpc":"2.0","id":2,"method":"session/load","params":{
                "sessionId":"00000000-0000-4000-8000-000000000000","mcpServers":[]}});
            steps.splice(2..2, [Step::In(load), Step::Out(r#"{"jsonrpc":"2.0","id":2,"result":{"modes":{}}}"#.into())]);
        }
        let mut meta: Value = serde_json::from_slice(&read(folder, &format!("{name}.meta.json"))).unwrap();
        if name == "prompt-unknown-session" {
            meta["resume"] = json!("00000000-0000-4000-8000-000000000000");
        }
        let stderr = read(folder, &format!("{name}.stderr.txt"));
        cases.push(Case { folder, name: name.to_owned(), steps: in_order(steps), stderr, meta });
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

fn step(line: &str) -> Step {
    let entry: Value = serde_json::from_str(line).unwrap();
    let line = entry["line"].as_str().unwrap();
    match entry["dir"].as_str().unwrap() {
        "in" => Step::In(serde_json::from_str(line).unwrap()),
        "out" => Step::Out(line.to_owned()),
        dir => panic!("unknown direction {dir}"),
    }
}

/// The client answers faster than the recorded one did. What the agent wrote before the client's next
/// line must come before the answer which that line follows.
fn in_order(steps: Vec<Step>) -> Vec<Step> {
    let mut ordered: Vec<Step> = Vec::new();
    let mut group: Vec<String> = Vec::new();
    for step in steps {
        match step {
            Step::Out(line) => group.push(line),
            Step::In(_) => {
                group.sort_by_key(|line| serde_json::from_str::<Value>(line).unwrap().get("id").is_some());
                ordered.extend(group.drain(..).map(Step::Out));
                ordered.push(step);
            }
        }
    }
    ordered.extend(group.into_iter().map(Step::Out));
    ordered
}

impl Case {
    fn is_aborted(&self) -> bool {
        self.meta["expect"]["outcome"] == "aborted"
    }

    /// The kinds of the blocks that come before the client cancels.
    fn blocks_before_cancel(&self) -> usize {
        let cancel = |step: &Step| matches!(step, Step::In(line) if line["method"] == "session/cancel");
        let prompt = |step: &Step| matches!(step, Step::In(line) if line["method"] == "session/prompt");
        let from = self.steps.iter().position(prompt).unwrap();
        let to = self.steps.iter().position(cancel).unwrap();
        let update = |s: &&Step| matches!(s, Step::Out(line) if line.contains("session/update"));
        self.steps[from..to].iter().filter(update).count()
    }

    /// The client of the recordings refused where the case says so, and took what was first elsewhere.
    fn is_refused(&self) -> bool {
        self.name.contains("refused")
    }

    fn play(&self, steps: &[Step]) -> (RunResult, Recorder, Vec<Value>, String) {
        let agent = self.agent();
        agent.plays(steps, &self.stderr, self.exit_code());
        self.run(&agent)
    }

    fn agent(&self) -> FakeAgent {
        FakeAgent::new(if self.folder == "hermes-agent" { self.folder } else { "recorded" })
    }

    fn exit_code(&self) -> i64 {
        self.meta["exit_code"].as_i64().unwrap()
    }

    fn run(&self, agent: &FakeAgent) -> (RunResult, Recorder, Vec<Value>, String) {
        let mut request = agent.request("hello");
        request.session = self.meta["resume"].as_str().map(|id| ResumedSession {
            id: id.into(),
            cwd: request.cwd.clone(),
            ..ResumedSession::default()
        });
        if self.is_refused() {
            request.trust = TrustLevel::Public;
        }
        let token = CancelToken::new().unwrap();
        let mut sink = Recorder { approve: Some(Approval::Allow), ..Recorder::default() };
        if self.is_aborted() {
            sink.cancel_at = Some((self.blocks_before_cancel(), token.clone()));
        }
        let result = agent.run(&request, &token, &mut sink).unwrap_or_else(|e| panic!("{}: {e:?}", self.name));
        (result, sink, agent.received(), agent.id().to_owned())
    }

    fn check(&self) -> Vec<String> {
        let mut found = Vec::new();
        let (result, sink, received, id) = self.play(&self.steps);
        self.check_sent(&received, &mut found);
        self.check_result(&result, &id, &mut found);
        let mut kinds: Vec<&str> =
            self.meta["expect"]["blockKinds"].as_array().unwrap().iter().map(|k| k.as_str().unwrap()).collect();
        if self.is_aborted() {
            // What comes after the cancellation is not shown any more.
            kinds.truncate(self.blocks_before_cancel());
        }
        let shown: Vec<&str> = sink.blocks.iter().map(|b| b.kind.as_str()).collect();
        same("blocks", &shown, &kinds, &mut found);
        found
    }

    /// What the agent has read corresponds to what the recorded one has.
    fn check_sent(&self, received: &[Value], found: &mut Vec<String>) {
        let expected: Vec<&Value> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::In(line) => Some(line),
                Step::Out(_) => None,
            })
            .collect();
        let essence = |line: &Value| {
            json!([
                line["jsonrpc"],
                line["id"],
                line["method"],
                line["params"]["sessionId"],
                line["params"]["protocolVersion"],
                line["params"]["mcpServers"],
                line["params"]["prompt"][0]["type"],
                line["result"]["outcome"].is_object()
            ])
        };
        let got: Vec<_> = received.iter().map(essence).collect();
        let want: Vec<_> = expected.iter().map(|line| essence(line)).collect();
        same("lines of the client", &got, &want, found);
        for answer in received.iter().filter(|line| line["result"]["outcome"].is_object()) {
            let option = answer["result"]["outcome"]["optionId"].as_str().unwrap_or_default();
            let once = ["allow", "proceed_once", "allow_once", "approve_once"];
            let refused = ["reject", "cancel", "deny"];
            let fits = if self.is_refused() { refused.contains(&option) } else { once.contains(&option) };
            same("permission", &fits, &true, found);
        }
    }

    fn check_result(&self, result: &RunResult, id: &str, found: &mut Vec<String>) {
        let expect = &self.meta["expect"];
        let outcome = match &result.error {
            Some(error) if error.message == format!("{id} aborted") => "aborted",
            Some(_) => "error",
            None if result.text.is_empty() => "empty",
            None => "reply",
        };
        same("outcome", &outcome, &expect["outcome"].as_str().unwrap(), found);
        same("text", &result.text.as_str(), &expect["text"].as_str().unwrap(), found);
        let error = result.error.as_ref();
        if let Some(class) = expect.get("errorClass") {
            let got = error.map(|e| serde_json::to_value(e.class).unwrap()).unwrap_or_default();
            same("class", &got, class, found);
        }
        if let Some(part) = expect["errorContains"].as_str() {
            let message = error.map(|e| e.message.as_str()).unwrap_or_default();
            if !message.starts_with(part) {
                found.push(format!("message is {message:?}, expected {part:?}"));
            }
        }
        let session = match expect["session"]["action"].as_str() {
            Some("store") => (expect["session"]["id"].as_str().unwrap(), false),
            Some("drop") => ("", true),
            Some("none") => ("", false),
            other => panic!("unknown session action {other:?}"),
        };
        same("session", &(result.new_session_id.as_str(), result.session_lost), &session, found);
        let replaced = expect["sessionReplaced"].as_bool().unwrap_or(false);
        same("session replaced", &result.session_replaced, &replaced, found);
        let usage = expect.get("usage").map(|u| serde_json::from_value::<Usage>(u.clone()).unwrap());
        same("usage", &result.usage, &usage, found);
        same("context", &result.context_tokens, &expect["contextTokens"].as_u64(), found);
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, expected: &T, found: &mut Vec<String>) {
    if got != expected {
        found.push(format!("{what} is {got:?}, expected {expected:?}"));
    }
}

fn check_all(folder: &'static str, at_least: usize) {
    let cases = cases(folder);
    assert!(cases.len() >= at_least, "only {} recordings of {folder}", cases.len());
    let failures: Vec<String> =
        cases.iter().flat_map(|case| case.check().into_iter().map(|what| format!("{}: {what}", case.name))).collect();
    assert!(failures.is_empty(), "{folder}:\n  {}", failures.join("\n  "));
}

#[test]
fn recordings_of_hermes() {
    check_all("hermes-agent", 7);
}

#[test]
fn recordings_of_claude_agent_acp() {
    check_all("acp-claude", 6);
}

#[test]
fn recordings_of_gemini_acp() {
    check_all("acp-gemini", 4);
}

#[test]
fn recordings_of_kimi_acp() {
    check_all("acp-kimi", 5);
}

/// Lines that no client may stumble over.
const NOISE: [&str; 8] = [
    "Loading configuration...",
    r#"{"jsonrpc":"2.0","method":"session/update","params":{"update":{"sessionUpdate":"from_the_future"}}}"#,
    r#"{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"another","update":{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"not yours"}}}}"#,
    r#"{"jsonrpc":"2.0","id":9999,"result":{"stopReason":"refusal"}}"#,
    r#"{"jsonrpc":"2.0","id":"1","result":null}"#,
    r#"{"jsonrpc":"2.0","method":"_vendor/news","params":null}"#,
    r#"{"jsonrpc":"2.0","id":1,"resu"#,
    "[]",
];

#[test]
fn recordings_with_noise_come_to_the_same() {
    for folder in ["hermes-agent", "acp-claude", "acp-gemini", "acp-kimi"] {
        for (number, case) in cases(folder).iter().filter(|case| !case.is_aborted()).enumerate() {
            let mut noisy = Vec::new();
            for (at, step) in case.steps.iter().enumerate() {
                if matches!(step, Step::Out(_)) {
                    noisy.push(Step::Out(NOISE[(at + number) % NOISE.len()].to_owned()));
                }
                noisy.push(step.clone());
            }
            let essence = |result: RunResult| (result.text, result.error, result.new_session_id, result.usage);
            let plain = essence(case.play(&case.steps).0);
            let disturbed = essence(case.play(&noisy).0);
            assert_eq!(disturbed, plain, "{folder}/{}", case.name);
        }
    }
}

/// Numbers that are the same for the same seed: splitmix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    /// A line that means nothing to the client. `near` is one that does.
    fn noise(&mut self, near: &str) -> String {
        match self.below(6) {
            0 => NOISE[self.below(NOISE.len())].to_owned(),
            1 => {
                // The beginning of an object is none, wherever it ends.
                let end = (0..=self.below(near.len())).rev().find(|at| near.is_char_boundary(*at)).unwrap_or(0);
                near[..end].to_owned()
            }
            2 => {
                let method = format!("_{:x}/\u{e9}\u{1f600}", self.next());
                json!({"jsonrpc": "2.0", "method": method, "params": {"n": self.next()}}).to_string()
            }
            3 => {
                let kind = format!("kind_{:x}", self.next());
                let params = json!({"update": {"sessionUpdate": kind, "content": {"type": "text", "text": "no"}}});
                json!({"jsonrpc": "2.0", "method": "session/update", "params": params}).to_string()
            }
            4 => "\u{2592}".repeat(self.below(40_000)),
            _ => (0..self.below(80)).map(|_| char::from(b' ' + self.below(95) as u8)).collect::<String>() + "}",
        }
    }

    /// Any division of these bytes: within a line, within a character, several lines at once.
    fn cut(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut ends: Vec<usize> = (0..self.below(12)).map(|_| self.below(bytes.len())).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        ends.dedup();
        let mut from = 0;
        let mut pieces = Vec::new();
        for end in ends {
            pieces.push(bytes[from..end].to_vec());
            from = end;
        }
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }
}

/// However the agent's words are divided and whatever else it says in between, the turn ends the same.
/// `BELLHOP_TEST_SEED` repeats a failure, or tries another one.
#[test]
fn recordings_in_any_pieces_come_to_the_same() {
    let seed = std::env::var("BELLHOP_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_250_711);
    println!("BELLHOP_TEST_SEED={seed}");
    let mut numbers = Numbers(seed);
    for folder in ["hermes-agent", "acp-claude", "acp-gemini", "acp-kimi"] {
        for case in cases(folder).iter().filter(|case| !case.is_aborted()) {
            let essence = |(result, sink, ..): (RunResult, Recorder, Vec<Value>, String)| {
                let shown: Vec<String> = sink.blocks.iter().map(|b| b.kind.as_str().to_owned()).collect();
                let session = (result.new_session_id, result.session_lost, result.session_replaced);
                (result.text, result.error, session, result.usage, result.context_tokens, shown)
            };
            let plain = essence(case.play(&case.steps));
            for round in 0..2 {
                let mut steps = Vec::new();
                for step in &case.steps {
                    if let Step::Out(line) = step {
                        for _ in 0..numbers.below(3) {
                            steps.push(Step::Out(numbers.noise(line)));
                        }
                    }
                    steps.push(step.clone());
                }
                let agent = case.agent();
                agent.plays_in_pieces(&steps, &case.stderr, case.exit_code(), |bytes| numbers.cut(&bytes));
                assert_eq!(essence(case.run(&agent)), plain, "{folder}/{} round {round}, seed {seed}", case.name);
            }
        }
    }
}
