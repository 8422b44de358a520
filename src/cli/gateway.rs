//! `bellhop gateway`: bots of other chat services, for agents of this machine and of hubs.
//!
//! What is changed is written to the configuration; a daemon that runs is told to read it again. A token comes from a file
//! or standard input, never from the command line, which other users of the machine can read.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};

use rustix::process::Signal;
use serde_json::{Map, Value, json};

use super::args::Parsed;
use super::doctor::{Finding, Verdict};
use super::exit::Exit;
use super::failure::Failure;
use super::output::{ago, complain, neutral, one_line, say, say_json, table};
use super::{Context, stop};
use crate::channel::telegram::api::{ApiError, NO_TOKEN};
use crate::channel::telegram::state::State;
use crate::config::gateways::{TELEGRAM, shown};
use crate::config::paths::{expand_tilde, is_agent_id};
use crate::config::{Config, GatewayProfile, edit};
use crate::json;
use crate::net::url;
use crate::serve::client::Client;

/// The list of gateways in the configuration.
const LIST: &str = "thirdPartyGateways";
/// Longest token that is read, in bytes.
const TOKEN: u64 = 4_096;
/// Longest file of a gateway's state, in bytes.
const STATE: u64 = 1 << 20;

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let config = context.config()?;
    let id = args.operands.first().map(String::as_str);
    match args.verb_name() {
        "add" => add(args, context, &config, id.unwrap_or(TELEGRAM)),
        "remove" => remove(context, &config, id.unwrap_or_default()),
        "test" => test(args, context, &config, id.unwrap_or_default()),
        _ => list(args, context, &config),
    }
}

fn find<'c>(config: &'c Config, id: &str) -> Result<&'c GatewayProfile, Failure> {
    config.gateways.iter().find(|g| g.id == id).ok_or_else(|| {
        let known: Vec<&str> = config.gateways.iter().map(|g| g.id.as_str()).collect();
        let known =
            if known.is_empty() { "there are none".to_owned() } else { format!("there are: {}", known.join(", ")) };
        Failure::usage(format!("there is no gateway {id:?}; {known}"))
    })
}

fn add(args: &Parsed, context: &Context<'_>, config: &Config, id: &str) -> Result<Exit, Failure> {
    if !is_agent_id(id) || id == "local" {
        return Err(Failure::usage(format!("{id:?} is no id for a gateway: expected letters, digits, _ and -")));
    }
    let (chats, senders) = (args.all("chat"), args.all("sender"));
    for listed in chats.iter().chain(&senders) {
        if listed.parse::<i64>().is_err() {
            return Err(Failure::usage(format!("{listed:?} is no id of Telegram: expected a number")));
        }
    }
    let existing = config.gateways.iter().find(|g| g.id == id);
    if existing.is_some_and(|g| g.kind != TELEGRAM) {
        return Err(Failure::usage(format!("gateway {id:?} is none of Telegram's")));
    }
    let account = args.text("agent").or_else(|| existing.map(|g| g.account.clone()));
    let account = account.unwrap_or_else(|| config.local_agents.first().map(|a| a.name.clone()).unwrap_or_default());
    // Agents of hubs may be found rather than named, so a name that is not known here is only doubted.
    if !config.agent_ids().contains(&account.as_str()) && !context.home.credentials(&account).is_file() {
        complain(&format!("warning: there is no agent {account:?} yet"));
    }
    let mut profile =
        GatewayProfile { id: id.into(), kind: TELEGRAM.into(), account: account.clone(), ..GatewayProfile::default() };
    if let Some(existing) = existing {
        profile.clone_from(existing);
        profile.account.clone_from(&account);
    }
    let base = args.text("base-url");
    if let Some(base_url) = &base {
        // Before the token is on its way there.
        url::server(base_url)
            .map_err(|e| Failure::usage(format!("--base-url: the address {e}, found {base_url:?}")))?;
        profile.base_url.clone_from(&base);
    }
    let stored = context.host.gateway_secret(&context.home, &profile);
    let given = args.text("token-file");
    let token = if given.is_some() || stored.is_err() { Some(token(given.as_deref(), id)?) } else { None };
    let used = token.clone().map_or(stored, Ok).map_err(Failure::new)?;
    let bot = match context.host.ask_gateway(&profile, &used) {
        Ok(me) => Some(name_of(&me)),
        // A refusal, not a network that is down.
        Err(why) if why == NO_TOKEN || why == ApiError::Token.to_string() => {
            return Err(Failure::new(format!("{why}; get one from @BotFather. Nothing was changed")));
        }
        Err(why) => {
            complain(&format!("warning: the bot could not be asked: {why}"));
            None
        }
    };
    context.home.prepare()?;
    if let Some(token) = &token {
        context.host.store_gateway_secret(&context.home, &profile, token).map_err(Failure::new)?;
    }
    edit::edit(&context.home, |document| {
        let list = document.entry(LIST).or_insert_with(|| json!([]));
        let Some(list) = list.as_array_mut() else { return };
        if !list.iter().any(|g| g["id"] == id) {
            list.push(json!({"id": id, "type": TELEGRAM}));
        }
        let Some(entry) = list.iter_mut().find(|g| g["id"] == id).and_then(Value::as_object_mut) else { return };
        entry.insert("accountId".into(), account.clone().into());
        entry.insert("enabled".into(), true.into());
        for (key, text) in [("label", args.text("label")), ("baseUrl", base.clone())] {
            if let Some(text) = text {
                entry.insert(key.into(), text.into());
            }
        }
        if args.flag("all-in-groups") {
            entry.insert("wakeOn".into(), "all".into());
        }
        append(entry, "allowedChatIds", &chats);
        append(entry, "allowedSenderIds", &senders);
    })?;
    let told = tell(context)?;
    let bot = bot.map_or_else(|| "the bot".to_owned(), |name| format!("@{name}"));
    let mut out = format!("gateway {id}: {bot} speaks for agent {account}; {told}");
    let closed = existing.is_none_or(|g| g.allowed_chats.is_empty() && g.allowed_senders.is_empty());
    if closed && chats.is_empty() && senders.is_empty() {
        out.push_str(&format!(
            "\nNobody may talk to it yet. Write to {bot}, look who wrote with bellhop gateway list, and let them in with\n  \
             bellhop gateway add {id} --chat CHAT"
        ));
    }
    say(&neutral(&out))?;
    Ok(Exit::Ok)
}

/// Adds ids to a list, those that are not in it.
fn append(entry: &mut Map<String, Value>, key: &str, ids: &[String]) {
    if ids.is_empty() {
        return;
    }
    let list = entry.entry(key).or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else { return };
    for id in ids {
        let there = |known: &Value| known.as_str() == Some(id) || known.as_i64().is_some_and(|n| n.to_string() == *id);
        if !list.iter().any(there) {
            list.push(id.clone().into());
        }
    }
}

/// The token: from a file, or from standard input.
fn token(file: Option<&str>, id: &str) -> Result<String, Failure> {
    let mut text = String::new();
    match file.filter(|f| *f != "-") {
        Some(file) => {
            let opened = fs::File::open(expand_tilde(file)).and_then(|f| f.take(TOKEN).read_to_string(&mut text));
            opened.map_err(|e| Failure::new(format!("{file} cannot be read: {e}")))?;
        }
        None if io::stdin().is_terminal() => {
            write!(io::stderr(), "Token of the bot, from @BotFather, for gateway {id}: ")?;
            io::stdin().read_line(&mut text)?;
        }
        None => drop(io::stdin().take(TOKEN).read_to_string(&mut text)?),
    }
    let token = text.trim();
    if token.is_empty() {
        return Err(Failure::usage("there is no token: give --token-file FILE, or the token on standard input"));
    }
    Ok(token.to_owned())
}

fn name_of(me: &Value) -> String {
    me["username"].as_str().unwrap_or("?").chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect()
}

/// Has a daemon that runs read the configuration again.
fn tell(context: &Context<'_>) -> Result<&'static str, Failure> {
    let Some(pid) = stop::holder(&context.home)? else { return Ok("bellhop start connects it") };
    stop::signal(&context.home, pid, Signal::HUP)?;
    Ok("the daemon was told")
}

fn remove(context: &Context<'_>, config: &Config, id: &str) -> Result<Exit, Failure> {
    let profile = find(config, id)?.clone();
    edit::edit(&context.home, |document| {
        if let Some(list) = document.get_mut(LIST).and_then(Value::as_array_mut) {
            list.retain(|g| g["id"] != id);
        }
    })?;
    tell(context)?;
    // A secret in a place of somebody's own is not bellhop's to delete.
    for path in [context.home.gateway_secret(id), context.home.gateway_state(id)] {
        if let Err(e) = fs::remove_file(&path)
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(Failure::new(format!("{} cannot be deleted: {e}", path.display())));
        }
    }
    let kept = profile.secret_file.map(|file| format!("; its secret stays in {}", file.display())).unwrap_or_default();
    say(&neutral(&format!("gateway {id} is gone{kept}")))?;
    Ok(Exit::Ok)
}

fn test(args: &Parsed, context: &Context<'_>, config: &Config, id: &str) -> Result<Exit, Failure> {
    let profile = find(config, id)?;
    let asked =
        context.host.gateway_secret(&context.home, profile).and_then(|token| context.host.ask_gateway(profile, &token));
    if args.flag("json") {
        say_json(&match &asked {
            Ok(info) => json!({"id": id, "ok": true, "info": info}),
            Err(why) => json!({"id": id, "ok": false, "error": why}),
        })?;
    } else if let Ok(me) = &asked {
        let groups =
            if me["can_read_all_group_messages"] == true { "" } else { "; in groups it hears what addresses it" };
        say(&neutral(&format!("gateway {id}: Telegram knows it as @{}{groups}", name_of(me))))?;
    }
    match asked {
        Ok(_) => Ok(Exit::Ok),
        Err(_) if args.flag("json") => Ok(Exit::Failed),
        Err(why) => Err(Failure::new(format!("gateway {id}: {why}"))),
    }
}

fn list(args: &Parsed, context: &Context<'_>, config: &Config) -> Result<Exit, Failure> {
    let running = Client::connect(&context.home.socket()).and_then(|c| c.status()).ok();
    let entries: Vec<Entry<'_>> = config
        .gateways
        .iter()
        .map(|profile| {
            let channel = running.as_ref().and_then(|s| s.channels.iter().find(|c| c.id == profile.id));
            let state = match (profile.enabled, channel) {
                (false, _) => "off".to_owned(),
                (true, None) => "not running".to_owned(),
                (true, Some(c)) if c.up => "up".to_owned(),
                (true, Some(c)) => c.detail.clone().unwrap_or_else(|| "down".to_owned()),
            };
            let token = context.host.gateway_secret(&context.home, profile).ok().map(|t| shown(&t));
            Entry { profile, state, token, kept: kept(context, profile) }
        })
        .collect();
    if args.flag("json") {
        say_json(&entries.iter().map(Entry::document).collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    if entries.is_empty() {
        say("there are no gateways; bellhop gateway add connects a bot of Telegram")?;
        return Ok(Exit::Ok);
    }
    let row = |cells: [&str; 6]| cells.iter().map(|c| one_line(c, 80)).collect::<Vec<_>>();
    let mut rows = vec![row(["ID", "TYPE", "AGENT", "TOKEN", "MAY TALK TO IT", "STATE"])];
    let mut strangers = String::new();
    for Entry { profile: p, state, token, kept } in &entries {
        let allowed: Vec<&str> = p.allowed_chats.iter().chain(&p.allowed_senders).map(String::as_str).collect();
        let allowed = if allowed.is_empty() { "nobody".to_owned() } else { allowed.join(", ") };
        rows.push(row([&p.id, &p.kind, &p.account, token.as_deref().unwrap_or("missing"), &allowed, state]));
        if kept.ignored > 0 {
            strangers
                .push_str(&format!("\n{}: {} messages of others were ignored; the last of:\n", p.id, kept.ignored));
            for s in kept.strangers.iter().rev() {
                let name = one_line(&s.name, 64);
                strangers.push_str(&format!("  chat {}, sender {} ({name}), {}\n", s.chat, s.sender, ago(s.at)));
            }
            strangers.push_str(&format!("  to let a chat in: bellhop gateway add {} --chat CHAT\n", p.id));
        }
    }
    say(&neutral(&format!("{}{strangers}", table("", &rows))))?;
    Ok(Exit::Ok)
}

struct Entry<'c> {
    profile: &'c GatewayProfile,
    state: String,
    token: Option<String>,
    kept: State,
}

impl Entry<'_> {
    fn document(&self) -> Value {
        let p = self.profile;
        let strangers: Vec<Value> = self
            .kept
            .strangers
            .iter()
            .map(|s| json!({"chat": s.chat, "sender": s.sender, "name": s.name, "at": s.at}))
            .collect();
        json!({
            "id": p.id, "type": p.kind, "accountId": p.account, "label": p.label, "enabled": p.enabled,
            "allowedChatIds": p.allowed_chats, "allowedSenderIds": p.allowed_senders, "tokenPreview": self.token,
            "state": self.state, "ignored": self.kept.ignored, "strangers": strangers,
        })
    }
}

/// What a gateway keeps; the running daemon may be replacing it, which a reader does not notice.
fn kept(context: &Context<'_>, profile: &GatewayProfile) -> State {
    let path = profile.state_path(&context.home);
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|f| f.take(STATE).read_to_end(&mut bytes));
    read.ok().and_then(|_| json::parse(&bytes).ok()).map(|document| State::read(&document)).unwrap_or_default()
}

/// What the doctor has to say about gateways. Each service is asked once for each of them.
pub(super) fn findings(config: &Config, context: &Context<'_>) -> Vec<Finding> {
    let look = |profile: &GatewayProfile| {
        let id = &profile.id;
        let warning = |text: String, fix: String| Finding::bad("gateway", Verdict::Warning, text, fix);
        if profile.kind != TELEGRAM {
            let text = format!("{id}: gateways of {} are kept, but bellhop does not connect them", profile.kind);
            return warning(text, "set enabled to false, or run it elsewhere".into());
        }
        let asked =
            context.host.gateway_secret(&context.home, profile).and_then(|t| context.host.ask_gateway(profile, &t));
        match asked {
            Err(why) => {
                let fix = format!(
                    "bellhop gateway add {id} --token-file FILE, where the token is wrong; see the network else"
                );
                warning(format!("{id}: {}", one_line(&why, 200)), fix)
            }
            Ok(_) if profile.allowed_chats.is_empty() && profile.allowed_senders.is_empty() => {
                warning(format!("{id}: nobody may talk to it"), format!("bellhop gateway add {id} --chat CHAT"))
            }
            Ok(me) => Finding::ok("gateway", format!("{id}: @{} for {}", name_of(&me), one_line(&profile.account, 64))),
        }
    };
    config.gateways.iter().filter(|g| g.enabled).map(look).collect()
}
