//! Threads that do queued operations with blocking calls: several files in parallel, each file in order.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::file::DirectIo;
use super::notify::Notify;
use super::perform::{Runs, perform};
use super::{DiskCompletion, DiskError, DiskOp};

/// What travels back: the lane it ran on, the file it was for, and the completion.
type Done = (usize, usize, DiskCompletion);

/// One thread and its work.
struct Lane {
    work: Sender<(usize, DiskOp)>,
    load: usize,
}

/// The threads of one queue.
pub(super) struct Crew {
    lanes: Vec<Lane>,
    threads: Vec<JoinHandle<()>>,
    done: Receiver<Done>,
    notify: Arc<Notify>,
    /// Files with work in flight: the lane they keep to, and how much.
    busy: HashMap<usize, (usize, usize)>,
}

impl Crew {
    /// Starts the threads; at most `depth` operations may be in flight.
    pub(super) fn new(threads: usize, depth: usize, direct_io: &Arc<DirectIo>) -> io::Result<Self> {
        Self::sharing(threads, depth, direct_io, Arc::new(Notify::new()?))
    }

    /// Like [`Crew::new`], raising a notification that others raise, too.
    pub(super) fn sharing(
        threads: usize,
        depth: usize,
        direct_io: &Arc<DirectIo>,
        notify: Arc<Notify>,
    ) -> io::Result<Self> {
        let (give_done, done) = bounded(depth);
        let mut crew = Self { lanes: Vec::new(), threads: Vec::new(), done, notify, busy: HashMap::new() };
        for number in 0..threads {
            let (work, ops) = bounded(depth);
            let (give_done, notify, direct_io) =
                (Sender::clone(&give_done), Arc::clone(&crew.notify), Arc::clone(direct_io));
            let run = move || serve(number, &ops, &give_done, &notify, &direct_io);
            crew.threads.push(std::thread::Builder::new().name(format!("disk-{number}")).spawn(run)?);
            crew.lanes.push(Lane { work, load: 0 });
        }
        Ok(crew)
    }

    /// Raised when completions wait.
    pub(super) fn notify(&self) -> &Notify {
        &self.notify
    }

    /// Whether nothing is done that was not collected.
    pub(super) fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    /// Hands over an operation; a dead thread answers with an error, at once.
    pub(super) fn give(&mut self, op: DiskOp) -> Option<DiskCompletion> {
        let key = Arc::as_ptr(&op.file).cast::<()>() as usize;
        let idlest = || (0..self.lanes.len()).min_by_key(|lane| self.lanes[*lane].load).unwrap_or(0);
        let lane = self.busy.get(&key).map_or_else(idlest, |(lane, _)| *lane);
        let refused = match self.lanes.get_mut(lane) {
            Some(Lane { work, load }) => {
                *load += 1;
                work.try_send((key, op)).err().map(|refused| refused.into_inner().1)
            }
            None => Some(op),
        };
        if let Some(op) = refused {
            let (operation, path) = op.names();
            let result = Err(DiskError::QueueGone { operation, path: path.to_owned() });
            return Some(op.completed(result));
        }
        self.busy.entry(key).or_insert((lane, 0)).1 += 1;
        None
    }

    /// Blocks until something is done or `timeout` has passed.
    pub(super) fn wait(&self, timeout: Duration) {
        let deadline = Instant::now().checked_add(timeout);
        while self.done.is_empty() {
            let left = deadline.map_or(timeout, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return;
            }
            self.notify.wait(left);
            if self.done.is_empty() {
                // Raised for something collected before: lower it, or the next wait would spin.
                self.notify.lower();
            }
        }
    }

    /// Takes what is done; the number is how many.
    pub(super) fn collect(&mut self, out: &mut Vec<DiskCompletion>) -> usize {
        self.notify.lower();
        let before = out.len();
        while let Ok((lane, key, completion)) = self.done.try_recv() {
            self.lanes[lane].load -= 1;
            if let Some((_, count)) = self.busy.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.busy.remove(&key);
                }
            }
            out.push(completion);
        }
        out.len() - before
    }
}

impl Drop for Crew {
    /// Waits until everything in flight has happened.
    fn drop(&mut self) {
        self.lanes.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The life of one thread.
fn serve(
    lane: usize,
    ops: &Receiver<(usize, DiskOp)>,
    done: &Sender<Done>,
    notify: &Notify,
    direct_io: &Arc<DirectIo>,
) {
    let mut scratch = Runs::default();
    for (key, op) in ops {
        // The file outlives its completion's delivery, so that its address stays the key of no other file.
        let file = Arc::clone(&op.file);
        let completion = perform(op, direct_io, &mut scratch);
        if done.send((lane, key, completion)).is_err() {
            return;
        }
        drop(file);
        notify.raise();
    }
}
