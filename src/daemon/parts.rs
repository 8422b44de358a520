//! From the configuration to the engine's parts.

use std::sync::Arc;

use super::agents::{self, Agents};
use super::control::Names;
use super::gateways::{self, Gateways};
use super::hubs::Hubs;
use super::rooms::Rooms;
use crate::channel::local::Local;
use crate::config::{Config, Home};
use crate::engine::admission::Memory;
use crate::engine::fuse::FuseLimits;
use crate::engine::journal::{Journal, JournalOptions, Record};
use crate::engine::ports::{Channel, ProcessId, PromptBuilder, TurnObserver};
use crate::engine::route::{Route, Routes};
use crate::engine::sessions::SessionStore;
use crate::engine::transcript::Writer;
use crate::engine::{LINGERS, Lingering, Parts, Rotation, Settings, now_ms};
use crate::json;
use crate::prompt::{Homes, Prompts};
use crate::runtime::settings::Warm;
use crate::runtime::{Registry, RuntimeSettings, kept, process};
use crate::serve::follow::Follow;
use crate::store::{Disk, RealDisk};

/// Everything that an engine needs, and the names that the control socket knows.
pub(super) fn assemble(
    home: &Home,
    config: &Config,
    follow: Arc<Follow>,
    rooms: &Rooms,
    hubs: &Hubs,
    gateways: &Gateways,
) -> Result<(Parts, Names, Arc<Prompts>), String> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    // What it finds it logs itself.
    let opened = Journal::open(&home.journal(), Arc::clone(&disk), JournalOptions::default())
        .map_err(|e| format!("{}: {e}", home.journal().display()))?;
    let (sessions, notes) = SessionStore::load(&home.sessions(), disk, now_ms())
        .map_err(|e| format!("{}: {e}", home.sessions().display()))?;
    for warning in notes.warnings {
        log::warn!("session.{warning}");
    }
    let registry = Registry::new(runtime_settings(home, config));
    let prompts = Arc::new(Prompts::new(homes(home), rooms.lookup()));
    let names = Names {
        agents: Arc::new(Agents::new(config.local_agents.clone())),
        runtimes: registry.ids().into_iter().map(str::to_owned).collect(),
        link: std::sync::Arc::default(),
    };
    let parts = Parts {
        journal: opened.journal,
        sessions,
        transcripts: Writer::new(home.agents_dir(), config.transcript_enabled().0),
        routes: routes(home, config, &registry, hubs),
        runtimes: Arc::new(registry),
        prompts: Arc::clone(&prompts) as Arc<dyn PromptBuilder>,
        observers: vec![follow, Arc::clone(&prompts) as Arc<dyn TurnObserver>],
        channels: std::iter::once(Arc::new(Local) as Arc<dyn Channel>)
            .chain(hubs.for_engine())
            .chain(gateways.for_engine())
            .collect(),
        settings: settings(home, config),
    };
    Ok((parts, names, prompts))
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
    let rotation = config.rotation();
    Settings {
        max_turns: config.max_concurrent_turns,
        turn_limit: config.turn_timeout,
        carry_superseded: config.carry_superseded,
        parking: config.parking,
        memory: Memory {
            reserve_mb: config.memory_reserve_mb,
            per_turn_mb: config.memory_per_turn_mb,
            ..Memory::default()
        },
        silent_after: config.silent_turn,
        fuse: FuseLimits { max_bot_turns_in_a_row: config.max_bot_turns_in_a_row, ..FuseLimits::default() },
        rotation: Rotation { turns: rotation.max_turns, tokens: rotation.max_input_tokens },
        verbose_blocks: std::env::var("BOTCORD_TRANSCRIPT_BLOCKS").as_deref() == Ok("verbose")
            || std::env::var("BOTCORD_TRACE_VERBOSE").as_deref() == Ok("1"),
        // So that `bellhop` inside a turn finds this daemon.
        child_env: vec![("BELLHOP_HOME".into(), home.root().display().to_string())],
        approvals: config.approvals,
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
    settings.bundled_bin = Some(home.commands_dir());
    settings.warm = Warm {
        keep: config.claude_warm,
        max: config.claude_warm_max,
        reserve: config.memory_reserve_mb.saturating_mul(1 << 20),
    };
    if let Some(limit) = config.idle_timeout {
        let limit = Some(limit).filter(|l| !l.is_zero());
        settings.ndjson_idle = limit;
        settings.acp_idle = limit;
    }
    settings
}

/// Which runtime answers whom: the configured routes, then one per agent, then the default.
pub(super) fn routes(home: &Home, config: &Config, registry: &Registry, hubs: &Hubs) -> Routes {
    let default = match &config.default_route {
        Some(route) => route.clone(),
        None => {
            Route { runtime: registry.first_available().to_owned(), cwd: home.root().to_owned(), ..Route::default() }
        }
    };
    let local = config.local_agents.iter().map(|agent| agents::route(home, agent, &default));
    let local = local.chain(gateways::routes(home, config, &default));
    let managed = local.chain(hubs.routes(home, config, &default)).collect();
    Routes { user: config.routes.clone(), managed, default }
}

/// Ends what the journal says was running when the last daemon died, before any of its sessions is resumed:
/// the turns without a result, CLIs that had given theirs and not ended yet, and those that were kept warm.
pub(super) fn end_interrupted(journal: &Journal, home: &Home) {
    kept::end_leftovers(&RuntimeSettings::from_env(home.root()));
    let (mut turns, lingering) = journal.view(|ledger| {
        let open = ledger.turns().filter(|t| t.result.is_none());
        let open: Vec<(String, Option<ProcessId>)> = open.map(|t| (t.id.clone(), t.process)).collect();
        let notes = ledger.notes(LINGERS).map(|(key, note)| (key.to_owned(), note.value.clone()));
        (open, notes.collect::<Vec<_>>())
    });
    for (_, value) in &lingering {
        // What one that has ended by itself left running was left on purpose.
        if let Ok(Lingering { turn, process }) = json::from_value(value)
            && process::Process::pid_lives(process)
        {
            turns.push((turn, Some(process)));
        }
    }
    if !turns.is_empty() {
        let marks: Vec<(&str, Option<ProcessId>)> = turns.iter().map(|(id, process)| (id.as_str(), *process)).collect();
        let killed = process::sweep_turns(&marks);
        log::info!("daemon.swept turns={} killed={killed}", turns.len());
    }
    for (key, _) in lingering {
        drop(journal.append(Record::Forget { key }));
    }
}
