//! `daemon/snapshot.json`: what the daemon is doing, for readers that do not ask its socket.
//!
//! Written when something has changed, at most every five seconds, and every half minute while there is a far side, by a
//! thread that sleeps otherwise; once more at the end, and then removed: the file of a process that is not there was left
//! by a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, after, bounded, never, select_biased};
use serde::Serialize;
use serde_json::Value;

use super::control_link::LinkSlot;
use crate::channel::manager::ChannelStatus;
use crate::engine::breaker::BreakerState;
use crate::engine::{Engine, RunningTurn, now_ms};
use crate::store::{self, RealDisk};
use crate::thread;

/// Shortest time between two versions of the file, unless `BOTCORD_DAEMON_SNAPSHOT_INTERVAL_MS` says otherwise.
const PERIOD: Duration = Duration::from_secs(5);
/// Longest time between two versions, in shortest ones, while there is a far side: readers take an older file for that of a
/// daemon that hangs. One that has none, and so nothing else to do, writes only news.
const BEAT: u32 = 6;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    version: u32,
    written_at: i64,
    snapshot: Snapshot,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Snapshot {
    channels: BTreeMap<String, ChannelStatus>,
    turns: BTreeMap<String, TurnEntry>,
    runtime_circuit_breakers: BTreeMap<String, BreakerState>,
    queues: BTreeMap<String, QueueEntry>,
    journal: JournalEntry,
    /// The control socket of the hub.
    #[serde(skip_serializing_if = "Value::is_null")]
    control: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TurnEntry {
    key: String,
    channel: String,
    account_id: String,
    conversation_id: String,
    runtime: String,
    cwd: PathBuf,
    started_at: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QueueEntry {
    buffered: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    parked_until: Option<i64>,
    /// Files without a word, and messages that wait for a login.
    deferred_media: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JournalEntry {
    entries: usize,
    outbox: usize,
    bytes: u64,
    writable: bool,
}

/// Says that something has changed. Clones poke the same snapshot.
#[derive(Clone)]
pub(super) struct Poke {
    tx: Sender<()>,
}

impl Poke {
    /// Never waits: a change that is known already needs no second word.
    pub(super) fn poke(&self) {
        if let Err(TrySendError::Disconnected(())) = self.tx.try_send(()) {
            log::trace!("snapshot.over");
        }
    }
}

/// The thread that writes the file.
pub(super) struct Snapshots {
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

/// What the file is made from.
pub(super) type Statuses = Arc<dyn Fn() -> BTreeMap<String, ChannelStatus> + Send + Sync>;

/// A poke and its other end, to be made before what pokes.
pub(super) fn poke() -> (Poke, Receiver<()>) {
    let (tx, rx) = bounded(1);
    (Poke { tx }, rx)
}

impl Snapshots {
    /// Starts the thread; the first version is written at once.
    pub(super) fn start(
        path: PathBuf,
        engine: Engine,
        statuses: Statuses,
        link: Arc<LinkSlot>,
        pokes: Receiver<()>,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let period = period(std::env::var("BOTCORD_DAEMON_SNAPSHOT_INTERVAL_MS").ok().as_deref());
        let run = move || {
            let mut broken = BTreeSet::new();
            let mut write = || {
                let (now, has_far_side) = write(&path, &engine, &statuses, &link);
                if now != broken {
                    broken = now;
                    link.tell_runtimes();
                }
                has_far_side
            };
            loop {
                let beat = if write() { after(period * BEAT) } else { never() };
                // Not before the period is over, and then not before there is news.
                if !is_over(&stopped, period) && wait(&stopped, &pokes, &beat) {
                    continue;
                }
                write();
                if let Err(e) = std::fs::remove_file(&path) {
                    log::warn!("snapshot.not_removed error={e}");
                }
                return;
            }
        };
        let thread = thread::spawn("snapshot", run)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Writes the last version and removes it.
    pub(super) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Dropping the sender is what ends the thread.
        let (closed, _) = bounded(0);
        self.stop = closed;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("snapshot.panic");
        }
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sleeps; returns whether it was woken because all is over.
fn is_over(stopped: &Receiver<()>, period: Duration) -> bool {
    !matches!(stopped.recv_timeout(period), Err(crossbeam_channel::RecvTimeoutError::Timeout))
}

/// Waits for news, or the time to write without any; false when all is over.
fn wait(stopped: &Receiver<()>, pokes: &Receiver<()>, beat: &Receiver<Instant>) -> bool {
    select_biased! {
        recv(stopped) -> _ => false,
        recv(pokes) -> poke => poke.is_ok(),
        recv(beat) -> _ => true,
    }
}

/// A finite number of milliseconds above zero; anything else means the default.
fn period(given: Option<&str>) -> Duration {
    let ms = given.and_then(|ms| ms.trim().parse::<f64>().ok()).filter(|ms| ms.is_finite() && *ms > 0.0);
    ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1_000.0).ok()).unwrap_or(PERIOD)
}

/// Writes the file; returns the keys of broken circuits, and whether there is any far side.
fn write(path: &std::path::Path, engine: &Engine, statuses: &Statuses, link: &LinkSlot) -> (BTreeSet<String>, bool) {
    let (status, channels, control) = (engine.status(), statuses(), link.state());
    let has_far_side = !channels.is_empty() || !control.is_null();
    let broken = status.breakers.iter().map(|b| b.key.clone()).collect();
    let turn = |t: RunningTurn| TurnEntry {
        key: t.key,
        channel: t.channel,
        account_id: t.agent,
        conversation_id: t.conversation,
        runtime: t.runtime,
        cwd: t.cwd,
        started_at: t.started_at,
    };
    let document = Document {
        version: 1,
        written_at: now_ms(),
        snapshot: Snapshot {
            channels,
            turns: crate::sort::map(status.turns.into_iter().map(|t| (t.key.clone(), turn(t)))),
            runtime_circuit_breakers: crate::sort::map(status.breakers.into_iter().map(|b| (b.key.clone(), b))),
            queues: crate::sort::map(status.queues.into_iter().map(|(key, q)| {
                let entry =
                    QueueEntry { buffered: q.buffered, parked_until: q.parked_until, deferred_media: q.set_aside };
                (key, entry)
            })),
            journal: JournalEntry {
                entries: status.journal.entries,
                outbox: status.journal.outbox,
                bytes: status.journal.segment_bytes,
                writable: status.journal.state == crate::engine::journal::JournalState::Open,
            },
            control,
        },
    };
    if let Err(e) = store::write_json(&RealDisk, path, &document) {
        log::warn!("snapshot.failed error={e}");
    }
    (broken, has_far_side)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_period_is_a_number_above_zero() {
        for bad in [None, Some(""), Some("x"), Some("0"), Some("-5"), Some("inf"), Some("1e300")] {
            assert_eq!(period(bad), PERIOD, "{bad:?}");
        }
        assert_eq!(period(Some("250")), Duration::from_millis(250));
    }
}
