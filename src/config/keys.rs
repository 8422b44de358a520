//! The one table of configuration keys: what bellhop.json(5) says and what the loader takes for known.

/// Where a key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Shared with the BotCord daemon's configuration file.
    Shared,
    /// bellhop's own.
    Own,
    /// Read by the BotCord daemon only; kept as it is.
    Kept,
}

/// A key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Path in the document; `[]` stands for the elements of a list.
    pub path: &'static str,
    /// Its type, with allowed values.
    pub kind: &'static str,
    /// What holds without it; empty where that needs no word.
    pub default: &'static str,
    /// What it does.
    pub text: &'static str,
    /// Where it comes from.
    pub origin: Origin,
}

const fn key(path: &'static str, kind: &'static str, default: &'static str, text: &'static str) -> Key {
    Key { path, kind, default, text, origin: Origin::Own }
}

const fn shared(path: &'static str, kind: &'static str, default: &'static str, text: &'static str) -> Key {
    Key { path, kind, default, text, origin: Origin::Shared }
}

const fn kept(path: &'static str, kind: &'static str, text: &'static str) -> Key {
    Key { path, kind, default: "", text, origin: Origin::Kept }
}

const RUNTIME: &str = "runtime id: claude-code, codex, deepseek-tui, kimi-cli, hermes-agent, gemini, openclaw-acp, \
                       echo or acp:NAME of acpRuntimes";

/// Every key, in the order of the manual. A parent comes before its members.
pub const KEYS: &[Key] = &[
    key("local", "object", "", "Agents for the terminal and for programs on this machine."),
    key(
        "local.agents",
        "list of objects",
        "one agent named local",
        "The agents. The first is the one that is meant where none is named.",
    ),
    key("local.agents[].name", "text of [A-Za-z0-9_-], at most 64, unique", "needed", "Its id."),
    key(
        "local.agents[].runtime",
        RUNTIME,
        "the default route's, else the first one installed, else echo",
        "Runtime that runs its turns.",
    ),
    key(
        "local.agents[].cwd",
        "absolute path or ~/path",
        "where the command was typed, else its workspace",
        "Directory in which it works.",
    ),
    key("local.agents[].trust", "owner, trusted or public", "owner", "How far those who write to it are trusted."),
    key("local.agents[].model", "text", "the runtime's own", "Model, where the runtime lets it be chosen."),
    shared("defaultRoute", "object", "", "What runs a message that no other route is for."),
    shared("defaultRoute.adapter", RUNTIME, "needed", "Runtime."),
    shared("defaultRoute.cwd", "absolute path or ~/path", "needed", "Directory in which the runtime works."),
    shared(
        "defaultRoute.extraArgs",
        "list of texts",
        "[]",
        "Arguments for the runtime; those that bellhop sets itself are dropped.",
    ),
    shared(
        "defaultRoute.trustLevel",
        "owner or public",
        "as the message says",
        "How far the senders are trusted. Anything else counts as public.",
    ),
    shared(
        "defaultRoute.queueMode",
        "cancel-previous or serial",
        "cancel-previous for two parties, serial for groups",
        "What a message does while a turn of its conversation runs: take its place, or wait.",
    ),
    key(
        "defaultRoute.onInterrupt",
        "rerun, ask or hold",
        "rerun",
        "What becomes of a message whose turn a crash or a stop interrupted after it may have had effects: it runs again, and the agent is told; the room is asked, and the next message there goes on with it; it is held until bellhop queue release. Without effects it always runs again. A terminal cannot be asked: ask is hold there.",
    ),
    shared("defaultRoute.gateway", "name of one of openclawGateways", "", "Gateway of openclaw-acp, which needs one."),
    shared("defaultRoute.openclawAgent", "text", "the gateway's defaultAgent", "Agent behind the gateway."),
    shared("defaultRoute.hermesProfile", "text", "", "Profile of hermes-agent."),
    shared(
        "routes",
        "list of objects",
        "[]",
        "Routes, in order. The first that names the message's agent in its match and fits wins; then the agent's own runtime; then the first that fits. Each has the members of defaultRoute and match.",
    ),
    shared("routes[].match", "object", "fits everything", "What the route is for. All that is given must hold."),
    shared("routes[].match.channel", "text", "", "Id of the channel."),
    shared("routes[].match.accountId", "text", "", "Id of the agent."),
    shared("routes[].match.conversationId", "text", "", "Id of the conversation. Older name: roomId."),
    shared(
        "routes[].match.conversationPrefix",
        "text",
        "",
        "Beginning of the conversation's id. Older name: roomPrefix.",
    ),
    shared("routes[].match.conversationKind", "direct or group", "", "Two parties, or any number."),
    shared("routes[].match.senderId", "text", "", "Id of the sender."),
    shared("routes[].match.mentioned", "true or false", "", "Whether the message addresses the agent."),
    shared("agents", "list of texts", "those with a file in credentials/", "Ids of the hub's agents to run."),
    shared("agentId", "text", "", "Older form of agents with one element."),
    shared("agentDiscovery", "object", "", "Search for agents, where agents names none."),
    shared("agentDiscovery.enabled", "true or false", "true", "Whether to search."),
    shared("agentDiscovery.credentialsDir", "path", "credentials/ in the home", "Where."),
    key("hub", "object", "", "How the hub's agents are connected."),
    key(
        "hub.url",
        "https:// address, or http:// on this machine",
        "what each agent's file says",
        "Address of the hub, in place of the one in the files of credentials.",
    ),
    key(
        "hub.ack",
        "turn or journal",
        "turn",
        "When the hub is told that a message need not be kept any more: once its turn is over, so that the hub has it as long as it is not answered; or as soon as the journal has it.",
    ),
    key(
        "hub.pollSeconds",
        "number, 0 to 3600",
        "30",
        "How often the inbox is looked into although the hub has not said that something is there. 0 switches this off.",
    ),
    key(
        "hub.renewSeconds",
        "number, 1 to 100",
        "40",
        "How often the hub is told that unanswered messages are still worked on; without it, the hub gives them out again after 120 seconds.",
    ),
    key(
        "hub.fetchFiles",
        "true or false",
        "false",
        "Whether files that come with a message are fetched from the hub into attachments/ of the agent's directory before its turn, at most 10 of 10 MiB each. Otherwise the agent sees their addresses.",
    ),
    key(
        "hub.verifySignatures",
        "true or false",
        "false",
        "Whether what other agents have signed is checked with their keys, which the hub is asked for once each. The hub has checked it before; a message with a bad signature is marked in the log and for the agent.",
    ),
    key(
        "hub.sendsPerMinute",
        "number, 0 to 10000",
        "20",
        "How many messages each agent sends in a minute at most. More wait, so that the hub has nothing to refuse. 0: a hub of one's own that takes any number, also to one room.",
    ),
    key("hub.sendsPerRoom", "number, 1 to 10000", "10", "How many of them to one room."),
    shared(
        "streamBlocks",
        "true or false",
        "true",
        "Whether far sides that want it are shown what the agent does while it does it.",
    ),
    shared("transcript", "object", "", "The record of conversations."),
    shared("transcript.enabled", "true or false", "true", "Whether it is kept. BOTCORD_TRANSCRIPT overrides it."),
    key(
        "maxConcurrentTurns",
        "number, 1 to 1024",
        "twice the number of cores, at least 4",
        "Turns that run at once; further ones wait.",
    ),
    key("turnTimeoutSeconds", "number, 1 to 604800", "1800", "Longest time of a turn."),
    key(
        "idleTimeoutSeconds",
        "number, 0 to 604800",
        "1800, for ACP runtimes 600",
        "A runtime that prints nothing for so long is taken for hung and stopped. 0 switches this off.",
    ),
    key(
        "carrySuperseded",
        "true or false",
        "true",
        "Whether the text of a message whose turn was cancelled by a newer message is told along with that one.",
    ),
    key(
        "maxBotTurnsInARow",
        "number, 0 to 100000",
        "0",
        "Turns that agents may cause in a conversation without a person in between; then the agent pauses. 0 sets no such limit; more than 20 within ten minutes make it pause anyway.",
    ),
    key(
        "promptVia",
        "stdin or argv",
        "stdin",
        "How runtimes that know both get the prompt. Arguments can be read by every user of the machine.",
    ),
    key("rotation", "object", "", "When a runtime session is left behind for a fresh one."),
    key(
        "rotation.maxTurns",
        "number, 0 to 100000",
        "25",
        "After so many turns. 0: whatever their number. BOTCORD_GATEWAY_MAX_RESUME_TURNS overrides it.",
    ),
    key(
        "rotation.maxInputTokens",
        "number, 0 to 100000000",
        "160000",
        "Or when a prompt has reached so many tokens. 0: however long it is. BOTCORD_GATEWAY_MAX_RESUME_INPUT_TOKENS overrides it.",
    ),
    key(
        "claudeWarmSeconds",
        "number, 0 to 86400",
        "0",
        "How long a Claude Code process is kept after a turn for the next one. Costs about 300 MiB for each conversation; 0 keeps none.",
    ),
    key(
        "claudeWarmMax",
        "number, 1 to 64",
        "4",
        "Most Claude Code processes that are kept at once; the one that was used longest ago is ended first.",
    ),
    key("runtimePermissions", "object", "", "What runtimes may do without being asked."),
    key(
        "runtimePermissions.trusted",
        "full or restricted",
        "full",
        "In conversations with the owner or a trusted party.",
    ),
    key("runtimePermissions.public", "full or restricted", "full", "In all others."),
    key(
        "approvals",
        "object",
        "",
        "Who decides when a runtime asks whether a tool may run. Runtimes that ask nobody are not affected, and those that are restricted by runtimePermissions deny without asking.",
    ),
    key(
        "approvals.owner",
        "allow, deny or ask",
        "allow",
        "In conversations with the owner. ask: whoever follows the conversation is asked (bellhop chat does so), and bellhop status lists the question.",
    ),
    key("approvals.trusted", "allow, deny or ask", "allow", "With trusted parties."),
    key("approvals.public", "allow, deny or ask", "deny", "With anybody else."),
    key("approvals.timeoutSeconds", "number, 1 to 86400", "120", "A question without an answer is denied after this."),
    key(
        "sandboxed",
        "true or false",
        "false",
        "Says that this machine is a throw-away sandbox: lets Claude Code run as root.",
    ),
    key(
        "keepAnthropicEnv",
        "true or false",
        "false",
        "Whether Claude Code gets ANTHROPIC_API_KEY and its like from the daemon's environment instead of using its own login.",
    ),
    key(
        "killLeftovers",
        "true or false",
        "false",
        "Whether processes that a turn leaves running are killed when it ends well. After a cancelled turn they always are.",
    ),
    key(
        "memoryReserveMb",
        "number, 0 to 1048576",
        "256",
        "No further turn is started beside running ones, and no Claude Code process is kept, while the machine has less free memory than this. 0 switches this off.",
    ),
    key(
        "memoryPerTurnMb",
        "number, 0 to 1048576",
        "350",
        "Memory that a turn is expected to take, in MiB; memoryReserveMb has to stay free beside it.",
    ),
    key(
        "parkOnUsageLimit",
        "never, rooms or always",
        "rooms",
        "Whose messages wait when a runtime's quota is used up, until it comes back: nobody's, those of rooms (all but the terminal's), or all. The room is told once; the others get an error.",
    ),
    key(
        "parkOnFailure",
        "never, rooms or always",
        "rooms",
        "The same for a runtime that is not logged in or not installed, and for a full disk. It is tried again every 5 minutes.",
    ),
    key(
        "silentTurnSeconds",
        "number, 0 to 604800",
        "600",
        "A running turn without progress for so long, while none of its tools runs, is logged and makes the health degraded. 0 switches this off.",
    ),
    key(
        "metricsListen",
        "address and port",
        "",
        "Serve GET /metrics (the text format of Prometheus) at this address of this machine too, such as 127.0.0.1:9464; anybody on the machine can read it. The control socket always serves it. Applies at the next start.",
    ),
    key("acpRuntimes", "list of objects", "[]", "Further runtimes that speak the Agent Client Protocol."),
    key(
        "acpRuntimes[].name",
        "text of [a-z0-9][a-z0-9_-]*, at most 32, unique",
        "needed",
        "The runtime's id is acp:NAME.",
    ),
    key("acpRuntimes[].command", "list of texts", "needed", "Program and arguments."),
    key("acpRuntimes[].env", "object of texts", "{}", "Variables for it."),
    key("acpRuntimes[].mode", "text", "", "Session mode to set, if it offers that one."),
    key(
        "acpRuntimes[].contextFile",
        "file name",
        "",
        "File in the working directory that gets context and rules; without it they go in front of the prompt.",
    ),
    key(
        "acpRuntimes[].mcpServers",
        "list",
        "[]",
        "MCP servers of this agent: {name, command, args, env} or {name, url, headers}.",
    ),
    shared(
        "thirdPartyGateways",
        "list of objects",
        "[]",
        "Gateways to other chat services, each for one agent. bellhop gateway add writes one. Those of wechat and feishu are kept, but not connected.",
    ),
    shared(
        "thirdPartyGateways[].id",
        "text of [A-Za-z0-9_-], at most 128, unique",
        "needed",
        "Its id, which is that of its channel.",
    ),
    shared("thirdPartyGateways[].type", "telegram, wechat or feishu", "needed", "Its service."),
    shared(
        "thirdPartyGateways[].accountId",
        "text",
        "needed",
        "The agent: one of the hub's or of local.agents. What comes through a gateway is never the owner's: it is trusted unless the agent's trust is public, or a route of this channel says otherwise.",
    ),
    shared("thirdPartyGateways[].label", "text", "", "What people call it."),
    shared("thirdPartyGateways[].enabled", "true or false", "true", "Whether it is connected."),
    shared(
        "thirdPartyGateways[].allowedChatIds",
        "list of ids",
        "[]",
        "Chats whose messages count, and in which the agent may speak. Without them and allowedSenderIds nobody is heard: bellhop gateway list shows who wrote.",
    ),
    shared(
        "thirdPartyGateways[].allowedSenderIds",
        "list of ids",
        "everybody in the chats",
        "Senders whose messages count. They may write in private, too.",
    ),
    key(
        "thirdPartyGateways[].wakeOn",
        "mention or all",
        "mention",
        "What a local agent hears in groups: what addresses the bot, or all. For agents of a hub their policy of attention decides.",
    ),
    shared(
        "thirdPartyGateways[].splitAt",
        "number",
        "what the service takes",
        "Longest piece of a reply, in UTF-16 units; Telegram takes 4096.",
    ),
    shared(
        "thirdPartyGateways[].baseUrl",
        "https:// address, or http:// on this machine",
        "the public one",
        "Address of the service, for a Bot API server of one's own.",
    ),
    shared(
        "thirdPartyGateways[].secretFile",
        "path",
        "gateways/ID.json",
        "File with its secret: the token of a bot, or {\"botToken\": TOKEN}.",
    ),
    shared(
        "thirdPartyGateways[].stateFile",
        "path",
        "gateways/ID.state.json",
        "File with where it is in its messages.",
    ),
    shared("thirdPartyGateways[].appId", "text", "", "Used by feishu."),
    shared("thirdPartyGateways[].domain", "text", "", "Used by feishu."),
    shared("thirdPartyGateways[].userOpenId", "text", "", "Used by feishu."),
    shared(
        "openclawGateways",
        "list of objects",
        "[]",
        "OpenClaw gateways: name, url, token or tokenFile, defaultAgent. Those that start and doctor find on this machine are added.",
    ),
    shared("openclawDiscovery", "object", "", "Search for OpenClaw gateways on this machine."),
    shared("openclawDiscovery.enabled", "true or false", "true", "Whether they are looked for."),
    shared(
        "openclawDiscovery.searchPaths",
        "list of texts",
        "~/.openclaw, ~/.qclaw, /etc/openclaw",
        "Directories whose *.json and *.toml files are read. Variables (OPENCLAW_ACP_URL, OPENCLAW_GATEWAY_PORT, OPENCLAW_ACP_TOKEN and the like) and units of systemd are looked at in any case.",
    ),
    shared(
        "openclawDiscovery.defaultPorts",
        "list of numbers",
        "[18789, 16200, 28789]",
        "Ports of this machine that are tried.",
    ),
    kept("openclawDiscovery.autoProvision", "true or false", "Registering agents for what lives behind gateways."),
    shared(
        "hubControlPublicKeys",
        "list of texts",
        "[]",
        "Public keys (Ed25519, base64) of which one has to have signed each frame of the hub's control socket. The variables BOTCORD_HUB_CONTROL_PUBLIC_KEYS and BOTCORD_HUB_CONTROL_PUBLIC_KEY come first. Without any key frames are believed because the connection is.",
    ),
    shared(
        "requireSignedControl",
        "true or false",
        "false",
        "Refuse all frames of the control socket while no key is configured.",
    ),
];

/// The names that a member of the object at `path` may have; `path` is empty for the document.
pub fn members(path: &str) -> impl Iterator<Item = &'static str> {
    // A route is a default route with a match, which is what the manual says instead of a list.
    let (path, also) = match path {
        "routes[]" => ("defaultRoute", &["match"][..]),
        "routes[].match" => (path, &["roomId", "roomPrefix"][..]),
        _ => (path, &[][..]),
    };
    KEYS.iter()
        .filter_map(move |k| {
            let rest = if path.is_empty() { k.path } else { k.path.strip_prefix(path)?.strip_prefix('.')? };
            (!rest.contains(['.', '['])).then_some(rest)
        })
        .chain(also.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_one_level_deep() {
        assert!(members("").any(|m| m == "routes"));
        assert!(!members("").any(|m| m.contains('.')));
        assert_eq!(members("rotation").collect::<Vec<_>>(), ["maxTurns", "maxInputTokens"]);
        assert!(members("routes[]").any(|m| m == "match") && members("routes[]").any(|m| m == "adapter"));
    }

    #[test]
    fn a_parent_comes_before_its_members() {
        for (at, k) in KEYS.iter().enumerate() {
            let Some((parent, _)) = k.path.rsplit_once('.') else { continue };
            let parent = parent.trim_end_matches("[]");
            assert!(KEYS.iter().take(at).any(|p| p.path == parent), "{}", k.path);
        }
    }
}
