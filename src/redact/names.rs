//! Which names say that a secret follows.

use crate::scan;

/// Last parts of names that always do. Separators are gone: `accesstoken` is also `access_token` and `accessToken`.
const ALWAYS: [&str; 7] = ["token", "secret", "password", "passwd", "accesstoken", "refreshtoken", "privatekey"];

/// What makes the `key` after it a secret, whatever the separator.
const BEFORE_KEY: [&str; 5] = ["private", "access", "secret", "signing", "encryption"];

/// Whether `name` (letters, digits, `_`, `-`) names a secret: `token`, `x-api-key`, `GITHUB_TOKEN`, `botToken`.
///
/// The last part decides. A last part `key` counts after `_` (`SSH_KEY`) and after words such as `api`; `sort-key`
/// and `sortKey` are shown.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.trim_end_matches(['-', '_']);
    if ends_with_api_key(name) {
        return true;
    }
    let start = last_part(name);
    let (head, last) = name.split_at(start);
    if ALWAYS.iter().any(|a| last.eq_ignore_ascii_case(a)) {
        return true;
    }
    if !last.eq_ignore_ascii_case("key") || head.is_empty() {
        return false;
    }
    let before = head.trim_end_matches(['-', '_']);
    let (_, before) = before.split_at(last_part(before));
    head.ends_with('_') || BEFORE_KEY.iter().any(|b| before.eq_ignore_ascii_case(b))
}

/// Whether a name ends with `apikey`, however its words are joined: `openAIApiKey` has no capital before its `Api`.
fn ends_with_api_key(name: &str) -> bool {
    let letters = name.bytes().rev().filter(|b| !matches!(b, b'-' | b'_'));
    letters.map(|b| b.to_ascii_lowercase()).take(6).eq(*b"yekipa")
}

/// Where the last part of a name begins: after `_` or `-`, or at a capital after a small letter or digit.
fn last_part(name: &str) -> usize {
    let bytes = name.as_bytes();
    let begins = |i: &usize| match (bytes.get(i.wrapping_sub(1)), bytes.get(*i)) {
        (Some(b'_' | b'-'), _) => true,
        (Some(before), Some(here)) => here.is_ascii_uppercase() && !before.is_ascii_uppercase(),
        _ => false,
    };
    (1..bytes.len()).rev().find(begins).unwrap_or(0)
}

/// Whether an argument is a flag whose value is a secret: `--token`, `--api_key`, `--client-secret`.
pub(super) fn is_secret_flag(argument: &str) -> bool {
    argument.strip_prefix("--").is_some_and(|name| name.bytes().all(is_name_byte) && is_secret_name(name))
}

/// Whether a key of a recorded object tells that its value is a secret. Looser than a name in prose, since here the
/// whole value is known to belong to it.
pub(super) fn is_telling_key(key: &str) -> bool {
    const PARTS: [&str; 4] = ["token", "secret", "authorization", "password"];
    PARTS.iter().any(|p| scan::contains(key, p))
        || scan::cursors(key)
            .filter_map(|c| c.one_of(&["private", "api"]))
            .any(|c| c.lit("key").or_else(|| c.skip().lit("key")).is_some())
}

/// Whether a byte may be part of a name.
pub(super) fn is_name_byte(b: u8) -> bool {
    scan::is_word(b) || b == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_names_are_told_from_others() {
        for yes in [
            "token",
            "TOKEN",
            "x-api-key",
            "apiKey",
            "api_key",
            "APIKEY",
            "GITHUB_TOKEN",
            "botToken",
            "_SECRET",
            "X_KEY",
            "openai-api-key",
            "accessToken",
            "my-accesstoken",
            "clientSecret",
            "AWS_SECRET_ACCESS_KEY",
            "private-key",
            "DB_PASSWORD",
            "xoauth_token-",
            "openAIApiKey",
            "OpenAIAPIKey",
            "anthropicapi-key",
            "myapikey",
        ] {
            assert!(is_secret_name(yes), "{yes}");
        }
        for no in
            ["tokens", "input_tokens", "key", "-key", "sort-key", "sortKey", "monkey", "secretary", "", "tokenizer"]
        {
            assert!(!is_secret_name(no), "{no}");
        }
    }

    #[test]
    fn keys_of_objects_are_read_loosely() {
        for yes in ["inputTokens", "api.key", "apikey", "PRIVATE key", "Proxy-Authorization", "passwords"] {
            assert!(is_telling_key(yes), "{yes}");
        }
        for no in ["api--key", "key", "author", "pass"] {
            assert!(!is_telling_key(no), "{no}");
        }
    }
}
