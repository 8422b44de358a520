//! Tells a sandbox's hub what cloud runs have used. A settlement is in the journal before the reply of its run is sent,
//! and stays there until the hub has it, refuses it, or a day is over; so it survives every end of the process. It is
//! told again with the same key, by which the hub knows it.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Value, json};

use crate::config::cloud::Cloud;
use crate::engine::cancel::{CancelReason, CancelToken};
use crate::engine::journal::{Journal, Record};
use crate::engine::ports::TurnHook;
use crate::engine::settle::Settlement;
use crate::link::botcord_control::settle::{self, Fate, PATIENCE_MS, Post};
use crate::net::http::{Body, Http, Request, read_all};
use crate::thread;
use crate::time::now_ms;

/// Prefix of the notes' keys; the run's id follows.
const NOTE: &str = "settle:";
/// Settlements that wait; what comes beyond them is tried once and not kept.
const MOST: usize = 4_096;
/// For one request.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes.
const ANSWER_LIMIT: u64 = 16 << 10;
/// How long the end waits for what was never tried.
const FLUSH: Duration = Duration::from_secs(2);

/// Settles runs. Clones are the same.
#[derive(Clone)]
pub(super) struct Settler {
    shared: Arc<Shared>,
}

struct Shared {
    journal: Journal,
    cloud: Cloud,
    http: Http,
    /// Ends a request that is under way.
    stop: CancelToken,
    /// Woken when there is something new, or the hub is well again.
    poke: Sender<()>,
    waiting: Mutex<Vec<Waiting>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A settlement that the hub does not have for certain.
#[derive(Clone)]
struct Waiting {
    run: String,
    path: String,
    body: Value,
    /// When its run was over.
    at: i64,
    attempts: usize,
    due: Instant,
}

impl Settler {
    /// Goes on with what the journal knows.
    pub(super) fn start(journal: &Journal, cloud: &Cloud) -> io::Result<Self> {
        let kept = journal.view(|ledger| {
            ledger.notes(NOTE).map(|(key, note)| (key[NOTE.len()..].to_owned(), note.value.clone())).collect::<Vec<_>>()
        });
        let waiting: Vec<Waiting> = kept.into_iter().filter_map(|(run, value)| Waiting::read(run, &value)).collect();
        if !waiting.is_empty() {
            log::info!("settle.kept runs={}", waiting.len());
        }
        let (poke, pokes) = bounded(1);
        let shared = Arc::new(Shared {
            journal: journal.clone(),
            cloud: cloud.clone(),
            http: Http::new(),
            stop: CancelToken::new()?,
            poke,
            waiting: Mutex::new(waiting),
            thread: Mutex::default(),
        });
        let works = Arc::clone(&shared);
        let thread = thread::spawn("settle", move || works.work(&pokes))?;
        *shared.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(Self { shared })
    }

    /// The hub is there (again): what waits is tried now.
    pub(super) fn hub_is_there(&self) {
        self.shared.lock().iter_mut().for_each(|waiting| waiting.due = Instant::now());
        self.shared.wake();
    }

    /// Waits a moment for what has not been tried yet, and ends. What the hub does not have waits for the next start.
    pub(super) fn stop(&self) {
        let end = Instant::now() + FLUSH;
        while Instant::now() < end && self.shared.lock().iter().any(|waiting| waiting.attempts == 0) {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.shared.stop.cancel(CancelReason::Shutdown);
        self.shared.wake();
        let thread = self.shared.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("settle.panicked");
        }
    }
}

impl TurnHook for Settler {
    fn settle(&self, settlement: &Settlement) {
        let shared = &self.shared;
        let new = Waiting {
            run: settlement.run_id.clone(),
            path: settlement.path.clone(),
            body: settlement.body.document(),
            at: now_ms(),
            attempts: 0,
            due: Instant::now(),
        };
        {
            let mut waiting = shared.lock();
            if waiting.iter().any(|known| known.run == new.run) {
                // A crash had the turn run again. What was told first may be on its way.
                return;
            }
            if waiting.len() >= MOST {
                log::error!("settle.not_kept run={:?} waiting={}", new.run, waiting.len());
                return;
            }
            waiting.push(new.clone());
        }
        let record = Record::Note { key: format!("{NOTE}{}", new.run), value: new.note() };
        if let Err(e) = shared.journal.append(record).wait() {
            log::error!("settle.not_durable run={:?} error={e}", new.run);
        }
        shared.wake();
    }
}

impl Waiting {
    fn note(&self) -> Value {
        json!({"path": self.path, "body": self.body, "at": self.at})
    }

    fn read(run: String, note: &Value) -> Option<Self> {
        let (path, at) = (note["path"].as_str()?.to_owned(), note["at"].as_i64()?);
        Some(Self { run, path, body: note["body"].clone(), at, attempts: 0, due: Instant::now() })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        let _ = self.poke.try_send(());
    }

    /// The thread: sleeps until something is due.
    fn work(&self, pokes: &Receiver<()>) {
        while !self.stop.is_cancelled() {
            let next = self.lock().iter().min_by_key(|waiting| waiting.due).cloned();
            match next {
                Some(next) if next.due <= Instant::now() => self.attempt(&next),
                Some(next) => drop(pokes.recv_deadline(next.due)),
                None => drop(pokes.recv()),
            }
        }
    }

    fn attempt(&self, waiting: &Waiting) {
        let post = settle::post(&self.cloud.hub(), &self.cloud.access_token, &waiting.path, waiting.body.clone());
        let (fate, why, asked) = match self.send(&post) {
            Ok((status, asked)) => (settle::fate(status), format!("HTTP {status}"), asked),
            Err(why) => (Fate::Again, why, None),
        };
        let run = &waiting.run;
        let attempts = waiting.attempts + 1;
        let delay = Duration::from_millis(settle::delay_ms(attempts, asked));
        match fate {
            Fate::Settled => log::info!("settle.done run={run:?} attempts={attempts}"),
            Fate::Refused => log::warn!("settle.refused run={run:?} error={why:?}"),
            Fate::Again if now_ms() - waiting.at >= PATIENCE_MS => {
                log::error!("settle.given_up run={run:?} attempts={attempts} error={why:?}");
            }
            Fate::Again => {
                if !self.stop.is_cancelled() {
                    log::warn!("settle.again run={run:?} in_ms={} error={why:?}", delay.as_millis());
                }
                if let Some(known) = self.lock().iter_mut().find(|known| known.run == *run) {
                    (known.attempts, known.due) = (attempts, Instant::now() + delay);
                }
                return;
            }
        }
        self.lock().retain(|known| known.run != *run);
        drop(self.journal.append(Record::Forget { key: format!("{NOTE}{run}") }));
    }

    /// The status of the answer, and how many seconds the hub wants to be left alone.
    fn send(&self, post: &Post) -> Result<(u16, Option<u64>), String> {
        let body = post.body.to_string();
        let headers = [0, 1].map(|n: usize| (post.headers[n].0, post.headers[n].1.as_str()));
        let request = Request {
            method: "POST",
            url: &post.url,
            headers: &headers,
            body: Body::Bytes(body.as_bytes()),
            limit: LIMIT,
        };
        let mut text = Vec::new();
        let sent = self.http.send(request, self.stop.as_fd(), &mut |_, body| read_all(body, ANSWER_LIMIT, &mut text));
        let answer = sent.map_err(|e| e.to_string())?;
        Ok((answer.status, answer.header("retry-after").and_then(|text| text.trim().parse().ok())))
    }
}
