//! A program in place of an ACP agent: plays back what a real one wrote, line by line in answer to what it
//! reads, and keeps what it read.

use bellhop::engine::cancel::CancelToken;
use bellhop::engine::ports::{RunRequest, RunResult, Runtimes, Thrown};
use bellhop::runtime::Registry;
use bellhop::runtime::process::StopLimits;
use bellhop::runtime::settings::AcpRuntime;
use serde_json::Value;

use super::fake_cli::FakeCli;
use super::run_request::Recorder;

/// A step of a conversation.
#[derive(Clone, Debug)]
pub enum Step {
    /// The client writes a line.
    In(Value),
    /// The agent writes one.
    Out(String),
}

/// An agent, registered under an id of its own, that plays one conversation.
pub struct FakeAgent {
    cli: FakeCli,
    id: String,
}

impl FakeAgent {
    /// `hermes-agent`, `openclaw-acp`, or any other name for a generic agent.
    pub fn new(name: &str) -> Self {
        if name == "hermes-agent" {
            return Self { cli: FakeCli::new("hermes-agent"), id: name.to_owned() };
        }
        if name == "openclaw-acp" {
            let mut cli = FakeCli::new("openclaw-acp");
            // A bridge outlives turns and gets none of their variables.
            let dir = cli.join("");
            cli.settings.base_env.push(("FAKE_CLI".into(), dir.into()));
            return Self { cli, id: name.to_owned() };
        }
        let mut cli = FakeCli::new("gemini");
        let program = format!("{}/tests/support/fake_cli.sh", env!("CARGO_MANIFEST_DIR"));
        cli.settings.acp_runtimes = vec![AcpRuntime {
            name: name.to_owned(),
            command: vec![program],
            env: std::collections::BTreeMap::new(),
            mode: None,
            context_file: None,
            mcp_servers: Vec::new(),
        }];
        Self { cli, id: format!("acp:{name}") }
    }

    /// The configuration of a generic agent.
    pub fn config(&mut self) -> &mut AcpRuntime {
        &mut self.cli.settings.acp_runtimes[0]
    }

    /// The program behind it.
    pub fn cli(&mut self) -> &mut FakeCli {
        &mut self.cli
    }

    /// Its runtime id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A request for a run.
    pub fn request(&self, text: &str) -> RunRequest {
        self.cli.request(text)
    }

    /// Makes it play a conversation, print `stderr`, and end with `exit_code` once its stdin is closed or it
    /// is told to end.
    pub fn plays(&self, steps: &[Step], stderr: &[u8], exit_code: i64) {
        let lines = |written: Vec<u8>| written.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        self.plays_in_pieces(steps, stderr, exit_code, lines);
    }

    /// The same, and writes what it has to say at once in the pieces that `cut` makes of it.
    pub fn plays_in_pieces(
        &self,
        steps: &[Step],
        stderr: &[u8],
        exit_code: i64,
        mut cut: impl FnMut(Vec<u8>) -> Vec<Vec<u8>>,
    ) {
        self.cli.put("stderr", stderr);
        let mut script = format!("trap 'exit {exit_code}' TERM\ncat \"$dir/stderr\" >&2\n: >\"$dir/received\"\n");
        let read = "IFS= read -r line || exit 99\nprintf '%s\\n' \"$line\" >>\"$dir/received\"\n";
        let mut pieces = 0;
        for group in steps.chunk_by(|a, b| matches!((a, b), (Step::Out(_), Step::Out(_)))) {
            let mut written = Vec::new();
            for step in group {
                match step {
                    Step::In(_) => script.push_str(read),
                    Step::Out(line) => written.extend([line.as_bytes(), b"\n"].concat()),
                }
            }
            for piece in cut(written) {
                self.cli.put(&format!("out.{pieces}"), &piece);
                script.push_str(&format!("cat \"$dir/out.{pieces}\"\n"));
                pieces += 1;
            }
        }
        // What comes besides is kept, too: the client has nothing more to say.
        script.push_str("while IFS= read -r line; do printf '%s\\n' \"$line\" >>\"$dir/received\"; done\n");
        script.push_str(&format!("exit {exit_code}\n"));
        self.cli.plays(&script);
    }

    /// What it has read.
    pub fn received(&self) -> Vec<Value> {
        self.cli.get("received").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Runs a turn.
    pub fn run(&self, request: &RunRequest, cancel: &CancelToken, sink: &mut Recorder) -> Result<RunResult, Thrown> {
        let mut settings = self.cli.settings.clone();
        let long = std::time::Duration::from_mins(2);
        settings.stop = StopLimits { term: std::time::Duration::from_millis(300), kill: long, give_up: long };
        Registry::new(settings).get(&self.id).unwrap().run(request, cancel, sink)
    }
}
