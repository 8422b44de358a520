//! One turn: from the messages taken out of a lane to the end of the last run of the runtime.
//!
//! What follows from that end is in [`super::conclude`].

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::cancel::{CancelReason, CancelToken};
use super::conclude;
use super::context::{self, Built};
use super::core::{Core, Job, Live};
use super::journal::{JournalError, Record, Ticket};
use super::outcome::Run;
use super::pass::PASS_VARIABLE;
use super::ports::{
    Channel, Frame, FreshStart, PromptFacts, RecentMessage, ResumedSession, RoomMessage, RunRequest, Runtime, Thrown,
    TurnEvent,
};
use super::prepare;
use super::queue::Start;
use super::records;
use super::route::Route;
use super::sessions::{SessionChange, SessionEntry};
use super::signals::Signals;
use super::sink::TurnSink;
use super::timer::TimerId;
use super::transcript::BlockSummary;
use crate::message::{Budget, Inbound, TrustLevel};
use crate::redact;
use crate::text::{clip, trim};
use crate::time;

/// Wait before a transient failure is tried again.
const TRANSIENT_WAIT: Duration = Duration::from_secs(1);
/// Runtimes that know a session only in the directory it was made in.
const TIED_TO_DIRECTORY: [&str; 3] = ["claude-code", "gemini", "kimi-cli"];
/// Messages that a session which starts anew is told of.
const RECENT: usize = 20;
/// Block summaries kept for the transcript's `outbound` record.
const MAX_SUMMARIES: usize = 256;

/// A turn and everything that its conclusion needs.
pub(super) struct Turn {
    pub(super) id: String,
    pub(super) key: String,
    /// What it answers, oldest first.
    pub(super) jobs: Vec<Job>,
    /// Entries of those that the agent is told of and not shown: there were too many.
    pub(super) unread: Vec<String>,
    /// The same as one message.
    pub(super) message: Arc<Inbound>,
    /// Turn ids of the other messages.
    pub(super) merged_from: Vec<String>,
    pub(super) route: Arc<Route>,
    pub(super) runtime: String,
    pub(super) cwd: PathBuf,
    pub(super) channel: Option<Arc<dyn Channel>>,
    /// Whether text of the turn reaches the room.
    pub(super) deliverable: bool,
    /// Where the agent leaves its wish to be woken again, where it may have one.
    pub(super) wait_file: Option<PathBuf>,
    pub(super) limit: Duration,
    pub(super) budget: Budget,
    pub(super) token: CancelToken,
    pub(super) began: Instant,
    pub(super) attempt: u32,
    pub(super) signals: Signals,
    pub(super) progress: Mutex<Progress>,
    /// Its end was told: for everybody outside it runs no more, although its lane is freed a moment later.
    pub(super) told: AtomicBool,
}

/// What is known about the runs so far.
#[derive(Default)]
pub(super) struct Progress {
    /// What the adapter calls itself.
    pub(super) runtime: Option<String>,
    pub(super) blocks: u64,
    pub(super) summaries: Vec<BlockSummary>,
    /// Something other than `system` and `thinking` was seen.
    pub(super) effects: bool,
    pub(super) tool_calls: u64,
    /// Session announced by the last run.
    pub(super) announced: Option<String>,
    /// Session resumed by the last run.
    pub(super) active: Option<SessionEntry>,
    /// The stored session is left for a fresh one. It goes at the end: a turn that takes the place of this one before
    /// has to know that there was one, to tell the fresh session of the room.
    pub(super) left: bool,
    /// When the runtime last showed a sign of life; `None` before the first.
    pub(super) last: Option<Instant>,
    /// The timer that looks after its silence.
    pub(super) watch: Option<TimerId>,
    /// Tool calls without a result so far.
    pub(super) open_tools: u64,
    /// Version of the working memory that the prompt was made with.
    pub(super) memory_version: Option<String>,
    /// When the turn knew its runtime.
    pub(super) ready: Option<Instant>,
    /// The runtime was called.
    pub(super) ran: bool,
    /// Longer-lived processes that run it: what shows their pass acts in this turn, too.
    pub(super) served_by: Vec<String>,
    /// How often the agent has said something by tool.
    pub(super) said: u32,
}

impl Progress {
    pub(super) fn keep(&mut self, summary: BlockSummary) {
        if self.summaries.len() < MAX_SUMMARIES {
            self.summaries.push(summary);
        }
    }
}

impl Turn {
    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Journal ids of everything it answers.
    pub(super) fn entries(&self) -> Vec<String> {
        self.jobs.iter().map(|j| j.entry.clone()).collect()
    }

    /// The channel's ids of everything it answers, without repeats.
    pub(super) fn message_ids(&self) -> Vec<String> {
        message_ids(&self.jobs)
    }

    /// How long ago the last sign of life was; `None` while a tool runs, which may be silent for its own reasons.
    pub(super) fn silence(&self) -> Option<Duration> {
        let progress = self.progress();
        (progress.open_tools == 0).then(|| progress.last.unwrap_or(self.began).elapsed())
    }

    /// How long ago the last sign of life was.
    pub(super) fn since_progress(&self) -> Duration {
        let progress = self.progress();
        progress.last.unwrap_or(self.began).elapsed()
    }

    /// The route's trust, or less where a message says so.
    pub(super) fn trust(&self) -> TrustLevel {
        let least = self.jobs.iter().filter_map(|j| j.message.overrides.as_ref()?.trust).max();
        least.map_or(self.route.trust(), |least| least.max(self.route.trust()))
    }

    /// The trust that decides about tool calls: the owner's chat is the owner's where the route says nothing.
    pub(super) fn approval_trust(&self) -> TrustLevel {
        let unsaid = self.route.trust_level.is_none() && self.message.is_owner_chat();
        if unsaid { TrustLevel::Owner } else { self.trust() }
    }

    pub(super) fn facts(&self) -> PromptFacts<'_> {
        PromptFacts {
            runtime: &self.runtime,
            channel_kind: self.channel.as_ref().map_or("", |c| c.kind()),
            text_is_delivered: self.deliverable,
            has_tools: self.channel.as_ref().is_some_and(|c| c.room_tools().is_some()),
        }
    }

    fn session_key(&self) -> String {
        self.message.session_key(&self.runtime)
    }
}

/// The channel's ids of messages, without repeats.
pub(super) fn message_ids<'a>(jobs: impl IntoIterator<Item = &'a Job>) -> Vec<String> {
    let mut ids = Vec::new();
    for id in jobs.into_iter().flat_map(|j| j.message.ids().into_iter().chain([j.message.id.clone()])) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

/// The runtime that a job's turn uses.
pub(super) fn runtime_id(job: &Job) -> &str {
    job.message.overrides.as_ref().and_then(|o| o.runtime.as_deref()).unwrap_or(&job.route.runtime)
}

/// The directory that a job's turn runs in.
pub(super) fn working_directory(job: &Job) -> &Path {
    job.message.overrides.as_ref().and_then(|o| o.cwd.as_deref()).unwrap_or(&job.route.cwd)
}

/// Runs a turn to its end; returns whether this thread concluded it (and so freed the lane).
pub(super) fn run(core: &Arc<Core>, start: Start<Job>, live: &Live) -> bool {
    let Some(turn) = prepare::prepare(core, start, live) else { return false };
    let turn = Arc::new(turn);
    *live.turn.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&turn));
    let timer = {
        let core = Arc::clone(core);
        let id = turn.id.clone();
        core.timers.clone().after(turn.limit, move || {
            let live = core.lock().live.get(&id).cloned();
            if let Some(live) = live {
                core.cancel(&id, &live, CancelReason::Timeout);
            }
        })
    };
    watch(core, &turn);
    let run = execute(core, &turn);
    core.timers.cancel(timer);
    if let Some(watch) = turn.progress().watch.take() {
        core.timers.cancel(watch);
    }
    match run {
        Some(run) => conclude::conclude(core, &turn, run),
        None => conclude::defer(core, &turn),
    }
}

/// Says in the log when the turn is silent for long; goes on as long as the turn does.
fn watch(core: &Arc<Core>, turn: &Arc<Turn>) {
    let limit = core.settings.silent_after;
    if limit.is_zero() {
        return;
    }
    let (again, watched) = (Arc::clone(core), Arc::downgrade(turn));
    let timer = core.timers.after(limit, move || {
        let Some(turn) = watched.upgrade().filter(|t| !t.token.is_over()) else { return };
        if let Some(silent) = turn.silence().filter(|s| *s >= limit) {
            log::warn!("turn.silent queue={} turn={} silent_ms={}", turn.key, turn.id, silent.as_millis());
        }
        watch(&again, &turn);
    });
    turn.progress().watch = Some(timer);
}

/// Runs the runtime, once or twice. `None` when the journal could not take the start: nothing was run.
fn execute(core: &Arc<Core>, turn: &Arc<Turn>) -> Option<Run> {
    let started = core.journal.append(Record::Started {
        e: turn.entries(),
        turn: turn.id.clone(),
        attempt: turn.attempt,
        rt: turn.runtime.clone(),
    });
    let composed = compose(core, turn);
    records::dispatched(core, turn, &composed);
    core.observe(&TurnEvent::Started {
        message: &turn.message,
        turn_id: &turn.id,
        runtime: &turn.runtime,
        attempt: turn.attempt,
    });
    log::info!(
        "turn.start queue={} turn={} runtime={} cwd={} attempt={} merged={} text={:?}",
        turn.key,
        turn.id,
        turn.runtime,
        turn.cwd.display(),
        turn.attempt,
        turn.jobs.len(),
        redact::preview(&composed)
    );
    turn.signals.begin();
    let Built { context: system_context, rules: system_rules } = context::build(core, turn);
    let runtime = match core.runtimes.get(&turn.runtime) {
        Ok(runtime) => runtime,
        Err(message) => return Some(Run::Threw(Thrown::new(message))),
    };
    {
        let mut progress = turn.progress();
        progress.runtime = Some(runtime.id().to_owned());
        progress.ready = Some(Instant::now());
    }
    let (entry, text) = opening(core, turn, &composed);
    if !runtime.begins_itself() && !has_started(turn, started.wait()) {
        return None;
    }
    if turn.token.is_cancelled() {
        return Some(Run::Threw(Thrown::new("cancelled before the run")));
    }
    let mut request = RunRequest {
        turn_id: turn.id.clone(),
        message_id: turn.message.id.clone(),
        room_id: turn.message.conversation.id.clone(),
        topic_id: turn.message.conversation.thread_id.clone(),
        channel: turn.message.channel.clone(),
        conversation_kind: turn.message.conversation.kind,
        agent: turn.message.account_id.clone(),
        text,
        session: None,
        cwd: turn.cwd.clone(),
        hub_url: turn.channel.as_ref().and_then(|c| c.hub_url(&turn.message.account_id)),
        wait_file: turn.wait_file.clone(),
        extra_args: turn.route.extra_args.clone(),
        trust: turn.trust(),
        from_owner: turn.message.is_owner_chat(),
        system_context,
        system_rules,
        budget: turn.budget,
        gateway: turn.route.gateway.clone(),
        hermes_profile: turn.route.hermes_profile.clone(),
        env: child_env(core, turn),
        attachments: turn.message.attachments.clone(),
    };
    let run =
        |request: &mut RunRequest, entry| run_once(core, turn, runtime.as_ref(), request, entry, &composed, &started);
    let first = run(&mut request, entry.as_ref());
    if started.result().is_some_and(|result| !has_started(turn, result)) {
        return None;
    }
    Some(match again(turn, &first, entry.is_some()) {
        Again::No => first,
        Again::Fresh => {
            let error = clip(&redact::text(first.error().unwrap_or_default()), 1_000);
            log::info!("turn.retry_fresh queue={} turn={} error={error:?}", turn.key, turn.id);
            turn.progress().left = true;
            request.text = recovery(core, turn, FreshStart::Failed(&error), &composed);
            run(&mut request, None)
        }
        Again::Same => {
            log::info!("turn.retry queue={} turn={}", turn.key, turn.id);
            if turn.token.sleep(TRANSIENT_WAIT) { first } else { run(&mut request, entry.as_ref()) }
        }
    })
}

/// Whether the journal has taken the start; says so when it has not.
fn has_started(turn: &Turn, taken: Result<(), JournalError>) -> bool {
    if let Err(e) = &taken {
        log::error!("turn.not_started queue={} turn={} error={e}", turn.key, turn.id);
    }
    taken.is_ok()
}

/// What every child gets, and the pass with which it may act in the room.
fn child_env(core: &Core, turn: &Turn) -> Vec<(String, String)> {
    let mut env = core.settings.child_env.clone();
    env.push((PASS_VARIABLE.to_owned(), core.passes.of(&turn.id)));
    env
}

/// The user turn; the trimmed raw text when composing fails.
fn compose(core: &Arc<Core>, turn: &Turn) -> String {
    match core.prompts.user_turn(&turn.message, turn.facts()) {
        Ok(text) => text,
        Err(error) => {
            let error = redact::text(&error);
            log::warn!("turn.compose_failed queue={} turn={} error={error:?}", turn.key, turn.id);
            records::compose_failed(core, turn, &error);
            trim(&turn.message.text).to_owned()
        }
    }
}

/// The session to resume, and the text with the notice that belongs to it.
fn opening(core: &Arc<Core>, turn: &Turn, composed: &str) -> (Option<SessionEntry>, String) {
    let key = turn.session_key();
    let fresh = turn.jobs.iter().any(|j| j.message.overrides.as_ref().is_some_and(|o| o.fresh));
    let mut entry = core.sessions.get(&key);
    if fresh && entry.is_some() {
        forget(core, turn);
        entry = None;
    }
    if let Some(id) = turn.jobs.iter().rev().find_map(|j| j.resume.clone()) {
        // The interrupted attempt had announced its session: it goes on there.
        let mut resumed = entry
            .take()
            .unwrap_or_else(|| SessionEntry::new(&turn.message, &turn.runtime, &id, &turn.cwd, super::now_ms()));
        resumed.runtime_session_id = id;
        entry = Some(resumed);
    }
    let memory = core.prompts.memory_version(&turn.message.account_id).filter(|v| !v.is_empty());
    turn.progress().memory_version.clone_from(&memory);
    let (entry, text) = match entry {
        Some(entry) => match expired(core, turn, &entry) {
            Some(why) => {
                log::info!("session.rotate queue={} turn={} why={why:?}", turn.key, turn.id);
                turn.progress().left = true;
                (None, recovery(core, turn, why, composed))
            }
            None => {
                let known = entry.memory_version.as_deref();
                let text = match memory.as_deref() {
                    Some(new) if known != Some(new) => {
                        log::info!("turn.memory_notice queue={} turn={}", turn.key, turn.id);
                        core.prompts.framed(composed, Frame::MemoryChanged { old: known, new })
                    }
                    _ => composed.to_owned(),
                };
                (Some(entry), text)
            }
        },
        None => (None, composed.to_owned()),
    };
    if turn.jobs.iter().any(|j| j.interrupted) {
        return (entry, core.prompts.framed(&text, Frame::Interrupted { attempt: turn.attempt }));
    }
    (entry, text)
}

/// Why a stored session is not resumed.
fn expired<'a>(core: &Core, turn: &Turn, entry: &SessionEntry) -> Option<FreshStart<'a>> {
    let rotation = &core.settings.rotation;
    let turns = entry.turn_count.unwrap_or(0);
    if let Some(tokens) = entry.last_input_tokens
        && rotation.tokens > 0
        && tokens >= rotation.tokens
    {
        return Some(FreshStart::TooLarge { tokens, turns });
    }
    if rotation.turns > 0 && turns >= rotation.turns {
        return Some(FreshStart::TooOld { turns });
    }
    let wants_fresh = |runtime: Arc<dyn Runtime>| runtime.wants_fresh(&resumed(entry));
    if core.runtimes.get(&turn.runtime).is_ok_and(wants_fresh) {
        return Some(FreshStart::TooOld { turns });
    }
    let moved = !entry.cwd.as_os_str().is_empty() && entry.cwd != turn.cwd;
    (moved && TIED_TO_DIRECTORY.contains(&turn.runtime.as_str())).then_some(FreshStart::Moved)
}

fn forget(core: &Arc<Core>, turn: &Turn) {
    core.sessions.change(&core.journal, &SessionChange { key: turn.session_key(), entry: None });
    super::persist::flush_soon(core);
}

/// The user turn in a recovery frame.
pub(super) fn recovery(core: &Core, turn: &Turn, why: FreshStart<'_>, composed: &str) -> String {
    let recent = turn.channel.as_ref().and_then(|c| c.recent_messages(&turn.message));
    let recent = recent.or_else(|| transcribed(core, turn));
    let own = |m: &RecentMessage| {
        let at = time::parse(m.at.as_deref()?)?;
        (m.from_id.as_ref() == Some(&turn.message.account_id)).then(|| (at, m.text.clone()))
    };
    let said: Vec<(i64, String)> = recent.iter().flatten().filter_map(own).collect();
    if !said.is_empty() {
        core.observe(&TurnEvent::OwnWords { message: &turn.message, said: &said });
    }
    core.prompts.framed(composed, Frame::Recovery { runtime: &turn.runtime, why, recent: recent.as_deref() })
}

/// The last exchanges as this machine has seen them, for channels whose far side keeps none.
fn transcribed(core: &Core, turn: &Turn) -> Option<Vec<RecentMessage>> {
    // A hub that cannot be asked now has heard more than its agent.
    if turn.channel.as_ref().is_some_and(|c| c.capabilities().gated) {
        return None;
    }
    let message = &turn.message;
    let (room, topic) = (&message.conversation.id, message.conversation.thread_id.as_deref());
    let now = turn.message_ids();
    let mut said = core.transcripts.history(&message.account_id, room, topic, RECENT + now.len());
    said.retain(|m| m.id.as_ref().is_none_or(|id| !now.contains(id)));
    let recent = |m: RoomMessage| RecentMessage {
        at: m.at,
        from: m.name.or_else(|| m.from.clone()),
        from_id: m.from,
        topic: None,
        text: m.text,
    };
    (!said.is_empty()).then(|| said.into_iter().map(recent).collect())
}

enum Again {
    No,
    Fresh,
    Same,
}

/// Whether a failed run is worth another one, and which.
fn again(turn: &Turn, run: &Run, resumed: bool) -> Again {
    if turn.token.is_cancelled() || run.error().is_none() || !run.reply().is_empty() || run.is_auth() {
        return Again::No;
    }
    if matches!(run, Run::Threw(_)) {
        return Again::No;
    }
    if resumed && run.is_session_failure(&turn.runtime) {
        return Again::Fresh;
    }
    if !turn.progress().effects && run.is_transient() && !run.is_usage_limit() {
        return Again::Same;
    }
    Again::No
}

/// A stored session as adapters see it.
fn resumed(entry: &SessionEntry) -> ResumedSession {
    ResumedSession {
        id: entry.runtime_session_id.clone(),
        cwd: entry.cwd.clone(),
        usage_totals: entry.usage_totals,
        note: entry.note.clone(),
    }
}

fn run_once(
    core: &Arc<Core>,
    turn: &Arc<Turn>,
    runtime: &dyn Runtime,
    request: &mut RunRequest,
    entry: Option<&SessionEntry>,
    composed: &str,
    started: &Ticket,
) -> Run {
    request.session = entry.map(resumed);
    {
        let mut progress = turn.progress();
        progress.active = entry.cloned();
        progress.announced = None;
        progress.open_tools = 0;
        progress.ran = true;
    }
    if runtime.acts_unseen() {
        // Only for what follows a crash: another try after a transient failure is decided by what was seen.
        core.journal.append_behind(Record::Effects { turn: turn.id.clone() });
    }
    let mut sink = TurnSink::new(Arc::clone(core), Arc::clone(turn), composed, started);
    match runtime.run(request, &turn.token, &mut sink) {
        Ok(result) => Run::Returned(result),
        Err(thrown) => Run::Threw(thrown),
    }
}
