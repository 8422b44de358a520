//! Why a command did not do what it was asked: one line for people and an exit code.

use std::fmt;
use std::io;

use super::args::UsageError;
use super::exit::Exit;
use crate::config::edit::EditError;
use crate::config::{ConfigError, HomeError};
use crate::serve::client::ClientError;
use crate::serve::wire::ErrorKind;

/// A command that failed.
#[derive(Debug)]
pub struct Failure {
    /// With what status to leave.
    pub exit: Exit,
    /// What to say on standard error; nothing when empty.
    pub message: String,
}

impl Failure {
    /// A failure with status 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, message: message.into() }
    }

    /// A command line that makes no sense although each of its parts does.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    /// Nobody to ask.
    pub fn no_daemon() -> Self {
        Self {
            exit: Exit::Unreachable,
            message: "no daemon runs on this home; start one with: bellhop start --background".into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Self {
        Self::usage(error.0)
    }
}

impl From<HomeError> for Failure {
    fn from(error: HomeError) -> Self {
        match error {
            HomeError::Empty => Self::usage(error.to_string()),
            _ => Self::new(error.to_string()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<EditError> for Failure {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Config(error) => error.into(),
            other => Self::new(other.to_string()),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NoDaemon { .. } => Self::no_daemon(),
            // What was asked for does not exist or cannot be: as wrong as an unknown option.
            _ if matches!(error.kind(), Some(ErrorKind::BadRequest | ErrorKind::NotFound)) => {
                Self { exit: Exit::Usage, message: error.to_string() }
            }
            ClientError::Answered { .. } | ClientError::NotUnderstood(_) => Self::new(error.to_string()),
            _ => Self { exit: Exit::Unreachable, message: error.to_string() },
        }
    }
}

/// Writing to standard output failed. A reader that has seen enough (`bellhop logs | head`) is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { exit: Exit::Ok, message: String::new() };
        }
        Self::new(error.to_string())
    }
}
