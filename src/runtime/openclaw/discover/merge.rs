//! What was found beside what is configured: `openclawGateways` as it is to be written.

use serde_json::{Map, Value};

use super::{Found, place};

/// The outcome.
#[derive(Debug, Default, PartialEq)]
pub struct Merged {
    /// All gateways: those that were there, with what they have gained, and the new ones.
    pub gateways: Vec<Value>,
    /// The new ones.
    pub added: Vec<Value>,
    /// Whether there is anything to write.
    pub changed: bool,
}

/// Adds gateways whose address is not known yet, under names of their own. A known one only gains a token or a token
/// file, and only where it has neither.
pub fn merge(existing: &[Value], found: &[Found]) -> Merged {
    let mut merged = Merged { gateways: existing.to_vec(), ..Merged::default() };
    for gateway in found {
        let url_of = |known: &Value| filled(known, "url").is_some_and(|url| is_same(url, &gateway.url));
        match merged.gateways.iter_mut().find(|known| url_of(known)) {
            Some(known) => merged.changed |= complete(known, gateway),
            None => {
                let entry = entry(gateway, free_name(&gateway.name, &merged.gateways));
                merged.gateways.push(entry.clone());
                merged.added.push(entry);
                merged.changed = true;
            }
        }
    }
    merged
}

/// Whether two addresses are those of one gateway.
pub(super) fn is_same(a: &str, b: &str) -> bool {
    let plain = |url: &str| {
        let url = url.trim();
        let path = url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| rest[at..].to_owned()));
        let scheme = url.split("://").next().unwrap_or_default().to_ascii_lowercase();
        place(url).map(|place| (scheme, place, path.unwrap_or_default().trim_end_matches('/').to_owned()))
    };
    match (plain(a), plain(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a.trim().trim_end_matches('/') == b.trim().trim_end_matches('/'),
    }
}

fn filled<'v>(of: &'v Value, key: &str) -> Option<&'v str> {
    of.get(key)?.as_str().filter(|text| !text.is_empty())
}

/// Returns whether anything was missing.
fn complete(known: &mut Value, found: &Found) -> bool {
    if filled(known, "token").is_some() || filled(known, "tokenFile").is_some() {
        return false;
    }
    let Some(members) = known.as_object_mut() else { return false };
    put_credentials(members, found)
}

fn put_credentials(members: &mut Map<String, Value>, found: &Found) -> bool {
    let (key, value) = match (&found.token, &found.token_file) {
        (Some(token), _) => ("token", token),
        (None, Some(file)) => ("tokenFile", file),
        (None, None) => return false,
    };
    members.insert(key.into(), value.as_str().into());
    true
}

fn entry(found: &Found, name: String) -> Value {
    let mut members = Map::new();
    members.insert("name".into(), name.into());
    members.insert("url".into(), found.url.as_str().into());
    put_credentials(&mut members, found);
    members.into()
}

fn free_name(wanted: &str, gateways: &[Value]) -> String {
    let taken = |name: &str| gateways.iter().any(|g| filled(g, "name") == Some(name));
    let numbered = (2_usize..).map(|n| format!("{wanted}-{n}"));
    std::iter::once(wanted.to_owned()).chain(numbered).find(|name| !taken(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(name: &str, url: &str, token: Option<&str>, file: Option<&str>) -> Found {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Found { name: name.into(), url: url.into(), token: own(token), token_file: own(file) }
    }

    #[test]
    fn a_new_gateway_gets_a_name_of_its_own() {
        let existing = [json!({"name": "g", "url": "ws://h:1"}), json!({"name": "g-2", "url": "ws://h:2", "x": 1})];
        let merged = merge(&existing, &[found("g", "ws://h:3", Some("t"), None), found("g", "ws://h:4", None, None)]);
        let added =
            [json!({"name": "g-3", "url": "ws://h:3", "token": "t"}), json!({"name": "g-4", "url": "ws://h:4"})];
        assert_eq!(merged.added, added);
        assert_eq!(merged.gateways, [&existing[..], &added].concat());
        assert!(merged.changed);
    }

    #[test]
    fn a_known_one_gains_only_what_it_lacks() {
        let existing = [
            json!({"name": "a", "url": "ws://127.0.0.1:18789/"}),
            json!({"name": "b", "url": "ws://127.0.0.1:1", "tokenFile": "/f"}),
            json!({"name": "c", "url": "ws://127.0.0.1:2", "token": ""}),
            json!("odd"),
        ];
        let merged = merge(
            &existing,
            &[
                found("x", "ws://127.0.0.1:18789", Some("t"), None),
                found("y", "ws://127.0.0.1:1", Some("t2"), None),
                found("z", "WS://127.0.0.1:2", None, Some("/z")),
            ],
        );
        assert_eq!((merged.changed, merged.added.len()), (true, 0));
        assert_eq!(merged.gateways[0], json!({"name": "a", "url": "ws://127.0.0.1:18789/", "token": "t"}));
        assert_eq!(merged.gateways[1], existing[1]);
        assert_eq!(merged.gateways[2]["tokenFile"], "/z");
        assert!(!merge(&merged.gateways, &[found("y", "ws://127.0.0.1:1", Some("t2"), None)]).changed);
    }

    #[test]
    fn addresses_are_compared_by_what_they_mean() {
        assert!(is_same("wss://Host/", "wss://host:443"));
        assert!(!is_same("ws://host:443", "wss://host:443"));
        assert!(!is_same("ws://h:1/a", "ws://h:1/b"));
        assert!(is_same("odd/", "odd"));
    }
}
