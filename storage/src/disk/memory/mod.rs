//! A disk in memory that forgets what was not synced: for tests and the simulator.
//!
//! It keeps what a device would hold apart from what reads see, for file contents and for folder entries alike.
//! Everything is decided by seeds and scripts: faults ([`Fault`]), power cuts ([`CrashPolicy`]), and when a queued
//! operation completes ([`Completion`]).

use std::any::Any;
use std::fmt;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Arena, Backend, BackendKind, DirEntry, Disk, DiskError, DiskFile, OpenMode, Operation, QueueOptions, Space,
    WriteQueue,
};

mod fault;
mod inode;
mod names;
mod queue;
mod state;
#[cfg(test)]
mod tests;

pub use fault::{CrashPolicy, Fault, FaultKind};
use inode::{Change, Fate};
use names::Node;
use state::{Content, Handle, State};

/// When a queued operation of a [`MemoryDisk`] happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Completion {
    /// When its completions are polled, or waited for.
    #[default]
    OnPoll,
    /// When it is kicked.
    OnKick,
    /// Only by [`MemoryDisk::step`]: the test decides about order and time.
    Manual,
}

/// What a [`MemoryDisk`] is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryConfig {
    /// Decides the order of completions when `reorder` is set.
    pub seed: u64,
    /// When queued operations happen.
    pub completion: Completion,
    /// Whether queued operations happen in any order instead of the order they were kicked in.
    pub reorder: bool,
    /// Bytes of all files together, beyond which writes fail with ENOSPC.
    pub capacity_bytes: Option<u64>,
}

impl MemoryConfig {
    /// The default with a seed.
    pub fn seeded(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }
}

/// State and configuration, shared by the disk, its files and its queues.
struct Shared {
    config: MemoryConfig,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk in memory; clones share it.
#[derive(Clone)]
pub struct MemoryDisk {
    shared: Arc<Shared>,
}

/// A disk at one moment, with what was synced, what was not, and what was in flight.
#[derive(Debug, Clone)]
pub struct MemorySnapshot {
    content: Content,
    in_flight: Vec<(u64, Change)>,
}

impl Default for MemoryDisk {
    fn default() -> Self {
        Self::new(MemoryConfig::default())
    }
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "MemoryDisk({:?})", self.shared.config)
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new(config: MemoryConfig) -> Self {
        let content = Content { capacity_bytes: config.capacity_bytes, ..Content::default() };
        let state = Mutex::new(State::new(content, config.seed));
        Self { shared: Arc::new(Shared { config, state }) }
    }

    /// The disk of a snapshot, after a power cut at that moment.
    pub fn from_snapshot(snapshot: &MemorySnapshot, policy: CrashPolicy) -> Self {
        let disk = Self::new(MemoryConfig::default());
        let mut state = disk.shared.state();
        state.content = snapshot.content.clone();
        if policy != CrashPolicy::DropUnsynced {
            for (inode, change) in &snapshot.in_flight {
                if let Some(inode) = state.content.inodes.get_mut(inode) {
                    inode.unsynced.push((change.clone(), Fate::Pending));
                }
            }
        }
        state.crash(policy);
        drop(state);
        disk
    }

    /// This moment of the disk; cheap, contents are copied only when they change.
    pub fn snapshot(&self) -> MemorySnapshot {
        let state = self.shared.state();
        MemorySnapshot { content: state.content.clone(), in_flight: state.queues.pending_changes() }
    }

    /// Shares it as a disk.
    pub fn as_disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// Cuts the power and switches it on again. Files and queues of before fail from now on.
    pub fn crash(&self, policy: CrashPolicy) {
        self.shared.state().crash(policy);
    }

    /// Switches the power off before the `mutation`-th change (see [`MemoryDisk::mutations`]): that one and all
    /// later operations fail and change nothing, until [`MemoryDisk::crash`] switches the power on again.
    pub fn power_off_at(&self, mutation: u64) {
        self.shared.state().power_off_at = Some(mutation);
    }

    /// How many operations have changed something so far, or tried to (each sync and folder change counts).
    pub fn mutations(&self) -> u64 {
        self.shared.state().mutations
    }

    /// Adds a scripted fault.
    pub fn inject(&self, fault: Fault) {
        self.shared.state().faults.push(fault);
    }

    /// Removes all scripted faults.
    pub fn clear_faults(&self) {
        self.shared.state().faults.clear();
    }

    /// Sets or lifts the limit beyond which writes fail with ENOSPC.
    pub fn set_capacity(&self, capacity_bytes: Option<u64>) {
        self.shared.state().content.capacity_bytes = capacity_bytes;
    }

    /// Lets one kicked operation happen; false when none is ready (a delayed one may be later).
    pub fn step(&self) -> bool {
        queue::step(&self.shared, None)
    }

    /// Kicked operations that have not happened yet.
    pub fn pending_count(&self) -> usize {
        self.shared.state().queues.pending_count()
    }

    /// Flips one bit on the device; false when the file does not reach there.
    pub fn flip_bit(&self, path: &Path, file_offset: u64, bit: u8) -> bool {
        let mut state = self.shared.state();
        let Some(Node::File(inode)) = state.content.names.get(path) else {
            return false;
        };
        let Some(inode) = state.content.inodes.get_mut(&inode) else {
            return false;
        };
        let (live, durable) = (Arc::make_mut(&mut inode.live), Arc::make_mut(&mut inode.durable));
        let at = usize::try_from(file_offset).unwrap_or(usize::MAX);
        let flipped = live.get_mut(at).map(|byte| *byte ^= 1 << (bit % 8));
        durable.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << (bit % 8));
        flipped.is_some()
    }

    /// What reads see of a file.
    pub fn read_file(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.shared.state();
        let Node::File(inode) = state.content.names.get(path)? else {
            return None;
        };
        Some(state.content.inodes.get(&inode)?.live.as_ref().clone())
    }

    /// What of a file survives every power cut; `None` when its name does not.
    pub fn durable_file(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.shared.state();
        let Node::File(inode) = state.content.names.get_durable(path)? else {
            return None;
        };
        Some(state.content.inodes.get(&inode)?.durable.as_ref().clone())
    }

    /// Like [`MemoryDisk::durable_file`] for a part of a file: copies what of it survives every power cut from `file_offset`
    /// on; 0 when nothing does.
    pub fn read_durable(&self, path: &Path, out: &mut [u8], file_offset: u64) -> usize {
        let state = self.shared.state();
        let Some(Node::File(inode)) = state.content.names.get_durable(path) else {
            return 0;
        };
        let inode = state.content.inodes.get(&inode);
        inode.map_or(0, |inode| inode.read_durable(out, file_offset))
    }

    /// The paths of all files, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.shared.state();
        let files = state.content.names.iter().filter(|(_, node)| *node != Node::Dir);
        files.map(|(path, _)| path.clone()).collect()
    }
}

impl Disk for MemoryDisk {
    fn backend(&self) -> Backend {
        Backend { kind: BackendKind::Memory, o_direct: false, registered: false, refused: None }
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        self.shared.state().create_dir_all(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>, DiskError> {
        self.shared.state().list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError> {
        let handle = self.shared.state().open(path, mode)?;
        Ok(Arc::new(MemoryFile { shared: Arc::clone(&self.shared), handle, path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.shared.state().rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        self.shared.state().remove(path, false)
    }

    fn remove_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        self.shared.state().remove(path, true)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        self.shared.state().sync_dir(dir)
    }

    fn space(&self, path: &Path) -> Result<Space, DiskError> {
        self.shared.state().space(path)
    }

    fn write_queue(&self, options: &QueueOptions, _arena: &Arc<Arena>) -> Result<Box<dyn WriteQueue>, DiskError> {
        Ok(Box::new(queue::MemoryQueue::new(&self.shared, options.depth)))
    }
}

/// An open file of a [`MemoryDisk`].
struct MemoryFile {
    shared: Arc<Shared>,
    handle: Handle,
    path: PathBuf,
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "MemoryFile({})", self.path.display())
    }
}

impl DiskFile for MemoryFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.shared.state().len(self.handle, &self.path)
    }

    fn read_at(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        self.shared.state().read(self.handle, &self.path, out, file_offset, false)
    }

    fn read_uncached_at(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        self.shared.state().read(self.handle, &self.path, out, file_offset, true)
    }

    fn write_all_at(&self, data: &[u8], file_offset: u64) -> Result<(), DiskError> {
        let change = Change::Write { file_offset, data: data.into() };
        self.shared.state().change(self.handle, &self.path, Operation::Write, change)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.shared.state().sync(self.handle, &self.path)
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.shared.state().change(self.handle, &self.path, Operation::SetLen, Change::SetLen(len))
    }

    fn raw_fd(&self) -> Option<RawFd> {
        None
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
