//! The home with a poller thread of its own, driven by tokio-uring.
//!
//! tokio-uring submits when its thread parks, so nothing else may run there: operations come in over a bounded
//! channel and an eventfd, and completions go back the same way. Its writes carry no flags; a group that makes itself
//! durable goes through a descriptor opened with O_DSYNC.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File as StdFile;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use tokio_uring::buf::fixed::FixedBufRegistry;
use tokio_uring::buf::{BoundedBuf, IoBuf, IoBufMut};
use tokio_uring::fs::File;

use super::crew::Crew;
use super::file::{DirectIo, OsFile};
use super::notify::Notify;
use super::perform::Runs;
use super::{
    Arena, BLOCK, Chunk, DiskCompletion, DiskError, DiskFile, DiskOp, OpKind, OpTimes, Operation, QueueOptions,
    WriteQueue,
};

/// The caller's side.
pub(super) struct TokioUringQueue {
    ops: Option<Sender<DiskOp>>,
    /// Wakes the ring's thread.
    wake: OwnedFd,
    done: Receiver<DiskCompletion>,
    notify: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
    /// Creates and cuts files, which would hold up the ring's thread.
    helper: Crew,
    submitted: Vec<DiskOp>,
    refused: Vec<DiskCompletion>,
    depth: usize,
    in_flight: usize,
    registered: bool,
}

impl TokioUringQueue {
    pub(super) fn new(options: &QueueOptions, arena: &Arc<Arena>, direct_io: &Arc<DirectIo>) -> io::Result<Self> {
        let depth = options.depth.clamp(1, super::MAX_DEPTH);
        let wake = eventfd()?;
        let notify = Arc::new(Notify::new()?);
        let (ops, inbox) = bounded(depth);
        let (give_done, done) = bounded(depth);
        let (tell_ready, ready) = bounded(1);
        let inbox_fd = StdFile::from(wake.try_clone()?);
        let (arena, told) = (Arc::clone(arena), Arc::clone(&notify));
        let run = move || {
            let entries = (depth as u32).next_power_of_two().max(8);
            tokio_uring::builder().entries(entries).start(async move {
                let registry = register(&arena);
                let _ = tell_ready.send(registry.is_some());
                let station = Rc::new(Station { registry, files: RefCell::default(), done: give_done, notify: told });
                serve(station, inbox_fd, inbox).await;
            });
        };
        let thread = std::thread::Builder::new().name("disk-ring".to_owned()).spawn(run)?;
        // The thread dies before it answers where the kernel refuses the ring.
        let registered = ready.recv().map_err(|_| io::Error::from_raw_os_error(libc::ENOSYS))?;
        let helper = Crew::sharing(1, depth, direct_io, Arc::clone(&notify))?;
        let (submitted, refused, thread) = (Vec::with_capacity(depth), Vec::new(), Some(thread));
        let ops = Some(ops);
        Ok(Self { ops, wake, done, notify, thread, helper, submitted, refused, depth, in_flight: 0, registered })
    }

    /// Whether the kernel has the arena registered.
    pub(super) fn is_registered(&self) -> bool {
        self.registered
    }

    fn has_completions(&self) -> bool {
        !(self.done.is_empty() && self.refused.is_empty() && self.helper.is_empty())
    }

    fn ring_wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes that live through the call.
        unsafe { libc::write(self.wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

impl WriteQueue for TokioUringQueue {
    fn submit(&mut self, op: DiskOp) -> Result<(), DiskOp> {
        if self.in_flight == self.depth {
            return Err(op);
        }
        self.in_flight += 1;
        self.submitted.push(op);
        Ok(())
    }

    fn kick(&mut self) -> Result<(), DiskError> {
        let mut wake = false;
        for op in self.submitted.drain(..) {
            if matches!(op.kind, OpKind::Create { .. } | OpKind::SetLen { .. }) {
                self.refused.extend(self.helper.give(op));
                continue;
            }
            wake = true;
            let refused = match &self.ops {
                Some(ops) => ops.try_send(op).err().map(|refused| refused.into_inner()),
                None => Some(op),
            };
            if let Some(op) = refused {
                let (operation, path) = op.names();
                let error = DiskError::QueueGone { operation, path: path.to_owned() };
                self.refused.push(op.completed(Err(error)));
            }
        }
        if wake {
            self.ring_wake();
        }
        if !self.refused.is_empty() {
            self.notify.raise();
        }
        Ok(())
    }

    fn completions(&mut self, out: &mut Vec<DiskCompletion>) {
        let before = out.len();
        // Lowers the notification first: what comes after raises it again.
        self.helper.collect(out);
        out.extend(self.done.try_iter());
        out.append(&mut self.refused);
        self.in_flight -= out.len() - before;
    }

    fn wait(&mut self, timeout: Duration) {
        let _ = self.kick();
        let deadline = Instant::now().checked_add(timeout);
        while !self.has_completions() {
            let left = deadline.map_or(timeout, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return;
            }
            self.notify.wait(left);
            if !self.has_completions() {
                self.notify.lower();
                if self.has_completions() {
                    self.notify.raise();
                }
            }
        }
    }

    fn notify_fd(&self) -> Option<RawFd> {
        Some(self.notify.fd())
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl Drop for TokioUringQueue {
    /// The thread ends when everything in flight has completed.
    fn drop(&mut self) {
        let _ = self.kick();
        self.ops = None;
        self.ring_wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A blocking eventfd: the ring would answer a read of a non-blocking one at once.
fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: plain system call; the result is checked before use.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Memory the ring reads: a part of a slot, or of the zeroes. Keeps the chunks that own it.
struct Bytes {
    start: *mut u8,
    len: usize,
    _owner: Option<Rc<Vec<Chunk>>>,
}

// SAFETY: the memory does not move, and is owned by the chunks (or by the arena, or lives for ever).
unsafe impl IoBuf for Bytes {
    fn stable_ptr(&self) -> *const u8 {
        self.start
    }

    fn bytes_init(&self) -> usize {
        self.len
    }

    fn bytes_total(&self) -> usize {
        self.len
    }
}

// SAFETY: as above; only registration asks for this, and nothing is ever read into the memory.
unsafe impl IoBufMut for Bytes {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.start
    }

    unsafe fn set_init(&mut self, _position: usize) {}
}

/// What all tasks of the ring's thread share.
struct Station {
    registry: Option<FixedBufRegistry<Bytes>>,
    files: RefCell<HashMap<usize, Opened>>,
    done: Sender<DiskCompletion>,
    notify: Arc<Notify>,
}

/// The ring's own descriptors of a file.
struct Opened {
    /// Keeps the address from being reused, not the file from being closed.
    file: Weak<dyn DiskFile>,
    plain: Option<Rc<File>>,
    durable: Option<Rc<File>>,
}

/// Registers each slot of the arena; `None` where the kernel refuses.
fn register(arena: &Arc<Arena>) -> Option<FixedBufRegistry<Bytes>> {
    let len = arena.slot_bytes();
    let slot = |index| Bytes { start: arena.base().wrapping_add(index * len), len, _owner: None };
    let registry = FixedBufRegistry::new((0..arena.slot_count()).map(slot));
    match registry.register() {
        Ok(()) => Some(registry),
        Err(error) => {
            let bytes = arena.bytes();
            tracing::warn!(%error, bytes, "write buffers are not registered with io_uring (RLIMIT_MEMLOCK?)");
            None
        }
    }
}

/// The life of the ring's thread: one task an operation, until the queue is dropped and all tasks have ended.
async fn serve(station: Rc<Station>, inbox_fd: StdFile, inbox: Receiver<DiskOp>) {
    let inbox_fd = File::from_std(inbox_fd);
    let mut count = vec![0u8; 8];
    let mut tasks = Vec::new();
    let mut open = true;
    while open {
        let (woken, buffer) = inbox_fd.read_at(count, 0).await;
        count = buffer;
        if woken.is_err() {
            break;
        }
        loop {
            match inbox.try_recv() {
                Ok(op) => tasks.push(tokio_uring::spawn(run(Rc::clone(&station), op))),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    open = false;
                    break;
                }
            }
        }
        tasks.retain(|task| !task.is_finished());
    }
    for task in tasks {
        let _ = task.await;
    }
}

/// One operation, from start to completion.
async fn run(station: Rc<Station>, op: DiskOp) {
    let checked = op.check();
    let (operation, _) = op.names();
    let DiskOp { token, file, kind } = op;
    let mut runs = Runs::default();
    let (chunks, sync, prepared) = match kind {
        OpKind::Write { chunks, sync } => {
            runs.of_chunks(&chunks);
            (chunks, sync, Ok(()))
        }
        OpKind::Zero { file_offset, len } => (Vec::new(), false, runs.of_zeroes(file_offset, len)),
        _ => (Vec::new(), true, Ok(())),
    };
    let chunks = Rc::new(chunks);
    let mut times = OpTimes { started: Some(Instant::now()), written: None };
    let result = match (checked, prepared, file.as_any().downcast_ref::<OsFile>()) {
        (Err(error), ..) => Err(error),
        (_, Err(error), _) => Err(DiskError::io(operation, file.path(), &error)),
        (.., None) => Err(DiskError::ForeignFile { path: file.path().to_owned() }),
        (.., Some(os_file)) => {
            let job = Job { station: &station, file: &file, os_file, chunks: &chunks, operation };
            job.write_and_sync(runs, sync, &mut times).await
        }
    };
    let chunks = Rc::try_unwrap(chunks).unwrap_or_default();
    drop(file);
    let _ = station.done.send(DiskCompletion { token, result, chunks, file: None, times });
    station.notify.raise();
}

/// What one operation works with.
struct Job<'a> {
    station: &'a Station,
    file: &'a Arc<dyn DiskFile>,
    os_file: &'a OsFile,
    chunks: &'a Rc<Vec<Chunk>>,
    operation: Operation,
}

impl Job<'_> {
    async fn write_and_sync(&self, mut runs: Runs, sync: bool, times: &mut OpTimes) -> Result<(), DiskError> {
        let writes = !runs.runs.is_empty();
        // A write that syncs itself covers only itself, not what was written before.
        let alone = sync && runs.runs.len() == 1 && !self.os_file.take_unsynced();
        let mut result = Ok(());
        for run in 0..runs.runs.len() {
            result = self.write_run(&mut runs, run, alone).await;
            if result.is_err() {
                break;
            }
        }
        // A write that syncs itself does not say when it was written.
        times.written = (writes && !alone).then(Instant::now);
        if result.is_ok() && sync && !alone {
            self.os_file.take_unsynced();
            result = self.sync().await;
        }
        if result.is_err() || (writes && !sync) {
            self.os_file.mark_unsynced();
        }
        result
    }

    async fn sync(&self) -> Result<(), DiskError> {
        let failed = |error: io::Error| DiskError::io(Operation::Sync, self.os_file.path(), &error);
        self.descriptor(false).map_err(failed)?.sync_data().await.map_err(failed)
    }

    async fn write_run(&self, runs: &mut Runs, number: usize, durable: bool) -> Result<(), DiskError> {
        let path = self.os_file.path();
        let file = self.descriptor(durable).map_err(|error| DiskError::io(self.operation, path, &error))?;
        loop {
            let Some(run) = runs.runs.get(number).copied() else {
                return Ok(());
            };
            let written = self.write_once(&file, &runs.vectors[run.start..run.end], run.file_offset).await;
            let written = match written {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    return Err(DiskError::os_at(self.operation, path, run.file_offset, errno));
                }
                Ok(written) => (written as u64).min(run.bytes),
            };
            // A remainder that is not whole blocks would be refused by O_DIRECT: start at a block again.
            let whole = if written < run.bytes { written - written % BLOCK as u64 } else { written };
            if whole == 0 {
                let (path, file_offset, len) = (path.to_owned(), run.file_offset, run.bytes);
                return Err(DiskError::NoProgress { operation: self.operation, path, file_offset, len });
            }
            if !runs.advance(number, whole) {
                return Ok(());
            }
        }
    }

    async fn write_once(&self, file: &File, vectors: &[libc::iovec], file_offset: u64) -> io::Result<usize> {
        let bytes = |vector: &libc::iovec| {
            let (start, len) = (vector.iov_base.cast(), vector.iov_len);
            Bytes { start, len, _owner: Some(Rc::clone(self.chunks)) }
        };
        let [one] = vectors else {
            return file.writev_at(vectors.iter().map(bytes).collect(), file_offset).await.0;
        };
        let registered = match (self.chunks.as_slice(), &self.station.registry) {
            ([chunk], Some(registry)) => registry.check_out(chunk.slot.index()).map(|slot| (chunk, slot)),
            _ => None,
        };
        match registered {
            Some((chunk, slot)) => {
                let start = (one.iov_base as usize).saturating_sub(chunk.slot.start() as usize);
                file.write_fixed_at(slot.slice(start..start + one.iov_len), file_offset).await.0
            }
            None => file.write_at(bytes(one), file_offset).submit().await.0,
        }
    }

    /// The ring's descriptor of the file, opened when first needed.
    fn descriptor(&self, durable: bool) -> io::Result<Rc<File>> {
        let mut files = self.station.files.borrow_mut();
        let key = Arc::as_ptr(self.file).cast::<()>() as usize;
        if !files.contains_key(&key) {
            files.retain(|_, opened| opened.file.strong_count() > 0);
        }
        let opened = files.entry(key).or_insert_with(|| {
            let file = Arc::downgrade(self.file);
            Opened { file, plain: None, durable: None }
        });
        let place = if durable { &mut opened.durable } else { &mut opened.plain };
        if let Some(file) = place {
            return Ok(Rc::clone(file));
        }
        let file = self.os_file.reopen_for_writes(if durable { libc::O_DSYNC } else { 0 })?;
        Ok(Rc::clone(place.insert(Rc::new(File::from_std(file)))))
    }
}
