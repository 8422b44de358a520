//! Is the CLI not logged in, or its key refused?

use crate::scan::{self, Cursor, ends_line};
use crate::text::trim;

/// How such a text begins.
const LEADS: [&str; 6] = [
    "failed to authenticate",
    "authentication failed",
    "invalid api key",
    "invalid anthropic api key",
    "unauthorized",
    "forbidden",
];

/// What never means anything else, wherever it stands.
const ANYWHERE: [&str; 2] = ["request not allowed", "invalid x-api-key"];

/// What makes a status of 401 or 403 on the same line a refusal of the credentials.
const REASONS: [&str; 7] = [
    "invalid authentication credentials",
    "authentication failed",
    "invalid api key",
    "unauthorized",
    "forbidden",
    "request not allowed",
    "invalid x-api-key",
];

/// Whether the text says that the runtime is not logged in or that its key is refused.
///
/// For errors and for reply texts alike, since CLIs print such failures as ordinary output. Prose that merely
/// speaks of failed authentication does not match.
pub fn is_auth_failure(text: &str) -> bool {
    let text = trim(text);
    let start = Cursor::start(text);
    LEADS.iter().any(|lead| start.lit(lead).and_then(Cursor::edge).is_some())
        || scan::contains_word(text, &ANYWHERE)
        || refused_status(text)
}

/// `API Error: 401 … <reason>` on one line; white space before the status may include line ends.
fn refused_status(text: &str) -> bool {
    // A line that was searched from an earlier status need not be searched again from a later one.
    let mut searched = 0;
    for status_end in scan::cursors(text).filter_map(status) {
        if status_end.pos() < searched {
            continue;
        }
        let line_end = status_end.run(|c| !ends_line(c));
        searched = line_end.pos().max(status_end.pos() + 1);
        // With the status before it, so that an edge right at the status is seen as one.
        let tail = &line_end.before()[status_end.pos()..];
        if scan::contains_word(tail, &REASONS) {
            return true;
        }
    }
    false
}

fn status(c: Cursor<'_>) -> Option<Cursor<'_>> {
    c.edge()?.lit("api error")?.opt(":").spaces().one_of(&["401", "403"])?.edge()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_line_is_searched_again() {
        assert!(is_auth_failure("API Error: 401 x API Error:\n403 Forbidden"));
        assert!(!is_auth_failure("API Error: 401 x\nForbidden"));
    }
}
