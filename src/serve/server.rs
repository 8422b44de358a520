//! The control socket's server: one thread that accepts, and a short-lived one for each connection.
//!
//! The acceptor sleeps in `poll(2)` on the listener and a stop descriptor; an idle server wakes nobody. All
//! limits are in [`Settings`]. Only the holder of the home's lock may start one: it replaces the socket file
//! that an earlier daemon has left.

use std::fs::{DirBuilder, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::api::{Control, Reply, respond};
use super::conn::{Conn, Incoming, time_until};
use super::follow::Follow;
use super::http::{Answer, Limits};
use super::wire::{ErrorKind, Failure};
use super::{socket, watch};
use crate::thread;

/// Pause of the acceptor when the process is out of descriptors or memory.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(200);

/// Limits of a server.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of one connection.
    pub http: Limits,
    /// Connections at a time; one more is answered with 503 at once (default 32).
    pub connections: usize,
    /// How many of them may be event streams (default 24).
    pub streams: usize,
    /// How often a quiet event stream gets a sign of life (default 15 s).
    pub keep_alive: Duration,
    /// How long stopping waits for connections to end (default 2 s).
    pub stop: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            http: Limits::default(),
            connections: 32,
            streams: 24,
            keep_alive: Duration::from_secs(15),
            stop: Duration::from_secs(2),
        }
    }
}

/// A running server. Dropping it stops it.
pub struct Server {
    path: PathBuf,
    /// Device and inode of the socket file, so that only this server's own is removed.
    file: (u64, u64),
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// What all threads of a server know.
pub(super) struct Shared {
    pub(super) control: Arc<dyn Control>,
    pub(super) follow: Arc<Follow>,
    pub(super) settings: Settings,
    /// Readable once the server stops; never drained.
    pub(super) stop: Arc<OwnedFd>,
    streams: AtomicUsize,
    connections: Mutex<usize>,
    ended: Condvar,
}

impl Server {
    /// Binds `<home>/daemon/bellhop.sock` and serves it. The error names the file and what is wrong with it.
    pub fn start(home: &Path, control: Arc<dyn Control>, follow: Arc<Follow>, settings: Settings) -> io::Result<Self> {
        let path = socket::path(home);
        let listener = bind(&path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        let file = std::fs::symlink_metadata(&path).map(|m| (m.dev(), m.ino()))?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let shared = Arc::new(Shared {
            control,
            follow,
            settings,
            stop,
            streams: AtomicUsize::new(0),
            connections: Mutex::new(0),
            ended: Condvar::new(),
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::spawn("serve", move || accept(&listener, &shared))?
        };
        Ok(Self { path, file, shared, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stops: the socket file goes first, then event streams end, answers under way are written, and
    /// connections are waited for. Returns whether all of them ended within [`Settings::stop`]; one that is
    /// still inside [`Control`] then ends by itself.
    pub fn stop(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        let Some(acceptor) = self.acceptor.take() else { return true };
        if std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.file)
            && let Err(e) = std::fs::remove_file(&self.path)
        {
            log::warn!("serve.socket.remove path={} error={e}", self.path.display());
        }
        // An eventfd takes a 1 unless it was written to 2^64 times.
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        let whole = acceptor.join().is_ok();
        whole && self.shared.wait_for_connections()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Makes the directory and the socket, replacing a stale one.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if !std::fs::symlink_metadata(directory)?.is_dir() {
                return Err(io::Error::new(e.kind(), "its directory is a file or a link"));
            }
            std::fs::set_permissions(directory, Permissions::from_mode(0o700))?;
        }
        made => made?,
    }
    match std::fs::symlink_metadata(path) {
        Ok(old) if old.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let short = socket::Short::of(path)?;
    let listener = UnixListener::bind(&short.path)?;
    // Until here the mode of the directory protects it.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    let mut number = 0u64;
    let mut short_of_descriptors = false;
    loop {
        let mut fds = [PollFd::new(&*shared.stop, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        // A listener that cannot be served would be readable all the time.
        let (watched, limit) = if short_of_descriptors {
            (&mut fds[..1], Some(time_until(Instant::now() + OUT_OF_DESCRIPTORS)))
        } else {
            (&mut fds[..], None)
        };
        match poll(watched, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                log::error!("serve.poll error={e}");
                std::thread::sleep(OUT_OF_DESCRIPTORS);
                continue;
            }
        }
        if !fds[0].revents().is_empty() {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                short_of_descriptors = false;
                number += 1;
                admit(stream, number, shared);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                short_of_descriptors = false;
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                if !short_of_descriptors {
                    log::warn!("serve.accept error={e}");
                }
                short_of_descriptors = true;
            }
        }
    }
}

/// Gives a connection a thread, or turns it away.
fn admit(stream: UnixStream, number: u64, shared: &Arc<Shared>) {
    if let Err(e) = stream.set_nonblocking(true) {
        log::warn!("serve.connection error={e}");
        return;
    }
    if let Err(failure) = same_user(&stream) {
        log::warn!("serve.refused why={failure}");
        return turn_away(stream, &failure);
    }
    let Some(place) = Place::take(shared) else {
        let message = format!("{} connections are open, as many as there may be", shared.settings.connections);
        return turn_away(stream, &Failure::new(ErrorKind::Unavailable, message));
    };
    let connection = move || {
        let shared = Arc::clone(&place.0);
        // The socket is gone before the place is free, so that who counts sockets never sees one too many.
        if catch_unwind(AssertUnwindSafe(|| serve(stream, &shared))).is_err() {
            log::error!("serve.panic connection={number}");
        }
        drop(place);
    };
    // Without a thread the connection closes, which is all that can be said without one.
    if let Err(e) = thread::spawn(format!("serve:{number}"), connection) {
        log::warn!("serve.thread error={e}");
    }
}

/// Only the user that runs the daemon, and root, may talk to it.
fn same_user(stream: &UnixStream) -> Result<(), Failure> {
    let own = rustix::process::geteuid();
    match rustix::net::sockopt::socket_peercred(stream) {
        Ok(peer) if peer.uid == own || peer.uid.is_root() => Ok(()),
        Ok(peer) => Err(Failure::new(
            ErrorKind::Forbidden,
            format!("the daemon runs as user {} and does not serve user {}", own.as_raw(), peer.uid.as_raw()),
        )),
        Err(e) => Err(Failure::new(ErrorKind::Forbidden, format!("the system does not say who calls: {e}"))),
    }
}

/// One attempt to say why; an empty socket buffer takes it whole.
fn turn_away(mut stream: UnixStream, failure: &Failure) {
    let _ = stream.write(&Answer::failure(failure).to_bytes(false, true));
}

fn serve(stream: UnixStream, shared: &Shared) {
    let mut conn = Conn::new(stream, Arc::clone(&shared.stop), shared.settings.http);
    loop {
        let request = match conn.next_request() {
            Incoming::Request(request) => request,
            Incoming::Refused(failure) => return conn.refuse(&failure),
            Incoming::Closed => return,
        };
        let reply = catch_unwind(AssertUnwindSafe(|| respond(&request, &*shared.control))).unwrap_or_else(|_| {
            log::error!("serve.panic method={} path={:?}", request.method, request.path());
            let failure = Failure::new(ErrorKind::Internal, "the daemon failed at this request; its log says more");
            Reply::Answer(Answer::failure(&failure))
        });
        match reply {
            Reply::Events { id, after } => return watch::stream(conn, &id, after, shared),
            Reply::Answer(answer) => {
                let bytes = answer.to_bytes(request.keep_alive, request.method != "HEAD");
                if conn.write(&bytes).is_err() || !request.keep_alive {
                    return;
                }
            }
        }
    }
}

impl Shared {
    /// A place among the event streams, until it is dropped.
    pub(super) fn stream_place(&self) -> Option<StreamPlace<'_>> {
        let one_more = |open: usize| (open < self.settings.streams).then_some(open + 1);
        self.streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(StreamPlace(&self.streams))
    }

    fn wait_for_connections(&self) -> bool {
        let open = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let (open, _) = self
            .ended
            .wait_timeout_while(open, self.settings.stop, |open| *open > 0)
            .unwrap_or_else(PoisonError::into_inner);
        if *open > 0 {
            log::warn!("serve.stop connections_left={}", *open);
        }
        *open == 0
    }
}

/// A connection's place.
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let mut open = shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if *open >= shared.settings.connections {
            return None;
        }
        *open += 1;
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.0.connections.lock().unwrap_or_else(PoisonError::into_inner);
        *open -= 1;
        self.0.ended.notify_all();
    }
}

/// An event stream's place.
pub(super) struct StreamPlace<'a>(&'a AtomicUsize);

impl Drop for StreamPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
