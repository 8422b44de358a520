//! Measures and cuts of text. All lengths count UTF-16 code units, as the far sides count them.

/// Length in UTF-16 code units.
pub fn len_utf16(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// The first `limit` units; one less where the cut would split a surrogate pair.
pub fn head(text: &str, limit: usize) -> &str {
    // No text has more units than bytes.
    if text.len() <= limit {
        return text;
    }
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.len_utf16();
        if used > limit {
            return &text[..at];
        }
    }
    text
}

/// Text without the sequences that colour a terminal, move its cursor or name its window.
pub fn without_escapes(text: String) -> String {
    const ESCAPE: char = '\u{1b}';
    if !text.contains(ESCAPE) {
        return text;
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once(ESCAPE) {
        plain.push_str(before);
        rest = match after.as_bytes().first() {
            Some(b'[') => {
                let end = after.bytes().skip(1).position(|b| !(0x20..0x40).contains(&b)).map_or(after.len(), |n| n + 1);
                // The byte that ends it is part of it, if it is one.
                let is_end = after.as_bytes().get(end).is_some_and(|b| (0x40..0x7f).contains(b));
                &after[end + usize::from(is_end)..]
            }
            Some(b']') => match after.find(['\u{7}', ESCAPE]) {
                Some(end) if after[end..].starts_with("\u{1b}\\") => &after[end + 2..],
                Some(end) if after[end..].starts_with('\u{7}') => &after[end + 1..],
                Some(end) => &after[end..],
                None => "",
            },
            _ => {
                let end = after.bytes().position(|b| !(0x20..0x30).contains(&b)).unwrap_or(after.len());
                let is_end = after.as_bytes().get(end).is_some_and(|b| (0x30..0x7f).contains(b));
                &after[end + usize::from(is_end)..]
            }
        };
    }
    plain.push_str(rest);
    plain
}

/// The last `limit` units; one less where the cut would split a surrogate pair.
pub fn tail(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    let mut used = 0;
    for (at, c) in text.char_indices().rev() {
        used += c.len_utf16();
        if used > limit {
            return &text[at + c.len_utf8()..];
        }
    }
    text
}

/// `head`, with `…` after it when something was cut.
pub fn clip(text: &str, limit: usize) -> String {
    let kept = head(text, limit);
    if kept.len() == text.len() { text.to_owned() } else { format!("{kept}…") }
}

/// [`head`], and whether something was cut.
pub fn truncate(text: &str, limit: usize) -> (String, bool) {
    let kept = head(text, limit);
    (kept.to_owned(), kept.len() < text.len())
}

/// Pieces of at most `limit` units each, cut at line ends where there are any; the line end at a cut is dropped.
///
/// A text that fits is one piece, also the empty one; a limit of 0 means none. A character wider than the limit is
/// still a piece.
pub fn split(text: &str, limit: usize) -> Vec<String> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut pieces = Vec::new();
    let mut rest = text;
    loop {
        let mut cut = head(rest, limit).len();
        if cut == rest.len() {
            break;
        }
        if rest.as_bytes().get(cut) != Some(&b'\n') {
            // A line end in front is no place to cut: the piece would be empty.
            cut = rest[..cut].rfind('\n').filter(|at| *at > 0).unwrap_or(cut);
        }
        if cut == 0 {
            cut = rest.chars().next().map_or(0, char::len_utf8);
        }
        pieces.push(rest[..cut].to_owned());
        rest = &rest[cut..];
        rest = rest.strip_prefix('\n').unwrap_or(rest);
    }
    if !rest.is_empty() || pieces.is_empty() {
        pieces.push(rest.to_owned());
    }
    pieces
}

/// Trims Unicode white space and U+FEFF at both ends.
pub fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// One line for a log: white space collapsed, at most 120 units and `…`.
pub fn preview(text: &str) -> String {
    clip(&text.split_whitespace().collect::<Vec<_>>().join(" "), 120)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_for_terminals_are_left_out() {
        for (given, plain) in [
            ("plain", "plain"),
            ("Error code: \u{1b}[1m401\u{1b}[0m - \u{1b}[38;5;9m{", "Error code: 401 - {"),
            ("\u{1b}]0;title\u{7}a\u{1b}]8;;http://x\u{1b}\\b\u{1b}(Bc", "abc"),
            ("cut \u{1b}[1", "cut "),
            ("cut \u{1b}", "cut "),
            ("odd \u{1b}[1\n\u{1b}é\u{1b}]x\u{1b}[1mz", "odd \néz"),
        ] {
            assert_eq!(without_escapes(given.to_owned()), plain, "{given:?}");
        }
    }

    #[test]
    fn cuts_never_split_a_surrogate_pair() {
        assert_eq!(head("a😀b", 2), "a");
        assert_eq!(head("a😀b", 3), "a😀");
        assert_eq!(tail("a😀b", 2), "b");
        assert_eq!(tail("a😀b", 3), "😀b");
        assert_eq!(len_utf16("a😀b"), 4);
    }

    #[test]
    fn pieces_of_a_split_text_fit() {
        assert_eq!(split("a😀b😀", 2), ["a", "😀", "b", "😀"]);
        assert_eq!(split("😀😀", 1), ["😀", "😀"], "wider than the limit");
        assert_eq!(split("ab\n", 2), ["ab"]);
        assert_eq!(split("\n\n\n", 1), ["\n", "\n"]);
        assert_eq!(truncate("a😀", 2), ("a".to_owned(), true));
        assert_eq!(truncate("a😀", 3), ("a😀".to_owned(), false));
    }

    #[test]
    fn a_clipped_text_says_so() {
        assert_eq!(clip("hello", 5), "hello");
        assert_eq!(clip("hello", 4), "hell…");
        assert_eq!(preview(" a\n\tb "), "a b");
    }
}
