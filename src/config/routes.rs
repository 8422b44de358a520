//! Routes as the file writes them.

use serde_json::Value;

use super::document::{Complaints, Node, spelled};
use super::paths::{expand_tilde, plain};
use super::{Config, load};
use crate::engine::ports::Gateway;
use crate::engine::route::{Match, OnInterrupt, QueueMode, Route};
use crate::message::{ConversationKind, TrustLevel};

/// Longest file that is read for a gateway's token, in bytes.
const TOKEN_LIMIT: u64 = 16_384;

/// The default route.
pub(super) fn default_route(
    node: &Node<'_>,
    root: &Node<'_>,
    config: &mut Config,
    to: &mut Complaints<'_>,
) -> Option<Route> {
    node.object(to)?;
    route(node, Match::default(), root, config, to)
}

/// All other routes.
pub(super) fn routes(root: &Node<'_>, config: &mut Config, to: &mut Complaints<'_>) -> Vec<Route> {
    let mut list = Vec::new();
    for node in root.list("routes", to).unwrap_or_default() {
        if node.object(to).is_none() {
            continue;
        }
        let matches = node.get("match").map_or_else(Match::default, |m| matches(&m, config, to));
        list.extend(route(&node, matches, root, config, to));
    }
    list
}

fn route(
    node: &Node<'_>,
    matches: Match,
    root: &Node<'_>,
    config: &mut Config,
    to: &mut Complaints<'_>,
) -> Option<Route> {
    for key in ["adapter", "cwd"] {
        if node.get(key).is_none() {
            node.complain(to, format!("{key} is missing; expected a text"));
        }
    }
    let runtime = load::runtime(node, "adapter", &config.acp_runtimes, to);
    let cwd = load::directory(node, "cwd", to);
    let gateway = node.text("gateway", to);
    let agent = node.text("openclawAgent", to);
    let gateway = match runtime.as_deref() {
        Some("openclaw-acp") => find_gateway(node, gateway, agent, root, config, to),
        _ => None,
    };
    let modes = [("cancel-previous", QueueMode::CancelPrevious), ("serial", QueueMode::Serial)];
    let interrupts = [("rerun", OnInterrupt::Rerun), ("ask", OnInterrupt::Ask), ("hold", OnInterrupt::Hold)];
    Some(Route {
        matches,
        extra_args: node.texts("extraArgs", to).unwrap_or_default(),
        trust_level: node.text("trustLevel", to).map(|word| trust(word, node, config)),
        queue_mode: node.word("queueMode", &modes, to),
        gateway,
        on_interrupt: node.word("onInterrupt", &interrupts, to),
        hermes_profile: node.text("hermesProfile", to).map(ToOwned::to_owned),
        runtime: runtime?,
        cwd: cwd?,
    })
}

/// `owner` is the owner, everything else is anybody: a misspelling must not grant anything.
fn trust(word: &str, node: &Node<'_>, config: &mut Config) -> TrustLevel {
    match word {
        "owner" => TrustLevel::Owner,
        "public" | "untrusted" => TrustLevel::Public,
        other => {
            let field = spelled(node.path());
            config.warnings.push(format!("{field}.trustLevel: {other:?} counts as public; known are owner and public"));
            TrustLevel::Public
        }
    }
}

/// The gateway that a route of `openclaw-acp` names, which has to exist.
fn find_gateway(
    node: &Node<'_>,
    name: Option<&str>,
    agent: Option<&str>,
    root: &Node<'_>,
    config: &mut Config,
    to: &mut Complaints<'_>,
) -> Option<Gateway> {
    let all = root.value().get("openclawGateways").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let Some(name) = name else {
        node.complain(to, "gateway is missing; openclaw-acp needs the name of one of openclawGateways");
        return None;
    };
    let found = gateway_named(all, name, agent);
    if found.is_none() {
        let names: Vec<&str> = all.iter().filter_map(|g| filled(g, "name")).collect();
        let known = if names.is_empty() { "there are none".to_owned() } else { names.join(", ") };
        let at = node.get("gateway").unwrap_or_else(|| node.clone());
        at.complain(to, format!("unknown gateway {name:?}; expected one of openclawGateways: {known}"));
    }
    let (gateway, warning) = found?;
    config.warnings.extend(warning);
    Some(gateway)
}

/// The gateway of this name, with a warning when its token cannot be read. `agent` comes before its own default.
pub(super) fn gateway_named(all: &[Value], name: &str, agent: Option<&str>) -> Option<(Gateway, Option<String>)> {
    let found = all.iter().find(|g| filled(g, "name") == Some(name))?;
    let url = filled(found, "url")?.to_owned();
    let openclaw_agent = agent.or_else(|| filled(found, "defaultAgent")).map(str::to_owned);
    let (token, warning) = match (filled(found, "token"), filled(found, "tokenFile")) {
        (None, Some(file)) => match token_of(file) {
            Ok(token) => (token, None),
            Err(e) => (None, Some(format!("gateway {name}: {file} cannot be read: {}", plain(&e)))),
        },
        (token, _) => (token.map(str::to_owned), None),
    };
    Some((Gateway { name: name.to_owned(), url, token, openclaw_agent }, warning))
}

fn filled<'v>(of: &'v Value, key: &str) -> Option<&'v str> {
    of.get(key)?.as_str().filter(|s| !s.is_empty())
}

/// The token in a file. One that cannot be read leaves the gateway without a token.
fn token_of(file: &str) -> std::io::Result<Option<String>> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(expand_tilde(file))?.take(TOKEN_LIMIT).read_to_string(&mut text)?;
    Ok(Some(text.trim().to_owned()).filter(|t| !t.is_empty()))
}

fn matches(node: &Node<'_>, config: &mut Config, to: &mut Complaints<'_>) -> Match {
    node.object(to);
    // An empty text is the same as none.
    let mut text = |key: &str| {
        let given = node.get(key).filter(|n| n.value().as_str() != Some(""));
        given.and_then(|_| node.text(key, to)).map(ToOwned::to_owned)
    };
    let mut either = |new: &str, old: &str| {
        let (newer, older) = (text(new), text(old));
        if let (Some(n), Some(o)) = (&newer, &older)
            && n != o
        {
            let field = spelled(node.path());
            config.warnings.push(format!("{field}: {new} {n:?} is used, {old} {o:?} is ignored"));
        }
        newer.or(older)
    };
    let conversation_id = either("conversationId", "roomId");
    let conversation_prefix = either("conversationPrefix", "roomPrefix");
    let (channel, account_id, sender_id) = (text("channel"), text("accountId"), text("senderId"));
    let kinds = [("direct", ConversationKind::Direct), ("group", ConversationKind::Group)];
    Match {
        channel,
        account_id,
        conversation_id,
        conversation_prefix,
        sender_id,
        conversation_kind: node.word("conversationKind", &kinds, to),
        mentioned: node.boolean("mentioned", to),
    }
}
