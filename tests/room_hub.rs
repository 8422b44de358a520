//! Agents that speak for themselves in the rooms of a hub: the real daemon, a CLI that calls `botcord` from its turn, and a
//! strict hub.
#![allow(missing_docs)]

#[path = "botcord_inbox/daemon.rs"]
#[allow(dead_code)]
mod daemon;
#[path = "support/hub/mod.rs"]
mod hub;
#[path = "support/mod.rs"]
mod support;

use std::fs;

use daemon::Home;
use hub::speech::Extra;
use hub::{AgentHandle, Endpoint, Fault, Hub};
use serde_json::json;

/// A home whose CLI runs this in every turn; what it prints goes to `$RUNS/out`.
fn home(name: &str, hub: &Hub, agents: &[&AgentHandle], script: &str) -> Home {
    let home = Home::new(name, &json!({})).with(hub, agents);
    let cli = format!(
        "#!/bin/sh\ncat >/dev/null\n{{\n{script}\n}} >>\"$RUNS/out\" 2>&1\n\
         printf '{{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s1\"}}\\n'\n\
         printf '{{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"result\":\"said\",\"session_id\":\"s1\"}}\\n'\n"
    );
    fs::write(home.path().parent().unwrap().join("claude"), cli).unwrap();
    home
}

fn out(home: &Home) -> String {
    fs::read_to_string(home.path().parent().unwrap().join("runs/out")).unwrap_or_default()
}

fn mention(agent: &AgentHandle) -> Extra {
    Extra { mentions: vec![agent.id.clone()], ..Extra::default() }
}

#[test]
fn an_agent_answers_a_group_by_its_own_command() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let room = hub.room("Lab", &[&ada, &bob]);
    let script = format!(
        "printf report >report.txt\n\
         botcord reply 'on it' || echo failed\n\
         botcord send --topic Plan --mention {} --text 'see the plan' --file report.txt || echo failed\n\
         botcord upload report.txt; botcord history; botcord members; botcord info; botcord topics; botcord list\n\
         botcord send --room rm_nowhere x; echo \"=$?\"; env | grep ^BOTCORD_",
        bob.id
    );
    let home = home("room-tools", &hub, &[&ada], &script);
    let _daemon = home.start();
    hub.wait_connected(&ada);
    let asked = hub.says_more(&bob, &room, "who looks at it?", mention(&ada));
    let reply = hub.wait_heard(&room, &ada, "on it");
    assert_eq!(reply["reply_to"], asked.as_str());
    let plan = hub.wait_heard(&room, &ada, "see the plan");
    assert_eq!(
        (&plan["topic"], &plan["mentions"], &plan["reply_to"]),
        (&json!("Plan"), &json!([bob.id]), &json!(null))
    );
    assert_eq!(plan["payload"]["attachments"][0]["filename"], "report.txt");
    hub.wait_settled(&hub.copy_of(&asked, &ada));
    let out = out(&home);
    for words in ["/hub/files/f_", "who looks at it?", "on it", "Bob", "Lab", "Plan", "room_not_found", "=1"] {
        assert!(out.contains(words), "{words}: {out}");
    }
    assert!(!out.contains("failed"), "{out}");
    assert!(out.contains(&format!("BOTCORD_AGENT_ID={}", ada.id)) && out.contains("BOTCORD_HUB=http"), "{out}");
    assert_eq!(hub.heard(&room).len(), 2, "the text of the turn itself is not posted");
}

#[test]
fn what_an_agent_said_is_there_once_though_its_confirmation_is_lost_and_the_daemon_is_killed() {
    let hub = Hub::start();
    let (ada, bob) = (hub.agent("Ada"), hub.agent("Bob"));
    let room = hub.room("Lab", &[&ada, &bob]);
    let home = home("room-once", &hub, &[&ada], "botcord reply 'on it'");
    let daemon = home.start();
    hub.wait_connected(&ada);
    hub.fault(Endpoint::Send, Fault::DropAfter, 1);
    hub.break_down(Endpoint::Status, Fault::status(503));
    let asked = hub.says_more(&bob, &room, "who looks at it?", mention(&ada));
    hub.wait_heard(&room, &ada, "on it");
    hub.wait_until("the daemon asks", |world| world.rows.iter().any(|row| row.endpoint == Some(Endpoint::Status)));
    daemon.kill();
    hub.heal();
    let _daemon = home.start();
    hub.wait_settled(&hub.copy_of(&asked, &ada));
    let sent = hub.books().sent;
    assert_eq!(sent.iter().map(|s| (s.text.as_str(), s.attempts)).collect::<Vec<_>>(), [("on it", 1)]);
    assert!(out(&home).contains("was said before"), "{}", out(&home));
}
