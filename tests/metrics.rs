//! `GET /metrics` and `bellhop usage` of the real daemon, after real turns.
//!
//! The page is read by a strict parser of the text format of Prometheus, and by promtool too, where that is installed.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use support::engine::{PATIENCE, TempDir};

/// One sample: name, labels, value.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// A page of the text format: families in one piece, each with its head, samples that fit their type.
#[derive(Debug, Default)]
struct Page {
    kinds: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    !text.is_empty() && text.chars().all(good) && !text.starts_with(|c: char| c.is_ascii_digit())
}

impl Page {
    fn parse(text: &str) -> Result<Self, String> {
        let mut page = Self::default();
        let (mut helps, mut family) = (BTreeSet::new(), String::new());
        if !text.ends_with('\n') {
            return Err("the last line has no end".into());
        }
        for line in text.lines() {
            let bad = |why: &str| Err(format!("{why}: {line:?}"));
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let Some((name, help)) = rest.split_once(' ') else { return bad("no help") };
                if !is_name(name) || help.is_empty() || !helps.insert(name.to_owned()) {
                    return bad("help");
                }
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let Some((name, kind)) = rest.split_once(' ') else { return bad("no type") };
                let known = ["counter", "gauge", "histogram"].contains(&kind);
                if !known || !helps.contains(name) || page.kinds.insert(name.into(), kind.into()).is_some() {
                    return bad("type");
                }
                name.clone_into(&mut family);
            } else {
                let sample = sample(line).ok_or_else(|| format!("no sample: {line:?}"))?;
                let kind = page.kinds.get(&family).map(String::as_str);
                let suffix = sample.name.strip_prefix(family.as_str());
                let fits = match kind {
                    Some("counter") => suffix == Some("") && family.ends_with("_total") && sample.value >= 0.0,
                    Some("gauge") => suffix == Some("") && !family.ends_with("_total"),
                    Some("histogram") => matches!(suffix, Some("_bucket" | "_sum" | "_count")),
                    _ => false,
                };
                if !fits || page.samples.iter().any(|s| s.name == sample.name && s.labels == sample.labels) {
                    return bad("a sample that does not fit its family, or comes twice");
                }
                page.samples.push(sample);
            }
        }
        let empty = page.kinds.keys().find(|k| !page.samples.iter().any(|s| s.name.starts_with(k.as_str())));
        empty.map_or(Ok(()), |name| Err(format!("{name} has no samples")))?;
        page.histograms()?;
        Ok(page)
    }

    /// Buckets grow, and the last one is the count.
    fn histograms(&self) -> Result<(), String> {
        for (name, _) in self.kinds.iter().filter(|(_, kind)| *kind == "histogram") {
            for count in self.samples.iter().filter(|s| s.name == format!("{name}_count")) {
                let mut last = (f64::NEG_INFINITY, 0.0);
                for bucket in self.samples.iter().filter(|s| s.name == format!("{name}_bucket")) {
                    let mut labels = bucket.labels.clone();
                    let bound = labels.remove("le").ok_or("a bucket without le")?;
                    if labels != count.labels {
                        continue;
                    }
                    let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().map_err(|_| bound)? };
                    if bound <= last.0 || bucket.value < last.1 {
                        return Err(format!("{name}: buckets do not grow"));
                    }
                    last = (bound, bucket.value);
                }
                if last != (f64::INFINITY, count.value) {
                    return Err(format!("{name}: {last:?} is not the count {}", count.value));
                }
            }
        }
        Ok(())
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.samples.iter().find(|s| s.name == name && s.labels == labels).map(|s| s.value)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let at = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(at);
    let mut labels = BTreeMap::new();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            let (label, after) = inside.split_once("=\"")?;
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next()? {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next()?.1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        _ => return None,
                    }),
                    (_, c) => value.push(c),
                }
            };
            if !is_name(label) || label.contains(':') || labels.insert(label.to_owned(), value).is_some() {
                return None;
            }
            let next = &after[end + 1..];
            match next.strip_prefix(',') {
                Some(more) => inside = more,
                None => break rest = next.strip_prefix('}')?,
            }
        }
    }
    let value = rest.strip_prefix(' ')?.parse().ok()?;
    is_name(name).then(|| Sample { name: name.to_owned(), labels, value })
}

#[test]
fn the_parser_is_strict() {
    let head = "# HELP a_total x\n# TYPE a_total counter\n";
    assert!(Page::parse(&format!("{head}a_total{{l=\"x\\\"\"}} 1\n")).is_ok());
    for bad in [
        "a_total 1\n",
        "# TYPE a_total counter\na_total 1\n",
        "# HELP a x\n# TYPE a counter\na 1\n",
        "# HELP a_total x\n# TYPE a_total counter\na_total 1",
        "# HELP a_total x\n# TYPE a_total counter\na_total 1\na_total 2\n",
        "# HELP a_total x\n# TYPE a_total counter\na_total{l=\"\\x\"} 1\n",
        "# HELP a_total x\n# TYPE a_total counter\nb 1\n",
        "# HELP a_total x\n# TYPE a_total counter\n",
        "# HELP h x\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
    ] {
        assert!(Page::parse(bad).is_err(), "{bad}");
    }
}

/// A daemon with a CLI that tells tokens and cost.
struct Machine {
    dir: TempDir,
    daemon: Option<Child>,
}

const CLAUDE: &str = r#"#!/bin/sh
case "$*" in *--version*) echo "2.1.197 (Claude Code)"; exit 0;; esac
text=$(cat)
echo '{"type":"system","subtype":"init","session_id":"5c24a0b6-0000-4000-8000-000000000001"}'
case $text in
  *fail*) echo '{"type":"result","subtype":"success","is_error":true,"result":"API Error: 400 no","session_id":"5c24a0b6-0000-4000-8000-000000000001"}'; exit 1;;
esac
echo '{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"hello"}]},"session_id":"5c24a0b6-0000-4000-8000-000000000001"}'
echo '{"type":"result","subtype":"success","is_error":false,"result":"hello","session_id":"5c24a0b6-0000-4000-8000-000000000001","total_cost_usd":0.25,"usage":{"input_tokens":3,"cache_read_input_tokens":10,"output_tokens":2}}'
"#;

impl Machine {
    fn start(name: &str, config: Value) -> Self {
        let dir = TempDir::new(name);
        for below in ["bin", "project", "home/daemon"] {
            std::fs::create_dir_all(dir.0.join(below)).unwrap();
        }
        let claude = dir.0.join("bin/claude");
        std::fs::write(&claude, CLAUDE).unwrap();
        std::fs::set_permissions(&claude, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(dir.0.join("home/daemon/config.json"), config.to_string()).unwrap();
        let mut machine = Self { dir, daemon: None };
        machine.restart();
        machine
    }

    fn restart(&mut self) {
        self.stop();
        self.daemon = Some(self.command(&["start"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let end = std::time::Instant::now() + PATIENCE;
        while !self.command(&["status"]).output().unwrap().status.success() {
            assert!(std::time::Instant::now() < end, "the daemon does not answer");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = self.command(&["stop", "--wait"]).output();
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellhop"));
        command.args(args).current_dir(self.dir.0.join("project")).env_clear().stdin(Stdio::null());
        command.env("HOME", &self.dir.0).env("BELLHOP_HOME", self.dir.0.join("home"));
        command.env("PATH", format!("{}:/usr/bin:/bin", self.dir.0.join("bin").display()));
        command
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let out = self.run(args);
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
    }

    fn page(&self) -> String {
        let mut stream = UnixStream::connect(self.dir.0.join("home/daemon/bellhop.sock")).unwrap();
        let (head, body) = get(&mut stream, "/metrics");
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
        body
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn get(stream: &mut (impl Read + Write), path: &str) -> (String, String) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn turns_are_counted_and_their_cost_outlives_the_daemon() {
    let mut machine = Machine::start("metrics", serde_json::json!({}));
    let before = Page::parse(&machine.page()).unwrap();
    assert_eq!(before.value("bellhop_journal_writable", &[]), Some(1.0));
    assert!(!before.kinds.contains_key("bellhop_turns_total"), "nothing ran yet");
    assert_eq!(machine.run(&["usage"]), "nothing has been spent yet\n");

    for text in ["one", "two", "please fail"] {
        machine.run(&["send", "--conversation", "c", text]);
    }
    let text = machine.page();
    let page = Page::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let claude = ("runtime", "claude-code");
    assert_eq!(page.value("bellhop_turns_total", &[claude, ("outcome", "ok")]), Some(2.0));
    assert_eq!(page.value("bellhop_turns_total", &[claude, ("outcome", "error")]), Some(1.0));
    assert_eq!(page.value("bellhop_turn_seconds_count", &[claude]), Some(3.0));
    assert_eq!(page.value("bellhop_wait_seconds_count", &[]), Some(3.0));
    assert_eq!(page.value("bellhop_tokens_total", &[claude, ("kind", "cached")]), Some(20.0));
    assert_eq!(page.value("bellhop_tokens_total", &[claude, ("kind", "output")]), Some(4.0));
    assert_eq!(page.value("bellhop_cost_usd_total", &[claude]), Some(0.5));
    assert_eq!(page.value("bellhop_queue_messages", &[]), Some(0.0));
    assert!(page.value("process_resident_memory_bytes", &[]).unwrap() > 1e6);
    assert!(page.value("bellhop_journal_records_total", &[]).unwrap() >= 6.0);
    promtool(&text);

    let of = |machine: &Machine| machine.json(&["usage", "--by", "agent", "--json"])["total"].clone();
    let total = of(&machine);
    assert_eq!((total["turns"].as_u64(), total["failed"].as_u64()), (Some(3), Some(1)));
    assert_eq!((total["input_tokens"].as_u64(), total["cached_tokens"].as_u64()), (Some(26), Some(20)));
    assert_eq!((total["output_tokens"].as_u64(), total["cost_usd"].as_f64()), (Some(4), Some(0.5)));
    machine.restart();
    assert_eq!(of(&machine), total);
    machine.run(&["send", "--conversation", "d", "three"]);
    let rows = machine.json(&["usage", "--by", "conversation", "--json"]);
    assert_eq!(rows["rows"][0]["conversation"], "d", "the latest first");
    assert_eq!((rows["rows"][0]["cost_usd"].as_f64(), rows["rows"][1]["turns"].as_u64()), (Some(0.25), Some(3)));
    machine.stop();
    let turns = machine.json(&["usage", "--by", "turn", "--json"]);
    assert_eq!(turns["rows"].as_array().unwrap().len(), 4);
    assert_eq!(turns["rows"][3]["runtime"], "claude-code");
    assert!(machine.run(&["usage"]).contains("$0.7500"));
    assert_eq!(machine.json(&["usage", "--agent", "nobody", "--json"])["total"]["turns"], 0);
}

/// The real reader of such pages.
fn promtool(page: &str) {
    let spawned =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = spawned else {
        println!("promtool is not installed: the page is read by the test's own parser only");
        return;
    };
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    // 3: it has advice about names.
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_port_serves_the_metrics_and_nothing_else() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let machine = Machine::start("metrics-port", serde_json::json!({"metricsListen": address.to_string()}));
    let ask = |path: &str| get(&mut TcpStream::connect(address).unwrap(), path);
    let (head, body) = ask("/metrics");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    Page::parse(&body).unwrap();
    for path in ["/", "/health", "/v1/status", "/metrics/x"] {
        assert!(ask(path).0.starts_with("HTTP/1.1 404"), "{path}");
    }
    // One that says nothing keeps the others waiting only until its time is over, and the stop not at all.
    let _silent = TcpStream::connect(address).unwrap();
    drop(machine);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn the_world_is_no_place_for_metrics() {
    for address in ["0.0.0.0:9464", "192.0.2.1:9464", "localhost", "127.0.0.1"] {
        let text = serde_json::json!({"metricsListen": address}).to_string();
        let error = bellhop::config::load::parse(&text, std::path::Path::new("f")).unwrap_err().to_string();
        assert!(error.contains("metricsListen") && error.contains("127.0.0.1:9464"), "{error}");
    }
}
