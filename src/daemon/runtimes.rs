//! What the command line shows of the runtimes, and what hubs are told of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use serde_json::{Value, json};

use super::{openclaw, parts};
use crate::cli::host::{LoginCheck, RuntimeRow, Wanted};
use crate::config::{Config, Home, cloud};
use crate::engine::breaker::BreakerState;
use crate::engine::now_ms;
use crate::json;
use crate::runtime::catalogue::{self, Catalogue, Installed};
use crate::runtime::{self, Descriptor, RUNTIMES, hermes};
use crate::runtime::{Probe, Registry, RuntimeSettings, environ, login};
use crate::thread;

/// Most breakers of one runtime that are told.
const BREAKERS: usize = 32;
/// How long the command line waits for the slowest program or gateway; each has limits of its own.
const PATIENCE: Duration = Duration::from_mins(5);

/// The runtimes of this machine, as the hub wants to know them. Everything is asked at once; of what has not answered
/// by `end` only what the search path tells is said. A sandbox has no gateways of its own.
pub(super) fn snapshot(home: &Home, config: &Config, breakers: &[BreakerState], end: Instant) -> Value {
    let wanted = Wanted { models: true, places: !cloud::is_on(), login: LoginCheck::None };
    let rows = rows_until(looker(home, config, wanted, true), end);
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
    // That it is not installed is said by `available` alone.
    let odd = |why: &String| !row.ok && !why.ends_with("not found on PATH");
    put("error", row.problem.clone().filter(odd).map(Value::from));
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
    rows_until(looker(home, config, wanted, false), Instant::now() + PATIENCE)
}

fn looker(home: &Home, config: &Config, wanted: Wanted, stays: bool) -> Looker {
    let settings = parts::runtime_settings(home, config);
    let registry = Registry::new(settings.clone());
    Looker { registry, home: home.clone(), config: config.clone(), settings, wanted, stays }
}

fn rows_until(looker: Looker, end: Instant) -> Vec<RuntimeRow> {
    let looker = Arc::new(looker);
    let mut rows: Vec<RuntimeRow> = RUNTIMES.iter().map(|d| row(&looker.registry.find(d))).collect();
    // One that comes too late finds nobody who listens.
    let (told, heard) = bounded(2 * rows.len());
    let mut open = 0;
    for (n, descriptor) in RUNTIMES.iter().enumerate() {
        let (looker, told) = (Arc::clone(&looker), told.clone());
        let look = move || looker.look(n, descriptor, &told);
        match thread::spawn("runtime:probe", look) {
            Ok(_) => open += 1,
            Err(e) => log::warn!("runtime.not_probed runtime={} error={e}", descriptor.id),
        }
    }
    drop(told);
    while open > 0
        && let Ok(Looked { n, row, is_all }) = heard.recv_deadline(end)
    {
        rows[n] = *row;
        open -= usize::from(is_all);
    }
    if open == 0 {
        looker.registry.keep_answers();
    } else {
        log::warn!("runtime.probes_too_slow count={open}");
    }
    rows
}

/// What is found out about one runtime.
struct Looked {
    n: usize,
    row: Box<RuntimeRow>,
    /// Nothing more follows.
    is_all: bool,
}

/// What the threads share that ask.
struct Looker {
    registry: Registry,
    home: Home,
    config: Config,
    settings: RuntimeSettings,
    wanted: Wanted,
    /// This process lives long enough to renew what it has kept of models in the background.
    stays: bool,
}

impl Looker {
    /// Tells the version as soon as it is there, and then everything.
    fn look(&self, n: usize, descriptor: &'static Descriptor, told: &Sender<Looked>) {
        let probe = self.registry.ask(descriptor);
        let mut row = row(&probe);
        let _ = told.send(Looked { n, row: Box::new(row.clone()), is_all: false });
        if self.wanted.models {
            row.catalogue = catalogue(&probe, &self.settings, self.stays);
        }
        match descriptor.id {
            hermes::ID if self.wanted.places => row.profiles = openclaw::hermes_profiles(&self.home, &self.config),
            runtime::openclaw::ID if self.wanted.places => {
                row.endpoints = openclaw::endpoints(&self.home, &self.config);
            }
            _ => {}
        }
        if self.wanted.login != LoginCheck::None {
            row.notes = login::notes(&probe, &self.settings, self.wanted.login == LoginCheck::Turn);
        }
        let _ = told.send(Looked { n, row: Box::new(row), is_all: true });
    }
}

fn row(probe: &Probe) -> RuntimeRow {
    RuntimeRow {
        id: probe.descriptor.id.to_owned(),
        name: probe.descriptor.name.to_owned(),
        ok: probe.path.is_some(),
        version: probe.version.clone(),
        path: probe.path.as_ref().map(|p| p.display().to_string()),
        hint: probe.descriptor.install_hint.map(str::to_owned),
        notes: Vec::new(),
        problem: probe.problem.clone(),
        ..RuntimeRow::default()
    }
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
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::tests::TempDir;

    #[test]
    fn a_runtime_that_is_not_there_says_why() {
        let absent = |why: &str| RuntimeRow { id: "codex".into(), problem: Some(why.into()), ..RuntimeRow::default() };
        let plain = entry(&absent("codex not found on PATH"), &[]);
        assert_eq!(plain, json!({"id": "codex", "available": false}));
        let absent = absent("BELLHOP_CODEX_BIN: /x is no program");
        let expected = json!({"id": "codex", "available": false, "error": "BELLHOP_CODEX_BIN: /x is no program"});
        assert_eq!(entry(&absent, &[]), expected);
        let there = RuntimeRow { ok: true, version: Some("1".into()), ..absent };
        assert_eq!(entry(&there, &[]), json!({"id": "codex", "available": true, "version": "1"}));
    }

    #[test]
    fn of_a_program_that_is_too_slow_the_search_path_tells() {
        let dir = TempDir::new();
        let program = |name: &str, text: String| {
            let path = dir.0.join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let (begun, go) = (dir.0.join("begun"), dir.0.join("go"));
        program("claude", "echo 2.1.0".into());
        let waits = format!("touch {}; while [ ! -e {} ]; do sleep 0.05; done", begun.display(), go.display());
        program("gemini", format!("{waits}; echo 9.9.9"));
        let mut settings = RuntimeSettings::with_env(&dir.0, vec![("PATH".into(), "/usr/bin:/bin".into())]);
        settings.search_path = format!("{}:/usr/bin:/bin", dir.0.display()).into();
        settings.user_home.clone_from(&dir.0);
        let home = Home::at(dir.0.join("bh")).unwrap();
        let rows = |settings: &RuntimeSettings, limit| {
            let looker = looker(&home, &Config::default(), Wanted::default(), false);
            let registry = Registry::new(settings.clone());
            rows_until(Looker { registry, settings: settings.clone(), ..looker }, Instant::now() + limit)
        };
        let found = |rows: &[RuntimeRow], id: &str| {
            let row = rows.iter().find(|row| row.id == id).unwrap();
            (row.ok, row.version.clone())
        };
        while !begun.exists() {
            let slow = rows(&settings, Duration::from_secs(1));
            assert_eq!(found(&slow, "gemini"), (true, None));
            assert_eq!(slow.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), RUNTIMES.map(|d| d.id));
        }
        fs::write(go, "").unwrap();
        let all = rows(&settings, Duration::from_mins(1));
        assert_eq!(found(&all, "gemini"), (true, Some("9.9.9".into())));
        assert_eq!(found(&all, "claude-code"), (true, Some("2.1.0".into())));
    }
}
