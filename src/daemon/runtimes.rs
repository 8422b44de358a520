//! What the command line shows of the runtimes.

use super::{openclaw, parts};
use crate::cli::host::{LoginCheck, RuntimeRow, Wanted};
use crate::config::{Config, Home};
use crate::runtime::catalogue::{self, Catalogue, Installed};
use crate::runtime::{self, hermes};
use crate::runtime::{Probe, Registry, RuntimeSettings, environ, login};

/// One row for each registered runtime.
pub(super) fn rows(home: &Home, config: &Config, wanted: Wanted) -> Vec<RuntimeRow> {
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
    if wanted.models {
        std::thread::scope(|scope| {
            for (row, probe) in rows.iter_mut().zip(&probes) {
                scope.spawn(move || row.catalogue = catalogue(probe, settings));
            }
        });
    }
    if wanted.places {
        for row in &mut rows {
            match row.id.as_str() {
                hermes::ID => row.profiles = openclaw::hermes_profiles(home, config),
                runtime::openclaw::ID => row.endpoints = openclaw::endpoints(home, config),
                _ => {}
            }
        }
    }
    if wanted.login != LoginCheck::None {
        for (row, probe) in rows.iter_mut().zip(&probes) {
            row.notes = login::notes(probe, settings, wanted.login == LoginCheck::Turn);
        }
    }
    rows
}

fn catalogue(probe: &Probe, settings: &RuntimeSettings) -> Catalogue {
    let Some(binary) = probe.path.clone() else { return Catalogue::default() };
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let installed = Installed {
        runtime: probe.descriptor.id.to_owned(),
        binary,
        version: probe.version.clone(),
        home: settings.user_home.clone(),
        env: environ::plain(settings).into_iter().filter_map(text).collect(),
    };
    catalogue::lookup(&installed, settings.catalogue_cache().as_deref(), false)
}
