//! Memory that is free goes back to the system.
//!
//! The C library of most Linux systems keeps up to eight heaps per core for the sake of programs that allocate all the
//! time on many threads. A daemon that starts a few threads for each turn, on a small machine, only fills them with
//! holes: a long life costs it twice the memory. The library is told through a variable that it reads before anything
//! else runs, so the program has to start once more with it. Knows nobody.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::Command;

const VARIABLE: &str = "GLIBC_TUNABLES";
/// Two heaps; buffers of 128 KiB and more are given back at once.
const VALUE: &str = "glibc.malloc.arena_max=2:glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072";

/// Starts this program once more, in the same process and with the same arguments, unless the variable is set already.
/// Returns where that is so, or where it cannot be done: nothing depends on it.
pub fn be_frugal() {
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let mut args = std::env::args_os();
    let (Some(name), Ok(program)) = (args.next(), std::env::current_exe()) else { return };
    // Comes back only with an error.
    let error = Command::new(program).arg0(name).args(args).env(VARIABLE, VALUE).exec();
    log::debug!("heap.not_frugal error={error}");
}

/// Whether a variable is ours alone: children have their own ways with memory.
pub fn is_private(name: &OsStr, value: &OsStr) -> bool {
    name == VARIABLE && value == VALUE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_value_is_kept_from_children() {
        assert!(is_private(OsStr::new(VARIABLE), OsStr::new(VALUE)));
        assert!(!is_private(OsStr::new(VARIABLE), OsStr::new("glibc.malloc.arena_max=1")));
        assert!(!is_private(OsStr::new("OTHER"), OsStr::new(VALUE)));
    }
}
