//! `openclaw-acp`: agents behind an OpenClaw gateway, reached through a bridge process.
//!
//! [`bridge`] keeps the processes, [`turn`] talks over them, [`text`] takes thoughts out of what comes back.

mod bridge;
pub mod discover;
pub mod text;
mod turn;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bridge::{Bridge, NotStarted, Start, Target, Visit};
use turn::{Failure, Turn};

use crate::engine::cancel::CancelToken;
use crate::engine::ports::{ErrorClass, Gateway, RunRequest, RunResult, RunSink, Runtime, Thrown};
use crate::runtime::acp::run::{aborted_before_spawn, denies, ended_without_process, trace_settings};
use crate::runtime::acp::trace::{Trace, TraceFacts};
use crate::runtime::environ;
use crate::runtime::outcome::{self, Facts, Parsed, Verdict};
use crate::runtime::process::{Ended, StopCause};
use crate::runtime::settings::RuntimeSettings;
use crate::runtime::{classify, ndjson};

/// Registered id.
pub const ID: &str = "openclaw-acp";

/// OpenClaw.
pub struct OpenClaw {
    settings: Arc<RuntimeSettings>,
    /// By agent and name of the gateway.
    bridges: Mutex<HashMap<(String, String), Arc<Bridge>>>,
}

impl OpenClaw {
    /// The runtime.
    pub fn new(settings: Arc<RuntimeSettings>) -> Self {
        Self { settings, bridges: Mutex::default() }
    }

    /// The bridge for this agent and gateway; one to another address or with another secret is replaced.
    fn bridge(&self, request: &RunRequest, gateway: &Gateway) -> Result<Visit, NotStarted> {
        let target = Target { url: gateway.url.clone(), token: gateway.token.clone().filter(|t| !t.is_empty()) };
        let mut bridges = self.bridges.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (request.agent.clone(), gateway.name.clone());
        if let Some(bridge) = bridges.get(&key).filter(|bridge| bridge.serves(&target)) {
            return Ok(bridge.enter());
        }
        if let Some(old) = bridges.remove(&key) {
            old.end();
        }
        let home = &self.settings.user_home;
        let secrets = self.settings.agent_dir(&request.agent).unwrap_or_else(|| self.settings.agents_dir.clone());
        let facts = TraceFacts {
            turn_id: None,
            message_id: None,
            room_id: None,
            topic_id: None,
            ..TraceFacts::of_run(ID, request)
        };
        let start = Start {
            program: ndjson::program(ID, &self.settings),
            env: environ::plain(&self.settings),
            cwd: if home.is_dir() { home.clone() } else { "/".into() },
            secrets: secrets.join("state"),
            trace: Trace::new(&trace_settings(&self.settings), facts),
        };
        let bridge = Bridge::start(&gateway.name, target, start)?;
        let visit = bridge.enter();
        bridges.insert(key, bridge);
        Ok(visit)
    }
}

/// Opens the session and prompts; a session that is gone by then is replaced once.
fn converse(request: &RunRequest, gateway: &Gateway, turn: &mut Turn<'_>) -> Result<String, Failure> {
    let key = session_key(request, gateway);
    let stored = request.session.as_ref().map(|s| s.id.as_str()).filter(|id| !id.is_empty());
    turn.open(stored, &request.cwd, &key)?;
    let prompt = |turn: &mut Turn<'_>| {
        let recovery = stored.and_then(|_| turn.recovery());
        turn.prompt(recovery.as_deref().unwrap_or(&request.text))
    };
    match prompt(turn) {
        Err(Failure::NotFound(why)) => {
            log::info!("openclaw.session_reset {}", crate::redact::text(&why));
            turn.open_new(&request.cwd, &key)?;
            prompt(turn).map_err(|failure| match failure {
                Failure::NotFound(why) => Failure::NotFound(format!("prompt failed after session reset: {why}")),
                Failure::Other(why, class) => {
                    Failure::Other(format!("prompt failed after session reset: {why}"), class)
                }
                other => other,
            })
        }
        outcome => outcome,
    }
}

/// The gateway's key of the conversation.
fn session_key(request: &RunRequest, gateway: &Gateway) -> String {
    let agent = gateway.openclaw_agent.as_deref().filter(|a| !a.is_empty()).unwrap_or("default");
    let room = if request.room_id.is_empty() { "default" } else { &request.room_id };
    match request.topic_id.as_deref().filter(|t| !t.is_empty()) {
        Some(topic) => format!("agent:{agent}:{}:{room}:{topic}", request.agent),
        None => format!("agent:{agent}:{}:{room}", request.agent),
    }
}

impl Runtime for OpenClaw {
    fn id(&self) -> &str {
        ID
    }

    fn run(&self, request: &RunRequest, cancel: &CancelToken, sink: &mut dyn RunSink) -> Result<RunResult, Thrown> {
        if cancel.is_cancelled() {
            return Ok(aborted_before_spawn(ID, request));
        }
        let started = Instant::now();
        let mut parsed = Parsed::default();
        let idle_ms = self.settings.acp_idle.unwrap_or_default().as_millis();
        let mut failed = |message: &str, class: Option<ErrorClass>| {
            let class = class.or_else(|| classify::by_text(message)).or(Some(ErrorClass::Other));
            parsed.verdict = Verdict::Failure { message: format!("{ID}: {message}"), class };
        };
        let mut idle = false;
        match &request.gateway {
            None => failed("missing gateway endpoint: the route names no configured gateway", Some(ErrorClass::Config)),
            Some(gateway) => {
                ndjson::check_cwd(&request.cwd)?;
                match self.bridge(request, gateway) {
                    Err(NotStarted { message, is_missing }) => {
                        let class = if is_missing { ErrorClass::Missing } else { ErrorClass::Config };
                        failed(&message, Some(class));
                    }
                    Ok(bridge) => {
                        sink.spawned(bridge.process);
                        let mut turn = Turn::new(&bridge, cancel, sink);
                        turn.deny = denies(request, &self.settings);
                        turn.idle_limit = self.settings.acp_idle;
                        match converse(request, gateway, &mut turn) {
                            Ok(text) => parsed.verdict = Verdict::Success(text),
                            Err(Failure::NotFound(message)) => failed(&message, Some(ErrorClass::StaleSession)),
                            Err(Failure::Other(message, class)) => failed(&message, class),
                            Err(Failure::Idle) => idle = true,
                            Err(Failure::Cancelled) => {}
                        }
                        parsed.session.clone_from(&turn.session);
                        parsed.usage = turn.usage;
                        parsed.context_tokens = turn.context_tokens;
                        turn.said().clone_into(&mut parsed.partial);
                    }
                }
            }
        }
        let aborted = cancel.is_cancelled() && parsed.verdict == Verdict::Missing && !idle;
        let ended = Ended {
            stopped: match (aborted, idle) {
                (true, _) => Some(StopCause::Cancelled),
                (_, true) => Some(StopCause::Idle),
                _ => None,
            },
            ..ended_without_process(started.elapsed())
        };
        let succeeded = matches!(parsed.verdict, Verdict::Success(_));
        let command = ["openclaw", "acp"].map(str::to_owned);
        let facts = Facts {
            runtime: ID,
            request,
            command: &command,
            events: true,
            succeeded,
            cancelled: aborted,
            idle_ms,
            note: None,
        };
        Ok(outcome::conclude(facts, parsed, &ended))
    }

    fn close(&self) {
        let bridges = std::mem::take(&mut *self.bridges.lock().unwrap_or_else(PoisonError::into_inner));
        for bridge in bridges.values() {
            bridge.end();
        }
        for bridge in bridges.values() {
            bridge.wait();
        }
    }
}
