//! Messages that end without a run: skipped, refused, given up.

use std::sync::Arc;

use super::core::{Core, Job};
use super::dead;
use super::journal::{Outcome, Record};
use super::notice::Place;
use super::outbox::{self, Item};
use super::ports::{Settled, TurnEvent, TurnFailure, TurnReport, TurnStatus};
use super::records::{self, Ended};
use super::settle;
use super::turn;
use crate::message::{Inbound, Outbound};
use crate::text::clip;
use crate::thread;

/// Ends a message for good, without a reply.
pub(super) fn end(core: &Arc<Core>, job: &Job, turn_id: &str, status: TurnStatus, why: &str) {
    let message = &job.message;
    core.lock().superseded.remove(turn_id);
    settle_run(core, message);
    let settled = Settled::new(message.ids(), why, [message.as_ref()]);
    outbox::settle(core, &message.channel, vec![job.entry.clone()], settled);
    let report = report(message, turn::runtime_id(job), turn_id, status);
    core.observe(&TurnEvent::Finished { message, report: &report });
}

/// Answers a message with an error in place of a run. With `keep` the message itself is not over: somebody else keeps
/// it. Returns at once: the reply is written down and sent on a thread of its own.
pub(super) fn refuse(core: &Arc<Core>, job: Job, turn_id: String, error: String, keep: bool) {
    let core = Arc::clone(core);
    let text = format!("⚠️ Runtime error: {}", clip(&error, 500));
    aside(move || refuse_now(&core, &job, &turn_id, "auth", error, text, keep));
}

/// Gives up a message whose runs were interrupted too often: one more is not made. It alone, whatever waits with it.
pub(super) fn give_up(core: &Arc<Core>, job: Job, turn_id: String) {
    let (core, attempts) = (Arc::clone(core), job.attempts);
    log::error!("turn.dead_letter queue={} turn={turn_id} attempts={attempts}", job.message.queue_key());
    dead::keep(&core, std::slice::from_ref(&job.entry), &format!("interrupted {attempts} times"));
    let text = format!("⚠️ This message was interrupted {attempts} times and is not tried again.");
    aside(move || refuse_now(&core, &job, &turn_id, "interrupted", text.clone(), text, false));
}

fn refuse_now(core: &Arc<Core>, job: &Job, turn_id: &str, kind: &str, error: String, text: String, keep: bool) {
    let message = &job.message;
    let runtime = turn::runtime_id(job);
    records::refused(core, message, turn_id, &error);
    let record = Some(Ended {
        message: Arc::clone(message),
        turn_id: turn_id.to_owned(),
        runtime: runtime.to_owned(),
        session_id: None,
        duration_ms: 0,
        cost_usd: None,
        text: String::new(),
        reason: None,
        blocks: Vec::new(),
    });
    if keep {
        // The message may yet become a turn of this id, so the refusal has one of its own.
        post(core, message, &format!("refused_{turn_id}"), text, Vec::new(), record);
        return;
    }
    let entries = vec![job.entry.clone()];
    // As after a run: a crash from here on sends the reply and does not look at the message again.
    let (e, turn, rt) = (entries.clone(), turn_id.to_owned(), runtime.to_owned());
    drop(core.journal.append(Record::Started { e, turn, attempt: job.attempts + 1, rt }));
    settle_run(core, message);
    let mut report = report(message, runtime, turn_id, TurnStatus::Error);
    report.error = Some(TurnFailure { kind: kind.into(), message: error, error_ref: None });
    post(core, message, turn_id, text, entries, record);
    core.observe(&TurnEvent::Finished { message, report: &report });
}

/// Says something in the conversation of a message that no turn said.
pub(super) fn notice(core: &Arc<Core>, message: &Arc<Inbound>, turn_id: &str, text: String) {
    let (core, message, turn_id) = (Arc::clone(core), Arc::clone(message), format!("notice_{turn_id}"));
    aside(move || post(&core, &message, &turn_id, text, Vec::new(), None));
}

/// Runs something on a thread of its own, because it waits for the journal and for a channel.
fn aside(run: impl FnOnce() + Send + 'static) {
    let spawned = thread::spawn("outbox", run);
    if let Err(e) = spawned {
        // What is not over stays in the journal, for the next start.
        log::error!("outbox.thread_failed error={e}");
    }
}

/// Writes a diagnostic down and sends it.
fn post(core: &Arc<Core>, message: &Inbound, turn_id: &str, text: String, entries: Vec<String>, record: Option<Ended>) {
    let out = Place::from(message).diagnostic(format!("out_{turn_id}"), text);
    let out = Outbound { turn_id: turn_id.to_owned(), ..out };
    let outcome = Outcome { replies: vec![Arc::new(out.clone())], session: None, why: "error".into() };
    if let Err(e) = core.journal.append(Record::Result { turn: turn_id.to_owned(), out: outcome }).wait() {
        log::error!("turn.result_not_durable queue={} turn={turn_id} error={e}", message.queue_key());
    }
    let settled = Settled::new(message.ids(), "error", [message]);
    outbox::post(core, Item { out, entries, settled, record, attempts: 0, uncertain: false });
}

/// A cloud run that never ran is accounted for with nothing.
fn settle_run(core: &Core, message: &Inbound) {
    if let Some(settlement) = message.cloud_run.as_ref().and_then(|run| settle::settlement(run, 0, None, None)) {
        core.hooked(|hook| hook.settle(&settlement));
    }
}

/// The account of a message that did not become a turn of its own.
pub(super) fn report(message: &Inbound, runtime: &str, turn_id: &str, status: TurnStatus) -> TurnReport {
    TurnReport {
        turn_id: turn_id.to_owned(),
        message_ids: message.ids(),
        channel: message.channel.clone(),
        agent: message.account_id.clone(),
        conversation: message.conversation.id.clone(),
        runtime: runtime.to_owned(),
        session_id: None,
        status,
        reply: None,
        error: None,
        blocks: 0,
        ms: 0,
        usage: None,
        cost_usd: None,
        class: None,
    }
}
