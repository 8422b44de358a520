//! Agents that the hub takes away.
//!
//! Each step is done whatever became of the one before. What is to be done is on disk before the first one, so that a
//! daemon that dies in between goes on at its next start: [`super::provision_journal`].

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::duties::agent_id;
use super::hubs;
use super::provision::one_at_a_time;
use super::provision_journal;
use super::reload::Live;
use crate::config::{Config, Home, agents, edit, load};
use crate::engine::backlog::State;
use crate::link::botcord_control::frame::Refused;
use crate::store::{self, Disk, FileLock};

/// How long a revocation waits for turns to end; the hub waits ten seconds for the answer.
const TURNS_LIMIT: Duration = Duration::from_secs(6);
/// How long it waits for whoever is changing the credentials.
const LOCK_LIMIT: Duration = Duration::from_secs(2);
/// Files of one agent that it looks for.
const COPIES: usize = 32;

/// Who is to go, and what goes along.
pub(super) struct Revocation {
    pub(super) agent: String,
    delete_credentials: bool,
    delete_state: bool,
    delete_workspace: bool,
}

/// What was there and is gone.
#[derive(Default)]
struct Gone {
    removed: bool,
    credentials: bool,
    state: bool,
    workspace: bool,
}

impl Revocation {
    /// From the params of a frame, or from what [`Revocation::record`] has made of them.
    pub(super) fn read(params: &Value) -> Result<Self, Refused> {
        let agent = agent_id(params, "agentId")?;
        let delete_credentials = flag(params, "deleteCredentials", true)?;
        let delete_state = flag(params, "deleteState", delete_credentials)?;
        let delete_workspace = flag(params, "deleteWorkspace", false)?;
        Ok(Self { agent, delete_credentials, delete_state, delete_workspace })
    }

    /// What is kept of it until it is done.
    pub(super) fn record(&self) -> Value {
        json!({
            "agentId": self.agent,
            "deleteCredentials": self.delete_credentials,
            "deleteState": self.delete_state,
            "deleteWorkspace": self.delete_workspace,
        })
    }

    /// The configuration names it no more, and its credentials are away.
    fn forget(&self, home: &Home, disk: &dyn Disk) -> Gone {
        let agent = self.agent.as_str();
        let mut gone = Gone::default();
        let mut removed = false;
        let edited = edit::edit_on(disk, home, |document| {
            removed = agents::remove(document, agent);
            stop_gateways(document, agent);
        });
        gone.removed = self.tried("config", edited.map_err(|e| e.to_string())) && removed;
        let config = load::load(&home.config()).unwrap_or_default();
        let config = Config { agents: vec![agent.to_owned()], ..config };
        // Each of several files of one agent would bring it back.
        for _ in 0..COPIES {
            let path = hubs::find(home, &config).0.pop().map_or_else(|| home.credentials(agent), |found| found.path);
            if !path.exists() {
                break;
            }
            // Whoever writes a token at this moment must not bring the file back.
            let _lock = FileLock::acquire(&path.with_added_extension("lock"), LOCK_LIMIT, &|| false);
            let moved = if self.delete_credentials { delete_file(disk, &path) } else { keep(disk, &path) };
            if !self.tried("credentials", moved) {
                gone.credentials = false;
                break;
            }
            gone.credentials = self.delete_credentials;
        }
        gone
    }

    /// What lies in its directory goes, as far as that was asked for.
    fn clear(&self, home: &Home, gone: &mut Gone) {
        let delete = |what: &str, dir: PathBuf| {
            dir.symlink_metadata().is_ok() && {
                store::step();
                self.tried(what, fs::remove_dir_all(dir).map_err(|e| e.to_string()))
            }
        };
        gone.workspace = self.delete_workspace && delete("workspace", home.agent_dir(&self.agent));
        gone.state = gone.workspace || (self.delete_state && delete("state", home.agent_state(&self.agent)));
    }

    /// Does what the files of a daemon that died still lack.
    pub(super) fn finish(&self, home: &Home, disk: &dyn Disk) {
        let mut gone = self.forget(home, disk);
        self.clear(home, &mut gone);
    }

    fn tried(&self, what: &str, done: Result<(), String>) -> bool {
        done.inspect_err(|e| log::warn!("control.revoke_step_failed agent={} step={what} error={e:?}", self.agent))
            .is_ok()
    }
}

/// `revoke_agent`: the agent does not work here any more.
pub(super) fn revoke(live: &Live, params: &Value) -> Result<Value, Refused> {
    let revocation = Revocation::read(params)?;
    let agent = revocation.agent.as_str();
    let _one = one_at_a_time(live);
    let (home, disk) = (&live.home, &*live.disk);
    // Without a record it is done all the same: a disk that is full must not keep an agent at work.
    let recorded = provision_journal::settle(home, &live.disk)
        .and_then(|()| provision_journal::begin_revocation(home, disk, &revocation));
    let is_recorded = revocation.tried("record", recorded);
    live.channels.remove(agent);
    live.engine.dismiss(agent);
    await_turns(live, agent);
    let mut gone = revocation.forget(home, disk);
    revocation.tried("reload", live.reload().map(drop));
    revocation.clear(home, &mut gone);
    live.set_policy(agent, None, None);
    // What came in between the first step and the last.
    live.engine.dismiss(agent);
    // Otherwise the record is that of another frame, which could not be settled yet.
    if is_recorded {
        revocation.tried("record", provision_journal::end(home, disk));
    }
    log::info!("control.revoked_agent agent={agent} removed={}", gone.removed);
    Ok(json!({
        "agentId": agent,
        "removed": gone.removed,
        "credentialsDeleted": gone.credentials,
        "stateDeleted": gone.state,
        "workspaceDeleted": gone.workspace,
    }))
}

/// Waits until no turn of an agent runs.
fn await_turns(live: &Live, agent: &str) {
    let end = Instant::now() + TURNS_LIMIT;
    let runs = || live.engine.queue().iter().any(|i| i.state == State::Running && i.message.account_id == agent);
    while runs() {
        if Instant::now() >= end {
            log::warn!("control.revoke_turns_run agent={agent}");
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The profiles of an agent's gateways stay, switched off.
fn stop_gateways(document: &mut Map<String, Value>, agent: &str) {
    for gateway in document.get_mut("thirdPartyGateways").and_then(Value::as_array_mut).into_iter().flatten() {
        if gateway["accountId"] == agent
            && let Some(gateway) = gateway.as_object_mut()
        {
            gateway.insert("enabled".into(), false.into());
        }
    }
}

fn delete_file(disk: &dyn Disk, path: &Path) -> Result<(), String> {
    let dir = path.parent().ok_or("no such place")?;
    disk.remove(path).and_then(|()| disk.sync_dir(dir)).map_err(|e| e.to_string())
}

/// A flag of a frame. What is no flag is refused: it is about what is deleted.
pub(super) fn flag(params: &Value, key: &str, default: bool) -> Result<bool, Refused> {
    match params.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(Refused::params(format!("{key}: expected true or false"))),
    }
}

/// Puts credentials that are kept where nothing loads them.
fn keep(disk: &dyn Disk, path: &Path) -> Result<(), String> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Err("no such place".into()) };
    let aside = dir.join("revoked");
    disk.create_dir(&aside).map_err(|e| e.to_string())?;
    disk.rename(path, &aside.join(name)).map_err(|e| e.to_string())?;
    disk.sync_dir(&aside).and_then(|()| disk.sync_dir(dir)).map_err(|e| e.to_string())
}
