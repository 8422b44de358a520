//! Where the tests of crashes have the process die: at a given change of the disk. Exists in builds with debug
//! assertions only; what people install has nothing of it.
//!
//! `BELLHOP_TEST_DIE` names a file. As long as it is there, changes are counted, and the process kills itself before the
//! one whose number the file holds (from 1).

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Signal, getpid, kill_process};

fn mark() -> Option<&'static PathBuf> {
    static MARK: OnceLock<Option<PathBuf>> = OnceLock::new();
    MARK.get_or_init(|| std::env::var_os("BELLHOP_TEST_DIE").map(PathBuf::from)).as_ref()
}

/// Counts a change; says whether it is the one before which the process is to die.
pub(super) fn is_last() -> bool {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some(mark) = mark() else { return false };
    let number = fs::read_to_string(mark).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let Some(number) = number else {
        COUNT.store(0, Ordering::SeqCst);
        return false;
    };
    COUNT.fetch_add(1, Ordering::SeqCst) + 1 == number
}

/// The end, as `kill -9` brings it.
pub(super) fn die() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    loop {
        std::thread::park();
    }
}
