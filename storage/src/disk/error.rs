//! What can go wrong at the disk: which operation, on which file, and why.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What was being done when a disk operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each variant is the name of a system call or of a method")]
pub enum Operation {
    CreateDir,
    List,
    Open,
    Create,
    Rename,
    Remove,
    SyncDir,
    Space,
    Length,
    Read,
    Write,
    Zero,
    Sync,
    SetLen,
    QueueSetup,
    Submit,
}

impl fmt::Display for Operation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::CreateDir => "create folder",
            Self::List => "list",
            Self::Open => "open",
            Self::Create => "create",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::SyncDir => "sync folder",
            Self::Space => "measure space at",
            Self::Length => "measure",
            Self::Read => "read",
            Self::Write => "write",
            Self::Zero => "write zeroes to",
            Self::Sync => "sync",
            Self::SetLen => "set length of",
            Self::QueueSetup => "set up the write queue",
            Self::Submit => "submit writes",
        })
    }
}

/// A failed disk operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The operating system refused.
    #[error("cannot {operation} {}{}: {}", .path.display(), At(*.file_offset), io::Error::from_raw_os_error(*.errno))]
    Os {
        /// What was tried.
        operation: Operation,
        /// On which file or folder (empty for queue set-up).
        path: PathBuf,
        /// Where in the file.
        file_offset: Option<u64>,
        /// The errno.
        errno: i32,
    },
    /// A write or read of zero bytes where more were asked for.
    #[error("cannot {operation} {} at {file_offset}: the system moved 0 of {len} bytes", .path.display())]
    NoProgress {
        /// What was tried.
        operation: Operation,
        /// On which file.
        path: PathBuf,
        /// Where in the file.
        file_offset: u64,
        /// Bytes still to move.
        len: u64,
    },
    /// A queued operation whose numbers are not multiples of the block size, or leave their slot.
    #[error("{} at {file_offset}: {len} bytes from {slot_start} are not whole blocks inside a slot", .path.display())]
    Misaligned {
        /// On which file.
        path: PathBuf,
        /// Where in the file.
        file_offset: u64,
        /// First byte in the slot.
        slot_start: u64,
        /// Bytes.
        len: u64,
    },
    /// A file of another home was handed to a queue.
    #[error("{} does not belong to this disk", .path.display())]
    ForeignFile {
        /// Which file.
        path: PathBuf,
    },
    /// The file was opened before a simulated power cut.
    #[error("cannot {operation} {}: opened before the power cut", .path.display())]
    Stale {
        /// What was tried.
        operation: Operation,
        /// Which file.
        path: PathBuf,
    },
    /// The thread that serves the queue is gone.
    #[error("cannot {operation} {}: the thread of the write queue has ended", .path.display())]
    QueueGone {
        /// What was tried.
        operation: Operation,
        /// Which file.
        path: PathBuf,
    },
}

/// Prints ` at N` when a file offset is known.
struct At(Option<u64>);

impl fmt::Display for At {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |file_offset| write!(out, " at {file_offset}"))
    }
}

impl DiskError {
    /// An operating system error on `path`.
    pub fn os(operation: Operation, path: &Path, errno: i32) -> Self {
        Self::Os { operation, path: path.to_owned(), file_offset: None, errno }
    }

    /// An operating system error at a place in a file.
    pub fn os_at(operation: Operation, path: &Path, file_offset: u64, errno: i32) -> Self {
        Self::Os { operation, path: path.to_owned(), file_offset: Some(file_offset), errno }
    }

    /// An [`io::Error`] on `path`; one without errno counts as EIO.
    pub fn io(operation: Operation, path: &Path, error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(match error.kind() {
            io::ErrorKind::NotFound => libc::ENOENT,
            io::ErrorKind::AlreadyExists => libc::EEXIST,
            io::ErrorKind::InvalidInput => libc::EINVAL,
            _ => libc::EIO,
        });
        Self::os(operation, path, errno)
    }

    /// The errno, when the operating system (or a simulated fault) gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Os { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// No space or quota left: the write may be retried once there is.
    pub fn is_no_space(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOSPC | libc::EDQUOT))
    }

    /// The file or folder does not exist.
    pub fn is_not_found(&self) -> bool {
        self.errno() == Some(libc::ENOENT)
    }

    /// The file or folder exists already.
    pub fn is_already_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
}
