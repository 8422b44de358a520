//! The byte stream below a socket: plain, or inside TLS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

/// A connection that does not block.
pub trait Stream: Read + Write + Send {
    /// What to sleep on.
    fn socket(&self) -> BorrowedFd<'_>;

    /// Whether bytes of its own wait to be written.
    fn wants_write(&self) -> bool {
        false
    }
}

impl Stream for TcpStream {
    fn socket(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}
