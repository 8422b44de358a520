//! An agent's wish to wait: instead of racing others for an answer it may ask to be woken again in a moment.
//!
//! The agent's tool writes a marker file; the engine takes it at the end of the turn and wakes the agent again
//! with the same message. Markers and counters are bounded, so that no agent can keep its queue waiting.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json;
use crate::message::{ConversationKind, Inbound};
use crate::store;

/// Longest single wait, and longest wait in a row, in milliseconds.
pub const WAIT_LIMIT_MS: i64 = 30_000;
/// How often a turn may be woken again in a row.
pub const WAITS_IN_A_ROW: u32 = 3;
/// Longest wait of one queue within an hour, in milliseconds.
pub const HOURLY_LIMIT_MS: i64 = 300_000;

/// Largest marker file that is read, in bytes.
const MARKER_BYTES: u64 = 16 * 1_024;
const HOUR_MS: i64 = 3_600_000;

/// Whether turns of this message may be parked: group rooms on gated channels, but not the owner's chat.
pub fn is_eligible(gated: bool, message: &Inbound) -> bool {
    gated && message.conversation.kind == ConversationKind::Group && !message.is_owner_chat()
}

/// Where the agent of a queue leaves its marker.
pub fn marker_path(cwd: &Path, queue_key: &str) -> PathBuf {
    cwd.join(marker_name(queue_key))
}

/// File name of a queue's marker: each UTF-16 unit outside `[A-Za-z0-9._-]` becomes `_`.
pub fn marker_name(queue_key: &str) -> String {
    let mut name = String::from(".botcord-wait.");
    for c in queue_key.chars() {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
            name.push(c);
        } else {
            (0..c.len_utf16()).for_each(|_| name.push('_'));
        }
    }
    name.push_str(".json");
    name
}

/// A wish to be woken at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Marker {
    /// When, in Unix milliseconds.
    pub deadline_ms: i64,
    /// Why, in the agent's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Marker {
    /// Reads a marker. `None` when it is not one or its time has come; a later time than [`WAIT_LIMIT_MS`] from
    /// now is cut to that.
    pub fn parse(content: &str, now: i64) -> Option<Self> {
        let value = json::parse(content.as_bytes()).ok()?;
        let deadline = value.as_object()?.get("deadlineMs")?.as_f64().filter(|n| n.is_finite())? as i64;
        let deadline_ms = deadline.min(now.saturating_add(WAIT_LIMIT_MS));
        let reason = value.get("reason").and_then(Value::as_str).map(str::to_owned);
        (deadline_ms > now).then_some(Self { deadline_ms, reason })
    }

    /// Reads the marker at `path` and removes the file, whatever is in it.
    pub fn take(path: &Path, now: i64) -> Option<Self> {
        let mut content = String::new();
        let read = store::open_regular(path).and_then(|f| f.take(MARKER_BYTES).read_to_string(&mut content));
        // A marker that stays behind would be taken for the wish of a later turn; the next turn tries again.
        let _ = fs::remove_file(path);
        read.ok()?;
        Self::parse(&content, now)
    }
}

/// What the agent's tool writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MarkerFile {
    /// When the agent wants to be woken, in Unix milliseconds.
    pub deadline_ms: i64,
    /// The length of the wait.
    pub seconds: u32,
    /// When this was written, in Unix milliseconds.
    pub written_at: i64,
    /// Why, in the agent's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl MarkerFile {
    /// A wish made at `now` for so many seconds.
    pub fn new(seconds: u32, reason: Option<String>, now: i64) -> Self {
        Self { deadline_ms: now.saturating_add(i64::from(seconds) * 1_000), seconds, written_at: now, reason }
    }
}

/// A length of wait that is no number above zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSeconds(
    /// What was given.
    pub String,
);

impl fmt::Display for BadSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no number of seconds: expected a number above 0 (at most 30 are waited)", self.0)
    }
}

impl std::error::Error for BadSeconds {}

/// Reads the length of a wait from a command line: any number above zero, rounded up to whole seconds, at most 30.
pub fn parse_seconds(argument: &str) -> Result<u32, BadSeconds> {
    let number: f64 = argument.trim().parse().map_err(|_| BadSeconds(argument.to_owned()))?;
    if !number.is_finite() || number <= 0.0 {
        return Err(BadSeconds(argument.to_owned()));
    }
    Ok(number.ceil().min((WAIT_LIMIT_MS / 1_000) as f64) as u32)
}

/// How much a queue has waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parked {
    /// Waits in a row.
    pub count: u32,
    /// Milliseconds waited in a row.
    pub total_ms: i64,
    /// Beginning of the hour being counted, in Unix milliseconds.
    pub hour_start: i64,
    /// Milliseconds waited in that hour.
    pub hour_ms: i64,
}

impl Parked {
    /// The end of a turn. `marker` is what the agent left, `None` too when the turn was cancelled or timed out.
    /// Returns how many milliseconds to wait before the same message is tried again, if at all.
    #[must_use]
    pub fn step(self, marker: Option<&Marker>, now: i64) -> (Self, Option<i64>) {
        let over = self.ended();
        let Some(marker) = marker else { return (over, None) };
        let hour_is_over = now < self.hour_start || now - self.hour_start >= HOUR_MS;
        let (hour_start, hour_ms) = if hour_is_over { (now, 0) } else { (self.hour_start, self.hour_ms) };
        if self.count >= WAITS_IN_A_ROW {
            return (over, None);
        }
        let wait = (marker.deadline_ms - now).min(WAIT_LIMIT_MS - self.total_ms).min(HOURLY_LIMIT_MS - hour_ms);
        if wait <= 0 {
            return (over, None);
        }
        let next = Self { count: self.count + 1, total_ms: self.total_ms + wait, hour_start, hour_ms: hour_ms + wait };
        (next, Some(wait))
    }

    /// A message has come, or a turn has ended without a wish: the row is over, the hour goes on.
    #[must_use]
    pub fn ended(self) -> Self {
        Self { count: 0, total_ms: 0, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(deadline_ms: i64) -> Marker {
        Marker { deadline_ms, reason: None }
    }

    #[test]
    fn a_row_of_waits_is_bounded_in_number_and_length() {
        let (mut parked, mut now) = (Parked::default(), 1_000_000);
        for _ in 0..3 {
            let (next, wait) = parked.step(Some(&wish(now + 5_000)), now);
            assert_eq!(wait, Some(5_000));
            (parked, now) = (next, now + 5_000);
        }
        let (parked, wait) = parked.step(Some(&wish(now + 5_000)), now);
        assert_eq!((wait, parked.count, parked.total_ms), (None, 0, 0));

        let (parked, _) = Parked::default().step(Some(&wish(25_000)), 0);
        let (parked, wait) = parked.step(Some(&wish(45_000)), 25_000);
        assert_eq!(wait, Some(5_000));
        assert_eq!(parked.step(Some(&wish(60_000)), 30_000).1, None);
    }

    #[test]
    fn an_hour_of_waits_is_bounded_too() {
        let mut parked = Parked::default();
        for n in 0..10 {
            let (next, wait) = parked.step(Some(&wish(n * 31_000 + 30_000)), n * 31_000);
            assert_eq!(wait, Some(30_000));
            parked = next.ended();
        }
        assert_eq!(parked.step(Some(&wish(400_000)), 390_000).1, None);
        assert_eq!(parked.step(Some(&wish(HOUR_MS + 5_000)), HOUR_MS).1, Some(5_000));
    }

    #[test]
    fn taking_a_marker_removes_it() {
        let dir = std::env::temp_dir().join(format!("bellhop-park-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = marker_path(&dir, "a:b");
        fs::write(&path, serde_json::to_string(&MarkerFile::new(8, Some("later".into()), 1_000)).unwrap()).unwrap();
        assert_eq!(Marker::take(&path, 2_000).unwrap().deadline_ms, 9_000);
        assert!(!path.exists() && Marker::take(&path, 2_000).is_none());
        let pipe = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(pipe.success() && Marker::take(&path, 2_000).is_none(), "nobody waits for a pipe");
        assert!(!path.exists());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_name_has_one_underscore_per_unit() {
        assert_eq!(marker_name("a/😀"), ".botcord-wait.a___.json");
    }
}
