//! Is it worth another try?

use crate::scan::{self, Cursor};
use crate::text::trim;

const WORDS: [&str; 17] = [
    "econnrefused",
    "econnreset",
    "etimedout",
    "eai_again",
    "epipe",
    "socket hangup",
    "socket hang up",
    "connection refused",
    "connection reset",
    "connection closed",
    "connection timed out",
    "stream disconnected before completion",
    "internal error",
    "bad gateway",
    "service unavailable",
    "gateway timeout",
    "temporarily unavailable",
];

/// HTTP statuses of servers that may answer the next time.
const STATUSES: [&str; 4] = ["500", "502", "503", "504"];

/// JSON-RPC's "internal error".
const RPC_INTERNAL: &str = "-32603";

/// What a number counts when it is no status. Singular and plural are both listed where both are used.
const UNITS: [&str; 62] = [
    "ms",
    "msec",
    "millisecond",
    "milliseconds",
    "s",
    "sec",
    "secs",
    "second",
    "seconds",
    "m",
    "min",
    "mins",
    "minute",
    "minutes",
    "h",
    "hour",
    "hours",
    "day",
    "days",
    "week",
    "weeks",
    "b",
    "byte",
    "bytes",
    "kb",
    "mb",
    "gb",
    "tb",
    "kib",
    "mib",
    "gib",
    "bits",
    "px",
    "em",
    "pt",
    "km",
    "token",
    "tokens",
    "char",
    "chars",
    "character",
    "characters",
    "word",
    "words",
    "line",
    "lines",
    "row",
    "rows",
    "item",
    "items",
    "file",
    "files",
    "message",
    "messages",
    "tests",
    "users",
    "requests",
    "times",
    "usd",
    "eur",
    "dollars",
    "cents",
];

/// Whether the text tells of a failure that passes by itself: a broken connection, an overloaded server.
///
/// A bare 500, 502, 503 or 504 counts, unless it is an amount (`$500`, `500 ms`, `1,500`).
pub fn is_transient(text: &str) -> bool {
    let text = trim(text);
    scan::cursors(text).any(|c| {
        c.word(&WORDS).is_some() || c.word(&STATUSES).is_some_and(|end| !is_amount(c, end)) || is_rpc_internal(c)
    })
}

/// The code as a token of its own; its minus sign is no word character, so that there is no word edge before it.
fn is_rpc_internal(c: Cursor<'_>) -> bool {
    let apart = !c.before().ends_with(|p: char| p.is_ascii_alphanumeric() || p == '_' || p == '-');
    apart && c.lit(RPC_INTERNAL).and_then(Cursor::edge).is_some()
}

/// Whether the number between the cursors is a sum of money, a measure, or a piece of a longer number.
fn is_amount(start: Cursor<'_>, end: Cursor<'_>) -> bool {
    let before = start.before();
    if before.ends_with(['$', '€', '£', '¥']) {
        return true;
    }
    if before.strip_suffix(['.', ',']).is_some_and(|p| p.ends_with(|c: char| c.is_ascii_digit())) {
        return true;
    }
    let after = end.rest();
    if after.starts_with(['%', '€', '°']) {
        return true;
    }
    if after.strip_prefix(['.', ',']).is_some_and(|p| p.starts_with(|c: char| c.is_ascii_digit())) {
        return true;
    }
    // One space or hyphen, as in `500 ms` and `500-line`.
    let unit = end.separator();
    unit.pos() > end.pos() && UNITS.iter().any(|u| unit.lit(u).and_then(Cursor::edge).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_count_and_amounts_do_not() {
        for yes in ["HTTP 500", "status=503.", "502", "error (504)", "500 server error", "HTTP/1.1 500, try later"] {
            assert!(is_transient(yes), "{yes}");
        }
        for no in ["took 500 ms", "$500", "500 tokens left", "1,500 of them", "500.5", "500-line file", "500%", "500s"]
        {
            assert!(!is_transient(no), "{no}");
        }
        assert!(is_transient("waited 500 ms, then HTTP 503"));
    }

    #[test]
    fn the_json_rpc_code_is_a_token() {
        for yes in ["-32603", "code: -32603", "(-32603)", "code=-32603,"] {
            assert!(is_transient(yes), "{yes}");
        }
        for no in ["-326031", "32603", "1-32603", "x-32603", "--32603"] {
            assert!(!is_transient(no), "{no}");
        }
    }
}
