//! What a service manager is told: readiness, state, life.
//!
//! systemd's protocol is one datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names (`sd_notify(3)`);
//! s6's is a line feed to a descriptor that the run script chose. Both are best effort: whoever supervises decides
//! what silence means.

use std::fs::File;
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest state that is shown, in characters.
const STATUS_LIMIT: usize = 200;
/// How long is waited for a manager that has no room for the word that it waits for, and how long for others.
const READY_LIMIT: Duration = Duration::from_mins(1);
const LIMIT: Duration = Duration::from_secs(1);
/// How often is tried meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// Who supervises this process. Without anybody every call does nothing.
#[derive(Debug, Default)]
pub(super) struct Supervisor {
    manager: Option<(UnixDatagram, SocketAddr)>,
    /// A sign of life is due at least so often.
    watchdog: Option<Duration>,
    /// Pipe on which readiness is told, once.
    ready: Mutex<Option<File>>,
}

impl Supervisor {
    /// Whoever the environment names; `ready` is the pipe for readiness, where there is one.
    pub(super) fn of_process(ready: Option<File>) -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let manager = variable("NOTIFY_SOCKET").and_then(|name| match connect(name.as_bytes()) {
            Ok(manager) => Some(manager),
            Err(e) => {
                log::warn!("supervisor.socket_failed error={e}");
                None
            }
        });
        let text = |name: &str| variable(name).and_then(|v| v.into_string().ok());
        let watchdog = match &manager {
            Some(_) => watchdog(text("WATCHDOG_USEC").as_deref(), text("WATCHDOG_PID").as_deref(), std::process::id()),
            None => None,
        };
        Self { manager, watchdog, ready: Mutex::new(ready) }
    }

    /// Whether anybody wants to know when the daemon is ready.
    pub(super) fn waits(&self) -> bool {
        self.manager.is_some() || self.pipe().is_some()
    }

    /// How often to look after the loops and to say so: twice in each interval. `None`: nobody watches.
    pub(super) fn every(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// The journal is replayed, messages are taken.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", one_line(status)), READY_LIMIT);
        // s6 takes everything up to the first line feed; the end of the pipe closes it.
        if let Some(mut pipe) = self.pipe().take()
            && let Err(e) = pipe.write_all(b"\n")
        {
            log::warn!("supervisor.ready_pipe_failed error={e}");
        }
    }

    fn pipe(&self) -> MutexGuard<'_, Option<File>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it does now, for people.
    pub(super) fn status(&self, status: &str) {
        self.tell(&format!("STATUS={}", one_line(status)), Duration::ZERO);
    }

    /// It lives.
    pub(super) fn alive(&self, status: &str) {
        self.tell(&format!("WATCHDOG=1\nSTATUS={}", one_line(status)), LIMIT);
    }

    /// It ends.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=waiting for running turns", LIMIT);
    }

    fn tell(&self, text: &str, limit: Duration) {
        let Some((socket, address)) = &self.manager else { return };
        let end = Instant::now() + limit;
        while let Err(e) = socket.send_to_addr(text.as_bytes(), address) {
            // What others have told it fills its queue: it is asked to read that by and by.
            if e.kind() != io::ErrorKind::WouldBlock || Instant::now() >= end {
                log::warn!("supervisor.unreachable error={e}");
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// A socket for datagrams to `name`: a path, or after `@` an abstract name.
fn connect(name: &[u8]) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "NOTIFY_SOCKET is neither a path nor @name")),
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read holds up the daemon for as long as the limits say, and no longer.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// The interval of `WATCHDOG_USEC`, unless `WATCHDOG_PID` says that another process is meant (`sd_watchdog_enabled(3)`).
fn watchdog(usec: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    usec?.parse().ok().filter(|usec| *usec > 0).map(Duration::from_micros)
}

fn one_line(text: &str) -> String {
    text.chars().take(STATUS_LIMIT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_for_the_process_it_names() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog(Some("1000000"), None, 7), second);
        assert_eq!(watchdog(Some("1000000"), Some("7"), 7), second);
        assert_eq!(watchdog(Some("1000000"), Some("8"), 7), None);
        assert_eq!(watchdog(Some("0"), None, 7), None);
        assert_eq!(watchdog(Some("soon"), None, 7), None);
        assert_eq!(watchdog(None, None, 7), None);
    }

    #[test]
    fn a_state_is_one_bounded_line() {
        assert_eq!(one_line("a\nREADY=1"), "a READY=1");
        assert_eq!(one_line(&"é".repeat(300)).chars().count(), STATUS_LIMIT);
    }

    #[test]
    fn a_manager_that_has_no_room_at_the_moment_hears_of_readiness_later() {
        let dir = crate::store::tests::TempDir::new();
        let path = dir.0.join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let ours = connect(path.as_os_str().as_bytes()).unwrap();
        while ours.0.send_to_addr(b"of somebody else", &ours.1).is_ok() {}
        let supervisor = Supervisor { manager: Some(ours), ..Supervisor::default() };
        let heard = std::thread::scope(|scope| {
            let telling = scope.spawn(|| supervisor.ready("x"));
            // A word that was given up at once would be over by now.
            std::thread::sleep(PAUSE * 10);
            let mut heard = Vec::new();
            let mut buffer = [0; 256];
            loop {
                let is_over = telling.is_finished();
                match manager.recv(&mut buffer) {
                    Ok(size) => heard.push(String::from_utf8_lossy(&buffer[..size]).into_owned()),
                    Err(_) if is_over => break,
                    Err(_) => std::thread::yield_now(),
                }
            }
            heard
        });
        assert_eq!(heard.iter().filter(|text| text.starts_with("READY=1\n")).count(), 1, "{}", heard.len());
    }

    #[test]
    fn a_socket_has_a_path_or_an_abstract_name() {
        assert!(connect(b"@bellhop-test").is_ok());
        assert!(connect(b"/run/systemd/notify").is_ok());
        assert!(connect(b"relative").is_err());
        assert!(connect(b"").is_err());
    }
}
