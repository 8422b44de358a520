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
