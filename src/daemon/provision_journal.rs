//! What a `provision_agent` that is under way has to put back if it does not come to its end, and what a `revoke_agent`
//! still has to do.
//!
//! The record is on disk before the first step, and gone after the last one, before the hub is answered. A hub whose
//! `provision_agent` was not answered has forgotten the agent, so a daemon that finds a record at its start undoes what
//! it tells of; whom it wants revoked stays so, therefore that is finished. Each part of either can be done twice; the
//! record goes last.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::revoke::Revocation;
use crate::config::paths::is_agent_id;
use crate::config::{Home, agents, edit};
use crate::store::{self, Disk, Loaded};

/// The state before a `provision_agent`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Before {
    pub(super) agent: String,
    /// The text of its credentials; `None`: there were none.
    pub(super) credentials: Option<String>,
    /// `agents` and `agentId` of the configuration, where it has them.
    pub(super) named: Map<String, Value>,
    /// Whether there is a file of the configuration.
    pub(super) configured: bool,
}

/// The members that a frame may change.
const NAMED: [&str; 2] = ["agents", "agentId"];

impl Before {
    /// What a document names.
    pub(super) fn of(document: &Map<String, Value>) -> Map<String, Value> {
        NAMED.iter().filter_map(|key| Some(((*key).to_owned(), document.get(*key)?.clone()))).collect()
    }

    /// Puts the record on disk.
    pub(super) fn begin(&self, home: &Home, disk: &dyn Disk) -> Result<(), String> {
        let record = json!({
            "agent": self.agent, "credentials": self.credentials, "named": self.named, "configured": self.configured,
        });
        begin(home, disk, &record)
    }

    /// Puts everything back as it was, and takes the record away. The agent's directory stays.
    pub(super) fn undo(&self, home: &Home, disk: &Arc<dyn Disk>) -> Result<(), String> {
        let path = home.credentials(&self.agent);
        match &self.credentials {
            Some(text) => store::write(&**disk, &path, text.as_bytes()).map_err(|e| e.to_string())?,
            None => match disk.remove(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.to_string()),
                _ => disk.sync_dir(&home.credentials_dir()).or_else(missing).map_err(|e| e.to_string())?,
            },
        }
        if self.configured || home.config().exists() {
            edit::edit_on(&**disk, home, |document| self.put_back(document)).map_err(|e| e.to_string())?;
        }
        end(home, &**disk)
    }

    fn put_back(&self, document: &mut Map<String, Value>) {
        let before = agents::named(&self.named);
        // Somebody else may have named others meanwhile, or taken some away; whoever was found and not named is found again.
        let mut wanted = if before.is_empty() { Vec::new() } else { agents::named(document) };
        wanted.retain(|id| *id != self.agent || before.contains(id));
        let exactly = wanted == before;
        for key in NAMED {
            document.shift_remove(key);
            if exactly && let Some(value) = self.named.get(key) {
                document.insert(key.into(), value.clone());
            }
        }
        if !exactly {
            document.insert("agents".into(), wanted.into());
        }
    }
}

/// Where there is no directory, there is nothing in it.
fn missing(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// A frame that has not come to its end.
pub(super) enum Unfinished {
    /// To be undone.
    Provisioning(Before),
    /// To be finished.
    Revoking(Revocation),
}

impl Unfinished {
    fn settle(&self, home: &Home, disk: &Arc<dyn Disk>) -> Result<(), String> {
        match self {
            Self::Provisioning(before) => {
                before.undo(home, disk)?;
                log::warn!("provision.undone agent={}", before.agent);
            }
            Self::Revoking(revocation) => {
                revocation.finish(home, &**disk);
                end(home, &**disk)?;
                log::warn!("revoke.finished agent={}", revocation.agent);
            }
        }
        Ok(())
    }

    /// The record that there is. One that cannot be read is moved aside.
    fn load(home: &Home, disk: &dyn Disk) -> Option<Self> {
        match store::load_json::<Value>(disk, &path(home)) {
            Ok(Loaded::Missing) => None,
            Ok(Loaded::Ok(record)) if record["revoke"].is_object() => {
                Revocation::read(&record["revoke"]).ok().map(Self::Revoking)
            }
            Ok(Loaded::Ok(record)) => Some(Self::Provisioning(Before {
                agent: record["agent"].as_str().filter(|id| is_agent_id(id))?.to_owned(),
                credentials: record["credentials"].as_str().map(str::to_owned),
                named: record["named"].as_object().cloned().unwrap_or_default(),
                configured: record["configured"] == true,
            })),
            Ok(Loaded::Corrupt { why, .. }) => {
                log::error!("provision.journal_corrupt error={why:?}");
                None
            }
            Err(e) => {
                log::error!("provision.journal_unreadable error={:?}", e.to_string());
                None
            }
        }
    }
}

fn path(home: &Home) -> PathBuf {
    home.daemon_dir().join("provision.journal")
}

fn begin(home: &Home, disk: &dyn Disk, record: &Value) -> Result<(), String> {
    store::write_json(disk, &path(home), record).map_err(|e| e.to_string())
}

/// Puts the record of a revocation on disk.
pub(super) fn begin_revocation(home: &Home, disk: &dyn Disk, revocation: &Revocation) -> Result<(), String> {
    begin(home, disk, &json!({"revoke": revocation.record()}))
}

/// Takes the record away: everything has been done, or put back.
pub(super) fn end(home: &Home, disk: &dyn Disk) -> Result<(), String> {
    match disk.remove(&path(home)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.to_string()),
        _ => {}
    }
    disk.sync_dir(&home.daemon_dir()).map_err(|e| e.to_string())
}

/// Undoes or finishes what an earlier frame has left.
pub(super) fn settle(home: &Home, disk: &Arc<dyn Disk>) -> Result<(), String> {
    Unfinished::load(home, &**disk).map_or(Ok(()), |left| left.settle(home, disk))
}

/// The same for what an earlier process has left; returns what that was.
pub(super) fn at_start(home: &Home, disk: &Arc<dyn Disk>) -> Option<Unfinished> {
    let left = Unfinished::load(home, &**disk)?;
    if let Err(why) = left.settle(home, disk) {
        log::error!("provision.not_settled error={why:?}");
    }
    Some(left)
}
