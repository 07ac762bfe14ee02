//! The home for a thread that also serves others: an io_uring submitted explicitly by [`WriteQueue::kick`].
//!
//! A group that is one run of the file is a write linked to an `fdatasync`; any other group is its writes side by
//! side, then `fdatasync` once all have completed. Never `RWF_DSYNC`: the kernel syncs such a write inside a worker
//! bound to one processor, and when the flush is done that worker waits for a busy shard's time slice (docs/Disk.md).
//! The ring's own descriptor is what the thread polls. What may block for long (creating and cutting files) goes to
//! one helper thread, whose eventfd the ring polls.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};

use super::crew::Crew;
use super::file::{DirectIo, OsFile};
use super::notify::wait_readable;
use super::perform::Runs;
use super::{
    Arena, BLOCK, DiskCompletion, DiskError, DiskFile, DiskOp, OpKind, OpTimes, Operation, QueueOptions, WriteQueue,
};

/// Marks the completion of an `fdatasync`, where a write carries the number of its run.
const SYNC_RUN: u32 = u32::MAX;
/// Marks the helper thread's wake-up.
const HELPER: u64 = u64::MAX;
/// Marks a no-op whose only purpose is to make the ring's descriptor readable.
const WAKE: u64 = u64::MAX - 1;
/// One registered buffer may not be larger.
const REGISTERED_BYTES: usize = 1 << 30;
/// How often a call that the kernel asks to repeat is repeated.
const RETRIES: u32 = 64;

/// One operation in flight; its slots and its file stay here until the kernel is done with them.
#[derive(Default)]
struct InFlight {
    op: Option<DiskOp>,
    runs: Runs,
    /// Entries the kernel has, or will have.
    outstanding: u32,
    /// A sync behind all writes has succeeded.
    synced: bool,
    retries: u32,
    error: Option<DiskError>,
    times: OpTimes,
}

/// The queue of the io_uring home.
pub(super) struct UringQueue {
    ring: IoUring,
    depth: usize,
    table: Vec<InFlight>,
    free: Vec<u32>,
    /// Submitted and not handed out yet.
    in_flight: usize,
    /// Entries the kernel has not completed yet; never more than the completion queue holds.
    outstanding: usize,
    completion_capacity: usize,
    /// Entries that wait for room in the ring, and how many must enter it together.
    backlog: VecDeque<(squeue::Entry, usize)>,
    done: Vec<DiskCompletion>,
    helper: Option<Crew>,
    for_helper: Vec<DiskOp>,
    with_helper: usize,
    helper_polled: bool,
    registered: bool,
    arena: Arc<Arena>,
    direct_io: Arc<DirectIo>,
}

impl UringQueue {
    pub(super) fn new(options: &QueueOptions, arena: &Arc<Arena>, direct_io: &Arc<DirectIo>) -> io::Result<Self> {
        let depth = options.depth.clamp(1, super::MAX_DEPTH);
        let entries = (depth as u32).next_power_of_two().max(8);
        let ring: IoUring = IoUring::builder().dontfork().setup_clamp().setup_cqsize(entries * 4).build(entries)?;
        let mut queue = Self {
            depth,
            table: Vec::new(),
            free: (0..depth as u32).rev().collect(),
            in_flight: 0,
            outstanding: 0,
            completion_capacity: ring.params().cq_entries() as usize,
            backlog: VecDeque::new(),
            done: Vec::with_capacity(depth),
            helper: None,
            for_helper: Vec::new(),
            with_helper: 0,
            helper_polled: false,
            registered: false,
            arena: Arc::clone(arena),
            direct_io: Arc::clone(direct_io),
            ring,
        };
        queue.table.resize_with(depth, InFlight::default);
        queue.register();
        Ok(queue)
    }

    /// Whether the kernel has the arena registered.
    pub(super) fn is_registered(&self) -> bool {
        self.registered
    }

    fn register(&mut self) {
        if self.arena.bytes() > REGISTERED_BYTES {
            return;
        }
        let vectors = [libc::iovec { iov_base: self.arena.base().cast(), iov_len: self.arena.bytes() }];
        // SAFETY: the mapping outlives the ring, whose registration holds its pages.
        match unsafe { self.ring.submitter().register_buffers(&vectors) } {
            Ok(()) => self.registered = true,
            Err(error) => {
                let bytes = self.arena.bytes();
                tracing::warn!(%error, bytes, "write buffers are not registered with io_uring (RLIMIT_MEMLOCK?)");
            }
        }
    }

    /// Puts an entry into the ring, or behind those that wait for room.
    fn push(&mut self, entry: squeue::Entry) {
        self.backlog.push_back((entry, 1));
        self.pump();
    }

    /// Moves waiting entries into the ring as far as there is room.
    fn pump(&mut self) {
        while let Some((entry, together)) = self.backlog.front() {
            let mut submission = self.ring.submission();
            // A chain handed over in two parts would be two chains.
            if self.outstanding + together > self.completion_capacity
                || submission.capacity() - submission.len() < *together
            {
                return;
            }
            // SAFETY: files and buffers of the entry are owned by `table` until its completion was seen, and Drop
            // waits for all of them; the helper's eventfd lives as long as the helper, which outlives the ring's use.
            if unsafe { submission.push(entry) }.is_err() {
                return;
            }
            drop(submission);
            self.backlog.pop_front();
            self.outstanding += 1;
        }
    }

    /// Hands what is in the ring to the kernel.
    fn enter(&mut self) -> io::Result<()> {
        let mut tries = 0;
        loop {
            self.pump();
            if self.ring.submission().is_empty() {
                return Ok(());
            }
            match self.ring.submit() {
                Ok(_) => tries = 0,
                Err(error) => {
                    let again = matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY));
                    tries += 1;
                    if !again || tries > RETRIES {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Answers an operation at once; the no-op makes the descriptor readable for it.
    fn answer(&mut self, op: DiskOp, error: DiskError) {
        self.done.push(op.completed(Err(error)));
        self.push(opcode::Nop::new().build().user_data(WAKE));
    }

    /// Turns an operation into entries.
    fn start(&mut self, op: DiskOp) {
        let Some(index) = self.free.pop() else { return };
        let entry = &mut self.table[index as usize];
        let prepared = match (op.file.as_any().downcast_ref::<OsFile>(), &op.kind) {
            (None, _) => Err(DiskError::ForeignFile { path: op.file.path().to_owned() }),
            (Some(file), OpKind::Zero { file_offset, len }) => {
                let covered = entry.runs.of_zeroes(*file_offset, *len);
                covered.map_err(|error| DiskError::io(Operation::Zero, file.path(), &error))
            }
            (Some(_), OpKind::Write { chunks, .. }) => {
                entry.runs.of_chunks(chunks);
                Ok(())
            }
            (Some(_), _) => {
                entry.runs.of_chunks(&[]);
                Ok(())
            }
        };
        if let Err(error) = prepared {
            self.free.push(index);
            return self.answer(op, error);
        }
        let run_count = entry.runs.runs.len();
        let linked = run_count == 1 && matches!(op.kind, OpKind::Write { sync: true, .. });
        (entry.synced, entry.retries, entry.outstanding) = (false, 0, 0);
        (entry.op, entry.error) = (Some(op), None);
        entry.times = OpTimes { started: Some(Instant::now()), written: None };
        for run in 0..run_count {
            self.write_run(index, run as u32, linked);
        }
        if run_count == 0 {
            self.step(index);
        }
    }

    /// Writes (the rest of) a run; with `linked` a sync follows in the same chain.
    fn write_run(&mut self, index: u32, run_number: u32, linked: bool) {
        let InFlight { op, runs, outstanding, .. } = &mut self.table[index as usize];
        let file = op.as_ref().and_then(|op| op.file.as_any().downcast_ref::<OsFile>());
        let (Some(file), Some(run)) = (file, runs.runs.get(run_number as usize)) else {
            return;
        };
        let (fd, at) = (types::Fd(file.write_fd()), run.file_offset);
        let arena = self.arena.base() as usize..self.arena.base() as usize + self.arena.bytes();
        let entry = match &runs.vectors[run.start..run.end] {
            [one] if self.registered && arena.contains(&(one.iov_base as usize)) => {
                opcode::WriteFixed::new(fd, one.iov_base.cast(), one.iov_len as u32, 0).offset(at).build()
            }
            [one] => opcode::Write::new(fd, one.iov_base.cast(), one.iov_len as u32).offset(at).build(),
            many => opcode::Writev::new(fd, many.as_ptr(), many.len() as u32).offset(at).build(),
        };
        let entry = entry.user_data(user_data(index, run_number));
        *outstanding += 1;
        if linked {
            self.backlog.push_back((entry.flags(squeue::Flags::IO_LINK), 2));
            self.push_sync(index);
        } else {
            self.push(entry);
        }
    }

    /// Syncs the file of an operation.
    fn push_sync(&mut self, index: u32) {
        let InFlight { op, outstanding, .. } = &mut self.table[index as usize];
        let file = op.as_ref().and_then(|op| op.file.as_any().downcast_ref::<OsFile>());
        let Some(file) = file else { return };
        file.take_unsynced();
        *outstanding += 1;
        let sync = opcode::Fsync::new(types::Fd(file.write_fd())).flags(types::FsyncFlags::DATASYNC);
        self.push(sync.build().user_data(user_data(index, SYNC_RUN)));
    }

    /// Nothing of an operation is with the kernel: sync it, or finish it.
    fn step(&mut self, index: u32) {
        let entry = &mut self.table[index as usize];
        let Some(op) = entry.op.as_ref() else { return };
        let wants_sync = match &op.kind {
            OpKind::Write { sync, .. } => *sync,
            OpKind::Zero { .. } => false,
            _ => true,
        };
        let failed = entry.error.is_some();
        if wants_sync && !failed && !entry.synced {
            return self.push_sync(index);
        }
        if let Some(file) = op.file.as_any().downcast_ref::<OsFile>().filter(|_| failed || !wants_sync) {
            file.mark_unsynced();
        }
        let result = entry.error.take().map_or(Ok(()), Err);
        if let Some(op) = entry.op.take() {
            self.done.push(DiskCompletion { times: entry.times, ..op.completed(result) });
        }
        self.free.push(index);
    }

    /// Takes completions from the ring until there are none.
    fn reap(&mut self) {
        while let Some((user_data, result)) = self.next_completion() {
            self.outstanding -= 1;
            match user_data {
                HELPER => self.helper_polled = false,
                WAKE => {}
                _ => self.on_completion((user_data >> 32) as u32, user_data as u32, result),
            }
        }
        self.collect_from_helper();
    }

    fn next_completion(&mut self) -> Option<(u64, i32)> {
        let next = self.ring.completion().next();
        next.map(|entry| (entry.user_data(), entry.result()))
    }

    fn on_completion(&mut self, index: u32, run_number: u32, result: i32) {
        let Some(entry) = self.table.get_mut(index as usize) else {
            return;
        };
        let Some(op) = entry.op.as_ref() else { return };
        entry.outstanding -= 1;
        let again = matches!(-result, libc::EINTR | libc::EAGAIN) && run_number != SYNC_RUN;
        if run_number == SYNC_RUN {
            entry.synced = result >= 0;
            // Cancelled behind a short or failed write: the sync comes when the rest is written, or never.
            if result < 0 && result != -libc::ECANCELED {
                entry.error = Some(DiskError::os(Operation::Sync, op.file.path(), -result));
            }
        } else if again && entry.retries < RETRIES {
            entry.retries += 1;
            return self.write_run(index, run_number, false);
        } else if let Some(run) = entry.runs.runs.get(run_number as usize).copied() {
            let written = u64::try_from(result).unwrap_or(0).min(run.bytes);
            // A remainder that is not whole blocks would be refused by O_DIRECT: start at a block again.
            let whole = if written < run.bytes { written - written % BLOCK as u64 } else { written };
            let (operation, path) = op.names();
            if result < 0 {
                entry.error = Some(DiskError::os_at(operation, path, run.file_offset, -result));
            } else if whole == 0 {
                let (path, file_offset, len) = (path.to_owned(), run.file_offset, run.bytes);
                entry.error = Some(DiskError::NoProgress { operation, path, file_offset, len });
            } else if entry.runs.advance(run_number as usize, whole) {
                return self.write_run(index, run_number, false);
            } else {
                entry.times.written = Some(Instant::now());
            }
        }
        if self.table[index as usize].outstanding == 0 {
            self.step(index);
        }
    }

    /// Hands creations and cuts to the helper thread, started with the first of them.
    fn give_to_helper(&mut self) {
        for op in std::mem::take(&mut self.for_helper) {
            if self.helper.is_none() {
                self.helper = Crew::new(1, self.depth, &self.direct_io).ok();
            }
            let refused = match &mut self.helper {
                Some(helper) => helper.give(op),
                None => {
                    let (operation, path) = op.names();
                    let error = DiskError::os(operation, path, libc::EAGAIN);
                    Some(op.completed(Err(error)))
                }
            };
            match refused {
                Some(refused) => {
                    self.done.push(refused);
                    self.push(opcode::Nop::new().build().user_data(WAKE));
                }
                None => self.with_helper += 1,
            }
        }
        self.poll_helper();
    }

    /// Has the ring watch the helper's eventfd while the helper has work.
    fn poll_helper(&mut self) {
        if self.with_helper == 0 || self.helper_polled {
            return;
        }
        if let Some(helper) = &self.helper {
            let fd = types::Fd(helper.notify().fd());
            self.helper_polled = true;
            self.push(opcode::PollAdd::new(fd, libc::POLLIN as u32).build().user_data(HELPER));
        }
    }

    /// After the helper's wake-up, and only then: its poll must not fire again for what is collected already.
    fn collect_from_helper(&mut self) {
        if let Some(helper) = self.helper.as_mut().filter(|_| self.with_helper > 0 && !self.helper_polled) {
            self.with_helper -= helper.collect(&mut self.done);
            self.poll_helper();
        }
    }
}

fn user_data(index: u32, run_number: u32) -> u64 {
    u64::from(index) << 32 | u64::from(run_number)
}

impl WriteQueue for UringQueue {
    fn submit(&mut self, op: DiskOp) -> Result<(), DiskOp> {
        if self.in_flight == self.depth {
            return Err(op);
        }
        self.in_flight += 1;
        match (op.check(), &op.kind) {
            (Err(error), _) => self.answer(op, error),
            (Ok(()), OpKind::Create { .. } | OpKind::SetLen { .. }) => self.for_helper.push(op),
            (Ok(()), _) => self.start(op),
        }
        Ok(())
    }

    fn kick(&mut self) -> Result<(), DiskError> {
        self.give_to_helper();
        self.enter().map_err(|error| DiskError::io(Operation::Submit, Path::new("io_uring"), &error))
    }

    fn completions(&mut self, out: &mut Vec<DiskCompletion>) {
        self.reap();
        if !self.backlog.is_empty() || !self.ring.submission().is_empty() {
            // The next step of operations in flight (a sync, the rest of a short write). Should the kernel refuse,
            // the entries stay, and the next kick reports it.
            let _ = self.enter();
            self.reap();
        }
        self.in_flight -= self.done.len();
        out.append(&mut self.done);
    }

    fn wait(&mut self, timeout: Duration) {
        let deadline = Instant::now().checked_add(timeout);
        while self.kick().is_ok() {
            self.reap();
            let _ = self.enter();
            let left = deadline.map_or(timeout, |deadline| deadline.saturating_duration_since(Instant::now()));
            if !self.done.is_empty() || left.is_zero() {
                return;
            }
            wait_readable(self.ring.as_raw_fd(), left);
        }
    }

    fn notify_fd(&self) -> Option<RawFd> {
        Some(self.ring.as_raw_fd())
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl Drop for UringQueue {
    /// Waits for everything in flight: the kernel reads the slots until then.
    fn drop(&mut self) {
        let mut out = Vec::new();
        while self.in_flight > 0 {
            if self.kick().is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.wait(Duration::from_millis(100));
            self.completions(&mut out);
            out.clear();
        }
    }
}
