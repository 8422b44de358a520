//! Finds the line of a value in a JSON text, so that a complaint about a field can say where it is.

use crate::json;

/// One step from a document to a value in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Member of an object.
    Key(String),
    /// Element of a list, from 0.
    Index(usize),
}

/// The line (from 1) on which the member or element begins that the path leads to; where the path ends
/// early, that of the last step that exists. The text must be valid JSON. Of repeated keys the last counts,
/// as it does when the document is read.
pub fn line_of(text: &str, path: &[Step]) -> usize {
    let mut scan = Scan { bytes: text.as_bytes(), at: 0 };
    scan.space();
    let mut start = scan.at;
    for step in path {
        let Some((name_at, value_at)) = scan.enter(step) else { break };
        start = name_at;
        scan.at = value_at;
    }
    line_at(text, start)
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|b| *b == b'\n').count()
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    fn space(&mut self) {
        while self.peek().is_ascii_whitespace() {
            self.at += 1;
        }
    }

    /// Goes through the list or object at the cursor; where the step's child and its value begin.
    fn enter(&mut self, step: &Step) -> Option<(usize, usize)> {
        let close = match (self.peek(), step) {
            (b'{', Step::Key(_)) => b'}',
            (b'[', Step::Index(_)) => b']',
            _ => return None,
        };
        self.at += 1;
        let mut found = None;
        let mut index = 0;
        loop {
            self.space();
            if self.peek() == close || self.at >= self.bytes.len() {
                return found;
            }
            let name_at = self.at;
            let matches = match step {
                Step::Key(key) => {
                    let name = self.string();
                    self.space();
                    self.at += 1; // the colon
                    self.space();
                    name.as_deref() == Some(key)
                }
                Step::Index(wanted) => index == *wanted,
            };
            if matches {
                found = Some((name_at, self.at));
            }
            self.skip();
            self.space();
            if self.peek() == b',' {
                self.at += 1;
            }
            index += 1;
        }
    }

    fn string(&mut self) -> Option<String> {
        let start = self.at;
        self.skip();
        let text = self.bytes.get(start..self.at)?;
        json::parse(text).ok()?.as_str().map(str::to_owned)
    }

    /// Moves behind the value at the cursor. Counts brackets: no recursion, whatever the depth.
    fn skip(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.bytes.len() {
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    while self.at < self.bytes.len() && self.peek() != b'"' {
                        self.at += if self.peek() == b'\\' { 2 } else { 1 };
                    }
                    self.at += 1;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    self.at += 1;
                }
                b',' | b':' | b' ' | b'\n' | b'\r' | b'\t' => {
                    self.at += 1;
                    continue;
                }
                _ => {
                    while !matches!(self.peek(), b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t')
                        && self.at < self.bytes.len()
                    {
                        self.at += 1;
                    }
                }
            }
            if depth == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(k: &str) -> Step {
        Step::Key(k.into())
    }

    const TEXT: &str =
        "{\n  \"a\": [1,\n {\"b\\\"}\": \"]\",\n\n\"c\": null}],\n  \"d\": {}\n,\"a2\":-1.5e3 ,\n\"a\":\n2}";

    #[test]
    fn the_line_is_that_of_the_name() {
        assert_eq!(line_of(TEXT, &[]), 1);
        assert_eq!(line_of(TEXT, &[key("d")]), 6);
        assert_eq!(line_of(TEXT, &[key("a2")]), 7);
        assert_eq!(line_of(TEXT, &[key("a")]), 8, "the last of two counts");
        let once = TEXT.replace("\"a\":\n2", "\"z\":2");
        assert_eq!(line_of(&once, &[key("a"), Step::Index(1), key("c")]), 5);
        assert_eq!(line_of(&once, &[key("a"), Step::Index(1), key("b\"}")]), 3);
    }

    #[test]
    fn what_does_not_exist_is_placed_where_it_should_be() {
        let text = "\n{\"x\":\n{\"y\":1}}";
        assert_eq!(line_of(text, &[key("none")]), 2);
        assert_eq!(line_of(text, &[key("x"), key("none"), key("more")]), 2);
    }

    #[test]
    fn no_text_makes_it_hang_or_fall() {
        for end in 0..TEXT.len() {
            let Some(part) = TEXT.get(..end) else { continue };
            line_of(part, &[key("a"), Step::Index(1), key("c")]);
        }
    }
}
