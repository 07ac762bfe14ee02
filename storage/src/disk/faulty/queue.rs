//! The write queue of a faulty disk: refuses operations, and holds completions back until they are due.

use std::os::fd::RawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::notify::wait_readable;
use super::super::{DiskCompletion, DiskError, DiskOp, OpKind, Operation, WriteQueue};
use super::wakeup::Wakeup;
use super::{FaultSwitch, FaultyFile};

/// What a completion of the inner queue is turned back into.
#[derive(Debug, Clone, Copy)]
struct Submitted {
    token: u64,
    delay: Duration,
}

/// The queue of another disk, with its faults.
pub(super) struct FaultyQueue {
    inner: Box<dyn WriteQueue>,
    switch: Arc<FaultSwitch>,
    depth: usize,
    in_flight: usize,
    /// By the token that the inner queue knows an operation under.
    submitted: Vec<Option<Submitted>>,
    /// Refused, and not kicked yet.
    refused: Vec<(Duration, DiskCompletion)>,
    /// Completed, and handed out once due.
    held: Vec<(Instant, DiskCompletion)>,
    collected: Vec<DiskCompletion>,
    wakeup: Option<Wakeup>,
}

impl FaultyQueue {
    pub(super) fn new(inner: Box<dyn WriteQueue>, switch: Arc<FaultSwitch>, depth: usize) -> Result<Self, DiskError> {
        let failed = |error| DiskError::io(Operation::QueueSetup, Path::new(""), &error);
        let wakeup = inner.notify_fd().map(Wakeup::new).transpose().map_err(failed)?;
        Ok(Self {
            inner,
            switch,
            depth: depth.clamp(1, super::super::MAX_DEPTH),
            in_flight: 0,
            submitted: Vec::new(),
            refused: Vec::new(),
            held: Vec::new(),
            collected: Vec::new(),
            wakeup,
        })
    }

    /// The error of this operation, if it is to fail.
    fn refuse(&self, op: &DiskOp) -> Option<DiskError> {
        let (operation, path) = op.names();
        let refused = self.switch.refuse(operation, path);
        let syncs = match &op.kind {
            OpKind::Write { sync, .. } => *sync,
            OpKind::SetLen { .. } | OpKind::Create { .. } => true,
            OpKind::Zero { .. } | OpKind::Sync => false,
        };
        refused.or_else(|| if syncs { self.switch.refuse(Operation::Sync, path) } else { None })
    }

    fn remember(&mut self, submitted: Submitted) -> u64 {
        let free = self.submitted.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            self.submitted.push(None);
            self.submitted.len() - 1
        });
        if let Some(place) = self.submitted.get_mut(at) {
            *place = Some(submitted);
        }
        at as u64
    }

    fn recall(&mut self, inner_token: u64) -> Option<Submitted> {
        let at = usize::try_from(inner_token).ok()?;
        self.submitted.get_mut(at)?.take()
    }

    /// Takes over what the inner queue has completed; says whether something is due.
    fn gather(&mut self) -> bool {
        let mut collected = std::mem::take(&mut self.collected);
        self.inner.completions(&mut collected);
        let now = Instant::now();
        for mut completion in collected.drain(..) {
            let Some(Submitted { token, delay }) = self.recall(completion.token) else {
                continue;
            };
            completion.token = token;
            completion.file = completion.file.map(|file| FaultyFile::wrap(file, &self.switch));
            self.held.push((now + delay, completion));
        }
        self.collected = collected;
        self.held.iter().any(|(due, _)| *due <= now)
    }

    /// Sets the timer to what is due next.
    fn set_timer(&self) {
        let Some(wakeup) = &self.wakeup else { return };
        let next = self.held.iter().map(|(due, _)| *due).min();
        let after = next.map(|due| due.saturating_duration_since(Instant::now()));
        // Fails for a bad descriptor or number only, and these are its own.
        if let Err(error) = wakeup.set(after) {
            tracing::error!(%error, "the timer of a faulty disk cannot be set");
        }
    }
}

impl WriteQueue for FaultyQueue {
    fn submit(&mut self, mut op: DiskOp) -> Result<(), DiskOp> {
        if self.in_flight == self.depth {
            return Err(op);
        }
        let delay = self.switch.delay(op.names().1);
        let token = op.token;
        if let Some(error) = self.refuse(&op) {
            self.refused.push((delay, op.completed(Err(error))));
        } else {
            op.token = self.remember(Submitted { token, delay });
            if let Err(mut back) = self.inner.submit(op) {
                self.recall(back.token);
                back.token = token;
                return Err(back);
            }
        }
        self.in_flight += 1;
        Ok(())
    }

    fn kick(&mut self) -> Result<(), DiskError> {
        if !self.refused.is_empty() {
            let now = Instant::now();
            let refused = self.refused.drain(..);
            self.held.extend(refused.map(|(delay, completion)| (now + delay, completion)));
            self.set_timer();
        }
        self.inner.kick()
    }

    fn completions(&mut self, out: &mut Vec<DiskCompletion>) {
        self.gather();
        let now = Instant::now();
        let before = out.len();
        let (due, held) = std::mem::take(&mut self.held).into_iter().partition(|(due, _)| *due <= now);
        self.held = held;
        let due: Vec<(Instant, DiskCompletion)> = due;
        out.extend(due.into_iter().map(|(_, completion)| completion));
        self.in_flight -= out.len() - before;
        self.set_timer();
    }

    fn wait(&mut self, timeout: Duration) {
        let deadline = Instant::now().checked_add(timeout);
        // What cannot be kicked now is kicked again by whoever collects.
        let _ = self.kick();
        while !self.gather() && self.in_flight > 0 {
            self.set_timer();
            let left = deadline.map_or(timeout, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return;
            }
            match &self.wakeup {
                Some(wakeup) => wait_readable(wakeup.fd(), left),
                None => self.inner.wait(left.min(Duration::from_millis(1))),
            }
        }
    }

    fn notify_fd(&self) -> Option<RawFd> {
        self.wakeup.as_ref().map(Wakeup::fd)
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}
