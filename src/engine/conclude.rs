//! The end of a turn: session, transcript, reply, journal, and the lane set free — exactly once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::aside::{self, SetAside};
use super::attachments;
use super::cancel::{AlreadyOver, CancelReason};
use super::capture::{self, Capture};
use super::core::{Core, Job, Live};
use super::journal::{self, Record};
use super::outbox::{self, Item};
use super::outcome::{self, BreakerNews, Facts, Outcome, Reply, Run, SessionAction};
use super::ports::{
    FailureSummary, RunResult, Settled, Thrown, TurnDone, TurnEvent, TurnFailure, TurnReport, TurnStatus,
};
use super::records::{self, Ended};
use super::sessions::{SessionChange, SessionEntry};
use super::settle::{self, Served};
use super::transcript::{FailureFacts, RuntimeFailure, TurnErrorPhase};
use super::turn::{Turn, message_ids};
use super::waits::Cause;
use super::{keys, now_ms, park_timer, parking, persist};
use crate::message::{Inbound, Outbound, OutboundKind};
use crate::thread;

/// How long a lane rests when the journal could not take the start of its turn.
const DEFER: Duration = Duration::from_secs(5);
/// How long a reply, or the end without one, waits for the live signs of its turn.
const FLUSH: Duration = Duration::from_secs(2);

/// Concludes a turn, unless that was done already; returns whether this call did it.
pub(super) fn conclude(core: &Arc<Core>, turn: &Arc<Turn>, run: Run) -> bool {
    let Ok(cancelled) = turn.token.end() else { return false };
    ended(core, turn, cancelled, run);
    true
}

/// Concludes a turn of which the caller has the end.
fn ended(core: &Arc<Core>, turn: &Arc<Turn>, cancelled: Option<CancelReason>, run: Run) {
    // What was whole when the shutdown came is answered: a second run would do everything twice.
    let cancelled = cancelled.filter(|why| *why != CancelReason::Shutdown || !is_whole(&run));
    turn.signals.end(cancelled == Some(CancelReason::Superseded));
    complete(core, turn, &run);
    let outcome = {
        let progress = turn.progress();
        let facts = Facts {
            cancelled,
            runtime: &turn.runtime,
            limit_ms: turn.limit.as_millis() as u64,
            is_cloud_run: turn.message.cloud_run.is_some(),
            tool_calls: progress.tool_calls,
            deliverable: turn.deliverable,
            active: progress.active.as_ref(),
            worked_in: progress.announced.as_deref().filter(|_| progress.effects),
        };
        outcome::decide(&run, &facts, |error| captured(turn, &run, error))
    };
    let parked = if cancelled.is_none() { parking::cause(core, turn, &run) } else { None };
    if parked.is_none() {
        parking::ended(core, turn, &run);
    }
    match cancelled {
        _ if parked.is_some() => {
            park(core, turn, &run, &outcome, parked);
            end_streams(turn);
            carry_over(core, turn, &run, false);
            return;
        }
        Some(CancelReason::Superseded) if core.settings.carry_superseded => {
            log::info!("turn.superseded queue={} turn={}", turn.key, turn.id);
            end_streams(turn);
            carry_over(core, turn, &run, false);
            return;
        }
        Some(CancelReason::Shutdown) => {
            log::info!("turn.interrupted queue={} turn={}", turn.key, turn.id);
            drop(core.journal.append(Record::Interrupted { turn: turn.id.clone() }));
            core.lock().interrupted += 1;
        }
        _ => finish(core, turn, &run, outcome),
    }
    core.turn_over(&turn.key, &turn.id, &turn.merged_from);
}

/// The turn is over without a reply, its messages are not: the far side is not to wait for more of this turn.
fn end_streams(turn: &Turn) {
    let streams = Settled::new(Vec::new(), "", turn.jobs.iter().map(|job| job.message.as_ref())).streams;
    if let Some(channel) = turn.channel.as_ref().filter(|_| !streams.is_empty()) {
        turn.signals.flush(FLUSH);
        // After a crash it is told at the end of the turn in which they go on.
        channel.stream_end(&streams, Box::new(|| ()));
    }
}

/// The turn is over, its messages go on in a later one. Not so if a person has cancelled it since its end: then they
/// end with it. Returns whether they go on; with `rest` their lane waits.
fn carry_over(core: &Arc<Core>, turn: &Arc<Turn>, run: &Run, rest: bool) -> bool {
    let carried = core.carry_over(turn, rest);
    if !carried {
        finish(core, turn, run, Outcome::cancelled());
        core.turn_over(&turn.key, &turn.id, &turn.merged_from);
    }
    carried
}

/// The runtime cannot work for a while: what the run left is kept, and its messages wait.
fn park(core: &Arc<Core>, turn: &Arc<Turn>, run: &Run, outcome: &Outcome, cause: Option<Cause>) {
    let Some(cause) = cause else { return };
    let result = match run {
        Run::Returned(result) => Some(result),
        Run::Threw(_) => None,
    };
    keep_session(core, turn, &outcome.session, result);
    if let Some((phase, failure)) = &outcome.failed {
        let ms = turn.began.elapsed().as_millis() as u64;
        records::turn_error(core, turn, *phase, failure, ms, Some(evidence(turn, run, failure, ms)));
    }
    parking::park(core, turn, run, cause);
}

fn is_whole(run: &Run) -> bool {
    matches!(run, Run::Returned(_)) && run.error().is_none() && !run.reply().is_empty()
}

/// Tells those who account for turns, if the runtime was called at all.
fn complete(core: &Core, turn: &Turn, run: &Run) {
    if !turn.progress().ran {
        return;
    }
    let (result, thrown) = match run {
        Run::Returned(result) => (Some(result), None),
        Run::Threw(thrown) => (None, Some(thrown)),
    };
    let wall_ms = wall_ms(turn);
    let runtime = turn.progress().runtime.clone().unwrap_or_else(|| turn.runtime.clone());
    let done = TurnDone { message: &turn.message, turn_id: &turn.id, runtime: &runtime, result, thrown, wall_ms };
    core.hooked(|hook| hook.turn_complete(&done));
}

/// Time since the turn knew its runtime; 0 when it never did.
fn wall_ms(turn: &Turn) -> u64 {
    turn.progress().ready.map_or(0, |at| at.elapsed().as_millis() as u64)
}

/// Accounts for the cloud runs that the turn answered. Of several it was the last one's budget, so the usage is too.
fn settle_runs(core: &Core, turn: &Turn, result: Option<&RunResult>) {
    let used = turn.message.cloud_run.as_ref().and_then(|run| run.run_id.clone());
    let (ran, runtime) = {
        let progress = turn.progress();
        (progress.ran, progress.runtime.clone().unwrap_or_else(|| turn.runtime.clone()))
    };
    for run in turn.jobs.iter().filter_map(|job| job.message.cloud_run.as_ref()) {
        let (ms, usage) = if run.run_id == used { (wall_ms(turn), result.and_then(|r| r.usage)) } else { (0, None) };
        let served = Served { runtime: &runtime, args: &turn.route.extra_args };
        if let Some(settlement) = settle::settlement(run, ms, usage, Some(served).filter(|_| ran)) {
            core.hooked(|hook| hook.settle(&settlement));
        }
    }
}

/// Tells the breaker how the login fared. After a refusal, what was waiting for it is given back; returns those
/// entries.
fn tell_breaker(core: &Arc<Core>, turn: &Turn, run: &Run, news: BreakerNews) -> Vec<String> {
    let (runtime, account) = (turn.runtime.as_str(), turn.message.account_id.as_str());
    match news {
        BreakerNews::None => return Vec::new(),
        BreakerNews::Clear => {
            if core.breakers().clear(runtime, account) {
                log::info!("breaker.cleared runtime={runtime} account={account}");
                aside::release(core, runtime, account);
                core.changed();
            }
            return Vec::new();
        }
        BreakerNews::Failure => {}
    }
    let error = run.error().unwrap_or_else(|| run.reply());
    let now = now_ms();
    let (failures, until) = {
        let mut breakers = core.breakers();
        let state = breakers.failure(runtime, &turn.message, error, &core.settings.breaker, now);
        (state.failures, state.blocked_until)
    };
    if until > now {
        log::error!("breaker.opened runtime={runtime} account={account} failures={failures} until={until}");
    } else {
        log::warn!("breaker.failure runtime={runtime} account={account} failures={failures}");
    }
    core.changed();
    let effects = turn.progress().effects;
    let waited = turn.jobs.iter().filter(|job| job.set_aside == Some(SetAside::Login));
    waited
        .map(|job| {
            // Takes it out of the turn, so that the turn's end is not its own.
            let (e, on, why) = (job.entry.clone(), runtime.to_owned(), Cause::Login.as_str().to_owned());
            drop(core.journal.append(Record::Deferred { e: vec![e.clone()], on, why, until: now }));
            let job = Job { interrupted: job.interrupted || effects, ..job.clone() };
            aside::keep(core, keys::uuid_v4(), job, SetAside::Login, Duration::ZERO);
            e
        })
        .collect()
}

/// Everything after the decision, for a turn that is not to run again.
fn finish(core: &Arc<Core>, turn: &Arc<Turn>, run: &Run, outcome: Outcome) {
    let result = match run {
        Run::Returned(result) => Some(result),
        Run::Threw(_) => None,
    };
    let session_id = keep_session(core, turn, &fate(turn, &outcome), result);
    let ms = turn.began.elapsed().as_millis() as u64;
    if let Some((phase, failure)) = &outcome.failed {
        let evidence = (*phase == TurnErrorPhase::Runtime).then(|| evidence(turn, run, failure, ms));
        records::turn_error(core, turn, *phase, failure, ms, evidence);
        let severity = if *phase == TurnErrorPhase::Runtime { log::Level::Error } else { log::Level::Warn };
        log::log!(
            severity,
            "turn.failed queue={} turn={} runtime={} kind={} ref={} ms={ms} error={:?}",
            turn.key,
            turn.id,
            turn.runtime,
            failure.kind,
            failure.error_ref.as_deref().unwrap_or("-"),
            crate::text::preview(&failure.message)
        );
    }
    if let Some(error) = &outcome.side_error {
        log::warn!("turn.error_with_reply queue={} turn={} error={:?}", turn.key, turn.id, crate::redact::text(error));
    }
    let mut record = outcome.record_outbound.then(|| Ended {
        message: Arc::clone(&turn.message),
        turn_id: turn.id.clone(),
        runtime: turn.runtime.clone(),
        session_id: session_id.clone(),
        duration_ms: ms,
        cost_usd: result.and_then(|r| r.cost_usd),
        text: outcome.final_text.clone(),
        reason: outcome.side_error.clone(),
        blocks: turn.progress().summaries.clone(),
    });
    settle_runs(core, turn, result);
    let given_back = tell_breaker(core, turn, run, outcome.breaker);
    let answered: Vec<&Job> = turn.jobs.iter().filter(|job| !given_back.contains(&job.entry)).collect();
    let ended = |jobs: &[&Job], why: &str| {
        let settled = Settled::new(message_ids(jobs.iter().copied()), why, jobs.iter().map(|job| job.message.as_ref()));
        (jobs.iter().map(|job| job.entry.clone()).collect::<Vec<_>>(), settled)
    };
    let (mut entries, mut settled) = ended(&answered, outcome.why);
    let mut unread = Vec::new();
    if park_timer::at_end(core, turn, turn.token.is_cancelled(), &settled) {
        entries.clear();
    } else if !turn.unread.is_empty() {
        let read;
        (unread, read) = answered.into_iter().partition(|job| turn.unread.contains(&job.entry));
        (entries, settled) = ended(&read, outcome.why);
    }
    aside::told(core, &turn.key, turn.jobs.iter().map(|job| job.omitted).sum());
    let report = report(turn, &outcome, session_id, result, ms);
    match outcome.reply {
        Some(reply) => {
            let out = outbound(turn, reply);
            let output =
                journal::Outcome { replies: vec![Arc::new(out.clone())], session: None, why: outcome.why.to_owned() };
            if let Err(e) = core.journal.append(Record::Result { turn: turn.id.clone(), out: output }).wait() {
                log::error!("turn.result_not_durable queue={} turn={} error={e}", turn.key, turn.id);
            }
            turn.signals.flush(FLUSH);
            let item = Item { out, entries, settled, record, attempts: 0, uncertain: false };
            outbox::post(core, item);
        }
        None => {
            if let (Some(record), Some(status)) = (record.take(), outcome.unsent) {
                let (key, units) = (&turn.key, crate::text::len_utf16(&outcome.final_text));
                log::debug!("turn.unsent queue={key} turn={} status={status:?} units={units}", turn.id);
                record.write(core, status, None);
            }
            if !entries.is_empty() {
                turn.signals.flush(FLUSH);
                outbox::settle(core, &turn.message.channel, entries, settled);
            }
        }
    }
    if !unread.is_empty() {
        let (entries, settled) = ended(&unread, "skipped:overflow");
        outbox::settle(core, &turn.message.channel, entries, settled);
    }
    log::info!(
        "turn.done queue={} turn={} runtime={} status={:?} ms={ms} cost_usd={}",
        turn.key,
        turn.id,
        turn.runtime,
        report.status,
        report.cost_usd.map_or_else(|| "-".to_owned(), |c| format!("{c:.6}"))
    );
    turn.told.store(true, Ordering::Release);
    core.observe(&TurnEvent::Finished { message: &turn.message, report: &report });
}

/// What becomes of the stored session. One that was left for a fresh one goes now, even if no fresh one came of it.
fn fate(turn: &Turn, outcome: &Outcome) -> SessionAction {
    let is_left = outcome.session == SessionAction::Keep && turn.progress().left;
    // Whoever cancels wants to go on from where the conversation was.
    if is_left && outcome.status != TurnStatus::Cancelled { SessionAction::Delete } else { outcome.session.clone() }
}

/// Carries out the fate of the session; returns the id that will be resumed next.
fn keep_session(core: &Arc<Core>, turn: &Turn, action: &SessionAction, result: Option<&RunResult>) -> Option<String> {
    let key = turn.message.session_key(&turn.runtime);
    let (active, memory) = {
        let progress = turn.progress();
        (progress.active.clone(), progress.memory_version.clone())
    };
    let stored = core.sessions.get(&key);
    let entry = match action {
        SessionAction::Keep => return stored.map(|e| e.runtime_session_id),
        SessionAction::Delete => None,
        SessionAction::Suspect => stored.clone().map(|e| SessionEntry { suspect: true, updated_at: now_ms(), ..e }),
        SessionAction::Upsert(id) => {
            let usage = result.and_then(|r| r.usage);
            let continued = stored
                .as_ref()
                .filter(|s| active.as_ref().is_some_and(|a| a.runtime_session_id == s.runtime_session_id))
                .or(active.as_ref());
            let mut entry = SessionEntry::new(&turn.message, &turn.runtime, id, &turn.cwd, now_ms());
            entry.turn_count = Some(continued.and_then(|s| s.turn_count).unwrap_or(0) + 1);
            entry.last_input_tokens =
                result.and_then(|r| r.context_tokens).or(usage.map(|u| u.hit.saturating_add(u.miss)));
            entry.memory_version = memory.or(stored.as_ref().and_then(|s| s.memory_version.clone()));
            let before = continued.filter(|s| s.runtime_session_id == *id);
            entry.usage_totals = result.and_then(|r| r.usage_totals).or(before.and_then(|s| s.usage_totals));
            entry.note = result.and_then(|r| r.note.clone()).or(before.and_then(|s| s.note.clone()));
            Some(entry)
        }
    };
    let id = entry.as_ref().map(|e| e.runtime_session_id.clone());
    if entry.is_some() || stored.is_some() {
        if entry.is_none() {
            log::info!("session.dropped queue={} turn={} runtime={}", turn.key, turn.id, turn.runtime);
        }
        core.sessions.change(&core.journal, &SessionChange { key, entry });
        persist::flush_soon(core);
    }
    id
}

fn captured(turn: &Turn, run: &Run, error: &str) -> Capture {
    capture::capture(error, failure_of(run), &turn.id, &turn.runtime)
}

fn failure_of(run: &Run) -> Option<&FailureSummary> {
    match run {
        Run::Returned(result) => result.failure.as_ref(),
        Run::Threw(thrown) => thrown.failure.as_deref(),
    }
}

/// What the transcript keeps of a failed run.
fn evidence(turn: &Turn, run: &Run, failure: &TurnFailure, ms: u64) -> RuntimeFailure {
    let cwd = turn.cwd.display().to_string();
    let facts = FailureFacts {
        message: &turn.message,
        turn_id: &turn.id,
        runtime: &turn.runtime,
        cwd: &cwd,
        duration_ms: ms,
        error: &failure.message,
    };
    RuntimeFailure::new(facts, &failure_of(run).cloned().unwrap_or_default())
}

fn outbound(turn: &Turn, reply: Reply) -> Outbound {
    let gated = turn.channel.as_ref().is_some_and(|c| c.capabilities().gated);
    let to_owner = gated && reply.kind == OutboundKind::Message && turn.message.is_owner_chat();
    let attachments = if to_owner { attachments::find(&reply.text, &turn.cwd) } else { Vec::new() };
    if !attachments.is_empty() {
        log::info!("turn.attachments queue={} turn={} files={}", turn.key, turn.id, attachments.len());
    }
    Outbound {
        id: format!("out_{}", turn.id),
        channel: turn.message.channel.clone(),
        account_id: turn.message.account_id.clone(),
        conversation_id: turn.message.conversation.id.clone(),
        thread_id: turn.message.conversation.thread_id.clone(),
        topic: turn.message.topic().map(str::to_owned),
        kind: reply.kind,
        text: reply.text,
        error_ref: reply.error_ref,
        attachments,
        reply_to: Some(turn.message.reply_target().to_owned()),
        trace_id: turn.message.trace.as_ref().map(|t| t.id.clone()),
        turn_id: turn.id.clone(),
        by_tool: false,
        mentions: Vec::new(),
    }
}

fn report(
    turn: &Turn,
    outcome: &Outcome,
    session_id: Option<String>,
    result: Option<&RunResult>,
    ms: u64,
) -> TurnReport {
    let reply = outcome.reply.as_ref().filter(|r| r.kind == OutboundKind::Message).map(|r| r.text.clone());
    // A person reads what the room reads: the calm line of a quota, not the raw error.
    let error = outcome.failed.as_ref().map(|(phase, failure)| TurnFailure {
        message: match (&outcome.reply, phase) {
            (Some(reply), TurnErrorPhase::Timeout | TurnErrorPhase::Budget) => reply.text.clone(),
            _ => failure.message.clone(),
        },
        ..failure.clone()
    });
    let (runtime, blocks) = {
        let progress = turn.progress();
        (progress.runtime.clone().unwrap_or_else(|| turn.runtime.clone()), progress.blocks)
    };
    TurnReport {
        turn_id: turn.id.clone(),
        message_ids: turn.message_ids(),
        channel: turn.message.channel.clone(),
        agent: turn.message.account_id.clone(),
        conversation: turn.message.conversation.id.clone(),
        runtime,
        session_id,
        status: outcome.status,
        reply,
        error,
        blocks,
        ms,
        usage: result.and_then(|r| r.usage),
        cost_usd: result.and_then(|r| r.cost_usd),
        class: None,
    }
}

/// The journal could not take the start: nothing was run, the messages wait in their lane for a while.
pub(super) fn defer(core: &Arc<Core>, turn: &Arc<Turn>) -> bool {
    let run = Run::Threw(Thrown::new("cancelled before the run"));
    match turn.token.end() {
        Err(AlreadyOver) => return false,
        Ok(None | Some(CancelReason::Superseded)) => {}
        // It was told to end for good: it must not come back.
        Ok(cancelled) => {
            ended(core, turn, cancelled, run);
            return true;
        }
    }
    turn.signals.end(true);
    if !carry_over(core, turn, &run, true) {
        return true;
    }
    let (again, key) = (Arc::clone(core), turn.key.clone());
    core.timers.after(DEFER, move || {
        again.lock().queues.set_blocked(&key, false);
        again.pump();
    });
    true
}

/// The adapter did not return in time after it was cancelled: the turn ends without it.
pub(super) fn abandon(core: &Arc<Core>, turn_id: &str) {
    let Some(live) = core.lock().live.get(turn_id).cloned() else { return };
    let turn = live.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let Some(turn) = turn else { return };
    log::error!("turn.abandoned queue={} turn={turn_id} runtime={}", turn.key, turn.runtime);
    // Called on the timer thread, which must not wait for a journal or a channel.
    let again = Arc::clone(core);
    let spawned = thread::spawn("abandon", move || {
        if conclude(&again, &turn, Run::Threw(Thrown::new("the runtime did not stop"))) {
            again.pump();
        }
    });
    if let Err(e) = spawned {
        log::error!("turn.abandon_failed turn={turn_id} error={e}");
    }
}

/// The turn's thread panicked: the messages are accounted for, the conversation goes on.
pub(super) fn panicked(core: &Arc<Core>, live: &Live, key: &str, turn_id: &str, messages: &[Arc<Inbound>]) -> bool {
    let turn = live.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    if let Some(turn) = turn.as_ref().filter(|turn| turn.token.end().is_ok()) {
        let text = "⚠️ An internal error ended this turn; it is in the log.".to_owned();
        finish(core, turn, &Run::Returned(RunResult::default()), internal(text));
    } else {
        // It panicked while it was being concluded or before it was prepared: the journal still has the
        // messages, and the next start answers them.
        log::error!("turn.unfinished queue={key} turn={turn_id} messages={}", messages.len());
    }
    core.turn_over(key, turn_id, turn.as_ref().map_or(&[], |turn| &turn.merged_from));
    true
}

/// An outcome that is not the runtime's.
fn internal(text: String) -> Outcome {
    Outcome {
        status: TurnStatus::Error,
        why: "error",
        reply: Some(Reply { kind: OutboundKind::Error, text: text.clone(), error_ref: None }),
        final_text: String::new(),
        unsent: None,
        record_outbound: true,
        session: SessionAction::Keep,
        breaker: BreakerNews::None,
        failed: Some((
            TurnErrorPhase::Runtime,
            TurnFailure { kind: "internal".into(), message: text, error_ref: None },
        )),
        side_error: None,
    }
}
