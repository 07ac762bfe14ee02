//! The memory disk of a node, with a hand on its power switch: the power can be made to fail at a given kind of change
//! of a given kind of file.

use lance_storage::disk::memory::{CrashPolicy, MemoryDisk};
use lance_storage::disk::{
    Arena, Backend, DirEntry, Disk, DiskCompletion, DiskError, DiskFile, DiskOp, OpKind, OpenMode, QueueOptions, Space,
    WriteQueue,
};
use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Kinds of files that a node keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each variant is a file or folder of the data dir")]
pub enum FileKind {
    Segment,
    Index,
    Producers,
    RaftLog,
    HardState,
    Promises,
    Flushed,
    Node,
    Folder,
}

impl FileKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Segment,
        Self::Index,
        Self::Producers,
        Self::RaftLog,
        Self::HardState,
        Self::Promises,
        Self::Flushed,
        Self::Node,
        Self::Folder,
    ];

    /// The kind of a file by its path.
    pub fn of(path: &Path) -> Self {
        let text = path.to_string_lossy();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let meta = text.contains("/meta/");
        match name.as_str() {
            _ if name.ends_with(".lnc") && !meta => Self::Segment,
            _ if name.ends_with(".idx") && !meta => Self::Index,
            _ if name.starts_with("hard_state") || name.starts_with("snapshot") => Self::HardState,
            _ if meta => Self::RaftLog,
            _ if name.starts_with("producers") => Self::Producers,
            _ if name.starts_with("promises") => Self::Promises,
            _ if name.starts_with("flushed") => Self::Flushed,
            _ if name.starts_with("node.json") || name.starts_with("starts") => Self::Node,
            _ => Self::Folder,
        }
    }
}

/// How a disk may deceive its owner; for proving that the checkers see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lies {
    /// Syncs of segments do nothing.
    pub segments: bool,
    /// Syncs of the metadata's files do nothing.
    pub metadata: bool,
}

#[derive(Debug, Default)]
struct Switch {
    /// The power fails at this kind of file, after this many of its changes.
    armed: Option<(FileKind, u64)>,
    /// The power fails before this change of the disk.
    off_at: Option<u64>,
    /// Kinds of files at which the power has failed.
    cut: BTreeSet<FileKind>,
}

#[derive(Debug)]
struct Shared {
    memory: MemoryDisk,
    switch: Mutex<Switch>,
    lies: Lies,
}

/// A [`MemoryDisk`] with a switch; clones share it.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Shared>);

impl SimDisk {
    /// A disk around `memory`.
    pub fn new(memory: MemoryDisk, lies: Lies) -> Self {
        Self(Arc::new(Shared { memory, switch: Mutex::default(), lies }))
    }

    /// The disk inside.
    pub fn memory(&self) -> &MemoryDisk {
        &self.0.memory
    }

    /// Shares it as a disk.
    pub fn as_disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    fn switch(&self) -> MutexGuard<'_, Switch> {
        self.0.switch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power fails after `skip` further changes of files of this kind.
    pub fn cut_at(&self, kind: FileKind, skip: u64) {
        self.switch().armed = Some((kind, skip));
    }

    /// The power fails after `changes` further changes of any kind.
    pub fn cut_after(&self, changes: u64) {
        let at = self.0.memory.mutations() + changes;
        self.switch().off_at = Some(at);
        self.0.memory.power_off_at(at);
    }

    /// No power cut is planned any more.
    pub fn disarm(&self) {
        let mut switch = self.switch();
        switch.armed = None;
        if switch.off_at.take().is_some() {
            self.0.memory.power_off_at(u64::MAX);
        }
    }

    /// Whether the power has failed.
    pub fn is_off(&self) -> bool {
        self.switch().off_at.is_some_and(|at| self.0.memory.mutations() >= at)
    }

    /// Switches the power on again.
    pub fn power_on(&self, policy: CrashPolicy) {
        let mut switch = self.switch();
        switch.armed = None;
        switch.off_at = None;
        self.0.memory.crash(policy);
    }

    /// Kinds of files at which the power has failed.
    pub fn cuts(&self) -> BTreeSet<FileKind> {
        self.switch().cut.clone()
    }

    /// Called before a change; `ahead` changes later the power may be off.
    fn before(&self, path: &Path, ahead: u64) {
        let mut switch = self.switch();
        let Some((kind, skip)) = switch.armed else { return };
        if FileKind::of(path) != kind {
            return;
        }
        if skip > 0 {
            switch.armed = Some((kind, skip - 1));
            return;
        }
        switch.armed = None;
        switch.cut.insert(kind);
        let at = self.0.memory.mutations() + ahead;
        switch.off_at = Some(at);
        self.0.memory.power_off_at(at);
    }

    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), file })
    }
}

impl Disk for SimDisk {
    fn backend(&self) -> Backend {
        self.0.memory.backend()
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        self.before(path, 0);
        self.0.memory.create_dir_all(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>, DiskError> {
        self.0.memory.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError> {
        if matches!(mode, OpenMode::Create | OpenMode::CreateOrOpen) {
            self.before(path, 0);
        }
        Ok(self.wrap(self.0.memory.open(path, mode)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.before(to, 0);
        self.0.memory.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        self.before(path, 0);
        self.0.memory.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        self.before(path, 0);
        self.0.memory.remove_dir_all(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        self.before(dir, 0);
        self.0.memory.sync_dir(dir)
    }

    fn space(&self, path: &Path) -> Result<Space, DiskError> {
        self.0.memory.space(path)
    }

    fn write_queue(&self, options: &QueueOptions, arena: &Arc<Arena>) -> Result<Box<dyn WriteQueue>, DiskError> {
        Ok(Box::new(SimQueue { disk: self.clone(), queue: self.0.memory.write_queue(options, arena)? }))
    }
}

struct SimFile {
    disk: SimDisk,
    file: Arc<dyn DiskFile>,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(out)
    }
}

impl DiskFile for SimFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.file.len()
    }

    fn read_at(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        self.file.read_at(out, file_offset)
    }

    fn read_uncached_at(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        self.file.read_uncached_at(out, file_offset)
    }

    fn write_all_at(&self, data: &[u8], file_offset: u64) -> Result<(), DiskError> {
        self.disk.before(self.path(), 0);
        self.file.write_all_at(data, file_offset)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.disk.before(self.path(), 0);
        if self.disk.0.lies.metadata && self.path().to_string_lossy().contains("/meta/") {
            return Ok(());
        }
        self.file.sync()
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.disk.before(self.path(), 0);
        self.file.set_len(len)
    }

    fn raw_fd(&self) -> Option<RawFd> {
        None
    }

    fn as_any(&self) -> &dyn Any {
        self.file.as_any()
    }
}

struct SimQueue {
    disk: SimDisk,
    queue: Box<dyn WriteQueue>,
}

/// The file an operation changes.
fn target(op: &DiskOp) -> PathBuf {
    match &op.kind {
        OpKind::Create { path } => path.clone(),
        _ => op.file.path().to_path_buf(),
    }
}

impl WriteQueue for SimQueue {
    fn submit(&mut self, mut op: DiskOp) -> Result<(), DiskOp> {
        let parts = match &op.kind {
            OpKind::Write { chunks, .. } => chunks.len() as u64 + 1,
            _ => 2,
        };
        // Which change of the operation fails follows from how much was changed before: any number does.
        let ahead = self.disk.0.memory.mutations() % (parts + 1);
        self.disk.before(&target(&op), ahead);
        if let OpKind::Write { sync, .. } = &mut op.kind
            && self.disk.0.lies.segments
        {
            *sync = false;
        }
        self.queue.submit(op)
    }

    fn kick(&mut self) -> Result<(), DiskError> {
        self.queue.kick()
    }

    fn completions(&mut self, out: &mut Vec<DiskCompletion>) {
        let from = out.len();
        self.queue.completions(out);
        for completion in out.iter_mut().skip(from) {
            completion.file = completion.file.take().map(|file| self.disk.wrap(file));
        }
    }

    fn wait(&mut self, timeout: Duration) {
        self.queue.wait(timeout);
    }

    fn notify_fd(&self) -> Option<RawFd> {
        None
    }

    fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }
}
