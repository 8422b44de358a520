//! A TCP connection that can be given up at any moment: nothing in here waits longer than `poll(2)` is told to. Names
//! are looked up on a thread of their own, which may outlive the question.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};
use rustix::pipe::PipeFlags;

/// The longest that one address of several is tried for.
const ADDRESS_LIMIT: Duration = Duration::from_secs(5);

/// Stack of the thread that looks a name up.
const STACK: usize = 256 << 10;

/// Why there is no connection.
#[derive(Debug)]
pub enum DialError {
    /// The name is unknown.
    Name(io::Error),
    /// No address took the connection; the last one's reason.
    Connect(io::Error),
    /// The time ran out.
    TimedOut,
    /// Somebody wanted it to end.
    Aborted,
}

/// Connects to the first address that takes it, without delay of small packets. The stream does not block. `abort`:
/// readable when it is not wanted any more.
pub fn dial(host: &str, port: u16, end: Instant, abort: BorrowedFd<'_>) -> Result<TcpStream, DialError> {
    // Brackets belong to the URL, not to the address.
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let addresses = look_up(host, port, end, abort)?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for (n, address) in addresses.iter().enumerate() {
        let only = n + 1 == addresses.len();
        let until = if only { end } else { end.min(Instant::now() + ADDRESS_LIMIT) };
        match try_address(*address, until, abort) {
            Ok(stream) => return Ok(stream),
            Err(DialError::Connect(e)) => last = e,
            Err(DialError::TimedOut) if !only && Instant::now() < end => last = io::ErrorKind::TimedOut.into(),
            Err(other) => return Err(other),
        }
    }
    Err(DialError::Connect(last))
}

/// The addresses of a host.
fn look_up(host: &str, port: u16, end: Instant, abort: BorrowedFd<'_>) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let name = |e: io::Error| DialError::Name(e);
    let (ended, end_of_thread) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| name(e.into()))?;
    let (sender, found) = crossbeam_channel::bounded(1);
    let host = host.to_owned();
    let search = move || {
        let addresses = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        let _ = sender.send(addresses);
        // Closed, the other end is readable.
        drop(end_of_thread);
    };
    thread::Builder::new().name("names".into()).stack_size(STACK).spawn(search).map_err(name)?;
    wait(ended.as_fd(), PollFlags::IN, end, abort)?;
    found.try_recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())).map_err(name)
}

fn try_address(address: SocketAddr, end: Instant, abort: BorrowedFd<'_>) -> Result<TcpStream, DialError> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let failed = |e: rustix::io::Errno| DialError::Connect(e.into());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(failed)?;
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        Err(rustix::io::Errno::INPROGRESS | rustix::io::Errno::INTR) => {
            wait(socket.as_fd(), PollFlags::OUT, end, abort)?;
            sockopt::socket_error(&socket).and_then(|state| state).map_err(failed)?;
        }
        Err(e) => return Err(failed(e)),
    }
    Ok(TcpStream::from(socket))
}

/// Sleeps until `socket` is ready for one of `what`.
pub fn wait(socket: BorrowedFd<'_>, what: PollFlags, end: Instant, abort: BorrowedFd<'_>) -> Result<(), DialError> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(DialError::TimedOut);
        }
        let mut fds = [PollFd::new(&socket, what), PollFd::new(&abort, PollFlags::IN)];
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(DialError::Connect(e.into())),
        }
        if !fds[1].revents().is_empty() {
            return Err(DialError::Aborted);
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cancel::{CancelReason, CancelToken};
    use std::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn names_and_addresses_are_both_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let abort = CancelToken::new().unwrap();
        for host in ["localhost", "127.0.0.1"] {
            dial(host, port, Instant::now() + LIMIT, abort.as_fd()).unwrap();
        }
        let unknown = dial("no.such.name.invalid", port, Instant::now() + LIMIT, abort.as_fd());
        assert!(matches!(unknown, Err(DialError::Name(_))), "{unknown:?}");
    }

    #[test]
    fn what_is_not_wanted_is_not_looked_up() {
        let abort = CancelToken::new().unwrap();
        abort.cancel(CancelReason::Shutdown);
        let aborted = dial("localhost", 1, Instant::now() + LIMIT, abort.as_fd());
        assert!(matches!(aborted, Err(DialError::Aborted)), "{aborted:?}");
        let late = dial("localhost", 1, Instant::now(), CancelToken::new().unwrap().as_fd());
        assert!(matches!(late, Err(DialError::TimedOut)), "{late:?}");
    }
}
