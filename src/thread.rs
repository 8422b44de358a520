//! Threads: each has a name and a bounded stack. Knows nobody.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Stack of a thread unless it needs more, in bytes.
pub const STACK: usize = 256 * 1024;

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
