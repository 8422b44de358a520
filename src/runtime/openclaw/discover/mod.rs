//! Looks for OpenClaw gateways on this machine.
//!
//! Best source first: [`files`] of OpenClaw and `QClaw`, variables, [`units`] of systemd, ports on which something
//! answers. [`merge`] puts what was found beside what is configured, [`probe`] asks gateways how they are, [`agents`]
//! reads who lives behind one of this machine. Everything read is bounded; what cannot be read is passed over.

pub mod agents;
mod files;
pub mod merge;
pub mod probe;
mod units;

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::net::url;

/// Ports that gateways listen on where nobody chose another.
const PORTS: [u16; 3] = [18_789, 16_200, QCLAW_PORT];
/// That of `QClaw`.
const QCLAW_PORT: u16 = 28_789;
/// How long a port may take to answer.
const PORT_LIMIT: Duration = Duration::from_millis(500);
/// Most gateways that are found; the rest is passed over.
const MOST: usize = 32;
/// Longest file that is read, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// A gateway that was found.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// `openclaw-<host>-<port>`, or `qclaw-…`.
    pub name: String,
    /// `ws://…` or `wss://…`.
    pub url: String,
    /// Its token. Secret.
    pub token: Option<String>,
    /// The file that its token is in.
    pub token_file: Option<String>,
}

impl Found {
    fn new(url: &str, qclaw: bool) -> Option<Self> {
        let url = url.trim();
        let (host, port) = place(url)?;
        let host: String = host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let kind = if qclaw || port == QCLAW_PORT { "qclaw" } else { "openclaw" };
        let name = format!("{kind}-{}-{port}", host.trim_matches('-'));
        Some(Self { name, url: url.to_owned(), ..Self::default() })
    }

    /// On this machine.
    fn local(port: u16, qclaw: bool) -> Option<Self> {
        Self::new(&format!("ws://127.0.0.1:{port}"), qclaw)
    }

    fn with(mut self, token: Option<&str>, token_file: Option<&str>) -> Self {
        let given = |text: Option<&str>| text.map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned);
        self.token = given(token);
        self.token_file = given(token_file).filter(|_| self.token.is_none());
        self
    }

    /// How much is known of its credentials.
    fn credentials(&self) -> u8 {
        match (&self.token, &self.token_file) {
            (Some(_), _) => 2,
            (None, Some(_)) => 1,
            (None, None) => 0,
        }
    }

    fn is_better_than(&self, known: &Self) -> bool {
        let qclaw = |found: &Self| found.name.starts_with("qclaw-");
        self.credentials() > known.credentials() || (qclaw(self) && !qclaw(known))
    }
}

/// Host in small letters, and port, of a WebSocket's address.
fn place(address: &str) -> Option<(String, u16)> {
    let (scheme, rest) = address.split_once("://")?;
    let http = match scheme.to_ascii_lowercase().as_str() {
        "ws" => "http",
        "wss" => "https",
        _ => return None,
    };
    let (_, host, port) = url::origin(&format!("{http}://{rest}"))?;
    Some((host, port))
}

/// Whether a gateway is on this machine.
pub fn is_local(address: &str) -> bool {
    place(address).is_some_and(|(host, _)| matches!(host.as_str(), "127.0.0.1" | "localhost" | "[::1]"))
}

/// Where to look.
pub struct Places<'a> {
    /// The user's home directory.
    pub home: &'a Path,
    /// What stands for `/`; tests have their own.
    pub root: &'a Path,
    /// The variables of the daemon.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// `openclawDiscovery` of the configuration.
    pub settings: &'a Value,
}

impl Places<'_> {
    /// Unless the configuration says otherwise.
    pub fn enabled(&self) -> bool {
        self.settings.get("enabled").and_then(Value::as_bool).unwrap_or(true)
    }

    fn directories(&self) -> Vec<PathBuf> {
        match self.settings.get("searchPaths").and_then(Value::as_array) {
            Some(list) => list.iter().filter_map(Value::as_str).filter(|t| !t.is_empty()).map(|t| self.at(t)).collect(),
            None => vec![self.home.join(".openclaw"), self.home.join(".qclaw"), self.root.join("etc/openclaw")],
        }
    }

    fn ports(&self) -> Vec<u16> {
        let number = |n: &Value| n.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
        match self.settings.get("defaultPorts").and_then(Value::as_array) {
            Some(list) => list.iter().filter_map(number).take(MOST).collect(),
            None => PORTS.to_vec(),
        }
    }

    /// A path of a file, with `~` for the home.
    fn at(&self, path: &str) -> PathBuf {
        match path.strip_prefix("~/") {
            Some(rest) => self.home.join(rest),
            None => path.into(),
        }
    }

    fn token_file(&self) -> Option<PathBuf> {
        let places = ["run/openclaw/gateway-token", "var/run/openclaw/gateway-token"].map(|p| self.root.join(p));
        places.into_iter().chain([self.home.join(".openclaw/gateway-token")]).find(|path| path.is_file())
    }
}

/// The gateways of this machine, each once. May take as long as each port takes that answers nothing.
pub fn discover(places: &Places<'_>) -> Vec<Found> {
    let mut all = Vec::new();
    if !places.enabled() {
        return all;
    }
    for found in files::gateways(places).into_iter().chain(from_variables(places.env)).chain(units::gateways(places)) {
        add(&mut all, found);
    }
    for port in places.ports() {
        let known = all.iter().any(|found| is_local(&found.url) && place(&found.url).is_some_and(|(_, p)| p == port));
        if !known && answers(port) {
            let file = places.token_file().map(|path| path.display().to_string());
            let found = Found::local(port, false).map(|found| found.with(None, file.as_deref()));
            if let Some(found) = found {
                add(&mut all, found);
            }
        }
    }
    all
}

fn add(all: &mut Vec<Found>, found: Found) {
    match all.iter().position(|known| merge::is_same(&known.url, &found.url)) {
        Some(at) if found.is_better_than(&all[at]) => all[at] = found,
        None if all.len() < MOST => all.push(found),
        _ => {}
    }
}

/// What variables say, be they of this process or of a unit.
fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> Option<Found> {
    let first = |names: [&str; 2]| names.into_iter().find_map(|name| get(name).filter(|v| !v.trim().is_empty()));
    let found = match first(["OPENCLAW_ACP_URL", "OPENCLAW_GATEWAY_URL"]) {
        Some(url) => Found::new(&url, false)?,
        None => Found::local(get("OPENCLAW_GATEWAY_PORT")?.trim().parse().ok().filter(|port| *port > 0)?, false)?,
    };
    let token = first(["OPENCLAW_ACP_TOKEN", "OPENCLAW_GATEWAY_TOKEN"]);
    let file = first(["OPENCLAW_ACP_TOKEN_FILE", "OPENCLAW_GATEWAY_TOKEN_FILE"]);
    Some(found.with(token.as_deref(), file.as_deref()))
}

fn answers(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    // Something else may use the port: only who speaks WebSocket can be a gateway.
    TcpStream::connect_timeout(&address, PORT_LIMIT).is_ok() && probe::speaks(port, PORT_LIMIT)
}

/// A text file, unless it is too long or none.
fn read(path: &Path) -> Option<String> {
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_LIMIT + 1).read_to_string(&mut text).ok()?;
    (text.len() as u64 <= FILE_LIMIT).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_named_after_its_place() {
        let name = |url, qclaw| Found::new(url, qclaw).map(|f| f.name);
        assert_eq!(name("ws://127.0.0.1:18789", false).as_deref(), Some("openclaw-127-0-0-1-18789"));
        assert_eq!(name("wss://Gw.Example/x", false).as_deref(), Some("openclaw-gw-example-443"));
        assert_eq!(name("ws://localhost:28789", false).as_deref(), Some("qclaw-localhost-28789"));
        assert_eq!(name("ws://[::1]:9", true).as_deref(), Some("qclaw-1-9"));
        for bad in ["", "http://h", "ws://", "ws://a b:1", "ws://u@h:1", "ws://h:70000"] {
            assert_eq!(name(bad, false), None, "{bad}");
        }
        assert!(is_local("ws://localhost:1") && is_local("wss://[::1]:1") && !is_local("ws://127.0.0.1.evil:1"));
    }

    #[test]
    fn variables_name_one_gateway() {
        let get = |pairs: &'static [(&str, &str)]| {
            from_variables(&move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
                .map(|f| (f.url, f.token, f.token_file))
        };
        let port = get(&[("OPENCLAW_GATEWAY_PORT", " 7 "), ("OPENCLAW_GATEWAY_TOKEN_FILE", "/t")]);
        assert_eq!(port, Some(("ws://127.0.0.1:7".into(), None, Some("/t".into()))));
        let url = get(&[
            ("OPENCLAW_ACP_URL", "ws://a:1"),
            ("OPENCLAW_GATEWAY_URL", "ws://b:1"),
            ("OPENCLAW_GATEWAY_TOKEN", "t"),
            ("OPENCLAW_ACP_TOKEN_FILE", "/f"),
        ]);
        assert_eq!(url, Some(("ws://a:1".into(), Some("t".into()), None)));
        assert_eq!(get(&[("OPENCLAW_GATEWAY_PORT", "0")]), None);
        assert_eq!(get(&[("OPENCLAW_GATEWAY_TOKEN", "t")]), None);
    }

    #[test]
    fn of_several_sources_the_first_counts_unless_another_knows_more() {
        let found = |url: &str, qclaw, token: Option<&str>, file: Option<&str>| {
            Found::new(url, qclaw).unwrap().with(token, file)
        };
        let mut all = Vec::new();
        add(&mut all, found("ws://h:1", false, None, Some("/f")));
        add(&mut all, found("ws://H:1/", false, None, Some("/other")));
        assert_eq!(all[0].token_file.as_deref(), Some("/f"));
        add(&mut all, found("ws://h:1", false, Some("t"), None));
        assert_eq!((all[0].token.as_deref(), all[0].token_file.as_deref()), (Some("t"), None));
        add(&mut all, found("ws://h:1", true, None, None));
        assert_eq!((all.len(), all[0].name.as_str()), (1, "qclaw-h-1"));
        (0..100).for_each(|port| add(&mut all, found(&format!("ws://x:{}", port + 1), false, None, None)));
        assert_eq!(all.len(), MOST);
    }
}
