//! Exit codes: the same for every command, so that scripts can tell a failed turn from a missing daemon.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked; a message was answered.
    Ok,
    /// It failed; the turn ended with an error.
    Failed,
    /// The command line or the configuration cannot be understood; nothing was done.
    Usage,
    /// No daemon answers, or it went away.
    Unreachable,
    /// The daemon is there and takes no messages; `status` alone ends so.
    Down,
    /// A sandbox's hub does not take its token any more; `start` alone ends so. The number is that of sysexits(3) for
    /// what may be tried again.
    Refused,
    /// The time limit ran out. The number is that of timeout(1).
    Timeout,
}

impl Exit {
    /// All of them with their meaning, for the manual.
    pub const ALL: &'static [(Self, &'static str)] = &[
        (Self::Ok, "Done; a message was answered (or, with --no-wait, accepted)."),
        (Self::Failed, "Failed: the turn ended with an error or was cancelled, a check found something broken."),
        (Self::Usage, "The command line or the configuration is wrong. Nothing was done."),
        (Self::Unreachable, "The daemon cannot be reached, or the connection to it was lost."),
        (
            Self::Refused,
            "start in a sandbox: for half an hour the hub has refused the token of this process, and no turn ran. Whoever \
             supervises it may start it again with another one.",
        ),
        (Self::Timeout, "The time limit of --timeout ran out, or the turn's own."),
    ];

    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage | Self::Down => 2,
            Self::Unreachable => 3,
            Self::Refused => 75,
            Self::Timeout => 124,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
