//! Is a quota used up, and when does it come back?

use crate::scan::{self, Cursor, ends_line};
use crate::text::{clip, trim};
use crate::time;

/// Longest reset hint that is repeated to people, in UTF-16 units; what is longer is no time.
const HINT_LIMIT: usize = 120;

/// Whether the text says that the provider's quota is used up.
pub fn is_usage_limit(text: &str) -> bool {
    scan::cursors(trim(text)).any(|c| {
        usage_limit_reached(c).is_some()
            || hour_limit(c).is_some()
            || you_have_hit(c).is_some()
            || c.word(&["insufficient_quota", "quota exceeded", "quota exhausted", "quota reached"]).is_some()
            || rate_limited(c).is_some()
    })
}

/// `usage limit reached`, `usage_limit_reached`, `usage-limit-reached`, `usagelimitreached`.
fn usage_limit_reached(c: Cursor<'_>) -> Option<Cursor<'_>> {
    c.lit("usage")?.separator().lit("limit")?.separator().lit("reached")
}

/// `5-hour limit`, `5-hour message limit`.
fn hour_limit(c: Cursor<'_>) -> Option<Cursor<'_>> {
    let digits = c.edge()?;
    let end = digits.run(|c| c.is_ascii_digit());
    if end.pos() == digits.pos() {
        return None;
    }
    end.lit("-hour ")?.opt("message ").lit("limit")?.edge()
}

/// `you've hit your usage limit`, with either apostrophe or none, and with any of the words for the kind of limit.
fn you_have_hit(c: Cursor<'_>) -> Option<Cursor<'_>> {
    let mut c = c.one_of(&["you've ", "you\u{2019}ve ", "youve "])?.one_of(&["hit", "reached"])?.lit(" your ")?;
    while let Some(next) = c.one_of(&["usage ", "message ", "daily ", "weekly "]) {
        c = next;
    }
    c.lit("limit")
}

/// `rate limited`, `rate_limit_error`, `rate limit exceeded`; the bare noun says nothing yet.
fn rate_limited(c: Cursor<'_>) -> Option<Cursor<'_>> {
    let c = c.edge()?.lit("rate")?.separator().lit("limit")?;
    let joined = c.opt("_").one_of(&["exceeded", "error"]);
    joined.or_else(|| c.lit("ed")).or_else(|| c.space()?.one_of(&["reached", "exceeded", "hit"]))
}

/// When the quota comes back, in the provider's words: `2pm (Europe/Berlin)`, `in 3h 42m`, `2024-06-25 20:00 UTC`.
pub fn usage_reset_hint(text: &str) -> Option<String> {
    let text = trim(text);
    let first = |rule: fn(Cursor<'_>) -> Option<String>| scan::cursors(text).find_map(rule);
    first(reset_at).or_else(|| first(try_again)).or_else(|| first(epoch))
}

/// `resets at approximately 11 PM Berlin time.`
fn reset_at(c: Cursor<'_>) -> Option<String> {
    let c = c.one_of(&["resetting", "resets", "reset"])?.space()?.lit("at")?.space()?.opt("approximately ");
    let phrase = phrase(c)?;
    let bare = phrase
        .len()
        .checked_sub(" time".len())
        .filter(|cut| *cut > 0 && phrase.get(*cut..).is_some_and(|end| end.eq_ignore_ascii_case(" time")));
    Some(bare.and_then(|cut| phrase.get(..cut)).unwrap_or(&phrase).to_owned())
}

/// `try again in 3h 42m`, `try again after 5 minutes`.
fn try_again(c: Cursor<'_>) -> Option<String> {
    let c = c.lit("try again ")?.one_of(&["in", "after"])?.space()?;
    Some(format!("in {}", phrase(c)?))
}

/// What stands between here and the next full stop, comma or line end, with its white space collapsed.
fn phrase(c: Cursor<'_>) -> Option<String> {
    // Past the limit there is nothing to be found; the bound keeps a text of many such beginnings linear.
    let near = crate::text::head(c.rest(), HINT_LIMIT * 2);
    let end = near.find(|c| c == '.' || c == ',' || ends_line(c)).unwrap_or(near.len());
    let words = near[..end].split_whitespace().collect::<Vec<_>>().join(" ");
    (!words.is_empty()).then(|| clip(&words, HINT_LIMIT))
}

/// `limit reached|1719345600`: seconds, or milliseconds when there are 13 digits.
fn epoch(c: Cursor<'_>) -> Option<String> {
    let c = c.lit("reached")?.spaces().lit("|")?.spaces();
    let run = c.until(c.run(|c| c.is_ascii_digit()));
    let digits = run.get(..run.len().min(13))?;
    let number: i64 = digits.parse().ok()?;
    let at = match digits.len() {
        13 => number,
        10..=12 => number * 1000,
        _ => return None,
    };
    (at <= time::LAST).then(|| time::to_the_minute(at))
}

/// What a person is told in place of the provider's text. `runtime` is a runtime id; an unknown or empty one is
/// called "Agent runtime".
pub fn usage_message(text: &str, runtime: &str) -> String {
    let label = label(runtime);
    match usage_reset_hint(text) {
        Some(hint) if hint.starts_with("in ") => format!("{label} usage limit reached — resets {hint}."),
        Some(hint) => format!("{label} usage limit reached — resets at {hint}."),
        None => format!("{label} usage limit reached — please try again later."),
    }
}

/// What people call a runtime.
pub fn label(runtime: &str) -> &'static str {
    match runtime {
        "claude-code" | "claude" => "Claude Code",
        "codex" => "Codex",
        "gemini" => "Gemini",
        _ => "Agent runtime",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_used_up_quota_is_known() {
        for yes in [
            "You\u{2019}ve hit your weekly limit",
            "youve reached your daily message limit",
            "rate-limit error_ rate limited",
            "rate_limit_error",
            "ratelimit  exceeded",
            "5-hour limit reached",
            "usage-limit reached",
        ] {
            assert!(is_usage_limit(yes), "{yes}");
        }
        for no in ["rate limit", "accurate limited", "you've hit your head", "-hour limit", "a5-hour limit"] {
            assert!(!is_usage_limit(no), "{no}");
        }
    }

    #[test]
    fn hints_are_read_and_bounded() {
        assert_eq!(usage_reset_hint("resets at  9\u{a0}AM \nx").as_deref(), Some("9 AM"));
        assert_eq!(usage_reset_hint("limit reached | 1719345600000").as_deref(), Some("2024-06-25 20:00 UTC"));
        assert_eq!(usage_reset_hint("limit reached|123"), None);
        assert_eq!(usage_reset_hint("limit reached|999999999999"), None, "beyond the calendar");
        let long = usage_reset_hint(&format!("reset at {}", "x".repeat(5_000))).unwrap();
        assert_eq!(crate::text::len_utf16(&long), HINT_LIMIT + 1);
    }
}
