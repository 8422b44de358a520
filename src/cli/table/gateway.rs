//! `bellhop gateway`.

use super::{Command, EMPTY, JSON, Operands, Opt, Value, flag, opt};

const ID: Operands = Operands { synopsis: "ID", min: 1, max: 1, value: Value::Text("ID") };

/// The command.
pub(super) const GATEWAY: Command = Command {
    name: "gateway",
    summary: "Connect an agent with Telegram",
    details: &[
        "A gateway is a bot of Telegram that speaks for one agent, of this machine or of a hub. Get a bot and its token from \
         @BotFather; bellhop gateway add asks for the token and writes it to a file that only its owner can read. Nobody is \
         heard who is not listed: write to the bot, see with bellhop gateway list which chat that was, and let it in with \
         bellhop gateway add ID --chat CHAT.",
        "In a group the bot has to be mentioned or answered, unless --all-in-groups is given and the bot's privacy is off at \
         @BotFather. What comes through a gateway never has the owner's authority.",
    ],
    verbs: &[
        Command {
            name: "add",
            summary: "Add a gateway, or change one",
            details: &[
                "The token comes from --token-file or from standard input, and is asked for at a terminal. A gateway that has \
                 one keeps it. Chats and senders are added to those that there are; bellhop.json(5) has the rest. ID is \
                 telegram unless given. A running daemon connects it at once.",
            ],
            options: &[
                opt("agent", Value::Agent, "The agent it speaks for; default: the first local one"),
                opt("token-file", Value::File, "Read the token from this file, - for standard input"),
                Opt { many: true, ..opt("chat", Value::Text("CHAT"), "Let this chat in; may be repeated") },
                Opt {
                    many: true,
                    ..opt("sender", Value::Text("SENDER"), "Hear only these senders, in private, too; may be repeated")
                },
                flag("all-in-groups", "A local agent hears all that is said in groups"),
                opt("label", Value::Text("TEXT"), "What people call it"),
                opt("base-url", Value::Text("URL"), "Address of a Bot API server of one's own"),
            ],
            operands: Operands { synopsis: "[ID]", min: 0, max: 1, value: Value::Text("ID") },
            ..EMPTY
        },
        Command { name: "list", summary: "List them, and who wrote without being let in", options: &[JSON], ..EMPTY },
        Command { name: "remove", summary: "Remove one, with its token", operands: ID, ..EMPTY },
        Command {
            name: "test",
            summary: "Ask Telegram whether it knows the token",
            options: &[JSON],
            operands: ID,
            ..EMPTY
        },
    ],
    default_verb: Some("list"),
    ..EMPTY
};
