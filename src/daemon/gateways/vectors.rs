//! The shared cases about gateways (`control-frames.json`, kind `dispatch`), and what they leave open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use serde_json::{Map, Value, json};

use super::frames::{Desk, Frames};
use super::login::Login;
use crate::channel::manager::ChannelStatus;
use crate::config::{Config, ConfigError, GatewayProfile, Home, load};
use crate::message::Outbound;
use crate::store::tests::TempDir;
use crate::time::now_ms;

/// Frames of this module.
const KINDS: [&str; 8] = [
    "list_gateways",
    "upsert_gateway",
    "remove_gateway",
    "test_gateway",
    "gateway_send",
    "gateway_login_start",
    "gateway_login_status",
    "gateway_recent_senders",
];

/// A daemon that only writes down what is done with it.
struct Bench {
    dir: TempDir,
    home: Home,
    agents: Vec<String>,
    failing: Vec<String>,
    loaded: Mutex<BTreeMap<String, ChannelStatus>>,
    sent: Mutex<Vec<Value>>,
    frames: Frames,
    config_before: Value,
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Bench {
    fn new(setup: &Value) -> Self {
        let dir = TempDir::new();
        let home = Home::at(dir.0.join(".botcord")).unwrap();
        home.prepare().unwrap();
        let setup: Value =
            serde_json::from_str(&setup.to_string().replace("$HOME", &dir.0.display().to_string())).unwrap();
        if setup["config"].is_object() {
            fs::write(home.config(), setup["config"].to_string()).unwrap();
        }
        fs::create_dir_all(home.gateways_dir()).unwrap();
        for (id, secret) in setup["gateway_secrets"].as_object().into_iter().flatten() {
            fs::write(home.gateway_secret(id), secret.to_string()).unwrap();
        }
        let loaded = strings(&setup["loaded"]);
        let status = |id: &String| ChannelStatus { channel: id.clone(), running: true, ..ChannelStatus::default() };
        let bench = Self {
            frames: Frames::new(&home),
            agents: loaded
                .iter()
                .filter(|id| id.starts_with("ag_"))
                .cloned()
                .chain(strings(&setup["config"]["agents"]))
                .collect(),
            failing: strings(&setup["add_channel_fails"]),
            loaded: Mutex::new(loaded.iter().map(|id| (id.clone(), status(id))).collect()),
            sent: Mutex::default(),
            config_before: setup["config"].clone(),
            home,
            dir,
        };
        for login in setup["login_sessions"].as_array().into_iter().flatten() {
            let text = |key: &str| login[key].as_str().unwrap_or_default().to_owned();
            let profile = ["baseUrl", "appId", "domain", "userOpenId"];
            let profile =
                profile.iter().filter(|k| login[**k].is_string()).map(|k| ((*k).to_owned(), login[*k].clone()));
            let secret = login["botToken"].as_str().or(login["appSecret"].as_str()).map(str::to_owned);
            let (provider, account, preview) = (text("provider"), text("accountId"), text("tokenPreview"));
            let login = Login { provider, account, secret, profile: profile.collect(), preview, began: now_ms() };
            bench.frames.logins.put(&text_of(&setup, &login), login);
        }
        bench
    }

    fn ask(&self, kind: &str, params: &Value) -> Value {
        // What the link does with a frame without parameters.
        let params = if params.is_null() { json!({}) } else { params.clone() };
        let done = self.frames.carry_out(self, kind, &params).expect("a frame of this module");
        match done {
            Ok(result) => json!({"ok": true, "result": result}),
            Err(refused) => json!({"ok": false, "error": {"code": refused.code}}),
        }
    }

    fn config(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.home.config()).unwrap_or("null".into())).unwrap()
    }

    fn secrets(&self) -> Value {
        let mut out = Map::new();
        for entry in fs::read_dir(self.home.gateways_dir()).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let Some(id) = name.strip_suffix(".json").filter(|id| !id.contains('.')) else { continue };
            out.insert(id.to_owned(), serde_json::from_slice(&fs::read(entry.path()).unwrap()).unwrap());
        }
        out.into()
    }

    fn channels(&self) -> Vec<String> {
        self.loaded.lock().unwrap().keys().cloned().collect()
    }
}

/// The id of a login of a set-up, which is no part of the login itself.
fn text_of(setup: &Value, login: &Login) -> String {
    let all = setup["login_sessions"].as_array().unwrap();
    let same = |l: &&Value| l["provider"] == login.provider.as_str() && l["accountId"] == login.account.as_str();
    all.iter().find(same).unwrap()["loginId"].as_str().unwrap().to_owned()
}

impl Desk for Bench {
    fn home(&self) -> &Home {
        &self.home
    }

    fn config(&self) -> Result<Config, ConfigError> {
        load::load(&self.home.config())
    }

    fn knows(&self, agent: &str) -> bool {
        self.agents.iter().any(|known| known == agent)
    }

    fn status(&self, id: &str) -> Option<ChannelStatus> {
        self.loaded.lock().unwrap().get(id).cloned()
    }

    fn add(&self, profile: &GatewayProfile) -> Result<(), String> {
        let status = ChannelStatus { channel: profile.id.clone(), running: true, ..ChannelStatus::default() };
        self.loaded.lock().unwrap().remove(&profile.id);
        if self.failing.contains(&profile.id) {
            return Err("it does not want to".into());
        }
        self.loaded.lock().unwrap().insert(profile.id.clone(), status);
        Ok(())
    }

    fn remove(&self, id: &str) -> Result<(), String> {
        self.loaded.lock().unwrap().remove(id);
        Ok(())
    }

    fn send(&self, out: &Outbound) -> Result<Option<String>, String> {
        if out.text == "fail" {
            return Err("no".into());
        }
        let sent = json!({"channel": out.channel, "accountId": out.account_id, "conversationId": out.conversation_id,
            "text": out.text, "traceId": out.trace_id});
        self.sent.lock().unwrap().push(sent);
        Ok(Some("pm_1".into()))
    }

    fn ask(&self, _: &GatewayProfile, token: &str) -> Result<Value, String> {
        Ok(json!({"id": 1, "asked_with": token.len()}))
    }
}

/// What is different from what is expected after the frames of a case.
fn differences(bench: &Bench, input: &Value, expect: &Value) -> Vec<String> {
    let acks: Vec<Value> = input["frames"]
        .as_array()
        .unwrap()
        .iter()
        .map(|frame| bench.ask(frame["type"].as_str().unwrap(), &frame["params"]))
        .collect();
    let expect: Value =
        serde_json::from_str(&expect.to_string().replace("$HOME", &bench.dir.0.display().to_string())).unwrap();
    let mut found = json!({"acks": acks, "channels": bench.channels()});
    let changed = bench.config() != bench.config_before;
    found["config_changed"] = changed.into();
    if changed {
        found["config"] = bench.config();
    }
    if expect.get("gateway_secrets").is_some() {
        found["gateway_secrets"] = bench.secrets();
    }
    if expect.get("sent").is_some() || !bench.sent.lock().unwrap().is_empty() {
        found["sent"] = bench.sent.lock().unwrap().clone().into();
    }
    let mut different = Vec::new();
    for (key, value) in expect.as_object().unwrap() {
        match key.as_str() {
            // Gateways leave agents alone.
            "managed_routes" => {}
            "credentials_written" | "credentials_removed" => {
                assert!(value.as_array().is_none_or(Vec::is_empty) && value.as_object().is_none_or(Map::is_empty));
            }
            key => {
                if found[key] != *value {
                    different.push(format!("{key}:\n  expected {value}\n  found    {}", found[key]));
                }
            }
        }
    }
    different
}

#[test]
fn the_shared_cases_hold() {
    let vectors: Vec<Value> =
        serde_json::from_slice(include_bytes!("../../../tests/vectors/control-frames.json")).unwrap();
    let (mut failed, mut tried) = (Vec::new(), BTreeSet::new());
    for case in vectors {
        let input = &case["input"];
        let kinds: Vec<&str> =
            input["frames"].as_array().into_iter().flatten().filter_map(|f| f["type"].as_str()).collect();
        if input["kind"] != "dispatch" || !kinds.iter().any(|k| KINDS.contains(k)) {
            continue;
        }
        assert!(kinds.iter().all(|k| KINDS.contains(k)), "{}: frames of several subjects", case["name"]);
        tried.extend(kinds.into_iter().map(str::to_owned));
        let bench = Bench::new(&input["setup"]);
        let different = differences(&bench, input, &case["expect"]);
        if !different.is_empty() {
            failed.push(format!("{}: {}", case["name"], different.join("\n")));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(tried.len() >= 7, "{tried:?}");
}

fn bench(gateways: Value) -> Bench {
    Bench::new(&json!({
        "config": {"defaultRoute": {"adapter": "claude-code", "cwd": "/"}, "agents": ["ag_a"], "mine": 1,
            "thirdPartyGateways": gateways},
        "loaded": ["ag_a", "gw_1"], "gateway_secrets": {"gw_1": {"botToken": "123456:ABCDEFGH"}},
    }))
}

fn telegram(more: Value) -> Value {
    let mut profile = json!({"id": "gw_1", "type": "telegram", "accountId": "ag_a", "allowedChatIds": ["42"]});
    profile.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    profile
}

#[test]
fn what_an_update_does_not_say_stays_and_what_fails_changes_nothing() {
    let mut bench = bench(json!([telegram(json!({"label": "L", "splitAt": 9, "foo": 1}))]));
    let update = json!({"id": "gw_1", "type": "telegram", "accountId": "ag_a", "settings": {"splitAt": 7}});
    assert_eq!(bench.ask("upsert_gateway", &update)["ok"], true);
    let wanted = telegram(json!({"label": "L", "splitAt": 7, "foo": 1, "enabled": true}));
    assert_eq!((bench.config()["thirdPartyGateways"][0].clone(), bench.config()["mine"].clone()), (wanted, json!(1)));
    let (config, secrets) = (bench.config(), bench.secrets());
    bench.failing.push("gw_1".into());
    let other = json!({"id": "gw_1", "type": "telegram", "accountId": "ag_a", "label": "M",
        "secret": {"botToken": "777777:ABCDEFGH"}});
    assert_eq!(bench.ask("upsert_gateway", &other)["error"]["code"], "addChannel_failed");
    assert_eq!((bench.config(), bench.secrets()), (config, secrets));
    // One that is switched off stays so until the hub says otherwise.
    let off = json!({"id": "gw_1", "type": "telegram", "accountId": "ag_a", "enabled": false});
    assert_eq!(bench.ask("upsert_gateway", &off)["result"]["enabled"], false);
    assert_eq!(bench.ask("upsert_gateway", &update)["result"]["enabled"], false);
    assert_eq!(bench.channels(), ["ag_a"]);
}

#[test]
fn ids_and_types_are_checked_at_the_door() {
    let bench = bench(json!([]));
    let base = json!({"id": "g", "type": "telegram", "accountId": "ag_a", "secret": {"botToken": "1:x"}});
    for (key, value) in [
        ("id", json!("../x")),
        ("id", json!("local")),
        ("id", json!("ag_a")),
        ("accountId", json!("a/b")),
        ("label", json!(5)),
        ("enabled", json!("yes")),
        ("secret", json!("x")),
        ("secret", json!({"botToken": 5})),
        ("settings", json!([])),
        ("settings", json!({"splitAt": "x"})),
        ("settings", json!({"allowedChatIds": "x"})),
        ("settings", json!({"allowedSenderIds": [{}]})),
        ("settings", json!({"baseUrl": "https://api.telegram.org.evil.example"})),
    ] {
        let mut params = base.clone();
        params[key] = value;
        assert_eq!(bench.ask("upsert_gateway", &params)["error"]["code"], "bad_params", "{params}");
    }
    for kind in ["remove_gateway", "test_gateway"] {
        assert_ne!(bench.ask(kind, &json!({"id": "../x"}))["ok"], true);
    }
    assert_eq!((bench.config(), bench.secrets().as_object().unwrap().len()), (bench.config_before.clone(), 1));
    // A short secret is not given away.
    assert_eq!(bench.ask("upsert_gateway", &base)["result"]["tokenPreview"], "****");
}

#[test]
fn a_secret_stays_where_the_hub_says_so() {
    let bench = bench(json!([telegram(json!({}))]));
    let kept = bench.ask("remove_gateway", &json!({"id": "gw_1", "deleteSecret": false}));
    assert_eq!(kept["result"], json!({"id": "gw_1", "removed": true, "secretDeleted": false}));
    assert_eq!(bench.secrets()["gw_1"]["botToken"], "123456:ABCDEFGH");
    assert_eq!(bench.ask("test_gateway", &json!({"id": "gw_1"}))["error"]["code"], "unknown_gateway");
}

#[test]
fn words_are_said_once_for_a_key_also_after_a_restart() {
    let bench = bench(json!([telegram(json!({}))]));
    let send = |bench: &Bench, text: &str, key: Value| {
        let params = json!({"agentId": "ag_a", "gatewayId": "gw_1", "conversationId": "telegram:user:42", "text": text,
            "idempotencyKey": key});
        bench.ask("gateway_send", &params)
    };
    assert_eq!(send(&bench, "fail", json!("k"))["error"]["code"], "send_failed");
    let first = send(&bench, "a", json!("k"));
    assert_eq!((first["ok"].clone(), send(&bench, "b", json!("k"))), (json!(true), first.clone()));
    let again =
        Bench { frames: Frames::new(&bench.home), sent: Mutex::new(bench.sent.lock().unwrap().clone()), ..bench };
    assert_eq!(send(&again, "c", json!("k")), first);
    send(&again, "d", json!("k2"));
    send(&again, "e", Value::Null);
    send(&again, "e", Value::Null);
    let said: Vec<Value> = again.sent.lock().unwrap().iter().map(|s| s["text"].clone()).collect();
    assert_eq!(said, ["a", "d", "e", "e"]);
    assert_eq!(send(&again, "x", json!(5))["error"]["code"], "bad_params");
}

#[test]
fn a_confirmed_login_serves_its_own_agent_once() {
    let secret = PathBuf::from("gw_wx.json");
    let bench = Bench::new(&json!({
        "config": {"defaultRoute": {"adapter": "claude-code", "cwd": "/"}, "agents": ["ag_a", "ag_b"]},
        "loaded": ["ag_a"],
        "login_sessions": [{"loginId": "wxl_1", "accountId": "ag_a", "provider": "wechat", "botToken": "abcdefghijkl",
            "baseUrl": "https://ilinkai.weixin.qq.com", "tokenPreview": "abcd...ijkl"}],
    }));
    let upsert = |kind: &str, agent: &str| {
        bench.ask("upsert_gateway", &json!({"id": "gw_wx", "type": kind, "accountId": agent, "loginId": "wxl_1"}))
    };
    assert_eq!(upsert("feishu", "ag_a")["error"]["code"], "bad_params");
    assert_eq!(upsert("wechat", "ag_b")["error"]["code"], "login_account_mismatch");
    let senders = json!({"provider": "wechat", "loginId": "wxl_1", "accountId": "ag_b"});
    assert_eq!(bench.ask("gateway_recent_senders", &senders)["error"]["code"], "forbidden");
    assert_eq!(upsert("wechat", "ag_a")["result"]["tokenPreview"], "abcd...ijkl");
    assert_eq!(bench.config()["thirdPartyGateways"][0]["baseUrl"], "https://ilinkai.weixin.qq.com");
    assert!(bench.home.gateways_dir().join(secret).exists());
    assert_eq!(upsert("wechat", "ag_a")["error"]["code"], "login_missing");
}
