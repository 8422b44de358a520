//! Agents of a hub on a home, and owners who write to them and wait for the answer before they write again.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::daemon::Home;
use crate::hub::handles::write_credentials;
use crate::hub::{AgentHandle, Hub, Said, Settings, waits};

const CONFIG: &str = r#"{
    "maxConcurrentTurns": 12,
    "killLeftovers": true,
    "hub": {"renewSeconds": 1, "pollSeconds": 1, "sendsPerMinute": 0}
}"#;

/// A hub whose leases are short, and which takes as many sends as come.
pub fn hub() -> Hub {
    let settings = Settings { limits: false, patience: Duration::from_mins(1), ..Settings::default() };
    Hub::with(settings.with_lease(Duration::from_secs(3)))
}

/// Agents whose CLI is the fake one, with their credentials in a home.
pub fn agents(hub: &Hub, home: &Home, count: usize) -> Vec<AgentHandle> {
    std::fs::write(home.join("daemon/config.json"), CONFIG).unwrap();
    let agents: Vec<AgentHandle> = (0..count).map(|n| hub.agent(&format!("Agent {n}"))).collect();
    for agent in &agents {
        let mut credentials = hub.credentials(agent);
        credentials["runtime"] = "claude-code".into();
        write_credentials(&home.path(), &credentials);
    }
    agents
}

/// Small, seeded, good enough to choose moments.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    pub fn millis(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.below(limit))
    }
}

/// What the owners know.
#[derive(Default)]
pub struct Owners {
    /// Everything they said, by the id of the job.
    pub said: Mutex<BTreeMap<String, Said>>,
    /// The life of the daemon in which, or before which, an answer was seen.
    pub answered: Mutex<BTreeMap<String, u32>>,
    number: AtomicU32,
}

impl Owners {
    /// Says `job <id> <kind>` in a chat of the agent.
    pub fn say(&self, hub: &Hub, agent: &AgentHandle, chat: &str, kind: &str) -> String {
        let id = format!("{chat}-{}", self.number.fetch_add(1, Ordering::SeqCst));
        let said = hub.owner_says_more(agent, Some(chat), json!({"text": format!("job {id} {kind}")}));
        self.said.lock().unwrap().insert(id.clone(), said);
        id
    }

    /// Whether the answer is there; then it is written down in which life.
    pub fn sees_answer(&self, hub: &Hub, home: &Home, id: &str) -> bool {
        let said = self.said.lock().unwrap()[id].clone();
        let there = hub.look(|world| !waits::answers(world, &said).is_empty());
        if there {
            // Read after the answer: it comes from this daemon or an earlier one.
            self.answered.lock().unwrap().entry(id.to_owned()).or_insert(home.life());
        }
        there
    }

    /// Talks in the chats of one agent until it is over.
    pub fn talk(&self, hub: &Hub, home: &Home, agent: &AgentHandle, mut random: Random, over: &AtomicBool) {
        let chats = [format!("{}-a", agent.name), format!("{}-b", agent.name)].map(|chat| chat.replace(' ', ""));
        let mut open: [Option<String>; 2] = [None, None];
        while !over.load(Ordering::SeqCst) {
            for (chat, open) in chats.iter().zip(&mut open) {
                if open.as_ref().is_none_or(|id| self.sees_answer(hub, home, id)) {
                    let kind = ["fast", "fast", "slow", "tool"][random.below(4) as usize];
                    *open = Some(self.say(hub, agent, chat, kind));
                }
            }
            std::thread::sleep(random.millis(60));
        }
    }
}
