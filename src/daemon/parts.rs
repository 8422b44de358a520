//! From the configuration to the engine's parts.

use std::sync::Arc;

use super::control::Names;
use crate::channel::local::Local;
use crate::cli::host::RuntimeRow;
use crate::config::{Config, Home, LocalAgent};
use crate::engine::journal::{Journal, JournalOptions, LoadReport};
use crate::engine::ports::{ProcessId, PromptBuilder};
use crate::engine::route::{Match, Route, Routes};
use crate::engine::sessions::SessionStore;
use crate::engine::transcript::Writer;
use crate::engine::{Parts, Rotation, Settings, now_ms};
use crate::prompt::{Homes, Prompts};
use crate::runtime::{Registry, RuntimeSettings, process};
use crate::serve::follow::Follow;
use crate::store::{Disk, RealDisk};

/// Everything that an engine needs, and the names that the control socket knows.
pub(super) fn assemble(home: &Home, config: &Config, follow: Arc<Follow>) -> Result<(Parts, Names), String> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let opened = Journal::open(&home.journal(), Arc::clone(&disk), JournalOptions::default())
        .map_err(|e| format!("{}: {e}", home.journal().display()))?;
    report(&opened.report);
    let (sessions, notes) = SessionStore::load(&home.sessions(), disk, now_ms())
        .map_err(|e| format!("{}: {e}", home.sessions().display()))?;
    for warning in notes.warnings {
        log::warn!("session.{warning}");
    }
    let registry = Registry::new(runtime_settings(home, config));
    let prompts = Arc::new(Prompts::new(homes(home), Box::new(|_| None)));
    let names = Names {
        agents: config.local_agents.iter().map(|a| a.name.clone()).collect(),
        runtimes: registry.ids().into_iter().map(str::to_owned).collect(),
    };
    let parts = Parts {
        journal: opened.journal,
        sessions,
        transcripts: Writer::new(home.agents_dir(), config.transcript_enabled().0),
        routes: routes(home, config, &registry),
        runtimes: Arc::new(registry),
        prompts: Arc::clone(&prompts) as Arc<dyn PromptBuilder>,
        observers: vec![follow, prompts],
        channels: vec![Arc::new(Local)],
        settings: settings(home, config),
    };
    Ok((parts, names))
}

/// Where prompts find what they are made of.
fn homes(home: &Home) -> Homes {
    let skills = std::env::var_os("BOTCORD_SKILL_DIRS").map(|v| std::env::split_paths(&v).collect());
    Homes {
        root: home.root().to_owned(),
        daemon: home.daemon_dir(),
        user: std::env::var_os("HOME").map(Into::into).unwrap_or_default(),
        skills: skills.unwrap_or_default(),
        ..Homes::default()
    }
}

fn settings(home: &Home, config: &Config) -> Settings {
    Settings {
        max_turns: config.max_concurrent_turns,
        turn_limit: config.turn_timeout,
        carry_superseded: config.carry_superseded,
        rotation: Rotation { turns: config.rotation.max_turns, tokens: config.rotation.max_input_tokens },
        verbose_blocks: std::env::var("BOTCORD_TRANSCRIPT_BLOCKS").as_deref() == Ok("verbose")
            || std::env::var("BOTCORD_TRACE_VERBOSE").as_deref() == Ok("1"),
        // So that `bellhop` inside a turn finds this daemon.
        child_env: vec![("BELLHOP_HOME".into(), home.root().display().to_string())],
        ..Settings::default()
    }
}

/// The adapters' settings, from the environment and the configuration.
pub(super) fn runtime_settings(home: &Home, config: &Config) -> RuntimeSettings {
    let mut settings = RuntimeSettings::from_env(home.root());
    settings.keep_anthropic_env = config.keep_anthropic_env;
    settings.sandboxed = config.sandboxed;
    settings.kill_leftovers = config.kill_leftovers;
    settings.prompt_via = config.prompt_via;
    settings.permissions = config.runtime_permissions;
    settings.acp_runtimes.clone_from(&config.acp_runtimes);
    if let Some(limit) = config.idle_timeout {
        let limit = Some(limit).filter(|l| !l.is_zero());
        settings.ndjson_idle = limit;
        settings.acp_idle = limit;
    }
    settings
}

/// Which runtime answers whom: the configured routes, then one per local agent, then the default.
fn routes(home: &Home, config: &Config, registry: &Registry) -> Routes {
    let default = match &config.default_route {
        Some(route) => route.clone(),
        None => {
            Route { runtime: registry.first_available().to_owned(), cwd: home.root().to_owned(), ..Route::default() }
        }
    };
    let local = |agent: &LocalAgent| {
        let mut route = Route {
            matches: Match { channel: Some("local".into()), account_id: Some(agent.name.clone()), ..Match::default() },
            trust_level: Some(agent.trust),
            ..default.clone()
        };
        if let Some(runtime) = &agent.runtime {
            route.runtime.clone_from(runtime);
        }
        route.cwd = agent.cwd.clone().unwrap_or_else(|| home.workspace(&agent.name));
        route
    };
    Routes { user: config.routes.clone(), managed: config.local_agents.iter().map(local).collect(), default }
}

/// Ends what the journal says was running when the last daemon died, before any of its sessions is resumed.
pub(super) fn end_interrupted(journal: &Journal) {
    let turns: Vec<(String, Option<ProcessId>)> = journal
        .view(|ledger| ledger.turns().filter(|t| t.result.is_none()).map(|t| (t.id.clone(), t.process)).collect());
    if turns.is_empty() {
        return;
    }
    let marks: Vec<(&str, Option<ProcessId>)> = turns.iter().map(|(id, process)| (id.as_str(), *process)).collect();
    let killed = process::sweep_turns(&marks);
    log::info!("daemon.swept turns={} killed={killed}", turns.len());
}

/// Says what was found in the journal, one line each.
fn report(found: &LoadReport) {
    for line in &found.bad_lines {
        log::error!("journal.bad_line {line}");
    }
    for path in &found.quarantined {
        log::error!("journal.quarantined kept={}", path.display());
    }
    if found.torn_tail {
        log::warn!("journal.torn_tail dropped=1");
    }
    if found.unknown > 0 {
        log::warn!("journal.unknown_records kept={}", found.unknown);
    }
    if let Some(why) = &found.broken {
        log::error!("journal.broken error={why}");
    }
}

/// What the doctor shows of the runtimes.
pub(super) fn runtime_rows(home: &Home, config: &Config) -> Vec<RuntimeRow> {
    let registry = Registry::new(runtime_settings(home, config));
    let row = |probe: crate::runtime::Probe| RuntimeRow {
        id: probe.descriptor.id.to_owned(),
        name: probe.descriptor.name.to_owned(),
        ok: probe.path.is_some(),
        version: probe.version,
        path: probe.path.map(|p| p.display().to_string()),
        hint: probe.descriptor.install_hint.map(str::to_owned),
        notes: probe.problem.into_iter().collect(),
    };
    registry.probe().into_iter().map(row).collect()
}
