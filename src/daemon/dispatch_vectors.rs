//! The hub's frames as the vectors have them, carried out by the daemon's own handlers with files, engine and channels
//! of their own. Only the channels do nothing: they have no far side here.
//!
//! The whole runs in a process of its own, because handlers look at the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};

use super::channels::Channels;
use super::duties::HubDuties;
use super::gateways::Gateways;
use super::gateways::frames::Frames;
use super::hubs::Hubs;
use super::parts;
use super::reload::Live;
use super::rooms::Rooms;
use super::vectors::{self, in_home, list, members, strings};
use crate::channel::botcord::credentials::Credentials;
use crate::config::{Config, Home, load};
use crate::crypto::sign::SigningKey;
use crate::engine::cancel::CancelToken;
use crate::engine::gate::Policy;
use crate::engine::journal::Journal;
use crate::engine::ports::{ChannelNews, Exit, Lifecycle};
use crate::engine::{Engine, Recovery};
use crate::link::botcord_control::frame::{Incoming, answer, read};
use crate::link::botcord_control::identity::NO_BIO;
use crate::link::botcord_control::lanes::Duties;
use crate::message::document;
use crate::serve::follow::Follow;
use crate::store::{Disk, RealDisk};
use crate::time::now_ms;

/// Types of frames that are tried elsewhere (`gateways::vectors`), with services that are not there; cases with them are
/// passed over.
const ELSEWHERE: &[&str] = &[
    "list_gateways",
    "upsert_gateway",
    "remove_gateway",
    "test_gateway",
    "gateway_send",
    "gateway_login_start",
    "gateway_login_status",
];
/// The clock of the vectors.
const NOW: i64 = 1_800_000_000_000;

#[test]
fn frames_are_carried_out_as_the_vectors_say() {
    vectors::apart("daemon::dispatch_vectors::frames_are_carried_out_as_the_vectors_say", run_all);
}

fn run_all(place: &Path) {
    let cases = vectors::cases("control-frames.json");
    let home = place.join("h");
    let (mut failed, mut run) = (Vec::new(), 0);
    let mut passed_over = BTreeSet::new();
    for case in cases.iter().filter(|case| case["input"]["kind"] == "dispatch") {
        let types = list(&case["input"]["frames"]).iter().map(|frame| frame["type"].as_str().unwrap());
        let elsewhere: Vec<&str> = types.filter(|kind| ELSEWHERE.contains(kind)).collect();
        if !elsewhere.is_empty() {
            passed_over.extend(elsewhere);
            continue;
        }
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(&home).unwrap();
        let expected = in_home(&case["expect"], &home);
        let found = run_case(&in_home(&case["input"], &home), &expected, &home);
        for (what, expected, found) in found {
            if expected != found {
                failed.push(format!("{}: {what}\n  expected {expected}\n  found    {found}", case["name"]));
            }
        }
        run += 1;
    }
    assert!(failed.is_empty(), "{} of {run} cases differ\n{}", failed.len(), failed.join("\n"));
    assert!(run > 0);
    eprintln!("{run} cases; passed over for {passed_over:?}");
}

/// A channel of somebody else.
struct Foreign(String);

impl Lifecycle for Foreign {
    fn id(&self) -> &str {
        &self.0
    }
    fn account(&self) -> &'static str {
        "ag_a"
    }
    fn provider(&self) -> &'static str {
        "telegram"
    }
    fn run(&self, _: &CancelToken, _: &dyn Fn(ChannelNews)) -> Exit {
        Exit::Ended
    }
}

/// A daemon as a case begins with it.
pub(super) struct Setup {
    pub(super) home: Home,
    pub(super) live: Arc<Live>,
    pub(super) duties: HubDuties,
    journal: Journal,
    pub(super) engine: Engine,
}

impl Setup {
    pub(super) fn of(setup: &Value, user_home: &Path) -> Self {
        Self::on(setup, user_home, Arc::new(RealDisk))
    }

    /// With a disk for what is provisioned.
    pub(super) fn on(setup: &Value, user_home: &Path, disk: Arc<dyn Disk>) -> Self {
        let home = Home::at(user_home.join(".botcord")).unwrap();
        home.prepare().unwrap();
        if setup["config"].is_object() {
            fs::write(home.config(), setup["config"].to_string()).unwrap();
        }
        for (agent, more) in members(&setup["credentials"]) {
            write(&home.credentials(agent), &credentials(agent, more).to_string());
        }
        for (path, content) in members(&setup["files"]) {
            let text = match content {
                Value::String(text) => text.clone(),
                _ => content["repeat"].as_str().unwrap().repeat(content["count"].as_u64().unwrap() as usize),
            };
            write(&user_home.join(path), &text);
        }
        for path in strings(&setup["directories"]).iter().chain(&strings(&setup["dirs"])) {
            fs::create_dir_all(user_home.join(path)).unwrap();
        }
        for (id, secret) in members(&setup["gateway_secrets"]) {
            write(&home.daemon_dir().join(format!("gateways/{id}.json")), &secret.to_string());
        }
        let config = load::load(&home.config()).unwrap();
        let loaded = strings(&setup["loaded"]);
        let (agents, foreign): (Vec<_>, Vec<_>) = loaded.into_iter().partition(|id| id.starts_with("ag_"));
        let hubs =
            if agents.is_empty() { Hubs::default() } else { Hubs::find(&home, &Config { agents, ..config.clone() }) };
        *hubs.unusable.lock().unwrap() = strings(&setup["add_channel_fails"]);
        let (mut parts, names, _) = parts::assemble(
            &home,
            &config,
            Arc::new(Follow::default()),
            &Rooms::default(),
            &hubs,
            &Gateways::default(),
        )
        .unwrap();
        // Messages are taken in, and wait.
        parts.settings.max_turns = 0;
        let journal = parts.journal.clone();
        let engine = Engine::new(parts).unwrap();
        engine.recover(Recovery::All);
        let channels = Channels::idle();
        hubs.open(&engine, &channels);
        for id in foreign {
            channels.add(Arc::new(Foreign(id)));
        }
        channels.start_all();
        let live = Arc::new(Live {
            home: home.clone(),
            user_home: user_home.to_owned(),
            journal: journal.clone(),
            engine: engine.clone(),
            channels,
            hubs,
            gateways: Gateways::default(),
            gateway_frames: Frames::new(&home),
            agents: names.agents,
            ingress: super::ingress::Ingress::open(&journal),
            settler: None,
            applied: Mutex::new(config.document.clone()),
            started_with: config.document,
            disk,
            register: Box::new(|hub, name, _| Ok(registered(hub, name))),
            provisioning: Mutex::default(),
            reloading: Mutex::new(()),
            link: Arc::default(),
            restart: crossbeam_channel::bounded(1).0,
            policies_told: Mutex::default(),
        });
        Self { home, duties: HubDuties::new(Arc::clone(&live)), live, journal, engine }
    }

    /// Credentials by the name of their file; those that are only put aside are there.
    fn credentials(&self) -> BTreeMap<String, Value> {
        let mut all = BTreeMap::new();
        for dir in [self.home.credentials_dir(), self.home.credentials_dir().join("revoked")] {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name().into_string().unwrap();
                if let Some(agent) = name.strip_suffix(".json") {
                    all.insert(agent.to_owned(), serde_json::from_slice(&fs::read(entry.path()).unwrap()).unwrap());
                }
            }
        }
        all
    }

    fn config(&self) -> Value {
        fs::read(self.home.config()).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap())
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Seed number n: the 32 bytes (7 n + i) mod 256.
fn seed(n: usize) -> Vec<u8> {
    (0..32).map(|i| ((7 * n + i) % 256) as u8).collect()
}

/// The credentials of an agent, as the vectors complete them.
fn credentials(agent: &str, more: &Value) -> Value {
    let key = SigningKey::from_seed(&seed(1)).unwrap();
    let mut file = json!({
        "version": 1, "hubUrl": "https://hub.example", "agentId": agent,
        "keyId": format!("k_{}", agent.strip_prefix("ag_").unwrap_or(agent)),
        "privateKey": crate::crypto::base64::encode(&seed(1)), "publicKey": key.public_text(),
        "savedAt": "2027-01-01T00:00:00.000Z",
    });
    for (name, value) in members(more) {
        file[name] = value.clone();
    }
    file
}

/// What is to be compared: the member of the expectation, what is expected, and what was found.
type Compared = (&'static str, Value, Value);

/// What the hub of the vectors makes of a registration.
fn registered(hub: &str, name: &str) -> Credentials {
    let key = SigningKey::from_seed(&seed(9)).unwrap();
    let seed = crate::crypto::base64::encode(&seed(9));
    let made = Credentials::new(hub.to_owned(), "ag_reg".into(), "k_reg".into(), key, seed);
    Credentials { display_name: Some(name.to_owned()), ..made }
}

/// Runs a case.
fn run_case(input: &Value, expected: &Value, user_home: &Path) -> Vec<Compared> {
    let setup = Setup::of(&input["setup"], user_home);
    let (config, credentials) = (setup.config(), setup.credentials());
    let began = now_ms();
    let acks: Vec<Value> = list(&input["frames"]).iter().map(|frame| ack(&setup, frame, began)).collect();
    let now_config = setup.config();
    // What the file says of routes holds already.
    assert_eq!(setup.engine.routes().user, load::load(&setup.home.config()).unwrap().routes);
    let mut found = Vec::new();
    let mut compare = |what: &'static str, value: Value| found.push((what, expected[what].clone(), value));
    compare("acks", Value::from(acks));
    compare("channels", setup.live.channels.statuses().into_keys().collect());
    compare("managed_routes", managed(&setup));
    // No agents and an empty list of agents are the same configuration: what is put back is put back exactly.
    let same =
        expected.get("config").is_some_and(|wanted| without_empty_agents(wanted) == without_empty_agents(&config));
    if same {
        assert_eq!(now_config, config, "put back exactly");
    } else {
        compare("config_changed", Value::from(now_config != config));
        if now_config != config {
            compare("config", now_config);
        }
    }
    let after = setup.credentials();
    let renames =
        list(&input["frames"]).iter().any(|frame| frame["type"] == "hello" || frame["type"] == "update_agent");
    let mut written = Map::new();
    for (agent, file) in &after {
        let mut file = at_the_clock(file, began);
        if renames && let Some(before) = credentials.get(agent) {
            // The name that the hub tells is kept; the original keeps the one that it had.
            file["displayName"] = before.get("displayName").cloned().unwrap_or_default();
            file.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        }
        if credentials.get(agent) != Some(&file) {
            written.insert(agent.clone(), file);
        }
    }
    let removed: Vec<Value> =
        credentials.keys().filter(|a| !after.contains_key(*a)).map(|a| a.as_str().into()).collect();
    compare("credentials_written", written.into());
    compare("credentials_removed", removed.into());
    if expected.get("installed").is_some() {
        compare("installed", installed(&setup, &expected["installed"]));
    }
    if expected.get("exists").is_some() {
        let there = |path: String| (path.clone(), user_home.join(path).exists().into());
        compare("exists", strings(&input["check_exists"]).into_iter().map(there).collect::<Map<_, _>>().into());
    }
    if expected.get("text").is_some() {
        let text = |path: String| {
            let text = fs::read_to_string(user_home.join(&path)).unwrap_or_default();
            (path, text.replace(NO_BIO, "<BIO_PLACEHOLDER>").into())
        };
        compare("text", strings(&input["read_text"]).into_iter().map(text).collect::<Map<_, _>>().into());
    }
    for (what, read) in [("injected", injected as Read), ("policy_calls", policies), ("tree", tree)] {
        if let Some(expected) = expected.get(what) {
            let (expected, seen) = read(&setup, expected, began);
            found.push((what, expected, seen));
        }
    }
    setup.engine.stop(std::time::Duration::ZERO);
    found
}

/// Reads an expectation, and what there is of its kind, in the same form.
type Read = fn(&Setup, &Value, i64) -> (Value, Value);

fn without_empty_agents(config: &Value) -> Value {
    let mut config = config.clone();
    if let Some(map) = config.as_object_mut() {
        map.retain(|key, value| key != "agents" || !list(value).is_empty());
    }
    config
}

fn ack(setup: &Setup, frame: &Value, began: i64) -> Value {
    let mut frame = frame.clone();
    frame["id"] = "f_1".into();
    let Incoming::Frame(frame) = read(&frame.to_string()) else { panic!("no frame: {frame}") };
    let mut ack = answer(&frame.id, &setup.duties.carry_out(&frame));
    let whole = ack.as_object_mut().unwrap();
    whole.remove("id");
    if let Some(error) = whole.get_mut("error").and_then(Value::as_object_mut) {
        assert!(error.remove("message").is_some_and(|text| text.as_str().is_some_and(|text| !text.is_empty())));
    }
    at_the_clock(&ack, began)
}

/// What was made with this machine's clock as the vectors' clock would have made it, and without what they leave out.
fn at_the_clock(value: &Value, began: i64) -> Value {
    let now = |at: i64| (began..=now_ms()).contains(&at);
    match value {
        Value::Number(number) if number.as_i64().is_some_and(now) => NOW.into(),
        Value::String(text) if crate::time::parse(text).is_some_and(now) => "2027-01-15T08:00:00.000Z".into(),
        Value::Array(items) => items.iter().map(|item| at_the_clock(item, began)).collect(),
        Value::Object(map) => {
            let left_out = ["mtimeMs", "daemonVersion", "hubControlTrustKeyFingerprints"];
            let kept = map.iter().filter(|(key, _)| !left_out.contains(&key.as_str()));
            kept.map(|(key, value)| (key.clone(), at_the_clock(value, began))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

/// The routes of the agents of hubs, by agent.
fn managed(setup: &Setup) -> Value {
    let routes = setup.engine.routes();
    let of_hubs = routes.managed.iter().filter(|route| route.matches.channel.is_none());
    let row = |route| {
        let route = serde_json::to_value(route).unwrap();
        (route["match"]["accountId"].as_str().unwrap().to_owned(), route)
    };
    of_hubs.map(row).collect::<Map<_, _>>().into()
}

fn injected(setup: &Setup, expected: &Value, began: i64) -> (Value, Value) {
    let mut found: Vec<_> = setup.journal.view(|ledger| ledger.entries().map(|e| (*e.message).clone()).collect());
    for message in &mut found {
        assert!((began..=now_ms()).contains(&message.received_at));
        message.received_at = NOW;
    }
    let expected: Vec<_> = list(expected).iter().map(|message| document::parse(message).unwrap()).collect();
    (serde_json::to_value(expected).unwrap(), serde_json::to_value(found).unwrap())
}

fn policies(setup: &Setup, expected: &Value, _: i64) -> (Value, Value) {
    let expected: Vec<_> = list(expected)
        .iter()
        .map(|call| {
            let policy = (call[0] == "put").then(|| Policy::from_wire(&call[3]));
            (call[1].as_str().unwrap().to_owned(), call[2].as_str().map(str::to_owned), policy)
        })
        .collect();
    let told = setup.live.policies_told.lock().unwrap().clone();
    (serde_json::to_value(expected).unwrap(), serde_json::to_value(told).unwrap())
}

/// What the daemon knows of the agents that were installed, and where it has it from.
fn installed(setup: &Setup, expected: &Value) -> Value {
    let row = |wanted: &Value| {
        let agent = wanted["agentId"].as_str().unwrap();
        let bound = setup.live.hubs.bound(agent).unwrap();
        let path = setup.home.credentials(agent);
        let file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        json!({"agentId": bound.id, "credentialsFile": path, "hubUrl": file["hubUrl"],
               "displayName": bound.display_name, "runtime": bound.runtime})
    };
    list(expected).iter().map(row).collect()
}

/// The directories of agents. The homes of other runtimes than the agent's own are not made here.
fn tree(setup: &Setup, expected: &Value, _: i64) -> (Value, Value) {
    let mut found = Vec::new();
    walk(&setup.home.agents_dir(), "agents/", &mut found);
    let of_others = |path: &str| path.contains("/codex-home/") || path.contains("/hermes-");
    let expected: Vec<(String, String)> = list(expected)
        .iter()
        .map(|row| (row[0].as_str().unwrap().to_owned(), row[1].as_str().unwrap().to_owned()))
        .filter(|(path, _)| !of_others(path))
        .collect();
    // The agent of this machine's own channel has a directory as well.
    found.retain(|(path, _): &(String, String)| !path.starts_with("agents/local/"));
    (serde_json::to_value(expected).unwrap(), serde_json::to_value(found).unwrap())
}

fn walk(dir: &Path, above: &str, found: &mut Vec<(String, String)>) {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let mode = format!("{:o}", fs::metadata(&path).unwrap().permissions().mode() & 0o777);
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == "skills" {
            continue;
        }
        if path.is_dir() {
            let shown = format!("{above}{name}/");
            found.push((shown.clone(), mode));
            walk(&path, &shown, found);
        } else {
            found.push((format!("{above}{name}"), mode));
        }
    }
}
