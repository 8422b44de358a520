//! Carries out what [`super::waits`] decides: messages of a runtime that cannot work stay in their lanes and in
//! the journal, their rooms are told once, and a timer starts the next probe.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::core::{Core, Job};
use super::journal::Record;
use super::notice::{self, Place};
use super::now_ms;
use super::outcome::Run;
use super::turn::{self, Turn};
use super::waits::{self, Cause, NOTE, Wait, Waits, Who};
use crate::failure;
use crate::json;

/// The timer sleeps no longer than this at once, so that a clock that was set does not make it late.
const LONGEST_SLEEP_MS: i64 = 600_000;

/// Whether messages like this one wait for this.
pub(super) fn applies(core: &Core, job: &Job, cause: Cause) -> bool {
    let waited_at = core.channel(&job.message.channel).is_none_or(|c| c.is_waited_at());
    core.settings.parking.waits_for(cause, waited_at)
}

/// The key of the wait that a job's turn depends on.
pub(super) fn key(job: &Job) -> String {
    waits::key(turn::runtime_id(job), &job.route)
}

/// Why the messages of this turn are to wait, if they are.
pub(super) fn cause(core: &Core, turn: &Turn, run: &Run) -> Option<Cause> {
    let job = turn.jobs.last()?;
    let cause = waits::cause(run)?;
    applies(core, job, cause).then_some(cause)
}

/// The turn's messages wait from here on. The caller gives them back to their lane.
pub(super) fn park(core: &Arc<Core>, turn: &Turn, run: &Run, cause: Cause) {
    let now = now_ms();
    let key = waits::key(&turn.runtime, &turn.route);
    let error = run.error().unwrap_or_else(|| run.reply());
    let hint = failure::usage_reset_hint(error).filter(|_| cause == Cause::UsageLimit);
    let reset = hint.and_then(|hint| failure::reset_time(&hint, now, &TimeZone::system()));
    let effects = turn.progress().effects;
    let (wait, news) = {
        let mut state = core.lock();
        state.waits.met(&key, &turn.id, cause, reset, now);
        let news = state.waits.tell(&key, &turn.key);
        if effects {
            // The next run is told that this one may have changed something.
            state.queues.amend_current(&turn.key, &turn.id, |job| job.interrupted = true);
        }
        (state.waits.get(&key).cloned(), news)
    };
    let Some(wait) = wait else { return };
    log::warn!(
        "turn.parked queue={} turn={} on={key} why={} in_ms={}",
        turn.key,
        turn.id,
        cause.as_str(),
        wait.until.saturating_sub(now)
    );
    let (on, why) = (key.clone(), cause.as_str().to_owned());
    drop(core.journal.append(Record::Deferred { e: turn.entries(), on, why, until: wait.until }));
    keep(core, &key, &wait);
    if news {
        let text = waits::notice(cause, &turn.runtime, &crate::redact::text(error), wait.until, now);
        notice::tell(core, &Place::from(turn.message.as_ref()), format!("parked_{}", turn.id), text);
    }
    arm(core);
}

/// A turn ended otherwise. A run that got as far as the provider lets everything go that waited.
pub(super) fn ended(core: &Arc<Core>, turn: &Turn, run: &Run) {
    let got_through = match run {
        Run::Threw(_) => false,
        Run::Returned(_) => run.error().is_none() || !run.reply().is_empty() || turn.progress().effects,
    };
    if !got_through || waits::cause(run).is_some() || turn.token.is_cancelled() {
        return;
    }
    let key = waits::key(&turn.runtime, &turn.route);
    if core.lock().waits.worked(&key) {
        log::info!("wait.over on={key} turn={}", turn.id);
        drop(core.journal.append(Record::Forget { key: format!("{NOTE}{key}") }));
    }
}

/// A message came whose runtime cannot work: its room is told, once.
pub(super) fn tell_if_waiting(core: &Arc<Core>, job: &Job) {
    if core.lock().waits.is_empty() {
        return;
    }
    let (now, key) = (now_ms(), key(job));
    let wait = {
        let mut state = core.lock();
        // When it is due, the message may well be answered at once.
        let waits = state.waits.get(&key).is_some_and(|w| !w.is_due(now) && applies(core, job, w.cause));
        if !waits || !state.waits.tell(&key, &job.message.queue_key()) {
            return;
        }
        state.waits.get(&key).cloned()
    };
    let Some(wait) = wait else { return };
    keep(core, &key, &wait);
    let text = waits::notice(wait.cause, turn::runtime_id(job), "", wait.until, now);
    notice::tell(core, &Place::from(job.message.as_ref()), format!("parked_{}", job.entry), text);
}

/// Takes up the waits that the journal knows; forgets them where nothing is to wait.
pub(super) fn restore(core: &Arc<Core>) {
    let notes: Vec<(String, serde_json::Value)> = core.journal.view(|ledger| {
        ledger.notes(NOTE).map(|(k, n)| (k.trim_start_matches(NOTE).to_owned(), n.value.clone())).collect()
    });
    let mut waits = Waits::default();
    for (key, value) in notes {
        match json::from_value::<Wait>(&value) {
            Ok(wait) if core.settings.parking.who(wait.cause) != Who::Nobody => waits.restore(key, wait),
            _ => drop(core.journal.append(Record::Forget { key: format!("{NOTE}{key}") })),
        }
    }
    core.lock().waits = waits;
    arm(core);
}

fn keep(core: &Core, key: &str, wait: &Wait) {
    match json::to_value(wait) {
        Ok(value) => drop(core.journal.append(Record::Note { key: format!("{NOTE}{key}"), value })),
        Err(e) => log::error!("wait.unwritable on={key} error={e}"),
    }
}

/// Sets the timer for the next probe, unless it is set.
pub(super) fn arm(core: &Arc<Core>) {
    let now = now_ms();
    let mut state = core.lock();
    let Some(at) = state.waits.next_probe(now) else { return };
    if std::mem::replace(&mut state.wait_timer, true) {
        return;
    }
    drop(state);
    let sleep = (at - now).clamp(1, LONGEST_SLEEP_MS);
    let again = Arc::clone(core);
    core.timers.after(Duration::from_millis(sleep as u64), move || {
        again.lock().wait_timer = false;
        again.pump();
        arm(&again);
    });
}
