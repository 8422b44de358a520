//! Recorded runs of real CLIs, played back to the real adapters by a program that prints the same bytes and
//! ends the same way.

mod support;

use std::path::{Path, PathBuf};

use bellhop::engine::cancel::CancelToken;
use bellhop::engine::ports::{ResumedSession, RunResult, Usage};
use bellhop::text;
use serde_json::Value;
use support::fake_cli::FakeCli;
use support::run_request::Recorder;

/// Recordings in which the adapter stops the CLI before its output is over: only the first blocks are compared.
const STOPPED_BY_ADAPTER: [&str; 1] = ["error-401-retries"];

#[test]
fn recordings_of_claude_code() {
    check_all("claude-code", 41);
}

#[test]
fn recordings_of_codex() {
    check_all("codex", 25);
}

#[test]
fn recordings_of_gemini() {
    check_all("gemini", 22);
}

#[test]
fn recordings_of_kimi() {
    check_all("kimi-cli", 10);
}

/// Every recording of a runtime, of which there are at least so many.
fn check_all(runtime: &'static str, at_least: usize) {
    let cases = cases(runtime);
    assert!(cases.len() >= at_least, "only {} recordings of {runtime}", cases.len());
    let failures: Vec<String> =
        cases.iter().flat_map(|case| case.check().into_iter().map(|what| format!("{}: {what}", case.name))).collect();
    assert!(failures.is_empty(), "{runtime}:\n  {}", failures.join("\n  "));
}

struct Case {
    runtime: &'static str,
    name: String,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    meta: Value,
}

/// All recordings in the runtime's folder. A file that belongs to none of them is an error.
fn cases(runtime: &'static str) -> Vec<Case> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings").join(runtime);
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let known = [".meta.json", ".stdout.ndjson", ".stderr.txt", ".wire.ndjson"];
        let ending = known.iter().find(|ending| file.ends_with(*ending)).unwrap_or_else(|| panic!("what is {file}?"));
        if *ending == ".meta.json" {
            names.push(file.trim_end_matches(ending).to_owned());
        }
    }
    names.sort();
    let read = |name: &str, ending: &str| {
        let path: PathBuf = dir.join(format!("{name}{ending}"));
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    names
        .into_iter()
        .map(|name| Case {
            runtime,
            stdout: read(&name, ".stdout.ndjson"),
            stderr: read(&name, ".stderr.txt"),
            meta: serde_json::from_slice(&read(&name, ".meta.json")).unwrap(),
            name,
        })
        .collect()
}

impl Case {
    fn expect(&self) -> &Value {
        &self.meta["expect"]
    }

    fn is_aborted(&self) -> bool {
        self.expect()["outcome"] == "aborted"
    }

    /// How the CLI ended, as a line of a shell script.
    fn end(&self) -> String {
        match (self.meta["exit_code"].as_i64(), self.meta["signal"].as_str()) {
            (Some(code), None) => format!("exit {code}"),
            (None, Some(signal)) => format!("kill -{} $$", signal.trim_start_matches("SIG")),
            other => panic!("{}: no end: {other:?}", self.name),
        }
    }

    /// Prints these pieces of stdout one by one, then stderr, and ends as recorded: at once, or (aborted runs)
    /// when it is asked to.
    fn play(&self, pieces: &[Vec<u8>]) -> (RunResult, Recorder) {
        let cli = FakeCli::new(self.runtime);
        for (number, piece) in pieces.iter().enumerate() {
            cli.put(&format!("stdout.{number}"), piece);
        }
        cli.put("stderr", &self.stderr);
        let print: Vec<String> = (0..pieces.len()).map(|number| format!("cat \"$dir/stdout.{number}\"\n")).collect();
        let print = print.concat();
        let end = self.end();
        // stderr comes first: the run of an aborted case is stopped as soon as the last block was seen.
        cli.plays(&if self.is_aborted() {
            format!("trap '{end}' INT TERM\ncat \"$dir/stderr\" >&2\n{print}while :; do sleep 0.05; done\n")
        } else {
            format!("cat \"$dir/stderr\" >&2\n{print}{end}\n")
        });
        let mut request = cli.request("hi");
        request.session = self.meta["resume"].as_str().map(|id| ResumedSession {
            id: id.into(),
            cwd: request.cwd.clone(),
            usage_totals: self.meta.get("previous_usage").map(totals),
            note: None,
        });
        let token = CancelToken::new().unwrap();
        let mut sink = Recorder::default();
        if self.is_aborted() {
            sink.cancel_at = Some((self.events(), token.clone()));
        }
        let result = cli.run(&request, &token, &mut sink).unwrap_or_else(|e| panic!("{}: {e:?}", self.name));
        (result, sink)
    }

    fn events(&self) -> usize {
        self.stdout
            .split(|b| *b == b'\n')
            .filter(|l| serde_json::from_slice::<Value>(l).is_ok_and(|v| v.is_object()))
            .count()
    }

    /// What differs from what was expected.
    fn check(&self) -> Vec<String> {
        let (result, sink) = self.play(std::slice::from_ref(&self.stdout));
        let mut found = Found::default();
        self.check_end(&result, &mut found);
        self.check_numbers(&result, &mut found);
        let kinds: Vec<&str> = sink.blocks.iter().map(|b| b.kind.as_str()).collect();
        let expected: Vec<&str> =
            self.expect()["blockKinds"].as_array().unwrap().iter().map(|k| k.as_str().unwrap()).collect();
        if STOPPED_BY_ADAPTER.contains(&self.name.as_str()) {
            found.same("first blocks", &kinds.get(..3), &expected.get(..3));
        } else {
            found.same("blocks", &kinds, &expected);
        }
        let seqs: Vec<u64> = sink.blocks.iter().map(|b| b.seq).collect();
        found.same("numbers of blocks", &seqs, &(1..=seqs.len() as u64).collect::<Vec<_>>());
        found.same("blocks without their event", &sink.blocks.iter().filter(|b| !b.raw.is_object()).count(), &0);
        if let Some(last) = sink.sessions.last()
            && self.expect()["session"]["action"] == "store"
        {
            found.same("announced session", last, &result.new_session_id);
        }
        found.0
    }

    fn check_end(&self, result: &RunResult, found: &mut Found) {
        let expect = self.expect();
        let outcome = match &result.error {
            Some(error) if error.message == format!("{} aborted", self.runtime) => "aborted",
            Some(_) => "error",
            None if result.text.is_empty() => "empty",
            None => "reply",
        };
        found.same("outcome", &outcome, &expect["outcome"].as_str().unwrap());
        found.same("text", &result.text.as_str(), &expect["text"].as_str().unwrap());
        let error = result.error.as_ref();
        if let Some(class) = expect.get("errorClass") {
            let got = error.map(|e| serde_json::to_value(e.class).unwrap()).unwrap_or_default();
            found.same("class", &got, class);
        }
        if let Some(part) = expect["errorContains"].as_str() {
            let message = error.map(|e| e.message.as_str()).unwrap_or_default();
            // Blanks at the ends of the excerpt do not matter: messages are trimmed.
            if !message.contains(text::trim(part)) {
                found.0.push(format!("message is {message:?}, expected {part:?}"));
            }
        }
        found.same("evidence of the failure", &result.failure.is_some(), &error.is_some());
        let (stored, lost) = match expect["session"]["action"].as_str() {
            Some("store") => (expect["session"]["id"].as_str().unwrap(), false),
            Some("drop") => ("", true),
            Some("none") => ("", false),
            other => panic!("unknown session action {other:?}"),
        };
        found.same("session", &(result.new_session_id.as_str(), result.session_lost), &(stored, lost));
        if let Some(replaced) = expect.get("sessionReplaced") {
            found.same("session replaced", &Value::from(result.session_replaced), replaced);
        }
    }

    fn check_numbers(&self, result: &RunResult, found: &mut Found) {
        let expect = self.expect();
        let usage = expect.get("usage").map(|u| serde_json::from_value::<Usage>(u.clone()).unwrap());
        found.same("usage", &result.usage, &usage);
        found.same("totals", &result.usage_totals, &expect.get("cumulativeUsage").map(totals));
        found.same("cost", &result.cost_usd, &expect.get("costUsd").and_then(Value::as_f64));
        // Codex has an estimate of its own, which the recordings do not tell.
        if self.runtime != "codex" {
            let context = expect.get("contextTokens").and_then(Value::as_u64);
            // A recording without a number may still hold requests before the failure.
            if context.is_some() {
                found.same("context", &result.context_tokens, &context);
            }
        }
    }
}

/// `{input, cached, output}` as counts since the beginning of a thread.
fn totals(value: &Value) -> Usage {
    let part = |key: &str| value[key].as_u64().unwrap();
    Usage { hit: part("cached"), miss: part("input") - part("cached"), output: part("output") }
}

#[derive(Default)]
struct Found(Vec<String>);

impl Found {
    fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, got: &T, expected: &T) {
        if got != expected {
            self.0.push(format!("{what} is {got:?}, expected {expected:?}"));
        }
    }
}

/// Steele and Vigna's splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Lines that no adapter may stumble over.
const NOISE: [&[u8]; 9] = [
    b"plain words",
    b"{\"type\":\"from_the_future\",\"payload\":{\"a\":[1,2,{\"b\":null}]}}",
    b"{\"type\":\"result",
    b"[1,2,3]",
    b"\"text\"",
    b"\xff\xfe\x00binary\x80",
    b"{\"type\":17,\"subtype\":[],\"item\":\"x\",\"message\":null}",
    b"{}",
    b"   ",
];

/// Noise between the lines, and the whole cut into pieces anywhere, even inside a character.
fn disturbed(stdout: &[u8], random: &mut Random) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    for line in stdout.split_inclusive(|b| *b == b'\n') {
        if random.below(2) == 0 {
            bytes.extend_from_slice(NOISE[random.below(NOISE.len())]);
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(line);
    }
    let mut cuts: Vec<usize> = (0..4).map(|_| random.below(bytes.len())).chain([0, bytes.len()]).collect();
    cuts.sort_unstable();
    cuts.windows(2).map(|cut| bytes[cut[0]..cut[1]].to_vec()).collect()
}

#[test]
fn recordings_with_noise_and_in_any_pieces_come_to_the_same() {
    let seed = std::env::var("BELLHOP_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(2_026);
    let mut random = Random(seed);
    for runtime in ["claude-code", "codex", "gemini", "kimi-cli"] {
        let with_events = cases(runtime).into_iter().filter(|case| {
            case.events() > 0 && !case.is_aborted() && !STOPPED_BY_ADAPTER.contains(&case.name.as_str())
        });
        for case in with_events {
            let essence = |result: RunResult| {
                let error = result.error.map(|e| (e.message, e.class));
                (result.text, error, result.new_session_id, result.session_lost, result.usage, result.cost_usd)
            };
            let (plain, _) = case.play(std::slice::from_ref(&case.stdout));
            let (noisy, _) = case.play(&disturbed(&case.stdout, &mut random));
            assert_eq!(essence(noisy), essence(plain), "{runtime}/{} with seed {seed}", case.name);
        }
    }
}
