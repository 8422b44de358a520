//! The rules of redaction, each a matcher at one position, applied one after the other to the whole text.
//!
//! Their order matters: quoted pairs come first, so that a looser rule cannot take a name for the value of another
//! and leave the real value standing.

use std::ops::Range;

use super::HIDDEN;
use super::names::{is_name_byte, is_secret_flag, is_secret_name};
use crate::scan::{Cursor, is_space};

/// What a rule finds at a position.
pub(super) enum Found {
    /// These bytes are to be hidden; the search goes on after them.
    Secret(Range<usize>),
    /// Nothing up to this position, which is further on; the search goes on there. Keeps the search linear.
    NothingBefore(usize),
}

use Found::{NothingBefore, Secret};

/// A rule: with which bytes a finding may begin, what is found at a position with such a byte, and [`marks`] of which
/// every finding has one.
pub(super) struct Rule {
    begins: fn(u8) -> bool,
    find: for<'a> fn(Cursor<'a>) -> Found,
    needs: u8,
}

const COLON: u8 = 1;
const EQUALS: u8 = 2;
const COMMA: u8 = 4;
const DASH: u8 = 8;
const UNDERSCORE: u8 = 16;
const DOT: u8 = 32;
const SMALL_Z: u8 = 64;

/// Which telling characters a text has. Most texts have few: one look at them saves most rules the search.
pub(super) fn marks(text: &str) -> u8 {
    let mark = |b: u8| match b {
        b':' => COLON,
        b'=' => EQUALS,
        b',' => COMMA,
        b'-' => DASH,
        b'_' => UNDERSCORE,
        b'.' => DOT,
        b'z' => SMALL_Z,
        _ => 0,
    };
    text.bytes().fold(0, |marks, b| marks | mark(b))
}

/// All rules, in the order in which they are applied.
pub(super) const IN_ORDER: [Rule; 8] = [
    Rule { begins: is_quote, find: quoted_pair, needs: COLON },
    Rule { begins: is_quote, find: quoted_flag, needs: COMMA },
    Rule { begins: |b| matches!(b, b'a' | b'A'), find: authorization, needs: COLON | EQUALS },
    Rule { begins: |b| b == b'-', find: flag_and_value, needs: DASH },
    Rule { begins: is_name_byte, find: assignment, needs: COLON | EQUALS },
    // `AIza` is the one prefix that ends in a letter.
    Rule {
        begins: |b| matches!(b, b'd' | b'g' | b's' | b'x' | b'h' | b'A'),
        find: known_prefix,
        needs: DASH | UNDERSCORE | SMALL_Z,
    },
    Rule { begins: is_name_byte, find: web_token, needs: DOT },
    Rule { begins: |b| b == b':', find: url_password, needs: COLON },
];

/// The text with everything hidden that the rule finds; `None` when it finds nothing. `marks`: those of the text.
pub(super) fn apply(text: &str, rule: &Rule, marks: u8) -> Option<String> {
    if rule.needs & marks == 0 {
        return None;
    }
    let mut out = String::new();
    let mut kept = 0;
    let mut at = 0;
    while let Some(begin) = text.as_bytes()[at..].iter().position(|b| (rule.begins)(*b)) {
        let begin = at + begin;
        at = match (rule.find)(Cursor::at(text, begin)) {
            Secret(found) if found.end > begin => {
                if &text[found.clone()] != HIDDEN {
                    out.push_str(&text[kept..found.start]);
                    out.push_str(HIDDEN);
                    kept = found.end;
                }
                found.end
            }
            NothingBefore(next) if next > begin => next,
            // Every byte that a finding begins with is a character.
            _ => begin + 1,
        };
    }
    (kept > 0).then(|| {
        out.push_str(&text[kept..]);
        out
    })
}

fn is_quote(b: u8) -> bool {
    matches!(b, b'\\' | b'"' | b'\'')
}

/// `"token": "…"`, `'password':'…'`, and the same inside a JSON string (`\"token\":\"…\"`).
fn quoted_pair(c: Cursor<'_>) -> Found {
    quoted(c, ':', is_secret_name)
}

/// `"--token", "…"`, as an argument list prints in JSON.
fn quoted_flag(c: Cursor<'_>) -> Found {
    quoted(c, ',', is_secret_flag)
}

fn quoted(c: Cursor<'_>, between: char, tells: fn(&str) -> bool) -> Found {
    let next = NothingBefore(c.skip().pos());
    let Some(open) = Quote::open(c) else { return next };
    let name_end = open.inside.run(is_name_char);
    let past_name = NothingBefore(name_end.pos());
    let Some(after) = open.close(name_end) else { return past_name };
    if !tells(open.inside.until(name_end)) {
        return past_name;
    }
    let c = after.spaces();
    if c.peek() != Some(between) {
        return past_name;
    }
    match Quote::open(c.skip().spaces()) {
        Some(value) => Secret(value.contents()),
        None => past_name,
    }
}

/// `Authorization: Bearer …` with any scheme, as a header line or as a JSON field.
fn authorization(c: Cursor<'_>) -> Found {
    let next = NothingBefore(c.skip().pos());
    let value = || {
        let c = c.edge()?.lit("authorization")?.run(|c| matches!(c, '\\' | '"' | '\'')).spaces();
        let c = c.one_of(&[":", "="])?.spaces().run(|c| matches!(c, '\\' | '"' | '\''));
        c.one_of(&["bearer", "basic", "token", "bot", "digest"])?.space()
    };
    let Some(value) = value() else { return next };
    secret_run(value).unwrap_or(next)
}

/// `--token=…` and `--token …` at the beginning or after white space.
fn flag_and_value(c: Cursor<'_>) -> Found {
    let here = c.lit("--").filter(|_| c.before().chars().next_back().is_none_or(is_space));
    let Some(name) = here else { return NothingBefore(c.skip().pos()) };
    let end = name.run(is_name_char);
    let past_name = NothingBefore(end.pos());
    if !is_secret_name(name.until(end)) {
        return past_name;
    }
    let value = end.lit("=").or_else(|| end.space());
    value.and_then(value_here).unwrap_or(past_name)
}

/// `token: …`, `api_key=…`, `GITHUB_TOKEN='…'`.
fn assignment(c: Cursor<'_>) -> Found {
    let end = c.run(is_name_char);
    if end.pos() == c.pos() {
        return NothingBefore(c.skip().pos());
    }
    // Whole names only: the search never stops inside one.
    let past_name = NothingBefore(end.pos());
    if !is_secret_name(c.until(end)) {
        return past_name;
    }
    let value = end.spaces().one_of(&[":", "="]).map(Cursor::spaces);
    value.and_then(value_here).unwrap_or(past_name)
}

/// Tokens that their issuer begins with a prefix; the prefix stays.
fn known_prefix(c: Cursor<'_>) -> Found {
    const PREFIXES: [&str; 16] = [
        "drt_",
        "dit_",
        "gho_",
        "ghp_",
        "ghs_",
        "ghu_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "sk-",
        "xoxb-",
        "xoxp-",
        "xapp-",
        "xoxa-",
        "hf_",
        "AIza",
    ];
    let next = NothingBefore(c.skip().pos());
    // The edge first: it is one look, and most letters stand inside a word.
    let Some(rest) = c.edge().map(Cursor::rest) else { return next };
    let Some(prefix) = PREFIXES.iter().find(|p| rest.starts_with(*p)) else { return next };
    let value = Cursor::at(c.whole(), c.pos() + prefix.len());
    let end = value.run(is_name_char);
    if end.pos() == value.pos() { next } else { Secret(value.pos()..end.pos()) }
}

/// A JSON web token: base64url parts joined by dots, the first of which begins with `eyJ` (`{"`).
fn web_token(c: Cursor<'_>) -> Found {
    let end = c.run(|c| is_name_char(c) || c == '.');
    if end.pos() == c.pos() {
        return NothingBefore(c.skip().pos());
    }
    let run = c.until(end);
    let nothing = NothingBefore(end.pos());
    let Some(start) = run.find("eyJ") else { return nothing };
    let mut parts = run[start..].split('.');
    // Two more parts follow the header; that of a signature may be empty.
    let long = |p: Option<&str>, least: usize| p.is_some_and(|p| p.len() >= least);
    if long(parts.next(), 10) && long(parts.next(), 4) && parts.next().is_some() {
        Secret(c.pos() + start..end.pos())
    } else {
        nothing
    }
}

/// `https://user:password@host`: the password.
fn url_password(c: Cursor<'_>) -> Found {
    let next = NothingBefore(c.skip().pos());
    let Some(authority) = c.lit("://") else { return next };
    let end = authority.run(|c| !is_space(c) && !matches!(c, '/' | '?' | '#' | '"' | '\'' | '<' | '>'));
    let nothing = NothingBefore(end.pos().max(authority.pos()));
    let Some((user_info, _)) = authority.until(end).rsplit_once('@') else { return nothing };
    match user_info.split_once(':') {
        Some((user, password)) if !password.is_empty() => {
            let start = authority.pos() + user.len() + 1;
            Secret(start..start + password.len())
        }
        _ => nothing,
    }
}

/// A value in quotes, or a run without white space and quotes.
fn value_here(c: Cursor<'_>) -> Option<Found> {
    match Quote::open(c) {
        Some(value) => Some(Secret(value.contents())),
        None => secret_run(c),
    }
}

fn secret_run(c: Cursor<'_>) -> Option<Found> {
    let end = c.run(|c| !is_space(c) && c != '"' && c != '\'');
    (end.pos() > c.pos()).then(|| Secret(c.pos()..end.pos()))
}

fn is_name_char(c: char) -> bool {
    u8::try_from(c).is_ok_and(is_name_byte)
}

/// Longest quoted secret, in characters: how far a closing quote is looked for.
const LONGEST_QUOTED: usize = 65_536;

/// An opening quote with the backslashes before it, which tell how deep it is nested in other quotes.
struct Quote<'a> {
    mark: char,
    depth: usize,
    inside: Cursor<'a>,
}

impl<'a> Quote<'a> {
    fn open(c: Cursor<'a>) -> Option<Self> {
        // Seen from the middle of its backslashes, a quote would look less deep than it is.
        if c.before().ends_with('\\') {
            return None;
        }
        let slashes = c.run(|c| c == '\\');
        let mark = slashes.peek().filter(|m| *m == '"' || *m == '\'')?;
        Some(Self { mark, depth: slashes.pos() - c.pos(), inside: slashes.skip() })
    }

    /// Past the closing quote, if it stands here.
    fn close(&self, c: Cursor<'a>) -> Option<Cursor<'a>> {
        let slashes = c.run(|c| c == '\\');
        (slashes.pos() - c.pos() == self.depth && slashes.peek() == Some(self.mark)).then(|| slashes.skip())
    }

    /// What is inside, up to the closing quote, or to the end of the line where the text was cut before it.
    fn contents(&self) -> Range<usize> {
        let start = self.inside.pos();
        let text = self.inside.rest();
        let mut slashes = 0;
        for (at, c) in text.char_indices().take(LONGEST_QUOTED) {
            if c == self.mark && self.closes_after(slashes) {
                return start..start + at - self.depth;
            }
            slashes = if c == '\\' { slashes + 1 } else { 0 };
        }
        start..start + text.find('\n').unwrap_or(text.len())
    }

    /// Whether a quote after so many backslashes is the closing one. Outside of other quotes an even number of them
    /// are backslashes of the value; deeper inside only the depth of the opening quote is sure.
    fn closes_after(&self, slashes: usize) -> bool {
        if self.depth == 0 { slashes.is_multiple_of(2) } else { slashes == self.depth }
    }
}

#[cfg(test)]
mod tests {
    use crate::redact::text;

    #[track_caller]
    fn check(given: &str, expected: &str) {
        assert_eq!(text(given), expected);
        assert_eq!(text(expected), expected, "a second time");
    }

    #[test]
    fn environment_assignments_are_hidden() {
        check(
            "GITHUB_TOKEN=a SSH_KEY=b my_secret=c DB_PASSWORD=d",
            "GITHUB_TOKEN=[REDACTED] SSH_KEY=[REDACTED] \
            my_secret=[REDACTED] DB_PASSWORD=[REDACTED]",
        );
        check("export API_KEY='a b' X", "export API_KEY='[REDACTED]' X");
        check("_TOKEN=a", "_TOKEN=[REDACTED]");
        check("max_tokens=5 sort-key: x", "max_tokens=5 sort-key: x");
    }

    #[test]
    fn nested_json_is_hidden() {
        check(r#"{\"token\":\"a\\\"b\",\"n\":1}"#, r#"{\"token\":\"[REDACTED]\",\"n\":1}"#);
        check(r#"{"clientSecret": "a\\", "n": "b"}"#, r#"{"clientSecret": "[REDACTED]", "n": "b"}"#);
        check(r#"{"a": "x", "apiKey":"cut of"#, r#"{"a": "x", "apiKey":"[REDACTED]"#);
        check(r#"{"Authorization":"Bearer abc","n":1}"#, r#"{"Authorization":"Bearer [REDACTED]","n":1}"#);
    }

    #[test]
    fn a_name_is_not_taken_for_the_value_of_another() {
        check(r#"secret: "api_key":"v""#, r#"secret: "[REDACTED]":"[REDACTED]""#);
        check("token: --password v", "token: [REDACTED] [REDACTED]");
    }

    #[test]
    fn web_tokens_are_hidden_wherever_they_stand() {
        check("got (eyJhbGciOiJI.eyJzdWIi.c2ln-_x) back", "got ([REDACTED]) back");
        check("eyJ eyJhbGciOiJI.com", "eyJ eyJhbGciOiJI.com");
    }

    #[test]
    fn passwords_in_urls_are_hidden() {
        check("https://u:p@ss@h/x?y=a@b:c", "https://u:[REDACTED]@h/x?y=a@b:c");
        check("http://h:80/a@b", "http://h:80/a@b");
    }

    #[test]
    fn no_rule_is_left_out_that_would_find_something() {
        for given in [
            r#"{"token":"a"}"#,
            r#"["--token", "a"]"#,
            "Authorization: Bearer a",
            "Authorization=Basic a",
            "--password a",
            "token=a",
            "token : a",
            "drt_a",
            "glpat-a",
            "sk-a",
            "xoxb-a",
            "hf_a",
            "AIzaSyA",
            "eyJhbGciOiJI.eyJzdWIi.c2ln",
            "https://u:p@h/",
        ] {
            let searched = super::IN_ORDER
                .iter()
                .fold(given.to_owned(), |text, rule| super::apply(&text, rule, u8::MAX).unwrap_or(text));
            assert!(searched.contains(super::HIDDEN), "{given}");
            check(given, &searched);
        }
    }

    #[test]
    fn prefixes_stay_and_need_a_word_edge() {
        check("task-force risk-averse sk-ant-1_2.", "task-force risk-averse sk-[REDACTED].");
    }

    #[test]
    fn long_texts_are_no_burden() {
        let units = [
            "x",
            "-",
            "\"",
            "\\",
            "'",
            "a-",
            "eyJ-",
            "eyJa.",
            "token",
            "token ",
            "token:",
            "\"token\":",
            "\\\"token\\\":\\\"",
            "\"token\":'",
            "--token",
            "--token ",
            "sk-",
            "://",
            "://a:",
            "Authorization:",
            "\u{1f600}",
            "\n",
        ];
        for unit in units {
            let long = unit.repeat((1 << 17) / unit.len());
            assert!(text(&long).len() <= long.len() * 4, "{unit:?}");
        }
        let mixed = units.concat();
        let mixed = mixed.repeat((1 << 20) / mixed.len());
        assert!(text(&mixed).len() <= mixed.len() * 4);
    }
}
