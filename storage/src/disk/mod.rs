//! The seam to the disk: everything the rest of the crate may do with files, and the homes that do it.
//!
//! [`Disk`] and [`DiskFile`] are blocking (opening, recovery, readers); [`WriteQueue`] is the poller's side, which
//! writes and syncs without blocking its thread. Four homes implement them: io_uring with explicit submission,
//! tokio-uring on a thread of its own, blocking calls on threads of their own, and memory with faults for tests.
//! [`open_disk`] is the one place that chooses.

use std::any::Any;
use std::fmt;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod blocking;
mod buffer;
#[cfg(test)]
mod conformance;
mod crew;
mod error;
mod faulty;
mod file;
pub mod memory;
mod notify;
mod perform;
mod system;
mod tokio_uring;
mod uring;

pub use buffer::{Arena, ArenaError, Slot, SlotPool};
pub use error::{DiskError, Operation};
pub use faulty::{FaultCommand, FaultRefused, FaultSwitch, FaultyDisk};
pub use system::{BackendChoice, DiskOptions, open_disk};

/// The unit of every queued write: file offsets, slot offsets and lengths are multiples of it.
pub const BLOCK: usize = 4096;

/// The most operations a queue keeps in flight.
const MAX_DEPTH: usize = 4096;

/// Blocking file operations; shared as `Arc<dyn Disk>`.
pub trait Disk: Send + Sync + 'static {
    /// What really runs, after probing and fallback.
    fn backend(&self) -> Backend;
    /// Creates a folder and its parents, and makes the new entries durable.
    fn create_dir_all(&self, path: &Path) -> Result<(), DiskError>;
    /// The entries of a folder, in name order.
    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>, DiskError>;
    /// Opens a file; a file it creates is durable only after [`Disk::sync_dir`] on its folder.
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError>;
    /// Renames a file, replacing the target; durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError>;
    /// Removes a file; durable after [`Disk::sync_dir`].
    fn remove_file(&self, path: &Path) -> Result<(), DiskError>;
    /// Removes a folder with all it holds; durable after [`Disk::sync_dir`] on its parent.
    fn remove_dir_all(&self, path: &Path) -> Result<(), DiskError>;
    /// Makes the entries of a folder (creations, renames, removals) durable.
    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError>;
    /// Free and total bytes of the file system that holds `path`.
    fn space(&self, path: &Path) -> Result<Space, DiskError>;
    /// A queue for writes from `arena`; made on the thread that will use it.
    fn write_queue(&self, options: &QueueOptions, arena: &Arc<Arena>) -> Result<Box<dyn WriteQueue>, DiskError>;
}

/// An open file: positioned blocking I/O.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// The path it was opened under.
    fn path(&self) -> &Path;
    /// Length in bytes, including a zeroed-ahead window.
    fn len(&self) -> Result<u64, DiskError>;
    /// True when the file holds no byte.
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }
    /// Fills as much of `out` as the file holds from `file_offset`; fewer bytes mean the end of the file.
    fn read_at(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError>;
    /// Like [`DiskFile::read_at`] past the page cache, at any alignment.
    ///
    /// Falls back to `read_at` only where the file system has no O_DIRECT.
    fn read_uncached_at(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError>;
    /// Says that a range will soon be read through the page cache, so that the device can start; promises nothing.
    fn will_need(&self, _file_offset: u64, _len: u64) {}
    /// Writes all of `data`, extending the file when needed; durable after [`DiskFile::sync`].
    fn write_all_at(&self, data: &[u8], file_offset: u64) -> Result<(), DiskError>;
    /// Makes data and length durable. A failed sync is final: never retry it.
    fn sync(&self) -> Result<(), DiskError>;
    /// Cuts or extends (with a hole) the file; durable after [`DiskFile::sync`].
    fn set_len(&self, len: u64) -> Result<(), DiskError>;
    /// The descriptor for `sendfile` and `mmap`; `None` on the memory disk.
    fn raw_fd(&self) -> Option<RawFd>;
    /// The concrete file, for the queue of the same home.
    fn as_any(&self) -> &dyn Any;
}

/// Queued writes of one thread: submit, kick, collect completions.
///
/// Operations on different files run in parallel and complete in any order. Two operations of one file that must
/// be ordered are not submitted together: the second follows the completion of the first.
pub trait WriteQueue {
    /// Takes an operation; hands it back when `depth` operations are in flight (nothing is lost).
    ///
    /// It happens after the next [`WriteQueue::kick`].
    fn submit(&mut self, op: DiskOp) -> Result<(), DiskOp>;
    /// Starts everything submitted, with one system call or one wake-up.
    fn kick(&mut self) -> Result<(), DiskError>;
    /// Moves what has completed to `out`; never blocks.
    fn completions(&mut self, out: &mut Vec<DiskCompletion>);
    /// Blocks until a completion waits to be collected or `timeout` passes. Kicks first.
    fn wait(&mut self, timeout: Duration);
    /// Becomes readable when completions wait. Level- and edge-triggered pollers both work, provided that
    /// [`WriteQueue::completions`] is called after each wake-up.
    fn notify_fd(&self) -> Option<RawFd>;
    /// Operations submitted whose completion has not been handed out yet.
    fn in_flight(&self) -> usize;
}

/// One queued operation on one file.
#[derive(Debug)]
pub struct DiskOp {
    /// Handed back in the completion; the queue gives it no meaning.
    pub token: u64,
    /// The file it acts on (any file of the same disk for [`OpKind::Create`]).
    pub file: Arc<dyn DiskFile>,
    /// What to do.
    pub kind: OpKind,
}

impl DiskOp {
    /// What an error about it names.
    fn names(&self) -> (Operation, &Path) {
        let operation = match &self.kind {
            OpKind::Write { .. } => Operation::Write,
            OpKind::Zero { .. } => Operation::Zero,
            OpKind::Sync => Operation::Sync,
            OpKind::SetLen { .. } => Operation::SetLen,
            OpKind::Create { path } => return (Operation::Create, path),
        };
        (operation, self.file.path())
    }

    /// Its completion, where it makes no file and nobody took the time.
    fn completed(self, result: Result<(), DiskError>) -> DiskCompletion {
        let (token, chunks) = (self.token, self.kind.into_chunks());
        DiskCompletion { token, result, chunks, file: None, times: OpTimes::default() }
    }

    /// Refuses what is not whole blocks, or leaves its slot.
    fn check(&self) -> Result<(), DiskError> {
        let whole = |number: u64| number.is_multiple_of(BLOCK as u64);
        let misaligned = |file_offset, slot_start, len| {
            Err(DiskError::Misaligned { path: self.file.path().to_owned(), file_offset, slot_start, len })
        };
        match &self.kind {
            OpKind::Write { chunks, .. } => {
                for chunk in chunks {
                    let (start, len) = (u64::from(chunk.slot_start), u64::from(chunk.len));
                    let inside = len > 0 && start + len <= chunk.slot.len() as u64;
                    if !(inside && whole(start) && whole(len) && whole(chunk.file_offset)) {
                        return misaligned(chunk.file_offset, start, len);
                    }
                }
                Ok(())
            }
            OpKind::Zero { file_offset, len } if !(whole(*file_offset) && whole(*len)) => {
                misaligned(*file_offset, 0, *len)
            }
            _ => Ok(()),
        }
    }
}

/// What a queued operation does.
#[derive(Debug)]
pub enum OpKind {
    /// Writes all chunks (none shares a block with another, nor with a write in flight); one completion.
    ///
    /// With `sync` they are durable when it completes, together with everything of this file whose completion was
    /// collected before.
    Write {
        /// What to write, and where; handed back in the completion.
        chunks: Vec<Chunk>,
        /// Whether the completion waits for the device.
        sync: bool,
    },
    /// Writes zeroes to a block-aligned range; made durable by the next synced operation on the file.
    Zero {
        /// First byte, a multiple of [`BLOCK`].
        file_offset: u64,
        /// Bytes, a multiple of [`BLOCK`].
        len: u64,
    },
    /// Makes everything written to the file so far durable.
    Sync,
    /// Cuts or extends the file, and syncs it.
    SetLen {
        /// The new length in bytes.
        len: u64,
    },
    /// Creates a new file (an existing one is an error) and syncs its folder; the completion carries the file.
    Create {
        /// Where.
        path: PathBuf,
    },
}

impl OpKind {
    /// The chunks of a write, to be handed back.
    fn into_chunks(self) -> Vec<Chunk> {
        match self {
            Self::Write { chunks, .. } => chunks,
            _ => Vec::new(),
        }
    }
}

/// A part of a slot to be written at a place of a file; all three numbers are multiples of [`BLOCK`].
#[derive(Debug)]
pub struct Chunk {
    /// The buffer; owned by the queue while the write is in flight.
    pub slot: Slot,
    /// First byte inside the slot.
    pub slot_start: u32,
    /// Bytes to write.
    pub len: u32,
    /// Where in the file.
    pub file_offset: u64,
}

impl Chunk {
    /// The bytes to write; empty when start and length do not fit the slot.
    pub fn data(&self) -> &[u8] {
        let start = self.slot_start as usize;
        self.slot.get(start..start + self.len as usize).unwrap_or_default()
    }
}

/// The end of one operation.
#[derive(Debug)]
pub struct DiskCompletion {
    /// The token of the operation.
    pub token: u64,
    /// Whether all of it was done.
    pub result: Result<(), DiskError>,
    /// The chunks of a write, successful or not, for reuse.
    pub chunks: Vec<Chunk>,
    /// The file an [`OpKind::Create`] made.
    pub file: Option<Arc<dyn DiskFile>>,
    /// When it did what.
    pub times: OpTimes,
}

/// When the parts of an operation were done, as far as its home tells them apart; for traces and nothing else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpTimes {
    /// The disk had it.
    pub started: Option<Instant>,
    /// All of it was written, and its sync could begin.
    pub written: Option<Instant>,
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Reading an existing file.
    Read,
    /// Reading and writing an existing file.
    ReadWrite,
    /// A new file; an error when it exists.
    Create,
    /// An existing file, or a new one.
    CreateOrOpen,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name inside the folder.
    pub name: String,
    /// Length in bytes, 0 for folders.
    pub len: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes this process may still write.
    pub free_bytes: u64,
    /// Size of the file system.
    pub total_bytes: u64,
}

/// Limits of a write queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueOptions {
    /// Operations in flight before [`WriteQueue::submit`] refuses, 1 to 4096.
    pub depth: usize,
    /// Threads of the blocking home; 0 runs every operation inside [`WriteQueue::kick`].
    pub threads: usize,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self { depth: 256, threads: 4 }
    }
}

/// The home that serves a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendKind {
    /// io_uring, submitted explicitly by the thread that owns the queue.
    IoUring,
    /// io_uring through tokio-uring, on a thread of its own.
    TokioUring,
    /// `pwritev2` and `fdatasync` on threads of their own.
    Blocking,
    /// Memory, for tests and the simulator.
    Memory,
}

impl BackendKind {
    /// The name used in configuration, status and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::TokioUring => "tokio_uring",
            Self::Blocking => "blocking",
            Self::Memory => "memory",
        }
    }
}

/// What a disk really uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// The home.
    pub kind: BackendKind,
    /// Whether queued writes pass the page cache; false once a file system refused it.
    pub o_direct: bool,
    /// Whether the arena is registered with the kernel; false before the first queue, or once it was refused.
    pub registered: bool,
    /// The errno with which the kernel refused io_uring, when that made [`BackendChoice::Auto`] fall back.
    pub refused: Option<i32>,
}

impl fmt::Display for Backend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.kind.name())
    }
}
