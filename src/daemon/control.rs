//! What the control socket asks for, done with the engine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::DRAIN;
use crate::channel::local::{self, Said};
use crate::config::Home;
use crate::config::paths::{directory_conversation, plain};
use crate::crypto;
use crate::engine::journal::JournalState as Journal;
use crate::engine::{Acceptance, Engine, now_ms};
use crate::message::Overrides;
use crate::serve::api::Control;
use crate::serve::follow::{Follow, watch_key};
use crate::serve::wire::{
    Accepted, Cancel, Cancelled, ChannelState, DaemonStatus, ErrorKind, Failure, Health, JournalState, MessageState,
    ResetSessions, RunningTurn, SessionInfo, Sessions, SessionsReset, Shutdown, ShuttingDown, State, Submit, Waiting,
    Wellness,
};

/// The control API of a running engine.
pub(super) struct NodeControl {
    engine: Engine,
    follow: Arc<Follow>,
    home: PathBuf,
    /// Local agents; the first is the default.
    agents: Vec<String>,
    runtimes: Vec<String>,
    shutdown: Sender<Duration>,
    started: Instant,
    started_at: i64,
}

/// What the daemon answers to: local agents and runtime ids.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) agents: Vec<String>,
    pub(super) runtimes: Vec<String>,
}

impl NodeControl {
    pub(super) fn new(
        engine: Engine,
        follow: Arc<Follow>,
        home: &Home,
        names: Names,
        shutdown: Sender<Duration>,
    ) -> Self {
        Self {
            engine,
            follow,
            home: home.root().to_owned(),
            agents: names.agents,
            runtimes: names.runtimes,
            shutdown,
            started: Instant::now(),
            started_at: now_ms(),
        }
    }

    fn agent(&self, named: Option<String>) -> Result<String, Failure> {
        let Some(agent) = named else {
            return Ok(self.agents.first().cloned().unwrap_or_else(|| local::DEFAULT_AGENT.to_owned()));
        };
        if self.agents.contains(&agent) {
            return Ok(agent);
        }
        let known = self.agents.join(", ");
        Err(Failure::new(ErrorKind::NotFound, format!("there is no agent {agent:?}; there are: {known}")))
    }

    fn conversation(named: Option<String>, cwd: Option<&PathBuf>) -> String {
        named.unwrap_or_else(|| cwd.map_or_else(|| "main".to_owned(), |dir| directory_conversation(dir)))
    }
}

impl Control for NodeControl {
    fn submit(&self, message: Submit) -> Result<Accepted, Failure> {
        let agent = self.agent(message.agent)?;
        if let Some(runtime) = message.runtime.as_ref().filter(|r| !self.runtimes.contains(r)) {
            let known = self.runtimes.join(", ");
            let text = format!("there is no runtime {runtime:?}; there are: {known}");
            return Err(Failure::new(ErrorKind::NotFound, text));
        }
        if let Some(dir) = message.cwd.as_ref().filter(|d| !d.is_dir()) {
            return Err(Failure::new(ErrorKind::BadRequest, format!("{} is not a directory", dir.display())));
        }
        for file in &message.files {
            let problem = match std::fs::metadata(file) {
                Ok(meta) if meta.is_file() => continue,
                Ok(_) => "it is not a regular file".to_owned(),
                Err(e) => plain(&e),
            };
            return Err(Failure::new(ErrorKind::BadRequest, format!("{}: {problem}", file.display())));
        }
        let conversation = Self::conversation(message.conversation, message.cwd.as_ref());
        let id = message.id.unwrap_or_else(|| format!("m_{}", crypto::hex(&crypto::random::<10>())));
        let said = Said {
            id: id.clone(),
            agent: agent.clone(),
            conversation: conversation.clone(),
            text: message.text,
            files: message.files,
            overrides: Overrides {
                runtime: message.runtime,
                cwd: message.cwd,
                fresh: message.new,
                timeout_ms: message.timeout_ms,
            },
        };
        let accepted = |duplicate, ahead| Ok(Accepted { id, agent, conversation, duplicate, ahead });
        match self.engine.accept(vec![local::inbound(said, now_ms())]).pop() {
            Some(Acceptance::Accepted { ahead }) => accepted(false, ahead),
            Some(Acceptance::Pending | Acceptance::Finished) => accepted(true, 0),
            Some(Acceptance::Skipped(why)) => {
                Err(Failure::new(ErrorKind::BadRequest, format!("the message was not taken: {why}")))
            }
            Some(Acceptance::Refused(why)) => Err(Failure::new(ErrorKind::Unavailable, why)),
            None => Err(Failure::new(ErrorKind::Internal, "the message was lost")),
        }
    }

    fn message_state(&self, id: &str) -> MessageState {
        self.follow.message_state(id).unwrap_or_else(|| {
            let (channel, message) = channel_of(id);
            let state = match self.engine.knows(channel, message) {
                Some(true) => State::Done,
                Some(false) => State::Waiting,
                None => State::Unknown,
            };
            MessageState::new(watch_key(channel, message), state)
        })
    }

    fn cancel_message(&self, id: &str) -> Result<Cancelled, Failure> {
        let (channel, message) = channel_of(id);
        let cancelled = self.engine.cancel_message(channel, message);
        if cancelled == 0 && self.message_state(id).state == State::Unknown {
            return Err(Failure::new(ErrorKind::NotFound, format!("there is no message {id:?}")));
        }
        Ok(Cancelled { cancelled })
    }

    fn cancel_conversation(&self, which: Cancel) -> Result<Cancelled, Failure> {
        let agent = self.agent(which.agent)?;
        let conversation = Self::conversation(which.conversation, None);
        Ok(Cancelled { cancelled: self.engine.cancel_conversation(local::ID, &agent, &conversation) })
    }

    fn status(&self) -> DaemonStatus {
        let status = self.engine.status();
        let running = |t: &crate::engine::RunningTurn| RunningTurn {
            turn_id: t.turn_id.clone(),
            queue: t.key.clone(),
            agent: t.agent.clone(),
            conversation: t.conversation.clone(),
            runtime: t.runtime.clone(),
            started_at: t.started_at,
        };
        DaemonStatus {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            home: self.home.clone(),
            started_at: self.started_at,
            uptime_ms: self.started.elapsed().as_millis() as u64,
            draining: status.draining,
            health: self.health(),
            turns: status.turns.iter().map(running).collect(),
            waiting: Waiting {
                messages: status.waiting as u64,
                conversations: status.waiting_conversations as u64,
                oldest_ms: status.oldest_waiting_ms,
                replies: status.replies as u64,
            },
            channels: vec![ChannelState {
                id: local::ID.to_owned(),
                kind: local::ID.to_owned(),
                up: !status.draining,
                detail: None,
            }],
            journal: JournalState {
                writable: status.journal.state == Journal::Open,
                bytes: status.journal.segment_bytes,
                open: status.journal.entries as u64,
                error: match status.journal.state {
                    Journal::Broken { why, .. } => Some(why),
                    Journal::Closed => Some("closed".into()),
                    Journal::Open => None,
                },
            },
        }
    }

    fn health(&self) -> Health {
        let status = self.engine.status();
        let mut health = Health::default();
        if let Journal::Broken { why, .. } = &status.journal.state {
            health.status = Wellness::Down;
            health.reasons.push(format!("the journal cannot be written: {why}"));
        }
        if status.draining {
            health.status = Wellness::Down;
            health.reasons.push("the daemon is shutting down".into());
        }
        if health.status == Wellness::Well && status.replies > 0 {
            health.status = Wellness::Degraded;
            health.reasons.push(format!("{} replies wait to be delivered", status.replies));
        }
        health
    }

    fn sessions(&self) -> Result<Sessions, Failure> {
        let mut sessions: Vec<SessionInfo> = self
            .engine
            .sessions()
            .into_iter()
            .map(|e| SessionInfo {
                key: e.key,
                runtime: e.runtime,
                channel: e.channel,
                agent: e.account_id,
                conversation: e.conversation_id,
                thread: e.thread_id,
                session_id: e.runtime_session_id,
                cwd: e.cwd,
                updated_at: e.updated_at,
            })
            .collect();
        sessions.sort_by_key(|s| std::cmp::Reverse(s.updated_at));
        Ok(Sessions { sessions })
    }

    fn reset_sessions(&self, which: ResetSessions) -> Result<SessionsReset, Failure> {
        let busy: Vec<String> = self.engine.status().turns.into_iter().map(|t| t.conversation).collect();
        let wanted = |e: &crate::engine::sessions::SessionEntry| {
            which.all
                || which.key.as_ref().is_some_and(|k| *k == e.key)
                || which.conversation.as_ref().is_some_and(|c| *c == e.conversation_id)
        };
        let sessions = self.engine.sessions();
        if let Some(entry) = sessions.iter().find(|e| wanted(e) && busy.contains(&e.conversation_id)) {
            let text = format!("a turn runs in conversation {:?}; cancel it or wait", entry.conversation_id);
            return Err(Failure::new(ErrorKind::Conflict, text));
        }
        Ok(SessionsReset { reset: self.engine.forget_sessions(wanted) })
    }

    fn shutdown(&self, how: Shutdown) -> Result<ShuttingDown, Failure> {
        let drain = how.drain_seconds.map_or(DRAIN, Duration::from_secs);
        // A second request while the first is under way changes nothing.
        let _ = self.shutdown.try_send(drain);
        Ok(ShuttingDown {
            pid: std::process::id(),
            turns: self.engine.status().turns.len() as u64,
            drain_seconds: drain.as_secs(),
        })
    }
}

/// `<channel>:<id>`; an id without a channel is local.
fn channel_of(id: &str) -> (&str, &str) {
    id.split_once(':').unwrap_or((local::ID, id))
}
