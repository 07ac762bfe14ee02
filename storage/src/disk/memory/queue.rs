//! The write queue of the memory disk: operations wait here until they are told to happen.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::notify::Notify;
use super::super::{DiskCompletion, DiskError, DiskFile, DiskOp, OpKind, OpTimes, OpenMode, Operation, WriteQueue};
use super::inode::Change;
use super::state::State;
use super::{Completion, MemoryFile, Shared};

/// A kicked operation that has not happened yet.
#[derive(Debug)]
struct Pending {
    number: u64,
    ready_at: u64,
    op: DiskOp,
}

/// One queue's operations.
#[derive(Debug)]
struct QueueState {
    generation: u64,
    pending: Vec<Pending>,
    done: VecDeque<DiskCompletion>,
    notify: Option<Arc<Notify>>,
}

/// The operations of all queues of a disk.
#[derive(Debug, Default)]
pub(super) struct Queues {
    queues: BTreeMap<u64, QueueState>,
    next_queue: u64,
    next_number: u64,
    clock: u64,
}

impl Queues {
    /// Kicked operations that have not happened yet.
    pub(super) fn pending_count(&self) -> usize {
        self.queues.values().map(|queue| queue.pending.len()).sum()
    }

    /// What kicked writes would change, in order.
    pub(super) fn pending_changes(&self) -> Vec<(u64, Change)> {
        let mut pending: Vec<&Pending> = self.queues.values().flat_map(|queue| &queue.pending).collect();
        pending.sort_by_key(|pending| pending.number);
        pending.iter().flat_map(|pending| changes_of(&pending.op)).collect()
    }

    /// Forgets everything in flight, and says what it would have changed.
    pub(super) fn power_cut(&mut self) -> Vec<(u64, Change)> {
        let changes = self.pending_changes();
        for queue in self.queues.values_mut() {
            queue.pending.clear();
            queue.done.clear();
        }
        changes
    }

    /// Takes the operation that happens next: the oldest ready one, or any ready one by `pick`.
    fn next(&mut self, only: Option<u64>, pick: impl FnOnce(u64) -> u64) -> Option<(u64, DiskOp)> {
        let clock = self.clock;
        let queues = self.queues.iter().filter(|(id, _)| only.is_none_or(|only| only == **id));
        let ready = queues.flat_map(|(id, queue)| {
            let ready = queue.pending.iter().enumerate().filter(|(_, pending)| pending.ready_at <= clock);
            ready.map(|(at, pending)| (pending.number, *id, at))
        });
        let mut ready: Vec<(u64, u64, usize)> = ready.collect();
        ready.sort_unstable();
        let (_, id, at) = *ready.get(usize::try_from(pick(ready.len() as u64)).ok()?)?;
        Some((id, self.queues.get_mut(&id)?.pending.remove(at).op))
    }
}

/// What a queued operation would change, and in which inode.
fn changes_of(op: &DiskOp) -> Vec<(u64, Change)> {
    let Some(file) = op.file.as_any().downcast_ref::<MemoryFile>() else {
        return Vec::new();
    };
    let changes = match &op.kind {
        OpKind::Write { chunks, .. } => chunks
            .iter()
            .map(|chunk| Change::Write { file_offset: chunk.file_offset, data: chunk.data().into() })
            .collect(),
        OpKind::Zero { file_offset, len } => vec![Change::Zero { file_offset: *file_offset, len: *len }],
        OpKind::SetLen { len } => vec![Change::SetLen(*len)],
        OpKind::Sync | OpKind::Create { .. } => Vec::new(),
    };
    changes.into_iter().map(|change| (file.handle.inode, change)).collect()
}

/// Lets one operation happen (of one queue, or of any); false when none is ready.
pub(super) fn step(shared: &Arc<Shared>, only: Option<u64>) -> bool {
    let mut state = shared.state();
    state.queues.clock += 1;
    let State { queues, dice, .. } = &mut *state;
    let reorder = shared.config.reorder;
    let Some((id, op)) = queues.next(only, |ready| if reorder { dice.below(ready) } else { 0 }) else {
        return false;
    };
    let generation = state.queues.queues.get(&id).map_or(0, |queue| queue.generation);
    let completion = execute(&mut state, shared, generation, op);
    if let Some(queue) = state.queues.queues.get_mut(&id) {
        queue.done.push_back(completion);
        if let Some(notify) = &queue.notify {
            notify.raise();
        }
    }
    true
}

/// Does what the operation says, at once.
fn execute(state: &mut State, shared: &Arc<Shared>, generation: u64, op: DiskOp) -> DiskCompletion {
    let checked = op.check();
    let DiskOp { token, file, kind } = op;
    let mut made = None;
    let (chunks, result) = match kind {
        OpKind::Create { path } => {
            let result = create(state, shared, generation, &path);
            (Vec::new(), result.map(|file| made = Some(file)))
        }
        kind => match (checked, file.as_any().downcast_ref::<MemoryFile>()) {
            (Ok(()), Some(memory_file)) => change(state, memory_file, kind),
            (Err(error), _) => (kind.into_chunks(), Err(error)),
            (Ok(()), None) => (kind.into_chunks(), Err(DiskError::ForeignFile { path: file.path().to_owned() })),
        },
    };
    DiskCompletion { token, result, chunks, file: made, times: OpTimes::default() }
}

fn create(
    state: &mut State,
    shared: &Arc<Shared>,
    generation: u64,
    path: &Path,
) -> Result<Arc<dyn DiskFile>, DiskError> {
    if generation != state.generation {
        return Err(DiskError::Stale { operation: Operation::Create, path: path.to_owned() });
    }
    let handle = state.open(path, OpenMode::Create)?;
    state.sync_dir(path.parent().unwrap_or(path))?;
    Ok(Arc::new(MemoryFile { shared: Arc::clone(shared), handle, path: path.to_owned() }))
}

fn change(state: &mut State, file: &MemoryFile, kind: OpKind) -> (Vec<super::super::Chunk>, Result<(), DiskError>) {
    let (handle, path) = (file.handle, file.path.as_path());
    match kind {
        OpKind::Write { chunks, sync } => {
            let written = chunks.iter().try_for_each(|chunk| {
                let change = Change::Write { file_offset: chunk.file_offset, data: chunk.data().into() };
                state.change(handle, path, Operation::Write, change)
            });
            let result = if sync { written.and_then(|()| state.sync(handle, path)) } else { written };
            (chunks, result)
        }
        OpKind::Zero { file_offset, len } => {
            (Vec::new(), state.change(handle, path, Operation::Zero, Change::Zero { file_offset, len }))
        }
        OpKind::Sync => (Vec::new(), state.sync(handle, path)),
        OpKind::SetLen { len } => {
            let cut = state.change(handle, path, Operation::SetLen, Change::SetLen(len));
            (Vec::new(), cut.and_then(|()| state.sync(handle, path)))
        }
        OpKind::Create { .. } => (Vec::new(), Ok(())),
    }
}

/// The queue handed to one thread.
pub(super) struct MemoryQueue {
    shared: Arc<Shared>,
    id: u64,
    depth: usize,
    submitted: Vec<DiskOp>,
}

impl MemoryQueue {
    pub(super) fn new(shared: &Arc<Shared>, depth: usize) -> Self {
        let mut state = shared.state();
        let id = state.queues.next_queue;
        state.queues.next_queue += 1;
        let generation = state.generation;
        let queue = QueueState { generation, pending: Vec::new(), done: VecDeque::new(), notify: None };
        state.queues.queues.insert(id, queue);
        drop(state);
        Self { shared: Arc::clone(shared), id, depth: depth.max(1), submitted: Vec::new() }
    }

    /// Whether something is kicked and nothing has happened yet.
    fn is_waiting(&self) -> bool {
        let state = self.shared.state();
        state.queues.queues.get(&self.id).is_some_and(|queue| queue.done.is_empty() && !queue.pending.is_empty())
    }

    /// Lets everything ready happen, where polling does that.
    fn run(&self, when: Completion) {
        if self.shared.config.completion == when {
            while step(&self.shared, Some(self.id)) {}
        }
    }
}

impl WriteQueue for MemoryQueue {
    fn submit(&mut self, op: DiskOp) -> Result<(), DiskOp> {
        if self.in_flight() >= self.depth {
            return Err(op);
        }
        self.submitted.push(op);
        Ok(())
    }

    fn kick(&mut self) -> Result<(), DiskError> {
        let mut state = self.shared.state();
        for op in self.submitted.drain(..) {
            let (operation, path) = op.names();
            let delay = state.delay(operation, path);
            let number = state.queues.next_number;
            state.queues.next_number += 1;
            let ready_at = state.queues.clock + delay;
            if let Some(queue) = state.queues.queues.get_mut(&self.id) {
                queue.pending.push(Pending { number, ready_at, op });
                // Where polling completes, there is something to poll for now.
                if let Some(notify) =
                    queue.notify.as_ref().filter(|_| self.shared.config.completion == Completion::OnPoll)
                {
                    notify.raise();
                }
            }
        }
        drop(state);
        self.run(Completion::OnKick);
        Ok(())
    }

    fn completions(&mut self, out: &mut Vec<DiskCompletion>) {
        self.run(Completion::OnPoll);
        self.run(Completion::OnKick);
        let mut state = self.shared.state();
        let polled = self.shared.config.completion != Completion::Manual;
        if let Some(queue) = state.queues.queues.get_mut(&self.id) {
            if let Some(notify) = &queue.notify {
                notify.lower();
                // A delayed operation is only reached by polling again.
                if polled && !queue.pending.is_empty() {
                    notify.raise();
                }
            }
            out.extend(queue.done.drain(..));
        }
    }

    /// Never sleeps: nothing in memory happens by waiting.
    fn wait(&mut self, _timeout: Duration) {
        let _ = self.kick();
        if self.shared.config.completion != Completion::Manual {
            while self.is_waiting() {
                step(&self.shared, Some(self.id));
            }
        }
    }

    fn notify_fd(&self) -> Option<RawFd> {
        let mut state = self.shared.state();
        let queue = state.queues.queues.get_mut(&self.id)?;
        if queue.notify.is_none() {
            let notify = Notify::new().ok()?;
            if !queue.done.is_empty() || !queue.pending.is_empty() {
                notify.raise();
            }
            queue.notify = Some(Arc::new(notify));
        }
        queue.notify.as_ref().map(|notify| notify.fd())
    }

    fn in_flight(&self) -> usize {
        let state = self.shared.state();
        let queued = state.queues.queues.get(&self.id).map_or(0, |queue| queue.pending.len() + queue.done.len());
        queued + self.submitted.len()
    }
}

impl Drop for MemoryQueue {
    /// Like every home: what is in flight still happens.
    fn drop(&mut self) {
        let _ = self.kick();
        let pending = |state: &State, id| state.queues.queues.get(&id).is_some_and(|queue| !queue.pending.is_empty());
        while pending(&self.shared.state(), self.id) {
            step(&self.shared, Some(self.id));
        }
        let removed = self.shared.state().queues.queues.remove(&self.id);
        // Dropped outside the lock: its files and slots have owners of their own.
        drop(removed);
    }
}
