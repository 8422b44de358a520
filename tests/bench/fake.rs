//! The agent CLI of the benchmarks: speaks as much of Claude Code's `stream-json` as a turn needs.
//!
//! The bench program is its own fake (`BELLHOP_CLAUDE_BIN` names it), so that no shell or interpreter blurs
//! what is measured. It does nothing but sleep for 2 ms between its first and its last event; words in the
//! prompt change that:
//!
//! - `bench-work=MS` sleeps so long instead;
//! - `bench-record=FILE` writes down how it was started, for [`Recording::read`].

use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::Failure;

/// How long it sleeps when the prompt says nothing else, in milliseconds.
const WORK_MS: f64 = 2.0;

/// Whether this process was started as the CLI.
pub fn is_meant(args: &[String]) -> bool {
    args.first().is_some_and(|a| a == "-p") && args.iter().any(|a| a == "stream-json")
}

/// One turn.
pub fn run(args: &[String]) -> ExitCode {
    match turn(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn turn(args: &[String]) -> Result<(), Failure> {
    let mut stdin = Vec::new();
    let prompt = match args.get(1) {
        Some(prompt) if prompt != "--output-format" => prompt.clone(),
        _ => {
            std::io::stdin().read_to_end(&mut stdin)?;
            String::from_utf8_lossy(&stdin).into_owned()
        }
    };
    if let Some(file) = word(&prompt, "bench-record=") {
        Recording::write(Path::new(file), args, &stdin)?;
    }
    let work = word(&prompt, "bench-work=").and_then(|ms| ms.parse().ok()).unwrap_or(WORK_MS).clamp(0.0, 1e6);
    let resumed = args.iter().position(|a| a == "--resume").and_then(|at| args.get(at + 1)).cloned();
    let session = resumed.unwrap_or_else(|| format!("00000000-0000-4000-8000-{:012x}", std::process::id()));
    let say = |event: serde_json::Value| std::io::stdout().write_all(format!("{event}\n").as_bytes());
    say(json!({"type": "system", "subtype": "init", "session_id": session, "model": "fake", "tools": []}))?;
    std::thread::sleep(Duration::from_secs_f64(work / 1e3));
    let usage = json!({"input_tokens": 10, "output_tokens": 5});
    say(json!({"type": "assistant", "session_id": session,
               "message": {"model": "fake", "content": [{"type": "text", "text": "done"}], "usage": usage}}))?;
    say(json!({"type": "result", "subtype": "success", "is_error": false, "result": "done",
               "session_id": session, "total_cost_usd": 0.0, "usage": usage}))?;
    Ok(())
}

fn word<'a>(prompt: &'a str, name: &str) -> Option<&'a str> {
    prompt.split_ascii_whitespace().find_map(|w| w.strip_prefix(name))
}

/// How the daemon started the CLI, so that it can be started the same way without a daemon.
pub struct Recording {
    args: Vec<Vec<u8>>,
    env: Vec<Vec<u8>>,
    cwd: PathBuf,
    stdin: Vec<u8>,
}

impl Recording {
    fn write(file: &Path, args: &[String], stdin: &[u8]) -> Result<(), Failure> {
        let lines = |items: Vec<Vec<u8>>| items.join(&0);
        let env = std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        // Who repeats this does not write it down again.
        let stdin = String::from_utf8_lossy(stdin).replace(&format!("bench-record={}", file.display()), "");
        let parts = [
            lines(args.iter().map(|a| a.clone().into_bytes()).collect()),
            lines(env.collect()),
            std::env::current_dir()?.into_os_string().into_vec(),
            stdin.into_bytes(),
        ];
        Ok(std::fs::write(file, serde_json::to_vec(&parts)?)?)
    }

    /// What the fake wrote down.
    pub fn read(file: &Path) -> Result<Self, Failure> {
        let [args, env, cwd, stdin]: [Vec<u8>; 4] = serde_json::from_slice(&std::fs::read(file)?)?;
        let items = |bytes: Vec<u8>| bytes.split(|b| *b == 0).map(<[u8]>::to_vec).collect();
        Ok(Self { args: items(args), env: items(env), cwd: std::ffi::OsString::from_vec(cwd).into(), stdin })
    }

    /// Starts the CLI the same way, reads it to its end, and reaps it.
    pub fn repeat(&self) -> Result<(), Failure> {
        use std::ffi::OsStr;
        let env = self.env.iter().filter_map(|v| {
            let at = v.iter().position(|b| *b == b'=')?;
            Some((OsStr::from_bytes(&v[..at]), OsStr::from_bytes(&v[at + 1..])))
        });
        let stdin = if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() };
        let mut child = Command::new(std::env::current_exe()?)
            .args(self.args.iter().map(|a| OsStr::from_bytes(a)))
            .env_clear()
            .envs(env)
            .current_dir(&self.cwd)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(&self.stdin)?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() || !output.stdout.ends_with(b"}\n") {
            return Err(format!("the fake CLI failed: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(())
    }
}
