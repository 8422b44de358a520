//! What a test holds in its hands: the hub, its agents, people and rooms, and what it may do to them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::clock::{self, Clock};
use super::endpoint::Endpoint;
use super::faults::{Fault, Plan};
use super::registry;
use super::server::Shared;
use super::settings::Settings;
use super::sign::{self, Seed};
use super::state::{Row, World};
use super::violations::Rule;
use super::{inbox, rooms};

/// A running hub. When it is dropped the daemon must have kept all rules.
pub struct Hub {
    pub(super) shared: Arc<Shared>,
}

/// An agent's identity.
#[derive(Clone)]
pub struct AgentHandle {
    pub id: String,
    pub key_id: String,
    pub name: String,
    pub seed: Seed,
}

impl Hub {
    /// A hub that behaves like the real one.
    pub fn start() -> Self {
        Self::with(Settings::default())
    }

    /// A hub that behaves so.
    pub fn with(settings: Settings) -> Self {
        let clock = Arc::new(Clock::default());
        let shared = Shared::new(World { settings, clock, ..World::default() });
        shared.start();
        Self { shared }
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        self.shared.look().origin.clone()
    }

    /// The hub's clock.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Looks at everything the hub knows. Handles of the hub must not be used meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.shared.look())
    }

    /// Changes what the hub knows.
    pub fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        self.shared.change(change)
    }

    /// Ends all connections and closes the port, as `kill -9` of the hub would; its state stays.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Opens the port again, with the state as it was.
    pub fn start_again(&self) {
        self.shared.start();
    }

    /// An agent with an active key that belongs to a person.
    pub fn agent(&self, name: &str) -> AgentHandle {
        self.shared.change(|world| {
            let seed = Seed::named(&format!("{name} {}", world.fresh(8)));
            let public = seed.public();
            let id = sign::agent_id(&public);
            registry::enter(world, &id, name);
            let (key_id, _) = registry::offer_key(world, &id, &public);
            world.keys.get_mut(&key_id).unwrap().state = "active";
            AgentHandle { id, key_id, name: name.to_owned(), seed }
        })
    }

    /// A person; returns the human id.
    pub fn person(&self, name: &str) -> String {
        self.shared.change(|world| {
            let id = format!("hu_{}", world.fresh(12));
            world.people.insert(id.clone(), name.to_owned());
            id
        })
    }

    /// A group room of these agents, the first of which owns it; returns its id.
    pub fn room(&self, name: &str, members: &[&AgentHandle]) -> String {
        let members: Vec<String> = members.iter().map(|agent| agent.id.clone()).collect();
        self.shared.change(|world| rooms::make(world, name, &members))
    }

    /// Takes someone into a room.
    pub fn join(&self, room: &str, id: &str) {
        self.shared.change(|world| {
            let member = super::state::Member { id: id.to_owned(), role: "member", muted: false, can_send: None };
            world.rooms.get_mut(room).expect("the room is there").members.push(member);
        });
    }

    /// Changes a room: `hub.set_room(&room, |room| room.rule = …)`.
    pub fn set_room(&self, room: &str, change: impl FnOnce(&mut super::state::Room)) {
        self.shared.change(|world| change(world.rooms.get_mut(room).expect("the room is there")));
    }

    /// A token for an agent, as verify gives it: it leaves other tokens as they are. With its expiry (Unix seconds).
    pub fn token(&self, agent: &AgentHandle) -> (String, i64) {
        self.shared.change(|world| registry::issue(world, &agent.id))
    }

    /// Another program refreshes: every token before is void. Returns the new one and its expiry.
    pub fn refreshed_elsewhere(&self, agent: &AgentHandle) -> (String, i64) {
        let answer = self.shared.change(|world| registry::replace(world, &agent.id));
        (answer["agent_token"].as_str().unwrap().to_owned(), answer["expires_at"].as_i64().unwrap())
    }

    /// All tokens of an agent run out now.
    pub fn expire_tokens(&self, agent: &AgentHandle) {
        self.shared.change(|world| {
            for token in world.tokens.values_mut().filter(|token| token.agent == agent.id) {
                token.until = 0;
            }
        });
    }

    /// The content of a credentials file, with a token that is good.
    pub fn credentials(&self, agent: &AgentHandle) -> Value {
        let (token, until) = self.token(agent);
        json!({
            "version": 1,
            "hubUrl": self.url(),
            "agentId": agent.id,
            "keyId": agent.key_id,
            "privateKey": sign::base64(&agent.seed.0),
            "publicKey": agent.seed.public(),
            "displayName": agent.name,
            "savedAt": clock::iso(clock::real(), ".000Z"),
            "token": token,
            "tokenExpiresAt": until,
        })
    }

    /// Writes `<home>/credentials/<agent>.json`, private as it must be.
    pub fn write_credentials(&self, agent: &AgentHandle, home: &Path) -> PathBuf {
        write_credentials(home, &self.credentials(agent))
    }

    /// The agent loses its person.
    pub fn unclaim(&self, agent: &AgentHandle) {
        self.shared.change(|world| world.agents.get_mut(&agent.id).unwrap().claimed = false);
    }

    /// The agent is deleted from the registry.
    pub fn delete_agent(&self, agent: &AgentHandle) {
        self.shared.change(|world| {
            world.agents.remove(&agent.id);
            world.tokens.retain(|_, token| token.agent != agent.id);
        });
    }

    /// The agent's key becomes `revoked` or `pending`.
    pub fn set_key_state(&self, agent: &AgentHandle, state: &'static str) {
        self.shared.change(|world| world.keys.get_mut(&agent.key_id).unwrap().state = state);
    }

    /// Whoever sends to the agent gets 403 with this code; nothing lets them again.
    pub fn refuse_senders(&self, agent: &AgentHandle, code: Option<&str>) {
        let code = code.map(str::to_owned);
        self.shared.change(|world| world.agents.get_mut(&agent.id).unwrap().admission = code);
    }

    /// The attention policy of an agent, in a room or (no room) everywhere else.
    pub fn set_policy(&self, agent: &AgentHandle, room: Option<&str>, policy: Value) {
        let room = room.unwrap_or_default().to_owned();
        self.shared.change(|world| world.agents.get_mut(&agent.id).unwrap().policies.insert(room, policy));
    }

    /// Everything handed out to the agent and not settled is to be had again, now.
    pub fn expire_leases(&self, agent: &AgentHandle) {
        self.shared.change(|world| inbox::sweep(world, Some(&agent.id)));
    }

    /// Closes all sockets of an agent with this code, or without a close frame.
    pub fn close_sockets(&self, agent: &AgentHandle, code: Option<(u16, &str)>) {
        let conns = self.look(|world| world.conns.get(&agent.id).cloned().unwrap_or_default());
        for conn in conns {
            match code {
                Some((code, reason)) => conn.close(code, reason),
                None => conn.cut(),
            }
        }
    }

    /// All sockets of an agent become half-open: they stay, and nothing comes out of them any more.
    pub fn mute_sockets(&self, agent: &AgentHandle) {
        self.look(|world| world.conns.get(&agent.id).into_iter().flatten().for_each(|conn| conn.fall_silent()));
    }

    /// Asks `probe` on every acknowledged id whether the daemon's journal may hold it already.
    pub fn probe_journal(&self, probe: impl FnMut(&str) -> bool + Send + 'static) {
        self.shared.change(|world| world.journal_probe = Some(Box::new(probe)));
    }

    /// The next so many requests to an endpoint go wrong.
    pub fn fault(&self, endpoint: Endpoint, fault: Fault, times: u32) {
        self.plan(Plan { endpoint, fault, agent: None, left: Some(times), per_mille: 1000 });
    }

    /// All requests to an endpoint go wrong until [`Self::heal`].
    pub fn break_down(&self, endpoint: Endpoint, fault: Fault) {
        self.plan(Plan { endpoint, fault, agent: None, left: None, per_mille: 1000 });
    }

    /// So many of 1000 requests to an endpoint go wrong until [`Self::heal`].
    pub fn weaken(&self, endpoint: Endpoint, fault: Fault, per_mille: u64) {
        self.plan(Plan { endpoint, fault, agent: None, left: None, per_mille });
    }

    /// Whatever the plan says.
    pub fn plan(&self, plan: Plan) {
        self.shared.change(|world| world.faults.add(plan));
    }

    /// Nothing goes wrong on purpose any more.
    pub fn heal(&self) {
        self.shared.change(|world| world.faults.clear());
    }

    /// Requests to an endpoint so far, in the order they came.
    pub fn requests(&self, endpoint: Endpoint) -> Vec<Row> {
        self.look(|world| world.rows.iter().filter(|row| row.endpoint == Some(endpoint)).cloned().collect())
    }

    /// The daemon may break this rule; breaches so far are forgotten.
    pub fn allow(&self, rule: Rule) {
        self.shared.change(|world| world.ledger.allow(rule));
    }

    /// Takes the breaches of a rule out of the ledger.
    pub fn violations_of(&self, rule: Rule) -> Vec<String> {
        self.shared.change(|world| {
            world.look_back();
            world.ledger.take(rule)
        })
    }

    /// All breaches so far.
    pub fn violations(&self) -> Vec<String> {
        self.shared.change(World::violations)
    }

    /// How long handles wait.
    pub fn patience(&self) -> Duration {
        self.look(|world| world.settings.patience)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.stop();
        let broken = self.violations();
        if broken.is_empty() {
            return;
        }
        let more = if broken.len() > 20 { format!("\n  and {} more", broken.len() - 20) } else { String::new() };
        let text = broken.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n  ") + &more;
        assert!(std::thread::panicking(), "the daemon broke rules of the hub:\n  {text}");
        eprintln!("the daemon also broke rules of the hub:\n  {text}");
    }
}

/// Writes a credentials file below a home, whatever it says.
pub fn write_credentials(home: &Path, credentials: &Value) -> PathBuf {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let dir = home.join("credentials");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).unwrap();
    let path = dir.join(format!("{}.json", credentials["agentId"].as_str().unwrap_or("unnamed")));
    let text = serde_json::to_string_pretty(credentials).unwrap() + "\n";
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}
