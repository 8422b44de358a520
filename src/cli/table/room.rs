//! The commands of agents: `bellhop room`, which is also `botcord`.

use super::{Command, EMPTY, JSON, Operands, Opt, SECTION, Value, flag, opt};

const TO_ROOM: Opt = opt("room", Value::Text("ROOM"), "This room instead of the turn's");
const TITLE: Opt = opt("topic", Value::Text("TITLE"), "In this topic of the room");
const TEXT: Opt = opt("text", Value::Text("TEXT"), "The text, instead of TEXT");
const ATTACH: Opt = Opt { many: true, ..opt("file", Value::File, "Send this file along; may be repeated") };
const MENTION: Opt =
    Opt { many: true, ..opt("mention", Value::Text("ID"), "Whom it is for, or @all; may be repeated") };
const REPLY_TO: Opt = opt("reply-to", Value::Text("ID"), "The message that it quotes");
const MOST: Opt = Opt { default: Some("20"), ..opt("limit", Value::Number("COUNT"), "At most so many, up to 50") };
const WORDS: Operands = Operands { synopsis: "[TEXT|-]", min: 0, max: usize::MAX, value: Value::Text("TEXT") };

/// The command.
pub(super) const ROOM: Command = Command {
    name: "room",
    summary: "Speak for oneself: for agents, inside a turn",
    details: &[
        "The agent of a turn sends messages, asks about rooms and looks after its memory. Who it is comes from the \
         environment of the turn (BELLHOP_ROOM_TOKEN, BELLHOP_HOME); outside a turn, or after its end, nothing is \
         done. Every turn finds bellhop on its PATH, and under the name botcord too: botcord VERB is bellhop room \
         VERB.",
        "What is sent is kept on disk before it goes out and is delivered also if the daemon dies; the command \
         waits for that, for 20 seconds at most, and prints the message's id. The same words to the same room are \
         sent once for each message that the turn answers: a command that is repeated prints the first one's id. \
         Without --room the room of the turn is meant; any room of the agent's own account can be named, and its \
         far side decides. Files come from the turn's directory, hidden ones excepted.",
        "Ends with status 0 when it is done (a message is delivered, or kept for delivery), 1 when it was refused \
         or given up, 2 when the command line is wrong, 3 when the daemon cannot be reached.",
    ],
    verbs: &[
        Command {
            name: "send",
            summary: "Send a message to a room",
            options: &[TO_ROOM, TITLE, TEXT, ATTACH, MENTION, REPLY_TO, JSON],
            operands: WORDS,
            ..EMPTY
        },
        Command {
            name: "reply",
            summary: "Answer in the room of the turn, quoting the message that is answered",
            options: &[TEXT, ATTACH, MENTION, JSON],
            operands: WORDS,
            ..EMPTY
        },
        Command {
            name: "upload",
            summary: "Upload a file of the turn's directory and print its URL",
            options: &[JSON],
            operands: Operands { synopsis: "FILE", min: 1, max: 1, value: Value::File },
            ..EMPTY
        },
        Command {
            name: "history",
            summary: "Print the latest messages of a room, oldest first",
            options: &[TO_ROOM, TITLE, opt("before", Value::Text("ID"), "Only those before this message"), MOST, JSON],
            ..EMPTY
        },
        Command { name: "members", summary: "List the members of a room", options: &[TO_ROOM, JSON], ..EMPTY },
        Command { name: "info", summary: "Describe a room", options: &[TO_ROOM, JSON], ..EMPTY },
        Command { name: "list", summary: "List the agent's rooms", options: &[MOST, JSON], ..EMPTY },
        Command { name: "topics", summary: "List the topics of a room", options: &[TO_ROOM, JSON], ..EMPTY },
        Command {
            name: "search",
            summary: "Search all rooms of the agent, or one, for messages with these words",
            options: &[TO_ROOM, MOST, JSON],
            operands: Operands { synopsis: "WORD...", min: 1, max: 10, value: Value::Text("WORD") },
            ..EMPTY
        },
        Command {
            name: "memory",
            summary: "Look at or change the agent's working memory, as JSON",
            details: &[
                "get prints it (the default); goal TEXT sets the goal, goal --clear removes it; set TEXT sets a \
                 section; clear-section removes one; clear removes all.",
            ],
            options: &[
                Opt { default: Some("notes"), ..SECTION },
                opt("file", Value::File, "Take the text from this file"),
                flag("clear", "Remove the goal"),
                JSON,
            ],
            operands: Operands {
                synopsis: "[get|goal|set|clear-section|clear [TEXT]]",
                min: 0,
                max: usize::MAX,
                value: Value::Text("ACTION"),
            },
            ..EMPTY
        },
        Command {
            name: "notify-owner",
            summary: "Show the agent's owner a notice",
            options: &[TEXT, JSON],
            operands: WORDS,
            ..EMPTY
        },
        Command {
            name: "wait",
            summary: "Ask to be woken again after 1 to 30 seconds; then end the turn",
            options: &[opt("reason", Value::Text("TEXT"), "Why")],
            operands: Operands { synopsis: "SECONDS", min: 1, max: 1, value: Value::Text("SECONDS") },
            ..EMPTY
        },
    ],
    ..EMPTY
};
