//! A TCP connection that can be given up at any moment: no system call in here waits longer than `poll(2)` is told to,
//! except the look-up of names.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

/// The longest that one address of several is tried for.
const ADDRESS_LIMIT: Duration = Duration::from_secs(5);

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
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(DialError::Name)?.collect();
    dial_any(&addresses, end, abort)
}

/// [`dial`] for a host whose addresses are known.
pub fn dial_any(addresses: &[SocketAddr], end: Instant, abort: BorrowedFd<'_>) -> Result<TcpStream, DialError> {
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
