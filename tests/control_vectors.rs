//! Vectors of the control link: frames and their checks, login, addresses.

#[path = "support/hub_control/checks.rs"]
mod checks;
mod support;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bellhop::channel::botcord::credentials::check::check;
use bellhop::cli::args::{Request, parse};
use bellhop::cli::doctor::tables;
use bellhop::cli::host::RuntimeRow;
use bellhop::cli::log::format_line;
use bellhop::cli::stored::Stored;
use bellhop::config::paths::is_agent_id;
use bellhop::crypto::sign::SigningKey;
use bellhop::engine::gate::Policy;
use bellhop::engine::policy::{Policies, PolicySource, RETRY_MS};
use bellhop::link::botcord_control::connection::socket_url;
use bellhop::link::botcord_control::frame::{Frame, Handled, Incoming, Refused, read};
use bellhop::link::botcord_control::gate::{Gate, Step};
use bellhop::link::botcord_control::identity::{self, NO_BIO, Patch, Patched};
use bellhop::link::botcord_control::login::{self, DeviceCode, Poll};
use bellhop::link::botcord_control::machine::{Effect, Event, Machine, Timing};
use bellhop::link::botcord_control::replay::Replay;
use bellhop::link::botcord_control::ring::{KeyRing, fingerprint, signing_input};
use bellhop::link::botcord_control::session::adopted;
use bellhop::link::botcord_control::user_auth::{self, Tokens, UserAuth};
use bellhop::net::url;
use bellhop::runtime::resolve::{extend_path, extra_directories};
use serde_json::{Value, json};
use support::temp_dir::TempDir;

/// Cases of a file whose `kind` is one of `wanted`; every other one has to be in `elsewhere`.
fn cases(file: &str, wanted: &[&str], elsewhere: &[&str]) -> Vec<(String, Value, Value)> {
    let path = format!("{}/tests/vectors/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let cases: Vec<Value> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut found = Vec::new();
    for case in cases {
        let kind = case["input"]["kind"].as_str().unwrap_or_default();
        if wanted.contains(&kind) {
            found.push((case["name"].as_str().unwrap().into(), case["input"].clone(), case["expect"].clone()));
        } else {
            assert!(elsewhere.contains(&kind), "{file}: nothing knows the kind {kind:?}");
        }
    }
    for kind in wanted {
        assert!(found.iter().any(|(_, input, _)| input["kind"] == *kind), "{file}: no case of kind {kind:?}");
    }
    found
}

#[track_caller]
fn compare(cases: Vec<(String, Value, Value)>, run: impl Fn(&str, &Value) -> Value) {
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|(name, input, expect)| {
            let found = run(name, input);
            (found != *expect).then(|| format!("{name}:\n  expected {expect}\n  found    {found}"))
        })
        .collect();
    assert!(failed.is_empty(), "{} of {} failed\n{}", failed.len(), cases.len(), failed.join("\n"));
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn frame(text: &str) -> Frame {
    match read(text) {
        Incoming::Frame(frame) => frame,
        other => panic!("{text}: {other:?}"),
    }
}

/// Seed number n: the 32 bytes (7 n + i) mod 256.
fn seed(n: usize) -> Vec<u8> {
    (0..32).map(|i| ((7 * n + i) % 256) as u8).collect()
}

#[test]
fn frames_are_checked_as_the_vectors_say() {
    let wanted = ["keypair", "canonical", "canonical_text", "verify", "inbound", "close", "backoff"];
    // The daemon's own tests have `dispatch`; the others are below, and with what they are about.
    let elsewhere = [
        "dispatch",
        "cloud_inbound",
        "settle",
        "policy",
        "hub_validate_runtime_snapshot",
        "hub_validate_agent_skill_snapshot",
    ];
    compare(cases("control-frames", &wanted, &elsewhere), |name, input| match input["kind"].as_str().unwrap() {
        "keypair" => {
            let key = SigningKey::from_text(input["seed_b64"].as_str().unwrap()).unwrap();
            json!({"public_key_b64": key.public_text(), "fingerprint": fingerprint(&key.public_text())})
        }
        "canonical" => {
            let text = signing_input(&frame(&input["frame"].to_string()));
            let signature = SigningKey::from_seed(&seed(1)).unwrap().sign_text(text.as_bytes());
            json!({"text": text, "signature_b64_by_seed_1": signature})
        }
        "canonical_text" => json!({"text": signing_input(&frame(input["frame_text"].as_str().unwrap()))}),
        "verify" => {
            let ring = KeyRing::new(strings(&input["trusted_keys"]));
            json!({"valid": ring.verifies(&frame(input["frame_text"].as_str().unwrap()))})
        }
        "inbound" => inbound(name, input),
        "close" => close(input["code"].as_u64().unwrap() as u16),
        _ => {
            let delay = |n| Timing::default().delay(n, input["random"].as_f64().unwrap());
            let delays: Vec<u64> = (0..input["attempts"].as_u64().unwrap() as usize).map(delay).collect();
            json!({"delays_ms": delays})
        }
    });
}

/// What a hub says of policies, and what it was asked.
struct Far {
    general: Value,
    effective: Option<Value>,
    asked: Mutex<Vec<Value>>,
}

impl PolicySource for Far {
    fn fetch(&self, agent: &str, conversation: Option<&str>) -> Result<Option<Policy>, String> {
        let (call, told) = match conversation {
            Some(room) => (json!(["effective", agent, room]), self.effective.as_ref().and_then(|all| all.get(room))),
            None => (json!(["global", agent]), Some(&self.general)),
        };
        self.asked.lock().unwrap().push(call);
        match told {
            Some(Value::String(_)) => Err("the hub cannot be asked".into()),
            told => Ok(told.filter(|policy| policy.is_object()).map(Policy::from_wire)),
        }
    }

    fn per_conversation(&self) -> bool {
        self.effective.is_some()
    }
}

#[test]
fn policies_are_found_as_the_vectors_say() {
    let elsewhere = [
        "keypair",
        "canonical",
        "canonical_text",
        "verify",
        "inbound",
        "close",
        "backoff",
        "dispatch",
        "cloud_inbound",
        "settle",
        "hub_validate_runtime_snapshot",
        "hub_validate_agent_skill_snapshot",
    ];
    compare(cases("control-frames", &["policy"], &elsewhere), |_, input| {
        let effective = input.get("fetch_effective").cloned();
        let far = Far { general: input["fetch_global"].clone(), effective, asked: Mutex::default() };
        let policies = Policies::default();
        let (mut now, mut resolved) = (1_800_000_000_000, Vec::new());
        for step in input["steps"].as_array().unwrap() {
            let (word, of) = step.as_object().unwrap().iter().next().unwrap();
            let (agent, room) = (of["agent"].as_str().unwrap_or_default(), of["room"].as_str());
            match word.as_str() {
                // No room is like one of which nothing is said.
                "resolve" => resolved.push(policies.resolve(&far, agent, room.unwrap_or(""), now)),
                "put" => policies.cache().put(agent, room, Policy::from_wire(&of["policy"]), now),
                "invalidate" => policies.cache().invalidate(agent, room),
                "advance_ms" => now += of.as_i64().unwrap(),
                other => panic!("nothing knows the step {other:?}"),
            }
            // A hub that could not be asked has half a minute of rest; the vectors ask on.
            if far.general.is_string() {
                now += RETRY_MS;
            }
        }
        json!({"resolved": resolved, "fetches": *far.asked.lock().unwrap()})
    });
}

#[test]
fn the_hub_of_the_tests_takes_what_the_vectors_take() {
    let elsewhere = [
        "keypair",
        "canonical",
        "canonical_text",
        "verify",
        "inbound",
        "close",
        "backoff",
        "dispatch",
        "cloud_inbound",
        "settle",
        "policy",
    ];
    let wanted = ["hub_validate_runtime_snapshot", "hub_validate_agent_skill_snapshot"];
    compare(cases("control-frames", &wanted, &elsewhere), |_, input| {
        let params = &input["params"];
        let stored = if input["kind"] == wanted[0] {
            checks::runtime_snapshot(params, 1_800_000_000_000).then(|| checks::stored_runtimes(params))
        } else {
            checks::skill_snapshot(params, 1_800_000_000_000).then(|| checks::stored_skills(params))
        };
        let mut found = stored.clone().unwrap_or_else(|| json!({}));
        found["accepted"] = stored.is_some().into();
        found
    });
}

/// A gate with the handler of the vectors behind it.
fn inbound(name: &str, input: &Value) -> Value {
    let ring = KeyRing::new(strings(&input["trusted_keys"]));
    let mut gate = Gate::new(ring, false, Replay::in_memory());
    let (mut sent, mut dispatched, mut revoked) = (Vec::new(), Vec::new(), false);
    let mut now = input["now_ms"].as_i64().unwrap();
    for message in input["frames"].as_array().unwrap() {
        now = message["now_ms"].as_i64().unwrap_or(now);
        match gate.take(message["text"].as_str().unwrap(), now) {
            Step::Send(mut answer) => {
                // The first answer comes again, whole; the original says no more than that there was one.
                if let Some(result) = answer.get_mut("result").filter(|result| result["duplicate"] == true) {
                    *result = json!({"duplicate": true});
                }
                sent.push(answer);
            }
            Step::Handle(frame) => {
                dispatched.push(frame.id.clone());
                let handled: Handled = match frame.kind.as_str() {
                    "boom" => Err(Refused::failed("boom")),
                    "void" => Ok(None),
                    kind => Ok(Some(json!({"handled": kind}))),
                };
                sent.push(gate.finish(&frame.id, &handled));
            }
            Step::Revoked(answer) => {
                revoked = true;
                sent.push(answer);
            }
            Step::Drop(_) | Step::Answered { .. } => {}
        }
    }
    if name == "inbound-missing-ts-original-accepts" {
        // With keys a frame without a time is refused: it could be replayed for ever.
        assert_eq!((sent[0]["error"]["code"].as_str(), dispatched.len()), (Some("stale_ts"), 0));
        return json!({"sent": [{"id": "a", "ok": true, "result": {"handled": "ping"}}], "dispatched": ["a"],
                      "stopped": false, "auth_expired_flag": false});
    }
    for answer in &mut sent {
        if let Some(error) = answer.get_mut("error").and_then(Value::as_object_mut) {
            error.remove("message");
        }
    }
    json!({"sent": sent, "dispatched": dispatched, "stopped": revoked, "auth_expired_flag": revoked})
}

/// What a close code does when the one forced renewal, where there is one, is rejected.
fn close(code: u16) -> Value {
    let mut machine = Machine::new(Timing::default());
    for event in [Event::Clock, Event::Token, Event::Opened] {
        machine.step(event, 0, 0.0);
    }
    let mut effects = machine.step(Event::Closed(code), 0, 0.0);
    if matches!(machine.step(Event::Clock, 0, 0.0)[..], [Effect::Token { force: true }]) {
        effects = machine.step(Event::Rejected("no".into()), 0, 0.0);
    }
    let expired = effects.iter().any(|effect| matches!(effect, Effect::Expired(_)));
    json!({"auth_expired_flag": expired, "reconnect": !machine.is_dead()})
}

fn tokens(tokens: &Tokens, asked: &str) -> Value {
    let hub = tokens.hub_url.clone().unwrap_or_else(|| asked.trim_end_matches('/').to_owned());
    json!({
        "accessToken": tokens.access_token, "refreshToken": tokens.refresh_token,
        "expiresIn": number(tokens.expires_in), "userId": tokens.user_id,
        "daemonInstanceId": tokens.daemon_instance_id, "hubUrl": hub,
    })
}

fn number(value: f64) -> Value {
    if value.fract() == 0.0 { json!(value as i64) } else { json!(value) }
}

fn request(hub: &str, path: &str, body: &Value) -> Value {
    json!({"url": format!("{}{path}", adopted(hub, None)), "method": "POST", "body": body})
}

#[test]
fn logins_are_as_the_vectors_say() {
    let wanted = [
        "refresh",
        "device_code",
        "device_poll",
        "install_token",
        "user_auth_load",
        "near_expiry",
        "start_auth",
        "key_ring",
        "next_param",
        "ws_url",
    ];
    let elsewhere = [&LOCAL[..], &OTHERS[..], &NOT_DONE[..]].concat();
    compare(cases("daemon-local", &wanted, &elsewhere), |_, input| {
        let text = |key: &str| input[key].as_str().unwrap_or_default();
        let status = input["http_status"].as_u64().unwrap_or(200) as u16;
        let body = &input["http_body"];
        let hub = text("hub_url");
        match text("kind") {
            "refresh" => {
                let mut out =
                    json!({"request": request(hub, login::REFRESH, &login::refresh_body(text("refresh_token")))});
                match Tokens::read(body) {
                    Ok(read) if status == 200 => {
                        out["ok"] = true.into();
                        out["token"] = tokens(&read, hub);
                    }
                    _ => {
                        out["ok"] = false.into();
                        out["status"] = if status == 200 { Value::Null } else { status.into() };
                    }
                }
                out
            }
            "device_code" => {
                let label = input["label"].as_str().and_then(login::label);
                let mut out =
                    json!({"request": request(hub, login::DEVICE_CODE, &login::device_code_body(label.as_deref()))});
                match DeviceCode::read(body) {
                    Ok(code) => {
                        out["ok"] = true.into();
                        out["value"] = json!({
                            "deviceCode": code.device_code, "userCode": code.user_code,
                            "verificationUri": code.verification_uri,
                            "expiresIn": number(code.expires_in), "interval": number(code.interval),
                        });
                        if let Some(uri) = code.verification_uri_complete {
                            out["value"]["verificationUriComplete"] = uri.into();
                        }
                    }
                    Err(_) => out["ok"] = false.into(),
                }
                out
            }
            "device_poll" => match login::poll(status, body) {
                Poll::Pending => json!({"outcome": "pending"}),
                Poll::SlowDown(seconds) => json!({"outcome": "slow_down", "interval": number(seconds)}),
                Poll::Issued(read) => json!({"outcome": "issued", "token": tokens(&read, hub)}),
                Poll::Stop(_) => json!({"outcome": "stop"}),
                Poll::Odd => json!({"outcome": "retry_on_next_tick"}),
            },
            "install_token" => {
                let (label, instance) =
                    (input["label"].as_str().and_then(login::label), input["daemon_instance_id"].as_str());
                let asked = login::install_token_body(text("install_token"), label.as_deref(), instance);
                let mut out = json!({"request": request(hub, login::INSTALL_TOKEN, &asked)});
                match Tokens::read(body) {
                    Ok(read) if status == 200 => {
                        out["ok"] = true.into();
                        out["token"] = tokens(&read, hub);
                    }
                    _ => {
                        out["ok"] = false.into();
                        out["status"] = status.into();
                    }
                }
                out
            }
            "user_auth_load" => load(input),
            "near_expiry" => {
                let auth = UserAuth { expires_at: input["expires_at"].as_f64().unwrap(), ..some_login() };
                json!({"refresh": auth.is_near_expiry(input["now_ms"].as_i64().unwrap())})
            }
            "start_auth" => {
                let ticket = !input["install_token"].is_null();
                let action = login::action(input["existing"] == true, input["relogin"] == true, ticket);
                json!({"action": match action {
                    login::Action::InstallToken => "install-token",
                    login::Action::ReuseExisting => "reuse-existing",
                    login::Action::DeviceCode => "device-code",
                }})
            }
            "key_ring" => {
                let variable = |name: &str| input["env"][name].as_str();
                let ring = KeyRing::of(
                    variable("BOTCORD_HUB_CONTROL_PUBLIC_KEYS"),
                    variable("BOTCORD_HUB_CONTROL_PUBLIC_KEY"),
                    &[],
                );
                json!({"keys": ring.keys(), "fingerprints": ring.fingerprints()})
            }
            "next_param" => {
                assert_eq!(text("next"), "/settings/daemons");
                json!({"url": login::with_next(text("url"))})
            }
            _ => match socket_url(hub, text("path"), text("label")) {
                Ok(url) => json!({"ok": true, "value": url}),
                Err(_) => json!({"ok": false}),
            },
        }
    });
}

/// Kinds about what the daemon keeps, shows and reads of its command line.
const LOCAL: [&str; 13] = [
    "hub_url",
    "log_line",
    "status_render",
    "doctor_render",
    "doctor_channel",
    "agent_id",
    "identity_patch",
    "merge_path",
    "default_path_entries",
    "transcript_enabled",
    "redact_failure_text",
    "argv",
    "duration",
];

/// Kinds that belong to other parts: session profiles, providers of messages, the cloud.
const OTHERS: [&str; 5] = ["session_dir", "session_profile_apply", "token_preview", "provider_base_url", "cloud_env"];

/// Kinds about what bellhop does not do: it looks for no daemons in the table of processes (the lock says who runs), and
/// it reports errors to nobody.
const NOT_DONE: [&str; 2] = ["ps_command", "error_reporting_config"];

#[test]
fn local_things_are_as_the_vectors_say() {
    let login = [
        "refresh",
        "device_code",
        "device_poll",
        "install_token",
        "user_auth_load",
        "near_expiry",
        "start_auth",
        "key_ring",
        "next_param",
        "ws_url",
    ];
    let elsewhere = [&login[..], &OTHERS[..], &NOT_DONE[..]].concat();
    compare(cases("daemon-local", &LOCAL, &elsewhere), |_, input| {
        let text = |key: &str| input[key].as_str().unwrap_or_default();
        match text("kind") {
            "hub_url" => match url::server(text("url")) {
                Ok(url) => json!({"ok": true, "value": url}),
                Err(_) => json!({"ok": false}),
            },
            "log_line" => {
                let level = text("level").parse().unwrap();
                let fields = input["fields"].as_object().into_iter().flatten();
                let fields = fields.map(|(key, value)| format!("{key}={value}"));
                let message: Vec<String> = std::iter::once(text("message").to_owned()).chain(fields).collect();
                let line = format_line(level, &message.join(" "), input["now_ms"].as_i64());
                json!({"line": line.trim_end()})
            }
            "status_render" => json!({"text": status(input)}),
            "doctor_render" => json!({"text": doctor(input)}),
            "doctor_channel" => {
                let status = input["http"]["status"].as_u64().unwrap() as u16;
                let checked = check(text("credentials_path"), input["file"].as_str(), &mut |_| Ok(status));
                json!({
                    "credentials_ok": checked.credentials_ok, "hub_ok": checked.hub_ok, "hub_url": checked.hub_url,
                    "hub_message": checked.hub_message,
                })
            }
            "agent_id" => json!({"safe": is_agent_id(text("id"))}),
            "identity_patch" => {
                let before = input["text"].as_str();
                let patched = identity::patch(before, &Patch::read(&input["patch"]));
                let after = match &patched {
                    Patched::Changed(text) => Some(text.replace(NO_BIO, "<BIO_PLACEHOLDER>")),
                    Patched::Skipped(_) => before.map(ToOwned::to_owned),
                };
                json!({"result": patched.report(), "text": after})
            }
            "merge_path" => {
                let extra: Vec<PathBuf> = strings(&input["extras"]).into_iter().map(PathBuf::from).collect();
                json!({"path": extend_path(OsStr::new(text("base")), &extra).to_str().unwrap()})
            }
            "default_path_entries" => json!({"entries": extra_directories(Path::new(text("home")))}),
            "transcript_enabled" => {
                let document = match &input["config"] {
                    Value::Null => json!({}),
                    on => json!({"transcript": {"enabled": on}}),
                };
                let config = bellhop::config::load::parse(&document.to_string(), Path::new("f")).unwrap();
                json!({"enabled": config.transcript_with(input["env"].as_str()).0})
            }
            "redact_failure_text" => json!({"text": bellhop::redact::text_tail(text("text"), 8_192)}),
            "argv" => argv(&strings(&input["argv"])),
            _ => json!({"ms": bellhop::time::parse_age(text("text")).map(|age| age.as_millis() as u64)}),
        }
    });
}

fn status(input: &Value) -> String {
    let strays = input["daemonProcesses"].as_array().into_iter().flatten().filter_map(|p| p["pid"].as_i64());
    let stored = Stored {
        pid: input["pid"].as_i64(),
        alive: input["alive"] == true,
        agents: strings(&input["agents"]).into_iter().map(ToOwned::to_owned).collect(),
        discovered: input["agentsSource"].as_str().map(|source| source == "credentials"),
        credentials_dir: "~/.botcord/credentials".into(),
        config: input["configPath"].as_str().map(ToOwned::to_owned),
        strays: strays.collect(),
        snapshot: input.get("snapshot").filter(|snapshot| snapshot.is_object()),
        age_ms: input["snapshotAgeMs"].as_i64(),
        now_ms: input["now_ms"].as_i64().unwrap(),
    };
    stored.text()
}

fn doctor(input: &Value) -> String {
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let row = |runtime: &Value| RuntimeRow {
        id: text(&runtime["id"]).unwrap(),
        name: text(&runtime["displayName"]).unwrap(),
        ok: runtime["result"]["available"] == true,
        version: text(&runtime["result"]["version"]),
        path: text(&runtime["result"]["path"]),
        hint: text(&runtime["installHint"]),
        ..RuntimeRow::default()
    };
    let runtimes: Vec<RuntimeRow> = input["runtimes"].as_array().unwrap().iter().map(row).collect();
    tables(&runtimes, input["channels"].as_array().unwrap())
}

/// What a command line comes to, under the names that stand on it.
fn argv(args: &[&str]) -> Value {
    let parsed = match parse(args.iter().map(OsString::from)).unwrap() {
        Request::Nothing(_) => return json!({"cmd": "", "flags": {}, "lists": {}}),
        Request::Help(_) => return json!({"cmd": args[0], "flags": {}, "lists": {}}),
        Request::Run(parsed) => parsed,
        Request::Version => panic!("{args:?}"),
    };
    let mut out = json!({"cmd": parsed.command.name, "flags": {}, "lists": {}});
    if let Some(verb) = parsed.verb {
        out["sub"] = verb.name.into();
    }
    for option in parsed.verb.unwrap_or(parsed.command).options {
        let short = option.short.map(|short| short.to_string()).filter(|short| args.contains(&&*format!("-{short}")));
        let name = short.unwrap_or_else(|| option.long.to_owned());
        let all = parsed.all(option.long);
        if option.value.is_alone() && parsed.flag(option.long) {
            out["flags"][&name] = true.into();
        } else if let Some(last) = all.last().filter(|_| !option.value.is_alone()) {
            out["flags"][&name] = last.clone().into();
            if option.long == "agent" {
                out["lists"]["agent"] = all.into();
            }
        }
    }
    out
}

fn some_login() -> UserAuth {
    let text =
        r#"{"userId":"u","daemonInstanceId":"d","hubUrl":"h","accessToken":"a","refreshToken":"r","expiresAt":0}"#;
    user_auth::parse(text.as_bytes(), "now").unwrap()
}

fn load(input: &Value) -> Value {
    let dir = TempDir::new("auth");
    let path = user_auth::path(dir.path());
    if let Some(text) = input["file"].as_str() {
        fs::write(&path, text).unwrap();
        let mode = u32::from_str_radix(input["mode"].as_str().unwrap(), 8).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    // The clock of the vectors.
    match user_auth::load(&path, "2027-01-15T08:00:00.000Z") {
        Ok(auth) => json!({"ok": true, "value": auth.map_or(Value::Null, |auth| auth.document())}),
        Err(_) => json!({"ok": false}),
    }
}

#[test]
fn tokens_are_in_no_debug_output() {
    let mut auth = some_login();
    auth.access_token = "at_secret".into();
    auth.refresh_token = "drt_secret".into();
    assert!(!format!("{auth:?}").contains("secret"));
}
