//! What is known of a daemon that does not answer: its pid file and the last version of `snapshot.json`. Also the
//! account of the Node.js daemon, where that runs in the home. Pure; the text is that daemon's own.

use serde_json::Value;

use super::output::{one_line, width};

/// A snapshot that is older needs a look, in milliseconds.
const STALE_MS: i64 = 30_000;
/// What stands for a value that is not there.
const NOTHING: &str = "—";

/// What was found.
#[derive(Default)]
pub struct Stored<'a> {
    /// Of the pid file.
    pub pid: Option<i64>,
    /// Whether that process lives.
    pub alive: bool,
    /// Agents of hubs.
    pub agents: Vec<String>,
    /// They come from the files of credentials, not from the configuration; `None`: it is not known.
    pub discovered: Option<bool>,
    /// Where credentials lie.
    pub credentials_dir: String,
    /// Path of the configuration.
    pub config: Option<String>,
    /// Daemons that no pid file names.
    pub strays: Vec<i64>,
    /// The member `snapshot` of the file.
    pub snapshot: Option<&'a Value>,
    /// How old it is, in milliseconds.
    pub age_ms: Option<i64>,
    /// Now, in Unix milliseconds.
    pub now_ms: i64,
}

impl Stored<'_> {
    /// The account, without a line feed at the end.
    pub fn text(&self) -> String {
        let Some(pid) = self.pid else { return self.without_pid() };
        let mut lines = vec![format!("daemon: pid {pid} ({})", if self.alive { "alive" } else { "not alive" })];
        lines.extend(self.agents_line());
        lines.extend(self.config.iter().map(|path| format!("config: {path}")));
        match (self.snapshot, self.age_ms) {
            (Some(_), age) => {
                let age = age.unwrap_or(0);
                lines.push(format!("snapshot: {} ago{}", short(age), if age > STALE_MS { " ⚠ stale" } else { "" }));
            }
            (None, _) if self.alive => {
                lines.push("snapshot: unavailable (daemon running but no snapshot file found)".into());
            }
            (None, _) => {}
        }
        let mut out = lines.join("\n");
        if let Some(snapshot) = self.snapshot {
            section(&mut out, "Channels", &CHANNELS, &rows(&snapshot["channels"], channel));
            section(&mut out, "In-flight turns", &TURNS, &rows(&snapshot["turns"], |turn| self.turn(turn)));
            let breakers = rows(&snapshot["runtimeCircuitBreakers"], |breaker| self.breaker(breaker));
            section(&mut out, "Runtime circuit breakers", &BREAKERS, &breakers);
        }
        out
    }

    fn without_pid(&self) -> String {
        if self.strays.is_empty() {
            return "daemon: stopped".into();
        }
        let pids: Vec<String> = self.strays.iter().map(ToString::to_string).collect();
        format!(
            "daemon: no pid file\nwarning: {} daemon processes detected without pid file\npids: {}",
            pids.len(),
            pids.join(", ")
        )
    }

    fn agents_line(&self) -> Option<String> {
        let suffix = if self.discovered == Some(true) { " (discovered)" } else { "" };
        match (self.agents.as_slice(), self.discovered) {
            ([], Some(true)) => {
                Some(format!("agents: (none discovered; drop credentials in {})", self.credentials_dir))
            }
            ([], _) => None,
            ([only], _) => Some(format!("agent:  {only}{suffix}")),
            (several, _) => Some(format!("agents: {}{suffix}", several.join(", "))),
        }
    }

    fn turn(&self, turn: &Value) -> Vec<String> {
        let started = turn["startedAt"].as_i64();
        // That daemon's rows are a space wider here than its head.
        let started =
            started.map_or(NOTHING.into(), |at| format!("{:<16}", format!("{} ago", short(self.now_ms - at))));
        let [key, channel, conversation, runtime, cwd] =
            ["key", "channel", "conversationId", "runtime", "cwd"].map(|key| text(&turn[key]));
        vec![key, channel, conversation, runtime, started, cwd]
    }

    fn breaker(&self, breaker: &Value) -> Vec<String> {
        let left = breaker["blockedUntil"].as_i64().map_or(NOTHING.into(), |until| short((until - self.now_ms).max(0)));
        let [key, runtime, conversation, failures, error] =
            ["key", "runtime", "conversationId", "failures", "lastError"].map(|key| text(&breaker[key]));
        vec![key, runtime, conversation, failures, left, error]
    }
}

/// Heads of columns, and how wide each is at least.
type Heads = [(&'static str, usize)];

const CHANNELS: [(&str, usize); 7] =
    [("ID", 0), ("ACCOUNT", 0), ("RUNNING", 0), ("CONNECTED", 0), ("RETRIES", 0), ("RESTART", 0), ("LAST ERROR", 0)];
const TURNS: [(&str, usize); 6] =
    [("KEY", 0), ("CHANNEL", 0), ("CONVERSATION", 14), ("RUNTIME", 0), ("STARTED", 15), ("CWD", 0)];
const BREAKERS: [(&str, usize); 6] =
    [("KEY", 0), ("RUNTIME", 0), ("CONVERSATION", 0), ("FAILS", 0), ("BLOCKED FOR", 0), ("LAST ERROR", 0)];

fn channel(channel: &Value) -> Vec<String> {
    let restart = if channel["restartPending"] == true { "yes" } else { "no" };
    let [id, account, running, connected, attempts, error] =
        ["channel", "accountId", "running", "connected", "reconnectAttempts", "lastError"]
            .map(|key| text(&channel[key]));
    vec![id, account, running, connected, attempts, restart.into(), error]
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) => one_line(text, 200),
        other => one_line(&other.to_string(), 200),
    }
}

fn rows(entries: &Value, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    entries.as_object().into_iter().flat_map(serde_json::Map::values).map(row).collect()
}

fn section(out: &mut String, title: &str, heads: &Heads, rows: &[Vec<String>]) {
    out.push_str(&format!("\n\n{title}:"));
    if rows.is_empty() {
        out.push_str("\n  (none)");
        return;
    }
    let head: Vec<String> = heads.iter().map(|(head, _)| (*head).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::from("\n ");
        for (n, (cell, (_, least))) in row.iter().zip(heads).enumerate() {
            line.push(' ');
            line.push_str(cell);
            let wide = rows.iter().chain([&head]).map(|row| width(row[n].trim_end())).max().unwrap_or(0).max(*least);
            line.push_str(&" ".repeat(wide.saturating_sub(width(cell)) + 1));
        }
        out.push_str(line.trim_end());
    }
}

/// Seconds below a minute, then minutes, then hours; rounded at each step.
fn short(ms: i64) -> String {
    let seconds = (ms.max(0) + 500) / 1_000;
    let minutes = (seconds + 30) / 60;
    match (seconds, minutes) {
        (0..60, _) => format!("{seconds}s"),
        (_, 0..60) => format!("{minutes}m"),
        _ => format!("{}h", (minutes + 30) / 60),
    }
}
