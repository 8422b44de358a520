//! From the messages that are taken out of a lane to a turn: what does not depend on a session or a runtime.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::core::{Core, Job, Live};
use super::merge;
use super::now_ms;
use super::park;
use super::queue::{Arrival, Start};
use super::records;
use super::signals::Signals;
use super::transcript::DropReason;
use super::turn::{Turn, runtime_id, working_directory};

/// Messages of one lane that a turn shows to the agent, files without a word not counted.
pub const MAX_BATCH: usize = 40;

/// Makes the turn; `None` when there is nothing to answer.
pub(super) fn prepare(core: &Arc<Core>, start: Start<Job>, live: &Live) -> Option<Turn> {
    let Start { key, turn_id, arrivals } = start;
    let (jobs, ids) = flat(arrivals);
    let last = jobs.last()?;
    let omitted = omitted(&jobs);
    let mut unread: Vec<String> = jobs[..omitted].iter().map(|job| job.entry.clone()).collect();
    let message = match &jobs[omitted..] {
        [job] if job.omitted == 0 => Arc::clone(&job.message),
        shown => {
            let merged = merge::merge(shown.iter().map(|j| j.message.as_ref().clone()).collect())?;
            if !merged.omitted.is_empty() {
                let (cut, left) = (merged.omitted.len(), merged.message.entries.len());
                log::warn!("turn.too_long queue={key} turn={turn_id} omitted={cut} left={left}");
                let is_cut = |id: &String| merged.omitted.iter().any(|entry| entry.id == *id);
                let cut = shown.iter().filter(|job| job.message.ids().iter().all(is_cut));
                unread.extend(cut.map(|job| job.entry.clone()));
            }
            let mut message = merged.message;
            message.omitted += omitted + shown.iter().map(|j| j.omitted).sum::<usize>();
            Arc::new(message)
        }
    };
    if omitted > 0 {
        log::warn!("turn.too_many queue={key} turn={turn_id} omitted={omitted}");
    }
    let mut merged_from = Vec::new();
    for (at, (job, id)) in jobs.iter().zip(ids).enumerate().filter(|(_, (job, id))| *id != turn_id && !job.woken) {
        let (reason, superseded_by) = if at < omitted {
            (DropReason::QueueOverflow, None)
        } else {
            (DropReason::BatchMerged, Some(turn_id.as_str()))
        };
        // One last record for each turn id, however often its message is carried on.
        if core.lock().superseded.insert(id.clone()) {
            records::dropped(core, &job.message, &id, reason, superseded_by);
        }
        merged_from.push(id);
    }
    let channel = core.channel(&message.channel);
    let capabilities = channel.as_ref().map(|c| c.capabilities()).unwrap_or_default();
    let budget = message.cloud_run.as_ref().map(|run| run.budget).unwrap_or_default();
    let own = message.overrides.as_ref().and_then(|o| o.timeout_ms).map(Duration::from_millis);
    let wall = budget.max_wall_time_ms.map(Duration::from_millis);
    let limit = [own, wall].into_iter().flatten().fold(core.settings.turn_limit, Duration::min);
    let signals =
        Signals::new(channel.clone(), &message, numbered_after(last), &turn_id, &core.pings, core.settings.typing);
    let cwd = working_directory(last).to_owned();
    let wait_file = park::is_eligible(capabilities.gated, &message).then(|| park::marker_path(&cwd, &key));
    if let Some(file) = &wait_file {
        // A wish that an earlier turn left behind is nobody's any more.
        let _ = std::fs::remove_file(file);
    }
    Some(Turn {
        key,
        runtime: runtime_id(last).to_owned(),
        cwd,
        wait_file,
        route: Arc::clone(&last.route),
        attempt: jobs.iter().map(|j| j.attempts).max().unwrap_or(0) + 1,
        deliverable: !capabilities.gated || message.is_owner_chat(),
        id: turn_id,
        merged_from,
        jobs,
        unread,
        message,
        channel,
        limit,
        budget,
        token: live.token.clone(),
        began: live.began,
        signals,
        progress: Mutex::default(),
        told: AtomicBool::new(false),
    })
}

/// The messages of a turn with the turn ids drawn for them, oldest first: what was set aside, then what took it along.
fn flat(arrivals: Vec<Arrival<Job>>) -> (Vec<Job>, Vec<String>) {
    let parts = arrivals.into_iter().flat_map(|mut arrival| {
        let mut parts = std::mem::take(&mut arrival.payload.before);
        parts.push((arrival.turn_id, arrival.payload));
        parts
    });
    parts.map(|(id, job)| (job, id)).unzip()
}

/// The number after which the blocks of a message's turn are numbered. Far sides drop what has a number that they have
/// seen, so a later attempt goes on behind an earlier one: with the milliseconds that have passed, which are more than
/// an attempt has blocks.
fn numbered_after(job: &Job) -> u64 {
    let again = job.again || job.woken || job.interrupted || job.attempts > 0 || job.set_aside.is_some();
    let age = now_ms().saturating_sub(job.message.received_at);
    age.try_into().ok().filter(|_| again).unwrap_or(0)
}

/// How many of the oldest messages are counted and not shown. Nothing that was accepted is dropped, but a prompt has an
/// end. Files without a word have their own.
fn omitted(jobs: &[Job]) -> usize {
    let texts: Vec<usize> = (0..jobs.len()).filter(|at| jobs.get(*at).is_some_and(|j| !j.message.media_only)).collect();
    let excess = texts.len().saturating_sub(MAX_BATCH);
    excess.checked_sub(1).and_then(|at| texts.get(at)).map_or(0, |at| at + 1)
}
