//! CLIs that stay after their last word.
//!
//! The reply is there when the terminal event comes; Claude Code, for one, may then wait seconds for
//! background tasks. Such a process is watched by a thread of its own while the reply goes out. It is stopped
//! when it has not ended in time, when its session is resumed (two processes on one session lose turns), and
//! when the daemon shuts down.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::engine::cancel::{CancelReason, CancelToken};
use crate::runtime::process::{Driven, Handler, Io, Process};
use crate::thread;

/// The processes of one runtime that have given their reply and not ended yet.
#[derive(Default)]
pub struct Lingering {
    list: Mutex<Vec<Entry>>,
}

struct Entry {
    session: String,
    stop: CancelToken,
    thread: JoinHandle<()>,
}

/// Nothing that is said after the end of the turn counts.
struct Deaf;

impl Handler for Deaf {
    fn line(&mut self, _: &str, _: &mut Io) {}
}

impl Lingering {
    /// Watches a process until it ends; its limit is already set. Without a thread to spare it is killed.
    pub fn watch(&self, mut process: Process, turn: &str, session: &str) {
        let Ok(stop) = CancelToken::new() else { return };
        process.work_is_done();
        let token = stop.clone();
        let turn = turn.to_owned();
        let name = format!("linger:{turn}");
        let watched = thread::spawn(name, move || {
            while process.drive(&token, &mut Deaf) == Driven::Paused {}
            process.finish();
            log::debug!("runtime.lingered turn={turn}");
        });
        match watched {
            Ok(thread) => {
                let mut list = self.lock();
                list.retain(|entry| !entry.thread.is_finished());
                list.push(Entry { session: session.to_owned(), stop, thread });
            }
            Err(e) => log::warn!("runtime.linger_failed error={e}"),
        }
    }

    /// Stops what still holds this session, and waits for its end.
    pub fn end_session(&self, session: &str) {
        self.end(|entry| entry.session == session);
    }

    /// Stops everything, and waits for its end.
    pub fn end_all(&self) {
        self.end(|_| true);
    }

    fn end(&self, which: impl Fn(&Entry) -> bool) {
        let ending: Vec<Entry> = self.lock().extract_if(.., |entry| which(entry)).collect();
        for entry in &ending {
            entry.stop.cancel(CancelReason::Shutdown);
        }
        for entry in ending {
            // A panic of that thread has been reported by its own hook; the process is gone either way.
            let _ = entry.thread.join();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
