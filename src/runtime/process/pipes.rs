//! Our ends of a child's pipes. They do not block.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::lines::Lines;
use super::tail::Tail;

/// Bytes that are read from one pipe between two looks at the cancel token.
pub(super) const CHUNK: usize = 64 * 1024;

/// Chunks that are read at most when a pipe is given up while an orphan still holds it. The largest pipe
/// that Linux lets a user have holds 1 MiB.
const LAST_CHUNKS: usize = 16;

/// Most bytes that wait for a child to read them, of what handlers write. A child that does not read its
/// stdin for so long is broken; its stdin is closed.
pub(super) const MAX_QUEUED: usize = 64 * 1024 * 1024;

/// Standard output or error of a child.
pub(super) struct Source {
    pipe: Option<OwnedFd>,
    pub(super) lines: Lines,
    pub(super) tail: Tail,
}

impl Source {
    pub(super) fn new(pipe: Option<OwnedFd>) -> Self {
        let mut source = Self { pipe, lines: Lines::default(), tail: Tail::default() };
        if source.pipe.is_none() {
            source.lines.end();
        }
        source
    }

    /// The pipe, until its end.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads at most one chunk; returns how many bytes came.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> usize {
        let Some(pipe) = &self.pipe else { return 0 };
        match rustix::io::read(pipe, &mut *buf) {
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Ok(0) | Err(_) => {
                self.close();
                0
            }
            Ok(len) => {
                let chunk = &buf[..len];
                self.tail.push(chunk);
                self.lines.push(chunk);
                len
            }
        }
    }

    /// Reads what is in the pipe, then lets it go, whoever may still hold its other end.
    pub(super) fn let_go(&mut self, buf: &mut [u8]) {
        for _ in 0..LAST_CHUNKS {
            if self.read(buf) == 0 {
                break;
            }
        }
        self.close();
    }

    fn close(&mut self) {
        self.pipe = None;
        self.lines.end();
    }
}

/// Standard input of a child: a queue that is written as the pipe takes it.
pub(super) struct Sink {
    pipe: Option<OwnedFd>,
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first queued piece that are written already.
    written: usize,
    queued: usize,
    closing: bool,
}

impl Sink {
    pub(super) fn new(pipe: Option<OwnedFd>) -> Self {
        Self { pipe, queue: VecDeque::new(), written: 0, queued: 0, closing: false }
    }

    /// The pipe, while there is something to write.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        if self.queue.is_empty() { None } else { self.pipe.as_ref().map(AsFd::as_fd) }
    }

    /// Queues a piece, whatever its size. Nothing happens once the pipe is closed or closing.
    pub(super) fn push(&mut self, piece: Vec<u8>) {
        if self.pipe.is_none() || self.closing || piece.is_empty() {
            return;
        }
        self.queued += piece.len();
        self.queue.push_back(piece);
    }

    /// Whether more is waiting than [`MAX_QUEUED`].
    pub(super) fn is_stuck(&self) -> bool {
        self.queued > MAX_QUEUED
    }

    /// Closes the pipe once everything queued is written.
    pub(super) fn close_after_queue(&mut self) {
        self.closing = true;
        if self.queue.is_empty() {
            self.close();
        }
    }

    /// Closes the pipe now.
    pub(super) fn close(&mut self) {
        self.pipe = None;
        self.queue.clear();
        self.written = 0;
        self.queued = 0;
    }

    /// Writes as much as the pipe takes, at most one chunk. A child that has closed its stdin is no error.
    pub(super) fn write(&mut self) {
        let (Some(pipe), Some(piece)) = (&self.pipe, self.queue.front()) else { return };
        let rest = piece.get(self.written..).unwrap_or_default();
        match rustix::io::write(pipe, &rest[..rest.len().min(CHUNK)]) {
            Ok(len) => {
                self.written += len;
                self.queued -= len.min(self.queued);
            }
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => return self.close(),
        }
        if self.written >= piece.len() {
            self.queue.pop_front();
            self.written = 0;
        }
        if self.closing && self.queue.is_empty() {
            self.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn pipe() -> (std::io::PipeReader, OwnedFd) {
        let (reader, writer) = std::io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        (reader, writer)
    }

    #[test]
    fn pieces_arrive_in_order_and_then_the_end() {
        let (mut reader, writer) = pipe();
        let mut sink = Sink::new(Some(writer));
        sink.push(b"one ".to_vec());
        sink.push(Vec::new());
        sink.push(vec![b'x'; 300_000]);
        sink.close_after_queue();
        sink.push(b"too late".to_vec());
        let read = std::thread::spawn(move || {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).unwrap();
            text
        });
        while sink.fd().is_some() {
            sink.write();
            std::thread::yield_now();
        }
        let text = read.join().unwrap();
        assert!(text.starts_with(b"one xx"));
        assert_eq!(text.len(), 300_004);
    }

    #[test]
    fn a_reader_that_goes_away_closes_the_sink() {
        let (reader, writer) = pipe();
        let mut sink = Sink::new(Some(writer));
        sink.push(b"x".to_vec());
        drop(reader);
        sink.write();
        assert!(sink.fd().is_none());
        sink.push(b"y".to_vec());
        assert!(sink.fd().is_none());
    }

    #[test]
    fn a_queue_that_nobody_reads_is_noticed() {
        let (_reader, writer) = pipe();
        let mut sink = Sink::new(Some(writer));
        for _ in 0..65 {
            sink.push(vec![0; 1024 * 1024]);
            sink.write();
        }
        assert!(sink.is_stuck());
    }
}
