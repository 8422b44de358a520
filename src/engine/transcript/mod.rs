//! Transcripts: what went through a room, one JSON object a line, for people who want to know what happened.
//!
//! `agents/<agent>/transcripts/<room>/<topic or _default>.jsonl`, directories 0700, files 0600. The engine only
//! writes them, and a failure to write never touches a turn; the command line only reads and prunes them. Nothing
//! is synced: a transcript may lose its last lines in a power cut, the journal may not.

mod failure;
mod history;
mod parts;
mod paths;
mod read;
mod record;
mod writer;

pub use failure::{FailureFacts, RuntimeFailure};
pub use paths::{file, is_rotated, segment};
pub use read::{
    ErrorSelector, Follow, FoundError, RoomFiles, TopicFile, files, find_error, list, locate, prune, prune_all, tail,
};
pub use record::{
    BlockSummary, Body, Delivery, DropReason, OutboundFacts, Record, Sender, TEXT_LIMIT, Trace, Truncated,
    TurnErrorPhase, timestamp,
};
pub use writer::{FILE_LIMIT, RETENTION, SWEEP_PERIOD, Writer};
