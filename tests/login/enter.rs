//! How a login comes about: a code, a ticket, or the one that is there.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use bellhop::link::botcord_control::enter::{Entered, Said, Wish};
use serde_json::{Value, json};

use crate::home::{Home, Ran};
use crate::hub_control::ControlHub;
use crate::hub_control::world::Fault;

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
