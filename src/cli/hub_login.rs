//! What `bellhop doctor` and `bellhop status` have to say about the login at a hub, and about a home that was another
//! daemon's.

use std::fs;

use serde_json::Value;

use super::Context;
use super::doctor::{Finding, Verdict};
use super::output::{ago, one_line, span};
use crate::config::Config;
use crate::link::botcord_control::enter::Look;
use crate::link::botcord_control::ring::KeyRing;
use crate::link::botcord_control::user_auth::UserAuth;
use crate::time::now_ms;

/// What to do about a login that is no good.
const AGAIN: &str = "log in again: bellhop start --relogin --replace";

/// What is there to be said. `control`: the daemon's own word, null where none runs or it has no link.
pub(super) fn findings(context: &Context<'_>, config: &Config, running: bool, control: &Value) -> Vec<Finding> {
    let found = context.host.login(&context.home);
    let mut findings = vec![login(&found)];
    if let Ok(Some(_)) = found.auth {
        findings.push(keys(config));
        if running {
            findings.push(socket(control));
        }
        findings.extend(control["skewMs"].as_i64().map(clock));
    }
    findings.extend(taken_over(context, config, &found));
    findings
}

fn named(auth: &UserAuth) -> String {
    let label = auth.label.as_ref().map_or_else(String::new, |label| format!(" ({label})"));
    one_line(&format!("{}{label}", auth.user_id), 150)
}

fn login(found: &Look) -> Finding {
    match &found.auth {
        Err(why) => Finding::bad("login", Verdict::Broken, format!("it cannot be used: {why}"), AGAIN),
        Ok(Some(auth)) if found.expired => {
            let text = format!("the hub has refused that of {} at {}", named(auth), auth.hub_url);
            Finding::bad("login", Verdict::Broken, text, AGAIN)
        }
        Ok(None) => Finding::ok("login", "none; the daemon works without a hub that looks after it"),
        Ok(Some(auth)) => {
            let left = auth.expires_at as i64 - now_ms();
            let token = match u64::try_from(left) {
                Ok(left) => format!("the token is good for {}", span(left)),
                Err(_) => "the token is renewed when the daemon runs".into(),
            };
            Finding::ok("login", format!("{} at {}; {token}", named(auth), auth.hub_url))
        }
    }
}

fn keys(config: &Config) -> Finding {
    let ring = KeyRing::in_effect(&config.document);
    if ring.is_empty() {
        let text = "no key: the hub's frames are believed because the connection is";
        return Finding::bad("hub keys", Verdict::Warning, text, "put the hub's key into hubControlPublicKeys");
    }
    Finding::ok("hub keys", ring.fingerprints().join("\n"))
}

fn socket(control: &Value) -> Finding {
    let why = one_line(control["lastError"].as_str().unwrap_or("not connected yet"), 200);
    match control["state"].as_str() {
        Some("connected") => Finding::ok("hub socket", "connected"),
        Some("connecting") => {
            let fix = "look at the network; it is tried again by itself";
            Finding::bad("hub socket", Verdict::Warning, why, fix)
        }
        Some(_) => Finding::bad("hub socket", Verdict::Broken, why, AGAIN),
        None => {
            let text = "the daemon that runs does not know the login";
            Finding::bad("hub socket", Verdict::Warning, text, "bellhop start --replace")
        }
    }
}

fn clock(skew: i64) -> Finding {
    let way = if skew > 0 { "behind" } else { "ahead of" };
    let text = format!("it is {} {way} the hub's", span(skew.unsigned_abs()));
    Finding::bad("clock", Verdict::Warning, text, "have it set by NTP; the daemon allows for it meanwhile")
}

/// A home with everything but a journal was the `Node.js` daemon's.
fn taken_over(context: &Context<'_>, config: &Config, found: &Look) -> Option<Finding> {
    let home = &context.home;
    let has_journal = fs::read_dir(home.journal()).is_ok_and(|mut entries| entries.next().is_some());
    if has_journal || !home.config().exists() {
        return None;
    }
    let sessions = fs::read(home.sessions()).ok().and_then(|text| crate::json::parse(&text).ok()).unwrap_or_default();
    let sessions = sessions["entries"].as_object().map_or(0, serde_json::Map::len);
    let agents = context.host.agent_ids(home, config).len();
    let login = match &found.auth {
        Ok(Some(auth)) => format!(", the login of {}", named(auth)),
        _ => String::new(),
    };
    Some(Finding::ok(
        "take-over",
        format!(
            "the home of another daemon is taken over as it is: {agents} agents, {sessions} sessions{login}\n\
             to go back: bellhop stop, then start the other one; all its files keep their form"
        ),
    ))
}

/// The last lines of `status`.
pub(super) fn lines(found: &Look, control: &Value) -> String {
    let mut out = match &found.auth {
        Ok(Some(auth)) => format!("logged in as {}\n", named(auth)),
        _ => "not logged in (control plane disabled)\n".into(),
    };
    if let Err(why) = &found.auth {
        out.push_str(&format!("warning: {}\n", one_line(why, 300)));
    }
    if found.expired {
        out.push_str("warning: the hub refuses the login; log in again: bellhop start --relogin --replace\n");
    }
    if let Some(state) = control["state"].as_str() {
        let since = control["since"].as_i64().map_or_else(String::new, |at| format!(" since {}", ago(at)));
        let why = control["lastError"].as_str().map_or_else(String::new, |why| format!(": {}", one_line(why, 200)));
        out.push_str(&format!("control socket: {}{since}{why}\n", state.replace('_', " ")));
    }
    if control["unsigned"] == true {
        out.push_str("  without a key of the hub its frames are believed because the connection is\n");
    }
    let absent: Vec<&str> = control["absent"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !absent.is_empty() {
        out.push_str(&format!("  expected by the hub, not installed: {}\n", one_line(&absent.join(", "), 300)));
    }
    if let Some(skew) = control["skewMs"].as_i64() {
        let way = if skew > 0 { "behind" } else { "ahead of" };
        out.push_str(&format!("  the clock of this machine is {} {way} the hub's\n", span(skew.unsigned_abs())));
    }
    out
}
