//! The login of a daemon that runs.

use std::fs;
use std::sync::Arc;

use bellhop::link::botcord_control::session::{Session, TokenError};
use bellhop::store::RealDisk;
use serde_json::{Value, json};

use crate::home::{Home, Ran, logged_in};
use crate::hub_control::world::Fault;
use crate::hub_control::{ControlHub, Frame};

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

#[test]
fn an_idle_daemon_shows_that_it_lives() {
    let hub = ControlHub::start();
    let (home, instance) = logged_in(&hub, 3_600_000);
    let mut command = home.command(&["start", "-d"]);
    command.env("BOTCORD_DAEMON_SNAPSHOT_INTERVAL_MS", "20");
    assert_eq!(Ran::of(&command.output().unwrap()).code, Some(0));
    hub.wait_online(&instance);
    let look = || -> Option<Value> {
        let snapshot: Value = serde_json::from_slice(&fs::read(home.daemon().join("snapshot.json")).ok()?).ok()?;
        (snapshot["snapshot"]["control"]["state"] == "connected").then_some(snapshot)
    };
    let mut last = hub.wait("the connection in the file", |_| look());
    let mut same = 0;
    while same < 3 {
        let next = hub.wait("another version", |_| look().filter(|next| next["writtenAt"] != last["writtenAt"]));
        same = if next["snapshot"] == last["snapshot"] { same + 1 } else { 0 };
        last = next;
    }
}
