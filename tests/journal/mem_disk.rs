//! A disk in memory that knows what would survive a loss of power.
//!
//! A file has bytes that were synced and bytes that were written; a directory has names that were synced and
//! names as they are. A loss of power leaves something between the two: of the changes to names the first few,
//! of the bytes any number.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bellhop::store::{Disk, DiskFile};

#[derive(Clone, Default)]
struct Inode {
    synced: Vec<u8>,
    written: Vec<u8>,
}

type Names = BTreeMap<PathBuf, usize>;

#[derive(Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    synced: Names,
    /// What the names have been since they were synced, oldest first, without what they are now.
    since: Vec<Names>,
    names: Names,
}

impl State {
    /// Changes the names; what they were may be what a loss of power leaves.
    fn change(&mut self, change: impl FnOnce(&mut Names)) {
        self.since.push(self.names.clone());
        change(&mut self.names);
    }
}

/// Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemDisk(Arc<Mutex<State>>);

impl MemDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A disk of its own with what is on this one.
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// What may be found after the power has failed now, with as little of the bytes as may be.
    pub fn after_power_loss(&self) -> Vec<Self> {
        self.images(|inode| inode.synced.clone())
    }

    /// The same with half of the bytes that were not synced.
    pub fn after_power_loss_torn(&self) -> Vec<Self> {
        self.images(|Inode { synced, written }| match written.len().checked_sub(synced.len()) {
            Some(more) => written[..synced.len() + more / 2].to_vec(),
            None => written.clone(),
        })
    }

    fn images(&self, bytes: impl Fn(&Inode) -> Vec<u8>) -> Vec<Self> {
        let state = self.state();
        let survive = |i| Inode { synced: bytes(i), written: bytes(i) };
        let inodes: Vec<_> = state.inodes.iter().map(survive).collect();
        let mut images: Vec<Self> = Vec::new();
        let mut last = None;
        for names in [&state.synced].into_iter().chain(&state.since).chain([&state.names]) {
            if last.replace(names) == Some(names) {
                continue;
            }
            let image =
                State { inodes: inodes.clone(), synced: names.clone(), since: Vec::new(), names: names.clone() };
            images.push(Self(Arc::new(Mutex::new(image))));
        }
        images
    }

    pub fn get(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(path).map(|&i| state.inodes[i].written.clone())
    }

    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        let inode = Inode { synced: bytes.to_vec(), written: bytes.to_vec() };
        state.inodes.push(inode);
        let i = state.inodes.len() - 1;
        state.names.insert(path.to_owned(), i);
        state.synced.insert(path.to_owned(), i);
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }
}

struct MemFile(MemDisk, usize);

impl DiskFile for MemFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.state().inodes[self.1].written.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let inode = &mut self.0.state().inodes[self.1];
        inode.synced = inode.written.clone();
        Ok(())
    }
}

fn find(names: &Names, path: &Path) -> io::Result<usize> {
    names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
}

impl Disk for MemDisk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.inodes.push(Inode::default());
        let i = state.inodes.len() - 1;
        state.change(|names| {
            names.insert(path.to_owned(), i);
        });
        Ok(Box::new(MemFile(self.clone(), i)))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let i = find(&self.state().names, path)?;
        Ok(Box::new(MemFile(self.clone(), i)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        let bytes = self.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Cursor::new(bytes)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let inside = |p: &&PathBuf| p.parent() == Some(dir);
        Ok(self.state().names.keys().filter(inside).filter_map(|p| p.file_name()).map(OsString::from).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let i = find(&state.names, from)?;
        state.change(|names| {
            names.remove(from);
            names.insert(to.to_owned(), i);
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        find(&state.names, path)?;
        state.change(|names| {
            names.remove(path);
        });
        Ok(())
    }

    /// There is one directory only.
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.synced = state.names.clone();
        state.since.clear();
        Ok(())
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.get(path).map(|b| b.len() as u64).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let i = find(&state.names, path)?;
        let inode = &mut state.inodes[i];
        inode.written.truncate(len as usize);
        Ok(())
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}
