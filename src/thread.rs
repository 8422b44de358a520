//! Threads: each has a name and a bounded stack. Knows nobody.
//!
//! Errands are short, and come many at a time: a turn has half a dozen. The threads that run them wait a moment for the
//! next one, since to make a thread and to end it costs more than many an errand. One that comes alone, as those of an idle
//! daemon do, is not followed by another: its thread ends with it, rather than wake up once more for nothing.

use std::ffi::CString;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Stack of a thread unless it needs less, in bytes. Most threads read what somebody else has written, and parsers recurse
/// over JSON of up to 128 levels; without optimisation each level takes several times as much. What is not touched is no
/// memory.
pub const STACK: usize = if cfg!(debug_assertions) { 1024 * 1024 } else { 512 * 1024 };
/// Threads that wait for an errand; those above it end.
const MAX_IDLE: usize = 16;
/// How long each of them waits.
const KEEP: Duration = Duration::from_secs(2);

/// Starts a thread with [`STACK`].
pub fn spawn(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    start(name.into(), STACK, Box::new(run))
}

/// Starts a thread with a stack of so many bytes.
pub fn spawn_sized(
    name: impl Into<String>,
    stack: usize,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    start(name.into(), stack, Box::new(run))
}

/// Boxed, so that what the standard library does around a thread is in the program once.
fn start(name: String, stack: usize, run: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name).stack_size(stack).spawn(run)
}

type Work = Box<dyn FnOnce() + Send>;

/// Where a thread waits for its next errand.
#[derive(Default)]
struct Seat {
    work: Mutex<Option<(String, Work)>>,
    taken: Condvar,
}

/// Threads without an errand, the one that has waited longest first.
static IDLE: Mutex<Vec<Arc<Seat>>> = Mutex::new(Vec::new());
/// When a thread was made for an errand last.
static MADE: Mutex<Option<Instant>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs something under this name on a thread that waits for work, else on a new one. Nobody can wait for its end; one
/// that panics takes its thread along.
pub fn errand(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    hand_over(name.into(), Box::new(run))
}

fn hand_over(name: String, work: Work) -> io::Result<()> {
    let idle = lock(&IDLE).pop();
    let Some(seat) = idle else {
        let comes_alone = lock(&MADE).replace(Instant::now()).is_none_or(|last| last.elapsed() > KEEP);
        let run: Work = if comes_alone { work } else { Box::new(move || serve(work)) };
        return start(name, STACK, run).map(drop);
    };
    *lock(&seat.work) = Some((name, work));
    seat.taken.notify_one();
    Ok(())
}

/// A thread of errands, from its first one on.
fn serve(first: Work) {
    let mut work = first;
    let seat = Arc::new(Seat::default());
    loop {
        work();
        {
            let mut idle = lock(&IDLE);
            if idle.len() >= MAX_IDLE {
                return;
            }
            idle.push(Arc::clone(&seat));
        }
        let Some((name, next)) = wait(&seat) else { return };
        rename(&name);
        work = next;
    }
}

/// The next errand, if one comes in time.
fn wait(seat: &Arc<Seat>) -> Option<(String, Work)> {
    let none = |work: &mut Option<(String, Work)>| work.is_none();
    let waited = seat.taken.wait_timeout_while(lock(&seat.work), KEEP, none);
    let (mut work, _) = waited.unwrap_or_else(PoisonError::into_inner);
    if work.is_some() {
        return work.take();
    }
    drop(work);
    {
        let mut idle = lock(&IDLE);
        if let Some(at) = idle.iter().position(|other| Arc::ptr_eq(other, seat)) {
            idle.remove(at);
            return None;
        }
    }
    // Somebody has taken it off the list just now: work is about to come.
    let work = seat.taken.wait_while(lock(&seat.work), none);
    work.unwrap_or_else(PoisonError::into_inner).take()
}

/// Gives this thread another name, as far as the system's 15 bytes go.
pub fn rename(name: &str) {
    let name: String = name.chars().filter(char::is_ascii_graphic).take(15).collect();
    if let Ok(name) = CString::new(name) {
        let _ = rustix::thread::set_name(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{bounded, unbounded};

    #[test]
    fn errands_run_at_the_same_time_under_their_names_and_on_threads_that_are_there() {
        let (done, ended) = unbounded();
        let (release, gate) = bounded::<()>(0);
        for n in 0..20 {
            let (done, gate) = (done.clone(), gate.clone());
            let run = move || {
                let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
                gate.recv().unwrap();
                done.send((n, name, std::thread::current().id())).unwrap();
            };
            errand(format!("errand-{n}"), run).unwrap();
        }
        for _ in 0..20 {
            // Nobody gets here before all wait: each has a thread of its own.
            release.send(()).unwrap();
        }
        let mut all: Vec<_> = ended.iter().take(20).collect();
        all.sort_by_key(|(n, ..)| *n);
        let threads: std::collections::HashSet<_> = all.iter().map(|(.., id)| *id).collect();
        assert_eq!(threads.len(), 20);
        for (n, (number, name, _)) in all.into_iter().enumerate() {
            assert_eq!((number, name.trim_end()), (n, format!("errand-{n}").as_str()));
        }
        assert!(lock(&IDLE).len() <= MAX_IDLE);
    }

    #[test]
    fn one_errand_after_another_and_one_that_panics_between() {
        let (done, ended) = unbounded();
        for n in 0..1_000 {
            let done = done.clone();
            errand("counts", move || done.send(n).unwrap()).unwrap();
            if n == 500 {
                errand("panics", || panic!("on purpose")).unwrap();
            }
            assert_eq!(ended.recv(), Ok(n));
        }
    }
}
