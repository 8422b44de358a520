//! What the control socket asks for, done with the engine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::agents::Agents;
use super::channels::Channels;
use super::control_link::LinkSlot;
use super::health::{health_of, trouble};
use super::meters::Meters;
use super::speaking::Speaking;
use super::{DRAIN, metrics, queue};
use crate::channel::local::{self, Said};
use crate::config::paths::{directory_conversation, plain};
use crate::config::{Home, LocalAgent};
use crate::crypto;
use crate::engine::approvals::PendingApproval;
use crate::engine::journal::JournalState as Journal;
use crate::engine::ports::Approval;
use crate::engine::{Acceptance, Asking, Engine, now_ms};
use crate::message::{Overrides, TrustLevel};
use crate::serve::api::Control;
use crate::serve::follow::{Follow, watch_key};
use crate::serve::room::RoomControl;
use crate::serve::wire::{
    Accepted, AnswerApproval, Cancel, Cancelled, ChannelState, DaemonStatus, Decision, ErrorKind, Failure, FromTurn,
    Health, JournalState, MessageState, Queue, QueueAction, QueueChanged, QueueItem, ResetSessions, RunningTurn,
    SessionInfo, Sessions, SessionsReset, Shutdown, ShuttingDown, State, Submit, Waiting, WaitingApproval,
};

/// Longest chain of agents that write to each other because one wrote to the next.
const MAX_HOPS: u32 = 8;

/// The control API of a running engine.
pub(super) struct NodeControl {
    engine: Engine,
    channels: Channels,
    speaking: Speaking,
    follow: Arc<Follow>,
    home: PathBuf,
    agents: Arc<Agents>,
    link: Arc<LinkSlot>,
    runtimes: Vec<String>,
    shutdown: Sender<Duration>,
    meters: Arc<Meters>,
    started: Instant,
    started_at: i64,
}

/// What the daemon answers to: local agents and runtime ids.
#[derive(Default)]
pub(super) struct Names {
    pub(super) agents: Arc<Agents>,
    pub(super) runtimes: Vec<String>,
    pub(super) link: Arc<LinkSlot>,
}

impl NodeControl {
    pub(super) fn new(
        engine: Engine,
        channels: Channels,
        follow: Arc<Follow>,
        home: &Home,
        names: Names,
        shutdown: Sender<Duration>,
        meters: Arc<Meters>,
    ) -> Self {
        Self {
            speaking: Speaking::new(engine.clone(), home),
            engine,
            channels,
            follow,
            home: home.root().to_owned(),
            agents: names.agents,
            link: names.link,
            runtimes: names.runtimes,
            shutdown,
            meters,
            started: Instant::now(),
            started_at: now_ms(),
        }
    }

    fn agent(&self, named: Option<String>) -> Result<LocalAgent, Failure> {
        let unknown = |known: String| {
            let agent = named.as_deref().unwrap_or_default();
            Failure::new(ErrorKind::NotFound, format!("there is no agent {agent:?}; there are: {known}"))
        };
        self.agents.find(named.as_deref()).map_err(unknown)
    }

    /// Who writes from inside a turn, unless the chain of agents that write to each other is too long already.
    fn asking(&self, from: &FromTurn) -> Result<Asking, Failure> {
        let FromTurn { agent, turn } = from;
        let Some(asking) = self.engine.asking(turn, agent) else {
            let text = format!("turn {turn:?} of agent {agent:?} does not run here");
            return Err(Failure::new(ErrorKind::Conflict, text));
        };
        if asking.hops >= MAX_HOPS {
            let text = format!(
                "this message would be number {} in a chain of agents that write to each other; at most {MAX_HOPS} are \
                 taken. Answer with what there is.",
                asking.hops + 1
            );
            return Err(Failure::new(ErrorKind::Conflict, text));
        }
        Ok(asking)
    }

    fn conversation(named: Option<String>, cwd: Option<&PathBuf>) -> String {
        named.unwrap_or_else(|| cwd.map_or_else(|| "main".to_owned(), |dir| directory_conversation(dir)))
    }
}

impl Control for NodeControl {
    fn submit(&self, message: Submit) -> Result<Accepted, Failure> {
        let LocalAgent { name: agent, cwd: own_cwd, .. } = self.agent(message.agent.clone())?;
        let asking = message.from.as_ref().map(|from| self.asking(from)).transpose()?;
        if let Some(from) = &message.from {
            not_the_owner(&message, from, &agent)?;
        }
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
        let conversation = match &message.from {
            Some(from) => message.conversation.unwrap_or_else(|| format!("agent-{}", from.agent)),
            None => Self::conversation(message.conversation, message.cwd.as_ref().or(message.typed_in.as_ref())),
        };
        let behind = format!("{}:{agent}:{conversation}:", local::ID);
        if asking.as_ref().is_some_and(|a| a.queues.contains(&behind)) {
            let text = format!(
                "agent {agent:?} is in a turn of conversation {conversation:?} that waits for this one: answer, or \
                 choose another conversation"
            );
            return Err(Failure::new(ErrorKind::Conflict, text));
        }
        // Where the command was typed counts for people, and for agents that have no place of their own.
        let typed_in = message.typed_in.filter(|dir| asking.is_none() && own_cwd.is_none() && dir.is_dir());
        let id = message.id.unwrap_or_else(|| format!("m_{}", crypto::hex(&crypto::random::<10>())));
        let said = Said {
            id: id.clone(),
            agent: agent.clone(),
            conversation: conversation.clone(),
            text: message.text,
            files: message.files,
            overrides: Overrides {
                runtime: message.runtime,
                cwd: message.cwd.or(typed_in),
                fresh: message.new,
                timeout_ms: message.timeout_ms,
                trust: asking.as_ref().map(|_| TrustLevel::Trusted),
                turn: asking.as_ref().map(|a| a.turn_id.clone()),
            },
            asking: message.from.map(|from| from.agent),
            hops: asking.as_ref().map_or(0, |a| a.hops + 1),
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
        let connections = self.channels.statuses();
        // A hub's agent has a channel of its own name; a conversation of another service is named after that.
        let hubs = which.agent.clone().filter(|agent| connections.contains_key(agent));
        let is_hubs = hubs.is_some();
        let agent = hubs.map_or_else(|| self.agent(which.agent).map(|a| a.name), Ok)?;
        let service = which.conversation.as_deref().and_then(|c| c.split_once(':')).map_or("", |(service, _)| service);
        let gateway = connections.values().find(|c| c.account_id == agent && c.provider == service);
        let channel = match gateway {
            Some(gateway) => gateway.channel.clone(),
            None if is_hubs => agent.clone(),
            None => local::ID.to_owned(),
        };
        let conversation = Self::conversation(which.conversation, None);
        Ok(Cancelled { cancelled: self.engine.cancel_conversation(&channel, &agent, &conversation) })
    }

    fn status(&self) -> DaemonStatus {
        let status = self.engine.status();
        let (connections, control) = (self.channels.statuses(), self.link.state());
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
            health: health_of(&status, &connections, &control),
            turns: status.turns.iter().map(running).collect(),
            waiting: Waiting {
                messages: status.waiting as u64,
                conversations: status.waiting_conversations as u64,
                oldest_ms: status.oldest_waiting_ms,
                replies: status.replies as u64,
                held: status.held as u64,
                dead: status.dead as u64,
            },
            channels: std::iter::once(ChannelState {
                id: local::ID.to_owned(),
                kind: local::ID.to_owned(),
                up: !status.draining,
                detail: None,
            })
            .chain(connections.into_iter().map(|(id, connection)| ChannelState {
                id,
                up: connection.connected,
                detail: (!connection.connected).then(|| trouble(&connection)),
                kind: connection.provider,
            }))
            .collect(),
            control,
            approvals: status.approvals.into_iter().map(waiting_approval).collect(),
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
        health_of(&self.engine.status(), &self.channels.statuses(), &self.link.state())
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
        crate::sort::sort_by_key(&mut sessions, |s| std::cmp::Reverse(s.updated_at));
        Ok(Sessions { sessions })
    }

    fn reset_sessions(&self, which: ResetSessions) -> Result<SessionsReset, Failure> {
        let busy: Vec<(String, String)> =
            self.engine.status().turns.into_iter().map(|t| (t.agent, t.conversation)).collect();
        let wanted = |e: &crate::engine::sessions::SessionEntry| {
            which.all
                || which.key.as_ref().is_some_and(|k| *k == e.key)
                || which.conversation.as_ref().is_some_and(|c| *c == e.conversation_id)
                    && which.agent.as_ref().is_none_or(|a| *a == e.account_id)
        };
        let sessions = self.engine.sessions();
        if let Some(entry) = sessions
            .iter()
            .find(|e| wanted(e) && busy.iter().any(|(agent, c)| *agent == e.account_id && *c == e.conversation_id))
        {
            let text = format!("a turn runs in conversation {:?}; cancel it or wait", entry.conversation_id);
            return Err(Failure::new(ErrorKind::Conflict, text));
        }
        Ok(SessionsReset { reset: self.engine.forget_sessions(wanted) })
    }

    fn metrics(&self) -> String {
        metrics::page(&self.engine.status(), &self.channels.statuses(), &self.meters, self.started_at)
    }

    fn queue(&self) -> Result<Queue, Failure> {
        Ok(queue::live(&self.engine))
    }

    fn dead_letters(&self) -> Result<Queue, Failure> {
        Ok(queue::live_dead(&self.engine))
    }

    fn queue_item(&self, id: &str) -> Result<QueueItem, Failure> {
        queue::live_one(&self.engine, id)
    }

    fn change_queue(&self, id: &str, action: QueueAction) -> Result<QueueChanged, Failure> {
        queue::change(&self.engine, id, action)?;
        log::info!("queue.changed id={id:?} action={}", action.word());
        Ok(QueueChanged { id: id.to_owned(), done: action.word().to_owned() })
    }

    fn answer_approval(&self, id: &str, answer: AnswerApproval) -> Result<AnswerApproval, Failure> {
        let decision = match answer.decision {
            Decision::Allow => Approval::Allow,
            Decision::Deny => {
                let reason = answer.reason.clone().unwrap_or_else(|| "a person has denied it".to_owned());
                Approval::Deny { reason }
            }
        };
        if self.engine.answer_approval(id, decision) {
            return Ok(answer);
        }
        Err(Failure::new(ErrorKind::NotFound, format!("no question {id:?} waits for an answer")))
    }

    fn rooms(&self) -> Option<&dyn RoomControl> {
        Some(&self.speaking)
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

fn waiting_approval(pending: PendingApproval) -> WaitingApproval {
    WaitingApproval {
        id: pending.id,
        turn_id: pending.turn_id,
        channel: pending.channel,
        agent: pending.agent,
        conversation: pending.conversation,
        tool: pending.tool,
        summary: pending.summary,
        asked_at: pending.asked_at,
        expires_at: pending.expires_at,
    }
}

/// What an agent may not do in a message to another one.
fn not_the_owner(message: &Submit, from: &FromTurn, to: &str) -> Result<(), Failure> {
    let problem = if from.agent == to {
        "an agent cannot write to itself"
    } else if message.runtime.is_some() || message.cwd.is_some() {
        "an agent cannot choose the runtime or the directory of another one"
    } else if message.conversation.as_ref().is_some_and(|c| c.starts_with("rm_oc_")) {
        "conversations whose names begin with rm_oc_ are the owner's"
    } else {
        return Ok(());
    };
    Err(Failure::new(ErrorKind::BadRequest, problem))
}

/// `<channel>:<id>`; an id without a channel is local.
fn channel_of(id: &str) -> (&str, &str) {
    id.split_once(':').unwrap_or((local::ID, id))
}
