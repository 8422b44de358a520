//! A world for one agent CLI: a home of its own, a daemon, and a scripted model service on loopback.
//!
//! Each test runs in a process of its own inside a network namespace that has only loopback, where the machine
//! allows that; elsewhere the CLI is pointed at the stub by its settings alone. Under root the daemon, and with
//! it the CLI, runs as an ordinary user: Claude Code refuses its default permission mode as root.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use bellhop::engine::cancel::CancelToken;
use bellhop::engine::ports::{RunResult, Runtimes};
use bellhop::message::TrustLevel;
use bellhop::runtime::{Registry, RuntimeSettings};

use crate::cli::{Cli, NOBODY, as_user, is_root, on_path};
use crate::support::run_request::{Recorder, request};
use crate::support::temp_dir::TempDir;

/// Set in the process that is the inside of a test.
const INSIDE: &str = "BELLHOP_TEST_REAL_CLI_INSIDE";
/// Long enough for a CLI on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(150);

/// Runs a test in a process and, if possible, in a network of its own. `name` is the test's full name.
pub fn isolated(name: &str, cli: Cli, test: fn(Cli)) {
    if std::env::var_os(INSIDE).is_some() {
        return test(cli);
    }
    if let Err(why) = cli.find().and_then(|_| on_path("python3").map(drop).ok_or("python3 is not on PATH".into())) {
        println!("skipped {name}: {why}");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let mut command = match namespace() {
        Some(mut command) => {
            command.arg(&this);
            command
        }
        None => {
            println!("{name}: no network namespace; plain loopback");
            Command::new(&this)
        }
    };
    let output = command
        .args([name, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    println!("{}", String::from_utf8_lossy(&said));
    assert!(output.status.success(), "{name} failed: {}", output.status);
}

/// The beginning of a command that runs another one with nothing but loopback.
fn namespace() -> Option<Command> {
    let command = |with: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(with).args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
        command
    };
    let ways: [&[&str]; 2] = [&["-n"], &["-n", "--map-current-user", "--keep-caps"]];
    ways.into_iter().find(|with| works(command(with).arg("true"))).map(command)
}

fn works(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Everything of one test. Ends what it started when dropped.
pub struct World {
    pub cli: Cli,
    dir: TempDir,
    program: PathBuf,
    bellhop: PathBuf,
    port: u16,
    stub: Option<Child>,
    scripts: u32,
    daemon: Option<Child>,
    config: Value,
    env: Vec<(String, String)>,
}

impl World {
    /// A fresh home. Nothing runs before [`World::script`] and [`World::start`].
    pub fn new(cli: Cli) -> Self {
        let dir = TempDir::new(&format!("real-{}", cli.runtime().replace(':', "-")));
        for below in ["home/daemon", "user", "work"] {
            std::fs::create_dir_all(dir.join(below)).unwrap();
        }
        // A build directory that only root can enter is of no use to an ordinary user.
        let bellhop = dir.join("bellhop");
        std::fs::copy(env!("CARGO_BIN_EXE_bellhop"), &bellhop).unwrap();
        std::fs::set_permissions(&bellhop, std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = cli.find().unwrap();
        let mut config = json!({"keepAnthropicEnv": true});
        if let Some((name, args)) = cli.acp() {
            let command: Vec<&str> = [program.to_str().unwrap()].into_iter().chain(args.iter().copied()).collect();
            config["acpRuntimes"] = json!([{"name": name, "command": command}]);
        }
        Self { cli, dir, program, bellhop, port: 0, stub: None, scripts: 0, daemon: None, config, env: Vec::new() }
    }

    /// Merges this into the configuration of the next start.
    pub fn configure(&mut self, key: &str, value: Value) {
        self.config[key] = value;
    }

    /// Sets a variable of the daemon from the next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.push((name.into(), value.into()));
    }

    /// Uses another program in place of the CLI, which it may start itself.
    pub fn wrap(&mut self, script: &str) {
        let wrapper = self.path("wrapper");
        let text =
            script.replace("@CLI@", &self.program.display().to_string()).replace("@PORT@", &self.port.to_string());
        std::fs::write(&wrapper, text).unwrap();
        std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
        self.program = wrapper;
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.join(below)
    }

    /// What the model service answers from now on: one step per request of the agent, the last one repeated.
    pub fn script(&mut self, steps: Value) {
        end(self.stub.take());
        self.scripts += 1;
        let file = self.path(&format!("script-{}.json", self.scripts));
        std::fs::write(&file, json!({"steps": steps}).to_string()).unwrap();
        let stub = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/stub/stub_models.py");
        let mut child = Command::new("python3")
            .arg(stub)
            .arg("--scenario")
            .arg(&file)
            .args(["--port", &self.port.to_string()])
            .arg("--dump")
            .arg(self.requests_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        self.port = line.trim().parse().unwrap_or_else(|_| panic!("the stub said {line:?}"));
        self.stub = Some(child);
    }

    fn requests_dir(&self) -> PathBuf {
        self.path(&format!("requests-{}", self.scripts))
    }

    /// The bodies of the agent's requests since the last [`World::script`], oldest first, as JSON text.
    pub fn requests(&self) -> Vec<String> {
        let Ok(dir) = std::fs::read_dir(self.requests_dir()) else { return Vec::new() };
        let mut files: Vec<PathBuf> = dir.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let read = |file: PathBuf| serde_json::from_slice::<Value>(&std::fs::read(file).ok()?).ok();
        files.into_iter().filter_map(read).filter(|r| r["main"] == true).map(|r| r["body"].to_string()).collect()
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&mut self) {
        self.write_settings();
        let mut command = self.bellhop(&["start"]);
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        self.daemon = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        eventually("the daemon answers", || self.bellhop(&["status", "--json"]).output().unwrap().status.success());
    }

    /// Ends the daemon as a crash would.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Ends it as its service manager would.
    pub fn stop(&mut self) {
        let output = self.bellhop(&["stop"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        self.daemon.take().unwrap().wait().unwrap();
    }

    /// Resident memory of the daemon in KiB: now, and at its highest.
    pub fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.daemon.as_ref().unwrap().id())).unwrap();
        let of = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn write_settings(&self) {
        let write = |below: &str, text: String| std::fs::write(self.path(below), text).unwrap();
        write("home/daemon/config.json", self.config.to_string());
        for (below, text) in self.cli.settings(self.port) {
            std::fs::create_dir_all(self.path(below).parent().unwrap()).unwrap();
            write(below, text);
        }
        give(self.dir.path());
    }

    /// `bellhop` on this home in the working directory.
    pub fn bellhop(&self, args: &[&str]) -> Command {
        let mut command = as_user(&self.bellhop);
        command.args(args).stdin(Stdio::null()).current_dir(self.path("work"));
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        let url = format!("http://127.0.0.1:{}", self.port);
        command.env_clear();
        for name in ["PATH", "LANG", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("HOME", self.path("user"))
            .env("BELLHOP_HOME", self.path("home"))
            .env(self.cli.variable(), &self.program)
            .envs([("ANTHROPIC_BASE_URL", url.as_str()), ("ANTHROPIC_API_KEY", "sk-ant-fake")])
            .envs([("DISABLE_TELEMETRY", "1"), ("DISABLE_AUTOUPDATER", "1"), ("DISABLE_ERROR_REPORTING", "1")])
            .envs([("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"), ("CLAUDE_CODE_MAX_RETRIES", "1")])
            .env("STUB_API_KEY", "sk-fake")
            .envs([("GOOGLE_GEMINI_BASE_URL", url.as_str()), ("GEMINI_API_KEY", "fake")])
            .envs(self.env.iter().map(|(name, value)| (name, value)));
    }

    /// Runs the adapter alone, for a message that does not come from the owner.
    pub fn strangers_run(&self, text: &str) -> RunResult {
        self.write_settings();
        let mut command = Command::new("true");
        self.environment(&mut command);
        let env = command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
        let mut settings = RuntimeSettings::with_env(&self.path("home"), env);
        settings.keep_anthropic_env = true;
        // This process may be root.
        settings.sandboxed = true;
        let mut request = request(text);
        request.cwd = self.path("work");
        request.agent = "local".into();
        request.trust = TrustLevel::Public;
        // Names of rooms and people are part of it.
        request.system_context = Some("[Room] @secret.txt @./secret.md <@/etc/hostname>".into());
        let runtime = Registry::new(settings).get(self.cli.runtime()).unwrap();
        runtime.run(&request, &CancelToken::new().unwrap(), &mut Recorder::default()).unwrap()
    }

    /// Sends a message; returns what `send --json` says.
    pub fn send(&self, text: &str) -> Answer {
        self.send_with(&[], text)
    }

    /// The same with further options.
    pub fn send_with(&self, options: &[&str], text: &str) -> Answer {
        self.begin(options, text).answer()
    }

    /// Begins to send a message.
    pub fn begin(&self, options: &[&str], text: &str) -> Sending {
        let mut args = vec!["send", "--json", "--runtime", self.cli.runtime()];
        args.extend(options);
        args.push("-");
        let mut command = self.bellhop(&args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        Sending { child, began: Instant::now() }
    }

    /// Removes all that the CLI knows of earlier conversations.
    pub fn forget_cli_sessions(&self) {
        let mut found = 0;
        for path in self.cli.sessions().iter().map(|below| self.path(below)) {
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            found += usize::from(removed.is_ok());
        }
        assert_ne!(found, 0, "{:?} keeps its sessions somewhere else", self.cli);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("---- log of the daemon ----\n{}", self.log());
        }
        end(self.daemon.take());
        end(self.stub.take());
    }
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Makes a directory and all in it the ordinary user's.
fn give(dir: &Path) {
    if !is_root() {
        return;
    }
    let _ = chown(dir, Some(NOBODY), Some(NOBODY));
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            give(&entry.path());
        } else {
            let _ = std::os::unix::fs::lchown(entry.path(), Some(NOBODY), Some(NOBODY));
        }
    }
}

/// A message on its way.
pub struct Sending {
    child: Child,
    began: Instant,
}

impl Sending {
    /// Waits for its end without a reply: the daemon is gone.
    pub fn failed(self) {
        let output = self.child.wait_with_output().unwrap();
        assert!(!output.status.success(), "{output:?}");
    }

    /// Waits for its end.
    pub fn answer(self) -> Answer {
        let Output { status, stdout, stderr } = self.child.wait_with_output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        let json = serde_json::from_str(&out).unwrap_or_else(|_| panic!("send said {out:?} and {err:?}"));
        let answer = Answer { json, code: status.code() };
        println!("{:.2} s: {}", self.began.elapsed().as_secs_f64(), answer.json);
        answer
    }
}

/// What `send --json` said.
#[derive(Debug)]
pub struct Answer {
    pub json: Value,
    pub code: Option<i32>,
}

impl Answer {
    fn text(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn status(&self) -> &str {
        self.text("/status")
    }

    /// Text of the reply; the turn went well.
    pub fn reply(&self) -> &str {
        assert_eq!((self.status(), self.code), ("ok", Some(0)), "{}", self.json);
        self.text("/reply")
    }

    /// The session that goes on with the next message.
    pub fn session(&self) -> &str {
        let session = self.text("/session_id");
        assert!(!session.is_empty(), "{}", self.json);
        session
    }

    /// Kind and message of the failure.
    pub fn error(&self) -> (&str, &str) {
        (self.text("/error/kind"), self.text("/error/message"))
    }
}

/// A command that runs for minutes and can be told from all others.
pub struct LongTool(String);

impl LongTool {
    pub fn new() -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self(format!("300.{}{number}", std::process::id()))
    }

    /// For a step of the script.
    pub fn command(&self) -> String {
        format!("sleep {}", self.0)
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        processes().any(|(_, words)| words.len() == 2 && words[0].ends_with("sleep") && words[1] == self.0)
    }
}

/// Processes that belong to a turn of this home.
pub fn of_turns(world: &World) -> Vec<String> {
    let home = format!("BELLHOP_HOME={}", world.path("home").display());
    let marked = |pid: i32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let has = |wanted: &[u8]| environ.split(|byte| *byte == 0).any(|entry| entry.starts_with(wanted));
        has(home.as_bytes()) && has(b"BELLHOP_TURN=")
    };
    processes().filter(|(pid, _)| marked(*pid)).map(|(pid, words)| format!("{pid} {}", words.join(" "))).collect()
}

fn processes() -> impl Iterator<Item = (i32, Vec<String>)> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.map(|pid: i32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        (pid, line.split_terminator('\0').map(str::to_owned).collect())
    })
}

/// Waits until something holds; fails the test when it does not in a time that only a hanging program needs.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
