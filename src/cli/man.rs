//! The manual pages, made from the tables of commands, keys, files and exit codes.
//!
//! The pages under `man/` are what this prints; a test fails when they are not.

use super::args::{Command, Opt, Value};
use super::exit::Exit;
use super::help;
use super::table::{COMMANDS, ENVIRONMENT, GLOBAL};
use crate::config::keys::{KEYS, Origin};
use crate::config::paths::LAYOUT;

/// When the version that the pages describe was made.
const DATE: &str = "2026-11-21";

/// Longest line of filled text in a page's source, in bytes.
const WIDTH: usize = 78;

/// The pages that there are.
pub const PAGES: &[&str] = &["bellhop.1", "bellhop.json.5"];

/// The text of a page; `None` for a name that is not one of [`PAGES`].
pub fn page(name: &str) -> Option<String> {
    match name {
        "bellhop.1" => Some(wrapped(&program())),
        "bellhop.json.5" => Some(wrapped(&configuration())),
        _ => None,
    }
}

const DESCRIPTION: &[&str] = &[
    "bellhop carries messages between rooms and the agent command lines on a machine: Claude Code, Codex, Gemini and \
     others. A message becomes a turn of such a runtime, which runs as a child process; its progress is shown while it \
     works, and its reply goes back to where the message came from.",
    "One process per home runs the engine and answers on a Unix socket. The daemon is one (bellhop start); where none \
     runs, bellhop chat and bellhop send run the engine themselves for as long as they need it. Conversations, sessions \
     and transcripts are the same in both cases.",
    "Without any configuration there is one agent, local. It uses the first runtime that is installed or, if there is \
     none, the built-in runtime echo, which repeats what it is told.",
];

/// What may be relied on, as far as a person who sends a message is concerned.
const DELIVERY: &[&str] = &[
    "Accepted means flushed to disk (written and synced). A message that was accepted is answered or visibly accounted \
     for, whatever dies: the daemon, the agent CLI, the power. The next start goes on with it.",
    "A reply is delivered once where the far side recognises repeats, since every attempt carries the same id; \
     otherwise at least once.",
    "A turn that was interrupted is not silently repeated. One that had done nothing yet runs again. One that may have \
     had effects runs again in the session that the runtime had announced, and the agent is told so, unless its route \
     says ask or hold (onInterrupt). After the third interruption the message is given up with an error reply and \
     kept: see bellhop queue dead.",
    "One conversation never runs two turns at once. A new message in a conversation of two cancels the running turn and \
     carries the text that was not answered along; in a group it waits for its turn, and so it does in local \
     conversations, where every message gets a reply of its own.",
    "When the disk or a conversation is full, new messages are refused and the sender is told; what was accepted is \
     not lost.",
];

/// What a hub's sandbox has otherwise.
const SANDBOX: &[&str] = &[
    "A hub that runs machines for its people starts bellhop in them with the variable BOTCORD_CLOUD_DAEMON_ACCESS_TOKEN. \
     Then the login is what the environment says, and there is no other; if one of the variables that belong to it is \
     missing, bellhop names it and ends with status 1. Each start writes the configuration anew and keeps the one before \
     as config.json.previous. No agent is connected before the hub has put it there, whatever credentials lie in the home; \
     what an agent had not finished goes on then. Every frame of the hub has to be signed by one of its keys.",
    "A start takes the place of a daemon that runs: the one that a sandbox wakes up with has the token that counts. \
     --background is ignored. sandboxed and keepAnthropicEnv are true unless the configuration says otherwise.",
    "When the hub refuses the token, the flag daemon/auth-expired.flag is set and the token is shown again every five \
     minutes; agents go on meanwhile. After half an hour of that in which no turn ran, the daemon ends with status 75.",
    "What a run has used is written down before its answer is sent, and told to the hub until it has it, refuses it, or a \
     day is over. Agents see neither the token nor the keys; nor can they read them in the daemon's own environment, \
     unless they are root.",
];

const SIGNALS: &[(&str, &str)] = &[
    (
        "SIGTERM, SIGINT",
        "The daemon accepts no more, lets running turns go on for a time of grace, and ends. Turns that are not \
         finished run again at the next start. A second signal ends it at once.",
    ),
    ("SIGHUP", "The daemon reads its configuration again. One with mistakes, or one that is gone, changes nothing."),
    (
        "SIGINT in chat",
        "Cancels the running turn; a second one within two seconds leaves. In send: cancels the turn and leaves.",
    ),
];

const EXAMPLES: &[(&str, &str)] = &[
    ("Talk to an agent about the current directory:", "bellhop chat"),
    ("Ask one thing in a script:", "bellhop send --timeout 300 \"summarise the last commit\""),
    (
        "Attach a file and get everything that is known about the turn:",
        "bellhop send --json --file build.log \"why did this fail?\"",
    ),
    ("Hand over what another program prints:", "git diff | bellhop send -"),
    ("Have systemd keep the daemon running:", "bellhop service install"),
    ("The same with cron, where there is no systemd:", "bellhop service install --cron"),
    ("Take over the home of a BotCord daemon:", "bellhop start --home ~/.botcord"),
];

fn program() -> String {
    let mut out = head("BELLHOP", "1", "User Commands");
    section(&mut out, "NAME");
    out.push_str("bellhop \\- carries messages between rooms and the agent CLIs of a machine\n");
    section(&mut out, "SYNOPSIS");
    out.push_str(".nf\n");
    for command in COMMANDS.iter().filter(|c| !c.hidden) {
        for verb in verbs_or_none(command) {
            let target = verb.unwrap_or(command);
            let name = help::full_name(command, verb);
            let more = if target.options.is_empty() { "" } else { " [\\fIOPTIONS\\fR]" };
            let operands = match target.operands.synopsis {
                "" => String::new(),
                text => format!(" \\fI{}\\fR", escape(text)),
            };
            out.push_str(&format!("\\fBbellhop {}\\fR{more}{operands}\n", escape(&name)));
        }
    }
    out.push_str(".fi\n");
    section(&mut out, "DESCRIPTION");
    paragraphs(&mut out, DESCRIPTION);
    section(&mut out, "OPTIONS");
    out.push_str("These work with every command, before or after its name.\n");
    options(&mut out, GLOBAL);
    out.push_str(
        ".PP\nA value stands behind its option or after an equals sign. One that begins with a hyphen needs the equals \
         sign. After \\fB\\-\\-\\fR nothing is an option any more.\n",
    );
    section(&mut out, "COMMANDS");
    for command in COMMANDS.iter().filter(|c| !c.hidden) {
        out.push_str(&format!(".SS {}\n", command.name));
        out.push_str(&format!("{}.\n", escape(command.summary)));
        for text in command.details {
            out.push_str(&format!(".PP\n{}\n", escape(text)));
        }
        options(&mut out, command.options);
        for verb in command.verbs {
            let operands = match verb.operands.synopsis {
                "" => String::new(),
                text => format!(" \\fI{}\\fR", escape(text)),
            };
            let default = if command.default_verb == Some(verb.name) { " This is the default." } else { "" };
            out.push_str(&format!(
                ".PP\n\\fBbellhop {} {}\\fR{operands}\n.RS\n{}.{default}\n",
                command.name,
                verb.name,
                escape(verb.summary)
            ));
            options(&mut out, verb.options);
            out.push_str(".RE\n");
        }
    }
    section(&mut out, "DELIVERY");
    paragraphs(&mut out, DELIVERY);
    section(&mut out, "IN A SANDBOX");
    paragraphs(&mut out, SANDBOX);
    section(&mut out, "FILES");
    out.push_str(
        "All below the home, \\fI\\(ti/.bellhop\\fR unless \\fB\\-\\-home\\fR or \\fBBELLHOP_HOME\\fR say otherwise. \
         Directories have mode 0700, files 0600.\n",
    );
    for (path, text) in LAYOUT {
        tagged(&mut out, &format!("\\fI{}\\fR", escape(path)), text);
    }
    section(&mut out, "ENVIRONMENT");
    for (name, text) in ENVIRONMENT {
        tagged(&mut out, &format!("\\fB{}\\fR", escape(name)), text);
    }
    section(&mut out, "EXIT STATUS");
    for (exit, text) in Exit::ALL {
        tagged(&mut out, &format!("\\fB{}\\fR", exit.code()), text);
    }
    section(&mut out, "SIGNALS");
    for (name, text) in SIGNALS {
        tagged(&mut out, &format!("\\fB{}\\fR", escape(name)), text);
    }
    section(&mut out, "EXAMPLES");
    for (n, (text, line)) in EXAMPLES.iter().enumerate() {
        let apart = if n == 0 { "" } else { ".PP\n" };
        out.push_str(&format!("{apart}{}\n.PP\n.RS 4\n.nf\n{}\n.fi\n.RE\n", escape(text), escape(line)));
    }
    section(&mut out, "SEE ALSO");
    out.push_str(".BR bellhop.json (5),\n.BR flock (2),\n.BR timeout (1)\n");
    out
}

fn verbs_or_none(command: &'static Command) -> Vec<Option<&'static Command>> {
    if command.verbs.is_empty() { vec![None] } else { command.verbs.iter().map(Some).collect() }
}

const CONFIGURATION: &[&str] = &[
    "The file daemon/config.json in bellhop's home (~/.bellhop) holds one JSON object. It need not exist: without it, \
     and for each key that it does not have, the default holds. A value of null is the same as no value.",
    "A file with a mistake is not used at all: bellhop says in which line and field it found what, and what is expected, \
     and does not start. bellhop config check looks for mistakes without starting anything. Keys that are not known are \
     kept and named in a warning.",
    "The format is that of the BotCord daemon, so that its file can be used as it is; keys that it does not know are \
     marked as bellhop's own. The BotCord daemon drops those when it writes the file.",
    "Changes take effect at the next start. When the daemon receives SIGHUP, agents and routes (local, defaultRoute, \
     routes, openclawGateways) and approvals change for the next message, and thirdPartyGateways are connected as they are \
     now; the log names other keys that have changed and wait for a restart. A file with a mistake changes nothing, and \
     neither does the lack of one that was there; the log says where it is. An agent of a hub whose credentials cannot be \
     read at that moment goes on with those that it has.",
];

const CONFIGURATION_EXAMPLE: &str = r#"{
  "local": {
    "agents": [
      {"name": "local"},
      {"name": "reviewer", "runtime": "codex", "cwd": "~/src"}
    ]
  },
  "defaultRoute": {"adapter": "claude-code", "cwd": "/home/ann"},
  "maxConcurrentTurns": 4,
  "turnTimeoutSeconds": 900,
  "acpRuntimes": [{"name": "goose", "command": ["goose", "acp"]}]
}"#;

fn configuration() -> String {
    let mut out = head("BELLHOP.JSON", "5", "File Formats");
    section(&mut out, "NAME");
    out.push_str("bellhop.json \\- configuration of bellhop (daemon/config.json)\n");
    section(&mut out, "DESCRIPTION");
    paragraphs(&mut out, CONFIGURATION);
    section(&mut out, "KEYS");
    out.push_str("A point leads into an object, \\fB[]\\fR into each element of a list.\n");
    for key in KEYS {
        let mut text = format!("{} Type: {}.", key.text, key.kind);
        if key.default == "needed" {
            text.push_str(" Must be given.");
        } else if !key.default.is_empty() {
            text.push_str(&format!(" Default: {}.", key.default));
        }
        text.push_str(match key.origin {
            Origin::Shared => "",
            Origin::Own => " bellhop's own.",
            Origin::Kept => " Kept as it is.",
        });
        tagged(&mut out, &format!("\\fB{}\\fR", escape(key.path)), &text);
    }
    section(&mut out, "FILES");
    tagged(&mut out, "\\fI\\(ti/.bellhop/daemon/config.json\\fR", "The configuration.");
    tagged(&mut out, "\\fI\\(ti/.bellhop/daemon/config.lock\\fR", "Held while bellhop changes the file.");
    section(&mut out, "EXAMPLES");
    out.push_str(&format!(".nf\n{}\n.fi\n", escape(CONFIGURATION_EXAMPLE)));
    section(&mut out, "SEE ALSO");
    out.push_str(".BR bellhop (1)\n");
    out
}

fn head(title: &str, number: &str, volume: &str) -> String {
    format!(
        ".\\\" Made from the program's own tables; do not edit. Renew with: cargo run -- man {}.{number} > man/{0}.{number}\n\
         .TH {title} {number} {DATE} \"bellhop {}\" \"{volume}\"\n.nh\n.ad l\n",
        title.to_lowercase(),
        env!("CARGO_PKG_VERSION")
    )
}

fn section(out: &mut String, name: &str) {
    out.push_str(&format!(".SH {name}\n"));
}

fn paragraphs(out: &mut String, texts: &[&str]) {
    for (n, text) in texts.iter().enumerate() {
        if n > 0 {
            out.push_str(".PP\n");
        }
        out.push_str(&format!("{}\n", escape(text)));
    }
}

/// `tag` is roff already, `text` is not.
fn tagged(out: &mut String, tag: &str, text: &str) {
    out.push_str(&format!(".TP\n{tag}\n{}\n", escape(text)));
}

fn options(out: &mut String, list: &[Opt]) {
    for o in list {
        let mut tag = String::new();
        if let Some(c) = o.short {
            tag.push_str(&format!("\\fB\\-{c}\\fR, "));
        }
        tag.push_str(&format!("\\fB\\-\\-{}\\fR", escape(o.long)));
        if let Value::Maybe(word) = o.value {
            tag.push_str(&format!("[=\\fI{}\\fR]", escape(word)));
        } else if o.value != Value::Flag {
            tag.push_str(&format!(" \\fI{}\\fR", escape(o.value.placeholder())));
        }
        let default = o.default.map_or(String::new(), |d| format!(" Default: {d}."));
        tagged(out, &tag, &format!("{}.{default}", o.help));
    }
}

/// The page with filled text in lines of at most [`WIDTH`] bytes, each sentence on a line of its own, as readers of
/// the source expect.
fn wrapped(page: &str) -> String {
    let mut out = String::with_capacity(page.len() + page.len() / 40);
    let mut filled = true;
    for line in page.lines() {
        filled = match line {
            ".nf" => false,
            ".fi" => true,
            _ => filled,
        };
        if !filled || line.starts_with('.') {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        let mut column = 0;
        let mut sentence_ended = false;
        for word in line.split(' ').filter(|word| !word.is_empty()) {
            if column > 0 && (sentence_ended || column + 1 + word.len() > WIDTH) {
                out.push('\n');
                column = 0;
            }
            if column > 0 {
                out.push(' ');
                column += 1;
            } else if word.starts_with(['.', '\'']) {
                out.push_str("\\&");
            }
            out.push_str(word);
            column += word.len();
            sentence_ended = word.ends_with('.');
        }
        out.push('\n');
    }
    out
}

/// Text as roff: nothing in it is a request, and hyphens, quotes and tildes print as typed.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for line in text.split_inclusive('\n') {
        if line.starts_with(['.', '\'']) {
            out.push_str("\\&");
        }
        for c in line.chars() {
            match c {
                '\\' => out.push_str("\\e"),
                '-' => out.push_str("\\-"),
                '\'' => out.push_str("\\(aq"),
                '`' => out.push_str("\\(ga"),
                '^' => out.push_str("\\(ha"),
                '~' => out.push_str("\\(ti"),
                '"' => out.push_str("\\(dq"),
                c => out.push(c),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_a_request() {
        assert_eq!(escape(".SH\n'x"), "\\&.SH\n\\&\\(aqx");
        assert_eq!(escape("--a ~/b\\"), "\\-\\-a \\(ti/b\\e");
    }

    #[test]
    fn filled_text_is_wrapped_and_examples_are_not() {
        let long = "word ".repeat(20);
        let page = wrapped(&format!("{long}\n.nf\n{long}\n.fi\nOne. Two.\n"));
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(lines[2..], [".nf", &long, ".fi", "One.", "Two."]);
        assert_eq!((lines[0].len(), lines[1].len()), (74, 24));
        let dots = wrapped(&format!("{} .x", "y".repeat(WIDTH)));
        assert_eq!(dots.lines().last(), Some("\\&.x"), "no request");
    }

    #[test]
    fn pages_are_plain_ascii_and_mention_everything() {
        for name in PAGES {
            let text = page(name).unwrap();
            assert!(text.is_ascii(), "{name}: {:?}", text.chars().find(|c| !c.is_ascii()));
        }
        let page = page("bellhop.1").unwrap();
        for command in COMMANDS.iter().filter(|c| !c.hidden) {
            for option in command.options.iter().chain(command.verbs.iter().flat_map(|v| v.options)) {
                assert!(page.contains(&format!("\\-\\-{}", escape(option.long))), "{}", option.long);
            }
        }
    }
}
