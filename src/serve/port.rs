//! `GET /metrics` on a TCP port of this machine, for programs that cannot open a Unix socket.
//!
//! Nothing else is served here. One connection at a time, each for one request within the limits of [`Limits`]: who
//! scrapes asks seldom, and who does not ask properly keeps nobody waiting for long.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::api::{Control, metrics};
use super::conn::{Conn, Incoming};
use super::http::{Answer, Limits, Request, shown};
use super::wire::{ErrorKind, Failure};
use crate::thread;

/// Pause when connections cannot be accepted.
const PAUSE: Duration = Duration::from_millis(200);

/// The running port. Dropping it closes it.
pub struct MetricsPort {
    address: SocketAddr,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsPort {
    /// Listens at `address`, which has to be one of this machine only. The error names it.
    pub fn start(address: SocketAddr, control: Arc<dyn Control>) -> io::Result<Self> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("metrics at {address}: {e}"));
        if !address.ip().is_loopback() {
            return Err(named(io::Error::new(io::ErrorKind::InvalidInput, "not an address of this machine only")));
        }
        let listener = TcpListener::bind(address).map_err(named)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let stopped = Arc::clone(&stop);
        let serve = move || accept(&listener, &stopped, &*control);
        let thread = thread::spawn("metrics", serve)?;
        log::info!("serve.metrics address={address}");
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsPort {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, stop: &Arc<OwnedFd>, control: &dyn Control) {
    loop {
        let mut fds = [PollFd::new(&**stop, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        if let Err(e) = poll(&mut fds, None)
            && e != rustix::io::Errno::INTR
        {
            log::error!("serve.metrics.poll error={e}");
            std::thread::sleep(PAUSE);
        }
        if !fds[0].revents().is_empty() {
            return;
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) => {
                if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
                    log::warn!("serve.metrics.accept error={e}");
                    std::thread::sleep(PAUSE);
                }
                continue;
            }
        };
        if stream.set_nonblocking(true).is_err() {
            continue;
        }
        let mut conn = Conn::new(stream, Arc::clone(stop), Limits::default());
        match conn.next_request() {
            Incoming::Request(request) => {
                let answer = catch_unwind(AssertUnwindSafe(|| answer(&request, control))).unwrap_or_else(|_| {
                    Answer::failure(&Failure::new(ErrorKind::Internal, "the daemon failed at this request"))
                });
                let _ = conn.write(&answer.to_bytes(false, request.method != "HEAD"));
            }
            Incoming::Refused(failure) => conn.refuse(&failure),
            Incoming::Closed => {}
        }
    }
}

fn answer(request: &Request, control: &dyn Control) -> Answer {
    match (request.method.as_str(), request.path()) {
        ("GET" | "HEAD", "/metrics") => metrics(control),
        (method, "/metrics") => {
            let message = format!("/metrics takes GET, not {}", shown(method));
            Answer { allow: Some("GET"), ..Answer::failure(&Failure::new(ErrorKind::MethodNotAllowed, message)) }
        }
        (_, path) => {
            let message = format!("there is no path {} at this port, only /metrics", shown(path));
            Answer::failure(&Failure::new(ErrorKind::NotFound, message))
        }
    }
}
