//! The one table of commands and options.
//!
//! Parsing, `--help`, the manual page and the shell completions are all made from it; what is not in here
//! does not exist on the command line.

use super::args::{Command, Operands, Opt, Value};

mod gateway;
mod room;

const fn flag(long: &'static str, help: &'static str) -> Opt {
    Opt { long, short: None, value: Value::Flag, many: false, default: None, help }
}

const fn opt(long: &'static str, value: Value, help: &'static str) -> Opt {
    Opt { long, short: None, value, many: false, default: None, help }
}

/// Options that every command takes, before or after its name.
pub const GLOBAL: &[Opt] = &[
    Opt { default: Some("~/.bellhop"), ..opt("home", Value::Dir, "Keep everything below this directory") },
    Opt { short: Some('h'), ..flag("help", "Show help and leave") },
    Opt { short: Some('V'), ..flag("version", "Show the version and leave") },
];

const AGENT: Opt = opt("agent", Value::Agent, "Talk to this agent instead of the first configured one");
const ONE_AGENT: Opt = opt("agent", Value::Agent, "The agent; needed when there is more than one");
const CONVERSATION: Opt =
    opt("conversation", Value::Conversation, "Continue this conversation instead of the directory's own");
const RUNTIME: Opt = opt("runtime", Value::Runtime, "Run the turn with this runtime");
const CWD: Opt = opt("cwd", Value::Dir, "Directory in which the agent works; default: the current one");
const NEW: Opt = flag("new", "Forget the session of this conversation and begin afresh");
const APPROVE: Opt =
    opt("approve", Value::OneOf(&["allow", "deny"]), "Answer so when a tool call of the turn waits for permission");
const JSON: Opt = flag("json", "Print JSON");
const WHICH: Opt = opt("conversation", Value::Conversation, "The conversation; default: the current directory's own");
const ROOM: Opt = opt("room", Value::Conversation, "The same as --conversation");
const TOPIC: Opt = opt("topic", Value::Text("TOPIC"), "The topic inside it");
const SECTION: Opt = opt("section", Value::Text("NAME"), "The section of the memory");
const LINES: Opt = Opt { short: Some('n'), ..opt("lines", Value::Number("N"), "Begin with the last N lines") };
const FOLLOW: Opt = Opt { short: Some('f'), ..flag("follow", "Go on printing what is added") };

const SERVICE: &[Opt] = &[
    flag("user", "For this user, under systemd"),
    flag("system", "For the machine, under systemd"),
    flag("cron", "With lines in the user's crontab"),
    flag("s6", "As a service directory for s6 or runit"),
    opt("dir", Value::Dir, "The service directory of --s6"),
];

const QUEUED: Operands = Operands { synopsis: "ID", min: 1, max: 1, value: Value::Text("ID") };

const EMPTY: Command = Command {
    name: "",
    summary: "",
    details: &[],
    options: &[],
    operands: Operands::NONE,
    verbs: &[],
    default_verb: None,
    hidden: false,
};

/// Every command, in the order in which help lists them.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "chat",
        summary: "Talk to an agent in the terminal",
        details: &[
            "Opens a conversation with an agent that works in the current directory, and shows what it does while \
             it does it. The conversation belongs to the directory: coming back later continues it. Without a \
             running daemon the engine runs inside this command.",
            "A line is a message; a line that ends with a backslash goes on in the next one. /cancel cancels what runs, \
             /file PATH sends a file with the next message, /new begins afresh with the next message, /reset forgets \
             the session now, /usage shows tokens and cost of this chat so far, /status what the daemon does, /help \
             lists the commands, /quit or end of input leaves. Control-C cancels the running turn; a second one within \
             two seconds leaves.",
            "Where the configuration has a person asked about tool calls (approvals in bellhop.json(5)), the question \
             appears in the terminal, and the next line answers it: y allows, everything else denies. Without a \
             terminal nobody can be asked: --approve answers, or the time limit denies.",
            "When standard input is not a terminal, each line is one message; the command ends when the last one \
             is answered, with status 1 if any of them failed.",
        ],
        options: &[AGENT, CONVERSATION, RUNTIME, CWD, NEW, APPROVE],
        ..EMPTY
    },
    Command {
        name: "send",
        summary: "Send one message and print the reply",
        details: &[
            "Sends TEXT (several words are joined with spaces) or, with -, what standard input holds, and waits \
             for the reply, which goes to standard output. Without a running daemon the engine runs inside this \
             command.",
            "With --json one object is printed: id, agent, conversation, runtime, session_id, status (ok, error, \
             cancelled, timeout, no_reply), reply, error {kind, message}, blocks, ms, usage, cost_usd.",
            "Started by an agent in a turn (BELLHOP_AGENT and BELLHOP_TURN are set), the message comes from that agent \
             and has none of the owner's authority. It goes to the conversation agent-NAME unless another one is \
             named; runtime and directory are the other agent's own. At most eight such messages follow from each \
             other, and none goes where it would wait for itself.",
        ],
        options: &[
            AGENT,
            CONVERSATION,
            RUNTIME,
            CWD,
            NEW,
            Opt { many: true, ..opt("file", Value::File, "Attach this file; may be repeated") },
            flag("no-wait", "Print the message's id as soon as it is accepted; needs a running daemon"),
            APPROVE,
            opt("timeout", Value::Number("SECONDS"), "Give up and cancel the turn after this time"),
            JSON,
        ],
        operands: Operands { synopsis: "TEXT|-", min: 1, max: usize::MAX, value: Value::Text("TEXT") },
        ..EMPTY
    },
    Command {
        name: "cancel",
        summary: "Cancel running turns",
        details: &[
            "Cancels the turn or message with this id, or every turn of a conversation or of an agent. Without any \
             of them: the turn of the current directory's conversation.",
        ],
        options: &[
            opt("agent", Value::Agent, "Cancel the turns of this agent"),
            opt("conversation", Value::Conversation, "Cancel the turns of this conversation"),
        ],
        operands: Operands { synopsis: "[ID]", min: 0, max: 1, value: Value::Text("ID") },
        ..EMPTY
    },
    Command {
        name: "approve",
        summary: "Answer a tool call that waits for permission",
        details: &["Which ones wait, and their ids, is shown by bellhop status."],
        options: &[
            flag("deny", "Deny it instead of allowing it"),
            opt("reason", Value::Text("TEXT"), "Why it is denied; the agent may be told"),
        ],
        operands: Operands { synopsis: "ID", min: 1, max: 1, value: Value::Text("ID") },
        ..EMPTY
    },
    Command {
        name: "status",
        summary: "Show what the daemon does",
        details: &[
            "Shows the daemon, its channels, running and waiting turns, and when messages last came and replies last \
             arrived. Ends with status 0 when all is well, 1 when something needs a look (a reply is not delivered, \
             a runtime cannot work, a turn is silent), 2 when no messages are taken, 3 when no daemon runs. Where none \
             answers, the files in the home tell what they know.",
        ],
        options: &[JSON, flag("watch", "Show it again every second until interrupted")],
        ..EMPTY
    },
    Command {
        name: "queue",
        summary: "Look at waiting messages, hold, release or drop them, run dead ones again",
        details: &[
            "Messages are waiting, running, held (set aside by a person, or after an interruption), parked (their \
             runtime cannot work for now, or the agent asked to wait), undelivered (answered, the reply is not \
             delivered yet) or dead (given up). A held message does not hold up its conversation. ID is that of the \
             list, or the message's own. Without a daemon the journal is read, and nothing can be changed.",
        ],
        verbs: &[
            Command {
                name: "list",
                summary: "List what is not finished, with ages by conversation",
                options: &[JSON],
                ..EMPTY
            },
            Command { name: "show", summary: "Show one message", options: &[JSON], operands: QUEUED, ..EMPTY },
            Command {
                name: "hold",
                summary: "Set a waiting message aside",
                options: &[JSON],
                operands: QUEUED,
                ..EMPTY
            },
            Command {
                name: "release",
                summary: "Let a held message go; try the runtime of a parked one now",
                options: &[JSON],
                operands: QUEUED,
                ..EMPTY
            },
            Command {
                name: "requeue",
                summary: "Run a dead message again or, if it was answered, send its reply again",
                options: &[JSON],
                operands: QUEUED,
                ..EMPTY
            },
            Command {
                name: "drop",
                summary: "End a waiting, held or dead message without an answer",
                options: &[JSON],
                operands: QUEUED,
                ..EMPTY
            },
            Command {
                name: "dead",
                summary: "List the messages that were given up; the last 1000 are kept",
                options: &[JSON],
                ..EMPTY
            },
        ],
        default_verb: Some("list"),
        ..EMPTY
    },
    Command {
        name: "journal",
        summary: "Print the journal",
        details: &[
            "The journal is what survives a crash: every message that is not finished, and what was done about it. \
             Lines that cannot be read are named with their segment and offset on standard error, and make the \
             status 1. Works with and without a daemon.",
        ],
        verbs: &[Command {
            name: "dump",
            summary: "Print its records, message texts as previews",
            options: &[flag("json", "Print the lines as they are, with whole message texts")],
            ..EMPTY
        }],
        default_verb: Some("dump"),
        ..EMPTY
    },
    Command {
        name: "start",
        summary: "Start the daemon",
        details: &[
            "Runs in the foreground unless --background is given, which is what a service manager wants. Only one \
             daemon runs per home: a second one says so and ends with status 1, unless --replace is given.",
            "A daemon works without a hub. To have one send messages and look after the agents, log in once: with --hub, \
             --label or --relogin the terminal shows a page to open and a code to enter there; with an install ticket of \
             the hub's page nobody has to. The login is kept in daemon/user-auth.json below the home, used at every later \
             start, and renewed by the daemon. It is seen to before anything is detached or replaced. Other users can \
             read an argument: give the ticket in BOTCORD_INSTALL_TOKEN, or with --install-token - on standard input.",
            "The first start with a login, --agent or --cwd writes a configuration, unless there is one: Claude Code works in \
             --cwd or in the user's directory, for the agents that --agent names, or else for those whose credentials lie \
             in the home.",
        ],
        options: &[
            Opt { short: Some('d'), ..flag("background", "Detach, and return when the daemon answers") },
            flag("foreground", "Stay attached to the terminal or the supervisor (the default)"),
            flag("replace", "Stop the daemon that runs, then start"),
            flag("if-stopped", "Do nothing, and end with status 0, when a daemon runs"),
            opt("hub", Value::Text("URL"), "Log in at this hub; default: https://api.botcord.chat"),
            opt("label", Value::Text("NAME"), "What the hub calls this daemon; default: the name of the machine"),
            flag("relogin", "Log in anew, although there is a login"),
            opt("install-token", Value::Text("TICKET"), "Log in with this ticket of the hub; -: from standard input"),
            Opt {
                many: true,
                ..opt("agent", Value::Text("ID"), "An agent of the first configuration; may be repeated")
            },
            opt("cwd", Value::Dir, "Where agents work by the first configuration"),
            opt("ready-fd", Value::Number("FD"), "Write a line feed to this pipe once ready, for s6"),
        ],
        ..EMPTY
    },
    Command {
        name: "service",
        summary: "Have a service manager keep the daemon running",
        details: &[
            "Without a choice: systemd's manager of the system for root, that of the user for everybody else. The system's \
             service runs as the user bellhop with everything in /var/lib/bellhop; a user's runs with the home \
             that --home or BELLHOP_HOME names, else ~/.bellhop, and ends with the last login unless the user lingers \
             (loginctl enable-linger). The system's is asked as its user: sudo -u bellhop bellhop --home /var/lib/bellhop \
             status. Both tell systemd when they \
             are ready and that they live, and are confined: they see no devices and the system read-only.",
            "--cron puts two lines into the user's crontab: one for the start of the machine, one that looks every five \
             minutes whether a daemon runs. --s6 writes a service directory with readiness notification; its run script \
             serves runit, too, without --ready-fd. Neither starts or stops a daemon by itself: cron does within five \
             minutes, s6 with its next scan, and a daemon that runs goes on when they are removed. A file that bellhop \
             has not written is left alone.",
        ],
        verbs: &[
            Command { name: "print", summary: "Print what would be installed", options: SERVICE, ..EMPTY },
            Command {
                name: "install",
                summary: "Install it; systemd starts the daemon at once",
                options: SERVICE,
                ..EMPTY
            },
            Command {
                name: "uninstall",
                summary: "Remove it; systemd stops the daemon first",
                options: SERVICE,
                ..EMPTY
            },
        ],
        ..EMPTY
    },
    Command {
        name: "stop",
        summary: "Stop the daemon",
        details: &[
            "Sends SIGTERM. Running turns get a time of grace; what is not finished then runs again at the next \
             start.",
        ],
        options: &[flag("wait", "Return when it has ended; after 50 seconds with status 124")],
        ..EMPTY
    },
    Command {
        name: "logs",
        summary: "Print the daemon's log",
        options: &[FOLLOW, Opt { default: Some("100"), ..LINES }],
        ..EMPTY
    },
    Command {
        name: "doctor",
        summary: "Check the installation and say how to mend it",
        details: &[
            "Lists the runtimes and checks the home, its permissions, the lock, the socket, the disk and the \
             configuration. Every finding comes with a line that says what to do. Ends with status 1 when \
             something needed is broken.",
            "With --auth-check the CLIs that can tell are asked whether they are logged in, and what may keep them \
             from working here is told. With --auth-check=turn every runtime that is there runs one short turn with \
             bellhop's own arguments, which asks its model.",
            "Gateways of OpenClaw that are found on this machine are added to the configuration, as start does it, unless \
             openclawDiscovery there says otherwise; how they are and who lives behind them is told.",
            "With --bundle a zip file of at most 50 MiB is written below the home, in diagnostics/: what doctor finds, the \
             log, the configuration, the sessions, traces and logs of runtimes; secrets are replaced as far as they can be \
             recognised, and conversations are left out unless --transcripts is given. A hub that this daemon is logged in \
             to may ask for such a bundle, without conversations. The last ten are kept.",
        ],
        options: &[
            JSON,
            opt("auth-check", Value::Maybe("turn"), "Ask the CLIs for their login, or run a turn"),
            flag("bundle", "Write a bundle of diagnostics instead"),
            flag("full-log", "More of the logs in the bundle"),
            flag("transcripts", "Conversations in the bundle, too"),
        ],
        ..EMPTY
    },
    Command {
        name: "runtimes",
        summary: "List the runtimes, and what can be chosen for them",
        details: &["A runtime is there when its program is: on PATH, in one of its usual places, or where a variable \
             such as BELLHOP_CLAUDE_BIN says. Versions and catalogues of models are remembered in the home."],
        options: &[JSON, flag("models", "List the models and parameters, too")],
        ..EMPTY
    },
    Command {
        name: "config",
        summary: "Show or check the configuration",
        details: &["The file is described in bellhop.json(5). Without a file all defaults hold."],
        verbs: &[
            Command {
                name: "show",
                summary: "Print the configuration in effect, and the agents of hubs, as JSON",
                ..EMPTY
            },
            Command { name: "path", summary: "Print the path of the configuration file", ..EMPTY },
            Command { name: "check", summary: "Check the file and name every mistake in it", ..EMPTY },
        ],
        default_verb: Some("show"),
        ..EMPTY
    },
    gateway::GATEWAY,
    Command {
        name: "usage",
        summary: "Show what turns have cost: tokens, time, money",
        details: &[
            "Sums of every turn whose runtime was started, as far as runtimes tell: input tokens with those from the \
             provider's cache among them, output tokens, the time of the runtime, and the cost in US dollars. Days \
             are those of UTC. Kept are 400 days and the last 2000 conversations; what is older is in one row. The \
             last turns are listed by --by turn.",
        ],
        options: &[
            Opt {
                default: Some("day"),
                ..opt("by", Value::OneOf(&["agent", "day", "conversation", "runtime", "turn"]), "Sum up by this")
            },
            opt("agent", Value::Agent, "Only what this agent has cost"),
            JSON,
        ],
        ..EMPTY
    },
    Command {
        name: "route",
        summary: "List or change the rules of what runs which conversation",
        details: &[
            "The rules are routes in bellhop.json(5): the first one whose conditions all hold decides. A daemon that runs \
             follows at once.",
        ],
        verbs: &[
            Command { name: "list", summary: "List them", options: &[JSON], ..EMPTY },
            Command {
                name: "add",
                summary: "Add one behind the others; at least one condition",
                options: &[
                    opt("conversation-id", Value::Conversation, "In this conversation"),
                    opt("room", Value::Conversation, "The same as --conversation-id"),
                    opt("conversation-prefix", Value::Text("PREFIX"), "In conversations whose ids begin so"),
                    opt("prefix", Value::Text("PREFIX"), "The same as --conversation-prefix"),
                    opt("conversation-kind", Value::OneOf(&["direct", "group"]), "In conversations of this kind"),
                    opt("channel", Value::Text("CHANNEL"), "On this channel"),
                    opt("account-id", Value::Agent, "For this agent"),
                    opt("sender-id", Value::Text("ID"), "From this sender"),
                    flag("mentioned", "When the agent is mentioned"),
                    flag("no-mentioned", "When it is not"),
                    Opt { default: Some("claude-code"), ..opt("adapter", Value::Runtime, "The runtime") },
                    opt("cwd", Value::Dir, "The directory in which it works; needed"),
                ],
                ..EMPTY
            },
            Command {
                name: "remove",
                summary: "Remove every rule of a conversation or prefix",
                options: &[
                    opt("room", Value::Conversation, "Those of this conversation"),
                    opt("prefix", Value::Text("PREFIX"), "Those of this prefix"),
                ],
                ..EMPTY
            },
        ],
        default_verb: Some("list"),
        ..EMPTY
    },
    Command {
        name: "sessions",
        summary: "List or forget the runtimes' sessions",
        details: &[
            "A session is what lets a runtime remember a conversation. A conversation whose session is forgotten \
             begins afresh with its next message; nothing else is lost.",
        ],
        verbs: &[
            Command { name: "list", summary: "List them", options: &[JSON], ..EMPTY },
            Command {
                name: "reset",
                summary: "Forget one, those of a conversation, or all",
                options: &[
                    opt("conversation", Value::Conversation, "Forget those of this conversation"),
                    flag("all", "Forget all of them"),
                ],
                operands: Operands { synopsis: "[KEY]", min: 0, max: 1, value: Value::Text("KEY") },
                ..EMPTY
            },
        ],
        default_verb: Some("list"),
        ..EMPTY
    },
    Command {
        name: "transcript",
        summary: "Look at, keep or drop the record of conversations",
        details: &["Transcripts are on unless switched off; BOTCORD_TRANSCRIPT=1 or =0 overrides the configuration."],
        verbs: &[
            Command { name: "list", summary: "List the conversations that have one", options: &[ONE_AGENT], ..EMPTY },
            Command {
                name: "tail",
                summary: "Print the last records of one",
                options: &[ONE_AGENT, WHICH, ROOM, TOPIC, Opt { default: Some("50"), ..LINES }, FOLLOW],
                ..EMPTY
            },
            Command {
                name: "dump",
                summary: "Print all records of one",
                options: &[ONE_AGENT, WHICH, ROOM, TOPIC],
                ..EMPTY
            },
            Command { name: "status", summary: "Say whether they are kept, why, and where", ..EMPTY },
            Command { name: "enable", summary: "Keep them, from the next start on", ..EMPTY },
            Command { name: "disable", summary: "Keep none, from the next start on", ..EMPTY },
            Command {
                name: "prune",
                summary: "Delete rotated files",
                options: &[
                    ONE_AGENT,
                    opt("older-than", Value::Text("AGE"), "Only those older than AGE: 30d, 12h, 90m, 60s"),
                    flag("all", "Delete everything the agent's transcripts hold; needs --yes"),
                    flag("yes", "Yes, delete it"),
                ],
                ..EMPTY
            },
        ],
        ..EMPTY
    },
    Command {
        name: "debug",
        summary: "Show the evidence of failures",
        verbs: &[Command {
            name: "runtime-error",
            summary: "Print what a turn's runtime left when it failed, as JSON",
            details: &[
                "The first failure of that turn or reference in the conversation's transcript: file, ts, turn_id, \
                 error_ref, runtime, message and failure (arguments, exit code, ends of the output; redacted). With \
                 --topic its active file is searched, else all files of the conversation. Ends with status 1 when \
                 there is none.",
            ],
            options: &[
                ONE_AGENT,
                WHICH,
                ROOM,
                TOPIC,
                opt("turn-id", Value::Text("ID"), "The turn"),
                opt(
                    "error-ref",
                    Value::Text("REF"),
                    "The reference that was shown with the failure: err_ and twelve digits",
                ),
            ],
            ..EMPTY
        }],
        ..EMPTY
    },
    Command {
        name: "memory",
        summary: "Look at or change an agent's working memory",
        details: &["The memory is a goal and named sections; the agent sees it with every turn."],
        verbs: &[
            Command { name: "get", summary: "Print it", options: &[ONE_AGENT, JSON], ..EMPTY },
            Command {
                name: "set",
                summary: "Set the goal or a section; an empty value deletes it",
                options: &[
                    ONE_AGENT,
                    opt("goal", Value::Text("TEXT"), "The goal, at most 500 characters"),
                    Opt { default: Some("notes"), ..SECTION },
                    opt("content", Value::Text("TEXT"), "The section's text, at most 10000 characters"),
                ],
                ..EMPTY
            },
            Command { name: "delete", summary: "Delete a section", options: &[ONE_AGENT, SECTION], ..EMPTY },
            Command { name: "clear", summary: "Delete the goal and all sections", options: &[ONE_AGENT], ..EMPTY },
        ],
        default_verb: Some("get"),
        ..EMPTY
    },
    room::ROOM,
    Command {
        name: "completions",
        summary: "Print the completion script of a shell",
        details: &[
            "bash: source <(bellhop completions bash). zsh: save it as _bellhop in a directory of $fpath. fish: save \
             it as ~/.config/fish/completions/bellhop.fish.",
        ],
        operands: Operands { synopsis: "bash|zsh|fish", min: 1, max: 1, value: Value::OneOf(&["bash", "zsh", "fish"]) },
        ..EMPTY
    },
    Command { name: "version", summary: "Show the version", ..EMPTY },
    Command {
        name: "help",
        summary: "Show help, also about one command",
        operands: Operands { synopsis: "[COMMAND [VERB]]", min: 0, max: 2, value: Value::Text("COMMAND") },
        hidden: true,
        ..EMPTY
    },
    Command {
        name: "man",
        summary: "Print a manual page in the form of the man program",
        operands: Operands {
            synopsis: "[bellhop.1|bellhop.json.5]",
            min: 0,
            max: 1,
            value: Value::OneOf(&["bellhop.1", "bellhop.json.5"]),
        },
        hidden: true,
        ..EMPTY
    },
];

/// Variables that bellhop reads, for help and the manual.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    ("BELLHOP_HOME", "The home, where --home is not given."),
    ("BELLHOP_AGENT, BELLHOP_TURN", "Set in turns: the agent and the turn that a message is from."),
    ("BELLHOP_ROOM_TOKEN", "Set in turns: what lets bellhop room act for the agent. Worthless after the turn."),
    ("BELLHOP_LOG", "Level of the log: error, warn, info (the default), debug or trace."),
    ("GLIBC_TUNABLES", "Where it is not set, the daemon starts with a value of its own that keeps memory small."),
    ("BELLHOP_<RUNTIME>_BIN", "Program to run for a runtime, such as BELLHOP_CLAUDE_BIN or BELLHOP_CODEX_BIN."),
    (
        "BELLHOP_ACP_IDLE_TIMEOUT_MS",
        "Milliseconds of silence after which the program of a turn is stopped. 0: never. Unless set, 600000 for agents \
         of the Agent Client Protocol and 1800000 for the others.",
    ),
    ("BOTCORD_ACP_LOGS", "0: no traces of the Agent Client Protocol below logs/acp."),
    ("BOTCORD_ACP_TRACE", "verbose: those traces hold prompts and replies in full."),
    (
        "BOTCORD_DEEPSEEK_TUI_URL, BOTCORD_DEEPSEEK_TUI_TOKEN",
        "A running server of DeepSeek TUI to use, and its token, in place of one that the daemon starts.",
    ),
    (
        "BOTCORD_DEEPSEEK_TURN_IDLE_TIMEOUT_MS",
        "Milliseconds without an event after which a turn of DeepSeek TUI is given up (60000). 0: never.",
    ),
    (
        "BELLHOP_RUNTIME_CATALOG_CACHE, BELLHOP_RUNTIME_CATALOG_CACHE_DIR",
        "0 keeps no lists of models between questions; the directory where they are kept.",
    ),
    (
        "BELLHOP_RUNTIME_CATALOG_BACKGROUND_REFRESH",
        "0: a list of models that is used is not renewed in the background.",
    ),
    ("BOTCORD_SKILL_DIRS", "Further directories with skills, separated by colons."),
    (
        "BOTCORD_CLOUD_DAEMON_ACCESS_TOKEN",
        "Set in a hub's sandbox, and the switch for everything that is different there: see IN A SANDBOX.",
    ),
    (
        "BOTCORD_HUB_URL, BOTCORD_CLOUD_DAEMON_INSTANCE_ID, BOTCORD_DAEMON_INSTANCE_ID",
        "The hub of a sandbox, and the names of sandbox and daemon there. Needed with the token.",
    ),
    (
        "BOTCORD_HUB_CONTROL_PUBLIC_KEYS, BOTCORD_HUB_CONTROL_PUBLIC_KEY",
        "Keys of the hub, of which one has to have signed each of its frames; several are separated by commas.",
    ),
    (
        "BELLHOP_CLOUD_RETRY_MS, BELLHOP_CLOUD_LINGER_MS",
        "In a sandbox: milliseconds between two looks whether a hub takes a token that it refused (300000), and until \
         the daemon ends because of it (1800000).",
    ),
    ("BOTCORD_INSTALL_TOKEN", "An install ticket of a hub, for start."),
    ("BOTCORD_GATEWAY_MAX_RESUME_TURNS", "In place of rotation.maxTurns of the configuration."),
    ("BOTCORD_GATEWAY_MAX_RESUME_INPUT_TOKENS", "In place of rotation.maxInputTokens of the configuration."),
    ("BOTCORD_TRANSCRIPT", "1 keeps transcripts, 0 does not, whatever the configuration says."),
    ("BOTCORD_TRANSCRIPT_BLOCKS", "verbose: transcripts hold what the runtime sent, redacted, not only its kind."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "Set by systemd: it is told when the daemon is ready, and that it lives."),
    ("NO_COLOR", "If set to anything but the empty string: no colours."),
    ("TERM", "dumb: no colours and no lines that overwrite each other."),
];
