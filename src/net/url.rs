//! The few questions that are asked about URLs: whether one may be used as a server's address, and its parts.

use std::fmt;

/// Why a text is not the address of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// There is nothing.
    Empty,
    /// It is not of the form `scheme://host…`, or has a user, a query or a fragment.
    Invalid,
    /// It is neither `http` nor `https`.
    Scheme,
    /// It is `http`, and the host is not this machine.
    Insecure,
}

impl UrlError {
    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Invalid => "invalid",
            Self::Scheme => "scheme",
            Self::Insecure => "insecure",
        }
    }
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "is empty",
            Self::Invalid => "is not a URL of the form https://host[:port][/path]",
            Self::Scheme => "is neither https:// nor http://",
            Self::Insecure => "is http:// and not on this machine; only https:// is safe there",
        })
    }
}

impl std::error::Error for UrlError {}

/// The parts of a URL, as they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts<'a> {
    scheme: &'a str,
    /// With brackets where it is an IPv6 address.
    host: &'a str,
    port: Option<u16>,
    /// Empty, or from the slash on.
    path: &'a str,
}

/// Takes a URL apart. No user, query or fragment; no white space or control characters.
fn parts(text: &str) -> Option<Parts<'_>> {
    if text.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control() || matches!(b, b'?' | b'#' | b'\\')) {
        return None;
    }
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = split_port(authority)?;
    let is_host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    };
    (is_scheme && is_host).then_some(Parts { scheme, host, port, path })
}

fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = authority.rfind(']').map_or(0, |at| at + 1);
    let Some(colon) = authority[end..].rfind(':').map(|at| at + end) else { return Some((authority, None)) };
    let digits = &authority[colon + 1..];
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    Some((&authority[..colon], Some(digits.parse().ok().filter(|_| is_number)?)))
}

/// The address of a server without the white space around it and without one slash at its end. It is `https`, or
/// `http` on this machine; a path may follow the host, and nothing else.
pub fn server(text: &str) -> Result<String, UrlError> {
    let text = crate::text::trim(text);
    if text.is_empty() {
        return Err(UrlError::Empty);
    }
    let parts = parts(text).ok_or(UrlError::Invalid)?;
    if parts.scheme.eq_ignore_ascii_case("http") {
        let host = parts.host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if !matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1") && !host.ends_with(".localhost") {
            return Err(UrlError::Insecure);
        }
    } else if !parts.scheme.eq_ignore_ascii_case("https") {
        return Err(UrlError::Scheme);
    }
    Ok(text.strip_suffix('/').unwrap_or(text).to_owned())
}

/// The address of the WebSocket `path` of a [`server`].
pub fn socket(server: &str, path: &str) -> Result<String, UrlError> {
    let parts = parts(server).ok_or(UrlError::Invalid)?;
    let (scheme, default) = if parts.scheme.eq_ignore_ascii_case("https") { ("wss", 443) } else { ("ws", 80) };
    let port = parts.port.filter(|p| *p != default).map(|p| format!(":{p}")).unwrap_or_default();
    let prefix = parts.path.strip_suffix('/').unwrap_or(parts.path);
    Ok(format!("{scheme}://{}{port}{prefix}{path}", parts.host.to_ascii_lowercase()))
}

/// Scheme, host in small letters, and port of a URL, for comparing. `None` for what is none. A query is left aside.
pub fn origin(url: &str) -> Option<(String, String, u16)> {
    let parts = parts(url.split(['?', '#']).next().unwrap_or_default())?;
    let scheme = parts.scheme.to_ascii_lowercase();
    let port = match (parts.port, scheme.as_str()) {
        (Some(port), _) => port,
        (None, "https") => 443,
        (None, "http") => 80,
        (None, _) => return None,
    };
    Some((scheme, parts.host.to_ascii_lowercase(), port))
}

/// The path of a URL, from the slash on; a query or fragment is refused.
pub fn path(url: &str) -> Option<&str> {
    parts(url).map(|p| p.path)
}

/// A text as one segment of a path or one value of a query: everything but letters, digits and `-._~` becomes `%XX`.
/// A segment of dots alone would be a step up, and is encoded too.
pub fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'~') || (b == b'.' && !only_dots(text));
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn only_dots(text: &str) -> bool {
    text.bytes().all(|b| b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_https_or_here() {
        assert_eq!(server(" HTTPS://Api.Example/Base/ ").unwrap(), "HTTPS://Api.Example/Base");
        assert_eq!(server("http://[::1]:9/").unwrap(), "http://[::1]:9");
        assert_eq!(server("\u{feff}https://h/\u{3000}").unwrap(), "https://h", "white space as elsewhere");
        for (text, error) in [
            ("https:host", UrlError::Invalid),
            ("https://", UrlError::Invalid),
            ("https:///x", UrlError::Invalid),
            ("https://u:p@host", UrlError::Invalid),
            ("https://host?x", UrlError::Invalid),
            ("https://host/#x", UrlError::Invalid),
            ("https://host:99999", UrlError::Invalid),
            ("https://host:+1", UrlError::Invalid),
            ("https://host:", UrlError::Invalid),
            ("https://ho st", UrlError::Invalid),
            ("https://host\\x", UrlError::Invalid),
            ("https://[::1", UrlError::Invalid),
            ("https://[::1]x", UrlError::Invalid),
            ("https://host/\r\nX: y", UrlError::Invalid),
            ("http://0x7f000001", UrlError::Insecure),
            ("http://[::ffff:127.0.0.1]", UrlError::Insecure),
            ("http://localhost.example", UrlError::Insecure),
            ("http://evillocalhost", UrlError::Insecure),
        ] {
            assert_eq!(server(text), Err(error), "{text}");
        }
    }

    #[test]
    fn sockets_drop_what_goes_without_saying() {
        assert_eq!(socket("https://Host:443/a", "/ws").unwrap(), "wss://host/a/ws");
        assert_eq!(socket("http://[::1]:80", "/ws").unwrap(), "ws://[::1]/ws");
    }

    #[test]
    fn origins_are_compared_whole() {
        assert_eq!(origin("https://A.example/x?y"), origin("HTTPS://a.example:443"));
        assert_ne!(origin("https://a.example"), origin("http://a.example"));
        assert_eq!(origin("https://a@b"), None);
        assert_eq!(path("https://a/hub/files/f_1"), Some("/hub/files/f_1"));
    }

    #[test]
    fn segments_stay_segments() {
        assert_eq!(encode("rm_1/../é?#"), "rm_1%2F..%2F%C3%A9%3F%23");
        assert_eq!(encode(".."), "%2E%2E");
        assert_eq!(encode("a.b~c d"), "a.b~c%20d");
    }
}
