//! A disk that fails on command: another disk behind a switch, for tests of running servers.
//!
//! A refused operation is not carried out at all: of a failed sync nothing is on the device, the worst that Linux does.
//! A slow operation is carried out at once and reported late, without keeping anybody's thread where writes are queued.

mod queue;
#[cfg(test)]
mod tests;
mod wakeup;

use std::any::Any;
use std::fmt;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Deserialize;

use super::{
    Arena, Backend, DirEntry, Disk, DiskError, DiskFile, OpenMode, Operation, QueueOptions, Space, WriteQueue,
};
use queue::FaultyQueue;

/// The longest delay that can be asked for.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// Rules for failures that may wait at the same time.
const MAX_RULES: usize = 64;

/// What the disk is told to do. Paths are parts of paths below the switch's root; an empty one means every file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultCommand {
    /// The next syncs of such files fail with EIO.
    SyncError {
        /// Part of their paths.
        #[serde(default)]
        path: String,
        /// How many.
        #[serde(default = "once")]
        count: u64,
    },
    /// The next writes to such files fail with EIO.
    WriteError {
        /// Part of their paths.
        #[serde(default)]
        path: String,
        /// How many.
        #[serde(default = "once")]
        count: u64,
    },
    /// Writes to such files find no space, and none is reported as free, until switched off.
    NoSpace {
        /// On or off.
        on: bool,
        /// Part of their paths; the logs unless said otherwise: a reserve keeps the rest alive on a full disk.
        #[serde(default = "logs")]
        path: String,
    },
    /// Writes and syncs of such files take longer; 0 ends it.
    Slow {
        /// By how much.
        millis: u64,
        /// Part of their paths.
        #[serde(default)]
        path: String,
    },
    /// Ends all faults.
    Clear {},
}

fn once() -> u64 {
    1
}

fn logs() -> String {
    "logs/".to_owned()
}

/// A fault that cannot be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FaultRefused {
    /// Too slow.
    #[error("a delay of {millis} ms is over the {} ms allowed", MAX_DELAY.as_millis())]
    TooSlow {
        /// As asked for.
        millis: u64,
    },
    /// Too many at the same time.
    #[error("{MAX_RULES} failures wait already: clear them first")]
    TooMany,
}

/// A number of failures of one kind.
#[derive(Debug)]
struct Failures {
    operation: Operation,
    path: String,
    left: AtomicU64,
}

impl Failures {
    fn take(&self) -> bool {
        let take = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
    }
}

/// All faults in force.
#[derive(Debug, Clone, Default)]
struct Rules {
    failures: Vec<Arc<Failures>>,
    no_space: Option<String>,
    slow: Option<(String, Duration)>,
}

/// Switches the faults of a [`FaultyDisk`], from any thread.
#[derive(Debug)]
pub struct FaultSwitch {
    root: PathBuf,
    rules: ArcSwap<Rules>,
}

impl FaultSwitch {
    /// A switch without faults; `root` is the folder that paths are looked at below.
    pub fn new(root: PathBuf) -> Self {
        Self { root, rules: ArcSwap::default() }
    }

    /// Carries out a command.
    pub fn apply(&self, command: &FaultCommand) -> Result<(), FaultRefused> {
        match command {
            FaultCommand::Slow { millis, .. } if Duration::from_millis(*millis) > MAX_DELAY => {
                return Err(FaultRefused::TooSlow { millis: *millis });
            }
            FaultCommand::SyncError { .. } | FaultCommand::WriteError { .. }
                if self.waiting_failures() >= MAX_RULES =>
            {
                return Err(FaultRefused::TooMany);
            }
            _ => {}
        }
        self.rules.rcu(|rules| {
            let mut rules = Rules::clone(rules);
            rules.change(command);
            rules
        });
        Ok(())
    }

    /// Rules for failures that have not all happened yet.
    fn waiting_failures(&self) -> usize {
        let rules = self.rules.load();
        let waits = |failures: &&Arc<Failures>| failures.left.load(Ordering::Acquire) > 0;
        rules.failures.iter().filter(waits).count()
    }

    /// Whether files at `path` find no space.
    fn is_full(&self, path: &Path) -> bool {
        self.rules.load().no_space.as_ref().is_some_and(|part| self.is_in(path, part))
    }

    /// Whether free space is reported as none.
    fn reports_full(&self) -> bool {
        self.rules.load().no_space.is_some()
    }

    /// The error of an operation on `path`, if it is to fail.
    fn refuse(&self, operation: Operation, path: &Path) -> Option<DiskError> {
        let rules = self.rules.load();
        let like = match operation {
            Operation::SyncDir => Operation::Sync,
            Operation::Zero | Operation::SetLen | Operation::Create => Operation::Write,
            other => other,
        };
        let hits = |failures: &&Arc<Failures>| {
            failures.operation == like && self.is_in(path, &failures.path) && failures.take()
        };
        if rules.failures.iter().find(hits).is_some() {
            return Some(DiskError::os(operation, path, libc::EIO));
        }
        let needs_space = matches!(operation, Operation::Write | Operation::Zero | Operation::Create);
        (needs_space && self.is_full(path)).then(|| DiskError::os(operation, path, libc::ENOSPC))
    }

    /// How much longer an operation on `path` is to take.
    fn delay(&self, path: &Path) -> Duration {
        match &self.rules.load().slow {
            Some((part, delay)) if self.is_in(path, part) => *delay,
            _ => Duration::ZERO,
        }
    }

    /// What a blocking operation goes through before it happens.
    fn pass(&self, operation: Operation, path: &Path) -> Result<(), DiskError> {
        let delay = self.delay(path);
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        self.refuse(operation, path).map_or(Ok(()), Err)
    }

    fn is_in(&self, path: &Path, part: &str) -> bool {
        path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().contains(part)
    }
}

impl Rules {
    fn change(&mut self, command: &FaultCommand) {
        let failures = |operation, path: &String, count: u64| {
            let (path, left) = (path.clone(), AtomicU64::new(count));
            Arc::new(Failures { operation, path, left })
        };
        self.failures.retain(|failures| failures.left.load(Ordering::Acquire) > 0);
        match command {
            FaultCommand::SyncError { path, count } => self.failures.push(failures(Operation::Sync, path, *count)),
            FaultCommand::WriteError { path, count } => self.failures.push(failures(Operation::Write, path, *count)),
            FaultCommand::NoSpace { on, path } => self.no_space = on.then(|| path.clone()),
            FaultCommand::Slow { millis: 0, .. } => self.slow = None,
            FaultCommand::Slow { millis, path } => self.slow = Some((path.clone(), Duration::from_millis(*millis))),
            FaultCommand::Clear {} => *self = Self::default(),
        }
    }
}

/// Another disk behind a [`FaultSwitch`].
pub struct FaultyDisk {
    inner: Arc<dyn Disk>,
    switch: Arc<FaultSwitch>,
}

impl FaultyDisk {
    /// `inner`, with the faults that `switch` is told to cause.
    pub fn new(inner: Arc<dyn Disk>, switch: Arc<FaultSwitch>) -> Self {
        Self { inner, switch }
    }
}

impl Disk for FaultyDisk {
    fn backend(&self) -> Backend {
        self.inner.backend()
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        if self.switch.is_full(path) {
            return Err(DiskError::os(Operation::CreateDir, path, libc::ENOSPC));
        }
        self.inner.create_dir_all(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>, DiskError> {
        self.inner.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError> {
        if mode == OpenMode::Create {
            self.switch.pass(Operation::Create, path)?;
        }
        let file = self.inner.open(path, mode)?;
        Ok(FaultyFile::wrap(file, &self.switch))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        self.inner.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        self.inner.remove_dir_all(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        self.switch.pass(Operation::SyncDir, dir)?;
        self.inner.sync_dir(dir)
    }

    fn space(&self, path: &Path) -> Result<Space, DiskError> {
        let mut space = self.inner.space(path)?;
        if self.switch.reports_full() {
            space.free_bytes = 0;
        }
        Ok(space)
    }

    fn write_queue(&self, options: &QueueOptions, arena: &Arc<Arena>) -> Result<Box<dyn WriteQueue>, DiskError> {
        let inner = self.inner.write_queue(options, arena)?;
        Ok(Box::new(FaultyQueue::new(inner, Arc::clone(&self.switch), options.depth)?))
    }
}

/// A file of a [`FaultyDisk`].
struct FaultyFile {
    inner: Arc<dyn DiskFile>,
    switch: Arc<FaultSwitch>,
}

impl FaultyFile {
    fn wrap(inner: Arc<dyn DiskFile>, switch: &Arc<FaultSwitch>) -> Arc<dyn DiskFile> {
        let switch = Arc::clone(switch);
        Arc::new(Self { inner, switch })
    }
}

impl fmt::Debug for FaultyFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("FaultyFile").field(&self.inner).finish()
    }
}

impl DiskFile for FaultyFile {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.inner.len()
    }

    fn read_at(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        self.inner.read_at(out, file_offset)
    }

    fn read_uncached_at(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        self.inner.read_uncached_at(out, file_offset)
    }

    fn will_need(&self, file_offset: u64, len: u64) {
        self.inner.will_need(file_offset, len);
    }

    fn write_all_at(&self, data: &[u8], file_offset: u64) -> Result<(), DiskError> {
        self.switch.pass(Operation::Write, self.path())?;
        self.inner.write_all_at(data, file_offset)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.switch.pass(Operation::Sync, self.path())?;
        self.inner.sync()
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.switch.pass(Operation::SetLen, self.path())?;
        self.inner.set_len(len)
    }

    fn raw_fd(&self) -> Option<RawFd> {
        self.inner.raw_fd()
    }

    /// The file of the other disk: its queue has to recognise it.
    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }
}
