//! Configuration files of OpenClaw and `QClaw`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Found, Places, read};
use crate::json;
use crate::runtime::catalogue::toml;
use crate::sort;

/// Files of one directory that are looked at.
const MOST_FILES: usize = 64;

/// The gateways that files name, in the order of directories and names.
pub(super) fn gateways(places: &Places<'_>) -> Vec<Found> {
    let directories = places.directories();
    directories.iter().flat_map(|dir| files(dir)).filter_map(|path| gateway(places, &path)).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let is_wanted = |path: &PathBuf| path.extension().is_some_and(|end| end == "json" || end == "toml");
    if dir.is_file() {
        return vec![dir.to_owned()];
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(is_wanted).collect();
    sort::sort(&mut files);
    files.truncate(MOST_FILES);
    files
}

fn gateway(places: &Places<'_>, path: &Path) -> Option<Found> {
    let text = read(path)?;
    if path.extension().is_some_and(|end| end == "toml") {
        return of_toml(&text);
    }
    let document = json::parse(text.as_bytes()).ok()?;
    qclaw(places, &document).or_else(|| of_json(&document, false))
}

/// `QClaw` says where the configuration of its gateway is, and its port.
fn qclaw(places: &Places<'_>, document: &Value) -> Option<Found> {
    let port = document.get("port").and_then(port);
    let config = document.get("configPath").and_then(Value::as_str);
    let named = config.and_then(|path| {
        let document = json::parse(read(&places.at(path))?.as_bytes()).ok()?;
        of_json(&document, true)
    });
    named.or_else(|| Found::local(port?, true))
}

fn of_json(document: &Value, qclaw: bool) -> Option<Found> {
    let gateway = document.get("gateway");
    if let Some(port) = gateway.and_then(|g| g.get("port")).and_then(port) {
        let auth = gateway.and_then(|g| g.get("auth")).filter(|auth| text(auth, &["mode"]) == Some("token"));
        let of = |key: &'static str| auth.and_then(|auth| text(auth, &[key]));
        return Some(Found::local(port, qclaw)?.with(of("token"), of("tokenFile")));
    }
    let acp = document.get("acp");
    let nested = gateway.and_then(|g| g.get("acp"));
    [acp, nested, gateway, Some(document)].into_iter().flatten().find_map(|section| {
        let url = text(section, &["url", "wsUrl", "ws_url", "endpoint"])?;
        let token = text(section, &["token", "bearerToken", "bearer_token"]);
        Some(Found::new(url, qclaw)?.with(token, text(section, &["tokenFile", "token_file"])))
    })
}

fn of_toml(text: &str) -> Option<Found> {
    toml::parse(text).iter().filter(|s| s.name.last().is_some_and(|n| n == "acp")).find_map(|section| {
        let first = |keys: &[&str]| keys.iter().find_map(|key| section.text(key));
        let found = Found::new(first(&["url", "wsUrl", "ws_url", "endpoint"])?, false)?;
        Some(found.with(first(&["token", "bearerToken", "bearer_token"]), first(&["tokenFile", "token_file"])))
    })
}

fn port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0)
}

fn text<'v>(of: &'v Value, keys: &[&str]) -> Option<&'v str> {
    keys.iter().find_map(|key| of.get(key)?.as_str().filter(|t| !t.trim().is_empty()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    type Seen = (String, String, Option<String>, Option<String>);

    fn seen(found: Option<Found>) -> Option<Seen> {
        found.map(|f| (f.name, f.url, f.token, f.token_file))
    }

    fn is(name: &str, url: &str, token: Option<&str>, file: Option<&str>) -> Seen {
        (name.into(), url.into(), token.map(str::to_owned), file.map(str::to_owned))
    }

    #[test]
    fn json_names_a_gateway_in_several_ways() {
        let read = |document: Value| seen(of_json(&document, false));
        let local = "openclaw-127-0-0-1-7";
        assert_eq!(
            read(json!({"gateway": {"port": 7, "auth": {"mode": "token", "token": "t", "tokenFile": "/f"}}})),
            Some(is(local, "ws://127.0.0.1:7", Some("t"), None))
        );
        assert_eq!(
            read(json!({"gateway": {"port": 7, "auth": {"mode": "password", "token": "t"}}})),
            Some(is(local, "ws://127.0.0.1:7", None, None))
        );
        assert_eq!(
            read(json!({"acp": {"ws_url": "ws://h:1", "bearerToken": "b"}, "url": "ws://other:1"})),
            Some(is("openclaw-h-1", "ws://h:1", Some("b"), None))
        );
        assert_eq!(
            read(json!({"gateway": {"acp": {"endpoint": "wss://h", "token_file": "/f"}}})),
            Some(is("openclaw-h-443", "wss://h", None, Some("/f")))
        );
        assert_eq!(read(json!({"url": "ws://h:1"})), Some(is("openclaw-h-1", "ws://h:1", None, None)));
        for nothing in [json!({}), json!([]), json!({"gateway": {"port": "7"}}), json!({"url": "http://h"}), json!(1)] {
            assert_eq!(read(nothing.clone()), None, "{nothing}");
        }
    }

    #[test]
    fn toml_is_read_below_acp_only() {
        let read = |text: &str| seen(of_toml(text));
        assert_eq!(
            read("url = \"ws://top:1\"\n[gateway.acp]\nurl = \"ws://h:1\"\ntoken = \"t\"\n"),
            Some(is("openclaw-h-1", "ws://h:1", Some("t"), None))
        );
        assert_eq!(read("[acpx]\nurl = \"ws://h:1\"\n"), None);
    }

    #[test]
    fn qclaw_points_to_another_file_or_to_a_port() {
        let dir = std::env::temp_dir().join(format!("bellhop-qclaw-{}", std::process::id()));
        std::fs::create_dir_all(dir.join(".qclaw")).unwrap();
        std::fs::write(dir.join("c.json"), r#"{"gateway": {"port": 9, "auth": {"mode": "token", "token": "t"}}}"#)
            .unwrap();
        let places = Places { home: &dir, root: &dir, env: &|_| None, settings: &Value::Null };
        let write = |text: &str| std::fs::write(dir.join(".qclaw/q.json"), text).unwrap();
        let one = || seen(gateways(&places).pop());
        write(r#"{"configPath": "~/c.json", "port": 8}"#);
        assert_eq!(one(), Some(is("qclaw-127-0-0-1-9", "ws://127.0.0.1:9", Some("t"), None)));
        write(r#"{"configPath": "~/gone.json", "port": 8}"#);
        assert_eq!(one(), Some(is("qclaw-127-0-0-1-8", "ws://127.0.0.1:8", None, None)));
        write("{broken");
        assert_eq!(one(), None);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
