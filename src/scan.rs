//! Matching text by hand: a cursor, ASCII case folding, word edges.
//!
//! The matchers of [`crate::failure`] and [`crate::redact`] are chains of the methods below, read from left to
//! right like the pattern they stand for. Nothing here backtracks over more than one literal, so a matcher that
//! tries every position stays linear as long as it skips what it has already searched.

/// A position in a text, always on a character boundary. Copying it is how a matcher remembers a way back.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

/// The ASCII notion of a word character: letters, digits and `_`.
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// White space as the far sides' matchers see it: Unicode white space and U+FEFF.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || c == '\u{feff}'
}

/// Whether a character ends a line.
pub fn ends_line(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{2028}' | '\u{2029}')
}

/// A cursor at each character of the text, and none at its end.
pub fn cursors(text: &str) -> impl Iterator<Item = Cursor<'_>> {
    text.char_indices().map(move |(at, _)| Cursor { text, at })
}

/// Whether the text has the literal somewhere, ASCII case folded.
pub fn contains(text: &str, literal: &str) -> bool {
    cursors(text).any(|c| c.lit(literal).is_some())
}

/// Whether the text has one of the literals somewhere, ASCII case folded, with a word edge on both sides.
pub fn contains_word(text: &str, literals: &[&str]) -> bool {
    cursors(text).any(|c| c.word(literals).is_some())
}

impl<'a> Cursor<'a> {
    /// A cursor at the beginning.
    pub fn start(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// A cursor at a byte position; at the end when that is no character boundary of the text.
    pub fn at(text: &'a str, at: usize) -> Self {
        Self { text, at: if text.is_char_boundary(at) { at } else { text.len() } }
    }

    /// Byte position.
    pub fn pos(self) -> usize {
        self.at
    }

    /// The whole text.
    pub fn whole(self) -> &'a str {
        self.text
    }

    /// What is before it.
    pub fn before(self) -> &'a str {
        &self.text[..self.at]
    }

    /// What is after it.
    pub fn rest(self) -> &'a str {
        &self.text[self.at..]
    }

    /// The character after it.
    pub fn peek(self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Past the literal, if it stands here (ASCII case folded).
    pub fn lit(self, literal: &str) -> Option<Self> {
        let end = self.at + literal.len();
        let here = self.text.as_bytes().get(self.at..end)?;
        here.eq_ignore_ascii_case(literal.as_bytes()).then_some(Self { at: end, ..self })
    }

    /// Past the literal, or here.
    pub fn opt(self, literal: &str) -> Self {
        self.lit(literal).unwrap_or(self)
    }

    /// Past the first of the literals that stands here.
    pub fn one_of(self, literals: &[&str]) -> Option<Self> {
        literals.iter().find_map(|l| self.lit(l))
    }

    /// Past the first of the literals that stands here with a word edge on both sides.
    pub fn word(self, literals: &[&str]) -> Option<Self> {
        let here = self.edge()?;
        literals.iter().find_map(|l| here.lit(l)?.edge())
    }

    /// Here, if this is a position between a word character and anything else.
    pub fn edge(self) -> Option<Self> {
        let bytes = self.text.as_bytes();
        let before = self.at.checked_sub(1).and_then(|i| bytes.get(i)).copied().is_some_and(is_word);
        let after = bytes.get(self.at).copied().is_some_and(is_word);
        (before != after).then_some(self)
    }

    /// Past all following characters of a kind, none included.
    pub fn run(self, of: impl Fn(char) -> bool) -> Self {
        let rest = self.rest();
        let len = rest.find(|c| !of(c)).unwrap_or(rest.len());
        Self { at: self.at + len, ..self }
    }

    /// Past the next character, whatever it is.
    pub fn skip(self) -> Self {
        Self { at: self.at + self.peek().map_or(0, char::len_utf8), ..self }
    }

    /// Past the white space here, if any.
    pub fn spaces(self) -> Self {
        self.run(is_space)
    }

    /// Past the white space here, of which there must be some.
    pub fn space(self) -> Option<Self> {
        Some(self.spaces()).filter(|c| c.at > self.at)
    }

    /// Past one white space, `_` or `-`, or here.
    pub fn separator(self) -> Self {
        match self.peek() {
            Some(c) if c == '_' || c == '-' || is_space(c) => self.skip(),
            _ => self,
        }
    }

    /// The text from here to a later cursor.
    pub fn until(self, end: Self) -> &'a str {
        self.text.get(self.at..end.at).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_fold_ascii_case_only() {
        assert!(Cursor::start("API error").lit("api ERROR").is_some());
        assert!(Cursor::start("api").lit("api error").is_none());
        assert!(Cursor::start("É").lit("é").is_none());
    }

    #[test]
    fn word_edges_are_ascii() {
        assert!(contains_word("é500é", &["500"]));
        assert!(!contains_word("a500", &["500"]));
        assert!(!contains_word("500_", &["500"]));
        assert!(contains_word("(500)", &["500"]));
    }

    #[test]
    fn a_position_inside_a_character_is_the_end() {
        assert_eq!(Cursor::at("é", 1).rest(), "");
    }
}
