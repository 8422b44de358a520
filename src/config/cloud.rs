//! A hub's sandbox: what its environment says, and what is different there.
//!
//! The variable [`TOKEN`] makes a machine a sandbox: the login comes with the environment, agents come by the hub's
//! frames only, and the configuration begins anew with every start.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::paths::Home;
use super::{Config, load};
use crate::json;
use crate::net::url;
use crate::store::{self, RealDisk};

/// Opens the hub's sockets and settles runs. Secret. Its presence is the switch.
pub const TOKEN: &str = "BOTCORD_CLOUD_DAEMON_ACCESS_TOKEN";
/// The hub.
pub const HUB: &str = "BOTCORD_HUB_URL";
/// This sandbox, for the hub.
pub const CLOUD_INSTANCE: &str = "BOTCORD_CLOUD_DAEMON_INSTANCE_ID";
/// This daemon, for the hub.
pub const INSTANCE: &str = "BOTCORD_DAEMON_INSTANCE_ID";
/// Runtime of agents that name none.
const RUNTIME: &str = "deepseek-tui";

/// What a sandbox knows of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Cloud {
    /// The hub, as it is given.
    pub hub_url: String,
    /// This sandbox.
    pub cloud_instance_id: String,
    /// This daemon.
    pub instance_id: String,
    /// Secret.
    pub access_token: String,
}

/// Without the token.
impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloud")
            .field("hub_url", &self.hub_url)
            .field("cloud_instance_id", &self.cloud_instance_id)
            .finish_non_exhaustive()
    }
}

impl Cloud {
    /// The sandbox that this process runs in, if it does.
    pub fn of_process() -> Result<Option<Self>, String> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// What an environment says; `None`: no sandbox. An error names the variable that is wrong.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let given = |name: &str| variable(name).filter(|text| !text.is_empty());
        let Some(access_token) = given(TOKEN) else { return Ok(None) };
        let needed =
            |name: &str| given(name).ok_or_else(|| format!("{name} is not set, but {TOKEN} is: a sandbox needs both"));
        let hub_url = needed(HUB)?;
        let cloud_instance_id = needed(CLOUD_INSTANCE)?;
        let instance_id = needed(INSTANCE)?;
        url::server(&hub_url).map_err(|e| format!("{HUB} {e}"))?;
        Ok(Some(Self { hub_url, cloud_instance_id, instance_id, access_token }))
    }

    /// The hub's address as others are compared with it.
    pub fn hub(&self) -> String {
        url::server(&self.hub_url).unwrap_or_else(|_| self.hub_url.clone())
    }
}

/// Whether this process runs in a sandbox.
pub fn is_on() -> bool {
    std::env::var_os(TOKEN).is_some_and(|token| !token.is_empty())
}

/// The configuration that every start in a sandbox begins with.
pub fn document(home_of_user: &Path) -> Value {
    let cwd = home_of_user.display().to_string();
    json!({"defaultRoute": {"adapter": RUNTIME, "cwd": cwd}, "routes": [], "streamBlocks": true})
}

/// The same as a [`Config`].
pub fn configuration(home: &Home) -> Result<Config, super::ConfigError> {
    let mut config = load::parse(&text(home), &home.config())?;
    in_sandbox(&mut config);
    Ok(config)
}

fn text(home: &Home) -> String {
    let user = std::env::var_os("HOME").filter(|dir| !dir.is_empty());
    let dir = user.map_or_else(|| home.root().to_owned(), Into::into);
    let mut text = json::to_string_pretty(&document(&dir)).unwrap_or_default();
    text.push('\n');
    text
}

/// Begins anew; the configuration of the run before is kept as `config.json.previous`. The caller holds the home's lock.
pub fn begin(home: &Home) -> io::Result<()> {
    let path = home.config();
    let text = text(home);
    match fs::read(&path) {
        // Nothing of the run before is in it.
        Ok(before) if before == text.as_bytes() => return Ok(()),
        // Renamed: whatever it is, it is not read.
        Ok(_) => fs::rename(&path, path.with_extension("json.previous"))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    store::write(&RealDisk, &path, text.as_bytes()).map_err(|e| io::Error::other(e.to_string()))
}

/// What a sandbox has otherwise than other machines where its configuration does not say: agents come from the hub
/// alone, and runtimes may do what they like.
pub fn in_sandbox(config: &mut Config) {
    let says = |key: &str| config.document.get(key).is_some_and(|value| !value.is_null());
    let (sandboxed, keeps) = (says("sandboxed"), says("keepAnthropicEnv"));
    config.agent_discovery = false;
    config.sandboxed |= !sandboxed;
    config.keep_anthropic_env |= !keeps;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Cloud>, String> {
        let value =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Cloud::read(value)
    }

    #[test]
    fn the_variable_that_is_missing_or_wrong_is_named_and_no_value_is() {
        let all =
            [(TOKEN, "jwt-secret"), (HUB, "https://hub.example/"), (CLOUD_INSTANCE, "cloud_dm_1"), (INSTANCE, "dm_1")];
        let cloud = read(&all).unwrap().unwrap();
        assert_eq!((cloud.hub().as_str(), cloud.access_token.as_str()), ("https://hub.example", "jwt-secret"));
        assert!(!format!("{cloud:?}").contains("secret"));
        for name in [HUB, CLOUD_INSTANCE, INSTANCE] {
            for others in [
                all.iter().copied().filter(|(n, _)| *n != name).collect::<Vec<_>>(),
                all.iter().map(|(n, v)| (*n, if *n == name { "" } else { *v })).collect(),
            ] {
                let error = read(&others).unwrap_err();
                assert!(error.starts_with(name) && !error.contains("secret"), "{error}");
            }
        }
        assert_eq!(read(&all[1..]).unwrap(), None);
        let error = read(&[all[0], (HUB, "http://hub.example"), all[2], all[3]]).unwrap_err();
        assert!(error.starts_with(HUB), "{error}");
    }

    #[test]
    fn a_sandbox_begins_anew_and_keeps_what_was() {
        let root = std::env::temp_dir().join(format!("bh-cloud-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let home = Home::at(&root).unwrap();
        home.prepare().unwrap();
        begin(&home).unwrap();
        let fresh = fs::read_to_string(home.config()).unwrap();
        fs::write(home.config(), "{\"agents\": [\"ag_1\"]").unwrap();
        begin(&home).unwrap();
        assert_eq!(fs::read_to_string(home.config()).unwrap(), fresh);
        let previous = home.daemon_dir().join("config.json.previous");
        assert_eq!(fs::read_to_string(&previous).unwrap(), "{\"agents\": [\"ag_1\"]");
        begin(&home).unwrap();
        assert!(fs::read_to_string(&previous).unwrap().contains("ag_1"), "a start that changes nothing takes nothing");
        let config = configuration(&home).unwrap();
        assert!(config.sandboxed && config.keep_anthropic_env && !config.agent_discovery && config.stream_blocks);
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        assert_eq!(config.default_route.unwrap().runtime, "deepseek-tui");
        fs::remove_dir_all(root).unwrap();
    }
}
