//! What `send` and `chat` have in common: from options to a message, from a message to its end.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use crate::config::paths::{directory_conversation, expand_tilde, plain};
use crate::engine::ports::{TurnReport, TurnStatus};
use crate::serve::client::ClientError;
use crate::serve::wire::{AnswerApproval, Decision, ErrorKind, FromTurn, Submit};

/// The longest message from standard input, in bytes.
const TEXT_LIMIT: u64 = 4 << 20;

/// The message that the options describe, without its text.
pub fn from_options(args: &Parsed) -> Result<Submit, Failure> {
    let from = enclosing_turn();
    let chosen = args.text("cwd");
    let cwd = working_directory(chosen.as_deref())?;
    // An agent's conversation with another one is the same wherever it happens to work.
    let own = || from.is_none().then(|| directory_conversation(&cwd));
    let conversation = args.text("conversation").or_else(own);
    let files = args.all("file").iter().map(|f| attachment(f)).collect::<Result<_, _>>()?;
    Ok(Submit {
        agent: args.text("agent"),
        conversation,
        runtime: args.text("runtime"),
        cwd: chosen.is_some().then(|| cwd.clone()),
        typed_in: (chosen.is_none() && from.is_none()).then_some(cwd),
        from,
        new: args.flag("new"),
        files,
        ..Submit::default()
    })
}

/// The operands joined with spaces; for a single `-`, what standard input holds.
pub fn words(operands: &[String]) -> Result<String, Failure> {
    if operands != ["-"] {
        return Ok(operands.join(" "));
    }
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(TEXT_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::new(format!("standard input cannot be read: {e}")))?;
    if bytes.len() as u64 > TEXT_LIMIT {
        return Err(Failure::usage(format!(
            "standard input holds more than {TEXT_LIMIT} bytes; attach it with --file"
        )));
    }
    String::from_utf8(bytes).map_err(|_| Failure::usage("standard input is not UTF-8; attach it with --file"))
}

/// The turn in which this command was started, if an agent has started it.
fn enclosing_turn() -> Option<FromTurn> {
    let variable = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    Some(FromTurn { agent: variable("BELLHOP_AGENT")?, turn: variable("BELLHOP_TURN")? })
}

/// An existing directory, absolute.
pub fn working_directory(option: Option<&str>) -> Result<PathBuf, Failure> {
    let dir = match option {
        Some(dir) => absolute(&expand_tilde(dir))?,
        None => std::env::current_dir()
            .map_err(|e| Failure::new(format!("the current directory is not usable: {}", plain(&e))))?,
    };
    match std::fs::metadata(&dir) {
        Ok(meta) if meta.is_dir() => Ok(dir),
        Ok(_) => Err(Failure::usage(format!("--cwd: {} is not a directory", dir.display()))),
        Err(e) => Err(Failure::usage(format!("--cwd: {}: {}", dir.display(), plain(&e)))),
    }
}

/// An existing file, absolute; a relative path begins in the current directory.
pub fn attachment(file: &str) -> Result<PathBuf, Failure> {
    let path = absolute(&expand_tilde(file))?;
    let meta =
        std::fs::metadata(&path).map_err(|e| Failure::usage(format!("--file: {}: {}", path.display(), plain(&e))))?;
    if !meta.is_file() {
        return Err(Failure::usage(format!("--file: {} is not a file", path.display())));
    }
    Ok(path)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::usage(format!("{}: {}", path.display(), plain(&e))))
}

/// What `--approve` says: how tool calls that wait for permission are answered.
pub fn standing_answer(args: &Parsed) -> Option<AnswerApproval> {
    let decision = match args.text("approve")?.as_str() {
        "allow" => Decision::Allow,
        _ => Decision::Deny,
    };
    Some(AnswerApproval { decision, reason: None })
}

/// Why the end of an accepted message is not seen.
pub fn unseen(error: ClientError, conversation: &str) -> Failure {
    if error.kind() != Some(ErrorKind::NotFound) {
        return error.into();
    }
    Failure {
        exit: Exit::Unreachable,
        message: format!("{error}; what was said is in: bellhop transcript tail --conversation {conversation}"),
    }
}

/// The status with which a turn lets a command end.
pub fn exit_of(report: &TurnReport) -> Exit {
    match report.status {
        TurnStatus::Ok | TurnStatus::NoReply => Exit::Ok,
        TurnStatus::Timeout => Exit::Timeout,
        TurnStatus::Error | TurnStatus::Cancelled => Exit::Failed,
    }
}

/// What a turn that brought no reply is to a person; `None` for one that went well.
pub fn trouble(report: &TurnReport) -> Option<String> {
    let said = |what: &str| match &report.error {
        Some(error) => error.message.clone(),
        None => what.to_owned(),
    };
    let reference =
        report.error.as_ref().and_then(|e| e.error_ref.as_ref()).map_or(String::new(), |r| format!(" ({r})"));
    match report.status {
        TurnStatus::Ok | TurnStatus::NoReply => None,
        TurnStatus::Error => Some(format!("{}{reference}", said("the turn failed"))),
        TurnStatus::Cancelled => Some("the turn was cancelled".into()),
        TurnStatus::Timeout => Some(said("the turn ran out of time")),
    }
}
