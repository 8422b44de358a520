//! JSON of programs that cut texts between the halves of a character and escape what is left: `"\ud83d"`.

use serde_json::Value;

use super::{Error, parse};

/// [`parse`], with U+FFFD in place of halves of characters. A document of which every byte counts (one that is
/// signed) is read with [`parse`], which refuses them.
pub fn parse_lossy(bytes: &[u8]) -> Result<Value, Error> {
    parse(bytes).or_else(|error| match without_halves(bytes) {
        Some(whole) => parse(&whole),
        None => Err(error),
    })
}

/// The document with its lone surrogates replaced; `None` when it has none.
fn without_halves(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut at, mut kept) = (0, 0);
    while let Some(escape) = bytes.get(at..).and_then(|rest| rest.iter().position(|b| *b == b'\\')) {
        at += escape;
        match unit(bytes, at) {
            Some(0xd800..=0xdbff) if matches!(unit(bytes, at + 6), Some(0xdc00..=0xdfff)) => at += 12,
            Some(0xd800..=0xdfff) => {
                out.extend_from_slice(&bytes[kept..at]);
                out.extend_from_slice(b"\\ufffd");
                at += 6;
                kept = at;
            }
            _ => at += 2,
        }
    }
    (kept > 0).then(|| [out.as_slice(), &bytes[kept..]].concat())
}

/// The UTF-16 unit that is escaped here.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)? as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_characters_are_replaced() {
        let table = [
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""a\ude00b\uD83D""#, "a\u{fffd}b\u{fffd}"),
            (r#""\ud83d\ud83d\ude00\ude00""#, "\u{fffd}\u{1f600}\u{fffd}"),
            (r#""\ud83d\n\\\udcff\\ud83d""#, "\u{fffd}\n\\\u{fffd}\\ud83d"),
            (r#""\ud83d\ude00""#, "\u{1f600}"),
        ];
        for (text, read) in table {
            assert_eq!(parse_lossy(text.as_bytes()).unwrap(), read, "{text}");
        }
        assert!(parse(table[0].0.as_bytes()).is_err());
    }

    #[test]
    fn whatever_else_is_wrong_stays_wrong() {
        for text in ["", "{", r#""\ud83d"#, r#""\u12"#, r#""\u+123""#, "\\", r#""\"#, r#"{"a":"\ud83d","#] {
            assert!(parse_lossy(text.as_bytes()).is_err(), "{text}");
        }
    }
}
