//! A disk that fails when told to, for tests of everything durable.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile};

/// Operations of a [`Disk`] and its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// [`Disk::create_dir`]
    CreateDir,
    /// [`Disk::create`]
    Create,
    /// [`Disk::open_append`]
    OpenAppend,
    /// [`DiskFile::append`]
    Append,
    /// [`DiskFile::sync`]
    Sync,
    /// [`Disk::open_read`] and [`Disk::read`]
    Read,
    /// [`Disk::list`]
    List,
    /// [`Disk::rename`]
    Rename,
    /// [`Disk::remove`]
    Remove,
    /// [`Disk::sync_dir`]
    SyncDir,
    /// [`Disk::len`]
    Len,
    /// [`Disk::truncate`]
    Truncate,
    /// [`Disk::free_space`]
    FreeSpace,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// `ENOSPC`; nothing is done.
    NoSpace,
    /// `EIO`; nothing is done.
    Io,
    /// `EROFS`; nothing is done.
    ReadOnly,
    /// An append writes the first half of its bytes and reports `ENOSPC`; anything else is as `NoSpace`.
    Short,
    /// The operation is done, and `EIO` reported all the same.
    Late,
}

impl FaultKind {
    fn error(self) -> io::Error {
        let errno = match self {
            Self::NoSpace | Self::Short => rustix::io::Errno::NOSPC,
            Self::Io | Self::Late => rustix::io::Errno::IO,
            Self::ReadOnly => rustix::io::Errno::ROFS,
        };
        errno.into()
    }
}

/// Which operations fail, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Only operations of this kind count; `None`: all of them.
    pub op: Option<Op>,
    /// The first that fails, from 1, counted from [`FaultyDisk::arm`].
    pub nth: u64,
    /// Whether all that follow fail too.
    pub lasting: bool,
    /// How.
    pub kind: FaultKind,
}

type Hook = Arc<dyn Fn(Op) + Send + Sync>;

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    counted: u64,
    log: Vec<Op>,
    after: Option<Hook>,
}

#[derive(Default)]
struct Shared(Mutex<State>);

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation and says how it is to fail.
    fn begin(&self, op: Op) -> Option<FaultKind> {
        let mut state = self.state();
        state.log.push(op);
        let fault = state.fault?;
        if fault.op.is_some_and(|wanted| wanted != op) {
            return None;
        }
        state.counted += 1;
        let hit = state.counted == fault.nth || (fault.lasting && state.counted > fault.nth);
        hit.then_some(fault.kind)
    }

    fn end(&self, op: Op) {
        // The hook runs without the lock, so that it may look at the disk.
        let hook = self.state().after.clone();
        if let Some(hook) = hook {
            hook(op);
        }
    }

    fn run<T>(&self, op: Op, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let result = match self.begin(op) {
            None => work(),
            Some(FaultKind::Late) => work().and_then(|_| Err(FaultKind::Late.error())),
            Some(kind) => Err(kind.error()),
        };
        self.end(op);
        result
    }
}

/// A [`Disk`] around another one. Clones share the fault, the counters and the hook.
#[derive(Clone)]
pub struct FaultyDisk {
    inner: Arc<dyn Disk>,
    shared: Arc<Shared>,
}

impl FaultyDisk {
    /// A disk that works like `inner` until told otherwise.
    pub fn new(inner: Arc<dyn Disk>) -> Self {
        Self { inner, shared: Arc::default() }
    }

    /// From now on operations fail as `fault` says; counting begins anew.
    pub fn arm(&self, fault: Fault) {
        let mut state = self.shared.state();
        state.fault = Some(fault);
        state.counted = 0;
    }

    /// From now on nothing fails.
    pub fn disarm(&self) {
        self.shared.state().fault = None;
    }

    /// Operations so far, failed ones included.
    pub fn log(&self) -> Vec<Op> {
        self.shared.state().log.clone()
    }

    /// How often an operation was called so far.
    pub fn count(&self, op: Op) -> usize {
        self.shared.state().log.iter().filter(|&&o| o == op).count()
    }

    /// Calls `hook` after each operation, on the thread that made it.
    pub fn after_each(&self, hook: impl Fn(Op) + Send + Sync + 'static) {
        self.shared.state().after = Some(Arc::new(hook));
    }
}

struct FaultyFile {
    inner: Box<dyn DiskFile>,
    shared: Arc<Shared>,
}

impl DiskFile for FaultyFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let result = match self.shared.begin(Op::Append) {
            None => self.inner.append(bytes),
            Some(kind) => {
                let written = match kind {
                    FaultKind::Short => &bytes[..bytes.len() / 2],
                    FaultKind::Late => bytes,
                    _ => &[],
                };
                self.inner.append(written).and_then(|()| Err(kind.error()))
            }
        };
        self.shared.end(Op::Append);
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let inner = &mut self.inner;
        self.shared.run(Op::Sync, || inner.sync())
    }
}

impl FaultyDisk {
    fn wrap(&self, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FaultyFile { inner, shared: self.shared.clone() })
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.shared.run(Op::CreateDir, || self.inner.create_dir(path))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.shared.run(Op::Create, || self.inner.create(path)).map(|f| self.wrap(f))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.shared.run(Op::OpenAppend, || self.inner.open_append(path)).map(|f| self.wrap(f))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        self.shared.run(Op::Read, || self.inner.open_read(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.shared.run(Op::List, || self.inner.list(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.run(Op::Rename, || self.inner.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.shared.run(Op::Remove, || self.inner.remove(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.shared.run(Op::SyncDir, || self.inner.sync_dir(dir))
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.shared.run(Op::Len, || self.inner.len(path))
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        self.shared.run(Op::Truncate, || self.inner.truncate(path, len))
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.shared.run(Op::FreeSpace, || self.inner.free_space(path))
    }
}
