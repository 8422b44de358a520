//! What `send` and `chat` have in common: from options to a message, from a message to its end.

use std::path::{Path, PathBuf};

use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use crate::config::paths::{directory_conversation, expand_tilde, plain};
use crate::engine::ports::{TurnReport, TurnStatus};
use crate::serve::wire::Submit;

/// The message that the options describe, without its text.
pub fn from_options(args: &Parsed) -> Result<Submit, Failure> {
    let cwd = working_directory(args.text("cwd").as_deref())?;
    let conversation = args.text("conversation").unwrap_or_else(|| directory_conversation(&cwd));
    let files = args.all("file").iter().map(|f| attachment(f)).collect::<Result<_, _>>()?;
    Ok(Submit {
        agent: args.text("agent"),
        conversation: Some(conversation),
        runtime: args.text("runtime"),
        cwd: Some(cwd),
        new: args.flag("new"),
        files,
        ..Submit::default()
    })
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

fn attachment(file: &str) -> Result<PathBuf, Failure> {
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
