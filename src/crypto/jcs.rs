//! Canonical JSON (RFC 8785): one text for each document, so that it can be hashed and signed.

use std::fmt::Write;

use serde_json::{Number, Value};

use super::sha256_hex;

/// The canonical text. Numbers are those of ECMAScript, so that integers beyond 2^53 lose digits.
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

/// `sha256:` and the hash of the canonical text.
pub fn payload_hash(value: &Value) -> String {
    format!("sha256:{}", sha256_hex(canonical(value).as_bytes()))
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
            crate::sort::sort_by(&mut sorted, |a, b| a.0.encode_utf16().cmp(b.0.encode_utf16()));
            out.push('{');
            for (n, (key, item)) in sorted.into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write_string(out, key);
                out.push(':');
                write_value(out, item);
            }
            out.push('}');
        }
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\0'..='\u{1f}' => {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn write_number(out: &mut String, number: &Number) {
    // Numbers without a value as a double (1e999) are refused when a document is read.
    write_double(out, number.as_f64().unwrap_or_default());
}

/// The shortest digits that mean this double, laid out as ECMAScript's `Number::toString` does.
fn write_double(out: &mut String, double: f64) {
    if double == 0.0 {
        // Of both signs.
        out.push('0');
        return;
    }
    // Rust gives the shortest digits as well: `-1.25e-7`.
    let text = format!("{double:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let mantissa = mantissa.strip_prefix('-').map_or(mantissa, |m| {
        out.push('-');
        m
    });
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let count = digits.len() as i32;
    // The value is 0.digits × 10^point.
    let point = exponent + 1;
    if (1..=21).contains(&point) {
        if count <= point {
            out.push_str(&digits);
            out.extend(std::iter::repeat_n('0', (point - count) as usize));
        } else {
            let (whole, part) = digits.split_at(point as usize);
            out.push_str(whole);
            out.push('.');
            out.push_str(part);
        }
    } else if (-5..=0).contains(&point) {
        out.push_str("0.");
        out.extend(std::iter::repeat_n('0', -point as usize));
        out.push_str(&digits);
    } else {
        let (first, part) = digits.split_at(1);
        out.push_str(first);
        if !part.is_empty() {
            out.push('.');
            out.push_str(part);
        }
        let _ = write!(out, "e{exponent:+}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(value: f64) -> String {
        let mut out = String::new();
        write_double(&mut out, value);
        out
    }

    #[test]
    fn numbers_known_from_ecmascript() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.25e21, "1.25e+21"),
            (123_456_789_012_345_680_000.0, "123456789012345680000"),
            (1e-6, "0.000001"),
            (1.5e-6, "0.0000015"),
            (1e-7, "1e-7"),
            (1.5e-7, "1.5e-7"),
            (0.1, "0.1"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (-f64::MIN_POSITIVE, "-2.2250738585072014e-308"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (333_333_333.333_333_3, "333333333.3333333"),
            (4.35, "4.35"),
            (0.002, "0.002"),
            (1e23, "1e+23"),
        ] {
            assert_eq!(double(value), text);
        }
    }

    /// The rules of ECMA-262, 6.1.6.1.20, checked on the text itself for many doubles of every magnitude.
    #[test]
    fn every_number_has_the_form_that_ecmascript_gives_it() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut tried = 0;
        while tried < 60_000 {
            let bits = next();
            let value = match tried % 3 {
                0 => f64::from_bits(bits),
                // Magnitudes around the borders between the forms.
                1 => (bits % 1_000_000) as f64 * 10_f64.powi((next() % 36) as i32 - 12),
                _ => (bits >> (next() % 60)) as f64,
            };
            if !value.is_finite() {
                continue;
            }
            tried += 1;
            let text = double(value);
            let back: f64 = text.parse().unwrap();
            // Both zeros are the same.
            assert_eq!((back + 0.0).to_bits(), (value + 0.0).to_bits(), "{text} is not {value:e}");
            let size = value.abs();
            let has_exponent = text.contains('e');
            assert_eq!(has_exponent, size != 0.0 && !(1e-6..1e21).contains(&size), "{text}");
            let digits = |t: &str| t.chars().filter(char::is_ascii_digit).collect::<String>();
            let mantissa = text.split('e').next().unwrap();
            let significant = digits(mantissa);
            let significant = significant.trim_start_matches('0').trim_end_matches('0');
            let shortest = digits(format!("{value:e}").split('e').next().unwrap());
            assert_eq!(significant, shortest.trim_end_matches('0'), "{text} is not the shortest");
            let unsigned = mantissa.trim_start_matches('-');
            assert!(!unsigned.starts_with('.') && !unsigned.ends_with('.'), "{text}");
            assert!(
                !unsigned.starts_with("00")
                    && (unsigned == "0" || !unsigned.starts_with('0') || unsigned.starts_with("0."))
            );
            assert!(!unsigned.contains('.') || !unsigned.ends_with('0'), "{text}");
            if has_exponent {
                let sign = text.split('e').nth(1).unwrap().as_bytes()[0];
                assert_eq!(sign, if size < 1.0 { b'-' } else { b'+' }, "{text}");
                assert_eq!(unsigned.find('.').unwrap_or(unsigned.len()), 1, "{text}");
            }
        }
    }

    #[test]
    fn numbers_are_read_to_the_last_digit() {
        let value: Value = serde_json::from_str("[1.2345678901234568e+20,123456789012345680000,0.1]").unwrap();
        assert_eq!(canonical(&value), "[123456789012345680000,123456789012345680000,0.1]");
    }

    #[test]
    fn a_canonical_text_is_its_own() {
        let value: Value =
            serde_json::from_str(r#"{"b":[1.0,{"😀":1,"\uffff":2}],"a":"\u001f\u007f\/\u2028"}"#).unwrap();
        let text = canonical(&value);
        assert_eq!(text, "{\"a\":\"\\u001f\u{7f}/\u{2028}\",\"b\":[1,{\"😀\":1,\"\u{ffff}\":2}]}");
        assert_eq!(canonical(&serde_json::from_str(&text).unwrap()), text);
    }
}
