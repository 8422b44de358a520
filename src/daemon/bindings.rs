//! Agents that stand for one of another program: an agent behind an OpenClaw gateway, a profile of Hermes. Each of those
//! stands for one agent of the hub at most.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::reload::Live;
use crate::channel::botcord::credentials::{self, Credentials};
use crate::config::Config;
use crate::link::botcord_control::frame::Refused;
use crate::runtime::hermes::profiles;
use crate::runtime::openclaw::discover;

/// The credentials of all agents of this home.
fn all(live: &Live, config: &Config) -> Vec<Credentials> {
    let dirs = [Some(live.home.credentials_dir()), config.credentials_dir.clone()];
    let found = dirs.into_iter().flatten().flat_map(|dir| credentials::discover::discover(&dir, None).0);
    found.map(|found| found.credentials).collect()
}

/// The agent behind a gateway that is meant where none is named: the gateway's own choice; of a gateway on this machine
/// `default`, or the only one that lives there.
pub(super) fn openclaw_agent(live: &Live, config: &Config, gateway: &str, named: Option<&str>) -> Option<String> {
    if let Some(named) = named {
        return Some(named.to_owned());
    }
    let entry = gateway_entry(config, gateway)?;
    if let Some(own) = filled(entry, "defaultAgent") {
        return Some(own.to_owned());
    }
    if !discover::is_local(filled(entry, "url")?) {
        return None;
    }
    let household = discover::agents::of(entry, &live.user_home);
    Some(discover::agents::chosen(&household.agents).unwrap_or("default").to_owned())
}

/// A gateway as the configuration has it.
fn gateway_entry<'c>(config: &'c Config, name: &str) -> Option<&'c Value> {
    let all = config.document.get("openclawGateways")?.as_array()?;
    all.iter().find(|gateway| filled(gateway, "name") == Some(name))
}

fn filled<'v>(of: &'v Value, key: &str) -> Option<&'v str> {
    of.get(key)?.as_str().map(str::trim).filter(|text| !text.is_empty())
}

/// The agent behind the gateway of an agent of the hub, and where it works if that is on this machine.
pub(super) fn openclaw_workspace(live: &Live, config: &Config, credentials: &Credentials) -> Option<(String, PathBuf)> {
    let gateway = credentials.openclaw_gateway.as_deref().map(str::trim)?;
    let named = credentials.openclaw_agent.as_deref().map(str::trim).filter(|agent| !agent.is_empty());
    let agent = openclaw_agent(live, config, gateway, named)?;
    let household = discover::agents::of(gateway_entry(config, gateway)?, &live.user_home);
    let known = household.agents.iter().find(|known| known["id"] == *agent)?;
    let workspace = expand(filled(known, "workspace")?, &live.user_home);
    workspace.is_absolute().then_some((agent, workspace))
}

fn expand(path: &str, user_home: &Path) -> PathBuf {
    path.strip_prefix("~/").map_or_else(|| PathBuf::from(path), |below| user_home.join(below))
}

/// The agent of the hub that stands for an agent behind a gateway already.
pub(super) fn of_openclaw(live: &Live, config: &Config, gateway: &str, agent: &str) -> Option<Credentials> {
    let filled = |text: &Option<String>, wanted: &str| text.as_deref().map(str::trim) == Some(wanted);
    let mut all = all(live, config).into_iter();
    all.find(|c| filled(&c.openclaw_gateway, gateway) && filled(&c.openclaw_agent, agent))
}

/// Whether an agent may stand for a profile of Hermes.
pub(super) fn check_hermes(live: &Live, config: &Config, profile: &str, agent: Option<&str>) -> Result<(), Refused> {
    let refused = |code, why: &str| {
        let mut refused = Refused::new(code, why);
        refused.more.insert("profile".into(), Value::from(crate::text::clip(profile, 128)));
        refused
    };
    let Some(home) = profiles::home(&live.user_home, profile) else {
        return Err(refused("hermes_profile_invalid", "hermes.profile: expected default, or [a-z0-9][a-z0-9_-]{0,63}"));
    };
    if !is_directory(&home) {
        return Err(refused("hermes_profile_not_found", "hermes.profile: there is no such profile on this machine"));
    }
    let bound = |c: &&Credentials| c.hermes_profile.as_deref().map(str::trim) == Some(profile);
    let holder = all(live, config).iter().find(bound).map(|c| c.agent_id.clone());
    if let Some(holder) = holder.filter(|holder| Some(holder.as_str()) != agent) {
        let mut refused = refused("hermes_profile_occupied", "hermes.profile: another agent uses this profile");
        refused.more.insert("occupiedBy".into(), json!(holder));
        return Err(refused);
    }
    Ok(())
}

fn is_directory(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_dir())
}
