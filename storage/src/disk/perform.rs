//! One queued operation, done with blocking system calls.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::file::{DirectIo, OsFile};
use super::{Arena, BLOCK, Chunk, DiskCompletion, DiskError, DiskFile, DiskOp, OpKind, OpTimes, Operation};

/// Bytes of the run of zeroes that windows are written from.
pub(super) const ZERO_BYTES: usize = 1 << 20;
/// The most buffers one system call takes.
const MAX_VECTORS: usize = 1024;

/// The largest one, within what one call moves.
const MAX_VECTOR_BYTES: usize = 1 << 30;

/// Chunks that follow each other in the file, and can be written by one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Where the run begins.
    pub(super) file_offset: u64,
    /// Its bytes.
    pub(super) bytes: u64,
    /// First of its vectors.
    pub(super) start: usize,
    /// One past its last vector.
    pub(super) end: usize,
}

/// The vectors and runs of a write, reused from operation to operation.
#[derive(Default)]
pub(super) struct Runs {
    pub(super) vectors: Vec<libc::iovec>,
    pub(super) runs: Vec<Run>,
}

// SAFETY: the pointers lead into slots (or the zeroes) that are owned for as long as the vectors are used.
unsafe impl Send for Runs {}

impl Runs {
    /// Joins chunks that continue each other.
    pub(super) fn of_chunks(&mut self, chunks: &[Chunk]) {
        self.clear();
        for chunk in chunks {
            let data = chunk.data();
            self.add(chunk.file_offset, data.as_ptr(), data.len());
        }
    }

    /// Covers a range with zeroes.
    pub(super) fn of_zeroes(&mut self, file_offset: u64, len: u64) -> io::Result<()> {
        self.clear();
        let zeroes = zeroes()?;
        let mut done = 0;
        while done < len {
            let bytes = (len - done).min(ZERO_BYTES as u64);
            self.add(file_offset + done, zeroes, bytes as usize);
            done += bytes;
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.vectors.clear();
        self.runs.clear();
    }

    fn add(&mut self, file_offset: u64, data: *const u8, len: usize) {
        let follows = self.runs.last().is_some_and(|run| run.file_offset + run.bytes == file_offset);
        if let (true, Some(run), Some(vector)) = (follows, self.runs.last_mut(), self.vectors.last_mut())
            && vector.iov_base.cast::<u8>().wrapping_add(vector.iov_len).cast_const() == data
            && vector.iov_len + len <= MAX_VECTOR_BYTES
        {
            // Slots that are neighbours in memory, too: one vector, which may be a registered buffer.
            vector.iov_len += len;
            run.bytes += len as u64;
            return;
        }
        self.vectors.push(libc::iovec { iov_base: data.cast_mut().cast(), iov_len: len });
        let end = self.vectors.len();
        match self.runs.last_mut() {
            Some(run) if follows && end - run.start <= MAX_VECTORS => {
                run.bytes += len as u64;
                run.end = end;
            }
            _ => self.runs.push(Run { file_offset, bytes: len as u64, start: end - 1, end }),
        }
    }

    /// Skips what a short write has done; false when the run is complete.
    pub(super) fn advance(&mut self, at: usize, written: u64) -> bool {
        let Some(run) = self.runs.get_mut(at) else { return false };
        let mut left = written.min(run.bytes);
        run.file_offset += left;
        run.bytes -= left;
        while left > 0 && run.start < run.end {
            let vector = &mut self.vectors[run.start];
            let step = left.min(vector.iov_len as u64) as usize;
            vector.iov_base = vector.iov_base.cast::<u8>().wrapping_add(step).cast();
            vector.iov_len -= step;
            left -= step as u64;
            run.start += usize::from(vector.iov_len == 0);
        }
        run.bytes > 0
    }
}

/// A megabyte of zeroes that nobody ever writes.
fn zeroes() -> io::Result<*const u8> {
    static ZEROES: OnceLock<Option<Arc<Arena>>> = OnceLock::new();
    let arena = ZEROES.get_or_init(|| {
        let arena = Arena::new(ZERO_BYTES, 1).ok()?;
        // SAFETY: nobody else has the mapping yet. Written once, so that it is memory of its own, pinned quickly.
        unsafe { std::ptr::write_bytes(arena.base(), 0, arena.bytes()) };
        Some(arena)
    });
    let arena = arena.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
    Ok(arena.base())
}

/// Does one operation, from start to end.
pub(super) fn perform(op: DiskOp, direct_io: &Arc<DirectIo>, scratch: &mut Runs) -> DiskCompletion {
    let checked = op.check();
    let DiskOp { token, file, kind } = op;
    let mut times = OpTimes { started: Some(Instant::now()), written: None };
    if let OpKind::Create { path } = &kind {
        let made = OsFile::create_durable(path, direct_io);
        let (result, file) = match made {
            Ok(file) => (Ok(()), Some(Arc::new(file) as Arc<dyn DiskFile>)),
            Err(error) => (Err(error), None),
        };
        return DiskCompletion { token, result, chunks: Vec::new(), file, times };
    }
    let result = match (checked, file.as_any().downcast_ref::<OsFile>()) {
        (Err(error), _) => Err(error),
        (Ok(()), None) => Err(DiskError::ForeignFile { path: file.path().to_owned() }),
        (Ok(()), Some(file)) => match &kind {
            OpKind::Write { chunks, sync } => {
                scratch.of_chunks(chunks);
                write(file, scratch, *sync, &mut times)
            }
            OpKind::Zero { file_offset, len } => zero(file, scratch, *file_offset, *len),
            OpKind::Sync => file.sync_data(),
            OpKind::SetLen { len } => file.set_len_durable(*len),
            OpKind::Create { .. } => Ok(()),
        },
    };
    DiskCompletion { token, result, chunks: kind.into_chunks(), file: None, times }
}

fn zero(file: &OsFile, scratch: &mut Runs, file_offset: u64, len: u64) -> Result<(), DiskError> {
    let covered = scratch.of_zeroes(file_offset, len);
    covered.map_err(|error| DiskError::io(Operation::Zero, file.path(), &error))?;
    write_runs(file, scratch, Operation::Zero, 0)?;
    file.mark_unsynced();
    Ok(())
}

fn write(file: &OsFile, scratch: &mut Runs, sync: bool, times: &mut OpTimes) -> Result<(), DiskError> {
    // A write that syncs itself covers only itself: what was written before needs a sync of the whole file.
    let alone = sync && scratch.runs.len() == 1 && !file.take_unsynced();
    let flags = if alone { libc::RWF_DSYNC } else { 0 };
    let written = write_runs(file, scratch, Operation::Write, flags);
    if !alone || written.is_err() {
        file.mark_unsynced();
    }
    written?;
    // A write that syncs itself does not say when it was written.
    times.written = (!alone).then(Instant::now);
    if sync && !alone { file.sync_data() } else { Ok(()) }
}

fn write_runs(file: &OsFile, scratch: &mut Runs, operation: Operation, flags: i32) -> Result<(), DiskError> {
    let fd = file.write_fd();
    for at in 0..scratch.runs.len() {
        loop {
            let run = scratch.runs[at];
            let written = write_once(fd, &scratch.vectors[run.start..run.end], run.file_offset, flags);
            let written = match written {
                Ok(0) => {
                    let (path, len) = (file.path().to_owned(), run.bytes);
                    return Err(DiskError::NoProgress { operation, path, file_offset: run.file_offset, len });
                }
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    return Err(DiskError::os_at(operation, file.path(), run.file_offset, errno));
                }
            };
            // A remainder that is not whole blocks any more would be refused by O_DIRECT: start at a block again.
            let whole = if written < run.bytes { written - written % BLOCK as u64 } else { written };
            if whole == 0 {
                let (path, len) = (file.path().to_owned(), run.bytes);
                return Err(DiskError::NoProgress { operation, path, file_offset: run.file_offset, len });
            }
            if !scratch.advance(at, whole) {
                break;
            }
        }
    }
    Ok(())
}

fn write_once(fd: RawFd, vectors: &[libc::iovec], file_offset: u64, flags: i32) -> io::Result<u64> {
    let count = i32::try_from(vectors.len()).unwrap_or(i32::MAX);
    let at = i64::try_from(file_offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: the vectors lead into slots owned by the operation (or to the zeroes), which live through the call.
    let written = unsafe { libc::pwritev2(fd, vectors.as_ptr(), count, at, flags) };
    u64::try_from(written).map_err(|_| io::Error::last_os_error())
}
