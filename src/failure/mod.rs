//! What a runtime's words tell about its failure.
//!
//! CLIs report failures as prose, sometimes as an ordinary reply. These matchers read that prose. They are for
//! results that carry no [`crate::engine::ports::ErrorClass`]; where an adapter knows the class, that decides.
//! All of them trim first, fold ASCII case, never match an empty text, and take time linear in its length.

mod auth;
mod readable;
mod reset;
mod transient;
mod usage;

pub use auth::is_auth_failure;
pub use readable::readable;
pub use reset::reset_time;
pub use transient::is_transient;
pub use usage::{is_usage_limit, label, usage_message, usage_reset_hint};

use crate::scan;

/// Whether a fresh session may help: the old one is unknown to the CLI or has become too long.
///
/// Broad on purpose. The caller must have a stored session and try at most once.
pub fn is_recoverable_session_failure(text: &str) -> bool {
    // `compact` covers `compaction`.
    const ANYWHERE: [&str; 7] =
        ["compact", "context", "token limit", "maximum context", "too many tokens", "conversation found", "resume"];
    let text = crate::text::trim(text);
    ANYWHERE.iter().any(|p| scan::contains(text, p)) || text.split(scan::ends_line).any(session_not_found)
}

/// Whether the disk, or the user's share of it, is full.
pub fn is_disk_full(text: &str) -> bool {
    ["no space left on device", "enospc", "disk quota exceeded", "edquot"].iter().any(|p| scan::contains(text, p))
}

fn session_not_found(line: &str) -> bool {
    scan::cursors(line).find_map(|c| c.lit("session ")).is_some_and(|c| scan::contains(c.rest(), "not found"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_session_is_told_on_one_line() {
        assert!(is_recoverable_session_failure("the Session 12 was not found"));
        assert!(!is_recoverable_session_failure("the session ended\nfile not found"));
        assert!(!is_recoverable_session_failure("not found: session 12"));
        assert!(!is_recoverable_session_failure("  "));
    }

    #[test]
    fn long_texts_are_no_burden() {
        let long = "API Error: 401 session you've hit your 5-hour rate limit reset at ".repeat(4_000);
        assert!(!is_auth_failure(&long));
        let _ = (is_usage_limit(&long), usage_reset_hint(&long), is_transient(&long));
        assert!(!is_recoverable_session_failure(&long));
    }
}
