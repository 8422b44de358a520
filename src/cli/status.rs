//! `bellhop status`: the daemon's account of itself.

use std::io;
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use serde_json::{Value, json};

use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::output::{ago, complain, is_live, neutral, one_line, say, say_json, span, table};
use super::signals;
use super::stored::Stored;
use super::{Context, connect, hub_login, stop};
use crate::config::load;
use crate::serve::wire::{DaemonStatus, Wellness};
use crate::store::HomeLock;
use crate::time::now_ms;

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let show = || -> Result<Exit, Failure> {
        context.home.check()?;
        let Some(client) = connect::daemon_if_any(&context.home)? else { return without_daemon(args, context) };
        let status = client.status()?;
        if args.flag("json") {
            let mut document = serde_json::to_value(&status).unwrap_or_default();
            if let (Value::Object(document), Value::Object(more)) = (&mut document, account(context, true)) {
                document.extend(more);
            }
            say_json(&document)?;
        } else {
            say(&text(&status))?;
            say(&neutral(&hub_login::lines(&context.host.login(&context.home), &status.control)))?;
        }
        Ok(match status.health.status {
            Wellness::Well => Exit::Ok,
            Wellness::Degraded => Exit::Failed,
            Wellness::Down => Exit::Down,
        })
    };
    if !args.flag("watch") {
        return show();
    }
    let signals = signals::channel()?;
    let clear = is_live(&io::stdout()) && !args.flag("json");
    loop {
        if clear {
            say("\x1b[H\x1b[2J")?;
        }
        match show() {
            // One that is started again is seen again.
            Err(failure) if failure.exit == Exit::Unreachable => complain(&failure.message),
            shown => drop(shown?),
        }
        match signals.recv_timeout(Duration::from_secs(1)) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(Exit::Ok),
        }
    }
}

/// No daemon of ours answers: what the files say. The `Node.js` daemon's home is as good as our own.
fn without_daemon(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let home = &context.home;
    let ours = stop::holder(home)?;
    let pid = ours.or_else(|| HomeLock::foreign(&home.daemon_dir()));
    let account = account(context, pid.is_some());
    if args.flag("json") {
        let mut document = json!({"pid": pid});
        if let (Value::Object(document), Value::Object(more)) = (&mut document, account) {
            document.extend(more);
        }
        say_json(&document)?;
    } else {
        let agents = account["agents"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let stored = Stored {
            pid: pid.map(i64::from),
            alive: pid.is_some(),
            agents: agents.map(ToOwned::to_owned).collect(),
            discovered: Some(account["agentsSource"] == "credentials"),
            credentials_dir: home.credentials_dir().display().to_string(),
            config: Some(home.config().display().to_string()),
            snapshot: account.get("snapshot").filter(|snapshot| !snapshot.is_null()),
            age_ms: account["snapshotAgeMs"].as_i64(),
            now_ms: now_ms(),
            ..Stored::default()
        };
        say(&neutral(&stored.text()))?;
        say(&neutral(&hub_login::lines(&context.host.login(home), &Value::Null)))?;
    }
    match (pid, ours) {
        (None, _) => Err(Failure::no_daemon()),
        (Some(_), None) => Ok(Exit::Ok),
        (Some(pid), Some(_)) => Err(Failure {
            exit: Exit::Unreachable,
            message: format!("process {pid} holds the lock of this home but does not answer; see: bellhop doctor"),
        }),
    }
}

/// The members of the document that the BotCord daemon's scripts know.
fn account(context: &Context<'_>, alive: bool) -> Value {
    let home = &context.home;
    let config = load::load(&home.config()).unwrap_or_default();
    let agents: Vec<String> = context.host.agent_ids(home, &config).into_iter().map(|(id, ..)| id).collect();
    let only = if let [only] = agents.as_slice() { Some(only.clone()) } else { None };
    let login = context.host.login(home);
    let auth = login.auth.ok().flatten().map(|auth| {
        json!({"userId": auth.user_id, "daemonInstanceId": auth.daemon_instance_id, "hubUrl": auth.hub_url,
               "expiresAt": auth.expires_at as i64, "label": auth.label})
    });
    let path = home.snapshot();
    let file = std::fs::read(&path).ok().and_then(|text| crate::json::parse(&text).ok()).unwrap_or_default();
    let written_at = file["writtenAt"].as_i64().filter(|_| file["version"] == 1 && !file["snapshot"].is_null());
    json!({
        "alive": alive,
        "agents": agents,
        "agentsSource": if config.agents.is_empty() { "credentials" } else { "config" },
        "agentId": only,
        "config": home.config().display().to_string(),
        "userAuth": auth,
        "authExpired": login.expired,
        "snapshot": written_at.map(|_| file["snapshot"].clone()),
        "snapshotWrittenAt": written_at,
        "snapshotAgeMs": written_at.map(|at| (now_ms() - at).max(0)),
        "snapshotPath": path.display().to_string(),
        "daemonProcesses": [],
    })
}

/// The account for people.
pub fn text(status: &DaemonStatus) -> String {
    let mut out = format!(
        "daemon: pid {} ({}), up {}{}\nhome: {}\n",
        status.pid,
        status.version,
        span(status.uptime_ms),
        if status.draining { ", ending" } else { "" },
        status.home.display()
    );
    let word = match status.health.status {
        Wellness::Well => "well",
        Wellness::Degraded => "degraded",
        Wellness::Down => "down: takes no messages",
    };
    out.push_str(&format!("health: {word}\n"));
    for reason in &status.health.reasons {
        out.push_str(&format!("  {}\n", one_line(reason, 200)));
    }

    out.push_str("\nChannels:\n");
    let mut rows = vec![cells(["ID", "KIND", "STATE", "LAST MESSAGE", "LAST DELIVERY", "OLDEST WAITING", ""])];
    for c in &status.channels {
        let state = if c.up { "up" } else { "down" };
        let pulse = status.health.channels.iter().find(|p| p.id == c.id);
        let at = |at: Option<i64>| at.map_or_else(|| "-".to_owned(), ago);
        let inbound = at(pulse.and_then(|p| p.last_inbound_at));
        let delivered = at(pulse.and_then(|p| p.last_delivered_at));
        let oldest = pulse.and_then(|p| p.oldest_waiting_ms).map_or_else(|| "-".to_owned(), span);
        rows.push(cells([&c.id, &c.kind, state, &inbound, &delivered, &oldest, c.detail.as_deref().unwrap_or("")]));
    }
    section(&mut out, &rows);

    out.push_str("\nRunning turns:\n");
    let mut rows = vec![cells(["AGENT", "CONVERSATION", "RUNTIME", "SINCE", "QUIET FOR", "TURN"])];
    for t in &status.turns {
        let pulse = status.health.turns.iter().find(|p| p.turn_id == t.turn_id);
        let quiet = pulse.map_or_else(|| "-".to_owned(), |p| span(p.quiet_ms));
        rows.push(cells([&t.agent, &t.conversation, &t.runtime, &ago(t.started_at), &quiet, &t.turn_id]));
    }
    section(&mut out, &rows);

    if !status.approvals.is_empty() {
        out.push_str("\nWaits for permission (bellhop approve ID):\n");
        let mut rows = vec![cells(["ID", "AGENT", "CONVERSATION", "TOOL", "WHAT"])];
        for a in &status.approvals {
            rows.push(cells([&a.id, &a.agent, &a.conversation, &a.tool, &a.summary]));
        }
        section(&mut out, &rows);
    }

    let w = &status.waiting;
    out.push_str(&format!("\nWaiting: {} messages in {} conversations", w.messages, w.conversations));
    if let Some(oldest) = w.oldest_ms.filter(|_| w.messages > 0) {
        out.push_str(&format!(", the oldest for {}", span(oldest)));
    }
    out.push_str(&format!("; {} replies to be delivered", w.replies));
    for (count, what) in [(w.held, "held"), (w.dead, "dead")] {
        if count > 0 {
            out.push_str(&format!("; {count} {what}"));
        }
    }
    out.push('\n');
    let j = &status.journal;
    out.push_str(&format!("Journal: {} KiB, {} open records", j.bytes.div_ceil(1024), j.open));
    if !j.writable {
        out.push_str(&format!("; NOT WRITABLE: {}", one_line(j.error.as_deref().unwrap_or("reason unknown"), 200)));
    }
    out.push('\n');
    neutral(&out)
}

fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|c| one_line(c, 80)).collect()
}

fn section(out: &mut String, rows: &[Vec<String>]) {
    if rows.len() > 1 { out.push_str(&table("  ", rows)) } else { out.push_str("  (none)\n") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::wire::{ChannelPulse, ChannelState, Health, JournalState};

    #[test]
    fn an_account_of_a_daemon_in_trouble() {
        let pulse = ChannelPulse {
            id: "local".into(),
            last_inbound_at: None,
            last_delivered_at: None,
            oldest_waiting_ms: Some(61_000),
            replies: 0,
        };
        let status = DaemonStatus {
            pid: 42,
            version: "0.1.0".into(),
            home: "/h".into(),
            uptime_ms: 61_000,
            health: Health {
                status: Wellness::Down,
                reasons: vec!["the disk is full".into()],
                channels: vec![pulse],
                ..Health::default()
            },
            channels: vec![ChannelState { id: "local".into(), kind: "local".into(), up: true, detail: None }],
            journal: JournalState { error: Some("no space\u{1b}".into()), bytes: 1, ..JournalState::default() },
            ..DaemonStatus::default()
        };
        assert_eq!(
            text(&status),
            "daemon: pid 42 (0.1.0), up 1 min 1 s\nhome: /h\nhealth: down: takes no messages\n  the disk is full\n\n\
             Channels:\n  ID     KIND   STATE  LAST MESSAGE  LAST DELIVERY  OLDEST WAITING\n  local  local  up     -             -              1 min 1 s\n\nRunning turns:\n  (none)\n\n\
             Waiting: 0 messages in 0 conversations; 0 replies to be delivered\n\
             Journal: 1 KiB, 0 open records; NOT WRITABLE: no space^[\n"
        );
    }
}
