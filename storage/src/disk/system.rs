//! The operating system's file systems, and the choice of how they are written.

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::blocking::BlockingQueue;
use super::file::{DirectIo, OsFile, sync_dir};
use super::tokio_uring::TokioUringQueue;
use super::uring::UringQueue;
use super::{
    Arena, Backend, BackendKind, DirEntry, Disk, DiskError, DiskFile, OpenMode, Operation, QueueOptions, Space,
    WriteQueue,
};

/// Which home to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// io_uring where the kernel allows it, else blocking calls on threads.
    #[default]
    Auto,
    /// io_uring, submitted by the queue's own thread; an error where the kernel refuses it.
    IoUring,
    /// tokio-uring on a thread of its own; an error where the kernel refuses io_uring.
    TokioUring,
    /// Blocking calls on threads.
    Blocking,
}

/// How files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskOptions {
    /// Which home.
    pub backend: BackendChoice,
    /// Whether queued writes pass the page cache where the file system can.
    pub o_direct: bool,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self { backend: BackendChoice::Auto, o_direct: true }
    }
}

/// Opens the disk: the one place that decides which home serves it.
pub fn open_disk(options: DiskOptions) -> Result<Arc<dyn Disk>, DiskError> {
    let (kind, refused) = choose(options.backend)?;
    let direct_io = DirectIo::new(options.o_direct);
    Ok(Arc::new(SystemDisk { kind, refused, direct_io, registered: AtomicBool::new(false) }))
}

fn choose(choice: BackendChoice) -> Result<(BackendKind, Option<i32>), DiskError> {
    let refused = |errno| DiskError::os(Operation::QueueSetup, Path::new("io_uring"), errno);
    match choice {
        BackendChoice::Blocking => Ok((BackendKind::Blocking, None)),
        BackendChoice::IoUring => probe().map(|()| (BackendKind::IoUring, None)).map_err(refused),
        BackendChoice::TokioUring => probe().map(|()| (BackendKind::TokioUring, None)).map_err(refused),
        BackendChoice::Auto => match probe() {
            Ok(()) => Ok((BackendKind::IoUring, None)),
            Err(errno) => {
                tracing::warn!(errno, "the kernel refuses io_uring: writing with blocking calls on threads");
                Ok((BackendKind::Blocking, Some(errno)))
            }
        },
    }
}

/// Asks the kernel for a small ring, and gives it back.
fn probe() -> Result<(), i32> {
    match io_uring::IoUring::new(2) {
        Ok(_ring) => Ok(()),
        Err(error) => Err(error.raw_os_error().unwrap_or(libc::ENOSYS)),
    }
}

/// Files of the operating system.
#[derive(Debug)]
struct SystemDisk {
    kind: BackendKind,
    refused: Option<i32>,
    direct_io: Arc<DirectIo>,
    registered: AtomicBool,
}

impl Disk for SystemDisk {
    fn backend(&self) -> Backend {
        let registered = self.registered.load(Ordering::Relaxed);
        Backend { kind: self.kind, o_direct: self.direct_io.works(), registered, refused: self.refused }
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        let here = |path: &Path| path.as_os_str().is_empty() || path.is_dir();
        let missing: Vec<&Path> = path.ancestors().take_while(|path| !here(path)).collect();
        fs::create_dir_all(path).map_err(|error| DiskError::io(Operation::CreateDir, path, &error))?;
        // The topmost new folder is an entry of one that was there, and so on downwards.
        missing.iter().rev().filter_map(|new| new.parent()).try_for_each(sync_dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>, DiskError> {
        let failed = |error: io::Error| DiskError::io(Operation::List, dir, &error);
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            let len = if metadata.is_dir() { 0 } else { metadata.len() };
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(DirEntry { name, len, is_dir: metadata.is_dir() });
        }
        entries.sort();
        Ok(entries)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError> {
        Ok(Arc::new(OsFile::open(path, mode, &self.direct_io)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        fs::rename(from, to).map_err(|error| DiskError::io(Operation::Rename, from, &error))
    }

    fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        fs::remove_file(path).map_err(|error| DiskError::io(Operation::Remove, path, &error))
    }

    fn remove_dir_all(&self, path: &Path) -> Result<(), DiskError> {
        fs::remove_dir_all(path).map_err(|error| DiskError::io(Operation::Remove, path, &error))
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        sync_dir(dir)
    }

    fn space(&self, path: &Path) -> Result<Space, DiskError> {
        let failed = |errno| DiskError::os(Operation::Space, path, errno);
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| failed(libc::EINVAL))?;
        let mut answer = MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: a terminated path and an answer that outlive the call.
        if unsafe { libc::statvfs(name.as_ptr(), answer.as_mut_ptr()) } != 0 {
            return Err(failed(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)));
        }
        // SAFETY: zeroes are a valid statvfs, and the call succeeded.
        let answer = unsafe { answer.assume_init() };
        let unit = answer.f_frsize.max(1);
        Ok(Space { free_bytes: answer.f_bavail * unit, total_bytes: answer.f_blocks * unit })
    }

    fn write_queue(&self, options: &QueueOptions, arena: &Arc<Arena>) -> Result<Box<dyn WriteQueue>, DiskError> {
        let failed = |error: io::Error| DiskError::io(Operation::QueueSetup, Path::new(self.kind.name()), &error);
        match self.kind {
            BackendKind::IoUring => {
                let queue = UringQueue::new(options, arena, &self.direct_io).map_err(failed)?;
                self.registered.store(queue.is_registered(), Ordering::Relaxed);
                Ok(Box::new(queue))
            }
            BackendKind::TokioUring => {
                let queue = TokioUringQueue::new(options, arena, &self.direct_io).map_err(failed)?;
                self.registered.store(queue.is_registered(), Ordering::Relaxed);
                Ok(Box::new(queue))
            }
            BackendKind::Blocking | BackendKind::Memory => {
                Ok(Box::new(BlockingQueue::new(options, &self.direct_io).map_err(failed)?))
            }
        }
    }
}
