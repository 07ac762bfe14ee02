//! The home without io_uring: `pwritev2` and `fdatasync` on threads of their own, or inside [`WriteQueue::kick`].

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use super::crew::Crew;
use super::file::DirectIo;
use super::notify::Notify;
use super::perform::{Runs, perform};
use super::{DiskCompletion, DiskError, DiskOp, QueueOptions, WriteQueue};
use std::io;

/// Where the operations happen.
enum Place {
    Threads(Crew),
    Inline { notify: Notify, scratch: Runs },
}

/// The queue of the blocking home.
pub(super) struct BlockingQueue {
    place: Place,
    depth: usize,
    /// Handed out but not collected yet, `submitted` and `done` included.
    in_flight: usize,
    submitted: Vec<DiskOp>,
    /// Done on the caller's thread.
    done: Vec<DiskCompletion>,
    direct_io: Arc<DirectIo>,
}

impl BlockingQueue {
    pub(super) fn new(options: &QueueOptions, direct_io: &Arc<DirectIo>) -> io::Result<Self> {
        let depth = options.depth.clamp(1, super::MAX_DEPTH);
        let place = match options.threads {
            0 => Place::Inline { notify: Notify::new()?, scratch: Runs::default() },
            threads => Place::Threads(Crew::new(threads, depth, direct_io)?),
        };
        let (submitted, done) = (Vec::with_capacity(depth), Vec::with_capacity(depth));
        Ok(Self { place, depth, in_flight: 0, submitted, done, direct_io: Arc::clone(direct_io) })
    }

    fn notify(&self) -> &Notify {
        match &self.place {
            Place::Threads(crew) => crew.notify(),
            Place::Inline { notify, .. } => notify,
        }
    }
}

impl WriteQueue for BlockingQueue {
    fn submit(&mut self, op: DiskOp) -> Result<(), DiskOp> {
        if self.in_flight == self.depth {
            return Err(op);
        }
        self.in_flight += 1;
        self.submitted.push(op);
        Ok(())
    }

    fn kick(&mut self) -> Result<(), DiskError> {
        for op in self.submitted.drain(..) {
            match &mut self.place {
                Place::Threads(crew) => self.done.extend(crew.give(op)),
                Place::Inline { scratch, .. } => self.done.push(perform(op, &self.direct_io, scratch)),
            }
        }
        if !self.done.is_empty() {
            self.notify().raise();
        }
        Ok(())
    }

    fn completions(&mut self, out: &mut Vec<DiskCompletion>) {
        let before = out.len();
        match &mut self.place {
            Place::Threads(crew) => drop(crew.collect(out)),
            Place::Inline { notify, .. } => notify.lower(),
        }
        out.append(&mut self.done);
        self.in_flight -= out.len() - before;
    }

    fn wait(&mut self, timeout: Duration) {
        let kicked = self.kick();
        if let (Ok(()), true, Place::Threads(crew)) = (kicked, self.done.is_empty(), &self.place) {
            // Inline, everything is done already, or there is nothing to wait for.
            crew.wait(if self.in_flight > 0 { timeout } else { Duration::ZERO });
        }
    }

    fn notify_fd(&self) -> Option<RawFd> {
        Some(self.notify().fd())
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl Drop for BlockingQueue {
    /// What was submitted still happens; the crew waits for it.
    fn drop(&mut self) {
        let _ = self.kick();
    }
}
