//! The daemon as the hub's frames about gateways need it.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::frames::Desk;
use super::plans;
use crate::channel::manager::ChannelStatus;
use crate::config::{Config, ConfigError, GatewayProfile, Home};
use crate::daemon::reload::Live;
use crate::engine::ports::Delivery;
use crate::message::Outbound;

/// How long is waited in all for a service that wants to be asked later; the hub waits about so long, too.
const PATIENCE: Duration = Duration::from_secs(20);

impl Desk for Live {
    fn home(&self) -> &Home {
        &self.home
    }

    fn config(&self) -> Result<Config, ConfigError> {
        self.read()
    }

    fn knows(&self, agent: &str) -> bool {
        self.hubs.ids().iter().any(|id| id == agent)
    }

    fn status(&self, id: &str) -> Option<ChannelStatus> {
        self.gateways.status(id, &self.channels)
    }

    fn add(&self, profile: &GatewayProfile) -> Result<(), String> {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let config = self.read().map_err(|e| e.to_string())?;
        let plan = plans(&self.home, &config, &self.hubs).into_iter().find(|plan| plan.profile.id == profile.id);
        let plan = plan.ok_or("the gateway is not in the configuration")?;
        self.gateways.take(&profile.id, &self.engine, &self.channels);
        self.gateways.put(plan, &self.home, &self.engine, &self.channels);
        self.channels.start_all();
        self.apply(&config, &["thirdPartyGateways"]);
        self.gateways.problem(&profile.id).map_or(Ok(()), Err)
    }

    fn remove(&self, id: &str) -> Result<(), String> {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        self.gateways.take(id, &self.engine, &self.channels);
        Ok(())
    }

    fn send(&self, out: &Outbound) -> Result<Option<String>, String> {
        let channel = self.engine.channel(&out.channel).ok_or("the gateway is not connected")?;
        let end = Instant::now() + PATIENCE;
        loop {
            match channel.send(out) {
                Delivery::Delivered { id } => return Ok(id),
                Delivery::Transient { after: Some(after), .. } if Instant::now() + after < end => {
                    std::thread::sleep(after);
                }
                Delivery::Transient { why, .. } | Delivery::Uncertain { why } | Delivery::Permanent { why } => {
                    return Err(why);
                }
            }
        }
    }

    fn ask(&self, profile: &GatewayProfile, token: &str) -> Result<Value, String> {
        super::ask(profile, token)
    }
}
