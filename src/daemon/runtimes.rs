//! What the command line shows of the runtimes, and what hubs are told of them.

use serde_json::{Value, json};

use super::{openclaw, parts};
use crate::cli::host::{LoginCheck, RuntimeRow, Wanted};
use crate::config::{Config, Home};
use crate::engine::breaker::BreakerState;
use crate::engine::now_ms;
use crate::json;
use crate::runtime::catalogue::{self, Catalogue, Installed};
use crate::runtime::{self, hermes};
use crate::runtime::{Probe, Registry, RuntimeSettings, environ, login};

/// Most breakers of one runtime that are told.
const BREAKERS: usize = 32;

/// The runtimes of this machine, as the hub wants to know them. Everything is asked at once; it takes as long as the
/// slowest program or gateway, each of which has a limit of a few seconds.
pub(super) fn snapshot(home: &Home, config: &Config, breakers: &[BreakerState]) -> Value {
    let wanted = Wanted { models: true, places: true, login: LoginCheck::None };
    let rows = look(home, config, wanted, true);
    let runtimes: Vec<Value> = rows.iter().map(|row| entry(row, breakers)).collect();
    json!({
        "probedAt": now_ms(),
        "daemonVersion": concat!("bellhop/", env!("CARGO_PKG_VERSION")),
        "runtimes": runtimes,
    })
}

fn entry(row: &RuntimeRow, breakers: &[BreakerState]) -> Value {
    let mut entry = json!({"id": row.id, "available": row.ok});
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            entry[key] = value;
        }
    };
    put("version", row.version.clone().map(Value::from));
    put("path", row.path.clone().map(Value::from));
    put("error", row.problem.clone().filter(|_| !row.ok).map(Value::from));
    let listed =
        |list: Result<Value, json::Error>| list.ok().filter(|list| list.as_array().is_some_and(|l| !l.is_empty()));
    if row.ok {
        put("models", listed(json::to_value(&row.catalogue.models)));
        put("parameters", listed(json::to_value(&row.catalogue.parameters)));
        put("profiles", listed(Ok(row.profiles.clone().into())));
    }
    put("endpoints", listed(Ok(row.endpoints.clone().into())));
    let open: Vec<&BreakerState> = breakers.iter().filter(|b| b.runtime == row.id).take(BREAKERS).collect();
    put("health", listed(json::to_value(&open)).map(|open| json!({"circuitBreakers": open})));
    entry
}

/// One row for each registered runtime.
pub(super) fn rows(home: &Home, config: &Config, wanted: Wanted) -> Vec<RuntimeRow> {
    look(home, config, wanted, false)
}

/// With `stays`, this process lives long enough to renew what it has kept of them in the background.
fn look(home: &Home, config: &Config, wanted: Wanted, stays: bool) -> Vec<RuntimeRow> {
    let settings = &parts::runtime_settings(home, config);
    let registry = Registry::new(settings.clone());
    let probes = registry.probe();
    let row = |probe: &Probe| RuntimeRow {
        id: probe.descriptor.id.to_owned(),
        name: probe.descriptor.name.to_owned(),
        ok: probe.path.is_some(),
        version: probe.version.clone(),
        path: probe.path.as_ref().map(|p| p.display().to_string()),
        hint: probe.descriptor.install_hint.map(str::to_owned),
        notes: Vec::new(),
        problem: probe.problem.clone(),
        ..RuntimeRow::default()
    };
    let mut rows: Vec<RuntimeRow> = probes.iter().map(row).collect();
    std::thread::scope(|scope| {
        for (row, probe) in rows.iter_mut().zip(&probes) {
            scope.spawn(move || {
                if wanted.models {
                    row.catalogue = catalogue(probe, settings, stays);
                }
                match row.id.as_str() {
                    hermes::ID if wanted.places => row.profiles = openclaw::hermes_profiles(home, config),
                    runtime::openclaw::ID if wanted.places => row.endpoints = openclaw::endpoints(home, config),
                    _ => {}
                }
            });
        }
    });
    if wanted.login != LoginCheck::None {
        for (row, probe) in rows.iter_mut().zip(&probes) {
            row.notes = login::notes(probe, settings, wanted.login == LoginCheck::Turn);
        }
    }
    rows
}

fn catalogue(probe: &Probe, settings: &RuntimeSettings, stays: bool) -> Catalogue {
    let Some(binary) = probe.path.clone() else { return Catalogue::default() };
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let installed = Installed {
        runtime: probe.descriptor.id.to_owned(),
        binary,
        version: probe.version.clone(),
        home: settings.user_home.clone(),
        env: crate::sort::map(environ::plain(settings).into_iter().filter_map(text)),
    };
    catalogue::lookup(&installed, settings.catalogue_cache().as_deref(), stays && settings.renews_catalogue())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_is_not_there_says_why() {
        let absent =
            RuntimeRow { id: "codex".into(), problem: Some("not found on PATH".into()), ..RuntimeRow::default() };
        let expected = json!({"id": "codex", "available": false, "error": "not found on PATH"});
        assert_eq!(entry(&absent, &[]), expected);
        let there = RuntimeRow { ok: true, version: Some("1".into()), ..absent };
        assert_eq!(entry(&there, &[]), json!({"id": "codex", "available": true, "version": "1"}));
    }
}
