//! How the hub ends a connection, and what the daemon does then.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::home::{Home, logged_in};
use crate::hub_control::ControlHub;
use crate::hub_control::world::World;

/// A daemon that is connected; its hub, home and instance.
fn connected() -> (ControlHub, Home, String) {
    let hub = ControlHub::start();
    let (home, instance) = logged_in(&hub, 3_600_000);
    assert_eq!(home.start(&[]).code, Some(0));
    hub.wait_online(&instance);
    assert_eq!(hub.send(&instance, "ping", json!({})).result()["pong"], true);
    (hub, home, instance)
}

#[test]
fn most_of_them_are_an_accident() {
    for code in [1000, 1001, 1011, 1012, 4000] {
        let (hub, home, instance) = connected();
        let conn = hub.conn(&instance);
        hub.close(&instance, code, "");
        hub.wait_reconnected(&instance, &conn);
        assert_eq!(hub.send(&instance, "ping", json!({})).result()["pong"], true);
        assert!(hub.requests("/refresh").is_empty() && !home.flag().exists(), "{code}");
    }
    let (hub, _home, instance) = connected();
    let conn = hub.conn(&instance);
    hub.cut(&instance);
    hub.wait_reconnected(&instance, &conn);
}

#[test]
fn a_token_that_is_refused_is_renewed_once_and_then_counts() {
    for code in [4401, 1008] {
        let (hub, home, instance) = connected();
        let conn = hub.conn(&instance);
        hub.close(&instance, code, "");
        hub.wait_reconnected(&instance, &conn);
        assert_eq!(hub.requests("/refresh").len(), 1, "{code}");
        assert!(!home.flag().exists(), "{code}");
    }
    // The same before the socket is there: HTTP 403, with a refresh token that is good.
    let (hub, home, instance) = connected();
    let conn = hub.conn(&instance);
    hub.expire_tokens(&instance);
    hub.cut(&instance);
    hub.wait_reconnected(&instance, &conn);
    let statuses: Vec<u16> = hub.requests("/daemon/ws").iter().map(|row| row.status).collect();
    assert_eq!(hub.requests("/refresh").len(), 1);
    assert!(statuses.contains(&403) && !home.flag().exists(), "{statuses:?}");
}

#[test]
fn a_daemon_that_is_revoked_waits_for_a_new_login() {
    let (hub, home, instance) = connected();
    hub.revoke(&instance, "revoked_by_user");
    hub.wait("the flag", |_| home.flag().exists().then_some(()));
    hub.wait_offline(&instance);
    let told = home.run(&["status"]);
    assert!(told.out.contains("warning: the hub refuses the login; log in again"), "{told:?}");
    let health: Value = serde_json::from_str(&home.run(&["status", "--json"]).out).unwrap();
    let reasons = health["health"]["reasons"].to_string();
    assert!(reasons.contains("the hub refuses the login: "), "{health}");
    let other = hub.log_in(&home.root());
    hub.wait_online(&other);
    assert_eq!(hub.send(&other, "ping", json!({})).result()["pong"], true);
}

#[test]
fn two_with_one_login_do_not_throw_each_other_out() {
    let (hub, home, instance) = connected();
    let conn = hub.conn(&instance);
    // Somebody else with the same login.
    hub.close(&instance, 4001, "replaced by a newer connection");
    hub.wait_offline(&instance);
    hub.wait("the daemon's word", |_| {
        let told = home.run(&["status"]).out;
        (told.contains("displaced: another daemon") && told.contains("control socket: connecting")).then_some(())
    });
    assert!(!home.flag().exists());
    // A connection is written down when it has ended, a moment after the daemon was taken off the list.
    let ended = |world: &World| world.rows.iter().filter(|row| row.path.ends_with("/daemon/ws")).count();
    hub.wait("the first connection's end", |world| (ended(world) > 0).then_some(()));
    assert_eq!(hub.world(|world| (ended(world), world.online.contains_key(&instance))), (1, false));
    drop(conn);
}

#[test]
fn what_is_too_long_ends_the_connection_and_comes_in_pieces_otherwise() {
    let (hub, _home, instance) = connected();
    let conn = hub.conn(&instance);
    let pad =
        |id: &str, size: usize| json!({"id": id, "type": "ping", "params": {"pad": "x".repeat(size)}}).to_string();
    let acked = |id: &str| {
        hub.wait("the ack", |world| {
            world.heard.iter().find(|heard| heard.frame["id"] == id).map(|heard| heard.frame.clone())
        })
    };
    conn.fragments(&pad("pieces", 2 << 20), 65_536);
    assert_eq!(acked("pieces")["ok"], true);
    conn.bytes_one_by_one(&pad("bytes", 100));
    assert_eq!(acked("bytes")["ok"], true);
    // These are no frames of the hub's own; it holds the acks against the daemon.
    assert_eq!(hub.violations().len(), 2);
    conn.text(&pad("long", 9 << 20));
    hub.wait_reconnected(&instance, &conn);
    assert!(hub.heard(&instance).iter().all(|frame| frame["id"] != "long"));
}

#[test]
fn what_the_hub_has_kept_is_not_told_again() {
    let (hub, home, instance) = connected();
    let agent = json!({"agentId": "ag_a", "keyId": "k_1", "hubUrl": hub.url(), "token": "t", "tokenExpiresAt": 4_000_000_000_i64,
                       "privateKey": bellhop::crypto::base64::encode(&[1; 32])});
    hub.send(&instance, "provision_agent", json!({"runtime": "echo", "credentials": agent})).result();
    let told = |count: usize| {
        hub.wait_event(&instance, "runtime_snapshot", count);
        hub.send(&instance, "ping", json!({})).result();
        hub.heard(&instance).iter().filter(|frame| frame["type"] == "agent_skill_snapshot").count()
    };
    told(0);
    // Held back, and lost with the connection.
    let next = |conn: &Arc<crate::hub_control::socket::Conn>| {
        hub.close(&instance, 1012, "");
        hub.wait_reconnected(&instance, conn);
        hub.conn(&instance)
    };
    let second = next(&hub.conn(&instance));
    second.hold();
    hub.wait_event(&instance, "agent_skill_snapshot", 0);
    let third = next(&second);
    third.hold();
    hub.wait_event(&instance, "agent_skill_snapshot", 1);
    third.release();
    // Behind the ack.
    hub.send(&instance, "ping", json!({})).result();
    next(&third);
    assert_eq!(told(3), 2);
    drop(home);
}
