//! The command line: a client of the control API, and nothing more.
//!
//! Knows `config` and `serve`'s wire and client; what it needs of the engine is behind [`host::Host`]. One file
//! per command. [`table`] holds every command and option once; [`args`] parses by it, [`help`], [`man`] and
//! [`completion`] print it. A command returns an [`exit::Exit`] or a [`failure::Failure`], never ends the process.

pub mod args;
pub mod exit;
pub mod help;
pub mod host;
pub mod log;
pub mod man;
pub mod table;

mod approve;
mod cancel;
mod chat;
mod completion;
mod config;
mod connect;
pub mod doctor;
mod failure;
mod gateway;
mod gateways;
mod hub_agents;
mod hub_login;
mod journal;
mod login;
mod logs;
mod machine;
mod memory;
mod message;
mod nearest;
mod output;
mod queue;
mod room;
mod route;
mod runtimes;
mod send;
mod service;
mod sessions;
mod signals;
mod start;
mod status;
mod stop;
pub mod stored;
mod terminal;
mod transcript;
mod usage;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use self::args::{Parsed, Request};
use self::exit::Exit;
use self::failure::Failure;
use self::host::Host;
use crate::config::{Config, Home, load};

pub use start::RESTARTED_VARIABLE;

/// What every command gets besides its arguments.
pub struct Context<'a> {
    /// The home that the options and variables name.
    pub home: Home,
    /// The rest of the program.
    pub host: &'a dyn Host,
}

impl Context<'_> {
    /// The configuration; its warnings go to standard error.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        // A home that cannot be used is the better reason.
        self.home.check()?;
        let config = load::load(&self.home.config())?;
        for warning in &config.warnings {
            output::complain(&format!("warning: {warning}"));
        }
        Ok(config)
    }
}

/// What `doctor` finds, as a document and for people.
pub(crate) fn diagnosis(context: &Context<'_>) -> (serde_json::Value, String) {
    doctor::diagnosis(context)
}

/// Runs a command line, beginning with the program's name.
pub fn main(args: impl IntoIterator<Item = OsString>, host: &dyn Host) -> ExitCode {
    let parsed = args::parse(as_called(args));
    if let Ok(Request::Run(parsed)) = &parsed {
        for word in parsed.ignored() {
            output::complain(&format!("{word:?} is ignored"));
        }
    }
    let done = match parsed {
        Ok(Request::Help(text)) => output::say(&text).map(|()| Exit::Ok).map_err(Failure::from),
        Ok(Request::Nothing(text)) => output::say(&text).map(|()| Exit::Failed).map_err(Failure::from),
        Ok(Request::Version) => output::say(&version()).map(|()| Exit::Ok).map_err(Failure::from),
        Ok(Request::Run(parsed)) if parsed.command.name == "start" => return start::main(&parsed, host),
        Ok(Request::Run(parsed)) => run(&parsed, host),
        Err(error) => Err(Failure::usage(format!("{error}\nbellhop: see: bellhop --help"))),
    };
    finish(done).into()
}

/// The name under which agents look for the commands of `bellhop room`.
const AGENTS_NAME: &str = "botcord";

/// The arguments without the program's name; `botcord send …` is `room send …`.
fn as_called(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let name = args.next().map(PathBuf::from).unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    if name.file_name().is_none_or(|name| name != AGENTS_NAME) {
        return rest;
    }
    match rest.first().and_then(|first| first.to_str()) {
        None => vec!["room".into(), "--help".into()],
        Some("--version" | "-V" | "version") => vec!["version".into()],
        Some("help") => std::iter::once("help".into()).chain(["room".into()]).chain(rest.into_iter().skip(1)).collect(),
        Some(_) => std::iter::once("room".into()).chain(rest).collect(),
    }
}

/// Says what went wrong.
fn finish(done: Result<Exit, Failure>) -> Exit {
    done.unwrap_or_else(|failure| {
        if !failure.message.is_empty() {
            output::complain(&failure.message);
        }
        failure.exit
    })
}

fn version() -> String {
    format!("bellhop {}", env!("CARGO_PKG_VERSION"))
}

fn run(args: &Parsed, host: &dyn Host) -> Result<Exit, Failure> {
    // These need no home, and must work where there is none.
    match args.command.name {
        "completions" => return Ok(print(completion::script(operand(args, "bash")))?),
        "man" => return Ok(print(man::page(operand(args, "bellhop.1")))?),
        _ => {}
    }
    let context = Context { home: Home::find(args.home.as_deref())?, host };
    match args.command.name {
        // These may run the engine, whose log belongs into the file and not between the lines of a conversation.
        "chat" | "send" => log::init(::log::LevelFilter::Info, false, Some(&context.home.log())),
        _ => log::init(::log::LevelFilter::Warn, true, None),
    }
    match args.command.name {
        "chat" => chat::run(args, &context),
        "send" => send::run(args, &context),
        "approve" => approve::run(args, &context),
        "cancel" => cancel::run(args, &context),
        "status" => status::run(args, &context),
        "queue" => queue::run(args, &context),
        "room" => room::run(args, &context),
        "journal" => journal::run(args, &context),
        "stop" => stop::run(args, &context),
        "logs" => logs::run(args, &context),
        "doctor" => doctor::run(args, &context),
        "route" => route::run(args, &context),
        "runtimes" => runtimes::run(args, &context),
        "config" => config::run(args, &context),
        "gateway" => gateway::run(args, &context),
        "service" => service::run(args, &context),
        "sessions" => sessions::run(args, &context),
        "transcript" => transcript::run(args, &context),
        "debug" => transcript::runtime_error(args, &context),
        "memory" => memory::run(args, &context),
        "usage" => usage::run(args, &context),
        name => Err(Failure::new(format!("{name} is in the table of commands, but nothing runs it"))),
    }
}

fn operand<'a>(args: &'a Parsed, default: &'a str) -> &'a str {
    args.operands.first().map_or(default, String::as_str)
}

fn print(text: Option<String>) -> std::io::Result<Exit> {
    match text {
        Some(text) => output::say(&text).map(|()| Exit::Ok),
        None => Ok(Exit::Usage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_call_the_program_by_another_name() {
        let called = |line: &str| {
            let args = as_called(line.split(' ').map(OsString::from));
            args.iter().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(called("/usr/bin/bellhop send x"), "send x");
        assert_eq!(called("/h/bin/botcord send --room rm_1 --text x"), "room send --room rm_1 --text x");
        assert_eq!(called("botcord memory"), "room memory");
        assert_eq!(called("botcord"), "room --help");
        assert_eq!(called("botcord help send"), "help room send");
        assert_eq!(called("botcord --version"), "version");
    }
}
