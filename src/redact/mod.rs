//! The one redactor, for every sink: logs, transcripts, error texts, process arguments, recorded blocks.
//!
//! A secret is recognised by the name it is given under (`token=…`, `"apiKey": "…"`, `--password …`, an
//! `Authorization` header), by its own shape (`sk-…`, `ghp_…`, a JSON web token), or because it was announced with
//! [`remember`]. What is hidden becomes [`HIDDEN`]; quotes, names and prefixes stay, so that a reader sees what was
//! there. When in doubt it hides: a log that lacks a word is repaired more easily than a leak.
//!
//! Everything here is linear in the length of the text. Redacting twice changes nothing.

mod names;
mod rules;

use std::borrow::Cow;
use std::sync::{PoisonError, RwLock};

use serde_json::{Map, Value};

use crate::text;

/// What stands in place of a secret.
pub const HIDDEN: &str = "[REDACTED]";

/// Shortest value, in bytes, that [`remember`] takes: shorter ones occur by chance.
pub const SHORTEST_SECRET: usize = 8;

/// How many live secrets are kept; the one remembered longest ago makes room for the next.
pub const MOST_SECRETS: usize = 256;

/// Longest argument that is shown, in UTF-16 units; of a longer one the end is kept.
const ARGUMENT_LIMIT: usize = 512;

/// Longest string of a recorded block, in UTF-16 units.
const BLOCK_STRING_LIMIT: usize = 16_384;

/// Elements of an array and keys of an object that a recorded block keeps.
const BLOCK_ELEMENTS: usize = 50;
const BLOCK_KEYS: usize = 80;

/// What a preview is made from, in UTF-16 units; several times its length, because it leaves out white space.
const PREVIEW_LIMIT: usize = 1_024;

/// How much more of a long text is read than will be shown, in UTF-16 units, so that a secret which straddles the
/// cut is still seen whole.
const SLACK: usize = 4_096;

static LIVE: RwLock<Live> = RwLock::new(Live(Vec::new()));

/// Announces a live credential of this process: from now on it is hidden wherever it occurs, whatever its shape.
///
/// Values of fewer than [`SHORTEST_SECRET`] bytes are ignored. At most [`MOST_SECRETS`] are kept.
pub fn remember(secret: &str) {
    LIVE.write().unwrap_or_else(PoisonError::into_inner).remember(secret);
}

/// The announced secrets, longest first, so that one which begins with another is hidden whole.
struct Live(Vec<Secret>);

struct Secret {
    value: String,
    /// When it was last announced, as a count.
    announced: u64,
}

impl Live {
    fn remember(&mut self, secret: &str) {
        let secret = secret.trim();
        // What stands in the replacement itself must stay there, or redacting twice would go wrong.
        if secret.len() < SHORTEST_SECRET || HIDDEN.contains(secret) {
            return;
        }
        let announced = self.0.iter().map(|s| s.announced + 1).max().unwrap_or(0);
        if let Some(known) = self.0.iter_mut().find(|s| s.value == secret) {
            known.announced = announced;
            return;
        }
        if self.0.len() >= MOST_SECRETS
            && let Some(oldest) = (0..self.0.len()).min_by_key(|i| self.0[*i].announced)
        {
            self.0.remove(oldest);
        }
        let place = self.0.partition_point(|s| s.value.len() >= secret.len());
        self.0.insert(place, Secret { value: secret.to_owned(), announced });
    }
}

/// The text without its secrets.
pub fn text(text: &str) -> String {
    redacted(text).into_owned()
}

/// [`text()`], of which the last `limit` UTF-16 units are kept.
pub fn text_tail(text: &str, limit: usize) -> String {
    text::tail(&redacted(text), limit).to_owned()
}

/// Arguments of a process as they may be shown: each redacted and at most 512 UTF-16 units, and the value after a
/// flag such as `--token` hidden whole. `None` when there are none.
pub fn argv(argv: &[String]) -> Option<Vec<String>> {
    if argv.is_empty() {
        return None;
    }
    let mut after_flag = false;
    let shown = argv.iter().map(|argument| {
        let shown = if after_flag { HIDDEN.to_owned() } else { text_tail(argument, ARGUMENT_LIMIT) };
        after_flag = names::is_secret_flag(argument);
        shown
    });
    Some(shown.collect())
}

/// A runtime's event as it may be recorded: values under telling keys hidden, strings redacted and cut, arrays cut
/// at 50 elements and objects at 80 keys.
pub fn block(value: &Value) -> Value {
    match value {
        Value::String(s) => Value::String(block_text(s)),
        Value::Array(elements) => {
            let mut after_flag = false;
            let shown = elements.iter().take(BLOCK_ELEMENTS).map(|element| {
                let shown = if after_flag { HIDDEN.into() } else { block(element) };
                after_flag = element.as_str().is_some_and(names::is_secret_flag);
                shown
            });
            Value::Array(shown.collect())
        }
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .take(BLOCK_KEYS)
                .map(|(key, value)| {
                    let shown = if names::is_telling_key(key) { HIDDEN.into() } else { block(value) };
                    (key.clone(), shown)
                })
                .collect::<Map<_, _>>(),
        ),
        plain => plain.clone(),
    }
}

/// A string of a block as it may be recorded: redacted, and cut at 16 384 UTF-16 units with `…` after it.
pub fn block_text(text: &str) -> String {
    let (mut shown, cut) = text_head(text, BLOCK_STRING_LIMIT);
    if cut {
        shown.push('…');
    }
    shown
}

/// [`text()`], of which the first `limit` UTF-16 units are kept, and whether something was cut. Of a text much longer
/// than the limit no more is read than has to be.
pub fn text_head(text: &str, limit: usize) -> (String, bool) {
    let window = text::head(text, limit.saturating_add(SLACK));
    let shown = redacted(window);
    if window.len() == text.len() {
        return text::truncate(&shown, limit);
    }
    // The window may end inside a secret, so its last units are not shown even where hiding has made it shorter.
    let sure = text::len_utf16(&shown).saturating_sub(SLACK).min(limit);
    (text::head(&shown, sure).to_owned(), true)
}

/// [`text::preview`] of the text without its secrets. Only the beginning is read, however long the text is.
pub fn preview(text: &str) -> String {
    text::preview(&text_head(text, PREVIEW_LIMIT).0)
}

fn redacted(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for secret in &LIVE.read().unwrap_or_else(PoisonError::into_inner).0 {
        if text.contains(&secret.value) {
            text = Cow::Owned(text.replace(&secret.value, HIDDEN));
        }
    }
    // What is hidden later takes none of them away that a rule after it needs to look for.
    let marks = rules::marks(&text);
    for rule in &rules::IN_ORDER {
        if let Some(hidden) = rules::apply(&text, rule, marks) {
            text = Cow::Owned(hidden);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_is_that_of_the_whole_text() {
        let secret = "token=abcdef ".repeat(4);
        for given in [secret.clone(), format!("{secret}{}", "word\n ".repeat(20_000)), "x".repeat(200_000)] {
            assert_eq!(preview(&given), crate::text::preview(&text(&given)));
            assert!(!preview(&given).contains("abcdef"));
        }
    }

    #[test]
    fn live_credentials_are_hidden_by_value() {
        remember("corrècthorse");
        remember("corrècthorse battery");
        assert_eq!(text("(corrècthorse battery) corrècthorse."), "([REDACTED]) [REDACTED].");
        remember("short");
        assert_eq!(text("short"), "short");
        remember("REDACTED");
        assert_eq!(text("REDACTED"), "REDACTED");
    }

    #[test]
    fn the_list_of_live_credentials_is_bounded() {
        let mut live = Live(Vec::new());
        live.remember("announced again and again");
        for n in 0..MOST_SECRETS * 2 {
            live.remember(&format!("credential {n}"));
            live.remember("announced again and again");
        }
        assert_eq!(live.0.len(), MOST_SECRETS);
        assert_eq!(live.0[0].value, "announced again and again");
        assert!(live.0.iter().all(|s| s.value != "credential 0"));
    }

    #[test]
    fn the_tail_is_taken_after_hiding() {
        assert_eq!(text_tail("token=abcdef", 4), "TED]");
    }

    #[test]
    fn arguments_after_a_flag_are_hidden_whole() {
        let given = ["x", "--bot-token", "a b", "--token", "--password", "p", "-c", "GH_TOKEN=q"].map(str::to_owned);
        let shown = argv(&given).unwrap();
        assert_eq!(shown, ["x", "--bot-token", HIDDEN, "--token", HIDDEN, HIDDEN, "-c", "GH_TOKEN=[REDACTED]"]);
    }

    #[test]
    fn blocks_are_cut_and_never_show_half_a_secret() {
        let long = "x ".repeat(BLOCK_STRING_LIMIT);
        let shown = block_text(&long);
        assert_eq!(text::len_utf16(&shown), BLOCK_STRING_LIMIT + 1);
        assert!(shown.ends_with('…'));

        let straddling = format!("{} --token {} end", "x".repeat(BLOCK_STRING_LIMIT - 12), "s".repeat(9_000));
        assert!(!block_text(&straddling).contains("ss"));

        let many = serde_json::json!({"list": vec![1; 60], "argv": ["--secret", "v"]});
        let shown = block(&many);
        assert_eq!(shown["list"].as_array().unwrap().len(), BLOCK_ELEMENTS);
        assert_eq!(shown["argv"][1], HIDDEN);
    }
}
