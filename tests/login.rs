//! Logging in at a hub: from the command line, and with a person who enters a code.

#[path = "support/hub/mod.rs"]
mod hub;
#[path = "support/hub_control/mod.rs"]
mod hub_control;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use bellhop::link::botcord_control::enter::{Entered, Said, Wish, log_in};
use bellhop::link::botcord_control::session::{Session, TokenError};
use bellhop::store::RealDisk;
use hub_control::world::Fault;
use hub_control::{ControlHub, Frame};
use serde_json::{Value, json};
use support::temp_dir::TempDir;

/// A home without anything in it.
struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Self {
        Self { dir: TempDir::new("login") }
    }

    fn root(&self) -> PathBuf {
        self.dir.join("bh")
    }

    fn daemon(&self) -> PathBuf {
        self.root().join("daemon")
    }

    fn login(&self) -> Value {
        serde_json::from_slice(&fs::read(self.daemon().join("user-auth.json")).unwrap()).unwrap()
    }

    fn flag(&self) -> PathBuf {
        self.daemon().join("auth-expired.flag")
    }

    fn set_flag(&self) {
        fs::write(self.flag(), "{}").unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellhop"));
        command.env_clear().env("HOME", self.dir.path()).env("PATH", "/usr/bin:/bin").env("BELLHOP_HOME", self.root());
        command.args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(&self.command(args).output().unwrap())
    }

    /// Starts a daemon in the background.
    fn start(&self, args: &[&str]) -> Ran {
        self.run(&[&["start", "-d"], args].concat())
    }

    /// Logs in within this process, as at a terminal; what was said.
    fn enter(&self, wish: &Wish, told: &mut dyn FnMut(Said<'_>)) -> Result<Entered, String> {
        fs::create_dir_all(self.daemon()).unwrap();
        log_in(&self.daemon(), &RealDisk, wish, told)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.daemon().join("daemon.lock").exists() {
            self.run(&["stop", "--wait"]);
        }
    }
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

fn at(hub: &ControlHub) -> Wish {
    Wish { hub: Some(hub.url()), label: Some("build box".into()), interactive: true, ..Wish::default() }
}

/// What a person would see.
#[derive(Default)]
struct Seen {
    codes: Vec<(String, String, String)>,
    notes: Vec<String>,
}

impl Seen {
    fn take(&mut self, said: Said<'_>) {
        match said {
            Said::Code { page, place, code } => self.codes.push((page.into(), place.into(), code.into())),
            Said::Note(text) => self.notes.push(text),
        }
    }
}

#[test]
fn a_person_enters_a_code() {
    let hub = ControlHub::start();
    let home = Home::new();
    hub.fault(
        "device-token",
        [
            Fault::Status(500),
            Fault::Say(200, json!({"state": "authorization_pending"})),
            Fault::Say(428, json!({"error": "authorization_pending"})),
            Fault::Say(400, json!({"code": "slow_down", "interval": 0.02})),
            Fault::Close,
            Fault::Malformed,
        ],
    );
    let mut seen = Seen::default();
    let entered = std::thread::scope(|scope| {
        let entering = scope.spawn(|| home.enter(&at(&hub), &mut |said| seen.take(said)));
        let code = hub.wait_code();
        hub.wait("a question that finds no answer yet", |world| {
            let asked = world.rows.iter().filter(|row| row.path.ends_with("/device-token"));
            (asked.count() > 7).then_some(())
        });
        hub.approve(&code, Some("build box"));
        entering.join().unwrap()
    });
    assert!(matches!(entered, Ok(Entered::New(_))), "{entered:?}");
    let [(page, place, code)] = &seen.codes[..] else { panic!("{:?}", seen.codes) };
    assert_eq!(*page, format!("{}/activate?code={code}&next=%2Fsettings%2Fdaemons", hub.url()));
    assert_eq!(*place, format!("{}/activate", hub.url()));
    assert_eq!(seen.notes.len(), 3, "{:?}", seen.notes);
    let login = home.login();
    let mode = fs::metadata(home.daemon().join("user-auth.json")).unwrap().permissions().mode();
    assert_eq!((mode & 0o777, &login["version"], &login["label"]), (0o600, &json!(1), &json!("build box")));
    assert_eq!((&login["userId"], &login["hubUrl"]), (&json!("user-1"), &json!(hub.url())));
    let asked = hub.requests("/device-code");
    assert_eq!(asked[0].body, json!({"label": "build box"}));
    let polled = hub.requests("/device-token");
    let device = polled[0].body["device_code"].as_str().unwrap();
    assert!(polled.iter().all(|row| row.body == json!({"device_code": device, "label": "build box"})));
    assert!(!seen.notes.concat().contains(device), "the device code is nobody's business");
}

#[test]
fn a_code_that_comes_to_nothing_leaves_nothing() {
    let hub = ControlHub::start();
    let home = Home::new();
    let refused = |wish: &Wish| home.enter(wish, &mut |_| {}).unwrap_err();
    let denied = std::thread::scope(|scope| {
        let entering = scope.spawn(|| refused(&at(&hub)));
        hub.deny(&hub.wait_code());
        entering.join().unwrap()
    });
    assert!(denied.contains("denied"), "{denied}");
    for (answer, word) in [
        (Fault::Say(410, json!({"detail": "device_code_expired"})), "expired"),
        (Fault::Say(400, json!({"detail": "invalid_device_code"})), "does not know the code"),
        (Fault::Status(404), "does not know the code"),
    ] {
        hub.fault("device-token", [answer]);
        let why = refused(&at(&hub));
        assert!(why.contains(word), "{why}");
    }
    // Nobody comes.
    let code = json!({"device_code": "dc_1", "user_code": "A-B", "verification_uri": "https://h/a", "expires_in": 0.1,
                      "interval": 0.02});
    hub.fault(
        "device-code",
        [Fault::Say(200, code), Fault::Status(503), Fault::Say(200, json!({"device_code": "dc_2"}))],
    );
    for word in ["nobody has entered it", "HTTP 503", "user_code"] {
        let why = refused(&at(&hub));
        assert!(why.contains(word), "{why}");
    }
    let why = refused(&Wish { hub: Some("http://hub.example".into()), ..at(&hub) });
    assert!(why.contains("only https:// is safe"), "{why}");
    assert!(!home.daemon().join("user-auth.json").exists());
}

#[test]
fn tickets_make_a_login_and_keep_the_instance() {
    let hub = ControlHub::start();
    let home = Home::new();
    let with = |ticket: String| Wish { ticket: Some(ticket), interactive: false, ..at(&hub) };
    let mut notes = Seen::default();
    home.enter(&with(hub.ticket(None)), &mut |said| notes.take(said)).unwrap();
    let first = home.login();
    assert!(hub.requests("/install-token")[0].body.get("daemon_instance_id").is_none());

    // Again: the same daemon, since then; the flag goes.
    home.set_flag();
    home.enter(&with(hub.ticket(None)), &mut |said| notes.take(said)).unwrap();
    let second = home.login();
    assert_eq!(second["daemonInstanceId"], first["daemonInstanceId"]);
    assert_eq!(second["loggedInAt"], first["loggedInAt"]);
    assert_ne!(second["refreshToken"], first["refreshToken"]);
    assert_eq!(hub.requests("/install-token")[1].body["daemon_instance_id"], first["daemonInstanceId"]);
    assert!(!home.flag().exists());

    // A ticket that is no good: the login that there is will do, unless it is no good either.
    let kept = home.enter(&with("dit_unknown_ticket".into()), &mut |said| notes.take(said)).unwrap();
    assert!(matches!(kept, Entered::Kept(_)));
    assert_eq!(notes.notes.len(), 1, "{:?}", notes.notes);
    assert!(notes.notes[0].contains("HTTP 401") && !notes.notes[0].contains("dit_unknown"), "{:?}", notes.notes);
    home.set_flag();
    assert!(home.enter(&with("dit_unknown_ticket".into()), &mut |_| {}).unwrap_err().contains("invalid_install_token"));
    fs::remove_file(home.flag()).unwrap();
    let relogin = Wish { relogin: true, ..with("dit_unknown_ticket".into()) };
    assert!(home.enter(&relogin, &mut |_| {}).is_err());
    assert_eq!(home.login(), second);

    // The hub has forgotten this daemon: with --relogin it becomes another one.
    let instance = second["daemonInstanceId"].as_str().unwrap().to_owned();
    hub.world(|world| world.instances.remove(&instance));
    home.set_flag();
    let why = home.enter(&with(hub.ticket(None)), &mut |_| {}).unwrap_err();
    assert!(why.contains("daemon_instance_not_found"), "{why}");
    home.enter(&Wish { relogin: true, ..with(hub.ticket(None)) }, &mut |_| {}).unwrap();
    let third = home.login();
    assert_ne!(third["daemonInstanceId"], second["daemonInstanceId"]);
    assert!(!home.flag().exists());
}

#[test]
fn what_cannot_be_read_is_put_aside_and_not_lost() {
    let hub = ControlHub::start();
    let home = Home::new();
    fs::create_dir_all(home.daemon()).unwrap();
    let path = home.daemon().join("user-auth.json");
    fs::write(&path, "{\"half\": ").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let wish = Wish { ticket: Some(hub.ticket(None)), ..at(&hub) };
    let mut notes = Seen::default();
    home.enter(&wish, &mut |said| notes.take(said)).unwrap();
    assert_eq!(notes.notes.len(), 1, "{:?}", notes.notes);
    assert_eq!(home.login()["userId"], "user-1");
    let aside = fs::read_dir(home.daemon()).unwrap().flatten();
    let aside: Vec<_> =
        aside.filter(|e| e.file_name().to_string_lossy().starts_with("user-auth.json.corrupt-")).collect();
    assert_eq!(fs::read_to_string(aside[0].path()).unwrap(), "{\"half\": ");
    // A hub that sends the daemon elsewhere is believed where that is safe.
    hub.world(|world| world.told_url = Some("http://evil.example".into()));
    home.enter(&Wish { ticket: Some(hub.ticket(None)), ..at(&hub) }, &mut |_| {}).unwrap();
    assert_eq!(home.login()["hubUrl"], hub.url());
}

#[test]
fn the_first_start_logs_in_writes_a_configuration_and_detaches() {
    let hub = ControlHub::start();
    let home = Home::new();
    let ticket = hub.ticket(None);
    let ran = Ran::of(
        &home
            .command(&[
                "start",
                "-d",
                "--hub",
                &hub.url(),
                "--label",
                "build box",
                "--agent",
                "ag_1",
                "--agent",
                "ag_2",
            ])
            .args(["--cwd", home.dir.path().to_str().unwrap()])
            .env("BOTCORD_INSTALL_TOKEN", &ticket)
            .output()
            .unwrap(),
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[0], "Logged in as user-1");
    assert_eq!(lines[1], format!("wrote {}", home.daemon().join("config.json").display()));
    assert!(lines[2].starts_with("daemon started (pid "), "{ran:?}");
    let config: Value = serde_json::from_slice(&fs::read(home.daemon().join("config.json")).unwrap()).unwrap();
    assert_eq!(
        config,
        json!({"agents": ["ag_1", "ag_2"], "routes": [], "streamBlocks": true,
               "defaultRoute": {"adapter": "claude-code", "cwd": home.dir.path().to_str().unwrap()}})
    );
    let instance = home.login()["daemonInstanceId"].as_str().unwrap().to_owned();
    hub.wait_online(&instance);
    // A second one is told so; with a ticket it leaves the first one with a new login.
    let again = home.run(&["start", "--agent", "ag_3"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.err.contains("already running"), "{again:?}");
    let conn = hub.conn(&instance);
    let before = home.login()["refreshToken"].clone();
    let again = home.run(&["start", "--install-token", &hub.ticket(None)]);
    assert_eq!((again.code, again.out.as_str()), (Some(1), "Logged in as user-1\n"));
    assert!(again.err.contains("uses the new login"), "{again:?}");
    assert_ne!(home.login()["refreshToken"], before);
    hub.wait_reconnected(&instance, &conn);
    // In its place: the login is used again, and what differs is pointed out.
    home.set_flag();
    let conn = hub.conn(&instance);
    let ran = home.start(&["--replace", "--label", "other", "--agent", "ag_3", "--hub", "https://other.example"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for note in ["--label is ignored", "--hub is ignored", "--agent is ignored"] {
        assert!(ran.err.contains(note), "{ran:?}");
    }
    hub.wait_reconnected(&instance, &conn);
    assert!(!home.flag().exists());
    assert_eq!(hub.requests("/install-token").len(), 2);
    let ticket = hub.ticket(None);
    let log = fs::read_to_string(home.root().join("logs/daemon.log")).unwrap();
    for secret in ["drt_", "dit_", "at_", &ticket] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[test]
fn without_a_terminal_nobody_can_be_asked() {
    let hub = ControlHub::start();
    let home = Home::new();
    for args in [&["--hub", &hub.url()][..], &["--relogin"], &["--label", "x"]] {
        let ran = home.start(args);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{ran:?}");
        assert!(ran.err.contains("needs a person at a terminal"), "{ran:?}");
    }
    assert!(hub.requests("/device-code").is_empty() && !home.daemon().join("config.json").exists());
    // A ticket on standard input needs nobody.
    let input = home.dir.join("ticket");
    fs::write(&input, format!("{}\n", hub.ticket(None))).unwrap();
    let mut command = home.command(&["start", "-d", "--install-token", "-", "--hub", &hub.url()]);
    let ran = Ran::of(&command.stdin(fs::File::open(&input).unwrap()).output().unwrap());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    // A daemon without any login wants none.
    let local = Home::new();
    let ran = local.start(&[]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!local.daemon().join("config.json").exists());
    // A login that cannot be used does not go unnoticed.
    let open = Home::new();
    hub.log_in(&open.root());
    fs::set_permissions(open.daemon().join("user-auth.json"), fs::Permissions::from_mode(0o644)).unwrap();
    let ran = open.start(&[]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("chmod 600"), "{ran:?}");
}

/// A home with a login whose access token ends so soon.
fn logged_in(hub: &ControlHub, left_ms: i64) -> (Home, String) {
    let home = Home::new();
    let instance = hub.log_in(&home.root());
    let mut login = home.login();
    login["expiresAt"] = (jiff::Timestamp::now().as_millisecond() + left_ms).into();
    fs::write(home.daemon().join("user-auth.json"), login.to_string()).unwrap();
    (home, instance)
}

#[test]
fn a_login_is_renewed_before_it_must_be() {
    let hub = ControlHub::start();
    let (home, instance) = logged_in(&hub, 300_000);
    let before = home.login();
    hub.fault("refresh", [Fault::Delay(std::time::Duration::from_millis(300))]);
    assert_eq!(home.start(&[]).code, Some(0));
    hub.wait_online(&instance);
    let conn = hub.conn(&instance);
    // What comes meanwhile is answered meanwhile.
    assert_eq!(hub.send(&instance, "ping", json!({})).ack()["result"]["pong"], true);
    hub.wait("the renewal", |world| world.rows.iter().any(|row| row.path.ends_with("/refresh")).then_some(()));
    hub.wait("the new login", |_| (home.login()["refreshToken"] != before["refreshToken"]).then_some(()));
    assert!(Arc::ptr_eq(&conn, &hub.conn(&instance)), "the socket stays");
    assert_eq!(hub.requests("/refresh").len(), 1);
    // The hub takes it back: that is final, and known at once.
    let (home, instance) = logged_in(&hub, 300_000);
    hub.fault("refresh", [Fault::Status(401)]);
    assert_eq!(home.start(&[]).code, Some(0));
    hub.wait("the flag", |_| home.flag().exists().then_some(()));
    hub.wait_offline(&instance);
}

#[test]
fn one_refresh_token_is_spent_once() {
    let hub = ControlHub::start();
    let (home, _) = logged_in(&hub, 1_000);
    let open = || Session::open(&home.daemon(), Arc::new(RealDisk)).unwrap();
    let sessions = [open(), open()];
    std::thread::scope(|scope| {
        for session in sessions.iter().chain(&sessions) {
            scope.spawn(|| session.access_token(false).unwrap());
        }
    });
    assert_eq!(hub.requests("/refresh").len(), 1);
    assert_eq!(sessions[0].access_token(false), sessions[1].access_token(false));
    // The one that there is was refused: one more, for both.
    std::thread::scope(|scope| {
        for session in &sessions {
            scope.spawn(|| session.access_token(true).unwrap());
        }
    });
    assert_eq!(hub.requests("/refresh").len(), 2);
    // A token goes to no hub that is not safe.
    let mut login = home.login();
    login["hubUrl"] = "http://hub.example".into();
    login["expiresAt"] = 0.into();
    fs::write(home.daemon().join("user-auth.json"), login.to_string()).unwrap();
    assert!(matches!(open().access_token(false), Err(TokenError::Failed(_))));
}

#[test]
fn a_daemon_with_a_wrong_clock_stays_controllable() {
    let hub = ControlHub::start();
    hub.move_clock(3_600_000);
    let (home, instance) = logged_in(&hub, 3_600_000);
    let mut command = home.command(&["start", "-d"]);
    assert_eq!(Ran::of(&command.env("BOTCORD_HUB_CONTROL_PUBLIC_KEY", hub.key()).output().unwrap()).code, Some(0));
    hub.wait_online(&instance);
    assert_eq!(hub.send(&instance, "ping", json!({})).ack()["result"]["pong"], true);
    let stale = Frame { offset: -700_000, ..Frame::new("ping", json!({})) };
    assert_eq!(hub.send_frame(&instance, &stale).ack()["error"]["code"], "stale_ts");
}

#[test]
fn a_restart_keeps_the_process_and_takes_everything_up_again() {
    let hub = ControlHub::start();
    let home = Home::new();
    let ran = home.start(&["--hub", &hub.url(), "--install-token", &hub.ticket(None)]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let instance = home.login()["daemonInstanceId"].as_str().unwrap().to_owned();
    hub.wait_online(&instance);
    let pid = fs::read_to_string(home.daemon().join("daemon.pid")).unwrap();
    let conn = hub.conn(&instance);
    let ack = hub.send(&instance, "restart_daemon", json!({"update": true})).ack();
    assert_eq!(
        ack["result"],
        json!({"scheduled": true, "updateRequested": true, "updateSupported": false, "installPrefix": null,
               "packageSpec": ""})
    );
    hub.wait_reconnected(&instance, &conn);
    hub.wait("the lock", |_| fs::read_to_string(home.daemon().join("daemon.pid")).ok().filter(|now| *now == pid));
    assert_eq!(hub.send(&instance, "ping", json!({})).ack()["result"]["pong"], true);
    assert_eq!(hub.requests("/install-token").len(), 1, "a ticket is not redeemed twice");
}

#[test]
fn keys_of_the_configuration_are_changed_while_it_runs() {
    let hub = ControlHub::start();
    let (home, instance) = logged_in(&hub, 3_600_000);
    assert_eq!(home.start(&[]).code, Some(0));
    let first = hub.wait_event(&instance, "runtime_snapshot", 0);
    assert_eq!(first["hubControlTrustKeyFingerprints"], json!([]));
    let path = home.daemon().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["hubControlPublicKeys"] = json!([hub.key()]);
    fs::write(&path, config.to_string()).unwrap();
    assert_eq!(hub.send(&instance, "reload_config", json!({})).ack()["result"]["reloaded"], true);
    let second = hub.wait_event(&instance, "runtime_snapshot", 1);
    assert_eq!(second["hubControlTrustKeyFingerprints"].as_array().unwrap().len(), 1);
    hub.rotate_key(2);
    assert_eq!(hub.send(&instance, "ping", json!({})).ack()["error"]["code"], "bad_signature");
}
