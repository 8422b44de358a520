//! From the text of the file to a [`Config`]: every check, in one pass, with every complaint.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::document::{Complaints, ConfigError, Node, Problem, spelled};
use super::gateways::{self, GatewayProfile};
use super::locate::{Step, line_of};
use super::paths::{expand_tilde, plain};
use super::{Ack, AcpRuntime, Config, HubSettings, LocalAgent, McpServer, Permission, PromptVia, RUNTIMES, routes};
use super::{cloud, keys};
use crate::engine::approvals::Decide;
use crate::engine::waits::Who;
use crate::json;
use crate::message::TrustLevel;
use crate::net::url;

/// The longest configuration file, in bytes.
pub const FILE_LIMIT: u64 = 4 << 20;

const WEEK: u64 = 7 * 24 * 3600;

/// Reads the file. No file means all defaults; anything wrong with it means no configuration at all.
pub fn load(file: &Path) -> Result<Config, ConfigError> {
    let mut config = match read(file) {
        Ok(Some(text)) => parse(&text, file)?,
        Ok(None) => Config::default(),
        Err(message) => {
            let problems = vec![Problem { line: 0, field: String::new(), message }];
            return Err(ConfigError { file: file.to_owned(), problems });
        }
    };
    if cloud::is_on() {
        cloud::in_sandbox(&mut config);
    }
    Ok(config)
}

/// The text of the file, if there is one; an error is a sentence for people.
pub fn read(file: &Path) -> Result<Option<String>, String> {
    match fs::metadata(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("cannot be read: {}", plain(&e))),
        Ok(meta) if !meta.is_file() => return Err("is not a file".into()),
        Ok(meta) if meta.len() > FILE_LIMIT => {
            return Err(format!("has {} bytes; at most {FILE_LIMIT} are read", meta.len()));
        }
        Ok(_) => {}
    }
    fs::read_to_string(file).map(Some).map_err(|e| format!("cannot be read: {}", plain(&e)))
}

/// Checks a text. `file` is for complaints only.
pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
    // An editor's byte order mark is not worth a refusal.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let value = json::parse(text.as_bytes()).map_err(|e| not_json(&e, file))?;
    let mut to = Complaints::new(text);
    let root = Node::root(&value);
    let mut config = Config { file: Some(file.to_owned()), ..Config::default() };
    if let Some(document) = root.object(&mut to) {
        config.document.clone_from(document);
        settings(&root, &mut config, &mut to);
    }
    let mut unknown = Vec::new();
    strangers(&value, "", &mut Vec::new(), &mut unknown);
    if !unknown.is_empty() {
        let names: Vec<_> = unknown.iter().map(|p| format!("{} (line {})", spelled(p), line_of(text, p))).collect();
        config.warnings.push(format!(
            "{}: unknown keys, kept but without effect: {}",
            file.display(),
            names.join(", ")
        ));
    }
    to.finish(file)?;
    Ok(config)
}

fn not_json(error: &serde_json::Error, file: &Path) -> ConfigError {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    let message = format!("not JSON: {what} (column {})", error.column());
    ConfigError { file: file.to_owned(), problems: vec![Problem { line: error.line(), field: String::new(), message }] }
}

fn settings(root: &Node<'_>, config: &mut Config, to: &mut Complaints<'_>) {
    agents(root, config, to);
    config.hub = hub(root, to);
    config.acp_runtimes = acp_runtimes(root, to);
    config.default_route = root.get("defaultRoute").and_then(|n| routes::default_route(&n, root, config, to));
    config.routes = routes::routes(root, config, to);
    openclaw_gateways(root, to);
    gateways::check(root, to);
    config.gateways = GatewayProfile::all(&config.document);
    config.local_agents = local_agents(root, config, to);

    let default = Config::default();
    let seconds = |key, range, to: &mut Complaints<'_>| root.number(key, range, to).map(Duration::from_secs);
    config.stream_blocks = root.boolean("streamBlocks", to).unwrap_or(default.stream_blocks);
    if let Some(transcript) = root.get("transcript") {
        transcript.object(to);
        config.transcript = transcript.boolean("enabled", to).unwrap_or(default.transcript);
    }
    if let Some(turns) = root.number("maxConcurrentTurns", 1..=1024, to) {
        config.max_concurrent_turns = turns as usize;
    }
    config.turn_timeout = seconds("turnTimeoutSeconds", 1..=WEEK, to).unwrap_or(default.turn_timeout);
    config.idle_timeout = seconds("idleTimeoutSeconds", 0..=WEEK, to);
    config.claude_warm = seconds("claudeWarmSeconds", 0..=86_400, to).unwrap_or(default.claude_warm);
    if let Some(max) = root.number("claudeWarmMax", 1..=64, to) {
        config.claude_warm_max = max as usize;
    }
    config.carry_superseded = root.boolean("carrySuperseded", to).unwrap_or(default.carry_superseded);
    config.sandboxed = root.boolean("sandboxed", to).unwrap_or_default();
    config.keep_anthropic_env = root.boolean("keepAnthropicEnv", to).unwrap_or_default();
    config.kill_leftovers = root.boolean("killLeftovers", to).unwrap_or_default();
    config.memory_reserve_mb = root.number("memoryReserveMb", 0..=1_048_576, to).unwrap_or(default.memory_reserve_mb);
    config.memory_per_turn_mb = root.number("memoryPerTurnMb", 0..=1_048_576, to).unwrap_or(default.memory_per_turn_mb);
    let who = [("never", Who::Nobody), ("rooms", Who::Rooms), ("always", Who::Everybody)];
    config.parking.usage_limit = root.word("parkOnUsageLimit", &who, to).unwrap_or(default.parking.usage_limit);
    config.parking.broken = root.word("parkOnFailure", &who, to).unwrap_or(default.parking.broken);
    config.silent_turn = seconds("silentTurnSeconds", 0..=WEEK, to).unwrap_or(default.silent_turn);
    config.metrics_listen = root.text("metricsListen", to).and_then(|text| {
        let address = text.parse().ok().filter(|a: &std::net::SocketAddr| a.ip().is_loopback());
        if address.is_none()
            && let Some(node) = root.get("metricsListen")
        {
            node.complain(
                to,
                format!("found {text:?}; expected an address of this machine and a port, as 127.0.0.1:9464"),
            );
        }
        address
    });
    config.max_bot_turns_in_a_row = root.number("maxBotTurnsInARow", 0..=100_000, to).unwrap_or_default() as u32;
    let ways = [("stdin", PromptVia::Stdin), ("argv", PromptVia::Argv)];
    config.prompt_via = root.word("promptVia", &ways, to).unwrap_or_default();
    if let Some(rotation) = root.get("rotation") {
        rotation.object(to);
        let turns = rotation.number("maxTurns", 0..=100_000, to);
        let tokens = rotation.number("maxInputTokens", 0..=100_000_000, to);
        config.rotation.max_turns = turns.unwrap_or(default.rotation.max_turns);
        config.rotation.max_input_tokens = tokens.unwrap_or(default.rotation.max_input_tokens);
    }
    if let Some(approvals) = root.get("approvals") {
        approvals.object(to);
        let words = [("allow", Decide::Allow), ("deny", Decide::Deny), ("ask", Decide::Ask)];
        let (policy, default) = (&mut config.approvals, &default.approvals);
        policy.owner = approvals.word("owner", &words, to).unwrap_or(default.owner);
        policy.trusted = approvals.word("trusted", &words, to).unwrap_or(default.trusted);
        policy.public = approvals.word("public", &words, to).unwrap_or(default.public);
        let limit = approvals.number("timeoutSeconds", 1..=86_400, to);
        policy.limit = limit.map_or(default.limit, Duration::from_secs);
    }
    if let Some(permissions) = root.get("runtimePermissions") {
        permissions.object(to);
        let words = [("full", Permission::Full), ("restricted", Permission::Restricted)];
        config.runtime_permissions.trusted = permissions.word("trusted", &words, to).unwrap_or_default();
        config.runtime_permissions.public = permissions.word("public", &words, to).unwrap_or_default();
    }
}

/// Hub agents. A list without a single usable element counts as absent, as the BotCord daemon has it.
fn agents(root: &Node<'_>, config: &mut Config, to: &mut Complaints<'_>) {
    let legacy = root.text("agentId", to);
    let usable = |n: &Node<'_>| n.value().as_str().is_some_and(|s| !s.is_empty());
    let listed = root.list("agents", to).unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    if listed.iter().any(usable) {
        for name in listed.iter().filter_map(|n| n.as_text(to)) {
            if !names.iter().any(|n| n == name) {
                names.push(name.to_owned());
            }
        }
        if let Some(legacy) = legacy.filter(|l| !names.iter().any(|n| n == l)) {
            config.warnings.push(format!("agentId {legacy:?} is ignored: agents does not list it"));
        }
    } else if let Some(legacy) = legacy {
        names.push(legacy.to_owned());
    }
    config.agents = names;
    if let Some(discovery) = root.get("agentDiscovery") {
        discovery.object(to);
        config.agent_discovery = discovery.boolean("enabled", to).unwrap_or(true);
        config.credentials_dir = discovery.text("credentialsDir", to).map(expand_tilde);
    }
}

fn hub(root: &Node<'_>, to: &mut Complaints<'_>) -> HubSettings {
    let default = HubSettings::default();
    let Some(hub) = root.get("hub") else { return default };
    hub.object(to);
    let seconds = |key, range, to: &mut Complaints<'_>| hub.number(key, range, to).map(Duration::from_secs);
    let words = [("turn", Ack::Turn), ("journal", Ack::Journal)];
    let url = hub.get("url").and_then(|node| match url::server(node.as_text(to)?) {
        Ok(url) => Some(url),
        Err(e) => {
            node.complain(to, format!("the address {e}"));
            None
        }
    });
    HubSettings {
        url,
        ack: hub.word("ack", &words, to).unwrap_or_default(),
        poll: seconds("pollSeconds", 0..=3600, to).unwrap_or(default.poll),
        renew: seconds("renewSeconds", 1..=100, to).unwrap_or(default.renew),
        fetch_files: hub.boolean("fetchFiles", to).unwrap_or_default(),
        verify_signatures: hub.boolean("verifySignatures", to).unwrap_or_default(),
        sends: hub.number("sendsPerMinute", 0..=10_000, to).map_or(default.sends, |n| n as usize),
        sends_to_room: hub.number("sendsPerRoom", 1..=10_000, to).map_or(default.sends_to_room, |n| n as usize),
    }
}

fn local_agents(root: &Node<'_>, config: &Config, to: &mut Complaints<'_>) -> Vec<LocalAgent> {
    let mut agents: Vec<LocalAgent> = Vec::new();
    let Some(local) = root.get("local") else { return Config::default().local_agents };
    local.object(to);
    let trusts = [("owner", TrustLevel::Owner), ("trusted", TrustLevel::Trusted), ("public", TrustLevel::Public)];
    for node in local.list("agents", to).unwrap_or_default() {
        if node.object(to).is_none() {
            continue;
        }
        let Some(name) = node.needed_text("name", to) else { continue };
        let at = node.get("name").unwrap_or_else(|| node.clone());
        if !is_agent_name(name) {
            at.expected(to, "1 to 64 characters of [A-Za-z0-9_-], the first not a sign");
        }
        if agents.iter().any(|a| a.name == name) {
            at.complain(to, format!("{name:?} is there twice"));
        }
        agents.push(LocalAgent {
            name: name.to_owned(),
            runtime: runtime(&node, "runtime", &config.acp_runtimes, to),
            cwd: directory(&node, "cwd", to),
            trust: node.word("trust", &trusts, to).unwrap_or(TrustLevel::Owner),
            model: node.text("model", to).map(ToOwned::to_owned),
        });
    }
    if agents.is_empty() { Config::default().local_agents } else { agents }
}

fn is_agent_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// A member that names a runtime.
pub(super) fn runtime(node: &Node<'_>, key: &str, acp: &[AcpRuntime], to: &mut Complaints<'_>) -> Option<String> {
    let id = node.text(key, to)?;
    let known = RUNTIMES.contains(&id) || id.strip_prefix("acp:").is_some_and(|n| acp.iter().any(|a| a.name == n));
    if !known {
        let names = RUNTIMES.iter().map(|id| (*id).to_owned()).chain(acp.iter().map(|a| format!("acp:{}", a.name)));
        let names: Vec<_> = names.collect();
        let at = node.get(key).unwrap_or_else(|| node.clone());
        at.complain(to, format!("unknown runtime {id:?}; expected one of {}", names.join(", ")));
    }
    Some(id.to_owned())
}

/// A member that names a directory: absolute, or below the user's home with `~/`.
pub(super) fn directory(node: &Node<'_>, key: &str, to: &mut Complaints<'_>) -> Option<PathBuf> {
    let path = expand_tilde(node.text(key, to)?);
    if path.is_relative() {
        let at = node.get(key).unwrap_or_else(|| node.clone());
        at.expected(to, "an absolute path, or one that begins with ~/");
    }
    Some(path)
}

fn acp_runtimes(root: &Node<'_>, to: &mut Complaints<'_>) -> Vec<AcpRuntime> {
    let mut list: Vec<AcpRuntime> = Vec::new();
    for node in root.list("acpRuntimes", to).unwrap_or_default() {
        if node.object(to).is_none() {
            continue;
        }
        let name = node.needed_text("name", to).unwrap_or_default();
        let at = node.get("name").unwrap_or_else(|| node.clone());
        let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let ok = name.len() <= 32
            && name.bytes().next().is_none_or(letters)
            && name.bytes().all(|b| letters(b) || matches!(b, b'_' | b'-'));
        if !ok {
            at.expected(to, "1 to 32 characters of [a-z0-9_-], the first not a sign");
        }
        if !name.is_empty() && list.iter().any(|r| r.name == name) {
            at.complain(to, format!("{name:?} is there twice"));
        }
        let command = node.texts("command", to).unwrap_or_default();
        if command.is_empty() && node.get("command").is_none_or(|c| c.value().is_array()) {
            node.complain(to, "command is missing or empty; expected a list with a program and its arguments");
        }
        list.push(AcpRuntime {
            name: name.to_owned(),
            command,
            env: environment(&node, to),
            mode: node.text("mode", to).map(ToOwned::to_owned),
            context_file: file_name(&node, "contextFile", to),
            mcp_servers: mcp_servers(&node, to),
        });
    }
    list
}

/// Values are never quoted in complaints: they may be secret.
fn mcp_servers(node: &Node<'_>, to: &mut Complaints<'_>) -> Vec<McpServer> {
    let mut servers = Vec::new();
    for server in node.list("mcpServers", to).unwrap_or_default() {
        match json::from_value(server.value()) {
            Ok(parsed) => servers.push(parsed),
            Err(_) => server.complain(to, "expected {name, command, args?, env?} or {name, url, headers?}"),
        }
    }
    servers
}

/// Values are never quoted in complaints: they may be secret.
fn environment(node: &Node<'_>, to: &mut Complaints<'_>) -> BTreeMap<String, String> {
    let Some(env) = node.get("env") else { return BTreeMap::new() };
    let mut all = BTreeMap::new();
    for (name, value) in env.object(to).into_iter().flatten() {
        let usable = !name.is_empty() && !name.contains(['=', '\0']);
        match value.as_str().filter(|v| usable && !v.contains('\0')) {
            Some(value) => drop(all.insert(name.clone(), value.to_owned())),
            None => env.complain(to, format!("variable {name:?}: expected a name without = and a text as its value")),
        }
    }
    all
}

fn file_name(node: &Node<'_>, key: &str, to: &mut Complaints<'_>) -> Option<String> {
    let name = node.text(key, to)?;
    if name.contains('/') || matches!(name, "." | "..") {
        node.get(key)?.expected(to, "the name of a file, without a directory");
    }
    Some(name.to_owned())
}

/// As much is checked as a later use relies on.
fn openclaw_gateways(root: &Node<'_>, to: &mut Complaints<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for node in root.list("openclawGateways", to).unwrap_or_default() {
        if node.object(to).is_none() {
            continue;
        }
        for field in ["name", "url"] {
            node.needed_text(field, to);
        }
        let Some(at) = node.get("name") else { continue };
        let Some(name) = at.value().as_str() else { continue };
        if seen.contains(&name) {
            at.complain(to, format!("{name:?} is there twice"));
        }
        seen.push(name);
    }
}

/// Collects the paths of members that the table of keys does not know. Below keys that it knows as a leaf
/// (`env`, `mcpServers`, what is only kept) everything is known.
fn strangers(value: &Value, pattern: &str, path: &mut Vec<Step>, out: &mut Vec<Vec<Step>>) {
    match value {
        Value::Object(map) => members(map, pattern, path, out),
        Value::Array(items) => {
            let pattern = format!("{pattern}[]");
            for (index, item) in items.iter().enumerate() {
                path.push(Step::Index(index));
                strangers(item, &pattern, path, out);
                path.pop();
            }
        }
        _ => {}
    }
}

fn members(map: &Map<String, Value>, pattern: &str, path: &mut Vec<Step>, out: &mut Vec<Vec<Step>>) {
    let known: Vec<_> = keys::members(pattern).collect();
    if known.is_empty() {
        return;
    }
    for (key, value) in map {
        path.push(Step::Key(key.clone()));
        if known.contains(&key.as_str()) {
            let below = if pattern.is_empty() { key.clone() } else { format!("{pattern}.{key}") };
            strangers(value, &below, path, out);
        } else if out.len() < 32 {
            out.push(path.clone());
        }
        path.pop();
    }
}
