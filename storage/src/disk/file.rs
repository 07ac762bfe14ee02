//! Files of the operating system: one descriptor through the page cache, one past it.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::{BLOCK, DiskError, DiskFile, OpenMode, Operation};

/// The largest buffer an unaligned uncached read goes through.
const BOUNCE_BYTES: usize = 1 << 20;
/// Bytes read ahead by one call: kernels cut longer ranges at their own idea of read-ahead.
const AHEAD_STEP_BYTES: u64 = 512 * 1024;

/// Whether files are written past the page cache; shared by all files of a disk.
#[derive(Debug)]
pub(super) struct DirectIo {
    pub(super) wanted: bool,
    refused: AtomicBool,
}

impl DirectIo {
    pub(super) fn new(wanted: bool) -> Arc<Self> {
        Arc::new(Self { wanted, refused: AtomicBool::new(false) })
    }

    /// Wanted, and refused by no file so far.
    pub(super) fn works(&self) -> bool {
        self.wanted && !self.refused.load(Ordering::Relaxed)
    }
}

/// An open file.
#[derive(Debug)]
pub(super) struct OsFile {
    file: File,
    path: PathBuf,
    writable: bool,
    direct_io: Arc<DirectIo>,
    /// The second descriptor, opened when first needed; `None` where the file system has no O_DIRECT.
    direct: OnceLock<Option<File>>,
    /// Something was written that no sync covers yet.
    unsynced: AtomicBool,
}

impl OsFile {
    pub(super) fn open(path: &Path, mode: OpenMode, direct_io: &Arc<DirectIo>) -> Result<Self, DiskError> {
        let writable = mode != OpenMode::Read;
        let mut options = OpenOptions::new();
        options.read(true).write(writable).mode(0o640);
        options.create_new(mode == OpenMode::Create).create(mode == OpenMode::CreateOrOpen);
        let operation = if mode == OpenMode::Create { Operation::Create } else { Operation::Open };
        let file = options.open(path).map_err(|error| DiskError::io(operation, path, &error))?;
        let direct_io = Arc::clone(direct_io);
        let (direct, unsynced) = (OnceLock::new(), AtomicBool::new(false));
        Ok(Self { file, path: path.to_owned(), writable, direct_io, direct, unsynced })
    }

    /// Creates a file that survives a power cut, ready for queued writes.
    pub(super) fn create_durable(path: &Path, direct_io: &Arc<DirectIo>) -> Result<Self, DiskError> {
        let file = Self::open(path, OpenMode::Create, direct_io)?;
        file.file.sync_all().map_err(|error| DiskError::io(Operation::Sync, path, &error))?;
        sync_dir(path.parent().unwrap_or(path))?;
        file.write_fd();
        Ok(file)
    }

    /// The descriptor for queued, block-aligned writes.
    pub(super) fn write_fd(&self) -> RawFd {
        let direct = if self.direct_io.wanted { self.direct() } else { None };
        direct.unwrap_or(&self.file).as_raw_fd()
    }

    /// Opens the file once more for queued writes, with further flags.
    pub(super) fn reopen_for_writes(&self, flags: i32) -> io::Result<File> {
        let direct = self.direct_io.wanted && self.direct().is_some();
        self.reopen(flags | if direct { libc::O_DIRECT } else { 0 })
    }

    /// Opens the file once more with these flags.
    fn reopen(&self, flags: i32) -> io::Result<File> {
        // Through the descriptor, not the path: the file may have been renamed or removed.
        let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        OpenOptions::new().read(true).write(self.writable).custom_flags(flags).open(link)
    }

    fn direct(&self) -> Option<&File> {
        let open = || {
            let direct = self.reopen(libc::O_DIRECT).ok().filter(takes_blocks);
            if direct.is_none() && !self.direct_io.refused.swap(true, Ordering::Relaxed) && self.direct_io.wanted {
                tracing::warn!(path = %self.path.display(), "no O_DIRECT on this file system: writes pass the page cache");
            }
            direct
        };
        self.direct.get_or_init(open).as_ref()
    }

    /// Remembers that something is written but not synced.
    pub(super) fn mark_unsynced(&self) {
        self.unsynced.store(true, Ordering::Release);
    }

    /// Whether earlier writes wait for a sync; the caller is about to do it (or marks again).
    pub(super) fn take_unsynced(&self) -> bool {
        self.unsynced.load(Ordering::Acquire) && self.unsynced.swap(false, Ordering::AcqRel)
    }

    /// Data, and the length needed to reach it.
    pub(super) fn sync_data(&self) -> Result<(), DiskError> {
        self.take_unsynced();
        let synced = self.file.sync_data();
        synced.map_err(|error| self.failed_sync(&error))
    }

    /// Sets the length and makes it durable.
    pub(super) fn set_len_durable(&self, len: u64) -> Result<(), DiskError> {
        self.set_len(len)?;
        self.take_unsynced();
        self.file.sync_all().map_err(|error| self.failed_sync(&error))
    }

    fn failed_sync(&self, error: &io::Error) -> DiskError {
        self.mark_unsynced();
        DiskError::io(Operation::Sync, &self.path, error)
    }

    fn failed(&self, operation: Operation, file_offset: u64) -> impl Fn(io::Error) -> DiskError {
        move |error| DiskError::os_at(operation, &self.path, file_offset, error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Fills `out` from a descriptor until it is full or the file ends.
    fn fill(&self, file: &File, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        let mut filled = 0;
        while filled < out.len() {
            let at = file_offset + filled as u64;
            match file.read_at(&mut out[filled..], at) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(Operation::Read, at)(error)),
            }
        }
        Ok(filled)
    }

    /// Fills `out`, whose address and length are whole blocks as `file_offset` is, without another copy.
    fn fill_direct(&self, direct: &File, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        let mut filled = 0;
        while filled < out.len() {
            let at = file_offset + filled as u64;
            match direct.read_at(&mut out[filled..], at) {
                Ok(count) => {
                    filled += count;
                    // A read that ends inside a block is the end of the file, and could not go on unaligned.
                    if count == 0 || !count.is_multiple_of(BLOCK) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(Operation::Read, at)(error)),
            }
        }
        Ok(filled)
    }

    /// Whether the page cache holds a byte of the file.
    fn is_cached(&self, file_offset: u64) -> bool {
        let mut byte = 0u8;
        let part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let Ok(at) = libc::off_t::try_from(file_offset) else { return true };
        // SAFETY: one vector of one byte, which outlives the call, and an open descriptor.
        unsafe { libc::preadv2(self.file.as_raw_fd(), &raw const part, 1, at, libc::RWF_NOWAIT) > 0 }
    }

    /// Reads whole blocks around the range into an aligned buffer, and copies the range out of it.
    fn fill_bounced(&self, direct: &File, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        let block = BLOCK as u64;
        let span = (file_offset % block) as usize + out.len();
        let mut bounce = Blocks::new(span.div_ceil(BLOCK).min(BOUNCE_BYTES / BLOCK));
        let mut filled = 0;
        while filled < out.len() {
            let at = file_offset + filled as u64;
            let skip = (at % block) as usize;
            let whole = (skip + out.len() - filled).div_ceil(BLOCK) * BLOCK;
            let bytes = bounce.bytes();
            let wanted = whole.min(bytes.len());
            // One call: a read that ends inside a block is the end of the file, and could not go on unaligned.
            let count = loop {
                match direct.read_at(&mut bytes[..wanted], at - skip as u64) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other.map_err(self.failed(Operation::Read, at))?,
                }
            };
            let usable = count.saturating_sub(skip).min(out.len() - filled);
            out[filled..filled + usable].copy_from_slice(&bytes[skip..skip + usable]);
            filled += usable;
            if usable == 0 || !count.is_multiple_of(BLOCK) {
                break;
            }
        }
        Ok(filled)
    }
}

impl DiskFile for OsFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64, DiskError> {
        let metadata = self.file.metadata();
        metadata.map(|metadata| metadata.len()).map_err(|error| DiskError::io(Operation::Length, &self.path, &error))
    }

    fn read_at(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        self.fill(&self.file, out, file_offset)
    }

    fn read_uncached_at(&self, out: &mut [u8], file_offset: u64) -> Result<usize, DiskError> {
        match self.direct() {
            Some(direct) if is_aligned(out, file_offset) => self.fill_direct(direct, out, file_offset),
            Some(direct) => self.fill_bounced(direct, out, file_offset),
            None => self.fill(&self.file, out, file_offset),
        }
    }

    fn will_need(&self, file_offset: u64, len: u64) {
        let Some(last) = len.checked_sub(1).and_then(|before| file_offset.checked_add(before)) else { return };
        if self.is_cached(last) {
            return;
        }
        for at in (file_offset..=last).step_by(AHEAD_STEP_BYTES as usize) {
            let step = AHEAD_STEP_BYTES.min(last - at + 1);
            let (Ok(at), Ok(step)) = (libc::off_t::try_from(at), libc::off_t::try_from(step)) else { return };
            // SAFETY: an open descriptor and numbers; a refusal changes nothing.
            unsafe { libc::posix_fadvise(self.file.as_raw_fd(), at, step, libc::POSIX_FADV_WILLNEED) };
        }
    }

    fn write_all_at(&self, data: &[u8], file_offset: u64) -> Result<(), DiskError> {
        self.mark_unsynced();
        self.file.write_all_at(data, file_offset).map_err(self.failed(Operation::Write, file_offset))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.sync_data()
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.mark_unsynced();
        self.file.set_len(len).map_err(|error| DiskError::io(Operation::SetLen, &self.path, &error))
    }

    fn raw_fd(&self) -> Option<RawFd> {
        Some(self.file.as_raw_fd())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes a folder's entries durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), DiskError> {
    let here = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let synced = File::open(here).and_then(|opened| opened.sync_all());
    synced.map_err(|error| DiskError::io(Operation::SyncDir, dir, &error))
}

/// Whether direct I/O on this file takes block-aligned ranges; a kernel that cannot say took the open for a yes.
fn takes_blocks(file: &File) -> bool {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path with AT_EMPTY_PATH asks about the descriptor; the answer outlives the call.
    let result = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, answer.as_mut_ptr())
    };
    // SAFETY: zeroes are a valid statx, and the kernel only writes plain numbers.
    let answer = unsafe { answer.assume_init() };
    if result != 0 || answer.stx_mask & libc::STATX_DIOALIGN == 0 {
        return true;
    }
    let aligned = |align: u32| align > 0 && BLOCK.is_multiple_of(align as usize);
    aligned(answer.stx_dio_mem_align) && aligned(answer.stx_dio_offset_align)
}

/// Whether O_DIRECT takes this read as it is.
fn is_aligned(out: &[u8], file_offset: u64) -> bool {
    let whole = |number: usize| number.is_multiple_of(BLOCK);
    whole(out.as_ptr().addr()) && whole(out.len()) && file_offset.is_multiple_of(BLOCK as u64)
}

/// A block as the allocator aligns it.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct AlignedBlock([u8; BLOCK]);

/// Aligned memory for one uncached read.
struct Blocks(Vec<AlignedBlock>);

impl Blocks {
    fn new(count: usize) -> Self {
        Self(vec![AlignedBlock([0; BLOCK]); count.max(1)])
    }

    fn bytes(&mut self) -> &mut [u8] {
        let bytes = self.0.len() * BLOCK;
        // SAFETY: the vector holds exactly that many bytes, without padding, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), bytes) }
    }
}
