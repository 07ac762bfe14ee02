//! Everything one memory disk knows, behind one lock, and what each operation does to it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::super::{DirEntry, DiskError, OpenMode, Operation, Space};
use super::fault::{CrashPolicy, Dice, Fault, FaultKind};
use super::inode::{Change, Fate, Inode};
use super::names::{Names, Node};
use super::queue::Queues;

/// Size of a disk without a limit.
const UNLIMITED_BYTES: u64 = 1 << 50;

/// How a file is reached: its inode, and the power-on it was opened in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) inode: u64,
    pub(super) generation: u64,
    pub(super) writable: bool,
}

/// The part of the state a snapshot carries.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) names: Names,
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) capacity_bytes: Option<u64>,
}

/// The whole state.
#[derive(Debug)]
pub(super) struct State {
    pub(super) content: Content,
    pub(super) queues: Queues,
    pub(super) faults: Vec<Fault>,
    pub(super) dice: Dice,
    /// Counts power-ons; handles of earlier ones are stale.
    pub(super) generation: u64,
    /// Operations that changed something, or tried to.
    pub(super) mutations: u64,
    /// The machine is dead from this mutation on.
    pub(super) power_off_at: Option<u64>,
}

impl State {
    pub(super) fn new(content: Content, seed: u64) -> Self {
        Self {
            content,
            queues: Queues::default(),
            faults: Vec::new(),
            dice: Dice::new(seed),
            generation: 0,
            mutations: 0,
            power_off_at: None,
        }
    }

    /// Whether the power is off.
    fn is_off(&self) -> bool {
        self.power_off_at.is_some_and(|at| self.mutations >= at)
    }

    /// Delay of a queued operation.
    pub(super) fn delay(&mut self, operation: Operation, path: &Path) -> u64 {
        let mut delays = self.faults.iter_mut().filter(|fault| fault.is_delay());
        match delays.find_map(|fault| fault.hit(operation, path)) {
            Some(FaultKind::Delay { steps }) => steps,
            _ => 0,
        }
    }

    /// Fails where the power is off or a fault without effect is due; a torn write is handed back.
    fn enter(&mut self, operation: Operation, path: &Path) -> Result<Option<FaultKind>, DiskError> {
        let mutation = !matches!(
            operation,
            Operation::Open | Operation::List | Operation::Space | Operation::Length | Operation::Read
        );
        if self.is_off() {
            return Err(DiskError::Stale { operation, path: path.to_owned() });
        }
        self.mutations += u64::from(mutation);
        let mut failures = self.faults.iter_mut().filter(|fault| !fault.is_delay());
        match failures.find_map(|fault| fault.hit(operation, path)) {
            Some(FaultKind::Errno(errno)) if operation != Operation::Sync => Err(DiskError::os(operation, path, errno)),
            other => Ok(other),
        }
    }

    /// The inode behind a handle of this power-on.
    pub(super) fn inode(&mut self, handle: Handle, operation: Operation, path: &Path) -> Result<&mut Inode, DiskError> {
        let stale = || DiskError::Stale { operation, path: path.to_owned() };
        if handle.generation != self.generation || self.is_off() {
            return Err(stale());
        }
        self.content.inodes.get_mut(&handle.inode).ok_or_else(stale)
    }

    pub(super) fn open(&mut self, path: &Path, mode: OpenMode) -> Result<Handle, DiskError> {
        let node = self.content.names.get(path);
        let creates = match mode {
            OpenMode::Create => true,
            OpenMode::CreateOrOpen => node.is_none(),
            OpenMode::Read | OpenMode::ReadWrite => false,
        };
        let operation = if creates { Operation::Create } else { Operation::Open };
        self.enter(operation, path)?;
        let failed = |errno| Err(DiskError::os(operation, path, errno));
        let inode = match node {
            Some(_) if creates => return failed(libc::EEXIST),
            Some(Node::Dir) => return failed(libc::EISDIR),
            Some(Node::File(inode)) => inode,
            None if !creates => return failed(libc::ENOENT),
            None if !path.parent().is_some_and(|dir| self.content.names.is_dir(dir)) => {
                return failed(libc::ENOENT);
            }
            None => {
                let inode = self.content.inodes.last_key_value().map_or(1, |(last, _)| last + 1);
                self.content.inodes.insert(inode, Inode::default());
                self.content.names.add_file(path, inode);
                inode
            }
        };
        Ok(Handle { inode, generation: self.generation, writable: mode != OpenMode::Read })
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> Result<(), DiskError> {
        self.enter(Operation::CreateDir, path)?;
        for dir in path.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
            match self.content.names.get(dir) {
                Some(Node::File(_)) => return Err(DiskError::os(Operation::CreateDir, path, libc::ENOTDIR)),
                Some(Node::Dir) => {}
                None => self.content.names.add_dir(dir),
            }
        }
        Ok(())
    }

    pub(super) fn list(&mut self, dir: &Path) -> Result<Vec<DirEntry>, DiskError> {
        self.enter(Operation::List, dir)?;
        if !self.content.names.is_dir(dir) {
            return Err(DiskError::os(Operation::List, dir, libc::ENOENT));
        }
        let children = self.content.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        let entry = |(path, node): (&PathBuf, Node)| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            let len = match node {
                Node::Dir => 0,
                Node::File(inode) => self.content.inodes.get(&inode).map_or(0, Inode::len),
            };
            Some(DirEntry { name, len, is_dir: node == Node::Dir })
        };
        Ok(children.filter_map(entry).collect())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.enter(Operation::Rename, from)?;
        let names = &mut self.content.names;
        let target_dir = to.parent().is_some_and(|dir| names.is_dir(dir));
        match names.get(from) {
            Some(node @ Node::File(_)) if target_dir && names.get(to) != Some(Node::Dir) => {
                names.rename(from, to, node);
                Ok(())
            }
            Some(Node::Dir) => Err(DiskError::os(Operation::Rename, from, libc::EISDIR)),
            _ => Err(DiskError::os(Operation::Rename, from, libc::ENOENT)),
        }
    }

    pub(super) fn remove(&mut self, path: &Path, wanted_dir: bool) -> Result<(), DiskError> {
        self.enter(Operation::Remove, path)?;
        match self.content.names.get(path) {
            Some(node) if (node == Node::Dir) == wanted_dir => {
                self.content.names.remove(path);
                Ok(())
            }
            Some(_) => {
                let errno = if wanted_dir { libc::ENOTDIR } else { libc::EISDIR };
                Err(DiskError::os(Operation::Remove, path, errno))
            }
            None => Err(DiskError::os(Operation::Remove, path, libc::ENOENT)),
        }
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> Result<(), DiskError> {
        match self.enter(Operation::SyncDir, dir)? {
            Some(FaultKind::Errno(errno)) => return Err(DiskError::os(Operation::SyncDir, dir, errno)),
            _ if !self.content.names.is_dir(dir) => {
                return Err(DiskError::os(Operation::SyncDir, dir, libc::ENOENT));
            }
            _ => {}
        }
        self.content.names.sync(dir);
        Ok(())
    }

    /// Bytes of all files that have a name.
    fn used_bytes(&self) -> u64 {
        let linked = self.content.names.iter().filter_map(|(_, node)| match node {
            Node::File(inode) => self.content.inodes.get(&inode).map(Inode::len),
            Node::Dir => None,
        });
        linked.sum()
    }

    pub(super) fn space(&mut self, path: &Path) -> Result<Space, DiskError> {
        self.enter(Operation::Space, path)?;
        let total_bytes = self.content.capacity_bytes.unwrap_or(UNLIMITED_BYTES);
        Ok(Space { free_bytes: total_bytes.saturating_sub(self.used_bytes()), total_bytes })
    }

    pub(super) fn len(&mut self, handle: Handle, path: &Path) -> Result<u64, DiskError> {
        self.enter(Operation::Length, path)?;
        Ok(self.inode(handle, Operation::Length, path)?.len())
    }

    /// Reads from the cache, or past it.
    pub(super) fn read(
        &mut self,
        handle: Handle,
        path: &Path,
        out: &mut [u8],
        file_offset: u64,
        uncached: bool,
    ) -> Result<usize, DiskError> {
        self.enter(Operation::Read, path)?;
        let inode = self.inode(handle, Operation::Read, path)?;
        Ok(if uncached { inode.read_device(out, file_offset) } else { inode.read_cache(out, file_offset) })
    }

    /// Changes a file: written to the cache, refused when the disk is full.
    pub(super) fn change(
        &mut self,
        handle: Handle,
        path: &Path,
        operation: Operation,
        change: Change,
    ) -> Result<(), DiskError> {
        let fault = self.enter(operation, path)?;
        let len = self.inode(handle, operation, path)?.len();
        if !handle.writable {
            return Err(DiskError::os(operation, path, libc::EBADF));
        }
        let growth = change.len_after(len).saturating_sub(len);
        if let Some(capacity) = self.content.capacity_bytes
            && growth > 0
            && self.used_bytes() + growth > capacity
        {
            return Err(DiskError::os(operation, path, libc::ENOSPC));
        }
        let inode = self.inode(handle, operation, path)?;
        match fault {
            Some(FaultKind::Torn { bytes, errno }) => {
                inode.change(change.cut(bytes));
                Err(DiskError::os(operation, path, errno))
            }
            _ => {
                inode.change(change);
                Ok(())
            }
        }
    }

    pub(super) fn sync(&mut self, handle: Handle, path: &Path) -> Result<(), DiskError> {
        let fault = self.enter(Operation::Sync, path)?;
        let inode = self.inode(handle, Operation::Sync, path)?;
        match fault {
            Some(FaultKind::Errno(errno) | FaultKind::Torn { errno, .. }) => {
                inode.lose_unsynced();
                Err(DiskError::os(Operation::Sync, path, errno))
            }
            _ => {
                inode.sync();
                Ok(())
            }
        }
    }

    /// The power cut and the power-on after it.
    pub(super) fn crash(&mut self, policy: CrashPolicy) {
        let (keep, mut dice) = match policy {
            CrashPolicy::DropUnsynced => (false, None),
            CrashPolicy::KeepAll => (true, None),
            CrashPolicy::Random { seed } => (true, Some(Dice::new(seed))),
        };
        for (inode, change) in self.queues.power_cut() {
            // What was in flight may have reached the device; a random policy decides below.
            if keep && let Some(inode) = self.content.inodes.get_mut(&inode) {
                inode.unsynced.push((change, Fate::Pending));
            }
        }
        for inode in self.content.inodes.values_mut() {
            inode.crash(keep, dice.as_mut());
        }
        self.content.names.crash(keep, dice.as_mut());
        let linked: BTreeSet<u64> = self
            .content
            .names
            .iter()
            .filter_map(|(_, node)| match node {
                Node::File(inode) => Some(inode),
                Node::Dir => None,
            })
            .collect();
        self.content.inodes.retain(|inode, _| linked.contains(inode));
        self.generation += 1;
        self.power_off_at = None;
    }
}
