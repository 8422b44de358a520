//! `bellhop doctor`: what is there, what is broken, and what to do about it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::host::{AgentRow, BundleWish, LoginCheck, RuntimeRow, Wanted};
use super::output::{neutral, one_line, say, say_json, table, width};
use super::{Context, gateway, gateways, hub_agents, hub_login, machine, stop};
use crate::config::{Config, load};
use crate::serve::client::{Client, ClientError};
use crate::serve::wire::{DaemonStatus, Wellness};

/// Below so much free space new messages are soon refused, in bytes.
const LOW_SPACE: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    Warning,
    Broken,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) what: &'static str,
    pub(super) verdict: Verdict,
    pub(super) text: String,
    /// What to do, when something is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(what: &'static str, text: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Ok, text: text.into(), fix: None }
    }

    pub(super) fn bad(what: &'static str, verdict: Verdict, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what, verdict, text: text.into(), fix: Some(fix.into()) }
    }
}

#[derive(Serialize)]
struct Report {
    runtimes: Vec<RuntimeRow>,
    channels: Vec<Value>,
    checks: Vec<Finding>,
}

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let wish = BundleWish { full_log: args.flag("full-log"), transcripts: args.flag("transcripts") };
    if args.flag("bundle") {
        return bundle(args, context, wish);
    }
    if wish != BundleWish::default() {
        return Err(Failure::usage("--full-log and --transcripts belong to --bundle"));
    }
    let login = match (args.flag("auth-check"), args.text("auth-check")) {
        (false, _) => LoginCheck::None,
        (true, None) => LoginCheck::Ask,
        (true, Some(_)) => LoginCheck::Turn,
    };
    let report = report(context, login);
    if args.flag("json") {
        say_json(&report)?;
    } else {
        say(&text(&report))?;
    }
    let broken = report.checks.iter().any(|c| c.verdict == Verdict::Broken);
    Ok(if broken { Exit::Failed } else { Exit::Ok })
}

/// The report as a document and for people.
pub(super) fn diagnosis(context: &Context<'_>) -> (Value, String) {
    let report = report(context, LoginCheck::None);
    (serde_json::to_value(&report).unwrap_or_default(), text(&report))
}

fn bundle(args: &Parsed, context: &Context<'_>, wish: BundleWish) -> Result<Exit, Failure> {
    let bundled = context.host.bundle(&context.home, wish);
    let bundled = bundled.map_err(|e| Failure::new(format!("the bundle cannot be made: {e}")))?;
    let path = bundled.path.display().to_string();
    if args.flag("json") {
        say_json(&json!({"bundle": {"path": path, "filename": bundled.name, "sizeBytes": bundled.size}}))?;
        return Ok(Exit::Ok);
    }
    let folder = bundled.path.parent().unwrap_or(&bundled.path).display().to_string();
    say(&neutral(&format!(
        "bundle: {path}\nsize: {} KiB\nshow it: xdg-open '{folder}'\ncopy its path: printf %s '{path}' | xclip -selection clipboard\n\
         Secrets are left out as far as they can be recognised; look through it before you give it away.",
        bundled.size.div_ceil(1024)
    )))?;
    Ok(Exit::Ok)
}

fn report(context: &Context<'_>, login: LoginCheck) -> Report {
    let loaded = load::load(&context.home.config());
    let config = match &loaded {
        Ok(config) => context.host.find_gateways(&context.home, config.clone()),
        Err(_) => Config::default(),
    };
    let runtimes = context.host.runtimes(&context.home, &config, Wanted { places: true, login, ..Wanted::default() });
    let mut checks = vec![home(context)];
    checks.extend(permissions(context));
    checks.push(disk(context.home.root()));
    checks.extend(machine::findings());
    checks.extend(match &loaded {
        Ok(config) => configuration(config, context),
        Err(error) => vec![Finding::bad(
            "config",
            Verdict::Broken,
            error.to_string(),
            "mend the file; bellhop.json(5) describes it, bellhop config check looks again",
        )],
    });
    let (agents, passed_over) = context.host.agents(&context.home, &config);
    checks.extend(hub_agents::findings(&agents, &passed_over));
    checks.extend(gateway::findings(&config, context));
    let status = Client::connect(&context.home.socket()).and_then(|c| c.status());
    let control = status.as_ref().map(|status| status.control.clone()).unwrap_or_default();
    checks.extend(hub_login::findings(context, &config, status.is_ok(), &control));
    checks.push(daemon(context, status));
    checks.push(choice(&config, &runtimes));
    Report { runtimes, channels: agents.iter().map(channel).collect(), checks }
}

/// An agent's channel in the document.
fn channel(row: &AgentRow) -> Value {
    let checked = &row.checked;
    json!({
        "id": row.id, "type": "botcord", "accountId": row.id,
        "credentialsOk": checked.credentials_ok && row.problem.is_none(),
        "credentialsMessage": row.problem.as_deref().unwrap_or(&checked.credentials_message),
        "hubUrl": checked.hub_url, "hubOk": checked.hub_ok, "hubMessage": checked.hub_message,
    })
}

fn home(context: &Context<'_>) -> Finding {
    let root = context.home.root();
    match context.home.check() {
        Ok(true) => Finding::ok("home", root.display().to_string()),
        Ok(false) => Finding::ok("home", format!("{} does not exist yet; the first start makes it", root.display())),
        Err(error) => Finding::bad(
            "home",
            Verdict::Broken,
            error.to_string(),
            "choose another with --home or BELLHOP_HOME, or give this one to the user who runs bellhop",
        ),
    }
}

/// Files that hold conversations and secrets are nobody else's business.
fn permissions(context: &Context<'_>) -> Vec<Finding> {
    let home = &context.home;
    let others = |path: &Path, mask: u32| fs::metadata(path).is_ok_and(|m| m.mode() & mask != 0);
    let mut findings = Vec::new();
    let root = home.root().to_owned();
    if others(&root, 0o022) {
        findings.push(Finding::bad(
            "permissions",
            Verdict::Warning,
            format!("others can write in {}", root.display()),
            format!("chmod go-w {}", root.display()),
        ));
    }
    let open: Vec<String> =
        [home.daemon_dir(), home.credentials_dir(), home.agents_dir(), home.logs_dir(), home.config()]
            .iter()
            .filter(|p| others(p, 0o077))
            .map(|p| p.display().to_string())
            .collect();
    if !open.is_empty() {
        let list = open.join(" ");
        findings.push(Finding::bad(
            "permissions",
            Verdict::Warning,
            format!("others have access to {list}"),
            format!("chmod go= {list}"),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("permissions", "nobody else has access"));
    }
    findings
}

fn disk(root: &Path) -> Finding {
    // The nearest part of the path that exists is on the file system that counts.
    let Some(place) = root.ancestors().find(|p| p.exists()) else {
        return Finding::ok("disk", "not looked at");
    };
    match rustix::fs::statvfs(place) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let text = format!("{} MiB free", free >> 20);
            if free < LOW_SPACE || stat.f_files > 0 && stat.f_favail == 0 {
                let fix = "make room: without it no message is accepted";
                return Finding::bad("disk", Verdict::Broken, text, fix);
            }
            Finding::ok("disk", text)
        }
        Err(e) => Finding::bad("disk", Verdict::Warning, format!("free space is not known: {e}"), "look at it with df"),
    }
}

fn configuration(config: &Config, context: &Context<'_>) -> Vec<Finding> {
    let mut findings = vec![match &config.file {
        Some(file) => Finding::ok("config", file.display().to_string()),
        None => Finding::ok("config", format!("no {}: all defaults", context.home.config().display())),
    }];
    for warning in &config.warnings {
        findings.push(Finding::bad(
            "config",
            Verdict::Warning,
            warning.clone(),
            "see bellhop.json(5) for the keys that there are",
        ));
    }
    for agent in &config.local_agents {
        if let Some(cwd) = agent.cwd.as_ref().filter(|d| !d.is_dir()) {
            let text = format!("agent {}: {} is not a directory", agent.name, cwd.display());
            findings.push(Finding::bad("config", Verdict::Broken, text, "make it, or change local.agents[].cwd"));
        }
    }
    let routes = config.default_route.iter().map(|r| ("defaultRoute".to_owned(), r));
    let routes = routes.chain(config.routes.iter().enumerate().map(|(n, r)| (format!("routes[{n}]"), r)));
    for (name, route) in routes.filter(|(_, r)| !r.cwd.is_dir()) {
        let text = format!("{name}: {} is not a directory", route.cwd.display());
        findings.push(Finding::bad("config", Verdict::Broken, text, format!("make it, or change {name}.cwd")));
    }
    findings
}

fn daemon(context: &Context<'_>, status: Result<DaemonStatus, ClientError>) -> Finding {
    let holder = match stop::holder(&context.home) {
        Ok(holder) => holder,
        Err(error) => {
            return Finding::bad("daemon", Verdict::Broken, error.message, "look at the permissions of the home");
        }
    };
    match (holder, status) {
        (_, Ok(status)) if status.health.status == Wellness::Well => {
            Finding::ok("daemon", format!("pid {} answers", status.pid))
        }
        (_, Ok(status)) => Finding::bad(
            "daemon",
            if status.health.status == Wellness::Down { Verdict::Broken } else { Verdict::Warning },
            format!("pid {} is not well: {}", status.pid, one_line(&status.health.reasons.join("; "), 300)),
            "see: bellhop status, bellhop logs",
        ),
        (None, Err(_)) => Finding::ok("daemon", "none runs; chat and send do without"),
        (Some(pid), Err(error)) => Finding::bad(
            "daemon",
            Verdict::Broken,
            format!("process {pid} holds the lock but does not answer: {error}"),
            "wait a moment; if it stays so: bellhop stop --wait, then start again",
        ),
    }
}

/// Whether what is configured can run.
fn choice(config: &Config, runtimes: &[RuntimeRow]) -> Finding {
    let there = |id: &str| id == "echo" || runtimes.iter().any(|r| r.id == id && r.ok);
    let wanted = config.local_agents.iter().filter_map(|a| a.runtime.clone());
    let wanted = wanted.chain(config.default_route.iter().chain(&config.routes).map(|r| r.runtime.clone()));
    let mut missing: Vec<String> = wanted.filter(|id| !there(id)).collect();
    crate::sort::sort(&mut missing);
    missing.dedup();
    if !missing.is_empty() {
        let list = missing.join(", ");
        let fix = "install what is missing, or choose another runtime in the configuration";
        return Finding::bad("runtimes", Verdict::Broken, format!("configured, but missing: {list}"), fix);
    }
    if runtimes.iter().any(|r| r.ok && r.id != "echo") {
        return Finding::ok("runtimes", "what is configured is there");
    }
    let fix = "install an agent CLI, such as Claude Code, Codex or Gemini";
    Finding::bad("runtimes", Verdict::Warning, "no agent CLI was found; echo answers in their place", fix)
}

fn text(report: &Report) -> String {
    let mut out = tables(&report.runtimes, &report.channels);
    out.push_str("\n\nChecks:\n");
    for check in &report.checks {
        let word = match check.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Broken => "BROKEN",
        };
        for (n, line) in check.text.lines().enumerate() {
            let head = if n == 0 { format!("  {word:<8} {:<12}", check.what) } else { " ".repeat(23) };
            out.push_str(&format!("{head} {}\n", one_line(line, 400)));
        }
        if let Some(fix) = &check.fix {
            out.push_str(&format!("{}→ {}\n", " ".repeat(24), one_line(fix, 400)));
        }
    }
    out
}

/// Runtimes and channels, as the BotCord daemon shows them.
pub fn tables(runtimes: &[RuntimeRow], channels: &[Value]) -> String {
    let mut out = runtimes_text(runtimes);
    out.push_str("\nChannels:\n");
    if channels.is_empty() {
        out.push_str("  No channels configured.");
        return out;
    }
    let cell = |row: &Value, key: &str| one_line(row[key].as_str().unwrap_or_default(), 200);
    let widest =
        |key: &str, least: usize| channels.iter().map(|row| width(&cell(row, key))).max().unwrap_or(0).max(least);
    let (id, kind, said) = (widest("id", 2), widest("type", 4), widest("credentialsMessage", 16));
    let padded = |text: &str, wide: usize| format!("{text}{}", " ".repeat(wide.saturating_sub(width(text))));
    out.push_str(&format!(
        "  {}  {}  {}  HUB",
        padded("ID", id),
        padded("TYPE", kind),
        padded("CREDENTIALS", said + 1)
    ));
    let mark = |row: &Value, key: &str| if row[key] == true { "✓" } else { "✗" };
    for row in channels {
        let credentials = padded(&cell(row, "credentialsMessage"), said);
        out.push_str(&format!(
            "\n  {}  {}  {} {credentials}  {} {}",
            padded(&cell(row, "id"), id),
            padded(&cell(row, "type"), kind),
            mark(row, "credentialsOk"),
            mark(row, "hubOk"),
            cell(row, "hubMessage")
        ));
    }
    out
}

/// The table of runtimes, what is to be said about each below its row, and the count.
fn runtimes_text(rows: &[RuntimeRow]) -> String {
    let head = ["RUNTIME", "NAME", "STATUS", "VERSION", "PATH"].map(ToOwned::to_owned).to_vec();
    let cell = |value: &Option<String>| value.as_deref().map_or("—".to_owned(), |v| one_line(v, 80));
    let mut cells = vec![head];
    for r in rows {
        let status = if r.ok { "ok" } else { "missing" };
        cells.push(vec![one_line(&r.id, 40), one_line(&r.name, 40), status.into(), cell(&r.version), cell(&r.path)]);
    }
    let table = table("", &cells);
    let mut lines = table.lines();
    let mut out = format!("{}\n", lines.next().unwrap_or_default());
    for (row, line) in rows.iter().zip(lines) {
        out.push_str(&format!("{line}\n"));
        if let Some(hint) = row.hint.as_ref().filter(|_| !row.ok) {
            out.push_str(&format!("    → {}\n", one_line(hint, 200)));
        }
        for line in row.endpoints.iter().flat_map(gateways::lines) {
            out.push_str(&format!("    {line}\n"));
        }
        for note in row.problem.iter().chain(&row.notes) {
            out.push_str(&format!("    {}\n", one_line(note, 200)));
        }
    }
    let available = rows.iter().filter(|r| r.ok).count();
    out.push_str(&format!("\n{available}/{} runtimes available\n", rows.len()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, name: &str, ok: bool) -> RuntimeRow {
        RuntimeRow { id: id.into(), name: name.into(), ok, ..RuntimeRow::default() }
    }

    #[test]
    fn the_table_of_runtimes() {
        let mut claude = row("claude-code", "Claude Code", true);
        claude.version = Some("2.1.197 (Claude Code)".into());
        claude.path = Some("/usr/local/bin/claude".into());
        claude.notes = vec!["auth ok: claude-code auth ok".into()];
        let mut hermes = row("hermes-agent", "Hermes Agent", false);
        hermes.hint = Some("pip install x".into());
        assert_eq!(
            runtimes_text(&[claude, hermes]),
            "RUNTIME       NAME          STATUS   VERSION                PATH\n\
             claude-code   Claude Code   ok       2.1.197 (Claude Code)  /usr/local/bin/claude\n    \
             auth ok: claude-code auth ok\n\
             hermes-agent  Hermes Agent  missing  —                      —\n    \
             → pip install x\n\n1/2 runtimes available\n"
        );
    }

    #[test]
    fn a_runtime_that_is_configured_must_be_there() {
        let config = load::parse(
            r#"{"defaultRoute": {"adapter": "codex", "cwd": "/"}, "local": {"agents": [{"name": "a", "runtime": "echo"}]}}"#,
            Path::new("f"),
        )
        .unwrap();
        assert_eq!(choice(&config, &[row("codex", "Codex", true)]).verdict, Verdict::Ok);
        let finding = choice(&config, &[row("codex", "Codex", false)]);
        assert_eq!((finding.verdict, finding.text.as_str()), (Verdict::Broken, "configured, but missing: codex"));
        assert_eq!(choice(&Config::default(), &[]).verdict, Verdict::Warning);
    }
}
